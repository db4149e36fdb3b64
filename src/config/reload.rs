//! What of a changed configuration can take effect in a running agent.
//!
//! [`plan`] is the decision, a pure function of the old and the new configuration: the configuration to put in force,
//! which changes that brings, and which have to wait for a restart.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, DnsConfig};

/// The keys that take effect in a running agent. A key ending in a dot stands for all below it.
pub const RELOADABLE: [&str; 27] = [
    "acl.tokens.agent",
    "acl.tokens.agent_recovery",
    "acl.tokens.config_file_service_registration",
    "acl.tokens.default",
    "acl.tokens.dns",
    "checks",
    "dns.allow_stale",
    "dns.domain",
    "dns.enable_truncate",
    "dns.node_ttl_ms",
    "dns.only_passing",
    "dns.service_ttl_ms.",
    "dns.udp_answer_limit",
    "encrypt_verify_incoming",
    "encrypt_verify_outgoing",
    "limits.http_read_timeout_ms",
    "limits.key_bytes",
    "limits.snapshot_bytes",
    "limits.value_bytes",
    "rejoin_after_leave",
    "retry_interval_ms",
    "retry_join",
    "retry_max",
    "services",
    "tags.",
    "tls.",
    "watches",
];

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Reloaded {
    /// The keys whose new values are in force.
    pub applied: Vec<String>,
    /// The keys whose new values wait for a restart.
    pub needs_restart: Vec<String>,
}

/// Whether a key takes effect in a running agent.
pub fn is_reloadable(key: &str) -> bool {
    RELOADABLE.iter().any(|known| match known.strip_suffix('.') {
        Some(table) => key == table || key.starts_with(known),
        None => key == *known,
    })
}

/// The configuration to put in force when `new` is read while `old` is in force, and what of it is new.
pub fn plan(old: &Config, new: &Config) -> (Config, Reloaded) {
    let changed = changed(old, new);
    let (applied, needs_restart): (Vec<String>, Vec<String>) =
        changed.into_iter().partition(|key| is_reloadable(key));
    let mut config = old.clone();
    // All but where it listens.
    config.dns = DnsConfig { addr: old.dns.addr, ..new.dns.clone() };
    config.encrypt_verify_incoming = new.encrypt_verify_incoming;
    config.encrypt_verify_outgoing = new.encrypt_verify_outgoing;
    config.acl.tokens = new.acl.tokens.clone();
    // It is made once, by a leader.
    config.acl.tokens.initial_management = old.acl.tokens.initial_management.clone();
    config.limits.http_read_timeout_ms = new.limits.http_read_timeout_ms;
    config.limits.key_bytes = new.limits.key_bytes;
    config.limits.snapshot_bytes = new.limits.snapshot_bytes;
    config.limits.value_bytes = new.limits.value_bytes;
    config.rejoin_after_leave = new.rejoin_after_leave;
    config.retry_interval_ms = new.retry_interval_ms;
    config.retry_join = new.retry_join.clone();
    config.retry_max = new.retry_max;
    config.tags = new.tags.clone();
    config.watches = new.watches.clone();
    config.services = new.services.clone();
    config.checks = new.checks.clone();
    config.tls = new.tls.clone();
    (config, Reloaded { applied, needs_restart })
}

/// The full names of the keys that differ, in order.
pub fn changed(old: &Config, new: &Config) -> Vec<String> {
    let mut found = Vec::new();
    // Plain data always has a value.
    let value = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    differences("", &value(old), &value(new), &mut found);
    // Secrets have no value to see a difference in.
    let mut unseen = vec![
        ("encrypt".to_owned(), old.encrypt != new.encrypt),
        ("watches".to_owned(), old.watches != new.watches),
        ("services".to_owned(), old.services != new.services),
        ("checks".to_owned(), old.checks != new.checks),
    ];
    let (mut before, mut after) = (old.acl.tokens.clone(), new.acl.tokens.clone());
    let tokens = before.each().into_iter().zip(after.each());
    unseen.extend(tokens.map(|((name, before), (_, after))| (format!("acl.tokens.{name}"), before != after)));
    found.extend(unseen.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key));
    found.sort();
    found.dedup();
    found
}

