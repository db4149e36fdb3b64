//! A run, written down: how many nodes, how good their links and clocks are, what breaks when, and what
//! the clients ask. Plain data, so that it can be saved, read, cut down and replayed.
//!
//! A seed generates a scenario ([`Scenario::generate`]); a run is the code and a scenario. Every part is
//! drawn from a random stream of its own, named after it: turning one kind of fault off, or adding a
//! draw to one part, leaves the others as they were.
//!
//! What cannot be run is refused by [`Scenario::validate`].
//!
//! Generation ([`generate`]) is a swarm: each seed draws which kinds of fault it has at all, so that some are
//! calm in every respect but one, which is where a bug shows most clearly.
//!
//! Times are true simulated time in milliseconds since the storm's beginning, which is when the cluster
//! has formed. Nodes are numbered from 0.

pub mod agents;
pub mod disk;
pub mod followers;
pub mod generate;
pub mod joins;
pub mod keys;
pub mod links;
pub mod missing;
mod named;
pub mod news;
pub mod nodes;
pub mod orders;
pub mod pairs;
mod process;
pub mod rights;
pub mod services;
pub mod validate;

use std::collections::BTreeSet;

use driftline::config::NEWEST_PROTOCOL;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use keys::GossipKeys;

pub use disk::{DISK_KINDS, DiskFault, FileKind};
pub use joins::Joins;
pub use links::{Links, Spread, Traffic};
pub use missing::{Away, Missing};
pub use pairs::PairDeed;
pub use rights::RightDeed;
pub use services::ServiceDeed;

/// The version of the format. A newer one is refused, because it would mean something else.
pub const VERSION: u32 = 2;

/// The oldest version that is still read: all that it can say means the same in the newest.
pub const OLDEST: u32 = 1;

/// The kinds of faults by the names that `--without` and reports use.
pub const KINDS: &[&str] = &[
    "partition",
    "loss",
    "delay",
    "reorder",
    "duplicate",
    "stall",
    "kill",
    "power-loss",
    "clock",
    "fsync-fail",
    "membership",
    "transfer",
    "lag",
    "bandwidth",
    "clog",
    "black-hole",
    "refusal",
    "corrupt",
    "vanish",
    "move",
    // Disks, as in `DISK_KINDS`.
    "disk-slow",
    "disk-stall",
    "disk-full",
    "read-error",
    "write-error",
    "short-read",
    "misdirected-read",
    "misdirected-write",
    "bit-rot",
    "lying-sync",
    "sync-crash",
    "slow",
    "restart-storm",
    "crash-loop",
    "crash-point",
    "hazard",
    "lose-disk",
    "upgrade",
    // Orders of an operator, as in `orders::ORDERS`.
    "remove-peer",
    "force-leave",
    "save-snapshot",
];

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// [`VERSION`].
    pub version: u32,
    /// The root of all that is drawn while it runs: latencies, elections, the order of tasks.
    pub seed: u64,
    /// How many nodes there are at the beginning.
    pub nodes: u32,
    /// How many client agents there are besides: see [`agents`].
    #[serde(default)]
    pub client_agents: u32,
    /// How long the storm lasts.
    pub duration_ms: u64,
    /// Whether more may break than can be repaired: then only safety is judged, and a loss must be admitted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub beyond: bool,
    /// What does not change during the run.
    pub settings: Settings,
    /// The clock of each node at the beginning; nodes beyond the list have right ones.
    pub clocks: Vec<ClockSetting>,
    /// What breaks.
    pub faults: Vec<Fault>,
    /// What the clients ask.
    pub operations: Vec<PlannedOp>,
}

