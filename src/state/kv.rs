//! Keys and values with Consul's fields, and the rules by which their indexes move.
//!
//! An entry's `modify_index` is the log index of the write that last changed it. Deletions leave tombstones,
//! so that what readers block on never goes back: see [`super::tables`].
//!
//! A key can be locked by a session. The lock is advisory: a plain write changes a locked key like any
//! other, and leaves the lock where it is. `lock_index` counts how often the lock was taken, and so is a
//! fencing token together with the key and the session.

use std::ops::Bound;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::map::{Map, Set};
use super::session::Sessions;
use super::tables::Tombstones;
use super::{Outcome, Refusal, Shared};
use crate::mutant;

pub use super::tables::MAX_TOMBSTONES;

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
        /// Only if the entry's modify index is this. One that is not there is removed already.
        cas: Option<u64>,
    },
    /// Removes every key with this prefix; the empty prefix is every key.
    DeleteTree {
        /// The prefix.
        prefix: String,
    },
    /// Writes a value and locks the key for a session. Fails if another session holds it or its
    /// lock-delay is not over; a session that holds it already just writes.
    Acquire {
        /// The key.
        key: String,
        /// The value.
        value: Shared,
        /// The client's number.
        flags: u64,
        /// The session.
        session: String,
    },
    /// Writes a value and unlocks the key. Fails if the session does not hold it.
    Release {
        /// The key.
        key: String,
        /// The value.
        value: Shared,
        /// The client's number.
        flags: u64,
        /// The session.
        session: String,
    },
}

/// One key's value and history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    entries: Map<String, Entry>,
    /// The deleted keys.
    tombstones: Tombstones<String>,
    /// The newest change of all.
    newest: u64,
    #[serde(skip)]
    digest: u64,
    /// Sessions with the keys that they hold: derived.
    #[serde(skip)]
    held: Set<(String, String)>,
}

impl PartialEq for KvStore {
    fn eq(&self, other: &KvStore) -> bool {
        self.entries == other.entries && self.tombstones == other.tombstones && self.newest == other.newest
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
    map: &'a Map<String, V>,
    prefix: &str,
) -> impl Iterator<Item = (&'a String, &'a V)> + use<'a, V> {
    map.range::<String, _>((Bound::Included(prefix.to_owned()), after_prefix(prefix)))
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

/// What is said to a lock without a session; Consul's words.
const NO_SESSION: &str = "missing session";

/// Why a key was not locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotLocked {
    /// Another session holds it.
    Held,
    /// The lock-delay of one that held it is not over.
    Delayed,
    /// There is no such session.
    Invalid(String),
}

impl KvStore {
    /// Applies a command at log index `index`.
    pub(super) fn apply(&mut self, index: u64, command: &KvCommand, sessions: &Sessions) -> Outcome {
        let holds = match command {
            KvCommand::Set { key, value, flags, cas: None } => {
                self.set(index, key, value, *flags);
                Ok(true)
            }
            KvCommand::Set { key, value, flags, cas: Some(cas) } => {
                Ok(self.set_if(index, key, value, *flags, *cas))
            }
            KvCommand::Delete { key, cas: None } => {
                self.delete(index, key);
                Ok(true)
            }
            KvCommand::Delete { key, cas: Some(cas) } => Ok(self.delete_if(index, key, *cas)),
            KvCommand::DeleteTree { prefix } => {
                self.delete_tree(index, prefix);
                Ok(true)
            }
            KvCommand::Acquire { key, value, flags, session } => {
                match self.lock(index, key, value, *flags, session, sessions) {
                    Ok(()) => Ok(true),
                    Err(NotLocked::Held | NotLocked::Delayed) => Ok(false),
                    Err(NotLocked::Invalid(text)) => Err(text),
                }
            }
            KvCommand::Release { session, .. } if session.is_empty() => Err(NO_SESSION.to_owned()),
            KvCommand::Release { key, value, flags, session } => {
                Ok(self.unlock(index, key, value, *flags, session))
            }
        };
        match holds {
            Ok(true) => Outcome::Done { index },
            Ok(false) => Outcome::ConditionFailed { index },
            Err(text) => Outcome::Refused { index, refusal: Refusal::Invalid(text) },
        }
    }

    // ---- changes, of which commands and transactions are made ----

    /// Writes a value. Who holds the lock goes on holding it.
    pub(super) fn set(&mut self, index: u64, key: &str, value: &Shared, flags: u64) {
        let before = self.entries.get(key);
        let entry = Entry {
            create_index: before.map_or(index, |entry| entry.create_index),
            modify_index: index,
            lock_index: before.map_or(0, |entry| entry.lock_index),
            // Mutant H24: a key keeps the flags that it was made with.
            flags: before.filter(|_| mutant::is("H24")).map_or(flags, |entry| entry.flags),
            session: before.and_then(|entry| entry.session.clone()),
            value: value.clone(),
        };
        self.put(index, key, entry);
    }

