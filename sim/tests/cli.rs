//! The `sim` program from outside: its exit codes and what it says when it cannot go on.
//!
//! Without `--cfg madsim` there is nothing to run, so only the paths before a run are walked here.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

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

/// What would be of no use is refused, so that nobody waits for what it should have done.
#[test]
fn a_flag_that_a_command_has_no_use_for_is_refused() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases/leader-cut-off.json");
    let case = case.to_str().unwrap();
    let cannot = "cannot be used with";
    for (arguments, because) in [
        (&["hunt", "--shrunk", "x"][..], "--shrunk"),
        (&["hunt", "--no-shrink", "--shrink-runs", "5"], cannot),
        (&["hunt", "--versus-blind", "R02", "--corpus", "x"], cannot),
        (&["hunt", "--versus-blind", "R02", "--no-shrink"], cannot),
        (&["hunt", "--versus-blind", "R02", "--shrink-seconds", "5"], cannot),
        (&["run", "--seed", "1", "--json", "--shrunk", "x"], cannot),
        (&["run", "--seed", "1", "--json", "--shrink-runs", "5"], cannot),
        (&["run", "--seed", "1", "--no-shrink", "--shrunk", "x"], cannot),
        (&["run", "--seed", "1", "--trace", "x", "--shrink-seconds", "5"], cannot),
        (&["replay", case, "--program", "x"], "--real"),
        (&["replay", case, "--debug"], "--real"),
        (&["replay", case, "--real", "--time-limit", "5"], cannot),
        (&["replay", case, "--jobs", "2"], "--jobs"),
        (&["mutants", "--no-hunt", "--starts", "5"], cannot),
        (&["mutants", "--no-hunt", "--jobs", "5"], cannot),
        (&["merge", case, "--force"], "--out"),
        (&["diff", case, case, "--nodes", "3"], "a case has its own"),
        (&["diff", case, "1", "--list-checks"], "unexpected argument"),
        (&["--list-checks", "--list-mutants"], cannot),
        (&["one", "--seed", "1", "--scenario", case], cannot),
        (&["one", "--scenario", case, "--nodes", "3"], cannot),
    ] {
        is_refused(arguments, because);
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    std::fs::write(&trace, "end of trace: 0 events, hash 0\n").unwrap();
    let trace = trace.to_str().unwrap();
    is_refused(&["diff", trace, trace, "--mutant", "R02"], "nothing is run");
}

