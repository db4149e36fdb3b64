//! Tables whose rows come and go, and the indexes that readers block on.
//!
//! A reader who saw index N waits for something newer. So an index must never go back, not even when
//! the newest row is removed: a removal leaves a tombstone with its index. Only the newest tombstones
//! are kept; an evicted one raises a floor under every index of the table, which can wake a reader once
//! without cause but never makes an index go back. (Consul drops tombstones by wall-clock age, which a
//! replicated state that sees no clock cannot.)
//!
//! * [`Tombstones`]: the removed keys of something.
//! * [`Table`]: rows with tombstones, the newest change of all, and a digest.
//! * [`Sorted`]: no rows, only their keys by something else that they are looked for by.
//! * [`Marks`]: no rows, only the index at which each name last changed; for views over several tables.
//!
//! A digest is a sum of one hash for each part, so that order does not matter and a part can be taken out
//! again; keeping it costs a hash a change.

use std::ops::RangeBounds;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::map::{Map, Set};

/// How many removed keys a [`Table`] or [`Marks`] remembers.
pub const MAX_TOMBSTONES: usize = 8192;

/// Parts up to this size are hashed without allocating: a digest is asked for at every entry that is applied.
const SMALL_PART: usize = 256;

/// The hash of one part of a digest. `kind` keeps parts of different kinds apart.
pub(super) fn part(kind: u64, value: &impl Serialize) -> u64 {
    if let Ok(bytes) = postcard::to_slice(value, &mut [0; SMALL_PART]) {
        return xxh3_64_with_seed(bytes, kind);
    }
    // Serialising plain data into memory has no way to fail.
    xxh3_64_with_seed(&postcard::to_stdvec(value).unwrap_or_default(), kind)
}

/// The removed keys of something, and when they were removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "K: Ord + Clone + Deserialize<'de>"))]
pub struct Tombstones<K> {
    by_key: Map<K, u64>,
    /// The same by index. Several keys can share an index: one command may remove many.
    by_index: Set<(u64, K)>,
    /// The newest removal that is no longer remembered.
    floor: u64,
}

impl<K> Default for Tombstones<K> {
    fn default() -> Tombstones<K> {
        Tombstones { by_key: Map::default(), by_index: Set::default(), floor: 0 }
    }
}

impl<K: PartialEq> PartialEq for Tombstones<K> {
    fn eq(&self, other: &Tombstones<K>) -> bool {
        self.by_key == other.by_key && self.floor == other.floor
    }
}

impl<K: Eq> Eq for Tombstones<K> {}

impl<K: Ord + Clone + Serialize> Tombstones<K> {
    /// As if everything that is not there had been removed at log index `index`.
    pub(super) fn of_all(index: u64) -> Tombstones<K> {
        Tombstones { floor: index, ..Tombstones::default() }
    }

    /// Remembers a removal. Gives back the one that is forgotten instead, if there is no room for both.
    pub fn bury(&mut self, index: u64, key: &K) -> Option<(u64, K)> {
        self.unearth(key);
        self.by_key.insert(key.clone(), index);
        self.by_index.insert((index, key.clone()));
        if self.by_key.len() <= MAX_TOMBSTONES {
            return None;
        }
        let evicted = self.by_index.pop_first()?;
        self.by_key.remove(&evicted.1);
        self.floor = self.floor.max(evicted.0);
        Some(evicted)
    }

    /// Forgets a removal, because the key is back.
    pub fn unearth(&mut self, key: &K) {
        if let Some(index) = self.by_key.remove(key) {
            self.by_index.remove(&(index, key.clone()));
        }
    }

    /// When the key was removed, or may have been.
    pub fn index_of(&self, key: &K) -> u64 {
        self.by_key.get(key).copied().unwrap_or(0).max(self.floor)
    }

    /// The newest removal within a range of keys, or what may have been one.
    pub fn newest_in(&self, keys: impl RangeBounds<K>) -> u64 {
        self.by_key.range(keys).map(|(_, index)| *index).max().unwrap_or(0).max(self.floor)
    }

    /// A key's tombstone.
    pub(super) fn get(&self, key: &K) -> Option<u64> {
        self.by_key.get(key).copied()
    }

    /// All tombstones in the order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, u64)> {
        self.by_key.iter().map(|(key, index)| (key, *index))
    }

    /// The newest removal that is no longer remembered.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }
}

fn tombstone_part<K: Serialize>(key: &K, index: u64) -> u64 {
    part(1, &(key, index))
}

