//! Runs seeds, each in a process of its own, and never loses one.
//!
//! The program starts itself again with the hidden command `one`, which prints one [`RunReport`] as a
//! line of JSON on standard output. A process a seed buys three things: nothing that lives as long as a
//! process (task ids, generators, switches for mutants) can leak from one seed into the next; all cores
//! work; and a seed that panics, hangs, is killed or prints nonsense is one violation (`CRASH`) with the
//! last words of its standard error, beside the reports of all the others.
//!
//! A process that ends with exit code 2 and no report has judged nothing: what it was given cannot be used. That is no
//! violation of anything but a mistake in the input, [`Refused`].
//!
//! With `check_determinism` each seed runs twice. Where the trace hashes differ it runs twice more with
//! traces written, to show the first line that differs (`DET`).
//!
//! This is outside the simulation: threads, processes and the real clock are allowed here.

#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::report::RunReport;
use crate::scenario::Scenario;

/// Standard output beyond this is dropped: no report is that long.
const STDOUT_LIMIT: usize = 16 << 20;
/// How much of the end of standard error is kept.
const STDERR_TAIL: usize = 8 << 10;
/// How a process ends that cannot use what it was given, here as everywhere in this program.
const REFUSED: i32 = 2;

/// Nothing of a case was judged, because no process could be started for it, or the one that was could not use what it was
/// given or write what was asked for. To be reported to whoever asked; no other case of its kind will fare better.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{again}: nothing was judged: {said}")]
pub struct Refused {
    /// The command that would run the case.
    pub again: String,
    /// Why not, or the end of what the process said on standard error.
    pub said: String,
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, refused)
    }
}

/// One seed or scenario to run, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// How many nodes, if not for the seed to decide.
    pub nodes: Option<u32>,
    /// How many simulated seconds of storm, if not for the seed to decide.
    pub duration_s: Option<u64>,
    /// Kinds of fault to leave out.
    pub without: BTreeSet<String>,
    /// The bug to put back.
    pub mutant: Option<String>,
    /// The scenario to run in place of the one that the seed generates.
    pub scenario: Option<PathBuf>,
    /// Where to write the trace.
    pub trace: Option<PathBuf>,
    /// As if the node's program had been edited so many times: each node draws so many numbers and starts so many
    /// tasks more when it boots. For proving that a plan fails by its own force.
    pub perturb: u64,
    /// End with the storm, without a heal, and sooner if this check objects: for whoever wants to know that and nothing else.
    pub storm_only: Option<String>,
    /// Whether the report tells which states of the cluster were reached.
    pub coverage: bool,
    /// Where to write the page that shows the run.
    pub report: Option<PathBuf>,
}

impl Case {
    /// The same for a plan, which is written to `path` for the process to read.
    ///
    /// # Errors
    /// The system's, when it cannot be written.
    pub fn of_plan(&self, plan: &Scenario, path: PathBuf) -> io::Result<Case> {
        serde_json::to_writer(BufWriter::new(File::create(&path)?), plan)?;
        Ok(Case { seed: plan.seed, scenario: Some(path), ..self.clone() })
    }

    fn options(&self, with_trace: bool) -> Vec<OsString> {
        let mut options: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| options.extend([name.into(), value]);
        match &self.scenario {
            Some(path) => add("--scenario", path.into()),
            None => {
                add("--seed", self.seed.to_string().into());
                self.nodes.into_iter().for_each(|nodes| add("--nodes", nodes.to_string().into()));
                self.duration_s.into_iter().for_each(|s| add("--duration", s.to_string().into()));
                self.without.iter().for_each(|kind| add("--without", kind.into()));
            }
        }
        self.mutant.iter().for_each(|mutant| add("--mutant", mutant.into()));
        self.storm_only.iter().for_each(|check| add("--storm-only", check.into()));
        if self.perturb > 0 {
            add("--perturb", self.perturb.to_string().into());
        }
        if with_trace {
            self.trace.iter().for_each(|path| add("--trace", path.into()));
            if self.coverage {
                options.push("--coverage".into());
            }
            if let Some(path) = &self.report {
                options.extend(["--report".into(), path.into(), "--again".into(), self.again().into()]);
            }
        }
        options
    }

