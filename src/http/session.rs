//! `/v1/session/…`: sessions, as [`crate::state::session`] keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::agent::{Consistency, QueryOptions, uuid};
use crate::config::duration::{read_duration, show_duration};
use crate::gossip::Status;
use crate::state::acl::{Access, Kind};
use crate::state::catalog::{OneNode, SERF_HEALTH, Status as Health};
use crate::state::query::{SessionInfo, SessionList, SessionsOfNode};
use crate::state::session::{Behavior, NewSession, ServiceCheck, SessionCommand};
use crate::state::{Command, Outcome, Question, Refusal, Returned, Session};

use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::{Api, Call};

/// What a session's lock-delay is unless it says otherwise.
const LOCK_DELAY: Duration = Duration::from_secs(15);

/// Longest TTL.
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A session as clients know it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    node: &'a str,
    lock_delay: u64,
    behavior: &'a str,
    #[serde(rename = "TTL")]
    ttl: &'a str,
    node_checks: &'a [String],
    /// `null` if there are none.
    service_checks: Option<Vec<ShownCheck<'a>>>,
    /// The name that `NodeChecks` had before, for older clients.
    checks: &'a [String],
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
struct ShownCheck<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Namespace")]
    namespace: &'a str,
}

fn show(session: &Session) -> Shown<'_> {
    let made = &session.made;
    let services = made.service_checks.iter();
    let services = services.map(|check| ShownCheck { id: &check.id, namespace: &check.namespace });
    Shown {
        id: &made.id,
        name: &made.name,
        node: &made.node,
        lock_delay: made.lock_delay_ns,
        behavior: match made.behavior {
            Behavior::Release => "release",
            Behavior::Delete => "delete",
        },
        ttl: &made.ttl,
        node_checks: &made.node_checks,
        service_checks: (!made.service_checks.is_empty()).then(|| services.collect()),
        checks: &made.node_checks,
        create_index: session.create_index,
        modify_index: session.create_index,
    }
}

/// `PUT /v1/session/create`
pub async fn create(api: Arc<Api>, call: Call) -> Reply {
    let body = api.read_body(call.body).await?;
    let fields = Fields::parse(&body)?;
    let made = new_session(&api, &fields).await?;
    let id = made.id.clone();
    match api.agent.write(Command::Session(SessionCommand::Create(made))).await? {
        Outcome::Stale => Err(Failure::forgotten()),
        Outcome::Refused { refusal, .. } => Err(Failure::refused(refusal.to_string())),
        _ => reply::json(&BTreeMap::from([("ID", id)]), call.params.pretty()),
    }
}

/// What the request asks for, checked.
async fn new_session(api: &Api, fields: &Fields) -> Result<NewSession, Failure> {
    let node = match fields.text("Node")? {
        Some(node) if !node.is_empty() => node,
        _ => api.agent.config().node_name.clone(),
    };
    let node_checks = node_checks(fields.texts("NodeChecks")?, fields.texts("Checks")?);
    let service_checks = fields.service_checks()?;
    let (name, behavior, ttl) = (fields.text("Name")?, fields.text("Behavior")?, fields.text("TTL")?);
    let lock_delay_ns = fields.lock_delay()?;
    // First: whether a node has a check is told to those only who may hold a session there.
    api.who().await?.require(Kind::Session, &node, Access::Write)?;

    let behavior = match behavior.as_deref() {
        None | Some("" | "release") => Behavior::Release,
        Some("delete") => Behavior::Delete,
        Some(other) => return Err(Failure::refused(format!("Invalid Behavior setting '{other}'"))),
    };
    let ttl = ttl.unwrap_or_default();
    let ttl_ns = if ttl.is_empty() { 0 } else { time_to_live(api, &ttl)? };
    registered(api, &node, &node_checks, &service_checks).await?;
    Ok(NewSession {
        id: api.agent.new_session_id(),
        name: name.unwrap_or_default(),
        node,
        lock_delay_ns,
        behavior,
        ttl,
        ttl_ns,
        node_checks,
        service_checks,
    })
}

/// The checks of its node that a session rests on: those that are named, and the node's own life unless `NodeChecks` leaves it
/// out. `Checks` is the older name, by which others are added; an empty list there leaves out all.
fn node_checks(named: Option<Vec<String>>, older: Option<Vec<String>>) -> Vec<String> {
    let mut checks = match (named, &older) {
        (Some(named), _) => named,
        (None, Some(older)) if older.is_empty() => Vec::new(),
        (None, _) => vec![SERF_HEALTH.to_owned()],
    };
    for id in older.unwrap_or_default() {
        if !checks.contains(&id) {
            checks.push(id);
        }
    }
    checks
}

