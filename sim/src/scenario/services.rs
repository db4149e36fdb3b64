//! Clients that register services at agents, tell their checks how things are, and take them out again.
//!
//! Each client is one program beside one agent: it asks only that node, and nobody else names its services. So what
//! an agent must have follows from what its client was told, and the check AE ([`crate::check::anti_entropy`]) can say
//! it. Drawn from a stream of its own, after everything else, so that a seed without them is what it was.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::generate::{at_pace, log_uniform};
use super::{PlannedAction, PlannedOp, Scenario, stream};

/// The number of the first client that registers.
const FIRST_CLIENT: u32 = 200;

/// The name that all of their services have.
pub const NAME: &str = "registered";

/// The share of seeds that have them.
const SHARE: f64 = 0.4;

/// The port that the first registration of a run names. Every registration names another, so that what is registered
/// tells by which.
const FIRST_PORT: u16 = 2_000;

/// What such a client asks its agent. The key of the request is the service's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ServiceDeed {
    /// To register the service, anew if it is there.
    Register {
        /// Its port.
        port: u16,
        /// The time to live of its check.
        ttl_ms: u64,
    },
    /// To take it out.
    Deregister,
    /// To hear that its check passes.
    Pass,
    /// To hear that it warns.
    Warn,
    /// To hear that it fails.
    Fail,
}

/// Gives a seed its registrations, if it has any.
pub(super) fn add(scenario: &mut Scenario) {
    let rng = &mut stream(scenario.seed, "services");
    if !rng.random_bool(SHARE) {
        return;
    }
    let nodes: Vec<u32> = (0..scenario.nodes).chain(scenario.agents()).collect();
    let mut port = FIRST_PORT;
    for number in 0..rng.random_range(1..=4) {
        let node = nodes[rng.random_range(0..nodes.len())];
        let services = rng.random_range(1..=2);
        let pace_ms = log_uniform(rng, 400, 4_000);
        let mut is_first = true;
        at_pace(rng, scenario.duration_ms, pace_ms, |rng, at_ms| {
            let key = format!("svc-{number}-{}", rng.random_range(0..services));
            let deed = match rng.random_range(0..100) {
                _ if is_first => None,
                0..30 => None,
                30..55 => Some(ServiceDeed::Deregister),
                55..80 => Some(ServiceDeed::Pass),
                80..90 => Some(ServiceDeed::Warn),
                _ => Some(ServiceDeed::Fail),
            };
            let deed = deed.unwrap_or_else(|| {
                port = port.saturating_add(1);
                // Some are over in the storm, some after the heal, some last.
                ServiceDeed::Register { port, ttl_ms: log_uniform(rng, 1_000, 250_000) }
            });
            is_first = false;
            let (client, action) = (FIRST_CLIENT + number, PlannedAction::Service(deed));
            scenario.operations.push(PlannedOp { at_ms, client, node, key, action });
        });
    }
    scenario.operations.sort_by_key(|op| op.at_ms);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::Limits;
    use super::*;

    #[test]
    fn some_seeds_register_and_a_service_is_of_one_client_and_one_node() {
        let (mut with, mut deeds) = (0, BTreeSet::new());
        for seed in 0..60 {
            let scenario = Scenario::generate(seed, &Limits::default());
            assert_eq!(scenario.validate(), Ok(()));
            let mut homes = BTreeMap::new();
            let mut ports = BTreeSet::new();
            for op in &scenario.operations {
                let PlannedAction::Service(deed) = op.action else { continue };
                assert_eq!(
                    homes.insert(&op.key, (op.client, op.node)).unwrap_or((op.client, op.node)),
                    (op.client, op.node)
                );
                if let ServiceDeed::Register { port, .. } = deed {
                    assert!(ports.insert(port));
                }
                deeds.insert(match deed {
                    ServiceDeed::Register { .. } => "register",
                    ServiceDeed::Deregister => "deregister",
                    ServiceDeed::Pass | ServiceDeed::Warn | ServiceDeed::Fail => "tell",
                });
            }
            with += u32::from(!homes.is_empty());
        }
        assert!((15..35).contains(&with), "{with} of 60");
        assert_eq!(deeds.len(), 3);
    }
}
