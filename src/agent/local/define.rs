//! What a service or a check that somebody wrote down means, wherever it was written: pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::service::{Check, Service};
use crate::config::{Config, Invalid};
use crate::secret::Secret;
use crate::state::catalog::{ServiceInfo, Status};

use super::book::{Definition, MAX_OUTPUT, Probe, Tls};

/// The least time between two looks.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// A service is not taken out sooner than this.
const MIN_DEREGISTER_AFTER: Duration = Duration::from_secs(60);

/// Why something cannot be defined so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It means nothing.
    #[error("{0}")]
    Meaningless(String),
    /// This agent is not to do such things.
    #[error("{0}")]
    Forbidden(String),
}

fn bad(reason: impl Into<String>) -> Bad {
    Bad::Meaningless(reason.into())
}

/// A service with its checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The service.
    pub service: ServiceInfo,
    /// Its checks.
    pub checks: Vec<Definition>,
    /// By whose right they are told; empty: the agent's.
    pub token: Secret,
}

/// What the configuration says that there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// Services.
    pub services: Vec<Whole>,
    /// Checks of the node, and of those services.
    pub checks: Vec<(Definition, Secret)>,
}

/// A service as the catalog has it. An id that is not given is the name.
pub fn info(of: Service) -> ServiceInfo {
    let port = of.port();
    let name = if of.service.is_empty() { of.name } else { of.service };
    let addresses = of.taggedaddresses.into_iter();
    ServiceInfo {
        id: if of.id.is_empty() { name.clone() } else { of.id },
        name,
        tags: of.tags,
        address: of.address,
        port,
        meta: of.meta,
        tagged_addresses: addresses.map(|(name, at)| (name, (at.address, at.port))).collect(),
        weights: (of.weights.passing, of.weights.warning),
        enable_tag_override: of.enabletagoverride,
        kind: of.kind,
    }
}

/// A service that somebody tells the catalog of. Weights that make no sense are the usual ones there, as for Consul: its Go
/// client says 0 for what its caller says nothing of.
pub fn told(of: Service) -> ServiceInfo {
    let mut told = info(of);
    if wrong_weights(told.weights).is_some() {
        told.weights = (1, 1);
    }
    told
}

/// What is wrong with the weights while checks pass and while one warns.
fn wrong_weights((passing, warning): (u32, u32)) -> Option<&'static str> {
    if passing == 0 {
        Some("Invalid Weights: Passing must be greater than 0")
    } else if passing.max(warning) > u32::from(u16::MAX) {
        Some("Invalid Weights: DNS Weight must be between 0 and 65535")
    } else {
        None
    }
}

/// What is wrong with a service, whoever tells of it: nobody can reach anything where a server listens that listens
/// everywhere, and of labels there are Consul's limits.
pub fn unfit(service: &ServiceInfo) -> Option<String> {
    const RESERVED: &str = "consul-";
    if matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Some("Invalid service address".to_owned());
    }
    if service.meta.len() > 64 {
        let wrong = "Invalid Service Meta: Node metadata cannot contain more than 64 key/value pairs";
        return Some(wrong.to_owned());
    }
    for (key, value) in &service.meta {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let wrong = match () {
            () if key.is_empty() => "Key cannot be blank",
            () if !key.chars().all(fits) => "Key contains invalid characters",
            () if key.len() > 128 => "Key is too long (limit: 128 characters)",
            () if key.starts_with(RESERVED) => "Key prefix 'consul-' is reserved for internal use",
            () if value.len() > 512 => "Value is too long (limit: 512 characters)",
            () => continue,
        };
        return Some(format!(
            "Invalid Service Meta: Couldn't load metadata pair ('{key}', '{value}'): {wrong}"
        ));
    }
    None
}

