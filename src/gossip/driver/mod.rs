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
//!
//! Here are the loop, commands, who this node is, and what happens at times; in files of their own `exchange`, `datagrams`,
//! `suspicion`, what is sent (`spread`), and two agents of one id (`twins`).

mod alarms;
mod datagrams;
mod exchange;
mod spread;
mod suspicion;
mod twins;

pub use twins::Twins;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, OwnedNotification, PostcardCodec, State, Timer};
use rand::RngExt;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{debug, info, warn};

use self::alarms::{Alarm, Alarms};
use self::datagrams::Trip;
use self::exchange::Report;
use self::spread::QUICK_ROUNDS;
use self::suspicion::{Claim, MAX_CASES, MAX_SLOWNESS};
use crate::env::observe::MemberChange;
use crate::env::places::Places;
use crate::env::strangers::Strangers;
use crate::env::{AbortOnDrop, BoxStream, Datagrams, Env, Instant, Listener, Observed, Rng};
use crate::gossip::allegiance::{Allegiance, Belongs, OtherCluster};
use crate::gossip::broadcast::{QUEUE_LIMIT, TransmitLimitedQueue};
use crate::gossip::delegate::{Delegate, EventDelegate, META_LIMIT};
use crate::gossip::identity::{Identity, MAX_GENERATION};
use crate::gossip::members::{Change, Member, Status, Table, Up};
use crate::gossip::pushpull::{MAX_EXCHANGES, MAX_EXCHANGES_EACH};
use crate::gossip::seal::Sealer;
use crate::gossip::timing::Timing;
use crate::gossip::vivaldi::Vivaldi;
use crate::gossip::wire::{self, Intent, Part, Profile};
use crate::gossip::{Error, NotJoined, Shared};
use crate::mutant;

/// How many commands may wait. When full, the caller waits.
pub(super) const COMMANDS: usize = 64;
/// How many finished exchanges may wait for the loop. When full, they wait, and their timeout runs.
const REPORTS: usize = 64;
/// How often the loop may wake in a row for something else before overdue timers get a turn.
const BURST: u32 = 256;
/// After so many failures to receive in a row the socket counts as broken.
const RECEIVE_FAILURES: u32 = 100;
/// The least time between two generations that a node takes because others held the one before for dead, and between two
/// revisions of its profile because others have one that is not its own.
const JUMP_PAUSE: Duration = Duration::from_secs(1);
/// Of so many nodes is remembered that they were told that they are stale.
const MAX_TOLD: usize = 1_024;
/// How many failed members are knocked on at once.
const KNOCKS: usize = 16;
/// So many members, as chance has it, exchange state with one that is back.
const HEALERS: usize = 8;
/// How many dead lives beyond those in the table are remembered.
const MAX_STRAYS: usize = 4_096;
/// How long no stream is accepted after accepting failed: the cause, such as too many open files, takes time
/// to pass, and the loop has other things to do.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    Join { addr: SocketAddr, reply: oneshot::Sender<Result<(), NotJoined>> },
    Leave { within: Duration, reply: oneshot::Sender<()> },
    UpdateMeta { reply: oneshot::Sender<Result<(), Error>> },
    Settle { cluster: u64 },
    ForceLeave { name: String, prune: bool, reply: oneshot::Sender<Result<(), Error>> },
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
    pub founded: Option<u64>,
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
    /// Which cluster, of those that have this number, it is of.
    allegiance: Allegiance,
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
    /// Before this time nothing is new enough for more than a tick.
    next_hurry: Instant,
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
    /// When we last told a node that it is stale.
    told: BTreeMap<u64, Instant>,
    /// The highest generation that somebody named so.
    named: u64,
    jumps: Pace,
    /// The highest revision that somebody named so.
    named_revision: u64,
    revisions: Pace,
    /// What speaks for two agents of one id.
    twins: twins::Watch,
    /// Why this node cannot go on.
    must_end: Option<String>,
    knocked: u64,
    live: usize,
    slowness: u32,
    /// The last suspicion of this node that it refuted: generation and incarnation.
    refuted: Option<(u64, u16)>,
    /// The highest generation of this node that was ordered to leave and has not contradicted yet.
    ordered_out: Option<u64>,
    /// Whether foca raised a suspicion while handling the current alarm.
    raised: bool,
    /// Whether others were asked to probe the member that is being probed.
    asked_others: bool,
    burst: u32,
    /// No stream is accepted before.
    accept_after: Instant,
    receive_failures: u32,
    /// The other members that live, as programs were told of them, by name.
    names: BTreeMap<String, BTreeSet<u64>>,
    conflicts: BTreeSet<(u64, u64)>,
    counters: Counters,
}

