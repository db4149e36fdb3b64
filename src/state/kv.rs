//! Keys and values with Consul's fields, and the rules by which their indexes move.
//!
//! An entry's `modify_index` is the log index of the write that last changed it. Readers block on
//! "something newer than index N", so an index must never go back, not even when the newest key of a
//! prefix is deleted. Deletions therefore leave tombstones. Only the newest [`MAX_TOMBSTONES`] are
//! kept; an evicted one raises a floor under every prefix, which can wake a reader once without cause
//! but never makes an index go back. (Consul drops tombstones by wall-clock age, which a replicated
//! state that sees no clock cannot.)

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{Outcome, Shared};
use crate::mutant;

/// How many deletions are remembered key by key.
pub const MAX_TOMBSTONES: usize = 8192;

/// A change to the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvCommand {
    /// Writes a value.
    Set {
        /// The key.
        key: String,
        /// The value.
        value: Shared,
        /// A number the client keeps beside the value.
        flags: u64,
        /// Only if the entry's modify index is this; 0: only if there is no entry.
        cas: Option<u64>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
        /// Only if the entry's modify index is this. 0 never matches.
        cas: Option<u64>,
    },
    /// Removes every key with this prefix; the empty prefix is every key.
    DeleteTree {
        /// The prefix.
        prefix: String,
    },
}

/// One key's value and history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Log index of the write that created it.
    pub create_index: u64,
    /// Log index of the write that last changed it.
    pub modify_index: u64,
    /// How often it was locked by a session.
    pub lock_index: u64,
    /// The client's number.
    pub flags: u64,
    /// The session that holds its lock.
    pub session: Option<String>,
    /// The value.
    pub value: Shared,
}

/// The store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KvStore {
    entries: BTreeMap<String, Entry>,
    /// Deleted keys with the index of the deletion.
    tombstones: BTreeMap<String, u64>,
    /// The same by index. Several keys can share an index: a tree is deleted at once.
    tombstone_order: BTreeMap<(u64, String), ()>,
    /// The newest deletion whose tombstone was evicted.
    floor: u64,
    /// The newest change of all.
    newest: u64,
    #[serde(skip)]
    digest: u64,
    /// Writes since this server started: part of mutant R54.
    #[cfg(feature = "mutants")]
    #[serde(skip)]
    writes: u64,
}

impl PartialEq for KvStore {
    fn eq(&self, other: &KvStore) -> bool {
        self.entries == other.entries
            && self.tombstones == other.tombstones
            && self.floor == other.floor
            && self.newest == other.newest
    }
}

impl Eq for KvStore {}

/// The first string after all that start with `prefix`, if there is one.
fn after_prefix(prefix: &str) -> Bound<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // The successor of a character skips the surrogate gap.
        let next = (last as u32 + 1..=char::MAX as u32).find_map(char::from_u32);
        if let Some(next) = next {
            characters.push(next);
            return Bound::Excluded(characters.into_iter().collect());
        }
    }
    Bound::Unbounded
}

fn under<'a, V>(
    map: &'a BTreeMap<String, V>,
    prefix: &str,
) -> impl Iterator<Item = (&'a String, &'a V)> + use<'a, V> {
    map.range((Bound::Included(prefix.to_owned()), after_prefix(prefix)))
}

fn entry_part(key: &str, entry: &Entry) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key.as_bytes());
    for word in [entry.create_index, entry.modify_index, entry.lock_index, entry.flags] {
        hash.update(&word.to_le_bytes());
    }
    let session = entry.session.as_deref().unwrap_or_default();
    hash.update(&(session.len() as u64).to_le_bytes());
    hash.update(session.as_bytes());
    hash.update(&entry.value);
    hash.digest()
}

fn tombstone_part(key: &str, index: u64) -> u64 {
    let mut hash = Xxh3::with_seed(1);
    hash.update(&index.to_le_bytes());
    hash.update(key.as_bytes());
    hash.digest()
}

impl KvStore {
    /// Applies a command at log index `index`.
    pub(super) fn apply(&mut self, index: u64, command: &KvCommand) -> Outcome {
        match command {
            KvCommand::Set { key, value, flags, cas } => {
                let current = self.entries.get(key);
                let holds = match cas {
                    None => true,
                    Some(0) => current.is_none(),
                    Some(expected) => current.is_some_and(|entry| entry.modify_index == *expected),
                };
                if !holds {
                    return Outcome::ConditionFailed { index };
                }
                self.set(index, key, value, *flags);
                Outcome::Done { index }
            }
            KvCommand::Delete { key, cas } => {
                let current = self.entries.get(key).map(|entry| entry.modify_index);
                if cas.is_some_and(|expected| expected == 0 || current.is_some_and(|found| found != expected))
                {
                    return Outcome::ConditionFailed { index };
                }
                if current.is_some() {
                    self.delete(index, key);
                }
                Outcome::Done { index }
            }
            KvCommand::DeleteTree { prefix } => {
                let keys: Vec<String> = under(&self.entries, prefix).map(|(key, _)| key.clone()).collect();
                // Mutant H10: the last key under the prefix stays.
                let spared = usize::from(mutant::is("H10") && keys.len() > 1);
                for key in keys.iter().take(keys.len() - spared) {
                    self.delete(index, key);
                }
                Outcome::Done { index }
            }
        }
    }

