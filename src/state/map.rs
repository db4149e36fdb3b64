//! An ordered map, and a set, whose copies share all that is the same in both.
//!
//! A state is copied to be written down while it goes on changing, and before each transaction, which may have to be taken
//! back. Of a map of the standard library that costs as much as there is in it, and whoever applies the log stands still
//! meanwhile. Here a copy is one pointer. What changes afterwards is copied first, if a copy has it too: the
//! nodes on the way from the root to it, and no more.
//!
//! It is a B+ tree: entries are in the leaves, and all leaves are equally deep. How the entries are spread over the nodes
//! depends on what happened before, as nothing does that can be seen: order, equality and the encoding are
//! those of [`std::collections::BTreeMap`] and [`std::collections::BTreeSet`].

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::slice;
use std::sync::Arc;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Entries of a leaf and children of a branch, at most.
const MOST: usize = 16;
/// A node with fewer is joined with its neighbour, if one is enough for both.
const FEW: usize = MOST / 4;

enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    /// Each child with the key from which on all is in it or behind it. The first child's says nothing: it has all that comes
    /// before the second.
    Branch(Vec<(K, Arc<Node<K, V>>)>),
}

/// A copy of a node is made to be changed, so it has room.
impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Node<K, V> {
        fn roomy<T: Clone>(items: &[T]) -> Vec<T> {
            let mut copy = Vec::with_capacity(MOST);
            copy.extend_from_slice(items);
            copy
        }
        match self {
            Node::Leaf(entries) => Node::Leaf(roomy(entries)),
            Node::Branch(children) => Node::Branch(roomy(children)),
        }
    }
}

/// Which child a key belongs to.
fn child_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[(K, Arc<Node<K, V>>)], key: &Q) -> usize {
    let behind = children.iter().skip(1).position(|(from, _)| from.borrow() > key);
    behind.unwrap_or(children.len().saturating_sub(1))
}

/// Where the entry of a key is, or would be. One after the other: a search by halves takes twice as long, because where it looks
/// next is not known before the last key has come from memory.
fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    for (at, (has, _)) in entries.iter().enumerate() {
        match has.borrow().cmp(key) {
            Ordering::Less => {}
            Ordering::Equal => return Ok(at),
            Ordering::Greater => return Err(at),
        }
    }
    Err(entries.len())
}

/// Puts an item there. Gives back what finds no place then.
fn put<T>(items: &mut Vec<T>, at: usize, item: T) -> Option<Vec<T>> {
    if items.len() < MOST {
        items.insert(at, item);
        return None;
    }
    // What comes in order, as it does from a snapshot, leaves full nodes behind.
    let mut rest = items.split_off(if at == MOST { MOST } else { MOST / 2 });
    match at.checked_sub(items.len()) {
        Some(at) => rest.insert(at, item),
        None => items.insert(at, item),
    }
    Some(rest)
}

/// A node that has come to stand behind another, and the key from which on all is in it.
type Behind<K, V> = Option<(K, Arc<Node<K, V>>)>;

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// Gives back what was there before, and what did not find a place in this node.
    fn insert(&mut self, key: K, value: V) -> (Option<V>, Behind<K, V>) {
        match self {
            Node::Leaf(entries) => match find(entries, &key) {
                Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
                Err(at) => {
                    let rest = put(entries, at, (key, value));
                    (None, rest.map(|rest| (rest[0].0.clone(), Arc::new(Node::Leaf(rest)))))
                }
            },
            Node::Branch(children) => {
                let at = child_of(children, &key);
                let (before, behind) = Arc::make_mut(&mut children[at].1).insert(key, value);
                let rest = behind.and_then(|behind| put(children, at + 1, behind));
                (before, rest.map(|rest| (rest[0].0.clone(), Arc::new(Node::Branch(rest)))))
            }
        }
    }

    /// Takes an entry out, and leaves no child without any.
    fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Node::Leaf(entries) => {
                let at = find(entries, key).ok()?;
                Some(entries.remove(at).1)
            }
            Node::Branch(children) => {
                let at = child_of(children, key);
                let removed = Arc::make_mut(&mut children[at].1).remove(key);
                let left = at.min(children.len().saturating_sub(2));
                if children[at].1.len() < FEW
                    && let Some((_, right)) = children.get(left + 1)
                    && children[left].1.len() + right.len() <= MOST
                {
                    let (_, right) = children.remove(left + 1);
                    Arc::make_mut(&mut children[left].1).append(Arc::unwrap_or_clone(right));
                }
                removed
            }
        }
    }

    /// Takes in all of the neighbour behind, which is as deep.
    fn append(&mut self, behind: Node<K, V>) {
        match (self, behind) {
            (Node::Leaf(entries), Node::Leaf(others)) => entries.extend(others),
            (Node::Branch(children), Node::Branch(others)) => children.extend(others),
            _ => debug_assert!(false, "all leaves are equally deep"),
        }
    }

    fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match self {
            Node::Leaf(entries) => {
                let at = find(entries, key).ok()?;
                Some(&mut entries[at].1)
            }
            Node::Branch(children) => {
                let at = child_of(children, key);
                Arc::make_mut(&mut children[at].1).get_mut(key)
            }
        }
    }
}

