//! The mutants: real bugs put back on purpose, and what must catch each.
//!
//! A check that never objected to anything proves nothing. So each entry names a bug (the code for it is
//! behind `driftline::mutant::is(id)`), the checks of which one must catch it, and the kinds of fault it
//! needs: with those turned off it must survive, or the check caught something else.
//!
//! `cargo sim mutants` runs the table and prints what it found; [`score`] is how.
//!
//! Left out, because the bug would sit inside openraft itself and planting it there would need a patched
//! copy: R09, R10, R12, R16 to R20 and R30 of the catalogue these ids come from.

use std::fmt::Write as _;

use crate::report::RunReport;
use crate::runner::{Case, Runner};

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
const LOST_REPLIES: &[&str] = &[
    "clock",
    "delay",
    "fsync-fail",
    "kill",
    "loss",
    "membership",
    "partition",
    "power-loss",
    "reorder",
    "stall",
    "transfer",
];

/// Everything that can make a live node look dead for a moment.
const SILENCE: &[&str] = &[
    "clock",
    "delay",
    "fsync-fail",
    "kill",
    "loss",
    "membership",
    "partition",
    "power-loss",
    "reorder",
    "stall",
];

/// The table.
pub const TABLE: &[Mutant] = &[
    Mutant {
        id: "R02",
        what: "the vote is never persisted",
        origin: "NodeDB-Lab/nodedb#161",
        // Whatever restarts a process; a graceful leave does as well.
        needs: &["power-loss", "kill", "membership", "fsync-fail"],
        checks: &["ES", "MV"],
    },
    Mutant {
        id: "R14",
        what: "entries are acknowledged before they are durable",
        origin: "design; the class of etcd-io/etcd#14370",
        // CQ sees this without any fault; what is named here are its consequences.
        needs: &["power-loss", "kill", "membership", "fsync-fail"],
        checks: &["DUR", "LIN"],
    },
    Mutant {
        id: "R27",
        what: "a read is answered without asking a quorum who leads",
        origin: "deventlab/d-engine#381",
        // Whatever makes another leader: the old one does not know, and the new one is not up to date.
        needs: LOST_REPLIES,
        checks: &["LIN"],
    },
    Mutant {
        id: "R31",
        what: "a read trusts a lease that the wall clock measures, without margin for drift",
        origin: "vesoft-inc/nebula#5351",
        needs: &["clock"],
        checks: &["LIN"],
    },
    Mutant {
        id: "R32",
        what: "a timed-out write is sent again as a new request",
        origin: "design; a class Jepsen reports",
        needs: LOST_REPLIES,
        checks: &["SESS", "LIN"],
    },
    Mutant {
        id: "R33",
        what: "a snapshot forgets which requests were applied",
        origin: "design; Raft thesis 6.3",
        needs: LOST_REPLIES,
        checks: &["SESS", "LIN"],
    },
    Mutant {
        id: "R34",
        what: "a timed-out write is reported as failed",
        origin: "Jepsen, Redis-Raft: aborted reads",
        needs: LOST_REPLIES,
        checks: &["LIN"],
    },
    Mutant {
        id: "S04",
        what: "a failed sync is tried again and the second success believed",
        origin: "fsyncgate; tursodatabase/turso#2091",
        needs: &["fsync-fail"],
        checks: &["DUR"],
    },
    Mutant {
        id: "G01",
        what: "a death of higher incarnation is not recorded, so an old \"alive\" resurrects",
        origin: "al8n/memberlist PR #197",
        needs: SILENCE,
        checks: &["GR"],
    },
    Mutant {
        id: "G08",
        what: "a suspect is declared dead without time to object",
        origin: "design; SWIM 4.2",
        needs: SILENCE,
        checks: &["GA"],
    },
    Mutant {
        id: "G14",
        what: "a gossip verdict removes a Raft voter without a guard for the quorum",
        origin: "the class of hashicorp/consul#6113",
        needs: SILENCE,
        checks: &["LIVE", "CQ"],
    },
    Mutant {
        id: "A01",
        what: "a confirmed read does not wait until the state is as new as it must be",
        origin: "the class of openraft 97d92771",
        needs: &[],
        checks: &["SAY"],
    },
    Mutant {
        id: "A02",
        what: "told that it is held for dead, a node takes the very incarnation that is",
        origin: "design; SWIM 4.2",
        needs: SILENCE,
        checks: &["SAY"],
    },
    Mutant {
        id: "T02",
        what: "one timer draws from the operating system's randomness",
        origin: "databendlabs/openraft PR #1741",
        needs: &[],
        checks: &["DET"],
    },
];

