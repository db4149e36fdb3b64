//! Bugs of the testbed itself: a check or a simulator that is wrong.

use super::{Mutant, RESTARTS};

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[
    Mutant {
        id: "T01",
        what: "the order of peers comes out of a map that the system's randomness orders",
        origin: "databendlabs/openraft PR #1741",
        needs: &[],
        checks: &["DET"],
    },
    Mutant {
        id: "T02",
        what: "one timer draws from the operating system's randomness",
        origin: "databendlabs/openraft PR #1741",
        needs: &[],
        checks: &["DET"],
    },
    Mutant {
        id: "T03",
        what: "an id depends on what other runs of the program there were",
        origin: "databendlabs/openraft README",
        needs: &[],
        checks: &["DET"],
    },
    Mutant {
        id: "T04",
        what: "the heal leaves one link cut",
        origin: "tigerbeetle/tigerbeetle PR #2334",
        needs: &[],
        checks: &["LIVE", "GC"],
    },
    Mutant {
        id: "T05",
        what: "the check of quorums takes a voter that is down for one that never had the entry",
        origin: "the class of databendlabs/openraft bb142889",
        needs: RESTARTS,
        checks: &["CQ"],
    },
    Mutant {
        id: "T06",
        what: "the linearizability checker is happy with everything",
        origin: "the idea of TigerBeetle's canaries",
        needs: &[],
        checks: &["TEETH"],
    },
    Mutant {
        id: "T07",
        what: "logs are not compared from node to node",
        origin: "the idea of TigerBeetle's canaries",
        needs: &[],
        checks: &["TEETH"],
    },
];
