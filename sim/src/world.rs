//! Stand-in: replaced by the simulated world.
#![allow(missing_docs)]
use std::path::PathBuf;

use crate::report::RunReport;
use crate::scenario::Scenario;

#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    pub trace: Option<PathBuf>,
    pub mutant: Option<String>,
}

pub fn run(scenario: &Scenario, _options: &RunOptions) -> RunReport {
    RunReport::crashed(scenario.seed, "there is no world yet".to_owned())
}
