//! What those who run agents rely on: reading the configuration again, the log and the metrics over the API, the
//! file with the process id, the service manager, and the commands for all that.

#![allow(clippy::disallowed_methods)]

mod common;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{ANY_PORTS, Home, Node, driftline, eventually, run, shown, text_of};
use hyper::Method;
use serde_json::Value;

fn dev(more: &[&str]) -> Node {
    let node = Node::start("a", &[&["--dev"], &ANY_PORTS[..], more].concat());
    eventually("a leader", || node.http().leader());
    node
}

fn ask(node: &Node, line: &str) -> String {
    let http = node.at.http.to_string();
    let mut args: Vec<&str> = line.split(' ').collect();
    args.extend(["--http-addr", &http]);
    shown(&run(&args))
}

fn tag(node: &Node, name: &str) -> Option<Value> {
    let members = node.http().json("/v1/agent/members")?;
    members[0]["Tags"].get(name).cloned()
}

#[test]
fn a_changed_configuration_takes_effect_as_far_as_it_can() {
    let home = Home::new();
    let file = home.file("a.toml", "[tags]\nrack = '1'\n");
    let node = dev(&["--config", &file]);
    assert_eq!(tag(&node, "rack"), Some("1".into()));

    home.file(
        "a.toml",
        "log_level = 'debug'\n[tags]\nrack = '2'\n[limits]\nvalue_bytes = 10\n[raft]\nheartbeat_ms = 40\n",
    );
    let said = ask(&node, "reload");
    assert_eq!(
        said,
        "exit 0\nIn force: limits.value_bytes, tags.rack, log_level\nWaits for a restart: raft.heartbeat_ms\n"
    );
    // What a process writes is read a moment after it answered.
    eventually("the key in the log", || node.log().contains("raft.heartbeat_ms").then_some(()));
    eventually("the new label", || (tag(&node, "rack")? == "2").then_some(()));
    let this = node.http().json("/v1/agent/self").unwrap();
    assert_eq!(this["DebugConfig"]["raft"]["heartbeat_ms"], 50);
    assert_eq!(node.http().put("/v1/kv/k", "more than ten bytes").status, 413);

    // A mistake anywhere, and nothing of it takes effect.
    home.file("a.toml", "[tags]\nrack = '3'\n[limits]\nvalue_bytez = 20\n");
    let answer = node.http().put("/v1/agent/reload", "");
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("a.toml") && answer.text().contains("value_bytez"), "{}", answer.text());
    home.file("a.toml", &format!("log_level = 'info'\n[tags]\nrack = '{}'\n", "x".repeat(600)));
    let answer = node.http().put("/v1/agent/reload", "");
    assert!(answer.status == 500 && answer.text().contains("tags"), "{}", answer.text());
    for level in ["driftline=loud", "loud"] {
        home.file("a.toml", &format!("log_level = '{level}'\n[tags]\nrack = '3'\n"));
        let answer = node.http().put("/v1/agent/reload", "");
        assert!(answer.status == 500 && answer.text().contains(level), "{}", answer.text());
    }
    assert_eq!(tag(&node, "rack"), Some("2".into()));
    assert_eq!(node.http().put("/v1/kv/k", "more than ten bytes").status, 413);

    // By signal as well.
    home.file("a.toml", "[tags]\nrack = '4'\n");
    node.signal("HUP");
    eventually("the newest label", || (tag(&node, "rack")? == "4").then_some(()));
    assert_eq!(node.http().put("/v1/kv/k", "more than ten bytes").status, 200);
}

