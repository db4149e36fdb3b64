//! The `sim` program: `cargo sim` sweeps fresh seeds; `cargo sim run --seed N` shows one again;
//! `cargo sim mutants` proves that the checks bite.
//!
//! Exit codes: 0 when every seed was fine, 1 when something was violated, 2 when the command line or a
//! file it names cannot be used. Nothing that exists is overwritten without `--force`.

mod cli {
    pub mod check;
}

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sim::check;
use sim::mutants::{self, Mutant};
use sim::report::{RunReport, Summary};
use sim::runner::{self, Case, Runner, Stopwatch};
use sim::scenario::{KINDS, Limits, Scenario, VERSION};
use sim::shrink;

/// Seeds in a sweep if nobody says how many.
const SWEEP: u64 = 64;
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
    #[arg(long)]
    list_mutants: bool,
    /// List the checks, and exit.
    #[arg(long)]
    list_checks: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run seeds or a saved scenario, each in a process of its own.
    Run(RunArgs),
    /// Put each bug back in turn and see that the right check catches it.
    Mutants(MutantArgs),
    /// Measure how much faster than the clock on the wall the simulation runs, with 3 and 5 nodes.
    Speed(SpeedArgs),
    /// Judge a history from anywhere: exit code 0 linearizable, 1 not, 2 cannot read, 3 unknown.
    Check(cli::check::CheckArgs),
    /// Run one seed in this process and print its report as a line of JSON.
    #[command(hide = true)]
    One(OneArgs),
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

#[derive(Clone, Debug, Default, Args)]
struct RunArgs {
    /// One seed.
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "scenario", "count"])]
    seed: Option<u64>,
    /// Seeds from A to B.
    #[arg(long, value_name = "A..=B", value_parser = seed_range, conflicts_with_all = ["scenario", "count"])]
    seeds: Option<(u64, u64)>,
    /// How many fresh seeds [default: 64].
    #[arg(long, value_name = "N", conflicts_with = "scenario")]
    count: Option<u64>,
    /// A scenario saved before, in place of a seed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "duration", "without"])]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    processes: Processes,
    /// Write the trace of the one seed to FILE.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check_determinism", "shrink"])]
    trace: Option<PathBuf>,
    /// Run each seed twice and compare the traces.
    #[arg(long)]
    check_determinism: bool,
    /// Print one JSON object a seed, in order, instead of text.
    #[arg(long)]
    json: bool,
    /// Save the scenario of the one seed; with --shrink the small one.
    #[arg(long, value_name = "FILE")]
    save_scenario: Option<PathBuf>,
    /// If the one seed fails, make its scenario small.
    #[arg(long)]
    shrink: bool,
    /// How many smaller scenarios --shrink may try.
    #[arg(long, value_name = "N", default_value_t = 400, hide_default_value = true)]
    shrink_runs: u32,
    /// Overwrite files that exist.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Debug, Args)]
struct MutantArgs {
    /// Only these; all if absent.
    #[arg(value_name = "ID", value_parser = mutant_id)]
    ids: Vec<String>,
    /// The first seed.
    #[arg(long, value_name = "N", default_value_t = 1)]
    first_seed: u64,
    /// How many seeds a mutant may survive.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
    /// How many nodes; the seed decides if absent.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: Option<u32>,
    /// Simulated seconds of storm; the seed decides if absent.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: Option<u64>,
    #[command(flatten)]
    processes: Processes,
}

#[derive(Clone, Debug, Args)]
struct SpeedArgs {
    /// How many seeds for each size.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    count: u64,
}

