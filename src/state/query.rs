//! Reads as data: a [`Query`] can be written down, sent to another server, and answered there.
//!
//! A node without a state of its own cannot hand a closure to one that has it. So each read is a small
//! struct, a [`Question`], whose type says what it finds. Two ways lead to the same answer:
//!
//! * where the state is, [`Asked::ask`] looks at it, with all types known;
//! * anywhere else the question becomes a [`Query`] (`question.into()`), travels, is answered by
//!   [`State::answer`], and the [`Found`] that comes back is unpacked by [`Question::unpack`].
//!
//! Each answer carries the index at which it last changed. Whoever blocks waits for that index to pass
//! the one it knows; waiting is the agent's, since nothing here can wait. For that to be right, an
//! answer that changes must raise its index, and an index must never go back: [`super::tables`] has what
//! it takes.
//!
//! To add a read: a struct with its parameters, an `impl Asked`, a line in the list at the end of the
//! questions. Lines are only ever added at the end, because their place is their number on the wire.

use serde::{Deserialize, Serialize};

use super::acl::{AclHolder, AclPolicies, AclPolicy, AclRole, AclRoles, AclSelf, AclToken, AclTokens};
use super::autopilot::AutopilotInForce;
use super::catalog::{
    AllInstances, CatalogNodes, CatalogServices, Checks, InstancesAt, InstancesLike, NodesAt, NodesLike,
    OneNode, ServiceInstances,
};
use super::coordinate::{CoordinatesOf, CoordinatesOfAll};
use super::prepared::{Prepared, PreparedList};
use super::{Entry, Session, State, TxnOp, txn};

/// What a read finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed<T> {
    /// The index at which it last changed.
    pub index: u64,
    /// What it is.
    pub value: T,
}

impl<T> Indexed<T> {
    /// The same index with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Indexed<U> {
        Indexed { index: self.index, value: change(self.value) }
    }
}

/// One read, with its parameters.
pub trait Asked {
    /// What it finds.
    type Found;

    /// Looks at the state. Pure, and short: it runs under the state's lock, and may run several times.
    fn ask(&self, state: &State) -> Indexed<Self::Found>;

    /// The index of what it finds. Whoever waits for a newer one asks this at each change of the state, so kinds that are
    /// waited for tell it without finding anything.
    fn index(&self, state: &State) -> u64 {
        self.ask(state).index
    }
}

/// A read that can also be sent: see the [module](self). Implemented for every type in the list below.
pub trait Question: Asked + Clone + Into<Query> + Send + Sync {
    /// The answer to this kind of question; `None` when it answers another kind.
    fn unpack(found: Found) -> Option<Self::Found>;
}

macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Every read there is, as data.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Query {
            $($(#[$doc])* $name($name),)*
        }

        /// What a [`Query`] finds, of the same name.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Found {
            $($(#[$doc])* $name(<$name as Asked>::Found),)*
        }

        impl State {
            /// Answers any read.
            pub fn answer(&self, query: &Query) -> Indexed<Found> {
                match query {
                    $(Query::$name(question) => question.ask(self).map(Found::$name),)*
                }
            }

            /// The index of that answer.
            pub fn index_of(&self, query: &Query) -> u64 {
                match query {
                    $(Query::$name(question) => question.index(self),)*
                }
            }
        }

        $(
            impl From<$name> for Query {
                fn from(question: $name) -> Query {
                    Query::$name(question)
                }
            }

            impl Question for $name {
                fn unpack(found: Found) -> Option<<$name as Asked>::Found> {
                    match found {
                        Found::$name(found) => Some(found),
                        #[allow(unreachable_patterns)]
                        _ => None,
                    }
                }
            }
        )*
    };
}

questions! {
    /// One key.
    KvGet,
    /// All keys under a prefix, with their values.
    KvList,
    /// The names of the keys under a prefix.
    KvKeys,
    /// How far the state is.
    Applied,
    /// What the embedding program's machine says.
    AskMachine,
    /// One session.
    SessionInfo,
    /// All sessions.
    SessionList,
    /// The sessions of a node.
    SessionsOfNode,
    /// A transaction that only reads.
    Txn,
    /// All nodes of the catalog.
    CatalogNodes,
    /// All services by name.
    CatalogServices,
    /// The instances of a service.
    ServiceInstances,
    /// A node and all that is on it.
    OneNode,
    /// Checks, by what they are about or what they found.
    Checks,
    /// Where all nodes stand.
    CoordinatesOfAll,
    /// Where one node stands.
    CoordinatesOf,
    /// All tokens.
    AclTokens,
    /// A token by its accessor id.
    AclToken,
    /// The token of whoever asks.
    AclSelf,
    /// All policies.
    AclPolicies,
    /// A policy.
    AclPolicy,
    /// All roles.
    AclRoles,
    /// A role.
    AclRole,
    /// Who shows a secret, and which rules they have.
    AclHolder,
    /// How autopilot is to behave.
    AutopilotInForce,
    /// How much there is of everything.
    Usage,
    /// All prepared queries.
    PreparedList,
    /// One prepared query.
    Prepared,
    /// The instances of all services.
    AllInstances,
    /// The nodes at an address.
    NodesAt,
    /// The instances at an address of their own.
    InstancesAt,
    /// The nodes of a name, whatever its case.
    NodesLike,
    /// The instances of a service, whatever the case of its name.
    InstancesLike,
}

/// See [`Query::KvGet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvGet {
    /// The key.
    pub key: String,
}

