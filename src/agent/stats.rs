//! The numbers that `driftline info` and `/v1/agent/self` show, under Consul's names, all as text.
//!
//! They are for people and for monitoring that knows Consul. `raft` and the server's part of `consul` are on
//! servers only, as in Consul. What Consul does not have comes after its own keys.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{Bootstrap, Config, duration::show_duration};
use crate::raft::{RaftNode, log_index, log_term};

use super::autopilot::Health;
use super::call::Cluster;
use super::delegate::Stats;
use super::lan::Lan;
use super::local::book::{Book, Probe};
use super::{uuid_of, version};

fn named<const N: usize>(facts: [(&str, String); N]) -> BTreeMap<String, String> {
    facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// How long ago, as Go writes it: `0`, `3.5ms`, `never`.
fn ago(contact: Option<Duration>) -> String {
    match contact {
        None => "never".to_owned(),
        Some(Duration::ZERO) => "0".to_owned(),
        Some(since) => show_duration(since),
    }
}

/// What agents of both modes show.
pub fn common(lan: &Lan) -> Stats {
    let build = named([
        ("prerelease", String::new()),
        ("revision", String::new()),
        ("version", version::CONSUL.to_owned()),
        ("version_metadata", version::OWN.to_owned()),
    ]);
    let runtime = named([
        ("arch", std::env::consts::ARCH.to_owned()),
        ("os", std::env::consts::OS.to_owned()),
        ("version", format!("driftline {}", version::OWN)),
    ]);
    BTreeMap::from([
        ("build".to_owned(), build),
        ("runtime".to_owned(), runtime),
        ("serf_lan".to_owned(), lan.stats()),
    ])
}

/// What the agent has of its own.
pub fn of_book(book: &Book) -> BTreeMap<String, String> {
    let checks = book.checks().values().filter_map(|check| check.definition.probe.as_ref());
    let (mut monitors, mut ttls) = (0, 0);
    for probe in checks {
        match probe {
            Probe::Script(_) => monitors += 1,
            Probe::Ttl(_) => ttls += 1,
            Probe::Http { .. }
            | Probe::Tcp(_)
            | Probe::Tls { .. }
            | Probe::Grpc { .. }
            | Probe::H2Ping { .. }
            | Probe::Alias { .. } => {}
        }
    }
    named([
        ("check_monitors", monitors.to_string()),
        ("check_ttls", ttls.to_string()),
        ("checks", book.checks().len().to_string()),
        ("services", book.services().len().to_string()),
    ])
}

/// What a client shows besides.
pub fn of_client(known_servers: usize) -> (String, BTreeMap<String, String>) {
    let consul = named([
        ("known_datacenters", "1".to_owned()),
        ("known_servers", known_servers.to_string()),
        ("server", "false".to_owned()),
    ]);
    ("consul".to_owned(), consul)
}

/// What a server shows besides. How all of them `fare` only the leader knows.
pub fn of_server(config: &Config, node: &RaftNode, cluster: &Cluster, fare: Option<&Health>) -> Stats {
    let metrics = node.metrics();
    let number = |number: Option<u64>| number.unwrap_or(0).to_string();
    let (committed, applied) = (metrics.local_committed, metrics.last_applied);
    let others = cluster.servers.iter().filter(|server| server.node_id != node.me().node_id && server.voter);
    let configuration: Vec<String> = cluster
        .servers
        .iter()
        .map(|server| {
            let suffrage = if server.voter { "Voter" } else { "Nonvoter" };
            format!("{{Suffrage:{suffrage} ID:{} Address:{}}}", uuid_of(server.node_id), server.addr)
        })
        .collect();
    // Committed here and not yet applied.
    let pending = log_index(&committed).unwrap_or(0).saturating_sub(log_index(&applied).unwrap_or(0));
    let contact = if node.is_leader() { Some(Duration::ZERO) } else { node.heard_leader() };
    let raft = named([
        ("applied_index", number(log_index(&applied))),
        ("commit_index", number(log_index(&committed))),
        ("fsm_pending", pending.to_string()),
        ("last_contact", ago(contact)),
        ("last_log_index", number(metrics.last_log_index)),
        ("last_log_term", number(node.last_log_term())),
        ("last_snapshot_index", number(log_index(&metrics.snapshot))),
        ("last_snapshot_term", number(log_term(&metrics.snapshot))),
        ("latest_configuration", format!("[{}]", configuration.join(" "))),
        ("latest_configuration_index", cluster.index.to_string()),
        ("num_peers", others.count().to_string()),
        ("protocol_version", "3".to_owned()),
        ("protocol_version_max", "3".to_owned()),
        ("protocol_version_min", "3".to_owned()),
        ("snapshot_version_max", "1".to_owned()),
        ("snapshot_version_min", "1".to_owned()),
        ("state", format!("{:?}", metrics.state)),
        ("state_digest", node.state().read(|state| format!("{:016x}", state.digest()))),
        ("term", metrics.current_term.to_string()),
    ]);
    let consul = named([
        ("bootstrap", (config.bootstrap == Bootstrap::Alone).to_string()),
        ("cluster_id", cluster.id.map(|id| format!("{id:016x}")).unwrap_or_default()),
        ("known_datacenters", "1".to_owned()),
        ("leader", node.is_leader().to_string()),
        ("leader_addr", cluster.leader.map(|addr| addr.to_string()).unwrap_or_default()),
        ("server", "true".to_owned()),
    ]);
    // As Consul calls it among its metrics.
    let server = named([("isLeader", node.is_leader().to_string())]);
    let mut all = BTreeMap::from([
        ("consul".to_owned(), consul),
        ("raft".to_owned(), raft),
        ("server".to_owned(), server),
    ]);
    if let Some(Health { healthy, failure_tolerance, .. }) = fare {
        let facts = [("failure_tolerance", failure_tolerance.to_string()), ("healthy", healthy.to_string())];
        all.insert("autopilot".to_owned(), named(facts));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contact_reads_as_in_go() {
        assert_eq!(ago(None), "never");
        assert_eq!(ago(Some(Duration::ZERO)), "0");
        assert_eq!(ago(Some(Duration::from_micros(3_500))), "3.5ms");
    }
}
