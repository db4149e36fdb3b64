//! `/v1/agent/service…`, `/v1/agent/check…`: this agent's own services and checks.
//!
//! What is registered here the agent keeps in the catalog, and on its disk: see [`crate::agent::local`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use crate::agent::local::book::{Book, Definition, MAX_OUTPUT, OwnCheck, Unknown};
use crate::agent::local::define::{self, Bad, Whole};
use crate::agent::local::{NODE_MAINTENANCE, SERVICE_MAINTENANCE, is_maintenance};
use crate::config::service;
use crate::state::acl::{Access, Authorizer, Denied, Kind};
use crate::state::catalog::{CheckRow, Row, ServiceInfo, Status};

use super::decode::{self, Told};
use super::filter::Filter;
use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::wire::{Address, Check, Weights, addresses};
use super::{Api, Call};

const MAINTENANCE_REASON: &str =
    "Maintenance mode is enabled for this {}, but no reason was provided. This is a default message.";

impl From<Unknown> for Failure {
    fn from(error: Unknown) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, error.to_string())
    }
}

impl From<Bad> for Failure {
    fn from(error: Bad) -> Failure {
        match error {
            Bad::Meaningless(reason) => Failure::bad_request(reason),
            Bad::Forbidden(reason) => Failure::refused(reason),
        }
    }
}

/// What a check, or a service, is to rights: a service by its name, or this node.
fn subject(api: &Api, book: &Book, service_id: &str) -> (Kind, String) {
    match book.services().get(service_id) {
        Some(service) => (Kind::Service, service.name.clone()),
        None => (Kind::Node, api.agent.config().node_name.clone()),
    }
}

fn may(who: &Authorizer, (kind, name): &(Kind, String), wanted: Access) -> Result<(), Denied> {
    who.require(*kind, name, wanted)
}

/// Whoever changes a check must have the right to what it is about.
async fn may_change_check(api: &Api, id: &str) -> Result<(), Failure> {
    let who = api.who().await?;
    let subject = api.agent.local().with_book(|book| {
        let check = book.checks().get(id).ok_or_else(|| Unknown::Check(id.to_owned()))?;
        Ok::<_, Unknown>(subject(api, book, &check.definition.service_id))
    })?;
    Ok(may(&who, &subject, Access::Write)?)
}

/// Whoever changes a service must have the right to it.
async fn may_change_service(api: &Api, id: &str) -> Result<(), Failure> {
    let who = api.who().await?;
    let name = |book: &Book| book.services().get(id).map(|service| service.name.clone());
    let name = api.agent.local().with_book(name).ok_or_else(|| Unknown::Service(id.to_owned()))?;
    Ok(who.require(Kind::Service, &name, Access::Write)?)
}