fn differences(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let nothing = Value::Null;
                let of = |table: &serde_json::Map<String, Value>| table.get(key).unwrap_or(&nothing).clone();
                differences(&full, &of(before), &of(after), found);
            }
        }
        (old, new) if old != new => found.push(path.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::watch::Watch;
    use crate::secret::Secret;

    #[test]
    fn what_cannot_take_effect_is_named_and_stays_as_it_was() {
        let old = Config::default();
        let mut new = old.clone();
        new.tags.insert("rack".into(), "2".into());
        new.limits.value_bytes = 7;
        new.raft.heartbeat_ms = 40;
        new.node_name = "other".into();
        let (config, reloaded) = plan(&old, &new);
        assert_eq!(reloaded.applied, ["limits.value_bytes", "tags.rack"]);
        assert_eq!(reloaded.needs_restart, ["node_name", "raft.heartbeat_ms"]);
        assert_eq!((config.limits.value_bytes, &config.tags), (7, &new.tags));
        assert_eq!((config.raft.heartbeat_ms, &config.node_name), (old.raft.heartbeat_ms, &old.node_name));
        assert_eq!(plan(&old, &old).1, Reloaded::default());
    }

    #[test]
    fn one_secret_for_another_is_a_change() {
        let with = |text: &str| {
            let mut config = Config { encrypt: Secret::new(text), ..Config::default() };
            config.acl.tokens.agent = Secret::new(text);
            config.watches = vec![Watch { token: Secret::new(text), ..Watch::default() }];
            config
        };
        assert_eq!(changed(&with("one"), &with("one")), [""; 0]);
        assert_eq!(changed(&with("one"), &with("other")), ["acl.tokens.agent", "encrypt", "watches"]);
    }

    #[test]
    fn what_is_called_reloadable_is_put_in_force() {
        // Every key once, changed: what the plan calls applied must be what it then holds.
        let mut new = Config {
            node_name: "x".into(),
            server: true,
            encrypt: Secret::new("AQEBAQEBAQEBAQEBAQEBAQ=="),
            encrypt_verify_incoming: false,
            encrypt_verify_outgoing: false,
            retry_join: vec![std::net::SocketAddr::from(([10, 0, 0, 1], 1)).into()],
            retry_interval_ms: 1,
            retry_max: 9,
            rejoin_after_leave: true,
            ..Config::default()
        };
        new.tags.insert("a".into(), "b".into());
        new.watches = vec![Default::default()];
        new.services = vec![Default::default()];
        new.checks = vec![Default::default()];
        new.dns = DnsConfig {
            addr: Some(std::net::SocketAddr::from(([10, 0, 0, 1], 1))),
            domain: "x".into(),
            only_passing: true,
            allow_stale: false,
            node_ttl_ms: 1,
            service_ttl_ms: [("a".to_owned(), 1)].into(),
            udp_answer_limit: 1,
            enable_truncate: true,
        };
        new.tls.verify_outgoing = true;
        new.acl.tokens.each().into_iter().for_each(|(_, token)| *token = Secret::new("x"));
        new.limits.key_bytes = 1;
        new.limits.snapshot_bytes = 1;
        new.limits.value_bytes = 1;
        new.limits.http_read_timeout_ms = 1;
        new.limits.http_connections = 1;
        let old = Config::default();
        let (config, reloaded) = plan(&old, &new);
        assert_eq!(changed(&old, &config), reloaded.applied);
        assert_eq!(changed(&config, &new), reloaded.needs_restart);
        assert_eq!(
            reloaded.needs_restart,
            [
                "acl.tokens.initial_management",
                "dns.addr",
                "encrypt",
                "limits.http_connections",
                "node_name",
                "server"
            ]
        );
        assert_eq!(reloaded.applied.len(), RELOADABLE.len());
    }
}
