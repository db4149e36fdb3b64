//! The clients: each on a host of its own, speaking the nodes' HTTP API. They do the same in simulation and on real
//! processes; which of them it is, only their [`Env`] and their [`TrueTime`] know.
//!
//! A client does what the scenario planned for it, one request after the other, and writes down what it
//! asked and what it was told, in true time. What it was told is taken at its word and no further: an
//! answer is an outcome, a refusal says that nothing happened, and anything else leaves the outcome
//! unknown. A client never retries: that would be another request.
//!
//! Clients that lock are told of in [`crate::lockers`], those that register services at agents in [`crate::registrars`],
//! those that fire events and follow the catalog in [`crate::followers`], those whose rights change in [`crate::holders`], those that change two keys at once in [`crate::pairs`].
//!
//! What concerns many keys at once goes into the history key by key: a listing as a read of each key, a removal of
//! a tree as a removal of each. Reads that promise less or other than to be current are written down apart, as
//! [`Look`]s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use driftline::env::Env;
use driftline::history::{Entry, outcome, request};
use driftline::http::client::{self, CallError};
use driftline::secret::Secret;
use futures_util::future::BoxFuture;
use hyper::Method;
use xxhash_rust::xxh3::xxh3_64;

use crate::check::anti_entropy::Deed;
use crate::check::catalog_watch::Seen;
use crate::check::event_list::Fired;
use crate::check::locks::Step;
use crate::check::looks::{Look, LookKind};
use crate::check::rights::Attempt;
use crate::check::transactions::{Pairs, Torn};
use crate::experiment::{Caller, Experiment};
use crate::history::{Action, Operation, Outcome, Response, Versioned};
use crate::lockers::Locker;
use crate::registrars;
use crate::scenario::{PlannedAction, PlannedOp, news};

/// The number of the first client's host.
pub const FIRST_CLIENT: u32 = 1_000;

/// The port of every node's HTTP API.
pub const HTTP_PORT: u16 = 8500;

/// What values are made longer with.
const PADDING: char = '.';

/// The number that clients keep beside a value.
fn flags_of(value: &str) -> u64 {
    xxh3_64(value.as_bytes())
}

/// Where a client's host is.
pub fn client_ip(client: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, (client >> 8) as u8, client as u8))
}

/// The time that nobody's clock bends, by which it is written down what happens.
pub trait TrueTime: Send + Sync {
    /// Nanoseconds since the run began.
    fn now(&self) -> u64;

