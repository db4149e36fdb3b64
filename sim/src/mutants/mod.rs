//! The mutants: real bugs put back on purpose, and what must catch each.
//!
//! A check that never objected to anything proves nothing. So each entry names a bug (the code for it is
//! behind `driftline::mutant::is(id)`), the checks of which one must catch it, and the kinds of fault it
//! needs: with those turned off it must survive, or the check caught something else.
//!
//! One file an area holds its bugs ([`raft`], [`storage`], [`gossip`], [`http`], [`session`], [`agent`], [`testbed`]); [`score`] hunts
//! them, as `cargo sim mutants` does; [`table`] writes down what came of it.
//!
//! Left out, because the bug would sit inside openraft itself and planting it there would need a patched
//! copy: R09, R10, R12, R16 to R20 and R30 of the catalogue these ids come from.

pub mod agent;
pub mod gossip;
pub mod http;
pub mod raft;
pub mod score;
pub mod session;
pub mod storage;
pub mod table;
pub mod testbed;

use std::fmt::Write as _;

/// One bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its id, as the node's code asks for it.
    pub id: &'static str,
    /// What is wrong.
    pub what: &'static str,
    /// Where it was seen.
    pub origin: &'static str,
    /// The kinds of fault without which it must survive; empty if it needs none.
    pub needs: &'static [&'static str],
    /// The checks of which one must catch it.
    pub checks: &'static [&'static str],
}

/// Everything that can make a client wait in vain for the answer to a write that happened.
pub const LOST_REPLIES: &[&str] = &[
    "bandwidth",
    "bit-rot",
    "black-hole",
    "clock",
    "clog",
    "corrupt",
    "crash-loop",
    "crash-point",
    "delay",
    "disk-full",
    "disk-slow",
    "disk-stall",
    "fsync-fail",
    "hazard",
    "kill",
    "lag",
    "lose-disk",
    "loss",
    "lying-sync",
    "membership",
    "misdirected-read",
    "misdirected-write",
    "move",
    "partition",
    "power-loss",
    "read-error",
    "refusal",
    "reorder",
    "restart-storm",
    "short-read",
    "slow",
    "stall",
    "sync-crash",
    "transfer",
    "upgrade",
    "vanish",
    "write-error",
];

/// Everything that starts a process anew.
pub const RESTARTS: &[&str] = &[
    "bit-rot",
    "crash-loop",
    "crash-point",
    "disk-full",
    "fsync-fail",
    "kill",
    "lose-disk",
    "lying-sync",
    "membership",
    "misdirected-read",
    "misdirected-write",
    "move",
    "power-loss",
    "read-error",
    "restart-storm",
    "short-read",
    "sync-crash",
    "upgrade",
    "vanish",
    "write-error",
];

/// Everything that can make a live node look dead for a moment.
pub const SILENCE: &[&str] = &[
    "bandwidth",
    "bit-rot",
    "black-hole",
    "clock",
    "clog",
    "corrupt",
    "crash-loop",
    "crash-point",
    "delay",
    "disk-full",
    "disk-slow",
    "disk-stall",
    "fsync-fail",
    "kill",
    "lag",
    "lose-disk",
    "loss",
    "lying-sync",
    "membership",
    "misdirected-read",
    "misdirected-write",
    "move",
    "partition",
    "power-loss",
    "read-error",
    "refusal",
    "reorder",
    "restart-storm",
    "short-read",
    "slow",
    "stall",
    "sync-crash",
    "upgrade",
    "vanish",
    "write-error",
];

/// All bugs, area by area.
pub fn all() -> impl Iterator<Item = &'static Mutant> {
    [raft::TABLE, storage::TABLE, gossip::TABLE, http::TABLE, session::TABLE, agent::TABLE, testbed::TABLE]
        .into_iter()
        .flatten()
}

/// The entry for an id.
pub fn find(id: &str) -> Option<&'static Mutant> {
    all().find(|mutant| mutant.id == id)
}

/// The mutants that prove that a check bites.
pub fn proofs_of(check: &str) -> impl Iterator<Item = &'static str> + '_ {
    all().filter(move |mutant| mutant.checks.contains(&check)).map(|mutant| mutant.id)
}

/// The mutants for people to choose from.
pub fn list() -> String {
    let mut text = String::new();
    for mutant in all() {
        let needs = if mutant.needs.is_empty() { "no fault".to_owned() } else { mutant.needs.join(", ") };
        let _ = writeln!(
            text,
            "{:4} {}\n     from {}; needs {needs}; caught by {}",
            mutant.id,
            mutant.what,
            mutant.origin,
            mutant.checks.join(" or ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    #[test]
    fn every_mutant_is_caught_by_a_check_that_exists_and_needs_a_fault_that_exists() {
        for mutant in all() {
            assert!(!mutant.checks.is_empty());
            for id in mutant.checks {
                assert!(check::property_of(id).is_some(), "{}: {id}", mutant.id);
            }
            for kind in mutant.needs {
                assert!(crate::scenario::KINDS.contains(kind), "{}: {kind}", mutant.id);
            }
            assert_eq!(all().filter(|other| other.id == mutant.id).count(), 1);
        }
        assert_eq!(proofs_of("SESS").collect::<Vec<_>>(), ["R32", "R33", "C01"]);
    }
}
