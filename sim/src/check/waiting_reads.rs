//! WATCH: a read that waits for something newer than index N comes back early only when there is something newer, comes
//! back when there is, and never with an index below N (Consul's blocking queries). What is newer is a change of this key: an answer's index is that
//! of the last change of the key that it shows; and who comes back early without one has a reason to if somebody may have
//! changed the key.
//!
//! Let pass, but for an index that goes back or is not the key's: whatever happens while a fault that is felt in gossip
//! lasts anywhere, because the node's clock may jump. And half of the wait only is taken for granted, because clocks run at
//! different rates.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::looks::{Life, Lives, Look, LookKind};
use super::touched::Touched;
use super::{At, Findings};
use crate::history::{Operation, Outcome, Response};

/// Judges what was seen.
pub fn check(
    looks: &[Look],
    lives: &Lives,
    history: &[Operation],
    touched: &Touched<'_>,
    findings: &mut Findings,
) {
    let mut versions: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for operation in history {
        if let Outcome::Ok(Response::Value(Some(seen))) = &operation.outcome {
            versions.entry(&operation.key).or_default().insert(seen.modify_index);
        }
    }
    let none = BTreeSet::new();
    // When each index of a key was asked for, last.
    let mut told: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    let mut in_order: Vec<&Look> = looks.iter().collect();
    in_order.sort_by_key(|look| look.invoked_ns);
    for look in in_order {
        let versions = versions.get(look.key.as_str()).unwrap_or(&none);
        let problem = watched(look, lives.of(look.node), versions);
        if let Some(problem) = problem.or_else(|| without_a_cause(look, lives.of(look.node), &told, touched))
        {
            findings.add("WATCH", At { ns: look.returned_ns, node: look.node }, problem);
        }
        told.insert((&look.key, look.index), look.invoked_ns);
    }
}

/// What is wrong with the index that woke a reader. `told` is when each index had been asked for.
fn without_a_cause(
    look: &Look,
    life: &Life,
    told: &BTreeMap<(&str, u64), u64>,
    touched: &Touched<'_>,
) -> Option<String> {
    let LookKind::Watch { since, wait_ms } = look.kind else { return None };
    let Look { key, index, changed, invoked_ns, returned_ns, .. } = look;
    if let Some(changed) = changed.filter(|changed| changed != index) {
        return Some(format!(
            "a read of key {key:?} that waited came back with index {index}, and the key changed at {changed}"
        ));
    }
    let asked_ns = *told.get(&(key.as_str(), since))?;
    // The index of what is not there is the store's.
    let early = returned_ns - invoked_ns < wait_ms * 500_000 && life.is_calm(*invoked_ns, *returned_ns);
    let woken = *index > since && changed.is_none();
    (woken && early && !touched.key(key, asked_ns, *returned_ns)).then(|| {
        format!(
            "a read of key {key:?} that waited for more than index {since} came back with index {index}, though nobody \
             had changed the key, which is not there"
        )
    })
}

/// What is wrong with the answer to a read that waited. `versions` are the indexes at which its key was read.
fn watched(look: &Look, life: &Life, versions: &BTreeSet<u64>) -> Option<String> {
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
    let missed = versions
        .range((Bound::Excluded(since), Bound::Unbounded))
        .next()
        .filter(|version| **version <= applied)?;
    Some(format!(
        "a read of key {key:?} waited on node {node} for more than index {since} until its time was over, though the \
         node had applied a change at index {missed}"
    ))
}

#[cfg(test)]
mod tests {
    use driftline::env::Observed;

    use super::super::looks::test::{lives, look};
    use super::super::{Event, Stop};
    use super::*;
    use crate::history::{Action, Versioned};

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

    fn objects(happened: &[(u64, Event<'_>)], look: Look, history: &[Operation]) -> bool {
        all_object(happened, &[look], history)
    }

    fn all_object(happened: &[(u64, Event<'_>)], looks: &[Look], history: &[Operation]) -> bool {
        let mut findings = Findings::default();
        check(looks, &lives(happened), history, &Touched::of(history), &mut findings);
        findings.violations.iter().any(|violation| violation.check == "WATCH")
    }

    #[test]
    fn a_watcher_comes_back_with_news_or_when_its_time_is_over() {
        assert!(!objects(&[], watch(5, 0, 10, 6), &[]));
        assert!(!objects(&[], watch(5, 0, 1_000, 5), &[]));
        let late = applied(6);
        let news = [(800, Event::Observed(&late))];
        assert!(!objects(&news, watch(5, 0, 1_000, 5), &[seen(6)]), "the clock may run fast");
    }

    #[test]
    fn a_watcher_that_is_woken_for_nothing_or_not_at_all_or_sent_back_is_noticed() {
        assert!(objects(&[], watch(5, 0, 10, 5), &[]));
        assert!(objects(&[], watch(5, 0, 10, 4), &[]));
        let early = applied(6);
        let news = [(100, Event::Observed(&early))];
        assert!(objects(&news, watch(5, 0, 1_000, 5), &[seen(6)]));
        let storm = [(5, Event::FaultBegan), (6, Event::FaultEnded)];
        assert!(!objects(&storm, watch(5, 0, 10, 5), &[]), "its clock may have jumped");
        let restart = [(5, Event::Stopped(Stop::Kill))];
        assert!(!objects(&restart, watch(5, 0, 10, 5), &[]));
    }

    #[test]
    fn an_index_that_grows_without_a_change_of_the_key_is_noticed() {
        let other = Look { changed: Some(5), ..watch(5, 0, 10, 7) };
        assert!(objects(&[], other, &[seen(5)]), "the index of some other change");
        let first = Look { changed: None, ..look(LookKind::Plain, 0, 1, 5) };
        let woken = Look { changed: None, ..watch(5, 1, 10, 7) };
        let written = |until_ms: u64| Operation {
            action: Action::Put { value: "v".into() },
            outcome: Outcome::Ok(Response::Done(true)),
            invoked_ns: 0,
            returned_ns: Some(until_ms * 1_000_000),
            ..seen(7)
        };
        let story = [first, woken];
        assert!(all_object(&[], &story, &[]));
        assert!(!all_object(&[], &story, &[written(9)]), "written and deleted");
        let elsewhere = Operation { key: "other".into(), ..written(9) };
        assert!(all_object(&[], &story, &[elsewhere]));
        let late = Look { changed: None, ..watch(5, 1, 1_001, 7) };
        assert!(!all_object(&[], &[story[0].clone(), late], &[]), "its time was over");
    }
}
