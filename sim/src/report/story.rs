//! From what happens to what is drawn: lanes, spans, marks and messages, ready to be put on a page.
//!
//! A [`Scribe`] is the [`Recorder`] that listens to a run and keeps, for each host, when its process ran, what part it
//! played in which term, how far its log was, and what is worth a mark; for the network, which rule was in force and what
//! became of every message. What it makes of it, a [`Story`], is plain data in the form in which the page wants it: spans
//! sorted by their beginning, numbers in columns.
//!
//! A message is followed from its sender to its receiver by what the trace knows of it: its two sockets, its length and the hash
//! of its bytes. Equal ones are matched in the order in which they were sent.
//!
//! Left out: timers, what a message says, and messages of a host to itself.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use driftline::env::Observed;
use driftline::env::observe::{MemberChange, RaftRole};
use serde::Serialize;

use super::words;
use crate::fault::{Effect, Hosts, Rule};
use crate::record::{Happening, Recorder};
use crate::scenario::Fault;
use crate::trace::{Event, Message, Transport, WORLD};

/// More messages than this are counted and not kept.
const MOST_MESSAGES: usize = 2_000_000;

/// A text of a mark is cut here: what is hostile may also be long.
const LONGEST_TEXT: usize = 600;

/// All that a page draws of the nodes and what is between them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Story {
    /// The last true time that anything happened at, in nanoseconds.
    pub end_ns: u64,
    /// When the faults of the plan and the clients began.
    pub storm_ns: Option<u64>,
    /// When everything was made right again.
    pub heal_ns: Option<u64>,
    /// The nodes, by number.
    pub lanes: BTreeMap<u32, Lane>,
    /// The faults of the plan that took place, by beginning.
    pub faults: Vec<FaultSpan>,
    /// The rules of the network, by beginning.
    pub rules: Vec<RuleSpan>,
    /// The messages, by the time they were sent.
    pub messages: Messages,
    /// What clients did beside reads and writes of keys, by beginning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub talks: Vec<Talk>,
    /// Hosts from this number on are clients.
    pub first_client: u32,
    /// Which node gave itself which Raft id.
    pub names: BTreeMap<u64, u32>,
}

/// What one node went through.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lane {
    /// When there was no process, or one without a processor; where nothing is said, it ran.
    pub processes: Vec<ProcessSpan>,
    /// Its part in Raft: each lasts until the next, or until its process ends.
    pub roles: Vec<RoleSpan>,
    /// Its clock: each piece lasts until the next.
    pub clocks: Vec<ClockPiece>,
    /// How far its log was.
    pub progress: Progress,
    /// What else is worth pointing at.
    pub marks: Vec<Mark>,
}

/// A stretch of time in which a process did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessSpan {
    /// When it began.
    pub from_ns: u64,
    /// When it was over; the end of the story if it never was.
    pub to_ns: u64,
    /// Why.
    pub state: ProcessState,
    /// What there is to say of it.
    pub why: String,
}

/// Why a process did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// It had no processor.
    Frozen,
    /// It was gone; its host was up.
    Down,
    /// Its host had no power.
    PowerLoss,
    /// It was not there yet.
    Absent,
}

/// A part in Raft, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoleSpan {
    /// When it began.
    pub from_ns: u64,
    /// When it was over.
    pub to_ns: u64,
    /// `leader`, `follower`, `candidate`, `learner` or `stopped`.
    pub role: &'static str,
    /// In which term.
    pub term: u64,
    /// Who led that term, as far as this node knew.
    pub leader: Option<String>,
}

/// How a clock ran from some time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClockPiece {
    /// True time.
    pub at_ns: u64,
    /// What the node's monotonic clock showed then.
    pub own_ns: u64,
    /// How fast it ran from then on, in millionths of true time.
    pub rate_ppm: u64,
    /// How far the wall clock was ahead of the monotonic one.
    pub wall_ahead_ns: i64,
}

/// The log of a node, in columns: at each time the last index in the log, the last durable, the last applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// True times, ascending.
    pub at_ns: Vec<u64>,
    /// Last index in the log.
    pub last: Vec<u64>,
    /// Last index known to be durable.
    pub durable: Vec<u64>,
    /// Last index applied.
    pub applied: Vec<u64>,
}

/// Something that happened at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// True time.
    pub at_ns: u64,
    /// What kind of thing, one of [`MARKS`].
    pub kind: &'static str,
    /// It, in words.
    pub text: String,
}

/// Something that a client did beside reading and writing keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Talk {
    /// Its number.
    pub client: u32,
    /// When it asked.
    pub from_ns: u64,
    /// When it was told.
    pub to_ns: Option<u64>,
    /// The lock, if it is about one.
    pub about: String,
    /// What it asked and was told.
    pub text: String,
}