/// A service with its checks. `scripts`: whether checks may run programs.
///
/// # Errors
/// What is wrong with it.
pub fn service(mut of: Service, scripts: bool) -> Result<Whole, Bad> {
    let (first, more, token) =
        (of.check.take(), std::mem::take(&mut of.checks), std::mem::take(&mut of.token));
    let service = info(of);
    if service.name.is_empty() {
        return Err(bad("Missing service name"));
    }
    if let Some(why) = unfit(&service) {
        return Err(bad(why));
    }
    if let Some(wrong) = wrong_weights(service.weights) {
        return Err(bad(wrong));
    }
    for (name, (address, _)) in &service.tagged_addresses {
        let family = match name.as_str() {
            "lan_ipv4" | "wan_ipv4" if !matches!(address.parse(), Ok(IpAddr::V4(_))) => "ipv4",
            "lan_ipv6" | "wan_ipv6" if !matches!(address.parse(), Ok(IpAddr::V6(_))) => "ipv6",
            _ => continue,
        };
        return Err(bad(format!("Service tagged address {name:?} must be a valid {family} address")));
    }
    // Some clients always send a check, with nothing in it.
    let written: Vec<Check> =
        first.into_iter().chain(more).filter(|check| *check != Check::default()).collect();
    let several = written.len() > 1;
    let mut checks = Vec::new();
    for (number, written) in (1..).zip(written) {
        let id = if several {
            format!("service:{}:{number}", service.id)
        } else {
            format!("service:{}", service.id)
        };
        let definition = define(written, &id, &format!("Service '{}' check", service.name), scripts)?;
        checks.push(Definition { service_id: service.id.clone(), ..definition });
    }
    Ok(Whole { service, checks, token })
}

/// A check that was written down by itself.
///
/// # Errors
/// What is wrong with it.
pub fn check(of: Check, scripts: bool) -> Result<Definition, Bad> {
    if of.name.is_empty() && of.id.is_empty() && of.checkid.is_empty() {
        return Err(bad("Missing check name"));
    }
    let name = if of.name.is_empty() { of.id.clone() } else { of.name.clone() };
    Ok(Definition { alone: true, ..define(of, "", &name, scripts)? })
}

/// All that the configuration defines.
///
/// # Errors
/// The first that is wrong, by its number.
pub fn configured(config: &Config) -> Result<Configured, Invalid> {
    let scripts = config.enable_script_checks;
    let mut found = Configured::default();
    let (mut services, mut checks) = (BTreeSet::new(), BTreeSet::new());
    for (number, of) in (1..).zip(&config.services) {
        let invalid =
            |reason: String| Invalid { key: "services", reason: format!("number {number}: {reason}") };
        let whole = service(of.clone(), scripts).map_err(|error| invalid(error.to_string()))?;
        if !services.insert(whole.service.id.clone()) {
            return Err(invalid(format!("there is another service with the id {:?}", whole.service.id)));
        }
        if let Some(twin) = whole.checks.iter().find(|check| !checks.insert(check.id.clone())) {
            return Err(invalid(format!("there is another check with the id {:?}", twin.id)));
        }
        found.services.push(whole);
    }
    for (number, of) in (1..).zip(&config.checks) {
        let invalid =
            |reason: String| Invalid { key: "checks", reason: format!("number {number}: {reason}") };
        let definition = check(of.clone(), scripts).map_err(|error| invalid(error.to_string()))?;
        if !checks.insert(definition.id.clone()) {
            return Err(invalid(format!("there is another check with the id {:?}", definition.id)));
        }
        let of_service = &definition.service_id;
        if !of_service.is_empty() && !services.contains(of_service) {
            return Err(invalid(format!(
                "there is no service with the id {of_service:?} in the configuration"
            )));
        }
        found.checks.push((definition, of.token.clone()));
    }
    Ok(found)
}

