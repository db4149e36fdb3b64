//! The whole state as a file, and back: on a real cluster of three servers and a client.

#![allow(clippy::disallowed_methods)]

mod common;

use std::fs;
use std::thread;

use common::{ANY_PORTS, Home, Http, Node, QUICK, driftline, eventually, run, shown, start_at_home, text_of};
use hyper::Method;
use serde_json::Value;

/// A node, with its directory.
fn start(name: &str, more: &[&str], join: &[String]) -> (Node, Home) {
    start_at_home(name, QUICK, more, join)
}

/// Three servers that vote, and a client.
fn cluster() -> Vec<(Node, Home)> {
    let mut nodes: Vec<(Node, Home)> = Vec::new();
    let mut join = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let server: &[&str] = if name == "d" { &[] } else { &["--server", "--bootstrap-expect", "3"] };
        nodes.push(start(name, server, &join));
        join.extend(nodes.last().map(|(node, _)| node.at.gossip.to_string()));
    }
    for (node, _) in &nodes {
        eventually("three voters and a leader", || {
            (node.http().voters() == 3 && node.http().leader().is_some()).then_some(())
        });
    }
    nodes
}

fn index_of(http: &Http, path: &str) -> u64 {
    http.get(path).header("x-consul-index").and_then(|index| index.parse().ok()).expect("an index")
}

/// The keys with their values, from this very node's state if it has one.
fn keys(http: &Http) -> Vec<(String, String)> {
    let entries = http.json("/v1/kv/?recurse").unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let entries = entries.as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| (text(entry, "Key"), text(entry, "Value"))).collect()
}

fn digest(http: &Http) -> Option<(String, String)> {
    let this = http.json("/v1/agent/self")?;
    let raft = |name: &str| Some(this["Stats"]["raft"][name].as_str()?.to_owned());
    Some((raft("applied_index")?, raft("state_digest")?))
}

/// Waits until all servers have applied the same and hold the same.
fn settle(nodes: &[(Node, Home)]) {
    eventually("one state on all servers", || {
        let digests: Vec<_> = nodes[..3].iter().map(|(node, _)| digest(node.http())).collect();
        (digests[0].is_some() && digests.iter().all(|digest| *digest == digests[0])).then_some(())
    });
}

fn http_of(node: &Node) -> String {
    node.at.http.to_string()
}

fn cli(node: &Node, args: &[&str]) -> String {
    let http = http_of(node);
    shown(&run(&[args, &["--http-addr", &http]].concat()))
}

