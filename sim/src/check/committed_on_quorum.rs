//! CQ: what is applied is durable on a majority of the voters; of each set of them while joint
//! (Raft, 5.3, 5.4.2 and section 6).
//!
//! Judged once an index, when the first node applies it. A voter has the entry if it reported the index
//! durable and its log shows the same term there, or if a snapshot of its own covers the index. A voter
//! that is down still has what it had called durable; what it truly kept, MV asks at its restart.
//!
//! Which configuration decides is the leader's secret: the newest in its log when the entry committed.
//! Accepted is a majority of *any* candidate: the newest applied configuration up to the entry's index, or
//! one after it that some node has taken up. So a commit on too few voters during a membership change can
//! pass; without one the check is exact.
//!
//! A voter that disappears from the configuration without having been told to leave still counts: nothing
//! but a goodbye may make the quorum smaller. Otherwise a gossip verdict could shrink a cluster of five to
//! three and commit with two (the class of hashicorp/consul#6113). One exception is what autopilot promises: of an
//! even number of voters one may go, which is one more than the odd number that bears as many failures.
//!
//! Let pass: everything before the first configuration is seen, and the entry of a voter that was never
//! heard of, or whose node has since become another voter.

use std::collections::{BTreeMap, BTreeSet};

use driftline::env::Observed;
use driftline::mutant;

use super::view::{NodeView, View};
use super::{At, Check, Event, Findings};

/// The check's memory.
#[derive(Debug, Default)]
pub struct CommittedOnQuorum {
    /// Voter sets of every configuration that a node took up, by its index and term.
    taken_up: BTreeMap<(u64, u64), Vec<Vec<u64>>>,
    /// Those that were applied, by index.
    applied: BTreeMap<u64, Vec<Vec<u64>>>,
    /// Voters of an applied configuration that have not left since.
    belong: BTreeSet<u64>,
    /// Those that were told to leave, and whether their node has started again since. A departure is over
    /// when such a one is taken in anew; until then a leader may act on it late.
    leaving: BTreeMap<u64, bool>,
    /// The highest index judged.
    judged: Option<u64>,
}

fn has_entry(node: &NodeView, index: u64, term: u64) -> bool {
    let durable = node.durable >= Some(index);
    node.covers(index) || (durable && node.log.get(index).is_some_and(|(own, _)| own == term))
}

impl CommittedOnQuorum {
    /// Who was taken out of these voter sets without having been told to leave, and still counts.
    fn expelled(&self, sets: &[Vec<u64>]) -> Vec<u64> {
        let voter = |id: &u64| sets.iter().any(|set| set.contains(id));
        let gone = |id: &&u64| !voter(id) && !self.leaving.contains_key(id);
        let expelled: Vec<u64> = self.belong.iter().filter(gone).copied().collect();
        let were = self.belong.iter().filter(|id| voter(id) || !self.leaving.contains_key(id)).count();
        let is_spare = expelled.len() == 1 && were >= 4 && were.is_multiple_of(2);
        if is_spare { Vec::new() } else { expelled }
    }

    /// A configuration is in force for good.
    fn settle(&mut self, sets: &[Vec<u64>]) {
        let voters: BTreeSet<u64> = sets.iter().flatten().copied().collect();
        let expelled = self.expelled(sets);
        self.belong.retain(|id| voters.contains(id) || expelled.contains(id));
        for voter in voters {
            if self.belong.insert(voter) && self.leaving.get(&voter) == Some(&true) {
                self.leaving.remove(&voter);
            }
        }
    }
}

fn majority(voters: &[u64], expelled: &[u64], index: u64, term: u64, view: &View) -> bool {
    let voters: Vec<u64> = voters.iter().chain(expelled).copied().collect();
    let with = voters
        .iter()
        .filter(|voter| view.by_raft_id(**voter).is_none_or(|(_, node)| has_entry(node, index, term)))
        // Mutant T05: a voter that is down counts as one that never had the entry.
        .filter(|voter| !mutant::is("T05") || view.by_raft_id(**voter).is_none_or(|(_, node)| node.up))
        .count();
    with * 2 > voters.len()
}

