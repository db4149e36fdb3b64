//! GA: a member that runs undisturbed is not declared failed (SWIM, 4.2: suspicion gives it time to
//! object; Lifeguard: a slow accuser gives it more).
//!
//! A declaration counts when neither the accused nor the accuser was down or touched by a fault for the
//! grace time before it. The world says whom a fault touches ([`Event::FaultBegan`]): if a rumour from a
//! disturbed third node may excuse the accuser, it touches everybody.
//!
//! Let pass: the accused's first seconds after its start, up to the grace time. At the end of the run GC
//! judges without any excuse.

use std::collections::BTreeMap;

use driftline::env::Observed;
use driftline::env::observe::MemberChange;

use super::view::View;
use super::{At, Check, Event, Findings};

#[derive(Clone, Copy, Debug, Default)]
struct Disturbance {
    /// Faults that touch the node now.
    active: u32,
    /// When it was last started, stopped or touched.
    last_ns: u64,
}

/// The check's memory.
#[derive(Debug)]
pub struct Accuracy {
    grace_ns: u64,
    disturbed: BTreeMap<u32, Disturbance>,
}

impl Accuracy {
    /// A check with this grace time.
    pub fn new(grace_ns: u64) -> Accuracy {
        Accuracy { grace_ns, disturbed: BTreeMap::new() }
    }

    fn is_calm(&self, node: u32, now_ns: u64) -> bool {
        let disturbance = self.disturbed.get(&node).copied().unwrap_or_default();
        disturbance.active == 0 && now_ns.saturating_sub(disturbance.last_ns) > self.grace_ns
    }
}

impl Check for Accuracy {
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings) {
        let disturbance = self.disturbed.entry(at.node).or_default();
        match event {
            // A node that said that it stops is on its way out: its gossip falls silent before its process ends.
            Event::Started { .. } | Event::Stopped(_) | Event::Observed(Observed::Fatal { .. }) => {
                disturbance.last_ns = at.ns;
            }
            Event::FaultBegan => disturbance.active += 1,
            Event::FaultEnded => {
                disturbance.active = disturbance.active.saturating_sub(1);
                disturbance.last_ns = at.ns;
            }
            Event::Observed(Observed::Member {
                node_id,
                name,
                change: MemberChange::Failed,
                incarnation,
                ..
            }) => {
                let Some((accused, node)) = view.by_name(name) else { return };
                // Of the same name, but the one that lost its disk: that one is gone indeed.
                let another = node.raft_id.is_some_and(|own| own != *node_id);
                if node.up && !another && self.is_calm(accused, at.ns) && self.is_calm(at.node, at.ns) {
                    findings.add(
                        "GA",
                        at,
                        format!(
                            "node {} declared {name:?} (node {accused}, incarnation {incarnation}) failed, though \
                             both ran undisturbed for {} s",
                            at.node,
                            self.grace_ns / 1_000_000_000
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
    use super::super::{Event, Stop};
    use super::*;

    /// Two nodes that have run for longer than the grace time; events are one second apart.
    fn bench() -> Bench<Accuracy> {
        let mut bench = Bench::new(Accuracy::new(5_000_000_000)).boots(2);
        for _ in 0..10 {
            bench = bench.on(0, Event::Datagram);
        }
        bench
    }

    fn failed() -> Observed {
        failed_as(2)
    }

    fn failed_as(node_id: u64) -> Observed {
        Observed::Member {
            node_id,
            name: "n1".into(),
            addr: ([10, 0, 0, 2], 1).into(),
            incarnation: 1,
            change: MemberChange::Failed,
        }
    }

    #[test]
    fn a_member_that_said_it_stops_may_be_declared_failed() {
        bench().says(1, Observed::Fatal { reason: "disk".to_owned() }).says(0, failed()).accepts();
    }

    #[test]
    fn declaring_an_undisturbed_member_failed_is_rejected() {
        bench().says(0, failed()).rejects("declared \"n1\"");
    }

    #[test]
    fn a_dead_or_disturbed_member_may_be_declared_failed() {
        bench().on(1, Event::Stopped(Stop::Kill)).says(0, failed()).accepts();
        bench().on(1, Event::FaultBegan).says(0, failed()).accepts();
        bench().on(0, Event::FaultBegan).on(0, Event::FaultEnded).says(0, failed()).accepts();
    }

    #[test]
    fn who_had_the_name_before_it_lost_its_disk_is_gone() {
        bench().says(0, failed_as(77)).accepts();
    }

    #[test]
    fn the_excuse_of_a_fault_runs_out() {
        let mut bench = bench().on(1, Event::FaultBegan).on(1, Event::FaultEnded);
        for _ in 0..6 {
            bench = bench.on(0, Event::Datagram);
        }
        bench.says(0, failed()).rejects("declared \"n1\"");
    }
}
