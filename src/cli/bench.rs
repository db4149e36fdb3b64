//! `driftline bench`: asks a running cluster many things at once, says how fast it answered, and writes down
//! what it was told.
//!
//! Each connection is one client, which asks one thing after the other; a share of them asks each server. In a
//! *closed* loop a client asks again as soon as it has its answer, so a slow cluster is asked less. In an *open* loop (`--rate`)
//! the times at which to ask are fixed beforehand, and latency counts from those: a client that comes late because
//! the last answer was late has waited all the same (Tene's "coordinated omission").
//!
//! With `--history` every operation is recorded ([`driftline::history`]) for `cargo sim check` to judge. For that the
//! keys are fresh ones and each value is written once, and what cannot be known is written down as unknown. A client that cannot reach its server
//! goes on with the next one.
//!
//! Left out: operations on many keys, watches, and stale reads, which promise nothing that a history could
//! refute.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use driftline::env::{Env, Instant, Rng, real};
use driftline::history::{self, Action, Operation, Outcome, Response};
use driftline::http::client::Connection;
use driftline::secret::Secret;
use hdrhistogram::Histogram;
use rand::{Rng as _, RngExt};
use serde::Serialize;
use tokio::signal::unix::SignalKind;

use super::process::listen;
use super::{Problem, Token, environment, plain};

/// After a server that could not be reached a client rests this long, so that it does not spin.
const REST: Duration = Duration::from_millis(20);

/// So many different texts of errors are counted; what else goes wrong counts as "other".
const TEXTS: usize = 12;

/// Two digits more than people read, in a few hundred kilobytes a histogram.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The longest latency that is told apart, in microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// The flags of `driftline bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Addresses of the servers' HTTP APIs, with commas or repeated
    #[arg(
        long,
        env = "DRIFTLINE_HTTP_ADDR",
        default_value = "127.0.0.1:8500",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    http_addr: Vec<String>,
    /// How many clients ask at once, each over a connection of its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Seconds to go on
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400), conflicts_with = "operations")]
    duration: u64,
    /// Stop after so many operations instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    operations: Option<u64>,
    /// Open loop: so many operations a second in all, whether or not the cluster keeps up
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Parts of reads, writes, compare-and-sets and deletes, as in get=5,put=4,cas=1. A compare-and-set comes with
    /// the read that it needs, which counts as one
    #[arg(long, value_name = "PARTS", default_value = "get=50,put=50", value_parser = Mix::parse)]
    mix: Mix,
    /// How many keys there are, each as likely as the others
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// What the keys begin with [default: bench/, with --history bench/ and the run's number]
    #[arg(long, value_name = "PREFIX", value_parser = plain_prefix)]
    prefix: Option<String>,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u64).range(16..=8_388_608))]
    value_size: u64,
    /// Seconds to wait for an answer
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// What is drawn follows from this; from the system's randomness if absent
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How to print the summary
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Record every operation in FILE, as JSON lines
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Overwrite that FILE if it exists
    #[arg(long, requires = "history")]
    force: bool,
    #[command(flatten)]
    token: Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people.
    Text,
    /// One JSON object.
    Json,
}

/// The kinds of operation, by the names that `--mix` and the summary use.
const KINDS: [&str; 4] = ["get", "put", "cas", "delete"];

/// How many parts of each of [`KINDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mix([u32; 4]);

impl Mix {
    fn parse(text: &str) -> Result<Mix, String> {
        let mut parts = [0u32; 4];
        for part in text.split(',') {
            let (kind, count) = part.split_once('=').ok_or_else(|| format!("{part:?}: want KIND=PARTS"))?;
            let at = KINDS.iter().position(|known| *known == kind);
            let at = at.ok_or_else(|| format!("{kind:?}: there are {}", KINDS.join(", ")))?;
            let count: u32 = count.parse().map_err(|error| format!("{part:?}: {error}"))?;
            if count > 1_000_000 {
                return Err(format!("{part:?}: at most 1000000 parts"));
            }
            parts[at] = count;
        }
        if parts.iter().all(|count| *count == 0) {
            return Err("every part is 0".to_owned());
        }
        Ok(Mix(parts))
    }

