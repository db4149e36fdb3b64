//! Cases on real processes: a sound node passes, a bug is caught, and nothing is left behind.

#![cfg(not(madsim))]
// Real processes live in real time.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use driftline::env::hazard::BEFORE_ANSWER;
use sim::history;
use sim::real::program;
use sim::real::replay::Replay;
use sim::report::RunReport;
use sim::saved::SavedCase;
use sim::scenario::{
    ClockChange, Fault, FaultKind, Knobs, Links, PlannedAction, PlannedOp, Scenario, Settings, Shape, Target,
    VERSION, agents,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Three servers and a client agent. The leader is cut off, killed, frozen and given a wrong clock, a server ends in the middle of
/// an answer, one moves, one loses its disk, while clients write, read in all ways, and fire events.
fn plan(duration_ms: u64) -> Scenario {
    let fault = |at_ms, for_ms, kind| Fault { at_ms, for_ms, kind };
    let target = Target::Leader;
    let clock = |change| FaultKind::Clock { target: Target::Node(1), change };
    let faults = vec![
        fault(100, 1_500, clock(ClockChange::Rate(1_100_000))),
        fault(200, 600, FaultKind::Kill { target }),
        fault(1_000, 500, FaultKind::Duplicate { percent: 50, links: Links::All }),
        fault(1_100, 600, FaultKind::Partition { shape: Shape::Leader }),
        fault(1_800, 0, clock(ClockChange::Step(-5_000))),
        fault(2_000, 600, FaultKind::Stall { target }),
        fault(2_500, 900, FaultKind::CrashPoint { point: BEFORE_ANSWER.to_owned(), power: false }),
        fault(2_600, 100, FaultKind::Move { target: Target::Node(2) }),
        fault(3_500, 500, FaultKind::LoseDisk { node: 1 }),
    ];
    let op = |number: u64| {
        let action = match number % 8 {
            0 | 3 => PlannedAction::Put(format!("v{number}")),
            1 => PlannedAction::Get,
            4 => PlannedAction::Stale,
            5 => PlannedAction::List,
            6 => PlannedAction::Watch(200),
            7 => PlannedAction::Fire(format!("event-{number}")),
            _ => PlannedAction::Cas(format!("v{number}")),
        };
        let nodes = [0, 1, 2, agents::FIRST];
        let (client, node) = ((number % 2) as u32, nodes[(number % 4) as usize]);
        PlannedOp { at_ms: number * 60, client, node, key: "k".to_owned(), action }
    };
    Scenario {
        version: VERSION,
        seed: 1,
        nodes: 3,
        client_agents: 1,
        duration_ms,
        beyond: false,
        // What an exchange of gossip brings is waited for in the end.
        settings: Settings {
            knobs: Knobs { push_pull_periods: 2, ..Knobs::default() },
            ..Settings::default()
        },
        clocks: Vec::new(),
        faults: faults.into_iter().filter(|fault| fault.at_ms + fault.for_ms <= duration_ms).collect(),
        operations: (0..duration_ms / 60).map(op).collect(),
    }
}

fn replayed(mutant: Option<&str>, folder: &Path) -> RunReport {
    let program = program::build(false).unwrap();
    let follows = mutant.is_none();
    let replay = Replay { program, mutant: mutant.map(str::to_owned), folder: folder.to_owned(), follows };
    replay.run(&plan(5_000)).unwrap()
}

/// Processes of this machine whose command line names this place.
fn processes_of(place: &Path) -> usize {
    let place = place.to_str().unwrap().as_bytes();
    let names = |line: Vec<u8>| line.windows(place.len()).any(|part| part == place);
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(names)).count()
}

#[test]
fn a_sound_node_passes_a_storm_on_real_processes() {
    let folder = tempfile::tempdir().unwrap();
    let report = replayed(None, folder.path());
    assert!(report.ok && report.undecided.is_empty(), "{}", report.real_text(""));
    let happened: Vec<&str> = report.faults.keys().map(String::as_str).collect();
    let all = ["clock", "crash-point", "duplicate", "kill", "lose-disk", "move", "partition", "stall"];
    assert_eq!(happened, all);
    assert!(report.ops_ok > 10 && report.trace_events > 100, "{}", report.real_text(""));
    let record = fs::read(Replay::history(folder.path())).unwrap();
    let operations = history::read(&record[..]).unwrap();
    assert_eq!(operations.len() as u64, report.ops_ok + report.ops_failed + report.ops_unknown);
    assert_eq!(processes_of(folder.path()), 0);
}

#[test]
fn a_vote_that_is_not_persisted_is_caught_on_real_processes() {
    let folder = tempfile::tempdir().unwrap();
    let report = replayed(Some("R02"), folder.path());
    assert!(report.violates("MV") || report.violates("ES"), "{}", report.real_text(""));
}

#[test]
fn what_a_node_claims_of_itself_is_judged_on_real_processes() {
    let folder = tempfile::tempdir().unwrap();
    let report = replayed(Some("A01"), folder.path());
    assert!(report.violates("SAY"), "{}", report.real_text(""));
}

#[test]
fn a_program_that_cannot_be_driven_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let case = folder.path().join("case.json");
    SavedCase::bare(plan(1_000)).save(&case, false).unwrap();
    let mut replay = Command::new(env!("CARGO_BIN_EXE_sim"));
    replay.args(["replay", "--real", "--program", env!("CARGO_BIN_EXE_sim")]).arg(&case);
    let refused = replay.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(2) && said.contains("is no driftline that was built with"),
        "{said}"
    );
}

#[test]
fn no_process_outlives_a_replay_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (case, kept) = (folder.path().join("case.json"), folder.path().join("kept"));
    SavedCase::bare(plan(60_000)).save(&case, false).unwrap();
    let program = program::build(false).unwrap();
    let mut replay = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["replay", "--real", "--program"])
        .arg(&program)
        .arg("--keep")
        .arg(&kept)
        .arg(&case)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let nodes = kept.join("try-1");
    let wait_for = |what: &str, is: &dyn Fn(usize) -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !is(processes_of(&nodes)) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for("four nodes", &|running| running == 4);
    replay.kill().unwrap();
    replay.wait().unwrap();
    wait_for("their end", &|running| running == 0);
}
