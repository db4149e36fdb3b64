//! Which requests were already applied, so that a retry after an unknown outcome applies once.
//!
//! After the Raft dissertation, section 6.3: every request names its origin (one life of one agent)
//! and a number; the table keeps the outcome of each applied request until the origin says that it
//! will not ask again. It is part of the replicated state and of every snapshot: a server that forgot
//! it would apply a retry twice.
//!
//! The table is bounded. Past [`MAX_ORIGINS`] origins, the one that wrote least recently (by log
//! index) is forgotten, on every replica at the same index. An agent retries for seconds, so
//! forgetting hurts only if thousands of other agents started in that time.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::map::Map;
use super::{Outcome, tables};

/// How many origins are remembered.
pub const MAX_ORIGINS: usize = 4096;

/// How many unacknowledged outcomes are kept for one origin; the oldest go first, and their requests count as done with.
pub const MAX_PENDING: usize = 4096;

/// Bytes of the largest outcome that is kept. What a larger one came to is not: whoever asks again hears that it is not known
/// any more. Else a transaction that reads much would keep what it read in every server's state, and in every snapshot.
pub const MAX_OUTCOME: usize = 16 << 10;

/// Names a request for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// One life of one agent: drawn at random when it starts.
    pub origin: u64,
    /// Counts that agent's requests.
    pub number: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    last_index: u64,
    done_below: u64,
    outcomes: Map<u64, Outcome>,
}

/// The table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Dedup {
    origins: Map<u64, Origin>,
    /// Origins by the index at which they last wrote: the first is the next to be forgotten.
    by_age: Map<u64, u64>,
    #[serde(skip)]
    digest: u64,
}

impl PartialEq for Dedup {
    fn eq(&self, other: &Dedup) -> bool {
        self.origins == other.origins
    }
}

impl Eq for Dedup {}

/// One remembered outcome's part in the digest. Parts are added, so that order does not matter and
/// one can be taken out again.
fn part(origin: u64, number: u64, outcome: &Outcome) -> u64 {
    let (kind, index, answer) = match outcome {
        Outcome::Done { index } => (0u64, *index, 0),
        Outcome::ConditionFailed { index } => (1, *index, 0),
        Outcome::Stale => (2, 0, 0),
        Outcome::Answered { index, answer } => (3, *index, xxh3_64(answer)),
        Outcome::Refused { index, refusal } => (4, *index, tables::part(4, refusal)),
        Outcome::Returned { index, value } => (5, *index, tables::part(4, value)),
    };
    let mut bytes = [0; 40];
    for (slot, word) in bytes.chunks_exact_mut(8).zip([origin, number, kind, index, answer]) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64(&bytes)
}

impl Dedup {
    /// The outcome of a request that must not be applied again: the one it got when it was applied,
    /// or [`Outcome::Stale`] when its origin said long ago that it is done with it (a copy that some
    /// network kept back).
    pub fn outcome_of(&self, id: RequestId) -> Option<Outcome> {
        let origin = self.origins.get(&id.origin)?;
        let stale = || (id.number < origin.done_below).then_some(Outcome::Stale);
        origin.outcomes.get(&id.number).cloned().or_else(stale)
    }