#[derive(Clone, Debug, Args)]
struct OneArgs {
    /// The seed.
    #[arg(long, required_unless_present = "scenario")]
    seed: Option<u64>,
    /// A scenario in its place.
    #[arg(long)]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
    /// Where to write the trace.
    #[arg(long)]
    trace: Option<PathBuf>,
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

fn mutant_id(text: &str) -> Result<String, String> {
    let known = || mutants::TABLE.iter().map(|mutant| mutant.id).collect::<Vec<_>>().join(", ");
    mutants::find(text)
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = if cli.list_mutants {
        print(&mutants::list())
    } else if cli.list_checks {
        print(&list_checks())
    } else {
        match cli.command {
            None => run(RunArgs { shrink_runs: 400, ..RunArgs::default() }),
            Some(Verb::Run(args)) => run(args),
            Some(Verb::Mutants(args)) => hunt(&args),
            Some(Verb::Speed(args)) => speed(&args),
            Some(Verb::Check(args)) => return cli::check::run(&args),
            Some(Verb::One(args)) => one(&args),
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(unusable) => {
            eprintln!("error: {unusable}");
            ExitCode::from(2)
        }
    }
}

fn print(text: &str) -> Result<bool, Unusable> {
    io::stdout().write_all(text.as_bytes())?;
    Ok(true)
}

fn list_checks() -> String {
    let mut text = String::new();
    for property in check::TABLE {
        let proofs: Vec<_> = mutants::proofs_of(property.id).collect();
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

fn run(args: RunArgs) -> Result<bool, Unusable> {
    let runner = Runner { check_determinism: args.check_determinism, ..args.processes.runner()? };
    let scenario = args.scenario.as_deref().map(load).transpose()?;
    let cases = cases(&args, scenario.as_ref())?;
    let single = cases.len() == 1;
    if !single && (args.trace.is_some() || args.save_scenario.is_some() || args.shrink) {
        return Err(Unusable("--trace, --save-scenario and --shrink want one --seed or --scenario".into()));
    }
    for path in [&args.trace, &args.save_scenario].into_iter().flatten() {
        if path.exists() && !args.force {
            return Err(Unusable(format!("{} exists; --force overwrites it", path.display())));
        }
    }
    if args.seed.is_none() && args.seeds.is_none() && scenario.is_none() {
        eprintln!("{} fresh seeds from {}", cases.len(), cases.first().map_or(0, |case| case.seed));
    }
    let watch = Stopwatch::start();
    let mut summary = Summary::default();
    let mut trouble = Ok(());
    let progress = progress_bar(cases.len(), single);
    let mut failed = None;
    runner.run_in_order(
        &cases,
        &mut |report| {
            if !report.ok {
                progress.set_message(format!("seed {} failed", report.seed));
            }
            progress.inc(1);
        },
        &mut |case, report| {
            summary.add(&report);
            let as_generated = match &case.scenario {
                Some(path) => path.display().to_string(),
                None => "the seed's own, not shrunk (--shrink makes it small)".to_owned(),
            };
            let text = if args.json {
                Some(json_line(&report))
            } else {
                // A failure that is about to be shrunk is told when it is small.
                let told = if report.ok { single } else { !args.shrink };
                told.then(|| report.text(&as_generated, &case.again()))
            };
            if single && !report.ok {
                failed = Some(report);
            }
            if let Some(text) = text {
                trouble = progress.suspend(|| io::stdout().write_all(text.as_bytes()));
            }
            trouble.is_ok()
        },
    );
    progress.finish_and_clear();
    trouble?;
    let scenario = scenario.unwrap_or_else(|| Scenario::generate(cases[0].seed, &limits(&args.shape)));
    match failed {
        Some(report) if args.shrink => make_small(&args, &runner, &cases[0], &scenario, &report)?,
        _ => {
            if let Some(path) = &args.save_scenario {
                save(path, &scenario, args.force)?;
                eprintln!("saved the scenario to {}", path.display());
            }
        }
    }
    if !single && !args.json {
        print(&summary.text(watch.seconds()))?;
    }
    Ok(summary.is_ok())
}

/// One seed after the other on one core, with all faults and all checks, so that the figure is per core.
fn speed(args: &SpeedArgs) -> Result<bool, Unusable> {
    let runner = Processes { jobs: Some(1), ..Processes::default() }.runner()?;
    let mut all_ok = true;
    for nodes in [3, 5] {
        let cases: Vec<Case> =
            (1..=args.count).map(|seed| Case { seed, nodes: Some(nodes), ..Case::default() }).collect();
        let (mut simulated, mut wall, mut operations) = (0.0, 0.0, 0);
        runner.run_in_order(&cases, &mut |_| {}, &mut |_, report| {
            simulated += report.sim_seconds;
            wall += report.wall_seconds;
            operations += report.ops_ok + report.ops_unknown + report.ops_failed;
            all_ok &= report.ok;
            true
        });
        print(&format!(
            "{nodes} nodes: {simulated:.0} simulated s in {wall:.1} s on one core, {:.0} times real time; {:.0} \
             operations a simulated second, all faults, all checks\n",
            simulated / wall,
            operations as f64 / simulated,
        ))?;
    }
    Ok(all_ok)
}

fn cases(args: &RunArgs, scenario: Option<&Scenario>) -> Result<Vec<Case>, Unusable> {
    let (first, last) = match (scenario, args.seed, args.seeds) {
        (Some(scenario), ..) => (scenario.seed, scenario.seed),
        (_, Some(seed), _) => (seed, seed),
        (_, _, Some(range)) => range,
        _ => {
            let count = args.count.unwrap_or(SWEEP);
            if !(1..=MOST_SEEDS).contains(&count) {
                return Err(Unusable(format!("--count wants 1 to {MOST_SEEDS}")));
            }
            let first = runner::fresh_seed();
            (first, first + count - 1)
        }
    };
    let case = Case {
        nodes: args.shape.nodes,
        duration_s: args.shape.duration,
        without: args.shape.without.iter().cloned().collect(),
        mutant: args.shape.mutant.clone(),
        scenario: args.scenario.clone(),
        trace: args.trace.clone(),
        ..Case::default()
    };
    Ok((first..=last).map(|seed| Case { seed, ..case.clone() }).collect())
}

fn limits(shape: &Shape) -> Limits {
    let without: BTreeSet<String> = shape.without.iter().cloned().collect();
    Limits { nodes: shape.nodes, duration_s: shape.duration, without }
}

/// Shrinks the scenario of a failed run, saves it and reports on it.
fn make_small(
    args: &RunArgs,
    runner: &Runner,
    case: &Case,
    scenario: &Scenario,
    report: &RunReport,
) -> Result<(), Unusable> {
    let path = args
        .save_scenario
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("seed-{}.shrunk.json", report.seed)));
    if path.exists() && !args.force {
        return Err(Unusable(format!("{} exists; --force overwrites it", path.display())));
    }
    let check = report.violations.first().map_or("CRASH", |violation| violation.check.as_str());
    let progress = progress_bar(0, false);
    let small =
        shrink::smallest(scenario, check, runner, case, args.shrink_runs, &mut |faults, operations| {
            progress.set_message(format!("{faults} faults, {operations} operations"));
        });
    progress.finish_and_clear();
    let small = small.map_err(|error| Unusable(format!("cannot write a smaller scenario: {error}")))?;
    save(&path, &small, args.force)?;
    let sizes = format!(
        "{}: {} of {} faults, {} of {} operations",
        path.display(),
        small.faults.len(),
        scenario.faults.len(),
        small.operations.len(),
        scenario.operations.len()
    );
    let case = Case { scenario: Some(path), ..case.clone() };
    let report = runner.run(&case);
    if args.json {
        eprintln!("{sizes}");
    } else {
        print(&report.text(&sizes, &case.again()))?;
    }
    Ok(())
}

fn hunt(args: &MutantArgs) -> Result<bool, Unusable> {
    let runner = args.processes.runner()?;
    let case = Case { nodes: args.nodes, duration_s: args.duration, ..Case::default() };
    let chosen: Vec<&'static Mutant> = match args.ids.is_empty() {
        true => mutants::TABLE.iter().collect(),
        false => args.ids.iter().filter_map(|id| mutants::find(id)).collect(),
    };
    let progress = progress_bar(chosen.len(), false);
    let mut scores = Vec::new();
    for mutant in chosen {
        progress.set_message(format!("{}: {}", mutant.id, mutant.what));
        scores.push(mutants::score(mutant, &runner, &case, args.first_seed, args.limit));
        progress.inc(1);
    }
    progress.finish_and_clear();
    print(&mutants::table(&scores))?;
    Ok(scores.iter().all(mutants::Score::is_good))
}

fn one(args: &OneArgs) -> Result<bool, Unusable> {
    let scenario = match (&args.scenario, args.seed) {
        (Some(path), _) => load(path)?,
        (None, Some(seed)) => Scenario::generate(seed, &limits(&args.shape)),
        (None, None) => return Err(Unusable("one wants --seed or --scenario".to_owned())),
    };
    let report = simulate(&scenario, args)?;
    // A violation is in the report; the exit code only says that there is one.
    print(&json_line(&report))
}

#[cfg(madsim)]
fn simulate(scenario: &Scenario, args: &OneArgs) -> Result<RunReport, Unusable> {
    let options = sim::world::RunOptions { trace: args.trace.clone(), mutant: args.shape.mutant.clone() };
    let watch = Stopwatch::start();
    let report = sim::world::run(scenario, &options, std::sync::Arc::new(sim::experiment::Plain));
    Ok(RunReport { wall_seconds: watch.seconds(), ..report })
}

#[cfg(not(madsim))]
fn simulate(scenario: &Scenario, args: &OneArgs) -> Result<RunReport, Unusable> {
    Err(Unusable(format!(
        "cannot run seed {}{}: this build has no simulator in it: build and run it with `cargo sim`",
        scenario.seed,
        args.trace.as_ref().map_or_else(String::new, |path| format!(" with trace {}", path.display()))
    )))
}

fn json_line(report: &RunReport) -> String {
    // A report is plain data, with nothing in it that JSON cannot say.
    let mut line = serde_json::to_string(report).unwrap_or_default();
    line.push('\n');
    line
}

fn load(path: &Path) -> Result<Scenario, Unusable> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Unusable(format!("cannot read scenario {}: {error}", path.display())))?;
    let scenario: Scenario = serde_json::from_str(&text)
        .map_err(|error| Unusable(format!("{} is not a scenario: {error}", path.display())))?;
    if scenario.version != VERSION {
        let version = scenario.version;
        let path = path.display();
        return Err(Unusable(format!(
            "{path} is a scenario of version {version}; this build reads {VERSION}"
        )));
    }
    Ok(scenario)
}

