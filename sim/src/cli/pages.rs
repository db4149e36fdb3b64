//! The pages that show a run: who gets one, and what is written when the run itself could not write it.

use std::path::Path;

use crate::report::RunReport;
use crate::report::page::{Material, Page, free_name};
use crate::report::story::Story;
use crate::runner::{Case, Runner};
use crate::scenario::Scenario;

use super::{Unusable, print, unwritable};

/// Runs a case that has failed once more, for its page, beside `wanted` if that is taken. The same case gives the same run.
pub fn again(
    runner: &Runner,
    case: &Case,
    report: &RunReport,
    scenario: &Scenario,
    wanted: &Path,
) -> Result<(), Unusable> {
    let path = free_name(wanted);
    let once_more = Runner { check_determinism: false, ..runner.clone() };
    once_more.run(&Case { report: Some(path.clone()), trace: None, ..case.clone() })?;
    at_least_the_plan(&path, case, report, scenario)?;
    print(&format!("  drawn: {}\n", path.display()))?;
    Ok(())
}

/// A process that died or hung wrote no page: then the plan and what it is blamed for are all that there is to
/// show.
pub fn at_least_the_plan(
    path: &Path,
    case: &Case,
    report: &RunReport,
    scenario: &Scenario,
) -> Result<(), Unusable> {
    if path.exists() {
        return Ok(());
    }
    let again = case.again();
    let material = Material {
        report,
        history: &[],
        broken: None,
        scenario: Some(scenario),
        mutant: case.mutant.as_deref(),
        again: Some(&again),
        own_client: None,
    };
    Page::of(Story::default(), material).save(path, false).map_err(|error| unwritable(path, &error))
}
