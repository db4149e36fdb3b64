//! What the storm does: each kind of fault, applied at a seam, told to the trace and counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::Method;
use tokio::sync::mpsc;

use super::{LEAVES_WITHIN, LOOK_EVERY, World};
use crate::check::{self, Stop};
use crate::disk::Wrong;
use crate::experiment::Hands;
use crate::fault::Rule;
use crate::fault::scene::Scene;
use crate::record::Happening;
use crate::scenario::nodes::node_name;
use crate::scenario::{ClockSetting, Fault, FaultKind, MembershipChange, Shape, agents};
use crate::trace::WORLD;

impl World {
    /// A fault that may make gossip err touches everybody: rumours travel. A mild one does not count:
    /// probes through others and the time to object are there to get over it.
    pub(super) fn disturb(&self, harsh: bool, begins: bool) {
        if !harsh {
            return;
        }
        {
            let harsh = &mut self.state().harsh;
            *harsh = if begins { *harsh + 1 } else { harsh.saturating_sub(1) };
        }
        for node in self.machines().into_keys() {
            let event = if begins { check::Event::FaultBegan } else { check::Event::FaultEnded };
            self.watch.tell(self.now(), node, event);
        }
    }

    /// A fault has struck: from now on it counts, and is in force until its course ends.
    pub(super) fn begins(&self, fault: &Fault, what: &str) {
        let kind = fault.kind.name();
        self.universe.pump.note(WORLD, "fault", format!("{kind} for {} ms: {what}", fault.for_ms));
        self.universe.pump.tell(WORLD, Happening::FaultBegan { fault, what });
        let mut state = self.state();
        *state.happened.entry(kind.to_owned()).or_default() += 1;
        *state.under_way.entry((fault.at_ms, kind)).or_default() += 1;
        drop(state);
        self.watch.tell(self.now(), WORLD, check::Event::Fault { kind, begins: true });
    }

    /// A fault takes its course. The heal ends those that the storm's end cuts short.
    pub(super) async fn happen(self: Arc<World>, fault: Fault) {
        let mut course = Course::new(&self, &fault);
        self.clone().strike(&fault).await;
        if course.ends() {
            let text = format!("{} planned for {} ms", fault.kind.name(), fault.at_ms);
            self.universe.pump.note(WORLD, "fault-over", text);
        }
    }

