//! The loop: the only place where gossip's state changes.
//!
//! Everything that can wake it is a [`Wake`]. Each wake changes state at once and without waiting, then the
//! datagrams that came of it are sent, then the loop sleeps again. Foca calls back into a plain buffer that
//! [`Driver::settle`] empties: notifications go to the table of members, timers to the heap, packets to the
//! outbox, where they pick up whatever else waits to be sent.
//!
//! A stalled node must not take its own stall for the death of others. Foca's timers therefore run on time
//! that the loop has lived through: when the loop finds the earliest of them overdue by more than half a
//! probe timeout, all of them are put off by that lateness and one probe timeout more. The answers that
//! arrived meanwhile wait in the socket and are read before any timer fires. A node that is always that late
//! judges nobody; the others judge it.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, OwnedNotification, PostcardCodec, State, Timer};
use rand::RngExt;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{debug, info, warn};

use super::broadcast::{QUEUE_LIMIT, TransmitLimitedQueue};
use super::delegate::{Delegate, EventDelegate, META_LIMIT};
use super::identity::{Identity, MAX_GENERATION};
use super::members::{Change, Member, Status, TABLE_LIMIT, Table, Up};
use super::pushpull::{self, MAX_EXCHANGES, MAX_EXCHANGES_EACH, MAX_USER_STATE, Record, Terms};
use super::seal::Sealer;
use super::timing::Timing;
use super::vivaldi::Vivaldi;
use super::wire::{
    self, DatagramBuilder, FrameError, Garbage, Intent, MESSAGE_OVERHEAD, Part, Profile, Sender,
};
use super::{Error, Shared};
use crate::env::observe::MemberChange;
use crate::env::places::Places;
use crate::env::strangers::{Notice, Strangers};
use crate::env::{AbortOnDrop, BoxStream, Datagrams, Env, Instant, Listener, Observed, Rng};
use crate::mutant;

/// How many commands may wait. When full, the caller waits.
pub(super) const COMMANDS: usize = 64;
/// How many finished exchanges may wait for the loop. When full, they wait, and their timeout runs.
const REPORTS: usize = 64;
/// How often the loop may wake in a row for something else before overdue timers get a turn.
const BURST: u32 = 256;
/// After so many failures to receive in a row the socket counts as broken.
const RECEIVE_FAILURES: u32 = 100;
/// How many failed members are knocked on at once.
const KNOCKS: usize = 16;
/// How slow a node can believe itself to be, at most; memberlist's awareness, with less of it.
const MAX_SLOWNESS: u32 = 4;
/// How many dead lives beyond those in the table are remembered.
const MAX_STRAYS: usize = 4_096;
/// How many addresses foca may know. At that many, only known members may add any: somebody invents them.
const MAX_ADDRESSES: usize = 2 * TABLE_LIMIT;
/// How long no stream is accepted after accepting failed: the cause, such as too many open files, takes time
/// to pass, and the loop has other things to do.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How many quick rounds follow when there is something new.
const QUICK_ROUNDS: u32 = 2;
/// How many confirmations make a suspicion as short as it gets.
const CONFIRMATIONS: usize = 3;
/// How many members are asked for a confirmation: a few more, because datagrams get lost.
const JURORS: usize = 5;
/// How many cases a juror takes at once. It does not answer to more; the accuser waits longer then.
const MAX_CASES: usize = 1_024;

/// Everything that can wake the loop.
enum Wake {
    Command(Option<Command>),
    Report(Box<Report>),
    Datagram(std::io::Result<(Vec<u8>, SocketAddr)>),
    Stream(std::io::Result<(BoxStream, SocketAddr)>),
    Changed,
    Timer,
}

/// What a handle asks for.
pub(super) enum Command {
    Join { addr: SocketAddr, reply: oneshot::Sender<Result<(), String>> },
    Leave { within: Duration, reply: oneshot::Sender<()> },
    UpdateMeta { reply: oneshot::Sender<Result<(), Error>> },
    ForceLeave { name: String, prune: bool, reply: oneshot::Sender<Result<(), Error>> },
}

/// What a task of an exchange has to say.
enum Report {
    /// An exchange that we began is over.
    Exchanged {
        number: u64,
        addr: SocketAddr,
        result: Result<pushpull::State, String>,
        reply: Option<oneshot::Sender<Result<(), String>>>,
    },
    /// A peer sent its state and waits for ours.
    Incoming { theirs: pushpull::State, reply: oneshot::Sender<Vec<u8>> },
    /// A peer's exchange is over.
    Served { number: u64, peer: SocketAddr, result: Result<(), FrameError> },
}

/// What happens at a time.
enum Alarm {
    Foca(Timer<Identity>),
    /// Look whether this node's suspicion has lasted long enough.
    Suspicion(u64),
    /// A juror's time is up: see [`Driver::judge`].
    Verdict(Box<Case>),
    Gossip,
    /// The same once more, soon: there is something new.
    Quick,
    PushPull,
    Reconnect,
    Reap,
    /// Streams may be accepted again; there is nothing to do but to look.
    Accept,
    /// Contradict an order to leave that names this generation.
    Refute(u64),
    /// The departure has been announced for long enough.
    LeaveCluster,
    /// Spread the departure; so many rounds are left.
    Drain(u32),
}

impl Alarm {
    fn is_detector(&self) -> bool {
        matches!(self, Alarm::Foca(_) | Alarm::Suspicion(_) | Alarm::Verdict(_))
    }
}

struct Scheduled {
    at: Instant,
    number: u64,
    alarm: Alarm,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    /// The heap gives the largest, which is to be the earliest.
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

#[derive(Default)]
struct Alarms {
    heap: BinaryHeap<Scheduled>,
    number: u64,
}

impl Alarms {
    fn set(&mut self, at: Instant, alarm: Alarm) {
        self.number += 1;
        self.heap.push(Scheduled { at, number: self.number, alarm });
    }

    fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|scheduled| scheduled.at)
    }

    fn pop_due(&mut self, now: Instant) -> Option<Alarm> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|scheduled| scheduled.alarm)
    }

    /// Puts the failure detector off, in unchanged order.
    fn delay_detector(&mut self, by: Duration) {
        let mut all = std::mem::take(&mut self.heap).into_vec();
        for scheduled in &mut all {
            if scheduled.alarm.is_detector() {
                scheduled.at += by;
            }
        }
        self.heap = all.into();
    }
}

/// Who suspects a member.
struct Claim {
    id: Identity,
    incarnation: u16,
    /// The nodes whose own probes failed.
    from: BTreeSet<u64>,
    /// This node's own suspicion: since when, and foca's timer that ends it.
    own: Option<(Instant, Timer<Identity>)>,
}

/// Another member asked this node to see for itself whether a third is alive.
struct Case {
    suspect: Identity,
    incarnation: u16,
    accuser: SocketAddr,
    asked: Instant,
}

/// A probe of foca's that is under way: for the round trip that its answer ends.
struct Trip {
    to: Identity,
    number: foca::ProbeNumber,
    began: Instant,
}

/// How far this node's departure is.
enum Phase {
    Member,
    Leaving(Vec<oneshot::Sender<()>>),
    Left,
}

/// Counters, for people.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub sent: u64,
    pub received: u64,
    pub send_errors: u64,
    pub damaged: u64,
    pub other_cluster: u64,
    pub malformed: u64,
    pub unencrypted: u64,
    pub undecryptable: u64,
    pub unsendable: u64,
    pub exchanges: u64,
    pub exchange_errors: u64,
    pub stalls: u64,
    pub suspicions: u64,
    pub member_changes: u64,
    pub name_conflicts: u64,
    pub table_full: u64,
    pub slowness: u32,
    pub intent_queue: usize,
    pub modern_peers: usize,
    pub coordinate_resets: u64,
}

/// What [`Driver::new`] needs.
pub(super) struct Parts {
    pub env: Env,
    pub timing: Timing,
    pub cluster: u32,
    pub newest: u8,
    pub sealer: Sealer,
    pub profile: Profile,
    pub socket: Arc<dyn Datagrams>,
    pub listener: Box<dyn Listener>,
    pub commands: mpsc::Receiver<Command>,
    pub delegate: Arc<dyn Delegate>,
    pub events: Arc<dyn EventDelegate>,
    pub shared: Arc<Shared>,
}

