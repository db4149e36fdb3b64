//! Transactions: several operations at one log index, all of them or none.
//!
//! Operations are carried out in order, and each sees what those before it did. The first that fails dooms
//! the transaction, but the others are still tried, so that the client hears of every failure at once;
//! then all is taken back. A transaction that only reads needs no log entry: [`super::query::Txn`].
//!
//! Verbs, results and texts are Consul's. Left out until there is a catalog: its operations.

use serde::{Deserialize, Serialize};

use super::kv::NotLocked;
use super::{Entry, KvStore, Shared, State};

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOp {
    /// On the key-value store.
    Kv(KvOp),
}

/// An operation on a key, with all that any verb may need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvOp {
    /// What to do.
    pub verb: KvVerb,
    /// The key, or the prefix of a tree.
    pub key: String,
    /// The value to write.
    pub value: Shared,
    /// The client's number beside the value.
    pub flags: u64,
    /// The modify index of a condition.
    pub index: u64,
    /// The session of a lock or a condition.
    pub session: String,
}

/// What to do with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvVerb {
    /// Write.
    Set,
    /// Write, if the modify index is still this; 0: if the key is not there.
    Cas,
    /// Write and take the lock.
    Lock,
    /// Write and give the lock back.
    Unlock,
    /// Read; fails if the key is not there.
    Get,
    /// Read; a key that is not there is an empty entry.
    GetOrEmpty,
    /// Read all keys under a prefix.
    GetTree,
    /// Fail unless the modify index is this.
    CheckIndex,
    /// Fail unless this session holds the lock.
    CheckSession,
    /// Fail if the key is there.
    CheckNotExists,
    /// Remove.
    Delete,
    /// Remove all keys under a prefix.
    DeleteTree,
    /// Remove, if the modify index is still this.
    DeleteCas,
    /// None of these: fails.
    Other(String),
}

impl KvVerb {
    /// The verb of a name.
    pub fn named(name: &str) -> KvVerb {
        match name {
            "set" => KvVerb::Set,
            "cas" => KvVerb::Cas,
            "lock" => KvVerb::Lock,
            "unlock" => KvVerb::Unlock,
            "get" => KvVerb::Get,
            "get-or-empty" => KvVerb::GetOrEmpty,
            "get-tree" => KvVerb::GetTree,
            "check-index" => KvVerb::CheckIndex,
            "check-session" => KvVerb::CheckSession,
            "check-not-exists" => KvVerb::CheckNotExists,
            "delete" => KvVerb::Delete,
            "delete-tree" => KvVerb::DeleteTree,
            "delete-cas" => KvVerb::DeleteCas,
            other => KvVerb::Other(other.to_owned()),
        }
    }
}

impl TxnOp {
    /// Whether it may change something.
    pub fn writes(&self) -> bool {
        let TxnOp::Kv(op) = self;
        match op.verb {
            KvVerb::Set
            | KvVerb::Cas
            | KvVerb::Lock
            | KvVerb::Unlock
            | KvVerb::Delete
            | KvVerb::DeleteTree
            | KvVerb::DeleteCas => true,
            KvVerb::Get
            | KvVerb::GetOrEmpty
            | KvVerb::GetTree
            | KvVerb::CheckIndex
            | KvVerb::CheckSession
            | KvVerb::CheckNotExists
            | KvVerb::Other(_) => false,
        }
    }

    /// Bytes of what the client wrote.
    pub fn size(&self) -> usize {
        let TxnOp::Kv(op) = self;
        op.key.len() + op.value.len()
    }
}

/// What an operation found or left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnResult {
    /// A key and its entry; without its value, unless it was read.
    Kv(String, Entry),
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpError {
    /// Which operation, from 0.
    pub op_index: u32,
    /// Why, for the client.
    pub what: String,
}

/// What became of a transaction.
pub type Done = Result<Vec<TxnResult>, Vec<OpError>>;

/// What one operation came to.
type Step = Result<Vec<TxnResult>, String>;

/// Gathers the steps of all operations.
fn gather(steps: impl Iterator<Item = Step>) -> Done {
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for (op_index, step) in (0..).zip(steps) {
        match step {
            Ok(found) => results.extend(found),
            Err(what) => errors.push(OpError { op_index, what }),
        }
    }
    if errors.is_empty() { Ok(results) } else { Err(errors) }
}

