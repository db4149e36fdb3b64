//! Which states of the cluster a run has been in, as a set of small numbers: what a search is guided by.
//!
//! A run's whole state is never the same twice, so it would guide nobody. What is kept is coarse, and of several kinds, each
//! a *feature*, named by a hash of 32 bits:
//! * the roles of all nodes and how their terms relate, whenever something of note happens (a [`Landmark`]);
//! * how the node where it happens compares with the others: its term, its log, its disk, its configuration;
//! * on how many disks the newest applied entry is, of how many;
//! * which landmarks follow which, on the same node or another, and whether soon; of those that are Raft's or a
//!   process's own, also which three in a row;
//! * which faults are in force at once, and which landmarks fall into which fault, and into which two;
//! * each point ([`crate::points`]) by how often it was reached.
//!
//! The landmarks themselves are reported as well ([`Moment`]): a mutator may then aim a fault at one.
//!
//! Left out: what the clients see. Their histories differ in every run, and no two are alike for a reason.

use std::collections::{BTreeMap, BTreeSet};

use driftline::env::Observed;
use driftline::env::observe::{MemberChange, RaftRole};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::check::view::{NodeView, View};
use crate::check::{At, Event, Stop};

/// What follows within this follows soon.
const SOON_NS: u64 = 200_000_000;
/// So many moments of a run are kept, and no more.
const MOST_MOMENTS: usize = 400;

/// Something of note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landmark {
    /// A process was started.
    Started,
    /// It ended in good order.
    Ended,
    /// It was killed.
    Killed,
    /// Its host lost power.
    PowerLost,
    /// Its disk failed.
    DiskFailed,
    /// It stands for election.
    Candidate,
    /// It leads.
    Elected,
    /// It does not lead any more.
    SteppedDown,
    /// Entries were cut from its log.
    Truncated,
    /// It wrote a snapshot.
    SnapshotBuilt,
    /// It took over another's snapshot.
    SnapshotInstalled,
    /// It follows a joint configuration.
    Joint,
    /// It follows a configuration that is not joint.
    Configured,
    /// It takes a member for dead.
    MemberFailed,
    /// It suspects a member.
    MemberSuspected,
    /// A member is back.
    MemberBack,
    /// A fault began.
    FaultBegan,
    /// A fault ended.
    FaultEnded,
}

impl Landmark {
    /// Whether it is Raft's or a process's own doing: neither gossip's nor the storm's.
    fn is_own(self) -> bool {
        !matches!(
            self,
            Landmark::MemberFailed
                | Landmark::MemberSuspected
                | Landmark::MemberBack
                | Landmark::FaultBegan
                | Landmark::FaultEnded
        )
    }
}

/// When and where something of note happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// When: milliseconds since the storm began.
    pub at_ms: u64,
    /// On which node.
    pub node: u32,
    /// What.
    pub what: Landmark,
}

/// Watches a run. See the module's description.
#[derive(Debug, Default)]
pub struct Coverage {
    features: BTreeSet<u32>,
    moments: Vec<(u64, u32, Landmark)>,
    roles: BTreeMap<u32, RaftRole>,
    joint: BTreeSet<u32>,
    failed: BTreeSet<(u32, String)>,
    /// Kinds of fault in force, in the order of their beginning.
    faults: BTreeMap<&'static str, u32>,
    /// The last landmark: when, where, and what of which fault.
    last: Option<(u64, u32, Landmark, &'static str)>,
    /// The last two that are Raft's or a process's own.
    own: [Option<(u32, Landmark)>; 2],
    newest_applied: u64,
}

/// The number of a feature.
fn feature(parts: &impl std::fmt::Debug) -> u32 {
    // The lower half of a hash is a hash.
    xxh3_64(format!("{parts:?}").as_bytes()) as u32
}

/// A number by its order of magnitude: 0, 1, then in steps of 8.
fn magnitude(number: u64) -> u32 {
    match number {
        0 => 0,
        1 => 1,
        more => 2 + more.ilog2() / 3,
    }
}

impl Coverage {
    /// Follows an event; `view` is the cluster just before it.
    pub fn on(&mut self, at: At, event: &Event<'_>, view: &View) {
        let mut kind = "";
        let landmark = match event {
            Event::Started { .. } => Some(Landmark::Started),
            Event::Stopped(stop) => {
                self.roles.remove(&at.node);
                self.joint.remove(&at.node);
                Some(match stop {
                    Stop::Graceful => Landmark::Ended,
                    Stop::Kill | Stop::Vanish => Landmark::Killed,
                    Stop::PowerLoss => Landmark::PowerLost,
                })
            }
            Event::Fault { kind: begun, begins } => {
                kind = begun;
                let times = self.faults.entry(begun).or_default();
                *times = if *begins { *times + 1 } else { times.saturating_sub(1) };
                self.faults.retain(|_, times| *times > 0);
                Some(if *begins { Landmark::FaultBegan } else { Landmark::FaultEnded })
            }
            Event::Observed(observed) => self.observed(at, observed, view),
            Event::Leaves
            | Event::FaultBegan
            | Event::FaultEnded
            | Event::Datagram
            | Event::Ordered(_)
            | Event::Saved(_) => None,
        };
        if let Some(landmark) = landmark {
            self.note(at, landmark, kind, view);
        }
    }

