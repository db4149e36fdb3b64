//! `/v1/agent/…`: this agent, and the members it knows.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::StatusCode;
use serde::Serialize;

use crate::agent::delegate::DEFAULT_SEGMENT;
use crate::agent::meta::Meta;
use crate::agent::metrics::PREFIX;
use crate::agent::{member_tags, version};
use crate::config::Config;
use crate::gossip::{self, Status};
use crate::state::acl::{Access, Kind};

use super::coordinate::Coord;
use super::filter::Filter;
use super::reply::{self, Failure, Reply};
use super::{Api, Call};

/// A member as clients know it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Member {
    name: String,
    addr: String,
    port: u16,
    tags: BTreeMap<String, String>,
    status: u8,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
}

impl Member {
    /// A member, where rights are looked at or not: that is so on all of them.
    fn new(member: &gossip::Member, acls: bool) -> Member {
        let mut tags = member_tags(member);
        tags.insert("acls".to_owned(), u8::from(acls).to_string());
        Member {
            name: member.name.clone(),
            addr: member.addr.ip().to_string(),
            port: member.addr.port(),
            tags,
            status: match member.status {
                Status::Alive => 1,
                Status::Leaving => 2,
                Status::Left => 3,
                Status::Failed => 4,
            },
            // Clients written for Serf look at these: the protocol versions it has spoken since 0.8.
            protocol_min: 1,
            protocol_max: 5,
            protocol_cur: 2,
            delegate_min: 2,
            delegate_max: 5,
            delegate_cur: 4,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SelfReply<'a> {
    config: SelfConfig<'a>,
    debug_config: DebugConfig<'a>,
    coord: Coord,
    member: Member,
    stats: BTreeMap<String, BTreeMap<String, String>>,
    meta: &'a BTreeMap<String, String>,
    /// There is no service mesh here.
    #[serde(rename = "xDS")]
    xds: Option<()>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SelfConfig<'a> {
    datacenter: &'a str,
    primary_datacenter: &'a str,
    node_name: &'a str,
    #[serde(rename = "NodeID")]
    node_id: String,
    revision: &'a str,
    server: bool,
    version: &'a str,
    build_date: &'a str,
}

/// The configuration, under our names; and what tools read of it, under Consul's.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DebugConfig<'a> {
    #[serde(flatten)]
    ours: &'a Config,
    #[serde(rename = "AdvertiseAddrLAN")]
    advertise_addr_lan: IpAddr,
    connect_enabled: bool,
    #[serde(rename = "DNSPort")]
    dns_port: i32,
    datacenter: &'a str,
    enable_debug: bool,
    #[serde(rename = "GRPCPort")]
    grpc_port: i32,
    #[serde(rename = "HTTPPort")]
    http_port: i32,
    #[serde(rename = "HTTPSPort")]
    https_port: i32,
    #[serde(rename = "KVMaxValueSize")]
    kv_max_value_size: usize,
    node_name: &'a str,
    server_mode: bool,
    telemetry: Telemetry,
    txn_max_req_len: usize,
}

/// How metrics are named.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Telemetry {
    disable_hostname: bool,
    metrics_prefix: &'static str,
    prometheus_opts: PrometheusOpts,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PrometheusOpts {
    expiration: &'static str,
}

impl<'a> DebugConfig<'a> {
    /// The configuration of the agent that is this member.
    fn new(config: &'a Config, member: &gossip::Member) -> DebugConfig<'a> {
        // In Consul's words, where nothing listens.
        let port = |addr: Option<SocketAddr>| addr.map_or(-1, |addr| i32::from(addr.port()));
        // Which it is where the system was to choose, the member says.
        let http = Meta::decode(&member.meta).map(|meta| i32::from(meta.http_port));
        DebugConfig {
            ours: config,
            advertise_addr_lan: member.addr.ip(),
            connect_enabled: false,
            dns_port: port(config.dns.addr),
            datacenter: &config.datacenter,
            enable_debug: false,
            grpc_port: -1,
            http_port: http.unwrap_or_else(|| port(Some(config.http_addr))),
            https_port: port(config.https_addr),
            kv_max_value_size: config.limits.value_bytes,
            node_name: &config.node_name,
            server_mode: config.server,
            telemetry: Telemetry {
                disable_hostname: true,
                metrics_prefix: PREFIX,
                // Consul's own, by which tools see that there is something to scrape. Nothing expires here.
                prometheus_opts: PrometheusOpts { expiration: "60s" },
            },
            // One limit counts for all bodies.
            txn_max_req_len: config.limits.value_bytes,
        }
    }
}

/// This agent: configuration, statistics, and how its members see it.
pub async fn this(api: Arc<Api>, call: Call) -> Reply {
    let agent = &api.agent;
    let config = agent.config();
    let local = agent.local_member();
    let member = Member::new(&local, config.acl.enabled);
    let coord = agent.delegate().lan_coordinate().remove(DEFAULT_SEGMENT).unwrap_or_default();
    let node_id = member.tags.get("id").cloned().unwrap_or_else(|| format!("{:016x}", agent.node_id()));
    let reply = SelfReply {
        config: SelfConfig {
            datacenter: &config.datacenter,
            primary_datacenter: &config.datacenter,
            node_name: &config.node_name,
            node_id,
            revision: "",
            server: config.server,
            version: version::BOTH,
            build_date: version::BUILD_DATE,
        },
        debug_config: DebugConfig::new(&config, &local),
        coord: coord.into(),
        member,
        stats: agent.stats(),
        meta: &config.tags,
        xds: None,
    };
    reply::json(&reply, call.params.pretty())
}

/// Everyone this agent knows of, the failed and the gone included.
pub async fn members(api: Arc<Api>, call: Call) -> Reply {
    let delegate = api.agent.delegate();
    let wide = call.params.switch("wan");
    if wide && call.params.text("segment").is_some_and(|segment| segment != "_all") {
        return Err(Failure::bad_request("Cannot provide a segment with wan=true"));
    }
    let filter = Filter::of(&call.params)?;
    let members = match call.params.get("segment") {
        Some("_all") => delegate.lan_members_all_segments(),
        segment => {
            let members = delegate.lan_segment_members(segment.unwrap_or(DEFAULT_SEGMENT));
            members.map_err(|error| Failure::internal(error.to_string()))?
        }
    };
    let who = api.who().await?;
    let all = members.len();
    let seen = members.iter().filter(|member| who.allows(Kind::Node, &member.name, Access::Read));
    let acls = api.agent.config().acl.enabled;
    let mut members: Vec<Member> = seen.map(|member| Member::new(member, acls)).collect();
    let filtered = members.len() < all;
    if wide {
        // There is one datacenter, and of each only the servers meet in the wide area.
        members.retain(|member| member.tags.get("role").is_some_and(|role| role == "consul"));
        for member in &mut members {
            member.name = format!("{}.{}", member.name, api.agent.config().datacenter);
        }
    }
    let members = Filter::choose(&filter, members)?;
    Ok(reply::sifted(reply::json(&members, call.params.pretty())?, filtered))
}

/// `IP`, `IP:port`, `[IP]` or `[IP]:port`.
fn gossip_addr(text: &str, default_port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, default_port));
    ip.or_else(|| text.parse().ok())
}

