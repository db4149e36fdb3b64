//! `cargo sim mutants`: puts each bug back and sees that the right check catches it.

use crate::mutants::{self, Mutant};
use crate::runner::Case;
use clap::Args;

use super::{Processes, Unusable, mutant_id, print, progress_bar};

#[derive(Clone, Debug, Args)]
pub struct MutantArgs {
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

pub fn mutants(args: &MutantArgs) -> Result<bool, Unusable> {
    let runner = args.processes.runner()?;
    let case = Case { nodes: args.nodes, duration_s: args.duration, ..Case::default() };
    let chosen: Vec<&'static Mutant> = match args.ids.is_empty() {
        true => mutants::all().collect(),
        false => args.ids.iter().filter_map(|id| mutants::find(id)).collect(),
    };
    let progress = progress_bar(chosen.len(), false);
    let mut scores = Vec::new();
    for mutant in chosen {
        progress.set_message(format!("{}: {}", mutant.id, mutant.what));
        scores.push(mutants::score::score(mutant, &runner, &case, args.first_seed, args.limit));
        progress.inc(1);
    }
    progress.finish_and_clear();
    print(&mutants::table::table(&scores))?;
    Ok(scores.iter().all(mutants::score::Score::is_good))
}
