//! What each [`Call`] needs, and what of its answer may be seen: the one place where the servers judge.
//!
//! [`permit`] and [`look`] match every call, every command and every query there is. Whoever adds one is asked by the
//! compiler which right it needs; nothing can be forgotten. Both are functions of the state that the call meets, so a
//! read is judged by the very state that answers it. A write is judged by a state that is current when the write begins
//! (the server goes to the leader for an index first): once a right is taken away, and that was acknowledged, no write
//! that begins afterwards gets through, whichever server is asked.
//!
//! What an agent does without asking the cluster (its members, its own services, user events) `http` judges, by the same
//! [`Authorizer`].
//!
//! Results that may not be seen are left out, as if they were not there, and the answer says that something was. Indexes
//! stay as they are: they tell that something changed, not what.

use crate::secret::Secret;
use crate::state::acl::rules::{Access, Kind};
use crate::state::acl::{AclCommand, Authorizer, Denied, Entered, ShownToken};
use crate::state::catalog::{Catalog, CatalogCommand, CheckRow, Registration};
use crate::state::prepared::PreparedCommand;
use crate::state::query::{Asked, Found, Indexed, KvKeys, Query};
use crate::state::txn::{CatalogOp, CatalogRow, KvOp, KvVerb, OpError, RowVerb};
use crate::state::{Command, KvCommand, Outcome, Returned, Session, SessionCommand, State, TxnOp, TxnResult};

use super::Call;

/// Why a call is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum No {
    /// Whoever asks may not.
    Denied(Denied),
    /// Of a transaction: operations that whoever asks may not.
    Txn(Vec<OpError>),
}

impl From<Denied> for No {
    fn from(denied: Denied) -> No {
        No::Denied(denied)
    }
}

/// Whether a call that is no read may be carried out.
///
/// # Errors
/// Why not.
pub fn permit(who: &Authorizer, call: &Call, state: &State) -> Result<(), No> {
    match call {
        // See `look`.
        Call::Read { .. } => Ok(()),
        Call::Write(command) => permit_command(who, command, state),
        // Whom to ask is no secret: without it a client finds nobody.
        Call::Cluster(_) | Call::Why => Ok(()),
        Call::AddServer(_) | Call::RemoveServer { .. } | Call::TransferLeadership { .. } => {
            Ok(who.require_operator(Access::Write)?)
        }
        Call::Coordinate(update) => Ok(who.require(Kind::Node, &update.node, Access::Write)?),
        Call::Health { .. } => Ok(who.require_operator(Access::Read)?),
        // It holds all tokens.
        Call::Snapshot(_) => Ok(who.require_acl(Access::Write)?),
    }
}

fn permit_command(who: &Authorizer, command: &Command, state: &State) -> Result<(), No> {
    match command {
        Command::Noop => Ok(()),
        // What it means is the embedding program's business; and what servers gather, they propose.
        Command::Machine(_) | Command::Coordinates(_) => Ok(who.require_operator(Access::Write)?),
        Command::Kv(command) => Ok(permit_kv(who, command)?),
        Command::Session(command) => Ok(permit_session(who, command, state)?),
        Command::Catalog(command) => Ok(permit_catalog(who, command, state)?),
        Command::Txn(ops) => permit_txn(who, ops, state),
        Command::Acl(command) => Ok(permit_acl(who, command)?),
        // It holds all tokens.
        Command::Restore(_) => Ok(who.require_acl(Access::Write)?),
        Command::Autopilot(_) => Ok(who.require_operator(Access::Write)?),
        Command::Prepared(command) => Ok(permit_prepared(who, command, state)?),
    }
}

fn permit_kv(who: &Authorizer, command: &KvCommand) -> Result<(), Denied> {
    match command {
        KvCommand::Set { key, .. }
        | KvCommand::Delete { key, .. }
        | KvCommand::Acquire { key, .. }
        | KvCommand::Release { key, .. } => who.require(Kind::Key, key, Access::Write),
        KvCommand::DeleteTree { prefix } => who.require_tree(prefix),
    }
}

