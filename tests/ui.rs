//! The status page at `/ui` in a real browser, served by a real agent.
//!
//! Each story waits for what the page shows, never for a time, and ends by asking the browser whether anything went wrong
//! on the page and whether it fetched anything but the agent's own files and API.

#![allow(clippy::disallowed_methods)]

#[path = "common/browser.rs"]
mod browser;
mod common;

use browser::Browser;
use common::{ANY_PORTS, Node, eventually};
use serde_json::{Value, json};

const ESCAPE: &str = "\u{e00c}";
const ENTER: &str = "\u{e007}";

struct Ui {
    node: Node,
    browser: Browser,
}

impl Ui {
    fn open(page: &str) -> Ui {
        let node = Node::start("a", &[&["--dev"], &ANY_PORTS[..]].concat());
        eventually("a leader", || node.http().leader());
        let ui = Ui { node, browser: Browser::start() };
        ui.browser.open(&format!("http://{}/ui/#/{page}", ui.node.at.http));
        ui
    }

    /// What one reads on the page, without what is hidden.
    fn text(&self) -> String {
        let text = self.browser.js("return document.querySelector('main').innerText");
        text.as_str().unwrap_or_default().to_owned()
    }

    fn shows(&self, what: &str) {
        eventually(&format!("{what:?} on the page"), || self.text().contains(what).then_some(()));
    }

    fn shows_no_more(&self, what: &str) {
        eventually(&format!("no {what:?} on the page"), || (!self.text().contains(what)).then_some(()));
    }

    /// Types into the field that has the focus.
    fn types(&self, text: &str) {
        for letter in text.chars() {
            self.browser.strike(&letter.to_string());
        }
    }

    fn has_focus(&self, selector: &str) {
        let script = format!("return document.activeElement?.matches({}) ?? false", json!(selector));
        eventually(&format!("the focus on {selector}"), || {
            (self.browser.js(&script) == json!(true)).then_some(())
        });
    }

    /// Clicks on the button that says so.
    fn presses(&self, label: &str) {
        let script = format!(
            "const it = [...document.querySelectorAll('main button')].find((one) => one.textContent === {}); \
             it?.click(); return !!it",
            json!(label)
        );
        eventually(&format!("the button {label:?}"), || {
            (self.browser.js(&script) == json!(true)).then_some(())
        });
    }

    /// Shows another page of it.
    fn goes_to(&self, page: &str) {
        self.browser.js(&format!("location.hash = {}", json!(format!("#/{page}"))));
    }

    /// Waits until the field for a key's value holds this.
    fn value_is(&self, text: &str) {
        let script = "return document.getElementById('key-value')?.value";
        eventually(&format!("{text:?} in the field"), || {
            (self.browser.js(script) == json!(text)).then_some(())
        });
    }

    fn clicks(&self, selector: &str) {
        eventually(&format!("{selector} to click"), || {
            let script =
                format!("const it = document.querySelector({}); it?.click(); return !!it", json!(selector));
            (self.browser.js(&script) == json!(true)).then_some(())
        });
    }

    /// Nothing went wrong on the page, and all it fetched came from the agent.
    fn is_content(&self) {
        let mut said = self.browser.log("browser");
        // The browser notes every answer that is not a success; that a key is absent is none.
        said.retain(|entry| entry["source"] != "network");
        assert!(said.is_empty(), "{said:?}");
        let agent = format!("http://{}/", self.node.at.http);
        let mut fetched = 0;
        for entry in self.browser.log("performance") {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let (method, told) = (&message["message"]["method"], &message["message"]["params"]);
            if method == "Network.requestWillBeSent"
                && told["documentURL"].as_str().is_some_and(|url| url.starts_with(&agent))
            {
                let url = told["request"]["url"].as_str().unwrap();
                assert!(url.starts_with(&agent) || url.starts_with("data:"), "{url}");
                fetched += 1;
            }
        }
        assert!(fetched >= 3, "the page, its style and its script: {fetched}");
    }
}

