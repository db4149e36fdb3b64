//! The server's durable memory, behind the Disk seam: identity, vote, log, snapshots.
//!
//! ```text
//!   meta                 identity, vote, cluster: one block in three copies        meta
//!   log-0000000000000001 entries, in segments of zeros that batches overwrite      wal, block
//!   snapshot-INDEX-TERM  the newest snapshot                                       snapshot
//!   damaged-N.*          what was moved out of the way                             aside
//! ```
//!
//! The log has one writer task with a queue. It takes all that has gathered, writes it as one batch, syncs
//! once, and only then tells each of the askers: group commit. Nothing is acknowledged before it is
//! durable, and writes take effect in the order asked. The vote has a file of its own, but is not acknowledged before
//! all of the log that was asked for earlier: openraft takes an earlier write for done when a later one is. Snapshots
//! have files of their own and wait for nobody.
//!
//! What must be readable before it is durable (openraft reads entries back as soon as it appended
//! them) is kept in memory; entries leave memory only after they are on disk.
//!
//! What a disk can do, and what becomes of it:
//! * An **error** is final for this life of the node: a failed sync may have thrown away what it could not
//!   write, so nothing written later could be trusted. The store then refuses everything and
//!   [`Store::failure`] says why; the agent stops.
//! * A **full disk** is not an error of the log, nor of a snapshot (identity and vote are written over what is there, and need
//!   no space). The log waits, [`Store::is_full`] says so, and the leader refuses new
//!   writes. When space is freed all goes on.
//! * A **torn** end of the log was never acknowledged and is dropped on opening.
//! * **Damage** anywhere else is never read as data and never cut off. On opening it is an error, or, if so
//!   configured ([`OnDamage`]), the files are moved out of the way and the server begins anew, under a
//!   new id, with what its peers send it.

mod aside;
mod block;
mod meta;
mod snapshot;
#[cfg(test)]
mod tests;
mod wal;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::entry::RaftPayload;
use openraft::storage::IOFlushed;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use xxhash_rust::xxh3::xxh3_64;

use super::{Entry, LogId, SnapshotMeta, TypeConfig, Vote};
use crate::config::OnDamage;
use crate::env::{AbortOnDrop, Disk, Env, File, JoinHandle, Observed, hazard};
use crate::mutant;
use meta::{Facts, MetaFile};
use wal::{Places, Prepared, Record, Wal};

/// The file of versions that kept everything in one redb database.
const OLD_FILE: &str = "driftline.redb";

/// Writes waiting for the writer. When it is full, openraft waits: that is the disk's backpressure.
const QUEUE: usize = 4096;
/// Writes put into one batch.
const MAX_BATCH: usize = 1024;
/// After so many bytes of entries it is told that the log has grown.
const GROWN: u64 = 256 << 10;
/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(250);

/// How to keep a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Bytes of entries that stay in memory when they are durable: followers that keep up, and what is to be applied,
    /// are served without the disk.
    pub cache_bytes: usize,
    /// What to do with data that is damaged.
    pub on_damage: OnDamage,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { segment_bytes: 8 << 20, cache_bytes: 16 << 20, on_damage: OnDamage::Stop }
    }
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("{directory} is in use by another process: {source}")]
    InUse {
        /// The directory.
        directory: String,
        /// The system's word.
        source: io::Error,
    },
    /// The directory cannot be read or written.
    #[error("cannot use {directory}: {source}")]
    Io {
        /// The directory.
        directory: String,
        /// The system's word.
        source: io::Error,
    },
    /// The files are not what this program wrote.
    #[error(
        "the data in {directory} is damaged ({reason}); it was left as it is. If other servers of the cluster have \
         the data, move it away or set raft.on_damage to \"rejoin\": this server then comes back empty under a new id and \
         gets everything from them. An older copy of it must not be put back; a cluster that has nothing else is founded \
         anew and filled by `driftline snapshot restore`"
    )]
    Damaged {
        /// The directory.
        directory: String,
        /// What does not fit.
        reason: String,
    },
    /// A client agent was to start on a server's directory.
    #[error("{directory} holds a server's data: start this node with --server, or give it another directory")]
    Server {
        /// The directory.
        directory: String,
    },
    /// Damage again and again.
    #[error(
        "the data in {directory} is damaged ({reason}), and {sets} sets of damaged files are there already: \
         replace the disk, or remove them to let this server rejoin again"
    )]
    DamagedTooOften {
        /// The directory.
        directory: String,
        /// What does not fit.
        reason: String,
        /// How many sets of files were moved out of the way before.
        sets: usize,
    },
    /// An earlier version's data.
    #[error(
        "{directory} holds {OLD_FILE}, which an earlier version wrote and this one cannot read; it was left as \
         it is. Start this server with an empty directory: it gets everything from the other servers"
    )]
    OldFormat {
        /// The directory.
        directory: String,
    },
}

