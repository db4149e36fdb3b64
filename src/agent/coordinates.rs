//! From gossip's measurements to the catalog's distances.
//!
//! Each agent finds its own place ([`crate::gossip::vivaldi`]) and tells it to a server now and then ([`tell`]), the
//! more seldom the more agents there are, so that all together write little. A server gathers what it is told
//! ([`Gathered`]) and proposes it every five seconds, in a few batches; what there is no room for is dropped, and comes
//! again by itself. Whoever wants the nearest asks for all places and sorts by [`Distances`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;

use crate::state::coordinate::{CoordinatesOfAll, Real};
use crate::state::{NodePlace, Place};

use super::delegate::{Coordinate, DEFAULT_SEGMENT};
use super::{Agent, Consistency, QueryOptions, ReadError};

/// How many updates a second all agents together aim at.
const UPDATES_PER_SECOND: u32 = 64;
/// An agent in a small cluster tells its place so often.
const TELL_EVERY: Duration = Duration::from_secs(15);
/// How often a server proposes what it has gathered.
pub const PROPOSE_EVERY: Duration = Duration::from_secs(5);
/// How many updates one log entry holds.
const BATCH: usize = 128;
/// How many entries are proposed at once.
const BATCHES: usize = 5;

/// A coordinate as the replicated state keeps it.
pub fn place(at: &Coordinate) -> Place {
    let Coordinate { vec, error, adjustment, height } = *at;
    Place {
        vec: vec.map(Real::from),
        error: error.into(),
        adjustment: adjustment.into(),
        height: height.into(),
    }
}

/// A place to compute with.
pub fn coordinate(place: &Place) -> Coordinate {
    let Place { vec, error, adjustment, height } = *place;
    Coordinate {
        vec: vec.map(f64::from),
        error: error.into(),
        adjustment: adjustment.into(),
        height: height.into(),
    }
}

/// How far nodes are from one of them.
#[derive(Clone, Debug)]
pub struct Distances {
    from: String,
    seconds: BTreeMap<String, f64>,
}

impl Distances {
    /// The distances from a node. Nothing if it has no place.
    pub fn from(node: &str, places: &[NodePlace]) -> Option<Distances> {
        let all: BTreeMap<&str, Coordinate> = places
            .iter()
            .filter(|known| known.segment == DEFAULT_SEGMENT)
            .map(|known| (known.node.as_str(), coordinate(&known.place)))
            .collect();
        let here = *all.get(node)?;
        let seconds = all.iter().map(|(other, there)| ((*other).to_owned(), here.distance_to(there)));
        Some(Distances { from: node.to_owned(), seconds: seconds.collect() })
    }

    /// Puts the rows of the nearest nodes first and those of nodes without a place last; what is equally near stays in
    /// its order.
    pub fn sort<T>(&self, rows: &mut [T], node: impl Fn(&T) -> &str) {
        rows.sort_by(|a, b| self.of(node(a)).total_cmp(&self.of(node(b))));
    }

    fn of(&self, node: &str) -> f64 {
        if node == self.from {
            // The estimate counts a node's own link twice.
            return 0.0;
        }
        self.seconds.get(node).copied().unwrap_or(f64::INFINITY)
    }
}

/// Where all nodes stand. A little old is good enough: places move slowly.
///
/// # Errors
/// When no server could be asked.
pub async fn places(agent: &Agent) -> Result<Vec<NodePlace>, ReadError> {
    Ok(agent.query(QueryOptions::now(Consistency::Stale), &CoordinatesOfAll).await?.value)
}

/// Sorts by the distance from a node, `_agent` being this agent's own. If that node has no place, everything stays in
/// its order.
///
/// # Errors
/// When no server could be asked.
pub async fn sort_by_distance<T>(
    agent: &Agent,
    near: &str,
    rows: &mut [T],
    node: impl Fn(&T) -> &str,
) -> Result<(), ReadError> {
    let own = agent.local_member().name;
    let near = if near == "_agent" { &own } else { near };
    if let Some(distances) = Distances::from(near, &places(agent).await?) {
        distances.sort(rows, node);
    }
    Ok(())
}

/// What a server was told and has not proposed yet: the last word of each node.
#[derive(Debug, Default)]
pub struct Gathered {
    updates: Mutex<BTreeMap<(String, String), Place>>,
}

impl Gathered {
    /// Takes an update in. Whether there was room.
    pub fn add(&self, update: NodePlace) -> bool {
        let mut updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        let NodePlace { node, segment, place } = update;
        let key = (node, segment);
        if updates.len() >= BATCH * BATCHES && !updates.contains_key(&key) {
            return false;
        }
        updates.insert(key, place);
        true
    }

    /// What there is to propose, in batches.
    pub fn take(&self) -> Vec<Vec<NodePlace>> {
        let updates = std::mem::take(&mut *self.updates.lock().unwrap_or_else(PoisonError::into_inner));
        let all: Vec<NodePlace> =
            updates.into_iter().map(|((node, segment), place)| NodePlace { node, segment, place }).collect();
        all.chunks(BATCH).map(<[NodePlace]>::to_vec).collect()
    }
}

/// How long an agent waits at least between telling its place and telling it again.
fn pause(agents: usize) -> Duration {
    let agents = u32::try_from(agents).unwrap_or(u32::MAX);
    TELL_EVERY.max(Duration::from_secs(1) * agents / UPDATES_PER_SECOND)
}

/// Tells a server where this agent stands, for as long as it runs.
pub async fn tell(agent: Agent) {
    let env = agent.env().clone();
    let mut rng = env.rng("coordinate updates");
    loop {
        let pause = pause(agent.members().len());
        env.sleep(pause + pause.mul_f64(rng.random())).await;
        for (segment, here) in agent.delegate().lan_coordinate() {
            let update = NodePlace { node: agent.local_member().name, segment, place: place(&here) };
            if let Err(error) = agent.update_coordinate(update).await {
                tracing::debug!(%error, "nobody could be told where this node stands");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(node: &str, x: f64) -> NodePlace {
        let mut at = Coordinate::default();
        at.vec[0] = x;
        NodePlace { node: node.into(), segment: String::new(), place: place(&at) }
    }

    #[test]
    fn the_nearest_come_first_and_those_without_a_place_last() {
        let places = [known("a", 0.0), known("b", 0.03), known("c", 0.01), known("c2", 0.01)];
        let mut rows = ["nowhere", "b", "c2", "c", "a"];
        Distances::from("a", &places).unwrap().sort(&mut rows, |row| row);
        assert_eq!(rows, ["a", "c2", "c", "b", "nowhere"]);
        assert!(Distances::from("nowhere", &places).is_none());
    }

    #[test]
    fn the_last_word_of_each_node_counts_and_there_is_a_bound() {
        let gathered = Gathered::default();
        for number in 0..BATCH * BATCHES {
            assert!(gathered.add(known(&number.to_string(), 1.0)));
        }
        assert!(!gathered.add(known("more", 1.0)));
        assert!(gathered.add(known("0", 2.0)));
        let batches = gathered.take();
        assert_eq!((batches.len(), batches[0].len()), (BATCHES, BATCH));
        assert_eq!(batches[0][0], known("0", 2.0));
        assert!(gathered.take().is_empty());
    }

    #[test]
    fn many_agents_tell_their_places_more_seldom() {
        assert_eq!(pause(3), Duration::from_secs(15));
        assert_eq!(pause(960), Duration::from_secs(15));
        assert_eq!(pause(6_400), Duration::from_secs(100));
    }
}
