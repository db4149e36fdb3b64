//! Watches: looking at something again and again, and saying so only when it has changed.
//!
//! A watch is a blocking query of the agent's own HTTP API, so what it sees is what any client sees, with the same
//! rights. [`Seen`] is what it remembers, and decides what is news: pure. [`Follower`] asks; [`keep`] follows all watches
//! of the configuration and runs their handlers, one after the other for each watch. `driftline watch` is a `Follower` too.
//!
//! The rules are those of Consul's clients: an index that goes back means another history, so the watch starts over;
//! after a failure it waits 5 s × n², at most three minutes. Other than there, what was seen before a failure is
//! remembered, and the same again after it is no news.
//!
//! As with every blocking query, of several changes in a row only the last may be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::agent::Agent;
use crate::agent::local::probe::{self, Question};
use crate::agent::process::Given;
use crate::config::watch::{Kind, Watch};
use crate::env::{AbortOnDrop, Env, Guard};
use crate::http::client::Connection;
use crate::secret::Secret;

/// How long a look waits for a change.
const WAIT: Duration = Duration::from_secs(300);
/// How much longer than that an answer may take: the agent adds a sixteenth, and looks for a leader before.
const PATIENCE: Duration = Duration::from_secs(60);
/// The unit of the pause after failures.
const RETRY: Duration = Duration::from_secs(5);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(180);
/// How long a handler that is a program may run. It is killed then.
const HANDLER: Duration = Duration::from_secs(600);

/// What a path escapes.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// What a query escapes.
const QUERY: &AsciiSet = &PATH.add(b'/');

/// Where a watch looks: the path and the query of a request, without what makes it wait.
pub fn look_at(watch: &Watch) -> String {
    let path = |text: &str| utf8_percent_encode(text, PATH).to_string();
    let mut query = Vec::new();
    let mut add = |name: &str, value: &str| {
        query.push(format!("{name}={}", utf8_percent_encode(value, QUERY)));
    };
    let at = match watch.kind {
        Kind::Key => format!("/v1/kv/{}", path(&watch.key)),
        Kind::KeyPrefix => {
            add("recurse", "");
            format!("/v1/kv/{}", path(&watch.prefix))
        }
        Kind::Services => "/v1/catalog/services".to_owned(),
        Kind::Nodes => "/v1/catalog/nodes".to_owned(),
        Kind::Service => {
            if !watch.tag.is_empty() {
                add("tag", &watch.tag);
            }
            if watch.passing_only {
                add("passing", "");
            }
            format!("/v1/health/service/{}", path(&watch.service))
        }
        Kind::Checks if !watch.service.is_empty() => format!("/v1/health/checks/{}", path(&watch.service)),
        Kind::Checks if watch.state.is_empty() => "/v1/health/state/any".to_owned(),
        Kind::Checks => format!("/v1/health/state/{}", path(&watch.state)),
        Kind::Event => {
            if !watch.name.is_empty() {
                add("name", &watch.name);
            }
            "/v1/event/list".to_owned()
        }
    };
    if watch.stale && watch.kind != Kind::Event {
        add("stale", "");
    }
    if !watch.token.is_empty() {
        add("token", watch.token.expose());
    }
    format!("{at}?{}", query.join("&"))
}

/// What a watch has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The index to wait for a change of; 0 asks for what there is.
    index: u64,
    last: Option<Value>,
    /// Of events: the ids of those that were there.
    events: BTreeSet<String>,
    failures: u32,
}

impl Seen {
    /// Takes in an answer; gives what of it is news.
    pub fn heard(&mut self, kind: Kind, index: u64, value: Value) -> Option<Value> {
        self.failures = 0;
        if kind == Kind::Event {
            // Its index has no order.
            self.index = index;
            return self.new_events(value);
        }
        let back = index < self.index;
        self.index = if back { 0 } else { index };
        if self.last.as_ref() == Some(&value) {
            return None;
        }
        self.last = Some(value.clone());
        Some(value)
    }

    /// The events that were not there before: an older one may arrive after a newer one.
    fn new_events(&mut self, value: Value) -> Option<Value> {
        let Value::Array(events) = value else { return None };
        let id = |event: &Value| event["ID"].as_str().unwrap_or_default().to_owned();
        let seen = std::mem::replace(&mut self.events, events.iter().map(id).collect());
        let new: Vec<Value> = events.into_iter().filter(|event| !seen.contains(&id(event))).collect();
        (!new.is_empty()).then_some(Value::Array(new))
    }

    /// Notes a failure; gives how long to wait before the next look, which starts over.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.index = 0;
        RETRY.saturating_mul(self.failures.saturating_mul(self.failures)).min(RETRY_MAX)
    }
}

/// One watch, looking.
pub struct Follower {
    env: Env,
    connection: Connection,
    watch: Watch,
    seen: Seen,
    left_out: bool,
}