/// How often a node contradicts what others say of it.
///
/// Two nodes with one id would chase each other through the generations; the pause between two such steps doubles as
/// long as they come as soon as they may, so they cannot do it quickly.
struct Pace {
    next: Instant,
    pause: Duration,
}

impl Pace {
    fn may(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        if now.since(self.next) > 4 * self.pause {
            self.pause = JUMP_PAUSE;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(Duration::from_secs(60));
        true
    }
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
            founded,
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
        let mut allegiance = Allegiance::default();
        if let Some(cluster) = founded {
            allegiance.settle(cluster);
        }
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
            next_hurry: now,
            quick_rounds: 0,
            quick_armed: false,
            outbox: Vec::new(),
            swim: Vec::new(),
            exchanges: BTreeMap::new(),
            exchange_number: 0,
            last_heal: None,
            asked: BTreeMap::new(),
            told: BTreeMap::new(),
            named: 0,
            jumps: Pace { next: now, pause: JUMP_PAUSE },
            named_revision: 0,
            revisions: Pace { next: now, pause: JUMP_PAUSE },
            twins: twins::Watch::default(),
            must_end: None,
            knocked: 0,
            live: 1,
            slowness: 0,
            refuted: None,
            ordered_out: None,
            raised: false,
            asked_others: false,
            accept_after: now,
            burst: 0,
            receive_failures: 0,
            names: BTreeMap::new(),
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
            allegiance,
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
            if let Some(reason) = self.must_end.take() {
                return Some(reason);
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
                    let _ = reply.send(Err(NotJoined::Failed("this node is leaving".to_owned())));
                } else if addr == self.id().addr {
                    let _ = reply.send(Err(NotJoined::Itself));
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
            Command::Settle { cluster } => {
                if self.allegiance.settle(cluster) {
                    info!(cluster = %format_args!("{cluster:016x}"), "this node's cluster");
                }
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
        // A live node contradicts, and nobody needs to hear of it where it lives.
        if name == self.me.name {
            return Ok(());
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
            // Mutant G30: the life before is meant. Mutant G31: who is to be forgotten has only left.
            let generation = id.generation.saturating_sub(u64::from(mutant::is("G30")));
            let intent = Intent { generation, prune: prune && !mutant::is("G31") };
            self.table.order_out(id.node_id, intent);
            self.announce_order(id, intent);
        }
        Ok(())
    }

    fn announce_order(&mut self, id: Identity, intent: Intent) {
        self.queue.push(Some(format!("leave/{}", id.node_id)), Part::Leave { id, intent }.encode(), None);
        self.fresh = true;
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

    /// Somebody knows this node, or another at its address, at this generation: takes the next one, unless it did a moment ago.
    fn jump(&mut self, generation: u64, now: Instant) {
        // Part of mutant G02.
        if mutant::is("G02") {
            return;
        }
        if !self.is_member() || generation >= MAX_GENERATION {
            return;
        }
        // What was named while this node had to wait counts too: whoever named it may not do so again at the right moment.
        self.named = self.named.max(generation);
        if !self.jumps.may(now) {
            return;
        }
        let generation = self.named;
        self.env.reachable("a node takes a higher incarnation because others hold its last for dead");
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

    /// Somebody has a profile of this node that is not the one it has: takes the next revision, unless it did a moment ago.
    fn contradict(&mut self, revision: u64, now: Instant) {
        self.named_revision = self.named_revision.max(revision);
        if self.revisions.may(now) {
            self.revise(self.named_revision);
        }
    }

    fn announce_profile(&mut self, profile: &Profile) {
        let name = format!("profile/{}", profile.id.node_id);
        self.queue.push(Some(name), Part::Profile(profile.clone()).encode(), None);
        self.fresh = true;
    }

    fn tell_stale(&mut self, node_id: u64, addr: SocketAddr, now: Instant) {
        let Some(entry) = self.table.get(node_id) else { return };
        self.tell_stale_of(node_id, addr, entry.id.generation, now);
    }

    /// Two nodes may each hold the other for stale, and may both have to wait before they may change that: what says so
    /// is said no more often than other news.
    fn tell_stale_of(&mut self, node_id: u64, addr: SocketAddr, generation: u64, now: Instant) {
        let pause = millis(self.timing.gossip_interval_ms);
        let recent = |told: &Instant| now.since(*told) < pause;
        if self.told.len() >= MAX_TOLD {
            self.told.retain(|_, told| recent(told));
        }
        // Part of mutant G22.
        let again = self.told.get(&node_id).is_some_and(recent) && !mutant::is("G22");
        if again || self.told.len() >= MAX_TOLD {
            return;
        }
        self.told.insert(node_id, now);
        let profile = self.table.get(node_id).and_then(|entry| entry.profile.as_ref());
        let revision = profile.map_or(0, |profile| profile.revision);
        self.direct(addr, &Part::Stale { node_id, generation, revision });
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
        let late = now.since(self.alarms.next_of_detector().unwrap_or(now));
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
                if self.allegiance.follows() && !self.table.iter().any(|entry| entry.live && entry.sure) {
                    self.allegiance.forget();
                }
            }
            Alarm::Reap => {
                self.alarms.set(now + reap_interval(&self.timing), Alarm::Reap);
                self.reap(now);
            }
            Alarm::Accept => {}
            Alarm::Refute => {
                let me = self.id();
                let Some(generation) = self.ordered_out.take() else { return };
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

    /// What is known of addresses that nobody has any more is forgotten: the next datagram says it again.
    fn forget_versions(&mut self) {
        let known: BTreeSet<SocketAddr> = self.table.iter().map(|entry| entry.id.addr).collect();
        self.modern.retain(|addr| known.contains(addr));
    }

    /// What foca remembers as dead, and the table does not, and for long enough.
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

    // Which cluster this node is of.

    /// What it says of that. A node that is held at version 1 says and hears nothing of it.
    fn belongs(&self) -> Option<Belongs> {
        self.allegiance.belongs().filter(|_| self.newest > wire::OLDEST)
    }

    /// Another node says what it is of.
    fn hears(&mut self, theirs: Option<Belongs>) -> Result<(), OtherCluster> {
        let theirs = theirs.filter(|_| self.newest > wire::OLDEST);
        if self.allegiance.hears(theirs)?
            && let Some(Belongs { cluster, .. }) = theirs
        {
            info!(cluster = %format_args!("{cluster:016x}"), "this node follows a cluster");
        }
        Ok(())
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
                    // Mutant G29: it is not taken for dead.
                    if !mutant::is("G29") {
                        self.table.down(old, now);
                    }
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
            if self
                .claims
                .get(&node_id)
                .is_some_and(|claim| entry.is_none_or(|entry| !entry.live || entry.id != claim.id))
            {
                self.claims.remove(&node_id);
            }
            let before = self.shared.view().members.insert(node_id, member.clone());
            let known_before = before.is_some();
            self.note_name(before.as_ref(), member);
            if let Some(before) = before.filter(|before| before.addr != member.addr) {
                self.member_moved(&before, member, now);
            }
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
        // Somebody came back. If a partition healed, the two sides have a lot to tell each other. But if it was one node that was
        // away, all the others see it come, and it must not be told by each of a thousand what a few can tell.
        if let Some(addr) = healed
            && self.is_member()
            && self.last_heal.is_none_or(|last| now.since(last) >= Duration::from_secs(1))
            && (self.live <= HEALERS || self.rng.random_range(0..self.live) < HEALERS)
        {
            self.last_heal = Some(now);
            self.exchange(addr, false, None);
        }
    }

    /// Follows the number of live members.
    fn resize(&mut self) {
        let live = self.table.live() + 1;
        if live == self.live {
            return;
        }
        self.live = live;
        self.delegate.cluster_size(live);
        if let Err(error) = self.foca.set_config(foca_config(&self.timing, live)) {
            debug!(%error, "foca");
        }
    }

    fn note_name(&mut self, before: Option<&Member>, after: &Member) {
        if let Some(before) = before.filter(|before| before.status.is_live())
            && let Some(namesakes) = self.names.get_mut(&before.name)
        {
            namesakes.remove(&before.node_id);
            if namesakes.is_empty() {
                self.names.remove(&before.name);
            }
        }
        if after.status.is_live() {
            self.names.entry(after.name.clone()).or_default().insert(after.node_id);
        }
    }

    fn check_name(&mut self, member: &Member) {
        let mut namesakes = self.names.get(&member.name).into_iter().flatten();
        let other = namesakes.find(|node_id| **node_id != member.node_id);
        let twin = {
            let view = self.shared.view();
            let local =
                (view.local.name == member.name && view.local.status.is_live()).then_some(&view.local);
            other.and_then(|node_id| view.members.get(node_id)).or(local).cloned()
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
        let twins = self.twins.twins(self.env.now());
        let mut view = self.shared.view();
        view.twins = twins;
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

fn reap_interval(timing: &Timing) -> Duration {
    millis((timing.reap_after_ms / 4).clamp(250, 60_000))
}
