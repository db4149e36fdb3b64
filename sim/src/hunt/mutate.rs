//! Plans made from plans: one or a few changes to a scenario as data.
//!
//! Pure: the same generator, plans and moments give the same child, and a child can always be run
//! ([`Scenario::validate`]). New material comes from [`Scenario::generate`], so every kind of fault that seeds know is
//! known here as well.
//!
//! Left out: anything that knows what a fault does. Which changes are worth making is for the search to find out.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::coverage::Moment;
use crate::scenario::validate::MOST_NODES;
use crate::scenario::{
    ClockSetting, Fault, FaultKind, Limits, MembershipChange, PlannedAction, PlannedOp, Scenario, Shape,
    Target,
};

/// A storm grows no longer than this: what needs more is found sooner by more runs.
const LONGEST_MS: u64 = 60_000;
/// A storm is cut no shorter than this.
const SHORTEST_MS: u64 = 4_000;
/// More faults than this are only noise, and slow.
const MOST_FAULTS: usize = 160;
/// The same for requests.
const MOST_OPERATIONS: usize = 3_000;
/// So many times a change is tried before the child is its parent under another seed.
const TRIES: usize = 12;

/// What a child is made from.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// The plan.
    pub scenario: &'a Scenario,
    /// What of note happened when it ran.
    pub moments: &'a [Moment],
}

/// A change to a plan; `other` is a second parent.
type Mutator = fn(&mut Scenario, &Parent<'_>, &Scenario, &mut StdRng);

/// All changes, with how often each is chosen.
const MUTATORS: &[(u32, Mutator)] = &[
    (6, move_one),
    (6, aim),
    (6, follow),
    (4, duplicate),
    (4, retarget),
    (3, at_the_leader),
    (4, stretch),
    (3, repeat),
    (6, new_fault),
    (4, drop_some),
    (2, thin_out),
    (6, splice),
    (6, adopt),
    (3, settings),
    (2, clocks),
    (3, workload),
    (3, crowd),
    (2, denser),
    (3, fewer_or_more_nodes),
    (2, duration),
    (3, reseed),
];

/// A plan made from `parent` by a few changes, with `other` for a second parent where one is wanted.
pub fn child(parent: &Parent<'_>, other: &Scenario, rng: &mut StdRng) -> Scenario {
    for _ in 0..TRIES {
        let mut plan = parent.scenario.clone();
        // One change mostly, and sometimes many.
        let changes = 1 + (rng.random_range(0..64u32) | 1).leading_zeros().saturating_sub(26);
        for _ in 0..changes {
            choose(rng)(&mut plan, parent, other, rng);
        }
        // What the parent's luck did not bring about, another may; what it did is there again only with the same.
        if rng.random_bool(0.5) {
            reseed(&mut plan, parent, other, rng);
        }
        // Any of them: what came last is what is new.
        while plan.faults.len() > MOST_FAULTS {
            plan.faults.swap_remove(rng.random_range(0..plan.faults.len()));
        }
        tidy(&mut plan);
        if plan != *parent.scenario && plan.validate().is_ok() {
            return plan;
        }
    }
    let mut plan = parent.scenario.clone();
    reseed(&mut plan, parent, other, rng);
    plan
}

fn choose(rng: &mut StdRng) -> Mutator {
    let total: u32 = MUTATORS.iter().map(|(weight, _)| weight).sum();
    let mut at = rng.random_range(0..total);
    for (weight, mutator) in MUTATORS {
        if at < *weight {
            return *mutator;
        }
        at -= weight;
    }
    reseed
}

/// Keeps a plan within what can be run, where that is only a matter of bounds.
fn tidy(plan: &mut Scenario) {
    plan.operations.truncate(MOST_OPERATIONS);
    let end = plan.duration_ms;
    for fault in &mut plan.faults {
        fault.at_ms = fault.at_ms.min(end);
        fault.for_ms = fault.for_ms.min(end - fault.at_ms);
    }
    plan.operations.retain(|op| op.at_ms <= end);
    plan.faults.sort_by_key(|fault| fault.at_ms);
    plan.operations.sort_by_key(|op| op.at_ms);
    // Every value is written once: a copy of a request writes one of its own.
    for (number, op) in plan.operations.iter_mut().enumerate() {
        if let PlannedAction::Put(value) | PlannedAction::Cas(value) = &mut op.action {
            *value = format!("v{number}");
        }
    }
    fit_nodes(plan);
}

/// Makes every name of a node one of a node that there is.
fn fit_nodes(plan: &mut Scenario) {
    plan.nodes = plan.nodes.clamp(1, MOST_NODES);
    plan.clocks.truncate(plan.nodes as usize);
    let nodes = plan.nodes;
    for fault in &mut plan.faults {
        for node in fault.kind.nodes_mut() {
            *node %= nodes;
        }
        let several = match &mut fault.kind {
            FaultKind::PowerLoss { nodes } => Some(nodes),
            FaultKind::Partition { shape: Shape::Split(nodes) | Shape::OneWay(nodes) } => Some(nodes),
            _ => None,
        };
        if let Some(several) = several {
            several.sort_unstable();
            several.dedup();
        }
    }
    for op in &mut plan.operations {
        op.node %= nodes;
    }
    // A cluster too small for it does not survive a departure.
    if nodes < 3 {
        plan.faults.retain(|fault| !matches!(fault.kind, FaultKind::Membership { .. }));
    }
    let mut joins = 0;
    plan.faults.retain(|fault| {
        let joining = matches!(fault.kind, FaultKind::Membership { change: MembershipChange::Add });
        joins += u32::from(joining);
        !joining || joins <= 4
    });
    plan.fit_damages();
    plan.fit_missing();
}

fn pick<'a, T>(items: &'a [T], rng: &mut StdRng) -> Option<&'a T> {
    (!items.is_empty()).then(|| &items[rng.random_range(0..items.len())])
}

