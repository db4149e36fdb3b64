//! Time: one queue of everything that is going to happen, and a clock for each host that may be wrong.
//!
//! The [`Pump`] is the heart of the simulated world. Deliveries of the network and sleeps of the
//! nodes wait in one heap, ordered by true time and then by the order in which they were scheduled.
//! One task sleeps until the earliest, so the runtime below holds a single timer.
//!
//! A host's monotonic clock is a piecewise-linear function of true time: a new rate or a forward jump
//! starts a new piece. Its wall clock is the monotonic one plus an offset that may change either way, in steps and as
//! [`Bend`]s, functions of true time.
//! A sleep names a deadline on the host's monotonic clock; when the clock changes, the pending sleeps
//! of that host are mapped to true time anew.
//!
//! Left out: clocks that tick coarsely, and a monotonic clock that goes back (no kernel lets it).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use driftline::env::{Clock, Instant};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use madsim::time::TimeHandle;

use crate::bend::Bend;
use crate::net::{self, Net};
use crate::record::Happening;
use crate::trace::{Event, Trace, WORLD};

/// One life of a host: from its boot to its end. Everything a life was given (files, sockets, timers)
/// ends with it, whoever still holds it.
///
/// This is what keeps the dead dead: the runtime below drops the tasks of a killed node some time
/// after the kill, and their destructors may well write to a file that a new life has opened.
#[derive(Debug)]
pub struct Life {
    /// The host.
    pub host: u32,
    /// The how-manieth life of the host, from 1.
    pub number: u32,
    alive: AtomicBool,
}

impl Life {
    /// A life that begins now.
    pub fn new(host: u32, number: u32) -> Arc<Life> {
        Arc::new(Life { host, number, alive: AtomicBool::new(true) })
    }

    /// Whether it lasts.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Ends it. The caller also tells the pump, the network and the disk.
    pub fn end(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }
}

/// The rate of a clock that is right, in millionths.
pub const TRUE_RATE: u64 = 1_000_000;

/// The fastest and the slowest a simulated clock may run, in millionths. Beyond, rounding would show.
const RATES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000;

/// So many sleeps at one moment are a task that loops without ever waiting: no time passes for it, so
/// without this limit the run would never end.
const SPINNING: u32 = 100_000;

/// What wall clocks count from: the simulation starts in early 2027.
const WALL_EPOCH_NS: i128 = 1_800_000_000 * 1_000_000_000;

/// A host's clock: where it stood at some true time, and how fast it has run since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HostClock {
    since_true: u64,
    since_own: u64,
    rate: u64,
    wall_offset: i128,
}

impl HostClock {
    const RIGHT: HostClock = HostClock { since_true: 0, since_own: 0, rate: TRUE_RATE, wall_offset: 0 };

    /// What the monotonic clock shows at `at` true time.
    fn own(&self, at: u64) -> u64 {
        // Most clocks are right, and the clock is read all the time: no division then.
        if self.rate == TRUE_RATE {
            return self.since_own.saturating_add(at.saturating_sub(self.since_true));
        }
        let elapsed = u128::from(at.saturating_sub(self.since_true));
        let own = u128::from(self.since_own) + elapsed * u128::from(self.rate) / u128::from(TRUE_RATE);
        u64::try_from(own).unwrap_or(u64::MAX)
    }

    /// The first true time at which the monotonic clock shows `own` or more.
    fn true_time(&self, own: u64) -> u64 {
        if self.rate == TRUE_RATE {
            return self.since_true.saturating_add(own.saturating_sub(self.since_own));
        }
        let ahead = u128::from(own.saturating_sub(self.since_own));
        let wait = (ahead * u128::from(TRUE_RATE)).div_ceil(u128::from(self.rate));
        u64::try_from(u128::from(self.since_true) + wait).unwrap_or(u64::MAX)
    }

