//! SNAP: a snapshot that is saved is the state of one index of the log, whole, and not older than it may be.
//!
//! Its state must be the one that a server had after it applied that index, down to the digest. Unless it was said that
//! it may be stale, it holds everything that any server had applied when it was asked for: what is applied is committed.
//!
//! Let pass: the state of an index that is [`KEPT`] entries old, or that only servers had that got a snapshot from another.

use std::collections::BTreeMap;

use driftline::env::Observed;

use super::view::View;
use super::{At, Check, Event, Findings};

/// The digests of so many indexes are kept: more than are applied while an answer is waited for.
const KEPT: usize = 10_000;

/// A snapshot that was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its index and the digest of its state, or why it cannot be read.
    pub state: Result<(u64, u64), String>,
    /// What had been applied when it was asked for, unless it may be stale.
    pub least: Option<u64>,
}

/// The check's memory.
#[derive(Debug, Default)]
pub struct SavedSnapshots {
    digests: BTreeMap<u64, u64>,
}

impl Check for SavedSnapshots {
    fn on(&mut self, at: At, event: &Event<'_>, _view: &View, findings: &mut Findings) {
        match event {
            Event::Observed(Observed::Applied { index, state, .. }) => {
                self.digests.entry(*index).or_insert(*state);
                if self.digests.len() > KEPT {
                    self.digests.pop_first();
                }
            }
            Event::Saved(Saved { state: Err(problem), .. }) => {
                findings.add(
                    "SNAP",
                    at,
                    format!("node {} gave a snapshot that cannot be read: {problem}", at.node),
                );
            }
            Event::Saved(Saved { state: Ok((index, digest)), least }) => {
                if let Some(applied) = self.digests.get(index).filter(|applied| *applied != digest) {
                    let detail = format!(
                        "node {} gave a snapshot of index {index} with state {digest:016x}, but servers had {applied:016x} there",
                        at.node
                    );
                    findings.add("SNAP", at, detail);
                }
                if let Some(least) = least.filter(|least| index < least) {
                    let detail = format!(
                        "node {} gave a snapshot of index {index}, but {least} was applied when it was asked for",
                        at.node
                    );
                    findings.add("SNAP", at, detail);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::*;

    fn saved(state: Result<(u64, u64), &str>, least: Option<u64>) -> Bench<SavedSnapshots> {
        let bench = Bench::new(SavedSnapshots::default()).applies(0, 6, 1).applies(0, 7, 1);
        bench.on(1, Event::Saved(&Saved { state: state.map_err(str::to_owned), least }))
    }

    #[test]
    fn the_state_of_an_index_passes_if_it_is_as_new_as_it_must_be() {
        saved(Ok((7, 7_000)), Some(7)).accepts();
        saved(Ok((6, 6_000)), None).accepts();
        saved(Ok((8, 1)), Some(7)).accepts();
        saved(Ok((6, 6_000)), Some(7)).rejects("7 was applied when it was asked for");
    }

    #[test]
    fn another_state_or_none_at_all_is_rejected() {
        saved(Ok((7, 6_000)), None).rejects("but servers had");
        saved(Err("cut short"), None).rejects("cannot be read: cut short");
    }
}
