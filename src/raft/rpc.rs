//! How servers talk: framed requests and answers over one stream per peer and lane.
//!
//! A frame ([`frame`]) holds a postcard-encoded envelope. Requests carry a number and answers come in any order, so a slow request holds up nobody. Each
//! envelope names the sender's cluster: a server never takes part in another cluster's Raft.
//!
//! A [`Lane`] is a connection of its own, so that a snapshot under way delays no heartbeat.
//!
//! A damaged frame ends its connection, and so does a request that went unanswered in silence: the
//! next one starts on a fresh connection. Where an answer may be long in coming (a read that waits for news), a connection
//! that is silent is asked for a sign of life, so that a host that vanished without a goodbye is noticed in [`QUIET`] twice.
//!
//! The envelope is the same in all versions of the protocol so far; `frame` tells how the two sides agree on one.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, StreamExt};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::codec::{Framed, FramedRead, FramedWrite};

use super::frame::{self, Codec, Frame};
use super::{SnapshotMeta, TypeConfig, Vote};
use crate::env::places::Places;
use crate::env::{AbortOnDrop, BoxStream, Env, Listener, Proof, Purpose, hazard};
use crate::mutant;
use crate::state::{Outcome, Request};

/// Requests of one connection worked on at once; past that the connection is not read.
pub const MAX_IN_FLIGHT: usize = 512;
/// Connections served at once; past that new ones are closed.
const MAX_CONNECTIONS: usize = 1024;
/// Of these, so many from one address: a few dozen agents behind it have room, and no single one takes everybody's.
const MAX_CONNECTIONS_EACH: usize = 256;
/// How long a new connection may stay silent. Later it may, as long as it likes: a lane is kept for when it is needed.
const FIRST_FRAME_WITHIN: Duration = Duration::from_secs(10);
/// Whoever waits for an answer that may be long in coming asks for a sign of life when nothing was heard for so long, and
/// gives the connection up when there is none for as long again.
const QUIET: Duration = Duration::from_secs(10);
/// Frames waiting to be written to one connection. When it is full, callers wait.
const OUTBOX: usize = 256;

/// What travels.
#[derive(Serialize, Deserialize)]
pub struct Envelope<T> {
    number: u64,
    from: u64,
    /// Who must answer, if it matters: another server may have taken over an address.
    to: Option<u64>,
    cluster: Option<u64>,
    body: T,
}

/// What one server asks of another.
#[derive(Serialize, Deserialize)]
pub enum Ask {
    /// Raft: replicate.
    Append(AppendEntriesRequest<TypeConfig>),
    /// Raft: vote for me.
    Vote(VoteRequest<TypeConfig>),
    /// Raft: would you vote for me?
    PreVote(VoteRequest<TypeConfig>),
    /// Raft: a piece of a snapshot.
    Snapshot(SnapshotChunk),
    /// Raft: stand for election now.
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    /// To the leader: apply this.
    Propose(Request),
    /// To the leader: which index must a read wait for?
    ReadIndex,
    /// To the leader: make this server a member.
    AddServer(super::ServerInfo),
    /// To the leader: remove a server from the configuration.
    RemoveServer {
        /// Its Raft id.
        node_id: u64,
    },
    /// To the leader: hand leadership to another.
    TransferTo {
        /// The heir's Raft id; none: the leader chooses.
        node_id: Option<u64>,
    },
    /// To anyone: who are you?
    Status,
    /// To a server without a cluster: promise to found this one and no other.
    Promise {
        /// Id of the cluster to be.
        cluster: u64,
    },
    /// From an agent without a state to any server: one of the agents' own calls.
    Agent(Bytes),
    /// To anyone of one's own: what does your wall clock show? For people to compare.
    Clock,
}

/// A piece of a snapshot. The last one completes it.
#[derive(Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// The leader's vote.
    pub vote: Vote,
    /// Which snapshot.
    pub meta: SnapshotMeta,
    /// Where this piece begins.
    pub offset: u64,
    /// Whether this is the last piece.
    pub last: bool,
    /// The bytes.
    pub data: Bytes,
}

