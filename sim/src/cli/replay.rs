//! `cargo sim replay`: a case again, simulated or on a cluster of real processes.

use std::path::{Path, PathBuf};

use crate::real::program::{self, BuildError};
use crate::real::replay::Replay;
use crate::real::storm;
use crate::report::RunReport;
use crate::runner::{Case, quoted};
use crate::saved::SavedCase;
use clap::Args;

use super::{Processes, Unusable, json_line, mutant_id, print};

#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// A saved scenario or case.
    #[arg(value_name = "CASE")]
    case: PathBuf,
    /// On real processes: the node's program, with a fault proxy on every link.
    #[arg(long, conflicts_with = "time_limit")]
    real: bool,
    /// Put this bug back in place of the one that the case names.
    #[arg(long, value_name = "ID", value_parser = mutant_id)]
    mutant: Option<String>,
    /// Leave the program as it is, whatever the case says.
    #[arg(long, conflicts_with = "mutant")]
    no_mutant: bool,
    /// How often, as the real world draws its own luck.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "real", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    tries: u32,
    #[command(flatten)]
    built: Built,
    /// Keep logs, files and histories of the nodes there, each try in a folder of its own.
    #[arg(long, value_name = "DIR", requires = "real")]
    keep: Option<PathBuf>,
    /// Print one JSON object a try.
    #[arg(long)]
    json: bool,
    /// Real seconds after which a simulated run counts as hanging [default: 120]. On real processes every wait has a
    /// bound of its own.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time_limit: Option<u64>,
}

/// Where the node's program comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct Built {
    /// The node's program, built with the feature `testbed`; built now if absent.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Build it without optimisation, which is sooner done.
    #[arg(long, conflicts_with = "program")]
    debug: bool,
}

impl From<BuildError> for Unusable {
    fn from(error: BuildError) -> Unusable {
        Unusable(error.to_string())
    }
}

impl Built {
    /// Whether anything was said of it.
    fn is_given(&self) -> bool {
        self.program.is_some() || self.debug
    }

    /// The program's place.
    pub fn program(&self) -> Result<PathBuf, Unusable> {
        match &self.program {
            Some(path) if path.is_file() => {
                program::probe(path)?;
                Ok(path.clone())
            }
            Some(path) => Err(Unusable(format!("--program {}: there is no such file", path.display()))),
            None => Ok(program::build(!self.debug)?),
        }
    }
}

/// Replays a case. Whether nothing was violated.
pub fn replay(args: &ReplayArgs) -> Result<bool, Unusable> {
    let case = SavedCase::load(&args.case)?;
    let named = case.expects.as_ref().and_then(|expects| expects.mutant.clone());
    let mutant = if args.no_mutant { None } else { args.mutant.clone().or(named) };
    if !args.real {
        if args.built.is_given() {
            return Err(Unusable("--program and --debug are of real processes: they want --real".to_owned()));
        }
        let runner = Processes { jobs: Some(1), time_limit: args.time_limit }.runner()?;
        let again =
            Case { seed: case.scenario.seed, scenario: Some(args.case.clone()), mutant, ..Case::default() };
        let report = runner.run(&again)?;
        let text = if args.json { json_line(&report) } else { report.text(&told(args), &again.again()) };
        print(&text)?;
        return Ok(report.ok);
    }
    if let Some(keep) = args.keep.as_deref().filter(|keep| keep.exists()) {
        return Err(Unusable(format!("{} exists; name a folder that does not", keep.display())));
    }
    let program = args.built.program()?;
    let mut all_well = true;
    for number in 1..=args.tries {
        let report = one_try(args, &program, &case, mutant.clone(), number)?;
        all_well &= report.ok;
        if args.json {
            print(&json_line(&report))?;
        } else {
            let mut again = format!("cargo sim replay --real {}", quoted(&args.case.to_string_lossy()));
            match &mutant {
                Some(mutant) => again += &format!(" --mutant {mutant}"),
                None if args.no_mutant => again += " --no-mutant",
                None => {}
            }
            print(&format!("try {number} of {}, {}", args.tries, report.real_text(&again)))?;
        }
    }
    if !args.json {
        for reason in storm::left_out(&case.scenario) {
            print(&format!("not as planned: {reason}\n"))?;
        }
    }
    Ok(all_well)
}

fn told(args: &ReplayArgs) -> String {
    args.case.display().to_string()
}

fn one_try(
    args: &ReplayArgs,
    program: &Path,
    case: &SavedCase,
    mutant: Option<String>,
    number: u32,
) -> Result<RunReport, Unusable> {
    let unusable =
        |error: std::io::Error| Unusable(format!("cannot replay {}: {error}", args.case.display()));
    let temporary;
    let folder = match &args.keep {
        Some(keep) => {
            let folder = keep.join(format!("try-{number}"));
            std::fs::create_dir_all(&folder).map_err(unusable)?;
            // The nodes must find it from wherever they are.
            folder.canonicalize().map_err(unusable)?
        }
        None => {
            temporary = tempfile::tempdir().map_err(unusable)?;
            temporary.path().to_owned()
        }
    };
    Replay { program: program.to_owned(), mutant, folder, follows: true }
        .run(&case.scenario)
        .map_err(unusable)
}