/// The kinds of marks, each with what it means.
pub const MARKS: [(&str, &str); 11] = [
    ("vote", "a vote was made durable"),
    ("truncated", "entries were cut off the end of the log"),
    ("purged", "entries were dropped, a snapshot covers them"),
    ("snapshot-built", "a snapshot was built"),
    ("snapshot-installed", "the state was replaced by the leader's snapshot"),
    ("membership", "the Raft membership in force changed"),
    ("member", "gossip's opinion of a member changed"),
    ("event", "a user event, or something the program says"),
    ("disk", "a sync failed"),
    ("boot", "the process started and opened its store"),
    ("fatal", "the node stopped or panicked"),
];

/// A fault of the plan, as it took place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultSpan {
    /// When it began.
    pub from_ns: u64,
    /// When it was over.
    pub to_ns: u64,
    /// Its kind, as `--without` names it.
    pub kind: String,
    /// What came of it.
    pub what: String,
    /// The nodes that the plan names for it.
    pub nodes: Vec<u32>,
}

/// A rule of the network, while it was in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleSpan {
    /// When it began.
    pub from_ns: u64,
    /// When it was over.
    pub to_ns: u64,
    /// The senders; none: all.
    pub senders: Option<Vec<u32>>,
    /// The receivers; none: all.
    pub receivers: Option<Vec<u32>>,
    /// Whether nothing passes.
    pub blocks: bool,
    /// What happens to their messages, in words.
    pub effect: String,
}

/// All messages between hosts, in columns, by the time they were sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Messages {
    /// True time, in nanoseconds.
    pub sent_ns: Vec<u64>,
    /// When it arrived or was lost for good; the same as sent if neither happened.
    pub ended_ns: Vec<u64>,
    /// The sender.
    pub from: Vec<u32>,
    /// The receiver.
    pub to: Vec<u32>,
    /// What it is part of: a place in `kinds`.
    pub kind: Vec<u8>,
    /// Its length in bytes.
    pub bytes: Vec<u32>,
    /// What became of it: see [`Fate`], and how often it was lost on the way above that.
    pub fate: Vec<u32>,
    /// Names of kinds.
    pub kinds: Vec<String>,
    /// Names of reasons for a loss.
    pub reasons: Vec<String>,
    /// How many there were beyond those kept.
    pub left_out: u64,
}

/// What became of a message, as a number: 0 on its way when the story ended, 1 arrived, 2 arrived as a copy, 3 arrived after it
/// had been lost and sent again, 4 arrived with bytes that were changed on the way, and from 5 on lost for a reason: a place in
/// `reasons`.
pub struct Fate;

impl Fate {
    /// On its way.
    pub const FLYING: u32 = 0;
    /// Arrived.
    pub const ARRIVED: u32 = 1;
    /// Arrived a second time.
    pub const COPY: u32 = 2;
    /// Arrived in the end.
    pub const LATE: u32 = 3;
    /// Arrived with other bytes.
    pub const DAMAGED: u32 = 4;
    /// Lost, for the first of the reasons.
    pub const LOST: u32 = 5;
}

/// What tells equal messages from others.
type Likeness = (bool, SocketAddr, SocketAddr, u32, u64);

/// Listens to a run and writes its story down.
pub struct Scribe {
    story: Story,
    /// What a well-known port is for.
    ports: BTreeMap<u16, u8>,
    addresses: BTreeMap<IpAddr, u32>,
    open: BTreeMap<u32, ProcessSpan>,
    flying: BTreeMap<Likeness, Flight>,
    faults: Vec<(Fault, usize)>,
    rules: BTreeMap<u64, usize>,
    /// What clients asked and were not told yet, by client: places in the story's talks.
    asked: BTreeMap<u32, VecDeque<usize>>,
}

/// The rows of equal messages.
#[derive(Default)]
struct Flight {
    waiting: VecDeque<usize>,
    last: usize,
}

