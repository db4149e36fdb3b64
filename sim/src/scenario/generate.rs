//! How a seed becomes a scenario.
//!
//! A swarm (Groce and others, 2012): a seed first draws how stormy it is, then for each kind of fault
//! whether it happens at all, and only then when and how. Every kind has streams of its own.

use rand::RngExt;
use rand::rngs::StdRng;

use super::process;
use super::*;

/// Draws with every order of magnitude between the two equally likely.
pub(super) fn log_uniform(rng: &mut StdRng, low: u64, high: u64) -> u64 {
    let (low, high) = (low.max(1), high.max(low.max(1)));
    let bits = rng.random_range(low.ilog2()..=high.ilog2());
    rng.random_range((1 << bits)..(2 << bits)).clamp(low, high)
}

/// Moments of a storm, `pace_ms` apart on average, from the first `pace_ms` on.
pub(super) fn at_pace(
    rng: &mut StdRng,
    duration_ms: u64,
    pace_ms: u64,
    mut then: impl FnMut(&mut StdRng, u64),
) {
    let mut at_ms = rng.random_range(0..pace_ms);
    while at_ms < duration_ms {
        then(rng, at_ms);
        at_ms += rng.random_range(1..=2 * pace_ms);
    }
}

/// The share of seeds in which more may break than can be repaired.
const BEYOND: f64 = 0.1;
/// The share of seeds with wrong clocks in which there are partitions.
const CUT_OFF: f64 = 0.5;
/// The share of seeds with writes that go astray in which reads do too.
const FOUND: f64 = 0.5;
/// Damages of one kind in a run. A disk that went on and on would be given up by its server.
const MOST_DAMAGES: usize = 2;

impl Scenario {
    /// The scenario of a seed.
    pub fn generate(seed: u64, limits: &Limits) -> Scenario {
        let rng = &mut stream(seed, "shape");
        let drawn_nodes = [1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 7][rng.random_range(0..12)];
        let drawn_seconds = rng.random_range(20..=60);
        let nodes = limits.nodes.unwrap_or(drawn_nodes).max(1);
        let duration_ms = limits.duration_s.unwrap_or(drawn_seconds).max(1) * 1_000;
        let mut settings = settings(&mut stream(seed, "settings"));
        let rng = &mut stream(seed, "store");
        settings.segment_bytes = log_uniform(rng, 4_096, 262_144);
        // Half of the clusters hold values that do not fit into a sector.
        settings.padding_bytes = if rng.random_bool(0.5) { log_uniform(rng, 64, 2_048) } else { 0 };
        settings.gossip_keys = keys::draw(&mut stream(seed, "gossip keys"), duration_ms);
        settings.knobs = knobs(&mut stream(seed, "knobs"));
        let rng = &mut stream(seed, "cache");
        // In half of the clusters entries of the log leave memory in so short a life.
        if rng.random_bool(0.5) {
            settings.knobs.cache_bytes = log_uniform(rng, 512, 65_536);
        }
        let mut faults = Vec::new();
        // How stormy: with many kinds on at once every seed is the same chaos, and no kind shows what it does.
        let share: f64 = [0.05, 0.12, 0.3][stream(seed, "swarm").random_range(0..3)];
        let drawn = |kind: &str, share| stream(seed, &format!("swarm {kind}")).random_bool(share);
        // A wrong clock shows what it does where somebody is cut off and does not know: then there is often a partition.
        let cut_off = if drawn("clock", share) { share.max(CUT_OFF) } else { share };
        // So does a read that goes astray where a write did before.
        let found = if drawn("misdirected-write", share) { share.max(FOUND) } else { share };
        let is_on = |kind: &str| {
            let share = match kind {
                "partition" => cut_off,
                "misdirected-read" => found,
                _ => share,
            };
            drawn(kind, share)
        };
        let astray = disk::astray(&mut stream(seed, "astray"));
        let beyond = stream(seed, "beyond").random_bool(BEYOND);
        let atlas = disk::atlas(seed, nodes, beyond, is_on("membership") || is_on("lose-disk"));
        let mut clocks = vec![ClockSetting::default(); nodes as usize];
        for kind in KINDS.iter().copied() {
            if !is_on(kind) || limits.without.contains(kind) || orders::ORDERS.contains(&kind) {
                continue;
            }
            let rng = &mut stream(seed, &format!("fault {kind}"));
            if kind == "clock" {
                clocks.iter_mut().for_each(|clock| *clock = initial_clock(rng));
            }
            if kind == "upgrade" {
                settings.protocol = 1;
                faults.extend(process::upgrades(rng, nodes, duration_ms));
                continue;
            }
            // Between one every three and one every twenty seconds. What a clock does is over at once, so it comes more often.
            let every_ms = rng.random_range(3_000..=if kind == "clock" { 8_000 } else { 20_000 });
            let mut at_ms = rng.random_range(0..every_ms);
            let mut damages = 0;
            while at_ms < duration_ms {
                let drawn = if DISK_KINDS.contains(&kind) {
                    let target = target(rng, nodes);
                    disk::draw(rng, kind, target, astray, &atlas, beyond)
                } else {
                    draw(rng, kind, nodes, &settings)
                };
                if let Some((for_ms, kind)) = drawn
                    && (!kind.damages() || damages < MOST_DAMAGES)
                {
                    damages += usize::from(kind.damages());
                    // Everything ends with the storm, so that what follows is calm.
                    let for_ms = for_ms.min(duration_ms - at_ms);
                    faults.push(Fault { at_ms, for_ms, kind });
                }
                at_ms += rng.random_range(every_ms / 2..=every_ms * 3 / 2);
            }
        }
        faults.sort_by_key(|fault| fault.at_ms);
        let mut operations = operations(&mut stream(seed, "operations"), nodes, duration_ms);
        operations.extend(side_operations(&mut stream(seed, "side operations"), nodes, duration_ms));
        operations.extend(locks(&mut stream(seed, "locks"), nodes, duration_ms));
        operations.sort_by_key(|op| op.at_ms);
        let (version, client_agents) = (VERSION, 0);
        let mut scenario = Scenario {
            version,
            seed,
            nodes,
            client_agents,
            duration_ms,
            beyond,
            settings,
            clocks,
            faults,
            operations,
        };
        agents::add(&mut scenario, limits, is_on);
        services::add(&mut scenario);
        news::add(&mut scenario);
        followers::add(&mut scenario);
        rights::add(&mut scenario);
        pairs::add(&mut scenario);
        joins::add(&mut scenario, limits, is_on);
        links::add_bursts(&mut scenario, limits, is_on);
        let stays_away = missing::add(&mut scenario, limits, is_on);
        orders::add(&mut scenario, limits, is_on, stays_away);
        scenario
    }
}

