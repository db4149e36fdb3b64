//! One node, whole: Raft and gossip under one roof, and the calls that the HTTP API is made of.
//!
//! [`Agent::start`] is the entry in production and in simulation alike. It opens the store, starts
//! Raft and gossip on their listeners, and four duties:
//!
//! * **founding** ([`bootstrap`]): a server without a cluster founds one, alone or with others;
//! * **rejoining**: a server that sees nobody asks the addresses it was told, and the servers that its
//!   Raft configuration remembers, for gossip's way in;
//! * **reconciling** ([`reconcile`]): the leader makes the Raft configuration follow gossip;
//! * **addressing**: where gossip sees a server, Raft looks for it.
//!
//! Raft and gossip know nothing of each other; whatever passes between them passes here.
//!
//! Reads are linearizable unless the client asks for `stale`: Consul's default mode trusts a lease and
//! so the clocks; here the default costs a read-index round, which all waiting readers share.

pub mod bootstrap;
pub mod meta;
pub mod reconcile;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::config::{Bootstrap, Config, Invalid};
use crate::env::{AbortOnDrop, Env, hazard};
use crate::gossip::{self, EventDelegate, Gossip, Member, NewEvent, UserEvent, UserEvents};
use crate::mutant;
use crate::raft::client::{Client, NO_LEADER, WriteError as RaftWriteError};
use crate::raft::rpc::{Answer as RpcAnswer, Ask, Lane};
use crate::raft::{AddressBook, OpenError, RaftNode, Reach, ServerInfo, StartError, Store};
use crate::state::query::AskMachine;
use crate::state::{Command, Indexed, Machine, Outcome, Question, State};

use bootstrap::{found_together, founders};
use meta::Meta;
use reconcile::{Seen, Step, plan};

/// How often the leader looks whether configuration and gossip agree, when nothing tells it to.
const RECONCILE_EVERY: Duration = Duration::from_secs(5);
/// The first pause between two tries to find the others; it doubles up to the configured interval.
const REJOIN_FIRST: Duration = Duration::from_secs(1);
/// How long another server may take to say who it is.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// How long a leaving server waits to be taken out of the configuration.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

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

/// How current a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// What a client gets that asks for nothing: linearizable.
    Default,
    /// Linearizable.
    Consistent,
    /// Whatever this server has.
    Stale,
}

/// How to read.
#[derive(Clone, Copy, Debug)]
pub struct QueryOptions {
    /// How current.
    pub consistency: Consistency,
    /// Wait for something newer than this index; 0 does not wait.
    pub min_index: u64,
    /// How long to wait.
    pub wait: Duration,
}

/// What a query finds, and how current that is.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The index at which it last changed.
    pub index: u64,
    /// What it is.
    pub value: T,
    /// Whether this server knows a leader.
    pub known_leader: bool,
    /// How long ago this server last heard from the leader; zero on the leader.
    pub last_contact: Duration,
}

/// A server of the Raft configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Its id, in Raft and in gossip.
    pub node_id: u64,
    /// Its node name.
    pub name: String,
    /// Where other servers reach it.
    pub addr: SocketAddr,
    /// Whether it votes, or learns only.
    pub voter: bool,
    /// Whether it leads, as far as known.
    pub leader: bool,
    /// How far its log reaches: this server's own, and on the leader everyone's.
    pub last_index: Option<u64>,
}

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, or nobody could confirm that they do.
    #[error("{0}")]
    NoLeader(String),
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
}

impl From<RaftWriteError> for WriteError {
    fn from(error: RaftWriteError) -> WriteError {
        match error {
            RaftWriteError::Refused(_) => WriteError::Refused(error.to_string()),
            RaftWriteError::Unknown(_) => WriteError::Unknown(error.to_string()),
        }
    }
}

/// Which nodes an event is for: regular expressions, matched where it arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilters {
    /// By node name.
    pub node: String,
    /// By service.
    pub service: String,
    /// By tag of the service.
    pub tag: String,
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
}

/// One node. Clones are the same node.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    config: Config,
    node: RaftNode,
    client: Client,
    gossip: Gossip,
    events: UserEvents,
    membership_changed: Arc<Notify>,
    /// Whether the state holds again all that this server had applied before it restarted.
    recovered: AtomicBool,
    /// Why the node stops, from the moment it begins to.
    outcome: OnceLock<Result<(), String>>,
    /// The same, once it has stopped.
    stopping: watch::Sender<Option<Result<(), String>>>,
    duties: Mutex<Vec<AbortOnDrop>>,
}

