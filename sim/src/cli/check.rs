//! `cargo sim check HISTORY`: judges a history from anywhere, be it of a simulated cluster, a real one, or
//! another system.
//!
//! Exit codes: 0 linearizable, 1 not, 2 cannot read the history (or the command line), 3 unknown: a limit was
//! met before the search came to an end.

// This is outside the simulation: threads are allowed here.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::check::linearizable::{self, Bounds, Broken, Limit, Verdict};
use crate::history::{self, Format, HistoryError, Model, Operation, Outcome, Wording};
use crate::report::RunReport;
use crate::report::page::{Material, Page};
use crate::report::story::Story;
use crate::runner::{Stopwatch, quoted};
use clap::{Args, ValueEnum};
use serde::Serialize;

/// A search that knows that its time is over has so long to say how far it got.
const GRACE: Duration = Duration::from_millis(500);
/// As much of the beginning as it takes to tell the format.
const LOOK_AHEAD: usize = 1 << 16;

/// The flags of `sim check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The history: JSON lines of ours, Jepsen's EDN or log lines; `-` is standard input.
    #[arg(value_name = "HISTORY")]
    history: PathBuf,
    /// What its operations speak of.
    #[arg(long, value_enum, default_value = "kv")]
    model: ModelName,
    /// How it is written; its beginning tells if absent.
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// Seconds after which the verdict is "unknown".
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    time_limit: u64,
    /// Mebibytes for the history, and again for what the search remembers.
    #[arg(long, value_name = "MIB", default_value_t = 2_048, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    memory_limit: u64,
    /// Write a page that shows the history and the verdict to FILE: open it in a browser.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Overwrite a file that exists.
    #[arg(long, requires = "report")]
    force: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModelName {
    /// Registers: read, write, compare-and-set.
    Register,
    /// A key-value store: get, put, append, delete, compare-and-set.
    Kv,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    /// JSON lines, as `driftline bench --history` writes them.
    Jsonl,
    /// Jepsen's history.edn, a vector of maps or one map after the other.
    Edn,
    /// Log lines of jepsen.util.
    Log,
}

/// What came of it, for machines and people.
#[derive(Debug, Serialize)]
struct Judgement {
    verdict: &'static str,
    operations: usize,
    keys: usize,
    unknown_outcomes: usize,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<Broken>,
    #[serde(skip)]
    words: String,
    #[serde(skip)]
    code: u8,
}

/// A packed file begins so.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// Some editors begin a text so (a byte order mark).
const MARK: &[u8] = "\u{feff}".as_bytes();

/// Judges a history and says so.
pub fn run(args: &CheckArgs) -> ExitCode {
    let code = match judge(args) {
        Ok(judgement) => match tell(&judgement, args.json) {
            Ok(()) => judgement.code,
            // Whoever reads it has had enough; the exit code still says it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => judgement.code,
            Err(error) => {
                let _ = writeln!(io::stderr(), "error: cannot write to standard output: {error}");
                2
            }
        },
        Err(problem) => {
            let _ = writeln!(io::stderr(), "error: {}: {problem}", args.history.display());
            2
        }
    };
    ExitCode::from(code)
}

fn tell(judgement: &Judgement, json: bool) -> io::Result<()> {
    let text = if json { serde_json::to_string(judgement)? } else { judgement.words.clone() };
    writeln!(io::stdout(), "{text}")
}

