//! What the process tells its operator: log lines on standard error, for people by default and as JSON
//! on request; and the same lines to whoever watches over the API. Nothing but the program itself sets this up; a
//! library or a test that logs nowhere is silent.
//!
//! A watcher has its own level, which may be more talkative than standard error's: the watchers' layer is off while
//! there are none, and as talkative as the most talkative of them otherwise. Each has a queue of [`QUEUE`] lines.
//! When it is full the newest lines are dropped, and the next that fits is preceded by one that says how many.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// The level when nobody names one. A level alone, so that the Raft library is kept quiet: see [`directives`].
pub const DEFAULT_LEVEL: &str = "info";

/// Lines that wait for one watcher.
const QUEUE: usize = 512;

/// Watchers at once; one more is refused.
const MAX_WATCHERS: usize = 32;

/// The running log of this process. Clones are the same log.
#[derive(Clone)]
pub struct Logs {
    stderr: reload::Handle<EnvFilter, Registry>,
    watchers: Arc<Watchers>,
}

/// Why a log cannot be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// There is no such level.
    #[error("unknown level")]
    Level,
    /// Too many watch already.
    #[error("{MAX_WATCHERS} watch the log already; try again later")]
    Full,
}

struct Watchers {
    list: Arc<Mutex<Vec<Arc<Watcher>>>>,
    text: reload::Handle<EnvFilter, Registry>,
    json: reload::Handle<EnvFilter, Registry>,
}

struct Watcher {
    level: LevelFilter,
    json: bool,
    /// Each line with how many were dropped before it.
    lines: mpsc::Sender<(u64, String)>,
    dropped: AtomicU64,
}

/// What one watcher sees, until it is dropped.
pub struct Lines {
    receiver: mpsc::Receiver<(u64, String)>,
    watcher: Arc<Watcher>,
    watchers: Arc<Watchers>,
}

/// Starts logging. `wanted` is a level (`debug`) or a list of targets with levels
/// (`info,openraft=debug`).
///
/// # Errors
/// When `wanted` makes no sense; the text names it.
pub fn start(wanted: &str, json: bool) -> Result<Logs, String> {
    let (stderr_filter, stderr) = reload::Layer::new(filter(wanted)?);
    let (text_filter, text) = reload::Layer::new(silence());
    let (json_filter, json_handle) = reload::Layer::new(silence());
    let list: Arc<Mutex<Vec<Arc<Watcher>>>> = Arc::default();
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = lines.with_ansi(io::stderr().is_terminal());
    let to_watchers = |json| ToWatchers { list: list.clone(), json };
    let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![
        if json {
            lines.json().with_filter(stderr_filter).boxed()
        } else {
            lines.with_filter(stderr_filter).boxed()
        },
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(to_watchers(false))
            .with_filter(text_filter)
            .boxed(),
        tracing_subscriber::fmt::layer()
            .json()
            .with_writer(to_watchers(true))
            .with_filter(json_filter)
            .boxed(),
    ];
    let started = tracing_subscriber::registry().with(layers).try_init();
    started.map_err(|error| format!("cannot start logging: {error}"))?;
    Ok(Logs { stderr, watchers: Arc::new(Watchers { list, text, json: json_handle }) })
}

/// What lets nothing through, not even errors of the Raft library.
fn silence() -> EnvFilter {
    EnvFilter::new("off")
}

/// What a level or a list of directives lets through.
///
/// # Errors
/// When it makes no sense; the text names it.
pub fn filter(wanted: &str) -> Result<EnvFilter, String> {
    let wrong = |why: &dyn fmt::Display| format!("log level {wanted:?}: {why}");
    let directives = directives(wanted).ok_or_else(|| {
        wrong(
            &"must be off, error, warn, info, debug or trace, or directives such as \"info,openraft=debug\"",
        )
    })?;
    EnvFilter::builder().parse(directives).map_err(|error| wrong(&error))
}

impl Logs {
    /// Lets other lines through to standard error from now on.
    ///
    /// # Errors
    /// When `wanted` makes no sense; nothing is changed then.
    pub fn set_level(&self, wanted: &str) -> Result<(), String> {
        self.stderr.reload(filter(wanted)?).map_err(|error| error.to_string())
    }

    /// Watches the log from now on, at Consul's levels: trace, debug, info, warn, err.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn watch(&self, level: &str, json: bool) -> Result<Lines, WatchError> {
        let level = level_of(level).ok_or(WatchError::Level)?;
        let (lines, receiver) = mpsc::channel(QUEUE);
        let watcher = Arc::new(Watcher { level, json, lines, dropped: AtomicU64::new(0) });
        {
            let mut list = locked(&self.watchers.list);
            if list.len() >= MAX_WATCHERS {
                return Err(WatchError::Full);
            }
            list.push(watcher.clone());
        }
        self.watchers.tune();
        Ok(Lines { receiver, watcher, watchers: self.watchers.clone() })
    }
}

impl Watchers {
    /// Makes both layers as talkative as their watchers want.
    fn tune(&self) {
        for (json, handle) in [(false, &self.text), (true, &self.json)] {
            let wanted = {
                let list = locked(&self.list);
                let levels = list.iter().filter(|watcher| watcher.json == json).map(|watcher| watcher.level);
                levels.max()
            };
            // It fails only when logging has ended.
            let _ = handle.reload(wanted.map_or_else(silence, |level| EnvFilter::new(alone(level))));
        }
    }
}

