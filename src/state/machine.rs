//! A state machine of the program that embeds this one, replicated beside the key-value store.
//!
//! Its commands go through the same log, under the same request ids, into the same snapshots, and count in
//! the same digest. So what holds for the store holds for it: a command that was acknowledged is applied
//! once, in the same order on every server, and survives whatever the log survives.
//!
//! Every server of a cluster must have the same machine. One without it cannot take part: it refuses a
//! snapshot that holds another machine's state, and its digest differs.
//!
//! Left out: machines that are larger than memory. A snapshot is made of one copy.

use std::fmt;

/// Replicated state and what changes it. The same rules as for all of [`crate::state`]: pure and total, no clock,
/// no randomness, no order of a `HashMap`; what a replica does, all do.
pub trait Machine: Send + Sync {
    /// Applies the command at log index `index` and says what to answer.
    ///
    /// Total: a command that makes no sense changes nothing, and the answer says so.
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8>;

    /// Answers a question about the state; changes nothing.
    fn query(&self, question: &[u8]) -> Vec<u8>;

    /// The whole state as bytes; never none, which would mean that there is no machine.
    fn snapshot(&self) -> Vec<u8>;

    /// Becomes what [`Machine::snapshot`] wrote.
    ///
    /// # Errors
    /// Why the bytes are no snapshot of this machine. The server then asks another for one.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;

    /// A hash of the whole state. Asked after every entry: keep it up to date rather than compute it.
    fn digest(&self) -> u64;

    /// A copy that later commands do not touch, to make a snapshot of. Commands wait until it is there: let it share what it can.
    fn copy(&self) -> Box<dyn Machine>;
}

/// The place for a [`Machine`]; most programs have none.
#[derive(Default)]
pub(super) struct Slot(Option<Box<dyn Machine>>);

impl Slot {
    pub(super) fn new(machine: Box<dyn Machine>) -> Slot {
        Slot(Some(machine))
    }

    pub(super) fn get(&self) -> Option<&dyn Machine> {
        self.0.as_deref()
    }

    pub(super) fn apply(&mut self, index: u64, command: &[u8]) -> Option<Vec<u8>> {
        self.0.as_mut().map(|machine| machine.apply(index, command))
    }

    /// Zero without a machine, so that the digests of programs without one are as they were.
    pub(super) fn digest(&self) -> u64 {
        self.get().map_or(0, Machine::digest)
    }

    /// Empty without a machine.
    pub(super) fn snapshot(&self) -> Vec<u8> {
        self.get().map_or_else(Vec::new, Machine::snapshot)
    }

    pub(super) fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        match &mut self.0 {
            // Written before the program had a machine: it stays as it is, which is blank.
            _ if bytes.is_empty() => Ok(()),
            Some(machine) => machine.restore(bytes),
            None => Err("it holds the state of a machine that this program does not have".to_owned()),
        }
    }
}

impl Clone for Slot {
    fn clone(&self) -> Slot {
        Slot(self.get().map(Machine::copy))
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Slot) -> bool {
        self.get().is_some() == other.get().is_some() && self.snapshot() == other.snapshot()
    }
}

impl Eq for Slot {}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(machine) => write!(f, "a machine of digest {:016x}", machine.digest()),
            None => f.write_str("no machine"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Command, Outcome, Request, RequestId, State};
    use super::*;

    /// Adds up the bytes of all commands.
    #[derive(Clone, Default)]
    struct Sum(u64);

    impl Machine for Sum {
        fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
            self.0 = command.iter().fold(self.0, |sum, byte| sum.wrapping_add(u64::from(*byte)));
            self.0.to_le_bytes().to_vec()
        }
        fn query(&self, _question: &[u8]) -> Vec<u8> {
            self.0.to_le_bytes().to_vec()
        }
        fn snapshot(&self) -> Vec<u8> {
            self.0.to_le_bytes().to_vec()
        }
        fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
            let bytes = snapshot.try_into().map_err(|_| "a sum has eight bytes".to_owned())?;
            self.0 = u64::from_le_bytes(bytes);
            Ok(())
        }
        fn digest(&self) -> u64 {
            self.0
        }
        fn copy(&self) -> Box<dyn Machine> {
            Box::new(self.clone())
        }
    }

    fn request(number: u64, command: &[u8]) -> Request {
        let id = RequestId { origin: 1, number };
        Request { id, done_below: 0, command: Command::Machine(command.into()) }
    }

    fn answered(index: u64, sum: u64) -> Outcome {
        Outcome::Answered { index, answer: Arc::from(sum.to_le_bytes()) }
    }

    #[test]
    fn a_command_is_applied_once_and_counts_in_the_digest() {
        let mut state = State::with_machine(Box::new(Sum::default()));
        let before = state.digest();
        assert_eq!(state.apply(1, &request(1, &[40, 2])), answered(1, 42));
        assert_eq!(state.apply(2, &request(1, &[40, 2])), answered(1, 42));
        assert_eq!(state.machine().unwrap().query(&[]), 42u64.to_le_bytes());
        let copy = state.clone();
        state.apply(3, &request(2, &[1]));
        assert_eq!(copy.machine().unwrap().digest(), 42);
        assert!(state.digest() != before && state != copy);
    }

    #[test]
    fn a_machine_is_in_the_snapshot_and_only_a_program_that_has_it_can_read_it() {
        let blank = State::with_machine(Box::new(Sum::default()));
        let mut state = blank.clone();
        state.apply(1, &request(1, &[7]));
        let snapshot = state.to_snapshot();
        let restored = blank.restored(&snapshot).unwrap();
        assert_eq!((&restored, restored.digest()), (&state, state.digest()));
        assert!(State::default().restored(&snapshot).is_err());
        // What was written before the program had a machine.
        let older = State::default().to_snapshot();
        assert_eq!(blank.restored(&older).unwrap().machine().unwrap().digest(), 0);
    }

    #[test]
    fn a_command_without_a_machine_changes_nothing_else() {
        let mut state = State::default();
        assert!(matches!(state.apply(1, &request(1, &[7])), Outcome::Refused { index: 1, .. }));
        assert_eq!(state.kv(), State::default().kv());
    }
}