    fn draw(self, rng: &mut Rng) -> usize {
        let all: u32 = self.0.iter().sum();
        let mut left = rng.random_range(0..all);
        for (kind, parts) in self.0.into_iter().enumerate() {
            if left < parts {
                return kind;
            }
            left -= parts;
        }
        0
    }
}

/// Keys go into paths as they are.
fn plain_prefix(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./~".contains(c);
    match text.chars().find(|c| !plain(*c)) {
        None if text.len() <= 256 => Ok(text.to_owned()),
        None => Err("want at most 256 bytes".to_owned()),
        Some(c) => Err(format!("{c:?}: want letters, digits and -_./~ only")),
    }
}

/// What all clients share.
struct Bench {
    token: Secret,
    servers: Vec<SocketAddr>,
    mix: Mix,
    keys: u64,
    prefix: String,
    value_size: usize,
    timeout: Duration,
    begun: Instant,
    until: Option<Instant>,
    most: u64,
    /// Between two operations of an open loop.
    pace_ns: Option<f64>,
    next: AtomicU64,
    ids: AtomicU64,
    stopped: AtomicBool,
    record: Option<Mutex<Record>>,
    tally: Mutex<Tally>,
}

/// The history on its way to the file.
struct Record {
    output: BufWriter<File>,
    trouble: io::Result<()>,
}

/// What came of the operations of one kind.
struct Kind {
    ok: u64,
    failed: u64,
    unknown: u64,
    /// Of those that were answered, in microseconds.
    latency: Histogram<u64>,
}

struct Tally {
    kinds: Vec<Kind>,
    texts: BTreeMap<String, u64>,
}

impl Tally {
    fn new() -> Result<Tally, Problem> {
        let kind = || {
            let latency = Histogram::new_with_bounds(1, LONGEST_US, SIGNIFICANT_DIGITS)
                .map_err(|error| Problem::failed(format!("cannot count latencies: {error}")))?;
            Ok(Kind { ok: 0, failed: 0, unknown: 0, latency })
        };
        Ok(Tally {
            kinds: KINDS.iter().map(|_| kind()).collect::<Result<_, Problem>>()?,
            texts: BTreeMap::new(),
        })
    }

    fn count(&mut self, kind: usize, outcome: &Outcome, latency: Duration) {
        let Some(one) = self.kinds.get_mut(kind) else { return };
        let reason = match outcome {
            Outcome::Ok(_) => {
                one.ok += 1;
                one.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
                return;
            }
            Outcome::Failed(reason) => {
                one.failed += 1;
                reason
            }
            Outcome::Unknown(reason) => {
                one.unknown += 1;
                reason
            }
        };
        let text = reason.lines().next().unwrap_or_default();
        let text = if self.texts.len() < TEXTS || self.texts.contains_key(text) { text } else { "other" };
        *self.texts.entry(text.to_owned()).or_default() += 1;
    }
}

/// Runs the whole and returns what it prints.
pub fn run(args: BenchArgs) -> Result<Vec<u8>, Problem> {
    environment::check(environment::told)?;
    if environment::wants_https(environment::told)? {
        return Err(Problem::usage("CONSUL_HTTP_SSL: this command speaks no TLS: unset it"));
    }
    let servers = args.http_addr.iter().map(|text| plain(text)).collect::<Result<Vec<_>, _>>()?;
    let record = args.history.as_deref().map(|path| create(path, args.force)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let env = match args.seed {
            Some(seed) => real::env_in_memory(seed),
            None => real::ephemeral_env()
                .map_err(|error| Problem::failed(format!("cannot use the network: {error}")))?,
        };
        bench(&env, &args, servers, record).await
    })
}

fn create(path: &Path, overwrite: bool) -> Result<File, Problem> {
    let mut options = OpenOptions::new();
    options.write(true);
    match overwrite {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Problem::usage(format!("{} exists; --force overwrites it", path.display()))
        }
        _ => Problem::failed(format!("cannot write {}: {error}", path.display())),
    })
}

