//! A slow processor: each step of a task costs time, and steps wait for one another.
//!
//! A host has one processor. While it is slow, a task that is ready to run gets the next free slot and runs when that
//! comes; the slots follow one another at the cost of a step. So a busy node is slow in everything at once, its timers
//! and its answers too, as an overloaded machine is. While it is not slow, a step costs nothing here.
//!
//! Left out: steps that take longer than others, several processors, and priorities.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use driftline::env::Instant;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::clock::{Life, Pump, Sleep};

/// The processor of a host.
#[derive(Debug, Default)]
pub struct Processor {
    /// What a step costs now: as much as the worst of `costs`.
    cost_ns: AtomicU64,
    /// What makes a step cost so much, by number.
    costs: Mutex<BTreeMap<u64, u64>>,
    /// When the last slot that was given away is over.
    free_ns: Mutex<u64>,
}

impl Processor {
    /// From now on a step costs so much, or more if something else makes it cost more; the number ends it.
    pub fn slow_down(&self, ns: u64) -> u64 {
        self.change(|costs| {
            let number = costs.last_key_value().map_or(1, |(last, _)| last + 1);
            costs.insert(number, ns);
            number
        })
    }

    /// Ends what made it slow.
    pub fn speed_up(&self, number: u64) {
        self.change(|costs| costs.remove(&number));
    }

    /// From now on it is as fast as ever.
    pub fn heal(&self) {
        self.change(BTreeMap::clear);
    }

    fn change<R>(&self, change: impl FnOnce(&mut BTreeMap<u64, u64>) -> R) -> R {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut costs);
        self.cost_ns.store(costs.values().copied().max().unwrap_or(0), Ordering::Relaxed);
        changed
    }

    /// When the next step may begin, if not at once. It is taken.
    fn slot(&self, now: u64) -> Option<u64> {
        let cost = self.cost_ns.load(Ordering::Relaxed);
        if cost == 0 {
            return None;
        }
        let mut free = self.free_ns.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = now.max(*free);
        *free = begins.saturating_add(cost);
        (begins > now).then_some(begins)
    }
}

/// A task of a host, run as its processor allows.
pub struct Paced {
    /// The task.
    pub task: BoxFuture<'static, ()>,
    /// The host's processor.
    pub processor: Arc<Processor>,
    /// Where it waits for a slot.
    pub pump: Arc<Pump>,
    /// A life whose clock is right.
    pub true_life: Arc<Life>,
    /// The slot it waits for.
    pub slot: Option<Sleep>,
}

impl Future for Paced {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.slot.is_none()
            && let Some(at) = self.processor.slot(self.pump.now())
        {
            self.slot = Some(self.pump.sleep_until(self.true_life.clone(), Instant(at)));
        }
        if let Some(slot) = &mut self.slot {
            if slot.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
            self.slot = None;
        }
        self.task.poll_unpin(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_one_another_and_a_fast_processor_makes_nobody_wait() {
        let processor = Processor::default();
        assert_eq!(processor.slot(5), None);
        let slow = processor.slow_down(10);
        let slots = [100, 100, 101, 150, 155].map(|now| processor.slot(now));
        assert_eq!(slots, [None, Some(110), Some(120), None, Some(160)]);
        processor.speed_up(slow);
        assert_eq!(processor.slot(156), None);
    }

    #[test]
    fn the_end_of_what_is_shorter_leaves_what_is_longer_in_force() {
        let processor = Processor::default();
        let (long, short) = (processor.slow_down(10), processor.slow_down(30));
        assert_eq!([0, 1].map(|now| processor.slot(now)), [None, Some(30)]);
        processor.speed_up(short);
        assert_eq!([100, 101].map(|now| processor.slot(now)), [None, Some(110)]);
        processor.speed_up(long);
        assert_eq!(processor.slot(102), None);
    }
}
