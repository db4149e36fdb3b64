//! `/v1/event/…`: user events, which travel by gossip and reach every member without a leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::agent::EventFilters;
use crate::gossip::UserEvent;
use crate::state::acl::{Access, Kind};

use super::reply::{self, Failure, Reply};
use super::{Api, Call};

/// An event as clients know it.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Name")]
    name: &'a str,
    /// `null` when empty.
    #[serde(rename = "Payload")]
    payload: Option<String>,
    #[serde(rename = "NodeFilter")]
    node_filter: &'a str,
    #[serde(rename = "ServiceFilter")]
    service_filter: &'a str,
    #[serde(rename = "TagFilter")]
    tag_filter: &'a str,
    #[serde(rename = "Version")]
    version: u32,
    #[serde(rename = "LTime")]
    ltime: u64,
}

impl<'a> Event<'a> {
    fn new(event: &'a UserEvent) -> Event<'a> {
        Event {
            id: &event.id,
            name: &event.name,
            payload: (!event.payload.is_empty()).then(|| BASE64.encode(&event.payload)),
            node_filter: &event.node_filter,
            service_filter: &event.service_filter,
            tag_filter: &event.tag_filter,
            version: event.version,
            ltime: event.ltime,
        }
    }
}

/// Sends an event to all members.
pub async fn fire(api: Arc<Api>, call: Call) -> Reply {
    let name = call.tail("/v1/event/fire/")?;
    if name.is_empty() {
        return Err(Failure::bad_request("Missing name"));
    }
    api.who().await?.require(Kind::Event, &name, Access::Write)?;
    let filter = |filter: &str| call.params.get(filter).unwrap_or_default().to_owned();
    let filters = EventFilters { node: filter("node"), service: filter("service"), tag: filter("tag") };
    // Before the body is waited for.
    filters.check().map_err(|error| Failure::refused(error.to_string()))?;
    let pretty = call.params.pretty();
    let payload = api.read_body(call.body).await?;
    let event =
        api.agent.fire_event(&name, payload.bytes.clone(), filters).await.map_err(Failure::refused)?;
    // As in Consul, the firing agent does not yet know the event's Lamport time.
    reply::json(&Event { ltime: 0, ..Event::new(&event) }, pretty)
}

/// The newest events that concern this agent, oldest first.
pub async fn list(api: Arc<Api>, call: Call) -> Reply {
    let options = call.params.query_options(|| api.spread())?;
    let who = api.who().await?;
    let (name, hidden) = (call.params.text("name"), AtomicBool::new(false));
    // The index is that of an event that is shown: from it clients tell what is new.
    let keep = |event: &UserEvent| {
        let named = name.is_none_or(|name| event.name == name);
        let seen = who.allows(Kind::Event, &event.name, Access::Read);
        hidden.fetch_or(named && !seen, Ordering::Relaxed);
        named && seen
    };
    let (index, events) = api.agent.events(&keep, options.min_index, options.wait).await;
    let seen: Vec<Event<'_>> = events.iter().map(Event::new).collect();
    let filtered = hidden.load(Ordering::Relaxed);
    Ok(reply::sifted(reply::indexed(reply::json(&seen, call.params.pretty())?, index), filtered))
}