    fn observed(&mut self, at: At, observed: &Observed, view: &View) -> Option<Landmark> {
        match observed {
            Observed::Role { role, .. } => {
                let before = self.roles.insert(at.node, *role);
                match (before, role) {
                    (Some(RaftRole::Leader), RaftRole::Leader) => None,
                    (_, RaftRole::Leader) => Some(Landmark::Elected),
                    (Some(RaftRole::Leader), _) => Some(Landmark::SteppedDown),
                    (_, RaftRole::Candidate) => Some(Landmark::Candidate),
                    _ => None,
                }
            }
            Observed::Truncated { index } => {
                (view.node(at.node).log.last() > Some(*index)).then_some(Landmark::Truncated)
            }
            Observed::SnapshotBuilt { .. } => Some(Landmark::SnapshotBuilt),
            Observed::SnapshotInstalled { .. } => Some(Landmark::SnapshotInstalled),
            Observed::Membership { voters, .. } if voters.len() > 1 => {
                self.joint.insert(at.node);
                Some(Landmark::Joint)
            }
            Observed::Membership { .. } => {
                self.joint.remove(&at.node);
                Some(Landmark::Configured)
            }
            Observed::Member { name, change, .. } => match change {
                MemberChange::Failed => {
                    self.failed.insert((at.node, name.clone()));
                    Some(Landmark::MemberFailed)
                }
                MemberChange::Suspected => Some(Landmark::MemberSuspected),
                MemberChange::Joined => {
                    self.failed.remove(&(at.node, name.clone())).then_some(Landmark::MemberBack)
                }
                MemberChange::Updated | MemberChange::Left => None,
            },
            Observed::Applied { index, .. } if *index > self.newest_applied => {
                self.newest_applied = *index;
                self.copies(*index, view);
                None
            }
            Observed::Fatal { .. } => Some(Landmark::DiskFailed),
            _ => None,
        }
    }

    /// On how many disks an entry is as it is applied for the first time.
    fn copies(&mut self, index: u64, view: &View) {
        let (mut durable, mut up, mut all) = (0, 0, 0);
        for (_, node) in view.nodes().filter(|(_, node)| node.raft_id.is_some()) {
            all += 1;
            up += u32::from(node.up);
            durable += u32::from(node.durable >= Some(index));
        }
        self.features.insert(feature(&("copies", durable, up, all)));
    }

    fn note(&mut self, at: At, landmark: Landmark, kind: &'static str, view: &View) {
        if self.moments.len() < MOST_MOMENTS {
            self.moments.push((at.ns, at.node, landmark));
        }
        // The cluster as it is.
        let newest = view.nodes().map(|(_, node)| node.term).max().unwrap_or_default();
        let longest = view.nodes().filter_map(|(_, node)| node.log.last()).max();
        let mut roles: Vec<_> = view
            .nodes()
            .map(|(number, node)| {
                let (role, behind, ..) = self.shape(number, node, newest, longest);
                (role, behind.min(1))
            })
            .collect();
        roles.sort_unstable();
        self.features.insert(feature(&("roles", landmark, &roles)));
        if view.node(at.node).raft_id.is_some() {
            let shape = self.shape(at.node, view.node(at.node), newest, longest);
            self.features.insert(feature(&("shape", landmark, shape)));
        }
        // What it falls into.
        let faults: Vec<&'static str> = self.faults.keys().copied().collect();
        if landmark == Landmark::FaultBegan {
            self.features.insert(feature(&("faults", &faults[..faults.len().min(3)])));
        }
        for (place, one) in faults.iter().enumerate() {
            self.features.insert(feature(&("within", landmark, kind, one)));
            for other in faults[place + 1..].iter().filter(|_| landmark.is_own()) {
                self.features.insert(feature(&("within", landmark, one, other)));
            }
        }
        // What it follows.
        let this = (landmark, kind);
        if let Some((then, node, before, before_kind)) = &self.last {
            let soon = at.ns.saturating_sub(*then) < SOON_NS;
            self.features.insert(feature(&("pair", before, before_kind, this, *node == at.node, soon)));
        }
        self.last = Some((at.ns, at.node, landmark, kind));
        if landmark.is_own() {
            if let [Some((first, earlier)), Some((second, before))] = &self.own {
                let same = (*first == at.node, *second == at.node);
                self.features.insert(feature(&("three", earlier, before, landmark, same)));
            }
            self.own = [self.own[1], Some((at.node, landmark))];
        }
    }

