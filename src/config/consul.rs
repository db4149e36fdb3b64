//! Consul's names for what is configured here too, so that a Consul agent's file can be taken as it is where it
//! means the same.
//!
//! [`canonical`] turns a file's table into our own names, before anything is checked. A key that means something
//! else here, or nothing, is left as it is, and is then an unknown key with its name: nothing is silently ignored.

use std::net::{IpAddr, SocketAddr};

use super::Place;
use serde_json::{Map, Value, json};

use super::duration::parse_duration;

/// Finds the address that a name with an optional port stands for. The port is the one to use when none is named.
pub type Resolve<'a> = &'a dyn Fn(&str, u16) -> Result<SocketAddr, String>;

/// A key, the one of ours that means the same, and how its value is written.
pub struct Alias {
    /// Consul's name, with dots.
    pub consul: &'static str,
    /// Ours, with dots; empty if there is none and only what says so is taken.
    pub ours: &'static str,
    kind: Kind,
}

enum Kind {
    /// The same value.
    Same,
    /// A duration in Go's notation, here in milliseconds.
    Milliseconds,
    /// A table of the user's keys with such durations.
    EachMilliseconds,
    /// An IP address that goes into these addresses and leaves their ports.
    Ip(&'static [(&'static str, u16)]),
    /// A port that goes into this address and leaves its IP.
    Port,
    /// The same for an address that may not be there yet: its IP is then the HTTP API's. -1 means nowhere.
    OptionalPort,
    /// A port that is nowhere here: only -1 comes true.
    Nowhere,
    /// `true` means a cluster of this server alone, `false` takes that back.
    BootstrapAlone,
    /// A number of servers, 0 takes it back.
    BootstrapExpect,
}

const fn alias(consul: &'static str, ours: &'static str, kind: Kind) -> Alias {
    Alias { consul, ours, kind }
}

/// Every name of Consul's that is taken.
pub const ALIASES: &[Alias] = &[
    alias("acl.token_ttl", "acl.token_ttl_ms", Kind::Milliseconds),
    alias("advertise_addr", "advertise", Kind::Same),
    alias("bind_addr", "rpc_addr", Kind::Ip(&[("rpc_addr", 8300), ("gossip_addr", 8301)])),
    alias("bootstrap", "bootstrap", Kind::BootstrapAlone),
    alias("bootstrap_expect", "bootstrap", Kind::BootstrapExpect),
    alias("ca_file", "tls.ca_file", Kind::Same),
    alias("cert_file", "tls.cert_file", Kind::Same),
    alias("client_addr", "http_addr", Kind::Ip(&[("http_addr", 8500)])),
    alias("dns_config.allow_stale", "dns.allow_stale", Kind::Same),
    alias("dns_config.enable_truncate", "dns.enable_truncate", Kind::Same),
    alias("dns_config.node_ttl", "dns.node_ttl_ms", Kind::Milliseconds),
    alias("dns_config.only_passing", "dns.only_passing", Kind::Same),
    alias("dns_config.service_ttl", "dns.service_ttl_ms", Kind::EachMilliseconds),
    alias("dns_config.udp_answer_limit", "dns.udp_answer_limit", Kind::Same),
    alias("domain", "dns.domain", Kind::Same),
    alias("gossip_lan.gossip_interval", "gossip.gossip_interval_ms", Kind::Milliseconds),
    alias("gossip_lan.gossip_nodes", "gossip.gossip_fanout", Kind::Same),
    alias("gossip_lan.probe_interval", "gossip.probe_period_ms", Kind::Milliseconds),
    alias("gossip_lan.probe_timeout", "gossip.probe_timeout_ms", Kind::Milliseconds),
    alias("gossip_lan.retransmit_mult", "gossip.retransmit_mult", Kind::Same),
    alias("gossip_lan.suspicion_mult", "gossip.suspicion_mult", Kind::Same),
    alias("key_file", "tls.key_file", Kind::Same),
    alias("limits.http_max_conns_per_client", "limits.http_connections_per_client", Kind::Same),
    alias("limits.kv_max_value_size", "limits.value_bytes", Kind::Same),
    alias("node_meta", "tags", Kind::Same),
    alias("performance.rpc_hold_timeout", "raft.request_timeout_ms", Kind::Milliseconds),
    alias("ports.dns", "dns.addr", Kind::OptionalPort),
    alias("ports.grpc", "", Kind::Nowhere),
    alias("ports.grpc_tls", "", Kind::Nowhere),
    alias("ports.http", "http_addr", Kind::Port),
    alias("ports.https", "https_addr", Kind::OptionalPort),
    alias("ports.serf_lan", "gossip_addr", Kind::Port),
    alias("ports.serf_wan", "", Kind::Nowhere),
    alias("ports.server", "rpc_addr", Kind::Port),
    alias("raft_snapshot_threshold", "raft.snapshot_entries", Kind::Same),
    alias("raft_trailing_logs", "raft.trailing_entries", Kind::Same),
    alias("reconnect_timeout", "gossip.reap_after_ms", Kind::Milliseconds),
    alias("retry_interval", "retry_interval_ms", Kind::Milliseconds),
    alias("start_join", "join", Kind::Same),
    alias("verify_incoming", "tls.verify_incoming", Kind::Same),
    alias("verify_incoming_https", "tls.verify_incoming_https", Kind::Same),
    alias("verify_outgoing", "tls.verify_outgoing", Kind::Same),
    alias("verify_server_hostname", "tls.verify_server_hostname", Kind::Same),
];