impl Scribe {
    /// A scribe who knows what the ports are for and which hosts are clients.
    pub fn new(first_client: u32, ports: &[(u16, &str)]) -> Scribe {
        let mut story = Story { first_client, ..Story::default() };
        story.messages.kinds.push("other".to_owned());
        let mut numbers = BTreeMap::new();
        for (port, name) in ports {
            story.messages.kinds.push((*name).to_owned());
            numbers.insert(*port, (story.messages.kinds.len() - 1) as u8);
        }
        Scribe {
            story,
            ports: numbers,
            addresses: BTreeMap::new(),
            open: BTreeMap::new(),
            flying: BTreeMap::new(),
            faults: Vec::new(),
            rules: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// The story so far; what has not ended ends now.
    pub fn story(&self) -> Story {
        let mut story = self.story.clone();
        let end = story.end_ns;
        for (host, span) in &self.open {
            let span = ProcessSpan { to_ns: end, ..span.clone() };
            story.lanes.entry(*host).or_default().processes.push(span);
        }
        for lane in story.lanes.values_mut() {
            close_roles(lane, end);
        }
        for (_, at) in &self.faults {
            story.faults[*at].to_ns = story.heal_ns.unwrap_or(end);
        }
        for at in self.rules.values() {
            story.rules[*at].to_ns = end;
        }
        story.messages.sort();
        for fault in &mut story.faults {
            let begun = story.rules.iter().filter(|rule| rule.blocks && rule.from_ns == fault.from_ns);
            if fault.kind == "partition" {
                fault.what = apart(&begun.collect::<Vec<_>>(), story.first_client)
                    .unwrap_or_else(|| fault.what.clone());
            }
        }
        story
    }

    fn lane(&mut self, host: u32) -> Option<&mut Lane> {
        (host < self.story.first_client).then(|| self.story.lanes.entry(host).or_default())
    }

    fn mark(&mut self, at_ns: u64, host: u32, kind: &'static str, text: impl Into<String>) {
        let text = shortened(text.into());
        if let Some(lane) = self.lane(host) {
            lane.marks.push(Mark { at_ns, kind, text });
        }
    }

    /// A node by the Raft id that it gave itself.
    fn name(&self, raft_id: u64) -> String {
        self.story.names.get(&raft_id).map_or_else(|| format!("Raft id {raft_id}"), |node| format!("n{node}"))
    }

    // Processes.

    fn begins_not_to_run(&mut self, at_ns: u64, host: u32, state: ProcessState, why: &str) {
        self.runs_again(at_ns, host);
        if state != ProcessState::Frozen
            && let Some(lane) = self.lane(host)
        {
            close_roles(lane, at_ns);
        }
        if host < self.story.first_client {
            let span = ProcessSpan { from_ns: at_ns, to_ns: at_ns, state, why: why.to_owned() };
            self.open.insert(host, span);
        }
    }

    fn runs_again(&mut self, at_ns: u64, host: u32) {
        if let Some(span) = self.open.remove(&host)
            && let Some(lane) = self.lane(host)
            && span.from_ns < at_ns
        {
            lane.processes.push(ProcessSpan { to_ns: at_ns, ..span });
        }
    }

    // What nodes say.

    fn observed(&mut self, at_ns: u64, host: u32, observed: &Observed) {
        if let Observed::Recovered { raft_id, .. } = observed {
            self.story.names.insert(*raft_id, host);
        }
        let names = |ids: &[u64]| ids.iter().map(|id| self.name(*id)).collect::<Vec<_>>().join(" ");
        match observed {
            Observed::Recovered { term, last_index, applied, .. } => {
                let text =
                    format!("starts in term {term} with a log up to {last_index}, applied up to {applied}");
                self.mark(at_ns, host, "boot", text);
            }
            Observed::Vote { term, candidate, committed } => {
                let who = self.name(*candidate);
                let known = if *committed { ", a quorum is known to agree" } else { "" };
                self.mark(at_ns, host, "vote", format!("votes for {who} in term {term}{known}"));
            }
            Observed::Truncated { index } => {
                self.mark(at_ns, host, "truncated", format!("cuts its log back to index {index}"));
            }
            Observed::Purged { index } => {
                self.mark(at_ns, host, "purged", format!("drops its log up to index {index}"));
            }
            Observed::SnapshotInstalled { index, term, .. } => {
                let text = format!("installs the leader's snapshot up to index {index} of term {term}");
                self.mark(at_ns, host, "snapshot-installed", text);
            }
            Observed::SnapshotBuilt { index, term } => {
                let text = format!("builds a snapshot up to index {index} of term {term}");
                self.mark(at_ns, host, "snapshot-built", text);
            }
            Observed::Membership { index, voters, learners } => {
                let sets =
                    voters.iter().map(|set| format!("[{}]", names(set))).collect::<Vec<_>>().join(" and ");
                let joint = if voters.len() > 1 { " (joint)" } else { "" };
                let mut text = format!("voters {sets}{joint} from index {index} on");
                if !learners.is_empty() {
                    let _ = write!(text, ", learners [{}]", names(learners));
                }
                self.mark(at_ns, host, "membership", text);
            }
            Observed::Member { name, incarnation, change, .. } => {
                let became = match change {
                    MemberChange::Joined => "sees that {} joined",
                    MemberChange::Updated => "hears news of {}",
                    MemberChange::Suspected => "suspects {}",
                    MemberChange::Failed => "declares {} failed",
                    MemberChange::Left => "sees that {} left",
                };
                let text = format!("{}, incarnation {incarnation}", became.replace("{}", name));
                self.mark(at_ns, host, "member", text);
            }
            Observed::UserEvent { name, ltime, .. } => {
                self.mark(at_ns, host, "event", format!("gets the event {name:?}, Lamport time {ltime}"));
            }
            Observed::Program { name, detail } => {
                self.mark(at_ns, host, "event", format!("{name}: {detail}"))
            }
            Observed::Damaged { reason } => {
                self.mark(at_ns, host, "fatal", format!("finds its data damaged: {reason}"));
            }
            Observed::Fatal { reason } => self.mark(at_ns, host, "fatal", format!("stops: {reason}")),
            Observed::Role { term, role, leader } => {
                let leader = leader.map(|id| self.name(id));
                let (term, role) = (*term, role_name(*role));
                if let Some(lane) = self.lane(host) {
                    close_roles(lane, at_ns);
                    lane.roles.push(RoleSpan { from_ns: at_ns, to_ns: at_ns, role, term, leader });
                }
            }
            Observed::Appended { .. } | Observed::Durable { .. } | Observed::Applied { .. } => {}
        }
        if let Some(lane) = self.lane(host) {
            lane.progress.on(at_ns, observed);
        }
    }

    // Messages.

    fn host_at(&self, sender: u32, addr: SocketAddr) -> Option<u32> {
        if addr.ip().is_loopback() { Some(sender) } else { self.addresses.get(&addr.ip()).copied() }
    }

    fn sent(&mut self, at_ns: u64, host: u32, message: &Message) {
        let Some(to) = self.host_at(host, message.to).filter(|to| *to != host) else { return };
        if self.story.messages.sent_ns.len() >= MOST_MESSAGES {
            self.story.messages.left_out += 1;
            return;
        }
        let port = |addr: SocketAddr| self.ports.get(&addr.port()).copied();
        let kind = port(message.to).or(port(message.from)).unwrap_or(0);
        let row = self.story.messages.push(at_ns, host, to, kind, message.len);
        let flight = self.flying.entry(likeness(message)).or_default();
        flight.waiting.push_back(row);
        flight.last = row;
    }

    fn arrived(&mut self, at_ns: u64, message: &Message) {
        let likeness = likeness(message);
        let known = self.flying.contains_key(&likeness);
        // Bytes that were changed on the way: the first of the same length that waits on the same way.
        let (udp, from, to, len, _) = likeness;
        let mut similar = self.flying.range_mut((udp, from, to, len, 0)..=(udp, from, to, len, u64::MAX));
        let flight = match known {
            true => self.flying.get_mut(&likeness),
            false => similar.find_map(|(_, flight)| (!flight.waiting.is_empty()).then_some(flight)),
        };
        let Some(flight) = flight else { return };
        let messages = &mut self.story.messages;
        let (row, fate) = match flight.waiting.pop_front() {
            Some(row) if !known => (row, Fate::DAMAGED),
            Some(row) if messages.fate[row] >= Fate::LOST => (row, Fate::LATE),
            Some(row) => (row, Fate::ARRIVED),
            // Nobody waits for it: the network made a copy.
            None => (messages.copy(flight.last), Fate::COPY),
        };
        messages.ended_ns[row] = at_ns;
        messages.fate[row] = fate;
    }

    fn lost(&mut self, at_ns: u64, message: &Message, reason: &str) {
        let Some(flight) = self.flying.get_mut(&likeness(message)) else { return };
        let messages = &mut self.story.messages;
        // A datagram is gone; a segment will be sent again.
        let row = match message.transport {
            Transport::Udp => flight.waiting.pop_front(),
            Transport::Tcp => flight.waiting.front().copied(),
        };
        let Some(row) = row else { return };
        let known = messages.reasons.iter().position(|known| known == reason);
        let number = known.unwrap_or_else(|| {
            messages.reasons.push(reason.to_owned());
            messages.reasons.len() - 1
        });
        if messages.fate[row] < Fate::LOST {
            messages.ended_ns[row] = at_ns;
            messages.fate[row] = Fate::LOST + number as u32;
        }
    }

    fn traced(&mut self, at_ns: u64, host: u32, event: &Event) {
        match event {
            Event::Send(message) => self.sent(at_ns, host, message),
            Event::Deliver(message) => self.arrived(at_ns, message),
            Event::Drop(message, reason) => self.lost(at_ns, message, reason),
            Event::Sync { file, writes, failed: true, .. } => {
                self.mark(
                    at_ns,
                    host,
                    "disk",
                    format!("the sync of {file} fails, its {writes} writes are gone"),
                );
            }
            Event::Note { verb: verb @ ("exit" | "panic"), text } => {
                let said = if *verb == "exit" { "the process ends" } else { "a panic" };
                self.mark(at_ns, host, "fatal", format!("{said}: {text}"));
            }
            Event::Note { verb, text } if host >= self.story.first_client && host != WORLD => {
                self.talked(at_ns, host, verb, text);
            }
            Event::Connection { .. } | Event::Timer { .. } | Event::Sync { .. } | Event::Note { .. } => {}
        }
    }

    /// A client asks, is told, or notes what it knows of its lock. What begins with a number is an operation of the history.
    fn talked(&mut self, at_ns: u64, host: u32, verb: &str, text: &str) {
        let client = host - self.story.first_client;
        let rest = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
        let numbered = rest.len() < text.len() && (rest.starts_with(" at ") || rest.starts_with(": "));
        let talks = &mut self.story.talks;
        match verb {
            "invoke" if !numbered => {
                self.asked.entry(client).or_default().push_back(talks.len());
                let text = shortened(text.to_owned());
                talks.push(Talk { client, from_ns: at_ns, to_ns: None, about: String::new(), text });
            }
            "return" if !numbered => {
                let asked = self.asked.entry(client).or_default();
                // Of several at once nobody can say whose answer it is.
                let alone = asked.len() == 1;
                if let Some(talk) = asked.pop_front().and_then(|at| talks.get_mut(at)) {
                    talk.to_ns = Some(at_ns);
                    if alone {
                        talk.text = shortened(format!("{} → {text}", talk.text));
                    }
                }
            }
            "lock" => {
                let Some((about, text)) = words::of_lock(text) else { return };
                talks.push(Talk { client, from_ns: at_ns, to_ns: Some(at_ns), about, text });
            }
            _ => {}
        }
    }
}

impl Recorder for Scribe {
    fn on(&mut self, at_ns: u64, host: u32, what: Happening<'_>) {
        self.story.end_ns = self.story.end_ns.max(at_ns);
        match what {
            Happening::Traced(event) => self.traced(at_ns, host, event),
            Happening::Observed(observed) => self.observed(at_ns, host, observed),
            Happening::Booted { ip } => {
                self.addresses.retain(|_, owner| *owner != host);
                self.addresses.insert(ip, host);
                let first =
                    self.lane(host).is_some_and(|lane| lane.clocks.is_empty() && lane.marks.is_empty());
                if first && at_ns > 0 {
                    self.begins_not_to_run(0, host, ProcessState::Absent, "not there yet");
                }
                self.runs_again(at_ns, host);
            }
            Happening::Stopped { power_loss: true } => {
                self.begins_not_to_run(at_ns, host, ProcessState::PowerLoss, "the host lost power");
            }
            Happening::Stopped { power_loss: false } => {
                self.begins_not_to_run(at_ns, host, ProcessState::Down, "the process is gone");
            }
            Happening::Frozen => {
                self.begins_not_to_run(at_ns, host, ProcessState::Frozen, "the process gets no processor");
            }
            Happening::Resumed => self.runs_again(at_ns, host),
            Happening::Clock { own_ns, rate_ppm, wall_ahead_ns } => {
                if let Some(lane) = self.lane(host) {
                    let piece = ClockPiece { at_ns, own_ns, rate_ppm, wall_ahead_ns };
                    match lane.clocks.last_mut() {
                        Some(last) if last.at_ns == at_ns => *last = piece,
                        _ => lane.clocks.push(piece),
                    }
                }
            }
            Happening::FaultBegan { fault, what } => {
                self.faults.push((fault.clone(), self.story.faults.len()));
                self.story.faults.push(FaultSpan {
                    from_ns: at_ns,
                    to_ns: at_ns,
                    kind: fault.kind.name().to_owned(),
                    what: shortened(words::of_fault(fault, what)),
                    nodes: fault.kind.nodes(),
                });
            }
            Happening::FaultEnded { fault } => {
                if let Some(at) = self.faults.iter().position(|(open, _)| open == fault) {
                    let (_, span) = self.faults.remove(at);
                    self.story.faults[span].to_ns = at_ns;
                }
            }
            Happening::RuleBegan { number, rule } => {
                self.rules.insert(number, self.story.rules.len());
                self.story.rules.push(rule_span(at_ns, rule));
            }
            Happening::RuleEnded { number } => {
                if let Some(at) = self.rules.remove(&number) {
                    self.story.rules[at].to_ns = at_ns;
                }
            }
            Happening::Storm => self.story.storm_ns = Some(at_ns),
            Happening::Heal => {
                self.story.heal_ns = Some(at_ns);
                for (_, span) in self.faults.drain(..) {
                    self.story.faults[span].to_ns = at_ns;
                }
                for span in std::mem::take(&mut self.rules).into_values() {
                    self.story.rules[span].to_ns = at_ns;
                }
            }
        }
    }
}

impl Messages {
    fn push(&mut self, sent_ns: u64, from: u32, to: u32, kind: u8, bytes: u32) -> usize {
        self.sent_ns.push(sent_ns);
        self.ended_ns.push(sent_ns);
        self.from.push(from);
        self.to.push(to);
        self.kind.push(kind);
        self.bytes.push(bytes);
        self.fate.push(Fate::FLYING);
        self.sent_ns.len() - 1
    }

    fn copy(&mut self, row: usize) -> usize {
        self.push(self.sent_ns[row], self.from[row], self.to[row], self.kind[row], self.bytes[row])
    }

    /// Copies were found out about when they arrived; they belong where they were sent.
    fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|row| self.sent_ns[*row]);
        fn sorted<T: Copy>(column: &mut Vec<T>, order: &[usize]) {
            *column = order.iter().map(|row| column[*row]).collect();
        }
        sorted(&mut self.sent_ns, &order);
        sorted(&mut self.ended_ns, &order);
        sorted(&mut self.from, &order);
        sorted(&mut self.to, &order);
        sorted(&mut self.kind, &order);
        sorted(&mut self.bytes, &order);
        sorted(&mut self.fate, &order);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sent_ns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sent_ns.is_empty()
    }
}

