//! Counts out what replicated state cannot, since it sees no clock: the times to live of sessions and tokens, and the
//! delays on keys whose sessions ended. A duty of the leader.
//!
//! A time is counted from the moment at which the leader sees its beginning in its state, on the leader's
//! own monotonic clock, and when it is over the leader says so by a command. A new leader counts
//! everything from its own beginning. So what is counted is never longer than what has passed, and the
//! promise is a lower bound: a session lives at least its TTL after it was last renewed, a key is locked by
//! nobody for at least its lock-delay. A session's TTL is counted twice before it expires, as in Consul, which
//! leaves room for a leader whose clock is fast and for a renewal that is slow to arrive.
//!
//! A token's time to live is counted once, and anew by a new leader too: it may live longer by as much as was counted
//! before each change of leaders, and never shorter. A restore does not begin it anew, as far as this leader has counted:
//! the token is known again by when it was made.
//!
//! No wait counts for more than it asked for: after a suspended machine or a stalled process the clock has
//! jumped, and what jumps with it must not be sessions.
//!
//! Whether a command is sent by a leader that was deposed meanwhile, late, or twice, is of no importance:
//! it names the renewal (or the delay) that it was counted from, and another since makes it void.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;

use super::Server;
use crate::mutant;
use crate::state::{AclCommand, Command, SessionCommand, State};

/// Longest wait before the state is looked at again: how much later than seen a time may begin.
const STEP: Duration = Duration::from_millis(250);
/// How often all of it is looked through, should the state have been replaced by another.
const LOOK_THROUGH_EVERY: Duration = Duration::from_secs(10);
/// What was not accepted is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest lock-delay; a longer one is cut to this (Consul's `MaxLockDelay`).
const MAX_LOCK_DELAY: Duration = Duration::from_secs(60);
/// Commands under way at once.
const AT_ONCE: usize = 64;
/// Delays lifted by one command.
const LIFTED_AT_ONCE: usize = 256;

/// What has a time that is being counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A session, by its id.
    Session(String),
    /// A lock-delay, by its key.
    Delay(String),
    /// A token, by its accessor and when it was made.
    Token(String, u64),
}

/// A time that is being counted, and the log index of its beginning: another beginning since makes it void.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counted {
    what: What,
    since: u64,
}

/// All times that are being counted, and how far.
#[derive(Debug, Default)]
struct Countdown {
    /// Time counted so far. Not the clock's: see the module's head.
    counted: Duration,
    /// Beginnings up to this log index have been seen.
    seen: u64,
    looked_through: Duration,
    /// When the time of each is over, and since when it counts.
    ends: BTreeMap<What, (Duration, u64)>,
    by_end: BTreeSet<(Duration, What)>,
}

impl Countdown {
    /// Takes in what began since the last look.
    fn look(&mut self, state: &State) {
        // Mutant L05: a new leader counts only what begins while it leads.
        if mutant::is("L05") && self.counted.is_zero() {
            self.seen = state.applied();
        }
        if self.counted.saturating_sub(self.looked_through) >= LOOK_THROUGH_EVERY && !mutant::is("L05") {
            self.looked_through = self.counted;
            self.seen = 0;
        }
        // Mutant L03: a new leader takes the delays that it finds for over.
        let forgets = mutant::is("L03") && self.counted.is_zero();
        for session in state.sessions().renewed_after(self.seen) {
            let time = Duration::from_nanos(session.made.ttl_ns).saturating_mul(2);
            self.begin(What::Session(session.made.id.clone()), session.renewed, time);
        }
        for (key, delay) in state.sessions().delayed_after(self.seen) {
            let time = Duration::from_nanos(delay.for_ns).min(MAX_LOCK_DELAY);
            let time = if forgets { Duration::ZERO } else { time };
            self.begin(What::Delay(key.clone()), delay.since, time);
        }
        for token in state.acl().mortal_after(self.seen) {
            let time = Duration::from_nanos(token.it.ttl_ns);
            let what = What::Token(token.it.accessor.clone(), token.it.created_ms);
            self.begin(what, token.create_index, time);
        }
        self.seen = state.applied();
    }

    /// Begins to count, unless that is what is being counted. An earlier beginning of the same is forgotten, but of a token,
    /// which begins once: it has come back out of a snapshot.
    fn begin(&mut self, what: What, since: u64, time: Duration) {
        match self.ends.get(&what) {
            Some((_, counted)) if *counted == since => return,
            Some((_, counted)) if matches!(what, What::Token(..)) && *counted < since => {
                self.ends.entry(what).and_modify(|(_, counted)| *counted = since);
                return;
            }
            Some((end, _)) => drop(self.by_end.remove(&(*end, what.clone()))),
            None => {}
        }
        let end = self.counted.saturating_add(time);
        self.by_end.insert((end, what.clone()));
        self.ends.insert(what, (end, since));
    }

