//! driftline: placeholder map.
pub mod env;
pub mod mutant;
pub mod state;