    /// The command that runs this again.
    pub fn again(&self) -> String {
        let mut command = String::from("cargo sim run");
        for option in self.options(false) {
            command.push(' ');
            command += &quoted(&option.to_string_lossy());
        }
        command
    }
}

/// A word as a shell reads it back.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Starts processes for cases.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The program to start.
    pub program: PathBuf,
    /// Its first arguments; those of the case follow.
    pub prefix: Vec<OsString>,
    /// How many run at once.
    pub jobs: usize,
    /// How long one may take, in real time.
    pub time_limit: Duration,
    /// Whether each case runs twice and must give the same trace.
    pub check_determinism: bool,
}

impl Runner {
    /// A runner that starts this very program.
    ///
    /// # Errors
    /// The system's, when it cannot say where this program is.
    pub fn of_this_program(jobs: usize, time_limit: Duration) -> io::Result<Runner> {
        Ok(Runner {
            program: std::env::current_exe()?,
            prefix: vec!["one".into()],
            jobs,
            time_limit,
            check_determinism: false,
        })
    }

    /// Runs all cases, several at once. `done` is told of each as it ends; `take` gets them in the order
    /// of `cases`, and ends it all by answering `false`: whatever still runs is killed.
    ///
    /// # Errors
    /// The first case that is refused, when its turn has come. It ends it all, too.
    pub fn run_in_order(
        &self,
        cases: &[Case],
        done: &mut dyn FnMut(&RunReport),
        take: &mut dyn FnMut(&Case, RunReport) -> bool,
    ) -> Result<(), Refused> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for _ in 0..self.jobs.clamp(1, cases.len().max(1)) {
                let sender = sender.clone();
                let (next, stop) = (&next, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(case) = cases.get(at) else { break };
                        let report = self.run_until(case, stop);
                        if sender.send((at, report)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            let mut early: BTreeMap<usize, Result<RunReport, Refused>> = BTreeMap::new();
            let mut wanted = 0;
            let mut result = Ok(());
            'reports: for (at, report) in receiver {
                report.iter().for_each(&mut *done);
                early.insert(at, report);
                while let Some(report) = early.remove(&wanted) {
                    let goes_on = match report {
                        Ok(report) => take(&cases[wanted], report),
                        Err(refused) => {
                            result = Err(refused);
                            false
                        }
                    };
                    if !goes_on {
                        break 'reports;
                    }
                    wanted += 1;
                }
            }
            stop.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Which candidate is the first, in their order, all of whose cases fail as asked. Several run at once; what
    /// cannot be the first any more is killed, so the answer does not depend on how many. A case that is refused does not
    /// fail.
    pub fn first(
        &self,
        candidates: &[Vec<Case>],
        fails: &(dyn Fn(&RunReport) -> bool + Sync),
    ) -> Option<usize> {
        let next = AtomicUsize::new(0);
        let best = AtomicUsize::new(usize::MAX);
        let stops: Vec<AtomicBool> = candidates.iter().map(|_| AtomicBool::new(false)).collect();
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(cases) = candidates.get(at) else { break };
                if at > best.load(Ordering::Relaxed) {
                    break;
                }
                // One that was stopped has failed to fail, but it is not the first anyway.
                if cases
                    .iter()
                    .all(|case| self.run_until(case, &stops[at]).is_ok_and(|report| fails(&report)))
                {
                    best.fetch_min(at, Ordering::Relaxed);
                    stops[at + 1..].iter().for_each(|stop| stop.store(true, Ordering::Relaxed));
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, candidates.len().max(1)) {
                scope.spawn(work);
            }
        });
        Some(best.into_inner()).filter(|at| *at < candidates.len())
    }

