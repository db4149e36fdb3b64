//! Is the simulation honest? Each bug that it catches with faults of the network or of processes is put back into real
//! processes, which are driven through storms in which it was caught. The share that fails there too is the simulator's mark.
//!
//! A storm counts as failing when a check objects that must catch its bug, or that objected in simulation, and does not object
//! when the storm is replayed without the bug. The real world draws its own luck, so a bug has several tries, in one of its storms
//! after the other, and one that fails once has failed. What never fails is explained, or is a finding about the simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::replay::Replay;
use super::storm;
use crate::mutants::score::Score;
use crate::mutants::{Mutant, all, find};
use crate::report::RunReport;
use crate::runner::{Case, Runner};
use crate::saved::SavedCase;
use crate::scenario::{Limits, Scenario};

/// The kinds of fault that real processes and links can have. A bug that needs one of these is in question.
pub const KINDS: &[&str] = &[
    "bandwidth",
    "black-hole",
    "clog",
    "corrupt",
    "delay",
    "duplicate",
    "kill",
    "lag",
    "loss",
    "membership",
    "move",
    "partition",
    "power-loss",
    "refusal",
    "reorder",
    "stall",
    "transfer",
    "vanish",
];

/// What only follows after the heal: storms that are not meant to show it are not waited for so long.
const FOLLOWS: &[&str] = &["AE", "BLOCK", "CAT", "NEWS"];

/// Why a bug cannot fail on a real cluster.
pub const EXPLAINED: &[(&str, &str)] = &[
    ("G08", "caught by GA, which speaks of speed and is not judged on a real machine."),
    ("G15", "caught by GA, which speaks of speed and is not judged on a real machine."),
];

/// Whether a bug is in question: caught with faults of the network or of processes, and not by what a disk does when the power
/// fails, which is not for a process to say.
pub fn in_question(mutant: &Mutant) -> bool {
    mutant.needs.iter().any(|kind| KINDS.contains(kind))
        && !mutant.checks.contains(&"DET")
        && !mutant.id.starts_with(['S', 'T'])
}

/// A plan in which simulation caught a bug.
#[derive(Clone, Debug)]
pub struct Storm {
    /// Where it is from, for people.
    pub name: String,
    /// The bug.
    pub mutant: &'static Mutant,
    /// The checks that objected.
    pub simulated: BTreeSet<String>,
    /// The plan.
    pub scenario: Scenario,
}

impl Storm {
    /// Which of the checks that objected must catch its bug, or objected in simulation.
    fn shown_by<'a>(&self, objected: &'a BTreeSet<String>) -> BTreeSet<&'a String> {
        let counts =
            |check: &&String| self.simulated.contains(*check) || self.mutant.checks.contains(&check.as_str());
        objected.iter().filter(counts).collect()
    }

    /// The storm of a saved case. `None`: it names no bug.
    pub fn of_case(path: &Path, case: SavedCase) -> Option<Storm> {
        let expects = case.expects?;
        let mutant = expects.mutant.as_deref().and_then(find)?;
        let simulated = BTreeSet::from([expects.signature.check]);
        Some(Storm { name: path.display().to_string(), mutant, simulated, scenario: case.scenario })
    }

    /// The storms of the seeds that a bug failed in by a check that must catch it, as the hunts found them.
    pub fn of_hunts(score: &Score) -> Vec<Storm> {
        let mutant = score.mutant;
        let failed = score.hunts.iter().flat_map(|hunt| &hunt.failed);
        let named = |checks: &[String]| checks.iter().any(|one| mutant.checks.contains(&one.as_str()));
        let storm = |(seed, checks): &(u64, Vec<String>)| Storm {
            name: format!("seed {seed}"),
            mutant,
            simulated: checks.iter().cloned().collect(),
            scenario: Scenario::generate(*seed, &Limits::default()),
        };
        failed.filter(|(_, checks)| named(checks)).map(storm).collect()
    }
}

/// What came of the tries of one bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The bug.
    pub id: String,
    /// The storms, and the checks that objected in simulation.
    pub simulated: String,
    /// How often it was tried.
    pub tries: u32,
    /// How often it failed in the same way.
    pub failed: u32,
    /// The checks that objected, with how often.
    pub checks: BTreeMap<String, u32>,
    /// The checks that objected to the storms that failed when there was no bug; `None` if that was not asked.
    pub without: Option<BTreeSet<String>>,
    /// What of the plans was not replayed as planned.
    pub left_out: Vec<String>,
    /// Of a bug that never failed: the checks that object in simulation to what of the plans was replayed; `None` if that was
    /// not asked.
    #[serde(default)]
    pub within: Option<BTreeSet<String>>,
}

