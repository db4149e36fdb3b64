//! `/v1/operator/autopilot/…` and `/v1/operator/usage`: how the servers fare, how the leader looks after them, and
//! how much there is of everything.
//!
//! What Consul's paid edition has beyond this (zones, migrations by version) is refused when it is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::agent::autopilot::{Health, ServerHealth};
use crate::agent::local::book::CONSUL_SERVICE;
use crate::agent::{Consistency, QueryOptions, uuid_of};
use crate::config::duration::show_duration;
use crate::state::autopilot::{AutopilotCommand, AutopilotConfig, AutopilotInForce};
use crate::state::catalog::{AllInstances, Instance};
use crate::state::query::{Usage, Used};
use crate::state::{Autopilot, Command};

use super::decode::{self, GoDuration};
use super::reply::{self, Failure, Reply};
use super::telemetry::rfc3339;
use super::{Api, Call};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownConfig {
    cleanup_dead_servers: bool,
    last_contact_threshold: String,
    max_trailing_logs: u64,
    min_quorum: u64,
    server_stabilization_time: String,
    redundancy_zone_tag: &'static str,
    disable_upgrade_migration: bool,
    upgrade_version_tag: &'static str,
    create_index: u64,
    modify_index: u64,
}

fn shown(autopilot: &Autopilot) -> ShownConfig {
    let Autopilot { config, create_index, modify_index } = autopilot;
    ShownConfig {
        cleanup_dead_servers: config.cleanup_dead_servers,
        last_contact_threshold: show_duration(Duration::from_nanos(config.last_contact_threshold_ns)),
        max_trailing_logs: config.max_trailing_logs,
        min_quorum: config.min_quorum,
        server_stabilization_time: show_duration(Duration::from_nanos(config.server_stabilization_time_ns)),
        redundancy_zone_tag: "",
        disable_upgrade_migration: false,
        upgrade_version_tag: "",
        create_index: *create_index,
        modify_index: *modify_index,
    }
}

/// A configuration in a request. What it does not name is as it is by default.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigBody {
    cleanupdeadservers: Option<bool>,
    lastcontactthreshold: Option<GoDuration>,
    maxtrailinglogs: Option<u64>,
    minquorum: u64,
    serverstabilizationtime: Option<GoDuration>,
    redundancyzonetag: String,
    disableupgrademigration: bool,
    upgradeversiontag: String,
}

impl ConfigBody {
    fn config(&self) -> Result<AutopilotConfig, Failure> {
        let refused =
            |what: &str| Err(Failure::bad_request(format!("{what} is not supported: leave it out")));
        if !self.redundancyzonetag.is_empty() {
            return refused("RedundancyZoneTag");
        }
        if self.disableupgrademigration {
            return refused("DisableUpgradeMigration");
        }
        if !self.upgradeversiontag.is_empty() {
            return refused("UpgradeVersionTag");
        }
        let nanos = |duration: Option<GoDuration>, default: u64| {
            duration.map_or(default, |given| u64::try_from(given.0.as_nanos()).unwrap_or(u64::MAX))
        };
        let default = AutopilotConfig::DEFAULT;
        let last_contact_threshold_ns = nanos(self.lastcontactthreshold, default.last_contact_threshold_ns);
        if last_contact_threshold_ns == 0 {
            return Err(Failure::bad_request("LastContactThreshold must be more than nothing"));
        }
        Ok(AutopilotConfig {
            cleanup_dead_servers: self.cleanupdeadservers.unwrap_or(default.cleanup_dead_servers),
            last_contact_threshold_ns,
            max_trailing_logs: self.maxtrailinglogs.unwrap_or(default.max_trailing_logs),
            min_quorum: self.minquorum,
            server_stabilization_time_ns: nanos(
                self.serverstabilizationtime,
                default.server_stabilization_time_ns,
            ),
        })
    }
}