async fn bench(
    env: &Env,
    args: &BenchArgs,
    servers: Vec<SocketAddr>,
    record: Option<File>,
) -> Result<Vec<u8>, Problem> {
    // A history begins with keys that were never there.
    let run = record.as_ref().map(|_| format!("{:016x}/", env.rng("run").next_u64())).unwrap_or_default();
    let begun = env.now();
    let bench = Arc::new(Bench {
        servers,
        token: args.token.secret()?,
        mix: args.mix,
        keys: args.keys,
        prefix: args.prefix.clone().unwrap_or_else(|| format!("bench/{run}")),
        value_size: usize::try_from(args.value_size).unwrap_or(usize::MAX),
        timeout: Duration::from_secs(args.timeout),
        begun,
        until: args.operations.is_none().then(|| begun + Duration::from_secs(args.duration)),
        most: args.operations.unwrap_or(u64::MAX),
        pace_ns: args.rate.map(|rate| 1e9 / rate as f64),
        next: AtomicU64::new(0),
        ids: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        record: record.map(|file| Mutex::new(Record { output: BufWriter::new(file), trouble: Ok(()) })),
        tally: Mutex::new(Tally::new()?),
    });
    // The first signal ends it with a summary and a whole history; a second one ends the process.
    let mut interrupt = listen(SignalKind::interrupt())?;
    let told = bench.clone();
    let listening = env.spawn(async move {
        let _ = interrupt.recv().await;
        told.stopped.store(true, Ordering::Relaxed);
        let _ = interrupt.recv().await;
        std::process::exit(130);
    });
    let clients: Vec<_> =
        (0..args.connections).map(|number| env.spawn(bench.clone().client(env.clone(), number))).collect();
    for client in clients {
        client.await.map_err(|error| Problem::failed(format!("a client ended early: {error}")))?;
    }
    listening.abort();
    let seconds = env.now().since(begun).as_secs_f64();
    if let Some(record) = &bench.record {
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = std::mem::replace(&mut record.trouble, Ok(()));
        trouble
            .and_then(|()| record.output.flush())
            .map_err(|error| Problem::failed(format!("the history is incomplete: {error}")))?;
    }
    let tally = bench.tally.lock().unwrap_or_else(PoisonError::into_inner);
    let summary = Summary::of(args, &bench, &tally, seconds);
    if tally.kinds.iter().all(|kind| kind.ok == 0) {
        let text = summary.text();
        return Err(Problem::failed(format!("not one operation was answered\n{}", text.trim_end())));
    }
    match args.format {
        Format::Text => Ok(summary.text().into_bytes()),
        Format::Json => {
            let mut json = serde_json::to_vec(&summary)
                .map_err(|error| Problem::failed(format!("the summary is no JSON: {error}")))?;
            json.push(b'\n');
            Ok(json)
        }
    }
}

