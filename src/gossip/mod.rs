//! Membership and messages by gossip: who is in the cluster, who has left, who has failed.
//!
//! [`Gossip::start`] binds a UDP and a TCP port and keeps a list of [`Member`]s that converges on every
//! node. It knows nothing of Raft, HTTP or agents; a program hangs itself in through [`Delegate`] and
//! [`EventDelegate`].
//!
//! # How it works
//! The protocol is SWIM (Das, Gupta and Motivala, 2002) as foca implements it:
//! * each period one member is probed, directly, then through others (section 3.1);
//! * news about members ride on those same datagrams, each sent `O(log n)` times (section 4.1);
//! * a member that does not answer is suspected first and may refute (section 4.2);
//! * members are probed in shuffled rounds, so each is probed within a bounded time (section 4.3).
//!
//! What we add to foca, and where:
//! * [`identity`]: lives of a node are numbered by a *generation*, kept across restarts by the caller;
//! * [`wire`]: one datagram of at most 1,400 bytes with a checksum, for foca's packet, profiles, and the
//!   program's messages, in that order;
//! * [`members`]: a table by node and not by address, which tells leaving from failing and remembers both;
//! * `broadcast`: a transmit-limited queue, as in memberlist; what is new is also passed on at once;
//! * [`pushpull`]: exchanges of full state over TCP: joining, and repair of what rumours missed;
//! * [`seal`]: encryption of all of it, with the keys of a [`keyring`]; [`keys`]: changing them in a running cluster;
//! * [`allegiance`]: which cluster the node is of, so that two that were founded apart stay apart;
//! * [`events`]: user events, each delivered once to every node;
//! * [`vivaldi`]: network coordinates, from the round trips of probes that are answered; the answer carries the
//!   coordinate of who answers;
//! * `driver`: the loop. It also does what Lifeguard (Dadgar, Phillips and Currey, 2018) adds to SWIM: a
//!   suspicion ends the sooner the more nodes share it, the suspect is told directly, a node that finds
//!   itself slow judges others slowly, and one that was stalled judges nobody for the time it missed. Beyond
//!   Lifeguard, a node that suspects another asks a jury of five to see for themselves, instead of waiting
//!   until they come upon the suspect in their own rounds.
//!
//! # How a partition heals
//! Both sides have declared each other dead, and to foca death is final for that life. So each side knocks
//! on its failed members at every reconnect interval. Whoever hears that it was taken for dead takes the
//! next generation and is alive for everybody; then the two nodes exchange full state, and each node of
//! whom only one side believes that it lives is told to take a new generation as well. No user acts.
//!
//! # What is deliberately absent
//! Queries, compression, probes over a stream (memberlist falls back to them: whoever can be reached by TCP and not by UDP would live,
//! and get no news), and any promise that a message is delivered: only that it is likely to be.

pub mod allegiance;
pub mod beside;
mod broadcast;
pub mod delegate;
mod driver;
pub mod events;
pub mod identity;
pub mod keyring;
pub mod keys;
pub mod members;
pub mod pushpull;
pub mod seal;
pub mod timing;
pub mod vivaldi;
pub mod wire;
#[cfg(test)]
mod wire_v1;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use beside::Beside;
pub use delegate::{Delegate, EventDelegate, META_LIMIT, Silent};
pub use driver::Twins;
pub use events::{EventError, NewEvent, UserEvent, UserEvents};
pub use members::{Member, Status};
pub use seal::Encryption;
pub use timing::Timing;
pub use vivaldi::Coordinate;

use crate::env::{AbortOnDrop, Datagrams, Env, Listener};
use driver::{Command, Counters, Driver};
use identity::{Identity, MAX_GENERATION};
use keys::Order;
use seal::Sealer;
use wire::Profile;

