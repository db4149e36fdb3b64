//! `driftline agent`: what flags and files come to. A flag wins over a file, a file over a default.
//!
//! [`super::process`] runs it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use driftline::agent::local::define;
use driftline::agent::meta::{Meta, Role};
use driftline::config::file::{self, Said, Source};
use driftline::config::{Bootstrap, Config, Invalid, Place};
use driftline::env::real::tls;
use driftline::secret::Secret;
use driftline::{config, http, telemetry};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};

use super::dashes::truth;
use super::{Problem, complain, process, resolve, secrets};

/// The flags of `driftline agent`.
#[derive(Args, Clone, Debug, Default)]
pub struct AgentArgs {
    /// Configuration file, .toml or .json, or a directory of such; may be repeated, later files win
    #[arg(long, value_name = "PATH", aliases = ["config-file", "config-dir"])]
    config: Vec<PathBuf>,
    /// The form of all these files, whose names must say the same
    #[arg(long, value_enum, value_name = "FORM")]
    config_format: Option<FileForm>,
    /// Be a server: keep the state, with the other servers. Without this the agent is a client, which asks servers
    #[arg(long)]
    server: bool,
    /// Development mode: one server, all in memory, gone when the agent stops
    #[arg(long, conflicts_with = "data_dir")]
    dev: bool,
    /// Directory for the agent's files; required unless --dev
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name of this node, unique in the cluster [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Found a cluster of this server alone, unless it already belongs to one
    #[arg(long, conflicts_with = "bootstrap_expect")]
    bootstrap: bool,
    /// Found a cluster once this many servers that expect the same number have met
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    bootstrap_expect: Option<u32>,
    /// Gossip address of a member to join at start; failing to reach any is an error; may be repeated
    #[arg(long, value_name = "HOST[:PORT]")]
    join: Vec<String>,
    /// Gossip address of a member to join, tried until one answers, a name looked up at every try; may be repeated
    #[arg(long, value_name = "HOST[:PORT]")]
    retry_join: Vec<String>,
    /// Pause between two tries of --retry-join, as in 30s
    #[arg(long, value_name = "DURATION")]
    retry_interval: Option<String>,
    /// Give up after so many tries of --retry-join; 0 never does
    #[arg(long, value_name = "N")]
    retry_max: Option<u32>,
    /// Look for the members that were known at the last leave
    #[arg(long)]
    rejoin: bool,
    /// IP address that RPC and gossip listen on
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// IP address that other members reach this node at
    #[arg(long, value_name = "IP", alias = "advertise-addr")]
    advertise: Option<IpAddr>,
    /// IP address that the HTTP API and the DNS server listen on
    #[arg(long, value_name = "IP", conflicts_with = "http_addr")]
    client: Option<IpAddr>,
    /// Name of the datacenter
    #[arg(long, value_name = "NAME")]
    datacenter: Option<String>,
    /// Domain that the DNS server answers for
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Label of this node; may be repeated
    #[arg(long, value_name = "KEY:VALUE", value_parser = label)]
    node_meta: Vec<(String, String)>,
    // Consul's. It is taken only to say what to do instead.
    #[arg(long, value_name = "KEY", hide = true)]
    encrypt: Option<String>,
    /// Let checks and watches run programs
    #[arg(long)]
    enable_script_checks: bool,
    /// Address of the HTTP API
    #[arg(long, value_name = "IP:PORT")]
    http_addr: Option<SocketAddr>,
    /// Address of the HTTP API by HTTPS
    #[arg(long, value_name = "IP:PORT")]
    https_addr: Option<SocketAddr>,
    /// Port of the HTTP API; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// Port of the HTTP API by HTTPS, at the IP of the HTTP API; 0 picks a free one, -1 is none
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(i32).range(-1..=65_535), allow_negative_numbers = true, conflicts_with = "https_addr")]
    https_port: Option<i32>,
    /// Port of the DNS server, at the IP of the HTTP API; 0 picks a free one. Without this and dns.addr, or with -1, there is none
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(i32).range(-1..=65_535), allow_negative_numbers = true)]
    dns_port: Option<i32>,
    /// Port for traffic between servers; 0 picks a free one
    #[arg(long, value_name = "PORT", alias = "server-port")]
    rpc_port: Option<u16>,
    /// Port for gossip, UDP and TCP; 0 picks a free one
    #[arg(long, value_name = "PORT", aliases = ["serf-port", "serf-lan-port"])]
    gossip_port: Option<u16>,
    /// What is logged: off, error, warn, info, debug, trace, or tracing directives [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log JSON lines
    #[arg(long)]
    log_json: bool,
    /// File that holds the process id while the agent runs
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[command(flatten)]
    _as_it_is: AsItIs,
    /// Standard input holds the strings: see `env::real::puppet`
    #[cfg(feature = "testbed")]
    #[arg(long, hide = true, requires = "data_dir")]
    pub puppet: bool,
}