/// What does not change during a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How the cluster begins.
    pub founding: Founding,
    /// Whom the nodes' configurations name.
    #[serde(default)]
    pub joins: Joins,
    /// The leader's heartbeat.
    pub heartbeat_ms: u64,
    /// Shortest election timeout.
    pub election_timeout_min_ms: u64,
    /// Longest election timeout.
    pub election_timeout_max_ms: u64,
    /// Entries between two snapshots.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot.
    pub trailing_entries: u64,
    /// Bytes of a snapshot in one message.
    pub snapshot_chunk_bytes: u64,
    /// How long a node tries to serve a request.
    pub request_timeout_ms: u64,
    /// How long a client waits for an answer.
    pub client_timeout_ms: u64,
    /// Gossip's probe period; its other times follow from it.
    pub probe_period_ms: u64,
    /// Bytes of a segment of the log.
    #[serde(default = "default_segment_bytes")]
    pub segment_bytes: u64,
    /// Every value that a client writes is made so long; readers see what is before the padding.
    #[serde(default)]
    pub padding_bytes: u64,
    /// The links.
    pub links: LinkSettings,
    /// The disks.
    pub disks: DiskSettings,
    /// Which version of the protocols the nodes speak at the beginning.
    #[serde(default = "newest")]
    pub protocol: u8,
    /// The keys that gossip is encrypted with.
    #[serde(default)]
    pub gossip_keys: GossipKeys,
    /// The rest of the node's knobs.
    #[serde(default)]
    pub knobs: Knobs,
    /// Whether the nodes look at rights; what shows no token may do everything all the same.
    #[serde(default)]
    pub acl: bool,
    /// Which servers stay away for a while after the storm.
    #[serde(default)]
    pub missing: Option<Missing>,
}

fn newest() -> u8 {
    NEWEST_PROTOCOL
}

/// Knobs of the node that matter less often. Times in probe periods where the node's follow from that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Knobs {
    /// How many members are asked to probe a silent one.
    pub indirect_probes: u32,
    /// How long a suspicion lasts.
    pub suspicion_mult: u32,
    /// How many members are told a piece of news at once.
    pub gossip_fanout: u32,
    /// How often a piece of news is told.
    pub retransmit_mult: u32,
    /// Probe periods between two full exchanges of gossip.
    pub push_pull_periods: u64,
    /// Probe periods between two knocks on failed members.
    pub reconnect_periods: u64,
    /// How long a full exchange may take.
    pub stream_timeout_ms: u64,
    /// How often a node that is alone tries to join.
    pub retry_interval_ms: u64,
    /// Bytes of a server's newest entries that stay in memory when they are durable.
    pub cache_bytes: u64,
}

impl Default for Knobs {
    fn default() -> Knobs {
        Knobs {
            indirect_probes: 3,
            suspicion_mult: 3,
            gossip_fanout: 3,
            retransmit_mult: 4,
            push_pull_periods: 10,
            reconnect_periods: 5,
            stream_timeout_ms: 5_000,
            retry_interval_ms: 2_000,
            cache_bytes: 16 << 20,
        }
    }
}

/// How the cluster begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Founding {
    /// Node 0 alone; the others join it.
    First,
    /// All nodes together, once they see each other.
    Together,
}

/// How good the links are when nothing is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    /// Least one-way latency, in microseconds.
    pub latency_min_us: u64,
    /// Most one-way latency but for the tail, in microseconds.
    pub latency_max_us: u64,
    /// How many messages in a thousand take up to ten times the most.
    pub tail_per_mille: u32,
}

/// How fast the disks are when nothing is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    /// The shortest sync, in microseconds.
    pub sync_min_us: u64,
    /// The longest sync, in microseconds.
    pub sync_max_us: u64,
}

fn default_segment_bytes() -> u64 {
    65_536
}

/// A node's clock at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockSetting {
    /// How fast the monotonic clock runs, in millionths of true time.
    pub rate_ppm: u64,
    /// What the monotonic clock shows at the beginning.
    pub start_ms: u64,
    /// How far the wall clock is ahead.
    pub wall_offset_ms: i64,
}

impl Default for ClockSetting {
    fn default() -> ClockSetting {
        ClockSetting { rate_ppm: 1_000_000, start_ms: 0, wall_offset_ms: 0 }
    }
}

