//! Plans that are a little simpler than a plan. They may be nonsense: whoever asks validates them.
//!
//! Faults and settings are changed as JSON, by the shape of their fields and not by their kinds, so a new kind of
//! fault or a new setting is shrunk without a word about it here.

use std::collections::BTreeSet;
use std::ops::Range;

use rand::RngExt;
use serde_json::Value;

use crate::scenario::validate::as_json;
use crate::scenario::{Fault, Scenario, Settings, agents, stream};

/// A fault is not shortened below this.
const SHORTEST_MS: u64 = 10;
/// How long an excerpt is.
const SHORTEST_EXCERPT_MS: u64 = 500;
const LONGEST_EXCERPT_MS: u64 = 3_000;
/// Most excerpts are of so few nodes, or little more.
const FEW_NODES: u32 = 3;
/// So many faults are in an excerpt at most.
const MOST_OF_EXCERPT: usize = 4;

/// The same storm, over at `end_ms`.
pub fn ended_at(plan: &Scenario, end_ms: u64) -> Scenario {
    let mut less = plan.clone();
    less.duration_ms = end_ms;
    less.faults.retain(|fault| fault.at_ms < end_ms);
    less.faults.iter_mut().for_each(|fault| fault.for_ms = fault.for_ms.min(end_ms - fault.at_ms));
    less.operations.retain(|op| op.at_ms < end_ms);
    less.settings.gossip_keys.changed_at_ms.take_if(|at_ms| *at_ms >= end_ms);
    less
}

/// Only what happens from a time on, at the times at which it did; a fault that is in force then has been so for as long
/// as it was.
pub fn since(plan: &Scenario, from_ms: u64) -> Scenario {
    let mut less = plan.clone();
    less.faults.retain(|fault| fault.at_ms + fault.for_ms > from_ms);
    less.operations.retain(|op| op.at_ms >= from_ms);
    less
}

/// Only what happens between two times; a fault that is in force at the first begins then.
pub fn between(plan: &Scenario, times: Range<u64>) -> Scenario {
    let mut less = ended_at(plan, times.end.min(plan.duration_ms));
    let from = times.start.min(less.duration_ms);
    less.duration_ms -= from;
    less.faults.retain(|fault| fault.at_ms + fault.for_ms > from);
    for fault in &mut less.faults {
        let end = fault.at_ms + fault.for_ms - from;
        fault.at_ms = fault.at_ms.saturating_sub(from);
        fault.for_ms = end - fault.at_ms;
    }
    less.operations.retain(|op| op.at_ms >= from);
    less.operations.iter_mut().for_each(|op| op.at_ms -= from);
    let keys = &mut less.settings.gossip_keys;
    keys.changed_at_ms = keys.changed_at_ms.and_then(|at_ms| at_ms.checked_sub(from));
    less
}

/// Short storms made of a long one: a few of its faults, one soon after the other, over the requests of some moments. Which,
/// is drawn.
pub fn excerpts(plan: &Scenario, count: u64) -> impl Iterator<Item = Scenario> + Clone + '_ {
    (0..count).map(|number| {
        let rng = &mut stream(plan.seed, &format!("excerpt {number}"));
        let length = rng.random_range(SHORTEST_EXCERPT_MS..=LONGEST_EXCERPT_MS).min(plan.duration_ms);
        let from = rng.random_range(0..=plan.duration_ms - length);
        let mut less = between(plan, from..from + length);
        let mut left = plan.faults.clone();
        less.faults.clear();
        for _ in 0..rng.random_range(1..=MOST_OF_EXCERPT).min(left.len()) {
            let fault = left.swap_remove(rng.random_range(0..left.len()));
            let at_ms = rng.random_range(0..length);
            less.faults.push(Fault { at_ms, for_ms: fault.for_ms.min(length - at_ms), ..fault });
        }
        less.faults.sort_by_key(|fault| fault.at_ms);
        // Fewer are quicker, but some failures need many.
        let nodes = rng.random_range(FEW_NODES..=FEW_NODES + 2);
        if rng.random_bool(0.7) && nodes < less.nodes { with_nodes(&less, nodes) } else { less }
    })
}