/// What a node needs to take part.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node, through all its lives. Two nodes with one id displace each other; whoever finds when it joins that the other
    /// is there already ends ([`Gossip::fatal`]), and otherwise both say so ([`Gossip::twins`]).
    pub node_id: u64,
    /// Its name: 1 to 128 bytes, should be unique.
    pub name: String,
    /// Where to listen, UDP and TCP. Port 0 picks one.
    pub bind: SocketAddr,
    /// The address that others reach it at, if it is not `bind`. Port 0 means the bound port.
    pub advertise: Option<SocketAddr>,
    /// The number of this life: larger at each start. The caller persists it. If it was lost, others tell
    /// the node, which then takes a larger one.
    pub generation: u64,
    /// How often and how long.
    pub timing: Timing,
    /// Label of the cluster: nodes of different labels do not hear each other.
    pub cluster: String,
    /// The number of the cluster that the node is of, if its program has that from its own disk: see [`allegiance`].
    pub founded: Option<u64>,
    /// The newest version of the protocol that the node speaks, see [`wire`].
    pub newest: u8,
    /// Whether and how what it says is encrypted.
    pub encryption: Encryption,
}

/// What can go wrong, and what to do then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options cannot work: change them.
    #[error("gossip cannot start: {0}")]
    Options(String),
    /// The network refused: choose another address, or try again later.
    #[error("gossip cannot listen on {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The keys cannot be used: correct them.
    #[error("gossip cannot be encrypted: {0}")]
    Keyring(String),
    /// The program's bytes about the node are too many. Nothing was changed.
    #[error("the node's metadata has {size} bytes, the limit is {META_LIMIT}")]
    MetaTooLarge {
        /// How many.
        size: usize,
    },
    /// No address could be joined: try again, or try others.
    #[error("no member could be reached: {}", reasons(.0))]
    Join(Vec<(SocketAddr, NotJoined)>),
    /// Nobody is called so.
    #[error("No node found with name '{name}'")]
    UnknownMember {
        /// The name.
        name: String,
    },
    /// Others may or may not have heard that this node left. It will be taken for failed, if not.
    #[error("leaving took too long")]
    LeaveTimedOut,
    /// Gossip has stopped. Start it anew.
    #[error("gossip has stopped")]
    Stopped,
}

/// Why nobody was joined at an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJoined {
    /// There is this node, which knows all that it could hear there.
    #[error("that is this node itself")]
    Itself,
    /// Nobody is there, or nobody who could be joined.
    #[error("{0}")]
    Failed(String),
}

fn reasons(failures: &[(SocketAddr, NotJoined)]) -> String {
    let texts: Vec<String> = failures.iter().map(|(addr, reason)| format!("{addr}: {reason}")).collect();
    if texts.is_empty() { "no address was given".to_owned() } else { texts.join("; ") }
}

/// A running node. Clones are the same node; it stops when the last is dropped.
#[derive(Clone)]
pub struct Gossip {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    cluster: u32,
    stream_timeout: Duration,
    sealer: Sealer,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    delegate: Arc<dyn Delegate>,
    end: watch::Receiver<Option<End>>,
    task: Mutex<Option<AbortOnDrop>>,
}

/// What the loop shows to handles.
struct Shared {
    view: Mutex<View>,
    stopping: AtomicBool,
}

struct View {
    local: Member,
    members: BTreeMap<u64, Member>,
    counters: Counters,
    coordinate: Coordinate,
    twins: Vec<Twins>,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the loop ended.
#[derive(Clone, Debug)]
enum End {
    Stopped,
    Fatal(String),
}

/// Says how the loop ended, even when it is aborted or panics.
struct Ending {
    end: watch::Sender<Option<End>>,
    shared: Arc<Shared>,
}

impl Ending {
    fn set(&self, end: End) {
        self.end.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(end);
            }
            first
        });
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.set(if self.shared.stopping.load(Ordering::Acquire) {
            End::Stopped
        } else {
            End::Fatal("the gossip loop ended unexpectedly".to_owned())
        });
    }
}

