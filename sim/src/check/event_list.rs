//! NEWS: what a node lists of user events (Serf's): each is there once, with the id, name and content that it was fired
//! with, in the order of their Lamport times; it is what gossip brought to the node in its present life, but for what
//! newer events pushed out. And what is fired after the heal, once the nodes have had time to join and to exchange what they know, comes to every
//! live node ([`not_listed`]; the world fires), and wakes whoever waits for it there.
//!
//! Let pass: that an event of the storm does not arrive. A node that asks to join takes what was before for past, and one
//! that fired an event may have died before it told anybody. For the same reason the first events after the storm may miss a
//! node, as with Serf: whoever joins takes for past what was fired at that moment, and what somebody fires later whose Lamport
//! clock is behind (seed 84).

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use driftline::env::Observed;
use driftline::gossip::events::RING;
use serde::Deserialize;

use super::{At, End, Event, Findings};

/// An event that somebody fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// Its name.
    pub name: String,
    /// What it carries.
    pub payload: String,
    /// Its id, if the answer told.
    pub id: Option<String>,
}

/// An event as a node lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it carries, in base64.
    pub payload: Option<String>,
    /// Its Lamport time.
    #[serde(rename = "LTime")]
    pub ltime: u64,
}

impl Listed {
    fn carries(&self) -> Option<Vec<u8>> {
        self.payload.as_ref().map_or(Some(Vec::new()), |payload| BASE64.decode(payload).ok())
    }
}

/// What gossip brought to each node in its present life, as it came: Lamport time and id, and no more than a ring holds. The one
/// with the lowest time makes room.
#[derive(Debug, Default)]
pub struct Brought {
    by_node: BTreeMap<u32, Vec<(u64, String)>>,
}

impl Brought {
    /// Follows an event.
    pub fn on(&mut self, at: At, event: &Event<'_>) {
        match event {
            Event::Started { .. } | Event::Stopped(_) => drop(self.by_node.remove(&at.node)),
            Event::Observed(Observed::UserEvent { id, ltime, .. }) => {
                let brought = self.by_node.entry(at.node).or_default();
                brought.push((*ltime, id.clone()));
                if brought.len() > RING {
                    let oldest = (0..brought.len()).min_by_key(|at| brought[*at].0);
                    oldest.map(|at| brought.remove(at));
                }
            }
            _ => {}
        }
    }
}

/// Judges what the nodes list at the end.
pub fn check(end: &End, brought: &Brought, findings: &mut Findings) {
    let mut fired: BTreeMap<&str, Vec<&Fired>> = BTreeMap::new();
    for one in &end.fired {
        fired.entry(&one.name).or_default().push(one);
    }
    let nothing = Vec::new();
    for (node, list) in &end.events {
        let mut wrong = |detail: String| findings.add("NEWS", At { ns: end.at_ns, node: *node }, detail);
        for pair in list.windows(2) {
            if pair[1].ltime < pair[0].ltime {
                let (first, second) = (&pair[0], &pair[1]);
                wrong(format!(
                    "node {node} lists event {:?} of time {} behind {:?} of time {}",
                    second.name, second.ltime, first.name, first.ltime
                ));
            }
        }
        for event in list {
            let Some(fired) = fired.get(event.name.as_str()) else {
                wrong(format!("node {node} lists event {:?}, which nobody fired", event.name));
                continue;
            };
            // An id that nobody was told of may be that of whoever was told nothing.
            let by = |fired: &&&Fired| fired.id.as_ref().is_none_or(|id| *id == event.id);
            match fired.iter().find(by) {
                None => wrong(format!("event {:?} has another id on node {node}: {}", event.name, event.id)),
                Some(fired) if event.carries() != Some(fired.payload.clone().into_bytes()) => wrong(format!(
                    "node {node} lists event {:?} with {:?}, and it was fired with {:?}",
                    event.name, event.payload, fired.payload
                )),
                Some(_) => {}
            }
        }
        let listed: BTreeSet<&str> = list.iter().map(|event| event.id.as_str()).collect();
        if listed.len() < list.len() {
            wrong(format!(
                "node {node} lists an event twice: {} events have {} ids",
                list.len(),
                listed.len()
            ));
        }
        let given: BTreeSet<&str> =
            brought.by_node.get(node).unwrap_or(&nothing).iter().map(|(_, id)| id.as_str()).collect();
        if let Some(odd) = listed.symmetric_difference(&given).next() {
            let (lists, given) = (listed.contains(odd), given.contains(odd));
            wrong(format!("event {odd} is in the list of node {node}: {lists}; gossip brought it: {given}"));
        }
    }
}