fn judge(args: &CheckArgs) -> Result<Judgement, String> {
    let watch = Stopwatch::start();
    let limit = usize::try_from(args.memory_limit << 20).unwrap_or(usize::MAX);
    if let Some(path) = &args.report {
        if is_one_file(&args.history, path) {
            return Err(format!(
                "--report {} is the history itself, which it would overwrite",
                path.display()
            ));
        }
        super::is_free(path, args.force).map_err(|problem| problem.to_string())?;
    }
    let mut input = open(&args.history).map_err(|error| format!("cannot be read: {error}"))?;
    let beginning = input.fill_buf().map_err(|error| format!("cannot be read: {error}"))?;
    if beginning.starts_with(GZIP) {
        return Err("it is packed: unpack it first, as in `gunzip -c FILE | cargo sim check -`".to_owned());
    }
    if beginning.starts_with(MARK) {
        input.consume(MARK.len());
    }
    let beginning = input.fill_buf().map_err(|error| format!("cannot be read: {error}"))?;
    let format = match args.format {
        Some(FormatName::Jsonl) => Format::JsonLines,
        Some(FormatName::Edn) => Format::Edn,
        Some(FormatName::Log) => Format::JepsenLog,
        None => Format::guess(beginning),
    };
    let model = match args.model {
        ModelName::Register => Model::Register,
        ModelName::Kv => Model::Kv,
    };
    let time_is_over = || watch.seconds() >= args.time_limit as f64;
    let patient = Patient { input, calls: 0, time_is_over };
    let (operations, wording) = match history::read_any(patient, format, model, limit) {
        Ok(read) => read,
        Err(_) if time_is_over() => {
            let words = "unknown: the time limit was met before the history was read to its end".to_owned();
            return Ok(Judgement { words, ..undecided(&[], Limit::Time, watch) });
        }
        Err(HistoryError::TooLarge { line }) => {
            let words = format!(
                "unknown: the history takes more than {} MiB to its line {line} alone; --memory-limit sets the limit",
                args.memory_limit
            );
            return Ok(Judgement { words, ..undecided(&[], Limit::Memory, watch) });
        }
        Err(error) => return Err(error.to_string()),
    };
    let bounds = Bounds { steps: u64::MAX, configurations: usize::MAX, bytes: limit };
    let operations = Arc::new(operations);
    let (history, time_limit) = (Arc::clone(&operations), args.time_limit as f64);
    let search =
        move || linearizable::check_while(&history, wording, bounds, &mut || watch.seconds() < time_limit);
    let left = (time_limit - watch.seconds()).max(0.0);
    let judgement = match within(Duration::from_secs_f64(left) + GRACE, search) {
        Some(verdict) => judgement(verdict, &operations, wording, watch),
        None => {
            let base = undecided(&operations, Limit::Time, watch);
            let words = format!(
                "unknown: the time limit was met before the search of {} operations came to an end",
                base.operations
            );
            Judgement { words, ..base }
        }
    };
    if let Some(path) = &args.report {
        // The verdict is not lost with its picture.
        if let Err(error) = draw(&judgement, &operations, wording, args).save(path, args.force) {
            eprintln!("warning: cannot write {}: {error}", path.display());
        }
    }
    Ok(judgement)
}

/// What a search finds in so much time; nothing if it takes longer.
///
/// A search asks now and then whether it may go on, and says how far it got. While it puts events in order it does not
/// ask, and for a large history that alone may take longer than there is. So it runs beside whoever waits for it, and is left
/// to itself when the time is over; the program ends soon after.
fn within<T: Send + 'static>(time: Duration, search: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::channel();
    let worker = thread::spawn(move || {
        // Nobody may be waiting any more.
        let _ = tell.send(search());
    });
    match told.recv_timeout(time) {
        Ok(found) => Some(found),
        Err(mpsc::RecvTimeoutError::Timeout) => None,
        // It panicked, and so does whoever waits for it.
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => None,
        },
    }
}

/// The history as a page.
fn draw(judgement: &Judgement, history: &[Operation], wording: Wording, args: &CheckArgs) -> Page {
    let mut report = RunReport { ok: true, ..RunReport::default() };
    if let Some(broken) = &judgement.broken {
        report.violate("LIN", broken.words.clone());
        if let Some(violation) = report.violations.first_mut() {
            violation.at_ns = broken.at_ns;
            violation.node = Some(broken.node);
        }
    } else if judgement.code != 0 {
        report.undecided.push(judgement.words.clone());
    }
    let model = match args.model {
        ModelName::Register => "register",
        ModelName::Kv => "kv",
    };
    let mut again = format!("cargo sim check {} --model {model}", quoted(&args.history.to_string_lossy()));
    if let Some(format) = args.format.and_then(|format| format.to_possible_value()) {
        again += &format!(" --format {}", format.get_name());
    }
    let material = Material {
        report: &report,
        history,
        broken: judgement.broken.as_ref(),
        scenario: None,
        mutant: None,
        again: Some(&again),
        own_client: None,
    };
    Page::of(Story::default(), material).worded(wording)
}