impl<K, V> Node<K, V> {
    /// How many entries or children it has itself.
    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Branch(children) => children.len(),
        }
    }
}

/// An ordered map. A copy costs one pointer; see the [module](self).
pub struct Map<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Map<K, V> {
        Map { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Map<K, V> {
        Map { root: self.root.clone(), len: self.len }
    }
}

impl<K, V> Map<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter { above: Vec::new(), leaf: [].iter() };
        iter.descend(&self.root);
        iter
    }

    /// All keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The entry of the least key.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }
}

impl<K: Ord, V> Map<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = find(entries, key).ok()?;
                    return Some(&entries[at].1);
                }
                Node::Branch(children) => node = &children[child_of(children, key)].1,
            }
        }
    }

    /// Whether there is an entry of this key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries within a range of keys, in their order. One that ends before it begins has none.
    pub fn range<Q: Ord + ?Sized, R: RangeBounds<Q>>(
        &self,
        keys: R,
    ) -> impl Iterator<Item = (&K, &V)> + use<'_, K, V, Q, R>
    where
        K: Borrow<Q>,
    {
        let mut from = Iter { above: Vec::new(), leaf: [].iter() };
        match keys.start_bound() {
            Bound::Unbounded => from.descend(&self.root),
            Bound::Included(key) => from.descend_to(&self.root, key, |has| has < key),
            Bound::Excluded(key) => from.descend_to(&self.root, key, |has| has <= key),
        }
        from.take_while(move |(key, _)| match keys.end_bound() {
            Bound::Unbounded => true,
            Bound::Included(end) => (*key).borrow() <= end,
            Bound::Excluded(end) => (*key).borrow() < end,
        })
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// Enters a value. Gives back the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (before, behind) = Arc::make_mut(&mut self.root).insert(key, value);
        if let Some((from, behind)) = behind {
            let root = std::mem::take(&mut self.root);
            self.root = Arc::new(Node::Branch(vec![(from.clone(), root), (from, behind)]));
        }
        self.len += usize::from(before.is_none());
        before
    }

    /// Removes an entry. Gives its value back, if there was one.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Nothing is copied for what changes nothing.
        if !self.contains_key(key) {
            return None;
        }
        let removed = Arc::make_mut(&mut self.root).remove(key);
        self.len -= usize::from(removed.is_some());
        while let Node::Branch(children) = &*self.root
            && let [(_, only)] = &children[..]
        {
            self.root = only.clone();
        }
        removed
    }

    /// Removes the entry of the least key, and gives it back.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let key = self.first()?.0.clone();
        let value = self.remove(&key)?;
        Some((key, value))
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        Arc::make_mut(&mut self.root).get_mut(key)
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Node<K, V> {
        Node::Leaf(Vec::new())
    }
}

/// All entries of a [`Map`], in the order of their keys.
pub struct Iter<'a, K, V> {
    /// What is still to come, on each level above the leaves.
    above: Vec<slice::Iter<'a, (K, Arc<Node<K, V>>)>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iter<'a, K, V> {
    /// Goes to the first entry below a node.
    fn descend(&mut self, mut node: &'a Node<K, V>) {
        loop {
            match node {
                Node::Leaf(entries) => return self.leaf = entries.iter(),
                Node::Branch(children) => {
                    let mut children = children.iter();
                    let Some((_, first)) = children.next() else { return };
                    self.above.push(children);
                    node = first;
                }
            }
        }
    }

    /// Goes to the first entry below a node that is not `before` the range that begins at a key.
    fn descend_to<Q: Ord + ?Sized>(&mut self, mut node: &'a Node<K, V>, key: &Q, before: impl Fn(&Q) -> bool)
    where
        K: Borrow<Q>,
    {
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = entries.partition_point(|(has, _)| before(has.borrow()));
                    return self.leaf = entries[at..].iter();
                }
                Node::Branch(children) => {
                    let at = child_of(children, key);
                    self.above.push(children[at + 1..].iter());
                    node = &children[at].1;
                }
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<(&'a K, &'a V)> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some((_, next)) => self.descend(next),
                None => drop(self.above.pop()),
            }
        }
    }
}

