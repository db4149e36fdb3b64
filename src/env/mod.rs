//! The seams between a node and the world: clock, network, disk, randomness and tasks.
//!
//! A node never asks the operating system for anything; it asks its [`Env`]. Production hands it
//! [`real`] (tokio, the kernel, the file system); the testbed hands it simulated ones and may then
//! bend every answer. Nothing else in the crate knows which of the two it has.
//!
//! Two rules make this work:
//! * each trait's doc is a promise: whether a call may block, who owns the buffer, what survives a crash;
//! * an `Env` travels with its tasks. [`Env::spawn`] runs the task inside a task-local scope, so code
//!   that can take no argument (openraft's runtime trait has only static methods) still finds the
//!   clock of its own node through [`Env::current`].
//!
//! What is deliberately absent: file paths (a node has one directory, named by whoever built the
//! `Env`, with folders one deep), DNS, threads, and any way to read a clock that is not this node's.

pub mod assertion;
pub mod hazard;
mod memory;
pub mod observe;
pub mod places;
pub mod real;
pub mod strangers;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, BoxFuture, Either, select};
use rand::{Rng as _, SeedableRng};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

pub use memory::MemoryDisk;
pub use observe::{Observed, Observer};

/// The random generator that every component owns one of; see [`Env::rng`].
pub type Rng = rand::rngs::StdRng;

/// A point on a node's own monotonic clock, in nanoseconds since an arbitrary start.
///
/// Instants of different nodes, or of two lives of one node, have nothing to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Time since `earlier`, or zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(rhs)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(rhs)))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, rhs: Duration) {
        *self = *self - rhs;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, rhs: Instant) -> Duration {
        self.since(rhs)
    }
}

/// A node's clocks.
pub trait Clock: Send + Sync {
    /// The monotonic clock: never goes back within one life of the node. Does not block.
    fn now(&self) -> Instant;

    /// The wall clock as time since 1970-01-01 UTC. May jump either way at any moment, so it is for
    /// people to read: no decision of the node may rest on it, but for how long what a check was told still counts after a
    /// restart. Does not block.
    fn wall(&self) -> Duration;

    /// Completes when [`Clock::now`] has reached `deadline`; at once when it already has.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
}

/// What a byte stream must be: readable, writable, movable between tasks.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connected byte stream. Bytes arrive in order and at most once, or the stream breaks; a write
/// that returned may still be lost. Dropping it closes it.
pub type BoxStream = Box<dyn Stream>;

/// What a stream is for. A network may protect each in its own way; the testbed's protects none, see [`real::tls`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Exchanges of gossip, which has an encryption of its own.
    Gossip,
    /// Calls between agents.
    Peers,
    /// The HTTP API, where it is protected.
    Api,
}

/// What the other side of a stream has proved of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// That it may act as a server; or nothing was to be proved.
    Server,
    /// That it is one of the cluster's, and no more.
    Member,
}

/// A node's network.
pub trait Network: Send + Sync {
    /// Listens for streams. `addr` with port 0 picks a free port.
    ///
    /// # Errors
    /// `AddrInUse` when the port is taken.
    fn listen(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;

    /// Connects a stream. May hang for as long as the peer's silence lasts: callers bound it with
    /// [`Env::timeout`].
    fn connect(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<BoxStream>>;

    /// Listens for streams of a purpose, as [`Network::listen`] does, protected as this network protects those.
    ///
    /// # Errors
    /// As for [`Network::listen`].
    fn listen_for(
        &self,
        _purpose: Purpose,
        addr: SocketAddr,
    ) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        self.listen(addr)
    }

    /// Connects a stream of a purpose, as [`Network::connect`] does, protected as this network protects those.
    fn connect_for(&self, _purpose: Purpose, addr: SocketAddr) -> BoxFuture<'static, io::Result<BoxStream>> {
        self.connect(addr)
    }

    /// Connects a stream that TLS protects, to somebody who is none of the cluster's.
    ///
    /// # Errors
    /// `Unsupported` where there is no TLS; otherwise why there is no stream, in words.
    fn connect_guarded(
        &self,
        _addr: SocketAddr,
        _guard: &Guard,
    ) -> BoxFuture<'static, io::Result<BoxStream>> {
        let reason = "there is no TLS here";
        Box::pin(async move { Err(io::Error::new(io::ErrorKind::Unsupported, reason)) })
    }

    /// Whether it can protect streams at all. A node that is configured to demand TLS must not start when it cannot.
    fn protects(&self) -> bool {
        false
    }

    /// Binds a datagram socket. `addr` with port 0 picks a free port.
    ///
    /// # Errors
    /// `AddrInUse` when the port is taken.
    fn bind(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<Arc<dyn Datagrams>>>;
}