/// How a check finds out. One that names several ways is not refused by Consul, which takes the first in this order.
fn probe(of: &Check) -> Result<Option<Probe>, Bad> {
    let unsupported = [
        ("DockerContainerID", &of.dockercontainerid),
        ("UDP", &of.udp),
        ("OSService", &of.osservice),
        ("Script", &of.script),
    ];
    if let Some((name, _)) = unsupported.iter().find(|(_, value)| !value.is_empty()) {
        return Err(bad(format!(
            "{name} checks are not supported: use TTL, HTTP, TCP, GRPC, H2PING, Args, or an alias"
        )));
    }
    let tls = Tls { server_name: of.tlsservername.clone(), unverified: of.tlsskipverify };
    let args = if of.args.is_empty() { &of.scriptargs } else { &of.args };
    let probe = if !of.http.is_empty() {
        if !of.http.starts_with("http://") && !of.http.starts_with("https://") {
            return Err(bad(format!(
                "Invalid HTTP check {:?}: want an address that begins with http:// or https://",
                of.http
            )));
        }
        let headers = of.header.iter();
        let headers = headers.flat_map(|(name, values)| {
            values.iter().map(move |value| (name.clone(), value.expose().to_owned()))
        });
        Probe::Http {
            url: of.http.clone(),
            method: if of.method.is_empty() { "GET".to_owned() } else { of.method.clone() },
            headers: headers.collect(),
            body: of.body.clone(),
            server_name: of.tlsservername.clone(),
            unverified: of.tlsskipverify,
            stays: of.disableredirects,
        }
    } else if !of.tcp.is_empty() && of.tcpusetls {
        Probe::Tls { address: of.tcp.clone(), tls }
    } else if !of.tcp.is_empty() {
        Probe::Tcp(of.tcp.clone())
    } else if !of.grpc.is_empty() {
        let (address, service) = of.grpc.split_once('/').unwrap_or((&of.grpc, ""));
        let (address, service) = (address.to_owned(), service.to_owned());
        Probe::Grpc { address, service, tls: of.grpcusetls.then_some(tls) }
    } else if !args.is_empty() {
        Probe::Script(args.clone())
    } else if !of.h2ping.is_empty() {
        Probe::H2Ping { address: of.h2ping.clone(), tls: of.h2pingusetls.unwrap_or(true).then_some(tls) }
    } else if !of.aliasservice.is_empty() || !of.aliasnode.is_empty() {
        let node = (!of.aliasnode.is_empty()).then(|| of.aliasnode.clone());
        Probe::Alias { node, service: of.aliasservice.clone() }
    } else if let Some(ttl) = of.ttl.given() {
        Probe::Ttl(ttl)
    } else {
        return Ok(None);
    };
    Ok(Some(probe))
}

