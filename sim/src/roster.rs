//! Who votes, by what the nodes themselves say: what an operator goes by who must not take away more than the cluster can do
//! without.

use std::collections::{BTreeMap, BTreeSet};

use driftline::env::Observed;

/// The newest configuration that any node has taken up.
#[derive(Clone, Debug, Default)]
struct Newest {
    index: u64,
    /// The sets of voters; two while it changes.
    voters: Vec<Vec<u64>>,
    /// The nodes that have taken it up.
    nodes: BTreeSet<u32>,
}

/// Nodes and configuration.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// The Raft id of each node, as it last said; of none that has lost its disk since.
    ids: BTreeMap<u32, u64>,
    newest: Newest,
    /// The servers that an operator has ordered out, and whether each has been out since.
    orders: BTreeMap<u64, bool>,
}

impl Roster {
    /// A node observed something.
    pub fn observed(&mut self, node: u32, event: &Observed) {
        match event {
            Observed::Recovered { raft_id, .. } => drop(self.ids.insert(node, *raft_id)),
            Observed::Membership { index, voters, learners } => {
                let newest = &mut self.newest;
                if *index > newest.index || newest.voters != *voters && *index == newest.index {
                    *newest = Newest { index: *index, voters: voters.clone(), nodes: BTreeSet::new() };
                }
                if *index == newest.index {
                    newest.nodes.insert(node);
                }
                let is_in = |id: &u64| voters.iter().flatten().chain(learners).any(|member| member == id);
                self.orders.iter_mut().for_each(|(id, been_out)| *been_out |= !is_in(id));
            }
            _ => {}
        }
    }

    /// A node's disk is gone, and its id with it.
    pub fn lost(&mut self, node: u32) {
        self.ids.remove(&node);
    }

    /// Whether each of these nodes votes, as far as anybody knows.
    pub fn all_vote(&self, mut nodes: impl Iterator<Item = u32>) -> bool {
        let [voters] = self.newest.voters.as_slice() else { return false };
        nodes.all(|node| self.ids.get(&node).is_some_and(|id| voters.contains(id)))
    }

    /// An operator may order this one of the servers out if all of them vote, `nobody_leaves`, and the others can do without it.
    /// If so, the order is noted; its Raft id.
    pub fn order_out(
        &mut self,
        node: u32,
        servers: impl Iterator<Item = u32>,
        nobody_leaves: bool,
    ) -> Option<u64> {
        let may = nobody_leaves && self.can_spare(node) && self.all_vote(servers);
        let raft_id = self.ids.get(&node).copied().filter(|_| may)?;
        self.orders.insert(raft_id, false);
        Some(raft_id)
    }

    /// An order was refused: it will not be carried out.
    pub fn refused(&mut self, raft_id: u64) {
        self.orders.remove(&raft_id);
    }

    /// Whether every server that was ordered out has been out and votes again: no order can still be carried out.
    fn is_settled(&self) -> bool {
        let votes = |id| self.newest.voters.iter().flatten().any(|voter| voter == id);
        self.orders.iter().all(|(id, been_out)| *been_out && votes(id))
    }

    /// Whether every voter is a node that still has its disk.
    pub fn is_whole(&self) -> bool {
        let ids: BTreeSet<u64> = self.ids.values().copied().collect();
        self.newest.voters.iter().flatten().all(|voter| ids.contains(voter))
    }

    /// Whether the cluster can get over the loss of this node's disk: nothing else is missing or about to be, or ordered out; the
    /// others are a majority, and each of them has the configuration in which they are one.
    pub fn can_spare(&self, node: u32) -> bool {
        let [voters] = self.newest.voters.as_slice() else { return false };
        let own = self.ids.get(&node);
        let mut others = self.ids.iter().filter(|(other, id)| **other != node && voters.contains(id));
        voters.len() >= 3
            && others.all(|(other, _)| self.newest.nodes.contains(other))
            && own.is_some_and(|own| voters.contains(own))
            && self.is_whole()
            && self.is_settled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_three() -> Roster {
        let mut roster = Roster::default();
        for node in 0..3 {
            let recovered = Observed::Recovered {
                raft_id: 10 + u64::from(node),
                term: 1,
                last_index: 0,
                applied: 0,
                log: Vec::new(),
            };
            roster.observed(node, &recovered);
        }
        roster
    }

    fn membership(index: u64, voters: Vec<Vec<u64>>) -> Observed {
        Observed::Membership { index, voters, learners: Vec::new() }
    }

    #[test]
    fn a_voter_of_three_can_be_spared_once_the_others_know_that_they_are_a_majority() {
        let mut roster = of_three();
        roster.observed(0, &membership(5, vec![vec![10, 11, 12]]));
        assert!(!roster.can_spare(0), "the others have not heard of it");
        roster.observed(1, &membership(5, vec![vec![10, 11, 12]]));
        roster.observed(2, &membership(5, vec![vec![10, 11, 12]]));
        assert!(roster.can_spare(0) && roster.is_whole());
        roster.lost(0);
        assert!(!roster.is_whole() && !roster.can_spare(1), "one is missing already");
    }

    #[test]
    fn nobody_is_spared_of_two_or_in_the_middle_of_a_change() {
        let mut roster = of_three();
        for node in 0..3 {
            roster.observed(node, &membership(5, vec![vec![10, 11]]));
        }
        assert!(!roster.can_spare(0));
        for node in 0..3 {
            roster.observed(node, &membership(6, vec![vec![10, 11], vec![10, 11, 12]]));
        }
        assert!(!roster.can_spare(0));
    }

    #[test]
    fn nobody_is_ordered_out_before_whoever_was_is_back() {
        let mut roster = of_three();
        let all = |roster: &mut Roster, index, voters: &[u64]| {
            (0..3).for_each(|node| roster.observed(node, &membership(index, vec![voters.to_vec()])));
        };
        all(&mut roster, 5, &[10, 11, 12]);
        assert_eq!(roster.order_out(1, 0..4, true), None, "one does not vote");
        assert_eq!(roster.order_out(1, 0..3, false), None);
        assert_eq!(roster.order_out(1, 0..3, true), Some(11));
        assert!(!roster.can_spare(2) && roster.order_out(2, 0..3, true).is_none(), "it may go at any time");
        all(&mut roster, 6, &[10, 12]);
        assert!(!roster.all_vote(0..3) && roster.order_out(2, 0..3, true).is_none());
        all(&mut roster, 7, &[10, 11, 12]);
        assert_eq!(roster.order_out(2, 0..3, true), Some(12));
        roster.refused(12);
        assert!(roster.can_spare(0));
    }
}
