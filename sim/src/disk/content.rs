//! What a file holds: as every reader sees it, as it is on the platter, and the changes between the two.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;

const BLOCK: usize = 4096;
/// What a disk writes whole or not at all.
pub const SECTOR: u64 = 512;

/// Bytes of a file; blocks that were never written are zeros.
#[derive(Clone, Default)]
pub struct Content {
    pub len: u64,
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
    pub fn read(&self, offset: u64, buffer: &mut [u8]) {
        let mut done = 0;
        for (block, start, take) in pieces(offset, buffer.len()) {
            match self.blocks.get(&block) {
                Some(bytes) => buffer[done..done + take].copy_from_slice(&bytes[start..start + take]),
                None => buffer[done..done + take].fill(0),
            }
            done += take;
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        for (block, start, take) in pieces(offset, data.len()) {
            let bytes = self.blocks.entry(block).or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(bytes)[start..start + take].copy_from_slice(&data[done..done + take]);
            done += take;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
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

    /// The sectors that hold anything but zeros.
    fn written_sectors(&self) -> Vec<u64> {
        let per_block = BLOCK as u64 / SECTOR;
        let of_block = |(block, bytes): (&u64, &Arc<[u8; BLOCK]>)| {
            let first = block * per_block;
            let sectors = bytes.chunks(SECTOR as usize).zip(first..);
            sectors
                .filter(|(sector, _)| sector.iter().any(|byte| *byte != 0))
                .map(|(_, number)| number)
                .collect::<Vec<_>>()
        };
        self.blocks.iter().flat_map(of_block).filter(|sector| sector * SECTOR < self.len).collect()
    }
}

#[derive(Clone)]
pub enum Change {
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

/// One file, whatever its name.
pub struct FileModel {
    /// The name that it was made under.
    pub name: String,
    pub current: Content,
    durable: Content,
    pending: VecDeque<Pending>,
    /// When the latest change happens: whoever uses the file then comes after it.
    pub latest: u64,
    /// How many have it open.
    pub handles: u32,
    /// Where a write landed last that went astray.
    pub astray: Option<u64>,
}

impl FileModel {
    pub fn new(name: &str, at: u64) -> FileModel {
        FileModel {
            name: name.to_owned(),
            current: Content::default(),
            durable: Content::default(),
            pending: VecDeque::new(),
            latest: at,
            handles: 0,
            astray: None,
        }
    }

    /// Moves to the platter what a sync has made durable by `now`.
    pub fn settle(&mut self, now: u64) {
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

    pub fn change(&mut self, at: u64, change: Change) {
        self.current.apply(&change);
        self.pending.push_back(Pending { at, change });
        self.latest = at;
    }

    /// How many writes there were since the last sync.
    pub fn unsynced(&self) -> u64 {
        let is_write = |pending: &&Pending| matches!(pending.change, Change::Write { .. });
        self.pending.iter().rev().take_while(is_write).count() as u64
    }

    /// Throws away what a sync should have made durable.
    pub fn drop_unsynced(&mut self, at: u64) {
        let synced = self.pending.iter().rposition(|pending| matches!(pending.change, Change::Synced));
        self.pending.truncate(synced.map_or(0, |synced| synced + 1));
        let len = self.current.len;
        self.rebuild();
        // The length is the inode's, and that is not lost.
        self.change(at, Change::SetLen(len));
    }

    /// The host goes down. What the rest of a running job would have done never happens, and a sync under
    /// way has promised nothing; with a generator, the power fails as well.
    pub fn crash(&mut self, now: u64, power_loss: Option<&mut StdRng>) {
        self.settle(now);
        let before = self.pending.len();
        self.pending.retain(|pending| pending.at <= now && !matches!(pending.change, Change::Synced));
        let cut = self.pending.len() != before;
        self.latest = now;
        let torn = power_loss.is_some();
        if let Some(rng) = power_loss {
            self.tear(rng);
        }
        if cut || torn {
            self.rebuild();
        }
    }

    /// Leaves of the unsynced changes what a power loss happens to leave: any of their sectors, in any order.
    fn tear(&mut self, rng: &mut StdRng) {
        // Some losses leave nothing, some nearly everything: both ends have their bugs.
        let survival = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        for pending in std::mem::take(&mut self.pending) {
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
                            self.durable.write(at, &data[done..done + take]);
                        }
                        done += take;
                    }
                }
            }
        }
    }

    /// Rots one sector: a flipped bit or noise, or zeros, as if it had never been written. Mostly one that holds
    /// something. Says which.
    pub fn rot(&mut self, rng: &mut StdRng, to_zeros: bool) -> Option<String> {
        let written = self.durable.written_sectors();
        let sectors = self.durable.len.div_ceil(SECTOR);
        let sector = match written.len() {
            0 if sectors == 0 => return None,
            0 => rng.random_range(0..sectors),
            _ if rng.random_bool(0.1) => rng.random_range(0..sectors),
            count => written[rng.random_range(0..count)],
        };
        let (from, to) = (sector * SECTOR, self.durable.len.min((sector + 1) * SECTOR));
        let mut bytes = vec![0; (to - from) as usize];
        self.durable.read(from, &mut bytes);
        let how = match rng.random_range(0..4) {
            0 => {
                rng.fill(&mut bytes[..]);
                "noise"
            }
            _ if to_zeros => {
                bytes.fill(0);
                "zeros"
            }
            _ => {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
                "a flipped bit"
            }
        };
        self.durable.write(from, &bytes);
        self.rebuild();
        Some(format!("{how} in sector {sector} of {}", self.name))
    }

    /// Nobody can reach it any more.
    pub fn forget(&mut self) {
        self.current = Content::default();
        self.durable = Content::default();
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
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
