//! Hunts a mutant: seeds until a check that is named for it objects, then the same seeds without its faults, then the
//! smallest plan that still shows it.
//!
//! One hunt begins at one seed. Several hunts of one mutant, from seeds far apart, tell how many seeds it takes:
//! [`Score`] sums them up. Hunts are kept as lines of JSON ([`super::results`]), so none is done twice.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Mutant;
use crate::report::RunReport;
use crate::runner::{Case, Refused, Runner, Stopwatch};
use crate::saved::{Expects, SavedCase};
use crate::scenario::{Limits, Scenario};
use crate::shrink::processes::{self, Budget};
use crate::shrink::{self, Signature, Size};

/// So far apart are the seeds at which hunts begin.
pub const APART: u64 = 10_000;

/// So many unrelated edits, each of another random draw and another task at every boot, a small plan is tried with.
pub const EDITS: u64 = 4;

/// So many of a hundred failing seeds must fail by a check that is named for the mutant.
const ATTRIBUTED_PERCENT: u64 = 90;

/// How far a hunt goes.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seeds that the mutant may survive.
    pub limit: u64,
    /// Seeds that must have failed, if the limit allows, to say which checks they fail by.
    pub failures: usize,
}

/// What one hunt found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hunt {
    /// The mutant's id.
    pub mutant: String,
    /// The first seed.
    pub start: u64,
    /// How many seeds were run with the bug.
    pub seeds: u64,
    /// The seeds that failed, in order, each with the checks that objected.
    pub failed: Vec<(u64, Vec<String>)>,
    /// What became of the seeds up to the kill without the faults that the bug needs; none if it needs no fault, or
    /// was not killed.
    pub ablated: Option<Ablation>,
}

/// The same seeds without the faults that the bug needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ablation {
    /// How many.
    pub seeds: u64,
    /// The seed and named check that killed it all the same.
    pub killed: Option<(u64, String)>,
}

/// The smallest plan found that shows a mutant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Small {
    /// The mutant's id.
    pub mutant: String,
    /// The seed that it came from.
    pub seed: u64,
    /// Faults.
    pub faults: usize,
    /// Requests of clients.
    pub operations: usize,
    /// Nodes.
    pub nodes: u32,
    /// Real seconds that it took.
    pub seconds: f64,
    /// After how many of [`EDITS`] unrelated edits to the node's program it still fails the same way, under one of
    /// [`tries`](shrink::tries) seeds.
    pub after_edits: u64,
}

impl Hunt {
    /// One that has yet to begin.
    pub fn new(mutant: &Mutant, start: u64) -> Hunt {
        Hunt { mutant: mutant.id.to_owned(), start, seeds: 0, failed: Vec::new(), ablated: None }
    }

    /// Whether it went as far as this.
    pub fn is_over(&self, mutant: &Mutant, effort: Effort) -> bool {
        let enough = self.killed(mutant).is_some() && self.failed.len() >= effort.failures;
        enough || self.seeds >= effort.limit
    }

    /// The first seed that failed by a named check, the check, and how many seeds that took.
    pub fn killed(&self, mutant: &Mutant) -> Option<(u64, &str, u64)> {
        self.failed.iter().find_map(|(seed, checks)| {
            let check = checks.iter().find(|check| mutant.checks.contains(&check.as_str()))?;
            Some((*seed, check.as_str(), seed - self.start + 1))
        })
    }
}

fn checks_of(report: &RunReport) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let ids = report.violations.iter().map(|violation| &violation.check);
    ids.filter(|id| seen.insert(*id)).cloned().collect()
}

/// Takes a hunt up where it is: seeds until one has failed by a named check and enough have failed at all; then those
/// up to the kill without the faults that the bug needs.
///
/// # Errors
/// If a seed is refused.
pub fn hunt(
    mutant: &'static Mutant,
    runner: &Runner,
    case: &Case,
    mut found: Hunt,
    effort: Effort,
) -> Result<Hunt, Refused> {
    let runner = Runner { check_determinism: mutant.checks.contains(&"DET"), ..runner.clone() };
    let with_bug = Case { mutant: Some(mutant.id.to_owned()), ..case.clone() };
    let start = found.start;
    let cases = |case: &Case, first: u64, end: u64| -> Vec<Case> {
        let seeds = start.saturating_add(first)..start.saturating_add(end);
        seeds.map(|seed| Case { seed, ..case.clone() }).collect()
    };
    if !found.is_over(mutant, effort) {
        let further = cases(&with_bug, found.seeds, effort.limit);
        runner.run_in_order(&further, &mut |_| {}, &mut |case, report| {
            found.seeds += 1;
            if !report.ok {
                found.failed.push((case.seed, checks_of(&report)));
            }
            !found.is_over(mutant, effort)
        })?;
    }
    let taken = found.killed(mutant).map(|(_, _, seeds)| seeds);
    if let (Some(seeds), false, None) = (taken, mutant.needs.is_empty(), &found.ablated) {
        let mut without = with_bug.clone();
        without.without.extend(mutant.needs.iter().map(|kind| (*kind).to_owned()));
        let mut ablation = Ablation { seeds: 0, killed: None };
        runner.run_in_order(&cases(&without, 0, seeds), &mut |_| {}, &mut |case, report| {
            ablation.seeds += 1;
            let named = checks_of(&report).into_iter().find(|check| mutant.checks.contains(&check.as_str()));
            ablation.killed = named.map(|check| (case.seed, check));
            ablation.killed.is_none()
        })?;
        found.ablated = Some(ablation);
    }
    Ok(found)
}

