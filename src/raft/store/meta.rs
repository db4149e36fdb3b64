//! What a server is and promised: its identity, its vote, its cluster. One block, kept in three copies.
//!
//! A change is written to the first copy, synced, written to the others, synced, and only then
//! acknowledged. Whenever the power fails there is a whole copy at least as new as what was
//! acknowledged last. When a copy has rotted another stands for it; when a write went astray, it spoiled one
//! copy and left one old, and the third is there. When none can be read, that is damage. A read that went astray is made again.
//!
//! The file is made under another name and renamed when all copies are in it, so one that exists was
//! complete once.

use std::io;

use serde::{Deserialize, Serialize};

use super::block::{self, BLOCK, Found};
use super::{Promise, damaged, sync, sync_dir};
use crate::env::{Disk, File};
use crate::mutant;
use crate::raft::Vote;

/// Name of the file.
pub const NAME: &str = "meta";
const MAKING: &str = "meta.tmp";
/// What its blocks say that they were written for; the log's files have smaller numbers.
const FILE: u64 = u64::MAX;
/// Where the copies are: far enough apart not to share what a disk erases or remaps at once.
const COPIES: [u64; 3] = [0, 8, 16];
const LAST_COPY: u64 = COPIES[COPIES.len() - 1];
/// How often a copy is read before it counts as damaged.
const READS: usize = 6;

/// Whether a file of this name is this file, or the one that becomes it.
pub fn is_mine(name: &str) -> bool {
    name == NAME || name == MAKING
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// See [`super::Identity`].
    pub node_id: u64,
    /// See [`super::Identity`].
    pub generation: u64,
    /// The term this server is in, and whom it supports in it.
    pub vote: Option<Vote>,
    /// The cluster it belongs to.
    pub cluster: Option<u64>,
    /// The cluster it promised to found.
    pub promise: Option<Promise>,
    /// Whether it took the place of one whose data was damaged.
    pub replaces: bool,
}

/// The open file.
pub struct MetaFile {
    file: Box<dyn File>,
    version: u64,
    /// Whether a write of it failed: what it holds is not known then.
    failed: bool,
}

fn write_copy(file: &dyn File, place: u64, version: u64, facts: &Facts) -> io::Result<()> {
    let payload = postcard::to_stdvec(facts).map_err(io::Error::other)?;
    if payload.len() > block::PAYLOAD {
        return Err(io::Error::other("the facts about this server do not fit into a block"));
    }
    let (bytes, _) = block::blocks(FILE, place, version, 0, &payload);
    file.write_at(place * BLOCK as u64, &bytes)
}

/// What the copy at a place says. A disk that once reads from elsewhere may come upon an old copy that it once wrote there by mistake, and
/// that one is whole: so it is believed when it was read twice in a row.
fn read_copy(file: &dyn File, place: u64) -> io::Result<Option<(u64, Facts)>> {
    if file.len()? < (place + 1) * BLOCK as u64 {
        return Ok(None);
    }
    let mut before = None;
    for _ in 0..READS {
        let mut bytes = [0; BLOCK];
        file.read_at(place * BLOCK as u64, &mut bytes)?;
        // Mutant S09: it is believed at first sight.
        if before == Some(bytes) || mutant::is("S09") {
            let Found::Block(header, payload) = block::look(FILE, place, &bytes) else { return Ok(None) };
            return Ok(postcard::from_bytes(payload).ok().map(|facts| (header.batch, facts)));
        }
        before = Some(bytes);
    }
    Ok(None)
}

impl MetaFile {
    /// Opens the file; `None` if there is none.
    ///
    /// # Errors
    /// `InvalidData` when no copy can be read.
    pub fn open(disk: &dyn Disk) -> io::Result<Option<(MetaFile, Facts)>> {
        if !disk.exists(NAME)? {
            return Ok(None);
        }
        let file = disk.open(NAME)?;
        let mut newest: Option<(u64, Facts)> = None;
        let mut unreadable = 0;
        for place in COPIES {
            match read_copy(&*file, place)? {
                None => unreadable += 1,
                Some(copy) => {
                    if newest.as_ref().is_none_or(|newest| newest.0 < copy.0) {
                        newest = Some(copy);
                    }
                }
            }
        }
        let Some((version, facts)) = newest else {
            return Err(damaged("no copy of this server's identity and vote can be read"));
        };
        if unreadable > 0 {
            tracing::warn!(
                unreadable,
                "this server's identity and vote: damaged copies are replaced by another"
            );
        }
        Ok(Some((MetaFile { file, version, failed: false }, facts)))
    }

    /// Makes the file of a new server, durably.
    pub fn found(disk: &dyn Disk, facts: &Facts) -> io::Result<MetaFile> {
        if disk.exists(MAKING)? {
            disk.remove(MAKING)?;
        }
        let file = disk.open(MAKING)?;
        file.preallocate((LAST_COPY + 1) * BLOCK as u64)?;
        for place in COPIES {
            write_copy(&*file, place, 1, facts)?;
        }
        sync(&*file)?;
        disk.rename(MAKING, NAME)?;
        sync_dir(disk)?;
        Ok(MetaFile { file, version: 1, failed: false })
    }

    /// Whether it holds what was last given to it.
    pub fn is_sound(&self) -> bool {
        !self.failed
    }

