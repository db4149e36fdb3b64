//! A host's disk: it outlives processes and power losses, and remembers exactly what it promised to.
//!
//! A file is kept twice: as every reader sees it, and as it is on the platter. Between the two lies the
//! list of what was written since, in order ([`content`]). A sync moves the list over to the platter; a power
//! loss lets each 512-byte sector of it survive or not at random, in any subset; the death of a process
//! leaves it in the page cache, where the next process finds it. Names are kept the same way ([`names`]).
//!
//! Time passes inside a blocking job although the job itself runs in one go: every write is stamped
//! with the moment at which it would have happened, after the syncs before it in the job. A crash in the
//! middle of a job therefore finds the writes up to that moment, and none of the later ones, and the
//! sync that was under way has promised nothing.
//!
//! What else can go wrong is said to the disk by the storm ([`Wrong`], [`DiskModel::rot`], [`DiskModel::replace`]):
//!
//! * a failed sync drops what it should have made durable: reads show the old bytes again, and the next sync
//!   succeeds, having nothing to do. This is what Linux may do, and why an error from a sync must stop a node;
//! * reads and writes fail, reads end too soon, a full disk refuses to grow;
//! * calls are slow, or do not return for a while;
//! * a write lands elsewhere in its file; some sectors of a read come from elsewhere: often from where a write went astray
//!   before, as with an address line that is stuck, or from where the sector was before the disk moved it, as with an
//!   outdated map, so that a read may find what is whole and old. A place that was read wrongly is right the next two
//!   times: what comes twice in a row no program could doubt;
//! * sectors rot while the host is down;
//! * a sync says that it is done and is not. No program can do anything about that: a run in which it
//!   happens is judged by less.
//!
//! Left out: a write that lands in another file.

mod content;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use driftline::env::{Disk, File};
use rand::RngExt;
use tokio::sync::mpsc::UnboundedSender;

use crate::clock::{Life, Pump};
use crate::scenario::{DiskSettings, Weather};
use crate::trace::Event;
use content::{Change, FileModel, SECTOR, sectors};
use names::Names;

/// How long a read or write takes on a disk that is slow by one, in nanoseconds.
const CALL_NS: u64 = 20_000;

/// How a host goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies; the page cache stays.
    Kill,
    /// The power fails; only the platter stays.
    PowerLoss,
}

/// Something that is wrong with a disk. Several may be in force at once: what they say of how slow or full the disk is counts as the
/// worst of it, and what they let happen so many times happens by one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// The next so many syncs fail, and what they should have made durable is gone.
    pub failing_syncs: u32,
    /// So many reads are well before anything below happens to one.
    pub good_reads: u32,
    /// The next so many reads fail.
    pub failing_reads: u32,
    /// What is said of reads is of files only whose names begin so.
    pub read_aim: Option<&'static str>,
    /// The next so many writes fail.
    pub failing_writes: u32,
    /// The next so many reads find the file too short.
    pub short_reads: u32,
    /// The next so many writes land elsewhere in their file.
    pub misdirected_writes: u32,
    /// They are to files whose names begin so.
    pub misdirected_write_aim: Option<&'static str>,
    /// In the next so many reads some sectors come from elsewhere in their file: in those in which that makes a difference.
    pub misdirected_reads: u32,
    /// They come from where what was there before still is.
    pub outdated: bool,
    /// Syncs promise what they do not do.
    pub lies: bool,
    /// Everything takes so many times as long; 0 and 1 are as usual.
    pub slowness: u64,
    /// No call returns before this moment.
    pub stalled_until: u64,
    /// All files together may hold so many bytes.
    pub capacity: Option<u64>,
    /// A sync that takes long, so that something can happen in the middle of it: of a file whose name begins so,
    /// the so-manieth from now.
    pub trap: Option<(&'static str, u32)>,
}

/// Something wrong that is in force.
#[derive(Default)]
struct Trouble {
    wrong: Wrong,
    /// Who wants to know when it first strikes.
    told: Option<UnboundedSender<()>>,
}

impl Trouble {
    /// It has struck.
    fn strikes(&mut self) {
        if let Some(told) = self.told.take() {
            // Who no longer listens does not need to know.
            let _ = told.send(());
        }
    }
}

