//! The server's durable memory: log, vote, snapshot and identity, in one redb file behind the Disk seam.
//!
//! Everything that writes goes through one queue to one writer task. The writer takes all that has
//! gathered, puts it into one transaction, syncs once, and only then tells each of the askers: group
//! commit. Nothing is acknowledged before it is durable, and writes take effect in the order asked.
//!
//! What must be readable before it is durable (openraft reads entries back as soon as it appended
//! them) is kept in memory; entries leave memory only after they are on disk.
//!
//! An error from the disk is final for this life of the node: the failed sync may have thrown away
//! what it could not write, so nothing written later could be trusted. The store then refuses
//! everything and [`Store::failure`] says why; the agent stops.
//!
//! Records carry their own index and a checksum, so a record from another place or with flipped bits
//! is an error, never an entry.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::entry::RaftPayload;
use openraft::storage::IOFlushed;
use rand::RngExt;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use xxhash_rust::xxh3::xxh3_64;

use super::{Entry, LogId, SnapshotMeta, TypeConfig, Vote};
use crate::env::{AbortOnDrop, Env, File, Observed, hazard};
use crate::mutant;

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const SNAPSHOT: TableDefinition<u64, &[u8]> = TableDefinition::new("snapshot");

/// Name of the file in the node's directory.
pub const FILE_NAME: &str = "driftline.redb";

/// Writes waiting for the writer. When it is full, openraft waits: that is the disk's backpressure.
const QUEUE: usize = 4096;
/// Writes put into one transaction.
const MAX_BATCH: usize = 1024;
/// Bytes of log entries kept in memory beyond those that are not yet durable.
const CACHE_BYTES: usize = 16 << 20;
/// Bytes of redb's own page cache.
const PAGE_CACHE_BYTES: usize = 16 << 20;
/// Bytes of a snapshot in one record.
const SNAPSHOT_RECORD: usize = 1 << 20;

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
    /// The file is not what this program wrote.
    #[error(
        "the data in {directory} is damaged ({reason}); nothing was changed. Restore it from a backup, or \
         move it away and let this server rejoin empty"
    )]
    Damaged {
        /// The directory.
        directory: String,
        /// What does not fit.
        reason: String,
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
}

/// A promise to found one certain cluster and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The id of the cluster to be.
    pub cluster: u64,
}

enum Op {
    Append { records: Vec<(u64, Vec<u8>)>, last: u64, flushed: IOFlushed<TypeConfig> },
    Vote { vote: Vote, done: Done },
    Truncate { first_removed: u64, done: Done },
    Purge { log_id: LogId },
    Committed { log_id: Option<LogId> },
    Snapshot { meta: SnapshotMeta, data: Arc<[u8]>, done: Done },
    Meta { key: &'static str, value: Vec<u8>, done: Done },
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
    db: Arc<Database>,
    identity: Identity,
    memory: Mutex<Memory>,
    ops: mpsc::Sender<Op>,
    failure: watch::Receiver<Option<String>>,
    _writer: AbortOnDrop,
    _lock: Box<dyn Send + Sync>,
}

/// What is readable now, durable or not.
struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The newest entries, without a hole up to the last.
    recent: BTreeMap<u64, Entry>,
    recent_bytes: usize,
    /// Entries up to here are on disk.
    durable: u64,
    cluster: Option<u64>,
    promise: Option<Promise>,
    snapshot: Option<SnapshotMeta>,
}

/// The file as redb wants it. After the first error it refuses everything, for ever.
#[derive(Debug)]
struct Backend {
    file: Box<dyn File>,
    failed: Mutex<Option<String>>,
}

