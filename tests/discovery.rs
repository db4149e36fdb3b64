//! How nodes and services are found, and how news of them travels: user events with filters, network coordinates.

#![allow(clippy::disallowed_methods)]

mod common;

use std::thread;

use common::{Home, Node, QUICK, eventually, run, shown, text_of};
use hyper::Method;
use serde_json::{Value, json};

/// A server called `a` and a client called `b`, with quick gossip.
fn pair() -> (Home, Node, Home, Node) {
    let config = format!("{QUICK}[gossip]\nprobe_period_ms = 100\nprobe_timeout_ms = 50\n");
    let start = |name: &str, more: &[&str]| {
        let home = Home::new();
        let (config, data) = (home.file("config.toml", &config), text_of(&home.data()));
        let mut args = vec!["--config", &config, "--data-dir", &data];
        args.extend(["--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"]);
        args.extend(more);
        let node = Node::start(name, &args);
        (home, node)
    };
    let (home_a, a) = start("a", &["--server", "--bootstrap"]);
    let join = a.at.gossip.to_string();
    let (home_b, b) = start("b", &["--retry-join", &join]);
    for node in [&a, &b] {
        eventually("a leader and both nodes in the catalog", || {
            let nodes = node.http().json("/v1/catalog/nodes")?;
            (nodes.as_array()?.len() == 2).then_some(())
        });
    }
    (home_a, a, home_b, b)
}

fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array()
        .expect("a list")
        .iter()
        .map(|one| one[key].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn each_agent_judges_for_itself_whether_an_event_concerns_it() {
    let (_home_a, a, _home_b, b) = pair();
    let web = json!({ "Name": "web", "Tags": ["v1"] }).to_string();
    assert_eq!(b.http().put("/v1/agent/service/register", web).status, 200);
    let fire = |name: &str, query: &str| {
        let response = a.http().put(&format!("/v1/event/fire/{name}?{query}"), "payload");
        assert_eq!(response.status, 200, "{}", response.text());
        serde_json::from_slice::<Value>(&response.body).unwrap()
    };
    let fired = fire("to-a", "node=%5Ea%24");
    let keys: Vec<&String> = fired.as_object().unwrap().keys().collect();
    let eight = ["ID", "LTime", "Name", "NodeFilter", "Payload", "ServiceFilter", "TagFilter", "Version"];
    assert_eq!(keys, eight);
    assert_eq!(
        (&fired["LTime"], &fired["NodeFilter"], &fired["Version"]),
        (&json!(0), &json!("^a$"), &json!(1))
    );
    fire("to-web", "service=we.");
    fire("to-v1", "service=web&tag=%5Ev1%24");
    fire("to-v2", "service=web&tag=v2");
    fire("_rexec", "");
    fire("to-all", "");
    let listed = |node: &Node| names(&node.http().json("/v1/event/list").unwrap_or(json!([])), "Name");
    eventually("the last event to be everywhere", || {
        (listed(&a).last()? == "to-all" && listed(&b).last()? == "to-all").then_some(())
    });
    // In the order of their Lamport times.
    assert_eq!(listed(&a), ["to-a", "to-all"]);
    assert_eq!(listed(&b), ["to-web", "to-v1", "to-all"]);
    let refused = [
        ("tag=v1", "Cannot provide tag filter without service filter"),
        ("node=(", "Invalid node filter: "),
        ("service=(", "Invalid service filter: "),
        ("service=web&tag=(", "Invalid tag filter: "),
    ];
    for (query, words) in refused {
        let response = a.http().put(&format!("/v1/event/fire/x?{query}"), "");
        assert_eq!(response.status, 500);
        assert!(response.text().starts_with(words), "{}", response.text());
    }
    let large = a.http().put("/v1/event/fire/x", "x".repeat(600));
    assert_eq!(large.status, 500);
    // Another's name: the command line lists what the agent lists.
    let told = run(&["event", "list", "--name", "to-v1", "--http-addr", &b.at.http.to_string()]);
    assert!(shown(&told).contains("to-v1"), "{}", shown(&told));
}

#[test]
fn waiting_for_events_of_one_name_is_not_disturbed_by_others() {
    let home = Home::new();
    let config = home.file("config.toml", QUICK);
    let node = Node::start(
        "a",
        &["--dev", "--config", &config, "--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"],
    );
    let fire = |name: &str| assert_eq!(node.http().put(&format!("/v1/event/fire/{name}"), "").status, 200);
    fire("deploy");
    let first = node.http().get("/v1/event/list?name=deploy");
    let index = first.header("x-consul-index").expect("an index").to_owned();
    fire("other");
    // Not woken by the other event: the wait runs its course, and the index is what it was.
    let waited = node.http().get(&format!("/v1/event/list?name=deploy&index={index}&wait=100ms"));
    assert_eq!(waited.header("x-consul-index"), Some(index.as_str()));
    let http = common::Http::new(node.at.http);
    let path = format!("/v1/event/list?name=deploy&index={index}&wait=25s");
    let waiting = thread::spawn(move || http.get(&path));
    fire("deploy");
    let woken = waiting.join().unwrap();
    assert_ne!(woken.header("x-consul-index"), Some(index.as_str()));
    assert_eq!(names(&serde_json::from_slice(&woken.body).unwrap(), "Name"), ["deploy", "deploy"]);
    // Consul's index: both halves of the last id, combined.
    let events: Value = serde_json::from_slice(&woken.body).unwrap();
    let id = events[1]["ID"].as_str().unwrap().replace('-', "");
    let half = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
    let expected = (half(&id[..16]) ^ half(&id[16..])).to_string();
    assert_eq!(woken.header("x-consul-index"), Some(expected.as_str()));
}

/// A coordinate on a line.
fn coord(x: f64) -> Value {
    json!({ "Vec": [x, 0, 0, 0, 0, 0, 0, 0], "Error": 0.1, "Adjustment": 0.0, "Height": 0.00001 })
}

#[test]
fn nodes_have_places_and_answers_can_be_sorted_by_them() {
    let (_home_a, a, _home_b, b) = pair();
    // Probes tell both agents where they are.
    for node in [&a, &b] {
        eventually("the agent to have found its place", || {
            let this = node.http().json("/v1/agent/self")?;
            (this["Coord"]["Error"].as_f64()? < 1.0).then_some(())
        });
    }
    let all = b.http().json("/v1/coordinate/datacenters").unwrap();
    assert_eq!((&all[0]["Datacenter"], &all[0]["AreaID"]), (&json!("dc1"), &json!("wan")));
    assert_eq!(names(&all[0]["Coordinates"], "Node"), ["a.dc1"]);
    assert_eq!(b.http().get("/v1/coordinate/node/nowhere").status, 404);

    // Nodes without an agent: others say where they are.
    for (name, x) in [("far", 0.2), ("near", 0.01), ("here", 0.0)] {
        let service = json!({ "Service": "web", "Port": 80 });
        let body = json!({ "Node": name, "Address": "10.0.0.9", "Service": service }).to_string();
        assert_eq!(a.http().put("/v1/catalog/register", body).status, 200);
        let body = json!({ "Node": name, "Coord": coord(x) }).to_string();
        let told = b.http().put("/v1/coordinate/update", body);
        assert_eq!((told.status, told.text().as_str()), (200, ""));
    }
    let unknown = json!({ "Node": "nobody", "Coord": coord(0.0) }).to_string();
    assert_eq!(a.http().put("/v1/coordinate/update", unknown).status, 200);
    for bad in [
        json!({ "Node": "far", "Coord": { "Vec": [1, 2] } }),
        json!({ "Node": "far", "Coord": coord(1e300) }),
    ] {
        let refused = a.http().put("/v1/coordinate/update", bad.to_string());
        assert!(
            refused.status == 400 && refused.text().starts_with("invalid coordinate"),
            "{}",
            refused.text()
        );
    }
    eventually("the places to be in the catalog", || {
        let nodes = names(&b.http().json("/v1/coordinate/nodes")?, "Node");
        ["far", "here", "near"].iter().all(|name| nodes.iter().any(|node| node == name)).then_some(())
    });
    let found = a.http().get("/v1/coordinate/node/far");
    assert!(found.header("x-consul-index").is_some_and(|index| index != "0"));
    let found: Value = serde_json::from_slice(&found.body).unwrap();
    assert_eq!(
        found,
        json!([{ "Node": "far", "Segment": "", "Coord": coord(0.2) }]).as_array().map_or(json!(0), |list| {
            // Numbers are fractions.
            let mut entry = list[0].clone();
            entry["Coord"]["Vec"] = json!([0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
            json!([entry])
        })
    );
    assert_eq!(a.http().get("/v1/coordinate/node/nobody").status, 404);
    for node in [&a, &b] {
        let order = |path: &str| names(&node.http().json(path).unwrap(), "Node");
        assert_eq!(order("/v1/catalog/service/web?near=here"), ["here", "near", "far"]);
        assert_eq!(order("/v1/catalog/service/web?near=far"), ["far", "near", "here"]);
        assert_eq!(order("/v1/catalog/nodes?near=far")[..2], ["far", "near"]);
        let health = node.http().json("/v1/health/service/web?near=near").unwrap();
        let health: Vec<&str> =
            health.as_array().unwrap().iter().map(|one| one["Node"]["Node"].as_str().unwrap()).collect();
        assert_eq!(health, ["near", "here", "far"]);
        // Who has no place sorts nothing.
        assert_eq!(order("/v1/catalog/service/web?near=nobody"), ["far", "here", "near"]);
    }
    let told = run(&["rtt", "here", "far", "--http-addr", &b.at.http.to_string()]);
    assert_eq!(shown(&told), "exit 0\nEstimated here <-> far rtt: 200.020 ms (using LAN coordinates)\n");
    let told = run(&["rtt", "here", "nowhere", "--http-addr", &b.at.http.to_string()]);
    assert!(shown(&told).starts_with("exit 1\n"), "{}", shown(&told));

    // A node that is taken out of the catalog has no place.
    assert_eq!(a.http().put("/v1/catalog/deregister", json!({ "Node": "far" }).to_string()).status, 200);
    assert_eq!(a.http().get("/v1/coordinate/node/far").status, 404);
    let waited = a.http().call(Method::GET, "/v1/coordinate/nodes?stale", "").unwrap();
    assert_eq!(waited.status, 200);
}