fn pick_fault<'a>(plan: &'a mut Scenario, rng: &mut StdRng) -> Option<&'a mut Fault> {
    let at = (!plan.faults.is_empty()).then(|| rng.random_range(0..plan.faults.len()))?;
    plan.faults.get_mut(at)
}

/// A short time, of every order of magnitude up to `most`.
fn moment_ms(rng: &mut StdRng, most: u64) -> u64 {
    let bits = rng.random_range(0..=most.max(1).ilog2());
    rng.random_range(0..2u64 << bits).min(most)
}

/// A plan that nobody has seen, of the same size.
fn stranger(plan: &Scenario, rng: &mut StdRng) -> Scenario {
    let limits = Limits { nodes: Some(plan.nodes), ..Limits::default() };
    Scenario::generate(rng.random_range(0..u64::MAX / 2), &limits)
}

fn strange_fault(plan: &Scenario, rng: &mut StdRng) -> Option<Fault> {
    (0..4).find_map(|_| {
        let stranger = stranger(plan, rng);
        pick(&stranger.faults, rng).cloned()
    })
}

// The changes.

fn move_one(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let end = plan.duration_ms;
    let Some(fault) = pick_fault(plan, rng) else { return };
    fault.at_ms = match rng.random_range(0..3) {
        0 => rng.random_range(0..=end),
        1 => fault.at_ms.saturating_add(moment_ms(rng, 4_000)),
        _ => fault.at_ms.saturating_sub(moment_ms(rng, 4_000)),
    };
}

/// Puts a fault just before or after something that happened, on the node where it happened.
fn aim(plan: &mut Scenario, parent: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let Some(moment) = pick(parent.moments, rng).copied() else { return };
    let fresh = if rng.random_bool(0.5) { strange_fault(plan, rng) } else { None };
    let mut fault = match fresh.or_else(|| pick(&plan.faults, rng).cloned()) {
        Some(fault) => fault,
        None => return,
    };
    let near = moment_ms(rng, 1_500);
    fault.at_ms = match rng.random_bool(0.6) {
        true => moment.at_ms.saturating_add(near),
        false => moment.at_ms.saturating_sub(near),
    };
    if moment.node < plan.nodes && rng.random_bool(0.7) {
        point_at(&mut fault.kind, moment.node);
    }
    match rng.random_bool(0.5) {
        true => plan.faults.push(fault),
        false => {
            if let Some(place) = pick_fault(plan, rng) {
                *place = fault;
            }
        }
    }
}

