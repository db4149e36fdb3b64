//! A slow processor: each step of a task costs time, and steps wait for one another.
//!
//! A host has one processor. While it is slow, a task that is ready to run gets the next free slot and runs when that
//! comes; the slots follow one another at the cost of a step. So a busy node is slow in everything at once, its timers
//! and its answers too, as an overloaded machine is. While it is not slow, a step costs nothing here.
//!
//! Left out: steps that take longer than others, several processors, and priorities.

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
    cost_ns: AtomicU64,
    /// When the last slot that was given away is over.
    free_ns: Mutex<u64>,
}

impl Processor {
    /// From now on a step costs so much; 0 is as fast as ever.
    pub fn set_cost(&self, ns: u64) {
        self.cost_ns.store(ns, Ordering::Relaxed);
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
        processor.set_cost(10);
        let slots = [100, 100, 101, 150, 155].map(|now| processor.slot(now));
        assert_eq!(slots, [None, Some(110), Some(120), None, Some(160)]);
        processor.set_cost(0);
        assert_eq!(processor.slot(156), None);
    }
}
