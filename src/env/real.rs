//! The production world: tokio, the kernel's sockets and clocks, and one directory of the file system.
//!
//! The only place in the crate where time, threads, files and randomness are real. With the feature `testbed`
//! there is also a world in which the testbed holds the strings: [`puppet`].

#![allow(clippy::disallowed_methods)]

#[cfg(feature = "testbed")]
pub mod puppet;
pub mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::observe::NoObserver;
use super::{
    BoxStream, Clock, Datagrams, Disk, Env, Executor, File, Guard, Instant, Listener, MemoryDisk, Network,
    Purpose,
};
use tls::{ApiClient, Tls, TlsListener};

/// The production world with its files in `directory`, which is created if it is absent.
///
/// # Errors
/// When the directory cannot be created, or the system gives no random seed.
pub fn env(directory: &Path) -> io::Result<Env> {
    let disk = RealDisk::open(directory)?;
    Ok(assemble(Arc::new(disk), 0).with_entropy(system_entropy()?))
}

/// The production world of an agent: its files in `directory` or in memory, its streams protected by `tls`.
///
/// # Errors
/// When the directory cannot be created, or the system gives no random seed.
pub fn agent_env(directory: Option<&Path>, tls: Arc<Tls>) -> io::Result<Env> {
    let disk: Arc<dyn Disk> = match directory {
        Some(directory) => Arc::new(RealDisk::open(directory)?),
        None => Arc::new(MemoryDisk::default()),
    };
    let network = RealNetwork { tls: Some(tls), ..RealNetwork::default() };
    Ok(assemble_with(network, disk, 0).with_entropy(system_entropy()?))
}

/// The world of a command that asks an agent by HTTPS.
///
/// # Errors
/// When the system gives no random seed.
pub fn https_env(client: ApiClient) -> io::Result<Env> {
    let network = RealNetwork { https: Some(Arc::new(client)), ..RealNetwork::default() };
    Ok(assemble_with(network, Arc::new(MemoryDisk::default()), 0).with_entropy(system_entropy()?))
}

/// The production world with its files in memory.
///
/// # Errors
/// When the system gives no random seed.
pub fn ephemeral_env() -> io::Result<Env> {
    Ok(env_in_memory(0).with_entropy(system_entropy()?))
}

/// The production world with its files in memory and a given seed: for tests.
pub fn env_in_memory(seed: u64) -> Env {
    assemble(Arc::new(MemoryDisk::default()), seed)
}

/// The production world on a disk of the caller's and with a given seed: for tests.
pub fn env_on(disk: Arc<dyn Disk>, seed: u64) -> Env {
    assemble(disk, seed)
}

fn assemble(disk: Arc<dyn Disk>, seed: u64) -> Env {
    assemble_with(RealNetwork::default(), disk, seed)
}

fn assemble_with(network: RealNetwork, disk: Arc<dyn Disk>, seed: u64) -> Env {
    Env::new(
        Arc::new(RealClock { start: std::time::Instant::now() }),
        Arc::new(network),
        disk,
        Arc::new(TokioExecutor),
        Arc::new(NoObserver),
        seed,
    )
}

fn system_entropy() -> io::Result<[u8; 32]> {
    let mut bytes = [0u8; 32];
    rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, &mut bytes)
        .map_err(|error| io::Error::other(format!("the system gives no randomness: {error}")))?;
    Ok(bytes)
}

struct RealClock {
    start: std::time::Instant,
}

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant(super::nanos(self.start.elapsed()))
    }

    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        // A deadline too far to express is one that never comes.
        match self.start.checked_add(Duration::from_nanos(deadline.0)) {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).boxed(),
            None => std::future::pending().boxed(),
        }
    }
}

#[derive(Default)]
struct RealNetwork {
    /// Where connections come from; the system's choice if absent, as always in production.
    source: Option<IpAddr>,
    /// What protects an agent's streams.
    tls: Option<Arc<Tls>>,
    /// How a command connects to the API.
    https: Option<Arc<ApiClient>>,
}

/// Connections that may wait to be accepted: what does not find a place tries again after a second. The kernel has a limit of
/// its own (`net.core.somaxconn`, usually as much), and the less of both counts.
const BACKLOG: u32 = 4096;

