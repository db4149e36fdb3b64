//! IDX: the modify index that reads show for a key never goes back in real time, and names one value.
//!
//! A sanity check beside LIN: weaker, linear, and its message says at once which read was stale. It holds
//! because the index is the log index of the write: a read that began after another had returned sees a
//! state that is at least as new.
//!
//! Let pass: reads that found nothing, because a removed key shows no index.

use std::collections::BTreeMap;

use super::linearizable::describe;
use super::{At, Findings};
use crate::history::{Operation, Outcome, Response, Versioned};

/// Reads that found something: the operation and what it saw, in order of call.
pub(super) fn sightings(history: &[Operation]) -> BTreeMap<&str, Vec<(&Operation, &Versioned)>> {
    let mut by_key: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for operation in history {
        if let Outcome::Ok(Response::Value(Some(seen))) = &operation.outcome {
            by_key.entry(&operation.key).or_default().push((operation, seen));
        }
    }
    for reads in by_key.values_mut() {
        reads.sort_by_key(|(operation, _)| (operation.invoked_ns, operation.id));
    }
    by_key
}

/// Judges a history.
pub fn check(history: &[Operation], findings: &mut Findings) {
    for (key, reads) in sightings(history) {
        one_value_an_index(key, &reads, findings);
        never_back(key, &reads, findings);
    }
}

fn one_value_an_index(key: &str, reads: &[(&Operation, &Versioned)], findings: &mut Findings) {
    let mut values: BTreeMap<u64, (&Operation, &str)> = BTreeMap::new();
    for (operation, seen) in reads {
        let (first, value) = *values.entry(seen.modify_index).or_insert((*operation, &seen.value));
        if value != seen.value {
            findings.add(
                "IDX",
                place(operation),
                format!(
                    "key {key:?} held two values at modify index {}:\n    {}\n    {}",
                    seen.modify_index,
                    describe(first),
                    describe(operation)
                ),
            );
            return;
        }
    }
}

fn never_back(key: &str, reads: &[(&Operation, &Versioned)], findings: &mut Findings) {
    let mut returned: Vec<_> = reads.to_vec();
    returned.sort_by_key(|(operation, _)| operation.returned_ns.unwrap_or(u64::MAX));
    let mut returned = returned.into_iter().peekable();
    let mut newest: Option<(&Operation, &Versioned)> = None;
    for (operation, seen) in reads {
        let is_before = |(earlier, _): &(&Operation, &Versioned)| {
            earlier.returned_ns.is_some_and(|end| end < operation.invoked_ns)
        };
        while let Some((earlier, earlier_seen)) = returned.next_if(is_before) {
            if newest.is_none_or(|(_, newest)| newest.modify_index < earlier_seen.modify_index) {
                newest = Some((earlier, earlier_seen));
            }
        }
        if let Some((earlier, earlier_seen)) = newest
            && earlier_seen.modify_index > seen.modify_index
        {
            findings.add(
                "IDX",
                place(operation),
                format!(
                    "key {key:?} went back from modify index {} to {}:\n    {}\n    {}",
                    earlier_seen.modify_index,
                    seen.modify_index,
                    describe(earlier),
                    describe(operation)
                ),
            );
            return;
        }
    }
}

pub(super) fn place(operation: &Operation) -> At {
    At { ns: operation.returned_ns.unwrap_or(operation.invoked_ns), node: operation.node }
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
    fn overlapping_reads_may_differ_and_later_ones_may_grow() {
        let story = Story::default().get((0, 9), Some(("b", 2))).get((1, 8), Some(("a", 1)));
        assert!(found(story.get((20, 21), None).get((22, 23), Some(("c", 9)))).is_empty());
    }

    #[test]
    fn a_later_read_of_an_older_index_is_rejected() {
        let story = Story::default().get((0, 9), Some(("b", 2))).get((10, 11), Some(("a", 1)));
        assert!(found(story)[0].contains("went back from modify index 2 to 1"));
    }

    #[test]
    fn two_values_at_one_index_are_rejected() {
        let story = Story::default().get((0, 9), Some(("b", 2))).get((1, 8), Some(("a", 2)));
        assert!(found(story)[0].contains("two values at modify index 2"));
    }
}
