//! The leader of a real cluster looks after its servers: it tells how they fare, lets newcomers vote, and takes out who is dead and
//! replaced.

#![allow(clippy::disallowed_methods)]

mod common;

use common::{Home, Http, Node, QUICK, eventually, run, shown, start_at_home};
use serde_json::{Value, json};

/// Gossip that notices within seconds who is gone.
const GOSSIP: &str = "[gossip]\nprobe_period_ms = 500\nprobe_timeout_ms = 250\n";

fn start(name: &str, more: &[&str], join: &[String]) -> (Node, Home) {
    start_at_home(name, &format!("{QUICK}{GOSSIP}"), more, join)
}

/// Names of the servers of the configuration, and whether they vote.
fn configured(http: &Http) -> Vec<(String, bool)> {
    let configuration = http.json("/v1/operator/raft/configuration").unwrap_or_default();
    let servers = configuration["Servers"].as_array().cloned().unwrap_or_default();
    let mut servers: Vec<(String, bool)> = servers
        .iter()
        .map(|server| (server["Node"].as_str().unwrap_or_default().to_owned(), server["Voter"] == true))
        .collect();
    servers.sort();
    servers
}

fn health(http: &Http) -> (u16, Value) {
    let answer = http.get("/v1/operator/autopilot/health");
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

fn cli(node: &Node, args: &str) -> String {
    let http = node.at.http.to_string();
    let mut args: Vec<&str> = args.split(' ').collect();
    args.extend(["--http-addr", &http]);
    shown(&run(&args))
}

#[test]
fn a_dead_server_goes_once_it_is_replaced() {
    let mut nodes: Vec<(Node, Home)> = Vec::new();
    let mut join = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(start(name, &["--server", "--bootstrap-expect", "3"], &join));
        join.extend(nodes.last().map(|(node, _)| node.at.gossip.to_string()));
    }
    let client = start("client", &[], &join).0;
    let http = client.http();
    let healthy = |voters: usize| {
        eventually("a healthy cluster", || {
            let (status, health) = health(http);
            let servers = health["Servers"].as_array()?;
            let well = servers.iter().all(|server| server["Healthy"] == true && server["Voter"] == true);
            (status == 200 && servers.len() == voters && well).then_some(health)
        })
    };
    let fares = healthy(3);
    assert_eq!((&fares["Healthy"], &fares["FailureTolerance"]), (&true.into(), &1.into()));
    let leader = fares["Servers"].as_array().unwrap().iter().find(|server| server["Leader"] == true).unwrap();
    assert_eq!((&leader["SerfStatus"], &leader["LastContact"]), (&"alive".into(), &"0s".into()));

    // The configuration is the same for all, and is changed with care.
    let default = http.json("/v1/operator/autopilot/configuration").unwrap();
    assert_eq!(
        default,
        json!({
            "CleanupDeadServers": true, "LastContactThreshold": "200ms", "MaxTrailingLogs": 250, "MinQuorum": 0,
            "ServerStabilizationTime": "10s", "RedundancyZoneTag": "", "DisableUpgradeMigration": false,
            "UpgradeVersionTag": "", "CreateIndex": 0, "ModifyIndex": 0
        })
    );
    assert_eq!(http.put("/v1/operator/autopilot/configuration?cas=7", "{}").text(), "false");
    // A loaded machine may be slow to answer, and is well all the same.
    let said = cli(
        &client,
        "operator autopilot set-config --server-stabilization-time 1s --last-contact-threshold 5s",
    );
    assert_eq!(said, "exit 0\nConfiguration updated.\n");
    let said = cli(&nodes[0].0, "operator autopilot get-config");
    assert!(
        said.contains("ServerStabilizationTime  1s\n") && said.contains("MinQuorum                0\n"),
        "{said}"
    );
    assert!(cli(&client, "operator autopilot set-config").starts_with("exit 2\n"));

    // One dies. It is told, and it keeps its vote: nobody has taken its place.
    let leader = leader["Name"].as_str().unwrap().to_owned();
    let dead = nodes.iter().position(|(node, _)| node.name != leader).unwrap();
    let name = nodes[dead].0.name.clone();
    nodes[dead].0.kill();
    let told = eventually("the dead server to be told", || {
        let (status, health) = health(http);
        let server =
            health["Servers"].as_array()?.iter().find(|server| server["Name"] == name.as_str())?.clone();
        (status == 429 && server["SerfStatus"] == "failed").then_some(health)
    });
    assert_eq!((&told["Healthy"], &told["FailureTolerance"]), (&false.into(), &0.into()));
    let said = cli(&client, "operator autopilot state");
    assert!(said.starts_with("exit 0\nHealthy            false\n"), "{said}");
    assert_eq!(configured(http).len(), 3);

    // Another comes, under another name. It learns, then votes, and then the dead one goes.
    let (newcomer, _home) = start("d", &["--server"], &join);
    eventually("the dead server to be replaced", || {
        let servers = configured(http);
        let gone = servers.iter().all(|(server, votes)| *server != name && *votes);
        (gone && servers.len() == 3).then_some(())
    });
    assert_eq!(healthy(3)["FailureTolerance"], 1);
    assert!(newcomer.http().set("k", "v"));
    let state = http.json("/v1/operator/autopilot/state").unwrap();
    assert_eq!((state["Voters"].as_array().unwrap().len(), &state["Healthy"]), (3, &true.into()));
    assert!(state["Servers"][state["Leader"].as_str().unwrap()]["Status"] == "leader", "{state}");

    let usage = http.json("/v1/operator/usage").unwrap();
    assert_eq!((&usage["KnownLeader"], &usage["Usage"]["dc1"]["Keys"]), (&true.into(), &1.into()));
}