/// Why a request to the leader was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LeaderError {
    /// This server does not lead. Nothing was done; ask `leader` if it is known.
    #[error("not the leader")]
    NotLeader {
        /// The leader's Raft id, as far as known.
        leader: Option<u64>,
    },
    /// Nothing was done, and asking again will not help.
    #[error("{0}")]
    Refused(String),
    /// It may have been done, or may yet be.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Who it is.
    pub server: super::ServerInfo,
    /// The cluster it belongs to.
    pub cluster: Option<u64>,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// Whether its log or vote holds anything.
    pub has_state: bool,
    /// Where its gossip is reached.
    pub gossip: SocketAddr,
    /// Who votes, as far as it knows.
    pub voters: Vec<u64>,
}

/// An answer, of the same name as the [`Ask`].
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// See [`Ask::Append`].
    Append(AppendEntriesResponse<TypeConfig>),
    /// See [`Ask::Vote`] and [`Ask::PreVote`].
    Vote(VoteResponse<TypeConfig>),
    /// See [`Ask::Snapshot`]: for the last piece, what became of the whole.
    Snapshot(Option<SnapshotResponse<TypeConfig>>),
    /// See [`Ask::TransferLeader`].
    TransferLeader(TransferLeaderResponse<TypeConfig>),
    /// See [`Ask::Propose`].
    Propose(Result<Outcome, LeaderError>),
    /// See [`Ask::ReadIndex`].
    ReadIndex(Result<u64, LeaderError>),
    /// See [`Ask::AddServer`], [`Ask::RemoveServer`], [`Ask::TransferTo`].
    Changed(Result<(), LeaderError>),
    /// See [`Ask::Status`].
    Status(Status),
    /// See [`Ask::Promise`]: the cluster promised to, which may be another.
    Promise {
        /// The promise in force.
        cluster: u64,
    },
    /// The asker belongs to another cluster.
    WrongCluster {
        /// The answerer's cluster.
        cluster: u64,
    },
    /// The request was for another server. Nothing was done.
    WrongServer {
        /// Who lives here.
        node_id: u64,
    },
    /// The answerer could not even try.
    Failed(String),
    /// See [`Ask::Agent`].
    Agent(Bytes),
    /// The answerer is starting or stopping. Nothing was done.
    NotNow,
    /// See [`Ask::Clock`]: milliseconds since 1970.
    Clock(u64),
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request was not sent: nothing was done.
    #[error("cannot reach {addr}: {reason}")]
    NotSent {
        /// The peer.
        addr: SocketAddr,
        /// What failed.
        reason: String,
    },
    /// The request was sent and no answer came: it may have been done.
    #[error("no answer from {addr}: {reason}")]
    NoAnswer {
        /// The peer.
        addr: SocketAddr,
        /// What failed.
        reason: String,
    },
}

/// Connections that do not get into each other's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Votes and heartbeats.
    Control,
    /// Log entries.
    Append,
    /// Snapshots.
    Snapshot,
    /// Requests forwarded for clients.
    Client,
    /// Reads that wait for a change: they must not take the places of those that do not. One of several.
    Watch(u8),
}

fn invalid(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// A finished frame. To a request in version 1, an answer may add as a mark which version this server speaks.
///
/// # Errors
/// When it is too large for the other side.
pub fn encode<T: Serialize>(version: u8, envelope: &Envelope<T>, mark: Option<u8>) -> io::Result<Bytes> {
    let mut frame = postcard::to_extend(envelope, frame::begin(version)).map_err(invalid)?;
    frame.extend(mark);
    frame::seal(version, frame)
}

/// What a frame says, and the mark, if it has one.
///
/// # Errors
/// When it says something else.
pub fn decode<T: DeserializeOwned>(frame: &Frame) -> io::Result<(Envelope<T>, Option<u8>)> {
    let (envelope, rest) = postcard::take_from_bytes(&frame.body).map_err(invalid)?;
    let mark = rest.first().copied().filter(|_| frame.version == frame::OLDEST);
    Ok((envelope, mark))
}

/// Who is calling: goes into every envelope.
pub trait Caller: Send + Sync {
    /// This server's Raft id.
    fn node_id(&self) -> u64;
    /// The cluster it belongs to.
    fn cluster(&self) -> Option<u64>;
    /// The newest version of the protocol that this server speaks.
    fn newest(&self) -> u8 {
        frame::NEWEST
    }
}

/// The connections to other servers. Clones share them.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<PoolInner>,
}

