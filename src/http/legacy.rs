//! `/set`, `/get` and `/join`: the three paths of the older, smaller API, all of them plain text.
//!
//! Every server answers them, not only the leader. `ok` means that the entry is committed. An empty
//! value deletes, and a missing key reads as an empty body.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::agent::Consistency;
use crate::state::query::KvGet;
use crate::state::{Command, KvCommand};

use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::{Api, Call, kv};

fn key(api: &Api, params: &Params) -> Result<String, Failure> {
    let key = params.text("key").ok_or_else(|| Failure::bad_request("Missing parameter: key"))?;
    kv::check_key(api, key)?;
    Ok(key.to_owned())
}

/// `/set?key=…&value=…`
pub async fn set(api: Arc<Api>, call: Call) -> Reply {
    let key = key(&api, &call.params)?;
    let value = call.params.get("value").ok_or_else(|| Failure::bad_request("Missing parameter: value"))?;
    let limit = api.limits().value_bytes;
    if value.len() > limit {
        let text = format!("Value is too large ({} bytes), the limit is {limit} bytes", value.len());
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let command = if value.is_empty() {
        KvCommand::Delete { key, cas: None }
    } else {
        KvCommand::Set { key, value: value.as_bytes().into(), flags: 0, cas: None }
    };
    match reply::yes_or_no(api.agent.write(Command::Kv(command)).await?)? {
        true => Ok(reply::text(StatusCode::OK, "ok")),
        // Impossible for an unconditional write of our own; should it come, it is not `ok`.
        false => Err(Failure::refused("the write's condition did not hold")),
    }
}

/// `/get?key=…`, linearizable unless `stale` is asked for.
pub async fn get(api: Arc<Api>, call: Call) -> Reply {
    let key = key(&api, &call.params)?;
    let mut options = call.params.query_options(|| api.spread())?;
    options.min_index = 0;
    if options.consistency == Consistency::Default {
        options.consistency = Consistency::Consistent;
    }
    let consistency = options.consistency;
    let answer = api.agent.query(options, &KvGet { key }).await?;
    let value = answer.value.entry.as_ref().map(|entry| entry.value.to_vec()).unwrap_or_default();
    Ok(reply::describe(reply::raw(value), answer.index, &answer, consistency))
}

/// `/join?peerAddress=…`: adds the server at this RPC address to the cluster.
pub async fn join(api: Arc<Api>, call: Call) -> Reply {
    let addr = call
        .params
        .text("peerAddress")
        .ok_or_else(|| Failure::bad_request("Missing parameter: peerAddress"))?;
    let addr = addr.parse().map_err(|_| {
        Failure::bad_request(format!(
            "Invalid peerAddress {addr:?}: must be an IP address and a port, as in 10.0.0.2:8300"
        ))
    })?;
    api.agent.add_server(addr).await?;
    Ok(reply::text(StatusCode::OK, "ok"))
}
