//! The mutants: real bugs put back on purpose, and what must catch each.
//!
//! A check that never objected to anything proves nothing. So each entry names a bug (the code for it is
//! behind `driftline::mutant::is(id)`), the checks of which one must catch it, and the kinds of fault it
//! needs: with those turned off it must survive, or the check caught something else.
//!
//! One file an area holds its bugs ([`raft`], [`storage`], [`gossip`], [`http`], [`session`], [`agent`], [`rights`], [`testbed`]); [`score`] hunts
//! them, as `cargo sim mutants` does; [`results`] keeps what it found, and [`table`] writes it down.
//!
//! Raft and SWIM themselves are dependencies. A bug inside them is planted where this code meets them, as an
//! equivalent: an answer bent on its way, a request changed before it is handed over. What cannot be done so is in
//! [`UNEXPRESSED`], with the reason.

pub mod agent;
pub mod gossip;
pub mod http;
pub mod raft;
pub mod results;
pub mod rights;
pub mod score;
pub mod session;
pub mod storage;
pub mod table;
pub mod testbed;

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use xxhash_rust::xxh3::xxh3_64;

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

/// Everything that can make a client wait in vain for the answer to a write that happened; and what shows an operator a snapshot,
/// for those bugs that are in it.
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
    "force-leave",
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
    "remove-peer",
    "reorder",
    "restart-storm",
    "save-snapshot",
    "short-read",
    "slow",
    "stall",
    "sync-crash",
    "transfer",
    "upgrade",
    "vanish",
    "write-error",
];

/// What keeps a minority away after the storm.
pub const AWAY: &[&str] = &["kill", "partition", "stall"];

/// Everything that starts a process anew.
pub const RESTARTS: &[&str] = &[
    "bit-rot",
    "crash-loop",
    "crash-point",
    "disk-full",
    "force-leave",
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
    "remove-peer",
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
    "force-leave",
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
    "remove-peer",
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

/// The bugs of this program's own: see [`add_own`].
static OWN: OnceLock<&'static [Mutant]> = OnceLock::new();

/// These bugs too, for the rest of this process: those of an experiment. The first call wins.
pub fn add_own(mutants: &'static [Mutant]) {
    let _ = OWN.set(mutants);
}

/// Everything that leaves a node behind so far that it needs a snapshot, from its own disk or from a leader.
pub const LAG: &[&str] = LOST_REPLIES;

/// Everything that starts a life of a node, and everything that keeps the news of an earlier one back.
pub const LATE_NEWS: &[&str] = LOST_REPLIES;

/// The areas: name, what is in it, and its bugs.
pub const AREAS: &[(&str, &str, &[Mutant])] = &[
    ("Raft", "Consensus, snapshots, membership, reads, sessions and waiting readers", raft::TABLE),
    ("Storage", "What is durable, and what is believed of it", storage::TABLE),
    ("Gossip", "Who is there, and what reaches whom", gossip::TABLE),
    ("HTTP", "What a client is told", http::TABLE),
    ("Sessions", "Locks, and the clients that hold them", session::TABLE),
    (
        "Agents",
        "Agents that keep nothing and ask servers, and what all of them enter in the catalog",
        agent::TABLE,
    ),
    ("Rights", "Who may do what, and who says so", rights::TABLE),
    ("Testbed", "A simulator or a check that is wrong", testbed::TABLE),
];

/// Bugs of the catalogue that are not planted: id, what it is, and why.
pub const UNEXPRESSED: &[(&str, &str, &str)] = &[
    (
        "R04",
        "a rejected pre-vote does not teach the higher term",
        "inside openraft; with the answer dropped at our seam, the majority that would be stuck elects itself without it",
    ),
    (
        "R05",
        "late answers to a pre-vote start an election after the victory",
        "inside openraft's candidate; it tells such answers apart by what it kept, and no answer can be bent to look like another",
    ),
    (
        "R06",
        "a stale order to take over leadership is still carried out",
        "openraft compares the order's vote with its own when it handles it, so one that is delivered late is refused",
    ),
    (
        "R08",
        "all servers wait equally long before they stand for election",
        "planted and not caught: with pre-vote a candidate that is refused changes nothing, so elections only take longer",
    ),
    (
        "R12",
        "completions of local writes out of order strand the leader's progress",
        "openraft keeps the progress; the store completes writes in the order in which they were asked for",
    ),
    (
        "R13",
        "a conflict from an old request moves progress back",
        "openraft numbers its requests itself and never shows the network the number, so no stale one can be handed in",
    ),
    (
        "R25",
        "a single-step change of membership before the leader's first own entry",
        "openraft changes by joint consensus and refuses a second change; no call goes round that",
    ),
    ("R26", "a leader that was removed goes on counting itself", "inside openraft's count of the quorum"),
    (
        "R30",
        "the read path ignores that leadership is being handed over",
        "it needs a lease, and there is none: a read asks a majority",
    ),
    ("G05", "a member is asked to probe its own earlier life", "inside foca's choice of whom to ask"),
    ("G06", "the state of a probe survives a change of members within it", "inside foca's probe"),
    (
        "G09",
        "a joiner takes a dead member for alive",
        "it does so for as long as its first probe takes, and no property forbids that",
    ),
    (
        "G10",
        "an error of sending a datagram does not make the receiver suspect",
        "the simulated network, like most real ones, loses such a datagram without an error",
    ),
    ("G11", "a very small cluster skips a member when it probes", "inside foca's order of probing"),
    (
        "G12",
        "a datagram of more than 255 parts loses the rest",
        "parts are not counted, but end with the datagram",
    ),
    (
        "G13",
        "members that left are never forgotten",
        "they are forgotten after three days, and no run is that long",
    ),
];

/// All bugs, area by area.
pub fn all() -> impl Iterator<Item = &'static Mutant> {
    let own = OWN.get().copied().unwrap_or_default();
    AREAS.iter().flat_map(|(_, _, mutants)| *mutants).chain(own)
}

