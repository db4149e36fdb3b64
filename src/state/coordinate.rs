//! Where nodes stand in the network, as they said last.
//!
//! Nodes find their own coordinates, which takes arithmetic with fractions; here they are only kept. A number is
//! its bits ([`Real`]): replicas compare and store them, and compute nothing, so no two can round differently.
//!
//! Nobody's coordinate is kept who is not in the catalog: an update about such a node is passed over, and a node that
//! is taken out of the catalog takes its coordinate along.

use serde::{Deserialize, Serialize};

use super::State;
use super::query::{Asked, Indexed};
use super::tables::Table;

/// A fraction, as its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Real(u64);

impl From<f64> for Real {
    fn from(number: f64) -> Real {
        Real(number.to_bits())
    }
}

impl From<Real> for f64 {
    fn from(real: Real) -> f64 {
        f64::from_bits(real.0)
    }
}

/// A place in the plane of network coordinates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The Euclidean part.
    pub vec: [Real; 8],
    /// How sure the node is of it.
    pub error: Real,
    /// What is added to each distance.
    pub adjustment: Real,
    /// The part of each distance that is the node's own link.
    pub height: Real,
}

/// A node, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlace {
    /// Its name.
    pub node: String,
    /// The segment of the network that the place is in; empty: the default one.
    pub segment: String,
    /// Where.
    pub place: Place,
}

/// The places of all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// By node and segment.
    table: Table<(String, String), (Place, u64)>,
}

/// All keys of one node.
fn of_node(node: &str) -> impl std::ops::RangeBounds<(String, String)> + use<> {
    // The least string that is greater than the name.
    (node.to_owned(), String::new())..(format!("{node}\0"), String::new())
}

impl Places {
    /// The same places as if told at log index `index`.
    pub(super) fn written_at(self, index: u64) -> Places {
        let rows = self.table.into_rows().map(|(key, (place, _))| (key, (place, index)));
        Places { table: Table::of_rows(index, rows) }
    }

    fn set(&mut self, index: u64, update: &NodePlace) {
        let key = (update.node.clone(), update.segment.clone());
        if self.table.get(&key).is_none_or(|(place, _)| *place != update.place) {
            self.table.set(index, key, (update.place, index));
        }
    }

    /// Forgets a node.
    pub(super) fn remove(&mut self, index: u64, node: &str) {
        let keys: Vec<_> = self.table.range(of_node(node)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.table.remove(index, &key);
        }
    }

    /// Where all nodes stand, by name.
    pub fn iter(&self) -> impl Iterator<Item = NodePlace> {
        self.table.iter().map(|((node, segment), (place, _))| NodePlace {
            node: node.clone(),
            segment: segment.clone(),
            place: *place,
        })
    }

    /// The index of the newest change to any of them.
    pub(super) fn newest(&self) -> u64 {
        self.table.newest()
    }

    /// A hash of all places.
    pub(super) fn digest(&self) -> u64 {
        self.table.digest()
    }

    /// Computes the digest anew, after loading.
    pub(super) fn rebuild_digest(&mut self) {
        self.table.rebuild_digest();
    }
}

impl State {
    /// Takes in what nodes say of themselves.
    pub(super) fn apply_places(&mut self, index: u64, updates: &[NodePlace]) {
        for update in updates {
            if self.catalog.node(&update.node).is_some() {
                self.places.set(index, update);
            }
        }
    }
}

/// Where all nodes stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatesOfAll;

impl Asked for CoordinatesOfAll {
    type Found = Vec<NodePlace>;

    fn ask(&self, state: &State) -> Indexed<Vec<NodePlace>> {
        Indexed { index: self.index(state), value: state.places().iter().collect() }
    }

    fn index(&self, state: &State) -> u64 {
        state.places().newest()
    }
}

/// Where one node stands, in each segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatesOf {
    /// Its name.
    pub node: String,
}

impl Asked for CoordinatesOf {
    type Found = Vec<NodePlace>;

    fn ask(&self, state: &State) -> Indexed<Vec<NodePlace>> {
        let table = &state.places().table;
        let found = table.range(of_node(&self.node)).map(|((node, segment), (place, changed))| {
            let (node, segment, place) = (node.clone(), segment.clone(), *place);
            (NodePlace { node, segment, place }, *changed)
        });
        let (value, changed): (Vec<_>, Vec<u64>) = found.unzip();
        let index = changed.into_iter().max().unwrap_or(0).max(table.removed_in(of_node(&self.node)));
        Indexed { index, value }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::catalog::{CatalogCommand, NodeInfo, Registration};
    use super::super::{Command, Request, RequestId};
    use super::*;
    use proptest::prelude::*;

    fn place(x: f64) -> Place {
        Place { vec: [x.into(); 8], ..Place::default() }
    }

    pub fn any_update() -> impl Strategy<Value = NodePlace> {
        let node = prop::sample::select(vec!["n1", "n2", "nobody"]).prop_map(str::to_owned);
        let segment = prop::sample::select(vec!["", "a"]).prop_map(str::to_owned);
        (node, segment, any::<f64>()).prop_map(|(node, segment, x)| NodePlace {
            node,
            segment,
            place: place(x),
        })
    }

    fn apply(state: &mut State, command: Command) {
        let index = state.applied() + 1;
        state.apply(index, &Request { id: RequestId { origin: 1, number: index }, done_below: 0, command });
    }

    fn register(state: &mut State, name: &str) {
        let node = NodeInfo { name: name.into(), address: "10.0.0.1".into(), ..NodeInfo::default() };
        let registration = Registration { node, skip_node_update: false, service: None, checks: Vec::new() };
        apply(state, Command::Catalog(registration.into()));
    }

    fn told(node: &str, x: f64) -> Command {
        Command::Coordinates(vec![NodePlace { node: node.into(), segment: String::new(), place: place(x) }])
    }

    #[test]
    fn a_node_has_a_place_for_as_long_as_it_is_in_the_catalog() {
        let mut state = State::default();
        apply(&mut state, told("a", 1.0));
        assert_eq!(CoordinatesOfAll.ask(&state), Indexed { index: 0, value: Vec::new() });
        register(&mut state, "a");
        register(&mut state, "a1");
        apply(&mut state, told("a", 2.0));
        apply(&mut state, told("a1", 3.0));
        let found = CoordinatesOf { node: "a".into() }.ask(&state);
        assert_eq!((found.index, found.value.len(), found.value[0].place), (4, 1, place(2.0)));
        // The same again is no news.
        apply(&mut state, told("a", 2.0));
        assert_eq!(CoordinatesOf { node: "a".into() }.ask(&state).index, 4);
        apply(&mut state, Command::Catalog(CatalogCommand::DeregisterNode { node: "a".into() }));
        let gone = CoordinatesOf { node: "a".into() }.ask(&state);
        assert_eq!((gone.index, gone.value.len()), (7, 0));
        assert_eq!(CoordinatesOfAll.ask(&state).value.len(), 1);
    }

    proptest! {
        #[test]
        fn places_outlive_a_snapshot_and_the_digest_is_that_of_the_content(
            updates in prop::collection::vec(any_update(), 0..20),
        ) {
            let mut state = State::default();
            register(&mut state, "n1");
            register(&mut state, "n2");
            for update in updates {
                apply(&mut state, Command::Coordinates(vec![update]));
            }
            let read = State::default().restored(&state.to_snapshot()).unwrap();
            prop_assert_eq!(read.digest(), state.digest());
            prop_assert_eq!(&read, &state);
            prop_assert!(state.places().iter().all(|place| place.node != "nobody"));
        }
    }
}
