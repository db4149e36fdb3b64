//! Client libraries that were written for Consul, unmodified, against a real agent.
//!
//! Each has a script in `tests/clients` that uses it as its users do and fails with a message. The libraries are
//! installed by `.ci/clients`; a test whose library is missing fails and says so.

#![allow(clippy::disallowed_methods)]

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{ANY_PORTS, Home, Http, Node, eventually};

/// Where `.ci/clients` puts things: beside what Cargo builds.
fn installed(path: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target folder");
    let path = target.join("clients").join(path);
    assert!(path.exists(), "{} is missing: run .ci/clients, which installs it", path.display());
    path
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

fn agent() -> Node {
    let node = Node::start("a", &[&["--dev"], &ANY_PORTS[..]].concat());
    eventually("a leader", || node.http().leader());
    // The leader tells the catalog of its servers a moment later.
    eventually("the servers", || node.http().json("/v1/catalog/service/consul")?.get(0).cloned());
    node
}

/// Runs a client's script against an agent of its own, with the agent's port as its argument.
fn passes(mut client: Command) {
    let node = agent();
    client.arg(node.at.http.port().to_string());
    succeeds(client);
}

/// Runs a client's script to its end.
fn succeeds(mut client: Command) {
    let output = client.output().expect("the client runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    // A script that does nothing would succeed as well.
    assert!(out.trim_end().ends_with("all done"), "{out}{err}");
}

#[test]
fn py_consul_uses_keys_sessions_locks_and_transactions() {
    let mut client = Command::new(installed("python/bin/python"));
    client.arg(script("py_consul.py"));
    passes(client);
}

#[test]
fn node_consul_uses_keys_sessions_locks_and_transactions() {
    let mut client = Command::new("node");
    client.env("NODE_PATH", installed("node/node_modules")).arg(script("node_consul.js"));
    installed("node/node_modules/consul/package.json");
    passes(client);
}

#[test]
fn py_consul_uses_nodes_services_checks_and_health() {
    let mut client = Command::new(installed("python/bin/python"));
    client.arg(script("py_consul_catalog.py"));
    passes(client);
}

#[test]
fn the_crate_rs_consul_uses_keys_locks_catalog_and_health() {
    passes(Command::new(installed("rust/debug/rs_consul")));
}

#[test]
fn the_crate_consulrs_uses_keys_sessions_services_checks_and_the_catalog() {
    passes(Command::new(installed("rust/debug/consulrs")));
}

/// Kills it when the test ends, however it does.
struct Scraper(Child);

impl Drop for Scraper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A scraper that is configured as Prometheus is (`consul_sd_configs`) finds what is registered, with its tags and
/// health, and loses what is deregistered. It asks `/v1/agent/self`, `/v1/catalog/services` and
/// `/v1/health/service/NAME`, and waits by index. This is `vmagent`: Debian builds Prometheus without `consul_sd`.
#[test]
fn a_scraper_of_prometheus_targets_discovers_services() {
    let node = agent();
    let folder = tempfile::tempdir().unwrap();
    let register = |id: &str, port: u16| {
        let body =
            format!(r#"{{"ID":"{id}","Name":"web","Port":{port},"Tags":["blue"],"Meta":{{"team":"x"}}}}"#);
        assert_eq!(node.http().put("/v1/agent/service/register", body).status, 200);
    };
    register("web-1", 9101);
    let listen = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap();
    let configuration = format!(
        "scrape_configs:\n- job_name: found\n  consul_sd_configs:\n  - server: '127.0.0.1:{}'\n",
        node.at.http.port()
    );
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, configuration).unwrap();
    let child = Command::new("vmagent")
        .arg(format!("-promscrape.config={}", file.display()))
        .arg("-promscrape.consulSDCheckInterval=1s")
        .arg(format!("-remoteWrite.tmpDataPath={}", folder.path().join("queue").display()))
        // Nobody takes what it scrapes: only what it finds is looked at.
        .arg("-remoteWrite.url=http://127.0.0.1:1/")
        .arg(format!("-httpListenAddr={listen}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("vmagent is missing: run .ci/clients, which installs it");
    let _scraper = Scraper(child);
    let scraper = Http::new(listen);
    let targets = || -> Option<Vec<serde_json::Value>> {
        let answer = scraper.json("/api/v1/targets?state=active")?;
        answer["data"]["activeTargets"].as_array().cloned()
    };
    let of = |port: u16| {
        let targets = targets()?;
        let at = format!("127.0.0.1:{port}");
        targets.into_iter().find(|target| target["labels"]["instance"] == at.as_str())
    };
    let target = eventually("a target", || of(9101));
    let found = &target["discoveredLabels"];
    assert_eq!(found["__meta_consul_service"], "web", "{found}");
    assert_eq!(found["__meta_consul_service_id"], "web-1", "{found}");
    assert_eq!(found["__meta_consul_tags"], ",blue,", "{found}");
    assert_eq!(found["__meta_consul_service_metadata_team"], "x", "{found}");
    assert_eq!(found["__meta_consul_node"], "a", "{found}");
    assert_eq!(found["__meta_consul_health"], "passing", "{found}");
    register("web-2", 9102);
    eventually("the second target", || of(9102));
    assert_eq!(node.http().put("/v1/agent/service/deregister/web-1", "").status, 200);
    eventually("the first target is gone", || of(9101).is_none().then_some(()));
}

#[test]
fn py_consul_uses_tokens_policies_and_roles() {
    // As a client library's users may write it: not a UUID.
    let root = "1f2e3d4c5b6a79880123456789abcdef";
    let home = Home::new();
    let acl = format!("[acl]\nenabled = true\n[acl.tokens]\ninitial_management = '{root}'\n");
    let config = home.file("acl.toml", &acl);
    let ports = ["--dev", "--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"];
    let node = Node::start("a", &[&ports[..], &["--config", &config]].concat());
    eventually("the token", || node.http().showing(root).json("/v1/acl/token/self"));
    let mut client = Command::new(installed("python/bin/python"));
    client.arg(script("py_consul_acl.py")).arg(node.at.http.port().to_string()).arg(root);
    succeeds(client);
}