pub(super) struct Driver {
    env: Env,
    timing: Timing,
    cluster: u32,
    /// The newest version of the protocol that this node speaks.
    newest: u8,
    sealer: Sealer,
    strangers: Strangers,
    /// Room for streams of others.
    places: Places,
    /// The addresses whose last datagram was of a version above the oldest, or promised one.
    modern: BTreeSet<SocketAddr>,
    /// This node, as it is now.
    me: Profile,
    phase: Phase,
    socket: Arc<dyn Datagrams>,
    listener: Box<dyn Listener>,
    commands: mpsc::Receiver<Command>,
    reports: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
    delegate: Arc<dyn Delegate>,
    changed: Option<Arc<Notify>>,
    events: Arc<dyn EventDelegate>,
    shared: Arc<Shared>,
    rng: Rng,
    foca: Foca<Identity, PostcardCodec, Rng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Identity>,
    /// Lives that foca knows to be over and the table does not list, and since when: earlier addresses of
    /// nodes, or rumours about nodes that we never met.
    strays: BTreeMap<Identity, Instant>,
    table: Table,
    claims: BTreeMap<u64, Claim>,
    /// Where this node stands.
    place: Vivaldi,
    place_rng: Rng,
    trip: Option<Trip>,
    /// How many verdicts this node owes as a juror.
    cases: usize,
    queue: TransmitLimitedQueue,
    alarms: Alarms,
    gossip_armed: bool,
    /// Whether the program may have messages to send.
    delegate_pending: bool,
    /// Whether there is something to send that was not there before.
    fresh: bool,
    /// How many more quick rounds that is worth.
    quick_rounds: u32,
    quick_armed: bool,
    outbox: Vec<(SocketAddr, Vec<u8>)>,
    /// Foca's packets that have yet to become datagrams.
    swim: Vec<(SocketAddr, Bytes)>,
    exchanges: BTreeMap<u64, AbortOnDrop>,
    exchange_number: u64,
    last_heal: Option<Instant>,
    /// When we last asked a node for its profile, or sent it its own.
    asked: BTreeMap<u64, Instant>,
    /// Before this time no further generation is taken on somebody's word.
    next_jump: Instant,
    jump_pause: Duration,
    knocked: u64,
    live: usize,
    slowness: u32,
    /// The last suspicion of this node that it refuted: generation and incarnation.
    refuted: Option<(u64, u16)>,
    /// Whether foca raised a suspicion while handling the current alarm.
    raised: bool,
    /// Whether others were asked to probe the member that is being probed.
    asked_others: bool,
    burst: u32,
    /// No stream is accepted before.
    accept_after: Instant,
    receive_failures: u32,
    conflicts: BTreeSet<(u64, u64)>,
    counters: Counters,
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn foca_config(timing: &Timing, live: usize) -> foca::Config {
    let at_least_one = |n: u32| NonZeroUsize::new(n as usize).unwrap_or(NonZeroUsize::MIN);
    let transmissions = timing.retransmits(live).clamp(1, 255) as u8;
    foca::Config {
        probe_period: millis(timing.probe_period_ms),
        probe_rtt: millis(timing.probe_timeout_ms),
        num_indirect_probes: at_least_one(timing.indirect_probes),
        max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
        // Not used as such: suspicions are timed by the loop.
        suspect_to_down_after: timing.suspicion(live).0,
        // Never by itself: the table decides when to forget.
        remove_down_after: None,
        max_packet_size: at_least_one(wire::MAX_SWIM as u32),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: None,
    }
}

impl Driver {
    pub fn new(parts: Parts) -> Driver {
        let Parts {
            env,
            timing,
            cluster,
            newest,
            sealer,
            profile,
            socket,
            listener,
            commands,
            delegate,
            events,
            shared,
        } = parts;
        let (reporter, reports) = mpsc::channel(REPORTS);
        let mut rng = env.rng("gossip");
        let foca = Foca::new(profile.id, foca_config(&timing, 1), env.rng("foca"), PostcardCodec);
        let mut alarms = Alarms::default();
        let now = env.now();
        // A random phase keeps nodes that start together from exchanging state together for ever.
        let phase = rng.random_range(0..timing.push_pull_interval_ms.max(1));
        alarms.set(now + millis(timing.push_pull_interval_ms / 2 + phase / 2 + 1), Alarm::PushPull);
        let phase = rng.random_range(0..timing.reconnect_interval_ms.max(1));
        alarms.set(now + millis(timing.reconnect_interval_ms / 2 + phase / 2 + 1), Alarm::Reconnect);
        alarms.set(now + reap_interval(&timing), Alarm::Reap);
        Driver {
            changed: delegate.changed(),
            foca,
            runtime: AccumulatingRuntime::new(),
            strays: BTreeMap::new(),
            table: Table::default(),
            claims: BTreeMap::new(),
            place: Vivaldi::default(),
            place_rng: env.rng("coordinates"),
            trip: None,
            cases: 0,
            queue: TransmitLimitedQueue::default(),
            alarms,
            gossip_armed: false,
            delegate_pending: true,
            fresh: false,
            quick_rounds: 0,
            quick_armed: false,
            outbox: Vec::new(),
            swim: Vec::new(),
            exchanges: BTreeMap::new(),
            exchange_number: 0,
            last_heal: None,
            asked: BTreeMap::new(),
            next_jump: now,
            jump_pause: Duration::from_secs(1),
            knocked: 0,
            live: 1,
            slowness: 0,
            refuted: None,
            raised: false,
            asked_others: false,
            accept_after: now,
            burst: 0,
            receive_failures: 0,
            conflicts: BTreeSet::new(),
            counters: Counters::default(),
            phase: Phase::Member,
            me: profile,
            reports,
            reporter,
            rng,
            env,
            timing,
            cluster,
            newest,
            sealer,
            strangers: Strangers::default(),
            places: Places::new(MAX_EXCHANGES, MAX_EXCHANGES_EACH),
            modern: BTreeSet::new(),
            socket,
            listener,
            commands,
            delegate,
            events,
            shared,
        }
    }

    /// Runs until the last handle is gone, or returns why it cannot go on.
    pub async fn run(mut self) -> Option<String> {
        self.delegate.cluster_size(self.live);
        loop {
            let wake = self.next().await;
            let now = self.env.now();
            match wake {
                Wake::Command(None) => return None,
                Wake::Command(Some(command)) => self.on_command(command, now),
                Wake::Report(report) => self.on_report(*report, now),
                Wake::Datagram(Ok((bytes, from))) => {
                    self.receive_failures = 0;
                    self.on_datagram(&bytes, from, now);
                }
                Wake::Datagram(Err(error)) => {
                    self.receive_failures += 1;
                    debug!(%error, "receiving a datagram failed");
                    if self.receive_failures > RECEIVE_FAILURES {
                        return Some(format!("the gossip socket is broken: {error}"));
                    }
                }
                Wake::Stream(Ok((stream, peer))) => self.on_stream(stream, peer),
                Wake::Stream(Err(error)) => {
                    debug!(%error, "accepting a stream failed");
                    self.accept_after = now + ACCEPT_PAUSE;
                    self.alarms.set(self.accept_after, Alarm::Accept);
                }
                Wake::Changed => {
                    self.delegate_pending = true;
                    self.fresh = true;
                }
                Wake::Timer => self.on_time(now),
            }
            self.settle(now);
            if std::mem::take(&mut self.fresh) {
                self.hurry(now);
            }
            self.arm_gossip(now);
            self.publish();
            self.env.always(
                self.queue.len() <= QUEUE_LIMIT && self.cases <= MAX_CASES,
                "what waits to be gossiped stays within its bounds",
            );
            self.flush().await;
        }
    }

    async fn next(&mut self) -> Wake {
        let due = self.alarms.next();
        if self.burst >= BURST && due.is_some_and(|at| at <= self.env.now()) {
            self.burst = 0;
            return Wake::Timer;
        }
        let sleep = async {
            match due {
                Some(at) => self.env.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            match &self.changed {
                Some(changed) => changed.notified().await,
                None => std::future::pending().await,
            }
        };
        let may_accept = self.env.now() >= self.accept_after;
        let wake = tokio::select! {
            biased;
            command = self.commands.recv() => Wake::Command(command),
            Some(report) = self.reports.recv() => Wake::Report(Box::new(report)),
            received = self.socket.recv_from() => Wake::Datagram(received),
            accepted = self.listener.accept(), if may_accept => Wake::Stream(accepted),
            () = changed => Wake::Changed,
            () = sleep => Wake::Timer,
        };
        self.burst = if matches!(wake, Wake::Timer) { 0 } else { self.burst.saturating_add(1) };
        wake
    }

    fn id(&self) -> Identity {
        self.me.id
    }

    fn is_member(&self) -> bool {
        matches!(self.phase, Phase::Member)
    }

    // Commands.

    fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Join { addr, reply } => {
                if !self.is_member() {
                    let _ = reply.send(Err("this node is leaving".to_owned()));
                } else if addr == self.id().addr {
                    let _ = reply.send(Err("that is this node itself".to_owned()));
                } else {
                    self.exchange(addr, true, Some(reply));
                }
            }
            Command::Leave { within, reply } => self.leave(within, reply, now),
            Command::UpdateMeta { reply } => {
                let meta = self.delegate.node_meta(META_LIMIT);
                let _ = reply.send(if meta.len() > META_LIMIT {
                    Err(Error::MetaTooLarge { size: meta.len() })
                } else {
                    if meta != self.me.meta {
                        self.me.meta = meta;
                        self.revise(self.me.revision);
                    }
                    Ok(())
                });
            }
            Command::ForceLeave { name, prune, reply } => {
                let _ = reply.send(self.force_leave(&name, prune));
            }
        }
    }