/// A lone thing goes into the list of such things.
const ONE_OF: [(&str, &str); 2] = [("service", "services"), ("check", "checks")];

/// What is known under a name of Consul's that stands for a table there and for nothing here. None of another name.
pub fn group(name: &str) -> Option<Vec<&'static str>> {
    let inside = |alias: &Alias| alias.consul.split_once('.').filter(|(outer, _)| *outer == name);
    let known: Vec<&str> = ALIASES.iter().filter_map(|alias| Some(inside(alias)?.1)).collect();
    (!known.is_empty()).then_some(known)
}

/// Our names for what the table says. `base` has the addresses that a lone IP or port goes into. Names to join
/// become addresses.
///
/// # Errors
/// The key and what is wrong with its value.
pub fn canonical(
    mut table: Map<String, Value>,
    base: &Value,
    resolve: Resolve<'_>,
) -> Result<Map<String, Value>, (String, String)> {
    // Addresses of this very file come first: a port may come with an IP in either order.
    let mut found = Map::new();
    for alias in ALIASES {
        let Some(value) = take(&mut table, alias) else { continue };
        let wrong = |reason: &str| (alias.consul.to_owned(), reason.to_owned());
        match alias.kind {
            Kind::Same => put(&mut found, alias.ours, value),
            Kind::Milliseconds => {
                let ms = milliseconds(&value).map_err(wrong)?;
                put(&mut found, alias.ours, json!(ms));
            }
            Kind::EachMilliseconds => {
                let each = value.as_object().ok_or_else(|| wrong("must be a table of durations"))?;
                let mut inside = Map::new();
                for (name, value) in each {
                    let ms = milliseconds(value);
                    let ms = ms.map_err(|reason| (format!("{}.{name}", alias.consul), reason.to_owned()))?;
                    inside.insert(name.clone(), json!(ms));
                }
                put(&mut found, alias.ours, Value::Object(inside));
            }
            Kind::Ip(addresses) => {
                let ip: Option<IpAddr> = value.as_str().and_then(|text| text.parse().ok());
                let ip = ip.ok_or_else(|| wrong("must be an IP address"))?;
                for (ours, port) in addresses {
                    let port = address(&found, &table, base, ours).map_or(*port, |addr| addr.port());
                    put(&mut found, ours, json!(SocketAddr::new(ip, port)));
                }
            }
            Kind::Port => {
                let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
                let port = port.ok_or_else(|| wrong("must be a port, 0 to 65535"))?;
                let mut addr = address(&found, &table, base, alias.ours)
                    .ok_or_else(|| wrong("there is no address for this port"))?;
                addr.set_port(port);
                put(&mut found, alias.ours, json!(addr));
            }
            Kind::Nowhere if value.as_i64() == Some(-1) => {}
            Kind::Nowhere => return Err(wrong("must be -1: there is none here")),
            Kind::OptionalPort if value.as_i64() == Some(-1) => put(&mut found, alias.ours, Value::Null),
            Kind::OptionalPort => {
                let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
                let port = port.ok_or_else(|| wrong("must be a port, 0 to 65535, or -1 for none"))?;
                let beside = address(&found, &table, base, "http_addr")
                    .ok_or_else(|| wrong("there is no address for this port"))?;
                put(&mut found, alias.ours, json!(SocketAddr::new(beside.ip(), port)));
            }
            // What one of the two takes back is what a file before it has said under the same name.
            Kind::BootstrapAlone => match value.as_bool() {
                Some(true) => put(&mut found, alias.ours, json!("alone")),
                Some(false) if base[alias.ours] == "alone" => put(&mut found, alias.ours, json!("wait")),
                Some(false) => {}
                None => put(&mut found, alias.ours, value),
            },
            Kind::BootstrapExpect => match (value.as_i64(), found.get(alias.ours)) {
                (Some(0), None) if base[alias.ours].is_object() => put(&mut found, alias.ours, json!("wait")),
                (Some(0), _) => {}
                // One that expects itself is alone.
                (Some(1), Some(said)) if said == "alone" => {}
                (_, Some(said)) if said == "alone" => {
                    return Err(wrong("makes no sense beside bootstrap = true: say one of them"));
                }
                _ => put(&mut found, alias.ours, json!({ "expect": value })),
            },
        }
    }
    for (key, value) in found {
        merge(&mut table, key, value)?;
    }
    for (one, many) in ONE_OF {
        let Some(value) = table.remove(one) else { continue };
        match table.entry(many).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(value),
            _ => return Err((many.to_owned(), "must be a list".to_owned())),
        }
    }
    let gossip_port = address(&Map::new(), &table, base, "gossip_addr").map_or(8301, |addr| addr.port());
    for key in ["join", "retry_join"] {
        let Some(Value::Array(names)) = table.get_mut(key) else { continue };
        for name in names {
            let Value::String(text) = name else { continue };
            // Whom it is enough to find later is looked up then.
            let found = if key == "join" {
                resolve(text, gossip_port).map(|addr| json!(addr))
            } else {
                Place::parse(text, gossip_port).map(|place| json!(place))
            };
            *name = found.map_err(|reason| (key.to_owned(), reason))?;
        }
    }
    Ok(table)
}

