//! Answers, made of what the catalog holds. Pure.
//!
//! Everything in the domain is answered with authority. A name that does not exist is NXDOMAIN; one that exists but has
//! no record of the wanted kind is an empty answer; both come with the domain's SOA record. As in Consul, a service of
//! which no instance serves does not exist.
//!
//! What is at a host name instead of an address is an alias of it (CNAME), which may not stand beside other data and of
//! which there is one (RFC 2181, 10.1). So a service that has both kinds of instances is told by the addresses alone, and one
//! that has only host names by the first of them; SRV tells them all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use domain::base::iana::{Rcode, Rtype};

use crate::config::{DnsConfig, duration::parse_duration};
use crate::state::catalog::{Instance, NodeInfo, Status};
use crate::state::prepared::PreparedQuery;

use super::name::spell;
use super::wire::{Data, Name, Question, Record, Reply, SMALLEST_UDP, labels, name};

/// The domain as it is configured now.
#[derive(Clone, Debug)]
pub struct Zone {
    config: DnsConfig,
    domain: Vec<String>,
    datacenter: String,
}

/// Whether an instance is to be found: none of its and its node's checks is critical, nor warns if only those
/// that pass are wanted.
pub fn serves(instance: &Instance, only_passing: bool) -> bool {
    let worst = if only_passing { Status::Passing } else { Status::Warning };
    instance.checks.iter().all(|row| row.check.info.status <= worst)
}

impl Zone {
    /// The domain, with what is configured for it.
    pub fn new(config: DnsConfig, datacenter: String) -> Zone {
        let domain = config.labels();
        Zone { config, domain, datacenter }
    }

    /// The datacenter, as names have it.
    pub fn datacenter(&self) -> &str {
        &self.datacenter
    }

    /// The labels of the domain.
    pub fn domain(&self) -> &[String] {
        &self.domain
    }

    /// Whether a name is the domain's or in it.
    fn holds(&self, name: &Name) -> bool {
        labels(name).ends_with(&self.domain)
    }

    /// How many records are told at most. By UDP, only the first few, unless whoever asks says that it takes large answers.
    pub fn most(&self, question: &Question, udp: bool) -> usize {
        let small = udp && question.udp_limit() <= usize::from(SMALLEST_UDP);
        match self.config.udp_answer_limit {
            limit if small && limit > 0 => limit,
            _ => usize::MAX,
        }
    }

    /// Whether an answer of which something was left out says so.
    pub fn marks_cuts(&self) -> bool {
        self.config.enable_truncate
    }

    /// The name in the domain that these records lead to and say nothing of yet.
    pub fn leads_to(&self, records: &[Record]) -> Option<Name> {
        let Some(Record { data: Data::Cname(name), .. }) = records.last() else { return None };
        let unknown = || records.iter().all(|record| record.owner != *name);
        (self.holds(name) && unknown()).then(|| name.clone())
    }

    /// The targets in the domain that an answer names without an address.
    pub fn open_targets(&self, reply: &Reply) -> BTreeSet<Name> {
        let known: BTreeSet<&Name> = reply.additional.iter().map(|record| &record.owner).collect();
        let targets = reply.answers.iter().filter_map(|record| match &record.data {
            Data::Srv { target, .. } => Some(target),
            _ => None,
        });
        targets.filter(|target| !known.contains(target) && self.holds(target)).cloned().collect()
    }

