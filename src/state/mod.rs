//! The replicated state machine: `apply(index, request) -> outcome`, and nothing else.
//!
//! Every server applies the same requests at the same log indexes, so every server must end with the
//! same bytes. Hence the rules of this module: [`State::apply`] is pure and total (no error, no
//! panic, no await), all maps are ordered, and nothing here can see a clock, a random number or an
//! address. State never sees a clock, so replicas cannot disagree about time.
//!
//! * [`kv`]: keys and values with Consul's fields and index rules.
//! * [`session`]: sessions, which hold locks on keys.
//! * [`txn`]: several operations at once, all or none.
//! * [`catalog`]: nodes, their services, and the checks of both.
//! * [`coordinate`]: where nodes stand in the network, for those who want the nearest.
//! * [`acl`]: tokens, policies and roles.
//! * [`prepared`]: questions about services that were written down.
//! * [`autopilot`]: how the leader is to look after the servers.
//! * [`map`]: what all of it is kept in, so that a copy of the state costs next to nothing.
//! * [`tables`]: what the other families keep their rows in: indexes, tombstones, digests.
//! * [`query`]: reads as data, so that a node without a state can ask one that has it.
//! * [`dedup`]: which requests were already applied, so that a retry applies once.
//! * [`machine`]: a state machine of the embedding program, if it has one.
//! * [`snapshot`]: the state as bytes, and back.
//! * [`restore`]: the state replaced by what a snapshot holds, as a command.
//!
//! Where time matters (a session's time to live, a lock's delay) the state keeps the log index at which it
//! began; an agent counts, and says by a command whose time is over. [`session`] tells how that is safe.
//!
//! A new family of commands is: a file with its command and its tables; a variant of [`Command`] and a
//! line in [`State::apply`]; its reads in [`query`]; its tables in [`snapshot`], in [`State::digest`], in
//! `rebuild`, and in [`restore`]. A command that gives more than yes or no is [`Outcome::Returned`]. One that makes no
//! sense in the state it meets is [`Outcome::Refused`] with the words for the client: every server finds
//! the same, so it is an outcome and no error. What ends sessions calls [`State::invalidate_session`]. Variants are
//! only ever added at the end of an enum: their place is their number in the log, and old logs are read.
//!
//! [`State::digest`] is a hash of the whole state, kept up to date with every change; replicas that
//! agree on the index must agree on the digest, and the testbed compares them at every entry.

pub mod acl;
pub mod autopilot;
pub mod catalog;
pub mod coordinate;
pub mod dedup;
pub mod kv;
pub mod machine;
pub mod map;
pub mod prepared;
pub mod query;
pub mod restore;
pub mod session;
pub mod snapshot;
pub mod tables;
pub mod txn;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub use acl::{Acl, AclCommand};
pub use autopilot::{Autopilot, AutopilotCommand};
pub use catalog::{Catalog, CatalogCommand};
pub use coordinate::{NodePlace, Place, Places};
pub use dedup::RequestId;
pub use kv::{Entry, KvCommand, KvStore};
pub use machine::Machine;
pub use prepared::{PreparedCommand, PreparedQueries};
pub use query::{Asked, Found, Indexed, Query, Question};
pub use restore::RestoreCommand;
pub use session::{Session, SessionCommand, Sessions};
pub use snapshot::BadSnapshot;
pub use txn::{OpError, TxnOp, TxnResult};

use catalog::Loss;
use dedup::Dedup;
use machine::Slot;
use session::Behavior;

/// A command together with what makes it safe to retry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks, and which of its requests this is.
    pub id: RequestId,
    /// Every request of the same origin with a smaller number has its answer and will not be retried.
    pub done_below: u64,
    /// What to do.
    pub command: Command,
}

/// Everything that can be asked of the state machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A change to the key-value store.
    Kv(KvCommand),
    /// Nothing; for measuring, and as a barrier.
    Noop,
    /// A command for the embedding program's [`Machine`].
    Machine(Shared),
    /// A change to sessions.
    Session(SessionCommand),
    /// Several operations, all of them or none.
    Txn(Vec<TxnOp>),
    /// A change to the catalog.
    Catalog(CatalogCommand),
    /// Where nodes stand now.
    Coordinates(Vec<NodePlace>),
    /// A change to tokens, policies and roles.
    Acl(AclCommand),
    /// A step of a restore.
    Restore(RestoreCommand),
    /// A change of autopilot's configuration.
    Autopilot(AutopilotCommand),
    /// A change to prepared queries.
    Prepared(PreparedCommand),
}

