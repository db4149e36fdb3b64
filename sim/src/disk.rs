//! A host's disk: it outlives processes and power losses, and remembers exactly what it promised to.
//!
//! A file is kept twice: as every reader sees it, and as it is on the platter. Between the two lies the
//! list of what was written since, in order. A sync moves the list over to the platter; a power loss
//! lets each 512-byte sector of it survive or not at random, in any subset; the death of a process
//! leaves it in the page cache, where the next process finds it.
//!
//! Time passes inside a blocking job although the job itself runs in one go: every write is stamped
//! with the moment at which it would have happened, after the syncs before it in the job. A crash in the
//! middle of a job therefore finds the writes up to that moment, and none of the later ones, and the
//! sync that was under way has promised nothing.
//!
//! A failed sync ([`DiskModel::fail_syncs`]) drops what it should have made durable: reads show the old
//! bytes again, and the next sync succeeds, having nothing to do. This is what Linux may do, and why an
//! error from a sync must stop a node.
//!
//! Left out: latency of reads and writes (only syncs wait), a full disk, rotten bits, files that are
//! removed or renamed (the seam has no such calls).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use driftline::env::{Disk, File};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::clock::{Life, Pump};
use crate::scenario::{DiskSettings, stream};
use crate::trace::Event;

const BLOCK: usize = 4096;
const SECTOR: u64 = 512;

/// How a host goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies; the page cache stays.
    Kill,
    /// The power fails; only the platter stays.
    PowerLoss,
}

/// Bytes of a file; blocks that were never written are zeros.
#[derive(Clone, Default)]
struct Content {
    len: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK]>>,
}

/// Cuts `offset..offset + len` at the borders of blocks: (block, start in it, length).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % BLOCK as u64) as usize;
        let take = (BLOCK - start).min(len - done);
        done += take;
        Some((at / BLOCK as u64, start, take))
    })
}

impl Content {
    fn read(&self, offset: u64, buffer: &mut [u8]) {
        let mut done = 0;
        for (block, start, take) in pieces(offset, buffer.len()) {
            match self.blocks.get(&block) {
                Some(bytes) => buffer[done..done + take].copy_from_slice(&bytes[start..start + take]),
                None => buffer[done..done + take].fill(0),
            }
            done += take;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        for (block, start, take) in pieces(offset, data.len()) {
            let bytes = self.blocks.entry(block).or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(bytes)[start..start + take].copy_from_slice(&data[done..done + take]);
            done += take;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (last, keep) = (len / BLOCK as u64, (len % BLOCK as u64) as usize);
            self.blocks.split_off(&(last + u64::from(keep > 0)));
            if keep > 0
                && let Some(bytes) = self.blocks.get_mut(&last)
            {
                Arc::make_mut(bytes)[keep..].fill(0);
            }
        }
        self.len = len;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.write(*offset, data),
            Change::SetLen(len) => self.set_len(*len),
            Change::Synced => {}
        }
    }
}

#[derive(Clone)]
enum Change {
    Write {
        offset: u64,
        data: Bytes,
    },
    SetLen(u64),
    /// All before it is durable from this moment on.
    Synced,
}

/// A change, and when it happens: perhaps later than now, if it is part of a job that takes longer.
struct Pending {
    at: u64,
    change: Change,
}

struct FileModel {
    name: String,
    exists: bool,
    created: u64,
    /// When the directory was synced with the name in it.
    name_durable: Option<u64>,
    current: Content,
    durable: Content,
    pending: VecDeque<Pending>,
    /// When the latest change happens: whoever uses the file then comes after it.
    latest: u64,
}

impl FileModel {
    /// Moves to the platter what a sync has made durable by `now`.
    fn settle(&mut self, now: u64) {
        let done = self
            .pending
            .iter()
            .rposition(|pending| matches!(pending.change, Change::Synced) && pending.at <= now);
        if let Some(done) = done {
            for pending in self.pending.drain(..=done) {
                self.durable.apply(&pending.change);
            }
        }
    }

    /// What readers see is what is on the platter and what was written since.
    fn rebuild(&mut self) {
        self.current = self.durable.clone();
        for pending in &self.pending {
            self.current.apply(&pending.change);
        }
    }

    fn change(&mut self, at: u64, change: Change) {
        self.current.apply(&change);
        self.pending.push_back(Pending { at, change });
        self.latest = at;
    }

    /// Leaves of the unsynced changes what a power loss happens to leave.
    fn tear(&mut self, rng: &mut StdRng) {
        // Some losses leave nothing, some nearly everything: both ends have their bugs.
        let survival = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        let last = self.pending.len().saturating_sub(1);
        for (index, pending) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            match pending.change {
                Change::Synced => {}
                Change::SetLen(len) => {
                    if rng.random_bool(survival) {
                        self.durable.set_len(len);
                    }
                }
                Change::Write { offset, data } => {
                    let mut done = 0;
                    while done < data.len() {
                        let at = offset + done as u64;
                        let take = ((SECTOR - at % SECTOR) as usize).min(data.len() - done);
                        if rng.random_bool(survival) {
                            let is_last = index == last && done + take == data.len();
                            let whole = !is_last || rng.random_bool(0.5);
                            let keep = if whole { take } else { rng.random_range(0..=take) };
                            self.durable.write(at, &data[done..done + keep]);
                        }
                        done += take;
                    }
                }
            }
        }
    }
}

