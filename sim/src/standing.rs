//! What the nodes that run have said of themselves, as far as a world must know it: who leads, how far each is, and whether they
//! are of one mind.

use std::collections::{BTreeMap, BTreeSet};

use driftline::env::Observed;
use driftline::env::observe::{MemberChange, RaftRole};

use crate::scenario::nodes::node_name;

/// What one node has said in its present life.
#[derive(Clone, Debug, Default)]
struct Life {
    /// The term it leads.
    leads: Option<u64>,
    /// The last index it applied, and the digest of its state then.
    applied: Option<(u64, u64)>,
    /// By name and id: one that lost its disk comes back as somebody else of the same name.
    members: BTreeMap<String, BTreeMap<u64, MemberChange>>,
    /// The voters of the configuration that it follows: one set, or two while that is joint.
    voters: Vec<Vec<u64>>,
}

/// What each node that runs has said.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    lives: BTreeMap<u32, Life>,
    /// The voters of all configurations that anybody has followed since the storm began.
    configurations: BTreeSet<Vec<Vec<u64>>>,
}

impl Standing {
    /// A node begins a life, of which nothing is known.
    pub fn started(&mut self, node: u32) {
        self.lives.insert(node, Life::default());
    }

    /// A node's life is over.
    pub fn stopped(&mut self, node: u32) {
        self.lives.remove(&node);
    }

    /// A node observed something.
    pub fn observed(&mut self, node: u32, event: &Observed) {
        let life = self.lives.entry(node).or_default();
        match event {
            Observed::Role { term, role, .. } => {
                life.leads = (*role == RaftRole::Leader).then_some(*term);
            }
            Observed::Applied { index, state, .. } | Observed::SnapshotInstalled { index, state, .. } => {
                life.applied = Some((*index, *state));
            }
            Observed::Member { node_id, name, change, .. } => {
                life.members.entry(name.clone()).or_default().insert(*node_id, *change);
            }
            Observed::Membership { voters, .. } => {
                life.voters.clone_from(voters);
                self.configurations.insert(voters.clone());
            }
            _ => {}
        }
    }

    /// The storm begins.
    pub fn stormy(&mut self) {
        self.configurations = self.lives.values().map(|life| life.voters.clone()).collect();
        // Agents follow none.
        self.configurations.remove(&Vec::new());
    }

    /// Whether all through the storm the voters were the same, so many.
    pub fn voters_stayed(&self, count: usize) -> bool {
        let one = self.configurations.first().filter(|_| self.configurations.len() == 1);
        one.is_some_and(|voters| voters.len() == 1 && voters[0].len() == count)
    }

    /// Who leads the newest term, of those that are up.
    pub fn leader(&self, is_up: impl Fn(u32) -> bool) -> Option<u32> {
        let up = self.lives.iter().filter(|(node, _)| is_up(**node));
        up.filter_map(|(node, life)| Some((life.leads?, *node))).max().map(|(_, node)| node)
    }

    /// How far the furthest has applied the log: what is applied is committed.
    pub fn furthest(&self) -> u64 {
        self.lives.values().filter_map(|life| life.applied).map(|(index, _)| index).max().unwrap_or(0)
    }

    /// Whether a node holds another for failed, whoever it was under that name.
    pub fn holds_for_failed(&self, node: u32, other: u32) -> bool {
        let seen = self.lives.get(&node).and_then(|life| life.members.get(&node_name(other)));
        seen.is_some_and(|ids| ids.values().any(|change| *change == MemberChange::Failed))
    }

    /// What each node has applied, and to what effect.
    pub fn applied(&self) -> Vec<(u32, Option<(u64, u64)>)> {
        self.lives.iter().map(|(node, life)| (*node, life.applied)).collect()
    }

    /// What keeps these nodes from being of one mind: that servers have not applied the same to the same effect, or that one does
    /// not see another alive.
    pub fn disagreement(&self, nodes: &BTreeSet<u32>, is_agent: impl Fn(u32) -> bool) -> Option<String> {
        let nobody = Life::default();
        let of = |node: &u32| self.lives.get(node).unwrap_or(&nobody);
        let servers = || nodes.iter().filter(|node| !is_agent(**node));
        let applied: BTreeSet<_> = servers().map(|node| of(node).applied).collect();
        if applied.len() > 1 {
            let each = servers().map(|node| format!("n{node} {:?}", of(node).applied));
            return Some(format!("applied index and digest: {}", each.collect::<Vec<_>>().join(", ")));
        }
        for node in nodes {
            for other in nodes.iter().filter(|other| *other != node) {
                // A suspicion is a question, not a verdict.
                let alive =
                    |change: &MemberChange| !matches!(change, MemberChange::Failed | MemberChange::Left);
                let seen = of(node).members.get(&node_name(*other));
                if !seen.is_some_and(|ids| ids.values().any(alive)) {
                    return Some(format!("n{node} sees n{other} as {seen:?}"));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(index: u64, state: u64) -> Observed {
        Observed::Applied { index, term: 1, entry: 0, state }
    }

    fn member(node: u32, node_id: u64, change: MemberChange) -> Observed {
        let addr = "10.0.0.1:8301".parse().unwrap();
        Observed::Member { node_id, name: node_name(node), addr, incarnation: 0, change }
    }

    fn nodes_that_see_each_other() -> Standing {
        let mut standing = Standing::default();
        for node in 0..3 {
            standing.started(node);
            standing.observed(node, &applied(7, 70));
            (0..3).for_each(|other| {
                standing.observed(node, &member(other, u64::from(other), MemberChange::Joined))
            });
        }
        standing
    }

    #[test]
    fn servers_are_of_one_mind_when_they_applied_the_same_and_see_each_other() {
        let mut standing = nodes_that_see_each_other();
        let nodes = BTreeSet::from([0, 1, 2]);
        assert_eq!(standing.disagreement(&nodes, |_| false), None);
        standing.observed(1, &member(2, 2, MemberChange::Suspected));
        assert_eq!(standing.disagreement(&nodes, |_| false), None);
        standing.observed(1, &member(2, 2, MemberChange::Failed));
        assert!(standing.holds_for_failed(1, 2) && !standing.holds_for_failed(0, 2));
        assert_eq!(standing.furthest(), 7);
        assert!(standing.disagreement(&nodes, |_| false).unwrap().starts_with("n1 sees n2 as "));
        // It came back as somebody else of the same name.
        standing.observed(1, &member(2, 9, MemberChange::Joined));
        assert_eq!(standing.disagreement(&nodes, |_| false), None);
        standing.observed(2, &applied(7, 71));
        assert!(standing.disagreement(&nodes, |_| false).unwrap().starts_with("applied index and digest: "));
        assert_eq!(standing.disagreement(&nodes, |node| node == 2), None, "a client agent applies nothing");
    }

    #[test]
    fn the_newest_term_of_those_that_are_up_counts() {
        let mut standing = nodes_that_see_each_other();
        let leads = |term| Observed::Role { term, role: RaftRole::Leader, leader: None };
        standing.observed(0, &leads(3));
        standing.observed(2, &leads(4));
        assert_eq!(standing.leader(|_| true), Some(2));
        assert_eq!(standing.leader(|node| node != 2), Some(0));
        standing.stopped(2);
        assert_eq!(standing.leader(|_| true), Some(0));
        assert_eq!(standing.applied().len(), 2);
        standing.started(0);
        assert_eq!(standing.leader(|_| true), None);
    }
}