impl Progress {
    fn on(&mut self, at_ns: u64, observed: &Observed) {
        let get = |column: &Vec<u64>| column.last().copied().unwrap_or(0);
        let (mut last, mut durable, mut applied) = (get(&self.last), get(&self.durable), get(&self.applied));
        match observed {
            Observed::Recovered { last_index, applied: index, .. } => {
                (last, durable, applied) = (*last_index, *last_index, *index);
            }
            Observed::Appended { index, .. } => {
                last = *index;
                durable = durable.min(index.saturating_sub(1));
            }
            Observed::Durable { index } => durable = durable.max((*index).min(last)),
            Observed::Truncated { index } => (last, durable) = (*index, durable.min(*index)),
            Observed::Applied { index, .. } => applied = *index,
            Observed::SnapshotInstalled { index, .. } => {
                applied = *index;
                last = last.max(*index);
                durable = durable.max(*index);
            }
            _ => return,
        }
        if self.at_ns.last() == Some(&at_ns) {
            for column in [&mut self.at_ns, &mut self.last, &mut self.durable, &mut self.applied] {
                column.pop();
            }
        } else if !self.at_ns.is_empty()
            && (last, durable, applied) == (get(&self.last), get(&self.durable), get(&self.applied))
        {
            return;
        }
        self.at_ns.push(at_ns);
        self.last.push(last);
        self.durable.push(durable);
        self.applied.push(applied);
    }
}

