//! The log on disk: batches of records in preallocated segments, each batch written and synced at once.
//!
//! A **segment** is a file of zeros whose space is taken before it is used, so that writing into it
//! changes nothing but its bytes: such a sync costs half of one of a growing file. Its first block says
//! where the log stood when it began. A **batch** is a run of [`block`]s in one segment. It holds
//! **records**: entries, and marks that the log was cut behind an entry, purged up to one, or is known to
//! be committed up to one. Nothing written is ever changed: reading the records in order gives the log.
//! A segment is removed when it and all before it hold nothing but purged entries.
//!
//! The next batch is written when the last one is durable, so of the last one only anything may be
//! missing. On opening, behind the last whole batch there may be
//! * zeros: that is the end;
//! * blocks of one more batch, incomplete: it was torn and never acknowledged, and is erased;
//! * anything else: damage. What follows it was acknowledged, so nothing is cut off ([FAST'18, Alagappan
//!   and others, "Protocol-aware recovery for consensus-based storage"]).
//!
//! The last whole batch is written again on opening: a process that died, or whose sync failed, may have
//! left it in the page cache and nowhere else.
//!
//! What no log can notice by itself: that its last batch has turned to zeros, as if it had never been written. That is
//! a disk that lied about a sync. Every other batch is vouched for by the next one.
//!
//! Left out: recycling of segments. A new one is made of zeros in the background, which keeps the rule
//! above as simple as it is.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::vote::leader_id_std::CommittedLeaderId;
use serde::{Deserialize, Serialize};

use super::block::{self, BLOCK, Found, PAYLOAD};
use super::{damaged, locked, log_id_parts, sync, sync_dir};
use crate::env::{Disk, File};
use crate::mutant;
use crate::raft::{Entry, LogId};

const PREFIX: &str = "log-";
const FORMAT: u32 = 1;
/// Bytes of a record before its body: checksum, kind, term, index, length of the body.
const RECORD: usize = 4 + 1 + 8 + 8 + 4;
/// Most records of entries fit into this, so that they are not moved about while they grow.
pub const USUAL_RECORD: usize = 256;
/// Bytes read at once while opening.
const PIECE: usize = 1 << 20;

const ENTRY: u8 = 1;
const CUT: u8 = 2;
const PURGED: u8 = 3;
const COMMITTED: u8 = 4;
/// Added to a kind: there is no log id.
const NOTHING: u8 = 128;

/// Whether a file of this name is a file of the log.
pub fn is_mine(name: &str) -> bool {
    name.starts_with(PREFIX)
}

fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

/// The numbers of the segments in the directory, in ascending order.
pub fn numbers(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.list()?;
    let number = |name: &String| u64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok();
    Ok(names.iter().filter_map(number).collect())
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// One record of a batch, for writing.
#[derive(Debug)]
pub enum Record {
    /// An entry, encoded by [`encode_entry`].
    Entry(Vec<u8>),
    /// The log was cut behind this.
    Cut(Option<LogId>),
    /// Entries up to here were purged.
    Purged(LogId),
    /// Entries up to here are committed.
    Committed(Option<LogId>),
}

/// The record of an entry.
pub fn encode_entry(entry: &Entry) -> io::Result<Vec<u8>> {
    let record = head(ENTRY, Some(entry.log_id));
    let record = postcard::to_extend(&entry.payload, record).map_err(io::Error::other)?;
    seal(record)
}

fn head(kind: u8, log_id: Option<LogId>) -> Vec<u8> {
    let kind = if log_id.is_some() { kind } else { kind | NOTHING };
    let (term, index) = log_id.map(log_id_parts).unwrap_or_default();
    let mut record = Vec::with_capacity(if kind == ENTRY { USUAL_RECORD } else { RECORD });
    record.extend_from_slice(&[0; 4]);
    record.push(kind);
    record.extend_from_slice(&term.to_le_bytes());
    record.extend_from_slice(&index.to_le_bytes());
    record.extend_from_slice(&[0; 4]);
    record
}

fn seal(mut record: Vec<u8>) -> io::Result<Vec<u8>> {
    let body = u32::try_from(record.len() - RECORD).map_err(io::Error::other)?;
    record[RECORD - 4..RECORD].copy_from_slice(&body.to_le_bytes());
    let checksum = crc32fast::hash(&record[4..]);
    record[..4].copy_from_slice(&checksum.to_le_bytes());
    Ok(record)
}

/// The payload of a batch.
pub fn encode(records: impl IntoIterator<Item = Record>) -> io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    for record in records {
        payload.extend_from_slice(&match record {
            Record::Entry(record) => record,
            Record::Cut(kept) => seal(head(CUT, kept))?,
            Record::Purged(log_id) => seal(head(PURGED, Some(log_id)))?,
            Record::Committed(log_id) => seal(head(COMMITTED, log_id))?,
        });
    }
    Ok(payload)
}

