//! `driftline rtt`: the round-trip time between two nodes, from their network coordinates.

use bytes::Bytes;
use clap::Args;
use driftline::env::Env;
use driftline::gossip::Coordinate;
use hyper::Method;
use serde_json::{Value, json};

use super::ask::{ask, items, lines, parse, pretty, text};
use super::{Api, Format, Problem};

#[derive(Args, Debug)]
pub struct Rtt {
    /// A node
    node: String,
    /// Another node; without it the agent's own
    other: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

fn coordinate(coord: &Value) -> Option<Coordinate> {
    let number = |key: &str| coord[key].as_f64();
    let vec: Vec<f64> = items(&coord["Vec"]).iter().map(Value::as_f64).collect::<Option<_>>()?;
    let vec = vec.try_into().ok()?;
    let (error, adjustment, height) = (number("Error")?, number("Adjustment")?, number("Height")?);
    Some(Coordinate { vec, error, adjustment, height })
}

/// Estimates the time; nothing is measured.
pub async fn rtt(env: &Env, args: Rtt) -> Result<Vec<u8>, Problem> {
    let get = async |path: &str| parse(&ask(env, &args.api, Method::GET, path, Bytes::new(), false).await?);
    let other = match args.other {
        Some(other) => other,
        None => text(&get("/v1/agent/self").await?["Config"], "NodeName").to_owned(),
    };
    let known = get("/v1/coordinate/nodes").await?;
    let of = |node: &str| {
        let entry = items(&known)
            .iter()
            .find(|entry| text(entry, "Node") == node && text(entry, "Segment").is_empty());
        entry.and_then(|entry| coordinate(&entry["Coord"])).ok_or_else(|| {
            Problem::failed(format!(
                "nobody has said yet where {node:?} is; a new node takes up to half a minute"
            ))
        })
    };
    let (node, other_node) = (&args.node, &other);
    let seconds = of(node)?.distance_to(&of(other_node)?);
    if args.format.is_json() {
        return Ok(pretty(&json!({ "Nodes": [node, other_node], "Seconds": seconds })));
    }
    let told =
        format!("Estimated {node} <-> {other_node} rtt: {:.3} ms (using LAN coordinates)", seconds * 1_000.0);
    Ok(lines([told.as_str()]))
}