/// Every word that a line of the trace can begin with, as the source writes it, is told in the manual.
#[test]
fn the_manual_tells_of_every_line_of_the_trace() {
    fn words(folder: &Path, found: &mut std::collections::BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                words(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for call in text.split("#[cfg(test)]").next().unwrap().split(".note(").skip(1) {
                let call = call.split(");").next().unwrap_or_default();
                let word = call.split('"').nth(1).unwrap_or_default();
                if !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
                    found.insert(word.to_owned());
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = std::collections::BTreeSet::new();
    words(&root.join("src"), &mut found);
    assert!(found.len() >= 14, "{found:?}");
    let manual = std::fs::read_to_string(root.join("README.md")).unwrap();
    let trace = manual.split("## The trace").nth(1).unwrap();
    let told: Vec<&str> =
        trace.lines().filter_map(|line| line.strip_prefix("    ")?.split(' ').next()).collect();
    for word in found {
        let is_told = told.iter().any(|first| first.split('|').any(|told| told == word));
        assert!(is_told, "sim/README.md does not tell what `{word}` says in a trace");
    }
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
        ("\"version\": 2", "\"version\": 9", "plan.json is a scenario of version 9; this build reads 1 to 2"),
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
    is_refused(
        &["run", "--seed", "1", "--code", "v7"],
        "--code is told in reports: it wants --out, --json or --coverage-report",
    );
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
}

#[test]
#[cfg(madsim)]
fn what_does_not_fail_is_not_shrunk_and_whoever_asked_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small.json");
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases/leader-cut-off.json");
    is_refused(
        &["shrink", case.to_str().unwrap(), "--shrunk", small.to_str().unwrap()],
        "it does not fail, so there is nothing to shrink",
    );
    assert!(!small.exists());
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

/// Files that are no scenario, each with what is said about it.
#[test]
fn a_file_that_is_no_scenario_is_refused_whatever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let file = folder.path().join("given");
    let name = file.to_str().unwrap();
    let whole =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases/leader-cut-off.json"))
            .unwrap();
    let deep = "[".repeat(100_000);
    let cases: [(&[u8], &str); 7] = [
        (b"", "EOF while parsing a value at line 1 column 0"),
        (b"null", "given is not a scenario: invalid type: null"),
        (b"{}", "missing field `version` at line 1 column 2"),
        (b"{\"version\": 1,\n \"seed\": \xff}", "byte 24 is not UTF-8, so it is no text at all"),
        (b"\x7fELF\x02\x01\x01\0\0\0\xf0", "not UTF-8"),
        (&whole[..whole.len() / 2], "EOF while parsing"),
        (deep.as_bytes(), "recursion limit exceeded at line 1"),
    ];
    for (bytes, because) in cases {
        std::fs::write(&file, bytes).unwrap();
        for arguments in [&["one", "--scenario", name][..], &["replay", name, "--real"]] {
            is_refused(arguments, because);
            is_refused(arguments, "given");
        }
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
    }
    is_refused(&["one", "--scenario", place], "cannot read scenario");
    is_refused(&["replay", place, "--real"], "Is a directory");
    is_refused(&["replay", "/no/such/case", "--real"], "cannot read scenario /no/such/case");
}

#[test]
fn a_file_that_is_no_history_is_refused_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("given");
    let name = file.to_str().unwrap();
    let good = r#"{"id":1,"client":0,"node":0,"key":"k","action":"get","invoked_ns":1,"outcome":{"ok":{"value":null}},"returned_ns":2}"#;
    let torn = format!("{good}\n{}", &good[..40]);
    let binary = [good.as_bytes(), b"\n{\"id\":\xff\xfe}\n"].concat();
    let cases: [(&[u8], &str); 4] = [
        (b"", "there is no operation in it"),
        (torn.as_bytes(), "line 2"),
        (&binary, "line 2"),
        (b"\x7fELF\x02\x01\x01\0\0\0\xf0\n\xff", "line 1"),
    ];
    for (bytes, because) in cases {
        std::fs::write(&file, bytes).unwrap();
        is_refused(&["check", name], because);
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
    }
    is_refused(&["check", folder.path().to_str().unwrap()], "cannot be read: Is a directory");
    is_refused(&["check", name, "--model", "list"], "possible values: register, kv");
}

/// The verdict is "unknown", however the history is written and wherever the memory would have gone.
#[test]
fn a_history_that_takes_more_than_it_may_is_left_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("given");
    let name = file.to_str().unwrap();
    let many = "7 ".repeat(1 << 20);
    for (format, text) in [
        ("jsonl", format!("# a story\n{{\"id\": \"{many}")),
        ("edn", format!("[{{:process 0, :type :invoke, :f :read, :value nil}}\n{{:value [{many}")),
        ("log", format!("a line\n{many}")),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = sim(&["check", name, "--format", format, "--model", "register", "--memory-limit", "1"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(3),
            "{format}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(said.contains("unknown: the history takes more than 1 MiB to its line 2 alone"), "{said}");
    }
}

/// However long it goes on, nothing of it being an operation.
#[test]
fn a_history_without_an_end_is_left_unknown_when_the_time_is_over() {
    for (format, line) in
        [("log", "INFO  something else\n"), ("jsonl", "# a comment\n"), ("edn", "; a comment\n")]
    {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sim"))
            .args(["check", "-", "--format", format, "--time-limit", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut endless = child.stdin.take().unwrap();
        let many = line.repeat(10_000);
        while endless.write_all(many.as_bytes()).is_ok() {}
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{format}: {said}");
        assert!(said.contains("the time limit was met before the history was read"), "{said}");
    }
}

#[test]
fn a_mistyped_range_is_named() {
    for (range, because) in [
        ("1..9", "want A..=B"),
        ("1...9", "want A..=B"),
        ("7", "want A..=B"),
        ("..=9", "\"\""),
        ("1..=", "\"\""),
        ("-1..=9", "\"-1\""),
        ("1..=1e3", "\"1e3\": invalid digit"),
        ("1..=99999999999999999999", "number too large"),
        ("5..=4", "the range is empty"),
        ("0..=18446744073709551615", "more than"),
    ] {
        is_refused(&["run", &format!("--seeds={range}")], because);
        is_refused(&["run", &format!("--seeds={range}")], "--seeds");
    }
    is_refused(&["run", "--seed", "x"], "invalid digit");
    is_refused(&["run", "--seed", "1", "--nodes", "0"], "0 is not in 1..=64");
    is_refused(&["run", "--seed", "1", "--duration", "forever"], "--duration");
}

#[test]
fn a_replay_that_cannot_be_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases/leader-cut-off.json");
    let case = case.to_str().unwrap();
    let (kept, absent) = (folder.path().join("kept"), folder.path().join("absent"));
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("mine"), "mine").unwrap();
    is_refused(&["replay", case, "--real", "--keep", kept.to_str().unwrap()], "kept exists");
    is_refused(
        &["replay", case, "--real", "--program", absent.to_str().unwrap()],
        "absent: there is no such file",
    );
    is_refused(&["replay", case, "--real", "--tries", "0"], "0 is not in 1..=1000");
    is_refused(&["replay", case, "--tries", "2"], "--real");
    is_refused(&["replay", case, "--real", "--mutant", "R99"], "no such mutant");
    is_refused(&["parity", "--cases", absent.to_str().unwrap()], "absent has no storm of these bugs");
    // A program that is none of ours is not driven.
    let text = folder.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    is_refused(
        &["replay", case, "--real", "--program", text.to_str().unwrap()],
        "is no driftline that was built with",
    );
    assert_eq!(std::fs::read_to_string(kept.join("mine")).unwrap(), "mine");
    assert!(!absent.exists());
}

#[test]
#[cfg(madsim)]
fn a_place_that_cannot_be_written_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let nowhere = folder.path().join("no/such/file");
    let nowhere = nowhere.to_str().unwrap();
    for option in ["--trace", "--save-scenario", "--out"] {
        is_refused(&["run", "--seed", "1", option, place, "--force"], "is a directory, want a file");
        is_refused(&["run", "--seed", "1", option, nowhere], "there is no directory");
    }
    is_refused(&["shrink", "--seed", "1", "--shrunk", nowhere], "there is no directory");
}

/// A full disk is no fault of the node's.
#[test]
#[cfg(madsim)]
fn a_trace_that_finds_no_space_is_no_verdict() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases/stale-read.json");
    let output = sim(&["run", "--scenario", case.to_str().unwrap(), "--trace", "/dev/full", "--force"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot write the trace /dev/full: No space left"), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("CRASH"));
}
