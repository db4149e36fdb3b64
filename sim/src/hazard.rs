//! What is to happen at the named places of a node's code ([`driftline::env::hazard`]): pauses, and crashes.
//!
//! The plan says which places, when and how often; whether a host pauses is its [`Weather`]. A crash strikes
//! the first host that comes by, and is told to the world, which has the means; until it has struck the node waits.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::mpsc;

use crate::scenario::Weather;

/// How long a node waits for the crash that is on its way.
const STRUCK: Duration = Duration::from_millis(1);

/// What happens at a place.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A pause.
    Pause {
        /// How many in a thousand times.
        per_mille: u32,
        /// How long at most, in microseconds.
        max_us: u64,
    },
    /// Whoever comes by first is told of here.
    Strike(mpsc::UnboundedSender<u32>),
}

/// The places at which something is to happen.
#[derive(Debug, Default)]
pub struct Hazards {
    seed: u64,
    active: BTreeMap<u64, (String, Effect)>,
    next: u64,
    hosts: BTreeMap<u32, Weather>,
}

impl Hazards {
    /// None yet.
    pub fn new(seed: u64) -> Hazards {
        Hazards { seed, ..Hazards::default() }
    }

    /// From now on this happens at `point`; the number ends it.
    pub fn add(&mut self, point: &str, effect: Effect) -> u64 {
        self.next += 1;
        self.active.insert(self.next, (point.to_owned(), effect));
        self.next
    }

    /// Ends one.
    pub fn remove(&mut self, number: u64) {
        self.active.remove(&number);
    }

    /// Ends all.
    pub fn clear(&mut self) {
        self.active.clear();
    }

    /// How long `host`, which comes to `point` now, waits there.
    pub fn passes(&mut self, now_ns: u64, host: u32, point: &str) -> Option<Duration> {
        let mut waits = None;
        let mut struck = None;
        for (number, (at, effect)) in &self.active {
            if at != point {
                continue;
            }
            match effect {
                Effect::Pause { per_mille, max_us } => {
                    let seed = self.seed;
                    let name = || format!("hazards of node {host}");
                    let weather = self.hosts.entry(host).or_insert_with(|| Weather::new(seed, &name()));
                    let rng = &mut weather.at(now_ns);
                    if rng.random_range(0..1_000) < *per_mille {
                        let pause = Duration::from_micros(rng.random_range(0..=*max_us));
                        waits = Some(waits.unwrap_or_default() + pause);
                    }
                }
                Effect::Strike(_) => struck = struck.or(Some(*number)),
            }
        }
        if let Some((_, Effect::Strike(told))) = struck.and_then(|number| self.active.remove(&number)) {
            // If nobody listens, the storm is over.
            let _ = told.send(host);
            waits = Some(STRUCK);
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_happens_as_often_as_asked_and_only_at_its_place() {
        let mut hazards = Hazards::new(1);
        let number = hazards.add("here", Effect::Pause { per_mille: 300, max_us: 1_000 });
        let paused = (0..10_000).filter_map(|_| hazards.passes(0, 0, "here")).collect::<Vec<_>>();
        assert!((2_700..3_300).contains(&paused.len()), "{}", paused.len());
        assert!(paused.iter().all(|pause| *pause <= Duration::from_millis(1)));
        assert_eq!(hazards.passes(0, 0, "there"), None);
        hazards.remove(number);
        assert!((0..1_000).all(|_| hazards.passes(0, 0, "here").is_none()));
    }

    #[test]
    fn a_crash_strikes_once() {
        let mut hazards = Hazards::new(1);
        let (told, mut heard) = mpsc::unbounded_channel();
        hazards.add("here", Effect::Strike(told));
        assert_eq!(hazards.passes(0, 3, "there"), None);
        assert_eq!(hazards.passes(0, 4, "here"), Some(STRUCK));
        assert_eq!(hazards.passes(0, 5, "here"), None);
        assert_eq!((heard.try_recv().ok(), heard.try_recv().ok()), (Some(4), None));
    }
}