fn permit_session(who: &Authorizer, command: &SessionCommand, state: &State) -> Result<(), Denied> {
    match command {
        SessionCommand::Create(made) => who.require(Kind::Session, &made.node, Access::Write),
        SessionCommand::Destroy { id } | SessionCommand::Renew { id } => match state.sessions().get(id) {
            Some(session) => who.require(Kind::Session, &session.made.node, Access::Write),
            // Of one that is not there nobody knows the node; nothing will be done.
            None => Ok(()),
        },
        // A leader's own.
        SessionCommand::Expire { .. } | SessionCommand::LiftDelays { .. } => {
            who.require_operator(Access::Write)
        }
    }
}

fn permit_catalog(who: &Authorizer, command: &CatalogCommand, state: &State) -> Result<(), Denied> {
    let catalog = state.catalog();
    match command {
        CatalogCommand::Register(registration) => permit_registration(who, registration, catalog),
        CatalogCommand::DeregisterNode { node } => who.require(Kind::Node, node, Access::Write),
        CatalogCommand::DeregisterService { node, id } => match catalog.service(node, id) {
            Some(service) => on_service(who, node, &service.name),
            None => Ok(()),
        },
        CatalogCommand::DeregisterCheck { node, id } => match catalog.check(node, id) {
            Some(check) if check.service_id.is_empty() => who.require(Kind::Node, node, Access::Write),
            Some(check) => match catalog.service(node, &check.service_id) {
                Some(service) => on_service(who, node, &service.name),
                None => who.require(Kind::Node, node, Access::Write),
            },
            None => Ok(()),
        },
    }
}

/// To take a service out, the right to it will do, or that to its node.
fn on_service(who: &Authorizer, node: &str, service: &str) -> Result<(), Denied> {
    if who.allows(Kind::Node, node, Access::Write) {
        return Ok(());
    }
    who.require(Kind::Service, service, Access::Write)
}

fn permit_registration(who: &Authorizer, new: &Registration, catalog: &Catalog) -> Result<(), Denied> {
    let Registration { node, skip_node_update, service, checks } = new;
    let stays = |known: &crate::state::catalog::Row<_>| *skip_node_update || known.info == *node;
    if !catalog.node(&node.name).is_some_and(stays) {
        who.require(Kind::Node, &node.name, Access::Write)?;
    }
    // An id means one node: under another name, that one is taken out.
    if let Some(former) = catalog.node_by_id(&node.id).filter(|former| former.info.name != node.name) {
        who.require(Kind::Node, &former.info.name, Access::Write)?;
    }
    if let Some(service) = service {
        who.require(Kind::Service, &service.name, Access::Write)?;
        // Its place may be another service's.
        if let Some(known) = catalog.service(&node.name, &service.id) {
            who.require(Kind::Service, &known.name, Access::Write)?;
        }
    }
    for check in checks {
        let known = catalog.check(&node.name, &check.id).map(|known| known.service_id.as_str());
        for service_id in [Some(check.service_id.as_str()), known].into_iter().flatten() {
            let named =
                service.as_ref().filter(|service| service.id == service_id).map(|service| &service.name);
            let named = named.or(catalog.service(&node.name, service_id).map(|known| &known.name));
            match named {
                Some(name) if !service_id.is_empty() => who.require(Kind::Service, name, Access::Write)?,
                _ => who.require(Kind::Node, &node.name, Access::Write)?,
            }
        }
    }
    Ok(())
}

/// A query is its name's; one without a name is anybody's who may write all queries.
fn permit_prepared(who: &Authorizer, command: &PreparedCommand, state: &State) -> Result<(), Denied> {
    let known = |id: &str| state.prepared().get(id).map(|row| row.info.name.clone());
    let mut names = Vec::new();
    match command {
        PreparedCommand::Create(query) => names.push(query.name.clone()),
        PreparedCommand::Update(query) => {
            names.push(query.name.clone());
            names.extend(known(&query.id));
        }
        // Of one that is not there nobody knows the name; nothing will be done.
        PreparedCommand::Delete { id } => names.extend(known(id)),
    }
    names.iter().try_for_each(|name| who.require(Kind::Query, name, Access::Write))
}

