//! What a check remembers of every index of the log, for as long as the run lasts.
//!
//! None of it may be forgotten: a node that was down for an hour can still come back with an entry of then. But a long
//! run has hundreds of thousands of indexes, and they come in order. A map that grows at its end is half empty and holds
//! every key; here [`SIDE`] values lie side by side without their keys.
//!
//! An index far from all others costs a block of its own and nothing else, so that no number that a damaged node
//! shows can ask for much.

use std::collections::BTreeMap;

/// So many values lie side by side.
const SIDE: u64 = 64;

/// A value for each index.
#[derive(Debug)]
pub struct ByIndex<T> {
    /// By their first index divided by [`SIDE`].
    blocks: BTreeMap<u64, Box<[Option<T>; SIDE as usize]>>,
}

impl<T> Default for ByIndex<T> {
    fn default() -> ByIndex<T> {
        ByIndex { blocks: BTreeMap::new() }
    }
}

impl<T> ByIndex<T> {
    /// What is remembered of `index`.
    pub fn get(&self, index: u64) -> Option<&T> {
        self.blocks.get(&(index / SIDE))?[(index % SIDE) as usize].as_ref()
    }

    /// What is remembered of `index`: `value` from now on if there was nothing.
    pub fn or_insert(&mut self, index: u64, value: T) -> &mut T {
        let block = self.blocks.entry(index / SIDE);
        let block = block.or_insert_with(|| Box::new(std::array::from_fn(|_| None)));
        block[(index % SIDE) as usize].get_or_insert(value)
    }

    /// Everything from `first` on, in order.
    pub fn from(&self, first: u64) -> impl Iterator<Item = (u64, &T)> {
        let blocks = self.blocks.range(first / SIDE..);
        let all =
            blocks.flat_map(|(number, block)| (0..SIDE).map(move |at| number * SIDE + at).zip(block.iter()));
        all.filter(move |(index, _)| *index >= first)
            .filter_map(|(index, value)| Some((index, value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_remembers_what_a_map_does(
            writes in prop::collection::vec((prop_oneof![0..300u64, Just(u64::MAX), any::<u64>()], any::<u8>()), 0..200),
            first in 0..300u64,
        ) {
            let (mut ours, mut map) = (ByIndex::default(), BTreeMap::new());
            for (index, value) in writes {
                prop_assert_eq!(*ours.or_insert(index, value), *map.entry(index).or_insert(value));
            }
            let all: Vec<_> = ours.from(first).collect();
            prop_assert_eq!(all, map.range(first..).map(|(index, value)| (*index, value)).collect::<Vec<_>>());
            for index in 0..300 {
                prop_assert_eq!(ours.get(index), map.get(&index));
            }
        }
    }
}
