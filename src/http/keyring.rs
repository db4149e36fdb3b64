//! `/v1/operator/keyring`: the keys that gossip is encrypted with, at every member.
//!
//! GET tells how many members have which key; POST installs one, PUT makes it the one to encrypt with, DELETE removes
//! it. `?relay-factor` is understood and changes nothing: every member is asked directly, so there is nothing to relay.
//! There is one datacenter, so the answer has one entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::gossip::keyring::Change;
use crate::state::acl::Access;

use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::{Api, Call, decode};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(rename = "WAN")]
    wan: bool,
    datacenter: String,
    segment: &'static str,
    messages: BTreeMap<String, String>,
    keys: BTreeMap<String, usize>,
    primary_keys: BTreeMap<String, usize>,
    num_nodes: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KeyBody {
    key: String,
}

/// All four.
pub async fn keyring(api: Arc<Api>, call: Call) -> Reply {
    let wanted = if call.head.method == Method::GET { Access::Read } else { Access::Write };
    api.who().await?.require_keyring(wanted)?;
    let relays = call.params.text("relay-factor").map(str::parse::<u8>);
    match relays {
        None | Some(Ok(0..=5)) => {}
        Some(Ok(_)) => return Err(Failure::bad_request("Relay factor must be in range: [0, 5]")),
        Some(Err(_)) => return Err(Failure::bad_request("Error parsing relay factor: not a number")),
    }
    let local_only = match call.params.get("local-only") {
        None => false,
        Some("") => true,
        Some(text) => Params::truth(text)
            .ok_or_else(|| Failure::bad_request("Error parsing local-only: want true or false"))?,
    };
    let change = match call.head.method {
        Method::POST => Some(Change::Install),
        Method::PUT => Some(Change::Use),
        Method::DELETE => Some(Change::Remove),
        _ => None,
    };
    let pretty = call.params.pretty();
    let Some(change) = change else {
        let ring = api.agent.keyring(None, local_only).await.map_err(Failure::internal)?;
        let answer = Answer {
            wan: false,
            datacenter: api.agent.config().datacenter.clone(),
            segment: "",
            messages: ring.messages,
            keys: ring.keys,
            primary_keys: ring.primary,
            num_nodes: ring.nodes,
        };
        return reply::json(&[answer], pretty);
    };
    if local_only {
        return Err(Failure::bad_request("local-only=true can only be used in GET requests"));
    }
    let bytes = api.read_body(call.body).await?;
    let KeyBody { key } = decode::body(&bytes)?;
    let ring = api.agent.keyring(Some((change, &key)), false).await.map_err(Failure::internal)?;
    ring.complete().map_err(Failure::internal)?;
    Ok(reply::empty(StatusCode::OK))
}
