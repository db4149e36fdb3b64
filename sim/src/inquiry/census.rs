//! Whether the catalog has come to say of the members what gossip says, as [`crate::check::census`] judges it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::de::DeserializeOwned;

use super::{Inquirer, LOOK_EVERY};
use crate::check::census::{Instance, Shown, disagreement, misplaced};
use crate::scenario::nodes::node_name;

/// A leader compares the catalog with gossip at least so often.
const LEADER_LOOKS_EVERY: Duration = Duration::from_secs(60);

/// Every server answers for itself.
const HEALTH: &str = "/v1/health/state/any?stale";
/// So it does of the servers.
const SERVERS: &str = "/v1/catalog/service/consul?stale";

impl Inquirer<'_> {
    /// Waits until every server's catalog follows gossip; says what it still gets wrong when the time is over.
    pub async fn catalog_lags(&self) -> Option<String> {
        let deadline = self.clients.now() + (LEADER_LOOKS_EVERY + self.within).as_nanos() as u64;
        loop {
            let wrong = self.wrong_in_a_catalog().await;
            if wrong.is_none() || self.clients.now() > deadline {
                return wrong;
            }
            self.clients.sleep(LOOK_EVERY).await;
        }
    }

    async fn wrong_in_a_catalog(&self) -> Option<String> {
        let (clients, servers): (BTreeSet<u32>, BTreeSet<u32>) =
            self.nodes.iter().partition(|node| self.scenario.is_agent(**node));
        let names =
            |nodes: &BTreeSet<u32>| nodes.iter().map(|node| node_name(*node)).collect::<BTreeSet<_>>();
        let (live, clients, names) = (names(&self.nodes), names(&clients), names(&servers));
        for server in servers {
            let wrong = match self.shown::<Shown>(server, HEALTH).await {
                Err(error) => Some(error),
                Ok(shown) => disagreement(&shown, &live),
            };
            let wrong = match wrong {
                Some(wrong) => Some(wrong),
                None => match self.shown::<Instance>(server, SERVERS).await {
                    Err(error) => Some(error),
                    Ok(shown) => misplaced(&shown, &names, &clients),
                },
            };
            if let Some(wrong) = wrong {
                return Some(format!("in the catalog of n{server}: {wrong}"));
            }
        }
        None
    }

    /// A list, as a server shows it.
    async fn shown<T: DeserializeOwned>(&self, server: u32, path: &str) -> Result<Vec<T>, String> {
        let asked = self.clients.call(self.env, server, Method::GET, path, Bytes::new()).await;
        let told = asked.map_err(|error| error.to_string())?;
        if told.status != 200 {
            return Err(format!("{} {}", told.status, told.text()));
        }
        serde_json::from_slice(&told.body).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}
