//! Who waits for what in the state to change: an entry that is applied wakes those whom it concerns, and not everybody.
//!
//! There may be thousands who wait and thousands of entries a second. Whoever is woken looks whether there is anything new, so
//! to wake one too many is no fault, and to leave one asleep is. So what an entry has changed is not guessed from the entry: each
//! table of the state tells the index of its newest change. Only of keys more is known, where the entry names all that it can have
//! changed: who waits for another key, or for what is in another folder, sleeps on.

use std::iter;

use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::mutant;
use crate::state::txn::KvVerb;
use crate::state::{Command, KvCommand, Query, State, TxnOp};

/// Keys and folders are spread over so many slots. Who shares a slot is woken for the others in it.
const SLOTS: usize = 256;

/// Places to wait in.
pub struct Waiters {
    /// Woken by every entry.
    every: Notify,
    /// Woken by changes to anything but keys.
    other: Notify,
    /// Woken by changes to certain keys.
    keys: Vec<Notify>,
}

impl Default for Waiters {
    fn default() -> Waiters {
        let keys = iter::repeat_with(Notify::new).take(SLOTS).collect();
        Waiters { every: Notify::new(), other: Notify::new(), keys }
    }
}

/// What an entry has changed.
pub(super) struct News {
    keys: bool,
    other: bool,
    /// Who may see what: that concerns all who wait.
    rights: bool,
}

impl News {
    /// What the entry at this index has changed in the state, which is as it left it.
    pub(super) fn of(index: u64, state: &State) -> News {
        News {
            keys: state.kv().table_index() == index,
            other: state.newest_but_keys() == index,
            rights: state.acl().newest() == index,
        }
    }

    /// Everything, as far as is known.
    pub(super) const ALL: News = News { keys: true, other: true, rights: true };
}

/// The slot of a key.
fn slot_of_key(key: &str) -> usize {
    xxh3_64_with_seed(key.as_bytes(), 0) as usize % SLOTS
}

/// The slot of a folder, which ends in a slash or is the nameless one that holds all.
fn slot_of_folder(folder: &str) -> usize {
    xxh3_64_with_seed(folder.as_bytes(), 1) as usize % SLOTS
}

/// All folders that a key is in.
fn folders_of(key: &str) -> impl Iterator<Item = &str> {
    iter::once("").chain(key.match_indices('/').map(|(at, _)| &key[..=at]))
}

/// A folder that every key with this prefix is in.
fn folder_of(prefix: &str) -> &str {
    &prefix[..prefix.rfind('/').map_or(0, |at| at + 1)]
}

/// All keys that a command can have changed, if it names them.
fn keys_of(command: &Command) -> Option<Vec<&str>> {
    match command {
        Command::Kv(
            KvCommand::Set { key, .. }
            | KvCommand::Delete { key, .. }
            | KvCommand::Acquire { key, .. }
            | KvCommand::Release { key, .. },
        ) => Some(vec![key]),
        Command::Txn(ops) => ops
            .iter()
            .map(|op| match op {
                TxnOp::Kv(op) if op.verb != KvVerb::DeleteTree => Some(op.key.as_str()),
                // A node that goes may end sessions, and with them their locks.
                TxnOp::Kv(_) | TxnOp::Catalog(_) => None,
            })
            .collect(),
        _ => None,
    }
}