/// A duration in Go's notation.
fn milliseconds(value: &Value) -> Result<i64, &'static str> {
    let nanos = value.as_str().and_then(parse_duration).filter(|nanos| *nanos >= 0);
    nanos.map(|nanos| nanos / 1_000_000).ok_or("must be a duration such as \"30s\" or \"1m30s\"")
}

/// Takes an alias out of the table. One that has our own name is only taken in Consul's form.
fn take(table: &mut Map<String, Value>, alias: &Alias) -> Option<Value> {
    let Some((outer, inner)) = alias.consul.split_once('.') else {
        if alias.consul == alias.ours && !table.get(alias.consul)?.is_boolean() {
            return None;
        }
        return table.remove(alias.consul);
    };
    let inside = table.get_mut(outer)?.as_object_mut()?;
    let value = inside.remove(inner)?;
    if inside.is_empty() {
        table.remove(outer);
    }
    Some(value)
}

fn put(found: &mut Map<String, Value>, ours: &str, value: Value) {
    match ours.split_once('.') {
        None => drop(found.insert(ours.to_owned(), value)),
        Some((outer, inner)) => {
            let inside = found.entry(outer).or_insert_with(|| json!({}));
            if let Some(inside) = inside.as_object_mut() {
                inside.insert(inner.to_owned(), value);
            }
        }
    }
}

/// The address that a key has so far: by an alias, by this file, or before it.
fn address(
    found: &Map<String, Value>,
    table: &Map<String, Value>,
    base: &Value,
    key: &str,
) -> Option<SocketAddr> {
    let value = found.get(key).or_else(|| table.get(key)).or_else(|| base.get(key))?;
    value.as_str()?.parse().ok()
}

