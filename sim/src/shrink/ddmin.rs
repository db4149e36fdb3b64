//! Delta debugging (Zeller and Hildebrandt 2002), over batches of candidates.
//!
//! Try halves, then what is left without one of them, then finer parts, until no single element can be
//! taken away. A round's candidates are asked about together and the *first* that still fails counts, so
//! they can be run at once on all cores and the result is the one that one core would find.

/// Finds a small part of `items`, in their order, that still fails.
///
/// `first` tells which of the candidates, if any, is the first that fails; it is taken to be so for `items`
/// itself. Unless it gave up (by answering `None` from some point on), no single element of the result can be
/// left out; with a limit on `parts` no such part can.
pub fn ddmin<T: Clone>(
    items: &[T],
    parts_at_most: usize,
    mut first: impl FnMut(&[Vec<T>]) -> Option<usize>,
) -> Vec<T> {
    let mut items = items.to_vec();
    if items.is_empty() || first(&[Vec::new()]).is_some() {
        return Vec::new();
    }
    let mut parts = 2;
    while items.len() >= 2 {
        let size = items.len().div_ceil(parts);
        let ranges: Vec<_> =
            (0..items.len()).step_by(size).map(|start| start..(start + size).min(items.len())).collect();
        // With two parts the rest of one is the other; with single elements left, one alone was tried before.
        let alone = if parts > 2 { ranges.len() } else { 0 };
        let mut candidates: Vec<Vec<T>> =
            ranges.iter().take(alone).map(|range| items[range.clone()].to_vec()).collect();
        candidates.extend(ranges.iter().map(|range| [&items[..range.start], &items[range.end..]].concat()));
        match first(&candidates) {
            Some(at) => {
                parts = if at < alone { 2 } else { (parts - 1).max(2) };
                items = candidates.swap_remove(at);
            }
            None if size == 1 || parts >= parts_at_most => break,
            None => parts = (parts * 2).min(items.len()).min(parts_at_most),
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One candidate after the other.
    fn one_by_one<T>(mut fails: impl FnMut(&[T]) -> bool) -> impl FnMut(&[Vec<T>]) -> Option<usize> {
        move |candidates| candidates.iter().position(|candidate| fails(candidate))
    }

    #[test]
    fn one_culprit_of_a_thousand_is_found_in_few_tries() {
        let mut tries = 0;
        let items: Vec<u32> = (0..1000).collect();
        let found = ddmin(
            &items,
            usize::MAX,
            one_by_one(|part| {
                tries += 1;
                part.contains(&617)
            }),
        );
        assert_eq!(found, [617]);
        assert!(tries < 60, "{tries}");
    }

    #[test]
    fn what_fails_without_anything_shrinks_to_nothing() {
        assert_eq!(ddmin(&[1, 2, 3], usize::MAX, one_by_one(|_| true)), Vec::<i32>::new());
        assert_eq!(ddmin(&[], usize::MAX, one_by_one(|_: &[i32]| false)), Vec::<i32>::new());
        assert_eq!(ddmin(&[1], usize::MAX, one_by_one(|part| part.len() == 1)), [1]);
    }

    #[test]
    fn giving_up_returns_what_was_reached() {
        let items: Vec<u32> = (0..100).collect();
        let mut tries = 0;
        let fails = |part: &[u32]| {
            tries += 1;
            tries < 4 && part.contains(&3) && part.contains(&4)
        };
        let found = ddmin(&items, usize::MAX, one_by_one(fails));
        assert!(found.contains(&3) && found.contains(&4) && found.len() < 100);
    }

    #[test]
    fn with_few_parts_the_search_is_short_and_coarse() {
        let items: Vec<u32> = (0..100).collect();
        let culprits = || (0..50).step_by(5);
        let mut tries = 0;
        let fails = |part: &[u32]| {
            tries += 1;
            culprits().all(|culprit| part.contains(&culprit))
        };
        // Half of them goes easily; what is left would have to be cut finer than into four.
        assert_eq!(ddmin(&items, 4, one_by_one(fails)), (0..50).collect::<Vec<u32>>());
        assert!(tries < 20, "{tries}");
    }

    proptest! {
        #[test]
        fn exactly_the_needed_elements_are_left_in_order(
            len in 0usize..60, needed in proptest::collection::btree_set(0usize..60, 0..6),
        ) {
            let items: Vec<usize> = (0..len).collect();
            let needed: Vec<usize> = needed.into_iter().filter(|at| *at < len).collect();
            let found = ddmin(&items, usize::MAX, one_by_one(|part| needed.iter().all(|at| part.contains(at))));
            prop_assert_eq!(found, needed);
        }

        #[test]
        fn no_single_element_of_the_result_can_be_left_out(
            items in proptest::collection::vec(0u32..20, 1..40), threshold in 0u32..60,
        ) {
            let fails = |part: &[u32]| part.iter().sum::<u32>() >= threshold;
            prop_assume!(fails(&items));
            let found = ddmin(&items, usize::MAX, one_by_one(fails));
            prop_assert!(fails(&found));
            for at in 0..found.len() {
                let mut less = found.clone();
                less.remove(at);
                prop_assert!(!fails(&less));
            }
        }
    }
}
