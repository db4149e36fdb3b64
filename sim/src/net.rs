//! The network between the hosts: datagrams, streams, and what becomes of both when links and hosts fail.
//!
//! Every message asks [`Rules`] for its fate at the moment it is sent; what passes arrives after the
//! link's latency. All state is in one table; the pump hands back each arrival, and a method here
//! handles it. What is left to chance on a directed link is its [`Weather`]: it depends on the moment and not on
//! what was sent before.
//!
//! **Datagrams** are lost, delayed, overtaken and doubled as the verdict says; a socket that nobody
//! reads overflows.
//!
//! **Streams** keep order. A segment that does not get through is sent again after 200 ms, doubling to
//! 5 s; all behind it wait. After [`GIVE_UP_NS`] without progress the sender's side breaks, and only
//! that: the other side may wait for ever, as with real half-open connections. At most [`WINDOW`]
//! bytes are unread in each direction; beyond that, writers wait.
//!
//! **Connecting** to a host that is up without a listener is refused; to a host that is down or cut
//! off it hangs, and fails after [`CONNECT_NS`].
//!
//! **A process that dies** has a kernel that closes its streams: the peers learn of it, if the network
//! lets them. **A host that loses power** says nothing; once it is up again, whatever still speaks to
//! its old streams gets a reset. **A host that vanishes** not even does that: its streams stay half open
//! until the peers give them up.
//!
//! **A black hole** takes the bytes of a stream from their sender and loses them. The stream never recovers: what
//! comes later cannot be put behind what is missing.
//!
//! Left out: acknowledgements (a window opens as soon as the reader reads, and a one-way block does not
//! stop the other way), congestion control, fragmentation, names.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use driftline::env::{BoxStream, Datagrams, Listener, Network};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::RngExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{Life, Pump};
use crate::executor::Witness;
use crate::fault::{Parcel, Rule, Rules, Verdict, damaged};
use crate::record::Happening;
use crate::scenario::{LinkSettings, Traffic, Weather};
use crate::trace::{self, Message, Transport, WORLD};

const MS: u64 = 1_000_000;

/// How long the first retransmission of a segment waits, and the longest that any waits.
const RETRANSMIT_NS: (u64, u64) = (200 * MS, 5_000 * MS);

/// How long a stream's sender retransmits in vain before it gives the stream up.
pub const GIVE_UP_NS: u64 = 30_000 * MS;

/// How long connecting takes to fail when nobody answers.
pub const CONNECT_NS: u64 = 20_000 * MS;

/// How many bytes of one direction of a stream may be under way or unread.
pub const WINDOW: usize = 256 * 1024;

/// The largest segment: longer writes are cut.
const SEGMENT: usize = 64 * 1024;

/// What a datagram socket holds unread. More is dropped, as a kernel does.
const SOCKET_BUFFER: usize = 208 * 1024;

/// Connections that wait to be accepted. More are not answered.
const BACKLOG: usize = 128;

/// What the headers of a message take on the wire.
const HEADERS: usize = 54;

/// The largest UDP payload over IPv4.
const MAX_DATAGRAM: usize = 65_507;

/// Ports from here on are given to whoever asks for any.
const EPHEMERAL: u16 = 32_768;

/// Something that arrives, or a retransmission that is due.
#[derive(Debug)]
pub enum Event {
    /// A datagram arrives at an address.
    Datagram {
        /// The host that has the address when it is sent.
        host: u32,
        /// Its sender.
        from: SocketAddr,
        /// Its receiver.
        to: SocketAddr,
        /// Its bytes.
        payload: Bytes,
    },
    /// An attempt to connect arrives.
    Syn {
        /// The attempt.
        attempt: u64,
    },
    /// The answer to an attempt arrives.
    SynAnswer {
        /// The attempt.
        attempt: u64,
        /// The connection, unless it was refused.
        accepted: Option<u64>,
    },
    /// An attempt to connect is made again, or given up.
    SynAgain {
        /// The attempt.
        attempt: u64,
    },
    /// A segment arrives.
    Segment {
        /// The connection.
        connection: u64,
        /// Which end it arrives at.
        to: usize,
        /// The bytes, or the end of the stream.
        segment: Segment,
    },
    /// A reset arrives.
    Reset {
        /// The connection.
        connection: u64,
        /// Which end it arrives at.
        to: usize,
    },
    /// An end tries again to get its first segment through.
    Retransmit {
        /// The connection.
        connection: u64,
        /// The sending end.
        from: usize,
    },
}

/// What travels on a stream.
#[derive(Clone, Debug)]
pub enum Segment {
    /// Bytes.
    Data(Bytes),
    /// No more will follow.
    End,
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Segment::Data(bytes) => bytes,
            Segment::End => &[],
        }
    }
}

#[derive(Default)]
struct Host {
    ip: Option<IpAddr>,
    up: bool,
    listeners: BTreeMap<u16, ListenerState>,
    sockets: BTreeMap<u16, SocketState>,
    next_port: u16,
}