/// A record found in a batch.
struct Parsed {
    kind: u8,
    log_id: Option<LogId>,
    /// Where the record begins in the batch's payload, and how long it is.
    at: usize,
    len: usize,
}

fn parse_one(bytes: &[u8], at: usize) -> io::Result<Parsed> {
    let bad = || damaged("a record is not what was written");
    let record = bytes.get(at..).and_then(|rest| rest.get(..RECORD)).ok_or_else(bad)?;
    let word = |from: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&record[from..from + 8]);
        u64::from_le_bytes(word)
    };
    let short = |from: usize| (0..4).fold(0, |sum, i| sum | u32::from(record[from + i]) << (8 * i));
    let len = RECORD + short(21) as usize;
    let whole = bytes.get(at..).and_then(|rest| rest.get(..len)).ok_or_else(bad)?;
    // Mutant S01: records have no checksums.
    if !mutant::is("S01") && crc32fast::hash(&whole[4..]) != short(0) {
        return Err(bad());
    }
    let log_id = (record[4] & NOTHING == 0).then(|| log_id(word(5), word(13)));
    Ok(Parsed { kind: record[4] & !NOTHING, log_id, at, len })
}

fn parse(payload: &[u8]) -> io::Result<Vec<Parsed>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < payload.len() {
        let record = match parse_one(payload, at) {
            Err(_) if mutant::is("S01") => break,
            record => record?,
        };
        if record.kind == 0 && mutant::is("S01") {
            break;
        }
        at += record.len;
        found.push(record);
    }
    Ok(found)
}

/// How far the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Entries up to here are gone, a snapshot covers them.
    pub purged: Option<LogId>,
    /// The last entry; the last purged one if there is no other.
    pub last: Option<LogId>,
    /// Entries up to here are known to be committed.
    pub committed: Option<LogId>,
}

/// What the first block of a segment says.
#[derive(Serialize, Deserialize)]
struct Beginning {
    format: u32,
    blocks: u64,
    purged: Option<(u64, u64)>,
    last: Option<(u64, u64)>,
    committed: Option<(u64, u64)>,
}

/// Where an entry is: its batch, and where in the batch's payload.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    block: u64,
    at: usize,
    len: usize,
    /// Bytes of all entries that were written up to it, those that were cut off among them.
    upto: u64,
}

struct Segment {
    file: Arc<dyn File>,
    blocks: u64,
    /// The highest index of any entry in it.
    newest: Option<u64>,
}

/// Where everything is, for readers.
#[derive(Default)]
pub struct Places {
    segments: BTreeMap<u64, Segment>,
    entries: BTreeMap<u64, Place>,
    /// Bytes of all entries that were found or written since the log was opened.
    written: u64,
}

impl Places {
    /// Bytes of all entries that were found or written since the log was opened. It never goes back.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of the entries behind `after`, and not behind `last`.
    pub fn bytes(&self, after: u64, last: u64) -> u64 {
        let before = |index: u64| {
            let up_to_it = self.entries.range(..=index).next_back().map(|(_, place)| place.upto);
            let first = self.entries.first_key_value().map(|(_, first)| first.upto - first.len as u64);
            up_to_it.or(first).unwrap_or_default()
        };
        before(last).saturating_sub(before(after))
    }

    /// The last entry that may go, if those behind it are to be `most` bytes at least.
    pub fn beyond(&self, most: u64) -> Option<u64> {
        let ((first, _), (newest, last)) = (self.entries.first_key_value()?, self.entries.last_key_value()?);
        let (mut stays, mut end) = (*first, newest + 1);
        // Not one by one: a log that no snapshot covers yet may be long, and this is asked often.
        while stays < end {
            let middle = stays + (end - stays) / 2;
            match self.entries.range(middle..).next() {
                Some((index, place)) if last.upto - place.upto >= most => stays = index + 1,
                _ => end = middle,
            }
        }
        self.entries.range(..stays).next_back().map(|(index, _)| *index)
    }
}

/// A segment that is ready to be used.
pub struct Prepared {
    number: u64,
    blocks: u64,
    file: Arc<dyn File>,
}

