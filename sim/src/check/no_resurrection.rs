//! GR: what a node believes of a member never goes back to a smaller incarnation, and a member declared
//! failed or left comes alive only by a greater one (SWIM, 4.2: a later incarnation overrides).
//!
//! This is what keeps an old "alive", delayed or repeated by the network, from bringing back the dead.
//!
//! Let pass: suspicions, which are questions and not beliefs; everything a node knew before its own restart, because it keeps no memory of gossip; and
//! failed becoming left at the same incarnation, which is an operator's decision and not a resurrection.

use std::collections::BTreeMap;

use driftline::env::Observed;
use driftline::env::observe::MemberChange;

use super::view::View;
use super::{At, Check, Event, Findings};

/// The check's memory.
#[derive(Debug, Default)]
pub struct NoResurrection {
    /// By observer and the member's id: incarnation and state. Not by name: who lost its disk comes back as somebody else
    /// of the same name, and that one's incarnations begin anew.
    known: BTreeMap<u32, BTreeMap<u64, (u64, MemberChange)>>,
}

fn is_dead(change: MemberChange) -> bool {
    matches!(change, MemberChange::Failed | MemberChange::Left)
}

impl Check for NoResurrection {
    fn on(&mut self, at: At, event: &Event<'_>, _view: &View, findings: &mut Findings) {
        match event {
            Event::Started { .. } | Event::Stopped(_) => {
                self.known.remove(&at.node);
            }
            Event::Observed(Observed::Member { change: MemberChange::Suspected, .. }) => {}
            Event::Observed(Observed::Member { node_id, name, incarnation, change, .. }) => {
                let known = self.known.entry(at.node).or_default();
                if let Some((before, last)) = known.get(node_id) {
                    let problem = if incarnation < before {
                        "went back"
                    } else if is_dead(*last) && !is_dead(*change) && incarnation == before {
                        "rose from the dead"
                    } else {
                        ""
                    };
                    if !problem.is_empty() {
                        findings.add(
                            "GR",
                            at,
                            format!(
                                "on node {} member {name:?} {problem}: {last:?} at incarnation {before}, then \
                                 {change:?} at incarnation {incarnation}",
                                at.node
                            ),
                        );
                    }
                }
                known.insert(*node_id, (*incarnation, *change));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::*;
    use MemberChange::*;

    fn bench(said: &[(u64, MemberChange)]) -> Bench<NoResurrection> {
        said.iter().fold(Bench::new(NoResurrection::default()).boots(2), |bench, (incarnation, change)| {
            bench.says(
                0,
                Observed::Member {
                    node_id: 1,
                    name: "n1".into(),
                    addr: ([10, 0, 0, 2], 1).into(),
                    incarnation: *incarnation,
                    change: *change,
                },
            )
        })
    }

    #[test]
    fn a_member_that_refutes_its_death_is_accepted() {
        bench(&[(1, Joined), (1, Suspected), (2, Updated), (2, Failed), (2, Left), (3, Joined)]).accepts();
        bench(&[(2, Joined), (1, Suspected), (2, Failed), (2, Suspected)]).accepts();
    }

    #[test]
    fn somebody_else_of_the_same_name_begins_anew() {
        let other = Observed::Member {
            node_id: 2,
            name: "n1".into(),
            addr: ([10, 0, 0, 2], 1).into(),
            incarnation: 1,
            change: Joined,
        };
        bench(&[(4, Joined), (4, Failed)]).says(0, other).accepts();
    }

    #[test]
    fn rising_from_the_dead_without_a_new_incarnation_is_rejected() {
        bench(&[(1, Joined), (1, Failed), (1, Joined)]).rejects("rose from the dead");
        bench(&[(1, Failed), (1, Suspected), (1, Updated)]).rejects("rose from the dead");
    }

    #[test]
    fn a_smaller_incarnation_is_rejected_dead_or_alive() {
        bench(&[(4, Joined), (3, Updated)]).rejects("went back");
        bench(&[(4, Failed), (3, Joined)]).rejects("went back");
    }

    #[test]
    fn a_restarted_observer_starts_from_nothing() {
        let bench = bench(&[(4, Failed)]).on(0, Event::Started { name: "n0" });
        bench
            .says(
                0,
                Observed::Member {
                    node_id: 1,
                    name: "n1".into(),
                    addr: ([10, 0, 0, 2], 1).into(),
                    incarnation: 3,
                    change: Joined,
                },
            )
            .accepts();
    }
}