fn point_at(kind: &mut FaultKind, node: u32) {
    if let FaultKind::PowerLoss { nodes } = kind {
        *nodes = vec![node];
        return;
    }
    if let Some(target) = kind.target_mut() {
        *target = Target::Node(node);
        return;
    }
    for named in kind.nodes_mut() {
        *named = node;
    }
}

/// Puts one fault right after, or into, another.
fn follow(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let Some(first) = pick(&plan.faults, rng).cloned() else { return };
    let second =
        if rng.random_bool(0.5) { strange_fault(plan, rng) } else { pick(&plan.faults, rng).cloned() };
    let Some(mut second) = second else { return };
    second.at_ms = match rng.random_range(0..3) {
        0 => first.at_ms.saturating_add(moment_ms(rng, 500)),
        1 => first.at_ms + rng.random_range(0..=first.for_ms),
        _ => first.at_ms.saturating_add(first.for_ms).saturating_add(moment_ms(rng, 2_000)),
    };
    plan.faults.push(second);
}

fn duplicate(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let Some(mut fault) = pick(&plan.faults, rng).cloned() else { return };
    fault.at_ms = rng.random_range(0..=plan.duration_ms);
    plan.faults.push(fault);
}

fn retarget(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let node = rng.random_range(0..plan.nodes.max(1));
    let Some(fault) = pick_fault(plan, rng) else { return };
    if let Some(target) = fault.kind.target_mut() {
        *target = if rng.random_bool(0.3) { Target::Leader } else { Target::Node(node) };
        return;
    }
    let mut named = fault.kind.nodes_mut();
    if !named.is_empty() {
        let at = rng.random_range(0..named.len());
        *named[at] = node;
    }
}

/// Makes every fault that aims at one node aim at the leader.
fn at_the_leader(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, _: &mut StdRng) {
    for fault in &mut plan.faults {
        if let Some(target) = fault.kind.target_mut() {
            *target = Target::Leader;
        } else if let FaultKind::Partition { shape } = &mut fault.kind {
            *shape = Shape::Leader;
        }
    }
}

fn stretch(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let Some(fault) = pick_fault(plan, rng) else { return };
    let times = rng.random_range(1..=8);
    fault.for_ms =
        if rng.random_bool(0.5) { fault.for_ms.saturating_mul(times) } else { fault.for_ms / times };
}

/// The same fault again and again.
fn repeat(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let Some(fault) = pick(&plan.faults, rng).cloned() else { return };
    let every = fault.for_ms.saturating_add(moment_ms(rng, 4_000)).max(200);
    for number in 1..=rng.random_range(2..=8u64) {
        plan.faults.push(Fault { at_ms: fault.at_ms.saturating_add(number * every), ..fault.clone() });
    }
    plan.faults.retain(|fault| fault.at_ms <= plan.duration_ms);
}

fn new_fault(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    plan.faults.extend(strange_fault(plan, rng));
}

fn drop_some(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let Some(kind) = pick(&plan.faults, rng).map(|fault| fault.kind.name()) else { return };
    if rng.random_bool(0.3) {
        plan.faults.retain(|fault| fault.kind.name() != kind);
    } else {
        let at = rng.random_range(0..plan.faults.len());
        plan.faults.remove(at);
    }
}

/// Leaves about half of the faults.
fn thin_out(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    plan.faults.retain(|_| rng.random_bool(0.5));
}

