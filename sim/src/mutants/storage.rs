//! Bugs of the disk: what is durable and what is believed of it.

use super::Mutant;

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[Mutant {
    id: "S04",
    what: "a failed sync is tried again and the second success believed",
    origin: "fsyncgate; tursodatabase/turso#2091",
    needs: &["fsync-fail"],
    checks: &["DUR"],
}];
