//! Rights, with real processes: a server and a client agent that allow nothing by default.

#![allow(clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Home, Http, Node, QUICK, driftline, eventually, run, shown, text_of};
use driftline::http::client::Response;
use driftline::http::{Needs, routes};
use hyper::Method;
use serde_json::{Value, json};

const ROOT: &str = "11111111-aaaa-4bbb-8ccc-222222222222";
const AGENT: &str = "33333333-aaaa-4bbb-8ccc-444444444444";
const RECOVERY: &str = "55555555-aaaa-4bbb-8ccc-666666666666";
const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";

/// A server, and a client agent beside it.
struct Pair {
    home: Home,
    server: Node,
    client: Option<Node>,
}

fn ports() -> [&'static str; 6] {
    ["--http-port", "0", "--rpc-port", "0", "--gossip-port", "0"]
}

impl Pair {
    /// The server, with a token that may do everything.
    fn server(acl: &str) -> Pair {
        let home = Home::new();
        let root = home.secret("root", &format!("{ROOT}\n"));
        let config = home.file(
            "server.toml",
            &format!(
                "{QUICK}[acl]\nenabled = true\n{acl}\n[acl.tokens]\ninitial_management = 'file:{root}'\n"
            ),
        );
        let data = text_of(&home.path("server"));
        let mut args = vec!["--config", &config, "--data-dir", &data, "--server", "--bootstrap"];
        args.extend(ports());
        let server = Node::start("a", &args);
        let pair = Pair { home, server, client: None };
        eventually("the first token", || pair.root().json("/v1/acl/token/self"));
        pair
    }

    fn with_client(acl: &str) -> Pair {
        let mut pair = Pair::server(acl);
        let body = json!({
            "SecretID": AGENT,
            "Description": "the client agent's own",
            "NodeIdentities": [{ "NodeName": "d", "Datacenter": "dc1" }],
            "Policies": [{ "Name": pair.policy("services", "service_prefix \"\" { policy = \"write\" }") }],
        });
        made(&pair.root().put("/v1/acl/token", body.to_string()));
        pair.start_client(acl);
        pair
    }

    fn start_client(&mut self, acl: &str) {
        let config = self.home.file(
            "client.toml",
            &format!(
                "{QUICK}[acl]\nenabled = true\ntoken_ttl_ms = 0\n{acl}\n[acl.tokens]\nagent = '{AGENT}'\n\
                 agent_recovery = '{RECOVERY}'\n"
            ),
        );
        let (data, join) = (text_of(&self.home.path("client")), self.server.at.gossip.to_string());
        let mut args = vec!["--config", &config, "--data-dir", &data, "--retry-join", &join];
        args.extend(ports());
        self.client = Some(Node::start("d", &args));
        eventually("a server that the client knows", || {
            self.client().showing(ROOT).json("/v1/acl/token/self")
        });
    }

    fn root(&self) -> Http {
        self.server.http().showing(ROOT)
    }

    fn client(&self) -> &Http {
        self.client.as_ref().expect("a client").http()
    }

    /// Makes a policy and gives its name.
    fn policy(&self, name: &str, rules: &str) -> String {
        made(&self.root().put("/v1/acl/policy", json!({ "Name": name, "Rules": rules }).to_string()));
        name.to_owned()
    }

    /// Makes a token with one policy, and gives its accessor and its secret.
    fn token(&self, name: &str, rules: &str) -> (String, String) {
        let policy = self.policy(name, rules);
        let body = json!({ "Description": name, "Policies": [{ "Name": policy }] });
        let token = made(&self.root().put("/v1/acl/token", body.to_string()));
        let field = |name: &str| token[name].as_str().expect("a text").to_owned();
        (field("AccessorID"), field("SecretID"))
    }
}

/// The JSON of a 200.
fn made(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_slice(&response.body).expect("JSON")
}

fn filtered(response: &Response) -> bool {
    response.header("x-consul-results-filtered-by-acls") == Some("true")
}

/// What is open to all although nothing is allowed by default: it tells nothing, or what one must know to begin.
const OPEN: [&str; 12] = [
    "/",
    "/ui",
    "/ui/",
    "/ui/{*file}",
    // There is one datacenter.
    "/v1/acl/replication",
    // A token's own.
    "/v1/acl/token/self",
    "/v1/catalog/datacenters",
    // There is no mesh: always empty.
    "/v1/health/connect/{*service}",
    "/v1/health/ingress/{*service}",
    "/v1/status/leader",
    "/v1/status/peers",
    "/v1/status/why",
];