    /// Waits for so long.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Tells whoever keeps a trace what a host does.
    fn note(&self, host: u32, verb: &'static str, text: String);
}

/// What all clients share.
pub struct Clients {
    time: Arc<dyn TrueTime>,
    timeout: Duration,
    /// Every value is made so long, with dots behind it, and read without them: the history knows nothing of it.
    padding: usize,
    addresses: Mutex<BTreeMap<u32, IpAddr>>,
    history: Mutex<Vec<Operation>>,
    looks: Mutex<Vec<Look>>,
    /// All keys that the clients' plans name.
    keys: Mutex<BTreeSet<String>>,
    locks: Mutex<Vec<Step>>,
    deeds: Mutex<Vec<Deed>>,
    fired: Mutex<Vec<Fired>>,
    seen: Mutex<Vec<Seen>>,
    attempts: Mutex<Vec<Attempt>>,
    pairs: Mutex<Pairs>,
    next_id: AtomicU64,
    stopped: AtomicBool,
    busy: AtomicU32,
}

impl Clients {
    /// Clients that wait `timeout` for each answer, and write values of at least `padding` bytes.
    pub fn new(time: Arc<dyn TrueTime>, timeout: Duration, padding: usize) -> Arc<Clients> {
        Arc::new(Clients {
            time,
            timeout,
            padding,
            addresses: Mutex::default(),
            history: Mutex::default(),
            looks: Mutex::default(),
            keys: Mutex::default(),
            locks: Mutex::default(),
            deeds: Mutex::default(),
            fired: Mutex::default(),
            seen: Mutex::default(),
            attempts: Mutex::default(),
            pairs: Mutex::default(),
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

    /// Whether no client begins another request.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// True time.
    pub fn now(&self) -> u64 {
        self.time.now()
    }

    /// Waits in true time.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.time.sleep(duration)
    }

    /// The node after this one, and after the last the first.
    pub fn node_after(&self, node: u32) -> u32 {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let next = addresses.range(node.saturating_add(1)..).next().or(addresses.first_key_value());
        next.map_or(node, |(next, _)| *next)
    }

    /// Writes down what a client that locks knows.
    pub fn note_lock(&self, client: u32, step: Step) {
        self.time.note(
            FIRST_CLIENT + client,
            "lock",
            format!("{} {}: {:?}", step.key, step.session, step.what),
        );
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// Gives up what clients that lock know.
    pub fn take_locks(&self) -> Vec<Step> {
        std::mem::take(&mut *self.locks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the trace what a client does.
    pub fn note(&self, client: u32, what: &'static str, detail: String) {
        self.time.note(FIRST_CLIENT + client, what, detail);
    }

    /// Writes down what was asked of an agent about its services.
    pub fn note_deed(&self, deed: Deed) {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner).push(deed);
    }

    /// Gives up what was asked of agents about their services.
    pub fn take_deeds(&self) -> Vec<Deed> {
        std::mem::take(&mut *self.deeds.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes down an event that was fired.
    pub fn note_fired(&self, fired: Fired) {
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).push(fired);
    }

    /// Gives up the events that were fired.
    pub fn take_fired(&self) -> Vec<Fired> {
        std::mem::take(&mut *self.fired.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes down what somebody saw who follows a query.
    pub fn note_seen(&self, seen: Seen) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    /// Gives up what was seen by those who follow queries.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes down what came of an attempt to do something that needs a right, or to change one.
    pub fn note_attempt(&self, attempt: Attempt) {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
    }

    /// Gives up what was tried that needs a right.
    pub fn take_attempts(&self) -> Vec<Attempt> {
        std::mem::take(&mut *self.attempts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes down what was done with a pair of keys, or seen of it.
    pub fn note_pair(
        &self,
        (client, node): (u32, u32),
        pair: &str,
        action: Action,
        invoked_ns: u64,
        outcome: Outcome,
    ) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let returned_ns = (!matches!(outcome, Outcome::Unknown(_))).then(|| self.time.now());
        let key = pair.to_owned();
        let operation = Operation { id, client, node, key, action, invoked_ns, outcome, returned_ns };
        self.pairs().history.push(operation);
    }

    /// Writes down that a pair was seen in two halves.
    pub fn note_torn(&self, torn: Torn) {
        self.pairs().torn.push(torn);
    }

    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what was done with pairs of keys.
    pub fn take_pairs(&self) -> Pairs {
        std::mem::take(&mut *self.pairs())
    }

    /// How many clients still have something to do.
    pub fn busy(&self) -> u32 {
        self.busy.load(Ordering::Relaxed)
    }

    /// The keys that were asked for so far.
    pub fn asked_for(&self) -> BTreeSet<String> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = BTreeSet::new();
        for operation in &*history {
            if !keys.contains(&operation.key) {
                keys.insert(operation.key.clone());
            }
        }
        keys
    }

    /// Gives up what was asked and told. It is the largest thing that a run holds, so nobody copies it.
    pub fn take_history(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives up what reads showed that are not part of the history.
    pub fn take_looks(&self) -> Vec<Look> {
        std::mem::take(&mut *self.looks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These keys are what listings list and removals of trees remove.
    pub fn know(&self, keys: BTreeSet<String>) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The keys under a prefix that the clients' plans name.
    pub fn keys_under(&self, prefix: &str) -> Vec<String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect()
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
        self.call_within(env, node, method, path, body, None).await
    }

    /// As [`Clients::call`], with a patience of its own.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call_within(
        &self,
        env: &Env,
        node: u32,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Option<Duration>,
    ) -> Result<client::Response, CallError> {
        self.call_as(env, node, &Secret::default(), method, path, body, patience).await
    }

    /// As [`Clients::call_within`], showing a token.
    ///
    /// # Errors
    /// See [`CallError`].
    #[expect(clippy::too_many_arguments, reason = "a request has so many parts")]
    pub async fn call_as(
        &self,
        env: &Env,
        node: u32,
        token: &Secret,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Option<Duration>,
    ) -> Result<client::Response, CallError> {
        let ip = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied();
        let Some(ip) = ip else { return Err(CallError::NotSent("no such node".to_owned())) };
        let patience = patience.unwrap_or(self.timeout);
        client::call_as(env, SocketAddr::new(ip, HTTP_PORT), token, method, path, body, patience).await
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
        let Some((method, mut path, mut body)) = request(key, &action, index) else {
            return Outcome::Failed("the API has no such request".to_owned());
        };
        // Every other read says in so many words what all of them ask for.
        if action == Action::Get && id.is_multiple_of(2) {
            path.push_str("?consistent");
        }
        if let Some(value) = action.writes() {
            let and = if path.contains('?') { '&' } else { '?' };
            path.push_str(&format!("{and}flags={}", flags_of(value)));
        }
        if body.len() < self.padding && action.writes().is_some() {
            let mut padded = body.to_vec();
            padded.resize(self.padding, PADDING as u8);
            body = padded.into();
        }
        let invoked_ns = self.time.now();
        self.time.note(host, "invoke", format!("{id} at n{node}: {key} {action:?}"));
        let answer = self.call(env, node, method, &path, body).await;
        let mut outcome = outcome(&action, &answer);
        if let Outcome::Ok(Response::Value(Some(seen))) = &mut outcome {
            self.unpad(&mut seen.value);
        }
        self.time.note(host, "return", format!("{id}: {outcome:?}"));
        self.record(id, (client, node), key, action, invoked_ns, outcome.clone());
        outcome
    }

    /// Writes an operation that has just ended into the history.
    fn record(
        &self,
        id: u64,
        (client, node): (u32, u32),
        key: &str,
        action: Action,
        invoked_ns: u64,
        outcome: Outcome,
    ) {
        let returned_ns = (!matches!(outcome, Outcome::Unknown(_))).then(|| self.time.now());
        let key = key.to_owned();
        let operation = Operation { id, client, node, key, action, invoked_ns, outcome, returned_ns };
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    /// Sends a request that concerns more than one operation of the history.
    async fn side(
        &self,
        env: &Env,
        (client, node): (u32, u32),
        method: Method,
        path: &str,
    ) -> Option<client::Response> {
        let host = FIRST_CLIENT + client;
        self.time.note(host, "invoke", format!("at n{node}: {method} {path}"));
        let answer = self.call(env, node, method, path, Bytes::new()).await;
        let told = match &answer {
            Ok(response) => format!("{} {}", response.status, response.text().trim()),
            Err(error) => error.to_string(),
        };
        self.time.note(host, "return", told);
        answer.ok()
    }

    /// Reads all keys with a prefix: one moment at which each key was as listed, or absent if it was not.
    async fn list(&self, env: &Env, who: (u32, u32), prefix: &str) {
        let invoked_ns = self.time.now();
        let response = self.side(env, who, Method::GET, &format!("/v1/kv/{prefix}?recurse")).await;
        let Some(response) = response else { return };
        let mut listed: BTreeMap<String, Versioned> = match response.status {
            404 => BTreeMap::new(),
            200 => match serde_json::from_slice::<Vec<Entry>>(&response.body) {
                Ok(entries) => entries.into_iter().filter_map(|entry| self.with_flags(entry)).collect(),
                Err(_) => return,
            },
            _ => return,
        };
        for key in self.keys_under(prefix) {
            let found = listed.remove(&key);
            let outcome = Outcome::Ok(Response::Value(found));
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            self.record(id, who, &key, Action::Get, invoked_ns, outcome);
        }
    }

    /// What an entry shows, with a value that nobody wrote if its flags are not those that the value was written with.
    fn with_flags(&self, entry: Entry) -> Option<(String, Versioned)> {
        let flags = entry.flags();
        let (key, mut found) = entry.versioned()?;
        self.unpad(&mut found.value);
        if flags != flags_of(&found.value) {
            found.value.push_str(" with the flags of another");
        }
        Some((key, found))
    }

    /// Removes all keys with a prefix.
    async fn delete_tree(&self, env: &Env, (client, node): (u32, u32), prefix: &str) {
        let invoked_ns = self.time.now();
        let host = FIRST_CLIENT + client;
        let path = format!("/v1/kv/{prefix}?recurse");
        self.time.note(host, "invoke", format!("at n{node}: DELETE {path}"));
        let answer = self.call(env, node, Method::DELETE, &path, Bytes::new()).await;
        let outcome = outcome(&Action::Delete, &answer);
        self.time.note(host, "return", format!("{outcome:?}"));
        for key in self.keys_under(prefix) {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            self.record(id, (client, node), &key, Action::Delete, invoked_ns, outcome.clone());
        }
    }

    /// One read of a key that is not like the others: the answer, and the index that came with it.
    pub async fn look(
        &self,
        env: &Env,
        (client, node): (u32, u32),
        key: &str,
        kind: LookKind,
    ) -> Option<(Outcome, u64)> {
        let path = match kind {
            LookKind::Stale => format!("/v1/kv/{key}?stale"),
            LookKind::Plain => format!("/v1/kv/{key}"),
            LookKind::Watch { since, wait_ms } => format!("/v1/kv/{key}?index={since}&wait={wait_ms}ms"),
        };
        let invoked_ns = self.time.now();
        let response = self.side(env, (client, node), Method::GET, &path).await?;
        let index = response.header("x-consul-index")?.parse().ok()?;
        let mut outcome = outcome(&Action::Get, &Ok(response));
        match &mut outcome {
            Outcome::Ok(Response::Value(Some(seen))) => self.unpad(&mut seen.value),
            Outcome::Ok(_) => {}
            Outcome::Failed(_) | Outcome::Unknown(_) => return None,
        }
        if kind != LookKind::Stale {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            self.record(id, (client, node), key, Action::Get, invoked_ns, outcome.clone());
        }
        let (key, returned_ns) = (key.to_owned(), self.time.now());
        let changed = match &outcome {
            Outcome::Ok(Response::Value(seen)) => seen.as_ref().map(|seen| seen.modify_index),
            _ => None,
        };
        let look = Look { client, node, key, kind, invoked_ns, returned_ns, index, changed };
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).push(look);
        Some((outcome, index))
    }

    /// Reads a key, and again once it has changed.
    async fn watch(&self, env: &Env, who: (u32, u32), key: &str, wait_ms: u64) {
        let Some((_, since)) = self.look(env, who, key, LookKind::Plain).await else { return };
        // An answer that comes when the client has gone tells nothing.
        let wait_ms = wait_ms.min(self.timeout.as_millis() as u64 / 2);
        self.look(env, who, key, LookKind::Watch { since, wait_ms }).await;
    }

    fn unpad(&self, value: &mut String) {
        if self.padding > 0 {
            value.truncate(value.trim_end_matches(PADDING).len());
            // It may be kept to the end of the run, which its dots need not be.
            value.shrink_to_fit();
        }
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
                let unpadded = |(key, mut at): (String, Versioned)| {
                    self.unpad(&mut at.value);
                    (key, (at.value, at.modify_index))
                };
                Ok(entries.map(unpadded).collect())
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
            env.sleep(Duration::from_nanos(at_ns.saturating_sub(self.time.now()))).await;
            if self.stopped.load(Ordering::Relaxed) {
                break;
            }
            let (node, key) = (op.node, op.key.as_str());
            match op.action {
                PlannedAction::Get => {
                    self.ask(&env, client, node, key, Action::Get, 0).await;
                }
                PlannedAction::Stale => {
                    self.look(&env, (client, node), key, LookKind::Stale).await;
                }
                PlannedAction::Watch(wait_ms) => self.watch(&env, (client, node), key, wait_ms).await,
                PlannedAction::List => self.list(&env, (client, node), key).await,
                PlannedAction::DeleteTree => self.delete_tree(&env, (client, node), key).await,
                PlannedAction::Fire(name) => {
                    self.fire(&env, (client, node), &name, String::new()).await;
                }
                PlannedAction::Publish { name, bytes } => {
                    self.fire(&env, (client, node), &name, news::content(&name, bytes)).await;
                }
                PlannedAction::Follow { path, wait_ms } => {
                    // As with every wait, an answer that comes when the client has gone tells nothing.
                    let wait_ms = wait_ms.min(self.timeout.as_millis() as u64 / 2).max(1);
                    self.follow(&env, (client, node), &path, wait_ms).await;
                }
                PlannedAction::Own(operation) => experiment.perform(&caller, node, &operation).await,
                PlannedAction::Service(deed) => {
                    registrars::ask(&self, &env, (client, node), key, deed).await;
                }
                PlannedAction::Pair(deed) => self.pair(&env, (client, node), key, deed).await,
                PlannedAction::Right(deed) => self.right(&env, (client, node), key, deed).await,
                PlannedAction::Lock(plan) => {
                    Locker { clients: &self, env: &env, client, node, key }.run(&plan).await;
                }
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
        self.clients.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.env.sleep(duration)
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
