//! Sessions, and what ends with them.
//!
//! A session is a promise that somebody is still there. It may hold locks on keys, and when it ends, by
//! whatever cause, its locks end with it: the keys are released or deleted, as its behaviour says, and
//! for its *lock-delay* nobody else can lock them, so that a holder that has not heard yet can finish.
//!
//! State sees no clock, so it cannot tell when a time is over. It only keeps what a clock is needed for,
//! each with the log index at which it began, and is told by a command when somebody's clock has counted
//! it out (`agent::sessions` does that):
//!
//! * a session with a TTL keeps the index of its last renewal. [`SessionCommand::Expire`] names the renewal
//!   whose time is over, and does nothing if there was another since. So it does not matter who decided
//!   that a session has expired, or how long ago: a decision that a renewal has overtaken is void. A
//!   renewal is a command too; one that was answered is on a majority's disks, whoever leads.
//! * a delayed key keeps the index at which its delay began, until [`SessionCommand::LiftDelays`].
//!
//! What is refused, and in which words, is Consul's.

use serde::{Deserialize, Serialize};

use super::map::{Map, Set};
use super::tables::{Marks, Table};

/// A change to sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionCommand {
    /// Makes a session. Its id was drawn before, by whoever proposes it.
    Create(NewSession),
    /// Ends a session; one that is not there is ended already.
    Destroy {
        /// Its id.
        id: String,
    },
    /// Says that the session's owner is still there.
    Renew {
        /// The session's id.
        id: String,
    },
    /// Ends a session whose time to live is over.
    Expire {
        /// Its id.
        id: String,
        /// The renewal (or creation) that the time was counted from. Another since: nothing happens.
        renewed: u64,
    },
    /// Ends lock-delays whose time is over.
    LiftDelays {
        /// The keys, each with the index at which its delay began. Another delay since: nothing happens.
        delays: Vec<(String, u64)>,
    },
}

/// What a session is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// A UUID.
    pub id: String,
    /// A label; need not be unique.
    pub name: String,
    /// The node it lives on, and dies with.
    pub node: String,
    /// For how long its keys cannot be locked after it ended, in nanoseconds.
    pub lock_delay_ns: u64,
    /// What becomes of its keys.
    pub behavior: Behavior,
    /// Its time to live as the client wrote it; empty if it has none.
    pub ttl: String,
    /// The same in nanoseconds; 0 if it has none.
    pub ttl_ns: u64,
    /// Checks of its node: when one is critical, the session ends.
    pub node_checks: Vec<String>,
    /// Checks of services on its node, likewise.
    pub service_checks: Vec<ServiceCheck>,
}

/// A check of a service, as clients name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCheck {
    /// The check's id.
    pub id: String,
    /// Always empty here; kept as it came.
    pub namespace: String,
}

/// What becomes of a session's keys when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behavior {
    /// They are no longer locked.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What it was made with.
    pub made: NewSession,
    /// Log index of its creation. Nothing of it that readers see changes after.
    pub create_index: u64,
    /// Log index of its creation or last renewal. Readers do not see it.
    pub renewed: u64,
}

/// A key that cannot be locked for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delay {
    /// The log index at which the delay began.
    pub since: u64,
    /// How long it is, in nanoseconds.
    pub for_ns: u64,
}

/// All sessions, and the keys that are delayed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    sessions: Table<String, Session>,
    by_node: Marks<String>,
    delays: Table<String, Delay>,
    /// Sessions with a TTL by their last renewal: derived, so that timers find what is new to them.
    #[serde(skip)]
    by_renewal: Map<u64, String>,
    /// Delays by their beginning: derived, as above. One session's end delays many keys.
    #[serde(skip)]
    by_since: Set<(u64, String)>,
    /// Nodes with their sessions: derived.
    #[serde(skip)]
    on_nodes: Set<(String, String)>,
}

