//! The streaming checks of Raft against a small Raft that lives in this file.
//!
//! A check that objects to a correct system is as useless as one that never objects. So here is Raft
//! without a network or a clock: any node may do any step at any time, drawn from a seed, and says about
//! itself what a real node says. Left correct, no check may object in any run. With one rule broken, the
//! check for that rule must object in some run.
//!
//! Left out: membership changes.

use std::collections::{BTreeMap, BTreeSet};

use driftline::env::Observed;
use driftline::env::observe::RaftRole;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sim::check::{Checks, End, Event, Settings, Stop};

/// The rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// The vote is called durable and is not.
    ForgetsVote,
    /// Votes are granted whatever the candidate's log.
    VotesForAnyLog,
    /// An acknowledgement does not wait for the sync.
    AcknowledgesEarly,
    /// The sync is called done and is not.
    LiesAboutSync,
    /// Replicas are counted for entries of older terms (the paper's figure 8).
    CommitsOldTerms,
    /// A follower keeps the tail that conflicts, and writes on behind it.
    KeepsConflicts,
    /// The state depends on the node.
    AppliesItsOwnWay,
    /// A snapshot is called durable and is not.
    ForgetsSnapshot,
}

#[derive(Clone, Default)]
struct Node {
    up: bool,
    leads: bool,
    term: u64,
    vote: Option<usize>,
    /// What a power loss leaves of term and vote.
    saved: (u64, Option<usize>),
    /// Entries after the snapshot: index, term, content.
    log: BTreeMap<u64, (u64, u64)>,
    durable: u64,
    /// What a power loss leaves at least.
    synced: u64,
    applied: u64,
    state: u64,
    /// Index, term, state.
    snapshot: (u64, u64, u64),
    safe_snapshot: (u64, u64, u64),
    /// As leader: what each node has acknowledged.
    matched: BTreeMap<usize, u64>,
}

impl Node {
    fn last(&self) -> (u64, u64) {
        self.log
            .last_key_value()
            .map_or((self.snapshot.0, self.snapshot.1), |(index, (term, _))| (*index, *term))
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.snapshot.0 {
            Some(self.snapshot.1)
        } else {
            self.log.get(&index).map(|(term, _)| *term)
        }
    }
}

struct Cluster {
    nodes: Vec<Node>,
    bug: Bug,
    rng: StdRng,
    checks: Checks,
    /// Of a thousand steps so many are elections.
    unrest: u32,
    now_ns: u64,
}