    /// Records the outcome of a request applied at `index`, and drops what the origin no longer needs.
    pub fn remember(&mut self, index: u64, id: RequestId, done_below: u64, outcome: &Outcome) {
        if !self.origins.contains_key(&id.origin) {
            self.origins.insert(id.origin, Origin::default());
        }
        let Some(origin) = self.origins.get_mut(&id.origin) else { return };
        self.by_age.remove(&origin.last_index);
        origin.last_index = index;
        self.by_age.insert(index, id.origin);

        origin.done_below = origin.done_below.max(done_below);
        while origin.outcomes.first().is_some_and(|(number, _)| *number < origin.done_below)
            && let Some((number, outcome)) = origin.outcomes.pop_first()
        {
            self.digest = self.digest.wrapping_sub(part(id.origin, number, &outcome));
        }
        // Mutant R45: only the newest outcome of an origin is remembered.
        if crate::mutant::is("R45") {
            for (number, outcome) in std::mem::take(&mut origin.outcomes).into_entries() {
                self.digest = self.digest.wrapping_sub(part(id.origin, number, &outcome));
            }
        }
        let outcome = if outcome.weight() > MAX_OUTCOME { &Outcome::Stale } else { outcome };
        origin.outcomes.insert(id.number, outcome.clone());
        self.digest = self.digest.wrapping_add(part(id.origin, id.number, outcome));
        if origin.outcomes.len() > MAX_PENDING
            && let Some((number, outcome)) = origin.outcomes.pop_first()
        {
            self.digest = self.digest.wrapping_sub(part(id.origin, number, &outcome));
            // Should it come again, nobody knows what it came to; and it must not be applied twice.
            origin.done_below = number.saturating_add(1);
        }

        if self.origins.len() > MAX_ORIGINS
            && let Some((_, oldest)) = self.by_age.pop_first()
            && let Some(forgotten) = self.origins.remove(&oldest)
        {
            for (number, outcome) in forgotten.outcomes.iter() {
                self.digest = self.digest.wrapping_sub(part(oldest, *number, outcome));
            }
        }
    }

    /// A hash of the remembered outcomes.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Computes the digest anew, after loading.
    pub(super) fn rebuild_digest(&mut self) {
        self.digest = 0;
        for (origin, table) in self.origins.iter() {
            for (number, outcome) in table.outcomes.iter() {
                self.digest = self.digest.wrapping_add(part(*origin, *number, outcome));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(origin: u64, number: u64) -> RequestId {
        RequestId { origin, number }
    }

    /// It is as if it were computed anew.
    fn the_digest_is_kept(mut table: Dedup) {
        let digest = table.digest();
        table.rebuild_digest();
        assert_eq!(table.digest(), digest);
    }

    #[test]
    fn outcomes_go_when_their_origin_is_done_with_them() {
        let mut table = Dedup::default();
        for number in 1..=3 {
            table.remember(number, id(7, number), 0, &Outcome::Done { index: number });
        }
        table.remember(4, id(7, 4), 3, &Outcome::Done { index: 4 });
        assert_eq!(table.outcome_of(id(7, 2)), Some(Outcome::Stale));
        assert_eq!(table.outcome_of(id(7, 3)), Some(Outcome::Done { index: 3 }));
        assert_eq!(table.outcome_of(id(7, 5)), None);
    }

    #[test]
    fn a_large_outcome_is_not_kept_and_its_request_is_not_applied_again() {
        let mut table = Dedup::default();
        let large = Outcome::Answered { index: 1, answer: vec![7; MAX_OUTCOME + 1].into() };
        table.remember(1, id(7, 1), 0, &large);
        assert_eq!(table.outcome_of(id(7, 1)), Some(Outcome::Stale));
        let small = Outcome::Answered { index: 2, answer: vec![7; 100].into() };
        table.remember(2, id(7, 2), 0, &small);
        assert_eq!(table.outcome_of(id(7, 2)), Some(small));
        the_digest_is_kept(table);
    }

    #[test]
    fn an_outcome_that_found_no_room_is_unknown_and_its_request_is_not_applied_again() {
        let mut table = Dedup::default();
        for number in 1..=MAX_PENDING as u64 + 1 {
            table.remember(number, id(7, number), 0, &Outcome::Done { index: number });
        }
        assert_eq!(table.outcome_of(id(7, 1)), Some(Outcome::Stale));
        assert_eq!(table.outcome_of(id(7, 2)), Some(Outcome::Done { index: 2 }));
        the_digest_is_kept(table);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_idle_first() {
        let mut table = Dedup::default();
        for origin in 0..MAX_ORIGINS as u64 {
            table.remember(origin + 1, id(origin, 1), 0, &Outcome::Done { index: origin + 1 });
        }
        let next = MAX_ORIGINS as u64 + 1;
        table.remember(next, id(0, 2), 0, &Outcome::Done { index: next });
        table.remember(next + 1, id(u64::MAX, 1), 0, &Outcome::Done { index: next + 1 });
        assert!(table.outcome_of(id(0, 1)).is_some());
        assert!(table.outcome_of(id(1, 1)).is_none());
        the_digest_is_kept(table);
    }
}
