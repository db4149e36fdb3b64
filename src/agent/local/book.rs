//! What an agent says of itself: its services, its checks, and what of that the catalog has not heard.
//!
//! Pure data. The agent is the source of truth for its own node: [`Book::full_plan`] compares with what the
//! catalog holds and says what to write there; [`Book::partial_plan`] says it for what changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::duration::show_duration;
use crate::env::Instant;
use crate::mutant;
use crate::state::CatalogCommand;
use crate::state::catalog::{CheckInfo, NodeInfo, Registration, SERF_HEALTH, ServiceInfo, Status, WholeNode};

/// What a check passes on at most of what it is told, gets as an answer or reads of a program, in bytes, unless it is to be
/// less; the rest is left out.
pub const MAX_OUTPUT: usize = 4096;
/// What a check says at most, with what is said around that. Who looks at each other's checks repeats what the other says.
const LONGEST: usize = 2 * MAX_OUTPUT;

/// The service that servers themselves are; the leader registers it.
pub const CONSUL_SERVICE: &str = "consul";

/// What a certificate must prove to a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The name that it must have; empty: the host's.
    pub server_name: String,
    /// Whether any certificate will do.
    pub unverified: bool,
}

/// How a check finds out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// It is told; silence for longer than this is critical.
    Ttl(Duration),
    /// A request by HTTP: 2xx passes, 429 warns, anything else is critical.
    Http {
        /// The address, `http://…` or `https://…`.
        url: String,
        /// The verb.
        method: String,
        /// Headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
        /// The name that a certificate must have; empty: the host's.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        server_name: String,
        /// Whether any certificate will do.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unverified: bool,
        /// Whether an answer that refers to another address is the answer, instead of what that address says.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stays: bool,
    },
    /// A connection: whether there is one.
    Tcp(String),
    /// The health protocol of gRPC.
    Grpc {
        /// The server, `HOST:PORT`.
        address: String,
        /// The service; empty: the server as a whole.
        service: String,
        /// How TLS protects it, if it does.
        tls: Option<Tls>,
    },
    /// A ping of HTTP/2.
    H2Ping {
        /// Whom it pings, `HOST:PORT`.
        address: String,
        /// How TLS protects it, if it does.
        tls: Option<Tls>,
    },
    /// A program: exit code 0 passes, 1 warns, anything else is critical.
    Script(Vec<String>),
    /// The worst of another service's checks, on this node or another.
    Alias {
        /// The node; none is this one.
        node: Option<String>,
        /// The service's id; empty: the node itself.
        service: String,
    },
    /// A connection by TLS: whether there is one, and who is there can prove it.
    Tls {
        /// Where, `HOST:PORT`.
        address: String,
        /// What must be proved.
        tls: Tls,
    },
}

impl Probe {
    /// The word for it in the catalog.
    pub fn kind(&self) -> &'static str {
        match self {
            Probe::Ttl(_) => "ttl",
            Probe::Http { .. } => "http",
            Probe::Tcp(_) | Probe::Tls { .. } => "tcp",
            Probe::Grpc { .. } => "grpc",
            Probe::H2Ping { .. } => "h2ping",
            Probe::Script(_) => "script",
            Probe::Alias { .. } => "alias",
        }
    }

    /// Whether it looks by itself, every interval.
    pub fn looks(&self) -> bool {
        match self {
            Probe::Http { .. }
            | Probe::Tcp(_)
            | Probe::Tls { .. }
            | Probe::Grpc { .. }
            | Probe::H2Ping { .. }
            | Probe::Script(_) => true,
            Probe::Ttl(_) | Probe::Alias { .. } => false,
        }
    }
}

/// A check as it was defined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its id on this node.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is about, for people.
    pub notes: String,
    /// The service it is about; empty: the node.
    pub service_id: String,
    /// What it says before it has found anything.
    pub initial: Status,
    /// How it finds out; none for one that only stands there.
    pub probe: Option<Probe>,
    /// How often.
    pub interval: Duration,
    /// How long it waits.
    pub timeout: Duration,
    /// Its service is taken out when it has been critical for so long.
    pub deregister_after: Option<Duration>,
    /// So many passes in a row until it passes.
    pub success_before_passing: u32,
    /// So many failures in a row until it warns.
    #[serde(default)]
    pub failures_before_warning: u32,
    /// So many failures in a row until it is critical.
    pub failures_before_critical: u32,
    /// What it says at most, in bytes.
    #[serde(default = "max_output")]
    pub max_output: usize,
    /// Whether it was written down by itself, and not in the list of a service.
    #[serde(default)]
    pub alone: bool,
}

fn max_output() -> usize {
    MAX_OUTPUT
}

