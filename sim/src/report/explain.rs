//! What a violation means, in words for somebody who has never seen one, and which events it speaks of.
//!
//! For linearizability the search hands over its longest order and what cannot follow it; [`explain`] makes
//! sentences of that. Every other check says in its detail which operations, indexes, terms and members it is about;
//! [`named`] finds them there, and [`evidence`] looks up when and where they were seen.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::story::Story;
use crate::check::Violation;
use crate::check::linearizable::Broken;
use crate::history::{Action, Operation, Outcome, Response, Wording, jepsen};

/// So many events of one violation are pointed at; more would point at nothing.
const MOST_EVENTS: usize = 48;

/// So many operations that cannot follow are told in words.
const MOST_TOLD: usize = 4;

/// What a broken history means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// It in one line.
    pub headline: String,
    /// Why it cannot be, sentence by sentence.
    pub sentences: Vec<String>,
}

/// Says what cannot be about a key that no order explains.
pub fn explain(broken: &Broken, history: &[Operation]) -> Explained {
    let by_id: BTreeMap<u64, &Operation> =
        history.iter().map(|operation| (operation.id, operation)).collect();
    let state = broken.order.last().and_then(|placed| placed.after.clone());
    let holds = value(state.as_deref());
    let holder = broken.wording.holder();
    let subject =
        if broken.wording.one_register { holder.to_owned() } else { format!("key {:?}", broken.key) };
    let mut sentences = vec![format!(
        "Of the {} answers about {subject}, {} fit one order of events, in which each operation takes effect at one instant between its \
         call and its answer. After that order {holder} holds {holds}.",
        broken.total, broken.explained
    )];
    let reader = broken.reader.and_then(|id| by_id.get(&id).copied());
    let stuck: Vec<&Operation> = broken.stuck.iter().filter_map(|id| by_id.get(id).copied()).collect();
    let mut headline = None;
    for operation in stuck.iter().take(MOST_TOLD) {
        let what = did(operation, broken.wording);
        let sentence = match (needs(operation), reader) {
            (Some(seen), _) if seen != state => {
                let never = !history
                    .iter()
                    .any(|other| other.key == operation.key && other.action.writes() == seen.as_deref());
                let source = match (&seen, never) {
                    (Some(_), true) => ", which nobody wrote",
                    _ => "",
                };
                let line = format!("{} {what}{source}, but {holder} holds {holds}", name(operation));
                headline.get_or_insert_with(|| format!("Impossible answer about {subject}: {line} by then"));
                format!("{line}.")
            }
            (_, Some(reader)) if operation.id != reader.id => match gap(operation, reader, broken.wording) {
                Some(gap) => {
                    headline.get_or_insert_with(|| {
                        format!(
                            "Stale read of {subject}: {} {}, {gap} after {} had been told that it {what}",
                            name(reader),
                            did(reader, broken.wording),
                            who(operation),
                        )
                    });
                    format!(
                        "{} {what} and had its answer {gap} before {} was asked, so it comes first; but then {} could not have found \
                         {holds} any more, and it did.",
                        name(operation),
                        name(reader),
                        name(reader)
                    )
                }
                None => format!(
                    "{} {what}: taking effect now it would replace {holds}, which {} still finds later.",
                    name(operation),
                    name(reader)
                ),
            },
            _ => format!("{} {what} and cannot come next either.", name(operation)),
        };
        sentences.push(sentence);
    }
    if stuck.len() > MOST_TOLD {
        sentences.push(format!("{} more operations cannot come next either.", stuck.len() - MOST_TOLD));
    }
    let headline = headline.unwrap_or_else(|| {
        format!(
            "No order explains the answers about {subject}: {} of {} fit, and nothing can follow",
            broken.explained, broken.total
        )
    });
    Explained { headline, sentences }
}

/// The instants at which the operations of an order may have taken effect: as early as the order allows.
pub fn instants(broken: &Broken, history: &[Operation]) -> Vec<u64> {
    let by_id: BTreeMap<u64, &Operation> =
        history.iter().map(|operation| (operation.id, operation)).collect();
    let mut now = 0;
    let mut instant = |id: u64| {
        now = by_id.get(&id).map_or(now, |operation| operation.invoked_ns.max(now));
        now
    };
    broken.order.iter().map(|placed| instant(placed.id)).collect()
}

/// What the answer says that the key held, if it says so.
fn needs(operation: &Operation) -> Option<Option<String>> {
    match (&operation.action, &operation.outcome) {
        (Action::Get, Outcome::Ok(Response::Value(seen))) => {
            Some(seen.as_ref().map(|seen| seen.value.clone()))
        }
        (Action::Cas { expected, .. }, Outcome::Ok(Response::Done(true))) => Some(expected.clone()),
        _ => None,
    }
}

