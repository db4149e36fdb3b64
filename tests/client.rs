//! A client agent among three real servers: it keeps nothing, votes for nobody, and answers as a server does.

#![allow(clippy::disallowed_methods)]

mod common;

use std::sync::mpsc;
use std::thread;

use common::{Home, Http, Node, PATIENCE, QUICK, contract, eventually, text_of};
use hyper::Method;

/// Gossip that notices within seconds who is gone and who is back.
const GOSSIP: &str = "[gossip]\nprobe_period_ms = 500\nprobe_timeout_ms = 250\nreconnect_interval_ms = 500\n";

/// A node with its directory and, once it has been up, its ports.
struct Place {
    name: &'static str,
    home: Home,
    at: Option<common::Listening>,
    node: Option<Node>,
}

/// Three servers and a client.
struct Cluster {
    servers: Vec<Place>,
    client: Place,
}

impl Place {
    fn new(name: &'static str, config: &str) -> Place {
        let home = Home::new();
        home.file("config.toml", &format!("{QUICK}{config}{GOSSIP}"));
        Place { name, home, at: None, node: None }
    }

    fn up(&mut self, more: &[&str], join: &[String]) {
        let (config, data) = (text_of(&self.home.path("config.toml")), text_of(&self.home.data()));
        let ports = self.home.ports(self.at);
        let mut args = vec!["--config", &config, "--data-dir", &data];
        args.extend(more);
        args.extend(ports.iter().map(String::as_str));
        for addr in join {
            args.extend(["--retry-join", addr]);
        }
        let node = Node::start(self.name, &args);
        self.at = Some(node.at);
        self.node = Some(node);
    }

    fn http(&self) -> &Http {
        self.node.as_ref().expect("a node that is up").http()
    }
}

impl Cluster {
    fn start(config: &str) -> Cluster {
        let servers = ["a", "b", "c"].map(|name| Place::new(name, config)).into();
        let mut cluster = Cluster { servers, client: Place::new("d", config) };
        for i in 0..3 {
            cluster.up(i);
        }
        let join = cluster.gossip();
        cluster.client.up(&[], &join);
        for place in cluster.servers.iter().chain([&cluster.client]) {
            eventually("three voters and a leader", || {
                (place.http().voters() == 3 && place.http().leader().is_some()).then_some(())
            });
            eventually("four members", || {
                let members = place.http().json("/v1/agent/members")?;
                (members.as_array()?.iter().filter(|member| member["Status"] == 1).count() == 4).then_some(())
            });
        }
        cluster
    }

    fn gossip(&self) -> Vec<String> {
        self.servers.iter().filter_map(|place| Some(place.at?.gossip.to_string())).collect()
    }

    /// Starts a server: at the ports it had before, if it had any.
    fn up(&mut self, i: usize) {
        let join = self.gossip();
        self.servers[i].up(&["--server", "--bootstrap-expect", "3"], &join);
    }

    fn rpc(&self) -> Vec<std::net::SocketAddr> {
        self.servers.iter().filter_map(|place| place.at?.rpc).collect()
    }

    fn client(&self) -> &Http {
        self.client.http()
    }
}

#[test]
fn the_script_gets_the_same_answers_through_a_client() {
    let cluster = Cluster::start("");
    let golden = include_str!("snapshots/http__the_script_gets_its_golden_answers.snap");
    let transcript = contract::transcript(cluster.client.node.as_ref().unwrap(), &cluster.rpc());
    let (golden, here) = (contract::parts(golden), contract::parts(&transcript));
    assert_eq!(golden.len(), here.len());
    let mut differ = Vec::new();
    for ((title, golden), (_, here)) in golden.iter().zip(&here) {
        if golden.trim_end() != here.trim_end() {
            differ.push(*title);
        }
    }
    // Where it matters how many servers there are, and who asks.
    assert_eq!(differ, ["status", "the operator"], "{transcript}");
    let http = cluster.client();
    // The script took one of them out; it is alive, so it comes back. The client is never taken for one.
    eventually("three voters", || {
        let configuration = http.json("/v1/operator/raft/configuration")?;
        let servers = configuration["Servers"].as_array()?;
        assert!(servers.iter().all(|server| server["Node"] != "d"), "{servers:?}");
        (servers.len() == 3 && servers.iter().all(|server| server["Voter"] == true)).then_some(())
    });
    // Whoever leads cannot be its own heir.
    let rpc_of = |server: usize| cluster.servers[server].at.unwrap().rpc().to_string();
    let leader = http.leader().expect("a leader");
    let (heir, name) = if rpc_of(1) == leader { (2, "c") } else { (1, "b") };
    let path = format!("/v1/operator/raft/transfer-leader?id={name}");
    let answer = http.call(Method::POST, &path, "").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "{\"Success\":true}"));
    eventually("the heir leads", || (http.leader()? == rpc_of(heir)).then_some(()));
}

