//! `/v1/acl/…`: tokens, policies and roles, as [`crate::state::acl`] keeps them, and `/v1/agent/token/…`.
//!
//! Who may do this, the servers judge as they judge everything else; the one thing that is open to all is bootstrapping,
//! which works once. A secret is shown to whoever made it or shows it, and in reads to those who may write.
//!
//! Left out, and refused in words: auth methods, binding rules, login, templated policies.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::agent::tokens::Purpose;
use crate::agent::uuid;
use crate::config::duration::show_duration;
use crate::secret::Secret;
use crate::state::acl::{
    self, AclPolicies, AclPolicy, AclRole, AclRoles, AclSelf, AclToken, AclTokens, Entered,
    GLOBAL_MANAGEMENT, Grants, Link, Made, NewRole, NewToken, NodeIdentity, Policy, Rules, ServiceIdentity,
    ShownRole, ShownToken,
};
use crate::state::{AclCommand, Command, Outcome, Question, Refusal, Returned};

use super::decode::{self, GoDuration};
use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::telemetry::rfc3339;
use super::{Api, Call};

/// What is said of a token that is not there, with 403: so says Consul. Of policies and roles it says more, with 404.
const NOT_FOUND: &str = "ACL not found";

/// A token may live no shorter and no longer than this, if not for ever.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(24 * 3600);

// ---- shapes ----

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownLink {
    #[serde(rename = "ID")]
    id: String,
    name: String,
}

impl ShownLink {
    fn all(named: &[acl::Named]) -> Vec<ShownLink> {
        named.iter().map(|one| ShownLink { id: one.id.clone(), name: one.name.clone() }).collect()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownService {
    service_name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    datacenters: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownNode {
    node_name: String,
    datacenter: String,
}

/// What a role or a token gives.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownGrants {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<ShownLink>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<ShownLink>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_identities: Vec<ShownService>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    node_identities: Vec<ShownNode>,
}

impl ShownGrants {
    fn new(grants: &Grants<String>, policies: &[acl::Named], roles: &[acl::Named]) -> ShownGrants {
        let service = |one: &ServiceIdentity| ShownService {
            service_name: one.name.clone(),
            datacenters: one.datacenters.clone(),
        };
        let node = |one: &NodeIdentity| ShownNode {
            node_name: one.name.clone(),
            datacenter: one.datacenter.clone(),
        };
        ShownGrants {
            policies: ShownLink::all(policies),
            roles: ShownLink::all(roles),
            service_identities: grants.services.iter().map(service).collect(),
            node_identities: grants.nodes.iter().map(node).collect(),
        }
    }
}

#[derive(Serialize)]
struct TokenReply {
    /// The secret again, for whoever bootstraps.
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "AccessorID")]
    accessor_id: String,
    #[serde(rename = "SecretID")]
    secret_id: String,
    #[serde(rename = "Description")]
    description: String,
    #[serde(flatten)]
    grants: ShownGrants,
    #[serde(rename = "Local")]
    local: bool,
    #[serde(rename = "ExpirationTime", skip_serializing_if = "Option::is_none")]
    expiration_time: Option<String>,
    #[serde(rename = "CreateTime")]
    create_time: String,
    #[serde(rename = "Hash")]
    hash: String,
    #[serde(rename = "CreateIndex")]
    create_index: u64,
    #[serde(rename = "ModifyIndex")]
    modify_index: u64,
}

/// A hash of what readers see, in the form that clients expect.
fn hash(of: &impl Serialize) -> String {
    // Plain data always has a text; a secret in it is hidden.
    BASE64.encode(Sha256::digest(serde_json::to_vec(of).unwrap_or_default()))
}