/// A check and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCheck {
    /// What it is.
    pub definition: Definition,
    /// What counts.
    pub status: Status,
    /// What it said last.
    pub output: String,
    successes: u32,
    failures: u32,
    critical_since: Option<Instant>,
    /// When the time of what it was told is over.
    over_at: Option<Instant>,
    /// Until when what it was told counts, by the wall clock; only to be kept for the next life.
    told_until: Option<Duration>,
}

impl OwnCheck {
    /// Until when what it was told counts, by the wall clock, if it was told something and that still counts.
    pub fn told_until(&self) -> Option<Duration> {
        self.told_until
    }

    /// How the catalog has it.
    pub fn info(&self) -> CheckInfo {
        let definition = &self.definition;
        let timed = definition.probe.as_ref().is_some_and(Probe::looks);
        let shown = |duration: Duration| match (timed, definition.alone) {
            (true, _) => show_duration(duration),
            // Of what there is none of, Consul says so of the one kind of check, and nothing of the other.
            (false, true) => show_duration(Duration::ZERO),
            (false, false) => String::new(),
        };
        CheckInfo {
            id: definition.id.clone(),
            name: definition.name.clone(),
            status: self.status,
            notes: definition.notes.clone(),
            output: self.output.clone(),
            service_id: definition.service_id.clone(),
            kind: definition.probe.as_ref().map_or("maintenance", Probe::kind).to_owned(),
            interval: shown(definition.interval),
            timeout: shown(definition.timeout),
        }
    }
}

/// Something that the catalog has to hear of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// A service, by id.
    Service(String),
    /// A check, by id.
    Check(String),
}

/// The agent's own services and checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// What the configuration defines; the rest was registered.
    configured: BTreeSet<Item>,
    services: BTreeMap<String, ServiceInfo>,
    checks: BTreeMap<String, OwnCheck>,
    /// What changed. What is here and in no table was removed.
    dirty: Dirty,
}

/// What changed since somebody was last told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Dirty {
    /// What the catalog was not told yet.
    untold: BTreeSet<Item>,
    /// What may not be on disk as it is here. All that the catalog hears of is kept, and more: until when something counts.
    unsaved: BTreeSet<Item>,
}

impl Dirty {
    /// What both have to hear of.
    fn insert(&mut self, item: Item) {
        self.unsaved.insert(item.clone());
        self.untold.insert(item);
    }
}

/// There is no such service or check here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No such service.
    #[error("Unknown service ID {0:?}. Ensure that the service ID is passed, not the service name.")]
    Service(String),
    /// No such check.
    #[error("Unknown check ID {0:?}. Ensure that the check ID is passed, not the check name.")]
    Check(String),
    /// It is there, and is told nothing: it looks for itself.
    #[error("CheckID {0:?} does not have associated TTL")]
    NotTold(String),
}

/// The end of what a program wrote, of which the rest is left out. (In Consul's words, as all of these.)
pub fn captured(end: &str, written: usize) -> String {
    format!("Captured {} of {written} bytes\n...\n{end}", end.len())
}

/// At most so much of what a program wrote, counted from the end. It may be [an end](captured) already.
pub fn last(output: String, max: usize) -> String {
    let is_end = || {
        let (note, end) = output.split_once("\n...\n")?;
        let (_, written) = note.strip_prefix("Captured ")?.strip_suffix(" bytes")?.split_once(" of ")?;
        Some((end, written.parse().ok()?))
    };
    let (end, written) = is_end().unwrap_or((&output, output.len()));
    if end.len() <= max {
        return output;
    }
    let mut from = end.len() - max;
    while !end.is_char_boundary(from) {
        from += 1;
    }
    captured(&end[from..], written)
}

/// At most so much of what a check was told. It may have been cut already, and kept on disk since.
fn shortened(text: String, max: usize) -> String {
    const NOTE: &str = " ... (captured ";
    let is_shortened = || {
        let (kept, note) = text.rsplit_once(NOTE)?;
        let (of, written) = note.strip_suffix(" bytes)")?.split_once(" of ")?;
        let written: usize = written.parse().ok()?;
        Some(kept.len() <= max && of.parse() == Ok(kept.len()) && written > max)
    };
    if text.len() <= max || is_shortened() == Some(true) {
        return text;
    }
    let written = text.len();
    let kept = cut(text, max);
    format!("{kept}{NOTE}{} of {written} bytes)", kept.len())
}

/// The beginning of a text, at most so much.
pub(super) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

impl Book {
    /// The services by id.
    pub fn services(&self) -> &BTreeMap<String, ServiceInfo> {
        &self.services
    }

    /// The checks by id.
    pub fn checks(&self) -> &BTreeMap<String, OwnCheck> {
        &self.checks
    }

