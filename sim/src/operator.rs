//! The operator who changes the key of gossip while the storm goes on, as `scenario/keys.rs` tells.

use std::time::Duration;

use bytes::Bytes;
use driftline::env::Env;
use driftline::gossip::keyring;
use hyper::Method;
use serde_json::{Value, json};

use crate::scenario::keys::{GossipKeys, Step};
use crate::workload::Clients;

const PATH: &str = "/v1/operator/keyring";

/// Where a node keeps its keys.
pub const FILE: &str = keyring::FILE_NAME;

/// How long the operator waits before it looks again.
const AGAIN: Duration = Duration::from_millis(500);

/// How often somebody looks who waits for the operator to be done.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What an operator knows of a cluster, simulated or real.
pub trait Site: Send + Sync {
    /// The nodes, and whether each is running.
    fn nodes(&self) -> Vec<(u32, bool)>;

    /// How far the operator is.
    fn step(&self) -> Step;

    /// The operator begins with this step.
    fn begin(&self, step: Step);
}

/// The operator, at a host of its own.
#[derive(Clone, Copy)]
pub struct Operator<'a> {
    /// The cluster.
    pub site: &'a dyn Site,
    /// Those through whom it asks.
    pub clients: &'a Clients,
    /// The world of its host.
    pub env: &'a Env,
    /// The keys.
    pub keys: &'a GossipKeys,
}

impl Operator<'_> {
    /// When the operator begins, in milliseconds of the storm; `None` if nothing is to be changed.
    pub fn begins_at(keys: &GossipKeys) -> Option<u64> {
        keys.changed_at_ms.filter(|_| keys.encrypted())
    }

    /// Changes all nodes over to the new key.
    pub async fn change_keys(self) {
        for (step, method) in
            [(Step::Install, Method::POST), (Step::Use, Method::PUT), (Step::Remove, Method::DELETE)]
        {
            self.site.begin(step);
            let mut turn = 0;
            while !self.is_done_everywhere(step).await {
                let nodes = self.site.nodes();
                let (node, _) = nodes[turn % nodes.len()];
                turn += 1;
                let meant =
                    if step == Step::Remove { self.keys.old_keys() } else { vec![self.keys.new_key()] };
                for key in meant {
                    let body = Bytes::from(json!({ "Key": key }).to_string());
                    // Whether it was done is seen by looking.
                    let _ = self.clients.call(self.env, node, method.clone(), PATH, body).await;
                }
                self.clients.sleep(AGAIN).await;
            }
        }
        self.site.begin(Step::Done);
    }

    /// Looks at every node's own keys.
    async fn is_done_everywhere(self, step: Step) -> bool {
        for (node, running) in self.site.nodes() {
            // Another may answer at the address of one that is down.
            if !running {
                return false;
            }
            let path = format!("{PATH}?local-only");
            let asked = self.clients.call(self.env, node, Method::GET, &path, Bytes::new()).await;
            let told = asked.ok().and_then(|told| serde_json::from_slice::<Value>(&told.body).ok());
            if !told.is_some_and(|told| self.has_done(&told[0], step)) {
                return false;
            }
        }
        true
    }

    fn has_done(self, ring: &Value, step: Step) -> bool {
        let (new, old) = (self.keys.new_key(), self.keys.old_keys());
        match step {
            Step::Install => ring["Keys"].get(&new).is_some(),
            Step::Use => ring["PrimaryKeys"].get(&new).is_some(),
            Step::Remove => ring["Keys"].is_object() && old.iter().all(|key| ring["Keys"].get(key).is_none()),
            Step::Founded | Step::Done => true,
        }
    }

    /// Waits, after the heal, until the operator is done. Whether that was within this time.
    pub async fn is_done(self, within: Duration) -> bool {
        if Operator::begins_at(self.keys).is_none() {
            return true;
        }
        let deadline = self.clients.now() + within.as_nanos() as u64;
        while self.site.step() != Step::Done {
            if self.clients.now() > deadline {
                return false;
            }
            self.clients.sleep(LOOK_EVERY).await;
        }
        true
    }
}