    async fn strike(self: Arc<World>, fault: &Fault) {
        let duration = Duration::from_millis(fault.for_ms);
        match &fault.kind {
            FaultKind::Partition { shape } => {
                let rules = self.scene().partition(shape);
                // In a cluster that has shrunk there may be nobody on one of the sides.
                if rules.is_empty() {
                    return;
                }
                self.begins(fault, &format!("{shape:?}"));
                let between_nodes = !matches!(shape, Shape::Clients(_));
                self.links(rules, between_nodes, duration).await;
            }
            FaultKind::Stall { target } => self.stall(fault, self.target(*target), duration).await,
            FaultKind::Kill { target } => {
                self.crash(fault, &[self.target(*target)], Stop::Kill, duration).await;
            }
            FaultKind::PowerLoss { nodes } => self.crash(fault, nodes, Stop::PowerLoss, duration).await,
            FaultKind::Vanish { target } => {
                self.crash(fault, &[self.target(*target)], Stop::Vanish, duration).await;
            }
            FaultKind::Move { target } => {
                let node = self.target(*target);
                let before = self.state().addresses.get(&node).copied().unwrap_or(node);
                if self.machine(node).is_some_and(|machine| machine.is_running()) {
                    // Near the first ones, so that it is likely to get what another has given up.
                    let first = if before < self.scenario.nodes { before + 1 } else { 0 };
                    self.give_address(node, first);
                    self.crash(fault, &[node], Stop::Kill, duration).await;
                }
            }
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
                let Some((effect, links, rules, harsh)) = self.scene().trouble(&fault.kind) else { return };
                self.begins(fault, &format!("{effect:?} on {links:?}"));
                self.links(rules, harsh, duration).await;
            }
            FaultKind::Clock { target, change } => {
                self.bend_clock(fault, self.target(*target), *change, duration).await;
            }
            FaultKind::FsyncFail { target, syncs, crash_after_ms } => {
                self.fail_syncs(fault, self.target(*target), *syncs, *crash_after_ms).await;
            }
            FaultKind::Disk { target, fault: what } => {
                self.wrong_disk(fault, self.target(*target), *what).await;
            }
            FaultKind::Slow { .. }
            | FaultKind::RestartStorm { .. }
            | FaultKind::CrashLoop { .. }
            | FaultKind::CrashPoint { .. }
            | FaultKind::Hazard { .. }
            | FaultKind::LoseDisk { .. }
            | FaultKind::Upgrade { .. } => self.harass(fault, duration).await,
            FaultKind::Membership { change } => self.change_members(fault, *change, duration).await,
            FaultKind::RemovePeer { node, down } => self.remove_peer(fault, *node, *down, duration).await,
            FaultKind::ForceLeave { node, how, prune } => {
                self.force_leave(fault, *node, *how, *prune, duration).await;
            }
            FaultKind::SaveSnapshot { node, stale } => self.save_snapshot(fault, *node, *stale).await,
            FaultKind::Own { detail } => {
                self.begins(fault, &detail.to_string());
                self.disturb(true, true);
                self.experiment.strike(&Grip(self.clone()), detail, duration).await;
                self.disturb(true, false);
            }
            FaultKind::Transfer => {
                if let Some(leader) = self.leader() {
                    self.begins(fault, &format!("from n{leader}"));
                    self.command(leader, Method::POST, "/v1/operator/raft/transfer-leader").await;
                }
            }
        }
    }

    /// What a fault finds now.
    pub(super) fn scene(&self) -> Scene {
        Scene {
            nodes: self.machines().into_keys().collect(),
            clients: self.clients_hosts.clone(),
            leader: self.leader().unwrap_or(0),
            now_ns: self.now(),
            probe_period_ms: self.scenario.settings.probe_period_ms,
        }
    }

    /// Puts rules in force for a while.
    pub(super) async fn links(&self, rules: Vec<Rule>, harsh: bool, duration: Duration) {
        let numbers: Vec<u64> = rules.into_iter().map(|rule| self.universe.net.add_rule(rule)).collect();
        self.disturb(harsh, true);
        self.universe.sleep(duration).await;
        for number in numbers {
            self.universe.net.remove_rule(number);
        }
        self.disturb(harsh, false);
    }

    pub(super) async fn stall(&self, fault: &Fault, node: u32, duration: Duration) {
        let Some(machine) = self.machine(node).filter(|machine| machine.is_running()) else { return };
        self.begins(fault, &node_name(node));
        *self.state().stalls.entry(node).or_default() += 1;
        machine.stall();
        let harsh = fault.for_ms > self.scenario.settings.probe_period_ms;
        self.disturb(harsh, true);
        self.universe.sleep(duration).await;
        let last = {
            let mut state = self.state();
            let stalls = state.stalls.entry(node).or_default();
            *stalls = stalls.saturating_sub(1);
            *stalls == 0
        };
        if last {
            machine.resume();
        }
        self.disturb(harsh, false);
    }

    pub(super) async fn crash(
        self: &Arc<World>,
        fault: &Fault,
        nodes: &[u32],
        stop: Stop,
        duration: Duration,
    ) {
        let until = self.now().saturating_add(duration.as_nanos() as u64);
        let mut down = Vec::new();
        for node in nodes {
            self.hold_down(*node, until);
            if self.take_down(*node, stop) {
                down.push(*node);
            }
        }
        if !down.is_empty() {
            self.begins(fault, &down.iter().map(|node| node_name(*node)).collect::<Vec<_>>().join(" "));
        }
        self.universe.sleep_until(until).await;
        for node in nodes {
            self.boot_if_due(*node);
        }
    }

    async fn fail_syncs(
        self: &Arc<World>,
        fault: &Fault,
        node: u32,
        syncs: u32,
        crash_after_ms: Option<u64>,
    ) {
        let Some(machine) = self.machine(node).filter(|machine| machine.is_running()) else { return };
        let until = self.now().saturating_add(fault.for_ms.saturating_mul(1_000_000));
        let (told, mut struck) = mpsc::unbounded_channel();
        // In force until it strikes, or the heal.
        let wrong = Wrong { failing_syncs: syncs, ..Wrong::default() };
        machine.disk.add_trouble(wrong, Some(told));
        if struck.recv().await.is_none() {
            return;
        }
        self.begins(fault, &format!("{syncs} on n{node}"));
        let Some(crash_after_ms) = crash_after_ms.filter(|_| self.now() < until) else { return };
        self.universe.sleep(Duration::from_millis(crash_after_ms)).await;
        self.restart(node, Stop::Kill).await;
    }

    async fn change_members(self: &Arc<World>, fault: &Fault, change: MembershipChange, duration: Duration) {
        match change {
            MembershipChange::Add => {
                let mut servers = self.machines().into_keys().filter(|node| *node < agents::FIRST);
                let node = servers.next_back().map_or(0, |last| last + 1);
                self.begins(fault, &format!("n{node} joins"));
                self.found_host(node, ClockSetting::default());
                self.boot(node);
            }
            MembershipChange::Leave(node) => {
                let until = self.now().saturating_add(duration.as_nanos() as u64);
                // Who leaves before a lost server is replaced may take the majority along that could replace it: an operator's
                // mistake, and not a fault.
                if !self.machine(node).is_some_and(|machine| machine.is_running()) || !self.is_whole() {
                    return;
                }
                self.begins(fault, &format!("n{node} leaves"));
                self.watch.tell(self.now(), node, check::Event::Leaves);
                self.hold_down(node, until);
                {
                    let mut state = self.state();
                    state.leaving.insert(node);
                    state.left_ns.push((node, self.now()));
                }
                let left = self.command(node, Method::PUT, "/v1/agent/leave").await;
                self.universe.sleep_until(until).await;
                // A node that said it leaves is soon gone; it must not be judged while it is on its way.
                let patience = self.now() + LEAVES_WITHIN.as_nanos() as u64;
                while left
                    && self.now() < patience
                    && self.machine(node).is_some_and(|machine| machine.is_running())
                {
                    self.universe.sleep(LOOK_EVERY).await;
                }
                // One that did not manage to leave in time simply stays.
                self.boot_if_due(node);
            }
        }
    }

    /// Has a node do something, from a host that nothing happens to. Whether it agreed to.
    async fn command(&self, node: u32, method: Method, path: &str) -> bool {
        let Some(env) = self.own.get() else { return false };
        self.clients.call(env, node, method, path, Bytes::new()).await.is_ok()
    }
}

