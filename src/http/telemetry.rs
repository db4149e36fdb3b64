//! `/v1/agent/metrics` and `/v1/agent/monitor`: what an agent counts, and what it logs.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use crate::agent::ReadError;
use crate::agent::metrics::{Aggregate, INTERVAL, Key, gauges};
use crate::agent::process::LogError;
use crate::state::acl::{Access, Kind};

use super::reply::{self, Failure, Reply};
use super::{Api, Call};

/// The form of go-metrics' in-memory sink.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    timestamp: String,
    gauges: Vec<Gauge>,
    points: [(); 0],
    counters: Vec<Sample>,
    samples: Vec<Sample>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Gauge {
    name: String,
    value: f64,
    labels: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Sample {
    name: &'static str,
    count: u64,
    rate: f64,
    sum: f64,
    min: f64,
    max: f64,
    mean: f64,
    stddev: f64,
    labels: BTreeMap<&'static str, String>,
}

impl Sample {
    fn new((key, aggregate): (Key, Aggregate)) -> Sample {
        Sample {
            name: key.name,
            count: aggregate.count,
            rate: aggregate.sum / INTERVAL.as_secs_f64(),
            sum: aggregate.sum,
            min: aggregate.min,
            max: aggregate.max,
            mean: aggregate.mean(),
            stddev: aggregate.deviation(),
            labels: key.labels.into_iter().collect(),
        }
    }
}

/// Whether what a client accepts says that it is a scraper of Prometheus', as Consul decides it.
fn scrapes(accepted: &str) -> bool {
    accepted.split(',').any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        // Consul looks for 0.4.0, and the format's version is 0.0.4.
        let versions = ["version=0.0.4", "version=0.4.0"];
        name == "application/openmetrics-text"
            || name == "text/plain" && parts.next().is_some_and(|version| versions.contains(&version))
    })
}

/// The last complete interval, or for `?format=prometheus` and for scrapers the totals since the start.
pub async fn metrics(api: Arc<Api>, call: Call) -> Reply {
    let stats = api.agent.stats();
    let accepted = call.head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let scraper = accepted.is_some_and(scrapes).then_some("prometheus");
    match call.params.text("format").or(scraper) {
        None => {
            let interval = api.agent.metrics().last_interval();
            let gauges = gauges(&stats).into_iter();
            let summary = Summary {
                timestamp: timestamp(interval.began),
                gauges: gauges.map(|(name, value)| Gauge { name, value, labels: BTreeMap::new() }).collect(),
                points: [],
                counters: interval.counters.into_iter().map(Sample::new).collect(),
                samples: interval.samples.into_iter().map(Sample::new).collect(),
            };
            reply::json(&summary, call.params.pretty())
        }
        Some("prometheus") => {
            let text = api.agent.metrics().prometheus(&stats).map_err(Failure::internal)?;
            let mut response = Response::new(Body::from(text));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(response)
        }
        Some(other) => {
            let text = format!("Unknown format {other:?}: leave it out for JSON, or ask for prometheus");
            Err(Failure::bad_request(text))
        }
    }
}