/// Flags of Consul's that say what is so here in any case. They are taken where they say that, and refused where they say
/// anything else, which would not come true.
#[derive(Args, Clone, Debug, Default)]
struct AsItIs {
    // The status page is always there.
    #[arg(long = "ui", hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = only_yes)]
    _ui: Option<bool>,
    // A node's id is drawn, and never that of its host.
    #[arg(long = "disable-host-node-id", hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = only_yes)]
    _disable_host_node_id: Option<bool>,
    // Versions of protocols that only Consul's agents speak among themselves.
    #[arg(long = "raft-protocol", hide = true, value_name = "N", value_parser = ["3"])]
    _raft_protocol: Option<String>,
    #[arg(long = "protocol", hide = true, value_name = "N", value_parser = ["2", "3"])]
    _protocol: Option<String>,
    // There is neither gRPC nor a wide area.
    #[arg(long = "grpc-port", hide = true, value_name = "PORT", value_parser = ["-1"], allow_negative_numbers = true)]
    _grpc_port: Option<String>,
    #[arg(long = "grpc-tls-port", hide = true, value_name = "PORT", value_parser = ["-1"], allow_negative_numbers = true)]
    _grpc_tls_port: Option<String>,
    #[arg(long = "serf-wan-port", hide = true, value_name = "PORT", value_parser = ["-1"], allow_negative_numbers = true)]
    _serf_wan_port: Option<String>,
}

/// A value that says yes.
fn only_yes(text: &str) -> Result<bool, &'static str> {
    match truth(text) {
        Some(true) => Ok(true),
        Some(false) => Err("it is so in any case, and cannot be switched off"),
        None => Err("must be true"),
    }
}

/// The forms of configuration files.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileForm {
    Toml,
    Json,
}

impl FileForm {
    fn ending(self) -> &'static str {
        match self {
            FileForm::Toml => ".toml",
            FileForm::Json => ".json",
        }
    }
}

/// Everything `driftline agent` was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub config: Config,
    /// On which signals the agent leaves before it ends.
    pub leaves: Leaves,
    /// `None` keeps everything in memory.
    pub data_dir: Option<PathBuf>,
    pub tls: tls::Options,
    pub log_level: String,
    pub log_json: bool,
    pub pid_file: Option<PathBuf>,
}

/// Whether the agent leaves its cluster before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaves {
    pub on_interrupt: bool,
    pub on_terminate: bool,
}

/// Runs an agent to its end.
pub fn run(args: AgentArgs) -> Result<(), Problem> {
    let plan = planned(&args)?;
    warnings(&plan.config).iter().for_each(|warning| complain(warning));
    process::run(args, plan)
}

/// What files and flags come to, read anew while the agent runs.
pub fn reread(args: &AgentArgs) -> Result<Plan, Problem> {
    let plan = planned(args)?;
    // Its name stays as it is: that was said at the start.
    if let Some(warning) = outdated(&plan.config, UnixTime::now()) {
        tracing::warn!("{warning}");
    }
    Ok(plan)
}

/// What an agent runs with all the same, and somebody should know.
fn warnings(config: &Config) -> Vec<String> {
    let name = config.warn_of_name().map(|warning| format!("warning: {warning}"));
    name.into_iter().chain(outdated(config, UnixTime::now())).collect()
}

/// What files and flags come to, read now.
fn planned(args: &AgentArgs) -> Result<Plan, Problem> {
    let sources = sources(&args.config)?;
    check_form(&sources, args.config_format)?;
    plan(args.clone(), &sources, host_name())
}

/// The files of these paths, in the order in which they are laid over one another. Of a directory, those whose
/// names end as configuration files do, in the order of their names. Paths without any file are an error: they are misspelt or
/// not mounted, and the agent would run with defaults, without TLS and rights.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, Problem> {
    let mut sources = Vec::new();
    for path in paths {
        if !path.is_dir() {
            sources.push(read(path)?);
            continue;
        }
        let failed = |error| Problem::failed(format!("cannot read {}: {error}", path.display()));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let ending = file.extension().and_then(|ending| ending.to_str());
            // Whoever copied Consul's configuration means those in HCL too: they are refused when they are read.
            if matches!(ending, Some("toml" | "json" | "hcl")) && file.is_file() {
                files.push(file);
            }
        }
        files.sort();
        for file in files {
            sources.push(read(&file)?);
        }
    }
    match paths.first() {
        Some(path) if sources.is_empty() => {
            Err(Problem::failed(format!("no .toml or .json file in {}", path.display())))
        }
        _ => Ok(sources),
    }
}

/// Checks configuration files: whether an agent that is given them, and no flag besides, would start.
pub fn validate(paths: &[PathBuf], form: Option<FileForm>) -> Result<Vec<u8>, Problem> {
    let sources = sources(paths)?;
    check_form(&sources, form)?;
    let plan = plan(AgentArgs::default(), &sources, host_name());
    // It is the files that are wrong, and not the command line.
    let plan = plan.map_err(|problem| Problem::failed(problem.text))?;
    tls::Loaded::read(&plan.tls).map_err(Problem::failed)?;
    telemetry::filter(&plan.log_level).map_err(Problem::failed)?;
    warnings(&plan.config).iter().for_each(|warning| complain(warning));
    let files: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    Ok(format!("Configuration is valid: {}\n", files.join(", ")).into_bytes())
}

