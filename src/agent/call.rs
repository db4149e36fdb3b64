//! What is asked of the cluster, and how that travels from an agent without a state to one that has it.
//!
//! A [`Call`] is answered by whichever server is asked, which goes to the leader itself if it must. A client
//! agent sends it as one frame of [`crate::raft::rpc`], whose layer knows it as bytes only. It goes with what
//! makes it safe to send again: the id of a write, and how long the sender will wait; and with the token of whoever
//! asks, whose rights the server judges by.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::raft::client::WriteError;
use crate::raft::frame::MAX_FRAME;
use crate::secret::Secret;
use crate::state::acl::ANONYMOUS_SECRET;
use crate::state::query::{Found, Query};
use crate::state::txn::OpError;
use crate::state::{Command, NodePlace, Outcome, RequestId};

use super::autopilot::Health;
use super::why::Explanation;
use super::{Answer, Consistency, QueryOptions};

/// The version of what is sent; the first byte.
const VERSION: u8 = 1;

/// The version of a call that a token goes with. Who shows none sends the older one, which every server understands.
const WITH_TOKEN: u8 = 2;
/// Bytes of an answer that fit into a frame of peer RPC, with what comes around them.
pub const MAX_REPLY: usize = MAX_FRAME - 64 * 1024;

/// What is said by a client agent that knows no server; Consul's words.
pub const NO_SERVERS: &str = "No known Consul servers";

/// What is said of a token that nobody knows; Consul's words.
pub const NO_TOKEN: &str = "ACL not found";

/// The same while nobody has any rights yet; Consul's words.
pub const NOT_BOOTSTRAPPED: &str =
    "ACL system must be bootstrapped before making any requests that require authorization: ACL not found";

/// By whose right something is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// The node's own: nobody asked for it.
    Node,
    /// Of whoever shows this token; an empty one is shown by those who have none.
    Token(Secret),
}

impl Bearer {
    /// Whether it is the node or who shows a token; not who shows none, or the one that anybody knows.
    pub fn is_somebody(&self) -> bool {
        match self {
            Bearer::Node => true,
            Bearer::Token(secret) => !secret.is_empty() && secret.expose() != ANONYMOUS_SECRET,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// Look at the state, and wait for a change if need be.
    Read {
        /// For what.
        query: Query,
        /// How current, and how long to wait.
        options: QueryOptions,
    },
    /// Change the state.
    Write(Command),
    /// Who leads, and which servers there are.
    Cluster(Consistency),
    /// Make the server at this address a voter.
    AddServer(SocketAddr),
    /// Take a server out of the configuration.
    RemoveServer {
        /// Its id.
        node_id: u64,
    },
    /// Hand leadership to another server.
    TransferLeadership {
        /// The heir's id; none: the leader chooses.
        node_id: Option<u64>,
    },
    /// The whole state, as it is kept in a snapshot.
    Snapshot(Consistency),
    /// Why there is no leader, or that all is well.
    Why,
    /// Remember where a node stands. It is in force some seconds later.
    Coordinate(NodePlace),
    /// How the servers fare, as the leader sees them.
    Health {
        /// Whether a server asks, which took this one for the leader. It is not sent on again.
        sent_on: bool,
    },
}

impl Call {
    /// Whether it is a read that waits for a change.
    pub fn waits(&self) -> bool {
        matches!(self, Call::Read { options, .. } if options.min_index > 0 && !options.wait.is_zero())
    }

    /// What kind of call, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Call::Read { options, .. } if options.min_index > 0 => "watch",
            Call::Read { .. } => "read",
            Call::Write(_) => "write",
            Call::Cluster(_) => "cluster",
            Call::AddServer(_) | Call::RemoveServer { .. } | Call::TransferLeadership { .. } => "change",
            Call::Snapshot(_) => "snapshot",
            Call::Why => "why",
            Call::Coordinate(_) => "coordinate",
            Call::Health { .. } => "health",
        }
    }
}

/// What a [`Call`] comes to, under names that fit theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Call::Read`].
    Found(Answer<Found>),
    /// To [`Call::Write`].
    Written(Outcome),
    /// To [`Call::Cluster`].
    Cluster(Cluster),
    /// To [`Call::AddServer`], [`Call::RemoveServer`], [`Call::TransferLeadership`] and [`Call::Coordinate`].
    Done,
    /// To [`Call::Snapshot`].
    Snapshot(Bytes),
    /// To [`Call::Why`].
    Why(Explanation),
    /// To [`Call::Read`], when something was left out that whoever asks may not see.
    FoundSome(Box<Answer<Found>>),
    /// To [`Call::Health`].
    Health(Health),
}

/// The servers, as one of them knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's id.
    pub id: Option<u64>,
    /// Where the leader is reached, if there is one.
    pub leader: Option<SocketAddr>,
    /// The servers of the Raft configuration in force.
    pub servers: Vec<Configured>,
    /// The log index of that configuration.
    pub index: u64,
}

/// A server of the Raft configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// Its id, in Raft and in gossip.
    pub node_id: u64,
    /// Its node name.
    pub name: String,
    /// Where other nodes reach it.
    pub addr: SocketAddr,
    /// Whether it votes, or learns only.
    pub voter: bool,
    /// Whether it leads, as far as known.
    pub leader: bool,
    /// How far its log reaches: the asked server's own, and on the leader everyone's.
    pub last_index: Option<u64>,
}

