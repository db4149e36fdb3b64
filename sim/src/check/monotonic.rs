//! MV: what a node called durable is there when it comes back: its term, its log, its snapshots (Raft,
//! figure 2, persistent state).
//!
//! This is the check that names a lying disk path at the first restart, before a second leader or a lost
//! write can follow from it. ES judges the vote within a term, because a reopened store does not show it. That a server is
//! who it was is judged where it is known what its disk went through (`world`).
//!
//! Let pass: a log that is longer than what was durable (unsynced bytes may survive), and durable entries
//! that a recovered snapshot covers.

use std::collections::BTreeMap;

use driftline::env::Observed;

use super::view::View;
use super::{At, Check, Event, Findings};

/// What a node must still know.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    term: u64,
    /// The newest index that a durable snapshot covers, by having been built, installed or purged up to.
    snapshot: u64,
}

/// The check's memory.
#[derive(Debug, Default)]
pub struct Monotonic {
    /// By node and Raft id.
    promises: BTreeMap<(u32, Option<u64>), Promise>,
}

impl Check for Monotonic {
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings) {
        let Event::Observed(observed) = event else { return };
        let node = view.node(at.node);
        let promise = self.promises.entry(node.identity(at.node)).or_default();
        match observed {
            Observed::Vote { term, .. } => {
                if *term < promise.term {
                    let detail = format!(
                        "node {} saved a vote of term {term} after one of term {}",
                        at.node, promise.term
                    );
                    findings.add("MV", at, detail);
                }
                promise.term = promise.term.max(*term);
            }
            Observed::SnapshotBuilt { index, .. }
            | Observed::SnapshotInstalled { index, .. }
            | Observed::Purged { index } => {
                promise.snapshot = promise.snapshot.max(*index);
            }
            Observed::Recovered { raft_id, term, last_index, applied, log }
                if node.raft_id == Some(*raft_id) =>
            {
                let mut lost = Vec::new();
                if *term < promise.term {
                    lost.push(format!("term {term}, was {}", promise.term));
                }
                if *applied < promise.snapshot {
                    lost.push(format!("snapshot up to {applied}, was {}", promise.snapshot));
                }
                let found: BTreeMap<u64, (u64, u64)> =
                    log.iter().map(|(index, term, digest)| (*index, (*term, *digest))).collect();
                let last = (*last_index).max(*applied).max(log.last().map_or(0, |(index, ..)| *index));
                if node.durable > Some(last) {
                    lost.push(format!("log up to {last}, was durable up to {}", node.durable.unwrap_or(0)));
                } else {
                    let changed = node.log.iter().find(|(index, term, digest)| {
                        Some(*index) <= node.durable
                            && index > applied
                            && found.get(index) != Some(&(*term, *digest))
                    });
                    if let Some((index, term, _)) = changed {
                        let now = found.get(&index).map_or("nothing".to_owned(), |(other, digest)| {
                            format!("an entry of term {other}, digest {digest:016x}")
                        });
                        lost.push(format!("at index {index} {now}, was a durable entry of term {term}"));
                    }
                }
                if !lost.is_empty() {
                    findings.add("MV", at, format!("node {} came back with {}", at.node, lost.join("; ")));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::super::{Event, Stop};
    use super::*;

    fn bench() -> Bench<Monotonic> {
        Bench::new(Monotonic::default())
            .boots(1)
            .votes(0, 3, 1)
            .appends(0, 1, 3)
            .appends(0, 2, 3)
            .syncs(0, 1)
            .on(0, Event::Stopped(Stop::PowerLoss))
    }

    #[test]
    fn coming_back_with_all_that_was_durable_or_more_is_accepted() {
        bench().recovers(0, 3, 0, &[(1, 3)]).accepts();
        bench().recovers(0, 4, 0, &[(1, 3), (2, 3)]).accepts();
        bench().recovers(0, 3, 1, &[]).accepts();
    }

    #[test]
    fn a_forgotten_term_is_rejected() {
        bench().recovers(0, 2, 0, &[(1, 3)]).rejects("came back with term 2, was 3");
        bench().votes(0, 2, 1).rejects("saved a vote of term 2 after one of term 3");
    }

    #[test]
    fn a_forgotten_or_changed_entry_is_rejected() {
        bench().recovers(0, 3, 0, &[]).rejects("log up to 0, was durable up to 1");
        bench().recovers(0, 3, 0, &[(1, 2), (2, 3)]).rejects("at index 1 an entry of term 2");
    }

    #[test]
    fn a_snapshot_that_goes_back_is_rejected() {
        bench()
            .recovers(0, 3, 0, &[(1, 3)])
            .says(0, Observed::SnapshotBuilt { index: 1, term: 3 })
            .recovers(0, 3, 0, &[(1, 3)])
            .rejects("snapshot up to 0, was 1");
    }

    #[test]
    fn an_installed_snapshot_that_is_gone_is_rejected() {
        bench()
            .recovers(0, 3, 0, &[(1, 3)])
            .says(0, Observed::SnapshotInstalled { index: 9, term: 3, state: 0 })
            .recovers(0, 3, 0, &[(1, 3)])
            .rejects("snapshot up to 0, was 9");
    }

    #[test]
    fn what_was_truncated_need_not_come_back() {
        bench()
            .recovers(0, 3, 0, &[(1, 3)])
            .says(0, Observed::Truncated { index: 0 })
            .recovers(0, 3, 0, &[])
            .accepts();
    }

    #[test]
    fn a_node_that_joined_as_somebody_new_owes_nothing() {
        let fresh = Observed::Recovered { raft_id: 77, term: 0, last_index: 0, applied: 0, log: vec![] };
        bench().says(0, fresh).accepts();
    }
}
