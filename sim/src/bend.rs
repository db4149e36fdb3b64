//! How a clock is wrong over time: functions of the true time since it began to be.
//!
//! In whole numbers only, so that every machine computes the same. What is random in a function is drawn when it is made.
//!
//! Two kinds: a [`Course`] is a rate, for both clocks of a host, and changes in small steps so that the monotonic clock stays
//! piecewise linear and never goes back; a [`Bend`] is an offset of the wall clock, which may jump.

use rand::RngExt;
use rand::rngs::StdRng;

/// A wandering function stays within so many steps of its beginning, and is drawn for so many steps.
const STEPS: i64 = 10;
const DRAWN: usize = 10_000;
/// A swing of a rate is cut into so many pieces.
const PIECES: u64 = 32;

/// The sine of `phase` in whole turns of a million, in millionths. By Bhaskara's formula (7th century), which is off by
/// at most 0.0017.
fn sine(phase: u64) -> i64 {
    const HALF: i128 = 500_000;
    let phase = (phase % 1_000_000) as i128;
    let (at, sign) = if phase < HALF { (phase, 1) } else { (phase - HALF, -1) };
    let p = at * (HALF - at);
    (sign * 16 * p * 1_000_000 / (5 * HALF * HALF - 4 * p)) as i64
}

/// The phase of a swing, in millionths of a turn.
fn phase(since_ns: u64, period_ns: u64) -> u64 {
    let within = since_ns % period_ns.max(1);
    (u128::from(within) * 1_000_000 / u128::from(period_ns.max(1))) as u64
}

/// Where a wanderer is after each step, in steps.
fn walk(rng: &mut StdRng) -> Vec<i64> {
    let mut at = 0i64;
    let step = |_| {
        at = (at + if rng.random_bool(0.5) { 1 } else { -1 }).clamp(-STEPS, STEPS);
        at
    };
    (0..DRAWN).map(step).collect()
}

fn stands_at(walk: &[i64], since_ns: u64, every_ns: u64) -> i64 {
    let steps = since_ns / every_ns.max(1);
    // Who wanders for longer than was drawn takes the same way again.
    usize::try_from(steps).ok().map_or(0, |steps| walk[steps % walk.len().max(1)])
}

/// A rate as a function of true time.
#[derive(Clone, Debug)]
pub enum Course {
    /// It swings evenly.
    Sine {
        /// How far, in millionths.
        swing_ppm: u64,
        /// How long a swing takes.
        period_ns: u64,
    },
    /// It wanders.
    Walk {
        /// How long a step is, in millionths.
        step_ppm: u64,
        /// How long it is until the next.
        every_ns: u64,
        /// Where it is after each.
        walk: Vec<i64>,
    },
}

impl Course {
    /// It wanders as `rng` has it.
    pub fn walk(rng: &mut StdRng, step_ppm: u64, every_ns: u64) -> Course {
        Course::Walk { step_ppm, every_ns, walk: walk(rng) }
    }

    /// How often it changes.
    pub fn step_ns(&self) -> u64 {
        match self {
            Course::Sine { period_ns, .. } => (period_ns / PIECES).max(1_000_000),
            Course::Walk { every_ns, .. } => (*every_ns).max(1_000_000),
        }
    }

    /// The rate, in millionths of true time.
    pub fn rate_ppm(&self, since_ns: u64) -> u64 {
        let off = match self {
            Course::Sine { swing_ppm, period_ns } => {
                *swing_ppm as i64 * sine(phase(since_ns, *period_ns)) / 1_000_000
            }
            Course::Walk { step_ppm, every_ns, walk } => {
                *step_ppm as i64 * stands_at(walk, since_ns, *every_ns)
            }
        };
        // Never so slow that it all but stands.
        (1_000_000 + off).max(50_000) as u64
    }
}

