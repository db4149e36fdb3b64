//! Places in the code where a rare order of events matters, by name.
//!
//! A node passes them by [`Env::linger`](super::Env::linger). In production that is nothing: the body is not
//! compiled. In the testbed (feature `hazards`) a plan can have a node pause there, so that what usually comes later comes first, or
//! crash there, which is how a crash in the middle of something is aimed. Each place is a promise that any pause
//! there is harmless, and a crash no worse than anywhere else.

/// The node has opened its store and has not begun to listen.
pub const STORE_OPEN: &str = "start: store open";
/// The node gossips and does not take part in Raft yet.
pub const GOSSIP_UP: &str = "start: gossip up";
/// A vote is durable and openraft does not know it yet.
pub const VOTE_DURABLE: &str = "vote: durable";
/// Entries have been decided on, and nothing of them is on its way to the disk.
pub const BEFORE_APPEND: &str = "append: not yet queued";
/// The log was cut in memory, not on disk.
pub const BEFORE_TRUNCATE: &str = "truncate: memory only";
/// The next committed entry is about to be applied.
pub const BEFORE_APPLY: &str = "apply: next entry";
/// A snapshot of the state has been taken and is not on disk.
pub const SNAPSHOT_TAKEN: &str = "snapshot: taken";
/// A leader's snapshot is complete in memory.
pub const SNAPSHOT_RECEIVED: &str = "snapshot: received";
/// A leader's snapshot is on disk, and the state is still the old one.
pub const SNAPSHOT_SAVED: &str = "snapshot: saved, not installed";
/// A joining server is a learner.
pub const LEARNER_ADDED: &str = "join: learner added";
/// A joining server has caught up and is about to become a voter.
pub const CAUGHT_UP: &str = "join: caught up";
/// A server votes no longer and is still configured.
pub const VOTER_REMOVED: &str = "remove: no longer a voter";
/// The leader has decided how the configuration is to follow gossip.
pub const PLANNED: &str = "reconcile: planned";
/// The leader holds a client's command and has not proposed it.
pub const BEFORE_PROPOSE: &str = "propose: not yet proposed";
/// A request of another server has been answered and the answer is not sent.
pub const BEFORE_ANSWER: &str = "answer: not yet sent";
/// A read knows which index it has to wait for.
pub const READ_INDEX_KNOWN: &str = "read: index known";

/// All of them.
pub const POINTS: &[&str] = &[
    STORE_OPEN,
    GOSSIP_UP,
    VOTE_DURABLE,
    BEFORE_APPEND,
    BEFORE_TRUNCATE,
    BEFORE_APPLY,
    SNAPSHOT_TAKEN,
    SNAPSHOT_RECEIVED,
    SNAPSHOT_SAVED,
    LEARNER_ADDED,
    CAUGHT_UP,
    VOTER_REMOVED,
    PLANNED,
    BEFORE_PROPOSE,
    BEFORE_ANSWER,
    READ_INDEX_KNOWN,
];
