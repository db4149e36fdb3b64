//! The case's clients over real HTTP: what `workload` is in simulation, with the same words in the history.

// This is outside the simulation: the real clock is allowed here.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use driftline::env::Env;
use driftline::env::real::puppet;
use driftline::history::{Entry, outcome, request};
use driftline::http::client::{self, CallError};
use hyper::Method;

use super::proxy::{Ground, HTTP_PORT};
use crate::history::{Action, Operation, Outcome, Response};
use crate::scenario::{PlannedAction, PlannedOp};

/// A key that nobody wrote has this modify index, for a compare-and-set.
const ABSENT: u64 = 0;

/// What all clients share.
pub struct Clients {
    ground: Arc<Ground>,
    begun: Instant,
    timeout: Duration,
    history: Mutex<Vec<Operation>>,
    next_id: AtomicU64,
    stopped: AtomicBool,
}

impl Clients {
    /// Clients that wait `timeout` for each answer, and count time from `begun`.
    pub fn new(ground: Arc<Ground>, begun: Instant, timeout: Duration) -> Arc<Clients> {
        Arc::new(Clients {
            ground,
            begun,
            timeout,
            history: Mutex::default(),
            next_id: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        })
    }

    /// The world of one client.
    pub fn env(&self, client: u32) -> Env {
        puppet::caller(self.ground.client(client), u64::from(client))
    }

    /// No client begins another request.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// What was asked and told so far.
    pub fn history(&self) -> Vec<Operation> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Sends a request to a node's API and waits for the answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        env: &Env,
        node: u32,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<client::Response, CallError> {
        let addr = SocketAddr::new(self.ground.known(node), HTTP_PORT);
        client::call(env, addr, method, path, body, self.timeout).await
    }

    /// Asks a node for something and writes down what came of it. `index` is the modify index that a
    /// compare-and-set expects.
    pub async fn ask(
        &self,
        env: &Env,
        client: u32,
        node: u32,
        key: &str,
        action: Action,
        index: u64,
    ) -> Outcome {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let Some((method, path, body)) = request(key, &action, index) else {
            return Outcome::Failed("the API has no such request".to_owned());
        };
        let invoked_ns = self.now_ns();
        let answer = self.call(env, node, method, &path, body).await;
        let outcome = outcome(&action, &answer);
        let returned_ns = (!matches!(outcome, Outcome::Unknown(_))).then(|| self.now_ns());
        let operation = Operation {
            id,
            client,
            node,
            key: key.to_owned(),
            action,
            invoked_ns,
            outcome: outcome.clone(),
            returned_ns,
        };
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
        outcome
    }

    /// Everything a node's store holds, by its own account: key, value, modify index.
    ///
    /// # Errors
    /// Why it cannot be had, in words.
    pub async fn store(&self, env: &Env, node: u32) -> Result<BTreeMap<String, (String, u64)>, String> {
        let answer = self.call(env, node, Method::GET, "/v1/kv/?recurse&stale", Bytes::new()).await;
        let response = answer.map_err(|error| error.to_string())?;
        match response.status {
            404 => Ok(BTreeMap::new()),
            200 => {
                let entries: Vec<Entry> =
                    serde_json::from_slice(&response.body).map_err(|error| error.to_string())?;
                let entries = entries.into_iter().filter_map(Entry::versioned);
                Ok(entries.map(|(key, at)| (key, (at.value, at.modify_index))).collect())
            }
            status => Err(format!("{status} {}", response.text())),
        }
    }

    /// Does what was planned for a client, with times counted from `storm`.
    pub async fn run(self: Arc<Clients>, client: u32, plan: Vec<PlannedOp>, storm: Instant) {
        let env = self.env(client);
        for PlannedOp { at_ms, node, key, action, .. } in plan {
            tokio::time::sleep_until((storm + Duration::from_millis(at_ms)).into()).await;
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            match action {
                PlannedAction::Get => drop(self.ask(&env, client, node, &key, Action::Get, ABSENT).await),
                PlannedAction::Put(value) => {
                    drop(self.ask(&env, client, node, &key, Action::Put { value }, ABSENT).await);
                }
                PlannedAction::Delete => {
                    drop(self.ask(&env, client, node, &key, Action::Delete, ABSENT).await);
                }
                PlannedAction::Cas(value) => {
                    // The read that a compare-and-set needs is a request like any other.
                    let seen = self.ask(&env, client, node, &key, Action::Get, ABSENT).await;
                    let Outcome::Ok(Response::Value(seen)) = seen else { continue };
                    let index = seen.as_ref().map_or(ABSENT, |seen| seen.modify_index);
                    let expected = seen.map(|seen| seen.value);
                    self.ask(&env, client, node, &key, Action::Cas { expected, value }, index).await;
                }
                // The report says that these were left out.
                PlannedAction::Own(_)
                | PlannedAction::Lock(_)
                | PlannedAction::Stale
                | PlannedAction::Watch(_)
                | PlannedAction::List
                | PlannedAction::DeleteTree
                | PlannedAction::Fire(_)
                | PlannedAction::Service(_)
                | PlannedAction::Right(_)
                | PlannedAction::Pair(_)
                | PlannedAction::Publish { .. }
                | PlannedAction::Follow { .. } => {}
            }
        }
    }
}