/// The least time between two looks at whether a client may still see the log.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Log lines as they come, until the client hangs up or may not see them any more, or the agent stops.
pub async fn monitor(api: Arc<Api>, call: Call) -> Reply {
    let level = call.params.text("loglevel").unwrap_or("info");
    let json = call.params.switch("logjson");
    let lines = api.agent.watch_log(level, json).map_err(|error| match error {
        LogError::UnknownLevel(_) => Failure::bad_request(error.to_string()),
        LogError::Refused(_) => Failure::internal(error.to_string()),
    })?;
    let lines = lines.map(move |lines| if json { as_hclog(&lines) } else { lines });
    let lines = lines.take_until(forbidden(api));
    let mut response = Response::new(Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Completes once whoever watches may not any more: the log goes on for longer than many a token lives. It is asked as often
/// as an agent believes what it remembers of a token. If nobody can say, whoever was let in stays: the log is needed then.
async fn forbidden(api: Arc<Api>) {
    loop {
        let config = api.agent.config();
        let pause = Duration::from_millis(config.acl.token_ttl_ms).max(LOOK_AGAIN);
        api.agent.env().sleep(pause).await;
        let judged = match api.agent.authorizer().await {
            Ok(who) => who.require(Kind::Agent, &config.node_name, Access::Read).map_err(|denied| denied.0),
            Err(ReadError::Denied(reason)) => Err(reason),
            Err(_) => Ok(()),
        };
        if let Err(reason) = judged {
            tracing::info!(reason, "a client may not see the log any more");
            return;
        }
    }
}

/// Our lines in JSON with the keys of Consul's logger, hclog: `@level`, `@message`, `@module`, `@timestamp`, and what else
/// a line says beside them. A line that is something else stays as it is.
fn as_hclog(lines: &str) -> String {
    let mut out = String::new();
    for line in lines.lines() {
        match serde_json::from_str(line) {
            Ok(Value::Object(said)) => out.push_str(&hclog(said).to_string()),
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

fn hclog(mut said: serde_json::Map<String, Value>) -> Value {
    if let Some(dropped) = said.get("dropped").filter(|_| said.len() == 1) {
        // Between two lines: so many are missing here.
        let message = format!("{dropped} lines were dropped, because they were not read fast enough");
        return json!({ "@level": "warn", "@message": message, "dropped": dropped });
    }
    let mut line = serde_json::Map::new();
    for (ours, theirs) in [("timestamp", "@timestamp"), ("target", "@module")] {
        if let Some(value) = said.remove(ours) {
            line.insert(theirs.to_owned(), value);
        }
    }
    if let Some(Value::String(level)) = said.remove("level") {
        line.insert("@level".to_owned(), level.to_lowercase().into());
    }
    if let Some(Value::Object(mut fields)) = said.remove("fields") {
        line.insert("@message".to_owned(), fields.remove("message").unwrap_or_else(|| "".into()));
        line.extend(fields);
    }
    // The spans that it was said in.
    line.extend(said);
    Value::Object(line)
}

/// A time since 1970 as go-metrics shows it: `2024-02-29 23:59:50 +0000 UTC`.
fn timestamp(since_1970: Duration) -> String {
    let [year, month, day, hour, minute, second] = civil(since_1970.as_secs());
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 UTC")
}

/// A time since 1970 as JSON has it: `2024-02-29T23:59:50Z`.
pub fn rfc3339(since_1970: Duration) -> String {
    let [year, month, day, hour, minute, second] = civil(since_1970.as_secs());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month, day, hour, minute and second of a time in seconds since 1970.
fn civil(seconds: u64) -> [u64; 6] {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar: years are counted from March, so that leap days come last
    // (Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    [year, month, day, second / 3_600, second / 60 % 60, second % 60]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_json_have_the_keys_of_hclog() {
        let line = json!({
            "timestamp": "2024-02-29T23:59:50.000001Z", "level": "WARN", "target": "driftline::agent",
            "fields": { "message": "a peer is gone", "peer": "n2", "level": 3 },
        });
        let out = as_hclog(&format!("{}\n{line}\n", r#"{"dropped":7}"#));
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let gap = "7 lines were dropped, because they were not read fast enough";
        assert_eq!(
            lines,
            [
                json!({ "@level": "warn", "@message": gap, "dropped": 7 }),
                json!({
                    "@timestamp": "2024-02-29T23:59:50.000001Z", "@level": "warn", "@module": "driftline::agent",
                    "@message": "a peer is gone", "peer": "n2", "level": 3,
                }),
            ]
        );
        assert_eq!(as_hclog("no JSON\n"), "no JSON\n");
    }

    #[test]
    fn scrapers_are_known_by_what_they_accept() {
        for accepted in ["", ";;;", ",,,", "*/*", "text/plain", "text/html;version=0.0.4", "text/plain;q=1"] {
            assert!(!scrapes(accepted), "{accepted}");
        }
        for accepted in [
            "text/plain;version=0.4.0,",
            "text/plain   ;   version=0.4.0",
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "*/*, application/openmetrics-text ;q=1",
            "Application/OpenMetrics-Text; version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        ] {
            assert!(scrapes(accepted), "{accepted}");
        }
    }

    #[test]
    fn times_are_dates() {
        let cases = [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (951_782_399, "2000-02-28 23:59:59 +0000 UTC"),
            (951_782_400, "2000-02-29 00:00:00 +0000 UTC"),
            (1_709_251_190, "2024-02-29 23:59:50 +0000 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 +0000 UTC"),
        ];
        for (seconds, text) in cases {
            assert_eq!(timestamp(Duration::from_secs(seconds)), text);
        }
    }
}