impl Follower {
    /// A watch that asks the API at `api`.
    pub fn new(env: &Env, api: SocketAddr, watch: Watch) -> Follower {
        Follower {
            env: env.clone(),
            connection: Connection::new(env.clone(), api),
            watch,
            seen: Seen::default(),
            left_out: false,
        }
    }

    /// Whether the last answer left something out that whoever looks may not see. How much, no answer says.
    pub fn left_out(&self) -> bool {
        self.left_out
    }

    /// The same, showing a token with every request.
    pub fn showing(self, token: Secret) -> Follower {
        Follower { connection: self.connection.showing(token), ..self }
    }

    /// Waits for news, however long that takes and whatever fails meanwhile. Gives their index too.
    pub async fn next(&mut self) -> (u64, Value) {
        loop {
            match self.look().await {
                Ok(Some(news)) => return news,
                Ok(None) => {}
                Err(reason) => {
                    let pause = self.failed();
                    tracing::warn!(kind = ?self.watch.kind, reason, ?pause, "a watch could not look");
                    self.env.sleep(pause).await;
                }
            }
        }
    }

    /// Notes that a look failed; gives how long to wait before the next.
    pub fn failed(&mut self) -> Duration {
        self.seen.failed()
    }

    /// Looks once, and waits there if something was seen before. Nothing is no news.
    ///
    /// # Errors
    /// Why it could not be looked, in words.
    pub async fn look(&mut self) -> Result<Option<(u64, Value)>, String> {
        let mut path = look_at(&self.watch);
        if self.seen.index > 0 {
            path.push_str(&format!("&index={}&wait={}s", self.seen.index, WAIT.as_secs()));
        }
        let asked = self.connection.call(Method::GET, &path, Bytes::new(), WAIT + PATIENCE).await;
        let response = asked.map_err(|error| error.to_string())?;
        let index = response.header("x-consul-index").and_then(|index| index.parse().ok()).unwrap_or(0);
        let keys = matches!(self.watch.kind, Kind::Key | Kind::KeyPrefix);
        let value = match response.status {
            404 if self.watch.kind == Kind::Key => Value::Null,
            404 if keys => Value::Array(Vec::new()),
            200 => {
                let value: Value = serde_json::from_slice(&response.body)
                    .map_err(|error| format!("the answer is not JSON ({error})"))?;
                match value {
                    Value::Array(entries) if self.watch.kind == Kind::Key => {
                        entries.into_iter().next().unwrap_or_default()
                    }
                    value => value,
                }
            }
            status => return Err(format!("{status}: {}", response.text().trim_end())),
        };
        self.left_out = response.header("x-consul-results-filtered-by-acls") == Some("true");
        Ok(self.seen.heard(self.watch.kind, index, value).map(|news| (index, news)))
    }
}

/// Follows the watches that are configured, and those that take their place, until dropped. `http` is where the agent's own API
/// listens.
pub async fn keep(agent: Agent, http: SocketAddr) {
    let mut configured = agent.config_changes();
    // Each in a task of its own, by what it is: the same one twice does everything twice.
    let mut running: Vec<(Watch, AbortOnDrop)> = Vec::new();
    loop {
        let wanted = configured.borrow_and_update().watches.clone();
        let mut kept = std::mem::take(&mut running);
        for watch in wanted {
            // One that stays as it was goes on, and does not say again what it has said.
            let task = match kept.iter().position(|(known, _)| *known == watch) {
                Some(at) => kept.swap_remove(at).1,
                None => agent.env().spawn(follow(agent.clone(), api_of(http), watch.clone())).abort_on_drop(),
            };
            running.push((watch, task));
        }
        drop(kept);
        if configured.changed().await.is_err() {
            return;
        }
    }
}

