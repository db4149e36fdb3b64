//! Whether a lock that nobody holds on to can be had, as [`crate::check::locks`] wants it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use super::{Inquirer, LOOK_EVERY};

/// A leader looks at all that it counts at least so often.
const LOOKS_THROUGH_EVERY: Duration = Duration::from_secs(10);

/// A session that lives until it is ended, and leaves no delay behind.
const SESSION: &str = r#"{"LockDelay":"0s","NodeChecks":[]}"#;

impl Inquirer<'_> {
    /// Takes each of these locks, as soon as all that may hold it has had the time to end; says which it cannot get.
    pub async fn locks_lag(&self, locks: &BTreeMap<String, u64>) -> Option<String> {
        let longest = Duration::from_millis(locks.values().max().copied()?);
        let patience = LOOKS_THROUGH_EVERY + longest + self.within;
        let deadline = self.clients.now() + patience.as_nanos() as u64;
        let node = self.nodes.first().copied()?;
        let mut session: Option<String> = None;
        let mut left: Vec<&str> = locks.keys().map(String::as_str).collect();
        loop {
            if session.is_none() {
                let made: Option<Value> = self.put(node, "/v1/session/create", SESSION).await;
                session = made.and_then(|made| made["ID"].as_str().map(str::to_owned));
            }
            if let Some(id) = session.clone() {
                let mut held = Vec::new();
                for key in left {
                    // Asked again, whoever has it already has it still.
                    if self.put(node, &format!("/v1/kv/{key}?acquire={id}"), &id).await
                        != Some(Value::Bool(true))
                    {
                        held.push(key);
                    }
                }
                left = held;
                if left.is_empty() {
                    self.put(node, &format!("/v1/session/destroy/{id}"), "").await;
                    return None;
                }
                // A departure that is acted on late ends the sessions of a node that is back.
                let known = self.told::<Vec<Value>>(node, &format!("/v1/session/info/{id}")).await;
                session = session.filter(|_| !known.is_ok_and(|known| known.is_empty()));
            }
            if self.clients.now() > deadline {
                let waited = patience.as_secs();
                return Some(format!(
                    "{waited} s after the last client is gone nobody can have the locks {left:?}"
                ));
            }
            self.clients.sleep(LOOK_EVERY).await;
        }
    }

    async fn put(&self, node: u32, path: &str, body: &str) -> Option<Value> {
        let body = Bytes::from(body.to_owned());
        let answer = self.clients.call(self.env, node, Method::PUT, path, body).await.ok()?;
        if answer.status != 200 {
            return None;
        }
        serde_json::from_slice(&answer.body).ok()
    }
}
