//! driftline: placeholder map.
pub mod config;
pub mod env;
pub mod mutant;
pub mod state;