impl Gossip {
    /// Binds the ports and starts to gossip, alone at first: see [`Gossip::join`].
    ///
    /// # Errors
    /// When the options make no sense, the program's metadata is too large, or a port is taken.
    pub async fn start(
        env: &Env,
        options: Options,
        delegate: Arc<dyn Delegate>,
        events: Arc<dyn EventDelegate>,
    ) -> Result<Gossip, Error> {
        options.timing.check().map_err(Error::Options)?;
        if !wire::name_is_sane(&options.name) {
            let text = "the name must be 1 to 128 bytes without control characters";
            return Err(Error::Options(text.to_owned()));
        }
        if options.generation >= MAX_GENERATION {
            return Err(Error::Options(format!("generation {} is out of range", options.generation)));
        }
        let meta = delegate.node_meta(META_LIMIT);
        if meta.len() > META_LIMIT {
            return Err(Error::MetaTooLarge { size: meta.len() });
        }
        let sealer = Sealer::start(env, &options.encryption, options.node_id, options.generation).await?;
        let (socket, listener) = bind(env, options.bind).await?;
        let bound = socket.local_addr();
        let addr = match options.advertise {
            Some(addr) if addr.port() == 0 => SocketAddr::new(addr.ip(), bound.port()),
            Some(addr) => addr,
            None => bound,
        };
        if addr.ip().is_unspecified() || addr.ip().is_multicast() {
            let text = format!("nobody can be reached at {addr}: set an address to advertise");
            return Err(Error::Options(text));
        }
        let id = Identity { node_id: options.node_id, addr, generation: options.generation, leaving: false };
        // A later life's revisions are larger than all of an earlier one's.
        let profile = Profile {
            id,
            revision: options.generation.saturating_mul(1 << 20),
            name: options.name.clone(),
            meta: meta.clone(),
        };
        let local = Member {
            node_id: options.node_id,
            name: options.name,
            addr,
            meta,
            generation: options.generation,
            status: Status::Alive,
            since: env.now(),
            pruned: false,
        };
        let view = View {
            local,
            members: BTreeMap::new(),
            counters: Counters::default(),
            coordinate: Coordinate::default(),
            twins: Vec::new(),
        };
        let shared = Arc::new(Shared { view: Mutex::new(view), stopping: AtomicBool::new(false) });
        let (commands, receiver) = mpsc::channel(driver::COMMANDS);
        let cluster = wire::cluster_number(&options.cluster);
        let stream_timeout = Duration::from_millis(options.timing.stream_timeout_ms);
        let driver = Driver::new(driver::Parts {
            env: env.clone(),
            timing: options.timing,
            cluster,
            founded: options.founded,
            newest: options.newest.clamp(wire::OLDEST, wire::NEWEST),
            sealer: sealer.clone(),
            profile,
            socket,
            listener,
            commands: receiver,
            delegate: delegate.clone(),
            events,
            shared: shared.clone(),
        });
        let (sender, end) = watch::channel(None);
        let ending = Ending { end: sender, shared: shared.clone() };
        let task = env.spawn(async move {
            // Declared first, so that it drops last: whoever waits for the end finds the ports free.
            let ending = ending;
            match driver.run().await {
                Some(reason) => ending.set(End::Fatal(reason)),
                None => ending.set(End::Stopped),
            }
        });
        Ok(Gossip {
            inner: Arc::new(Inner {
                env: env.clone(),
                cluster,
                stream_timeout,
                sealer,
                commands,
                shared,
                delegate,
                end,
                task: Mutex::new(Some(task.abort_on_drop())),
            }),
        })
    }

    /// Exchanges state with each of these members, and so joins their cluster. Returns how many were
    /// reached; [`Gossip::members`] lists theirs from then on.
    ///
    /// # Errors
    /// When none was reached, with each reason. This node's own address does not count as reached.
    pub async fn join(&self, addrs: &[SocketAddr]) -> Result<usize, Error> {
        let mut waiting = Vec::new();
        for addr in addrs {
            let (reply, answer) = oneshot::channel();
            self.send(Command::Join { addr: *addr, reply }).await?;
            waiting.push((*addr, answer));
        }
        let mut reached = 0;
        let mut failures = Vec::new();
        for (addr, answer) in waiting {
            match answer.await {
                Ok(Ok(())) => reached += 1,
                Ok(Err(reason)) => failures.push((addr, reason)),
                Err(_) => return Err(Error::Stopped),
            }
        }
        if reached == 0 { Err(Error::Join(failures)) } else { Ok(reached) }
    }

