//! Faults of a node's process and of what it runs on: how a seed draws them.

use driftline::config::NEWEST_PROTOCOL;
use driftline::env::hazard::POINTS;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::generate::{log_uniform, some_nodes, target};
use super::{Fault, FaultKind};

/// One fault of a kind of this family and its duration; none, if the cluster is too small for it.
pub(super) fn draw(rng: &mut StdRng, kind: &str, nodes: u32) -> Option<(u64, FaultKind)> {
    let point = |rng: &mut StdRng| POINTS[rng.random_range(0..POINTS.len())].to_owned();
    let fault = match kind {
        "slow" => {
            let (target, step_us) = (target(rng, nodes), log_uniform(rng, 20, 5_000));
            (log_uniform(rng, 500, 20_000), FaultKind::Slow { target, step_us })
        }
        "restart-storm" => {
            let every_ms = log_uniform(rng, 100, 5_000);
            let nodes = if rng.random_bool(0.5) { (0..nodes).collect() } else { some_nodes(rng, nodes) };
            (log_uniform(rng, 1_000, 20_000), FaultKind::RestartStorm { nodes, every_ms })
        }
        "crash-loop" => {
            let (target, up_ms) = (target(rng, nodes), log_uniform(rng, 1, 3_000));
            (log_uniform(rng, 1_000, 20_000), FaultKind::CrashLoop { target, up_ms })
        }
        "crash-point" => {
            let (point, power) = (point(rng), rng.random_bool(0.5));
            (log_uniform(rng, 2_000, 30_000), FaultKind::CrashPoint { point, power })
        }
        "hazard" => {
            let (per_mille, max_ms) = (log_uniform(rng, 10, 500) as u32, log_uniform(rng, 1, 1_000));
            (log_uniform(rng, 1_000, 20_000), FaultKind::Hazard { point: point(rng), per_mille, max_ms })
        }
        "lose-disk" if nodes < 3 => return None,
        "lose-disk" => {
            (log_uniform(rng, 50, 8_000), FaultKind::LoseDisk { node: rng.random_range(0..nodes) })
        }
        _ => return None,
    };
    Some(fault)
}

/// An upgrade of all nodes, one by one, some of which are taken back and upgraded again.
pub(super) fn upgrades(rng: &mut StdRng, nodes: u32, duration_ms: u64) -> Vec<Fault> {
    let mut order: Vec<u32> = (0..nodes).collect();
    order.shuffle(rng);
    let mut at_ms = rng.random_range(0..duration_ms.div_ceil(2));
    let every_ms = log_uniform(rng, 300, 8_000);
    let mut faults = Vec::new();
    for node in order {
        let back = rng.random_bool(0.3);
        let steps: &[u8] = if back { &[NEWEST_PROTOCOL, 1, NEWEST_PROTOCOL] } else { &[NEWEST_PROTOCOL] };
        for protocol in steps {
            let for_ms = log_uniform(rng, 50, 3_000);
            if at_ms < duration_ms {
                let kind = FaultKind::Upgrade { node, protocol: *protocol };
                faults.push(Fault { at_ms, for_ms: for_ms.min(duration_ms - at_ms), kind });
            }
            at_ms += rng.random_range(every_ms / 2..=every_ms * 3 / 2);
        }
    }
    faults
}
