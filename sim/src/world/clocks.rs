//! Faults of clocks.

use std::time::Duration;

use super::{MILD_RATES, World};
use crate::bend::{Bend, Course};
use crate::scenario::{ClockChange, Fault, stream};

const MS: u64 = 1_000_000;

impl World {
    /// The clock of a node goes wrong for a while.
    pub(super) async fn bend_clock(&self, fault: &Fault, node: u32, change: ClockChange, duration: Duration) {
        let pump = &self.universe.pump;
        self.begins(fault, &format!("{change:?} on n{node}"));
        let name = format!("clock of node {node} from {} on", fault.at_ms);
        let rng = &mut stream(self.scenario.seed, &name);
        match change {
            ClockChange::Rate(rate) => {
                let harsh = !MILD_RATES.contains(&rate);
                self.disturb(harsh, true);
                pump.set_rate(node, rate);
                self.universe.sleep(duration).await;
                self.usual_rate(node);
                self.disturb(harsh, false);
            }
            ClockChange::Jump(ms) => {
                self.disturb(true, true);
                pump.jump(node, Duration::from_millis(ms));
                self.disturb(true, false);
            }
            ClockChange::Step(ms) => pump.step_wall(node, ms.saturating_mul(MS as i64)),
            ClockChange::RateSine { swing_ppm, period_ms } => {
                let course = Course::Sine { swing_ppm, period_ns: period_ms.saturating_mul(MS) };
                self.steer(node, &course, swing_ppm, duration).await;
            }
            ClockChange::RateWalk { step_ppm, every_ms } => {
                let course = Course::walk(rng, step_ppm, every_ms.saturating_mul(MS));
                self.steer(node, &course, step_ppm.saturating_mul(10), duration).await;
            }
            ClockChange::WallSine { swing_ms, period_ms } => {
                let (swing_ns, period_ns) = (swing_ms.saturating_mul(MS), period_ms.saturating_mul(MS));
                self.bend_wall(node, Bend::Sine { swing_ns, period_ns }, duration).await;
            }
            ClockChange::WallWalk { step_ms, every_ms } => {
                let bend = Bend::walk(rng, step_ms.saturating_mul(MS), every_ms.saturating_mul(MS));
                self.bend_wall(node, bend, duration).await;
            }
            ClockChange::Strobe { delta_ms, period_ms } => {
                let (delta_ns, period_ns) = (delta_ms.saturating_mul(MS), period_ms.saturating_mul(MS));
                self.bend_wall(node, Bend::Strobe { delta_ns, period_ns }, duration).await;
            }
        }
    }

    fn usual_rate(&self, node: u32) {
        let usual = self.scenario.clocks.get(node as usize).copied().unwrap_or_default();
        self.universe.pump.set_rate(node, usual.rate_ppm);
    }

    /// The rate of a clock follows a course, at most `most_ppm` off.
    async fn steer(&self, node: u32, course: &Course, most_ppm: u64, duration: Duration) {
        let harsh = most_ppm > MILD_RATES.end() - 1_000_000;
        self.disturb(harsh, true);
        let began = self.now();
        let end = began.saturating_add(duration.as_nanos() as u64);
        while self.now() < end {
            self.universe.pump.set_rate(node, course.rate_ppm(self.now() - began));
            self.universe.sleep_until(self.now().saturating_add(course.step_ns()).min(end)).await;
        }
        self.usual_rate(node);
        self.disturb(harsh, false);
    }

    /// Gossip does not look at the wall clock, so this is no excuse for it.
    async fn bend_wall(&self, node: u32, bend: Bend, duration: Duration) {
        let number = self.universe.pump.bend_wall(node, bend);
        self.universe.sleep(duration).await;
        self.universe.pump.straighten_wall(node, number);
    }
}
