//! What the clock of a host shows while processes come and go on it: a process that is started again finds it as
//! it would have become meanwhile.

use std::time::{Duration, Instant};

use driftline::env::real::puppet::{Pull, Shown};

use crate::scenario::{ClockChange, ClockSetting};

const MS: u64 = 1_000_000;

/// A host's clock.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    since: Instant,
    shown: Shown,
    usual_ppm: u64,
}

impl HostClock {
    /// A clock as a scenario begins with it; `wall` is what the right one shows.
    pub fn new(now: Instant, wall: Duration, setting: &ClockSetting) -> HostClock {
        let own_ns = setting.start_ms.saturating_mul(MS);
        let wall_ns = i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX);
        let ahead = setting.wall_offset_ms.saturating_mul(MS as i64);
        let shown =
            Shown { own_ns, wall_ahead_ns: wall_ns.saturating_add(ahead), rate_ppm: setting.rate_ppm };
        HostClock { since: now, shown, usual_ppm: setting.rate_ppm }
    }

    /// What it shows now.
    pub fn shown(&self, now: Instant) -> Shown {
        let true_ns = now.saturating_duration_since(self.since).as_nanos();
        let ran = true_ns * u128::from(self.shown.rate_ppm) / 1_000_000;
        let own_ns = self.shown.own_ns.saturating_add(u64::try_from(ran).unwrap_or(u64::MAX));
        Shown { own_ns, ..self.shown }
    }

    /// Goes wrong, and gives back what a running process is to be told. `None`: not at one stroke.
    pub fn change(&mut self, now: Instant, change: ClockChange) -> Option<Pull> {
        let pull = match change {
            ClockChange::Rate(ppm) => Pull::Rate(ppm),
            ClockChange::Jump(ms) => Pull::Jump(ms.saturating_mul(MS)),
            ClockChange::Step(ms) => Pull::Step(ms.saturating_mul(MS as i64)),
            _ => return None,
        };
        self.pull(now, &pull);
        Some(pull)
    }

    /// Runs as fast as at the beginning again, or as true time does.
    pub fn calm(&mut self, now: Instant, right: bool) -> Pull {
        let pull = Pull::Rate(if right { 1_000_000 } else { self.usual_ppm });
        self.pull(now, &pull);
        pull
    }

    fn pull(&mut self, now: Instant, pull: &Pull) {
        let mut shown = self.shown(now);
        match pull {
            Pull::Rate(ppm) => shown.rate_ppm = *ppm,
            Pull::Jump(ns) => shown.own_ns = shown.own_ns.saturating_add(*ns),
            Pull::Step(ns) => shown.wall_ahead_ns = shown.wall_ahead_ns.saturating_add(*ns),
            // Not the clock's.
            Pull::Place(..) => {}
        }
        (self.since, self.shown) = (now, shown);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_while_no_process_looks() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let setting = ClockSetting { rate_ppm: 2_000_000, start_ms: 5, wall_offset_ms: -3 };
        let mut clock = HostClock::new(begin, Duration::from_millis(1_000), &setting);
        assert_eq!(clock.shown(at(10)).own_ns, 25 * MS);
        assert_eq!(clock.shown(at(10)).wall_ahead_ns, 997 * MS as i64);
        assert_eq!(clock.change(at(10), ClockChange::Rate(500_000)), Some(Pull::Rate(500_000)));
        assert_eq!(clock.shown(at(20)).own_ns, 30 * MS);
        clock.change(at(20), ClockChange::Jump(4));
        assert_eq!(clock.calm(at(20), false), Pull::Rate(2_000_000));
        assert_eq!(clock.shown(at(21)).own_ns, 36 * MS);
        assert_eq!(clock.calm(at(21), true), Pull::Rate(1_000_000));
        clock.change(at(21), ClockChange::Step(-7));
        assert_eq!(clock.shown(at(21)).wall_ahead_ns, 990 * MS as i64);
        let strobe = ClockChange::Strobe { delta_ms: 5, period_ms: 5 };
        assert_eq!(clock.change(at(21), strobe), None);
    }
}