fn read(path: &Path) -> Result<Source, Problem> {
    let name = path.display().to_string();
    if path.extension().is_some_and(|ending| ending == "hcl") {
        return Err(Problem::failed(format!(
            "{name}: HCL is not read here, only TOML (.toml) and JSON (.json): write it as one of these"
        )));
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => Err(Problem::failed(format!("cannot read {name}: {error}"))),
    }
}

/// Refuses files of another form than was said. It is their names that say which they have.
fn check_form(sources: &[Source], said: Option<FileForm>) -> Result<(), Problem> {
    let Some(ending) = said.map(FileForm::ending) else { return Ok(()) };
    match sources.iter().find(|source| !source.name.ends_with(ending)) {
        Some(source) => Err(Problem::failed(format!(
            "{}: --config-format says that its name ends with {ending}",
            source.name
        ))),
        None => Ok(()),
    }
}

/// A secret of a configuration file: what it says, or where it is.
fn looked_up(secret: &Secret) -> Result<Secret, String> {
    let text = secret.expose();
    let found = if let Some(path) = text.strip_prefix("file:") {
        secrets::read(Path::new(path), "token")
    } else if let Some(name) = text.strip_prefix("env:") {
        let told = std::env::var(name).map_err(|_| format!("the environment has no {name}"))?;
        secrets::sound(Secret::new(told.trim()), name, "token")
    } else {
        return Ok(secret.clone());
    };
    found.map_err(|problem| problem.text)
}

/// Reads what the files do not say themselves but name a place for; a private key only has to be nobody else's to read.
fn take_secrets(config: &mut Config, process: &file::Process) -> Result<(), Problem> {
    for (name, token) in config.acl.tokens.each() {
        *token = looked_up(token).map_err(|why| Problem::failed(format!("acl.tokens.{name}: {why}")))?;
    }
    if let Some(file) = &process.encrypt_file {
        if !config.encrypt.is_empty() {
            return Err(Problem::failed("encrypt and encrypt_file are both given: say it once"));
        }
        config.encrypt = secrets::read(file, "key")?;
    }
    config.tls.key_file.as_deref().map_or(Ok(()), secrets::check)
}

/// Checks the configuration as a whole, and what it defines.
fn check(config: &Config) -> Result<(), Invalid> {
    let role = match config.bootstrap {
        _ if !config.server => Role::Client,
        Bootstrap::Expect(expect) => Role::Server { rpc_addr: config.rpc_addr, expect },
        _ => Role::Server { rpc_addr: config.rpc_addr, expect: 0 },
    };
    let checked = config.check().and_then(|()| define::configured(config).map(drop));
    checked.and_then(|()| Meta::of(config, role, config.http_addr.port()).check())
}

/// Checks where the process is to keep its files. The directory is made at the start, that of the file with its id is not.
fn check_places(data_dir: Option<&Path>, pid_file: Option<&Path>) -> Result<(), Invalid> {
    if data_dir.is_some_and(|directory| directory.as_os_str().is_empty()) {
        return Err(Invalid { key: "data_dir", reason: "must name a directory".to_owned() });
    }
    let Some(file) = pid_file else { return Ok(()) };
    let invalid = |reason: String| Err(Invalid { key: "pid_file", reason });
    match file.parent() {
        None => invalid(format!("{:?} names no file", file.display().to_string())),
        _ if file.is_dir() => invalid(format!("{} is a directory", file.display())),
        // Beside where the agent is started.
        Some(directory) if directory.as_os_str().is_empty() || directory.is_dir() => Ok(()),
        Some(directory) => invalid(format!("there is no directory {}", directory.display())),
    }
}

/// What is wrong, with the file that says it. An entry of a list is counted as in its file: nobody sees all of them together.
fn placed(Invalid { key, reason }: Invalid, said: &Said) -> String {
    let numbered = reason.strip_prefix("number ").and_then(|rest| rest.split_once(": "));
    let entry = numbered.and_then(|(number, why)| Some((said.entry(key, number.parse().ok()?)?, why)));
    if let Some(((file, number), why)) = entry {
        return format!("{file}: {key}: number {number}: {why}");
    }
    match said.by(key) {
        Some(file) => format!("{file}: {key}: {reason}"),
        None => format!("{key}: {reason}"),
    }
}

/// This agent's certificate and those between it and the authority. None if they cannot be read: `tls::Loaded` says so.
fn own_certificates(config: &Config) -> Vec<CertificateDer<'static>> {
    let Some(file) = &config.tls.cert_file else { return Vec::new() };
    CertificateDer::pem_file_iter(file).and_then(|found| found.collect()).unwrap_or_default()
}