    /// The members, by name, the local one and those that failed or left included. Not listed is who was pruned, and who is
    /// gone when another of its name lives or has gone since: a node that lost its id comes back as another.
    pub fn members(&self) -> Vec<Member> {
        let mut members = self.remembered();
        members.retain(|member| !member.pruned);
        let order = |member: &Member| (member.status.is_live(), member.since, member.node_id);
        let mut last = BTreeMap::new();
        for member in &members {
            let newest = last.entry(member.name.clone()).or_insert_with(|| order(member));
            *newest = (*newest).max(order(member));
        }
        members.retain(|member| member.status.is_live() || last.get(&member.name) == Some(&order(member)));
        members
    }

    /// All members that this node remembers, by name, those that [`Gossip::members`] does not list included.
    pub fn remembered(&self) -> Vec<Member> {
        let view = self.inner.shared.view();
        let mut members: Vec<Member> = view.members.values().cloned().collect();
        members.push(view.local.clone());
        members.sort_by(|a, b| (&a.name, a.node_id).cmp(&(&b.name, b.node_id)));
        members
    }

    /// The program knows from its own disk which cluster its node is of: see [`allegiance`].
    ///
    /// # Errors
    /// When gossip has stopped.
    pub async fn settle(&self, cluster: u64) -> Result<(), Error> {
        self.send(Command::Settle { cluster }).await
    }

    /// The local member.
    pub fn local(&self) -> Member {
        self.inner.shared.view().local.clone()
    }

    /// Where this node stands among the others, as far as its probes have told.
    pub fn coordinate(&self) -> Coordinate {
        self.inner.shared.view().coordinate
    }

    /// Nodes of whose id there were two agents lately: a data directory was copied. See `driver::twins`.
    pub fn twins(&self) -> Vec<Twins> {
        self.inner.shared.view().twins.clone()
    }

