//! One node, whole: what a server and a client share, and the calls that the HTTP API is made of.
//!
//! [`Agent::start`] is the entry in production and in simulation alike. An agent rests on a [`Delegate`], the
//! fourteen operations of a node, and does not know which of the two it is:
//!
//! ```text
//!   http ──► Agent ──► dyn Delegate ─┬─► Server   Raft, gossip, the state
//!              │                     └─► Client   gossip; carries calls to a server
//!              └─► Lan: gossip, events, members      (pool: which server, and whom next)
//! ```
//!
//! * [`delegate`]: the operations; [`server`] and [`client`] have them in their ways.
//! * [`call`]: what can be asked of the cluster, and how it travels from a client to a server; [`pool`] carries it.
//! * [`keys`]: the keys of gossip at every member.
//! * [`lan`]: gossip as an agent has it; [`meta`]: what a node says of itself there.
//! * [`bootstrap`], [`reconcile`], [`rejoin`]: how a cluster begins, follows its members, and meets again;
//!   [`autopilot`]: who of them may vote, and how they fare.
//! * [`local`]: this agent's own services and checks, and the catalog kept true to them; [`census`]: the leader
//!   enters the members into it.
//! * [`prepared`]: carrying out prepared queries. [`coordinates`]: where nodes stand, told to the servers; [`events`]: whom a user event concerns.
//! * [`rights`]: what each call needs, and what of its answer may be seen; [`tokens`]: those that the agent itself uses.
//! * [`archive`]: the file that a snapshot is kept in.
//! * [`why`]: why there is no leader, in words. [`stats`]: numbers for people; [`metrics`]: numbers for machines; [`process`]: what surrounds the agent.
//!
//! To give agents something new to do in both modes: a variant of [`Call`], its answer in [`Server`], and a method
//! of [`Agent`] that the API uses. The client carries whatever there is.

mod acquaintances;
pub mod archive;
pub mod autopilot;
pub mod bootstrap;
pub mod call;
pub mod census;
pub mod client;
pub mod coordinates;
pub mod delegate;
pub mod events;
pub mod identity;
mod kept;
pub mod keys;
pub mod lan;
pub mod local;
pub mod meta;
pub mod metrics;
pub mod pool;
pub mod prepared;
pub mod process;
pub mod reconcile;
mod rejoin;
pub mod rights;
pub mod server;
mod sessions;
pub mod stats;
pub mod tokens;
pub mod uuid;
pub mod version;
pub mod why;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::reload::{self, Reloaded};
use crate::config::{Config, DefaultPolicy, Invalid};
use crate::env::{AbortOnDrop, Env, Rng};
use crate::gossip::{self, EventDelegate, Member, NewEvent, UserEvent};
use crate::mutant;
use crate::raft::{OpenError, StartError};
use crate::secret::Secret;
use crate::state::acl::authorizer::Default as ByDefault;
use crate::state::acl::rules::{Access, Kind, Rule, Rules};
use crate::state::acl::{AclHolder, Authorizer, Holder};
use crate::state::query::AskMachine;
use crate::state::{Command, Machine, NodePlace, Outcome, Question, Refusal, RestoreCommand, State};

use autopilot::Health;
use call::Reply;
use lan::Lan;
use local::{Local, define};
use metrics::Metrics;
use process::{LogError, Process};
use tokens::{Purpose, Tokens};
use why::Explanation;

pub use call::{Bearer, Call, CallError, Cluster, Configured};
pub use client::Client;
pub use delegate::{Coordinate, Delegate, Stats, UnknownSegment};
pub use events::EventFilters;
pub use lan::member_tags;
pub use server::Server;

/// Bytes of a snapshot that go into one entry of the log when it is restored.
const RESTORED_AT_ONCE: usize = 1 << 20;

/// How long a restarted server looks for a leader before it takes what it still knows for the rights to look after it.
const LEADER_WITHIN: Duration = Duration::from_secs(2);

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// The data cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A port cannot be had.
    #[error("cannot listen on {addr} for {purpose}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// The system's word.
        source: std::io::Error,
    },
    /// Raft does not start.
    #[error(transparent)]
    Raft(#[from] StartError),
    /// Gossip does not start.
    #[error("cannot start gossip: {0}")]
    Gossip(#[source] gossip::Error),
    /// None of the addresses to join answered.
    #[error("cannot join: {0}")]
    Join(String),
    /// It ran, and can no longer.
    #[error("the node has stopped: {0}")]
    Stopped(String),
}

/// What an agent has by itself, of whichever mode it is.
struct Own {
    process: Option<Arc<dyn Process>>,
    lan: Lan,
    local: Local,
    metrics: Metrics,
}

/// How current a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// What a client gets that asks for nothing: linearizable.
    Default,
    /// Linearizable.
    Consistent,
    /// Whatever the asked server has.
    Stale,
}