impl Backend {
    fn guard<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            locked(&self.failed).get_or_insert_with(|| error.to_string());
        })
    }

    fn check(&self) -> io::Result<()> {
        match &*locked(&self.failed) {
            None => Ok(()),
            Some(earlier) => Err(io::Error::other(format!("the disk failed earlier: {earlier}"))),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}

fn damaged(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{reason}"))
}

fn db_error(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

/// A log record: checksum, index, entry.
fn encode_record(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut record = vec![0; 4];
    record.extend_from_slice(&entry.log_id.index().to_le_bytes());
    let mut record = postcard::to_extend(entry, record).map_err(io::Error::other)?;
    let checksum = crc32fast::hash(&record[4..]);
    record[..4].copy_from_slice(&checksum.to_le_bytes());
    Ok(record)
}

/// The entry of a record that was found under `index`.
fn decode_record(index: u64, record: &[u8]) -> io::Result<Entry> {
    let bad = |what: &str| damaged(format!("log record {index}: {what}"));
    let (checksum, content) = record.split_first_chunk::<4>().ok_or_else(|| bad("too short"))?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return Err(bad("checksum mismatch"));
    }
    let (own_index, body) = content.split_first_chunk::<8>().ok_or_else(|| bad("too short"))?;
    let entry: Entry = postcard::from_bytes(body).map_err(|error| bad(&error.to_string()))?;
    if u64::from_le_bytes(*own_index) != index || entry.log_id.index() != index {
        return Err(bad("belongs to another index"));
    }
    Ok(entry)
}

/// A digest of what an entry says.
pub(super) fn entry_digest(entry: &Entry) -> u64 {
    postcard::to_stdvec(&entry.payload).map(|bytes| xxh3_64(&bytes)).unwrap_or_default()
}

/// A rough size in memory.
fn weight(entry: &Entry) -> usize {
    let content = match &entry.payload {
        openraft::EntryPayload::Normal(request) => request.command.size(),
        _ => 0,
    };
    content + 128
}

impl Store {
    /// Opens the store in the node's directory, founding it if there is none.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is changed then.
    pub async fn open(env: &Env) -> Result<Store, OpenError> {
        let directory = env.disk().describe();
        let io_error = {
            let directory = directory.clone();
            move |source| OpenError::Io { directory: directory.clone(), source }
        };
        let disk = env.disk();
        let lock = env.blocking(move || disk.lock()).await.map_err(|e| io_error(io::Error::other(e)))?;
        let lock = lock.map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { directory: directory.clone(), source },
            _ => io_error(source),
        })?;

        let disk = env.disk();
        let candidate_id: u64 = env.rng("identity").random();
        let opened = env
            .blocking(move || {
                let fresh = !disk.exists(FILE_NAME)?;
                let file = disk.open(FILE_NAME)?;
                let fresh = fresh || file.is_empty()?;
                let db = Database::builder()
                    .set_cache_size(PAGE_CACHE_BYTES)
                    .create_with_backend(Backend { file, failed: Mutex::new(None) })
                    .map_err(db_error)?;
                if fresh {
                    disk.sync_dir()?;
                }
                load(&db, candidate_id).map(|(identity, memory)| (db, identity, memory))
            })
            .await;
        let damaged = |reason: String| OpenError::Damaged { directory: directory.clone(), reason };
        let (db, identity, memory) = match opened {
            Err(error) => return Err(damaged(error.to_string())),
            Ok(Err(error)) => {
                return Err(match error.kind() {
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged(error.to_string()),
                    io::ErrorKind::Other => damaged(error.to_string()),
                    _ => io_error(error),
                });
            }
            Ok(Ok(opened)) => opened,
        };

        let db = Arc::new(db);
        let (ops, queue) = mpsc::channel(QUEUE);
        let (fail, failure) = watch::channel(None);
        let store = Store {
            shared: Arc::new_cyclic(|shared| {
                let writer = Writer { env: env.clone(), db: db.clone(), shared: shared.clone(), fail };
                Shared {
                    env: env.clone(),
                    db: db.clone(),
                    identity,
                    memory: Mutex::new(memory),
                    ops,
                    failure,
                    _writer: env.spawn(writer.run(queue)).abort_on_drop(),
                    _lock: lock,
                }
            }),
        };
        Ok(store)
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
        self.shared.failure.clone()
    }

    /// The cluster this server belongs to, if it belongs to one.
    pub fn cluster(&self) -> Option<u64> {
        self.memory().cluster
    }

    /// The promise this server gave, if it gave one.
    pub fn promise(&self) -> Option<Promise> {
        self.memory().promise
    }

    /// Makes this server a member of `cluster`, durably. Returns whose member it is afterwards: the
    /// first call wins.
    pub async fn adopt_cluster(&self, cluster: u64) -> io::Result<u64> {
        let mine = *self.memory().cluster.get_or_insert(cluster);
        if mine == cluster {
            self.write_meta("cluster", &cluster).await?;
        }
        Ok(mine)
    }

    /// Promises to found `cluster`, durably. Returns the promise in force afterwards: the first wins.
    pub async fn promise_cluster(&self, cluster: u64) -> io::Result<u64> {
        let promised = self.memory().promise.get_or_insert(Promise { cluster }).cluster;
        if promised == cluster {
            self.write_meta("promise", &Promise { cluster }).await?;
        }
        Ok(promised)
    }

    async fn write_meta<T: Serialize>(&self, key: &'static str, value: &T) -> io::Result<()> {
        let value = encode(value)?;
        self.ask(|done| Op::Meta { key, value, done }).await
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
        self.ask(|done| Op::Vote { vote, done }).await?;
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
            records.push((index, encode_record(&entry)?));
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
        {
            let mut memory = self.memory();
            let removed = memory.recent.split_off(&first_removed);
            memory.recent_bytes -= removed.values().map(weight).sum::<usize>();
            if memory.last.map(|last| last.index()) > last_kept.map(|kept| kept.index()) {
                memory.last = last_kept;
            }
            memory.durable = memory.durable.min(first_removed.saturating_sub(1));
        }
        self.shared.env.observe(Observed::Truncated { index: first_removed.saturating_sub(1) });
        self.shared.env.linger(hazard::BEFORE_TRUNCATE).await;
        self.ask(|done| Op::Truncate { first_removed, done }).await
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

        let first_cached = self.memory().recent.first_key_value().map(|(index, _)| *index);
        let mut found = Vec::new();
        let from_disk_end = end.min(first_cached.unwrap_or(u64::MAX));
        if start < from_disk_end {
            let db = self.shared.db.clone();
            let read = self.shared.env.blocking(move || {
                let transaction = db.begin_read().map_err(db_error)?;
                let table = transaction.open_table(LOG).map_err(db_error)?;
                let mut entries = Vec::new();
                for item in table.range(start..from_disk_end).map_err(db_error)? {
                    let (index, record) = item.map_err(db_error)?;
                    let entry = decode_record(index.value(), record.value())?;
                    if !room(&entry) {
                        return Ok((entries, true, room));
                    }
                    entries.push(entry);
                }
                Ok::<_, io::Error>((entries, false, room))
            });
            let (entries, full, room_left) = read.await.map_err(io::Error::other)??;
            // Purged while we read, or not yet removed from the disk.
            let purged = self.memory().purged.map_or(0, |log_id| log_id.index() + 1);
            found = entries.into_iter().filter(|entry| entry.log_id.index() >= purged).collect();
            if full {
                return Ok(found);
            }
            room = room_left;
        }
        let memory = self.memory();
        let next = found.last().map_or(start, |entry| entry.log_id.index() + 1);
        if next < end {
            found.extend(memory.recent.range(next..end).map(|(_, e)| e).take_while(|e| room(e)).cloned());
        }
        Ok(found)
    }

    pub(super) fn snapshot_meta(&self) -> Option<SnapshotMeta> {
        self.memory().snapshot.clone()
    }

    pub(super) async fn save_snapshot(&self, meta: SnapshotMeta, data: Arc<[u8]>) -> io::Result<()> {
        self.ask(|done| Op::Snapshot { meta, data, done }).await
    }

    pub(super) async fn load_snapshot(&self) -> io::Result<Option<(SnapshotMeta, Arc<[u8]>)>> {
        let db = self.shared.db.clone();
        self.shared.env.blocking(move || read_snapshot(&db)).await.map_err(io::Error::other)?
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

fn get_meta<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> io::Result<Option<T>> {
    let Some(value) = table.get(key).map_err(db_error)? else { return Ok(None) };
    postcard::from_bytes(value.value()).map(Some).map_err(|error| damaged(format!("{key}: {error}")))
}

/// Reads what the file holds, after giving the server its identity and counting the start.
fn load(db: &Database, candidate_id: u64) -> io::Result<(Identity, Memory)> {
    let transaction = db.begin_write().map_err(db_error)?;
    let (identity, memory) = {
        let mut meta = transaction.open_table(META).map_err(db_error)?;
        let log = transaction.open_table(LOG).map_err(db_error)?;
        transaction.open_table(SNAPSHOT).map_err(db_error)?;
        let node_id = get_meta(&meta, "node_id")?.unwrap_or(candidate_id);
        let generation = get_meta(&meta, "generation")?.unwrap_or(0u64) + 1;
        meta.insert("node_id", encode(&node_id)?.as_slice()).map_err(db_error)?;
        meta.insert("generation", encode(&generation)?.as_slice()).map_err(db_error)?;

        let purged: Option<LogId> = get_meta(&meta, "purged")?;
        let last = match log.last().map_err(db_error)? {
            Some((index, record)) => Some(decode_record(index.value(), record.value())?.log_id),
            None => purged,
        };
        let memory = Memory {
            vote: get_meta(&meta, "vote")?,
            committed: get_meta(&meta, "committed")?,
            purged,
            last,
            recent: BTreeMap::new(),
            recent_bytes: 0,
            durable: last.map_or(0, |log_id| log_id.index()),
            cluster: get_meta(&meta, "cluster")?,
            promise: get_meta(&meta, "promise")?,
            snapshot: get_meta(&meta, "snapshot")?,
        };
        (Identity { node_id, generation }, memory)
    };
    transaction.commit().map_err(db_error)?;
    Ok((identity, memory))
}

fn read_snapshot(db: &Database) -> io::Result<Option<(SnapshotMeta, Arc<[u8]>)>> {
    let transaction = db.begin_read().map_err(db_error)?;
    let meta = transaction.open_table(META).map_err(db_error)?;
    let Some(found) = get_meta::<SnapshotMeta>(&meta, "snapshot")? else { return Ok(None) };
    let table = transaction.open_table(SNAPSHOT).map_err(db_error)?;
    let mut data = Vec::new();
    for item in table.range(0..).map_err(db_error)? {
        let (_, record) = item.map_err(db_error)?;
        data.extend_from_slice(record.value());
    }
    Ok(Some((found, data.into())))
}

struct Writer {
    env: Env,
    db: Arc<Database>,
    shared: std::sync::Weak<Shared>,
    fail: watch::Sender<Option<String>>,
}

impl Writer {
    async fn run(self, mut queue: mpsc::Receiver<Op>) {
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
            self.write(batch).await;
        }
    }

    async fn write(&self, mut batch: Vec<Op>) {
        if let Some(reason) = self.fail.borrow().clone() {
            return finish(batch, &Err(io::Error::other(reason)));
        }
        // Mutant R14: acknowledged before it is durable.
        if mutant::is("R14") {
            for op in &mut batch {
                if let Op::Append { flushed, .. } = op {
                    std::mem::replace(flushed, IOFlushed::noop()).io_completed(Ok(()));
                }
            }
        }
        let db = self.db.clone();
        let written = self.env.blocking(move || {
            let result = commit(&db, &batch);
            (batch, result)
        });
        let Ok((batch, result)) = written.await else {
            self.fail.send_replace(Some("writing to disk panicked".to_owned()));
            return;
        };
        match &result {
            Ok(()) => self.wrote(&batch),
            Err(error) => {
                tracing::error!(%error, "the disk failed; this server stops");
                self.env.observe(Observed::Fatal { reason: error.to_string() });
                self.fail.send_replace(Some(format!("the disk failed: {error}")));
            }
        }
        finish(batch, &result);
    }

    /// Lets memory know what is on disk now.
    fn wrote(&self, batch: &[Op]) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut memory = locked(&shared.memory);
        let mut durable = None;
        for op in batch {
            match op {
                Op::Append { last, .. } => durable = Some(*last),
                Op::Truncate { first_removed, .. } => {
                    durable = durable.map(|index: u64| index.min(first_removed.saturating_sub(1)));
                }
                Op::Snapshot { meta, .. } => memory.snapshot = Some(meta.clone()),
                _ => {}
            }
        }
        if let Some(index) = durable {
            memory.durable = index;
            self.env.observe(Observed::Durable { index });
        }
        let durable = memory.durable;
        while memory.recent_bytes > CACHE_BYTES
            && let Some(first) = memory.recent.first_entry()
            && *first.key() <= durable
        {
            let entry = first.remove();
            memory.recent_bytes -= weight(&entry);
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
            Op::Vote { done, .. }
            | Op::Truncate { done, .. }
            | Op::Snapshot { done, .. }
            | Op::Meta { done, .. } => {
                // Whoever asked may have gone away.
                let _ = done.send(outcome());
            }
            Op::Purge { .. } | Op::Committed { .. } => {}
        }
    }
}