/// An input that fails once the time is over: a pipe may bring more for ever, and a reader that keeps none of it would read on.
struct Patient<R, F> {
    input: R,
    calls: u32,
    time_is_over: F,
}

impl<R: Read, F: Fn() -> bool> Read for Patient<R, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.input.read(into)
    }
}

impl<R: BufRead, F: Fn() -> bool> BufRead for Patient<R, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // Some readers ask for every byte, and a look at the clock takes longer than that.
        self.calls = self.calls.wrapping_add(1);
        if self.calls.is_multiple_of(1_024) && (self.time_is_over)() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.input.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.input.consume(amount);
    }
}

/// Whether two names, of which the first may be standard input, lead to one plain file.
fn is_one_file(input: &Path, output: &Path) -> bool {
    let input = if input == Path::new("-") { Path::new("/dev/stdin") } else { input };
    let (Ok(one), Ok(other)) = (input.metadata(), output.metadata()) else { return false };
    if !one.is_file() || !other.is_file() {
        return false;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }
    #[cfg(not(unix))]
    {
        matches!((input.canonicalize(), output.canonicalize()), (Ok(one), Ok(other)) if one == other)
    }
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::with_capacity(LOOK_AHEAD, io::stdin())));
    }
    Ok(Box::new(BufReader::with_capacity(LOOK_AHEAD, File::open(path)?)))
}

fn undecided(operations: &[Operation], limit: Limit, watch: Stopwatch) -> Judgement {
    let keys: BTreeSet<&str> = operations.iter().map(|operation| operation.key.as_str()).collect();
    let is_unknown = |operation: &&Operation| matches!(operation.outcome, Outcome::Unknown(_));
    Judgement {
        verdict: "unknown",
        operations: operations.len(),
        keys: keys.len(),
        unknown_outcomes: operations.iter().filter(is_unknown).count(),
        seconds: watch.seconds(),
        limit: Some(limit),
        broken: None,
        words: String::new(),
        code: 3,
    }
}