#[test]
fn the_cluster_and_its_services_are_shown_as_they_change() {
    let ui = Ui::open("cluster");
    ui.shows("healthy");
    ui.shows("1 of 1 alive");
    // What only the leader knows: how far each server is, and how long ago it was heard of.
    ui.shows("Last contact");
    ui.shows("0s");
    let register = |id: &str, status: &str| {
        let check = json!({ "TTL": "10m", "Status": status });
        let body = json!({ "ID": id, "Name": "web", "Port": 80, "Tags": ["blue"], "Check": check });
        assert_eq!(ui.node.http().put("/v1/agent/service/register", body.to_string()).status, 200);
    };
    register("web-1", "passing");
    ui.browser.strike("2");
    ui.shows("1 passing");
    // What happens while one looks is shown without a reload.
    register("web-2", "critical");
    ui.shows("1 passing, 1 critical");
    assert!(ui.text().contains("blue"), "{}", ui.text());
    // By keyboard: to the list's entry, into it, and up again.
    ui.browser.strike("/");
    ui.has_focus("[data-filter]");
    ui.types("we");
    ui.shows_no_more("consul");
    ui.browser.strike(ESCAPE);
    ui.browser.strike("j");
    ui.has_focus("tbody a");
    ui.browser.strike(ENTER);
    ui.shows("web-2");
    ui.shows("127.0.0.1:80");
    ui.browser.strike("u");
    ui.shows("1 passing, 1 critical");
    // A check of the node counts for each instance on it, and is shown itself.
    let check = json!({ "Name": "disk space", "TTL": "10m", "Status": "warning" });
    assert_eq!(ui.node.http().put("/v1/agent/check/register", check.to_string()).status, 200);
    ui.shows("disk space");
    ui.shows("1 warning, 1 critical");
    ui.is_content();
}

#[test]
fn a_key_is_made_edited_and_never_written_over_unseen() {
    let ui = Ui::open("kv/");
    ui.shows("No keys here.");
    ui.browser.strike("n");
    ui.has_focus("#key-name");
    ui.types("app/name");
    ui.browser.js("document.getElementById('key-value').focus()");
    ui.types("one");
    ui.clicks("form button.main");
    eventually("the key", || (ui.node.http().value("app/name")? == "one").then_some(()));
    ui.shows("Created at");
    // Somebody else changes it while nothing is typed: the new value is shown, and what is typed then is based on it.
    assert!(ui.node.http().set("app/name", "two"));
    ui.shows("this is the new value");
    ui.value_is("two");
    ui.types("+mine");
    // Somebody else changes it while something is typed: saving does not undo that, and nothing typed is lost.
    assert!(ui.node.http().set("app/name", "theirs"));
    ui.shows("while you were typing");
    ui.clicks("form button.main");
    ui.shows("Nothing was overwritten.");
    ui.value_is("two+mine");
    assert_eq!(ui.node.http().value("app/name").as_deref(), Some("theirs"));
    // Nor does going elsewhere lose it; only who has seen the other value can replace it.
    ui.goes_to("services");
    ui.shows("consul");
    ui.goes_to("kv/app/");
    ui.shows("Not saved yet: app/name");
    ui.goes_to("kv/app/name");
    ui.value_is("two+mine");
    ui.shows("theirs");
    ui.presses("Go on with mine");
    ui.clicks("form button.main");
    ui.shows("Saved.");
    assert_eq!(ui.node.http().value("app/name").as_deref(), Some("two+mine"));
    // Names are text, whatever is in them.
    let markup = "app/%3Cimg%20src%3Dx%20onerror%3D%22document.title%3D'broken'%22%3E";
    assert!(ui.node.http().set(markup, "x"));
    ui.shows("<img src=x");
    assert_eq!(ui.browser.js("return document.querySelectorAll('main img').length"), json!(0));
    assert_ne!(ui.browser.js("return document.title"), json!("broken"));
    ui.is_content();
}

