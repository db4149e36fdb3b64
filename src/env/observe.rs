//! What a node tells whoever watches it: the facts that a checker needs and no client can see.
//!
//! Production watches nothing and pays nothing. The testbed checks every one of these as it happens.
//! The events are plain numbers, so that this module knows nothing of Raft's or gossip's types.

use std::net::SocketAddr;

use super::assertion::Assertion;

/// Somebody who is told. Must not block and must not call back into the node.
pub trait Observer: Send + Sync {
    /// Called in the order in which things happen on this node.
    fn observe(&self, event: Observed);
    /// Whether anybody looks; what is costly to compute is not computed otherwise.
    fn watches(&self) -> bool {
        true
    }
    /// The node passes a place where a rare order of events matters, one of [`hazard::POINTS`](super::hazard::POINTS);
    /// it waits there for as long as this says.
    fn passes(&self, _point: &'static str) -> Option<std::time::Duration> {
        None
    }
    /// The program came to the place of a claim. Called very often.
    fn asserted(&self, _assertion: Assertion) {}
}

/// The production observer.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn observe(&self, _event: Observed) {}
    fn watches(&self) -> bool {
        false
    }
}

/// A node's part in Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum RaftRole {
    Learner,
    Follower,
    Candidate,
    Leader,
    Stopped,
}

/// One fact. Terms and indexes are Raft's; digests are 64-bit hashes of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The node has opened its store and is about to run; what it remembers of before.
    Recovered {
        /// Its Raft id.
        raft_id: u64,
        /// Persisted term.
        term: u64,
        /// Last index in the log.
        last_index: u64,
        /// Applied index after loading the snapshot.
        applied: u64,
        /// The term and digest of each entry in the reopened log, by index, in order.
        log: Vec<(u64, u64, u64)>,
    },
    /// The role changed.
    Role {
        /// Current term.
        term: u64,
        /// New role.
        role: RaftRole,
        /// Leader of this term as far as known: its Raft id.
        leader: Option<u64>,
    },
    /// A vote is durable: in `term` this node supports `candidate`.
    Vote {
        /// Term voted in.
        term: u64,
        /// Raft id of the candidate.
        candidate: u64,
        /// Whether a quorum is known to have granted it.
        committed: bool,
    },
    /// An entry is in the log (readable, not necessarily durable).
    Appended {
        /// Log index.
        index: u64,
        /// Its term.
        term: u64,
        /// Digest of its payload.
        digest: u64,
    },
    /// All entries up to `index` have been reported durable to Raft.
    Durable {
        /// Log index.
        index: u64,
    },
    /// Entries after `index` were removed.
    Truncated {
        /// The last index kept.
        index: u64,
    },
    /// Entries up to `index` were removed, a snapshot covers them.
    Purged {
        /// The last index removed.
        index: u64,
    },
    /// An entry was applied to the state machine.
    Applied {
        /// Log index.
        index: u64,
        /// Its term.
        term: u64,
        /// Digest of the entry's payload.
        entry: u64,
        /// Digest of the state after it.
        state: u64,
    },
    /// The state was replaced by a snapshot from the leader.
    SnapshotInstalled {
        /// Last index it covers.
        index: u64,
        /// Term of that index.
        term: u64,
        /// Digest of the state.
        state: u64,
    },
    /// A snapshot was built here and is durable.
    SnapshotBuilt {
        /// Last index it covers.
        index: u64,
        /// Term of that index.
        term: u64,
    },
    /// The Raft membership in force changed.
    Membership {
        /// Log index of the configuration.
        index: u64,
        /// Voter ids: one set, or two while joint.
        voters: Vec<Vec<u64>>,
        /// Learner ids.
        learners: Vec<u64>,
    },
    /// A gossip member's state as this node now sees it.
    Member {
        /// The member's id: another node may have had its name before.
        node_id: u64,
        /// The member's gossip name.
        name: String,
        /// Its gossip address.
        addr: SocketAddr,
        /// Its incarnation: grows at every restart, rename and refutation.
        incarnation: u64,
        /// What happened.
        change: MemberChange,
    },
    /// A user event was delivered to this node's ring.
    UserEvent {
        /// Name of the event.
        name: String,
        /// Its id.
        id: String,
        /// Its Lamport time.
        ltime: u64,
    },
    /// Something that the embedding program says of itself, for a check of its own.
    Program {
        /// What it is about.
        name: String,
        /// What there is to say.
        detail: String,
    },
    /// What the node finds in its directory is not what it wrote there.
    Damaged {
        /// What does not fit.
        reason: String,
    },
    /// The node stops because of an error that only it has.
    Fatal {
        /// The error's text.
        reason: String,
    },
}

/// What became of a gossip member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum MemberChange {
    Joined,
    Updated,
    Suspected,
    Failed,
    Left,
}