fn listening(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of an earlier life that linger are not in the way.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

async fn connected(source: Option<IpAddr>, addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = match source {
        None => TcpStream::connect(addr).await?,
        Some(source) => {
            let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.bind(SocketAddr::new(source, 0))?;
            socket.connect(addr).await?
        }
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Network for RealNetwork {
    fn listen(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        async move {
            let listener = listening(addr)?;
            let addr = listener.local_addr()?;
            Ok(Box::new(RealListener { listener, addr }) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<BoxStream>> {
        connected(self.source, addr).map(|stream| stream.map(|stream| Box::new(stream) as BoxStream)).boxed()
    }

    fn listen_for(
        &self,
        purpose: Purpose,
        addr: SocketAddr,
    ) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        match (&self.tls, purpose) {
            (Some(tls), Purpose::Peers | Purpose::Api) => {
                let tls = tls.clone();
                async move {
                    let listener = listening(addr)?;
                    Ok(Box::new(TlsListener::new(listener, tls, purpose)?) as Box<dyn Listener>)
                }
                .boxed()
            }
            _ => self.listen(addr),
        }
    }

    fn connect_for(&self, purpose: Purpose, addr: SocketAddr) -> BoxFuture<'static, io::Result<BoxStream>> {
        let source = self.source;
        match (purpose, &self.tls, &self.https) {
            (Purpose::Peers, Some(tls), _) => {
                let tls = tls.clone();
                async move { tls.connect(connected(source, addr).await?).await }.boxed()
            }
            (Purpose::Api, _, Some(https)) => {
                let https = https.clone();
                async move { https.connect(connected(source, addr).await?).await }.boxed()
            }
            _ => self.connect(addr),
        }
    }

    fn connect_guarded(&self, addr: SocketAddr, guard: &Guard) -> BoxFuture<'static, io::Result<BoxStream>> {
        let (source, guard) = (self.source, guard.clone());
        let tls = self.tls.clone().unwrap_or_default();
        async move { tls.connect_guarded(connected(source, addr).await?, &guard).await }.boxed()
    }

    fn protects(&self) -> bool {
        self.tls.is_some()
    }

    fn bind(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<Arc<dyn Datagrams>>> {
        async move {
            let socket = UdpSocket::bind(addr).await?;
            let addr = socket.local_addr()?;
            Ok(Arc::new(RealDatagrams { socket, addr }) as Arc<dyn Datagrams>)
        }
        .boxed()
    }
}

struct RealListener {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Listener for RealListener {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        async move {
            let (stream, peer) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxStream, peer))
        }
        .boxed()
    }
}

struct RealDatagrams {
    socket: UdpSocket,
    addr: SocketAddr,
}

/// The largest UDP payload over IPv4: a receive buffer of this size truncates nothing.
const MAX_DATAGRAM: usize = 65_507;

impl Datagrams for RealDatagrams {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn send_to<'a>(&'a self, payload: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<()>> {
        self.socket.send_to(payload, to).map(|sent| sent.map(drop)).boxed()
    }

    fn recv_from(&self) -> BoxFuture<'_, io::Result<(Vec<u8>, SocketAddr)>> {
        async move {
            loop {
                self.socket.readable().await?;
                // Allocated after the wait, so an idle socket holds no buffer.
                let mut buffer = vec![0; MAX_DATAGRAM];
                match self.socket.try_recv_from(&mut buffer) {
                    Ok((len, from)) => {
                        buffer.truncate(len);
                        buffer.shrink_to_fit();
                        return Ok((buffer, from));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        .boxed()
    }
}

/// The file that stands for the whole directory when it is locked.
const LOCK: &str = "LOCK";
/// Files hold the state, sessions and keys: they are nobody's but the agent's.
const OWNER_ONLY: u32 = 0o600;
/// Zeros written at once to take space.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

struct RealDisk {
    place: Arc<Place>,
    /// Folders in which names have changed since the last sync.
    changed: Mutex<BTreeSet<String>>,
}

/// The directory of a disk. Somebody may remove it, or what is in it, while a node works there: the node's open files stay, and
/// what it writes to them is nobody's any more.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    itself: Identity,
    /// The files that are open.
    open: Mutex<BTreeMap<Identity, Opened>>,
}

#[derive(Debug, Default)]
struct Opened {
    times: usize,
    /// The node itself took its last name from it.
    removed: bool,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    device: u64,
    inode: u64,
}

impl From<fs::Metadata> for Identity {
    fn from(file: fs::Metadata) -> Identity {
        Identity { device: file.dev(), inode: file.ino() }
    }
}

impl Place {
    fn open(&self) -> MutexGuard<'_, BTreeMap<Identity, Opened>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what takes a name from a file. That it is the node's own doing is known before: it may be synced meanwhile.
    fn taking(&self, name: &Path, take: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let loses = fs::metadata(name).ok().filter(|file| file.nlink() == 1).map(Identity::from);
        let note = |removed: bool| {
            if let Some(file) = loses
                && let Some(opened) = self.open().get_mut(&file)
            {
                opened.removed = removed;
            }
        };
        note(true);
        take().inspect_err(|_| note(false))
    }

    /// Whether a next start would find what is written to this file.
    fn has(&self, file: &fs::File) -> io::Result<()> {
        let file = file.metadata()?;
        let is_there = fs::metadata(&self.directory).is_ok_and(|now| Identity::from(now) == self.itself);
        let is_named = file.nlink() > 0;
        if is_there && (is_named || self.open().get(&file.into()).is_some_and(|opened| opened.removed)) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} or files in it were removed or replaced while the node was at work there: a restart would find \
             nothing of what it writes",
            self.directory.display()
        )))
    }
}

