//! The page of a run in a real browser: headless Chromium, driven through chromedriver by our own HTTP client.
//!
//! What is asked of the page is what it says of itself on its canvas (`data-from`, `data-lanes`, `data-drawn`, …), what stands in its
//! document, what the browser's console said and what the browser fetched. No test waits for a time: each waits for frames.

#![cfg(not(madsim))]
// Outside the simulation: real processes and files are allowed here.
#![allow(clippy::disallowed_methods)]

#[path = "../../tests/common/browser.rs"]
mod browser;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use browser::Browser;
use driftline::env::Observed;
use driftline::env::observe::RaftRole;
use serde_json::{Value, json};
use sim::check::linearizable;
use sim::fault::{Effect, Hosts, Rule};
use sim::history::{Action, Operation, Outcome, Response, Versioned};
use sim::record::{Happening, Recorder};
use sim::report::RunReport;
use sim::report::page::{Material, Page};
use sim::report::story::Scribe;
use sim::trace::{Event, Message, Transport, WORLD};

const MS: u64 = 1_000_000;

// A page to look at.

fn ip(host: u32) -> IpAddr {
    IpAddr::from([10, 0, (host / 200) as u8, (host % 200) as u8 + 1])
}

/// Three nodes of which the leader is cut off while another is elected, `messages` messages between them, and four clients with
/// `operations` operations on two keys. The last answer of the first key is a stale one of the old leader.
fn page(key: &str, messages: u64, operations: u64) -> Page {
    let mut scribe = Scribe::new(1_000, &[(8300, "raft"), (8301, "gossip")]);
    let end = operations.max(40) * 10 * MS;
    for node in 0..3 {
        scribe.on(0, node, Happening::Booted { ip: ip(node) });
        let role = if node == 0 { RaftRole::Leader } else { RaftRole::Follower };
        scribe.on(MS, node, Happening::Observed(&Observed::Role { term: 1, role, leader: None }));
    }
    scribe.on(2 * MS, WORLD, Happening::Storm);
    let cut = end / 2;
    let mut parted = false;
    for number in 0..messages {
        let at = 3 * MS + (end - 4 * MS) / messages.max(1) * number;
        if at > cut && !parted {
            parted = true;
            for (number, from, to) in [(1, vec![0], vec![1, 2]), (2, vec![1, 2], vec![0])] {
                let rule = Rule { from: Hosts::only(from), to: Hosts::only(to), effect: Effect::Block };
                scribe.on(at, WORLD, Happening::RuleBegan { number, rule: &rule });
            }
            let role = Observed::Role { term: 2, role: RaftRole::Leader, leader: None };
            scribe.on(at + 1, 1, Happening::Observed(&role));
        }
        let (from, to) = ((number % 3) as u32, ((number + 1) % 3) as u32);
        let (source, target) =
            (SocketAddr::new(ip(from), 40_000), SocketAddr::new(ip(to), 8300 + (number % 2) as u16));
        let message = Message::new(Transport::Udp, source, target, &number.to_le_bytes());
        scribe.on(at, from, Happening::Traced(&Event::Send(message)));
        let lost = parted && (from == 0 || to == 0);
        let event = if lost { Event::Drop(message, "partition") } else { Event::Deliver(message) };
        scribe.on(at + MS / 2, to, Happening::Traced(&event));
        let entry = Observed::Appended { index: number + 1, term: 1, digest: number };
        scribe.on(at + MS / 2, to, Happening::Observed(&entry));
    }
    scribe.on(end - MS, WORLD, Happening::Heal);

    let seen = |value: &str| Some(Versioned { value: value.to_owned(), modify_index: 0 });
    let mut history = Vec::new();
    for id in 0..operations {
        let at = 5 * MS + id * (end - 60 * MS) / operations.max(1);
        let action = Action::Put { value: format!("v{id}") };
        let (client, node) = ((id % 4) as u32, (id % 3) as u32);
        let key = if id % 2 == 0 { key } else { "other" }.to_owned();
        let outcome = Outcome::Ok(Response::Done(true));
        history.push(Operation {
            id,
            client,
            node,
            key,
            action,
            invoked_ns: at,
            outcome,
            returned_ns: Some(at + 2 * MS),
        });
    }
    let last = |id: u64, action: Action, outcome: Outcome, at: u64| Operation {
        id,
        client: 1,
        node: 0,
        key: key.to_owned(),
        action,
        invoked_ns: at,
        outcome,
        returned_ns: Some(at + 3 * MS),
    };
    let done = || Outcome::Ok(Response::Done(true));
    let found = |value: &str| Outcome::Ok(Response::Value(seen(value)));
    history.push(last(operations, Action::Put { value: "old".into() }, done(), end - 50 * MS));
    history.push(last(operations + 1, Action::Put { value: "new".into() }, done(), end - 40 * MS));
    history.push(last(operations + 2, Action::Get, found("old"), end - 30 * MS));

    let linearizable::Verdict::Violation(broken) = linearizable::check(&history) else { panic!("accepted") };
    let mut report = RunReport { seed: 7, nodes: 3, trace_events: messages * 2, ..RunReport::default() };
    report.violate("LIN", broken.words.clone());
    report.violations[0].at_ns = broken.at_ns;
    let material = Material {
        report: &report,
        history: &history,
        broken: Some(&broken),
        scenario: None,
        mutant: None,
        again: Some("cargo sim run --seed 7"),
        own_client: None,
    };
    Page::of(scribe.story(), material)
}