/// Makes a segment of zeros, durably.
///
/// # Errors
/// `StorageFull` leaves nothing behind. After any other the disk cannot be trusted.
pub fn prepare(disk: &dyn Disk, number: u64, blocks: u64) -> io::Result<Prepared> {
    let name = file_name(number);
    let file = disk.open(&name)?;
    let made = file.set_len(0).and_then(|()| file.preallocate(blocks * BLOCK as u64));
    if let Err(error) = made {
        drop(file);
        if error.kind() == io::ErrorKind::StorageFull {
            disk.remove(&name)?;
        }
        return Err(error);
    }
    sync(&*file)?;
    sync_dir(disk)?;
    Ok(Prepared { number, blocks, file: file.into() })
}

fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    for (at, piece) in bytes.chunks_mut(PIECE).enumerate() {
        file.read_at((at * PIECE) as u64, piece)?;
    }
    Ok(bytes)
}

fn is_blank(file: &dyn File) -> io::Result<bool> {
    Ok(read_all(file)?.iter().all(|byte| *byte == 0))
}

/// The log on disk, as its one writer has it.
pub struct Wal {
    disk: Arc<dyn Disk>,
    segment_blocks: u64,
    places: Arc<Mutex<Places>>,
    bounds: Bounds,
    /// The segment that is written to, and its first free block.
    active: u64,
    free: u64,
    /// The last batch: its number and the checksum of its last block.
    batch: u64,
    chain: u32,
}

/// The segment found last while opening: where to go on, and what to make sure of first.
struct Open {
    number: u64,
    /// The first block and bytes of the last whole batch.
    last: Option<(u64, Vec<u8>)>,
    beginning: Vec<u8>,
    /// Blocks of a torn batch.
    torn: Option<Range<u64>>,
}

impl Wal {
    fn empty(disk: Arc<dyn Disk>, segment_bytes: u64) -> Wal {
        Wal {
            disk,
            segment_blocks: (segment_bytes / BLOCK as u64).max(8),
            places: Arc::default(),
            bounds: Bounds::default(),
            active: 0,
            free: 0,
            batch: 0,
            chain: 0,
        }
    }

    /// An empty log in a directory without one.
    pub fn found(disk: Arc<dyn Disk>, segment_bytes: u64) -> io::Result<Wal> {
        let mut wal = Wal::empty(disk, segment_bytes);
        wal.start_segment(None, 0)?;
        Ok(wal)
    }

