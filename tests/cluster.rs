//! Three real servers on this machine: no acknowledged write is lost, whoever is killed.

#![allow(clippy::disallowed_methods)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use common::{Home, Http, Listening, Node, QUICK, eventually, text_of};
use hyper::Method;

/// A server with its directory and, once it has been up, its ports.
struct Server {
    name: &'static str,
    home: Home,
    at: Option<Listening>,
    node: Option<Node>,
}

struct Cluster {
    servers: Vec<Server>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Cluster {
    /// Founds a cluster of three and waits until all of them vote.
    fn start(config: &str) -> Cluster {
        let mut cluster = Cluster { servers: Vec::new() };
        for name in NAMES {
            let home = Home::new();
            home.file("config.toml", &format!("{QUICK}{config}"));
            cluster.servers.push(Server { name, home, at: None, node: None });
        }
        for i in 0..cluster.servers.len() {
            cluster.up(i);
        }
        cluster.settle();
        cluster
    }

    /// Starts a server: at the ports it had before, if it had any.
    fn up(&mut self, i: usize) {
        let known: Vec<String> =
            self.servers.iter().filter_map(|server| Some(server.at?.gossip.to_string())).collect();
        let server = &mut self.servers[i];
        let (config, data) = (text_of(&server.home.path("config.toml")), text_of(&server.home.data()));
        let ports = server.home.ports(server.at);
        let mut args = vec!["--config", &config, "--data-dir", &data, "--server", "--bootstrap-expect", "3"];
        args.extend(ports.iter().map(String::as_str));
        for addr in &known {
            args.extend(["--retry-join", addr]);
        }
        let node = Node::start(server.name, &args);
        server.at = Some(node.at);
        server.node = Some(node);
    }

    fn kill(&mut self, i: usize) {
        self.servers[i].node = None;
    }

    fn node(&self, i: usize) -> &Node {
        self.servers[i].node.as_ref().expect("a server that is up")
    }

    fn http(&self, i: usize) -> &Http {
        self.node(i).http()
    }

    fn ups(&self) -> impl Iterator<Item = usize> {
        (0..self.servers.len()).filter(|i| self.servers[*i].node.is_some())
    }

    /// Waits until all servers that are up agree on a leader among them and on three voters.
    fn settle(&self) {
        eventually("a leader known to all", || {
            let leaders: Vec<String> = self.ups().filter_map(|i| self.http(i).leader()).collect();
            let alive =
                self.ups().any(|i| Some(self.node(i).at.rpc().to_string()) == leaders.first().cloned());
            let agree =
                leaders.len() == self.ups().count() && leaders.iter().all(|leader| *leader == leaders[0]);
            let voters = self.ups().all(|i| self.http(i).voters() == 3);
            (alive && agree && voters).then_some(())
        });
    }

    fn leader(&self) -> usize {
        eventually("a leader that is up", || {
            let leader = self.ups().find_map(|i| self.http(i).leader())?;
            self.ups().find(|i| self.node(*i).at.rpc().to_string() == leader)
        })
    }

    /// Waits until a key has this value in every server's own state.
    fn everywhere(&self, key: &str, value: &str) {
        for i in self.ups() {
            eventually(&format!("{key} at {}", self.servers[i].name), || {
                (self.http(i).local_value(key).as_deref() == Some(value)).then_some(())
            });
        }
    }
}

/// A client that writes one key after another and remembers which writes were acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(at: Listening, prefix: &'static str) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let http = Http::new(at.http);
            let mut acknowledged = Vec::new();
            for i in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("{prefix}/{i}");
                if http.set(&key, &key) {
                    acknowledged.push(key);
                }
            }
            acknowledged
        });
        Writer { stop, thread }
    }

    fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer ends")
    }
}

#[test]
fn writes_through_any_server_are_read_at_all() {
    let cluster = Cluster::start("");
    for i in 0..3 {
        let key = format!("through-{i}");
        assert!(cluster.http(i).set(&key, "x"));
        for j in 0..3 {
            assert_eq!(cluster.http(j).value(&key).as_deref(), Some("x"), "written at {i}, read at {j}");
        }
    }
    for i in 0..3 {
        for name in NAMES {
            eventually("everyone alive everywhere", || {
                (cluster.http(i).status_of(name) == Some(1)).then_some(())
            });
        }
    }
}

