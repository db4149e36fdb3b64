//! What a run leaves behind for whoever has to understand it: its page, and where it parts from another.

#![cfg(madsim)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sim::report::RunReport;

fn sim(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).current_dir(folder).args(arguments).output().unwrap()
}

fn case(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases").join(name);
    path.to_str().unwrap().to_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|is| is == "html")).collect();
    pages.sort();
    pages
}

#[test]
fn drawing_a_run_changes_nothing_in_it() {
    let folder = tempfile::tempdir().unwrap();
    for seed in ["4", "7", "27"] {
        let run = |more: &[&str]| {
            let output = sim(folder.path(), &[&["run", "--json", "--seed", seed], more].concat());
            let line = String::from_utf8_lossy(&output.stdout).into_owned();
            serde_json::from_str::<RunReport>(&line)
                .unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
        };
        let page = format!("{seed}.html");
        let (plain, drawn) = (run(&[]), run(&["--report", &page]));
        assert!(plain.trace_events > 1_000);
        // What it costs the machine is all that may differ.
        let known =
            |report: RunReport| RunReport { wall_seconds: 0.0, cpu_seconds: 0.0, memory_kib: 0, ..report };
        assert_eq!(known(plain), known(drawn));
        assert!(folder.path().join(page).metadata().unwrap().len() > 10_000);
    }
}

#[test]
fn a_failure_gets_a_page_that_names_what_broke_and_how_to_see_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let stale = case("stale-read.json");
    for _ in 0..2 {
        let run = sim(folder.path(), &["run", "--scenario", &stale, "--mutant", "R27", "--no-shrink"]);
        assert_eq!(run.status.code(), Some(1), "{}", said(&run));
    }
    let pages = pages(folder.path());
    assert_eq!(pages.len(), 2, "the first was left alone: {pages:?}");
    let page = std::fs::read_to_string(&pages[0]).unwrap();
    assert!(page.contains("<title>Stale read of key "), "{}", &page[..500]);
    assert!(page.contains("--mutant R27"));
    assert!(page.len() < 5 << 20);
    // What exists is not overwritten without a word to that end.
    let name = pages[0].to_str().unwrap();
    let refused = sim(folder.path(), &["run", "--scenario", &stale, "--report", name]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&pages[0]).unwrap(), page);
}

#[test]
fn what_was_made_small_is_told_under_the_seed_that_failed() {
    let folder = tempfile::tempdir().unwrap();
    // Few tries: what comes of them is told in any case.
    let arguments = ["shrink", &case("stale-read.json"), "--shrunk", "small.json", "--shrink-runs", "1"];
    let shrunk = sim(folder.path(), &arguments);
    assert_eq!(shrunk.status.code(), Some(0), "{}", said(&shrunk));
    let told = String::from_utf8_lossy(&shrunk.stdout);
    assert!(told.starts_with("seed 37, made small (small.json): "), "{told}");
    assert!(told.lines().next().unwrap_or_default().contains(" violated: "), "{told}");
}

#[test]
fn a_case_parts_from_itself_without_its_fault_and_not_from_itself() {
    let folder = tempfile::tempdir().unwrap();
    let stale = case("stale-read.json");
    let same = sim(folder.path(), &["diff", &stale, &stale]);
    assert_eq!(same.status.code(), Some(0), "{}", said(&same));
    assert!(said(&same).ends_with("the traces are the same\n"));
    let without = sim(folder.path(), &["diff", &stale, "--without-fault", "0"]);
    assert_eq!(without.status.code(), Some(1), "{}", said(&without));
    let words = said(&without);
    assert!(words.contains("json: LIN violated") && words.contains("(partition): ok\n"), "{words}");
    assert!(words.contains("- - fault partition"), "the cause comes first: {words}");
    let missing = sim(folder.path(), &["diff", &stale, "--without-fault", "5"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(said(&missing).contains("there is no fault 5; there are\n  0: at "), "{}", said(&missing));
}

#[test]
fn a_trace_that_is_cut_short_is_refused_by_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let calm = case("leave-at-the-end.json");
    let run = sim(folder.path(), &["run", "--scenario", &calm, "--trace", "a.txt"]);
    assert_eq!(run.status.code(), Some(0), "{}", said(&run));
    assert_eq!(sim(folder.path(), &["diff", "a.txt", &calm]).status.code(), Some(0));
    let whole = std::fs::read_to_string(folder.path().join("a.txt")).unwrap();
    let lines = whole.lines().count();
    let kept: String = whole.split_inclusive('\n').take(lines - 1).collect();
    std::fs::write(folder.path().join("b.txt"), kept).unwrap();
    let refused = sim(folder.path(), &["diff", "a.txt", "b.txt"]);
    assert_eq!(refused.status.code(), Some(2));
    let because = format!("b.txt: line {}: the trace is cut short", lines - 1);
    assert!(said(&refused).contains(&because), "{}", said(&refused));
}