/// What [`KvGet`] finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvFound {
    /// The entry, if there is one.
    pub entry: Option<Entry>,
    /// The newest change to the whole store: what a missing key is reported at, since it has no index of
    /// its own.
    pub table_index: u64,
}

impl Asked for KvGet {
    type Found = KvFound;

    fn ask(&self, state: &State) -> Indexed<KvFound> {
        let kv = state.kv();
        let found = KvFound { entry: kv.get(&self.key).cloned(), table_index: kv.table_index() };
        Indexed { index: self.index(state), value: found }
    }

    fn index(&self, state: &State) -> u64 {
        state.kv().key_index(&self.key)
    }
}

/// See [`Query::KvList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvList {
    /// What the keys begin with; nothing: every key.
    pub prefix: String,
}

impl Asked for KvList {
    type Found = Vec<(String, Entry)>;

    fn ask(&self, state: &State) -> Indexed<Self::Found> {
        let kv = state.kv();
        let entries = kv.list(&self.prefix).map(|(key, entry)| (key.clone(), entry.clone())).collect();
        Indexed { index: self.index(state), value: entries }
    }

    fn index(&self, state: &State) -> u64 {
        state.kv().prefix_index(&self.prefix)
    }
}

/// See [`Query::KvKeys`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvKeys {
    /// What the keys begin with.
    pub prefix: String,
    /// Keys are cut after the first of these that follows the prefix; empty: not at all.
    pub separator: String,
}

impl Asked for KvKeys {
    type Found = Vec<String>;

    fn ask(&self, state: &State) -> Indexed<Vec<String>> {
        Indexed { index: self.index(state), value: state.kv().keys(&self.prefix, &self.separator) }
    }

    fn index(&self, state: &State) -> u64 {
        state.kv().prefix_index(&self.prefix)
    }
}

/// See [`Query::Applied`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied;

impl Asked for Applied {
    type Found = ();

    fn ask(&self, state: &State) -> Indexed<()> {
        Indexed { index: state.applied(), value: () }
    }
}

/// See [`Query::Usage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage;

/// What [`Usage`] finds: how many there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Nodes.
    pub nodes: u64,
    /// Services, by name.
    pub services: u64,
    /// Their instances.
    pub instances: u64,
    /// Keys.
    pub keys: u64,
    /// Sessions.
    pub sessions: u64,
}

impl Asked for Usage {
    type Found = Used;

    fn ask(&self, state: &State) -> Indexed<Used> {
        let (nodes, services, instances) = state.catalog().counts();
        let [nodes, services, instances, keys, sessions] =
            [nodes, services, instances, state.kv().len(), state.sessions().len()].map(|count| count as u64);
        Indexed { index: state.applied(), value: Used { nodes, services, instances, keys, sessions } }
    }
}

