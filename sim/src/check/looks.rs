//! STALE and WATCH: what reads promise that are allowed to be old, or that wait.
//!
//! STALE: what one node shows in answer to `?stale` may be old, but it never goes back behind what this node
//! showed before, not even over its restarts (session monotonicity at one server; Terry and others, 1994: monotonic
//! reads).
//!
//! WATCH: a read that waits for something newer than index N comes back early only when there is something newer, comes
//! back when there is, and never with an index below N (Consul's blocking queries).
//!
//! Both are judged by the index in the answer: that of the key's last change, or of the store's if the key is absent.
//! Either way a later state of one store has no smaller one.
//!
//! Let pass: STALE when the node has become another (a new Raft id) meanwhile. WATCH, but for an index that goes back,
//! while a fault that is felt in gossip lasts anywhere: the node's clock may jump. And it takes half of the wait for
//! granted only, because clocks run at different rates.

use std::collections::BTreeMap;

use driftline::env::Observed;

use super::{At, Event, Findings};
use crate::history::{Operation, Outcome, Response};

/// A read that is not, or not only, part of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Which client asked.
    pub client: u32,
    /// Which node it asked.
    pub node: u32,
    /// The key.
    pub key: String,
    /// How it asked.
    pub kind: LookKind,
    /// When it asked.
    pub invoked_ns: u64,
    /// When it was answered.
    pub returned_ns: u64,
    /// The index that came with the answer.
    pub index: u64,
}

/// How a client looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookKind {
    /// As usual, to learn an index.
    Plain,
    /// It may be old.
    Stale,
    /// Once there is something newer, or the time is over.
    Watch {
        /// Newer than this index.
        since: u64,
        /// How long it is willing to wait, by the node's clock.
        wait_ms: u64,
    },
}

/// What is known of a node over time.
#[derive(Debug, Default)]
struct Life {
    raft_id: Option<u64>,
    /// When it became another.
    reborn: Vec<u64>,
    /// How far its state was, from when on.
    applied: Vec<(u64, u64)>,
    /// When a fault that touches it began or ended, or it started or stopped.
    moved: Vec<u64>,
    /// Faults in force.
    faults: u32,
    /// Since when, if there are any, and earlier such times.
    stormy: Vec<(u64, u64)>,
}

impl Life {
    fn is_calm(&self, from: u64, to: u64) -> bool {
        let at = self.moved.partition_point(|moved| *moved < from);
        let quiet = self.moved.get(at).is_none_or(|next| *next > to);
        let stormy = self.stormy.iter().any(|(begin, end)| *begin <= to && from <= *end);
        quiet && !stormy
    }

    /// The last index applied at a time, in the life it was then in.
    fn applied_at(&self, ns: u64) -> u64 {
        let at = self.applied.partition_point(|(when, _)| *when <= ns);
        at.checked_sub(1).map_or(0, |at| self.applied[at].1)
    }

    fn became_another(&self, from: u64, to: u64) -> bool {
        self.reborn.iter().any(|at| from <= *at && *at <= to)
    }
}

/// Follows the nodes; judges at the end.
#[derive(Debug, Default)]
pub struct Looks {
    lives: BTreeMap<u32, Life>,
}

impl Looks {
    /// Follows an event.
    pub fn on(&mut self, at: At, event: &Event<'_>) {
        let life = self.lives.entry(at.node).or_default();
        match event {
            Event::Started { .. } | Event::Stopped(_) => life.moved.push(at.ns),
            Event::FaultBegan => {
                life.faults += 1;
                if life.faults == 1 {
                    life.stormy.push((at.ns, u64::MAX));
                }
            }
            Event::FaultEnded => {
                life.faults = life.faults.saturating_sub(1);
                if life.faults == 0
                    && let Some((_, end)) = life.stormy.last_mut()
                {
                    *end = at.ns;
                }
            }
            Event::Observed(Observed::Recovered { raft_id, applied, .. }) => {
                if life.raft_id.is_some_and(|before| before != *raft_id) {
                    life.reborn.push(at.ns);
                }
                life.raft_id = Some(*raft_id);
                life.applied.push((at.ns, *applied));
            }
            Event::Observed(Observed::Applied { index, .. } | Observed::SnapshotInstalled { index, .. }) => {
                life.applied.push((at.ns, *index));
            }
            _ => {}
        }
    }

    /// Judges what was seen.
    pub fn check(&self, looks: &[Look], history: &[Operation], findings: &mut Findings) {
        let nothing = Life::default();
        for look in looks {
            let life = self.lives.get(&look.node).unwrap_or(&nothing);
            if let Some(problem) = watched(look, life, history) {
                findings.add("WATCH", At { ns: look.returned_ns, node: look.node }, problem);
            }
        }
        let mut by_place: BTreeMap<(u32, &str), Vec<&Look>> = BTreeMap::new();
        for look in looks {
            by_place.entry((look.node, &look.key)).or_default().push(look);
        }
        for ((node, key), looks) in by_place {
            let life = self.lives.get(&node).unwrap_or(&nothing);
            let went_back = |later: &&Look| {
                let newer = |earlier: &&&Look| {
                    earlier.returned_ns < later.invoked_ns
                        && earlier.index > later.index
                        && !life.became_another(earlier.invoked_ns, later.returned_ns)
                };
                looks.iter().find(newer).copied()
            };
            let stale = looks.iter().copied().filter(|look| look.kind == LookKind::Stale);
            for later in stale {
                if let Some(earlier) = went_back(&later) {
                    let detail = format!(
                        "node {node} showed key {key:?} at index {} and later, asked for what it has, at index {}",
                        earlier.index, later.index
                    );
                    findings.add("STALE", At { ns: later.returned_ns, node }, detail);
                    break;
                }
            }
        }
    }
}

