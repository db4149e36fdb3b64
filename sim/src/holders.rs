//! Clients that hold tokens, and administrators who change what the tokens are good for: what they ask, and what they make of
//! the answers.
//!
//! What happens is written down for the check ACL ([`crate::check::rights`]).

use bytes::Bytes;
use driftline::config::{AclConfig, AclTokens, DefaultPolicy};
use driftline::env::Env;
use driftline::http::client::Response;
use driftline::secret::Secret;
use hyper::Method;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::check::rights::{Attempt, What};
use crate::scenario::rights::{LINKED, Level, RightDeed};
use crate::workload::Clients;

/// The secret of the token that may do everything. Every node shows it for whoever shows none, so that all who are not tried
/// here get through.
pub const ROOT: &str = "11111111-1111-4111-8111-111111111111";

/// What nodes know of rights: nothing, or that everybody may do everything who shows no token of their own.
pub fn rights(enabled: bool) -> AclConfig {
    if !enabled {
        return AclConfig::default();
    }
    let root = Secret::new(ROOT.to_owned());
    let tokens = AclTokens { initial_management: root.clone(), default: root, ..AclTokens::default() };
    AclConfig { enabled, default_policy: DefaultPolicy::Deny, tokens, ..AclConfig::default() }
}

/// What the keys of all users begin with.
const GUARDED: &str = "guarded/";

/// A secret, an accessor id: the same for a user in every run.
fn id_of(user: &str, what: &str) -> String {
    let hash = xxh3_64(format!("{user} {what}").as_bytes()).to_be_bytes();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{}-{}-4000-8000-{}", hex(&hash[..4]), hex(&hash[4..6]), hex(&[&hash[2..6], &hash[6..]].concat()))
}

fn key_of(user: &str) -> String {
    format!("{GUARDED}{user}")
}

