//! Clients that change and read two keys at once: what they ask, and what they make of the answers.
//!
//! What happens is written down for the check TXN ([`crate::check::transactions`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use driftline::env::Env;
use driftline::history::{Entry, outcome};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::check::transactions::Torn;
use crate::history::{Action, Outcome, Response, Versioned};
use crate::scenario::PairDeed;
use crate::workload::Clients;

/// No key ever has this modify index: it is that of the cluster's first membership.
const NEVER: u64 = 1;

fn halves(pair: &str) -> [String; 2] {
    ["a", "b"].map(|half| format!("{pair}/{half}"))
}

fn on_key(verb: &str, key: &str, value: &str, index: u64) -> Value {
    json!({ "KV": { "Verb": verb, "Key": key, "Value": STANDARD.encode(value), "Index": index } })
}

/// An operation that fails behind those that set a pair to this value. Which one, the value tells; with some there is none.
fn spoiler(pair: &str, value: &str) -> Option<Value> {
    let first = &halves(pair)[0];
    let on_first = |verb| on_key(verb, first, value, NEVER);
    let spoilers = [
        on_first("cas"),
        on_first("delete-cas"),
        on_first("check-index"),
        on_first("check-not-exists"),
        on_key("get", &format!("{pair}/c"), "", 0),
    ];
    let which = value.bytes().map(usize::from).sum::<usize>() % (spoilers.len() + 1);
    spoilers.get(which).cloned()
}

fn sets(pair: &str, value: &str) -> Vec<Value> {
    halves(pair).iter().map(|key| on_key("set", key, value, 0)).collect()
}

/// An answer to a transaction.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Results")]
    results: Option<Vec<Result>>,
}

#[derive(Deserialize)]
struct Result {
    #[serde(rename = "KV")]
    kv: Entry,
}

/// What the halves agree on; what they are, if they do not.
fn whole(pair: &str, entries: Vec<Entry>) -> std::result::Result<Option<Versioned>, String> {
    let seen: Vec<(String, Versioned)> = entries.into_iter().filter_map(Entry::versioned).collect();
    match &seen[..] {
        [] => Ok(None),
        [(first, a), (second, b)] if [first, second] == halves(pair).each_ref() && a == b => {
            Ok(Some(a.clone()))
        }
        _ => Err(format!("{seen:?}")),
    }
}

impl Clients {
    /// Does something with a pair, and writes down what came of it.
    pub async fn pair(&self, env: &Env, who: (u32, u32), pair: &str, deed: PairDeed) {
        match deed {
            PairDeed::Set(value) => {
                let ops = sets(pair, &value);
                self.transact(env, who, pair, ops, Action::Put { value }).await;
            }
            PairDeed::Remove => {
                let ops = vec![on_key("delete-tree", &format!("{pair}/"), "", 0)];
                self.transact(env, who, pair, ops, Action::Delete).await;
            }
            PairDeed::Spoil(value) => {
                // Whatever is answered, it is no write.
                if let Some(spoiler) = spoiler(pair, &value) {
                    let ops = sets(pair, &value).into_iter().chain([spoiler]).collect();
                    let _ = self.send_txn(env, who, ops).await;
                } else {
                    // Alone a removal whose condition does not hold does as little.
                    let path = format!("/v1/kv/{}?cas={NEVER}", halves(pair)[0]);
                    self.note(who.0, "invoke", format!("at n{}: DELETE {path}", who.1));
                    let answer = self.call(env, who.1, Method::DELETE, &path, Bytes::new()).await;
                    self.note(who.0, "return", format!("{:?}", answer.map(|answer| answer.status)));
                }
            }
            PairDeed::Swap(value) => {
                let Some(seen) = self.read_pair(env, who, pair, true).await else { return };
                let index = seen.as_ref().map_or(0, |seen| seen.modify_index);
                let ops = halves(pair).iter().map(|key| on_key("cas", key, &value, index)).collect();
                let expected = seen.map(|seen| seen.value);
                self.transact(env, who, pair, ops, Action::Cas { expected, value }).await;
            }
            PairDeed::Read => drop(self.read_pair(env, who, pair, true).await),
            PairDeed::List => drop(self.read_pair(env, who, pair, false).await),
        }
    }

    async fn send_txn(
        &self,
        env: &Env,
        (client, node): (u32, u32),
        ops: Vec<Value>,
    ) -> std::result::Result<driftline::http::client::Response, driftline::http::client::CallError> {
        let body = Value::Array(ops).to_string();
        self.note(client, "invoke", format!("at n{node}: PUT /v1/txn {body}"));
        let answer = self.call(env, node, Method::PUT, "/v1/txn", Bytes::from(body)).await;
        let told = answer.as_ref().map(|answer| (answer.status, answer.text().trim().to_owned()));
        self.note(client, "return", format!("{told:?}"));
        answer
    }

    /// Asks for a transaction that is a write of the register.
    async fn transact(&self, env: &Env, who: (u32, u32), pair: &str, ops: Vec<Value>, action: Action) {
        let invoked_ns = self.now();
        let outcome = match self.send_txn(env, who, ops).await {
            Ok(answer) if answer.status == 200 => Outcome::Ok(Response::Done(true)),
            // One of its conditions did not hold.
            Ok(answer) if answer.status == 409 && matches!(action, Action::Cas { .. }) => {
                Outcome::Ok(Response::Done(false))
            }
            // As for other writes.
            answer => outcome(&action, &answer),
        };
        self.note_pair(who, pair, action, invoked_ns, outcome);
    }

    /// Reads both halves, by a transaction or by a listing. None: nobody could say, or they differ.
    async fn read_pair(
        &self,
        env: &Env,
        who: (u32, u32),
        pair: &str,
        by_txn: bool,
    ) -> Option<Option<Versioned>> {
        let invoked_ns = self.now();
        let entries = if by_txn {
            let ops = vec![on_key("get-tree", &format!("{pair}/"), "", 0)];
            let answer = self.send_txn(env, who, ops).await.ok().filter(|answer| answer.status == 200)?;
            let answer: Answer = serde_json::from_slice(&answer.body).ok()?;
            answer.results.unwrap_or_default().into_iter().map(|result| result.kv).collect()
        } else {
            let path = format!("/v1/kv/{pair}/?recurse");
            let answer = self.call(env, who.1, Method::GET, &path, Bytes::new()).await.ok()?;
            match answer.status {
                404 => Vec::new(),
                200 => serde_json::from_slice(&answer.body).ok()?,
                _ => return None,
            }
        };
        match whole(pair, entries) {
            Ok(seen) => {
                let outcome = Outcome::Ok(Response::Value(seen.clone()));
                self.note_pair(who, pair, Action::Get, invoked_ns, outcome);
                Some(seen)
            }
            Err(said) => {
                let (pair, at_ns) = (pair.to_owned(), self.now());
                self.note_torn(Torn { pair, node: who.1, at_ns, said });
                None
            }
        }
    }
}
