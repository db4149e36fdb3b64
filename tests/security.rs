//! Real servers that keep strangers out: encrypted gossip, and keys that are changed while clients write.

#![allow(clippy::disallowed_methods)]

mod common;

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Home, Http, Node, QUICK, driftline, eventually, run, shown, text_of};
use hyper::Method;
use serde_json::json;

/// A file that only its owner may read.
fn secret(home: &Home, name: &str, text: &str) -> String {
    let file = home.file(name, text);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn keygen() -> String {
    let made = run(&["keygen"]);
    assert!(made.status.success());
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// Starts a node whose gossip is encrypted with `key`, if it is to be, and which looks for the others.
fn start(home: &Home, name: &str, key: Option<&str>, more: &[&str], others: &[&Node]) -> Node {
    let mut text = QUICK.to_owned();
    if let Some(key) = key {
        let file = secret(home, &format!("{name}.key"), key);
        text += &format!("encrypt_file = {file:?}\n");
    }
    let config = home.file(&format!("{name}.toml"), &text);
    let data = text_of(&home.path(name));
    let mut args = vec!["--config", &config, "--data-dir", &data];
    args.extend(["--http-port", "0", "--rpc-port", "0"]);
    if !more.contains(&"--gossip-port") {
        args.extend(["--gossip-port", "0"]);
    }
    args.extend(more);
    let others: Vec<String> = others.iter().map(|node| node.at.gossip.to_string()).collect();
    for addr in &others {
        args.extend(["--retry-join", addr]);
    }
    Node::start(name, &args)
}

fn servers(home: &Home, key: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for name in ["a", "b", "c"] {
        let others: Vec<&Node> = nodes.iter().collect();
        let node = start(home, name, Some(key), &["--server", "--bootstrap-expect", "3"], &others);
        nodes.push(node);
    }
    eventually("three voters", || nodes.iter().all(|node| node.http().voters() == 3).then_some(()));
    nodes
}

#[test]
fn keys_are_changed_while_clients_write_and_a_stranger_never_gets_in() {
    let home = Home::new();
    let (old, new) = (keygen(), keygen());
    let mut nodes = servers(&home, &old);
    let client = start(&home, "d", Some(&old), &[], &nodes.iter().collect::<Vec<_>>());
    eventually("the client is a member", || (nodes[0].http().status_of("d") == Some(1)).then_some(()));
    nodes.push(client);
    let this = nodes[3].http().json("/v1/agent/self").unwrap();
    assert_eq!(this["Stats"]["serf_lan"]["encrypted"], "true");
    assert!(!this.to_string().contains(&old), "the key is shown");

    // Clients write all the while.
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(i, node)| {
            let (done, http) = (done.clone(), node.at.http);
            thread::spawn(move || {
                let http = Http::new(http);
                let mut written = 0;
                while !done.load(Ordering::Relaxed) {
                    assert!(http.set(&format!("{i}/{written}"), "x"), "write {written} through node {i}");
                    written += 1;
                }
                written
            })
        })
        .collect();
    let api = nodes[3].at.http.to_string();
    let keyring = |what: &str, key: &str| {
        let file = secret(&home, "new.key", key);
        run(&["keyring", what, &format!("@{file}"), "--http-addr", &api])
    };
    let ring = || nodes[1].http().json("/v1/operator/keyring").unwrap()[0].clone();
    assert_eq!(ring()["NumNodes"], 4);
    assert_eq!(ring()["PrimaryKeys"], json!({ &old: 4 }));
    let early = keyring("use", &new);
    assert!(shown(&early).contains("requested key is not in the keyring"), "{}", shown(&early));
    assert!(keyring("install", &new).status.success());
    assert_eq!(ring()["Keys"], json!({ &old: 4, &new: 4 }));
    assert!(keyring("use", &new).status.success());
    let primary = keyring("remove", &new);
    assert!(shown(&primary).contains("removing the primary key is not allowed"), "{}", shown(&primary));
    assert!(keyring("remove", &old).status.success());
    assert_eq!(ring()["Keys"], json!({ &new: 4 }));
    let listed = shown(&run(&["keyring", "list", "--http-addr", &api]));
    assert!(listed.contains(&new) && listed.contains("Encrypts with it"), "{listed}");

    // What comes with the old key, or with none, stays outside and is told why; the log says so once.
    let voters: Vec<&Node> = nodes.iter().take(3).collect();
    let strangers =
        [start(&home, "old", Some(&old), &[], &voters), start(&home, "plain", None, &[], &voters)];
    for (stranger, why) in
        strangers.iter().zip(["does not have the key", "takes nothing that is not encrypted"])
    {
        let join = format!("/v1/agent/join/{}", nodes[0].at.gossip);
        let refused = stranger.http().put(&join, "");
        assert!(refused.status == 500 && refused.text().contains(why), "{}", refused.text());
    }
    let kept_out = "a stranger to this cluster's gossip is kept out";
    eventually("the stranger is spoken of", || nodes[0].log().contains(kept_out).then_some(()));
    done.store(true, Ordering::Relaxed);
    let written: Vec<usize> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    for node in &nodes {
        // All of them come from one address of this machine.
        assert!(node.log().matches(kept_out).count() <= 1, "said more than once");
        assert!(!node.log().contains(&old) && !node.log().contains(&new), "a key in the log");
        assert_eq!(node.http().json("/v1/agent/members").unwrap().as_array().unwrap().len(), 4);
        for other in ["a", "b", "c", "d"] {
            assert_eq!(node.http().status_of(other), Some(1), "{other}");
        }
    }
    for (i, written) in written.iter().enumerate() {
        let keys = nodes[0].http().json(&format!("/v1/kv/{i}/?keys")).unwrap();
        assert!(*written > 0 && keys.as_array().unwrap().len() == *written, "node {i}");
    }
    // The keyring outlives the process, and nobody else may read it.
    let file = home.path("a").join("keyring");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let gossip = nodes[0].at.gossip.port().to_string();
    drop(nodes.remove(0));
    let again = start(&home, "a", Some(&old), &["--server", "--gossip-port", &gossip], &[&nodes[0]]);
    eventually("the server is back with the new key", || {
        (again.http().status_of("d") == Some(1) && nodes[0].http().status_of("a") == Some(1)).then_some(())
    });
}

#[test]
fn without_encryption_there_is_no_keyring() {
    let node = Node::start("solo", &["--dev", "--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"]);
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
        let body = json!({ "Key": keygen() }).to_string();
        let refused = node.http().call(method, "/v1/operator/keyring", body).unwrap();
        assert_eq!(
            (refused.status, refused.text().trim()),
            (500, "keyring is empty (encryption not enabled)")
        );
    }
    let bad = |path: &str| node.http().get(path).status;
    assert_eq!(bad("/v1/operator/keyring?relay-factor=6"), 400);
    assert_eq!(bad("/v1/operator/keyring?relay-factor=x"), 400);
}

