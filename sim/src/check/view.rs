//! What each node has said about itself so far: the common ground of the streaming checks.
//!
//! A view holds no opinion; it follows the events. Where an event does not fit what came before (an
//! entry far behind the end of the log, say) the view believes the event: to object is a check's business.
//!
//! A node is the testbed's node. When it comes back under a new Raft id (it left, and joined again as
//! somebody new) its Raft part starts from nothing.

use std::collections::{BTreeMap, VecDeque};

use driftline::env::Observed;

use super::{At, Event};

/// The cluster as observed.
#[derive(Debug, Default)]
pub struct View {
    nodes: BTreeMap<u32, NodeView>,
    by_raft_id: BTreeMap<u64, u32>,
}

/// One node as observed.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Whether it runs.
    pub up: bool,
    /// Its gossip name.
    pub name: String,
    /// Its Raft id, once it said.
    pub raft_id: Option<u64>,
    /// The highest term it has shown.
    pub term: u64,
    /// Its log.
    pub log: Log,
    /// The highest index reported durable and not truncated since.
    pub durable: Option<u64>,
    /// The highest index applied in this life, snapshots included.
    pub applied: Option<u64>,
    /// The highest index covered by a snapshot that it recovered, built or installed.
    pub snapshot: Option<u64>,
    /// The highest index up to which it has purged its log in this life.
    pub purged: Option<u64>,
}

/// A log: entries without a gap. A snapshot covers everything before the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Index of the first entry, if there is one.
    first: u64,
    entries: VecDeque<(u64, u64)>,
}

impl Log {
    /// Index of the last entry.
    pub fn last(&self) -> Option<u64> {
        (!self.entries.is_empty()).then(|| self.first + self.entries.len() as u64 - 1)
    }

    /// Index of the first entry; whatever is before it was purged.
    pub fn first(&self) -> Option<u64> {
        (!self.entries.is_empty()).then_some(self.first)
    }

    /// Term and digest of the entry at `index`.
    pub fn get(&self, index: u64) -> Option<(u64, u64)> {
        let at = index.checked_sub(self.first)?;
        self.entries.get(usize::try_from(at).ok()?).copied()
    }

    /// Index, term and digest of all entries.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        (self.first..).zip(&self.entries).map(|(index, (term, digest))| (index, *term, *digest))
    }

    /// Puts an entry at `index`; whatever was there or later is gone.
    pub fn append(&mut self, index: u64, term: u64, digest: u64) {
        match self.last() {
            Some(last) if index <= last && index >= self.first => self.truncate_after(index.checked_sub(1)),
            Some(last) if index == last + 1 => {}
            _ => self.entries.clear(),
        }
        if self.entries.is_empty() {
            self.first = index;
        }
        self.entries.push_back((term, digest));
    }

    /// Keeps entries up to `index`; `None` keeps none.
    pub fn truncate_after(&mut self, index: Option<u64>) {
        let keep = index.map_or(0, |index| (index + 1).saturating_sub(self.first));
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// Drops entries up to `index`.
    pub fn purge(&mut self, index: u64) {
        while self.first <= index && self.entries.pop_front().is_some() {
            self.first += 1;
        }
    }
}

impl NodeView {
    /// Whether a snapshot stands for the entry at `index`.
    pub fn covers(&self, index: u64) -> bool {
        self.snapshot >= Some(index) || self.log.first().is_some_and(|first| index < first)
    }

    /// The index at which the log goes on: after its last entry, or after what a snapshot stands for.
    pub fn next(&self) -> u64 {
        let ends = [self.log.last(), self.snapshot, self.purged].into_iter().flatten().max();
        ends.map_or(0, |end| end.saturating_add(1))
    }

    /// The first index for which no snapshot stands.
    pub fn uncovered(&self) -> u64 {
        let after_snapshot = self.snapshot.map_or(0, |snapshot| snapshot.saturating_add(1));
        after_snapshot.max(self.log.first().unwrap_or(0))
    }

    /// Who this is across restarts: its Raft id where known.
    pub fn identity(&self, node: u32) -> (u32, Option<u64>) {
        (node, self.raft_id)
    }

