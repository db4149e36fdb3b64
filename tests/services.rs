//! What is registered with a real agent outlives it, and prepared queries find it.

#![allow(clippy::disallowed_methods)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use common::{ANY_PORTS, Home, Http, Node, eventually, run, shown, start_at_home, text_of};
use hyper::Method;
use serde_json::{Value, json};

/// A server alone, on the disk of this home.
fn server(home: &Home) -> Node {
    let data = text_of(&home.data());
    let args = ["--server", "--bootstrap-expect", "1", "--data-dir", &data];
    let node = Node::start("a", &[&args[..], &ANY_PORTS[..]].concat());
    eventually("a leader", || node.http().leader());
    node
}

fn register(http: &Http, body: &str) {
    let answer = http.put("/v1/agent/service/register", body.to_owned());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn services(http: &Http) -> Vec<String> {
    let services = http.json("/v1/agent/services").expect("services");
    services.as_object().expect("a map").keys().cloned().collect()
}

fn check(http: &Http, id: &str) -> (String, String) {
    let checks = http.json("/v1/agent/checks").expect("checks");
    let text = |name: &str| checks[id][name].as_str().unwrap_or_default().to_owned();
    (text("Status"), text("Output"))
}

fn files(home: &Home, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.data().join(folder)).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn services_and_checks_outlive_the_agent() {
    let home = Home::new();
    let mut node = server(&home);
    register(node.http(), r#"{"Name":"web","Port":80,"Check":{"TTL":"10m"}}"#);
    register(
        node.http(),
        r#"{"Name":"db","ID":"db/1 #","Tags":["primary"],"Check":{"TTL":"1s","Status":"passing"}}"#,
    );
    register(node.http(), r#"{"Name":"gone"}"#);
    for path in ["pass/service:web?note=fine", "pass/service:db%2F1%20%23?note=fine"] {
        assert_eq!(node.http().put(&format!("/v1/agent/check/{path}"), "").status, 200, "{path}");
    }
    assert_eq!(node.http().put("/v1/agent/maintenance?enable=true&reason=rain", "").status, 200);
    assert_eq!(node.http().put("/v1/agent/service/deregister/gone", "").status, 200);
    let counts = &node.http().json("/v1/agent/self").unwrap()["Stats"]["agent"];
    assert_eq!(
        (&counts["services"], &counts["checks"], &counts["check_ttls"]),
        (&"2".into(), &"3".into(), &"2".into())
    );

    // As if the machine had lost its power, and after the TTL of one of the two.
    node.kill();
    thread::sleep(Duration::from_millis(1_100));
    let mut node = server(&home);
    assert_eq!(services(node.http()), ["db/1 #", "web"]);
    assert_eq!(check(node.http(), "service:web"), ("passing".into(), "fine".into()));
    assert_eq!(check(node.http(), "service:db/1 #").0, "critical");
    assert_eq!(check(node.http(), "_node_maintenance").0, "critical");
    eventually("the catalog", || {
        let found = node.http().json("/v1/catalog/service/db")?;
        (found[0]["ServiceTags"][0] == "primary").then_some(())
    });

    // One file is damaged: it is named, and the others do not suffer.
    node.kill();
    let of_db = files(&home, "services")
        .into_iter()
        .find(|file| fs::read_to_string(file).unwrap().contains("primary"));
    let of_db = of_db.expect("the service's file");
    fs::write(&of_db, fs::read_to_string(&of_db).unwrap().replace("primary", "Primary")).unwrap();
    let node = server(&home);
    assert_eq!(services(node.http()), ["web"]);
    let name = of_db.file_name().unwrap().to_str().unwrap();
    assert!(node.log().contains(name) && node.log().contains("damaged"), "{}", node.log());
    eventually("the catalog", || {
        (node.http().json("/v1/catalog/service/db")? == Value::Array(Vec::new())).then_some(())
    });
    register(node.http(), r#"{"Name":"db","ID":"db/1 #"}"#);
    assert_eq!(services(node.http()), ["db/1 #", "web"]);
    assert!(
        files(&home, "services").iter().all(|file| file.extension().is_none()),
        "nothing half done is left"
    );
}

#[test]
fn a_check_goes_where_an_answer_refers_to_and_says_no_more_than_it_may() {
    let home = Home::new();
    let node = server(&home);
    let root = format!("http://{}/ui", node.at.http);
    let define = |more: Value| {
        let mut check = json!({ "Interval": "1s", "HTTP": root });
        check.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = node.http().put("/v1/agent/check/register", check.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    // It refers to the same with a slash.
    define(json!({ "Name": "led" }));
    define(json!({ "Name": "stays", "DisableRedirects": true }));
    define(json!({ "Name": "brief", "OutputMaxSize": 9 }));
    eventually("all have looked", || {
        let said = ["led", "stays", "brief"].map(|id| check(node.http(), id));
        said.iter().all(|(_, output)| !output.is_empty()).then_some(())
    });
    let (status, output) = check(node.http(), "led");
    assert!(status == "passing" && output.contains("200 OK Output: <!"), "{status}: {output}");
    let (status, output) = check(node.http(), "stays");
    assert!(status == "critical" && output.contains(": 301"), "{status}: {output}");
    let (status, output) = check(node.http(), "brief");
    let (said, body) = output.split_once("Output: ").expect("what was said, and of what");
    assert_eq!((status.as_str(), said, body.len()), ("passing", &*format!("HTTP GET {root}: 200 OK "), 9));
}

#[test]
fn a_check_that_follows_a_service_here_needs_no_server() {
    // A client that knows nobody.
    let home = Home::new();
    let data = text_of(&home.data());
    let node = Node::start("a", &[&["--data-dir", &data][..], &ANY_PORTS[..]].concat());
    let follow = r#"{"Name":"alias","AliasService":"web"}"#;
    assert_eq!(node.http().put("/v1/agent/check/register", follow).status, 200);
    let says = |status: &str, output: &str| {
        let wanted = (status.to_owned(), output.to_owned());
        eventually(output, || (check(node.http(), "alias") == wanted).then_some(()));
    };
    says("critical", "Service web could not be found on node a");
    register(node.http(), r#"{"Name":"web","Check":{"TTL":"10m"}}"#);
    says("critical", "Aliased check \"Service 'web' check\" failing: ");
    for (told, status, output) in [
        ("pass", "passing", "All checks passing."),
        ("warn", "warning", "Aliased check \"Service 'web' check\" failing: so so"),
    ] {
        let path = format!("/v1/agent/check/{told}/service:web?note=so%20so");
        assert_eq!(node.http().put(&path, "").status, 200);
        says(status, output);
    }
    assert_eq!(node.http().put("/v1/agent/check/deregister/service:web", "").status, 200);
    says("passing", "No checks found.");
}

#[test]
fn what_files_define_comes_and_goes_with_them() {
    let home = Home::new();
    let folder = home.path("agent.d");
    fs::create_dir(&folder).expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("a file");
    write("web.json", r#"{"service":{"Name":"web","port":80,"token":"hush","check":{"TTL":"10m"}}}"#);
    write("more.toml", "[[services]]\nname = \"db\"\n[[checks]]\nname = \"disk\"\nttl = \"10m\"\n");
    let (data, config) = (text_of(&home.data()), text_of(&folder));
    let args = ["--server", "--bootstrap-expect", "1", "--data-dir", &data, "--config-dir", &config];
    let args = [&args[..], &ANY_PORTS[..]].concat();
    let node = Node::start("a", &args);
    eventually("a leader", || node.http().leader());
    assert_eq!(services(node.http()), ["db", "web"]);
    let in_catalog = |http: &Http, name: &str| {
        http.json(&format!("/v1/health/service/{name}"))
            .map_or(0, |found| found.as_array().map_or(0, Vec::len))
    };
    eventually("the catalog has them", || {
        (in_catalog(node.http(), "web") == 1 && in_catalog(node.http(), "db") == 1).then_some(())
    });
    assert!(!node.http().get("/v1/agent/self").text().contains("hush"));
    // What requests say beside them stays, and what a check was told.
    register(node.http(), r#"{"Name":"own"}"#);
    for id in ["service:web", "disk"] {
        assert_eq!(node.http().put(&format!("/v1/agent/check/pass/{id}?note=fine"), "").status, 200);
    }
    assert_eq!(files(&home, "services").len(), 1);

    // A mistake changes nothing.
    write("bad.toml", "[[services]]\nnmae = \"x\"\n");
    let refused = node.http().put("/v1/agent/reload", "");
    assert_eq!(refused.status, 500);
    assert!(
        refused.text().contains("bad.toml: services: number 1: the key nmae is unknown"),
        "{}",
        refused.text()
    );
    assert_eq!(services(node.http()), ["db", "own", "web"]);
    fs::remove_file(folder.join("bad.toml")).expect("it goes");

    // One goes, one comes, one changes.
    write("more.toml", "[[services]]\nname = \"cache\"\n[[checks]]\nname = \"disk\"\nttl = \"10m\"\n");
    write("web.json", r#"{"service":{"Name":"web","port":81,"check":{"TTL":"10m"}}}"#);
    let done = node.http().put("/v1/agent/reload", "");
    assert_eq!((done.status, done.text().contains("services")), (200, true), "{}", done.text());
    assert_eq!(services(node.http()), ["cache", "own", "web"]);
    assert_eq!(check(node.http(), "service:web"), ("passing".to_owned(), "fine".to_owned()));
    assert_eq!(check(node.http(), "disk"), ("passing".to_owned(), "fine".to_owned()));
    eventually("the catalog follows", || {
        let port = node.http().json("/v1/health/service/web")?[0]["Service"]["Port"].as_u64();
        (port == Some(81) && in_catalog(node.http(), "db") == 0).then_some(())
    });

    // The next life finds all of it: from the files, and from the disk.
    drop(node);
    let node = Node::start("a", &args);
    assert_eq!(services(node.http()), ["cache", "own", "web"]);
    eventually("what it was told", || (check(node.http(), "disk").0 == "passing").then_some(()));
    drop(node);

    write("bad.toml", "[[checks]]\nname = \"a\"\nargs = [\"true\"]\ninterval = \"1s\"\n");
    let Err((status, said)) = Node::try_start("a", &args) else { panic!("it started") };
    assert!(!status.success() && said.contains("checks: number 1: "), "{said}");
    assert!(said.contains("Scripts are disabled"), "{said}");
    let validated = common::run(&["validate", &config]);
    assert!(!validated.status.success(), "{}", common::shown(&validated));
}

fn create(http: &Http, body: &str) -> String {
    let answer = http.call(Method::POST, "/v1/query", body.to_owned()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let made: Value = serde_json::from_slice(&answer.body).unwrap();
    made["ID"].as_str().unwrap().to_owned()
}

/// The ids of the instances that a query finds, in order.
fn found(http: &Http, path: &str) -> Vec<String> {
    let executed = http.json(&format!("/v1/query/{path}")).unwrap_or_else(|| panic!("{path}"));
    let nodes = executed["Nodes"].as_array().unwrap().iter();
    let mut ids: Vec<String> = nodes.map(|one| one["Service"]["ID"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn a_prepared_query_finds_what_is_well_and_goes_with_its_session() {
    let node = Node::start("a", &[&["--dev"], &ANY_PORTS[..]].concat());
    eventually("a leader", || node.http().leader());
    let http = node.http();
    for (id, status, tags) in
        [("1", "passing", "['v1']"), ("2", "warning", "['v1','slow']"), ("3", "critical", "[]")]
    {
        let tags = tags.replace('\'', "\"");
        register(
            http,
            &format!(
                r#"{{"Name":"geo-db","ID":"{id}","Tags":{tags},"Check":{{"TTL":"1h","Status":"{status}"}}}}"#
            ),
        );
    }
    eventually("three instances", || {
        (http.json("/v1/health/service/geo-db")?.as_array()?.len() == 3).then_some(())
    });
    assert_eq!(http.json("/v1/query"), Some(Value::Array(Vec::new())));
    let id = create(http, r#"{"Name":"db","Service":{"Service":"geo-db"},"DNS":{"TTL":"10s"}}"#);
    let shown = http.json(&format!("/v1/query/{id}")).unwrap();
    assert_eq!((&shown[0]["Name"], &shown[0]["DNS"]["TTL"]), (&"db".into(), &"10s".into()));
    assert_eq!(found(http, &format!("{id}/execute")), ["1", "2"]);
    assert_eq!(found(http, "db/execute?limit=1").len(), 1);

    let changed = http.put(
        &format!("/v1/query/{id}"),
        r#"{"Name":"db","Service":{"Service":"geo-db","OnlyPassing":true,"Tags":["!slow"]}}"#,
    );
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(found(http, "db/execute"), ["1"]);

    create(
        http,
        r#"{"Name":"geo-","Template":{"Type":"name_prefix_match","Regexp":"^geo-(.*?)-([^-]+)$"},
            "Service":{"Service":"geo-${match(1)}","Tags":["${match(2)}"]}}"#,
    );
    assert_eq!(found(http, "geo-db-v1/execute"), ["1", "2"]);
    let explained = http.json("/v1/query/geo-db-v1/explain").unwrap();
    assert_eq!(
        (&explained["Query"]["Service"]["Service"], &explained["Query"]["Service"]["Tags"][0]),
        (&"geo-db".into(), &"v1".into())
    );

    let created = http.put("/v1/session/create", r#"{"NodeChecks":[]}"#);
    let session: Value = serde_json::from_slice(&created.body).unwrap();
    let session = session["ID"].as_str().unwrap();
    let bound = create(http, &format!(r#"{{"Session":"{session}","Service":{{"Service":"x"}}}}"#));
    assert_eq!(http.get(&format!("/v1/query/{bound}")).status, 200);
    http.put(&format!("/v1/session/destroy/{session}"), "");
    for path in [&bound, "nobody/execute", "nobody/explain"] {
        let answer = http.get(&format!("/v1/query/{path}"));
        assert_eq!((answer.status, answer.text().as_str()), (404, "Query not found"), "{path}");
    }
    assert_eq!(http.call(Method::DELETE, &format!("/v1/query/{id}"), "").unwrap().status, 200);
    assert_eq!(http.get("/v1/query/db/execute").status, 404);
    for (body, text) in [
        ("{}", "Must be bound to a session"),
        (r#"{"Name":"x"}"#, "Must provide a Service name"),
        (r#"{"ID":"x","Name":"x","Service":{"Service":"x"}}"#, "ID must be empty"),
        (r#"{"Service":{"Service":"x"},"Template":{"Type":"other"}}"#, "name_prefix_match"),
        (r#"{"Name":"geo-","Service":{"Service":"x"}}"#, "aliases an existing query name"),
        (r#"{"Session":"s","Service":{"Service":"x"}}"#, "invalid session"),
    ] {
        let answer = http.call(Method::POST, "/v1/query", body).unwrap();
        assert!(answer.status >= 400 && answer.text().contains(text), "{body}: {}", answer.text());
    }
}

#[test]
fn what_is_registered_again_stands_as_it_stood_and_the_catalog_is_put_right_at_once() {
    let home = Home::new();
    let config = home.file("agent.json", r#"{"node_meta":{"rack":"r1"}}"#);
    let data = text_of(&home.data());
    let args = ["--server", "--bootstrap-expect", "1", "--data-dir", &data, "--config", &config];
    let node = Node::start("a", &[&args[..], &ANY_PORTS[..]].concat());
    eventually("a leader", || node.http().leader());
    let http = node.http();
    register(http, r#"{"Name":"web","Check":{"TTL":"10m"}}"#);
    assert_eq!(http.put("/v1/agent/check/pass/service:web?note=fine", "").status, 200);
    register(http, r#"{"Name":"web","Check":{"TTL":"20m"}}"#);
    assert_eq!(check(http, "service:web"), ("passing".into(), "fine".into()));

    register(
        http,
        r#"{"Name":"multi","Ports":[{"Name":"m","Port":90},{"Name":"http","Port":80,"Default":true}]}"#,
    );
    assert_eq!(http.json("/v1/agent/service/multi").expect("a service")["Port"], 80);

    // A check that is told is as it is told, whatever its thresholds.
    let body = r#"{"Name":"told","TTL":"10m","Status":"passing","FailuresBeforeCritical":3}"#;
    assert_eq!(http.put("/v1/agent/check/register", body).status, 200);
    assert_eq!(http.put("/v1/agent/check/fail/told", "").status, 200);
    assert_eq!(check(http, "told").0, "critical");
    // One that is defined anew stands as it stood, whatever it is to begin with.
    assert_eq!(http.put("/v1/agent/check/pass/told?note=up", "").status, 200);
    let body = r#"{"Name":"told","Notes":"other","TTL":"20m","Status":"critical"}"#;
    assert_eq!(http.put("/v1/agent/check/register", body).status, 200);
    assert_eq!(check(http, "told"), ("passing".into(), "up".into()));

    let in_catalog = |name: &str| {
        let found = http.json(&format!("/v1/health/service/{name}"))?;
        found[0]["Checks"].as_array().map(Vec::len)
    };
    eventually("the catalog has it", || in_catalog("web").filter(|checks| *checks > 1));
    let labels = http.json("/v1/catalog/service/web?node-meta=rack:r1").expect("instances");
    assert_eq!(labels[0]["NodeMeta"]["rack"], "r1");
    // Somebody takes the service out of the catalog; the agent has a check of it to tell of, and another service.
    let gone = json!({ "Node": "a", "ServiceID": "web" }).to_string();
    assert_eq!(http.put("/v1/catalog/deregister", gone).status, 200);
    let begun = std::time::Instant::now();
    assert_eq!(http.put("/v1/agent/check/warn/service:web", "").status, 200);
    register(http, r#"{"Name":"other"}"#);
    eventually("the catalog is right", || in_catalog("web").zip(in_catalog("other")));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it waited for the next comparison: {:?}",
        begun.elapsed()
    );

    for (body, said) in [
        (r#"{"Name":"x","Weights":{"Passing":0}}"#, "Passing must be greater than 0"),
        (r#"{"Name":"x","Weights":{"Passing":70000}}"#, "between 0 and 65535"),
        (r#"{"Name":"x","Meta":{"a b":"c"}}"#, "('a b', 'c'): Key contains invalid characters"),
        (r#"{"Name":"x","Meta":{"consul-x":"c"}}"#, "reserved for internal use"),
    ] {
        let answer = http.put("/v1/agent/service/register", body);
        assert!(answer.status == 400 && answer.text().contains(said), "{body}: {}", answer.text());
    }
    let health = http.get("/v1/agent/health/service/id/web");
    assert_eq!((health.status, health.header("x-consul-reason")), (429, Some("warning")));
    assert_eq!(http.get("/v1/catalog/nodes?datacenter=dc2").status, 500);
    assert_eq!(http.put("/v1/agent/join/no.such.host.invalid", "").status, 500);
    assert_eq!(http.put("/v1/agent/join/a%20b", "").status, 400);
}

#[test]
fn an_agent_under_the_name_of_another_takes_nothing_of_its_out_of_the_catalog() {
    let home = Home::new();
    let server = server(&home);
    let join = [server.at.gossip.to_string()];
    let (first, _first_home) = start_at_home("t", "", &[], &join);
    eventually("the server is known", || first.http().leader());
    register(first.http(), r#"{"Name":"web"}"#);
    let is_there = || {
        let found = server.http().json("/v1/catalog/service/web")?;
        (found.as_array()?.len() == 1).then_some(())
    };
    eventually("it is in the catalog", is_there);
    let (second, _second_home) = start_at_home("t", "", &[], &join);
    eventually("the second is told", || second.log().contains("is its node_name another's?").then_some(()));
    register(second.http(), r#"{"Name":"its"}"#);
    let told = || (second.log().matches("is its node_name another's?").count() > 1).then_some(());
    eventually("it is told again", told);
    assert!(is_there().is_some(), "{}", second.log());
}

#[test]
fn what_is_registered_in_the_catalog_has_to_make_sense() {
    let home = Home::new();
    let node = server(&home);
    let put = |body: Value| {
        let answer = node.http().put("/v1/catalog/register", body.to_string());
        (answer.status, answer.text())
    };
    let outside = json!({ "Node": "n9", "Address": "10.0.0.9", "NodeMeta": { "rack": "r1" } });
    assert_eq!(put(outside).0, 200);
    // Who leaves the node as it is need not know where it is, but it has to be there.
    let service = json!({ "Service": "Web", "Tags": ["Blue"] });
    let check = json!({ "CheckID": "y", "Name": "node y", "Status": "passing", "Interval": "10s" });
    let more = |node: &str| {
        put(json!({ "Node": node, "SkipNodeUpdate": true, "Service": service, "Checks": [check] }))
    };
    assert_eq!(more("n9").0, 200);
    assert!(more("n8").1.contains("Must provide node and address"));
    let instance = &node.http().json("/v1/health/service/Web?tag=blue").expect("instances")[0];
    assert_eq!(
        (&instance["Node"]["Address"], &instance["Node"]["Meta"]["rack"]),
        (&"10.0.0.9".into(), &"r1".into())
    );
    // A check that names no service is the node's.
    let check = &instance["Checks"][0];
    assert_eq!((&check["ServiceID"], &check["Interval"]), (&"".into(), &"10s".into()));
    let whole = |more: Value| {
        let mut body = json!({ "Node": "n9", "Address": "10.0.0.9" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        put(body)
    };
    // Consul's Go client says 0 for what its caller says nothing of.
    let nothing = json!({ "Service": { "Service": "w", "Weights": { "Passing": 0, "Warning": 0 } } });
    assert_eq!(whole(nothing).0, 200);
    let found = &node.http().json("/v1/health/service/w").expect("instances")[0];
    assert_eq!(found["Service"]["Weights"], json!({ "Passing": 1, "Warning": 1 }));
    // Of weights that are given, one that is not named is 0, whichever call gives them.
    let weights = |service: &str| {
        let found = node.http().json(&format!("/v1/health/service/{service}"))?;
        found[0]["Service"].get("Weights").cloned()
    };
    let partial = json!({ "Passing": 10 });
    assert_eq!(whole(json!({ "Service": { "Service": "p1", "Weights": partial } })).0, 200);
    let op = json!([{ "Service": { "Verb": "set", "Node": "n9", "Service": { "Service": "p2", "Weights": partial } } }]);
    assert_eq!(node.http().put("/v1/txn", op.to_string()).status, 200);
    register(node.http(), &json!({ "Name": "p3", "Weights": partial }).to_string());
    for service in ["p1", "p2", "p3"] {
        let found = eventually("the service in the catalog", || weights(service));
        assert_eq!(found, json!({ "Passing": 10, "Warning": 0 }), "{service}");
    }
    let half = node.http().put("/v1/agent/service/register", r#"{"Name":"p4","Weights":{"Warning":1}}"#);
    assert!(half.status == 400 && half.text().contains("Passing must be greater than 0"), "{}", half.text());
    let usage = &node.http().json("/v1/operator/usage").unwrap()["Usage"]["dc1"];
    let billable = usage["ServiceInstances"].as_u64().unwrap() - 1;
    assert_eq!(usage["BillableServiceInstances"], billable, "all but the servers' own");
    assert_eq!(node.http().put("/v1/txn", "null").status, 200, "Go's word for no operations");
    for (more, said) in [
        (json!({ "ID": "bad" }), "Bad node ID"),
        (json!({ "Service": { "Service": "x", "Address": "0.0.0.0" } }), "Invalid service address"),
        (json!({ "Service": { "Service": "x", "Meta": { "consul-x": "c" } } }), "reserved for internal use"),
        (json!({ "Service": ["", "x", "x"] }), "invalid type: sequence, expected struct Service"),
        (json!({ "Check": { "Node": "n8", "Name": "x" } }), "does not match node"),
    ] {
        let (status, text) = whole(more);
        assert!(status == 400 && text.contains(said), "{status} {text}");
    }
}

/// A server that keeps nothing, and what commands come to that ask it.
fn asked() -> (Node, impl Fn(&[&str]) -> String) {
    let node = Node::start("a", &[&["--dev"], &ANY_PORTS[..]].concat());
    // The leader enters itself soon after it leads, and not before.
    eventually("its node in the catalog", || {
        node.http().json("/v1/catalog/node/a").filter(|found| !found.is_null())
    });
    let http = node.at.http.to_string();
    (node, move |args: &[&str]| shown(&run(&[args, &["--http-addr", &http]].concat())))
}

#[test]
fn the_command_line_registers_what_files_and_flags_say_and_takes_it_out_again() {
    let home = Home::new();
    let (node, ask) = asked();
    let web = r#"{"node_name":"x","retry_join":["nowhere.invalid"],"service":
        {"Name":"web","port":80,"tags":["v1"],"meta":{"My_Key":"V"},"check":{"TTL":"10m"}}}"#;
    let web = home.file("web.json", web);
    let more = home
        .file("more.toml", "[[services]]\nname = \"db\"\nid = \"db/1 #\"\n[[services]]\nname = \"cache\"\n");
    assert_eq!(
        ask(&["services", "register", &web, &more]),
        "exit 0\nRegistered service: web\nRegistered service: db\nRegistered service: cache\n"
    );
    assert_eq!(services(node.http()), ["cache", "db/1 #", "web"]);
    let known = |id: &str| node.http().json(&format!("/v1/agent/service/{id}")).expect("a service");
    let found = known("web");
    assert_eq!(
        (&found["Port"], &found["Tags"], &found["Meta"]["My_Key"]),
        (&80.into(), &json!(["v1"]), &"V".into())
    );
    assert_eq!(check(node.http(), "service:web").0, "critical");

    let flags = "services register --name api --id api-1 --port 8080 --tag a --tag b --address 10.0.0.9 --meta rack=r=1";
    assert_eq!(ask(&flags.split(' ').collect::<Vec<_>>()), "exit 0\nRegistered service: api\n");
    let found = known("api-1");
    assert_eq!(
        (&found["Service"], &found["Port"], &found["Address"], &found["Tags"], &found["Meta"]),
        (&"api".into(), &8080.into(), &"10.0.0.9".into(), &json!(["a", "b"]), &json!({ "rack": "r=1" }))
    );

    assert_eq!(ask(&["services", "deregister", "--id", "api-1"]), "exit 0\nDeregistered service: api-1\n");
    assert_eq!(
        ask(&["services", "deregister", &web, &more]),
        "exit 0\nDeregistered service: web\nDeregistered service: db/1 #\nDeregistered service: cache\n"
    );
    assert_eq!(services(node.http()), [""; 0]);
}

#[test]
fn a_service_that_cannot_be_registered_is_named() {
    let home = Home::new();
    let (node, ask) = asked();
    let file = home.file("a.json", r#"{"service":{"name":"a"}}"#);
    for line in [
        "services register",
        "services register --port 80",
        "services register --name a --port 65536",
        "services register --name a --meta rack",
        "services deregister",
        &format!("services register --name a {file}"),
        &format!("services register --tag a {file}"),
        &format!("services deregister --id a {file}"),
    ] {
        let said = ask(&line.split(' ').collect::<Vec<_>>());
        assert!(said.starts_with("exit 2\nerror: "), "{line}: {said}");
    }

    let fails = |args: &[&str], expected: &str| {
        let said = ask(args);
        assert!(said.starts_with("exit 1\ndriftline: ") && said.contains(expected), "{args:?}: {said}");
    };
    let misspelt = home.file("misspelt.json", r#"{"services":[{"name":"a","prot":1}]}"#);
    fails(&["services", "register", &misspelt], "misspelt.json: services: number 1: the key prot is unknown");
    let none = home.file("none.toml", "server = true\n");
    fails(&["services", "register", &none], "no service is defined there");
    fails(&["services", "register", "/no/such/file.json"], "/no/such/file.json");
    fails(&["services", "deregister", "--id", "nobody"], "answers 404: ");
    fails(
        &["services", "register", "--name", "a", "--address", "0.0.0.0"],
        "answers 400: Invalid service address",
    );

    // What was done before stays, and is told.
    let second = home.file("b.json", r#"{"services":[{"name":"first"},{"name":"second","address":"::"}]}"#);
    let said = ask(&["services", "register", &second]);
    assert!(said.contains("service \"second\": ") && said.ends_with("Registered service: first\n"), "{said}");
    assert_eq!(services(node.http()), ["first"]);
}

#[test]
fn the_command_line_shows_the_catalog() {
    let (node, ask) = asked();
    let put = |path: &str, body: Value| {
        let answer = node.http().put(path, body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    for (name, number, rack) in [("b", 1, "r1"), ("c", 2, "r2")] {
        for (id, tag) in [("web-1", "blue"), ("web-2", "all")] {
            let registration = json!({
                "Node": name,
                "ID": format!("0000000{number}-0000-0000-0000-000000000000"),
                "Address": format!("10.0.0.{number}"),
                "TaggedAddresses": { "lan": format!("10.0.0.{number}") },
                "NodeMeta": { "rack": rack, "size": "big" },
                "Service": { "ID": id, "Service": "web", "Tags": [tag] },
            });
            put("/v1/catalog/register", registration);
        }
        let coord = json!({ "Vec": [number, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Height": 0.1 });
        put("/v1/coordinate/update", json!({ "Node": name, "Coord": coord }));
    }
    let ask = |line: &str| ask(&line.split(' ').collect::<Vec<_>>());

    let nodes = ask("catalog nodes");
    let names: Vec<&str> = nodes.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["Node", "a", "b", "c"], "{nodes}");
    assert_eq!(
        ask("catalog nodes --node-meta rack=r1 --node-meta size=big"),
        "exit 0\nNode  ID        Address   DC\nb     00000001  10.0.0.1  dc1\n"
    );
    assert_eq!(ask("catalog nodes --filter Meta.rack==r1"), ask("catalog nodes --node-meta rack=r1"));
    assert_eq!(
        ask("catalog nodes --service web"),
        "exit 0\nNode  ID        Address   DC\nb     00000001  10.0.0.1  dc1\nc     00000002  10.0.0.2  dc1\n"
    );
    eventually("the nearest first", || {
        let nodes = ask("catalog nodes --service web --near c");
        (nodes.lines().nth(2)?.starts_with("c ")).then_some(())
    });
    let detailed = ask("catalog nodes --service web --node-meta rack=r2 --detailed");
    let row = detailed.lines().nth(2).unwrap_or_default();
    assert!(
        row.starts_with("c     00000002-0000-0000-0000-000000000000  10.0.0.2  dc1  lan=10.0.0.2"),
        "{detailed}"
    );
    assert!(row.ends_with("  rack=r2, size=big"), "{detailed}");
    let of_json = |line: &str| -> Value {
        let said = ask(line);
        let body = said.strip_prefix("exit 0\n").unwrap_or_else(|| panic!("{said}"));
        serde_json::from_str(body).expect("JSON")
    };
    let plain = of_json("catalog nodes --node-meta rack=r2 --json");
    let of_service = of_json("catalog nodes --service web --node-meta rack=r2 --json");
    for key in ["ID", "Node", "Address", "Datacenter", "TaggedAddresses", "Meta"] {
        assert_eq!(of_service[0][key], plain[0][key], "{key}");
    }
    assert_eq!(of_service.as_array().map(Vec::len), Some(1));

    assert_eq!(ask("catalog services --stale"), "exit 0\nconsul\nweb\n");
    assert_eq!(ask("catalog services --tags"), "exit 0\nconsul\nweb     all,blue\n");
    assert_eq!(ask("catalog services --node b --tags"), "exit 0\nweb  all,blue\n");
    assert_eq!(ask("catalog services --node-meta rack=r1"), "exit 0\nweb\n");
    assert_eq!(of_json("catalog services --node b --json"), json!({ "web": ["all", "blue"] }));
    assert_eq!(ask("catalog datacenters"), "exit 0\ndc1\n");
    assert_eq!(of_json("catalog datacenters --json"), json!(["dc1"]));

    // Nothing to show is no failure.
    for line in ["nodes --service none", "nodes --node-meta rack=r3"] {
        assert_eq!(ask(&format!("catalog {line}")), "exit 0\ndriftline: no node matches\n", "{line}");
    }
    for line in ["services --node none", "services --node-meta rack=r3"] {
        assert_eq!(ask(&format!("catalog {line}")), "exit 0\ndriftline: no service matches\n", "{line}");
    }
    let said = ask("catalog nodes --filter rack");
    assert!(said.starts_with("exit 1\ndriftline: ") && said.contains(" answers 400: "), "{said}");
    for line in ["catalog nodes --node-meta rack", "catalog services --node b --node-meta rack=r1", "catalog"]
    {
        assert!(ask(line).starts_with("exit 2\n"), "{line}");
    }
}

#[test]
fn the_command_line_takes_what_it_is_told_out_of_service() {
    let (node, ask) = asked();
    register(node.http(), r#"{"Name":"web","ID":"web/1"}"#);
    assert_eq!(ask(&["maint"]), "exit 0\n");
    assert_eq!(
        ask(&["maint", "--enable", "--service", "web/1", "--reason", "a new disk"]),
        "exit 0\nDone: service web/1 is in maintenance.\n"
    );
    assert_eq!(
        ask(&["maint", "--enable", "--reason", "rain"]),
        "exit 0\nDone: the node is in maintenance.\n"
    );
    assert_eq!(
        ask(&["maint"]),
        "exit 0\nWhat     ID     Reason\nnode     a      rain\nservice  web/1  a new disk\n"
    );
    assert_eq!(check(node.http(), "_service_maintenance:web/1").0, "critical");
    let fares = || {
        let by_id = node.http().get("/v1/agent/health/service/id/web%2F1?format=text");
        let by_name = node.http().get("/v1/agent/health/service/name/web");
        let named: Value = serde_json::from_str(&by_name.text()).unwrap();
        assert_eq!(
            (named[0]["AggregatedStatus"].as_str(), by_name.status),
            (Some(&*by_id.text()), by_id.status)
        );
        (by_id.text(), by_id.status)
    };
    assert_eq!(fares(), ("maintenance".to_owned(), 503));
    assert_eq!(
        ask(&["maint", "--disable", "--service", "web/1"]),
        "exit 0\nDone: service web/1 is not in maintenance any more.\n"
    );
    assert_eq!(fares(), ("maintenance".to_owned(), 503), "the node is, still");
    assert_eq!(ask(&["maint", "--disable"]), "exit 0\nDone: the node is not in maintenance any more.\n");
    assert_eq!(fares(), ("passing".to_owned(), 200));
    assert_eq!(ask(&["maint", "--json"]), "exit 0\n{}\n");

    let unknown = ask(&["maint", "--enable", "--service", "none"]);
    assert!(unknown.starts_with("exit 1\n") && unknown.contains("Unknown service ID \"none\""), "{unknown}");
    for line in ["--enable --disable", "--service web", "--reason x", "--disable --reason x"] {
        let said = ask(&[&["maint"], &line.split(' ').collect::<Vec<_>>()[..]].concat());
        assert!(said.starts_with("exit 2\n"), "{line}: {said}");
    }
}

#[test]
fn filters_choose_among_services_and_members() {
    let home = Home::new();
    let node = server(&home);
    register(node.http(), r#"{"Name":"web","ID":"web-1","Tags":["v1"],"Meta":{"team":"blue"}}"#);
    register(node.http(), r#"{"Name":"web","ID":"web-2","Tags":["v2"],"Meta":{"team":"red"}}"#);
    register(node.http(), r#"{"Name":"db","Meta":{"team":"red"}}"#);
    eventually("the catalog", || {
        let services = node.http().json("/v1/catalog/services")?;
        (services.as_object()?.len() == 4 - 1).then_some(())
    });
    let services = |filter: &str| node.http().get(&format!("/v1/catalog/services?filter={filter}"));
    let named = |filter: &str| serde_json::from_str::<Value>(&services(filter).text()).unwrap();
    assert_eq!(named("ServiceMeta.team+%3D%3D+red"), json!({ "db": [], "web": ["v2"] }));
    assert_eq!(named("v1+in+ServiceTags"), json!({ "web": ["v1"] }));
    assert_eq!(named("ServiceName+%3D%3D+nothing"), json!({}));
    assert_eq!(services("Nonsense+%3D%3D+1").status, 400);
    assert_eq!(services("ServiceName").status, 400);
    let members = |filter: &str| node.http().json(&format!("/v1/agent/members?filter={filter}")).unwrap();
    assert_eq!(members("Tags.role+%3D%3D+consul").as_array().unwrap().len(), 1);
    assert_eq!(members("Name+%3D%3D+b"), json!([]));
    // A tag that a member does not have is no mistake.
    assert_eq!(members("Tags.none+%3D%3D+x"), json!([]));
    // What is left out of the answer has its zero value.
    let health = |service: &str, filter: &str| {
        node.http().get(&format!("/v1/health/service/{service}?filter={filter}"))
    };
    let ordinary = health("web", "Service.Kind+%3D%3D+%22%22+and+Service.Connect.Native+!%3D+true").text();
    assert_eq!(serde_json::from_str::<Value>(&ordinary).unwrap().as_array().unwrap().len(), 2);
    // A name that no entry has is a mistake where there are no entries too.
    assert_eq!(health("nothing", "Service.Service+%3D%3D+x").text(), "[]");
    let mistaken = health("nothing", "Bogus+%3D%3D+x");
    assert_eq!(mistaken.status, 400);
    assert!(mistaken.text().contains("Selector \"Bogus\" is not valid"), "{}", mistaken.text());
    // So it is where there can be none, or nobody.
    for path in [
        "health/connect/web",
        "health/ingress/web",
        "catalog/connect/web",
        "catalog/gateway-services/web",
        "catalog/node/nobody",
        "catalog/node-services/nobody",
    ] {
        for (filter, status) in [("Bogus+%3D%3D+x", 400), ("%28", 400), ("", 200)] {
            let answer = node.http().get(&format!("/v1/{path}?filter={filter}"));
            assert_eq!(answer.status, status, "{path} {filter}: {}", answer.text());
            assert!(
                status == 200 || answer.text().starts_with("Failed to create boolean expression"),
                "{path}"
            );
        }
    }
    assert_eq!(node.http().get("/v1/health/connect/web?filter=Service.Service+%3D%3D+x").text(), "[]");
    assert_eq!(node.http().get("/v1/catalog/gateway-services/g?filter=Service.Name+%3D%3D+x").text(), "[]");
}
