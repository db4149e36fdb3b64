//! Client agents: nodes that keep nothing and ask the servers, beside those that a scenario has anyway.
//!
//! They have numbers of their own, from [`FIRST`], so that a plan with and without them means the same for the
//! servers. A seed that has some sends part of its clients' requests through them, and lets part of its faults of
//! single nodes hit them too. All of it is drawn from streams of their own.

use rand::RngExt;
use rand::rngs::StdRng;

use super::generate::log_uniform;
use super::{Fault, FaultKind, Limits, PlannedOp, Scenario, Shape, Target, stream};

/// The number of the first client agent.
pub const FIRST: u32 = 500;

/// The most that a plan may have.
pub const MOST: u32 = 32;

/// The kinds of fault that hit client agents.
const KINDS: [&str; 5] = ["kill", "partition", "power-loss", "stall", "clock"];

impl Scenario {
    /// The numbers of the client agents.
    pub fn agents(&self) -> impl Iterator<Item = u32> + use<> {
        FIRST..FIRST + self.client_agents
    }

    /// Whether this is a client agent of the plan.
    pub fn is_agent(&self, node: u32) -> bool {
        (FIRST..FIRST + self.client_agents).contains(&node)
    }
}

/// Gives a seed its client agents.
pub(super) fn add(scenario: &mut Scenario, limits: &Limits, kind_is_on: impl Fn(&str) -> bool) {
    let seed = scenario.seed;
    let rng = &mut stream(seed, "client agents");
    scenario.client_agents = [0, 0, 0, 1, 1, 2][rng.random_range(0..6)];
    if scenario.client_agents == 0 {
        return;
    }
    let agents: Vec<u32> = scenario.agents().collect();
    redirect(&mut scenario.operations, &agents, rng);
    for kind in KINDS {
        let rng = &mut stream(seed, &format!("client agents {kind}"));
        if !kind_is_on(kind) || limits.without.contains(kind) {
            continue;
        }
        for _ in 0..rng.random_range(1..=3) {
            let agent = agents[rng.random_range(0..agents.len())];
            let at_ms = rng.random_range(0..scenario.duration_ms);
            let for_ms = log_uniform(rng, 100, 8_000).min(scenario.duration_ms - at_ms);
            let target = Target::Node(agent);
            let kind = match kind {
                "kill" => FaultKind::Kill { target },
                "partition" => FaultKind::Partition { shape: Shape::Split(vec![agent]) },
                "power-loss" => FaultKind::PowerLoss { nodes: vec![agent] },
                "stall" => FaultKind::Stall { target },
                _ => FaultKind::Clock {
                    target,
                    change: super::ClockChange::Rate(rng.random_range(571_000..=1_429_000)),
                },
            };
            scenario.faults.push(Fault { at_ms, for_ms, kind });
        }
    }
    scenario.faults.sort_by_key(|fault| fault.at_ms);
}

/// Sends a third of the requests through client agents.
fn redirect(operations: &mut [PlannedOp], agents: &[u32], rng: &mut StdRng) {
    for op in operations {
        if rng.random_bool(0.35) {
            op.node = agents[rng.random_range(0..agents.len())];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_seeds_have_client_agents_and_those_are_asked_and_hit() {
        let (mut with, mut asked, mut hit) = (0, 0, 0);
        for seed in 0..60 {
            let scenario = Scenario::generate(seed, &Limits::default());
            assert_eq!(scenario.validate(), Ok(()));
            with += u32::from(scenario.client_agents > 0);
            asked += scenario.operations.iter().filter(|op| scenario.is_agent(op.node)).count();
            hit +=
                scenario.faults.iter().filter(|fault| fault.kind.nodes().iter().any(|n| *n >= FIRST)).count();
        }
        assert!((15..50).contains(&with), "{with}");
        assert!(asked > 1_000 && hit > 10, "{asked} {hit}");
    }
}