    /// Writes a value if the entry's modify index is `cas`; 0: if there is no entry.
    pub(super) fn set_if(&mut self, index: u64, key: &str, value: &Shared, flags: u64, cas: u64) -> bool {
        let holds = self.entries.get(key).map_or(0, |entry| entry.modify_index) == cas;
        if holds {
            self.set(index, key, value, flags);
        }
        holds
    }

    /// Removes a key if its modify index is `cas`. One that is not there is removed already.
    pub(super) fn delete_if(&mut self, index: u64, key: &str, cas: u64) -> bool {
        // Mutant H22: the condition of a removal is not looked at.
        let holds = self.entries.get(key).is_none_or(|entry| entry.modify_index == cas || mutant::is("H22"));
        if holds {
            self.delete(index, key);
        }
        holds
    }

    /// Removes all keys under a prefix.
    pub(super) fn delete_tree(&mut self, index: u64, prefix: &str) {
        let keys: Vec<String> = under(&self.entries, prefix).map(|(key, _)| key.clone()).collect();
        // Mutant H10: the last key under the prefix stays.
        let spared = usize::from(mutant::is("H10") && keys.len() > 1);
        for key in keys.iter().take(keys.len() - spared) {
            self.delete(index, key);
        }
    }

    /// Writes a value and takes the lock.
    pub(super) fn lock(
        &mut self,
        index: u64,
        key: &str,
        value: &Shared,
        flags: u64,
        session: &str,
        sessions: &Sessions,
    ) -> Result<(), NotLocked> {
        if session.is_empty() {
            return Err(NotLocked::Invalid(NO_SESSION.to_owned()));
        }
        if sessions.get(session).is_none() {
            return Err(NotLocked::Invalid(format!("invalid session {session:?}")));
        }
        let before = self.entries.get(key);
        let holder = before.and_then(|entry| entry.session.as_deref());
        if holder.is_some_and(|holder| holder != session) {
            return Err(NotLocked::Held);
        }
        if sessions.delay_of(key).is_some() {
            return Err(NotLocked::Delayed);
        }
        let taken = u64::from(holder.is_none());
        let entry = Entry {
            create_index: before.map_or(index, |entry| entry.create_index),
            modify_index: index,
            // Mutant L04: whoever takes a lock that was given back begins to count anew.
            lock_index: before
                .filter(|_| taken == 0 || !mutant::is("L04"))
                .map_or(0, |entry| entry.lock_index)
                + taken,
            flags,
            session: Some(session.to_owned()),
            value: value.clone(),
        };
        self.put(index, key, entry);
        Ok(())
    }

    /// Writes a value and gives the lock back. False if the session does not hold it.
    pub(super) fn unlock(
        &mut self,
        index: u64,
        key: &str,
        value: &Shared,
        flags: u64,
        session: &str,
    ) -> bool {
        match self.entries.get(key) {
            Some(before) if before.session.as_deref() == Some(session) => {
                let value = value.clone();
                let entry = Entry { modify_index: index, session: None, flags, value, ..before.clone() };
                self.put(index, key, entry);
                true
            }
            _ => false,
        }
    }

    /// Unlocks a key whatever it holds, and leaves its value.
    pub(super) fn unlock_as_it_is(&mut self, index: u64, key: &str) {
        if let Some(before) = self.entries.get(key) {
            let entry = Entry { modify_index: index, session: None, ..before.clone() };
            self.put(index, key, entry);
        }
    }

    /// The keys that a session holds.
    pub fn held_by(&self, session: &str) -> impl Iterator<Item = &String> {
        let held = self.held.range((session.to_owned(), String::new())..);
        held.take_while(move |(holder, _)| holder == session).map(|(_, key)| key)
    }

    // ---- the two ways in which anything changes ----

    fn put(&mut self, index: u64, key: &str, entry: Entry) {
        // Writing what is already there is no change, so nobody is woken.
        let same = |before: &&Entry| {
            before.value == entry.value
                && before.flags == entry.flags
                && before.session == entry.session
                && before.lock_index == entry.lock_index
        };
        if self.entries.get(key).filter(same).is_some() {
            return;
        }
        let key = key.to_owned();
        self.count(&key, u64::wrapping_sub);
        self.tombstones.unearth(&key);
        if let Some(session) = &entry.session {
            self.held.insert((session.clone(), key.clone()));
        }
        let session = entry.session.clone();
        let before = self.entries.insert(key.clone(), entry);
        let holder = before.and_then(|before| before.session).filter(|_| session.is_none());
        self.no_longer_held(holder, &key);
        self.count(&key, u64::wrapping_add);
        self.newest = index;
    }

    pub(super) fn delete(&mut self, index: u64, key: &str) {
        if !self.entries.contains_key(key) {
            return;
        }
        let key = key.to_owned();
        self.count(&key, u64::wrapping_sub);
        let before = self.entries.remove(&key);
        self.no_longer_held(before.and_then(|before| before.session), &key);
        if let Some(evicted) = self.tombstones.bury(index, &key) {
            self.digest = self.digest.wrapping_sub(tombstone_part(&evicted.1, evicted.0));
        }
        self.count(&key, u64::wrapping_add);
        self.newest = index;
    }

