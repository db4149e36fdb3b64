//! `cargo sim run`, and `cargo sim` alone: seeds or a scenario, each in a process of its own, and what came of
//! them. A failure is made small before it is told; of many failures one for each signature is.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::points::Reached;
use crate::report::{Origin, RunReport, Summary};
use crate::runner::{self, Case, Runner, Stopwatch};
use crate::saved::SavedCase;
use crate::scenario::Scenario;
use crate::shard::Shard;
use crate::shrink::Signature;
use clap::Args;

use super::merge::write_reached;
use super::shrink::{Shrinking, make_small};
use super::{
    MOST_SEEDS, Processes, Shape, Unusable, code, experiment, is_free, json_line, limits, pages, print,
    progress_bar, seed_range, unwritable,
};

/// Seeds in a sweep if nobody says how many.
const SWEEP: u64 = 64;
/// So many failures of a sweep are made small; the others are most likely the same ones again.
const MOST_SHRUNK: usize = 4;
/// Candidates and seconds for each of them: a sweep has to end.
const SWEEPS_BUDGET: (u32, u64) = (300, 60);

#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// One seed.
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "scenario", "count"])]
    seed: Option<u64>,
    /// Seeds from A to B.
    #[arg(long, value_name = "A..=B", value_parser = seed_range, conflicts_with_all = ["scenario", "count"])]
    seeds: Option<(u64, u64)>,
    /// How many fresh seeds [default: 64].
    #[arg(long, value_name = "N", conflicts_with = "scenario")]
    count: Option<u64>,
    /// A scenario or case saved before, in place of a seed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "duration", "without"])]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    processes: Processes,
    /// Take every N-th seed, beginning with the K-th; N such runs together are one run without.
    #[arg(long, value_name = "K/N", conflicts_with_all = ["seed", "scenario", "count"], requires = "seeds")]
    shard: Option<Shard>,
    /// Write the trace of the one seed to FILE. Nothing is shrunk.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check_determinism", "shrunk", "Effort"])]
    trace: Option<PathBuf>,
    /// Write a page that shows the run of the one seed to FILE: open it in a browser. A failure gets one in any case.
    #[arg(long, value_name = "FILE", conflicts_with = "check_determinism")]
    report: Option<PathBuf>,
    /// Run each seed twice and compare the traces.
    #[arg(long)]
    check_determinism: bool,
    /// Print one JSON object a seed, in order, instead of text. Nothing is shrunk.
    #[arg(long, conflicts_with_all = ["shrunk", "Effort"])]
    json: bool,
    /// Also write the JSON objects to FILE, for `merge`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What the reports, and where the runs have been, call the code that ran; a hash of this program if absent. For machines that each build it for themselves.
    #[arg(long, value_name = "NAME")]
    code: Option<String>,
    /// Write to FILE where the runs have been: every point by how often it was reached. `merge` adds such files up.
    #[arg(long, value_name = "FILE")]
    coverage_report: Option<PathBuf>,
    /// Fail unless every point of the core set was reached (see sim/src/points/table.rs).
    #[arg(long, conflicts_with_all = ["seed", "scenario", "json"])]
    require_core: bool,
    /// Save the scenario of the one seed, as it is.
    #[arg(long, value_name = "FILE")]
    save_scenario: Option<PathBuf>,
    #[command(flatten)]
    shrinking: Shrinking,
    /// Do not make the scenario of a failure small.
    #[arg(long, conflicts_with_all = ["shrunk", "Effort"])]
    no_shrink: bool,
    /// Run as if the node's program had been edited so many times: for proving that a plan fails by its own force.
    #[arg(long, value_name = "N", hide = true, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    perturb: u64,
    /// Overwrite files that exist.
    #[arg(long)]
    force: bool,
}