/// What a check means. `default_id` and `default_name` stand for what is not given.
fn define(of: Check, default_id: &str, default_name: &str, scripts: bool) -> Result<Definition, Bad> {
    let probe = probe(&of)?.ok_or_else(|| {
        bad("Invalid check: must be one of TTL, HTTP, TCP, GRPC, H2PING, Args, AliasNode or AliasService types")
    })?;
    if matches!(probe, Probe::Script(_)) && !scripts {
        return Err(Bad::Forbidden(
            "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' to true"
                .to_owned(),
        ));
    }
    let looks = probe.looks();
    let follows = !of.aliasservice.is_empty() || !of.aliasnode.is_empty();
    let (interval, ttl) = (of.interval.given(), of.ttl.given());
    let contradiction = match () {
        () if interval.is_some() && ttl.is_some() => Some("Interval and TTL cannot both be specified"),
        () if looks && interval.is_none() => {
            Some("Interval must be > 0 for Script, HTTP, TCP, GRPC, or H2PING checks")
        }
        () if looks && follows => Some("Interval cannot be set for Alias checks"),
        () if of.failuresbeforewarning > of.failuresbeforecritical => {
            Some("FailuresBeforeWarning can't be higher than FailuresBeforeCritical")
        }
        () if follows && ttl.is_some() => Some("TTL must be not be set for Alias checks"),
        () => None,
    };
    if let Some(reason) = contradiction {
        return Err(bad(format!("Invalid check: {reason}")));
    }
    let initial = match of.status.as_str() {
        "" => Status::Critical,
        word => Status::of_word(word).ok_or_else(|| {
            // Consul has words of their own for the checks of a service.
            let of_service = "Status for checks must 'passing', 'warning', 'critical'";
            bad(if default_id.is_empty() { "Bad check status" } else { of_service })
        })?,
    };
    let slow = if matches!(probe, Probe::Script(_)) { 30 } else { 10 };
    let id = [of.checkid, of.id, default_id.to_owned()].into_iter().find(|id| !id.is_empty());
    let name = if of.name.is_empty() { default_name.to_owned() } else { of.name };
    let deregister_after = of.deregistercriticalserviceafter.given();
    Ok(Definition {
        id: id.unwrap_or_else(|| name.clone()),
        name,
        notes: of.notes,
        service_id: of.serviceid,
        initial,
        probe: Some(probe),
        interval: interval.unwrap_or_default().max(MIN_INTERVAL),
        timeout: of.timeout.given().unwrap_or(Duration::from_secs(slow)),
        deregister_after: deregister_after.map(|after| after.max(MIN_DEREGISTER_AFTER)),
        success_before_passing: of.successbeforepassing,
        failures_before_warning: match of.failuresbeforewarning {
            0 => of.failuresbeforecritical,
            given => given,
        },
        failures_before_critical: of.failuresbeforecritical,
        max_output: match of.outputmaxsize {
            0 => MAX_OUTPUT,
            given => given.min(MAX_OUTPUT),
        },
        alone: false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(config: Value) -> Result<Configured, String> {
        let config: Config = serde_json::from_value(config).map_err(|error| error.to_string())?;
        configured(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn services_and_checks_of_a_file_are_those_of_a_request() {
        let found = of(json!({
            "enable_script_checks": true,
            "services": [
                { "name": "web", "port": 80, "token": "t", "checks": [
                    { "http": "http://127.0.0.1:80/", "interval": "10s" },
                    { "id": "own", "ttl": "30s" },
                ] },
                { "name": "web", "id": "web-2", "check": { "args": ["true"], "interval": "100ms" } },
            ],
            "checks": [{ "name": "disk", "ttl": "1m" }, { "id": "extra", "service_id": "web", "tcp": "a:1", "interval": "1s" }],
        }))
        .unwrap();
        let ids = |whole: &Whole| whole.checks.iter().map(|check| check.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&found.services[0]), ["service:web:1", "own"]);
        assert_eq!(found.services[0].token, Secret::new("t"));
        assert_eq!(ids(&found.services[1]), ["service:web-2"]);
        assert_eq!(found.services[1].checks[0].interval, MIN_INTERVAL);
        let lone: Vec<(&str, &str)> =
            found.checks.iter().map(|(check, _)| (check.id.as_str(), check.service_id.as_str())).collect();
        assert_eq!(lone, [("disk", ""), ("extra", "web")]);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_number() {
        let wrong = |config| of(config).unwrap_err();
        let twin = json!({ "name": "a" });
        for (config, said) in [
            (json!({ "services": [twin, twin] }), "number 2: there is another service with the id \"a\""),
            (json!({ "services": [{ "port": 1 }] }), "number 1: Missing service name"),
            (
                json!({ "checks": [{ "name": "a", "service_id": "b", "ttl": "1s" }] }),
                "no service with the id \"b\"",
            ),
            (json!({ "checks": [{ "name": "a", "args": ["x"], "interval": "1s" }] }), "Scripts are disabled"),
            (json!({ "checks": [{ "name": "a", "udp": "x" }] }), "number 1: UDP checks are not supported"),
            (json!({ "services": [{ "nane": "a" }] }), "number 1: the key nane is unknown"),
        ] {
            assert!(wrong(config).contains(said), "{said}");
        }
    }

    #[test]
    fn of_several_ways_to_find_out_the_first_counts() {
        let all = [
            ("http", json!("http://a/")),
            ("tcp", json!("a:1")),
            ("grpc", json!("a:1")),
            ("args", json!(["true"])),
            ("h2ping", json!("a:1")),
        ];
        for first in 0..all.len() {
            let mut check = json!({ "name": "a", "interval": "1s" });
            for (name, value) in &all[first..] {
                check[*name] = value.clone();
            }
            let check: Check = serde_json::from_value(check).unwrap();
            let taken = match probe(&check).unwrap().unwrap() {
                Probe::Http { .. } => "http",
                Probe::Tcp(_) | Probe::Tls { .. } => "tcp",
                Probe::Grpc { .. } => "grpc",
                Probe::Script(_) => "args",
                Probe::H2Ping { .. } => "h2ping",
                other => panic!("{other:?}"),
            };
            assert_eq!(taken, all[first].0);
        }
    }

    #[test]
    fn a_check_finds_out_in_one_way() {
        let said = |check: Value| {
            let service = json!({ "services": [{ "name": "web", "check": check }] });
            of(service).map(|found| found.services[0].checks.len())
        };
        for (check, expected) in [
            (json!({}), Ok(0)),
            (json!({ "interval": "" }), Ok(0)),
            (json!({ "ttl": "1s" }), Ok(1)),
            (json!({ "http": "https://a/", "interval": "1s", "tls_skip_verify": true }), Ok(1)),
            (json!({ "grpc": "a:1/web", "interval": "1s" }), Ok(1)),
            (json!({ "h2ping": "a:1", "interval": "1s" }), Ok(1)),
            (json!({ "grpc": "a:1/web" }), Err("Interval must be > 0")),
            (
                json!({ "h2ping": "a:1", "interval": "1s", "failures_before_warning": 2 }),
                Err("FailuresBeforeWarning can't be higher"),
            ),
            (json!({ "interval": "1s" }), Err("must be one of")),
            (json!({ "name": "a" }), Err("must be one of")),
            (json!({ "ttl": "1s", "interval": "1s" }), Err("Interval and TTL cannot both be specified")),
            (
                json!({ "ttl": "1s", "http": "http://a/", "interval": "1s" }),
                Err("Interval and TTL cannot both be specified"),
            ),
            (json!({ "ttl": "1s", "tcp": "a:1" }), Err("Interval must be > 0")),
            (
                json!({ "tcp": "a:1", "interval": "1s", "alias_service": "b" }),
                Err("Interval cannot be set for Alias checks"),
            ),
            (json!({ "ttl": "1s", "alias_service": "b" }), Err("TTL must be not be set for Alias checks")),
            (json!({ "http": "ftp://a/", "interval": "1s" }), Err("http:// or https://")),
            (json!({ "ttl": "1s", "status": "fluffy" }), Err("Status for checks must")),
        ] {
            match (said(check.clone()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{check}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{check}: {found}"),
                (found, _) => panic!("{check}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_verb_is_sent_as_it_is_written() {
        let verb = |check: Value| match probe(&serde_json::from_value(check).unwrap()) {
            Ok(Some(Probe::Http { method, .. })) => method,
            other => panic!("{other:?}"),
        };
        assert_eq!(verb(json!({ "http": "http://a/", "method": "abc" })), "abc");
        assert_eq!(verb(json!({ "http": "http://a/" })), "GET");
    }

    #[test]
    fn an_address_of_a_family_is_one() {
        let taken = |name: &str, address: &str| {
            let of = json!({ "name": "a", "taggedaddresses": { name: { "address": address, "port": 1 } } });
            service(serde_json::from_value(of).unwrap(), false).map(drop).map_err(|bad| bad.to_string())
        };
        assert_eq!(taken("lan_ipv4", "10.0.0.1"), Ok(()));
        assert_eq!(taken("wan_ipv6", "::1"), Ok(()));
        assert_eq!(taken("lan", "db.internal"), Ok(()));
        let refused = "Service tagged address \"lan_ipv4\" must be a valid ipv4 address".to_owned();
        assert_eq!(taken("lan_ipv4", "::1"), Err(refused));
    }
}