struct PoolInner {
    env: Env,
    caller: Arc<dyn Caller>,
    connections: Mutex<BTreeMap<(SocketAddr, Lane), Arc<Connection>>>,
}

struct Connection {
    outbox: mpsc::Sender<Bytes>,
    pending: Arc<Mutex<Pending>>,
    next: AtomicU64,
    /// Counts the frames that came in: silence is when it stands still.
    heard: Arc<AtomicU64>,
    /// The newest version that both sides are known to speak.
    version: Arc<AtomicU8>,
    _tasks: [AbortOnDrop; 2],
}

#[derive(Default)]
struct Pending {
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    closed: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool without connections.
    pub fn new(env: Env, caller: Arc<dyn Caller>) -> Pool {
        Pool { inner: Arc::new(PoolInner { env, caller, connections: Mutex::default() }) }
    }

    pub(super) fn env(&self) -> &Env {
        &self.inner.env
    }

    /// Asks the server at `addr`, and waits at most `within` for its answer. With `to`, only that server
    /// answers: one that lost its disk comes back under a new id at the old address, and must neither
    /// vote nor confirm entries in the name of the one it was.
    ///
    /// # Errors
    /// See [`CallError`]: it tells whether the request can have been done.
    pub async fn call(
        &self,
        addr: SocketAddr,
        to: Option<u64>,
        lane: Lane,
        ask: &Ask,
        within: Duration,
    ) -> Result<Answer, CallError> {
        let deadline = self.inner.env.now() + within;
        let left = || deadline.since(self.inner.env.now());
        let not_sent = |reason: String| CallError::NotSent { addr, reason };
        let no_answer = |reason: &str| CallError::NoAnswer { addr, reason: reason.to_owned() };

        let connection = match self.inner.env.timeout(left(), self.connection(addr, lane)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(not_sent(error.to_string())),
            Err(elapsed) => return Err(not_sent(elapsed.to_string())),
        };
        let (number, frame) =
            self.frame(&connection, to, ask).map_err(|error| not_sent(error.to_string()))?;

        let (sender, receiver) = oneshot::channel();
        {
            let mut pending = locked(&connection.pending);
            if pending.closed {
                return Err(not_sent("the connection has just closed".to_owned()));
            }
            pending.waiting.insert(number, sender);
        }
        // Takes the number back however this call ends, even if it is dropped.
        let _forget = Forget { connection: &connection, number };
        let heard = connection.heard.load(Ordering::Relaxed);
        match self.inner.env.timeout(left(), connection.outbox.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(not_sent("the connection has just closed".to_owned())),
            Err(elapsed) => {
                self.drop_connection(addr, lane, &connection);
                return Err(not_sent(elapsed.to_string()));
            }
        }
        let mut receiver = std::pin::pin!(receiver);
        // What had been heard when it was last looked, and whether a sign of life was asked for then.
        let (mut heard, mut asked) = (heard, false);
        loop {
            match self.inner.env.timeout(left().min(QUIET), &mut receiver).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(_)) => return Err(no_answer("the connection broke")),
                Err(_) => {}
            }
            let now = connection.heard.load(Ordering::Relaxed);
            let (silent, over) = (now == heard, left().is_zero());
            // Not a byte since we asked: the connection may be dead without saying so.
            if silent && (asked || over) {
                self.inner.env.reachable("a connection that fell silent is replaced");
                self.drop_connection(addr, lane, &connection);
            }
            if over || (silent && asked) {
                return Err(no_answer(if over { "timed out" } else { "it gives no sign of life" }));
            }
            (heard, asked) = (now, silent);
            // Mutant C12: who waits long for an answer never asks whether there is still somebody who could give one.
            if asked && mutant::is("C12") {
                asked = false;
            }
            if asked && let Ok((_, frame)) = self.frame(&connection, to, &Ask::Status) {
                // Nobody waits for this answer: that it comes is the sign. With a full outbox there is none.
                let _ = connection.outbox.try_send(frame);
            }
        }
    }

    /// A request for a connection, and its number there.
    fn frame(&self, connection: &Connection, to: Option<u64>, ask: &Ask) -> io::Result<(u64, Bytes)> {
        let number = connection.next.fetch_add(1, Ordering::Relaxed);
        let (from, cluster) = (self.inner.caller.node_id(), self.inner.caller.cluster());
        let envelope = Envelope { number, from, to, cluster, body: ask };
        Ok((number, encode(connection.version.load(Ordering::Relaxed), &envelope, None)?))
    }

    async fn connection(&self, addr: SocketAddr, lane: Lane) -> io::Result<Arc<Connection>> {
        if let Some(connection) = locked(&self.inner.connections).get(&(addr, lane))
            && !locked(&connection.pending).closed
        {
            return Ok(connection.clone());
        }
        let stream = self.inner.env.network().connect_for(Purpose::Peers, addr).await?;
        let connection = Arc::new(open(&self.inner.env, stream, self.inner.caller.newest()));
        // Two calls may have connected at once: the later one's connection is kept, the earlier one's
        // lives as long as its call.
        locked(&self.inner.connections).insert((addr, lane), connection.clone());
        Ok(connection)
    }

    fn drop_connection(&self, addr: SocketAddr, lane: Lane, dead: &Arc<Connection>) {
        // Mutant R49: a connection that has died without a word is used for ever.
        if mutant::is("R49") {
            return;
        }
        let mut connections = locked(&self.inner.connections);
        if connections.get(&(addr, lane)).is_some_and(|current| Arc::ptr_eq(current, dead)) {
            connections.remove(&(addr, lane));
        }
    }
}