/// The addresses of a host, or of `HOST:PORT`.
async fn by_name(api: &Api, text: &str, default_port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (text, Some(default_port)),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let (Some(port), true) = (port, !host.is_empty() && host.chars().all(is_name)) else {
        return Err(Failure::bad_request(format!(
            "Invalid address {text:?}: must be an IP address or the name of a host, with a port if need be"
        )));
    };
    let process = api.agent.process().ok_or_else(|| Failure::internal("no names can be looked up here"))?;
    process.resolve(host, port).await.map_err(Failure::internal)
}

/// Joins the gossip of the members at the address in the path.
pub async fn join(api: Arc<Api>, call: Call) -> Reply {
    let text = call.tail("/v1/agent/join/")?;
    let port = api.agent.config().gossip_addr.port();
    let addrs = match gossip_addr(&text, port) {
        Some(addr) => vec![addr],
        None => by_name(&api, &text, port).await?,
    };
    if call.params.switch("wan") {
        return Err(Failure::internal("There is no wide-area gossip to join: this is the only datacenter"));
    }
    api.agent.join(&addrs).await.map_err(Failure::internal)?;
    Ok(reply::empty(StatusCode::OK))
}

/// Leaves the cluster gracefully; the agent stops soon after.
pub async fn leave(api: Arc<Api>, _: Call) -> Reply {
    let agent = api.agent.clone();
    // In a task of its own: a client that hangs up must not leave the node half gone.
    let left = agent.env().clone().spawn(async move { agent.leave().await });
    left.await.map_err(|error| Failure::internal(format!("leaving failed: {error}")))?;
    Ok(reply::empty(StatusCode::OK))
}