fn judgement(verdict: Verdict, operations: &[Operation], wording: Wording, watch: Stopwatch) -> Judgement {
    let base = undecided(operations, Limit::Time, watch);
    let keys = if wording.one_register { "one register".to_owned() } else { format!("{} keys", base.keys) };
    let size = format!(
        "{} operations ({} of unknown outcome) on {keys}, judged in {:.2} s",
        base.operations, base.unknown_outcomes, base.seconds
    );
    match verdict {
        Verdict::Linearizable => Judgement {
            verdict: "linearizable",
            words: format!("linearizable: {size}"),
            limit: None,
            code: 0,
            ..base
        },
        Verdict::Violation(broken) => Judgement {
            verdict: "not linearizable",
            words: format!("not linearizable: {size}\n{}", broken.words),
            limit: None,
            broken: Some(*broken),
            code: 1,
            ..base
        },
        Verdict::Unknown { key, steps, limit } => Judgement {
            words: format!(
                "unknown: the {} limit was met after {steps} steps{}; {size}",
                match limit {
                    Limit::Time => "time",
                    Limit::Memory => "memory",
                },
                if wording.one_register { String::new() } else { format!(" on key {key:?}") }
            ),
            limit: Some(limit),
            ..base
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn given(arguments: &[&str]) -> CheckArgs {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            args: CheckArgs,
        }
        Alone::parse_from([&["check"], arguments].concat()).args
    }

    #[test]
    fn a_search_that_does_not_ask_for_the_time_is_left_to_itself() {
        let (go_on, wait) = mpsc::channel::<()>();
        // It ends when this test does.
        let deaf = move || wait.recv().is_err();
        assert_eq!(within(Duration::from_millis(20), deaf), None);
        drop(go_on);
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let panic =
            std::panic::catch_unwind(|| within(Duration::from_secs(60), || -> u8 { panic!("a bug") }));
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"a bug"));
    }

    /// What is said of a stale read, each event of which has these fields too, and the page of it.
    fn stale_read(more: &dyn Fn(usize) -> String) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let (history, page) = (folder.path().join("history"), folder.path().join("page"));
        let events = [
            "0, :type :invoke, :f :write, :value 1",
            "0, :type :ok, :f :write, :value 1",
            "0, :type :invoke, :f :write, :value 2",
            "0, :type :ok, :f :write, :value 2",
            "1, :type :invoke, :f :read, :value nil",
            "1, :type :ok, :f :read, :value 1",
        ];
        let maps = events.iter().enumerate().map(|(at, event)| format!("{{:process {event}{}}}\n", more(at)));
        std::fs::write(&history, maps.collect::<String>()).unwrap();
        let [history, page] = [&history, &page].map(|path| path.to_str().unwrap());
        let judgement = judge(&given(&[history, "--model", "register", "--report", page])).unwrap();
        (judgement.words, std::fs::read_to_string(page).unwrap())
    }

    #[test]
    fn no_times_and_keys_are_told_that_nobody_wrote() {
        let (words, page) = stale_read(&|_| String::new());
        let (size, found) = words.split_once('\n').unwrap();
        assert!(size.contains("3 operations (0 of unknown outcome) on one register, judged in"), "{size}");
        let expected = [
            r#"1 of 3 operations can be put in order, after which the register holds "1"; the last of them:"#,
            r#"    [event 0 .. event 1] op 0: client 0 wrote "1""#,
            r"  one of these had to be next, and none can be:",
            r#"    [event 2 .. event 3] op 1: client 0 wrote "2""#,
            r#"  because "1" would be gone, and it is still seen later:"#,
            r#"    [event 4 .. event 5] op 2: client 1 read "1""#,
        ];
        assert_eq!(found, expected.join("\n"));
        assert!(page.contains("<title>Stale read of the register: op 2 (client 1) read "));
        assert!(page.contains(", one event after client 0 had been told that it wrote "));
        assert!(page.contains(r#""event_ns":1000000000,"#));

        let (words, page) = stale_read(&|at| format!(", :key 7, :time {at}000000"));
        let found = words.split_once('\n').unwrap().1;
        assert!(words.contains(" on 1 keys, "), "{words}");
        assert!(
            found.starts_with(r#"key "7": 1 of 3 operations can be put in order, after which the key holds"#)
        );
        assert!(found.contains(r#"[0.002000000s .. 0.003000000s] op 1: client 0 wrote "2""#), "{found}");
        assert!(page.contains("<title>Stale read of key ") && page.contains(", 1.000 ms after client 0 had"));
        assert!(!page.contains(r#""event_ns""#));
    }

    #[test]
    fn a_history_is_not_overwritten_with_its_own_page() {
        let folder = tempfile::tempdir().unwrap();
        let history = folder.path().join("history");
        let text = "{:process 0, :type :invoke, :f :read, :key 1, :value nil}\n";
        std::fs::write(&history, text).unwrap();
        let other = folder.path().join("other");
        std::fs::hard_link(&history, &other).unwrap();
        let roundabout = folder.path().join(".").join("history");
        for page in [&history, &roundabout, &other] {
            let names = [&history, page].map(|path| path.to_str().unwrap());
            let refused = judge(&given(&[names[0], "--report", names[1], "--force"])).unwrap_err();
            assert!(refused.contains("is the history itself"), "{refused}");
            assert_eq!(std::fs::read_to_string(&history).unwrap(), text);
        }
        let page = folder.path().join("page");
        let names = [&history, &page].map(|path| path.to_str().unwrap());
        assert_eq!(judge(&given(&[names[0], "--report", names[1]])).unwrap().code, 0);
        assert!(page.exists());
    }
}
