//! Points that no single node can see: they are about several nodes, or about what was wrong when something happened.
//!
//! A check that objects to nothing. It follows what the nodes say, as the other checks do, and says where the run has been.

use std::collections::{BTreeMap, BTreeSet};

use driftline::env::Observed;
use driftline::env::observe::{MemberChange, RaftRole};

use crate::check::view::View;
use crate::check::{At, Check, Event, Findings, Stop};
use crate::history::{Operation, Outcome, Response};

/// What is remembered of each node.
#[derive(Debug, Default)]
struct Node {
    up: bool,
    lives: u32,
    role: Option<RaftRole>,
    term: u64,
    /// Index of the last configuration in the log, whether it is joint, and who votes and learns in it.
    configured: u64,
    joint: bool,
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    leaves: bool,
    failed: bool,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Sightings {
    nodes: BTreeMap<u32, Node>,
    /// Faults in force, by kind.
    faults: BTreeMap<&'static str, u32>,
    /// When somebody began to lead, and in which term.
    reigns: Vec<(u64, u64)>,
    /// What members are known as: observer and name to the incarnation and what became of it.
    members: BTreeMap<(u32, String), (u64, MemberChange)>,
}

impl Sightings {
    fn in_force(&self, kind: &str) -> bool {
        self.faults.get(kind).is_some_and(|times| *times > 0)
    }

    fn down(&self) -> usize {
        self.nodes.values().filter(|node| !node.up).count()
    }

    fn stopped(&mut self, at: At, stop: Stop, view: &View, findings: &mut Findings) {
        let node = self.nodes.entry(at.node).or_default();
        node.up = false;
        let role = node.role.take();
        let (leads, joint) = (role == Some(RaftRole::Leader), node.joint);
        let points = &mut findings.points;
        let crash = stop != Stop::Graceful;
        points.sometimes(crash && leads, "a leader crashes");
        points.sometimes(crash && leads && joint, "a leader crashes while the configuration is joint");
        points.sometimes(crash && role == Some(RaftRole::Candidate), "a candidate crashes");
        points.sometimes(crash && role == Some(RaftRole::Learner), "a learner crashes");
        let log = view.node(at.node);
        let unsynced = log.log.last() > log.durable;
        points.sometimes(
            stop == Stop::PowerLoss && unsynced,
            "a host loses power with entries that are not yet durable",
        );
        let (down, all) = (self.down(), self.nodes.len());
        points.sometimes(all > 2 && down * 2 > all, "a majority is down at once");
        points.sometimes(all > 1 && down == all, "every server is down at once");
    }

    fn role(&mut self, at: At, term: u64, role: RaftRole, findings: &mut Findings) {
        let points = &mut findings.points;
        let others = || self.nodes.iter().filter(|(node, other)| **node != at.node && other.up);
        if role == RaftRole::Leader {
            let old = others().any(|(_, other)| other.role == Some(RaftRole::Leader) && other.term < term);
            points.sometimes(old, "a leader is elected while another still believes that it leads");
            let down = self.down() > 0;
            points.sometimes(down, "a leader is elected while a server is down");
            points.sometimes(self.in_force("partition"), "a leader is elected during a partition");
            points.sometimes(self.in_force("clock"), "a leader is elected while a clock is wrong");
            let joint = self.nodes.get(&at.node).is_some_and(|node| node.joint);
            points.sometimes(joint, "a leader change interrupts a joint configuration");
            let restarted = self.nodes.get(&at.node).is_some_and(|node| node.lives > 1);
            points.sometimes(restarted, "a server that was restarted is elected");
            let last = self.reigns.last().map_or(0, |(_, term)| *term);
            points.sometimes(last > 0 && term > last + 1, "a term passes without a leader");
            self.reigns.push((at.ns, term));
        }
        if role == RaftRole::Candidate {
            let rival =
                others().any(|(_, other)| other.role == Some(RaftRole::Candidate) && other.term == term);
            points.sometimes(rival, "two servers stand for election in one term");
        }
        let node = self.nodes.entry(at.node).or_default();
        if node.role == Some(RaftRole::Leader) && role != RaftRole::Leader {
            points.sometimes(term > node.term, "a leader steps down because of a later term");
        }
        if node.role == Some(RaftRole::Candidate) && role == RaftRole::Follower {
            points.reachable("a candidate gives way to another");
        }
        if node.role == Some(RaftRole::Learner) && role == RaftRole::Follower {
            points.reachable("a learner becomes a voter");
        }
        (node.role, node.term) = (Some(role), term);
    }

    fn truncated(&self, at: At, index: u64, view: &View, findings: &mut Findings) {
        let me = view.node(at.node);
        let Some(last) = me.log.last().filter(|last| *last > index) else { return };
        let points = &mut findings.points;
        points.reachable("a suffix of the log that was not committed is truncated");
        points.sometimes(last > index + 1, "several entries are truncated at once");
        points.sometimes(me.durable > Some(index), "entries that were durable are truncated");
        let node = self.nodes.get(&at.node);
        let configured = node.is_some_and(|node| node.configured > index && node.configured <= last);
        points.sometimes(configured, "a configuration is truncated with its entry");
        points.sometimes(self.in_force("partition"), "a log is truncated while there is a partition");
    }