fn likeness(message: &Message) -> Likeness {
    (message.transport == Transport::Udp, message.from, message.to, message.len, message.hash)
}

/// The part that a node plays ends.
fn close_roles(lane: &mut Lane, at_ns: u64) {
    if let Some(role) = lane.roles.last_mut()
        && role.to_ns == role.from_ns
    {
        role.to_ns = at_ns;
        if role.from_ns == at_ns {
            lane.roles.pop();
        }
    }
}

fn role_name(role: RaftRole) -> &'static str {
    match role {
        RaftRole::Learner => "learner",
        RaftRole::Follower => "follower",
        RaftRole::Candidate => "candidate",
        RaftRole::Leader => "leader",
        RaftRole::Stopped => "stopped",
    }
}

fn rule_span(at_ns: u64, rule: &Rule) -> RuleSpan {
    let list = |hosts: &Hosts| match hosts {
        Hosts::All => None,
        Hosts::Only(hosts) => Some(hosts.iter().copied().collect()),
    };
    RuleSpan {
        from_ns: at_ns,
        to_ns: at_ns,
        senders: list(&rule.from),
        receivers: list(&rule.to),
        blocks: rule.effect == Effect::Block,
        effect: words::of_effect(&rule.effect),
    }
}

/// Who does not reach whom, in words; both ways are told once. Of clients, who are from this number on, only that they are there.
fn apart(rules: &[&RuleSpan], first_client: u32) -> Option<String> {
    let list = |hosts: &[u32]| {
        let nodes = hosts.iter().filter(|host| **host < first_client).map(|node| format!("n{node}"));
        let clients = hosts.iter().any(|host| *host >= first_client).then(|| "clients".to_owned());
        nodes.chain(clients).collect::<Vec<_>>().join(" ")
    };
    let mut told: Vec<String> = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let (from, to) = (rule.senders.as_ref()?, rule.receivers.as_ref()?);
        let back =
            |other: &&RuleSpan| other.senders.as_ref() == Some(to) && other.receivers.as_ref() == Some(from);
        if from.is_empty() || to.is_empty() || rules[..at].iter().any(back) {
            continue;
        }
        let both = rules[at + 1..].iter().any(back);
        told.push(match both {
            true => format!("{} | {}", list(from), list(to)),
            false if from.len() == 1 => format!("{} does not reach {}", list(from), list(to)),
            false => format!("{} do not reach {}", list(from), list(to)),
        });
    }
    (!told.is_empty()).then(|| told.join(", "))
}