    /// So much time has passed, for all we can be sure of.
    fn count(&mut self, time: Duration) {
        self.counted = self.counted.saturating_add(time);
    }

    /// How long until the next time is over.
    fn next(&self) -> Option<Duration> {
        self.by_end.first().map(|(end, _)| end.saturating_sub(self.counted))
    }

    /// What is over and still in force. It is given out again after a while, unless it is done by then.
    fn over(&mut self, state: &State) -> Vec<Counted> {
        let mut over = Vec::new();
        while let Some((end, _)) = self.by_end.first()
            && *end <= self.counted
            && let Some((_, what)) = self.by_end.pop_first()
        {
            let Some((_, since)) = self.ends.remove(&what) else { continue };
            let begun = match &what {
                What::Session(id) => state.sessions().get(id).map(|session| session.renewed),
                What::Delay(key) => state.sessions().delay_of(key).map(|delay| delay.since),
                What::Token(accessor, _) => state.acl().token(accessor).map(|token| token.create_index),
            };
            if begun == Some(since) {
                over.push(Counted { what, since });
            }
        }
        for Counted { what, since } in &over {
            self.begin(what.clone(), *since, AGAIN);
        }
        over
    }
}

/// The commands that say so.
fn commands(over: Vec<Counted>) -> Vec<Command> {
    let (mut commands, mut delays) = (Vec::new(), Vec::new());
    for Counted { what, since } in over {
        match what {
            What::Session(id) => {
                commands.push(Command::Session(SessionCommand::Expire { id, renewed: since }));
            }
            What::Token(accessor, _) => {
                commands.push(Command::Acl(AclCommand::Expire { accessor, created: since }));
            }
            What::Delay(key) => delays.push((key, since)),
        }
    }
    let lifts = delays.chunks(LIFTED_AT_ONCE);
    commands
        .extend(lifts.map(|delays| Command::Session(SessionCommand::LiftDelays { delays: delays.to_vec() })));
    commands
}