    fn installed(&self, at: At, term: u64, view: &View, findings: &mut Findings) {
        let points = &mut findings.points;
        points.sometimes(self.in_force("partition"), "a snapshot is installed during a partition");
        points.sometimes(self.down() > 0, "a snapshot is installed while a server is down");
        let node = self.nodes.get(&at.node);
        let changing = self.nodes.values().any(|node| node.up && (node.joint || !node.learners.is_empty()));
        points.sometimes(changing, "a snapshot is installed during a membership change");
        points.sometimes(node.is_some_and(|node| node.lives > 1), "a snapshot is installed after a restart");
        let me = view.node(at.node);
        points.sometimes(me.log.last().is_none(), "a snapshot is installed over an empty log");
        points.sometimes(term < me.term, "a snapshot of an earlier term is installed");
    }

    fn membership(
        &mut self,
        at: At,
        index: u64,
        voters: &[Vec<u64>],
        learners: &[u64],
        findings: &mut Findings,
    ) {
        let partition = self.in_force("partition");
        let node = self.nodes.entry(at.node).or_default();
        let now: BTreeSet<u64> = voters.iter().flatten().copied().collect();
        let points = &mut findings.points;
        let known = !node.voters.is_empty();
        points.sometimes(voters.len() > 1, "the configuration is joint");
        points.sometimes(node.joint && voters.len() == 1, "a joint configuration is left");
        points.sometimes(known && partition, "the configuration changes during a partition");
        points.sometimes(known && !node.voters.is_subset(&now), "a voter is removed");
        points.sometimes(known && !now.is_subset(&node.voters), "a voter is added");
        node.configured = index;
        node.joint = voters.len() > 1;
        node.voters = now;
        node.learners = learners.iter().copied().collect();
    }

    fn member(
        &mut self,
        at: At,
        name: &str,
        incarnation: u64,
        change: MemberChange,
        findings: &mut Findings,
    ) {
        let points = &mut findings.points;
        let key = (at.node, name.to_owned());
        let before = self.members.get(&key).copied();
        let live = matches!(change, MemberChange::Joined | MemberChange::Updated);
        if let Some((earlier, was)) = before {
            let back = live && incarnation > earlier;
            points.sometimes(
                back && was == MemberChange::Failed,
                "a dead member rejoins with a higher incarnation",
            );
            points.sometimes(back && was == MemberChange::Left, "a member that left joins again");
            points.sometimes(live && was == MemberChange::Suspected, "a suspected member proves to be alive");
        }
        points.sometimes(change == MemberChange::Left, "a member leaves of its own accord");
        points.sometimes(
            change == MemberChange::Failed && self.in_force("partition"),
            "a member is declared failed during a partition",
        );
        let others = self.members.iter().filter(|((node, other), _)| *node != at.node && other == name);
        let sees_alive =
            |change: MemberChange| matches!(change, MemberChange::Joined | MemberChange::Updated);
        points.sometimes(
            change == MemberChange::Failed
                && others.filter(|(_, (_, change))| sees_alive(*change)).count() > 0,
            "two members differ about whether a third is alive",
        );
        self.members.insert(key, (incarnation, change));
    }

    /// Looks at the clients' history once it is complete.
    pub fn finish(&self, history: &[Operation], findings: &mut Findings) {
        let points = &mut findings.points;
        let mut doubtful = BTreeSet::new();
        for operation in history {
            // They are in order of time, so the first that began after the call decides.
            let at = self.reigns.partition_point(|(began, _)| *began <= operation.invoked_ns);
            let crossed = self.reigns.get(at).is_some_and(|(began, _)| operation.returned_ns > Some(*began));
            let answered = matches!(operation.outcome, Outcome::Ok(_));
            points.sometimes(crossed && answered, "an operation succeeds across a change of leader");
            points.sometimes(
                matches!(operation.outcome, Outcome::Ok(Response::Done(false))),
                "a compare-and-set loses against another write",
            );
            if let (Outcome::Unknown(_), Some(value)) = (&operation.outcome, operation.action.writes()) {
                doubtful.insert(value);
            }
        }
        for operation in history {
            if let Outcome::Ok(Response::Value(Some(found))) = &operation.outcome {
                points.sometimes(
                    doubtful.contains(found.value.as_str()),
                    "a write of unknown outcome is seen to have happened",
                );
            }
        }
    }
}

impl Check for Sightings {
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings) {
        match event {
            Event::Fault { kind, begins } => {
                let times = self.faults.entry(kind).or_default();
                *times = if *begins { *times + 1 } else { times.saturating_sub(1) };
                let several = self.faults.values().filter(|times| **times > 0).count();
                findings.points.sometimes(several > 2, "three kinds of fault are in force at once");
            }
            Event::Started { .. } => {
                let node = self.nodes.entry(at.node).or_default();
                let (left, failed) = (node.leaves, node.failed);
                *node = Node { up: true, lives: node.lives + 1, ..Node::default() };
                let lives = node.lives;
                // A life that nobody saw end knows nothing of the others' lives.
                self.members.retain(|(observer, _), _| *observer != at.node);
                let points = &mut findings.points;
                points.sometimes(left && lives > 1, "a server that left comes back");
                points.sometimes(failed && lives > 1, "a server whose disk failed starts again");
            }
            Event::Stopped(stop) => self.stopped(at, *stop, view, findings),
            Event::Leaves => self.nodes.entry(at.node).or_default().leaves = true,
            Event::Observed(observed) => self.observed(at, observed, view, findings),
            Event::FaultBegan | Event::FaultEnded | Event::Datagram | Event::Ordered(_) | Event::Saved(_) => {
            }
        }
    }
}

