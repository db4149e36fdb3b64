//! `/v1/kv/…`: keys and values.
//!
//! A reader that blocks waits for the key's (or prefix's) own index to pass the one it gave. A missing
//! key is answered with the index of the whole store, since it has none of its own.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::agent::{Consistency, QueryOptions, WriteError};
use crate::mutant;
use crate::state::query::{KvFound, KvGet, KvKeys, KvList};
use crate::state::{Command, Entry, KvCommand, Outcome};

use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::{Api, Call, session};

/// An entry as clients know it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KvPair<'a> {
    lock_index: u64,
    key: &'a str,
    flags: u64,
    /// `null` when empty.
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> KvPair<'a> {
    /// An entry, shown.
    pub fn new(key: &'a str, entry: &'a Entry) -> KvPair<'a> {
        KvPair {
            lock_index: entry.lock_index,
            key,
            flags: entry.flags,
            value: (!entry.value.is_empty()).then(|| BASE64.encode(&entry.value)),
            session: entry.session.as_deref(),
            create_index: entry.create_index,
            modify_index: entry.modify_index,
        }
    }
}

/// The path's key, and what to do with it.
pub async fn key(api: Arc<Api>, call: Call) -> Reply {
    let key = call.tail("/v1/kv")?;
    let key = key.strip_prefix('/').unwrap_or(&key).to_owned();
    check_key(&api, &key)?;
    let Call { head, params, body } = call;
    match head.method {
        Method::PUT => put(&api, &params, key, body).await,
        Method::DELETE => delete(&api, &params, key).await,
        _ if params.has("keys") => keys(&api, &params, key).await,
        _ if params.has("recurse") => list(&api, &params, key).await,
        _ => get(&api, &params, key).await,
    }
}

/// Refuses a key that is longer than the limit.
pub fn check_key(api: &Api, key: &str) -> Result<(), Failure> {
    let limit = api.limits().key_bytes;
    if key.len() > limit {
        let text = format!("Key is too long ({} bytes), the limit is {limit} bytes", key.len());
        return Err(Failure::bad_request(text));
    }
    Ok(())
}

fn named(key: &str) -> Result<(), Failure> {
    if key.is_empty() { Err(Failure::bad_request("Missing key name")) } else { Ok(()) }
}

async fn get(api: &Api, params: &Params, key: String) -> Reply {
    named(&key)?;
    let mut options = params.query_options(|| api.spread())?;
    let consistency = options.consistency;
    // Mutant H05: a read that asks for nothing in particular is answered from what this server has.
    if mutant::is("H05") && consistency == Consistency::Default {
        options.consistency = Consistency::Stale;
    }
    // Mutant H11: the index is what this server had when it was asked, the value what it has when it answers.
    let early = if mutant::is("H11") {
        let at_once = QueryOptions { consistency: Consistency::Stale, min_index: 0, wait: Duration::ZERO };
        let found = api.agent.query(at_once, &KvGet { key: key.clone() }).await;
        found.ok().and_then(|answer| answer.value.entry).map(|entry| entry.modify_index)
    } else {
        None
    };
    let answer = api.agent.query(options, &KvGet { key: key.clone() }).await;
    // Mutant H03: what cannot be read is called absent.
    if mutant::is("H03") && answer.is_err() {
        return Ok(reply::indexed(reply::empty(StatusCode::NOT_FOUND), 0));
    }
    let answer = answer?;
    let KvFound { entry, table_index } = &answer.value;
    let Some(entry) = entry else {
        // Mutant H04: an absent key has no index.
        if mutant::is("H04") {
            return Ok(reply::describe(reply::empty(StatusCode::NOT_FOUND), 0, &answer, consistency));
        }
        return Ok(reply::describe(reply::empty(StatusCode::NOT_FOUND), *table_index, &answer, consistency));
    };
    let modify_index = early.unwrap_or(entry.modify_index);
    let entry = &Entry { modify_index, value: mutant::buffered(entry.value.clone()), ..entry.clone() };
    let response = if params.has("raw") {
        reply::raw(entry.value.to_vec())
    } else {
        reply::json(&[KvPair::new(&key, entry)], params.pretty())?
    };
    Ok(reply::describe(response, entry.modify_index, &answer, consistency))
}