/// Registers a service with its checks.
pub async fn register_service(api: Arc<Api>, call: Call) -> Reply {
    let bytes = api.read_body(call.body).await?;
    let Told(body) = decode::body(&bytes)?;
    let Whole { service, checks, .. } = define::service(body, api.agent.config().enable_script_checks)?;
    let who = api.who().await?;
    who.require(Kind::Service, &service.name, Access::Write)?;
    // Its place may be another service's.
    let book = api.agent.local().book();
    if let Some(known) = book.services().get(&service.id) {
        who.require(Kind::Service, &known.name, Access::Write)?;
    }
    // And so may a check's be another check's.
    for check in &checks {
        let known = book.checks().get(&check.id).map(|known| &known.definition.service_id);
        if let Some(theirs) = known.filter(|theirs| **theirs != service.id) {
            may(&who, &subject(&api, &book, theirs), Access::Write)?;
        }
    }
    let replace = call.params.switch("replace-existing-checks");
    api.agent.local().register(&api.agent, service, checks, replace)?;
    keep(&api).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// What was changed is on disk before it is answered.
async fn keep(api: &Api) -> Result<(), Failure> {
    api.agent.local().save().await.map_err(Failure::internal)
}

/// Removes a service.
pub async fn deregister_service(api: Arc<Api>, call: Call) -> Reply {
    let id = call.tail("/v1/agent/service/deregister/")?;
    may_change_service(&api, &id).await?;
    api.agent.local().deregister(&id)?;
    keep(&api).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// Registers a check.
pub async fn register_check(api: Arc<Api>, call: Call) -> Reply {
    let bytes = api.read_body(call.body).await?;
    let body: service::Check = decode::body(&bytes)?;
    let definition = define::check(body, api.agent.config().enable_script_checks)?;
    let who = api.who().await?;
    let (subject, taken) = api.agent.local().with_book(|book| {
        (subject(&api, book, &definition.service_id), book.checks().contains_key(&definition.id))
    });
    may(&who, &subject, Access::Write)?;
    // Its place may be another check's.
    if taken {
        may_change_check(&api, &definition.id).await?;
    }
    let service_id = definition.service_id.clone();
    if api.agent.local().register_check(&api.agent, definition).is_err() {
        let text = format!("ServiceID {service_id:?} does not exist");
        return Err(Failure { status: StatusCode::NOT_FOUND, ..Failure::refused(text) });
    }
    keep(&api).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// Removes a check.
pub async fn deregister_check(api: Arc<Api>, call: Call) -> Reply {
    let id = call.tail("/v1/agent/check/deregister/")?;
    may_change_check(&api, &id).await?;
    api.agent.local().deregister_check(&id)?;
    keep(&api).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// `…/pass/`, `…/warn/`, `…/fail/`: tells a check how things are.
pub async fn pass(api: Arc<Api>, call: Call) -> Reply {
    tell(&api, call, "/v1/agent/check/pass/", Status::Passing).await
}

/// See [`pass`].
pub async fn warn(api: Arc<Api>, call: Call) -> Reply {
    tell(&api, call, "/v1/agent/check/warn/", Status::Warning).await
}

/// See [`pass`].
pub async fn fail(api: Arc<Api>, call: Call) -> Reply {
    tell(&api, call, "/v1/agent/check/fail/", Status::Critical).await
}

async fn tell(api: &Api, call: Call, prefix: &str, status: Status) -> Reply {
    let id = call.tail(prefix)?;
    let note = call.params.get("note").unwrap_or_default().to_owned();
    drop(call);
    may_change_check(api, &id).await?;
    api.agent.local().tell(&id, status, note)?;
    keep(api).await?;
    Ok(reply::empty(StatusCode::OK))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct UpdateBody {
    status: String,
    output: String,
}

/// Tells a check how things are, in the body.
pub async fn update(api: Arc<Api>, call: Call) -> Reply {
    let id = call.tail("/v1/agent/check/update/")?;
    may_change_check(&api, &id).await?;
    let bytes = api.read_body(call.body).await?;
    let body: UpdateBody = decode::body(&bytes)?;
    let status = Status::of_word(&body.status)
        .ok_or_else(|| Failure::bad_request(format!("Invalid check status: '{}'", body.status)))?;
    api.agent.local().tell(&id, status, body.output)?;
    keep(&api).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// A service as its agent shows it.
#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Own {
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(rename = "ID")]
    id: String,
    service: String,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    port: u16,
    address: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: BTreeMap<String, Address>,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
    datacenter: String,
}

impl Own {
    fn new(service: &ServiceInfo, datacenter: &str) -> Own {
        Own {
            kind: service.kind.clone(),
            id: service.id.clone(),
            service: service.name.clone(),
            tags: service.tags.clone(),
            meta: service.meta.clone(),
            port: service.port,
            address: service.address.clone(),
            tagged_addresses: addresses(service),
            weights: Weights { passing: service.weights.0, warning: service.weights.1 },
            enable_tag_override: service.enable_tag_override,
            content_hash: None,
            datacenter: datacenter.to_owned(),
        }
    }

    /// With a hash of all else.
    fn hashed(mut self) -> Result<Own, Failure> {
        let bytes = serde_json::to_vec(&self)
            .map_err(|error| Failure::internal(format!("cannot encode the service: {error}")))?;
        self.content_hash = Some(format!("{:016x}", xxh3_64(&bytes)));
        Ok(self)
    }
}

/// This agent's services by id.
pub async fn services(api: Arc<Api>, call: Call) -> Reply {
    let filter = Filter::of(&call.params)?;
    let datacenter = api.agent.config().datacenter.clone();
    let book = api.agent.local().book();
    let who = api.who().await?;
    let seen = book.services().values().filter(|own| who.allows(Kind::Service, &own.name, Access::Read));
    let services: Vec<Own> = seen.map(|service| Own::new(service, &datacenter)).collect();
    let filtered = services.len() < book.services().len();
    let services =
        Filter::choose(&filter, services)?.into_iter().map(|service| (service.id.clone(), service));
    let response = reply::json(&services.collect::<BTreeMap<_, _>>(), call.params.pretty())?;
    Ok(reply::sifted(response, filtered))
}

/// One of this agent's services. With `?hash`, waits until it is another than that.
pub async fn service(api: Arc<Api>, call: Call) -> Reply {
    let id = call.tail("/v1/agent/service/")?;
    let who = api.who().await?;
    let mut waiting = call.params.clone();
    // A hash is waited for as an index is.
    let known = call.params.text("hash").map(str::to_owned);
    waiting.set("index", if known.is_some() { "1" } else { "0" });
    let wait = waiting.query_options(|| api.spread())?.wait;
    let env = api.agent.env().clone();
    let deadline = env.now() + wait;
    let datacenter = api.agent.config().datacenter.clone();
    loop {
        let changed = api.agent.local().changed();
        let book = api.agent.local().book();
        let Some(service) = book.services().get(&id) else {
            // Whether there is one is told to those only who might have been told of it.
            who.require(Kind::Service, &id, Access::Read)?;
            return Err(Failure::new(StatusCode::NOT_FOUND, format!("unknown service ID: {id}")));
        };
        who.require(Kind::Service, &service.name, Access::Read)?;
        let own = Own::new(service, &datacenter).hashed()?;
        let left = deadline.since(env.now());
        if own.content_hash != known || left.is_zero() || env.timeout(left, changed).await.is_err() {
            let mut response = reply::json(&own, call.params.pretty())?;
            if let Some(hash) = own.content_hash.and_then(|hash| HeaderValue::try_from(hash).ok()) {
                response.headers_mut().insert(HeaderName::from_static("x-consul-contenthash"), hash);
            }
            return Ok(response);
        }
    }
}

fn row(api: &Api, check: &OwnCheck, services: &BTreeMap<String, ServiceInfo>) -> Check {
    let info = check.info();
    let service = services.get(&info.service_id);
    Check::new(&CheckRow {
        node: api.agent.config().node_name.clone(),
        service_name: service.map(|service| service.name.clone()).unwrap_or_default(),
        service_tags: service.map(|service| service.tags.clone()).unwrap_or_default(),
        check: Row { info, create_index: 0, modify_index: 0 },
    })
}

/// This agent's checks by id.
pub async fn checks(api: Arc<Api>, call: Call) -> Reply {
    let filter = Filter::of(&call.params)?;
    let book = api.agent.local().book();
    let who = api.who().await?;
    let seen = book.checks().values().filter(|check| {
        let (kind, name) = subject(&api, &book, &check.definition.service_id);
        who.allows(kind, &name, Access::Read)
    });
    let checks: Vec<Check> = seen.map(|check| row(&api, check, book.services())).collect();
    let filtered = checks.len() < book.checks().len();
    let checks = Filter::choose(&filter, checks)?.into_iter().map(|check| (check.check_id.clone(), check));
    let response = reply::json(&checks.collect::<BTreeMap<_, _>>(), call.params.pretty())?;
    Ok(reply::sifted(response, filtered))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    aggregated_status: &'static str,
    service: Own,
    checks: Vec<Check>,
}

/// The status code that stands for how a service fares.
fn code(status: Status) -> StatusCode {
    match status {
        Status::Passing => StatusCode::OK,
        Status::Warning => StatusCode::TOO_MANY_REQUESTS,
        Status::Critical => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Whether the answer is to be one word.
fn wants_text(call: &Call) -> bool {
    let accepted = call.head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.starts_with("text/plain"))
        || call.params.get("format") == Some("text")
}

/// `missing` says that there is none, and `many` whether the answer is a list.
fn health(
    api: &Api,
    call: &Call,
    wanted: impl Fn(&ServiceInfo) -> bool,
    missing: String,
    many: bool,
) -> Reply {
    let book = api.agent.local().book();
    let datacenter = api.agent.config().datacenter.clone();
    let text = wants_text(call);
    let (mut worst, mut word) = (Status::Passing, Status::Passing.word());
    let mut found = Vec::new();
    for service in book.services().values().filter(|service| wanted(service)) {
        let status = book.checks_for(&service.id).map(|check| check.status).max().unwrap_or(Status::Passing);
        // Who is being worked on is not said to fail.
        let aggregated_status =
            if book.checks_for(&service.id).any(|check| is_maintenance(&check.definition.id)) {
                "maintenance"
            } else {
                status.word()
            };
        if status > worst {
            (worst, word) = (status, aggregated_status);
        }
        found.push(Health {
            aggregated_status,
            service: Own::new(service, &datacenter),
            checks: book.checks_for(&service.id).map(|check| row(api, check, book.services())).collect(),
        });
    }
    if found.is_empty() {
        let mut response = if text {
            reply::text(StatusCode::NOT_FOUND, missing.clone())
        } else if many {
            reply::json(&found, call.params.pretty())?
        } else {
            let none = json!({ "AggregatedStatus": "critical", "Service": null, "Checks": null });
            reply::json(&none, call.params.pretty())?
        };
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(reply::because(response, &missing));
    }
    let mut response: Response = if text {
        reply::text(StatusCode::OK, word)
    } else if many {
        reply::json(&found, call.params.pretty())?
    } else {
        reply::json(&found[0], call.params.pretty())?
    };
    *response.status_mut() = code(worst);
    Ok(reply::because(response, word))
}

/// How this agent's instances of a service fare.
pub async fn health_by_name(api: Arc<Api>, call: Call) -> Reply {
    let name = call.tail("/v1/agent/health/service/name/")?;
    if name.is_empty() {
        return Err(Failure::bad_request("Missing service Name"));
    }
    api.who().await?.require(Kind::Service, &name, Access::Read)?;
    health(&api, &call, |service| service.name == name, format!("ServiceName {name} Not Found"), true)
}

/// How one of this agent's services fares.
pub async fn health_by_id(api: Arc<Api>, call: Call) -> Reply {
    let id = call.tail("/v1/agent/health/service/id/")?;
    if id.is_empty() {
        return Err(Failure::bad_request("Missing serviceID"));
    }
    let name = api.agent.local().book().services().get(&id).map_or(id.clone(), |own| own.name.clone());
    api.who().await?.require(Kind::Service, &name, Access::Read)?;
    health(&api, &call, |service| service.id == id, format!("ServiceId {id} not found"), false)
}

/// Whether `?enable` says yes.
fn enable(call: &Call) -> Result<bool, Failure> {
    match call.params.get("enable") {
        None | Some("") => Err(Failure::bad_request("Missing value for enable")),
        Some(text) => Params::truth(text)
            .ok_or_else(|| Failure::bad_request(format!("Invalid value for enable: {text:?}"))),
    }
}

async fn maintenance(api: &Api, call: Call, id: String, service_id: String, what: &str, on: bool) -> Reply {
    let local = api.agent.local();
    if !on {
        // Not being in maintenance is what was wanted.
        let _ = local.deregister_check(&id);
        keep(api).await?;
        return Ok(reply::empty(StatusCode::OK));
    }
    if local.book().checks().contains_key(&id) {
        return Ok(reply::empty(StatusCode::OK));
    }
    let reason = call.params.text("reason").map(str::to_owned);
    let definition = Definition {
        id,
        name: format!("{}{} Maintenance Mode", what[..1].to_uppercase(), &what[1..]),
        notes: reason.unwrap_or_else(|| MAINTENANCE_REASON.replace("{}", what)),
        service_id,
        initial: Status::Critical,
        probe: None,
        interval: Duration::ZERO,
        timeout: Duration::ZERO,
        deregister_after: None,
        success_before_passing: 0,
        failures_before_warning: 0,
        failures_before_critical: 0,
        max_output: MAX_OUTPUT,
        alone: false,
    };
    local.register_check(&api.agent, definition)?;
    keep(api).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// Puts the node into maintenance, or takes it out.
pub async fn node_maintenance(api: Arc<Api>, call: Call) -> Reply {
    let on = enable(&call)?;
    maintenance(&api, call, NODE_MAINTENANCE.to_owned(), String::new(), "node", on).await
}

/// Puts a service into maintenance, or takes it out.
pub async fn service_maintenance_mode(api: Arc<Api>, call: Call) -> Reply {
    let id = call.tail("/v1/agent/service/maintenance/")?;
    if id.is_empty() {
        return Err(Failure::bad_request("Missing service ID"));
    }
    let on = enable(&call)?;
    may_change_service(&api, &id).await?;
    if !api.agent.local().book().services().contains_key(&id) {
        return Err(Unknown::Service(id).into());
    }
    maintenance(&api, call, format!("{SERVICE_MAINTENANCE}{id}"), id, "service", on).await
}
