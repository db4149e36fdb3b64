//! A minority that stays away when the storm is over. The rest must work without it: a majority is all that Raft asks for, and
//! who waits for everybody is found out here only. Then the minority comes back, and all are judged.
//!
//! TigerBeetle's simulator heals a core of its cluster only, for the same reason.
//!
//! So that it can be demanded, nothing in the plan changes who the servers are, or has one begin anew; and gossip's keys stay.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::orders::OUT;
use super::{Limits, Scenario, stream};

/// The share of seeds with one, if nothing speaks against it.
const SHARE: f64 = 0.6;

/// Faults by which a server begins anew, as another: one joins, loses its disk, or finds its data damaged. Of those that are
/// left then, fewer are voters.
pub const RENEW: &[&str] =
    &["bit-rot", "lose-disk", "lying-sync", "membership", "misdirected-read", "misdirected-write"];

/// Who stays away, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// The servers.
    pub nodes: Vec<u32>,
    /// How.
    pub how: Away,
}

/// How a server is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Away {
    /// It does not run.
    Down,
    /// It stands still, and its host answers for it as hosts do.
    Frozen,
    /// It runs, and nobody can reach it or be reached by it.
    Cut,
}

impl Away {
    /// The kind of fault that does this in a storm.
    pub fn kind(self) -> &'static str {
        match self {
            Away::Down => "kill",
            Away::Frozen => "stall",
            Away::Cut => "partition",
        }
    }
}

/// Gives a seed a minority that stays away. Whether there is one, or would be if nothing was left out.
pub(super) fn add(scenario: &mut Scenario, limits: &Limits, is_on: impl Fn(&str) -> bool) -> bool {
    let rng = &mut stream(scenario.seed, "missing");
    let most = most(scenario.nodes);
    // Asked of the seed, and not of the plan: to leave a kind out changes nothing else.
    let fits = !RENEW.iter().any(|kind| is_on(kind)) && unfit(scenario).is_none();
    if !rng.random_bool(SHARE) || !fits || most == 0 {
        return false;
    }
    let how = [Away::Down, Away::Frozen, Away::Cut][rng.random_range(0..3)];
    let mut nodes: Vec<u32> = (0..scenario.nodes).collect();
    nodes.shuffle(rng);
    nodes.truncate(rng.random_range(1..=most));
    if !limits.without.contains(how.kind()) {
        scenario.settings.missing = Some(Missing { nodes, how });
    }
    true
}

/// So many servers may be away.
fn most(nodes: u32) -> usize {
    nodes.saturating_sub(1) as usize / 2
}

/// What in a plan does not go with a minority that stays away.
pub(super) fn unfit(scenario: &Scenario) -> Option<&'static str> {
    if scenario.beyond {
        return Some("more faults than can be repaired");
    }
    if scenario.settings.gossip_keys.changed_at_ms.is_some() {
        return Some("a change of gossip's keys");
    }
    let mut kinds = scenario.faults.iter().map(|fault| fault.kind.name());
    kinds.find(|kind| RENEW.contains(kind) || OUT.contains(kind))
}

/// What is wrong with it.
pub(super) fn wrong(scenario: &Scenario, missing: &Missing) -> Option<String> {
    let named: BTreeSet<u32> = missing.nodes.iter().copied().collect();
    let most = most(scenario.nodes);
    if named.len() < missing.nodes.len() || named.iter().any(|node| *node >= scenario.nodes) {
        return Some(format!("want different numbers below {}", scenario.nodes));
    }
    if !(1..=most).contains(&named.len()) {
        return Some(format!("of {} servers 1 to {most} may be away", scenario.nodes));
    }
    unfit(scenario).map(|what| format!("with {what} in the plan nothing can be demanded of the rest"))
}

impl Scenario {
    /// Leaves out what does not fit: of a plan that was put together from several.
    pub fn fit_missing(&mut self) {
        if let Some(missing) = &mut self.settings.missing {
            let mut named = BTreeSet::new();
            missing.nodes.retain(|node| *node < self.nodes && named.insert(*node));
            missing.nodes.truncate(most(self.nodes));
        }
        if self.settings.missing.as_ref().is_some_and(|missing| wrong(self, missing).is_some()) {
            self.settings.missing = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_seeds_miss_a_minority_in_every_way() {
        let plans = (0..600).map(|seed| Scenario::generate(seed, &Limits::default()));
        let missing: Vec<Scenario> = plans.filter(|plan| plan.settings.missing.is_some()).collect();
        assert!(missing.len() > 80, "{}", missing.len());
        let ways = missing.iter().filter_map(|plan| plan.settings.missing.as_ref());
        assert_eq!(ways.map(|missing| missing.how.kind()).collect::<BTreeSet<_>>().len(), 3);
        assert!(missing.iter().all(|plan| plan.validate() == Ok(())));
    }

    #[test]
    fn more_than_a_minority_or_nobody_or_a_stranger_is_refused() {
        let plan = Scenario::generate(1, &Limits { nodes: Some(5), ..Limits::default() });
        let mut plan = Scenario { faults: Vec::new(), beyond: false, ..plan };
        plan.settings.gossip_keys.changed_at_ms = None;
        for (nodes, good) in [
            (vec![4], true),
            (vec![1, 3], true),
            (vec![0, 1, 2], false),
            (vec![], false),
            (vec![5], false),
            (vec![1, 1], false),
        ] {
            plan.settings.missing = Some(Missing { nodes: nodes.clone(), how: Away::Cut });
            assert_eq!(plan.validate().is_ok(), good, "{nodes:?}");
            let mut fitted = plan.clone();
            fitted.fit_missing();
            assert_eq!(fitted.validate(), Ok(()));
        }
        plan.settings.missing = Some(Missing { nodes: vec![4], how: Away::Down });
        plan.beyond = true;
        assert!(plan.validate().unwrap_err().to_string().contains("settings.missing"));
    }
}
