//! The commands that ask a running agent something, over its HTTP API.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::{Args, Subcommand};
use driftline::env::{Env, real};
use driftline::http::client::{self, CallError, Response};
use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex::Regex;
use serde_json::Value;

use super::{
    Api, Command, Format, Problem, acl, catalog, complain, keyring, lock, maint, operate, rtt, services,
    snapshot, transfer, watch,
};

/// Longer than the agent's own patience with its cluster, so that its answer arrives.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The port of an API that is named without one.
pub const API_PORT: u16 = 8500;
/// The same by HTTPS.
pub const HTTPS_PORT: u16 = 8501;

/// What a path escapes. Slashes stay, as they are part of keys.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// What a query escapes.
const QUERY: &AsciiSet = &PATH.add(b'/');

#[derive(Debug, Subcommand)]
pub enum Kv {
    /// Prints a key's value
    Get(KvGet),
    /// Writes a value
    Put(KvPut),
    /// Deletes a key, or all under a prefix
    Delete(KvDelete),
    /// Lists the keys under a prefix
    List(KvList),
    /// Prints the entries under a prefix as JSON, for kv import
    Export(transfer::Export),
    /// Writes the entries that kv export printed, here or at another cluster
    Import(transfer::Import),
}

#[derive(Args, Debug)]
pub struct KvGet {
    /// The key, or with --recurse or --keys a prefix
    #[arg(default_value = "")]
    key: String,
    /// Print all entries under the prefix, as key:value lines
    #[arg(long)]
    recurse: bool,
    /// Print the keys under the prefix, and nothing else of them
    #[arg(long)]
    keys: bool,
    /// Cut the keys after this, when it follows the prefix; an empty one shows them whole [default: /]
    #[arg(long, requires = "keys")]
    separator: Option<String>,
    /// Let any server answer from what it has, which may be old
    #[arg(long)]
    stale: bool,
    /// Every read is consistent that is not stale: for scripts that were written for Consul
    #[arg(long = "consistent", conflicts_with = "stale")]
    _consistent: bool,
    /// Print values in base64
    #[arg(long)]
    base64: bool,
    /// Print all that is known of an entry
    #[arg(long)]
    detailed: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct KvPut {
    /// The key
    key: String,
    /// The value; `-` reads standard input, `@FILE` a file
    #[arg(default_value = "", allow_negative_numbers = true)]
    value: String,
    /// Write only if the entry's modify index is this; 0: only if there is no entry
    #[arg(long, value_name = "INDEX", visible_alias = "modify-index")]
    cas: Option<u64>,
    /// A number to keep beside the value
    #[arg(long, value_name = "NUMBER")]
    flags: Option<u64>,
    /// Write only if the key is locked by nobody or by this session, and lock it
    #[arg(long, requires = "session", conflicts_with_all = ["cas", "release"])]
    acquire: bool,
    /// Write only if the key is locked by this session, and unlock it
    #[arg(long, requires = "session", conflicts_with = "cas")]
    release: bool,
    /// The session for --acquire and --release
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// The value is given in base64
    #[arg(long)]
    base64: bool,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct KvDelete {
    /// The key, or with --recurse a prefix
    #[arg(default_value = "")]
    key: String,
    /// Delete all keys under the prefix
    #[arg(long, conflicts_with = "cas")]
    recurse: bool,
    /// Delete only if the entry's modify index is this
    #[arg(long, value_name = "INDEX", visible_alias = "modify-index")]
    cas: Option<u64>,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct KvList {
    /// The prefix
    #[arg(default_value = "")]
    prefix: String,
    /// Cut keys after this, when it follows the prefix
    #[arg(long)]
    separator: Option<String>,
    /// Let any server answer from what it has, which may be old
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Members {
    /// Only those whose status matches this expression: alive, leaving, left, failed
    #[arg(long, value_name = "REGEX")]
    status: Option<Regex>,
    /// Only those that the filter lets pass, as in Tags["role"] == "consul"
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// The tags are always shown: for scripts that were written for Consul
    #[arg(long = "detailed")]
    _detailed: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

/// With `fire` or `list`; or as Consul has it, with `--name` for the event to be fired.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Event {
    #[command(subcommand)]
    command: Option<EventCommand>,
    /// Sends an event of this name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    how: Firing,
}

impl Event {
    fn command(self) -> Result<EventCommand, Problem> {
        match (self.command, self.name) {
            (Some(command), _) => Ok(command),
            (None, Some(name)) => Ok(EventCommand::Fire(EventFire { name, how: self.how })),
            (None, None) => {
                Err(Problem::usage("say which event: `event fire NAME`, `event --name NAME` or `event list`"))
            }
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Sends an event to all members
    Fire(EventFire),
    /// Lists the events that the agent has seen, oldest first
    List(EventList),
}

#[derive(Args, Debug)]
pub struct EventFire {
    /// The event's name
    name: String,
    #[command(flatten)]
    how: Firing,
}

/// What goes with an event, and for whom it is.
#[derive(Args, Debug)]
pub struct Firing {
    /// What to send with it; `-` reads standard input, `@FILE` a file
    #[arg(default_value = "")]
    payload: String,
    /// Only for nodes whose names match this expression
    #[arg(long)]
    node: Option<String>,
    /// Only for nodes with a service that matches
    #[arg(long)]
    service: Option<String>,
    /// Only if that service has a tag that matches
    #[arg(long, requires = "service")]
    tag: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct EventList {
    /// Only events of this name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Info {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Join {
    /// Gossip addresses of members: IP or IP:port
    #[arg(required = true)]
    addr: Vec<String>,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Leave {
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct ForceLeave {
    /// The member's name
    node: String,
    /// Forget it at once
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    api: Api,
}

/// Does what the command asks and returns what it prints.
pub fn run(command: Command) -> Result<Vec<u8>, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let env = real::ephemeral_env()
            .map_err(|error| Problem::failed(format!("cannot use the network: {error}")))?;
        match command {
            // These do not ask an agent.
            Command::Agent(_)
            | Command::Bench(_)
            | Command::Validate(_)
            | Command::Recover(_)
            | Command::Keygen
            | Command::Version(_)
            | Command::Tls(_)
            | Command::Completions(_) => Ok(Vec::new()),
            Command::Kv(Kv::Get(args)) => kv_get(&env, args).await,
            Command::Kv(Kv::Put(args)) => kv_put(&env, args).await,
            Command::Kv(Kv::Delete(args)) => kv_delete(&env, args).await,
            Command::Kv(Kv::List(args)) => kv_list(&env, args).await,
            Command::Kv(Kv::Export(args)) => transfer::export(&env, args).await,
            Command::Kv(Kv::Import(args)) => transfer::import(&env, args).await,
            Command::Members(args) => members(&env, args).await,
            Command::Event(event) => match event.command()? {
                EventCommand::Fire(args) => event_fire(&env, args).await,
                EventCommand::List(args) => event_list(&env, args).await,
            },
            Command::Info(args) => info(&env, args).await,
            Command::Rtt(args) => rtt::rtt(&env, args).await,
            Command::Watch(args) => watch::watch(&env, args).await,
            Command::Lock(args) => lock::lock(&env, args).await,
            Command::Join(args) => join(&env, args).await,
            Command::Leave(args) => leave(&env, args).await,
            Command::ForceLeave(args) => force_leave(&env, args).await,
            Command::Status(args) => operate::status(&env, args).await,
            Command::Doctor(args) => operate::doctor(&env, args).await,
            Command::Reload(args) => operate::reload(&env, args).await,
            Command::Monitor(args) => operate::monitor(&env, args).await,
            Command::Operator(command) => operate::operator(&env, command).await,
            Command::Keyring(command) => keyring::keyring(&env, command).await,
            Command::Snapshot(command) => snapshot::run(&env, command).await,
            Command::Debug(args) => operate::debug(&env, args).await,
            Command::Acl(command) => acl::run(&env, command).await,
            Command::Services(command) => services::run(&env, command).await,
            Command::Maint(args) => maint::maint(&env, args).await,
            Command::Catalog(command) => catalog::run(&env, command).await,
        }
    })
}

pub fn path(escaped: &str) -> String {
    utf8_percent_encode(escaped, PATH).to_string()
}

/// A query string from the parameters that are there.
pub fn query<'a>(parameters: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let given: Vec<String> = parameters
        .into_iter()
        .filter_map(|(name, value)| {
            value.map(|value| format!("{name}={}", utf8_percent_encode(&value, QUERY)))
        })
        .collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

fn switch(on: bool) -> Option<String> {
    on.then(String::new)
}

/// Why there is no answer, with what may help.
pub fn unanswered(addr: SocketAddr, error: &CallError) -> String {
    match error {
        CallError::NotSent(reason) => {
            format!("cannot reach the agent at {addr} ({reason}); is it running, and is --http-addr right?")
        }
        CallError::Unknown(_) => format!("the agent at {addr}: {error}"),
    }
}

/// What is said of an answer that is not whole.
pub const LEFT_OUT: &str = "some results were left out: the token may not see them";

/// Whether something was left out of an answer that whoever asked may not see.
pub fn is_filtered(response: &Response) -> bool {
    response.header("x-consul-results-filtered-by-acls") == Some("true")
}

/// One request. Every answer but a 200 is a problem, except a 404 for whoever expects one. That something was left out of the
/// answer is said.
pub async fn ask(
    env: &Env,
    api: &Api,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
    may_be_missing: bool,
) -> Result<Response, Problem> {
    let response = ask_within(env, api, method, path, body, may_be_missing, TIMEOUT).await?;
    if is_filtered(&response) {
        complain(LEFT_OUT);
    }
    Ok(response)
}

/// The same within another time, for whoever looks by themselves at what was left out.
pub async fn ask_within(
    env: &Env,
    api: &Api,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
    may_be_missing: bool,
    within: Duration,
) -> Result<Response, Problem> {
    let (env, addr) = api.reach(env)?;
    let token = api.token.secret()?;
    let reads = method == Method::GET;
    let response = match client::call_as(&env, addr, &token, method, path, body.into(), within).await {
        Ok(response) => response,
        Err(error @ CallError::Unknown(_)) if !reads => {
            return Err(Problem::unknown(format!("{}; outcome unknown", unanswered(addr, &error))));
        }
        Err(error) => return Err(Problem::failed(unanswered(addr, &error))),
    };
    match response.status {
        200 => Ok(response),
        // An agent says at which index there was nothing; any web server says 404.
        404 if may_be_missing && response.header("x-consul-index").is_some() => Ok(response),
        404 if may_be_missing => {
            let text =
                format!("whoever answers at {addr} is no driftline or Consul agent: 404, without an index");
            Err(Problem::failed(text))
        }
        status => {
            let text = format!("the agent at {addr} answers {status}: {}", response.text().trim_end());
            Err(if response.header("x-driftline-outcome") == Some("unknown") {
                Problem::unknown(format!("{text}; outcome unknown"))
            } else {
                Problem::failed(text)
            })
        }
    }
}

pub fn parse(response: &Response) -> Result<Value, Problem> {
    serde_json::from_slice(&response.body)
        .map_err(|error| Problem::failed(format!("the agent's answer is not JSON ({error})")))
}

pub fn pretty(value: &Value) -> Vec<u8> {
    // A `Value` always has a text.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

pub fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub fn lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    lines.into_iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
}

/// An argument that may point to standard input or a file.
pub fn content(argument: String) -> Result<Vec<u8>, Problem> {
    if argument == "-" {
        let mut content = Vec::new();
        std::io::stdin()
            .read_to_end(&mut content)
            .map_err(|error| Problem::failed(format!("cannot read standard input: {error}")))?;
        return Ok(content);
    }
    match argument.strip_prefix('@') {
        Some(file) => {
            std::fs::read(file).map_err(|error| Problem::failed(format!("cannot read {file}: {error}")))
        }
        None => Ok(argument.into_bytes()),
    }
}

/// The value of an entry of the API, in base64 or plain.
fn value_of(entry: &Value, base64: bool) -> Result<Vec<u8>, Problem> {
    let encoded = text(entry, "Value");
    if base64 {
        return Ok(encoded.as_bytes().to_vec());
    }
    BASE64
        .decode(encoded)
        .map_err(|error| Problem::failed(format!("the agent's value is not base64 ({error})")))
}

/// A key, or the beginning of some, as it is meant: none begins with a slash, but many people write one.
pub fn rooted(key: &str) -> &str {
    key.strip_prefix('/').unwrap_or(key)
}

async fn kv_get(env: &Env, args: KvGet) -> Result<Vec<u8>, Problem> {
    if args.keys {
        let KvGet { key: prefix, separator, stale, format, api, .. } = args;
        // As Consul's does: whoever wants all keys says so, or asks `kv list`.
        let separator = Some(separator.unwrap_or_else(|| "/".to_owned())).filter(|cut| !cut.is_empty());
        return kv_list(env, KvList { prefix, separator, stale, format, api }).await;
    }
    let key = rooted(&args.key);
    if key.is_empty() && !args.recurse {
        return Err(Problem::usage("kv get needs a key, or --recurse for all of them"));
    }
    let query = query([("recurse", switch(args.recurse)), ("stale", switch(args.stale))]);
    let path = format!("/v1/kv/{}{query}", path(key));
    let response = ask(env, &args.api, Method::GET, &path, Bytes::new(), true).await?;
    if response.status == 404 {
        // Of all keys under a prefix there may be none.
        if args.recurse {
            return Ok(if args.format.is_json() { pretty(&Value::Array(Vec::new())) } else { Vec::new() });
        }
        return Err(Problem::failed(format!("no key {key:?}")));
    }
    let entries = parse(&response)?;
    if args.format.is_json() {
        return Ok(pretty(&entries));
    }
    let mut output = Vec::new();
    for entry in items(&entries) {
        if args.detailed {
            let number = |name: &str| entry[name].to_string();
            let session = Some(text(entry, "Session")).filter(|id| !id.is_empty());
            let facts = ["CreateIndex", "Flags", "LockIndex", "ModifyIndex"].map(|name| (name, number(name)));
            let mut rows = vec![vec!["Key".to_owned(), text(entry, "Key").to_owned()]];
            rows.extend(facts.map(|(name, value)| vec![name.to_owned(), value]));
            rows.push(vec!["Session".to_owned(), session.unwrap_or("-").to_owned()]);
            let value = value_of(entry, args.base64)?;
            rows.push(vec!["Value".to_owned(), String::from_utf8_lossy(&value).into_owned()]);
            if !output.is_empty() {
                output.push(b'\n');
            }
            output.extend(table(&rows));
            continue;
        }
        if args.recurse {
            output.extend_from_slice(text(entry, "Key").as_bytes());
            output.push(b':');
        }
        output.extend(value_of(entry, args.base64)?);
        output.push(b'\n');
    }
    Ok(output)
}

async fn kv_list(env: &Env, args: KvList) -> Result<Vec<u8>, Problem> {
    let query = query([("keys", switch(true)), ("separator", args.separator), ("stale", switch(args.stale))]);
    let path = format!("/v1/kv/{}{query}", path(rooted(&args.prefix)));
    let response = ask(env, &args.api, Method::GET, &path, Bytes::new(), true).await?;
    // No keys are an empty list, not a failure.
    let keys = if response.status == 404 { Value::Array(Vec::new()) } else { parse(&response)? };
    if args.format.is_json() {
        return Ok(pretty(&keys));
    }
    Ok(lines(items(&keys).iter().filter_map(Value::as_str)))
}

/// The answer of a conditional write.
fn held(response: &Response, key: &str, why_not: &str) -> Result<(), Problem> {
    match parse(response)? {
        Value::Bool(true) => Ok(()),
        _ => Err(Problem::failed(format!("{key:?} was not changed: {why_not}"))),
    }
}

/// Why a compare-and-set did nothing.
const NOT_THE_INDEX: &str = "its modify index is not the one that --cas gives";

async fn kv_put(env: &Env, args: KvPut) -> Result<Vec<u8>, Problem> {
    if args.key.starts_with('/') {
        return Err(Problem::usage(format!("a key must not begin with a '/': {}", args.key)));
    }
    let mut value = content(args.value)?;
    if args.base64 {
        value = BASE64
            .decode(value.trim_ascii())
            .map_err(|error| Problem::usage(format!("the value is not base64: {error}")))?;
    }
    if args.session.is_some() && !args.acquire && !args.release {
        return Err(Problem::usage("--session says nothing without --acquire or --release"));
    }
    let query = query([
        ("cas", args.cas.map(|index| index.to_string())),
        ("flags", args.flags.map(|flags| flags.to_string())),
        ("acquire", args.session.clone().filter(|_| args.acquire)),
        ("release", args.session.clone().filter(|_| args.release)),
    ]);
    let path = format!("/v1/kv/{}{query}", path(&args.key));
    let response = ask(env, &args.api, Method::PUT, &path, value, false).await?;
    let (done, why_not) = match (args.acquire, args.release) {
        (true, _) => ("Lock acquired on", "another session holds it, or its lock-delay is not over"),
        (_, true) => ("Lock released on", "this session does not hold it"),
        _ => ("Data written to", NOT_THE_INDEX),
    };
    held(&response, &args.key, why_not)?;
    Ok(lines([format!("Success! {done}: {}", args.key).as_str()]))
}

async fn kv_delete(env: &Env, args: KvDelete) -> Result<Vec<u8>, Problem> {
    let key = rooted(&args.key);
    if key.is_empty() && !args.recurse {
        return Err(Problem::usage("kv delete needs a key, or --recurse for all of them"));
    }
    let query = query([("recurse", switch(args.recurse)), ("cas", args.cas.map(|index| index.to_string()))]);
    let path = format!("/v1/kv/{}{query}", path(key));
    let response = ask(env, &args.api, Method::DELETE, &path, Bytes::new(), false).await?;
    held(&response, key, NOT_THE_INDEX)?;
    let what = if args.recurse { "keys with prefix" } else { "key" };
    Ok(lines([format!("Success! Deleted {what}: {key}").as_str()]))
}

/// Rows as columns of equal width, the last one ragged.
pub fn table(rows: &[Vec<String>]) -> Vec<u8> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let rows: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}", width = *width))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    lines(rows.iter().map(String::as_str))
}

pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn status_name(status: &Value) -> &'static str {
    match status.as_u64() {
        Some(1) => "alive",
        Some(2) => "leaving",
        Some(3) => "left",
        Some(4) => "failed",
        _ => "none",
    }
}

async fn members(env: &Env, args: Members) -> Result<Vec<u8>, Problem> {
    let path = format!("/v1/agent/members{}", query([("filter", args.filter)]));
    let response = ask(env, &args.api, Method::GET, &path, Bytes::new(), false).await?;
    let mut members = parse(&response)?;
    if let (Some(members), Some(status)) = (members.as_array_mut(), &args.status) {
        members.retain(|member| status.is_match(status_name(&member["Status"])));
    }
    if args.format.is_json() {
        return Ok(pretty(&members));
    }
    let mut rows = vec![row(["Node", "Address", "Status", "Tags"])];
    for member in items(&members) {
        let ip = text(member, "Addr");
        let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let tags: Vec<String> = member["Tags"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        rows.push(row([
            text(member, "Name"),
            &format!("{ip}:{}", member["Port"]),
            status_name(&member["Status"]),
            &tags.join(","),
        ]));
    }
    Ok(table(&rows))
}

async fn event_fire(env: &Env, args: EventFire) -> Result<Vec<u8>, Problem> {
    let EventFire { name, how: Firing { payload, node, service, tag, format, api } } = args;
    let payload = content(payload)?;
    let query = query([("node", node), ("service", service), ("tag", tag)]);
    let path = format!("/v1/event/fire/{}{query}", path(&name));
    let response = ask(env, &api, Method::PUT, &path, payload, false).await?;
    let event = parse(&response)?;
    if format.is_json() {
        return Ok(pretty(&event));
    }
    Ok(lines([format!("Event ID: {}", text(&event, "ID")).as_str()]))
}

async fn event_list(env: &Env, args: EventList) -> Result<Vec<u8>, Problem> {
    let path = format!("/v1/event/list{}", query([("name", args.name)]));
    let response = ask(env, &args.api, Method::GET, &path, Bytes::new(), false).await?;
    let events = parse(&response)?;
    if args.format.is_json() {
        return Ok(pretty(&events));
    }
    let mut rows = vec![row(["LTime", "ID", "Name", "Payload"])];
    for event in items(&events) {
        let payload = value_of(&serde_json::json!({ "Value": event["Payload"] }), false)?;
        let payload = payload.escape_ascii().to_string();
        rows.push(row([&event["LTime"].to_string(), text(event, "ID"), text(event, "Name"), &payload]));
    }
    Ok(table(&rows))
}

async fn info(env: &Env, args: Info) -> Result<Vec<u8>, Problem> {
    let response = ask(env, &args.api, Method::GET, "/v1/agent/self", Bytes::new(), false).await?;
    let stats = parse(&response)?["Stats"].take();
    if args.format.is_json() {
        return Ok(pretty(&stats));
    }
    let mut output = Vec::new();
    for (section, values) in stats.as_object().into_iter().flatten() {
        output.extend(lines([format!("{section}:").as_str()]));
        for (name, value) in values.as_object().into_iter().flatten() {
            let line = format!("    {name} = {}", value.as_str().unwrap_or_default());
            output.extend(lines([line.as_str()]));
        }
    }
    Ok(output)
}

async fn join(env: &Env, args: Join) -> Result<Vec<u8>, Problem> {
    let mut joined = 0;
    let mut problems = Vec::new();
    for addr in &args.addr {
        let path = format!("/v1/agent/join/{}", path(addr));
        match ask(env, &args.api, Method::PUT, &path, Bytes::new(), false).await {
            Ok(_) => joined += 1,
            Err(problem) => problems.push(problem),
        }
    }
    match problems.into_iter().next() {
        Some(problem) if joined == 0 => Err(problem),
        _ => Ok(lines([format!("Joined by contacting {joined} of {} members.", args.addr.len()).as_str()])),
    }
}

async fn leave(env: &Env, args: Leave) -> Result<Vec<u8>, Problem> {
    ask(env, &args.api, Method::PUT, "/v1/agent/leave", Bytes::new(), false).await?;
    Ok(lines(["The agent has left."]))
}

async fn force_leave(env: &Env, args: ForceLeave) -> Result<Vec<u8>, Problem> {
    let query = query([("prune", switch(args.prune))]);
    let path = format!("/v1/agent/force-leave/{}{query}", path(&args.node));
    ask(env, &args.api, Method::PUT, &path, Bytes::new(), false).await?;
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_slashes_and_parameters_do_not() {
        assert_eq!(path("a/b c%é?#"), "a/b%20c%25%C3%A9%3F%23");
        assert_eq!(
            query([("a", Some("x/y&z".to_owned())), ("b", None), ("c", switch(true))]),
            "?a=x%2Fy%26z&c="
        );
        assert_eq!(query([("b", None)]), "");
    }

    #[test]
    fn a_table_has_columns() {
        let rows = [row(["Node", "Status"]), row(["a-long-name", "alive"])];
        assert_eq!(String::from_utf8(table(&rows)).unwrap(), "Node         Status\na-long-name  alive\n");
    }
}
