//! The `sim` program from outside: its exit codes and what it says when it cannot go on.
//!
//! Without `--cfg madsim` there is nothing to run, so only the paths before a run are walked here.

use std::path::Path;
use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().unwrap()
}

#[track_caller]
fn is_refused(arguments: &[&str], because: &str) {
    let output = sim(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(because), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn lists_are_printed_and_fine() {
    for (option, word) in [("--list-mutants", "R02 "), ("--list-checks", "LIN ")] {
        let output = sim(&[option]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains(word));
    }
}

#[test]
fn a_bad_command_line_is_refused_with_its_reason() {
    is_refused(&["run", "--seeds", "9..=3"], "the range is empty");
    is_refused(&["run", "--seed", "1", "--mutant", "R99"], "no such mutant; there are R02");
    is_refused(&["run", "--without", "gravity"], "power-loss");
    is_refused(&["run", "--seed", "1", "--scenario", "x"], "cannot be used with");
    is_refused(&["run", "--jobs", "0"], "--jobs");
    is_refused(&["one"], "--seed");
}

#[test]
fn an_unreadable_scenario_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.json");
    std::fs::write(&file, "{\n oops").unwrap();
    is_refused(&["one", "--scenario", file.to_str().unwrap()], "broken.json is not a scenario: key must be");
    is_refused(&["one", "--scenario", "/no/such/file"], "cannot read scenario /no/such/file");
    assert!(Path::new(&file).exists());
}

#[test]
#[cfg(not(madsim))]
fn a_build_without_the_simulator_says_how_to_get_one() {
    for arguments in [&["run", "--seed", "1"][..], &["one", "--seed", "1"], &["mutants"], &[]] {
        is_refused(arguments, "cargo sim");
    }
}
