//! LC: whoever becomes leader has every entry that was committed in an earlier term (Raft, 5.4).
//!
//! An entry counts as committed when some node applies it, at the latest in the term which that node
//! has reached. That term may be later than the true one, so this lets pass a leader that lacks an entry
//! committed just before it; it can never object to a leader that was elected, in a term of long ago,
//! by votes that arrive late.
//!
//! Let pass as well: entries that the leader's snapshot covers (SMS and CI judge those).

use driftline::env::Observed;
use driftline::env::observe::RaftRole;

use super::by_index::ByIndex;
use super::view::View;
use super::{At, Check, Event, Findings};

/// The check's memory.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    /// By index: the entry's term, and a term in or before which it was committed.
    committed: ByIndex<(u64, u64)>,
}

impl Check for LeaderCompleteness {
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings) {
        let node = view.node(at.node);
        match event {
            Event::Observed(Observed::Applied { index, term, .. }) => {
                let by = node.term.max(*term);
                let known = self.committed.or_insert(*index, (*term, by));
                known.1 = known.1.min(by);
            }
            Event::Observed(Observed::Role { term, role: RaftRole::Leader, .. }) => {
                // What its snapshot covers is most of a long run, and is not even looked at.
                let missing = self.committed.from(node.uncovered()).find(|(index, (entry_term, by))| {
                    *by < *term && node.log.get(*index).map(|(term, _)| term) != Some(*entry_term)
                });
                if let Some((index, (entry_term, _))) = missing {
                    let instead = match node.log.get(index) {
                        Some((other, _)) => format!("has an entry of term {other} there"),
                        None => format!("its log ends at {:?}", node.log.last()),
                    };
                    findings.add(
                        "LC",
                        at,
                        format!(
                            "node {} leads term {term} without the committed entry {index} of term \
                             {entry_term}: {instead}",
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

    fn bench() -> Bench<LeaderCompleteness> {
        Bench::new(LeaderCompleteness::default())
            .boots(3)
            .votes(0, 1, 1)
            .appends(0, 1, 1)
            .appends(1, 1, 1)
            .applies(0, 1, 1)
    }

    #[test]
    fn a_leader_with_all_committed_entries_is_accepted_even_behind_a_snapshot() {
        bench().leads(1, 2).accepts();
        bench().appends(1, 2, 1).says(1, Observed::Purged { index: 1 }).leads(1, 2).accepts();
        let installed = Observed::SnapshotInstalled { index: 1, term: 1, state: 0 };
        bench().says(2, installed).leads(2, 2).accepts();
    }

    #[test]
    fn a_leader_without_one_is_rejected() {
        bench().leads(2, 2).rejects("node 2 leads term 2 without the committed entry 1");
        bench().appends(2, 1, 0).leads(2, 2).rejects("has an entry of term 0 there");
    }

    #[test]
    fn a_leader_of_an_old_term_is_not_blamed_for_later_commits() {
        bench().votes(0, 5, 1).appends(0, 2, 5).applies(0, 2, 5).leads(1, 3).accepts();
    }
}