/// Takes one of a number of strikes that are still to come.
fn take(left: &mut u32) -> bool {
    let strikes = *left > 0;
    *left = left.saturating_sub(1);
    strikes
}

/// What becomes of a read.
enum Misread {
    /// It is answered with an error.
    Fails,
    /// It ends too soon.
    Short,
    /// Some of it may come from elsewhere, as this trouble has it; with `outdated`, from what was there before.
    Astray { trouble: u64, outdated: bool },
}

/// How long a sync takes that was waited for.
const TRAPPED_NS: u64 = 5_000_000;

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
    /// Reads, writes and syncs that were answered with an error, for want of space too.
    pub errors: u64,
    /// Sectors that rotted, writes and reads that went astray.
    pub damages: u64,
    /// Syncs that lied, and sectors that forgot that they were ever written.
    pub lies: u64,
    /// How often another disk took its place.
    pub replacements: u64,
}

impl DiskCounters {
    /// Whether all that the disk ever promised to keep is there. An error is no promise.
    pub fn kept_all(&self) -> bool {
        self.damages + self.lies + self.replacements == 0
    }
}

/// The disk of one host.
pub struct DiskModel {
    host: u32,
    pump: Arc<Pump>,
    inner: Mutex<Inner>,
}

struct Inner {
    settings: DiskSettings,
    weather: Weather,
    files: Vec<FileModel>,
    names: Names,
    /// The time inside the blocking job that runs.
    job: Option<u64>,
    busy_until: u64,
    /// What is wrong, by number; what has none of its own is 0.
    troubles: BTreeMap<u64, Trouble>,
    /// The last number.
    numbered: u64,
    locked_by: Option<u32>,
    counters: DiskCounters,
    /// The names under which files were made that were damaged.
    hit: BTreeSet<String>,
}

impl Inner {
    /// A file was damaged.
    fn damaged(&mut self, index: usize) {
        self.counters.damages += 1;
        self.hit.insert(self.files[index].name.clone());
    }

    /// When a sync that begins at `start` is done: one after the other, each as long as is drawn, `least` nanoseconds at
    /// least.
    fn synced_at(&mut self, start: u64, least: u64) -> u64 {
        let DiskSettings { sync_min_us, sync_max_us } = self.settings;
        let micros = self.weather.at(start).random_range(sync_min_us..=sync_max_us.max(sync_min_us));
        let nanos = (micros * 1_000 * self.slowness()).max(least);
        match &mut self.job {
            // Nobody would wait for it.
            None => start,
            Some(_) if nanos == 0 => start,
            Some(job) => {
                let done = start.max(self.busy_until) + nanos;
                *job = done;
                self.busy_until = done;
                done
            }
        }
    }

    /// So many times as long as usual everything takes.
    fn slowness(&self) -> u64 {
        self.troubles.values().map(|trouble| trouble.wrong.slowness).max().unwrap_or(0).max(1)
    }

    /// Whether a trouble of which this can be taken strikes; the first that there is.
    fn strikes(&mut self, mut take: impl FnMut(&mut Wrong) -> bool) -> bool {
        for trouble in self.troubles.values_mut() {
            if take(&mut trouble.wrong) {
                trouble.strikes();
                return true;
            }
        }
        false
    }

    /// Whether a sync lies.
    fn lies(&mut self) -> bool {
        let lies = self.strikes(|wrong| wrong.lies);
        self.counters.lies += u64::from(lies);
        lies
    }

    /// What becomes of a read of this file. Whatever has good reads left counts this as one of them.
    fn misread(&mut self, index: usize) -> Option<Misread> {
        let name = &self.files[index].name;
        for (number, trouble) in &mut self.troubles {
            let wrong = &mut trouble.wrong;
            let left = u64::from(wrong.failing_reads)
                + u64::from(wrong.short_reads)
                + u64::from(wrong.misdirected_reads);
            let is_meant = wrong.read_aim.is_none_or(|prefix| name.starts_with(prefix));
            if left == 0 || !is_meant || take(&mut wrong.good_reads) {
                continue;
            }
            if take(&mut wrong.failing_reads) {
                trouble.strikes();
                return Some(Misread::Fails);
            }
            if take(&mut wrong.short_reads) {
                trouble.strikes();
                return Some(Misread::Short);
            }
            return Some(Misread::Astray { trouble: *number, outdated: wrong.outdated });
        }
        None
    }