/// Makes the plan of a killing seed small; what came of it, and the case to be kept. `None` if it does not fail again.
///
/// # Errors
/// The system's, when candidates cannot be written to the folder for temporary files.
pub fn shrink(
    mutant: &'static Mutant,
    runner: &Runner,
    case: &Case,
    seed: u64,
    seconds: f64,
) -> std::io::Result<Option<(Small, SavedCase)>> {
    let limits = Limits { nodes: case.nodes, duration_s: case.duration_s, without: case.without.clone() };
    let scenario = Scenario::generate(seed, &limits);
    let case = Case { seed, mutant: Some(mutant.id.to_owned()), ..case.clone() };
    let watch = Stopwatch::start();
    let report = runner.run(&case)?;
    let Some(signature) = Signature::of_report(&report, mutant.checks) else { return Ok(None) };
    let budget = Budget { runs: u32::MAX, seconds, edits: 0 };
    let small = processes::shrink(&scenario, &report, &signature, runner, &case, budget, &mut |_| {})?;
    let seconds = watch.seconds();
    let within = shrink::tries(&small.scenario);
    let folder = tempfile::tempdir()?;
    let plans = (0..within).map(|more| {
        case.of_plan(&small.scenario.clone().under(more), folder.path().join(format!("{more}.json")))
    });
    let plans = plans.collect::<std::io::Result<Vec<Case>>>()?;
    let still_fails = |perturb: &u64| {
        let edited: Vec<_> =
            plans.iter().map(|plan| vec![Case { perturb: *perturb, ..plan.clone() }]).collect();
        runner.first(&edited, &|report| signature.is_in(report)).is_some()
    };
    let after_edits = (1..=EDITS).filter(still_fails).count() as u64;
    let size = Size::of(&small.scenario);
    let saved = SavedCase {
        story: format!("Seed {seed} made small: {}.", mutant.what),
        expects: Some(Expects { mutant: Some(mutant.id.to_owned()), signature, within }),
        once: None,
        scenario: small.scenario,
    };
    let small = Small {
        mutant: mutant.id.to_owned(),
        seed,
        faults: size.faults,
        operations: size.operations,
        nodes: size.nodes,
        seconds,
        after_edits,
    };
    Ok(Some((small, saved)))
}

/// What all hunts of one mutant together say.
#[derive(Clone, Debug)]
pub struct Score {
    /// Which.
    pub mutant: &'static Mutant,
    /// The hunts, by first seed.
    pub hunts: Vec<Hunt>,
    /// The smallest plan.
    pub small: Option<Small>,
    /// Whether an earlier version of the code was hunted, and this one not yet.
    pub is_earlier: bool,
}

impl Score {
    /// How many seeds each hunt took, in ascending order; those in vain come last, as `None`.
    pub fn seeds_to_kill(&self) -> Vec<Option<u64>> {
        let killed = |hunt: &Hunt| hunt.killed(self.mutant).map(|(_, _, seeds)| seeds);
        let mut seeds: Vec<Option<u64>> = self.hunts.iter().map(killed).collect();
        seeds.sort_by_key(|seeds| seeds.unwrap_or(u64::MAX));
        seeds
    }

    /// The nearest rank of so many percent of [`Score::seeds_to_kill`].
    pub fn percentile(&self, percent: usize) -> Option<u64> {
        let seeds = self.seeds_to_kill();
        let rank = (seeds.len() * percent).div_ceil(100).max(1);
        seeds.get(rank - 1).copied().flatten()
    }

    /// How often each check objected, over all seeds that failed.
    pub fn by_check(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        let checks = self.hunts.iter().flat_map(|hunt| &hunt.failed).flat_map(|(_, checks)| checks);
        for check in checks {
            *counts.entry(check.as_str()).or_default() += 1;
        }
        counts
    }

