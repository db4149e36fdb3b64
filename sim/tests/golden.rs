//! Stories that a person has read: what the nodes and the clients of a saved scenario do, line by line.
//!
//! The trace of a run has thousands of lines; kept here are those that tell the story. When a change moves
//! them, read the difference as if a stranger had written it, then accept it with `INSTA_UPDATE=always`.

#![cfg(madsim)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

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

#[test]
fn every_saved_case_holds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases");
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let cases: Vec<String> =
        names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".json")).collect();
    assert!(!cases.is_empty());
    for case in cases {
        assert!(replay(&case, &[]).contains(": ok"), "{case}");
    }
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_its_write_is_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    replay("leader-cut-off.json", &["--trace".as_ref(), trace.as_os_str()]);
    insta::assert_snapshot!(story(&std::fs::read_to_string(trace).unwrap()));
}
