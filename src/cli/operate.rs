//! The commands for those who run agents: status and doctor, reload, monitor, the servers of the Raft
//! configuration, and a bundle of all that helps to find a fault.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use driftline::env::Env;
use driftline::http::{client, parse_duration};
use hyper::Method;
use serde_json::{Value, json};

use super::ask::{ask, items, lines, parse, path, pretty, query, row, table, text, unanswered};
use super::autopilot::{self, Autopilot};
use super::tls::write_new;
use super::{Api, Format, Problem};

/// How long the agent may take to begin to answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Doctor {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Reload {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Monitor {
    /// Show lines of this level and above: trace, debug, info, warn, err
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// Show JSON lines
    #[arg(long)]
    log_json: bool,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Debug {
    /// The file to write; not there yet
    #[arg(long, default_value = "driftline-debug.json", value_name = "FILE")]
    output: PathBuf,
    /// Collect log lines for so long: seconds, or a duration such as 30s
    #[arg(long, default_value = "5", value_name = "DURATION", value_parser = seconds)]
    duration: Duration,
    #[command(flatten)]
    api: Api,
}

#[derive(Debug, Subcommand)]
pub enum Operator {
    /// The servers of the Raft configuration
    #[command(subcommand)]
    Raft(Raft),
    /// How the leader looks after the servers
    #[command(subcommand)]
    Autopilot(Autopilot),
    /// How much there is in the cluster
    #[command(subcommand)]
    Usage(Usage),
}

#[derive(Debug, Subcommand)]
pub enum Usage {
    /// Counts services and their instances
    Instances(Instances),
}

