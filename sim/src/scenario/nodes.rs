//! What a scenario's settings mean to a node: the same in simulation and on a real cluster.

use driftline::config::{Bootstrap, RaftConfig};
use driftline::gossip::Timing;

use super::{Founding, Scenario, Settings};

/// The gossip name of a node.
pub fn node_name(node: u32) -> String {
    format!("n{node}")
}

impl Scenario {
    /// How a node comes to its first cluster.
    pub fn bootstrap(&self, node: u32) -> Bootstrap {
        match self.settings.founding {
            _ if node >= self.nodes => Bootstrap::Wait,
            Founding::First if node == 0 => Bootstrap::Alone,
            Founding::First => Bootstrap::Wait,
            Founding::Together => Bootstrap::Expect(self.nodes),
        }
    }
}

impl Settings {
    /// Raft's knobs.
    pub fn raft(&self) -> RaftConfig {
        RaftConfig {
            heartbeat_ms: self.heartbeat_ms,
            election_timeout_min_ms: self.election_timeout_min_ms,
            election_timeout_max_ms: self.election_timeout_max_ms,
            snapshot_entries: self.snapshot_entries,
            trailing_entries: self.trailing_entries,
            snapshot_chunk_bytes: self.snapshot_chunk_bytes,
            request_timeout_ms: self.request_timeout_ms,
        }
    }

    /// Gossip's knobs, which all follow from the probe period.
    pub fn gossip(&self) -> Timing {
        let probe = self.probe_period_ms.max(50);
        Timing {
            probe_period_ms: probe,
            probe_timeout_ms: probe / 2,
            gossip_interval_ms: probe / 5,
            push_pull_interval_ms: probe * 10,
            reconnect_interval_ms: probe * 5,
            stream_timeout_ms: 5_000,
            leave_propagate_ms: probe,
            refute_delay_ms: probe,
            ..Timing::default()
        }
    }
}