struct Forget<'a> {
    connection: &'a Connection,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        locked(&self.connection.pending).waiting.remove(&self.number);
    }
}

fn open(env: &Env, stream: BoxStream, newest: u8) -> Connection {
    let (reader, writer) = tokio::io::split(stream);
    let (outbox, frames) = mpsc::channel::<Bytes>(OUTBOX);
    let pending = Arc::new(Mutex::new(Pending::default()));
    let heard = Arc::new(AtomicU64::new(0));
    let version = Arc::new(AtomicU8::new(frame::OLDEST));
    let codec = Codec { newest };

    let close = {
        let (env, pending) = (env.clone(), pending.clone());
        move || {
            let mut pending = locked(&pending);
            env.sometimes(!pending.waiting.is_empty(), "a connection breaks with requests unanswered");
            pending.closed = true;
            // Dropping the senders tells the callers.
            pending.waiting.clear();
        }
    };
    let writing = env.spawn({
        let close = close.clone();
        async move {
            write_frames(FramedWrite::new(writer, codec), frames).await;
            close();
        }
    });
    let reading = env.spawn({
        let (pending, heard, version) = (pending.clone(), heard.clone(), version.clone());
        async move {
            let mut source = FramedRead::new(reader, codec);
            while let Some(Ok(frame)) = source.next().await {
                heard.fetch_add(1, Ordering::Relaxed);
                let Ok((envelope, mark)) = decode::<Answer>(&frame) else { break };
                if let Some(mark) = mark {
                    version.fetch_max(mark.min(newest), Ordering::Relaxed);
                }
                if let Some(sender) = locked(&pending).waiting.remove(&envelope.number) {
                    let _ = sender.send(envelope.body);
                }
            }
            close();
        }
    });
    Connection {
        outbox,
        pending,
        next: AtomicU64::new(1),
        heard,
        version,
        _tasks: [writing.abort_on_drop(), reading.abort_on_drop()],
    }
}

