//! Bugs of the HTTP API: what a client is told.

use super::{LOST_REPLIES, Mutant};

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[
    Mutant {
        id: "H01",
        what: "a write is answered before it is committed",
        origin: "design",
        needs: &[],
        checks: &["LIN", "DUR"],
    },
    Mutant {
        id: "H02",
        what: "the condition of a compare-and-set is not looked at",
        origin: "design",
        needs: &[],
        checks: &["LIN"],
    },
    Mutant {
        id: "H03",
        what: "what cannot be read is called absent",
        origin: "design",
        needs: LOST_REPLIES,
        checks: &["LIN"],
    },
    Mutant {
        id: "H04",
        what: "an absent key has no index",
        origin: "design; Consul's blocking queries",
        needs: &[],
        checks: &["WATCH", "STALE"],
    },
    Mutant {
        id: "H05",
        what: "a default read is answered like a stale one",
        origin: "design",
        needs: &[],
        // Of the keys that are locks, LOCK judges the reads.
        checks: &["LIN", "LOCK"],
    },
    Mutant {
        id: "H06",
        what: "a listing cuts its last key off",
        origin: "design",
        needs: &[],
        checks: &["LIN"],
    },
    Mutant {
        id: "H07",
        what: "a condition that did not hold is reported as a success",
        origin: "design",
        needs: &[],
        // A lock is a condition too: two hold it.
        checks: &["LIN", "LOCK"],
    },
    Mutant {
        id: "H08",
        what: "a write that nobody took is answered as if it were done",
        origin: "design",
        needs: LOST_REPLIES,
        checks: &["LIN", "DUR"],
    },
    Mutant {
        id: "H09",
        what: "any change wakes every reader that waits",
        origin: "design",
        needs: &[],
        checks: &["WATCH"],
    },
    Mutant {
        id: "H10",
        what: "the removal of a tree leaves its last key",
        origin: "design",
        needs: &[],
        checks: &["LIN", "DUR"],
    },
    Mutant {
        id: "H11",
        what: "the index of an answer is older than its value",
        origin: "design",
        needs: &[],
        checks: &["IDX"],
    },
    Mutant {
        id: "H12",
        what: "a listing shows every key with the index of the newest",
        origin: "design",
        needs: &[],
        checks: &["IDX"],
    },
    Mutant {
        id: "H13",
        what: "a buffer is used again, and what a longer value left in it shows through behind a shorter one",
        origin: "design; the class of Heartbleed",
        needs: &[],
        checks: &["VAL", "LIN"],
    },
    Mutant {
        id: "H14",
        what: "the last instance of a service goes, and its index stays",
        origin: "design; Consul's blocking queries",
        needs: &[],
        checks: &["BLOCK"],
    },
    Mutant {
        id: "H15",
        what: "how a check stands is no change of the health of its service",
        origin: "design; Consul's blocking queries",
        needs: &[],
        checks: &["BLOCK"],
    },
    Mutant {
        id: "H16",
        what: "the index of a service is that of the newest instance that is left",
        origin: "design; Consul's blocking queries",
        needs: &[],
        checks: &["BLOCK"],
    },
    Mutant {
        id: "H17",
        what: "a transaction is proposed operation by operation",
        origin: "design",
        needs: &[],
        checks: &["TXN"],
    },
    Mutant {
        id: "H18",
        what: "what a failed transaction did before the operation that failed is kept",
        origin: "design",
        needs: &[],
        checks: &["TXN"],
    },
    Mutant {
        id: "H19",
        what: "a transaction that only reads is answered like a stale read",
        origin: "design",
        needs: &[],
        checks: &["TXN"],
    },
];
