//! Faults of some links only: what they are, and how a seed draws them.
//!
//! Real networks rarely fail as a whole. One cable is slow in one direction, one card passes datagrams and no
//! streams, one firewall answers for a host that is well. Systems that are told "up" by one protocol and hear nothing
//! by another misjudge exactly that, so each of these is a kind of fault of its own.
//!
//! Many of them come and go: a train of short bursts on the same links ([`add_bursts`]) is what a loose plug or a link that flaps
//! looks like, and meets what gives up, or trusts again, too soon.
//!
//! Left out: routes. Every link between two hosts is as good as any other unless a fault names it.

use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::generate::{log_uniform, target};
use super::{Fault, FaultKind, Limits, Scenario, Settings, Target, stream};

/// Which links, and which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Links {
    /// All, the clients' too.
    #[default]
    All,
    /// All of one node, both ways.
    Of(Target),
    /// What one node sends.
    OutOf(Target),
    /// What one node is sent.
    Into(Target),
    /// From one node to another.
    One {
        /// The sender.
        from: u32,
        /// The receiver.
        to: u32,
    },
}

impl Links {
    /// The numbers of the nodes that this names.
    pub(super) fn named(&mut self) -> Vec<&mut u32> {
        match self {
            Links::All => Vec::new(),
            Links::Of(target) | Links::OutOf(target) | Links::Into(target) => {
                target.named().into_iter().collect()
            }
            Links::One { from, to } => vec![from, to],
        }
    }
}

/// How much longer messages take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Spread {
    /// Each as long as the other, so that their order stays.
    Constant {
        /// How long.
        ms: u64,
    },
    /// Most a little, some very long: a Pareto distribution of exponent 1, cut off. Half of all messages take at most
    /// twice the least.
    HeavyTail {
        /// The least.
        min_ms: u64,
        /// The most.
        max_ms: u64,
    },
}

impl Spread {
    /// The most that a message takes longer.
    pub fn most_ms(&self) -> u64 {
        match self {
            Spread::Constant { ms } => *ms,
            Spread::HeavyTail { max_ms, .. } => *max_ms,
        }
    }
}

/// What travels on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// Streams: Raft, HTTP, full exchanges of gossip.
    Streams,
    /// Datagrams: gossip's probes and rumours.
    Datagrams,
}

pub(super) fn some_links(rng: &mut StdRng, nodes: u32) -> Links {
    match rng.random_range(0..10) {
        0..2 => Links::All,
        2..5 => Links::Of(target(rng, nodes)),
        5..7 => Links::OutOf(target(rng, nodes)),
        7..9 => Links::Into(target(rng, nodes)),
        _ if nodes > 1 => {
            let from = rng.random_range(0..nodes);
            Links::One { from, to: (from + rng.random_range(1..nodes)) % nodes }
        }
        _ => Links::All,
    }
}

/// The kinds that come in bursts, too.
const IN_BURSTS: [&str; 5] = ["bandwidth", "duplicate", "lag", "loss", "reorder"];

/// The share of seeds with such a kind in which it comes in bursts as well.
const BURSTS: f64 = 0.5;

/// Adds trains of short faults on some links, each with a stream of its own.
pub(super) fn add_bursts(scenario: &mut Scenario, limits: &Limits, is_on: impl Fn(&str) -> bool) {
    let (nodes, duration_ms) = (scenario.nodes, scenario.duration_ms);
    for kind in IN_BURSTS {
        let rng = &mut stream(scenario.seed, &format!("bursts {kind}"));
        if !is_on(kind) || limits.without.contains(kind) || nodes < 2 || !rng.random_bool(BURSTS) {
            continue;
        }
        for _ in 0..rng.random_range(1..=2) {
            let kind = burst(rng, kind, nodes, scenario.settings.election_timeout_max_ms);
            let (mut at_ms, count) = (rng.random_range(0..duration_ms), rng.random_range(3..=6));
            let (burst_ms, rest_ms) = (log_uniform(rng, 50, 1_500), log_uniform(rng, 50, 3_000));
            for _ in 0..count {
                let for_ms = rng.random_range(burst_ms / 2..=burst_ms * 3 / 2);
                if at_ms + for_ms <= duration_ms {
                    scenario.faults.push(Fault { at_ms, for_ms, kind: kind.clone() });
                }
                at_ms += for_ms + rng.random_range(rest_ms / 2..=rest_ms * 3 / 2);
            }
        }
    }
    scenario.faults.sort_by_key(|fault| fault.at_ms);
}

