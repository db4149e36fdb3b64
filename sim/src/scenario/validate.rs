//! Whether a plan can be run at all, decided before anything starts.
//!
//! A scenario file may come from anywhere: another version, an editor, a search that mutates plans. What
//! the world could not do anything sensible with is refused here, naming the place in the file as
//! `faults[3].kind.loss.percent`.
//!
//! Units are part of a field's name, so most limits follow from names: `_ms`, `_us`, `percent`,
//! `per_mille`; `min` is at most `max`. New fields and new kinds of fault are covered by being named so.
//! What names do not tell (which nodes there are, what ends when) is checked by type.
//!
//! A plan must also have an end in reasonable time. What makes work is counted as it is planned: faults, restarts, changes of
//! a clock's rate, requests that repeat themselves. Each may come to a fixed number and to so many more a second of storm, which is several times what the
//! wildest seed draws, and a few minutes of one core at most beside what the storm takes anyway.
//!
//! Left out: whether a plan is worth running; and that a long storm of many nodes takes long, which whoever asks for one knows.

use std::collections::BTreeSet;

use serde_json::Value;

use driftline::config::{Config, NEWEST_PROTOCOL};
use driftline::env::hazard::POINTS;

use super::news::MOST_BYTES;
use super::rights::{LINKED, Level, RULED, RightDeed};
use super::{
    ClockChange, DiskFault, Fault, FaultKind, FileKind, Joins, MembershipChange, OLDEST, PairDeed,
    PlannedAction, Scenario, ServiceDeed, VERSION,
};
use super::{agents, joins, missing};

/// More nodes than anything is known of.
pub const MOST_NODES: u32 = 64;
/// The longest storm: a day.
pub const LONGEST_MS: u64 = 86_400_000;
/// The most faults in all.
const MOST_FAULTS: u64 = 100_000;
/// The most faults, by the length of the storm.
const FAULTS: Share = Share { at_once: 2_000, a_second: 100 };
/// The most restarts that faults repeat.
const RESTARTS: Share = Share { at_once: 20_000, a_second: 300 };
/// The most changes of a clock's rate that faults repeat.
const RATES: Share = Share { at_once: 100_000, a_second: 3_000 };
/// The most requests that one operation of a client repeats: to follow a query, and to keep a lock.
const REQUESTS: Share = Share { at_once: 50_000, a_second: 1_000 };
/// A process that is killed again and again is started again after so long.
const DOWN_MS: u64 = 500;
/// A swing of a clock's rate is made of so many changes, as `bend` cuts it.
const PIECES: u64 = 32;
/// The most sectors that rot at once.
const MOST_ROT: u32 = 100_000;
/// The longest latency, sync, step of a slow processor, and pause between two probes.
const MOST_PAUSE_MS: u64 = 10_000;
/// The messages that are sent one after the other before a node can answer a write: to open a connection to the leader, to ask
/// there, and for the leader to ask a follower; each there and back.
const HOPS_OF_A_NODE: u64 = 6;
/// The same with those of the client, who opens a connection and asks a node.
const HOPS_OF_A_CLIENT: u64 = HOPS_OF_A_NODE + 4;
/// The syncs that a write waits for: the leader's and a follower's.
const SYNCS: u64 = 2;
/// The most planned requests.
pub const MOST_OPERATIONS: usize = 1_000_000;
/// Client numbers are below this: the world's own client has the number 999.
const MOST_CLIENTS: u32 = 999;
/// Clocks run between a thousandth of true time and a hundred times it.
const RATES_PPM: std::ops::RangeInclusive<u64> = 1_000..=100_000_000;
/// The shortest time to live of a session: what the nodes of a run are configured to accept.
pub const LEAST_TTL_MS: u64 = 100;
/// The longest lock-delay that a node keeps.
const MOST_DELAY_MS: u64 = 60_000;
/// A clock whose rate changes by itself never stands still.
const MOST_SWING_PPM: u64 = 900_000;
/// How far a clock may be off, and how far all that jump ahead may do so together: thirty years.
const FARTHEST_MS: u64 = 946_080_000_000;

/// How much of something a plan may have.
struct Share {
    /// However short the storm is.
    at_once: u64,
    /// For each second of it besides.
    a_second: u64,
}

impl Share {
    fn of(&self, duration_ms: u64) -> u64 {
        self.at_once.saturating_add(self.a_second.saturating_mul(duration_ms) / 1_000)
    }
}

/// What is wrong with a scenario, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Invalid {
    /// The place, as a path through the file.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

fn wrong<T>(place: impl Into<String>, problem: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { place: place.into(), problem: problem.into() })
}

