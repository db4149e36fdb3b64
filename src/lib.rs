//! driftline: placeholder map.
pub mod env;
pub mod gossip;
pub mod mutant;
pub mod state;