    fn used(&self) -> u64 {
        self.names.iter().map(|(_, file)| self.files[file].current.len).sum()
    }

    /// A file is to become `more` bytes longer.
    fn grow(&mut self, more: u64) -> io::Result<()> {
        let wanted = self.used().saturating_add(more);
        if more > 0 && self.strikes(|wrong| wrong.capacity.is_some_and(|capacity| wanted > capacity)) {
            self.counters.errors += 1;
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        Ok(())
    }
}

fn broken() -> io::Error {
    io::Error::other("input/output error")
}

impl DiskModel {
    /// The empty disk of a new host.
    pub fn new(pump: Arc<Pump>, host: u32, seed: u64, settings: DiskSettings) -> Arc<DiskModel> {
        let inner = Inner {
            settings,
            weather: Weather::new(seed, &format!("disk {host}")),
            files: Vec::new(),
            names: Names::default(),
            job: None,
            busy_until: 0,
            troubles: BTreeMap::new(),
            numbered: 0,
            locked_by: None,
            counters: DiskCounters::default(),
            hit: BTreeSet::new(),
        };
        Arc::new(DiskModel { host, pump, inner: Mutex::new(inner) })
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is wrong with it from now on; the number ends it. Who is to be told is told when it first strikes.
    pub fn add_trouble(&self, wrong: Wrong, told: Option<UnboundedSender<()>>) -> u64 {
        let inner = &mut *self.locked();
        inner.numbered += 1;
        inner.troubles.insert(inner.numbered, Trouble { wrong, told });
        inner.numbered
    }

    /// Ends what is wrong.
    pub fn end_trouble(&self, number: u64) {
        self.locked().troubles.remove(&number);
    }

    /// Changes what is wrong with it until it is healed.
    pub fn set_wrong(&self, change: impl FnOnce(&mut Wrong)) {
        change(&mut self.locked().troubles.entry(0).or_default().wrong);
    }

    /// Nothing is wrong with it any more. What is damaged stays damaged.
    pub fn heal(&self) {
        self.locked().troubles.clear();
    }

    /// What the disk has done so far.
    pub fn counters(&self) -> DiskCounters {
        self.locked().counters
    }

    /// Whether a file whose name begins so was ever damaged.
    pub fn was_hit(&self, prefix: &str) -> bool {
        self.locked().hit.iter().any(|name| name.starts_with(prefix))
    }

    /// How many bytes all files together have.
    pub fn used(&self) -> u64 {
        self.locked().used()
    }

    fn strange(&self, what: &str) {
        self.pump.note(self.host, "disk", what);
    }

    /// Rots so many sectors. The host must be down: what is in memory does not rot.
    ///
    /// Some turn to zeros if that is allowed. That is a write that was acknowledged and then never happened: no
    /// log can tell its last entry from one that was never there, so it counts as a lie and not as damage.
    pub fn rot(&self, sectors: u32, to_zeros: bool) {
        for _ in 0..sectors {
            let rotten = {
                let inner = &mut *self.locked();
                let rng = &mut inner.weather.at(self.pump.now());
                let files: Vec<usize> = inner.names.iter().map(|(_, file)| file).collect();
                if files.is_empty() {
                    return;
                }
                let file = files[rng.random_range(0..files.len())];
                let to_zeros = to_zeros && rng.random_bool(0.3);
                let rotten = inner.files[file].rot(rng, to_zeros);
                match &rotten {
                    Some(_) if to_zeros => inner.counters.lies += 1,
                    Some(_) => inner.damaged(file),
                    None => {}
                }
                rotten
            };
            if let Some(what) = rotten {
                self.strange(&what);
            }
        }
    }

    /// Everything on it is gone, for ever: it is another disk. The host must be down.
    pub fn replace(&self) {
        {
            let inner = &mut *self.locked();
            inner.locked_by = None;
            inner.counters.replacements += 1;
            inner.names.clear();
            inner.files.iter_mut().for_each(FileModel::forget);
        }
        self.strange("replaced by an empty one");
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

    /// The host goes down.
    pub fn crash(&self, crash: Crash) {
        let now = self.pump.now();
        let inner = &mut *self.locked();
        inner.locked_by = None;
        inner.busy_until = now;
        let power_loss = crash == Crash::PowerLoss;
        if power_loss {
            inner.troubles.values_mut().for_each(|trouble| trouble.wrong.failing_syncs = 0);
        }
        let rng = &mut inner.weather.at(now);
        for file in &mut inner.files {
            file.crash(now, power_loss.then_some(&mut *rng));
        }
        inner.names.crash(now, power_loss.then_some(rng));
    }

    /// When a call that begins now is done, inside a job or not.
    fn call(&self, after: u64, inner: &mut Inner) -> u64 {
        let now = self.pump.now();
        let mut at = inner.job.unwrap_or(now).max(after);
        // Outside of a job nobody would wait for it.
        if inner.job.is_some() {
            let slowness = inner.slowness();
            if slowness > 1 {
                at += CALL_NS * slowness;
            }
            let mut done = at;
            for trouble in inner.troubles.values_mut() {
                if trouble.wrong.slowness > 1 || trouble.wrong.stalled_until > at {
                    trouble.strikes();
                }
                done = done.max(trouble.wrong.stalled_until);
            }
            at = done;
            inner.job = Some(at);
        }
        at
    }

    fn open(&self, name: &str) -> usize {
        let inner = &mut *self.locked();
        let at = self.call(0, inner);
        let file = match inner.names.get(name) {
            Some(file) => file,
            None => {
                inner.files.push(FileModel::new(name, at));
                let file = inner.files.len() - 1;
                inner.names.create(at, name, file);
                file
            }
        };
        inner.files[file].handles += 1;
        file
    }

    /// Comes to a file: after whatever is still happening to it.
    fn visit<R>(&self, index: usize, work: impl FnOnce(&mut FileModel, u64) -> R) -> R {
        let inner = &mut *self.locked();
        let at = self.call(inner.files[index].latest, inner);
        work(&mut inner.files[index], at)
    }

    fn read(&self, index: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let len = self.visit(index, |file, _| file.current.len);
        if end > len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let inner = &mut *self.locked();
        match inner.misread(index) {
            Some(Misread::Fails) => {
                inner.counters.errors += 1;
                self.strange("a read fails");
                return Err(broken());
            }
            Some(Misread::Short) => {
                inner.counters.errors += 1;
                self.strange("a read ends too soon");
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            astray => {
                let file = &mut inner.files[index];
                file.current.read(offset, buffer);
                let spared = file.spared(&sectors(offset, buffer.len()));
                if let Some(Misread::Astray { trouble, outdated }) = astray
                    && let rng = &mut inner.weather.at(self.pump.now())
                    && let Some(what) = file.misread(rng, offset, buffer, &spared, outdated)
                {
                    if let Some(trouble) = inner.troubles.get_mut(&trouble) {
                        take(&mut trouble.wrong.misdirected_reads);
                        trouble.strikes();
                    }
                    inner.damaged(index);
                    self.strange(&what);
                }
            }
        }
        Ok(())
    }

    fn write(&self, index: usize, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let inner = &mut *self.locked();
        inner.grow(end.saturating_sub(inner.files[index].current.len))?;
        let at = self.call(inner.files[index].latest, inner);
        if inner.strikes(|wrong| take(&mut wrong.failing_writes)) {
            inner.counters.errors += 1;
            self.strange("a write fails");
            return Err(broken());
        }
        let mut to = offset;
        let len = inner.files[index].current.len;
        let name = inner.files[index].name.clone();
        let is_meant =
            |wrong: &Wrong| wrong.misdirected_write_aim.is_none_or(|prefix| name.starts_with(prefix));
        if len >= data.len() as u64 + SECTOR
            && inner.strikes(|wrong| is_meant(wrong) && take(&mut wrong.misdirected_writes))
        {
            inner.damaged(index);
            to = inner.weather.at(at).random_range(0..=(len - data.len() as u64) / SECTOR) * SECTOR;
            // Where it belongs is not elsewhere.
            if to == offset {
                to = if to < SECTOR { SECTOR } else { to - SECTOR };
            }
            inner.files[index].astray = Some(to);
            self.strange(&format!(
                "a write of {} bytes to {offset} of {} lands at {to}",
                data.len(),
                inner.files[index].name
            ));
        }
        inner.files[index].change(at, Change::Write { offset: to, data: Bytes::copy_from_slice(data) });
        inner.counters.writes += 1;
        inner.counters.bytes += data.len() as u64;
        Ok(())
    }

    fn set_len(&self, index: usize, len: u64) -> io::Result<()> {
        let inner = &mut *self.locked();
        inner.grow(len.saturating_sub(inner.files[index].current.len))?;
        let at = self.call(inner.files[index].latest, inner);
        inner.files[index].change(at, Change::SetLen(len));
        Ok(())
    }

    fn sync(&self, index: usize) -> io::Result<()> {
        let now = self.pump.now();
        let (event, result) = {
            let inner = &mut *self.locked();
            let start = self.call(inner.files[index].latest, inner);
            inner.files[index].settle(start);
            let mut least = 0;
            for trouble in inner.troubles.values_mut() {
                if let Some((prefix, left)) = &mut trouble.wrong.trap
                    && inner.files[index].name.starts_with(*prefix)
                {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        trouble.wrong.trap = None;
                        trouble.strikes();
                        least = TRAPPED_NS;
                    }
                }
            }
            let done = inner.synced_at(start, least);
            let writes = inner.files[index].unsynced();
            let failed = inner.strikes(|wrong| take(&mut wrong.failing_syncs));
            if failed {
                inner.counters.failed_syncs += 1;
                inner.counters.errors += 1;
                inner.files[index].drop_unsynced(done);
            } else if !inner.lies() {
                inner.counters.syncs += 1;
                inner.files[index].change(done, Change::Synced);
                if done <= now {
                    inner.files[index].settle(now);
                }
            }
            let result = if failed { Err(broken()) } else { Ok(()) };
            let file = inner.files[index].name.clone();
            (Event::Sync { file, writes, nanos: done - start, failed }, result)
        };
        self.pump.record(self.host, event);
        result
    }

    /// Takes as long as the sync of a file, fails as one and lies as one: a name that is not durable may be gone after a crash,
    /// or be there.
    fn sync_names(&self) -> io::Result<()> {
        let now = self.pump.now();
        let inner = &mut *self.locked();
        let start = self.call(0, inner);
        let done = inner.synced_at(start, 0);
        let failed = inner.strikes(|wrong| take(&mut wrong.failing_syncs));
        if failed {
            inner.counters.failed_syncs += 1;
            inner.counters.errors += 1;
        } else if !inner.lies() {
            inner.names.sync(done);
        }
        if failed {
            self.strange("a sync of the directory fails");
            return Err(broken());
        }
        let reachable = inner.names.reachable(now);
        for (index, file) in inner.files.iter_mut().enumerate() {
            if file.handles == 0 && !reachable.contains(&index) {
                file.forget();
            }
        }
        Ok(())
    }

    fn change_names(&self, existing: &str, change: impl FnOnce(&mut Names, u64)) -> io::Result<()> {
        let inner = &mut *self.locked();
        let file = inner.names.get(existing).ok_or(io::ErrorKind::NotFound)?;
        let at = self.call(inner.files[file].latest, inner);
        change(&mut inner.names, at);
        Ok(())
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
        Ok(self.model.locked().names.get(name).is_some())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.alive()?;
        let names = &self.model.locked().names;
        Ok(names.iter().map(|(name, _)| name).filter(|name| !name.contains('/')).cloned().collect())
    }

    fn list_in(&self, folder: &str) -> io::Result<Vec<String>> {
        self.alive()?;
        let inside = |name: &&String| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        Ok(self.model.locked().names.iter().map(|(name, _)| name).filter(inside).cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.alive()?;
        self.model.change_names(from, |names, at| names.rename(at, from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.alive()?;
        self.model.change_names(name, |names, at| names.remove(at, name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.alive()?;
        self.model.sync_names()
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

impl Drop for SimFile {
    fn drop(&mut self) {
        let file = &mut self.model.locked().files[self.index];
        file.handles = file.handles.saturating_sub(1);
    }
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
        self.model.read(self.index, offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.alive()?;
        self.model.write(self.index, offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.alive()?;
        self.model.set_len(self.index, len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.alive()?;
        if self.model.locked().files[self.index].current.len < len {
            self.model.set_len(self.index, len)?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.alive()?;
        self.model.sync(self.index)
    }
}