    /// The index of a write; with mutant R54 the number of writes since this server started.
    fn count(&mut self, index: u64) -> u64 {
        #[cfg(feature = "mutants")]
        if mutant::is("R54") {
            self.writes += 1;
            return self.writes;
        }
        index
    }

    fn set(&mut self, index: u64, key: &str, value: &Shared, flags: u64) {
        let modify_index = self.count(index);
        if let Some(entry) = self.entries.get_mut(key) {
            // Writing what is already there is no change, so nobody is woken.
            if entry.value == *value && entry.flags == flags {
                return;
            }
            self.digest = self.digest.wrapping_sub(entry_part(key, entry));
            entry.value = value.clone();
            entry.flags = flags;
            entry.modify_index = modify_index;
            self.digest = self.digest.wrapping_add(entry_part(key, entry));
        } else {
            if let Some(deleted) = self.tombstones.remove(key) {
                self.tombstone_order.remove(&(deleted, key.to_owned()));
                self.digest = self.digest.wrapping_sub(tombstone_part(key, deleted));
            }
            let entry = Entry {
                create_index: index,
                modify_index,
                lock_index: 0,
                flags,
                session: None,
                value: value.clone(),
            };
            self.digest = self.digest.wrapping_add(entry_part(key, &entry));
            self.entries.insert(key.to_owned(), entry);
        }
        self.newest = index;
    }

