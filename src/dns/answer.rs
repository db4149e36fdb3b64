//! Answers, made of what the catalog holds. Pure.
//!
//! Everything in the domain is answered with authority. A name that does not exist is NXDOMAIN; one that exists but has
//! no record of the wanted kind is an empty answer; both come with the domain's SOA record. As in Consul, a service of
//! which no instance serves does not exist.

use std::collections::BTreeSet;
use std::net::IpAddr;

use domain::base::iana::{Rcode, Rtype};

use crate::config::{DnsConfig, duration::parse_duration};
use crate::state::catalog::{Instance, NodeInfo, Status};
use crate::state::prepared::PreparedQuery;

use super::name::spell;
use super::wire::{Data, Name, Question, Record, Reply, SMALLEST_UDP, name};

/// The domain as it is configured now.
#[derive(Clone, Debug)]
pub struct Zone {
    config: DnsConfig,
    domain: Vec<String>,
    datacenter: String,
    /// The catalog's index: the domain's serial number.
    serial: u32,
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
        Zone { config, domain, datacenter, serial: 0 }
    }

    /// The labels of the domain.
    pub fn domain(&self) -> &[String] {
        &self.domain
    }

    /// The same, as of an index of the catalog.
    pub fn at(mut self, index: u64) -> Zone {
        // Serial numbers wrap around.
        self.serial = index as u32;
        self
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
        Some(Record { owner, ttl: 0, data: Data::Soa { server, mailbox, serial: self.serial } })
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
        if matches!(question.rtype, Rtype::TXT | Rtype::ANY) {
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

    /// Instances, each told by where it is. By UDP, only the first few, unless whoever asks says that it takes large
    /// answers.
    fn instances(&self, question: &Question, ttl: u32, instances: &[Instance], udp: bool) -> Reply {
        if instances.is_empty() {
            return self.nothing();
        }
        let owner = &question.name;
        let small = udp && question.udp_limit() <= usize::from(SMALLEST_UDP);
        let most = match self.config.udp_answer_limit {
            limit if small && limit > 0 => limit,
            _ => usize::MAX,
        };
        let (mut answers, mut additional, mut hosts) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut targets = BTreeSet::new();
        let mut truncated = false;
        for instance in instances {
            let host = host(instance);
            let records = if question.rtype == Rtype::SRV {
                let Some(target) = self.target(instance) else { continue };
                let mut more = addresses(&target, ttl, host, Rtype::ANY);
                // Of a host elsewhere nothing is known but its name.
                more.retain(|record| !matches!(record.data, Data::Cname(_)));
                let (weight, port) = (weight(instance), instance.service.info.port);
                let data = Data::Srv { weight, port, target };
                vec![(Record { owner: owner.clone(), ttl, data }, more)]
            } else if hosts.insert(host) {
                let records = addresses(owner, ttl, host, question.rtype);
                records.into_iter().map(|record| (record, Vec::new())).collect()
            } else {
                continue;
            };
            if answers.len() + records.len() > most {
                truncated = self.config.enable_truncate;
                break;
            }
            for (record, more) in records {
                answers.push(record);
                // Instances on one node have one target; two targets may be at one address.
                additional.extend(more.into_iter().filter(|record| targets.insert(record.owner.clone())));
            }
        }
        Reply { truncated, ..self.found(answers, additional) }
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
    /// address.
    fn target(&self, instance: &Instance) -> Option<Name> {
        let (own, node) = (&instance.service.info.address, &instance.node.info);
        if own.is_empty() || *own == node.address {
            return self.node_name(&node.name);
        }
        match own.parse::<IpAddr>() {
            Ok(address) => self.name([spell(address).as_str(), "addr", &self.datacenter]),
            Err(_) => host_name(own),
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

/// Where an instance is reached.
fn host(instance: &Instance) -> &str {
    let own = &instance.service.info.address;
    if own.is_empty() { &instance.node.info.address } else { own }
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

/// The records of a wanted kind for a host: its address, or the name it goes by elsewhere.
fn addresses(owner: &Name, ttl: u32, host: &str, rtype: Rtype) -> Vec<Record> {
    let wants = |kind: Rtype| rtype == kind || rtype == Rtype::ANY;
    let data = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => wants(Rtype::A).then_some(Data::A(address)),
        Ok(IpAddr::V6(address)) => wants(Rtype::AAAA).then_some(Data::Aaaa(address)),
        Err(_) if wants(Rtype::A) || wants(Rtype::AAAA) || wants(Rtype::CNAME) => {
            host_name(host).map(Data::Cname)
        }
        Err(_) => None,
    };
    data.map(|data| Record { owner: owner.clone(), ttl, data }).into_iter().collect()
}
