//! `driftline catalog`: the nodes and services of the cluster, whoever registered them.
//!
//! That nothing was found is no failure: it is said on standard error, and standard output stays empty for whoever counts lines.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use clap::{Args, Subcommand};
use driftline::env::Env;
use hyper::Method;
use serde_json::{Value, json};

use super::ask::{ask, is_filtered, items, lines, parse, path, pretty, query, row, table, text};
use super::services::pair;
use super::{Api, Format, Problem, complain};

#[derive(Debug, Subcommand)]
pub enum Catalog {
    /// Lists the nodes
    Nodes(Nodes),
    /// Lists the names of the services
    Services(Services),
    /// Lists the datacenters
    Datacenters(Datacenters),
}

#[derive(Args, Debug)]
pub struct Nodes {
    /// Only nodes with an instance of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only nodes with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    node_meta: Vec<(String, String)>,
    /// The nearest to this node first; `_agent` stands for the agent's own
    #[arg(long, value_name = "NODE")]
    near: Option<String>,
    /// Only what this expression holds for, as in 'Meta.rack == "r1"'
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Show whole ids, all addresses and the labels
    #[arg(long)]
    detailed: bool,
    /// Let any server answer from what it has, which may be old
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Services {
    /// Only services on this node
    #[arg(long, value_name = "NAME", conflicts_with = "node_meta")]
    node: Option<String>,
    /// Only services on nodes with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    node_meta: Vec<(String, String)>,
    /// Show the tags of each
    #[arg(long)]
    tags: bool,
    /// Let any server answer from what it has, which may be old
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Datacenters {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

/// Does what the command asks.
pub async fn run(env: &Env, command: Catalog) -> Result<Vec<u8>, Problem> {
    match command {
        Catalog::Nodes(args) => nodes(env, args).await,
        Catalog::Services(args) => services(env, args).await,
        Catalog::Datacenters(args) => datacenters(env, args).await,
    }
}

/// What is found, and whether something was left out of it.
async fn get(env: &Env, api: &Api, path: &str) -> Result<(Value, bool), Problem> {
    let response = ask(env, api, Method::GET, path, Bytes::new(), false).await?;
    Ok((parse(&response)?, is_filtered(&response)))
}

/// `node-meta` as requests say it, which they may do more than once.
fn labelled(labels: Vec<(String, String)>) -> impl Iterator<Item = (&'static str, Option<String>)> {
    labels.into_iter().map(|(key, value)| ("node-meta", Some(format!("{key}:{value}"))))
}

async fn nodes(env: &Env, args: Nodes) -> Result<Vec<u8>, Problem> {
    let chosen = [("near", args.near), ("filter", args.filter), ("stale", args.stale.then(String::new))];
    let query = query(chosen.into_iter().chain(labelled(args.node_meta)));
    let (nodes, filtered) = match &args.service {
        None => get(env, &args.api, &format!("/v1/catalog/nodes{query}")).await?,
        Some(service) => {
            let path = path(&format!("/v1/catalog/service/{service}"));
            let (instances, filtered) = get(env, &args.api, &format!("{path}{query}")).await?;
            (nodes_of(&instances), filtered)
        }
    };
    if args.format.is_json() {
        return Ok(pretty(&nodes));
    }
    if items(&nodes).is_empty() {
        // That some were left out is said already.
        if !filtered {
            complain("no node matches");
        }
        return Ok(Vec::new());
    }
    Ok(node_table(&nodes, args.detailed))
}

/// The nodes of a service's instances, each once, in their order.
fn nodes_of(instances: &Value) -> Value {
    let mut seen = BTreeSet::new();
    let first = items(instances).iter().filter(|instance| seen.insert(text(instance, "Node").to_owned()));
    let nodes = first.map(|instance| {
        json!({
            "ID": instance["ID"],
            "Node": instance["Node"],
            "Address": instance["Address"],
            "Datacenter": instance["Datacenter"],
            "TaggedAddresses": instance["TaggedAddresses"],
            "Meta": instance["NodeMeta"],
        })
    });
    nodes.collect()
}

fn node_table(nodes: &Value, detailed: bool) -> Vec<u8> {
    let mut rows = vec![row(["Node", "ID", "Address", "DC"])];
    if detailed {
        rows[0].extend(["TaggedAddresses", "Meta"].map(str::to_owned));
    }
    for node in items(nodes) {
        let id = text(node, "ID");
        let shown = if detailed { id } else { id.get(..8).unwrap_or(id) };
        let mut cells = row([text(node, "Node"), shown, text(node, "Address"), text(node, "Datacenter")]);
        if detailed {
            cells.extend([labels(&node["TaggedAddresses"]), labels(&node["Meta"])]);
        }
        rows.push(cells);
    }
    table(&rows)
}

fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    pairs.collect::<Vec<_>>().join(", ")
}

async fn services(env: &Env, args: Services) -> Result<Vec<u8>, Problem> {
    let stale = [("stale", args.stale.then(String::new))];
    let query = query(stale.into_iter().chain(labelled(args.node_meta)));
    let (services, filtered) = match &args.node {
        None => get(env, &args.api, &format!("/v1/catalog/services{query}")).await?,
        Some(node) => {
            let path = path(&format!("/v1/catalog/node/{node}"));
            let (found, filtered) = get(env, &args.api, &format!("{path}{query}")).await?;
            (services_on(&found), filtered)
        }
    };
    if args.format.is_json() {
        return Ok(pretty(&services));
    }
    let named = services.as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = named
        .map(|(name, tags)| {
            let mut tags: Vec<&str> = items(tags).iter().filter_map(Value::as_str).collect();
            tags.sort_unstable();
            if args.tags { row([name, &tags.join(",")]) } else { row([name]) }
        })
        .collect();
    if rows.is_empty() && !filtered {
        complain("no service matches");
    }
    Ok(table(&rows))
}

/// The names of a node's services with the tags that their instances have there.
fn services_on(node: &Value) -> Value {
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for service in node["Services"].as_object().into_iter().flat_map(|services| services.values()) {
        let tags = items(&service["Tags"]).iter().filter_map(Value::as_str);
        names.entry(text(service, "Service")).or_default().extend(tags);
    }
    json!(names)
}

async fn datacenters(env: &Env, args: Datacenters) -> Result<Vec<u8>, Problem> {
    let (datacenters, _) = get(env, &args.api, "/v1/catalog/datacenters").await?;
    if args.format.is_json() {
        return Ok(pretty(&datacenters));
    }
    Ok(lines(items(&datacenters).iter().filter_map(Value::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_two_instances_is_listed_once() {
        let instance = |node: &str, id: &str| {
            json!({ "Node": node, "ID": "0123456789ab", "Address": "10.0.0.1", "Datacenter": "dc1",
                    "TaggedAddresses": { "lan": "10.0.0.1" }, "NodeMeta": { "rack": "r1" }, "ServiceID": id })
        };
        let nodes = nodes_of(&json!([instance("b", "1"), instance("a", "1"), instance("b", "2")]));
        let shown = |detailed| String::from_utf8(node_table(&nodes, detailed)).unwrap();
        assert_eq!(
            shown(false),
            "Node  ID        Address   DC\nb     01234567  10.0.0.1  dc1\na     01234567  10.0.0.1  dc1\n"
        );
        assert!(
            shown(true).contains("b     0123456789ab  10.0.0.1  dc1  lan=10.0.0.1     rack=r1\n"),
            "{}",
            shown(true)
        );
    }

    #[test]
    fn services_of_a_node_are_told_by_name() {
        let service = |name: &str, tag: &str| json!({ "Service": name, "Tags": [tag] });
        let node = json!({ "Node": {}, "Services": { "1": service("web", "b"), "2": service("web", "a") } });
        assert_eq!(services_on(&node), json!({ "web": ["a", "b"] }));
        assert_eq!(services_on(&Value::Null), json!({}));
    }
}
