//! Clients that fire user events with content, beside those of the side operations, whose events are empty. Drawn from a
//! stream of its own, after everything else.

use rand::RngExt;

use super::generate::log_uniform;
use super::{PlannedAction, PlannedOp, Scenario, stream};

/// The number of the client that fires.
const CLIENT: u32 = 300;

/// The share of seeds that have one.
const SHARE: f64 = 0.4;

/// The longest content that is drawn: with it an event is a little below the limit of 512 bytes.
pub const MOST_BYTES: u64 = 360;

/// What an event of this name carries: so many bytes, which tell whose they are.
pub fn content(name: &str, bytes: u64) -> String {
    name.chars().chain(['/']).cycle().take(usize::try_from(bytes).unwrap_or(0)).collect()
}

/// Gives a seed its events, if it has any.
pub(super) fn add(scenario: &mut Scenario) {
    let rng = &mut stream(scenario.seed, "news");
    if !rng.random_bool(SHARE) {
        return;
    }
    let nodes: Vec<u32> = (0..scenario.nodes).chain(scenario.agents()).collect();
    let pace_ms = log_uniform(rng, 100, 3_000);
    let mut at_ms = rng.random_range(0..pace_ms);
    for number in 0.. {
        if at_ms >= scenario.duration_ms {
            break;
        }
        let action =
            PlannedAction::Publish { name: format!("news-{number}"), bytes: log_uniform(rng, 1, MOST_BYTES) };
        let node = nodes[rng.random_range(0..nodes.len())];
        scenario.operations.push(PlannedOp { at_ms, client: CLIENT, node, key: "news".to_owned(), action });
        at_ms += rng.random_range(1..=2 * pace_ms);
    }
    scenario.operations.sort_by_key(|op| op.at_ms);
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::*;

    #[test]
    fn some_seeds_have_news_and_their_content_is_as_long_as_it_says() {
        let mut with = 0;
        for seed in 0..60 {
            let scenario = Scenario::generate(seed, &Limits::default());
            let bytes = scenario.operations.iter().filter_map(|op| match op.action {
                PlannedAction::Publish { bytes, .. } => Some(bytes),
                _ => None,
            });
            let bytes: Vec<u64> = bytes.collect();
            assert!(bytes.iter().all(|bytes| (1..=MOST_BYTES).contains(bytes)));
            with += u32::from(!bytes.is_empty());
        }
        assert!((15..35).contains(&with), "{with} of 60");
        assert_eq!(content("news-1", 10), "news-1/new");
    }
}