/// What the certificate of somebody who is none of the cluster's must prove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The name that it must have, a host's or an address.
    pub name: String,
    /// Whether any certificate will do.
    pub unverified: bool,
    /// Whether HTTP/2 will be spoken, as TLS is told in its handshake (ALPN, RFC 7301).
    pub h2: bool,
}

/// A listening socket. Dropping it frees the port.
pub trait Listener: Send + Sync {
    /// The address it is bound to, with the real port.
    fn local_addr(&self) -> SocketAddr;
    /// The next incoming stream and its peer. Cancel safe. An error concerns one incoming
    /// connection, not the listener: keep accepting.
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>>;

    /// The same, with what the peer has proved. Cancel safe.
    fn accept_known(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr, Proof)>> {
        Box::pin(async { self.accept().await.map(|(stream, peer)| (stream, peer, Proof::Server)) })
    }
}

/// A datagram socket: datagrams may be lost, repeated and reordered, never joined or split.
pub trait Datagrams: Send + Sync {
    /// The address it is bound to, with the real port.
    fn local_addr(&self) -> SocketAddr;
    /// Sends one datagram. `Ok` says it left, not that it arrives.
    fn send_to<'a>(&'a self, payload: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<()>>;
    /// The next datagram and its sender. Cancel safe. An error concerns one datagram: keep receiving.
    fn recv_from(&self) -> BoxFuture<'_, io::Result<(Vec<u8>, SocketAddr)>>;
}

/// A node's directory. All calls block: make them inside [`Env::blocking`].
///
/// A name may have one slash: what is before it is a folder, which is there as soon as it has a file.
///
/// What survives a power loss: the bytes of a file that a [`File::sync`] covered, and the names that
/// a [`Disk::sync_dir`] covered. Everything else may be there, gone, or half there: of the bytes that
/// were written since, any subset of the 512-byte sectors (each of them whole); of the creations, renames
/// and removals, any subset. When only the process dies, everything it did is still there.
///
/// `StorageFull` from any call means that there is no space left and that what was there is unharmed: it can be tried again.
/// Any other error may be the first sign of a dying disk.
pub trait Disk: Send + Sync {
    /// Takes the directory for this process until the guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when another process (or another life of this node) holds it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;

    /// Opens `name` for reading and writing, creating it empty if it is absent.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Whether a file of this name exists.
    fn exists(&self, name: &str) -> io::Result<bool>;

