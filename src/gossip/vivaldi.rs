//! Network coordinates: where each node stands, so that the round-trip time between any two can be told without
//! measuring it.
//!
//! The algorithm is Vivaldi (Dabek, Cox, Kaashoek and Morris, 2004). Each round trip is a spring between two nodes
//! whose rest length is the time measured; a node moves a little along it, the less the surer it is of its place and
//! the less sure the other is of its own (section 3.3, the adaptive time step). A coordinate has a Euclidean part and
//! a height, the time that the node's own link adds to every trip (section 5.4).
//!
//! What the paper does not have, and Serf does, whose constants these are:
//! * an *adjustment*: the mean of the last errors, added to estimates, for what no plane can hold (Lee and others, 2009);
//! * a *latency filter*: the median of the last three trips to a node, so that one late answer moves nobody;
//! * *gravity*: a slight pull to the origin, so that all nodes together do not drift away (Ledlie and others, 2007).
//!
//! Pure: measured times go in, a coordinate comes out. What another node says of itself is checked before it
//! counts, and if the arithmetic ever leaves the numbers the node begins anew.
//!
//! Left out: keeping the coordinate over a restart. A node finds its place again within some dozens of probes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::env::Rng;

/// How many dimensions the Euclidean part has.
pub const DIMENSIONS: usize = 8;
/// A node that knows nothing is so unsure of its place, and none is less sure.
pub const ERROR_MAX: f64 = 1.5;
/// How much one trip changes how sure a node is.
const C_E: f64 = 0.25;
/// How far one trip moves a node.
const C_C: f64 = 0.25;
/// Over how many trips the adjustment is taken.
const ADJUSTMENT_WINDOW: usize = 20;
/// The least height, in seconds: nobody's link takes no time.
const HEIGHT_MIN: f64 = 10.0e-6;
/// How many trips to one node the median is of.
const LATENCY_FILTER: usize = 3;
/// The larger, the weaker gravity is.
const GRAVITY_RHO: f64 = 150.0;
/// Lengths below this count as none.
const ZERO: f64 = 1.0e-6;
/// A trip that took longer was no trip but a stall.
const MAX_TRIP: Duration = Duration::from_secs(10);
/// No honest node gets so far away from the origin, in seconds.
const FARTHEST: f64 = 1_000.0;

/// A place in the plane. Distances are round-trip times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coordinate {
    /// The Euclidean part.
    pub vec: [f64; DIMENSIONS],
    /// How sure the node is of its place: 0 is certain.
    pub error: f64,
    /// What is added to each distance because of what was measured before.
    pub adjustment: f64,
    /// The part of each distance that is this node's own link.
    pub height: f64,
}

impl Default for Coordinate {
    /// Where every node begins.
    fn default() -> Coordinate {
        Coordinate { vec: [0.0; DIMENSIONS], error: ERROR_MAX, adjustment: 0.0, height: HEIGHT_MIN }
    }
}

impl Coordinate {
    /// Whether a node that follows the algorithm could stand there.
    pub fn is_sane(&self) -> bool {
        let Coordinate { vec, error, adjustment, height } = self;
        let near = |number: &f64| number.is_finite() && number.abs() <= FARTHEST;
        vec.iter().all(near)
            && near(adjustment)
            && (0.0..=ERROR_MAX).contains(error)
            && (0.0..=FARTHEST).contains(height)
    }

    /// The estimated round-trip time to another place, in seconds.
    pub fn distance_to(&self, other: &Coordinate) -> f64 {
        let raw = self.raw_distance_to(other);
        let adjusted = raw + self.adjustment + other.adjustment;
        if adjusted > 0.0 { adjusted } else { raw }
    }

    fn raw_distance_to(&self, other: &Coordinate) -> f64 {
        length(&minus(&self.vec, &other.vec)) + self.height + other.height
    }

    /// Moves away from `other` by `force`, or towards it if that is negative.
    fn push(&mut self, force: f64, other: &Coordinate, rng: &mut Rng) {
        let apart = minus(&self.vec, &other.vec);
        let distance = length(&apart);
        let (direction, apart) = if distance > ZERO {
            (scaled(&apart, 1.0 / distance), true)
        } else {
            (any_direction(rng), false)
        };
        for (here, step) in self.vec.iter_mut().zip(direction) {
            *here += step * force;
        }
        if apart {
            self.height = ((self.height + other.height) * force / distance + self.height).max(HEIGHT_MIN);
        }
    }
}

type Vector = [f64; DIMENSIONS];

fn minus(a: &Vector, b: &Vector) -> Vector {
    std::array::from_fn(|i| a[i] - b[i])
}

fn scaled(vector: &Vector, by: f64) -> Vector {
    vector.map(|number| number * by)
}

fn length(vector: &Vector) -> f64 {
    vector.iter().map(|number| number * number).sum::<f64>().sqrt()
}

