//! How an operator gives the orders of [`crate::scenario::orders`], and what may be said of the answers: the same in simulation and
//! on real processes.

use bytes::Bytes;
use driftline::agent::archive;
use driftline::env::Env;
use driftline::http::client::{CallError, Response};
use driftline::state::State;
use hyper::Method;
use serde_json::Value;

use crate::check::orders::Ordered;
use crate::scenario::nodes::node_name;
use crate::workload::Clients;

/// More bytes than the state of any run has.
const MOST_BYTES: u64 = 1 << 30;

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// The answer says that it is done.
    Done,
    /// It was not done, and will not be.
    Refused,
    /// Nobody knows.
    Unknown,
}

fn came(answer: &Result<Response, CallError>) -> Came {
    match answer {
        Ok(response) if response.status == 200 => Came::Done,
        Ok(response) if response.header("x-driftline-outcome") == Some("refused") => Came::Refused,
        Err(CallError::NotSent(_)) => Came::Refused,
        _ => Came::Unknown,
    }
}

/// How the state of a member reads that is gone: left, or failed.
const GONE: [u64; 2] = [3, 4];

/// An operator at a host of its own.
#[derive(Clone, Copy)]
pub struct Orderer<'a> {
    /// Those through whom it asks.
    pub clients: &'a Clients,
    /// The world of its host.
    pub env: &'a Env,
    /// The node that it asks.
    pub asked: u32,
}

impl Orderer<'_> {
    /// Has a server taken out of the Raft configuration. What came of it, and what must hold then.
    pub async fn remove_peer(self, node: u32, raft_id: u64) -> (Came, Option<Ordered>) {
        let asked_ns = self.clients.now();
        let path = format!("/v1/operator/raft/peer?id={}", node_name(node));
        let answer = self.clients.call(self.env, self.asked, Method::DELETE, &path, Bytes::new()).await;
        let came = came(&answer);
        let ordered = (came == Came::Done).then_some(Ordered::Out { raft_id, asked_ns });
        (came, ordered)
    }

    /// Declares that a node has left. What must hold if the asked node agrees.
    pub async fn force_leave(self, node: u32, prune: bool) -> Option<Ordered> {
        let asked_ns = self.clients.now();
        let name = node_name(node);
        let path = format!("/v1/agent/force-leave/{name}{}", if prune { "?prune" } else { "" });
        let answer = self.clients.call(self.env, self.asked, Method::PUT, &path, Bytes::new()).await;
        (came(&answer) == Came::Done).then_some(Ordered::Left { name, asked_ns })
    }

    /// Whether the asked node lists one among those that are gone.
    pub async fn lists_as_gone(self, node: u32) -> Option<Ordered> {
        let answer =
            self.clients.call(self.env, self.asked, Method::GET, "/v1/agent/members", Bytes::new()).await;
        let members: Vec<Value> = serde_json::from_slice(&answer.ok()?.body).ok()?;
        let name = node_name(node);
        let gone = |member: &Value| {
            member["Name"] == name.as_str()
                && member["Status"].as_u64().is_some_and(|how| GONE.contains(&how))
        };
        members.iter().any(gone).then_some(Ordered::Listed { name })
    }

    /// Saves a snapshot: its index and the digest of its state, as `blank` can be made of it. Nothing, if there is no answer.
    pub async fn save(self, stale: bool, blank: State) -> Option<Result<(u64, u64), String>> {
        let path = if stale { "/v1/snapshot?stale" } else { "/v1/snapshot" };
        let answer = self.clients.call(self.env, self.asked, Method::GET, path, Bytes::new()).await;
        let file = answer.ok().filter(|answer| answer.status == 200)?.body;
        Some(inspect(&file, &blank))
    }
}

/// The index and the digest of the state in a file.
fn inspect(file: &[u8], blank: &State) -> Result<(u64, u64), String> {
    let contents = archive::unpack(file, MOST_BYTES).map_err(|error| error.to_string())?;
    let state = blank.restored(&contents.state).map_err(|error| error.to_string())?;
    if state.applied() != contents.meta.index {
        return Err(format!("it says index {}, and its state says {}", contents.meta.index, state.applied()));
    }
    Ok((contents.meta.index, state.digest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_state_that_it_was_made_of_or_none() {
        let state = State::default();
        let file = archive::pack(&state.to_snapshot()).unwrap();
        assert_eq!(inspect(&file, &State::default()), Ok((state.applied(), state.digest())));
        assert!(inspect(&file[..file.len() / 2], &State::default()).is_err());
    }
}