fn save(path: &Path, scenario: &Scenario, force: bool) -> Result<(), Unusable> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options
        .open(path)
        .and_then(|mut file| {
            serde_json::to_writer_pretty(&mut file, scenario)?;
            file.write_all(b"\n")
        })
        .map_err(|error| Unusable(format!("cannot save the scenario to {}: {error}", path.display())))
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
    fn a_seed_range_is_inclusive_and_says_what_is_wrong_with_it() {
        assert_eq!(seed_range("3..=9"), Ok((3, 9)));
        assert_eq!(seed_range("9..=3"), Err("the range is empty".to_owned()));
        assert!(seed_range("3..9").is_err());
        assert!(seed_range("a..=9").unwrap_err().starts_with("\"a\""));
        assert!(seed_range("0..=18446744073709551615").unwrap_err().starts_with("more than"));
    }

    #[test]
    fn a_sweep_takes_fresh_seeds_in_a_row() {
        let cases = cases(&RunArgs { count: Some(5), ..RunArgs::default() }, None).unwrap();
        assert_eq!(cases.len(), 5);
        assert_eq!(cases[4].seed, cases[0].seed + 4);
        assert!(super::cases(&RunArgs { count: Some(0), ..RunArgs::default() }, None).is_err());
    }

    #[test]
    fn nothing_is_overwritten_without_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        let scenario = Scenario::generate(4, &Limits::default());
        save(&path, &scenario, false).unwrap();
        assert!(save(&path, &scenario, false).unwrap_err().0.contains("s.json"));
        save(&path, &scenario, true).unwrap();
        assert_eq!(load(&path).unwrap().seed, 4);
        save(&path, &Scenario { version: VERSION + 1, ..scenario }, true).unwrap();
        assert!(load(&path).unwrap_err().0.contains("of version"));
        std::fs::write(&path, "{\n  \"seed\": 4,\n  oops").unwrap();
        assert!(load(&path).unwrap_err().0.contains("line 3"));
    }
}