    fn leave(&mut self, within: Duration, reply: oneshot::Sender<()>, now: Instant) {
        match &mut self.phase {
            Phase::Left => {
                let _ = reply.send(());
            }
            Phase::Leaving(waiters) => waiters.push(reply),
            Phase::Member => {
                info!("leaving the cluster");
                self.phase = Phase::Leaving(vec![reply]);
                self.become_identity(Identity { leaving: true, ..self.id().next() });
                let pause = if self.foca.num_members() == 0 {
                    Duration::ZERO
                } else {
                    millis(self.timing.leave_propagate_ms).min(within / 2)
                };
                self.alarms.set(now + pause, Alarm::LeaveCluster);
            }
        }
    }

    fn force_leave(&mut self, name: &str, prune: bool) -> Result<(), Error> {
        if name == self.me.name {
            return Err(Error::ForceLeaveSelf);
        }
        let targets: Vec<Identity> = self
            .table
            .iter()
            .filter(|entry| !entry.is_pruned() && entry.profile.as_ref().is_some_and(|p| p.name == name))
            .map(|entry| entry.id)
            .collect();
        if targets.is_empty() {
            return Err(Error::UnknownMember { name: name.to_owned() });
        }
        for id in targets {
            let intent = Intent { generation: id.generation, prune };
            self.table.order_out(id.node_id, intent);
            self.announce_order(id, intent);
        }
        Ok(())
    }

    fn announce_order(&mut self, id: Identity, intent: Intent) {
        self.queue.push(Some(format!("leave/{}", id.node_id)), Part::Leave { id, intent }.encode(), None);
        self.fresh = true;
    }

    // Streams.

    fn on_stream(&mut self, stream: BoxStream, peer: SocketAddr) {
        if self.exchanges.len() >= MAX_EXCHANGES || !self.is_member() {
            debug!(%peer, "refused a stream");
            return;
        }
        let place = match self.places.take(peer.ip()) {
            Ok(place) => place,
            Err(full) => {
                debug!(%peer, %full, "refused a stream");
                return;
            }
        };
        self.exchange_number += 1;
        let number = self.exchange_number;
        let (env, reporter) = (self.env.clone(), self.reporter.clone());
        let terms = self.terms(self.newest);
        let task = self.env.spawn(async move {
            let merge = |theirs| {
                let reporter = reporter.clone();
                async move {
                    let (reply, answer) = oneshot::channel();
                    reporter.send(Report::Incoming { theirs, reply }).await.ok()?;
                    answer.await.ok()
                }
            };
            let result = pushpull::serve(&env, stream, &terms, merge).await;
            drop(place);
            let _ = reporter.send(Report::Served { number, peer, result }).await;
        });
        self.exchanges.insert(number, task.abort_on_drop());
    }

    fn exchange(&mut self, addr: SocketAddr, join: bool, reply: Option<oneshot::Sender<Result<(), String>>>) {
        if self.exchanges.len() >= MAX_EXCHANGES {
            if let Some(reply) = reply {
                let _ = reply.send(Err("too many exchanges at once, try again".to_owned()));
            }
            return;
        }
        self.exchange_number += 1;
        self.counters.exchanges += 1;
        let number = self.exchange_number;
        let ours = self.state(join).encode();
        let (env, reporter) = (self.env.clone(), self.reporter.clone());
        let terms = self.terms(self.version_for(addr));
        let task = self.env.spawn(async move {
            let result = pushpull::initiate(&env, addr, &terms, ours).await;
            let _ = reporter.send(Report::Exchanged { number, addr, result, reply }).await;
        });
        self.exchanges.insert(number, task.abort_on_drop());
    }

    fn terms(&self, version: u8) -> Terms {
        let timeout = millis(self.timing.stream_timeout_ms);
        Terms { version, cluster: self.cluster, timeout, sealer: self.sealer.clone() }
    }

    fn on_report(&mut self, report: Report, now: Instant) {
        match report {
            Report::Served { number, peer, result } => {
                self.exchanges.remove(&number);
                if let Err(error) = result {
                    self.counters.exchange_errors += 1;
                    debug!(%peer, %error, "a peer's exchange failed");
                    if let FrameError::Garbage(garbage) = error {
                        self.turned_away(garbage, peer, now);
                    }
                }
            }
            Report::Incoming { theirs, reply } => {
                let ours = self.state(false).encode();
                // A sender with our own id is ourselves, or pretends to be.
                if theirs.sender.id.node_id != self.id().node_id && self.is_member() {
                    self.merge(theirs, false, now);
                }
                let _ = reply.send(ours);
            }
            Report::Exchanged { number, addr, result, reply } => {
                self.exchanges.remove(&number);
                let result = result.and_then(|theirs| {
                    if theirs.sender.id.node_id == self.id().node_id {
                        return Err("that is this node itself, or one with the same id".to_owned());
                    }
                    Ok(theirs)
                });
                let outcome = match result {
                    Ok(theirs) => {
                        let peer = theirs.sender.id;
                        self.merge(theirs, reply.is_some(), now);
                        if reply.is_some() {
                            // Opens the way by datagram as well, and brings a second opinion on who lives.
                            self.run_foca(|foca, runtime| foca.announce(peer, runtime));
                        }
                        Ok(())
                    }
                    Err(error) => {
                        self.env.reachable("an exchange of state fails");
                        self.counters.exchange_errors += 1;
                        debug!(%addr, %error, "an exchange failed");
                        Err(error)
                    }
                };
                if let Some(reply) = reply {
                    // Who joined may look at the members at once.
                    self.settle(now);
                    self.publish();
                    let _ = reply.send(outcome);
                }
            }
        }
    }

    /// All this node knows.
    fn state(&self, join: bool) -> pushpull::State {
        let incarnations: BTreeMap<Identity, u16> =
            self.foca.iter_membership_state().map(|member| (*member.id(), member.incarnation())).collect();
        let members = self
            .table
            .iter()
            .map(|entry| Record {
                id: entry.id,
                incarnation: incarnations.get(&entry.id).copied().unwrap_or_default(),
                live: entry.live,
                profile: entry.profile.as_ref().map(|p| (p.revision, p.name.clone(), p.meta.clone())),
                intent: entry.intent,
            })
            .collect();
        let mut user = self.delegate.local_state(join);
        if user.len() > MAX_USER_STATE {
            warn!(bytes = user.len(), limit = MAX_USER_STATE, "the program's state is too large to be sent");
            user = Bytes::new();
        }
        let sender = Record {
            id: self.id(),
            incarnation: 0,
            live: true,
            profile: Some((self.me.revision, self.me.name.clone(), self.me.meta.clone())),
            intent: None,
        };
        pushpull::State { join, sender, members, user }
    }

    /// Merges what a peer knows. Its word on who lives is taken; its word that somebody we see alive is dead
    /// is not: that node is told instead, and takes a new generation that everybody believes.
    fn merge(&mut self, theirs: pushpull::State, join: bool, now: Instant) {
        let peer = theirs.sender.id.node_id;
        for record in std::iter::once(theirs.sender).chain(theirs.members) {
            let id = record.id;
            if id.node_id == self.id().node_id {
                self.about_me(&record, now);
                continue;
            }
            self.merge_record(&record, now);
            self.settle(now);
            if let Some(profile) = record.profile()
                && self.table.describe(&profile)
                && id.node_id == peer
            {
                self.announce_profile(&profile);
            }
            if let Some(intent) = record.intent {
                self.table.order_out(id.node_id, intent);
            }
        }
        self.settle(now);
        self.delegate.merge_remote_state(&theirs.user, join);
    }