pub fn run(args: &RunArgs) -> Result<bool, Unusable> {
    let runner = Runner { check_determinism: args.check_determinism, ..args.processes.runner()? };
    let scenario = args.scenario.as_deref().map(SavedCase::load).transpose()?.map(|case| case.scenario);
    let cases = cases(args, scenario.as_ref())?;
    let single = cases.len() == 1 && args.seeds.is_none();
    let of_one = [&args.trace, &args.save_scenario, &args.report, &args.shrinking.shrunk];
    if !single && of_one.into_iter().any(Option::is_some) {
        let names = "--trace, --report, --save-scenario and --shrunk";
        return Err(Unusable(format!("{names} want one --seed or --scenario")));
    }
    let reports = args.json || args.out.is_some();
    if args.code.is_some() && !reports && args.coverage_report.is_none() {
        let text = "--code is told in reports: it wants --out, --json or --coverage-report";
        return Err(Unusable(text.to_owned()));
    }
    let written = [
        &args.trace,
        &args.save_scenario,
        &args.out,
        &args.coverage_report,
        &args.report,
        &args.shrinking.shrunk,
    ];
    let mut names = BTreeSet::new();
    for path in written.into_iter().flatten() {
        is_free(path, args.force)?;
        if !names.insert(path) {
            return Err(Unusable(format!("{} is named for two files", path.display())));
        }
    }
    // The process that draws it makes the file anew. What is no plain file (a device, a pipe) must not be taken away for that.
    if let Some(path) = args.report.as_deref().filter(|path| path.exists()) {
        if !path.is_file() {
            return Err(Unusable(format!(
                "{} is no plain file, so no page is put in its place",
                path.display()
            )));
        }
        std::fs::remove_file(path).map_err(|error| unwritable(path, &error))?;
    }
    let create = |path| match std::fs::File::create(path) {
        Ok(file) => Ok((path, file)),
        Err(error) => Err(unwritable(path, &error)),
    };
    let mut out = args.out.as_deref().map(create).transpose()?;
    if args.seed.is_none() && args.seeds.is_none() && scenario.is_none() {
        eprintln!("{} fresh seeds from {}", cases.len(), cases.first().map_or(0, |case| case.seed));
    }
    // Once for all of them.
    let origin = reports.then(|| origin(&args.shape, args.code.as_ref())).transpose()?;
    let shrinks = !args.no_shrink && !args.json && args.trace.is_none();
    let watch = Stopwatch::start();
    let mut summary = Summary::of(cases.len());
    let mut reached = Reached::default();
    if args.coverage_report.is_some() {
        reached.code = Some(code(args.code.as_ref())?);
    }
    let mut trouble: Result<(), Unusable> = Ok(());
    let progress = progress_bar(cases.len(), single);
    let mut failures: Vec<(Case, RunReport)> = Vec::new();
    let mut signatures = BTreeSet::new();
    let ran = runner.run_in_order(
        &cases,
        &mut |report| {
            if !report.ok {
                progress.set_message(format!("seed {} failed", report.seed));
            }
            progress.inc(1);
        },
        &mut |case, report| {
            let report = RunReport { of: origin.clone(), ..report };
            summary.add(&report);
            reached.add(&report);
            let as_generated = match &case.scenario {
                Some(path) => path.display().to_string(),
                None => "the seed's own".to_owned(),
            };
            let text = if args.json {
                Some(json_line(&report))
            } else {
                (single || !report.ok).then(|| report.text(&as_generated, &case.again()))
            };
            if let Some(text) = text {
                trouble =
                    progress.suspend(|| io::stdout().write_all(text.as_bytes())).map_err(Unusable::from);
            }
            if let (Some((path, file)), true) = (&mut out, trouble.is_ok()) {
                let written = file.write_all(json_line(&report).as_bytes());
                trouble = written.map_err(|error| unwritable(path, &error));
            }
            let signature = Signature::of_report(&report, &[]);
            if let Some(signature) = signature
                && signature.check != "DET"
                && signatures.len() < MOST_SHRUNK
                && signatures.insert(signature)
            {
                failures.push((case.clone(), report));
            }
            trouble.is_ok()
        },
    );
    progress.finish_and_clear();
    trouble?;
    ran?;
    if let (Some(path), Some(case)) = (&args.save_scenario, cases.first()) {
        let scenario = scenario.clone().unwrap_or_else(|| generated(case, &args.shape));
        SavedCase::bare(scenario).save(path, args.force)?;
        eprintln!("saved the scenario to {}", path.display());
    }
    if !single && !args.json {
        print(&summary.text(watch.seconds()))?;
        print(&points(args, &reached))?;
    }
    if let Some(path) = &args.coverage_report {
        write_reached(path, &reached)?;
    }
    let missing = if args.require_core { reached.missing_core() } else { Vec::new() };
    for claim in &missing {
        print(&format!("core point never reached: {claim}\n"))?;
    }
    if let (Some(path), Some((case, report))) = (&args.report, failures.first()) {
        let scenario = scenario.clone().unwrap_or_else(|| generated(case, &args.shape));
        warn(pages::at_least_the_plan(path, case, report, &scenario));
    }
    if let (Some(path), false) = (&args.report, args.json) {
        print(&format!("  drawn: {}\n", path.display()))?;
    }
    if args.json {
        return Ok(summary.is_ok() && missing.is_empty());
    }
    for (case, report) in &failures {
        let scenario = scenario.clone().unwrap_or_else(|| generated(case, &args.shape));
        if !shrinks {
            if args.report.is_none() {
                let page = format!("seed-{}.html", case.seed);
                warn(pages::again(&runner, case, report, &scenario, Path::new(&page)));
            }
            continue;
        }
        let default = if single { (600, 240) } else { SWEEPS_BUDGET };
        let path = match &args.shrinking.shrunk {
            Some(path) if single => path.clone(),
            _ => PathBuf::from(format!("seed-{}.shrunk.json", report.seed)),
        };
        if path.exists() && !args.force {
            eprintln!(
                "{} exists, so seed {} is not shrunk; --force overwrites it",
                path.display(),
                case.seed
            );
            let page = format!("seed-{}.html", case.seed);
            warn(pages::again(&runner, case, report, &scenario, Path::new(&page)));
            continue;
        }
        let budget = args.shrinking.effort.budget(default);
        warn(make_small(&runner, case, &scenario, report, budget, &path, args.force));
    }
    Ok(summary.is_ok() && missing.is_empty())
}

