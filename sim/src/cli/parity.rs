//! `cargo sim parity`: the bugs that simulation catches, on real processes.

use std::path::PathBuf;

use crate::mutants::{self, Mutant};
use crate::real::parity::{self, ParityError, Row};
use crate::saved::SavedCase;
use clap::Args;

use super::mutants::case_of;
use super::replay::Built;
use super::{Unusable, mutant_id, print};

/// Where the cases are: one a bug, by its id.
const CASES: &str = "fixtures/mutants";
/// What makes those that are missing.
const MAKES: &str = "`cargo sim mutants ID --shrink-seconds 60 --cases fixtures/mutants` makes them";

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
    /// Write the document there; it is overwritten.
    #[arg(long, value_name = "FILE")]
    doc: Option<PathBuf>,
    #[command(flatten)]
    built: Built,
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
    let mut cases = Vec::new();
    let mut missing = Vec::new();
    for mutant in chosen {
        let path = case_of(&args.cases, mutant);
        if path.exists() { cases.push((SavedCase::load(&path)?, path)) } else { missing.push(mutant.id) }
    }
    if cases.is_empty() {
        return Err(Unusable(format!("there is no case in {}; {MAKES}", args.cases.display())));
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
        eprintln!("no case for {}; {MAKES}", missing.join(", "));
    }
    Ok(missing.is_empty())
}