/// Who this server is. Made at the first start, kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The server's Raft id, drawn at random. An emptied directory makes a new one: a server that
    /// forgot its vote must not pass for the one that cast it.
    pub node_id: u64,
    /// Counts the starts; larger each time.
    pub generation: u64,
    /// Whether it took the place of one whose data was damaged: it must not found a cluster then.
    pub replaces: bool,
}

/// A promise to found one certain cluster and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The id of the cluster to be.
    pub cluster: u64,
}

enum Op {
    Append { records: Vec<Vec<u8>>, last: u64, flushed: IOFlushed<TypeConfig> },
    Cut { kept: Option<LogId>, done: Done },
    Purge { log_id: LogId },
    Committed { log_id: Option<LogId> },
    Flush { done: Done },
}

type Done = oneshot::Sender<io::Result<()>>;

impl Op {
    /// Whether somebody waits for it to be durable. The others ride along with the next that is.
    fn urgent(&self) -> bool {
        !matches!(self, Op::Purge { .. } | Op::Committed { .. })
    }
}

/// The durable memory of one server. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    env: Env,
    identity: Identity,
    memory: Mutex<Memory>,
    /// Held by the job that writes it.
    meta: Arc<Mutex<(MetaFile, Facts)>>,
    places: Arc<Mutex<Places>>,
    /// The snapshot read on opening, for whoever asks first; held by the job that writes another.
    snapshots: Arc<Mutex<Option<(SnapshotMeta, Bytes)>>>,
    ops: mpsc::Sender<Op>,
    failure: watch::Sender<Option<String>>,
    full: watch::Sender<bool>,
    /// How many times [`GROWN`] was written.
    grown: watch::Sender<u64>,
    /// The cluster that it belongs to.
    cluster: watch::Sender<Option<u64>>,
    /// Whose turn it is to make it a member of one.
    adopting: tokio::sync::Mutex<()>,
    _writer: AbortOnDrop,
    lock: Lock,
}

/// The directory is this store's. Every job that writes holds it too: a job runs to its end even when the
/// store is gone.
type Lock = Arc<Box<dyn Send + Sync>>;

/// What is readable now, durable or not.
struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The newest entries, without a hole up to the last.
    recent: BTreeMap<u64, Entry>,
    recent_bytes: usize,
    /// Entries up to here are on disk as they are here, and may leave memory.
    durable: u64,
    /// The last entries that truncations keep which are asked for and not yet on disk. What is written meanwhile is of before
    /// them, and says nothing of what has taken its place.
    cuts: VecDeque<u64>,
    cache_bytes: usize,
    promise: Option<Promise>,
    snapshot: Option<SnapshotMeta>,
    /// How long its data is.
    snapshot_bytes: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn damaged(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{reason}"))
}

/// Term and index.
fn log_id_parts(log_id: LogId) -> (u64, u64) {
    (log_id.committed_leader_id().term, log_id.index())
}

/// Syncs a file. Whatever goes wrong is final, even for lack of space: what was to be written may be gone.
fn sync(file: &dyn File) -> io::Result<()> {
    let result = file.sync();
    // Mutant S04: a failed sync is tried again and the second success believed.
    if mutant::is("S04") && result.is_err() {
        return file.sync();
    }
    result.map_err(|error| io::Error::other(format!("a sync failed: {error}")))
}

/// Makes names durable.
fn sync_dir(disk: &dyn Disk) -> io::Result<()> {
    // Mutant S03: nobody does.
    if mutant::is("S03") {
        return Ok(());
    }
    disk.sync_dir().map_err(|error| io::Error::other(format!("a sync of the directory failed: {error}")))
}

/// Changes what is remembered about this server, durably, unless it is so already.
fn remember((file, facts): &mut (MetaFile, Facts), change: impl FnOnce(&mut Facts)) -> io::Result<()> {
    let before = facts.clone();
    change(facts);
    // Whoever asks for what another has asked for, and could not be saved, must not be told that it is so.
    if *facts == before && file.is_sound() { Ok(()) } else { file.save(facts) }
}

/// A digest of what an entry says.
pub(super) fn entry_digest(entry: &Entry) -> u64 {
    let bytes = postcard::to_extend(&entry.payload, Vec::with_capacity(wal::USUAL_RECORD));
    bytes.map(|bytes| xxh3_64(&bytes)).unwrap_or_default()
}

/// A rough size in memory.
fn weight(entry: &Entry) -> usize {
    let content = match &entry.payload {
        openraft::EntryPayload::Normal(request) => request.command.size(),
        _ => 0,
    };
    content + 128
}