/// Why a storm cannot be tried.
#[derive(Debug, thiserror::Error)]
#[error("cannot replay {storm}: {error}")]
pub struct ParityError {
    /// The storm.
    storm: String,
    /// Why not.
    error: io::Error,
}

/// Which checks object to a storm without a bug, by its name and whether it was waited for what follows; each is replayed once.
#[derive(Debug, Default)]
pub struct Controls {
    done: Mutex<BTreeMap<(String, bool), Arc<Mutex<Option<BTreeSet<String>>>>>>,
}

impl Controls {
    fn of(&self, program: &Path, storm: &Storm, follows: bool) -> Result<BTreeSet<String>, ParityError> {
        let slot = {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.entry((storm.name.clone(), follows)).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(objected) = &*slot {
            return Ok(objected.clone());
        }
        let report = replayed(program, None, storm, follows)?;
        let objected: BTreeSet<String> = report.violations.into_iter().map(|one| one.check).collect();
        *slot = Some(objected.clone());
        Ok(objected)
    }
}

fn replayed(
    program: &Path,
    mutant: Option<&str>,
    storm: &Storm,
    follows: bool,
) -> Result<RunReport, ParityError> {
    let failed = |error| ParityError { storm: format!("{} of {}", storm.name, storm.mutant.id), error };
    let folder = tempfile::tempdir().map_err(failed)?;
    let (program, folder) = (program.to_owned(), folder.path().to_owned());
    let replay = Replay { program, mutant: mutant.map(str::to_owned), folder, follows };
    replay.run(&storm.scenario).map_err(failed)
}

/// Tries the storms of a bug, one after the other and round again; ends with the first that fails, if `first` is enough.
/// `tell` is told of each. There must be one.
///
/// # Errors
/// See [`ParityError`].
pub fn measure(
    program: &Path,
    mutant: &'static Mutant,
    storms: &[Storm],
    controls: &Controls,
    tries: u32,
    first: bool,
    tell: &mut dyn FnMut(u32, &Storm, &RunReport),
) -> Result<Row, ParityError> {
    let mut row = Row {
        id: mutant.id.to_owned(),
        simulated: simulated(storms),
        tries: 0,
        failed: 0,
        checks: BTreeMap::new(),
        without: None,
        left_out: Vec::new(),
        within: None,
    };
    let follows = mutant.checks.iter().any(|check| FOLLOWS.contains(check));
    for (storm, number) in storms.iter().cycle().zip(1..=tries) {
        let report = replayed(program, Some(mutant.id), storm, follows)?;
        tell(number, storm, &report);
        row.tries += 1;
        row.left_out.extend(storm::left_out(&storm.scenario));
        let checks: BTreeSet<String> = report.violations.into_iter().map(|one| one.check).collect();
        let shows = storm.shown_by(&checks);
        let mut fails = false;
        if !shows.is_empty() {
            let without = controls.of(program, storm, follows)?;
            fails = shows.iter().any(|check| !without.contains(*check));
            row.without.get_or_insert_default().extend(without);
        }
        row.failed += u32::from(fails);
        for check in checks {
            *row.checks.entry(check).or_default() += 1;
        }
        if fails && first {
            break;
        }
    }
    row.left_out.sort_unstable();
    row.left_out.dedup();
    Ok(row)
}

/// Asks simulation which checks object to what of the storms is replayed: none, if a bug needs what has no real counterpart.
///
/// # Errors
/// When a storm cannot be simulated so.
pub fn within(storms: &[Storm], runner: &Runner) -> io::Result<BTreeSet<String>> {
    let folder = tempfile::tempdir()?;
    let mut objecting = BTreeSet::new();
    for storm in storms {
        let case = Case { mutant: Some(storm.mutant.id.to_owned()), ..Case::default() };
        let case = case.of_plan(&storm::as_replayed(&storm.scenario), folder.path().join("plan.json"))?;
        let objected = runner.run(&case)?.violations.into_iter().map(|one| one.check).collect();
        objecting.extend(storm.shown_by(&objected).into_iter().cloned());
    }
    Ok(objecting)
}

/// Which storms they are, and which checks objected to them in simulation.
fn simulated(storms: &[Storm]) -> String {
    let each = storms.iter().map(|storm| {
        let checks: Vec<&str> = storm.simulated.iter().map(String::as_str).collect();
        format!("{}: {}", storm.name, checks.join(" "))
    });
    each.collect::<Vec<_>>().join("; ")
}

/// The rows of a file, one a line; the last of a bug counts. They come in the order of the table of bugs.
///
/// # Errors
/// Which line is no row, and why.
pub fn read(text: &str) -> Result<Vec<Row>, String> {
    let mut rows = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let row: Row = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))?;
        rows.insert(row.id.clone(), row);
    }
    Ok(all().filter_map(|mutant| rows.remove(mutant.id)).collect())
}

