//! The plan's faults on a real cluster: the same kinds, at the same times, as `world::faults` does to a simulated
//! one.

// This is outside the simulation: the real clock is allowed here.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftline::env::hazard::POINTS;
use driftline::env::real::puppet::Happens;
use driftline::state::State;
use hyper::Method;

use super::cluster::{Cluster, RESTART_AFTER, What};
use crate::check::Stop;
use crate::check::saved::Saved;
use crate::fault::scene::cut_off;
use crate::fault::{Effect, Hosts, Rule};
use crate::orders::Came;
use crate::scenario::{
    Away, ClockChange, ClockSetting, Fault, FaultKind, MembershipChange, PlannedAction, Scenario, Shape,
    Target, Traffic,
};

/// How long a node may take to be gone after it agreed to leave.
const LEAVES_WITHIN: Duration = Duration::from_secs(15);

/// How often something that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A clock between these must not lead gossip to a false verdict.
const MILD_RATES: std::ops::RangeInclusive<u64> = 900_000..=1_100_000;

/// Parts of a plan that happen otherwise than planned, or not at all, each with the reason.
pub fn left_out(scenario: &Scenario) -> Vec<String> {
    let mut reasons = BTreeSet::new();
    for fault in &scenario.faults {
        reasons.extend(match fault.kind {
            FaultKind::FsyncFail { .. } => Some("fsync-fail: a real disk fails when it likes"),
            FaultKind::PowerLoss { .. } => {
                Some("power-loss: done as a kill, after which the page cache still holds what was not synced")
            }
            FaultKind::Clock { change, .. } if !at_one_stroke(change) => {
                Some("clock: a clock that swings, wanders or strobes stays as it is")
            }
            FaultKind::Slow { .. } => Some("slow: a process has its processor or not"),
            FaultKind::CrashPoint { power: true, .. } => {
                Some("crash-point: without power done as the end of the process, as for power-loss")
            }
            FaultKind::Disk { .. } => Some("disk: a real disk fails when it likes"),
            FaultKind::Own { .. } => Some("own: a fault of an experiment's knows the simulated world only"),
            _ => None,
        });
    }
    if scenario.operations.iter().any(|op| matches!(op.action, PlannedAction::Own(_))) {
        reasons.insert("own operations: an experiment knows the simulated world only");
    }
    reasons.into_iter().map(str::to_owned).collect()
}

/// The plan as it is replayed: without what has no real counterpart, and with what is done instead.
pub fn as_replayed(scenario: &Scenario) -> Scenario {
    let mut replayed = scenario.clone();
    replayed.operations.retain(|op| !matches!(op.action, PlannedAction::Own(_)));
    let instead = |fault: Fault| -> Vec<Fault> {
        let Fault { at_ms, for_ms, kind } = fault;
        let kinds = match kind {
            FaultKind::FsyncFail { .. }
            | FaultKind::Slow { .. }
            | FaultKind::Disk { .. }
            | FaultKind::Own { .. } => Vec::new(),
            FaultKind::Clock { change, .. } if !at_one_stroke(change) => Vec::new(),
            FaultKind::PowerLoss { nodes } => {
                nodes.into_iter().map(|node| FaultKind::Kill { target: Target::Node(node) }).collect()
            }
            FaultKind::CrashPoint { point, .. } => vec![FaultKind::CrashPoint { point, power: false }],
            kind => vec![kind],
        };
        kinds.into_iter().map(|kind| Fault { at_ms, for_ms, kind }).collect()
    };
    replayed.faults = std::mem::take(&mut replayed.faults).into_iter().flat_map(instead).collect();
    replayed
}

