//! VAL: a read shows only what somebody wrote to that key, and a store holds nothing else.
//!
//! The weakest promise of a store, and the one that no broken disk excuses: it may lose, and say so, but never
//! invent. LIN implies it for reads; this still speaks where LIN cannot (beyond repair, or past its bound).
//!
//! Let pass: keys that somebody appended to, and writes that were refused (LIN and DUR judge those).

use std::collections::{BTreeMap, BTreeSet};

use super::{At, End, Findings};
use crate::history::{Action, Operation, Outcome, Response};

/// Judges the end of a run.
pub fn check(end: &End, findings: &mut Findings) {
    let mut written: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut appended: BTreeSet<&str> = BTreeSet::new();
    for Operation { key, action, .. } in &end.history {
        if let Action::Append { .. } = action {
            appended.insert(key);
        }
        written.entry(key).or_default().extend(action.writes());
    }
    let known = |key: &str, value: &str| {
        appended.contains(key) || written.get(key).is_some_and(|values| values.contains(value))
    };
    for read in &end.history {
        if let Outcome::Ok(Response::Value(Some(seen))) = &read.outcome
            && !known(&read.key, &seen.value)
        {
            let at = At { ns: read.returned_ns.unwrap_or(read.invoked_ns), node: read.node };
            findings.add(
                "VAL",
                at,
                format!("key {:?} was read as {:?}, which nobody wrote", read.key, seen.value),
            );
        }
    }
    for (node, store) in &end.stores {
        // What no client of the history knows of, an experiment wrote.
        let held = store.iter().filter(|(key, _)| written.contains_key(key.as_str()));
        for (key, (value, _)) in held {
            if !known(key, value) {
                let at = At { ns: end.at_ns, node: *node };
                findings.add(
                    "VAL",
                    at,
                    format!("node {node} holds {value:?} for {key:?}, which nobody wrote"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Versioned;
    use crate::history::test::Story;

    fn found(story: Story, held: Option<&str>) -> Vec<String> {
        let store = held.map(|value| ("k".to_owned(), (value.to_owned(), 3))).into_iter().collect();
        let end = End { history: story.0, stores: BTreeMap::from([(0, store)]), ..End::default() };
        let mut findings = Findings::default();
        check(&end, &mut findings);
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    fn read(story: Story, value: &str) -> Story {
        let seen = Versioned { value: value.to_owned(), modify_index: 3 };
        story.add((20, 21), Action::Get, Outcome::Ok(Response::Value(Some(seen))))
    }

    #[test]
    fn what_was_written_at_any_time_is_accepted() {
        let story = || Story::default().put((0, 1), "a").put((2, 9), "b").maybe_put(5, "c");
        for value in ["a", "b", "c"] {
            assert!(found(read(story(), value), Some(value)).is_empty());
        }
        assert!(found(story(), None).is_empty());
    }

    #[test]
    fn what_nobody_wrote_is_rejected() {
        let story = || Story::default().put((0, 1), "a");
        assert!(found(read(story(), "a\0\0"), None)[0].contains("was read as \"a\\0\\0\""));
        assert!(found(story(), Some("b"))[0].contains("node 0 holds \"b\""));
    }
}