#[test]
fn a_key_that_others_may_read_or_that_is_none_is_refused() {
    let home = Home::new();
    let open = home.file("open.key", &keygen());
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let short = secret(&home, "short.key", "c2hvcnQ=");
    for (file, why) in [(open, "chmod 600"), (short, "must have 16, 24 or 32")] {
        let config = home.file("a.toml", &format!("encrypt_file = {file:?}\n"));
        let Err((_, log)) = Node::try_start("a", &["--dev", "--config", &config, "--http-port", "0"]) else {
            panic!("it starts with {file}")
        };
        assert!(log.contains(why) && !log.contains("c2hvcnQ="), "{log}");
    }
}

/// A place in which `driftline tls` has made an authority.
struct Authority {
    home: Home,
}

impl Authority {
    fn new() -> Authority {
        let authority = Authority { home: Home::new() };
        authority.tls(&["ca", "create"]);
        authority
    }

    fn tls(&self, args: &[&str]) {
        let made = driftline().arg("tls").args(args).current_dir(self.home.path("")).output().unwrap();
        assert!(made.status.success(), "{}", shown(&made));
    }

    fn file(&self, name: &str) -> String {
        text_of(&self.home.path(name))
    }

    /// Makes a certificate and gives the table of a configuration that uses it.
    fn table(&self, kind: &str) -> String {
        let number = (0..).find(|number| !self.home.path(&format!("dc1-{kind}-{number}.pem")).exists());
        self.tls(&["cert", "create", &format!("--{kind}")]);
        let stem = format!("dc1-{kind}-{}", number.unwrap());
        let [ca, cert, key] = ["driftline-ca.pem", &format!("{stem}.pem"), &format!("{stem}-key.pem")]
            .map(|name| self.file(name));
        format!(
            "[tls]\nca_file = {ca:?}\ncert_file = {cert:?}\nkey_file = {key:?}\n\
             verify_incoming = true\nverify_outgoing = true\n"
        )
    }
}

