//! Transactions: several operations at one log index, all of them or none.
//!
//! Operations are carried out in order, and each sees what those before it did. The first that fails dooms
//! the transaction, but the others are still tried, so that the client hears of every failure at once;
//! then all is taken back. A transaction that only reads needs no log entry: [`super::query::Txn`].
//!
//! To take it back, a copy of what may change is kept from before; that costs next to nothing ([`super::map`]).
//!
//! Verbs, results and texts are Consul's.

use serde::{Deserialize, Serialize};

use crate::mutant;

use super::catalog::{Catalog, CheckInfo, CheckRow, NodeInfo, Registration, Row, ServiceInfo};
use super::kv::NotLocked;
use super::{CatalogCommand, Entry, KvStore, Outcome, Shared, State};

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOp {
    /// On the key-value store.
    Kv(KvOp),
    /// On the catalog.
    Catalog(Box<CatalogOp>),
}

/// An operation on a row of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogOp {
    /// What to do.
    pub verb: RowVerb,
    /// Which row; if it is written, all of it.
    pub row: CatalogRow,
    /// The modify index of a condition.
    pub index: u64,
}

/// A row of the catalog, of whichever table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogRow {
    /// A node, by its name.
    Node(NodeInfo),
    /// A service, by its node and its id.
    Service {
        /// Its node.
        node: String,
        /// The service.
        service: ServiceInfo,
    },
    /// A check, by its node and its id.
    Check {
        /// Its node.
        node: String,
        /// The check.
        check: CheckInfo,
    },
}

/// What to do with a row of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowVerb {
    /// Read; fails if it is not there.
    Get,
    /// Write.
    Set,
    /// Write, if the modify index is still this; 0: if it is not there.
    Cas,
    /// Remove, with what belongs to it.
    Delete,
    /// Remove, if the modify index is still this.
    DeleteCas,
    /// None of these: fails.
    Other(String),
    /// Read a node by its id; fails if it is not there. After the others, whose numbers are in logs.
    GetById,
}

impl RowVerb {
    /// The verb of a name.
    pub fn named(name: &str) -> RowVerb {
        match name {
            "get" => RowVerb::Get,
            "set" => RowVerb::Set,
            "cas" => RowVerb::Cas,
            "delete" => RowVerb::Delete,
            "delete-cas" => RowVerb::DeleteCas,
            other => RowVerb::Other(other.to_owned()),
        }
    }
}

impl CatalogRow {
    /// How people call it.
    fn name(&self) -> String {
        match self {
            CatalogRow::Node(node) => format!("node {:?}", node.name),
            CatalogRow::Service { node, service } => format!("service {:?} on node {node:?}", service.id),
            CatalogRow::Check { node, check } => format!("check {:?} on node {node:?}", check.id),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            CatalogRow::Node(_) => "Node",
            CatalogRow::Service { .. } => "Service",
            CatalogRow::Check { .. } => "Check",
        }
    }

    /// The row of this name that is there, and its modify index.
    fn found(&self, catalog: &Catalog) -> Option<(u64, TxnResult)> {
        match self {
            CatalogRow::Node(node) => {
                let row = catalog.node(&node.name)?;
                Some((row.modify_index, TxnResult::Node(row.clone())))
            }
            CatalogRow::Service { node, service } => {
                let row = catalog.row_of_service(node, &service.id)?;
                Some((row.modify_index, TxnResult::Service(row.clone())))
            }
            CatalogRow::Check { node, check } => {
                let row = catalog.row_of_check(node, &check.id)?;
                Some((row.check.modify_index, TxnResult::Check(row)))
            }
        }
    }

    /// The command that writes it.
    fn write(&self, catalog: &Catalog) -> Result<CatalogCommand, String> {
        let (name, service, checks) = match self {
            CatalogRow::Node(node) => {
                let node = node.clone();
                let checks = Vec::new();
                return Ok(Registration { node, skip_node_update: false, service: None, checks }.into());
            }
            CatalogRow::Service { node, service } => (node, Some(service.clone()), Vec::new()),
            CatalogRow::Check { node, check } => (node, None, vec![check.clone()]),
        };
        let node = catalog.node(name).ok_or_else(|| format!("node {name:?} doesn't exist"))?;
        Ok(Registration { node: node.info.clone(), skip_node_update: true, service, checks }.into())
    }

