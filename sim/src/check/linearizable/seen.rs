//! The configurations that a search has been in, side by side in one block of memory.
//!
//! There may be many millions, and each is a few words: one allocation for each would take more room than what it holds,
//! and more time to give back than the caller has patience left. Two are equal if their words are; the hash only finds
//! those that may be.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

type Hasher = BuildHasherDefault<DefaultHasher>;

/// The end of a chain of configurations whose hashes are equal.
const NONE: u32 = u32::MAX;

/// A set of configurations.
#[derive(Default)]
pub(super) struct Seen {
    words: Vec<u64>,
    /// Where each ends in `words`, and the one of the same hash that came before it.
    ends: Vec<(usize, u32)>,
    /// The last one of each hash.
    by_hash: HashMap<u64, u32, Hasher>,
}

impl Seen {
    /// Remembers a configuration. Whether it is new.
    pub(super) fn insert(&mut self, configuration: impl Iterator<Item = u64>) -> bool {
        let start = self.words.len();
        self.words.extend(configuration);
        // Of more than fit into the number some are not found again, and none is taken for another.
        let number = self.ends.len() as u32;
        let hash = Hasher::default().hash_one(&self.words[start..]);
        let mut before = self.by_hash.get(&hash).copied().unwrap_or(NONE);
        while before != NONE {
            if self.get(before) == &self.words[start..] {
                self.words.truncate(start);
                return false;
            }
            before = self.ends[before as usize].1;
        }
        let before = self.by_hash.insert(hash, number).unwrap_or(NONE);
        self.ends.push((self.words.len(), before));
        true
    }

    fn get(&self, number: u32) -> &[u64] {
        let at = number as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].0);
        &self.words[start..self.ends[at].0]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What they take in memory.
    pub(super) fn memory(&self) -> usize {
        let table = self.by_hash.capacity() * (size_of::<(u64, u32)>() + 1) * 8 / 7;
        self.words.capacity() * size_of::<u64>() + self.ends.capacity() * size_of::<(usize, u32)>() + table
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_knows_what_a_set_knows(all in proptest::collection::vec(proptest::collection::vec(0u64..3, 0..4), 0..200)) {
            let (mut ours, mut set) = (Seen::default(), BTreeSet::new());
            for configuration in all {
                prop_assert_eq!(ours.insert(configuration.iter().copied()), set.insert(configuration));
                prop_assert_eq!(ours.len(), set.len());
            }
            prop_assert!(ours.memory() >= set.iter().map(|one| 8 * one.len()).sum::<usize>());
        }
    }
}