/// Where a sweep has been. What it never came to is listed where that says something: where it was asked for, and from as many
/// seeds on as a sweep has.
fn points(args: &RunArgs, reached: &Reached) -> String {
    if args.require_core || reached.runs >= SWEEP { reached.text() } else { reached.line() }
}

/// What was found is told by now, and by the exit code: that it could not be drawn or made small does not take it back.
fn warn(done: Result<(), Unusable>) {
    if let Err(unusable) = done {
        eprintln!("warning: {unusable}");
    }
}

/// What the reports of a sweep say that they are of, so that nobody puts two experiments together.
fn origin(shape: &Shape, name: Option<&String>) -> Result<Origin, Unusable> {
    Ok(Origin {
        program: program(),
        code: Some(code(name)?),
        mutant: shape.mutant.clone(),
        nodes: shape.nodes,
        duration_s: shape.duration,
        without: shape.without.iter().cloned().collect(),
    })
}

/// The name of this program, which is an experiment's own, and the version of the testbed.
fn program() -> String {
    let path = std::env::current_exe().ok();
    let name = path.as_deref().and_then(Path::file_stem).map(|name| name.to_string_lossy().into_owned());
    format!("{} {}", name.as_deref().unwrap_or("sim"), env!("CARGO_PKG_VERSION"))
}

fn generated(case: &Case, shape: &Shape) -> Scenario {
    experiment().scenario(case.seed, &limits(shape))
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
        report: args.report.clone(),
        perturb: args.perturb,
        ..Case::default()
    };
    let seeds = (first..=last).enumerate().filter(|(at, _)| args.shard.is_none_or(|shard| shard.takes(*at)));
    Ok(seeds.map(|(_, seed)| Case { seed, ..case.clone() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_fresh_seeds_in_a_row() {
        let taken = cases(&RunArgs { count: Some(5), ..RunArgs::default() }, None).unwrap();
        assert_eq!(taken.len(), 5);
        assert_eq!(taken[4].seed, taken[0].seed + 4);
        assert!(cases(&RunArgs { count: Some(0), ..RunArgs::default() }, None).is_err());
    }

    #[test]
    fn a_report_says_what_it_is_of() {
        let shape = Shape {
            nodes: Some(5),
            duration: Some(7),
            without: vec!["loss".to_owned()],
            mutant: Some("R27".to_owned()),
        };
        let of = |name: Option<&str>| origin(&shape, name.map(str::to_owned).as_ref()).unwrap();
        let report = RunReport { of: Some(of(Some("v7"))), ..RunReport::default() };
        let line = json_line(&report);
        assert!(line.contains(r#""code":"v7","mutant":"R27""#), "{line}");
        assert!(line.contains(r#""mutant":"R27","nodes":5,"duration_s":7,"without":["loss"]"#), "{line}");
        assert_eq!(serde_json::from_str::<RunReport>(&line).unwrap(), report);
        // Without a name it is that of the program's content, which is the same however often it is asked for.
        let hash = of(None).code.unwrap();
        assert!(hash.len() == 16 && of(None).code == Some(hash));
    }

    #[test]
    fn a_sweep_lists_what_it_never_reached_if_it_is_long_or_was_asked() {
        let of = |runs: u64, require_core: bool| {
            let mut reached = Reached::default();
            (0..runs).for_each(|_| reached.add(&RunReport::default()));
            points(&RunArgs { require_core, ..RunArgs::default() }, &reached)
        };
        assert_eq!(of(SWEEP - 1, false).lines().count(), 1);
        assert!(of(SWEEP - 1, false).contains("points not reached; --coverage-report FILE lists them"));
        assert!(of(SWEEP, false).lines().count() > 9 && of(2, true).lines().count() > 9);
    }

    #[test]
    fn shards_take_every_seed_once() {
        let taken = |shard: &str| {
            let shard = Some(shard.parse().unwrap());
            let args = RunArgs { seeds: Some((10, 16)), shard, ..RunArgs::default() };
            cases(&args, None).unwrap().iter().map(|case| case.seed).collect::<Vec<_>>()
        };
        assert_eq!(
            (taken("1/3"), taken("2/3"), taken("3/3")),
            (vec![10, 13, 16], vec![11, 14], vec![12, 15])
        );
        // More shards than seeds: some have nothing to do, and did it.
        let rest = taken("8/8");
        assert!(rest.is_empty() && Summary::of(rest.len()).is_ok());
    }
}