    fn wall(&self, at: u64, bent: i128) -> Duration {
        let ns = (WALL_EPOCH_NS + i128::from(self.own(at)) + self.wall_offset + bent).max(0);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

/// What waits in the heap. Small, because a heap moves its elements about: what is large lies in an [`Inner`]'s table.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Queued {
    at: u64,
    /// Breaks ties in the order of scheduling. No two are the same, so nothing below is ever compared.
    sequence: u64,
    due: Due,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A sleep, by its place, if it is still as it was when this was queued.
    Timer { place: u32, id: u64, generation: u32 },
    /// Something of the network's, by its place.
    Network(u32),
}

/// What has come due.
enum Happens {
    Timer(Timer),
    Network(net::Event),
}

struct Timer {
    /// Its number, in the order of making. A place is used again; a number is not.
    id: u64,
    host: u32,
    life: u32,
    deadline: u64,
    generation: u32,
    waker: Waker,
}

/// Values by place; a free place is taken again.
struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, value: T) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(value);
            return place;
        }
        self.places.push(Some(value));
        // More than four thousand million would not fit into memory.
        (self.places.len() - 1) as u32
    }

    fn get(&self, place: u32) -> Option<&T> {
        self.places.get(place as usize)?.as_ref()
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    fn remove(&mut self, place: u32) -> Option<T> {
        let value = self.places.get_mut(place as usize)?.take();
        if value.is_some() {
            self.free.push(place);
        }
        value
    }

    /// The places of those that `wanted` wants.
    fn places_of(&self, wanted: impl Fn(&T) -> bool) -> Vec<u32> {
        let filled = (0..).zip(&self.places);
        filled.filter(|(_, value)| value.as_ref().is_some_and(&wanted)).map(|(place, _)| place).collect()
    }
}

/// The queue of what is going to happen, and the clocks it is read by.
pub struct Pump {
    time: TimeHandle,
    trace: Arc<Trace>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    queue: BinaryHeap<Reverse<Queued>>,
    sequence: u64,
    timers: Slab<Timer>,
    events: Slab<net::Event>,
    next_timer: u64,
    /// How many sleeps began at the present moment, to the nanosecond.
    at_once: (u64, u32),
    clocks: BTreeMap<u32, HostClock>,
    /// By host and number: since when a wall clock is bent, and how.
    bends: BTreeMap<(u32, u64), (u64, Bend)>,
    next_bend: u64,
    /// The pump's own task, and the time it is going to wake at by itself.
    waker: Option<Waker>,
    armed: u64,
}

impl Inner {
    fn clock(&self, host: u32) -> HostClock {
        self.clocks.get(&host).copied().unwrap_or(HostClock::RIGHT)
    }

    /// What the wall clock of `host` shows at `at` true time.
    fn wall(&self, host: u32, at: u64) -> Duration {
        let bends = self.bends.range((host, 0)..=(host, u64::MAX));
        let bent: i128 = bends.map(|(_, (since, bend))| bend.offset_ns(at.saturating_sub(*since))).sum();
        self.clock(host).wall(at, bent)
    }

    /// Queues something; gives back whom to wake if the pump sleeps for too long now.
    fn push(&mut self, at: u64, due: Due) -> Option<Waker> {
        self.sequence += 1;
        self.queue.push(Reverse(Queued { at, sequence: self.sequence, due }));
        if at < self.armed { self.waker.clone() } else { None }
    }

    fn is_stale(&self, due: Due) -> bool {
        match due {
            Due::Timer { place, id, generation } => {
                self.timers.get(place).is_none_or(|timer| timer.id != id || timer.generation != generation)
            }
            Due::Network(_) => false,
        }
    }

    /// Takes a timer out, if it is still there.
    fn take_timer(&mut self, place: u32, id: u64) -> Option<Timer> {
        self.timers.get(place).filter(|timer| timer.id == id)?;
        self.timers.remove(place)
    }

    /// The timers of a host, or of one life of it, in the order of their making.
    fn timers_of(&self, host: u32, life: Option<u32>) -> Vec<u32> {
        let its = |timer: &Timer| timer.host == host && life.is_none_or(|life| timer.life == life);
        let mut places = self.timers.places_of(its);
        places.sort_unstable_by_key(|place| self.timers.get(*place).map(|timer| timer.id));
        places
    }
}

enum Next {
    Now(Happens),
    At(u64),
    Nothing,
}

impl Pump {
    /// An empty queue. Must be called inside the simulation's runtime, whose time becomes true time.
    pub fn new(trace: Arc<Trace>) -> Arc<Pump> {
        Arc::new(Pump { time: TimeHandle::current(), trace, inner: Mutex::default() })
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True time, in nanoseconds since the start of the simulation.
    pub fn now(&self) -> u64 {
        let elapsed = self.time.elapsed();
        elapsed.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(elapsed.subsec_nanos()))
    }

    /// What the monotonic clock of `host` shows.
    pub fn own_time(&self, host: u32) -> u64 {
        self.locked().clock(host).own(self.now())
    }

    /// Adds an event of `host` (or [`WORLD`]) to the trace.
    pub fn record(&self, host: u32, event: Event) {
        let now = self.now();
        let own = if host == WORLD { 0 } else { self.locked().clock(host).own(now) };
        self.trace.record(now, host, own, event);
    }

    /// Adds an event told in words to the trace.
    pub fn note(&self, host: u32, verb: &'static str, text: impl Into<String>) {
        self.record(host, Event::Note { verb, text: text.into() });
    }