impl Scenario {
    /// Whether this can be run.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn validate(&self) -> Result<(), Invalid> {
        if !(OLDEST..=VERSION).contains(&self.version) {
            return wrong("version", format!("{}, but this build reads {OLDEST} to {VERSION}", self.version));
        }
        if !(1..=MOST_NODES).contains(&self.nodes) {
            return wrong("nodes", format!("{}, want 1 to {MOST_NODES}", self.nodes));
        }
        if self.client_agents > agents::MOST {
            let (count, most) = (self.client_agents, agents::MOST);
            return wrong("client_agents", format!("{count}, want at most {most}"));
        }
        if !(1..=LONGEST_MS).contains(&self.duration_ms) {
            return wrong("duration_ms", format!("{}, want 1 to {LONGEST_MS}", self.duration_ms));
        }
        let most = FAULTS.of(self.duration_ms).min(MOST_FAULTS);
        if self.faults.len() as u64 > most {
            let (count, storm) = (self.faults.len(), self.duration_ms);
            return wrong("faults", format!("{count} of them, want at most {most} in a storm of {storm} ms"));
        }
        if self.operations.len() > MOST_OPERATIONS {
            let count = self.operations.len();
            return wrong("operations", format!("{count} of them, want at most {MOST_OPERATIONS}"));
        }
        self.validate_clocks()?;
        self.validate_settings()?;
        self.validate_faults()?;
        self.validate_work()?;
        self.validate_operations()
    }

    /// So many nodes with servers' numbers there are, with those that will join.
    fn known_nodes(&self) -> usize {
        let joins =
            |fault: &&Fault| matches!(fault.kind, FaultKind::Membership { change: MembershipChange::Add });
        self.nodes as usize + self.faults.iter().filter(joins).count()
    }

    fn validate_clocks(&self) -> Result<(), Invalid> {
        if self.clocks.len() > self.nodes as usize {
            return wrong("clocks", format!("{} of them for {} nodes", self.clocks.len(), self.nodes));
        }
        for (at, clock) in self.clocks.iter().enumerate() {
            let place = |field: &str| format!("clocks[{at}].{field}");
            if !RATES_PPM.contains(&clock.rate_ppm) {
                return wrong(place("rate_ppm"), off_rate(clock.rate_ppm));
            }
            if clock.start_ms > FARTHEST_MS {
                return wrong(place("start_ms"), format!("{} is more than thirty years", clock.start_ms));
            }
            if clock.wall_offset_ms.unsigned_abs() > FARTHEST_MS {
                let offset = clock.wall_offset_ms;
                return wrong(place("wall_offset_ms"), format!("{offset} is more than thirty years"));
            }
        }
        Ok(())
    }

    fn validate_settings(&self) -> Result<(), Invalid> {
        let settings = &self.settings;
        let positive = [
            ("heartbeat_ms", settings.heartbeat_ms),
            ("election_timeout_min_ms", settings.election_timeout_min_ms),
            ("snapshot_entries", settings.snapshot_entries),
            ("snapshot_chunk_bytes", settings.snapshot_chunk_bytes),
            ("request_timeout_ms", settings.request_timeout_ms),
            ("client_timeout_ms", settings.client_timeout_ms),
            ("probe_period_ms", settings.probe_period_ms),
        ];
        if !(4_096..=1 << 30).contains(&settings.segment_bytes) {
            return wrong("settings.segment_bytes", "want 4096 to 1073741824");
        }
        if settings.knobs.cache_bytes > 1 << 30 {
            return wrong("settings.knobs.cache_bytes", "want at most 1073741824");
        }
        if settings.joins == Joins::First
            && let Some(kind) = joins::unfit(self)
        {
            let problem = format!("with {kind} in the plan nodes that name node 0 only may find nobody");
            return wrong("settings.joins", problem);
        }
        if let Some(missing) = &settings.missing
            && let Some(problem) = missing::wrong(self, missing)
        {
            return wrong("settings.missing", problem);
        }
        if settings.padding_bytes > 65_536 {
            return wrong("settings.padding_bytes", "want at most 65536");
        }
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return wrong(format!("settings.{field}"), "0, want at least 1");
        }
        if settings.election_timeout_min_ms <= settings.heartbeat_ms {
            return wrong(
                "settings.election_timeout_min_ms",
                format!(
                    "{}, but heartbeats come every {} ms",
                    settings.election_timeout_min_ms, settings.heartbeat_ms
                ),
            );
        }
        if !(1..=NEWEST_PROTOCOL).contains(&settings.protocol) {
            return wrong("settings.protocol", off_protocol(settings.protocol));
        }
        if settings.gossip_keys.keys > super::keys::MOST {
            return wrong("settings.gossip_keys.keys", format!("want at most {}", super::keys::MOST));
        }
        if settings.gossip_keys.changed_at_ms.is_some_and(|at_ms| at_ms >= self.duration_ms) {
            return wrong("settings.gossip_keys.changed_at_ms", "after the end of the storm");
        }
        let knobs = &settings.knobs;
        let knobs = [
            ("indirect_probes", u64::from(knobs.indirect_probes), 1..=32),
            ("suspicion_mult", u64::from(knobs.suspicion_mult), 1..=100),
            ("gossip_fanout", u64::from(knobs.gossip_fanout), 1..=32),
            ("retransmit_mult", u64::from(knobs.retransmit_mult), 1..=32),
            ("push_pull_periods", knobs.push_pull_periods, 1..=1_000),
            ("reconnect_periods", knobs.reconnect_periods, 1..=1_000),
            ("stream_timeout_ms", knobs.stream_timeout_ms, 10..=600_000),
            ("retry_interval_ms", knobs.retry_interval_ms, 1..=600_000),
        ];
        if let Some((field, value, legal)) =
            knobs.into_iter().find(|(_, value, legal)| !legal.contains(value))
        {
            let problem = format!("{value}, want {} to {}", legal.start(), legal.end());
            return wrong(format!("settings.knobs.{field}"), problem);
        }
        // What is so slow does not become well within the time that a heal may take.
        let slow = [
            ("probe_period_ms", settings.probe_period_ms, MOST_PAUSE_MS),
            ("links.latency_min_us", settings.links.latency_min_us, MOST_PAUSE_MS * 1_000),
            ("links.latency_max_us", settings.links.latency_max_us, MOST_PAUSE_MS * 1_000),
            ("disks.sync_min_us", settings.disks.sync_min_us, MOST_PAUSE_MS * 1_000),
            ("disks.sync_max_us", settings.disks.sync_max_us, MOST_PAUSE_MS * 1_000),
        ];
        if let Some((field, value, most)) = slow.into_iter().find(|(_, value, most)| value > most) {
            return wrong(format!("settings.{field}"), format!("{value}, want at most {most}"));
        }
        walk("settings", &as_json(settings), LONGEST_MS)?;
        self.validate_patience()?;
        // A node looks at its own settings as well, and stops if they are nonsense.
        let node = Config { raft: settings.raft(), limits: settings.limits(), ..Config::default() };
        node.check().map_err(|invalid| Invalid {
            place: "settings".to_owned(),
            problem: format!("no node starts with them: {invalid}"),
        })
    }

    /// Nobody waits for less than an answer takes where nothing is wrong: a plan in which every request is given up would be
    /// blamed on the node.
    fn validate_patience(&self) -> Result<(), Invalid> {
        let settings = &self.settings;
        let (latency_us, sync_us) = (settings.links.latency_max_us, settings.disks.sync_max_us);
        for (field, given_ms, hops) in [
            ("request_timeout_ms", settings.request_timeout_ms, HOPS_OF_A_NODE),
            ("client_timeout_ms", settings.client_timeout_ms, HOPS_OF_A_CLIENT),
        ] {
            let least_ms = (hops * latency_us + SYNCS * sync_us).div_ceil(1_000).max(1);
            if given_ms < least_ms {
                let problem = format!(
                    "{given_ms}, want at least {least_ms}: an answer may take {hops} latencies of {latency_us} us \
                     (links.latency_max_us) and {SYNCS} syncs of {sync_us} us (disks.sync_max_us)"
                );
                return wrong(format!("settings.{field}"), problem);
            }
        }
        Ok(())
    }

    fn validate_faults(&self) -> Result<(), Invalid> {
        let known = self.known_nodes();
        if known > MOST_NODES as usize {
            return wrong(
                "faults",
                format!("with those that join there are {known} nodes, want at most {MOST_NODES}"),
            );
        }
        for (at, fault) in self.faults.iter().enumerate() {
            let place = |field: &str| format!("faults[{at}].{field}");
            if fault.at_ms > self.duration_ms {
                let (begins, ends) = (fault.at_ms, self.duration_ms);
                return wrong(place("at_ms"), format!("{begins}, but the storm ends at {ends}"));
            }
            if fault.for_ms > self.duration_ms - fault.at_ms {
                let (begins, lasts, ends) = (fault.at_ms, fault.for_ms, self.duration_ms);
                let problem = format!("{lasts} after {begins} is past the storm's end at {ends}");
                return wrong(place("for_ms"), problem);
            }
            if let Some(node) =
                fault.kind.nodes().into_iter().find(|node| *node as usize >= known && !self.is_agent(*node))
            {
                return wrong(place("kind"), format!("there is no node {node}, only 0 to {}", known - 1));
            }
            if let FaultKind::Disk { fault: DiskFault::BitRot { sectors }, .. } = &fault.kind
                && *sectors > MOST_ROT
            {
                return wrong(
                    place("kind.disk.fault.bit-rot.sectors"),
                    format!("{sectors}, want at most {MOST_ROT}"),
                );
            }
            if let FaultKind::Disk { fault: DiskFault::MisdirectedRead { outdated: true, of, .. }, .. } =
                &fault.kind
                && *of != Some(FileKind::Meta)
                && !self.beyond
            {
                let place = place("kind.disk.fault.misdirected-read.of");
                return wrong(place, "only identity and vote are read twice; the plan must say \"beyond\"");
            }
            if let FaultKind::Slow { step_us, .. } = &fault.kind
                && *step_us > MOST_PAUSE_MS * 1_000
            {
                let most = MOST_PAUSE_MS * 1_000;
                return wrong(place("kind.slow.step_us"), format!("{step_us}, want at most {most}"));
            }
            if let FaultKind::Clock { change, .. } = &fault.kind {
                match change {
                    ClockChange::Rate(rate) if !RATES_PPM.contains(rate) => {
                        return wrong(place("kind.clock.change.rate"), off_rate(*rate));
                    }
                    ClockChange::Jump(ms) if *ms > FARTHEST_MS => {
                        return wrong(
                            place("kind.clock.change.jump"),
                            format!("{ms} is more than thirty years"),
                        );
                    }
                    ClockChange::Step(ms) if ms.unsigned_abs() > FARTHEST_MS => {
                        return wrong(
                            place("kind.clock.change.step"),
                            format!("{ms} is more than thirty years"),
                        );
                    }
                    ClockChange::RateSine { swing_ppm, .. }
                    | ClockChange::RateWalk { step_ppm: swing_ppm, .. }
                        if *swing_ppm > MOST_SWING_PPM =>
                    {
                        let problem = format!("{swing_ppm}, want at most {MOST_SWING_PPM}");
                        return wrong(place("kind.clock.change"), problem);
                    }
                    ClockChange::RateSine { period_ms: 0, .. }
                    | ClockChange::RateWalk { every_ms: 0, .. }
                    | ClockChange::WallSine { period_ms: 0, .. }
                    | ClockChange::WallWalk { every_ms: 0, .. }
                    | ClockChange::Strobe { period_ms: 0, .. } => {
                        return wrong(place("kind.clock.change"), "0, want at least 1");
                    }
                    _ => {}
                }
            }
            if let FaultKind::Disk { fault, .. } = &fault.kind
                && fault.lies()
                && !self.beyond
            {
                return wrong(
                    place("kind"),
                    "a disk that lies is beyond repair; the plan must say \"beyond\"",
                );
            }
            match &fault.kind {
                FaultKind::CrashPoint { point, .. } | FaultKind::Hazard { point, .. }
                    if !POINTS.contains(&point.as_str()) =>
                {
                    return wrong(place("kind"), format!("the code has no place named {point:?}"));
                }
                FaultKind::RemovePeer { node, .. } if self.is_agent(*node) => {
                    return wrong(place("kind"), format!("node {node} is a client agent, and no peer"));
                }
                FaultKind::RestartStorm { every_ms: 0, .. } => {
                    return wrong(place("kind.restart-storm.every_ms"), "0, want at least 1");
                }
                FaultKind::Upgrade { protocol, .. } if !(1..=NEWEST_PROTOCOL).contains(protocol) => {
                    return wrong(place("kind.upgrade.protocol"), off_protocol(*protocol));
                }
                _ => {}
            }
            if let FaultKind::Bandwidth { bytes_per_s: 0, .. } = &fault.kind {
                return wrong(place("kind.bandwidth.bytes_per_s"), "0, want at least 1");
            }
            walk(&place("kind"), &as_json(&fault.kind), FARTHEST_MS)?;
        }
        self.validate_damages()
    }

    /// What is repeated has an end, and clocks stay within what they can show.
    fn validate_work(&self) -> Result<(), Invalid> {
        let (mut restarts, mut rates, mut ahead_ms) = (0u64, 0u64, 0u64);
        let (most_restarts, most_rates) = (RESTARTS.of(self.duration_ms), RATES.of(self.duration_ms));
        for (at, Fault { for_ms, kind, .. }) in self.faults.iter().enumerate() {
            let place = |field: &str| format!("faults[{at}].kind.{field}");
            let times = |every_ms: u64| 1 + for_ms / every_ms.max(1);
            match kind {
                FaultKind::RestartStorm { every_ms, .. } => {
                    restarts = restarts.saturating_add(times(*every_ms));
                    if restarts > most_restarts {
                        let problem = off_work(*every_ms, restarts, "restarts", most_restarts);
                        return wrong(place("restart-storm.every_ms"), problem);
                    }
                }
                FaultKind::CrashLoop { up_ms, .. } => {
                    restarts = restarts.saturating_add(times(up_ms.saturating_add(DOWN_MS)));
                    if restarts > most_restarts {
                        let problem = off_work(*up_ms, restarts, "restarts", most_restarts);
                        return wrong(place("crash-loop.up_ms"), problem);
                    }
                }
                FaultKind::Clock { change, .. } => match change {
                    ClockChange::Jump(ms) => {
                        ahead_ms = ahead_ms.saturating_add(*ms);
                        if ahead_ms > FARTHEST_MS {
                            let problem = format!("{ms}, with those before more than thirty years ahead");
                            return wrong(place("clock.change.jump"), problem);
                        }
                    }
                    ClockChange::RateSine { period_ms, .. } => {
                        rates = rates.saturating_add(times(period_ms / PIECES));
                        if rates > most_rates {
                            let problem = off_work(*period_ms, rates, "changes of rate", most_rates);
                            return wrong(place("clock.change.rate-sine.period_ms"), problem);
                        }
                    }
                    ClockChange::RateWalk { every_ms, .. } => {
                        rates = rates.saturating_add(times(*every_ms));
                        if rates > most_rates {
                            let problem = off_work(*every_ms, rates, "changes of rate", most_rates);
                            return wrong(place("clock.change.rate-walk.every_ms"), problem);
                        }
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// Damage stays on a minority and apart from departures, or the plan says that it does not.
    fn validate_damages(&self) -> Result<(), Invalid> {
        let damages = || self.faults.iter().enumerate().filter(|(_, fault)| fault.kind.damages());
        let Some((first, _)) = damages().next().filter(|_| !self.beyond) else { return Ok(()) };
        if let Some((at, _)) = damages().find(|(_, fault)| fault.kind.nodes().is_empty()) {
            return wrong(format!("faults[{at}].kind"), "whose disk is damaged must be said, or \"beyond\"");
        }
        let hit: BTreeSet<u32> = damages().flat_map(|(_, fault)| fault.kind.nodes()).collect();
        if 2 * hit.len() >= self.nodes as usize {
            let problem = format!(
                "{} of {} disks are damaged in all, and \"beyond\" is not said",
                hit.len(),
                self.nodes
            );
            return wrong(format!("faults[{first}].kind"), problem);
        }
        if self.faults.iter().any(|fault| fault.kind.takes_a_node()) {
            let problem = "disks are damaged while nodes come and go, are ordered out or lose theirs, and \"beyond\" is not said";
            return wrong(format!("faults[{first}].kind"), problem);
        }
        Ok(())
    }

    fn validate_operations(&self) -> Result<(), Invalid> {
        let known = self.known_nodes();
        let (mut requests, most_requests) = (0u64, REQUESTS.of(self.duration_ms));
        let mut values = BTreeSet::new();
        for (at, op) in self.operations.iter().enumerate() {
            let place = |field: &str| format!("operations[{at}].{field}");
            if op.at_ms > self.duration_ms {
                let (begins, ends) = (op.at_ms, self.duration_ms);
                return wrong(place("at_ms"), format!("{begins}, but the storm ends at {ends}"));
            }
            if op.client >= MOST_CLIENTS {
                return wrong(place("client"), format!("{}, want less than {MOST_CLIENTS}", op.client));
            }
            if op.node as usize >= known && !self.is_agent(op.node) {
                return wrong(
                    place("node"),
                    format!("there is no node {}, only 0 to {}", op.node, known - 1),
                );
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            if op.key.is_empty() || op.key.len() > 512 || !op.key.chars().all(plain) {
                return wrong(place("key"), format!("{:?}, want up to 512 letters, digits or -_./", op.key));
            }
            if let PlannedAction::Lock(plan) = &op.action {
                for (field, ms, least, most) in [
                    ("ttl_ms", plan.ttl_ms, LEAST_TTL_MS, LONGEST_MS),
                    ("delay_ms", plan.delay_ms, 0, MOST_DELAY_MS),
                    ("patience_ms", plan.patience_ms, 0, LONGEST_MS),
                    ("hold_ms", plan.hold_ms, 0, LONGEST_MS),
                ] {
                    if !(least..=most).contains(&ms) {
                        let place = place(&format!("action.lock.{field}"));
                        return wrong(place, format!("{ms}, want {least} to {most}"));
                    }
                }
            }
            if let PlannedAction::Service(ServiceDeed::Register { ttl_ms, .. }) = &op.action
                && !(1..=LONGEST_MS).contains(ttl_ms)
            {
                let place = place("action.service.register.ttl_ms");
                return wrong(place, format!("{ttl_ms}, want 1 to {LONGEST_MS}"));
            }
            if let PlannedAction::Right(deed) = op.action {
                if !self.settings.acl {
                    return wrong(place("action.right"), "and settings.acl is not on");
                }
                let linked = op.key.starts_with(LINKED);
                if !linked && !op.key.starts_with(RULED) {
                    let what = format!("{:?}, want {LINKED}… or {RULED}…", op.key);
                    return wrong(place("key"), what);
                }
                if !linked && deed == RightDeed::Grant(Level::Gone) {
                    return wrong(place("action.right.grant"), format!("gone, which only {LINKED}… may be"));
                }
            }
            let of_the_api = |path: &str| {
                path.starts_with("/v1/") && path.chars().all(|c| plain(c) || c == '?') && path.len() <= 512
            };
            if let PlannedAction::Follow { path, wait_ms } = &op.action
                && !(of_the_api(path) && (1..=LONGEST_MS).contains(wait_ms))
            {
                let what = format!("{path:?} for {wait_ms}, want a path below /v1/ and 1 to {LONGEST_MS}");
                return wrong(place("action.follow"), what);
            }
            if let PlannedAction::Publish { name, bytes } = &op.action
                && !(name.len() <= 64 && !name.is_empty() && name.chars().all(plain) && *bytes <= MOST_BYTES)
            {
                let what =
                    format!("{name:?} with {bytes} bytes, want up to 64 letters and {MOST_BYTES} bytes");
                return wrong(place("action.publish"), what);
            }
            // Whoever follows does so to the end of the storm, and a session is renewed three times as often as it must be.
            let left_ms = self.duration_ms - op.at_ms;
            let repeats = match &op.action {
                PlannedAction::Follow { wait_ms, .. } => Some((left_ms, *wait_ms, "action.follow.wait_ms")),
                PlannedAction::Lock(plan) => {
                    let held_ms = plan.patience_ms.saturating_add(plan.hold_ms).min(left_ms);
                    Some((held_ms, plan.ttl_ms / 3, "action.lock.ttl_ms"))
                }
                _ => None,
            };
            if let Some((for_ms, every_ms, field)) = repeats {
                requests = requests.saturating_add(1 + for_ms / every_ms.max(1));
                if requests > most_requests {
                    return wrong(place(field), off_work(every_ms, requests, "requests", most_requests));
                }
            }
            if let PlannedAction::Pair(PairDeed::Set(value) | PairDeed::Swap(value) | PairDeed::Spoil(value))
            | PlannedAction::Put(value)
            | PlannedAction::Cas(value) = &op.action
                && !values.insert(value)
            {
                return wrong(
                    place("action"),
                    format!("{value:?} is written twice, so that a read could not tell by whom"),
                );
            }
        }
        Ok(())
    }
}

fn off_work(given_ms: u64, come_to: u64, what: &str, most: u64) -> String {
    format!("every {given_ms} ms, with what is before {come_to} {what}, want at most {most} in this storm")
}

fn off_protocol(protocol: u8) -> String {
    format!("{protocol}, want 1 to {NEWEST_PROTOCOL}")
}

fn off_rate(rate: u64) -> String {
    format!("{rate}, want {} to {}", RATES_PPM.start(), RATES_PPM.end())
}

/// A part of a scenario as JSON: it is plain data, so there is nothing in it that JSON cannot say.
pub(crate) fn as_json(part: &impl serde::Serialize) -> Value {
    serde_json::to_value(part).unwrap_or(Value::Null)
}

/// Holds every number to what its name promises.
fn walk(place: &str, value: &Value, longest_ms: u64) -> Result<(), Invalid> {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let place = format!("{place}.{name}");
                if let Some(number) = value.as_i64().map(i64::unsigned_abs).or(value.as_u64()) {
                    let most = match name.as_str() {
                        _ if name == "percent" || name.ends_with("_percent") => 100,
                        _ if name.ends_with("per_mille") => 1_000,
                        _ if name.ends_with("_ms") => longest_ms,
                        _ if name.ends_with("_us") => longest_ms.saturating_mul(1_000),
                        _ => u64::MAX,
                    };
                    if number > most {
                        return wrong(place, format!("{number} is more than {most}"));
                    }
                    let highest = name.contains("min").then(|| name.replacen("min", "max", 1));
                    let highest = highest.and_then(|name| fields.get(&name)).and_then(Value::as_u64);
                    if let Some(highest) = highest.filter(|highest| number > *highest) {
                        return wrong(place, format!("{number} is more than the most, {highest}"));
                    }
                }
                walk(&place, value, longest_ms)?;
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                walk(&format!("{place}[{at}]"), item, longest_ms)?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{ClockSetting, DiskFault, Fault, Limits, PlannedOp, Shape, Target};

    fn of(seed: u64) -> Scenario {
        Scenario::generate(seed, &Limits::default())
    }

    #[test]
    fn what_seeds_generate_can_be_run() {
        for seed in 0..300 {
            assert_eq!(of(seed).validate(), Ok(()), "seed {seed}");
        }
    }

    #[test]
    fn what_seeds_generate_is_far_from_what_is_too_much() {
        for seed in 0..300 {
            let duration_s = [None, Some(1), Some(600)][seed as usize % 3];
            let mut plan = Scenario::generate(seed, &Limits { duration_s, ..Limits::default() });
            assert_eq!(plan.validate(), Ok(()), "seed {seed}");
            plan.faults = std::iter::repeat_n(plan.faults, 5).flatten().collect();
            assert_eq!(plan.validate_work(), Ok(()), "seed {seed}");
            let repeats =
                |op: &&PlannedOp| matches!(op.action, PlannedAction::Follow { .. } | PlannedAction::Lock(_));
            let repeated: Vec<PlannedOp> = plan.operations.iter().filter(repeats).cloned().collect();
            plan.operations = std::iter::repeat_n(repeated, 5).flatten().collect();
            assert_eq!(plan.validate_operations(), Ok(()), "seed {seed}");
            assert!(plan.faults.len() as u64 <= FAULTS.of(plan.duration_ms), "seed {seed}");
        }
    }

    #[test]
    fn the_cases_that_are_kept_can_be_run() {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let mut count = 0;
        for folder in ["cases", "mutants"] {
            for entry in std::fs::read_dir(fixtures.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|ending| ending == "json") {
                    crate::saved::SavedCase::load(&path).unwrap();
                    count += 1;
                }
            }
        }
        assert!(count > 50, "{count}");
    }

    #[test]
    fn plans_that_would_take_for_ever_are_refused_by_place() {
        let many = |count: usize, for_ms: u64, kind: FaultKind| {
            move |s: &mut Scenario| {
                s.duration_ms = 60_000;
                s.faults = vec![Fault { at_ms: 5, for_ms, kind }; count];
            }
        };
        let clock = |change| FaultKind::Clock { target: Target::Node(0), change };
        let kill = FaultKind::Kill { target: Target::Node(0) };
        refused(many(8_001, 0, kill), "faults", "8001 of them, want at most 8000 in a storm of 60000 ms");
        let year = ClockChange::Jump(365 * 86_400_000);
        refused(
            many(31, 0, clock(year)),
            "faults[30].kind.clock.change.jump",
            "more than thirty years ahead",
        );
        let storm = |every_ms| FaultKind::RestartStorm { nodes: vec![0, 1], every_ms };
        let place = "faults[0].kind.restart-storm.every_ms";
        refused(many(1, 50_000, storm(1)), place, "50001 restarts, want at most 38000");
        refused(
            many(9, 50_000, storm(10)),
            "faults[7].kind.restart-storm.every_ms",
            "every 10 ms, with what is before",
        );
        let up = |up_ms| FaultKind::CrashLoop { target: Target::Leader, up_ms };
        refused(many(400, 50_000, up(0)), "faults[376].kind.crash-loop.up_ms", "restarts");
        let sine = clock(ClockChange::RateSine { swing_ppm: 5, period_ms: 1 });
        refused(many(6, 50_000, sine), "faults[5].kind.clock.change.rate-sine.period_ms", "changes of rate");
        let walk = clock(ClockChange::RateWalk { step_ppm: 5, every_ms: 1 });
        refused(many(6, 50_000, walk), "faults[5].kind.clock.change.rate-walk.every_ms", "changes of rate");
        let follow = |wait_ms| PlannedAction::Follow { path: "/v1/catalog/nodes".into(), wait_ms };
        let followed = |wait_ms| {
            move |s: &mut Scenario| {
                s.duration_ms = 60_000;
                s.operations.iter_mut().take(3).for_each(|op| op.action = follow(wait_ms));
            }
        };
        refused(followed(1), "operations[1].action.follow.wait_ms", "requests, want at most 110000");
        // Each fault was once reason enough to name one node more.
        refused(|s| s.operations[1].node = 3, "operations[1].node", "no node 3, only 0 to 2");
        let mut joined = of(3);
        (joined.nodes, joined.clocks) = (3, Vec::new());
        (joined.settings.joins, joined.settings.missing) = (Joins::All, None);
        let change = MembershipChange::Add;
        joined.faults = vec![Fault { at_ms: 5, for_ms: 5, kind: FaultKind::Membership { change } }];
        joined.operations.iter_mut().for_each(|op| op.node %= 4);
        assert_eq!(joined.validate(), Ok(()));
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Scenario), place: &str, problem: &str) {
        let mut scenario = of(3);
        scenario.nodes = 3;
        (scenario.settings.joins, scenario.settings.missing) = (Joins::All, None);
        scenario.clocks.clear();
        scenario.faults = vec![Fault {
            at_ms: 5,
            for_ms: 5,
            kind: FaultKind::Loss { percent: 5, links: crate::scenario::Links::All },
        }];
        scenario.operations.iter_mut().for_each(|op| op.node %= 3);
        assert_eq!(scenario.validate(), Ok(()));
        change(&mut scenario);
        let invalid = scenario.validate().unwrap_err();
        assert_eq!(invalid.place, place);
        assert!(invalid.problem.contains(problem), "{invalid}");
    }

    #[test]
    fn impossible_plans_are_refused_by_place() {
        refused(|s| s.version = 7, "version", "this build reads 1 to 2");
        refused(|s| s.version = 0, "version", "this build reads 1 to 2");
        refused(|s| s.settings.protocol = 3, "settings.protocol", "want 1 to 2");
        refused(|s| s.settings.gossip_keys.keys = 9, "settings.gossip_keys.keys", "want at most 2");
        refused(|s| s.settings.knobs.gossip_fanout = 0, "settings.knobs.gossip_fanout", "want 1 to 32");
        refused(|s| s.nodes = 0, "nodes", "want 1 to 64");
        refused(|s| s.nodes = 4_000_000_000, "nodes", "want 1 to 64");
        refused(|s| s.duration_ms = 0, "duration_ms", "want 1 to");
        refused(|s| s.duration_ms = u64::MAX, "duration_ms", "want 1 to");
        refused(|s| s.clocks = vec![ClockSetting::default(); 4], "clocks", "4 of them for 3");
        refused(
            |s| s.clocks = vec![ClockSetting { rate_ppm: 0, ..ClockSetting::default() }],
            "clocks[0].rate_ppm",
            "want 1000",
        );
        refused(|s| s.settings.heartbeat_ms = 0, "settings.heartbeat_ms", "at least 1");
        refused(|s| s.settings.heartbeat_ms = 100_000, "settings.election_timeout_min_ms", "heartbeats");
        refused(|s| s.settings.links.tail_per_mille = 2_000, "settings.links.tail_per_mille", "1000");
        refused(|s| s.settings.disks.sync_min_us = 9_000_000, "settings.disks.sync_min_us", "the most");
        refused(|s| s.settings.disks.sync_min_us = 1 << 30, "settings.disks.sync_min_us", "at most 10000000");
        refused(|s| s.settings.snapshot_chunk_bytes = 1, "settings", "raft.snapshot_chunk_bytes");
        refused(|s| s.faults[0].at_ms = 1 << 40, "faults[0].at_ms", "the storm ends at");
        refused(|s| s.faults[0].for_ms = u64::MAX, "faults[0].for_ms", "past the storm's end");
        refused(|s| s.operations[1].at_ms = 1 << 40, "operations[1].at_ms", "the storm ends at");
        refused(|s| s.operations[1].client = 999, "operations[1].client", "less than 999");
        refused(|s| s.operations[1].node = 9, "operations[1].node", "no node 9");
        refused(|s| s.operations[1].key = "a b".into(), "operations[1].key", "letters");
        let twice = |s: &mut Scenario| {
            s.operations[0].action = PlannedAction::Put("x".into());
            s.operations[1].action = PlannedAction::Cas("x".into());
        };
        refused(twice, "operations[1].action", "written twice");
    }

    #[test]
    fn a_plan_in_which_nobody_waits_for_an_answer_is_refused() {
        let plain = |s: &mut Scenario| {
            (s.settings.links.latency_min_us, s.settings.links.latency_max_us) = (200, 1_000);
            (s.settings.disks.sync_min_us, s.settings.disks.sync_max_us) = (100, 800);
        };
        let waits = |client_ms: u64, request_ms: u64| {
            move |s: &mut Scenario| {
                plain(s);
                (s.settings.client_timeout_ms, s.settings.request_timeout_ms) = (client_ms, request_ms);
            }
        };
        refused(waits(1, 3_000), "settings.client_timeout_ms", "1, want at least 12: an answer may take 10");
        refused(waits(11, 3_000), "settings.client_timeout_ms", "2 syncs of 800 us (disks.sync_max_us)");
        refused(waits(4_000, 1), "settings.request_timeout_ms", "1, want at least 8: an answer may take 6");
        let slow = |s: &mut Scenario| {
            waits(4_000, 3_000)(s);
            s.settings.links.latency_max_us = 10_000_000;
        };
        refused(slow, "settings.request_timeout_ms", "3000, want at least 60002");
        let mut enough = of(3);
        waits(12, 8)(&mut enough);
        assert_eq!(enough.validate(), Ok(()));
    }

    #[test]
    fn impossible_faults_are_refused_by_place() {
        let kind = |kind: FaultKind| move |s: &mut Scenario| s.faults[0].kind = kind;
        refused(
            kind(FaultKind::Loss { percent: 101, links: crate::scenario::Links::All }),
            "faults[0].kind.loss.percent",
            "100",
        );
        refused(
            kind(FaultKind::Delay { min_ms: 9, max_ms: 8, links: crate::scenario::Links::All }),
            "faults[0].kind.delay.min_ms",
            "the most, 8",
        );
        refused(
            kind(FaultKind::Kill { target: Target::Node(3) }),
            "faults[0].kind",
            "no node 3, only 0 to 2",
        );
        let shape = Shape::Split(vec![0, 70_000]);
        refused(kind(FaultKind::Partition { shape }), "faults[0].kind", "no node 70000");
        let bandwidth = FaultKind::Bandwidth { links: crate::scenario::Links::All, bytes_per_s: 0 };
        refused(kind(bandwidth), "faults[0].kind.bandwidth.bytes_per_s", "at least 1");
        let rot =
            |node| FaultKind::Disk { target: Target::Node(node), fault: DiskFault::BitRot { sectors: 1 } };
        refused(
            |s| s.faults = [0, 2].map(|node| Fault { at_ms: 5, for_ms: 5, kind: rot(node) }).into(),
            "faults[0].kind",
            "2 of 3 disks are damaged",
        );
        refused(
            |s| {
                let change = MembershipChange::Leave(1);
                s.faults[0].kind = FaultKind::Membership { change };
                s.faults.push(Fault { at_ms: 5, for_ms: 5, kind: rot(2) });
            },
            "faults[1].kind",
            "come and go",
        );
        refused(
            kind(FaultKind::Disk { target: Target::Leader, fault: DiskFault::BitRot { sectors: 1 } }),
            "faults[0].kind",
            "must be said",
        );
        refused(
            kind(FaultKind::Disk { target: Target::Node(1), fault: DiskFault::LyingSync }),
            "faults[0].kind",
            "beyond repair",
        );
        let outdated =
            DiskFault::MisdirectedRead { reads: 3, after_reads: 0, outdated: true, of: Some(FileKind::Log) };
        refused(
            kind(FaultKind::Disk { target: Target::Node(1), fault: outdated }),
            "faults[0].kind.disk.fault.misdirected-read.of",
            "read twice",
        );
        refused(
            |s| {
                s.client_agents = 1;
                s.faults[0].kind = FaultKind::RemovePeer { node: agents::FIRST, down: false };
            },
            "faults[0].kind",
            "no peer",
        );
        refused(
            kind(FaultKind::SaveSnapshot { node: 3, stale: true }),
            "faults[0].kind",
            "no node 3, only 0 to 2",
        );
        refused(
            |s| {
                s.faults[0].kind = FaultKind::RemovePeer { node: 1, down: true };
                s.faults.push(Fault { at_ms: 5, for_ms: 5, kind: rot(2) });
            },
            "faults[1].kind",
            "come and go",
        );
        let point = "nowhere".to_owned();
        refused(kind(FaultKind::CrashPoint { point, power: true }), "faults[0].kind", "no place named");
        let storm = FaultKind::RestartStorm { nodes: vec![0], every_ms: 0 };
        refused(kind(storm), "faults[0].kind.restart-storm.every_ms", "at least 1");
        let upgrade = FaultKind::Upgrade { node: 0, protocol: 9 };
        refused(kind(upgrade), "faults[0].kind.upgrade.protocol", "want 1 to 2");
        let change = ClockChange::Strobe { delta_ms: 5, period_ms: 0 };
        refused(
            kind(FaultKind::Clock { target: Target::Leader, change }),
            "faults[0].kind.clock.change",
            "at least 1",
        );
        let change = ClockChange::RateSine { swing_ppm: 1_000_000, period_ms: 5 };
        refused(
            kind(FaultKind::Clock { target: Target::Leader, change }),
            "faults[0].kind.clock.change",
            "at most",
        );
        let change = ClockChange::Rate(0);
        refused(
            kind(FaultKind::Clock { target: Target::Leader, change }),
            "faults[0].kind.clock.change.rate",
            "want 1000",
        );
    }
}
