//! What an agent is told when it starts.
//!
//! [`Config`] is complete and checked: `cli` makes one from the command line and a file, the testbed
//! makes one from a scenario. Nothing below reads a file or an environment variable.

pub mod consul;
pub mod duration;
pub mod file;
pub mod loose;
mod place;
pub mod reload;
pub mod service;
pub mod watch;

pub use place::Place;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gossip::keyring::Ring;
use crate::gossip::{Encryption, Timing};
use crate::secret::Secret;

/// Everything an agent needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the node, unique in the cluster.
    pub node_name: String,
    /// Whether this node keeps the state, with the other servers. A client keeps nothing and asks servers.
    pub server: bool,
    /// Name of the datacenter; only a label here. Small letters, digits, `-` and `_`.
    pub datacenter: String,
    /// Where the HTTP API listens.
    pub http_addr: SocketAddr,
    /// Where the HTTP API listens for HTTPS; nowhere if absent. Needs a certificate: see `tls`.
    pub https_addr: Option<SocketAddr>,
    /// Where servers talk to each other (Raft and forwarded requests).
    pub rpc_addr: SocketAddr,
    /// Where gossip listens, UDP and TCP.
    pub gossip_addr: SocketAddr,
    /// The address that others reach this node at, when it is not the one it listens on.
    pub advertise: Option<IpAddr>,
    /// The newest version of the protocols between nodes (Raft's and gossip's) that this node speaks: 1 or 2. Older
    /// versions are always understood. Setting it back to what the older program speaks prepares a way back before an upgrade.
    pub protocol: u8,
    /// How the first server or servers of a new cluster begin.
    pub bootstrap: Bootstrap,
    /// Gossip addresses of members to join at start. Failing to reach any is an error.
    pub join: Vec<SocketAddr>,
    /// Where gossip's members may be joined, tried until one answers. Names are looked up at every try.
    pub retry_join: Vec<Place>,
    /// Pause between two tries of `retry_join`, in milliseconds.
    pub retry_interval_ms: u64,
    /// Gives up after so many tries of `retry_join`; 0 never does.
    pub retry_max: u32,
    /// Whether the agent looks, when it starts again after it left, for the members that it knew then.
    pub rejoin_after_leave: bool,
    /// The keys that gossip is encrypted with, each 16, 24 or 32 bytes in base64, apart by white space; the first
    /// encrypts, all are understood. Once keys were changed in the running cluster, what the node wrote down counts,
    /// until this is changed. Best given by `encrypt_file`.
    pub encrypt: Secret,
    /// Whether gossip that comes unencrypted is refused. Turned off while a running cluster is changed over.
    pub encrypt_verify_incoming: bool,
    /// Whether gossip that goes out is encrypted. Turned off while a running cluster is changed over.
    pub encrypt_verify_outgoing: bool,
    /// Whether checks may run programs on this machine. Whoever can register a check can then run anything.
    pub enable_script_checks: bool,
    /// What to look at, and what to do whenever it changes.
    pub watches: Vec<watch::Watch>,
    /// Services of this node.
    #[serde(deserialize_with = "service::services")]
    pub services: Vec<service::Service>,
    /// Checks of this node, and of its services.
    #[serde(deserialize_with = "service::checks")]
    pub checks: Vec<service::Check>,
    /// Labels gossiped with the node.
    pub tags: std::collections::BTreeMap<String, String>,
    /// The DNS server.
    pub dns: DnsConfig,
    /// Raft's knobs.
    pub raft: RaftConfig,
    /// Gossip's knobs.
    pub gossip: Timing,
    /// What a client may ask for.
    pub limits: Limits,
    /// Certificates, and what they are demanded for.
    pub tls: Tls,
    /// Who may ask for what.
    pub acl: AclConfig,
}

/// Certificates, and what they are demanded for. Files are in PEM form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Certificates of the authorities whose certificates count.
    pub ca_file: Option<PathBuf>,
    /// This agent's certificate.
    pub cert_file: Option<PathBuf>,
    /// The key of its certificate.
    pub key_file: Option<PathBuf>,
    /// Whether other agents must come to the RPC port with TLS and a certificate.
    pub verify_incoming: bool,
    /// Whether this agent goes to servers with TLS.
    pub verify_outgoing: bool,
    /// Whether only a certificate for `server.<datacenter>.driftline` (or `.consul`) makes a server.
    pub verify_server_hostname: bool,
    /// Whether clients of the HTTPS API must show a certificate.
    pub verify_incoming_https: bool,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls {
            ca_file: None,
            cert_file: None,
            key_file: None,
            verify_incoming: false,
            verify_outgoing: false,
            verify_server_hostname: true,
            verify_incoming_https: false,
        }
    }
}