    fn delete(&mut self, index: u64, key: &str) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.digest = self.digest.wrapping_sub(entry_part(key, &entry));
        self.tombstones.insert(key.to_owned(), index);
        self.tombstone_order.insert((index, key.to_owned()), ());
        self.digest = self.digest.wrapping_add(tombstone_part(key, index));
        self.newest = index;
        if self.tombstones.len() > MAX_TOMBSTONES
            && let Some(((evicted, key), ())) = self.tombstone_order.pop_first()
        {
            self.tombstones.remove(&key);
            self.digest = self.digest.wrapping_sub(tombstone_part(&key, evicted));
            self.floor = self.floor.max(evicted);
        }
    }

    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All entries under a prefix, in the order of their keys' bytes.
    pub fn list<'a>(&'a self, prefix: &str) -> impl Iterator<Item = (&'a String, &'a Entry)> + use<'a> {
        under(&self.entries, prefix)
    }

    /// The keys under a prefix, each cut after the first separator that follows the prefix, without
    /// repetition.
    pub fn keys(&self, prefix: &str, separator: &str) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        for (key, _) in under(&self.entries, prefix) {
            let cut = match (separator.is_empty(), key[prefix.len()..].find(separator)) {
                (false, Some(at)) => &key[..prefix.len() + at + separator.len()],
                _ => key.as_str(),
            };
            if keys.last().is_none_or(|last| last != cut) {
                keys.push(cut.to_owned());
            }
        }
        keys
    }

    /// The index of the newest change to the whole store; 0 before the first.
    pub fn table_index(&self) -> u64 {
        self.newest
    }

    /// The index at which this key last changed, deletions included; 0 if never.
    pub fn key_index(&self, key: &str) -> u64 {
        match self.entries.get(key) {
            Some(entry) => entry.modify_index,
            None => self.tombstones.get(key).copied().unwrap_or(0).max(self.floor),
        }
    }

    /// The index at which anything under this prefix last changed, deletions included; 0 if never.
    pub fn prefix_index(&self, prefix: &str) -> u64 {
        if prefix.is_empty() {
            return self.newest;
        }
        let live = under(&self.entries, prefix).map(|(_, entry)| entry.modify_index).max();
        let dead = under(&self.tombstones, prefix).map(|(_, index)| *index).max();
        live.max(dead).unwrap_or(0).max(self.floor)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A hash of entries, tombstones and floor.
    pub(super) fn digest(&self) -> u64 {
        self.digest ^ self.floor.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Computes the digest anew, after loading.
    pub(super) fn rebuild_digest(&mut self) {
        // Mutant R53: a snapshot does not hold when a key was last changed, only when it was created.
        if mutant::is("R53") {
            self.entries.values_mut().for_each(|entry| entry.modify_index = entry.create_index);
        }
        let entries = self.entries.iter().map(|(key, entry)| entry_part(key, entry));
        let tombstones = self.tombstones.iter().map(|(key, index)| tombstone_part(key, *index));
        self.digest = entries.chain(tombstones).fold(0, u64::wrapping_add);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn any_command() -> impl Strategy<Value = KvCommand> {
        let key = || prop::sample::select(vec!["", "a", "a/", "a/b", "a/b/c", "b", "\u{10ffff}", "é"]);
        let cas = || prop::option::of(0u64..8);
        prop_oneof![
            4 => (key(), any::<u8>(), 0u64..3, cas()).prop_map(|(key, value, flags, cas)| KvCommand::Set {
                key: key.into(), value: vec![value].into(), flags, cas,
            }),
            2 => (key(), cas()).prop_map(|(key, cas)| KvCommand::Delete { key: key.into(), cas }),
            1 => key().prop_map(|prefix| KvCommand::DeleteTree { prefix: prefix.into() }),
        ]
    }

    fn set(store: &mut KvStore, index: u64, key: &str, value: &str, cas: Option<u64>) -> bool {
        let value = value.as_bytes().into();
        store.apply(index, &KvCommand::Set { key: key.into(), value, flags: 0, cas }).is_done()
    }

    #[test]
    fn compare_and_set_follows_the_modify_index() {
        let mut store = KvStore::default();
        assert!(set(&mut store, 1, "k", "a", Some(0)));
        assert!(!set(&mut store, 2, "k", "b", Some(0)));
        assert!(!set(&mut store, 3, "k", "b", Some(2)));
        assert!(set(&mut store, 4, "k", "b", Some(1)));
        let entry = store.get("k").unwrap();
        assert_eq!((entry.create_index, entry.modify_index), (1, 4));
    }

    #[test]
    fn writing_the_same_again_moves_nothing() {
        let mut store = KvStore::default();
        set(&mut store, 1, "k", "a", None);
        assert!(set(&mut store, 2, "k", "a", None));
        assert_eq!(store.get("k").unwrap().modify_index, 1);
        assert_eq!(store.table_index(), 1);
    }

    #[test]
    fn a_deletion_moves_the_prefix_index_forward() {
        let mut store = KvStore::default();
        set(&mut store, 1, "p/a", "1", None);
        set(&mut store, 2, "p/b", "2", None);
        set(&mut store, 3, "q", "3", None);
        assert_eq!(store.prefix_index("p/"), 2);
        store.apply(4, &KvCommand::Delete { key: "p/b".into(), cas: None });
        assert_eq!(store.prefix_index("p/"), 4);
        assert_eq!(store.key_index("p/b"), 4);
        assert_eq!(store.key_index("p/a"), 1);
    }

    #[test]
    fn keys_are_cut_at_the_separator() {
        let mut store = KvStore::default();
        for (i, key) in ["a", "a/", "a/b", "a/b/c", "a/b/d", "b"].iter().enumerate() {
            set(&mut store, i as u64 + 1, key, "", None);
        }
        assert_eq!(store.keys("a/", "/"), ["a/", "a/b", "a/b/"]);
        assert_eq!(store.keys("", "/"), ["a", "a/", "b"]);
        assert_eq!(store.keys("a/b", ""), ["a/b", "a/b/c", "a/b/d"]);
    }

    #[test]
    fn evicted_tombstones_leave_a_floor() {
        let mut store = KvStore::default();
        set(&mut store, 1, "old", "x", None);
        store.apply(2, &KvCommand::Delete { key: "old".into(), cas: None });
        for i in 0..MAX_TOMBSTONES as u64 {
            let key = format!("k{i}");
            set(&mut store, 3 + 2 * i, &key, "x", None);
            store.apply(4 + 2 * i, &KvCommand::Delete { key, cas: None });
        }
        assert_eq!(store.tombstones.len(), MAX_TOMBSTONES);
        assert_eq!(store.key_index("old"), 2);
        let digest = store.digest();
        store.rebuild_digest();
        assert_eq!(store.digest(), digest);
    }

    proptest! {
        #[test]
        fn indexes_never_go_back_and_prefixes_hold_what_they_say(
            commands in prop::collection::vec(any_command(), 0..80),
        ) {
            let mut store = KvStore::default();
            let prefixes = ["", "a", "a/", "a/b", "\u{10ffff}", "zzz"];
            let mut before = [0; 6];
            for (i, command) in commands.iter().enumerate() {
                store.apply(i as u64 + 1, command);
                for (slot, prefix) in before.iter_mut().zip(prefixes) {
                    let now = store.prefix_index(prefix);
                    prop_assert!(now >= *slot);
                    *slot = now;
                    let listed: Vec<_> = store.list(prefix).map(|(key, _)| key.clone()).collect();
                    let expected: Vec<_> =
                        store.entries.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
                    prop_assert_eq!(listed, expected);
                }
            }
            let digest = store.digest();
            store.rebuild_digest();
            prop_assert_eq!(store.digest(), digest);
        }
    }
}
