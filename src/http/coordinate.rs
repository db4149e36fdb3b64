//! `/v1/coordinate/…`: where nodes stand in the network; and `?near`, which sorts other answers by it.

use std::sync::Arc;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::agent::coordinates;
use crate::agent::delegate::DEFAULT_SEGMENT;
use crate::agent::{Coordinate, member_tags};
use crate::state::NodePlace;
use crate::state::acl::{Access, Kind};
use crate::state::coordinate::{CoordinatesOf, CoordinatesOfAll};

use super::decode;
use super::params::Params;
use super::reply::{self, Failure, Reply};
use super::{Api, Call};

/// A coordinate as clients know it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Coord {
    vec: [f64; 8],
    error: f64,
    adjustment: f64,
    height: f64,
}

impl From<Coordinate> for Coord {
    fn from(at: Coordinate) -> Coord {
        let Coordinate { vec, error, adjustment, height } = at;
        Coord { vec, error, adjustment, height }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: String,
    segment: String,
    coord: Coord,
}

impl Entry {
    fn new(known: NodePlace) -> Entry {
        let coord = coordinates::coordinate(&known.place).into();
        Entry { node: known.node, segment: known.segment, coord }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Datacenter {
    datacenter: String,
    #[serde(rename = "AreaID")]
    area_id: &'static str,
    coordinates: Vec<Entry>,
}

/// The servers of each datacenter, of which there is one. A server that has not told its place yet stands where all begin.
pub async fn datacenters(api: Arc<Api>, call: Call) -> Reply {
    let datacenter = api.agent.config().datacenter.clone();
    // What cannot be had now is as good as not told yet.
    let known = coordinates::places(&api.agent).await.unwrap_or_default();
    let servers = api.agent.members().into_iter().filter(|member| {
        member.status.is_live() && member_tags(member).get("role").is_some_and(|role| role == "consul")
    });
    let entry = |name: String| {
        let place = known.iter().find(|known| known.node == name && known.segment == DEFAULT_SEGMENT);
        let at = place.map_or_else(Coordinate::default, |known| coordinates::coordinate(&known.place));
        Entry { node: name, segment: String::new(), coord: at.into() }
    };
    let who = api.who().await?;
    let (seen, unseen): (Vec<_>, Vec<_>) =
        servers.partition(|member| who.allows(Kind::Node, &member.name, Access::Read));
    let coordinates = seen.into_iter().map(|member| entry(member.name)).collect();
    let all = [Datacenter { datacenter: datacenter.clone(), area_id: "wan", coordinates }];
    Ok(reply::sifted(reply::json(&all, call.params.pretty())?, !unseen.is_empty()))
}

fn in_segment(params: &Params, found: Vec<NodePlace>) -> Vec<Entry> {
    let wanted = |known: &NodePlace| params.get("segment").is_none_or(|segment| known.segment == segment);
    found.into_iter().filter(wanted).map(Entry::new).collect()
}

/// Where all nodes stand.
pub async fn nodes(api: Arc<Api>, call: Call) -> Reply {
    let params = &call.params;
    let options = params.query_options(|| api.spread())?;
    let mut answer = api.ask(params, options, &CoordinatesOfAll).await?;
    let found = in_segment(params, std::mem::take(&mut answer.value));
    reply::found(&found, params.pretty(), &answer, options.consistency)
}

/// Where one node stands; 404 as long as nobody has said.
pub async fn node(api: Arc<Api>, call: Call) -> Reply {
    let params = &call.params;
    let node = call.tail("/v1/coordinate/node/")?;
    if node.is_empty() {
        return Err(Failure::bad_request("Missing node name"));
    }
    let options = params.query_options(|| api.spread())?;
    let mut answer = api.ask(params, options, &CoordinatesOf { node }).await?;
    let found = in_segment(params, std::mem::take(&mut answer.value));
    let response = if found.is_empty() {
        reply::empty(StatusCode::NOT_FOUND)
    } else {
        reply::json(&found, params.pretty())?
    };
    Ok(reply::describe(response, answer.index, &answer, options.consistency))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct UpdateBody {
    node: String,
    segment: String,
    coord: CoordBody,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct CoordBody {
    vec: Vec<f64>,
    error: f64,
    adjustment: f64,
    height: f64,
}

/// Says where a node stands, for nodes that have no agent. In force within seconds.
pub async fn update(api: Arc<Api>, call: Call) -> Reply {
    let bytes = api.read_body(call.body).await?;
    let UpdateBody { node, segment, coord } = decode::body(&bytes)?;
    if node.is_empty() {
        return Err(Failure::bad_request("Missing node name"));
    }
    let CoordBody { vec, error, adjustment, height } = coord;
    let dimensions = vec.len();
    let vec = vec.try_into().map_err(|_| {
        Failure::bad_request(format!("invalid coordinate: it has {dimensions} dimensions, not 8"))
    })?;
    let at = Coordinate { vec, error, adjustment, height };
    if !at.is_sane() {
        let text = "invalid coordinate: its numbers must be finite and at most 1000, its error 0 to 1.5, \
                    its height not negative";
        return Err(Failure::bad_request(text));
    }
    let update = NodePlace { node, segment, place: coordinates::place(&at) };
    api.agent.update_coordinate(update).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// Sorts by the distance from the node that `?near` names: see [`coordinates::sort_by_distance`].
///
/// # Errors
/// When no server could be asked.
pub async fn nearest_first<T>(
    api: &Api,
    params: &Params,
    rows: &mut [T],
    node: impl Fn(&T) -> &str,
) -> Result<(), Failure> {
    match params.text("near") {
        Some(near) => Ok(coordinates::sort_by_distance(&api.agent, near, rows, node).await?),
        None => Ok(()),
    }
}