impl Command {
    /// Roughly how many bytes it takes.
    pub fn size(&self) -> usize {
        match self {
            Command::Kv(
                KvCommand::Set { key, value, .. }
                | KvCommand::Acquire { key, value, .. }
                | KvCommand::Release { key, value, .. },
            ) => key.len() + value.len(),
            Command::Kv(KvCommand::Delete { key, .. }) => key.len(),
            Command::Kv(KvCommand::DeleteTree { prefix }) => prefix.len(),
            Command::Noop => 0,
            Command::Machine(command) => command.len(),
            Command::Session(SessionCommand::LiftDelays { delays }) => {
                delays.iter().map(|(key, _)| key.len() + 32).sum()
            }
            Command::Session(_) => 256,
            Command::Catalog(command) => command.weight(),
            Command::Coordinates(updates) => {
                updates.iter().map(|update| update.node.len() + update.segment.len() + 128).sum()
            }
            Command::Acl(command) => command.weight(),
            Command::Restore(command) => command.size(),
            Command::Autopilot(_) => 64,
            Command::Prepared(command) => command.size(),
            Command::Txn(ops) => ops.iter().map(|op| op.size() + 64).sum(),
        }
    }
}

/// What applying a request came to. Every replica computes the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, or found to be already so.
    Done {
        /// The log index at which it took effect.
        index: u64,
    },
    /// A condition (compare-and-set) did not hold; nothing changed.
    ConditionFailed {
        /// The log index at which the condition was judged.
        index: u64,
    },
    /// A late copy of a request whose origin already had its answer. Nothing changed, nobody waits.
    Stale,
    /// The [`Machine`] took the command.
    Answered {
        /// The log index at which it did.
        index: u64,
        /// What it said.
        answer: Shared,
    },
    /// The command makes no sense in the state it met. Nothing changed.
    Refused {
        /// The log index at which it was judged.
        index: u64,
        /// Why.
        refusal: Refusal,
    },
    /// Done, with something to tell.
    Returned {
        /// The log index at which it took effect.
        index: u64,
        /// What it found or left.
        value: Returned,
    },
}

impl Outcome {
    /// A rough size in memory, in bytes.
    pub fn weight(&self) -> usize {
        match self {
            Outcome::Answered { answer, .. } => answer.len(),
            Outcome::Returned { value: Returned::Txn(results), .. } => {
                results.iter().map(TxnResult::weight).sum()
            }
            // What they carry is bounded by what was asked.
            Outcome::Done { .. }
            | Outcome::ConditionFailed { .. }
            | Outcome::Stale
            | Outcome::Refused { .. }
            | Outcome::Returned { .. } => 0,
        }
    }
}

/// What a command gives back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Returned {
    /// A session, renewed.
    Session(Session),
    /// A transaction's results.
    Txn(Vec<TxnResult>),
    /// A policy, role or token, as it is now.
    Acl(Box<acl::Made>),
}