impl Waiters {
    /// Where to wait for what this query finds to change. What is applied once [`Notify::notified`] was called is not missed.
    pub fn of(&self, query: &Query) -> &Notify {
        match query {
            // Mutants H09, H25 and H26 wake those whom it does not concern.
            _ if ["H09", "H25", "H26"].into_iter().any(mutant::is) => &self.every,
            Query::KvGet(get) => &self.keys[slot_of_key(&get.key)],
            Query::KvList(list) => &self.keys[slot_of_folder(folder_of(&list.prefix))],
            Query::KvKeys(keys) => &self.keys[slot_of_folder(folder_of(&keys.prefix))],
            Query::Applied(_) | Query::AskMachine(_) | Query::Txn(_) | Query::Usage(_) => &self.every,
            Query::SessionInfo(_)
            | Query::SessionList(_)
            | Query::SessionsOfNode(_)
            | Query::CatalogNodes(_)
            | Query::CatalogServices(_)
            | Query::ServiceInstances(_)
            | Query::OneNode(_)
            | Query::Checks(_)
            | Query::CoordinatesOfAll(_)
            | Query::CoordinatesOf(_)
            | Query::AclTokens(_)
            | Query::AclToken(_)
            | Query::AclSelf(_)
            | Query::AclPolicies(_)
            | Query::AclPolicy(_)
            | Query::AclRoles(_)
            | Query::AclRole(_)
            | Query::AclHolder(_)
            | Query::AutopilotInForce(_)
            | Query::PreparedList(_)
            | Query::Prepared(_)
            | Query::AllInstances(_)
            | Query::NodesAt(_)
            | Query::InstancesAt(_)
            | Query::NodesLike(_)
            | Query::InstancesLike(_) => &self.other,
        }
    }

