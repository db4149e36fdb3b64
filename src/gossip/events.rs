//! User events: small named messages to every node, each delivered once.
//!
//! An event travels as a [`Delegate`] message. Nodes order events by a Lamport clock: an event carries the
//! clock of the node that fired it, and whoever sees it moves its own clock past it. The clock also bounds
//! memory: what is more than [`WINDOW`] behind it is dropped unseen, so only that much must be remembered to
//! tell a repeated event from a new one.
//!
//! A node that missed every datagram of an event gets it with the next push/pull, which ships the recent
//! events. A node that has just asked to join takes only the clock: what happened before it came is not
//! replayed.
//!
//! What is deliberately absent: total order (two nodes may list concurrent events differently) and
//! durability (a restarted node starts with an empty ring).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::broadcast::TransmitLimitedQueue;
use super::delegate::Delegate;
use super::timing::Timing;
use crate::env::{Env, Observed, Rng};
use crate::mutant;

/// The largest event, as encoded.
pub const EVENT_LIMIT: usize = 512;
/// How many events a node lists.
pub const RING: usize = 256;
/// How far behind the clock an event may be.
pub const WINDOW: u64 = 512;
/// How many events are remembered within the window; a flood beyond it narrows the window.
const SEEN_LIMIT: usize = 16_384;
/// How far ahead of the clock an event may be: no honest node gets there, and one that lies could end the
/// clock otherwise.
const LEAP_LIMIT: u64 = 1 << 40;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEvent {
    /// In the form of a UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its content.
    pub payload: Bytes,
    /// Which nodes should take it; opaque here.
    pub node_filter: String,
    /// Nodes with which services should take it; opaque here.
    pub service_filter: String,
    /// Nodes with which service tags should take it; opaque here.
    pub tag_filter: String,
    /// Version of this form.
    pub version: u32,
    /// Lamport time.
    pub ltime: u64,
}

/// What to fire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEvent {
    /// See [`UserEvent::name`].
    pub name: String,
    /// See [`UserEvent::payload`].
    pub payload: Bytes,
    /// See [`UserEvent::node_filter`].
    pub node_filter: String,
    /// See [`UserEvent::service_filter`].
    pub service_filter: String,
    /// See [`UserEvent::tag_filter`].
    pub tag_filter: String,
}

/// Why an event was not fired. Nothing of it has happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Make it smaller.
    #[error("the event has {size} bytes encoded, the limit is {EVENT_LIMIT}")]
    TooLarge {
        /// Its encoded size.
        size: usize,
    },
    /// Give it a name.
    #[error("an event needs a name")]
    NoName,
}

type Filter = Box<dyn Fn(&UserEvent) -> bool + Send + Sync>;
type Meta = Box<dyn Fn() -> Bytes + Send + Sync>;

/// The events of one node. Cheap to clone; all clones are the same. Give one to
/// [`Gossip::start`](super::Gossip::start) as its [`Delegate`] and keep another.
#[derive(Clone)]
pub struct UserEvents {
    shared: Arc<Shared>,
}

struct Shared {
    env: Env,
    meta: Meta,
    accepts: Filter,
    changed: Arc<Notify>,
    index: watch::Sender<u64>,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    clock: u64,
    /// Events before this are not taken.
    floor: u64,
    seen: BTreeMap<u64, BTreeSet<(String, String)>>,
    seen_count: usize,
    /// What push/pull ships: all recent events, accepted or not.
    recent: VecDeque<UserEvent>,
    /// What this node lists.
    ring: VecDeque<UserEvent>,
    queue: TransmitLimitedQueue,
    transmits: u32,
    retransmit_mult: u32,
}

impl UserEvents {
    /// Events of this `env`. `meta` gives the bytes for [`Delegate::node_meta`].
    pub fn new(env: &Env, meta: impl Fn() -> Bytes + Send + Sync + 'static) -> UserEvents {
        UserEvents::with_filter(env, Timing::default().retransmit_mult, meta, |_| true)
    }

