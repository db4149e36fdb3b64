//! What a file holds: as every reader sees it, as it is on the platter, and the changes between the two.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

const BLOCK: usize = 4096;
/// What a disk writes whole or not at all.
pub const SECTOR: u64 = 512;
/// So many of the states that a sector had before are remembered. A vote is written twice for each election, so that the
/// oldest of these is one of several terms ago.
const STATES: usize = 8;
/// A read that goes astray goes astray in at most so many sectors.
const MOST_ASTRAY: u64 = 8;

/// So many reads of a sector are right after one that was not.
const RIGHT_READS: u32 = 2;

/// The bytes of a sector.
type Sector = [u8; SECTOR as usize];

/// The sectors that these bytes of a file touch.
pub fn sectors(offset: u64, len: usize) -> Range<u64> {
    offset / SECTOR..(offset + len as u64).div_ceil(SECTOR)
}

/// The part of a sector that is among `len` bytes from `offset` on: where it is in the sector, and where among them.
fn shared(sector: u64, offset: u64, len: usize) -> (Range<usize>, Range<usize>) {
    let from = (sector * SECTOR).max(offset);
    let to = ((sector + 1) * SECTOR).min(offset + len as u64).max(from);
    let within = |start: u64| (from - start) as usize..(to - start) as usize;
    (within(sector * SECTOR), within(offset))
}

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

    fn sector(&self, number: u64) -> Sector {
        let mut bytes = [0; SECTOR as usize];
        self.read(number * SECTOR, &mut bytes);
        bytes
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
    /// What was on the platter in place of a sector before, the oldest first.
    outdated: BTreeMap<u64, VecDeque<Sector>>,
    /// The sectors of which a read came from elsewhere, and how many are still to be right.
    misread: BTreeMap<u64, u32>,
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
            outdated: BTreeMap::new(),
            misread: BTreeMap::new(),
        }
    }

    /// Changes what is on the platter.
    fn persist(&mut self, change: &Change) {
        if let Change::Write { offset, data } = change {
            let whole = offset.div_ceil(SECTOR)..(offset + data.len() as u64) / SECTOR;
            for sector in whole {
                let (before, at) = (self.durable.sector(sector), (sector * SECTOR - offset) as usize);
                // A place that was never written to has no state to go back to.
                if before != [0; SECTOR as usize] && before != data[at..at + SECTOR as usize] {
                    let states = self.outdated.entry(sector).or_default();
                    states.push_back(before);
                    if states.len() > STATES {
                        states.pop_front();
                    }
                }
            }
        }
        self.durable.apply(change);
    }

    /// Moves to the platter what a sync has made durable by `now`.
    pub fn settle(&mut self, now: u64) {
        let done = self
            .pending
            .iter()
            .rposition(|pending| matches!(pending.change, Change::Synced) && pending.at <= now);
        if let Some(done) = done {
            for pending in self.pending.drain(..=done).collect::<Vec<_>>() {
                self.persist(&pending.change);
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
                            self.persist(&Change::Write { offset: at, data: data.slice(done..done + take) });
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

    /// The sectors of a read that have to be right this time: what was read wrongly once is read rightly twice before it goes
    /// astray again, so that who reads until twice in a row says the same gets to know what is there.
    pub fn spared(&mut self, read: &Range<u64>) -> BTreeSet<u64> {
        let mut spared = BTreeSet::new();
        for (sector, left) in self.misread.range_mut(read.clone()) {
            *left -= 1;
            spared.insert(*sector);
        }
        self.misread.retain(|_, left| *left > 0);
        spared
    }

    /// Lets one run of sectors of what was read come from elsewhere, so that the bytes are others; `outdated`, from where what
    /// was there before still is. Says what happened; `None` if nothing would be another.
    ///
    /// Nothing comes from where nothing was ever written: no log can miss its last entry when zeros are in its place.
    pub fn misread(
        &mut self,
        rng: &mut StdRng,
        offset: u64,
        buffer: &mut [u8],
        spared: &BTreeSet<u64>,
        outdated: bool,
    ) -> Option<String> {
        let mut places: Vec<u64> =
            sectors(offset, buffer.len()).filter(|place| !spared.contains(place)).collect();
        places.shuffle(rng);
        let most = if rng.random_bool(0.9) { MOST_ASTRAY } else { 8 * MOST_ASTRAY };
        let most = rng.random_range(1..=most);
        let written: BTreeSet<u64> = self.current.written_sectors().into_iter().collect();
        // Mostly what holds something: it is missed more.
        if rng.random_bool(0.9) {
            places.sort_by_key(|place| !written.contains(place));
        }
        let is_other = |place: u64, bytes: &Sector, buffer: &[u8]| {
            let (there, here) = shared(place, offset, buffer.len());
            bytes[there] != buffer[here]
        };
        let (first, from) = places.into_iter().find_map(|place| {
            if outdated {
                let oldest = self.outdated.get(&place)?.front()?;
                return is_other(place, oldest, buffer).then_some((place, None));
            }
            let comes = |from: &u64| is_other(place, &self.current.sector(*from), buffer);
            let before =
                self.astray.map(|at| at / SECTOR).filter(|from| written.contains(from) && comes(from));
            if let Some(before) = before
                && rng.random_bool(0.5)
            {
                return Some((place, Some(before)));
            }
            let origins: Vec<u64> = written.iter().copied().filter(comes).collect();
            (!origins.is_empty()).then(|| (place, Some(origins[rng.random_range(0..origins.len())])))
        })?;
        let end = sectors(offset, buffer.len()).end;
        let mut done = 0;
        while done < most && first + done < end && !spared.contains(&(first + done)) {
            let place = first + done;
            let bytes = match from {
                Some(from) if written.contains(&(from + done)) => self.current.sector(from + done),
                Some(_) => break,
                None => match self.outdated.get(&place).and_then(VecDeque::front) {
                    Some(oldest) => *oldest,
                    None => break,
                },
            };
            let (there, here) = shared(place, offset, buffer.len());
            buffer[here].copy_from_slice(&bytes[there]);
            self.misread.insert(place, RIGHT_READS);
            done += 1;
        }
        let (bytes, at, name) = (done * SECTOR, first * SECTOR, &self.name);
        Some(match from {
            Some(from) => format!("a read of {bytes} bytes at {at} of {name} comes from {}", from * SECTOR),
            None => format!("a read of {bytes} bytes at {at} of {name} comes from what was there before"),
        })
    }

    /// Nobody can reach it any more.
    pub fn forget(&mut self) {
        self.current = Content::default();
        self.durable = Content::default();
        self.pending.clear();
        self.outdated.clear();
        self.misread.clear();
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

    use crate::scenario::stream;

    /// A file of so many sectors, each with its number in it, from 1 on.
    fn numbered(count: u8) -> FileModel {
        let mut file = FileModel::new("log-1", 0);
        for number in 0..count {
            let data = Bytes::from(vec![number + 1; SECTOR as usize]);
            file.change(0, Change::Write { offset: u64::from(number) * SECTOR, data });
        }
        file.change(0, Change::Synced);
        file.settle(0);
        file
    }

    /// Reads, and lets some of it come from elsewhere.
    fn misread(file: &mut FileModel, seed: u64, offset: u64, len: usize, outdated: bool) -> (Vec<u8>, bool) {
        let mut buffer = vec![0; len];
        file.current.read(offset, &mut buffer);
        let spared = file.spared(&sectors(offset, len));
        let told = file.misread(&mut stream(seed, "test"), offset, &mut buffer, &spared, outdated);
        (buffer, told.is_some())
    }

    #[test]
    fn one_run_of_sectors_of_a_read_of_the_whole_file_is_another_and_none_is_blank() {
        for seed in 0..200 {
            let mut file = numbered(40);
            // The half of it that holds nothing is never what comes.
            file.change(0, Change::SetLen(80 * SECTOR));
            let mut right = vec![0; 80 * SECTOR as usize];
            file.current.read(0, &mut right);
            let (read, struck) = misread(&mut file, seed, 0, right.len(), false);
            assert!(struck);
            let wrong: Vec<usize> =
                (0..80).filter(|at| read[at * 512..][..512] != right[at * 512..][..512]).collect();
            let span = wrong.last().unwrap() - wrong[0] + 1;
            assert!((1..=64).contains(&wrong.len()) && span == wrong.len(), "{wrong:?}");
            assert!(wrong.iter().all(|at| read[at * 512] != 0));
        }
    }

    #[test]
    fn a_place_that_was_read_wrongly_is_right_the_next_two_times() {
        let mut file = numbered(2);
        for (seed, wrong) in [true, false, false, true, false, false, true].into_iter().enumerate() {
            let (read, struck) = misread(&mut file, seed as u64, 0, 512, false);
            assert_eq!((read[0] == 2, struck), (wrong, wrong));
        }
    }

    #[test]
    fn a_file_that_is_the_same_everywhere_keeps_its_misread_for_later() {
        let mut file = FileModel::new("log-1", 0);
        file.change(0, Change::Write { offset: 0, data: Bytes::from(vec![7; 4_096]) });
        file.change(0, Change::SetLen(8_192));
        assert!(!misread(&mut file, 1, 0, 8_192 - 4_096, false).1);
        // An odd piece of one sector, too, is another only if the bytes are.
        assert!(!misread(&mut file, 1, 700, 100, false).1);
    }

    #[test]
    fn what_is_outdated_is_what_was_on_the_platter_in_that_place() {
        let mut file = numbered(3);
        assert!(!misread(&mut file, 1, 0, 512, true).1, "nothing was there before");
        file.change(1, Change::Write { offset: 512, data: Bytes::from(vec![9; 512]) });
        assert!(!misread(&mut file, 1, 512, 512, true).1, "the one before is still the one on the platter");
        file.change(1, Change::Synced);
        file.settle(1);
        let (read, struck) = misread(&mut file, 1, 512, 512, true);
        assert!(struck && read == [2; 512]);
        let (read, struck) = misread(&mut file, 1, 512, 512, true);
        assert!(!struck && read == [9; 512]);
    }
}