    /// How many of the seeds that failed did so by a named check, and how many failed.
    pub fn attributed(&self) -> (u64, u64) {
        let named =
            |checks: &[String]| checks.iter().any(|check| self.mutant.checks.contains(&check.as_str()));
        let failed = self.hunts.iter().flat_map(|hunt| &hunt.failed);
        failed.fold((0, 0), |(by_name, all), (_, checks)| (by_name + u64::from(named(checks)), all + 1))
    }

    /// Where it was killed without the faults that it needs.
    pub fn killed_without(&self) -> Option<&(u64, String)> {
        self.hunts.iter().filter_map(|hunt| hunt.ablated.as_ref()?.killed.as_ref()).next()
    }

    /// Whether every hunt killed it as promised, and it survived as promised.
    pub fn is_good(&self) -> bool {
        let (named, all) = self.attributed();
        !self.hunts.is_empty()
            && self.seeds_to_kill().iter().all(Option::is_some)
            && self.killed_without().is_none()
            && named * 100 >= all * ATTRIBUTED_PERCENT
    }
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    /// Processes that answer by a shell script; the arguments are `--seed N [--without KIND]... --mutant ID`.
    #[cfg(unix)]
    fn hunted(id: &str, script: &str, failures: usize) -> Score {
        let script = format!(
            r#"violated() {{ echo "{{\"seed\":$seed,\"violations\":[{{\"check\":\"$1\",\"detail\":\"\"}}]}}"; exit; }}
               seed=$2; {script}
               echo "{{\"seed\":$seed,\"ok\":true}}""#
        );
        let runner = Runner {
            program: "/bin/sh".into(),
            prefix: ["-c", &script, "sh"].map(Into::into).into(),
            jobs: 2,
            time_limit: std::time::Duration::from_secs(20),
            check_determinism: false,
        };
        let mutant = find(id).unwrap();
        let begun =
            hunt(mutant, &runner, &Case::default(), Hunt::new(mutant, 10), Effort { limit: 2, failures })
                .unwrap();
        let hunt = hunt(mutant, &runner, &Case::default(), begun, Effort { limit: 6, failures }).unwrap();
        Score { mutant, hunts: vec![hunt], small: None, is_earlier: false }
    }

    #[test]
    #[cfg(unix)]
    fn a_mutant_is_hunted_until_its_own_check_objects_and_must_survive_without_its_faults() {
        let script = r#"[ $3 = --without ] || case $seed in 11) violated LIVE;; 13) violated DUR;; esac"#;
        let score = hunted("S04", script, 1);
        assert_eq!(score.hunts[0].killed(score.mutant), Some((13, "DUR", 4)));
        assert_eq!(score.attributed(), (1, 2));
        assert_eq!(score.hunts[0].ablated, Some(Ablation { seeds: 4, killed: None }));
        assert!(!score.is_good(), "half of its failures are those of another check");
        let anyway = hunted("S04", "[ $seed = 12 ] && violated DUR", 1);
        assert_eq!(anyway.killed_without(), Some(&(12, "DUR".to_owned())));
        assert!(!anyway.is_good());
        let survivor = hunted("S04", "[ $seed = 12 ] && violated LIVE", 1);
        assert_eq!((survivor.percentile(50), &survivor.hunts[0].ablated), (None, &None));
        let restless = hunted("T02", r#"echo "{\"seed\":$seed,\"ok\":true,\"trace_hash\":\"$$\"}"; exit"#, 1);
        assert_eq!(restless.seeds_to_kill(), [Some(1)]);
        assert!(restless.is_good());
    }

    #[test]
    #[cfg(unix)]
    fn a_hunt_goes_on_until_enough_has_failed() {
        let script = r#"[ $3 = --without ] || [ $seed = 14 ] || violated DUR"#;
        let score = hunted("S04", script, 4);
        assert_eq!((score.hunts[0].seeds, score.attributed(), score.is_good()), (4, (4, 4), true));
        assert_eq!(hunted("S04", script, 100).attributed(), (5, 5));
    }

    #[test]
    fn hunts_are_summed_up_by_rank() {
        let mutant = find("S06").unwrap();
        let hunt = |start: u64, seeds: Option<u64>| Hunt {
            mutant: "S06".to_owned(),
            start,
            seeds: 200,
            failed: seeds.map(|seeds| (start + seeds - 1, vec!["DUR".to_owned()])).into_iter().collect(),
            ablated: None,
        };
        let mut score = Score {
            mutant,
            hunts: vec![hunt(1, Some(9)), hunt(10_001, Some(3))],
            small: None,
            is_earlier: false,
        };
        assert_eq!((score.percentile(50), score.percentile(95), score.is_good()), (Some(3), Some(9), true));
        score.hunts.push(hunt(20_001, None));
        assert_eq!((score.percentile(50), score.percentile(95), score.is_good()), (Some(9), None, false));
    }
}
