//! Clients that follow a query by waiting, and clients that fire events with content: what they ask, and what they write
//! down for the checks BLOCK ([`crate::check::catalog_watch`]) and NEWS ([`crate::check::event_list`]).

use std::time::Duration;

use bytes::Bytes;
use driftline::env::Env;
use hyper::Method;
use serde_json::Value;

use crate::check::catalog_watch::Seen;
use crate::check::event_list::Fired;
use crate::workload::Clients;

/// Rest after a request that was not answered.
const AGAIN: Duration = Duration::from_millis(200);

/// How much longer than it was asked to an answer may be under way.
const GRACE: Duration = Duration::from_secs(30);

impl Clients {
    /// Asks a node for a query, with an index waiting for a newer one for so many milliseconds; the index and the content of
    /// the answer, if a good one came.
    pub async fn follow_once(
        &self,
        env: &Env,
        node: u32,
        path: &str,
        waited: Option<(u64, u64)>,
    ) -> Option<(u64, String)> {
        let and = if path.contains('?') { '&' } else { '?' };
        let asked = match waited {
            Some((index, wait_ms)) => format!("{path}{and}index={index}&wait={wait_ms}ms"),
            None => path.to_owned(),
        };
        let within = waited.map(|(_, wait_ms)| Duration::from_millis(wait_ms) + GRACE);
        let invoked_ns = self.now();
        let answer = self.call_within(env, node, Method::GET, &asked, Bytes::new(), within).await.ok()?;
        // 404 says that there are no keys, and has an index too.
        if ![200, 404].contains(&answer.status) {
            return None;
        }
        let index = answer.header("x-consul-index").and_then(|index| index.parse().ok()).unwrap_or(0);
        let said = answer.text().trim().to_owned();
        let (path, returned_ns) = (path.to_owned(), self.now());
        self.note_seen(Seen { node, path, waited, invoked_ns, returned_ns, index, said: said.clone() });
        Some((index, said))
    }

    /// Follows a query at a node until the clients stop.
    pub async fn follow(&self, env: &Env, (client, node): (u32, u32), path: &str, wait_ms: u64) {
        let mut known = None;
        while !self.stopped() {
            let waited = known.map(|index| (index, wait_ms));
            self.note(client, "invoke", format!("at n{node}: follow {path} {waited:?}"));
            let answer = self.follow_once(env, node, path, waited).await;
            self.note(client, "return", format!("{path}: {:?}", answer.as_ref().map(|(index, _)| index)));
            if answer.is_none() {
                env.sleep(AGAIN).await;
            }
            // Whoever hears nothing starts over.
            known = answer.map(|(index, _)| index);
        }
    }

    /// Fires an event at a node, and writes it down. Its id, if the node took it.
    pub async fn fire(
        &self,
        env: &Env,
        (client, node): (u32, u32),
        name: &str,
        payload: String,
    ) -> Option<String> {
        let path = format!("/v1/event/fire/{name}");
        self.note(client, "invoke", format!("at n{node}: PUT {path}, {} bytes", payload.len()));
        let answer = self.call(env, node, Method::PUT, &path, Bytes::from(payload.clone())).await;
        let answer = answer.ok().filter(|answer| answer.status == 200);
        let told: Option<Value> = answer.and_then(|answer| serde_json::from_slice(&answer.body).ok());
        let id = told.and_then(|told| told["ID"].as_str().map(str::to_owned));
        self.note(client, "return", format!("{name}: {id:?}"));
        self.note_fired(Fired { name: name.to_owned(), payload, id: id.clone() });
        id
    }
}