impl Tls {
    /// Whether this agent must not run without.
    pub fn is_demanded(&self) -> bool {
        self.verify_incoming || self.verify_outgoing || self.verify_incoming_https
    }
}

/// The DNS server, and how it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// Where it listens, UDP and TCP; nowhere if absent.
    pub addr: Option<SocketAddr>,
    /// The domain that it answers for.
    pub domain: String,
    /// Whether instances that warn are left out, as those that are critical always are.
    pub only_passing: bool,
    /// Whether any server may answer from what it has.
    pub allow_stale: bool,
    /// How long a node's records may be remembered, in milliseconds.
    pub node_ttl_ms: u64,
    /// How long a service's records may be remembered, in milliseconds, by the service's name. `*` ends a name of which
    /// only the beginning counts.
    pub service_ttl_ms: std::collections::BTreeMap<String, u64>,
    /// By UDP, at most so many instances of a service are told; 0: as many as fit.
    pub udp_answer_limit: usize,
    /// Whether an answer that this limit cut says so, which makes resolvers ask again by TCP for all.
    pub enable_truncate: bool,
}

impl DnsConfig {
    /// The labels of the domain, in small letters.
    pub fn labels(&self) -> Vec<String> {
        let labels = self.domain.split('.').filter(|label| !label.is_empty());
        labels.map(str::to_ascii_lowercase).collect()
    }
}

/// How a server comes to its first cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bootstrap {
    /// Waits to be added to a cluster.
    Wait,
    /// Founds a cluster of itself alone, unless it already belongs to one.
    Alone,
    /// Founds a cluster together with others, once gossip shows this many servers that expect the same
    /// number and none of them belongs to a cluster.
    Expect(u32),
}

/// Raft's knobs. Times in milliseconds by the node's own clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftConfig {
    /// How often a leader makes itself heard.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing waits at least this long before it stands for election.
    pub election_timeout_min_ms: u64,
    /// And less than this long.
    pub election_timeout_max_ms: u64,
    /// A snapshot is taken after this many entries; of a large state, not before the log is as long.
    pub snapshot_entries: u64,
    /// And after this many bytes of entries, or four times as many as the last snapshot has, if that is more.
    pub snapshot_after_bytes: u64,
    /// Entries kept behind a snapshot, so that a follower that lags a little needs no snapshot.
    pub trailing_entries: u64,
    /// Where the log has more bytes than this, its oldest entries go as soon as a snapshot has them, though fewer stay.
    pub trailing_bytes: u64,
    /// Bytes of a snapshot sent in one message.
    pub snapshot_chunk_bytes: u64,
    /// How long a client's request may take.
    pub request_timeout_ms: u64,
    /// Bytes of a segment of the log: 4096 to 1 GiB. Larger ones are begun less often; disk space is taken
    /// in pieces of this size.
    pub segment_bytes: u64,
    /// Bytes of the log's newest entries that stay in memory when they are durable, 1 GiB at most: followers that keep up
    /// are sent them without the disk.
    pub cache_bytes: u64,
    /// What to do when the data is found damaged.
    pub on_damage: OnDamage,
}

/// What to do when a server's data is found damaged at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDamage {
    /// Stop with an error, and leave everything as it is.
    Stop,
    /// Move the data out of the way and join again as a new server that has nothing. It founds no cluster, so
    /// this is safe wherever other servers have the data; a server that is alone waits for others then.
    Rejoin,
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest key in bytes.
    pub key_bytes: usize,
    /// Longest value in bytes.
    pub value_bytes: usize,
    /// Longest snapshot that is restored, in bytes: as a file, and unfolded.
    pub snapshot_bytes: u64,
    /// Connections to the HTTP API at once.
    pub http_connections: usize,
    /// Connections to the HTTP API at once from one address.
    pub http_connections_per_client: usize,
    /// Shortest time to live of a session, in milliseconds (Consul's `session_ttl_min`).
    pub session_ttl_min_ms: u64,
    /// Milliseconds a client may take to send a request's head, and again its body.
    pub http_read_timeout_ms: u64,
}