fn gap(first: &Operation, second: &Operation, wording: Wording) -> Option<String> {
    let ns = second.invoked_ns.checked_sub(first.returned_ns?)?;
    Some(match ns {
        _ if wording.by_place => match ns / jepsen::APART_NS {
            1 => "one event".to_owned(),
            events => format!("{events} events"),
        },
        0..10_000_000 => format!("{:.3} ms", ns as f64 / 1e6),
        10_000_000..10_000_000_000 => format!("{:.0} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    })
}

fn value(value: Option<&str>) -> String {
    value.map_or("nothing".to_owned(), |value| format!("{value:?}"))
}

fn who(operation: &Operation) -> String {
    format!("client {}", operation.client)
}

fn name(operation: &Operation) -> String {
    format!("op {} (client {})", operation.id, operation.client)
}

/// An operation in a few words.
fn did(operation: &Operation, wording: Wording) -> String {
    match (&operation.action, &operation.outcome) {
        (Action::Get, Outcome::Ok(Response::Value(seen))) => {
            format!("read {}", value(seen.as_ref().map(|seen| seen.value.as_str())))
        }
        (Action::Get, _) => "read".to_owned(),
        (Action::Put { value }, _) => format!("wrote {value:?}"),
        (Action::Delete, _) if wording.one_register => "wrote nothing".to_owned(),
        (Action::Delete, _) => "deleted the key".to_owned(),
        (Action::Append { value }, _) => format!("appended {value:?}"),
        (Action::Cas { expected, value: new }, Outcome::Ok(Response::Done(false))) => {
            format!(
                "was told that {} does not hold {}, so {new:?} was not written",
                wording.holder(),
                value(expected.as_deref())
            )
        }
        (Action::Cas { expected, value: new }, _) => {
            format!("changed {} to {new:?}", value(expected.as_deref()))
        }
    }
}

/// What the words of a check speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Operations by id.
    pub operations: BTreeSet<u64>,
    /// Nodes by number.
    pub nodes: BTreeSet<u32>,
    /// Log indexes.
    pub indexes: BTreeSet<u64>,
    /// Terms.
    pub terms: BTreeSet<u64>,
    /// Quoted texts: keys, members.
    pub quoted: BTreeSet<String>,
    /// Sessions, and paths of the API: what clients ask about beside keys.
    pub things: BTreeSet<String>,
}

/// Finds what a detail names: "op 7", "node 2", "index 12" or "entry 12", "term 3", "\"n1\"".
pub fn named(detail: &str) -> Named {
    let mut named = Named::default();
    let mut rest = String::new();
    let mut chars = detail.chars();
    while let Some(c) = chars.next() {
        if c != '"' {
            rest.push(c);
            continue;
        }
        let mut quoted = String::new();
        loop {
            match chars.next() {
                None | Some('"') => break,
                Some('\\') => quoted.extend(chars.next()),
                Some(c) => quoted.push(c),
            }
        }
        named.quoted.insert(quoted);
        rest.push('_');
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    for word in &words {
        let word = word.trim_end_matches([',', ':', ';', '.', ')']);
        if word.starts_with("/v1/") || (word.len() == 36 && word.matches('-').count() == 4) {
            named.things.insert(word.to_owned());
        }
    }
    for pair in words.windows(2) {
        let digits: String = pair[1].chars().take_while(char::is_ascii_digit).collect();
        let Ok(number) = digits.parse::<u64>() else { continue };
        match pair[0].trim_start_matches(['(', '[']) {
            "op" => named.operations.extend([number]),
            "node" => named.nodes.extend(u32::try_from(number)),
            "index" | "entry" => named.indexes.extend([number]),
            "term" => named.terms.extend([number]),
            _ => {}
        }
    }
    named
}

/// Something that a violation speaks of, where and when it was seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Evidence {
    /// True time.
    pub at_ns: u64,
    /// The node.
    pub node: u32,
    /// What.
    pub text: String,
}

/// Looks up what a violation speaks of.
pub fn evidence(violation: &Violation, story: &Story) -> Vec<Evidence> {
    let mut named = named(&violation.detail);
    named.nodes.extend(violation.node);
    let mut found = BTreeSet::new();
    for (node, lane) in &story.lanes {
        let speaks_of_node = named.nodes.is_empty() || named.nodes.contains(node);
        let mut add = |at_ns: u64, text: String| {
            found.insert(Evidence { at_ns, node: *node, text });
        };
        for index in &named.indexes {
            let reached = |column: &[u64]| column.iter().position(|reached| reached >= index);
            // Where the question is who had an entry, and not only who acted on it.
            let logs = matches!(violation.check.as_str(), "CQ" | "LM" | "LC" | "CI" | "MV");
            for (column, did) in [(&lane.progress.last, "has"), (&lane.progress.applied, "applied")]
                .into_iter()
                .skip(usize::from(!logs))
            {
                if let Some(at) = reached(column) {
                    add(lane.progress.at_ns[at], format!("n{node} {did} index {index}"));
                }
            }
        }
        for role in lane.roles.iter().filter(|role| named.terms.contains(&role.term)) {
            if role.role == "leader" || role.role == "candidate" {
                add(role.from_ns, format!("n{node} is {} of term {}", role.role, role.term));
            }
        }
        for mark in &lane.marks {
            let of_term = |term: &u64| mark.text.contains(&format!("term {term}"));
            let of_index = |index: &u64| mark.text.contains(&format!("index {index}"));
            let of_member = |name: &String| mark.text.split([' ', ',']).any(|word| word == name);
            let speaks = match mark.kind {
                "vote" => named.terms.iter().any(of_term),
                "truncated" | "snapshot-installed" => named.indexes.iter().any(of_index),
                "member" => speaks_of_node && named.quoted.iter().any(of_member),
                "boot" | "disk" => {
                    speaks_of_node && matches!(violation.check.as_str(), "MV" | "DUR" | "CQ" | "SMS")
                }
                "fatal" => speaks_of_node && violation.check == "CRASH",
                _ => false,
            };
            if speaks {
                add(mark.at_ns, format!("n{node} {}", mark.text));
            }
        }
    }
    // Of too many the last before the violation say most.
    let mut found = Vec::from_iter(found);
    let until = found.partition_point(|one| violation.at_ns == 0 || one.at_ns <= violation.at_ns);
    let after = found.split_off(until);
    found.drain(..found.len().saturating_sub(MOST_EVENTS));
    found.extend(after.into_iter().take(MOST_EVENTS / 4));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::linearizable::{Verdict, check};
    use crate::history::test::Story as Clients;

    fn broken(clients: &Clients) -> Broken {
        match check(&clients.0) {
            Verdict::Violation(broken) => *broken,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stale_read_is_called_one() {
        let clients = Clients::default()
            .put((0, 1_000_000), "a")
            .put((2_000_000, 3_000_000), "b")
            .get((4_500_000, 5_000_000), Some(("a", 1)));
        let explained = explain(&broken(&clients), &clients.0);
        assert!(explained.headline.starts_with("Stale read of key"), "{explained:?}");
        assert!(explained.headline.contains("read \"a\", 1.500 ms after client"), "{explained:?}");
        assert!(explained.sentences[1].contains("could not have found \"a\" any more"), "{explained:?}");
    }

    #[test]
    fn a_value_from_nowhere_is_called_one() {
        let clients = Clients::default().put((0, 1), "a").get((2, 3), Some(("x", 1)));
        let explained = explain(&broken(&clients), &clients.0);
        assert!(
            explained.headline.contains("read \"x\", which nobody wrote, but the key holds \"a\""),
            "{explained:?}"
        );
    }

    #[test]
    fn instants_follow_the_order_and_stay_inside_the_operations() {
        let clients = Clients::default()
            .put((0, 50), "a")
            .get((10, 20), Some(("a", 1)))
            .put((30, 40), "b")
            .get((60, 70), Some(("a", 1)));
        let broken = broken(&clients);
        let at = instants(&broken, &clients.0);
        assert!(at.is_sorted() && at.len() == broken.order.len());
        for (placed, at) in broken.order.iter().zip(at) {
            let operation = clients.0.iter().find(|operation| operation.id == placed.id).unwrap();
            assert!(operation.invoked_ns <= at && at <= operation.returned_ns.unwrap());
        }
    }

    #[test]
    fn the_words_of_a_check_name_operations_indexes_terms_nodes_and_members() {
        let detail = "node 2 applied entry 12 of term 3, but \"n\\\"1\" [0.1s .. 0.2s] op 270: client 0 wrote index 9; op x";
        let found = named(detail);
        assert_eq!(found.operations, [270].into());
        assert_eq!((found.nodes, found.indexes, found.terms), ([2].into(), [9, 12].into(), [3].into()));
        assert_eq!(found.quoted, ["n\"1".to_owned()].into());
        let session = "7e19aa98-7988-486a-910f-50235a75f26b";
        let found =
            named(&format!("lock \"lock-1\": session {session} holds it; /v1/health/service/x, late"));
        assert_eq!(found.things, [session.to_owned(), "/v1/health/service/x".to_owned()].into());
    }
}
