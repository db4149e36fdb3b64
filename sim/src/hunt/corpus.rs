//! The plans that reached something new, and which of them is worth changing next.
//!
//! Pure data. For each feature (see [`crate::coverage`]) the corpus knows in how many runs it was reached. A plan stays
//! if its run reached a feature that no run had reached before. Its energy is how rare the things are that it
//! reached, and shrinks each time it is chosen: the search goes where few runs have been, and does not stay for ever.
//!
//! Bounded: at [`MOST_PLANS`] the plan with the least energy makes room.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::coverage::Moment;
use crate::report::RunReport;
use crate::scenario::Scenario;

/// More plans are not kept.
pub const MOST_PLANS: usize = 1_024;

/// A plan that reached something new.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The plan itself.
    pub scenario: Scenario,
    /// What its run reached.
    pub features: Vec<u32>,
    /// What of note happened in its run.
    pub moments: Vec<Moment>,
    /// The plan that it was made from; none, if from nothing.
    pub parent: Option<u64>,
    /// How many children it has had.
    pub chosen: u64,
}

/// See the module's description.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corpus {
    plans: BTreeMap<u64, Plan>,
    /// In how many runs each feature was reached.
    times: BTreeMap<u32, u64>,
    next: u64,
}

impl Corpus {
    /// A corpus as it was.
    pub fn restored(plans: BTreeMap<u64, Plan>, times: BTreeMap<u32, u64>) -> Corpus {
        let next = plans.last_key_value().map_or(0, |(number, _)| number + 1);
        Corpus { plans, times, next }
    }

    /// The plans, by number.
    pub fn plans(&self) -> &BTreeMap<u64, Plan> {
        &self.plans
    }

    /// In how many runs each feature was reached.
    pub fn times(&self) -> &BTreeMap<u32, u64> {
        &self.times
    }

    /// How many features were reached at all.
    pub fn features(&self) -> usize {
        self.times.len()
    }

    /// Counts a run, and keeps its plan if it reached something new and `keep` allows it. How much was new.
    pub fn add(&mut self, scenario: &Scenario, report: &RunReport, parent: Option<u64>, keep: bool) -> usize {
        let mut new = 0;
        for feature in &report.coverage {
            let times = self.times.entry(*feature).or_default();
            *times += 1;
            new += usize::from(*times == 1);
        }
        if new > 0 && keep {
            let plan = Plan {
                scenario: scenario.clone(),
                features: report.coverage.clone(),
                moments: report.moments.clone(),
                parent,
                chosen: 0,
            };
            self.plans.insert(self.next, plan);
            self.next += 1;
            if self.plans.len() > MOST_PLANS {
                self.forget_the_dullest();
            }
        }
        new
    }

    fn forget_the_dullest(&mut self) {
        let dullest = self
            .plans
            .iter()
            .map(|(number, plan)| (self.energy(plan), *number))
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        if let Some((_, number)) = dullest {
            self.plans.remove(&number);
        }
    }

    /// How much a plan is worth changing.
    fn energy(&self, plan: &Plan) -> f64 {
        let rare = |feature: &u32| 1.0 / self.times.get(feature).copied().unwrap_or(1).max(1) as f64;
        let rarity: f64 = plan.features.iter().map(rare).sum();
        // A little for everybody: what is common today may be the way to what is rare.
        (rarity + 0.1) / (1 + plan.chosen) as f64
    }

    /// A plan to change, drawn by energy.
    pub fn choose(&mut self, rng: &mut StdRng) -> Option<u64> {
        let number = self.draw(rng)?;
        if let Some(plan) = self.plans.get_mut(&number) {
            plan.chosen += 1;
        }
        Some(number)
    }

    /// A second parent, drawn the same way: what two rich plans have between them is richer than what one has and a poor one.
    pub fn second(&self, rng: &mut StdRng) -> Option<&Plan> {
        self.plans.get(&self.draw(rng)?)
    }

    fn draw(&self, rng: &mut StdRng) -> Option<u64> {
        let energies: Vec<(u64, f64)> =
            self.plans.iter().map(|(number, plan)| (*number, self.energy(plan))).collect();
        let total: f64 = energies.iter().map(|(_, energy)| energy).sum();
        let mut left = rng.random_range(0.0..1.0) * total;
        let drawn = energies.iter().find(|(_, energy)| {
            left -= energy;
            left < 0.0
        });
        drawn.or(energies.last()).map(|(number, _)| *number)
    }