fn mix(a: u64, b: u64) -> u64 {
    (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(23).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

impl Cluster {
    fn new(bug: Bug, seed: u64) -> Cluster {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = if rng.random_bool(0.5) { 3 } else { 5 };
        let unrest = [5, 15, 60][rng.random_range(0..3)];
        let mut cluster = Cluster {
            nodes: vec![Node::default(); count],
            bug,
            rng,
            checks: Checks::new(&Settings::default()),
            unrest,
            now_ns: 0,
        };
        let voters = vec![(1..=count as u64).collect::<Vec<_>>()];
        (0..count).for_each(|node| cluster.start(node));
        for node in 0..count {
            cluster.say(node, Observed::Membership { index: 0, voters: voters.clone(), learners: vec![] });
        }
        cluster
    }

    fn tell(&mut self, node: usize, event: Event<'_>) {
        self.now_ns += 1_000_000;
        self.checks.on(self.now_ns, node as u32, event);
    }

    fn say(&mut self, node: usize, observed: Observed) {
        self.tell(node, Event::Observed(&observed));
    }

    fn start(&mut self, at: usize) {
        let name = format!("n{at}");
        self.tell(at, Event::Started { name: &name });
        let node = &mut self.nodes[at];
        node.up = true;
        (node.applied, node.state) = (node.snapshot.0, node.snapshot.2);
        node.durable = node.last().0;
        node.synced = node.durable;
        let observed = Observed::Recovered {
            raft_id: at as u64 + 1,
            term: node.term,
            last_index: node.last().0,
            applied: node.applied,
            log: node.log.iter().map(|(index, (term, content))| (*index, *term, *content)).collect(),
        };
        self.say(at, observed);
    }

    fn stop(&mut self, at: usize, stop: Stop) {
        let keep = self.rng.random_range(0..=4u64);
        let node = &mut self.nodes[at];
        (node.up, node.leads) = (false, false);
        if stop == Stop::PowerLoss {
            (node.term, node.vote) = node.saved;
            node.snapshot = node.safe_snapshot;
            let kept = node.synced + keep;
            node.log.retain(|index, _| *index <= kept);
        }
        self.tell(at, Event::Stopped(stop));
    }

    fn save_vote(&mut self, at: usize, term: u64, candidate: usize, committed: bool) {
        let node = &mut self.nodes[at];
        if (node.term, node.vote) != (term, Some(candidate)) {
            node.leads = false;
        }
        (node.term, node.vote) = (term, Some(candidate));
        if self.bug != Bug::ForgetsVote {
            node.saved = (term, Some(candidate));
        }
        self.say(at, Observed::Vote { term, candidate: candidate as u64 + 1, committed });
    }

    fn append(&mut self, at: usize, index: u64, entry: (u64, u64)) {
        self.nodes[at].log.insert(index, entry);
        self.say(at, Observed::Appended { index, term: entry.0, digest: entry.1 });
    }

    fn sync(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.durable = node.last().0;
        if self.bug != Bug::LiesAboutSync {
            node.synced = node.durable;
        }
        let index = node.durable;
        self.say(at, Observed::Durable { index });
    }

    fn elect(&mut self, candidate: usize) {
        let (term, last) = (self.nodes[candidate].term + 1, self.nodes[candidate].last());
        self.save_vote(candidate, term, candidate, false);
        let mut votes = 1;
        for voter in 0..self.nodes.len() {
            let node = &self.nodes[voter];
            let newer = (last.1, last.0) >= (node.last().1, node.last().0) || self.bug == Bug::VotesForAnyLog;
            let free =
                term > node.term || (term == node.term && node.vote.is_none_or(|vote| vote == candidate));
            if voter != candidate && node.up && newer && free && self.rng.random_bool(0.7) {
                self.save_vote(voter, term, candidate, false);
                votes += 1;
            }
        }
        if votes * 2 > self.nodes.len() {
            self.save_vote(candidate, term, candidate, true);
            self.nodes[candidate].leads = true;
            self.nodes[candidate].matched.clear();
            let leader = Some(candidate as u64 + 1);
            self.say(candidate, Observed::Role { term, role: RaftRole::Leader, leader });
            self.propose(candidate);
        }
    }

    fn propose(&mut self, leader: usize) {
        let (index, term) = (self.nodes[leader].last().0 + 1, self.nodes[leader].term);
        let content = self.rng.random();
        self.append(leader, index, (term, content));
    }

    fn replicate(&mut self, leader: usize, to: usize) {
        let source = self.nodes[leader].clone();
        if !self.nodes[to].up || self.nodes[to].term > source.term {
            return;
        }
        self.save_vote(to, source.term, leader, true);
        // The newest index at which both agree, or a snapshot if that is gone.
        let mut agreed = self.nodes[to].last().0.min(source.last().0);
        while agreed > self.nodes[to].applied && self.nodes[to].term_at(agreed) != source.term_at(agreed) {
            agreed -= 1;
        }
        if agreed < source.snapshot.0 {
            // Whatever is behind what it knows to be committed may be wrong, so it goes first.
            let kept = self.nodes[to].applied;
            self.say(to, Observed::Truncated { index: kept });
            let (index, term, state) = source.snapshot;
            let node = &mut self.nodes[to];
            node.snapshot = source.snapshot;
            node.safe_snapshot = source.snapshot;
            node.log.clear();
            (node.applied, node.state, node.durable, node.synced) = (index, state, index, index);
            self.say(to, Observed::SnapshotInstalled { index, term, state });
            self.say(to, Observed::Purged { index });
            agreed = index;
        }
        if self.nodes[to].last().0 > agreed
            && self.nodes[to].term_at(agreed + 1) != source.term_at(agreed + 1)
        {
            if source.last().0 == agreed {
                // Nothing conflicts yet: the tail may stay.
            } else if self.bug == Bug::KeepsConflicts {
                agreed = self.nodes[to].last().0.min(source.last().0);
            } else {
                let node = &mut self.nodes[to];
                node.log.retain(|index, _| *index <= agreed);
                node.durable = node.durable.min(agreed);
                node.synced = node.synced.min(agreed);
                self.say(to, Observed::Truncated { index: agreed });
            }
        }
        let most = self.rng.random_range(0..4u64);
        let first = self.nodes[to].last().0.min(source.last().0).max(agreed) + 1;
        for index in first..(first + most).min(source.last().0 + 1) {
            if index == self.nodes[to].last().0 + 1 {
                self.append(to, index, source.log[&index]);
            }
        }
        if self.rng.random_bool(0.7) {
            self.sync(to);
        }
        let reached = self.nodes[to].last().0.min(source.last().0);
        let known =
            if self.bug == Bug::AcknowledgesEarly { reached } else { reached.min(self.nodes[to].durable) };
        // Acknowledged is only what this round made sure of.
        let sure = known.min(first.saturating_sub(1) + most);
        let matched = self.nodes[leader].matched.entry(to).or_default();
        *matched = (*matched).max(sure);
        let commit = source.applied.min(reached.min(first.saturating_sub(1) + most));
        self.apply_to(to, commit);
    }

    fn commit(&mut self, leader: usize) {
        let node = &self.nodes[leader];
        let own = if self.bug == Bug::AcknowledgesEarly { node.last().0 } else { node.durable };
        let mut acknowledged: Vec<u64> = (0..self.nodes.len())
            .map(|peer| if peer == leader { own } else { node.matched.get(&peer).copied().unwrap_or(0) })
            .collect();
        acknowledged.sort_unstable();
        let index = acknowledged[(acknowledged.len() - 1) / 2];
        if node.term_at(index) == Some(node.term) || self.bug == Bug::CommitsOldTerms {
            self.apply_to(leader, index);
        }
    }

    fn apply_to(&mut self, at: usize, commit: u64) {
        while self.nodes[at].applied < commit {
            let index = self.nodes[at].applied + 1;
            let Some(&(term, entry)) = self.nodes[at].log.get(&index) else { return };
            let own = if self.bug == Bug::AppliesItsOwnWay { at as u64 } else { 0 };
            let node = &mut self.nodes[at];
            node.applied = index;
            node.state = mix(node.state, entry + own);
            let state = node.state;
            self.say(at, Observed::Applied { index, term, entry, state });
        }
    }

    fn snapshot(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let index = node.applied;
        let Some(term) = node.term_at(index).filter(|_| index > node.snapshot.0) else { return };
        node.snapshot = (index, term, node.state);
        if self.bug != Bug::ForgetsSnapshot {
            node.safe_snapshot = node.snapshot;
        }
        // Entries stay until they are purged; the model purges at once.
        node.log.retain(|kept, _| *kept > index);
        (node.durable, node.synced) = (node.durable.max(index), node.synced.max(index));
        self.say(at, Observed::SnapshotBuilt { index, term });
        self.say(at, Observed::Purged { index });
    }

    fn step(&mut self) {
        let leaders: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].leads).collect();
        let mut at = self.rng.random_range(0..self.nodes.len());
        if !leaders.is_empty() && self.rng.random_bool(0.7) {
            at = leaders[self.rng.random_range(0..leaders.len())];
        }
        let other = self.rng.random_range(0..self.nodes.len());
        if !self.nodes[at].up {
            if self.rng.random_bool(0.3) {
                self.start(at);
            }
            return;
        }
        let leads = self.nodes[at].leads;
        match self.rng.random_range(0..1000) {
            drawn if drawn < self.unrest => self.elect(at),
            60..66 => self.stop(at, Stop::PowerLoss),
            66..70 => self.stop(at, Stop::Kill),
            70..80 => self.snapshot(at),
            80..200 => self.sync(at),
            200..400 if leads => self.propose(at),
            400..800 if leads && other != at => self.replicate(at, other),
            800..1000 if leads => self.commit(at),
            _ => {}
        }
    }
}