/// An offset of a wall clock as a function of true time.
#[derive(Clone, Debug)]
pub enum Bend {
    /// It swings evenly.
    Sine {
        /// How far.
        swing_ns: u64,
        /// How long a swing takes.
        period_ns: u64,
    },
    /// It wanders.
    Walk {
        /// How long a step is.
        step_ns: u64,
        /// How long it is until the next.
        every_ns: u64,
        /// Where it is after each.
        walk: Vec<i64>,
    },
    /// It jumps to and fro.
    Strobe {
        /// How far.
        delta_ns: u64,
        /// How long it stays.
        period_ns: u64,
    },
}

impl Bend {
    /// It wanders as `rng` has it.
    pub fn walk(rng: &mut StdRng, step_ns: u64, every_ns: u64) -> Bend {
        Bend::Walk { step_ns, every_ns, walk: walk(rng) }
    }

    /// How far the clock is off, in nanoseconds.
    pub fn offset_ns(&self, since_ns: u64) -> i128 {
        match self {
            Bend::Sine { swing_ns, period_ns } => {
                i128::from(*swing_ns) * i128::from(sine(phase(since_ns, *period_ns))) / 1_000_000
            }
            Bend::Walk { step_ns, every_ns, walk } => {
                i128::from(*step_ns) * i128::from(stands_at(walk, since_ns, *every_ns))
            }
            Bend::Strobe { delta_ns, period_ns } => {
                i128::from(*delta_ns) * i128::from(since_ns / (*period_ns).max(1) % 2)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::stream;
    use proptest::prelude::*;

    #[test]
    fn the_sine_is_a_sine() {
        for phase in (0..2_000_000).step_by(1_237) {
            let exact = (phase as f64 / 1e6 * std::f64::consts::TAU).sin();
            assert!((sine(phase) as f64 / 1e6 - exact).abs() < 0.0017, "at {phase}");
        }
        assert_eq!([0, 250_000, 500_000, 750_000].map(sine), [0, 1_000_000, 0, -1_000_000]);
    }

    #[test]
    fn a_strobe_shows_two_times_in_turn() {
        let strobe = Bend::Strobe { delta_ns: 70, period_ns: 10 };
        assert_eq!([0, 9, 10, 19, 20, 35].map(|at| strobe.offset_ns(at)), [0, 0, 70, 70, 0, 70]);
    }

    proptest! {
        #[test]
        fn a_rate_stays_about_the_right_one_and_no_clock_stands_still(
            seed in any::<u64>(), swing_ppm in 0u64..=900_000, step_ppm in 0u64..=900_000, at in any::<u64>(),
        ) {
            let sine = Course::Sine { swing_ppm, period_ns: 7_000_000 };
            let walk = Course::walk(&mut stream(seed, "test"), step_ppm, 3_000_000);
            prop_assert!(sine.rate_ppm(at).abs_diff(1_000_000) <= swing_ppm);
            prop_assert!(walk.rate_ppm(at).abs_diff(1_000_000) <= 10 * step_ppm);
            prop_assert!(sine.rate_ppm(at) >= 50_000 && walk.rate_ppm(at) >= 50_000);
        }

        #[test]
        fn an_offset_keeps_its_bounds_and_a_wanderer_takes_one_step_at_a_time(
            seed in any::<u64>(), step in 0u64..1_000_000, at in 0u64..1_000_000_000,
        ) {
            let walk = Bend::walk(&mut stream(seed, "test"), step, 1_000);
            let (here, next) = (walk.offset_ns(at), walk.offset_ns(at + 1_000));
            prop_assert!(here.abs() <= 10 * i128::from(step));
            // Where the way begins anew it may jump.
            if at / 1_000 % 10_000 != 9_999 {
                prop_assert!((here - next).abs() <= i128::from(step));
            }
            let sine = Bend::Sine { swing_ns: step, period_ns: 12_345 };
            prop_assert!(sine.offset_ns(at).abs() <= i128::from(step));
        }
    }
}
