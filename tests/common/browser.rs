//! A real browser to look at a page with: headless Chromium, driven through chromedriver by our own HTTP client.
//!
//! Used by the tests of the status page and, by its path, by those of the testbed's page.

#![allow(dead_code, clippy::disallowed_methods)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use driftline::env::real::env_in_memory;
use driftline::http::client;
use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A browser of its own, with a profile of its own; it ends with its handle.
pub struct Browser {
    driver: Child,
    runtime: tokio::runtime::Runtime,
    addr: SocketAddr,
    session: String,
    folder: TempDir,
}

impl Browser {
    /// Starts one, with nothing in it yet.
    pub fn start() -> Browser {
        let folder = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the tests of the page need chromium and chromium-driver; .ci/setup installs them");
        let said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = said.map_while(Result::ok).find_map(|line| {
            let port = line.strip_suffix('.')?.rsplit_once("started successfully on port ")?.1;
            port.parse::<u16>().ok()
        });
        let addr = SocketAddr::from(([127, 0, 0, 1], port.expect("chromedriver says its port")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut browser = Browser { driver, runtime, addr, session: String::new(), folder };
        let profile = browser.folder.path().join("profile");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1400,900",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let opened =
            browser.ask(Method::POST, "/session", json!({ "capabilities": { "alwaysMatch": capabilities } }));
        browser.session = format!("/session/{}", opened["sessionId"].as_str().unwrap());
        browser
    }

    /// A directory that goes with the browser.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.tell("/url", json!({ "url": url }));
    }

    fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let body = if method == Method::POST { serde_json::to_vec(&body).unwrap() } else { Vec::new() };
        let answer = self.call(method, path, body).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        serde_json::from_slice::<Value>(&answer.body).unwrap()["value"].take()
    }

    fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<client::Response, client::CallError> {
        self.runtime.block_on(async {
            let env = env_in_memory(1);
            let path = format!("{}{path}", self.session);
            client::call(&env, self.addr, method, &path, body.into(), Duration::from_secs(120)).await
        })
    }

    pub fn tell(&self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, path, body)
    }

    /// What a script gives.
    pub fn js(&self, script: &str) -> Value {
        self.tell("/execute/sync", json!({ "script": script, "args": [] }))
    }

    /// Presses a key.
    pub fn strike(&self, key: &str) {
        let strokes = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        self.tell("/actions", json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] }));
    }

    /// What the browser noted since it was asked last: `browser` for its console, `performance` for what it fetched.
    pub fn log(&self, kind: &str) -> Vec<Value> {
        self.tell("/se/log", json!({ "type": kind })).as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // This ends the browser, after a failed test as well.
        if !self.session.is_empty() {
            let _ = self.call(Method::DELETE, "", Vec::new());
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
