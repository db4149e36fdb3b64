//! The HTTP contract, on one real agent: a script with its golden answers, blocking queries, and
//! clients that misbehave.

#![allow(clippy::disallowed_methods)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{Home, Http, Node, PATIENCE, contract, eventually};
use driftline::http::client::Response;
use hyper::Method;
use serde_json::{Value, json};

fn start(name: &str, more: &[&str]) -> Node {
    let ports = ["--dev", "--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"];
    let node = Node::start(name, &[&ports, more].concat());
    eventually("a leader", || node.http().leader());
    node
}

#[test]
fn the_script_gets_its_golden_answers() {
    let node = start("a", &[]);
    insta::assert_snapshot!(contract::transcript(&node, &[node.at.rpc()]));
}

#[test]
fn an_agent_describes_itself() {
    let node = start("a", &[]);
    let this = node.http().json("/v1/agent/self").unwrap();
    let keys: Vec<&String> = this.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["Config", "Coord", "DebugConfig", "Member", "Meta", "Stats", "xDS"]);
    let members = node.http().json("/v1/agent/members").unwrap();
    assert_eq!(members, Value::Array(vec![this["Member"].clone()]));
    let config = this["Config"].as_object().unwrap();
    let keys: Vec<&String> = config.keys().collect();
    let expected = [
        "BuildDate",
        "Datacenter",
        "NodeID",
        "NodeName",
        "PrimaryDatacenter",
        "Revision",
        "Server",
        "Version",
    ];
    assert_eq!(keys, expected);
    assert!(config["Version"].as_str().unwrap().starts_with("1.20."));
    assert_eq!(config["NodeName"], "a");
    assert_eq!((&this["Member"]["Name"], &this["Member"]["Status"]), (&"a".into(), &1.into()));
    for values in this["Stats"].as_object().unwrap().values() {
        assert!(values.as_object().unwrap().values().all(Value::is_string), "{values}");
    }
    // Nobody has to ask for a right here; what would be allowed without one is told all the same.
    for path in ["/v1/agent/self", "/v1/kv/none", "/v1/agent/service/none"] {
        assert_eq!(node.http().get(path).header("x-consul-default-acl-policy"), Some("allow"), "{path}");
    }
    let wide = node.http().json("/v1/agent/members?wan=1").unwrap();
    assert_eq!(wide[0]["Name"], "a.dc1");
    // Reads of the replicated state say how they are answered, found or not; this agent's own need not.
    for path in ["/v1/kv/none", "/v1/catalog/nodes", "/v1/health/service/none?stale"] {
        let answer = node.http().get(path);
        assert_eq!(answer.header("x-consul-query-backend"), Some("blocking-query"), "{path}");
    }
    assert_eq!(node.http().get("/v1/agent/services").header("x-consul-query-backend"), None);
}