/// Something that breaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When.
    pub at_ms: u64,
    /// For how long: until the links pass again, the node is started again, the clock is right again.
    pub for_ms: u64,
    /// What.
    pub kind: FaultKind,
}

/// What breaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FaultKind {
    /// Some links between nodes pass nothing.
    Partition {
        /// Which.
        shape: Shape,
    },
    /// Links lose messages.
    Loss {
        /// How many of a hundred.
        percent: u32,
        /// Which links.
        #[serde(default)]
        links: Links,
    },
    /// Links are slower.
    Delay {
        /// At least so much.
        min_ms: u64,
        /// At most so much.
        max_ms: u64,
        /// Which links.
        #[serde(default)]
        links: Links,
    },
    /// Messages overtake each other.
    Reorder {
        /// How many of a hundred are held back.
        percent: u32,
        /// For how long at most.
        max_ms: u64,
        /// On which links.
        #[serde(default)]
        links: Links,
    },
    /// Datagrams arrive twice.
    Duplicate {
        /// How many of a hundred.
        percent: u32,
        /// On which links.
        #[serde(default)]
        links: Links,
    },
    /// A node gets no processor.
    Stall {
        /// Which.
        target: Target,
    },
    /// A node's process dies and is started again.
    Kill {
        /// Which.
        target: Target,
    },
    /// Hosts lose power and are started again.
    PowerLoss {
        /// Which.
        nodes: Vec<u32>,
    },
    /// A clock goes wrong.
    Clock {
        /// Whose.
        target: Target,
        /// How.
        change: ClockChange,
    },
    /// Syncs fail, and what they should have made durable is gone.
    FsyncFail {
        /// On which node.
        target: Target,
        /// How many.
        syncs: u32,
        /// How long after the first that fails the process dies, if it has not stopped by itself: only
        /// then does it show what a success after a failure was worth.
        crash_after_ms: Option<u64>,
    },
    /// A disk does what disks do.
    Disk {
        /// Whose.
        target: Target,
        /// What.
        fault: DiskFault,
    },
    /// The set of nodes changes.
    Membership {
        /// How.
        change: MembershipChange,
    },
    /// The leader is asked to hand over.
    Transfer,
    /// Messages on some links take longer.
    Lag {
        /// Which.
        links: Links,
        /// How much longer.
        spread: Spread,
    },
    /// Some links carry little. What waits for a link too long is lost, as from a router's queue.
    Bandwidth {
        /// Which.
        links: Links,
        /// How many bytes a second, each way of each link.
        bytes_per_s: u64,
    },
    /// Some links deliver in waves: nothing for a while, then all that was sent meanwhile.
    Clog {
        /// Which.
        links: Links,
        /// How long nothing passes.
        clogged_ms: u64,
        /// How long everything passes in between.
        free_ms: u64,
    },
    /// One kind of traffic vanishes and the other passes. Of streams: connects hang, and the bytes of those that exist
    /// are taken from the sender and never arrive, not even when this is over.
    BlackHole {
        /// On which links.
        links: Links,
        /// Which traffic.
        traffic: Traffic,
    },
    /// A firewall answers in place of the receiver: connects are refused, streams are reset. Datagrams pass.
    Refusal {
        /// On which links.
        links: Links,
    },
    /// Bytes are changed on the way in a manner that the transport's own checksums miss. Only between nodes: HTTP has
    /// no checksum, so what a client sends may arrive as something else, and no server could tell.
    Corrupt {
        /// On which links.
        links: Links,
        /// How many messages in a thousand.
        per_mille: u32,
    },
    /// A host loses power and is started again, and nobody ever hears that its streams are gone: no goodbye, no reset.
    Vanish {
        /// Which.
        target: Target,
    },
    /// A node's process dies, and the node comes back at another address, which may have been somebody else's.
    Move {
        /// Which.
        target: Target,
    },
    /// A node's processor is slow: every step of every task takes so long, one after the other.
    Slow {
        /// Which node.
        target: Target,
        /// How long a step takes.
        step_us: u64,
    },
    /// Processes are killed and started again at once, one after the other, again and again. With a long pause it is a
    /// rolling restart.
    RestartStorm {
        /// Which, in this order.
        nodes: Vec<u32>,
        /// How long after one it is the next one's turn.
        every_ms: u64,
    },
    /// A node's process dies soon after each start.
    CrashLoop {
        /// Which.
        target: Target,
        /// How long after its start.
        up_ms: u64,
    },
    /// The first node that passes a named place of its code dies there, once.
    CrashPoint {
        /// The place, one of `driftline::env::hazard::POINTS`.
        point: String,
        /// Whether its host loses power; otherwise only the process dies.
        power: bool,
    },
    /// Nodes pause at a named place of their code, so that what usually comes later comes first.
    Hazard {
        /// The place, one of `driftline::env::hazard::POINTS`.
        point: String,
        /// How many in a thousand times.
        per_mille: u32,
        /// How long at most.
        max_ms: u64,
    },
    /// A node's host dies with its disk. It comes back empty, as somebody new. It does not happen while the cluster could
    /// not get over it: while another such node, or one that is leaving, has not been replaced.
    LoseDisk {
        /// Which.
        node: u32,
    },
    /// A node's process is replaced by one that speaks another version of the protocols, newer or older.
    Upgrade {
        /// Which.
        node: u32,
        /// The newest version that it speaks from then on.
        protocol: u8,
    },
    /// One of the experiment's own.
    Own {
        /// What the experiment makes of it.
        detail: serde_json::Value,
    },
    /// The operator takes a server out of the Raft configuration. It comes back by itself when it runs. It does not happen while
    /// a server does not vote, or the others could not do without this one.
    RemovePeer {
        /// Which.
        node: u32,
        /// Whether its process is killed first, and started again when this ends.
        down: bool,
    },
    /// A node is away, and the operator declares that it has left: when another holds it for failed, or when half of the time is
    /// over. Of servers, it does not happen when the removal of this one would not.
    ForceLeave {
        /// Which.
        node: u32,
        /// How it is away until this ends.
        how: Away,
        /// Whether the others are to list it no more.
        prune: bool,
    },
    /// The operator saves a snapshot.
    SaveSnapshot {
        /// At which node.
        node: u32,
        /// Whether as that node has it, however old.
        stale: bool,
    },
}

