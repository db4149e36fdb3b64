//! Bugs of agents: of those that keep nothing and ask servers, and of what all of them say of themselves in the catalog.

use super::{LOST_REPLIES, Mutant, RESTARTS, SILENCE};

/// Faults after which a server has yet to become a voter: it begins anew, or was ordered out. A client agent has no vote.
const NEWCOMERS: &[&str] = &[
    "bit-rot",
    "force-leave",
    "lose-disk",
    "lying-sync",
    "membership",
    "misdirected-read",
    "misdirected-write",
    "remove-peer",
];

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[
    Mutant {
        id: "C01",
        what: "a client agent sends a write again as a new request",
        origin: "design; the class of R32, one hop further out",
        needs: LOST_REPLIES,
        checks: &["SESS", "LIN"],
    },
    Mutant {
        id: "C02",
        what: "a client agent lets any server answer from what it has",
        origin: "design; the class of hashicorp/consul#54",
        // Whatever makes a server lag: without faults followers are a heartbeat behind at most, which is enough.
        needs: &[],
        checks: &["LIN"],
    },
    Mutant {
        id: "C03",
        what: "a client agent gives itself out for a server",
        origin: "design",
        needs: &[],
        checks: &["SRV", "CAT"],
    },
    Mutant {
        id: "C04",
        what: "a leader takes whatever gossip finds for a server, and does not ask it",
        origin: "design",
        needs: &[],
        checks: &["SRV"],
    },
    Mutant {
        id: "C05",
        what: "a member that failed and is back stays critical in the catalog",
        origin: "design",
        needs: SILENCE,
        checks: &["CAT"],
    },
    Mutant {
        id: "C06",
        what: "a leader looks at the members when one changes, but not at its election",
        origin: "design",
        needs: &[],
        checks: &["CAT"],
    },
    Mutant {
        id: "C07",
        what: "what an agent could not tell the catalog is not tried again",
        origin: "design; Consul's anti-entropy",
        needs: LOST_REPLIES,
        checks: &["AE"],
    },
    Mutant {
        id: "C08",
        what: "a comparison enters what is missing in the catalog, and takes nothing out",
        origin: "design; Consul's anti-entropy",
        needs: LOST_REPLIES,
        checks: &["AE"],
    },
    Mutant {
        id: "C09",
        what: "a comparison takes what only the catalog has for the agent's own",
        origin: "design; Consul's anti-entropy",
        needs: LOST_REPLIES,
        checks: &["AE"],
    },
    Mutant {
        id: "C10",
        what: "a comparison looks whether a check is there, and not how it stands",
        origin: "design; Consul's anti-entropy",
        needs: LOST_REPLIES,
        checks: &["AE"],
    },
    Mutant {
        id: "C11",
        what: "a registration is answered for before it is synced",
        origin: "design",
        needs: RESTARTS,
        checks: &["AE"],
    },
    Mutant {
        id: "C12",
        what: "who waits long for an answer never asks whether there is still somebody who could give it",
        origin: "seen here, as BLOCK at a client agent whose server vanished and came back",
        // The host vanishes when the storm is over.
        needs: &[],
        checks: &["BLOCK"],
    },
    Mutant {
        id: "C13",
        what: "that another lives under a name the leader enters in a way that changes nothing, again and again",
        origin: "seen here, as a run that never ended",
        needs: RESTARTS,
        checks: &["LOAD"],
    },
    Mutant {
        id: "C14",
        what: "the time to live of a check begins when it is first told something",
        origin: "design; Consul's TTL checks",
        needs: &[],
        checks: &["AE"],
    },
    Mutant {
        id: "C15",
        what: "a leader that has led for long lets nobody vote who does not yet",
        origin: "design; Consul's autopilot",
        needs: NEWCOMERS,
        checks: &["LIVE"],
    },
    Mutant {
        id: "C16",
        what: "a server that would make the voters odd in number learns for ever",
        origin: "design; Consul's autopilot",
        needs: &[],
        checks: &["LIVE"],
    },
    Mutant {
        id: "C17",
        what: "autopilot says that all healthy voters but one may fail",
        origin: "design; Consul's autopilot",
        needs: &[],
        checks: &["LIVE"],
    },
    Mutant {
        id: "C18",
        what: "a voter that was ill once is never said to be healthy again",
        origin: "design; Consul's autopilot",
        needs: LOST_REPLIES,
        checks: &["LIVE"],
    },
];