impl<K: Clone, V: Clone> Map<K, V> {
    /// All entries in the order of their keys; what no copy shares is not copied.
    pub fn into_entries(self) -> impl Iterator<Item = (K, V)> {
        let mut nodes = vec![self.root];
        let leaves = std::iter::from_fn(move || {
            loop {
                match Arc::unwrap_or_clone(nodes.pop()?) {
                    Node::Leaf(entries) => return Some(entries),
                    Node::Branch(children) => nodes.extend(children.into_iter().rev().map(|(_, node)| node)),
                }
            }
        });
        leaves.flatten()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Map<K, V> {
        let mut map = Map::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Map<K, V>) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for Map<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Serialize, V: Serialize> Serialize for Map<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len))?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, K, V> Deserialize<'de> for Map<K, V>
where
    K: Ord + Clone + Deserialize<'de>,
    V: Clone + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Map<K, V>, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData::<Map<K, V>>))
    }
}

/// Reads the entries of a map or the members of a set.
struct Entries<T>(PhantomData<T>);

impl<'de, K, V> Visitor<'de> for Entries<Map<K, V>>
where
    K: Ord + Clone + Deserialize<'de>,
    V: Clone + Deserialize<'de>,
{
    type Value = Map<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Map<K, V>, A::Error> {
        let mut map = Map::default();
        while let Some((key, value)) = entries.next_entry()? {
            map.insert(key, value);
        }
        Ok(map)
    }
}

/// An ordered set. A copy costs one pointer; see the [module](self).
#[derive(PartialEq, Eq)]
pub struct Set<T>(Map<T, ()>);

impl<T> Default for Set<T> {
    fn default() -> Set<T> {
        Set(Map::default())
    }
}

impl<T> Clone for Set<T> {
    fn clone(&self) -> Set<T> {
        Set(self.0.clone())
    }
}

impl<T> Set<T> {
    /// The least member.
    pub fn first(&self) -> Option<&T> {
        self.0.keys().next()
    }

    /// All members in their order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.keys()
    }
}

impl<T: Ord + Clone> Set<T> {
    /// Makes something a member.
    pub fn insert(&mut self, member: T) {
        self.0.insert(member, ());
    }

    /// Makes something no member.
    pub fn remove(&mut self, member: &T) {
        self.0.remove(member);
    }

    /// Removes the least member, and gives it back.
    pub fn pop_first(&mut self) -> Option<T> {
        self.0.pop_first().map(|(member, ())| member)
    }

    /// The members within a range, in their order.
    pub fn range<R: RangeBounds<T>>(&self, range: R) -> impl Iterator<Item = &T> + use<'_, T, R> {
        self.0.range(range).map(|(member, ())| member)
    }
}

impl<T: Ord + Clone> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Set<T> {
        Set(members.into_iter().map(|member| (member, ())).collect())
    }
}

impl<T: fmt::Debug> fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T: Serialize> Serialize for Set<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_seq(Some(self.0.len()))?;
        for member in self.iter() {
            members.serialize_element(member)?;
        }
        members.end()
    }
}

impl<'de, T: Ord + Clone + Deserialize<'de>> Deserialize<'de> for Set<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Set<T>, D::Error> {
        deserializer.deserialize_seq(Entries(PhantomData::<Set<T>>))
    }
}