/// What the files say.
struct Loaded {
    meta: MetaFile,
    facts: Facts,
    wal: Wal,
    snapshot: Option<(SnapshotMeta, Bytes)>,
}

/// Reads the directory, after giving the server its identity and counting the start.
fn load(disk: &Arc<dyn Disk>, options: StoreOptions, candidate_id: u64) -> io::Result<Loaded> {
    let meta = MetaFile::open(&**disk)?;
    let snapshot = snapshot::load(&**disk)?;
    let wal = Wal::open(disk.clone(), options.segment_bytes)?;
    let Some((mut meta, mut facts)) = meta else {
        // A founding that was interrupted has got no further than an empty log.
        if snapshot.is_some() || wal.as_ref().is_some_and(|wal| wal.bounds() != wal::Bounds::default()) {
            return Err(damaged("there is a log or a snapshot, but no identity"));
        }
        let wal = wal.map_or_else(|| Wal::found(disk.clone(), options.segment_bytes), Ok)?;
        let replaces = aside::sets(&**disk)? > 0;
        let facts = Facts { node_id: candidate_id, generation: 1, replaces, ..Facts::default() };
        let meta = MetaFile::found(&**disk, &facts)?;
        return Ok(Loaded { meta, facts, wal, snapshot });
    };
    let wal = wal.ok_or_else(|| damaged("there is an identity, but no log"))?;
    let covered = snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
    if let Some(purged) = wal.bounds().purged.filter(|purged| Some(*purged) > covered) {
        return Err(damaged(format!(
            "the log begins after {purged}, and no snapshot covers what was before"
        )));
    }
    // Mutant S12: who it is, a server knows only from its first snapshot on.
    if mutant::is("S12") && snapshot.is_none() {
        facts.node_id = candidate_id;
    }
    facts.generation += 1;
    meta.save(&facts)?;
    Ok(Loaded { meta, facts, wal, snapshot })
}

/// The same; what is damaged is moved out of the way first, if that is wanted.
fn load_or_begin_anew(
    env: &Env,
    disk: &Arc<dyn Disk>,
    options: StoreOptions,
    candidate_id: u64,
) -> Result<Loaded, OpenError> {
    let directory = disk.describe();
    let io_error = |source| OpenError::Io { directory: directory.clone(), source };
    if disk.exists(OLD_FILE).map_err(io_error)? {
        return Err(OpenError::OldFormat { directory });
    }
    let reason = match load(disk, options, candidate_id) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => error.to_string(),
        loaded => return loaded.map_err(io_error),
    };
    env.observe(Observed::Damaged { reason: reason.clone() });
    if options.on_damage == OnDamage::Stop {
        return Err(OpenError::Damaged { directory, reason });
    }
    let sets = aside::sets(&**disk).map_err(io_error)?;
    if sets >= aside::MOST {
        return Err(OpenError::DamagedTooOften { directory, reason, sets });
    }
    let moved = aside::move_away(&**disk).map_err(io_error)?;
    tracing::error!(reason, moved, "the data is damaged: moved out of the way; this server begins anew");
    load(disk, options, candidate_id).map_err(io_error)
}