/// Which links are blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Shape {
    /// These nodes and the others do not reach each other.
    Split(Vec<u32>),
    /// Whoever leads when it begins reaches nobody.
    Leader,
    /// These nodes do not reach the others, but the others reach them.
    OneWay(Vec<u32>),
    /// Whoever leads when it begins hears nobody, but is heard.
    DeafLeader,
    /// Each node reaches only its two neighbours in a ring.
    Ring,
    /// Two halves do not reach each other, but both reach this node.
    Bridge(u32),
    /// Whoever leads when it begins hears everybody, but nobody hears it.
    MuteLeader,
    /// What one node sends another does not arrive.
    Link {
        /// The sender.
        from: u32,
        /// The receiver.
        to: u32,
    },
    /// Several groups that do not reach each other; who is in none is a group of one.
    Islands(Vec<Vec<u32>>),
    /// These nodes and the clients do not reach each other; the nodes reach one another.
    Clients(Vec<u32>),
}

/// Which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// This one.
    Node(u32),
    /// Whoever leads then; node 0 if nobody does.
    Leader,
}

/// How a clock goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ClockChange {
    /// The monotonic clock runs at so many millionths of true time.
    Rate(u64),
    /// The monotonic clock jumps ahead: the machine was suspended.
    Jump(u64),
    /// The wall clock jumps by so many milliseconds.
    Step(i64),
    /// The rate of both clocks swings evenly about the right one.
    RateSine {
        /// How far it swings, in millionths.
        swing_ppm: u64,
        /// How long a swing takes, to and fro.
        period_ms: u64,
    },
    /// The rate of both clocks wanders: a step up or down at a time, never farther than ten steps.
    RateWalk {
        /// How long a step is, in millionths.
        step_ppm: u64,
        /// How long it is until the next.
        every_ms: u64,
    },
    /// The wall clock swings evenly about the time it would show.
    WallSine {
        /// How far it swings.
        swing_ms: u64,
        /// How long a swing takes, to and fro.
        period_ms: u64,
    },
    /// The wall clock wanders: a step ahead or back at a time.
    WallWalk {
        /// How long a step is.
        step_ms: u64,
        /// How long it is until the next.
        every_ms: u64,
    },
    /// The wall clock jumps to and fro between two times (Jepsen's strobe).
    Strobe {
        /// How far they are apart.
        delta_ms: u64,
        /// How long it shows each.
        period_ms: u64,
    },
}

