//! What an embedding program may hang into gossip: memberlist's two interfaces, in Rust.
//!
//! Every method is called from gossip's only loop, which is also what answers probes: a method that blocks
//! makes the node look dead. None may call back into [`Gossip`](super::Gossip) and wait for the answer; the
//! loop that would answer is the caller.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::members::Member;

/// The most bytes that [`Delegate::node_meta`] may return.
pub const META_LIMIT: usize = 512;

/// What a program adds to gossip's messages.
pub trait Delegate: Send + Sync {
    /// Bytes about this node that every member gets to see. Asked at start and by
    /// [`Gossip::update_meta`](super::Gossip::update_meta). More than `limit` bytes are an error for whoever
    /// asked, and nothing is changed.
    fn node_meta(&self, limit: usize) -> Bytes;

    /// A message of another member's program arrived. It may arrive repeatedly, in any order, or never.
    /// Must not block. The bytes are gossip's: copy what is to last.
    fn notify_msg(&self, message: &[u8]);

    /// Messages to send now, for which `limit` bytes are left in a datagram. Each costs `overhead` bytes
    /// more than its length, and the sum must stay within the limit; what exceeds it is not sent and counted
    /// as dropped. Called for each datagram, so a message must be handed out as often as it is to be sent.
    fn get_broadcasts(&self, overhead: usize, limit: usize) -> Vec<Bytes>;

    /// All of this program's state, for another member: at most 20 MiB, of which nothing is sent when it is
    /// more. `join` says that this node is asking to join.
    fn local_state(&self, join: bool) -> Bytes;

    /// Another member's [`Delegate::local_state`]. To merge it twice, or in any order with others, must lead
    /// to the same state. `join` says that this node had asked to join; the node that was asked gets `false`.
    fn merge_remote_state(&self, state: &[u8], join: bool);

    /// What is notified when [`Delegate::get_broadcasts`] has something new, which is then sent at once and
    /// not at the next tick. Without it gossip has to ask at every tick.
    fn changed(&self) -> Option<Arc<Notify>> {
        None
    }

    /// The number of live members has changed, this node included: what a transmit limit depends on.
    fn cluster_size(&self, _live: usize) {}

    /// Entries for [`Gossip::stats`](super::Gossip::stats).
    fn stats(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// What a program is told about members. The local node is not told about itself.
pub trait EventDelegate: Send + Sync {
    /// A member is alive that was not known, or known as failed or left.
    fn notify_join(&self, member: &Member);
    /// A member is gone: [`Member::status`] says whether it left or failed. Called again when a failed
    /// member is made to have left, and for a last time when it is pruned.
    fn notify_leave(&self, member: &Member);
    /// Something else about a member changed: metadata, address, generation, or that it is about to leave.
    fn notify_update(&self, member: &Member);
    /// Two live members have one name. Told once for each pair; both stay in the list.
    fn notify_conflict(&self, _first: &Member, _second: &Member) {}
}

/// Adds nothing and hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Delegate for Silent {
    fn node_meta(&self, _limit: usize) -> Bytes {
        Bytes::new()
    }
    fn notify_msg(&self, _message: &[u8]) {}
    fn get_broadcasts(&self, _overhead: usize, _limit: usize) -> Vec<Bytes> {
        Vec::new()
    }
    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::new()
    }
    fn merge_remote_state(&self, _state: &[u8], _join: bool) {}
    fn changed(&self) -> Option<Arc<Notify>> {
        // Never notified: there is never anything to send.
        Some(Arc::new(Notify::new()))
    }
}

impl EventDelegate for Silent {
    fn notify_join(&self, _member: &Member) {}
    fn notify_leave(&self, _member: &Member) {}
    fn notify_update(&self, _member: &Member) {}
}
