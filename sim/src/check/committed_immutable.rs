//! CI: what a node applied, it never removes or replaces, except by a snapshot that covers it (Raft, 5.4).
//!
//! Truncation is judged against what the node applied in this life. After a restart openraft may take an
//! entry for uncommitted that an earlier life applied, and drop it in favour of a snapshot; the entry is
//! not lost by that. An entry of *another term* at an index that any life applied is always wrong.

use std::collections::BTreeMap;

use driftline::env::Observed;

use super::by_index::ByIndex;
use super::view::View;
use super::{At, Check, Event, Findings};

/// The check's memory.
#[derive(Debug, Default)]
pub struct CommittedImmutable {
    /// By node and Raft id: the highest index applied in any life.
    applied: BTreeMap<(u32, Option<u64>), u64>,
    /// The term applied at each index, by whoever was first.
    terms: ByIndex<u64>,
}

impl Check for CommittedImmutable {
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings) {
        let node = view.node(at.node);
        let identity = node.identity(at.node);
        match event {
            Event::Observed(Observed::Applied { index, term, .. }) => {
                self.terms.or_insert(*index, *term);
                let applied = self.applied.entry(identity).or_default();
                *applied = (*applied).max(*index);
            }
            Event::Observed(Observed::Truncated { index }) => {
                let lost = node.applied.filter(|applied| applied > index);
                if let Some(applied) = lost.filter(|_| node.log.last() > Some(*index)) {
                    findings.add(
                        "CI",
                        at,
                        format!(
                            "node {} cut its log back to index {index} after applying up to {applied}",
                            at.node
                        ),
                    );
                }
            }
            Event::Observed(Observed::Appended { index, term, .. }) => {
                let committed = self.terms.get(*index).copied().filter(|committed| committed != term);
                if self.applied.get(&identity).is_some_and(|applied| index <= applied)
                    && let Some(committed) = committed
                {
                    findings.add(
                        "CI",
                        at,
                        format!(
                            "node {} put an entry of term {term} at index {index}, where it had applied \
                                 one of term {committed}",
                            at.node
                        ),
                    );
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::*;

    fn bench() -> Bench<CommittedImmutable> {
        Bench::new(CommittedImmutable::default())
            .boots(3)
            .appends(0, 1, 1)
            .appends(0, 2, 1)
            .appends(0, 3, 1)
            .applies(0, 1, 1)
            .applies(0, 2, 1)
    }

    #[test]
    fn cutting_what_was_not_applied_is_accepted() {
        bench().says(0, Observed::Truncated { index: 2 }).appends(0, 3, 2).accepts();
    }

    #[test]
    fn cutting_what_was_applied_is_rejected() {
        bench().says(0, Observed::Truncated { index: 1 }).rejects("cut its log back to index 1");
    }

    #[test]
    fn replacing_what_an_earlier_life_applied_is_rejected() {
        let restarted = bench().recovers(0, 1, 0, &[(1, 1), (2, 1), (3, 1)]);
        restarted
            .says(0, Observed::Truncated { index: 1 })
            .appends(0, 2, 5)
            .rejects("put an entry of term 5");
    }

    #[test]
    fn writing_the_same_entry_again_after_a_restart_is_accepted() {
        bench().recovers(0, 1, 0, &[(1, 1)]).appends(0, 2, 1).accepts();
    }
}