/// Starts a node with this text as its configuration.
fn configured(home: &Home, name: &str, text: &str, more: &[&str], others: &[&Node]) -> Node {
    let config = home.file(&format!("{name}.toml"), &format!("{QUICK}{text}"));
    let data = text_of(&home.path(name));
    let mut args = vec!["--config", &config, "--data-dir", &data];
    args.extend(["--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"]);
    args.extend(more);
    let others: Vec<String> = others.iter().map(|node| node.at.gossip.to_string()).collect();
    for addr in &others {
        args.extend(["--retry-join", addr]);
    }
    Node::start(name, &args)
}

#[test]
fn with_tls_a_cluster_forms_a_client_works_and_strangers_do_not() {
    let (home, ours, theirs) = (Home::new(), Authority::new(), Authority::new());
    let key = secret(&home, "gossip.key", &keygen());
    let encrypted = format!("encrypt_file = {key:?}\n");
    let mut nodes: Vec<Node> = Vec::new();
    for name in ["a", "b", "c"] {
        let others: Vec<&Node> = nodes.iter().collect();
        let text = encrypted.clone() + "https_addr = '127.0.0.1:0'\n" + &ours.table("server");
        let flags = ["--server", "--bootstrap-expect", "3"];
        let node = configured(&home, name, &text, &flags, &others);
        nodes.push(node);
    }
    eventually("three voters", || nodes.iter().all(|node| node.http().voters() == 3).then_some(()));
    let all: Vec<&Node> = nodes.iter().collect();
    let client = configured(&home, "d", &(encrypted.clone() + &ours.table("client")), &[], &all);
    eventually("a write through the client", || client.http().set("by", "client").then_some(()));
    for node in &nodes {
        eventually("it is read at every server", || {
            (node.http().value("by").as_deref() == Some("client")).then_some(())
        });
    }

    // They have the key of gossip, and are members; they have no certificate of ours, and no server talks to them.
    let bare = configured(&home, "bare", &encrypted, &[], &all);
    let foreign = configured(&home, "foreign", &(encrypted.clone() + &theirs.table("client")), &[], &all);
    for stranger in [&bare, &foreign] {
        eventually("the stranger sees servers", || (stranger.http().status_of("a") == Some(1)).then_some(()));
        assert!(!stranger.http().set("by", "stranger"));
        assert_eq!(stranger.http().local_value("by"), None);
    }
    // A client's certificate makes no server, nor does a stranger's. Who means it well is told at the start.
    let mistaken = home.file("mistaken.toml", &ours.table("client"));
    let Err((_, log)) = Node::try_start("mistaken", &["--dev", "--config", &mistaken]) else {
        panic!("it starts")
    };
    assert!(log.contains("is no server's certificate"), "{log}");
    let posing = ours.table("client") + "verify_server_hostname = false\n";
    for (name, table) in [("posing", posing), ("alien", theirs.table("server"))] {
        let poser = configured(&home, name, &(encrypted.clone() + &table), &["--server"], &all);
        eventually("the leader sees it and does not take it in", || {
            let refused = nodes.iter().any(|node| {
                let log = node.log();
                log.contains("the configuration does not follow gossip yet")
                    && log.contains(&poser.at.rpc().to_string())
            });
            refused.then_some(())
        });
        assert!(nodes.iter().all(|node| node.http().voters() == 3));
    }
    // The one without a certificate is a stranger. The other goes away by itself: to it, the servers are strangers.
    let refused = foreign.log();
    assert!(refused.contains("certificate is not vouched for by tls.ca_file here"), "{refused}");
    let kept_out: Vec<usize> =
        nodes.iter().map(|node| node.log().matches("a stranger is kept out by TLS").count()).collect();
    assert!(kept_out.iter().sum::<usize>() >= 1 && kept_out.iter().all(|times| *times <= 1), "{kept_out:?}");
    assert!(nodes.iter().all(|node| !node.log().contains("PRIVATE KEY")));

    // The API by HTTPS.
    let api = format!("https://{}", nodes[0].at.https.expect("HTTPS"));
    let ca = ours.file("driftline-ca.pem");
    let got = run(&["kv", "get", "by", "--http-addr", &api, "--ca-file", &ca]);
    assert_eq!(shown(&got), "exit 0\nclient\n");
    let put = run(&["kv", "put", "by", "hand", "--http-addr", &api, "--ca-file", &ca]);
    assert!(put.status.success(), "{}", shown(&put));
    let unknown =
        run(&["kv", "get", "by", "--http-addr", &api, "--ca-file", &theirs.file("driftline-ca.pem")]);
    assert!(shown(&unknown).contains("UnknownIssuer"), "{}", shown(&unknown));
    assert_eq!(run(&["kv", "get", "by", "--http-addr", &api]).status.code(), Some(2));
}

