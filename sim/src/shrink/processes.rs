//! The oracle that runs: each candidate in a process of its own, as many at once as there are jobs.

use std::fs::File;
use std::io;

use super::{Oracle, Shrunk, Signature, Size, smallest};
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

/// The checks that judge what happens when it happens, or what clients were told. If one of them objects during the storm,
/// what comes after the storm cannot change that, and a candidate need not be run to its end.
const BY_STORM: &[&str] = &[
    "ES", "LM", "LC", "SMS", "CQ", "CI", "MV", "GA", "GR", "GT", "EV", "SRV", "SAY", "LIN", "TXN", "IDX",
    "STALE", "LOCK", "SESS", "ACL", "CRASH",
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
    let mut broken = None;
    let violated_ms = violated_ms(report, signature);
    let in_storm = BY_STORM.contains(&signature.check.as_str())
        && violated_ms.is_some_and(|ms| ms < scenario.duration_ms);
    let mut storm_only = in_storm.then(|| signature.check.clone());
    let mut edits = budget.edits;
    let mut ask = |candidates: &[Scenario], edits: u64, storm_only: &Option<String>| {
        if broken.is_some() || watch.seconds() > budget.seconds {
            return None;
        }
        let mut cases = Vec::new();
        for (at, candidate) in candidates.iter().enumerate() {
            let path = folder.path().join(format!("candidate-{at}.json"));
            let written = File::create(&path)
                .and_then(|file| serde_json::to_writer(file, candidate).map_err(io::Error::from));
            if let Err(error) = written {
                broken = Some(error);
                return None;
            }
            let (scenario, storm_only) = (Some(path), storm_only.clone());
            let case = Case { seed: candidate.seed, scenario, storm_only, trace: None, ..case.clone() };
            cases.push((0..=edits).map(|perturb| Case { perturb, ..case.clone() }).collect::<Vec<_>>());
        }
        // A few at a time, so that the end of the time is noticed.
        let few = runner.jobs.max(1) * 2;
        cases.chunks(few).zip((0..).step_by(few)).find_map(|(some, before)| {
            if watch.seconds() > budget.seconds {
                return None;
            }
            Some(before + runner.first(some, &|report| signature.is_in(report))?)
        })
    };
    // If the plan itself does not fail after so many edits, it is shrunk as it is.
    while edits > 0 && ask(std::slice::from_ref(scenario), edits, &None).is_none() {
        edits -= 1;
    }
    let small = loop {
        let oracle: &mut Oracle<'_> = &mut |candidates| ask(candidates, edits, &storm_only);
        let small = smallest(scenario, violated_ms, budget.runs, oracle, told);
        // What fails within the storm fails in the whole run. Should it not, whole runs have to tell. This is asked even when the
        // time is over: what was found in it must not be lost.
        if storm_only.is_none() || fails_whole(&small.scenario, signature, runner, case)? {
            break small;
        }
        storm_only = None;
    };
    broken.map_or(Ok(small), Err)
}

/// Whether a run to the end fails like `signature`.
fn fails_whole(scenario: &Scenario, signature: &Signature, runner: &Runner, case: &Case) -> io::Result<bool> {
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(&file, scenario)?;
    let path = Some(file.path().to_owned());
    let report = runner.run(&Case { seed: scenario.seed, scenario: path, trace: None, ..case.clone() });
    Ok(signature.is_in(&report))
}

/// How long after the storm's beginning it was violated; nothing, if only the end of the run showed it.
fn violated_ms(report: &RunReport, signature: &Signature) -> Option<u64> {
    let violation = report.violations.iter().find(|violation| Signature::of(violation) == *signature)?;
    let after = (violation.at_ns / 1_000_000).checked_sub((report.storm_seconds * 1e3) as u64)?;
    (report.storm_seconds > 0.0).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Violation;

    #[test]
    fn the_time_of_a_violation_counts_from_the_storm() {
        let mut report = RunReport { storm_seconds: 2.5, ..RunReport::default() };
        report.violations.push(Violation {
            check: "ES".into(),
            detail: "node 1 voted twice".into(),
            at_ns: 4_000_000_000,
            node: None,
        });
        let signature = Signature::of(&report.violations[0]);
        assert_eq!(violated_ms(&report, &signature), Some(1_500));
        report.violations[0].at_ns = 1_000_000_000;
        assert_eq!(violated_ms(&report, &signature), None);
        report.storm_seconds = 0.0;
        assert_eq!(violated_ms(&report, &signature), None);
    }
}