    /// The same, but this node lists only events that `accepts` accepts. The others are passed on all the
    /// same, each as often as `retransmit_mult` says ([`Timing::retransmit_mult`]).
    pub fn with_filter(
        env: &Env,
        retransmit_mult: u32,
        meta: impl Fn() -> Bytes + Send + Sync + 'static,
        accepts: impl Fn(&UserEvent) -> bool + Send + Sync + 'static,
    ) -> UserEvents {
        let timing = Timing { retransmit_mult, ..Timing::default() };
        let state = State {
            rng: env.rng("user events"),
            clock: 1,
            floor: 0,
            seen: BTreeMap::new(),
            seen_count: 0,
            recent: VecDeque::new(),
            ring: VecDeque::new(),
            queue: TransmitLimitedQueue::default(),
            transmits: timing.retransmits(1),
            retransmit_mult: timing.retransmit_mult,
        };
        UserEvents {
            shared: Arc::new(Shared {
                env: env.clone(),
                meta: Box::new(meta),
                accepts: Box::new(accepts),
                changed: Arc::new(Notify::new()),
                index: watch::Sender::new(1),
                state: Mutex::new(state),
            }),
        }
    }

    /// Sends an event to every node, this one included, and returns it as sent.
    ///
    /// # Errors
    /// [`EventError`]; nothing was sent.
    pub fn fire(&self, event: NewEvent) -> Result<UserEvent, EventError> {
        if event.name.is_empty() {
            return Err(EventError::NoName);
        }
        let (event, bytes) = {
            let mut state = self.lock();
            let event = UserEvent {
                id: uuid(&mut state.rng),
                name: event.name,
                payload: event.payload,
                node_filter: event.node_filter,
                service_filter: event.service_filter,
                tag_filter: event.tag_filter,
                version: 1,
                ltime: state.clock,
            };
            let bytes = postcard::to_stdvec(&event).unwrap_or_default();
            if bytes.len() > EVENT_LIMIT {
                return Err(EventError::TooLarge { size: bytes.len() });
            }
            (event, bytes)
        };
        self.take_in(event.clone(), bytes.into());
        Ok(event)
    }

    /// The listed events in the order of their Lamport times, of one name or all; and the index to wait on, see
    /// [`UserEvents::subscribe`]. 1 when there are none.
    pub fn list(&self, name: Option<&str>) -> (u64, Vec<UserEvent>) {
        self.list_since(0, |event| name.is_none_or(|name| event.name == name))
    }

    /// The same of the events that `keep` keeps, for somebody who has seen what came up to the event with index `seen`.
    /// What came later is after that event, and that one is the last of what was seen: Consul's clients take for new what is
    /// listed after the last index that they got. Both parts are in the order of their Lamport times.
    pub fn list_since(&self, seen: u64, keep: impl Fn(&UserEvent) -> bool) -> (u64, Vec<UserEvent>) {
        let mut events: Vec<UserEvent> =
            self.lock().ring.iter().filter(|event| keep(event)).cloned().collect();
        // The last to arrive: what a waiter has not seen may be older than what it has.
        let last = events.last().map_or(1, |event| index(&event.id));
        let mark = events.iter().position(|event| index(&event.id) == seen);
        let (known, new) = events.split_at_mut(mark.map_or(0, |mark| mark + 1));
        let known = &mut known[..mark.unwrap_or(0)];
        // Mutant G25: as they came.
        if !mutant::is("G25") {
            known.sort_by_key(|event| event.ltime);
            new.sort_by_key(|event| event.ltime);
        }
        (last, events)
    }

