//! The leader enters into the catalog what gossip says of the members: which nodes there are, and whether they
//! live.
//!
//! Every member has its node registered with the check `serfHealth`; servers also run the service
//! `consul`. A failed member's check is critical; one that left is taken out, with all that is on it. Nodes
//! that others registered have no such check and are left alone.
//!
//! A node whose `serfHealth` is there and that gossip does not know may only not be known *yet*: a leader that has just
//! started sees the others come one by one. So it counts as failed after a minute, and as gone when gossip, had it known
//! it, would have forgotten it. Taking it out at once ended sessions that were in use (seed 58 of the sweep, once). One that
//! this leader's gossip did know, and has forgotten, has been gone for as long as that already ([`Missing`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::env::Instant;
use crate::gossip::{Member, Status as Fate};
use crate::mutant;
use crate::state::CatalogCommand;
use crate::state::catalog::{
    CheckInfo, CheckRow, Instance, NodeInfo, Registration, Row, SERF_HEALTH, ServiceInfo, Status,
};

use super::local::book::CONSUL_SERVICE;
use super::meta::{Meta, Role};
use super::uuid_of;

/// A node that gossip does not know for so long counts as failed.
const UNKNOWN_FOR: Duration = Duration::from_secs(60);
/// And as gone after so long, which is when gossip forgets who failed.
const REAPED_AFTER: Duration = Duration::from_secs(72 * 3600);

/// What the catalog holds of all this.
pub struct Entered {
    /// All nodes.
    pub nodes: Vec<Row<NodeInfo>>,
    /// All checks; those that are not `serfHealth` do not matter.
    pub checks: Vec<CheckRow>,
    /// The instances of the service `consul`.
    pub servers: Vec<Instance>,
}

/// The check that stands for a member's life.
fn serf_health(lives: bool) -> CheckInfo {
    CheckInfo {
        id: SERF_HEALTH.to_owned(),
        name: "Serf Health Status".to_owned(),
        status: if lives { Status::Passing } else { Status::Critical },
        notes: String::new(),
        output: if lives { "Agent alive and reachable" } else { "Agent not live or unreachable" }.to_owned(),
        service_id: String::new(),
        kind: String::new(),
        interval: String::new(),
        timeout: String::new(),
    }
}

/// The nodes that the catalog has as members and that gossip does not know.
fn unknown(members: &[Member], entered: &Entered) -> BTreeSet<String> {
    let known: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let entered = entered.checks.iter().filter(|row| row.check.info.id == SERF_HEALTH);
    entered.filter(|row| !known.contains(row.node.as_str())).map(|row| row.node.clone()).collect()
}

/// How long gossip has not known the nodes that it does not know.
#[derive(Debug, Default)]
pub struct Missing {
    /// The members that were known, as long as they are, or are in the catalog.
    met: BTreeSet<String>,
    since: BTreeMap<String, Instant>,
}

impl Missing {
    /// Others have led, or nobody: from now on it is counted anew.
    pub fn begin_anew(&mut self) {
        self.since.clear();
    }

    /// Looks at the members and the catalog. Who was known to this node's gossip and is not any more has been forgotten, which
    /// happens only to who has been gone for long.
    pub fn look(
        &mut self,
        members: &[Member],
        entered: &Entered,
        now: Instant,
    ) -> BTreeMap<String, Duration> {
        let missed = unknown(members, entered);
        self.since.retain(|node, _| missed.contains(node));
        self.met.retain(|node| missed.contains(node));
        let missed_for = missed.into_iter().map(|node| {
            let since = *self.since.entry(node.clone()).or_insert(now);
            let gone_for = if self.met.contains(&node) { REAPED_AFTER } else { now.since(since) };
            (node, gone_for)
        });
        let missed_for = missed_for.collect();
        self.met.extend(members.iter().map(|member| member.name.clone()));
        missed_for
    }
}