/// Names the code in a program file by what is in it.
///
/// # Errors
/// The system's, when the file cannot be read.
pub fn code_version(program: &Path) -> io::Result<String> {
    Ok(format!("{:016x}", xxh3_64(&std::fs::read(program)?)))
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
        assert_eq!(proofs_of("SESS").collect::<Vec<_>>(), ["R32", "R33", "R45", "C01"]);
    }

    #[test]
    fn every_check_is_proved_by_two_mutants() {
        for property in check::TABLE {
            assert!(proofs_of(property.id).count() >= 2, "{}", property.id);
        }
        assert!(all().count() >= 50);
        assert!(AREAS.iter().all(|(_, _, mutants)| !mutants.is_empty()));
    }

    #[test]
    fn the_whole_catalogue_is_planted_or_accounted_for() {
        let numbered = |letter: &'static str, last: u32| (1..=last).map(move |n| format!("{letter}{n:02}"));
        // Those of the store are the store's: R01, R22, R23.
        for id in numbered("R", 35).chain(numbered("G", 14)).chain(numbered("T", 6)) {
            let planted = find(&id).is_some();
            let excused = UNEXPRESSED.iter().any(|(other, ..)| *other == id);
            assert!(planted != excused || ["R01", "R22", "R23"].contains(&id.as_str()), "{id}");
        }
    }

    #[test]
    fn every_mutant_is_asked_for_somewhere() {
        fn sources(folder: &Path, text: &mut String) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    sources(&path, text);
                } else {
                    *text += &std::fs::read_to_string(&path).unwrap_or_default();
                }
            }
        }
        let mut text = String::new();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        sources(&here.join("../src"), &mut text);
        sources(&here.join("src/check"), &mut text);
        sources(&here.join("src/world"), &mut text);
        for mutant in all() {
            assert!(text.contains(&format!("is(\"{}\")", mutant.id)), "{}", mutant.id);
        }
    }
}
