//! `cargo sim diff A B`: where two runs part. Exit codes: 0 they are the same, 1 they part, 2 one cannot be read or run.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::diff::{Side, diff};
use crate::runner::{Case, Runner};
use crate::saved::SavedCase;
use crate::scenario::validate::as_json;
use crate::scenario::{FaultKind, Scenario};
use clap::Args;

use super::{Processes, Shape, Unusable, experiment, limits, print, unwritable};

/// The flags of `sim diff`.
#[derive(Clone, Debug, Args)]
pub struct DiffArgs {
    /// A trace, a case or scenario to run, or a seed to run.
    #[arg(value_name = "A")]
    a: String,
    /// The other one.
    #[arg(value_name = "B", required_unless_present = "without_fault", conflicts_with = "without_fault")]
    b: Option<String>,
    /// Compare A with itself without its fault number K, counted from 0: what that fault does.
    #[arg(long, value_name = "K")]
    without_fault: Option<usize>,
    /// How many lines to show before the traces part, and after.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    context: u16,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    processes: Processes,
}

/// What one of the two arguments is.
enum Given {
    Trace(PathBuf),
    /// A case or scenario, from a file.
    Plan(Box<Scenario>, Option<String>),
    /// The scenario of a seed.
    Seed(Box<Scenario>, Option<String>),
}

impl DiffArgs {
    /// Refuses what neither of the two sides has a use for.
    fn has_no_use(&self, sides: [&Given; 2]) -> Result<(), Unusable> {
        let shaped =
            self.shape.nodes.is_some() || self.shape.duration.is_some() || !self.shape.without.is_empty();
        let run = self.shape.mutant.is_some()
            || self.processes.jobs.is_some()
            || self.processes.time_limit.is_some();
        if (shaped || run) && sides.iter().all(|side| matches!(side, Given::Trace(_))) {
            return Err(Unusable("two traces are compared, so nothing is run: no flag says how".to_owned()));
        }
        if shaped && !sides.iter().any(|side| matches!(side, Given::Seed(..))) {
            return Err(Unusable(
                "--nodes, --duration and --without are for a seed: a case has its own".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Finds where two traces part and says so. Whether they do not.
pub fn run(args: &DiffArgs) -> Result<bool, Unusable> {
    let folder = tempfile::tempdir().map_err(|error| unwritable(Path::new("a temporary folder"), &error))?;
    let mut names = [args.a.clone(), args.b.clone().unwrap_or_default()];
    let a = given(&args.a, &args.shape)?;
    let b = match (&args.b, args.without_fault) {
        (Some(b), _) => given(b, &args.shape)?,
        (None, Some(number)) => {
            let (Given::Plan(scenario, mutant) | Given::Seed(scenario, mutant)) = &a else {
                return Err(Unusable(format!(
                    "{} is a trace: --without-fault wants a case or a seed",
                    args.a
                )));
            };
            let (less, what) = without(scenario, number)?;
            names[1] = format!("{} without fault {number} ({what})", args.a);
            Given::Plan(Box::new(less), mutant.clone())
        }
        (None, None) => return Err(Unusable("diff wants a second trace, case or seed".to_owned())),
    };
    args.has_no_use([&a, &b])?;
    let mut traces = Vec::new();
    for (side, given) in [a, b].into_iter().enumerate() {
        traces.push(match given {
            Given::Trace(path) => path,
            Given::Plan(scenario, mutant) | Given::Seed(scenario, mutant) => {
                let runner = args.processes.runner()?;
                let (path, verdict) =
                    traced(&runner, &scenario, mutant, &folder.path().join(format!("{side}")))?;
                print(&format!("{} {}: {verdict}\n", ["-", "+"][side], names[side]))?;
                path
            }
        });
    }
    let open = |side: usize| {
        let file = File::open(&traces[side]);
        file.map(BufReader::new).map_err(|error| Unusable(format!("{} cannot be read: {error}", names[side])))
    };
    match diff(open(0)?, open(1)?, usize::from(args.context)) {
        Ok(None) => {
            print("the traces are the same\n")?;
            Ok(true)
        }
        Ok(Some(parting)) => {
            print(&parting.text([&names[0], &names[1]]))?;
            Ok(false)
        }
        Err((side, error)) => Err(Unusable(format!("{}: {error}", names[usize::from(side == Side::B)]))),
    }
}

/// What an argument stands for: a file's beginning tells a plan from a trace; what is no file is a seed.
fn given(text: &str, shape: &Shape) -> Result<Given, Unusable> {
    let path = Path::new(text);
    if !path.exists() {
        let seed = text.parse::<u64>();
        let seed =
            seed.map_err(|_| Unusable(format!("{text:?} is neither a file that exists nor a seed")))?;
        let scenario = experiment().scenario(seed, &limits(shape));
        return Ok(Given::Seed(Box::new(scenario), shape.mutant.clone()));
    }
    let mut beginning = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4_096).read_to_end(&mut beginning))
        .map_err(|error| Unusable(format!("{text} cannot be read: {error}")))?;
    if !beginning.trim_ascii_start().starts_with(b"{") {
        return Ok(Given::Trace(path.to_owned()));
    }
    let case = SavedCase::load(path)?;
    let own = case.expects.and_then(|expects| expects.mutant);
    Ok(Given::Plan(Box::new(case.scenario), shape.mutant.clone().or(own)))
}

/// The plan without one of its faults, and which one that is. In its place nobody loses power: one task less from the beginning on
/// would shift everything by nanoseconds, and the runs would part long before the fault is due.
fn without(scenario: &Scenario, number: usize) -> Result<(Scenario, String), Unusable> {
    let described = |at: usize| {
        let fault = &scenario.faults[at];
        format!("{at}: at {} ms for {} ms: {}", fault.at_ms, fault.for_ms, as_json(&fault.kind))
    };
    if number >= scenario.faults.len() {
        let all: Vec<String> = (0..scenario.faults.len()).map(described).collect();
        return Err(Unusable(match all.is_empty() {
            true => "the plan has no faults to leave out".to_owned(),
            false => format!("there is no fault {number}; there are\n  {}", all.join("\n  ")),
        }));
    }
    let what = scenario.faults[number].kind.name().to_owned();
    let mut less = scenario.clone();
    less.faults[number].kind = FaultKind::PowerLoss { nodes: Vec::new() };
    Ok((less, what))
}

/// Runs a plan; gives its trace and what came of it in a few words.
fn traced(
    runner: &Runner,
    scenario: &Scenario,
    mutant: Option<String>,
    stem: &Path,
) -> Result<(PathBuf, String), Unusable> {
    let (plan, trace) = (stem.with_extension("json"), stem.with_extension("trace"));
    SavedCase::bare(scenario.clone()).save(&plan, false)?;
    let case = Case {
        seed: scenario.seed,
        scenario: Some(plan),
        trace: Some(trace.clone()),
        mutant,
        ..Case::default()
    };
    let report = runner.run(&case)?;
    let verdict = match report.violations.first() {
        None => "ok".to_owned(),
        Some(first) => {
            format!("{} violated: {}", first.check, first.detail.lines().next().unwrap_or_default())
        }
    };
    Ok((trace, verdict))
}