    /// The names of all files that are in no folder, in ascending order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The names of the files in a folder, with the folder before them, in ascending order; none if there is no
    /// such folder.
    fn list_in(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Gives a file another name; a file that had it is gone. Nobody ever finds neither of the two under
    /// that name, not even after a power loss.
    ///
    /// # Errors
    /// `NotFound` when there is no `from`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Whoever has it open keeps it.
    ///
    /// # Errors
    /// `NotFound` when it is absent.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// How errors name the directory.
    fn describe(&self) -> String;
}

/// Puts a file in the place of the one that is there, durably, so that there is always one of them, whole.
///
/// # Errors
/// The disk's. One of the two is there all the same.
pub fn replace(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let making = format!("{name}.tmp");
    let file = disk.open(&making)?;
    file.set_len(0)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.rename(&making, name)?;
    disk.sync_dir()
}

/// An open file. All calls block.
pub trait File: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills the whole of `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before that.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes the whole of `data` at `offset`, growing the file if need be. Not durable before a sync.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Cuts or extends (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Extends with zeros to `len` bytes whose space is taken: writing over them needs no more of it, and
    /// a sync of that has only bytes to write. Not durable before a sync.
    ///
    /// # Errors
    /// `StorageFull` when there is not so much space; the file may have become longer.
    fn preallocate(&self, len: u64) -> io::Result<()>;
    /// Makes all that was written durable.
    ///
    /// An error is final: the kernel may have dropped the pages it could not write, so a later sync
    /// that succeeds proves nothing. The node must stop. So must it when its files were taken away by somebody else, which is
    /// an error too: what it says is durable would be gone.
    fn sync(&self) -> io::Result<()>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Where tasks run.
pub trait Executor: Send + Sync {
    /// Runs `task` to its end or until the node dies. Does not block.
    fn spawn(&self, task: BoxFuture<'static, ()>);
    /// Runs `job`, which may block, away from the tasks. The future completes after the job has; the
    /// job runs even if the future is dropped.
    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// One node's world. Cheap to clone; all clones are the same world.
#[derive(Clone)]
pub struct Env {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    network: Arc<dyn Network>,
    disk: Arc<dyn Disk>,
    executor: Arc<dyn Executor>,
    observer: Arc<dyn Observer>,
    seed: u64,
    entropy: Option<[u8; 32]>,
    ambient: Mutex<Rng>,
}

tokio::task_local! {
    static CURRENT: Env;
}

impl Env {
    /// Puts a world together. `seed` is the root of all randomness of this node's life.
    pub fn new(
        clock: Arc<dyn Clock>,
        network: Arc<dyn Network>,
        disk: Arc<dyn Disk>,
        executor: Arc<dyn Executor>,
        observer: Arc<dyn Observer>,
        seed: u64,
    ) -> Env {
        let ambient = Mutex::new(stream_rng(seed, None, "ambient"));
        let entropy = None;
        Env { inner: Arc::new(Inner { clock, network, disk, executor, observer, seed, entropy, ambient }) }
    }

    /// The same world, with more randomness than fits into a seed. Secrets are drawn from [`Env::rng`] too, and 64 bits
    /// can be tried out, by whoever has time and something that was drawn beside the secret to compare with.
    pub fn with_entropy(self, entropy: [u8; 32]) -> Env {
        let Inner { clock, network, disk, executor, observer, seed, .. } = &*self.inner;
        let ambient = Mutex::new(stream_rng(*seed, Some(&entropy), "ambient"));
        Env {
            inner: Arc::new(Inner {
                clock: clock.clone(),
                network: network.clone(),
                disk: disk.clone(),
                executor: executor.clone(),
                observer: observer.clone(),
                seed: *seed,
                entropy: Some(entropy),
                ambient,
            }),
        }
    }

    /// The `Env` of the running task, if it was started by [`Env::spawn`] or [`Env::scope`].
    pub fn current() -> Option<Env> {
        CURRENT.try_with(Env::clone).ok()
    }

    /// Runs `future` with this as its [`Env::current`].
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.clone(), future)
    }

    /// The monotonic clock. See [`Clock::now`].
    pub fn now(&self) -> Instant {
        self.inner.clock.now()
    }

    /// The wall clock, for people to read. See [`Clock::wall`].
    pub fn wall(&self) -> Duration {
        self.inner.clock.wall()
    }

    /// Sleeps by this node's own clock.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + duration)
    }

    /// Sleeps until this node's own clock shows `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.inner.clock.sleep_until(deadline)
    }

    /// Waits for `future`, at most for `duration`.
    ///
    /// # Errors
    /// [`Elapsed`] when the time was over first; the future is dropped.
    pub async fn timeout<F: Future>(&self, duration: Duration, future: F) -> Result<F::Output, Elapsed> {
        let deadline = self.now() + duration;
        match select(pin!(future), self.sleep_until(deadline)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(_) => Err(Elapsed),
        }
    }

    /// Ticks of this node's own clock, `period` apart, the first after one period. A tick that nobody was
    /// there for is not made up for: the next one comes a whole period after the late one.
    pub fn interval(&self, period: Duration) -> Interval {
        Interval { env: self.clone(), period, next: self.now() + period }
    }

    /// The network. See [`Network`].
    pub fn network(&self) -> &dyn Network {
        &*self.inner.network
    }

    /// The node's directory. See [`Disk`].
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.inner.disk.clone()
    }

    /// A stream of random numbers of one's own.
    ///
    /// Each component asks for its stream by name, so that one that draws more does not move the
    /// others. The same name gives the same stream again.
    pub fn rng(&self, stream: &str) -> Rng {
        stream_rng(self.inner.seed, self.inner.entropy.as_ref(), stream)
    }

    /// The next number of the one stream that belongs to nobody: for code that can own no generator
    /// (openraft asks for "the" generator of the thread).
    pub fn ambient_random(&self) -> u64 {
        self.inner.ambient.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// Starts a task. Dropping the handle leaves the task running.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let (abort, registration) = AbortHandle::new_pair();
        // Into its box at once: a future is as large as all that it may ever wait for, and every layer around it that holds
        // it by value copies it.
        let future = Box::pin(future);
        let task = Abortable::new(CURRENT.scope(self.clone(), future), registration);
        self.inner.executor.spawn(Box::pin(async move {
            if let Ok(output) = task.await {
                // Nobody may be waiting any more.
                let _ = sender.send(output);
            }
        }));
        JoinHandle { receiver, abort }
    }

    /// Runs a blocking job away from the tasks and waits for what it returns.
    ///
    /// # Errors
    /// [`JoinError`] when the job panicked or the node is going down.
    pub async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let (sender, receiver) = oneshot::channel();
        self.inner
            .executor
            .blocking(Box::new(move || {
                let _ = sender.send(job());
            }))
            .await;
        receiver.await.map_err(|_| JoinError { cancelled: false })
    }

    /// Tells the world's observer what this node just did. Free in production.
    pub fn observe(&self, event: Observed) {
        self.inner.observer.observe(event);
    }

    /// The same for what takes work to compute: not even computed when nobody looks.
    pub fn observe_with(&self, event: impl FnOnce() -> Observed) {
        if self.is_observed() {
            self.observe(event());
        }
    }

    /// Passes one of the [`hazard::POINTS`]: the testbed may have the node wait here. No code in production.
    pub async fn linger(&self, point: &'static str) {
        #[cfg(feature = "hazards")]
        if let Some(pause) = self.inner.observer.passes(point) {
            self.sleep(pause).await;
        }
        #[cfg(not(feature = "hazards"))]
        let _ = point;
    }

    /// Whether anybody looks.
    pub fn is_observed(&self) -> bool {
        self.inner.observer.watches()
    }
}