#[test]
fn a_check_by_tls_looks_who_answers() {
    let (home, ours, theirs) = (Home::new(), Authority::new(), Authority::new());
    let lenient = |authority: &Authority| authority.table("server").replace("true", "false");
    let flags = ["--server", "--bootstrap"];
    let https = "https_addr = '127.0.0.1:0'\n".to_owned();
    let service = configured(&home, "service", &(https + &lenient(&ours)), &flags, &[]);
    let at = service.at.https.expect("HTTPS").to_string();
    let ways = [
        json!({ "HTTP": format!("https://{at}/v1/agent/version") }),
        json!({ "TCP": at, "TCPUseTLS": true }),
    ];
    let agents = [
        configured(&home, "friend", &lenient(&ours), &flags, &[]),
        configured(&home, "stranger", &lenient(&theirs), &flags, &[]),
        configured(&home, "simple", "", &flags, &[]),
    ];
    let lookers = [
        (json!({}), ["passing", "UnknownIssuer", "no authority is known"]),
        (json!({ "TLSSkipVerify": true }), ["passing"; 3]),
        (json!({ "TLSServerName": "localhost" }), ["passing", "UnknownIssuer", "no authority is known"]),
        (json!({ "TLSServerName": "a.b" }), ["not valid for name", "UnknownIssuer", "no authority is known"]),
    ];
    let cases = lookers.iter().flat_map(|looker| ways.iter().map(move |way| (looker, way)));
    for (number, ((with, expected), way)) in cases.enumerate() {
        for (agent, expected) in agents.iter().zip(expected) {
            let id = format!("tls-{number}");
            let mut check = json!({ "ID": id, "Name": id, "Interval": "1s", "Timeout": "5s" });
            for fields in [with, way] {
                check.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            }
            let put = agent.http().put("/v1/agent/check/register", check.to_string());
            assert_eq!(put.status, 200, "{}", put.text());
            eventually("it has looked", || {
                let checks = agent.http().json("/v1/agent/checks")?;
                let output = checks[&id]["Output"].as_str()?;
                let found = if checks[&id]["Status"] == "passing" { "passing" } else { output };
                (!output.is_empty())
                    .then(|| assert!(found.contains(expected), "{id} of {}: {found}", agent.name))
            });
        }
    }
}