impl Bench {
    /// When the next operation is due: now, or when the plan of an open loop says. `None`: there is no next one.
    async fn due(&self, env: &Env) -> Option<Instant> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.most {
            return None;
        }
        let due = match self.pace_ns {
            Some(pace_ns) => self.begun + Duration::from_nanos((number as f64 * pace_ns) as u64),
            None => env.now(),
        };
        if self.until.is_some_and(|until| due >= until) {
            return None;
        }
        env.sleep_until(due).await;
        // Also if the sleep was none: an open loop that cannot keep up must end with its time too.
        let over = self.until.is_some_and(|until| env.now() >= until);
        (!over && !self.stopped.load(Ordering::Relaxed)).then_some(due)
    }

    /// One client, from its first question to its last.
    async fn client(self: Arc<Bench>, env: Env, number: u32) {
        let mut rng = env.rng(&format!("client {number}"));
        let mut at = number as usize % self.servers.len();
        let mut connection = Connection::new(env.clone(), self.servers[at]).showing(self.token.clone());
        let mut written = 0u64;
        while let Some(due) = self.due(&env).await {
            let kind = self.mix.draw(&mut rng);
            let key = format!("{}k{}", self.prefix, rng.random_range(0..self.keys));
            let mut value = || {
                written += 1;
                self.value(number, written)
            };
            let mut ask = async |action: Action, index: u64, due: Instant| {
                self.ask(&env, &mut connection, (number, at), &key, action, index, due).await
            };
            let outcome = match KINDS[kind] {
                "get" => ask(Action::Get, 0, due).await,
                "put" => ask(Action::Put { value: value() }, 0, due).await,
                "delete" => ask(Action::Delete, 0, due).await,
                _ => match ask(Action::Get, 0, due).await {
                    Outcome::Ok(Response::Value(seen)) => {
                        let index = seen.as_ref().map_or(0, |seen| seen.modify_index);
                        let expected = seen.map(|seen| seen.value);
                        ask(Action::Cas { expected, value: value() }, index, env.now()).await
                    }
                    unread => unread,
                },
            };
            if !matches!(outcome, Outcome::Ok(_)) {
                at = (at + 1) % self.servers.len();
                connection = Connection::new(env.clone(), self.servers[at]).showing(self.token.clone());
                env.sleep(REST).await;
            }
        }
    }

    /// A value that this run writes once: who wrote it and how many it had written, filled up to its size.
    fn value(&self, client: u32, written: u64) -> String {
        let mut value = format!("{client:x}-{written:x}-");
        while value.len() < self.value_size {
            value.push('v');
        }
        value
    }

    #[allow(clippy::too_many_arguments)]
    async fn ask(
        &self,
        env: &Env,
        connection: &mut Connection,
        (client, server): (u32, usize),
        key: &str,
        action: Action,
        index: u64,
        due: Instant,
    ) -> Outcome {
        let kind = match action {
            Action::Get => 0,
            Action::Put { .. } => 1,
            Action::Cas { .. } => 2,
            Action::Delete | Action::Append { .. } => 3,
        };
        let Some((method, path, body)) = history::request(key, &action, index) else {
            return Outcome::Failed("the API has no such request".to_owned());
        };
        let invoked = env.now();
        let answer = connection.call(method, &path, body, self.timeout).await;
        let returned = env.now();
        let outcome = history::outcome(&action, &answer);
        {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.count(kind, &outcome, returned.since(due));
        }
        if let Some(record) = &self.record {
            let known = !matches!(outcome, Outcome::Unknown(_));
            let operation = Operation {
                id: self.ids.fetch_add(1, Ordering::Relaxed),
                client,
                node: u32::try_from(server).unwrap_or(history::NO_NODE),
                key: key.to_owned(),
                action,
                invoked_ns: invoked.since(self.begun).as_nanos() as u64,
                outcome: outcome.clone(),
                returned_ns: known.then(|| returned.since(self.begun).as_nanos() as u64),
            };
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            if record.trouble.is_ok() {
                record.trouble = serde_json::to_writer(&mut record.output, &operation)
                    .map_err(io::Error::from)
                    .and_then(|()| record.output.write_all(b"\n"));
                // Without its history the rest of the run is for nothing.
                self.stopped.fetch_or(record.trouble.is_err(), Ordering::Relaxed);
            }
        }
        outcome
    }
}

