//! Sessions, locks and transactions over HTTP, on one real agent.

#![allow(clippy::disallowed_methods)]

mod common;

use std::time::{Duration, Instant};

use common::{Home, Node, eventually, script};
use serde_json::Value;

fn start(more: &[&str]) -> Node {
    let ports = ["--dev", "--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"];
    let node = Node::start("a", &[&ports, more].concat());
    eventually("a leader", || node.http().leader());
    node
}

fn create(node: &Node, body: &str) -> String {
    let made: Value = serde_json::from_slice(&node.http().put("/v1/session/create", body.to_owned()).body)
        .expect("the new session's id");
    made["ID"].as_str().expect("an id").to_owned()
}

#[test]
fn the_session_script_gets_its_golden_answers() {
    let node = start(&[]);
    let text = include_str!("../fixtures/scripts/session.script");
    insta::assert_snapshot!(script::transcript(node.http(), text));
}

#[test]
fn the_txn_script_gets_its_golden_answers() {
    let node = start(&[]);
    let text = include_str!("../fixtures/scripts/txn.script");
    insta::assert_snapshot!(script::transcript(node.http(), text));
}

#[test]
fn a_transaction_has_at_most_64_operations() {
    let node = start(&[]);
    let ops = |count: usize| {
        let op = |i| format!(r#"{{"KV":{{"Verb":"set","Key":"k{i}","Value":"eA=="}}}}"#);
        format!("[{}]", (0..count).map(op).collect::<Vec<_>>().join(","))
    };
    let full = node.http().put("/v1/txn", ops(64));
    assert_eq!(full.status, 200, "{}", full.text());
    let over = node.http().put("/v1/txn", ops(65));
    assert_eq!(
        (over.status, over.text().as_str()),
        (413, "Transaction contains too many operations (65 > 64)")
    );
}

#[test]
fn a_session_that_is_not_renewed_expires_and_its_lock_is_free_after_the_delay() {
    let home = Home::new();
    let config = home.file("a.toml", "[limits]\nsession_ttl_min_ms = 100\n");
    let node = start(&["--config", &config]);
    let http = node.http();
    let began = Instant::now();
    let mine = create(&node, r#"{"TTL":"300ms","LockDelay":"400ms"}"#);
    let next = create(&node, "");
    let acquire = |id: &str| http.put(&format!("/v1/kv/lock?acquire={id}"), "").text() == "true";
    assert!(acquire(&mine));
    // Renewed in time it stays, for longer than it would have lived.
    while began.elapsed() < Duration::from_millis(1_200) {
        assert_eq!(http.put(&format!("/v1/session/renew/{mine}"), "").status, 200);
        assert!(!acquire(&next), "the lock was taken from a session that is renewed in time");
        std::thread::sleep(Duration::from_millis(50));
    }
    let last_renewed = Instant::now();
    eventually("the next to have the lock", || acquire(&next).then_some(()));
    let least = Duration::from_millis(300 + 400);
    assert!(last_renewed.elapsed() >= least, "free after {:?}", last_renewed.elapsed());
    assert_eq!(http.put(&format!("/v1/session/renew/{mine}"), "").status, 404);
}

#[test]
fn a_blocked_reader_of_sessions_wakes_when_one_comes_or_goes_and_not_when_one_is_renewed() {
    let node = start(&[]);
    let id = create(&node, r#"{"TTL":"10s"}"#);
    let index = |path: &str| {
        let answer = node.http().get(path);
        answer.header("x-consul-index").expect("an index").parse::<u64>().expect("a number")
    };
    let info = format!("/v1/session/info/{id}");
    let before = [index(&info), index("/v1/session/list"), index("/v1/session/node/a")];
    node.http().put(&format!("/v1/session/renew/{id}"), "");
    assert_eq!([index(&info), index("/v1/session/list"), index("/v1/session/node/a")], before);
    node.http().put(&format!("/v1/session/destroy/{id}"), "");
    for (path, before) in [info.as_str(), "/v1/session/list", "/v1/session/node/a"].iter().zip(before) {
        // At once, since it has changed since.
        let answer = node.http().get(&format!("{path}?index={before}&wait=60s"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "[]"), "{path}");
        assert!(index(path) > before);
    }
}
