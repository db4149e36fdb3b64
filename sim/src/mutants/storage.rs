//! Bugs of the disk: what is durable and what is believed of it.

use super::{LOST_REPLIES, Mutant, RESTARTS};

/// Of [`RESTARTS`], those where only what the page cache held is lost.
const POWER_LOSSES: &[&str] = &[
    "bit-rot",
    "crash-loop",
    "crash-point",
    "lose-disk",
    "lying-sync",
    "misdirected-write",
    "power-loss",
    "restart-storm",
    "sync-crash",
    "vanish",
];

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[
    Mutant {
        id: "R01",
        what: "term and vote are saved in two writes, and the first is taken for both",
        origin: "hashicorp/raft#661",
        needs: RESTARTS,
        checks: &["ES", "MV"],
    },
    Mutant {
        id: "R22",
        what: "a crash soon after a snapshot leaves its data under the index of the one before",
        origin: "etcd-io/etcd#17780",
        needs: RESTARTS,
        checks: &["SMS", "LIN"],
    },
    Mutant {
        id: "R23",
        what: "a crash soon after a snapshot leaves its index with the data of the one before",
        origin: "etcd-io/etcd#14685, #13766",
        needs: RESTARTS,
        checks: &["SMS", "LIN", "DUR"],
    },
    Mutant {
        id: "S01",
        what: "the log has no checksums: what a torn write left is read as entries",
        origin: "design; turmoil-fs",
        needs: POWER_LOSSES,
        // What was acknowledged after such an entry does not follow on what was there, and is lost: MV.
        checks: &["LM", "SMS", "VAL", "MV"],
    },
    Mutant {
        id: "S02",
        what: "the log ends at the first thing in it that cannot be read, whatever was acknowledged after it",
        origin: "design; \"Protocol-aware recovery\", FAST 2018",
        needs: &["bit-rot", "misdirected-read", "misdirected-write"],
        checks: &["DUR", "LC", "MV"],
    },
    Mutant {
        id: "S03",
        what: "the directory is not synced after files are made and renamed",
        origin: "tursodatabase/turso PR #4899; turmoil-fs",
        needs: POWER_LOSSES,
        // A log with a hole is taken for damaged, on a disk that did what it should: CRASH.
        checks: &["CRASH", "DUR", "MV"],
    },
    Mutant {
        id: "S04",
        what: "a failed sync is tried again and the second success believed",
        origin: "fsyncgate; tursodatabase/turso#2091",
        needs: &["fsync-fail"],
        // Once more was written after the hole, the log is taken for damaged, on a disk that kept what it promised: CRASH.
        checks: &["CRASH", "DUR", "MV"],
    },
    Mutant {
        id: "S05",
        what: "a block of the log does not tell where it belongs, so one that was written elsewhere is accepted",
        origin: "design; TigerBeetle's storage overlays",
        needs: &["bit-rot", "misdirected-read", "misdirected-write"],
        checks: &["SMS", "LM", "MV"],
    },
    Mutant {
        id: "S06",
        what: "what found no space on the disk is acknowledged all the same",
        origin: "design",
        needs: &["disk-full"],
        checks: &["DUR", "MV"],
    },
    Mutant {
        id: "S07",
        what: "a snapshot is written over the one before it",
        origin: "design",
        needs: RESTARTS,
        checks: &["DUR", "CRASH"],
    },
    Mutant {
        id: "S08",
        what: "a log that the disk does not give ends where the first read failed",
        origin: "the class of databendlabs/openraft 19f2f037",
        needs: &["read-error", "short-read"],
        checks: &["MV", "DUR"],
    },
    Mutant {
        id: "S09",
        what: "an old copy of the vote that a read comes upon by mistake is believed",
        origin: "found here, seed 8; TigerBeetle's storage overlays",
        needs: &["misdirected-read"],
        checks: &["MV", "ES"],
    },
    Mutant {
        id: "S10",
        what: "a range of the log that is read while entries leave memory has a hole",
        origin: "found here, by reading: what is between the two looks at memory was not thought of",
        needs: &[],
        checks: &["SAY", "LIVE"],
    },
    Mutant {
        id: "S11",
        what: "what an append in flight made durable counts for what a truncation has let take its place",
        origin: "found here, by reading",
        needs: LOST_REPLIES,
        checks: &["LM", "SAY", "CQ", "LC", "SMS", "LIVE", "CRASH"],
    },
    Mutant {
        id: "S12",
        what: "a server without a snapshot draws its identity anew when it starts",
        origin: "design; hashicorp/raft's ids are often addresses, which change",
        needs: RESTARTS,
        checks: &["MV"],
    },
];