/// The text, or the beginning of one that is too long.
pub fn shortened(text: String) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
pub(crate) mod test {
    //! A small run, told to a scribe as the world would tell it.
    use super::*;
    use crate::scenario::{FaultKind, Shape};
    use crate::trace::WORLD;

    pub(crate) const MS: u64 = 1_000_000;

    fn ip(host: u32) -> IpAddr {
        let last = if host < 1_000 { host as u8 + 1 } else { 100 };
        IpAddr::from([10, 0, 0, last])
    }

    fn message(transport: Transport, from: u32, to: u32, port: u16, text: &str) -> Message {
        let source = SocketAddr::new(ip(from), 40_000);
        Message::new(transport, source, SocketAddr::new(ip(to), port), text.as_bytes())
    }

    /// Two nodes: one leads, is cut off, freezes, and loses its power; the other is elected.
    pub(crate) fn small() -> Scribe {
        let mut scribe = Scribe::new(1_000, &[(8300, "raft"), (8301, "gossip")]);
        let mut on = |ms: u64, host: u32, what: Happening<'_>| scribe.on(ms * MS, host, what);
        for host in [0, 1, 1_000] {
            on(0, host, Happening::Booted { ip: ip(host) });
        }
        let recovered =
            |raft_id| Observed::Recovered { raft_id, term: 0, last_index: 0, applied: 0, log: vec![] };
        on(1, 0, Happening::Observed(&recovered(11)));
        on(1, 1, Happening::Observed(&recovered(12)));
        let voters = vec![vec![11, 12]];
        on(2, 0, Happening::Observed(&Observed::Membership { index: 1, voters, learners: vec![] }));
        let role = |term, role, leader| Observed::Role { term, role, leader: Some(leader) };
        on(3, 0, Happening::Observed(&role(1, RaftRole::Leader, 11)));
        on(3, 1, Happening::Observed(&role(1, RaftRole::Follower, 11)));
        on(4, WORLD, Happening::Storm);
        // A message that arrives, its copy, and one of a stream that is lost twice before it gets through.
        let ping = message(Transport::Udp, 0, 1, 8301, "ping");
        on(5, 0, Happening::Traced(&Event::Send(ping)));
        on(6, 1, Happening::Traced(&Event::Deliver(ping)));
        on(7, 1, Happening::Traced(&Event::Deliver(ping)));
        let append = message(Transport::Tcp, 0, 1, 8300, "append");
        on(8, 0, Happening::Traced(&Event::Send(append)));
        on(8, 0, Happening::Traced(&Event::Drop(append, "loss")));
        on(9, 0, Happening::Traced(&Event::Drop(append, "loss")));
        on(12, 1, Happening::Traced(&Event::Deliver(append)));
        for (ms, host) in [(8, 0), (12, 1)] {
            on(ms, host, Happening::Observed(&Observed::Appended { index: 1, term: 1, digest: 5 }));
            on(ms + 1, host, Happening::Observed(&Observed::Durable { index: 1 }));
            on(
                ms + 2,
                host,
                Happening::Observed(&Observed::Applied { index: 1, term: 1, entry: 5, state: 6 }),
            );
        }
        let fault = Fault { at_ms: 16, for_ms: 20, kind: FaultKind::Partition { shape: Shape::Leader } };
        on(20, WORLD, Happening::FaultBegan { fault: &fault, what: "Leader" });
        for (number, from, to) in [(1, 0, 1), (2, 1, 0)] {
            let rule = Rule { from: Hosts::only([from]), to: Hosts::only([to]), effect: Effect::Block };
            on(20, WORLD, Happening::RuleBegan { number, rule: &rule });
        }
        let lost = message(Transport::Udp, 1, 0, 8301, "pong");
        on(21, 1, Happening::Traced(&Event::Send(lost)));
        on(21, 1, Happening::Traced(&Event::Drop(lost, "partition")));
        on(22, 1, Happening::Observed(&role(2, RaftRole::Leader, 12)));
        on(22, 1, Happening::Observed(&Observed::Vote { term: 2, candidate: 12, committed: true }));
        on(23, 0, Happening::Frozen);
        on(25, 0, Happening::Resumed);
        on(26, 0, Happening::Clock { own_ns: 26 * MS, rate_ppm: 1_100_000, wall_ahead_ns: -5 });
        on(30, 0, Happening::Stopped { power_loss: true });
        on(40, WORLD, Happening::RuleEnded { number: 1 });
        on(40, WORLD, Happening::RuleEnded { number: 2 });
        on(40, WORLD, Happening::FaultEnded { fault: &fault });
        on(45, 0, Happening::Booted { ip: ip(0) });
        on(45, 0, Happening::Observed(&recovered(11)));
        on(50, WORLD, Happening::Heal);
        on(60, 1, Happening::Traced(&Event::Timer { id: 1 }));
        scribe
    }
}

