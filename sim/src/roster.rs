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
}

impl Roster {
    /// A node observed something.
    pub fn observed(&mut self, node: u32, event: &Observed) {
        match event {
            Observed::Recovered { raft_id, .. } => drop(self.ids.insert(node, *raft_id)),
            Observed::Membership { index, voters, .. } => {
                let newest = &mut self.newest;
                if *index > newest.index || newest.voters != *voters && *index == newest.index {
                    *newest = Newest { index: *index, voters: voters.clone(), nodes: BTreeSet::new() };
                }
                if *index == newest.index {
                    newest.nodes.insert(node);
                }
            }
            _ => {}
        }
    }

    /// A node's disk is gone, and its id with it.
    pub fn lost(&mut self, node: u32) {
        self.ids.remove(&node);
    }

    /// Whether every voter is a node that still has its disk.
    pub fn is_whole(&self) -> bool {
        let ids: BTreeSet<u64> = self.ids.values().copied().collect();
        self.newest.voters.iter().flatten().all(|voter| ids.contains(voter))
    }

    /// Whether the cluster can get over the loss of this node's disk: nothing else is missing or about to be, the
    /// others are a majority, and each of them has the configuration in which they are one.
    pub fn can_spare(&self, node: u32) -> bool {
        let [voters] = self.newest.voters.as_slice() else { return false };
        let own = self.ids.get(&node);
        let mut others = self.ids.iter().filter(|(other, id)| **other != node && voters.contains(id));
        voters.len() >= 3
            && others.all(|(other, _)| self.newest.nodes.contains(other))
            && own.is_some_and(|own| voters.contains(own))
            && self.is_whole()
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
}