/// Hears gossip's news and passes them on, without ever waiting.
struct Ear {
    addresses: AddressBook,
    changed: Arc<Notify>,
    /// The embedding program, if it wants to hear too.
    members: Option<Arc<dyn EventDelegate>>,
}

impl Ear {
    fn note(&self, member: &Member) {
        if let Some(meta) = Meta::decode(&member.meta)
            && member.status.is_live()
        {
            self.addresses.set(member.node_id, meta.rpc_addr);
        }
        self.changed.notify_one();
    }

    fn pass_on(&self, news: impl FnOnce(&dyn EventDelegate)) {
        if let Some(members) = &self.members {
            news(&**members);
        }
    }
}

impl EventDelegate for Ear {
    fn notify_join(&self, member: &Member) {
        tracing::info!(name = member.name, addr = %member.addr, "a member joined");
        self.note(member);
        self.pass_on(|members| members.notify_join(member));
    }
    fn notify_leave(&self, member: &Member) {
        tracing::info!(name = member.name, status = ?member.status, "a member is gone");
        self.note(member);
        self.pass_on(|members| members.notify_leave(member));
    }
    fn notify_update(&self, member: &Member) {
        self.note(member);
        self.pass_on(|members| members.notify_update(member));
    }
    fn notify_conflict(&self, first: &Member, second: &Member) {
        tracing::warn!(name = first.name, first = %first.addr, second = %second.addr, "two nodes have one name");
        self.pass_on(|members| members.notify_conflict(first, second));
    }
}

fn advertised(listening: SocketAddr, advertise: Option<IpAddr>) -> SocketAddr {
    SocketAddr::new(advertise.unwrap_or(listening.ip()), listening.port())
}

