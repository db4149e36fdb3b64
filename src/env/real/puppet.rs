//! A real node that the testbed holds by strings: everything is real, but its clock can be bent, it can be made to pause or
//! to end at a named place of its code, its connections leave from an address that tells who it is, what it observes and
//! claims is told, and it ends when the testbed does.
//! Only in a build with the feature `testbed`, which no production build has.
//!
//! The strings are standard input, one JSON object a line. The first is a [`Start`]; [`env()`] waits for it. Each
//! later one is a [`Pull`], done at once. The end of the input ends the process: however the testbed died, no node
//! is left behind. A line that makes no sense ends it too, with exit code 2.
//!
//! What the node observes and claims goes to standard output, one [`Told`] a line, beside the line that says where it
//! listens. A claim is told the first time that it holds and the first time that it does not. Each line carries the system's time, which all processes of one machine share, and which no string bends.
//!
//! Left out: the disk. What a real disk does when power fails is not for a process to say.

#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Mono, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{RealClock, RealDisk, RealNetwork, TokioExecutor, system_entropy};
use crate::env::assertion::Assertion;
use crate::env::hazard::POINTS;
use crate::env::observe::NoObserver;
use crate::env::{Clock, Env, Instant, MemoryDisk, Observed, Observer};

/// How the node begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Where its connections come from.
    pub source: IpAddr,
    /// The bug to put back.
    pub mutant: Option<String>,
    /// What its clock shows.
    pub clock: Shown,
}

/// What a clock shows at this moment, and how it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// The monotonic clock.
    pub own_ns: u64,
    /// How far the wall clock is ahead of the monotonic one.
    pub wall_ahead_ns: i64,
    /// How fast both run, in millionths of true time.
    pub rate_ppm: u64,
}

/// What is done to a running node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Pull {
    /// Both clocks run at so many millionths of true time from now on.
    Rate(u64),
    /// Both clocks jump ahead by so many nanoseconds.
    Jump(u64),
    /// The wall clock jumps by so many nanoseconds, either way.
    Step(i64),
    /// This happens at a place from now on, one of [`POINTS`].
    Place(String, Happens),
}

/// What happens at a place of the code, whenever the node comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Happens {
    /// Nothing.
    Nothing,
    /// The process ends, with the exit code [`struck`] of the place.
    Ends,
    /// It waits there.
    Pauses {
        /// How many in a thousand times.
        per_mille: u32,
        /// How long at most, in microseconds.
        max_us: u64,
    },
}

/// The exit code of a process that ends at the place of this number in [`POINTS`]. Nothing else ends with one of these.
pub fn struck(place: usize) -> i32 {
    i32::try_from(place).map_or(FIRST_STRUCK, |place| FIRST_STRUCK + place)
}

/// The place at which a process ended that ended with this exit code, if it was told to.
pub fn struck_at(exit_code: i32) -> Option<&'static str> {
    let place = usize::try_from(exit_code.checked_sub(FIRST_STRUCK)?).ok()?;
    POINTS.get(place).copied()
}

/// Far from the exit codes of the program, and from those that stand for signals in a shell.
const FIRST_STRUCK: i32 = 80;

/// Something that the node has to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// When, in nanoseconds since 1970 by the system's clock.
    pub at_ns: u64,
    /// What.
    pub what: Word,
}

/// What a node tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Word {
    /// Something that it observed.
    Observed(Observed),
    /// A claim that its code makes of itself, and whether it holds.
    Claimed(String, bool),
}

/// Waits for the [`Start`], and gives a world that obeys the strings, with the bug that is to be put back.
///
/// # Errors
/// The system's, when directory, input or randomness cannot be had; and what is wrong with the first line.
pub fn env(directory: &Path) -> io::Result<(Env, Option<String>)> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let start: Start = serde_json::from_str(&line)?;
    let clock = BentClock::new(start.clock);
    let teller = Arc::new(Teller::default());
    let (bends, places) = (clock.bends.clone(), teller.clone());
    std::thread::Builder::new().name("strings".to_owned()).spawn(move || obey(&bends, &places))?;
    let env = Env::new(
        Arc::new(clock),
        Arc::new(RealNetwork { source: Some(start.source), ..RealNetwork::default() }),
        Arc::new(RealDisk::open(directory)?),
        Arc::new(TokioExecutor),
        teller,
        0,
    )
    .with_entropy(system_entropy()?);
    Ok((env, start.mutant))
}

