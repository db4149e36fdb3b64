//! Runs the checks of histories over `fixtures/histories`, and `sim check` over `fixtures/histories/foreign`,
//! where the first line tells the story and the name begins with the model.
//!
//! The first line of each file is a comment that tells its story. In `invalid` the story begins with the
//! ids of the checks that must object, and no other may; in `valid` none may.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sim::check::{Checks, End, Settings};
use sim::history::{self, Operation};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/histories").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn objections(history: Vec<Operation>) -> BTreeSet<String> {
    let verdict = Checks::new(&Settings::default()).finish(&End { history, ..End::default() });
    assert!(verdict.undecided.is_empty());
    verdict.violations.into_iter().map(|violation| violation.check).collect()
}

#[test]
fn valid_histories_are_accepted_and_invalid_ones_rejected_by_the_checks_they_name() {
    let mut count = 0;
    for folder in ["valid", "invalid"] {
        for file in files(folder) {
            let text = fs::read_to_string(&file).unwrap();
            let story = text.strip_prefix("# ").expect("a file begins with its story");
            let named: BTreeSet<String> = match (folder, story.split_once(':')) {
                ("invalid", Some((ids, _))) => ids.split(", ").map(str::to_owned).collect(),
                _ => BTreeSet::new(),
            };
            let history = history::read(text.as_bytes()).unwrap_or_else(|error| panic!("{file:?}: {error}"));
            assert_eq!(objections(history), named, "{file:?}");
            count += 1;
        }
    }
    assert!(count >= 13);
}

#[test]
fn what_the_reader_writes_is_the_file_again() {
    for file in files("valid") {
        let text = fs::read_to_string(&file).unwrap();
        let history = history::read(text.as_bytes()).unwrap();
        let mut written = Vec::new();
        history::write(&mut written, &history).unwrap();
        assert_eq!(history::read(&written[..]).unwrap(), history);
    }
}

/// `sim check` on each file of a folder: its exit code, and what it says on both outputs.
fn checked(folder: &str) -> Vec<(PathBuf, String, Option<i32>, String)> {
    let check = |file: PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (model, _) = name.split_once('-').expect("a name begins with the model");
        let output = Command::new(env!("CARGO_BIN_EXE_sim"))
            .args(["check", "--model", model, file.to_str().unwrap()])
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let story = fs::read_to_string(&file).unwrap().lines().next().unwrap_or_default().to_owned();
        let story = story.trim_start_matches([';', '#', ' ']).to_owned();
        (file, story, output.status.code(), said)
    };
    files(&format!("foreign/{folder}")).into_iter().map(check).collect()
}

#[test]
fn histories_from_elsewhere_are_judged_and_the_exit_code_says_how() {
    let (valid, invalid, unreadable) = (checked("valid"), checked("invalid"), checked("unreadable"));
    assert!(valid.len() >= 4 && invalid.len() >= 6 && unreadable.len() >= 5);
    for (file, _, code, said) in valid {
        assert_eq!(code, Some(0), "{file:?}: {said}");
        assert!(said.starts_with("linearizable: "), "{file:?}: {said}");
    }
    for (file, _, code, said) in invalid {
        assert_eq!(code, Some(1), "{file:?}: {said}");
        assert!(said.contains("one of these had to be next, and none can be"), "{file:?}: {said}");
    }
    // Their first line is what must be said of them.
    for (file, story, code, said) in unreadable {
        assert_eq!(code, Some(2), "{file:?}: {said}");
        assert!(said.contains(&story), "{file:?}: {said}");
    }
}

#[test]
fn a_limit_gives_unknown_and_never_a_guess() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("long.log");
    // Calls without an answer: easy to judge, but there are many.
    let mut text = String::new();
    for process in 0..20_000 {
        text += &format!("INFO  jepsen.util - {process} :invoke :write {process}{}\n", "0".repeat(100));
    }
    fs::write(&file, text).unwrap();
    let run = |limit: &str| {
        Command::new(env!("CARGO_BIN_EXE_sim"))
            .args(["check", "--model", "register", "--json", "--memory-limit", limit, file.to_str().unwrap()])
            .output()
            .unwrap()
    };
    let little = run("1");
    assert_eq!(little.status.code(), Some(3));
    let said: serde_json::Value = serde_json::from_slice(&little.stdout).unwrap();
    assert_eq!((&said["verdict"], &said["limit"]), (&"unknown".into(), &"memory".into()));
    assert_eq!(run("100").status.code(), Some(0));
}