/// The entry for an id.
pub fn find(id: &str) -> Option<&'static Mutant> {
    TABLE.iter().find(|mutant| mutant.id == id)
}

/// The mutants that prove that a check bites.
pub fn proofs_of(check: &str) -> impl Iterator<Item = &'static str> + '_ {
    TABLE.iter().filter(move |mutant| mutant.checks.contains(&check)).map(|mutant| mutant.id)
}

/// What became of one mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// Its id.
    pub id: &'static str,
    /// The seed that killed it, the check that did, and how many seeds that took.
    pub killed: Option<(u64, String, u64)>,
    /// Seeds on which only checks that are not named for it objected before it was killed.
    pub elsewhere: Vec<(u64, String)>,
    /// With the faults it needs turned off: the seed and check that killed it all the same.
    /// `None` in `ablated` says there is nothing to turn off, or that it was never killed.
    pub ablated: Option<Option<(u64, String)>>,
}

impl Score {
    /// Whether it was killed as promised and survived as promised.
    pub fn is_good(&self) -> bool {
        self.killed.is_some() && !matches!(self.ablated, Some(Some(_)))
    }
}

/// Hunts one mutant: at most `limit` seeds from `first_seed`, then the same seeds without its faults.
pub fn score(mutant: &'static Mutant, runner: &Runner, case: &Case, first_seed: u64, limit: u64) -> Score {
    let named = |report: &RunReport| {
        report
            .violations
            .iter()
            .map(|one| one.check.as_str())
            .find(|check| mutant.checks.contains(check))
            .map(str::to_owned)
    };
    let runner = Runner { check_determinism: mutant.checks.contains(&"DET"), ..runner.clone() };
    let with_bug = Case { mutant: Some(mutant.id.to_owned()), ..case.clone() };
    let seeds = first_seed..first_seed.saturating_add(limit);
    let cases = |case: &Case, seeds: std::ops::Range<u64>| -> Vec<Case> {
        seeds.map(|seed| Case { seed, ..case.clone() }).collect()
    };
    let mut result = Score { id: mutant.id, killed: None, elsewhere: Vec::new(), ablated: None };
    runner.run_in_order(&cases(&with_bug, seeds), &mut |_| {}, &mut |case, report| {
        match named(&report) {
            Some(check) => {
                result.killed = Some((case.seed, check, case.seed - first_seed + 1));
                return false;
            }
            None => {
                let other = report.violations.first().map(|one| (case.seed, one.check.clone()));
                result.elsewhere.extend(other);
            }
        }
        true
    });
    if let (Some((seed, ..)), false) = (&result.killed, mutant.needs.is_empty()) {
        let mut without = with_bug.clone();
        without.without.extend(mutant.needs.iter().map(|kind| (*kind).to_owned()));
        let mut survived = None;
        let seeds = first_seed..seed.saturating_add(1);
        runner.run_in_order(&cases(&without, seeds), &mut |_| {}, &mut |case, report| {
            survived = named(&report).map(|check| (case.seed, check));
            survived.is_none()
        });
        result.ablated = Some(survived);
    }
    result
}

