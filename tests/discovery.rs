//! How nodes and services are found, and how news of them travels: user events with filters, network coordinates, DNS,
//! watches, and `driftline lock`.

#![allow(clippy::disallowed_methods)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::thread;

use common::{Home, Node, PATIENCE, QUICK, driftline, eventually, run, shown, text_of};
use domain::base::iana::{Class, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::AllRecordData;
use hyper::Method;
use serde_json::{Value, json};

/// Starts a node with quick gossip on free ports, and a directory that it may have used before.
fn start(name: &str, home: &Home, more: &[&str]) -> Node {
    let config = format!("{QUICK}[gossip]\nprobe_period_ms = 100\nprobe_timeout_ms = 50\n");
    let (config, data) = (home.file("config.toml", &config), text_of(&home.data()));
    let mut args = vec!["--config", &config, "--data-dir", &data];
    args.extend(["--http-port", "0", "--rpc-port", "0", "--gossip-port", "0", "--dns-port", "0"]);
    args.extend(more);
    Node::start(name, &args)
}

/// A server called `a` and a client called `b`.
fn pair() -> (Home, Node, Home, Node) {
    let (home_a, home_b) = (Home::new(), Home::new());
    let a = start("a", &home_a, &["--server", "--bootstrap"]);
    let join = a.at.gossip.to_string();
    let b = start("b", &home_b, &["--retry-join", &join]);
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
fn a_lone_server_that_comes_back_elsewhere_finds_whom_it_knew() {
    let (home_a, mut a, home_b, mut b) = pair();
    let kept = |home: &Home| std::fs::read_to_string(home.data().join("acquaintances")).ok();
    let known = |home: &Home, node: &Node| {
        let addr = node.at.gossip.to_string();
        eventually("the other is remembered", || kept(home)?.contains(&addr).then_some(()));
    };
    known(&home_a, &b);
    known(&home_b, &a);
    let before = a.at.gossip;
    a.kill();
    // Nobody tells it where the client is, and the client only knows where the server was.
    a = start("a", &home_a, &["--server"]);
    assert_ne!(a.at.gossip, before);
    eventually("they see each other", || {
        (a.http().status_of("b") == Some(1) && b.http().status_of("a") == Some(1)).then_some(())
    });
    eventually("the client reaches the server", || b.http().set("k", "v").then_some(()));
    // Who leaves is done with them.
    known(&home_b, &a);
    assert_eq!(b.http().put("/v1/agent/leave", "").status, 200);
    assert_eq!(b.wait().code(), Some(0));
    assert_eq!(kept(&home_b), None);
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
    eventually("the events to be everywhere", || {
        (listed(&a).len() == 2 && listed(&b).len() == 3).then_some(())
    });
    // In the order of their Lamport times, in whichever they arrived.
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
    // As Consul's command line has it.
    let at = format!("-http-addr={}", a.at.http);
    let fired = run(&["event", "-name=by-flag", "-node=a", &at, "what"]);
    assert!(shown(&fired).contains("Event ID: "), "{}", shown(&fired));
    eventually("the event", || listed(&a).contains(&"by-flag".to_owned()).then_some(()));
    assert_eq!(run(&["event", &at]).status.code(), Some(2));
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
    assert_eq!(names(&all[0]["Coordinates"], "Node"), ["a"]);
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
    let query = json!({ "Name": "web", "Service": { "Service": "web", "Near": "far" } }).to_string();
    assert_eq!(b.http().call(Method::POST, "/v1/query", query).unwrap().status, 200);
    for node in [&a, &b] {
        // A query has a place of its own; that of who asks goes before it.
        let carried_out = |asked: &str| {
            let found = node.http().json(&format!("/v1/query/web/execute{asked}")).unwrap();
            let nodes = found["Nodes"].as_array().unwrap().iter();
            nodes.map(|one| one["Node"]["Node"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(carried_out(""), ["far", "near", "here"]);
        assert_eq!(carried_out("?near=here&limit=2"), ["here", "near"]);
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
    // But a query finds nothing nearer to a node than the node.
    let body = json!({ "Node": "lost", "Address": "10.0.0.9", "Service": { "Service": "web" } }).to_string();
    assert_eq!(a.http().put("/v1/catalog/register", body).status, 200);
    for _ in 0..8 {
        let found = b.http().json("/v1/query/web/execute?near=lost&limit=1").unwrap();
        assert_eq!(found["Nodes"][0]["Node"]["Node"], "lost");
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

// ---- DNS ----

/// Asks by UDP or TCP; gives the answer's code, and its records in the order of their texts.
fn resolve(server: SocketAddr, name: &str, rtype: Rtype, tcp: bool) -> (String, Vec<String>) {
    let message = answer(server, name, rtype, tcp);
    let records = message.answer().unwrap().limit_to::<AllRecordData<_, _>>();
    let mut records: Vec<String> = records.map(|record| shown_data(record.unwrap().data())).collect();
    records.sort();
    (message.header().rcode().to_string(), records)
}

/// A record's data. Some kinds show the root's dot, and some do not.
fn shown_data(data: &impl std::fmt::Display) -> String {
    data.to_string().trim_end_matches('.').to_owned()
}

/// The records of an answer and those beside it, with their names, in the order in which they are told.
fn records(server: SocketAddr, name: &str, rtype: Rtype) -> [Vec<String>; 3] {
    let message = answer(server, name, rtype, false);
    [message.answer(), message.authority(), message.additional()].map(|section| {
        let records = section.unwrap().limit_to::<AllRecordData<_, _>>().map(Result::unwrap);
        records.map(|record| format!("{} {}", record.owner(), shown_data(record.data()))).collect()
    })
}

/// Asks by UDP or TCP.
fn answer(server: SocketAddr, name: &str, rtype: Rtype, tcp: bool) -> Message<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(77);
    let mut question = builder.question();
    question.push((Name::vec_from_str(name).unwrap(), rtype, Class::IN)).unwrap();
    let question = question.finish();
    let bytes = if tcp {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = u16::try_from(question.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &question].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        answer
    } else {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // What is no question gets no answer, and does no harm.
        socket.send_to(b"nonsense", server).unwrap();
        socket.send_to(&question, server).unwrap();
        let mut answer = [0; 4_096];
        let (length, _) = socket.recv_from(&mut answer).unwrap();
        answer[..length].to_vec()
    };
    let message = Message::from_octets(bytes).unwrap();
    assert_eq!(message.header().id(), 77);
    message
}

#[test]
fn names_in_dns_lead_on_within_the_domain() {
    let home = Home::new();
    let node = start("a", &home, &["--server", "--bootstrap"]);
    let dns = node.at.dns.expect("a DNS server");
    eventually("a leader", || node.http().leader());
    let register = |name: &str, address: &str, service: &str, own: &str| {
        let service = json!({ "Service": service, "Address": own, "Port": 80 });
        let body = json!({ "Node": name, "Address": address, "Service": service });
        assert_eq!(node.http().put("/v1/catalog/register", body.to_string()).status, 200);
    };
    register("big1", "10.5.5.5", "inn", "big1.node.consul");
    register("big1", "10.5.5.5", "loop", "loop.service.consul");
    register("big2", "10.5.5.6", "one", "two.service.consul");
    register("big2", "10.5.5.6", "two", "one.service.consul");
    register("big3", "inn.service.consul", "far", "");
    register("big4", "10.5.5.7", "db", "10.9.9.9");
    let [answers, _, _] = records(dns, "inn.service.consul", Rtype::A);
    assert_eq!(answers, ["inn.service.consul big1.node.consul", "big1.node.consul 10.5.5.5"]);
    let [answers, _, _] = records(dns, "inn.service.consul", Rtype::CNAME);
    assert_eq!(answers, ["inn.service.consul big1.node.consul"]);
    let [answers, _, additional] = records(dns, "inn.service.consul", Rtype::SRV);
    assert_eq!(answers, ["inn.service.consul 1 1 80 big1.node.consul"]);
    assert_eq!(additional, ["big1.node.consul 10.5.5.5"]);
    let [answers, _, _] = records(dns, "loop.service.consul", Rtype::A);
    assert_eq!(answers, ["loop.service.consul 10.5.5.5"]);
    let [answers, _, _] = records(dns, "far.service.consul", Rtype::A);
    let far = [
        "far.service.consul inn.service.consul",
        "inn.service.consul big1.node.consul",
        "big1.node.consul 10.5.5.5",
    ];
    assert_eq!(answers, far);
    let [_, _, additional] = records(dns, "far.service.consul", Rtype::SRV);
    assert_eq!(additional, far[1..]);
    // Two that lead to each other.
    let [answers, _, _] = records(dns, "one.service.consul", Rtype::A);
    assert_eq!(answers, ["one.service.consul two.service.consul", "two.service.consul one.service.consul"]);

    // A service at an address of its own, which no node has.
    let [answers, _, _] = records(dns, "9.9.9.10.in-addr.arpa", Rtype::PTR);
    assert_eq!(answers, ["9.9.9.10.in-addr.arpa db.service.dc1.consul"]);
    let [answers, _, _] = records(dns, "7.5.5.10.in-addr.arpa", Rtype::PTR);
    assert_eq!(answers, ["7.5.5.10.in-addr.arpa big4.node.dc1.consul"]);

    // Whatever is asked, the domain is told of as it is now; another change may come between two questions.
    eventually("the domain to have one version", || {
        let serial = |[_, authority, _]: [Vec<String>; 3]| {
            let [of_domain] = &authority[..] else { panic!("{authority:?}") };
            of_domain.split(' ').nth(3).unwrap().parse::<u64>().unwrap()
        };
        let nothing = ["big1.node.consul", "inn.service.consul", "nobody.node.consul", "x.addr.consul"];
        let serials = nothing.map(|name| serial(records(dns, name, Rtype::MX)));
        let [answers, _, _] = records(dns, "consul", Rtype::SOA);
        let apex = answers[0].split(' ').nth(3).unwrap().parse::<u64>().unwrap();
        (serials == [apex; 4] && apex > 0).then_some(())
    });
}

#[test]
fn nodes_and_services_have_names_in_dns() {
    let (_home_a, a, _home_b, b) = pair();
    let web = json!({ "Name": "Web", "Port": 8080, "Tags": ["V1"] }).to_string();
    assert_eq!(b.http().put("/v1/agent/service/register", web).status, 200);
    let check = json!({ "TTL": "1h", "Status": "passing" });
    let db = json!({ "Name": "db", "Address": "10.1.2.3", "Port": 5432, "Check": check }).to_string();
    assert_eq!(b.http().put("/v1/agent/service/register", db).status, 200);
    let query = json!({
        "Name": "Geo-",
        "Template": { "Type": "name_prefix_match", "Regexp": "" },
        "Service": { "Service": "${name.suffix}", "Tags": [] },
        "DNS": { "TTL": "7s" },
    });
    assert_eq!(b.http().call(Method::POST, "/v1/query", query.to_string()).unwrap().status, 200);
    for node in [&a, &b] {
        let dns = node.at.dns.expect("a DNS server");
        let ask = |name: &str, rtype| resolve(dns, name, rtype, false);
        let ok = |records: &[&str]| {
            ("NOERROR".to_owned(), records.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
        };
        eventually("the services to be in the catalog", || {
            let there = |name: &str| !ask(name, Rtype::A).1.is_empty();
            (there("web.service.consul") && there("db.service.consul")).then_some(())
        });
        let spellings = [
            "web.service.consul",
            "WEB.Service.dc1.Consul",
            "v1.web.service.consul",
            "_web._tcp.service.consul",
        ];
        for name in spellings {
            assert_eq!(ask(name, Rtype::A), ok(&["127.0.0.1"]), "{name}");
        }
        assert_eq!(ask("web.service.consul", Rtype::SRV), ok(&["1 1 8080 b.node.dc1.consul"]));
        assert_eq!(ask("web.service.consul", Rtype::AAAA), ok(&[]));
        assert_eq!(ask("db.service.consul", Rtype::SRV), ok(&["1 1 5432 0a010203.addr.dc1.consul"]));
        assert_eq!(ask("geo-db.query.consul", Rtype::SRV), ok(&["1 1 5432 0a010203.addr.dc1.consul"]));
        assert_eq!(ask("_geo-db._tcp.query.dc1.consul", Rtype::A), ok(&["10.1.2.3"]));
        assert_eq!(ask("0a010203.addr.dc1.consul", Rtype::A), ok(&["10.1.2.3"]));
        assert_eq!(ask("a.node.consul", Rtype::A), ok(&["127.0.0.1"]));
        let both = ["a.node.dc1.consul", "b.node.dc1.consul"];
        assert_eq!(ask("1.0.0.127.in-addr.arpa", Rtype::PTR), ok(&both));
        assert_eq!(ask("consul", Rtype::NS), ok(&["a.node.dc1.consul"]));
        assert_eq!(resolve(dns, "web.service.consul", Rtype::A, true), ok(&["127.0.0.1"]));
        let nothing = ("NXDOMAIN".to_owned(), Vec::new());
        let missing = [
            "v2.web.service.consul",
            "nobody.service.consul",
            "nobody.node.consul",
            "geo-nobody.query.consul",
            "nobody.query.consul",
            "web.service.dc2.consul",
        ];
        for name in missing {
            assert_eq!(ask(name, Rtype::A), nothing, "{name}");
        }
        assert_eq!(ask("example.com", Rtype::A), ("REFUSED".to_owned(), Vec::new()));
    }
    // What is critical is not told, by any agent.
    assert_eq!(b.http().put("/v1/agent/check/fail/service:db", "").status, 200);
    for node in [&a, &b] {
        eventually("the service to be gone", || {
            (resolve(node.at.dns?, "db.service.consul", Rtype::A, false).0 == "NXDOMAIN").then_some(())
        });
    }
}

// ---- watches ----

/// A development agent with this configuration, ready for writes.
fn alone(home: &Home, config: &str) -> Node {
    let config = home.file("config.toml", &format!("{QUICK}{config}"));
    let ports = ["--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"];
    let node = Node::start("a", &[&["--dev", "--config", &config][..], &ports].concat());
    eventually("the node to be in the catalog", || {
        (node.http().json("/v1/health/node/a")?.as_array()?.len() == 1).then_some(())
    });
    node
}

#[test]
fn a_watch_runs_its_handler_when_the_answer_changes_and_only_then() {
    let home = Home::new();
    let (first, second) = (text_of(&home.path("first")), text_of(&home.path("second")));
    let watches = |file: &str, key: &str| {
        // Written whole, so that no half of a run is read.
        let script = format!("printf \"%s %s\\n\" \"$CONSUL_INDEX\" \"$(cat)\" >> {file}");
        let watch = json!({ "type": "key", "key": key, "args": ["sh", "-c", script] });
        json!({ "enable_script_checks": true, "watches": [watch] }).to_string()
    };
    home.file("watches.json", &watches(&first, "a"));
    let json = text_of(&home.path("watches.json"));
    let ports = ["--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"];
    let node = Node::start("a", &[&["--dev", "--config", &json][..], &ports].concat());
    let runs = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let run = |line: &str| {
            let (index, entry) = line.split_once(' ').unwrap();
            assert_ne!(index.parse::<u64>().unwrap(), 0);
            serde_json::from_str::<Value>(entry).unwrap()["Value"].clone()
        };
        text.lines().map(run).collect::<Vec<_>>()
    };
    eventually("the first run, without an entry", || (runs(&first) == [Value::Null]).then_some(()));
    assert!(node.http().set("a", "1"));
    eventually("the second run", || (runs(&first) == [Value::Null, json!("MQ==")]).then_some(()));
    // The same again, and another key: neither is news of this one.
    assert!(node.http().set("a", "1") && node.http().set("b", "x"));
    assert!(node.http().set("a", "2"));
    eventually("the third run", || (runs(&first).len() == 3).then_some(()));
    assert_eq!(runs(&first), [Value::Null, json!("MQ=="), json!("Mg==")]);

    // Other watches take the place of these.
    home.file("watches.json", &watches(&second, "b"));
    let reloaded = node.http().put("/v1/agent/reload", "");
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    assert!(reloaded.text().contains("watches"), "{}", reloaded.text());
    eventually("the new watch to run", || (runs(&second) == [json!("eA==")]).then_some(()));
    assert!(node.http().set("a", "3") && node.http().set("b", "y"));
    eventually("the new watch to run again", || (runs(&second).len() == 2).then_some(()));
    assert_eq!(runs(&first).len(), 3);

    // What is not allowed is refused whole.
    home.file("watches.json", &watches(&first, "a").replace("true", "false"));
    let refused = node.http().put("/v1/agent/reload", "");
    assert!(refused.status == 500 && refused.text().contains("Scripts are disabled"), "{}", refused.text());
}

#[test]
fn a_watch_can_send_its_news() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = receiver.local_addr().unwrap();
    let received = thread::spawn(move || {
        let (mut stream, _) = receiver.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut request, mut chunk) = (Vec::new(), [0; 1_024]);
        while !request.ends_with(b"]\n") {
            let length = stream.read(&mut chunk).unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&chunk[..length]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        String::from_utf8(request).unwrap()
    });
    let home = Home::new();
    let handler = format!("http_handler_config = {{ path = 'http://{at}/news' }}");
    let node = alone(&home, &format!("[[watches]]\ntype = 'event'\nname = 'deploy'\n{handler}\n"));
    assert_eq!(node.http().put("/v1/event/fire/other", "").status, 200);
    assert_eq!(node.http().put("/v1/event/fire/deploy", "now").status, 200);
    let request = received.join().unwrap();
    assert!(request.starts_with("POST /news HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("x-consul-index: "), "{request}");
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let events: Value = serde_json::from_str(body).unwrap();
    assert_eq!((names(&events, "Name"), &events[0]["Payload"]), (vec!["deploy".to_owned()], &json!("bm93")));

    // On the command line: what there is now, or a program at each change until it fails.
    let api = node.at.http.to_string();
    assert!(node.http().set("k", "v"));
    let told = run(&["watch", "--type", "key", "--key", "k", "--http-addr", &api]);
    let entry: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&entry["Key"], &entry["Value"]), (&json!("k"), &json!("dg==")));
    let script = "read line; echo \"$line\"; exit 3";
    let args = ["watch", "--type", "keyprefix", "--prefix", "k", "--http-addr", &api, "sh", "-c", script];
    let told = run(&args);
    assert!(shown(&told).starts_with("exit 1\n[{"), "{}", shown(&told));
    assert_eq!(run(&["watch", "--type", "key", "--http-addr", &api]).status.code(), Some(2));

    // A handler hears nothing of what a terminal sends; it ends with the command, and so does what it has started.
    let file = home.path("id");
    let script = format!("sleep 300 & echo $! > {}.new; mv {0}.new {0}; wait", text_of(&file));
    let mut command = driftline();
    command.args(["watch", "--type", "key", "--key", "k", "--http-addr", &api, "sh", "-c", &script]);
    let mut watch = command.spawn().expect("the program starts");
    let id = eventually("the handler", || std::fs::read_to_string(&file).ok());
    let sent = std::process::Command::new("kill").args(["-s", "TERM", &watch.id().to_string()]).status();
    assert!(sent.unwrap().success());
    assert_eq!(watch.wait().unwrap().code(), Some(128 + 15));
    eventually("what the handler started to end", || {
        // Whoever inherits it may not have waited for it yet.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_watch_says_when_its_token_may_not_see_all_any_more() {
    const ROOT: &str = "11111111-aaaa-4bbb-8ccc-222222222222";
    const OTHER: &str = "33333333-aaaa-4bbb-8ccc-444444444444";
    let home = Home::new();
    let (root, other) = (home.secret("root", ROOT), home.secret("other", OTHER));
    let acl = format!(
        "[acl]\nenabled = true\ndefault_policy = 'deny'\n[acl.tokens]\ninitial_management = 'file:{root}'\n"
    );
    let config = home.file("acl.toml", &format!("{QUICK}{acl}"));
    let ports = ["--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"];
    let node = Node::start("a", &[&["--dev", "--config", &config][..], &ports].concat());
    let root = node.http().showing(ROOT);
    eventually("the first token", || root.json("/v1/acl/token/self"));
    let policy = |at: &str, more: &str| {
        let rules = format!("key_prefix \"a/\" {{ policy = \"read\" }} {more}");
        let answer = root.put(at, json!({ "Name": "p", "Rules": rules }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice::<Value>(&answer.body).unwrap()["ID"].as_str().unwrap().to_owned()
    };
    let id = policy("/v1/acl/policy", "");
    let at = format!("/v1/acl/policy/{id}");
    let token = json!({ "SecretID": OTHER, "Policies": [{ "Name": "p" }] });
    assert_eq!(root.put("/v1/acl/token", token.to_string()).status, 200);
    assert!(root.set("a/x", "1") && root.set("a/y", "1"));

    let log = text_of(&home.path("log"));
    let api = node.at.http.to_string();
    let mut command = driftline();
    command.args([
        "watch",
        "--http-addr",
        &api,
        "--token-file",
        &other,
        "--type",
        "keyprefix",
        "--prefix",
        "a/",
    ]);
    command.args(["sh", "-c", &format!("cat >> {log}")]);
    let mut watching = command.stderr(Stdio::piped()).spawn().expect("the program starts");
    let runs = |count: usize| {
        let ran = || std::fs::read_to_string(&log).unwrap_or_default().lines().count() == count;
        eventually("the handler to run", || ran().then_some(()));
    };
    runs(1);
    policy(&at, "key \"a/y\" { policy = \"deny\" }");
    assert!(root.set("a/x", "2"));
    runs(2);
    assert!(root.set("a/x", "3"));
    runs(3);
    policy(&at, "");
    assert!(root.set("a/x", "4"));
    runs(4);
    watching.kill().expect("a child can be killed");
    let said = String::from_utf8(ended(watching).stderr).unwrap();
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(
        said,
        [
            "driftline: some results were left out: the token may not see them",
            "driftline: nothing is left out any more"
        ]
    );
}

#[test]
fn a_handler_ends_with_the_watch_that_a_hangup_ends() {
    let home = Home::new();
    let node = alone(&home, "");
    let (id, api) = (home.path("id"), node.at.http.to_string());
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 300", text_of(&id));
    let mut command = std::process::Command::new("env");
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_driftline"), "watch", "--http-addr", &api]);
    command
        .args(["--type", "nodes", "--", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let watching = command.spawn().expect("the program starts");
    let handler = eventually("the handler to run", || std::fs::read_to_string(&id).ok());
    let sent = std::process::Command::new("kill").args(["-s", "HUP", &watching.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(ended(watching).status.code(), Some(129));
    // Whoever inherits it may not have waited for it yet.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", handler.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

// ---- lock ----

fn locking(node: &Node, args: &[&str]) -> Child {
    let api = node.at.http.to_string();
    let mut command = driftline();
    command.args(["lock", "--http-addr", &api]).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

fn ended(child: Child) -> std::process::Output {
    child.wait_with_output().expect("a child can be waited for")
}

#[test]
fn commands_run_one_after_the_other_under_a_lock() {
    let home = Home::new();
    let node = alone(&home, "");
    let log = text_of(&home.path("log"));
    // Each leaves a mark while it runs, and would see another's.
    let script = format!("mkdir {log}.running && echo done >> {log} && rmdir {log}.running; exit 5");
    let running: Vec<Child> = (0..4).map(|_| locking(&node, &["app", "--", "sh", "-c", &script])).collect();
    for child in running {
        let output = ended(child);
        // The command's own exit code.
        assert_eq!(output.status.code(), Some(5), "{}", shown(&output));
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "done\n".repeat(4));
    eventually("nothing to be left of the lock", || {
        (node.http().get("/v1/kv/app?keys").status == 404).then_some(())
    });
    assert_eq!(node.http().json("/v1/session/list"), Some(json!([])));
}

#[test]
fn a_command_whose_lock_is_lost_is_stopped() {
    let home = Home::new();
    let node = alone(&home, "");
    let log = home.path("log");
    let script = format!(
        "trap 'echo stopped >> {0}; exit' TERM; echo begun >> {0}; while :; do sleep 0.1; done",
        text_of(&log)
    );
    let holder = locking(&node, &["app", "sh", "-c", &script]);
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the command to run", || (logged() == "begun\n").then_some(()));
    let late = ended(locking(&node, &["--try", "300ms", "app", "true"]));
    assert!(shown(&late).starts_with("exit 1\n") && shown(&late).contains("in time"), "{}", shown(&late));
    let entry = node.http().json("/v1/kv/app/.lock").unwrap();
    let session = entry[0]["Session"].as_str().unwrap();
    assert_eq!(node.http().put(&format!("/v1/session/destroy/{session}"), "").status, 200);
    let output = ended(holder);
    assert!(shown(&output).starts_with("exit 1\n") && shown(&output).contains("lost"), "{}", shown(&output));
    assert_eq!(logged(), "begun\nstopped\n");
    // The lock-delay holds back whoever comes next.
    let next = ended(locking(&node, &["--try", "1s", "app", "true"]));
    assert!(shown(&next).contains("in time"), "{}", shown(&next));
}

#[test]
fn a_semaphore_has_so_many_holders_and_no_more() {
    let home = Home::new();
    let node = alone(&home, "");
    let (here, go) = (text_of(&home.path("here")), text_of(&home.path("go")));
    // Two are there at the same time, and stay until they are told to go.
    let script = format!("touch {here}.$$; while [ ! -e {go} ]; do sleep 0.1; done");
    let two: Vec<Child> = (0..2).map(|_| locking(&node, &["-n", "2", "pool", "sh", "-c", &script])).collect();
    let arrived = || {
        let names = std::fs::read_dir(home.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("here.")).count()
    };
    eventually("two holders", || (arrived() == 2).then_some(()));
    let third = ended(locking(&node, &["-n", "2", "--try", "300ms", "pool", "true"]));
    assert!(shown(&third).contains("in time"), "{}", shown(&third));
    let other = ended(locking(&node, &["-n", "3", "pool", "true"]));
    assert!(shown(&other).contains("others say that 2"), "{}", shown(&other));
    home.file("go", "");
    for child in two {
        let output = ended(child);
        assert!(output.status.success(), "{}", shown(&output));
    }
    let fourth = ended(locking(&node, &["-n", "2", "pool", "true"]));
    assert!(fourth.status.success(), "{}", shown(&fourth));
    // Nothing is left of it, so that others may agree on something else.
    assert_eq!(node.http().get("/v1/kv/pool/?keys").status, 404);
    let alone = ended(locking(&node, &["--try", "20s", "pool", "true"]));
    assert!(alone.status.success(), "{}", shown(&alone));
}

#[test]
fn a_lock_takes_neither_a_semaphore_nor_anybodys_key() {
    let home = Home::new();
    let node = alone(&home, "");
    let (here, go) = (text_of(&home.path("here")), text_of(&home.path("go")));
    let script = format!("touch {here}; while [ ! -e {go} ]; do sleep 0.1; done");
    let holder = locking(&node, &["-n", "2", "pool", "sh", "-c", &script]);
    eventually("a holder", || home.path("here").exists().then_some(()));
    assert_eq!(node.http().put("/v1/kv/app/.lock", "precious").status, 200);
    let entries = || ["pool", "app"].map(|at| node.http().json(&format!("/v1/kv/{at}/.lock")).unwrap());
    let before = entries();
    for prefix in ["pool", "app"] {
        let refused = shown(&ended(locking(&node, &["--try", "20s", prefix, "true"])));
        let why = format!("{prefix}/.lock is not a lock's");
        assert!(refused.starts_with("exit 1\n") && refused.contains(&why), "{refused}");
    }
    assert_eq!(entries(), before);
    home.file("go", "");
    let output = ended(holder);
    assert!(output.status.success(), "{}", shown(&output));
}

/// The child leads a group of its own, to which no terminal and no shell sends anything.
#[test]
fn signals_that_end_or_stop_a_lock_reach_its_command() {
    let home = Home::new();
    let node = alone(&home, "");
    let log = home.path("log");
    let script = format!(
        "trap 'echo told >> {0}; exit 7' HUP QUIT; echo begun >> {0}; while :; do sleep 0.1; echo . >> {0}; done",
        text_of(&log)
    );
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    let api = node.at.http.to_string();
    for signal in ["HUP", "QUIT"] {
        let _ = std::fs::remove_file(&log);
        // Whoever runs the tests may ignore hangups, which a lock would then go on doing.
        let mut command = std::process::Command::new("env");
        command.args(["--default-signal=HUP,QUIT,TSTP", env!("CARGO_BIN_EXE_driftline"), "lock"]);
        command.args(["--http-addr", &api, "app", "sh", "-c", &script]).stderr(Stdio::piped());
        let mut holder = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        eventually("the command to run", || logged().starts_with("begun\n").then_some(()));
        let id = holder.id().to_string();
        let send = |signal: &str| {
            let sent = std::process::Command::new("kill").args(["-s", signal, &id]).status();
            assert!(sent.expect("kill runs").success());
        };
        send("TSTP");
        let stands_still = || {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            stat.contains(") T ").then(logged)
        };
        let before = eventually("the lock to stand still", stands_still);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(logged(), before, "its command stands still too");
        send("CONT");
        eventually("the command to go on", || (logged() != before).then_some(()));
        assert_eq!(holder.try_wait().expect("a child can be waited for"), None);
        send(signal);
        let output = ended(holder);
        assert_eq!(output.status.code(), Some(7), "{signal}: {}", shown(&output));
        assert!(logged().ends_with("told\n"), "{signal}");
    }
}

#[test]
fn a_command_under_a_lock_can_read_from_a_terminal() {
    let home = Home::new();
    let node = alone(&home, "");
    let line = format!(
        "{} lock --http-addr {} --try 20s --pass-stdin app sh -c 'read word; echo heard $word'",
        env!("CARGO_BIN_EXE_driftline"),
        node.at.http
    );
    // It gives what it runs a terminal.
    let mut command = std::process::Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("script runs");
    use std::io::Write;
    // It is kept open: the end of what is typed would end the terminal.
    let mut typed = child.stdin.take().expect("piped");
    typed.write_all(b"yes\n").expect("it reads");
    let status = eventually("the command to end", || child.try_wait().expect("a child can be waited for"));
    drop(typed);
    let output = ended(child);
    assert!(status.success() && shown(&output).contains("heard yes"), "{}", shown(&output));
}