/// How the set of nodes changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MembershipChange {
    /// A node leaves gracefully, and comes back when the fault ends.
    Leave(u32),
    /// A node that was never there joins, and stays.
    Add,
}

/// A request that a client will make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedOp {
    /// When; later if the client still waits for its last answer.
    pub at_ms: u64,
    /// Which client.
    pub client: u32,
    /// Which node it asks.
    pub node: u32,
    /// The key.
    pub key: String,
    /// What it asks.
    pub action: PlannedAction,
}

impl PlannedOp {
    /// The key, if it is that of a single entry and not what many keys begin with.
    pub fn single_key(&self) -> Option<String> {
        let many = matches!(
            self.action,
            PlannedAction::List
                | PlannedAction::DeleteTree
                | PlannedAction::Fire(_)
                | PlannedAction::Lock(_)
                | PlannedAction::Own(_)
                | PlannedAction::Service(_)
                | PlannedAction::Publish { .. }
                | PlannedAction::Follow { .. }
        );
        (!many).then(|| self.key.clone())
    }
}

/// What a client will ask. Every value is written by one operation of the run only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedAction {
    /// A linearizable read.
    Get,
    /// A write.
    Put(String),
    /// A write, if the key still is as this client last saw it: absent, if it never saw it.
    Cas(String),
    /// A removal.
    Delete,
    /// A read that may be old.
    Stale,
    /// A read that waits so many milliseconds for a change.
    Watch(u64),
    /// A read of all keys that begin with the key.
    List,
    /// A removal of all keys that begin with the key.
    DeleteTree,
    /// A user event of this name; the key is of no importance.
    Fire(String),
    /// One of the experiment's own; the key is of no importance then.
    Own(serde_json::Value),
    /// Makes a session, locks the key with it, holds the lock for a while and lets it go.
    Lock(LockPlan),
    /// Something about a service of the asked agent's own; the key is the service's id.
    Service(ServiceDeed),
    /// A user event with content; the key is of no importance.
    Publish {
        /// Its name.
        name: String,
        /// How much it carries: see [`news::content`].
        bytes: u64,
    },
    /// To follow a query until the storm is over; the key is of no importance.
    Follow {
        /// The query.
        path: String,
        /// How long it waits each time.
        wait_ms: u64,
    },
    /// Something about the rights of a user, or with them; the key is the user's name.
    Right(RightDeed),
    /// Something with two keys at once; the key is what both begin with.
    Pair(PairDeed),
}

impl PlannedAction {
    /// Whether its key is an entry of the store that clients write values to, or what such keys begin with.
    pub fn is_of_values(&self) -> bool {
        use PlannedAction::{Follow, Lock, Pair, Publish, Right, Service};
        !matches!(self, Lock(_) | Service(_) | Right(_) | Pair(_) | Publish { .. } | Follow { .. })
    }
}

/// How a client locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockPlan {
    /// The session's time to live; it is renewed three times as often.
    pub ttl_ms: u64,
    /// Its lock-delay.
    pub delay_ms: u64,
    /// Whether the key is deleted with the session, rather than released.
    pub delete: bool,
    /// For how long it tries to get the lock.
    pub patience_ms: u64,
    /// For how long it holds it.
    pub hold_ms: u64,
    /// How it ends.
    pub end: LockEnd,
}