impl<'de, T: Ord + Clone + Deserialize<'de>> Visitor<'de> for Entries<Set<T>> {
    type Value = Set<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Set<T>, A::Error> {
        let mut set = Set::default();
        while let Some(member) = members.next_element()? {
            set.insert(member);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use proptest::prelude::*;

    /// How deep the leaves are, all of them; every node but the root has something, none too much, and every key is where it is
    /// looked for.
    fn depth<K: Ord + Clone, V>(node: &Node<K, V>, from: Option<&K>, to: Option<&K>) -> usize {
        assert!(node.len() <= MOST);
        match node {
            Node::Leaf(entries) => {
                assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0));
                let within = |key: &K| from.is_none_or(|from| from <= key) && to.is_none_or(|to| key < to);
                assert!(entries.iter().all(|(key, _)| within(key)));
                0
            }
            Node::Branch(children) => {
                assert!(children.len() > 1 || from.is_some() || to.is_some());
                let depths: BTreeSet<usize> = (0..children.len())
                    .map(|at| {
                        assert!(children[at].1.len() > 0);
                        let from = if at == 0 { from } else { Some(&children[at].0) };
                        let to = children.get(at + 1).map_or(to, |(next, _)| Some(next));
                        depth(&children[at].1, from, to)
                    })
                    .collect();
                assert_eq!(depths.len(), 1);
                depths.iter().sum::<usize>() + 1
            }
        }
    }

    /// All that can be asked gives what the standard library's map gives.
    fn the_same(map: &Map<u16, u16>, model: &BTreeMap<u16, u16>, bounds: (Bound<u16>, Bound<u16>)) {
        depth(&map.root, None, None);
        assert_eq!((map.len(), map.first()), (model.len(), model.first_key_value()));
        assert!(map.iter().eq(model.iter()));
        let (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) = bounds
        else {
            return;
        };
        assert_eq!((map.get(&a), map.contains_key(&b)), (model.get(&a), model.contains_key(&b)));
        // The standard library's panics at such a range.
        if a < b {
            assert!(map.range(bounds).eq(model.range(bounds)));
        } else if a > b {
            assert_eq!(map.range(bounds).count(), 0);
        }
        assert!(map.range(a..).eq(model.range(a..)) && map.range(..=b).eq(model.range(..=b)));
    }

    #[test]
    fn what_comes_in_order_leaves_full_leaves_and_what_goes_leaves_none() {
        let mut map: Map<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
        assert_eq!(depth(&map.root, None, None), 3);
        let copy = map.clone();
        for key in (0..10_000).step_by(2).chain((1..10_000).step_by(2).collect::<Vec<_>>().into_iter().rev())
        {
            assert_eq!(map.remove(&key), Some(key));
        }
        assert!(map.is_empty() && map.first().is_none() && depth(&map.root, None, None) == 0);
        assert!(copy.into_entries().eq((0..10_000).map(|key| (key, key))));
    }

    #[test]
    fn a_change_copies_the_way_to_it_and_nothing_else() {
        let mut map: Map<u32, Arc<()>> = (0..4_096).map(|key| (key, Arc::new(()))).collect();
        let copy = map.clone();
        assert!(Arc::ptr_eq(&map.root, &copy.root));
        // What changes nothing copies nothing.
        assert!(map.remove(&9_999).is_none() && map.get_mut(&9_999).is_none());
        assert!(Arc::ptr_eq(&map.root, &copy.root));
        map.remove(&2_000);
        let copied = copy.iter().filter(|(_, value)| Arc::strong_count(value) > 1).count();
        assert!((1..=MOST).contains(&copied), "{copied} entries were copied");
    }

    proptest! {
        #[test]
        fn it_is_as_the_standard_library_s_and_copies_stay_as_they_were(
            steps in prop::collection::vec((0u8..8, 0u16..600, any::<u16>()), 0..1500),
            copied_at in 0usize..1500,
            bounds in prop::collection::vec((0u16..600, any::<bool>()), 2),
        ) {
            let bound = |(key, open): (u16, bool)| if open { Bound::Excluded(key) } else { Bound::Included(key) };
            let bounds = (bound(bounds[0]), bound(bounds[1]));
            let (mut map, mut model) = (Map::default(), BTreeMap::new());
            let mut copy = (map.clone(), model.clone());
            for (at, (what, key, value)) in steps.into_iter().enumerate() {
                if at == copied_at {
                    copy = (map.clone(), model.clone());
                }
                match what {
                    0..4 => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    4..6 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    6 => prop_assert_eq!(map.pop_first(), model.pop_first()),
                    _ => {
                        prop_assert_eq!(map.get_mut(&key).map(|slot| *slot = value), model.get_mut(&key).map(|slot| *slot = value));
                    }
                }
            }
            the_same(&map, &model, bounds);
            the_same(&copy.0, &copy.1, bounds);
            prop_assert_eq!(map == copy.0, model == copy.1);
            let bytes = postcard::to_stdvec(&map).unwrap();
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&model).unwrap());
            prop_assert_eq!(&postcard::from_bytes::<Map<u16, u16>>(&bytes).unwrap(), &map);
            let set: Set<u16> = map.keys().copied().collect();
            let bytes = postcard::to_stdvec(&set).unwrap();
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&model.keys().collect::<BTreeSet<_>>()).unwrap());
            prop_assert_eq!(postcard::from_bytes::<Set<u16>>(&bytes).unwrap(), set);
        }
    }
}
