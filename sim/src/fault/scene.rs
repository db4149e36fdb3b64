//! Faults of the network on a cluster as it is at a moment: which rules they are. The same for simulated and real
//! clusters.

use std::collections::BTreeSet;

use crate::fault::{Effect, Hosts, Rule};
use crate::scenario::{FaultKind, Links, Shape, Target, Traffic};

/// So much loss and no more a node's gossip must get over without a false verdict.
const MILD_LOSS_PERCENT: u32 = 10;

/// What a fault finds when it begins.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// The nodes there are.
    pub nodes: BTreeSet<u32>,
    /// The hosts of the clients.
    pub clients: BTreeSet<u32>,
    /// Who leads; node 0 if nobody does.
    pub leader: u32,
    /// True time.
    pub now_ns: u64,
    /// Gossip's.
    pub probe_period_ms: u64,
}

/// The rules that cut one node off from everybody.
pub fn cut_off(node: u32) -> [Rule; 2] {
    let one = || Hosts::only([node]);
    [(one(), Hosts::All), (Hosts::All, one())].map(|(from, to)| Rule { from, to, effect: Effect::Block })
}

impl Scene {
    /// Whether messages that take this much longer can make a probe late, there and back.
    fn is_slow(&self, max_ms: u64) -> bool {
        max_ms > self.probe_period_ms / 8
    }

    /// What a fault of some links does, on which, and whether gossip may err meanwhile. `None` for other faults.
    pub fn trouble(&self, kind: &FaultKind) -> Option<(Effect, Links, Vec<Rule>, bool)> {
        let (links, effect, harsh) = match kind {
            FaultKind::Loss { links, percent } => {
                let effect = Effect::Lose(f64::from(*percent).min(100.0) / 100.0);
                (links, effect, *percent > MILD_LOSS_PERCENT)
            }
            FaultKind::Delay { links, min_ms, max_ms } => {
                let effect = Effect::Delay { min_ns: min_ms * 1_000_000, max_ns: max_ms * 1_000_000 };
                (links, effect, self.is_slow(*max_ms))
            }
            FaultKind::Reorder { links, percent, max_ms } => {
                let probability = f64::from(*percent).min(100.0) / 100.0;
                (links, Effect::Reorder { probability, max_ns: max_ms * 1_000_000 }, self.is_slow(*max_ms))
            }
            FaultKind::Duplicate { links, percent } => {
                (links, Effect::Duplicate(f64::from(*percent).min(100.0) / 100.0), false)
            }
            FaultKind::Lag { links, spread } => (links, Effect::Lag(*spread), self.is_slow(spread.most_ms())),
            FaultKind::Bandwidth { links, bytes_per_s } => (links, Effect::Bandwidth(*bytes_per_s), true),
            FaultKind::Clog { links, clogged_ms, free_ms } => {
                let (clogged_ns, free_ns) = (clogged_ms * 1_000_000, free_ms * 1_000_000);
                let effect = Effect::Clog { begin_ns: self.now_ns, clogged_ns, free_ns };
                (links, effect, self.is_slow(*clogged_ms))
            }
            // Probes are datagrams: while those pass, gossip has no excuse.
            FaultKind::BlackHole { links, traffic } => {
                (links, Effect::Swallow(*traffic), *traffic == Traffic::Datagrams)
            }
            FaultKind::Refusal { links } => (links, Effect::Refuse, false),
            // A damaged datagram is a lost one.
            FaultKind::Corrupt { links, per_mille } => {
                let effect = Effect::Corrupt(f64::from(*per_mille).min(1_000.0) / 1_000.0);
                (links, effect, *per_mille > MILD_LOSS_PERCENT * 10)
            }
            _ => return None,
        };
        let all = match kind {
            FaultKind::Corrupt { .. } => Hosts::Only(self.nodes.clone()),
            _ => Hosts::All,
        };
        let rules = self.rules(*links, &effect, &all);
        Some((effect, *links, rules, harsh))
    }

    fn target(&self, target: Target) -> u32 {
        match target {
            Target::Node(node) => node,
            Target::Leader => self.leader,
        }
    }

