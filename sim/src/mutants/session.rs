//! Bugs of sessions and locks: time, and who counts it.

use super::{LOST_REPLIES, Mutant};

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[
    Mutant {
        id: "L01",
        what: "a session's time to live is counted by the wall clock",
        origin: "hashicorp/nomad#27675; hashicorp/consul#524 tells why not",
        needs: &["clock"],
        checks: &["LOCK"],
    },
    Mutant {
        id: "L02",
        what: "a session expires by a decision that a renewal has overtaken",
        origin: "design; hashicorp/consul#1172 is about such decisions",
        // Whatever makes another server lead, or keeps a leader from knowing that another does.
        needs: LOST_REPLIES,
        checks: &["LOCK"],
    },
    Mutant {
        id: "L03",
        what: "a new leader takes the lock-delays that it finds for over",
        origin: "hashicorp/consul keeps lock-delays in the leader's memory only",
        // Whatever makes another server lead, or keeps a leader from knowing that another does.
        needs: LOST_REPLIES,
        checks: &["LOCK"],
    },
    Mutant {
        id: "L04",
        what: "whoever takes a lock that was given back begins to count anew",
        origin: "design; Burrows 2006, 2.4: sequencers",
        needs: &[],
        checks: &["LOCK"],
    },
    Mutant {
        id: "L05",
        what: "a new leader counts only the times that begin while it leads",
        origin: "design; the class of hashicorp/consul#1172",
        // Whatever makes another server lead.
        needs: LOST_REPLIES,
        checks: &["LOCK"],
    },
    Mutant {
        id: "L06",
        what: "what a session is to delete at its end is released",
        origin: "design; Consul's sessions",
        needs: &[],
        checks: &["LOCK"],
    },
];
