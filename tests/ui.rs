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
    // Somebody else changes it: the page says so, and saving does not undo that.
    assert!(ui.node.http().set("app/name", "two"));
    ui.shows("Changed by somebody");
    ui.browser.js("document.getElementById('key-value').value = 'three'");
    ui.clicks("form button.main");
    ui.shows("Somebody has changed it since you opened it");
    assert_eq!(ui.node.http().value("app/name").as_deref(), Some("two"));
    // Names are text, whatever is in them.
    let markup = "app/%3Cimg%20src%3Dx%20onerror%3D%22document.title%3D'broken'%22%3E";
    assert!(ui.node.http().set(markup, "x"));
    ui.shows("<img src=x");
    assert_eq!(ui.browser.js("return document.querySelectorAll('main img').length"), json!(0));
    assert_ne!(ui.browser.js("return document.title"), json!("broken"));
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
    ui.shows("expect");
    ui.is_content();
}