/// A real world for whoever asks real nodes: nothing bent, files in memory, connections from `source`.
pub fn caller(source: IpAddr, seed: u64) -> Env {
    Env::new(
        Arc::new(RealClock { start: Mono::now() }),
        Arc::new(RealNetwork { source: Some(source), ..RealNetwork::default() }),
        Arc::new(MemoryDisk::default()),
        Arc::new(TokioExecutor),
        Arc::new(NoObserver),
        seed,
    )
}

/// Does what each line says, until there is none any more.
fn obey(bends: &watch::Sender<Bend>, teller: &Teller) {
    for line in io::stdin().lock().lines() {
        let pull = line.and_then(|line| serde_json::from_str::<Pull>(&line).map_err(io::Error::from));
        match pull {
            Ok(Pull::Place(place, happens)) => drop(teller.places().insert(place, happens)),
            Ok(pull) => bends.send_modify(|bend| *bend = bend.pulled(Mono::now(), pull)),
            Err(error) => {
                // Nobody may be there to read it.
                let _ = writeln!(io::stderr(), "driftline: the testbed's strings: {error}");
                std::process::exit(2);
            }
        }
    }
    std::process::exit(3);
}

/// Tells the testbed, and does what is to happen at places of the code.
#[derive(Default)]
struct Teller {
    places: Mutex<BTreeMap<String, Happens>>,
    /// Claims that were told, with whether they held.
    claims: Mutex<BTreeSet<(&'static str, bool)>>,
    /// What chance at places is drawn from.
    passed: AtomicU64,
}

impl Teller {
    fn places(&self) -> MutexGuard<'_, BTreeMap<String, Happens>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: Word) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let told = Told { at_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), what };
        if let Ok(mut line) = serde_json::to_vec(&told) {
            line.push(b'\n');
            let mut out = io::stdout().lock();
            // Whoever listened is gone, and this process is about to learn of it.
            let _ = out.write_all(&line).and_then(|()| out.flush());
        }
    }
}

impl Observer for Teller {
    fn observe(&self, event: Observed) {
        self.tell(Word::Observed(event));
    }

    fn passes(&self, point: &'static str) -> Option<Duration> {
        let happens = self.places().get(point).copied()?;
        match happens {
            Happens::Nothing => None,
            Happens::Ends => {
                let place = POINTS.iter().position(|known| *known == point).unwrap_or_default();
                std::process::exit(struck(place))
            }
            Happens::Pauses { per_mille, max_us } => {
                let drawn = self.passed.fetch_add(1, Ordering::Relaxed).to_le_bytes();
                let drawn = xxhash_rust::xxh3::xxh3_64_with_seed(&drawn, u64::from(std::process::id()));
                let pause = (drawn >> 32) % max_us.saturating_add(1);
                (drawn % 1_000 < u64::from(per_mille)).then(|| Duration::from_micros(pause))
            }
        }
    }

    fn asserted(&self, assertion: Assertion) {
        let Assertion { claim, holds, .. } = assertion;
        let is_news = self.claims.lock().unwrap_or_else(PoisonError::into_inner).insert((claim, holds));
        if is_news {
            self.tell(Word::Claimed(claim.to_owned(), holds));
        }
    }
}

/// How a clock runs since a moment at which it was last touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bend {
    since: Mono,
    shown: Shown,
}

impl Bend {
    fn own(&self, now: Mono) -> u64 {
        let true_ns = now.saturating_duration_since(self.since).as_nanos();
        let ran = true_ns * u128::from(self.shown.rate_ppm) / 1_000_000;
        self.shown.own_ns.saturating_add(u64::try_from(ran).unwrap_or(u64::MAX))
    }

    /// True time until the monotonic clock shows `deadline`.
    fn until(&self, now: Mono, deadline: u64) -> Duration {
        let left = u128::from(deadline.saturating_sub(self.own(now)));
        let true_ns = (left * 1_000_000).div_ceil(u128::from(self.shown.rate_ppm.max(1)));
        Duration::from_nanos(u64::try_from(true_ns).unwrap_or(u64::MAX))
    }

    fn pulled(&self, now: Mono, pull: Pull) -> Bend {
        let mut shown = Shown { own_ns: self.own(now), ..self.shown };
        match pull {
            Pull::Rate(ppm) => shown.rate_ppm = ppm,
            Pull::Jump(ns) => shown.own_ns = shown.own_ns.saturating_add(ns),
            Pull::Step(ns) => shown.wall_ahead_ns = shown.wall_ahead_ns.saturating_add(ns),
            Pull::Place(..) => {}
        }
        Bend { since: now, shown }
    }
}