/// A session must rest on what is there and well. A member that the leader has not entered into the catalog yet
/// has the check of its own life all the same.
async fn registered(
    api: &Api,
    node: &str,
    node_checks: &[String],
    service_checks: &[ServiceCheck],
) -> Result<(), Failure> {
    let question = OneNode { node: node.to_owned(), checks: true };
    let entered = api.agent.itself().query(QueryOptions::now(Consistency::Default), &question).await;
    // Nothing was written, and nothing will be.
    let entered = entered.map_err(|error| Failure::refused(error.to_string()))?.value;
    let members = api.agent.members();
    let member = members.iter().find(|member| member.name == node && member.status != Status::Left);
    if entered.is_none() && member.is_none() {
        return Err(Failure::refused("Missing node registration"));
    }
    let checks = entered.iter().flat_map(|whole| &whole.checks).map(|row| &row.check.info);
    let checks: BTreeMap<&str, Health> = checks.map(|check| (check.id.as_str(), check.status)).collect();
    for id in node_checks.iter().chain(service_checks.iter().map(|check| &check.id)) {
        let critical = match (checks.get(id.as_str()), member) {
            (Some(health), _) => *health == Health::Critical,
            (None, Some(member)) if id == SERF_HEALTH => !member.status.is_live(),
            _ => return Err(Failure::refused(format!("Missing check '{id}' registration"))),
        };
        if critical {
            return Err(Failure::refused(format!("Check '{id}' is in critical state")));
        }
    }
    Ok(())
}

fn time_to_live(api: &Api, ttl: &str) -> Result<u64, Failure> {
    let nanos =
        read_duration(ttl).map_err(|why| Failure::refused(format!("Session TTL '{ttl}' invalid: {why}")))?;
    let shortest = Duration::from_millis(api.limits().session_ttl_min_ms);
    let fits = u64::try_from(nanos)
        .ok()
        .filter(|nanos| *nanos == 0 || (shortest..=MAX_TTL).contains(&Duration::from_nanos(*nanos)));
    fits.ok_or_else(|| {
        let (shortest, longest) = (show_duration(shortest), show_duration(MAX_TTL));
        Failure::refused(format!("Invalid Session TTL '{nanos}', must be between [{shortest}={longest}]"))
    })
}

/// A session's id as it was given out. Consul compares the bytes that an id spells, so clients may write it in any case.
pub fn canonical(id: String) -> String {
    if uuid::is_uuid(&id) { id.to_ascii_lowercase() } else { id }
}

/// What the path ends in.
fn named(call: &Call, prefix: &str, missing: &str) -> Result<String, Failure> {
    let name = call.tail(prefix)?;
    if name.is_empty() { Err(Failure::bad_request(missing)) } else { Ok(name) }
}

/// The session that the path ends in.
fn id(call: &Call, prefix: &str) -> Result<String, Failure> {
    named(call, prefix, "Missing session").map(canonical)
}

/// `PUT /v1/session/destroy/:id`
pub async fn destroy(api: Arc<Api>, call: Call) -> Reply {
    let id = id(&call, "/v1/session/destroy/")?;
    let outcome = api.agent.write(Command::Session(SessionCommand::Destroy { id })).await?;
    reply::json(&reply::yes_or_no(outcome)?, call.params.pretty())
}

/// `PUT /v1/session/renew/:id`
pub async fn renew(api: Arc<Api>, call: Call) -> Reply {
    let id = id(&call, "/v1/session/renew/")?;
    match api.agent.write(Command::Session(SessionCommand::Renew { id })).await? {
        Outcome::Returned { value: Returned::Session(session), .. } => {
            reply::json(&[show(&session)], call.params.pretty())
        }
        Outcome::Refused { refusal: refusal @ Refusal::NotFound(_), .. } => {
            Err(Failure { status: StatusCode::NOT_FOUND, ..Failure::refused(refusal.to_string()) })
        }
        Outcome::Refused { refusal, .. } => Err(Failure::refused(refusal.to_string())),
        _ => Err(Failure::forgotten()),
    }
}

/// `GET /v1/session/info/:id`
pub async fn info(api: Arc<Api>, call: Call) -> Reply {
    let id = id(&call, "/v1/session/info/")?;
    let options = call.params.query_options(|| api.spread())?;
    let answer = api.agent.query(options, &SessionInfo { id }).await?;
    let found = &answer.value;
    let shown: Vec<Shown<'_>> = found.session.iter().map(show).collect();
    // One that is not there has no index of its own.
    let index = if found.session.is_some() { answer.index } else { found.table_index };
    let response = reply::json(&shown, call.params.pretty())?;
    Ok(reply::describe(response, index, &answer, options.consistency))
}

/// `GET /v1/session/node/:node`
pub async fn node(api: Arc<Api>, call: Call) -> Reply {
    let node = named(&call, "/v1/session/node/", "Missing node name")?;
    sessions(&api, &call.params, &SessionsOfNode { node }).await
}

/// `GET /v1/session/list`
pub async fn list(api: Arc<Api>, call: Call) -> Reply {
    sessions(&api, &call.params, &SessionList).await
}

