//! Whether the catalog has come to say of the members what gossip says, as [`crate::check::census`] judges it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use driftline::env::Env;
use hyper::Method;
use serde::de::DeserializeOwned;

use super::{HEALED_WITHIN, LOOK_EVERY, World};
use crate::check::census::{Instance, Shown, disagreement, misplaced};
use crate::scenario::nodes::node_name;

/// A leader compares the catalog with gossip at least so often.
const LEADER_LOOKS_EVERY: Duration = Duration::from_secs(60);

/// Every server answers for itself.
const HEALTH: &str = "/v1/health/state/any?stale";
/// So it does of the servers.
const SERVERS: &str = "/v1/catalog/service/consul?stale";

impl World {
    /// Waits until every server's catalog follows gossip; says what it still gets wrong when the time is over.
    pub(super) async fn catalog_lags(self: &Arc<World>, env: &Env) -> Option<String> {
        let deadline = self.now() + (LEADER_LOOKS_EVERY + HEALED_WITHIN).as_nanos() as u64;
        loop {
            let wrong = self.wrong_in_a_catalog(env).await;
            if wrong.is_none() || self.now() > deadline {
                return wrong;
            }
            self.universe.sleep(LOOK_EVERY).await;
        }
    }

    async fn wrong_in_a_catalog(&self, env: &Env) -> Option<String> {
        let nodes: BTreeSet<u32> = self.machines().into_keys().collect();
        let (clients, servers): (BTreeSet<u32>, BTreeSet<u32>) =
            nodes.iter().partition(|node| self.scenario.is_agent(**node));
        let names =
            |nodes: &BTreeSet<u32>| nodes.iter().map(|node| node_name(*node)).collect::<BTreeSet<_>>();
        let (live, clients, names) = (names(&nodes), names(&clients), names(&servers));
        for server in servers {
            let wrong = match self.shown::<Shown>(env, server, HEALTH).await {
                Err(error) => Some(error),
                Ok(shown) => disagreement(&shown, &live),
            };
            let wrong = match wrong {
                Some(wrong) => Some(wrong),
                None => match self.shown::<Instance>(env, server, SERVERS).await {
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
    async fn shown<T: DeserializeOwned>(&self, env: &Env, server: u32, path: &str) -> Result<Vec<T>, String> {
        let asked = self.clients.call(env, server, Method::GET, path, Bytes::new()).await;
        let told = asked.map_err(|error| error.to_string())?;
        if told.status != 200 {
            return Err(format!("{} {}", told.status, told.text()));
        }
        serde_json::from_slice(&told.body).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}