    /// The log that is in the directory; `None` if no segment was ever begun.
    ///
    /// # Errors
    /// `InvalidData` when it is damaged; nothing was changed then.
    pub fn open(disk: Arc<dyn Disk>, segment_bytes: u64) -> io::Result<Option<Wal>> {
        let mut wal = Wal::empty(disk, segment_bytes);
        let mut numbers = numbers(&*wal.disk)?;
        // One segment may have been made ready and not begun yet.
        let mut unused = Vec::new();
        if let Some(last) = numbers.last().copied()
            && is_blank(&*wal.disk.open(&file_name(last))?)?
        {
            unused.extend(numbers.pop());
        }
        let mut open = None;
        for (at, number) in numbers.iter().enumerate() {
            let is_last = at + 1 == numbers.len();
            match wal.open_segment(*number, open.as_ref(), is_last) {
                Ok(segment) => open = Some(segment),
                // Mutants S02 and S08: the log ends at the first thing that is damaged, or that the disk does not give.
                Err(error)
                    if mutant::is("S02") && error.kind() == io::ErrorKind::InvalidData
                        || mutant::is("S08") && at > 0 && error.kind() != io::ErrorKind::InvalidData =>
                {
                    unused.extend(&numbers[at + 1..]);
                    let free = wal.free;
                    if let Some(segment) = wal.locked().segments.get(number) {
                        open = Some(Open {
                            number: *number,
                            last: None,
                            beginning: Vec::new(),
                            torn: Some(free..segment.blocks),
                        });
                    }
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let found_any = open.is_some();
        if let Some(open) = open {
            wal.make_sure(&open)?;
        }
        for number in unused {
            wal.disk.remove(&file_name(number))?;
        }
        sync_dir(&*wal.disk)?;
        Ok(found_any.then_some(wal))
    }

    fn open_segment(&mut self, number: u64, before: Option<&Open>, is_last: bool) -> io::Result<Open> {
        let file: Arc<dyn File> = self.disk.open(&file_name(number))?.into();
        let bad = |place: u64, what: &str| {
            damaged(format!("{} at byte {}: {what}", file_name(number), place * BLOCK as u64))
        };
        let bytes = read_all(&*file)?;
        let block = |place: u64| bytes.get(place as usize * BLOCK..(place as usize + 1) * BLOCK);
        let found =
            |place: u64| block(place).map_or(Found::Damage, |bytes| block::look(number, place, bytes));
        let blocks = (bytes.len() / BLOCK) as u64;
        let Found::Block(header, payload) = found(0) else {
            return Err(bad(0, "its beginning cannot be read"));
        };
        let beginning: Beginning =
            postcard::from_bytes(payload).map_err(|error| bad(0, &error.to_string()))?;
        if beginning.format != FORMAT {
            return Err(bad(0, &format!("format {}, but this program reads {FORMAT}", beginning.format)));
        }
        if beginning.blocks != blocks || !bytes.len().is_multiple_of(BLOCK) {
            let want = beginning.blocks * BLOCK as u64;
            return Err(bad(blocks, &format!("the file ends here, but had {want} bytes")));
        }
        if let Some(before) = before {
            let follows = before.number + 1 == number && before.torn.is_none();
            if !(follows && header.batch == self.batch && header.chain == self.chain) {
                return Err(bad(0, "it does not follow the segment before it"));
            }
        } else {
            (self.batch, self.chain) = (header.batch, header.chain);
            let known = |parts: Option<(u64, u64)>| parts.map(|(term, index)| log_id(term, index));
            self.bounds = Bounds {
                purged: known(beginning.purged),
                last: known(beginning.last),
                committed: known(beginning.committed),
            };
        }
        self.locked().segments.insert(number, Segment { file, blocks, newest: None });
        (self.active, self.free) = (number, 1);
        let mut last = None;
        while let Some((parts, chain, payload)) = self.whole_batch(self.free, blocks, &found) {
            let records = parse(&payload).map_err(|error| bad(self.free, &error.to_string()))?;
            for record in records {
                self.apply(record, self.free).map_err(|error| bad(self.free, &error.to_string()))?;
            }
            let (from, to) = (self.free as usize * BLOCK, (self.free + parts) as usize * BLOCK);
            last = Some((self.free, bytes[from..to].to_vec()));
            (self.batch, self.chain) = (self.batch + 1, chain);
            self.free += parts;
        }
        let mut torn = None;
        // Mutants S01 and S05 know no difference between the end and damage.
        if !mutant::is("S05") && !mutant::is("S01") {
            for place in self.free..blocks {
                match found(place) {
                    Found::Blank => {}
                    Found::Block(header, _)
                        if is_last
                            && (header.batch, header.chain) == (self.batch + 1, self.chain)
                            && place - u64::from(header.part).min(place) == self.free =>
                    {
                        torn = Some(self.free..place + 1);
                    }
                    Found::Block(..) => return Err(bad(place, "a block that does not belong here")),
                    Found::Damage => return Err(bad(place, "a block that cannot be read")),
                }
            }
        }
        let beginning = bytes[..BLOCK].to_vec();
        Ok(Open { number, last, beginning, torn })
    }

    /// The batch that begins at `free`, if all of it is there: how many blocks, the checksum of the last
    /// one, and the payload.
    fn whole_batch<'a>(
        &self,
        free: u64,
        blocks: u64,
        found: &impl Fn(u64) -> Found<'a>,
    ) -> Option<(u64, u32, Vec<u8>)> {
        if free >= blocks {
            return None;
        }
        let Found::Block(first, _) = found(free) else { return None };
        let ours = (self.batch + 1, self.chain) == (first.batch, first.chain);
        if first.part != 0 || free + u64::from(first.parts) > blocks {
            return None;
        }
        // Mutant S05: nothing in a block tells where it belongs.
        if !ours && !mutant::is("S05") {
            return None;
        }
        let (mut payload, mut last) = (Vec::new(), first.checksum);
        for part in 0..first.parts {
            match found(free + u64::from(part)) {
                Found::Block(header, content)
                    if (header.batch, header.chain, header.part, header.parts)
                        == (first.batch, first.chain, part, first.parts) =>
                {
                    payload.extend_from_slice(content);
                    last = header.checksum;
                }
                // Mutant S01: what was not written is taken for what was.
                Found::Blank if mutant::is("S01") => payload.extend_from_slice(&[0; PAYLOAD]),
                _ => return None,
            }
        }
        Some((u64::from(first.parts), last, payload))
    }

    /// Makes durable what may be in the page cache only, and erases what was torn.
    fn make_sure(&mut self, open: &Open) -> io::Result<()> {
        let file = self.locked().segments.get(&open.number).map(|segment| segment.file.clone());
        let Some(file) = file else { return Ok(()) };
        if !open.beginning.is_empty() {
            file.write_at(0, &open.beginning)?;
        }
        if let Some((place, bytes)) = &open.last {
            file.write_at(place * BLOCK as u64, bytes)?;
        }
        if let Some(torn) = &open.torn {
            let len = (torn.end - torn.start) as usize * BLOCK;
            file.write_at(torn.start * BLOCK as u64, &vec![0; len])?;
            tracing::info!(bytes = len, "erased the end of the log, which was torn and never acknowledged");
        }
        sync(&*file)
    }

    fn locked(&self) -> MutexGuard<'_, Places> {
        locked(&self.places)
    }

    /// Follows a record that is in the batch at `block` of the active segment.
    fn apply(&mut self, record: Parsed, block: u64) -> io::Result<()> {
        let places = &mut *locked(&self.places);
        let bounds = &mut self.bounds;
        match (record.kind, record.log_id) {
            (ENTRY, Some(mut id)) => {
                let due = bounds.last.map_or(0, |last| last.index() + 1);
                if mutant::is("S05") {
                    id = log_id(log_id_parts(id).0, due);
                }
                // Part of mutant S06: what was never written is not missed.
                if id.index() != due && !places.entries.is_empty() && !mutant::is("S06") {
                    return Err(damaged(format!("entry {} where {due} was due", id.index())));
                }
                places.written += record.len as u64;
                let (at, len, upto) = (record.at, record.len, places.written);
                let place = Place { segment: self.active, block, at, len, upto };
                places.entries.insert(id.index(), place);
                if let Some(segment) = places.segments.get_mut(&self.active) {
                    segment.newest = segment.newest.max(Some(id.index()));
                }
                bounds.last = Some(id);
            }
            (CUT, kept) => {
                places.entries.split_off(&kept.map_or(0, |kept| kept.index() + 1));
                if bounds.last.map(|last| last.index()) > kept.map(|kept| kept.index()) {
                    bounds.last = kept;
                }
            }
            (PURGED, Some(id)) => {
                places.entries = places.entries.split_off(&(id.index() + 1));
                bounds.purged = Some(id);
                // A snapshot can cover more than the log ever held.
                if bounds.last.is_none_or(|last| last.index() <= id.index()) {
                    bounds.last = Some(id);
                }
            }
            (COMMITTED, committed) => bounds.committed = committed,
            (kind, _) => return Err(damaged(format!("a record of unknown kind {kind}"))),
        }
        Ok(())
    }

    /// How far the log is.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Where everything is, for readers.
    pub fn places(&self) -> Arc<Mutex<Places>> {
        self.places.clone()
    }

    fn blocks_left(&self) -> u64 {
        let blocks = self.locked().segments.get(&self.active).map_or(0, |segment| segment.blocks);
        blocks.saturating_sub(self.free)
    }

    /// Whether a batch of this payload needs a segment of its own.
    pub fn needs_segment(&self, payload: usize) -> bool {
        block::blocks_for(payload) as u64 > self.blocks_left()
    }

    /// The segment to make ready in the background, if it is time: its number and blocks.
    pub fn due_segment(&self) -> Option<(u64, u64)> {
        (self.blocks_left() < self.segment_blocks / 2).then_some((self.active + 1, self.segment_blocks))
    }

    /// Goes on in a new segment, with room for `payload`. Blocks.
    ///
    /// # Errors
    /// `StorageFull` leaves everything as it was. After any other the disk cannot be trusted.
    pub fn start_segment(&mut self, prepared: Option<Prepared>, payload: usize) -> io::Result<()> {
        let number = self.active + 1;
        let blocks = self.segment_blocks.max(1 + block::blocks_for(payload) as u64);
        let Prepared { file, blocks, .. } = match prepared {
            Some(prepared) if prepared.number == number && prepared.blocks >= blocks => prepared,
            _ => prepare(&*self.disk, number, blocks)?,
        };
        let Bounds { purged, last, committed } = self.bounds;
        let beginning = Beginning {
            format: FORMAT,
            blocks,
            purged: purged.map(log_id_parts),
            last: last.map(log_id_parts),
            committed: committed.map(log_id_parts),
        };
        let payload = postcard::to_stdvec(&beginning).map_err(io::Error::other)?;
        let (bytes, _) = block::blocks(number, 0, self.batch, self.chain, &payload);
        file.write_at(0, &bytes)?;
        sync(&*file)?;
        self.locked().segments.insert(number, Segment { file, blocks, newest: None });
        (self.active, self.free) = (number, 1);
        Ok(())
    }

    /// Writes a batch durably. There must be room for it. Blocks.
    ///
    /// # Errors
    /// `StorageFull`: nothing has changed, and it can be tried again. After any other the disk cannot be
    /// trusted.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let file = self.locked().segments.get(&self.active).map(|segment| segment.file.clone());
        let file = file.ok_or_else(|| io::Error::other("the log has no segment"))?;
        let (bytes, last) = block::blocks(self.active, self.free, self.batch + 1, self.chain, payload);
        file.write_at(self.free * BLOCK as u64, &bytes)?;
        sync(&*file)?;
        for record in parse(payload)? {
            self.apply(record, self.free)?;
        }
        (self.batch, self.chain) = (self.batch + 1, last);
        self.free += (bytes.len() / BLOCK) as u64;
        Ok(())
    }

