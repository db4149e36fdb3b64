//! Whether a change of the catalog wakes whoever waits for it at any node, as [`crate::check::catalog_watch`] judges it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use hyper::Method;
use serde_json::json;

use super::{Inquirer, LOOK_EVERY};
use crate::check::catalog_watch::unlike;

/// What is waited for: a service outside of the cluster, and whether it is healthy.
const PATH: &str = "/v1/health/service/outside";

/// What an answer shows that knows of the service.
const SHOWN: &str = "\"elsewhere\"";

/// How long it is waited for: longer than it may take.
const WAIT: Duration = Duration::from_secs(120);

/// How long after the change everybody knows of it: a connection that has died without a word counts as dead after two times
/// ten seconds of silence (`driftline::raft::rpc`), and then another server is asked.
const WOKEN_WITHIN: Duration = Duration::from_secs(26);

/// How long everybody has to begin to wait.
const BEGINS_WITHIN: Duration = Duration::from_secs(2);

impl Inquirer<'_> {
    /// Enters a service in the catalog and takes it out again, and each time sees that it wakes a reader at every node;
    /// says what went wrong.
    pub async fn waiters_sleep(&self) -> Option<String> {
        for (what, is_there) in [("register", true), ("deregister", false)] {
            let woken = self.all_are_woken(&self.nodes, async {}, what, is_there).await;
            if let Some(problem) = woken {
                return Some(format!("{PATH}, {what}: {problem}"));
            }
        }
        None
    }

    /// The same of all other nodes, while the host of one vanishes and comes back: an agent that has asked it to wait gets no
    /// answer, and no word that there will be none.
    pub async fn waiters_are_left_alone(
        &self,
        vanishing: u32,
        vanishes: impl Future<Output = ()>,
    ) -> Option<String> {
        let others = self.nodes.iter().copied().filter(|node| *node != vanishing).collect();
        let woken = self.all_are_woken(&others, vanishes, "register", true).await;
        if let Some(problem) = woken {
            return Some(format!("{PATH}, register, while n{vanishing} vanished: {problem}"));
        }
        // What is asked afterwards finds it as it was before.
        let serves = self.writes_everywhere("vanished").await;
        (!serves).then(|| format!("n{vanishing} does not serve again after it had vanished"))
    }

    async fn all_are_woken(
        &self,
        nodes: &BTreeSet<u32>,
        meanwhile: impl Future<Output = ()>,
        what: &str,
        is_there: bool,
    ) -> Option<String> {
        let mut body = json!({ "Node": "elsewhere" });
        if is_there {
            body["Address"] = json!("192.0.2.1");
            body["Service"] = json!({ "Service": "outside" });
        }
        let first = nodes.first().copied()?;
        // All know what was before the change: who asks over a connection that died in the storm waits for the answer.
        let mut waiters = Vec::new();
        for node in nodes {
            let Some((since, _)) = self.asked(*node, None).await else {
                return Some(format!("n{node} does not answer"));
            };
            waiters.push(self.wait_at(*node, since, is_there));
        }
        let (asked, changed) = join(join_all(waiters), async {
            self.clients.sleep(BEGINS_WITHIN).await;
            meanwhile.await;
            let path = format!("/v1/catalog/{what}");
            let deadline = self.clients.now() + self.within.as_nanos() as u64;
            loop {
                let body = Bytes::from(body.to_string());
                let answer = self.clients.call(self.env, first, Method::PUT, &path, body).await;
                let now = self.clients.now();
                if answer.is_ok_and(|answer| answer.status == 200) {
                    return Some(now);
                }
                if now > deadline {
                    return None;
                }
            }
        })
        .await;
        let Some(changed_ns) = changed else {
            return Some(format!("n{first} does not do it"));
        };
        asked.into_iter().find_map(|waited| match waited {
            Err(problem) => Some(problem),
            Ok((node, woken_ns)) => {
                let took = Duration::from_nanos(woken_ns.saturating_sub(changed_ns));
                (took > WOKEN_WITHIN).then(|| {
                    format!("n{node} answered {:.1} s after the change was done", took.as_secs_f64())
                })
            }
        })
    }

    /// Asks a node until it answers, or its time is over.
    async fn asked(&self, node: u32, waited: Option<(u64, u64)>) -> Option<(u64, String)> {
        let deadline = self.clients.now() + self.within.as_nanos() as u64;
        loop {
            let answer = self.clients.follow_once(self.env, node, PATH, waited).await;
            if answer.is_some() || self.clients.now() > deadline {
                return answer;
            }
            self.clients.sleep(LOOK_EVERY).await;
        }
    }

    /// Waits at a node for the change after this index: which one it was, and when it answered.
    ///
    /// # Errors
    /// What was wrong with the answer.
    async fn wait_at(&self, node: u32, since: u64, is_there: bool) -> Result<(u32, u64), String> {
        let wait_ms = WAIT.as_millis() as u64;
        let Some((index, said)) = self.asked(node, Some((since, wait_ms))).await else {
            return Err(format!("n{node} does not answer who waits"));
        };
        match unlike(since, index, &said, SHOWN, is_there) {
            Some(problem) => Err(format!("n{node}: {problem}")),
            None => Ok((node, self.clients.now())),
        }
    }
}
