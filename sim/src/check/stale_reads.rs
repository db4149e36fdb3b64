//! STALE: what one node shows in answer to `?stale` may be old, but it never goes back behind what this node showed
//! before, not even over its restarts (Terry and others, 1994: monotonic reads, at one server).
//!
//! What it showed in answer to other reads counts as well, if they found something.
//!
//! Let pass: agents that are no servers, because each of their answers is another server's; what a node showed before it became another (a new Raft id), and answers that overlap in time.

use std::collections::BTreeMap;

use super::looks::{Lives, Look, LookKind};
use super::{At, Findings};
use crate::history::{Operation, Outcome, Response};

/// An answer to a read at one node of one key.
#[derive(Clone, Copy)]
struct Shown {
    invoked_ns: u64,
    returned_ns: u64,
    index: u64,
    /// Whether it was asked for what may be old.
    stale: bool,
}

impl Shown {
    fn of_look(look: &Look) -> Shown {
        let Look { invoked_ns, returned_ns, index, kind, .. } = *look;
        Shown { invoked_ns, returned_ns, index, stale: kind == LookKind::Stale }
    }

    /// What a read of the history showed, if it found something.
    fn of_read(read: &Operation) -> Option<Shown> {
        let Outcome::Ok(Response::Value(Some(seen))) = &read.outcome else { return None };
        let (invoked_ns, returned_ns) = (read.invoked_ns, read.returned_ns?);
        Some(Shown { invoked_ns, returned_ns, index: seen.modify_index, stale: false })
    }
}

/// Judges what was seen.
pub fn check(looks: &[Look], lives: &Lives, history: &[Operation], findings: &mut Findings) {
    let mut by_place: BTreeMap<(u32, &str), Vec<Shown>> = BTreeMap::new();
    for look in looks {
        by_place.entry((look.node, &look.key)).or_default().push(Shown::of_look(look));
    }
    // Where nobody asked for what may be old there is nothing to judge.
    by_place.retain(|_, shown| shown.iter().any(|shown| shown.stale));
    for read in history {
        if let Some(place) = by_place.get_mut(&(read.node, read.key.as_str())) {
            place.extend(Shown::of_read(read));
        }
    }
    for ((node, key), shown) in by_place {
        let life = lives.of(node);
        // Not a server: it shows what any of them has.
        if !life.is_server() {
            continue;
        }
        let newer_before = |later: &Shown| {
            let newer = |earlier: &&Shown| {
                earlier.returned_ns < later.invoked_ns
                    && earlier.index > later.index
                    && !life.became_another(earlier.invoked_ns, later.returned_ns)
            };
            shown.iter().find(newer).copied()
        };
        let mut stale = shown.iter().filter(|shown| shown.stale);
        if let Some((later, earlier)) = stale.find_map(|later| Some((later, newer_before(later)?))) {
            let detail = format!(
                "node {node} showed key {key:?} at index {} and later, asked for what it has, at index {}",
                earlier.index, later.index
            );
            findings.add("STALE", At { ns: later.returned_ns, node }, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use driftline::env::Observed;

    use super::super::Event;
    use super::super::looks::test::{lives, look};
    use super::*;

    fn objects(happened: &[(u64, Event<'_>)], looks: &[Look]) -> bool {
        let mut findings = Findings::default();
        check(looks, &lives(happened), &[], &mut findings);
        findings.violations.iter().any(|violation| violation.check == "STALE")
    }

    /// The store of node 0 was opened before anything else.
    fn opened() -> Observed {
        recovered(1)
    }

    fn recovered(raft_id: u64) -> Observed {
        Observed::Recovered { raft_id, term: 1, last_index: 0, applied: 0, log: vec![] }
    }

    #[test]
    fn an_old_answer_passes_and_one_that_is_older_than_the_nodes_last_does_not() {
        let earlier = || look(LookKind::Plain, 0, 10, 7);
        let stale = |from_ms, index| look(LookKind::Stale, from_ms, from_ms + 5, index);
        let opened = opened();
        let server = [(0, Event::Observed(&opened))];
        assert!(!objects(&server, &[earlier(), stale(20, 7), stale(30, 9)]));
        assert!(!objects(&server, &[earlier(), stale(5, 3)]), "asked before the other was told");
        assert!(objects(&server, &[earlier(), stale(20, 6)]));
        assert!(!objects(&[], &[earlier(), stale(20, 6)]), "not a server");
        let (first, second) = (recovered(1), recovered(2));
        let restarted = [(1, Event::Observed(&first)), (15, Event::Observed(&first))];
        assert!(objects(&restarted, &[earlier(), stale(20, 6)]), "a restart is no excuse");
        let reborn = [(1, Event::Observed(&first)), (15, Event::Observed(&second))];
        assert!(!objects(&reborn, &[earlier(), stale(20, 6)]));
    }
}
