//! Hunts a mutant: seeds until a check that is named for it objects, then the same seeds without its faults.

use super::Mutant;
use crate::report::RunReport;
use crate::runner::{Case, Runner};

/// What became of one mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// Its id.
    pub id: &'static str,
    /// The seed that killed it, the check that did, and how many seeds that took.
    pub killed: Option<(u64, String, u64)>,
    /// Seeds on which only checks that are not named for it objected before it was killed.
    pub elsewhere: Vec<(u64, String)>,
    /// With the faults it needs turned off: the seed and check that killed it all the same.
    /// `None` in `ablated` says there is nothing to turn off, or that it was never killed.
    pub ablated: Option<Option<(u64, String)>>,
}

impl Score {
    /// Whether it was killed as promised and survived as promised.
    pub fn is_good(&self) -> bool {
        self.killed.is_some() && !matches!(self.ablated, Some(Some(_)))
    }
}

/// Hunts one mutant: at most `limit` seeds from `first_seed`, then the same seeds without its faults.
pub fn score(mutant: &'static Mutant, runner: &Runner, case: &Case, first_seed: u64, limit: u64) -> Score {
    let named = |report: &RunReport| {
        report
            .violations
            .iter()
            .map(|one| one.check.as_str())
            .find(|check| mutant.checks.contains(check))
            .map(str::to_owned)
    };
    let runner = Runner { check_determinism: mutant.checks.contains(&"DET"), ..runner.clone() };
    let with_bug = Case { mutant: Some(mutant.id.to_owned()), ..case.clone() };
    let seeds = first_seed..first_seed.saturating_add(limit);
    let cases = |case: &Case, seeds: std::ops::Range<u64>| -> Vec<Case> {
        seeds.map(|seed| Case { seed, ..case.clone() }).collect()
    };
    let mut result = Score { id: mutant.id, killed: None, elsewhere: Vec::new(), ablated: None };
    runner.run_in_order(&cases(&with_bug, seeds), &mut |_| {}, &mut |case, report| {
        match named(&report) {
            Some(check) => {
                result.killed = Some((case.seed, check, case.seed - first_seed + 1));
                return false;
            }
            None => {
                let other = report.violations.first().map(|one| (case.seed, one.check.clone()));
                result.elsewhere.extend(other);
            }
        }
        true
    });
    if let (Some((seed, ..)), false) = (&result.killed, mutant.needs.is_empty()) {
        let mut without = with_bug.clone();
        without.without.extend(mutant.needs.iter().map(|kind| (*kind).to_owned()));
        let mut survived = None;
        let seeds = first_seed..seed.saturating_add(1);
        runner.run_in_order(&cases(&without, seeds), &mut |_| {}, &mut |case, report| {
            survived = named(&report).map(|check| (case.seed, check));
            survived.is_none()
        });
        result.ablated = Some(survived);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    /// Processes that answer by a shell script; the arguments are `--seed N [--without KIND]... --mutant ID`.
    #[cfg(unix)]
    fn hunted(id: &str, script: &str) -> Score {
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
        score(find(id).unwrap(), &runner, &Case::default(), 10, 6)
    }

    #[test]
    #[cfg(unix)]
    fn a_mutant_is_hunted_until_its_own_check_objects_and_must_survive_without_its_faults() {
        let good = hunted(
            "S04",
            r#"[ $3 = --without ] || case $seed in 11) violated LIVE;; 13) violated DUR;; esac"#,
        );
        assert_eq!(good.killed, Some((13, "DUR".to_owned(), 4)));
        assert_eq!((good.elsewhere.len(), good.ablated.clone()), (1, Some(None)));
        assert!(good.is_good());
        let anyway = hunted("S04", "[ $seed = 12 ] && violated DUR");
        assert_eq!(anyway.ablated, Some(Some((12, "DUR".to_owned()))));
        assert!(!anyway.is_good());
        let survivor = hunted("S04", "[ $seed = 12 ] && violated LIVE");
        assert_eq!((survivor.killed, survivor.ablated), (None, None));
        let restless = hunted("T02", r#"echo "{\"seed\":$seed,\"ok\":true,\"trace_hash\":\"$$\"}"; exit"#);
        assert_eq!(restless.killed, Some((10, "DET".to_owned(), 1)));
        assert!(restless.is_good() && restless.ablated.is_none());
    }
}
