//! The replicated log: openraft, and everything of ours that it stands on.
//!
//! ```text
//!   client of this server ──► Client ──► Ask::Propose ──► the leader's RaftNode
//!   (writes, read barriers)    retries      (rpc)              │ gathers proposals into batches
//!                              until known                     ▼
//!                                                         openraft core
//!                      elections, replication, commit   ┌─────┼───────────┐
//!                                                       ▼     ▼           ▼
//!                                                      log  network     state
//!                                                       └─► store (one sync a batch)
//! ```
//!
//! * [`runtime`]: the clock, timers and tasks of openraft are those of the node's `Env`.
//! * [`store`]: log, vote, snapshot, identity on disk; [`log`] and [`state`] are openraft's views of it.
//! * [`waiters`]: who is woken by an entry that is applied.
//! * [`elections`]: which votes were refused, for whoever asks why there is no leader.
//! * [`recover`]: a cluster of what one disk holds, after a quorum was lost for good.
//! * [`rpc`]: frames, connections, requests between servers; [`network`] is openraft's view of it.
//! * [`client`]: how a server, leader or not, gets a command applied or a read made current; [`requests`] are
//!   the ids that make it safe to ask again.
//!
//! Two ids: a server's *node id* is drawn at random when its directory is founded; the *cluster id*
//! is a hash of the founders' ids, learned from whoever first sends a server Raft messages, and never
//! changed. A message from another cluster is refused.
//!
//! Deliberately absent: leases. A linearizable read asks a majority (read-index), so no answer rests
//! on two clocks running at the same rate.

pub mod client;
pub mod elections;
pub mod frame;
pub mod log;
pub mod network;
pub mod recover;
pub mod requests;
pub mod rpc;
pub mod runtime;
pub mod state;
pub mod store;
pub mod waiters;
#[cfg(test)]
mod wire_v1;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{ChangeMembers, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::RaftConfig;
use crate::env::observe::RaftRole;
use crate::env::{AbortOnDrop, Env, Instant, Listener, Observed, hazard};
use crate::mutant;
use crate::state::{Outcome, Request, State};

use elections::Elections;
pub use network::AddressBook;
use network::{Acknowledged, Network};
pub use rpc::{Answer, Ask, LeaderError, Pool, Status};
use rpc::{Caller, Handler, Lane, SnapshotChunk};
pub use state::SharedState;
use state::StateMachine;
pub use store::{Identity, OpenError, Store, StoreOptions};

openraft::declare_raft_types!(
    /// openraft, with our types.
    pub TypeConfig:
        D = Request,
        R = Outcome,
        NodeId = u64,
        Node = Peer,
        Term = u64,
        // Raft as in the paper: at most one leader a term.
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = runtime::Runtime,
);

type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Bytes>;
type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
type Core = openraft::Raft<TypeConfig, StateMachine>;

/// What the Raft configuration says of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address when it was added; gossip may know a newer one.
    pub addr: SocketAddr,
    /// Its gossip generation when it was added: a departure of an earlier life does not concern it.
    pub generation: u64,
}

/// A server, by all its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its Raft id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Where other servers reach it.
    pub addr: SocketAddr,
    /// The gossip generation of the life that this speaks of.
    pub generation: u64,
}

/// One server of the Raft configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub server: ServerInfo,
    /// Whether its vote counts, now or after the change under way.
    pub voter: bool,
}

/// Proposals waiting for the batcher. When it is full, proposers wait.
const PROPOSALS: usize = 4096;
/// Proposals handed to openraft at once.
const MAX_PROPOSAL_BATCH: usize = 512;
/// A snapshot is not taken for the log's length in bytes before the log behind the last is so many times as large as that.
const SNAPSHOTS_IN_LOG: u64 = 4;
/// Bytes of a snapshot that a leader may send.
const MAX_SNAPSHOT: usize = 2 << 30;
/// Bytes of the largest command that is proposed: with all that comes around it, it fits into a frame.
pub const MAX_COMMAND: usize = frame::MAX_FRAME / 2;
/// Snapshots being received at once.
const MAX_INCOMING: usize = 2;
/// What a leader answers whose log waits for space.
const FULL: &str = "the disk of the leader is full: free some space, or try again when another server leads";
/// How often a leader with a full disk tries to hand over.
const GIVE_WAY_EVERY: Duration = Duration::from_secs(1);
/// A learner this close behind the leader's last entry is made a voter.
const PROMOTION_LAG: u64 = 64;

/// Answers the calls of agents without a state. What they mean is not Raft's business: bytes in, bytes out.
pub type Desk = Box<dyn Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync>;

type Proposal = (Request, oneshot::Sender<Result<Outcome, LeaderError>>);

/// The Raft half of a server. Clones are the same server.
#[derive(Clone)]
pub struct RaftNode {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    me: ServerInfo,
    store: Store,
    state: SharedState,
    core: Core,
    pool: Pool,
    addresses: AddressBook,
    proposals: mpsc::Sender<Proposal>,
    incoming: Mutex<BTreeMap<u64, Incoming>>,
    request_timeout: Duration,
    gossip_addr: SocketAddr,
    agents: OnceLock<Desk>,
    elections: Elections,
    newest: u8,
    tally: Tally,
    /// When the leader was last heard, in nanoseconds of the node's clock.
    heard_leader: AtomicU64,
    /// A leader that was silent for longer is no sign of a leader: followers stand for election sooner.
    patience: Duration,
    started: Instant,
    /// One membership change at a time; openraft refuses a second, we let it wait.
    changing: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<AbortOnDrop>>,
    /// Part of mutant R31: the term, the time on the wall when a majority was last asked, and the index
    /// that it confirmed.
    #[cfg(feature = "mutants")]
    lease: Mutex<Option<(u64, Duration, u64)>>,
}

/// A snapshot that is being received from one leader.
struct Incoming {
    /// When its first piece came.
    begun: Instant,
    vote: Vote,
    meta: SnapshotMeta,
    data: Vec<u8>,
}

/// Why the Raft half could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state on disk cannot be loaded.
    #[error("cannot load the state from disk: {0}")]
    Load(#[source] io::Error),
    /// openraft would not start.
    #[error("cannot start Raft: {0}")]
    Raft(String),
}

/// Why a cluster was not founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// This server already belongs to a cluster, or its log holds something.
    #[error("this server already belongs to cluster {cluster:016x}")]
    AlreadyMember {
        /// Its cluster; 0 if its log is not empty but names none.
        cluster: u64,
    },
    /// This server promised to found another cluster.
    #[error("this server promised to found cluster {promised:016x}, not {wanted:016x}")]
    PromisedElsewhere {
        /// The promise.
        promised: u64,
        /// What was asked.
        wanted: u64,
    },
    /// The disk or openraft refused.
    #[error("cannot found a cluster: {0}")]
    Failed(String),
}

/// The id of the cluster that these servers found together.
pub fn cluster_id(founders: &BTreeSet<u64>) -> u64 {
    let bytes: Vec<u8> = founders.iter().flat_map(|id| id.to_le_bytes()).collect();
    xxh3_64(&bytes)
}

/// The index in a log id.
pub fn log_index(log_id: &Option<LogId>) -> Option<u64> {
    log_id.as_ref().map(|log_id| log_id.index())
}

/// The term in a log id.
pub fn log_term(log_id: &Option<LogId>) -> Option<u64> {
    log_id.as_ref().map(|log_id| log_id.committed_leader_id().term)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn observed_membership(index: u64, membership: &openraft::Membership<u64, Peer>) -> Observed {
    let voters = membership.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect();
    Observed::Membership { index, voters, learners: membership.learner_ids().collect() }
}

struct Me {
    node_id: u64,
    store: Store,
    newest: u8,
}

impl Caller for Me {
    fn node_id(&self) -> u64 {
        self.node_id
    }
    fn cluster(&self) -> Option<u64> {
        self.store.cluster()
    }
    fn newest(&self) -> u8 {
        self.newest
    }
}

/// What a server has to tell of its Raft, for whoever counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// As the leader it has committed and applied a command, that long after it was asked to.
    Committed(Duration),
    /// It stands for election.
    Stands,
    /// It leads.
    Leads,
}