    /// Whether the configuration defines it.
    pub fn is_configured(&self, item: &Item) -> bool {
        self.configured.contains(item)
    }

    /// From now on the configuration defines these. Gives what it defined before and does not any more.
    pub fn configure(&mut self, items: BTreeSet<Item>) -> Vec<Item> {
        let before = std::mem::replace(&mut self.configured, items);
        // What is the configuration's is not kept on disk.
        self.dirty.unsaved.extend(before.symmetric_difference(&self.configured).cloned());
        before.difference(&self.configured).cloned().collect()
    }

    /// Adds a service, or replaces it. What the configuration had there is registered from now on.
    pub fn set_service(&mut self, service: ServiceInfo) {
        let item = Item::Service(service.id.clone());
        self.configured.remove(&item);
        // By whose right it is may be another now, and is kept with it.
        self.dirty.unsaved.insert(item.clone());
        // Those who register again and again what is there tell the catalog nothing.
        if self.services.get(&service.id) != Some(&service) {
            self.dirty.untold.insert(item);
            self.services.insert(service.id.clone(), service);
        }
    }

    /// Removes a service and its checks. Gives the ids of the checks.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_service(&mut self, id: &str) -> Result<Vec<String>, Unknown> {
        if self.services.remove(id).is_none() {
            return Err(Unknown::Service(id.to_owned()));
        }
        self.configured.remove(&Item::Service(id.to_owned()));
        self.dirty.insert(Item::Service(id.to_owned()));
        let own = self.checks.values().filter(|check| check.definition.service_id == id);
        let own: Vec<String> = own.map(|check| check.definition.id.clone()).collect();
        for check in &own {
            self.configured.remove(&Item::Check(check.clone()));
            self.checks.remove(check);
            self.dirty.insert(Item::Check(check.clone()));
        }
        Ok(own)
    }

    /// Adds a check, or replaces it: whatever it is from now on, it stands as the one did that had its id. A definition
    /// that changes is no news of what it is about, and sessions may rest on that.
    ///
    /// # Errors
    /// When its service is not there.
    pub fn set_check(&mut self, definition: Definition, now: Instant) -> Result<(), Unknown> {
        let service = &definition.service_id;
        if !service.is_empty() && !self.services.contains_key(service) {
            return Err(Unknown::Service(service.clone()));
        }
        let id = definition.id.clone();
        self.configured.remove(&Item::Check(id.clone()));
        let ttl = match definition.probe {
            Some(Probe::Ttl(ttl)) => Some(ttl),
            _ => None,
        };
        let over_at = ttl.map(|ttl| now + ttl);
        let known = self.checks.remove(&id);
        let looked = known.as_ref().map(OwnCheck::info);
        let check = match known {
            Some(known) if known.definition == definition => OwnCheck { over_at, ..known },
            // What its thresholds are was counted for may be another thing now.
            Some(known) => OwnCheck {
                definition,
                successes: 0,
                failures: 0,
                over_at,
                told_until: known.told_until.filter(|_| ttl.is_some()),
                ..known
            },
            None => OwnCheck {
                status: definition.initial,
                critical_since: (definition.initial == Status::Critical).then_some(now),
                output: String::new(),
                // What it finds first counts at once, as in Consul: nothing was known that could be doubted.
                successes: definition.success_before_passing,
                failures: definition.failures_before_critical,
                definition,
                over_at,
                told_until: None,
            },
        };
        let item = Item::Check(id.clone());
        self.dirty.unsaved.insert(item.clone());
        if looked.as_ref() != Some(&check.info()) {
            self.dirty.untold.insert(item);
        }
        self.checks.insert(id, check);
        Ok(())
    }

    /// What a check was told counts until then, by the wall clock; nothing: it does not count any more.
    pub fn counts_until(&mut self, id: &str, until: Option<Duration>) {
        if let Some(check) = self.checks.get_mut(id) {
            check.told_until = until;
            self.dirty.unsaved.insert(Item::Check(id.to_owned()));
        }
    }

    /// A check of an earlier life is back: it is critical until it is known to be otherwise, whatever a new one
    /// would be.
    pub fn doubt(&mut self, id: &str, now: Instant) {
        if let Some(check) = self.checks.get_mut(id).filter(|check| check.status != Status::Critical) {
            check.status = Status::Critical;
            check.critical_since = Some(now);
            self.dirty.insert(Item::Check(id.to_owned()));
        }
    }

    /// Removes a check.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_check(&mut self, id: &str) -> Result<(), Unknown> {
        if self.checks.remove(id).is_none() {
            return Err(Unknown::Check(id.to_owned()));
        }
        self.configured.remove(&Item::Check(id.to_owned()));
        self.dirty.insert(Item::Check(id.to_owned()));
        Ok(())
    }

    /// A check was told how things are.
    ///
    /// # Errors
    /// When there is none, or it is told nothing.
    pub fn tell(&mut self, id: &str, status: Status, output: String, now: Instant) -> Result<(), Unknown> {
        match self.checks.get(id) {
            None => Err(Unknown::Check(id.to_owned())),
            Some(OwnCheck {
                definition: Definition { probe: Some(Probe::Ttl(ttl)), max_output, .. },
                ..
            }) => {
                let ttl = *ttl;
                let output = shortened(output, *max_output);
                self.found(id, status, output, now);
                self.counts_for(id, ttl, now);
                Ok(())
            }
            Some(_) => Err(Unknown::NotTold(id.to_owned())),
        }
    }

    /// What a check was told counts for so long from now on.
    pub fn counts_for(&mut self, id: &str, left: Duration, now: Instant) {
        if let Some(check) = self.checks.get_mut(id) {
            check.over_at = Some(now + left);
        }
    }

    /// Makes a check critical if the time of what it was told is over. If it was told something at the last moment, that
    /// counts. Whether it stands otherwise now.
    pub fn expire(&mut self, id: &str, now: Instant) -> bool {
        let Some(check) = self.checks.get_mut(id) else { return false };
        if check.over_at.is_none_or(|over_at| over_at > now) {
            return false;
        }
        check.told_until = None;
        self.dirty.unsaved.insert(Item::Check(id.to_owned()));
        let output = match check.output.as_str() {
            "" => "TTL expired".to_owned(),
            // It was registered again since, and told nothing.
            last if last.starts_with("TTL expired") => last.to_owned(),
            last => format!("TTL expired (last output before timeout follows): {last}"),
        };
        self.found(id, Status::Critical, output, now)
    }

    /// A check found out how things are. Counts towards its thresholds. Whether it stands otherwise now.
    pub fn found(&mut self, id: &str, found: Status, output: String, now: Instant) -> bool {
        let Some(check) = self.checks.get_mut(id) else { return false };
        let output = cut(output, LONGEST);
        let critical = found == Status::Critical;
        check.successes = if critical { 0 } else { check.successes.saturating_add(1) };
        check.failures = if critical { check.failures.saturating_add(1) } else { 0 };
        let definition = &check.definition;
        let told = matches!(definition.probe, Some(Probe::Ttl(_)));
        let status = match found {
            // Who is told how things are does not wait to be told again.
            found if !definition.probe.as_ref().is_some_and(Probe::looks) => found,
            Status::Critical if check.failures >= definition.failures_before_critical => found,
            Status::Critical if check.failures >= definition.failures_before_warning => Status::Warning,
            Status::Passing | Status::Warning if check.successes >= definition.success_before_passing => {
                found
            }
            // Too few in a row: it is as if nothing had been found.
            _ => return false,
        };
        let turns = status != check.status;
        if !turns && output == check.output {
            return false;
        }
        // Output alone is told with the next comparison: a chatty check must not write all the time.
        if turns {
            self.dirty.insert(Item::Check(id.to_owned()));
        } else if told {
            self.dirty.unsaved.insert(Item::Check(id.to_owned()));
        }
        check.critical_since = match (status, check.critical_since) {
            (Status::Critical, None) => Some(now),
            (Status::Critical, since) => since,
            _ => None,
        };
        check.status = status;
        check.output = output;
        turns
    }

    /// The services whose checks have been critical for longer than they allow.
    pub fn overdue(&self, now: Instant) -> BTreeSet<String> {
        let overdue = self.checks.values().filter(|check| {
            let since = check.critical_since.map(|since| now.since(since));
            since.zip(check.definition.deregister_after).is_some_and(|(since, limit)| since > limit)
        });
        let services = overdue.map(|check| check.definition.service_id.clone());
        services.filter(|id| !id.is_empty()).collect()
    }

    /// The checks that speak for a service: its own, and the node's. With an empty id, the node's.
    pub fn checks_for(&self, service_id: &str) -> impl Iterator<Item = &OwnCheck> {
        self.checks.values().filter(move |check| {
            let of = &check.definition.service_id;
            of.is_empty() || of == service_id
        })
    }

    fn register_service(&self, node: &NodeInfo, service: &ServiceInfo) -> CatalogCommand {
        let own = self.checks.values().filter(|check| check.definition.service_id == service.id);
        let registration = Registration {
            node: node.clone(),
            skip_node_update: false,
            service: Some(service.clone()),
            checks: own.map(OwnCheck::info).collect(),
        };
        registration.into()
    }

    fn register_check(node: &NodeInfo, check: &OwnCheck) -> CatalogCommand {
        let checks = vec![check.info()];
        Registration { node: node.clone(), skip_node_update: false, service: None, checks }.into()
    }

    /// What to write so that the catalog says what is so: everything that differs is told, everything under this
    /// node that is not known here is removed. Tags that others may override are taken over first.
    pub fn full_plan(&mut self, node: &NodeInfo, remote: Option<&WholeNode>) -> Vec<CatalogCommand> {
        let mut plan = Vec::new();
        let remote_services: BTreeMap<&str, &ServiceInfo> = remote
            .iter()
            .flat_map(|whole| &whole.services)
            .map(|row| (row.info.id.as_str(), &row.info))
            .collect();
        let remote_checks: BTreeMap<&str, &CheckInfo> = remote
            .iter()
            .flat_map(|whole| &whole.checks)
            .map(|row| (row.check.info.id.as_str(), &row.check.info))
            .collect();
        for service in self.services.values_mut().filter(|service| service.enable_tag_override) {
            if let Some(theirs) = remote_services.get(service.id.as_str())
                && service.tags != theirs.tags
            {
                service.tags = theirs.tags.clone();
                self.dirty.unsaved.insert(Item::Service(service.id.clone()));
            }
        }
        if remote.is_none_or(|whole| whole.node.info != *node) {
            let (node, checks) = (node.clone(), Vec::new());
            plan.push(Registration { node, skip_node_update: false, service: None, checks }.into());
        }
        for service in self.services.values() {
            if remote_services.get(service.id.as_str()) != Some(&service) {
                plan.push(self.register_service(node, service));
            }
        }
        for check in self.checks.values() {
            let theirs = remote_checks.get(check.definition.id.as_str());
            // Mutant C10: nobody looks how it stands.
            if theirs != Some(&&check.info()) && !(mutant::is("C10") && theirs.is_some()) {
                plan.push(Book::register_check(node, check));
            }
        }
        // Mutant C08: nothing is taken out.
        if mutant::is("C08") {
            return plan;
        }
        // Mutant C09: what is there is believed.
        if mutant::is("C09") {
            let theirs = remote_services.iter().filter(|(id, _)| **id != CONSUL_SERVICE);
            for (id, theirs) in theirs {
                self.services.entry((*id).to_owned()).or_insert_with(|| (*theirs).clone());
                self.dirty.unsaved.insert(Item::Service((*id).to_owned()));
            }
        }
        for id in remote_services.keys().filter(|id| **id != CONSUL_SERVICE) {
            if !self.services.contains_key(*id) {
                let id = (*id).to_owned();
                plan.push(CatalogCommand::DeregisterService { node: node.name.clone(), id });
            }
        }
        for (id, check) in remote_checks.iter().filter(|(id, _)| **id != SERF_HEALTH) {
            // Those of a service go with it.
            let goes = !check.service_id.is_empty() && !self.services.contains_key(&check.service_id);
            if !self.checks.contains_key(*id) && !goes {
                let id = (*id).to_owned();
                plan.push(CatalogCommand::DeregisterCheck { node: node.name.clone(), id });
            }
        }
        plan
    }

    /// What to write of the changes that were not told yet.
    pub fn partial_plan(&self, node: &NodeInfo) -> Vec<CatalogCommand> {
        let told = |item: &Item| match item {
            Item::Service(id) => match self.services.get(id) {
                Some(service) => self.register_service(node, service),
                None => CatalogCommand::DeregisterService { node: node.name.clone(), id: id.clone() },
            },
            Item::Check(id) => match self.checks.get(id) {
                Some(check) => Book::register_check(node, check),
                None => CatalogCommand::DeregisterCheck { node: node.name.clone(), id: id.clone() },
            },
        };
        // Services come first: a check needs its own.
        self.dirty.untold.iter().map(told).collect()
    }

    /// What is to be told, to be [given back](Book::not_told) if telling fails.
    pub fn take_dirty(&mut self) -> BTreeSet<Item> {
        std::mem::take(&mut self.dirty.untold)
    }

    /// Telling failed.
    pub fn not_told(&mut self, items: BTreeSet<Item>) {
        self.dirty.untold.extend(items);
    }

    /// What may not be on disk as it is here, to be [given back](Book::not_saved) if writing fails.
    pub fn take_unsaved(&mut self) -> BTreeSet<Item> {
        std::mem::take(&mut self.dirty.unsaved)
    }

    /// Writing failed.
    pub fn not_saved(&mut self, items: BTreeSet<Item>) {
        self.dirty.unsaved.extend(items);
    }
}