/// The beginning of one plan and the end of another.
fn splice(plan: &mut Scenario, _: &Parent<'_>, other: &Scenario, rng: &mut StdRng) {
    let cut = rng.random_range(0..=plan.duration_ms);
    if rng.random_bool(0.5) {
        plan.faults.retain(|fault| fault.at_ms < cut);
    }
    plan.faults.extend(other.faults.iter().filter(|fault| fault.at_ms >= cut).cloned());
}

/// All that another plan has of one kind of fault, besides what there is.
fn adopt(plan: &mut Scenario, _: &Parent<'_>, other: &Scenario, rng: &mut StdRng) {
    let Some(kind) = pick(&other.faults, rng).map(|fault| fault.kind.name()) else { return };
    plan.faults.extend(other.faults.iter().filter(|fault| fault.kind.name() == kind).cloned());
}

fn settings(plan: &mut Scenario, _: &Parent<'_>, other: &Scenario, rng: &mut StdRng) {
    let from = if rng.random_bool(0.5) { other.clone() } else { stranger(plan, rng) };
    let mine = plan.settings.clone();
    plan.settings = from.settings;
    // Timeouts of one plan, sizes and speeds of the other.
    if rng.random_bool(0.5) {
        plan.settings.snapshot_entries = mine.snapshot_entries;
        plan.settings.trailing_entries = mine.trailing_entries;
        plan.settings.links = mine.links;
        plan.settings.disks = mine.disks;
    }
    if rng.random_bool(0.3) {
        plan.settings.snapshot_entries = rng.random_range(5..=40);
        plan.settings.trailing_entries = rng.random_range(0..=plan.settings.snapshot_entries);
    }
}

fn clocks(plan: &mut Scenario, _: &Parent<'_>, other: &Scenario, rng: &mut StdRng) {
    plan.clocks = match rng.random_range(0..3) {
        0 => vec![ClockSetting::default(); plan.nodes as usize],
        1 => other.clocks.clone(),
        _ => stranger(plan, rng).clocks,
    };
}

/// Another workload, or another mix of it.
fn workload(plan: &mut Scenario, _: &Parent<'_>, other: &Scenario, rng: &mut StdRng) {
    match rng.random_range(0..4) {
        0 => plan.operations = other.operations.clone(),
        1 => plan.operations = stranger(plan, rng).operations,
        2 => {
            // More writes.
            for op in &mut plan.operations {
                if op.action == PlannedAction::Get && rng.random_bool(0.5) {
                    op.action = PlannedAction::Put(String::new());
                }
            }
        }
        _ => {
            // More reads.
            for op in &mut plan.operations {
                if matches!(op.action, PlannedAction::Put(_)) && rng.random_bool(0.5) {
                    op.action = PlannedAction::Get;
                }
            }
        }
    }
}

/// All requests on few keys, or at one node.
fn crowd(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    if rng.random_bool(0.5) {
        let keys = rng.random_range(1..=2u32);
        // A lock's key holds who has it, and no value that a client wrote: it stays apart. So do the names of services.
        for op in plan.operations.iter_mut().filter(|op| op.action.is_of_values()) {
            op.key = format!("k{}", rng.random_range(0..keys));
        }
    } else {
        let node = rng.random_range(0..plan.nodes.max(1));
        for op in &mut plan.operations {
            if rng.random_bool(0.7) {
                op.node = node;
            }
        }
    }
}

/// Twice as many requests, from more clients.
fn denser(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let clients = plan.operations.iter().map(|op| op.client).max().unwrap_or(0) + 1;
    let more: Vec<PlannedOp> = plan
        .operations
        .iter()
        .map(|op| PlannedOp {
            at_ms: op.at_ms.saturating_add(rng.random_range(0..50)),
            client: (op.client + rng.random_range(0..=clients)).min(63),
            node: rng.random_range(0..plan.nodes.max(1)),
            ..op.clone()
        })
        .collect();
    plan.operations.extend(more);
}

fn fewer_or_more_nodes(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    plan.nodes = [1, 2, 3, 3, 4, 5, 7][rng.random_range(0..7)];
}