/// Who is told. It must not wait for anything.
pub type Tally = Box<dyn Fn(Told) + Send + Sync>;

/// How servers reach each other.
pub struct Reach {
    /// Where other servers come in.
    pub listener: Box<dyn Listener>,
    /// Where this server's gossip is.
    pub gossip_addr: SocketAddr,
    /// Where the others are.
    pub addresses: AddressBook,
    /// The newest version of the protocol that is spoken: see [`frame`].
    pub newest: u8,
    /// Who counts what happens here.
    pub tally: Tally,
}

impl RaftNode {
    /// Starts Raft on an opened store and serves other servers. `blank` is the state before the log's first
    /// entry.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        env: &Env,
        config: &RaftConfig,
        me: ServerInfo,
        store: Store,
        blank: State,
        reach: Reach,
    ) -> Result<RaftNode, StartError> {
        let Reach { listener, gossip_addr, addresses, newest, tally } = reach;
        let (machine, state) = StateMachine::load(env, &store, blank).await.map_err(StartError::Load)?;
        let applied = state.read(|state| state.applied());
        store.observe_recovery(applied).await.map_err(StartError::Load)?;
        let openraft_config = openraft::Config {
            cluster_name: "driftline".to_owned(),
            heartbeat_interval: config.heartbeat_ms,
            election_timeout_min: config.election_timeout_min_ms,
            election_timeout_max: config.election_timeout_max_ms,
            install_snapshot_timeout: 10_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_entries),
            replication_lag_threshold: config.snapshot_entries.saturating_add(config.trailing_entries),
            max_in_snapshot_log_to_keep: config.trailing_entries,
            purge_batch_size: 64,
            // A server cut off for a while comes back without deposing a healthy leader.
            enable_pre_vote: Some(true),
            // A restarted leader stands for election like anyone: its state machine may be behind.
            enable_leader_restore: Some(false),
            ..Default::default()
        };
        let openraft_config =
            openraft_config.validate().map_err(|error| StartError::Raft(error.to_string()))?;
        let caller = Arc::new(Me { node_id: me.node_id, store: store.clone(), newest });
        let pool = Pool::new(env.clone(), caller);
        let elections = Elections::new(env);
        let network = Network {
            acknowledged: Acknowledged::default(),
            elections: elections.clone(),
            pool: pool.clone(),
            addresses: addresses.clone(),
            me: me.node_id,
            chunk_bytes: config.snapshot_chunk_bytes as usize,
            append_timeout: Duration::from_millis(1_000.max(2 * config.election_timeout_max_ms)),
        };
        let core =
            Core::new(me.node_id, Arc::new(openraft_config), network, log::Log::new(store.clone()), machine)
                .await
                .map_err(|error| StartError::Raft(error.to_string()))?;

        let started = env.now();
        let (proposals, queue) = mpsc::channel(PROPOSALS);
        let node = RaftNode {
            inner: Arc::new(Inner {
                env: env.clone(),
                me,
                store,
                state,
                core: core.clone(),
                pool,
                addresses,
                proposals,
                incoming: Mutex::default(),
                request_timeout: config.request_timeout(),
                gossip_addr,
                agents: OnceLock::new(),
                elections,
                newest,
                tally,
                heard_leader: AtomicU64::new(started.0),
                patience: Duration::from_millis(2 * config.election_timeout_max_ms),
                started,
                changing: tokio::sync::Mutex::new(()),
                tasks: Mutex::default(),
                #[cfg(feature = "mutants")]
                lease: Mutex::default(),
            }),
        };
        let tasks = vec![
            env.spawn(propose_in_batches(env.clone(), core.clone(), queue)).abort_on_drop(),
            env.spawn(node.clone().observe_roles()).abort_on_drop(),
            env.spawn(node.clone().give_way_when_full()).abort_on_drop(),
            env.spawn(node.clone().keep_log_short(config.clone())).abort_on_drop(),
            env.spawn(rpc::serve(env.clone(), listener, Arc::new(Server(node.clone())))).abort_on_drop(),
        ];
        *locked(&node.inner.tasks) = tasks;
        Ok(node)
    }

    /// Who this server is.
    pub fn me(&self) -> &ServerInfo {
        &self.inner.me
    }

    /// The replicated state, to read from.
    pub fn state(&self) -> &SharedState {
        &self.inner.state
    }

    /// The cluster this server belongs to, if it belongs to one.
    pub fn cluster(&self) -> Option<u64> {
        self.inner.store.cluster()
    }

    /// Completes with that cluster, once there is one.
    pub async fn joined_cluster(&self) -> u64 {
        self.inner.store.joined_cluster().await
    }

    /// Whether the log or the vote holds anything.
    pub fn has_state(&self) -> bool {
        self.inner.store.log_bounds().1.is_some()
            || self.inner.store.vote().is_some_and(|vote| vote.leader_id.term > 0)
    }

    /// Says who answers the calls of agents without a state. Only the first call has an effect.
    pub fn serve_agents(&self, desk: Desk) {
        let _ = self.inner.agents.set(desk);
    }

    /// The connections to other servers.
    pub fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// Where servers are now.
    pub fn addresses(&self) -> &AddressBook {
        &self.inner.addresses
    }

    /// Completes with the reason when this server can no longer take part.
    pub async fn failed(&self) -> String {
        let mut disk = self.inner.store.failure();
        // Why Raft ended is told among what changes with every entry, and whoever waited for that would wake as often.
        // What rarely changes is closed right after.
        let mut raft = self.inner.core.server_metrics();
        let fatal = || {
            let metrics = self.inner.core.metrics();
            let state = &metrics.borrow_watched().running_state;
            state.as_ref().err().map(ToString::to_string)
        };
        loop {
            if let Some(reason) = disk.borrow().clone() {
                return reason;
            }
            if let Some(reason) = fatal() {
                return reason;
            }
            tokio::select! {
                biased;
                changed = disk.changed() => if changed.is_err() {
                    return "the store has stopped".to_owned();
                },
                changed = raft.changed() => if changed.is_err() {
                    return fatal().unwrap_or_else(|| "Raft has stopped".to_owned());
                },
            }
        }
    }

    /// Where Raft stands.
    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.inner.core.metrics().borrow_watched().clone()
    }

    /// The term, as far as this server knows. All metrics at once would have to be copied.
    fn term(&self) -> u64 {
        self.inner.core.metrics().borrow_watched().current_term
    }

    /// Whether this server believes that it leads.
    pub fn is_leader(&self) -> bool {
        self.leads(&self.inner.core.server_metrics().borrow_watched())
    }

    fn leads(&self, metrics: &RaftServerMetrics<TypeConfig>) -> bool {
        metrics.state == ServerState::Leader && metrics.current_leader == Some(self.inner.me.node_id)
    }

    /// How long ago the leader was last heard; zero on the leader itself, as long as a majority answers it.
    pub fn last_contact(&self) -> Duration {
        if !self.is_leader() {
            return self.silence();
        }
        let confirmed = self.inner.core.metrics().borrow_watched().last_quorum_acked.as_ref().map(|at| **at);
        match confirmed {
            Some(confirmed) if self.live_leader().is_none() => self.inner.env.now().since(confirmed),
            _ => Duration::ZERO,
        }
    }

    /// How long ago another server was last heard as the leader; if none was, how long this life has lasted. Whether this server
    /// leads is not asked: openraft says so in several channels that may differ for a moment.
    fn silence(&self) -> Duration {
        self.inner.env.now().since(Instant(self.inner.heard_leader.load(Ordering::Relaxed)))
    }

    /// How long ago a leader was last heard in this life, if ever.
    pub fn heard_leader(&self) -> Option<Duration> {
        let heard = self.inner.heard_leader.load(Ordering::Relaxed);
        (heard != self.inner.started.0).then(|| self.inner.env.now().since(Instant(heard)))
    }

    /// The votes that were refused lately, by this server and to it.
    pub fn elections(&self) -> &Elections {
        &self.inner.elections
    }

    /// The term of the last entry in the log.
    pub fn last_log_term(&self) -> Option<u64> {
        log_term(&self.inner.store.log_bounds().1)
    }

    /// Waits until the state holds again what it held before the restart. False when Raft has stopped.
    pub async fn recovered(&self) -> bool {
        self.inner.core.wait_for_recovery(None).await.is_ok()
    }

    /// The leader's Raft id, as far as known.
    pub fn leader(&self) -> Option<u64> {
        self.inner.core.metrics().borrow_watched().current_leader
    }

    /// The leader's Raft id, if it was lately seen to lead: heard by this server or, when that is the leader, by a quorum.
    ///
    /// [`RaftNode::leader`] outlives its subject until there is another, which is right for whoever has a request to send and
    /// wrong for whoever asks how the cluster is.
    pub fn live_leader(&self) -> Option<u64> {
        let (leader, alone, confirmed) = {
            let metrics = self.inner.core.metrics();
            let metrics = metrics.borrow_watched();
            let alone = metrics.membership_config.membership().voter_ids().nth(1).is_none();
            let confirmed = metrics.last_quorum_acked.as_ref().map(|at| **at);
            (metrics.current_leader?, alone, confirmed)
        };
        let lives = if leader == self.inner.me.node_id {
            let silent = confirmed.map(|at| self.inner.env.now().since(at));
            alone || silent.is_some_and(|silent| silent <= self.inner.patience)
        } else {
            self.silence() <= self.inner.patience
        };
        lives.then_some(leader)
    }

    /// Waits until this server leads, if it `led` when the caller last looked, and the other way round. What happened
    /// between that look and this call is not missed: openraft tells what it is in several channels, one after the other, and
    /// a caller that was woken by one and then asked another found a leader not yet one, and slept (seen in production, in
    /// one start of ten under load).
    pub async fn leadership_changed(&self, led: bool) {
        self.news(|now| self.leads(now) != led).await;
    }

    /// Waits until a server other than `before` is known to lead. That none is known any more is no news for whoever has a
    /// request to send.
    async fn another_leads(&self, before: Option<u64>) {
        self.news(|now| now.current_leader.is_some() && now.current_leader != before).await;
    }

    async fn observe_roles(self) {
        let env = &self.inner.env;
        let mut metrics = self.inner.core.server_metrics();
        let mut last = None;
        loop {
            let now = {
                let metrics = metrics.borrow_and_update();
                let role = match metrics.state {
                    ServerState::Learner => RaftRole::Learner,
                    ServerState::Follower => RaftRole::Follower,
                    ServerState::Candidate => RaftRole::Candidate,
                    ServerState::Leader => RaftRole::Leader,
                    ServerState::Shutdown => RaftRole::Stopped,
                };
                (metrics.vote.leader_id.term, role, metrics.current_leader)
            };
            if last != Some(now) {
                let (term, role, leader) = now;
                tracing::info!(term, ?role, leader = leader.map(|id| format!("{id:016x}")), "raft");
                env.observe(Observed::Role { term, role, leader });
                let before = last.map(|(term, role, _)| (term, role));
                for told in told_of(before, (term, role)) {
                    (self.inner.tally)(told);
                }
                last = Some(now);
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until what Raft tells of this server is so. Once Raft has stopped, as it does when the disk fails, there is no
    /// news any more, and that there is none is no news either: taken for some, it made a server send what it had under way
    /// to the leader again and again until it was gone (seed 915).
    async fn news(&self, is_so: impl Fn(&RaftServerMetrics<TypeConfig>) -> bool + Send) {
        let mut metrics = self.inner.core.server_metrics();
        if metrics.wait_until(is_so).await.is_err() {
            std::future::pending().await
        }
    }

    /// Where a server of the configuration is reached.
    pub fn address_of(&self, node_id: u64) -> Option<SocketAddr> {
        if node_id == self.inner.me.node_id {
            return Some(self.inner.me.addr);
        }
        let configured = || {
            let metrics = self.inner.core.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.get_node(&node_id).map(|peer| peer.addr)
        };
        self.inner.addresses.get(node_id).or_else(configured)
    }

    /// The servers of the configuration in force.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        membership
            .nodes()
            .map(|(id, peer)| Member {
                server: ServerInfo {
                    node_id: *id,
                    name: peer.name.clone(),
                    addr: self.address_of(*id).unwrap_or(peer.addr),
                    generation: peer.generation,
                },
                voter: voters.contains(id),
            })
            .collect()
    }

    /// What this server says of itself.
    pub fn status(&self) -> Status {
        Status {
            server: self.inner.me.clone(),
            cluster: self.cluster(),
            leader: self.leader(),
            has_state: self.has_state(),
            gossip: self.inner.gossip_addr,
            voters: self.metrics().membership_config.voter_ids().collect(),
        }
    }

    /// Promises to found this cluster and no other; see [`RaftNode::found`].
    ///
    /// # Errors
    /// As [`RaftNode::found`].
    pub async fn promise(&self, cluster: u64) -> Result<(), FoundError> {
        if self.cluster().is_some_and(|mine| mine != cluster)
            || (self.has_state() && self.cluster().is_none())
        {
            return Err(FoundError::AlreadyMember { cluster: self.cluster().unwrap_or(0) });
        }
        let promised = self.inner.store.promise_cluster(cluster).await;
        let promised = promised.map_err(|error| FoundError::Failed(error.to_string()))?;
        if promised != cluster {
            return Err(FoundError::PromisedElsewhere { promised, wanted: cluster });
        }
        Ok(())
    }

    /// Founds the cluster of these servers, this one among them. Done already: nothing happens.
    ///
    /// Every founder must have promised first, and only one of them may call this: the first entry is
    /// written once and replicated to the others.
    ///
    /// # Errors
    /// When this server belongs to, or promised to, another cluster.
    pub async fn found(&self, founders: &[ServerInfo]) -> Result<(), FoundError> {
        let cluster = cluster_id(&founders.iter().map(|server| server.node_id).collect());
        self.promise(cluster).await?;
        let mine = self.inner.store.adopt_cluster(cluster).await;
        let mine = mine.map_err(|error| FoundError::Failed(error.to_string()))?;
        if mine != cluster {
            return Err(FoundError::AlreadyMember { cluster: mine });
        }
        let members: BTreeMap<u64, Peer> = founders
            .iter()
            .map(|server| {
                (
                    server.node_id,
                    Peer { name: server.name.clone(), addr: server.addr, generation: server.generation },
                )
            })
            .collect();
        match self.inner.core.initialize(members).await {
            // Not allowed: it has begun already, by our hand or another founder's.
            Ok(()) | Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(FoundError::Failed(error.to_string())),
        }
    }

    /// Whether the disk has no space for the log.
    pub fn disk_is_full(&self) -> bool {
        self.inner.store.is_full()
    }

    // ---- what only a leader can do; anyone else answers `NotLeader` ----

    async fn propose(&self, request: Request) -> Result<Outcome, LeaderError> {
        if !self.is_leader() {
            return Err(LeaderError::NotLeader { leader: self.leader() });
        }
        if self.inner.store.is_full() {
            return Err(LeaderError::Refused(FULL.to_owned()));
        }
        let bytes = request.command.size();
        if bytes > MAX_COMMAND {
            // It would be in the leader's log, and no follower could ever be sent it.
            let text = format!("a command of {bytes} bytes is too large: {MAX_COMMAND} are allowed");
            return Err(LeaderError::Refused(text));
        }
        let begun = self.inner.env.now();
        let (sender, receiver) = oneshot::channel();
        let stopped = || LeaderError::Refused("this server is stopping".to_owned());
        self.inner.proposals.send((request, sender)).await.map_err(|_| stopped())?;
        let answer = receiver
            .await
            .unwrap_or_else(|_| Err(LeaderError::Unknown("this server is stopping".to_owned())))?;
        // Mutant R56: what is committed is not acknowledged until all voters answer.
        if mutant::is("R56") {
            self.all_voters_answer().await?;
        }
        (self.inner.tally)(Told::Committed(self.inner.env.now().since(begun)));
        Ok(answer)
    }

    /// Part of the mutants R55 and R56.
    async fn all_voters_answer(&self) -> Result<(), LeaderError> {
        for Member { server, voter } in self.members() {
            if voter && server.node_id != self.inner.me.node_id {
                let asked = self.pool().call(
                    server.addr,
                    None,
                    Lane::Client,
                    &Ask::Status,
                    self.inner.request_timeout,
                );
                asked.await.map_err(|error| LeaderError::Unknown(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// The log index that a read must wait for so that it sees every write finished before now.
    ///
    /// Raft dissertation, section 6.4 (read-index): a majority confirms that no newer leader exists.
    async fn read_index(&self) -> Result<u64, LeaderError> {
        // Mutant R27: answers without asking a majority.
        if mutant::is("R27") && self.is_leader() {
            return Ok(self.inner.state.read(|state| state.applied()));
        }
        // Mutant R31: trusts a majority's word for two heartbeats, as the wall clock counts them.
        let asked = (self.term(), self.inner.env.wall());
        if mutant::is("R31")
            && self.is_leader()
            && let Some(index) = self.leased_index(asked)
        {
            return Ok(index.max(self.inner.state.read(|state| state.applied())));
        }
        match self.inner.core.get_read_linearizer(ReadPolicy::ReadIndex).await {
            // Mutant R28: a leader reads before it has committed an entry of its own term.
            Ok(_) if mutant::is("R28") => Ok(self.inner.state.read(|state| state.applied())),
            Ok(linearizer) => {
                // Mutant R55: a read asks all voters, and not a majority.
                if mutant::is("R55") {
                    self.all_voters_answer().await?;
                }
                let index = linearizer.read_log_id().index();
                self.inner
                    .env
                    .sometimes_if(|| self.term() > asked.0, "a read is confirmed while the term changes");
                self.renew_lease(asked, index);
                Ok(index)
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                self.inner.env.reachable("a read is refused because this server does not lead any more");
                Err(LeaderError::NotLeader { leader: forward.leader_id })
            }
            Err(error) => {
                self.inner.env.reachable("a read finds no majority to confirm it");
                Err(LeaderError::Unknown(error.to_string()))
            }
        }
    }

    /// Part of mutant R31: the index that a majority confirmed in this term, two heartbeats ago at most.
    #[cfg(feature = "mutants")]
    fn leased_index(&self, (term, now): (u64, Duration)) -> Option<u64> {
        let lease = Duration::from_millis(2 * self.inner.core.config().heartbeat_interval);
        let (leased, since, index) = (*locked(&self.inner.lease))?;
        (leased == term && now < since + lease).then_some(index)
    }

    #[cfg(feature = "mutants")]
    fn renew_lease(&self, (term, asked): (u64, Duration), index: u64) {
        *locked(&self.inner.lease) = Some((term, asked, index));
    }

    #[cfg(not(feature = "mutants"))]
    fn leased_index(&self, _: (u64, Duration)) -> Option<u64> {
        None
    }

    #[cfg(not(feature = "mutants"))]
    fn renew_lease(&self, _: (u64, Duration), _: u64) {}

    async fn change<T>(
        &self,
        what: &str,
        change: impl Future<Output = Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>>,
    ) -> Result<T, LeaderError> {
        match self.inner.env.timeout(self.inner.request_timeout, change).await {
            Err(_) => {
                self.inner.env.reachable("a membership change is not committed in time");
                Err(LeaderError::Unknown(format!("{what} was not done in time")))
            }
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(leader_error(error)),
        }
    }

    /// Adds a server as a learner, waits until it has nearly caught up, and makes it a voter.
    async fn add_server(&self, server: ServerInfo) -> Result<(), LeaderError> {
        let _turn = self.turn_to_change().await?;
        if self.members().iter().any(|member| member.server.node_id == server.node_id && member.voter) {
            return Ok(());
        }
        self.add_learner_now(&server).await?;
        self.promote_now(server.node_id).await
    }

    /// On the leader: adds a server that learns and does not vote yet.
    ///
    /// # Errors
    /// [`LeaderError`] tells whether it may have been added all the same.
    pub async fn add_learner(&self, server: &ServerInfo) -> Result<(), LeaderError> {
        let _turn = self.turn_to_change().await?;
        self.add_learner_now(server).await
    }

    /// On the leader: makes a learner a voter, once it has nearly caught up. Done already: nothing happens.
    ///
    /// # Errors
    /// [`LeaderError`] tells whether it may have been done all the same.
    pub async fn promote(&self, node_id: u64) -> Result<(), LeaderError> {
        let _turn = self.turn_to_change().await?;
        match self.members().iter().find(|member| member.server.node_id == node_id) {
            None => Err(LeaderError::Refused("there is no such learner any more".to_owned())),
            Some(member) if member.voter => Ok(()),
            Some(_) => self.promote_now(node_id).await,
        }
    }

    /// Waits until no other change of membership is under way here.
    async fn turn_to_change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, LeaderError> {
        if !self.is_leader() {
            return Err(LeaderError::NotLeader { leader: self.leader() });
        }
        let waits = self.inner.changing.try_lock().is_err();
        self.inner.env.sometimes(waits, "a membership change waits for another to end");
        Ok(self.inner.changing.lock().await)
    }

    /// A configured server that was last seen at the same address under another id is the same machine before its data
    /// was lost: it is removed first, or it would count as a dead voter for ever.
    async fn add_learner_now(&self, server: &ServerInfo) -> Result<(), LeaderError> {
        let members = self.members();
        let known = members.iter().any(|member| member.server.node_id == server.node_id);
        // Where it is now, and not where it was when it was added: it may have moved since, and another come to its
        // old address.
        let lives_at =
            |member: &Member| self.inner.addresses.get(member.server.node_id).unwrap_or(member.server.addr);
        for ghost in members.iter().filter(|member| {
            member.server.node_id != server.node_id
                && lives_at(member) == server.addr
                && member.server.node_id != self.inner.me.node_id
        }) {
            self.inner.env.reachable("a server that lost its disk takes the place of its former self");
            self.remove_now(ghost.server.node_id).await?;
        }
        if !known {
            let peer = Peer { name: server.name.clone(), addr: server.addr, generation: server.generation };
            self.change("adding a learner", self.inner.core.add_learner(server.node_id, peer, false)).await?;
        }
        self.inner.env.linger(hazard::LEARNER_ADDED).await;
        Ok(())
    }

    async fn promote_now(&self, node_id: u64) -> Result<(), LeaderError> {
        self.wait_for_catch_up(node_id).await?;
        self.inner.env.linger(hazard::CAUGHT_UP).await;
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([node_id]));
        self.change("adding a voter", self.inner.core.change_membership(voters, false)).await?;
        Ok(())
    }

    /// On the leader: ends a change of the voters that another leader began and did not get to end. Until then a majority is wanted
    /// of those before as well as of those after it, and the loss of one server may be too much. No such change: nothing happens.
    ///
    /// # Errors
    /// [`LeaderError`] tells whether it may have been ended all the same.
    pub async fn end_change(&self) -> Result<(), LeaderError> {
        let is_joint = || self.metrics().membership_config.membership().get_joint_config().len() > 1;
        if !is_joint() {
            return Ok(());
        }
        let _turn = self.turn_to_change().await?;
        // It may have been this server's own, which has ended since.
        if is_joint() {
            let none = ChangeMembers::AddVoterIds(BTreeSet::new());
            self.change("ending a change of voters", self.inner.core.change_membership(none, false)).await?;
            self.inner.env.reachable("a leader ends a change of voters that another began");
        }
        Ok(())
    }

    async fn wait_for_catch_up(&self, node_id: u64) -> Result<(), LeaderError> {
        let caught_up = async {
            let mut metrics = self.inner.core.metrics();
            loop {
                {
                    let now = metrics.borrow_and_update();
                    let Some(replication) = &now.replication else {
                        return Err(LeaderError::NotLeader { leader: now.current_leader });
                    };
                    let matched = replication.get(&node_id).cloned().flatten().map(|id| id.index());
                    let last = now.last_log_index.unwrap_or(0);
                    if matched.is_some_and(|matched| matched + PROMOTION_LAG >= last) {
                        return Ok(());
                    }
                }
                if metrics.changed().await.is_err() {
                    return Err(LeaderError::Unknown("Raft has stopped".to_owned()));
                }
            }
        };
        let late = || {
            self.inner.env.reachable("a learner does not catch up in time and stays a learner");
            LeaderError::Refused("the new server is still catching up; it stays a learner".to_owned())
        };
        self.inner.env.timeout(self.inner.request_timeout, caught_up).await.unwrap_or_else(|_| Err(late()))
    }

    async fn remove_server(&self, node_id: u64) -> Result<(), LeaderError> {
        let _turn = self.turn_to_change().await?;
        match self.remove_now(node_id).await {
            // Mutant R58: what was not committed in time is taken for done.
            Err(LeaderError::Unknown(_)) if mutant::is("R58") => Ok(()),
            removed => removed,
        }
    }

    async fn remove_now(&self, node_id: u64) -> Result<(), LeaderError> {
        let members = self.members();
        let Some(member) = members.iter().find(|member| member.server.node_id == node_id) else {
            return Ok(());
        };
        if member.voter {
            if members.iter().filter(|member| member.voter).count() == 1 {
                return Err(LeaderError::Refused("the last voter cannot be removed".to_owned()));
            }
            // A leader that is out of the configuration leads on for a moment, in which it can change nothing more: openraft
            // panics if it tries. So the heir takes it out.
            if node_id == self.inner.me.node_id {
                self.transfer_to(None).await?;
                return Err(LeaderError::NotLeader { leader: self.leader() });
            }
            let change = ChangeMembers::RemoveVoters(BTreeSet::from([node_id]));
            // Mutant R57: it votes no more, and is a learner from then on.
            let stays = mutant::is("R57");
            self.change("removing a voter", self.inner.core.change_membership(change, stays)).await?;
            self.inner.env.linger(hazard::VOTER_REMOVED).await;
            if stays {
                return Ok(());
            }
        }
        if self.members().iter().any(|member| member.server.node_id == node_id) {
            let change = ChangeMembers::RemoveNodes(BTreeSet::from([node_id]));
            self.change("removing a server", self.inner.core.change_membership(change, false)).await?;
        }
        Ok(())
    }

    async fn transfer_to(&self, node_id: Option<u64>) -> Result<(), LeaderError> {
        if !self.is_leader() {
            return Err(LeaderError::NotLeader { leader: self.leader() });
        }
        let metrics = self.metrics();
        let matched =
            |id: &u64| metrics.replication.as_ref()?.get(id).cloned().flatten().map(|at| at.index());
        let voters: Vec<u64> =
            metrics.membership_config.voter_ids().filter(|id| *id != self.inner.me.node_id).collect();
        let heir = match node_id {
            Some(id) => voters.contains(&id).then_some(id),
            None => voters.into_iter().max_by_key(matched),
        };
        let Some(heir) = heir else {
            return Err(LeaderError::Refused("there is no such voter to hand leadership to".to_owned()));
        };
        let asked = self.inner.core.trigger().transfer_leader(heir).await;
        asked.map_err(|error| LeaderError::Unknown(error.to_string()))?;
        let mut metrics = self.inner.core.metrics();
        let heard = metrics.wait_until(|m| m.state != ServerState::Leader);
        match self.inner.env.timeout(self.inner.request_timeout, heard).await {
            Ok(Ok(_)) => {
                self.inner.env.reachable("leadership is handed over on request");
                Ok(())
            }
            _ => Err(LeaderError::Unknown("the heir did not take over in time".to_owned())),
        }
    }

    /// A leader whose disk is full refuses writes; another may have space.
    async fn give_way_when_full(self) {
        let mut full = self.inner.store.full();
        while full.wait_for(|full| *full).await.is_ok() {
            if self.is_leader()
                && let Err(error) = self.transfer_to(None).await
            {
                tracing::debug!(%error, "the disk is full, and nobody takes over");
            }
            self.inner.env.sleep(GIVE_WAY_EVERY).await;
        }
    }

    /// Sees to it that the log does not grow without a bound where its entries are large: openraft counts entries only.
    async fn keep_log_short(self, config: RaftConfig) {
        let Inner { store, state, core, .. } = &*self.inner;
        let mut grown = store.grown();
        loop {
            let covered = store.snapshot_meta().and_then(|meta| log_index(&meta.last_log_id));
            let applied = state.read(State::applied);
            // Writing down all of a large state costs more than a log that is a few times as long.
            let due = config.snapshot_after_bytes.max(SNAPSHOTS_IN_LOG * store.snapshot_bytes() as u64);
            let asked = if store.logged(covered.unwrap_or(0), applied) >= due {
                core.trigger().snapshot().await
            } else {
                Ok(())
            };
            // What no snapshot covers stays.
            let goes =
                store.beyond(config.trailing_bytes).zip(covered).map(|(beyond, covered)| beyond.min(covered));
            let asked = match goes.filter(|goes| Some(*goes) > log_index(&store.log_bounds().0)) {
                Some(goes) => asked.and(core.trigger().purge_log(goes).await),
                None => asked,
            };
            // Raft has ended, or the store has.
            if asked.is_err() || grown.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks whoever leads. Answers by this very server do not travel.
    pub(crate) async fn ask(
        &self,
        node_id: u64,
        ask: Ask,
        within: Duration,
    ) -> Result<Answer, rpc::CallError> {
        if node_id == self.inner.me.node_id {
            return Ok(self.answer(ask).await);
        }
        let Some(addr) = self.address_of(node_id) else {
            return Err(rpc::CallError::NotSent {
                addr: SocketAddr::from(([0, 0, 0, 0], 0)),
                reason: format!("no address of server {node_id:016x} is known"),
            });
        };
        self.inner.pool.call(addr, Some(node_id), Lane::Client, &ask, within).await
    }

    /// Answers what does not concern a certain sender.
    async fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Propose(request) => Answer::Propose(self.propose(request).await),
            Ask::ReadIndex => Answer::ReadIndex(self.read_index().await),
            // What is rare is boxed: it would make the future of every heartbeat as large as its own.
            Ask::AddServer(server) => Answer::Changed(Box::pin(self.add_server(server)).await),
            Ask::RemoveServer { node_id } => Answer::Changed(Box::pin(self.remove_server(node_id)).await),
            Ask::TransferTo { node_id } => Answer::Changed(Box::pin(self.transfer_to(node_id)).await),
            Ask::Status => Answer::Status(self.status()),
            Ask::Promise { cluster } => match Box::pin(self.promise(cluster)).await {
                Ok(()) => Answer::Promise { cluster },
                Err(FoundError::PromisedElsewhere { promised, .. }) => Answer::Promise { cluster: promised },
                Err(FoundError::AlreadyMember { cluster }) => Answer::WrongCluster { cluster },
                Err(error) => Answer::Failed(error.to_string()),
            },
            Ask::Append(mut request) => {
                if let Err(reason) = check_consecutive(&request) {
                    return Answer::Failed(reason);
                }
                self.bend_append(&mut request).await;
                self.count_what_does_not_fit(&request).await;
                match self.inner.core.append_entries(request).await {
                    Ok(answer) => {
                        let env = &self.inner.env;
                        let conflict = matches!(answer, AppendEntriesResponse::Conflict);
                        env.sometimes(conflict, "a follower misses what comes before the entries it is sent");
                        let deposed = matches!(answer, AppendEntriesResponse::HigherVote(_));
                        env.sometimes(deposed, "a deposed leader is told of a later term");
                        if !deposed {
                            self.inner.heard_leader.store(self.inner.env.now().0, Ordering::Relaxed);
                        }
                        Answer::Append(answer)
                    }
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
            Ask::Vote(mut request) => {
                self.bend_vote(&mut request);
                let asked = request.clone();
                let (vote, last) = (request.vote, request.last_log_id);
                match self.inner.core.vote(request).await {
                    // Mutant R03: the vote of this very term is forgotten, and given again.
                    Ok(answer)
                        if mutant::is("R03")
                            && !answer.vote_granted
                            && !answer.vote.committed
                            && answer.vote.leader_id.term == vote.leader_id.term
                            && last >= answer.last_log_id =>
                    {
                        Answer::Vote(VoteResponse::new(vote, answer.last_log_id, true))
                    }
                    Ok(answer) => {
                        self.inner.elections.note(self.inner.me.node_id, &asked, &answer);
                        let env = &self.inner.env;
                        env.sometimes(answer.vote_granted, "a vote is granted");
                        let (term, log, alive) = refusals(&answer, vote, last);
                        env.sometimes(term, "a vote is refused because a later term is known");
                        env.sometimes(log, "a vote is refused because the candidate's log is behind");
                        env.sometimes(alive, "a vote is refused although nothing but its timing is wrong");
                        Answer::Vote(answer)
                    }
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
            Ask::PreVote(mut request) => {
                self.bend_vote(&mut request);
                let asked = request.clone();
                let (vote, last) = (request.vote, request.last_log_id);
                match self.inner.core.pre_vote(request).await {
                    Ok(answer) => {
                        self.inner.elections.note(self.inner.me.node_id, &asked, &answer);
                        let env = &self.inner.env;
                        env.sometimes(answer.vote_granted, "a pre-vote is granted");
                        let (term, log, alive) = refusals(&answer, vote, last);
                        env.sometimes(term, "a pre-vote is refused because a later term is known");
                        env.sometimes(log, "a pre-vote is refused because the candidate's log is behind");
                        env.sometimes(alive, "a pre-vote is refused because a leader was heard a moment ago");
                        Answer::Vote(answer)
                    }
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
            Ask::TransferLeader(request) => match self.inner.core.handle_transfer_leader(request).await {
                Ok(answer) => Answer::TransferLeader(answer),
                Err(error) => Answer::Failed(error.to_string()),
            },
            Ask::Snapshot(_) => Answer::Failed("a snapshot needs a sender".to_owned()),
            Ask::Clock => Answer::Clock(u64::try_from(self.inner.env.wall().as_millis()).unwrap_or(u64::MAX)),
            Ask::Agent(call) => match self.inner.agents.get() {
                Some(desk) => Answer::Agent(desk(call).await),
                None => Answer::NotNow,
            },
        }
    }

    /// Mutant R07: a voter does not ask how far the candidate's log reaches.
    fn bend_vote(&self, request: &mut VoteRequest<TypeConfig>) {
        if mutant::is("R07") {
            request.last_log_id = request.last_log_id.max(self.inner.store.log_bounds().1);
        }
    }

    /// Mutant R41: what the follower has already it keeps, without a look whether it is the leader's.
    async fn bend_append(&self, request: &mut AppendEntriesRequest<TypeConfig>) {
        if !mutant::is("R41") {
            return;
        }
        let (purged, last) = self.inner.store.log_bounds();
        let has = |id: &LogId| Some(id.index()) <= last.map(|last| last.index());
        let known = request.entries.iter().take_while(|entry| has(&entry.log_id)).count();
        let before = request.entries[..known].last().map(|entry| entry.log_id).or(request.prev_log_id);
        let Some(before) = before.filter(|before| Some(before.index()) > purged.map(|id| id.index())) else {
            return;
        };
        let own = self.inner.store.entries(before.index()..=before.index(), usize::MAX).await;
        if let Some(own) = own.ok().and_then(|own| own.first().map(|entry| entry.log_id)) {
            request.entries.drain(..known);
            request.prev_log_id = Some(own);
        }
    }

    /// Mutant R15: the commit index of every request counts up to the follower's own last entry, before anybody has
    /// looked whether that is the leader's.
    async fn count_what_does_not_fit(&self, request: &AppendEntriesRequest<TypeConfig>) {
        let (purged, last) = self.inner.store.log_bounds();
        if !mutant::is("R15") || last <= purged {
            return;
        }
        let counted = AppendEntriesRequest { prev_log_id: last, entries: Vec::new(), ..request.clone() };
        let _ = self.inner.core.append_entries(counted).await;
    }

    /// Takes one piece of a snapshot; with the last one, installs it.
    async fn receive_snapshot(&self, from: u64, chunk: SnapshotChunk) -> Answer {
        // Mutant R16: a server without a log is sent no snapshot.
        if mutant::is("R16") && self.inner.store.log_bounds().1.is_none() {
            return Answer::Failed("nothing to follow on".to_owned());
        }
        let whole = {
            let mut incoming = locked(&self.inner.incoming);
            if chunk.offset == 0 {
                // Mutant R21: a second snapshot before the first is complete was not thought of.
                assert!(!mutant::is("R21") || incoming.is_empty(), "a snapshot is being received already");
                // A leader that begins anew has given up what it sent before.
                incoming.remove(&from);
                // One leader sends at a time; a second is its successor. Whoever began first gave up.
                while incoming.len() >= MAX_INCOMING
                    && let Some(first) =
                        incoming.iter().min_by_key(|(_, one)| one.begun).map(|(from, _)| *from)
                {
                    self.inner.env.reachable("a snapshot of a third leader displaces one half received");
                    incoming.remove(&first);
                }
                let begun = self.inner.env.now();
                let fresh = Incoming { begun, vote: chunk.vote, meta: chunk.meta.clone(), data: Vec::new() };
                incoming.insert(from, fresh);
            }
            let Some(current) = incoming.get_mut(&from) else {
                self.inner.env.reachable("a piece of a snapshot comes whose beginning never came");
                return Answer::Failed("this snapshot did not begin here; send it anew".to_owned());
            };
            let fits = current.vote == chunk.vote
                && current.meta == chunk.meta
                && current.data.len() as u64 == chunk.offset
                && current.data.len() + chunk.data.len() <= MAX_SNAPSHOT;
            if !fits {
                self.inner.env.reachable("a piece of a snapshot does not follow the last and is refused");
                incoming.remove(&from);
                return Answer::Failed(
                    "this piece does not follow the last; send the snapshot anew".to_owned(),
                );
            }
            current.data.extend_from_slice(&chunk.data);
            if !chunk.last {
                return Answer::Snapshot(None);
            }
            let whole = incoming.remove(&from);
            // What leaders before this one did not finish, they never will.
            incoming.retain(|_, other| other.vote > chunk.vote);
            whole
        };
        let Some(whole) = whole else { return Answer::Failed("no snapshot".to_owned()) };
        // Checked before openraft sees it: a damaged snapshot must not get near the state, and an
        // impossible one would make openraft panic. Aside: tasks do not stand still for the size of a state.
        let (state, data) = (self.state().clone(), Bytes::from(whole.data));
        let checked = data.clone();
        let checked = self.inner.env.blocking(move || state.decode(&checked).map(drop)).await;
        if let Err(error) = checked
            .map_err(|error| error.to_string())
            .and_then(|decoded| decoded.map_err(|error| error.to_string()))
        {
            self.inner.env.reachable("a damaged snapshot is refused");
            return Answer::Failed(error);
        }
        if let Err(reason) = check_possible(&whole.vote, &whole.meta, self.metrics().local_committed) {
            self.inner.env.unreachable("a leader sends a snapshot that contradicts what is committed here");
            return Answer::Failed(reason);
        }
        let snapshot = Snapshot { meta: whole.meta, snapshot: data };
        self.inner.env.linger(hazard::SNAPSHOT_RECEIVED).await;
        match self.inner.core.install_full_snapshot(whole.vote, snapshot).await {
            Ok(SnapshotResponse { vote }) => Answer::Snapshot(Some(SnapshotResponse { vote })),
            Err(error) => Answer::Failed(error.to_string()),
        }
    }

    /// Stops taking part. What was acknowledged is on disk.
    pub async fn shutdown(&self) {
        locked(&self.inner.tasks).clear();
        if let Err(error) = self.inner.core.shutdown().await {
            tracing::debug!(%error, "Raft had stopped already");
        }
    }
}

/// Why a vote was refused: for a later term, for a better log, or because it came at a bad time.
fn refusals(answer: &VoteResponse<TypeConfig>, asked: Vote, last: Option<LogId>) -> (bool, bool, bool) {
    let term = answer.vote.leader_id.term > asked.leader_id.term;
    let log = answer.last_log_id > last;
    let refused = !answer.vote_granted;
    (refused && term, refused && !term && log, refused && !term && !log)
}

/// openraft trusts its peers' snapshots to come from one history.
fn check_possible(vote: &Vote, meta: &SnapshotMeta, committed: Option<LogId>) -> Result<(), String> {
    let Some(last) = meta.last_log_id else { return Err("the snapshot is empty".to_owned()) };
    if last.committed_leader_id().term > vote.leader_id.term {
        return Err("the snapshot is from a later term than its sender".to_owned());
    }
    if committed.is_some_and(|committed| last > committed && last.index() <= committed.index()) {
        return Err("the snapshot contradicts what is committed here".to_owned());
    }
    Ok(())
}

/// openraft trusts its peers' entries to be consecutive, so that is made sure of here.
fn check_consecutive(request: &openraft::raft::AppendEntriesRequest<TypeConfig>) -> Result<(), String> {
    let first = request.prev_log_id.map_or(0, |log_id| log_id.index() + 1);
    for (expected, entry) in (first..).zip(&request.entries) {
        if entry.log_id.index() != expected {
            return Err(format!("entry {} where {expected} was due", entry.log_id.index()));
        }
    }
    Ok(())
}

fn leader_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> LeaderError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            LeaderError::NotLeader { leader: forward.leader_id }
        }
        RaftError::APIError(
            error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        ) => LeaderError::Refused(error.to_string()),
        error => LeaderError::Unknown(error.to_string()),
    }
}

/// Hands waiting proposals to openraft, as many at once as there are.
async fn propose_in_batches(env: Env, core: Core, mut queue: mpsc::Receiver<Proposal>) {
    let deposed = Arc::new(AtomicBool::new(false));
    while let Some((request, sender)) = queue.recv().await {
        // Mutant R48: after a change of leader the queue is never taken up again.
        if mutant::is("R48") && deposed.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let (mut requests, mut senders) = (vec![request], vec![sender]);
        while requests.len() < MAX_PROPOSAL_BATCH
            && let Ok((request, sender)) = queue.try_recv()
        {
            requests.push(request);
            senders.push(sender);
        }
        env.sometimes(senders.len() > 1, "several proposals go to Raft as one batch");
        env.linger(hazard::BEFORE_PROPOSE).await;
        let mut results = match core.client_write_many(requests).await {
            // It ends at the first error of Raft as a whole; those behind it hear that as well.
            Ok(results) => results.fuse(),
            Err(fatal) => {
                for sender in senders {
                    let _ = sender.send(Err(LeaderError::Unknown(fatal.to_string())));
                }
                continue;
            }
        };
        // The next batch does not wait for this one to be committed.
        let deposed = deposed.clone();
        let told = env.clone();
        env.spawn(async move {
            for sender in senders {
                let result = match results.next().await {
                    Some(Ok(Ok(written))) => Ok(written.response),
                    // Mutant R20: that an entry may be superseded by another leader's was not thought of.
                    Some(Ok(Err(_))) if mutant::is("R20") => unreachable!("a proposal was superseded"),
                    Some(Ok(Err(error))) => {
                        deposed.store(true, Ordering::Relaxed);
                        told.reachable(
                            "a write that a leader took is handed back because it lost leadership",
                        );
                        Err(leader_error(RaftError::APIError(error)))
                    }
                    Some(Err(fatal)) => Err(LeaderError::Unknown(fatal.to_string())),
                    None => Err(LeaderError::Unknown("Raft gave no answer".to_owned())),
                };
                // The asker may have given up.
                let _ = sender.send(result);
            }
        });
    }
}

/// What is to be counted when a server that was as `last` says is as `now` says. Who leads has stood for election in that term,
/// also if nobody looked at the moment when it did.
fn told_of(last: Option<(u64, RaftRole)>, now: (u64, RaftRole)) -> Vec<Told> {
    let (term, role) = now;
    let known = |role| last == Some((term, role));
    match role {
        _ if last == Some(now) => Vec::new(),
        RaftRole::Candidate => vec![Told::Stands],
        RaftRole::Leader if known(RaftRole::Candidate) => vec![Told::Leads],
        RaftRole::Leader => vec![Told::Stands, Told::Leads],
        _ => Vec::new(),
    }
}

/// What other servers talk to.
struct Server(RaftNode);

impl Caller for Server {
    fn node_id(&self) -> u64 {
        self.0.inner.me.node_id
    }
    fn cluster(&self) -> Option<u64> {
        self.0.cluster()
    }
    fn newest(&self) -> u8 {
        self.0.inner.newest
    }
}

impl Handler for Server {
    async fn handle(self: Arc<Self>, from: u64, cluster: Option<u64>, ask: Ask) -> Answer {
        // Who you are, what you promise, and what an agent without a state wants to know may be asked by
        // anyone; the rest only by one's own.
        let from_leader = matches!(
            ask,
            Ask::Append(_) | Ask::Vote(_) | Ask::PreVote(_) | Ask::Snapshot(_) | Ask::TransferLeader(_)
        );
        if !matches!(ask, Ask::Status | Ask::Promise { .. } | Ask::Agent(_)) {
            let Some(theirs) = cluster else {
                return Answer::Failed("the asker belongs to no cluster".to_owned());
            };
            let store = &self.0.inner.store;
            let mine = match (store.cluster(), store.promise()) {
                (Some(mine), _) => Ok(mine),
                // A promise to found one cluster is a promise not to be taken in by another.
                (None, Some(promise)) if promise.cluster != theirs => Ok(promise.cluster),
                // There is nothing here yet that could be asked for.
                (None, _) if !from_leader => {
                    return Answer::Failed("this server belongs to no cluster yet".to_owned());
                }
                // The first server that sends Raft's messages to one without a cluster takes it in.
                (None, _) => Box::pin(store.adopt_cluster(theirs)).await,
            };
            match mine {
                Ok(mine) if mine == theirs => {}
                Ok(mine) => {
                    self.0.inner.env.reachable("a server of another cluster is turned away");
                    return Answer::WrongCluster { cluster: mine };
                }
                Err(error) => return Answer::Failed(error.to_string()),
            }
        }
        match ask {
            Ask::Snapshot(chunk) => Box::pin(self.0.receive_snapshot(from, chunk)).await,
            ask => self.0.answer(ask).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::log::Log;
    use super::*;
    use crate::env::real::env_in_memory;
    use crate::state::{Command, KvCommand};
    use openraft::testing::log::{StoreBuilder, Suite};

    // openraft's suite makes nodes out of nothing.
    impl Default for Peer {
        fn default() -> Peer {
            Peer { name: String::new(), addr: localhost(), generation: 0 }
        }
    }

    struct Builder;

    impl StoreBuilder<TypeConfig, Log, StateMachine, ()> for Builder {
        async fn build(&self) -> Result<((), Log, StateMachine), openraft::StorageError<TypeConfig>> {
            let env = Env::current().expect("the suite runs inside an Env");
            let env = env_in_memory(env.ambient_random());
            let store = Store::open(&env, StoreOptions::default()).await.expect("a new store opens");
            let (machine, _) =
                StateMachine::load(&env, &store, State::default()).await.expect("an empty state loads");
            Ok(((), Log::new(store), machine))
        }
    }

    #[test]
    fn each_election_counts_once() {
        use RaftRole::{Candidate, Follower, Leader};
        let seen = [
            (0, Follower),
            (1, Candidate),
            (2, Candidate),
            (2, Leader),
            (3, Follower),
            (4, Leader),
            (4, Leader),
        ];
        let mut last = None;
        let mut all = Vec::new();
        for now in seen {
            all.extend(told_of(last, now));
            last = Some(now);
        }
        assert_eq!(all, [Told::Stands, Told::Stands, Told::Leads, Told::Stands, Told::Leads]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn openrafts_storage_suite_passes() {
        env_in_memory(1).scope(Suite::test_all(Builder)).await.unwrap();
    }

    fn localhost() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    async fn start(env: &Env, name: &str) -> (RaftNode, client::Client) {
        let config = RaftConfig { snapshot_entries: 50, trailing_entries: 10, ..RaftConfig::default() };
        start_with(env, name, config).await
    }

    async fn start_with(env: &Env, name: &str, config: RaftConfig) -> (RaftNode, client::Client) {
        let listener = env.network().listen(localhost()).await.unwrap();
        let store = Store::open(env, StoreOptions::default()).await.unwrap();
        let me = ServerInfo {
            node_id: store.identity().node_id,
            name: name.to_owned(),
            addr: listener.local_addr(),
            generation: 0,
        };
        let addresses = AddressBook::default();
        let reach = Reach {
            listener,
            gossip_addr: localhost(),
            addresses,
            newest: frame::NEWEST,
            tally: Box::new(|_| ()),
        };
        let node = RaftNode::start(env, &config, me, store, State::default(), reach).await.unwrap();
        (node.clone(), client::Client::new(env, node, config.request_timeout()))
    }

    fn set(key: &str, value: &str) -> Command {
        Command::Kv(KvCommand::Set { key: key.into(), value: value.as_bytes().into(), flags: 0, cas: None })
    }

    fn get(node: &RaftNode, key: &str) -> Option<Vec<u8>> {
        node.state().read(|state| state.kv().get(key).map(|entry| entry.value.to_vec()))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn three_servers_agree_and_a_late_one_gets_a_snapshot() {
        let envs: Vec<Env> = (0..3).map(env_in_memory).collect();
        envs[0]
            .scope(async {
                let (a, to_a) = start(&envs[0], "a").await;
                let (b, to_b) = start(&envs[1], "b").await;
                a.found(&[a.me().clone()]).await.unwrap();
                to_a.write(set("k", "1")).await.unwrap();
                to_a.add_server(b.me().clone()).await.unwrap();
                // A follower forwards, and reads what it wrote.
                to_b.write(set("k", "2")).await.unwrap();
                to_b.read_barrier().await.unwrap();
                assert_eq!(get(&b, "k").unwrap(), b"2");
                for i in 0..200 {
                    to_b.write(set("k", &i.to_string())).await.unwrap();
                }
                // The log no longer begins at the beginning, so the third needs a snapshot.
                let (c, to_c) = start(&envs[2], "c").await;
                to_b.add_server(c.me().clone()).await.unwrap();
                to_c.read_barrier().await.unwrap();
                assert_eq!(get(&c, "k").unwrap(), b"199");
                assert!(c.inner.store.log_bounds().0.is_some());
                assert_eq!(a.state().read(|s| s.digest()), c.state().read(|s| s.digest()));
                to_c.transfer_leadership(Some(c.me().node_id)).await.unwrap();
                to_a.write(set("k", "last")).await.unwrap();
                to_a.remove_server(a.me().node_id).await.unwrap();
                to_b.write(set("k", "without a")).await.unwrap();
                // Who leads hands over before it is taken out, and changes nothing any more.
                to_b.remove_server(c.me().node_id).await.unwrap();
                let late = c.add_learner(c.me()).await;
                assert!(matches!(late, Err(LeaderError::NotLeader { .. })), "{late:?}");
                to_b.write(set("k", "without c")).await.unwrap();
                for node in [a, b, c] {
                    node.shutdown().await;
                }
            })
            .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_of_few_large_entries_is_kept_short() {
        let env = env_in_memory(20);
        env.scope(async {
            let config = RaftConfig {
                snapshot_after_bytes: 1 << 20,
                trailing_bytes: 2 << 20,
                ..RaftConfig::default()
            };
            let (node, client) = start_with(&env, "a", config.clone()).await;
            node.found(&[node.me().clone()]).await.unwrap();
            let value = "v".repeat(100_000);
            let mut written = 0;
            let store = &node.inner.store;
            let logged = || store.logged(0, u64::MAX);
            // Snapshots are taken beside the writes, so there may be some more of these.
            while written < 10 << 20 || logged() > 3 << 20 {
                client.write(set("k", &value)).await.unwrap();
                written += value.len() as u64;
                assert!(written < 200 << 20, "{} bytes are still there", logged());
            }
            assert!(logged() >= config.trailing_bytes, "what lags a little is sent entries");
            assert!(written / (value.len() as u64) < config.snapshot_entries, "it was not for their number");
            node.shutdown().await;
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_joins_at_the_old_address_of_a_server_that_moved_does_not_displace_it() {
        let envs: Vec<Env> = (10..13).map(env_in_memory).collect();
        envs[0]
            .scope(async {
                let (a, to_a) = start(&envs[0], "a").await;
                let (b, _to_b) = start(&envs[1], "b").await;
                let (c, to_c) = start(&envs[2], "c").await;
                a.found(&[a.me().clone()]).await.unwrap();
                // Founding is a change of the configuration too, and the next waits for it.
                to_a.read_barrier().await.unwrap();
                // Where it was when it was added, somebody else is now; gossip knows where it went.
                a.inner.addresses.set(b.me().node_id, b.me().addr);
                to_a.add_server(ServerInfo { addr: c.me().addr, ..b.me().clone() }).await.unwrap();
                to_a.add_server(c.me().clone()).await.unwrap();
                to_c.read_barrier().await.unwrap();
                let voters = a.members().into_iter().filter(|member| member.voter);
                let voters: BTreeSet<u64> = voters.map(|member| member.server.node_id).collect();
                assert_eq!(voters, [&a, &b, &c].map(|node| node.me().node_id).into());
                for node in [a, b, c] {
                    node.shutdown().await;
                }
            })
            .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restart_remembers_and_a_second_founding_is_refused() {
        let env = env_in_memory(5);
        env.scope(async {
            let identity = {
                let (node, client) = start(&env, "a").await;
                node.found(&[node.me().clone()]).await.unwrap();
                client.write(set("k", "1")).await.unwrap();
                node.shutdown().await;
                node.me().node_id
            };
            // The last handle of the first life may still be going down.
            let (node, client) = loop {
                match Store::open(&env, StoreOptions::default()).await {
                    Ok(store) => {
                        drop(store);
                        break start(&env, "a").await;
                    }
                    Err(OpenError::InUse { .. }) => env.sleep(Duration::from_millis(5)).await,
                    Err(error) => panic!("{error}"),
                }
            };
            assert_eq!(node.me().node_id, identity);
            client.read_barrier().await.unwrap();
            assert_eq!(get(&node, "k").unwrap(), b"1");
            let other = ServerInfo { node_id: 77, name: "x".into(), addr: localhost(), generation: 0 };
            let error = node.found(&[node.me().clone(), other]).await.unwrap_err();
            assert!(matches!(error, FoundError::AlreadyMember { .. }), "{error}");
            node.shutdown().await;
        })
        .await;
    }
}