    /// Leaves: tells the others, waits until they are likely to know, and falls silent. Others see the node
    /// leaving, then left. It still has to be stopped; it cannot join again.
    ///
    /// # Errors
    /// When it took longer than `timeout`; some may know and some may not.
    pub async fn leave(&self, timeout: Duration) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let leave = async {
            self.send(Command::Leave { within: timeout, reply }).await?;
            answer.await.map_err(|_| Error::Stopped)
        };
        match self.inner.env.timeout(timeout, leave).await {
            Ok(result) => result,
            Err(_) => Err(Error::LeaveTimedOut),
        }
    }

    /// Stops at once, without a word: others will see the node as failed. Returns when the ports are free.
    /// Does nothing the second time.
    pub async fn shutdown(&self) {
        self.inner.stop();
        let mut end = self.inner.end.clone();
        // An aborted task goes away as soon as its executor gets to it.
        let _ = self.inner.env.timeout(Duration::from_secs(5), end.wait_for(|end| end.is_some())).await;
    }

    /// Asks [`Delegate::node_meta`] again and tells everybody if it has changed.
    ///
    /// # Errors
    /// When it is too large; everybody keeps what they had.
    pub async fn update_meta(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::UpdateMeta { reply }).await?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// Declares that a failed member has left, on every node; with `prune` it also disappears from the
    /// lists. A member that is alive is shown as leaving until it contradicts; this node contradicts at once.
    ///
    /// # Errors
    /// When no member has this name.
    pub async fn force_leave(&self, name: &str, prune: bool) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::ForceLeave { name: name.to_owned(), prune, reply }).await?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// Numbers for people, all as text: those of Serf by their names, and more.
    pub fn stats(&self) -> BTreeMap<String, String> {
        let (members, counters) = {
            let view = self.inner.shared.view();
            let statuses: Vec<Status> = view.members.values().map(|member| member.status).collect();
            (statuses, view.counters.clone())
        };
        let count = |status| members.iter().filter(|s| **s == status).count();
        let mut stats: BTreeMap<String, String> = [
            ("members", (members.len() + 1) as u64),
            ("failed", count(Status::Failed) as u64),
            ("left", count(Status::Left) as u64),
            ("health_score", counters.slowness.into()),
            ("member_time", counters.member_changes + 1),
            ("event_time", 1),
            ("event_queue", 0),
            ("intent_queue", counters.intent_queue as u64),
            ("query_queue", 0),
            ("datagrams_sent", counters.sent),
            ("datagrams_received", counters.received),
            ("send_errors", counters.send_errors),
            ("dropped_damaged", counters.damaged),
            ("dropped_other_cluster", counters.other_cluster),
            ("dropped_malformed", counters.malformed),
            ("dropped_unencrypted", counters.unencrypted),
            ("dropped_undecryptable", counters.undecryptable),
            ("dropped_unsendable", counters.unsendable),
            ("push_pulls", counters.exchanges),
            ("push_pull_errors", counters.exchange_errors),
            ("stalls", counters.stalls),
            ("suspicions", counters.suspicions),
            ("name_conflicts", counters.name_conflicts),
            ("refused_members", counters.table_full),
            ("modern_peers", counters.modern_peers as u64),
            ("coordinate_resets", counters.coordinate_resets),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_string()))
        .collect();
        stats.insert("encrypted".to_owned(), self.inner.sealer.seals().to_string());
        stats.extend(self.inner.delegate.stats());
        stats
    }

    /// Whether this node has keys. It may still send unencrypted, while a cluster is changed over.
    pub fn has_keys(&self) -> bool {
        self.inner.sealer.ring().is_some()
    }

    /// Whether what this node sends is encrypted.
    pub fn encrypted(&self) -> bool {
        self.inner.sealer.seals()
    }

    /// Changes what is demanded of others, and what is done for them: see [`Encryption`].
    pub fn verify(&self, incoming: bool, outgoing: bool) {
        self.inner.sealer.verify(incoming, outgoing);
    }

    /// Has a member, which may be this one, look at its keys or change them.
    ///
    /// # Errors
    /// Why it did not, or did not answer.
    pub async fn order(&self, member: &Member, order: &Order) -> keys::Answer {
        let Inner { env, sealer, cluster, stream_timeout, .. } = &*self.inner;
        if member.node_id == self.local().node_id {
            keys::here(env, sealer, order).await
        } else {
            keys::ask(env, sealer, *cluster, member.addr, order, *stream_timeout).await
        }
    }

    /// Completes when gossip has ended without having been stopped, with the reason. The node should stop.
    pub fn fatal(&self) -> impl Future<Output = String> + Send + use<> {
        let mut end = self.inner.end.clone();
        async move {
            let reason = match end.wait_for(|end| matches!(end, Some(End::Fatal(_)))).await {
                Ok(end) => match &*end {
                    Some(End::Fatal(reason)) => Some(reason.clone()),
                    _ => None,
                },
                // It was stopped.
                Err(_) => None,
            };
            match reason {
                Some(reason) => reason,
                None => std::future::pending().await,
            }
        }
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        self.inner.commands.send(command).await.map_err(|_| Error::Stopped)
    }
}

impl Inner {
    fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        drop(self.task.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gossip").field("local", &self.local().name).finish_non_exhaustive()
    }
}

/// Binds both ports to one number.
async fn bind(env: &Env, addr: SocketAddr) -> Result<(Arc<dyn Datagrams>, Box<dyn Listener>), Error> {
    // A free UDP port may be a taken TCP port; if any will do, another is tried.
    let mut tries = if addr.port() == 0 { 16 } else { 1 };
    loop {
        tries -= 1;
        let failed = |source| Error::Bind { addr, source };
        let socket = env.network().bind(addr).await.map_err(failed)?;
        match env.network().listen(SocketAddr::new(addr.ip(), socket.local_addr().port())).await {
            Ok(listener) => return Ok((socket, listener)),
            Err(_) if tries > 0 => {}
            Err(source) => return Err(Error::Bind { addr, source }),
        }
    }
}

#[cfg(test)]
mod tests;