/// The course of a fault, from when it may strike on. It tells the checks that the fault is no longer in force, if it ever was: also when
/// the storm's end cuts it short.
struct Course {
    world: Arc<World>,
    at_ms: u64,
    kind: &'static str,
    over: bool,
}

impl Course {
    fn new(world: &Arc<World>, fault: &Fault) -> Course {
        Course { world: world.clone(), at_ms: fault.at_ms, kind: fault.kind.name(), over: false }
    }

    /// Ends it; whether the fault ever began.
    fn ends(&mut self) -> bool {
        if std::mem::replace(&mut self.over, true) {
            return false;
        }
        let mut state = self.world.state();
        let began = state.under_way.get_mut(&(self.at_ms, self.kind)).filter(|under_way| **under_way > 0);
        let began = began.map(|under_way| *under_way -= 1).is_some();
        drop(state);
        if began {
            let event = check::Event::Fault { kind: self.kind, begins: false };
            self.world.watch.tell(self.world.now(), WORLD, event);
        }
        began
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        self.ends();
    }
}

/// What a fault of an experiment's own takes hold of the world with.
struct Grip(Arc<World>);

impl Hands for Grip {
    fn nodes(&self) -> Vec<u32> {
        self.0.machines().into_keys().collect()
    }

    fn leader(&self) -> Option<u32> {
        self.0.leader()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.0.universe.sleep(duration))
    }

    fn rule(&self, rule: Rule) -> u64 {
        self.0.universe.net.add_rule(rule)
    }

    fn lift(&self, rule: u64) {
        self.0.universe.net.remove_rule(rule);
    }

    fn stop(&self, node: u32, stop: Stop) -> bool {
        // Until it is booted, or until the heal.
        self.0.state().down_until.insert(node, u64::MAX);
        self.0.take_down(node, stop)
    }

    fn boot(&self, node: u32) {
        self.0.state().down_until.remove(&node);
        self.0.boot_if_due(node);
    }
}