/// Who may ask for what. All servers of a cluster must be told the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AclConfig {
    /// Whether rights are looked at.
    pub enabled: bool,
    /// What is allowed where no rule says anything.
    pub default_policy: DefaultPolicy,
    /// Whether to list keys under a prefix needs the right to `list` that prefix.
    pub enable_key_list_policy: bool,
    /// Whether tokens that are set by the API are kept on disk and are there again after a restart.
    pub enable_token_persistence: bool,
    /// How long a client agent remembers which rights a token has, in milliseconds; and how long whoever watches a log is
    /// believed to have the right to.
    pub token_ttl_ms: u64,
    /// The tokens that the agent itself uses.
    pub tokens: AclTokens,
}

/// What is allowed where no rule says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultPolicy {
    /// Everything but tokens, policies and snapshots.
    Allow,
    /// Nothing.
    Deny,
}

/// The tokens that the agent itself uses. In a file, `file:PATH` and `env:NAME` stand for what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AclTokens {
    /// A token that may do everything, which the leader makes if there is none.
    pub initial_management: Secret,
    /// With which the agent does what nobody asked it for, keeping the catalog true above all.
    pub agent: Secret,
    /// For requests that show no token, and for the agent if it has none of its own.
    pub default: Secret,
    /// With which this agent lets itself be looked after even if no server can say what a token may.
    pub agent_recovery: Secret,
    /// For what the configuration defines without a token of its own; empty: the agent's.
    pub config_file_service_registration: Secret,
    /// For answering DNS questions; empty: the default one.
    pub dns: Secret,
}

impl AclTokens {
    /// Each with its name.
    pub fn each(&mut self) -> [(&'static str, &mut Secret); 6] {
        [
            ("initial_management", &mut self.initial_management),
            ("agent", &mut self.agent),
            ("default", &mut self.default),
            ("agent_recovery", &mut self.agent_recovery),
            ("config_file_service_registration", &mut self.config_file_service_registration),
            ("dns", &mut self.dns),
        ]
    }
}

impl Default for AclConfig {
    fn default() -> AclConfig {
        AclConfig {
            enabled: false,
            default_policy: DefaultPolicy::Allow,
            enable_key_list_policy: false,
            enable_token_persistence: false,
            token_ttl_ms: 5_000,
            tokens: AclTokens::default(),
        }
    }
}

/// The newest version of the protocols between nodes.
pub const NEWEST_PROTOCOL: u8 = 2;

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node_name: "node".to_owned(),
            server: false,
            datacenter: "dc1".to_owned(),
            http_addr: any(8500),
            https_addr: None,
            rpc_addr: any(8300),
            gossip_addr: any(8301),
            advertise: None,
            protocol: NEWEST_PROTOCOL,
            bootstrap: Bootstrap::Wait,
            join: Vec::new(),
            retry_join: Vec::new(),
            retry_interval_ms: 30_000,
            retry_max: 0,
            rejoin_after_leave: false,
            encrypt: Secret::default(),
            encrypt_verify_incoming: true,
            encrypt_verify_outgoing: true,
            enable_script_checks: false,
            watches: Vec::new(),
            services: Vec::new(),
            checks: Vec::new(),
            tags: Default::default(),
            dns: DnsConfig::default(),
            raft: RaftConfig::default(),
            gossip: Timing::default(),
            limits: Limits::default(),
            tls: Tls::default(),
            acl: AclConfig::default(),
        }
    }
}

impl Default for DnsConfig {
    fn default() -> DnsConfig {
        DnsConfig {
            addr: None,
            domain: "consul".to_owned(),
            only_passing: false,
            allow_stale: true,
            node_ttl_ms: 0,
            service_ttl_ms: Default::default(),
            udp_answer_limit: 3,
            enable_truncate: false,
        }
    }
}

impl Default for RaftConfig {
    fn default() -> RaftConfig {
        RaftConfig {
            heartbeat_ms: 50,
            election_timeout_min_ms: 200,
            election_timeout_max_ms: 400,
            snapshot_entries: 16_384,
            snapshot_after_bytes: 64 << 20,
            trailing_entries: 10_240,
            trailing_bytes: 256 << 20,
            snapshot_chunk_bytes: 1 << 20,
            request_timeout_ms: 7_000,
            segment_bytes: 8 << 20,
            cache_bytes: 16 << 20,
            on_damage: OnDamage::Stop,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            key_bytes: 512,
            value_bytes: 512 * 1024,
            session_ttl_min_ms: 10_000,
            snapshot_bytes: 512 << 20,
            http_connections: 4096,
            http_connections_per_client: 1024,
            http_read_timeout_ms: 10_000,
        }
    }
}