#[cfg(test)]
mod tests {
    use super::test::{MS, small};
    use super::*;

    #[test]
    fn what_happens_becomes_lanes_spans_and_messages() {
        insta::assert_json_snapshot!(small().story());
    }

    #[test]
    fn what_never_ended_ends_with_the_story_and_a_fault_with_the_heal() {
        let mut scribe = small();
        let fault = Fault {
            at_ms: 1,
            for_ms: 9,
            kind: crate::scenario::FaultKind::Loss { percent: 3, links: crate::scenario::Links::All },
        };
        scribe.on(70 * MS, 1, Happening::FaultBegan { fault: &fault, what: "3 %" });
        scribe.on(71 * MS, 1, Happening::Stopped { power_loss: false });
        scribe.on(80 * MS, 0, Happening::Heal);
        scribe.on(90 * MS, 0, Happening::Resumed);
        let story = scribe.story();
        assert_eq!(story.faults[1].to_ns, 80 * MS);
        let down = story.lanes[&1].processes.last().unwrap();
        assert_eq!((down.from_ns, down.to_ns, down.state), (71 * MS, 90 * MS, ProcessState::Down));
        assert_eq!(story.lanes[&1].roles.last().unwrap().to_ns, 71 * MS);
    }

    #[test]
    fn a_message_is_followed_by_its_likeness_and_its_losses_are_told() {
        let messages = small().story().messages;
        assert_eq!(messages.fate, [Fate::ARRIVED, Fate::COPY, Fate::LATE, Fate::LOST + 1]);
        assert_eq!(messages.reasons, ["loss", "partition"]);
        assert_eq!(messages.ended_ns, [6 * MS, 7 * MS, 12 * MS, 21 * MS]);
        assert!(messages.sent_ns.is_sorted());
        assert_eq!(messages.kinds[messages.kind[2] as usize], "raft");
    }