/// Cuts the plan, or goes through it slower or faster.
fn duration(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    let (before, cut) = (plan.duration_ms, rng.random_bool(0.5));
    let after = before * rng.random_range(30..=170) / 100;
    plan.duration_ms = after.clamp(SHORTEST_MS, LONGEST_MS);
    if cut {
        plan.faults.retain(|fault| fault.at_ms <= plan.duration_ms);
        return;
    }
    let scale = |ms: u64| ms.saturating_mul(plan.duration_ms) / before.max(1);
    for fault in &mut plan.faults {
        fault.at_ms = scale(fault.at_ms);
    }
    for op in &mut plan.operations {
        op.at_ms = scale(op.at_ms);
    }
}

/// The same plan with other luck.
fn reseed(plan: &mut Scenario, _: &Parent<'_>, _: &Scenario, rng: &mut StdRng) {
    plan.seed = rng.random_range(0..u64::MAX / 2);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::coverage::Landmark;
    use crate::scenario::stream;

    fn moments() -> Vec<Moment> {
        let moment = |at_ms, node, what| Moment { at_ms, node, what };
        vec![moment(500, 0, Landmark::Elected), moment(9_000, u32::MAX, Landmark::FaultBegan)]
    }

    fn bred(plan: u64, other: u64, draw: u64) -> (Scenario, Scenario) {
        let (plan, other) =
            (Scenario::generate(plan, &Limits::default()), Scenario::generate(other, &Limits::default()));
        let moments = moments();
        let parent = Parent { scenario: &plan, moments: &moments };
        (child(&parent, &other, &mut stream(draw, "test")), plan)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_child_can_be_run_differs_and_depends_on_nothing_else(plan in 0..500u64, other in 0..500u64, draw: u64) {
            let (once, parent) = bred(plan, other, draw);
            prop_assert_eq!(once.validate(), Ok(()));
            prop_assert_ne!(&once, &parent);
            prop_assert_eq!(once, bred(plan, other, draw).0);
        }

        #[test]
        fn generations_stay_within_bounds(plan in 0..100u64, draw: u64) {
            let mut plan = Scenario::generate(plan, &Limits::default());
            let other = Scenario::generate(draw % 100, &Limits::default());
            let (moments, mut rng) = (moments(), stream(draw, "test"));
            for _ in 0..20 {
                plan = child(&Parent { scenario: &plan, moments: &moments }, &other, &mut rng);
                prop_assert_eq!(plan.validate(), Ok(()));
                prop_assert!(plan.duration_ms <= LONGEST_MS.max(60_000));
                prop_assert!(plan.faults.len() <= MOST_FAULTS && plan.operations.len() <= MOST_OPERATIONS);
            }
        }
    }

    #[test]
    fn every_change_changes_something_sometimes() {
        let other = Scenario::generate(7, &Limits::default());
        let moments = moments();
        for (number, (_, mutator)) in MUTATORS.iter().enumerate() {
            let changed = (0..20u64).any(|seed| {
                let before = Scenario::generate(seed, &Limits::default());
                let mut after = before.clone();
                let parent = Parent { scenario: &before, moments: &moments };
                mutator(&mut after, &parent, &other, &mut stream(seed, "test"));
                after != before
            });
            assert!(changed, "mutator {number}");
        }
    }

    #[test]
    fn an_aimed_fault_is_near_a_moment() {
        let before = Scenario::generate(3, &Limits { nodes: Some(3), ..Limits::default() });
        let moments = [Moment { at_ms: 9_000, node: 1, what: Landmark::Elected }];
        let parent = Parent { scenario: &before, moments: &moments };
        for draw in 0..50 {
            let mut after = before.clone();
            aim(&mut after, &parent, &before, &mut stream(draw, "test"));
            let fresh: Vec<&Fault> =
                after.faults.iter().filter(|fault| !before.faults.contains(fault)).collect();
            assert!(fresh.iter().all(|fault| (7_500..=10_500).contains(&fault.at_ms)), "{fresh:?}");
        }
    }
}