impl Check for CommittedOnQuorum {
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings) {
        match event {
            Event::Observed(Observed::Membership { index, voters, .. }) => {
                // A configuration counts from its entry on, which the node has appended just before.
                let term = view.node(at.node).log.get(*index).map_or(0, |(term, _)| term);
                self.taken_up.insert((*index, term), voters.clone());
            }
            Event::Observed(Observed::Applied { index, term, .. }) if self.judged < Some(*index) => {
                self.judged = Some(*index);
                let mut settled = None;
                if let Some(sets) = self.taken_up.get(&(*index, *term)) {
                    self.applied.insert(*index, sets.clone());
                    settled = Some(sets.clone());
                }
                // The founding configuration holds before anything is applied.
                let applied = self.applied.range(..=*index).next_back().map(|(_, sets)| sets);
                let Some(sets) = applied.or_else(|| self.taken_up.values().next()) else { return };
                let after = self.taken_up.range((*index + 1, 0)..).map(|(_, sets)| sets);
                let mut candidates = std::iter::once(sets).chain(after);
                let held = candidates.any(|sets| {
                    let expelled = self.expelled(sets);
                    sets.iter().all(|voters| majority(voters, &expelled, *index, *term, view))
                });
                if !held {
                    let mut sets = sets.clone();
                    let expelled = self.expelled(&sets);
                    if !expelled.is_empty() {
                        sets.push(expelled);
                    }
                    let sets = &sets;
                    findings.add(
                        "CQ",
                        at,
                        format!(
                            "node {} applied entry {index} of term {term}, which is not durable on a majority \
                             of voters {sets:?}: {}",
                            at.node,
                            describe(sets, *index, *term, view)
                        ),
                    );
                }
                if let Some(sets) = settled {
                    self.settle(&sets);
                }
            }
            Event::Leaves => self.leaving.extend(view.node(at.node).raft_id.map(|id| (id, false))),
            Event::Started { .. } => {
                let back = view.node(at.node).raft_id.and_then(|id| self.leaving.get_mut(&id));
                back.into_iter().for_each(|back| *back = true);
            }
            _ => {}
        }
    }
}

fn describe(sets: &[Vec<u64>], index: u64, term: u64, view: &View) -> String {
    let mut voters: Vec<u64> = sets.iter().flatten().copied().collect();
    voters.sort_unstable();
    voters.dedup();
    let known = |voter: &u64| match view.by_raft_id(*voter) {
        Some((_, node)) if has_entry(node, index, term) => format!("{voter} has it"),
        Some((_, node)) => match (node.log.get(index), node.durable) {
            (Some((other, _)), _) if other != term => format!("{voter} has term {other} there"),
            (Some(_), durable) => format!("{voter} has it, durable up to {}", shown(durable)),
            (None, _) => format!("{voter}'s log ends at {}", shown(node.log.last())),
        },
        None => format!("{voter} is unheard of"),
    };
    voters.iter().map(known).collect::<Vec<_>>().join("; ")
}

