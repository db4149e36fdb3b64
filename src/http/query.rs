//! `/v1/query`: prepared queries, as [`crate::state::prepared`] keeps them, and carrying them out:
//! [`crate::agent::prepared`] does that, for DNS too.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::agent::prepared::{self, NotExecuted};
use crate::config::service::NO_MESH;
use crate::state::catalog::Row;
use crate::state::prepared::{NOT_FOUND, Prepared, PreparedCommand, PreparedList, PreparedQuery, Template};
use crate::state::{Command, Outcome, Refusal};

use super::decode::{self, Labels};
use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::wire::CheckedService;
use super::{Api, Call, parse_duration};

/// The one kind of template there is.
const PREFIX_MATCH: &str = "name_prefix_match";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct QueryBody {
    id: String,
    name: String,
    session: String,
    token: String,
    template: TemplateBody,
    service: ServiceBody,
    dns: DnsBody,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateBody {
    r#type: String,
    regexp: String,
    removeemptytags: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceBody {
    service: String,
    failover: FailoverBody,
    onlypassing: bool,
    ignorecheckids: Vec<String>,
    near: String,
    tags: Vec<String>,
    nodemeta: Labels,
    servicemeta: Labels,
    connect: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FailoverBody {
    nearestn: u64,
    datacenters: Vec<String>,
    targets: Vec<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DnsBody {
    ttl: String,
}

impl QueryBody {
    fn query(self, id: String) -> Result<PreparedQuery, Failure> {
        let bad = |text: &str| Err(Failure::bad_request(text));
        if !self.token.is_empty() {
            return bad("A token inside of a prepared query is not supported");
        }
        if !self.service.failover.targets.is_empty() {
            return bad("Failover.Targets is not supported: there is one datacenter, and no peer");
        }
        if self.service.connect {
            return bad(NO_MESH);
        }
        let template = match self.template.r#type.as_str() {
            "" => None,
            PREFIX_MATCH => Some(Template {
                regexp: self.template.regexp,
                remove_empty_tags: self.template.removeemptytags,
            }),
            other => return bad(&format!("Bad Template.Type {other:?}: there is only {PREFIX_MATCH:?}")),
        };
        if !self.dns.ttl.is_empty() && parse_duration(&self.dns.ttl).is_none_or(|ttl| ttl < 0) {
            return bad(&format!("Bad DNS TTL '{}'", self.dns.ttl));
        }
        if self.name.is_empty() && self.session.is_empty() && template.is_none() {
            return bad("Must be bound to a session");
        }
        let service = self.service;
        let query = PreparedQuery {
            id,
            name: self.name,
            session: self.session,
            template,
            service: service.service,
            only_passing: service.onlypassing,
            ignore_check_ids: service.ignorecheckids,
            near: service.near,
            tags: service.tags,
            node_meta: service.nodemeta,
            service_meta: service.servicemeta,
            failover_nearest: service.failover.nearestn,
            failover_datacenters: service.failover.datacenters,
            dns_ttl: self.dns.ttl,
        };
        query.check().map_err(Failure::bad_request)?;
        Ok(query)
    }
}

/// A query as clients know it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    session: &'a str,
    token: &'a str,
    template: ShownTemplate<'a>,
    service: ShownService<'a>,
    #[serde(rename = "DNS")]
    dns: ShownDns<'a>,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownTemplate<'a> {
    r#type: &'a str,
    regexp: &'a str,
    remove_empty_tags: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownService<'a> {
    service: &'a str,
    failover: ShownFailover<'a>,
    only_passing: bool,
    #[serde(rename = "IgnoreCheckIDs")]
    ignore_check_ids: &'a [String],
    near: &'a str,
    tags: &'a [String],
    node_meta: &'a BTreeMap<String, String>,
    service_meta: &'a BTreeMap<String, String>,
    connect: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownFailover<'a> {
    nearest_n: u64,
    datacenters: &'a [String],
}

#[derive(Serialize)]
struct ShownDns<'a> {
    #[serde(rename = "TTL")]
    ttl: &'a str,
}

fn show(row: &Row<PreparedQuery>) -> Shown<'_> {
    let query = &row.info;
    let template = query.template.as_ref();
    Shown {
        id: &query.id,
        name: &query.name,
        session: &query.session,
        token: "",
        template: ShownTemplate {
            r#type: template.map_or("", |_| PREFIX_MATCH),
            regexp: template.map_or("", |template| &template.regexp),
            remove_empty_tags: template.is_some_and(|template| template.remove_empty_tags),
        },
        service: ShownService {
            service: &query.service,
            failover: ShownFailover {
                nearest_n: query.failover_nearest,
                datacenters: &query.failover_datacenters,
            },
            only_passing: query.only_passing,
            ignore_check_ids: &query.ignore_check_ids,
            near: &query.near,
            tags: &query.tags,
            node_meta: &query.node_meta,
            service_meta: &query.service_meta,
            connect: false,
        },
        dns: ShownDns { ttl: &query.dns_ttl },
        create_index: row.create_index,
        modify_index: row.modify_index,
    }
}

async fn change(api: &Api, command: PreparedCommand) -> Result<(), Failure> {
    match api.agent.write(Command::Prepared(command)).await? {
        Outcome::Refused { refusal: refusal @ Refusal::NotFound(_), .. } => {
            Err(Failure { status: StatusCode::NOT_FOUND, ..Failure::refused(refusal.to_string()) })
        }
        Outcome::Refused { refusal, .. } => Err(Failure::refused(refusal.to_string())),
        Outcome::Stale => Err(Failure::forgotten()),
        _ => Ok(()),
    }
}

/// `GET` and `POST /v1/query`: all of them, or a new one.
pub async fn all(api: Arc<Api>, call: Call) -> Reply {
    let pretty = call.params.pretty();
    if call.head.method == Method::POST {
        let bytes = api.read_body(call.body).await?;
        let body: QueryBody = decode::body(&bytes)?;
        if !body.id.is_empty() {
            return Err(Failure::bad_request("ID must be empty when creating a new prepared query"));
        }
        let id = api.agent.new_session_id();
        change(&api, PreparedCommand::Create(Box::new(body.query(id.clone())?))).await?;
        return reply::json(&BTreeMap::from([("ID", id)]), pretty);
    }
    let options = call.params.query_options(|| api.spread())?;
    let answer = api.agent.query(options, &PreparedList).await?;
    let shown: Vec<Shown<'_>> = answer.value.iter().map(show).collect();
    reply::found(&shown, pretty, &answer, options.consistency)
}

fn not_found() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, NOT_FOUND)
}