/// Why a command was refused. The text is for the client, in Consul's words where Consul has some; the
/// kind is for whoever chooses a status for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It names something that is not there.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts itself or the state.
    #[error("{0}")]
    Invalid(String),
    /// A transaction, some of whose operations failed.
    #[error("{} operations failed", .0.len())]
    Txn(Vec<OpError>),
    /// Whoever asks may not.
    #[error("{0}")]
    Denied(String),
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RequestId { origin, number } = self.id;
        write!(f, "{origin:016x}/{number} ")?;
        // Values can be long, and are the users' own: they stay out of logs.
        match &self.command {
            Command::Kv(KvCommand::Set { key, value, cas, .. }) => {
                write!(f, "set {key:?} to {} bytes", value.len())?;
                cas.map_or(Ok(()), |cas| write!(f, " if at {cas}"))
            }
            Command::Kv(KvCommand::Delete { key, cas }) => {
                write!(f, "delete {key:?}")?;
                cas.map_or(Ok(()), |cas| write!(f, " if at {cas}"))
            }
            Command::Kv(KvCommand::DeleteTree { prefix }) => write!(f, "delete all under {prefix:?}"),
            Command::Noop => write!(f, "no-op"),
            Command::Machine(command) => write!(f, "{} bytes for the machine", command.len()),
            Command::Kv(KvCommand::Acquire { key, session, .. }) => write!(f, "lock {key:?} for {session}"),
            Command::Kv(KvCommand::Release { key, session, .. }) => write!(f, "unlock {key:?} of {session}"),
            Command::Session(SessionCommand::Create(made)) => {
                write!(f, "create session {} on {:?}", made.id, made.node)
            }
            Command::Session(SessionCommand::Destroy { id }) => write!(f, "destroy session {id}"),
            Command::Session(SessionCommand::Renew { id }) => write!(f, "renew session {id}"),
            Command::Session(SessionCommand::Expire { id, renewed }) => {
                write!(f, "expire session {id} if last renewed at {renewed}")
            }
            Command::Session(SessionCommand::LiftDelays { delays }) => {
                write!(f, "end {} lock-delays", delays.len())
            }
            Command::Txn(ops) => write!(f, "{} operations at once", ops.len()),
            Command::Catalog(command) => write!(f, "{command}"),
            Command::Coordinates(updates) => write!(f, "the places of {} nodes", updates.len()),
            Command::Acl(command) => write!(f, "{command}"),
            Command::Restore(RestoreCommand::Begin { id, bytes }) => {
                write!(f, "begin restore {id:016x} of {bytes} bytes")
            }
            Command::Restore(RestoreCommand::Piece { id, offset, data }) => {
                write!(f, "{} bytes at {offset} of restore {id:016x}", data.len())
            }
            Command::Restore(RestoreCommand::Commit { id }) => write!(f, "commit restore {id:016x}"),
            Command::Restore(RestoreCommand::Abort { id }) => write!(f, "abort restore {id:016x}"),
            Command::Autopilot(AutopilotCommand::Set { cas, .. }) => {
                write!(f, "configure autopilot")?;
                cas.map_or(Ok(()), |cas| write!(f, " if at {cas}"))
            }
            Command::Prepared(PreparedCommand::Create(query)) => write!(f, "create query {}", query.id),
            Command::Prepared(PreparedCommand::Update(query)) => write!(f, "update query {}", query.id),
            Command::Prepared(PreparedCommand::Delete { id }) => write!(f, "delete query {id}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done { index } => write!(f, "done at {index}"),
            Outcome::ConditionFailed { index } => write!(f, "condition failed at {index}"),
            Outcome::Stale => write!(f, "stale"),
            Outcome::Answered { index, answer } => write!(f, "{} bytes of answer at {index}", answer.len()),
            Outcome::Refused { index, refusal } => write!(f, "refused at {index}: {refusal}"),
            Outcome::Returned { index, .. } => write!(f, "done at {index}, with an answer"),
        }
    }
}

impl Outcome {
    /// Whether the request took effect.
    pub fn is_done(&self) -> bool {
        matches!(self, Outcome::Done { .. } | Outcome::Answered { .. } | Outcome::Returned { .. })
    }
}

/// The whole replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    applied: u64,
    kv: KvStore,
    sessions: Sessions,
    catalog: Catalog,
    places: Places,
    acl: Acl,
    dedup: Dedup,
    machine: Slot,
    /// A snapshot that is about to be restored, as far as it has come.
    upload: Option<restore::Upload>,
    autopilot: Autopilot,
    prepared: PreparedQueries,
}

impl State {
    /// Nothing yet, with a machine of the embedding program.
    pub fn with_machine(machine: Box<dyn Machine>) -> State {
        State { machine: Slot::new(machine), ..State::default() }
    }

    /// The embedding program's machine, to read from.
    pub fn machine(&self) -> Option<&dyn Machine> {
        self.machine.get()
    }

