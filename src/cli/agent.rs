//! `driftline agent`: files and flags become a [`Config`], and the config a running node.
//!
//! A flag wins over a file, a file over a default. Once the node runs, one line on standard output says
//! where it listens, with the real ports; logs go to standard error. The first SIGINT or SIGTERM makes
//! it leave its cluster gracefully, a second one ends it at once.

use std::future::Future;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use driftline::config::file::{self, Source};
use driftline::config::{Bootstrap, Config};
use driftline::env::{Env, real};
use driftline::{http, node, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::{Problem, complain, resolve};

/// How long jobs that still block may hold up the end of the process.
const LAST_JOBS: Duration = Duration::from_secs(2);

/// The flags of `driftline agent`.
#[derive(Args, Debug, Default)]
pub struct AgentArgs {
    /// Configuration file, .toml or .json; may be repeated, later files win
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Development mode: a cluster of one, all in memory, gone when the agent stops
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
    /// Gossip address of a member to join, tried until one answers; may be repeated
    #[arg(long, value_name = "HOST[:PORT]")]
    retry_join: Vec<String>,
    /// Pause between two tries of --retry-join, as in 30s
    #[arg(long, value_name = "DURATION")]
    retry_interval: Option<String>,
    /// Give up after so many tries of --retry-join; 0 never does
    #[arg(long, value_name = "N")]
    retry_max: Option<u32>,
    /// IP address that RPC and gossip listen on
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// IP address that other members reach this node at
    #[arg(long, value_name = "IP")]
    advertise: Option<IpAddr>,
    /// Address of the HTTP API
    #[arg(long, value_name = "IP:PORT")]
    http_addr: Option<SocketAddr>,
    /// Port of the HTTP API; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// Port for traffic between servers; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    rpc_port: Option<u16>,
    /// Port for gossip, UDP and TCP; 0 picks a free one
    #[arg(long, value_name = "PORT", alias = "serf-port")]
    gossip_port: Option<u16>,
    /// What is logged: error, warn, info, debug, trace, or tracing directives [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log JSON lines
    #[arg(long)]
    log_json: bool,
    /// Standard input holds the strings: see `env::real::puppet`
    #[cfg(feature = "testbed")]
    #[arg(long, hide = true, requires = "data_dir")]
    puppet: bool,
}

/// Everything `driftline agent` was told.
#[derive(Debug, PartialEq)]
struct Plan {
    config: Config,
    /// `None` keeps everything in memory.
    data_dir: Option<PathBuf>,
    log_level: String,
    log_json: bool,
}

/// Runs an agent to its end.
pub fn run(args: AgentArgs) -> Result<(), Problem> {
    let sources = args.config.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    #[cfg(feature = "testbed")]
    let puppet = args.puppet;
    let plan = plan(args, &sources, host_name())?;
    telemetry::start(&plan.log_level, plan.log_json).map_err(Problem::usage)?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("cannot start the runtime: {error}")))?;
    let ended = runtime.block_on(async {
        // The clock and the sockets of the real world need the runtime to be there already.
        let env = match &plan.data_dir {
            #[cfg(feature = "testbed")]
            Some(directory) if puppet => {
                let (env, mutant) = real::puppet::env(directory)
                    .map_err(|error| Problem::failed(format!("the testbed's strings: {error}")))?;
                mutant.iter().for_each(|mutant| driftline::mutant::activate(mutant));
                env
            }
            Some(directory) => {
                real::env(directory).map_err(|error| Problem::failed(format!("data directory: {error}")))?
            }
            None => real::ephemeral_env()
                .map_err(|error| Problem::failed(format!("cannot start in memory: {error}")))?,
        };
        let shutdown = signals(&env)?;
        let place = plan.data_dir.as_deref().map_or("in memory".to_owned(), |dir| dir.display().to_string());
        let announce = announce(plan.config.node_name.clone(), place);
        node::run(env, plan.config, shutdown, announce)
            .await
            .map_err(|error| Problem::failed(error.to_string()))
    });
    runtime.shutdown_timeout(LAST_JOBS);
    ended
}