#[test]
fn no_acknowledged_write_is_lost_when_the_leader_is_killed() {
    let mut cluster = Cluster::start("");
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let writers = [
        Writer::start(cluster.node(others[0]).at, "one"),
        Writer::start(cluster.node(others[1]).at, "two"),
        Writer::start(cluster.node(leader).at, "lead"),
    ];
    for prefix in ["one", "two", "lead"] {
        cluster.everywhere(&format!("{prefix}/5"), &format!("{prefix}/5"));
    }
    cluster.kill(leader);
    let next = cluster.leader();
    assert_ne!(next, leader);
    assert!(cluster.http(next).set("after", "the kill"));
    cluster.up(leader);
    cluster.settle();
    let acknowledged: Vec<String> = writers.into_iter().flat_map(Writer::finish).collect();
    assert!(acknowledged.len() > 15);
    for key in &acknowledged {
        cluster.everywhere(key, key);
    }
    cluster.everywhere("after", "the kill");
}

#[test]
fn a_cluster_whose_servers_all_stop_comes_back_with_everything() {
    let mut cluster = Cluster::start("");
    assert!(cluster.http(0).set("k", "v"));
    for i in 0..3 {
        cluster.kill(i);
    }
    for i in 0..3 {
        cluster.up(i);
    }
    cluster.settle();
    assert_eq!(cluster.http(1).value("k").as_deref(), Some("v"));
    assert!(cluster.http(2).set("k", "w"));
    cluster.everywhere("k", "w");
}

#[test]
fn servers_that_come_back_at_other_ports_are_found() {
    let mut cluster = Cluster::start("");
    assert!(cluster.http(0).set("k", "v"));
    cluster.kill(1);
    cluster.servers[1].at = None;
    cluster.up(1);
    cluster.settle();
    assert!(cluster.http(1).set("k", "w"));
    cluster.everywhere("k", "w");

    for i in 0..3 {
        cluster.kill(i);
        cluster.servers[i].at = None;
    }
    for i in 0..3 {
        cluster.up(i);
    }
    cluster.settle();
    assert_eq!(cluster.http(2).value("k").as_deref(), Some("w"));
    assert!(cluster.http(0).set("k", "x"));
    cluster.everywhere("k", "x");
}

#[test]
fn a_follower_that_was_away_catches_up_from_a_snapshot() {
    let mut cluster = Cluster::start("[raft]\nsnapshot_entries = 50\ntrailing_entries = 5\n");
    let away = (0..3).find(|i| *i != cluster.leader()).expect("a follower");
    cluster.kill(away);
    let through = cluster.leader();
    for i in 0..300 {
        assert!(cluster.http(through).set(&format!("k{}", i % 40), &i.to_string()));
    }
    cluster.up(away);
    cluster.settle();
    for i in 260..300 {
        cluster.everywhere(&format!("k{}", i % 40), &i.to_string());
    }
}

#[test]
fn a_wiped_server_catches_up() {
    let mut cluster = Cluster::start("[raft]\nsnapshot_entries = 50\ntrailing_entries = 5\n");
    for i in 0..200 {
        assert!(cluster.http(0).set(&format!("k{}", i % 40), &i.to_string()));
    }
    // A loaded machine is slow to answer; its newcomer may vote all the same.
    let patient = r#"{"ServerStabilizationTime":"1s","LastContactThreshold":"10s"}"#;
    assert_eq!(cluster.http(0).put("/v1/operator/autopilot/configuration", patient).text(), "true");
    let wiped = (0..3).find(|i| *i != cluster.leader()).expect("a follower");
    cluster.kill(wiped);
    fs::remove_dir_all(cluster.servers[wiped].home.data()).expect("the directory goes");
    cluster.up(wiped);
    cluster.everywhere("k39", "199");
    assert!(cluster.http(wiped).set("after", "the wipe"));
    cluster.everywhere("after", "the wipe");
    cluster.settle();
    // It has another id now; who it was is not listed beside it.
    for i in 0..3 {
        let members = cluster.http(i).json("/v1/agent/members").expect("JSON");
        assert_eq!(members.as_array().expect("members").len(), 3, "{members}");
    }
    // Nor does who it was keep it here when it leaves.
    assert_eq!(cluster.http(wiped).put("/v1/agent/leave", "").status, 200);
    cluster.kill(wiped);
    for i in cluster.ups() {
        eventually("left", || (cluster.http(i).status_of(NAMES[wiped]) == Some(3)).then_some(()));
        let members = cluster.http(i).json("/v1/agent/members").expect("JSON");
        assert_eq!(members.as_array().expect("members").len(), 3, "{members}");
        eventually("not in the catalog", || {
            (cluster.http(i).json("/v1/catalog/nodes")?.as_array()?.len() == 2).then_some(())
        });
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("the directory is read").filter_map(Result::ok) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).expect("the file is copied");
        }
    }
}