// A browser to look with.

fn open(page: &Page) -> Browser {
    let browser = Browser::start();
    let file = browser.folder().join("page.html");
    page.save(&file, false).unwrap();
    browser.open(&format!("file://{}", file.display()));
    browser.frame();
    browser
}

trait Picture {
    /// Waits until whatever was asked for has been drawn; gives what the canvas says of itself.
    fn frame(&self) -> Value;
    /// Presses a key; gives what the canvas says after it.
    fn press(&self, key: &str) -> Value;
    /// Nothing went wrong on the page, and nothing was fetched but the page.
    fn is_content(&self);
}

impl Picture for Browser {
    fn frame(&self) -> Value {
        let script = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => \
                      done({ ...document.getElementById('picture').dataset })));";
        self.tell("/execute/async", json!({ "script": script, "args": [] }))
    }

    fn press(&self, key: &str) -> Value {
        self.strike(key);
        self.frame()
    }

    fn is_content(&self) {
        let mut said = self.log("browser");
        // Advice on speed, to these tests: they read pixels back.
        said.retain(|entry| entry["source"] != "rendering");
        assert!(said.is_empty(), "{said:?}");
        let mut fetched = 0;
        for entry in self.log("performance") {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let message = &message["message"];
            let is_page = |url: &Value| url.as_str().is_some_and(|url| url.starts_with("file:"));
            // What the browser does on its own, in its first empty tab, is not the page's doing.
            if message["method"] == "Network.requestWillBeSent" && is_page(&message["params"]["documentURL"])
            {
                let url = message["params"]["request"]["url"].as_str().unwrap();
                assert!(url.starts_with("file:///") && url.ends_with("/page.html"), "{url}");
                fetched += 1;
            }
        }
        assert_eq!(fetched, 1);
    }
}

fn number(said: &Value, name: &str) -> i64 {
    said[name].as_str().unwrap_or_else(|| panic!("no {name} in {said}")).parse().unwrap()
}

// What it must show and do.

