//! The replicated state machine: `apply(index, request) -> outcome`, and nothing else.
//!
//! Every server applies the same requests at the same log indexes, so every server must end with the
//! same bytes. Hence the rules of this module: [`State::apply`] is pure and total (no error, no
//! panic, no await), all maps are ordered, and nothing here can see a clock, a random number or an
//! address. State never sees a clock, so replicas cannot disagree about time.
//!
//! * [`kv`]: keys and values with Consul's fields and index rules.
//! * [`tables`]: what the other families keep their rows in: indexes, tombstones, digests.
//! * [`query`]: reads as data, so that a node without a state can ask one that has it.
//! * [`dedup`]: which requests were already applied, so that a retry applies once.
//! * [`machine`]: a state machine of the embedding program, if it has one.
//! * [`snapshot`]: the state as bytes, and back.
//!
//! A new family of commands is: a file with its command and its tables; a variant of [`Command`] and a
//! line in [`State::apply`]; its reads in [`query`]; its tables in [`snapshot`], in [`State::digest`] and
//! in `rebuild_digests`. A command that makes no sense in the state it meets is [`Outcome::Refused`] with
//! the words for the client: every server finds the same, so it is an outcome and no error. Variants are
//! only ever added at the end of an enum: their place is their number in the log, and old logs are read.
//!
//! [`State::digest`] is a hash of the whole state, kept up to date with every change; replicas that
//! agree on the index must agree on the digest, and the testbed compares them at every entry.

pub mod dedup;
pub mod kv;
pub mod machine;
pub mod query;
pub mod snapshot;
pub mod tables;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub use dedup::RequestId;
pub use kv::{Entry, KvCommand, KvStore};
pub use machine::Machine;
pub use query::{Asked, Found, Indexed, Query, Question};
pub use snapshot::BadSnapshot;

use dedup::Dedup;
use machine::Slot;

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
        }
    }
}

impl Outcome {
    /// Whether the request took effect.
    pub fn is_done(&self) -> bool {
        matches!(self, Outcome::Done { .. } | Outcome::Answered { .. })
    }
}

/// The whole replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    applied: u64,
    kv: KvStore,
    dedup: Dedup,
    machine: Slot,
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
        if let Some(earlier) = self.dedup.outcome_of(request.id) {
            return earlier;
        }
        let outcome = match &request.command {
            Command::Kv(command) => self.kv.apply(index, command),
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

    /// A hash of the whole state, in constant time.
    pub fn digest(&self) -> u64 {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.applied.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.kv.digest().to_le_bytes());
        bytes[16..24].copy_from_slice(&self.dedup.digest().to_le_bytes());
        bytes[24..].copy_from_slice(&self.machine.digest().to_le_bytes());
        xxh3_64(&bytes)
    }

    /// The whole state as bytes: see [`snapshot`].
    pub fn to_snapshot(&self) -> Vec<u8> {
        snapshot::write(self)
    }

    /// The state that [`State::to_snapshot`] wrote, with a machine of the kind that this state has.
    ///
    /// # Errors
    /// [`BadSnapshot`] when the bytes are anything else; the caller asks another server for a snapshot.
    pub fn restored(&self, bytes: &[u8]) -> Result<State, BadSnapshot> {
        snapshot::read(self, bytes)
    }

    /// Computes the digests of all parts anew, after loading.
    fn rebuild_digests(&mut self) {
        self.kv.rebuild_digest();
        self.dedup.rebuild_digest();
    }
}

/// Bytes shared between the log, the state and the readers.
pub type Shared = Arc<[u8]>;

#[cfg(test)]
mod tests {
    use super::kv::tests::any_command;
    use super::*;
    use proptest::prelude::*;

    pub fn request(origin: u64, number: u64, command: KvCommand) -> Request {
        Request { id: RequestId { origin, number }, done_below: 0, command: Command::Kv(command) }
    }

    fn set(key: &str, value: &str) -> KvCommand {
        KvCommand::Set { key: key.into(), value: value.as_bytes().into(), flags: 0, cas: None }
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
                let request = request(*origin, *number, command.clone());
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
        fn any_bytes_are_a_snapshot_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = State::default().restored(&bytes);
        }
    }
}