    /// Counts a key's parts into the digest, or out of it.
    fn count(&mut self, key: &String, change: fn(u64, u64) -> u64) {
        if let Some(entry) = self.entries.get(key) {
            self.digest = change(self.digest, entry_part(key, entry));
        }
        if let Some(index) = self.tombstones.get(key) {
            self.digest = change(self.digest, tombstone_part(key, index));
        }
    }

    fn no_longer_held(&mut self, session: Option<String>, key: &str) {
        if let Some(session) = session {
            self.held.remove(&(session, key.to_owned()));
        }
    }

    // ---- reads ----

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
            // Mutant H25: what is not there changes with everything else.
            None if mutant::is("H25") => self.newest,
            None => self.tombstones.index_of(&key.to_owned()),
        }
    }

    /// The index at which anything under this prefix last changed, deletions included; 0 if never.
    pub fn prefix_index(&self, prefix: &str) -> u64 {
        // Mutant H26: what stands beside it counts too.
        if prefix.is_empty() || mutant::is("H26") {
            return self.newest;
        }
        let live = under(&self.entries, prefix).map(|(_, entry)| entry.modify_index).max().unwrap_or(0);
        // Mutant H20: what was deleted has not changed.
        if mutant::is("H20") {
            return live;
        }
        let keys = (Bound::Included(prefix.to_owned()), after_prefix(prefix));
        live.max(self.tombstones.newest_in(keys))
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
        self.digest ^ self.tombstones.floor().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The same values as if written at log index `index`, in place of what `present` holds. No key is locked, and
    /// those whose holder is `ephemeral` are not there.
    pub(super) fn written_at(
        self,
        index: u64,
        present: &KvStore,
        ephemeral: impl Fn(&str) -> bool,
    ) -> KvStore {
        let lasting = self
            .entries
            .into_entries()
            .filter(|(_, entry)| !entry.session.as_deref().is_some_and(&ephemeral));
        let entries = lasting.map(|(key, entry)| {
            let fenced = present.entries.get(&key).map_or(0, |entry| entry.lock_index);
            let lock_index = entry.lock_index.max(fenced);
            let entry =
                Entry { create_index: index, modify_index: index, lock_index, session: None, ..entry };
            (key, entry)
        });
        let (entries, tombstones) = (entries.collect(), Tombstones::of_all(index));
        let mut store = KvStore { entries, tombstones, newest: index, ..KvStore::default() };
        store.rebuild();
        store
    }

    /// Computes anew what is derived, after loading.
    pub(super) fn rebuild(&mut self) {
        // Mutant R53: a snapshot does not hold when a key was last changed, only when it was created.
        if mutant::is("R53") {
            let entries = std::mem::take(&mut self.entries).into_entries();
            let as_made = |entry: Entry| Entry { modify_index: entry.create_index, ..entry };
            self.entries = entries.map(|(key, entry)| (key, as_made(entry))).collect();
        }
        let entries = self.entries.iter().map(|(key, entry)| entry_part(key, entry));
        let tombstones = self.tombstones.iter().map(|(key, index)| tombstone_part(key, index));
        self.digest = entries.chain(tombstones).fold(0, u64::wrapping_add);
        let held = self.entries.iter();
        self.held = held.filter_map(|(key, entry)| Some((entry.session.clone()?, key.clone()))).collect();
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
            3 => (key(), any::<u8>(), any_session()).prop_map(|(key, value, session)| KvCommand::Acquire {
                key: key.into(), value: vec![value].into(), flags: 0, session,
            }),
            2 => (key(), any::<u8>(), any_session()).prop_map(|(key, value, session)| KvCommand::Release {
                key: key.into(), value: vec![value].into(), flags: 0, session,
            }),
        ]
    }

    /// One of a few sessions, of which some are there.
    pub fn any_session() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["s1", "s2", "s3", ""]).prop_map(str::to_owned)
    }

    fn apply(store: &mut KvStore, index: u64, command: &KvCommand) -> Outcome {
        store.apply(index, command, &Sessions::default())
    }

    fn set(store: &mut KvStore, index: u64, key: &str, value: &str, cas: Option<u64>) -> bool {
        let value = value.as_bytes().into();
        apply(store, index, &KvCommand::Set { key: key.into(), value, flags: 0, cas }).is_done()
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
        apply(&mut store, 4, &KvCommand::Delete { key: "p/b".into(), cas: None });
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
        apply(&mut store, 2, &KvCommand::Delete { key: "old".into(), cas: None });
        for i in 0..MAX_TOMBSTONES as u64 {
            let key = format!("k{i}");
            set(&mut store, 3 + 2 * i, &key, "x", None);
            apply(&mut store, 4 + 2 * i, &KvCommand::Delete { key, cas: None });
        }
        assert_eq!(store.tombstones.iter().count(), MAX_TOMBSTONES);
        assert_eq!(store.key_index("old"), 2);
        let digest = store.digest();
        store.rebuild();
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
                apply(&mut store, i as u64 + 1, command);
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
            store.rebuild();
            prop_assert_eq!(store.digest(), digest);
        }
    }
}
