//! The oracle that runs: each candidate in a process of its own, as many at once as there are jobs.

use std::io;
use std::time::Duration;

use super::{Clues, Shrunk, Signature, Size, smallest};
use crate::report::RunReport;
use crate::runner::{Case, Runner, Stopwatch};
use crate::scenario::Scenario;

/// How far shrinking may go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// How many candidates, counted as one core would run them.
    pub runs: u32,
    /// Real seconds after which it stops where it is. Only this makes a result depend on the machine.
    pub seconds: f64,
    /// A candidate must also fail with this many unrelated edits to the node's program ([`Case::perturb`]): a plan
    /// that fails by the luck of one draw is no use once the code has changed.
    pub edits: u64,
}

/// So long a candidate may take at least, in real seconds, however short the run of the plan was.
const LEAST_PATIENCE_S: f64 = 10.0;

/// The checks that judge what happens when it happens, or what clients were told. If one of them objects during the storm,
/// what comes after the storm cannot change that, and a candidate need not be run to its end.
const BY_STORM: &[&str] = &[
    "ES", "LM", "LC", "SMS", "CQ", "CI", "MV", "GA", "GR", "GT", "EV", "SRV", "SAY", "LIN", "TXN", "IDX",
    "STALE", "LOCK", "SESS", "ACL", "OPS", "SNAP", "CRASH",
];

impl Default for Budget {
    fn default() -> Budget {
        Budget { runs: 3_000, seconds: 240.0, edits: 0 }
    }
}

/// Shrinks the scenario of a run that failed like `signature`, as `case` ran it.
///
/// # Errors
/// The system's, when candidates cannot be written to the folder for temporary files.
pub fn shrink(
    scenario: &Scenario,
    report: &RunReport,
    signature: &Signature,
    runner: &Runner,
    case: &Case,
    budget: Budget,
    told: &mut dyn FnMut(Size),
) -> io::Result<Shrunk> {
    let folder = tempfile::tempdir()?;
    let watch = Stopwatch::start();
    // With a bug in it a node may do without end what takes no time at all. A candidate that takes far longer than the plan
    // did is not simpler, and must not take the time of the others.
    let patience = Duration::from_secs_f64(LEAST_PATIENCE_S + 4.0 * report.wall_seconds);
    let runner = &Runner { time_limit: patience.min(runner.time_limit), ..runner.clone() };
    let mut broken = None;
    let clues = clues(scenario, report, signature);
    let in_storm = BY_STORM.contains(&signature.check.as_str())
        && clues.at_ms.is_some_and(|ms| ms < scenario.duration_ms);
    let mut found = Vec::new();
    let mut storm_only = in_storm.then(|| signature.check.clone());
    let mut edits = budget.edits;
    let mut ask = |candidates: &[Scenario], edits: u64, storm_only: &Option<String>| {
        let run = Case { storm_only: storm_only.clone(), trace: None, ..case.clone() };
        let cases = |some: &[Scenario]| -> io::Result<Vec<Vec<Case>>> {
            let names = (0..).map(|at| folder.path().join(format!("candidate-{at}.json")));
            let written = some.iter().zip(names).map(|(candidate, path)| {
                let case = run.of_plan(candidate, path)?;
                Ok((0..=edits).map(|perturb| Case { perturb, ..case.clone() }).collect())
            });
            written.collect()
        };
        // A few at a time, so that the end of the time is noticed.
        let few = runner.jobs.max(1) * 2;
        candidates.chunks(few).zip((0..).step_by(few)).find_map(|(some, before)| {
            if broken.is_some() || watch.seconds() > budget.seconds {
                return None;
            }
            let cases = cases(some).map_err(|error| broken = Some(error)).ok()?;
            Some(before + runner.first(&cases, &|report| signature.is_in(report))?)
        })
    };
    // If the plan itself does not fail after so many edits, it is shrunk as it is.
    while edits > 0 && ask(std::slice::from_ref(scenario), edits, &None).is_none() {
        edits -= 1;
    }
    let mut small = smallest(
        scenario,
        &clues,
        budget.runs,
        &mut |candidates| {
            let failing = ask(candidates, edits, &storm_only)?;
            found.push(candidates[failing].clone());
            Some(failing)
        },
        told,
    );
    // What fails within the storm fails in the whole run, if that has an end: the last one that has is the result. This is
    // asked even when the time is over: what was found in it must not be lost.
    if storm_only.is_some() {
        let mut whole = scenario.clone();
        // Ever larger steps back: a few runs reach the beginning, and each step gives up at most half of what was gained.
        let steps = std::iter::successors(Some(1), |back| Some(back * 2));
        for plan in steps.map_while(|back| found.get(found.len().checked_sub(back)?)) {
            if fails_whole(plan, signature, runner, case)? {
                whole = plan.clone();
                break;
            }
        }
        if whole != small.scenario {
            storm_only = None;
            let left = budget.runs.saturating_sub(small.runs);
            let mut ask = |candidates: &[Scenario]| ask(candidates, edits, &storm_only);
            let further = smallest(&whole, &Clues::default(), left, &mut ask, told);
            small = Shrunk { runs: small.runs + further.runs, ..further };
        }
    }
    broken.map_or(Ok(small), Err)
}

/// Whether a run to the end fails like `signature`.
fn fails_whole(scenario: &Scenario, signature: &Signature, runner: &Runner, case: &Case) -> io::Result<bool> {
    let file = tempfile::NamedTempFile::new()?;
    let run = Case { trace: None, ..case.clone() };
    let report = runner.run(&run.of_plan(scenario, file.path().to_owned())?)?;
    Ok(signature.is_in(&report))
}

/// When and on which keys it was violated, as far as the report says; nothing of the time, if only the end of the run
/// showed it.
fn clues(scenario: &Scenario, report: &RunReport, signature: &Signature) -> Clues {
    let violation = report.violations.iter().find(|violation| Signature::of(violation) == *signature);
    let Some(violation) = violation else { return Clues::default() };
    let after = (violation.at_ns / 1_000_000).checked_sub((report.storm_seconds * 1e3) as u64);
    let at_ms = after.filter(|_| report.storm_seconds > 0.0);
    let keys = scenario.operations.iter().map(|op| &op.key);
    let keys = keys.filter(|key| violation.detail.contains(&format!("{key:?}"))).cloned().collect();
    Clues { at_ms, keys }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::check::Violation;
    use crate::scenario::Limits;

    #[test]
    fn a_violation_says_when_it_was_and_of_which_keys_it_speaks() {
        let mut report = RunReport { storm_seconds: 2.5, ..RunReport::default() };
        report.violations.push(Violation {
            check: "LIN".into(),
            detail: "key \"k1\": 2 of 5 operations can be put in order".into(),
            at_ns: 4_000_000_000,
            node: None,
        });
        let mut scenario = Scenario::generate(1, &Limits::default());
        scenario.operations.truncate(2);
        for (op, key) in scenario.operations.iter_mut().zip(["k1", "k"]) {
            op.key = key.to_owned();
        }
        let signature = Signature::of(&report.violations[0]);
        let keys = BTreeSet::from(["k1".to_owned()]);
        assert_eq!(clues(&scenario, &report, &signature), Clues { at_ms: Some(1_500), keys: keys.clone() });
        report.violations[0].at_ns = 1_000_000_000;
        assert_eq!(clues(&scenario, &report, &signature), Clues { at_ms: None, keys: keys.clone() });
        report.storm_seconds = 0.0;
        assert_eq!(clues(&scenario, &report, &signature), Clues { at_ms: None, keys });
    }
}