#[test]
fn a_stale_read_is_there_to_see_without_a_network_and_without_a_complaint() {
    let browser = open(&page("k", 600, 60));
    let said = browser.frame();
    assert_eq!((number(&said, "lanes"), number(&said, "clients")), (3, 4));
    assert_eq!(number(&said, "culprits"), 2, "{said}");
    let text = |id: &str| browser.js(&format!("return document.getElementById('{id}').innerText"));
    assert_eq!(text("verdict"), "LIN violated");
    assert!(
        text("headline")
            .as_str()
            .unwrap()
            .starts_with("Stale read of key \"k\": op 62 (client 1) read \"old\"")
    );
    assert_eq!(text("again"), "cargo sim run --seed 7");
    let broke = text("broke");
    assert!(broke.as_str().unwrap().contains("could not have found \"old\" any more"), "{broke}");
    // On a phone the page is as wide as the screen, and the picture has most of it.
    let narrow = json!({ "width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": true });
    browser
        .tell("/goog/cdp/execute", json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": narrow }));
    browser.frame();
    let wide = browser
        .js("return [document.documentElement.scrollWidth, document.getElementById('picture').clientWidth]");
    assert_eq!(wide, json!([390, 390]));
    browser.tell("/goog/cdp/execute", json!({ "cmd": "Emulation.clearDeviceMetricsOverride", "params": {} }));
    // The page begins where it broke, and a screen reader is told where that is.
    assert!(number(&said, "from") > 0);
    let label = browser.js("return document.getElementById('picture').getAttribute('aria-label')");
    assert!(label.as_str().unwrap().contains("3 nodes, 63 operations"), "{label}");
    browser.is_content();
}

#[test]
fn keys_and_filters_change_what_is_drawn() {
    let browser = open(&page("k", 600, 60));
    let whole = browser.press("0");
    let span = |said: &Value| number(said, "to") - number(said, "from");
    let nearer = browser.press("+");
    assert!(span(&nearer) < span(&whole));
    let later = browser.press("\u{e014}");
    assert!(number(&later, "from") > number(&nearer, "from") && span(&later) == span(&nearer));
    assert_eq!(number(&browser.press("\u{e012}"), "from"), number(&nearer, "from"));
    let farther = browser.press("-");
    assert!(span(&farther) > span(&nearer));
    let failure = browser.press("f");
    assert_eq!(number(&failure, "culprits"), 2);

    let whole = browser.press("0");
    assert!(number(&whole, "lines") > 100, "{whole}");
    assert_eq!(number(&browser.press("m"), "lines"), 0);
    assert_eq!(number(&browser.press("m"), "lines"), number(&whole, "lines"));
    let lost = number(&browser.press("l"), "lines");
    assert!(0 < lost && lost < number(&whole, "lines"));
    browser.press("l");

    browser.js("const one = document.querySelectorAll('#nodes button')[2]; one.click()");
    let said = browser.frame();
    assert_eq!(number(&said, "lanes"), 2);
    assert!(number(&said, "lines") < number(&whole, "lines"));
    browser.js("const key = document.getElementById('key'); key.value = 'other'; key.dispatchEvent(new Event('change'))");
    let said = browser.frame();
    assert!(0 < number(&said, "operations") && number(&said, "operations") < number(&whole, "operations"));
    browser.js("const key = document.getElementById('client'); key.value = '1'; key.dispatchEvent(new Event('change'))");
    assert_eq!(number(&browser.frame(), "clients"), 1);

    browser.press("/");
    "new".chars().for_each(|letter| drop(browser.press(&letter.to_string())));
    assert_eq!(number(&browser.frame(), "matches"), 1);
    browser.press("\u{e00c}");
    assert_eq!(number(&browser.frame(), "matches"), 0);

    let is_open = || browser.js("return document.getElementById('help').open");
    browser.press("?");
    assert_eq!(is_open(), true);
    let keys = browser.js("return document.getElementById('keys').innerText");
    assert!(keys.as_str().unwrap().contains("zoom in, zoom out"), "{keys}");
    browser.press("\u{e00c}");
    assert_eq!(is_open(), false);
    browser.is_content();
}

#[test]
fn light_and_dark_follow_the_reader_and_the_page_can_be_printed() {
    let browser = open(&page("k", 600, 60));
    let ground = || browser.js("return getComputedStyle(document.body).backgroundColor");
    let prefers = |value: &str| {
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        browser.tell(
            "/goog/cdp/execute",
            json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } }),
        );
        browser.frame();
        // The canvas as well: its first pixel has the paper's colour.
        let pixel = "return [...document.getElementById('picture').getContext('2d').getImageData(1, 1, 1, 1).data].slice(0, 3)";
        (ground(), browser.js(pixel))
    };
    assert_eq!(prefers("light"), (json!("rgb(255, 255, 255)"), json!([255, 255, 255])));
    assert_eq!(prefers("dark"), (json!("rgb(18, 22, 28)"), json!([18, 22, 28])));
    browser.press("t");
    assert_eq!(ground(), "rgb(255, 255, 255)");
    let printed = browser.tell("/print", json!({}));
    assert!(printed.as_str().unwrap().starts_with("JVBERi0"), "no PDF");
    assert_eq!(browser.js("return document.documentElement.dataset.theme"), "light");
    browser.is_content();
}