#[test]
fn a_directory_is_read_in_the_order_of_its_names() {
    let home = Home::new();
    let conf = home.path("conf");
    fs::create_dir_all(conf.join("sub")).unwrap();
    for (name, text) in [
        ("10-a.toml", "node_name = 'ten'\ndata_dir = '/nowhere'\n[tags]\na = '10'\nb = '10'\n"),
        ("9-b.json", r#"{ "node_meta": { "b": "9", "c": "9" } }"#),
        ("notes.txt", "not a configuration"),
        ("sub/99.toml", "nonsense = true"),
    ] {
        fs::write(conf.join(name), text).unwrap();
    }
    let conf = text_of(&conf);
    let node = dev(&["--config-dir", &conf]);
    for (name, value) in [("a", "10"), ("b", "9"), ("c", "9")] {
        assert_eq!(tag(&node, name), Some(value.into()), "{name}");
    }
    let said = shown(&run(&["validate", &conf]));
    assert!(said.starts_with("exit 0\nConfiguration is valid: "), "{said}");
    let (first, second) = (said.find("10-a.toml").unwrap(), said.find("9-b.json").unwrap());
    assert!(first < second && !said.contains("notes"), "{said}");
    fs::write(format!("{conf}/11.toml"), "retry_interval = 'soon'\n").unwrap();
    let said = shown(&run(&["validate", &conf]));
    assert!(said.starts_with("exit 1\n") && said.contains("11.toml: retry_interval: "), "{said}");
    // What an agent would stumble over only once it starts.
    let long = "x".repeat(500);
    for (text, why) in [
        (format!("tags.long = '{long}'"), "tags: encoded with the node's facts they take "),
        ("tags.'the rack' = '1'".to_owned(), "tags: \"the rack\": a label is called by letters"),
        ("tags.consul-rack = '1'".to_owned(), "tags: \"consul-rack\": "),
        ("tags.'' = '1'".to_owned(), "tags: \"\": "),
        ("encrypt_file = '/nowhere/key'".to_owned(), "cannot read /nowhere/key"),
        ("[tls]\nca_file = '/nowhere/ca.pem'".to_owned(), "/nowhere/ca.pem"),
        (
            "acl.tokens.agent = 'file:/nowhere/token'".to_owned(),
            "acl.tokens.agent: cannot read /nowhere/token",
        ),
        ("rpc_addr = '0.0.0.0:8300'\nserver = true".to_owned(), "--advertise"),
        (
            "rpc_addr = '127.0.0.1:8500'\nserver = true".to_owned(),
            "rpc_addr: 127.0.0.1:8500 is http_addr already",
        ),
        ("log_level = 'loud'".to_owned(), "log level \"loud\": must be off, error, "),
    ] {
        fs::write(format!("{conf}/11.toml"), text).unwrap();
        let said = shown(&run(&["validate", &conf]));
        assert!(said.starts_with("exit 1\n") && said.contains(why), "{said}");
    }
    for name in ["11.toml", "10-a.toml"] {
        fs::remove_file(format!("{conf}/{name}")).unwrap();
    }
    let said = shown(&run(&["validate", &conf]));
    assert!(said.starts_with("exit 1\n") && said.contains("data_dir"), "{said}");
    fs::remove_file(format!("{conf}/9-b.json")).unwrap();
    let said = shown(&run(&["validate", &conf]));
    assert!(
        said.starts_with("exit 1\n") && said.contains(&format!("no .toml or .json file in {conf}")),
        "{said}"
    );
}

#[test]
fn the_service_manager_hears_when_the_agent_is_ready_and_a_file_holds_its_id() {
    let home = Home::new();
    let (socket, pid) = (home.path("notify"), home.path("agent.pid"));
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let hear = || {
        let mut buffer = [0; 64];
        let len = manager.recv(&mut buffer).expect("a word in time");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    let pid_file = text_of(&pid);
    let args = [&["agent", "--dev", "--node", "a", "--pid-file", &pid_file], &ANY_PORTS[..]].concat();
    let mut child = driftline()
        .args(args)
        .env("NOTIFY_SOCKET", &socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(hear(), "READY=1");
    assert_eq!(fs::read_to_string(&pid).unwrap().trim(), child.id().to_string());
    let hup = Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status();
    assert!(hup.unwrap().success());
    assert_eq!([hear(), hear()], ["RELOADING=1", "READY=1"]);
    let term = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
    assert!(term.unwrap().success());
    assert_eq!(hear(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
    assert!(!pid.exists());
}

#[test]
fn the_log_can_be_watched() {
    let node = dev(&[]);
    let answer = node.http().get("/v1/agent/monitor?loglevel=loud");
    assert_eq!((answer.status, answer.text().as_str()), (400, "Unknown log level: loud"));
    let mut monitor = driftline()
        .args(["monitor", "--log-level", "debug", "--http-addr", &node.at.http.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = monitor.stdout.take().unwrap();
    let (mut seen, mut chunk) = (String::new(), [0; 4096]);
    // Each refused reload is a line; one of them comes after the watching began.
    let until = std::time::Instant::now() + common::PATIENCE;
    let (sender, lines) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        while let Ok(len @ 1..) = out.read(&mut chunk) {
            if sender.send(String::from_utf8_lossy(&chunk[..len]).into_owned()).is_err() {
                break;
            }
        }
    });
    while !seen.contains("the configuration was read again") {
        assert!(std::time::Instant::now() < until, "{seen}");
        node.http().put("/v1/agent/reload", "");
        seen.extend(lines.try_iter());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    drop(lines);
    reading.join().unwrap();
}

#[test]
fn metrics_show_in_both_forms() {
    let node = dev(&[]);
    assert!(node.http().set("k", "v"));
    let json = node.http().json("/v1/agent/metrics").unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["Counters", "Gauges", "Points", "Samples", "Timestamp"]);
    let gauges = json["Gauges"].as_array().unwrap();
    assert!(
        gauges.iter().any(|gauge| gauge["Name"] == "consul.raft.term" && gauge["Value"].is_f64()),
        "{json}"
    );
    let answer = node.http().get("/v1/agent/metrics?format=prometheus");
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let scrape =
        prometheus_parse::Scrape::parse(answer.text().lines().map(|line| Ok(line.to_owned()))).unwrap();
    let written = scrape.samples.iter().find(|sample| {
        sample.metric == "consul_rpc_call_count" && sample.labels.get("kind") == Some("write")
    });
    assert!(written.is_some(), "{}", answer.text());
    let value = |name: &str| {
        let found = scrape.samples.iter().find(|sample| sample.metric == name);
        match found.unwrap_or_else(|| panic!("no {name}: {}", answer.text())).value {
            Value::Gauge(value) | Value::Counter(value) | Value::Untyped(value) => value,
            _ => panic!("{name} is of another kind"),
        }
    };
    use prometheus_parse::Value;
    for (name, least) in [
        ("consul_autopilot_failure_tolerance", 0.0),
        ("consul_autopilot_healthy", 0.0),
        ("consul_kvs_apply_count", 1.0),
        ("consul_raft_apply", 1.0),
        ("consul_raft_commitTime_count", 1.0),
        ("consul_raft_state_candidate", 1.0),
        ("consul_raft_state_leader", 1.0),
        ("consul_runtime_alloc_bytes", 65_536.0),
        ("consul_server_isLeader", 1.0),
    ] {
        assert!(value(name) >= least, "{name}: {}", value(name));
    }
    assert_eq!(node.http().get("/v1/agent/metrics?format=x").status, 400);
}

#[test]
fn statistics_have_consuls_keys_and_are_text() {
    let node = dev(&[]);
    let this = node.http().json("/v1/agent/self").unwrap();
    let expected = [
        ("agent", "check_monitors check_ttls checks services"),
        ("build", "prerelease revision version version_metadata"),
        ("consul", "bootstrap known_datacenters leader leader_addr server"),
        (
            "raft",
            "applied_index commit_index fsm_pending last_contact last_log_index last_log_term last_snapshot_index \
             last_snapshot_term latest_configuration latest_configuration_index num_peers state term",
        ),
        ("runtime", "arch os version"),
        (
            "serf_lan",
            "encrypted event_queue event_time failed health_score intent_queue left member_time members query_queue",
        ),
    ];
    for (section, keys) in expected {
        let facts = this["Stats"][section].as_object().unwrap_or_else(|| panic!("no {section}"));
        assert!(facts.values().all(Value::is_string), "{facts:?}");
        for key in keys.split_whitespace() {
            assert!(facts.contains_key(key), "{section}.{key}");
        }
    }
    let leader = node.http().leader().unwrap();
    assert_eq!(this["Stats"]["consul"]["leader_addr"], leader.as_str());
    assert_eq!(node.http().json("/v1/status/peers").unwrap()[0], leader.as_str());
    assert_eq!(this["Stats"]["raft"]["last_contact"], "0");
    assert_eq!(this["Stats"]["raft"]["state"], "Leader");
    assert_eq!(this["Stats"]["serf_lan"]["encrypted"], "false");
}

#[test]
fn an_agent_knows_its_machine_and_its_version() {
    let node = dev(&[]);
    let host = node.http().json("/v1/agent/host").unwrap();
    assert!(host["Memory"]["total"].as_u64().unwrap() > 1 << 20, "{host}");
    assert!(!host["CPU"].as_array().unwrap().is_empty() && host["Host"]["hostname"].is_string(), "{host}");
    assert!(
        host["Disk"]["total"].as_u64() > Some(0) && host["Errors"].as_array().unwrap().is_empty(),
        "{host}"
    );
    let day = Duration::from_secs(86_400).as_nanos();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    assert!(u128::from(host["CollectionTime"].as_u64().unwrap()).abs_diff(now) < day, "{host}");
    let version = node.http().json("/v1/agent/version").unwrap();
    let this = node.http().json("/v1/agent/self").unwrap();
    assert_eq!(version["HumanVersion"], this["Config"]["Version"]);
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let node = dev(&[]);
    let said = ask(&node, "doctor");
    assert!(said.starts_with("exit 0\n[fine]   a leads in term "), "{said}");
    assert_eq!(node.http().json("/v1/status/why").unwrap()["Leader"], true);

    let home = Home::new();
    let data = text_of(&home.data());
    let waiting = ["--server", "--bootstrap-expect", "3", "--data-dir", &data];
    let node = Node::start("lone", &[&waiting[..], &ANY_PORTS[..]].concat());
    let said = ask(&node, "doctor");
    assert!(said.starts_with("exit 1\n"), "{said}");
    assert!(said.contains("waits for 3 servers") && said.contains("sees 1 (lone)"), "{said}");
    assert!(said.contains("-> start the others"), "{said}");
    let json = ask(&node, "doctor --format json");
    assert!(json.starts_with("exit 0\n{") && json.contains("\"Level\": \"broken\""), "{json}");

    let home = Home::new();
    let data = text_of(&home.data());
    let node = Node::start("client", &[&["--data-dir", &data][..], &ANY_PORTS[..]].concat());
    let said = ask(&node, "doctor");
    assert!(said.contains("client is a client and sees no server alive"), "{said}");
}

#[test]
fn the_other_commands_print_what_people_need() {
    let node = dev(&[]);
    let said = ask(&node, "status");
    assert!(said.starts_with("exit 0\nNode     a (server)\nLeader   127.0.0.1:"), "{said}");
    let version = format!("exit 0\ndriftline {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(shown(&run(&["version"])), version);
    assert!(shown(&run(&["version", "-format=json"])).contains("\"Version\": "));
    let said = ask(&node, "operator usage instances");
    let counts: Vec<&str> = said.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(counts, ["dc1", "1", "1", "1", "0", "0"], "{said}");
    assert!(ask(&node, "members -detailed").contains("role=consul"));
    assert!(ask(&node, "kv get -consistent none").contains("no key \"none\""));
    // What is not known is named as it was written, not by its first letter.
    let said = ask(&node, "members -http-nonsense");
    assert!(said.starts_with("exit 2\n") && said.contains("'--http-nonsense'"), "{said}");
    let json: Value =
        serde_json::from_str(ask(&node, "status --format json").strip_prefix("exit 0\n").unwrap()).unwrap();
    assert_eq!((&json["Server"], &json["Members"]["Alive"]), (&true.into(), &1.into()));
    let said = ask(&node, "operator raft list-peers");
    assert!(
        said.lines().nth(2).is_some_and(|row| row.starts_with("a ") && row.contains(" leader ")),
        "{said}"
    );
    let said = ask(&node, "operator raft transfer-leader");
    assert!(said.starts_with("exit 1\n") && said.contains("answers 500: cannot find peer"), "{said}");
    let said = ask(&node, "operator raft transfer-leader --id a");
    assert!(said.contains("cannot transfer leadership to itself"), "{said}");
    let said = ask(&node, "operator raft transfer-leader --id nobody");
    assert!(said.contains("Could not find address for server id nobody"), "{said}");
    let said = ask(&node, "operator raft remove-peer --id nobody");
    assert!(said.starts_with("exit 1\n") && said.contains("was not found"), "{said}");
    assert!(shown(&run(&["operator", "raft", "remove-peer"])).starts_with("exit 2\n"));
    let members: Value =
        serde_json::from_str(ask(&node, "members --format json").strip_prefix("exit 0\n").unwrap()).unwrap();
    assert_eq!(members[0]["Name"], "a");
    for shell in ["bash", "zsh", "fish"] {
        let said = shown(&run(&["completions", shell]));
        assert!(said.starts_with("exit 0\n") && said.contains("force-leave"), "{shell}");
    }
    let home = Home::new();
    let file = text_of(&home.path("debug.json"));
    let said = ask(&node, &format!("debug -duration=1ms --output {file}"));
    assert!(said.starts_with("exit 0\nWritten: "), "{said}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let bundle: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(
        (&bundle["self"]["Config"]["NodeName"], &bundle["why"]["Leader"]),
        (&"a".into(), &true.into())
    );
    assert!(ask(&node, &format!("debug --output {file}")).contains("exists already"));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert!(shown(&run(&["doctor", "--http-addr", &nobody])).starts_with("exit 1\n"));
    assert_eq!(node.http().call(Method::GET, "/v1/agent/reload", "").unwrap().status, 405);
}