#[test]
fn values_keep_what_a_text_field_would_lose_and_names_what_a_path_would() {
    let ui = Ui::open("kv/");
    ui.shows("No keys here.");
    let http = ui.node.http();
    let stored = |path: &str| http.get(&format!("/v1/kv/{path}?raw")).body;
    let put =
        |path: &str, value: &'static str| assert_eq!(http.put(&format!("/v1/kv/{path}"), value).status, 200);
    // Line ends of Windows, the mark of the byte order, flags of 64 bits.
    put("app/dos?flags=18446744073709551615", "\u{feff}one\r\ntwo\r\n");
    ui.goes_to("kv/app/dos");
    ui.value_is("\u{feff}one\ntwo\n");
    ui.types("3");
    ui.clicks("form button.main");
    ui.shows("Saved.");
    assert_eq!(stored("app/dos"), "\u{feff}one\r\ntwo\r\n3");
    let entry = http.json("/v1/kv/app/dos").unwrap();
    assert_eq!(entry[0]["Flags"], json!(u64::MAX));
    put("app/mixed", "one\r\ntwo\n");
    ui.goes_to("kv/app/mixed");
    ui.shows("It can be read here, not edited.");
    // A folder's own key, steps without a name, and steps that lead up in other paths.
    put("app/", "the folder's");
    ui.goes_to("kv/app/");
    ui.shows("(the key of this folder)");
    ui.browser.strike("j");
    ui.browser.strike(ENTER);
    ui.value_is("the folder's");
    put("up", "the other");
    put("app%2F..%2F..%2Fup", "this one");
    ui.goes_to("kv/app/../../up");
    ui.value_is("this one");
    put("/a//b", "slashes");
    ui.goes_to("kv//a//");
    ui.shows("keys / (no name) / a / (no name) /");
    ui.browser.strike("u");
    eventually("the folder above", || {
        (ui.browser.js("return location.hash") == json!("#/kv//a/")).then_some(())
    });
    ui.is_content();
}

#[test]
fn a_folder_of_thousands_is_filtered_whole_and_stays_where_it_was() {
    let ui = Ui::open("cluster");
    for first in (0..3_000).step_by(50) {
        let op = |key| json!({ "KV": { "Verb": "set", "Key": format!("many/{key:04}"), "Value": "eA==" } });
        let ops: Vec<Value> = (first..first + 50).map(op).collect();
        assert_eq!(ui.node.http().put("/v1/txn", json!(ops).to_string()).status, 200);
    }
    ui.goes_to("kv/many/");
    ui.shows("2,000 more are not drawn: the filter finds them.");
    ui.browser.strike("/");
    ui.has_focus("[data-filter]");
    ui.types("298");
    ui.shows_no_more("0000");
    ui.browser.strike(ESCAPE);
    ui.browser.js("document.querySelector('[data-filter]').value ||= '298'");
    ui.goes_to("kv/many/2985");
    ui.value_is("x");
    // The list is still the filtered one, and the keys go on from what is open.
    ui.browser.strike(ESCAPE);
    ui.browser.strike("j");
    let focused = || ui.browser.js("return document.activeElement.textContent");
    assert_eq!(focused(), json!("2986"));
    ui.is_content();
}

#[test]
fn who_may_do_little_is_told_so_and_loses_nothing_typed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("a.toml");
    let (root, weak) = ("11111111-aaaa-4bbb-8ccc-222222222222", "33333333-aaaa-4bbb-8ccc-444444444444");
    let acl = "[acl]\nenabled = true\ndefault_policy = 'deny'\n[acl.tokens]\n";
    std::fs::write(&config, format!("{acl}initial_management = '{root}'\n")).unwrap();
    let config = config.display().to_string();
    let node = Node::start("a", &[&["--dev", "--config", &config], &ANY_PORTS[..]].concat());
    let all = node.http().showing(root);
    eventually("a first token", || all.json("/v1/acl/token/self"));
    assert!(all.set("app/one", "v"));
    let rules =
        "key_prefix \"\" { policy = \"read\" } operator = \"read\" agent_prefix \"\" { policy = \"read\" }";
    let policy = json!({ "Name": "weak", "Rules": rules });
    assert_eq!(all.put("/v1/acl/policy", policy.to_string()).status, 200);
    let token = json!({ "SecretID": weak, "Policies": [{ "Name": "weak" }] });
    assert_eq!(all.put("/v1/acl/token", token.to_string()).status, 200);
    let ui = Ui { node, browser: Browser::start() };
    let trouble = || ui.browser.js("return document.getElementById('trouble').innerText");
    let says = |what: &str| {
        eventually(&format!("{what:?} as trouble"), || {
            trouble().as_str().is_some_and(|text| text.contains(what)).then_some(())
        });
    };
    let shows_token = |secret: &str| {
        ui.browser.js(&format!(
            "const it = document.getElementById('token'); it.value = '{secret}'; it.dispatchEvent(new Event('change'))"
        ));
    };
    // Nobody is told that a cluster has no leader, or no quorum, because he may not see the servers.
    ui.browser.open(&format!("http://{}/ui/", ui.node.at.http));
    says("lacks permission 'operator:read'");
    says("lacks permission 'agent:read'");
    says("Without a token only what everybody may see is shown.");
    ui.shows("has a leader");
    shows_token(weak);
    says("The token does not show all that there is here.");
    ui.shows("has a leader");
    ui.goes_to("kv/app/one");
    ui.value_is("v");
    ui.types("2");
    ui.clicks("form button.main");
    ui.shows("lacks permission 'key:write'");
    ui.value_is("v2");
    shows_token(root);
    ui.shows("Not saved yet.");
    ui.value_is("v2");
    ui.clicks("form button.main");
    ui.shows("Saved.");
    assert_eq!(all.value("app/one").as_deref(), Some("v2"));
    ui.is_content();
}

