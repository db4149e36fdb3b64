//! SESS: a write is applied at most once, however often its request was sent (Raft thesis, 6.3).
//!
//! Every value of a run is written by one operation, so a value that is seen under two modify indexes
//! was written twice: a retry was taken for a new request, or the table of requests seen was lost.
//!
//! Let pass: a second application that nobody reads, or that comes back to the same index. LIN finds the
//! first where it matters.

use std::collections::BTreeMap;

use super::Findings;
use super::index_order::{place, sightings};
use super::linearizable::describe;
use crate::history::Operation;

/// Judges a history.
pub fn check(history: &[Operation], findings: &mut Findings) {
    let mut writers: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for operation in history {
        if let Some(value) = operation.action.writes() {
            *writers.entry((&operation.key, value)).or_default() += 1;
        }
    }
    for (key, reads) in sightings(history) {
        let mut indexes: BTreeMap<&str, (u64, &Operation)> = BTreeMap::new();
        for (operation, seen) in reads {
            if writers.get(&(key, seen.value.as_str())).is_some_and(|writers| *writers > 1) {
                continue;
            }
            let (index, first) = *indexes.entry(&seen.value).or_insert((seen.modify_index, operation));
            if index != seen.modify_index {
                findings.add(
                    "SESS",
                    place(operation),
                    format!(
                        "key {key:?}: {:?} was applied twice, at index {index} and at index {}:\n    {}\n    {}",
                        seen.value,
                        seen.modify_index,
                        describe(first),
                        describe(operation)
                    ),
                );
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::test::Story;

    fn found(story: Story) -> Vec<String> {
        let mut findings = Findings::default();
        check(&story.0, &mut findings);
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    #[test]
    fn a_value_seen_often_at_one_index_is_accepted() {
        let story = Story::default().put((0, 1), "a").get((2, 3), Some(("a", 7)));
        assert!(found(story.get((4, 5), Some(("a", 7)))).is_empty());
    }

    #[test]
    fn a_value_seen_at_two_indexes_is_rejected() {
        let story = Story::default().maybe_put(0, "a").get((2, 3), Some(("a", 7)));
        assert!(found(story.get((4, 5), Some(("a", 9))))[0].contains("at index 7 and at index 9"));
    }

    #[test]
    fn a_value_that_two_operations_wrote_proves_nothing() {
        let story = Story::default().put((0, 1), "a").put((0, 1), "a").get((2, 3), Some(("a", 7)));
        assert!(found(story.get((4, 5), Some(("a", 9)))).is_empty());
    }
}
