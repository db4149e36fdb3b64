//! `driftline maint`: takes the agent's node, or one of its services, out of service for a while.
//!
//! Maintenance is a check that is critical: DNS and whoever asks for what is well leave the node or the service out.

use bytes::Bytes;
use clap::{ArgGroup, Args};
use driftline::env::Env;
use hyper::Method;

use super::ask::{ask, lines, parse, path, pretty, query, row, table, text};
use super::{Api, Format, Problem};

/// The id of the check of a node in maintenance.
const OF_NODE: &str = "_node_maintenance";
/// What the id of the check of a service in maintenance begins with; then comes the service's id.
const OF_SERVICE: &str = "_service_maintenance:";

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("change").args(["enable", "disable"]))]
pub struct Maint {
    /// Begin maintenance
    #[arg(long)]
    enable: bool,
    /// End maintenance
    #[arg(long)]
    disable: bool,
    /// Why, for people
    #[arg(long, requires = "enable", conflicts_with = "disable")]
    reason: Option<String>,
    /// The id of a service of the agent; without it the node
    #[arg(long, value_name = "ID", requires = "change")]
    service: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

/// Begins or ends maintenance; without either, tells what is in maintenance and why.
pub async fn maint(env: &Env, args: Maint) -> Result<Vec<u8>, Problem> {
    if !args.enable && !args.disable {
        return list(env, args).await;
    }
    let query = query([("enable", Some(args.enable.to_string())), ("reason", args.reason)]);
    let (at, what) = match &args.service {
        None => ("/v1/agent/maintenance".to_owned(), "the node".to_owned()),
        Some(id) => (path(&format!("/v1/agent/service/maintenance/{id}")), format!("service {id}")),
    };
    ask(env, &args.api, Method::PUT, &format!("{at}{query}"), Bytes::new(), false).await?;
    let done = if args.enable { "is in maintenance" } else { "is not in maintenance any more" };
    Ok(lines([format!("Done: {what} {done}.").as_str()]))
}

async fn list(env: &Env, args: Maint) -> Result<Vec<u8>, Problem> {
    let mut checks =
        parse(&ask(env, &args.api, Method::GET, "/v1/agent/checks", Bytes::new(), false).await?)?;
    if let Some(checks) = checks.as_object_mut() {
        checks.retain(|id, _| id == OF_NODE || id.starts_with(OF_SERVICE));
    }
    if args.format.is_json() {
        return Ok(pretty(&checks));
    }
    let found: Vec<Vec<String>> = checks
        .as_object()
        .into_iter()
        .flatten()
        .map(|(id, check)| match id.strip_prefix(OF_SERVICE) {
            Some(service) => row(["service", service, text(check, "Notes")]),
            None => row(["node", text(check, "Node"), text(check, "Notes")]),
        })
        .collect();
    if found.is_empty() {
        return Ok(Vec::new());
    }
    Ok(table(&[vec![row(["What", "ID", "Reason"])], found].concat()))
}
