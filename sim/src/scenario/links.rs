//! Faults of some links only: what they are, and how a seed draws them.
//!
//! Real networks rarely fail as a whole. One cable is slow in one direction, one card passes datagrams and no
//! streams, one firewall answers for a host that is well. Systems that are told "up" by one protocol and hear nothing
//! by another misjudge exactly that, so each of these is a kind of fault of its own.
//!
//! Left out: routes. Every link between two hosts is as good as any other unless a fault names it.

use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::generate::{log_uniform, target};
use super::{FaultKind, Settings, Target};

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
        "lag" => {
            let spread = match rng.random_range(0..2) {
                0 => Spread::Constant { ms: log_uniform(rng, 1, 2 * election) },
                _ => {
                    Spread::HeavyTail { min_ms: rng.random_range(0..=5), max_ms: log_uniform(rng, 50, 5_000) }
                }
            };
            FaultKind::Lag { links, spread }
        }
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
