//! `cargo sim speed`: how much faster than the clock on the wall the simulation runs.

use crate::runner::Case;
use clap::Args;

use super::{Processes, Unusable, print};

#[derive(Clone, Debug, Args)]
pub struct SpeedArgs {
    /// How many seeds for each size.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    count: u64,
}

/// One seed after the other on one core, with all faults and all checks, so that the figure is per core.
pub fn speed(args: &SpeedArgs) -> Result<bool, Unusable> {
    let runner = Processes { jobs: Some(1), ..Processes::default() }.runner()?;
    let mut all_ok = true;
    for nodes in [3, 5] {
        let cases: Vec<Case> =
            (1..=args.count).map(|seed| Case { seed, nodes: Some(nodes), ..Case::default() }).collect();
        let (mut simulated, mut wall, mut operations) = (0.0, 0.0, 0);
        runner.run_in_order(&cases, &mut |_| {}, &mut |_, report| {
            simulated += report.sim_seconds;
            wall += report.wall_seconds;
            operations += report.ops_ok + report.ops_unknown + report.ops_failed;
            all_ok &= report.ok;
            true
        });
        print(&format!(
            "{nodes} nodes: {simulated:.0} simulated s in {wall:.1} s on one core, {:.0} times real time; {:.0} \
             operations a simulated second, all faults, all checks\n",
            simulated / wall,
            operations as f64 / simulated,
        ))?;
    }
    Ok(all_ok)
}