    fn merge_record(&mut self, record: &Record, now: Instant) {
        let id = record.id;
        let known = self.table.get(id.node_id).map(|entry| (entry.id, entry.live));
        let claim = |state| foca::Member::new(id, record.incarnation, state);
        match (record.live, known) {
            (true, None) => {
                self.env.reachable("an exchange of state brings a member that gossip had not");
                self.apply(claim(State::Alive), true);
            }
            (true, Some((known, live)))
                if id.generation > known.generation
                    // Mutant G01: somebody who missed the death of this life resurrects it.
                    || (id == known && (live || mutant::is("G01"))) =>
            {
                self.apply(claim(State::Alive), true);
            }
            (true, Some((known, false))) if id == known => {
                self.env.reachable("a peer still takes for alive a life that is known to be over");
                self.tell_stale(id.node_id, id.addr);
            }
            // Mutant G04: somebody who has not heard of a later life brings the earlier one back.
            (true, Some((known, _))) if mutant::is("G04") && id.generation < known.generation => {
                self.table.up(id, now);
            }
            (true, Some(_)) => {}
            (false, None) => {
                self.table.remember_down(id, now);
                // So that no rumour of its life makes it appear.
                self.apply(claim(State::Down), false);
            }
            (false, Some((known, true))) if id == known => {
                if id.leaving {
                    self.apply(claim(State::Down), true);
                } else {
                    self.env.reachable("a peer's word that a live member is dead is not taken");
                    self.tell_stale(id.node_id, id.addr);
                }
            }
            (false, Some((known, _))) if id.generation > known.generation => {
                self.apply(claim(State::Down), true);
                self.settle(now);
                self.table.remember_down(id, now);
            }
            (false, Some(_)) => {}
        }
    }

    /// Somebody has a record of this node.
    fn about_me(&mut self, record: &Record, now: Instant) {
        let me = self.id();
        let id = record.id;
        if id.generation > me.generation || (id.generation == me.generation && (id != me || !record.live)) {
            self.jump(id.generation, now);
        }
        if let Some(profile) = record.profile() {
            self.about_my_profile(&profile);
        }
        if let Some(intent) = record.intent {
            self.ordered_out(intent, now);
        }
    }

    fn about_my_profile(&mut self, profile: &Profile) {
        let me = &self.me;
        let same = (&profile.name, &profile.meta) == (&me.name, &me.meta);
        if profile.revision > me.revision || (profile.revision == me.revision && !same) {
            self.revise(profile.revision);
        }
    }

    fn ordered_out(&mut self, intent: Intent, now: Instant) {
        if self.is_member() && intent.generation >= self.id().generation {
            let at = now + millis(self.timing.refute_delay_ms);
            self.alarms.set(at, Alarm::Refute(intent.generation));
        }
    }

    // Datagrams.

    fn on_datagram(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) {
        self.counters.received += 1;
        if matches!(self.phase, Phase::Left) {
            return;
        }
        let opened = self.sealer.open_datagram(self.cluster, bytes);
        let datagram = opened.as_ref().map_err(|garbage| *garbage);
        let datagram =
            match datagram.and_then(|bytes| wire::decode_datagram(bytes, self.cluster, self.newest)) {
                Ok(datagram) => datagram,
                Err(garbage) => {
                    let damaged = matches!(garbage, Garbage::Damaged);
                    self.env.sometimes(damaged, "a damaged datagram is dropped");
                    debug!(%from, %garbage, "dropped a datagram");
                    self.turned_away(garbage, from, now);
                    return;
                }
            };
        self.counters.malformed += datagram.skipped as u64;
        let sender = datagram.sender;
        if sender.id.node_id == self.id().node_id || sender.id.addr == self.id().addr {
            debug!(%from, "a datagram claims to be from this node");
            self.counters.malformed += 1;
            return;
        }
        if datagram.speaks <= wire::OLDEST {
            self.modern.remove(&sender.id.addr);
        } else if self.modern.len() < MAX_ADDRESSES {
            // Past that, more are spoken to in the oldest version, which everybody understands.
            self.modern.insert(sender.id.addr);
        }
        let crowded = self.foca.iter_membership_state().len() >= MAX_ADDRESSES;
        if crowded && self.table.get(sender.id.node_id).is_none_or(|entry| entry.id != sender.id) {
            self.counters.table_full += 1;
            return;
        }
        self.end_trip(&datagram, now);
        self.greet(sender.id, datagram.swim.is_empty());
        if !datagram.swim.is_empty() {
            self.env.sometimes_if(
                || self.asked_others && is_forwarded_ack(datagram.swim),
                "a member that missed its probe answers through another",
            );
            let result = self.foca.handle_data(datagram.swim, &mut self.runtime);
            self.foca_result(result);
        }
        self.settle(now);
        self.table.heard(sender.id, now);
        self.compare_profiles(&sender, now);
        for part in datagram.parts {
            self.on_part(part, &sender, now);
        }
    }

    /// Counts what was not believed, and says once in a while who is a stranger.
    fn turned_away(&mut self, garbage: Garbage, from: SocketAddr, now: Instant) {
        match garbage {
            Garbage::OtherCluster => self.counters.other_cluster += 1,
            Garbage::Damaged => self.counters.damaged += 1,
            Garbage::Version | Garbage::Malformed => self.counters.malformed += 1,
            Garbage::Unencrypted => self.counters.unencrypted += 1,
            Garbage::WrongKey | Garbage::NoKey => self.counters.undecryptable += 1,
        }
        if !garbage.is_strange() {
            return;
        }
        match self.strangers.turned_away(now, from.ip()) {
            Some(Notice { times, crowd: false }) => {
                warn!(%from, %garbage, times, "a stranger to this cluster's gossip is kept out");
            }
            Some(Notice { times, crowd: true }) => {
                warn!(%from, %garbage, times, "many strangers to this cluster's gossip are kept out");
            }
            None => {}
        }
    }

    /// A node spoke: it lives, unless we know better about this life of it.
    fn greet(&mut self, id: Identity, without_swim: bool) {
        if let Some(entry) = self.table.get(id.node_id) {
            if entry.id == id && entry.live {
                return;
            }
            if entry.id.generation >= id.generation {
                self.tell_stale(id.node_id, id.addr);
                return;
            }
        }
        // Foca also remembers who had the address before, and takes the higher generation for the later holder. Whoever
        // gets an address that another node has given up must therefore exceed that node's generation, in one step.
        let beaten_by = self
            .foca
            .iter_membership_state()
            .map(|member| *member.id())
            .filter(|known| known.addr == id.addr && known.node_id != id.node_id)
            .filter(|known| foca::Identity::win_addr_conflict(known, &id))
            .map(|known| known.generation)
            .max();
        if let Some(generation) = beaten_by {
            self.tell_stale_of(id.node_id, id.addr, generation);
        } else if without_swim {
            self.apply(foca::Member::alive(id), true);
        }
    }

    fn compare_profiles(&mut self, sender: &Sender, now: Instant) {
        let id = sender.id;
        let Some(entry) = self.table.get(id.node_id) else { return };
        let known = entry.profile.as_ref().map(|profile| profile.revision);
        if entry.id != id || known == Some(sender.revision) {
            return;
        }
        let pause = millis(self.timing.gossip_interval_ms);
        if self.asked.get(&id.node_id).is_some_and(|asked| now.since(*asked) < pause) {
            return;
        }
        let part = match &entry.profile {
            // It does not know what it once said about itself: it lost its memory.
            Some(profile) if profile.revision > sender.revision => Part::Profile(profile.clone()),
            _ => Part::WhoIs,
        };
        self.asked.insert(id.node_id, now);
        self.direct(id.addr, &part);
    }

