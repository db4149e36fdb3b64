//! Bugs of Raft and the clients of it: consensus, snapshots, membership, reads and sessions.

use super::{LOST_REPLIES, Mutant, RESTARTS};

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[
    Mutant {
        id: "A01",
        what: "a confirmed read does not wait until the state is as new as it must be",
        origin: "the class of openraft 97d92771",
        needs: &[],
        checks: &["SAY"],
    },
    Mutant {
        id: "R02",
        what: "the vote is never persisted",
        origin: "NodeDB-Lab/nodedb#161",
        // Whatever restarts a process; a graceful leave does as well.
        needs: RESTARTS,
        checks: &["ES", "MV"],
    },
    Mutant {
        id: "R14",
        what: "entries are acknowledged before they are durable",
        origin: "design; the class of etcd-io/etcd#14370",
        // CQ sees this without any fault; what is named here are its consequences.
        needs: RESTARTS,
        checks: &["DUR", "LIN"],
    },
    Mutant {
        id: "R27",
        what: "a read is answered without asking a quorum who leads",
        origin: "deventlab/d-engine#381",
        // Whatever makes another leader: the old one does not know, and the new one is not up to date.
        needs: LOST_REPLIES,
        checks: &["LIN"],
    },
    Mutant {
        id: "R31",
        what: "a read trusts a lease that the wall clock measures, without margin for drift",
        origin: "vesoft-inc/nebula#5351",
        needs: &["clock"],
        checks: &["LIN"],
    },
    Mutant {
        id: "R32",
        what: "a timed-out write is sent again as a new request",
        origin: "design; a class Jepsen reports",
        needs: LOST_REPLIES,
        checks: &["SESS", "LIN"],
    },
    Mutant {
        id: "R33",
        what: "a snapshot forgets which requests were applied",
        origin: "design; Raft thesis 6.3",
        needs: LOST_REPLIES,
        checks: &["SESS", "LIN"],
    },
    Mutant {
        id: "R34",
        what: "a timed-out write is reported as failed",
        origin: "Jepsen, Redis-Raft: aborted reads",
        needs: LOST_REPLIES,
        checks: &["LIN"],
    },
];
