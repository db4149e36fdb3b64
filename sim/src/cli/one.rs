//! `sim one`, hidden: one run in this process, for the runner that started it.

use std::path::PathBuf;

use crate::report::RunReport;
use crate::saved::SavedCase;
use crate::scenario::Scenario;
use clap::Args;

use super::{Shape, Unusable, experiment, json_line, limits, print};
#[cfg(madsim)]
use crate::runner::Stopwatch;

#[derive(Clone, Debug, Args)]
pub struct OneArgs {
    /// The seed.
    #[arg(long, required_unless_present = "scenario")]
    seed: Option<u64>,
    /// A scenario in its place.
    #[arg(long, conflicts_with_all = ["seed", "nodes", "duration", "without"])]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
    /// Where to write the trace.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Run as if the node's program had been edited so many times.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    perturb: u64,
    /// End with the storm, and sooner if this check objects.
    #[arg(long, value_name = "CHECK")]
    storm_only: Option<String>,
    /// Report which states of the cluster were reached.
    #[arg(long)]
    coverage: bool,
    /// Where to write the page that shows the run.
    #[arg(long, requires = "again")]
    report: Option<PathBuf>,
    /// The command that the page names for running it again.
    #[arg(long)]
    again: Option<String>,
}

pub fn one(args: &OneArgs) -> Result<bool, Unusable> {
    let scenario = match (&args.scenario, args.seed) {
        (Some(path), _) => SavedCase::load(path)?.scenario,
        (None, Some(seed)) => experiment().scenario(seed, &limits(&args.shape)),
        (None, None) => return Err(Unusable("one wants --seed or --scenario".to_owned())),
    };
    let report = simulate(scenario, args)?;
    // A violation is in the report; the exit code only says that there is one.
    print(&json_line(&report))
}

#[cfg(madsim)]
fn simulate(scenario: Scenario, args: &OneArgs) -> Result<RunReport, Unusable> {
    use crate::world::PageFile;

    let options = crate::world::RunOptions {
        trace: args.trace.clone(),
        mutant: args.shape.mutant.clone(),
        perturb: args.perturb,
        storm_only: args.storm_only.clone(),
        coverage: args.coverage,
        report: args.report.clone().zip(args.again.clone()).map(|(path, again)| PageFile { path, again }),
    };
    let watch = Stopwatch::start();
    let run = crate::world::run(scenario, &options, experiment());
    let report = run.map_err(|error| Unusable(error.to_string()))?;
    let (cpu_seconds, memory_kib) = crate::runner::spent();
    Ok(RunReport { wall_seconds: watch.seconds(), cpu_seconds, memory_kib, ..report })
}

#[cfg(not(madsim))]
fn simulate(scenario: Scenario, args: &OneArgs) -> Result<RunReport, Unusable> {
    Err(Unusable(format!(
        "cannot run seed {}{}: this build has no simulator in it: build and run it with `cargo sim`",
        scenario.seed,
        args.trace.as_ref().map_or_else(String::new, |path| format!(" with trace {}", path.display()))
    )))
}