/// See [`Query::AskMachine`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskMachine {
    /// In the machine's own language.
    pub question: Vec<u8>,
}

impl Asked for AskMachine {
    type Found = Option<Vec<u8>>;

    fn ask(&self, state: &State) -> Indexed<Option<Vec<u8>>> {
        let answer = state.machine().map(|machine| machine.query(&self.question));
        Indexed { index: state.applied(), value: answer }
    }
}

/// See [`Query::SessionInfo`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its id.
    pub id: String,
}

/// What [`SessionInfo`] finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFound {
    /// The session, if there is one.
    pub session: Option<Session>,
    /// The newest change to all sessions: what one that is not there is reported at.
    pub table_index: u64,
}

impl Asked for SessionInfo {
    type Found = SessionFound;

    fn ask(&self, state: &State) -> Indexed<SessionFound> {
        let sessions = state.sessions();
        let (session, table_index) = (sessions.get(&self.id).cloned(), sessions.table_index());
        Indexed { index: self.index(state), value: SessionFound { session, table_index } }
    }

    fn index(&self, state: &State) -> u64 {
        state.sessions().index_of(&self.id)
    }
}

/// See [`Query::SessionList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList;

impl Asked for SessionList {
    type Found = Vec<Session>;

    fn ask(&self, state: &State) -> Indexed<Vec<Session>> {
        Indexed { index: self.index(state), value: state.sessions().iter().cloned().collect() }
    }

    fn index(&self, state: &State) -> u64 {
        state.sessions().table_index()
    }
}

/// See [`Query::SessionsOfNode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsOfNode {
    /// The node's name.
    pub node: String,
}

impl Asked for SessionsOfNode {
    type Found = Vec<Session>;

    fn ask(&self, state: &State) -> Indexed<Vec<Session>> {
        let found = state.sessions().on_node(&self.node).cloned().collect();
        Indexed { index: self.index(state), value: found }
    }

    fn index(&self, state: &State) -> u64 {
        state.sessions().node_index(&self.node)
    }
}

/// See [`Query::Txn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// The operations.
    pub ops: Vec<TxnOp>,
}

impl Asked for Txn {
    type Found = txn::Done;

    fn ask(&self, state: &State) -> Indexed<txn::Done> {
        Indexed { index: state.applied(), value: state.look_at(&self.ops) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, KvCommand, Request, RequestId};
    use super::*;

    fn sent_and_back<Q: Question>(state: &State, question: &Q) -> Indexed<Q::Found> {
        let query: Query = question.clone().into();
        let query: Query = postcard::from_bytes(&postcard::to_stdvec(&query).unwrap()).unwrap();
        let found = postcard::to_stdvec(&state.answer(&query)).unwrap();
        let found: Indexed<Found> = postcard::from_bytes(&found).unwrap();
        found.map(|found| Q::unpack(found).expect("an answer of the question's kind"))
    }

    #[test]
    fn a_question_that_travels_finds_what_is_found_at_home() {
        let mut state = State::default();
        for (index, key) in ["a/b", "a/c/d", "b"].into_iter().enumerate() {
            let command = KvCommand::Set { key: key.into(), value: (*b"v").into(), flags: 1, cas: None };
            let id = RequestId { origin: 1, number: index as u64 };
            state.apply(index as u64 + 1, &Request { id, done_below: 0, command: Command::Kv(command) });
        }
        let get = KvGet { key: "a/b".into() };
        assert_eq!(sent_and_back(&state, &get), get.ask(&state));
        assert_eq!(get.ask(&state).index, 1);
        let list = KvList { prefix: "a/".into() };
        assert_eq!(sent_and_back(&state, &list), list.ask(&state));
        let keys = KvKeys { prefix: "a/".into(), separator: "/".into() };
        assert_eq!(sent_and_back(&state, &keys).value, ["a/b", "a/c/"]);
        assert_eq!(sent_and_back(&state, &Applied).index, 3);
        assert_eq!(sent_and_back(&state, &AskMachine { question: Vec::new() }).value, None);
    }
}