    /// The index of the last event listed: changes with every event, but does not grow. A waiter compares
    /// for difference.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.index.subscribe()
    }

    /// The Lamport clock: the time of the next event fired here.
    pub fn clock(&self) -> u64 {
        self.lock().clock
    }

    /// How many events wait to be sent.
    pub fn queue_len(&self) -> usize {
        self.lock().queue.len()
    }

    /// Takes an event in unless it is known or too old; passes it on and lists it. Whether it was new.
    fn take_in(&self, event: UserEvent, bytes: Bytes) -> bool {
        {
            let mut state = self.lock();
            if !state.is_new(&event) {
                self.shared.env.reachable("an event that is known or too old is dropped");
                return false;
            }
            state.queue.push(None, bytes, None);
            push_bounded(&mut state.recent, event.clone());
        }
        self.shared.changed.notify_one();
        // The program's filter is called without the lock: it may list events.
        if !(self.shared.accepts)(&event) {
            return true;
        }
        if !push_bounded(&mut self.lock().ring, event.clone()) {
            return true;
        }
        let index = index(&event.id);
        self.shared.env.observe(Observed::UserEvent { name: event.name, id: event.id, ltime: event.ltime });
        // Mutant G28: who waits for events is not woken.
        if !mutant::is("G28") {
            self.shared.index.send_replace(index);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether an event was not seen before; from now on it was.
    fn is_new(&mut self, event: &UserEvent) -> bool {
        if event.ltime < self.floor || event.ltime.saturating_add(WINDOW) < self.clock {
            return false;
        }
        if event.ltime > self.clock.saturating_add(LEAP_LIMIT) {
            return false;
        }
        // Mutant G20: when the clock moves on, what was seen before is forgotten.
        if mutant::is("G20") && event.ltime >= self.clock {
            self.seen.clear();
            self.seen_count = 0;
        }
        self.witness(event.ltime);
        // Mutant G27: two events of one name and time are taken for one.
        let id = if mutant::is("G27") { String::new() } else { event.id.clone() };
        if !self.seen.entry(event.ltime).or_default().insert((event.name.clone(), id)) {
            return false;
        }
        self.seen_count += 1;
        while let Some((&oldest, ids)) = self.seen.first_key_value() {
            if self.seen_count > SEEN_LIMIT {
                self.floor = self.floor.max(oldest.saturating_add(1));
            } else if oldest.saturating_add(WINDOW) >= self.clock {
                break;
            }
            self.seen_count -= ids.len();
            self.seen.remove(&oldest);
        }
        true
    }

    fn witness(&mut self, ltime: u64) {
        self.clock = self.clock.max(ltime.saturating_add(1));
    }
}

impl Delegate for UserEvents {
    fn node_meta(&self, _limit: usize) -> Bytes {
        (self.shared.meta)()
    }

    fn notify_msg(&self, message: &[u8]) {
        if message.len() > EVENT_LIMIT {
            return;
        }
        if let Ok(event) = postcard::from_bytes::<UserEvent>(message) {
            self.take_in(event, Bytes::copy_from_slice(message));
        }
    }

    fn get_broadcasts(&self, overhead: usize, limit: usize) -> Vec<Bytes> {
        let mut state = self.lock();
        let transmits = state.transmits;
        state.queue.take(overhead, limit, transmits)
    }

    fn local_state(&self, _join: bool) -> Bytes {
        let state = self.lock();
        postcard::to_stdvec(&(state.clock, &state.recent)).unwrap_or_default().into()
    }

    fn merge_remote_state(&self, bytes: &[u8], join: bool) {
        let Some((clock, events)) = recent(bytes) else { return };
        if join {
            let mut state = self.lock();
            if clock <= state.clock.saturating_add(LEAP_LIMIT) {
                // Mutant G26: the window is on the wrong side of the clock.
                let ahead = if mutant::is("G26") { WINDOW } else { 0 };
                state.floor = state.floor.max(clock.saturating_add(ahead));
                state.witness(clock.saturating_sub(1));
            }
        }
        for mut event in events {
            // Mutant G24: what comes by push/pull has lost its content.
            if mutant::is("G24") {
                event.payload = Bytes::new();
            }
            let Ok(bytes) = postcard::to_stdvec(&event) else { continue };
            // Mutant G21: what comes by push/pull is listed without asking whether it was before.
            if mutant::is("G21") && !join {
                let Shared { env, .. } = &*self.shared;
                push_bounded(&mut self.lock().ring, event.clone());
                env.observe(Observed::UserEvent { name: event.name, id: event.id, ltime: event.ltime });
                continue;
            }
            if bytes.len() <= EVENT_LIMIT {
                let new = self.take_in(event, bytes.into());
                self.shared
                    .env
                    .sometimes(new && !join, "an exchange of state brings an event that gossip had not");
            }
        }
        if !join {
            let mut state = self.lock();
            if clock <= state.clock.saturating_add(LEAP_LIMIT) {
                state.witness(clock.saturating_sub(1));
            }
        }
    }

    fn changed(&self) -> Option<Arc<Notify>> {
        Some(self.shared.changed.clone())
    }

    fn cluster_size(&self, live: usize) {
        let mut state = self.lock();
        state.transmits =
            Timing { retransmit_mult: state.retransmit_mult, ..Timing::default() }.retransmits(live);
    }

    fn stats(&self) -> BTreeMap<String, String> {
        let state = self.lock();
        BTreeMap::from([
            ("event_time".to_owned(), state.clock.to_string()),
            ("event_queue".to_owned(), state.queue.len().to_string()),
        ])
    }
}

impl fmt::Debug for UserEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserEvents").field("clock", &self.clock()).finish_non_exhaustive()
    }
}

