//! The examples are testbeds: they pass, and each catches its own bug by its own check.

use std::path::Path;

#[cfg(madsim)]
mod run {
    use std::path::PathBuf;
    use std::process::Command;

    use sim::report::RunReport;

    /// Built by the same `cargo test` as this file.
    fn program(name: &str) -> PathBuf {
        let here = std::env::current_exe().unwrap();
        let program = here.parent().unwrap().parent().unwrap().join("examples").join(name);
        assert!(program.exists(), "{} is built by `cargo sim-test`, all targets", program.display());
        program
    }

    fn reports(name: &str, seeds: &str, more: &[&str]) -> (Option<i32>, Vec<RunReport>) {
        let output = Command::new(program(name))
            .args(["run", "--json", "--duration", "15", "--seeds", seeds])
            .args(more)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn is_sound_and_catches(name: &str, mutant: &str) {
        let (code, clean) = reports(name, "1..=4", &[]);
        assert_eq!((code, clean.len()), (Some(0), 4), "{clean:?}");
        // The experiment's own operations take place, not only the testbed's.
        let caught = |first: u64| {
            let seeds = format!("{first}..={}", first + 7);
            let (_, reports) = reports(name, &seeds, &["--mutant", mutant]);
            reports.iter().any(|report| report.violates(mutant))
        };
        assert!((1..=193).step_by(8).any(caught), "{mutant} survives 200 seeds");
    }

    #[test]
    fn bank_is_sound_and_catches_money_taken_twice() {
        is_sound_and_catches("bank", "BANK");
    }

    #[test]
    fn counter_is_sound_and_catches_additions_counted_twice() {
        is_sound_and_catches("counter", "COUNT");
    }

    #[test]
    fn flood_is_sound_and_catches_settings_that_go_back() {
        is_sound_and_catches("flood", "FLOOD");
    }

    #[test]
    fn an_example_knows_its_own_bug_and_says_what_its_check_claims() {
        let output = Command::new(program("flood")).args(["run", "--list-mutants"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "a list is asked for without a command");
        let output = Command::new(program("flood")).arg("--list-mutants").output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("FLOOD"));
    }
}

/// Every block of Rust in the walk-through is in the example, word by word, so it is compiled and run.
#[test]
fn the_walk_through_shows_the_example_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/extending.md")).unwrap();
    let example = std::fs::read_to_string(root.join("examples/counter.rs")).unwrap();
    let blocks: Vec<&str> =
        page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 8, "{} blocks", blocks.len());
    for block in blocks {
        assert!(example.contains(block), "not in examples/counter.rs:\n{block}");
    }
}