#[test]
fn hostile_texts_are_shown_and_do_not_run() {
    let hostile = "</script><script>window.ran = 1</script><img src=x onerror=\"window.ran = 1\">";
    let browser = open(&page(hostile, 60, 20));
    let ran = "return [window.ran === undefined, document.images.length, document.scripts.length]";
    assert_eq!(browser.js(ran), json!([true, 0, 2]));
    let headline = browser.js("return document.getElementById('headline').textContent");
    assert!(headline.as_str().unwrap().contains("window.ran = 1"), "{headline}");
    // Every way in which the page shows it: a list to choose from, a tooltip, the details of what was clicked.
    assert_eq!(browser.js("return document.getElementById('key').options[1].value"), hostile);
    browser.press("n");
    let details = browser.js("return document.getElementById('details').textContent");
    assert!(details.as_str().unwrap().contains("<img src=x"), "{details}");
    assert_eq!(browser.js(ran), json!([true, 0, 2]));
    browser.is_content();
}

#[test]
fn a_hundred_thousand_events_cost_no_more_a_frame_than_the_screen_has_room_for() {
    let page = page("k", 100_000, 3_000);
    let browser = open(&page);
    let mut most = 0;
    let whole = browser.press("0");
    assert!(number(&whole, "inView") > 50_000, "{whole}");
    // So many are drawn as bars that say how many there are, and as lines again from nearer.
    assert_eq!(number(&whole, "lines"), 0, "{whole}");
    let status = browser.js("return document.getElementById('status').textContent");
    assert!(status.as_str().unwrap().contains("zoom in for lines"), "{status}");
    assert!(number(&browser.press("f"), "lines") > 50);
    browser.press("0");
    for key in ["\u{e014}", "+", "+", "\u{e014}", "+", "+", "+", "\u{e012}", "+", "+", "-", "f"] {
        most = most.max(number(&browser.press(key), "drawn"));
    }
    assert!(most > 0 && most < 20_000, "{most} things drawn in one frame");
    let figure = browser.js(
        "const times = []; const canvas = document.getElementById('picture'); \
         for (let i = 0; i < 20; i++) { const from = performance.now(); \
         dispatchEvent(new KeyboardEvent('keydown', { key: i % 2 ? 'ArrowLeft' : 'ArrowRight' })); \
         dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint')); times.push(performance.now() - from); } \
         return times.sort((a, b) => a - b)[10]",
    );
    println!("a move with two frames takes {figure} ms; the fullest frame has {most} things");
    browser.is_content();
}

/// For looking at: `PAGE=FILE cargo test -p sim --test page -- --ignored` writes the page that these tests open.
#[test]
#[ignore = "writes a file for a person"]
fn the_page_of_these_tests() {
    let path = std::env::var("PAGE").expect("PAGE names the file");
    page("k", 100_000, 3_000).save(Path::new(&path), true).unwrap();
}