    fn on(&mut self, observed: &Observed) {
        match observed {
            Observed::Recovered { raft_id, term, applied, log, .. } => {
                if self.raft_id != Some(*raft_id) {
                    *self =
                        NodeView { up: self.up, name: std::mem::take(&mut self.name), ..NodeView::default() };
                }
                self.raft_id = Some(*raft_id);
                self.term = *term;
                self.applied = Some(*applied);
                self.snapshot = (*applied > 0).then_some(*applied);
                self.purged = None;
                self.log = Log::default();
                for (index, term, digest) in log {
                    self.log.append(*index, *term, *digest);
                }
                self.durable = self.log.last().max(Some(*applied));
            }
            Observed::Role { term, .. } | Observed::Vote { term, .. } => self.term = self.term.max(*term),
            Observed::Appended { index, term, digest } => {
                self.log.append(*index, *term, *digest);
                self.durable = self.durable.min(index.checked_sub(1));
            }
            Observed::Durable { index } => {
                // A sync that was under way while the log was cut reports entries that are gone.
                let kept = self.log.last().max(self.snapshot);
                self.durable = self.durable.max(kept.map(|kept| kept.min(*index)));
            }
            Observed::Truncated { index } => {
                self.log.truncate_after(Some(*index));
                self.durable = self.durable.min(Some(*index));
            }
            Observed::Purged { index } => {
                self.log.purge(*index);
                self.purged = self.purged.max(Some(*index));
            }
            Observed::Applied { index, .. } => self.applied = self.applied.max(Some(*index)),
            Observed::SnapshotInstalled { index, .. } => {
                self.applied = self.applied.max(Some(*index));
                self.snapshot = self.snapshot.max(Some(*index));
            }
            Observed::SnapshotBuilt { index, .. } => self.snapshot = self.snapshot.max(Some(*index)),
            Observed::Membership { .. }
            | Observed::Member { .. }
            | Observed::UserEvent { .. }
            | Observed::Program { .. }
            | Observed::Damaged { .. }
            | Observed::Fatal { .. } => {}
        }
    }
}

impl View {
    /// A node; one that never said anything looks freshly made.
    pub fn node(&self, node: u32) -> &NodeView {
        static UNHEARD: NodeView = NodeView {
            up: false,
            name: String::new(),
            raft_id: None,
            term: 0,
            log: Log { first: 0, entries: VecDeque::new() },
            durable: None,
            applied: None,
            snapshot: None,
            purged: None,
        };
        self.nodes.get(&node).unwrap_or(&UNHEARD)
    }

    /// All nodes by number.
    pub fn nodes(&self) -> impl Iterator<Item = (u32, &NodeView)> {
        self.nodes.iter().map(|(node, view)| (*node, view))
    }

    /// The node that bears this Raft id, if it is still the one it bears.
    pub fn by_raft_id(&self, raft_id: u64) -> Option<(u32, &NodeView)> {
        let node = *self.by_raft_id.get(&raft_id)?;
        Some((node, self.nodes.get(&node).filter(|view| view.raft_id == Some(raft_id))?))
    }

    /// The node that runs, or last ran, under this gossip name.
    pub fn by_name(&self, name: &str) -> Option<(u32, &NodeView)> {
        self.nodes().find(|(_, view)| view.name == name)
    }

    /// Follows an event.
    pub fn on(&mut self, at: At, event: &Event<'_>) {
        if matches!(event, Event::Fault { .. }) {
            return;
        }
        let node = self.nodes.entry(at.node).or_default();
        match event {
            Event::Started { name } => {
                node.up = true;
                node.name = (*name).to_owned();
                node.applied = None;
            }
            Event::Stopped(_) => node.up = false,
            Event::Observed(observed) => {
                node.on(observed);
                if let Observed::Recovered { raft_id, .. } = observed {
                    self.by_raft_id.insert(*raft_id, at.node);
                }
            }
            Event::Leaves
            | Event::FaultBegan
            | Event::FaultEnded
            | Event::Datagram
            | Event::Ordered(_)
            | Event::Saved(_)
            | Event::Fault { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_follows_appends_cuts_and_purges() {
        let mut log = Log::default();
        for index in 0..6 {
            log.append(index, 1, index);
        }
        log.truncate_after(Some(3));
        assert_eq!(log.last(), Some(3));
        log.append(4, 2, 40);
        log.purge(1);
        assert_eq!((log.first(), log.last()), (Some(2), Some(4)));
        assert_eq!((log.get(1), log.get(4), log.get(5)), (None, Some((2, 40)), None));
        log.append(3, 3, 30);
        assert_eq!(log.iter().collect::<Vec<_>>(), [(2, 1, 2), (3, 3, 30)]);
        log.append(100, 9, 1);
        assert_eq!((log.first(), log.last()), (Some(100), Some(100)));
        log.purge(200);
        assert_eq!(log.last(), None);
        log.append(0, 1, 1);
        log.truncate_after(None);
        assert_eq!(log.last(), None);
    }

    #[test]
    fn what_is_uncovered_begins_where_covering_ends() {
        for snapshot in [None, Some(0), Some(4), Some(9)] {
            for first in [None, Some(0), Some(3), Some(8)] {
                let mut node = NodeView { snapshot, ..NodeView::default() };
                first.into_iter().for_each(|first| node.log.append(first, 1, 1));
                let begins = (0..).find(|index| !node.covers(*index));
                assert_eq!(begins, Some(node.uncovered()), "{node:?}");
                assert!((node.uncovered()..20).all(|index| !node.covers(index)), "{node:?}");
            }
        }
    }
}
