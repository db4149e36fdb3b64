//! Clients that register services at agents: what they ask, and what they make of the answers.
//!
//! What happens is written down for the check AE ([`crate::check::anti_entropy`]).

use bytes::Bytes;
use driftline::env::Env;
use driftline::http::client::{CallError, Response};
use hyper::Method;
use serde_json::json;

use crate::check::anti_entropy::{Came, Deed};
use crate::scenario::ServiceDeed;
use crate::scenario::services::NAME;
use crate::workload::Clients;

/// The verb is always the same: path and body.
fn request(service: &str, deed: ServiceDeed) -> (String, String) {
    let tell = |how: &str| (format!("/v1/agent/check/{how}/service:{service}?note={how}"), String::new());
    match deed {
        ServiceDeed::Register { port, ttl_ms } => {
            let body = json!({
                "ID": service,
                "Name": NAME,
                "Port": port,
                "Check": { "TTL": format!("{ttl_ms}ms"), "Status": "passing" },
            });
            ("/v1/agent/service/register".to_owned(), body.to_string())
        }
        ServiceDeed::Deregister => (format!("/v1/agent/service/deregister/{service}"), String::new()),
        ServiceDeed::Pass => tell("pass"),
        ServiceDeed::Warn => tell("warn"),
        ServiceDeed::Fail => tell("fail"),
    }
}

fn came(answer: &Result<Response, CallError>) -> Came {
    match answer {
        Ok(answer) if answer.status == 200 => Came::Done,
        Ok(answer) if answer.status == 404 => Came::Absent,
        // An error is no promise that nothing was done: "it is in force, but could not be kept".
        _ => Came::Open,
    }
}

/// Asks a node for something about a service of its own, and writes down what came of it.
pub async fn ask(clients: &Clients, env: &Env, (client, node): (u32, u32), service: &str, deed: ServiceDeed) {
    let (path, body) = request(service, deed);
    let invoked_ns = clients.now();
    clients.note(client, "invoke", format!("at n{node}: PUT {path} {body}"));
    let answer = clients.call(env, node, Method::PUT, &path, Bytes::from(body)).await;
    let came = came(&answer);
    clients.note(client, "return", format!("{service}: {came:?}"));
    let (service, returned_ns) = (service.to_owned(), clients.now());
    clients.note_deed(Deed { node, service, what: deed, invoked_ns, returned_ns, came });
}
