//! Bugs of gossip: who is there, and what reaches whom.

use super::{Mutant, SILENCE};

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
];