/// A value that no agent can run with, by the name it has in the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Invalid {
    /// The key.
    pub key: &'static str,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that no agent can run with.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |key, reason: String| Err(Invalid { key, reason });
        let raft = &self.raft;
        if self.node_name.is_empty()
            || self.node_name.len() > 128
            || self.node_name.contains(char::is_control)
        {
            return invalid("node_name", "must be 1 to 128 bytes without control characters".to_owned());
        }
        let in_names =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if self.datacenter.is_empty() || !self.datacenter.bytes().all(in_names) {
            let reason = format!("{:?}: may hold nothing but letters, digits, `-` and `_`", self.datacenter);
            return invalid("datacenter", reason);
        }
        let in_labels = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let unfit =
            |key: &&String| key.is_empty() || !key.chars().all(in_labels) || key.starts_with("consul-");
        if let Some(key) = self.tags.keys().find(unfit) {
            let reason = format!(
                "{key:?}: a label is called by letters, digits, `-` and `_`, and `consul-` is how Consul's own begin"
            );
            return invalid("tags", reason);
        }
        for (number, watch) in (1..).zip(&self.watches) {
            let right = watch.check().and_then(|()| watch.check_handler(self.enable_script_checks));
            if let Err(reason) = right {
                return invalid("watches", format!("number {number}: {reason}"));
            }
        }
        let labels = self.dns.labels();
        let short = labels.iter().all(|label| label.len() <= 63) && self.dns.domain.len() <= 128;
        if labels.is_empty() || !short {
            return invalid(
                "dns.domain",
                "must be a domain of up to 128 bytes, such as \"consul\"".to_owned(),
            );
        }
        if self.dns.domain.trim_matches('.').contains("..") {
            return invalid("dns.domain", format!("{:?} has a label with nothing in it", self.dns.domain));
        }
        if raft.heartbeat_ms == 0 || raft.heartbeat_ms > 60_000 {
            return invalid("raft.heartbeat_ms", format!("{} is not within 1..=60000", raft.heartbeat_ms));
        }
        if raft.election_timeout_min_ms < 2 * raft.heartbeat_ms {
            return invalid(
                "raft.election_timeout_min_ms",
                format!(
                    "{} is less than two heartbeats ({}); followers would depose a healthy leader",
                    raft.election_timeout_min_ms,
                    2 * raft.heartbeat_ms
                ),
            );
        }
        if raft.election_timeout_max_ms <= raft.election_timeout_min_ms
            || raft.election_timeout_max_ms > 600_000
        {
            return invalid(
                "raft.election_timeout_max_ms",
                format!(
                    "must be above election_timeout_min_ms ({}) and at most 600000",
                    raft.election_timeout_min_ms
                ),
            );
        }
        if raft.snapshot_entries == 0 {
            return invalid("raft.snapshot_entries", "must be at least 1".to_owned());
        }
        if raft.snapshot_after_bytes == 0 {
            return invalid("raft.snapshot_after_bytes", "must be at least 1".to_owned());
        }
        if !(1024..=16 << 20).contains(&raft.snapshot_chunk_bytes) {
            return invalid("raft.snapshot_chunk_bytes", "must be 1024 to 16777216".to_owned());
        }
        if raft.request_timeout_ms == 0 {
            return invalid("raft.request_timeout_ms", "must be at least 1".to_owned());
        }
        if !(4096..=1 << 30).contains(&raft.segment_bytes) {
            return invalid("raft.segment_bytes", "must be 4096 to 1073741824".to_owned());
        }
        if raft.cache_bytes > 1 << 30 {
            return invalid("raft.cache_bytes", "must be at most 1073741824".to_owned());
        }
        if self.bootstrap != Bootstrap::Wait && !self.server {
            return invalid(
                "bootstrap",
                "only a server can found a cluster: make it one with server".to_owned(),
            );
        }
        if !(1..=NEWEST_PROTOCOL).contains(&self.protocol) {
            return invalid("protocol", format!("{} is not within 1..={NEWEST_PROTOCOL}", self.protocol));
        }
        if self.bootstrap == Bootstrap::Expect(0) {
            return invalid("bootstrap", "expect needs a number of servers of at least 1".to_owned());
        }
        if self.limits.key_bytes == 0 {
            return invalid("limits.key_bytes", "must be at least 1: no key could be written".to_owned());
        }
        if self.limits.value_bytes > 8 << 20 {
            return invalid("limits.value_bytes", "must be at most 8388608".to_owned());
        }
        if !(1..=86_400_000).contains(&self.limits.session_ttl_min_ms) {
            return invalid("limits.session_ttl_min_ms", "must be 1 to 86400000".to_owned());
        }
        if !(1..=1 << 30).contains(&self.limits.snapshot_bytes) {
            return invalid("limits.snapshot_bytes", "must be 1 to 1073741824".to_owned());
        }
        if self.limits.http_connections == 0 {
            return invalid("limits.http_connections", "must be at least 1".to_owned());
        }
        if self.limits.http_connections_per_client == 0 {
            return invalid("limits.http_connections_per_client", "must be at least 1".to_owned());
        }
        let tls = &self.tls;
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            return invalid(
                "tls.key_file",
                "a certificate and its key go together: say both or none".to_owned(),
            );
        }
        if tls.is_demanded() && (tls.cert_file.is_none() || tls.ca_file.is_none()) {
            let reason = "to verify others, this agent needs ca_file, and cert_file and key_file of its own";
            return invalid("tls", reason.to_owned());
        }
        if let Some((first, second, addr)) = self.taken_twice() {
            return invalid(second, format!("{addr} is {first} already; each needs an address of its own"));
        }
        if self.https_addr.is_some() && tls.cert_file.is_none() {
            return invalid("https_addr", "HTTPS needs tls.cert_file and tls.key_file".to_owned());
        }
        if self.limits.http_read_timeout_ms == 0 {
            return invalid("limits.http_read_timeout_ms", "must be at least 1".to_owned());
        }
        if let Err(error) = Ring::parse(self.encrypt.expose()) {
            return invalid("encrypt", error.to_string());
        }
        if self.acl.token_ttl_ms > 600_000 {
            return invalid("acl.token_ttl_ms", "must be at most 600000".to_owned());
        }
        self.gossip.check().map_err(|reason| Invalid { key: "gossip", reason })
    }
}

