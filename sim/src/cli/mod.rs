//! The `sim` program: `cargo sim` sweeps fresh seeds; `cargo sim run --seed N` shows one again;
//! `cargo sim mutants` proves that the checks bite.
//!
//! Exit codes: 0 when every seed was fine, 1 when something was violated, 2 when the command line or a
//! file it names cannot be used. Nothing that exists is overwritten without `--force`. A flag that a command has no use
//! for is refused and not ignored.

mod check;
mod diff;
mod hunt;
mod merge;
mod mutants;
mod one;
mod pages;
mod parity;
mod replay;
mod run;
mod shrink;
mod speed;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::experiment::{Experiment, Plain};
use crate::report::RunReport;
use crate::runner::{self, Refused, Runner};
use crate::saved::FileError;
use crate::scenario::{KINDS, Limits};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

/// More seeds than anybody waits for; a mistyped range should not fill the memory.
const MOST_SEEDS: u64 = 10_000_000;

/// The deterministic simulation testbed of driftline.
///
/// Without a command: a sweep over fresh seeds on all cores, like `run`.
#[derive(Debug, Parser)]
#[command(name = "sim", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Verb>,
    /// List the bugs that can be put back, and exit.
    #[arg(long, conflicts_with = "list_checks")]
    list_mutants: bool,
    /// List the checks, and exit.
    #[arg(long)]
    list_checks: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run seeds or a saved scenario, each in a process of its own.
    Run(run::RunArgs),
    /// Make a failing scenario as small as it can be while it still fails the same way.
    Shrink(shrink::ShrinkArgs),
    /// Run a case again, simulated or (--real) on a cluster of real processes.
    Replay(replay::ReplayArgs),
    /// See which bugs that simulation catches fail on real processes too.
    Parity(parity::ParityArgs),
    /// Search for failures, guided by what the runs reach. Exit code 1 when something was found; with --mutant and
    /// --versus-blind, when the bug was not.
    Hunt(hunt::HuntArgs),
    /// Put the results of several machines together.
    Merge(merge::MergeArgs),
    /// Put each bug back in turn and see that the right check catches it.
    Mutants(mutants::MutantArgs),
    /// Measure how much faster than the clock on the wall the simulation runs, with 3 and 5 nodes.
    Speed(speed::SpeedArgs),
    /// Judge a history from anywhere: exit code 0 linearizable, 1 not, 2 cannot read, 3 unknown.
    Check(check::CheckArgs),
    /// Find where two runs part, given by their traces, cases or seeds: exit code 0 nowhere, 1 somewhere.
    Diff(diff::DiffArgs),
    /// Run one seed in this process and print its report as a line of JSON.
    #[command(hide = true)]
    One(one::OneArgs),
}

/// What shapes the scenario of a seed.
#[derive(Clone, Debug, Default, Args)]
struct Shape {
    /// How many nodes; the seed decides if absent.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: Option<u32>,
    /// Simulated seconds of storm; the seed decides if absent.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: Option<u64>,
    /// Leave out a kind of fault (again for more kinds).
    #[arg(long, value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(KINDS))]
    without: Vec<String>,
    /// Put a bug back (see --list-mutants).
    #[arg(long, value_name = "ID", value_parser = mutant_id)]
    mutant: Option<String>,
}

/// How processes are run.
#[derive(Clone, Debug, Default, Args)]
struct Processes {
    /// How many seeds run at once; all cores if absent.
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Real seconds after which a seed counts as hanging [default: 120].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time_limit: Option<u64>,
}

impl Processes {
    fn runner(&self) -> Result<Runner, Unusable> {
        if !cfg!(madsim) {
            return Err(Unusable(
                "this build has no simulator in it: build and run it with `cargo sim`".to_owned(),
            ));
        }
        let jobs = self.jobs.map_or_else(runner::default_jobs, usize::from);
        Runner::of_this_program(jobs, Duration::from_secs(self.time_limit.unwrap_or(120)))
            .map_err(|error| Unusable(format!("cannot find this program to start it again: {error}")))
    }
}

/// The command line, or a file it names, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unusable(String);

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Unusable {
        Unusable(format!("cannot write to standard output: {error}"))
    }
}

impl From<FileError> for Unusable {
    fn from(error: FileError) -> Unusable {
        Unusable(error.to_string())
    }
}