/// How a client lets go of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockEnd {
    /// It gives the lock back, and leaves the session to expire.
    Release,
    /// It ends the session.
    Destroy,
    /// It is not heard of any more.
    Vanish,
}

impl Scenario {
    /// The same plan under other luck: that of the seed so many further on.
    #[must_use]
    pub fn under(self, more: u64) -> Scenario {
        Scenario { seed: self.seed.wrapping_add(more), ..self }
    }

    /// How fast the fastest clock of the run is at any time, in millionths of true time.
    pub fn fastest_ppm(&self) -> u64 {
        let initial = self.clocks.iter().map(|clock| clock.rate_ppm);
        let changes = self.faults.iter().filter_map(|fault| match fault.kind {
            FaultKind::Clock { change, .. } => match change {
                ClockChange::Rate(rate) => Some(rate),
                ClockChange::RateSine { swing_ppm, .. } => Some(1_000_000 + swing_ppm),
                ClockChange::RateWalk { step_ppm, .. } => Some(1_000_000 + 10 * step_ppm),
                _ => None,
            },
            _ => None,
        });
        initial.chain(changes).fold(1_000_000, u64::max)
    }
}

impl Default for Settings {
    /// Ordinary settings: what shrinking goes back to where it makes no difference.
    fn default() -> Settings {
        Settings {
            founding: Founding::First,
            joins: Joins::All,
            heartbeat_ms: 50,
            election_timeout_min_ms: 200,
            election_timeout_max_ms: 400,
            snapshot_entries: 200,
            trailing_entries: 100,
            snapshot_chunk_bytes: 32_768,
            request_timeout_ms: 3_000,
            client_timeout_ms: 4_000,
            probe_period_ms: 500,
            segment_bytes: default_segment_bytes(),
            padding_bytes: 0,
            links: LinkSettings::default(),
            disks: DiskSettings::default(),
            protocol: NEWEST_PROTOCOL,
            gossip_keys: GossipKeys::default(),
            knobs: Knobs::default(),
            acl: false,
            missing: None,
        }
    }
}

impl Default for LinkSettings {
    fn default() -> LinkSettings {
        LinkSettings { latency_min_us: 200, latency_max_us: 1_000, tail_per_mille: 5 }
    }
}

impl Default for DiskSettings {
    fn default() -> DiskSettings {
        DiskSettings { sync_min_us: 100, sync_max_us: 800 }
    }
}

impl FaultKind {
    /// The kind's name, one of [`KINDS`].
    pub fn name(&self) -> &'static str {
        match self {
            FaultKind::Partition { .. } => "partition",
            FaultKind::Loss { .. } => "loss",
            FaultKind::Delay { .. } => "delay",
            FaultKind::Reorder { .. } => "reorder",
            FaultKind::Duplicate { .. } => "duplicate",
            FaultKind::Stall { .. } => "stall",
            FaultKind::Kill { .. } => "kill",
            FaultKind::PowerLoss { .. } => "power-loss",
            FaultKind::Clock { .. } => "clock",
            FaultKind::FsyncFail { .. } => "fsync-fail",
            FaultKind::Disk { fault, .. } => fault.name(),
            FaultKind::Membership { .. } => "membership",
            FaultKind::Transfer => "transfer",
            FaultKind::Lag { .. } => "lag",
            FaultKind::Bandwidth { .. } => "bandwidth",
            FaultKind::Clog { .. } => "clog",
            FaultKind::BlackHole { .. } => "black-hole",
            FaultKind::Refusal { .. } => "refusal",
            FaultKind::Corrupt { .. } => "corrupt",
            FaultKind::Vanish { .. } => "vanish",
            FaultKind::Move { .. } => "move",
            FaultKind::Slow { .. } => "slow",
            FaultKind::RestartStorm { .. } => "restart-storm",
            FaultKind::CrashLoop { .. } => "crash-loop",
            FaultKind::CrashPoint { .. } => "crash-point",
            FaultKind::Hazard { .. } => "hazard",
            FaultKind::LoseDisk { .. } => "lose-disk",
            FaultKind::Upgrade { .. } => "upgrade",
            FaultKind::Own { .. } => "own",
            FaultKind::RemovePeer { .. } => "remove-peer",
            FaultKind::ForceLeave { .. } => "force-leave",
            FaultKind::SaveSnapshot { .. } => "save-snapshot",
        }
    }
}