fn permit_row(who: &Authorizer, op: &CatalogOp, state: &State) -> Result<(), Denied> {
    let catalog = state.catalog();
    let reads = matches!(op.verb, RowVerb::Get | RowVerb::GetById);
    let access = if reads { Access::Read } else { Access::Write };
    match &op.row {
        // Whichever node has the id is meant; that none has it is told to whoever knows the id.
        CatalogRow::Node(node) if op.verb == RowVerb::GetById => match catalog.node_by_id(&node.id) {
            Some(row) => who.require(Kind::Node, &row.info.name, access),
            None => Ok(()),
        },
        CatalogRow::Node(node) => {
            who.require(Kind::Node, &node.name, access)?;
            // An id means one node: under another name, that one is meant, or taken out.
            match catalog.node_by_id(&node.id).filter(|former| former.info.name != node.name) {
                Some(former) => who.require(Kind::Node, &former.info.name, access),
                None => Ok(()),
            }
        }
        CatalogRow::Service { node, service } => {
            let known = catalog.service(node, &service.id).map(|known| known.name.as_str());
            let named = Some(service.name.as_str()).filter(|name| !name.is_empty());
            known.into_iter().chain(named).try_for_each(|name| who.require(Kind::Service, name, access))
        }
        CatalogRow::Check { node, check } => {
            let known = catalog.check(node, &check.id).map(|known| known.service_id.as_str());
            for service_id in known.into_iter().chain([check.service_id.as_str()]) {
                match catalog.service(node, service_id) {
                    Some(service) if !service_id.is_empty() => {
                        who.require(Kind::Service, &service.name, access)?;
                    }
                    _ => who.require(Kind::Node, node, access)?,
                }
            }
            Ok(())
        }
    }
}

fn permit_txn(who: &Authorizer, ops: &[TxnOp], state: &State) -> Result<(), No> {
    let judged = (0..).zip(ops).filter_map(|(op_index, op)| {
        let permitted = match op {
            TxnOp::Kv(op) => permit_op(who, op),
            TxnOp::Catalog(op) => permit_row(who, op, state),
        };
        let denied = permitted.err()?;
        Some(OpError { op_index, what: denied.to_string() })
    });
    let errors: Vec<OpError> = judged.collect();
    if errors.is_empty() { Ok(()) } else { Err(No::Txn(errors)) }
}

fn permit_op(who: &Authorizer, op: &KvOp) -> Result<(), Denied> {
    match &op.verb {
        KvVerb::Set | KvVerb::Cas | KvVerb::Lock | KvVerb::Unlock | KvVerb::Delete | KvVerb::DeleteCas => {
            who.require(Kind::Key, &op.key, Access::Write)
        }
        KvVerb::DeleteTree => who.require_tree(&op.key),
        KvVerb::Get
        | KvVerb::GetOrEmpty
        | KvVerb::CheckIndex
        | KvVerb::CheckSession
        | KvVerb::CheckNotExists => who.require(Kind::Key, &op.key, Access::Read),
        // Keys that may not be seen are left out.
        KvVerb::GetTree => Ok(()),
        // It fails anyway.
        KvVerb::Other(_) => Ok(()),
    }
}

fn permit_acl(who: &Authorizer, command: &AclCommand) -> Result<(), Denied> {
    match command {
        // That nobody has any rights yet is what it is for.
        AclCommand::Bootstrap { .. } => Ok(()),
        AclCommand::Introduce(_)
        | AclCommand::PutPolicy { .. }
        | AclCommand::DeletePolicy { .. }
        | AclCommand::PutRole { .. }
        | AclCommand::DeleteRole { .. }
        | AclCommand::PutToken { .. }
        | AclCommand::DeleteToken { .. }
        | AclCommand::Expire { .. } => who.require_acl(Access::Write),
    }
}

/// Leaves out of what a write came to what may not be seen. That is keys of trees that a transaction also reads: all else it names
/// was judged before it was carried out, but which keys a tree has is known only once it is read, and the log knows no tokens.
pub fn sift(who: &Authorizer, outcome: &mut Outcome) {
    if let Outcome::Returned { value: Returned::Txn(results), .. } = outcome {
        results.retain(|result| match result {
            TxnResult::Kv(key, _) => who.allows(Kind::Key, key, Access::Read),
            TxnResult::Node(_) | TxnResult::Service(_) | TxnResult::Check(_) => true,
        });
    }
}