impl Agent {
    /// Starts a node, with what the embedding program adds. `http_port` is only told to others; serving it
    /// is the caller's.
    ///
    /// # Errors
    /// See [`Error`]. Nothing of the node runs then.
    pub async fn start(env: Env, config: Config, program: Program, http_port: u16) -> Result<Agent, Error> {
        config.check()?;
        let Program { machine, delegate, members } = program;
        let store = Store::open(&env).await?;
        env.linger(hazard::STORE_OPEN).await;
        let identity = store.identity();
        let listening = env.network().listen(config.rpc_addr).await;
        let listener = listening.map_err(|source| Error::Listen {
            addr: config.rpc_addr,
            purpose: "other servers",
            source,
        })?;
        let rpc_addr = advertised(listener.local_addr(), config.advertise);
        // Refutations and changes of metadata count within a life.
        let generation = identity.generation << 20;
        let me = ServerInfo {
            node_id: identity.node_id,
            name: config.node_name.clone(),
            addr: rpc_addr,
            generation,
        };

        let expect = match config.bootstrap {
            Bootstrap::Expect(expect) => expect,
            Bootstrap::Wait | Bootstrap::Alone => 0,
        };
        let meta = Meta {
            rpc_addr,
            http_port,
            expect,
            datacenter: config.datacenter.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tags: config.tags.clone(),
        };
        let meta = meta.encode().map_err(|size| Invalid {
            key: "tags",
            reason: format!("encoded with the node's facts they take {size} bytes of {}", meta::MAX_BYTES),
        })?;

        let addresses = AddressBook::default();
        let membership_changed = Arc::new(Notify::new());
        let ear = Ear { addresses: addresses.clone(), changed: membership_changed.clone(), members };
        let events = UserEvents::new(&env, move || meta.clone());
        let speaks: Arc<dyn gossip::Delegate> = match delegate {
            Some(delegate) => Arc::new(gossip::Beside::new(&env, events.clone(), delegate)),
            None => Arc::new(events.clone()),
        };
        let options = gossip::Options {
            node_id: identity.node_id,
            name: config.node_name.clone(),
            bind: config.gossip_addr,
            advertise: config.advertise.map(|ip| SocketAddr::new(ip, 0)),
            generation,
            timing: config.gossip.clone(),
            cluster: config.datacenter.clone(),
            newest: config.protocol,
        };
        let gossip = Gossip::start(&env, options, speaks, Arc::new(ear)).await.map_err(Error::Gossip)?;
        let blank = machine.map_or_else(State::default, State::with_machine);
        let gossip_addr = gossip.local().addr;
        env.linger(hazard::GOSSIP_UP).await;
        let reach = Reach { listener, gossip_addr, addresses, newest: config.protocol };
        let started = RaftNode::start(&env, &config.raft, me, store, blank, reach).await;
        let node = match started {
            Ok(node) => node,
            Err(error) => {
                gossip.shutdown().await;
                return Err(error.into());
            }
        };
        let client = Client::new(&env, node.clone(), config.raft.request_timeout());
        let agent = Agent {
            inner: Arc::new(Inner {
                env: env.clone(),
                config,
                node,
                client,
                gossip,
                events,
                membership_changed,
                recovered: AtomicBool::new(false),
                outcome: OnceLock::new(),
                stopping: watch::Sender::new(None),
                duties: Mutex::default(),
            }),
        };
        if let Err(error) = agent.join_at_start().await {
            agent.shutdown().await;
            return Err(error);
        }
        let duties = vec![
            env.spawn(agent.clone().found()).abort_on_drop(),
            env.spawn(agent.clone().rejoin()).abort_on_drop(),
            env.spawn(agent.clone().reconcile()).abort_on_drop(),
            env.spawn(agent.clone().count_sessions()).abort_on_drop(),
            env.spawn(agent.clone().watch_recovery()).abort_on_drop(),
            env.spawn(agent.clone().watch_failure()).abort_on_drop(),
        ];
        *agent.inner.duties.lock().unwrap_or_else(PoisonError::into_inner) = duties;
        Ok(agent)
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

    /// Stops at once, without telling anyone. What was acknowledged is on disk.
    pub async fn shutdown(&self) {
        self.stop(Ok(())).await;
    }

    async fn stop(&self, outcome: Result<(), String>) {
        // Whoever stops the node first says why: what stops because of that is no failure.
        let outcome = self.inner.outcome.get_or_init(|| outcome).clone();
        let duties = std::mem::take(&mut *self.inner.duties.lock().unwrap_or_else(PoisonError::into_inner));
        self.inner.gossip.shutdown().await;
        self.inner.node.shutdown().await;
        self.inner.stopping.send_if_modified(|stopping| {
            let first = stopping.is_none();
            stopping.get_or_insert(outcome);
            first
        });
        // Last: one of these may be the task that runs this.
        drop(duties);
    }

    // ---- what it is ----

    /// How it was configured.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Its world.
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// Its Raft id, which is its id in gossip too.
    pub fn node_id(&self) -> u64 {
        self.inner.node.me().node_id
    }

    /// Its Raft half.
    pub fn raft(&self) -> &RaftNode {
        &self.inner.node
    }

    /// The leader's address, as far as known.
    pub fn leader(&self) -> Option<SocketAddr> {
        self.inner.node.leader().and_then(|leader| self.inner.node.address_of(leader))
    }

    /// The addresses of the voters.
    pub fn peers(&self) -> Vec<SocketAddr> {
        let members = self.inner.node.members();
        let mut peers: Vec<SocketAddr> =
            members.into_iter().filter(|member| member.voter).map(|member| member.server.addr).collect();
        peers.sort();
        peers
    }

    /// All members that gossip remembers, by name.
    pub fn members(&self) -> Vec<Member> {
        self.inner.gossip.members()
    }

    /// This node as a member.
    pub fn local_member(&self) -> Member {
        self.inner.gossip.local()
    }

    /// A member's labels, as Consul shows them. Empty for a member whose facts do not decode.
    pub fn member_tags(member: &Member) -> BTreeMap<String, String> {
        let Some(meta) = Meta::decode(&member.meta) else { return BTreeMap::new() };
        let mut tags = meta.tags;
        let facts = [
            ("role", "consul".to_owned()),
            ("dc", meta.datacenter),
            ("id", uuid_of(member.node_id)),
            ("port", meta.rpc_addr.port().to_string()),
            ("http_port", meta.http_port.to_string()),
            ("raft_vsn", "3".to_owned()),
            ("vsn", "2".to_owned()),
            ("build", meta.version),
        ];
        tags.extend(facts.map(|(key, value)| (key.to_owned(), value)));
        if meta.expect > 0 {
            tags.insert("expect".to_owned(), meta.expect.to_string());
        }
        tags
    }

    // ---- reads and writes ----

    /// Looks at the state, as currently as asked; waits for a change if asked to.
    ///
    /// # Errors
    /// [`ReadError`] when it cannot be told how current the state is.
    pub async fn query<Q: Question>(
        &self,
        options: QueryOptions,
        question: &Q,
    ) -> Result<Answer<Q::Found>, ReadError> {
        match options.consistency {
            Consistency::Stale => {
                // Mutant R17: a server that has just restarted answers from what its snapshot held.
                if !self.inner.recovered.load(Ordering::Relaxed) && !mutant::is("R17") {
                    self.inner.env.reachable("a stale read is refused until the server has caught up");
                    let text = format!("{NO_LEADER}: this server has not caught up since its restart");
                    return Err(ReadError::NoLeader(text));
                }
            }
            Consistency::Default | Consistency::Consistent => {
                let current = self.inner.client.read_barrier().await;
                current.map_err(|error| ReadError::NoLeader(error.to_string()))?;
            }
        }
        let deadline = self.inner.env.now() + options.wait;
        let mut applied = self.inner.node.state().applied();
        loop {
            applied.mark_unchanged();
            let (found, newest) =
                self.inner.node.state().read(|state| (question.ask(state), state.applied()));
            let newer = options.min_index == 0
                || found.index > options.min_index
                // The client knows more than we do: it saw another history, so it must start over.
                || options.min_index > newest;
            let left = deadline.since(self.inner.env.now());
            // Mutant R35: a reader that waits is not woken.
            if mutant::is("R35") && !newer && !left.is_zero() {
                self.inner.env.sleep(left).await;
                return Ok(Answer {
                    index: found.index,
                    value: found.value,
                    known_leader: self.inner.node.leader().is_some(),
                    last_contact: self.inner.node.last_contact(),
                });
            }
            // Mutant H09: any change wakes every reader.
            let newer = newer || (mutant::is("H09") && options.min_index < newest);
            if newer || left.is_zero() || self.inner.env.timeout(left, applied.changed()).await.is_err() {
                return Ok(Answer {
                    index: found.index,
                    value: found.value,
                    known_leader: self.inner.node.leader().is_some(),
                    last_contact: self.inner.node.last_contact(),
                });
            }
        }
    }

    /// Applies a command to the replicated state, wherever the leader is.
    ///
    /// # Errors
    /// [`WriteError`] tells whether it may have been applied all the same.
    pub async fn write(&self, command: Command) -> Result<Outcome, WriteError> {
        // Mutant H01: the client hears that it is done before it is.
        if mutant::is("H01") {
            let client = self.inner.client.clone();
            drop(self.inner.env.spawn(async move { client.write(command).await }));
            return Ok(Outcome::Done { index: 0 });
        }
        Ok(self.inner.client.write(command).await?)
    }

    /// Applies a command to the embedding program's [`Machine`], wherever the leader is, and gives its answer.
    ///
    /// # Errors
    /// [`WriteError`] tells whether it may have been applied all the same. Refused when there is no machine.
    pub async fn command(&self, command: &[u8]) -> Result<Vec<u8>, WriteError> {
        let no_machine = || WriteError::Refused("this program has no state machine of its own".to_owned());
        if self.inner.node.state().read(|state| state.machine().is_none()) {
            return Err(no_machine());
        }
        match self.write(Command::Machine(command.into())).await? {
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
        let options = QueryOptions { consistency, min_index: 0, wait: Duration::ZERO };
        Ok(self.query(options, &AskMachine { question: question.to_vec() }).await?.value)
    }

    // ---- membership ----

    /// Makes the server at this address a voter of the cluster.
    ///
    /// # Errors
    /// Refused when it does not answer, or belongs to another cluster.
    pub async fn add_server(&self, addr: SocketAddr) -> Result<(), WriteError> {
        let asked = self.inner.node.pool().call(addr, None, Lane::Client, &Ask::Status, STATUS_WITHIN).await;
        let status = match asked {
            Ok(RpcAnswer::Status(status)) => status,
            Ok(_) => {
                return Err(WriteError::Refused(format!(
                    "the server at {addr} gave an answer that does not fit"
                )));
            }
            Err(error) => return Err(WriteError::Refused(error.to_string())),
        };
        let Some(mine) = self.inner.node.cluster() else {
            return Err(WriteError::Refused("this server belongs to no cluster yet".to_owned()));
        };
        if let Some(theirs) = status.cluster
            && theirs != mine
        {
            return Err(WriteError::OtherCluster { addr, theirs, mine });
        }
        Ok(self.inner.client.add_server(status.server).await?)
    }

    /// The servers of the Raft configuration in force, and the log index it has.
    pub fn configuration(&self) -> Indexed<Vec<Configured>> {
        let node = &self.inner.node;
        let metrics = node.metrics();
        let leader = node.leader();
        let last_index = |id: u64| {
            if id == self.node_id() {
                return metrics.last_log_index;
            }
            metrics.replication.as_ref()?.get(&id)?.as_ref().map(|matched| matched.index())
        };
        let servers = node.members().into_iter().map(|member| Configured {
            node_id: member.server.node_id,
            addr: member.server.addr,
            voter: member.voter,
            leader: leader == Some(member.server.node_id),
            last_index: last_index(member.server.node_id),
            name: member.server.name,
        });
        let index = metrics.membership_config.log_id().as_ref().map_or(0, |log_id| log_id.index());
        Indexed { index, value: servers.collect() }
    }

    /// Takes a server out of the Raft configuration.
    ///
    /// # Errors
    /// As for a write.
    pub async fn remove_server(&self, node_id: u64) -> Result<(), WriteError> {
        Ok(self.inner.client.remove_server(node_id).await?)
    }

    /// Hands leadership to another server.
    ///
    /// # Errors
    /// As for a write.
    pub async fn transfer_leadership(&self, node_id: Option<u64>) -> Result<(), WriteError> {
        Ok(self.inner.client.transfer_leadership(node_id).await?)
    }

    /// Joins gossip through any of these members. Returns how many answered.
    ///
    /// # Errors
    /// Why each failed, when all did.
    pub async fn join(&self, addrs: &[SocketAddr]) -> Result<usize, String> {
        self.inner.gossip.join(addrs).await.map_err(|error| error.to_string())
    }

    /// Leaves: hands over leadership, says goodbye, waits to be taken out of the configuration, stops.
    /// [`Agent::wait`] returns then.
    pub async fn leave(&self) {
        let node = &self.inner.node;
        let others = node.members().iter().any(|m| m.voter && m.server.node_id != self.node_id());
        self.inner.env.sometimes(others && node.is_leader(), "a leader leaves");
        if others
            && node.is_leader()
            && let Err(error) = self.inner.client.transfer_leadership(None).await
        {
            tracing::warn!(%error, "leaving without having handed over leadership");
        }
        if let Err(error) = self.inner.gossip.leave(LEAVE_WITHIN).await {
            tracing::warn!(%error, "leaving without knowing that others heard");
        }
        if others && self.inner.env.timeout(LEAVE_WITHIN, self.taken_out()).await.is_err() {
            tracing::warn!("leaving before this server was seen to be out of the configuration");
        }
        self.stop(Ok(())).await;
    }

    /// Waits until another server says that this one no longer votes. It must not ask to be taken out: such
    /// a request could reach the leader long after this server is back, and expel it.
    async fn taken_out(&self) {
        let node = &self.inner.node;
        let mut again = self.inner.env.interval(Duration::from_millis(50));
        loop {
            for other in node.members().iter().filter(|member| member.server.node_id != self.node_id()) {
                let (addr, to) = (other.server.addr, Some(other.server.node_id));
                let asked = node.pool().call(addr, to, Lane::Client, &Ask::Status, STATUS_WITHIN);
                if let Ok(RpcAnswer::Status(status)) = asked.await
                    && !status.voters.is_empty()
                    && !status.voters.contains(&self.node_id())
                {
                    return;
                }
            }
            again.tick().await;
        }
    }

    /// Makes a failed member one that left.
    ///
    /// # Errors
    /// When there is no such member.
    pub async fn force_leave(&self, name: &str, prune: bool) -> Result<(), String> {
        self.inner.gossip.force_leave(name, prune).await.map_err(|error| match error {
            gossip::Error::UnknownMember { .. } => format!("agent: No node found with name '{name}'"),
            error => error.to_string(),
        })
    }

    // ---- events ----

    /// Sends an event to all nodes.
    ///
    /// # Errors
    /// When it is too large.
    pub async fn fire_event(
        &self,
        name: &str,
        payload: Bytes,
        filters: EventFilters,
    ) -> Result<UserEvent, String> {
        let event = NewEvent {
            name: name.to_owned(),
            payload,
            node_filter: filters.node,
            service_filter: filters.service,
            tag_filter: filters.tag,
        };
        self.inner.events.fire(event).map_err(|error| error.to_string())
    }

    /// This node's last events, oldest first. With an index that is not 0: waits until it is no longer
    /// the current one.
    pub async fn events(&self, name: Option<&str>, index: u64, wait: Duration) -> (u64, Vec<UserEvent>) {
        let mut newest = self.inner.events.subscribe();
        if index != 0 {
            // Listed as they are when the time is over.
            let _ = self.inner.env.timeout(wait, newest.wait_for(|newest| *newest != index)).await;
        }
        self.inner.events.list(name)
    }

    /// Numbers for people, by subsystem.
    pub fn stats(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let metrics = self.inner.node.metrics();
        let index = |log_id: Option<u64>| log_id.unwrap_or(0).to_string();
        let leader_addr = self.leader().map(|addr| addr.to_string()).unwrap_or_default();
        let raft = [
            ("state", format!("{:?}", metrics.state)),
            ("term", metrics.current_term.to_string()),
            ("last_log_index", index(metrics.last_log_index)),
            ("commit_index", index(metrics.local_committed.map(|log_id| log_id.index()))),
            ("applied_index", index(metrics.last_applied.map(|log_id| log_id.index()))),
            ("last_snapshot_index", index(metrics.snapshot.map(|log_id| log_id.index()))),
            ("num_peers", self.peers().len().saturating_sub(1).to_string()),
            ("last_contact", format!("{:?}", self.inner.node.last_contact())),
            ("state_digest", self.inner.node.state().read(|state| format!("{:016x}", state.digest()))),
        ];
        let consul = [
            ("server", "true".to_owned()),
            ("leader", self.inner.node.is_leader().to_string()),
            ("leader_addr", leader_addr),
            ("bootstrap", (self.inner.config.bootstrap == Bootstrap::Alone).to_string()),
            ("known_datacenters", "1".to_owned()),
            ("cluster_id", self.inner.node.cluster().map(|id| format!("{id:016x}")).unwrap_or_default()),
        ];
        let named = |facts: &[(&str, String)]| {
            facts.iter().map(|(key, value)| (key.to_string(), value.clone())).collect::<BTreeMap<_, _>>()
        };
        BTreeMap::from([
            ("raft".to_owned(), named(&raft)),
            ("consul".to_owned(), named(&consul)),
            ("serf_lan".to_owned(), self.inner.gossip.stats()),
        ])
    }

    // ---- duties ----

    async fn join_at_start(&self) -> Result<(), Error> {
        let addrs = &self.inner.config.join;
        if addrs.is_empty() {
            return Ok(());
        }
        self.join(addrs).await.map(drop).map_err(Error::Join)
    }

    /// The servers that gossip knows, with their facts.
    fn seen(&self) -> Vec<(Seen, Meta)> {
        let members = self.inner.gossip.members();
        let servers = members.into_iter().filter_map(|member| {
            let meta = Meta::decode(&member.meta)?;
            let server = ServerInfo {
                node_id: member.node_id,
                name: member.name,
                addr: meta.rpc_addr,
                generation: member.generation,
            };
            Some((Seen { server, status: member.status }, meta))
        });
        servers.collect()
    }

    async fn found(self) {
        let env = &self.inner.env;
        let node = &self.inner.node;
        // A server that has been through this once belongs where it belongs.
        while node.cluster().is_none() || !node.has_state() {
            let founded = match self.inner.config.bootstrap {
                Bootstrap::Wait => return,
                Bootstrap::Alone => node.found(&[node.me().clone()]).await.map_err(|error| error.to_string()),
                Bootstrap::Expect(expect) => match founders(&self.seen(), expect) {
                    Some(founders) => found_together(node, &founders, STATUS_WITHIN).await,
                    None => Err("too few servers are there yet".to_owned()),
                },
            };
            if let Err(reason) = founded {
                tracing::debug!(reason, "no cluster founded yet");
                env.sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// Looks for the others as long as there are others to look for and none is seen.
    async fn rejoin(self) {
        let env = &self.inner.env;
        let mine = [self.local_member().addr, self.inner.config.gossip_addr];
        let longest = Duration::from_millis(self.inner.config.retry_interval_ms.max(1));
        let mut pause = REJOIN_FIRST.min(longest);
        let mut tries = 0;
        let mut last_reason = None;
        loop {
            let missing = self.missing_servers();
            let alone = self.live_others().is_empty();
            let told = if alone { self.inner.config.retry_join.as_slice() } else { &[] };
            let mut addrs = told.to_vec();
            // One list of addresses may serve all nodes, and then names this one too.
            addrs.retain(|addr| !mine.contains(addr));
            if missing.is_empty() && addrs.is_empty() {
                tries = 0;
                last_reason = None;
                pause = REJOIN_FIRST.min(longest);
                env.sleep(longest).await;
                continue;
            }
            for server in missing {
                let asked =
                    self.inner.node.pool().call(server, None, Lane::Client, &Ask::Status, STATUS_WITHIN);
                if let Ok(RpcAnswer::Status(status)) = asked.await
                    && self.inner.node.cluster().is_some_and(|mine| status.cluster == Some(mine))
                    && status.server.node_id != self.node_id()
                {
                    addrs.push(status.gossip);
                }
            }
            if !addrs.is_empty() {
                let before = self.live_others();
                match self.join(&addrs).await {
                    Ok(count) if self.live_others() != before => tracing::info!(count, "joined"),
                    Ok(count) => tracing::debug!(count, "joined, and nobody new is there"),
                    Err(reason) => {
                        tries += 1;
                        let max = self.inner.config.retry_max;
                        if max != 0 && tries >= max && alone && !told.is_empty() {
                            self.stop(Err(format!("gave up joining after {max} tries: {reason}"))).await;
                            return;
                        }
                        // The same again at every try would only fill the log.
                        if last_reason.as_ref() == Some(&reason) {
                            tracing::debug!(reason, "cannot join yet");
                        } else {
                            tracing::warn!(reason, "cannot join yet");
                        }
                        last_reason = Some(reason);
                    }
                }
            }
            env.sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// The ids of the other members that gossip sees alive.
    fn live_others(&self) -> BTreeSet<u64> {
        let others = self.members().into_iter().filter(|m| m.node_id != self.node_id());
        others.filter(|member| member.status.is_live()).map(|member| member.node_id).collect()
    }

    /// The addresses of configured servers that gossip does not see.
    fn missing_servers(&self) -> Vec<SocketAddr> {
        let live = self.live_others();
        let me = self.inner.node.me();
        // A server that was here before this one may still be configured at this very address.
        let others = self
            .inner
            .node
            .members()
            .into_iter()
            .map(|member| member.server)
            .filter(|server| server.node_id != me.node_id && server.addr != me.addr);
        others.filter(|server| !live.contains(&server.node_id)).map(|server| server.addr).collect()
    }

    async fn reconcile(self) {
        let env = &self.inner.env;
        loop {
            // Mutant T02: the system's randomness gets into a timer.
            let jitter = if mutant::is("T02") { mutant::system_jitter() } else { Duration::ZERO };
            tokio::select! {
                biased;
                () = self.inner.membership_changed.notified() => {}
                () = self.inner.node.leader_changed() => {}
                () = env.sleep(RECONCILE_EVERY + jitter) => {}
            }
            while self.inner.node.is_leader() {
                let seen: Vec<Seen> = self.seen().into_iter().map(|(seen, _)| seen).collect();
                let Some(step) = plan(&seen, &self.inner.node.members(), self.node_id()) else { break };
                let adds = matches!(step, Step::Add(_));
                env.sometimes(adds, "a leader adds a server that gossip found");
                env.sometimes(!adds, "a leader removes a server that said it leaves");
                tracing::info!(?step, "the configuration follows gossip");
                env.linger(hazard::PLANNED).await;
                let done = match step {
                    Step::Add(server) => self.inner.client.add_server(server).await,
                    Step::Remove { node_id } => self.inner.client.remove_server(node_id).await,
                };
                if let Err(error) = done {
                    env.reachable("a change of the configuration is tried again");
                    tracing::warn!(%error, "the configuration does not follow gossip yet");
                    env.sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn watch_recovery(self) {
        if self.inner.node.recovered().await {
            self.inner.recovered.store(true, Ordering::Relaxed);
        }
    }

    async fn watch_failure(self) {
        let gossip = self.inner.gossip.fatal();
        let reason = tokio::select! {
            biased;
            reason = self.inner.node.failed() => reason,
            reason = gossip => reason,
        };
        if self.inner.outcome.get().is_none() {
            tracing::error!(reason, "this node stops");
        }
        self.stop(Err(reason)).await;
    }
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
