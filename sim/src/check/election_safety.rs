//! ES: at most one leader in a term, and at most one vote of a node in a term (Raft, 5.2).
//!
//! The vote half is judged on what the node called durable, and remembered across its restarts: a node
//! that forgets its vote in a power loss can elect two leaders, and this sees it at the second vote,
//! long before two leaders meet.
//!
//! openraft saves two kinds of vote. A plain one supports a candidate. A committed one records that a
//! quorum already has, and may name another candidate than the node's own earlier vote in that term
//! (it voted for the loser, then heard from the winner). So committed votes are judged like leaders:
//! one a term, whoever records it.

use std::collections::BTreeMap;

use driftline::env::Observed;
use driftline::env::observe::RaftRole;

use super::view::View;
use super::{At, Check, Event, Findings};

/// The check's memory.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    /// The leader of each term (Raft id) and the node that showed it first.
    leaders: BTreeMap<u64, (u64, u32)>,
    /// Whom a node (by number and Raft id) supported in a term.
    votes: BTreeMap<(u32, Option<u64>, u64), u64>,
}

impl ElectionSafety {
    fn leads(&mut self, at: At, term: u64, leader: u64, how: &str, findings: &mut Findings) {
        let (first, seen_by) = *self.leaders.entry(term).or_insert((leader, at.node));
        if first != leader {
            findings.add(
                "ES",
                at,
                format!(
                    "term {term} has two leaders: Raft id {first} (shown by node {seen_by}) and Raft id \
                     {leader} ({how} node {})",
                    at.node
                ),
            );
        }
    }
}

impl Check for ElectionSafety {
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings) {
        match event {
            Event::Observed(Observed::Role { term, role: RaftRole::Leader, .. }) => {
                // Before it said its Raft id, a node is told apart by its number, out of the ids' range.
                let own = view.node(at.node).raft_id.unwrap_or(u64::MAX - u64::from(at.node));
                self.leads(at, *term, own, "claimed by", findings);
            }
            Event::Observed(Observed::Vote { term, candidate, committed: true }) => {
                self.leads(at, *term, *candidate, "recorded by", findings);
            }
            Event::Observed(Observed::Vote { term, candidate, committed: false }) => {
                let (node, raft_id) = view.node(at.node).identity(at.node);
                let first = *self.votes.entry((node, raft_id, *term)).or_insert(*candidate);
                if first != *candidate {
                    findings.add(
                        "ES",
                        at,
                        format!(
                            "node {node} voted twice in term {term}: first for Raft id {first}, then for \
                             Raft id {candidate}"
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

    fn bench() -> Bench<ElectionSafety> {
        Bench::new(ElectionSafety::default()).boots(3)
    }

    #[test]
    fn one_leader_a_term_is_accepted_however_often_it_says_so() {
        bench().votes(0, 1, 1).votes(1, 1, 1).leads(0, 1).leads(0, 1).leads(2, 2).accepts();
    }

    #[test]
    fn two_leaders_in_a_term_are_rejected() {
        bench().leads(0, 4).leads(1, 4).rejects("term 4 has two leaders");
    }

    #[test]
    fn a_second_vote_in_a_term_is_rejected_across_a_restart() {
        bench()
            .votes(0, 3, 1)
            .on(0, Event::Stopped(super::super::Stop::PowerLoss))
            .recovers(0, 0, 0, &[])
            .votes(0, 3, 2)
            .rejects("node 0 voted twice in term 3");
    }

    #[test]
    fn the_loser_s_voter_may_record_the_winner() {
        let winner = Observed::Vote { term: 3, candidate: 2, committed: true };
        let other = Observed::Vote { term: 3, candidate: 3, committed: true };
        let bench = bench().votes(0, 3, 1).says(0, winner).leads(1, 3);
        bench.accepts();
        bench.says(2, other).rejects("two leaders");
    }
}