    fn on_part(&mut self, part: Part, sender: &Sender, now: Instant) {
        let me = self.id();
        match part {
            Part::Message(message) => self.delegate.notify_msg(&message),
            Part::WhoIs => self.direct(sender.id.addr, &Part::Profile(self.me.clone())),
            Part::Profile(profile) if !profile.is_sane() => self.counters.malformed += 1,
            Part::Profile(profile) if profile.id.node_id == me.node_id => self.about_my_profile(&profile),
            Part::Profile(profile) => {
                let id = profile.id;
                if self.table.get(id.node_id).is_none_or(|entry| id.generation > entry.id.generation) {
                    self.apply(foca::Member::alive(id), true);
                    self.settle(now);
                }
                if self.table.describe(&profile) {
                    self.announce_profile(&profile);
                }
            }
            Part::Stale { node_id, generation, revision } if node_id == me.node_id => {
                if generation >= me.generation {
                    self.jump(generation, now);
                }
                if revision > self.me.revision {
                    self.revise(revision);
                }
                // Mutant G03: who is told that it is behind tells the teller the same, and so on.
                if mutant::is("G03") {
                    let Sender { id, revision } = *sender;
                    let generation = id.generation.saturating_sub(1);
                    self.direct(id.addr, &Part::Stale { node_id: id.node_id, generation, revision });
                }
            }
            // A coordinate belongs to the answer that it came with: see `end_trip`.
            Part::Stale { .. } | Part::Speaks(_) | Part::Coordinate(_) => {}
            Part::Leave { id, intent } if id.node_id == me.node_id => self.ordered_out(intent, now),
            Part::Leave { id, intent } => {
                if self.table.order_out(id.node_id, intent) {
                    self.announce_order(id, intent);
                }
            }
            Part::Suspicion { suspect, incarnation, .. } if suspect.node_id == me.node_id => {
                if suspect == me {
                    self.refute(incarnation, sender.id);
                }
            }
            Part::Suspicion { suspect, incarnation, jury: true } => {
                self.take_case(suspect, incarnation, sender.id, now);
            }
            Part::Suspicion { suspect, incarnation, jury: false } => {
                if self.table.get(sender.id.node_id).is_some_and(|entry| entry.live) {
                    self.confirm(suspect, incarnation, sender.id.node_id, now);
                }
            }
        }
    }

    // Where this node stands.

    /// Foca sends a packet: a probe begins a trip, and the answer to one takes this node's coordinate along.
    fn note_probe(&mut self, packet: &[u8], to: SocketAddr, builder: &mut DatagramBuilder, now: Instant) {
        match header(packet) {
            Some(foca::Header { dst, message: foca::Message::Ping(number), .. }) => {
                self.trip = Some(Trip { to: dst, number, began: now });
            }
            Some(foca::Header { message: foca::Message::Ack(_), .. })
                if self.version_for(to) > wire::OLDEST =>
            {
                // Should it not fit, the other learns nothing from this trip.
                builder.push(&Part::Coordinate(self.place.coordinate()).encode());
            }
            _ => {}
        }
    }

    /// The answer to this node's own probe ends a trip, if it says where it comes from.
    fn end_trip(&mut self, datagram: &wire::Datagram<'_>, now: Instant) {
        let Some(Trip { to, number, began }) = self.trip else { return };
        let coordinate = datagram.parts.iter().find_map(|part| match part {
            Part::Coordinate(coordinate) => Some(*coordinate),
            _ => None,
        });
        let Some(coordinate) = coordinate.filter(|_| datagram.sender.id == to) else { return };
        let answers = header(datagram.swim)
            .is_some_and(|header| header.src == to && header.message == foca::Message::Ack(number));
        if !answers {
            return;
        }
        self.trip = None;
        let took = now.since(began);
        if let Err(ignored) = self.place.observe(to.node_id, &coordinate, took, &mut self.place_rng) {
            debug!(addr = %to.addr, %ignored, "a round trip does not count");
        }
    }

    // Who this node is.

    /// Takes another identity, and makes foca go on with it at once.
    fn become_identity(&mut self, id: Identity) {
        debug!(generation = id.generation, leaving = id.leaving, "a new identity");
        self.run_foca(|foca, runtime| foca.change_identity(id, runtime));
        self.adopt();
    }

    /// Follows foca to its present identity.
    fn adopt(&mut self) {
        self.me.id = *self.foca.identity();
        // Foca stops probing when it changes its identity, until somebody speaks to it. Nobody may.
        self.run_foca(|foca, runtime| foca.apply_many(std::iter::empty(), true, runtime));
    }

    /// Somebody knows this node, or another at its address, at this generation: takes the next one.
    ///
    /// Two nodes with one id would chase each other through the generations; the pause between two such
    /// steps doubles, so they cannot do it quickly.
    fn jump(&mut self, generation: u64, now: Instant) {
        // Part of mutant G02.
        if mutant::is("G02") {
            return;
        }
        if !self.is_member() || generation >= MAX_GENERATION || now < self.next_jump {
            return;
        }
        if now.since(self.next_jump) > Duration::from_secs(600) {
            self.jump_pause = Duration::from_secs(1);
        }
        self.env.reachable("a node takes a higher incarnation because others hold its last for dead");
        self.next_jump = now + self.jump_pause;
        self.jump_pause = (self.jump_pause * 2).min(Duration::from_secs(60));
        let told = Identity { generation, ..self.id() };
        // Mutant A02: takes the very incarnation that others hold for dead.
        self.become_identity(if mutant::is("A02") { told } else { told.next() });
        self.env.always(
            self.id().generation > generation,
            "a new incarnation is above every one that others have named",
        );
    }

    /// Gives the profile a revision above `revision` and tells everybody.
    fn revise(&mut self, revision: u64) {
        self.me.revision = self.me.revision.max(revision).saturating_add(1);
        self.announce_profile(&self.me.clone());
    }

    fn announce_profile(&mut self, profile: &Profile) {
        let name = format!("profile/{}", profile.id.node_id);
        self.queue.push(Some(name), Part::Profile(profile.clone()).encode(), None);
        self.fresh = true;
    }

    fn tell_stale(&mut self, node_id: u64, addr: SocketAddr) {
        let Some(entry) = self.table.get(node_id) else { return };
        self.tell_stale_of(node_id, addr, entry.id.generation);
    }

    fn tell_stale_of(&mut self, node_id: u64, addr: SocketAddr, generation: u64) {
        let profile = self.table.get(node_id).and_then(|entry| entry.profile.as_ref());
        let revision = profile.map_or(0, |profile| profile.revision);
        self.direct(addr, &Part::Stale { node_id, generation, revision });
    }

    // Suspicion.

    /// Foca's own probe of a member failed, and `timer` is what would declare it dead.
    fn suspect(&mut self, id: Identity, incarnation: u16, timer: Timer<Identity>, now: Instant) {
        self.raised = true;
        self.confirm(id, incarnation, self.id().node_id, now);
        let Some(claim) = self.claims.get_mut(&id.node_id) else {
            // The table does not list it: foca's clock is as good as any.
            self.alarms.set(now + self.timing.suspicion(self.live).0, Alarm::Foca(timer));
            return;
        };
        let since = claim.own.as_ref().map(|(since, _)| *since);
        // The same suspicion again changes nothing but foca's timer, whose token may be newer.
        claim.own = Some((since.unwrap_or(now), timer));
        if since.is_some() {
            return;
        }
        self.counters.suspicions += 1;
        let name = self.name_of(id.node_id);
        info!(member = %name, addr = %id.addr, "a member does not answer and is suspected");
        self.env.observe(Observed::Member {
            node_id: id.node_id,
            name,
            addr: id.addr,
            incarnation: id.generation,
            change: MemberChange::Suspected,
        });
        // The suspect itself is the first to be told (Lifeguard's buddy system). Others are asked to see for
        // themselves: their word makes the suspicion shorter, and they tell the suspect too, on their ways.
        self.direct(id.addr, &Part::Suspicion { suspect: id, incarnation, jury: false });
        let jurors = self.random_live(JURORS + 1).into_iter().filter(|addr| *addr != id.addr).take(JURORS);
        for juror in jurors.collect::<Vec<_>>() {
            self.direct(juror, &Part::Suspicion { suspect: id, incarnation, jury: true });
        }
        self.arm_suspicion(id.node_id, now);
    }

    /// Another member's probes of `suspect` failed. Sees for itself.
    fn take_case(&mut self, suspect: Identity, incarnation: u16, accuser: Identity, now: Instant) {
        if self.confirm(suspect, incarnation, accuser.node_id, now).is_none() {
            return;
        }
        if self.claims.get(&suspect.node_id).is_some_and(|claim| claim.own.is_some()) {
            self.env.reachable("a juror suspects the same member already");
            self.direct(accuser.addr, &Part::Suspicion { suspect, incarnation, jury: false });
        } else if self.cases < MAX_CASES {
            self.cases += 1;
            self.direct(suspect.addr, &Part::Suspicion { suspect, incarnation, jury: false });
            let case = Case { suspect, incarnation, accuser: accuser.addr, asked: now };
            let at = now + millis(self.timing.probe_timeout_ms);
            self.alarms.set(at, Alarm::Verdict(Box::new(case)));
        }
    }

    /// Confirms a suspicion if the suspect has not been heard since. If it has, its own words refute it.
    fn judge(&mut self, case: &Case) {
        self.cases = self.cases.saturating_sub(1);
        let Case { suspect, incarnation, accuser, asked } = *case;
        let entry = self.table.get(suspect.node_id);
        let heard = entry.is_some_and(|entry| entry.id == suspect && entry.heard >= asked);
        self.env.sometimes(heard, "a juror has heard from the suspect and does not confirm");
        if self.table.get(suspect.node_id).is_some_and(|entry| entry.id == suspect && entry.heard < asked) {
            self.direct(accuser, &Part::Suspicion { suspect, incarnation, jury: false });
        }
    }