async fn list(api: &Api, params: &Params, prefix: String) -> Reply {
    let options = params.query_options(|| api.spread())?;
    let consistency = options.consistency;
    let answer = api.agent.query(options, &KvList { prefix }).await?;
    let entries = &answer.value;
    // Mutant H06: the last key under the prefix is cut off.
    let entries = &entries[..entries.len() - usize::from(mutant::is("H06") && entries.len() > 1)];
    let response = if entries.is_empty() {
        reply::empty(StatusCode::NOT_FOUND)
    } else {
        let mut pairs: Vec<KvPair<'_>> = entries.iter().map(|(key, entry)| KvPair::new(key, entry)).collect();
        // Mutant H12: every key is listed with the index of the newest.
        if mutant::is("H12") {
            pairs.iter_mut().for_each(|pair| pair.modify_index = answer.index);
        }
        reply::json(&pairs, params.pretty())?
    };
    Ok(reply::describe(response, answer.index, &answer, consistency))
}

async fn keys(api: &Api, params: &Params, prefix: String) -> Reply {
    let options = params.query_options(|| api.spread())?;
    let consistency = options.consistency;
    // The misspelling is as old as the API, and some clients send it.
    let separator = params.get("separator").or(params.get("seperator")).unwrap_or_default();
    let separator = separator.to_owned();
    let no_prefix = prefix.is_empty();
    let answer = api.agent.query(options, &KvKeys { prefix, separator }).await?;
    let keys = &answer.value;
    let response = if keys.is_empty() && !no_prefix {
        reply::empty(StatusCode::NOT_FOUND)
    } else {
        reply::json(keys, params.pretty())?
    };
    Ok(reply::describe(response, answer.index, &answer, consistency))
}

/// At most one of these parameters may be there.
fn exclusive(params: &Params, names: &[&str]) -> Result<(), Failure> {
    if names.iter().filter(|name| params.has(name)).count() > 1 {
        return Err(Failure::bad_request(format!("Conflicting flags: {}\n", params.encode())));
    }
    Ok(())
}

async fn put(api: &Api, params: &Params, key: String, body: Body) -> Reply {
    named(&key)?;
    exclusive(params, &["cas", "acquire", "release"])?;
    let flags = params.number("flags")?.unwrap_or(0);
    // Mutant H02: the condition of a compare-and-set is not looked at.
    let cas = params.number("cas")?.filter(|_| !mutant::is("H02"));
    let body = api.read_body(body).await?;
    let value = body[..].into();
    let command = if let Some(session) = params.get("acquire") {
        KvCommand::Acquire { key, value, flags, session: session::canonical(session.to_owned()) }
    } else if let Some(session) = params.get("release") {
        KvCommand::Release { key, value, flags, session: session::canonical(session.to_owned()) }
    } else {
        KvCommand::Set { key, value, flags, cas }
    };
    write(api, command, params.pretty()).await
}

async fn delete(api: &Api, params: &Params, key: String) -> Reply {
    exclusive(params, &["recurse", "cas"])?;
    if params.has("recurse") {
        return write(api, KvCommand::DeleteTree { prefix: key }, params.pretty()).await;
    }
    named(&key)?;
    let cas = params.number("cas")?;
    write(api, KvCommand::Delete { key, cas }, params.pretty()).await
}

async fn write(api: &Api, command: KvCommand, pretty: bool) -> Reply {
    // Mutant H08: a write that nobody took is answered as if it were done.
    let outcome = match api.agent.write(Command::Kv(command)).await {
        Err(WriteError::Refused(_)) if mutant::is("H08") => Outcome::Done { index: 0 },
        outcome => outcome?,
    };
    // Mutant H07: a condition that did not hold is reported as a success.
    reply::json(&(reply::yes_or_no(outcome)? || mutant::is("H07")), pretty)
}