#[test]
fn a_client_describes_itself_and_leaves() {
    let mut cluster = Cluster::start("");
    let this = cluster.client().json("/v1/agent/self").unwrap();
    assert_eq!(this["Config"]["Server"], false);
    assert_eq!(this["Stats"]["consul"]["server"], "false");
    assert_eq!(this["Stats"]["consul"]["known_servers"], "3");
    assert!(this["Stats"].get("raft").is_none());
    let tags = &this["Member"]["Tags"];
    assert_eq!((&tags["role"], &tags["id"]), (&"node".into(), &this["Config"]["NodeID"]));
    let members = cluster.client().json("/v1/agent/members").unwrap();
    assert!(members.as_array().unwrap().contains(&this["Member"]));
    // In the wide area only servers meet.
    let wide = cluster.client().json("/v1/agent/members?wan=1").unwrap();
    let wide: Vec<&str> =
        wide.as_array().unwrap().iter().filter_map(|member| member["Name"].as_str()).collect();
    assert_eq!(wide, ["a.dc1", "b.dc1", "c.dc1"]);

    // A client that is told to stop leaves; its id outlives that.
    let mut node = cluster.client.node.take().unwrap();
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
    let server = &cluster.servers[0];
    eventually("left", || (server.http().status_of("d") == Some(3)).then_some(()));
    assert_eq!(server.http().voters(), 3);
    let join = cluster.gossip();
    cluster.client.up(&[], &join);
    let again = eventually("the agent", || cluster.client().json("/v1/agent/self"));
    assert_eq!(again["Config"]["NodeID"], this["Config"]["NodeID"]);
    eventually("alive again", || (cluster.servers[0].http().status_of("d") == Some(1)).then_some(()));
    eventually("a write", || cluster.client().set("back", "v").then_some(()));

    // A server that is told to stop is missed instead.
    let mut node = cluster.servers[2].node.take().unwrap();
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
    eventually("failed", || (cluster.client().status_of("c") == Some(4)).then_some(()));
    assert_eq!(cluster.client().voters(), 3);
}

#[test]
fn servers_die_one_by_one_and_come_back() {
    let mut cluster = Cluster::start("[raft]\nrequest_timeout_ms = 4000\n");
    assert!(cluster.client().set("k", "1"));
    let seen = cluster.client().get("/v1/kv/k");
    let index = seen.header("x-consul-index").unwrap().to_owned();
    let addr = cluster.client.at.unwrap().http;
    let (sender, woken) = mpsc::channel();
    thread::spawn(move || sender.send(Http::new(addr).get(&format!("/v1/kv/k?raw&index={index}&wait=120s"))));

    // One may die, whichever it is: nothing fails but what is under way, and that is tried again.
    cluster.servers[0].node = None;
    for i in 0..5 {
        assert!(cluster.client().set(&format!("one-less-{i}"), "v"), "write {i}");
        assert_eq!(cluster.client().value(&format!("one-less-{i}")).as_deref(), Some("v"));
    }
    // Who waited at the one that died waits on at another.
    assert!(woken.try_recv().is_err());
    assert!(cluster.client().set("k", "2"));
    assert_eq!(woken.recv_timeout(PATIENCE).unwrap().text(), "2");

    // Without a majority nothing is acknowledged, and it is said why.
    cluster.servers[1].node = None;
    eventually("no leader", || {
        let read = cluster.client().get("/v1/kv/k");
        (read.status == 500 && read.text().starts_with("No cluster leader")).then_some(())
    });
    assert!(!cluster.client().set("no-majority", "v"));

    cluster.servers[2].node = None;
    for name in ["a", "b", "c"] {
        eventually("all failed", || (cluster.client().status_of(name) == Some(4)).then_some(()));
    }
    let read = cluster.client().get("/v1/kv/k");
    assert_eq!((read.status, read.text().as_str()), (500, "No known Consul servers"));
    let written = cluster.client().put("/v1/kv/k", "x");
    assert_eq!((written.status, written.text().as_str()), (500, "No known Consul servers"));
    assert_eq!(written.header("x-driftline-outcome"), Some("refused"));
    assert_eq!(cluster.client().get("/v1/status/leader").text(), "No known Consul servers");

    for i in 0..3 {
        cluster.up(i);
    }
    eventually("everything as before", || (cluster.client().value("k")? == "2").then_some(()));
    assert!(cluster.client().set("k", "3"));
    assert_eq!(cluster.client().value("no-majority"), None);
}