/// What a node tells of its events: its clock and the recent ones, of which there are never more than [`RING`].
fn recent(state: &[u8]) -> Option<(u64, Vec<UserEvent>)> {
    let ((clock, count), mut rest) = postcard::take_from_bytes::<(u64, u64)>(state).ok()?;
    // In memory an event is many times as long as the shortest is here.
    if count > RING as u64 {
        return None;
    }
    let mut events = Vec::new();
    for _ in 0..count {
        let (event, after) = postcard::take_from_bytes(rest).ok()?;
        events.push(event);
        rest = after;
    }
    Some((clock, events))
}

/// When full, the oldest event by its Lamport time is dropped without a word, be it this one: gossip brings news out of order, and
/// the first to come need not be the first that was fired. Says whether the event was kept.
fn push_bounded(ring: &mut VecDeque<UserEvent>, event: UserEvent) -> bool {
    if ring.len() >= RING {
        let oldest = ring.iter().enumerate().min_by_key(|(_, known)| known.ltime);
        match oldest.map(|(at, known)| (at, known.ltime)) {
            Some((_, ltime)) if ltime > event.ltime => return false,
            Some((at, _)) => drop(ring.remove(at)),
            None => {}
        }
    }
    ring.push_back(event);
    true
}

fn uuid(rng: &mut Rng) -> String {
    let mut bits: u128 = rng.random();
    // Version 4, variant 1, as a random UUID has them.
    bits = bits & !(0xf << 76) | 0x4 << 76;
    bits = bits & !(0x3 << 62) | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// High and low half of the id, combined. Ids that are not UUIDs get a number of their own all the same.
fn index(id: &str) -> u64 {
    let hex: String = id.chars().filter(|c| *c != '-').collect();
    let index = match u128::from_str_radix(&hex, 16) {
        Ok(bits) => (bits >> 64) as u64 ^ bits as u64,
        Err(_) => u64::from(crc32fast::hash(id.as_bytes())),
    };
    // 0 and 1 mean "nothing yet" to those who wait.
    index.max(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::env_in_memory;
    use proptest::prelude::*;

    fn events(seed: u64) -> UserEvents {
        UserEvents::new(&env_in_memory(seed), Bytes::new)
    }

    #[test]
    fn of_more_events_than_there_is_room_for_the_newest_stay_in_whatever_order_they_come() {
        let far = events(1);
        let fired: Vec<UserEvent> = (0..300).map(|n| far.fire(named(&format!("e{n}"))).unwrap()).collect();
        let near = events(2);
        // The newer half comes first, as gossip that is in a hurry brings it.
        for event in fired[150..].iter().chain(&fired[..150]) {
            near.notify_msg(&postcard::to_stdvec(event).unwrap());
        }
        let names = |events: &UserEvents| events.list(None).1.into_iter().map(|e| e.name).collect::<Vec<_>>();
        assert_eq!(names(&near), (44..300).map(|n| format!("e{n}")).collect::<Vec<_>>());
        assert_eq!(names(&near), names(&far));
    }

    fn named(name: &str) -> NewEvent {
        NewEvent { name: name.into(), ..NewEvent::default() }
    }

    fn encoded(event: &UserEvent) -> Vec<u8> {
        postcard::to_stdvec(event).unwrap()
    }

    fn names(events: &UserEvents) -> Vec<String> {
        events.list(None).1.into_iter().map(|event| event.name).collect()
    }

    #[test]
    fn an_event_is_delivered_once_however_often_it_arrives() {
        let (a, b) = (events(1), events(2));
        let event = a.fire(named("deploy")).unwrap();
        b.notify_msg(&encoded(&event));
        b.notify_msg(&encoded(&event));
        b.merge_remote_state(&a.local_state(false), false);
        assert_eq!(b.list(None).1, [event]);
        assert_eq!(b.queue_len(), 1);
    }

    #[test]
    fn the_clock_moves_past_what_it_sees() {
        let (a, b) = (events(1), events(2));
        for _ in 0..5 {
            a.fire(named("x")).unwrap();
        }
        let last = a.fire(named("x")).unwrap();
        b.notify_msg(&encoded(&last));
        assert!(b.fire(named("y")).unwrap().ltime > last.ltime);
    }

    #[test]
    fn the_ring_keeps_the_newest_oldest_first() {
        let a = events(1);
        for i in 0..300 {
            a.fire(named(&format!("e{i}"))).unwrap();
        }
        let names = names(&a);
        assert_eq!((names.len(), names[0].as_str(), names[255].as_str()), (256, "e44", "e299"));
    }

    #[test]
    fn events_are_listed_by_their_times_and_each_arrival_has_an_index() {
        let (a, b) = (events(1), events(2));
        let (first, second) = (a.fire(named("first")).unwrap(), a.fire(named("second")).unwrap());
        b.notify_msg(&encoded(&second));
        let before = b.list(None).0;
        b.notify_msg(&encoded(&first));
        assert_eq!(names(&b), ["first", "second"]);
        assert_ne!(b.list(None).0, before);
    }

    /// As Consul's own client does: what is listed after the index that was got last is new.
    #[test]
    fn who_takes_for_new_what_is_listed_after_the_last_index_hears_everything_once() {
        let (a, b) = (events(1), events(2));
        let fired: Vec<UserEvent> = (0..6).map(|n| a.fire(named(&format!("e{n}"))).unwrap()).collect();
        let (mut mark, mut heard) = (0, Vec::new());
        for arrived in [&[1, 0][..], &[5, 3], &[4], &[2]] {
            arrived.iter().for_each(|at| b.notify_msg(&encoded(&fired[*at])));
            let (index, listed) = b.list_since(mark, |_| true);
            let new = listed.iter().position(|event| super::index(&event.id) == mark).map_or(0, |at| at + 1);
            heard.extend(listed[new..].iter().map(|event| event.name.clone()));
            mark = index;
        }
        // Those that came together are in their order.
        assert_eq!(heard, ["e0", "e1", "e3", "e5", "e4", "e2"]);
        assert_eq!(names(&b), ["e0", "e1", "e2", "e3", "e4", "e5"]);
    }

    #[test]
    fn what_is_far_behind_the_clock_is_dropped() {
        let (a, b) = (events(1), events(2));
        let old = a.fire(named("old")).unwrap();
        for _ in 0..WINDOW + 1 {
            b.fire(named("x")).unwrap();
        }
        b.notify_msg(&encoded(&old));
        assert!(!names(&b).contains(&"old".to_owned()));
    }

    #[test]
    fn a_node_that_joins_does_not_hear_of_the_past_but_hears_what_it_missed_later() {
        let (a, b) = (events(1), events(2));
        a.fire(named("past")).unwrap();
        b.merge_remote_state(&a.local_state(true), true);
        assert_eq!(names(&b), Vec::<String>::new());
        a.fire(named("missed")).unwrap();
        b.merge_remote_state(&a.local_state(false), false);
        assert_eq!(names(&b), ["missed"]);
    }

    #[test]
    fn the_index_differs_with_each_event_and_waiters_are_woken() {
        let a = events(1);
        assert_eq!(a.list(None), (1, vec![]));
        let mut waiter = a.subscribe();
        waiter.mark_unchanged();
        a.fire(named("x")).unwrap();
        assert!(waiter.has_changed().unwrap());
        let first = a.list(None).0;
        a.fire(named("y")).unwrap();
        assert_ne!(a.list(None).0, first);
        assert_eq!(a.list(Some("x")).0, first);
        assert_eq!(index("00000000-0000-0005-0000-000000000003"), 6);
    }

    #[test]
    fn an_event_that_is_too_large_is_refused() {
        let a = events(1);
        let error = a.fire(NewEvent { payload: vec![0; 512].into(), ..named("x") }).unwrap_err();
        assert!(matches!(error, EventError::TooLarge { size } if size > 512));
        assert_eq!(a.fire(named("")).unwrap_err(), EventError::NoName);
        assert!(a.list(None).1.is_empty());
    }

    #[test]
    fn an_event_for_others_is_passed_on_but_not_listed() {
        let env = env_in_memory(3);
        let b = UserEvents::with_filter(&env, 4, Bytes::new, |event| event.node_filter.is_empty());
        let a = events(1);
        let event = a.fire(NewEvent { node_filter: "^a$".into(), ..named("x") }).unwrap();
        b.notify_msg(&encoded(&event));
        assert!(b.list(None).1.is_empty());
        assert_eq!(b.get_broadcasts(0, 1_000).len(), 1);
    }

    #[test]
    fn a_uuid_looks_like_one() {
        let id = uuid(&mut env_in_memory(1).rng("x"));
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!("89ab".contains(&id[19..20]));
    }

    #[test]
    fn a_flood_is_forgotten_in_order() {
        let a = events(1);
        for i in 0..SEEN_LIMIT as u64 + 100 {
            let event = UserEvent {
                id: i.to_string(),
                name: "x".into(),
                payload: Bytes::new(),
                node_filter: String::new(),
                service_filter: String::new(),
                tag_filter: String::new(),
                version: 1,
                ltime: 100 + i / 200,
            };
            a.notify_msg(&encoded(&event));
        }
        assert!(a.lock().seen_count <= SEEN_LIMIT);
    }

    proptest! {
        #[test]
        fn merging_again_or_the_other_way_round_changes_nothing(x in 0usize..20, y in 0usize..20) {
            let (a, b) = (events(1), events(2));
            for i in 0..x { a.fire(named(&format!("a{i}"))).unwrap(); }
            for i in 0..y { b.fire(named(&format!("b{i}"))).unwrap(); }
            let (c, d) = (events(3), events(4));
            for state in [a.local_state(false), b.local_state(false), a.local_state(false)] {
                c.merge_remote_state(&state, false);
            }
            for state in [b.local_state(false), a.local_state(false)] {
                d.merge_remote_state(&state, false);
            }
            let sorted = |events: &UserEvents| { let mut n = names(events); n.sort(); n };
            prop_assert_eq!(sorted(&c), sorted(&d));
            prop_assert_eq!(c.clock(), d.clock());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let a = events(1);
            a.notify_msg(&bytes);
            a.merge_remote_state(&bytes, true);
        }
    }
}
