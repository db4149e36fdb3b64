//! `cargo sim parity`: the bugs that simulation catches, on real processes.

use std::path::{Path, PathBuf};

use crate::mutants::{self, Mutant};
use crate::real::parity::{self, ParityError, Row};
use crate::runner::{Case, Runner};
use crate::saved::SavedCase;
use crate::scenario::Limits;
use crate::shrink::Signature;
use crate::shrink::processes::Budget;
use clap::Args;

use super::replay::Built;
use super::shrink::make_small;
use super::{Processes, Unusable, experiment, mutant_id, print};

/// Where the cases are: one a bug, by its id.
const CASES: &str = "fixtures/parity";

/// A case has to fail by its own force, not by the luck of its seed: it must also fail with so many unrelated edits.
const EDITS: u64 = 2;

#[derive(Clone, Debug, Args)]
pub struct ParityArgs {
    /// Only this bug (again for more); all in question if absent.
    #[arg(long, value_name = "ID", value_parser = mutant_id)]
    mutant: Vec<String>,
    /// Tries of each case; the first that fails is enough, unless --all-tries.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    tries: u32,
    /// Go on when a case has failed, to see how often it does.
    #[arg(long)]
    all_tries: bool,
    /// Where the cases are.
    #[arg(long, value_name = "DIR", default_value = CASES)]
    cases: PathBuf,
    /// Find, shrink and save the cases that are missing first.
    #[arg(long)]
    find: bool,
    /// Seeds to search for each.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    limit: u64,
    /// Seconds to shrink each.
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    shrink_seconds: u64,
    /// Write the document there; it is overwritten.
    #[arg(long, value_name = "FILE")]
    doc: Option<PathBuf>,
    #[command(flatten)]
    built: Built,
    #[command(flatten)]
    processes: Processes,
}

impl From<ParityError> for Unusable {
    fn from(error: ParityError) -> Unusable {
        Unusable(error.to_string())
    }
}

/// Measures the share. Whether everything could be tried.
pub fn parity(args: &ParityArgs) -> Result<bool, Unusable> {
    let asked = |mutant: &&Mutant| {
        if args.mutant.is_empty() {
            parity::in_question(mutant)
        } else {
            args.mutant.iter().any(|id| id == mutant.id)
        }
    };
    let chosen: Vec<&'static Mutant> = mutants::all().filter(asked).collect();
    if args.find {
        let runner = args.processes.runner()?;
        for mutant in &chosen {
            let path = case_of(&args.cases, mutant);
            if !path.exists() {
                find(args, &runner, mutant, &path)?;
            }
        }
    }
    let mut cases = Vec::new();
    let mut missing = Vec::new();
    for mutant in chosen {
        let path = case_of(&args.cases, mutant);
        if path.exists() { cases.push((SavedCase::load(&path)?, path)) } else { missing.push(mutant.id) }
    }
    if cases.is_empty() {
        return Err(Unusable(format!("there is no case in {}; --find makes them", args.cases.display())));
    }
    let program = args.built.program()?;
    let mut rows: Vec<Row> = Vec::new();
    for (case, path) in &cases {
        let mut tell = |number: u32, report: &crate::report::RunReport| {
            let objected = report.violations.first().map_or("nothing", |one| one.check.as_str());
            eprintln!("{}: try {number} in {:.1} s: {objected}", path.display(), report.wall_seconds);
        };
        let row = parity::measure(&program, path, case, args.tries, !args.all_tries, &mut tell)?;
        rows.push(row);
    }
    let text = parity::document(&rows);
    match &args.doc {
        Some(path) => {
            std::fs::write(path, &text)
                .map_err(|error| Unusable(format!("cannot write {}: {error}", path.display())))?;
            let (failing, all) = parity::share(&rows);
            print(&format!("{failing} of {all} fail on a real cluster too; {} says more\n", path.display()))?;
        }
        None => {
            print(&text)?;
        }
    }
    if !missing.is_empty() {
        eprintln!("no case for {}; --find makes them", missing.join(", "));
    }
    Ok(missing.is_empty())
}

fn case_of(cases: &Path, mutant: &Mutant) -> PathBuf {
    cases.join(format!("{}.json", mutant.id))
}

/// Finds a seed that a named check catches the bug under, makes its scenario small and saves it.
fn find(args: &ParityArgs, runner: &Runner, mutant: &'static Mutant, path: &Path) -> Result<(), Unusable> {
    let cases: Vec<Case> = (1..=args.limit)
        .map(|seed| Case { seed, mutant: Some(mutant.id.to_owned()), ..Case::default() })
        .collect();
    let mut found = None;
    runner.run_in_order(&cases, &mut |_| {}, &mut |case, report| {
        let signature = Signature::of_report(&report, mutant.checks);
        if signature.is_some_and(|signature| mutant.checks.contains(&signature.check.as_str())) {
            found = Some((case.clone(), report));
        }
        found.is_none()
    });
    let Some((case, report)) = found else {
        eprintln!("{}: caught under none of {} seeds", mutant.id, args.limit);
        return Ok(());
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| Unusable(format!("cannot make {}: {error}", folder.display())))?;
    }
    let scenario = experiment().scenario(case.seed, &Limits::default());
    let budget = Budget { runs: 2_000, seconds: args.shrink_seconds as f64, edits: EDITS };
    make_small(runner, &case, &scenario, &report, budget, path, false)
}
