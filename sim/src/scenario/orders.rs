//! What an operator orders in the middle of a storm: how a seed draws it.
//!
//! An order is a call of the API like any other, and yet it is among the faults: it changes who the servers are, or whom the
//! others list, whatever else is going on. Operators give orders when something is wrong already, so two of the three
//! come with a fault of their own.
//!
//! A server that is taken out, or ordered out, is alive or will be: it comes back by itself, and the heal demands that every server
//! votes again. Until then one more is away, so these are not drawn where disks are damaged or a minority stays away. In
//! a run an order is given only while every server votes and the others can spare this one.
//!
//! Left out: to restore a snapshot. It goes back in time for the store, the catalog, rights, sessions and locks at once, and ends
//! every session. Whoever holds a lock, follows a query or renews a right has to be excused for it, and everybody else
//! around a restore whose outcome is unknown: a check that excuses so much in the middle of a storm would find nothing there that the
//! tests of `state::restore` do not. What a restore would be made of is judged: a snapshot is saved, and must be right.

use rand::RngExt;
use rand::rngs::StdRng;

use super::generate::{at_pace, log_uniform};
use super::{Away, Fault, FaultKind, Limits, Scenario, stream};

/// The orders that are faults, by name.
pub const ORDERS: [&str; 3] = ["remove-peer", "force-leave", "save-snapshot"];

/// Those by which fewer servers vote for a while.
pub(super) const OUT: [&str; 2] = ["remove-peer", "force-leave"];

/// Kinds of fault after which a disk may have lost what was acknowledged.
const DAMAGING: [&str; 4] = ["misdirected-read", "misdirected-write", "bit-rot", "lying-sync"];

/// Gives a seed its orders. `stays_away` says that a minority is to stay away after the storm, or would if nothing was left out.
pub(super) fn add(scenario: &mut Scenario, limits: &Limits, is_on: impl Fn(&str) -> bool, stays_away: bool) {
    let (seed, nodes, duration_ms) = (scenario.seed, scenario.nodes, scenario.duration_ms);
    // Asked of the seed, and not of the plan: to leave a kind out changes nothing else.
    let takes = is_on("membership") || is_on("lose-disk");
    let damaged = !takes && DAMAGING.iter().any(|kind| is_on(kind));
    let spares = nodes >= 3 && !stays_away && !damaged && !scenario.beyond;
    for kind in ORDERS {
        if !is_on(kind) || limits.without.contains(kind) || (OUT.contains(&kind) && !spares) {
            continue;
        }
        let rng = &mut stream(seed, &format!("fault {kind}"));
        let faults = &mut scenario.faults;
        let pace_ms = rng.random_range(3_000..=20_000);
        at_pace(rng, duration_ms, pace_ms, |rng, at_ms| {
            let (for_ms, kind) = draw(rng, kind, nodes);
            faults.push(Fault { at_ms, for_ms: for_ms.min(duration_ms - at_ms), kind });
        });
    }
    scenario.faults.sort_by_key(|fault| fault.at_ms);
}

/// One order and how long what goes with it lasts.
fn draw(rng: &mut StdRng, kind: &str, nodes: u32) -> (u64, FaultKind) {
    let node = rng.random_range(0..nodes);
    match kind {
        "remove-peer" => {
            let down = rng.random_bool(0.5);
            let for_ms = log_uniform(rng, 200, 16_000);
            (if down { for_ms } else { 0 }, FaultKind::RemovePeer { node, down })
        }
        "force-leave" => {
            let how = [Away::Down, Away::Frozen, Away::Cut][rng.random_range(0..3)];
            let prune = rng.random_bool(0.5);
            // Long enough for the others to miss it, mostly.
            (log_uniform(rng, 2_000, 24_000), FaultKind::ForceLeave { node, how, prune })
        }
        _ => (0, FaultKind::SaveSnapshot { node, stale: rng.random_bool(0.4) }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn orders_do_not_go_with_damage_or_a_minority_that_stays_away() {
        let mut drawn = BTreeSet::new();
        for seed in 0..300 {
            let plan = Scenario::generate(seed, &Limits::default());
            assert_eq!(plan.validate(), Ok(()), "seed {seed}");
            let kinds: BTreeSet<&str> = plan.faults.iter().map(|fault| fault.kind.name()).collect();
            drawn.extend(kinds.iter().copied().filter(|kind| ORDERS.contains(kind)));
            if OUT.iter().any(|kind| kinds.contains(kind)) {
                assert!(plan.nodes >= 3 && !plan.beyond && plan.settings.missing.is_none(), "seed {seed}");
                assert!(!plan.faults.iter().any(|fault| fault.kind.damages()), "seed {seed}");
            }
        }
        assert_eq!(drawn, BTreeSet::from(ORDERS));
    }
}