/// Rows that come and go. Each remembers for itself when it was made and changed, if it must.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Serialize, V: Serialize",
    deserialize = "K: Ord + Clone + Deserialize<'de>, V: Clone + Deserialize<'de>"
))]
pub struct Table<K, V> {
    rows: Map<K, V>,
    tombstones: Tombstones<K>,
    newest: u64,
    #[serde(skip)]
    digest: u64,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table { rows: Map::default(), tombstones: Tombstones::default(), newest: 0, digest: 0 }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Table<K, V>) -> bool {
        self.rows == other.rows && self.tombstones == other.tombstones && self.newest == other.newest
    }
}

impl<K: Eq, V: Eq> Eq for Table<K, V> {}

impl<K: Ord + Clone + Serialize, V: Clone + Serialize> Table<K, V> {
    /// These rows, as if nothing else had been there since log index `index`.
    pub(super) fn of_rows(index: u64, rows: impl IntoIterator<Item = (K, V)>) -> Table<K, V> {
        let (rows, tombstones) = (rows.into_iter().collect(), Tombstones::of_all(index));
        let mut table = Table { rows, tombstones, newest: index, digest: 0 };
        table.rebuild_digest();
        table
    }

    /// The rows alone.
    pub(super) fn into_rows(self) -> impl Iterator<Item = (K, V)> {
        self.rows.into_entries()
    }

    /// The row of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    /// All rows in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    /// The rows within a range of keys.
    pub fn range(&self, keys: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.rows.range(keys)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Puts a row there, at log index `index`.
    pub fn set(&mut self, index: u64, key: K, row: V) {
        self.put(key, row);
        self.newest = index;
    }

    /// Changes what no reader sees: nobody is woken.
    pub fn set_quietly(&mut self, key: K, row: V) {
        self.put(key, row);
    }

    fn put(&mut self, key: K, row: V) {
        self.digest = self.digest.wrapping_sub(self.digest_of(&key));
        self.tombstones.unearth(&key);
        self.rows.insert(key.clone(), row);
        self.digest = self.digest.wrapping_add(self.digest_of(&key));
    }

    /// Removes a row at log index `index`, and gives it back.
    pub fn remove(&mut self, index: u64, key: &K) -> Option<V> {
        let row = self.forget(key)?;
        if let Some((buried, evicted)) = self.tombstones.bury(index, key) {
            self.digest = self.digest.wrapping_sub(tombstone_part(&evicted, buried));
        }
        self.digest = self.digest.wrapping_add(tombstone_part(key, index));
        self.newest = index;
        Some(row)
    }

    /// Removes a row of which no reader knows: it leaves no tombstone, and nobody is woken.
    pub fn forget(&mut self, key: &K) -> Option<V> {
        let before = self.digest_of(key);
        let row = self.rows.remove(key)?;
        self.digest = self.digest.wrapping_sub(before);
        Some(row)
    }

    /// When the row of a key was removed, if it is not there: the index of its absence.
    pub fn removed_at(&self, key: &K) -> u64 {
        self.tombstones.index_of(key)
    }

    /// The newest removal within a range of keys.
    pub fn removed_in(&self, keys: impl RangeBounds<K>) -> u64 {
        self.tombstones.newest_in(keys)
    }

    /// The newest change to the whole table; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    fn digest_of(&self, key: &K) -> u64 {
        let row = self.rows.get(key).map_or(0, |row| part(0, &(key, row)));
        let tombstone = self.tombstones.get(key).map_or(0, |index| tombstone_part(key, index));
        row.wrapping_add(tombstone)
    }

    /// A hash of the table.
    pub fn digest(&self) -> u64 {
        part(2, &(self.digest, self.tombstones.floor, self.newest))
    }

    /// Computes the digest anew, after loading.
    pub fn rebuild_digest(&mut self) {
        let rows = self.rows.iter().map(|row| part(0, &row));
        let tombstones = self.tombstones.iter().map(|(key, index)| tombstone_part(key, index));
        self.digest = rows.chain(tombstones).fold(0, u64::wrapping_add);
    }
}

/// The keys of rows by something else, which several may have in common: what is looked for is found without looking at
/// every row. Derived: it is neither sent nor part of a digest, and made anew after loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sorted<B, K>(Set<(B, K)>);

impl<B, K> Default for Sorted<B, K> {
    fn default() -> Sorted<B, K> {
        Sorted(Set::default())
    }
}

impl<B: Ord + Clone, K: Ord + Clone + Default> Sorted<B, K> {
    /// A row has this, or has it no more.
    pub fn set(&mut self, by: B, key: &K, there: bool) {
        if there {
            self.0.insert((by, key.clone()));
        } else {
            self.0.remove(&(by, key.clone()));
        }
    }

    /// The keys of the rows that have this, in their order.
    pub fn of(&self, by: B) -> impl Iterator<Item = &K> {
        // No key sorts before the default one.
        let from = self.0.range((by.clone(), K::default())..);
        from.take_while(move |(has, _)| *has == by).map(|(_, key)| key)
    }
}

