//! One checker for both worlds: `driftline bench` records what real servers answer while they are killed, frozen and
//! restarted, and `sim check` judges it.

#![cfg(not(madsim))]
// Real processes live in real time.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sim::history::{self, Action, Operation, Outcome, Response, Versioned};
use sim::real::process::Process;
use sim::real::program;
use sim::real::proxy::{GOSSIP_PORT, Ground};
use sim::workload::HTTP_PORT;

const PATIENCE: Duration = Duration::from_secs(60);

/// Three servers on addresses of their own.
struct Servers<'a> {
    program: &'a Path,
    folder: &'a Path,
    ground: Ground,
    running: Vec<Option<Process>>,
}

impl Servers<'_> {
    fn start(&mut self, node: u32) {
        let mut args =
            vec!["agent".to_owned(), "--server".to_owned(), "--bootstrap-expect".to_owned(), "3".to_owned()];
        let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
        add("--node", format!("n{node}"));
        add("--bind", self.ground.node(node).to_string());
        add("--http-addr", self.http(node).to_string());
        add("--data-dir", self.folder.join(format!("n{node}")).display().to_string());
        add("--retry-interval", "200ms".to_owned());
        for other in (0..3).filter(|other| *other != node) {
            add("--retry-join", SocketAddr::new(self.ground.node(other), GOSSIP_PORT).to_string());
        }
        let log = self.folder.join(format!("n{node}.log"));
        let (process, _) = Process::start_and_wait(self.program, &args, &log, PATIENCE).unwrap();
        self.running[node as usize] = Some(process);
    }

    fn http(&self, node: u32) -> SocketAddr {
        SocketAddr::new(self.ground.node(node), HTTP_PORT)
    }

    fn all(&self) -> String {
        [0, 1, 2].map(|node| self.http(node).to_string()).join(",")
    }
}

fn driftline(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).env_remove("DRIFTLINE_HTTP_ADDR");
    command
}

fn check(history: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim"))
        .arg("check")
        .arg(history)
        .args(["--model", "kv"])
        .output()
        .unwrap()
}

#[test]
fn what_bench_records_of_servers_that_are_killed_and_frozen_is_linearizable() {
    let program = program::build(false).unwrap();
    let home = tempfile::tempdir().unwrap();
    let ground = Ground::claim(sim::runner::fresh_seed() as u8).unwrap();
    let mut servers =
        Servers { program: &program, folder: home.path(), ground, running: vec![None, None, None] };
    (0..3).for_each(|node| servers.start(node));
    let deadline = Instant::now() + PATIENCE;
    let writes = |node: u32| {
        let http = servers.http(node).to_string();
        driftline(&program, &["kv", "put", "ready", "yes", "--http-addr", &http])
            .output()
            .unwrap()
            .status
            .success()
    };
    while !(0..3).all(writes) {
        assert!(Instant::now() < deadline, "the servers do not form a cluster");
    }

    let record = home.path().join("history.jsonl");
    let at = servers.all();
    let args = [
        "bench",
        "--http-addr",
        &at,
        "--connections",
        "8",
        "--duration",
        "10",
        "--timeout",
        "3",
        "--keys",
        "5",
    ];
    let mut bench = driftline(&program, &args)
        .args(["--mix", "get=45,put=40,cas=10,delete=5", "--format", "json", "--history"])
        .arg(&record)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut round = 0;
    while bench.try_wait().unwrap().is_none() {
        let node = round % 3;
        if round % 2 == 0 {
            servers.running[node as usize].take();
            thread::sleep(Duration::from_millis(700));
            servers.start(node);
        } else if let Some(process) = &servers.running[node as usize] {
            process.freeze();
            thread::sleep(Duration::from_millis(1_500));
            process.thaw();
        }
        thread::sleep(Duration::from_millis(300));
        round += 1;
    }
    let output = bench.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = fs::read(&record).unwrap();
    let operations = history::read(&text[..]).unwrap();
    let counted = ["ok", "failed", "unknown"].map(|kind| summary["all"][kind].as_u64().unwrap());
    assert_eq!(counted.iter().sum::<u64>(), operations.len() as u64, "{summary}");
    assert!(
        summary["operations"]["cas"]["ok"].as_u64().unwrap() > 0
            && summary["all"]["p99_us"].as_u64().unwrap() > 0
    );
    assert!(round > 1, "nothing was killed and frozen");

    let judged = check(&record);
    assert_eq!(judged.status.code(), Some(0), "{}", String::from_utf8_lossy(&judged.stdout));

    // The same with one read at the end that sees what had been overwritten before.
    let spoiled = home.path().join("spoiled.jsonl");
    let mut lines = text;
    history::write(&mut lines, &[stale(&operations)]).unwrap();
    fs::write(&spoiled, lines).unwrap();
    let judged = check(&spoiled);
    assert_eq!(judged.status.code(), Some(1), "{}", String::from_utf8_lossy(&judged.stdout));
}

/// A read after all others that sees a value of which another read has seen what followed.
fn stale(operations: &[Operation]) -> Operation {
    let seen = |operation: &Operation| match &operation.outcome {
        Outcome::Ok(Response::Value(Some(Versioned { value, .. }))) => Some(value.clone()),
        _ => None,
    };
    let end = operations.iter().filter_map(|one| one.returned_ns.max(Some(one.invoked_ns))).max().unwrap();
    let reads: Vec<(&Operation, String)> =
        operations.iter().filter_map(|one| Some((one, seen(one)?))).collect();
    let (old, value) = reads
        .iter()
        .find(|(old, value)| {
            reads.iter().any(|(new, other)| {
                new.key == old.key
                    && other != value
                    && old.returned_ns.is_some_and(|end| end < new.invoked_ns)
            })
        })
        .expect("a value was read and then another");
    let answer = Versioned { value: value.clone(), modify_index: 1 };
    Operation {
        id: u64::MAX,
        client: 0,
        node: 0,
        key: old.key.clone(),
        action: Action::Get,
        invoked_ns: end + 1,
        outcome: Outcome::Ok(Response::Value(Some(answer))),
        returned_ns: Some(end + 2),
    }
}

#[test]
fn bench_says_what_it_cannot_do_and_overwrites_nothing() {
    let program = program::build(false).unwrap();
    let home = tempfile::tempdir().unwrap();
    let taken = home.path().join("taken");
    fs::write(&taken, "mine").unwrap();
    let ground = Ground::claim(sim::runner::fresh_seed() as u8).unwrap();
    let nobody = SocketAddr::new(ground.node(0), HTTP_PORT).to_string();
    let asked = |args: &[&str]| {
        let output = driftline(&program, &["bench", "--http-addr", &nobody]).args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = asked(&["--history", taken.to_str().unwrap()]);
    assert!(code == Some(2) && said.contains("taken exists; --force overwrites it"), "{code:?} {said}");
    assert_eq!(fs::read_to_string(&taken).unwrap(), "mine");
    let (code, said) = asked(&["--mix", "read=1"]);
    assert!(code == Some(2) && said.contains("there are get, put, cas, delete"), "{code:?} {said}");
    let (code, said) = asked(&["--value-size", "3"]);
    assert!(code == Some(2) && said.contains("16..=8388608"), "{code:?} {said}");
    let (code, said) = asked(&["--operations", "3", "--connections", "2"]);
    assert!(code == Some(1) && said.contains("not one operation was answered"), "{code:?} {said}");
    assert!(said.contains("refused"), "{said}");
}