fn settings(rng: &mut StdRng) -> Settings {
    let heartbeat_ms = rng.random_range(30..=100);
    let election_timeout_min_ms = heartbeat_ms * rng.random_range(3..=6);
    let latency_min_us = log_uniform(rng, 50, 2_000);
    let sync_min_us = log_uniform(rng, 50, 1_000);
    // Small against what a storm writes, so that most runs see several snapshots, and laggards need them.
    let snapshot_entries = log_uniform(rng, 20, 250);
    let request_timeout_ms = rng.random_range(500..=5_000);
    Settings {
        founding: if rng.random_bool(0.5) { Founding::First } else { Founding::Together },
        joins: Joins::All,
        heartbeat_ms,
        election_timeout_min_ms,
        // With little between the two, servers stand for election at the same time.
        election_timeout_max_ms: election_timeout_min_ms * [3, 4, 4, 6, 6][rng.random_range(0..5)] / 2,
        snapshot_entries,
        trailing_entries: rng.random_range(0..=snapshot_entries),
        snapshot_chunk_bytes: log_uniform(rng, 1_024, 16_384),
        request_timeout_ms,
        // A client that is more patient than the node hears from it what became of a late request.
        client_timeout_ms: request_timeout_ms * rng.random_range(60..=200) / 100,
        probe_period_ms: rng.random_range(300..=1_000),
        segment_bytes: 65_536,
        padding_bytes: 0,
        links: LinkSettings {
            latency_min_us,
            latency_max_us: latency_min_us * rng.random_range(2..=6),
            tail_per_mille: rng.random_range(0..=10),
        },
        disks: DiskSettings { sync_min_us, sync_max_us: sync_min_us * rng.random_range(2..=8) },
        protocol: NEWEST_PROTOCOL,
        gossip_keys: GossipKeys::default(),
        knobs: Knobs::default(),
        acl: false,
        missing: None,
    }
}