#[test]
fn a_server_whose_directory_is_put_back_from_a_copy_gets_nothing_and_stops_nobody() {
    let mut cluster = Cluster::start("");
    let back = (0..3).find(|i| *i != cluster.leader()).expect("a follower");
    assert!(cluster.http(back).set("k", "0"));
    let (data, kept) = (cluster.servers[back].home.data(), cluster.servers[back].home.path("kept"));
    cluster.kill(back);
    copy(&data, &kept);
    cluster.up(back);
    cluster.settle();
    for i in 1..20 {
        assert!(cluster.http(back).set("k", &i.to_string()));
    }
    cluster.everywhere("k", "19");
    cluster.kill(back);
    let leader = cluster.leader();
    fs::remove_dir_all(&data).expect("the directory goes");
    copy(&kept, &data);
    cluster.up(back);
    eventually("the leader says what is wrong", || {
        cluster
            .node(leader)
            .log()
            .contains("misses entries of the log that it has acknowledged")
            .then_some(())
    });
    assert!(cluster.http(leader).set("k", "20"), "the others go on");
    assert_eq!(cluster.leader(), leader);
    cluster.kill(back);
    fs::remove_dir_all(&data).expect("the directory goes");
    cluster.up(back);
    cluster.everywhere("k", "20");
}

#[test]
fn a_failed_server_that_is_pruned_is_nowhere_any_more() {
    let mut cluster = Cluster::start("");
    let dead = (0..3).find(|i| *i != cluster.leader()).expect("a follower");
    cluster.kill(dead);
    let rest: Vec<usize> = cluster.ups().collect();
    for i in &rest {
        eventually("failed", || (cluster.http(*i).status_of(NAMES[dead]) == Some(4)).then_some(()));
    }
    let path = format!("/v1/agent/force-leave/{}?prune", NAMES[dead]);
    assert_eq!(cluster.http(rest[0]).put(&path, "").status, 200);
    for i in rest {
        eventually("not listed", || cluster.http(i).status_of(NAMES[dead]).is_none().then_some(()));
        eventually("two voters", || (cluster.http(i).voters() == 2).then_some(()));
        eventually("not in the catalog", || {
            let nodes = cluster.http(i).json("/v1/catalog/nodes")?;
            (nodes.as_array()?.len() == 2).then_some(())
        });
        let checks = cluster.http(i).json(&format!("/v1/health/node/{}", NAMES[dead])).expect("JSON");
        assert_eq!(checks, serde_json::json!([]));
    }
    // It may come back, which is news.
    cluster.up(dead);
    cluster.settle();
}

#[test]
fn a_server_that_leaves_is_shown_as_left_and_the_rest_go_on() {
    let mut cluster = Cluster::start("");
    let leaver = cluster.leader();
    let rest: Vec<usize> = (0..3).filter(|i| *i != leaver).collect();
    assert_eq!(cluster.http(leaver).put("/v1/agent/leave", "").status, 200);
    let mut node = cluster.servers[leaver].node.take().expect("up");
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
    for i in &rest {
        eventually("left", || (cluster.http(*i).status_of(NAMES[leaver]) == Some(3)).then_some(()));
        eventually("two voters", || (cluster.http(*i).voters() == 2).then_some(()));
    }
    let written = cluster.http(rest[0]).put("/v1/kv/k", "v");
    assert_eq!((written.status, written.text().as_str()), (200, "true"));
    cluster.everywhere("k", "v");
}

#[test]
fn leadership_moves_to_the_server_that_is_named() {
    let cluster = Cluster::start("");
    let heir = (0..3).find(|i| *i != cluster.leader()).expect("a follower");
    // Whoever is asked: the leader hears of it.
    let path = format!("/v1/operator/raft/transfer-leader?id={}", NAMES[heir]);
    let answer = cluster.http(heir).call(Method::POST, &path, "").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "{\"Success\":true}"));
    let heir_addr = cluster.node(heir).at.rpc().to_string();
    for i in 0..3 {
        eventually("the heir leads", || {
            (cluster.http(i).leader().as_deref() == Some(&heir_addr)).then_some(())
        });
    }
    // Anyone will do if nobody is named.
    let answer = cluster.http(0).call(Method::POST, "/v1/operator/raft/transfer-leader", "");
    assert_eq!(answer.expect("an answer").status, 200);
    cluster.settle();
    assert!(cluster.http(heir).set("k", "v"));
}

