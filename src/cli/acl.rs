//! `driftline acl`: tokens, policies and roles.
//!
//! No secret is ever an argument: one that is to be given comes from a file. A change says what is to be
//! different; the rest stays as it is.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use driftline::agent::tokens::Purpose;
use driftline::env::Env;
use hyper::Method;
use serde_json::{Value, json};

use super::ask::{ask, content, items, lines, parse, path, pretty, row, table, text};
use super::{Api, Format, Problem, secrets};

#[derive(Debug, Subcommand)]
pub enum Acl {
    /// Makes the first token that may do everything, once
    Bootstrap(Bootstrap),
    /// By which somebody shows who they are
    #[command(subcommand)]
    Token(Token),
    /// What may be done
    #[command(subcommand)]
    Policy(Policy),
    /// Policies under one name
    #[command(subcommand)]
    Role(Role),
}

#[derive(Args, Debug)]
pub struct Bootstrap {
    /// File with the secret that the token is to have, a UUID; without it one is drawn
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Makes a token
    Create(Create),
    /// Shows a token
    Read(ReadToken),
    /// Changes a token
    Update(Update),
    /// Makes a token that may do what another may
    Clone(CloneToken),
    /// Removes a token
    Delete(ById),
    /// Lists all tokens
    List(List),
    /// Gives the agent one of its own tokens
    SetAgentToken(SetAgentToken),
}

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Makes a policy
    Create(CreatePolicy),
    /// Shows a policy
    Read(Named),
    /// Changes a policy
    Update(UpdatePolicy),
    /// Removes a policy
    Delete(Named),
    /// Lists all policies
    List(List),
}

#[derive(Debug, Subcommand)]
pub enum Role {
    /// Makes a role
    Create(CreateRole),
    /// Shows a role
    Read(Named),
    /// Changes a role
    Update(UpdateRole),
    /// Removes a role
    Delete(Named),
    /// Lists all roles
    List(List),
}

#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct ById {
    /// Its accessor id
    #[arg(long, visible_alias = "accessor-id")]
    id: String,
    #[command(flatten)]
    api: Api,
}