/// Half the seeds have the usual ones.
fn knobs(rng: &mut StdRng) -> Knobs {
    let drawn = Knobs {
        indirect_probes: rng.random_range(1..=5),
        suspicion_mult: rng.random_range(2..=6),
        gossip_fanout: rng.random_range(1..=6),
        retransmit_mult: rng.random_range(1..=8),
        push_pull_periods: log_uniform(rng, 4, 40),
        reconnect_periods: log_uniform(rng, 2, 20),
        stream_timeout_ms: log_uniform(rng, 1_000, 10_000),
        retry_interval_ms: log_uniform(rng, 500, 5_000),
        ..Knobs::default()
    };
    if rng.random_bool(0.5) { Knobs::default() } else { drawn }
}

/// Nearly right, a tenth off, or as wrong as a clock can be.
fn rate(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..10) {
        0..4 => rng.random_range(999_500..=1_000_500),
        4..6 => rng.random_range(900_000..=1_100_000),
        6..8 => 571_000,
        _ => rng.random_range(571_000..=1_429_000),
    }
}

fn wall_step(rng: &mut StdRng) -> i64 {
    const DAY_MS: u64 = 86_400_000;
    let by = match rng.random_range(0..20) {
        0 => 5 * DAY_MS,
        // As long as what is measured by clocks: leases, sessions, lock-delays.
        1..8 => rng.random_range(500..=20_000),
        _ => log_uniform(rng, 11, 288_000),
    };
    let by = i64::try_from(by).unwrap_or(i64::MAX);
    if rng.random_bool(0.5) { by } else { -by }
}

fn initial_clock(rng: &mut StdRng) -> ClockSetting {
    ClockSetting {
        rate_ppm: rate(rng),
        start_ms: rng.random_range(0..=1_000_000),
        wall_offset_ms: wall_step(rng),
    }
}

pub(super) fn some_nodes(rng: &mut StdRng, nodes: u32) -> Vec<u32> {
    let mut chosen: Vec<u32> = (0..nodes).filter(|_| rng.random_bool(0.5)).collect();
    if chosen.is_empty() || chosen.len() == nodes as usize {
        chosen = vec![rng.random_range(0..nodes)];
    }
    chosen
}

fn clock_change(rng: &mut StdRng) -> ClockChange {
    match rng.random_range(0..15) {
        0..4 => ClockChange::Rate(rate(rng)),
        4..5 => ClockChange::Jump(log_uniform(rng, 10, 10_000)),
        5..10 => ClockChange::Step(wall_step(rng)),
        10 => ClockChange::RateSine {
            swing_ppm: log_uniform(rng, 500, 400_000),
            period_ms: log_uniform(rng, 200, 20_000),
        },
        11 => ClockChange::RateWalk {
            step_ppm: log_uniform(rng, 100, 40_000),
            every_ms: log_uniform(rng, 50, 2_000),
        },
        12 => ClockChange::WallSine {
            swing_ms: log_uniform(rng, 1, 10_000),
            period_ms: log_uniform(rng, 200, 20_000),
        },
        13 => ClockChange::WallWalk {
            step_ms: log_uniform(rng, 1, 1_000),
            every_ms: log_uniform(rng, 10, 2_000),
        },
        // Jepsen's ranges.
        _ => ClockChange::Strobe {
            delta_ms: log_uniform(rng, 4, 262_000),
            period_ms: log_uniform(rng, 1, 1_000),
        },
    }
}

/// A partition that cuts something in a cluster of this size.
fn shape(rng: &mut StdRng, nodes: u32) -> Shape {
    let least = |shape: &u32| match shape {
        8 => 4,
        12 => 1,
        13 => 3,
        _ => 2,
    };
    let fit: Vec<u32> = (0..14).filter(|shape| least(shape) <= nodes).collect();
    match fit[rng.random_range(0..fit.len())] {
        0..3 => Shape::Split(some_nodes(rng, nodes)),
        3..6 => Shape::Leader,
        6 => Shape::OneWay(some_nodes(rng, nodes)),
        7 => Shape::DeafLeader,
        8 => Shape::Ring,
        9 => Shape::MuteLeader,
        10 => {
            let from = rng.random_range(0..nodes);
            Shape::Link { from, to: (from + rng.random_range(1..nodes)) % nodes }
        }
        11 => islands(rng, nodes),
        12 => Shape::Clients(some_nodes(rng, nodes)),
        _ => Shape::Bridge(rng.random_range(0..nodes)),
    }
}