/// Lets a fault happen, and undoes it when its time is over.
pub async fn happen(cluster: Arc<Cluster>, fault: Fault) {
    let duration = Duration::from_millis(fault.for_ms);
    let kind = fault.kind.name();
    let scene = cluster.scene();
    match &fault.kind {
        FaultKind::Partition { shape } => {
            let between_nodes = !matches!(shape, Shape::Clients(_));
            let rules = scene.partition(shape);
            if !rules.is_empty() {
                links(&cluster, kind, rules, between_nodes, duration).await;
            }
        }
        FaultKind::Stall { target } => stall(&cluster, kind, cluster.target(*target), duration).await,
        FaultKind::Loss { .. }
        | FaultKind::Delay { .. }
        | FaultKind::Reorder { .. }
        | FaultKind::Duplicate { .. }
        | FaultKind::Lag { .. }
        | FaultKind::Bandwidth { .. }
        | FaultKind::Clog { .. }
        | FaultKind::BlackHole { .. }
        | FaultKind::Refusal { .. }
        | FaultKind::Corrupt { .. } => {
            if let Some((_, _, rules, harsh)) = scene.trouble(&fault.kind) {
                links(&cluster, kind, rules, harsh, duration).await;
            }
        }
        FaultKind::Vanish { target } => vanish(&cluster, kind, cluster.target(*target), duration).await,
        FaultKind::Kill { target } => {
            crash(&cluster, kind, &[cluster.target(*target)], Stop::Kill, duration).await
        }
        FaultKind::Move { target } => {
            let node = cluster.target(*target);
            if cluster.is_up(node) {
                // Down before it has another address: what it still says comes from where it is.
                cluster.hold_down(node, Instant::now() + duration.max(RESTART_AFTER / 10));
                cluster.take_down(node, Stop::Kill);
                cluster.count(kind);
                let moved = cluster.moves(node).await;
                cluster.note_error(node, "cannot get another address", moved);
                tokio::time::sleep(duration).await;
                cluster.boot_if_due(node);
            }
        }
        FaultKind::CrashPoint { point, .. } => crash_at(&cluster, kind, point, duration).await,
        FaultKind::Hazard { point, per_mille, max_ms } => {
            cluster.count(kind);
            let max_us = max_ms.saturating_mul(1_000);
            let number = cluster.arm(point, Happens::Pauses { per_mille: *per_mille, max_us });
            tokio::time::sleep(duration).await;
            cluster.disarm(number);
        }
        FaultKind::LoseDisk { node } => lose_disk(&cluster, kind, *node, duration).await,
        FaultKind::Upgrade { node, protocol } if cluster.is_up(*node) => {
            cluster.speaks(*node, *protocol);
            crash(&cluster, kind, &[*node], Stop::Kill, duration).await;
        }
        // As far as its process goes; `left_out` says what is missing.
        FaultKind::PowerLoss { nodes } => crash(&cluster, kind, nodes, Stop::Kill, duration).await,
        FaultKind::Clock { target, change } if at_one_stroke(*change) => {
            let node = cluster.target(*target);
            cluster.count(kind);
            let harsh = match change {
                ClockChange::Rate(rate) => !MILD_RATES.contains(rate),
                ClockChange::Jump(_) => true,
                _ => false,
            };
            cluster.disturb(harsh, true);
            cluster.bend(node, |clock| clock.change(Instant::now(), *change));
            if matches!(change, ClockChange::Rate(_)) {
                tokio::time::sleep(duration).await;
                cluster.bend(node, |clock| Some(clock.calm(Instant::now(), false)));
            }
            cluster.disturb(harsh, false);
        }
        FaultKind::Membership { change: MembershipChange::Add } => {
            let node = cluster.next_server();
            if cluster.found(node, ClockSetting::default()).await.is_ok() {
                cluster.count(kind);
                cluster.boot_if_due(node);
            }
        }
        FaultKind::Membership { change: MembershipChange::Leave(node) } => {
            let node = *node;
            let until = Instant::now() + duration;
            // As in simulation: who leaves before a lost server is replaced may take the majority along.
            if !cluster.is_up(node) || !cluster.is_whole() {
                return;
            }
            cluster.count(kind);
            cluster.hold_down(node, until);
            cluster.leaves(node);
            let left = cluster.command(node, Method::PUT, "/v1/agent/leave").await;
            tokio::time::sleep_until(until.into()).await;
            // A node that said it leaves is soon gone; it must not be judged while it is on its way.
            let patience = Instant::now() + LEAVES_WITHIN;
            while left && cluster.is_up(node) && Instant::now() < patience {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            // One that did not manage to leave in time simply stays.
            cluster.boot_if_due(node);
        }
        FaultKind::Transfer => {
            if let Some(leader) = cluster.leader() {
                cluster.count(kind);
                cluster.command(leader, Method::POST, "/v1/operator/raft/transfer-leader").await;
            }
        }
        FaultKind::RemovePeer { node, down } => remove_peer(&cluster, kind, *node, *down, duration).await,
        FaultKind::ForceLeave { node, how, prune } => {
            force_leave(&cluster, &fault, *node, *how, *prune).await;
        }
        FaultKind::SaveSnapshot { node, stale } if cluster.is_up(*node) => {
            cluster.count(kind);
            let least = (!stale).then(|| cluster.furthest());
            if let Some(state) = cluster.orderer(*node).save(*stale, State::default()).await {
                cluster.tell(*node, What::Saved(Saved { state, least }));
            }
        }
        FaultKind::RestartStorm { nodes, every_ms } => {
            let end = Instant::now() + duration;
            let pause = Duration::from_millis(*every_ms).max(RESTART_AFTER / 10);
            for node in nodes.iter().cycle() {
                if Instant::now() >= end {
                    break;
                }
                crash(&cluster, kind, &[*node], Stop::Kill, Duration::ZERO).await;
                tokio::time::sleep(pause).await;
            }
        }
        FaultKind::CrashLoop { target, up_ms } => {
            let node = cluster.target(*target);
            let end = Instant::now() + duration;
            while Instant::now() < end {
                crash(&cluster, kind, &[node], Stop::Kill, Duration::ZERO).await;
                tokio::time::sleep(Duration::from_millis(*up_ms)).await;
            }
        }
        // See `left_out`.
        _ => {}
    }
}

fn at_one_stroke(change: ClockChange) -> bool {
    matches!(change, ClockChange::Rate(_) | ClockChange::Jump(_) | ClockChange::Step(_))
}

/// Puts rules in force for a while.
async fn links(cluster: &Arc<Cluster>, kind: &str, rules: Vec<Rule>, harsh: bool, duration: Duration) {
    cluster.count(kind);
    let numbers: Vec<u64> = rules.into_iter().map(|rule| cluster.links.add(rule)).collect();
    cluster.disturb(harsh, true);
    tokio::time::sleep(duration).await;
    numbers.into_iter().for_each(|number| cluster.links.remove(number));
    cluster.disturb(harsh, false);
}

async fn stall(cluster: &Arc<Cluster>, kind: &str, node: u32, duration: Duration) {
    if !cluster.stall(node, true) {
        return;
    }
    cluster.count(kind);
    let harsh = duration > Duration::from_millis(cluster.scenario.settings.probe_period_ms);
    cluster.disturb(harsh, true);
    tokio::time::sleep(duration).await;
    cluster.stall(node, false);
    cluster.disturb(harsh, false);
}

async fn remove_peer(cluster: &Arc<Cluster>, kind: &str, node: u32, down: bool, duration: Duration) {
    let until = Instant::now() + duration;
    let Some(raft_id) = cluster.order_out(node) else { return };
    cluster.count(kind);
    if down {
        cluster.hold_down(node, until);
        cluster.take_down(node, Stop::Kill);
    }
    let leader = cluster.leader().filter(|leader| !down || *leader != node);
    let Some(asked) = leader.or_else(|| cluster.up_after(node)) else { return };
    let (came, ordered) = cluster.orderer(asked).remove_peer(node, raft_id).await;
    if came == Came::Refused {
        cluster.refused(raft_id);
    }
    if let Some(ordered) = ordered {
        cluster.tell(asked, What::Ordered(ordered));
    }
    tokio::time::sleep_until(until.into()).await;
    cluster.boot_if_due(node);
}

/// As in simulation: a node is away, and declared to have left when somebody holds it for failed, or half of the time is over.
async fn force_leave(cluster: &Arc<Cluster>, fault: &Fault, node: u32, how: Away, prune: bool) {
    let (kind, duration) = (fault.kind.name(), Duration::from_millis(fault.for_ms));
    let is_agent = cluster.scenario.is_agent(node);
    if !cluster.is_up(node) || (!is_agent && cluster.order_out(node).is_none()) {
        return;
    }
    let away = async {
        match how {
            Away::Down => crash(cluster, kind, &[node], Stop::Kill, duration).await,
            Away::Frozen => stall(cluster, kind, node, duration).await,
            Away::Cut => links(cluster, kind, cut_off(node).into(), true, duration).await,
        }
    };
    let declared = async {
        let late = Instant::now() + duration / 2;
        let Some(asked) = cluster.up_after(node) else { return };
        while Instant::now() < late && !cluster.holds_for_failed(asked, node) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        cluster.declared_left(node, (duration / 2).as_nanos() as u64);
        let orderer = cluster.orderer(asked);
        let Some(ordered) = orderer.force_leave(node, prune).await else { return };
        cluster.tell(asked, What::Ordered(ordered));
        if prune && let Some(listed) = orderer.lists_as_gone(node).await {
            cluster.tell(asked, What::Ordered(listed));
        }
    };
    futures_util::future::join(away, declared).await;
}

async fn crash(cluster: &Arc<Cluster>, kind: &str, nodes: &[u32], stop: Stop, duration: Duration) {
    // Not at once: a process that is started while the system still cleans up after the last one finds its ports taken.
    let until = Instant::now() + duration.max(RESTART_AFTER / 10);
    let mut down = false;
    for node in nodes {
        cluster.hold_down(*node, until);
        down |= cluster.take_down(*node, stop);
    }
    if down {
        cluster.count(kind);
    }
    tokio::time::sleep_until(until.into()).await;
    nodes.iter().for_each(|node| cluster.boot_if_due(*node));
}

/// The first node that passes `point` ends there, and is started again like any that ended by itself.
async fn crash_at(cluster: &Arc<Cluster>, kind: &str, point: &str, duration: Duration) {
    let Some(point) = POINTS.iter().find(|known| **known == point) else { return };
    let mut struck = cluster.on_strike(point);
    let number = cluster.arm(point, Happens::Ends);
    let node = tokio::time::timeout(duration, struck.recv()).await;
    cluster.disarm(number);
    if node.is_ok() {
        cluster.count(kind);
    }
}

async fn lose_disk(cluster: &Arc<Cluster>, kind: &str, node: u32, duration: Duration) {
    if !cluster.is_up(node) || !cluster.can_spare(node) {
        return;
    }
    // Its Raft id will not be heard of again, and may be taken out of the configuration.
    cluster.tell(node, What::Leaves);
    cluster.hold_down(node, Instant::now() + duration.max(RESTART_AFTER));
    cluster.take_down(node, Stop::PowerLoss);
    cluster.count(kind);
    let replaced = cluster.replace_disk(node);
    cluster.note_error(node, "its directory cannot be removed", replaced);
    tokio::time::sleep(duration.max(RESTART_AFTER)).await;
    cluster.boot_if_due(node);
}

/// A host goes, and nobody hears of it: what its kernel says in its place is swallowed with everything else.
async fn vanish(cluster: &Arc<Cluster>, kind: &str, node: u32, duration: Duration) {
    let until = Instant::now() + duration.max(RESTART_AFTER);
    cluster.hold_down(node, until);
    let swallow = |traffic| {
        let rule = |from, to| Rule { from, to, effect: Effect::Swallow(traffic) };
        [rule(Hosts::only([node]), Hosts::All), rule(Hosts::All, Hosts::only([node]))]
    };
    let rules = [Traffic::Streams, Traffic::Datagrams].into_iter().flat_map(swallow);
    let numbers: Vec<u64> = rules.map(|rule| cluster.links.add(rule)).collect();
    if cluster.take_down(node, Stop::Kill) {
        cluster.count(kind);
    }
    tokio::time::sleep_until(until.into()).await;
    numbers.into_iter().for_each(|number| cluster.links.remove(number));
    cluster.boot_if_due(node);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Limits;

    #[test]
    fn what_has_no_real_counterpart_is_named_once() {
        let mut scenario = Scenario::generate(1, &Limits { duration_s: Some(2), ..Limits::default() });
        let fault = |kind| Fault { at_ms: 0, for_ms: 1, kind };
        let fails = FaultKind::FsyncFail { target: Target::Leader, syncs: 1, crash_after_ms: None };
        scenario.faults = vec![
            fault(fails.clone()),
            fault(FaultKind::Transfer),
            fault(fails),
            fault(FaultKind::PowerLoss { nodes: vec![1] }),
        ];
        scenario.operations.clear();
        assert!(left_out(&Scenario { faults: Vec::new(), ..scenario.clone() }).is_empty());
        let reasons = left_out(&scenario);
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(reasons[0].starts_with("fsync-fail") && reasons[1].starts_with("power-loss"));

        let replayed = as_replayed(&scenario);
        let killed = FaultKind::Kill { target: Target::Node(1) };
        assert_eq!(replayed.faults, [fault(FaultKind::Transfer), fault(killed)]);
        assert!(left_out(&replayed).is_empty());
    }
}