impl Config {
    /// Two that would listen for TCP at one address. Gossip and DNS listen for UDP and TCP; port 0 is a free one each time.
    fn taken_twice(&self) -> Option<(&'static str, &'static str, SocketAddr)> {
        let listens = [
            ("http_addr", Some(self.http_addr)),
            ("https_addr", self.https_addr),
            ("rpc_addr", Some(self.rpc_addr).filter(|_| self.server)),
            ("gossip_addr", Some(self.gossip_addr)),
            ("dns.addr", self.dns.addr),
        ];
        listens.iter().enumerate().find_map(|(number, (second, addr))| {
            let addr = addr.filter(|addr| addr.port() != 0)?;
            // Who listens at every address of the host listens at this one too.
            let collides = |other: SocketAddr| {
                let (a, b) = (addr.ip(), other.ip());
                let everywhere = a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified());
                addr.port() == other.port() && (a == b || everywhere)
            };
            let taken = listens[..number].iter().find(|(_, other)| other.is_some_and(collides));
            taken.map(|(first, _)| (*first, *second, addr))
        })
    }

    /// Says if DNS cannot find the node by its name. The agent runs all the same, as Consul's does.
    pub fn warn_of_name(&self) -> Option<String> {
        let in_labels = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(in_labels);
        // Those of a host's full name are found one by one.
        if self.node_name.split('.').all(is_label) {
            return None;
        }
        Some(format!(
            "node_name: {:?} is no name for DNS, and this node will not be found there: use letters, digits and `-`, at most 63",
            self.node_name
        ))
    }

    /// How gossip is to be encrypted.
    pub fn encryption(&self) -> Encryption {
        Encryption {
            keys: self.encrypt.expose().to_owned(),
            verify_incoming: self.encrypt_verify_incoming,
            verify_outgoing: self.encrypt_verify_outgoing,
        }
    }
}

impl RaftConfig {
    /// How long a client's request may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}