/// What is wrong with the answer to a read that waited.
fn watched(look: &Look, life: &Life, history: &[Operation]) -> Option<String> {
    let LookKind::Watch { since, wait_ms } = look.kind else { return None };
    let Look { key, node, index, invoked_ns, returned_ns, .. } = look;
    if *index < since {
        return Some(format!(
            "a read of key {key:?} that waited for more than index {since} came back with index {index}"
        ));
    }
    if *index > since || !life.is_calm(*invoked_ns, *returned_ns) {
        return None;
    }
    let half_ns = wait_ms * 500_000;
    if returned_ns - invoked_ns < half_ns {
        return Some(format!(
            "a read of key {key:?} that waited for more than index {since} came back after {} ms of {wait_ms} though \
             there was nothing new",
            (returned_ns - invoked_ns) / 1_000_000
        ));
    }
    let applied = life.applied_at(invoked_ns + half_ns);
    let versions = history.iter().filter(|operation| operation.key == *key);
    let missed = versions.filter_map(|operation| match &operation.outcome {
        Outcome::Ok(Response::Value(Some(seen))) => Some(seen.modify_index),
        _ => None,
    });
    let missed = missed.filter(|version| *version > since && *version <= applied).min()?;
    Some(format!(
        "a read of key {key:?} waited on node {node} for more than index {since} until its time was over, though the \
         node had applied a change at index {missed}"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Stop;
    use super::*;
    use crate::history::{Action, Versioned};

    const MS: u64 = 1_000_000;

    fn look(kind: LookKind, from_ms: u64, to_ms: u64, index: u64) -> Look {
        let (invoked_ns, returned_ns) = (from_ms * MS, to_ms * MS);
        Look { client: 0, node: 0, key: "k".to_owned(), kind, invoked_ns, returned_ns, index }
    }

    fn watch(since: u64, from_ms: u64, to_ms: u64, index: u64) -> Look {
        look(LookKind::Watch { since, wait_ms: 1_000 }, from_ms, to_ms, index)
    }

    fn seen(modify_index: u64) -> Operation {
        Operation {
            id: modify_index,
            client: 0,
            node: 0,
            key: "k".to_owned(),
            action: Action::Get,
            invoked_ns: 0,
            outcome: Outcome::Ok(Response::Value(Some(Versioned { value: "v".to_owned(), modify_index }))),
            returned_ns: Some(1),
        }
    }

    fn applied(index: u64) -> Observed {
        Observed::Applied { index, term: 1, entry: 0, state: 0 }
    }

    fn recovered(raft_id: u64) -> Observed {
        Observed::Recovered { raft_id, term: 1, last_index: 0, applied: 0, log: vec![] }
    }

    /// The checks that object to these looks, with these things having happened to node 0.
    fn found(happened: &[(u64, Event<'_>)], looks: &[Look], history: &[Operation]) -> Vec<String> {
        let mut check = Looks::default();
        for (ms, event) in happened {
            check.on(At { ns: ms * MS, node: 0 }, event);
        }
        let mut findings = Findings::default();
        check.check(looks, history, &mut findings);
        findings.violations.into_iter().map(|violation| violation.check).collect()
    }

    #[test]
    fn an_old_answer_passes_and_one_that_is_older_than_the_nodes_last_does_not() {
        let earlier = look(LookKind::Plain, 0, 10, 7);
        let stale = |from_ms, index| look(LookKind::Stale, from_ms, from_ms + 5, index);
        assert!(found(&[], &[earlier.clone(), stale(20, 7), stale(30, 9)], &[]).is_empty());
        assert!(
            found(&[], &[earlier.clone(), stale(5, 3)], &[]).is_empty(),
            "asked before the other was told"
        );
        assert_eq!(found(&[], &[earlier.clone(), stale(20, 6)], &[]), ["STALE"]);
        let (first, second) = (recovered(1), recovered(2));
        let reborn = [(1, Event::Observed(&first)), (15, Event::Observed(&second))];
        assert!(found(&reborn, &[earlier, stale(20, 6)], &[]).is_empty());
    }

    #[test]
    fn a_watcher_comes_back_with_news_or_when_its_time_is_over() {
        assert!(found(&[], &[watch(5, 0, 10, 6), watch(5, 0, 1_000, 5)], &[]).is_empty());
        let late = applied(6);
        let news = [(800, Event::Observed(&late))];
        assert!(found(&news, &[watch(5, 0, 1_000, 5)], &[seen(6)]).is_empty(), "the clock may run fast");
    }

    #[test]
    fn a_watcher_that_is_woken_for_nothing_or_not_at_all_or_sent_back_is_noticed() {
        assert_eq!(found(&[], &[watch(5, 0, 10, 5)], &[]), ["WATCH"]);
        assert_eq!(found(&[], &[watch(5, 0, 10, 4)], &[]), ["WATCH"]);
        let early = applied(6);
        let news = [(100, Event::Observed(&early))];
        assert_eq!(found(&news, &[watch(5, 0, 1_000, 5)], &[seen(6)]), ["WATCH"]);
        let storm = [(5, Event::FaultBegan), (6, Event::FaultEnded)];
        assert!(found(&storm, &[watch(5, 0, 10, 5)], &[]).is_empty(), "its clock may have jumped");
        let restart = [(5, Event::Stopped(Stop::Kill))];
        assert!(found(&restart, &[watch(5, 0, 10, 5)], &[]).is_empty());
    }
}
