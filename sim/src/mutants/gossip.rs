//! Bugs of gossip: who is there, and what reaches whom.

use super::{LATE_NEWS, Mutant, RESTARTS, SILENCE};

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[
    Mutant {
        id: "A02",
        what: "told that it is held for dead, a node takes the very incarnation that is",
        origin: "design; SWIM 4.2",
        needs: SILENCE,
        checks: &["SAY"],
    },
    Mutant {
        id: "G01",
        what: "a death of higher incarnation is not recorded, so an old \"alive\" resurrects",
        origin: "al8n/memberlist PR #197",
        needs: SILENCE,
        checks: &["GR"],
    },
    Mutant {
        id: "G02",
        what: "a node never learns that it was declared dead",
        origin: "hashicorp/memberlist#311",
        needs: SILENCE,
        // Two that hold each other for dead and do not learn of it tell each other so without end: GT.
        checks: &["GC", "LIVE", "GT"],
    },
    Mutant {
        id: "G03",
        what: "two nodes tell each other for ever that they are behind",
        origin: "caio/foca#25",
        needs: SILENCE,
        checks: &["GT"],
    },
    Mutant {
        id: "G04",
        what: "of two lives of a node the one that was heard of last is believed",
        origin: "foca v0.17.1",
        needs: LATE_NEWS,
        checks: &["GR"],
    },
    Mutant {
        id: "G07",
        what: "the quick rounds after news never end",
        origin: "the class of caio/foca#35",
        needs: &[],
        checks: &["GT"],
    },
    Mutant {
        id: "G08",
        what: "a suspect is declared dead without time to object",
        origin: "design; SWIM 4.2",
        needs: SILENCE,
        checks: &["GA"],
    },
    Mutant {
        id: "G14",
        what: "a gossip verdict removes a Raft voter without a guard for the quorum",
        origin: "the class of hashicorp/consul#6113",
        needs: SILENCE,
        checks: &["LIVE", "CQ"],
    },
    Mutant {
        id: "G15",
        what: "a suspect that has objected is declared dead all the same",
        origin: "design; SWIM 4.2",
        needs: SILENCE,
        checks: &["GA"],
    },
    Mutant {
        id: "G17",
        what: "a member that was dead once is never listed again",
        origin: "design",
        needs: SILENCE,
        checks: &["GC", "LIVE"],
    },
    Mutant {
        id: "G20",
        what: "events seen are forgotten when the clock moves on",
        origin: "design; Serf user events",
        needs: &[],
        checks: &["EV"],
    },
    Mutant {
        id: "G21",
        what: "what push/pull brings is listed again",
        origin: "the class of etcd-io/etcd#17529",
        needs: &[],
        checks: &["EV"],
    },
    Mutant {
        id: "G22",
        what: "who is held for dead is told so at every word, and takes the next incarnation each time",
        origin: "found here, seeds 103 and 166",
        needs: RESTARTS,
        checks: &["GT"],
    },
    Mutant {
        id: "G23",
        what: "nobody is remembered over a restart",
        origin: "found here, seed 619; Serf's snapshot",
        needs: RESTARTS,
        checks: &["LIVE", "GC"],
    },
    Mutant {
        id: "K01",
        what: "only the key that a node encrypts with is tried on what it receives",
        origin: "design; Serf's keyring",
        needs: &[],
        checks: &["LIVE", "GC"],
    },
    Mutant {
        id: "K02",
        what: "a change of keys is forgotten with the process",
        origin: "design; Serf's keyring file",
        needs: RESTARTS,
        checks: &["LIVE", "GC"],
    },
    Mutant {
        id: "K03",
        what: "a server whose data is damaged loses gossip's keys with it",
        origin: "found here, seed 367",
        needs: RESTARTS,
        checks: &["LIVE", "GC"],
    },
];
