//! What a running agent counts and times, for those who watch over it.
//!
//! Two views of the same: the last complete interval of [`INTERVAL`], as `/v1/agent/metrics` shows it in the form of
//! go-metrics' in-memory sink, and totals since the start, in Prometheus' text format (version 0.0.4). Gauges are not
//! kept: they are what [`Stats`] says at the moment somebody asks.
//!
//! Intervals turn when something is recorded or read, so an idle agent keeps no timer. A name with its labels is kept
//! until the agent stops; labels come from a fixed set of words, so their number is bounded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Summary};
use prometheus::{Encoder, TextEncoder};

use crate::env::Env;

use super::Stats;

/// How long an interval is.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// What every name begins with; Consul's, so that its dashboards find what they look for.
pub const PREFIX: &str = "consul";

/// Which of the things that are counted or timed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its name, with dots.
    pub name: &'static str,
    /// What tells it from others of the name.
    pub labels: Vec<(&'static str, String)>,
}

/// Many values in few numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Aggregate {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub squares: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Aggregate {
    fn add(&mut self, value: f64) {
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = if self.count == 0 { value } else { self.max.max(value) };
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
    }

    /// Their mean; 0 of none.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// Their standard deviation; 0 of fewer than two.
    pub fn deviation(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let count = self.count as f64;
        let variance = (self.squares - self.sum * self.sum / count) / (count - 1.0);
        variance.max(0.0).sqrt()
    }
}

/// What happened within an interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interval {
    /// When it began, on the wall, for people to read.
    pub began: Duration,
    /// What was counted.
    pub counters: BTreeMap<Key, Aggregate>,
    /// What was timed, in milliseconds.
    pub samples: BTreeMap<Key, Aggregate>,
}

/// The numbers of one agent. Clones are the same numbers.
#[derive(Clone)]
pub struct Metrics {
    env: Env,
    sink: Arc<Mutex<Sink>>,
}

#[derive(Default)]
struct Sink {
    /// Which interval since the clock's beginning is the current one.
    number: u64,
    current: Interval,
    last: Option<Interval>,
    counted: BTreeMap<Key, f64>,
    timed: BTreeMap<Key, (u64, f64)>,
}

impl Metrics {
    /// Nothing yet.
    pub fn new(env: &Env) -> Metrics {
        let sink = Sink {
            number: number(env),
            current: Interval { began: env.wall(), ..Interval::default() },
            ..Sink::default()
        };
        Metrics { env: env.clone(), sink: Arc::new(Mutex::new(sink)) }
    }

    /// Counts something that happened.
    pub fn count(&self, name: &'static str, labels: Vec<(&'static str, String)>) {
        self.with(|sink| {
            let key = Key { name, labels };
            sink.current.counters.entry(key.clone()).or_default().add(1.0);
            *sink.counted.entry(key).or_default() += 1.0;
        });
    }

    /// Notes how long something took.
    pub fn time(&self, name: &'static str, labels: Vec<(&'static str, String)>, took: Duration) {
        let ms = took.as_secs_f64() * 1e3;
        self.with(|sink| {
            let key = Key { name, labels };
            sink.current.samples.entry(key.clone()).or_default().add(ms);
            let total = sink.timed.entry(key).or_default();
            *total = (total.0 + 1, total.1 + ms);
        });
    }

    /// The last complete interval; the first one while it is not over.
    pub fn last_interval(&self) -> Interval {
        self.with(|sink| sink.last.clone().unwrap_or_else(|| sink.current.clone()))
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// When it cannot be encoded, which no name used here brings about.
    pub fn prometheus(&self, stats: &Stats) -> Result<String, String> {
        let mut families = Vec::new();
        for (name, value) in gauges(stats) {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = Metric::default();
            metric.set_gauge(gauge);
            families.push(family(&name, MetricType::GAUGE, vec![metric]));
        }
        let (counted, timed) = self.with(|sink| (sink.counted.clone(), sink.timed.clone()));
        for (name, metrics) in by_name(counted, |value| {
            let mut counter = Counter::default();
            counter.set_value(value);
            let mut metric = Metric::default();
            metric.set_counter(counter);
            metric
        }) {
            families.push(family(name, MetricType::COUNTER, metrics));
        }
        for (name, metrics) in by_name(timed, |(count, sum)| {
            let mut summary = Summary::default();
            summary.set_sample_count(count);
            summary.set_sample_sum(sum);
            let mut metric = Metric::default();
            metric.set_summary(summary);
            metric
        }) {
            families.push(family(name, MetricType::SUMMARY, metrics));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).map_err(|error| error.to_string())?;
        String::from_utf8(text).map_err(|error| error.to_string())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Sink) -> T) -> T {
        self.with_at(number(&self.env), f)
    }

    /// As if it were in the interval of this number.
    fn with_at<T>(&self, now: u64, f: impl FnOnce(&mut Sink) -> T) -> T {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if sink.number != now {
            let fresh = Interval { began: self.env.wall(), ..Interval::default() };
            let ended = std::mem::replace(&mut sink.current, fresh);
            // Between the one that ended and this one there may have been some in which nothing happened.
            let next = sink.number + 1 == now;
            sink.last =
                Some(if next { ended } else { Interval { began: ended.began, ..Interval::default() } });
            sink.number = now;
        }
        f(&mut sink)
    }
}