impl Sessions {
    /// Makes a session. False when there is one of this id.
    pub(super) fn create(&mut self, index: u64, made: &NewSession) -> bool {
        if self.sessions.get(&made.id).is_some() {
            return false;
        }
        let session = Session { made: made.clone(), create_index: index, renewed: index };
        self.count_from(index, &session);
        self.by_node.touch(index, &made.node, true);
        self.on_nodes.insert((made.node.clone(), made.id.clone()));
        self.sessions.set(index, made.id.clone(), session);
        true
    }

    /// Notes that a session was renewed. False when there is none.
    pub(super) fn renew(&mut self, index: u64, id: &str) -> bool {
        let id = id.to_owned();
        let Some(mut session) = self.sessions.get(&id).cloned() else { return false };
        self.by_renewal.remove(&session.renewed);
        session.renewed = index;
        self.count_from(index, &session);
        self.sessions.set_quietly(id, session);
        true
    }

    fn count_from(&mut self, index: u64, session: &Session) {
        if session.made.ttl_ns > 0 {
            self.by_renewal.insert(index, session.made.id.clone());
        }
    }

    /// Takes a session out. What it held is the caller's to see to.
    pub(super) fn remove(&mut self, index: u64, id: &str) -> Option<Session> {
        let session = self.sessions.remove(index, &id.to_owned())?;
        self.by_renewal.remove(&session.renewed);
        self.on_nodes.remove(&(session.made.node.clone(), session.made.id.clone()));
        let others = self.on_node(&session.made.node).next().is_some();
        self.by_node.touch(index, &session.made.node, others);
        Some(session)
    }

    /// As if every session had ended at log index `index`. Delays in force go on.
    pub(super) fn all_ended_at(&self, index: u64) -> Sessions {
        Sessions {
            sessions: Table::of_rows(index, []),
            by_node: Marks::all_at(index),
            delays: self.delays.clone(),
            by_since: self.by_since.clone(),
            ..Sessions::default()
        }
    }

    /// From now on the key cannot be locked. A delay that is in force already begins anew, and is no shorter
    /// than it was.
    pub(super) fn delay(&mut self, index: u64, key: &str, for_ns: u64) {
        let key = key.to_owned();
        let before = self.delays.get(&key).copied();
        if let Some(before) = before {
            self.by_since.remove(&(before.since, key.clone()));
        }
        let for_ns = before.map_or(for_ns, |before| before.for_ns.max(for_ns));
        self.by_since.insert((index, key.clone()));
        self.delays.set(index, key, Delay { since: index, for_ns });
    }

    /// From now on the key can be locked, unless another delay began since.
    pub(super) fn lift(&mut self, key: &str, since: u64) {
        let key = key.to_owned();
        if self.delays.get(&key).is_some_and(|delay| delay.since == since) {
            self.by_since.remove(&(since, key.clone()));
            // Nobody blocks on delays: no tombstone is wanted.
            self.delays.forget(&key);
        }
    }

    /// A session.
    pub fn get(&self, id: &str) -> Option<&Session> {
        self.sessions.get(&id.to_owned())
    }