/// Why a call was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CallError {
    /// Nobody leads, or nobody could confirm in time that they do. Nothing was done.
    #[error("{0}")]
    NoLeader(String),
    /// This agent is a client and sees no server alive. Nothing was done.
    #[error("{NO_SERVERS}")]
    NoServers,
    /// Nothing was done, and nothing will be.
    #[error("{0}")]
    Refused(String),
    /// It may have been done, or may yet be.
    #[error("{0}")]
    Unknown(String),
    /// Nothing was done: the server to be added has another cluster's data.
    #[error(
        "the server at {addr} belongs to cluster {theirs:016x} and this one to {mine:016x}: two clusters \
         cannot be merged. Empty its data directory if its data is not wanted"
    )]
    OtherCluster {
        /// Where it is.
        addr: SocketAddr,
        /// The cluster it belongs to.
        theirs: u64,
        /// The cluster it was to join.
        mine: u64,
    },
    /// Nothing was done: whoever asks may not.
    #[error("{0}")]
    Denied(String),
    /// Nothing was done: there is no such token.
    #[error("{NO_TOKEN}")]
    NoToken,
    /// Nothing of a transaction was done: whoever asks may not do some of it.
    #[error("{} operations may not be done", .0.len())]
    DeniedOps(Vec<OpError>),
}

impl CallError {
    /// The answer is of another kind than the call: the two agents do not understand each other.
    pub fn misfit() -> CallError {
        CallError::Unknown("the answer does not fit the call".to_owned())
    }
}

impl From<WriteError> for CallError {
    fn from(error: WriteError) -> CallError {
        match error {
            WriteError::Refused(_) => CallError::Refused(error.to_string()),
            WriteError::Unknown(_) => CallError::Unknown(error.to_string()),
        }
    }
}

/// A call on its way to a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forwarded {
    /// How long the server may take to find a leader and have it done. A blocking read's own time comes on top.
    pub hold_ms: u64,
    /// Of a write: its id, and below which number its origin has all its answers.
    pub id: Option<(RequestId, u64)>,
    /// What is asked.
    pub call: Call,
}

impl Forwarded {
    /// How long the server may take.
    pub fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms)
    }
}

fn encode(value: &impl Serialize) -> Bytes {
    // Plain data into memory has no way to fail.
    postcard::to_extend(value, vec![VERSION]).unwrap_or_default().into()
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|error| error.to_string()),
        Some((version, _)) => Err(format!("calls of version {version}, this agent speaks {VERSION}")),
        None => Err("nothing".to_owned()),
    }
}

/// What is sent to a server.
pub fn encode_call(token: &Secret, call: &Forwarded) -> Bytes {
    if token.is_empty() {
        return encode(call);
    }
    // Plain data into memory has no way to fail.
    postcard::to_extend(&(token, call), vec![WITH_TOKEN]).unwrap_or_default().into()
}

/// What a server was sent.
///
/// # Errors
/// Why it cannot be understood. Nothing was done.
pub fn decode_call(bytes: &[u8]) -> Result<(Secret, Forwarded), String> {
    match bytes.split_first() {
        Some((&WITH_TOKEN, body)) => postcard::from_bytes(body).map_err(|error| error.to_string()),
        _ => Ok((Secret::default(), decode(bytes)?)),
    }
}

/// What a server sends back.
pub fn encode_reply(reply: &Result<Reply, CallError>) -> Bytes {
    encode(reply)
}

/// What a server sent back.
///
/// # Errors
/// Why it cannot be understood. The call may have been done.
pub fn decode_reply(bytes: &[u8]) -> Result<Result<Reply, CallError>, String> {
    decode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_shows_what_anybody_knows_is_nobody() {
        for (secret, somebody) in [("", false), (ANONYMOUS_SECRET, false), ("s", true)] {
            assert_eq!(Bearer::Token(Secret::new(secret)).is_somebody(), somebody, "{secret:?}");
        }
        assert!(Bearer::Node.is_somebody());
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let call = Forwarded {
            hold_ms: 7,
            id: Some((RequestId { origin: 1, number: 2 }, 1)),
            call: Call::Write(Command::Noop),
        };
        for token in [Secret::default(), Secret::new("secret")] {
            assert_eq!(decode_call(&encode_call(&token, &call)), Ok((token, call.clone())));
        }
        let reply = Ok(Reply::Cluster(Cluster::default()));
        assert_eq!(decode_reply(&encode_reply(&reply)), Ok(reply));
        let error = Err(CallError::NoLeader("nobody".to_owned()));
        assert_eq!(decode_reply(&encode_reply(&error)), Ok(error));
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode_reply(&Ok(Reply::Done)).to_vec();
        bytes[0] = 9;
        assert_eq!(decode_reply(&bytes), Err(format!("calls of version 9, this agent speaks {VERSION}")));
        assert!(decode_call(&[]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_call_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            bytes[0] = WITH_TOKEN;
            let _ = decode_call(&bytes);
            bytes[0] = VERSION;
            let _ = decode_call(&bytes);
            let _ = decode_reply(&bytes);
        }
    }
}
