//! The links between real processes: a listener in every node's stead, which passes on what [`Rules`] let pass.
//!
//! Who sends is told by the address that a connection or datagram comes from, who receives by the address it
//! goes to (see [`super`]), so every directed link has its own fate, as in simulation.
//!
//! **Datagrams** are lost, delayed, overtaken and doubled as the verdict says. The receiver sees them come from
//! the address that the sender is known by.
//!
//! **Streams** are relayed chunk by chunk, each of which asks for its fate and keeps its place. One that is lost is sent again
//! after 200 ms, doubling to 5 s, as TCP would; all behind it waits, the end of the stream too, and so does the writer,
//! once [`CHUNKS`] are under way. Who gave up after [`GIVE_UP`] without progress has its stream reset.
//!
//! Different from simulation: connecting to a node that is cut off succeeds, because the kernel answers for the proxy;
//! then it hangs. What a client sends there counts as sent, so its outcome is unknown where simulation may say that it
//! failed. And connecting to a node that is down ends at once, and not with a refusal.

// This is outside the simulation: the real clock and tasks are allowed here.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fault::{Parcel, Rule, Rules, Verdict, damaged};
use crate::scenario::{LinkSettings, Traffic, agents, stream};
use crate::workload::{FIRST_CLIENT, HTTP_PORT};

/// Port for traffic between servers.
pub const RPC_PORT: u16 = 8300;
/// Port for gossip.
pub const GOSSIP_PORT: u16 = 8301;
/// Where a network is claimed.
const CLAIM_PORT: u16 = 8399;

/// How long the first retransmission of a chunk waits, and the longest that any waits.
const RETRANSMIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a chunk is sent in vain before its stream is given up.
const GIVE_UP: Duration = Duration::from_secs(30);
/// The largest chunk.
const CHUNK: usize = 64 * 1024;
/// Chunks of one direction of a stream under way; beyond, its writer waits.
const CHUNKS: usize = 16;
/// The largest UDP payload over IPv4.
const MAX_DATAGRAM: usize = 65_507;
/// How long the proxy waits for a node to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Delays below this are what the real loopback and the real timer have anyway.
const LEAST_DELAY: Duration = Duration::from_millis(1);

/// The place of the first client agent; those of servers come before.
const AGENTS_PLACE: u32 = 200;

/// A part of the loopback network that no other replay on this machine uses: 127.R.x.y, and who is where in it.
#[derive(Debug)]
pub struct Ground {
    number: u8,
    /// The places of nodes that have moved; all others are where they began.
    moved: Mutex<BTreeMap<u32, u32>>,
    /// Nobody connects here; whoever wants the same ground finds the port taken.
    _claim: std::net::TcpListener,
}