    /// Applies the request at log index `index`.
    ///
    /// A request that was applied before (same id) changes nothing and gets the outcome it got then.
    pub fn apply(&mut self, index: u64, request: &Request) -> Outcome {
        self.applied = index;
        self.forget_upload(index);
        if let Some(earlier) = self.dedup.outcome_of(request.id) {
            return earlier;
        }
        let outcome = match &request.command {
            Command::Kv(command) => self.kv.apply(index, command, &self.sessions),
            Command::Session(command) => self.apply_session(index, command),
            Command::Catalog(command) => self.apply_catalog(index, command),
            Command::Coordinates(updates) => {
                self.apply_places(index, updates);
                Outcome::Done { index }
            }
            Command::Acl(command) => self.acl.apply(index, command),
            Command::Restore(command) => self.apply_restore(index, command),
            Command::Autopilot(command) => self.autopilot.apply(index, command),
            Command::Prepared(command) => self.prepared.apply(index, command, &self.sessions),
            Command::Txn(ops) => match self.transact(index, ops) {
                Ok(results) => Outcome::Returned { index, value: Returned::Txn(results) },
                Err(errors) => Outcome::Refused { index, refusal: Refusal::Txn(errors) },
            },
            Command::Noop => Outcome::Done { index },
            Command::Machine(command) => match self.machine.apply(index, command) {
                Some(answer) => Outcome::Answered { index, answer: answer.into() },
                // A server with a machine proposed it. The digests part here, and the log tells why.
                None => {
                    let text = "this program has no state machine of its own".to_owned();
                    Outcome::Refused { index, refusal: Refusal::Invalid(text) }
                }
            },
        };
        self.dedup.remember(index, request.id, request.done_below, &outcome);
        outcome
    }

    fn apply_session(&mut self, index: u64, command: &SessionCommand) -> Outcome {
        let refused =
            |text: String, kind: fn(String) -> Refusal| Outcome::Refused { index, refusal: kind(text) };
        match command {
            SessionCommand::Create(made) => {
                // It may have become so since the request was looked at.
                let ids = made.node_checks.iter().chain(made.service_checks.iter().map(|check| &check.id));
                let critical = |id: &&String| {
                    let check = self.catalog.check(&made.node, id);
                    check.is_some_and(|check| check.status == catalog::Status::Critical)
                };
                if let Some(id) = ids.clone().find(critical) {
                    return refused(format!("Check '{id}' is in critical state"), Refusal::Invalid);
                }
                if !self.sessions.create(index, made) {
                    return refused(format!("session {:?} exists already", made.id), Refusal::Invalid);
                }
            }
            SessionCommand::Destroy { id } => self.invalidate_session(index, id),
            SessionCommand::Renew { id } => {
                if !self.sessions.renew(index, id) {
                    return refused(format!("Session id '{id}' not found"), Refusal::NotFound);
                }
                if let Some(session) = self.sessions.get(id) {
                    return Outcome::Returned { index, value: Returned::Session(session.clone()) };
                }
            }
            SessionCommand::Expire { id, renewed } => {
                // Mutant L02: a decision counts although the session was renewed since.
                let stands = crate::mutant::is("L02")
                    || self.sessions.get(id).is_some_and(|session| session.renewed == *renewed);
                if !stands {
                    return Outcome::ConditionFailed { index };
                }
                self.invalidate_session(index, id);
            }
            SessionCommand::LiftDelays { delays } => {
                for (key, since) in delays {
                    self.sessions.lift(key, *since);
                }
            }
        }
        Outcome::Done { index }
    }

    /// Ends a session and what depends on it, whatever the reason. One that is not there is ended already.
    pub fn invalidate_session(&mut self, index: u64, id: &str) {
        let Some(session) = self.sessions.remove(index, id) else { return };
        self.prepared.session_ended(index, id);
        let keys: Vec<String> = self.kv.held_by(id).cloned().collect();
        for key in keys {
            match session.made.behavior {
                // Mutant L06: what is to be deleted is released.
                Behavior::Delete if crate::mutant::is("L06") => self.kv.unlock_as_it_is(index, &key),
                Behavior::Release => self.kv.unlock_as_it_is(index, &key),
                Behavior::Delete => self.kv.delete(index, &key),
            }
            if session.made.lock_delay_ns > 0 {
                self.sessions.delay(index, &key, session.made.lock_delay_ns);
            }
        }
    }

    /// What is lost by a change of the catalog ends the sessions that rest on it.
    fn apply_catalog(&mut self, index: u64, command: &CatalogCommand) -> Outcome {
        let (outcome, losses) = self.catalog.apply(index, command);
        for loss in losses {
            match loss {
                Loss::Node(node) => {
                    self.invalidate_sessions_of(index, &node);
                    self.places.remove(index, &node);
                }
                Loss::Check { node, id } => self.invalidate_sessions_on(index, &node, &id),
            }
        }
        outcome
    }