/// How to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryOptions {
    /// How current.
    pub consistency: Consistency,
    /// Wait for something newer than this index; 0 does not wait.
    pub min_index: u64,
    /// How long to wait.
    pub wait: Duration,
}

impl QueryOptions {
    /// Reads at once.
    pub fn now(consistency: Consistency) -> QueryOptions {
        QueryOptions { consistency, min_index: 0, wait: Duration::ZERO }
    }
}

/// What a query finds, and how current that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// The index at which it last changed.
    pub index: u64,
    /// What it is.
    pub value: T,
    /// Whether the server that answers knows a leader.
    pub known_leader: bool,
    /// How long ago that server last heard from the leader; zero on the leader.
    pub last_contact: Duration,
    /// Whether something was left out that whoever asks may not see.
    #[serde(skip)]
    pub filtered: bool,
}

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, or nobody could confirm that they do; or no server could be asked.
    #[error("{0}")]
    NoLeader(String),
    /// Whoever asks may not, or is nobody.
    #[error("{0}")]
    Denied(String),
}

impl From<CallError> for ReadError {
    fn from(error: CallError) -> ReadError {
        match error {
            CallError::Denied(_) | CallError::NoToken => ReadError::Denied(error.to_string()),
            error => ReadError::NoLeader(error.to_string()),
        }
    }
}

/// Why a write has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It was not applied and will not be.
    #[error("{0}")]
    Refused(String),
    /// It may have been applied, or may yet be.
    #[error("{0}")]
    Unknown(String),
    /// It was not applied: the server to be added has another cluster's data.
    #[error(
        "the server at {addr} belongs to cluster {theirs:016x} and this one to {mine:016x}: two clusters \
         cannot be merged. Empty its data directory if its data is not wanted"
    )]
    OtherCluster {
        /// Where it is.
        addr: SocketAddr,
        /// The cluster it belongs to.
        theirs: u64,
        /// The cluster it was to join.
        mine: u64,
    },
    /// It was not applied: whoever asks may not, or is nobody.
    #[error("{0}")]
    Denied(String),
}

impl From<CallError> for WriteError {
    fn from(error: CallError) -> WriteError {
        match error {
            CallError::NoLeader(_) | CallError::NoServers | CallError::Refused(_) => {
                WriteError::Refused(error.to_string())
            }
            CallError::Unknown(_) => WriteError::Unknown(error.to_string()),
            CallError::OtherCluster { addr, theirs, mine } => WriteError::OtherCluster { addr, theirs, mine },
            CallError::Denied(_) | CallError::NoToken | CallError::DeniedOps(_) => {
                WriteError::Denied(error.to_string())
            }
        }
    }
}

/// What a program that embeds the agent adds to it. Every node of a cluster must add the same.
#[derive(Default)]
pub struct Program {
    /// A state machine of its own, replicated beside the store: see [`Agent::command`].
    pub machine: Option<Box<dyn Machine>>,
    /// Messages and state of its own, carried by gossip.
    pub delegate: Option<Arc<dyn gossip::Delegate>>,
    /// Hears about members.
    pub members: Option<Arc<dyn EventDelegate>>,
    /// The process around the agent, if it can do something for it.
    pub process: Option<Arc<dyn Process>>,
}

/// One node. Clones are the same node, and ask by the same right.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
    bearer: Bearer,
}

struct Inner {
    env: Env,
    /// What is in force.
    config: watch::Sender<Arc<Config>>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    process: Option<Arc<dyn Process>>,
    metrics: Metrics,
    tokens: Tokens,
    /// One generator for all who ask, whichever listener they come by: the same stream twice gives every id twice.
    session_ids: Mutex<Rng>,
    acl_ids: Mutex<Rng>,
    /// Names restores.
    restores: Mutex<Rng>,
    lan: Lan,
    local: Local,
    delegate: Arc<dyn Delegate>,
    /// Where other servers reach this one; a client has no such place.
    rpc_addr: Option<SocketAddr>,
    /// Whether others were found since the start.
    joined: watch::Sender<bool>,
    /// Where others were when this agent last ran.
    known: Vec<SocketAddr>,
    /// Why the node stops, from the moment it begins to.
    outcome: OnceLock<Result<(), String>>,
    /// The same, once it has stopped.
    stopping: watch::Sender<Option<Result<(), String>>>,
    duties: Mutex<Vec<AbortOnDrop>>,
}