async fn sessions<Q: Question<Found = Vec<Session>>>(api: &Api, params: &Params, question: &Q) -> Reply {
    let options = params.query_options(|| api.spread())?;
    let answer = api.agent.query(options, question).await?;
    let shown: Vec<Shown<'_>> = answer.value.iter().map(show).collect();
    reply::found(&shown, params.pretty(), &answer, options.consistency)
}

/// A body of JSON whose names may be written in any case, as Go reads them.
struct Fields(Map<String, Value>);

fn undecodable(why: impl std::fmt::Display) -> Failure {
    Failure::bad_request(format!("Request decode failed: {why}"))
}

impl Fields {
    fn parse(body: &[u8]) -> Result<Fields, Failure> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Fields(Map::new()));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(Value::Null) => Ok(Fields(Map::new())),
            Ok(_) => Err(undecodable("the body is not an object")),
            Err(error) => Err(undecodable(error)),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let other_case = || {
            let mut found = self.0.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| value)
        };
        self.0.get(name).or_else(other_case).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(undecodable(format!("{name} must be a string, not {other}"))),
        }
    }

    fn texts(&self, name: &str) -> Result<Option<Vec<String>>, Failure> {
        let wrong = || undecodable(format!("{name} must be a list of strings"));
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
                texts.collect::<Option<Vec<String>>>().map(Some).ok_or_else(wrong)
            }
            Some(_) => Err(wrong()),
        }
    }

    fn service_checks(&self) -> Result<Vec<ServiceCheck>, Failure> {
        let wrong = || undecodable("ServiceChecks must be a list of objects with an ID");
        let Some(value) = self.get("ServiceChecks") else { return Ok(Vec::new()) };
        let checks = value.as_array().ok_or_else(wrong)?.iter().map(|check| {
            let fields = Fields(check.as_object().ok_or_else(wrong)?.clone());
            let id = fields.text("ID")?.ok_or_else(wrong)?;
            Ok(ServiceCheck { id, namespace: fields.text("Namespace")?.unwrap_or_default() })
        });
        checks.collect()
    }

    /// A duration, or a number: below a thousand in seconds, else in nanoseconds.
    fn lock_delay(&self) -> Result<u64, Failure> {
        let nanos = match self.get("LockDelay") {
            None => return Ok(LOCK_DELAY.as_nanos() as u64),
            Some(Value::String(text)) => u64::try_from(read_duration(text).map_err(undecodable)?)
                .map_err(|_| undecodable("LockDelay must not be negative"))?,
            Some(Value::Number(number)) => {
                let number = number.as_f64().filter(|number| *number >= 0.0);
                let number = number.ok_or_else(|| undecodable("LockDelay must not be negative"))?;
                // Saturates, and no delay is longer than a minute anyway.
                if number < 1_000.0 { (number * 1e9) as u64 } else { number as u64 }
            }
            Some(other) => return Err(undecodable(format!("LockDelay cannot be {other}"))),
        };
        Ok(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(body: &str) -> Result<u64, String> {
        Fields::parse(body.as_bytes()).and_then(|fields| fields.lock_delay()).map_err(|failure| failure.text)
    }

    #[test]
    fn a_lock_delay_is_a_duration_or_a_number() {
        assert_eq!(delay(""), Ok(15_000_000_000));
        assert_eq!(delay(r#"{"LockDelay":"1m"}"#), Ok(60_000_000_000));
        assert_eq!(delay(r#"{"lockdelay":20}"#), Ok(20_000_000_000));
        assert_eq!(delay(r#"{"LockDelay":1500000000}"#), Ok(1_500_000_000));
        assert!(delay(r#"{"LockDelay":"soon"}"#).unwrap_err().starts_with("Request decode failed: "));
        assert!(delay(r#"{"LockDelay":-1}"#).unwrap_err().starts_with("Request decode failed: "));
    }

    #[test]
    fn a_session_rests_on_its_nodes_life_unless_that_is_left_out() {
        let checks = |body: &str| {
            let fields = Fields::parse(body.as_bytes()).unwrap();
            node_checks(fields.texts("NodeChecks").unwrap(), fields.texts("Checks").unwrap()).join(" ")
        };
        assert_eq!(checks("{}"), "serfHealth");
        assert_eq!(checks(r#"{"Checks":["a","serfHealth"]}"#), "serfHealth a");
        assert_eq!(checks(r#"{"Checks":[]}"#), "");
        assert_eq!(checks(r#"{"NodeChecks":["a"]}"#), "a");
        assert_eq!(checks(r#"{"NodeChecks":[],"Checks":["b"]}"#), "b");
    }

    #[test]
    fn what_is_no_session_is_refused() {
        for body in ["[", "[]", "7", r#"{"ServiceChecks":[1]}"#, r#"{"NodeChecks":"a"}"#, r#"{"Name":1}"#] {
            let fields = Fields::parse(body.as_bytes());
            let read = fields.and_then(|fields| {
                fields.text("Name")?;
                fields.texts("NodeChecks")?;
                fields.service_checks()
            });
            assert_eq!(read.unwrap_err().status, StatusCode::BAD_REQUEST, "{body}");
        }
    }
}