impl FaultKind {
    /// Whether a node, or all that it has, is taken away: whoever is left then is the majority.
    pub fn takes_a_node(&self) -> bool {
        use FaultKind::{ForceLeave, LoseDisk, Membership, RemovePeer};
        matches!(self, Membership { .. } | LoseDisk { .. } | RemovePeer { .. } | ForceLeave { .. })
    }

    /// Whether what was acknowledged may be gone from a disk afterwards.
    pub fn damages(&self) -> bool {
        matches!(self, FaultKind::Disk { fault, .. } if fault.damages())
    }
}

/// What the person who asks for a seed wants fixed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many nodes, instead of a drawn number.
    pub nodes: Option<u32>,
    /// How long the storm lasts in seconds, instead of a drawn time.
    pub duration_s: Option<u64>,
    /// Kinds of faults to leave out. The others stay as they are.
    pub without: BTreeSet<String>,
}

/// A random stream of one's own: the same for the same seed and name, unlike any other.
pub fn stream(seed: u64, name: &str) -> StdRng {
    let mut bytes = [0u8; 32];
    for (i, chunk) in bytes.chunks_mut(8).enumerate() {
        let salted = seed.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        chunk.copy_from_slice(&xxh3_64_with_seed(name.as_bytes(), salted).to_le_bytes());
    }
    StdRng::from_seed(bytes)
}

/// Chance that belongs to a place and a moment, like weather, and not to how much was drawn before.
///
/// Latency and loss come from here. With a stream, one message less would give every later message on the link another
/// fate, and a plan that is shrunk or a program that is edited would fail by the luck of its draws or not at all. So
/// what is not touched by a change goes on as it was.
#[derive(Clone, Debug)]
pub struct Weather {
    seed: u64,
    moment: u64,
    drawn: u64,
}

impl Weather {
    /// A moment is a millisecond.
    const MOMENT_NS: u64 = 1_000_000;

    /// The weather of a place.
    pub fn new(seed: u64, place: &str) -> Weather {
        Weather { seed: xxh3_64_with_seed(place.as_bytes(), seed), moment: 0, drawn: 0 }
    }