    /// Ends all sessions of a node, because the node is gone.
    pub fn invalidate_sessions_of(&mut self, index: u64, node: &str) {
        let ids: Vec<String> = self.sessions.on_node(node).map(|session| session.made.id.clone()).collect();
        for id in ids {
            self.invalidate_session(index, &id);
        }
    }

    /// Ends the sessions of a node that rest on one of its checks, because it is critical or gone.
    pub fn invalidate_sessions_on(&mut self, index: u64, node: &str, check: &str) {
        let rests = |session: &&Session| {
            session.made.node_checks.iter().any(|id| id == check)
                || session.made.service_checks.iter().any(|service| service.id == check)
        };
        let sessions = self.sessions.on_node(node).filter(rests);
        let ids: Vec<String> = sessions.map(|session| session.made.id.clone()).collect();
        for id in ids {
            self.invalidate_session(index, &id);
        }
    }

    /// Moves the applied index past an entry that carries no request (a leader's blank entry, a
    /// membership change).
    pub fn skip(&mut self, index: u64) {
        self.applied = index;
    }

    /// The log index of the last entry applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The key-value store, to read from.
    pub fn kv(&self) -> &KvStore {
        &self.kv
    }

    /// The sessions, to read from.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The catalog, to read from.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Where nodes stand, to read from.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Tokens, policies and roles, to read from.
    pub fn acl(&self) -> &Acl {
        &self.acl
    }

    /// How autopilot is to behave, to read from.
    pub fn autopilot(&self) -> &Autopilot {
        &self.autopilot
    }

    /// The prepared queries, to read from.
    pub fn prepared(&self) -> &PreparedQueries {
        &self.prepared
    }

    /// The index of the newest change to anything that readers wait for but keys.
    pub fn newest_but_keys(&self) -> u64 {
        let State { sessions, catalog, places, acl, autopilot, prepared, .. } = self;
        let tables = [
            sessions.table_index(),
            catalog.newest(),
            places.newest(),
            acl.newest(),
            autopilot.modify_index,
            prepared.newest(),
        ];
        tables.into_iter().fold(0, u64::max)
    }

    /// A hash of the state, in constant time: of all that answers are made of, and of the outcomes that are remembered. Which of
    /// these are forgotten next is not in it.
    pub fn digest(&self) -> u64 {
        let parts = [
            self.applied,
            self.kv.digest(),
            self.sessions.digest(),
            self.catalog.digest(),
            self.places.digest(),
            self.acl.digest(),
            self.dedup.digest(),
            self.machine.digest(),
        ];
        // Absent in most clusters, and then the digest is what it was before there were such things.
        let more = [
            self.upload.as_ref().map(restore::Upload::digest),
            self.autopilot.is_set().then(|| self.autopilot.digest()),
            (!self.prepared.is_blank()).then(|| self.prepared.digest()),
        ];
        let bytes: Vec<u8> =
            parts.iter().chain(more.iter().flatten()).flat_map(|part| part.to_le_bytes()).collect();
        xxh3_64(&bytes)
    }

    /// The whole state as bytes: see [`snapshot`].
    pub fn to_snapshot(&self) -> Vec<u8> {
        self.to_snapshot_with_capacity(0)
    }

    /// The same; so many bytes are set aside first.
    pub fn to_snapshot_with_capacity(&self, bytes: usize) -> Vec<u8> {
        snapshot::write(self, bytes)
    }

    /// The state that [`State::to_snapshot`] wrote, with a machine of the kind that this state has.
    ///
    /// # Errors
    /// [`BadSnapshot`] when the bytes are anything else; the caller asks another server for a snapshot.
    pub fn restored(&self, bytes: &[u8]) -> Result<State, BadSnapshot> {
        snapshot::read(self, bytes)
    }

    /// Computes anew what is derived, digests among it, after loading.
    fn rebuild(&mut self) {
        self.kv.rebuild();
        self.sessions.rebuild();
        self.catalog.rebuild();
        self.places.rebuild_digest();
        self.acl.rebuild();
        self.dedup.rebuild_digest();
        self.prepared.rebuild();
    }
}