impl TokenReply {
    fn new(shown: &ShownToken) -> TokenReply {
        let Entered { it, create_index, modify_index } = &shown.token;
        let made = Duration::from_millis(it.created_ms);
        let ttl = (it.ttl_ns > 0).then(|| Duration::from_nanos(it.ttl_ns));
        TokenReply {
            id: None,
            accessor_id: it.accessor.clone(),
            secret_id: it.secret.expose().to_owned(),
            description: it.description.clone(),
            grants: ShownGrants::new(&it.grants, &shown.policies, &shown.roles),
            local: it.local,
            expiration_time: ttl.map(|ttl| rfc3339(made + ttl)),
            create_time: rfc3339(made),
            hash: hash(it),
            create_index: *create_index,
            modify_index: *modify_index,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PolicyReply {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    description: String,
    /// Lists leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    datacenters: Vec<String>,
    hash: String,
    create_index: u64,
    modify_index: u64,
}

impl PolicyReply {
    fn new(policy: &Entered<Policy>, whole: bool) -> PolicyReply {
        let Entered { it, create_index, modify_index } = policy;
        PolicyReply {
            id: it.id.clone(),
            name: it.name.clone(),
            description: it.description.clone(),
            rules: whole.then(|| it.text.clone()),
            datacenters: it.datacenters.clone(),
            hash: hash(it),
            create_index: *create_index,
            modify_index: *modify_index,
        }
    }
}

#[derive(Serialize)]
struct RoleReply {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Description")]
    description: String,
    #[serde(flatten)]
    grants: ShownGrants,
    #[serde(rename = "Hash")]
    hash: String,
    #[serde(rename = "CreateIndex")]
    create_index: u64,
    #[serde(rename = "ModifyIndex")]
    modify_index: u64,
}

impl RoleReply {
    fn new(shown: &ShownRole) -> RoleReply {
        let Entered { it, create_index, modify_index } = &shown.role;
        RoleReply {
            id: it.id.clone(),
            name: it.name.clone(),
            description: it.description.clone(),
            grants: ShownGrants::new(&it.grants, &shown.policies, &[]),
            hash: hash(it),
            create_index: *create_index,
            modify_index: *modify_index,
        }
    }
}

// ---- bodies ----

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct LinkBody {
    id: String,
    name: String,
}

impl LinkBody {
    fn link(self) -> Link {
        if self.id.is_empty() { Link::Name(self.name) } else { Link::Id(self.id) }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct ServiceBody {
    servicename: String,
    datacenters: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct NodeBody {
    nodename: String,
    datacenter: String,
}

/// Of a token or a role.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct GrantsBody {
    policies: Vec<LinkBody>,
    roles: Vec<LinkBody>,
    serviceidentities: Vec<ServiceBody>,
    nodeidentities: Vec<NodeBody>,
    templatedpolicies: Vec<serde_json::Value>,
}

/// Longest name of an identity.
const MAX_IDENTITY: usize = 256;

/// Whether an identity may have this name. The catalog takes more names, here as in Consul: a policy can name those.
fn is_identity(name: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= MAX_IDENTITY
        && bytes.iter().all(|byte| plain(byte) || matches!(byte, b'-' | b'_'))
        && [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(plain))
}

impl GrantsBody {
    /// What a `holder`, a token or a role, is given.
    fn links(self, holder: &str) -> Result<(Grants<Link>, Vec<Link>), Failure> {
        if !self.templatedpolicies.is_empty() {
            return Err(Failure::bad_request(
                "Templated policies are not supported: use a policy, or ServiceIdentities and NodeIdentities",
            ));
        }
        let missing = |what: &str| Err(Failure::bad_request(format!("{what} field on this {holder}")));
        if self.serviceidentities.iter().any(|one| one.servicename.is_empty()) {
            return missing("Service identity is missing the service name");
        }
        if self.nodeidentities.iter().any(|one| one.nodename.is_empty()) {
            return missing("Node identity is missing the node name");
        }
        if self.nodeidentities.iter().any(|one| one.datacenter.is_empty()) {
            return missing("Node identity is missing the datacenter");
        }
        let services = self.serviceidentities.iter().map(|one| ("Service", &one.servicename));
        let nodes = self.nodeidentities.iter().map(|one| ("Node", &one.nodename));
        if let Some((kind, name)) = services.chain(nodes).find(|(_, name)| !is_identity(name)) {
            return Err(Failure::bad_request(format!(
                "{kind} identity {name:?} has an invalid name. Only lowercase alphanumeric characters, '-' and '_' are \
                 allowed, no '-' or '_' at its ends, and {MAX_IDENTITY} characters at most"
            )));
        }
        let mut nodes: Vec<NodeIdentity> = Vec::new();
        for NodeBody { nodename: name, datacenter } in self.nodeidentities {
            let one = NodeIdentity { name, datacenter };
            if !nodes.contains(&one) {
                nodes.push(one);
            }
        }
        let policies = self.policies.into_iter().map(LinkBody::link).collect();
        let grants = Grants { policies, services: once_each(self.serviceidentities), nodes };
        Ok((grants, self.roles.into_iter().map(LinkBody::link).collect()))
    }
}

/// Each service once, in all datacenters that it is said of; no list of them means all there are.
fn once_each(bodies: Vec<ServiceBody>) -> Vec<ServiceIdentity> {
    let mut services: Vec<ServiceIdentity> = Vec::new();
    for ServiceBody { servicename: name, mut datacenters } in bodies {
        match services.iter_mut().find(|known| known.name == name) {
            None => services.push(ServiceIdentity { name, datacenters }),
            Some(known) if known.datacenters.is_empty() || datacenters.is_empty() => {
                known.datacenters.clear()
            }
            Some(known) => {
                datacenters.retain(|one| !known.datacenters.contains(one));
                known.datacenters.extend(datacenters);
            }
        }
    }
    services
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct TokenBody {
    accessorid: String,
    secretid: Secret,
    description: String,
    local: bool,
    expirationttl: GoDuration,
    expirationtime: String,
    authmethod: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct NamedBody {
    id: String,
    name: String,
    description: String,
    rules: String,
    datacenters: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct BootstrapBody {
    bootstrapsecret: Secret,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct AgentTokenBody {
    token: Secret,
}

/// A body that may be left out. `what` it describes.
fn body<T: serde::de::DeserializeOwned + Default>(bytes: &[u8], what: &str) -> Result<T, Failure> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    decode::body(bytes).map_err(|failure| {
        let text = failure.text.replacen("Request decode", &format!("{what} decoding"), 1);
        Failure { text, ..failure }
    })
}

/// Nobody chooses the id of a policy or a role.
fn without_id(id: &str, what: &str) -> Result<(), Failure> {
    if id.is_empty() {
        return Ok(());
    }
    Err(Failure::bad_request(format!("Cannot specify the ID when creating a new {what}")))
}

/// 404 of a policy or a role.
fn nowhere(what: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("Requested {what} does not exist: {NOT_FOUND}"))
}

/// So begin the ids of what is there from the beginning.
const RESERVED: &str = "00000000-0000-0000-0000-0000000000";

fn uuid_or(given: &str, what: &str, fresh: impl FnOnce() -> String) -> Result<String, Failure> {
    match given {
        "" => Ok(fresh()),
        given if given.starts_with(RESERVED) => Err(Failure::bad_request(format!(
            "Invalid Token: UUIDs with the prefix {RESERVED:?} are reserved"
        ))),
        given if uuid::is_uuid(given) => Ok(given.to_owned()),
        _ => Err(Failure::bad_request(format!("Invalid Token: {what} is not a valid UUID"))),
    }
}

fn fresh(api: &Api) -> String {
    api.agent.new_acl_id()
}

fn now_ms(api: &Api) -> u64 {
    api.agent.env().wall().as_millis().try_into().unwrap_or(u64::MAX)
}

/// A token that is there already.
struct Known {
    accessor: String,
    /// When it ends, as readers see it.
    expires: Option<String>,
}

/// What the body says, on top of ids: one that was made before keeps what it has.
fn token_of(api: &Api, bytes: &[u8], known: Option<Known>) -> Result<NewToken, Failure> {
    let TokenBody { accessorid, secretid, description, local, expirationttl, expirationtime, authmethod } =
        body(bytes, "Token")?;
    if !authmethod.is_empty() {
        return Err(Failure::bad_request("AuthMethod field is disallowed outside of Login"));
    }
    let (grants, roles) = body::<GrantsBody>(bytes, "Token")?.links("token")?;
    if let Some(one) = grants.services.iter().find(|one| local && !one.datacenters.is_empty()) {
        return Err(Failure::bad_request(format!(
            "Service identity {:?} cannot specify a list of datacenters on a local token",
            one.name
        )));
    }
    match &known {
        None if !expirationtime.is_empty() => {
            return Err(Failure::bad_request("ExpirationTime is not supported: give an ExpirationTTL"));
        }
        // Whoever reads a token, changes something else, and writes it back sends this too.
        Some(known) if !expirationtime.is_empty() && known.expires.as_ref() != Some(&expirationtime) => {
            return Err(Failure::refused(format!("Cannot change expiration time of {}", known.accessor)));
        }
        _ => {}
    }
    let ttl = expirationttl.0;
    if !ttl.is_zero() && !TTL.contains(&ttl) {
        let (bound, limit) = if ttl < *TTL.start() { ("less", TTL.start()) } else { ("more", TTL.end()) };
        return Err(Failure::bad_request(format!(
            "ExpirationTime cannot be {bound} than {} in the future (was {})",
            show_duration(*limit),
            show_duration(ttl)
        )));
    }
    let (accessor, secret) = match known {
        Some(Known { accessor, .. }) => {
            if !accessorid.is_empty() && accessorid != accessor {
                return Err(Failure::bad_request("Token Accessor ID in URL and payload do not match"));
            }
            (accessor, secretid)
        }
        None => {
            let secret = uuid_or(secretid.expose(), "SecretID", || fresh(api))?;
            (uuid_or(&accessorid, "AccessorID", || fresh(api))?, Secret::new(secret))
        }
    };
    let ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
    Ok(NewToken { accessor, secret, description, grants, roles, local, ttl_ns, created_ms: now_ms(api) })
}

fn well_named(name: &str, what: &str, most: usize) -> Result<(), Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > most || !name.chars().all(fits) {
        return Err(Failure::bad_request(format!(
            "Invalid {what}: invalid Name. Only 1 to {most} characters, of alphanumerics, '-' and '_', are allowed"
        )));
    }
    Ok(())
}

fn same_id(given: &str, id: &str) -> Result<(), Failure> {
    if given.is_empty() || given == id {
        return Ok(());
    }
    Err(Failure::bad_request("The ID in the URL and the one in the payload do not match"))
}

fn policy_of(api: &Api, bytes: &[u8], known: Option<String>) -> Result<Policy, Failure> {
    let NamedBody { id, name, description, rules: text, datacenters } = body(bytes, "Policy")?;
    well_named(&name, "Policy", 128)?;
    let id = match known {
        Some(known) => same_id(&id, &known).map(|()| known)?,
        None => without_id(&id, "policy").map(|()| fresh(api))?,
    };
    let rules = Rules::parse(&text).map_err(|error| Failure::bad_request(error.to_string()))?;
    Ok(Policy { id, name, description, text, rules, datacenters })
}

fn role_of(api: &Api, bytes: &[u8], known: Option<String>) -> Result<NewRole, Failure> {
    let NamedBody { id, name, description, .. } = body(bytes, "Role")?;
    well_named(&name, "Role", 256)?;
    let (grants, roles) = body::<GrantsBody>(bytes, "Role")?.links("role")?;
    if !roles.is_empty() {
        return Err(Failure::bad_request("A role cannot have roles"));
    }
    let id = match known {
        Some(known) => same_id(&id, &known).map(|()| known)?,
        None => without_id(&id, "role").map(|()| fresh(api))?,
    };
    Ok(NewRole { id, name, description, grants })
}

// ---- handlers ----

/// Carries out a command, and gives what it made.
async fn change(api: &Api, command: AclCommand) -> Result<Option<Made>, Failure> {
    match api.agent.write(Command::Acl(command)).await? {
        Outcome::Returned { value: Returned::Acl(made), .. } => Ok(Some(*made)),
        Outcome::Refused { refusal: Refusal::Denied(text), .. } => {
            Err(Failure::denied(format!("Permission denied: {text}")))
        }
        Outcome::Refused { refusal: Refusal::NotFound(text), .. } => Err(Failure::refused(text)),
        Outcome::Refused { refusal, .. } => Err(Failure::refused(refusal.to_string())),
        Outcome::Stale => Err(Failure::forgotten()),
        _ => Ok(None),
    }
}

/// Carries out a command that makes something, and shows that.
async fn make(api: &Api, command: AclCommand, pretty: bool) -> Reply {
    match change(api, command).await? {
        Some(Made::Token(token)) => reply::json(&TokenReply::new(&token), pretty),
        Some(Made::Policy(policy)) => reply::json(&PolicyReply::new(&policy, true), pretty),
        Some(Made::Role(role)) => reply::json(&RoleReply::new(&role), pretty),
        None => Err(Failure::internal("nothing came of it")),
    }
}

/// Carries out a command that deletes what `question` finds, or says that there is nothing to delete.
async fn delete<T, Q: Question<Found = Option<T>>>(
    api: &Api,
    params: &Params,
    what: &str,
    question: &Q,
    command: AclCommand,
) -> Reply {
    if api.agent.query(params.query_options(|| 0.0)?, question).await?.value.is_none() {
        let text = format!("Cannot find {what} to delete");
        return Err(Failure { status: StatusCode::NOT_FOUND, ..Failure::refused(text) });
    }
    change(api, command).await?;
    reply::json(&true, params.pretty())
}

/// What a path names, between its prefix and its suffix.
fn named(call: &Call, prefix: &str, suffix: &str) -> Result<String, Failure> {
    let tail = call.tail(prefix)?;
    let name = tail.strip_suffix(suffix).unwrap_or(&tail);
    if name.is_empty() {
        Err(Failure::bad_request("Missing the ID or name in the path"))
    } else {
        Ok(name.to_owned())
    }
}

/// The first token that may do everything. Open to all, and works once.
pub async fn bootstrap(api: Arc<Api>, call: Call) -> Reply {
    let pretty = call.params.pretty();
    let bytes = api.read_body(call.body).await?;
    let BootstrapBody { bootstrapsecret } = body(&bytes, "Request")?;
    let secret = uuid_or(bootstrapsecret.expose(), "BootstrapSecret", || fresh(&api))?;
    let token = NewToken {
        accessor: fresh(&api),
        secret: Secret::new(secret),
        description: "Bootstrap Token (Global Management)".to_owned(),
        grants: Grants { policies: vec![Link::Id(GLOBAL_MANAGEMENT.to_owned())], ..Grants::default() },
        created_ms: now_ms(&api),
        ..NewToken::default()
    };
    // Who has lost all tokens may still show one that no longer is.
    let api = Api { agent: api.agent.on_behalf_of(Secret::default()), ..Api::clone(&api) };
    match change(&api, AclCommand::Bootstrap { token, reset: None }).await? {
        Some(Made::Token(token)) => {
            let reply = TokenReply::new(&token);
            reply::json(&TokenReply { id: Some(reply.secret_id.clone()), ..reply }, pretty)
        }
        _ => Err(Failure::internal("nothing came of it")),
    }
}

/// How far rights are copied from another datacenter: there is none.
pub async fn replication(_api: Arc<Api>, call: Call) -> Reply {
    let never = "0001-01-01T00:00:00Z";
    let none = json!({
        "Enabled": false, "Running": false, "SourceDatacenter": "", "ReplicationType": "",
        "ReplicatedIndex": 0, "ReplicatedRoleIndex": 0, "ReplicatedTokenIndex": 0,
        "LastSuccess": never, "LastError": never, "LastErrorMessage": "",
    });
    reply::json(&none, call.params.pretty())
}

/// All tokens.
pub async fn tokens(api: Arc<Api>, call: Call) -> Reply {
    let options = call.params.query_options(|| api.spread())?;
    let wanted = |name: &str| call.params.text(name).map(str::to_owned);
    let answer =
        api.agent.query(options, &AclTokens { policy: wanted("policy"), role: wanted("role") }).await?;
    // Nobody logs in here, so no token is a login's.
    let by_login = call.params.text("authmethod").is_some_and(|method| !method.is_empty());
    let service = call.params.text("servicename").filter(|service| !service.is_empty());
    let tokens = answer.value.iter().filter(|token| {
        let of = |service| token.token.it.grants.services.iter().any(|one| one.name == service);
        !by_login && service.is_none_or(of)
    });
    let shown: Vec<TokenReply> = tokens.map(TokenReply::new).collect();
    reply::found(&shown, call.params.pretty(), &answer, options.consistency)
}

/// Makes a token.
pub async fn create_token(api: Arc<Api>, call: Call) -> Reply {
    let bytes = api.read_body(call.body).await?;
    let token = token_of(&api, &bytes, None)?;
    make(&api, AclCommand::PutToken { token, new: true }, call.params.pretty()).await
}

/// The token that the request shows.
pub async fn own_token(api: Arc<Api>, call: Call) -> Reply {
    let options = call.params.query_options(|| api.spread())?;
    let crate::agent::Bearer::Token(secret) = api.agent.bearer() else {
        return Err(Failure::denied(NOT_FOUND));
    };
    let answer = api.agent.query(options, &AclSelf { secret: secret.clone() }).await?;
    let Some(token) = &answer.value else { return Err(Failure::denied(NOT_FOUND)) };
    reply::found(&TokenReply::new(token), call.params.pretty(), &answer, options.consistency)
}

/// One token, by its accessor id.
pub async fn token(api: Arc<Api>, call: Call) -> Reply {
    let accessor = named(&call, "/v1/acl/token/", "")?;
    let pretty = call.params.pretty();
    match call.head.method {
        Method::PUT => {
            let bytes = api.read_body(call.body).await?;
            let options = call.params.query_options(|| 0.0)?;
            let found = api.agent.query(options, &AclToken { accessor: accessor.clone() }).await?.value;
            let expires = found.and_then(|token| TokenReply::new(&token).expiration_time);
            let token = token_of(&api, &bytes, Some(Known { accessor, expires }))?;
            make(&api, AclCommand::PutToken { token, new: false }, pretty).await
        }
        Method::DELETE => {
            if let crate::agent::Bearer::Token(secret) = api.agent.bearer() {
                let options = call.params.query_options(|| 0.0)?;
                let own = api.agent.query(options, &AclSelf { secret: secret.clone() }).await?.value;
                // Whoever is anonymous is refused as everybody else is.
                if accessor != acl::ANONYMOUS && own.is_some_and(|own| own.token.it.accessor == accessor) {
                    return Err(Failure::refused(
                        "Deletion of the request's authorization token is not permitted",
                    ));
                }
            }
            let question = AclToken { accessor: accessor.clone() };
            delete(&api, &call.params, "token", &question, AclCommand::DeleteToken { accessor }).await
        }
        _ => {
            let options = call.params.query_options(|| api.spread())?;
            let answer = api.agent.query(options, &AclToken { accessor }).await?;
            let Some(token) = &answer.value else { return Err(Failure::denied(NOT_FOUND)) };
            reply::found(&TokenReply::new(token), pretty, &answer, options.consistency)
        }
    }
}

/// A token that may do what another may.
pub async fn clone_token(api: Arc<Api>, call: Call) -> Reply {
    let accessor = named(&call, "/v1/acl/token/", "/clone")?;
    let options = call.params.query_options(|| 0.0)?;
    let pretty = call.params.pretty();
    let bytes = api.read_body(call.body).await?;
    let TokenBody { description, .. } = body(&bytes, "Token")?;
    let found = api.agent.query(options, &AclToken { accessor }).await?.value;
    let it = found.ok_or_else(|| Failure::denied(NOT_FOUND))?.token.it;
    let links = |ids: Vec<String>| ids.into_iter().map(Link::Id).collect();
    let now = now_ms(&api);
    let token = NewToken {
        accessor: fresh(&api),
        secret: Secret::new(fresh(&api)),
        description: if description.is_empty() { it.description } else { description },
        grants: Grants {
            policies: links(it.grants.policies),
            services: it.grants.services,
            nodes: it.grants.nodes,
        },
        roles: links(it.roles),
        local: it.local,
        // It does not outlive what it is a copy of.
        ttl_ns: match it.ttl_ns {
            0 => 0,
            ttl => (it.created_ms * 1_000_000).saturating_add(ttl).saturating_sub(now * 1_000_000).max(1),
        },
        created_ms: now,
    };
    make(&api, AclCommand::PutToken { token, new: true }, pretty).await
}

/// All policies, without their rules.
pub async fn policies(api: Arc<Api>, call: Call) -> Reply {
    let options = call.params.query_options(|| api.spread())?;
    let answer = api.agent.query(options, &AclPolicies).await?;
    let shown: Vec<PolicyReply> = answer.value.iter().map(|policy| PolicyReply::new(policy, false)).collect();
    reply::found(&shown, call.params.pretty(), &answer, options.consistency)
}

/// Makes a policy.
pub async fn create_policy(api: Arc<Api>, call: Call) -> Reply {
    let bytes = api.read_body(call.body).await?;
    let policy = policy_of(&api, &bytes, None)?;
    make(&api, AclCommand::PutPolicy { policy, new: true }, call.params.pretty()).await
}

/// One policy, by its id.
pub async fn policy(api: Arc<Api>, call: Call) -> Reply {
    let id = named(&call, "/v1/acl/policy/", "")?;
    let pretty = call.params.pretty();
    match call.head.method {
        Method::PUT => {
            let bytes = api.read_body(call.body).await?;
            let policy = policy_of(&api, &bytes, Some(id))?;
            make(&api, AclCommand::PutPolicy { policy, new: false }, pretty).await
        }
        Method::DELETE => {
            let question = AclPolicy { link: Link::Id(id.clone()) };
            delete(&api, &call.params, "policy", &question, AclCommand::DeletePolicy { id }).await
        }
        _ => show_policy(&api, &call.params, Link::Id(id)).await,
    }
}

/// One policy, by its name.
pub async fn policy_by_name(api: Arc<Api>, call: Call) -> Reply {
    let name = named(&call, "/v1/acl/policy/name/", "")?;
    show_policy(&api, &call.params, Link::Name(name)).await
}

async fn show_policy(api: &Api, params: &Params, link: Link) -> Reply {
    let options = params.query_options(|| api.spread())?;
    let answer = api.agent.query(options, &AclPolicy { link }).await?;
    let Some(policy) = &answer.value else { return Err(nowhere("policy")) };
    reply::found(&PolicyReply::new(policy, true), params.pretty(), &answer, options.consistency)
}

/// All roles.
pub async fn roles(api: Arc<Api>, call: Call) -> Reply {
    let options = call.params.query_options(|| api.spread())?;
    let policy = call.params.text("policy").map(str::to_owned);
    let answer = api.agent.query(options, &AclRoles { policy }).await?;
    let shown: Vec<RoleReply> = answer.value.iter().map(RoleReply::new).collect();
    reply::found(&shown, call.params.pretty(), &answer, options.consistency)
}

/// Makes a role.
pub async fn create_role(api: Arc<Api>, call: Call) -> Reply {
    let bytes = api.read_body(call.body).await?;
    let role = role_of(&api, &bytes, None)?;
    make(&api, AclCommand::PutRole { role, new: true }, call.params.pretty()).await
}

/// One role, by its id.
pub async fn role(api: Arc<Api>, call: Call) -> Reply {
    let id = named(&call, "/v1/acl/role/", "")?;
    let pretty = call.params.pretty();
    match call.head.method {
        Method::PUT => {
            let bytes = api.read_body(call.body).await?;
            let role = role_of(&api, &bytes, Some(id))?;
            make(&api, AclCommand::PutRole { role, new: false }, pretty).await
        }
        Method::DELETE => {
            let question = AclRole { link: Link::Id(id.clone()) };
            delete(&api, &call.params, "role", &question, AclCommand::DeleteRole { id }).await
        }
        _ => show_role(&api, &call.params, Link::Id(id)).await,
    }
}

/// One role, by its name.
pub async fn role_by_name(api: Arc<Api>, call: Call) -> Reply {
    let name = named(&call, "/v1/acl/role/name/", "")?;
    show_role(&api, &call.params, Link::Name(name)).await
}

async fn show_role(api: &Api, params: &Params, link: Link) -> Reply {
    let options = params.query_options(|| api.spread())?;
    let answer = api.agent.query(options, &AclRole { link }).await?;
    let Some(role) = &answer.value else { return Err(nowhere("role")) };
    reply::found(&RoleReply::new(role), params.pretty(), &answer, options.consistency)
}

/// What Consul has and this has not.
pub async fn not_here(_: Arc<Api>, _: Call) -> Reply {
    let text = "Auth methods, binding rules, login and templated policies are not supported: make tokens by \
                /v1/acl/token";
    Err(Failure::new(StatusCode::NOT_IMPLEMENTED, text))
}

/// Sets one of the agent's own tokens.
pub async fn set_token(api: Arc<Api>, call: Call) -> Reply {
    let name = named(&call, "/v1/agent/token/", "")?;
    if !api.agent.config().acl.enabled {
        return Err(Failure::new(StatusCode::UNAUTHORIZED, "ACL support disabled"));
    }
    let purpose = Purpose::named(&name).ok_or_else(|| {
        Failure::new(
            StatusCode::NOT_FOUND,
            format!("Token {name:?} is unknown: there are default, agent, agent_recovery, config_file_service_registration, dns and replication"),
        )
    })?;
    let bytes = api.read_body(call.body).await?;
    let AgentTokenBody { token } = decode::body(&bytes)?;
    api.agent.set_token(purpose, token).await.map_err(Failure::internal)?;
    Ok(reply::empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(text: &str, holder: &str) -> Result<Grants<Link>, Failure> {
        decode::body::<GrantsBody>(text.as_bytes())?.links(holder).map(|(grants, _)| grants)
    }

    #[test]
    fn an_identity_counts_once_and_a_service_wherever_it_is_said_to() {
        let given = links(
            r#"{"ServiceIdentities": [
                {"ServiceName": "web", "Datacenters": ["dc2", "dc3"]},
                {"ServiceName": "db", "Datacenters": ["dc2"]},
                {"ServiceName": "web", "Datacenters": ["dc1", "dc2"]},
                {"ServiceName": "db"},
                {"ServiceName": "db", "Datacenters": ["dc3"]}],
                "NodeIdentities": [
                {"NodeName": "a", "Datacenter": "dc1"},
                {"NodeName": "a", "Datacenter": "dc2"},
                {"NodeName": "a", "Datacenter": "dc1"}]}"#,
            "token",
        );
        let given = given.unwrap();
        let service = |name: &str, datacenters: &[&str]| ServiceIdentity {
            name: name.to_owned(),
            datacenters: datacenters.iter().map(|one| (*one).to_owned()).collect(),
        };
        assert_eq!(given.services, [service("web", &["dc2", "dc3", "dc1"]), service("db", &[])]);
        assert_eq!(given.nodes.iter().map(|one| one.datacenter.as_str()).collect::<Vec<_>>(), ["dc1", "dc2"]);
    }

    #[test]
    fn an_identity_without_a_name_is_refused_in_consuls_words() {
        let cases = [
            (
                "{\"ServiceIdentities\": [{}]}",
                "Service identity is missing the service name field on this role",
            ),
            ("{\"NodeIdentities\": [{}]}", "Node identity is missing the node name field on this role"),
            (
                "{\"NodeIdentities\": [{\"NodeName\": \"a\"}]}",
                "Node identity is missing the datacenter field on this role",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(links(text, "role").unwrap_err().text, expected);
        }
    }

    #[test]
    fn an_identity_has_a_name_that_consul_takes() {
        let links = |text: &str| links(text, "role");
        let longest = "a".repeat(MAX_IDENTITY);
        for name in ["web", "web-1", "a_b", "7", &longest] {
            let services = format!(r#"{{"ServiceIdentities":[{{"ServiceName":"{name}"}}]}}"#);
            assert_eq!(links(&services).unwrap().services[0].name, name);
            let nodes = format!(r#"{{"NodeIdentities":[{{"NodeName":"{name}","Datacenter":"dc1"}}]}}"#);
            assert_eq!(links(&nodes).unwrap().nodes[0].name, name);
        }
        for name in ["Web", "web/1", "we b", "-web", "web_", "é", "a.b", &format!("{longest}a")] {
            let services = format!(r#"{{"ServiceIdentities":[{{"ServiceName":"{name}"}}]}}"#);
            let said = links(&services).unwrap_err();
            assert_eq!(said.status, StatusCode::BAD_REQUEST);
            assert!(
                said.text.starts_with("Service identity ") && said.text.contains("invalid name"),
                "{said:?}"
            );
            let nodes = format!(r#"{{"NodeIdentities":[{{"NodeName":"{name}","Datacenter":"dc1"}}]}}"#);
            assert!(links(&nodes).unwrap_err().text.starts_with("Node identity "), "{name}");
        }
    }
}
