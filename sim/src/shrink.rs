//! Shrinking: fewer faults and fewer operations that still break the same check.
//!
//! [`smallest`] runs candidates in processes of their own and asks whether the check still objects.
//! [`ddmin`], which chooses the candidates, is Zeller's: try halves, then what is left without one of them, then finer parts, until no
//! single element can be taken away. It is pure: whether a candidate still fails is the caller's question,
//! and the caller may end the search early by answering `false` from then on.
//!
//! A scenario is data and not a seed, so taking one fault away leaves the others where they are.
//!
//! Left out: moving faults in time, shortening them, or taking nodes away.

use std::fs::File;
use std::io;

use crate::runner::{Case, Runner};
use crate::scenario::Scenario;

/// Shrinks a scenario that violates `check`, running at most `runs` candidates. `told` hears of each
/// success: how many faults and operations are left.
///
/// # Errors
/// The system's, when candidates cannot be written to the folder for temporary files.
pub fn smallest(
    scenario: &Scenario,
    check: &str,
    runner: &Runner,
    case: &Case,
    runs: u32,
    told: &mut dyn FnMut(usize, usize),
) -> io::Result<Scenario> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("candidate.json");
    let case = Case { scenario: Some(path.clone()), trace: None, ..case.clone() };
    let mut left = runs;
    let mut broken = None;
    let mut fails = |candidate: &Scenario| {
        if left == 0 || broken.is_some() {
            return false;
        }
        left -= 1;
        let written = File::create(&path)
            .and_then(|file| serde_json::to_writer(file, candidate).map_err(io::Error::from));
        if let Err(error) = written {
            broken = Some(error);
            return false;
        }
        let fails = runner.run(&case).violates(check);
        if fails {
            told(candidate.faults.len(), candidate.operations.len());
        }
        fails
    };
    let mut best = scenario.clone();
    loop {
        let before = (best.faults.len(), best.operations.len());
        let with_faults = |faults: &[_]| Scenario { faults: faults.to_vec(), ..best.clone() };
        let faults = ddmin(&best.faults, |faults| fails(&with_faults(faults)));
        best = with_faults(&faults);
        let with_operations = |operations: &[_]| Scenario { operations: operations.to_vec(), ..best.clone() };
        let operations = ddmin(&best.operations, |operations| fails(&with_operations(operations)));
        best = with_operations(&operations);
        // Fewer operations may need fewer faults.
        if (best.faults.len(), best.operations.len()) == before {
            break;
        }
    }
    broken.map_or(Ok(best), Err)
}

/// Finds a small part of `items`, in their order, for which `fails` says true.
///
/// `fails` is taken to be true for `items` itself. Unless it gave up, no single element of the result can
/// be left out.
pub fn ddmin<T: Clone>(items: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut items = items.to_vec();
    if items.is_empty() || fails(&[]) {
        return Vec::new();
    }
    let mut parts = 2;
    while items.len() >= 2 {
        let size = items.len().div_ceil(parts);
        let starts = (0..items.len()).step_by(size);
        let part = |start: usize| start..(start + size).min(items.len());
        // With two parts the rest of one is the other.
        let alone = starts.clone().map(part).find(|range| parts > 2 && fails(&items[range.clone()]));
        if let Some(range) = alone {
            items = items[range].to_vec();
            parts = 2;
            continue;
        }
        let rest = starts.map(part).find_map(|range| {
            let rest = [&items[..range.start], &items[range.end..]].concat();
            fails(&rest).then_some(rest)
        });
        if let Some(rest) = rest {
            items = rest;
            parts = (parts - 1).max(2);
        } else if size == 1 {
            break;
        } else {
            parts = (parts * 2).min(items.len());
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_culprit_of_a_thousand_is_found_in_few_tries() {
        let mut tries = 0;
        let items: Vec<u32> = (0..1000).collect();
        let found = ddmin(&items, |part| {
            tries += 1;
            part.contains(&617)
        });
        assert_eq!(found, [617]);
        assert!(tries < 60, "{tries}");
    }

    #[test]
    fn what_fails_without_anything_shrinks_to_nothing() {
        assert_eq!(ddmin(&[1, 2, 3], |_| true), Vec::<i32>::new());
        assert_eq!(ddmin(&[], |_: &[i32]| false), Vec::<i32>::new());
        assert_eq!(ddmin(&[1], |part| part.len() == 1), [1]);
    }

    #[test]
    fn giving_up_returns_what_was_reached() {
        let items: Vec<u32> = (0..100).collect();
        let mut tries = 0;
        let found = ddmin(&items, |part| {
            tries += 1;
            tries < 4 && part.contains(&3) && part.contains(&4)
        });
        assert!(found.contains(&3) && found.contains(&4) && found.len() < 100);
    }

    proptest! {
        #[test]
        fn exactly_the_needed_elements_are_left_in_order(
            len in 0usize..60, needed in proptest::collection::btree_set(0usize..60, 0..6),
        ) {
            let items: Vec<usize> = (0..len).collect();
            let needed: Vec<usize> = needed.into_iter().filter(|at| *at < len).collect();
            let found = ddmin(&items, |part| needed.iter().all(|at| part.contains(at)));
            prop_assert_eq!(found, needed);
        }

        #[test]
        fn no_single_element_of_the_result_can_be_left_out(
            items in proptest::collection::vec(0u32..20, 1..40), threshold in 0u32..60,
        ) {
            let fails = |part: &[u32]| part.iter().sum::<u32>() >= threshold;
            prop_assume!(fails(&items));
            let found = ddmin(&items, fails);
            prop_assert!(fails(&found));
            for at in 0..found.len() {
                let mut less = found.clone();
                less.remove(at);
                prop_assert!(!fails(&less));
            }
        }
    }
}