#[test]
fn new_certificates_are_in_force_after_a_reload() {
    let (home, ours) = (Home::new(), Authority::new());
    let table = ours.table("server").replace("true", "false") + "verify_incoming_https = true\n";
    let text = "https_addr = '127.0.0.1:0'\n".to_owned() + &table;
    let flags = ["--server", "--bootstrap"];
    let node = configured(&home, "solo", &text, &flags, &[]);
    eventually("it leads", || node.http().leader());
    let api = format!("https://{}", node.at.https.expect("HTTPS"));
    ours.tls(&["cert", "create", "--cli"]);
    let ask = |authority: &Authority| {
        let files =
            ["driftline-ca.pem", "dc1-cli-0.pem", "dc1-cli-0-key.pem"].map(|name| authority.file(name));
        let [ca, cert, key] = &files;
        let own = ["--ca-file", ca, "--client-cert", cert, "--client-key", key];
        run(&[&["status", "--http-addr", &api], &own[..]].concat())
    };
    assert!(ask(&ours).status.success(), "{}", shown(&ask(&ours)));
    let without = run(&["status", "--http-addr", &api, "--ca-file", &ours.file("driftline-ca.pem")]);
    assert!(!without.status.success(), "a certificate was demanded");
    // The other way to speak, at either port.
    let plain = node.at.https.expect("HTTPS").to_string();
    let said = shown(&run(&["status", "--http-addr", &plain]));
    assert!(said.contains("is that a port that speaks TLS? Then use https://"), "{said}");
    let plain = format!("https://{}", node.at.http);
    let said = shown(&run(&["status", "--http-addr", &plain, "--ca-file", &ours.file("driftline-ca.pem")]));
    assert!(said.contains("that port speaks no TLS: use http://"), "{said}");

    // Another authority's files under the same names.
    let theirs = Authority::new();
    theirs.table("server");
    theirs.tls(&["cert", "create", "--cli"]);
    let copy = |name: &str| {
        let (from, to): (PathBuf, PathBuf) = (theirs.home.path(name), ours.home.path(name));
        std::fs::copy(from, to).unwrap();
    };
    copy("dc1-server-0.pem");
    let bad = node.http().put("/v1/agent/reload", "");
    assert!(bad.status == 500 && bad.text().contains("do not fit"), "{}", bad.text());
    assert!(ask(&ours).status.success(), "what was in force stays");
    copy("dc1-server-0-key.pem");
    std::fs::copy(theirs.home.path("driftline-ca.pem"), ours.home.path("driftline-ca.pem")).unwrap();
    let done = node.http().put("/v1/agent/reload", "");
    assert!(done.status == 200 && done.text().contains("\"tls\""), "{}", done.text());
    assert!(ask(&theirs).status.success(), "{}", shown(&ask(&theirs)));
    assert!(!ask(&ours).status.success(), "the old certificate still counts");
}

#[test]
fn one_address_does_not_get_all_the_connections() {
    let home = Home::new();
    let text = "[limits]\nhttp_connections_per_client = 2\n";
    let node = configured(&home, "solo", text, &["--server", "--bootstrap"], &[]);
    eventually("it leads", || node.http().leader());
    let connect = || TcpStream::connect(node.at.http).unwrap();
    // Connections are accepted in the order in which they were made. Both are made anew at each try: as long as the one of the
    // question before is not gone, there is no room for the second, and it is closed.
    let held = eventually("there is no room for a third", || {
        let held = [connect(), connect()];
        let told = node.http().call(Method::GET, "/v1/status/leader", "").ok()?;
        (told.status == 503).then_some(held)
    });
    drop(held);
    eventually("there is room again", || node.http().leader());
}