/// The index at which each name last changed, whatever it names: rows of one table, or of several.
///
/// A name that is in use is remembered for as long as it is; of those no longer in use, the newest
/// [`MAX_TOMBSTONES`]. `K` is what the view is by: a service's name, a node's, a check's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
#[serde(bound(serialize = "K: Serialize", deserialize = "K: Ord + Clone + Deserialize<'de>"))]
pub struct Marks<K>(Table<K, u64>);

impl<K> Default for Marks<K> {
    fn default() -> Marks<K> {
        Marks(Table::default())
    }
}

impl<K: Ord + Clone + Serialize> Marks<K> {
    /// As if everything had changed at log index `index`.
    pub(super) fn all_at(index: u64) -> Marks<K> {
        Marks(Table::of_rows(index, []))
    }

    /// Something of this name changed at log index `index`; `in_use`: and is still there.
    pub fn touch(&mut self, index: u64, key: &K, in_use: bool) {
        self.0.set(index, key.clone(), index);
        if !in_use {
            self.0.remove(index, key);
        }
    }

    /// When anything of this name last changed; 0 if never.
    pub fn index_of(&self, key: &K) -> u64 {
        self.0.get(key).copied().unwrap_or_else(|| self.0.removed_at(key))
    }

    /// The newest change of all.
    pub fn newest(&self) -> u64 {
        self.0.newest()
    }

    /// A hash of the marks.
    pub fn digest(&self) -> u64 {
        self.0.digest()
    }

    /// Computes the digest anew, after loading.
    pub fn rebuild_digest(&mut self) {
        self.0.rebuild_digest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn evicted_tombstones_leave_a_floor() {
        let mut table = Table::<u64, ()>::default();
        for key in 0..=MAX_TOMBSTONES as u64 {
            table.set(2 * key + 1, key, ());
            table.remove(2 * key + 2, &key);
        }
        assert_eq!(table.removed_at(&0), 2);
        // Never there, as far as is known.
        assert_eq!(table.removed_at(&u64::MAX), 2);
        assert_eq!(table.removed_at(&1), 4);
        let digest = table.digest();
        table.rebuild_digest();
        assert_eq!(table.digest(), digest);
    }

    #[test]
    fn keys_are_found_by_what_their_rows_have() {
        let mut sorted = Sorted::default();
        for (by, key) in [("a", ""), ("a", "2"), ("b", "1"), ("a", "1"), ("aa", "3")] {
            sorted.set(by, &key.to_owned(), true);
        }
        sorted.set("a", &"2".to_owned(), false);
        sorted.set("c", &"2".to_owned(), false);
        let of = |by: &str| sorted.of(by).cloned().collect::<Vec<_>>().join(",");
        assert_eq!(["a", "aa", "b", "c"].map(of), [",1", "3", "1", ""]);
    }

    #[test]
    fn a_mark_outlives_its_name() {
        let mut marks = Marks::default();
        marks.touch(3, &"web", true);
        marks.touch(5, &"web", false);
        assert_eq!((marks.index_of(&"web"), marks.index_of(&"db"), marks.newest()), (5, 0, 5));
        marks.touch(6, &"web", true);
        assert_eq!(marks.index_of(&"web"), 6);
    }

    #[test]
    fn a_part_s_hash_does_not_depend_on_how_it_was_encoded() {
        for size in [0, SMALL_PART - 2, SMALL_PART - 1, SMALL_PART, 10 * SMALL_PART] {
            let value = "x".repeat(size);
            assert_eq!(
                part(7, &value),
                xxh3_64_with_seed(&postcard::to_stdvec(&value).unwrap(), 7),
                "{size}"
            );
        }
    }

    proptest! {
        #[test]
        fn indexes_never_go_back_and_the_digest_is_that_of_the_content(
            steps in prop::collection::vec((0u8..6, prop::option::of(0u8..3)), 0..60),
        ) {
            let mut table = Table::default();
            let mut before = [0; 6];
            for (index, (key, row)) in (1..).zip(steps) {
                match row {
                    Some(row) => table.set(index, key, (index, row)),
                    None => drop(table.remove(index, &key)),
                }
                for (slot, key) in before.iter_mut().zip(0u8..) {
                    let now = table.get(&key).map_or_else(|| table.removed_at(&key), |(index, _)| *index);
                    prop_assert!(now >= *slot && now <= table.newest());
                    *slot = now;
                }
                let bytes = postcard::to_stdvec(&table).unwrap();
                let mut loaded: Table<u8, (u64, u8)> = postcard::from_bytes(&bytes).unwrap();
                loaded.rebuild_digest();
                prop_assert_eq!(loaded.digest(), table.digest());
                prop_assert_eq!(&loaded, &table);
            }
        }
    }
}
