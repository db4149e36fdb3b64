//! driftline: placeholder map.
pub mod config;
pub mod env;
pub mod gossip;
pub mod mutant;
pub mod raft;
pub mod state;
