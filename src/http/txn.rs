//! `/v1/txn`: several operations at once, as [`crate::state::txn`] carries them out.
//!
//! A transaction that only reads is a read: it takes a consistency mode and needs no log entry.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::Consistency;
use crate::agent::local::define;
use crate::mutant;
use crate::state::catalog::NodeInfo;
use crate::state::query::Txn;
use crate::state::txn::{CatalogOp, CatalogRow, Done, KvOp, KvVerb, OpError, RowVerb};
use crate::state::{Command, Outcome, Refusal, Returned, TxnOp, TxnResult};

use super::catalog::{CheckBody, bad_node_id};
use super::decode::{self, Labels, Told};
use super::kv::KvPair;
use super::reply::{self, Failure, Reply};
use super::wire::{Check, Node, Service};
use super::{Api, Call, kv, session};

/// Operations of one transaction.
const MAX_OPS: usize = 64;

/// One operation as clients write it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    kv: Option<WantedKv>,
    node: Option<WantedNode>,
    service: Option<WantedService>,
    check: Option<WantedCheck>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WantedKv {
    verb: String,
    key: String,
    /// In base64.
    value: String,
    flags: u64,
    index: u64,
    session: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WantedNode {
    verb: String,
    node: NodeBody,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WantedService {
    verb: String,
    node: String,
    service: Conditional<Told>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WantedCheck {
    verb: String,
    check: CheckOnNode,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeBody {
    id: String,
    node: String,
    address: String,
    taggedaddresses: Labels,
    meta: Labels,
    modifyindex: u64,
}

/// A row with the index that it must have.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditional<T> {
    #[serde(flatten)]
    row: T,
    modifyindex: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CheckOnNode {
    node: String,
    #[serde(flatten)]
    check: Conditional<CheckBody>,
}

/// What became of it, as clients know it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    /// `null` when it failed.
    results: Option<Vec<ShownResult<'a>>>,
    /// `null` when it did not fail.
    errors: Option<Vec<ShownError<'a>>>,
}

#[derive(Serialize)]
enum ShownResult<'a> {
    #[serde(rename = "KV")]
    Kv(KvPair<'a>),
    Node(Node),
    Service(Service),
    Check(Check),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownError<'a> {
    op_index: u32,
    what: &'a str,
}

fn parse_failed(why: impl std::fmt::Display) -> Failure {
    Failure::bad_request(format!("Failed to parse body: {why}"))
}

/// The operations that a body asks for.
fn parse(api: &Api, body: &[u8]) -> Result<Vec<TxnOp>, Failure> {
    // Go says `null` for a list of nothing.
    let wanted: Option<Vec<Value>> = serde_json::from_slice(body).map_err(parse_failed)?;
    let wanted = wanted.unwrap_or_default();
    if wanted.len() > MAX_OPS {
        let text = format!("Transaction contains too many operations ({} > {MAX_OPS})", wanted.len());
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let read = |wanted| decode::object(wanted, "an operation").map_err(parse_failed);
    wanted.into_iter().map(|wanted| operation(api, read(wanted)?)).collect()
}

fn operation(api: &Api, wanted: Wanted) -> Result<TxnOp, Failure> {
    let (verb, row, index) = match wanted {
        Wanted { kv: Some(wanted), node: None, service: None, check: None } => return on_key(api, wanted),
        Wanted { kv: None, node: Some(WantedNode { verb, node }), service: None, check: None } => {
            let NodeBody { id, node, address, taggedaddresses, meta, modifyindex } = node;
            // As in Consul, an id says which one to read, whatever name is beside it; all else goes by the name.
            if verb == "get" && !id.is_empty() {
                let row = CatalogRow::Node(NodeInfo { id, ..NodeInfo::default() });
                return Ok(TxnOp::Catalog(Box::new(CatalogOp { verb: RowVerb::GetById, row, index: 0 })));
            }
            let row = NodeInfo { name: node, id, address, tagged_addresses: taggedaddresses, meta };
            (verb, CatalogRow::Node(row), modifyindex)
        }
        Wanted {
            kv: None,
            node: None,
            service: Some(WantedService { verb, node, service }),
            check: None,
        } => {
            let Conditional { row, modifyindex } = service;
            (verb, CatalogRow::Service { node, service: define::told(row.0) }, modifyindex)
        }
        Wanted { kv: None, node: None, service: None, check: Some(WantedCheck { verb, check }) } => {
            let CheckOnNode { node, check: Conditional { row, modifyindex } } = check;
            (verb, CatalogRow::Check { node, check: row.info()? }, modifyindex)
        }
        _ => return Err(parse_failed("an operation must have one of KV, Node, Service and Check")),
    };
    Ok(TxnOp::Catalog(Box::new(CatalogOp { verb: RowVerb::named(&verb), row, index })))
}

/// Why an operation cannot be, whatever there is: what the calls for one thing alone refuse as well.
fn impossible(op: &TxnOp) -> Option<String> {
    let TxnOp::Catalog(written) = op else { return None };
    match &written.row {
        _ if !op.writes() => None,
        CatalogRow::Node(node) => bad_node_id(&node.id).map(str::to_owned),
        CatalogRow::Service { service, .. } => define::unfit(service),
        CatalogRow::Check { .. } => None,
    }
}

fn on_key(api: &Api, wanted: WantedKv) -> Result<TxnOp, Failure> {
    kv::check_key(api, &wanted.key)?;
    // Go's decoder reads over the ends of lines.
    let value = BASE64.decode(wanted.value.replace(['\r', '\n'], "")).map_err(parse_failed)?;
    let limit = api.limits().value_bytes;
    if value.len() > limit {
        let text = format!("Value for key {:?} is too large ({} > {limit} bytes)", wanted.key, value.len());
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(TxnOp::Kv(KvOp {
        verb: KvVerb::named(&wanted.verb),
        key: wanted.key,
        value: value.into(),
        flags: wanted.flags,
        index: wanted.index,
        session: session::canonical(wanted.session),
    }))
}

/// `PUT /v1/txn`
pub async fn txn(api: Arc<Api>, call: Call) -> Reply {
    let body = api.read_body(call.body).await?;
    let ops = parse(&api, &body)?;
    let pretty = call.params.pretty();
    let errors: Vec<OpError> = (0..)
        .zip(&ops)
        .filter_map(|(op_index, op)| Some(OpError { op_index, what: impossible(op)? }))
        .collect();
    if !errors.is_empty() {
        return show(&api, &Err(errors), pretty);
    }
    if ops.iter().any(TxnOp::writes) {
        let mut ops = ops;
        // Mutant H17: one after the other.
        if mutant::is("H17") {
            while ops.len() > 1 {
                api.agent.write(Command::Txn(vec![ops.remove(0)])).await?;
            }
        }
        let done = match api.agent.write(Command::Txn(ops)).await? {
            Outcome::Returned { value: Returned::Txn(results), .. } => Ok(results),
            Outcome::Refused { refusal: Refusal::Txn(errors), .. } => Err(errors),
            Outcome::Refused { refusal, .. } => return Err(Failure::refused(refusal.to_string())),
            _ => return Err(Failure::forgotten()),
        };
        return show(&api, &done, pretty);
    }
    let mut options = call.params.query_options(|| api.spread())?;
    options.min_index = 0;
    // Mutant H19: whatever the server has will do.
    if mutant::is("H19") {
        options.consistency = Consistency::Stale;
    }
    let answer = api.agent.query(options, &Txn { ops }).await?;
    Ok(reply::describe_unindexed(show(&api, &answer.value, pretty)?, &answer, options.consistency))
}

fn show(api: &Api, done: &Done, pretty: bool) -> Result<Response, Failure> {
    let datacenter = api.agent.config().datacenter.clone();
    let shown = match done {
        Ok(results) => {
            let results = results.iter().map(|result| match result {
                TxnResult::Kv(key, entry) => ShownResult::Kv(KvPair::new(key, entry)),
                TxnResult::Node(row) => ShownResult::Node(Node::new(row, &datacenter)),
                TxnResult::Service(row) => ShownResult::Service(Service::new(row)),
                TxnResult::Check(row) => ShownResult::Check(Check::new(row)),
            });
            Shown { results: Some(results.collect()), errors: None }
        }
        Err(errors) => {
            let errors =
                errors.iter().map(|OpError { op_index, what }| ShownError { op_index: *op_index, what });
            Shown { results: None, errors: Some(errors.collect()) }
        }
    };
    let mut response = reply::json(&shown, pretty)?;
    if done.is_err() {
        *response.status_mut() = StatusCode::CONFLICT;
    }
    Ok(response)
}