/// What to write so that the catalog agrees with gossip. `unknown_for` tells for how long this leader has not known
/// a node. Pure; an empty plan says that they agree.
pub fn plan(
    members: &[Member],
    entered: &Entered,
    unknown_for: &BTreeMap<String, Duration>,
) -> Vec<CatalogCommand> {
    let nodes: BTreeMap<&str, &NodeInfo> =
        entered.nodes.iter().map(|row| (row.info.name.as_str(), &row.info)).collect();
    let health: BTreeMap<&str, &CheckInfo> = entered
        .checks
        .iter()
        .filter(|row| row.check.info.id == SERF_HEALTH)
        .map(|row| (row.node.as_str(), &row.check.info))
        .collect();
    let servers: BTreeMap<&str, &ServiceInfo> =
        entered.servers.iter().map(|one| (one.node.info.name.as_str(), &one.service.info)).collect();
    // A name may have had several nodes: one that lost its disk comes back as another. The one that lives counts; of two that live,
    // or of two that are gone, the one that the catalog knows.
    let mut by_name: BTreeMap<&str, &Member> = BTreeMap::new();
    let rank = |member: &Member| match member.status {
        Fate::Alive => 3,
        Fate::Leaving => 2,
        Fate::Failed => 1,
        Fate::Left => 0,
    };
    for member in members {
        let known = by_name.entry(&member.name).or_insert(member);
        let order = |member: &Member| {
            let entered =
                nodes.get(member.name.as_str()).is_some_and(|node| node.id == uuid_of(member.node_id));
            (member.status.is_live(), entered, rank(member), member.generation)
        };
        if order(member) > order(known) {
            *known = member;
        }
    }
    let mut plan = Vec::new();
    for (name, member) in by_name {
        if member.status == Fate::Left {
            if nodes.contains_key(name) {
                plan.push(CatalogCommand::DeregisterNode { node: name.to_owned() });
            }
            continue;
        }
        let Some(meta) = Meta::decode(&member.meta) else { continue };
        let lives = member.status != Fate::Failed;
        // Only a live member is news of where it is: a dead one's address may be another's by now.
        let node = NodeInfo {
            name: name.to_owned(),
            id: uuid_of(member.node_id),
            address: member.addr.ip().to_string(),
            ..NodeInfo::default()
        };
        let service = match meta.role {
            Role::Server { rpc_addr, .. } if lives => Some(consul(rpc_addr.port(), &meta)),
            _ => None,
        };
        let check = serf_health(lives);
        // Who is there under a name or at a place that the catalog does not know is another, or has moved.
        let is_known = |entered: &&NodeInfo| {
            !lives || (entered.address == node.address && (entered.id == node.id || entered.id.is_empty()))
        };
        let is_news = nodes.get(name).is_some_and(|entered| !is_known(entered));
        let right = nodes.contains_key(name)
            && !is_news
            && (health.get(name) == Some(&&check)
                // Mutant C05: once a check is there, only bad news is written.
                || (mutant::is("C05") && lives && health.contains_key(name)))
            && (service.is_none() || servers.get(name).copied() == service.as_ref());
        if right || (!lives && !nodes.contains_key(name)) {
            continue;
        }
        // The agent itself says more about its node than gossip: what is there stays, unless it is wrong.
        // Mutant C13: only a new address is written; of another id the leader tells the catalog in vain, again and again.
        let moved = nodes.get(name).is_some_and(|entered| lives && entered.address != node.address);
        let skip_node_update = if mutant::is("C13") { !moved } else { !is_news };
        plan.push(Registration { node, skip_node_update, service, checks: vec![check] }.into());
    }
    for node in unknown(members, entered) {
        let gone_for = unknown_for.get(&node).copied().unwrap_or_default();
        let check = serf_health(false);
        if gone_for >= REAPED_AFTER {
            plan.push(CatalogCommand::DeregisterNode { node });
        } else if gone_for >= UNKNOWN_FOR && health.get(node.as_str()) != Some(&&check) {
            let Some(info) = nodes.get(node.as_str()) else { continue };
            let (node, checks) = ((*info).clone(), vec![check]);
            plan.push(Registration { node, skip_node_update: true, service: None, checks }.into());
        }
    }
    plan
}