impl Sightings {
    fn observed(&mut self, at: At, observed: &Observed, view: &View, findings: &mut Findings) {
        let points = &mut findings.points;
        match observed {
            Observed::Recovered { last_index, applied, term, log, .. } => {
                points
                    .sometimes(last_index > applied, "a server starts with entries that it has yet to apply");
                points
                    .sometimes(*applied > 0 && log.is_empty(), "a server starts with a snapshot and no log");
                points.sometimes(*term > 0, "a server remembers its term across a restart");
            }
            Observed::Role { term, role, .. } => self.role(at, *term, *role, findings),
            Observed::Appended { index, term, .. } => {
                let other = view.nodes().any(|(node, other)| {
                    node != at.node && other.log.get(*index).is_some_and(|(theirs, _)| theirs != *term)
                });
                points.sometimes(other, "two logs hold different entries at one index");
            }
            Observed::Truncated { index } => self.truncated(at, *index, view, findings),
            Observed::Purged { .. } => points.reachable("a log is purged behind a snapshot"),
            Observed::Applied { term, .. } => {
                let node = self.nodes.get(&at.node);
                let leads = node.is_some_and(|node| node.role == Some(RaftRole::Leader));
                let older = node.is_some_and(|node| *term < node.term);
                points.sometimes(leads && older, "a leader applies entries of an earlier term than its own");
                points.sometimes(self.in_force("partition"), "entries are committed during a partition");
            }
            Observed::SnapshotBuilt { .. } => {
                points.sometimes(self.in_force("partition"), "a snapshot is built during a partition");
            }
            Observed::SnapshotInstalled { term, .. } => self.installed(at, *term, view, findings),
            Observed::Membership { index, voters, learners } => {
                self.membership(at, *index, voters, learners, findings);
            }
            Observed::Member { name, incarnation, change, .. } => {
                self.member(at, name, *incarnation, *change, findings);
            }
            Observed::Fatal { .. } => {
                points.reachable("an error of its disk stops a server");
                self.nodes.entry(at.node).or_default().failed = true;
            }
            Observed::Damaged { .. } => points.reachable("a server finds its data damaged"),
            Observed::UserEvent { .. } => points.reachable("a user event reaches a node"),
            Observed::Vote { .. } | Observed::Durable { .. } | Observed::Program { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::test::Bench;

    fn points(bench: &Bench<Sightings>) -> BTreeMap<String, u64> {
        bench.points().held()
    }

    #[test]
    fn a_leader_that_does_not_know_yet_is_seen() {
        let bench = Bench::new(Sightings::default()).boots(3).leads(0, 1).leads(1, 2);
        assert!(
            points(&bench).contains_key("a leader is elected while another still believes that it leads")
        );
        let bench = Bench::new(Sightings::default()).boots(3).leads(0, 1);
        assert!(
            !points(&bench).contains_key("a leader is elected while another still believes that it leads")
        );
    }

    #[test]
    fn a_truncation_counts_only_if_something_is_cut() {
        let cut = |index| {
            let bench = Bench::new(Sightings::default()).boots(1).appends(0, 1, 1).appends(0, 2, 1);
            points(&bench.says(0, Observed::Truncated { index }))
        };
        let claim = "a suffix of the log that was not committed is truncated";
        assert!(cut(1).contains_key(claim));
        assert!(!cut(2).contains_key(claim));
    }

    #[test]
    fn faults_in_force_begin_and_end() {
        let partition = |begins| Event::Fault { kind: "partition", begins };
        let claim = "a leader is elected during a partition";
        let bench = Bench::new(Sightings::default()).boots(3).on(0, partition(true)).leads(0, 1);
        assert!(points(&bench).contains_key(claim));
        let bench = Bench::new(Sightings::default()).boots(3);
        let bench = bench.on(0, partition(true)).on(0, partition(false)).leads(0, 1);
        assert!(!points(&bench).contains_key(claim));
    }

    #[test]
    fn the_dead_come_back_with_a_higher_incarnation() {
        let says = |incarnation, change| Observed::Member {
            node_id: 1,
            name: "n1".into(),
            addr: ([10, 0, 0, 2], 1).into(),
            incarnation,
            change,
        };
        let bench = Bench::new(Sightings::default()).boots(2).says(0, says(3, MemberChange::Failed));
        let bench = bench.says(0, says(4, MemberChange::Joined));
        assert!(points(&bench).contains_key("a dead member rejoins with a higher incarnation"));
    }
}