/// Bytes shared between the log, the state and the readers.
pub type Shared = Arc<[u8]>;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn request(origin: u64, number: u64, command: KvCommand) -> Request {
        Request { id: RequestId { origin, number }, done_below: 0, command: Command::Kv(command) }
    }

    fn set(key: &str, value: &str) -> KvCommand {
        KvCommand::Set { key: key.into(), value: value.as_bytes().into(), flags: 0, cas: None }
    }

    fn any_command() -> impl Strategy<Value = Command> {
        prop_oneof![
            4 => kv::tests::any_command().prop_map(Command::Kv),
            3 => session::tests::any_command().prop_map(Command::Session),
            2 => prop::collection::vec(txn::tests::any_op(), 0..6).prop_map(Command::Txn),
            2 => acl::tests::any_command().prop_map(Command::Acl),
            1 => Just(Command::Noop),
            1 => prop::collection::vec(coordinate::tests::any_update(), 0..3).prop_map(Command::Coordinates),
            1 => any::<[u8; 2]>().prop_map(|bytes| Command::Machine(bytes.into())),
            1 => restore::tests::any_command().prop_map(Command::Restore),
            1 => prepared::tests::any_command().prop_map(Command::Prepared),
        ]
    }

    #[test]
    fn a_retry_applies_once_and_hears_the_first_answer() {
        let mut state = State::default();
        let first = state.apply(1, &request(9, 1, set("a", "1")));
        state.apply(2, &request(8, 1, set("a", "2")));
        let again = state.apply(3, &request(9, 1, set("a", "1")));
        assert_eq!(first, again);
        assert_eq!(&*state.kv().get("a").unwrap().value, b"2");
    }

    #[test]
    fn a_damaged_snapshot_is_refused() {
        let mut state = State::default();
        state.apply(1, &request(9, 1, set("a", "1")));
        let good = state.to_snapshot();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            assert!(State::default().restored(&bad).is_err(), "flip at {i}");
            assert!(State::default().restored(&good[..i]).is_err(), "cut at {i}");
        }
    }

    proptest! {
        #[test]
        fn replicas_agree_even_through_a_snapshot(
            commands in prop::collection::vec((0u64..4, 0u64..20, any_command()), 0..60),
            cut in 0usize..60,
        ) {
            let mut straight = State::default();
            let mut through = State::default();
            for (i, (origin, number, command)) in commands.iter().enumerate() {
                let id = RequestId { origin: *origin, number: *number };
                let request = Request { id, done_below: 0, command: command.clone() };
                let index = i as u64 + 1;
                prop_assert_eq!(straight.apply(index, &request), through.apply(index, &request));
                if i == cut {
                    through = State::default().restored(&through.to_snapshot()).unwrap();
                }
                prop_assert_eq!(straight.digest(), through.digest());
            }
            prop_assert_eq!(straight, through);
        }

        #[test]
        fn what_is_derived_follows_and_locks_belong_to_sessions_that_are_there(
            commands in prop::collection::vec(any_command(), 0..60),
        ) {
            let mut state = State::default();
            let mut indexes = [0; 4];
            for (index, command) in (1..).zip(commands) {
                let id = RequestId { origin: 1, number: index };
                state.apply(index, &Request { id, done_below: index, command });
                let mut anew = state.clone();
                anew.rebuild();
                prop_assert_eq!(anew.digest(), state.digest());
                let seen = |state: &State| {
                    let renewed: Vec<_> = state.sessions().renewed_after(0).cloned().collect();
                    let delayed: Vec<_> =
                        state.sessions().delayed_after(0).map(|(key, delay)| (key.clone(), delay)).collect();
                    let of_node: Vec<_> = state.sessions().on_node("n1").cloned().collect();
                    (renewed, delayed, of_node)
                };
                prop_assert_eq!(seen(&anew), seen(&state));
                for (key, entry) in state.kv().list("") {
                    if let Some(holder) = &entry.session {
                        prop_assert!(state.sessions().get(holder).is_some(), "{} is held by nobody", key);
                        prop_assert!(state.kv().held_by(holder).any(|held| held == key));
                        prop_assert!(state.sessions().delay_of(key).is_none());
                    }
                }
                let sessions = state.sessions();
                let now = [
                    sessions.table_index(),
                    sessions.node_index("n1"),
                    sessions.index_of("s1"),
                    state.kv().key_index("a"),
                ];
                prop_assert!(now.iter().zip(&indexes).all(|(now, before)| now >= before));
                indexes = now;
            }
        }

        #[test]
        fn any_bytes_are_a_snapshot_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = State::default().restored(&bytes);
        }
    }
}