/// Puts a batch into one durable transaction, in order.
fn commit(db: &Database, batch: &[Op]) -> io::Result<()> {
    let transaction = db.begin_write().map_err(db_error)?;
    {
        let mut log = transaction.open_table(LOG).map_err(db_error)?;
        let mut meta = transaction.open_table(META).map_err(db_error)?;
        for op in batch {
            match op {
                Op::Append { records, .. } => {
                    for (index, record) in records {
                        log.insert(index, record.as_slice()).map_err(db_error)?;
                    }
                }
                Op::Vote { vote, .. } => {
                    meta.insert("vote", encode(vote)?.as_slice()).map_err(db_error)?;
                }
                Op::Truncate { first_removed, .. } => {
                    log.retain_in(*first_removed.., |_, _| false).map_err(db_error)?;
                }
                Op::Purge { log_id } => {
                    log.retain_in(..=log_id.index(), |_, _| false).map_err(db_error)?;
                    meta.insert("purged", encode(log_id)?.as_slice()).map_err(db_error)?;
                }
                Op::Committed { log_id } => match log_id {
                    Some(log_id) => {
                        meta.insert("committed", encode(log_id)?.as_slice()).map_err(db_error)?;
                    }
                    None => {
                        meta.remove("committed").map_err(db_error)?;
                    }
                },
                Op::Snapshot { meta: snapshot, data, .. } => {
                    let mut table = transaction.open_table(SNAPSHOT).map_err(db_error)?;
                    table.retain(|_, _| false).map_err(db_error)?;
                    for (i, record) in data.chunks(SNAPSHOT_RECORD).enumerate() {
                        table.insert(i as u64, record).map_err(db_error)?;
                    }
                    meta.insert("snapshot", encode(snapshot)?.as_slice()).map_err(db_error)?;
                }
                Op::Meta { key, value, .. } => {
                    meta.insert(*key, value.as_slice()).map_err(db_error)?;
                }
            }
        }
    }
    transaction.commit().map_err(db_error)
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.check()?;
        self.guard(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check()?;
        self.guard(self.file.read_at(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.guard(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        let result = self.file.sync();
        // Mutant S04: a failed sync is taken for a success.
        if mutant::is("S04") && result.is_err() {
            return Ok(());
        }
        self.guard(result)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.guard(self.file.write_at(offset, data))
    }
}