/// What a token or a role gives.
#[derive(Args, Debug)]
pub struct Grants {
    /// A policy, by its name; may be repeated
    #[arg(long, value_name = "NAME")]
    policy_name: Vec<String>,
    /// A policy, by its id; may be repeated
    #[arg(long, value_name = "ID")]
    policy_id: Vec<String>,
    /// What a service needs, NAME or NAME:DATACENTER,…; may be repeated
    #[arg(long, value_name = "NAME")]
    service_identity: Vec<String>,
    /// What an agent needs, NODE:DATACENTER; may be repeated
    #[arg(long, value_name = "NODE:DATACENTER")]
    node_identity: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Roles {
    /// A role, by its name; may be repeated
    #[arg(long, value_name = "NAME")]
    role_name: Vec<String>,
    /// A role, by its id; may be repeated
    #[arg(long, value_name = "ID")]
    role_id: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Create {
    /// What it is for
    #[arg(long, default_value = "")]
    description: String,
    /// The accessor id it is to have, a UUID; without it one is drawn
    #[arg(long, value_name = "ID")]
    accessor: Option<String>,
    /// File with the secret it is to have, a UUID; without it one is drawn
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// It ends after so long, as in 8h
    #[arg(long, value_name = "DURATION")]
    expires_ttl: Option<String>,
    #[command(flatten)]
    grants: Grants,
    #[command(flatten)]
    roles: Roles,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Update {
    /// Its accessor id
    #[arg(long, visible_alias = "accessor-id")]
    id: String,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    grants: Grants,
    #[command(flatten)]
    roles: Roles,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct ReadToken {
    /// Its accessor id
    #[arg(long, visible_alias = "accessor-id", required_unless_present = "own", conflicts_with = "own")]
    id: Option<String>,
    /// The token that this command shows
    #[arg(long = "self")]
    own: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct CloneToken {
    /// The accessor id of the one to clone
    #[arg(long, visible_alias = "accessor-id")]
    id: String,
    /// What the new one is for
    #[arg(long, default_value = "")]
    description: String,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct SetAgentToken {
    /// default, agent, agent_recovery, config_file_service_registration, dns, or replication
    purpose: String,
    /// File with the token's secret; an empty one takes the token away
    #[arg(value_name = "FILE")]
    secret_file: PathBuf,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Named {
    /// Its id
    #[arg(long, required_unless_present = "name", conflicts_with = "name")]
    id: Option<String>,
    /// Its name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct CreatePolicy {
    /// Its name
    #[arg(long)]
    name: String,
    /// What it is for
    #[arg(long, default_value = "")]
    description: String,
    /// Its rules; `-` reads standard input, `@FILE` a file
    #[arg(long, default_value = "")]
    rules: String,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct UpdatePolicy {
    /// Its id
    #[arg(long)]
    id: String,
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// Its new rules; `-` reads standard input, `@FILE` a file
    #[arg(long)]
    rules: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct CreateRole {
    /// Its name
    #[arg(long)]
    name: String,
    /// What it is for
    #[arg(long, default_value = "")]
    description: String,
    #[command(flatten)]
    grants: Grants,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct UpdateRole {
    /// Its id
    #[arg(long)]
    id: String,
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    grants: Grants,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

/// What is given replaces what was there under the same name.
fn lay(over: &mut Value, given: Vec<(&str, Value)>) {
    for (name, value) in given {
        if value.as_array().is_none_or(|list| !list.is_empty()) {
            over[name] = value;
        }
    }
}

fn links(names: &[String], ids: &[String]) -> Value {
    let names = names.iter().map(|name| json!({ "Name": name }));
    names.chain(ids.iter().map(|id| json!({ "ID": id }))).collect()
}

impl Grants {
    fn given(&self) -> Result<Vec<(&'static str, Value)>, Problem> {
        let service = |text: &String| match text.split_once(':') {
            Some((name, datacenters)) => {
                json!({ "ServiceName": name, "Datacenters": datacenters.split(',').collect::<Vec<_>>() })
            }
            None => json!({ "ServiceName": text }),
        };
        let node = |text: &String| match text.split_once(':') {
            Some((name, datacenter)) => Ok(json!({ "NodeName": name, "Datacenter": datacenter })),
            None => Err(Problem::usage(format!("--node-identity {text:?}: must be NODE:DATACENTER"))),
        };
        let nodes = self.node_identity.iter().map(node).collect::<Result<Value, Problem>>()?;
        Ok(vec![
            ("Policies", links(&self.policy_name, &self.policy_id)),
            ("ServiceIdentities", self.service_identity.iter().map(service).collect()),
            ("NodeIdentities", nodes),
        ])
    }
}

impl Roles {
    fn given(&self) -> (&'static str, Value) {
        ("Roles", links(&self.role_name, &self.role_id))
    }
}

fn secret(file: &Path) -> Result<String, Problem> {
    Ok(secrets::read(file, "token")?.expose().to_owned())
}

fn rules(argument: String) -> Result<String, Problem> {
    String::from_utf8(content(argument)?).map_err(|_| Problem::failed("the rules are not text"))
}

async fn send(
    env: &Env,
    api: &Api,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Value, Problem> {
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    parse(&ask(env, api, method, path, body, false).await?)
}

/// Does what the command asks.
pub async fn run(env: &Env, command: Acl) -> Result<Vec<u8>, Problem> {
    match command {
        Acl::Bootstrap(Bootstrap { secret_file, format, api }) => {
            let mut body = json!({});
            if let Some(file) = &secret_file {
                body["BootstrapSecret"] = secret(file)?.into();
            }
            let made = send(env, &api, Method::PUT, "/v1/acl/bootstrap", Some(body)).await?;
            Ok(show(&made, format))
        }
        Acl::Token(command) => token(env, command).await,
        Acl::Policy(command) => policy(env, command).await,
        Acl::Role(command) => role(env, command).await,
    }
}

async fn token(env: &Env, command: Token) -> Result<Vec<u8>, Problem> {
    match command {
        Token::Create(args) => {
            let mut body = json!({ "Description": args.description });
            if let Some(file) = &args.secret_file {
                body["SecretID"] = secret(file)?.into();
            }
            let given = [("AccessorID", args.accessor), ("ExpirationTTL", args.expires_ttl)];
            lay(&mut body, given.into_iter().filter_map(|(name, one)| Some((name, one?.into()))).collect());
            lay(&mut body, args.grants.given()?);
            lay(&mut body, vec![args.roles.given()]);
            let made = send(env, &args.api, Method::PUT, "/v1/acl/token", Some(body)).await?;
            Ok(show(&made, args.format))
        }
        Token::Read(args) => {
            let id = args.id.unwrap_or_else(|| "self".to_owned());
            let path = format!("/v1/acl/token/{}", path(&id));
            Ok(show(&send(env, &args.api, Method::GET, &path, None).await?, args.format))
        }
        Token::Update(args) => {
            let path = format!("/v1/acl/token/{}", path(&args.id));
            let mut body = send(env, &args.api, Method::GET, &path, None).await?;
            keep(
                &mut body,
                &[
                    "AccessorID",
                    "Description",
                    "Policies",
                    "Roles",
                    "ServiceIdentities",
                    "NodeIdentities",
                    "Local",
                ],
            );
            lay(&mut body, args.description.into_iter().map(|text| ("Description", text.into())).collect());
            lay(&mut body, args.grants.given()?);
            lay(&mut body, vec![args.roles.given()]);
            Ok(show(&send(env, &args.api, Method::PUT, &path, Some(body)).await?, args.format))
        }
        Token::Clone(args) => {
            let path = format!("/v1/acl/token/{}/clone", path(&args.id));
            let body = json!({ "Description": args.description });
            Ok(show(&send(env, &args.api, Method::PUT, &path, Some(body)).await?, args.format))
        }
        Token::Delete(args) => {
            send(env, &args.api, Method::DELETE, &format!("/v1/acl/token/{}", path(&args.id)), None).await?;
            Ok(lines([format!("Token deleted: {}", args.id).as_str()]))
        }
        Token::List(args) => {
            let found = send(env, &args.api, Method::GET, "/v1/acl/tokens", None).await?;
            list(&found, args.format, "AccessorID", "Description")
        }
        Token::SetAgentToken(args) => {
            let path = format!("/v1/agent/token/{}", path(&args.purpose));
            let file = &args.secret_file;
            let given = secrets::read_if_any(file, "token")?;
            let body = json!({ "Token": given.expose() }).to_string();
            ask(env, &args.api, Method::PUT, &path, body, false).await?;
            if given.is_empty() {
                return Ok(lines(
                    [format!("The agent has no token for {} any more.", args.purpose).as_str()],
                ));
            }
            Ok(lines([
                format!("The agent has its token for {}{}.", args.purpose, until(env, &args).await).as_str()
            ]))
        }
    }
}

/// How long the agent keeps a token that it was given. That it keeps it for good must be known to be said.
async fn until(env: &Env, args: &SetAgentToken) -> String {
    let this = ask(env, &args.api, Method::GET, "/v1/agent/self", Bytes::new(), false).await;
    let this = this.and_then(|response| parse(&response)).unwrap_or_default();
    if this["DebugConfig"]["acl"]["enable_token_persistence"] == true {
        return String::new();
    }
    match configured_as(&args.purpose) {
        Some(key) => {
            format!(
                " until it restarts: set acl.enable_token_persistence, or {key} in its configuration, to keep it"
            )
        }
        None => {
            " until it restarts: set acl.enable_token_persistence in its configuration to keep it".to_owned()
        }
    }
}

/// The key of an agent's configuration that gives it the token of this purpose. None if there is none.
fn configured_as(purpose: &str) -> Option<&'static str> {
    Some(match Purpose::named(purpose)? {
        Purpose::Default => "acl.tokens.default",
        Purpose::Agent => "acl.tokens.agent",
        Purpose::Recovery => "acl.tokens.agent_recovery",
        Purpose::Files => "acl.tokens.config_file_service_registration",
        Purpose::Dns => "acl.tokens.dns",
        Purpose::Replication => return None,
    })
}

async fn policy(env: &Env, command: Policy) -> Result<Vec<u8>, Problem> {
    match command {
        Policy::Create(args) => {
            let rules = rules(args.rules)?;
            let body = json!({ "Name": args.name, "Description": args.description, "Rules": rules });
            Ok(show(&send(env, &args.api, Method::PUT, "/v1/acl/policy", Some(body)).await?, args.format))
        }
        Policy::Read(args) => Ok(show(&found(env, "policy", &args).await?, args.format)),
        Policy::Update(args) => {
            let path = format!("/v1/acl/policy/{}", path(&args.id));
            let mut body = send(env, &args.api, Method::GET, &path, None).await?;
            keep(&mut body, &["ID", "Name", "Description", "Rules", "Datacenters"]);
            let rules = args.rules.map(rules).transpose()?;
            let given = [("Name", args.name), ("Description", args.description), ("Rules", rules)];
            lay(&mut body, given.into_iter().filter_map(|(name, one)| Some((name, one?.into()))).collect());
            Ok(show(&send(env, &args.api, Method::PUT, &path, Some(body)).await?, args.format))
        }
        Policy::Delete(args) => delete(env, "policy", &args).await,
        Policy::List(args) => {
            let found = send(env, &args.api, Method::GET, "/v1/acl/policies", None).await?;
            list(&found, args.format, "ID", "Name")
        }
    }
}

async fn role(env: &Env, command: Role) -> Result<Vec<u8>, Problem> {
    match command {
        Role::Create(args) => {
            let mut body = json!({ "Name": args.name, "Description": args.description });
            lay(&mut body, args.grants.given()?);
            Ok(show(&send(env, &args.api, Method::PUT, "/v1/acl/role", Some(body)).await?, args.format))
        }
        Role::Read(args) => Ok(show(&found(env, "role", &args).await?, args.format)),
        Role::Update(args) => {
            let path = format!("/v1/acl/role/{}", path(&args.id));
            let mut body = send(env, &args.api, Method::GET, &path, None).await?;
            keep(
                &mut body,
                &["ID", "Name", "Description", "Policies", "ServiceIdentities", "NodeIdentities"],
            );
            let given = [("Name", args.name), ("Description", args.description)];
            lay(&mut body, given.into_iter().filter_map(|(name, one)| Some((name, one?.into()))).collect());
            lay(&mut body, args.grants.given()?);
            Ok(show(&send(env, &args.api, Method::PUT, &path, Some(body)).await?, args.format))
        }
        Role::Delete(args) => delete(env, "role", &args).await,
        Role::List(args) => {
            let found = send(env, &args.api, Method::GET, "/v1/acl/roles", None).await?;
            list(&found, args.format, "ID", "Name")
        }
    }
}

/// A policy or role, by its id or name.
async fn found(env: &Env, what: &str, named: &Named) -> Result<Value, Problem> {
    let place = match (&named.id, &named.name) {
        (Some(id), _) => path(id),
        (None, name) => format!("name/{}", path(name.as_deref().unwrap_or_default())),
    };
    send(env, &named.api, Method::GET, &format!("/v1/acl/{what}/{place}"), None).await
}

async fn delete(env: &Env, what: &str, named: &Named) -> Result<Vec<u8>, Problem> {
    let found = found(env, what, named).await?;
    let id = text(&found, "ID");
    send(env, &named.api, Method::DELETE, &format!("/v1/acl/{what}/{}", path(id)), None).await?;
    let name = text(&found, "Name");
    Ok(lines([format!("Deleted {what} {name}: {id}").as_str()]))
}

/// Only these fields: what is sent back is what may be changed.
fn keep(body: &mut Value, names: &[&str]) {
    if let Value::Object(fields) = body {
        fields.retain(|name, _| names.contains(&name.as_str()));
    }
}

/// One thing, field by field.
fn show(value: &Value, format: Format) -> Vec<u8> {
    if format.is_json() {
        return pretty(value);
    }
    let named = |item: &Value| {
        let name = ["Name", "ServiceName", "NodeName"].into_iter().find_map(|key| item[key].as_str());
        let place = item["Datacenter"].as_str().or_else(|| item["ID"].as_str());
        match (name, place) {
            (Some(name), Some(place)) => format!("{name} ({place})"),
            (Some(name), None) => name.to_owned(),
            _ => item.to_string(),
        }
    };
    let mut rows = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| *name != "Hash") {
        match value {
            Value::Array(items) => rows.extend(items.iter().map(|item| row([name.as_str(), &named(item)]))),
            Value::String(text) if text.contains('\n') => {
                let first = [name.as_str()].into_iter().chain(std::iter::repeat(""));
                rows.extend(first.zip(text.trim_end().lines()).map(|(name, line)| row([name, line])));
            }
            Value::String(text) => rows.push(row([name, text])),
            other => rows.push(row([name, &other.to_string()])),
        }
    }
    table(&rows)
}

fn list(found: &Value, format: Format, first: &str, second: &str) -> Result<Vec<u8>, Problem> {
    if format.is_json() {
        return Ok(pretty(found));
    }
    let mut rows = vec![row([first, second, "Gives"])];
    for one in items(found) {
        let gives = ["Policies", "Roles", "ServiceIdentities", "NodeIdentities"]
            .into_iter()
            .flat_map(|key| items(&one[key]));
        let gives = gives.filter_map(|item| {
            ["Name", "ServiceName", "NodeName"].into_iter().find_map(|key| item[key].as_str())
        });
        rows.push(row([text(one, first), text(one, second), &gives.collect::<Vec<_>>().join(", ")]));
    }
    Ok(table(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration that follows the advice must not be refused.
    #[test]
    fn a_token_is_said_to_go_where_a_configuration_has_a_place_for_it() {
        let known = serde_json::to_value(driftline::config::Config::default()).unwrap();
        let purposes = ["default", "agent", "agent_master", "config_file_service_registration", "dns"];
        for purpose in purposes {
            let key = configured_as(purpose).unwrap();
            assert!(known.pointer(&format!("/{}", key.replace('.', "/"))).is_some(), "{key}");
        }
        assert_eq!(configured_as("replication"), None);
    }
}
