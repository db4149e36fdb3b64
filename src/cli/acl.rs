//! `driftline acl`: tokens, policies and roles.
//!
//! No secret is ever an argument: one that is to be given comes from a file. A change says what is to be
//! different; the rest stays as it is. What a change gives to a role comes on top of what it has, and what it gives to a token
//! replaces what that has of the kind, unless it is to be appended: so it is in Consul. An id may be cut short where only one
//! begins so.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use driftline::agent::tokens::{ANONYMOUS, GLOBAL_MANAGEMENT, Purpose};
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
    #[arg(value_name = "FILE", conflicts_with = "secret_file")]
    file: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    shown: Shown,
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

/// How these commands show what they were told.
#[derive(Args, Clone, Copy, Debug)]
struct Shown {
    #[command(flatten)]
    format: Format,
    /// Show hashes too, and the indexes in lists
    #[arg(long)]
    meta: bool,
}

#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct ById {
    /// Its accessor id, or how that begins; anonymous: that of whoever shows no token
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
    /// A policy, by its id or how that begins; may be repeated
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
    /// A role, by its id or how that begins; may be repeated
    #[arg(long, value_name = "ID")]
    role_id: Vec<String>,
}

/// What a token is given besides what it has.
#[derive(Args, Debug)]
pub struct Appended {
    /// A policy besides those that it has, by its name; may be repeated
    #[arg(long, value_name = "NAME", conflicts_with_all = ["policy_name", "policy_id"])]
    append_policy_name: Vec<String>,
    /// A policy besides those that it has, by its id or how that begins; may be repeated
    #[arg(long, value_name = "ID", conflicts_with_all = ["policy_name", "policy_id"])]
    append_policy_id: Vec<String>,
    /// A role besides those that it has, by its name; may be repeated
    #[arg(long, value_name = "NAME", conflicts_with_all = ["role_name", "role_id"])]
    append_role_name: Vec<String>,
    /// A role besides those that it has, by its id or how that begins; may be repeated
    #[arg(long, value_name = "ID", conflicts_with_all = ["role_name", "role_id"])]
    append_role_id: Vec<String>,
    /// What a service needs, besides what it has, as with --service-identity
    #[arg(long, value_name = "NAME", conflicts_with = "service_identity")]
    append_service_identity: Vec<String>,
    /// What an agent needs, besides what it has, as with --node-identity
    #[arg(long, value_name = "NODE:DATACENTER", conflicts_with = "node_identity")]
    append_node_identity: Vec<String>,
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
    /// Know it in this datacenter only; there is one
    #[arg(long)]
    local: bool,
    /// It ends after so long, as in 8h
    #[arg(long, value_name = "DURATION")]
    expires_ttl: Option<String>,
    #[command(flatten)]
    grants: Grants,
    #[command(flatten)]
    roles: Roles,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Update {
    /// Its accessor id, or how that begins; anonymous: that of whoever shows no token
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
    appended: Appended,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct ReadToken {
    /// Its accessor id, or how that begins; anonymous: that of whoever shows no token
    #[arg(long, visible_alias = "accessor-id", required_unless_present = "own", conflicts_with = "own")]
    id: Option<String>,
    /// The token that this command shows
    #[arg(long = "self")]
    own: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct CloneToken {
    /// The accessor id of the one to clone, or how that begins
    #[arg(long, visible_alias = "accessor-id")]
    id: String,
    /// What the new one is for
    #[arg(long, default_value = "")]
    description: String,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct SetAgentToken {
    /// default, agent, recovery, config_file_service_registration, dns, or replication
    purpose: String,
    /// File with the token's secret; an empty one takes the token away
    #[arg(value_name = "FILE")]
    secret_file: PathBuf,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Named {
    /// Its id, or how that begins
    #[arg(long, required_unless_present = "name", conflicts_with = "name")]
    id: Option<String>,
    /// Its name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    shown: Shown,
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
    /// A datacenter that it counts in; may be repeated; without it in all
    #[arg(long, value_name = "NAME")]
    valid_datacenter: Vec<String>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct UpdatePolicy {
    /// Its id, or how that begins
    #[arg(long, required_unless_present = "name")]
    id: Option<String>,
    /// Its new name; without --id, the name that it has
    #[arg(long)]
    name: Option<String>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// Its new rules; `-` reads standard input, `@FILE` a file
    #[arg(long)]
    rules: Option<String>,
    /// A datacenter that it counts in, instead of those that there were; may be repeated
    #[arg(long, value_name = "NAME")]
    valid_datacenter: Vec<String>,
    /// Keep nothing of what it was but its id and its name
    #[arg(long)]
    no_merge: bool,
    #[command(flatten)]
    shown: Shown,
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
    shown: Shown,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct UpdateRole {
    /// Its id, or how that begins
    #[arg(long, required_unless_present = "name")]
    id: Option<String>,
    /// Its new name; without --id, the name that it has
    #[arg(long)]
    name: Option<String>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// Keep nothing of what it was but its id and its name; without this, what is given comes on top
    #[arg(long)]
    no_merge: bool,
    #[command(flatten)]
    grants: Grants,
    #[command(flatten)]
    shown: Shown,
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

/// What is given comes on top of what is there, each once; of a service the datacenters are those that are said last.
fn add(to: &mut Value, given: Vec<(&str, Value)>) {
    for (name, value) in given {
        let mut all = items(&to[name]).to_vec();
        for item in items(&value) {
            let same = |key: &str, one: &Value| item[key].is_string() && item[key] == one[key];
            all.retain(|one| !same("ServiceName", one));
            if !all.iter().any(|one| one == item || same("ID", one) || same("Name", one)) {
                all.push(item.clone());
            }
        }
        lay(to, vec![(name, all.into())]);
    }
}

fn links(names: &[String], ids: &[String]) -> Value {
    let names = names.iter().map(|name| json!({ "Name": name }));
    names.chain(ids.iter().map(|id| json!({ "ID": id }))).collect()
}

fn services(said: &[String]) -> Value {
    let service = |text: &String| match text.split_once(':') {
        Some((name, datacenters)) => {
            json!({ "ServiceName": name, "Datacenters": datacenters.split(',').collect::<Vec<_>>() })
        }
        None => json!({ "ServiceName": text }),
    };
    said.iter().map(service).collect()
}

fn nodes(said: &[String]) -> Result<Value, Problem> {
    let node = |text: &String| match text.split_once(':') {
        Some((name, datacenter)) => Ok(json!({ "NodeName": name, "Datacenter": datacenter })),
        None => Err(Problem::usage(format!("--node-identity {text:?}: must be NODE:DATACENTER"))),
    };
    said.iter().map(node).collect()
}

impl Grants {
    async fn given(&self, env: &Env, api: &Api) -> Result<Vec<(&'static str, Value)>, Problem> {
        let policies = Kind::Policy.whole_ids(env, api, &self.policy_id).await?;
        Ok(vec![
            ("Policies", links(&self.policy_name, &policies)),
            ("ServiceIdentities", services(&self.service_identity)),
            ("NodeIdentities", nodes(&self.node_identity)?),
        ])
    }
}

impl Roles {
    async fn given(&self, env: &Env, api: &Api) -> Result<(&'static str, Value), Problem> {
        let roles = Kind::Role.whole_ids(env, api, &self.role_id).await?;
        Ok(("Roles", links(&self.role_name, &roles)))
    }
}

impl Appended {
    async fn given(&self, env: &Env, api: &Api) -> Result<Vec<(&'static str, Value)>, Problem> {
        let policies = Kind::Policy.whole_ids(env, api, &self.append_policy_id).await?;
        let roles = Kind::Role.whole_ids(env, api, &self.append_role_id).await?;
        Ok(vec![
            ("Policies", links(&self.append_policy_name, &policies)),
            ("Roles", links(&self.append_role_name, &roles)),
            ("ServiceIdentities", services(&self.append_service_identity)),
            ("NodeIdentities", nodes(&self.append_node_identity)?),
        ])
    }
}

/// What has an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Token,
    Policy,
    Role,
}

/// Characters of a whole id.
const ID_CHARS: usize = 36;

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Token => "token",
            Kind::Policy => "policy",
            Kind::Role => "role",
        }
    }

    /// Where all of them are listed, and under which key a list has their ids.
    fn listed(self) -> (&'static str, &'static str) {
        match self {
            Kind::Token => ("/v1/acl/tokens", "AccessorID"),
            Kind::Policy => ("/v1/acl/policies", "ID"),
            Kind::Role => ("/v1/acl/roles", "ID"),
        }
    }

    /// The whole id that is meant: as it is said, by a word that stands for it, or the only one that begins so.
    async fn whole_id(self, env: &Env, api: &Api, said: &str) -> Result<String, Problem> {
        match (self, said) {
            (Kind::Token, "anonymous") => return Ok(ANONYMOUS.to_owned()),
            (Kind::Policy, "global-management") => return Ok(GLOBAL_MANAGEMENT.to_owned()),
            // Every id begins with nothing.
            (_, "") => return Err(Problem::usage(format!("the id of the {} is empty", self.word()))),
            _ if said.len() >= ID_CHARS => return Ok(said.to_owned()),
            _ => {}
        }
        self.only(said, &send(env, api, Method::GET, self.listed().0, None).await?)
    }

    async fn whole_ids(self, env: &Env, api: &Api, said: &[String]) -> Result<Vec<String>, Problem> {
        let mut ids = Vec::new();
        for said in said {
            ids.push(self.whole_id(env, api, said).await?);
        }
        Ok(ids)
    }

    /// The only one of a list whose id begins so.
    fn only(self, begins: &str, all: &Value) -> Result<String, Problem> {
        let (what, key) = (self.word(), self.listed().1);
        let begins_so =
            |id: &&str| id.get(..begins.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(begins));
        let mut found = items(all).iter().map(|one| text(one, key)).filter(begins_so);
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id.to_owned()),
            (None, _) => Err(Problem::failed(format!("there is no {what} whose id begins with {begins:?}"))),
            _ => Err(Problem::failed(format!(
                "more than one {what} has an id that begins with {begins:?}: say more of it"
            ))),
        }
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
        Acl::Bootstrap(Bootstrap { file, secret_file, shown, api }) => {
            let mut body = json!({});
            if let Some(file) = file.or(secret_file) {
                body["BootstrapSecret"] = secret(&file)?.into();
            }
            let made = send(env, &api, Method::PUT, "/v1/acl/bootstrap", Some(body)).await?;
            Ok(show(&made, shown))
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
            if args.local {
                body["Local"] = true.into();
            }
            let given = [("AccessorID", args.accessor), ("ExpirationTTL", args.expires_ttl)];
            lay(&mut body, given.into_iter().filter_map(|(name, one)| Some((name, one?.into()))).collect());
            lay(&mut body, args.grants.given(env, &args.api).await?);
            lay(&mut body, vec![args.roles.given(env, &args.api).await?]);
            let made = send(env, &args.api, Method::PUT, "/v1/acl/token", Some(body)).await?;
            Ok(show(&made, args.shown))
        }
        Token::Read(args) => {
            let id = match &args.id {
                Some(id) => Kind::Token.whole_id(env, &args.api, id).await?,
                None => "self".to_owned(),
            };
            let path = format!("/v1/acl/token/{}", path(&id));
            Ok(show(&send(env, &args.api, Method::GET, &path, None).await?, args.shown))
        }
        Token::Update(args) => {
            let id = Kind::Token.whole_id(env, &args.api, &args.id).await?;
            let path = format!("/v1/acl/token/{}", path(&id));
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
            lay(&mut body, args.grants.given(env, &args.api).await?);
            lay(&mut body, vec![args.roles.given(env, &args.api).await?]);
            add(&mut body, args.appended.given(env, &args.api).await?);
            Ok(show(&send(env, &args.api, Method::PUT, &path, Some(body)).await?, args.shown))
        }
        Token::Clone(args) => {
            let id = Kind::Token.whole_id(env, &args.api, &args.id).await?;
            let path = format!("/v1/acl/token/{}/clone", path(&id));
            let body = json!({ "Description": args.description });
            Ok(show(&send(env, &args.api, Method::PUT, &path, Some(body)).await?, args.shown))
        }
        Token::Delete(args) => {
            let id = Kind::Token.whole_id(env, &args.api, &args.id).await?;
            send(env, &args.api, Method::DELETE, &format!("/v1/acl/token/{}", path(&id)), None).await?;
            Ok(lines([format!("Token deleted: {id}").as_str()]))
        }
        Token::List(args) => {
            let found = send(env, &args.api, Method::GET, "/v1/acl/tokens", None).await?;
            list(&found, args.shown, "AccessorID", "Description")
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
            let mut body = json!({ "Name": args.name, "Description": args.description, "Rules": rules });
            lay(&mut body, vec![("Datacenters", args.valid_datacenter.into())]);
            Ok(show(&send(env, &args.api, Method::PUT, "/v1/acl/policy", Some(body)).await?, args.shown))
        }
        Policy::Read(args) => Ok(show(
            &found(env, &args.api, Kind::Policy, args.id.as_deref(), args.name.as_deref()).await?,
            args.shown,
        )),
        Policy::Update(args) => {
            let mut body =
                found(env, &args.api, Kind::Policy, args.id.as_deref(), args.name.as_deref()).await?;
            let path = format!("/v1/acl/policy/{}", path(text(&body, "ID")));
            let rest: &[_] = if args.no_merge { &[] } else { &["Description", "Rules", "Datacenters"] };
            keep(&mut body, &[&["ID", "Name"][..], rest].concat());
            lay(&mut body, vec![("Datacenters", args.valid_datacenter.into())]);
            let rules = args.rules.map(rules).transpose()?;
            let given = [("Name", args.name), ("Description", args.description), ("Rules", rules)];
            lay(&mut body, given.into_iter().filter_map(|(name, one)| Some((name, one?.into()))).collect());
            Ok(show(&send(env, &args.api, Method::PUT, &path, Some(body)).await?, args.shown))
        }
        Policy::Delete(args) => delete(env, Kind::Policy, &args).await,
        Policy::List(args) => {
            let found = send(env, &args.api, Method::GET, "/v1/acl/policies", None).await?;
            list(&found, args.shown, "ID", "Name")
        }
    }
}

async fn role(env: &Env, command: Role) -> Result<Vec<u8>, Problem> {
    match command {
        Role::Create(args) => {
            let mut body = json!({ "Name": args.name, "Description": args.description });
            lay(&mut body, args.grants.given(env, &args.api).await?);
            Ok(show(&send(env, &args.api, Method::PUT, "/v1/acl/role", Some(body)).await?, args.shown))
        }
        Role::Read(args) => Ok(show(
            &found(env, &args.api, Kind::Role, args.id.as_deref(), args.name.as_deref()).await?,
            args.shown,
        )),
        Role::Update(args) => {
            let mut body =
                found(env, &args.api, Kind::Role, args.id.as_deref(), args.name.as_deref()).await?;
            let path = format!("/v1/acl/role/{}", path(text(&body, "ID")));
            let rest: &[_] = match args.no_merge {
                true => &[],
                false => &["Description", "Policies", "ServiceIdentities", "NodeIdentities"],
            };
            keep(&mut body, &[&["ID", "Name"][..], rest].concat());
            let given = [("Name", args.name), ("Description", args.description)];
            lay(&mut body, given.into_iter().filter_map(|(name, one)| Some((name, one?.into()))).collect());
            add(&mut body, args.grants.given(env, &args.api).await?);
            Ok(show(&send(env, &args.api, Method::PUT, &path, Some(body)).await?, args.shown))
        }
        Role::Delete(args) => delete(env, Kind::Role, &args).await,
        Role::List(args) => {
            let found = send(env, &args.api, Method::GET, "/v1/acl/roles", None).await?;
            list(&found, args.shown, "ID", "Name")
        }
    }
}

/// A policy or role, by its id, or else by its name.
async fn found(
    env: &Env,
    api: &Api,
    kind: Kind,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<Value, Problem> {
    let place = match id {
        Some(id) => path(&kind.whole_id(env, api, id).await?),
        None => format!("name/{}", path(name.unwrap_or_default())),
    };
    send(env, api, Method::GET, &format!("/v1/acl/{}/{place}", kind.word()), None).await
}

async fn delete(env: &Env, kind: Kind, named: &Named) -> Result<Vec<u8>, Problem> {
    let found = found(env, &named.api, kind, named.id.as_deref(), named.name.as_deref()).await?;
    let (what, id) = (kind.word(), text(&found, "ID"));
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
fn show(value: &Value, shown: Shown) -> Vec<u8> {
    if shown.format.is_json() {
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
    for (name, value) in value.as_object().into_iter().flatten() {
        if name == "Hash" && !shown.meta {
            continue;
        }
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

fn list(found: &Value, shown: Shown, first: &str, second: &str) -> Result<Vec<u8>, Problem> {
    if shown.format.is_json() {
        return Ok(pretty(found));
    }
    let meta: &[&str] = if shown.meta { &["Hash", "CreateIndex", "ModifyIndex"] } else { &[] };
    let titles = [first, second].into_iter().chain(meta.iter().copied()).chain(["Gives"]);
    let mut rows = vec![titles.map(str::to_owned).collect::<Vec<_>>()];
    for one in items(found) {
        let gives = ["Policies", "Roles", "ServiceIdentities", "NodeIdentities"]
            .into_iter()
            .flat_map(|key| items(&one[key]));
        let gives = gives.filter_map(|item| {
            ["Name", "ServiceName", "NodeName"].into_iter().find_map(|key| item[key].as_str())
        });
        let mut cells = row([text(one, first), text(one, second)]);
        cells.extend(meta.iter().map(|key| match &one[key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }));
        cells.push(gives.collect::<Vec<_>>().join(", "));
        rows.push(cells);
    }
    Ok(table(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_cut_short_where_only_one_begins_so() {
        let all = json!([{ "AccessorID": "ab12-1" }, { "AccessorID": "ab12-2" }, { "AccessorID": "cd34-1" }]);
        let only = |begins| Kind::Token.only(begins, &all).map_err(|problem| problem.text);
        assert_eq!(
            (only("cd").unwrap(), only("AB12-2").unwrap()),
            ("cd34-1".to_owned(), "ab12-2".to_owned())
        );
        assert_eq!(
            only("ab").unwrap_err(),
            "more than one token has an id that begins with \"ab\": say more of it"
        );
        assert_eq!(only("e").unwrap_err(), "there is no token whose id begins with \"e\"");
    }

    #[test]
    fn what_is_given_besides_is_there_once_and_takes_nothing_away() {
        let mut body = json!({ "Policies": [{ "ID": "1", "Name": "a" }] });
        add(
            &mut body,
            vec![
                ("Policies", links(&["a".to_owned(), "b".to_owned()], &["1".to_owned()])),
                ("NodeIdentities", json!([])),
                ("ServiceIdentities", services(&["web".to_owned(), "web:east".to_owned()])),
            ],
        );
        assert_eq!(
            body,
            json!({
                "Policies": [{ "ID": "1", "Name": "a" }, { "Name": "b" }],
                "ServiceIdentities": [{ "ServiceName": "web", "Datacenters": ["east"] }],
            })
        );
    }

    #[test]
    fn a_list_shows_hashes_and_indexes_to_who_asks_for_them() {
        let found = json!([{ "ID": "1", "Name": "a", "Hash": "h", "CreateIndex": 2, "ModifyIndex": 3 }]);
        let shown = |meta| {
            let shown = Shown { format: Format { format: super::super::Form::Text, json: false }, meta };
            String::from_utf8(list(&found, shown, "ID", "Name").unwrap()).unwrap()
        };
        assert_eq!(shown(false), "ID  Name  Gives\n1   a\n");
        assert_eq!(
            shown(true),
            "ID  Name  Hash  CreateIndex  ModifyIndex  Gives\n1   a     h     2            3\n"
        );
    }

    /// A configuration that follows the advice must not be refused.
    #[test]
    fn a_token_is_said_to_go_where_a_configuration_has_a_place_for_it() {
        let known = serde_json::to_value(driftline::config::Config::default()).unwrap();
        let purposes = ["default", "agent", "recovery", "config_file_service_registration", "dns"];
        for purpose in purposes {
            let key = configured_as(purpose).unwrap();
            assert!(known.pointer(&format!("/{}", key.replace('.', "/"))).is_some(), "{key}");
        }
        assert_eq!(configured_as("replication"), None);
    }
}