    /// Counts `from` among those who suspect a member. `None` if there is nothing to suspect: the member is
    /// not live, or has had its say since.
    fn confirm(&mut self, suspect: Identity, incarnation: u16, from: u64, now: Instant) -> Option<()> {
        if !self.table.get(suspect.node_id).is_some_and(|entry| entry.live && entry.id == suspect) {
            return None;
        }
        let fresh = || Claim { id: suspect, incarnation, from: BTreeSet::new(), own: None };
        let claim = self.claims.entry(suspect.node_id).or_insert_with(fresh);
        if (claim.id.generation, claim.incarnation) > (suspect.generation, incarnation) {
            return None;
        }
        if (claim.id, claim.incarnation) != (suspect, incarnation) {
            *claim = fresh();
        }
        if claim.from.insert(from) {
            let (own, others) = (claim.own.is_some(), claim.from.len() > 1);
            self.env.sometimes(own && others, "a suspicion is confirmed by another member");
            self.arm_suspicion(suspect.node_id, now);
        }
        Some(())
    }

    fn arm_suspicion(&mut self, node_id: u64, now: Instant) {
        if let Some(at) = self.suspicion_ends(node_id) {
            // A confirmation may end it earlier than now; an alarm in the past would look like a stall.
            self.alarms.set(at.max(now), Alarm::Suspicion(node_id));
        }
    }

    /// When this node's own suspicion has lasted long enough: the sooner, the more nodes share it, and the
    /// later, the slower this node believes itself to be.
    fn suspicion_ends(&self, node_id: u64) -> Option<Instant> {
        let claim = self.claims.get(&node_id)?;
        let (since, _) = claim.own.as_ref()?;
        if mutant::is("G08") {
            // Mutant G08: the suspect gets no time to say that it lives.
            return Some(*since);
        }
        let (longest, shortest) = self.timing.suspicion(self.live);
        let others = claim.from.iter().filter(|from| **from != self.id().node_id).count();
        let wanted = CONFIRMATIONS.min(self.live.saturating_sub(2));
        let share = if wanted == 0 {
            0.0
        } else {
            (((others + 1) as f64).ln() / ((wanted + 1) as f64).ln()).min(1.0)
        };
        let lasts = longest.saturating_sub(longest.saturating_sub(shortest).mul_f64(share));
        Some(*since + lasts * (1 + self.slowness))
    }

    fn on_suspicion(&mut self, node_id: u64, now: Instant) {
        match self.suspicion_ends(node_id) {
            // Mutant G15: that the suspect has objected meanwhile makes no difference.
            Some(at) if at <= now && mutant::is("G15") => {
                if let Some(claim) = self.claims.remove(&node_id) {
                    self.apply(foca::Member::new(claim.id, u16::MAX - 1, State::Down), true);
                }
            }
            Some(at) if at <= now => {
                if let Some((_, timer)) = self.claims.remove(&node_id).and_then(|claim| claim.own) {
                    self.env.reachable("a suspect does not object and is declared failed");
                    self.run_foca(|foca, runtime| foca.handle_timer(timer, runtime));
                }
            }
            Some(at) => self.alarms.set(at, Alarm::Suspicion(node_id)),
            None => {}
        }
    }

    /// This node is suspected, so it may be slow. Foca says that it lives, and who asked hears it first.
    fn refute(&mut self, incarnation: u16, accuser: Identity) {
        if !self.is_member() {
            return;
        }
        let accusation = (self.id().generation, incarnation);
        if self.refuted.is_none_or(|last| last < accusation) {
            self.env.reachable("a member refutes a suspicion of itself");
            self.refuted = Some(accusation);
            self.slowness = (self.slowness + 1).min(MAX_SLOWNESS);
            self.apply(foca::Member::new(self.id(), incarnation, State::Suspect), true);
        }
        self.run_foca(|foca, runtime| foca.announce(accuser, runtime));
    }

    // Time.

    fn on_time(&mut self, now: Instant) {
        if self.put_off_after_stall(now) {
            return;
        }
        while let Some(alarm) = self.alarms.pop_due(now) {
            self.on_alarm(alarm, now);
            self.settle(now);
        }
    }

    /// See the module's description.
    fn put_off_after_stall(&mut self, now: Instant) -> bool {
        let earliest =
            self.alarms.heap.iter().filter(|s| s.alarm.is_detector()).map(|s| s.at).min().unwrap_or(now);
        let late = now.since(earliest);
        let answer = millis(self.timing.probe_timeout_ms);
        if late <= answer / 2 {
            return false;
        }
        warn!(late_ms = late.as_millis() as u64, "this node was stalled; it puts off judging others");
        self.env.reachable("a node notices that it was stalled and puts off judging others");
        self.counters.stalls += 1;
        self.slowness = (self.slowness + 1).min(MAX_SLOWNESS);
        let by = late + answer;
        self.alarms.delay_detector(by);
        for claim in self.claims.values_mut() {
            if let Some((since, _)) = &mut claim.own {
                *since += by;
            }
        }
        true
    }

    fn on_alarm(&mut self, alarm: Alarm, now: Instant) {
        if matches!(self.phase, Phase::Left) {
            return;
        }
        match alarm {
            Alarm::Foca(timer) => {
                let round = matches!(timer, Timer::ProbeRandomMember(_));
                let indirect = matches!(timer, Timer::SendIndirectProbe { .. });
                self.raised = false;
                self.run_foca(|foca, runtime| foca.handle_timer(timer, runtime));
                // Foca has something to send only if the direct probe was not answered.
                self.asked_others = !round && (self.asked_others || (indirect && self.runtime.backlog() > 0));
                self.env
                    .sometimes(self.asked_others, "a member does not answer its probe and others are asked");
                self.settle(now);
                if round && !self.raised {
                    self.slowness = self.slowness.saturating_sub(1);
                }
            }
            Alarm::Suspicion(node_id) => self.on_suspicion(node_id, now),
            Alarm::Verdict(case) => self.judge(&case),
            Alarm::Gossip => {
                self.gossip_armed = false;
                self.gossip(now);
                self.ask_the_unknown(now);
            }
            Alarm::Quick => {
                self.quick_armed = false;
                self.gossip(now);
                // Mutant G07: the quick rounds never end, and what was sent is sent again.
                if mutant::is("G07") {
                    self.quick_rounds = QUICK_ROUNDS;
                    self.announce_profile(&self.me.clone());
                }
                self.arm_quick(now);
            }
            Alarm::PushPull => {
                self.alarms.set(now + self.timing.push_pull(self.live), Alarm::PushPull);
                if self.is_member()
                    && let Some(addr) = self.random_live(1).first()
                {
                    self.exchange(*addr, false, None);
                }
            }
            Alarm::Reconnect => {
                self.alarms.set(now + millis(self.timing.reconnect_interval_ms), Alarm::Reconnect);
                self.knock();
            }
            Alarm::Reap => {
                self.alarms.set(now + reap_interval(&self.timing), Alarm::Reap);
                self.reap(now);
            }
            Alarm::Accept => {}
            Alarm::Refute(generation) => {
                let me = self.id();
                if self.is_member() && me.generation <= generation && generation < MAX_GENERATION {
                    self.env.reachable("a node contradicts an order to leave");
                    self.become_identity(Identity { generation, ..me }.next());
                }
            }
            Alarm::LeaveCluster => {
                self.run_foca(|foca, runtime| foca.leave_cluster(runtime));
                self.alarms
                    .set(now + millis(self.timing.gossip_interval_ms).min(millis(200)), Alarm::Drain(3));
            }
            Alarm::Drain(rounds) => {
                self.run_foca(|foca, runtime| foca.gossip(runtime));
                if rounds > 1 && self.foca.num_members() > 0 {
                    let pause = millis(self.timing.gossip_interval_ms).min(millis(200));
                    self.alarms.set(now + pause, Alarm::Drain(rounds - 1));
                } else if let Phase::Leaving(waiters) = std::mem::replace(&mut self.phase, Phase::Left) {
                    self.settle(now);
                    self.publish();
                    for waiter in waiters {
                        let _ = waiter.send(());
                    }
                }
            }
        }
    }

