//! Real `driftline` processes on this machine, for tests to start, ask and kill.
//!
//! Nodes listen on loopback addresses at ports the system picks; the line a node prints once it is up tells
//! them. A node is killed when its handle is dropped. Nothing here sleeps and hopes: tests wait for
//! conditions, with deadlines far beyond what a healthy run needs.

// Each test file compiles this for itself and uses its own part of it; and real processes live in real time.
#![allow(dead_code, clippy::disallowed_methods)]

pub mod contract;
pub mod script;

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use driftline::env::{Env, real};
use driftline::http::client::{self, CallError, Response};
use driftline::secret::Secret;
use hyper::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

/// How long a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Gossip and Raft settings that make failures show within seconds.
pub const QUICK: &str = "log_level = 'debug'\nretry_interval_ms = 200\n";

/// Ports that the system picks.
pub const ANY_PORTS: [&str; 6] = ["--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"];

/// The program under test.
pub fn driftline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftline"));
    for name in
        ["DRIFTLINE_HTTP_ADDR", "DRIFTLINE_HTTP_TOKEN", "CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "RUST_LOG"]
    {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Waits until `condition` gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "gave up waiting for: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a started node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    pub http: SocketAddr,
    /// Only where it is configured.
    pub https: Option<SocketAddr>,
    /// A client has none.
    pub rpc: Option<SocketAddr>,
    pub gossip: SocketAddr,
    /// Only if it was asked for.
    pub dns: Option<SocketAddr>,
}

fn listening(line: &str) -> Option<Listening> {
    let (_, after) = line.split_once(" is up: ")?;
    let addr = |what: &str| {
        let part = after.split(", ").find_map(|part| part.strip_prefix(what))?;
        part.trim().parse().ok()
    };
    Some(Listening {
        http: addr("HTTP ")?,
        https: addr("HTTPS "),
        rpc: addr("RPC "),
        gossip: addr("gossip ")?,
        dns: addr("DNS "),
    })
}

impl Listening {
    /// Where a server is reached by others.
    pub fn rpc(&self) -> SocketAddr {
        self.rpc.expect("a server")
    }
}

/// A running agent process.
pub struct Node {
    pub name: String,
    pub at: Listening,
    child: Child,
    log: Arc<Mutex<String>>,
    http: Http,
}

impl Node {
    /// Starts an agent with these arguments and waits until it is up.
    pub fn start(name: &str, args: &[&str]) -> Node {
        Node::try_start(name, args)
            .unwrap_or_else(|(status, log)| panic!("{name} ended with {status} before it was up:\n{log}"))
    }

    /// As [`Node::start`], but an agent that ends before it is up gives its exit status and its log.
    pub fn try_start(name: &str, args: &[&str]) -> Result<Node, (ExitStatus, String)> {
        let mut child = driftline()
            .arg("agent")
            .args(["--node", name])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        let mut stderr = child.stderr.take().expect("piped");
        let reading = {
            let log = log.clone();
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(len @ 1..) = stderr.read(&mut chunk) {
                    log.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..len]));
                }
            })
        };
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        // Ends at the latest when the process does.
        stdout.read_line(&mut line).expect("standard output is readable");
        let Some(at) = listening(&line) else {
            let status = child.wait().expect("a child can be waited for");
            reading.join().unwrap();
            let log = log.lock().unwrap().clone();
            return Err((status, log));
        };
        Ok(Node { name: name.to_owned(), at, child, log, http: Http::new(at.http) })
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Asks this node's HTTP API.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Ends the process as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by its name.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        eventually(&format!("{} to end", self.name), || {
            self.child.try_wait().expect("a child can be waited for")
        })
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(100)..];
            eprintln!("--- end of the log of {} ---\n{}", self.name, last.join("\n"));
        }
    }
}

/// A client of one address. Each has a runtime of its own, so that threads can each have one.
pub struct Http {
    addr: SocketAddr,
    token: Secret,
    runtime: Runtime,
    env: Env,
}

impl Http {
    pub fn new(addr: SocketAddr) -> Http {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let env = runtime.block_on(async { real::env_in_memory(1) });
        Http { addr, token: Secret::default(), runtime, env }
    }

    /// Another client of the same address, which shows this token.
    pub fn showing(&self, token: &str) -> Http {
        Http { token: Secret::new(token), ..Http::new(self.addr) }
    }

