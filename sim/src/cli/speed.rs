//! `cargo sim speed`: how much faster than the clock on the wall the simulation runs, and how much memory it takes.

use std::path::Path;

use crate::report::RunReport;
use crate::runner::Case;
use crate::saved::SavedCase;
use crate::scenario::validate::MOST_OPERATIONS;
use crate::scenario::{Limits, PlannedAction, PlannedOp, Scenario};
use clap::Args;

use super::{Processes, Unusable, experiment, print};

#[derive(Clone, Debug, Args)]
pub struct SpeedArgs {
    /// How many seeds for each size.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    count: u64,
    /// Client operations a simulated second.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rate: u64,
    /// Sizes of the cluster.
    #[arg(long, value_name = "K,...", value_delimiter = ',', default_values_t = [3, 5], value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: Vec<u32>,
    /// Simulated seconds of storm; the seed decides if absent.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: Option<u64>,
}

/// One seed after the other on one core, with all faults and all checks, so that the figure is per core.
pub fn speed(args: &SpeedArgs) -> Result<bool, Unusable> {
    // Slower than the clock on the wall means that it hangs.
    let patience = 120 + args.duration.unwrap_or(0);
    let runner = Processes { jobs: Some(1), time_limit: Some(patience) }.runner()?;
    let longest = args.duration.unwrap_or(0).saturating_mul(args.rate);
    if longest > MOST_OPERATIONS as u64 {
        return Err(Unusable(format!(
            "{longest} operations a run are too many, want at most {MOST_OPERATIONS}"
        )));
    }
    let folder = tempfile::tempdir().map_err(|error| Unusable(format!("no folder for plans: {error}")))?;
    let mut all_ok = true;
    for nodes in &args.nodes {
        let mut cases = Vec::new();
        for seed in 1..=args.count {
            let limits = Limits { nodes: Some(*nodes), duration_s: args.duration, ..Limits::default() };
            let plan = at_rate(experiment().scenario(seed, &limits), args.rate);
            let path = folder.path().join(format!("{nodes}-{seed}.json"));
            save(plan, &path)?;
            cases.push(Case { seed, scenario: Some(path), ..Case::default() });
        }
        let (mut simulated, mut wall, mut cpu, mut operations, mut events) = (0.0, 0.0, 0.0, 0, 0);
        let mut memory = 0;
        runner.run_in_order(&cases, &mut |_| {}, &mut |_, report: RunReport| {
            simulated += report.sim_seconds;
            wall += report.wall_seconds;
            cpu += report.cpu_seconds;
            operations += report.ops_ok + report.ops_unknown + report.ops_failed;
            events += report.trace_events;
            memory = memory.max(report.memory_kib);
            all_ok &= report.ok;
            true
        })?;
        print(&format!(
            "{nodes} nodes: {simulated:.0} simulated s in {cpu:.1} s of one core ({wall:.1} s on the wall), {:.0} \
             times real time; {:.0} operations and {:.0} events a simulated second; at most {} MiB; all faults, all \
             checks\n",
            simulated / cpu,
            operations as f64 / simulated,
            events as f64 / simulated,
            memory / 1_024,
        ))?;
    }
    Ok(all_ok)
}

fn save(plan: Scenario, path: &Path) -> Result<(), Unusable> {
    Ok(SavedCase::bare(plan).save(path, true)?)
}

/// The plan with so many requests a second, evenly spread: its own ones again and again, each write with a value of its
/// own.
fn at_rate(plan: Scenario, per_second: u64) -> Scenario {
    let count = plan.duration_ms * per_second / 1_000;
    // Who locks mostly waits, which is no load; and what is asked of agents about their own is no load of the store's.
    let pattern = plan.operations.iter().filter(|op| op.action.is_of_values()).cycle();
    let request = |(number, op): (u64, &PlannedOp)| PlannedOp {
        at_ms: number * 1_000 / per_second,
        action: match &op.action {
            PlannedAction::Put(_) => PlannedAction::Put(format!("v{number}")),
            PlannedAction::Cas(_) => PlannedAction::Cas(format!("v{number}")),
            other => other.clone(),
        },
        ..op.clone()
    };
    let operations = (0..count).zip(pattern).map(request).collect();
    Scenario { operations, ..plan }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_at_a_rate_can_be_run_and_has_it() {
        let plan = Scenario::generate(1, &Limits { duration_s: Some(10), ..Limits::default() });
        let plan = at_rate(plan, 50);
        assert_eq!(plan.validate(), Ok(()));
        assert_eq!(plan.operations.len(), 500);
        assert!(plan.operations.is_sorted_by_key(|op| op.at_ms));
    }
}