#[test]
fn a_dead_server_can_be_taken_out_of_the_configuration() {
    let mut cluster = Cluster::start("");
    let dead = (0..3).find(|i| *i != cluster.leader()).expect("a follower");
    let address = cluster.node(dead).at.rpc();
    cluster.kill(dead);
    let rest: Vec<usize> = cluster.ups().collect();
    for i in &rest {
        eventually("failed", || (cluster.http(*i).status_of(NAMES[dead]) == Some(4)).then_some(()));
    }
    let path = format!("/v1/operator/raft/peer?address={address}");
    let answer = cluster.http(rest[0]).call(Method::DELETE, &path, "").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    for i in rest {
        let configuration = cluster.http(i).json("/v1/operator/raft/configuration").expect("JSON");
        let servers = configuration["Servers"].as_array().expect("servers");
        let names: Vec<&str> = servers.iter().filter_map(|server| server["Node"].as_str()).collect();
        assert_eq!(names.len(), 2, "{configuration}");
        assert!(!names.contains(&NAMES[dead]), "{configuration}");
        assert_eq!(servers.iter().filter(|server| server["Leader"] == true).count(), 1, "{configuration}");
        assert!(servers.iter().all(|server| server["Voter"] == true), "{configuration}");
    }
}

#[test]
fn a_killed_server_is_shown_as_failed_and_alive_again_when_it_is_back() {
    let mut cluster = Cluster::start("");
    let victim = (0..3).find(|i| *i != cluster.leader()).expect("a follower");
    cluster.kill(victim);
    for i in cluster.ups() {
        eventually("failed", || (cluster.http(i).status_of(NAMES[victim]) == Some(4)).then_some(()));
    }
    cluster.up(victim);
    for i in cluster.ups() {
        eventually("alive", || (cluster.http(i).status_of(NAMES[victim]) == Some(1)).then_some(()));
    }
    cluster.settle();
}

#[test]
fn an_event_reaches_every_member() {
    let cluster = Cluster::start("");
    assert_eq!(cluster.http(0).put("/v1/event/fire/deploy", "now").status, 200);
    for i in 0..3 {
        eventually("the event", || {
            let list = cluster.http(i).json("/v1/event/list?name=deploy")?;
            (list.as_array()?.len() == 1).then_some(())
        });
    }
}

#[test]
fn without_a_majority_nothing_is_acknowledged() {
    let mut cluster = Cluster::start("[raft]\nrequest_timeout_ms = 1500\n");
    assert!(cluster.http(0).set("k", "v"));
    let leader = cluster.leader();
    for i in (0..3).filter(|i| *i != leader) {
        cluster.kill(i);
    }
    let answer = cluster.http(leader).put("/v1/kv/k", "w");
    assert_eq!(answer.status, 500);
    let outcome = answer.header("x-driftline-outcome");
    assert!(matches!(outcome, Some("unknown" | "refused")), "{answer:?}");
    let read = cluster.http(leader).get("/v1/kv/k?consistent");
    assert_eq!(read.status, 500);
    let stale = cluster.http(leader).get("/v1/kv/k?stale&raw");
    assert_eq!(stale.status, 200);
    // Whom nobody follows does not lead, whatever it thinks.
    eventually("no leader", || nobody_leads(cluster.http(leader)));
}

/// Whether a server says that there is no leader, wherever it is asked.
fn nobody_leads(http: &Http) -> Option<()> {
    let known = http.get("/v1/kv/k?stale").header("x-consul-knownleader") == Some("true");
    let configuration = http.json("/v1/operator/raft/configuration?stale")?;
    let servers = configuration["Servers"].as_array()?;
    let none = http.leader().is_none() && !known && servers.iter().all(|server| server["Leader"] == false);
    none.then_some(())
}

#[test]
fn a_leader_that_died_with_the_majority_is_not_named_any_more() {
    let mut cluster = Cluster::start("[raft]\nrequest_timeout_ms = 1500\n");
    assert!(cluster.http(0).set("k", "v"));
    let leader = cluster.leader();
    let left = (leader + 1) % 3;
    for i in (0..3).filter(|i| *i != left) {
        cluster.kill(i);
    }
    eventually("no leader", || nobody_leads(cluster.http(left)));
    let change = cluster.http(left).call(Method::POST, "/v1/operator/raft/transfer-leader", "").unwrap();
    assert!(change.status == 500 && change.text().contains("No cluster leader"), "{}", change.text());
}

#[test]
fn a_second_signal_ends_a_server_that_cannot_leave() {
    let mut cluster = Cluster::start("leave_on_terminate = true\n");
    cluster.kill(1);
    cluster.kill(2);
    let mut node = cluster.servers[0].node.take().expect("up");
    node.signal("TERM");
    eventually("it to begin to leave", || node.log().contains("leaving the cluster").then_some(()));
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(1));
    assert!(node.log().contains("second signal"), "{}", node.log());
}