    /// The rules by which some links have this effect; `all` are the hosts at their other ends.
    fn rules(&self, links: Links, effect: &Effect, all: &Hosts) -> Vec<Rule> {
        let rule =
            |from: &Hosts, to: &Hosts| Rule { from: from.clone(), to: to.clone(), effect: effect.clone() };
        let one = |target| Hosts::only([self.target(target)]);
        match links {
            Links::All => vec![rule(all, all)],
            Links::Of(target) => vec![rule(&one(target), all), rule(all, &one(target))],
            Links::OutOf(target) => vec![rule(&one(target), all)],
            Links::Into(target) => vec![rule(all, &one(target))],
            Links::One { from, to } => vec![rule(&Hosts::only([from]), &Hosts::only([to]))],
        }
    }

    /// The blocked links of a shape; none, if the cluster is too small for it.
    pub fn partition(&self, shape: &Shape) -> Vec<Rule> {
        let mut rules = self.sides(shape);
        rules.retain(Rule::is_of_any);
        rules
    }

    fn sides(&self, shape: &Shape) -> Vec<Rule> {
        let nodes = &self.nodes;
        let others = |side: &BTreeSet<u32>| nodes.difference(side).copied().collect::<BTreeSet<u32>>();
        let one_way = |from: &BTreeSet<u32>, to: &BTreeSet<u32>| Rule {
            from: Hosts::Only(from.clone()),
            to: Hosts::Only(to.clone()),
            effect: Effect::Block,
        };
        let apart = |a: &BTreeSet<u32>, b: &BTreeSet<u32>| vec![one_way(a, b), one_way(b, a)];
        let leader = BTreeSet::from([self.leader]);
        match shape {
            Shape::Split(side) => {
                let side = side.iter().copied().collect();
                apart(&side, &others(&side))
            }
            Shape::Leader => apart(&leader, &others(&leader)),
            Shape::OneWay(side) => {
                let side = side.iter().copied().collect();
                vec![one_way(&side, &others(&side))]
            }
            Shape::DeafLeader => vec![one_way(&others(&leader), &leader)],
            Shape::Ring => {
                let ring: Vec<u32> = nodes.iter().copied().collect();
                let reaches = |from: usize, to: usize| {
                    let gap = from.abs_diff(to);
                    gap <= 1 || gap == ring.len() - 1
                };
                let blocked = |from: usize| {
                    let far = (0..ring.len()).filter(|to| !reaches(from, *to));
                    far.map(|to| ring[to]).collect::<BTreeSet<u32>>()
                };
                (0..ring.len()).map(|from| one_way(&BTreeSet::from([ring[from]]), &blocked(from))).collect()
            }
            Shape::Bridge(bridge) => {
                let rest: Vec<u32> = nodes.iter().copied().filter(|node| node != bridge).collect();
                let (left, right) = rest.split_at(rest.len() / 2);
                apart(&left.iter().copied().collect(), &right.iter().copied().collect())
            }
            Shape::MuteLeader => vec![one_way(&leader, &others(&leader))],
            Shape::Link { from, to } => vec![one_way(&BTreeSet::from([*from]), &BTreeSet::from([*to]))],
            Shape::Islands(groups) => {
                let island = |node: &u32| groups.iter().position(|group| group.contains(node));
                let blocked = |node: &u32| {
                    let (own, alone) = (island(node), island(node).is_none());
                    let far = nodes.iter().filter(|other| *other != node && (alone || island(other) != own));
                    far.copied().collect::<BTreeSet<u32>>()
                };
                nodes.iter().map(|node| one_way(&BTreeSet::from([*node]), &blocked(node))).collect()
            }
            Shape::Clients(side) => apart(&side.iter().copied().collect(), &self.clients),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_cuts_nothing_has_no_rules() {
        let cut = |nodes: u32, shape: &Shape| {
            let scene = Scene { nodes: (0..nodes).collect(), clients: [900].into(), ..Scene::default() };
            scene.partition(shape).len()
        };
        let shapes = [
            (Shape::Ring, 4),
            (Shape::Bridge(0), 3),
            (Shape::Split(vec![0]), 2),
            (Shape::Leader, 2),
            (Shape::OneWay(vec![0]), 2),
            (Shape::DeafLeader, 2),
            (Shape::MuteLeader, 2),
            (Shape::Islands(vec![vec![0], vec![1]]), 2),
            (Shape::Clients(vec![0]), 1),
        ];
        for (shape, least) in shapes {
            for nodes in 1..6 {
                assert_eq!(cut(nodes, &shape) > 0, nodes >= least, "{shape:?} of {nodes}");
            }
        }
    }
}
