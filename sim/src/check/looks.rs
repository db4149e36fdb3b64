//! Reads that promise less than to be current, or something else: what clients saw of them, and what the checks of
//! them ([`super::stale_reads`], [`super::waiting_reads`]) must know of the nodes over time.
//!
//! What they go by is the index that comes with an answer: that of the key's last change, or of the store's if the key
//! is absent. Either way a later state of one store has no smaller one.

use std::collections::BTreeMap;

use driftline::env::Observed;

use super::{At, Event};

/// A read that is not, or not only, part of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Which client asked.
    pub client: u32,
    /// Which node it asked.
    pub node: u32,
    /// The key.
    pub key: String,
    /// How it asked.
    pub kind: LookKind,
    /// When it asked.
    pub invoked_ns: u64,
    /// When it was answered.
    pub returned_ns: u64,
    /// The index that came with the answer.
    pub index: u64,
    /// The index of the last change of the key, as the answer itself tells it; none: the key was not there.
    pub changed: Option<u64>,
}

/// How a client looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookKind {
    /// As usual, to learn an index.
    Plain,
    /// It may be old.
    Stale,
    /// Once there is something newer, or the time is over.
    Watch {
        /// Newer than this index.
        since: u64,
        /// How long it is willing to wait, by the node's clock.
        wait_ms: u64,
    },
}

/// What is known of a node over time.
#[derive(Debug, Default)]
pub struct Life {
    raft_id: Option<u64>,
    /// When it became another.
    reborn: Vec<u64>,
    /// How far its state was, from when on.
    applied: Vec<(u64, u64)>,
    /// When a fault that touches it began or ended, or it started or stopped.
    moved: Vec<u64>,
    /// When it stopped.
    stopped: Vec<u64>,
    /// Faults in force.
    faults: u32,
    /// Since when, if there are any, and earlier such times.
    stormy: Vec<(u64, u64)>,
}

impl Life {
    /// Whether no fault touched it, and it neither started nor stopped, between these times.
    pub fn is_calm(&self, from: u64, to: u64) -> bool {
        let at = self.moved.partition_point(|moved| *moved < from);
        let quiet = self.moved.get(at).is_none_or(|next| *next > to);
        // One ends before the next begins, so the first that does not end too early decides.
        let at = self.stormy.partition_point(|(_, end)| *end < from);
        let stormy = self.stormy.get(at).is_some_and(|(begin, _)| *begin <= to);
        quiet && !stormy
    }

    /// When the life that it was in, or was to be in next, at a time was over.
    pub fn stopped_after(&self, ns: u64) -> Option<u64> {
        let at = self.stopped.partition_point(|stopped| *stopped < ns);
        self.stopped.get(at).copied()
    }

    /// Whether it keeps a log of its own.
    pub fn is_server(&self) -> bool {
        self.raft_id.is_some()
    }

    /// The last index applied at a time, in the life it was then in.
    pub fn applied_at(&self, ns: u64) -> u64 {
        let at = self.applied.partition_point(|(when, _)| *when <= ns);
        at.checked_sub(1).map_or(0, |at| self.applied[at].1)
    }

    /// Whether it began anew as another server between these times.
    pub fn became_another(&self, from: u64, to: u64) -> bool {
        self.reborn.iter().any(|at| from <= *at && *at <= to)
    }
}

/// Follows the nodes.
#[derive(Debug, Default)]
pub struct Lives {
    lives: BTreeMap<u32, Life>,
    nothing: Life,
}

impl Lives {
    /// Follows an event.
    pub fn on(&mut self, at: At, event: &Event<'_>) {
        let life = self.lives.entry(at.node).or_default();
        match event {
            Event::Started { .. } => life.moved.push(at.ns),
            Event::Stopped(_) => {
                life.moved.push(at.ns);
                life.stopped.push(at.ns);
            }
            Event::FaultBegan => {
                life.faults += 1;
                if life.faults == 1 {
                    life.stormy.push((at.ns, u64::MAX));
                }
            }
            Event::FaultEnded => {
                life.faults = life.faults.saturating_sub(1);
                if life.faults == 0
                    && let Some((_, end)) = life.stormy.last_mut()
                {
                    *end = at.ns;
                }
            }
            Event::Observed(Observed::Recovered { raft_id, applied, .. }) => {
                if life.raft_id.is_some_and(|before| before != *raft_id) {
                    life.reborn.push(at.ns);
                }
                life.raft_id = Some(*raft_id);
                life.applied.push((at.ns, *applied));
            }
            Event::Observed(Observed::Applied { index, .. } | Observed::SnapshotInstalled { index, .. }) => {
                // Of a batch that is applied at one instant only the last is ever asked for.
                match life.applied.last_mut() {
                    Some(last) if last.0 == at.ns => last.1 = *index,
                    _ => life.applied.push((at.ns, *index)),
                }
            }
            _ => {}
        }
    }

    /// What is known of a node.
    pub fn of(&self, node: u32) -> &Life {
        self.lives.get(&node).unwrap_or(&self.nothing)
    }
}

#[cfg(test)]
pub(crate) mod test {
    //! What the tests of both checks tell.
    use super::*;

    pub(crate) const MS: u64 = 1_000_000;

    pub(crate) fn look(kind: LookKind, from_ms: u64, to_ms: u64, index: u64) -> Look {
        let (invoked_ns, returned_ns) = (from_ms * MS, to_ms * MS);
        let key = "k".to_owned();
        Look { client: 0, node: 0, key, kind, invoked_ns, returned_ns, index, changed: Some(index) }
    }

    /// Node 0, to which these things happened.
    pub(crate) fn lives(happened: &[(u64, Event<'_>)]) -> Lives {
        let mut lives = Lives::default();
        for (ms, event) in happened {
            lives.on(At { ns: ms * MS, node: 0 }, event);
        }
        lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calm_is_what_no_fault_touches_however_many_there_were() {
        let mut lives = Lives::default();
        let mut says = |ns, event: Event<'_>| lives.on(At { ns, node: 0 }, &event);
        // Twice at once, then one that is never over.
        says(10, Event::FaultBegan);
        says(12, Event::FaultBegan);
        says(15, Event::FaultEnded);
        says(20, Event::FaultEnded);
        says(30, Event::FaultBegan);
        says(40, Event::FaultEnded);
        says(50, Event::Stopped(super::super::Stop::Kill));
        says(60, Event::FaultBegan);
        let life = lives.of(0);
        let calm: Vec<u64> = (0..70).step_by(3).filter(|from| life.is_calm(*from, from + 2)).collect();
        assert_eq!(calm, [0, 3, 6, 21, 24, 27, 42, 45, 51, 54, 57]);
        assert!(!life.is_calm(21, 33) && !life.is_calm(25, 100) && !life.is_calm(1_000, 1_001));
    }
}