/// A direction for two nodes that stand on one spot: any will do, as long as they do not both take the same.
fn any_direction(rng: &mut Rng) -> Vector {
    let drawn: Vector = std::array::from_fn(|_| rng.random::<f64>() - 0.5);
    match length(&drawn) {
        far if far > ZERO => scaled(&drawn, 1.0 / far),
        _ => std::array::from_fn(|i| if i == 0 { 1.0 } else { 0.0 }),
    }
}

/// Why a trip did not count. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// The other node cannot be where it says it is.
    #[error("the other node's coordinate makes no sense")]
    Coordinate,
    /// It took too long to be a trip.
    #[error("the round trip took too long")]
    Trip,
}

/// One node's place, and what it remembers to find it.
#[derive(Clone, Debug, Default)]
pub struct Vivaldi {
    here: Coordinate,
    /// By how much the last estimates were wrong.
    errors: VecDeque<f64>,
    /// The last trips to each node.
    trips: BTreeMap<u64, VecDeque<f64>>,
    resets: u64,
}

impl Vivaldi {
    /// Where the node stands.
    pub fn coordinate(&self) -> Coordinate {
        self.here
    }

    /// How often the node had to begin anew.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Takes in one round trip to a node that stands at `there`.
    ///
    /// # Errors
    /// See [`Ignored`].
    pub fn observe(
        &mut self,
        node: u64,
        there: &Coordinate,
        trip: Duration,
        rng: &mut Rng,
    ) -> Result<(), Ignored> {
        if !there.is_sane() {
            return Err(Ignored::Coordinate);
        }
        if trip > MAX_TRIP {
            return Err(Ignored::Trip);
        }
        let trip = self.median_with(node, trip.as_secs_f64()).max(ZERO);
        self.move_along(there, trip, rng);
        self.adjust(there, trip);
        self.fall(rng);
        if !self.here.is_sane() {
            self.resets += 1;
            self.here = Coordinate::default();
            self.errors.clear();
        }
        Ok(())
    }

    /// Keeps only the trips to nodes that are still there.
    pub fn keep(&mut self, is_there: impl Fn(u64) -> bool) {
        self.trips.retain(|node, _| is_there(*node));
    }