impl Agent {
    /// Starts a node, with what the embedding program adds. `http_port` is only told to others; serving it
    /// is the caller's.
    ///
    /// # Errors
    /// See [`Error`]. Nothing of the node runs then.
    pub async fn start(env: Env, config: Config, program: Program, http_port: u16) -> Result<Agent, Error> {
        config.check()?;
        if config.tls.is_demanded() && !env.network().protects() {
            let reason = "this program's network has no TLS, so nothing can be verified".to_owned();
            return Err(Invalid { key: "tls", reason }.into());
        }
        let configured = define::configured(&config)?;
        let process = program.process.clone();
        let (local, metrics) = (Local::new(&env), Metrics::new(&env));
        if config.server {
            let server = Server::start(&env, &config, program, http_port, &local, &metrics).await?;
            let delegate = Arc::new(server.clone());
            let rpc_addr = Some(server.raft().me().addr);
            let lan = server.lan().clone();
            let own = Own { process, lan, local, metrics };
            let agent = Agent::new(env, config, own, delegate, rpc_addr).await;
            agent.local().load(&agent, configured).await;
            agent.join_at_start().await?;
            let failed = server.raft().clone();
            agent.begin(server.duties(), move || Box::pin(server.clone().lost()), async move {
                failed.failed().await
            });
            Ok(agent)
        } else {
            let client = Client::start(&env, &config, program, http_port, &local).await?;
            let delegate = Arc::new(client.clone());
            let own = Own { process, lan: client.lan().clone(), local, metrics };
            let agent = Agent::new(env, config, own, delegate, None).await;
            agent.local().load(&agent, configured).await;
            agent.join_at_start().await?;
            // What it has lost, gossip remembers, or nobody does.
            agent.begin(client.duties(), || Box::pin(async { None }), std::future::pending());
            Ok(agent)
        }
    }

    async fn new(
        env: Env,
        config: Config,
        own: Own,
        delegate: Arc<dyn Delegate>,
        rpc_addr: Option<SocketAddr>,
    ) -> Agent {
        let Own { process, lan, local, metrics } = own;
        let known = acquaintances::recall(&env).await;
        Agent {
            inner: Arc::new(Inner {
                metrics,
                tokens: Tokens::open(&env, config.acl.enable_token_persistence).await,
                session_ids: Mutex::new(env.rng("session ids")),
                acl_ids: Mutex::new(env.rng("acl ids")),
                local,
                restores: Mutex::new(env.rng("restores")),
                env,
                config: watch::Sender::new(Arc::new(config)),
                reloading: tokio::sync::Mutex::new(()),
                process,
                lan,
                delegate,
                rpc_addr,
                joined: watch::Sender::new(false),
                known,
                outcome: OnceLock::new(),
                stopping: watch::Sender::new(None),
                duties: Mutex::default(),
            }),
            bearer: Bearer::Node,
        }
    }

    async fn join_at_start(&self) -> Result<(), Error> {
        let config = self.config();
        if config.join.is_empty() {
            return Ok(());
        }
        match self.inner.lan.join(&config.join).await {
            Ok(_) => {
                self.inner.joined.send_replace(true);
                Ok(())
            }
            Err(reason) => {
                self.shutdown().await;
                Err(Error::Join(reason))
            }
        }
    }

    /// Begins the duties: those of the mode, and those of all agents.
    fn begin(
        &self,
        mut duties: Vec<AbortOnDrop>,
        lost: impl Fn() -> BoxFuture<'static, Option<Vec<SocketAddr>>> + Send + 'static,
        failed: impl Future<Output = String> + Send + 'static,
    ) {
        let Inner { env, config, lan, joined, known, process, .. } = &*self.inner;
        let found = rejoin::Found { joined: joined.clone(), known: known.clone() };
        let looking =
            rejoin::rejoin(env.clone(), config.subscribe(), lan.clone(), process.clone(), lost, found);
        let agent = self.clone();
        let rejoining = env.spawn(async move {
            let reason = looking.await;
            agent.stop(Err(reason)).await;
        });
        duties.push(rejoining.abort_on_drop());
        let remembering = acquaintances::remember(env.clone(), lan.clone(), known.clone());
        duties.push(env.spawn(remembering).abort_on_drop());
        let (agent, silent) = (self.clone(), lan.fatal());
        let watching = env.spawn(async move {
            let reason = tokio::select! {
                biased;
                reason = failed => reason,
                reason = silent => reason,
            };
            if agent.inner.outcome.get().is_none() {
                tracing::error!(reason, "this node stops");
            }
            agent.stop(Err(reason)).await;
        });
        duties.push(watching.abort_on_drop());
        let local = self.inner.local.clone();
        duties.push(env.spawn(local.clone().keep_true(self.clone())).abort_on_drop());
        duties.push(env.spawn(local.reap()).abort_on_drop());
        duties.push(env.spawn(coordinates::tell(self.clone())).abort_on_drop());
        *self.inner.duties.lock().unwrap_or_else(PoisonError::into_inner) = duties;
        // Who stops the node at once, while the duties begin, finds none to end.
        if self.inner.outcome.get().is_some() {
            drop(self.take_duties());
        }
    }