/// What a disk has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// The disk of one host.
pub struct DiskModel {
    host: u32,
    pump: Arc<Pump>,
    inner: Mutex<Inner>,
}

struct Inner {
    settings: DiskSettings,
    rng: StdRng,
    files: Vec<FileModel>,
    /// The time inside the blocking job that runs.
    job: Option<u64>,
    busy_until: u64,
    failing_syncs: u32,
    slowdown: u64,
    locked_by: Option<u32>,
    counters: DiskCounters,
}

impl Inner {
    fn existing(&self, name: &str) -> Option<usize> {
        self.files.iter().position(|file| file.exists && file.name == name)
    }
}

impl DiskModel {
    /// The empty disk of a new host.
    pub fn new(pump: Arc<Pump>, host: u32, seed: u64, settings: DiskSettings) -> Arc<DiskModel> {
        let inner = Inner {
            settings,
            rng: stream(seed, &format!("disk {host}")),
            files: Vec::new(),
            job: None,
            busy_until: 0,
            failing_syncs: 0,
            slowdown: 1,
            locked_by: None,
            counters: DiskCounters::default(),
        };
        Arc::new(DiskModel { host, pump, inner: Mutex::new(inner) })
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `count` syncs fail, and what they should have made durable is gone.
    pub fn fail_syncs(&self, count: u32) {
        self.locked().failing_syncs = count;
    }

    /// Syncs take `factor` times as long from now on.
    pub fn slow_down(&self, factor: u64) {
        self.locked().slowdown = factor.max(1);
    }

    /// What the disk has done so far.
    pub fn counters(&self) -> DiskCounters {
        self.locked().counters
    }

    /// A blocking job begins: time passes inside it from now on.
    pub fn begin_job(&self) {
        let now = self.pump.now();
        self.locked().job = Some(now);
    }

    /// The job has run; says when it would have ended.
    pub fn end_job(&self) -> u64 {
        let now = self.pump.now();
        self.locked().job.take().unwrap_or(now)
    }

    /// Everything on it is gone, for ever: it is another disk. The host must be down.
    pub fn replace(&self) {
        let inner = &mut *self.locked();
        inner.locked_by = None;
        inner.files.clear();
    }

    /// The host goes down.
    pub fn crash(&self, crash: Crash) {
        let now = self.pump.now();
        let inner = &mut *self.locked();
        inner.locked_by = None;
        inner.busy_until = now;
        if crash == Crash::PowerLoss {
            inner.failing_syncs = 0;
        }
        for file in inner.files.iter_mut().filter(|file| file.exists) {
            file.settle(now);
            // What the rest of a running job would have done never happens, and a sync under way
            // has promised nothing.
            let before = file.pending.len();
            let rng = &mut inner.rng;
            file.pending.retain(|pending| pending.at <= now && !matches!(pending.change, Change::Synced));
            let cut = file.pending.len() != before;
            file.latest = now;
            if crash == Crash::PowerLoss {
                file.tear(rng);
                let named = file.name_durable.is_some_and(|at| at <= now);
                file.exists = named || (file.created <= now && rng.random_bool(0.5));
                file.name_durable = file.exists.then_some(now);
            } else {
                file.exists = file.created <= now;
                file.name_durable = file.name_durable.filter(|at| *at <= now);
            }
            if cut || crash == Crash::PowerLoss {
                file.rebuild();
            }
        }
    }

    fn open(&self, name: &str) -> usize {
        let now = self.pump.now();
        let inner = &mut *self.locked();
        if let Some(index) = inner.existing(name) {
            return index;
        }
        let at = inner.job.unwrap_or(now);
        inner.files.push(FileModel {
            name: name.to_owned(),
            exists: true,
            created: at,
            name_durable: None,
            current: Content::default(),
            durable: Content::default(),
            pending: VecDeque::new(),
            latest: at,
        });
        inner.files.len() - 1
    }

    /// Comes to a file: after whatever is still happening to it.
    fn visit<R>(&self, index: usize, work: impl FnOnce(&mut FileModel, u64) -> R) -> R {
        let now = self.pump.now();
        let inner = &mut *self.locked();
        let file = &mut inner.files[index];
        let at = inner.job.unwrap_or(now).max(file.latest);
        if let Some(job) = &mut inner.job {
            *job = at;
        }
        work(file, at)
    }

    fn write(&self, index: usize, offset: u64, data: &[u8]) -> io::Result<()> {
        offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        self.visit(index, |file, at| {
            file.change(at, Change::Write { offset, data: Bytes::copy_from_slice(data) });
        });
        let counters = &mut self.locked().counters;
        counters.writes += 1;
        counters.bytes += data.len() as u64;
        Ok(())
    }

    fn sync(&self, index: usize) -> io::Result<()> {
        let now = self.pump.now();
        let (event, result) = {
            let inner = &mut *self.locked();
            let file = &mut inner.files[index];
            let start = inner.job.unwrap_or(now).max(file.latest);
            file.settle(start);
            let DiskSettings { sync_min_us, sync_max_us } = inner.settings;
            let micros = inner.rng.random_range(sync_min_us..=sync_max_us.max(sync_min_us));
            let mut nanos = micros * 1_000 * inner.slowdown;
            if inner.job.is_none() {
                // Nobody would wait for it.
                nanos = 0;
            }
            let done = if nanos == 0 { start } else { start.max(inner.busy_until) + nanos };
            if let Some(job) = &mut inner.job {
                *job = done;
                inner.busy_until = done;
            }
            let is_write = |pending: &&Pending| matches!(pending.change, Change::Write { .. });
            let writes = file.pending.iter().rev().take_while(is_write).count() as u64;
            let failed = inner.failing_syncs > 0;
            if failed {
                inner.failing_syncs -= 1;
                inner.counters.failed_syncs += 1;
                let synced =
                    file.pending.iter().rposition(|pending| matches!(pending.change, Change::Synced));
                file.pending.truncate(synced.map_or(0, |synced| synced + 1));
                let len = file.current.len;
                file.rebuild();
                // The length is the inode's, and that is not lost.
                file.change(done, Change::SetLen(len));
            } else {
                inner.counters.syncs += 1;
                file.change(done, Change::Synced);
                if done <= now {
                    file.settle(now);
                }
            }
            let result = if failed { Err(io::Error::other("input/output error")) } else { Ok(()) };
            (Event::Sync { file: file.name.clone(), writes, nanos: done - start, failed }, result)
        };
        self.pump.record(self.host, event);
        result
    }

    fn sync_names(&self) {
        let now = self.pump.now();
        let inner = &mut *self.locked();
        let at = inner.job.unwrap_or(now);
        for file in &mut inner.files {
            if file.exists && file.name_durable.is_none() {
                file.name_durable = Some(at.max(file.created));
            }
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("the process that held this is dead")
}

/// The [`Disk`] of one life of a host.
pub struct SimDisk {
    model: Arc<DiskModel>,
    life: Arc<Life>,
}

impl SimDisk {
    /// The disk as `life` has it.
    pub fn new(model: Arc<DiskModel>, life: Arc<Life>) -> SimDisk {
        SimDisk { model, life }
    }

    fn alive(&self) -> io::Result<()> {
        if self.life.is_alive() { Ok(()) } else { Err(dead()) }
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.alive()?;
        let locked_by = &mut self.model.locked().locked_by;
        if locked_by.is_some() {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process holds the lock"));
        }
        *locked_by = Some(self.life.number);
        Ok(Box::new(Lock { model: self.model.clone(), life: self.life.number }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.alive()?;
        let index = self.model.open(name);
        Ok(Box::new(SimFile { model: self.model.clone(), life: self.life.clone(), index }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.alive()?;
        Ok(self.model.locked().existing(name).is_some())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.alive()?;
        self.model.sync_names();
        Ok(())
    }

    fn describe(&self) -> String {
        format!("the disk of n{}", self.life.host)
    }
}

struct Lock {
    model: Arc<DiskModel>,
    life: u32,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let locked_by = &mut self.model.locked().locked_by;
        if *locked_by == Some(self.life) {
            *locked_by = None;
        }
    }
}

struct SimFile {
    model: Arc<DiskModel>,
    life: Arc<Life>,
    index: usize,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({})", self.index)
    }
}

impl SimFile {
    fn alive(&self) -> io::Result<()> {
        if self.life.is_alive() { Ok(()) } else { Err(dead()) }
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.alive()?;
        Ok(self.model.visit(self.index, |file, _| file.current.len))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.alive()?;
        self.model.visit(self.index, |file, _| {
            let end = offset.checked_add(buffer.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
            if end > file.current.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.current.read(offset, buffer);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.alive()?;
        self.model.write(self.index, offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.alive()?;
        self.model.visit(self.index, |file, at| file.change(at, Change::SetLen(len)));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.alive()?;
        self.model.sync(self.index)
    }
}

#[cfg(test)]
mod content_tests {
    use super::*;

    #[test]
    fn what_is_cut_off_reads_as_zeros_when_the_file_grows_again() {
        let mut content = Content::default();
        content.write(4_000, &[7; 5_000]);
        content.set_len(4_100);
        content.set_len(9_000);
        let mut all = vec![1; 9_000];
        content.read(0, &mut all);
        assert!(all[..4_000].iter().all(|byte| *byte == 0));
        assert!(all[4_000..4_100].iter().all(|byte| *byte == 7));
        assert!(all[4_100..].iter().all(|byte| *byte == 0));
    }
}
