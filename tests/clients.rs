//! Client libraries that were written for Consul, unmodified, against a real agent.
//!
//! Each has a script in `tests/clients` that uses it as its users do and fails with a message. The libraries are
//! installed by `.ci/clients`; a test whose library is missing fails and says so.

#![allow(clippy::disallowed_methods)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Node, eventually};

/// Where `.ci/clients` puts things: beside what Cargo builds.
fn installed(path: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target folder");
    let path = target.join("clients").join(path);
    assert!(path.exists(), "{} is missing: run .ci/clients, which installs it", path.display());
    path
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a client's script against an agent of its own, with the agent's port as its argument.
fn passes(mut client: Command) {
    let ports = ["--dev", "--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"];
    let node = Node::start("a", &ports);
    eventually("a leader", || node.http().leader());
    let output = client.arg(node.at.http.port().to_string()).output().expect("the client runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    // A script that does nothing would succeed as well.
    assert!(out.trim_end().ends_with("all done"), "{out}{err}");
}

#[test]
fn py_consul_uses_keys_sessions_locks_and_transactions() {
    let mut client = Command::new(installed("python/bin/python"));
    client.arg(script("py_consul.py"));
    passes(client);
}

#[test]
fn node_consul_uses_keys_sessions_locks_and_transactions() {
    let mut client = Command::new("node");
    client.env("NODE_PATH", installed("node/node_modules")).arg(script("node_consul.js"));
    installed("node/node_modules/consul/package.json");
    passes(client);
}