/// One line that says where the node listens.
fn announce(node: String, place: String) -> impl FnOnce(&node::Listening) + Send {
    move |listening| {
        let node::Listening { http, rpc, gossip } = listening;
        let mut out = io::stdout();
        // Nobody may be reading; the node runs all the same.
        let _ =
            writeln!(out, "driftline: {node} is up: HTTP {http}, RPC {rpc}, gossip {gossip}, data {place}");
        let _ = out.flush();
    }
}

/// Completes at the first SIGINT or SIGTERM. The second ends the process.
fn signals(env: &Env) -> Result<impl Future<Output = ()> + Send + use<>, Problem> {
    let listen =
        |kind| signal(kind).map_err(|error| Problem::failed(format!("cannot listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (first, told) = oneshot::channel();
    drop(env.spawn(async move {
        let mut next = async || {
            tokio::select! {
                biased;
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        let _ = first.send(());
        next().await;
        complain("stopped at once by a second signal");
        std::process::exit(1);
    }));
    Ok(async move {
        // An error says that the task is gone, and the runtime with it.
        let _ = told.await;
    })
}

fn read(path: &Path) -> Result<Source, Problem> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => Err(Problem::failed(format!("cannot read {name}: {error}"))),
    }
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
    let file::Merged { mut config, process } =
        file::merge(&base, sources).map_err(|error| Problem::failed(error.to_string()))?;

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
    config.advertise = args.advertise.or(config.advertise);
    // Without a port, a member listens where this node does.
    let port = config.gossip_addr.port();
    for (given, list) in [(args.join, &mut config.join), (args.retry_join, &mut config.retry_join)] {
        for text in given {
            list.push(resolve(&text, port)?);
        }
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
    if args.bootstrap {
        config.bootstrap = Bootstrap::Alone;
    } else if let Some(servers) = args.bootstrap_expect {
        config.bootstrap = Bootstrap::Expect(servers);
    } else if args.dev && config.join.is_empty() && config.retry_join.is_empty() {
        config.bootstrap = Bootstrap::Alone;
    }

    let data_dir = if args.dev { None } else { args.data_dir.or(process.data_dir) };
    if data_dir.is_none() && !args.dev {
        return Err(Problem::usage(
            "an agent needs a directory for its files: give --data-dir DIR, or --dev to keep nothing",
        ));
    }
    for (what, addr) in [("rpc_addr", config.rpc_addr), ("gossip_addr", config.gossip_addr)] {
        if addr.ip().is_unspecified() && config.advertise.is_none() {
            return Err(Problem::failed(format!(
                "{what} is {addr}, every address of this host, which tells other members none; \
                 say with --advertise IP at which of them they reach it"
            )));
        }
    }
    if config.advertise.is_some_and(|ip| ip.is_unspecified()) {
        return Err(Problem::failed("--advertise must be an address that other members can reach"));
    }
    config.check().map_err(|error| Problem::failed(error.to_string()))?;
    Ok(Plan {
        config,
        data_dir,
        log_level: args
            .log_level
            .or(process.log_level)
            .unwrap_or_else(|| telemetry::DEFAULT_LEVEL.to_owned()),
        log_json: args.log_json || process.log_json.unwrap_or(false),
    })
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
    fn development_mode_is_a_cluster_of_one_unless_it_joins() {
        let plan = planned("--dev", "data_dir = '/file'").unwrap();
        assert_eq!((plan.config.bootstrap, plan.data_dir), (Bootstrap::Alone, None));
        assert_eq!(planned("--dev --join 127.0.0.1", "").unwrap().config.bootstrap, Bootstrap::Wait);
        assert_eq!(planned("--dev --bootstrap-expect 3", "").unwrap().config.bootstrap, Bootstrap::Expect(3));
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
    fn what_is_missing_or_wrong_is_said() {
        assert_eq!(planned("", "").unwrap_err().code, 2);
        assert_eq!(planned("--dev --retry-interval 3", "").unwrap_err().code, 2);
        let problem = planned("--dev", "[raft]\nheartbeat_ms = 0").unwrap_err();
        assert!(problem.text.starts_with("raft.heartbeat_ms: "), "{}", problem.text);
    }
}