    /// The median of the last trips to a node, this one among them.
    fn median_with(&mut self, node: u64, trip: f64) -> f64 {
        let trips = self.trips.entry(node).or_default();
        trips.push_back(trip);
        if trips.len() > LATENCY_FILTER {
            trips.pop_front();
        }
        let mut sorted: Vec<f64> = trips.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// The paper's figure 3.
    fn move_along(&mut self, there: &Coordinate, trip: f64, rng: &mut Rng) {
        let distance = self.here.distance_to(there);
        let wrong_by = (distance - trip).abs() / trip;
        let weight = self.here.error / (self.here.error + there.error).max(ZERO);
        let share = C_E * weight;
        self.here.error = (wrong_by * share + self.here.error * (1.0 - share)).min(ERROR_MAX);
        self.here.push(C_C * weight * (trip - distance), there, rng);
    }

    /// The adjustment is half the mean of what was missing: the other node has its own half.
    fn adjust(&mut self, there: &Coordinate, trip: f64) {
        self.errors.push_back(trip - self.here.raw_distance_to(there));
        if self.errors.len() > ADJUSTMENT_WINDOW {
            self.errors.pop_front();
        }
        // Errors that are not there yet count as none, so that the first ones do not count for much.
        self.here.adjustment = self.errors.iter().sum::<f64>() / (2.0 * ADJUSTMENT_WINDOW as f64);
    }

    fn fall(&mut self, rng: &mut Rng) {
        let origin = Coordinate::default();
        let pull = self.here.distance_to(&origin) / GRAVITY_RHO;
        self.here.push(-(pull * pull), &origin, rng);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Rng;
    use proptest::prelude::*;
    use rand::SeedableRng;

    fn rng() -> Rng {
        Rng::seed_from_u64(7)
    }

    fn millis(ms: f64) -> Duration {
        Duration::from_secs_f64(ms / 1_000.0)
    }

    fn at(x: f64) -> Coordinate {
        let mut vec = [0.0; DIMENSIONS];
        vec[0] = x;
        Coordinate { vec, ..Coordinate::default() }
    }

    /// Lets all nodes measure one another in turn, each other node once a round; gives the mean error of the
    /// estimates, as a share of the truth.
    fn error_after(rounds: usize, truth: impl Fn(usize, usize) -> f64, nodes: usize) -> f64 {
        let mut rng = rng();
        let mut all = vec![Vivaldi::default(); nodes];
        for _ in 0..rounds {
            for i in 0..nodes {
                for j in (0..nodes).filter(|j| *j != i) {
                    let there = all[j].coordinate();
                    all[i].observe(j as u64, &there, millis(truth(i, j)), &mut rng).unwrap();
                }
            }
        }
        let pairs = (0..nodes).flat_map(|i| (0..i).map(move |j| (i, j)));
        let errors: Vec<f64> = pairs
            .map(|(i, j)| {
                let told = all[i].coordinate().distance_to(&all[j].coordinate()) * 1_000.0;
                (told - truth(i, j)).abs() / truth(i, j)
            })
            .collect();
        errors.iter().sum::<f64>() / errors.len() as f64
    }

    #[test]
    fn nodes_on_a_line_find_their_places() {
        let line = |i: usize, j: usize| 10.0 * (i as f64 - j as f64).abs();
        assert!(error_after(100, line, 10) < 0.05, "{}", error_after(100, line, 10));
    }

    #[test]
    fn two_datacenters_are_told_apart() {
        // One millisecond within, fifty between.
        let split = |i: usize, j: usize| if (i < 5) == (j < 5) { 1.0 } else { 50.0 };
        assert!(error_after(200, split, 10) < 0.1, "{}", error_after(200, split, 10));
    }

    #[test]
    fn slow_links_become_heights() {
        // Every trip crosses both nodes' own links and nothing else, which no Euclidean plane can hold.
        let star = |i: usize, j: usize| (i + 1) as f64 + (j + 1) as f64;
        // Heights follow slowly, and the plane takes part of what is theirs.
        assert!(error_after(300, star, 8) < 0.25, "{}", error_after(300, star, 8));
    }

    #[test]
    fn one_late_answer_moves_nobody_far() {
        let (mut rng, mut node) = (rng(), Vivaldi::default());
        for _ in 0..50 {
            node.observe(1, &at(0.01), millis(10.0), &mut rng).unwrap();
        }
        let before = node.coordinate();
        node.observe(1, &at(0.01), millis(5_000.0), &mut rng).unwrap();
        assert!(before.distance_to(&node.coordinate()) < 0.01);
    }

    #[test]
    fn what_makes_no_sense_is_ignored() {
        let (mut rng, mut node) = (rng(), Vivaldi::default());
        let before = node.coordinate();
        for bad in [
            at(f64::NAN),
            at(f64::INFINITY),
            at(1e9),
            Coordinate { error: -1.0, ..at(0.0) },
            Coordinate { error: f64::NAN, ..at(0.0) },
            Coordinate { height: -1.0, ..at(0.0) },
            Coordinate { adjustment: f64::NEG_INFINITY, ..at(0.0) },
        ] {
            assert_eq!(node.observe(1, &bad, millis(1.0), &mut rng), Err(Ignored::Coordinate));
        }
        let late = Duration::from_secs(11);
        assert_eq!(node.observe(1, &at(0.0), late, &mut rng), Err(Ignored::Trip));
        assert_eq!(node.coordinate(), before);
    }

    #[test]
    fn trips_to_nodes_that_are_gone_are_forgotten() {
        let (mut rng, mut node) = (rng(), Vivaldi::default());
        for other in 0..10 {
            node.observe(other, &at(0.0), millis(1.0), &mut rng).unwrap();
        }
        node.keep(|other| other < 3);
        assert_eq!(node.trips.len(), 3);
    }

    #[test]
    fn two_nodes_on_one_spot_part() {
        let (mut rng, mut node) = (rng(), Vivaldi::default());
        for _ in 0..20 {
            node.observe(1, &Coordinate::default(), millis(20.0), &mut rng).unwrap();
        }
        let told = node.coordinate().distance_to(&Coordinate::default());
        assert!((told - 0.02).abs() < 0.005, "{told}");
    }

    proptest! {
        #[test]
        fn whatever_others_say_the_place_is_one_where_a_node_can_stand(
            trips in prop::collection::vec(
                (0u64..4, prop::array::uniform8(any::<f64>()), any::<f64>(), any::<f64>(), any::<f64>(), 0u64..20_000_000_000),
                0..60,
            ),
        ) {
            let (mut rng, mut node) = (rng(), Vivaldi::default());
            for (other, vec, error, adjustment, height, nanos) in trips {
                let there = Coordinate { vec, error, adjustment, height };
                let _ = node.observe(other, &there, Duration::from_nanos(nanos), &mut rng);
                prop_assert!(node.coordinate().is_sane());
                prop_assert!(node.coordinate().distance_to(&Coordinate::default()).is_finite());
            }
        }

        #[test]
        fn sane_liars_do_no_more_than_mislead(
            trips in prop::collection::vec(
                (0u64..4, prop::array::uniform8(-1_000.0..1_000.0), 0.0..1.5, -1_000.0..1_000.0, 0.0..1_000.0, 0u64..10_000_000_000),
                0..60,
            ),
        ) {
            let (mut rng, mut node) = (rng(), Vivaldi::default());
            for (other, vec, error, adjustment, height, nanos) in trips {
                let there = Coordinate { vec, error, adjustment, height };
                node.observe(other, &there, Duration::from_nanos(nanos), &mut rng).unwrap();
                prop_assert!(node.coordinate().is_sane());
            }
        }

        #[test]
        fn distances_are_the_same_both_ways(
            a in prop::array::uniform8(-1.0..1.0), b in prop::array::uniform8(-1.0..1.0), height in 0.0..1.0,
        ) {
            let a = Coordinate { vec: a, ..Coordinate::default() };
            let b = Coordinate { vec: b, height, ..Coordinate::default() };
            prop_assert!((a.distance_to(&b) - b.distance_to(&a)).abs() < 1e-12);
        }
    }
}