impl Lines {
    /// The next line with its line end; before it another, if some were dropped between this and the last. `None` when logging has ended.
    pub async fn next(&mut self) -> Option<String> {
        Some(match self.receiver.recv().await? {
            (0, line) => line,
            (dropped, line) => format!("{}{line}", self.gap(dropped)),
        })
    }

    /// A line that says that lines are missing here.
    fn gap(&self, dropped: u64) -> String {
        let text = format!("{dropped} lines were dropped, because they were not read fast enough");
        if self.watcher.json { format!("{{\"dropped\":{dropped}}}\n") } else { format!("... {text}\n") }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        locked(&self.watchers.list).retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        self.watchers.tune();
    }
}

/// Gives each line to the watchers of its form and level.
struct ToWatchers {
    list: Arc<Mutex<Vec<Arc<Watcher>>>>,
    json: bool,
}

/// One line on its way.
struct Line {
    text: Vec<u8>,
    watchers: Vec<Arc<Watcher>>,
}

impl<'a> MakeWriter<'a> for ToWatchers {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { text: Vec::new(), watchers: Vec::new() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        let list = locked(&self.list);
        let wants = |watcher: &&Arc<Watcher>| watcher.json == self.json && *meta.level() <= watcher.level;
        Line { text: Vec::new(), watchers: list.iter().filter(wants).cloned().collect() }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text);
        for watcher in &self.watchers {
            let dropped = watcher.dropped.swap(0, Ordering::Relaxed);
            if watcher.lines.try_send((dropped, text.clone().into_owned())).is_err() {
                watcher.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A level by Consul's names, whatever their case.
fn level_of(name: &str) -> Option<LevelFilter> {
    Some(match name.to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "err" | "error" => LevelFilter::ERROR,
        _ => return None,
    })
}

/// A level alone is for this program. openraft warns of an absent peer at every heartbeat, twenty times
/// a second, and at `debug` says thousands of lines a second of nothing at all; what an operator needs to know of that,
/// the node says itself.
fn alone(level: LevelFilter) -> String {
    format!("{level},openraft=error")
}

/// What lets through what is wanted, as `tracing` has it.
///
/// `None` for a word that is no level: `tracing` would take it for a target, and "infoo" would let nothing through but
/// what a program part of that name says.
fn directives(wanted: &str) -> Option<String> {
    if wanted.contains(['=', ',']) {
        return Some(wanted.to_owned());
    }
    let off = wanted.eq_ignore_ascii_case("off").then_some(LevelFilter::OFF);
    off.or_else(|| level_of(wanted)).map(alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_keeps_the_raft_library_quiet() {
        for (wanted, directed) in [
            (DEFAULT_LEVEL, "info,openraft=error"),
            ("DEBUG", "debug,openraft=error"),
            ("err", "error,openraft=error"),
            ("Off", "off,openraft=error"),
            ("info,openraft=debug", "info,openraft=debug"),
        ] {
            assert_eq!(directives(wanted).as_deref(), Some(directed));
            assert!(filter(wanted).is_ok(), "{wanted}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for wanted in ["loud", "infoo", "", "3", "openraft"] {
            let refused = filter(wanted).unwrap_err();
            assert!(refused.starts_with(&format!("log level {wanted:?}: must be off, error, ")), "{refused}");
        }
    }

    #[test]
    fn levels_are_consuls() {
        assert_eq!(level_of("ERR"), Some(LevelFilter::ERROR));
        assert_eq!(level_of("Debug"), Some(LevelFilter::DEBUG));
        assert_eq!(level_of("loud"), None);
        assert_eq!(level_of(""), None);
    }

    #[tokio::test]
    async fn a_slow_watcher_loses_lines_and_is_told_so() {
        // The only test that logs: a process has one log.
        let logs = start("off", false).unwrap();
        let mut lines = logs.watch("info", false).unwrap();
        let mut silent = logs.watch("err", true).unwrap();
        for i in 0..QUEUE + 10 {
            tracing::info!(target: "telemetry_test", "line {i}");
            tracing::debug!(target: "telemetry_test", "not for anybody");
        }
        for i in 0..QUEUE {
            let line = lines.next().await.unwrap();
            assert!(line.ends_with(&format!("line {i}\n")) && !line.starts_with("..."), "{line}");
        }
        tracing::error!(target: "telemetry_test", "an error");
        let after = lines.next().await.unwrap();
        assert!(after.starts_with("... 10 lines were dropped") && after.ends_with("an error\n"), "{after}");
        assert!(silent.next().await.unwrap().contains("\"an error\""));
        drop(lines);
        drop(silent);
        // The most talkative watcher hears of the Raft library no more than standard error does.
        let mut all = logs.watch("trace", false).unwrap();
        tracing::warn!(target: "openraft::core", "a peer is silent");
        tracing::error!(target: "openraft::core", "the disk is gone");
        tracing::trace!(target: "telemetry_test", "a detail");
        assert!(all.next().await.unwrap().ends_with("the disk is gone\n"));
        assert!(all.next().await.unwrap().ends_with("a detail\n"));
        drop(all);
        // Nobody watches: only standard error wants something, of the Raft library.
        assert_eq!(LevelFilter::current(), LevelFilter::ERROR);
        let all: Vec<Lines> = (0..MAX_WATCHERS).map(|_| logs.watch("warn", false).unwrap()).collect();
        assert_eq!(logs.watch("warn", false).err(), Some(WatchError::Full));
        drop(all);
        assert!(logs.set_level("driftline=loud").is_err());
        logs.set_level("warn").unwrap();
    }
}
