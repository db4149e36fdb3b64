//! What a scenario's settings mean to a node: the same in simulation and on a real cluster.

use driftline::config::{Bootstrap, Limits, OnDamage, RaftConfig};
use driftline::gossip::Timing;

use super::validate::LEAST_TTL_MS;
use super::{Founding, Scenario, Settings};

/// The gossip name of a node.
pub fn node_name(node: u32) -> String {
    format!("n{node}")
}

impl Scenario {
    /// How a node comes to its first cluster; `lost` says that it comes back with an empty disk.
    pub fn bootstrap(&self, node: u32, lost: bool) -> Bootstrap {
        match self.settings.founding {
            // One that joins later, or a client agent.
            _ if node >= self.nodes => Bootstrap::Wait,
            // Whoever replaces a disk does not tell the node once more to found a cluster of its own.
            Founding::First if lost => Bootstrap::Wait,
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
            segment_bytes: self.segment_bytes,
            cache_bytes: self.knobs.cache_bytes,
            on_damage: OnDamage::Rejoin,
            // By bytes: no run writes so many.
            ..RaftConfig::default()
        }
    }

    /// Gossip's knobs; most times follow from the probe period.
    pub fn gossip(&self) -> Timing {
        let probe = self.probe_period_ms.max(50);
        Timing {
            probe_period_ms: probe,
            probe_timeout_ms: probe / 2,
            gossip_interval_ms: probe / 5,
            indirect_probes: self.knobs.indirect_probes,
            suspicion_mult: self.knobs.suspicion_mult,
            gossip_fanout: self.knobs.gossip_fanout,
            retransmit_mult: self.knobs.retransmit_mult,
            push_pull_interval_ms: probe * self.knobs.push_pull_periods,
            reconnect_interval_ms: probe * self.knobs.reconnect_periods,
            stream_timeout_ms: self.knobs.stream_timeout_ms,
            leave_propagate_ms: probe,
            refute_delay_ms: probe,
            ..Timing::default()
        }
    }

    /// What a client may ask for.
    pub fn limits(&self) -> Limits {
        Limits { session_ttl_min_ms: LEAST_TTL_MS, ..Default::default() }
    }
}