impl Server {
    /// Counts for as long as this server leads, and begins anew whenever it leads again.
    pub(super) async fn count_sessions(self) {
        let env = self.env();
        let mut countdown = Countdown::default();
        loop {
            if !self.raft().is_leader() {
                countdown = Countdown::default();
                // Whichever comes first; both are followed by another look.
                let _ = env.timeout(AGAIN, self.raft().leadership_changed(false)).await;
                continue;
            }
            let over = self.raft().state().read(|state| {
                countdown.look(state);
                countdown.over(state)
            });
            for commands in commands(over).chunks(AT_ONCE) {
                let written = join_all(commands.iter().map(|command| self.write(command.clone()))).await;
                for error in written.into_iter().filter_map(Result::err) {
                    tracing::debug!(%error, "what is over could not be ended yet");
                }
            }
            let wait = countdown.next().unwrap_or(STEP).clamp(Duration::from_millis(1), STEP);
            let (began, wall) = (env.now(), env.wall());
            env.sleep(wait).await;
            // Mutant L01: the wall clock tells how much time has passed.
            countdown.count(if mutant::is("L01") {
                env.wall().saturating_sub(wall)
            } else {
                env.now().since(began).min(wait)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::acl::NewToken;
    use crate::state::restore::RestoreCommand;
    use crate::state::session::NewSession;
    use crate::state::{KvCommand, Request, RequestId};

    const TTL: Duration = Duration::from_secs(10);

    fn apply(state: &mut State, command: Command) {
        let index = state.applied() + 1;
        let id = RequestId { origin: 1, number: index };
        assert!(state.apply(index, &Request { id, done_below: 0, command }).is_done());
    }

    fn session(state: &mut State, command: SessionCommand) {
        apply(state, Command::Session(command));
    }

    fn with_session() -> State {
        let mut state = State::default();
        let made = NewSession {
            id: "s".to_owned(),
            ttl_ns: TTL.as_nanos() as u64,
            lock_delay_ns: TTL.as_nanos() as u64,
            ..NewSession::default()
        };
        session(&mut state, SessionCommand::Create(made));
        state
    }

    fn expire(renewed: u64) -> Counted {
        Counted { what: What::Session("s".to_owned()), since: renewed }
    }

    #[test]
    fn a_session_is_over_after_twice_its_time_and_a_renewal_begins_it_anew() {
        let mut state = with_session();
        let mut countdown = Countdown::default();
        countdown.look(&state);
        countdown.count(TTL * 3 / 2);
        assert!(countdown.over(&state).is_empty());
        session(&mut state, SessionCommand::Renew { id: "s".to_owned() });
        countdown.look(&state);
        countdown.count(TTL);
        assert!(countdown.over(&state).is_empty(), "the first time is over, and void");
        countdown.count(TTL);
        assert_eq!(countdown.over(&state), [expire(2)]);
        // Not done yet: said again, after a while.
        assert!(countdown.over(&state).is_empty());
        countdown.count(AGAIN);
        assert_eq!(countdown.over(&state), [expire(2)]);
        session(&mut state, SessionCommand::Expire { id: "s".to_owned(), renewed: 2 });
        countdown.count(AGAIN);
        assert!(countdown.over(&state).is_empty());
        assert_eq!(countdown.next(), None);
    }

    #[test]
    fn of_a_session_only_the_last_renewal_is_counted() {
        let mut state = with_session();
        let mut countdown = Countdown::default();
        for _ in 0..100 {
            session(&mut state, SessionCommand::Renew { id: "s".to_owned() });
            countdown.look(&state);
            countdown.count(Duration::from_millis(10));
        }
        assert_eq!((countdown.ends.len(), countdown.by_end.len()), (1, 1));
        countdown.count(TTL * 2);
        assert_eq!(countdown.over(&state), [expire(state.applied())]);
    }

    #[test]
    fn a_new_leader_counts_from_its_own_beginning() {
        let mut state = with_session();
        apply(
            &mut state,
            Command::Kv(KvCommand::Acquire {
                key: "k".to_owned(),
                value: [].into(),
                flags: 0,
                session: "s".to_owned(),
            }),
        );
        session(&mut state, SessionCommand::Destroy { id: "s".to_owned() });
        let mut countdown = Countdown::default();
        countdown.look(&state);
        assert_eq!(countdown.next(), Some(TTL));
        countdown.count(TTL);
        let over = countdown.over(&state);
        assert_eq!(over, [Counted { what: What::Delay("k".to_owned()), since: 3 }]);
        for command in commands(over) {
            apply(&mut state, command);
        }
        assert_eq!(state.sessions().delay_of("k"), None);
    }

    #[test]
    fn a_token_is_over_after_its_time() {
        let mut state = State::default();
        let token =
            NewToken { accessor: "t".to_owned(), ttl_ns: TTL.as_nanos() as u64, ..NewToken::default() };
        apply(&mut state, Command::Acl(AclCommand::PutToken { token, new: true }));
        let mut countdown = Countdown::default();
        countdown.look(&state);
        countdown.count(TTL - Duration::from_millis(1));
        assert!(countdown.over(&state).is_empty());
        countdown.count(Duration::from_millis(1));
        for command in commands(countdown.over(&state)) {
            apply(&mut state, command);
        }
        assert!(state.acl().token("t").is_none());
        countdown.count(AGAIN);
        assert!(countdown.over(&state).is_empty() && countdown.next().is_none());
    }

    #[test]
    fn a_restore_does_not_begin_a_tokens_time_anew() {
        let mut state = State::default();
        let token = |created_ms: u64| {
            let ttl_ns = TTL.as_nanos() as u64;
            NewToken { accessor: "t".to_owned(), ttl_ns, created_ms, ..NewToken::default() }
        };
        let put =
            |created_ms: u64| Command::Acl(AclCommand::PutToken { token: token(created_ms), new: true });
        apply(&mut state, put(1));
        let snapshot = state.to_snapshot();
        let mut countdown = Countdown::default();
        countdown.look(&state);
        countdown.count(TTL - AGAIN);
        let bytes = snapshot.len() as u64;
        let data = snapshot.as_slice().into();
        for step in [
            RestoreCommand::Begin { id: 1, bytes },
            RestoreCommand::Piece { id: 1, offset: 0, data },
            RestoreCommand::Commit { id: 1 },
        ] {
            apply(&mut state, Command::Restore(step));
        }
        countdown.look(&state);
        assert_eq!(countdown.next(), Some(AGAIN));
        // Another one with its accessor is another one.
        apply(&mut state, Command::Acl(AclCommand::DeleteToken { accessor: "t".to_owned() }));
        apply(&mut state, put(2));
        countdown.look(&state);
        countdown.count(AGAIN);
        assert!(countdown.over(&state).is_empty());
        assert_eq!(countdown.next(), Some(TTL - AGAIN));
        countdown.count(TTL);
        for command in commands(countdown.over(&state)) {
            apply(&mut state, command);
        }
        assert!(state.acl().token("t").is_none());
    }

    #[test]
    fn what_another_state_holds_is_found_in_time() {
        let mut countdown = Countdown { seen: 1_000, ..Countdown::default() };
        let state = with_session();
        countdown.look(&state);
        assert_eq!(countdown.next(), None);
        countdown.count(LOOK_THROUGH_EVERY);
        countdown.look(&state);
        assert_eq!(countdown.next(), Some(TTL * 2));
    }
}