    /// Whether there are segments that hold nothing but purged entries.
    pub fn has_purged_segments(&self) -> bool {
        self.first_if_purged().is_some()
    }

    fn first_if_purged(&self) -> Option<u64> {
        let purged = self.bounds.purged.map(|purged| purged.index());
        let places = self.locked();
        let (number, first) = places.segments.first_key_value()?;
        (*number != self.active && first.newest <= purged).then_some(*number)
    }

    /// Removes them, oldest first; each durably before the next, so that no hole can appear. Blocks.
    pub fn remove_purged_segments(&mut self) -> io::Result<()> {
        while let Some(number) = self.first_if_purged() {
            self.locked().segments.remove(&number);
            self.disk.remove(&file_name(number))?;
            sync_dir(&*self.disk)?;
        }
        Ok(())
    }
}

/// Reads the entries of a range from disk, in order, as long as `room` says yes; whether it ever said
/// no. Entries that are not there are left out. Blocks.
///
/// # Errors
/// `InvalidData` when one is damaged.
pub fn read(
    places: &Mutex<Places>,
    range: Range<u64>,
    room: &mut impl FnMut(&Entry) -> bool,
) -> io::Result<(Vec<Entry>, bool)> {
    let wanted: Vec<(u64, Place, Arc<dyn File>)> = {
        let places = locked(places);
        let file = |place: &Place| Some(places.segments.get(&place.segment)?.file.clone());
        places.entries.range(range).filter_map(|(index, at)| Some((*index, *at, file(at)?))).collect()
    };
    let mut entries = Vec::new();
    for (index, place, file) in wanted {
        let entry = read_entry(index, place, &*file)?;
        if !room(&entry) {
            return Ok((entries, true));
        }
        entries.push(entry);
    }
    Ok((entries, false))
}