#[test]
fn nobody_follows_what_nobody_looks_at() {
    let ui = Ui::open("kv/app/name");
    ui.shows("There is no such key.");
    let turns = |hidden: bool| {
        ui.browser.js(&format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); \
             document.dispatchEvent(new Event('visibilitychange'))"
        ));
    };
    turns(true);
    assert!(ui.node.http().set("app/name", "one"));
    // What the page would have asked by now it asks once it is looked at.
    let asked = "return performance.getEntriesByType('resource').filter((one) => one.name.includes('/v1/kv/')).length";
    let before = ui.browser.js(asked);
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert_eq!(ui.browser.js(asked), before);
    turns(false);
    ui.value_is("one");
    ui.is_content();
}

#[test]
fn events_are_heard_and_fired() {
    let ui = Ui::open("events");
    ui.shows("No event has been heard.");
    assert_eq!(ui.node.http().put("/v1/event/fire/deploy", "v7").status, 200);
    ui.shows("deploy");
    ui.shows("v7");
    ui.browser.js("document.getElementById('event-name').focus()");
    ui.types("stop");
    ui.clicks("form button.main");
    ui.shows("Sent.");
    ui.shows("stop");
    let heard = ui.node.http().json("/v1/event/list").unwrap();
    let names: Vec<&str> =
        heard.as_array().unwrap().iter().filter_map(|event| event["Name"].as_str()).collect();
    assert_eq!(names, ["deploy", "stop"]);
    ui.is_content();
}

#[test]
fn light_and_dark_differ_and_the_choice_stays() {
    let ui = Ui::open("cluster");
    ui.shows("healthy");
    let paper = || ui.browser.js("return getComputedStyle(document.body).backgroundColor");
    ui.browser.strike("t");
    let light = paper();
    ui.browser.strike("t");
    let dark = paper();
    assert_ne!(light, dark);
    ui.browser.open(&format!("http://{}/ui/#/kv/", ui.node.at.http));
    ui.browser.js("location.reload()");
    ui.shows("No keys here.");
    assert_eq!(paper(), dark);
    ui.browser.strike("?");
    eventually("the help", || {
        (ui.browser.js("return document.getElementById('help').open") == json!(true)).then_some(())
    });
    ui.is_content();
}

#[test]
fn without_a_leader_the_page_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let args = [&["--server", "--bootstrap-expect", "3", "--data-dir", &data][..], &ANY_PORTS].concat();
    let node = Node::start("a", &args);
    let ui = Ui { node, browser: Browser::start() };
    ui.browser.open(&format!("http://{}/ui/", ui.node.at.http));
    ui.shows("no leader");
    ui.shows("Why is there no leader?");
    ui.shows("start the others with the same bootstrap-expect");
    assert!(!ui.text().contains("{\""), "findings as text: {}", ui.text());
    ui.is_content();
}

#[test]
fn without_a_leader_what_an_agent_knew_last_is_shown_as_old() {
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str, join: &[&str]| {
        let data = folder.path().join(name).display().to_string();
        let args =
            [&["--server", "--bootstrap-expect", "2", "--data-dir", &data][..], &ANY_PORTS, join].concat();
        Node::start(name, &args)
    };
    let node = start("a", &[]);
    let gossip = node.at.gossip.to_string();
    let mut other = start("b", &["--retry-join", &gossip]);
    eventually("a leader", || node.http().leader());
    assert!(node.http().set("app/name", "one"));
    eventually("the key here", || node.http().local_value("app/name"));
    other.kill();
    let ui = Ui { node, browser: Browser::start() };
    ui.browser.open(&format!("http://{}/ui/#/kv/app/name", ui.node.at.http));
    ui.value_is("one");
    let trouble = "return document.getElementById('trouble').innerText";
    eventually("that it may be old", || {
        ui.browser
            .js(trouble)
            .as_str()
            .is_some_and(|text| text.contains("What is shown may be old."))
            .then_some(())
    });
    ui.is_content();
}
