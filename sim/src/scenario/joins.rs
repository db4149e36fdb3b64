//! Whom a node's configuration names. Some clusters are made as people make them who begin with one machine: all others name
//! that one, and it names nobody.
//!
//! Once that node has moved, such a configuration leads nowhere, and what the nodes remember of each other must do. So that
//! it can, in these clusters one node moves, once; no disk loses what is remembered; and nobody comes late. In some, power
//! fails everywhere while it does: nobody's memory but the disks' is left.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::generate::log_uniform;
use super::{DISK_KINDS, Fault, FaultKind, KINDS, Limits, Scenario, Target, stream};

/// The share of seeds in which all name node 0, if nothing speaks against it.
const SHARE: f64 = 0.4;

/// Whom the nodes' configurations name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Joins {
    /// Each names all others.
    #[default]
    All,
    /// Each names node 0, which names nobody.
    First,
}

impl Joins {
    /// Whether this node names that one.
    pub fn names(self, node: u32, other: u32) -> bool {
        node != other && (self == Joins::All || other == 0)
    }
}

/// Gives a seed a cluster in which all name node 0, and has that node move. Which faults it has is asked of the seed, and not of
/// the plan: to leave a kind out changes nothing else.
pub(super) fn add(scenario: &mut Scenario, limits: &Limits, is_on: impl Fn(&str) -> bool) {
    let rng = &mut stream(scenario.seed, "joins");
    let fits = !KINDS.iter().any(|kind| forgets(kind) && is_on(kind));
    if !rng.random_bool(SHARE) || !fits || scenario.nodes < 2 {
        return;
    }
    scenario.settings.joins = Joins::First;
    scenario.faults.retain(|fault| !matches!(fault.kind, FaultKind::Move { .. }));
    let at_ms = rng.random_range(0..scenario.duration_ms);
    let for_ms = log_uniform(rng, 50, 8_000).min(scenario.duration_ms - at_ms);
    let mut added = vec![Fault { at_ms, for_ms, kind: FaultKind::Move { target: Target::Node(0) } }];
    if rng.random_bool(0.5) {
        let at_ms = at_ms + rng.random_range(0..=for_ms);
        let for_ms = log_uniform(rng, 50, 8_000).min(scenario.duration_ms - at_ms);
        let nodes = (1..scenario.nodes).chain(scenario.agents()).collect();
        added.push(Fault { at_ms, for_ms, kind: FaultKind::PowerLoss { nodes } });
    }
    added.retain(|fault| !limits.without.contains(fault.kind.name()));
    scenario.faults.extend(added);
    scenario.faults.sort_by_key(|fault| fault.at_ms);
}

/// What in a plan does not go with a configuration that names one node only.
pub(super) fn unfit(scenario: &Scenario) -> Option<&'static str> {
    let moves = scenario.faults.iter().filter(|fault| matches!(fault.kind, FaultKind::Move { .. })).count();
    if moves > 1 {
        return Some("move");
    }
    scenario.faults.iter().map(|fault| fault.kind.name()).find(|kind| forgets(kind))
}

/// Whether a node may forget the others by faults of this kind, or comes when they have moved.
fn forgets(kind: &str) -> bool {
    DISK_KINDS.contains(&kind) || ["fsync-fail", "lose-disk", "membership"].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_seeds_name_node_0_only_and_then_it_moves_once() {
        let plans = (0..400).map(|seed| Scenario::generate(seed, &Limits::default()));
        let named: Vec<Scenario> = plans.filter(|plan| plan.settings.joins == Joins::First).collect();
        assert!(named.len() > 10, "{}", named.len());
        for plan in named {
            assert_eq!(plan.validate(), Ok(()));
            let moves = plan.faults.iter().filter(|fault| fault.kind.name() == "move");
            assert_eq!(moves.count(), 1);
            let mut again = plan.clone();
            again.faults.extend(plan.faults.iter().find(|fault| fault.kind.name() == "move").cloned());
            assert!(again.validate().unwrap_err().to_string().contains("settings.joins"));
        }
    }

    #[test]
    fn the_first_names_nobody_and_all_others_name_it() {
        let names = |node| (0..3).filter(|other| Joins::First.names(node, *other)).collect::<Vec<u32>>();
        assert_eq!([names(0), names(1), names(2)], [vec![], vec![0], vec![0]]);
        assert_eq!((0..3).filter(|other| Joins::All.names(1, *other)).collect::<Vec<u32>>(), [0, 2]);
    }
}