    pub fn call(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Response, CallError> {
        let calling = client::call_as(&self.env, self.addr, &self.token, method, path, body.into(), PATIENCE);
        self.runtime.block_on(calling)
    }

    pub fn get(&self, path: &str) -> Response {
        self.call(Method::GET, path, "").unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub fn put(&self, path: &str, body: impl Into<Bytes>) -> Response {
        self.call(Method::PUT, path, body).unwrap_or_else(|error| panic!("PUT {path}: {error}"))
    }

    /// The JSON of a 200, or nothing.
    pub fn json(&self, path: &str) -> Option<Value> {
        let response = self.call(Method::GET, path, "").ok().filter(|response| response.status == 200)?;
        serde_json::from_slice(&response.body).ok()
    }

    /// Writes a key and says whether that was acknowledged.
    pub fn set(&self, key: &str, value: &str) -> bool {
        let written = self.call(Method::PUT, &format!("/v1/kv/{key}"), value.to_owned());
        written.is_ok_and(|response| response.status == 200 && response.body.trim_ascii() == b"true")
    }

    /// A key's value, read linearizably; `None` while it is missing or cannot be read.
    pub fn value(&self, key: &str) -> Option<String> {
        let response = self.call(Method::GET, &format!("/v1/kv/{key}?raw"), "").ok()?;
        (response.status == 200).then(|| response.text())
    }

    /// A key's value in this very node's state, however old; `None` while it is missing.
    pub fn local_value(&self, key: &str) -> Option<String> {
        let response = self.call(Method::GET, &format!("/v1/kv/{key}?raw&stale"), "").ok()?;
        (response.status == 200).then(|| response.text())
    }

    /// The leader's RPC address as this node knows it.
    pub fn leader(&self) -> Option<String> {
        let leader = self.json("/v1/status/leader")?.as_str()?.to_owned();
        (!leader.is_empty()).then_some(leader)
    }

    /// How many servers vote, as this node knows it.
    pub fn voters(&self) -> usize {
        self.json("/v1/status/peers").and_then(|peers| Some(peers.as_array()?.len())).unwrap_or(0)
    }

    /// A member's status in Consul's numbers.
    pub fn status_of(&self, name: &str) -> Option<u64> {
        let members = self.json("/v1/agent/members")?;
        members.as_array()?.iter().find(|member| member["Name"] == name)?["Status"].as_u64()
    }
}

/// A node with a configuration file and a directory of its own, which looks for the members at `join`.
pub fn start_at_home(name: &str, config: &str, more: &[&str], join: &[String]) -> (Node, Home) {
    let home = Home::new();
    let config = home.file("a.toml", config);
    let data = text_of(&home.data());
    let mut args = vec!["--config", &config, "--data-dir", &data];
    args.extend(ANY_PORTS);
    args.extend(more);
    for addr in join {
        args.extend(["--retry-join", addr]);
    }
    (Node::start(name, &args), home)
}

/// A place for a node's files and configuration, and an address.
pub struct Home {
    dir: TempDir,
    /// A loopback address that no other test has.
    pub ip: Ipv4Addr,
}

impl Home {
    pub fn new() -> Home {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        // Not that of ordinary servers, and of the process's own as far as its number goes.
        let ip = Ipv4Addr::new(127, 64 + high % 64, low, NEXT.fetch_add(1, Ordering::Relaxed) % 254 + 1);
        Home { dir: tempfile::tempdir().expect("a temporary directory"), ip }
    }

    /// The flags of a node that listens at the ports that it had before, or at any: on this home's own loopback address, so that
    /// nobody takes a port while its node is down.
    pub fn ports(&self, before: Option<Listening>) -> Vec<String> {
        let [http, rpc, gossip] = match before {
            Some(at) => [at.http.port(), at.rpc.map_or(0, |rpc| rpc.port()), at.gossip.port()],
            None => [0; 3],
        };
        let flags = [
            ("--bind", self.ip.to_string()),
            ("--http-addr", format!("{}:{http}", self.ip)),
            ("--rpc-port", rpc.to_string()),
            ("--gossip-port", gossip.to_string()),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Writes a file that nobody else may read, and returns its path.
    pub fn secret(&self, name: &str, text: &str) -> String {
        let path = self.file(name, text);
        let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, own).expect("a file's mode");
        path
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a temporary file");
        text_of(&path)
    }
}

pub fn text_of(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// Runs a command of the program to its end.
pub fn run(args: &[&str]) -> Output {
    driftline().args(args).output().expect("the program runs")
}

/// What a command came to, as a person sees it.
pub fn shown(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!(
        "exit {}\n{out}{err}",
        output.status.code().map_or("by signal".to_owned(), |code| code.to_string())
    )
}
