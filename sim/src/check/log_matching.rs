//! LM: entries with the same index and term are the same, and so are all entries before them (Raft, 5.3).
//!
//! Each (index, term) remembers its digest and the term of the entry before it. If both agree wherever
//! the pair is seen, then by induction the logs agree from there down, which is the theorem. Reopened
//! logs are judged like appended ones, so a torn or rotten record that is taken for an entry shows here.
//!
//! An entry follows the last, or what a snapshot stands for: else the induction has no beginning, and the log would count for
//! what it lacks.
//!
//! Let pass: the predecessor of an entry at the start of a log, because a snapshot hides it.

use std::collections::BTreeMap;

use driftline::env::Observed;

use super::by_index::ByIndex;
use super::view::View;
use super::{At, Check, Event, Findings};

/// An entry, as it was first seen.
#[derive(Clone, Copy, Debug)]
struct Shown {
    term: u64,
    digest: u64,
    /// Term of the entry before, where seen.
    before: Option<u64>,
    /// Who showed it first.
    node: u32,
}

/// The check's memory.
#[derive(Debug, Default)]
pub struct LogMatching {
    /// At each index the entry of the term that was first seen there, which is nearly always the only one.
    first: ByIndex<Shown>,
    /// Those of other terms, by index and term.
    others: BTreeMap<(u64, u64), Shown>,
}

impl LogMatching {
    fn entry(
        &mut self,
        at: At,
        index: u64,
        (term, digest): (u64, u64),
        before: Option<u64>,
        findings: &mut Findings,
    ) {
        let now = Shown { term, digest, before, node: at.node };
        let mut known = self.first.or_insert(index, now);
        if known.term != term {
            known = self.others.entry((index, term)).or_insert(now);
        }
        let Shown { digest: first_digest, before: first_before, node: first_node, .. } = *known;
        // Mutant T07: one log is as good as another.
        if first_digest != digest && !driftline::mutant::is("T07") {
            findings.add(
                "LM",
                at,
                format!(
                    "entry {index} of term {term} differs: digest {digest:016x} on node {}, {first_digest:016x} \
                     on node {first_node}",
                    at.node
                ),
            );
        }
        match (first_before, before) {
            (Some(first), Some(now)) if first != now => findings.add(
                "LM",
                at,
                format!(
                    "entry {index} of term {term} follows an entry of term {now} on node {}, but one of term \
                     {first} on node {first_node}",
                    at.node
                ),
            ),
            (None, Some(_)) => known.before = before,
            _ => {}
        }
    }
}

impl Check for LogMatching {
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings) {
        match event {
            Event::Observed(Observed::Appended { index, term, digest }) => {
                let node = view.node(at.node);
                // A log begins with the entry that founds the cluster, at 0 as in openraft, or at 1 as in the paper.
                let next = node.next().max(1);
                if *index > next {
                    let detail = format!("entry {index} is appended, and the log goes on at {next}");
                    findings.add("LM", at, detail);
                }
                let before = index.checked_sub(1).and_then(|before| node.log.get(before));
                self.entry(at, *index, (*term, *digest), before.map(|(term, _)| term), findings);
            }
            Event::Observed(Observed::Recovered { log, .. }) => {
                let mut last: Option<(u64, u64)> = None;
                for (index, term, digest) in log {
                    if last.is_some_and(|(before, _)| before + 1 != *index) {
                        findings.add("LM", at, format!("the reopened log has a gap before index {index}"));
                        last = None;
                    }
                    self.entry(at, *index, (*term, *digest), last.map(|(_, term)| term), findings);
                    last = Some((*index, *term));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{Bench, digest};
    use super::*;

    fn bench() -> Bench<LogMatching> {
        Bench::new(LogMatching::default())
            .boots(3)
            .appends(0, 1, 1)
            .appends(0, 2, 1)
            .appends(1, 1, 1)
            .appends(1, 2, 1)
    }

    #[test]
    fn equal_logs_and_replaced_tails_are_accepted() {
        bench()
            .appends(1, 3, 1)
            .says(1, Observed::Truncated { index: 2 })
            .appends(1, 3, 2)
            .appends(0, 3, 2)
            .recovers(1, 2, 0, &[(1, 1), (2, 1), (3, 2)])
            .accepts();
    }

    #[test]
    fn another_payload_under_the_same_index_and_term_is_rejected() {
        bench()
            .says(2, Observed::Appended { index: 1, term: 1, digest: 5 })
            .rejects("entry 1 of term 1 differs");
        let log = vec![(1, 1, digest(1, 1)), (2, 1, 77)];
        bench()
            .says(1, Observed::Recovered { raft_id: 2, term: 1, last_index: 2, applied: 0, log })
            .rejects("entry 2 of term 1 differs");
    }

    #[test]
    fn an_entry_beyond_the_end_is_rejected_unless_a_snapshot_stands_for_what_is_between() {
        bench().appends(0, 9, 1).rejects("entry 9 is appended, and the log goes on at 3");
        bench()
            .says(0, Observed::SnapshotInstalled { index: 8, term: 1, state: 0 })
            .says(0, Observed::Purged { index: 8 })
            .appends(0, 9, 1)
            .accepts();
    }

    #[test]
    fn the_same_entry_after_another_past_is_rejected() {
        bench()
            .appends(0, 3, 4)
            .appends(2, 1, 1)
            .appends(2, 2, 3)
            .appends(2, 3, 4)
            .rejects("follows an entry of term 3");
    }

    #[test]
    fn a_hole_in_a_reopened_log_is_rejected() {
        bench().recovers(1, 1, 0, &[(1, 1), (3, 1)]).rejects("gap before index 3");
    }
}