fn stream_rng(seed: u64, entropy: Option<&[u8; 32]>, stream: &str) -> Rng {
    if let Some(entropy) = entropy {
        return Rng::from_seed(Sha256::new().chain_update(entropy).chain_update(stream).finalize().into());
    }
    let mut bytes = [0u8; 32];
    for (i, chunk) in bytes.chunks_mut(8).enumerate() {
        let salted = seed.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let word = xxhash_rust::xxh3::xxh3_64_with_seed(stream.as_bytes(), salted);
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    Rng::from_seed(bytes)
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}

/// See [`Env::interval`].
#[derive(Debug)]
pub struct Interval {
    env: Env,
    period: Duration,
    next: Instant,
}

impl Interval {
    /// Waits for the next tick. Cancel safe: a tick that was not waited for to its end is still to come.
    pub async fn tick(&mut self) {
        self.env.sleep_until(self.next).await;
        let (due, now) = (self.next + self.period, self.env.now());
        self.next = if due > now { due } else { now + self.period };
    }
}

/// The time of [`Env::timeout`] was over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// Why a task has no output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinError {
    cancelled: bool,
}

impl JoinError {
    /// Whether the task panicked, as opposed to having been aborted.
    pub fn is_panic(&self) -> bool {
        !self.cancelled
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.cancelled { "task aborted" } else { "task panicked or its node went down" })
    }
}

impl std::error::Error for JoinError {}

/// A task started by [`Env::spawn`]; awaiting it gives the task's output.
#[derive(Debug)]
pub struct JoinHandle<T> {
    receiver: oneshot::Receiver<T>,
    abort: AbortHandle,
}

impl<T> JoinHandle<T> {
    /// Ends the task at its next await. Its output is lost.
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// A guard that aborts the task when dropped.
    pub fn abort_on_drop(self) -> AbortOnDrop {
        AbortOnDrop(self.abort)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(cx)
            .map(|output| output.map_err(|_| JoinError { cancelled: self.abort.is_aborted() }))
    }
}

/// Aborts its task when dropped: a task that belongs to whoever holds this.
#[derive(Debug)]
pub struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn streams_are_repeatable_and_apart() {
        let env = real::env_in_memory(7);
        let draw = |name: &str| env.rng(name).random::<u64>();
        assert_eq!(draw("election"), draw("election"));
        assert_ne!(draw("election"), draw("gossip"));
    }

    #[tokio::test]
    async fn a_task_finds_its_own_env_and_so_do_its_children() {
        let env = real::env_in_memory(7);
        assert!(Env::current().is_none());
        let seen =
            env.spawn(async { Env::current().unwrap().spawn(async { Env::current() }).await.unwrap() });
        assert!(seen.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn an_aborted_task_says_so() {
        let env = real::env_in_memory(7);
        let task = env.spawn(std::future::pending::<()>());
        task.abort();
        let error = task.await.unwrap_err();
        assert!(!error.is_panic());
    }

    #[tokio::test]
    async fn ticks_come_a_period_apart() {
        let env = real::env_in_memory(7);
        let begun = env.now();
        let mut interval = env.interval(Duration::from_millis(2));
        for _ in 0..3 {
            interval.tick().await;
        }
        assert!(env.now().since(begun) >= Duration::from_millis(6));
    }

    #[tokio::test]
    async fn timeout_drops_what_is_late() {
        let env = real::env_in_memory(7);
        assert_eq!(env.timeout(Duration::from_millis(1), std::future::pending::<()>()).await, Err(Elapsed));
        assert_eq!(env.timeout(Duration::from_secs(60), async { 5 }).await, Ok(5));
    }
}
