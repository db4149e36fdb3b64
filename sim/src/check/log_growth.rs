//! LOAD: the log grows by at most [`ENTRIES`] in any [`WINDOW_NS`], which is more than the clients of any plan can make it.
//!
//! A cluster that corrects itself and finds each time that it has to do so again is busy without end, though each step
//! of it may be right and every promise kept. Such a loop is as fast as a commit, thousands of entries a second.

use std::collections::VecDeque;

use driftline::env::Observed;

use super::view::View;
use super::{At, Check, Event, Findings};

/// Any ten seconds.
const WINDOW_NS: u64 = 10_000_000_000;

/// The busiest plans of the testbed's own make it a third of this.
const ENTRIES: u64 = 3_000;

/// The newest index that any node has applied, and when it got there.
#[derive(Debug, Default)]
pub struct LogGrowth {
    /// True time and index, of the last window.
    grown: VecDeque<(u64, u64)>,
    newest: u64,
}

impl Check for LogGrowth {
    fn on(&mut self, at: At, event: &Event<'_>, _view: &View, findings: &mut Findings) {
        let Event::Observed(Observed::Applied { index, .. }) = event else { return };
        if *index <= self.newest {
            return;
        }
        self.grown.push_back((at.ns, self.newest));
        self.newest = *index;
        while self.grown.front().is_some_and(|(since, _)| since + WINDOW_NS < at.ns) {
            self.grown.pop_front();
        }
        let before = self.grown.front().map_or(self.newest, |(_, before)| *before);
        let entries = self.newest - before;
        if entries > ENTRIES {
            findings.add("LOAD", at, format!("{entries} entries within ten seconds, up to index {index}"));
            self.grown.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::*;

    fn grows(by: &[u64]) -> Vec<String> {
        let mut bench = Bench::new(LogGrowth::default());
        let mut index = 0;
        for by in by {
            index += by;
            bench = bench.says(0, Observed::Applied { index, term: 1, entry: 0, state: 0 });
            // A node that applies it later, or again, makes it no larger.
            bench = bench.says(1, Observed::Applied { index, term: 1, entry: 0, state: 0 });
        }
        bench.found().into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_busy_cluster_is_let_be_and_a_frantic_one_is_not() {
        assert_eq!(grows(&[500; 60]), Vec::<String>::new());
        assert_eq!(grows(&[2_900, 1, 1, 1]), Vec::<String>::new());
        let found = grows(&[800; 5]);
        assert!(found.len() == 1 && found[0].contains("3200 entries"), "{found:?}");
    }
}