    /// Replaces what is remembered, durably.
    ///
    /// # Errors
    /// The disk's. It is not known then which of the two states it holds, and nothing is believed any more.
    pub fn save(&mut self, facts: &Facts) -> io::Result<()> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(io::Error::other("an earlier write of this server's identity and vote failed"));
        }
        self.version += 1;
        let [first, others @ ..] = COPIES;
        write_copy(&*self.file, first, self.version, facts)?;
        sync(&*self.file)?;
        for place in others {
            write_copy(&*self.file, place, self.version, facts)?;
        }
        sync(&*self.file)?;
        self.failed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::env::MemoryDisk;

    fn facts(generation: u64) -> Facts {
        Facts { node_id: 7, generation, ..Facts::default() }
    }

    #[test]
    fn a_rotten_copy_is_replaced_by_another_and_three_are_damage() {
        let disk = MemoryDisk::default();
        assert!(MetaFile::open(&disk).unwrap().is_none());
        let mut file = MetaFile::found(&disk, &facts(1)).unwrap();
        file.save(&facts(2)).unwrap();
        for place in COPIES {
            let raw = disk.open(NAME).unwrap();
            let mut kept = [0; BLOCK];
            raw.read_at(place * BLOCK as u64, &mut kept).unwrap();
            raw.write_at(place * BLOCK as u64 + 40, &[0xff]).unwrap();
            assert_eq!(MetaFile::open(&disk).unwrap().unwrap().1, facts(2));
            raw.write_at(place * BLOCK as u64, &kept).unwrap();
        }
        let raw = disk.open(NAME).unwrap();
        for place in COPIES {
            raw.write_at(place * BLOCK as u64 + 40, &[0xff]).unwrap();
        }
        assert_eq!(MetaFile::open(&disk).err().unwrap().kind(), io::ErrorKind::InvalidData);
    }

    /// A file whose first reads come from this block, whatever is asked for.
    #[derive(Debug)]
    struct Astray {
        file: Box<dyn File>,
        reads: AtomicU64,
        from: u64,
    }

    impl File for Astray {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let astray =
                self.reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            self.file.read_at(if astray.is_ok() { self.from * BLOCK as u64 } else { offset }, buffer)
        }
        fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.file.write_at(offset, data)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }
        fn preallocate(&self, len: u64) -> io::Result<()> {
            self.file.preallocate(len)
        }
        fn sync(&self) -> io::Result<()> {
            self.file.sync()
        }
    }

    #[test]
    fn an_old_copy_that_a_read_comes_upon_by_mistake_is_not_believed() {
        let disk = MemoryDisk::default();
        let mut file = MetaFile::found(&disk, &facts(1)).unwrap();
        // What was meant for the first copy once went to a block that nobody uses.
        write_raw(&disk, 11, read_raw(&disk, COPIES[0]));
        file.save(&facts(2)).unwrap();
        // One read is not enough to be believed; two that say the same are.
        for (reads, expected) in [(0, 2), (1, 2), (2, 1)] {
            let file = Astray { file: disk.open(NAME).unwrap(), reads: AtomicU64::new(reads), from: 11 };
            let (_, found) = read_copy(&file, COPIES[0]).unwrap().unwrap();
            assert_eq!(found, facts(expected), "{reads}");
        }
    }

    #[test]
    fn a_write_that_went_astray_is_outvoted_by_what_it_missed() {
        for (missed, hit) in [(0, 1), (1, 0), (1, 2), (2, 0), (2, 1)] {
            let disk = MemoryDisk::default();
            let mut file = MetaFile::found(&disk, &facts(1)).unwrap();
            let old = read_raw(&disk, COPIES[missed]);
            file.save(&facts(2)).unwrap();
            // The copy that was to be written is old, and another holds what was written for it; the first
            // copy is written alone, so what it hits is written over.
            if missed > 0 {
                write_raw(&disk, COPIES[hit], read_raw(&disk, COPIES[missed]));
            }
            write_raw(&disk, COPIES[missed], old);
            assert_eq!(MetaFile::open(&disk).unwrap().unwrap().1, facts(2));
        }
    }

    fn read_raw(disk: &dyn Disk, place: u64) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        disk.open(NAME).unwrap().read_at(place * BLOCK as u64, &mut bytes).unwrap();
        bytes
    }

    fn write_raw(disk: &dyn Disk, place: u64, bytes: [u8; BLOCK]) {
        disk.open(NAME).unwrap().write_at(place * BLOCK as u64, &bytes).unwrap();
    }

    #[test]
    fn a_save_that_stops_halfway_leaves_the_old_or_the_new() {
        let disk = MemoryDisk::default();
        MetaFile::found(&disk, &facts(1)).unwrap();
        write_copy(&*disk.open(NAME).unwrap(), COPIES[0], 2, &facts(2)).unwrap();
        let (mut file, found) = MetaFile::open(&disk).unwrap().unwrap();
        assert_eq!(found, facts(2));
        file.save(&facts(3)).unwrap();
        let raw = disk.open(NAME).unwrap();
        raw.write_at(3, &[0xff]).unwrap();
        assert_eq!(MetaFile::open(&disk).unwrap().unwrap().1, facts(3));
    }
}
