//! Whether the catalog has come to say of each node's services what the node says, as [`crate::check::anti_entropy`]
//! judges it, and what the nodes say in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Inquirer;
use crate::check::anti_entropy::{Account, Service, Stands, differs};
use crate::scenario::nodes::node_name;

/// An agent compares what it has with the catalog at least so often.
const COMPARES_EVERY: Duration = Duration::from_secs(64);

/// And tries again after so long, if that failed.
const AGAIN_WITHIN: Duration = Duration::from_secs(30);

/// How much later than a check's time to live is over its agent may notice.
const EXPIRES_WITHIN: Duration = Duration::from_secs(5);

/// How often the world looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A node as the catalog shows it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Whole {
    services: BTreeMap<String, Service>,
}

impl Inquirer<'_> {
    /// Waits until the catalog follows every agent, and then until every agent has compared once more; says what is still
    /// wrong when the time is over.
    pub async fn services_lag(&self) -> Option<String> {
        if let Some(wrong) = self.services_wrong().await {
            return Some(wrong);
        }
        self.clients.sleep(COMPARES_EVERY).await;
        self.services_wrong().await.map(|wrong| format!("after it was right once: {wrong}"))
    }

    async fn services_wrong(&self) -> Option<String> {
        let deadline = self.clients.now() + (COMPARES_EVERY + AGAIN_WITHIN + self.within).as_nanos() as u64;
        loop {
            let mut wrong = None;
            for node in self.nodes.iter().copied() {
                wrong = wrong.or(self.compare_services(node).await.err());
            }
            if wrong.is_none() || self.clients.now() > deadline {
                return wrong;
            }
            self.clients.sleep(LOOK_EVERY).await;
        }
    }

    /// Compares one node's account of itself with the catalog's.
    async fn compare_services(&self, node: u32) -> Result<(), String> {
        let name = node_name(node);
        let agent = self.own_account(node).await?;
        let whole: Option<Whole> = self.told(node, &format!("/v1/catalog/node/{name}")).await?;
        let checks = self.told(node, &format!("/v1/health/node/{name}")).await?;
        let catalog = Account { services: whole.map(|whole| whole.services).unwrap_or_default(), checks };
        differs(&agent, &catalog).map_or(Ok(()), |wrong| Err(format!("on {name}, {wrong}")))
    }

    /// Which check still does well although nobody has told it so since `began_ns`, and its time to live is over. `services`
    /// are those that were registered, with the longest that their checks have.
    pub async fn outlived(&self, services: &BTreeMap<String, u64>, began_ns: u64) -> Option<String> {
        if services.is_empty() {
            return None;
        }
        for node in self.nodes.iter().copied() {
            let quiet = Duration::from_nanos(self.clients.now().saturating_sub(began_ns));
            // Who does not answer is not asked for this.
            let Ok(own) = self.own_account(node).await else { continue };
            let outlived = own.checks.into_iter().find(|check| {
                let ttl = services.get(&check.service_id).map(|ttl_ms| Duration::from_millis(*ttl_ms));
                check.status != "critical" && ttl.is_some_and(|ttl| ttl + EXPIRES_WITHIN < quiet)
            });
            if let Some(Stands { check_id, status, .. }) = outlived {
                let quiet = quiet.as_secs();
                return Some(format!(
                    "n{node} says that check {check_id:?} is {status}, and was told nothing for {quiet} s"
                ));
            }
        }
        None
    }

    async fn own_account(&self, node: u32) -> Result<Account, String> {
        let services = self.told(node, "/v1/agent/services").await?;
        let checks: BTreeMap<String, Stands> = self.told(node, "/v1/agent/checks").await?;
        Ok(Account { services, checks: checks.into_values().collect() })
    }

    /// What a node answers to a question, as JSON.
    ///
    /// # Errors
    /// What was wrong, in words.
    pub async fn told<T: DeserializeOwned>(&self, node: u32, path: &str) -> Result<T, String> {
        let answer = self.clients.call(self.env, node, Method::GET, path, Bytes::new()).await;
        let answer = answer.map_err(|error| format!("n{node} does not answer {path}: {error}"))?;
        if answer.status != 200 {
            return Err(format!("n{node} answers {path} with {} {}", answer.status, answer.text()));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| format!("{path} of n{node} cannot be read: {error}"))
    }

    /// What those of the nodes have that `kept` all that they were given.
    pub async fn registered(&self, kept: impl Fn(u32) -> bool) -> BTreeMap<u32, BTreeMap<String, u16>> {
        let mut registered = BTreeMap::new();
        for node in &self.nodes {
            let kept = kept(*node);
            if let Ok(own) = self.own_account(*node).await
                && kept
            {
                let ports = own.services.into_iter().map(|(id, service)| (id, service.port));
                registered.insert(*node, ports.collect());
            }
        }
        registered
    }
}
