//! driftline: placeholder map.
pub mod agent;
pub mod config;
pub mod env;
pub mod gossip;
pub mod http;
pub mod mutant;
pub mod node;
pub mod raft;
pub mod state;
pub mod telemetry;