    /// Failed members are asked whether they are really gone, a few at a time, all in turn. If one is not,
    /// it hears that it was taken for dead, takes a new generation and is back; both sides of a healed
    /// partition find each other so.
    fn knock(&mut self) {
        if !self.is_member() {
            return;
        }
        let failed: Vec<Identity> = self
            .table
            .iter()
            .filter(|entry| !entry.live && !entry.id.leaving && !entry.is_pruned())
            .map(|entry| entry.id)
            .collect();
        let start = failed.partition_point(|id| id.node_id <= self.knocked);
        for id in failed.iter().cycle().skip(start).take(failed.len().min(KNOCKS)) {
            self.env.reachable("a failed member is asked whether it is really gone");
            self.knocked = id.node_id;
            self.run_foca(|foca, runtime| foca.announce(*id, runtime));
        }
    }

    fn reap(&mut self, now: Instant) {
        let after = millis(self.timing.reap_after_ms);
        let mut forget = self.table.reap(now, after);
        {
            let mut view = self.shared.view();
            for id in &forget {
                view.members.remove(&id.node_id);
            }
        }
        self.forget_versions();
        let table = &self.table;
        self.place.keep(|node_id| table.get(node_id).is_some());
        forget.extend(self.old_strays(now, after));
        for id in forget {
            if self.table.get(id.node_id).is_none() {
                self.asked.remove(&id.node_id);
                self.claims.remove(&id.node_id);
            }
            self.conflicts.retain(|(a, b)| *a != id.node_id && *b != id.node_id);
            self.run_foca(|foca, runtime| foca.handle_timer(Timer::RemoveDown(id), runtime));
        }
    }

    /// What foca remembers as dead, and the table does not, and for long enough.
    /// What is known of addresses that nobody has any more is forgotten: the next datagram says it again.
    fn forget_versions(&mut self) {
        let known: BTreeSet<SocketAddr> = self.table.iter().map(|entry| entry.id.addr).collect();
        self.modern.retain(|addr| known.contains(addr));
    }

    fn old_strays(&mut self, now: Instant, after: Duration) -> Vec<Identity> {
        let mut strays = BTreeMap::new();
        let mut old = Vec::new();
        for member in self.foca.iter_membership_state().filter(|member| member.state() == State::Down) {
            let id = *member.id();
            if self.table.get(id.node_id).is_some_and(|entry| entry.id == id) {
                continue;
            }
            let since = self.strays.get(&id).copied().unwrap_or(now);
            if now.since(since) >= after || strays.len() >= MAX_STRAYS {
                old.push(id);
            } else {
                strays.insert(id, since);
            }
        }
        self.strays = strays;
        old
    }

    /// A member that we heard of but that never described itself is asked to.
    fn ask_the_unknown(&mut self, now: Instant) {
        let unknown: Vec<Identity> = self
            .table
            .iter()
            .filter(|entry| entry.live && entry.profile.is_none())
            .filter(|entry| {
                let asked = self.asked.get(&entry.id.node_id);
                asked.is_none_or(|asked| now.since(*asked) >= millis(self.timing.probe_timeout_ms))
            })
            .map(|entry| entry.id)
            .take(KNOCKS)
            .collect();
        for id in unknown {
            self.asked.insert(id.node_id, now);
            self.direct(id.addr, &Part::WhoIs);
        }
    }

    // Foca.

    fn run_foca(
        &mut self,
        call: impl FnOnce(
            &mut Foca<Identity, PostcardCodec, Rng, NoCustomBroadcast>,
            &mut AccumulatingRuntime<Identity>,
        ) -> Result<(), foca::Error>,
    ) {
        let result = call(&mut self.foca, &mut self.runtime);
        self.foca_result(result);
    }

    fn foca_result(&mut self, result: Result<(), foca::Error>) {
        match result {
            Ok(()) => {}
            Err(foca::Error::Decode(_) | foca::Error::MalformedPacket | foca::Error::CustomBroadcast(_)) => {
                self.counters.malformed += 1;
            }
            Err(error) => debug!(%error, "foca"),
        }
    }

    fn apply(&mut self, claim: foca::Member<Identity>, broadcast: bool) {
        self.run_foca(|foca, runtime| foca.apply_many(std::iter::once(claim), broadcast, runtime));
    }

    /// Carries out all that foca asked for, and tells programs what changed.
    fn settle(&mut self, now: Instant) {
        loop {
            let mut rejoined = false;
            while let Some(notification) = self.runtime.to_notify() {
                rejoined |= matches!(notification, OwnedNotification::Rejoin(_));
                self.on_notification(notification, now);
            }
            while let Some((after, timer)) = self.runtime.to_schedule() {
                self.schedule(after, timer, now);
            }
            while let Some((to, packet)) = self.runtime.to_send() {
                self.swim.push((to.addr, packet));
            }
            if rejoined {
                info!("others took this node for dead; it is back with a new generation");
                self.env.reachable("a node hears of its own death and comes back with a higher incarnation");
                self.adopt();
                continue;
            }
            break;
        }
        self.tell_changes(now);
        for (to, packet) in std::mem::take(&mut self.swim) {
            let mut builder = self.datagram(to, &packet);
            self.note_probe(&packet, to, &mut builder, now);
            self.fill(&mut builder);
            self.outbox.push((to, builder.finish()));
        }
    }

    fn on_notification(&mut self, notification: OwnedNotification<Identity>, now: Instant) {
        match notification {
            OwnedNotification::MemberUp(id) => {
                self.fresh = true;
                self.on_up(id, now);
            }
            OwnedNotification::MemberDown(id) => {
                self.fresh = true;
                self.table.down(id, now);
                if mutant::is("G01") {
                    // Mutant G01: the death is not recorded, so that a stale rumour of life counts again.
                    self.run_foca(|foca, runtime| foca.handle_timer(Timer::RemoveDown(id), runtime));
                }
            }
            OwnedNotification::Rename(old, new) => {
                if old.node_id != new.node_id {
                    self.env.reachable("another node appears at the address of one that was known");
                    // Another node at the address: the old one is not there any more.
                    self.table.down(old, now);
                }
                // If the table has this node elsewhere, or not at all, it is to know that it is here.
                let listed = old.node_id == new.node_id && self.table.renamed(new);
                if !listed && self.foca.iter_members().any(|member| *member.id() == new) {
                    self.on_up(new, now);
                }
            }
            OwnedNotification::Rejoin(_)
            | OwnedNotification::Active
            | OwnedNotification::Idle
            | OwnedNotification::Defunct => {}
        }
    }

    fn on_up(&mut self, id: Identity, now: Instant) {
        match self.table.up(id, now) {
            Up::Current => {}
            // Foca has two addresses of this node now, and is not told which one is no good: its probes will
            // tell. If two nodes share an id by mistake, the news would make each of them take a new
            // generation, and again, as fast as the network can carry it.
            Up::Outdated => self.env.reachable("a rumour of an earlier life of a member is ignored"),
            Up::Full => self.counters.table_full += 1,
        }
    }