/// Each node on one of up to four islands.
fn islands(rng: &mut StdRng, nodes: u32) -> Shape {
    let mut groups = vec![Vec::new(); rng.random_range(2..=4)];
    for node in 0..nodes {
        let group = rng.random_range(0..groups.len());
        groups[group].push(node);
    }
    groups.retain(|group| !group.is_empty());
    // All on one are not apart.
    if let [all] = &mut groups[..]
        && all.len() > 1
    {
        let alone = all.swap_remove(rng.random_range(0..all.len()));
        groups.push(vec![alone]);
    }
    Shape::Islands(groups)
}

pub(super) fn target(rng: &mut StdRng, nodes: u32) -> Target {
    if rng.random_bool(0.4) { Target::Leader } else { Target::Node(rng.random_range(0..nodes)) }
}

/// One fault of a kind and its duration; none, if the cluster is too small for it.
fn draw(rng: &mut StdRng, kind: &str, nodes: u32, settings: &Settings) -> Option<(u64, FaultKind)> {
    let election = settings.election_timeout_max_ms;
    let fault = match kind {
        "partition" => {
            let shape = shape(rng, nodes);
            (log_uniform(rng, 200, 16_000), FaultKind::Partition { shape })
        }
        // Gossip must get over the half of it that is mild without an error; for that it may last.
        "loss" if rng.random_bool(0.5) => {
            let percent = rng.random_range(1..=10);
            (log_uniform(rng, 1_000, 40_000), FaultKind::Loss { percent, links: Links::All })
        }
        // One bad cable loses more than a whole network does.
        "loss" if rng.random_bool(0.5) => {
            let (percent, links) = (rng.random_range(20..=90), links::some_links(rng, nodes));
            (log_uniform(rng, 1_000, 20_000), FaultKind::Loss { percent, links })
        }
        "loss" => {
            let percent = rng.random_range(10..=30);
            (log_uniform(rng, 1_000, 10_000), FaultKind::Loss { percent, links: Links::All })
        }
        "delay" => {
            let max_ms = log_uniform(rng, 1, 2 * election);
            let min_ms = rng.random_range(0..=max_ms);
            (log_uniform(rng, 1_000, 10_000), FaultKind::Delay { min_ms, max_ms, links: Links::All })
        }
        "reorder" => {
            let (percent, max_ms) = (rng.random_range(5..=50), log_uniform(rng, 2, election));
            (log_uniform(rng, 1_000, 10_000), FaultKind::Reorder { percent, max_ms, links: Links::All })
        }
        "duplicate" => {
            let (for_ms, percent) = (log_uniform(rng, 1_000, 20_000), rng.random_range(5..=50));
            (for_ms, FaultKind::Duplicate { percent, links: Links::All })
        }
        "stall" => {
            // Most are of the order of an election, some of a suspicion, a few outlast everything but the storm.
            let longest = match rng.random_range(0..20) {
                0 => 120_000,
                1..4 => 20_000,
                _ => 10 * election,
            };
            (log_uniform(rng, 10, longest), FaultKind::Stall { target: target(rng, nodes) })
        }
        "kill" => (log_uniform(rng, 50, 8_000), FaultKind::Kill { target: target(rng, nodes) }),
        "power-loss" => {
            let all = rng.random_bool(0.3);
            let nodes = if all { (0..nodes).collect() } else { some_nodes(rng, nodes) };
            (log_uniform(rng, 100, 8_000), FaultKind::PowerLoss { nodes })
        }
        "clock" => {
            let change = clock_change(rng);
            // A wrong clock does most harm where it is believed.
            let target = if rng.random_bool(0.5) { Target::Leader } else { target(rng, nodes) };
            (log_uniform(rng, 1_000, 20_000), FaultKind::Clock { target, change })
        }
        "fsync-fail" => {
            let syncs = rng.random_range(1..=2);
            let crash_after_ms = rng.random_bool(0.7).then(|| log_uniform(rng, 1, 300));
            let target = target(rng, nodes);
            (log_uniform(rng, 500, 4_000), FaultKind::FsyncFail { target, syncs, crash_after_ms })
        }
        "membership" if nodes < 3 => return None,
        "membership" => {
            let change = match rng.random_range(0..4) {
                0 => MembershipChange::Add,
                _ => MembershipChange::Leave(rng.random_range(0..nodes)),
            };
            (log_uniform(rng, 1_000, 10_000), FaultKind::Membership { change })
        }
        "transfer" => (0, FaultKind::Transfer),
        "vanish" => (log_uniform(rng, 100, 8_000), FaultKind::Vanish { target: target(rng, nodes) }),
        "move" => (log_uniform(rng, 50, 8_000), FaultKind::Move { target: target(rng, nodes) }),
        _ => return process::draw(rng, kind, nodes).or_else(|| links::draw(rng, kind, nodes, settings)),
    };
    Some(fault)
}

