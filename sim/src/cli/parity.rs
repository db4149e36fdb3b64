//! `cargo sim parity`: the bugs that simulation catches, on real processes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::mutants::results::Results;
use crate::mutants::{self, Mutant};
use crate::real::parity::{self, Controls, ParityError, Row, Storm};
use crate::saved::SavedCase;
use clap::Args;

use super::mutants::{KEPT, case_of};
use super::replay::Built;
use super::{Processes, Unusable, is_free, mutant_id, print};

#[derive(Clone, Debug, Args)]
pub struct ParityArgs {
    /// Only this bug (again for more); all in question if absent.
    #[arg(long, value_name = "ID", value_parser = mutant_id)]
    mutant: Vec<String>,
    /// Tries of each bug; the first that fails is enough, unless --all-tries.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    tries: u32,
    /// Go on when a bug has failed, to see how often it does.
    #[arg(long)]
    all_tries: bool,
    /// Take the storms of the seeds that `cargo sim mutants` found the bugs in, of the code of the last line of FILE.
    #[arg(long, value_name = "FILE", default_value = KEPT)]
    results: PathBuf,
    /// Take saved cases in place of whole storms: those of this folder, one a bug, by its id.
    #[arg(long, value_name = "DIR", conflicts_with = "results")]
    cases: Option<PathBuf>,
    /// How many bugs are replayed at once. Each has a cluster of its own; a machine that is too busy is slow for all of them.
    #[arg(long, value_name = "J", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    at_once: u8,
    /// Keep what was measured in FILE, a line a bug, and measure nothing that is there already.
    #[arg(long, value_name = "FILE")]
    measured: Option<PathBuf>,
    /// Write the document there, of all that was measured; it is overwritten.
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

/// The bugs that are asked for, each with its storms, and those that have none.
type Found = (Vec<(&'static Mutant, Vec<Storm>)>, Vec<&'static str>);

fn storms(args: &ParityArgs) -> Result<Found, Unusable> {
    let asked = |mutant: &&Mutant| {
        if args.mutant.is_empty() {
            parity::in_question(mutant)
        } else {
            args.mutant.iter().any(|id| id == mutant.id)
        }
    };
    let results = match &args.cases {
        Some(_) => None,
        None => {
            let code = Results::newest_code(&args.results)?;
            Some(Results::open(&args.results, &code.unwrap_or_default())?)
        }
    };
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for mutant in mutants::all().filter(asked) {
        let storms = match (&results, &args.cases) {
            (Some(results), _) => Storm::of_hunts(&results.score(mutant)),
            (None, folder) => of_case(folder.as_deref().unwrap_or(Path::new("")), mutant)?,
        };
        if storms.is_empty() {
            missing.push(mutant.id);
        } else {
            found.push((mutant, storms));
        }
    }
    Ok((found, missing))
}

fn of_case(folder: &Path, mutant: &Mutant) -> Result<Vec<Storm>, Unusable> {
    let path = case_of(folder, mutant);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let storm = Storm::of_case(&path, SavedCase::load(&path)?);
    let storm = storm.filter(|storm| storm.mutant.id == mutant.id);
    storm.map(|storm| vec![storm]).ok_or_else(|| {
        Unusable(format!("{}: the case does not say that it shows {}", path.display(), mutant.id))
    })
}

/// What was measured before.
fn measured_before(path: Option<&Path>) -> Result<Vec<Row>, Unusable> {
    let Some(path) = path.filter(|path| path.exists()) else { return Ok(Vec::new()) };
    let unusable = |error: String| Unusable(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    parity::read(&text).map_err(unusable)
}

fn keep(row: &Row, path: &Path) -> Result<(), Unusable> {
    let line = serde_json::to_string(row).map_err(std::io::Error::from);
    let file = || std::fs::OpenOptions::new().append(true).create(true).open(path);
    let kept = line.and_then(|line| file()?.write_all(format!("{line}\n").as_bytes()));
    kept.map_err(|error| Unusable(format!("cannot write {}: {error}", path.display())))
}

/// Asks simulation about the bugs that never failed, if it was not asked before and is in this build.
fn explain(
    rows: &mut [Row],
    found: &[(&'static Mutant, Vec<Storm>)],
    args: &ParityArgs,
) -> Result<(), Unusable> {
    if !cfg!(madsim) {
        return Ok(());
    }
    let runner = Processes::default().runner()?;
    for row in rows.iter_mut().filter(|row| row.failed == 0 && row.within.is_none()) {
        let Some((_, storms)) = found.iter().find(|(mutant, _)| mutant.id == row.id) else { continue };
        let within = parity::within(storms, &runner);
        row.within = Some(within.map_err(|error| Unusable(format!("cannot simulate {}: {error}", row.id)))?);
        args.measured.as_deref().map_or(Ok(()), |path| keep(row, path))?;
    }
    Ok(())
}

/// Measures the share. Whether everything could be tried.
pub fn parity(args: &ParityArgs) -> Result<bool, Unusable> {
    let (found, missing) = storms(args)?;
    if found.is_empty() {
        let from = args.cases.as_ref().unwrap_or(&args.results).display();
        return Err(Unusable(format!("{from} has no storm of these bugs; `cargo sim mutants` finds them")));
    }
    if let Some(path) = &args.doc {
        // Before hours of work, and not after them.
        is_free(path, true)?;
    }
    let before = measured_before(args.measured.as_deref())?;
    let is_new = |(mutant, _): &&(&Mutant, Vec<Storm>)| before.iter().all(|row| row.id != mutant.id);
    let new: Vec<_> = found.iter().filter(is_new).collect();
    let program = if new.is_empty() { PathBuf::new() } else { args.built.program()? };
    let controls = Controls::default();
    let waiting = Mutex::new(new.into_iter());
    let done: Mutex<Vec<Result<Row, Unusable>>> = Mutex::default();
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((mutant, storms)) = next else { return };
            let mut tell = |number: u32, storm: &Storm, report: &crate::report::RunReport| {
                let objected: Vec<&str> = report.violations.iter().map(|one| one.check.as_str()).collect();
                let seconds = report.wall_seconds;
                eprintln!("{}, {}: try {number} in {seconds:.1} s: {objected:?}", mutant.id, storm.name);
            };
            let (tries, first) = (args.tries, !args.all_tries);
            let row = parity::measure(&program, mutant, storms, &controls, tries, first, &mut tell);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = row.map_err(Unusable::from).and_then(|row| {
                args.measured.as_deref().map_or(Ok(()), |path| keep(&row, path))?;
                Ok(row)
            });
            done.push(kept);
        }
    };
    std::thread::scope(|scope| (0..args.at_once).for_each(|_| drop(scope.spawn(work))));
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut rows = done.into_iter().collect::<Result<Vec<Row>, Unusable>>()?;
    rows.extend(before);
    explain(&mut rows, &found, args)?;
    rows.sort_by_key(|row| mutants::all().position(|mutant| mutant.id == row.id));
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
        eprintln!("no storm of {}: simulation has not caught them", missing.join(", "));
    }
    Ok(missing.is_empty())
}
