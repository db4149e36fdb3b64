//! Whether the catalog has come to say of the members what gossip says, as [`crate::check::census`] judges it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use driftline::env::Env;
use hyper::Method;

use super::{HEALED_WITHIN, LOOK_EVERY, World};
use crate::check::census::{Shown, disagreement};
use crate::scenario::nodes::node_name;

/// A leader compares the catalog with gossip at least so often.
const LEADER_LOOKS_EVERY: Duration = Duration::from_secs(60);

/// Every server answers for itself.
const PATH: &str = "/v1/health/state/any?stale";

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
        let live = nodes.iter().map(|node| node_name(*node)).collect();
        for server in nodes.into_iter().filter(|node| !self.scenario.is_agent(*node)) {
            let asked = self.clients.call(env, server, Method::GET, PATH, Bytes::new()).await;
            let told = match asked {
                Err(error) => Some(error.to_string()),
                Ok(told) if told.status != 200 => Some(format!("{} {}", told.status, told.text())),
                Ok(told) => match serde_json::from_slice::<Vec<Shown>>(&told.body) {
                    Err(error) => Some(format!("its answer cannot be read: {error}")),
                    Ok(shown) => disagreement(&shown, &live),
                },
            };
            if let Some(wrong) = told {
                return Some(format!("in the catalog of n{server}: {wrong}"));
            }
        }
        None
    }
}