impl State {
    /// Carries out a transaction at log index `index`.
    pub(super) fn transact(&mut self, index: u64, ops: &[TxnOp]) -> Done {
        self.kv.begin();
        let done = gather(ops.iter().map(|TxnOp::Kv(op)| self.step(index, op)));
        match &done {
            Ok(_) => self.kv.commit(),
            Err(_) => self.kv.roll_back(),
        }
        done
    }

    fn step(&mut self, index: u64, op: &KvOp) -> Step {
        let KvOp { verb, key, value, flags, index: expected, session } = op;
        if key.is_empty() && *verb != KvVerb::DeleteTree {
            return Err(NO_KEY.to_owned());
        }
        match verb {
            KvVerb::Set => self.kv.set(index, key, value, *flags),
            KvVerb::Cas if self.kv.set_if(index, key, value, *flags, *expected) => {}
            KvVerb::Cas => return Err(format!("failed to set key {key:?}, index is stale")),
            KvVerb::Lock => {
                self.kv.lock(index, key, value, *flags, session, &self.sessions).map_err(|reason| {
                    match reason {
                        NotLocked::Held => format!("failed to lock key {key:?}, lock is already held"),
                        NotLocked::Delayed => format!("failed to lock key {key:?} due to lock delay"),
                        NotLocked::Invalid(text) => text,
                    }
                })?
            }
            KvVerb::Unlock if self.kv.unlock(index, key, value, *flags, session) => {}
            KvVerb::Unlock => {
                let why = "lock isn't held, or is held by another session";
                return Err(format!("failed to unlock key {key:?}, {why}"));
            }
            KvVerb::Delete => {
                self.kv.delete(index, key);
                return Ok(Vec::new());
            }
            KvVerb::DeleteTree => {
                self.kv.delete_tree(index, key);
                return Ok(Vec::new());
            }
            KvVerb::DeleteCas if self.kv.delete_if(index, key, *expected) => return Ok(Vec::new()),
            KvVerb::DeleteCas => return Err(format!("failed to delete key {key:?}, index is stale")),
            _ => return look(&self.kv, op),
        }
        Ok(self.kv.get(key).map(|entry| without_value(key, entry)).into_iter().collect())
    }

    /// Answers a transaction that only reads. Operations that write fail.
    pub fn look_at(&self, ops: &[TxnOp]) -> Done {
        gather(ops.iter().map(|TxnOp::Kv(op)| look(&self.kv, op)))
    }
}

const NO_KEY: &str = "Must provide key";

fn without_value(key: &str, entry: &Entry) -> TxnResult {
    TxnResult::Kv(key.to_owned(), Entry { value: Shared::from([]), ..entry.clone() })
}