/// Adds what an alias said. To say the same thing under both names is a mistake, unless it completes an address.
fn merge(table: &mut Map<String, Value>, key: String, value: Value) -> Result<(), (String, String)> {
    match (table.get_mut(&key), value) {
        (Some(Value::Object(there)), Value::Object(more)) => {
            for (inner, value) in more {
                if there.insert(inner.clone(), value).is_some() {
                    return Err((
                        format!("{key}.{inner}"),
                        "is said twice, once by Consul's name".to_owned(),
                    ));
                }
            }
            Ok(())
        }
        (Some(_), value) if !key.ends_with("_addr") => {
            drop(value);
            Err((key, "is said twice, once by Consul's name".to_owned()))
        }
        (_, value) => {
            table.insert(key, value);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, port: u16) -> Result<SocketAddr, String> {
        let ip: Result<IpAddr, _> = text.parse();
        ip.map(|ip| SocketAddr::new(ip, port))
            .or_else(|_| text.parse())
            .map_err(|_| format!("{text:?} does not resolve"))
    }

    fn read(json: Value) -> Result<Value, (String, String)> {
        let base = serde_json::to_value(super::super::Config::default()).unwrap();
        let Value::Object(table) = json else { unreachable!() };
        canonical(table, &base, &resolve).map(Value::Object)
    }

    #[test]
    fn a_consul_file_means_the_same_here() {
        let ours = read(json!({
            "server": true,
            "bootstrap_expect": 3,
            "bind_addr": "10.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": { "http": 8600, "serf_lan": 9301 },
            "retry_join": ["10.0.0.2", "10.0.0.3:8301"],
            "retry_interval": "1m30s",
            "node_meta": { "rack": "1" },
            "limits": { "kv_max_value_size": 1024 },
            "gossip_lan": { "probe_interval": "2s" },
            "raft_trailing_logs": 5,
            "dns_config": { "service_ttl": { "web": "5s", "*": "1m" } },
        }));
        assert_eq!(
            ours.unwrap(),
            json!({
                "server": true,
                "bootstrap": { "expect": 3 },
                "rpc_addr": "10.0.0.1:8300",
                "gossip_addr": "10.0.0.1:9301",
                "http_addr": "127.0.0.1:8600",
                "retry_join": ["10.0.0.2:9301", "10.0.0.3:8301"],
                "retry_interval_ms": 90_000,
                "tags": { "rack": "1" },
                "limits": { "value_bytes": 1024 },
                "gossip": { "probe_period_ms": 2_000 },
                "raft": { "trailing_entries": 5 },
                "dns": { "service_ttl_ms": { "web": 5_000, "*": 60_000 } },
            })
        );
        assert_eq!(read(json!({ "bootstrap": true })).unwrap(), json!({ "bootstrap": "alone" }));
        assert_eq!(read(json!({ "bootstrap": "wait" })).unwrap(), json!({ "bootstrap": "wait" }));
        assert_eq!(read(json!({ "bootstrap": false })).unwrap(), json!({}));
        let one = json!({ "bootstrap": true, "bootstrap_expect": 1 });
        assert_eq!(read(one).unwrap(), json!({ "bootstrap": "alone" }));
        let nowhere = json!({ "ports": { "grpc": -1, "grpc_tls": -1, "serf_wan": -1, "https": -1 } });
        assert_eq!(read(nowhere).unwrap(), json!({ "https_addr": null }));
        let https = json!({ "client_addr": "10.0.0.1", "ports": { "https": 8501 } });
        assert_eq!(
            read(https).unwrap(),
            json!({ "http_addr": "10.0.0.1:8500", "https_addr": "10.0.0.1:8501" })
        );
    }

    #[test]
    fn a_mistake_is_named_by_the_name_it_was_made_under() {
        let mistakes = [
            (json!({ "retry_interval": 30 }), "retry_interval"),
            (json!({ "retry_interval": "soon" }), "retry_interval"),
            (json!({ "bind_addr": "here" }), "bind_addr"),
            (json!({ "ports": { "http": 70_000 } }), "ports.http"),
            (
                json!({ "dns_config": { "service_ttl": { "db": "1s", "web": 5 } } }),
                "dns_config.service_ttl.web",
            ),
            (json!({ "dns_config": { "service_ttl": "5s" } }), "dns_config.service_ttl"),
            (json!({ "node_meta": {}, "tags": {} , "start_join": 3, "join": [] }), "join"),
            (json!({ "raft_trailing_logs": 5, "raft": { "trailing_entries": 6 } }), "raft.trailing_entries"),
            (json!({ "retry_join": ["nobody there"] }), "retry_join"),
            (json!({ "ports": { "serf_wan": 8302 } }), "ports.serf_wan"),
            (json!({ "bootstrap": true, "bootstrap_expect": 3 }), "bootstrap_expect"),
        ];
        for (table, key) in mistakes {
            assert_eq!(read(table.clone()).unwrap_err().0, key, "{table}");
        }
    }
}
