//! Stand-in until gossip lands: only the shapes that HTTP reads.
#![allow(missing_docs)]
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    pub probe_period_ms: u64,
}

impl Timing {
    pub fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Alive,
    Leaving,
    Left,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node_id: u64,
    pub name: String,
    pub addr: SocketAddr,
    pub meta: Bytes,
    pub generation: u64,
    pub status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilters {
    pub node: String,
    pub service: String,
    pub tag: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEvent {
    pub id: String,
    pub name: String,
    pub payload: Bytes,
    pub filters: EventFilters,
    pub ltime: u64,
}