/// A clock whose sleepers notice that it was bent.
struct BentClock {
    bends: watch::Sender<Bend>,
}

impl BentClock {
    fn new(shown: Shown) -> BentClock {
        BentClock { bends: watch::Sender::new(Bend { since: Mono::now(), shown }) }
    }
}

impl Clock for BentClock {
    fn now(&self) -> Instant {
        Instant(self.bends.borrow().own(Mono::now()))
    }

    fn wall(&self) -> Duration {
        let bend = *self.bends.borrow();
        let ns = i128::from(bend.own(Mono::now())) + i128::from(bend.shown.wall_ahead_ns);
        Duration::from_nanos(u64::try_from(ns.max(0)).unwrap_or(u64::MAX))
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let mut bends = self.bends.subscribe();
        async move {
            loop {
                let bend = *bends.borrow_and_update();
                let now = Mono::now();
                if bend.own(now) >= deadline.0 {
                    return;
                }
                let Some(wake) = now.checked_add(bend.until(now, deadline.0)) else {
                    // So far away that only another bend brings it near.
                    if bends.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                    continue;
                };
                tokio::select! {
                    biased;
                    changed = bends.changed() => if changed.is_err() {
                        return std::future::pending().await;
                    },
                    () = tokio::time::sleep_until(wake.into()) => {}
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: Shown = Shown { own_ns: 0, wall_ahead_ns: 0, rate_ppm: 1_000_000 };

    #[test]
    fn a_bent_clock_goes_on_from_what_it_showed_and_never_back() {
        let begin = Mono::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut bend = Bend { since: begin, shown: Shown { own_ns: 5_000_000, ..RIGHT } };
        assert_eq!(bend.own(at(10)), 15_000_000);
        bend = bend.pulled(at(10), Pull::Rate(500_000));
        assert_eq!((bend.own(at(10)), bend.own(at(30))), (15_000_000, 25_000_000));
        assert_eq!(bend.until(at(30), 35_000_000), Duration::from_millis(20));
        bend = bend.pulled(at(30), Pull::Jump(7_000_000));
        assert_eq!(bend.own(at(30)), 32_000_000);
        bend = bend.pulled(at(40), Pull::Step(-9));
        assert_eq!((bend.own(at(40)), bend.shown.wall_ahead_ns), (37_000_000, -9));
        assert_eq!(bend.own(begin), 37_000_000, "a moment that is past does not turn it back");
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_deadline_is_jumped_over() {
        let clock = BentClock::new(RIGHT);
        let sleep = tokio::spawn(clock.sleep_until(Instant(3_600_000_000_000)));
        tokio::task::yield_now().await;
        assert!(!sleep.is_finished());
        clock.bends.send_modify(|bend| *bend = bend.pulled(Mono::now(), Pull::Jump(3_600_000_000_000)));
        sleep.await.unwrap();
    }

    #[test]
    fn the_exit_code_tells_the_place() {
        for (place, name) in POINTS.iter().enumerate() {
            assert_eq!(struck_at(struck(place)), Some(*name));
        }
        assert_eq!([0, 1, 2, 3, 101, 137].map(struck_at), [None; 6]);
    }

    #[test]
    fn a_place_does_what_it_is_told_to() {
        let teller = Teller::default();
        assert_eq!(teller.passes(POINTS[0]), None);
        teller.places().insert(POINTS[0].to_owned(), Happens::Pauses { per_mille: 1_000, max_us: 9 });
        assert!(teller.passes(POINTS[0]).is_some_and(|pause| pause <= Duration::from_micros(9)));
        assert_eq!(teller.passes(POINTS[1]), None);
        teller.places().insert(POINTS[0].to_owned(), Happens::Nothing);
        assert_eq!(teller.passes(POINTS[0]), None);
    }

    #[test]
    fn strings_are_lines_of_json() {
        let pull = |text: &str| serde_json::from_str::<Pull>(text).unwrap();
        assert_eq!(pull(r#"{"rate":1100000}"#), Pull::Rate(1_100_000));
        assert_eq!(pull(r#"{"step":-5}"#), Pull::Step(-5));
        let place = Pull::Place(POINTS[1].to_owned(), Happens::Pauses { per_mille: 3, max_us: 4 });
        assert_eq!(pull(&serde_json::to_string(&place).unwrap()), place);
        let told = Told { at_ns: 7, what: Word::Observed(Observed::Durable { index: 3 }) };
        let line = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Told>(&line).unwrap(), told);
    }
}