impl RealDisk {
    fn open(directory: &Path) -> io::Result<RealDisk> {
        // It will hold the tokens of all, among others: nobody else's to read.
        let is_new = |above: &&Path| !above.as_os_str().is_empty() && !above.exists();
        let new: Vec<&Path> = directory.ancestors().take_while(is_new).collect();
        let above = directory.parent().map_or(Ok(()), fs::create_dir_all);
        let made = above.and_then(|()| fs::DirBuilder::new().recursive(true).mode(0o700).create(directory));
        made.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot create {}: {error}", directory.display()))
        })?;
        // Whatever is durable in it would be gone with its name.
        for above in new.iter().filter_map(|new| new.parent()) {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            fs::File::open(above)?.sync_all()?;
        }
        let itself = fs::metadata(directory)?.into();
        let place = Place { directory: directory.to_owned(), itself, open: Mutex::default() };
        Ok(RealDisk { place: Arc::new(place), changed: Mutex::default() })
    }

    /// The folder of a name, if it is in one; its names are about to change.
    fn changes(&self, name: &str) -> Option<PathBuf> {
        let (folder, _) = name.split_once('/')?;
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        Some(self.path(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.directory.join(name)
    }
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.path(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, "another process holds the lock"))
            }
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        if let Some(folder) = self.changes(name) {
            fs::create_dir_all(folder)?;
        }
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(OWNER_ONLY)
            .open(self.path(name))?;
        let itself = file.metadata()?.into();
        self.place.open().entry(itself).or_default().times += 1;
        Ok(Box::new(RealFile { file, itself, place: self.place.clone() }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.path(name).try_exists()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.place.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn list_in(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(format!("{folder}/{name}"));
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.changes(from);
        if let Some(folder) = self.changes(to) {
            fs::create_dir_all(folder)?;
        }
        let (from, to) = (self.path(from), self.path(to));
        self.place.taking(&to, || fs::rename(from, &to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.changes(name);
        let name = self.path(name);
        self.place.taking(&name, || fs::remove_file(&name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        // Held to the end: whoever comes meanwhile must not take for durable what is still being made so. And what could not
        // be made so stays to be.
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(folder) = changed.first().cloned() {
            fs::File::open(self.path(&folder))?.sync_all()?;
            changed.remove(&folder);
        }
        fs::File::open(&self.place.directory)?.sync_all()
    }

    fn describe(&self) -> String {
        self.place.directory.display().to_string()
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    itself: Identity,
    place: Arc<Place>,
}

impl Drop for RealFile {
    fn drop(&mut self) {
        let mut open = self.place.open();
        if let Some(opened) = open.get_mut(&self.itself) {
            opened.times -= 1;
            if opened.times == 0 {
                open.remove(&self.itself);
            }
        }
    }
}

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        // Written, not only reserved: a first write to reserved space is a change of the file's map,
        // which every sync would have to write as well.
        let mut at = self.len()?;
        while at < len {
            let piece = usize::try_from(len - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.file.write_all_at(&ZEROS[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.place.has(&self.file)
    }
}

struct TokioExecutor;

impl Executor for TokioExecutor {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        // A panic in the job has dropped its channel: whoever waits for the result learns of it there.
        tokio::task::spawn_blocking(job).map(drop).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_connections_is_taken_in_before_the_first_is_accepted() {
        const BURST: u32 = 512;
        let limit = fs::read_to_string("/proc/sys/net/core/somaxconn");
        let limit = limit.ok().and_then(|limit| limit.trim().parse().ok()).unwrap_or(BURST);
        let network = RealNetwork::default();
        let listener = network.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let burst = (0..BURST.min(limit)).map(|_| network.connect(listener.local_addr()));
        let burst = futures_util::future::try_join_all(burst);
        // Who finds no place is let in by the kernel only when there is one.
        let burst = tokio::time::timeout(Duration::from_secs(10), burst).await;
        assert_eq!(burst.unwrap().unwrap().len(), BURST.min(limit) as usize);
        let six = network.listen("[::1]:0".parse().unwrap()).await.unwrap();
        assert!(network.connect(six.local_addr()).await.is_ok());
    }
}