/// Where to reach what listens everywhere.
fn api_of(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

async fn follow(agent: Agent, api: SocketAddr, watch: Watch) {
    let mut follower = Follower::new(agent.env(), api, watch.clone());
    let mut left_out = false;
    loop {
        let (index, news) = follower.next().await;
        if left_out != follower.left_out() {
            left_out = follower.left_out();
            tracing::warn!(kind = ?watch.kind, left_out, "whether a watch's token may see all that it looks at has changed");
        }
        if let Err(reason) = handle(&agent, &watch, index, &news).await {
            tracing::warn!(kind = ?watch.kind, index, reason, "a watch's handler failed");
        }
    }
}

/// Tells the handler. What it answers is logged.
async fn handle(agent: &Agent, watch: &Watch, index: u64, news: &Value) -> Result<(), String> {
    let json = format!("{news}\n");
    if let Some(http) = &watch.http_handler_config {
        let mut headers: Vec<(String, String)> = http
            .header
            .iter()
            .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.expose().to_owned())))
            .collect();
        headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        headers.push(("X-Consul-Index".to_owned(), index.to_string()));
        let method = if http.method.is_empty() { "POST" } else { &http.method };
        let guard = Guard { unverified: http.tls_skip_verify, ..Guard::default() };
        let (env, process) = (agent.env(), agent.process());
        let question = Question::new(&http.path, method, &headers, &json)?;
        let sending = probe::ask(env, process, question, &guard, false);
        let within = http.timeout().unwrap_or(HANDLER);
        let sent = agent.env().timeout(within, sending).await;
        let (status, output) = sent.map_err(|_| format!("no answer within {within:?}"))??;
        tracing::debug!(%status, output, "a watch's handler answered");
        return if status.is_success() { Ok(()) } else { Err(format!("HTTP {status}: {output}")) };
    }
    let process = agent.process().ok_or("no programs can be run here")?;
    let variables = BTreeMap::from([("CONSUL_INDEX".to_owned(), index.to_string())]);
    let given = Given { input: json.into(), variables };
    let (code, output) = process.run(&watch.args, given, HANDLER).await?;
    tracing::debug!(code, output, "a watch's handler ran");
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(format!("exit code {code}: {output}")),
        None => Err(format!("ended by a signal: {output}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn watch(json: Value) -> Watch {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn each_kind_looks_where_its_answer_is() {
        let cases = [
            (json!({ "type": "key", "key": "a/b c" }), "/v1/kv/a/b%20c?"),
            (json!({ "type": "keyprefix", "prefix": "a/", "stale": true }), "/v1/kv/a/?recurse=&stale="),
            (json!({ "type": "services" }), "/v1/catalog/services?"),
            (json!({ "type": "nodes" }), "/v1/catalog/nodes?"),
            (
                json!({ "type": "service", "service": "web", "tag": "v/1", "passingonly": true }),
                "/v1/health/service/web?tag=v%2F1&passing=",
            ),
            (json!({ "type": "checks" }), "/v1/health/state/any?"),
            (json!({ "type": "checks", "state": "warning" }), "/v1/health/state/warning?"),
            (json!({ "type": "checks", "service": "web" }), "/v1/health/checks/web?"),
            (json!({ "type": "event", "name": "x", "token": "t" }), "/v1/event/list?name=x&token=t"),
        ];
        for (json, expected) in cases {
            assert_eq!(look_at(&watch(json)), expected);
        }
    }

    #[test]
    fn only_what_changed_is_news() {
        let mut seen = Seen::default();
        assert_eq!(seen.heard(Kind::Key, 5, json!(null)), Some(json!(null)));
        assert_eq!(seen.heard(Kind::Key, 5, json!(null)), None);
        assert_eq!(seen.heard(Kind::Key, 7, json!(1)), Some(json!(1)));
        // Something else moved the index.
        assert_eq!(seen.heard(Kind::Key, 9, json!(1)), None);
        assert_eq!(seen.index, 9);
        // Another history: the next look does not wait for an index of the old one.
        assert_eq!(seen.heard(Kind::Key, 3, json!(2)), Some(json!(2)));
        assert_eq!(seen.index, 0);
        assert_eq!(seen.heard(Kind::Key, 3, json!(2)), None);
        assert_eq!(seen.index, 3);
    }

    #[test]
    fn failures_are_waited_out_and_what_was_seen_is_not_told_again() {
        let mut seen = Seen::default();
        seen.heard(Kind::Nodes, 5, json!([1]));
        let pauses: Vec<u64> = (0..8).map(|_| seen.failed().as_secs()).collect();
        assert_eq!(pauses, [5, 20, 45, 80, 125, 180, 180, 180]);
        assert_eq!(seen.index, 0);
        assert_eq!(seen.heard(Kind::Nodes, 5, json!([1])), None);
        assert_eq!(seen.failed().as_secs(), 5);
        for _ in 0..100_000 {
            assert!(seen.failed() <= RETRY_MAX);
        }
    }

    #[test]
    fn of_events_only_the_new_ones_are_told() {
        let events = |ids: &[&str]| Value::Array(ids.iter().map(|id| json!({ "ID": id })).collect());
        let mut seen = Seen::default();
        assert_eq!(seen.heard(Kind::Event, 1, events(&[])), None);
        assert_eq!(seen.heard(Kind::Event, 90, events(&["a", "b"])), Some(events(&["a", "b"])));
        assert_eq!(seen.heard(Kind::Event, 20, events(&["a", "b", "c"])), Some(events(&["c"])));
        assert_eq!(seen.index, 20);
        // The oldest is pushed out; one that is older than others arrives.
        assert_eq!(seen.heard(Kind::Event, 20, events(&["b", "c"])), None);
        assert_eq!(seen.heard(Kind::Event, 30, events(&["b", "x", "c"])), Some(events(&["x"])));
    }
}