    fn schedule(&mut self, after: Duration, timer: Timer<Identity>, now: Instant) {
        match &timer {
            Timer::ChangeSuspectToDown { member_id, incarnation, .. } => {
                let (id, incarnation) = (*member_id, *incarnation);
                self.suspect(id, incarnation, timer, now);
            }
            // A node that is slow probes slowly and waits long (Lifeguard's local health multiplier).
            Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } => {
                self.alarms.set(now + after * (1 + self.slowness), Alarm::Foca(timer));
            }
            _ => self.alarms.set(now + after, Alarm::Foca(timer)),
        }
    }

    fn tell_changes(&mut self, now: Instant) {
        let changes = self.table.changes();
        if changes.is_empty() {
            return;
        }
        let mut healed = None;
        for change in changes {
            let (member, observed) = match &change {
                Change::Joined(member) => (member, Some(MemberChange::Joined)),
                Change::Updated(member) => (member, Some(MemberChange::Updated)),
                Change::Left(member) if member.status == Status::Left => (member, Some(MemberChange::Left)),
                Change::Left(member) => (member, Some(MemberChange::Failed)),
                Change::Listed(member) => (member, None),
            };
            let node_id = member.node_id;
            let entry = self.table.get(node_id);
            let pruned = entry.is_none_or(|entry| entry.is_pruned());
            if self
                .claims
                .get(&node_id)
                .is_some_and(|claim| entry.is_none_or(|entry| !entry.live || entry.id != claim.id))
            {
                self.claims.remove(&node_id);
            }
            let known_before = {
                let mut view = self.shared.view();
                if pruned {
                    view.members.remove(&node_id).is_some()
                } else {
                    view.members.insert(node_id, member.clone()).is_some()
                }
            };
            if let Some(observed) = observed {
                self.counters.member_changes += 1;
                let Member { name, addr, generation, .. } = member;
                info!(member = %name, %addr, generation, ?observed, "a member changed");
                self.env.observe(Observed::Member {
                    node_id,
                    name: member.name.clone(),
                    addr: member.addr,
                    incarnation: member.generation,
                    change: observed,
                });
            }
            match &change {
                Change::Joined(member) => {
                    if known_before {
                        self.env.reachable("a member that had failed or left is back");
                        healed = Some(member.addr);
                    }
                    self.events.notify_join(member);
                    self.check_name(member);
                }
                Change::Updated(member) => {
                    self.events.notify_update(member);
                    self.check_name(member);
                }
                Change::Left(member) => self.events.notify_leave(member),
                Change::Listed(_) => {}
            }
        }
        self.resize();
        // Somebody came back. If a partition healed, the two sides have a lot to tell each other.
        if let Some(addr) = healed
            && self.is_member()
            && self.last_heal.is_none_or(|last| now.since(last) >= Duration::from_secs(1))
        {
            self.last_heal = Some(now);
            self.exchange(addr, false, None);
        }
    }

    /// Follows the number of live members.
    fn resize(&mut self) {
        let live = self.table.iter().filter(|entry| entry.live).count() + 1;
        if live == self.live {
            return;
        }
        self.live = live;
        self.delegate.cluster_size(live);
        if let Err(error) = self.foca.set_config(foca_config(&self.timing, live)) {
            debug!(%error, "foca");
        }
    }

    fn check_name(&mut self, member: &Member) {
        let twin = {
            let view = self.shared.view();
            view.members
                .values()
                .chain(std::iter::once(&view.local))
                .find(|other| {
                    other.node_id != member.node_id && other.name == member.name && other.status.is_live()
                })
                .cloned()
        };
        let Some(twin) = twin else { return };
        let pair = (twin.node_id.min(member.node_id), twin.node_id.max(member.node_id));
        if self.conflicts.len() < 1_024 && self.conflicts.insert(pair) {
            self.counters.name_conflicts += 1;
            let (first, second) = (twin.addr, member.addr);
            warn!(name = %member.name, %first, %second, "two live members have one name");
            self.events.notify_conflict(&twin, member);
        }
    }

    fn name_of(&self, node_id: u64) -> String {
        let profile = self.table.get(node_id).and_then(|entry| entry.profile.as_ref());
        profile.map_or_else(|| format!("{node_id:016x}"), |profile| profile.name.clone())
    }

    // Sending.

    fn sender(&self) -> Sender {
        Sender { id: self.id(), revision: self.me.revision }
    }

    /// The newest version that both this node and whoever is at `addr` are known to speak.
    fn version_for(&self, addr: SocketAddr) -> u8 {
        if self.modern.contains(&addr) { self.newest } else { wire::OLDEST }
    }

    fn datagram(&self, to: SocketAddr, swim: &[u8]) -> DatagramBuilder {
        DatagramBuilder::new(self.version_for(to), self.newest, self.cluster, &self.sender(), swim)
            .leaving(self.sealer.overhead())
    }

    /// One part in a datagram of its own, to a node that need not be a member.
    fn direct(&mut self, to: SocketAddr, part: &Part) {
        let mut builder = self.datagram(to, &[]);
        if builder.push(&part.encode()) {
            self.outbox.push((to, builder.finish()));
        } else {
            self.counters.unsendable += 1;
        }
    }

    /// Adds what waits to be sent: first about members, then the program's messages.
    fn fill(&mut self, builder: &mut DatagramBuilder) {
        for part in self.queue.take(2, builder.room(), self.timing.retransmits(self.live)) {
            if !builder.push(&part) {
                self.counters.unsendable += 1;
            }
        }
        if !self.delegate_pending || builder.room() <= MESSAGE_OVERHEAD {
            return;
        }
        let messages = self.delegate.get_broadcasts(MESSAGE_OVERHEAD, builder.room());
        for message in messages {
            if !builder.push(&Part::Message(message).encode()) {
                self.counters.unsendable += 1;
            }
        }
    }

    /// Passes on what is new at once, and twice more soon after: most of the times that a message is sent at
    /// all come early, so it does not wait for a tick in every hop.
    fn hurry(&mut self, now: Instant) {
        self.gossip(now);
        self.quick_rounds = QUICK_ROUNDS;
        self.arm_quick(now);
    }

    fn arm_quick(&mut self, now: Instant) {
        if self.quick_armed || self.quick_rounds == 0 || self.foca.num_members() == 0 {
            return;
        }
        self.quick_rounds -= 1;
        self.quick_armed = true;
        self.alarms.set(now + millis(self.timing.gossip_interval_ms) / 10, Alarm::Quick);
    }

    /// One round of gossip: foca's news, and then what found no room beside it.
    fn gossip(&mut self, now: Instant) {
        if self.foca.updates_backlog() > 0 && !matches!(self.phase, Phase::Left) {
            self.run_foca(|foca, runtime| foca.gossip(runtime));
            self.settle(now);
        }
        self.spread();
    }

    /// Sends what waits to a few random live members.
    fn spread(&mut self) {
        if matches!(self.phase, Phase::Left) {
            return;
        }
        for addr in self.random_live(self.timing.gossip_fanout as usize) {
            let mut builder = self.datagram(addr, &[]);
            self.fill(&mut builder);
            if builder.parts() == 0 {
                // Not even an empty datagram was too full: there is nothing left.
                self.delegate_pending = self.changed.is_none();
                return;
            }
            self.outbox.push((addr, builder.finish()));
        }
    }

    fn random_live(&mut self, wanted: usize) -> Vec<SocketAddr> {
        let mut live: Vec<SocketAddr> =
            self.table.iter().filter(|entry| entry.live).map(|entry| entry.id.addr).collect();
        let wanted = wanted.min(live.len());
        for i in 0..wanted {
            let j = self.rng.random_range(i..live.len());
            live.swap(i, j);
        }
        live.truncate(wanted);
        // Mutant T01: the order comes out of a map that the system's randomness orders.
        if mutant::is("T01") {
            mutant::system_order(&mut live);
        }
        live
    }

    /// The tick runs only while there is something to send and somebody to send it to.
    fn arm_gossip(&mut self, now: Instant) {
        let waiting = self.foca.updates_backlog() > 0
            || !self.queue.is_empty()
            || self.delegate_pending
            || self.table.iter().any(|entry| entry.live && entry.profile.is_none());
        if !self.gossip_armed && waiting && self.foca.num_members() > 0 {
            self.gossip_armed = true;
            self.alarms.set(now + millis(self.timing.gossip_interval_ms), Alarm::Gossip);
        }
    }

    async fn flush(&mut self) {
        for (to, datagram) in std::mem::take(&mut self.outbox) {
            let datagram = self.sealer.datagram(self.cluster, datagram);
            match self.socket.send_to(&datagram, to).await {
                Ok(()) => self.counters.sent += 1,
                Err(error) => {
                    // As good as lost on the way: probes will tell if it goes on.
                    self.counters.send_errors += 1;
                    debug!(%to, %error, "sending a datagram failed");
                }
            }
        }
    }

    /// What handles can see.
    fn publish(&mut self) {
        self.counters.slowness = self.slowness;
        self.counters.intent_queue = self.queue.len();
        self.counters.modern_peers = self.modern.len();
        self.counters.coordinate_resets = self.place.resets();
        let status = match self.phase {
            Phase::Member => Status::Alive,
            Phase::Leaving(_) => Status::Leaving,
            Phase::Left => Status::Left,
        };
        let mut view = self.shared.view();
        view.counters = self.counters.clone();
        view.coordinate = self.place.coordinate();
        let local = &mut view.local;
        if local.status != status {
            local.status = status;
            local.since = self.env.now();
        }
        local.generation = self.me.id.generation;
        local.addr = self.me.id.addr;
        if local.meta != self.me.meta {
            local.meta = self.me.meta.clone();
        }
    }
}

/// Whether a packet of foca's says that a member was reached through another.
fn is_forwarded_ack(packet: &[u8]) -> bool {
    header(packet).is_some_and(|header| matches!(header.message, foca::Message::ForwardedAck { .. }))
}

/// What a packet of foca's says first.
fn header(packet: &[u8]) -> Option<foca::Header<Identity>> {
    postcard::take_from_bytes::<foca::Header<Identity>>(packet).ok().map(|(header, _)| header)
}

fn reap_interval(timing: &Timing) -> Duration {
    millis((timing.reap_after_ms / 4).clamp(250, 60_000))
}