impl Store {
    /// Opens the store in the node's directory, founding it if there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(env: &Env, options: StoreOptions) -> Result<Store, OpenError> {
        let disk = env.disk();
        let directory = disk.describe();
        let io_error = |source| OpenError::Io { directory: directory.clone(), source };
        let locking = disk.clone();
        let lock = env.blocking(move || locking.lock()).await.map_err(|e| io_error(io::Error::other(e)))?;
        let lock = lock.map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { directory: directory.clone(), source },
            _ => io_error(source),
        })?;
        let lock: Lock = Arc::new(lock);

        let candidate_id: u64 = env.rng("identity").random();
        let (job_env, job_disk) = (env.clone(), disk.clone());
        let loaded = env
            .blocking(move || load_or_begin_anew(&job_env, &job_disk, options, candidate_id))
            .await
            .map_err(|error| io_error(io::Error::other(error)))??;

        let Loaded { meta, facts, wal, snapshot } = loaded;
        let bounds = wal.bounds();
        let memory = Memory {
            vote: facts.vote,
            committed: bounds.committed,
            purged: bounds.purged,
            last: bounds.last,
            recent: BTreeMap::new(),
            recent_bytes: 0,
            durable: bounds.last.map_or(0, |last| last.index()),
            cuts: VecDeque::new(),
            cache_bytes: options.cache_bytes,
            promise: facts.promise,
            snapshot: snapshot.as_ref().map(|(meta, _)| meta.clone()),
            snapshot_bytes: snapshot.as_ref().map_or(0, |(_, data)| data.len()),
        };
        let identity =
            Identity { node_id: facts.node_id, generation: facts.generation, replaces: facts.replaces };
        let (places, cluster) = (wal.places(), facts.cluster);
        let (ops, queue) = mpsc::channel(QUEUE);
        let store = Store {
            shared: Arc::new_cyclic(|shared| {
                let writer = Writer {
                    env: env.clone(),
                    disk,
                    shared: shared.clone(),
                    wal: Some(wal),
                    preparing: None,
                };
                Shared {
                    env: env.clone(),
                    identity,
                    memory: Mutex::new(memory),
                    meta: Arc::new(Mutex::new((meta, facts))),
                    places,
                    snapshots: Arc::new(Mutex::new(snapshot)),
                    ops,
                    failure: watch::Sender::new(None),
                    full: watch::Sender::new(false),
                    grown: watch::Sender::new(0),
                    cluster: watch::Sender::new(cluster),
                    adopting: tokio::sync::Mutex::new(()),
                    _writer: env.spawn(writer.run(queue)).abort_on_drop(),
                    lock,
                }
            }),
        };
        Ok(store)
    }

    /// Whether this directory holds a server's store, of this version or an earlier one. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn is_in(disk: &dyn Disk) -> io::Result<bool> {
        Ok(disk.exists(meta::NAME)? || disk.exists(OLD_FILE)? || !wal::numbers(disk)?.is_empty())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        locked(&self.shared.memory)
    }

    /// Who this server is.
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Becomes `Some` with the reason when the disk has failed for good.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failure.subscribe()
    }

    /// Whether the log waits for space on the disk.
    pub fn is_full(&self) -> bool {
        *self.shared.full.borrow()
    }

    /// The same, to wait for.
    pub fn full(&self) -> watch::Receiver<bool> {
        self.shared.full.subscribe()
    }

    /// The cluster this server belongs to, if it belongs to one.
    pub fn cluster(&self) -> Option<u64> {
        *self.shared.cluster.borrow()
    }

    /// Completes with the cluster this server belongs to, once it belongs to one.
    pub async fn joined_cluster(&self) -> u64 {
        let mut cluster = self.shared.cluster.subscribe();
        match cluster.wait_for(Option::is_some).await.map(|cluster| *cluster) {
            Ok(Some(cluster)) => cluster,
            // The store has the sender and is alive as long as this is asked.
            _ => std::future::pending().await,
        }
    }

    /// The promise this server gave, if it gave one.
    pub fn promise(&self) -> Option<Promise> {
        self.memory().promise
    }

    /// Makes this server a member of `cluster`, durably, before anybody hears of it. Returns whose member it is afterwards:
    /// the first call wins.
    ///
    /// # Errors
    /// The disk's, which is final for this store.
    pub async fn adopt_cluster(&self, cluster: u64) -> io::Result<u64> {
        let _turn = self.shared.adopting.lock().await;
        if let Some(mine) = self.cluster() {
            return Ok(mine);
        }
        self.save_facts(move |facts| facts.cluster = Some(cluster)).await?;
        self.shared.cluster.send_replace(Some(cluster));
        Ok(cluster)
    }

    /// Makes this server a member of another cluster, durably: what it was a member of is gone for good.
    pub(super) async fn replace_cluster(&self, cluster: u64) -> io::Result<()> {
        self.shared.cluster.send_replace(Some(cluster));
        self.save_facts(move |facts| facts.cluster = Some(cluster)).await
    }

    /// Promises to found `cluster`, durably. Returns the promise in force afterwards: the first wins, and is in force at once.
    ///
    /// # Errors
    /// The disk's, which is final for this store.
    pub async fn promise_cluster(&self, cluster: u64) -> io::Result<u64> {
        let promised = self.memory().promise.get_or_insert(Promise { cluster }).cluster;
        if promised == cluster {
            self.save_facts(move |facts| facts.promise = Some(Promise { cluster })).await?;
        }
        Ok(promised)
    }

    /// Changes what is remembered about this server, durably.
    async fn save_facts(&self, change: impl FnOnce(&mut Facts) + Send + 'static) -> io::Result<()> {
        self.shared.check()?;
        let (meta, lock) = (self.shared.meta.clone(), self.shared.lock.clone());
        let job = move || {
            let _lock = lock;
            remember(&mut locked(&meta), change)
        };
        let saved = self.shared.env.blocking(job).await.map_err(io::Error::other)?;
        saved.inspect_err(|error| self.shared.fail(error))
    }

    /// Queues a write and waits until it is durable.
    async fn ask(&self, op: impl FnOnce(Done) -> Op) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.queue(op(done)).await?;
        answer.await.map_err(|_| io::Error::other("the store has stopped"))?
    }

    async fn queue(&self, op: Op) -> io::Result<()> {
        self.shared.ops.send(op).await.map_err(|_| io::Error::other("the store has stopped"))
    }

    // ---- what Raft asks for ----

    pub(super) fn log_bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let memory = self.memory();
        (memory.purged, memory.last)
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.memory().vote
    }

    pub(super) fn committed(&self) -> Option<LogId> {
        self.memory().committed
    }

    pub(super) async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        self.memory().vote = Some(vote);
        // Mutant R02: the vote is never persisted.
        if mutant::is("R02") {
            self.observe_vote(vote);
            return Ok(());
        }
        // Mutant R01: term and vote are written one after the other, and the first is taken for both.
        if mutant::is("R01") {
            let store = self.clone();
            self.save_facts(|_| {}).await?;
            self.observe_vote(vote);
            self.shared.env.spawn(async move {
                store.shared.env.sleep(Duration::from_millis(20)).await;
                // Whoever asked was told long ago.
                let later = move |facts: &mut Facts| {
                    if facts.vote.is_none_or(|known| known < vote) {
                        facts.vote = Some(vote);
                    }
                };
                let _ = store.save_facts(later).await;
            });
            return Ok(());
        }
        // Both at once: the vote's own file is written, and the log up to here.
        let saved = self.save_facts(move |facts| facts.vote = Some(vote));
        let (saved, flushed) = futures_util::future::join(saved, self.flush()).await;
        saved.and(flushed)?;
        self.observe_vote(vote);
        self.shared.env.linger(hazard::VOTE_DURABLE).await;
        Ok(())
    }

    fn observe_vote(&self, vote: Vote) {
        self.shared.env.observe(Observed::Vote {
            term: vote.leader_id.term,
            candidate: vote.leader_id.voted_for,
            committed: vote.committed,
        });
    }

    pub(super) async fn save_committed(&self, log_id: Option<LogId>) -> io::Result<()> {
        self.memory().committed = log_id;
        self.queue(Op::Committed { log_id }).await
    }

    pub(super) async fn append(
        &self,
        entries: impl IntoIterator<Item = Entry>,
        flushed: IOFlushed<TypeConfig>,
    ) -> io::Result<()> {
        let mut records = Vec::new();
        let mut last = 0;
        for entry in entries {
            let index = entry.log_id.index();
            records.push(wal::encode_entry(&entry)?);
            self.shared.env.observe_with(|| Observed::Appended {
                index,
                term: entry.log_id.committed_leader_id().term,
                digest: entry_digest(&entry),
            });
            if let Some(membership) = entry.payload.get_membership() {
                self.shared.env.observe_with(|| super::observed_membership(index, &membership));
            }
            last = index;
            let mut memory = self.memory();
            memory.last = Some(entry.log_id);
            memory.recent_bytes += weight(&entry);
            memory.recent.insert(index, entry);
        }
        self.shared.env.linger(hazard::BEFORE_APPEND).await;
        self.queue(Op::Append { records, last, flushed }).await
    }

    pub(super) async fn truncate_after(&self, last_kept: Option<LogId>) -> io::Result<()> {
        let first_removed = last_kept.map_or(0, |log_id| log_id.index() + 1);
        let kept = first_removed.saturating_sub(1);
        {
            let mut memory = self.memory();
            let removed = memory.recent.split_off(&first_removed);
            memory.recent_bytes -= removed.values().map(weight).sum::<usize>();
            if memory.last.map(|last| last.index()) > last_kept.map(|kept| kept.index()) {
                memory.last = last_kept;
            }
            memory.durable = memory.durable.min(kept);
            memory.cuts.push_back(kept);
        }
        self.shared.env.observe(Observed::Truncated { index: kept });
        self.shared.env.linger(hazard::BEFORE_TRUNCATE).await;
        self.ask(|done| Op::Cut { kept: last_kept, done }).await
    }

    pub(super) async fn purge(&self, log_id: LogId) -> io::Result<()> {
        {
            let mut memory = self.memory();
            let kept = memory.recent.split_off(&(log_id.index() + 1));
            let removed = std::mem::replace(&mut memory.recent, kept);
            memory.recent_bytes -= removed.values().map(weight).sum::<usize>();
            memory.purged = Some(log_id);
            // A snapshot can cover more than the log ever held.
            if memory.last.is_none_or(|last| last.index() <= log_id.index()) {
                memory.last = Some(log_id);
            }
        }
        self.shared.env.observe(Observed::Purged { index: log_id.index() });
        self.queue(Op::Purge { log_id }).await
    }

    /// Waits until all that was asked before is durable.
    pub(super) async fn flush(&self) -> io::Result<()> {
        self.ask(|done| Op::Flush { done }).await
    }

    /// The entries of a range that the log holds, in order; at most about `max_bytes` of them, but at
    /// least one.
    pub(super) async fn entries(
        &self,
        range: impl RangeBounds<u64>,
        max_bytes: usize,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        if start >= end {
            return Ok(Vec::new());
        }
        let mut bytes = 0;
        let mut room = move |entry: &Entry| {
            let fits = bytes < max_bytes;
            bytes = bytes.saturating_add(weight(entry));
            fits
        };

        let mut found: Vec<Entry> = Vec::new();
        let mut next = start;
        loop {
            // What memory holds is the end of the log; before it, all is on disk.
            let on_disk = {
                let memory = self.memory();
                let cached = memory.recent.first_key_value().map_or(u64::MAX, |(first, _)| *first);
                // Mutant S10: that more entries may have left memory while the disk was read is not thought of.
                if cached <= next || (mutant::is("S10") && next > start) {
                    let rest = memory.recent.range(next..end).map(|(_, entry)| entry);
                    found.extend(rest.take_while(|entry| room(entry)).cloned());
                    break;
                }
                next..end.min(cached)
            };
            next = on_disk.end;
            let places = self.shared.places.clone();
            let read = self.shared.env.blocking(move || {
                let (entries, full) = wal::read(&places, on_disk, &mut room)?;
                Ok::<_, io::Error>((entries, full, room))
            });
            let read = read.await.map_err(io::Error::other)?;
            let (entries, full, room_left) = read.inspect_err(|error| self.shared.fail(error))?;
            // Purged while we read, or not yet removed from the disk.
            let purged = self.memory().purged.map_or(0, |log_id| log_id.index() + 1);
            found.extend(entries.into_iter().filter(|entry| entry.log_id.index() >= purged));
            if full || next == end {
                break;
            }
            room = room_left;
        }
        // Whoever applies them must never go on without what was left out.
        let follows = |pair: &[Entry]| pair[1].log_id.index() == pair[0].log_id.index() + 1;
        match found.windows(2).find(|pair| !follows(pair) && !mutant::is("S10")) {
            None => Ok(found),
            Some(pair) => {
                let error = damaged(format!("no entry follows {} in the log", pair[0].log_id));
                self.shared.fail(&error);
                Err(error)
            }
        }
    }

    pub(super) fn snapshot_meta(&self) -> Option<SnapshotMeta> {
        self.memory().snapshot.clone()
    }

    /// How many bytes the data of the newest snapshot has; 0, if there is none.
    pub(super) fn snapshot_bytes(&self) -> usize {
        self.memory().snapshot_bytes
    }

    /// Changes whenever the log has grown by some bytes.
    pub(super) fn grown(&self) -> watch::Receiver<u64> {
        self.shared.grown.subscribe()
    }

    /// Bytes on disk of the entries behind `after`, and not behind `last`.
    pub(super) fn logged(&self, after: u64, last: u64) -> u64 {
        locked(&self.shared.places).bytes(after, last)
    }

    /// The last entry that may go, if those behind it are to be `most` bytes on disk at least.
    pub(super) fn beyond(&self, most: u64) -> Option<u64> {
        locked(&self.shared.places).beyond(most)
    }

    /// Makes a snapshot durable; on a full disk, as soon as there is space for it.
    pub(super) async fn save_snapshot(&self, meta: SnapshotMeta, data: Bytes) -> io::Result<()> {
        // Mutants R22 and R23: index and data of a snapshot are written one after the other, as two commits of a
        // database that commits now and then.
        if mutant::is("R22") || mutant::is("R23") {
            let (disk, lock) = (self.shared.env.disk(), self.shared.lock.clone());
            let (half_meta, half_data) = (meta.clone(), data.clone());
            let job = move || {
                let _lock = lock;
                snapshot::save_half(&*disk, &half_meta, &half_data)
            };
            if self.shared.env.blocking(job).await.is_ok_and(|half| half.is_ok()) {
                self.shared.env.sleep(Duration::from_millis(50)).await;
            }
        }
        loop {
            self.shared.check()?;
            let (snapshots, disk) = (self.shared.snapshots.clone(), self.shared.env.disk());
            let (job_meta, job_data, lock) = (meta.clone(), data.clone(), self.shared.lock.clone());
            let job = move || {
                let _lock = lock;
                let mut first_read = locked(&snapshots);
                *first_read = None;
                snapshot::save(&*disk, &job_meta, &job_data)
            };
            match self.shared.env.blocking(job).await.map_err(io::Error::other)? {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!(%error, "no space for a snapshot; it waits");
                    self.shared.env.sleep(FULL_RETRY).await;
                }
                Err(error) => {
                    self.shared.fail(&error);
                    return Err(error);
                }
            }
        }
        let mut memory = self.memory();
        let known = memory.snapshot.as_ref().and_then(|known| known.last_log_id);
        if meta.last_log_id >= known {
            memory.snapshot = Some(meta);
            memory.snapshot_bytes = data.len();
        }
        Ok(())
    }

    pub(super) async fn load_snapshot(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let (snapshots, disk) = (self.shared.snapshots.clone(), self.shared.env.disk());
        let job = move || match locked(&snapshots).take() {
            Some(first_read) => Ok(Some(first_read)),
            None => snapshot::load(&*disk),
        };
        let loaded = self.shared.env.blocking(job).await.map_err(io::Error::other)?;
        loaded.inspect_err(|error| self.shared.fail(error))
    }

    /// Term and digest of every entry on disk, for whoever watches the node start.
    pub(super) async fn observe_recovery(&self, applied: u64) -> io::Result<()> {
        if !self.shared.env.is_observed() {
            return Ok(());
        }
        let entries = self.entries(.., usize::MAX).await?;
        let log = entries
            .iter()
            .map(|e| (e.log_id.index(), e.log_id.committed_leader_id().term, entry_digest(e)))
            .collect();
        let (_, last) = self.log_bounds();
        self.shared.env.observe(Observed::Recovered {
            raft_id: self.identity().node_id,
            term: self.vote().map_or(0, |vote| vote.leader_id.term),
            last_index: last.map_or(0, |log_id| log_id.index()),
            applied,
            log,
        });
        Ok(())
    }
}

