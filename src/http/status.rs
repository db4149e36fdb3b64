//! `/v1/status/…`: who leads, and who votes, by the addresses that servers use among themselves.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::StatusCode;

use crate::agent::Consistency;

use super::reply::{self, Reply};
use super::{Api, Call};

/// `/`: says who is there.
pub async fn root(_: Arc<Api>, _: Call) -> Reply {
    Ok(reply::text(StatusCode::OK, "Consul Agent"))
}

/// The leader's address, or the empty string.
pub async fn leader(api: Arc<Api>, call: Call) -> Reply {
    let leader = api.agent.cluster(Consistency::Stale).await?.leader;
    reply::json(&leader.map(|addr| addr.to_string()).unwrap_or_default(), call.params.pretty())
}

/// The addresses of the servers that vote.
pub async fn peers(api: Arc<Api>, call: Call) -> Reply {
    let servers = api.agent.cluster(Consistency::Stale).await?.servers;
    let mut peers: Vec<SocketAddr> =
        servers.iter().filter(|server| server.voter).map(|server| server.addr).collect();
    peers.sort();
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    reply::json(&peers, call.params.pretty())
}

/// Why there is no leader, or that all is well, in words, and what to do.
pub async fn why(api: Arc<Api>, call: Call) -> Reply {
    reply::json(&api.agent.why().await?, call.params.pretty())
}
