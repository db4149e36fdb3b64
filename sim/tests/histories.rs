//! Runs the checks of histories over `fixtures/histories`.
//!
//! The first line of each file is a comment that tells its story. In `invalid` the story begins with the
//! ids of the checks that must object, and no other may; in `valid` none may.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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
