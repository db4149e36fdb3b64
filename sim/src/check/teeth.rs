//! TEETH: a check that cannot object is itself a violation.
//!
//! Before each run a few events and answers that must not be are put to a fresh set of checks, and each check that
//! this breaks must say so. It costs microseconds, and a checker that has been broken (mutants T06 and T07) cannot make
//! a whole sweep look green.
//!
//! Left out: checks whose shortest bad story is long. Their unit tests tell it, and their mutants.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use driftline::env::Observed;
use driftline::env::observe::{MemberChange, RaftRole};

use super::anti_entropy::{Came, Deed};
use super::catalog_watch::Seen;
use super::event_list::Listed;
use super::looks::{Look, LookKind};
use super::orders::Ordered;
use super::rights::{Attempt, What};
use super::saved::Saved;
use super::transactions::{Pairs, Torn};
use super::{Checks, End, Event, Settings, Violation};
use crate::history::{Action, Operation, Outcome, Response, Versioned};
use crate::scenario::ServiceDeed;

/// The checks that the story breaks.
pub const BITTEN: &[&str] = &[
    "LIN", "IDX", "ES", "LM", "SMS", "CI", "MV", "DUR", "SESS", "GC", "GA", "GR", "GT", "EV", "STALE",
    "WATCH", "AE", "NEWS", "BLOCK", "ACL", "LOAD", "TXN", "OPS", "SNAP",
];

/// A violation for each check that does not object to what it must reject.
pub fn missing() -> Vec<Violation> {
    let told = verdict();
    let silent = BITTEN.iter().filter(|id| !told.contains(**id));
    silent
        .map(|id| Violation {
            check: "TEETH".to_owned(),
            detail: format!("{id} does not object to a run that it must reject"),
            at_ns: 0,
            node: None,
        })
        .collect()
}