/// What is wrong with some links in each burst of a train.
fn burst(rng: &mut StdRng, kind: &str, nodes: u32, election: u64) -> FaultKind {
    let links = loop {
        let links = some_links(rng, nodes);
        if links != Links::All {
            break links;
        }
    };
    match kind {
        "bandwidth" => FaultKind::Bandwidth { links, bytes_per_s: log_uniform(rng, 1_000, 100_000) },
        "duplicate" => FaultKind::Duplicate { links, percent: rng.random_range(20..=100) },
        "lag" => FaultKind::Lag { links, spread: spread(rng, election) },
        "loss" => FaultKind::Loss { links, percent: rng.random_range(30..=100) },
        _ => {
            let (percent, max_ms) = (rng.random_range(20..=100), log_uniform(rng, 2, 2 * election));
            FaultKind::Reorder { links, percent, max_ms }
        }
    }
}

fn spread(rng: &mut StdRng, election: u64) -> Spread {
    match rng.random_range(0..2) {
        0 => Spread::Constant { ms: log_uniform(rng, 1, 2 * election) },
        _ => Spread::HeavyTail { min_ms: rng.random_range(0..=5), max_ms: log_uniform(rng, 50, 5_000) },
    }
}

/// One fault of a kind of this family and its duration.
pub(super) fn draw(
    rng: &mut StdRng,
    kind: &str,
    nodes: u32,
    settings: &Settings,
) -> Option<(u64, FaultKind)> {
    let election = settings.election_timeout_max_ms;
    let links = some_links(rng, nodes);
    let fault = match kind {
        "lag" => FaultKind::Lag { links, spread: spread(rng, election) },
        // From a modem to a tenth of a fast network; a heartbeat is some 100 bytes, a snapshot some 10,000.
        "bandwidth" => FaultKind::Bandwidth { links, bytes_per_s: log_uniform(rng, 2_000, 10_000_000) },
        "clog" => {
            let (clogged_ms, free_ms) = (log_uniform(rng, 10, 5_000), log_uniform(rng, 10, 5_000));
            FaultKind::Clog { links, clogged_ms, free_ms }
        }
        "black-hole" => {
            let traffic = if rng.random_bool(0.7) { Traffic::Streams } else { Traffic::Datagrams };
            FaultKind::BlackHole { links, traffic }
        }
        "refusal" => FaultKind::Refusal { links },
        "corrupt" => FaultKind::Corrupt { links, per_mille: log_uniform(rng, 1, 300) as u32 },
        _ => return None,
    };
    Some((log_uniform(rng, 500, 16_000), fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_short_come_often_and_spare_some_links() {
        let mut trains = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let mut plan = Scenario::generate(seed, &Limits::default());
            plan.faults.clear();
            add_bursts(&mut plan, &Limits::default(), |kind| {
                kind == IN_BURSTS[seed as usize % IN_BURSTS.len()]
            });
            assert_eq!(plan.validate(), Ok(()), "seed {seed}");
            for fault in &plan.faults {
                assert!(fault.for_ms <= 2_250 && fault.kind.clone().nodes_mut().len() <= 2);
                trains.insert(fault.kind.name());
            }
        }
        assert_eq!(trains, IN_BURSTS.into());
    }
}