    #[test]
    fn a_message_whose_bytes_are_changed_on_the_way_arrives_damaged() {
        let mut scribe = Scribe::new(1_000, &[]);
        let at = |last: u8| SocketAddr::from(([10, 0, 0, last], 9));
        for host in 0..2 {
            scribe.on(0, host, Happening::Booted { ip: at(host as u8 + 1).ip() });
        }
        let [sent, arrived] =
            [b"good", b"g00d"].map(|bytes| Message::new(Transport::Udp, at(1), at(2), bytes));
        scribe.on(MS, 0, Happening::Traced(&Event::Send(sent)));
        scribe.on(2 * MS, 1, Happening::Traced(&Event::Deliver(arrived)));
        assert_eq!(scribe.story().messages.fate, [Fate::DAMAGED]);
    }

    #[test]
    fn what_clients_do_beside_operations_is_told_with_its_answer() {
        let mut scribe = Scribe::new(1_000, &[]);
        let notes = [
            (1, "invoke", "7 at n0: k Get"),
            (2, "return", "7: Ok"),
            (3, "invoke", "at n0: PUT /v1/session/renew/7e19"),
            (4, "return", "200"),
            (4, "lock", "lock-1 7e19: Renewed"),
            (5, "invoke", "at n0: GET /v1/kv/lock-1"),
        ];
        for (ms, verb, text) in notes {
            let note = Event::Note { verb, text: text.into() };
            scribe.on(ms * MS, 1_002, Happening::Traced(&note));
        }
        let talks = scribe.story().talks;
        let told: Vec<_> =
            talks.iter().map(|talk| (talk.to_ns, talk.about.as_str(), talk.text.as_str())).collect();
        let expected = [
            (Some(4 * MS), "", "at n0: PUT /v1/session/renew/7e19 → 200"),
            (Some(4 * MS), "lock-1", "session 7e19 is renewed"),
            (None, "", "at n0: GET /v1/kv/lock-1"),
        ];
        assert_eq!(told, expected);
        assert!(talks.iter().all(|talk| talk.client == 2));
    }

    #[test]
    fn a_log_that_is_cut_back_takes_its_durable_end_with_it() {
        let mut progress = Progress::default();
        for (at, index) in [(1, 1), (2, 2), (3, 3)] {
            progress.on(at, &Observed::Appended { index, term: 1, digest: 0 });
        }
        progress.on(4, &Observed::Durable { index: 9 });
        progress.on(5, &Observed::Truncated { index: 1 });
        progress.on(6, &Observed::SnapshotInstalled { index: 7, term: 2, state: 0 });
        assert_eq!(progress.durable, [0, 0, 0, 3, 1, 7]);
        assert_eq!((progress.last[5], progress.applied[5]), (7, 7));
    }

    #[test]
    fn long_texts_are_cut_between_letters() {
        assert_eq!(shortened("ü".repeat(LONGEST_TEXT)), "ü".repeat(LONGEST_TEXT));
        assert_eq!(shortened("ü".repeat(LONGEST_TEXT + 1)), "ü".repeat(LONGEST_TEXT) + " …");
    }
}
