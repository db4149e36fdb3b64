//! driftline: placeholder map.
pub mod env;
pub mod mutant;
