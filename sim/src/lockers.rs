//! Clients that lock: each makes a session, takes a lock with it, holds it for a while, and lets it go or dies.
//!
//! What happens is written down step by step for the check LOCK ([`crate::check::locks`]): only what a client
//! was told for certain, and what it asked for that would end its claim. A request that was not answered is
//! asked again through the next node, as a careful client does. All of these requests are safe to repeat.

use std::time::Duration;

use bytes::Bytes;
use driftline::env::Env;
use driftline::http::client::Response;
use hyper::Method;
use serde_json::Value;

use crate::check::locks::{Step, What};
use crate::scenario::{LockEnd, LockPlan};
use crate::workload::Clients;

/// Rest after a request that did not do what it was to do.
const AGAIN: Duration = Duration::from_millis(150);

/// One client with one session.
pub struct Locker<'a> {
    /// All clients.
    pub clients: &'a Clients,
    /// Its host's world.
    pub env: &'a Env,
    /// Its number.
    pub client: u32,
    /// The node it asks next.
    pub node: u32,
    /// What it locks.
    pub key: &'a str,
}

impl Locker<'_> {
    /// Does what was planned, or gives up.
    pub async fn run(mut self, plan: &LockPlan) {
        let Some(session) = self.make(plan).await else { return };
        if self.acquire(&session, plan).await {
            self.hold(&session, plan).await;
        }
        let ends = match plan.end {
            // Dead clients do nothing.
            LockEnd::Vanish => return,
            LockEnd::Release => What::Releases,
            LockEnd::Destroy => What::Destroys,
        };
        let path = match ends {
            What::Releases => format!("/v1/kv/{}?release={session}", self.key),
            _ => format!("/v1/session/destroy/{session}"),
        };
        // From the moment it is asked for, whatever comes of it.
        let now = self.clients.now();
        self.note(&session, ends, (now, now));
        self.ask(Method::PUT, &path, "").await;
    }

    async fn make(&mut self, plan: &LockPlan) -> Option<String> {
        let LockPlan { ttl_ms, delay_ms, delete, .. } = plan;
        let behavior = if *delete { "delete" } else { "release" };
        let body = format!(
            r#"{{"TTL":"{ttl_ms}ms","LockDelay":"{delay_ms}ms","Behavior":"{behavior}","NodeChecks":[]}}"#
        );
        // Not repeated: one whose answer was lost expires by itself.
        let (answer, times) = self.ask(Method::PUT, "/v1/session/create", &body).await;
        let made: Value = serde_json::from_slice(&answer.filter(|answer| answer.status == 200)?.body).ok()?;
        let session = made["ID"].as_str()?.to_owned();
        let made = What::Made { ttl_ms: *ttl_ms, delay_ms: *delay_ms, node: self.node };
        self.note(&session, made, times);
        Some(session)
    }

    async fn acquire(&mut self, session: &str, plan: &LockPlan) -> bool {
        let give_up = self.clients.now() + plan.patience_ms * 1_000_000;
        let path = format!("/v1/kv/{}?acquire={session}", self.key);
        let mut renewed = self.clients.now();
        while self.clients.now() < give_up && !self.clients.stopped() {
            let (answer, times) = self.ask(Method::PUT, &path, session).await;
            match answer {
                Some(answer) if answer.status == 200 && answer.text().trim() == "true" => {
                    self.note(session, What::Acquired, times);
                    return true;
                }
                Some(answer) if answer.text().contains("invalid session") => {
                    self.note(session, What::Lost, times);
                    return false;
                }
                Some(answer) if answer.status == 200 => {}
                _ => self.next_node(),
            }
            if self.clients.now() >= renewed + plan.ttl_ms * 1_000_000 / 3 {
                renewed = self.clients.now();
                if !self.renew(session).await {
                    return false;
                }
            }
            self.env.sleep(AGAIN).await;
        }
        false
    }

    async fn hold(&mut self, session: &str, plan: &LockPlan) {
        let done = self.clients.now() + plan.hold_ms * 1_000_000;
        while self.clients.now() < done && !self.clients.stopped() {
            self.look(session, plan.delete).await;
            if !self.renew(session).await {
                return;
            }
            let left = done.saturating_sub(self.clients.now());
            self.env.sleep(Duration::from_nanos(left.min(plan.ttl_ms * 1_000_000 / 3))).await;
        }
    }

    /// Whether the session is still there, as far as known.
    async fn renew(&mut self, session: &str) -> bool {
        let (answer, times) = self.ask(Method::PUT, &format!("/v1/session/renew/{session}"), "").await;
        match answer {
            Some(answer) if answer.status == 200 => self.note(session, What::Renewed, times),
            Some(answer) if answer.status == 404 => {
                self.note(session, What::Lost, times);
                return false;
            }
            _ => self.next_node(),
        }
        true
    }

    /// Looks who holds the lock; whether the session `deletes` the key when it ends is told to the check.
    async fn look(&mut self, session: &str, deletes: bool) {
        let (answer, times) = self.ask(Method::GET, &format!("/v1/kv/{}", self.key), "").await;
        let holder = match answer {
            Some(answer) if answer.status == 404 => None,
            Some(answer) if answer.status == 200 => {
                let found: Option<Value> = serde_json::from_slice(&answer.body).ok();
                let Some(found) = found else { return };
                let holder = found[0]["Session"].as_str().map(str::to_owned);
                if let (Some(created), Some(taken)) =
                    (found[0]["CreateIndex"].as_u64(), found[0]["LockIndex"].as_u64())
                    && holder.as_deref() == Some(session)
                {
                    self.note(session, What::Fenced { created, taken, deletes }, times);
                }
                holder
            }
            _ => return self.next_node(),
        };
        self.note(session, What::Seen(holder), times);
    }

    fn next_node(&mut self) {
        self.node = self.clients.node_after(self.node);
    }

    /// Asks; gives the answer, if one came, and when the request was sent and answered.
    async fn ask(&self, method: Method, path: &str, body: &str) -> (Option<Response>, (u64, u64)) {
        let invoked = self.clients.now();
        let body = Bytes::from(body.to_owned());
        let answer = self.clients.call(self.env, self.node, method, path, body).await;
        (answer.ok(), (invoked, self.clients.now()))
    }

    fn note(&self, session: &str, what: What, (invoked_ns, returned_ns): (u64, u64)) {
        let (session, key) = (session.to_owned(), self.key.to_owned());
        self.clients.note_lock(self.client, Step { session, key, what, invoked_ns, returned_ns });
    }
}