/// The same plan for fewer nodes: what named one that is not there names another.
pub fn with_nodes(plan: &Scenario, nodes: u32) -> Scenario {
    let mut less = plan.clone();
    let before = less.nodes;
    // Nodes that joined later have the numbers after the first ones.
    let moved = |node: u32| match node {
        agent if agent >= agents::FIRST => agent,
        first if first < before => first % nodes,
        later => later - before + nodes,
    };
    less.nodes = nodes;
    less.clocks.truncate(nodes as usize);
    for fault in &mut less.faults {
        for node in fault.kind.nodes_mut() {
            *node = moved(*node);
        }
        if let Ok(kind) = serde_json::from_value(without_doubles(as_json(&fault.kind))) {
            fault.kind = kind;
        }
    }
    less.operations.iter_mut().for_each(|op| op.node = moved(op.node));
    // Of fewer nodes fewer disks may be damaged.
    less.fit_damages();
    less.fit_missing();
    less
}

/// The same plan for fewer client agents: what named one that is not there names a server.
pub fn with_agents(plan: &Scenario, client_agents: u32) -> Scenario {
    let mut less = Scenario { client_agents, ..plan.clone() };
    let kept = agents::FIRST + client_agents;
    let moved = |node: u32| if node < kept { node } else { (node - kept) % plan.nodes };
    for fault in &mut less.faults {
        fault.kind.nodes_mut().into_iter().for_each(|node| *node = moved(*node));
        if let Ok(kind) = serde_json::from_value(without_doubles(as_json(&fault.kind))) {
            fault.kind = kind;
        }
    }
    less.operations.iter_mut().for_each(|op| op.node = moved(op.node));
    less
}

fn without_doubles(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut kept: Vec<Value> = Vec::new();
            for item in items {
                if !kept.contains(&item) {
                    kept.push(item);
                }
            }
            Value::Array(kept)
        }
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, without_doubles(value))).collect())
        }
        other => other,
    }
}

/// Simpler versions of one fault: shorter, and with one element less in each of its lists.
pub fn faults(fault: &Fault) -> Vec<Fault> {
    let mut simpler = Vec::new();
    let shorter = [fault.for_ms / 8, fault.for_ms / 2, fault.for_ms / 4 * 3];
    let shorter = BTreeSet::from(shorter.map(|ms| ms.max(SHORTEST_MS)));
    for for_ms in shorter.into_iter().filter(|ms| *ms < fault.for_ms) {
        simpler.push(Fault { for_ms, ..fault.clone() });
    }
    let whole = as_json(&fault.kind);
    for pointer in pointers(&whole) {
        let Some(Value::Array(items)) = whole.pointer(&pointer) else { continue };
        // Never to nothing: a fault without a node is no fault.
        for at in (0..items.len()).filter(|_| items.len() > 1) {
            let mut less = whole.clone();
            if let Some(Value::Array(items)) = less.pointer_mut(&pointer) {
                items.remove(at);
            }
            if let Ok(kind) = serde_json::from_value(less) {
                simpler.push(Fault { kind, ..fault.clone() });
            }
        }
    }
    simpler
}

/// The paths of all values in a value, its own first.
fn pointers(value: &Value) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut inner = |name: &str, value: &Value| {
        // Field names of ours have no slash or tilde in them.
        all.extend(pointers(value).into_iter().map(|pointer| format!("/{name}{pointer}")));
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| inner(name, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, value)| inner(&at.to_string(), value)),
        _ => {}
    }
    all
}