/// What a query finds that may be seen, and whether there was something else.
///
/// # Errors
/// When it may not be asked at all.
pub fn look(
    who: &Authorizer,
    query: &Query,
    lists_need_list: bool,
    state: &State,
) -> Result<(Indexed<Found>, bool), Denied> {
    let reads = |kind: Kind, name: &str| who.allows(kind, name, Access::Read);
    let lists = |prefix: &str| {
        if lists_need_list { who.require(Kind::Key, prefix, Access::List) } else { Ok(()) }
    };
    // What may be asked.
    match query {
        Query::KvGet(get) => who.require(Kind::Key, &get.key, Access::Read)?,
        Query::KvList(list) => lists(&list.prefix)?,
        Query::KvKeys(keys) => lists(&keys.prefix)?,
        Query::AutopilotInForce(_) | Query::Usage(_) => who.require_operator(Access::Read)?,
        Query::AskMachine(_) => who.require_operator(Access::Read)?,
        Query::AclTokens(_)
        | Query::AclToken(_)
        | Query::AclPolicies(_)
        | Query::AclPolicy(_)
        | Query::AclRoles(_)
        | Query::AclRole(_) => who.require_acl(Access::Read)?,
        // Whoever names a secret has it.
        Query::AclSelf(_) | Query::AclHolder(_) => {}
        // How far the state is, is no secret.
        Query::Applied(_) => {}
        // These leave out what may not be seen.
        Query::SessionInfo(_)
        | Query::SessionList(_)
        | Query::SessionsOfNode(_)
        | Query::Txn(_)
        | Query::CatalogNodes(_)
        | Query::CatalogServices(_)
        | Query::ServiceInstances(_)
        | Query::AllInstances(_)
        | Query::NodesAt(_)
        | Query::InstancesAt(_)
        | Query::NodesLike(_)
        | Query::InstancesLike(_)
        | Query::OneNode(_)
        | Query::CoordinatesOfAll(_)
        | Query::CoordinatesOf(_)
        | Query::PreparedList(_)
        | Query::Prepared(_)
        | Query::Checks(_) => {}
    }
    if let Query::KvKeys(keys) = query {
        return Ok(look_at_keys(who, keys, state));
    }
    if let Query::Txn(txn) = query
        && let Err(No::Txn(errors)) = permit_txn(who, &txn.ops, state)
    {
        return Ok((Indexed { index: state.applied(), value: Found::Txn(Err(errors)) }, false));
    }
    let mut found = state.answer(query);
    let mut filtered = false;
    let session_seen = |session: &Session| reads(Kind::Session, &session.made.node);
    let check_seen = |row: &CheckRow| {
        reads(Kind::Node, &row.node)
            && (row.service_name.is_empty() || reads(Kind::Service, &row.service_name))
    };
    match &mut found.value {
        // Mutant P08: a listing shows all there is.
        Found::KvList(entries) => {
            keep(entries, &mut filtered, |(key, _)| reads(Kind::Key, key) || crate::mutant::is("P08"));
        }
        Found::SessionInfo(found) => {
            filtered |= found.session.as_ref().is_some_and(|session| !session_seen(session));
            found.session = found.session.take().filter(session_seen);
        }
        Found::SessionList(sessions) | Found::SessionsOfNode(sessions) => {
            keep(sessions, &mut filtered, session_seen);
        }
        Found::Txn(Ok(results)) => {
            keep(results, &mut filtered, |result| match result {
                TxnResult::Kv(key, _) => reads(Kind::Key, key),
                TxnResult::Node(row) => reads(Kind::Node, &row.info.name),
                TxnResult::Service(row) => reads(Kind::Service, &row.info.name),
                TxnResult::Check(row) => check_seen(row),
            });
        }
        Found::CatalogNodes(nodes) | Found::NodesAt(nodes) | Found::NodesLike(nodes) => {
            keep(nodes, &mut filtered, |row| reads(Kind::Node, &row.info.name));
        }
        Found::CatalogServices(services) => {
            let before = services.len();
            services.retain(|name, _| reads(Kind::Service, name));
            filtered |= services.len() < before;
        }
        Found::ServiceInstances(instances)
        | Found::AllInstances(instances)
        | Found::InstancesAt(instances)
        | Found::InstancesLike(instances) => keep(instances, &mut filtered, |instance| {
            reads(Kind::Service, &instance.service.info.name) && reads(Kind::Node, &instance.node.info.name)
        }),
        Found::OneNode(node) => {
            if node.as_ref().is_some_and(|whole| !reads(Kind::Node, &whole.node.info.name)) {
                *node = None;
                filtered = true;
            }
            if let Some(whole) = node {
                keep(&mut whole.services, &mut filtered, |row| reads(Kind::Service, &row.info.name));
                keep(&mut whole.checks, &mut filtered, check_seen);
            }
        }
        Found::Checks(checks) => keep(checks, &mut filtered, check_seen),
        Found::CoordinatesOfAll(places) | Found::CoordinatesOf(places) => {
            keep(places, &mut filtered, |one| reads(Kind::Node, &one.node));
        }
        Found::PreparedList(queries) => {
            keep(queries, &mut filtered, |row| reads(Kind::Query, &row.info.name));
        }
        // To carry one out needs no right to it: what it finds is judged by the rights to services.
        Found::Prepared(Some(row)) if !matches!(query, Query::Prepared(asked) if asked.resolve) => {
            who.require(Kind::Query, &row.info.name, Access::Read)?;
        }
        // To read how rights are given is one thing, to have them all another.
        Found::AclTokens(tokens) => tokens.iter_mut().for_each(|token| hide(who, token)),
        Found::AclToken(token) => token.iter_mut().for_each(|token| hide(who, token)),
        // Whole, once it may be asked for.
        Found::KvGet(_)
        | Found::KvKeys(_)
        | Found::Txn(Err(_))
        | Found::Applied(())
        | Found::AskMachine(_)
        | Found::Prepared(_)
        | Found::AutopilotInForce(_)
        | Found::Usage(_)
        | Found::AclSelf(_)
        | Found::AclPolicies(_)
        | Found::AclPolicy(_)
        | Found::AclRoles(_)
        | Found::AclRole(_)
        | Found::AclHolder(_) => {}
    }
    Ok((found, filtered))
}