/// Writes what comes, all that has gathered with one flush, until either side ends.
async fn write_frames(mut sink: impl Sink<Bytes> + Unpin, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        let mut fed = sink.feed(frame).await;
        while fed.is_ok()
            && let Ok(frame) = frames.try_recv()
        {
            fed = sink.feed(frame).await;
        }
        if fed.is_err() || sink.flush().await.is_err() {
            return;
        }
    }
}

/// Who answers.
pub trait Handler: Caller + 'static {
    /// Answers one request of `from`, a member of `cluster`.
    fn handle(
        self: Arc<Self>,
        from: u64,
        cluster: Option<u64>,
        ask: Ask,
    ) -> impl Future<Output = Answer> + Send;
}

/// Serves other servers until dropped.
pub async fn serve<H: Handler>(env: Env, listener: Box<dyn Listener>, handler: Arc<H>) {
    let room = Places::new(MAX_CONNECTIONS, MAX_CONNECTIONS_EACH);
    loop {
        let (stream, peer, proof) = match listener.accept_known().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // One connection's error, or the process is out of descriptors: do not spin on it.
                tracing::warn!(%error, "cannot accept a connection");
                env.sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let place = match room.take(peer.ip()) {
            Ok(place) => place,
            Err(full) => {
                tracing::debug!(%peer, %full, "a connection is closed at once");
                continue;
            }
        };
        let serving = serve_connection(env.clone(), stream, proof, handler.clone());
        env.spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%peer, %error, "connection closed");
            }
            drop(place);
        });
    }
}

/// Whether a node may ask this that has proved no more than to be one of the cluster's.
fn is_for_members(ask: &Ask) -> bool {
    matches!(ask, Ask::Status | Ask::Agent(_))
}

async fn serve_connection<H: Handler>(
    env: Env,
    stream: BoxStream,
    proof: Proof,
    handler: Arc<H>,
) -> io::Result<()> {
    let newest = handler.newest();
    let (sink, mut source) = Framed::new(stream, Codec { newest }).split();
    let (outbox, answers) = mpsc::channel::<Bytes>(OUTBOX);
    let _writing = env.spawn(write_frames(sink, answers)).abort_on_drop();
    let room = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let posed = Arc::new(AtomicBool::new(false));
    let mut first = true;
    loop {
        let frame = if std::mem::take(&mut first) {
            env.timeout(FIRST_FRAME_WITHIN, source.next())
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it said nothing"))?
        } else {
            source.next().await
        };
        let Some(frame) = frame else { break };
        let decoded = frame.and_then(|frame| Ok((frame.version, decode::<Ask>(&frame)?)));
        let damaged = decoded.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData);
        env.sometimes(damaged, "a damaged frame ends its connection");
        let (version, (Envelope { number, from, to, cluster, body }, _)) = decoded?;
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let (handler, outbox, told) = (handler.clone(), outbox.clone(), env.clone());
        let posed = posed.clone();
        env.spawn(async move {
            let (me, mine) = (handler.node_id(), handler.cluster());
            let body = match to {
                Some(to) if to != me => {
                    told.reachable("a request for the server that had this address before is turned away");
                    Answer::WrongServer { node_id: me }
                }
                _ if proof == Proof::Member && !is_for_members(&body) => {
                    // Once a connection: it may ask as often as it likes.
                    if !posed.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            from = format!("{from:016x}"),
                            "a request that only servers may make, from one without a server's certificate"
                        );
                    }
                    Answer::Failed(
                        "only a server may ask this, and the certificate is not a server's".to_owned(),
                    )
                }
                _ => handler.handle(from, cluster, body).await,
            };
            told.linger(hazard::BEFORE_ANSWER).await;
            let answer = Envelope { number, from: me, to: Some(from), cluster: mine, body };
            let mark = (version < newest).then_some(newest);
            match encode(version, &answer, mark) {
                // The connection may be gone; the asker sees that.
                Ok(frame) => drop(outbox.send(frame).await),
                Err(error) => tracing::error!(%error, "an answer could not be encoded"),
            }
            drop(permit);
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 1u8..=2) {
            let frame = Frame { version, body: bytes.into() };
            let _ = decode::<Ask>(&frame);
            let _ = decode::<Answer>(&frame);
        }
    }
}