/// The checks that object to the story.
fn verdict() -> BTreeSet<String> {
    let mut checks = Checks::new(&Settings { accuracy_grace_ns: 10, datagrams_per_second: 1 });
    let mut now_ns = 0;
    let mut tell = |node: u32, event: Event<'_>| {
        now_ns += 100;
        checks.on(now_ns, node, event);
    };
    for node in 0..2 {
        tell(node, Event::Started { name: if node == 0 { "n0" } else { "n1" } });
        let raft_id = u64::from(node) + 1;
        let begun = Observed::Recovered { raft_id, term: 1, last_index: 0, applied: 0, log: vec![] };
        tell(node, Event::Observed(&begun));
        let voters = Observed::Membership { index: 0, voters: vec![vec![1, 2]], learners: vec![] };
        tell(node, Event::Observed(&voters));
        // ES: two leaders.
        tell(node, Event::Observed(&Observed::Role { term: 1, role: RaftRole::Leader, leader: None }));
        // LM: one place, two entries. SMS: two effects.
        let digest = u64::from(node);
        tell(node, Event::Observed(&Observed::Appended { index: 1, term: 1, digest }));
        tell(node, Event::Observed(&Observed::Applied { index: 1, term: 1, entry: digest, state: digest }));
    }
    // CI: what was applied is replaced.
    tell(0, Event::Observed(&Observed::Appended { index: 1, term: 2, digest: 7 }));
    // MV: a vote that is forgotten.
    tell(0, Event::Observed(&Observed::Vote { term: 9, candidate: 1, committed: false }));
    tell(0, Event::Observed(&Observed::Vote { term: 8, candidate: 1, committed: false }));
    // GR: back from the dead. GA: dead for no reason. GC: and nobody knows better at the end.
    for change in [MemberChange::Failed, MemberChange::Joined, MemberChange::Failed] {
        let addr = SocketAddr::from(([10, 0, 0, 2], 8301));
        tell(
            0,
            Event::Observed(&Observed::Member {
                node_id: 2,
                name: "n1".to_owned(),
                addr,
                incarnation: 1,
                change,
            }),
        );
    }
    // LOAD: a thousand entries in no time.
    let index = 10_000;
    tell(0, Event::Observed(&Observed::Applied { index, term: 9, entry: 1, state: 1 }));
    // OPS: nobody is out. SNAP: nothing that can be read.
    tell(0, Event::Ordered(&Ordered::Out { raft_id: 1, asked_ns: 1 }));
    tell(0, Event::Saved(&Saved { state: Err("cut short".to_owned()), least: None }));
    // EV: told twice.
    for _ in 0..2 {
        let (name, id) = ("e".to_owned(), "1".to_owned());
        tell(0, Event::Observed(&Observed::UserEvent { name, id, ltime: 1 }));
    }
    // GT: more than ten in ten seconds.
    for _ in 0..12 {
        tell(0, Event::Datagram);
    }
    let looks = [
        (LookKind::Plain, 9, 0),
        (LookKind::Stale, 8, 10),
        (LookKind::Watch { since: 9, wait_ms: 1 }, 8, 20),
    ];
    let look = |(kind, index, at): (LookKind, u64, u64)| Look {
        client: 0,
        node: 0,
        key: "k".to_owned(),
        kind,
        invoked_ns: at,
        returned_ns: at + 1,
        index,
        changed: Some(index),
    };
    // AE: a service is forgotten.
    let what = ServiceDeed::Register { port: 1, ttl_ms: 1 };
    let (node, service, came) = (0, "s".to_owned(), Came::Done);
    let deed = Deed { node, service, what, invoked_ns: 1, returned_ns: 2, came };
    // NEWS: an event from nowhere.
    let listed = Listed { id: "2".to_owned(), name: "e".to_owned(), payload: None, ltime: 1 };
    // BLOCK: a change that leaves the index.
    let seen = |said: &str| Seen {
        node,
        path: "/".to_owned(),
        waited: None,
        invoked_ns: 1,
        returned_ns: 2,
        index: 1,
        said: said.to_owned(),
    };
    // ACL: a right out of nothing.
    let what = What::Tried { write: true, let_through: true };
    let (user, invoked_ns, returned_ns) = ("linked-0".to_owned(), 1, 2);
    let attempt = Attempt { client: 0, node, user, what, invoked_ns, returned_ns };
    // TXN: half a pair.
    let (pair, said) = ("pair-0".to_owned(), "half of it".to_owned());
    let pairs = Pairs { torn: vec![Torn { pair, node, at_ns: 1, said }], history: Vec::new() };
    let end = End {
        attempts: vec![attempt],
        pairs,
        at_ns: now_ns + 1,
        deeds: vec![deed],
        services: BTreeMap::from([(node, BTreeMap::new())]),
        events: BTreeMap::from([(node, vec![listed])]),
        seen: vec![seen("a"), seen("b")],
        live: BTreeSet::from([0, 1]),
        history: history(),
        looks: looks.map(look).into(),
        stores: BTreeMap::from([(0, BTreeMap::new()), (1, BTreeMap::new())]),
        ..End::default()
    };
    checks.finish(&end).violations.into_iter().map(|violation| violation.check).collect()
}

/// LIN and IDX: a read of what was overwritten. SESS: one write at two indexes. DUR: nothing is left at the end.
fn history() -> Vec<Operation> {
    let put = |value: &str| (Action::Put { value: value.to_owned() }, Response::Done(true));
    let got = |value: &str, modify_index| {
        let versioned = Versioned { value: value.to_owned(), modify_index };
        (Action::Get, Response::Value(Some(versioned)))
    };
    let story = [put("a"), got("a", 1), put("b"), got("b", 2), got("a", 1), got("a", 3)];
    let operation = |(at, (action, answer)): (usize, (Action, Response))| Operation {
        id: at as u64,
        client: 0,
        node: 0,
        key: "k".to_owned(),
        action,
        invoked_ns: 10 * at as u64,
        outcome: Outcome::Ok(answer),
        returned_ns: Some(10 * at as u64 + 5),
    };
    story.into_iter().enumerate().map(operation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_of_the_list_bites() {
        assert_eq!(missing(), []);
        assert!(BITTEN.iter().all(|id| super::super::property_of(id).is_some()));
    }
}
