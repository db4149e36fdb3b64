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
    is_refused(&["run", "--seed", "1", "--mutant", "R99"], "no such mutant; there are A01");
    is_refused(&["run", "--without", "gravity"], "power-loss");
    is_refused(&["run", "--seed", "1", "--scenario", "x"], "cannot be used with");
    is_refused(&["run", "--jobs", "0"], "--jobs");
    is_refused(&["run", "--seeds", "1..=x"], "\"x\": invalid digit");
    is_refused(&["run", "--seeds", "1..=9", "--shard", "4/3"], "there is no shard 4 of 3");
    is_refused(&["run", "--shard", "1/3"], "--seeds");
    is_refused(&["hunt", "--for", "10 parsecs"], "such as 10m");
    is_refused(&["hunt", "--for", "0s"], "want 1 second to 30 days");
    is_refused(&["hunt", "--shard", "3/2"], "there is no shard 3 of 2");
    is_refused(&["hunt", "--measured", "x"], "--versus-blind");
    is_refused(&["merge"], "PART");
    is_refused(&["merge", "/no/such/part"], "/no/such/part: No such file");
    is_refused(&["run", "--seed", "1", "--require-core"], "cannot be used with");
    is_refused(&["shrink"], "CASE");
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
fn an_impossible_plan_is_refused_by_place_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (file, small) = (folder.path().join("plan.json"), folder.path().join("small.json"));
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases");
    let good = std::fs::read_to_string(cases.join("leader-cut-off.json")).unwrap();
    let broken = [
        ("\"nodes\": 3,", "\"nodes\": 0,", "plan.json cannot be run: nodes: 0, want 1 to 64"),
        ("\"nodes\": 3,", "\"nodes\": 2,", "plan.json cannot be run: clocks: 3 of them for 2 nodes"),
        ("\"duration_ms\": 6000", "\"duration_ms\": 2000", "plan.json cannot be run: faults[0].for_ms: 3000"),
        ("\"version\": 2", "\"version\": 9", "plan.json is a scenario of version 9; this build reads 2"),
        ("\"for_ms\"", "\"for_years\"", "plan.json is not a scenario: unknown field `for_years`"),
        ("\"leader\"", "\"gravity\"", "unknown variant `gravity`"),
    ];
    for (whole, part, because) in broken {
        assert!(good.contains(whole), "{whole}");
        std::fs::write(&file, good.replacen(whole, part, 1)).unwrap();
        is_refused(&["one", "--scenario", file.to_str().unwrap()], because);
        if cfg!(madsim) {
            is_refused(&["run", "--scenario", file.to_str().unwrap()], because);
            is_refused(&["shrink", file.to_str().unwrap(), "--shrunk", small.to_str().unwrap()], because);
        }
        assert!(!small.exists());
    }
}

#[test]
#[cfg(madsim)]
fn what_exists_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine");
    std::fs::write(&file, "mine").unwrap();
    let name = file.to_str().unwrap();
    for option in ["--trace", "--save-scenario", "--out"] {
        is_refused(&["run", "--seed", "1", option, name], "mine exists; --force overwrites it");
    }
    is_refused(&["shrink", "--seed", "1", "--shrunk", name], "mine exists; --force overwrites it");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
}

#[test]
#[cfg(madsim)]
fn a_hunt_goes_on_where_it_was_and_refuses_what_is_no_hunt() {
    let folder = tempfile::tempdir().unwrap();
    let hunt = |name: &str, runs: &str| {
        let corpus = folder.path().join(name);
        sim(&["hunt", "--runs", runs, "--seed", "3", "--no-shrink", "--corpus", corpus.to_str().unwrap()])
    };
    let kept = |name: &str| std::fs::read_to_string(folder.path().join(name).join("hunt.json")).unwrap();
    assert!(hunt("once", "16").status.success());
    assert!(hunt("twice", "8").status.success() && hunt("twice", "8").status.success());
    assert!(kept("once") == kept("twice"), "a hunt that was interrupted is not what it would have been");
    std::fs::write(folder.path().join("twice/hunt.json"), "{").unwrap();
    let refused = hunt("twice", "8");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("hunt.json: EOF"));
}

#[test]
#[cfg(not(madsim))]
fn a_build_without_the_simulator_says_how_to_get_one() {
    for arguments in [&["run", "--seed", "1"][..], &["one", "--seed", "1"], &["mutants"], &["hunt"], &[]] {
        is_refused(arguments, "cargo sim");
    }
}
