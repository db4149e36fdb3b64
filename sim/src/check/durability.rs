//! DUR: at the end every node has what was acknowledged, and nothing that was refused (Raft, section 8).
//!
//! Judged from the whole stores that the live nodes show after heal, of those that have applied the most.
//! They must be equal, and what they hold for a key must be explained by a write that no acknowledged
//! write certainly followed: one that was called only after the other had returned. That is weaker than
//! LIN with final reads and needs no search, so it still speaks where LIN met its bound.
//!
//! Let pass: keys that no client of the history wrote, or that one appended to; and nodes that lag behind, which LIVE judges.

use std::collections::{BTreeMap, BTreeSet};

use super::linearizable::describe;
use super::view::View;
use super::{At, End, Findings};
use crate::history::{Action, Operation, Outcome, Response};

/// Judges the end of a run.
pub fn check(end: &End, view: &View, findings: &mut Findings) {
    let newest = end.stores.keys().map(|node| view.node(*node).applied).max().flatten();
    let mut shown: Option<(u32, &BTreeMap<String, (String, u64)>)> = None;
    for (node, store) in end.stores.iter().filter(|(node, _)| view.node(**node).applied == newest) {
        let Some((first, first_store)) = shown else {
            shown = Some((*node, store));
            continue;
        };
        let keys: BTreeSet<&String> = first_store.keys().chain(store.keys()).collect();
        if let Some(key) = keys.into_iter().find(|key| first_store.get(*key) != store.get(*key)) {
            findings.add(
                "DUR",
                At { ns: end.at_ns, node: *node },
                format!(
                    "at the end node {node} has {} for key {key:?}, node {first} has {}",
                    name(store.get(key)),
                    name(first_store.get(key))
                ),
            );
        }
    }
    let Some((_, store)) = shown else { return };
    let appended: BTreeSet<&str> = end
        .history
        .iter()
        .filter(|operation| matches!(operation.action, Action::Append { .. }))
        .map(|operation| operation.key.as_str())
        .collect();
    let mut writes: BTreeMap<&str, Vec<Write<'_>>> = BTreeMap::new();
    for write in end.history.iter().filter_map(Write::of) {
        writes.entry(&write.operation.key).or_default().push(write);
    }
    for (key, writes) in writes {
        if appended.contains(key) {
            continue;
        }
        if let Some(problem) = judge(key, &writes, store.get(key)) {
            findings.add_global("DUR", end.at_ns, problem);
        }
    }
}

fn name(held: Option<&(String, u64)>) -> String {
    held.map_or("nothing".to_owned(), |(value, index)| format!("{value:?} (index {index})"))
}

/// An operation that changed its key, or may have.
struct Write<'a> {
    operation: &'a Operation,
    /// What it left; `None` for a delete.
    leaves: Option<&'a str>,
    acknowledged: bool,
}

