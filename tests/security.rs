//! Real servers that keep strangers out: encrypted gossip, and keys that are changed while clients write.

#![allow(clippy::disallowed_methods)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Home, Http, Node, QUICK, eventually, run, shown, text_of};
use hyper::Method;
use serde_json::json;

/// A file that only its owner may read.
fn secret(home: &Home, name: &str, text: &str) -> String {
    let file = home.file(name, text);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn keygen() -> String {
    let made = run(&["keygen"]);
    assert!(made.status.success());
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// Starts a node whose gossip is encrypted with `key`, if it is to be, and which looks for the others.
fn start(home: &Home, name: &str, key: Option<&str>, more: &[&str], others: &[&Node]) -> Node {
    let mut text = QUICK.to_owned();
    if let Some(key) = key {
        let file = secret(home, &format!("{name}.key"), key);
        text += &format!("encrypt_file = {file:?}\n");
    }
    let config = home.file(&format!("{name}.toml"), &text);
    let data = text_of(&home.path(name));
    let mut args = vec!["--config", &config, "--data-dir", &data];
    args.extend(["--http-port", "0", "--rpc-port", "0"]);
    if !more.contains(&"--gossip-port") {
        args.extend(["--gossip-port", "0"]);
    }
    args.extend(more);
    let others: Vec<String> = others.iter().map(|node| node.at.gossip.to_string()).collect();
    for addr in &others {
        args.extend(["--retry-join", addr]);
    }
    Node::start(name, &args)
}

fn servers(home: &Home, key: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for name in ["a", "b", "c"] {
        let others: Vec<&Node> = nodes.iter().collect();
        let node = start(home, name, Some(key), &["--server", "--bootstrap-expect", "3"], &others);
        nodes.push(node);
    }
    eventually("three voters", || nodes.iter().all(|node| node.http().voters() == 3).then_some(()));
    nodes
}

#[test]
fn keys_are_changed_while_clients_write_and_a_stranger_never_gets_in() {
    let home = Home::new();
    let (old, new) = (keygen(), keygen());
    let mut nodes = servers(&home, &old);
    let client = start(&home, "d", Some(&old), &[], &nodes.iter().collect::<Vec<_>>());
    eventually("the client is a member", || (nodes[0].http().status_of("d") == Some(1)).then_some(()));
    nodes.push(client);
    let this = nodes[3].http().json("/v1/agent/self").unwrap();
    assert_eq!(this["Stats"]["serf_lan"]["encrypted"], "true");
    assert!(!this.to_string().contains(&old), "the key is shown");

    // Clients write all the while.
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(i, node)| {
            let (done, http) = (done.clone(), node.at.http);
            thread::spawn(move || {
                let http = Http::new(http);
                let mut written = 0;
                while !done.load(Ordering::Relaxed) {
                    assert!(http.set(&format!("{i}/{written}"), "x"), "write {written} through node {i}");
                    written += 1;
                }
                written
            })
        })
        .collect();
    let api = nodes[3].at.http.to_string();
    let keyring = |what: &str, key: &str| {
        let file = secret(&home, "new.key", key);
        run(&["keyring", what, &format!("@{file}"), "--http-addr", &api])
    };
    let ring = || nodes[1].http().json("/v1/operator/keyring").unwrap()[0].clone();
    assert_eq!(ring()["NumNodes"], 4);
    assert_eq!(ring()["PrimaryKeys"], json!({ &old: 4 }));
    let early = keyring("use", &new);
    assert!(shown(&early).contains("requested key is not in the keyring"), "{}", shown(&early));
    assert!(keyring("install", &new).status.success());
    assert_eq!(ring()["Keys"], json!({ &old: 4, &new: 4 }));
    assert!(keyring("use", &new).status.success());
    let primary = keyring("remove", &new);
    assert!(shown(&primary).contains("removing the primary key is not allowed"), "{}", shown(&primary));
    assert!(keyring("remove", &old).status.success());
    assert_eq!(ring()["Keys"], json!({ &new: 4 }));
    let listed = shown(&run(&["keyring", "list", "--http-addr", &api]));
    assert!(listed.contains(&new) && listed.contains("Encrypts with it"), "{listed}");

    // What comes with the old key, or with none, stays outside and is told why; the log says so once.
    let voters: Vec<&Node> = nodes.iter().take(3).collect();
    let strangers =
        [start(&home, "old", Some(&old), &[], &voters), start(&home, "plain", None, &[], &voters)];
    for (stranger, why) in
        strangers.iter().zip(["does not have the key", "takes nothing that is not encrypted"])
    {
        let join = format!("/v1/agent/join/{}", nodes[0].at.gossip);
        let refused = stranger.http().put(&join, "");
        assert!(refused.status == 500 && refused.text().contains(why), "{}", refused.text());
    }
    let kept_out = "a stranger to this cluster's gossip is kept out";
    eventually("the stranger is spoken of", || nodes[0].log().contains(kept_out).then_some(()));
    done.store(true, Ordering::Relaxed);
    let written: Vec<usize> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    for node in &nodes {
        // All of them come from one address of this machine.
        assert!(node.log().matches(kept_out).count() <= 1, "said more than once");
        assert!(!node.log().contains(&old) && !node.log().contains(&new), "a key in the log");
        assert_eq!(node.http().json("/v1/agent/members").unwrap().as_array().unwrap().len(), 4);
        for other in ["a", "b", "c", "d"] {
            assert_eq!(node.http().status_of(other), Some(1), "{other}");
        }
    }
    for (i, written) in written.iter().enumerate() {
        let keys = nodes[0].http().json(&format!("/v1/kv/{i}/?keys")).unwrap();
        assert!(*written > 0 && keys.as_array().unwrap().len() == *written, "node {i}");
    }
    // The keyring outlives the process, and nobody else may read it.
    let file = home.path("a").join("keyring");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let gossip = nodes[0].at.gossip.port().to_string();
    drop(nodes.remove(0));
    let again = start(&home, "a", Some(&old), &["--server", "--gossip-port", &gossip], &[&nodes[0]]);
    eventually("the server is back with the new key", || {
        (again.http().status_of("d") == Some(1) && nodes[0].http().status_of("a") == Some(1)).then_some(())
    });
}

#[test]
fn without_encryption_there_is_no_keyring() {
    let node = Node::start("solo", &["--dev", "--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"]);
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
        let body = json!({ "Key": keygen() }).to_string();
        let refused = node.http().call(method, "/v1/operator/keyring", body).unwrap();
        assert_eq!(
            (refused.status, refused.text().trim()),
            (500, "keyring is empty (encryption not enabled)")
        );
    }
    let bad = |path: &str| node.http().get(path).status;
    assert_eq!(bad("/v1/operator/keyring?relay-factor=6"), 400);
    assert_eq!(bad("/v1/operator/keyring?relay-factor=x"), 400);
}

#[test]
fn a_key_that_others_may_read_or_that_is_none_is_refused() {
    let home = Home::new();
    let open = home.file("open.key", &keygen());
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let short = secret(&home, "short.key", "c2hvcnQ=");
    for (file, why) in [(open, "chmod 600"), (short, "must have 16, 24 or 32")] {
        let config = home.file("a.toml", &format!("encrypt_file = {file:?}\n"));
        let Err((_, log)) = Node::try_start("a", &["--dev", "--config", &config, "--http-port", "0"]) else {
            panic!("it starts with {file}")
        };
        assert!(log.contains(why) && !log.contains("c2hvcnQ="), "{log}");
    }
}