#[derive(Args, Debug)]
pub struct Instances {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

/// A number of seconds, or a duration in Go's notation.
fn seconds(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let nanos = parse_duration(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| "must be a duration such as 30s or 1m30s".to_owned())
}

#[derive(Debug, Subcommand)]
pub enum Raft {
    /// Lists the servers of the configuration in force
    ListPeers(ListPeers),
    /// Takes a server that is gone for good out of the configuration
    RemovePeer(RemovePeer),
    /// Hands leadership to another server
    TransferLeader(TransferLeader),
}

#[derive(Args, Debug)]
pub struct ListPeers {
    /// Let any server answer from what it has, which may be old
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct RemovePeer {
    /// The server's id or node name
    #[arg(long, required_unless_present = "address", conflicts_with = "address")]
    id: Option<String>,
    /// The server's RPC address
    #[arg(long, value_name = "IP:PORT")]
    address: Option<String>,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct TransferLeader {
    /// The heir's id or node name; without it the voter that is furthest along
    #[arg(long)]
    id: Option<String>,
    #[command(flatten)]
    api: Api,
}

async fn get(env: &Env, api: &Api, path: &str) -> Result<Value, Problem> {
    parse(&ask(env, api, Method::GET, path, Bytes::new(), false).await?)
}

/// Whether there is a leader, who it is, and who is there.
pub async fn status(env: &Env, args: Status) -> Result<Vec<u8>, Problem> {
    let leader = get(env, &args.api, "/v1/status/leader").await?;
    let peers = get(env, &args.api, "/v1/status/peers").await?;
    let members = get(env, &args.api, "/v1/agent/members").await?;
    let this = get(env, &args.api, "/v1/agent/self").await?;
    let count = |status: u64| items(&members).iter().filter(|member| member["Status"] == status).count();
    let server = this["Config"]["Server"] == true;
    if args.format.is_json() {
        return Ok(pretty(&json!({
            "Node": this["Config"]["NodeName"],
            "Server": server,
            "Leader": leader,
            "Peers": peers,
            "Members": { "Alive": count(1), "Leaving": count(2), "Left": count(3), "Failed": count(4) },
        })));
    }
    let voters: Vec<&str> = items(&peers).iter().filter_map(Value::as_str).collect();
    let leader = leader.as_str().filter(|leader| !leader.is_empty()).unwrap_or("none");
    let node = text(&this["Config"], "NodeName");
    let rows = [
        row(["Node", &format!("{node} ({})", if server { "server" } else { "client" })]),
        row(["Leader", leader]),
        row(["Voters", &voters.join(" ")]),
        row(["Members", &format!("{} alive, {} failed, {} left", count(1), count(4), count(3))]),
    ];
    Ok(table(&rows))
}

/// What this node sees, in words. Without a leader it is a problem, so that scripts notice.
pub async fn doctor(env: &Env, args: Doctor) -> Result<Vec<u8>, Problem> {
    let why = get(env, &args.api, "/v1/status/why").await?;
    if args.format.is_json() {
        return Ok(pretty(&why));
    }
    let mut output = Vec::new();
    for finding in items(&why["Findings"]) {
        output.push(format!("{:8} {}", format!("[{}]", text(finding, "Level")), text(finding, "What")));
        let advice = text(finding, "Do");
        if !advice.is_empty() {
            output.push(format!("{:8} -> {advice}", ""));
        }
    }
    let output = lines(output.iter().map(String::as_str));
    if why["Leader"] == true {
        return Ok(output);
    }
    Err(Problem::failed(format!("there is no leader\n{}", String::from_utf8_lossy(&output).trim_end())))
}

/// Makes the agent read its configuration again.
pub async fn reload(env: &Env, args: Reload) -> Result<Vec<u8>, Problem> {
    let response = ask(env, &args.api, Method::PUT, "/v1/agent/reload", Bytes::new(), false).await?;
    let reloaded = parse(&response)?;
    if args.format.is_json() {
        return Ok(pretty(&reloaded));
    }
    let keys = |name: &str| {
        let keys: Vec<&str> = items(&reloaded[name]).iter().filter_map(Value::as_str).collect();
        if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
    };
    let applied = format!("In force: {}", keys("Applied"));
    let waiting = format!("Waits for a restart: {}", keys("NeedsRestart"));
    Ok(lines([applied.as_str(), waiting.as_str()]))
}

async fn open_log(env: &Env, api: &Api, level: &str, json: bool) -> Result<client::Streaming, Problem> {
    let (env, addr) = api.reach(env)?;
    let query = query([("loglevel", Some(level.to_owned())), ("logjson", json.then(|| "true".to_owned()))]);
    let opened =
        client::open(&env, addr, &api.token.secret()?, &format!("/v1/agent/monitor{query}"), PATIENCE).await;
    let mut log = opened.map_err(|error| Problem::failed(unanswered(addr, &error)))?;
    if log.status != 200 {
        let mut text = Vec::new();
        while let Some(chunk) = log.next().await {
            text.extend_from_slice(&chunk);
        }
        let (status, text) = (log.status, String::from_utf8_lossy(&text).into_owned());
        return Err(Problem::failed(format!("the agent at {addr} answers {status}: {text}")));
    }
    Ok(log)
}

/// Shows log lines as they come, until the agent stops or this command is interrupted.
pub async fn monitor(env: &Env, args: Monitor) -> Result<Vec<u8>, Problem> {
    let mut log = open_log(env, &args.api, &args.log_level, args.log_json).await?;
    while let Some(chunk) = log.next().await {
        let mut out = io::stdout();
        if out.write_all(&chunk).and_then(|()| out.flush()).is_err() {
            // Whoever read it has had enough of it.
            break;
        }
    }
    Ok(Vec::new())
}

/// Everything that helps to find a fault, in one file.
pub async fn debug(env: &Env, args: Debug) -> Result<Vec<u8>, Problem> {
    if args.output.exists() {
        return Err(Problem::failed(format!("{} exists already", args.output.display())));
    }
    let mut bundle = serde_json::Map::new();
    let parts = [
        ("self", "/v1/agent/self"),
        ("members", "/v1/agent/members"),
        ("metrics", "/v1/agent/metrics"),
        ("leader", "/v1/status/leader"),
        ("peers", "/v1/status/peers"),
        ("why", "/v1/status/why"),
        ("configuration", "/v1/operator/raft/configuration?stale"),
    ];
    for (name, path) in parts {
        // What cannot be had tells something too.
        let part = get(env, &args.api, path).await.unwrap_or_else(|problem| json!({ "error": problem.text }));
        bundle.insert(name.to_owned(), part);
    }
    let mut log = open_log(env, &args.api, "debug", false).await?;
    let mut heard = Vec::new();
    let until = env.now() + args.duration;
    while let Ok(Some(chunk)) = env.timeout(until.since(env.now()), log.next()).await {
        heard.extend_from_slice(&chunk);
    }
    let heard = String::from_utf8_lossy(&heard).lines().map(|line| json!(line)).collect();
    bundle.insert("log".to_owned(), Value::Array(heard));
    // What is in it is nobody else's business, and what has come to be there meanwhile is not written over.
    write_new(&args.output, &pretty(&Value::Object(bundle)), 0o600)?;
    let name = args.output.display();
    Ok(lines([format!(
        "Written: {name}. It holds addresses, names and log lines; values stay where they are."
    )
    .as_str()]))
}

/// The servers of the Raft configuration.
pub async fn operator(env: &Env, command: Operator) -> Result<Vec<u8>, Problem> {
    let command = match command {
        Operator::Raft(command) => command,
        Operator::Autopilot(command) => return autopilot::run(env, command).await,
        Operator::Usage(Usage::Instances(args)) => return instances(env, args).await,
    };
    match command {
        Raft::ListPeers(args) => {
            let stale = query([("stale", args.stale.then(String::new))]);
            let path = format!("/v1/operator/raft/configuration{stale}");
            let configuration = get(env, &args.api, &path).await?;
            if args.format.is_json() {
                return Ok(pretty(&configuration));
            }
            let mut rows = vec![row(["Node", "ID", "Address", "State", "Voter", "Last index"])];
            for server in items(&configuration["Servers"]) {
                let state = if server["Leader"] == true { "leader" } else { "follower" };
                let voter = if server["Voter"] == true { "true" } else { "false" };
                let last = server["LastIndex"].as_u64().map_or("-".to_owned(), |index| index.to_string());
                let (node, id, address) = (text(server, "Node"), text(server, "ID"), text(server, "Address"));
                rows.push(row([node, id, address, state, voter, &last]));
            }
            Ok([table(&rows), who_knows(&configuration)].concat())
        }
        Raft::RemovePeer(args) => {
            let query = query([("id", args.id), ("address", args.address)]);
            let path = format!("{}{query}", path("/v1/operator/raft/peer"));
            ask(env, &args.api, Method::DELETE, &path, Bytes::new(), false).await?;
            Ok(lines(["The server is out of the configuration."]))
        }
        Raft::TransferLeader(args) => {
            let path = format!("/v1/operator/raft/transfer-leader{}", query([("id", args.id)]));
            ask(env, &args.api, Method::POST, &path, Bytes::new(), false).await?;
            Ok(lines(["Leadership was handed over."]))
        }
    }
}

/// How many services there are in each datacenter, and instances of them.
async fn instances(env: &Env, args: Instances) -> Result<Vec<u8>, Problem> {
    let usage = get(env, &args.api, "/v1/operator/usage").await?;
    if args.format.is_json() {
        return Ok(pretty(&usage));
    }
    let mut rows = vec![row(["Datacenter", "Nodes", "Services", "Instances", "Billable", "Mesh"])];
    for (datacenter, used) in usage["Usage"].as_object().into_iter().flatten() {
        let count = |name: &str| used[name].to_string();
        let kinds = used["ConnectServiceInstances"].as_object().into_iter().flatten();
        let mesh: u64 = kinds.filter_map(|(_, count)| count.as_u64()).sum();
        let (nodes, services) = (count("Nodes"), count("Services"));
        let (instances, billable) = (count("ServiceInstances"), count("BillableServiceInstances"));
        rows.push(row([datacenter, &nodes, &services, &instances, &billable, &mesh.to_string()]));
    }
    Ok(table(&rows))
}

/// Whom to ask for the indexes that are not known here, if there are such.
fn who_knows(configuration: &Value) -> Vec<u8> {
    let servers = items(&configuration["Servers"]);
    // The leader knows its own, so where its own is unknown, somebody else has answered.
    let leader = servers.iter().find(|server| server["Leader"] == true);
    if leader.is_some_and(|leader| leader["LastIndex"].is_u64()) {
        return Vec::new();
    }
    let told =
        leader.map_or("Without a leader nobody knows the log index of the others.".to_owned(), |leader| {
            format!("Only the leader ({}) knows the log index of the others: ask it.", text(leader, "Node"))
        });
    lines([told.as_str()])
}