    /// Wakes whom it may concern, once the state can be looked at. `command` is what the entry carried, if that is known.
    pub(super) fn wake(&self, news: &News, command: Option<&Command>) {
        self.every.notify_waiters();
        if news.other || news.rights {
            self.other.notify_waiters();
        }
        if !news.keys && !news.rights {
            return;
        }
        match command.filter(|_| !news.rights).and_then(keys_of) {
            Some(keys) => {
                for key in keys {
                    self.keys[slot_of_key(key)].notify_waiters();
                    folders_of(key).for_each(|folder| self.keys[slot_of_folder(folder)].notify_waiters());
                }
            }
            None => self.keys.iter().for_each(Notify::notify_waiters),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::state::catalog::{NodeInfo, Registration, ServiceInfo};
    use crate::state::query::{Applied, KvGet, KvKeys, KvList, SessionInfo, SessionList};
    use crate::state::session::{Behavior, NewSession};
    use crate::state::txn::{CatalogOp, CatalogRow, KvOp, RowVerb};
    use crate::state::{CatalogCommand, Outcome, Request, RequestId, SessionCommand, catalog};

    fn set(key: &str) -> Command {
        Command::Kv(KvCommand::Set { key: key.into(), value: b"v".as_slice().into(), flags: 0, cas: None })
    }

    fn lock(key: &str) -> Command {
        let session = "s".to_owned();
        Command::Kv(KvCommand::Acquire { key: key.into(), value: b"l".as_slice().into(), flags: 0, session })
    }

    fn op(verb: KvVerb, key: &str) -> TxnOp {
        let (value, session) = (b"t".as_slice().into(), String::new());
        TxnOp::Kv(KvOp { verb, key: key.into(), value, flags: 0, index: 0, session })
    }

    fn node() -> NodeInfo {
        NodeInfo { name: "n".into(), address: "10.0.0.1".into(), ..NodeInfo::default() }
    }

    fn commands() -> Vec<Command> {
        let session = || NewSession {
            id: "s".into(),
            node: "n".into(),
            behavior: Behavior::Delete,
            ..NewSession::default()
        };
        let web = ServiceInfo { id: "w".into(), name: "web".into(), ..ServiceInfo::default() };
        let register = |service| {
            Registration { node: node(), skip_node_update: false, service, checks: Vec::new() }.into()
        };
        let gone = CatalogOp { verb: RowVerb::Delete, row: CatalogRow::Node(node()), index: 0 };
        vec![
            set("a"),
            set("a/b"),
            set("a/b/c"),
            set("a/bc"),
            set("b/"),
            set("é/"),
            set("a"),
            Command::Noop,
            Command::Kv(KvCommand::Delete { key: "a/b/c".into(), cas: None }),
            Command::Txn(vec![op(KvVerb::Set, "x"), op(KvVerb::Set, "a/b/c"), op(KvVerb::Delete, "a")]),
            Command::Txn(vec![op(KvVerb::Set, "y"), op(KvVerb::DeleteTree, "a/b")]),
            Command::Kv(KvCommand::DeleteTree { prefix: "é".into() }),
            Command::Catalog(register(None)),
            Command::Catalog(register(Some(web))),
            Command::Session(SessionCommand::Create(session())),
            lock("a/b/c"),
            Command::Session(SessionCommand::Renew { id: "s".into() }),
            Command::Session(SessionCommand::Destroy { id: "s".into() }),
            Command::Session(SessionCommand::Create(session())),
            lock("q/r"),
            Command::Catalog(CatalogCommand::DeregisterService { node: "n".into(), id: "w".into() }),
            // The session goes with its node, and the key with its session.
            Command::Txn(vec![TxnOp::Catalog(Box::new(gone))]),
        ]
    }

    fn queries() -> Vec<Query> {
        let keys = ["a", "a/b", "a/b/c", "a/bc", "b/", "é/", "x", "y", "q/r", "nobody"];
        let prefixes = ["", "a", "a/", "a/b", "a/b/", "a/b/c", "é", "é/", "q/", "q/r", "nobody/"];
        let get = keys.map(|key| KvGet { key: key.into() }.into());
        let list = prefixes.map(|prefix| KvList { prefix: prefix.into() }.into());
        let names = prefixes.map(|prefix| KvKeys { prefix: prefix.into(), separator: "/".into() }.into());
        let instances = catalog::ServiceInstances { service: "web".into(), health: true };
        let others = [
            Applied.into(),
            SessionInfo { id: "s".into() }.into(),
            SessionList.into(),
            catalog::CatalogNodes.into(),
            catalog::OneNode { node: "n".into(), checks: true }.into(),
            instances.into(),
        ];
        get.into_iter().chain(list).chain(names).chain(others).collect()
    }

    #[test]
    fn whoever_has_news_is_woken_and_most_of_the_others_are_not() {
        let (waiters, mut state) = (Waiters::default(), State::default());
        let (mut news, mut woken) = (0, 0);
        for (index, command) in (1..).zip(commands()) {
            let queries = queries();
            let before: Vec<u64> = queries.iter().map(|query| state.index_of(query)).collect();
            let waiting: Vec<_> = queries.iter().map(|query| waiters.of(query).notified()).collect();
            let request = Request { id: RequestId { origin: 1, number: index }, done_below: index, command };
            let outcome = state.apply(index, &request);
            assert!(
                !matches!(outcome, Outcome::Refused { .. } | Outcome::ConditionFailed { .. }),
                "{outcome:?}"
            );
            waiters.wake(&News::of(index, &state), Some(&request.command));
            for ((query, before), waiting) in queries.iter().zip(before).zip(waiting) {
                let (changed, is_woken) = (state.index_of(query) > before, waiting.now_or_never().is_some());
                assert!(is_woken || !changed, "{query:?} sleeps through {:?}", request.command);
                news += u32::from(changed);
                woken += u32::from(is_woken);
            }
        }
        assert!(news > 100 && woken < 2 * news, "{woken} were woken for {news} news");
    }

    #[test]
    fn a_write_to_one_key_wakes_nobody_else_and_a_change_of_rights_everybody() {
        let waiters = Waiters::default();
        let woken = |news: &News, command: Option<Command>| {
            let queries = queries();
            let waiting: Vec<_> = queries.iter().map(|query| waiters.of(query).notified()).collect();
            waiters.wake(news, command.as_ref());
            waiting.into_iter().filter_map(FutureExt::now_or_never).count()
        };
        let keys = News { keys: true, other: false, rights: false };
        // What is under "", "a", "é", "a/" and "a/b", with values and without, and how far the state is.
        assert_eq!(woken(&keys, Some(set("a/new"))), 2 * 5 + 1);
        assert_eq!(woken(&News { keys: false, ..keys }, Some(set("a/b"))), 1);
        let rights = News { rights: true, ..keys };
        assert_eq!(woken(&rights, Some(set("a/b"))), queries().len());
        assert_eq!(woken(&News::ALL, None), queries().len());
    }
}
