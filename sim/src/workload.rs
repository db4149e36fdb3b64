//! The clients: each on a host of its own, speaking the nodes' HTTP API over the simulated network.
//!
//! A client does what the scenario planned for it, one request after the other, and writes down what it
//! asked and what it was told, in true time. What it was told is taken at its word and no further: an
//! answer is an outcome, a refusal says that nothing happened, and anything else leaves the outcome
//! unknown. A client never retries: that would be another request.
//!
//! Left out: stale reads (they promise nothing that a history could refute) and watches.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use driftline::env::Env;
use driftline::http::client::{self, CallError};
use futures_util::future::BoxFuture;
use hyper::Method;
use serde::Deserialize;

use crate::clock::Pump;
use crate::experiment::{Caller, Experiment};
use crate::history::{Action, Operation, Outcome, Response, Versioned};
use crate::scenario::{PlannedAction, PlannedOp};

/// The number of the first client's host.
pub const FIRST_CLIENT: u32 = 1_000;

/// The port of every node's HTTP API.
pub const HTTP_PORT: u16 = 8500;

/// Where a client's host is.
pub fn client_ip(client: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, (client >> 8) as u8, client as u8))
}

/// What all clients share.
pub struct Clients {
    pump: Arc<Pump>,
    timeout: Duration,
    addresses: Mutex<BTreeMap<u32, IpAddr>>,
    history: Mutex<Vec<Operation>>,
    next_id: AtomicU64,
    stopped: AtomicBool,
    busy: AtomicU32,
}

/// One entry as the API shows it.
#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value")]
    value: Option<String>,
    #[serde(rename = "ModifyIndex")]
    modify_index: u64,
}

impl Entry {
    fn versioned(self) -> Option<(String, Versioned)> {
        let bytes = STANDARD.decode(self.value.unwrap_or_default()).ok()?;
        let value = String::from_utf8(bytes).ok()?;
        Some((self.key, Versioned { value, modify_index: self.modify_index }))
    }
}

impl Clients {
    /// Clients that wait `timeout` for each answer.
    pub fn new(pump: Arc<Pump>, timeout: Duration) -> Arc<Clients> {
        Arc::new(Clients {
            pump,
            timeout,
            addresses: Mutex::default(),
            history: Mutex::default(),
            next_id: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            busy: AtomicU32::new(0),
        })
    }

    /// The node answers at this address from now on.
    pub fn moved(&self, node: u32, ip: IpAddr) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).insert(node, ip);
    }

    /// No client begins another request.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// How many clients still have something to do.
    pub fn busy(&self) -> u32 {
        self.busy.load(Ordering::Relaxed)
    }

    /// What was asked and told so far.
    pub fn history(&self) -> Vec<Operation> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let ip = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied();
        let Some(ip) = ip else { return Err(CallError::NotSent("no such node".to_owned())) };
        client::call(env, SocketAddr::new(ip, HTTP_PORT), method, path, body, self.timeout).await
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
        let host = FIRST_CLIENT + client;
        let (method, path, body) = match &action {
            Action::Get => (Method::GET, format!("/v1/kv/{key}"), Bytes::new()),
            Action::Put { value } => (Method::PUT, format!("/v1/kv/{key}"), Bytes::from(value.clone())),
            Action::Cas { value, .. } => {
                (Method::PUT, format!("/v1/kv/{key}?cas={index}"), Bytes::from(value.clone()))
            }
            Action::Delete => (Method::DELETE, format!("/v1/kv/{key}"), Bytes::new()),
        };
        let invoked_ns = self.pump.now();
        self.pump.note(host, "invoke", format!("{id} at n{node}: {key} {action:?}"));
        let answer = self.call(env, node, method, &path, body).await;
        let outcome = match answer {
            Ok(response) => judge(&action, &response),
            Err(CallError::NotSent(reason)) => Outcome::Failed(reason),
            Err(CallError::Unknown(reason)) => Outcome::Unknown(reason),
        };
        self.pump.note(host, "return", format!("{id}: {outcome:?}"));
        let returned_ns = (!matches!(outcome, Outcome::Unknown(_))).then(|| self.pump.now());
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

    /// Does what was planned for a client. Times count from `storm_ns`; operations of an experiment's own go
    /// to it.
    pub async fn run(
        self: Arc<Clients>,
        env: Env,
        client: u32,
        plan: Vec<PlannedOp>,
        storm_ns: u64,
        experiment: Arc<dyn Experiment>,
    ) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let caller = AsClient { clients: self.clone(), env: env.clone(), client };
        for op in plan {
            let at_ns = storm_ns + op.at_ms * 1_000_000;
            // A client's own clock is right: its host is not part of what is tested.
            env.sleep(Duration::from_nanos(at_ns.saturating_sub(self.pump.now()))).await;
            if self.stopped.load(Ordering::Relaxed) {
                break;
            }
            let (node, key) = (op.node, op.key.as_str());
            match op.action {
                PlannedAction::Get => {
                    self.ask(&env, client, node, key, Action::Get, 0).await;
                }
                PlannedAction::Own(operation) => experiment.perform(&caller, node, &operation).await,
                PlannedAction::Put(value) => {
                    self.ask(&env, client, node, key, Action::Put { value }, 0).await;
                }
                PlannedAction::Delete => {
                    self.ask(&env, client, node, key, Action::Delete, 0).await;
                }
                PlannedAction::Cas(value) => {
                    // The read that a compare-and-set needs is a request like any other.
                    let seen = self.ask(&env, client, node, key, Action::Get, 0).await;
                    let Outcome::Ok(Response::Value(seen)) = seen else { continue };
                    let index = seen.as_ref().map_or(0, |seen| seen.modify_index);
                    let expected = seen.map(|seen| seen.value);
                    self.ask(&env, client, node, key, Action::Cas { expected, value }, index).await;
                }
            }
        }
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One client, as an experiment sees it.
pub struct AsClient {
    /// All clients.
    pub clients: Arc<Clients>,
    /// Its host's world.
    pub env: Env,
    /// Its number.
    pub client: u32,
}

