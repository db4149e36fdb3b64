//! Clients that follow a part of the catalog, or the keys under a prefix: each asks one node for one query, and then again and again for what is newer
//! than what it was told (Consul's blocking queries). Drawn from a stream of its own, after everything else.

use rand::RngExt;

use super::generate::log_uniform;
use super::nodes::node_name;
use super::{PlannedAction, PlannedOp, Scenario, services, stream};

/// The number of the first client that follows.
const FIRST_CLIENT: u32 = 400;

/// The share of seeds that have them.
const SHARE: f64 = 0.5;

/// Gives a seed its followers, if it has any.
pub(super) fn add(scenario: &mut Scenario) {
    let rng = &mut stream(scenario.seed, "followers");
    if !rng.random_bool(SHARE) {
        return;
    }
    let nodes: Vec<u32> = (0..scenario.nodes).chain(scenario.agents()).collect();
    let one = nodes[rng.random_range(0..nodes.len())];
    // A few queries, so that several follow the same.
    let mut queries = vec![
        format!("/v1/health/service/{}", services::NAME),
        format!("/v1/catalog/service/{}", services::NAME),
        format!("/v1/health/checks/{}", services::NAME),
        "/v1/health/service/consul".to_owned(),
        "/v1/catalog/services".to_owned(),
        "/v1/catalog/nodes".to_owned(),
        "/v1/health/state/any".to_owned(),
        "/v1/health/state/critical".to_owned(),
        format!("/v1/catalog/node/{}", node_name(one)),
        format!("/v1/health/node/{}", node_name(one)),
        // What all keys of the clients begin with, and few things else are removed as often.
        "/v1/kv/k?keys".to_owned(),
        "/v1/kv/k?keys".to_owned(),
    ];
    while queries.len() > 3 {
        queries.swap_remove(rng.random_range(0..queries.len()));
    }
    for follower in 0..rng.random_range(2..=6) {
        let path = queries[rng.random_range(0..queries.len())].clone();
        let action = PlannedAction::Follow { path, wait_ms: log_uniform(rng, 100, 4_000) };
        let (client, node) = (FIRST_CLIENT + follower, nodes[rng.random_range(0..nodes.len())]);
        let at_ms = rng.random_range(0..1_000.min(scenario.duration_ms));
        scenario.operations.push(PlannedOp { at_ms, client, node, key: "catalog".to_owned(), action });
    }
    scenario.operations.sort_by_key(|op| op.at_ms);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Limits;
    use super::*;

    #[test]
    fn some_seeds_have_followers_and_together_they_follow_every_query() {
        let (mut with, mut followed) = (0, BTreeSet::new());
        for seed in 0..60 {
            let scenario = Scenario::generate(seed, &Limits::default());
            assert_eq!(scenario.validate(), Ok(()));
            let paths = scenario.operations.iter().filter_map(|op| match &op.action {
                PlannedAction::Follow { path, .. } => Some(path.rsplit_once('/').unwrap().0.to_owned()),
                _ => None,
            });
            let paths: Vec<String> = paths.collect();
            with += u32::from(!paths.is_empty());
            followed.extend(paths);
        }
        assert!((20..40).contains(&with), "{with} of 60");
        assert_eq!(followed.len(), 8, "{followed:?}");
    }
}