/// What is printed. Latencies in microseconds, of operations that were answered.
#[derive(Debug, Serialize)]
struct Summary {
    servers: Vec<String>,
    connections: u32,
    /// Absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_second: Option<u64>,
    seconds: f64,
    operations: BTreeMap<&'static str, Line>,
    all: Line,
    errors: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Line {
    ok: u64,
    failed: u64,
    unknown: u64,
    ok_per_second: f64,
    mean_us: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

impl Line {
    fn of(kind: &Kind, seconds: f64) -> Line {
        let at = |quantile| kind.latency.value_at_quantile(quantile);
        Line {
            ok: kind.ok,
            failed: kind.failed,
            unknown: kind.unknown,
            ok_per_second: if seconds > 0.0 { kind.ok as f64 / seconds } else { 0.0 },
            mean_us: kind.latency.mean(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: kind.latency.max(),
        }
    }

    fn row(&self, name: &str) -> String {
        let ms = |us: f64| format!("{:.3}", us / 1e3);
        format!(
            "{name:<8}{:>10}{:>8}{:>9}{:>11.1}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
            self.ok,
            self.failed,
            self.unknown,
            self.ok_per_second,
            ms(self.mean_us),
            ms(self.p50_us as f64),
            ms(self.p90_us as f64),
            ms(self.p99_us as f64),
            ms(self.p999_us as f64),
            ms(self.max_us as f64)
        )
    }
}

impl Summary {
    fn of(args: &BenchArgs, bench: &Bench, tally: &Tally, seconds: f64) -> Summary {
        let used =
            KINDS.iter().zip(&tally.kinds).filter(|(_, kind)| kind.ok + kind.failed + kind.unknown > 0);
        let mut all = Kind { ok: 0, failed: 0, unknown: 0, latency: tally.kinds[0].latency.clone() };
        all.latency.reset();
        for kind in &tally.kinds {
            all.ok += kind.ok;
            all.failed += kind.failed;
            all.unknown += kind.unknown;
            // All have the same bounds, so nothing can fail to fit.
            let _ = all.latency.add(&kind.latency);
        }
        Summary {
            servers: bench.servers.iter().map(SocketAddr::to_string).collect(),
            connections: args.connections,
            rate_per_second: args.rate,
            seconds,
            operations: used.map(|(name, kind)| (*name, Line::of(kind, seconds))).collect(),
            all: Line::of(&all, seconds),
            errors: tally.texts.clone(),
        }
    }

    fn text(&self) -> String {
        let mode = match self.rate_per_second {
            Some(rate) => format!("open loop of {rate} a second"),
            None => "closed loop".to_owned(),
        };
        let mut text = format!(
            "{} connections to {}, {mode}, {:.1} s; latencies in ms\n",
            self.connections,
            self.servers.join(", "),
            self.seconds
        );
        text += &format!(
            "{:<8}{:>10}{:>8}{:>9}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
            "", "ok", "failed", "unknown", "ok/s", "mean", "p50", "p90", "p99", "p99.9", "max"
        );
        for (name, line) in &self.operations {
            text += &line.row(name);
        }
        text += &self.all.row("all");
        for (error, times) in &self.errors {
            text += &format!("{times} times: {error}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_mix_says_what_is_wrong_with_it() {
        assert_eq!(Mix::parse("get=5,put=4,cas=1"), Ok(Mix([5, 4, 1, 0])));
        for (text, because) in [
            ("get", "\"get\": want KIND=PARTS"),
            ("read=1", "\"read\": there are get, put, cas, delete"),
            ("get=x", "\"get=x\": "),
            ("get=0", "every part is 0"),
            ("get=4000000000", "\"get=4000000000\": at most"),
        ] {
            assert!(Mix::parse(text).unwrap_err().starts_with(because), "{text}");
        }
    }

    #[test]
    fn a_mix_is_drawn_as_it_says() {
        let mut rng = Rng::seed_from_u64(1);
        let mut drawn = [0u32; 4];
        for _ in 0..10_000 {
            drawn[Mix([50, 0, 25, 25]).draw(&mut rng)] += 1;
        }
        assert!((4_800..5_200).contains(&drawn[0]) && drawn[1] == 0, "{drawn:?}");
        assert!((2_300..2_700).contains(&drawn[2]), "{drawn:?}");
    }

    #[test]
    fn only_answers_have_a_latency_and_texts_of_errors_are_bounded() {
        let mut tally = Tally::new().unwrap();
        tally.count(0, &Outcome::Ok(Response::Value(None)), Duration::from_millis(3));
        tally.count(1, &Outcome::Unknown("nothing".to_owned()), Duration::from_secs(9));
        for number in 0..100 {
            tally.count(1, &Outcome::Failed(format!("no {number}")), Duration::from_secs(9));
        }
        assert_eq!((tally.kinds[0].latency.len(), tally.kinds[1].latency.len()), (1, 0));
        assert_eq!((tally.kinds[1].failed, tally.kinds[1].unknown), (100, 1));
        assert_eq!((tally.texts.len(), tally.texts["other"]), (TEXTS + 1, 101 - TEXTS as u64));
        let line = Line::of(&tally.kinds[0], 2.0);
        assert_eq!((line.p50_us, line.max_us, line.ok_per_second), (3_001, 3_001, 0.5));
    }
}
