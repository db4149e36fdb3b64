//! `cargo sim shrink`, and what `run` does with a failure.

use std::path::{Path, PathBuf};

use crate::report::RunReport;
use crate::report::page::free_name;
use crate::runner::{Case, Runner};
use crate::saved::{Expects, SavedCase};
use crate::scenario::Scenario;
use crate::shrink::processes::{self, Budget};
use crate::shrink::{Signature, Size, tries};
use clap::Args;

use super::{Processes, Shape, Unusable, experiment, is_free, limits, pages, print, progress_bar};

/// Where shrinking goes, and how far it may go.
#[derive(Clone, Debug, Default, Args)]
pub struct Shrinking {
    /// Where the small scenario goes [default: seed-N.shrunk.json].
    #[arg(long, value_name = "FILE")]
    pub shrunk: Option<PathBuf>,
    #[command(flatten)]
    pub effort: Effort,
}

/// How far shrinking may go.
#[derive(Clone, Debug, Default, Args)]
pub struct Effort {
    /// How many smaller scenarios may be tried.
    #[arg(long, value_name = "N")]
    pub shrink_runs: Option<u32>,
    /// Real seconds after which shrinking stops where it is.
    #[arg(long, value_name = "S")]
    pub shrink_seconds: Option<u64>,
    /// Keep only what also fails with so many unrelated edits to the node's program [default: 0].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=16))]
    pub shrink_edits: Option<u64>,
}

impl Effort {
    /// As asked for, or these runs and seconds.
    pub fn budget(&self, (runs, seconds): (u32, u64)) -> Budget {
        Budget {
            runs: self.shrink_runs.unwrap_or(runs),
            seconds: self.shrink_seconds.unwrap_or(seconds) as f64,
            edits: self.shrink_edits.unwrap_or(0),
        }
    }
}

#[derive(Clone, Debug, Args)]
pub struct ShrinkArgs {
    /// A saved scenario or case that fails.
    #[arg(value_name = "CASE", required_unless_present = "seed", conflicts_with_all = ["seed", "nodes", "duration", "without"])]
    case: Option<PathBuf>,
    /// A seed that fails.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    processes: Processes,
    #[command(flatten)]
    shrinking: Shrinking,
    /// Overwrite files that exist.
    #[arg(long)]
    force: bool,
}

/// Makes a failing scenario small. One that does not fail is refused, as a file is that holds none.
pub fn shrink(args: &ShrinkArgs) -> Result<bool, Unusable> {
    let runner = args.processes.runner()?;
    let saved = args.case.as_deref().map(SavedCase::load).transpose()?;
    let expected = saved.as_ref().and_then(|saved| saved.expects.clone());
    let scenario = match saved {
        Some(saved) => saved.scenario,
        None => experiment().scenario(args.seed.unwrap_or_default(), &limits(&args.shape)),
    };
    let path = args.shrinking.shrunk.clone().unwrap_or_else(|| match &args.case {
        Some(case) => case.with_extension("shrunk.json"),
        None => PathBuf::from(format!("seed-{}.shrunk.json", scenario.seed)),
    });
    is_free(&path, args.force)?;
    let mutant = args.shape.mutant.clone().or(expected.and_then(|expects| expects.mutant));
    let case = Case {
        seed: scenario.seed,
        nodes: args.shape.nodes,
        duration_s: args.shape.duration,
        without: args.shape.without.iter().cloned().collect(),
        mutant,
        scenario: args.case.clone(),
        ..Case::default()
    };
    let report = runner.run(&case)?;
    if report.ok {
        return Err(Unusable(format!("{}: it does not fail, so there is nothing to shrink", case.again())));
    }
    let budget = args.shrinking.effort.budget((Budget::default().runs, Budget::default().seconds as u64));
    make_small(&runner, &case, &scenario, &report, budget, &path, args.force)?;
    Ok(true)
}

/// Shrinks the scenario of a failed run, saves it as a case and tells what it does.
pub fn make_small(
    runner: &Runner,
    case: &Case,
    scenario: &Scenario,
    report: &RunReport,
    budget: Budget,
    path: &Path,
    overwrite: bool,
) -> Result<(), Unusable> {
    let named = case.mutant.as_deref().and_then(crate::mutants::find).map_or(&[][..], |mutant| mutant.checks);
    let Some(signature) = Signature::of_report(report, named) else { return Ok(()) };
    let progress = progress_bar(0, false);
    let small = processes::shrink(scenario, report, &signature, runner, case, budget, &mut |size| {
        progress.set_message(size.to_string());
    });
    progress.finish_and_clear();
    let small = small.map_err(|error| Unusable(format!("cannot write a smaller scenario: {error}")))?;
    let within = tries(&small.scenario);
    let expects = Expects { mutant: case.mutant.clone(), signature: signature.clone(), within };
    let saved = SavedCase {
        story: format!("Seed {} made small.", report.seed),
        expects: Some(expects),
        once: None,
        scenario: small.scenario,
    };
    saved.save(path, overwrite)?;
    let again = Case {
        seed: saved.scenario.seed,
        scenario: Some(path.to_owned()),
        mutant: case.mutant.clone(),
        ..Case::default()
    };
    let name = format!("seed {}, made small ({})", report.seed, path.display());
    let page = free_name(path);
    let again = Case { report: Some(page.clone()), ..again };
    let report = runner.run(&again)?;
    pages::at_least_the_plan(&page, &again, &report, &saved.scenario)?;
    let told = format!(
        "{}\n    drawn:  {}\n    before: {}\n    after:  {}\n    in {} runs; fails with {signature}",
        path.display(),
        page.display(),
        Size::of(scenario),
        Size::of(&saved.scenario),
        small.runs,
    );
    print(&report.text_of(&name, &told, &again.again()))?;
    Ok(())
}
