//! `cargo sim mutants`: puts each bug back and sees that the right check catches it.

use std::path::{Path, PathBuf};

use crate::check;
use crate::mutants::results::{Results, ResultsError};
use crate::mutants::score::{self, APART, Effort, Hunt, Score};
use crate::mutants::{self, Mutant, table};
use crate::runner::{Case, Runner};
use crate::saved::SavedCase;
use crate::shard::Shard;
use clap::Args;

use super::{Processes, Unusable, code, mutant_id, print, progress_bar};

/// The table for people, and the results that it is made of.
const DOCUMENT: &str = "docs/mutants.md";
pub const KEPT: &str = "fixtures/mutants.jsonl";
/// The documents that show the table of checks, between two lines like [`BEGIN`] and [`END`].
const SHOW_CHECKS: [&str; 2] = ["ARCHITECTURE.md", "sim/README.md"];
pub const BEGIN: &str = "<!-- the checks, written by `cargo sim mutants --write-docs` -->\n";
pub const END: &str = "<!-- end of the checks -->\n";

/// A hunt that begins later might run out of seeds.
const LAST_FIRST: u64 = u64::MAX / 2;

#[derive(Clone, Debug, Args)]
pub struct MutantArgs {
    /// Only these; all if absent.
    #[arg(value_name = "ID", value_parser = mutant_id)]
    ids: Vec<String>,
    /// Only these, separated by commas.
    #[arg(long, value_name = "ID,...", value_delimiter = ',', value_parser = mutant_id)]
    only: Vec<String>,
    /// Take every N-th mutant, beginning with the K-th; N such runs together are one run without.
    #[arg(long, value_name = "K/N")]
    shard: Option<Shard>,
    /// The first seed.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=LAST_FIRST))]
    first_seed: u64,
    /// How many hunts of each mutant, from seeds ten thousand apart.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    starts: u64,
    /// How many seeds a mutant may survive.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
    /// Run on until so many seeds have failed, to see which checks they fail by.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    failures: u16,
    /// Make a plan that kills each mutant small, within so many seconds.
    #[arg(long, value_name = "S")]
    shrink_seconds: Option<u32>,
    /// Save what was made small there, as a case by the id of its bug; what is there already stays.
    #[arg(long, value_name = "DIR", requires = "shrink_seconds")]
    cases: Option<PathBuf>,
    /// Keep results in FILE, and do not do again what is in it for this code.
    #[arg(long, value_name = "FILE", default_value = "target/mutants.jsonl")]
    results: PathBuf,
    /// Call the version of the code so; a hash of this program if absent.
    #[arg(long, value_name = "NAME")]
    code: Option<String>,
    /// Hunt nothing: tell what the results say.
    #[arg(long, conflicts_with_all = [
        "first_seed", "starts", "limit", "failures", "shrink_seconds", "cases", "jobs", "time_limit",
    ])]
    no_hunt: bool,
    /// Write docs/mutants.md and the tables of checks from all results for this code, and fixtures/mutants.jsonl with
    /// those. Run it in the folder of the workspace.
    #[arg(long)]
    write_docs: bool,
    /// With --write-docs: what this code was not hunted for is told of that one, and marked.
    #[arg(long, value_name = "NAME", requires = "write_docs")]
    earlier: Option<String>,
    /// How many nodes; the seed decides if absent.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: Option<u32>,
    /// Simulated seconds of storm; the seed decides if absent.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: Option<u64>,
    #[command(flatten)]
    processes: Processes,
}

impl From<ResultsError> for Unusable {
    fn from(error: ResultsError) -> Unusable {
        Unusable(error.to_string())
    }
}

pub fn mutants(args: &MutantArgs) -> Result<bool, Unusable> {
    let runner = (!args.no_hunt).then(|| args.processes.runner()).transpose()?;
    let case = Case { nodes: args.nodes, duration_s: args.duration, ..Case::default() };
    let named = |mutant: &&'static Mutant| {
        let mut ids = args.ids.iter().chain(&args.only).peekable();
        ids.peek().is_none() || ids.any(|id| id == mutant.id)
    };
    let shard = args.shard.unwrap_or(Shard::WHOLE);
    let chosen: Vec<&'static Mutant> = mutants::all()
        .filter(named)
        .enumerate()
        .filter_map(|(at, mutant)| shard.takes(at).then_some(mutant))
        .collect();
    let mut code = code(args.code.as_ref())?;
    // Hunts of another shape are others.
    if args.nodes.is_some() || args.duration.is_some() {
        code += &format!(", nodes {:?}, duration {:?}", args.nodes, args.duration);
    }
    let mut results = Results::open(&args.results, &code)?;
    if let Some(runner) = &runner {
        hunt(args, runner, &case, &chosen, &mut results)?;
    }
    let scores: Vec<Score> = chosen.iter().map(|mutant| results.score(mutant)).collect();
    print(&table::table(&scores))?;
    if args.write_docs {
        let earlier = args.earlier.as_ref().map(|code| Results::open(&args.results, code)).transpose()?;
        let (document, lines) = documented(&results, earlier.as_ref());
        write_docs(&document, lines)?;
    }
    Ok(scores.iter().all(Score::is_good))
}