fn number(env: &Env) -> u64 {
    env.now().0 / u64::try_from(INTERVAL.as_nanos()).unwrap_or(u64::MAX)
}

/// The numbers among the statistics, by name.
pub fn gauges(stats: &Stats) -> Vec<(String, f64)> {
    let mut gauges = Vec::new();
    for (section, facts) in stats {
        for (key, value) in facts {
            let number = match value.as_str() {
                "true" => Some(1.0),
                "false" => Some(0.0),
                // An id in digits is no quantity.
                _ if key.ends_with("_id") || key.ends_with("digest") || section == "build" => None,
                text => text.parse().ok().filter(|number: &f64| number.is_finite()),
            };
            if let Some(number) = number {
                gauges.push((format!("{PREFIX}.{section}.{key}"), number));
            }
        }
    }
    gauges
}

fn by_name<T>(values: BTreeMap<Key, T>, metric: impl Fn(T) -> Metric) -> BTreeMap<&'static str, Vec<Metric>> {
    let mut found: BTreeMap<&'static str, Vec<Metric>> = BTreeMap::new();
    for (key, value) in values {
        let mut metric = metric(value);
        let labels = key.labels.into_iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        });
        metric.set_label(labels.collect());
        found.entry(key.name).or_default().push(metric);
    }
    found
}

fn family(name: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let mut family = MetricFamily::default();
    family.set_name(name.chars().map(plain).collect());
    family.set_help(name.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::env_in_memory;

    #[test]
    fn many_values_are_told_in_few_numbers() {
        let mut aggregate = Aggregate::default();
        assert_eq!((aggregate.mean(), aggregate.deviation()), (0.0, 0.0));
        for value in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            aggregate.add(value);
        }
        assert_eq!((aggregate.count, aggregate.sum, aggregate.min, aggregate.max), (8, 40.0, 2.0, 9.0));
        assert_eq!(aggregate.mean(), 5.0);
        assert!((aggregate.deviation() - 2.138).abs() < 1e-3);
    }

    #[tokio::test]
    async fn what_prometheus_reads_is_what_was_recorded() {
        let metrics = Metrics::new(&env_in_memory(1));
        let label = |path: &str| vec![("path", path.to_owned())];
        metrics.time("consul.api.http", label("/v1/kv"), Duration::from_millis(4));
        metrics.time("consul.api.http", label("/v1/kv"), Duration::from_millis(6));
        metrics.time("consul.api.http", label("say \"hi\"\n\\"), Duration::from_millis(1));
        metrics.count("consul.rpc.failed", Vec::new());
        let facts = [("term", "7"), ("state", "Leader"), ("leader", "true"), ("cluster_id", "12")];
        let facts = facts.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let stats = BTreeMap::from([("raft".to_owned(), BTreeMap::from(facts))]);
        let text = metrics.prometheus(&stats).unwrap();

        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let scrape = prometheus_parse::Scrape::parse(lines).unwrap();
        let value = |name: &str, path: Option<&str>| {
            let found = scrape.samples.iter().find(|sample| {
                sample.metric == name && path.is_none_or(|path| sample.labels.get("path") == Some(path))
            });
            found.map(|sample| sample.value.clone())
        };
        use prometheus_parse::Value;
        assert_eq!(value("consul_raft_term", None), Some(Value::Gauge(7.0)));
        assert_eq!(value("consul_raft_leader", None), Some(Value::Gauge(1.0)));
        assert_eq!(value("consul_raft_cluster_id", None), None);
        assert_eq!(value("consul_rpc_failed", None), Some(Value::Counter(1.0)));
        assert_eq!(value("consul_api_http_count", Some("/v1/kv")), Some(Value::Untyped(2.0)));
        assert_eq!(value("consul_api_http_sum", Some("/v1/kv")), Some(Value::Untyped(10.0)));
    }

    #[tokio::test]
    async fn an_interval_holds_what_happened_in_it() {
        let metrics = Metrics::new(&env_in_memory(1));
        metrics.count("consul.a", Vec::new());
        metrics.count("consul.a", Vec::new());
        let first = metrics.last_interval();
        assert_eq!(first.counters.values().map(|counter| counter.count).collect::<Vec<_>>(), [2]);
        // The next interval begins; then nothing happens for a long time.
        let now = number(&metrics.env) + 1;
        let last = |number| metrics.with_at(number, |sink| sink.last.clone());
        assert_eq!(last(now), Some(first));
        assert_eq!(last(now + 5).map(|interval| interval.counters.len()), Some(0));
    }
}
