//! Users whose rights change while they use them: each has a token of its own, an administrator who gives and takes, and
//! clients that try all the while, for the check ACL ([`crate::check::rights`]).
//!
//! What a user may is changed in one of two ways, which its name tells: a *linked* user's token is given other policies,
//! and may be removed altogether; of a *ruled* user the policy is given other rules. Drawn from a stream of its own, after
//! everything else, so that a seed without them is what it was.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::generate::{at_pace, log_uniform};
use super::{PlannedAction, PlannedOp, Scenario, stream};

/// The number of the first administrator; each user's clients have the numbers after its own.
const FIRST_CLIENT: u32 = 500;

/// The share of seeds in which rights are looked at.
const SHARE: f64 = 0.25;

/// What begins the name of a user whose token is given other policies.
pub const LINKED: &str = "linked-";

/// What begins the name of a user whose policy is given other rules.
pub const RULED: &str = "ruled-";

/// What is done about the rights of a user, or with them. The key of the request is the user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RightDeed {
    /// The administrator lets it do so much from now on.
    Grant(Level),
    /// The user writes to its key.
    Write,
    /// The user reads its key.
    Read,
    /// The user lists the keys of all.
    List,
    /// The user reads the keys of all, with their values.
    Tree,
}

/// How much a user may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nothing: its token is removed. Only for those who are [`LINKED`].
    Gone,
    /// Nothing.
    Nothing,
    /// Read its key.
    Read,
    /// Read and write its key.
    Write,
}

/// Gives a seed its users, if it has any.
pub(super) fn add(scenario: &mut Scenario) {
    let rng = &mut stream(scenario.seed, "rights");
    if !rng.random_bool(SHARE) {
        return;
    }
    scenario.settings.acl = true;
    let nodes: Vec<u32> = (0..scenario.nodes).chain(scenario.agents()).collect();
    for user in 0..rng.random_range(1..=3) {
        let linked = rng.random_bool(0.5);
        let key = format!("{}{user}", if linked { LINKED } else { RULED });
        let pace_ms = log_uniform(rng, 200, 4_000);
        let users = rng.random_range(1..=2);
        for client in 0..=users {
            let pace_ms = if client == 0 { pace_ms } else { log_uniform(rng, 50, pace_ms) };
            at_pace(rng, scenario.duration_ms, pace_ms, |rng, at_ms| {
                let deed = if client == 0 {
                    let least = if linked { 0 } else { 1 };
                    let level = [Level::Gone, Level::Nothing, Level::Read, Level::Write];
                    RightDeed::Grant(level[rng.random_range(least..level.len())])
                } else {
                    match rng.random_range(0..10) {
                        0..5 => RightDeed::Write,
                        5..8 => RightDeed::Read,
                        8 => RightDeed::Tree,
                        _ => RightDeed::List,
                    }
                };
                let client = FIRST_CLIENT + 10 * user + client;
                let node = nodes[rng.random_range(0..nodes.len())];
                let (key, action) = (key.clone(), PlannedAction::Right(deed));
                scenario.operations.push(PlannedOp { at_ms, client, node, key, action });
            });
        }
    }
    scenario.operations.sort_by_key(|op| op.at_ms);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Limits;
    use super::*;

    #[test]
    fn some_seeds_have_users_of_both_ways_to_whom_everything_happens() {
        let (mut with, mut granted, mut done) = (0, BTreeSet::new(), BTreeSet::new());
        for seed in 0..80 {
            let scenario = Scenario::generate(seed, &Limits::default());
            assert_eq!(scenario.validate(), Ok(()));
            with += u32::from(scenario.settings.acl);
            for op in &scenario.operations {
                let PlannedAction::Right(deed) = op.action else { continue };
                assert!(scenario.settings.acl);
                match deed {
                    RightDeed::Grant(level) => granted.insert((op.key.starts_with(LINKED), level)),
                    deed => done.insert(format!("{deed:?}")),
                };
            }
        }
        assert!((10..32).contains(&with), "{with} of 80");
        assert_eq!((granted.len(), done.len()), (7, 4), "{granted:?} {done:?}");
    }
}
