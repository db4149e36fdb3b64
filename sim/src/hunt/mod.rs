//! A search for failures that learns from what its runs reached.
//!
//! ```text
//!   corpus ──choose──► mutate ──► run, with coverage ──► new features? ──► corpus
//!     ▲  (energy: rarity)                │
//!     └── fresh seeds, some of each      └─► a violation? ──► shrink ──► a case, one for each signature
//! ```
//!
//! * [`corpus`]: the plans that reached something new, and which to change next;
//! * [`mutate`]: plans made from plans;
//! * [`folder`]: both on disk, so that a hunt that was killed goes on;
//! * [`measure`]: how many runs it takes to catch a mutant, beside blind seeds.
//!
//! The search goes in rounds of [`ROUND`] runs. A round's plans are drawn from the corpus as it was before, its reports
//! are counted in their order: so a hunt is a function of the corpus, the seed and the number of rounds, whatever the number
//! of processes. [`Hunt`] is that function without the running.
//!
//! Left out: a way to know that enough was searched. The number of new features a hundred runs says when it slows down.

pub mod corpus;
pub mod folder;
pub mod measure;
pub mod mutate;

use std::collections::BTreeMap;

use rand::RngExt;

use crate::report::RunReport;
use crate::scenario::{Scenario, stream};
use crate::shard::Shard;
use crate::shrink::Signature;
use corpus::Corpus;
use mutate::Parent;

/// Runs in a round.
pub const ROUND: usize = 8;
/// The first rounds are of fresh seeds only: plans differ tenfold in how much they reach, and one in ten is rich.
const BLIND_ROUNDS: u64 = 3;
/// One run in so many is of a fresh seed.
const FRESH_ONE_IN: u32 = 8;

/// Makes the plan of a seed.
pub type Fresh<'a> = dyn Fn(u64) -> Scenario + 'a;

/// A hunt between two rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Hunt {
    /// What its choices are drawn from.
    pub seed: u64,
    /// The bug that it hunts with, if one is put back. What fails with one says nothing of the node without.
    pub mutant: Option<String>,
    /// How many rounds are done.
    pub rounds: u64,
    /// What was learned.
    pub corpus: Corpus,
    /// What failed, with the first plan that did, and how often.
    pub failures: BTreeMap<Signature, Failure>,
    /// New features in each of the last rounds, newest last.
    pub news: Vec<usize>,
}

/// A way to fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The first plan that failed so.
    pub scenario: Scenario,
    /// How many runs failed so.
    pub times: u64,
}

/// A run to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The plan.
    pub scenario: Scenario,
    /// The plan of the corpus that it was made from.
    pub parent: Option<u64>,
}

impl Hunt {
    /// A hunt that has not begun.
    pub fn new(seed: u64, mutant: Option<String>) -> Hunt {
        let (corpus, failures) = (Corpus::default(), BTreeMap::new());
        Hunt { seed, mutant, rounds: 0, corpus, failures, news: Vec::new() }
    }

    /// How many runs are done.
    pub fn runs(&self) -> u64 {
        self.rounds.saturating_mul(ROUND as u64)
    }

    /// The runs of the next round; of one shard of several, which all draw on their own.
    pub fn next_round(&mut self, shard: Shard, fresh: &Fresh<'_>) -> Vec<Candidate> {
        let rng = &mut stream(self.seed, &format!("hunt round {}, shard {shard}", self.rounds));
        let mut round = Vec::with_capacity(ROUND);
        for _ in 0..ROUND {
            let blind = self.rounds < BLIND_ROUNDS || rng.random_ratio(1, FRESH_ONE_IN);
            let seed = rng.random_range(0..u64::MAX / 2);
            let chosen = if blind { None } else { self.corpus.choose(rng) };
            let stranger = || fresh(seed);
            let bred = chosen.and_then(|number| {
                let plan = self.corpus.plans().get(&number)?;
                let other = self.corpus.second(rng).map_or_else(stranger, |other| other.scenario.clone());
                let parent = Parent { scenario: &plan.scenario, moments: &plan.moments };
                Some(mutate::child(&parent, &other, rng))
            });
            round.push(match bred {
                Some(scenario) => Candidate { scenario, parent: chosen },
                None => Candidate { scenario: stranger(), parent: None },
            });
        }
        round
    }

