//! Clients that change and read two keys at once, by transactions, for the check TXN ([`crate::check::transactions`]).
//!
//! The two keys of a pair always get the same value, or go together, so whoever sees them differ has seen a part. Drawn from
//! a stream of its own, after everything else, so that a seed without them is what it was.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::generate::{at_pace, log_uniform};
use super::{PlannedAction, PlannedOp, Scenario, stream};

/// The number of the first such client.
const FIRST_CLIENT: u32 = 600;

/// The share of seeds that have them.
const SHARE: f64 = 0.3;

/// What is done with a pair. The key of the request is the pair's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PairDeed {
    /// Both get this value.
    Set(String),
    /// Both get this value, if the first is as it was just read.
    Swap(String),
    /// Both get this value, and a third operation of the transaction fails, or one is removed on a condition that does not hold:
    /// nothing must come of it.
    Spoil(String),
    /// Both go.
    Remove,
    /// Both are read by a transaction.
    Read,
    /// Both are read by a listing.
    List,
}

/// Gives a seed its pairs, if it has any.
pub(super) fn add(scenario: &mut Scenario) {
    let rng = &mut stream(scenario.seed, "pairs");
    if !rng.random_bool(SHARE) {
        return;
    }
    let nodes: Vec<u32> = (0..scenario.nodes).chain(scenario.agents()).collect();
    let pairs = rng.random_range(1..=2);
    let mut values = 0;
    for client in 0..rng.random_range(2..=4) {
        let pace_ms = log_uniform(rng, 80, 2_000);
        at_pace(rng, scenario.duration_ms, pace_ms, |rng, at_ms| {
            values += 1;
            let value = format!("p{values}");
            let deed = match rng.random_range(0..100) {
                0..25 => PairDeed::Set(value),
                25..40 => PairDeed::Swap(value),
                40..50 => PairDeed::Spoil(value),
                50..55 => PairDeed::Remove,
                55..85 => PairDeed::Read,
                _ => PairDeed::List,
            };
            let (key, client) = (format!("pair-{}", rng.random_range(0..pairs)), FIRST_CLIENT + client);
            let node = nodes[rng.random_range(0..nodes.len())];
            let action = PlannedAction::Pair(deed);
            scenario.operations.push(PlannedOp { at_ms, client, node, key, action });
        });
    }
    scenario.operations.sort_by_key(|op| op.at_ms);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Limits;
    use super::*;

    #[test]
    fn some_seeds_have_pairs_and_everything_is_done_with_them() {
        let (mut with, mut done) = (0, BTreeSet::new());
        for seed in 0..60 {
            let scenario = Scenario::generate(seed, &Limits::default());
            assert_eq!(scenario.validate(), Ok(()));
            let deeds = scenario.operations.iter().filter_map(|op| match &op.action {
                PlannedAction::Pair(deed) => Some(std::mem::discriminant(deed)),
                _ => None,
            });
            let before = done.len();
            let deeds: Vec<_> = deeds.collect();
            with += u32::from(!deeds.is_empty());
            done.extend(deeds.iter().map(|deed| format!("{deed:?}")));
            assert!(done.len() >= before);
        }
        assert!((9..30).contains(&with), "{with} of 60");
        assert_eq!(done.len(), 6);
    }
}