/// `/v1/query/:id`, and `/v1/query/:id-or-name/execute` and `…/explain`.
pub async fn one(api: Arc<Api>, call: Call) -> Reply {
    let path = call.tail("/v1/query/")?;
    let reads = call.head.method == Method::GET;
    match path.rsplit_once('/') {
        Some((wanted, "execute")) if reads => execute(&api, &call.params, wanted.to_owned()).await,
        Some((wanted, "explain")) if reads => explain(&api, &call.params, wanted.to_owned()).await,
        _ => by_id(&api, call, path).await,
    }
}

async fn by_id(api: &Api, call: Call, id: String) -> Reply {
    let pretty = call.params.pretty();
    if id.is_empty() {
        return Err(not_found());
    }
    match call.head.method {
        Method::PUT => {
            let bytes = api.read_body(call.body).await?;
            let body: QueryBody = decode::body(&bytes)?;
            change(api, PreparedCommand::Update(Box::new(body.query(id)?))).await?;
            Ok(reply::empty(StatusCode::OK))
        }
        Method::DELETE => {
            change(api, PreparedCommand::Delete { id }).await?;
            Ok(reply::empty(StatusCode::OK))
        }
        _ => {
            let options = call.params.query_options(|| api.spread())?;
            let answer = api.agent.query(options, &Prepared { wanted: id, resolve: false }).await?;
            let found = answer.value.as_ref().ok_or_else(not_found)?;
            reply::found(&[show(found)], pretty, &answer, options.consistency)
        }
    }
}

impl From<NotExecuted> for Failure {
    fn from(why: NotExecuted) -> Failure {
        match why {
            NotExecuted::NotFound => not_found(),
            NotExecuted::TooLong(_) => Failure::bad_request(why.to_string()),
            NotExecuted::Unfit(text) => Failure::internal(text),
            NotExecuted::Read(error) => error.into(),
        }
    }
}

/// The query as it is carried out.
async fn explain(api: &Api, params: &Params, wanted: String) -> Reply {
    let query = prepared::resolve(&api.agent, params.query_options(|| 0.0)?, &wanted).await?;
    // To carry it out needs no right to it; to read it does.
    let options = params.query_options(|| 0.0)?;
    let question = Prepared { wanted: query.id.clone(), resolve: false };
    let written = api.agent.query(options, &question).await?.value.ok_or_else(not_found)?;
    let query = Row { info: query, ..written };
    reply::json(&BTreeMap::from([("Query", show(&query))]), params.pretty())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Executed<'a> {
    service: &'a str,
    nodes: Vec<CheckedService>,
    #[serde(rename = "DNS")]
    dns: ShownDns<'a>,
    datacenter: &'a str,
    failovers: u64,
}

/// What the query finds now.
async fn execute(api: &Api, params: &Params, wanted: String) -> Reply {
    if params.switch("connect") {
        return Err(Failure::bad_request(NO_MESH));
    }
    let limit = params.number("limit")?.filter(|limit| *limit > 0);
    let options = params.query_options(|| 0.0)?;
    let (query, mut answer) =
        prepared::execute(&api.agent, options, &wanted, params.text("near"), &api.rng).await?;
    let mut found = std::mem::take(&mut answer.value);
    if let Some(limit) = limit {
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    let datacenter = api.agent.config().datacenter.clone();
    let executed = Executed {
        service: &query.service,
        nodes: found.iter().map(|one| CheckedService::new(one, &datacenter)).collect(),
        dns: ShownDns { ttl: &query.dns_ttl },
        datacenter: &datacenter,
        failovers: 0,
    };
    let response = reply::json(&executed, params.pretty())?;
    Ok(reply::describe_unindexed(response, &answer, options.consistency))
}
