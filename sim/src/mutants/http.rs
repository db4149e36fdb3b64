//! Bugs of the HTTP API: what a client is told.

use super::Mutant;

/// The bugs, in the order of their ids.
pub const TABLE: &[Mutant] = &[];
