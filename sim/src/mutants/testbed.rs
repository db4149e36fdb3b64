//! Bugs of the testbed itself: a check or a simulator that is wrong.

use super::Mutant;

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[Mutant {
    id: "T02",
    what: "one timer draws from the operating system's randomness",
    origin: "databendlabs/openraft PR #1741",
    needs: &[],
    checks: &["DET"],
}];
