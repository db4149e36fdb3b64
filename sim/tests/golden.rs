//! Stories that a person has read: what the nodes and the clients of a saved scenario do, line by line.
//!
//! The trace of a run has thousands of lines; kept here are those that tell the story. When a change moves
//! them, read the difference as if a stranger had written it, then accept it with `INSTA_UPDATE=always`.

#![cfg(madsim)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use sim::report::RunReport;
use sim::saved::SavedCase;

/// The lines of a trace that tell the story, with times cut to hundredths of a second and Raft ids by name.
fn story(trace: &str) -> String {
    let mut names = BTreeMap::new();
    for line in trace.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let Some(at) = words.iter().position(|word| *word == "raft_id:") {
            names.insert(words[at + 1].trim_end_matches(',').to_owned(), words[1].to_owned());
        }
    }
    let mut story = String::new();
    for line in trace.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some(at), Some(who), Some(_own), Some(what)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let told = ["observed Role", "fault", "invoke", "return", "storm", "heal"];
        if !told.iter().any(|begin| what.starts_with(begin)) {
            continue;
        }
        let mut what = what.replace("observed ", "");
        for (id, name) in &names {
            what = what.replace(id.as_str(), name);
        }
        let seconds: f64 = at.parse().unwrap();
        writeln!(story, "{seconds:6.2} {who:>5}  {what}").unwrap();
    }
    story
}

/// Runs the program on a saved case; gives what it printed.
fn replay(case: &str, more: &[&std::ffi::OsStr]) -> String {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases").join(case);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    let run = command.args(["run", "--scenario"]).arg(&case).args(more).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{}: {said}", case.display());
    said
}

/// The saved cases of a folder.
fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(folder);
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|is| is == "json")).collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

/// Runs a case without shrinking it.
fn report(scenario: &Path, mutant: Option<&str>) -> RunReport {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    command.args(["run", "--json", "--scenario"]).arg(scenario);
    if let Some(mutant) = mutant {
        command.args(["--mutant", mutant]);
    }
    let run = command.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{}: {error}: {said}", scenario.display()))
}

/// A case that waits for a violation shows it, with its bug put back, and with the named check; every other case
/// passes. Without its bug a case passes as well.
fn holds(path: &Path) {
    let case = SavedCase::load(path).unwrap();
    let name = path.display();
    let expects = case.expects.as_ref();
    if expects.is_none_or(|expects| expects.mutant.is_some()) {
        let clean = report(path, None);
        assert!(clean.ok, "{name}: {}", clean.text("", ""));
    }
    let Some(expects) = expects else { return };
    let folder = tempfile::tempdir().unwrap();
    let shows = (0..expects.within).any(|more| {
        let path = folder.path().join("seed.json");
        SavedCase::bare(case.scenario.clone().under(more)).save(&path, true).unwrap();
        expects.signature.is_in(&report(&path, expects.mutant.as_deref()))
    });
    assert!(shows, "{name} does not show {} within {} seeds", expects.signature, expects.within);
}

/// All of them, as many at once as there are cores.
fn all_hold(cases: &[PathBuf]) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    holds(case);
                }
            });
        }
    });
}

#[test]
fn every_saved_case_holds() {
    all_hold(&cases("cases"));
}

/// What `cargo sim mutants --cases` made small; docs/mutants.md is the table.
#[test]
fn the_small_case_of_each_bug_shows_it() {
    let cases = cases("mutants");
    for case in &cases {
        let expects = SavedCase::load(case).unwrap().expects.and_then(|expects| expects.mutant);
        assert_eq!(case.file_stem().and_then(|name| name.to_str()), expects.as_deref(), "{}", case.display());
    }
    all_hold(&cases);
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_its_write_is_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    replay("leader-cut-off.json", &["--trace".as_ref(), trace.as_os_str()]);
    insta::assert_snapshot!(story(&std::fs::read_to_string(trace).unwrap()));
}
