//! `/v1/txn`: several operations at once, as [`crate::state::txn`] carries them out.
//!
//! A transaction that only reads is a read: it takes a consistency mode and needs no log entry.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::state::query::Txn;
use crate::state::txn::{Done, KvOp, KvVerb, OpError};
use crate::state::{Command, Outcome, Refusal, Returned, TxnOp, TxnResult};

use super::kv::KvPair;
use super::reply::{self, Failure, Reply};
use super::{Api, Call, kv};

/// Operations of one transaction.
const MAX_OPS: usize = 64;

/// One operation as clients write it.
#[derive(Deserialize)]
struct Wanted {
    #[serde(rename = "KV", alias = "Kv", alias = "kv")]
    kv: Option<WantedKv>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WantedKv {
    #[serde(default, alias = "verb")]
    verb: String,
    #[serde(default, alias = "key")]
    key: String,
    /// In base64.
    #[serde(default, alias = "value")]
    value: Option<String>,
    #[serde(default, alias = "flags")]
    flags: Option<u64>,
    #[serde(default, alias = "index")]
    index: Option<u64>,
    #[serde(default, alias = "session")]
    session: Option<String>,
}

/// What became of it, as clients know it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    /// `null` when it failed, or gave nothing.
    results: Option<Vec<ShownResult<'a>>>,
    /// `null` when it did not fail.
    errors: Option<Vec<ShownError<'a>>>,
}

#[derive(Serialize)]
struct ShownResult<'a> {
    #[serde(rename = "KV")]
    kv: KvPair<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownError<'a> {
    op_index: u32,
    what: &'a str,
}

fn parse_failed(why: impl std::fmt::Display) -> Failure {
    Failure::bad_request(format!("Failed to parse body: {why}"))
}

/// The operations that a body asks for.
fn parse(api: &Api, body: &[u8]) -> Result<Vec<TxnOp>, Failure> {
    let wanted: Vec<Wanted> = serde_json::from_slice(body).map_err(parse_failed)?;
    if wanted.len() > MAX_OPS {
        let text = format!("Transaction contains too many operations ({} > {MAX_OPS})", wanted.len());
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    wanted.into_iter().map(|wanted| operation(api, wanted)).collect()
}

fn operation(api: &Api, wanted: Wanted) -> Result<TxnOp, Failure> {
    let Some(wanted) = wanted.kv else {
        return Err(parse_failed("an operation must have a KV member; there are no others yet"));
    };
    kv::check_key(api, &wanted.key)?;
    let value = BASE64.decode(wanted.value.unwrap_or_default()).map_err(parse_failed)?;
    let limit = api.limits().value_bytes;
    if value.len() > limit {
        let text = format!("Value for key {:?} is too large ({} > {limit} bytes)", wanted.key, value.len());
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(TxnOp::Kv(KvOp {
        verb: KvVerb::named(&wanted.verb),
        key: wanted.key,
        value: value.into(),
        flags: wanted.flags.unwrap_or(0),
        index: wanted.index.unwrap_or(0),
        session: wanted.session.unwrap_or_default(),
    }))
}

/// `PUT /v1/txn`
pub async fn txn(api: Arc<Api>, call: Call) -> Reply {
    let body = api.read_body(call.body).await?;
    let ops = parse(&api, &body)?;
    let pretty = call.params.pretty();
    if ops.iter().any(TxnOp::writes) {
        let done = match api.agent.write(Command::Txn(ops)).await? {
            Outcome::Returned { value: Returned::Txn(results), .. } => Ok(results),
            Outcome::Refused { refusal: Refusal::Txn(errors), .. } => Err(errors),
            Outcome::Refused { refusal, .. } => return Err(Failure::refused(refusal.to_string())),
            _ => return Err(Failure::forgotten()),
        };
        return show(&done, pretty);
    }
    let mut options = call.params.query_options(|| api.spread())?;
    options.min_index = 0;
    let answer = api.agent.query(options, &Txn { ops }).await?;
    Ok(reply::describe_unindexed(show(&answer.value, pretty)?, &answer, options.consistency))
}

fn show(done: &Done, pretty: bool) -> Result<Response, Failure> {
    let shown = match done {
        Ok(results) => {
            let results =
                results.iter().map(|TxnResult::Kv(key, entry)| ShownResult { kv: KvPair::new(key, entry) });
            Shown { results: (results.len() > 0).then(|| results.collect()), errors: None }
        }
        Err(errors) => {
            let errors =
                errors.iter().map(|OpError { op_index, what }| ShownError { op_index: *op_index, what });
            Shown { results: None, errors: Some(errors.collect()) }
        }
    };
    let mut response = reply::json(&shown, pretty)?;
    if done.is_err() {
        *response.status_mut() = StatusCode::CONFLICT;
    }
    Ok(response)
}
