//! Faults of processes, processors and whole hosts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::World;
use crate::check::{self, Stop};
use crate::hazard::Effect;
use crate::scenario::nodes::node_name;
use crate::scenario::{Fault, FaultKind};
use crate::trace::WORLD;

impl World {
    /// A fault of this family.
    pub(super) async fn harass(self: &Arc<World>, fault: &Fault, duration: Duration) {
        match &fault.kind {
            FaultKind::Slow { target, step_us } => {
                let node = self.target(*target);
                let Some(machine) = self.machine(node) else { return };
                self.begins(fault, &format!("n{node}, {step_us} us a step"));
                let number = machine.processor.slow_down(step_us.saturating_mul(1_000));
                self.disturb(true, true);
                self.universe.sleep(duration).await;
                machine.processor.speed_up(number);
                self.disturb(true, false);
            }
            FaultKind::RestartStorm { nodes, every_ms } => {
                let names: Vec<_> = nodes.iter().map(|node| node_name(*node)).collect();
                self.begins(fault, &format!("{} every {every_ms} ms", names.join(" ")));
                self.restart_in_turn(nodes, Duration::from_millis(*every_ms), duration).await;
            }
            FaultKind::CrashLoop { target, up_ms } => {
                let node = self.target(*target);
                self.begins(fault, &format!("{} after {up_ms} ms", node_name(node)));
                self.crash_again_and_again(node, Duration::from_millis(*up_ms), duration).await;
            }
            FaultKind::CrashPoint { point, power } => {
                let stop = if *power { Stop::PowerLoss } else { Stop::Kill };
                self.crash_at(fault, point, stop, duration).await;
            }
            FaultKind::Hazard { point, per_mille, max_ms } => {
                self.begins(fault, &format!("{per_mille} in 1000 times up to {max_ms} ms at {point:?}"));
                let effect = Effect::Pause { per_mille: *per_mille, max_us: max_ms.saturating_mul(1_000) };
                let number = self.universe.hazards().add(point, effect);
                self.universe.sleep(duration).await;
                self.universe.hazards().remove(number);
            }
            FaultKind::LoseDisk { node } => self.lose_disk(fault, *node, duration).await,
            FaultKind::Upgrade { node, protocol }
                if self.machine(*node).is_some_and(|machine| machine.is_running()) =>
            {
                self.state().protocols.insert(*node, *protocol);
                let text = format!("{} will speak version {protocol}", node_name(*node));
                self.universe.pump.note(WORLD, "upgrade", text);
                self.crash(fault, &[*node], Stop::Kill, duration).await;
            }
            _ => {}
        }
    }

    async fn restart_in_turn(self: &Arc<World>, nodes: &[u32], every: Duration, duration: Duration) {
        let until = self.now().saturating_add(duration.as_nanos() as u64);
        for node in nodes.iter().cycle() {
            if self.take_down(*node, Stop::Kill) {
                self.boot_if_due(*node);
            }
            let next = self.now().saturating_add(every.as_nanos() as u64);
            if next >= until {
                break;
            }
            self.universe.sleep_until(next).await;
        }
    }

    async fn crash_again_and_again(self: &Arc<World>, node: u32, up: Duration, duration: Duration) {
        let until = self.now().saturating_add(duration.as_nanos() as u64);
        while self.now() < until {
            self.universe.sleep(up).await;
            self.restart(node, Stop::Kill).await;
        }
    }

    /// The first node that passes `point` crashes there.
    async fn crash_at(self: &Arc<World>, fault: &Fault, point: &str, stop: Stop, duration: Duration) {
        let (told, mut heard) = mpsc::unbounded_channel();
        let number = self.universe.hazards().add(point, Effect::Strike(told));
        let struck = tokio::select! {
            biased;
            struck = heard.recv() => struck,
            () = self.universe.sleep(duration) => None,
        };
        self.universe.hazards().remove(number);
        let Some(node) = struck else { return };
        self.begins(fault, &format!("{} at {point:?}", node_name(node)));
        self.restart(node, stop).await;
    }

    async fn lose_disk(self: &Arc<World>, fault: &Fault, node: u32, duration: Duration) {
        let Some(machine) = self.machine(node).filter(|machine| machine.is_running()) else { return };
        if !self.can_spare(node) {
            return;
        }
        // Its Raft id will not be heard of again, and may be taken out of the configuration.
        self.watch.tell(self.now(), node, check::Event::Leaves);
        let until = self.now().saturating_add(duration.as_nanos() as u64);
        self.hold_down(node, until);
        self.state().lost.insert(node);
        self.begins(fault, &node_name(node));
        self.take_down(node, Stop::PowerLoss);
        self.watch.roster().lost(node);
        machine.disk.replace();
        self.universe.sleep_until(until).await;
        self.boot_if_due(node);
    }

    /// Whether every voter is a node that still has its disk.
    pub(super) fn is_whole(&self) -> bool {
        self.watch.roster().is_whole()
    }

    /// Whether the cluster can get over the loss of this node's disk, and nobody is about to leave.
    fn can_spare(&self, node: u32) -> bool {
        self.watch.roster().can_spare(node) && self.state().leaving.is_empty()
    }
}