    /// Runs one case.
    ///
    /// # Errors
    /// If it is refused.
    pub fn run(&self, case: &Case) -> Result<RunReport, Refused> {
        self.run_until(case, &AtomicBool::new(false))
    }

    fn run_until(&self, case: &Case, stop: &AtomicBool) -> Result<RunReport, Refused> {
        let mut report = self.launch(case, stop)?;
        if self.check_determinism {
            let second = self.launch(case, stop)?;
            if report.trace_hash != second.trace_hash || report.trace_events != second.trace_events {
                let detail = format!(
                    "two runs gave trace {} ({} events) and {} ({} events){}",
                    report.trace_hash,
                    report.trace_events,
                    second.trace_hash,
                    second.trace_events,
                    self.explain_difference(case, stop)
                );
                report.violate("DET", detail);
            }
        }
        Ok(report)
    }

    /// Runs twice more with traces, and finds the first line that differs.
    fn explain_difference(&self, case: &Case, stop: &AtomicBool) -> String {
        let compared = tempfile::tempdir().and_then(|folder| {
            let traces = ["first", "second"].map(|name| folder.path().join(name));
            for trace in &traces {
                self.launch(&Case { trace: Some(trace.clone()), ..case.clone() }, stop)?;
            }
            first_difference(&traces[0], &traces[1])
        });
        match compared {
            Ok(Some((line, first, second))) => {
                format!("; two more runs differ first at line {line}:\n  {first}\n  {second}")
            }
            Ok(None) => "; two more runs with traces agreed".to_owned(),
            Err(error) => format!("; their traces cannot be compared: {error}"),
        }
    }