/// Whether a server shows that it is one. Without the name the others take it for a client: it would start, and never vote.
fn check_name(config: &Config) -> Result<(), Problem> {
    let config::Tls { verify_incoming, verify_outgoing, verify_server_hostname, cert_file, .. } = &config.tls;
    let (true, true, Some(file)) =
        (config.server && *verify_server_hostname, *verify_incoming || *verify_outgoing, cert_file)
    else {
        return Ok(());
    };
    let own = own_certificates(config);
    let Some(Ok(parsed)) = own.first().map(ParsedCertificate::try_from) else { return Ok(()) };
    let names = tls::server_names(&config.datacenter);
    let is_for = |name: &String| {
        let name = ServerName::try_from(name.as_str());
        name.is_ok_and(|name| rustls::client::verify_server_name(&parsed, &name).is_ok())
    };
    if names.iter().any(is_for) {
        return Ok(());
    }
    Err(Problem::failed(format!(
        "tls.cert_file: {} is no server's certificate: it is neither for {} nor for {}, and the other servers would take \
         this one for a client. `driftline tls cert create --server --dc {}` makes one",
        file.display(),
        names[0],
        names[1],
        config.datacenter
    )))
}

/// Says if this agent's own certificate does not count at this time. The agent runs all the same: a new one can be put in its
/// place and loaded, and a clock can be set right.
fn outdated(config: &Config, now: UnixTime) -> Option<String> {
    let own = own_certificates(config);
    let (first, between) = own.split_first()?;
    let parsed = ParsedCertificate::try_from(first).ok()?;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    // Dates are looked at before anything else. Who signed is another question: no authority is asked.
    let nobody = RootCertStore::empty();
    let verified =
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, between, now, algorithms);
    let Err(rustls::Error::InvalidCertificate(error)) = verified else { return None };
    let why = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet by this machine's clock"
        }
        _ => return None,
    };
    let file = config.tls.cert_file.as_deref()?.display();
    Some(format!(
        "warning: tls.cert_file: {file} {why} ({error}): the other agents refuse it; put a new one in its place and reload"
    ))
}