impl<'a> Write<'a> {
    fn of(operation: &'a Operation) -> Option<Write<'a>> {
        let acknowledged = match &operation.outcome {
            Outcome::Ok(Response::Done(true)) => true,
            Outcome::Ok(Response::Done(false)) if operation.action == Action::Delete => true,
            Outcome::Unknown(_) => false,
            Outcome::Ok(_) | Outcome::Failed(_) => return None,
        };
        // What an append leaves depends on what was there: LIN's business.
        if matches!(operation.action, Action::Get | Action::Append { .. }) {
            return None;
        }
        Some(Write { operation, leaves: operation.action.writes(), acknowledged })
    }

    fn certainly_before(&self, other: &Write<'_>) -> bool {
        self.operation.returned_ns.is_some_and(|returned| returned < other.operation.invoked_ns)
            && self.acknowledged
    }
}

/// What is wrong with `held` after these writes of one key.
fn judge(key: &str, writes: &[Write<'_>], held: Option<&(String, u64)>) -> Option<String> {
    let value = held.map(|(value, _)| value.as_str());
    let mut sources = writes.iter().filter(|write| write.leaves == value).peekable();
    let acknowledged = || writes.iter().filter(|write| write.acknowledged);
    if sources.peek().is_none() {
        return match value {
            Some(_) => Some(format!("at the end key {key:?} holds {}, which nobody wrote", name(held))),
            None => acknowledged().max_by_key(|write| write.operation.invoked_ns).map(|lost| {
                let lost = describe(lost.operation);
                format!("at the end key {key:?} holds nothing, but nobody deleted it after\n    {lost}")
            }),
        };
    }
    let followed = |source: &Write<'_>| acknowledged().find(|later| source.certainly_before(later));
    let mut blocked = None;
    for source in sources {
        match followed(source) {
            None => return None,
            Some(later) => blocked = Some((source, later)),
        }
    }
    // Before the first write a key is empty as if deleted; that has been followed as well.
    blocked.map(|(source, later)| {
        format!(
            "at the end key {key:?} holds {}, left by\n    {}\n  and lost is the later\n    {}",
            name(held),
            describe(source.operation),
            describe(later.operation)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::*;
    use crate::history::test::Story;
    use driftline::env::Observed;

    fn found(story: Story, stores: &[Option<(&str, u64)>]) -> Vec<String> {
        found_with(story, stores, &View::default())
    }

    fn found_with(story: Story, stores: &[Option<(&str, u64)>], view: &View) -> Vec<String> {
        let store = |held: &Option<(&str, u64)>| {
            held.map(|(value, index)| ("k".to_owned(), (value.to_owned(), index))).into_iter().collect()
        };
        let stores = (0..).zip(stores.iter().map(store)).collect();
        let mut findings = Findings::default();
        let end = End { at_ns: 99, history: story.0, stores, ..End::default() };
        check(&end, view, &mut findings);
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    fn story() -> Story {
        Story::default().put((0, 1), "a").put((2, 9), "b").put((5, 12), "c")
    }

    #[test]
    fn the_last_write_or_one_that_overlaps_it_is_accepted() {
        for value in ["b", "c"] {
            assert!(found(story(), &[Some((value, 3)), Some((value, 3))]).is_empty());
        }
        assert!(found(story().delete((20, 21)), &[None]).is_empty());
        assert!(
            found(story().add((20, u64::MAX), Action::Delete, Outcome::Unknown("lost".into())), &[None])
                .is_empty()
        );
        assert!(found(story().maybe_put(20, "d"), &[Some(("d", 9))]).is_empty());
        assert!(found(Story::default(), &[None, None]).is_empty());
    }

    #[test]
    fn a_lost_write_is_rejected() {
        assert!(found(story(), &[Some(("a", 1))])[0].contains("lost is the later"));
        assert!(found(story(), &[None])[0].contains("nobody deleted it after"));
        let deleted = Story::default().delete((0, 1)).put((2, 3), "a");
        assert!(found(deleted, &[None])[0].contains("lost is the later"));
    }

    #[test]
    fn a_refused_write_that_is_there_is_rejected() {
        let refused = Action::Put { value: "d".into() };
        let story = story().add((20, 21), refused, Outcome::Failed("no leader".into()));
        assert!(found(story, &[Some(("d", 9))])[0].contains("which nobody wrote"));
    }

    #[test]
    fn a_node_that_lags_is_not_asked() {
        let mut view = View::default();
        for (node, index) in [(0, 4), (1, 9)] {
            let applied = Observed::Applied { index, term: 1, entry: 0, state: 0 };
            view.on(At { ns: 1, node }, &Event::Observed(&applied));
        }
        assert!(found_with(story(), &[Some(("a", 1)), Some(("c", 3))], &view).is_empty());
        assert!(
            found_with(story(), &[Some(("c", 3)), Some(("a", 1))], &view)[0].contains("lost is the later")
        );
    }

    #[test]
    fn nodes_that_differ_are_rejected() {
        assert!(found(story(), &[Some(("c", 3)), Some(("b", 2))])[0].contains("node 1 has \"b\""));
        assert!(found(story(), &[Some(("c", 3)), Some(("c", 4))])[0].contains("(index 4)"));
    }
}