    /// Its duties, which end when these are dropped.
    fn take_duties(&self) -> Vec<AbortOnDrop> {
        std::mem::take(&mut *self.inner.duties.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the node has left or can no longer run.
    ///
    /// # Errors
    /// [`Error::Stopped`] with the reason, unless it left.
    pub async fn wait(&self) -> Result<(), Error> {
        let mut stopping = self.inner.stopping.subscribe();
        let outcome = match stopping.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        match outcome {
            Some(Err(reason)) => Err(Error::Stopped(reason)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Stops at once, without telling anyone. What was acknowledged is on disk. Does nothing the second time.
    pub async fn shutdown(&self) {
        self.stop(Ok(())).await;
    }

    async fn stop(&self, outcome: Result<(), String>) {
        // Whoever stops the node first says why: what stops because of that is no failure.
        let outcome = self.inner.outcome.get_or_init(|| outcome).clone();
        let duties = self.take_duties();
        self.inner.delegate.shutdown().await;
        self.inner.stopping.send_if_modified(|stopping| {
            let first = stopping.is_none();
            stopping.get_or_insert(outcome);
            first
        });
        // Last: one of these may be the task that runs this.
        drop(duties);
    }

    // ---- what it is ----

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.inner.config.borrow().clone()
    }

    /// The configuration in force, and those that take its place.
    pub fn config_changes(&self) -> watch::Receiver<Arc<Config>> {
        self.inner.config.subscribe()
    }

    /// Reads the configuration again and puts in force what can be; the rest is named. All or nothing: when
    /// something is wrong, everything stays as it is.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub async fn reload(&self) -> Result<Reloaded, String> {
        let _turn = self.inner.reloading.lock().await;
        let done = self.reload_now().await;
        match &done {
            Ok(Reloaded { applied, needs_restart }) => {
                tracing::info!(?applied, ?needs_restart, "the configuration was read again");
            }
            Err(reason) => {
                tracing::error!(reason, "the configuration was not read again; it stays as it was")
            }
        }
        done
    }

    async fn reload_now(&self) -> Result<Reloaded, String> {
        let Some(process) = &self.inner.process else {
            return Err("this agent has no files to read its configuration from".to_owned());
        };
        let fresh = process.read_configuration().await?;
        fresh.config.check().map_err(|error| error.to_string())?;
        let old = self.config();
        let (config, mut reloaded) = reload::plan(&old, &fresh.config);
        // What takes effect now must also be right beside what does not.
        config.check().map_err(|error| error.to_string())?;
        let configured = define::configured(&config).map_err(|error| error.to_string())?;
        // What can still fail comes first.
        if config.tags != old.tags {
            self.inner.lan.set_tags(config.tags.clone()).await?;
        }
        self.inner.lan.verify(config.encrypt_verify_incoming, config.encrypt_verify_outgoing);
        self.inner.config.send_replace(Arc::new(config));
        self.inner.local.configure(&self.itself(), configured);
        self.inner.local.try_to_save().await;
        let more = (fresh.commit)();
        reloaded.applied.extend(more.applied);
        reloaded.needs_restart.extend(more.needs_restart);
        Ok(reloaded)
    }

    /// The log of the process around this agent, from now on.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn watch_log(
        &self,
        level: &str,
        json: bool,
    ) -> Result<futures_util::stream::BoxStream<'static, String>, LogError> {
        match &self.inner.process {
            Some(process) => process.watch_log(level, json),
            None => Err(LogError::Refused("this agent keeps no log that could be shown".to_owned())),
        }
    }

    /// What machine this is, in the form of `/v1/agent/host`.
    ///
    /// # Errors
    /// When nobody here knows.
    pub async fn describe_host(&self) -> Result<serde_json::Value, String> {
        let Some(process) = self.inner.process.clone() else {
            return Err("this agent does not know its machine".to_owned());
        };
        let told = self.inner.env.blocking(move || process.describe_host()).await;
        told.map_err(|error| error.to_string())
    }

    /// What it counts and times.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Its world.
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// What it rests on.
    pub fn delegate(&self) -> &dyn Delegate {
        &*self.inner.delegate
    }

    /// Its id in gossip, and in Raft if it is a server.
    pub fn node_id(&self) -> u64 {
        self.inner.lan.node_id()
    }

    /// Where other servers reach it, if it is a server.
    pub fn rpc_addr(&self) -> Option<SocketAddr> {
        self.inner.rpc_addr
    }

    /// All members that gossip remembers, by name.
    pub fn members(&self) -> Vec<Member> {
        self.inner.delegate.lan_members()
    }

    /// Its own services and checks.
    pub fn local(&self) -> &Local {
        &self.inner.local
    }

    /// What the process around it can do, if there is one.
    pub fn process(&self) -> Option<&Arc<dyn Process>> {
        self.inner.process.as_ref()
    }

    /// Waits until gossip sees a server alive that it did not see before.
    async fn server_came(&self) {
        let mut changes = self.inner.lan.changes();
        let alive = || {
            let servers = self.inner.lan.servers().into_iter();
            let alive = servers.filter(|(seen, _)| seen.status.is_live());
            alive.map(|(seen, _)| seen.server.node_id).collect::<std::collections::BTreeSet<u64>>()
        };
        let before = alive();
        loop {
            if changes.changed().await.is_err() {
                // Gossip has ended, and with it all news.
                return std::future::pending().await;
            }
            if !alive().is_subset(&before) {
                return;
            }
        }
    }

    /// This node as a member.
    pub fn local_member(&self) -> Member {
        self.inner.delegate.local_member()
    }

    /// Numbers for people, by subsystem.
    pub fn stats(&self) -> Stats {
        let mut all = self.inner.delegate.stats();
        all.insert("agent".to_owned(), stats::of_book(&self.inner.local.book()));
        let resident = self.inner.process.as_ref().and_then(|process| process.resident_bytes());
        if let (Some(bytes), Some(runtime)) = (resident, all.get_mut("runtime")) {
            runtime.insert("alloc_bytes".to_owned(), bytes.to_string());
        }
        all
    }

    // ---- by whose right ----

    /// The same node, asked by whoever shows this token.
    pub fn on_behalf_of(&self, token: Secret) -> Agent {
        Agent { inner: self.inner.clone(), bearer: Bearer::Token(token) }
    }

    /// The same node, asked by itself: for what it must know to answer someone else. What that is, they do not hear.
    pub fn itself(&self) -> Agent {
        Agent { inner: self.inner.clone(), bearer: Bearer::Node }
    }

    /// By whose right it is asked.
    pub fn bearer(&self) -> &Bearer {
        &self.bearer
    }

    /// A server may do on its own what it is asked to by nobody; a client shows the servers its agent's token.
    fn bearer_of_calls(&self) -> Bearer {
        let config = self.inner.config.borrow();
        match &self.bearer {
            Bearer::Node if config.acl.enabled && !config.server => {
                drop(config);
                Bearer::Token(self.token(Purpose::Agent))
            }
            bearer => bearer.clone(),
        }
    }

    /// A fresh id for a session.
    pub fn new_session_id(&self) -> String {
        uuid::random(&mut self.inner.session_ids.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An id or a secret for a token, a policy or a role, which nobody has.
    pub fn new_acl_id(&self) -> String {
        uuid::random(&mut self.inner.acl_ids.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The agent's token for a purpose; where there is none, the default one.
    pub fn token(&self, purpose: Purpose) -> Secret {
        let configured = self.config().acl.tokens.clone();
        let own = self.inner.tokens.of(purpose, &configured);
        if own.is_empty() && matches!(purpose, Purpose::Agent | Purpose::Dns) {
            return self.inner.tokens.of(Purpose::Default, &configured);
        }
        own
    }

    /// Sets the agent's token for a purpose.
    ///
    /// # Errors
    /// When it could not be kept over a restart, as configured. It is in force all the same.
    pub async fn set_token(&self, purpose: Purpose, token: Secret) -> Result<(), String> {
        let persistent = self.config().acl.enable_token_persistence;
        self.inner.tokens.set(purpose, token, persistent).await
    }

    /// What whoever asks may do, for what this agent decides itself; see [`tokens`].
    ///
    /// # Errors
    /// When there is no such token, or nobody could say and nothing is remembered.
    pub async fn authorizer(&self) -> Result<Authorizer, ReadError> {
        let Bearer::Token(token) = &self.bearer else { return Ok(Authorizer::unlimited()) };
        let config = self.config();
        if !config.acl.enabled {
            return Ok(Authorizer::unlimited());
        }
        let default = match config.acl.default_policy {
            DefaultPolicy::Allow => ByDefault::Allow,
            DefaultPolicy::Deny => ByDefault::Deny,
        };
        let recovery = self.token(Purpose::Recovery);
        if !recovery.is_empty() && recovery == *token {
            return Ok(Authorizer::of(&recovery_holder(&config.node_name), default));
        }
        match self.holder(token, &config).await? {
            Some(holder) => Ok(Authorizer::of(&holder, default)),
            None => Err(CallError::NoToken.into()),
        }
    }

    async fn holder(&self, token: &Secret, config: &Config) -> Result<Option<Holder>, ReadError> {
        let question = AclHolder { secret: token.clone(), datacenter: config.datacenter.clone() };
        let ask = async |consistency| {
            let answer = self.itself().query(QueryOptions::now(consistency), &question).await;
            answer.map(|answer| answer.value)
        };
        if config.server {
            // Its own state will do, even without a leader, unless the token is too new for it.
            let stale = match ask(Consistency::Stale).await {
                Ok(Some(holder)) => return Ok(Some(holder)),
                stale => stale,
            };
            // A server that has not caught up since its restart, because nobody leads or because nobody lets it in, has to be
            // looked after all the same: a reload may be what brings it back. What it still knows will do for that.
            let here = || match &stale {
                Err(_) => self.inner.delegate.holder_here(token),
                Ok(_) => None,
            };
            let mut current = Box::pin(ask(Consistency::Default));
            let current = match self.inner.env.timeout(LEADER_WITHIN, current.as_mut()).await {
                Ok(found) => found.or_else(|error| here().map(Some).ok_or(error)),
                Err(_) => match here() {
                    Some(holder) => Ok(Some(holder)),
                    None => current.await,
                },
            };
            return current.or(stale);
        }
        let remembered = self.inner.tokens.remembered(token);
        if let Some((age, Some(holder))) = &remembered
            && *age < Duration::from_millis(config.acl.token_ttl_ms)
        {
            return Ok(Some(holder.clone()));
        }
        match ask(Consistency::Default).await {
            Ok(holder) => {
                self.inner.tokens.remember(token, holder.clone());
                Ok(holder)
            }
            Err(error) => remembered.map(|(_, holder)| holder).ok_or(error),
        }
    }

    // ---- reads and writes ----

    /// Every call to the cluster goes through here.
    async fn call(&self, call: Call) -> Result<Reply, CallError> {
        let kind = vec![("kind", call.kind().to_owned())];
        let begun = self.inner.env.now();
        let reply = if mutant::is("P03") || mutant::is("P06") {
            Box::pin(self.call_as_deputy(call)).await
        } else {
            self.inner.delegate.rpc(&self.bearer_of_calls(), call).await
        };
        let took = self.inner.env.now().since(begun);
        if reply.is_err() {
            self.inner.metrics.count("consul.rpc.failed", kind.clone());
        }
        self.inner.metrics.time("consul.rpc.call", kind, took);
        reply
    }

    /// Mutants P03 and P06: with its own rights for whoever has them by what it remembers, or was refused.
    async fn call_as_deputy(&self, call: Call) -> Result<Reply, CallError> {
        let own = self.itself().bearer_of_calls();
        if mutant::is("P03") && matches!(call, Call::Write(_)) {
            let who = self.authorizer().await;
            if who.is_ok_and(|who| rights::permit(&who, &call, &State::default()).is_ok()) {
                return self.inner.delegate.rpc(&own, call).await;
            }
        }
        match self.inner.delegate.rpc(&self.bearer_of_calls(), call.clone()).await {
            Err(CallError::Denied(_)) if mutant::is("P06") => self.inner.delegate.rpc(&own, call).await,
            reply => reply,
        }
    }

    /// Looks at the state, as currently as asked; waits for a change if asked to.
    ///
    /// # Errors
    /// [`ReadError`] when it cannot be told how current the answer would be.
    pub async fn query<Q: Question>(
        &self,
        options: QueryOptions,
        question: &Q,
    ) -> Result<Answer<Q::Found>, ReadError> {
        let query = question.clone().into();
        let (answer, filtered) = match self.call(Call::Read { query, options }).await? {
            Reply::Found(answer) => (answer, false),
            Reply::FoundSome(answer) => (*answer, true),
            _ => return Err(CallError::misfit().into()),
        };
        let Answer { index, value, known_leader, last_contact, .. } = answer;
        let value = Q::unpack(value).ok_or_else(CallError::misfit)?;
        Ok(Answer { index, value, known_leader, last_contact, filtered })
    }

    /// Applies a command to the replicated state, wherever the leader is.
    ///
    /// # Errors
    /// [`WriteError`] tells whether it may have been applied all the same.
    pub async fn write(&self, command: Command) -> Result<Outcome, WriteError> {
        match self.call(Call::Write(command)).await {
            Ok(Reply::Written(outcome)) => Ok(outcome),
            Ok(_) => Err(CallError::misfit().into()),
            // As if they had failed otherwise.
            Err(CallError::DeniedOps(errors)) => {
                Ok(Outcome::Refused { index: 0, refusal: Refusal::Txn(errors) })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Applies a command to the embedding program's [`Machine`], wherever the leader is, and gives its answer.
    ///
    /// # Errors
    /// [`WriteError`] tells whether it may have been applied all the same. Refused when there is no machine, or the command
    /// has more than [`MAX_COMMAND`](crate::raft::MAX_COMMAND) bytes.
    pub async fn command(&self, command: &[u8]) -> Result<Vec<u8>, WriteError> {
        let no_machine = || WriteError::Refused("this program has no state machine of its own".to_owned());
        // Boxed, so that whoever awaits this need not know how deep it goes.
        match Box::pin(self.write(Command::Machine(command.into()))).await? {
            Outcome::Answered { answer, .. } => Ok(answer.to_vec()),
            // Only servers without the machine answer so, and they do it before anything has changed.
            Outcome::Done { .. }
            | Outcome::ConditionFailed { .. }
            | Outcome::Refused { .. }
            | Outcome::Returned { .. } => Err(no_machine()),
            Outcome::Stale => {
                Err(WriteError::Unknown("the outcome of this command is no longer known".to_owned()))
            }
        }
    }

    /// Asks the embedding program's [`Machine`], as currently as wanted. `None` when there is no machine.
    ///
    /// # Errors
    /// [`ReadError`] when it cannot be told how current the state is.
    pub async fn ask_machine(
        &self,
        consistency: Consistency,
        question: &[u8],
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let question = AskMachine { question: question.to_vec() };
        Ok(self.query(QueryOptions::now(consistency), &question).await?.value)
    }

    /// Says where a node stands. It is in force some seconds later, if the node is in the catalog by then.
    ///
    /// # Errors
    /// When no server could be told.
    pub async fn update_coordinate(&self, update: NodePlace) -> Result<(), WriteError> {
        self.change(Call::Coordinate(update)).await
    }

    // ---- snapshots ----

    /// The whole replicated state as bytes; `stale`: from whichever server is asked, as it is there.
    ///
    /// # Errors
    /// [`ReadError`] when no server could say, or none knew in time how current it is.
    pub async fn snapshot(&self, stale: bool) -> Result<Bytes, ReadError> {
        Ok(self.inner.delegate.snapshot_rpc(&self.bearer_of_calls(), stale).await?)
    }

    /// Makes the state of the whole cluster what these bytes say, 1 GiB of them at most: see [`crate::state::restore`]. All
    /// sessions end, and every index is new.
    ///
    /// # Errors
    /// Refused: nothing was restored. Unknown: it may have been, or may yet be.
    pub async fn restore(&self, state: Bytes) -> Result<(), WriteError> {
        let id = self.inner.restores.lock().unwrap_or_else(PoisonError::into_inner).random();
        let sent = self.send_pieces(id, &state).await;
        if let Err(reason) = sent {
            // If this does not arrive either, it is forgotten in time.
            let _ = self.restore_step(RestoreCommand::Abort { id }).await;
            return Err(WriteError::Refused(format!("nothing was restored: {reason}")));
        }
        match self.restore_step(RestoreCommand::Commit { id }).await? {
            Outcome::Refused { refusal, .. } => Err(WriteError::Refused(refusal.to_string())),
            Outcome::Stale => {
                Err(WriteError::Unknown("the outcome of this restore is no longer known".into()))
            }
            outcome => {
                tracing::warn!(%outcome, bytes = state.len(), "the state was restored from a snapshot");
                Ok(())
            }
        }
    }

    /// Sends a snapshot to where it can be restored. Nothing has changed after that.
    async fn send_pieces(&self, id: u64, state: &[u8]) -> Result<(), String> {
        let bytes = state.len() as u64;
        let begin = std::iter::once(RestoreCommand::Begin { id, bytes });
        let starts = (0..).step_by(RESTORED_AT_ONCE);
        let pieces = starts.zip(state.chunks(RESTORED_AT_ONCE)).map(|(offset, data)| RestoreCommand::Piece {
            id,
            offset,
            data: data.into(),
        });
        for step in begin.chain(pieces) {
            match self.restore_step(step).await {
                Ok(Outcome::Refused { refusal, .. }) => return Err(refusal.to_string()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    async fn restore_step(&self, step: RestoreCommand) -> Result<Outcome, WriteError> {
        // Boxed, so that whoever awaits this need not know how deep it goes.
        Box::pin(self.write(Command::Restore(step))).await
    }

    // ---- servers ----

    /// Who leads, and which servers there are, as currently as asked.
    ///
    /// # Errors
    /// [`ReadError`] when no server could say, or none knew in time how current it is.
    pub async fn cluster(&self, consistency: Consistency) -> Result<Cluster, ReadError> {
        match self.call(Call::Cluster(consistency)).await? {
            Reply::Cluster(cluster) => Ok(cluster),
            _ => Err(CallError::misfit().into()),
        }
    }

    /// How the servers fare, as the leader sees them.
    ///
    /// # Errors
    /// [`ReadError`] when the leader could not be asked.
    pub async fn health(&self) -> Result<Health, ReadError> {
        match self.call(Call::Health { sent_on: false }).await? {
            Reply::Health(health) => Ok(health),
            _ => Err(CallError::misfit().into()),
        }
    }

    /// Why there is no leader, or that all is well, as this node sees it.
    ///
    /// # Errors
    /// [`ReadError`] when a client could ask no server, which by itself says why.
    pub async fn why(&self) -> Result<Explanation, ReadError> {
        match self.call(Call::Why).await? {
            Reply::Why(explanation) => Ok(explanation),
            _ => Err(CallError::misfit().into()),
        }
    }

    /// Makes the server at this address a voter of the cluster.
    ///
    /// # Errors
    /// Refused when it does not answer, or belongs to another cluster.
    pub async fn add_server(&self, addr: SocketAddr) -> Result<(), WriteError> {
        self.change(Call::AddServer(addr)).await
    }

    /// Takes a server out of the Raft configuration.
    ///
    /// # Errors
    /// As for a write.
    pub async fn remove_server(&self, node_id: u64) -> Result<(), WriteError> {
        self.change(Call::RemoveServer { node_id }).await
    }

    /// Hands leadership to another server.
    ///
    /// # Errors
    /// As for a write.
    pub async fn transfer_leadership(&self, node_id: Option<u64>) -> Result<(), WriteError> {
        self.change(Call::TransferLeadership { node_id }).await
    }

    async fn change(&self, call: Call) -> Result<(), WriteError> {
        match self.call(call).await? {
            Reply::Done => Ok(()),
            _ => Err(CallError::misfit().into()),
        }
    }

    // ---- membership ----

    /// Joins gossip through any of these members. Returns how many others answered.
    ///
    /// # Errors
    /// Why each failed, when all did, and this node was not among them.
    pub async fn join(&self, addrs: &[SocketAddr]) -> Result<usize, String> {
        let others = self.inner.delegate.join_lan(addrs).await?;
        if others > 0 {
            self.inner.joined.send_replace(true);
        }
        Ok(others)
    }

    /// Becomes true once others were found, and stays so.
    pub fn joined(&self) -> watch::Receiver<bool> {
        self.inner.joined.subscribe()
    }

    /// Leaves the cluster and stops. [`Agent::wait`] returns then.
    pub async fn leave(&self) {
        self.inner.delegate.leave().await;
        if !self.config().rejoin_after_leave {
            acquaintances::forget(&self.inner.env).await;
        }
        self.stop(Ok(())).await;
    }

    /// Makes a failed member one that left.
    ///
    /// # Errors
    /// When there is no such member.
    pub async fn force_leave(&self, name: &str, prune: bool) -> Result<(), String> {
        self.inner.delegate.remove_failed_node(name, prune).await
    }

    // ---- events ----

    /// Sends an event to all nodes.
    ///
    /// # Errors
    /// When it is too large, or its filters make no sense.
    pub async fn fire_event(
        &self,
        name: &str,
        payload: Bytes,
        filters: EventFilters,
    ) -> Result<UserEvent, String> {
        filters.check().map_err(|error| error.to_string())?;
        let event = NewEvent {
            name: name.to_owned(),
            payload,
            node_filter: filters.node,
            service_filter: filters.service,
            tag_filter: filters.tag,
        };
        self.inner.lan.events().fire(event).map_err(|error| error.to_string())
    }

    /// Those of this node's last events that are kept, oldest first. With an index that is not 0: waits until it is no
    /// longer the current one, which an event that is not kept does not make it; what came since is last then.
    pub async fn events(
        &self,
        keep: &(dyn Fn(&UserEvent) -> bool + Sync),
        index: u64,
        wait: Duration,
    ) -> (u64, Vec<UserEvent>) {
        let events = self.inner.lan.events();
        let mut newest = events.subscribe();
        let deadline = self.inner.env.now() + wait;
        loop {
            newest.mark_unchanged();
            let (current, listed) = events.list_since(index, keep);
            let left = deadline.since(self.inner.env.now());
            if index == 0
                || current != index
                || left.is_zero()
                || self.inner.env.timeout(left, newest.changed()).await.is_err()
            {
                return (current, listed);
            }
        }
    }
}

/// The rights of the recovery token: to look after this agent.
fn recovery_holder(node: &str) -> Holder {
    let rule = |kind, access| Rule { kind, name: node.to_owned(), prefix: false, access };
    let named = vec![
        rule(Kind::Agent, Access::Write),
        Rule { kind: Kind::Node, name: String::new(), prefix: true, access: Access::Read },
    ];
    Holder { accessor: "agent-recovery".to_owned(), rules: vec![Rules { named, ..Rules::default() }] }
}

/// A number in the form of a UUID, as Consul's clients expect node ids.
pub fn uuid_of(id: u64) -> String {
    let [a, b] = [id, xxhash_rust::xxh3::xxh3_64(&id.to_le_bytes())];
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )
}