/// `KEY:VALUE`, as Consul writes labels of nodes.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once(':').ok_or("must be KEY:VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// What all the files and flags come to.
fn plan(args: AgentArgs, sources: &[Source], host_name: Option<String>) -> Result<Plan, Problem> {
    let mut base = Config::default();
    if let Some(name) = host_name {
        base.node_name = name;
    }
    let file::Merged { mut config, process, said } =
        file::merge(&base, sources, &|text, port| resolve(text, port).map_err(|problem| problem.text))
            .map_err(|error| Problem::failed(error.to_string()))?;

    // Consul does so too.
    config.datacenter = config.datacenter.to_lowercase();
    let by_files = config.clone();
    take_secrets(&mut config, &process)?;
    if args.encrypt.is_some() {
        return Err(Problem::usage(
            "--encrypt: whoever lists the processes of this machine would read the key: put it into a file that is nobody \
             else's to read, and name that as encrypt_file in a configuration file",
        ));
    }
    if let Some(name) = args.node {
        config.node_name = name;
    }
    if let Some(ip) = args.bind {
        config.rpc_addr.set_ip(ip);
        config.gossip_addr.set_ip(ip);
    }
    if let Some(addr) = args.http_addr {
        config.http_addr = addr;
    }
    if let Some(ip) = args.client {
        config.http_addr.set_ip(ip);
        config.https_addr.as_mut().into_iter().chain(&mut config.dns.addr).for_each(|addr| addr.set_ip(ip));
    }
    config.datacenter = args.datacenter.map_or(config.datacenter, |name| name.to_lowercase());
    config.dns.domain = args.domain.unwrap_or(config.dns.domain);
    config.tags.extend(args.node_meta);
    config.enable_script_checks |= args.enable_script_checks;
    config.https_addr = args.https_addr.or(config.https_addr);
    let ports = [
        (args.http_port, &mut config.http_addr),
        (args.rpc_port, &mut config.rpc_addr),
        (args.gossip_port, &mut config.gossip_addr),
    ];
    for (port, addr) in ports {
        if let Some(port) = port {
            addr.set_port(port);
        }
    }
    for (port, addr) in [(args.https_port, &mut config.https_addr), (args.dns_port, &mut config.dns.addr)] {
        if let Some(port) = port {
            let ip = addr.unwrap_or(config.http_addr).ip();
            // What is no port says that there is none.
            *addr = u16::try_from(port).ok().map(|port| SocketAddr::new(ip, port));
        }
    }
    config.advertise = args.advertise.or(config.advertise);
    // Without a port, a member listens where this node does.
    let port = config.gossip_addr.port();
    for text in args.join {
        config.join.push(resolve(&text, port)?);
    }
    for text in args.retry_join {
        let place = Place::parse(&text, port);
        config.retry_join.push(place.map_err(|reason| Problem::usage(format!("--retry-join: {reason}")))?);
    }
    if let Some(text) = args.retry_interval {
        config.retry_interval_ms = http::parse_duration(&text)
            .and_then(|nanos| u64::try_from(nanos / 1_000_000).ok())
            .filter(|ms| *ms > 0)
            .ok_or_else(|| {
                Problem::usage(format!("--retry-interval {text:?}: must be a duration such as 30s or 1m30s"))
            })?;
    }
    config.retry_max = args.retry_max.unwrap_or(config.retry_max);
    config.rejoin_after_leave |= args.rejoin;
    config.server |= args.server || args.dev;
    if !config.server && (args.bootstrap || args.bootstrap_expect.is_some()) {
        return Err(Problem::usage("only a server can found a cluster: add --server"));
    }
    if args.bootstrap {
        config.bootstrap = Bootstrap::Alone;
    } else if let Some(servers) = args.bootstrap_expect {
        config.bootstrap = Bootstrap::Expect(servers);
    } else if args.dev && config.join.is_empty() && config.retry_join.is_empty() {
        config.bootstrap = Bootstrap::Alone;
    }

    let data_dir = if args.dev { None } else { args.data_dir.or(process.data_dir.clone()) };
    if data_dir.is_none() && !args.dev {
        return Err(Problem::usage(
            "an agent needs a directory for its files: give --data-dir DIR, or data_dir in a configuration file, or \
             --dev for a server that keeps nothing",
        ));
    }
    for (what, addr) in [("rpc_addr", config.rpc_addr), ("gossip_addr", config.gossip_addr)] {
        if (config.server || what != "rpc_addr") && addr.ip().is_unspecified() && config.advertise.is_none() {
            return Err(Problem::failed(format!(
                "{what} is {addr}, every address of this host, which tells other members none; \
                 say with --advertise IP at which of them they reach it"
            )));
        }
    }
    if config.advertise.is_some_and(|ip| ip.is_unspecified()) {
        let reason =
            "must be an address at which other members reach this one, and not every address of this host";
        let invalid = Invalid { key: "advertise", reason: reason.to_owned() };
        let by_flag = args.advertise.is_some();
        return Err(Problem::failed(if by_flag { format!("--{invalid}") } else { placed(invalid, &said) }));
    }
    let pid_file = args.pid_file.clone().or(process.pid_file.clone());
    let checked = check(&config).and_then(|()| check_places(data_dir.as_deref(), pid_file.as_deref()));
    checked.map_err(|invalid| {
        let by_flag = match invalid.key {
            "pid_file" => args.pid_file.is_some(),
            "data_dir" => data_dir != process.data_dir,
            key => value_at(&config, key) != value_at(&by_files, key),
        };
        Problem::failed(if by_flag { invalid.to_string() } else { placed(invalid, &said) })
    })?;
    check_name(&config)?;
    let leaves = Leaves {
        on_interrupt: !process.skip_leave_on_interrupt.unwrap_or(config.server),
        on_terminate: process.leave_on_terminate.unwrap_or(!config.server),
    };
    let tls = tls_options(&config);
    Ok(Plan {
        config,
        tls,
        leaves,
        data_dir,
        log_level: args
            .log_level
            .or(process.log_level)
            .unwrap_or_else(|| telemetry::DEFAULT_LEVEL.to_owned()),
        log_json: args.log_json || process.log_json.unwrap_or(false),
        pid_file,
    })
}

/// What a configuration has under a full name.
fn value_at(config: &Config, key: &str) -> Option<serde_json::Value> {
    let whole = serde_json::to_value(config).ok()?;
    key.split('.').try_fold(&whole, |at, key| at.get(key)).cloned()
}