fn keep<T>(items: &mut Vec<T>, filtered: &mut bool, seen: impl Fn(&T) -> bool) {
    let before = items.len();
    items.retain(seen);
    *filtered |= items.len() < before;
}

fn hide(who: &Authorizer, token: &mut ShownToken) {
    if !who.acl(Access::Write) {
        let Entered { it, .. } = &mut token.token;
        it.secret = Secret::new(crate::secret::HIDDEN);
    }
}

/// Keys are cut at the separator after those that may not be seen are left out: half a name must not tell of a whole one.
fn look_at_keys(who: &Authorizer, keys: &KvKeys, state: &State) -> (Indexed<Found>, bool) {
    let KvKeys { prefix, separator } = keys;
    let mut all = KvKeys { prefix: prefix.clone(), separator: String::new() }.ask(state);
    let mut filtered = false;
    keep(&mut all.value, &mut filtered, |key| who.allows(Kind::Key, key, Access::Read));
    if !separator.is_empty() {
        for key in &mut all.value {
            if let Some(at) = key[prefix.len()..].find(separator.as_str()) {
                key.truncate(prefix.len() + at + separator.len());
            }
        }
        all.value.dedup();
    }
    (all.map(Found::KvKeys), filtered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::acl::authorizer::Default as ByDefault;
    use crate::state::acl::{Holder, Rules};
    use crate::state::catalog::{
        CatalogServices, InstancesLike, NodeInfo, NodesAt, NodesLike, OneNode, ServiceInfo, ServiceInstances,
    };
    use crate::state::query::{KvGet, KvList, SessionList, Txn};
    use crate::state::session::NewSession;
    use crate::state::{Request, RequestId};
    use proptest::prelude::*;

    fn who(policy: &str) -> Authorizer {
        let rules = vec![Rules::parse(policy).unwrap()];
        Authorizer::of(&Holder { accessor: "x".to_owned(), rules }, ByDefault::Deny)
    }

    fn apply(state: &mut State, command: Command) {
        let index = state.applied() + 1;
        let id = RequestId { origin: 1, number: index };
        assert!(state.apply(index, &Request { id, done_below: 0, command }).is_done());
    }

    fn register(node: &str, service: Option<&str>) -> Command {
        let service =
            service.map(|name| ServiceInfo { id: name.into(), name: name.into(), ..Default::default() });
        let node = NodeInfo { name: node.into(), address: "10.0.0.1".into(), ..NodeInfo::default() };
        Command::Catalog(Registration { node, skip_node_update: false, service, checks: Vec::new() }.into())
    }

    fn full() -> State {
        let mut state = State::default();
        for key in ["a/b/c", "a/b/d", "a/x", "b"] {
            apply(&mut state, set(key));
        }
        for (node, service) in [("n1", "web"), ("n1", "db"), ("n2", "web")] {
            apply(&mut state, register(node, Some(service)));
        }
        for (id, node) in [("s1", "n1"), ("s2", "n2")] {
            let made = NewSession { id: id.into(), node: node.into(), ..NewSession::default() };
            apply(&mut state, Command::Session(SessionCommand::Create(made)));
        }
        state
    }

    fn set(key: &str) -> Command {
        Command::Kv(KvCommand::Set { key: key.into(), value: [1].into(), flags: 0, cas: None })
    }

    fn seen(policy: &str, query: impl Into<Query>) -> (Found, bool) {
        let (found, filtered) = look(&who(policy), &query.into(), false, &full()).unwrap();
        (found.value, filtered)
    }

    #[test]
    fn keys_that_may_not_be_seen_are_left_out_before_names_are_cut() {
        let policy = "key_prefix \"a/\" { policy = \"read\" } key_prefix \"a/b/\" { policy = \"deny\" }";
        let keys = |separator: &str| KvKeys { prefix: "a/".into(), separator: separator.into() };
        assert_eq!(seen(policy, keys("/")), (Found::KvKeys(vec!["a/x".into()]), true));
        assert_eq!(
            seen("key_prefix \"\" { policy = \"read\" }", keys("/")),
            (Found::KvKeys(vec!["a/b/".into(), "a/x".into()]), false)
        );
        let (Found::KvList(entries), true) = seen(policy, KvList { prefix: String::new() }) else { panic!() };
        assert_eq!(entries.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a/x"]);
        let denied = look(&who(policy), &KvGet { key: "b".into() }.into(), false, &full()).unwrap_err();
        assert!(denied.to_string().ends_with("lacks permission 'key:read' on \"b\""), "{denied}");
        let lists =
            |policy: &str| look(&who(policy), &KvList { prefix: "a/".into() }.into(), true, &full()).is_ok();
        assert!(!lists(policy) && lists("key_prefix \"a/\" { policy = \"list\" }"));
    }

    #[test]
    fn nodes_services_and_sessions_are_seen_by_their_names() {
        let policy = "node \"n1\" { policy = \"read\" } service \"web\" { policy = \"read\" } session \"n2\" { policy = \"read\" }";
        let (Found::ServiceInstances(found), true) =
            seen(policy, ServiceInstances { service: "web".into(), health: true })
        else {
            panic!()
        };
        assert_eq!(found.iter().map(|one| one.node.info.name.as_str()).collect::<Vec<_>>(), ["n1"]);
        let (Found::CatalogServices(found), true) =
            seen(policy, CatalogServices { node_meta: Default::default() })
        else {
            panic!()
        };
        assert_eq!(found.keys().collect::<Vec<_>>(), ["web"]);
        let (Found::OneNode(Some(found)), true) = seen(policy, OneNode { node: "n1".into(), checks: true })
        else {
            panic!()
        };
        assert_eq!(found.services.len(), 1);
        assert_eq!(seen(policy, OneNode { node: "n2".into(), checks: true }), (Found::OneNode(None), true));
        let (Found::SessionList(found), true) = seen(policy, SessionList) else { panic!() };
        assert_eq!(found.iter().map(|one| one.made.id.as_str()).collect::<Vec<_>>(), ["s2"]);
    }

    #[test]
    fn a_registration_needs_the_right_to_all_it_touches() {
        let state = full();
        let may =
            |policy: &str, command: Command| permit(&who(policy), &Call::Write(command), &state).is_ok();
        let web = "service \"web\" { policy = \"write\" }";
        let n1 = "node \"n1\" { policy = \"write\" }";
        // The node is there and stays as it is.
        assert!(may(web, register("n1", Some("web"))));
        assert!(!may(web, register("n3", Some("web"))), "the node is new");
        assert!(!may(n1, register("n1", Some("web"))));
        assert!(may(n1, register("n1", None)));
        // Another service's place.
        let Command::Catalog(CatalogCommand::Register(mut taken)) = register("n1", Some("web")) else {
            panic!()
        };
        taken.service.as_mut().unwrap().id = "db".into();
        assert!(!may(web, Command::Catalog(CatalogCommand::Register(taken))));
        // A node's id is no name of it: under it, a service's right makes no node, and takes no other's place.
        let (id, mut state) = ("77777777-2222-3333-4444-555555555555", full());
        let named = |name: &str, id: &str, skip_node_update, service: Option<&str>| {
            let Command::Catalog(CatalogCommand::Register(mut new)) = register(name, service) else {
                panic!()
            };
            (new.node.id, new.skip_node_update) = (id.into(), skip_node_update);
            Command::Catalog(CatalogCommand::Register(new))
        };
        apply(&mut state, named("n4", id, false, None));
        let may_there =
            |policy: &str, command: Command| permit(&who(policy), &Call::Write(command), &state).is_ok();
        assert!(may_there(web, named("n4", "", true, Some("web"))));
        assert!(!may_there(web, named(id, "", true, Some("web"))));
        let sevens = "node_prefix \"7\" { policy = \"write\" }";
        assert!(may_there(sevens, named("7evil", "", false, None)));
        assert!(!may_there(sevens, named("7evil", id, false, None)));
        // Nor where somebody else was called by it before.
        let mut decoyed = full();
        apply(&mut decoyed, named(id, "", false, None));
        apply(&mut decoyed, named("n4", id, false, None));
        let evil = Call::Write(named("7evil", id, false, None));
        assert!(permit(&who(sevens), &evil, &decoyed).is_err(), "the node with that id is taken out");
        let out = |id: &str| {
            Command::Catalog(CatalogCommand::DeregisterService { node: "n1".into(), id: id.into() })
        };
        assert!(may(web, out("web")) && !may(web, out("db")) && may(n1, out("db")));
        let destroy = |id: &str| Command::Session(SessionCommand::Destroy { id: id.into() });
        let session = "session \"n1\" { policy = \"write\" }";
        assert!(may(session, destroy("s1")) && !may(session, destroy("s2")) && may("", destroy("s3")));
        assert!(!may("acl = \"read\"", Command::Acl(AclCommand::DeletePolicy { id: "p".into() })));
        assert!(
            permit(&who("operator = \"write\""), &Call::Snapshot(super::super::Consistency::Default), &state)
                .is_err()
        );
    }

    fn op(verb: &str, key: &str) -> TxnOp {
        let (verb, key) = (KvVerb::named(verb), key.to_owned());
        TxnOp::Kv(KvOp { verb, key, value: [].into(), flags: 0, index: 0, session: String::new() })
    }

    #[test]
    fn each_operation_of_a_transaction_is_judged() {
        let policy = "key_prefix \"a/\" { policy = \"read\" } key \"b\" { policy = \"write\" }";
        let ops = vec![op("get", "a/x"), op("set", "a/x"), op("delete", "b"), op("delete-tree", "b")];
        let refused = permit(&who(policy), &Call::Write(Command::Txn(ops)), &full());
        let Err(No::Txn(errors)) = refused else { panic!("{refused:?}") };
        assert_eq!(errors.iter().map(|error| error.op_index).collect::<Vec<_>>(), [1, 3]);
        let (Found::Txn(Ok(found)), true) =
            seen("key_prefix \"a/b/\" { policy = \"read\" }", Txn { ops: vec![op("get-tree", "a")] })
        else {
            panic!()
        };
        assert_eq!(found.len(), 2);
        let (Found::Txn(Err(errors)), _) = seen(policy, Txn { ops: vec![op("get", "c")] }) else { panic!() };
        assert!(errors[0].what.starts_with("Permission denied: "), "{errors:?}");
    }

    #[test]
    fn a_transaction_that_writes_shows_only_the_keys_of_a_tree_that_may_be_seen() {
        let mut state = full();
        let index = state.applied() + 1;
        let ops = vec![op("set", "a/b/c"), op("get-tree", "a")];
        let request =
            Request { id: RequestId { origin: 1, number: index }, done_below: 0, command: Command::Txn(ops) };
        let mut outcome = state.apply(index, &request);
        sift(&who("key_prefix \"a/b/\" { policy = \"write\" }"), &mut outcome);
        let Outcome::Returned { value: Returned::Txn(results), .. } = outcome else { panic!("{outcome:?}") };
        let keys = results.iter().map(|result| match result {
            TxnResult::Kv(key, _) => key.as_str(),
            other => panic!("{other:?}"),
        });
        assert_eq!(keys.collect::<Vec<_>>(), ["a/b/c", "a/b/c", "a/b/d"]);
    }

    #[test]
    fn who_reads_a_node_by_its_id_needs_the_right_to_the_node() {
        let mut state = full();
        let id = "11111111-2222-3333-4444-555555555555";
        let node =
            NodeInfo { name: "n3".into(), id: id.into(), address: "10.0.0.3".into(), ..NodeInfo::default() };
        let new = Registration { node, skip_node_update: false, service: None, checks: Vec::new() };
        apply(&mut state, Command::Catalog(new.into()));
        let found = |policy: &str, id: &str| {
            let row = CatalogRow::Node(NodeInfo { id: id.into(), ..NodeInfo::default() });
            let ops = vec![TxnOp::Catalog(Box::new(CatalogOp { verb: RowVerb::GetById, row, index: 0 }))];
            let (found, _) = look(&who(policy), &Txn { ops }.into(), false, &state).unwrap();
            let Found::Txn(done) = found.value else { panic!("{found:?}") };
            done.map(|results| results.len()).map_err(|errors| errors[0].what.clone())
        };
        assert_eq!(found("node \"n3\" { policy = \"read\" }", id), Ok(1));
        assert!(
            found("node \"n1\" { policy = \"read\" }", id).unwrap_err().starts_with("Permission denied: ")
        );
        assert!(found("", "nobody's").unwrap_err().ends_with("doesn't exist"));
    }

    #[test]
    fn what_is_found_by_an_address_or_in_any_case_is_judged_as_what_is_listed() {
        let count = |policy: &str| {
            let address = [10, 0, 0, 1].into();
            let nodes =
                [seen(policy, NodesAt { address }).0, seen(policy, NodesLike { name: "N1".into() }).0];
            let instances = seen(policy, InstancesLike { service: "WEB".into() }).0;
            let nodes = nodes.map(|found| match found {
                Found::NodesAt(nodes) | Found::NodesLike(nodes) => nodes.len(),
                other => panic!("{other:?}"),
            });
            let Found::InstancesLike(instances) = instances else { panic!("{instances:?}") };
            (nodes, instances.len())
        };
        let n1 = "node \"n1\" { policy = \"read\" }";
        assert_eq!(count(""), ([0, 0], 0));
        assert_eq!(count(n1), ([1, 1], 0));
        assert_eq!(count(&format!("{n1} service \"web\" {{ policy = \"read\" }}")), ([1, 1], 1));
        assert_eq!(count("service \"web\" { policy = \"read\" }"), ([0, 0], 0));
    }

    proptest! {
        /// Who may do everything sees what there is; who may do nothing sees nothing.
        #[test]
        fn all_or_nothing(prefix in "[ab/]{0,3}", separator in "/?") {
            let state = full();
            let queries: Vec<Query> = vec![
                KvList { prefix: prefix.clone() }.into(),
                KvKeys { prefix, separator }.into(),
                SessionList.into(),
                CatalogServices { node_meta: Default::default() }.into(),
                ServiceInstances { service: "web".into(), health: true }.into(),
            ];
            for query in queries {
                let all = who("key_prefix \"\" { policy = \"read\" } session_prefix \"\" { policy = \"read\" }
                    node_prefix \"\" { policy = \"read\" } service_prefix \"\" { policy = \"read\" }");
                let (found, filtered) = look(&all, &query, false, &state).unwrap();
                prop_assert_eq!((&found, filtered), (&state.answer(&query), false));
                let (nothing, filtered) = look(&who(""), &query, false, &state).unwrap();
                prop_assert_eq!(nothing.index, found.index);
                prop_assert_eq!(filtered, nothing.value != found.value);
                let none = match nothing.value {
                    Found::KvList(found) => found.is_empty(),
                    Found::KvKeys(found) => found.is_empty(),
                    Found::SessionList(found) => found.is_empty(),
                    Found::CatalogServices(found) => found.is_empty(),
                    Found::ServiceInstances(found) => found.is_empty(),
                    _ => false,
                };
                prop_assert!(none);
            }
        }
    }
}