    /// The fate of what happens at this time: the first of the moment, the second, and so on.
    pub fn at(&mut self, now_ns: u64) -> StdRng {
        let moment = now_ns / Self::MOMENT_NS;
        self.drawn = if moment == self.moment { self.drawn + 1 } else { 0 };
        self.moment = moment;
        let mut when = [0; 16];
        when[..8].copy_from_slice(&moment.to_le_bytes());
        when[8..].copy_from_slice(&self.drawn.to_le_bytes());
        StdRng::seed_from_u64(xxh3_64_with_seed(&when, self.seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn the_weather_of_a_moment_does_not_depend_on_what_was_before() {
        const MS: u64 = 1_000_000;
        let draw = |times: &[u64]| {
            let mut weather = Weather::new(7, "link 0>1");
            times.iter().map(|ms| weather.at(ms * MS).next_u64()).collect::<Vec<_>>()
        };
        let (all, less) = (draw(&[1, 2, 2, 2, 5, 5]), draw(&[2, 2, 5]));
        assert_eq!([all[1], all[2], all[4]], less[..], "the first draws of a moment are the same");
        assert_eq!(std::collections::BTreeSet::from_iter(&all).len(), all.len(), "each draw is another");
        assert_ne!(Weather::new(7, "link 1>0").at(MS).next_u64(), all[0], "and another elsewhere");
    }

    fn of(seed: u64) -> Scenario {
        Scenario::generate(seed, &Limits::default())
    }

    #[test]
    fn a_seed_means_one_scenario_and_it_survives_being_written_down() {
        for seed in 0..50 {
            let scenario = of(seed);
            assert_eq!(scenario, of(seed));
            let text = serde_json::to_string(&scenario).unwrap();
            assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
        }
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn leaving_a_kind_out_leaves_the_rest_as_it_was() {
        for seed in 0..50 {
            let all = of(seed);
            for kind in KINDS.iter().copied() {
                let without = BTreeSet::from([kind.to_owned()]);
                let mut fewer = Scenario::generate(seed, &Limits { without, ..Limits::default() });
                let mut expected = all.clone();
                expected.faults.retain(|fault| fault.kind.name() != kind);
                if kind == "upgrade" {
                    assert_eq!(fewer.settings.protocol, NEWEST_PROTOCOL);
                    fewer.settings.protocol = expected.settings.protocol;
                }
                if kind == "clock" {
                    assert!(fewer.clocks.iter().all(|clock| *clock == ClockSetting::default()));
                    fewer.clocks = expected.clocks.clone();
                }
                expected.settings.missing.take_if(|missing| missing.how.kind() == kind);
                assert_eq!(fewer, expected);
            }
        }
    }

    #[test]
    fn every_kind_happens_and_every_fault_ends_with_the_storm() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let scenario = of(seed);
            assert!((1..=7).contains(&scenario.nodes));
            assert!((20_000..=60_000).contains(&scenario.duration_ms));
            assert!(scenario.operations.len() > 100);
            for fault in &scenario.faults {
                assert!(fault.at_ms + fault.for_ms <= scenario.duration_ms);
                seen.insert(fault.kind.name());
            }
        }
        assert_eq!(seen, KINDS.iter().copied().collect());
    }

    #[test]
    fn damage_stays_on_a_minority_and_apart_from_departures_unless_the_plan_is_beyond_repair() {
        let (mut damaged, mut beyond) = (0, 0);
        for seed in 0..400 {
            let scenario = of(seed);
            let at = |fault: &Fault| fault.kind.damages().then(|| fault.kind.nodes());
            let hit: BTreeSet<u32> = scenario.faults.iter().filter_map(at).flatten().collect();
            if scenario.beyond {
                beyond += 1;
                continue;
            }
            damaged += usize::from(!hit.is_empty());
            assert!(2 * hit.len() < scenario.nodes as usize, "seed {seed}: {hit:?}");
            let taken = scenario.faults.iter().any(|fault| fault.kind.takes_a_node());
            assert!(hit.is_empty() || !taken, "seed {seed}");
        }
        assert!(damaged > 40 && (10..100).contains(&beyond), "{damaged} and {beyond} of 400");
    }

    #[test]
    fn the_manual_tells_of_every_kind() {
        let manual = include_str!("../../README.md");
        let faults = manual.split("## The faults").nth(1).unwrap().split("\n## ").next().unwrap();
        for kind in KINDS {
            assert!(faults.contains(&format!("`{kind}`")), "sim/README.md does not tell of {kind}");
        }
    }

    #[test]
    fn values_are_unique_in_a_run() {
        let scenario = of(3);
        let mut values = BTreeSet::new();
        for op in &scenario.operations {
            if let PlannedAction::Put(value) | PlannedAction::Cas(value) = &op.action {
                assert!(values.insert(value.clone()));
            }
        }
    }

    #[test]
    fn limits_are_kept() {
        let limits = Limits { nodes: Some(4), duration_s: Some(7), ..Limits::default() };
        let scenario = Scenario::generate(9, &limits);
        assert_eq!((scenario.nodes, scenario.duration_ms), (4, 7_000));
    }
}