    fn name<'a>(&'a self, labels: impl IntoIterator<Item = &'a str>) -> Option<Name> {
        name(labels.into_iter().chain(self.domain.iter().map(String::as_str)))
    }

    /// What a node is called here.
    fn node_name(&self, node: &str) -> Option<Name> {
        self.name(node.split('.').chain(["node", &self.datacenter]))
    }

    fn soa(&self) -> Option<Record> {
        let (owner, server, mailbox) = (self.name([])?, self.name(["ns"])?, self.name(["hostmaster"])?);
        Some(Record { owner, ttl: 0, data: Data::Soa { server, mailbox, serial: 0 } })
    }

    fn found(&self, answers: Vec<Record>, additional: Vec<Record>) -> Reply {
        let authority = if answers.is_empty() { self.soa().into_iter().collect() } else { Vec::new() };
        Reply { rcode: Rcode::NOERROR, authoritative: true, truncated: false, answers, authority, additional }
    }

    /// There is no such name.
    pub fn nothing(&self) -> Reply {
        Reply { rcode: Rcode::NXDOMAIN, ..self.found(Vec::new(), Vec::new()) }
    }

    /// The domain itself; its name servers are the cluster's.
    pub fn apex(&self, question: &Question, servers: &[Instance]) -> Reply {
        match question.rtype {
            Rtype::NS => {
                let mut answers = Vec::new();
                let mut additional = Vec::new();
                for server in servers {
                    let Some(name) = self.node_name(&server.node.info.name) else { continue };
                    additional.extend(addresses(
                        &name,
                        self.node_ttl(),
                        &server.node.info.address,
                        Rtype::ANY,
                    ));
                    answers.push(Record { owner: question.name.clone(), ttl: 0, data: Data::Ns(name) });
                }
                self.found(answers, additional)
            }
            Rtype::SOA | Rtype::ANY => self.found(self.soa().into_iter().collect(), Vec::new()),
            _ => self.found(Vec::new(), Vec::new()),
        }
    }

    /// The name server: whichever servers there are.
    pub fn name_server(&self, question: &Question, servers: &[Instance]) -> Reply {
        let owner = &question.name;
        let all = servers.iter();
        let all = all.flat_map(|server| addresses(owner, 0, &server.node.info.address, question.rtype));
        self.found(all.collect(), Vec::new())
    }

    /// A node.
    pub fn node(&self, question: &Question, node: &NodeInfo) -> Reply {
        let (owner, ttl) = (&question.name, self.node_ttl());
        let mut answers = addresses(owner, ttl, &node.address, question.rtype);
        // Nothing stands beside an alias.
        if question.rtype == Rtype::TXT
            || question.rtype == Rtype::ANY && !answers.iter().any(Record::is_alias)
        {
            let labels = node.meta.iter().filter(|(_, value)| !value.is_empty());
            answers.extend(labels.map(|(key, value)| {
                let data = Data::Txt(label_text(key, value).into_bytes());
                Record { owner: owner.clone(), ttl, data }
            }));
        }
        self.found(answers, Vec::new())
    }

    /// The instances of a service, in the order in which they are to be tried.
    pub fn service(&self, question: &Question, service: &str, instances: &[Instance], udp: bool) -> Reply {
        self.instances(question, self.service_ttl(service), instances, udp)
    }

    /// What a prepared query has found, in the order in which it is to be tried. An answer lives as long as the query
    /// says, or as one about the service does.
    pub fn query(&self, question: &Question, query: &PreparedQuery, found: &[Instance], udp: bool) -> Reply {
        let own = parse_duration(&query.dns_ttl).and_then(|nanos| u64::try_from(nanos / 1_000_000).ok());
        let ttl = own.map_or_else(|| self.service_ttl(&query.service), seconds);
        self.instances(question, ttl, found, udp)
    }

    /// Instances, each told by where it is.
    fn instances(&self, question: &Question, ttl: u32, instances: &[Instance], udp: bool) -> Reply {
        let most = self.most(question, udp);
        match question.rtype {
            _ if instances.is_empty() => self.nothing(),
            Rtype::SRV => self.ends(question, ttl, instances, most),
            _ => self.hosts(question, ttl, instances, most),
        }
    }

    /// The hosts and ports of instances.
    fn ends(&self, question: &Question, ttl: u32, instances: &[Instance], most: usize) -> Reply {
        let owner = &question.name;
        let (mut answers, mut additional) = (Vec::new(), Vec::new());
        let (mut told, mut targets) = (BTreeSet::new(), BTreeSet::new());
        let mut truncated = false;
        for instance in instances {
            let Some(target) = self.target(instance, owner) else { continue };
            let port = instance.service.info.port;
            // Two instances at one port are one end: a record is told once (RFC 2181, 5.5).
            if !told.insert((target.clone(), port)) {
                continue;
            }
            if answers.len() == most {
                truncated = self.config.enable_truncate;
                break;
            }
            // Instances on one node have one target; two targets may be at one address.
            if targets.insert(target.clone()) {
                additional.extend(addresses(&target, ttl, host(instance, owner), Rtype::ANY));
            }
            let data = Data::Srv { weight: weight(instance), port, target };
            answers.push(Record { owner: owner.clone(), ttl, data });
        }
        Reply { truncated, ..self.found(answers, additional) }
    }

    /// The hosts of instances.
    fn hosts(&self, question: &Question, ttl: u32, instances: &[Instance], most: usize) -> Reply {
        let owner = &question.name;
        let (mut answers, mut alias, mut hosts) = (Vec::new(), None, BTreeSet::new());
        let (mut has_address, mut truncated) = (false, false);
        for instance in instances {
            let host = host(instance, owner);
            if !hosts.insert(host) {
                continue;
            }
            has_address |= host.parse::<IpAddr>().is_ok();
            let (aliases, found): (Vec<Record>, Vec<Record>) =
                addresses(owner, ttl, host, question.rtype).into_iter().partition(Record::is_alias);
            alias = alias.or(aliases.into_iter().next());
            if answers.len() + found.len() > most {
                truncated = self.config.enable_truncate;
                break;
            }
            answers.extend(found);
        }
        // Whoever remembers an alias takes it for all kinds of addresses: there is none beside one of the other kind either.
        if !has_address {
            answers.extend(alias);
        }
        Reply { truncated, ..self.found(answers, Vec::new()) }
    }

    /// An address that the name spelled.
    pub fn address(&self, question: &Question, address: IpAddr) -> Reply {
        self.found(
            addresses(&question.name, self.node_ttl(), &address.to_string(), question.rtype),
            Vec::new(),
        )
    }

    /// The nodes at an address, and the services that are there by an address of their own.
    pub fn reverse(&self, question: &Question, nodes: &[NodeInfo], services: &BTreeSet<String>) -> Reply {
        if nodes.is_empty() && services.is_empty() {
            return self.nothing();
        }
        let nodes = nodes.iter().map(|node| (self.node_name(&node.name), self.node_ttl()));
        let services = services.iter().map(|service| {
            (self.name([service.as_str(), "service", &self.datacenter]), self.service_ttl(service))
        });
        let wanted = matches!(question.rtype, Rtype::PTR | Rtype::ANY);
        let names = nodes.chain(services).filter(|_| wanted);
        let answers = names.filter_map(|(name, ttl)| {
            Some(Record { owner: question.name.clone(), ttl, data: Data::Ptr(name?) })
        });
        self.found(answers.collect(), Vec::new())
    }

    /// The host of an instance, as an SRV record names it: its node if it is there, and otherwise a name that spells its
    /// address. A host elsewhere goes by its own name even if it is the node: the node's would be an alias, which a target may
    /// not be (RFC 2782).
    fn target(&self, instance: &Instance, owner: &Name) -> Option<Name> {
        let (host, node) = (host(instance, owner), &instance.node.info);
        match host.parse::<IpAddr>() {
            Ok(_) if *host == node.address => self.node_name(&node.name),
            Ok(address) => self.name([spell(address).as_str(), "addr", &self.datacenter]),
            Err(_) => host_name(host),
        }
    }

    fn node_ttl(&self) -> u32 {
        seconds(self.config.node_ttl_ms)
    }

    /// What is configured for the service, or for the longest beginning of its name that ends in a star.
    fn service_ttl(&self, service: &str) -> u32 {
        let all = &self.config.service_ttl_ms;
        let by_beginning = || {
            let starred = all.iter().filter_map(|(name, ttl)| Some((name.strip_suffix('*')?, ttl)));
            let fitting = starred.filter(|(beginning, _)| service.starts_with(beginning));
            fitting.max_by_key(|(beginning, _)| beginning.len()).map(|(_, ttl)| ttl)
        };
        all.get(service).or_else(by_beginning).map_or(0, |ttl| seconds(*ttl))
    }
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms / 1_000).unwrap_or(u32::MAX)
}