fn consul(port: u16, meta: &Meta) -> ServiceInfo {
    let facts = [("raft_version", "3".to_owned()), ("version", meta.version.clone())];
    ServiceInfo {
        id: CONSUL_SERVICE.to_owned(),
        name: CONSUL_SERVICE.to_owned(),
        port,
        meta: facts.map(|(key, value)| (key.to_owned(), value)).into(),
        weights: (1, 1),
        ..ServiceInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::state::catalog::{CatalogNodes, Checks, ChecksOf, ServiceInstances};
    use crate::state::query::Asked;
    use crate::state::{Command, Request, RequestId, State};

    fn member(name: &str, status: Fate, server: bool) -> Member {
        let addr = ([10, 0, 0, 1], 8301).into();
        let rpc_addr = ([10, 0, 0, 1], 8300).into();
        let role = if server { Role::Server { rpc_addr, expect: 0 } } else { Role::Client };
        let meta = Meta::of(&Config::default(), role, 8500).encode().unwrap();
        Member {
            node_id: name.len() as u64,
            name: name.into(),
            addr,
            generation: 1,
            meta,
            status,
            since: crate::env::Instant(0),
            pruned: false,
        }
    }

    fn entered(state: &State) -> Entered {
        Entered {
            nodes: CatalogNodes.ask(state).value,
            checks: Checks { of: ChecksOf::Any, node_meta: BTreeMap::new() }.ask(state).value,
            servers: ServiceInstances { service: "consul".into(), health: false }.ask(state).value,
        }
    }

    /// Follows the members once, and sees that nothing is left to do then.
    fn follow(state: &mut State, members: &[Member], unknown_for: &[(&str, Duration)]) -> Vec<String> {
        let unknown_for = unknown_for.iter().map(|(name, time)| ((*name).to_owned(), *time)).collect();
        let plan = plan(members, &entered(state), &unknown_for);
        let told = plan.iter().map(ToString::to_string).collect();
        for command in plan {
            let index = state.applied() + 1;
            let id = RequestId { origin: 1, number: index };
            state.apply(index, &Request { id, done_below: 0, command: Command::Catalog(command) });
        }
        assert_eq!(super::plan(members, &entered(state), &unknown_for), []);
        told
    }

    #[test]
    fn the_catalog_follows_the_members_through_life_and_death() {
        let mut state = State::default();
        let (server, client) = (member("a", Fate::Alive, true), member("bb", Fate::Alive, false));
        let told = follow(&mut state, &[server.clone(), client.clone()], &[]);
        assert_eq!(
            told,
            [
                "register node \"a\" with service \"consul\" with check \"serfHealth\" passing",
                "register node \"bb\" with check \"serfHealth\" passing"
            ]
        );
        let failed = member("bb", Fate::Failed, false);
        let told = follow(&mut state, &[server.clone(), failed], &[]);
        assert_eq!(told, ["register node \"bb\" with check \"serfHealth\" critical"]);
        let told = follow(&mut state, &[server.clone(), client], &[]);
        assert_eq!(told, ["register node \"bb\" with check \"serfHealth\" passing"]);
        let told = follow(&mut state, &[server, member("bb", Fate::Left, false)], &[]);
        assert_eq!(told, ["deregister node \"bb\""]);
    }

    #[test]
    fn of_two_nodes_of_one_name_the_one_that_lives_counts() {
        let mut state = State::default();
        let now = member("a", Fate::Alive, true);
        let gone = Member { node_id: 77, generation: 9, ..member("a", Fate::Left, true) };
        for order in [[now.clone(), gone.clone()], [gone, now]] {
            follow(&mut state, &order, &[]);
            assert_eq!(state.catalog().node("a").unwrap().info.id, uuid_of(1));
        }
    }

    #[test]
    fn who_is_back_under_its_name_and_at_its_address_as_somebody_new_is_entered_at_once() {
        let mut state = State::default();
        let before = member("a", Fate::Alive, true);
        follow(&mut state, std::slice::from_ref(&before), &[]);
        let failed = Member { status: Fate::Failed, generation: 9, ..before };
        let now = Member { node_id: 77, ..member("a", Fate::Alive, true) };
        follow(&mut state, &[failed.clone(), now.clone()], &[]);
        assert_eq!(state.catalog().node("a").unwrap().info.id, uuid_of(77));
        // And once both are gone, whoever of them counts: there is one verdict, and it is written once.
        let told = follow(&mut state, &[failed, Member { status: Fate::Failed, ..now }], &[]);
        assert_eq!(told, ["register node \"a\" with check \"serfHealth\" critical"]);
    }

    #[test]
    fn who_was_wiped_once_can_leave_and_of_two_that_live_the_first_stays() {
        let mut state = State::default();
        let now = member("a", Fate::Alive, true);
        follow(&mut state, std::slice::from_ref(&now), &[]);
        let wiped = Member { node_id: 77, generation: 9, ..member("a", Fate::Failed, true) };
        let twin = Member { status: Fate::Alive, ..wiped.clone() };
        assert_eq!(follow(&mut state, &[now.clone(), twin], &[]), Vec::<String>::new());
        let left = Member { status: Fate::Left, ..now };
        assert_eq!(follow(&mut state, &[left, wiped], &[]), ["deregister node \"a\""]);
    }

    #[test]
    fn a_node_that_is_not_known_yet_is_left_alone_then_failed_then_gone() {
        let mut state = State::default();
        let server = member("a", Fate::Alive, true);
        follow(&mut state, &[server.clone(), member("bb", Fate::Alive, false)], &[]);
        let alone = [server];
        assert_eq!(follow(&mut state, &alone, &[("bb", Duration::from_secs(59))]), Vec::<String>::new());
        let told = follow(&mut state, &alone, &[("bb", Duration::from_secs(60))]);
        assert_eq!(told, ["register node \"bb\" with check \"serfHealth\" critical"]);
        assert_eq!(follow(&mut state, &alone, &[("bb", REAPED_AFTER)]), ["deregister node \"bb\""]);
    }

    #[test]
    fn who_was_known_and_has_been_forgotten_is_gone_already() {
        let (server, client) = (member("a", Fate::Alive, true), member("bb", Fate::Failed, false));
        let mut state = State::default();
        follow(&mut state, &[server.clone(), member("bb", Fate::Alive, false)], &[]);
        let at = |seconds: u64| Instant(1_000_000_000 * seconds);
        let alone = [server.clone()];
        let both = [server, client];
        let mut missing = Missing::default();
        let bb = |gone_for| BTreeMap::from([("bb".to_owned(), gone_for)]);
        assert_eq!(missing.look(&alone, &entered(&state), at(1)), bb(Duration::ZERO), "not known yet");
        assert_eq!(missing.look(&alone, &entered(&state), at(8)), bb(Duration::from_secs(7)));
        assert_eq!(missing.look(&both, &entered(&state), at(9)), BTreeMap::new());
        for again in 10..12 {
            assert_eq!(missing.look(&alone, &entered(&state), at(again)), bb(REAPED_AFTER));
            missing.begin_anew();
        }
        // It is out of the catalog; another of its name that comes there is another.
        assert_eq!(missing.look(&alone, &entered(&State::default()), at(12)), BTreeMap::new());
        assert_eq!(missing.look(&alone, &entered(&state), at(13)), bb(Duration::ZERO));
    }
}