fn rules(user: &str, level: Level) -> String {
    match level {
        Level::Gone | Level::Nothing => String::new(),
        Level::Read => format!(r#"key "{}" {{ policy = "read" }}"#, key_of(user)),
        Level::Write => format!(r#"key "{}" {{ policy = "write" }}"#, key_of(user)),
    }
}

/// The names of a user's policies at a level.
fn links(user: &str, level: Level) -> Vec<Value> {
    let name = match level {
        _ if !user.starts_with(LINKED) => format!("own-{user}"),
        Level::Gone | Level::Nothing => return Vec::new(),
        Level::Read => format!("see-{user}"),
        Level::Write => format!("use-{user}"),
    };
    vec![json!({ "Name": name })]
}

fn token(user: &str, level: Level) -> Value {
    json!({ "AccessorID": id_of(user, "accessor"), "Policies": links(user, level) })
}

/// Whether an answer says that a request was refused and did nothing.
fn refused(answer: &Response) -> bool {
    (400..500).contains(&answer.status) || answer.header("x-driftline-outcome") == Some("refused")
}

/// How a change ended.
enum Change {
    Done,
    Refused,
    Unknown,
}

impl Clients {
    async fn send(&self, env: &Env, node: u32, method: Method, path: &str, body: &Value) -> Change {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        match self.call(env, node, method, path, body).await {
            Ok(answer) if answer.status == 200 => Change::Done,
            Ok(answer) if refused(&answer) => Change::Refused,
            _ => Change::Unknown,
        }
    }

    /// Makes a user's key, policies and token, with which it may do nothing yet. Whether all are there: what was made by an
    /// attempt before this is refused now, so asking again is right.
    pub async fn found_user(&self, env: &Env, node: u32, user: &str) -> bool {
        let key = format!("/v1/kv/{}", key_of(user));
        let written = self.call(env, node, Method::PUT, &key, Bytes::from_static(b"first")).await;
        if !written.is_ok_and(|answer| answer.status == 200) {
            return false;
        }
        let policies = if user.starts_with(LINKED) {
            vec![("see", Level::Read), ("use", Level::Write)]
        } else {
            vec![("own", Level::Nothing)]
        };
        for (name, level) in policies {
            let policy = json!({ "Name": format!("{name}-{user}"), "Rules": rules(user, level) });
            self.send(env, node, Method::PUT, "/v1/acl/policy", &policy).await;
        }
        self.create(env, node, user, Level::Nothing).await;
        let path = format!("/v1/acl/token/{}", id_of(user, "accessor"));
        let made = self.call(env, node, Method::GET, &path, Bytes::new()).await;
        made.is_ok_and(|answer| answer.status == 200)
    }

    async fn create(&self, env: &Env, node: u32, user: &str, level: Level) -> Change {
        let mut token = token(user, level);
        token["SecretID"] = Value::String(id_of(user, "secret"));
        self.send(env, node, Method::PUT, "/v1/acl/token", &token).await
    }

    async fn grant(&self, env: &Env, node: u32, user: &str, level: Level) -> Change {
        let path = format!("/v1/acl/token/{}", id_of(user, "accessor"));
        if !user.starts_with(LINKED) {
            let name = format!("own-{user}");
            let path = format!("/v1/acl/policy/name/{name}");
            let found = self.call(env, node, Method::GET, &path, Bytes::new()).await;
            let Some(found) = found.ok().filter(|found| found.status == 200) else { return Change::Refused };
            let found: Option<Value> = serde_json::from_slice(&found.body).ok();
            let id = found.and_then(|found| found["ID"].as_str().map(str::to_owned));
            let Some(id) = id else { return Change::Refused };
            let policy = json!({ "Name": name, "Rules": rules(user, level) });
            return self.send(env, node, Method::PUT, &format!("/v1/acl/policy/{id}"), &policy).await;
        }
        if level == Level::Gone {
            return self.send(env, node, Method::DELETE, &path, &Value::Null).await;
        }
        match self.send(env, node, Method::PUT, &path, &token(user, level)).await {
            // There is none, so it is made anew.
            Change::Refused => self.create(env, node, user, level).await,
            change => change,
        }
    }

    /// Does something about a user's rights, or with them, and writes down what came of it.
    pub async fn right(&self, env: &Env, (client, node): (u32, u32), user: &str, deed: RightDeed) {
        let invoked_ns = self.now();
        self.note(client, "invoke", format!("at n{node}: {user} {deed:?}"));
        let what = match deed {
            RightDeed::Grant(level) => match self.grant(env, node, user, level).await {
                Change::Done => Some(What::Granted(level, true)),
                Change::Unknown => Some(What::Granted(level, false)),
                Change::Refused => None,
            },
            RightDeed::Write | RightDeed::Read | RightDeed::List | RightDeed::Tree => {
                self.try_it(env, node, user, deed).await
            }
        };
        self.note(client, "return", format!("{user} {what:?}"));
        if let Some(what) = what {
            let (user, returned_ns) = (user.to_owned(), self.now());
            self.note_attempt(Attempt { client, node, user, what, invoked_ns, returned_ns });
        }
    }

    async fn try_it(&self, env: &Env, node: u32, user: &str, deed: RightDeed) -> Option<What> {
        let key = key_of(user);
        let (method, path) = match deed {
            RightDeed::Write => (Method::PUT, format!("/v1/kv/{key}")),
            RightDeed::List => (Method::GET, format!("/v1/kv/{GUARDED}?keys")),
            RightDeed::Tree => (Method::GET, format!("/v1/kv/{GUARDED}?recurse")),
            _ => (Method::GET, format!("/v1/kv/{key}")),
        };
        let write = deed == RightDeed::Write;
        let body = if write { Bytes::from_static(b"changed") } else { Bytes::new() };
        let secret = Secret::new(id_of(user, "secret"));
        let answer = self.call_as(env, node, &secret, method, &path, body, None).await.ok()?;
        let let_through = match (deed, answer.status) {
            (_, 403) => false,
            // What may not be seen is left out of a list, and an empty list is none.
            (RightDeed::List | RightDeed::Tree, 404) => false,
            (RightDeed::List, 200) => {
                serde_json::from_slice::<Vec<String>>(&answer.body).ok()?.contains(&key)
            }
            (RightDeed::Tree, 200) => {
                let entries: Vec<Value> = serde_json::from_slice(&answer.body).ok()?;
                entries.iter().any(|entry| entry["Key"].as_str() == Some(&key))
            }
            (_, 200) => true,
            _ => return None,
        };
        Some(What::Tried { write, let_through })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_uuids_and_differ() {
        let ids: BTreeSet<String> = ["linked-0", "linked-1", "ruled-0"]
            .iter()
            .flat_map(|user| ["accessor", "secret"].map(|what| id_of(user, what)))
            .collect();
        assert_eq!(ids.len(), 6);
        for id in ids {
            let lengths: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        }
    }
}