    fn launch(&self, case: &Case, stop: &AtomicBool) -> Result<RunReport, Refused> {
        let started = Instant::now();
        let child = Command::new(&self.program)
            .args(&self.prefix)
            .args(case.options(true))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                let said = format!("cannot start {}: {error}", self.program.display());
                return Err(Refused { again: case.again(), said });
            }
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let stdout = thread::spawn(move || read_head(stdout));
        let stderr = thread::spawn(move || read_tail(stderr));
        let end = self.wait(&mut child, stop);
        // A reader cannot panic, and a report from a broken pipe is no report.
        let stdout = stdout.join().unwrap_or_default();
        let stderr = stderr.join().unwrap_or_default();
        if end.is_refusal() && printed(&stdout).is_none() {
            let said = stderr.trim();
            let said = said.strip_prefix("error: ").unwrap_or(said).to_owned();
            return Err(Refused { again: case.again(), said });
        }
        let mut report = judge(case.seed, end, &stdout, &stderr, self.time_limit);
        if report.wall_seconds == 0.0 {
            report.wall_seconds = started.elapsed().as_secs_f64();
        }
        Ok(report)
    }

    fn wait(&self, child: &mut Child, stop: &AtomicBool) -> End {
        let deadline = Instant::now() + self.time_limit;
        let mut pause = Duration::from_micros(500);
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return End::Exited(status),
                Ok(None) => {}
                Err(error) => return End::Lost(error),
            }
            let late = Instant::now() >= deadline;
            if late || stop.load(Ordering::Relaxed) {
                // It may have ended by itself just now; then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return if late { End::Late } else { End::Stopped };
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

/// How a process ended.
enum End {
    Exited(ExitStatus),
    Late,
    Stopped,
    Lost(io::Error),
}

impl End {
    /// A panic has another code, and what was killed or hung has none.
    fn is_refusal(&self) -> bool {
        matches!(self, End::Exited(status) if status.code() == Some(REFUSED))
    }
}

/// The report that a process printed, if it did.
fn printed(stdout: &str) -> Option<RunReport> {
    let line = stdout.lines().rev().find(|line| !line.trim().is_empty())?;
    serde_json::from_str(line).ok()
}

/// The report of a process, or the one that it should have made.
fn judge(seed: u64, end: End, stdout: &str, stderr: &str, limit: Duration) -> RunReport {
    let problem = match &end {
        End::Exited(status) if !status.success() => Some(format!("the process ended with {status}")),
        End::Exited(_) => None,
        End::Late => Some(format!("no verdict after {} s of real time", limit.as_secs_f64())),
        End::Stopped => Some("stopped: its verdict was not needed any more".to_owned()),
        End::Lost(error) => Some(format!("the process cannot be waited for: {error}")),
    };
    let (mut report, problem) = match (printed(stdout), problem) {
        (Some(report), problem) if report.seed == seed && report.ok == report.violations.is_empty() => {
            (report, problem)
        }
        (Some(_), None) => {
            let problem = "the report contradicts itself or is of another seed".to_owned();
            (RunReport { seed, ..RunReport::default() }, Some(problem))
        }
        (None, None) => {
            let head: String = stdout.chars().take(200).collect();
            let problem = format!("it printed no report but {head:?}");
            (RunReport { seed, ..RunReport::default() }, Some(problem))
        }
        (_, problem) => (RunReport { seed, ..RunReport::default() }, problem),
    };
    if let Some(problem) = problem {
        let said = stderr.trim_end();
        let said = if said.is_empty() { "it said nothing".to_owned() } else { format!("it said:\n{said}") };
        report.violate("CRASH", format!("{problem}; {said}"));
    }
    report
}

fn read_head(source: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut source) = source {
        // What was read before an error counts.
        let _ = source.by_ref().take(STDOUT_LIMIT as u64).read_to_end(&mut bytes);
        // The rest is drained, or the process would wait for us for ever.
        let _ = io::copy(&mut source, &mut io::sink());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_tail(source: Option<impl Read>) -> String {
    let mut tail = Vec::new();
    let mut buffer = [0u8; 4096];
    if let Some(mut source) = source {
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            tail.extend_from_slice(&buffer[..count]);
            if tail.len() > 2 * STDERR_TAIL {
                tail.drain(..tail.len() - STDERR_TAIL);
            }
        }
    }
    let start = tail.len().saturating_sub(STDERR_TAIL);
    String::from_utf8_lossy(&tail[start..]).into_owned()
}

/// The first line in which two files differ: its number and both versions.
fn first_difference(first: &Path, second: &Path) -> io::Result<Option<(usize, String, String)>> {
    let mut first = BufReader::new(File::open(first)?);
    let mut second = BufReader::new(File::open(second)?);
    let mut number = 0;
    loop {
        number += 1;
        let (mut a, mut b) = (Vec::new(), Vec::new());
        first.read_until(b'\n', &mut a)?;
        second.read_until(b'\n', &mut b)?;
        if a != b {
            let shown = |line: &[u8]| match line {
                [] => "(end of trace)".to_owned(),
                line => String::from_utf8_lossy(line).trim_end().to_owned(),
            };
            return Ok(Some((number, shown(&a), shown(&b))));
        }
        if a.is_empty() {
            return Ok(None);
        }
    }
}

/// The processor time of this process in seconds and its most memory in KiB; 0 for what the system does not say.
pub fn spent() -> (f64, u64) {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    // Its first number is nanoseconds on a processor; the runs of this program have one thread.
    let cpu = read("/proc/self/schedstat").split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
    let status = read("/proc/self/status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok());
    (cpu.unwrap_or_default() / 1e9, peak.unwrap_or_default())
}

/// A seed that nobody has seen before, probably. Short enough to be read aloud.
pub fn fresh_seed() -> u64 {
    RandomState::new().hash_one(std::process::id()) % 1_000_000_000
}

/// How many processes to run at once if nobody says.
pub fn default_jobs() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Measures how long something takes, in real seconds.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// Seconds since the start.
    pub fn seconds(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A runner whose processes are shell scripts; `$2` is the seed (`--seed N`).
    fn shell(script: &str) -> Runner {
        Runner {
            program: "/bin/sh".into(),
            prefix: ["-c", script, "sh"].map(OsString::from).into(),
            jobs: 3,
            time_limit: Duration::from_secs(20),
            check_determinism: false,
        }
    }

    const OK: &str = r#"echo "{\"seed\":$2,\"ok\":true,\"trace_hash\":\"aa\",\"trace_events\":5}""#;

    fn seed(seed: u64) -> Case {
        Case { seed, ..Case::default() }
    }

    fn crash(script: &str) -> String {
        let report = shell(script).run(&seed(4)).unwrap();
        assert!(!report.ok);
        assert_eq!((report.seed, report.violations[0].check.as_str()), (4, "CRASH"));
        report.violations[0].detail.clone()
    }

    #[test]
    fn a_report_comes_through_whatever_was_printed_before_it() {
        let report = shell(&format!("echo noise; {OK}")).run(&seed(4)).unwrap();
        assert!(report.ok && report.seed == 4 && report.wall_seconds > 0.0);
    }

    #[test]
    fn a_process_that_dies_hangs_or_prints_nonsense_is_a_crash_with_its_last_words() {
        let died = crash("echo thread main panicked >&2; exit 101");
        assert!(died.contains("101") && died.contains("thread main panicked"), "{died}");
        assert!(crash("echo hello").contains(r#"no report but "hello\n""#));
        assert!(crash("true").contains("it said nothing"));
        assert!(crash("kill -9 $$").contains("signal: 9"));
        assert!(crash(r#"echo '{"seed":5,"ok":true}'"#).contains("another seed"));
        assert!(crash(r#"echo '{"seed":4,"ok":false}'"#).contains("contradicts itself"));
        let slow = Runner { time_limit: Duration::from_millis(50), ..shell("exec sleep 20") };
        assert!(slow.run(&seed(4)).unwrap().violations[0].detail.starts_with("no verdict after 0.05 s"));
        let absent = Runner { program: "/no/such/program".into(), ..shell("") };
        assert!(absent.run(&seed(4)).unwrap_err().said.starts_with("cannot start"));
    }

    #[test]
    fn what_a_process_cannot_use_is_no_crash_and_ends_a_sweep() {
        let script = format!("[ $2 = 3 ] && {{ echo 'error: nodes: 0, want 1 to 64' >&2; exit 2; }}; {OK}");
        let refused = shell(&script).run(&seed(3)).unwrap_err();
        assert_eq!(refused.said, "nodes: 0, want 1 to 64");
        assert_eq!(refused.to_string(), "cargo sim run --seed 3: nothing was judged: nodes: 0, want 1 to 64");
        let cases: Vec<Case> = (0..9).map(seed).collect();
        let mut taken = Vec::new();
        let result = shell(&script).run_in_order(&cases, &mut |_| {}, &mut |case, _| {
            taken.push(case.seed);
            true
        });
        assert_eq!((result, taken), (Err(refused), vec![0, 1, 2]));
        // A smaller plan that cannot be run is no smaller plan that fails.
        assert_eq!(shell(&script).first(&[vec![seed(3)]], &|report| report.violates("CRASH")), None);
        // With a report it was run, whatever came later.
        let report = shell(&format!("{OK}; exit 2")).run(&seed(4)).unwrap();
        assert!(report.violates("CRASH") && report.trace_events == 5);
    }

    #[test]
    fn a_report_followed_by_a_crash_is_kept_with_the_crash() {
        let report = shell(&format!("{OK}; exit 3")).run(&seed(4)).unwrap();
        assert_eq!((report.trace_events, report.violations.len(), report.ok), (5, 1, false));
    }

    #[test]
    fn only_the_end_of_a_long_complaint_is_kept() {
        let detail = crash("yes abcdefgh | head -c 1000000 >&2; echo the end >&2; exit 1");
        assert!(detail.ends_with("the end") && detail.len() < STDERR_TAIL + 200);
    }

    #[test]
    fn reports_are_taken_in_order_and_one_bad_seed_costs_no_other() {
        let script = format!("[ $2 = 3 ] && exit 7; [ $2 = 0 ] && sleep 0.2; {OK}");
        let cases: Vec<Case> = (0..9).map(seed).collect();
        let (mut ended, mut taken) = (0, Vec::new());
        let result = shell(&script).run_in_order(&cases, &mut |_| ended += 1, &mut |case, report| {
            taken.push((case.seed, report.ok));
            true
        });
        assert_eq!(result, Ok(()));
        assert_eq!(ended, 9);
        assert_eq!(taken, (0..9).map(|seed| (seed, seed != 3)).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_that_fails_is_the_first_however_many_run_at_once() {
        // Later ones fail sooner, and 7 would hang.
        let script = r#"case $2 in 7) exec sleep 20;; 3|5) sleep 0.1; ok=false; v='{"check":"ES","detail":""}';;
            *) ok=true; v=;; esac; echo "{\"seed\":$2,\"ok\":$ok,\"violations\":[$v]}""#;
        let candidates: Vec<Vec<Case>> = (0..9).map(|at| vec![seed(at)]).collect();
        for jobs in [1, 2, 9] {
            let runner = Runner { jobs, ..shell(script) };
            assert_eq!(runner.first(&candidates, &|report| report.violates("ES")), Some(3), "{jobs} jobs");
        }
        assert_eq!(shell(OK).first(&candidates, &|report| report.violates("ES")), None);
        // All cases of a candidate must fail.
        let pairs = [vec![seed(3), seed(1)], vec![seed(5), seed(3)]];
        assert_eq!(shell(script).first(&pairs, &|report| report.violates("ES")), Some(1));
        assert_eq!(shell(script).first(&[], &|_| true), None);
    }

    #[test]
    fn saying_enough_ends_what_still_runs() {
        let script = format!("[ $2 = 0 ] || exec sleep 20; {OK}");
        let cases: Vec<Case> = (0..9).map(seed).collect();
        let watch = Stopwatch::start();
        let mut taken = 0;
        let result = shell(&script).run_in_order(&cases, &mut |_| {}, &mut |_, _| {
            taken += 1;
            false
        });
        assert!(result.is_ok() && taken == 1 && watch.seconds() < 10.0);
    }

    #[test]
    fn runs_that_differ_are_shown_at_the_first_line_that_does() {
        // The process id stands for randomness; the trace is the argument after --trace.
        let script = r#"[ "$3" = --trace ] && printf 'same\nt=%s\n' $$ > "$4"
            echo "{\"seed\":$2,\"ok\":true,\"trace_hash\":\"$$\"}""#;
        let runner = Runner { check_determinism: true, ..shell(script) };
        let report = runner.run(&seed(4)).unwrap();
        assert!(report.violates("DET"));
        assert!(report.violations[0].detail.contains("differ first at line 2:\n  t="), "{report:?}");
        let steady = Runner { check_determinism: true, ..shell(OK) };
        assert!(steady.run(&seed(4)).unwrap().ok);
    }

    #[test]
    fn a_case_says_how_to_run_it_again() {
        let case = Case {
            seed: 7,
            nodes: Some(3),
            duration_s: Some(20),
            without: ["clock".to_owned(), "kill".to_owned()].into(),
            mutant: Some("R02".into()),
            trace: Some("/tmp/x".into()),
            ..Case::default()
        };
        assert_eq!(
            case.again(),
            "cargo sim run --seed 7 --nodes 3 --duration 20 --without clock --without kill --mutant R02"
        );
        let case = Case { scenario: Some("my case.json".into()), ..Case::default() };
        assert_eq!(case.again(), "cargo sim run --scenario 'my case.json'");
    }
}
