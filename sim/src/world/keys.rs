//! The operator who changes the key of gossip while the storm goes on, as `scenario/keys.rs` tells.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use driftline::env::Env;
use driftline::gossip::keyring;
use hyper::Method;
use serde_json::{Value, json};

use super::{HEALED_WITHIN, LOOK_EVERY, World};
use crate::scenario::keys::Step;
use crate::trace::WORLD;

const PATH: &str = "/v1/operator/keyring";

/// How long the operator waits before it looks again.
const AGAIN: Duration = Duration::from_millis(500);

impl World {
    /// The step whose keys a node is configured with when it is started. Who has a disk of its own, on which nothing
    /// happened to the file of the keys, remembers what became of the keys that it was founded with.
    pub(super) fn keys_for(&self, node: u32) -> Step {
        let damaged = self.machine(node).is_some_and(|machine| machine.disk.was_hit(keyring::FILE_NAME));
        let state = self.state();
        let founder = node < self.scenario.nodes || self.scenario.is_agent(node);
        if founder && !damaged && !state.lost.contains(&node) { Step::Founded } else { state.keys }
    }

    /// Changes all nodes over to the new key, if the plan says so, from `storm_ns` on.
    pub(super) async fn change_keys(self: Arc<World>, storm_ns: u64) {
        let keys = &self.scenario.settings.gossip_keys;
        let (Some(at_ms), Some(env)) = (keys.changed_at_ms.filter(|_| keys.encrypted()), self.own.get())
        else {
            return;
        };
        self.universe.sleep_until(storm_ns + at_ms * 1_000_000).await;
        for (step, method) in
            [(Step::Install, Method::POST), (Step::Use, Method::PUT), (Step::Remove, Method::DELETE)]
        {
            self.begin_step(step);
            let mut turn = 0;
            while !self.is_done_everywhere(env, step).await {
                let nodes: Vec<u32> = self.machines().into_keys().collect();
                let node = nodes[turn % nodes.len()];
                turn += 1;
                let meant = if step == Step::Remove { keys.old_keys() } else { vec![keys.new_key()] };
                for key in meant {
                    let body = Bytes::from(json!({ "Key": key }).to_string());
                    // Whether it was done is seen by looking.
                    let _ = self.clients.call(env, node, method.clone(), PATH, body).await;
                }
                self.universe.sleep(AGAIN).await;
            }
        }
        self.begin_step(Step::Done);
    }

    fn begin_step(&self, step: Step) {
        self.universe.pump.note(WORLD, "keys", format!("{step:?}"));
        self.state().keys = step;
    }

    /// Looks at every node's own keys.
    async fn is_done_everywhere(&self, env: &Env, step: Step) -> bool {
        for (node, machine) in self.machines() {
            // Another may answer at the address of one that is down.
            if !machine.is_running() {
                return false;
            }
            let path = format!("{PATH}?local-only");
            let asked = self.clients.call(env, node, Method::GET, &path, Bytes::new()).await;
            let told = asked.ok().and_then(|told| serde_json::from_slice::<Value>(&told.body).ok());
            if !told.is_some_and(|told| self.has_done(&told[0], step)) {
                return false;
            }
        }
        true
    }

    fn has_done(&self, ring: &Value, step: Step) -> bool {
        let keys = &self.scenario.settings.gossip_keys;
        let (new, old) = (keys.new_key(), keys.old_keys());
        match step {
            Step::Install => ring["Keys"].get(&new).is_some(),
            Step::Use => ring["PrimaryKeys"].get(&new).is_some(),
            Step::Remove => ring["Keys"].is_object() && old.iter().all(|key| ring["Keys"].get(key).is_none()),
            Step::Founded | Step::Done => true,
        }
    }

    /// Waits, after the heal, until the operator is done.
    pub(super) async fn keys_are_changed(&self) -> bool {
        let keys = &self.scenario.settings.gossip_keys;
        if !keys.encrypted() || keys.changed_at_ms.is_none() {
            return true;
        }
        let deadline = self.now() + HEALED_WITHIN.as_nanos() as u64;
        while self.state().keys != Step::Done {
            if self.now() > deadline {
                return false;
            }
            self.universe.sleep(LOOK_EVERY).await;
        }
        true
    }
}