fn read_entry(index: u64, place: Place, file: &dyn File) -> io::Result<Entry> {
    let bad = |what: &str| damaged(format!("{}: entry {index}: {what}", file_name(place.segment)));
    let (first, last) = (place.at / PAYLOAD, (place.at + place.len - 1) / PAYLOAD);
    let mut bytes = vec![0; (last - first + 1) * BLOCK];
    let from = place.block + first as u64;
    file.read_at(from * BLOCK as u64, &mut bytes)?;
    let mut payload = Vec::with_capacity(bytes.len());
    for (place_in_file, block) in (from..).zip(bytes.chunks(BLOCK)) {
        match block::look(place.segment, place_in_file, block) {
            Found::Block(_, content) => payload.extend_from_slice(content),
            Found::Blank if mutant::is("S01") => payload.extend_from_slice(&[0; PAYLOAD]),
            _ => return Err(bad("a block cannot be read")),
        }
    }
    let at = place.at - first * PAYLOAD;
    let record = parse_one(&payload, at).map_err(|error| bad(&error.to_string()))?;
    let (term, own_index) = record.log_id.map(log_id_parts).unwrap_or_default();
    if record.kind != ENTRY || (own_index != index && !mutant::is("S05")) {
        return Err(bad("another entry is in its place"));
    }
    let body = &payload[at + RECORD..at + record.len];
    let payload = postcard::from_bytes(body).map_err(|error| bad(&error.to_string()))?;
    Ok(Entry { log_id: log_id(term, index), payload })
}