impl Shared {
    fn check(&self) -> io::Result<()> {
        match &*self.failure.borrow() {
            None => Ok(()),
            Some(reason) => Err(io::Error::other(reason.clone())),
        }
    }

    /// The disk cannot be trusted any more.
    fn fail(&self, error: &io::Error) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!(%error, "the disk failed; this server stops");
                self.env.observe(Observed::Fatal { reason: error.to_string() });
                *failure = Some(format!("the disk failed: {error}"));
            }
            first
        });
    }

    /// Lets memory know what is on disk now.
    fn wrote(&self, batch: &[Op]) {
        let steps = locked(&self.places).written() / GROWN;
        self.grown.send_if_modified(|known| std::mem::replace(known, steps) != steps);
        let mut memory = locked(&self.memory);
        let mut durable = None;
        for op in batch {
            match op {
                Op::Append { last, .. } => durable = Some(*last),
                Op::Cut { kept, .. } => {
                    let kept = kept.map_or(0, |kept| kept.index());
                    durable = durable.map(|index: u64| index.min(kept));
                    memory.cuts.pop_front();
                }
                Op::Purge { .. } | Op::Committed { .. } | Op::Flush { .. } => {}
            }
        }
        if let Some(index) = durable {
            self.env.observe(Observed::Durable { index });
            // Mutant S11: what is written counts for what a truncation has let take its place.
            let cut = memory.cuts.iter().copied().min().filter(|_| !mutant::is("S11"));
            memory.durable = index.min(cut.unwrap_or(index));
        }
        let durable = memory.durable;
        while memory.recent_bytes > memory.cache_bytes
            && let Some(first) = memory.recent.first_entry()
            && *first.key() <= durable
        {
            let entry = first.remove();
            memory.recent_bytes -= weight(&entry);
            self.env.reachable("an entry of the log leaves memory");
        }
    }
}