impl Ground {
    /// Takes one that is free, from `first` on.
    ///
    /// # Errors
    /// The last reason, when none is.
    pub fn claim(first: u8) -> io::Result<Ground> {
        let mut last = io::Error::other("no loopback network is free");
        for step in 0..=u8::MAX {
            let number = first.wrapping_add(step);
            // 127.0.x.y is where everything else is.
            if number == 0 {
                continue;
            }
            match std::net::TcpListener::bind((Ipv4Addr::new(127, number, 255, 254), CLAIM_PORT)) {
                Ok(claim) => {
                    return Ok(Ground { number, moved: Mutex::default(), _claim: claim });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn moved(&self) -> MutexGuard<'_, BTreeMap<u32, u32>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a node begins.
    fn first_place(node: u32) -> u32 {
        node.checked_sub(agents::FIRST).map_or(node, |agent| AGENTS_PLACE + agent)
    }

    /// The place of a node.
    pub fn place(&self, node: u32) -> u32 {
        self.moved().get(&node).copied().unwrap_or_else(|| Ground::first_place(node))
    }

    /// A node is at this place from now on. Nobody else may be.
    pub fn give(&self, node: u32, place: u32) {
        self.moved().insert(node, place);
    }

    /// Who is at a place.
    fn at(&self, place: u32) -> Option<u32> {
        let moved = self.moved();
        if let Some((node, _)) = moved.iter().find(|(_, at)| **at == place) {
            return Some(*node);
        }
        let node = place.checked_sub(AGENTS_PLACE).map_or(place, |agent| agents::FIRST + agent);
        (!moved.contains_key(&node)).then_some(node)
    }

    /// Where a node really is.
    pub fn node(&self, node: u32) -> IpAddr {
        self.ip(1, self.place(node))
    }

    /// Where a node is known to be.
    pub fn known(&self, node: u32) -> IpAddr {
        self.ip(2, self.place(node))
    }

    /// Where a client asks from.
    pub fn client(&self, client: u32) -> IpAddr {
        self.ip(3 + (client / 250 % 250) as u8, client % 250)
    }

    fn ip(&self, net: u8, host: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.number, net, (host % 250) as u8 + 1))
    }

    /// Which host sends from this address.
    fn host(&self, ip: IpAddr) -> Option<u32> {
        let IpAddr::V4(ip) = ip else { return None };
        match ip.octets() {
            [127, number, 1, host] if number == self.number => self.at(u32::from(host).saturating_sub(1)),
            [127, number, net @ 3..=252, host] if number == self.number => {
                Some(FIRST_CLIENT + u32::from(net - 3) * 250 + u32::from(host).saturating_sub(1))
            }
            _ => None,
        }
    }
}

/// All links of a replay. Dropping it cuts everything.
pub struct Links {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

struct Shared {
    ground: Arc<Ground>,
    latency: LinkSettings,
    rules: Mutex<(Rules, StdRng)>,
    /// Rules have changed: what waits for a retransmission may try at once after a heal.
    healed: watch::Sender<u64>,
    /// The stand-ins for gossip, by place.
    sockets: Mutex<BTreeMap<u32, Arc<UdpSocket>>>,
    begun: Instant,
    datagrams: AtomicU64,
    lost: AtomicU64,
    told: mpsc::UnboundedSender<u32>,
}

impl Links {
    /// Links without faults. `seed` decides what is lost when a rule leaves it to chance; who sends a datagram is `told`.
    pub fn new(
        ground: Arc<Ground>,
        latency: LinkSettings,
        seed: u64,
        told: mpsc::UnboundedSender<u32>,
    ) -> Links {
        let rules = Mutex::new((Rules::default(), stream(seed, "real links")));
        let (datagrams, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        let (healed, sockets) = (watch::Sender::new(0), Mutex::default());
        let begun = Instant::now();
        let shared = Shared { ground, latency, rules, healed, sockets, begun, datagrams, lost, told };
        Links { shared: Arc::new(shared), tasks: Mutex::new(JoinSet::new()) }
    }

    /// The time by which rules count.
    pub fn now_ns(&self) -> u64 {
        self.shared.now_ns()
    }

    /// Stands in for whoever is at a place, from now on.
    ///
    /// # Errors
    /// The system's, when an address is taken.
    pub async fn stand_in(&self, place: u32) -> io::Result<()> {
        let shared = &self.shared;
        if shared.sockets().contains_key(&place) {
            return Ok(());
        }
        let known = shared.ground.ip(2, place);
        let mut listeners = Vec::new();
        for port in [HTTP_PORT, RPC_PORT, GOSSIP_PORT] {
            listeners.push((port, TcpListener::bind((known, port)).await?));
        }
        let socket = Arc::new(UdpSocket::bind((known, GOSSIP_PORT)).await?);
        for (port, listener) in listeners {
            self.spawn(streams(shared.clone(), place, port, listener));
        }
        shared.sockets().insert(place, socket.clone());
        self.spawn(datagrams(shared.clone(), place, socket));
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// Puts a rule in force; the number takes it out again.
    pub fn add(&self, rule: Rule) -> u64 {
        self.shared.rules().0.add(rule)
    }

    /// Takes a rule out of force.
    pub fn remove(&self, number: u64) {
        self.shared.rules().0.remove(number);
    }

    /// Takes all rules out of force.
    pub fn heal(&self) {
        self.shared.rules().0.clear();
        self.shared.healed.send_modify(|times| *times += 1);
    }

    /// How many datagrams came, and how many datagrams and chunks were lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.datagrams.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }
}

/// What becomes of a message.
enum Fate {
    /// It is lost; a stream sends it again.
    Lost,
    /// It is lost, and whoever sent it does not know.
    Swallowed,
    /// Its stream is reset.
    Refused,
    Arrives {
        after: Duration,
        twice: bool,
        damage: Option<u64>,
    },
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, (Rules, StdRng)> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sockets(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<UdpSocket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn fate(&self, (from, to): (u32, u32), traffic: Traffic, bytes: usize) -> Fate {
        let parcel = Parcel { now_ns: self.now_ns(), from, to, traffic, bytes };
        let (rules, rng) = &mut *self.rules();
        let verdict = rules.verdict(rng, &parcel);
        let LinkSettings { latency_min_us, latency_max_us, .. } = self.latency;
        let usual =
            Duration::from_micros(rng.random_range(latency_min_us..=latency_max_us.max(latency_min_us)));
        let fate = match verdict {
            Verdict::Drop(_) => Fate::Lost,
            Verdict::Swallow => Fate::Swallowed,
            Verdict::Refuse => Fate::Refused,
            Verdict::Pass { delay_ns, twice, damage } => {
                let after = usual + Duration::from_nanos(delay_ns);
                let after = if after < LEAST_DELAY { Duration::ZERO } else { after };
                Fate::Arrives { after, twice, damage }
            }
        };
        if !matches!(fate, Fate::Arrives { .. }) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        fate
    }
}

fn arrived(bytes: &[u8], damage: Option<u64>) -> Vec<u8> {
    damage.map_or_else(|| bytes.to_vec(), |damage| damaged(bytes, damage))
}

/// Takes the datagrams for whoever is at a place.
async fn datagrams(shared: Arc<Shared>, place: u32, socket: Arc<UdpSocket>) {
    let to = SocketAddr::new(shared.ground.ip(1, place), GOSSIP_PORT);
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut under_way = JoinSet::new();
    loop {
        while under_way.try_join_next().is_some() {}
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
            // An error concerns one datagram: mostly that a node that was sent one is down.
            tokio::task::yield_now().await;
            continue;
        };
        let (Some(sender), Some(node)) = (shared.ground.host(from.ip()), shared.ground.at(place)) else {
            continue;
        };
        shared.datagrams.fetch_add(1, Ordering::Relaxed);
        // If nobody listens, the replay is over.
        let _ = shared.told.send(sender);
        let fate = shared.fate((sender, node), Traffic::Datagrams, len);
        let Fate::Arrives { after, twice, damage } = fate else { continue };
        // From where the sender is known.
        let Some(socket) = shared.sockets().get(&shared.ground.place(sender)).cloned() else { continue };
        let payload = arrived(&buffer[..len], damage);
        let deliver = async move {
            for _ in 0..=u32::from(twice) {
                let _ = socket.send_to(&payload, to).await;
            }
        };
        if after.is_zero() {
            deliver.await;
        } else {
            let due = Instant::now() + after;
            under_way.spawn(async move {
                tokio::time::sleep_until(due).await;
                deliver.await;
            });
        }
    }
}

/// Takes the streams to one port of whoever is at a place.
async fn streams(shared: Arc<Shared>, place: u32, port: u16, listener: TcpListener) {
    let mut relays = JoinSet::new();
    loop {
        while relays.try_join_next().is_some() {}
        let Ok((incoming, peer)) = listener.accept().await else {
            // Most likely too many open files, which passes.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        // Nobody is there: the connection ends.
        let (Some(sender), Some(node)) = (shared.ground.host(peer.ip()), shared.ground.at(place)) else {
            continue;
        };
        let shared = shared.clone();
        relays.spawn(async move {
            // Whoever called learns from the end of its stream that there is nobody.
            let _ = relay(shared, sender, node, port, incoming).await;
        });
    }
}

async fn relay(
    shared: Arc<Shared>,
    sender: u32,
    node: u32,
    port: u16,
    incoming: TcpStream,
) -> io::Result<()> {
    // The first packet of a connection has a fate of its own.
    let (passage, incoming) = match pass(&shared, (sender, node), 0).await {
        Ok(passage) => (passage, incoming),
        Err(error) => return reset(incoming, error),
    };
    if passage.is_none() {
        // Whoever calls waits as long as it likes.
        return drain(incoming).await;
    }
    let socket = TcpSocket::new_v4()?;
    let to = SocketAddr::new(shared.ground.node(node), port);
    let outgoing =
        tokio::time::timeout(CONNECT, socket.connect(to)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    incoming.set_nodelay(true)?;
    outgoing.set_nodelay(true)?;
    let ((from_sender, to_sender), (from_node, to_node)) = (incoming.into_split(), outgoing.into_split());
    let forth = one_way(shared.clone(), (sender, node), from_sender, to_node);
    let back = one_way(shared, (node, sender), from_node, to_sender);
    // One direction that broke ends the other: a reset speaks of both.
    tokio::try_join!(forth, back).map(drop)
}

/// Ends a connection so that the other side notices an error and not an end.
fn reset(stream: TcpStream, error: io::Error) -> io::Result<()> {
    stream.set_zero_linger()?;
    Err(error)
}

/// Takes whatever comes, until no more does.
async fn drain(mut source: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while source.read(&mut chunk).await? > 0 {}
    Ok(())
}

/// How a chunk gets through: how long it takes then, and what happens to it.
struct Passage {
    after: Duration,
    damage: Option<u64>,
}

/// Waits until a chunk gets through. `None`: it never will, and nothing after it.
async fn pass(shared: &Shared, link: (u32, u32), bytes: usize) -> io::Result<Option<Passage>> {
    let begun = Instant::now();
    let mut wait = RETRANSMIT.0;
    let mut healed = shared.healed.subscribe();
    loop {
        match shared.fate(link, Traffic::Streams, bytes) {
            Fate::Arrives { after, damage, .. } => return Ok(Some(Passage { after, damage })),
            Fate::Swallowed => return Ok(None),
            Fate::Refused => return Err(io::ErrorKind::ConnectionReset.into()),
            Fate::Lost => {}
        }
        if begun.elapsed() > GIVE_UP {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Either way it is tried again.
        let _ = tokio::time::timeout(wait, healed.changed()).await;
        wait = (wait * 2).min(RETRANSMIT.1);
    }
}

/// Relays one direction of a stream to its end.
async fn one_way(
    shared: Arc<Shared>,
    link: (u32, u32),
    mut source: OwnedReadHalf,
    mut sink: OwnedWriteHalf,
) -> io::Result<()> {
    // What is under way, with the time at which it arrives. An empty chunk is the stream's end.
    let (send, mut receive) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let reading = async move {
        let mut last = Instant::now();
        loop {
            let mut chunk = vec![0; CHUNK];
            let len = source.read(&mut chunk).await?;
            let Some(Passage { after, damage }) = pass(&shared, link, len).await? else {
                // From here on nothing arrives any more, not even the end.
                drain(source).await?;
                let _never = send;
                return pending().await;
            };
            // In order: nothing overtakes what was sent before.
            last = last.max(Instant::now() + after);
            if send.send((last, arrived(&chunk[..len], damage))).await.is_err() || len == 0 {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = receive.recv().await {
            tokio::time::sleep_until(due).await;
            if chunk.is_empty() {
                return sink.shutdown().await;
            }
            sink.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::try_join!(reading, writing).map(drop)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::fault::{Effect, Hosts};

    const LONG: Duration = Duration::from_secs(20);

    struct Bench {
        links: Links,
        ground: Arc<Ground>,
    }

    async fn bench() -> Bench {
        let ground = Arc::new(Ground::claim(crate::runner::fresh_seed() as u8).unwrap());
        let links = Links::new(ground.clone(), LinkSettings::default(), 1, mpsc::unbounded_channel().0);
        for node in 0..2 {
            links.stand_in(node).await.unwrap();
        }
        Bench { links, ground }
    }

    impl Bench {
        async fn gossip(&self, node: u32) -> UdpSocket {
            UdpSocket::bind((self.ground.node(node), GOSSIP_PORT)).await.unwrap()
        }

        async fn connect(&self, from: IpAddr, to: u32) -> TcpStream {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(from, 0)).unwrap();
            socket.connect(SocketAddr::new(self.ground.known(to), RPC_PORT)).await.unwrap()
        }
    }

    fn rule(from: u32, to: u32, effect: Effect) -> Rule {
        Rule { from: Hosts::only([from]), to: Hosts::only([to]), effect }
    }

    async fn received(socket: &UdpSocket) -> Vec<u8> {
        let mut buffer = [0; 64];
        let (len, _) = tokio::time::timeout(LONG, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        buffer[..len].to_vec()
    }

    #[tokio::test]
    async fn a_datagram_is_lost_doubled_or_passes_by_its_link() {
        let bench = bench().await;
        let (zero, one) = (bench.gossip(0).await, bench.gossip(1).await);
        let known = |node| SocketAddr::new(bench.ground.known(node), GOSSIP_PORT);
        bench.links.add(rule(0, 1, Effect::Block));
        zero.send_to(b"lost", known(1)).await.unwrap();
        one.send_to(b"passes", known(0)).await.unwrap();
        assert_eq!(received(&zero).await, b"passes");
        // The proxy takes them in order, so the first is lost by the time that the next is there.
        while bench.links.counts() != (2, 1) {
            tokio::task::yield_now().await;
        }
        bench.links.heal();
        bench.links.add(rule(0, 1, Effect::Duplicate(1.0)));
        zero.send_to(b"twice", known(1)).await.unwrap();
        assert_eq!((received(&one).await, received(&one).await), (b"twice".to_vec(), b"twice".to_vec()));
    }

    #[tokio::test]
    async fn a_stream_waits_for_its_link_and_loses_nothing() {
        let bench = bench().await;
        let listener = TcpListener::bind((bench.ground.node(1), RPC_PORT)).await.unwrap();
        let mut caller = bench.connect(bench.ground.node(0), 1).await;
        let (mut called, _) = listener.accept().await.unwrap();
        caller.write_all(b"before ").await.unwrap();
        let mut text = [0; 7];
        called.read_exact(&mut text).await.unwrap();
        bench.links.add(rule(0, 1, Effect::Block));
        caller.write_all(b"during").await.unwrap();
        caller.shutdown().await.unwrap();
        // The other way is open, so what comes back shows that the proxy is awake.
        called.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        caller.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
        while bench.links.counts().1 == 0 {
            tokio::task::yield_now().await;
        }
        bench.links.heal();
        let mut rest = String::new();
        tokio::time::timeout(LONG, called.read_to_string(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, "during");
    }

    #[tokio::test]
    async fn a_refused_stream_is_reset_and_a_swallowed_one_hears_nothing_even_after_the_heal() {
        let bench = bench().await;
        let listener = TcpListener::bind((bench.ground.node(1), RPC_PORT)).await.unwrap();
        bench.links.add(rule(0, 1, Effect::Refuse));
        let mut refused = bench.connect(bench.ground.node(0), 1).await;
        let answer = tokio::time::timeout(LONG, refused.read(&mut [0; 8])).await.unwrap();
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        bench.links.heal();

        let mut caller = bench.connect(bench.ground.node(0), 1).await;
        let (mut called, _) = listener.accept().await.unwrap();
        bench.links.add(rule(0, 1, Effect::Swallow(Traffic::Streams)));
        let lost = bench.links.counts().1;
        caller.write_all(b"gone").await.unwrap();
        while bench.links.counts().1 == lost {
            tokio::task::yield_now().await;
        }
        bench.links.heal();
        caller.write_all(b"gone too").await.unwrap();
        drop(caller);
        // Of all this nothing arrives; that it does not, only a stream of the same link can show.
        let mut other = bench.connect(bench.ground.node(0), 1).await;
        let (mut heard, _) = listener.accept().await.unwrap();
        other.write_all(b"here").await.unwrap();
        heard.read_exact(&mut [0; 4]).await.unwrap();
        let silence = called.read(&mut [0; 16]).now_or_never();
        assert!(silence.is_none(), "{silence:?}");
    }

    #[tokio::test]
    async fn a_link_to_nobody_ends_and_a_client_is_known_by_its_address() {
        let bench = bench().await;
        let mut caller = bench.connect(bench.ground.client(0), 1).await;
        let mut rest = Vec::new();
        // Ended or reset; either way it is over.
        let _ = tokio::time::timeout(LONG, caller.read_to_end(&mut rest)).await.unwrap();
        let of = |ip| bench.ground.host(ip);
        assert_eq!(of(bench.ground.client(0)), Some(FIRST_CLIENT));
        assert_eq!(of(bench.ground.client(999)), Some(FIRST_CLIENT + 999));
        assert_eq!(of(bench.ground.node(6)), Some(6));
        assert_eq!(of(bench.ground.node(501)), Some(501));
        assert_eq!(of(bench.ground.known(6)), None);
        assert_eq!(of(Ipv4Addr::LOCALHOST.into()), None);
    }

    #[test]
    fn who_moves_takes_its_name_along_and_leaves_its_place_to_others() {
        let ground = Ground::claim(9).unwrap();
        let (first, second) = (ground.node(0), ground.node(1));
        ground.give(0, 5);
        assert_eq!((ground.host(first), ground.host(ground.node(0))), (None, Some(0)));
        ground.give(1, 0);
        assert_eq!((ground.node(1), ground.host(first), ground.host(second)), (first, Some(1), None));
    }

    #[test]
    fn two_replays_do_not_share_a_ground() {
        let first = Ground::claim(7).unwrap();
        let second = Ground::claim(first.number).unwrap();
        assert_ne!(first.number, second.number);
    }
}
