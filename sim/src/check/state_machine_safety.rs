//! SMS: at each index all nodes, in all their lives, apply the same entry, and their states agree after
//! it (Raft, 5.4.3, and determinism of the state machine). What a node applies is what its log holds.
//!
//! A snapshot from the leader must be the state that applying gave at its index. Within one life an
//! index is applied once and is followed by the next, if no snapshot stands for what is between; after a restart they may be
//! applied again, which is judged against the first time.

use driftline::env::Observed;

use super::by_index::ByIndex;
use super::view::View;
use super::{At, Check, Event, Findings};

/// What was applied at an index.
#[derive(Clone, Copy, Debug)]
struct Applied {
    /// Term and digest of the entry; a snapshot shows only the term.
    term: u64,
    entry: Option<u64>,
    state: u64,
    /// Who showed it first.
    node: u32,
}

/// The check's memory.
#[derive(Debug, Default)]
pub struct StateMachineSafety {
    applied: ByIndex<Applied>,
}

impl StateMachineSafety {
    fn compare(&mut self, at: At, index: u64, now: Applied, what: &str, findings: &mut Findings) {
        let first = self.applied.or_insert(index, now);
        let mut differences = Vec::new();
        if first.term != now.term {
            differences.push(format!("term {} is not {}", now.term, first.term));
        }
        match (first.entry, now.entry) {
            (Some(a), Some(b)) if a != b => differences.push(format!("entry {b:016x} is not {a:016x}")),
            (None, Some(_)) => first.entry = now.entry,
            _ => {}
        }
        if first.state != now.state {
            differences.push(format!("state {:016x} is not {:016x}", now.state, first.state));
        }
        if !differences.is_empty() {
            let node = first.node;
            findings.add(
                "SMS",
                at,
                format!(
                    "node {} {what} index {index}, but not as node {node} first showed it: {}",
                    at.node,
                    differences.join(", ")
                ),
            );
        }
    }
}

impl Check for StateMachineSafety {
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings) {
        let node = at.node;
        match *event {
            Event::Observed(&Observed::Applied { index, term, entry, state }) => {
                let before = view.node(node).applied;
                // 0 is what a node with nothing applied says, and the first index as well.
                if let Some(before) = before.filter(|before| index > 0 && index != before.saturating_add(1)) {
                    findings.add(
                        "SMS",
                        at,
                        format!("node {node} applied index {index} after index {before}"),
                    );
                }
                let logged = view.node(node).log.get(index);
                if let Some((other, digest)) = logged.filter(|logged| *logged != (term, entry)) {
                    findings.add(
                        "SMS",
                        at,
                        format!(
                            "node {node} applied at index {index} an entry of term {term}, digest {entry:016x}, \
                             but its log has one of term {other}, digest {digest:016x}"
                        ),
                    );
                }
                let now = Applied { term, entry: Some(entry), state, node };
                self.compare(at, index, now, "applied", findings);
            }
            Event::Observed(&Observed::SnapshotInstalled { index, term, state }) => {
                let now = Applied { term, entry: None, state, node };
                self.compare(at, index, now, "installed a snapshot of", findings);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::*;

    fn bench() -> Bench<StateMachineSafety> {
        Bench::new(StateMachineSafety::default()).boots(3).applies(0, 1, 1).applies(0, 2, 1)
    }

    #[test]
    fn the_same_entries_with_the_same_effect_are_accepted_again_after_a_restart() {
        bench().applies(1, 1, 1).recovers(0, 1, 1, &[(2, 1)]).applies(0, 2, 1).accepts();
        bench()
            .says(2, Observed::SnapshotInstalled { index: 2, term: 1, state: 2000 })
            .applies(2, 3, 1)
            .accepts();
    }

    #[test]
    fn another_entry_at_an_index_is_rejected() {
        bench().applies(1, 1, 2).rejects("term 2 is not 1");
    }

    #[test]
    fn the_same_entry_with_another_effect_is_rejected() {
        let event = Observed::Applied { index: 1, term: 1, entry: 32, state: 5 };
        bench().says(1, event).rejects("state 0000000000000005 is not");
    }

    #[test]
    fn applying_something_else_than_the_log_holds_is_rejected() {
        bench().appends(0, 3, 1).applies(0, 3, 1).accepts();
        bench().appends(0, 3, 1).applies(0, 3, 2).rejects("its log has one of term 1");
    }

    #[test]
    fn a_snapshot_of_another_state_is_rejected_whichever_comes_first() {
        let snapshot = |index| Observed::SnapshotInstalled { index, term: 1, state: 9 };
        bench().says(2, snapshot(2)).rejects("installed a snapshot of index 2");
        bench().says(2, snapshot(3)).applies(0, 3, 1).rejects("node 0 applied index 3");
    }

    #[test]
    fn going_back_or_leaving_out_an_entry_within_a_life_is_rejected() {
        bench().applies(0, 2, 1).rejects("applied index 2 after index 2");
        bench().applies(0, 4, 1).rejects("applied index 4 after index 2");
    }
}
