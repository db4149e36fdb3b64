//! `driftline operator autopilot`: how the leader looks after the servers.

use bytes::Bytes;
use clap::{Args, Subcommand};
use driftline::env::Env;
use hyper::Method;
use serde_json::Value;

use super::ask::{ask, lines, parse, pretty, row, table, text};
use super::dashes::truth;
use super::{Api, Format, Problem};

const CONFIGURATION: &str = "/v1/operator/autopilot/configuration";

#[derive(Debug, Subcommand)]
pub enum Autopilot {
    /// Shows the configuration in force
    GetConfig(GetConfig),
    /// Changes what is given of the configuration and leaves the rest
    SetConfig(SetConfig),
    /// Shows how the servers fare, as the leader sees them
    State(State),
}

#[derive(Args, Debug)]
pub struct GetConfig {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct SetConfig {
    /// Whether dead servers that were replaced are taken out of the Raft configuration
    #[arg(long, value_name = "BOOL", value_parser = yes_or_no)]
    cleanup_dead_servers: Option<bool>,
    /// A server that was not heard for longer is not healthy: 200ms
    #[arg(long, value_name = "DURATION")]
    last_contact_threshold: Option<String>,
    /// Nor is one whose log is so many entries behind
    #[arg(long, value_name = "NUMBER")]
    max_trailing_logs: Option<u64>,
    /// Cleaning up leaves at least so many voters; 0: only who has been replaced is removed
    #[arg(long, value_name = "NUMBER")]
    min_quorum: Option<u64>,
    /// How long a server must be as it is before anything is done about it: 10s
    #[arg(long, value_name = "DURATION")]
    server_stabilization_time: Option<String>,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct State {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    truth(text).ok_or("must be true or false")
}

async fn get(env: &Env, api: &Api, path: &str) -> Result<Value, Problem> {
    parse(&ask(env, api, Method::GET, path, Bytes::new(), false).await?)
}

/// Does what the command asks.
pub async fn run(env: &Env, command: Autopilot) -> Result<Vec<u8>, Problem> {
    match command {
        Autopilot::GetConfig(args) => {
            let config = get(env, &args.api, CONFIGURATION).await?;
            if args.format.is_json() {
                return Ok(pretty(&config));
            }
            let keys = [
                "CleanupDeadServers",
                "LastContactThreshold",
                "MaxTrailingLogs",
                "MinQuorum",
                "ServerStabilizationTime",
            ];
            Ok(table(&keys.map(|key| row([key, &shown(&config[key])]))))
        }
        Autopilot::SetConfig(args) => set_config(env, args).await,
        Autopilot::State(args) => state(env, args).await,
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

async fn set_config(env: &Env, args: SetConfig) -> Result<Vec<u8>, Problem> {
    let changes = [
        ("CleanupDeadServers", args.cleanup_dead_servers.map(Value::from)),
        ("LastContactThreshold", args.last_contact_threshold.map(Value::from)),
        ("MaxTrailingLogs", args.max_trailing_logs.map(Value::from)),
        ("MinQuorum", args.min_quorum.map(Value::from)),
        ("ServerStabilizationTime", args.server_stabilization_time.map(Value::from)),
    ];
    if changes.iter().all(|(_, change)| change.is_none()) {
        return Err(Problem::usage("nothing to change: give one of the options that --help lists"));
    }
    let mut config = get(env, &args.api, CONFIGURATION).await?;
    for (key, change) in changes {
        if let Some(change) = change {
            config[key] = change;
        }
    }
    // Only if nobody else has changed it meanwhile.
    let path = format!("{CONFIGURATION}?cas={}", config["ModifyIndex"]);
    match parse(&ask(env, &args.api, Method::PUT, &path, pretty(&config), false).await?)? {
        Value::Bool(true) => Ok(lines(["Configuration updated."])),
        _ => Err(Problem::failed("somebody else changed the configuration at the same time: try again")),
    }
}

async fn state(env: &Env, args: State) -> Result<Vec<u8>, Problem> {
    let state = get(env, &args.api, "/v1/operator/autopilot/state").await?;
    if args.format.is_json() {
        return Ok(pretty(&state));
    }
    let mut output = table(&[
        row(["Healthy", &state["Healthy"].to_string()]),
        row(["Failure tolerance", &state["FailureTolerance"].to_string()]),
    ]);
    output.push(b'\n');
    let mut rows =
        vec![row(["Node", "Address", "Status", "Gossip", "Healthy", "Last contact", "Last index", "Since"])];
    for server in state["Servers"].as_object().into_iter().flat_map(|servers| servers.values()) {
        rows.push(row([
            text(server, "Name"),
            text(server, "Address"),
            text(server, "Status"),
            text(server, "NodeStatus"),
            &server["Healthy"].to_string(),
            text(server, "LastContact"),
            &server["LastIndex"].to_string(),
            text(server, "StableSince"),
        ]));
    }
    output.extend(table(&rows));
    Ok(output)
}