/// What the network is told about TLS.
fn tls_options(config: &Config) -> tls::Options {
    let config::Tls {
        ca_file,
        cert_file,
        key_file,
        verify_incoming,
        verify_outgoing,
        verify_server_hostname,
        verify_incoming_https,
    } = config.tls.clone();
    tls::Options {
        ca_file,
        cert_file,
        key_file,
        server: config.server,
        verify_incoming,
        verify_outgoing,
        verify_server_hostname,
        verify_incoming_https,
        datacenter: config.datacenter.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn planned(line: &str, toml: &str) -> Result<Plan, Problem> {
        let words = ["driftline", "agent"].into_iter().chain(line.split_whitespace());
        let Command::Agent(args) = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
        let source = Source { name: "a.toml".to_owned(), text: toml.to_owned() };
        plan(*args, &[source], Some("host".to_owned()))
    }

    #[test]
    fn flags_win_over_files_and_files_over_defaults() {
        let file = "node_name = 'file'\nlog_level = 'debug'\nhttp_addr = '127.0.0.2:1'\ndata_dir = '/file'";
        let plan = planned("--node flag --http-port 2 --retry-interval 1m30s", file).unwrap();
        assert_eq!(plan.config.node_name, "flag");
        assert_eq!(plan.config.http_addr.to_string(), "127.0.0.2:2");
        assert_eq!(plan.config.retry_interval_ms, 90_000);
        assert_eq!((plan.log_level.as_str(), plan.data_dir), ("debug", Some("/file".into())));
        assert_eq!(planned("--data-dir /x", "").unwrap().config.node_name, "host");
    }

    #[test]
    fn what_consul_says_by_flags_is_understood() {
        let line = "--data-dir /x --client 10.0.0.1 --datacenter east --domain corp --node-meta rack:1 \
                    --node-meta zone:b:2 --enable-script-checks --serf-lan-port 7";
        let file = "datacenter = 'west'\ndns.addr = '127.0.0.1:8600'\ntags.rack = '0'";
        let config = planned(line, file).unwrap().config;
        assert_eq!(config.http_addr.to_string(), "10.0.0.1:8500");
        assert_eq!(config.dns.addr.unwrap().to_string(), "10.0.0.1:8600");
        assert_eq!((config.datacenter.as_str(), config.dns.domain.as_str()), ("east", "corp"));
        assert_eq!((config.tags["rack"].as_str(), config.tags["zone"].as_str()), ("1", "b:2"));
        assert!(config.enable_script_checks && config.gossip_addr.port() == 7);
        let problem = planned("--data-dir /x --encrypt c2VjcmV0", "").unwrap_err();
        assert!(problem.code == 2 && problem.text.contains("encrypt_file") && !problem.text.contains("c2Vj"));
        assert!(planned("--data-dir /x --client 10.0.0.1 --dns-port 53", "").is_ok_and(|plan| {
            plan.config.dns.addr.is_some_and(|addr| addr.to_string() == "10.0.0.1:53")
        }));
    }

    #[test]
    fn flags_of_consuls_are_taken_where_they_say_what_is_so() {
        let line = "--dev --ui --raft-protocol=3 --protocol 2 --disable-host-node-id=true --disable-host-node-id \
                    --grpc-port=-1 --grpc-tls-port -1 --serf-wan-port=-1 --https-port=-1 --dns-port -1";
        let config = planned(line, "dns.addr = '127.0.0.1:8600'").unwrap().config;
        assert_eq!((config.https_addr, config.dns.addr), (None, None));
        let https = planned("--dev --client 127.0.0.9 --https-port 8501", "").unwrap_err();
        assert!(https.text.starts_with("https_addr: "), "no certificate: {https:?}");
        for wrong in [
            "--ui=false",
            "--raft-protocol=2",
            "--protocol=1",
            "--disable-host-node-id=0",
            "--grpc-port=8502",
            "--https-port=-2",
            "--config-format=hcl",
        ] {
            let error = Cli::try_parse_from(["driftline", "agent", wrong]).unwrap_err();
            let (flag, value) = wrong.split_once('=').unwrap();
            let said = error.to_string();
            assert!(error.exit_code() == 2 && said.contains(flag) && said.contains(value), "{said}");
        }
    }

    #[test]
    fn a_datacenter_is_named_in_small_letters() {
        let named = |line: &str, file: &str| planned(&format!("--data-dir /x {line}"), file);
        assert_eq!(named("", "datacenter = 'DC1'").unwrap().config.datacenter, "dc1");
        assert_eq!(named("--datacenter EAST_2", "").unwrap().config.datacenter, "east_2");
        let problem = named("", "datacenter = 'DC 1'").unwrap_err().text;
        assert!(problem.starts_with("a.toml: datacenter: \"dc 1\": "), "{problem}");
        let problem = named("--datacenter a.b", "").unwrap_err().text;
        assert!(problem.starts_with("datacenter: \"a.b\": "), "{problem}");
        assert!(named("", "datacenter = ''").is_err());
    }

    #[test]
    fn a_name_that_dns_cannot_find_is_warned_of() {
        let warned = |name: &str| {
            let config = Config { node_name: name.to_owned(), ..Config::default() };
            config.warn_of_name().is_some()
        };
        assert!(!warned("web-1") && !warned("Web1") && !warned("web1.example.com"));
        assert!(warned("web_1") && warned("web 1") && warned("web..1") && warned(&"a".repeat(64)));
    }

    #[test]
    fn an_address_that_tells_others_nothing_is_told_of_whoever_says_it() {
        let problem = planned("--data-dir /x", "advertise = '0.0.0.0'").unwrap_err().text;
        assert!(problem.starts_with("a.toml: advertise: "), "{problem}");
        let problem =
            planned("--data-dir /x --advertise 0.0.0.0", "advertise = '10.0.0.1'").unwrap_err().text;
        assert!(problem.starts_with("--advertise: "), "{problem}");
    }

    #[test]
    fn development_mode_is_a_cluster_of_one_unless_it_joins() {
        let plan = planned("--dev", "data_dir = '/file'").unwrap();
        assert_eq!((plan.config.bootstrap, plan.data_dir), (Bootstrap::Alone, None));
        assert_eq!(planned("--dev --join 127.0.0.1", "").unwrap().config.bootstrap, Bootstrap::Wait);
        assert_eq!(planned("--dev --bootstrap-expect 3", "").unwrap().config.bootstrap, Bootstrap::Expect(3));
    }

    #[test]
    fn an_agent_is_a_client_unless_it_is_told_to_be_a_server() {
        let client = planned("--data-dir /x", "").unwrap();
        assert!(!client.config.server);
        assert_eq!(client.leaves, Leaves { on_interrupt: true, on_terminate: true });
        let server = planned("--data-dir /x --server", "").unwrap();
        assert!(server.config.server);
        assert_eq!(server.leaves, Leaves { on_interrupt: false, on_terminate: false });
        assert!(planned("--data-dir /x", "server = true").unwrap().config.server);
        assert!(planned("--dev", "").unwrap().config.server);
        let said = planned("--data-dir /x --server", "leave_on_terminate = true").unwrap();
        assert!(said.leaves.on_terminate && !said.leaves.on_interrupt);
        for founding in ["--bootstrap", "--bootstrap-expect 3"] {
            let problem = planned(&format!("--data-dir /x {founding}"), "").unwrap_err();
            assert!(problem.code == 2 && problem.text.contains("--server"), "{}", problem.text);
        }
        assert_eq!(planned("--data-dir /x", "bootstrap = 'alone'").unwrap_err().code, 1);
    }

    #[test]
    fn a_token_may_be_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "from-the-file\n").unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let toml = format!("[acl.tokens]\nagent = 'file:{}'\ndefault = 'plain'", file.display());
        let tokens = planned("--dev", &toml).unwrap().config.acl.tokens;
        assert_eq!((tokens.agent.expose(), tokens.default.expose()), ("from-the-file", "plain"));
        std::fs::write(&file, "two words\n").unwrap();
        let problem = planned("--dev", &toml).unwrap_err();
        assert!(
            problem.text.starts_with("acl.tokens.agent: ") && problem.text.contains(" holds no token: "),
            "{}",
            problem.text
        );
        for (place, why) in
            [("file:/nowhere", "cannot read /nowhere"), ("env:NO_SUCH_NAME", "has no NO_SUCH_NAME")]
        {
            let problem = planned("--dev", &format!("acl.tokens.agent = '{place}'")).unwrap_err();
            assert!(
                problem.text.starts_with("acl.tokens.agent: ") && problem.text.contains(why),
                "{}",
                problem.text
            );
        }
    }

    #[test]
    fn an_address_that_nobody_can_reach_is_refused() {
        let problem = planned("--dev --bind 0.0.0.0", "").unwrap_err();
        assert!(problem.text.contains("--advertise"), "{}", problem.text);
        let plan = planned("--dev --bind 0.0.0.0 --advertise 10.0.0.1 --serf-port 9", "").unwrap();
        assert_eq!(plan.config.gossip_addr.to_string(), "0.0.0.0:9");
        assert_eq!(planned("--dev --advertise 0.0.0.0", "").unwrap_err().code, 1);
    }

    #[test]
    fn two_cannot_listen_at_one_address() {
        for (toml, told) in [
            ("rpc_addr = '127.0.0.1:8500'", "a.toml: rpc_addr: 127.0.0.1:8500 is http_addr already"),
            ("http_addr = '0.0.0.0:8301'", "gossip_addr: 127.0.0.1:8301 is http_addr already"),
            ("dns.addr = '127.0.0.1:8300'", "a.toml: dns.addr: 127.0.0.1:8300 is rpc_addr already"),
        ] {
            let problem = planned("--dev", toml).unwrap_err();
            assert!(problem.text.starts_with(told), "{}", problem.text);
        }
        // A client has no use for rpc_addr, and port 0 is another each time.
        assert!(planned("--data-dir /x", "rpc_addr = '127.0.0.1:8500'").is_ok());
        assert!(planned("--dev --http-port 0 --rpc-port 0 --gossip-port 0", "").is_ok());
    }

    #[test]
    fn a_directory_without_configuration_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("agent.toml.bak"), "server = true").unwrap();
        let problem = sources(&[directory.path().to_owned()]).unwrap_err();
        assert_eq!(problem.text, format!("no .toml or .json file in {}", directory.path().display()));
        std::fs::write(directory.path().join("agent.toml"), "server = true").unwrap();
        assert_eq!(sources(&[directory.path().to_owned()]).unwrap().len(), 1);
    }

    #[test]
    fn a_file_in_hcl_is_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let (toml, hcl) = (directory.path().join("agent.toml"), directory.path().join("web.hcl"));
        std::fs::write(&toml, "data_dir = '/x'").unwrap();
        std::fs::write(&hcl, "service { name = \"web\" }").unwrap();
        for path in [directory.path(), hcl.as_path()] {
            let problem = validate(&[path.to_owned()], None).unwrap_err();
            assert!(problem.text.starts_with(&format!("{}: HCL is not read", hcl.display())), "{problem:?}");
        }
        let problem = validate(std::slice::from_ref(&toml), Some(FileForm::Json)).unwrap_err();
        assert!(problem.text.contains("--config-format says"), "{problem:?}");
        validate(&[toml], Some(FileForm::Toml)).unwrap();
    }

    /// A certificate of this name, valid in these years, and the table that uses it.
    fn certified(home: &Path, name: &str, years: std::ops::Range<i32>) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        // As `driftline tls cert create --client` makes it.
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let (cert, private) = (home.join("own.pem"), home.join("own-key.pem"));
        std::fs::write(&cert, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        format!(
            "[tls]\nca_file = {cert:?}\ncert_file = {cert:?}\nkey_file = {private:?}\nverify_incoming = true\n\
             verify_outgoing = true\n"
        )
    }

    #[test]
    fn a_server_whose_certificate_is_a_clients_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let table = |name: &str| certified(directory.path(), name, 2000..4000);
        for name in ["server.dc1.driftline", "server.dc1.consul"] {
            planned("--dev", &table(name)).unwrap();
        }
        for name in ["client.dc1.driftline", "server.dc2.driftline"] {
            let problem = planned("--dev", &table(name)).unwrap_err();
            assert!(problem.text.contains("own.pem is no server's certificate"), "{}", problem.text);
            assert!(planned("--data-dir /x", &table(name)).is_ok(), "a client may");
            assert!(planned("--dev", &format!("{}verify_server_hostname = false", table(name))).is_ok());
        }
    }

    #[test]
    fn a_certificate_that_does_not_count_now_is_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let warned = |years| {
            let toml = certified(directory.path(), "client.dc1.driftline", years);
            let config = planned("--data-dir /x", &toml).unwrap().config;
            outdated(&config, UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000)))
        };
        assert_eq!(warned(2000..4000), None);
        let (past, future) = (warned(2000..2001).unwrap(), warned(3000..4000).unwrap());
        assert!(past.contains("own.pem has expired"), "{past}");
        assert!(future.contains("own.pem is not valid yet"), "{future}");
        assert_eq!(outdated(&Config::default(), UnixTime::now()), None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        assert_eq!(planned("", "").unwrap_err().code, 2);
        assert_eq!(planned("--dev --retry-interval 3", "").unwrap_err().code, 2);
        let problem = planned("--dev", "[raft]\nheartbeat_ms = 0").unwrap_err();
        assert!(problem.text.starts_with("a.toml: raft.heartbeat_ms: "), "{}", problem.text);
        for (toml, told) in [
            ("data_dir = ''", "a.toml: data_dir: must name a directory"),
            ("data_dir = '/x'\npid_file = ''", "a.toml: pid_file: \"\" names no file"),
            (
                "data_dir = '/x'\npid_file = '/nowhere/at/all'",
                "a.toml: pid_file: there is no directory /nowhere/at",
            ),
            ("data_dir = '/x'\nlimits.key_bytes = 0", "a.toml: limits.key_bytes: must be at least 1"),
            (
                "data_dir = '/x'\ndomain = 'a..b'",
                "a.toml: dns.domain: \"a..b\" has a label with nothing in it",
            ),
        ] {
            let problem = planned("", toml).unwrap_err();
            assert!(problem.code == 1 && problem.text.starts_with(told), "{}", problem.text);
        }
        assert!(planned("", "data_dir = '/x'\npid_file = 'beside'\ndomain = 'a.b.'").is_ok());
        let problem = planned("--data-dir /x --domain a..b", "domain = 'b'").unwrap_err();
        assert!(problem.text.starts_with("dns.domain: "), "no file says it: {}", problem.text);
    }

    #[test]
    fn an_entry_is_counted_in_the_file_that_it_is_in() {
        let watch = "enable_script_checks = true\n[[watches]]\ntype = 'nodes'\nargs = ['true']\n";
        let service = "[[services]]\nname = 'web'\n";
        for (second, told) in [
            (format!("{service}[[services]]\nport = 1"), "b.toml: services: number 2: "),
            (format!("[[services]]\nport = 1\n{service}"), "b.toml: services: number 1: "),
            (
                "[[watches]]\ntype = 'nodes'\nkey = 'a'".to_owned(),
                "b.toml: watches: number 1: type \"nodes\" knows no key",
            ),
            (
                "[[checks]]\nname = 'c'\nttl = '1s'\nservice_id = 'x'".to_owned(),
                "b.toml: checks: number 1: there is no service",
            ),
        ] {
            let first = Source {
                name: "a.toml".to_owned(),
                text: format!("data_dir = '/x'\n{watch}[[services]]\nname = 'db'"),
            };
            let second = Source { name: "b.toml".to_owned(), text: second };
            let problem = plan(AgentArgs::default(), &[first, second], Some("host".to_owned())).unwrap_err();
            assert!(problem.text.starts_with(told), "{}", problem.text);
        }
    }
}