    /// Counts a round's reports, in the order of its runs. Returns the signatures that were not seen before.
    ///
    /// `tolerated` says which failures are nothing to report: a hunt for one bug goes on past the others.
    pub fn learn(
        &mut self,
        round: &[Candidate],
        reports: &[RunReport],
        tolerated: impl Fn(&RunReport) -> bool,
    ) -> Vec<Signature> {
        let mut found = Vec::new();
        let mut news = 0;
        for (candidate, report) in round.iter().zip(reports) {
            let failed = !report.ok && !tolerated(report);
            // A plan that fails would have children that fail in the same way.
            news += self.corpus.add(&candidate.scenario, report, candidate.parent, !failed);
            if let (true, Some(signature)) = (failed, Signature::of_report(report, &[])) {
                let failure = self.failures.entry(signature.clone()).or_insert_with(|| {
                    found.push(signature);
                    Failure { scenario: candidate.scenario.clone(), times: 0 }
                });
                failure.times += 1;
            }
        }
        self.rounds = self.rounds.saturating_add(1);
        self.news.push(news);
        if self.news.len() > 16 {
            self.news.remove(0);
        }
        found
    }

    /// How things stand, in one line.
    pub fn line(&self) -> String {
        let runs = (self.news.len() * ROUND).max(1);
        let news: usize = self.news.iter().sum();
        format!(
            "{} runs, {} plans, {} features ({:.0} new a run), {} ways to fail",
            self.runs(),
            self.corpus.plans().len(),
            self.corpus.features(),
            news as f64 / runs as f64,
            self.failures.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Limits;

    /// The plan of a seed, with no experiment's additions.
    pub fn plain(seed: u64) -> Scenario {
        Scenario::generate(seed, &Limits::default())
    }
    use crate::check::Violation;

    /// A world in which a plan reaches as many features as it has faults, and fails with more than a hundred.
    fn world(candidate: &Candidate) -> RunReport {
        let faults = candidate.scenario.faults.len() as u32;
        let mut report = RunReport { seed: candidate.scenario.seed, ok: true, ..RunReport::default() };
        report.coverage = (0..faults).collect();
        if faults > 100 {
            report.ok = false;
            report.violations.push(Violation {
                check: "ES".into(),
                detail: format!("too many: {faults}"),
                at_ns: 0,
                node: None,
            });
        }
        report
    }

    fn hunted(seed: u64, rounds: u64) -> Hunt {
        let mut hunt = Hunt::new(seed, None);
        for _ in 0..rounds {
            let round = hunt.next_round(Shard::WHOLE, &plain);
            let reports: Vec<RunReport> = round.iter().map(world).collect();
            hunt.learn(&round, &reports, |_| false);
        }
        hunt
    }

    #[test]
    fn a_hunt_is_a_function_of_its_seed_and_rounds() {
        assert_eq!(hunted(1, 6), hunted(1, 6));
        assert_ne!(hunted(1, 6), hunted(2, 6));
        assert_eq!(hunted(1, 6).runs(), 6 * ROUND as u64);
    }

    #[test]
    fn it_climbs_where_blind_seeds_do_not_go() {
        let most = |hunt: &Hunt| hunt.corpus.features();
        let blind = (0..640).map(|seed| plain(seed).faults.len()).max();
        let hunt = hunted(3, 80);
        assert!(most(&hunt) > blind.unwrap_or(0), "{} and {blind:?}", most(&hunt));
        assert_eq!(hunt.failures.len(), 1, "one way to fail: {:?}", hunt.failures.keys());
        assert!(hunt.corpus.plans().values().all(|plan| plan.scenario.faults.len() <= 100));
    }

    #[test]
    fn what_fails_has_no_children_unless_it_is_tolerated() {
        let fails = |candidate: &Candidate| {
            let mut report = world(candidate);
            report.violate("ES", "two leaders".into());
            report
        };
        let mut hunt = Hunt::new(1, None);
        let round = hunt.next_round(Shard::WHOLE, &plain);
        let reports: Vec<RunReport> = round.iter().map(fails).collect();
        assert_eq!(hunt.learn(&round, &reports, |_| true), []);
        assert!(!hunt.corpus.plans().is_empty() && hunt.failures.is_empty());
        let mut hunt = Hunt::new(1, None);
        assert_eq!(hunt.learn(&round, &reports, |_| false).len(), 1);
        assert!(hunt.corpus.plans().is_empty() && hunt.failures.len() == 1);
    }
}