    /// The command that removes it.
    fn remove(&self) -> CatalogCommand {
        match self.clone() {
            CatalogRow::Node(node) => CatalogCommand::DeregisterNode { node: node.name },
            CatalogRow::Service { node, service } => {
                CatalogCommand::DeregisterService { node, id: service.id }
            }
            CatalogRow::Check { node, check } => CatalogCommand::DeregisterCheck { node, id: check.id },
        }
    }
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
        let op = match self {
            TxnOp::Kv(op) => op,
            TxnOp::Catalog(op) => {
                return !matches!(op.verb, RowVerb::Get | RowVerb::GetById | RowVerb::Other(_));
            }
        };
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
        match self {
            TxnOp::Kv(op) => op.key.len() + op.value.len(),
            TxnOp::Catalog(op) => match &op.row {
                CatalogRow::Node(_) | CatalogRow::Check { .. } => 512,
                CatalogRow::Service { service, .. } => {
                    512 + service.tags.iter().map(String::len).sum::<usize>()
                }
            },
        }
    }
}

/// What an operation found or left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnResult {
    /// A key and its entry; without its value, unless it was read.
    Kv(String, Entry),
    /// A node of the catalog.
    Node(Row<NodeInfo>),
    /// A service of the catalog.
    Service(Row<ServiceInfo>),
    /// A check of the catalog.
    Check(CheckRow),
}

impl TxnResult {
    /// A rough size in memory, in bytes.
    pub fn weight(&self) -> usize {
        match self {
            TxnResult::Kv(key, entry) => key.len() + entry.value.len() + 128,
            TxnResult::Node(_) | TxnResult::Service(_) | TxnResult::Check(_) => 1_024,
        }
    }
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
        let State { kv, sessions, catalog, places, prepared, .. } = &*self;
        // A node or a check that goes takes sessions with it, and they take queries.
        let before = (kv.clone(), sessions.clone(), catalog.clone(), places.clone(), prepared.clone());
        let done = gather(ops.iter().map(|op| match op {
            TxnOp::Kv(op) => self.step(index, op),
            TxnOp::Catalog(op) => self.step_in_catalog(index, op),
        }));
        // Mutant H18: a failure takes nothing back.
        if done.is_err() && !mutant::is("H18") {
            (self.kv, self.sessions, self.catalog, self.places, self.prepared) = before;
        }
        done
    }

    fn step_in_catalog(&mut self, index: u64, op: &CatalogOp) -> Step {
        let CatalogOp { verb, row, index: expected } = op;
        let before = row.found(&self.catalog).map(|(modify_index, _)| modify_index);
        let stale = |what: &str| Err(format!("failed to {what} {}, index is stale", row.name()));
        let command = match verb {
            RowVerb::Cas if before.unwrap_or(0) != *expected => return stale("set"),
            RowVerb::DeleteCas if before != Some(*expected) => return stale("delete"),
            RowVerb::Set | RowVerb::Cas => row.write(&self.catalog)?,
            RowVerb::Delete | RowVerb::DeleteCas => row.remove(),
            RowVerb::Get | RowVerb::GetById | RowVerb::Other(_) => return look_into(&self.catalog, op),
        };
        if let Outcome::Refused { refusal, .. } = self.apply_catalog(index, &command) {
            return Err(refusal.to_string());
        }
        // What was removed gives nothing.
        Ok(row.found(&self.catalog).map(|(_, result)| result).into_iter().collect())
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
        gather(ops.iter().map(|op| match op {
            TxnOp::Kv(op) => look(&self.kv, op),
            TxnOp::Catalog(op) => look_into(&self.catalog, op),
        }))
    }
}

const NO_KEY: &str = "Must provide key";

fn without_value(key: &str, entry: &Entry) -> TxnResult {
    TxnResult::Kv(key.to_owned(), Entry { value: Shared::from([]), ..entry.clone() })
}

