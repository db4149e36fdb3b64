//! What the loop has to do at a time, in order of time. Of two things at one time the one that was set first comes first.

use std::collections::BinaryHeap;
use std::time::Duration;

use foca::Timer;

use super::suspicion::Case;
use crate::env::Instant;
use crate::gossip::identity::Identity;

/// What happens at a time.
pub(super) enum Alarm {
    Foca(Timer<Identity>),
    /// Look whether this node's suspicion has lasted long enough.
    Suspicion(u64),
    /// A juror's time is up: see [`judge`](super::Driver::judge).
    Verdict(Box<Case>),
    Gossip,
    /// The same once more, soon: there is something new.
    Quick,
    PushPull,
    Reconnect,
    Reap,
    /// Streams may be accepted again; there is nothing to do but to look.
    Accept,
    /// Contradict the orders to leave.
    Refute,
    /// The departure has been announced for long enough.
    LeaveCluster,
    /// Spread the departure; so many rounds are left.
    Drain(u32),
}

impl Alarm {
    fn is_detector(&self) -> bool {
        matches!(self, Alarm::Foca(_) | Alarm::Suspicion(_) | Alarm::Verdict(_))
    }
}

struct Scheduled {
    at: Instant,
    number: u64,
    alarm: Alarm,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    /// The heap gives the largest, which is to be the earliest.
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// All that is to happen.
#[derive(Default)]
pub(super) struct Alarms {
    heap: BinaryHeap<Scheduled>,
    number: u64,
}

impl Alarms {
    pub(super) fn set(&mut self, at: Instant, alarm: Alarm) {
        self.number += 1;
        self.heap.push(Scheduled { at, number: self.number, alarm });
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|scheduled| scheduled.at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Alarm> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|scheduled| scheduled.alarm)
    }

    /// When the failure detector is to act next.
    pub(super) fn next_of_detector(&self) -> Option<Instant> {
        let detector = self.heap.iter().filter(|scheduled| scheduled.alarm.is_detector());
        detector.map(|scheduled| scheduled.at).min()
    }

    /// Puts the failure detector off, in unchanged order.
    pub(super) fn delay_detector(&mut self, by: Duration) {
        let mut all = std::mem::take(&mut self.heap).into_vec();
        for scheduled in &mut all {
            if scheduled.alarm.is_detector() {
                scheduled.at += by;
            }
        }
        self.heap = all.into();
    }
}