/// Does what the results do not hold yet.
fn hunt(
    args: &MutantArgs,
    runner: &Runner,
    case: &Case,
    chosen: &[&'static Mutant],
    results: &mut Results,
) -> Result<(), Unusable> {
    let effort = Effort { limit: args.limit, failures: args.failures.into() };
    let progress = progress_bar(chosen.len(), false);
    for mutant in chosen {
        progress.set_message(format!("{}: {}", mutant.id, mutant.what));
        for start in (0..args.starts).map(|start| args.first_seed.saturating_add(start * APART)) {
            let so_far = results.hunt(mutant.id, start).cloned().unwrap_or_else(|| Hunt::new(mutant, start));
            if !so_far.is_over(mutant, effort) {
                results.add_hunt(score::hunt(mutant, runner, case, so_far, effort)?)?;
            }
        }
        let score = results.score(mutant);
        let killed = score.hunts.iter().find_map(|hunt| hunt.killed(mutant));
        if let (Some(seconds), Some((seed, ..)), None) = (args.shrink_seconds, killed, &score.small) {
            let small = score::shrink(mutant, runner, case, seed, f64::from(seconds));
            let small = small.map_err(|error| Unusable(format!("cannot write a smaller plan: {error}")))?;
            if let Some((small, case)) = small {
                if let Some(folder) = &args.cases {
                    keep(&case, &case_of(folder, mutant))?;
                }
                results.add_small(small)?;
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

/// The document, and the results that it is made of: those of this code, then those of an earlier one where there are none.
fn documented(own: &Results, earlier: Option<&Results>) -> (String, String) {
    // Of which bugs this code says nothing, and an earlier one may.
    let older = |mutant: &'static Mutant| earlier.filter(|_| own.score(mutant).hunts.is_empty());
    let score = |mutant| match older(mutant) {
        Some(earlier) => Score { is_earlier: true, ..earlier.score(mutant) },
        None => own.score(mutant),
    };
    let all: Vec<Score> = mutants::all().map(score).collect();
    let lines = earlier.map(|earlier| earlier.lines(|mutant| older(mutant).is_some()));
    let lines = own.lines(|_| true) + &lines.unwrap_or_default();
    (table::document(&all, own.code(), earlier.map(Results::code)), lines)
}

/// Where the small case of a bug is.
pub fn case_of(folder: &Path, mutant: &Mutant) -> PathBuf {
    folder.join(format!("{}.json", mutant.id))
}

fn keep(case: &SavedCase, path: &Path) -> Result<(), Unusable> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .map_err(|error| Unusable(format!("cannot make {}: {error}", folder.display())))?;
    if path.exists() {
        eprintln!("{} is there already and stays as it is", path.display());
        return Ok(());
    }
    Ok(case.save(path, false)?)
}

fn write_docs(document: &str, results: String) -> Result<(), Unusable> {
    let unusable = |path: &str, error: std::io::Error| Unusable(format!("{path}: {error}"));
    let mut texts = vec![(DOCUMENT, document.to_owned()), (KEPT, results)];
    for path in SHOW_CHECKS {
        let text = std::fs::read_to_string(path).map_err(|error| unusable(path, error))?;
        let text = with_checks(&text)
            .ok_or_else(|| Unusable(format!("{path} has no place for the table of checks: {BEGIN}")))?;
        texts.push((path, text));
    }
    for (path, text) in texts {
        std::fs::write(Path::new(path), text).map_err(|error| unusable(path, error))?;
    }
    Ok(())
}

/// The text with the table of checks as it is now.
fn with_checks(text: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", check::table()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_shows_the_results_that_are_kept() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = std::fs::read_to_string(root.join(KEPT)).unwrap();
        let mut codes = Vec::new();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let code = line["code"].as_str().unwrap().to_owned();
            if !codes.contains(&code) {
                codes.push(code);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("results.jsonl");
        std::fs::write(&copy, &text).unwrap();
        let opened = |code: &String| Results::open(&copy, code).unwrap();
        let (document, lines) = documented(&opened(&codes[0]), codes.get(1).map(opened).as_ref());
        assert_eq!(lines, text);
        let kept = std::fs::read_to_string(root.join(DOCUMENT)).unwrap();
        assert!(document == kept, "run `cargo sim mutants --write-docs`");
    }

    #[test]
    fn the_documents_show_the_checks_as_they_are() {
        for path in SHOW_CHECKS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
            let text = std::fs::read_to_string(&path).unwrap();
            let now = with_checks(&text).unwrap();
            assert!(text == now, "run `cargo sim mutants --write-docs`: {}", path.display());
        }
    }
}