impl Host {
    /// A free port for whoever asked for any.
    fn any_port(&mut self, taken: impl Fn(&Host, u16) -> bool) -> io::Result<u16> {
        for _ in 0..=(u16::MAX - EPHEMERAL) {
            let port = self.next_port.max(EPHEMERAL);
            self.next_port = port.checked_add(1).unwrap_or(EPHEMERAL);
            if !taken(self, port) {
                return Ok(port);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }
}

#[derive(Default)]
struct ListenerState {
    life: u32,
    waiting: VecDeque<u64>,
    wakers: Vec<Waker>,
}

#[derive(Default)]
struct SocketState {
    life: u32,
    inbox: VecDeque<(Bytes, SocketAddr)>,
    unread: usize,
    wakers: Vec<Waker>,
}

/// An attempt to connect.
struct Attempt {
    host: u32,
    life: u32,
    from: SocketAddr,
    to: SocketAddr,
    began: u64,
    retry: u64,
    /// The connection that the other side has made of it.
    accepted: Option<u64>,
    result: Option<io::Result<u64>>,
    waker: Option<Waker>,
}

/// A connection: end 0 connected, end 1 accepted.
struct Connection {
    ends: [End; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EndState {
    /// A process holds it.
    Open,
    /// No process holds it; the kernel still sends what was written.
    Closing,
    /// Nothing knows of it any more.
    Gone,
}

struct End {
    host: u32,
    life: u32,
    addr: SocketAddr,
    state: EndState,
    /// A process can still ask about it, if only to learn that it broke.
    held: bool,
    inbox: VecDeque<Bytes>,
    unread: usize,
    ended: bool,
    broken: Option<io::ErrorKind>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Written, and waiting for what is before it to get through.
    outbox: VecDeque<Segment>,
    /// Bytes written that have not arrived.
    under_way: usize,
    last_arrival: u64,
    /// Since when nothing gets through, and how long the next attempt waits.
    stuck: Option<(u64, u64)>,
    shut: bool,
    end_arrived: bool,
    /// A black hole has taken some of what this end sent.
    swallowed: bool,
    /// Whatever arrives here arrives nowhere, and nobody says so.
    vanished: bool,
}

impl End {
    fn new(host: u32, life: u32, addr: SocketAddr) -> End {
        End {
            host,
            life,
            addr,
            state: EndState::Open,
            held: true,
            inbox: VecDeque::new(),
            unread: 0,
            ended: false,
            broken: None,
            reader: None,
            writer: None,
            outbox: VecDeque::new(),
            under_way: 0,
            last_arrival: 0,
            stuck: None,
            shut: false,
            end_arrived: false,
            swallowed: false,
            vanished: false,
        }
    }

    /// Nothing will come of it any more.
    fn is_over(&self) -> bool {
        !self.held && (self.state == EndState::Gone || (self.state == EndState::Closing && self.end_arrived))
    }
}

/// What becomes of a segment, or of a part of a handshake.
enum Crossing {
    At { at: u64, damage: Option<u64> },
    Lost(&'static str),
    Swallowed,
    Refused,
}

struct Table {
    pump: Arc<Pump>,
    seed: u64,
    settings: LinkSettings,
    rules: Rules,
    hosts: BTreeMap<u32, Host>,
    addresses: BTreeMap<IpAddr, u32>,
    links: BTreeMap<(u32, u32), Weather>,
    attempts: BTreeMap<u64, Attempt>,
    connections: BTreeMap<u64, Connection>,
    next_id: u64,
    witness: Arc<dyn Witness>,
    /// Whom to wake once the table is unlocked.
    wake: Vec<Waker>,
}

/// The network.
pub struct Net {
    table: Mutex<Table>,
}

impl Net {
    /// A network without hosts.
    pub fn new(pump: Arc<Pump>, seed: u64, settings: LinkSettings, witness: Arc<dyn Witness>) -> Arc<Net> {
        Arc::new(Net {
            table: Mutex::new(Table {
                pump,
                seed,
                settings,
                rules: Rules::default(),
                hosts: BTreeMap::new(),
                addresses: BTreeMap::new(),
                links: BTreeMap::new(),
                attempts: BTreeMap::new(),
                connections: BTreeMap::new(),
                next_id: 0,
                witness,
                wake: Vec::new(),
            }),
        })
    }

    /// Works on the table, then wakes whoever that concerns: a woken task may come straight back here.
    fn with<R>(&self, work: impl FnOnce(&mut Table) -> R) -> R {
        let (result, wake) = {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&mut table);
            (result, std::mem::take(&mut table.wake))
        };
        for waker in wake {
            waker.wake();
        }
        result
    }

    /// The host is up from now on, at `ip`. An address it had before is nobody's.
    pub fn host_up(&self, host: u32, ip: IpAddr) {
        self.with(|table| {
            table.addresses.retain(|_, owner| *owner != host);
            table.addresses.insert(ip, host);
            let entry = table.hosts.entry(host).or_default();
            entry.ip = Some(ip);
            entry.up = true;
        });
    }

    /// The process that is `life` ends; its host's kernel closes what it held.
    pub fn process_died(&self, life: &Life) {
        self.with(|table| table.process_died(life));
    }

    /// The host goes silent at once.
    pub fn power_lost(&self, host: u32) {
        self.with(|table| table.power_lost(host));
    }

    /// The host goes silent at once, and nobody will ever hear what became of its streams.
    pub fn vanished(&self, host: u32) {
        self.with(|table| {
            for (connection, end) in table.ends_of(host, None) {
                if let Some((own, _)) = table.ends(connection, end) {
                    own.vanished = true;
                }
            }
            table.power_lost(host);
        });
    }

    /// Puts a rule in force.
    pub fn add_rule(&self, rule: Rule) -> u64 {
        self.with(|table| {
            let number = table.rules.add(rule.clone());
            table.pump.tell(WORLD, Happening::RuleBegan { number, rule: &rule });
            number
        })
    }

    /// Takes a rule out of force.
    pub fn remove_rule(&self, number: u64) {
        self.with(|table| {
            table.rules.remove(number);
            table.pump.tell(WORLD, Happening::RuleEnded { number });
        });
    }

    /// Takes all rules out of force.
    pub fn heal(&self) {
        self.with(|table| table.rules.clear());
    }

    /// How many connections some end still knows of: for tests that look for leaks.
    pub fn connections(&self) -> usize {
        self.with(|table| table.connections.len())
    }

    /// Handles what has come due.
    pub fn handle(&self, event: Event) {
        self.with(|table| match event {
            Event::Datagram { host, from, to, payload } => table.datagram_arrives(host, from, to, payload),
            Event::Syn { attempt } => table.syn_arrives(attempt),
            Event::SynAnswer { attempt, accepted } => table.answer_arrives(attempt, accepted),
            Event::SynAgain { attempt } => table.syn_again(attempt),
            Event::Segment { connection, to, segment } => table.segment_arrives(connection, to, segment),
            Event::Reset { connection, to } => table.reset_arrives(connection, to),
            Event::Retransmit { connection, from } => table.retransmit(connection, from),
        });
    }
}

impl Table {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn is_up(&self, host: u32) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.up)
    }

    /// The host that answers at `addr`, as `from` sees it.
    fn host_at(&self, from: u32, addr: SocketAddr) -> Option<u32> {
        if is_local(None, addr) {
            return Some(from);
        }
        self.addresses.get(&addr.ip()).copied()
    }

    /// The address that a message from `host` to `to` carries.
    fn source(&self, host: u32, to: SocketAddr, port: u16) -> SocketAddr {
        let own = self.hosts.get(&host).and_then(|host| host.ip);
        let ip = if is_local(None, to) {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        };
        SocketAddr::new(ip, port)
    }

    /// The fate of a message, with the link's own latency already in the delay.
    fn fate(&mut self, from: u32, to: u32, traffic: Traffic, bytes: usize) -> Verdict {
        let (seed, now_ns) = (self.seed, self.pump.now());
        let link = self.links.entry((from, to));
        let rng = &mut link.or_insert_with(|| Weather::new(seed, &format!("link {from}>{to}"))).at(now_ns);
        if from == to {
            return Verdict::Pass { delay_ns: rng.random_range(20_000..60_000), twice: false, damage: None };
        }
        let settings = &self.settings;
        let most = settings.latency_max_us.max(settings.latency_min_us);
        let mut latency = rng.random_range(settings.latency_min_us * 1_000..=most * 1_000);
        if rng.random_range(0..1_000) < settings.tail_per_mille {
            latency += rng.random_range(0..=most * 9_000);
        }
        let parcel = Parcel { now_ns, from, to, traffic, bytes };
        match self.rules.verdict(rng, &parcel) {
            Verdict::Pass { delay_ns, twice, damage } => {
                Verdict::Pass { delay_ns: delay_ns.saturating_add(latency), twice, damage }
            }
            other => other,
        }
    }

    /// As [`Table::fate`], for a segment or a part of a handshake.
    fn crossing(&mut self, from: u32, to: u32, bytes: usize) -> Crossing {
        if !self.is_up(to) {
            return Crossing::Lost("host down");
        }
        // Headers count as well: what is small is not nothing.
        match self.fate(from, to, Traffic::Streams, bytes + HEADERS) {
            Verdict::Pass { delay_ns, damage, .. } => {
                Crossing::At { at: self.pump.now().saturating_add(delay_ns), damage }
            }
            Verdict::Drop(reason) => Crossing::Lost(reason),
            Verdict::Swallow => Crossing::Swallowed,
            Verdict::Refuse => Crossing::Refused,
        }
    }

    fn connection_event(&self, host: u32, what: &'static str, from: SocketAddr, to: SocketAddr) {
        self.pump.record(host, trace::Event::Connection { what, from, to });
    }

    // Datagrams.

    fn send_datagram(&mut self, host: u32, port: u16, payload: &[u8], to: SocketAddr) {
        let from = self.source(host, to, port);
        let message = Message::new(Transport::Udp, from, to, payload);
        self.pump.record(host, trace::Event::Send(message));
        self.witness.datagram(self.pump.now(), host);
        let Some(target) = self.host_at(host, to) else {
            self.pump.record(host, trace::Event::Drop(message, "no such host"));
            return;
        };
        match self.fate(host, target, Traffic::Datagrams, payload.len() + HEADERS) {
            Verdict::Drop(reason) => self.pump.record(host, trace::Event::Drop(message, reason)),
            Verdict::Swallow => self.pump.record(host, trace::Event::Drop(message, "black hole")),
            Verdict::Refuse => self.pump.record(host, trace::Event::Drop(message, "refused")),
            Verdict::Pass { delay_ns, twice, damage } => {
                let payload = match damage {
                    Some(damage) => Bytes::from(damaged(payload, damage)),
                    None => Bytes::copy_from_slice(payload),
                };
                let at = self.pump.now().saturating_add(delay_ns);
                if twice {
                    // The copy takes the same way again and may come first or last.
                    let payload = payload.clone();
                    let later = at.saturating_add(delay_ns);
                    self.pump.schedule(later, Event::Datagram { host: target, from, to, payload });
                }
                self.pump.schedule(at, Event::Datagram { host: target, from, to, payload });
            }
        }
    }

    fn datagram_arrives(&mut self, host: u32, from: SocketAddr, to: SocketAddr, payload: Bytes) {
        let message = Message::new(Transport::Udp, from, to, &payload);
        let mut dropped = None;
        match self.hosts.get_mut(&host) {
            Some(entry) if entry.up && is_local(entry.ip, to) => match entry.sockets.get_mut(&to.port()) {
                Some(socket) if socket.unread + payload.len() <= SOCKET_BUFFER => {
                    socket.unread += payload.len();
                    socket.inbox.push_back((payload, from));
                    self.wake.append(&mut socket.wakers);
                }
                Some(_) => dropped = Some("socket full"),
                None => dropped = Some("no socket"),
            },
            _ => dropped = Some("host down or elsewhere"),
        }
        let event = match dropped {
            Some(reason) => trace::Event::Drop(message, reason),
            None => trace::Event::Deliver(message),
        };
        self.pump.record(host, event);
    }

    // Connecting.

    fn connect(&mut self, life: &Life, to: SocketAddr) -> io::Result<u64> {
        let host = life.host;
        let port = match self.hosts.get_mut(&host) {
            // Ports of streams are only counted up: 28,000 connections later, the first are long over.
            Some(entry) => entry.any_port(|_, _| false)?,
            None => return Err(io::ErrorKind::NetworkDown.into()),
        };
        let from = self.source(host, to, port);
        let attempt = self.id();
        let state = Attempt {
            host,
            life: life.number,
            from,
            to,
            began: self.pump.now(),
            retry: 1_000 * MS,
            accepted: None,
            result: None,
            waker: None,
        };
        self.attempts.insert(attempt, state);
        self.connection_event(host, "opening", from, to);
        self.send_syn(attempt);
        Ok(attempt)
    }

    fn send_syn(&mut self, attempt: u64) {
        let Some(state) = self.attempts.get_mut(&attempt) else { return };
        let again = self.pump.now().saturating_add(state.retry);
        state.retry *= 2;
        let (host, to) = (state.host, state.to);
        let target = self.host_at(host, to);
        match target.map(|target| self.crossing(host, target, 0)) {
            Some(Crossing::At { at, .. }) => self.pump.schedule(at, Event::Syn { attempt }),
            // Whoever refuses stands near.
            Some(Crossing::Refused) => {
                let at = self.pump.now().saturating_add(MS);
                self.pump.schedule(at, Event::SynAnswer { attempt, accepted: None });
            }
            Some(Crossing::Lost(_) | Crossing::Swallowed) | None => {}
        }
        self.pump.schedule(again, Event::SynAgain { attempt });
    }

    fn syn_again(&mut self, attempt: u64) {
        let now = self.pump.now();
        let Some(state) = self.attempts.get_mut(&attempt) else { return };
        if state.result.is_some() {
            return;
        }
        if now.saturating_sub(state.began) >= CONNECT_NS {
            state.result = Some(Err(io::ErrorKind::TimedOut.into()));
            self.wake.extend(state.waker.take());
            let (host, from, to) = (state.host, state.from, state.to);
            self.connection_event(host, "no answer", from, to);
            return;
        }
        state.retry = state.retry.min(CONNECT_NS.saturating_sub(now - state.began).max(MS));
        self.send_syn(attempt);
    }

    fn syn_arrives(&mut self, attempt: u64) {
        let Some(state) = self.attempts.get(&attempt) else { return };
        let (client, life, from, to, accepted) =
            (state.host, state.life, state.from, state.to, state.accepted);
        let Some(host) = self.host_at(client, to) else { return };
        let mut accepted = accepted;
        if accepted.is_none() {
            let id = self.next_id + 1;
            let Some(entry) = self.hosts.get_mut(&host) else { return };
            if !entry.up {
                return;
            }
            if let Some(listener) = entry.listeners.get_mut(&to.port()) {
                if listener.waiting.len() >= BACKLOG {
                    return;
                }
                listener.waiting.push_back(id);
                self.wake.append(&mut listener.wakers);
                let ends = [End::new(client, life, from), End::new(host, listener.life, to)];
                self.next_id = id;
                self.connections.insert(id, Connection { ends });
                accepted = Some(id);
                if let Some(state) = self.attempts.get_mut(&attempt) {
                    state.accepted = accepted;
                }
                self.connection_event(host, "accepted", from, to);
            } else {
                self.connection_event(host, "refused", from, to);
            }
        }
        if let Crossing::At { at, .. } = self.crossing(host, client, 0) {
            self.pump.schedule(at, Event::SynAnswer { attempt, accepted });
        }
    }

    fn answer_arrives(&mut self, attempt: u64, accepted: Option<u64>) {
        let Some(state) = self.attempts.get_mut(&attempt) else { return };
        if state.result.is_none() {
            state.result = Some(accepted.ok_or_else(|| io::ErrorKind::ConnectionRefused.into()));
            self.wake.extend(state.waker.take());
        }
    }

    /// Nobody waits for this attempt any more. What the other side accepted is closed.
    fn abandon(&mut self, attempt: u64) {
        let Some(state) = self.attempts.remove(&attempt) else { return };
        if let Some(connection) = state.accepted {
            self.refuse(connection, 0);
        }
    }

    // Streams.

    fn ends(&mut self, connection: u64, one: usize) -> Option<(&mut End, &mut End)> {
        let [a, b] = &mut self.connections.get_mut(&connection)?.ends;
        Some(if one == 0 { (a, b) } else { (b, a) })
    }

    /// Sends what waits at an end, as far as it gets through.
    fn transmit(&mut self, connection: u64, from: usize) {
        loop {
            let Some((sender, receiver)) = self.ends(connection, from) else { return };
            let Some(segment) = sender.outbox.front() else { return };
            if sender.stuck.is_some() || sender.state == EndState::Gone {
                return;
            }
            let message = Message::new(Transport::Tcp, sender.addr, receiver.addr, segment.bytes());
            let (source, target) = (sender.host, receiver.host);
            self.pump.record(source, trace::Event::Send(message));
            if !self.cross(connection, from, source, target, message, RETRANSMIT_NS.0) {
                return;
            }
        }
    }

    /// Sends the first segment that waits; false when it is lost, and will be sent again after `wait`.
    fn cross(
        &mut self,
        connection: u64,
        from: usize,
        source: u32,
        target: u32,
        message: Message,
        wait: u64,
    ) -> bool {
        let now = self.pump.now();
        let fate = match self.ends(connection, from) {
            // What a black hole has begun it ends: behind a gap nothing is of use.
            Some((sender, _)) if sender.swallowed => Crossing::Swallowed,
            Some((_, receiver)) if receiver.vanished => Crossing::Lost("nobody there"),
            _ => self.crossing(source, target, message.len as usize),
        };
        match fate {
            Crossing::At { at, damage } => {
                let Some((sender, _)) = self.ends(connection, from) else { return false };
                sender.stuck = None;
                let Some(mut segment) = sender.outbox.pop_front() else { return false };
                let at = at.max(sender.last_arrival.saturating_add(1));
                sender.last_arrival = at;
                if let (Segment::Data(bytes), Some(damage)) = (&mut segment, damage) {
                    *bytes = damaged(bytes, damage).into();
                }
                self.pump.schedule(at, Event::Segment { connection, to: 1 - from, segment });
                true
            }
            Crossing::Swallowed => {
                self.pump.record(source, trace::Event::Drop(message, "black hole"));
                let Some((sender, _)) = self.ends(connection, from) else { return false };
                sender.stuck = None;
                sender.swallowed = true;
                match sender.outbox.pop_front() {
                    Some(Segment::Data(bytes)) => {
                        sender.under_way = sender.under_way.saturating_sub(bytes.len());
                    }
                    Some(Segment::End) => sender.end_arrived = true,
                    None => return false,
                }
                let writer = sender.writer.take();
                self.wake.extend(writer);
                true
            }
            Crossing::Refused => {
                self.pump.record(source, trace::Event::Drop(message, "refused"));
                self.break_end(connection, from, io::ErrorKind::ConnectionReset);
                false
            }
            Crossing::Lost(reason) => {
                self.pump.record(source, trace::Event::Drop(message, reason));
                if let Some((sender, _)) = self.ends(connection, from) {
                    let since = sender.stuck.map_or(now, |(since, _)| since);
                    sender.stuck = Some((since, wait));
                    self.pump.schedule(now.saturating_add(wait), Event::Retransmit { connection, from });
                }
                false
            }
        }
    }

    fn retransmit(&mut self, connection: u64, from: usize) {
        let now = self.pump.now();
        let Some((sender, receiver)) = self.ends(connection, from) else { return };
        let Some((since, wait)) = sender.stuck else { return };
        if sender.state == EndState::Gone {
            return;
        }
        let (source, target) = (sender.host, receiver.host);
        let Some(segment) = sender.outbox.front() else {
            sender.stuck = None;
            return;
        };
        let message = Message::new(Transport::Tcp, sender.addr, receiver.addr, segment.bytes());
        if now.saturating_sub(since) >= GIVE_UP_NS {
            let (from_addr, to_addr) = (sender.addr, receiver.addr);
            self.connection_event(source, "given up", from_addr, to_addr);
            self.break_end(connection, from, io::ErrorKind::TimedOut);
            return;
        }
        let wait = (wait * 2).min(RETRANSMIT_NS.1);
        if self.cross(connection, from, source, target, message, wait) {
            self.transmit(connection, from);
        }
    }

    fn segment_arrives(&mut self, connection: u64, to: usize, segment: Segment) {
        let now = self.pump.now();
        let Some((receiver, sender)) = self.ends(connection, to) else { return };
        let message = Message::new(Transport::Tcp, sender.addr, receiver.addr, segment.bytes());
        let (target, state, vanished) = (receiver.host, receiver.state, receiver.vanished);
        if vanished || !self.is_up(target) {
            // Lost with the host. The sender goes on trying, which is how it learns of the reboot.
            let reason = if vanished { "nobody there" } else { "host down" };
            self.pump.record(target, trace::Event::Drop(message, reason));
            if let Some((_, sender)) = self.ends(connection, to)
                && sender.state != EndState::Gone
            {
                sender.outbox.push_front(segment);
                if sender.stuck.is_none() {
                    sender.stuck = Some((now, RETRANSMIT_NS.0));
                    let at = now.saturating_add(RETRANSMIT_NS.0);
                    self.pump.schedule(at, Event::Retransmit { connection, from: 1 - to });
                }
            }
            return;
        }
        let is_data = matches!(segment, Segment::Data(_));
        if state == EndState::Gone || (state == EndState::Closing && is_data) {
            self.pump.record(target, trace::Event::Drop(message, "no such connection"));
            self.reset(connection, to);
            return;
        }
        self.pump.record(target, trace::Event::Deliver(message));
        let Some((receiver, sender)) = self.ends(connection, to) else { return };
        let mut wake = receiver.reader.take();
        match segment {
            Segment::Data(bytes) => {
                sender.under_way = sender.under_way.saturating_sub(bytes.len());
                receiver.unread += bytes.len();
                receiver.inbox.push_back(bytes);
            }
            Segment::End => {
                receiver.ended = true;
                sender.end_arrived = true;
            }
        }
        self.wake.extend(wake.take());
        self.forget_if_over(connection);
    }

    /// End `from` forgets the connection and tells the other, which hears it if the network lets it.
    fn reset(&mut self, connection: u64, from: usize) {
        let Some((sender, receiver)) = self.ends(connection, from) else { return };
        let (source, target) = (sender.host, receiver.host);
        let arrival = receiver.state != EndState::Gone;
        let (sender_addr, receiver_addr) = (sender.addr, receiver.addr);
        self.break_end(connection, from, io::ErrorKind::ConnectionReset);
        if arrival {
            self.connection_event(source, "reset", sender_addr, receiver_addr);
            // A reset that is lost is not sent again: the other end's next segment asks for another.
            if let Crossing::At { at, .. } = self.crossing(source, target, 0) {
                self.pump.schedule(at, Event::Reset { connection, to: 1 - from });
            }
        }
    }

    fn reset_arrives(&mut self, connection: u64, to: usize) {
        self.break_end(connection, to, io::ErrorKind::ConnectionReset);
    }

    /// The end is of no use any more; a process that still holds it gets `error`.
    fn break_end(&mut self, connection: u64, end: usize, error: io::ErrorKind) {
        let Some((end, _)) = self.ends(connection, end) else { return };
        if end.state != EndState::Gone {
            end.state = EndState::Gone;
            end.broken = Some(error);
            end.outbox.clear();
            end.inbox.clear();
            end.unread = 0;
            end.stuck = None;
            let wakers = [end.reader.take(), end.writer.take()];
            self.wake.extend(wakers.into_iter().flatten());
        }
        self.forget_if_over(connection);
    }

    /// As [`Table::close`], for an end that no process got to see.
    fn refuse(&mut self, connection: u64, end: usize) {
        if let Some((own, _)) = self.ends(connection, end) {
            own.held = false;
        }
        self.reset(connection, end);
    }

    fn forget_if_over(&mut self, connection: u64) {
        let over = self
            .connections
            .get(&connection)
            .is_some_and(|connection| connection.ends.iter().all(End::is_over));
        if over {
            self.connections.remove(&connection);
        }
    }

    /// The process lets go of an end; the kernel sends what is left.
    fn close(&mut self, connection: u64, end: usize) {
        let Some((own, _)) = self.ends(connection, end) else { return };
        own.held = false;
        if own.state != EndState::Open {
            self.forget_if_over(connection);
            return;
        }
        if own.unread > 0 {
            self.reset(connection, end);
            return;
        }
        own.state = EndState::Closing;
        if !own.shut {
            own.shut = true;
            own.outbox.push_back(Segment::End);
        }
        self.transmit(connection, end);
        self.forget_if_over(connection);
    }

    fn read(
        &mut self,
        connection: u64,
        end: usize,
        buffer: &mut ReadBuf<'_>,
        waker: &Waker,
    ) -> Poll<io::Result<()>> {
        let Some((own, peer)) = self.ends(connection, end) else {
            // Both ends are over, so this one broke, and its holder has been told or is now.
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if let Some(error) = own.broken {
            return Poll::Ready(Err(error.into()));
        }
        if own.inbox.is_empty() {
            if own.ended {
                return Poll::Ready(Ok(()));
            }
            own.reader = Some(waker.clone());
            return Poll::Pending;
        }
        while buffer.remaining() > 0 {
            let Some(bytes) = own.inbox.front_mut() else { break };
            let take = bytes.len().min(buffer.remaining());
            buffer.put_slice(&bytes[..take]);
            bytes.advance(take);
            own.unread -= take;
            if bytes.is_empty() {
                own.inbox.pop_front();
            }
        }
        let writer = peer.writer.take();
        self.wake.extend(writer);
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, connection: u64, end: usize, data: &[u8], waker: &Waker) -> Poll<io::Result<usize>> {
        let Some((own, peer)) = self.ends(connection, end) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if own.broken.is_some() || own.shut {
            return Poll::Ready(Err(own.broken.unwrap_or(io::ErrorKind::BrokenPipe).into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = WINDOW.saturating_sub(own.under_way + peer.unread);
        if room == 0 {
            own.writer = Some(waker.clone());
            return Poll::Pending;
        }
        let take = data.len().min(room).min(SEGMENT);
        own.under_way += take;
        own.outbox.push_back(Segment::Data(Bytes::copy_from_slice(&data[..take])));
        self.transmit(connection, end);
        Poll::Ready(Ok(take))
    }

    fn shut(&mut self, connection: u64, end: usize) -> io::Result<()> {
        let Some((own, _)) = self.ends(connection, end) else { return Ok(()) };
        if let Some(error) = own.broken {
            return Err(error.into());
        }
        if !own.shut {
            own.shut = true;
            own.outbox.push_back(Segment::End);
            self.transmit(connection, end);
        }
        Ok(())
    }

    // Hosts.

    fn process_died(&mut self, life: &Life) {
        let (host, number) = (life.host, life.number);
        let mut unaccepted = Vec::new();
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.sockets.retain(|_, socket| socket.life != number);
            entry.listeners.retain(|_, listener| {
                if listener.life == number {
                    unaccepted.extend(listener.waiting.drain(..));
                }
                listener.life != number
            });
        }
        for connection in unaccepted {
            self.refuse(connection, 1);
        }
        let attempts = self.attempts.iter().filter(|(_, state)| state.host == host && state.life == number);
        for attempt in attempts.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.abandon(attempt);
        }
        for (connection, end) in self.ends_of(host, Some(number)) {
            self.close(connection, end);
        }
    }

    fn power_lost(&mut self, host: u32) {
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.up = false;
            entry.sockets.clear();
            entry.listeners.clear();
        }
        self.attempts.retain(|_, state| state.host != host);
        for (connection, end) in self.ends_of(host, None) {
            if let Some((own, _)) = self.ends(connection, end) {
                own.held = false;
            }
            self.break_end(connection, end, io::ErrorKind::ConnectionReset);
        }
    }

    fn ends_of(&self, host: u32, life: Option<u32>) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        for (id, connection) in &self.connections {
            for (index, end) in connection.ends.iter().enumerate() {
                if end.host == host && life.is_none_or(|life| end.life == life) {
                    found.push((*id, index));
                }
            }
        }
        found
    }

    fn check_local(&self, host: u32, addr: SocketAddr) -> io::Result<()> {
        let own = self.hosts.get(&host).filter(|host| host.up).and_then(|host| host.ip);
        if is_local(own, addr) { Ok(()) } else { Err(io::ErrorKind::AddrNotAvailable.into()) }
    }

    fn listen(&mut self, life: &Life, mut addr: SocketAddr) -> io::Result<SocketAddr> {
        self.check_local(life.host, addr)?;
        let entry = self.hosts.entry(life.host).or_default();
        if addr.port() == 0 {
            addr.set_port(entry.any_port(|host, port| host.listeners.contains_key(&port))?);
        }
        if entry.listeners.contains_key(&addr.port()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        entry.listeners.insert(addr.port(), ListenerState { life: life.number, ..Default::default() });
        Ok(addr)
    }

    fn bind(&mut self, life: &Life, mut addr: SocketAddr) -> io::Result<SocketAddr> {
        self.check_local(life.host, addr)?;
        let entry = self.hosts.entry(life.host).or_default();
        if addr.port() == 0 {
            addr.set_port(entry.any_port(|host, port| host.sockets.contains_key(&port))?);
        }
        if entry.sockets.contains_key(&addr.port()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        entry.sockets.insert(addr.port(), SocketState { life: life.number, ..Default::default() });
        Ok(addr)
    }
}

/// Whether a host whose address is `own` means itself by `addr`.
fn is_local(own: Option<IpAddr>, addr: SocketAddr) -> bool {
    addr.ip().is_loopback() || addr.ip().is_unspecified() || own == Some(addr.ip())
}

/// Remembers to wake this task, once.
fn remember(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|known| known.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

fn dead() -> io::Error {
    io::Error::other("the process that held this is dead")
}

/// The [`Network`] of one life of a host.
pub struct SimNetwork {
    net: Arc<Net>,
    life: Arc<Life>,
}

impl SimNetwork {
    /// The network as `life` has it.
    pub fn new(net: Arc<Net>, life: Arc<Life>) -> SimNetwork {
        SimNetwork { net, life }
    }
}

impl Network for SimNetwork {
    fn listen(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (net, life) = (self.net.clone(), self.life.clone());
        async move {
            if !life.is_alive() {
                return Err(dead());
            }
            let addr = net.with(|table| table.listen(&life, addr))?;
            Ok(Box::new(SimListener { net, life, addr }) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<BoxStream>> {
        let (net, life) = (self.net.clone(), self.life.clone());
        async move {
            if !life.is_alive() {
                return Err(dead());
            }
            let attempt = net.with(|table| table.connect(&life, addr))?;
            let waiting = Waiting { net: net.clone(), life: life.clone(), attempt };
            let connection = poll_fn(|cx| waiting.poll(cx)).await?;
            Ok(Box::new(SimStream { net, life, connection, end: 0 }) as BoxStream)
        }
        .boxed()
    }

    fn bind(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<Arc<dyn Datagrams>>> {
        let (net, life) = (self.net.clone(), self.life.clone());
        async move {
            if !life.is_alive() {
                return Err(dead());
            }
            let addr = net.with(|table| table.bind(&life, addr))?;
            Ok(Arc::new(SimDatagrams { net, life, addr }) as Arc<dyn Datagrams>)
        }
        .boxed()
    }
}

/// An attempt to connect that somebody waits for.
struct Waiting {
    net: Arc<Net>,
    life: Arc<Life>,
    attempt: u64,
}

impl Waiting {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        self.net.with(|table| {
            let Some(state) = table.attempts.get_mut(&self.attempt) else {
                return Poll::Ready(Err(dead()));
            };
            match state.result.take() {
                None => {
                    state.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                Some(result) => {
                    if result.is_err() {
                        table.abandon(self.attempt);
                    } else {
                        // From here on the connection belongs to the stream made of it.
                        table.attempts.remove(&self.attempt);
                    }
                    Poll::Ready(result)
                }
            }
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.life.is_alive() {
            self.net.with(|table| table.abandon(self.attempt));
        }
    }
}

struct SimListener {
    net: Arc<Net>,
    life: Arc<Life>,
    addr: SocketAddr,
}

impl Listener for SimListener {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        poll_fn(move |cx| {
            if !self.life.is_alive() {
                return Poll::Ready(Err(dead()));
            }
            self.net.with(|table| {
                loop {
                    let entry = table.hosts.get_mut(&self.life.host);
                    let Some(listener) = entry.and_then(|host| host.listeners.get_mut(&self.addr.port()))
                    else {
                        return Poll::Ready(Err(dead()));
                    };
                    let Some(connection) = listener.waiting.pop_front() else {
                        remember(&mut listener.wakers, cx.waker());
                        return Poll::Pending;
                    };
                    // One that the other side has already forgotten is nobody's.
                    if let Some((_, peer)) = table.ends(connection, 1) {
                        let peer = peer.addr;
                        let (net, life) = (self.net.clone(), self.life.clone());
                        let stream = SimStream { net, life, connection, end: 1 };
                        return Poll::Ready(Ok((Box::new(stream) as BoxStream, peer)));
                    }
                }
            })
        })
        .boxed()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if !self.life.is_alive() {
            return;
        }
        self.net.with(|table| {
            let entry = table.hosts.get_mut(&self.life.host);
            let listener = entry.and_then(|host| host.listeners.remove(&self.addr.port()));
            for connection in listener.into_iter().flat_map(|listener| listener.waiting) {
                table.refuse(connection, 1);
            }
        });
    }
}

struct SimStream {
    net: Arc<Net>,
    life: Arc<Life>,
    connection: u64,
    end: usize,
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.life.is_alive() {
            return Poll::Ready(Err(dead()));
        }
        self.net.with(|table| table.read(self.connection, self.end, buffer, cx.waker()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if !self.life.is_alive() {
            return Poll::Ready(Err(dead()));
        }
        self.net.with(|table| table.write(self.connection, self.end, data, cx.waker()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.life.is_alive() {
            return Poll::Ready(Err(dead()));
        }
        Poll::Ready(self.net.with(|table| table.shut(self.connection, self.end)))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        if self.life.is_alive() {
            self.net.with(|table| table.close(self.connection, self.end));
        }
    }
}

struct SimDatagrams {
    net: Arc<Net>,
    life: Arc<Life>,
    addr: SocketAddr,
}

impl Datagrams for SimDatagrams {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn send_to<'a>(&'a self, payload: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<()>> {
        async move {
            if !self.life.is_alive() {
                return Err(dead());
            }
            if payload.len() > MAX_DATAGRAM {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too long"));
            }
            self.net.with(|table| table.send_datagram(self.life.host, self.addr.port(), payload, to));
            Ok(())
        }
        .boxed()
    }

    fn recv_from(&self) -> BoxFuture<'_, io::Result<(Vec<u8>, SocketAddr)>> {
        poll_fn(move |cx| {
            if !self.life.is_alive() {
                return Poll::Ready(Err(dead()));
            }
            self.net.with(|table| {
                let entry = table.hosts.get_mut(&self.life.host);
                let Some(socket) = entry.and_then(|host| host.sockets.get_mut(&self.addr.port())) else {
                    return Poll::Ready(Err(dead()));
                };
                match socket.inbox.pop_front() {
                    Some((payload, from)) => {
                        socket.unread -= payload.len();
                        Poll::Ready(Ok((payload.to_vec(), from)))
                    }
                    None => {
                        remember(&mut socket.wakers, cx.waker());
                        Poll::Pending
                    }
                }
            })
        })
        .boxed()
    }
}

impl Drop for SimDatagrams {
    fn drop(&mut self) {
        if self.life.is_alive() {
            self.net.with(|table| {
                if let Some(host) = table.hosts.get_mut(&self.life.host) {
                    host.sockets.remove(&self.addr.port());
                }
            });
        }
    }
}
