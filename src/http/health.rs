//! `/v1/health/…`: how nodes and services fare.

use std::sync::Arc;

use crate::state::catalog::{Checks, ChecksOf, ServiceInstances, Status, has_meta};

use super::catalog::{node_meta, tagged};
use super::coordinate::nearest_first;
use super::filter::Filter;
use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::wire::{Check, CheckedService};
use super::{Api, Call};

async fn checks(api: &Api, params: &Params, of: ChecksOf) -> Reply {
    let options = params.query_options(|| api.spread())?;
    let filter = Filter::of(params)?;
    let answer = api.ask(params, options, &Checks { of, node_meta: node_meta(params) }).await?;
    let mut checks: Vec<Check> = answer.value.iter().map(Check::new).collect();
    nearest_first(api, params, &mut checks, |check| &check.node).await?;
    let checks = Filter::choose(&filter, checks)?;
    reply::found(&checks, params.pretty(), &answer, options.consistency)
}

/// The checks of a node and of the services on it.
pub async fn node(api: Arc<Api>, call: Call) -> Reply {
    let node = call.tail("/v1/health/node/")?;
    if node.is_empty() {
        return Err(Failure::bad_request("Missing node name"));
    }
    checks(&api, &call.params, ChecksOf::Node(node)).await
}

/// The checks of a service's instances.
pub async fn of_service(api: Arc<Api>, call: Call) -> Reply {
    let service = call.tail("/v1/health/checks/")?;
    if service.is_empty() {
        return Err(Failure::bad_request("Missing service name"));
    }
    checks(&api, &call.params, ChecksOf::Service(service)).await
}

/// The checks in a status.
pub async fn state(api: Arc<Api>, call: Call) -> Reply {
    let word = call.tail("/v1/health/state/")?;
    let of = match (word.as_str(), Status::of_word(&word)) {
        (_, Some(status)) => ChecksOf::Status(status),
        ("any", None) => ChecksOf::Any,
        ("", None) => return Err(Failure::bad_request("Missing check state")),
        _ => {
            let text = format!("Invalid check state {word:?}: must be any, passing, warning or critical");
            return Err(Failure::bad_request(text));
        }
    };
    checks(&api, &call.params, of).await
}

/// The instances of a service with their checks.
pub async fn service(api: Arc<Api>, call: Call) -> Reply {
    let service = call.tail("/v1/health/service/")?;
    if service.is_empty() {
        return Err(Failure::bad_request("Missing service name"));
    }
    let params = &call.params;
    let options = params.query_options(|| api.spread())?;
    let passing = match params.get("passing") {
        None | Some("false" | "0") => false,
        Some("" | "true" | "1") => true,
        Some(_) => return Err(Failure::bad_request("Invalid value for ?passing")),
    };
    let filter = Filter::of(params)?;
    let answer = api.ask(params, options, &ServiceInstances { service, health: true }).await?;
    let wanted = node_meta(params);
    let datacenter = api.agent.config().datacenter.clone();
    // A peer is another cluster, and there are none: its services are no services.
    let here = params.text("peer").is_none();
    let found = answer.value.iter().filter(|instance| {
        here && has_meta(&instance.node.info.meta, &wanted) && tagged(params, &instance.service.info.tags)
    });
    let found = found.map(|instance| CheckedService::new(instance, &datacenter));
    let mut found: Vec<CheckedService> = found.filter(|instance| !passing || instance.is_passing()).collect();
    nearest_first(&api, params, &mut found, |instance| &instance.node.node).await?;
    reply::found(&Filter::choose(&filter, found)?, params.pretty(), &answer, options.consistency)
}

/// As [`service`], of those in the mesh or behind an ingress: there are none.
pub async fn none(api: Arc<Api>, call: Call) -> Reply {
    let service = call.tail("/v1/health/")?;
    if matches!(service.as_str(), "connect/" | "ingress/") {
        return Err(Failure::bad_request("Missing service name"));
    }
    let options = call.params.query_options(|| api.spread())?;
    let filter = Filter::of(&call.params)?;
    let answer = api.ask(&call.params, options, &ServiceInstances { service, health: true }).await?;
    let none = Filter::choose(&filter, Vec::<CheckedService>::new())?;
    reply::found(&none, call.params.pretty(), &answer, options.consistency)
}