fn shown(index: Option<u64>) -> String {
    index.map_or("nothing".to_owned(), |index| index.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::*;

    fn bench() -> Bench<CommittedOnQuorum> {
        let mut bench = Bench::new(CommittedOnQuorum::default()).boots(3);
        for node in 0..3 {
            bench = bench.appends(node, 1, 1);
        }
        bench
    }

    #[test]
    fn an_entry_durable_on_two_of_three_is_accepted() {
        bench().syncs(0, 1).syncs(2, 1).applies(0, 1, 1).applies(1, 1, 1).accepts();
    }

    #[test]
    fn an_entry_durable_on_one_of_three_is_rejected() {
        bench().syncs(0, 1).applies(0, 1, 1).rejects("2 has it, durable up to 0");
    }

    #[test]
    fn another_term_s_entry_does_not_count() {
        bench().appends(1, 1, 7).syncs(0, 1).syncs(1, 1).applies(0, 1, 1).rejects("2 has term 7 there");
    }

    #[test]
    fn a_joint_configuration_needs_both_majorities() {
        let joint = Observed::Membership { index: 1, voters: vec![vec![1, 2, 3], vec![1]], learners: vec![] };
        let only_new = |bench: Bench<CommittedOnQuorum>| bench.syncs(0, 1).applies(0, 1, 1);
        only_new(bench().says(0, joint.clone())).rejects("not durable on a majority");
        bench().says(0, joint).syncs(0, 1).syncs(1, 1).applies(0, 1, 1).accepts();
    }

    #[test]
    fn a_configuration_that_was_overruled_does_not_count() {
        let lost = Observed::Membership { index: 1, voters: vec![vec![1, 2, 3], vec![3]], learners: vec![] };
        let mut bench = bench().appends(2, 1, 5).says(2, lost);
        for node in 0..2 {
            bench = bench.appends(node, 1, 1).syncs(node, 1);
        }
        bench.applies(0, 1, 1).accepts();
    }

    fn shrunk() -> Bench<CommittedOnQuorum> {
        let all = Observed::Membership { index: 1, voters: vec![vec![1, 2, 3]], learners: vec![] };
        let one = Observed::Membership { index: 2, voters: vec![vec![1]], learners: vec![] };
        bench().says(0, all).syncs(0, 1).syncs(1, 1).applies(0, 1, 1).appends(0, 2, 1).says(0, one)
    }

    #[test]
    fn voters_that_did_not_leave_still_count() {
        shrunk().syncs(0, 2).applies(0, 2, 1).rejects("not durable on a majority");
    }

    #[test]
    fn voters_that_left_no_longer_count() {
        shrunk().on(1, Event::Leaves).on(2, Event::Leaves).syncs(0, 2).applies(0, 2, 1).accepts();
    }

    /// Of the voters from 1 to `all` those above `kept` are taken out unasked; then two of the rest have an entry.
    fn shrunk_from(all: u64, kept: u64) -> Bench<CommittedOnQuorum> {
        let voters = |last: u64, index| Observed::Membership {
            index,
            voters: vec![(1..=last).collect()],
            learners: vec![],
        };
        let mut bench = Bench::new(CommittedOnQuorum::default()).boots(u32::try_from(all).unwrap());
        for node in 0..u32::try_from(all).unwrap() {
            bench = bench.appends(node, 1, 1).syncs(node, 1);
        }
        bench = bench.says(0, voters(all, 1)).applies(0, 1, 1);
        for node in 0..2 {
            bench = bench.appends(node, 2, 1).says(node, voters(kept, 2)).syncs(node, 2);
        }
        bench.applies(0, 2, 1)
    }

    #[test]
    fn of_an_even_number_one_is_spare() {
        shrunk_from(4, 3).accepts();
        // And no second one after it.
        let less = Observed::Membership { index: 3, voters: vec![vec![1, 2]], learners: vec![] };
        let again = shrunk_from(4, 3).appends(0, 3, 1).says(0, less).syncs(0, 3);
        again.applies(0, 3, 1).rejects("not durable on a majority");
    }

    #[test]
    fn nobody_else_is_spare() {
        shrunk_from(5, 3).rejects("not durable on a majority");
        shrunk_from(4, 2).rejects("not durable on a majority");
    }

    #[test]
    fn a_snapshot_counts_for_what_it_covers() {
        let snapshot = Observed::SnapshotInstalled { index: 1, term: 1, state: 0 };
        bench()
            .syncs(0, 1)
            .says(1, Observed::Truncated { index: 0 })
            .says(1, snapshot)
            .applies(0, 1, 1)
            .accepts();
    }
}