/// Makes a failed member one that has left; with `prune`, forgets it.
pub async fn force_leave(api: Arc<Api>, call: Call) -> Reply {
    let node = call.tail("/v1/agent/force-leave/")?;
    api.agent.force_leave(&node, call.params.switch("prune")).await.map_err(Failure::internal)?;
    Ok(reply::empty(StatusCode::OK))
}

/// Reads the configuration again; says what is in force now and what waits for a restart.
pub async fn reload(api: Arc<Api>, call: Call) -> Reply {
    let agent = api.agent.clone();
    // In a task of its own: a client that hangs up must not leave it half done.
    let reloaded = agent.env().clone().spawn(async move { agent.reload().await });
    let reloaded = reloaded.await.map_err(|error| Failure::internal(format!("reloading failed: {error}")))?;
    reply::json(&reloaded.map_err(Failure::internal)?, call.params.pretty())
}

/// What machine this agent runs on.
pub async fn host(api: Arc<Api>, call: Call) -> Reply {
    let now = api.agent.env().wall();
    let mut host = api.agent.describe_host().await.map_err(Failure::internal)?;
    host["CollectionTime"] = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).into();
    reply::json(&host, call.params.pretty())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    #[serde(rename = "SHA")]
    sha: &'static str,
    build_date: &'static str,
    human_version: &'static str,
    #[serde(rename = "FIPS")]
    fips: &'static str,
}

/// Which version this is.
pub async fn version(_: Arc<Api>, call: Call) -> Reply {
    let version =
        Version { sha: "", build_date: version::BUILD_DATE, human_version: version::BOTH, fips: "" };
    reply::json(&version, call.params.pretty())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::env::Instant;

    #[test]
    fn tools_find_the_configuration_under_consuls_names() {
        let config = Config { server: true, ..Config::default() };
        let member = gossip::Member {
            node_id: 1,
            name: "node".to_owned(),
            addr: ([10, 0, 0, 1], 8301).into(),
            meta: Bytes::new(),
            generation: 0,
            status: Status::Alive,
            since: Instant(0),
            pruned: false,
        };
        let shown = serde_json::to_value(DebugConfig::new(&config, &member)).unwrap();
        for (key, expected) in [
            ("EnableDebug", json!(false)),
            ("ConnectEnabled", json!(false)),
            ("GRPCPort", json!(-1)),
            ("DNSPort", json!(-1)),
            ("HTTPPort", json!(8500)),
            ("ServerMode", json!(true)),
            ("Datacenter", json!("dc1")),
            ("NodeName", json!("node")),
            ("AdvertiseAddrLAN", json!("10.0.0.1")),
            ("KVMaxValueSize", json!(config.limits.value_bytes)),
            ("node_name", json!("node")),
        ] {
            assert_eq!(shown[key], expected, "{key}");
        }
        assert_eq!(shown["Telemetry"]["MetricsPrefix"], "consul");
    }

    #[test]
    fn a_join_address_may_leave_the_port_out() {
        let cases = [
            ("10.0.0.1", Some("10.0.0.1:8301")),
            ("10.0.0.1:1", Some("10.0.0.1:1")),
            ("::1", Some("[::1]:8301")),
            ("[::1]", Some("[::1]:8301")),
            ("[::1]:2", Some("[::1]:2")),
            ("host", None),
            ("", None),
            ("10.0.0.1:", None),
            ("10.0.0.1:70000", None),
        ];
        for (text, expected) in cases {
            assert_eq!(gossip_addr(text, 8301).map(|addr| addr.to_string()).as_deref(), expected, "{text:?}");
        }
    }
}