/// Where an instance is reached. One whose address is the very name that is asked for is on its node.
fn host<'a>(instance: &'a Instance, asked: &Name) -> &'a str {
    let own = &instance.service.info.address;
    let is_asked = || host_name(own).is_some_and(|name| name == *asked);
    if own.is_empty() || is_asked() { &instance.node.info.address } else { own }
}

/// A node's label as a text, as RFC 1464 has it and Consul writes it; or only its value, if its key says that it is a text of
/// another form.
fn label_text(key: &str, value: &str) -> String {
    const AS_IT_IS: &str = "rfc1035-";
    if key.get(..AS_IT_IS.len()).is_some_and(|start| start.eq_ignore_ascii_case(AS_IT_IS)) {
        return value.to_owned();
    }
    let key = key.replace('`', "``").replace('=', "`=");
    // Spaces at the ends would be passed over.
    let inner = key.trim_matches(' ');
    let before = key.len() - key.trim_start_matches(' ').len();
    let after = key.len() - inner.len() - before;
    let value = value.replace('`', "``");
    format!("{}{inner}{}={value}", "` ".repeat(before), "` ".repeat(after))
}

/// An instance's share: less if it warns.
fn weight(instance: &Instance) -> u16 {
    let warns = instance.checks.iter().any(|row| row.check.info.status != Status::Passing);
    let (passing, warning) = instance.service.info.weights;
    u16::try_from(if warns { warning } else { passing }).unwrap_or(u16::MAX)
}

fn host_name(host: &str) -> Option<Name> {
    name(host.trim_end_matches('.').split('.'))
}

/// The records of a wanted kind for a host: its address, or the name it goes by elsewhere. No name is an alias of itself.
fn addresses(owner: &Name, ttl: u32, host: &str, rtype: Rtype) -> Vec<Record> {
    let wants = |kind: Rtype| rtype == kind || rtype == Rtype::ANY;
    let data = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => wants(Rtype::A).then_some(Data::A(address)),
        Ok(IpAddr::V6(address)) => wants(Rtype::AAAA).then_some(Data::Aaaa(address)),
        Err(_) if wants(Rtype::A) || wants(Rtype::AAAA) || wants(Rtype::CNAME) => {
            host_name(host).filter(|name| name != owner).map(Data::Cname)
        }
        Err(_) => None,
    };
    data.map(|data| Record { owner: owner.clone(), ttl, data }).into_iter().collect()
}