    /// A node as it compares with the others: role, term, log, disk.
    fn shape(&self, number: u32, node: &NodeView, newest: u64, longest: Option<u64>) -> (u8, u32, u32, bool) {
        let role = match self.roles.get(&number) {
            _ if !node.up => 0,
            None => 1,
            Some(RaftRole::Learner) => 2,
            Some(RaftRole::Follower) => 3,
            Some(RaftRole::Candidate) => 4,
            Some(RaftRole::Leader) => 5,
            Some(RaftRole::Stopped) => 6,
        };
        let joint = u8::from(self.joint.contains(&number)) << 3;
        let behind = (newest - node.term).min(2) as u32;
        let lag = magnitude(longest.unwrap_or(0).saturating_sub(node.log.last().unwrap_or(0)));
        (role | joint, behind, lag, node.log.last() > node.durable)
    }

    /// The features of the run, in ascending order: those of its states, and its points.
    pub fn features(&self, points: &BTreeMap<String, u64>) -> Vec<u32> {
        let mut all = self.features.clone();
        all.extend(points.iter().map(|(claim, times)| feature(&("point", claim, magnitude(*times)))));
        all.into_iter().collect()
    }

    /// The moments since the storm's beginning, in order of time.
    pub fn moments(&self, storm_ns: u64) -> Vec<Moment> {
        let since = |(at_ns, node, what): &(u64, u32, Landmark)| {
            let at_ms = at_ns.checked_sub(storm_ns)? / 1_000_000;
            Some(Moment { at_ms, node: *node, what: *what })
        };
        self.moments.iter().filter_map(since).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(events: &[(u64, u32, Event<'_>)]) -> Coverage {
        let (mut coverage, mut view) = (Coverage::default(), View::default());
        for (ns, node, event) in events {
            let at = At { ns: *ns, node: *node };
            coverage.on(at, event, &view);
            view.on(at, event);
        }
        coverage
    }

    fn leads(term: u64) -> Observed {
        Observed::Role { term, role: RaftRole::Leader, leader: None }
    }

    #[test]
    fn the_same_run_has_the_same_features_and_a_different_one_others() {
        let elected = leads(1);
        let run = |stop| {
            let name = Event::Started { name: "n0" };
            let coverage =
                watched(&[(1, 0, name), (2, 0, Event::Observed(&elected)), (3, 0, Event::Stopped(stop))]);
            coverage.features(&BTreeMap::new())
        };
        assert_eq!(run(Stop::Kill), run(Stop::Kill));
        assert_ne!(run(Stop::Kill), run(Stop::PowerLoss));
        assert!(run(Stop::Kill).is_sorted());
    }

    #[test]
    fn numbers_of_nodes_do_not_matter_but_faults_do() {
        let elected = leads(1);
        let on = |node: u32, kind: Option<&'static str>| {
            let mut events = vec![(1, 0, Event::Started { name: "a" }), (1, 1, Event::Started { name: "b" })];
            events.extend(kind.map(|kind| (2, u32::MAX, Event::Fault { kind, begins: true })));
            events.push((900_000_000, node, Event::Observed(&elected)));
            let coverage = watched(&events);
            coverage.features.contains(&feature(&("within", Landmark::Elected, "", "loss")))
        };
        assert!(on(0, Some("loss")) && on(1, Some("loss")));
        assert!(!on(0, Some("stall")) && !on(0, None));
    }

    #[test]
    fn points_count_by_their_order_of_magnitude() {
        let of = |times| Coverage::default().features(&BTreeMap::from([("a vote is granted".into(), times)]));
        assert_eq!(of(20), of(21));
        assert_ne!(of(1), of(21));
    }

    #[test]
    fn moments_count_from_the_storm() {
        let elected = leads(1);
        let at = |ms: u64| ms * 1_000_000;
        let coverage =
            watched(&[(at(5), 0, Event::Started { name: "n0" }), (at(2_500), 0, Event::Observed(&elected))]);
        let moment = Moment { at_ms: 500, node: 0, what: Landmark::Elected };
        assert_eq!(coverage.moments(at(2_000)), [moment]);
    }
}