/// Where a node may stand.
fn place() -> Value {
    json!({ "Node": "a", "Coord": { "Vec": [0, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Height": 0.1 } })
}

/// A request to a route, with names of what is there.
fn example(path: &str, session: &str, prepared: &str) -> (String, String) {
    let id = if path.contains("/session/") { session } else { "web" };
    let named = [
        ("{*key}", "secret"),
        ("{*id}", id),
        ("{id}", ANONYMOUS),
        ("{*service}", "web"),
        ("{*node}", "a"),
        ("{*name}", "web"),
        ("{*state}", "any"),
        ("{*addr}", "127.0.0.1:1"),
        ("{*file}", "ui.js"),
        ("{*query}", prepared),
        ("{accessor}", ANONYMOUS),
        ("{purpose}", "agent"),
    ];
    let full = named.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
    assert!(!full.contains('{'), "{path}: say in this test what its name stands for");
    let query = match path {
        "/set" => "?key=secret&value=1",
        "/get" => "?key=secret",
        "/join" => "?peerAddress=127.0.0.1:1",
        path if path.contains("maintenance") => "?enable=true",
        _ => "",
    };
    let body = match path {
        "/v1/coordinate/update" => place(),
        path if path.starts_with("/v1/query") => json!({ "Name": "web", "Service": { "Service": "web" } }),
        "/v1/txn" => json!([{ "KV": { "Verb": "get", "Key": "secret" } }]),
        _ => {
            json!({ "Node": "n9", "Address": "10.0.0.9", "Name": "web", "TTL": "30s", "Status": "passing", "Token": "x" })
        }
    };
    (format!("{full}{query}"), body.to_string())
}

#[test]
fn without_a_token_every_route_refuses_or_leaves_out() {
    let pair = Pair::server("default_policy = 'deny'");
    let root = pair.root();
    assert!(root.set("secret", "hidden"));
    let web = json!({ "Name": "web", "Port": 80, "Check": { "TTL": "1h" } });
    assert_eq!(root.put("/v1/agent/service/register", web.to_string()).status, 200);
    let session = made(&eventually("a session", || {
        Some(root.put("/v1/session/create", "")).filter(|response| response.status == 200)
    }));
    let session = session["ID"].as_str().unwrap();
    let query = json!({ "Name": "web", "Service": { "Service": "web" } }).to_string();
    let prepared = made(&root.call(Method::POST, "/v1/query", query).unwrap());
    let prepared = prepared["ID"].as_str().unwrap();
    made(&root.put("/v1/event/fire/secret", "x"));
    eventually("the service in the catalog", || {
        let found = root.json("/v1/catalog/service/web")?;
        (!found.as_array()?.is_empty()).then_some(())
    });
    eventually("a place in the network", || {
        root.put("/v1/coordinate/update", place().to_string());
        root.json("/v1/coordinate/node/a")
    });
    // Who shows a token is told that something was left out; who shows none is answered the same, and not told.
    let (_, powerless) = pair.token("powerless", "key \"nothing\" { policy = \"read\" }");
    let stranger = pair.server.http().showing(&powerless);
    let anybody = pair.server.http().showing("anonymous");
    let mut open = BTreeSet::new();
    for route in routes() {
        for method in route.methods {
            let (path, body) = example(route.path, session, prepared);
            let asked = format!("{method} {path}");
            let method: Method = method.parse().unwrap();
            let body = if method == Method::GET { String::new() } else { body };
            let call = |http: &Http| http.call(method.clone(), &path, body.clone()).unwrap();
            let (nobody, response) = (call(pair.server.http()), call(&stranger));
            assert_eq!(nobody.status, response.status, "{asked}: {}", nobody.text());
            assert!(!filtered(&nobody) && !filtered(&call(&anybody)), "{asked}");
            let text = response.text();
            if response.status == 200 && filtered(&response) {
                assert_eq!(nobody.text(), text, "{asked}");
            }
            assert_eq!(response.header("x-consul-default-acl-policy"), Some("deny"), "{asked}");
            match response.status {
                403 => assert!(
                    text.starts_with("Permission denied: ") || text.starts_with("ACL "),
                    "{asked}: {text}"
                ),
                409 => assert!(
                    text.contains("Permission denied: ") && route.path == "/v1/txn",
                    "{asked}: {text}"
                ),
                501 => assert_eq!(route.needs, Needs::AclRefused, "{asked}"),
                // It names nothing.
                400 => assert!(route.path.ends_with('/') || path == "/v1/kv", "{asked}: {text}"),
                404 if route.path.ends_with('/') && text == "Query not found" => {}
                // Consul says so too before it asks for rights. There is a service of that id, and no check.
                404 if text.starts_with("Unknown check ID ")
                    || text.starts_with("Unknown service ID \"\"") => {}
                200 if filtered(&response) => {
                    let seen = ["web", "secret", session].into_iter().find(|name| text.contains(name));
                    assert_eq!(seen, None, "{asked}: {text}");
                }
                404 if filtered(&response) => assert_eq!(text, "", "{asked}"),
                200 | 301 => drop(open.insert(route.path)),
                status => panic!("{asked}: {status} {text}"),
            }
        }
    }
    assert_eq!(open, BTreeSet::from(OPEN));
    assert_eq!(
        root.value("secret").as_deref(),
        Some("hidden"),
        "nobody without a token can change or stop anything"
    );
}

#[test]
fn a_token_is_listed_by_its_service_and_its_copy_lives_no_longer_and_a_query_is_carried_out_by_all() {
    let pair = Pair::server("default_policy = 'deny'");
    let root = pair.root();
    let body = json!({ "ServiceIdentities": [{ "ServiceName": "web" }], "ExpirationTTL": "2m" }).to_string();
    let mortal = made(&root.put("/v1/acl/token", body));
    let accessor = mortal["AccessorID"].as_str().unwrap();
    let copy = made(&root.put(&format!("/v1/acl/token/{accessor}/clone"), "{}"));
    assert!(copy["ExpirationTime"].as_str().unwrap() <= mortal["ExpirationTime"].as_str().unwrap());
    let listed = |path: &str| made(&root.get(path)).as_array().unwrap().len();
    assert_eq!(listed("/v1/acl/tokens?servicename=web"), 2);
    assert_eq!(listed("/v1/acl/tokens?servicename=db"), 0);
    assert_eq!(listed("/v1/acl/tokens?authmethod=minikube"), 0);
    let reserved = json!({ "AccessorID": "00000000-0000-0000-0000-000000000009" }).to_string();
    let refused = root.put("/v1/acl/token", reserved);
    assert!(refused.status == 400 && refused.text().contains("reserved"), "{}", refused.text());

    let query = json!({ "Name": "near", "Service": { "Service": "web" } }).to_string();
    assert_eq!(root.call(Method::POST, "/v1/query", query).unwrap().status, 200);
    let (_, stranger) = pair.token("stranger", "key \"x\" { policy = \"read\" }");
    let (_, reader) = pair.token("reader", "query \"near\" { policy = \"read\" }");
    let status = |token: &str, what: &str| {
        pair.server.http().showing(token).get(&format!("/v1/query/near/{what}")).status
    };
    assert_eq!([status(&stranger, "execute"), status(&stranger, "explain")], [200, 403]);
    assert_eq!(status(&reader, "explain"), 200);
}

#[test]
fn the_rights_of_every_route_are_documented() {
    let text = include_str!("../docs/acl.md");
    for route in routes() {
        // The same route without a name has no row of its own.
        if route.path.ends_with('/') && route.path.len() > 1 {
            continue;
        }
        let path: String = route.path.replace("{*", ":").replace('{', ":").replace('}', "");
        assert!(text.contains(&format!("`{path}`")), "docs/acl.md does not say what {path} needs");
    }
}

#[test]
fn a_token_opens_what_its_policies_name_and_nothing_else() {
    let pair = Pair::with_client("default_policy = 'deny'");
    let (accessor, secret) = pair.token(
        "app",
        "key_prefix \"app/\" { policy = \"write\" } key \"app/sealed\" { policy = \"deny\" }
         session_prefix \"\" { policy = \"write\" } service \"web\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" }",
    );
    for key in ["app/sealed", "other"] {
        assert!(pair.root().set(key, "1"));
    }
    // A server and a client agent say the same.
    for http in [pair.server.http(), pair.client()] {
        let app = http.showing(&secret);
        assert!(app.set("app/x", "1"));
        assert_eq!(app.value("app/x").as_deref(), Some("1"));
        let denied = app.put("/v1/kv/other", "1");
        assert_eq!(
            (denied.status, denied.text()),
            (
                403,
                format!(
                    "Permission denied: token with AccessorID '{accessor}' lacks permission 'key:write' on \"other\""
                )
            )
        );
        assert_eq!(denied.header("x-driftline-outcome"), Some("refused"));
        assert_eq!(app.get("/v1/kv/app/sealed").status, 403);
        let listed = app.get("/v1/kv/?recurse&keys");
        assert!(filtered(&listed), "{}", listed.text());
        assert_eq!(made(&listed), json!(["app/x"]));
        assert_eq!(
            app.call(Method::DELETE, "/v1/kv/app/?recurse", "").unwrap().status,
            403,
            "one key in it is sealed"
        );

        let txn = json!([
            { "KV": { "Verb": "set", "Key": "app/x", "Value": "Mg==" } },
            { "KV": { "Verb": "set", "Key": "other", "Value": "Mg==" } },
        ]);
        let refused = app.put("/v1/txn", txn.to_string());
        assert_eq!(refused.status, 409);
        let refused: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(refused["Errors"].as_array().unwrap().len(), 1);
        assert_eq!(refused["Errors"][0]["OpIndex"], 1);
        assert_eq!(app.value("app/x").as_deref(), Some("1"), "nothing was applied");

        let nodes = app.get("/v1/catalog/nodes");
        assert!(!filtered(&nodes));
        assert!(filtered(&app.get("/v1/catalog/services")), "the servers' own service may not be seen");
        assert_eq!(http.get("/v1/kv/app/x").status, 403);
        let nonsense = http.showing("7e57a7e5-0000-4000-8000-000000000000").get("/v1/kv/app/x");
        assert_eq!((nonsense.status, nonsense.text().as_str()), (403, "ACL not found"));
        // Each way to show a token.
        assert_eq!(http.get(&format!("/v1/kv/app/x?token={secret}")).status, 200);
        let conflict = http.put(&format!("/v1/kv/app/x?cas=1&acquire=s&token={secret}"), "1").text();
        assert!(conflict.starts_with("Conflicting flags: ") && !conflict.contains(&secret), "{conflict}");
    }
    // Taken away is taken away, on whatever agent.
    let gone = pair.root().call(Method::DELETE, &format!("/v1/acl/token/{accessor}"), "").unwrap();
    assert_eq!(gone.text(), "true");
    for http in [pair.server.http(), pair.client()] {
        for response in
            [http.showing(&secret).put("/v1/kv/app/x", "2"), http.showing(&secret).get("/v1/kv/app/x")]
        {
            assert_eq!((response.status, response.text().as_str()), (403, "ACL not found"));
        }
    }
    // No log and no page tells a secret.
    for node in [&pair.server, pair.client.as_ref().unwrap()] {
        let page = node.http().showing(ROOT).get("/v1/agent/self").text();
        for text in [node.log(), page] {
            for secret in [ROOT, AGENT, RECOVERY, &secret] {
                assert!(!text.contains(secret), "{} tells {secret}", node.name);
            }
        }
    }
}

#[test]
fn a_client_agent_keeps_the_catalog_true_with_its_own_token_and_is_looked_after_without_servers() {
    let mut pair = Pair::with_client("default_policy = 'deny'");
    let (_, secret) =
        pair.token("web", "service \"web\" { policy = \"write\" } agent \"d\" { policy = \"read\" }");
    let web = pair.client().showing(&secret);
    let body = |name: &str| json!({ "Name": name, "Port": 80 }).to_string();
    assert_eq!(web.put("/v1/agent/service/register", body("db")).status, 403);
    assert_eq!(web.put("/v1/agent/service/register", body("web")).status, 200);
    eventually("the service in the catalog, by the agent's token", || {
        let found = pair.root().json("/v1/catalog/service/web")?;
        (found.as_array()?.len() == 1).then_some(())
    });
    assert_eq!(web.get("/v1/agent/self").status, 200);
    assert_eq!(web.put("/v1/agent/reload", "").status, 403);

    // The agent's token, by the API.
    let put = |http: &Http, purpose: &str, token: &str| {
        http.put(&format!("/v1/agent/token/{purpose}"), json!({ "Token": token }).to_string()).status
    };
    assert_eq!(put(&web, "default", &secret), 403);
    assert_eq!(put(&pair.client().showing(ROOT), "nonsense", &secret), 404);
    assert_eq!(put(&pair.client().showing(ROOT), "default", &secret), 200);
    assert_eq!(pair.client().get("/v1/agent/self").status, 200, "who shows none shows the default one");
    assert_eq!(put(&pair.client().showing(ROOT), "default", ""), 200);
    assert_eq!(pair.client().get("/v1/agent/self").status, 403);

    pair.server.kill();
    // What was remembered, and what needs no server.
    eventually("an answer without servers", || (web.get("/v1/agent/self").status == 200).then_some(()));
    let recovery = pair.client().showing(RECOVERY);
    assert_eq!(recovery.get("/v1/agent/self").status, 200);
    assert_eq!(recovery.put("/v1/agent/service/register", body("db")).status, 403);
}

#[test]
fn a_server_without_a_leader_is_looked_after_and_shows_nothing_old() {
    let home = Home::new();
    let root = home.secret("root", &format!("{ROOT}\n"));
    let config = home.file(
        "server.toml",
        &format!("{QUICK}[acl]\nenabled = true\ndefault_policy = 'deny'\n[acl.tokens]\ninitial_management = 'file:{root}'\n"),
    );
    let start = |name: &str, ports: &[String], others: &[&Node]| {
        let data = text_of(&home.path(name));
        let mut args = vec!["--config", &config, "--data-dir", &data, "--server", "--bootstrap-expect", "3"];
        args.extend(ports.iter().map(String::as_str));
        let others: Vec<String> = others.iter().map(|node| node.at.gossip.to_string()).collect();
        others.iter().for_each(|addr| args.extend(["--retry-join", addr]));
        Node::start(name, &args)
    };
    let any = home.ports(None);
    let mut a = start("a", &any, &[]);
    let mut b = start("b", &any, &[&a]);
    let mut c = start("c", &any, &[&a]);
    let by_root = |node: &Node| node.http().showing(ROOT);
    for node in [&a, &b, &c] {
        eventually("the first token everywhere", || by_root(node).json("/v1/acl/token/self?stale"));
    }
    eventually("a write", || by_root(&a).set("k", "v").then_some(()));
    eventually("it is everywhere", || (by_root(&c).local_value("k").as_deref() == Some("v")).then_some(()));
    a.kill();
    b.kill();

    // It has caught up, and nobody leads: its state can be saved, by who may, as it is there.
    let (file, http) = (text_of(&home.path("state.snap")), c.at.http.to_string());
    let save = |more: &[&str]| {
        let save = ["snapshot", "save", &file, "--http-addr", &http, "--token-file", &root];
        shown(&run(&[&save[..], more].concat()))
    };
    let saved = save(&["--stale"]);
    assert!(saved.starts_with("exit 0\nSaved and verified"), "{saved}");
    let current = c.http().showing(ROOT).get("/v1/snapshot");
    assert_eq!(current.status, 500, "nobody can say that it is current");
    assert_eq!(c.http().get("/v1/snapshot?stale").status, 403, "without a token");

    // Restarted, it has not caught up, and is looked after all the same. What it knew is shown to nobody.
    let same = home.ports(Some(c.at));
    c.kill();
    let c = start("c", &same, &[]);
    let root = by_root(&c);
    assert_eq!(root.put("/v1/agent/reload", "").status, 200);
    for path in ["/v1/agent/self", "/v1/agent/members", "/v1/agent/metrics", "/v1/agent/host"] {
        assert_eq!(root.get(path).status, 200, "{path}");
    }
    let old = root.get("/v1/kv/k?stale");
    assert!(old.status == 500 && old.text().contains("has not caught up"), "{}", old.text());
    assert_eq!(root.get("/v1/snapshot?stale").status, 500);
    assert_eq!(root.get("/v1/acl/tokens?stale").status, 500);
    assert_ne!(c.http().showing(AGENT).put("/v1/agent/reload", "").status, 200, "a token that nobody knows");
    assert_eq!(c.http().put("/v1/agent/reload", "").status, 403, "none");
}

#[test]
fn the_first_token_is_made_once_and_again_by_who_has_the_disk() {
    let home = Home::new();
    let config = home.file("a.toml", &format!("{QUICK}[acl]\nenabled = true\ndefault_policy = 'deny'\n"));
    let data = text_of(&home.data());
    let mut args = vec!["--config", &config, "--data-dir", &data, "--server", "--bootstrap"];
    args.extend(ports());
    let node = Node::start("a", &args);
    eventually("a leader", || node.http().leader());
    let early = node.http().showing(ROOT).get("/v1/acl/tokens");
    assert_eq!(early.status, 403);
    assert_eq!(
        early.text(),
        "ACL system must be bootstrapped before making any requests that require authorization: ACL not found"
    );
    let first = made(&eventually("a first token", || {
        Some(node.http().put("/v1/acl/bootstrap", "")).filter(|response| response.status == 200)
    }));
    assert_eq!(first["Policies"][0]["Name"], "global-management");
    assert_eq!(first["ID"], first["SecretID"]);
    let again = node.http().put("/v1/acl/bootstrap", "");
    assert_eq!(again.status, 403);
    let index = again.text();
    let index = index.strip_prefix("Permission denied: ACL bootstrap no longer allowed (reset index: ");
    let index = index.and_then(|rest| rest.strip_suffix(")")).expect("the index").to_owned();
    std::fs::write(home.data().join("acl-bootstrap-reset"), format!("{index}\n")).unwrap();
    // Who bootstraps again has lost all tokens, but may still show one.
    let lost = node.http().showing("11111111-2222-3333-4444-555555555555");
    let second = made(&lost.put("/v1/acl/bootstrap", json!({ "BootstrapSecret": ROOT }).to_string()));
    assert_eq!(second["SecretID"], ROOT);
    assert_eq!(node.http().put("/v1/acl/bootstrap", "").status, 403, "the file opens the door once");
    let tokens = made(&node.http().showing(ROOT).get("/v1/acl/tokens"));
    assert_eq!(tokens.as_array().unwrap().len(), 3);
}

#[test]
fn what_is_not_there_is_said_and_what_was_read_can_be_written_back() {
    let pair = Pair::server("default_policy = 'deny'\n");
    let root = pair.root();
    const NOBODY: &str = "11111111-2222-3333-4444-555555555550";
    for (what, status, text) in [
        ("policy", 404, "Requested policy does not exist: ACL not found"),
        ("role", 404, "Requested role does not exist: ACL not found"),
        ("token", 403, "ACL not found"),
    ] {
        let path = format!("/v1/acl/{what}/{NOBODY}");
        let missing = root.get(&path);
        assert_eq!((missing.status, missing.text().as_str()), (status, text));
        let gone = root.call(Method::DELETE, &path, "").unwrap();
        assert_eq!((gone.status, gone.text()), (404, format!("Cannot find {what} to delete")));
    }
    let named = json!({ "ID": NOBODY, "Name": "p" }).to_string();
    let refused = root.put("/v1/acl/policy", named);
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (400, "Cannot specify the ID when creating a new policy")
    );
    let garbled = root.put("/v1/acl/policy", "[");
    assert!(
        garbled.status == 400 && garbled.text().starts_with("Policy decoding failed: "),
        "{}",
        garbled.text()
    );

    // One policy by its id and its name is one link; and an expiring token goes back and forth.
    let policy = made(&root.put("/v1/acl/policy", json!({ "Name": "p" }).to_string()));
    let links = json!([{ "ID": policy["ID"] }, { "Name": "p" }]);
    let body = json!({ "Policies": links, "ExpirationTTL": "1h" }).to_string();
    let mut token = made(&root.put("/v1/acl/token", body));
    assert_eq!(token["Policies"].as_array().unwrap().len(), 1);
    let path = format!("/v1/acl/token/{}", token["AccessorID"].as_str().unwrap());
    token["Description"] = "changed".into();
    assert_eq!(made(&root.put(&path, token.to_string()))["ExpirationTime"], token["ExpirationTime"]);
    token["ExpirationTime"] = "2100-01-01T00:00:00Z".into();
    let refused = root.put(&path, token.to_string());
    let accessor = token["AccessorID"].as_str().unwrap();
    assert_eq!(refused.status, 500);
    assert_eq!(refused.text(), format!("Cannot change expiration time of {accessor}"));

    let of_one_datacenter = json!([{ "ServiceName": "web", "Datacenters": ["dc1"] }]);
    let unfit = [
        (json!({ "ExpirationTTL": "1s" }), "ExpirationTime cannot be less than 1m0s in the future (was 1s)"),
        (
            json!({ "ExpirationTTL": "25h" }),
            "ExpirationTime cannot be more than 24h0m0s in the future (was 25h0m0s)",
        ),
        (json!({ "AuthMethod": "m" }), "AuthMethod field is disallowed outside of Login"),
        (
            json!({ "Local": true, "ServiceIdentities": of_one_datacenter }),
            "Service identity \"web\" cannot specify a list of datacenters on a local token",
        ),
    ];
    for (body, expected) in unfit {
        let refused = root.put("/v1/acl/token", body.to_string());
        assert_eq!((refused.status, refused.text().as_str()), (400, expected));
    }
}

#[test]
fn without_acls_nothing_is_asked_for_and_acl_calls_say_so() {
    let mut args = vec!["--dev"];
    args.extend(ports());
    let node = Node::start("a", &args);
    eventually("a leader", || node.http().leader());
    for (method, path) in [
        (Method::PUT, "/v1/acl/bootstrap"),
        (Method::GET, "/v1/acl/tokens"),
        (Method::GET, "/v1/acl/token/self"),
        (Method::PUT, "/v1/acl/policy"),
        (Method::GET, "/v1/acl/auth-methods"),
        (Method::GET, "/v1/acl/replication"),
        (Method::PUT, "/v1/agent/token/agent"),
    ] {
        let response = node.http().call(method, path, "{}").unwrap();
        assert_eq!((response.status, response.text().as_str()), (401, "ACL support disabled"), "{path}");
    }
    assert!(node.http().showing("whatever").set("k", "v"));
}

#[test]
fn the_default_may_allow_everything_but_rights() {
    let pair = Pair::server("default_policy = 'allow'");
    let anybody = pair.server.http();
    assert!(anybody.set("k", "v"));
    assert_eq!(anybody.get("/v1/operator/raft/configuration").status, 200);
    let refused = anybody.get("/v1/acl/tokens");
    assert_eq!(refused.status, 403);
    assert!(refused.text().starts_with("Permission denied: anonymous token lacks permission 'acl:read'"));
    assert_eq!(anybody.get(&format!("/v1/acl/token/{ANONYMOUS}?token=anonymous")).status, 403);
    // Who may read tokens does not see secrets, who may write does.
    let (_, auditor) = pair.token("auditor", "acl = \"read\"");
    let secrets = |token: &str| -> BTreeSet<String> {
        let tokens = made(&anybody.showing(token).get("/v1/acl/tokens"));
        let secrets =
            tokens.as_array().unwrap().iter().map(|token| token["SecretID"].as_str().unwrap().to_owned());
        secrets.collect()
    };
    assert_eq!(secrets(&auditor), BTreeSet::from(["<hidden>".to_owned()]));
    assert!(secrets(ROOT).contains(&auditor));
    assert_eq!(made(&anybody.showing(&auditor).get("/v1/acl/token/self"))["SecretID"], auditor.as_str());
}

#[test]
fn the_command_line_looks_after_tokens() {
    let pair = Pair::server("default_policy = 'deny'");
    let addr = pair.server.at.http.to_string();
    let root = text_of(&pair.home.path("root"));
    let rules = pair.home.file("rules.hcl", "key_prefix \"app/\" {\n  policy = \"write\"\n}\n");
    let run = |args: &[&str]| {
        let output = driftline().args(args).args(["--http-addr", &addr, "--token-file", &root]).output();
        let output = output.expect("the program runs");
        assert!(output.status.success(), "{args:?}: {}", shown(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["acl", "policy", "create", "--name", "app", "--rules", &format!("@{rules}")]);
    assert!(run(&["acl", "policy", "read", "--name", "app"]).contains("key_prefix \"app/\" {"));
    let created = run(&[
        "acl",
        "token",
        "create",
        "--description",
        "ci",
        "--policy-name",
        "app",
        "--expires-ttl",
        "8h",
        "--format",
        "json",
    ]);
    let created: Value = serde_json::from_str(&created).unwrap();
    assert!(created["ExpirationTime"].as_str().unwrap() > created["CreateTime"].as_str().unwrap());
    let (accessor, secret) = (created["AccessorID"].as_str().unwrap(), created["SecretID"].as_str().unwrap());
    assert!(run(&["acl", "token", "list"]).contains(accessor));
    run(&["acl", "role", "create", "--name", "ops", "--node-identity", "a:dc1"]);
    let updated = run(&["acl", "token", "update", "--id", accessor, "--role-name", "ops"]);
    assert!(updated.contains("ops") && updated.contains("app") && updated.contains("ci"), "{updated}");
    // What is appended takes nothing away, nor does what a role is given; ids may be cut short, and one has a name.
    run(&["acl", "policy", "create", "--name", "ui", "--valid-datacenter", "dc1"]);
    let updated = run(&["acl", "token", "update", "-id", &accessor[..8], "-append-policy-name=ui"]);
    assert!(updated.contains("app (") && updated.contains("ui (") && updated.contains("ops ("), "{updated}");
    let updated = run(&["acl", "role", "update", "--name", "ops", "--policy-name", "app"]);
    assert!(updated.contains("app (") && updated.contains("a (dc1)"), "{updated}");
    let updated = run(&["acl", "role", "update", "--name", "ops", "--no-merge", "--policy-name", "ui"]);
    assert!(!updated.contains("app (") && !updated.contains("a (dc1)"), "{updated}");
    let updated = run(&["acl", "policy", "update", "--name", "ui", "--no-merge", "--description", "none"]);
    assert!(updated.contains("none") && !updated.contains("dc1"), "{updated}");
    assert!(run(&["acl", "token", "list", "-meta"]).contains("ModifyIndex"));
    let anonymous = run(&["acl", "token", "read", "-id=anonymous"]);
    assert!(anonymous.contains("00000000-0000-0000-0000-000000000002"), "{anonymous}");

    // By the environment, under either name.
    for name in ["DRIFTLINE_HTTP_TOKEN", "CONSUL_HTTP_TOKEN"] {
        let put =
            driftline().args(["kv", "put", "app/x", "1", "--http-addr", &addr]).env(name, secret).output();
        assert!(put.unwrap().status.success());
    }
    let denied = driftline().args(["kv", "get", "app/x", "--http-addr", &addr]).output().unwrap();
    assert_eq!(denied.status.code(), Some(1));
    assert!(shown(&denied).contains("Permission denied"), "{}", shown(&denied));
    // What is shown by some right only is not called all there is.
    run(&["kv", "put", "other/x", "1"]);
    let as_whom = |file: &str, args: &[&str]| {
        driftline().args(args).args(["--http-addr", &addr, "--token-file", file]).output().unwrap()
    };
    let app = pair.home.secret("app", secret);
    let (_, keys_only) = pair.token("keys", "key_prefix \"app/\" { policy = \"read\" }");
    let keys_only = pair.home.secret("keys", &keys_only);
    let left_out = "driftline: some results were left out: the token may not see them";
    let lists: [&[&str]; 5] = [
        &["kv", "get", "--recurse"],
        &["kv", "list"],
        &["members"],
        &["catalog", "nodes"],
        &["watch", "--type", "nodes"],
    ];
    for args in lists {
        let said = shown(&as_whom(&keys_only, args));
        assert!(said.starts_with("exit 0\n") && said.contains(left_out), "{args:?}: {said}");
        assert!(!said.contains("no node matches"), "{said}");
    }
    let exported = as_whom(&app, &["kv", "export"]);
    assert_eq!((exported.status.code(), exported.stdout.len()), (Some(1), 0), "{}", shown(&exported));
    assert!(shown(&exported).contains(left_out), "{}", shown(&exported));
    assert!(shown(&as_whom(&app, &["kv", "export", "app/"])).starts_with("exit 0\n["));
    // What is no token is not taken for none.
    for (text, why) in [("\n", "is empty"), ("two words", "holds no token")] {
        let file = pair.home.secret("odd", text);
        let said = shown(&as_whom(&file, &["status"]));
        assert!(said.starts_with("exit 1\n") && said.contains(&format!("{file} {why}")), "{said}");
    }
    let given = run(&["acl", "token", "set-agent-token", "agent", &app]);
    assert!(given.contains("for agent until it restarts: set acl.enable_token_persistence, or "), "{given}");
    run(&["acl", "token", "delete", "--id", accessor]);
    assert!(!run(&["acl", "token", "list"]).contains(accessor));
}

#[test]
fn what_is_given_and_taken_away_counts_everywhere_at_once() {
    let home = Home::new();
    let config = home.file(
        "server.toml",
        &format!(
            "{QUICK}[acl]\nenabled = true\ndefault_policy = 'deny'\n[acl.tokens]\ninitial_management = '{ROOT}'\n"
        ),
    );
    let mut servers: Vec<Node> = Vec::new();
    for name in ["a", "b", "c"] {
        let data = text_of(&home.path(name));
        let mut args = vec!["--config", &config, "--data-dir", &data, "--server", "--bootstrap-expect", "3"];
        args.extend(ports());
        let join: Vec<String> = servers.iter().map(|node| node.at.gossip.to_string()).collect();
        for addr in &join {
            args.extend(["--retry-join", addr]);
        }
        servers.push(Node::start(name, &args));
    }
    for server in &servers {
        eventually("the first token", || server.http().showing(ROOT).json("/v1/acl/token/self"));
    }
    let (made_by, used_by) = (servers[0].http().showing(ROOT), servers[1].http());
    let policy = json!({ "Name": "all", "Rules": "key_prefix \"\" { policy = \"write\" }" });
    made(&made_by.put("/v1/acl/policy", policy.to_string()));
    for round in 0..10 {
        let at = |server: usize| servers[(round + server) % 3].http();
        let body = json!({ "Policies": [{ "Name": "all" }] }).to_string();
        let token = made(&at(0).showing(ROOT).put("/v1/acl/token", body));
        let (accessor, secret) = (token["AccessorID"].as_str().unwrap(), token["SecretID"].as_str().unwrap());
        // No server has to be waited for: none judges by what it has not heard of yet.
        assert!(at(1).showing(secret).set("k", "1"), "round {round}");
        assert_eq!(at(2).showing(secret).value("k").as_deref(), Some("1"), "round {round}");
        let gone = at(1).showing(ROOT).call(Method::DELETE, &format!("/v1/acl/token/{accessor}"), "");
        assert_eq!(gone.unwrap().text(), "true");
        for server in 0..3 {
            assert_eq!(at(server).showing(secret).put("/v1/kv/k", "2").status, 403, "round {round}");
            assert_eq!(at(server).showing(secret).get("/v1/kv/k").status, 403, "round {round}");
        }
    }
    assert_eq!(used_by.showing(ROOT).value("k").as_deref(), Some("1"));
}

#[test]
fn a_log_is_shown_for_no_longer_than_its_token_counts() {
    let pair = Pair::server("default_policy = 'deny'\ntoken_ttl_ms = 0");
    let (accessor, secret) = pair.token("log", "agent \"a\" { policy = \"read\" }");
    let mut stream = TcpStream::connect(pair.server.at.http).unwrap();
    stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
    write!(stream, "GET /v1/agent/monitor HTTP/1.1\r\nHost: a\r\nX-Consul-Token: {secret}\r\n\r\n").unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let gone = pair.root().call(Method::DELETE, &format!("/v1/acl/token/{accessor}"), "");
    assert_eq!(gone.unwrap().text(), "true");
    // The end of an answer in chunks; whatever is logged meanwhile comes before it.
    let (mut rest, mut chunk) = (Vec::new(), [0; 4096]);
    while !rest.ends_with(b"\r\n0\r\n\r\n") {
        let len = stream.read(&mut chunk).expect("an end within the patience");
        assert!(len > 0, "broken off: {}", String::from_utf8_lossy(&rest));
        rest.extend_from_slice(&chunk[..len]);
    }
}

#[test]
fn a_service_of_a_file_is_registered_by_the_token_in_it() {
    let pair = Pair::server("default_policy = 'deny'");
    let (_, secret) = pair.token("web", "service \"web\" { policy = \"write\" }");
    let home = Home::new();
    let http = pair.server.at.http.to_string();
    let ask = |command: &str, service: Value| {
        let file = home.secret("service.json", &json!({ "service": service }).to_string());
        shown(&run(&["services", command, &file, "--http-addr", &http]))
    };
    let denied = ask("register", json!({ "name": "web" }));
    assert!(denied.starts_with("exit 1\n") && denied.contains("answers 403: Permission denied"), "{denied}");
    let web = json!({ "name": "web", "token": secret });
    assert_eq!(ask("register", web.clone()), "exit 0\nRegistered service: web\n");
    let other = ask("register", json!({ "name": "other", "token": secret }));
    assert!(other.contains("service \"other\": ") && !other.contains(&secret), "{other}");
    assert_eq!(ask("deregister", web), "exit 0\nDeregistered service: web\n");
}