/// `GET` and `PUT /v1/operator/autopilot/configuration`
pub async fn configuration(api: Arc<Api>, call: Call) -> Reply {
    let pretty = call.params.pretty();
    if call.head.method == Method::PUT {
        let cas = call.params.number("cas")?;
        let bytes = api.read_body(call.body).await?;
        let config = decode::body::<ConfigBody>(&bytes)?.config()?;
        let command = Command::Autopilot(AutopilotCommand::Set { config, cas });
        return reply::json(&reply::yes_or_no(api.agent.write(command).await?)?, pretty);
    }
    let options = call.params.query_options(|| api.spread())?;
    let answer = api.agent.query(options, &AutopilotInForce).await?;
    reply::found(&shown(&answer.value), pretty, &answer, options.consistency)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownHealth {
    healthy: bool,
    failure_tolerance: u64,
    servers: Vec<ShownServer>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownServer {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    address: String,
    serf_status: String,
    version: String,
    leader: bool,
    last_contact: String,
    last_term: u64,
    last_index: u64,
    healthy: bool,
    voter: bool,
    /// For people, by the wall clock of the agent that was asked.
    stable_since: String,
}

/// A moment in the past as RFC 3339 writes it.
fn moment(wall: Duration, ago: Duration) -> String {
    rfc3339(wall.saturating_sub(ago))
}

fn contact(last: Option<Duration>) -> String {
    last.map_or_else(|| "never".to_owned(), show_duration)
}

/// `GET /v1/operator/autopilot/health`: 200 if all is well, 429 if not.
pub async fn health(api: Arc<Api>, call: Call) -> Reply {
    let Health { healthy, failure_tolerance, servers } = api.agent.health().await?;
    let wall = api.agent.env().wall();
    let servers = servers.into_iter().map(|server| ShownServer {
        id: uuid_of(server.node_id),
        name: server.name,
        address: server.addr.to_string(),
        serf_status: server.gossip,
        version: server.version,
        leader: server.leader,
        last_contact: contact(server.last_contact),
        last_term: server.last_term,
        last_index: server.last_index,
        healthy: server.healthy,
        voter: server.voter,
        stable_since: moment(wall, server.stable_for),
    });
    let shown = ShownHealth { healthy, failure_tolerance, servers: servers.collect() };
    let mut response = reply::json(&shown, call.params.pretty())?;
    if !healthy {
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    }
    Ok(response)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownState {
    healthy: bool,
    failure_tolerance: u64,
    optimistic_failure_tolerance: u64,
    servers: BTreeMap<String, StateOfServer>,
    leader: String,
    voters: Vec<String>,
    read_replicas: [(); 0],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StateOfServer {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    address: String,
    node_status: String,
    version: String,
    last_contact: String,
    last_term: u64,
    last_index: u64,
    healthy: bool,
    stable_since: String,
    read_replica: bool,
    status: &'static str,
    meta: BTreeMap<String, String>,
    node_type: &'static str,
}

/// `GET /v1/operator/autopilot/state`
pub async fn state(api: Arc<Api>, call: Call) -> Reply {
    let Health { healthy, failure_tolerance, servers } = api.agent.health().await?;
    let wall = api.agent.env().wall();
    let chosen = |which: fn(&ServerHealth) -> bool| {
        servers.iter().filter(move |server| which(server)).map(|server| uuid_of(server.node_id))
    };
    let (leader, voters) =
        (chosen(|server| server.leader).next().unwrap_or_default(), chosen(|s| s.voter).collect());
    let of_server = |server: &ServerHealth| StateOfServer {
        id: uuid_of(server.node_id),
        name: server.name.clone(),
        address: server.addr.to_string(),
        node_status: server.gossip.clone(),
        version: server.version.clone(),
        last_contact: contact(server.last_contact),
        last_term: server.last_term,
        last_index: server.last_index,
        healthy: server.healthy,
        stable_since: moment(wall, server.stable_for),
        read_replica: false,
        status: match (server.leader, server.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "non-voter",
        },
        meta: BTreeMap::new(),
        node_type: "voter",
    };
    let all = servers.iter().map(|server| (uuid_of(server.node_id), of_server(server)));
    let shown = ShownState {
        healthy,
        failure_tolerance,
        optimistic_failure_tolerance: failure_tolerance,
        servers: all.collect(),
        leader,
        voters,
        read_replicas: [],
    };
    reply::json(&shown, call.params.pretty())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownUsage {
    usage: BTreeMap<String, OfDatacenter>,
    index: u64,
    last_contact: u64,
    known_leader: bool,
    consistency_level: &'static str,
    not_modified: bool,
    /// 0 is a blocking query, which is what every query is here.
    backend: u8,
    #[serde(rename = "ResultsFilteredByACLs")]
    filtered: bool,
}

/// The kinds of instances that Consul's mesh has. Here there are those only that were registered as such.
const KINDS: [&str; 6] = [
    "api-gateway",
    "connect-native",
    "connect-proxy",
    "ingress-gateway",
    "mesh-gateway",
    "terminating-gateway",
];

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct OfDatacenter {
    nodes: u64,
    services: u64,
    service_instances: u64,
    /// By [`KINDS`].
    connect_service_instances: BTreeMap<&'static str, u64>,
    /// Of ordinary services, other than the servers' own.
    billable_service_instances: u64,
    /// Beyond Consul's.
    keys: u64,
    /// Beyond Consul's.
    sessions: u64,
}

/// `GET /v1/operator/usage`
pub async fn usage(api: Arc<Api>, call: Call) -> Reply {
    let options = call.params.query_options(|| api.spread())?;
    let answer = api.agent.query(options, &Usage).await?;
    // Whoever may see how much there is need not see what. The kinds are counted here, because servers of before do not.
    let all = api.agent.itself().query(QueryOptions::now(options.consistency), &AllInstances).await?;
    let of_datacenter = counted(&answer.value, &all.value);
    let shown = ShownUsage {
        usage: BTreeMap::from([(api.agent.config().datacenter.clone(), of_datacenter)]),
        index: answer.index,
        last_contact: u64::try_from(answer.last_contact.as_millis()).unwrap_or(u64::MAX),
        known_leader: answer.known_leader,
        consistency_level: match options.consistency {
            Consistency::Default => "leader",
            Consistency::Consistent => "consistent",
            Consistency::Stale => "stale",
        },
        not_modified: false,
        backend: 0,
        filtered: false,
    };
    reply::found(&shown, call.params.pretty(), &answer, options.consistency)
}

fn counted(used: &Used, instances: &[Instance]) -> OfDatacenter {
    let of_kind = |kind: &'static str| instances.iter().filter(move |one| one.service.info.kind == kind);
    let billable = of_kind("").filter(|one| one.service.info.name != CONSUL_SERVICE);
    OfDatacenter {
        nodes: used.nodes,
        services: used.services,
        service_instances: used.instances,
        connect_service_instances: KINDS.map(|kind| (kind, of_kind(kind).count() as u64)).into(),
        billable_service_instances: billable.count() as u64,
        keys: used.keys,
        sessions: used.sessions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::catalog::{NodeInfo, Row, ServiceInfo};

    #[test]
    fn ordinary_instances_count_as_billable_and_those_of_the_mesh_by_their_kind() {
        fn row<T>(info: T) -> Row<T> {
            Row { info, create_index: 1, modify_index: 1 }
        }
        let instance = |name: &str, kind: &str| {
            let service = ServiceInfo { name: name.into(), kind: kind.into(), ..ServiceInfo::default() };
            Instance { node: row(NodeInfo::default()), service: row(service), checks: Vec::new() }
        };
        let instances = [
            instance(CONSUL_SERVICE, ""),
            instance("web", ""),
            instance("web", ""),
            instance("web-sidecar-proxy", "connect-proxy"),
        ];
        let used = Used { nodes: 1, services: 3, instances: 4, keys: 5, sessions: 6 };
        let counted = counted(&used, &instances);
        assert_eq!((counted.service_instances, counted.billable_service_instances), (4, 2));
        let kinds = counted.connect_service_instances;
        assert_eq!((kinds["connect-proxy"], kinds["mesh-gateway"], kinds.len()), (1, 0, KINDS.len()));
    }

    fn config(text: &str) -> Result<AutopilotConfig, String> {
        let body: ConfigBody = decode::body(text.as_bytes()).map_err(|failure| failure.text)?;
        body.config().map_err(|failure| failure.text)
    }

    #[test]
    fn what_is_not_named_is_as_by_default_and_what_is_not_supported_is_refused() {
        assert_eq!(config("{}"), Ok(AutopilotConfig::DEFAULT));
        let given = config(
            r#"{"CleanupDeadServers":false,"LastContactThreshold":"1s","MaxTrailingLogs":9,"MinQuorum":3,
                "ServerStabilizationTime":"2m0s","RedundancyZoneTag":"","DisableUpgradeMigration":false,
                "UpgradeVersionTag":"","CreateIndex":4,"ModifyIndex":5}"#,
        );
        let expected = AutopilotConfig {
            cleanup_dead_servers: false,
            last_contact_threshold_ns: 1_000_000_000,
            max_trailing_logs: 9,
            min_quorum: 3,
            server_stabilization_time_ns: 120_000_000_000,
        };
        assert_eq!(given, Ok(expected.clone()));
        // What is shown can be sent back.
        let shown = shown(&Autopilot { config: expected.clone(), create_index: 4, modify_index: 5 });
        assert_eq!(config(&serde_json::to_string(&shown).unwrap()), Ok(expected));
        assert!(config(r#"{"RedundancyZoneTag":"z"}"#).unwrap_err().contains("RedundancyZoneTag"));
        assert!(config(r#"{"LastContactThreshold":"0s"}"#).is_err());
        assert!(config(r#"{"MinQuorum":-1}"#).is_err());
    }

    #[test]
    fn moments_are_as_rfc_3339_has_them() {
        assert_eq!(moment(Duration::from_secs(951_782_400), Duration::from_secs(1)), "2000-02-28T23:59:59Z");
    }
}