/// The scores as a Markdown table.
pub fn table(scores: &[Score]) -> String {
    let mut text = String::from(
        "| mutant | bug | must be caught by | caught by | seeds to kill | other checks first | without its faults |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for score in scores {
        let Some(mutant) = find(score.id) else { continue };
        let (caught, seeds) = match &score.killed {
            Some((seed, check, seeds)) => (format!("{check} (seed {seed})"), seeds.to_string()),
            None => ("**nothing**".to_owned(), "-".to_owned()),
        };
        let elsewhere = match score.elsewhere.first() {
            Some((seed, check)) => format!("{check} (seed {seed}); {} in all", score.elsewhere.len()),
            None => "-".to_owned(),
        };
        let ablated = match &score.ablated {
            None => "-".to_owned(),
            Some(None) => format!("survives (no {})", mutant.needs.join(", ")),
            Some(Some((seed, check))) => format!("**{check} (seed {seed})**"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {caught} | {seeds} | {elsewhere} | {ablated} |",
            mutant.id,
            mutant.what,
            mutant.checks.join(", ")
        );
    }
    text
}

/// The mutants for people to choose from.
pub fn list() -> String {
    let mut text = String::new();
    for mutant in TABLE {
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
        for mutant in TABLE {
            assert!(!mutant.checks.is_empty());
            for id in mutant.checks {
                assert!(check::property_of(id).is_some(), "{}: {id}", mutant.id);
            }
            for kind in mutant.needs {
                assert!(crate::scenario::KINDS.contains(kind), "{}: {kind}", mutant.id);
            }
            assert_eq!(TABLE.iter().filter(|other| other.id == mutant.id).count(), 1);
        }
        assert_eq!(proofs_of("SESS").collect::<Vec<_>>(), ["R32", "R33"]);
    }

    /// Processes that answer by a shell script; the arguments are `--seed N [--without KIND]... --mutant ID`.
    #[cfg(unix)]
    fn hunted(id: &str, script: &str) -> Score {
        let script = format!(
            r#"violated() {{ echo "{{\"seed\":$seed,\"violations\":[{{\"check\":\"$1\",\"detail\":\"\"}}]}}"; exit; }}
               seed=$2; {script}
               echo "{{\"seed\":$seed,\"ok\":true}}""#
        );
        let runner = Runner {
            program: "/bin/sh".into(),
            prefix: ["-c", &script, "sh"].map(Into::into).into(),
            jobs: 2,
            time_limit: std::time::Duration::from_secs(20),
            check_determinism: false,
        };
        score(find(id).unwrap(), &runner, &Case::default(), 10, 6)
    }

    #[test]
    #[cfg(unix)]
    fn a_mutant_is_hunted_until_its_own_check_objects_and_must_survive_without_its_faults() {
        let good = hunted(
            "S04",
            r#"[ $3 = --without ] || case $seed in 11) violated LIVE;; 13) violated DUR;; esac"#,
        );
        assert_eq!(good.killed, Some((13, "DUR".to_owned(), 4)));
        assert_eq!((good.elsewhere.len(), good.ablated.clone()), (1, Some(None)));
        assert!(good.is_good());
        let anyway = hunted("S04", "[ $seed = 12 ] && violated DUR");
        assert_eq!(anyway.ablated, Some(Some((12, "DUR".to_owned()))));
        assert!(!anyway.is_good());
        let survivor = hunted("S04", "[ $seed = 12 ] && violated LIVE");
        assert_eq!((survivor.killed, survivor.ablated), (None, None));
        let restless = hunted("T02", r#"echo "{\"seed\":$seed,\"ok\":true,\"trace_hash\":\"$$\"}"; exit"#);
        assert_eq!(restless.killed, Some((10, "DET".to_owned(), 1)));
        assert!(restless.is_good() && restless.ablated.is_none());
    }

    #[test]
    fn the_table_shows_who_was_caught_and_who_was_not() {
        let scores = [
            Score {
                id: "R02",
                killed: Some((7, "MV".into(), 7)),
                elsewhere: vec![(3, "LIVE".into())],
                ablated: Some(None),
            },
            Score {
                id: "R14",
                killed: Some((1, "DUR".into(), 1)),
                elsewhere: vec![],
                ablated: Some(Some((1, "LIN".into()))),
            },
            Score { id: "T02", killed: None, elsewhere: vec![], ablated: None },
        ];
        assert_eq!(scores.each_ref().map(Score::is_good), [true, false, false]);
        insta::assert_snapshot!(table(&scores));
    }
}