impl From<Refused> for Unusable {
    fn from(refused: Refused) -> Unusable {
        Unusable(refused.to_string())
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Unusable {
    Unusable(format!("cannot write {}: {error}", path.display()))
}

fn mutant_id(text: &str) -> Result<String, String> {
    let known = || crate::mutants::all().map(|mutant| mutant.id).collect::<Vec<_>>().join(", ");
    crate::mutants::find(text)
        .map(|mutant| mutant.id.to_owned())
        .ok_or_else(|| format!("no such mutant; there are {}", known()))
}

fn seed_range(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..=").ok_or("want A..=B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let (first, last) = (number(first)?, number(last)?);
    match last.checked_sub(first) {
        None => Err("the range is empty".to_owned()),
        Some(more) if more >= MOST_SEEDS => Err(format!("more than {MOST_SEEDS} seeds")),
        Some(_) => Ok((first, last)),
    }
}

/// What this program runs.
static EXPERIMENT: OnceLock<Arc<dyn Experiment>> = OnceLock::new();

/// Does what the command line says, with the testbed as it is.
pub fn main() -> ExitCode {
    main_with(Arc::new(Plain))
}

/// Does what the command line says, with an experiment: everything that `cargo sim` can do. To be called once, by the
/// `main` of a program of its own, which starts itself again for each seed.
pub fn main_with(experiment: Arc<dyn Experiment>) -> ExitCode {
    crate::mutants::add_own(experiment.mutants());
    crate::check::add_own(experiment.properties());
    let _ = EXPERIMENT.set(experiment);
    let cli = Cli::parse();
    let result = if cli.list_mutants {
        print(&crate::mutants::list())
    } else if cli.list_checks {
        print(&list_checks())
    } else {
        match cli.command {
            None => run::run(&run::RunArgs::default()),
            Some(Verb::Run(args)) => run::run(&args),
            Some(Verb::Shrink(args)) => shrink::shrink(&args),
            Some(Verb::Replay(args)) => replay::replay(&args),
            Some(Verb::Parity(args)) => parity::parity(&args),
            Some(Verb::Hunt(args)) => hunt::hunt(&args),
            Some(Verb::Merge(args)) => merge::merge(&args),
            Some(Verb::Mutants(args)) => mutants::mutants(&args),
            Some(Verb::Speed(args)) => speed::speed(&args),
            Some(Verb::Diff(args)) => diff::run(&args),
            Some(Verb::Check(args)) => return check::run(&args),
            Some(Verb::One(args)) => one::one(&args),
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(unusable) => {
            // Whoever reads it may have gone; the exit code still says it.
            let _ = writeln!(io::stderr(), "error: {unusable}");
            ExitCode::from(2)
        }
    }
}

/// What this program runs: the testbed as it is, if nobody said otherwise.
fn experiment() -> Arc<dyn Experiment> {
    EXPERIMENT.get().cloned().unwrap_or_else(|| Arc::new(Plain))
}

/// What the code that runs is called: as the caller says, or else by what is in this program. That is read whole, and it is
/// large: ask once, and not for every run.
fn code(name: Option<&String>) -> Result<String, Unusable> {
    match name {
        Some(name) => Ok(name.clone()),
        None => std::env::current_exe()
            .and_then(|program| crate::mutants::code_version(&program))
            .map_err(|error| Unusable(format!("cannot read this program: {error}"))),
    }
}

/// Makes sure, before anything is run for it, that a file can be written there and that none is lost by it.
fn is_free(path: &Path, force: bool) -> Result<(), Unusable> {
    if path.is_dir() {
        return Err(Unusable(format!("{} is a directory, want a file", path.display())));
    }
    // A link that leads nowhere is there, too, and somebody's.
    if path.symlink_metadata().is_ok() && !force {
        return Err(Unusable(format!("{} exists; --force overwrites it", path.display())));
    }
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() => {
            Err(Unusable(format!("{}: there is no directory {}", path.display(), parent.display())))
        }
        _ => {
            let new = !path.exists();
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
            // It was only tried. A file that was not there is not there again; a link to it stays.
            let tried = opened
                .and_then(|_| if new { std::fs::remove_file(std::fs::canonicalize(path)?) } else { Ok(()) });
            tried.map_err(|error| unwritable(path, &error))
        }
    }
}

fn limits(shape: &Shape) -> Limits {
    let without: BTreeSet<String> = shape.without.iter().cloned().collect();
    Limits { nodes: shape.nodes, duration_s: shape.duration, without }
}

fn print(text: &str) -> Result<bool, Unusable> {
    io::stdout().write_all(text.as_bytes())?;
    Ok(true)
}

fn list_checks() -> String {
    let mut text = String::new();
    for property in crate::check::TABLE {
        let proofs: Vec<_> = crate::mutants::proofs_of(property.id).collect();
        text += &format!(
            "{:5} {}\n      {}; {}; named for {}\n",
            property.id,
            property.claim,
            property.source,
            property.file,
            if proofs.is_empty() { "no mutant".to_owned() } else { proofs.join(", ") }
        );
    }
    text
}

fn json_line(report: &RunReport) -> String {
    // A report is plain data, with nothing in it that JSON cannot say.
    let mut line = serde_json::to_string(report).unwrap_or_default();
    line.push('\n');
    line
}

/// A bar on standard error, if that is a terminal; for a single seed none.
fn progress_bar(length: usize, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let template =
        if length == 0 { "{spinner} {elapsed} {msg}" } else { "{elapsed} {wide_bar} {pos}/{len} {msg}" };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    #[cfg(unix)]
    fn a_link_that_leads_nowhere_stays_and_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (link, file) = (folder.path().join("link"), folder.path().join("file"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let refused = is_free(&link, false).unwrap_err().to_string();
        assert!(refused.contains("link exists; --force"), "{refused}");
        is_free(&link, true).unwrap();
        is_free(&file, false).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), file);
        assert!(!file.exists());
    }

    #[test]
    fn a_seed_range_is_inclusive_and_says_what_is_wrong_with_it() {
        assert_eq!(seed_range("3..=9"), Ok((3, 9)));
        assert_eq!(seed_range("9..=3"), Err("the range is empty".to_owned()));
        assert!(seed_range("3..9").is_err());
        assert!(seed_range("a..=9").unwrap_err().starts_with("\"a\""));
        assert!(seed_range("0..=18446744073709551615").unwrap_err().starts_with("more than"));
    }
}