    /// Takes over the plans and counts of another: as if its runs had been made here as well. The same for any order
    /// of two; a plan that both have is there once.
    pub fn merge(&mut self, other: &Corpus) {
        for (feature, times) in &other.times {
            *self.times.entry(*feature).or_default() += times;
        }
        let mut plans: Vec<Plan> = std::mem::take(&mut self.plans).into_values().collect();
        plans.extend(other.plans.values().cloned());
        // Numbers mean nothing in another corpus.
        plans.iter_mut().for_each(|plan| plan.parent = None);
        plans.sort_by_cached_key(|plan| {
            (plan.scenario.seed, serde_json::to_string(&plan.scenario).unwrap_or_default(), plan.chosen)
        });
        plans.dedup_by(|a, b| a.scenario == b.scenario);
        self.plans = (0..).zip(plans).collect();
        self.next = self.plans.len() as u64;
        while self.plans.len() > MOST_PLANS {
            self.forget_the_dullest();
        }
    }

    /// The features of all plans that are kept.
    pub fn kept_features(&self) -> BTreeSet<u32> {
        self.plans.values().flat_map(|plan| plan.features.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scenario::{Limits, stream};

    fn scenario(seed: u64) -> Scenario {
        let limits = Limits { nodes: Some(3), duration_s: Some(1), ..Limits::default() };
        Scenario::generate(seed, &limits)
    }

    fn run(features: &[u32]) -> RunReport {
        RunReport { coverage: features.to_vec(), ..RunReport::default() }
    }

    fn corpus(runs: &[(u64, Vec<u32>)]) -> Corpus {
        let mut corpus = Corpus::default();
        for (seed, features) in runs {
            corpus.add(&scenario(*seed), &run(features), None, true);
        }
        corpus
    }

    #[test]
    fn only_what_is_new_is_kept() {
        let corpus = corpus(&[(1, vec![1, 2]), (2, vec![2]), (3, vec![2, 3])]);
        assert_eq!(corpus.plans().values().map(|plan| plan.scenario.seed).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(corpus.times(), &BTreeMap::from([(1, 1), (2, 3), (3, 1)]));
    }

    #[test]
    fn the_rare_are_chosen_more_often_and_nobody_for_ever() {
        let mut common: Vec<(u64, Vec<u32>)> = (0..50).map(|seed| (seed, vec![1])).collect();
        common.push((99, vec![2, 3, 4, 5]));
        let mut corpus = corpus(&common);
        let mut rng = stream(1, "test");
        let chosen: Vec<u64> = (0..40).filter_map(|_| corpus.choose(&mut rng)).collect();
        let rare = chosen.iter().filter(|number| **number == 1).count();
        assert!((21..40).contains(&rare), "{rare} of 40");
    }

    #[test]
    fn a_full_corpus_forgets_the_dullest() {
        let mut corpus = Corpus::default();
        for number in 0..=MOST_PLANS as u32 {
            corpus.add(&scenario(0), &run(&[number]), None, true);
        }
        assert_eq!(corpus.plans().len(), MOST_PLANS);
        assert_eq!(corpus.features(), MOST_PLANS + 1);
    }

    proptest! {
        #[test]
        fn merging_knows_no_order(
            a in prop::collection::vec(0..20u64, 0..12),
            b in prop::collection::vec(0..20u64, 0..12),
        ) {
            // The same plan reaches the same.
            let of = |seeds: &[u64]| {
                let reached = |seed: &u64| (*seed, (0..*seed as u32 % 7).map(|n| n * 3 + *seed as u32).collect());
                corpus(&seeds.iter().map(reached).collect::<Vec<_>>())
            };
            let (a, b) = (of(&a), of(&b));
            let (mut ab, mut ba) = (a.clone(), b.clone());
            ab.merge(&b);
            ba.merge(&a);
            prop_assert_eq!(&ab, &ba);
            prop_assert_eq!(ab.kept_features(), a.kept_features().union(&b.kept_features()).copied().collect());
        }
    }
}
