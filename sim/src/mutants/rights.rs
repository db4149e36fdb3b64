//! Bugs of tokens and policies: who is let through.

use super::{LAG, Mutant};

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[
    Mutant {
        id: "P01",
        what: "a write is judged by whatever state the server has that was asked",
        origin: "design",
        needs: &[],
        checks: &["ACL"],
    },
    Mutant {
        id: "P02",
        what: "a read is judged before the state is as current as it must be",
        origin: "design; the class of openraft 97d92771",
        needs: &[],
        checks: &["ACL"],
    },
    Mutant {
        id: "P03",
        what: "an agent lets writes through by what it remembers of a token",
        origin: "Consul's acl.token_ttl, which promises no more than that",
        needs: &[],
        checks: &["ACL"],
    },
    Mutant {
        id: "P04",
        what: "a policy keeps the rules that it was made with, whatever its text says by now",
        origin: "design",
        needs: &[],
        checks: &["ACL"],
    },
    Mutant {
        id: "P05",
        what: "what came out of a snapshot is not found by its secret",
        origin: "design",
        needs: LAG,
        checks: &["ACL"],
    },
    Mutant {
        id: "P06",
        what: "an agent asks with its own token for whoever was refused with theirs",
        origin: "Hardy 1988, the confused deputy",
        needs: &[],
        checks: &["ACL"],
    },
    Mutant {
        id: "P07",
        what: "a leader makes the first token, and makes it again once that is done",
        origin: "design; the class of C13",
        needs: &[],
        checks: &["LOAD"],
    },
    Mutant {
        id: "P08",
        what: "a listing shows the keys that may not be seen",
        origin: "design; Consul's ACLs",
        needs: &[],
        checks: &["ACL"],
    },
];