#[test]
fn a_restored_cluster_holds_what_was_saved_on_every_server_and_only_goes_forward() {
    let nodes = cluster();
    let leader = nodes[0].0.http().leader().unwrap();
    let follower = nodes[..3].iter().map(|(node, _)| node).find(|node| node.at.rpc().to_string() != leader);
    let (follower, client) = (follower.unwrap(), &nodes[3].0);
    let (home, http) = (Home::new(), client.http());
    let file = text_of(&home.path("state.snap"));
    assert!(http.set("kept", "1") && http.set("changed", "1"));
    let created = http.put("/v1/session/create", r#"{"Node":"d","NodeChecks":[],"LockDelay":"1s"}"#);
    let session: Value = serde_json::from_slice(&created.body).unwrap();
    let session = session["ID"].as_str().unwrap();
    assert_eq!(http.put(&format!("/v1/kv/locked?acquire={session}"), "x").text(), "true");

    // Saved on a follower.
    let said = cli(follower, &["snapshot", "save", &file]);
    assert!(said.starts_with("exit 0\nSaved and verified snapshot to index "), "{said}");
    let response = follower.http().get("/v1/snapshot?stale");
    assert_eq!((response.status, &response.body[..2]), (200, &[0x1f, 0x8b][..]));
    assert!(response.header("x-consul-index").is_some() && response.header("x-consul-knownleader").is_some());
    let said = shown(&run(&["snapshot", "inspect", &file]));
    assert!(said.starts_with("exit 0\nID ") && said.contains("Section kv"), "{said}");
    let stale = follower.http().put("/v1/snapshot?stale", response.body);
    assert_eq!((stale.status, stale.text().as_str()), (400, "stale not allowed for restore"));
    let saved = keys(http);

    // Changed, and then restored through the client agent, which has no state of its own.
    assert!(http.set("changed", "2") && http.set("new", "1"));
    assert_eq!(http.call(Method::DELETE, "/v1/kv/kept", "").unwrap().text(), "true");
    let paths = [
        "/v1/kv/changed",
        "/v1/kv/new",
        "/v1/kv/kept",
        "/v1/kv/?recurse",
        "/v1/session/list",
        "/v1/catalog/nodes",
        "/v1/health/state/any",
        "/v1/kv/never",
    ];
    let before: Vec<u64> = paths.iter().map(|path| index_of(http, path)).collect();
    let waiting: Vec<_> = paths
        .iter()
        .zip(&before)
        .map(|(path, index)| {
            let and = if path.contains('?') { '&' } else { '?' };
            let (addr, path) = (client.at.http, format!("{path}{and}index={index}&wait=60s"));
            thread::spawn(move || Http::new(addr).get(&path).header("x-consul-index").map(str::to_owned))
        })
        .collect();
    let said = cli(client, &["snapshot", "restore", &file]);
    assert!(said.starts_with("exit 0\nRestored the snapshot of index "), "{said}");
    // Each would wait for a minute, and then have the index that it had.
    for ((path, waiting), before) in paths.iter().zip(waiting).zip(&before) {
        let index: u64 = waiting.join().unwrap().unwrap().parse().unwrap();
        assert!(index > *before, "{path}: {index} after {before}");
    }
    settle(&nodes);
    for (node, _) in &nodes {
        assert_eq!(keys(node.http()), saved, "{}", node.name);
    }
    for (path, before) in paths.iter().zip(&before) {
        assert!(index_of(http, path) > *before, "{path}");
    }

    // The session is over; its lock is free, but not at once.
    assert_eq!(http.json(&format!("/v1/session/info/{session}")), Some(Value::Array(Vec::new())));
    let entry = http.json("/v1/kv/locked").unwrap();
    assert_eq!((entry[0].get("Session"), &entry[0]["LockIndex"]), (None, &1.into()));
    // A compare-and-set from before does not fit, though the value is the same.
    assert_eq!(http.put("/v1/kv/changed?cas=1", "3").text(), "false");
    // And life goes on.
    assert!(http.set("after", "1"));
    eventually("the lock", || {
        let created = http.put("/v1/session/create", r#"{"Node":"d","NodeChecks":[]}"#);
        let session: Value = serde_json::from_slice(&created.body).ok()?;
        let taken = http.put(&format!("/v1/kv/locked?acquire={}", session["ID"].as_str()?), "y");
        (taken.text() == "true").then_some(())
    });
    settle(&nodes);
}

#[test]
fn a_damaged_file_changes_nothing() {
    let node = Node::start("a", &[&["--dev"], &ANY_PORTS[..]].concat());
    eventually("a leader", || node.http().leader());
    let (home, http) = (Home::new(), node.http());
    let name = text_of(&home.path("state.snap"));
    assert!(http.set("k", "old") && http.set("zeros", &"0".repeat(100_000)));
    assert!(cli(&node, &["snapshot", "save", &name]).starts_with("exit 0\n"));
    assert!(http.set("k", "new"));
    let file = fs::read(&name).unwrap();
    // The node tells of itself meanwhile, so the log goes on; what was written must not.
    let keys = || http.json("/v1/kv/?recurse").expect("keys");
    let before = keys();
    // In gzip's checksum: a bit elsewhere may say the same in another way, as a run of zeros can be copied from any of them.
    let (mut flipped, checksum) = (file.clone(), file.len() - 6);
    flipped[checksum] ^= 1;
    for (what, bad) in [
        ("flipped", flipped),
        ("cut", file[..file.len() - 9].to_vec()),
        ("empty", Vec::new()),
        ("something else", b"hello".to_vec()),
    ] {
        let answer = http.put("/v1/snapshot", bad.clone());
        assert_eq!(answer.status, 500, "{what}: {}", answer.text());
        assert_eq!(answer.header("x-driftline-outcome"), Some("refused"), "{what}");
        assert!(answer.text().contains("no snapshot that can be restored"), "{what}: {}", answer.text());
        let path = home.path("bad.snap");
        fs::write(&path, bad).unwrap();
        let said = cli(&node, &["snapshot", "restore", &text_of(&path)]);
        assert!(said.starts_with("exit 1\n"), "{what}: {said}");
        assert!(shown(&run(&["snapshot", "inspect", &text_of(&path)])).starts_with("exit 1\n"), "{what}");
    }
    assert_eq!(keys(), before);
    assert_eq!(http.value("k").as_deref(), Some("new"));
    assert_eq!(http.call(Method::POST, "/v1/snapshot", "").unwrap().status, 405);
    // The limit counts what is unfolded.
    assert!(file.len() < 20_000, "{}", file.len());
    let config = home.file("small.toml", "[limits]\nsnapshot_bytes = 20000\n");
    let small = Node::start("b", &[&["--dev", "--config", &config], &ANY_PORTS[..]].concat());
    eventually("a leader", || small.http().leader());
    let answer = small.http().put("/v1/snapshot", file.clone());
    assert!(answer.status == 500 && answer.text().contains("limits.snapshot_bytes"), "{}", answer.text());
    assert_eq!(small.http().put("/v1/snapshot", vec![0; 20_001]).status, 413);
    // Standard input and output are files too.
    let at = http_of(&node);
    let piped = run(&["snapshot", "save", "-", "--http-addr", &at]);
    let said = String::from_utf8(piped.stderr).unwrap();
    assert!(piped.status.success() && said.contains("Saved and verified snapshot to index "), "{said}");
    fs::write(&name, &piped.stdout).unwrap();
    assert!(http.set("k", "newer"));
    let mut restore = driftline();
    restore.args(["snapshot", "restore", "-", "--http-addr", &at]).stdin(fs::File::open(&name).unwrap());
    let said = shown(&restore.output().unwrap());
    assert!(said.starts_with("exit 0\nRestored the snapshot"), "{said}");
    assert_eq!(http.value("k").as_deref(), Some("new"));
    fs::write(&name, &file).unwrap();
    // The file itself is as good as it was.
    assert!(cli(&node, &["snapshot", "restore", &name]).starts_with("exit 0\n"));
    assert_eq!(http.value("k").as_deref(), Some("old"));
}