fn operations(rng: &mut StdRng, nodes: u32, duration_ms: u64) -> Vec<PlannedOp> {
    let clients = rng.random_range(3..=8);
    let keys = rng.random_range(2..=6);
    let gap_ms = 1_000 / rng.random_range(10..=30);
    // A third of the clusters are asked in bursts: many requests at once, then none for as long as they were too early.
    let burst = if rng.random_bool(0.33) { rng.random_range(5..=30) } else { 1 };
    let mut planned = Vec::new();
    let mut at_ms = 0;
    while at_ms < duration_ms {
        let client = rng.random_range(0..clients);
        let value = format!("v{}", planned.len());
        let action = match rng.random_range(0..100) {
            0..40 => PlannedAction::Get,
            40..75 => PlannedAction::Put(value),
            75..95 => PlannedAction::Cas(value),
            _ => PlannedAction::Delete,
        };
        planned.push(PlannedOp {
            at_ms,
            client,
            node: rng.random_range(0..nodes),
            key: format!("k{}", rng.random_range(0..keys)),
            action,
        });
        let more = !(planned.len() as u64).is_multiple_of(burst);
        at_ms += if more { rng.random_range(0..=3) } else { rng.random_range(1..=2 * gap_ms * burst) };
    }
    planned
}

/// What the API can do besides: two clients more, at a slower pace, with a stream of their own.
fn side_operations(rng: &mut StdRng, nodes: u32, duration_ms: u64) -> Vec<PlannedOp> {
    const FIRST_SIDE_CLIENT: u32 = 8;
    let mut planned = Vec::new();
    let mut at_ms = 0;
    while at_ms < duration_ms {
        let key = format!("k{}", rng.random_range(0..3));
        let (key, action) = match rng.random_range(0..100) {
            0..30 => (key, PlannedAction::Stale),
            30..60 => (key, PlannedAction::Watch(log_uniform(rng, 100, 2_000))),
            60..80 => ("k".to_owned(), PlannedAction::List),
            80..95 => (key, PlannedAction::Fire(format!("event-{}", planned.len()))),
            _ => ("k".to_owned(), PlannedAction::DeleteTree),
        };
        let client = FIRST_SIDE_CLIENT + rng.random_range(0..2);
        planned.push(PlannedOp { at_ms, client, node: rng.random_range(0..nodes), key, action });
        at_ms += rng.random_range(1..=500);
    }
    planned
}

/// The number of the first client that locks.
const FIRST_LOCKER: u32 = 100;

/// Clients that do nothing but lock, one lock after the other; more of them than there are locks.
fn locks(rng: &mut StdRng, nodes: u32, duration_ms: u64) -> Vec<PlannedOp> {
    let mut planned = Vec::new();
    let lockers = rng.random_range(2..=4);
    let keys = rng.random_range(1..lockers);
    for locker in 0..lockers {
        let mut at_ms = rng.random_range(0..3_000);
        while at_ms < duration_ms {
            let plan = LockPlan {
                ttl_ms: rng.random_range(1_000..=4_000),
                delay_ms: if rng.random_bool(0.3) { 0 } else { rng.random_range(500..=6_000) },
                delete: rng.random_bool(0.3),
                patience_ms: rng.random_range(2_000..=12_000),
                hold_ms: log_uniform(rng, 300, 16_000),
                end: [LockEnd::Release, LockEnd::Destroy, LockEnd::Vanish][rng.random_range(0..3)],
            };
            planned.push(PlannedOp {
                at_ms,
                client: FIRST_LOCKER + locker,
                node: rng.random_range(0..nodes),
                key: format!("lock-{}", rng.random_range(0..keys)),
                action: PlannedAction::Lock(plan),
            });
            at_ms += plan.hold_ms + rng.random_range(100..=2_000);
        }
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::scene::Scene;

    #[test]
    fn every_partition_that_is_drawn_cuts_something() {
        for nodes in 1..=5 {
            let scene = Scene { nodes: (0..nodes).collect(), clients: [900].into(), ..Scene::default() };
            for seed in 0..300 {
                let shape = shape(&mut stream(seed, "test"), nodes);
                assert!(!scene.partition(&shape).is_empty(), "{shape:?} of {nodes}");
            }
        }
    }
}