/// The paths of the settings that are not the usual ones.
pub fn unusual(settings: &Settings) -> Vec<String> {
    let (own, usual) = (as_json(settings), as_json(&Settings::default()));
    let leaf = |value: Option<&Value>| value.is_some_and(|value| !value.is_object());
    let mut differ = pointers(&own);
    differ.retain(|pointer| {
        (leaf(own.pointer(pointer)) || leaf(usual.pointer(pointer)))
            && own.pointer(pointer) != usual.pointer(pointer)
    });
    // Of a list or an option that differs only the outermost place counts.
    let places: BTreeSet<String> = differ.iter().cloned().collect();
    differ.retain(|pointer| {
        !pointer.match_indices('/').any(|(at, _)| at > 0 && places.contains(&pointer[..at]))
    });
    differ
}

/// The usual settings, but for those at these paths.
pub fn with_only(settings: &Settings, kept: &[String]) -> Option<Settings> {
    let own = as_json(settings);
    let mut result = as_json(&Settings::default());
    for pointer in kept {
        *result.pointer_mut(pointer)? = own.pointer(pointer)?.clone();
    }
    serde_json::from_value(result).ok()
}

/// The same plan with snapshots more often, from the most often on.
pub fn with_more_snapshots(plan: &Scenario) -> Vec<Scenario> {
    let often = [2, 5, 10, 20].into_iter().filter(|entries| *entries < plan.settings.snapshot_entries);
    let often = often.map(|entries| {
        let mut less = plan.clone();
        less.settings.snapshot_entries = entries;
        less.settings.trailing_entries = less.settings.trailing_entries.min(entries);
        less
    });
    often.collect()
}

/// The stretches of time in which nothing begins or ends, but for `rest_ms` of each, in order.
pub fn gaps(plan: &Scenario, rest_ms: u64) -> Vec<Range<u64>> {
    let mut times = BTreeSet::from([0, plan.duration_ms]);
    times.extend(plan.operations.iter().map(|op| op.at_ms));
    times.extend(plan.faults.iter().flat_map(|fault| [fault.at_ms, fault.at_ms + fault.for_ms]));
    let times = Vec::from_iter(times);
    times
        .windows(2)
        .filter(|pair| pair[1] - pair[0] > rest_ms)
        .map(|pair| pair[0] + rest_ms..pair[1])
        .collect()
}