/// How many times longer than usual the whole is compared, in a cluster of so many nodes: twice as long
/// for each doubling beyond 128, so that the servers' work stays bounded.
pub fn scale(nodes: usize) -> u32 {
    const THRESHOLD: u64 = 128;
    let nodes = nodes as u64;
    if nodes <= THRESHOLD {
        return 1;
    }
    // ceil(log2(nodes) - log2(128)) + 1
    nodes.div_ceil(THRESHOLD).next_power_of_two().ilog2() + 1
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::state::catalog::OneNode;
    use crate::state::{Command, Request, RequestId, State, query::Asked};
    use proptest::prelude::*;

    fn node() -> NodeInfo {
        NodeInfo { name: "me".into(), address: "10.0.0.1".into(), ..NodeInfo::default() }
    }

    fn service(id: &str, tag: &str) -> ServiceInfo {
        ServiceInfo {
            id: id.into(),
            name: id.into(),
            tags: vec![tag.into()],
            weights: (1, 1),
            ..Default::default()
        }
    }

    pub fn definition(id: &str, service_id: &str) -> Definition {
        Definition {
            id: id.into(),
            name: id.into(),
            notes: String::new(),
            service_id: service_id.into(),
            initial: Status::Critical,
            probe: Some(Probe::Ttl(Duration::from_secs(1))),
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            deregister_after: Some(Duration::from_secs(60)),
            success_before_passing: 0,
            failures_before_warning: 0,
            failures_before_critical: 0,
            max_output: MAX_OUTPUT,
            alone: false,
        }
    }

    fn looking(id: &str) -> Definition {
        Definition { probe: Some(Probe::Tcp("a:1".to_owned())), ..definition(id, "") }
    }

    #[test]
    fn failures_warn_before_they_are_critical() {
        let mut book = Book::default();
        let of = Definition { failures_before_warning: 2, failures_before_critical: 3, ..looking("c") };
        book.set_check(Definition { initial: Status::Passing, ..of }, Instant(0)).unwrap();
        let mut seen = Vec::new();
        book.found("c", Status::Passing, String::new(), Instant(0));
        for found in [Status::Critical; 4].into_iter().chain([Status::Passing]) {
            book.found("c", found, String::new(), Instant(0));
            seen.push(book.checks()["c"].status);
        }
        use Status::{Critical, Passing, Warning};
        assert_eq!(seen, [Passing, Warning, Critical, Critical, Passing]);
    }

    #[test]
    fn the_interval_grows_with_the_cluster() {
        for (nodes, expected) in
            [(1, 1), (128, 1), (129, 2), (256, 2), (257, 3), (512, 3), (513, 4), (1024, 4)]
        {
            assert_eq!(scale(nodes), expected, "{nodes}");
        }
    }

    #[test]
    fn thresholds_are_counted_in_a_row() {
        let mut book = Book::default();
        let of = Definition {
            success_before_passing: 2,
            failures_before_warning: 2,
            failures_before_critical: 2,
            ..looking("c")
        };
        book.set_check(of, Instant(0)).unwrap();
        let mut after = |status: Status| {
            book.found("c", status, String::new(), Instant(0));
            book.checks()["c"].status
        };
        use Status::{Critical, Passing};
        // The first counts at once.
        let found = [Passing, Critical, Passing, Critical, Critical, Passing, Critical, Passing, Passing];
        let seen = found.map(&mut after);
        let so_far = [Passing, Passing, Passing, Passing, Critical, Critical, Critical, Critical, Passing];
        assert_eq!(seen, so_far);
        book.set_check(
            Definition { initial: Passing, failures_before_critical: 2, ..looking("bad") },
            Instant(0),
        )
        .unwrap();
        assert!(book.found("bad", Critical, String::new(), Instant(0)));
        // What does not count is not said either.
        for (found, counts) in [("once", false), ("twice", true)] {
            assert_eq!(book.found("c", Critical, found.into(), Instant(0)), counts, "{found}");
        }
        assert_eq!(book.checks()["c"].output, "twice");
        // Who is told does not wait to be told again.
        book.set_check(Definition { failures_before_critical: 2, ..definition("told", "") }, Instant(0))
            .unwrap();
        for status in [Passing, Critical] {
            book.tell("told", status, String::new(), Instant(0)).unwrap();
            assert_eq!(book.checks()["told"].status, status);
        }
    }

    #[test]
    fn what_is_told_at_the_last_moment_counts() {
        let mut book = Book::default();
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        book.set_check(definition("c", ""), at(0)).unwrap();
        let Some(Probe::Ttl(ttl)) = definition("c", "").probe else { panic!("it is told nothing") };
        book.tell("c", Status::Passing, "fine".into(), Instant(0) + ttl).unwrap();
        // The timer of before had run out already.
        book.expire("c", Instant(0) + ttl);
        assert_eq!(book.checks()["c"].status, Status::Passing);
        book.expire("c", Instant(0) + ttl * 2);
        let check = &book.checks()["c"];
        assert_eq!(
            (check.status, check.output.as_str()),
            (Status::Critical, "TTL expired (last output before timeout follows): fine")
        );
        book.expire("not there", at(0));
    }

    #[test]
    fn a_service_that_is_critical_for_too_long_is_overdue() {
        let mut book = Book::default();
        book.set_service(service("web", "a"));
        book.set_check(definition("c", "web"), Instant(0)).unwrap();
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        assert!(book.overdue(at(60)).is_empty());
        book.tell("c", Status::Passing, "fine".into(), at(61)).unwrap();
        book.tell("c", Status::Critical, "bad".into(), at(70)).unwrap();
        assert!(book.overdue(at(130)).is_empty());
        assert_eq!(book.overdue(at(131)), BTreeSet::from(["web".to_owned()]));
    }

    #[test]
    fn times_are_shown_as_in_go() {
        let mut book = Book::default();
        let mut shown = |of: Definition| {
            book.set_check(of, Instant(0)).unwrap();
            let info = book.checks()["c"].info();
            (info.interval, info.timeout)
        };
        let (interval, timeout) = (Duration::from_secs(90), Duration::from_millis(2_500));
        let both = |interval: &str, timeout: &str| (interval.to_owned(), timeout.to_owned());
        assert_eq!(shown(Definition { interval, timeout, ..looking("c") }), both("1m30s", "2.5s"));
        assert_eq!(shown(Definition { interval, ..definition("c", "") }), both("", ""));
        assert_eq!(shown(Definition { interval, alone: true, ..definition("c", "") }), both("0s", "0s"));
    }

    #[test]
    fn a_check_that_is_defined_anew_stands_as_it_stood() {
        let mut book = Book::default();
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        book.set_service(service("web", "a"));
        book.set_check(definition("c", "web"), at(0)).unwrap();
        book.tell("c", Status::Passing, "fine".into(), at(1)).unwrap();
        let anew = Definition { notes: "other".into(), initial: Status::Warning, ..definition("c", "web") };
        book.set_check(anew.clone(), at(2)).unwrap();
        let stands = |book: &Book| {
            let check = &book.checks()["c"];
            (check.definition.notes.clone(), check.status, check.output.clone())
        };
        assert_eq!(stands(&book), ("other".into(), Status::Passing, "fine".into()));
        // It has the whole of its time from then on.
        book.expire("c", at(2));
        assert_eq!(stands(&book).1, Status::Passing);
        book.expire("c", at(3));
        assert_eq!(stands(&book).1, Status::Critical);
        // Whoever registers it again and again tells it nothing.
        let expired = stands(&book).2;
        book.set_check(Definition { notes: "third".into(), ..anew.clone() }, at(4)).unwrap();
        book.expire("c", at(5));
        assert_eq!(stands(&book), ("third".into(), Status::Critical, expired));
        // Nor is it critical for a shorter time because it finds out in another way.
        let looks = Definition { probe: looking("c").probe, ..anew };
        book.set_check(looks, at(60)).unwrap();
        assert_eq!(book.overdue(at(63)), BTreeSet::new());
        assert_eq!(book.overdue(at(64)), BTreeSet::from(["web".to_owned()]));
        // One that had gone begins anew.
        book.remove_check("c").unwrap();
        book.set_check(Definition { initial: Status::Warning, ..definition("c", "web") }, at(70)).unwrap();
        assert_eq!(stands(&book), (String::new(), Status::Warning, String::new()));
    }

    #[test]
    fn what_is_registered_again_as_it_is_is_no_news_to_the_catalog() {
        let mut book = Book::default();
        let mut news = |tag: &str, notes: &str| {
            book.set_service(service("web", tag));
            let of = Definition { notes: notes.into(), ..definition("c", "web") };
            book.set_check(of, Instant(0)).unwrap();
            assert_eq!(book.take_unsaved().len(), 2, "with whatever right it has now");
            book.take_dirty().len()
        };
        let seen = [news("a", ""), news("a", ""), news("b", ""), news("b", "x"), news("b", "x")];
        assert_eq!(seen, [2, 0, 1, 1, 0]);
        // It has gone, and is back before anybody heard of it.
        book.remove_service("web").unwrap();
        book.set_service(service("web", "b"));
        let both = BTreeSet::from([Item::Service("web".into()), Item::Check("c".into())]);
        assert_eq!(book.take_dirty(), both);
    }

    #[test]
    fn output_is_cut_between_characters() {
        assert_eq!(cut("é".repeat(MAX_OUTPUT), MAX_OUTPUT).len(), MAX_OUTPUT);
        assert_eq!(cut(format!("x{}", "é".repeat(MAX_OUTPUT)), MAX_OUTPUT).len(), MAX_OUTPUT - 1);
        assert_eq!(cut("short".to_owned(), 3), "sho");
    }

    #[test]
    fn of_a_programs_output_the_end_is_kept_however_often_it_is_cut() {
        let (short, ten) = ("fine\n".to_owned(), "0123456789".to_owned());
        assert_eq!(last(short.clone(), 5), short);
        assert_eq!(last(ten.clone(), 4), "Captured 4 of 10 bytes\n...\n6789");
        assert_eq!(last(captured("56789", 70_000), 5), "Captured 5 of 70000 bytes\n...\n56789");
        assert_eq!(last(captured("56789", 70_000), 4), "Captured 4 of 70000 bytes\n...\n6789");
        assert_eq!(last("éé".to_owned(), 3), "Captured 2 of 4 bytes\n...\né");
    }

    #[test]
    fn a_check_that_is_told_too_much_says_so_once() {
        let mut book = Book::default();
        book.set_check(Definition { max_output: 4, ..definition("c", "") }, Instant(0)).unwrap();
        let mut told = |output: &str| {
            book.tell("c", Status::Passing, output.to_owned(), Instant(0)).unwrap();
            book.checks()["c"].output.clone()
        };
        assert_eq!(told("0123"), "0123");
        let cut = told("0123456789");
        assert_eq!(cut, "0123 ... (captured 4 of 10 bytes)");
        // It is told again what it had kept for its next life.
        assert_eq!(told(&cut), cut);
        book.expire("c", Instant(0) + Duration::from_secs(1));
        assert_eq!(
            book.checks()["c"].output,
            format!("TTL expired (last output before timeout follows): {cut}")
        );
        book.found("c", Status::Critical, "x".repeat(3 * LONGEST), Instant(0));
        assert_eq!(book.checks()["c"].output.len(), LONGEST);
    }

    /// The catalog's view of this node after these commands.
    fn written(state: &mut State, plan: Vec<CatalogCommand>) -> Option<WholeNode> {
        for command in plan {
            let index = state.applied() + 1;
            let id = RequestId { origin: 1, number: index };
            let outcome =
                state.apply(index, &Request { id, done_below: 0, command: Command::Catalog(command) });
            assert!(outcome.is_done(), "{outcome:?}");
        }
        OneNode { node: "me".into(), checks: true }.ask(state).value
    }

    proptest! {
        #[test]
        fn whatever_happened_the_catalog_comes_to_say_what_is_so(
            steps in prop::collection::vec((0u8..5, 0usize..3, 0usize..3, any::<bool>()), 0..40),
            others in prop::collection::vec((0usize..4, 0usize..3), 0..4),
        ) {
            let ids = ["a", "b", "c", "d"];
            let mut book = Book::default();
            let mut state = State::default();
            for (step, id, other, sync) in steps {
                let (id, other) = (ids[id], ids[other]);
                match step {
                    0 => book.set_service(service(id, other)),
                    1 => drop(book.remove_service(id)),
                    2 => drop(book.set_check(definition(id, other), Instant(0))),
                    3 => drop(book.remove_check(id)),
                    _ => drop(book.tell(id, Status::Passing, other.into(), Instant(1))),
                }
                if sync {
                    let plan = book.partial_plan(&node());
                    book.take_dirty();
                    written(&mut state, plan);
                }
            }
            // Somebody else writes under this node's name.
            for (id, tag) in others {
                let plan = Book { services: BTreeMap::from([(ids[id].into(), service(ids[id], ids[tag]))]), ..Book::default() };
                written(&mut state, vec![plan.register_service(&node(), &plan.services[ids[id]])]);
            }
            let remote = OneNode { node: "me".into(), checks: true }.ask(&state).value;
            let plan = book.full_plan(&node(), remote.as_ref());
            let whole = written(&mut state, plan).expect("the node is there");
            let services: Vec<ServiceInfo> = whole.services.into_iter().map(|row| row.info).collect();
            prop_assert_eq!(services, book.services.values().cloned().collect::<Vec<_>>());
            let checks: Vec<CheckInfo> = whole.checks.into_iter().map(|row| row.check.info).collect();
            prop_assert_eq!(checks, book.checks.values().map(OwnCheck::info).collect::<Vec<_>>());
            // And then there is nothing more to say.
            let remote = OneNode { node: "me".into(), checks: true }.ask(&state).value;
            prop_assert_eq!(book.full_plan(&node(), remote.as_ref()), vec![]);
        }
    }
}
