//! `driftline services`: registers services with the agent, and takes them out again.
//!
//! What is registered by flags or a file is the agent's from then on, as if a program had registered it over HTTP: it outlives the
//! agent's restarts, and ends when it is deregistered. A service that is to come and go with its file belongs into the
//! agent's own configuration instead.

use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use driftline::config::file;
use driftline::config::loose;
use driftline::config::service::Service;
use driftline::env::Env;
use driftline::secret::Secret;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::ask::{ask, lines, path};
use super::{Api, Problem, agent};

#[derive(Debug, Subcommand)]
pub enum Services {
    /// Registers the services that files define, or one that flags describe
    Register(Register),
    /// Takes out the services that files define, or the one with this id
    Deregister(Deregister),
}

#[derive(Args, Debug)]
pub struct Register {
    /// Configuration files, .toml or .json, and directories of them; only the services in them are looked at
    #[arg(value_name = "PATH", required_unless_present = "name", conflicts_with = "name")]
    paths: Vec<PathBuf>,
    /// The service's name
    #[arg(long)]
    name: Option<String>,
    /// Its id on its node; without it the name
    #[arg(long, requires = "name", conflicts_with = "paths")]
    id: Option<String>,
    /// The port it listens on
    #[arg(long, requires = "name", conflicts_with = "paths")]
    port: Option<u16>,
    /// A tag; may be repeated
    #[arg(long, requires = "name", conflicts_with = "paths")]
    tag: Vec<String>,
    /// The address it listens at; without it the node's
    #[arg(long, requires = "name", conflicts_with = "paths")]
    address: Option<String>,
    /// A label with a value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "name", conflicts_with = "paths", value_parser = pair)]
    meta: Vec<(String, String)>,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Deregister {
    /// Configuration files, .toml or .json, and directories of them; only the services in them are looked at
    #[arg(value_name = "PATH", required_unless_present = "id", conflicts_with = "id")]
    paths: Vec<PathBuf>,
    /// The service's id on its node
    #[arg(long)]
    id: Option<String>,
    #[command(flatten)]
    api: Api,
}

/// `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// A service to register or to take out.
struct Wanted {
    name: String,
    id: String,
    /// By whose right; empty: by the command line's.
    token: Secret,
    /// What to tell the agent.
    definition: Value,
}

/// The services that the files define.
fn defined(paths: &[PathBuf]) -> Result<Vec<Wanted>, Problem> {
    let definitions = file::services(&agent::sources(paths)?);
    let definitions = definitions.map_err(|error| Problem::failed(error.to_string()))?;
    if definitions.is_empty() {
        return Err(Problem::failed(
            "no service is defined there; a file defines one as {\"service\": {\"name\": …}}, or a list under \"services\"",
        ));
    }
    let wanted = definitions.into_iter().map(|definition| {
        let read = loose::value::<Service>(definition.clone());
        let service = read.map_err(|error| Problem::failed(format!("a service cannot be read: {error}")))?;
        let name = if service.service.is_empty() { service.name } else { service.service };
        let id = if service.id.is_empty() { name.clone() } else { service.id };
        Ok(Wanted { name, id, token: service.token, definition })
    });
    wanted.collect()
}

/// The service that the flags describe.
fn described(name: String, args: Register) -> Wanted {
    let mut definition = json!({
        "Name": name,
        "Tags": args.tag,
        "Meta": args.meta.into_iter().map(|(key, value)| (key, value.into())).collect::<Map<_, _>>(),
    });
    let rest = [
        ("ID", args.id.clone().map(Value::from)),
        ("Port", args.port.map(Value::from)),
        ("Address", args.address.map(Value::from)),
    ];
    for (key, value) in rest {
        if let Some(value) = value {
            definition[key] = value;
        }
    }
    Wanted { id: args.id.unwrap_or_else(|| name.clone()), name, token: Secret::default(), definition }
}

/// Does what the command asks.
pub async fn run(env: &Env, command: Services) -> Result<Vec<u8>, Problem> {
    let mut done = Vec::new();
    match command {
        Services::Register(mut args) => {
            let api = args.api.clone();
            let wanted = match args.name.take() {
                Some(name) => vec![described(name, args)],
                None => defined(&args.paths)?,
            };
            for Wanted { name, token, definition, .. } in wanted {
                let path = "/v1/agent/service/register";
                let told = tell(env, &api, token, path, definition.to_string()).await;
                told.map_err(|problem| stopped(problem, &format!("service {name:?}"), &done))?;
                done.push(format!("Registered service: {name}"));
            }
        }
        Services::Deregister(args) => {
            let ids = match args.id {
                Some(id) => vec![(id, Secret::default())],
                None => defined(&args.paths)?.into_iter().map(|wanted| (wanted.id, wanted.token)).collect(),
            };
            for (id, token) in ids {
                let path = path(&format!("/v1/agent/service/deregister/{id}"));
                let told = tell(env, &args.api, token, &path, String::new()).await;
                told.map_err(|problem| stopped(problem, &format!("service {id:?}"), &done))?;
                done.push(format!("Deregistered service: {id}"));
            }
        }
    }
    Ok(lines(done.iter().map(String::as_str)))
}

/// Tells the agent to change something, by the right of this token if there is one.
async fn tell(env: &Env, api: &Api, token: Secret, path: &str, body: String) -> Result<(), Problem> {
    let mut api = api.clone();
    if !token.is_empty() {
        api.token.given = Some(token);
    }
    ask(env, &api, Method::PUT, path, Bytes::from(body), false).await.map(drop)
}

/// Where it ended, and what was done before: that stays.
fn stopped(problem: Problem, at: &str, done: &[String]) -> Problem {
    let before: String = done.iter().map(|line| format!("\n{line}")).collect();
    Problem { text: format!("{at}: {}{before}", problem.text), ..problem }
}