/// The one task that writes the log.
struct Writer {
    env: Env,
    disk: Arc<dyn Disk>,
    shared: std::sync::Weak<Shared>,
    /// Away while a job has it.
    wal: Option<Wal>,
    preparing: Option<JoinHandle<Option<Prepared>>>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Op>) {
        let mut riding: Vec<Op> = Vec::new();
        while let Some(first) = queue.recv().await {
            let mut batch = std::mem::take(&mut riding);
            batch.push(first);
            while batch.len() < MAX_BATCH
                && let Ok(op) = queue.try_recv()
            {
                batch.push(op);
            }
            if !batch.iter().any(Op::urgent) && batch.len() < MAX_BATCH / 2 {
                riding = batch;
                continue;
            }
            let result = match self.shared.upgrade().map(|shared| shared.check()) {
                Some(Ok(())) => self.write(&mut batch).await,
                Some(failed) => failed,
                None => return,
            };
            let Some(shared) = self.shared.upgrade() else { return };
            match &result {
                Ok(()) => shared.wrote(&batch),
                Err(error) => shared.fail(error),
            }
            drop(shared);
            finish(batch, &result);
            self.look_ahead().await;
        }
    }

    /// Makes a batch durable; on a full disk, as soon as there is space for it.
    async fn write(&mut self, batch: &mut [Op]) -> io::Result<()> {
        let mut records = Vec::new();
        for op in batch {
            match op {
                Op::Append { records: entries, flushed, .. } => {
                    records.extend(std::mem::take(entries).into_iter().map(Record::Entry));
                    // Mutant R14: acknowledged before it is durable.
                    if mutant::is("R14") {
                        std::mem::replace(flushed, IOFlushed::noop()).io_completed(Ok(()));
                    }
                }
                Op::Cut { kept, .. } => records.push(Record::Cut(*kept)),
                Op::Purge { log_id } => records.push(Record::Purged(*log_id)),
                Op::Committed { log_id } => records.push(Record::Committed(*log_id)),
                Op::Flush { .. } => {}
            }
        }
        if records.is_empty() {
            // Whoever asked only wants to know that all before is durable.
            return Ok(());
        }
        let payload = Arc::new(wal::encode(records)?);
        loop {
            let result = self.try_write(payload.clone()).await;
            let Some(shared) = self.shared.upgrade() else { return result };
            match result {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    // Mutant S06: what found no space is acknowledged all the same.
                    if mutant::is("S06") {
                        return Ok(());
                    }
                    if !shared.full.send_replace(true) {
                        tracing::error!(%error, "the disk is full: nothing is written until space is freed");
                    }
                    drop(shared);
                    self.env.sleep(FULL_RETRY).await;
                }
                result => {
                    // Nobody is woken by a write that found space as the one before it did.
                    if shared.full.send_if_modified(std::mem::take) {
                        tracing::info!("the disk has space again");
                    }
                    return result;
                }
            }
        }
    }

    async fn try_write(&mut self, payload: Arc<Vec<u8>>) -> io::Result<()> {
        let needs_segment = self.wal.as_ref().is_some_and(|wal| wal.needs_segment(payload.len()));
        let prepared = if needs_segment { self.prepared().await } else { None };
        self.with_wal(move |wal| {
            if needs_segment {
                wal.start_segment(prepared, payload.len())?;
            }
            wal.append(&payload)
        })
        .await
    }

    async fn with_wal<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Wal) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let lock = self.shared.upgrade().map(|shared| shared.lock.clone());
        let (Some(mut wal), Some(lock)) = (self.wal.take(), lock) else {
            return Err(io::Error::other("the store has stopped, or writing to the log panicked"));
        };
        let job = move || {
            let result = work(&mut wal);
            drop(lock);
            (wal, result)
        };
        let (wal, result) = self.env.blocking(job).await.map_err(io::Error::other)?;
        self.wal = Some(wal);
        result
    }

    /// The segment that is being made ready, as soon as it is.
    async fn prepared(&mut self) -> Option<Prepared> {
        self.preparing.take()?.await.ok().flatten()
    }

    /// Makes the next segment ready in the background when it is time, and removes those that are purged.
    async fn look_ahead(&mut self) {
        let Some(wal) = &self.wal else { return };
        if self.preparing.is_none()
            && let Some((number, blocks)) = wal.due_segment()
        {
            let Some(lock) = self.shared.upgrade().map(|shared| shared.lock.clone()) else { return };
            let (env, disk, shared) = (self.env.clone(), self.disk.clone(), self.shared.clone());
            self.preparing = Some(self.env.spawn(async move {
                let job = move || {
                    let made = wal::prepare(&*disk, number, blocks);
                    drop(lock);
                    made
                };
                let made = env.blocking(job).await;
                match made.map_err(io::Error::other).flatten() {
                    Ok(prepared) => Some(prepared),
                    // It will be tried again when it is needed, and then the log waits.
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => None,
                    Err(error) => {
                        if let Some(shared) = shared.upgrade() {
                            shared.fail(&error);
                        }
                        None
                    }
                }
            }));
        }
        if wal.has_purged_segments()
            && let Err(error) = self.with_wal(Wal::remove_purged_segments).await
            && let Some(shared) = self.shared.upgrade()
        {
            shared.fail(&error);
        }
    }
}

fn finish(batch: Vec<Op>, result: &io::Result<()>) {
    let outcome = || match result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    for op in batch {
        match op {
            Op::Append { flushed, .. } => flushed.io_completed(outcome()),
            Op::Cut { done, .. } | Op::Flush { done } => {
                // Whoever asked may have gone away.
                let _ = done.send(outcome());
            }
            Op::Purge { .. } | Op::Committed { .. } => {}
        }
    }
}
