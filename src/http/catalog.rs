//! `/v1/catalog/…`: nodes and services, whoever registered them.
//!
//! Agents register their own; what is written here under an agent's node is put right by that agent when
//! it next compares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::agent::local::define;
use crate::agent::{Consistency, QueryOptions, uuid};
use crate::state::catalog::{
    AllInstances, CatalogNodes, CatalogServices, CheckInfo, NodeInfo, OneNode, Registration,
    ServiceInstances, Status, has_meta,
};
use crate::state::{CatalogCommand, Command, Outcome};

use super::coordinate::nearest_first;
use super::decode::{self, Labels, Told};
use super::filter::Filter;
use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::wire::{CatalogService, GatewayService, Node, Service};
use super::{Api, Call};

/// A check in a request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct CheckBody {
    node: String,
    checkid: String,
    id: String,
    name: String,
    status: String,
    notes: String,
    output: String,
    serviceid: String,
    r#type: String,
    interval: String,
    timeout: String,
}

impl CheckBody {
    /// What it means. One that names no service is the node's, whatever it is registered with.
    pub fn info(self) -> Result<CheckInfo, Failure> {
        let word = if self.status.is_empty() { "critical" } else { &self.status };
        let status = Status::of_word(word)
            .ok_or_else(|| Failure::bad_request(format!("Invalid check status: {word:?}")))?;
        let id = [self.checkid, self.id, self.name.clone()].into_iter().find(|id| !id.is_empty());
        let id = id.unwrap_or_default();
        let name = if self.name.is_empty() { id.clone() } else { self.name };
        Ok(CheckInfo {
            id,
            name,
            status,
            notes: self.notes,
            output: self.output,
            service_id: self.serviceid,
            kind: self.r#type,
            interval: self.interval,
            timeout: self.timeout,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct RegisterBody {
    id: String,
    node: String,
    address: String,
    datacenter: String,
    taggedaddresses: Labels,
    nodemeta: Labels,
    service: Option<Told>,
    check: Option<CheckBody>,
    checks: Vec<CheckBody>,
    skipnodeupdate: bool,
    peername: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct DeregisterBody {
    node: String,
    datacenter: String,
    serviceid: String,
    checkid: String,
}

fn same_datacenter(api: &Api, named: &str) -> Result<(), Failure> {
    if named.is_empty() || named == api.agent.config().datacenter {
        Ok(())
    } else {
        Err(Failure::refused("No path to datacenter"))
    }
}

/// Sends a change of the catalog, and tells what came of it.
pub async fn change(api: &Api, command: CatalogCommand) -> Result<(), Failure> {
    match api.agent.write(Command::Catalog(command)).await? {
        Outcome::Refused { refusal, .. } => Err(Failure::refused(refusal.to_string())),
        Outcome::Stale => Err(Failure::forgotten()),
        _ => Ok(()),
    }
}

/// What is wrong with the id that a node is to have, if something is.
pub fn bad_node_id(id: &str) -> Option<&'static str> {
    (!id.is_empty() && !uuid::is_uuid(id)).then_some("Bad node ID: want a UUID")
}

/// Registers a node, a service, checks.
pub async fn register(api: Arc<Api>, call: Call) -> Reply {
    let pretty = call.params.pretty();
    let bytes = api.read_body(call.body).await?;
    let body: RegisterBody = decode::body(&bytes)?;
    same_datacenter(&api, &body.datacenter)?;
    // Who leaves the node as it is need not know where it is.
    if body.node.is_empty() || body.address.is_empty() && !body.skipnodeupdate {
        return Err(Failure::bad_request("Must provide node and address"));
    }
    if let Some(why) = bad_node_id(&body.id) {
        return Err(Failure::bad_request(why));
    }
    if !body.peername.is_empty() {
        return Err(Failure::bad_request("cannot register requests with PeerName in them"));
    }
    let service = body.service.map(|Told(service)| define::told(service));
    if service.as_ref().is_some_and(|service| service.name.is_empty()) {
        return Err(Failure::bad_request("Must provide service name with ID"));
    }
    if let Some(why) = service.as_ref().and_then(define::unfit) {
        return Err(Failure::bad_request(why));
    }
    let checks: Vec<CheckBody> = body.check.into_iter().chain(body.checks).collect();
    if let Some(check) = checks.iter().find(|check| !check.node.is_empty() && check.node != body.node) {
        let (theirs, node) = (&check.node, &body.node);
        let text = format!("check node {theirs:?} does not match node {node:?}");
        return Err(Failure::bad_request(text));
    }
    let checks = checks.into_iter().map(CheckBody::info).collect::<Result<Vec<_>, _>>()?;
    let mut address = body.address;
    if address.is_empty() {
        let question = OneNode { node: body.node.clone(), checks: false };
        let found = api.agent.itself().query(QueryOptions::now(Consistency::Default), &question).await?;
        let known = found.value.filter(|known| known.node.info.name == body.node).ok_or_else(|| {
            Failure::bad_request(format!(
                "Must provide node and address: there is no node {:?} yet",
                body.node
            ))
        })?;
        address = known.node.info.address;
    }
    let node = NodeInfo {
        name: body.node,
        id: body.id,
        address,
        tagged_addresses: body.taggedaddresses,
        meta: body.nodemeta,
    };
    let skip_node_update = body.skipnodeupdate;
    change(&api, Registration { node, skip_node_update, service, checks }.into()).await?;
    reply::json(&true, pretty)
}

/// Removes a node, a service, or a check.
pub async fn deregister(api: Arc<Api>, call: Call) -> Reply {
    let pretty = call.params.pretty();
    let bytes = api.read_body(call.body).await?;
    let body: DeregisterBody = decode::body(&bytes)?;
    same_datacenter(&api, &body.datacenter)?;
    let node = body.node;
    if node.is_empty() {
        return Err(Failure::bad_request("Must provide node"));
    }
    let command = match (body.serviceid, body.checkid) {
        (id, _) if !id.is_empty() => CatalogCommand::DeregisterService { node, id },
        (_, id) if !id.is_empty() => CatalogCommand::DeregisterCheck { node, id },
        _ => CatalogCommand::DeregisterNode { node },
    };
    change(&api, command).await?;
    reply::json(&true, pretty)
}

/// The one datacenter there is.
pub async fn datacenters(api: Arc<Api>, call: Call) -> Reply {
    reply::json(&[&api.agent.config().datacenter], call.params.pretty())
}

/// `?node-meta=key:value`, as often as wanted.
pub fn node_meta(params: &Params) -> Labels {
    let pairs = params.all("node-meta").map(|pair| pair.split_once(':').unwrap_or((pair, "")));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// All nodes.
pub async fn nodes(api: Arc<Api>, call: Call) -> Reply {
    let params = &call.params;
    let options = params.query_options(|| api.spread())?;
    let filter = Filter::of(params)?;
    let answer = api.ask(params, options, &CatalogNodes).await?;
    let wanted = node_meta(params);
    let datacenter = api.agent.config().datacenter.clone();
    let nodes = answer.value.iter().filter(|row| has_meta(&row.info.meta, &wanted));
    let mut nodes: Vec<Node> = nodes.map(|row| Node::new(row, &datacenter)).collect();
    nearest_first(&api, params, &mut nodes, |node| &node.node).await?;
    let nodes = Filter::choose(&filter, nodes)?;
    reply::found(&nodes, params.pretty(), &answer, options.consistency)
}

/// The names of all services, with their tags; with a filter, of the instances that it lets pass.
pub async fn services(api: Arc<Api>, call: Call) -> Reply {
    let params = &call.params;
    let options = params.query_options(|| api.spread())?;
    let filter = Filter::of(params)?;
    if filter.is_some() {
        let answer = api.ask(params, options, &AllInstances).await?;
        let (wanted, datacenter) = (node_meta(params), api.agent.config().datacenter.clone());
        let instances = answer.value.iter().filter(|one| has_meta(&one.node.info.meta, &wanted));
        let instances = instances.map(|one| CatalogService::new(one, &datacenter)).collect();
        let mut services: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for instance in Filter::choose(&filter, instances)? {
            services.entry(instance.service_name).or_default().extend(instance.service_tags);
        }
        return reply::found(&services, params.pretty(), &answer, options.consistency);
    }
    let answer = api.ask(params, options, &CatalogServices { node_meta: node_meta(params) }).await?;
    reply::found(&answer.value, params.pretty(), &answer, options.consistency)
}

/// Whether an instance has every tag that the request names, in whatever case.
pub fn tagged(params: &Params, tags: &[String]) -> bool {
    let has = |wanted: &str| tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted));
    params.all("tag").filter(|tag| !tag.is_empty()).all(has)
}

/// The instances of a service.
pub async fn service(api: Arc<Api>, call: Call) -> Reply {
    let service = call.tail("/v1/catalog/service/")?;
    instances(&api, &call.params, service).await
}

/// As [`service`], of those that are in the mesh: there is none.
pub async fn connect(api: Arc<Api>, call: Call) -> Reply {
    let service = call.tail("/v1/catalog/connect/")?;
    if service.is_empty() {
        return Err(Failure::bad_request("Missing service name"));
    }
    none::<CatalogService>(&api, &call.params, service).await
}

/// A list of what there is none of, as of the index of a service. A filter is judged all the same.
async fn none<T: Serialize + 'static>(api: &Api, params: &Params, service: String) -> Reply {
    let options = params.query_options(|| api.spread())?;
    let filter = Filter::of(params)?;
    let answer = api.ask(params, options, &ServiceInstances { service, health: false }).await?;
    let none = Filter::choose(&filter, Vec::<T>::new())?;
    reply::found(&none, params.pretty(), &answer, options.consistency)
}

async fn instances(api: &Api, params: &Params, service: String) -> Reply {
    if service.is_empty() {
        return Err(Failure::bad_request("Missing service name"));
    }
    let options = params.query_options(|| api.spread())?;
    let filter = Filter::of(params)?;
    let answer = api.ask(params, options, &ServiceInstances { service, health: false }).await?;
    let wanted = node_meta(params);
    let datacenter = api.agent.config().datacenter.clone();
    let found = answer.value.iter().filter(|instance| {
        has_meta(&instance.node.info.meta, &wanted) && tagged(params, &instance.service.info.tags)
    });
    let mut found: Vec<CatalogService> =
        found.map(|instance| CatalogService::new(instance, &datacenter)).collect();
    nearest_first(api, params, &mut found, |instance| &instance.node).await?;
    reply::found(&Filter::choose(&filter, found)?, params.pretty(), &answer, options.consistency)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeAndServices {
    node: Node,
    services: BTreeMap<String, Service>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeAndServiceList {
    node: Node,
    services: Vec<Service>,
}

/// A node and its services by id; `null` if there is no such node.
pub async fn node(api: Arc<Api>, call: Call) -> Reply {
    let name = call.tail("/v1/catalog/node/")?;
    of_node(&api, &call.params, name, serde_json::Value::Null, |node, services| {
        let services = services.into_iter().map(|service| (service.id.clone(), service)).collect();
        serde_json::to_value(NodeAndServices { node, services })
    })
    .await
}

/// A node and its services in a list; nothing in both places if there is no such node.
pub async fn node_services(api: Arc<Api>, call: Call) -> Reply {
    let name = call.tail("/v1/catalog/node-services/")?;
    let nobody = serde_json::json!({ "Node": null, "Services": null });
    of_node(&api, &call.params, name, nobody, |node, services| {
        serde_json::to_value(NodeAndServiceList { node, services })
    })
    .await
}

async fn of_node(
    api: &Api,
    params: &Params,
    node: String,
    nobody: serde_json::Value,
    shape: impl FnOnce(Node, Vec<Service>) -> serde_json::Result<serde_json::Value>,
) -> Reply {
    if node.is_empty() {
        return Err(Failure::bad_request("Missing node name"));
    }
    let options = params.query_options(|| api.spread())?;
    let filter = Filter::of(params)?;
    let answer = api.ask(params, options, &OneNode { node, checks: false }).await?;
    let services = answer.value.iter().flat_map(|whole| &whole.services).map(Service::new).collect();
    let services = Filter::choose(&filter, services)?;
    let shaped = match &answer.value {
        None => nobody,
        Some(whole) => shape(Node::new(&whole.node, &api.agent.config().datacenter), services)
            .map_err(|error| Failure::internal(format!("cannot encode the answer: {error}")))?,
    };
    reply::found(&shaped, params.pretty(), &answer, options.consistency)
}

/// The services behind a gateway: there are no gateways.
pub async fn gateway_services(api: Arc<Api>, call: Call) -> Reply {
    let service = call.tail("/v1/catalog/gateway-services/")?;
    if service.is_empty() {
        return Err(Failure::bad_request("Missing gateway name"));
    }
    none::<GatewayService>(&api, &call.params, service).await
}