#[test]
fn a_server_with_another_clusters_data_is_not_joined() {
    let (a, b) = (start("a", &[]), start("b", &[]));
    let answer = a.http().get(&format!("/join?peerAddress={}", b.at.rpc()));
    assert_eq!((answer.status, answer.header("x-driftline-outcome")), (409, Some("refused")));
    for node in [&a, &b] {
        let this = node.http().json("/v1/agent/self").unwrap();
        let cluster = this["Stats"]["consul"]["cluster_id"].as_str().unwrap();
        assert!(answer.text().contains(cluster), "{cluster}: {}", answer.text());
        assert_eq!(node.http().voters(), 1);
    }
    // Nobody has to be left out of a list that is given to all: to join itself is no failure.
    assert_eq!(a.http().put(&format!("/v1/agent/join/{}", a.at.gossip), "").status, 200);
    // Gossip does not join them either, and so no client can carry the members of one to the other.
    let joined = a.http().put(&format!("/v1/agent/join/{}", b.at.gossip), "");
    assert_eq!(joined.status, 500, "{}", joined.text());
    let home = common::Home::new();
    let data = common::text_of(&home.data());
    let client = Node::start("c", &["--data-dir", &data, "--retry-join", &a.at.gossip.to_string()]);
    let listed = |node: &Node| {
        let members = node.http().json("/v1/agent/members").unwrap();
        members.as_array().unwrap().iter().map(|m| m["Name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    common::eventually("the client has joined", || (listed(&client) == ["a", "c"]).then_some(()));
    let refused = client.http().put(&format!("/v1/agent/join/{}", b.at.gossip), "");
    assert_eq!(refused.status, 500, "{}", refused.text());
    for answer in [joined, refused] {
        for node in [&a, &b] {
            let this = node.http().json("/v1/agent/self").unwrap();
            let cluster = this["Stats"]["consul"]["cluster_id"].as_str().unwrap();
            assert!(answer.text().contains(cluster), "{cluster}: {}", answer.text());
        }
    }
    assert_eq!((listed(&a), listed(&b)), (vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn a_session_is_known_by_its_id_in_any_case() {
    let node = start("a", &[]);
    let made = eventually("the node to be in the catalog", || {
        Some(node.http().put("/v1/session/create", "")).filter(|made| made.status == 200)
    });
    let id = serde_json::from_slice::<Value>(&made.body).unwrap()["ID"].as_str().unwrap().to_owned();
    let loud = id.to_uppercase();
    assert_ne!(id, loud);
    assert_eq!(node.http().json(&format!("/v1/session/info/{loud}")).unwrap()[0]["ID"], id.as_str());
    assert_eq!(node.http().put(&format!("/v1/session/renew/{loud}"), "").status, 200);
    assert_eq!(node.http().put(&format!("/v1/kv/k?acquire={loud}"), "1").text(), "true");
    assert_eq!(node.http().json("/v1/kv/k").unwrap()[0]["Session"], id.as_str());
    let check = json!([{ "KV": { "Verb": "check-session", "Key": "k", "Session": loud } }]);
    assert_eq!(node.http().put("/v1/txn", check.to_string()).status, 200);
    assert_eq!(node.http().put(&format!("/v1/kv/k?release={loud}"), "2").text(), "true");
    assert_eq!(node.http().put(&format!("/v1/session/destroy/{loud}"), "").text(), "true");
    assert_eq!(node.http().json("/v1/session/list"), Some(json!([])));
}

#[test]
fn a_transaction_reads_a_node_by_its_id_whatever_name_is_beside_it() {
    let node = start("a", &[]);
    let id = "11111111-2222-3333-4444-55555555555a";
    let body = json!({ "Node": "n9", "ID": id, "Address": "10.0.0.9" });
    assert_eq!(node.http().put("/v1/catalog/register", body.to_string()).status, 200);
    let get = |body: Value, more: Option<Value>| {
        let read = json!({ "Node": { "Verb": "get", "Node": body } });
        let ops: Vec<Value> = [Some(read), more].into_iter().flatten().collect();
        let answer = node.http().put("/v1/txn", Value::from(ops).to_string());
        (answer.status, serde_json::from_slice::<Value>(&answer.body).unwrap())
    };
    // Alone it is a read; beside a write it is in the log.
    for more in [None, Some(json!({ "KV": { "Verb": "set", "Key": "k" } }))] {
        for body in [json!({ "ID": id.to_uppercase() }), json!({ "ID": id, "Node": "other" })] {
            let (status, done) = get(body, more.clone());
            assert_eq!((status, &done["Results"][0]["Node"]["Node"]), (200, &"n9".into()), "{done}");
        }
        let (status, done) = get(json!({ "ID": "n9" }), more.clone());
        assert_eq!((status, &done["Errors"][0]["What"]), (409, &"node with ID \"n9\" doesn't exist".into()));
        assert_eq!(get(json!({ "Node": "n9" }), more).0, 200);
    }
}

#[test]
fn what_a_transaction_reads_on_its_way_is_told_to_those_only_who_may_read_it() {
    const ROOT: &str = "11111111-aaaa-4bbb-8ccc-222222222222";
    const OTHER: &str = "33333333-aaaa-4bbb-8ccc-444444444444";
    let home = Home::new();
    let root = home.secret("root", ROOT);
    let acl = format!(
        "[acl]\nenabled = true\ndefault_policy = 'deny'\n[acl.tokens]\ninitial_management = 'file:{root}'\n"
    );
    let node = start("a", &["--config", &home.file("acl.toml", &acl)]);
    let root = node.http().showing(ROOT);
    eventually("the first token", || root.json("/v1/acl/token/self"));
    let rules = "key \"own\" { policy = \"write\" } key \"tree/seen\" { policy = \"read\" }";
    let policy = json!({ "Name": "p", "Rules": rules });
    assert_eq!(root.put("/v1/acl/policy", policy.to_string()).status, 200);
    let token = json!({ "SecretID": OTHER, "Policies": [{ "Name": "p" }] });
    assert_eq!(root.put("/v1/acl/token", token.to_string()).status, 200);
    assert!(root.set("tree/seen", "1") && root.set("tree/secret", "2"));
    let tree = json!({ "KV": { "Verb": "get-tree", "Key": "tree/" } });
    let own = json!({ "KV": { "Verb": "set", "Key": "own" } });
    for (ops, expected) in
        [(json!([tree]), vec!["tree/seen"]), (json!([own, tree]), vec!["own", "tree/seen"])]
    {
        let answer = node.http().showing(OTHER).put("/v1/txn", ops.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let done: Value = serde_json::from_slice(&answer.body).unwrap();
        let keys = done["Results"].as_array().unwrap().iter().map(|one| one["KV"]["Key"].as_str().unwrap());
        assert_eq!(keys.collect::<Vec<_>>(), expected);
        let answer = root.put("/v1/txn", ops.to_string());
        assert!(answer.text().contains("tree/secret"), "{}", answer.text());
    }
}

/// Asks in the background; the answer comes through the channel.
fn ask(node: &Node, path: &str) -> mpsc::Receiver<Response> {
    let (sender, answers) = mpsc::channel();
    let (addr, path) = (node.at.http, path.to_owned());
    thread::spawn(move || sender.send(Http::new(addr).get(&path)));
    answers
}

fn index(response: &Response) -> u64 {
    response.header("x-consul-index").expect("an index").parse().expect("a number")
}

#[test]
fn a_blocked_reader_wakes_at_its_own_change_and_no_other() {
    let node = start("a", &[]);
    let http = node.http();
    assert!(http.set("dir/a", "1"));
    assert!(http.set("dir/b", "1"));
    let seen = index(&http.get("/v1/kv/dir/a"));
    let one = ask(&node, &format!("/v1/kv/dir/a?index={seen}&wait=60s"));
    let missing = index(&http.get("/v1/kv/dir/c"));
    let absent = ask(&node, &format!("/v1/kv/dir/c?index={missing}&wait=60s"));

    // Another key's change wakes neither. That they sleep on cannot be waited for, only watched a while.
    assert!(http.set("dir/b", "2"));
    assert!(one.recv_timeout(Duration::from_millis(300)).is_err());
    assert!(absent.try_recv().is_err());

    assert!(http.set("dir/a", "2"));
    let woken = one.recv_timeout(PATIENCE).unwrap();
    assert_eq!(woken.status, 200);
    assert!(index(&woken) > seen);
    assert!(http.set("dir/c", "1"));
    assert_eq!(absent.recv_timeout(PATIENCE).unwrap().status, 200);

    let tree = index(&http.get("/v1/kv/dir/?recurse"));
    let tree = ask(&node, &format!("/v1/kv/dir/?recurse&index={tree}&wait=60s"));
    let deleted = ask(&node, &format!("/v1/kv/dir/a?index={}&wait=60s", index(&woken)));
    assert_eq!(http.call(Method::DELETE, "/v1/kv/dir/a", "").unwrap().status, 200);
    assert_eq!(tree.recv_timeout(PATIENCE).unwrap().status, 200);
    let deleted = deleted.recv_timeout(PATIENCE).unwrap();
    assert_eq!(deleted.status, 404);
    assert!(index(&deleted) > index(&woken));
}

#[test]
fn a_blocked_reader_hears_the_same_again_when_its_time_is_up() {
    let node = start("a", &[]);
    assert!(node.http().set("k", "1"));
    let first = node.http().get("/v1/kv/k");
    let start = Instant::now();
    let again = node.http().get(&format!("/v1/kv/k?index={}&wait=200ms", index(&first)));
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!((index(&again), &again.body), (index(&first), &first.body));
    // An empty store has index 1, and blocks at 1: else its reader would spin.
    let none = node.http().get("/v1/kv/none/?recurse&index=1&wait=50ms");
    assert_eq!(none.status, 404);
}

#[test]
fn an_event_wakes_whoever_waits_for_events() {
    let node = start("a", &[]);
    node.http().put("/v1/event/fire/first", "");
    let seen = eventually("the event", || {
        let list = node.http().get("/v1/event/list");
        list.text().contains("first").then(|| index(&list))
    });
    let waiting = ask(&node, &format!("/v1/event/list?index={seen}&wait=60s"));
    assert!(waiting.recv_timeout(Duration::from_millis(200)).is_err());
    node.http().put("/v1/event/fire/second", "");
    let woken = waiting.recv_timeout(PATIENCE).unwrap();
    assert!(woken.text().contains("second"), "{}", woken.text());
    assert_ne!(index(&woken), seen);
}

/// What a raw client gets back until the server closes the connection.
fn rest(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as any.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn slow_and_broken_clients_are_dropped_and_hold_nobody_up() {
    let home = Home::new();
    let config = home.file("a.toml", "[limits]\nhttp_read_timeout_ms = 300\nhttp_connections = 8\n");
    let node = start("a", &["--config", &config]);
    let connect = || TcpStream::connect(node.at.http).expect("a connection");
    let send = |bytes: &[u8]| {
        let mut stream = connect();
        stream.write_all(bytes).expect("sent");
        stream
    };

    let silent = connect();
    let half_head = send(b"GET /v1/kv/a HTTP/1.1\r\nHost: ");
    let half_body = send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf");
    let garbage = send(b"\x16\x03\x01\x02\x00 \xff\xfe no HTTP at all\r\n\r\n");
    assert!(node.http().set("k", "v"), "others are served meanwhile");
    assert_eq!(rest(&silent), "");
    assert_eq!(rest(&half_head), "");
    assert!(rest(&half_body).starts_with("HTTP/1.1 408"));
    assert!(rest(&garbage).starts_with("HTTP/1.1 400"));

    let chunked = send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    assert!(rest(&chunked).starts_with("HTTP/1.1 400"));
    let long_head = [&b"GET / HTTP/1.1\r\nx: "[..], &vec![b'a'; 1 << 20]].concat();
    let mut stream = connect();
    // The server may close before it has read all this.
    let _ = stream.write_all(&long_head);
    let _ = rest(&stream);

    // A keep-alive connection may rest between requests for longer than a head may take.
    let mut patient = connect();
    for _ in 0..2 {
        patient.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = [0; 512];
        let len = patient.read(&mut answer).unwrap();
        assert!(answer[..len].starts_with(b"HTTP/1.1 200 OK\r\n"));
        thread::sleep(Duration::from_millis(600));
    }
    drop(patient);

    // Readers that wait hold their places; nobody hurries them.
    let seen = index(&node.http().get("/v1/kv/k"));
    let wait = format!("GET /v1/kv/k?index={seen}&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n");
    // Connections closed just now may still hold places, so count on no number: come until one is refused.
    let mut full = Vec::new();
    eventually("a refusal", || {
        let mut reader = connect();
        // A refusal may come before the request is out.
        let _ = reader.write_all(wait.as_bytes());
        reader.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut answer = [0; 12];
        // Whoever hears nothing waits, and so holds a place. Overlooked refusals cost another round.
        let refused = reader.read_exact(&mut answer).is_ok();
        full.push(reader);
        refused.then(|| assert_eq!(&answer, b"HTTP/1.1 503"))
    });
    drop(full);
    eventually("room again", || node.http().set("k", "w").then_some(()));
}

/// One request on a connection, and its answer: the head, in small letters, and the body.
fn on(stream: &mut BufReader<TcpStream>, method: &str, path: &str, body: &[u8]) -> (String, String) {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut writer = stream.get_ref();
    writer.write_all(&[head.as_bytes(), body].concat()).expect("the request is taken");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).expect("an answer"), 0, "the connection has ended: {head}");
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).expect("a body");
    (head, String::from_utf8(body).expect("text"))
}

#[test]
fn a_connection_goes_on_after_a_refusal_or_says_that_it_ends() {
    let node = start("a", &[]);
    let stream = TcpStream::connect(node.at.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = BufReader::new(stream);
    let large = vec![b'x'; 600_000];
    for path in ["/v1/kv/large", "/v1/kv/k?dc=elsewhere", "/v1/kv/k?cas=x", "/v1/nothing", "/v1/acl/token"] {
        for _ in 0..4 {
            let (head, _) = on(&mut stream, "PUT", path, &large);
            assert!(
                !head.starts_with("http/1.1 200") && !head.contains("connection: close"),
                "{path}: {head}"
            );
            let (head, body) = on(&mut stream, "PUT", "/v1/kv/small", b"1");
            assert!(head.starts_with("http/1.1 200"), "after {path}: {head}{body}");
        }
    }
    // What nobody would read to its end is not; whoever sends it is told before.
    let stream = TcpStream::connect(node.at.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = "PUT /v1/kv/huge HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nbegun";
    (&stream).write_all(head.as_bytes()).unwrap();
    let answer = rest(&stream).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 413") && answer.contains("connection: close"), "{answer}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let node = start("a", &[]);
    let mut stream = TcpStream::connect(node.at.http).unwrap();
    let put = |value: &str| format!("PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{value}");
    let get = "GET /v1/kv/k?raw HTTP/1.1\r\nHost: x\r\n\r\n";
    let close = "GET /v1/kv/k?raw HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{}{get}{}{close}", put("1"), put("2")).as_bytes()).unwrap();
    let answers = rest(&stream);
    let bodies: Vec<&str> = answers
        .split("HTTP/1.1 200 OK")
        .skip(1)
        .map(|answer| answer.split_once("\r\n\r\n").unwrap().1)
        .collect();
    assert_eq!(bodies, ["true", "1", "true", "2"]);
}