/// How many fail, and of how many.
pub fn share(rows: &[Row]) -> (usize, usize) {
    (rows.iter().filter(|row| row.failed > 0).count(), rows.len())
}

fn percent((part, of): (usize, usize)) -> usize {
    (part * 100).checked_div(of).unwrap_or(0)
}

/// The document: the table, the share, and what is behind the rest.
pub fn document(rows: &[Row]) -> String {
    let mut text = String::from(
        "# Simulation and reality\n\n\
         Generated by `cargo sim parity`. Each bug that simulation catches with faults of the network or of processes \
         is put back into real processes on real links, files and clocks, which are driven through storms in which \
         simulation caught it. A storm fails when a check objects that must catch its bug, or that did in \
         simulation, and does not when the same storm is replayed without the bug; the real world draws its own luck, so \
         each has several tries, and ends with the first that fails. \
         Bugs that need a disk to lose what was not synced are not in question: a process that is killed loses nothing \
         that it wrote.\n\n",
    );
    let (failing, of) = share(rows);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "**{failing} of {of} fail on a real cluster too: {} %.**", percent((failing, of)));
    let beyond =
        rows.iter().filter(|row| row.failed == 0 && row.within.as_ref().is_some_and(BTreeSet::is_empty));
    let beyond = beyond.count();
    if beyond > 0 {
        let of = of - beyond;
        let _ = writeln!(
            text,
            "In simulation, {beyond} of the others pass too when only that happens which has a real counterpart. \
             Without these it is {failing} of {of}: {} %.",
            percent((failing, of))
        );
    }
    text += "\n";
    let open = all().filter(|mutant| in_question(mutant) && rows.iter().all(|row| row.id != mutant.id));
    let open: Vec<&str> = open.map(|mutant| mutant.id).collect();
    if !open.is_empty() {
        let _ = writeln!(text, "In question and not measured yet: {}.\n", open.join(", "));
    }
    text += "| mutant | bug | in simulation | really | tries that failed | checks that objected | without the bug |\n|---|---|---|---|---|---|---|\n";
    for row in rows {
        let what = find(&row.id).map_or("", |mutant| mutant.what);
        let checks: Vec<String> =
            row.checks.iter().map(|(check, times)| format!("{check} ({times})")).collect();
        let _ = writeln!(
            text,
            "| {} | {what} | {} | {} | {} of {} | {} | {} |",
            row.id,
            row.simulated,
            if row.failed > 0 { "fails" } else { "**passes**" },
            row.failed,
            row.tries,
            if checks.is_empty() { "-".to_owned() } else { checks.join(", ") },
            match &row.without {
                None => "-".to_owned(),
                Some(checks) if checks.is_empty() => "passes".to_owned(),
                Some(checks) => checks.iter().cloned().collect::<Vec<_>>().join(", "),
            },
        );
    }
    let passing: Vec<&Row> = rows.iter().filter(|row| row.failed == 0).collect();
    if !passing.is_empty() {
        text += "\n## Why the rest passes\n\n";
    }
    for row in passing {
        let known = EXPLAINED.iter().find(|(id, _)| **id == row.id).map(|(_, why)| (*why).to_owned());
        let why = known.unwrap_or_else(|| match &row.within {
            None => "not explained yet.".to_owned(),
            Some(checks) if checks.is_empty() => {
                "so it does in simulation, when only that happens which has a real counterpart.".to_owned()
            }
            Some(checks) => {
                let checks: Vec<&str> = checks.iter().map(String::as_str).collect();
                format!("not explained yet: simulation needs nothing more ({}).", checks.join(", "))
            }
        });
        let left_out = match row.left_out.as_slice() {
            [] => String::new(),
            left_out => format!(" Not as planned: {}.", left_out.join("; ")),
        };
        let _ = writeln!(text, "* **{}**: {why}{left_out}", row.id);
    }
    text += "\n## Not in question\n\n";
    for mutant in all().filter(|mutant| !in_question(mutant)) {
        let needs = if mutant.needs.is_empty() { "no fault".to_owned() } else { mutant.needs.join(", ") };
        let why = match mutant.id.chars().next() {
            Some('T') => "a bug of the testbed's",
            Some('S') => "a disk must lose or damage something",
            _ => "no network, no crash",
        };
        let _ = writeln!(text, "* {}: {} (needs {needs}; {why})", mutant.id, mutant.what);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::score::Hunt;

    fn row(id: &'static str, failed: u32) -> Row {
        let checks = if failed > 0 { BTreeMap::from([("LIN".to_owned(), failed)]) } else { BTreeMap::new() };
        let without = (failed > 0).then(BTreeSet::new);
        Row {
            id: id.to_owned(),
            simulated: "LIN".to_owned(),
            tries: 5,
            failed,
            checks,
            without,
            left_out: Vec::new(),
            within: None,
        }
    }

    #[test]
    fn the_share_is_of_cases_and_what_passes_is_explained_or_said_not_to_be() {
        let asked = |id, checks: &[&str]| Row {
            within: Some(checks.iter().map(|check| (*check).to_owned()).collect()),
            ..row(id, 0)
        };
        let rows = [row("R27", 4), row("G08", 0), row("R33", 0), asked("R03", &[]), asked("R11", &["CQ"])];
        let text = document(&rows);
        assert!(text.contains("**1 of 5 fail on a real cluster too: 20 %.**"), "{text}");
        assert!(text.contains("1 of the others pass too") && text.contains("it is 1 of 4: 25 %."), "{text}");
        assert!(text.contains(
            "| R27 | a read is answered without asking a quorum who leads | LIN | fails | 4 of 5 | LIN (4) | passes |"
        ));
        assert!(text.contains("* **G08**: caught by GA"), "{text}");
        assert!(text.contains("* **R33**: not explained yet.\n"), "{text}");
        assert!(text.contains("* **R03**: so it does in simulation, when only that happens"), "{text}");
        assert!(text.contains("* **R11**: not explained yet: simulation needs nothing more (CQ)."), "{text}");
        assert!(text.contains("* T02: "), "{text}");
        assert!(text.contains("not measured yet: R02, R07, "), "{text}");
    }

    #[test]
    fn storms_are_those_that_a_named_check_objected_to() {
        let hunt = Hunt {
            failed: vec![(3, vec!["LIVE".to_owned()]), (5, vec!["LIVE".to_owned(), "LIN".to_owned()])],
            ..Hunt::new(find("R27").unwrap(), 1)
        };
        let score = Score { mutant: find("R27").unwrap(), hunts: vec![hunt], small: None, is_earlier: false };
        let storms = Storm::of_hunts(&score);
        assert_eq!(simulated(&storms), "seed 5: LIN LIVE");
        assert_eq!(storms[0].scenario, Scenario::generate(5, &Limits::default()));
    }

    #[test]
    fn the_document_shows_what_was_measured() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let rows = read(&std::fs::read_to_string(root.join("fixtures/parity.jsonl")).unwrap()).unwrap();
        let text = std::fs::read_to_string(root.join("docs/parity.md")).unwrap();
        assert!(
            text == document(&rows),
            "run `cargo sim parity` with --measured and --doc: see sim/README.md"
        );
        assert!(read("{}").unwrap_err().starts_with("line 1: "));
    }

    #[test]
    fn bugs_of_network_and_processes_are_in_question() {
        let asked = |id| in_question(find(id).unwrap());
        assert!(asked("R27") && asked("R02") && asked("G14"));
        assert!(!asked("R31") && !asked("S01") && !asked("S04") && !asked("T02"));
        for (id, _) in EXPLAINED {
            assert!(find(id).is_some_and(in_question), "{id}");
        }
        for kind in KINDS {
            assert!(crate::scenario::KINDS.contains(kind), "{kind}");
        }
    }
}