    /// Tells whoever records this run, and not the trace.
    pub fn tell(&self, host: u32, what: Happening<'_>) {
        self.trace.tell(self.now(), host, what);
    }

    /// Has the network handle `event` at true time `at`.
    pub fn schedule(&self, at: u64, event: net::Event) {
        let waker = {
            let inner = &mut *self.locked();
            let place = inner.events.insert(event);
            inner.push(at, Due::Network(place))
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Lets the queue's events happen, for ever. Exactly one task runs this.
    pub async fn run(self: Arc<Pump>, net: Arc<Net>) {
        // The times at which the runtime is going to wake this task. An alarm cannot be taken back, so
        // a new one is set only when none of the old rings in time.
        let mut alarms: BTreeSet<u64> = BTreeSet::new();
        poll_fn(move |cx| {
            loop {
                match self.next(cx) {
                    Next::Now(due) => self.happen(due, &net),
                    Next::Nothing => return Poll::Pending,
                    Next::At(at) => {
                        let now = self.now();
                        while alarms.first().is_some_and(|alarm| *alarm <= now) {
                            alarms.pop_first();
                        }
                        if alarms.first().is_some_and(|alarm| *alarm <= at) {
                            return Poll::Pending;
                        }
                        let mut sleep = self.time.sleep(Duration::ZERO);
                        // A fresh sleep lasts a millisecond at least; one that was reset is exact.
                        let deadline = self.time.now_instant() + Duration::from_nanos(at.saturating_sub(now));
                        Pin::new(&mut sleep).reset(deadline);
                        if sleep.poll_unpin(cx).is_pending() {
                            alarms.insert(at);
                            return Poll::Pending;
                        }
                    }
                }
            }
        })
        .await
    }

    /// Takes the next event that is due, or says when to look again.
    fn next(&self, cx: &mut Context<'_>) -> Next {
        let now = self.now();
        let inner = &mut *self.locked();
        loop {
            let Some(Reverse(first)) = inner.queue.peek() else {
                inner.armed = u64::MAX;
                inner.waker = Some(cx.waker().clone());
                return Next::Nothing;
            };
            let (at, due) = (first.at, first.due);
            let stale = inner.is_stale(due);
            if !stale && at > now {
                inner.armed = at;
                inner.waker = Some(cx.waker().clone());
                return Next::At(at);
            }
            inner.queue.pop();
            if stale {
                continue;
            }
            let happens = match due {
                Due::Timer { place, .. } => inner.timers.remove(place).map(Happens::Timer),
                Due::Network(place) => inner.events.remove(place).map(Happens::Network),
            };
            if let Some(happens) = happens {
                // While events are being handled, the pump looks at the queue again anyway.
                inner.armed = 0;
                return Next::Now(happens);
            }
        }
    }

    fn happen(&self, happens: Happens, net: &Net) {
        match happens {
            Happens::Network(event) => net.handle(event),
            Happens::Timer(timer) => {
                self.record(timer.host, Event::Timer { id: timer.id });
                timer.waker.wake();
            }
        }
    }

    /// A sleep by the clock of `life`'s host. Never completes once the life is over.
    pub fn sleep_until(self: &Arc<Pump>, life: Arc<Life>, deadline: Instant) -> Sleep {
        Sleep { pump: self.clone(), life, deadline, timer: None }
    }

    /// Forgets the sleeps of a life that is over.
    pub fn forget(&self, life: &Life) {
        let forgotten: Vec<Timer> = {
            let inner = &mut *self.locked();
            let places = inner.timers_of(life.host, Some(life.number));
            places.into_iter().filter_map(|place| inner.timers.remove(place)).collect()
        };
        // The wakers go after the lock: dropping one may drop a task.
        drop(forgotten);
    }

    /// From now on the monotonic clock of `host` runs at `rate` millionths of true time.
    pub fn set_rate(&self, host: u32, rate: u64) {
        let rate = rate.clamp(*RATES.start(), *RATES.end());
        self.change_clock(host, |clock| clock.rate = rate);
    }

    /// The monotonic clock of `host` jumps ahead, and the wall clock with it: a virtual machine was
    /// suspended for so long.
    pub fn jump(&self, host: u32, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.change_clock(host, |clock| clock.since_own = clock.since_own.saturating_add(by));
    }

    /// Moves the wall clock of `host` by `nanos`, either way.
    pub fn step_wall(&self, host: u32, nanos: i64) {
        self.change_clock(host, |clock| clock.wall_offset += i128::from(nanos));
    }

    /// Bends the wall clock of `host` from now on; the number ends it.
    pub fn bend_wall(&self, host: u32, bend: Bend) -> u64 {
        let now = self.now();
        let inner = &mut *self.locked();
        inner.next_bend += 1;
        inner.bends.insert((host, inner.next_bend), (now, bend));
        inner.next_bend
    }

    /// Ends a bend.
    pub fn straighten_wall(&self, host: u32, number: u64) {
        self.locked().bends.remove(&(host, number));
    }

    /// Ends all bends of all wall clocks.
    pub fn straighten_walls(&self) {
        self.locked().bends.clear();
    }

    fn change_clock(&self, host: u32, change: impl FnOnce(&mut HostClock)) {
        let now = self.now();
        let waker = {
            let inner = &mut *self.locked();
            let old = inner.clock(host);
            let mut clock = HostClock { since_true: now, since_own: old.own(now), ..old };
            change(&mut clock);
            inner.clocks.insert(host, clock);
            let wall_ahead_ns = i64::try_from(clock.wall_offset).unwrap_or(i64::MAX);
            let (own_ns, rate_ppm) = (clock.own(now), clock.rate);
            self.trace.tell(now, host, Happening::Clock { own_ns, rate_ppm, wall_ahead_ns });
            let mut moved = Vec::new();
            for place in inner.timers_of(host, None) {
                let Some(timer) = inner.timers.get_mut(place) else { continue };
                timer.generation += 1;
                let due = Due::Timer { place, id: timer.id, generation: timer.generation };
                moved.push((clock.true_time(timer.deadline), due));
            }
            moved.into_iter().filter_map(|(at, due)| inner.push(at, due)).last()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A sleep by a host's own clock.
pub struct Sleep {
    pump: Arc<Pump>,
    life: Arc<Life>,
    deadline: Instant,
    /// Its timer's place and number.
    timer: Option<(u32, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.life.is_alive() {
            return Poll::Pending;
        }
        let this = &mut *self;
        let now = this.pump.now();
        let wake_pump = {
            let inner = &mut *this.pump.locked();
            let clock = inner.clock(this.life.host);
            if clock.own(now) >= this.deadline.0 {
                if let Some((place, id)) = this.timer.take() {
                    drop(inner.take_timer(place, id));
                }
                return Poll::Ready(());
            }
            let known =
                this.timer.and_then(|(place, id)| inner.timers.get_mut(place).filter(|timer| timer.id == id));
            match known {
                Some(timer) => {
                    timer.waker.clone_from(cx.waker());
                    None
                }
                None => {
                    inner.at_once =
                        if inner.at_once.0 == now { (now, inner.at_once.1 + 1) } else { (now, 1) };
                    assert!(
                        inner.at_once.1 < SPINNING,
                        "a task of n{} spins: {SPINNING} sleeps began while no time passed",
                        this.life.host
                    );
                    inner.next_timer += 1;
                    let id = inner.next_timer;
                    let timer = Timer {
                        id,
                        host: this.life.host,
                        life: this.life.number,
                        deadline: this.deadline.0,
                        generation: 0,
                        waker: cx.waker().clone(),
                    };
                    let place = inner.timers.insert(timer);
                    this.timer = Some((place, id));
                    let due = Due::Timer { place, id, generation: 0 };
                    inner.push(clock.true_time(this.deadline.0), due)
                }
            }
        };
        if let Some(waker) = wake_pump {
            waker.wake();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((place, id)) = self.timer {
            let timer = self.pump.locked().take_timer(place, id);
            drop(timer);
        }
    }
}

/// The [`Clock`] of one life of a host.
pub struct SimClock {
    pump: Arc<Pump>,
    life: Arc<Life>,
}

impl SimClock {
    /// The clock that `life` reads.
    pub fn new(pump: Arc<Pump>, life: Arc<Life>) -> SimClock {
        SimClock { pump, life }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant(self.pump.own_time(self.life.host))
    }

    fn wall(&self) -> Duration {
        let now = self.pump.now();
        self.pump.locked().wall(self.life.host, now)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.pump.sleep_until(self.life.clone(), deadline).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_maps_to_the_first_true_time_at_which_it_is_reached() {
        for rate in [571_000, 999_500, 1_000_000, 1_000_500, 1_429_000] {
            let clock = HostClock { since_true: 1_000, since_own: 77, rate, wall_offset: 0 };
            for own in [77, 78, 1_000_003, 987_654_321_987] {
                let at = clock.true_time(own);
                assert!(clock.own(at) >= own, "rate {rate}: {own} is not reached at {at}");
                assert!(at == 1_000 || clock.own(at - 1) < own, "rate {rate}: {own} is reached before {at}");
            }
        }
    }
}