/// The operations that change nothing.
fn look(kv: &KvStore, op: &KvOp) -> Step {
    let key = &op.key;
    if key.is_empty() {
        return Err(NO_KEY.to_owned());
    }
    let entry = kv.get(key);
    let result = match &op.verb {
        KvVerb::Get => match entry {
            Some(entry) => TxnResult::Kv(key.clone(), entry.clone()),
            None => return Err(format!("key {key:?} doesn't exist")),
        },
        KvVerb::GetOrEmpty => TxnResult::Kv(key.clone(), entry.cloned().unwrap_or_default()),
        KvVerb::GetTree => {
            let found = kv.list(key).map(|(key, entry)| TxnResult::Kv(key.clone(), entry.clone()));
            return Ok(found.collect());
        }
        KvVerb::CheckIndex => match entry {
            None => return Err(format!("failed to check index, key {key:?} doesn't exist")),
            Some(entry) if entry.modify_index != op.index => {
                return Err(format!(
                    "failed index check for key {key:?}, current modify index {} != {}",
                    entry.modify_index, op.index
                ));
            }
            Some(entry) => without_value(key, entry),
        },
        KvVerb::CheckSession => match entry {
            None => return Err(format!("failed to check session, key {key:?} doesn't exist")),
            Some(entry) if entry.session.as_deref().unwrap_or_default() != op.session => {
                return Err(format!(
                    "failed session check for key {key:?}, current session {:?} != {:?}",
                    entry.session.as_deref().unwrap_or_default(),
                    op.session
                ));
            }
            Some(entry) => without_value(key, entry),
        },
        KvVerb::CheckNotExists if entry.is_some() => return Err(format!("key {key:?} exists")),
        KvVerb::CheckNotExists => return Ok(Vec::new()),
        KvVerb::Other(verb) => return Err(format!("unknown KV verb {verb:?}")),
        _ => return Err(format!("the operation on key {key:?} is no read")),
    };
    Ok(vec![result])
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::kv::tests::any_session;
    use super::super::{Command, Outcome, Refusal, Request, RequestId, Returned};
    use super::*;
    use proptest::prelude::*;

    pub fn any_op() -> impl Strategy<Value = TxnOp> {
        let verb = prop::sample::select(vec![
            "set",
            "cas",
            "lock",
            "unlock",
            "get",
            "get-or-empty",
            "get-tree",
            "check-index",
            "check-session",
            "check-not-exists",
            "delete",
            "delete-tree",
            "delete-cas",
            "jump",
        ]);
        let key = prop::sample::select(vec!["", "a", "a/", "a/b", "b"]);
        (verb, key, any::<u8>(), 0u64..3, 0u64..8, any_session()).prop_map(
            |(verb, key, value, flags, index, session)| {
                let verb = KvVerb::named(verb);
                TxnOp::Kv(KvOp { verb, key: key.into(), value: [value].into(), flags, index, session })
            },
        )
    }

    fn op(verb: &str, key: &str, value: &str, index: u64) -> TxnOp {
        let verb = KvVerb::named(verb);
        let value = value.as_bytes().into();
        TxnOp::Kv(KvOp { verb, key: key.into(), value, flags: 0, index, session: String::new() })
    }

    fn apply(state: &mut State, index: u64, ops: Vec<TxnOp>) -> Outcome {
        let id = RequestId { origin: 1, number: index };
        state.apply(index, &Request { id, done_below: 0, command: Command::Txn(ops) })
    }

    #[test]
    fn operations_see_each_other_and_results_have_values_only_if_read() {
        let mut state = State::default();
        let ops = vec![op("set", "a", "1", 0), op("get", "a", "", 0), op("delete", "a", "", 0)];
        let Outcome::Returned { value: Returned::Txn(results), .. } = apply(&mut state, 3, ops) else {
            panic!("not done")
        };
        let values = results.iter().map(|TxnResult::Kv(key, entry)| (key.as_str(), &*entry.value));
        assert_eq!(values.collect::<Vec<_>>(), [("a", &b""[..]), ("a", &b"1"[..])]);
        assert!(state.kv().is_empty());
        assert_eq!(state.kv().key_index("a"), 3);
    }

    #[test]
    fn one_failure_takes_all_back_and_every_failure_is_told() {
        let mut state = State::default();
        apply(&mut state, 1, vec![op("set", "old", "1", 0)]);
        let before = state.kv().clone();
        let ops = vec![
            op("set", "new", "1", 0),
            op("cas", "old", "2", 7),
            op("delete-tree", "", "", 0),
            op("get", "old", "", 0),
            op("hop", "old", "", 0),
        ];
        let Outcome::Refused { refusal: Refusal::Txn(errors), .. } = apply(&mut state, 2, ops) else {
            panic!("not refused")
        };
        let told: Vec<_> = errors.iter().map(|error| (error.op_index, error.what.as_str())).collect();
        assert_eq!(
            told,
            [
                (1, "failed to set key \"old\", index is stale"),
                (3, "key \"old\" doesn't exist"),
                (4, "unknown KV verb \"hop\""),
            ]
        );
        assert_eq!((state.kv(), state.kv().digest()), (&before, before.digest()));
    }

    proptest! {
        #[test]
        fn a_transaction_that_fails_leaves_no_trace(
            setup in prop::collection::vec(any_op(), 0..30),
            ops in prop::collection::vec(any_op(), 1..12),
        ) {
            let mut state = State::default();
            for (index, op) in (1..).zip(setup) {
                apply(&mut state, index, vec![op]);
            }
            let before = state.clone();
            let failed = matches!(apply(&mut state, 100, ops), Outcome::Refused { .. });
            if failed {
                prop_assert_eq!(state.kv(), before.kv());
                prop_assert_eq!(state.kv().digest(), before.kv().digest());
                for session in ["s1", "s2"] {
                    let held = |state: &State| state.kv().held_by(session).cloned().collect::<Vec<_>>();
                    prop_assert_eq!(held(&state), held(&before));
                }
            }
        }
    }
}
