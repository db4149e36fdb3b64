//! The leader enters into the catalog what gossip says of the members: which nodes there are, and whether they
//! live.
//!
//! Every member has its node registered with the check `serfHealth`; servers also run the service
//! `consul`. A failed member's check is critical; one that left is taken out, with all that is on it. A node
//! whose `serfHealth` is there and that gossip no longer knows was reaped, and is taken out too. Nodes
//! that others registered have no such check and are left alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::gossip::{Member, Status as Fate};
use crate::state::CatalogCommand;
use crate::state::catalog::{
    CheckInfo, CheckRow, Instance, NodeInfo, Registration, Row, SERF_HEALTH, ServiceInfo, Status,
};

use super::local::book::CONSUL_SERVICE;
use super::meta::{Meta, Role};
use super::uuid_of;

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

/// What to write so that the catalog agrees with gossip. Pure; an empty plan says that it does.
pub fn plan(members: &[Member], entered: &Entered) -> Vec<CatalogCommand> {
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
    let known: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();

    let mut plan = Vec::new();
    for member in members {
        let name = member.name.as_str();
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
        let right = nodes.get(name).is_some_and(|entered| entered.id == node.id || entered.id.is_empty())
            && nodes.get(name).is_some_and(|entered| !lives || entered.address == node.address)
            && health.get(name) == Some(&&check)
            && (service.is_none() || servers.get(name).copied() == service.as_ref());
        if right || (!lives && !nodes.contains_key(name)) {
            continue;
        }
        // The agent itself says more about its node than gossip: what is there stays, unless it has moved.
        let moved = nodes.get(name).is_some_and(|entered| lives && entered.address != node.address);
        let skip_node_update = !moved;
        plan.push(Registration { node, skip_node_update, service, checks: vec![check] }.into());
    }
    for node in health.keys().filter(|node| !known.contains(**node)) {
        plan.push(CatalogCommand::DeregisterNode { node: (*node).to_owned() });
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