    /// All sessions in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().map(|(_, session)| session)
    }

    /// A node's sessions in the order of their ids.
    pub fn on_node<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Session> {
        let from = (node.to_owned(), String::new());
        let here = self.on_nodes.range(from..).take_while(move |(found, _)| found == node);
        here.filter_map(|(_, id)| self.sessions.get(id))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The delay on a key, if there is one.
    pub fn delay_of(&self, key: &str) -> Option<Delay> {
        self.delays.get(&key.to_owned()).copied()
    }

    /// The index at which a session came or went; 0 if never.
    pub fn index_of(&self, id: &str) -> u64 {
        let id = id.to_owned();
        self.sessions.get(&id).map_or_else(|| self.sessions.removed_at(&id), |session| session.create_index)
    }

    /// The index at which a node's sessions last changed.
    pub fn node_index(&self, node: &str) -> u64 {
        self.by_node.index_of(&node.to_owned())
    }

    /// The index at which any session last came or went.
    pub fn table_index(&self) -> u64 {
        self.sessions.newest()
    }

    /// Sessions with a TTL that were made or renewed after this index.
    pub fn renewed_after(&self, index: u64) -> impl Iterator<Item = &Session> {
        let renewed = self.by_renewal.range(index.saturating_add(1)..);
        renewed.filter_map(|(_, id)| self.sessions.get(id))
    }

    /// Delays that began after this index.
    pub fn delayed_after(&self, index: u64) -> impl Iterator<Item = (&String, Delay)> {
        let since = self.by_since.range((index.saturating_add(1), String::new())..);
        since.filter_map(|(_, key)| Some((key, *self.delays.get(key)?)))
    }

    /// A hash of it all.
    pub(super) fn digest(&self) -> u64 {
        super::tables::part(5, &(self.sessions.digest(), self.by_node.digest(), self.delays.digest()))
    }

    /// Computes anew what is derived, after loading.
    pub(super) fn rebuild(&mut self) {
        self.sessions.rebuild_digest();
        self.by_node.rebuild_digest();
        self.delays.rebuild_digest();
        let sessions = self.sessions.iter().filter(|(_, session)| session.made.ttl_ns > 0);
        self.by_renewal = sessions.map(|(id, session)| (session.renewed, id.clone())).collect();
        let on_nodes = self.iter().map(|session| (session.made.node.clone(), session.made.id.clone()));
        self.on_nodes = on_nodes.collect();
        self.by_since = self.delays.iter().map(|(key, delay)| (delay.since, key.clone())).collect();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::kv::tests::any_session;
    use super::super::{Command, KvCommand, Outcome, Request, RequestId, State};
    use super::*;
    use proptest::prelude::*;

    pub fn any_command() -> impl Strategy<Value = SessionCommand> {
        let key = prop::sample::select(vec!["", "a", "a/", "a/b", "b"]);
        let node = prop::sample::select(vec!["n1", "n2"]);
        let made = (any_session(), node, 0u64..3, any::<bool>(), 0u64..3).prop_map(
            |(id, node, lock_delay_ns, delete, ttl_ns)| NewSession {
                id,
                node: node.into(),
                lock_delay_ns,
                behavior: if delete { Behavior::Delete } else { Behavior::Release },
                ttl_ns,
                node_checks: vec!["c".into()],
                ..NewSession::default()
            },
        );
        prop_oneof![
            4 => made.prop_map(SessionCommand::Create),
            1 => any_session().prop_map(|id| SessionCommand::Destroy { id }),
            2 => any_session().prop_map(|id| SessionCommand::Renew { id }),
            2 => (any_session(), 0u64..60).prop_map(|(id, renewed)| SessionCommand::Expire { id, renewed }),
            1 => prop::collection::vec((key, 0u64..60), 0..3).prop_map(|delays| {
                let delays = delays.into_iter().map(|(key, since)| (key.to_owned(), since)).collect();
                SessionCommand::LiftDelays { delays }
            }),
        ]
    }

    fn apply(state: &mut State, command: Command) -> Outcome {
        let index = state.applied() + 1;
        let id = RequestId { origin: 1, number: index };
        state.apply(index, &Request { id, done_below: 0, command })
    }

    fn session(state: &mut State, command: SessionCommand) -> Outcome {
        apply(state, Command::Session(command))
    }

    fn create(state: &mut State, id: &str, behavior: Behavior) {
        let made = NewSession {
            id: id.into(),
            node: "n".into(),
            lock_delay_ns: 9,
            ttl_ns: 5,
            behavior,
            node_checks: vec!["c".into()],
            ..NewSession::default()
        };
        assert!(session(state, SessionCommand::Create(made)).is_done());
    }

    fn acquire(state: &mut State, key: &str, session: &str) -> Outcome {
        let (key, session) = (key.to_owned(), session.to_owned());
        apply(state, Command::Kv(KvCommand::Acquire { key, value: (*b"v").into(), flags: 0, session }))
    }

    fn release(state: &mut State, key: &str, session: &str) -> Outcome {
        let (key, session) = (key.to_owned(), session.to_owned());
        apply(state, Command::Kv(KvCommand::Release { key, value: (*b"w").into(), flags: 0, session }))
    }

    #[test]
    fn a_lock_has_one_holder_and_counts_how_often_it_was_taken() {
        let mut state = State::default();
        create(&mut state, "s1", Behavior::Release);
        create(&mut state, "s2", Behavior::Release);
        assert!(acquire(&mut state, "k", "s1").is_done());
        assert!(!acquire(&mut state, "k", "s2").is_done());
        assert!(!release(&mut state, "k", "s2").is_done());
        // The holder again: no new lock, and since nothing changed, nobody is woken.
        assert!(acquire(&mut state, "k", "s1").is_done());
        let entry = state.kv().get("k").unwrap();
        assert_eq!((entry.lock_index, entry.modify_index, entry.session.as_deref()), (1, 3, Some("s1")));
        assert!(release(&mut state, "k", "s1").is_done());
        // Who gives a lock back leaves no delay.
        assert!(acquire(&mut state, "k", "s2").is_done());
        assert_eq!(state.kv().get("k").unwrap().lock_index, 2);
        let unknown = acquire(&mut state, "k", "s3");
        assert_eq!(unknown.to_string(), "refused at 9: invalid session \"s3\"");
    }

    #[test]
    fn the_end_of_a_session_releases_or_deletes_and_delays_its_keys() {
        for behavior in [Behavior::Release, Behavior::Delete] {
            let mut state = State::default();
            create(&mut state, "s1", behavior);
            create(&mut state, "s2", behavior);
            acquire(&mut state, "a", "s1");
            acquire(&mut state, "b", "s1");
            session(&mut state, SessionCommand::Destroy { id: "s1".into() });
            let left = state.kv().get("a").map(|entry| (entry.session.clone(), entry.modify_index));
            let released = (behavior == Behavior::Release).then_some((None, 5));
            assert_eq!(left, released);
            assert_eq!(state.kv().key_index("a"), 5);
            assert!(!acquire(&mut state, "a", "s2").is_done(), "delayed");
            session(
                &mut state,
                SessionCommand::LiftDelays { delays: vec![("a".into(), 4), ("b".into(), 5)] },
            );
            assert!(!acquire(&mut state, "a", "s2").is_done(), "another delay was lifted");
            assert!(acquire(&mut state, "b", "s2").is_done());
            session(&mut state, SessionCommand::LiftDelays { delays: vec![("a".into(), 5)] });
            assert!(acquire(&mut state, "a", "s2").is_done());
            assert_eq!(state.kv().held_by("s2").count(), 2);
        }
    }

    #[test]
    fn a_decision_that_a_renewal_has_overtaken_is_void() {
        let mut state = State::default();
        create(&mut state, "s", Behavior::Release);
        let renewed = session(&mut state, SessionCommand::Renew { id: "s".into() });
        assert!(renewed.is_done());
        assert!(!session(&mut state, SessionCommand::Expire { id: "s".into(), renewed: 1 }).is_done());
        assert_eq!(state.sessions().get("s").unwrap().renewed, 2);
        assert!(session(&mut state, SessionCommand::Expire { id: "s".into(), renewed: 2 }).is_done());
        let late = session(&mut state, SessionCommand::Renew { id: "s".into() });
        assert_eq!(late.to_string(), "refused at 5: Session id 's' not found");
    }

    #[test]
    fn a_renewal_wakes_nobody_and_an_end_wakes_those_it_concerns() {
        let mut state = State::default();
        create(&mut state, "s", Behavior::Release);
        session(&mut state, SessionCommand::Renew { id: "s".into() });
        let sessions = state.sessions();
        assert_eq!((sessions.index_of("s"), sessions.node_index("n"), sessions.table_index()), (1, 1, 1));
        state.invalidate_sessions_on(3, "n", "other");
        assert_eq!(state.sessions().len(), 1);
        state.invalidate_sessions_on(4, "n", "c");
        let sessions = state.sessions();
        assert_eq!((sessions.index_of("s"), sessions.node_index("n"), sessions.table_index()), (4, 4, 4));
        create(&mut state, "t", Behavior::Release);
        state.invalidate_sessions_of(9, "n");
        assert!(state.sessions().is_empty());
    }
}