/// The checks that objected in a run.
fn run(bug: Bug, seed: u64) -> (BTreeSet<String>, String) {
    let mut cluster = Cluster::new(bug, seed);
    for _ in 0..1000 {
        cluster.step();
    }
    let violations = cluster.checks.finish(&End::default()).violations;
    let first = violations.first().map(|violation| violation.detail.clone()).unwrap_or_default();
    (violations.into_iter().map(|violation| violation.check).collect(), first)
}

#[test]
fn no_check_objects_to_a_correct_raft() {
    for seed in 0..300 {
        let (checks, first) = run(Bug::None, seed);
        assert!(checks.is_empty(), "seed {seed}: {checks:?}: {first}");
    }
}

#[test]
fn each_broken_rule_is_noticed_by_the_check_for_it() {
    for (bug, check) in [
        (Bug::ForgetsVote, "ES"),
        (Bug::ForgetsVote, "MV"),
        (Bug::VotesForAnyLog, "LC"),
        (Bug::AcknowledgesEarly, "CQ"),
        (Bug::LiesAboutSync, "MV"),
        (Bug::CommitsOldTerms, "LC"),
        (Bug::KeepsConflicts, "LM"),
        (Bug::AppliesItsOwnWay, "SMS"),
        (Bug::ForgetsSnapshot, "MV"),
    ] {
        let seen = (0..4000).find(|seed| run(bug, *seed).0.contains(check));
        assert!(seen.is_some(), "{check} never noticed {bug:?}");
    }
}