/// An event of these ids that a node does not list.
pub fn not_listed<'a>(ids: &'a BTreeSet<String>, list: &[Listed]) -> Option<&'a str> {
    ids.iter().find(|id| !list.iter().any(|event| event.id == **id)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, ltime: u64, payload: &str) -> Listed {
        let payload = (!payload.is_empty()).then(|| BASE64.encode(payload));
        Listed { id: format!("id of {name}"), name: name.to_owned(), payload, ltime }
    }

    fn fired(name: &str, payload: &str) -> Fired {
        Fired { name: name.to_owned(), payload: payload.to_owned(), id: Some(format!("id of {name}")) }
    }

    /// What is said if node 0 lists these and gossip brought `brought` to it.
    fn found(list: Vec<Listed>, brought: &[&str]) -> Vec<String> {
        let mut followed = Brought::default();
        for name in brought {
            let (id, name) = (format!("id of {name}"), (*name).to_owned());
            let event = Observed::UserEvent { name, id, ltime: 1 };
            followed.on(At { ns: 1, node: 0 }, &Event::Observed(&event));
        }
        let fired = vec![fired("a", "content"), fired("b", ""), Fired { id: None, ..fired("c", "") }];
        let end = End { events: BTreeMap::from([(0, list)]), fired, ..End::default() };
        let mut findings = Findings::default();
        check(&end, &followed, &mut findings);
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    #[test]
    fn what_was_fired_in_order_is_accepted() {
        let list = vec![listed("b", 3, ""), listed("a", 3, "content"), listed("c", 7, "")];
        assert_eq!(found(list, &["a", "c", "b"]), Vec::<String>::new());
        assert_eq!(found(vec![], &[]), Vec::<String>::new());
    }

    #[test]
    fn each_way_to_be_wrong_is_rejected() {
        let wrong = |list, brought: &[&str]| found(list, brought).join("; ");
        let (a, b) = (listed("a", 3, "content"), listed("b", 2, ""));
        assert!(wrong(vec![a.clone(), b.clone()], &["a", "b"]).contains("of time 2 behind \"a\" of time 3"));
        assert!(wrong(vec![listed("a", 3, "cont")], &["a"]).contains("it was fired with \"content\""));
        assert!(wrong(vec![listed("z", 3, "")], &["z"]).contains("nobody fired"));
        assert!(wrong(vec![Listed { id: "x".to_owned(), ..b.clone() }], &["b"]).contains("another id"));
        assert!(wrong(vec![b.clone(), b.clone()], &["b"]).contains("twice"));
        assert!(wrong(vec![a.clone()], &["a", "b"]).contains("id of b is in the list of node 0: false"));
        assert!(wrong(vec![b, a], &["a"]).contains("gossip brought it: false"));
    }

    #[test]
    fn another_life_begins_with_nothing_and_old_events_are_pushed_out() {
        let mut brought = Brought::default();
        let at = At { ns: 1, node: 0 };
        // The newer half comes first.
        let id = |number: usize| Observed::UserEvent {
            name: "e".into(),
            id: number.to_string(),
            ltime: number as u64,
        };
        let come = (100..RING + 5).chain(0..100);
        come.for_each(|number| brought.on(at, &Event::Observed(&id(number))));
        let mut kept: Vec<u64> = brought.by_node[&0].iter().map(|(ltime, _)| *ltime).collect();
        kept.sort_unstable();
        assert_eq!(kept, (5..RING as u64 + 5).collect::<Vec<_>>());
        brought.on(at, &Event::Started { name: "n0" });
        assert!(brought.by_node.is_empty());
    }

    #[test]
    fn what_has_not_come_is_named() {
        let ids = ["id of a", "id of b"].map(str::to_owned).into();
        assert_eq!(not_listed(&ids, &[listed("a", 1, "")]), Some("id of b"));
        assert_eq!(not_listed(&ids, &[listed("b", 1, ""), listed("a", 1, "")]), None);
    }
}