impl Caller for AsClient {
    fn nodes(&self) -> Vec<u32> {
        self.clients.addresses.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn now_ns(&self) -> u64 {
        self.clients.pump.now()
    }

    fn call<'a>(
        &'a self,
        node: u32,
        method: Method,
        path: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<client::Response, CallError>> {
        Box::pin(self.clients.call(&self.env, node, method, path, body))
    }

    fn ask<'a>(&'a self, node: u32, key: &'a str, action: Action, index: u64) -> BoxFuture<'a, Outcome> {
        Box::pin(self.clients.ask(&self.env, self.client, node, key, action, index))
    }
}

/// What a complete answer says about a request.
fn judge(action: &Action, response: &client::Response) -> Outcome {
    let said = || format!("{} {}", response.status, response.text().trim());
    match (action, response.status) {
        (Action::Get, 404) => Outcome::Ok(Response::Value(None)),
        (Action::Get, 200) => {
            let entries: Result<Vec<Entry>, _> = serde_json::from_slice(&response.body);
            match entries.ok().and_then(|mut entries| entries.pop()).and_then(Entry::versioned) {
                Some((_, versioned)) => Outcome::Ok(Response::Value(Some(versioned))),
                None => Outcome::Unknown(format!("an answer that makes no sense: {}", said())),
            }
        }
        (_, 200) => match response.text().trim() {
            "true" => Outcome::Ok(Response::Done(true)),
            "false" => Outcome::Ok(Response::Done(false)),
            _ => Outcome::Unknown(format!("an answer that makes no sense: {}", said())),
        },
        (_, status) => match response.header("x-driftline-outcome") {
            Some("refused") => Outcome::Failed(said()),
            None if (400..500).contains(&status) => Outcome::Failed(said()),
            _ => Outcome::Unknown(said()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, outcome: Option<&str>, body: &str) -> client::Response {
        let headers = outcome.map(|outcome| ("x-driftline-outcome".to_owned(), outcome.to_owned()));
        let body = Bytes::from(body.to_owned());
        client::Response { status, headers: headers.into_iter().collect(), body }
    }

    #[test]
    fn an_answer_is_taken_at_its_word_and_no_further() {
        let put = Action::Put { value: "v".to_owned() };
        assert_eq!(judge(&put, &response(200, None, "true\n")), Outcome::Ok(Response::Done(true)));
        assert!(matches!(judge(&put, &response(500, Some("refused"), "no")), Outcome::Failed(_)));
        assert!(matches!(judge(&put, &response(500, Some("unknown"), "?")), Outcome::Unknown(_)));
        assert!(matches!(judge(&put, &response(500, None, "?")), Outcome::Unknown(_)));
        assert!(matches!(judge(&put, &response(413, None, "large")), Outcome::Failed(_)));
        assert!(matches!(judge(&put, &response(200, None, "perhaps")), Outcome::Unknown(_)));
    }

    #[test]
    fn a_read_knows_values_absence_and_nonsense() {
        let body = r#"[{"LockIndex":0,"Key":"k","Flags":0,"Value":"djE=","CreateIndex":3,"ModifyIndex":7}]"#;
        let seen = Versioned { value: "v1".to_owned(), modify_index: 7 };
        assert_eq!(judge(&Action::Get, &response(200, None, body)), Outcome::Ok(Response::Value(Some(seen))));
        assert_eq!(judge(&Action::Get, &response(404, None, "")), Outcome::Ok(Response::Value(None)));
        assert!(matches!(judge(&Action::Get, &response(200, None, "[]")), Outcome::Unknown(_)));
    }
}
