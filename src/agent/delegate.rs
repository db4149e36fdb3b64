//! What an agent rests on: the fourteen operations that a server and a client both have, each in its way.
//!
//! The agent above, and the API above that, use a node through this trait only, so whatever they can do
//! works in both modes. A [`Server`](super::Server) answers from Raft, gossip and its own state; a
//! [`Client`](super::Client) has gossip, and carries every [`Call`] to a server.
//!
//! The names are Consul's, in whose agent this interface is called the same.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures_util::future::BoxFuture;

pub use crate::gossip::Coordinate;
use crate::gossip::Member;
use crate::secret::Secret;
use crate::state::acl::Holder;

use super::call::{Bearer, Call, CallError, Reply};

/// A subsystem's numbers, for people: all as text.
pub type Stats = BTreeMap<String, BTreeMap<String, String>>;

/// The name of the only segment.
pub const DEFAULT_SEGMENT: &str = "";

/// There is only the default segment. Ask without one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown segment {0:?}: there is only the default one")]
pub struct UnknownSegment(pub String);

/// A node, whether it keeps the state or not.
pub trait Delegate: Send + Sync {
    /// Whether gossip is encrypted.
    fn encrypted(&self) -> bool;

    /// Where this node is in the network, by segment.
    fn lan_coordinate(&self) -> BTreeMap<String, Coordinate>;

    /// Leaves the cluster so that the others know. What was asked of this node before is still answered; the
    /// node has to be [shut down](Delegate::shutdown) afterwards. Never fails: whoever leaves goes.
    fn leave(&self) -> BoxFuture<'_, ()>;

    /// All members that gossip remembers, by name, those that failed or left included.
    fn lan_members(&self) -> Vec<Member>;

    /// The same, of all segments.
    fn lan_members_all_segments(&self) -> Vec<Member> {
        self.lan_members()
    }

    /// The members of one segment.
    ///
    /// # Errors
    /// When there is no such segment.
    fn lan_segment_members(&self, segment: &str) -> Result<Vec<Member>, UnknownSegment> {
        if segment == DEFAULT_SEGMENT {
            Ok(self.lan_members())
        } else {
            Err(UnknownSegment(segment.to_owned()))
        }
    }

    /// This node as a member.
    fn local_member(&self) -> Member;

    /// Joins gossip through these members, as somebody wants it by hand. Returns how many others answered.
    ///
    /// # Errors
    /// Why each failed, when all did, and this node was not among them.
    fn join_lan<'a>(&'a self, addrs: &'a [SocketAddr]) -> BoxFuture<'a, Result<usize, String>>;

    /// Makes a failed member one that left; with `prune` it is also forgotten. A member that is alive is shown
    /// as leaving until it objects.
    ///
    /// # Errors
    /// When there is no such member.
    fn remove_failed_node<'a>(&'a self, name: &'a str, prune: bool) -> BoxFuture<'a, Result<(), String>>;

    /// Answers a call, wherever the answer is, if `bearer` may have it answered. Waits for a leader, and for a server, as long as the configured
    /// request timeout; a blocking read waits on top of that for as long as it says.
    ///
    /// # Errors
    /// See [`CallError`]: it tells whether the call may have had an effect.
    fn rpc(&self, bearer: &Bearer, call: Call) -> BoxFuture<'_, Result<Reply, CallError>>;

    /// The whole replicated state as one file's bytes; see [`crate::state::State::to_snapshot`]. `stale` takes
    /// it from whichever server is asked, as it is there.
    ///
    /// # Errors
    /// When no server could be asked, or none knew in time how current it is.
    fn snapshot_rpc(&self, bearer: &Bearer, stale: bool) -> BoxFuture<'_, Result<bytes::Bytes, CallError>>;

    /// Whose token this is by the state that this node keeps, however old that is; `None` if it keeps none, if that knows no tokens
    /// yet, or if somebody leads who can be asked. For what an agent decides about itself, and for nothing else: no call from
    /// outside comes here.
    fn holder_here(&self, token: &Secret) -> Option<Holder>;

    /// Stops at once, without telling anyone. What was acknowledged is on disk.
    fn shutdown(&self) -> BoxFuture<'_, ()>;

    /// Numbers for people, by subsystem.
    fn stats(&self) -> Stats;
}
