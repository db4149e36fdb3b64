//! What a run must not depend on: what else the machine does, how many runs there are at once, the folder, the
//! environment, and how the program was compiled.

#![cfg(madsim)]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use sim::report::RunReport;

/// Seeds of different kinds, short.
const SEEDS: [&str; 3] = ["2", "5", "9"];

fn one(program: &Path, seed: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["one", "--seed", seed, "--duration", "8"]).stdout(Stdio::piped());
    command
}

fn report(child: Child) -> RunReport {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let report: RunReport = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    report.without_machine()
}

fn this() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sim"))
}

/// Runs that want the processor, until dropped.
struct Load(Vec<Child>);

impl Load {
    fn begin() -> Load {
        let busy = |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Load((0..4).map(busy).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn load_neighbours_folder_and_environment_do_not_matter() {
    let alone: Vec<RunReport> = SEEDS.iter().map(|seed| report(one(this(), seed).spawn().unwrap())).collect();
    assert!(alone.iter().all(|report| report.ok && report.trace_events > 3_000));
    let _load = Load::begin();
    let folder = tempfile::tempdir().unwrap();
    let crowd: Vec<Child> = SEEDS
        .iter()
        .map(|seed| {
            let mut command = one(this(), seed);
            command.current_dir(folder.path()).env("LANG", "tlh").env("A_LONG_NAME", "x".repeat(3_000));
            command.spawn().unwrap()
        })
        .collect();
    for (child, alone) in crowd.into_iter().zip(alone) {
        assert_eq!(report(child), alone);
    }
}

/// The other build is named by the environment: `.ci/builds-agree` names the one without optimisation.
#[test]
#[ignore = "wants another build; .ci/builds-agree makes one and runs this"]
fn another_build_gives_the_same_traces() {
    let other = std::env::var_os("SIM_OTHER_BUILD").expect("SIM_OTHER_BUILD names the other build");
    for seed in SEEDS {
        let (mine, theirs) =
            (one(this(), seed).spawn().unwrap(), one(Path::new(&other), seed).spawn().unwrap());
        assert_eq!(report(mine), report(theirs), "seed {seed}");
    }
}
