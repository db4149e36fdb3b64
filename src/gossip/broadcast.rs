//! A queue of messages that are each sent a limited number of times.
//!
//! A rumour needs about `log n` rounds to reach everybody, so a member sends each message that often and
//! forgets it (SWIM, section 4.1). What was sent least goes first, so new messages are not starved by old
//! ones; among equals the longer goes first, because short ones fill the gaps, then the newer.
//!
//! What it leaves out: delivery is likely, not certain. Push/pull repairs what the rumours missed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

/// How many messages a queue holds. When full, the message that was sent most often makes room: it is the
/// one that most members have.
pub const QUEUE_LIMIT: usize = 4_096;

/// Called once when a message leaves the queue: sent often enough, replaced, or dropped.
pub type Finished = Box<dyn FnOnce() + Send>;

/// Sorted so that the first is to be sent first: (times sent, longest, newest).
type Place = (u32, Reverse<usize>, Reverse<u64>);

/// See the module's description.
#[derive(Default)]
pub struct TransmitLimitedQueue {
    items: BTreeMap<Place, Item>,
    names: BTreeMap<String, Place>,
    next: u64,
}

struct Item {
    name: Option<String>,
    payload: Bytes,
    finished: Option<Finished>,
}

impl TransmitLimitedQueue {
    /// Adds a message. One of the same name is replaced: it is out of date.
    pub fn push(&mut self, name: Option<String>, payload: Bytes, finished: Option<Finished>) {
        if let Some(place) = name.as_ref().and_then(|name| self.names.get(name)).copied() {
            self.remove(place);
        }
        if self.items.len() >= QUEUE_LIMIT
            && let Some(place) = self.items.last_key_value().map(|(place, _)| *place)
        {
            self.remove(place);
        }
        self.next += 1;
        let place = (0, Reverse(payload.len()), Reverse(self.next));
        if let Some(name) = &name {
            self.names.insert(name.clone(), place);
        }
        self.items.insert(place, Item { name, payload, finished });
    }

    /// Messages whose lengths and `overhead` each stay within `limit`, each of them counted as sent once. A
    /// message that has been sent `transmits` times leaves the queue.
    pub fn take(&mut self, overhead: usize, limit: usize, transmits: u32) -> Vec<Bytes> {
        let mut left = limit;
        let mut chosen = Vec::new();
        for (place, item) in &self.items {
            if left <= overhead {
                break;
            }
            let cost = item.payload.len().saturating_add(overhead);
            if cost <= left {
                left -= cost;
                chosen.push(*place);
            }
        }
        let mut payloads = Vec::with_capacity(chosen.len());
        for place in chosen {
            let Some(payload) = self.items.get(&place).map(|item| item.payload.clone()) else { continue };
            payloads.push(payload);
            if place.0 + 1 >= transmits {
                self.remove(place);
            } else if let Some(item) = self.items.remove(&place) {
                let place = (place.0 + 1, place.1, place.2);
                if let Some(name) = &item.name {
                    self.names.insert(name.clone(), place);
                }
                self.items.insert(place, item);
            }
        }
        payloads
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn remove(&mut self, place: Place) {
        let Some(item) = self.items.remove(&place) else { return };
        if let Some(name) = &item.name {
            self.names.remove(name);
        }
        if let Some(finished) = item.finished {
            finished();
        }
    }
}

impl fmt::Debug for TransmitLimitedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransmitLimitedQueue").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn queue(payloads: &[&'static str]) -> TransmitLimitedQueue {
        let mut queue = TransmitLimitedQueue::default();
        for payload in payloads {
            queue.push(None, Bytes::from_static(payload.as_bytes()), None);
        }
        queue
    }

    #[test]
    fn what_was_sent_least_goes_first() {
        let mut queue = queue(&["aa"]);
        assert_eq!(queue.take(0, 2, 9), ["aa"]);
        queue.push(None, Bytes::from_static(b"bb"), None);
        assert_eq!(queue.take(0, 2, 9), ["bb"]);
        // Both were sent once; the newer goes first.
        assert_eq!(queue.take(0, 2, 9), ["bb"]);
        assert_eq!(queue.take(0, 2, 9), ["aa"]);
    }

    #[test]
    fn a_newer_message_of_the_same_name_replaces_the_older() {
        let finished = Arc::new(AtomicUsize::new(0));
        let mut queue = TransmitLimitedQueue::default();
        let count = finished.clone();
        queue.push(
            Some("x".into()),
            Bytes::from_static(b"old"),
            Some(Box::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            })),
        );
        assert_eq!(queue.take(0, 100, 9), ["old"]);
        queue.push(Some("x".into()), Bytes::from_static(b"new"), None);
        assert_eq!(finished.load(Ordering::Relaxed), 1);
        assert_eq!(queue.take(0, 100, 9), ["new"]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_short_message_fills_the_gap_that_a_long_one_leaves() {
        let mut queue = queue(&["long message", "another long", "s"]);
        assert_eq!(queue.take(1, 15, 9), ["another long", "s"]);
    }

    #[test]
    fn a_full_queue_drops_what_was_sent_most() {
        let mut queue = queue(&["most"]);
        queue.take(0, 100, 9);
        for _ in 0..QUEUE_LIMIT {
            queue.push(None, Bytes::from_static(b"m"), None);
        }
        assert_eq!(queue.len(), QUEUE_LIMIT);
        assert!(!queue.take(0, usize::MAX, 9).contains(&Bytes::from_static(b"most")));
    }

    proptest! {
        #[test]
        fn limits_are_kept_and_every_message_is_sent_exactly_so_often(
            lengths in prop::collection::vec(1usize..60, 0..40),
            overhead in 0usize..5,
            limit in 70usize..200,
            transmits in 1u32..6,
        ) {
            let mut queue = TransmitLimitedQueue::default();
            let finished = Arc::new(AtomicUsize::new(0));
            for (i, length) in lengths.iter().enumerate() {
                let mut payload = vec![0; *length + 2];
                payload[0] = i as u8;
                let count = finished.clone();
                queue.push(None, payload.into(), Some(Box::new(move || {
                    count.fetch_add(1, Ordering::Relaxed);
                })));
            }
            let mut sent = vec![0u32; lengths.len()];
            while !queue.is_empty() {
                let batch = queue.take(overhead, limit, transmits);
                prop_assert!(!batch.is_empty());
                prop_assert!(batch.iter().map(|m| m.len() + overhead).sum::<usize>() <= limit);
                for message in batch {
                    sent[message[0] as usize] += 1;
                }
            }
            prop_assert!(sent.iter().all(|n| *n == transmits));
            prop_assert_eq!(finished.load(Ordering::Relaxed), lengths.len());
        }
    }
}
