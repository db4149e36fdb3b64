//! Faults of clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{MILD_RATES, World};
use crate::bend::{Bend, Course};
use crate::scenario::{ClockChange, Fault, stream};

const MS: u64 = 1_000_000;

/// What the faults in force want of the rates of clocks: the latest of them is heard, and when it is over the one before.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// By node and number of the fault.
    wanted: BTreeMap<(u32, u64), u64>,
    /// The last number.
    begun: u64,
}

impl Rates {
    fn want(&mut self, node: u32, number: u64, rate: Option<u64>) {
        match rate {
            Some(rate) => self.wanted.insert((node, number), rate),
            None => self.wanted.remove(&(node, number)),
        };
    }

    /// What the latest fault wants of the clock of a node, if there is one.
    fn of(&self, node: u32) -> Option<u64> {
        self.wanted.range((node, 0)..=(node, u64::MAX)).next_back().map(|(_, rate)| *rate)
    }
}

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
                let number = self.next_rate();
                self.steer_to(node, number, Some(rate));
                self.universe.sleep(duration).await;
                self.steer_to(node, number, None);
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

    /// A number for what a fault does to the rate of a clock.
    fn next_rate(&self) -> u64 {
        let rates = &mut self.state().rates;
        rates.begun += 1;
        rates.begun
    }

    /// A fault wants a clock at this rate, or no longer wants anything of it.
    fn steer_to(&self, node: u32, number: u64, rate: Option<u64>) {
        let usual = self.scenario.clocks.get(node as usize).copied().unwrap_or_default();
        let wanted = {
            let rates = &mut self.state().rates;
            rates.want(node, number, rate);
            rates.of(node)
        };
        self.universe.pump.set_rate(node, wanted.unwrap_or(usual.rate_ppm));
    }

    /// The rate of a clock follows a course, at most `most_ppm` off.
    async fn steer(&self, node: u32, course: &Course, most_ppm: u64, duration: Duration) {
        let harsh = most_ppm > MILD_RATES.end() - 1_000_000;
        self.disturb(harsh, true);
        let number = self.next_rate();
        let began = self.now();
        let end = began.saturating_add(duration.as_nanos() as u64);
        while self.now() < end {
            self.steer_to(node, number, Some(course.rate_ppm(self.now() - began)));
            self.universe.sleep_until(self.now().saturating_add(course.step_ns()).min(end)).await;
        }
        self.steer_to(node, number, None);
        self.disturb(harsh, false);
    }

    /// Gossip does not look at the wall clock, so this is no excuse for it.
    async fn bend_wall(&self, node: u32, bend: Bend, duration: Duration) {
        let number = self.universe.pump.bend_wall(node, bend);
        self.universe.sleep(duration).await;
        self.universe.pump.straighten_wall(node, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_fault_of_a_clock_is_heard_and_then_the_one_before() {
        let mut rates = Rates::default();
        rates.want(1, 1, Some(900_000));
        rates.want(2, 2, Some(800_000));
        rates.want(1, 3, Some(700_000));
        // What goes on while another is heard is not.
        rates.want(1, 1, Some(950_000));
        assert_eq!((rates.of(0), rates.of(1), rates.of(2)), (None, Some(700_000), Some(800_000)));
        rates.want(1, 3, None);
        assert_eq!(rates.of(1), Some(950_000));
        rates.want(1, 1, None);
        assert_eq!((rates.of(1), rates.of(2)), (None, Some(800_000)));
    }
}