/// The plan without a stretch of time; a fault in force then lasts shorter.
pub fn without_time(plan: &Scenario, gap: Range<u64>) -> Scenario {
    let moved = |ms: u64| ms - ms.min(gap.end).saturating_sub(gap.start);
    let mut less = plan.clone();
    less.duration_ms = moved(less.duration_ms);
    for fault in &mut less.faults {
        let end = moved(fault.at_ms + fault.for_ms);
        fault.at_ms = moved(fault.at_ms);
        fault.for_ms = end - fault.at_ms;
    }
    less.operations.iter_mut().for_each(|op| op.at_ms = moved(op.at_ms));
    let keys = &mut less.settings.gossip_keys;
    keys.changed_at_ms = keys.changed_at_ms.map(moved).filter(|at_ms| *at_ms < less.duration_ms);
    less
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{FaultKind, Limits, MembershipChange, Shape};

    fn of(seed: u64) -> Scenario {
        Scenario::generate(seed, &Limits { nodes: Some(5), ..Limits::default() })
    }

    #[test]
    fn a_plan_for_fewer_client_agents_can_be_run() {
        let plans = (0..60).map(of).filter(|plan| plan.client_agents > 0);
        for plan in plans {
            for agents in 0..plan.client_agents {
                assert_eq!(with_agents(&plan, agents).validate(), Ok(()), "seed {}", plan.seed);
            }
        }
    }

    #[test]
    fn a_plan_for_fewer_nodes_can_be_run() {
        for seed in 0..100 {
            for nodes in 1..5 {
                assert_eq!(with_nodes(&of(seed), nodes).validate(), Ok(()), "seed {seed}, {nodes} nodes");
            }
        }
        let mut plan = of(1);
        plan.faults.truncate(1);
        plan.faults[0].kind = FaultKind::Partition { shape: Shape::Split(vec![0, 3, 4]) };
        let less = with_nodes(&plan, 3);
        assert_eq!(less.faults[0].kind, FaultKind::Partition { shape: Shape::Split(vec![0, 1]) });
        // Who joined second is still who joined second.
        plan.faults[0].kind = FaultKind::Membership { change: MembershipChange::Leave(6) };
        assert_eq!(with_nodes(&plan, 3).faults[0].kind.nodes(), [4]);
    }

    #[test]
    fn a_storm_that_ends_earlier_can_be_run() {
        for seed in 0..100 {
            for end_ms in [1, 500, 7_000] {
                assert_eq!(ended_at(&of(seed), end_ms).validate(), Ok(()));
            }
        }
    }

    #[test]
    fn moments_of_a_storm_can_be_run() {
        let mut plan = of(2);
        plan.faults.truncate(1);
        plan.faults[0] = Fault {
            at_ms: 4_000,
            for_ms: 6_000,
            kind: FaultKind::Loss { percent: 5, links: crate::scenario::Links::All },
        };
        plan.operations.retain(|op| op.at_ms >= 5_000);
        plan.operations.truncate(1);
        plan.operations[0].at_ms = 5_500;
        let moments = between(&plan, 5_000..7_000);
        assert_eq!(moments.duration_ms, 2_000);
        assert_eq!((moments.faults[0].at_ms, moments.faults[0].for_ms), (0, 2_000));
        assert_eq!(moments.operations[0].at_ms, 500);
        assert!(between(&plan, 10_000..11_000).faults.is_empty());
        for seed in 0..100 {
            for times in [0..1, 500..900, 7_000..9_000, 3_000..1_000_000] {
                assert_eq!(between(&of(seed), times).validate(), Ok(()), "seed {seed}");
            }
        }
    }

    #[test]
    fn excerpts_are_short_can_be_run_and_are_made_of_the_plan() {
        for seed in 0..40 {
            let plan = of(seed);
            let mut can_be_run = 0;
            for less in excerpts(&plan, 12).filter(|less| less.validate().is_ok()) {
                assert!(less.duration_ms <= LONGEST_EXCERPT_MS && less.faults.len() <= MOST_OF_EXCERPT);
                assert!(
                    less.faults
                        .iter()
                        .all(|fault| plan.faults.iter().any(|one| one.kind.name() == fault.kind.name()))
                );
                can_be_run += 1;
            }
            assert!(can_be_run >= 6, "seed {seed}: {can_be_run} of 12 can be run");
        }
    }

    #[test]
    fn the_usual_settings_with_all_that_is_unusual_are_the_settings() {
        for seed in 0..50 {
            let settings = of(seed).settings;
            assert_eq!(with_only(&settings, &unusual(&settings)), Some(settings));
        }
        assert_eq!(unusual(&Settings::default()), Vec::<String>::new());
        assert_eq!(with_only(&of(1).settings, &[]), Some(Settings::default()));
    }

    #[test]
    fn time_without_events_is_taken_out_and_nothing_else_moves() {
        let mut plan = of(2);
        plan.duration_ms = 30_000;
        plan.operations.truncate(1);
        plan.operations[0].at_ms = 5_000;
        let kind = FaultKind::Loss { percent: 5, links: crate::scenario::Links::All };
        plan.faults = vec![Fault { at_ms: 4_000, for_ms: 6_000, kind }];
        let found = gaps(&plan, 200);
        assert_eq!(found, [200..4_000, 4_200..5_000, 5_200..10_000, 10_200..30_000]);
        let less = found.iter().rev().fold(plan, |plan, gap| without_time(&plan, gap.clone()));
        assert_eq!((less.duration_ms, less.operations[0].at_ms), (800, 400));
        assert_eq!((less.faults[0].at_ms, less.faults[0].for_ms), (200, 400));
        assert!(less.validate().is_ok() && gaps(&less, 200).is_empty());
    }
}