/// The operations on the catalog that change nothing.
fn look_into(catalog: &Catalog, op: &CatalogOp) -> Step {
    let row = &op.row;
    if let (RowVerb::GetById, CatalogRow::Node(node)) = (&op.verb, row) {
        let found = catalog.node_by_id(&node.id).map(|row| vec![TxnResult::Node(row.clone())]);
        return found.ok_or_else(|| format!("node with ID {:?} doesn't exist", node.id));
    }
    match (&op.verb, row.found(catalog)) {
        (RowVerb::Get, Some((_, result))) => Ok(vec![result]),
        (RowVerb::Get, None) => Err(format!("{} doesn't exist", row.name())),
        (RowVerb::Other(verb), _) => Err(format!("unknown {} verb {verb:?}", row.kind())),
        _ => Err(format!("the operation on {} is no read", row.name())),
    }
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
        // Mutant H23: that a key must not be there is not looked at.
        KvVerb::CheckNotExists if entry.is_some() && !mutant::is("H23") => {
            return Err(format!("key {key:?} exists"));
        }
        KvVerb::CheckNotExists => return Ok(Vec::new()),
        KvVerb::Other(verb) => return Err(format!("unknown KV verb {verb:?}")),
        _ => return Err(format!("the operation on key {key:?} is no read")),
    };
    Ok(vec![result])
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::catalog::Status;
    use super::super::catalog::tests::{check, node};
    use super::super::coordinate::{NodePlace, Place};
    use super::super::kv::tests::any_session;
    use super::super::{Command, Outcome, Refusal, Request, RequestId, Returned, SessionCommand};
    use super::*;
    use proptest::prelude::*;

    pub fn any_op() -> impl Strategy<Value = TxnOp> {
        prop_oneof![3 => any_kv_op(), 1 => any_catalog_op()]
    }

    fn any_catalog_op() -> impl Strategy<Value = TxnOp> {
        let verb = prop::sample::select(vec!["get", "set", "cas", "delete", "delete-cas", "jump"]);
        let name = || prop::sample::select(vec!["n1", "n2"]).prop_map(str::to_owned);
        let status = prop::sample::select(vec![Status::Passing, Status::Critical]);
        let row = prop_oneof![
            name().prop_map(|name| CatalogRow::Node(node(&name))),
            (name(), name()).prop_map(|(node, id)| CatalogRow::Service { node, service: service(&id) }),
            // A session of the other tests rests on the check "c".
            (name(), prop::option::of(name()), status).prop_map(|(node, id, status)| {
                CatalogRow::Check { node, check: check("c", id.as_deref().unwrap_or_default(), status) }
            }),
        ];
        (verb, row, 0u64..8).prop_map(|(verb, row, index)| {
            TxnOp::Catalog(Box::new(CatalogOp { verb: RowVerb::named(verb), row, index }))
        })
    }

    fn service(id: &str) -> ServiceInfo {
        ServiceInfo { id: id.into(), name: id.into(), ..ServiceInfo::default() }
    }

    fn any_kv_op() -> impl Strategy<Value = TxnOp> {
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
        let values = results.iter().map(|result| match result {
            TxnResult::Kv(key, entry) => (key.as_str(), &*entry.value),
            other => panic!("{other:?}"),
        });
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

    fn on_catalog(verb: &str, row: CatalogRow, index: u64) -> TxnOp {
        TxnOp::Catalog(Box::new(CatalogOp { verb: RowVerb::named(verb), row, index }))
    }

    #[test]
    fn a_node_its_service_and_a_key_come_and_go_as_one() {
        let mut state = State::default();
        let n = || CatalogRow::Node(node("n"));
        let web = || CatalogRow::Service { node: "n".into(), service: service("web") };
        let up = |status| CatalogRow::Check { node: "n".into(), check: check("up", "web", status) };
        // A service needs its node, and a check its service: in this order it works, in the other it does not.
        let wrong = vec![on_catalog("set", web(), 0), on_catalog("set", n(), 0), op("set", "k", "1", 0)];
        let Outcome::Refused { refusal: Refusal::Txn(errors), .. } = apply(&mut state, 1, wrong) else {
            panic!("not refused")
        };
        assert_eq!(errors[0].what, "node \"n\" doesn't exist");
        assert!(state.kv().is_empty() && state.catalog().node("n").is_none());
        let right = vec![
            on_catalog("cas", n(), 0),
            on_catalog("set", web(), 0),
            on_catalog("set", up(Status::Passing), 0),
            op("set", "k", "1", 0),
        ];
        let Outcome::Returned { value: Returned::Txn(results), .. } = apply(&mut state, 2, right) else {
            panic!("not done")
        };
        let TxnResult::Check(up_row) = &results[2] else { panic!("{results:?}") };
        assert_eq!((up_row.service_name.as_str(), up_row.check.modify_index), ("web", 2));
        let errors = |state: &mut State, op: TxnOp| match apply(state, state.applied() + 1, vec![op]) {
            Outcome::Refused { refusal: Refusal::Txn(errors), .. } => errors[0].what.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            errors(&mut state, on_catalog("cas", web(), 1)),
            "failed to set service \"web\" on node \"n\", index is stale"
        );
        assert_eq!(errors(&mut state, on_catalog("hop", n(), 0)), "unknown Node verb \"hop\"");
        let done = apply(&mut state, 9, vec![on_catalog("delete-cas", n(), 2), op("delete", "k", "", 0)]);
        assert_eq!(done, Outcome::Returned { index: 9, value: Returned::Txn(Vec::new()) });
        assert_eq!(
            state.look_at(&[on_catalog("get", up(Status::Passing), 0)]).unwrap_err()[0].what,
            "check \"up\" on node \"n\" doesn't exist"
        );
    }

    #[test]
    fn a_node_is_read_by_its_id_and_by_nothing_else_then() {
        let mut state = State::default();
        let known = NodeInfo { id: "11111111-2222-3333-4444-55555555555a".into(), ..node("n") };
        apply(&mut state, 1, vec![on_catalog("set", CatalogRow::Node(known.clone()), 0)]);
        let by_id = |name: &str, id: &str| {
            let row = CatalogRow::Node(NodeInfo { name: name.into(), id: id.into(), ..NodeInfo::default() });
            TxnOp::Catalog(Box::new(CatalogOp { verb: RowVerb::GetById, row, index: 0 }))
        };
        assert!(!by_id("", &known.id).writes());
        for op in [by_id("", &known.id), by_id("m", &known.id.to_uppercase())] {
            let found = state.look_at(std::slice::from_ref(&op)).unwrap();
            let [TxnResult::Node(row)] = &found[..] else { panic!("{found:?}") };
            assert_eq!(row.info, known);
            let Outcome::Returned { value: Returned::Txn(results), .. } = apply(&mut state, 2, vec![op])
            else {
                panic!("not done")
            };
            assert_eq!(results, found);
        }
        // A name is no id, and neither is nothing.
        for (op, id) in [(by_id("n", "n"), "n"), (by_id("n", ""), "")] {
            let errors = state.look_at(&[op]).unwrap_err();
            assert_eq!(errors[0].what, format!("node with ID {id:?} doesn't exist"));
        }
    }

    #[test]
    fn what_a_verb_is_in_the_log_stays() {
        let verbs = ["get", "set", "cas", "delete", "delete-cas"].map(RowVerb::named);
        let numbers = verbs.into_iter().chain([RowVerb::Other(String::new()), RowVerb::GetById]);
        let numbers: Vec<u8> = numbers.map(|verb| postcard::to_allocvec(&verb).unwrap()[0]).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
    }

    proptest! {
        #[test]
        fn a_transaction_that_fails_leaves_no_trace(
            sessions in prop::collection::vec(super::super::session::tests::any_command(), 0..6),
            setup in prop::collection::vec(any_op(), 0..30),
            ops in prop::collection::vec(any_op(), 1..12),
        ) {
            let mut state = State::default();
            for command in sessions {
                let index = state.applied() + 1;
                let id = RequestId { origin: 1, number: index };
                let create = matches!(command, SessionCommand::Create(_));
                let request = Request { id, done_below: 0, command: Command::Session(command) };
                if create {
                    state.apply(index, &request);
                }
            }
            for op in setup {
                let index = state.applied() + 1;
                apply(&mut state, index, vec![op]);
            }
            let index = state.applied() + 1;
            let place = Place::default();
            let stands = |name: &str| NodePlace { node: name.into(), segment: String::new(), place };
            let places = Command::Coordinates(["n1", "n2"].map(stands).to_vec());
            state.apply(index, &Request { id: RequestId { origin: 2, number: 1 }, done_below: 0, command: places });
            let before = state.clone();
            let failed = matches!(apply(&mut state, 100, ops), Outcome::Refused { .. });
            if failed {
                prop_assert_eq!(state.kv(), before.kv());
                prop_assert_eq!(state.kv().digest(), before.kv().digest());
                prop_assert_eq!(state.catalog(), before.catalog());
                prop_assert_eq!(state.sessions(), before.sessions());
                prop_assert_eq!(&state.places, &before.places);
                for session in ["s1", "s2"] {
                    let held = |state: &State| state.kv().held_by(session).cloned().collect::<Vec<_>>();
                    prop_assert_eq!(held(&state), held(&before));
                }
            }
        }
    }
}
