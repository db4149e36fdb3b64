//! Faults of the network: which rules they are, and how long they are in force.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{MILD_LOSS_PERCENT, World};
use crate::fault::{Effect, Hosts, Rule};
use crate::scenario::{Fault, FaultKind, Links, Shape, Traffic};
use crate::workload::FIRST_CLIENT;

impl World {
    /// A fault of some links.
    pub(super) async fn trouble(&self, fault: &Fault, duration: Duration) {
        let (links, effect, harsh) = match &fault.kind {
            FaultKind::Lag { links, spread } => (links, Effect::Lag(*spread), self.is_slow(spread.most_ms())),
            FaultKind::Bandwidth { links, bytes_per_s } => (links, Effect::Bandwidth(*bytes_per_s), true),
            FaultKind::Clog { links, clogged_ms, free_ms } => {
                let (clogged_ns, free_ns) = (clogged_ms * 1_000_000, free_ms * 1_000_000);
                let effect = Effect::Clog { begin_ns: self.now(), clogged_ns, free_ns };
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
            _ => return,
        };
        let all = match fault.kind {
            FaultKind::Corrupt { .. } => Hosts::only(self.machines().into_keys()),
            _ => Hosts::All,
        };
        let rules = self.rules(*links, &effect, &all);
        self.begins(fault, &format!("{effect:?} on {links:?}"));
        self.links(rules, harsh, duration).await;
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

    /// The blocked links of a shape, given who leads.
    pub(super) fn partition(&self, shape: &Shape) -> Vec<Rule> {
        let nodes: BTreeSet<u32> = self.machines().into_keys().collect();
        let others = |side: &BTreeSet<u32>| nodes.difference(side).copied().collect::<BTreeSet<u32>>();
        let one_way = |from: &BTreeSet<u32>, to: &BTreeSet<u32>| Rule {
            from: Hosts::Only(from.clone()),
            to: Hosts::Only(to.clone()),
            effect: Effect::Block,
        };
        let apart = |a: &BTreeSet<u32>, b: &BTreeSet<u32>| vec![one_way(a, b), one_way(b, a)];
        let leader = BTreeSet::from([self.leader().unwrap_or(0)]);
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
            Shape::Clients(side) => {
                let clients = self.scenario.operations.iter().map(|op| FIRST_CLIENT + op.client);
                apart(&side.iter().copied().collect(), &clients.collect())
            }
        }
    }
}
