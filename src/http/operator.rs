//! `/v1/operator/raft/…`: the servers of the Raft configuration, for those who look after them.
//!
//! A server is named by its id as `/v1/agent/self` shows it, by the sixteen digits that logs show, or by
//! its node name. `Index` is the log index of the configuration, as documented; Consul's own servers
//! answer 0 there. `LastIndex` of another server is known to the leader alone and absent elsewhere.
//!
//! A server that is taken out while gossip still sees it alive comes back, because the leader makes the
//! configuration follow gossip: removing is for servers that are gone for good.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::Serialize;

use crate::agent::{Cluster, Configured, uuid_of};

use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::{Api, Call};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    servers: Vec<Server>,
    index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    #[serde(rename = "ID")]
    id: String,
    node: String,
    address: String,
    leader: bool,
    protocol_version: &'static str,
    voter: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_index: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Transferred {
    success: bool,
}

/// The configuration, with every change that was finished before the call unless it asks for `stale`.
async fn current(api: &Api, params: &Params) -> Result<Cluster, Failure> {
    Ok(api.agent.cluster(params.query_options(|| 0.0)?.consistency).await?)
}

/// The servers of the configuration in force.
pub async fn configuration(api: Arc<Api>, call: Call) -> Reply {
    let Cluster { servers, index, .. } = current(&api, &call.params).await?;
    let servers = servers.into_iter().map(|server| Server {
        id: uuid_of(server.node_id),
        node: server.name,
        address: server.addr.to_string(),
        leader: server.leader,
        protocol_version: "3",
        voter: server.voter,
        last_index: server.last_index,
    });
    let configuration = Configuration { servers: servers.collect(), index };
    reply::json(&configuration, call.params.pretty())
}

/// Whether `name` means this server.
fn is_named(server: &Configured, name: &str) -> bool {
    let same = |id: String| id.eq_ignore_ascii_case(name);
    server.name == name || same(uuid_of(server.node_id)) || same(format!("{:016x}", server.node_id))
}

fn unknown(what: &str, value: &str) -> Failure {
    Failure::refused(format!("{what} {value:?} was not found in the Raft configuration"))
}

/// Finds a server of the configuration by `?id`.
fn by_id(servers: &[Configured], name: &str) -> Result<u64, Failure> {
    let found = servers.iter().find(|server| is_named(server, name));
    found.map(|server| server.node_id).ok_or_else(|| unknown("id", name))
}

/// Finds a server of the configuration by `?address`.
fn by_address(servers: &[Configured], text: &str) -> Result<u64, Failure> {
    let addr: Option<SocketAddr> = text.parse().ok();
    let found = servers.iter().find(|server| Some(server.addr) == addr);
    found.map(|server| server.node_id).ok_or_else(|| unknown("address", text))
}

/// The server that is to lead: the one that is named, or whichever voter is furthest along. What no server can do is
/// refused in Consul's words, before anybody is asked.
fn heir(servers: &[Configured], name: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(name) = name else {
        return match servers.iter().any(|server| server.voter && !server.leader) {
            true => Ok(None),
            false => Err(Failure::refused("cannot find peer: there is no other voter to hand leadership to")),
        };
    };
    match servers.iter().find(|server| is_named(server, name)) {
        None => Err(Failure::refused(format!("Could not find address for server id {name}"))),
        Some(server) if server.leader => Err(Failure::refused("cannot transfer leadership to itself")),
        Some(server) if !server.voter => {
            Err(Failure::refused(format!("cannot find peer: {} is no voter", server.name)))
        }
        Some(server) => Ok(Some(server.node_id)),
    }
}

/// Hands leadership to the server that `?id` names, or to the voter that is furthest along.
pub async fn transfer_leader(api: Arc<Api>, call: Call) -> Reply {
    // Nobody was asked for anything yet.
    let refused = |failure: Failure| Failure { status: failure.status, ..Failure::refused(failure.text) };
    let servers = current(&api, &call.params).await.map_err(refused)?.servers;
    let heir = heir(&servers, call.params.text("id"))?;
    api.agent.transfer_leadership(heir).await?;
    reply::json(&Transferred { success: true }, call.params.pretty())
}

/// Takes a server out of the configuration.
pub async fn remove_peer(api: Arc<Api>, call: Call) -> Reply {
    let (id, address) = (call.params.text("id"), call.params.text("address"));
    let refusal = match (id, address) {
        (None, None) => {
            "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove"
        }
        (Some(_), Some(_)) => "Must specify only one of ?id or ?address",
        _ => "",
    };
    if !refusal.is_empty() {
        return Err(Failure::bad_request(refusal));
    }
    let servers = current(&api, &call.params).await?.servers;
    let node_id = match id {
        Some(id) => by_id(&servers, id)?,
        None => by_address(&servers, address.unwrap_or_default())?,
    };
    let agent = api.agent.clone();
    // In a task of its own: a client that hangs up must not leave the change half done.
    let removed = agent.env().clone().spawn(async move { agent.remove_server(node_id).await });
    removed.await.map_err(|error| Failure::unknown(format!("removing did not end: {error}")))??;
    Ok(reply::empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_id_its_digits_its_name_or_its_address() {
        let addr = SocketAddr::from(([10, 0, 0, 1], 8300));
        let name = "one".to_owned();
        let servers =
            [Configured { node_id: 0xab, name, addr, voter: true, leader: false, last_index: None }];
        for name in ["one", "00000000000000ab", "00000000000000AB", &uuid_of(0xab)] {
            assert_eq!(by_id(&servers, name), Ok(0xab), "{name:?}");
        }
        assert_eq!(by_address(&servers, "10.0.0.1:8300"), Ok(0xab));
        for name in ["two", "ab", "", "10.0.0.1:8300"] {
            let text = format!("id {name:?} was not found in the Raft configuration");
            assert_eq!(by_id(&servers, name).unwrap_err().text, text);
        }
        for text in ["10.0.0.1", "10.0.0.1:8301", "nonsense"] {
            assert!(by_address(&servers, text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn leadership_goes_to_another_voter_or_nowhere() {
        let server = |node_id, name: &str, voter, leader| {
            let addr = SocketAddr::from(([10, 0, 0, 1], 8300));
            Configured { node_id, name: name.to_owned(), addr, voter, leader, last_index: None }
        };
        let servers =
            [server(1, "one", true, true), server(2, "two", true, false), server(3, "three", false, false)];
        assert_eq!(heir(&servers, None), Ok(None));
        assert_eq!(heir(&servers, Some("two")), Ok(Some(2)));
        let refused = |servers: &[Configured], name| {
            let failure = heir(servers, name).unwrap_err();
            assert_eq!(failure.status, StatusCode::INTERNAL_SERVER_ERROR);
            failure.text
        };
        assert_eq!(refused(&servers, Some("one")), "cannot transfer leadership to itself");
        assert_eq!(refused(&servers, Some("three")), "cannot find peer: three is no voter");
        assert_eq!(refused(&servers, Some("four")), "Could not find address for server id four");
        assert!(refused(&servers[..1], None).starts_with("cannot find peer"));
    }
}
