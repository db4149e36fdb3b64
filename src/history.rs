//! What clients asked and what they were told: the record that `driftline bench` writes and the testbed
//! judges.
//!
//! A history is a list of [`Operation`]s in any order. Their times are of one clock that all clients share:
//! true time in simulation, the monotonic clock of the one machine that measures a real cluster. On disk it
//! is JSON lines, one operation a line, so that a person can read it and cut it down.
//!
//! The most important word here is [`Outcome::Unknown`]: a write that timed out may have happened, may
//! happen later, or never. It is not a failure, and a checker that takes it for one raises false alarms
//! (or, worse, is fed a node that reports failure for what later turns out to be done). [`outcome`] is the
//! one place that decides it for our API.
//!
//! Left out: anything but single keys, stale reads (they promise nothing that a history could refute) and
//! watches.

use std::io::Write;

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::http::client::{self, CallError};

/// The node of an operation of which nobody wrote down which node it asked.
pub const NO_NODE: u32 = u32::MAX;

/// One request of one client, from the moment it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Unique in the history.
    pub id: u64,
    /// Which client asked.
    pub client: u32,
    /// Which node it asked, or [`NO_NODE`].
    pub node: u32,
    /// The key.
    pub key: String,
    /// What it asked for.
    pub action: Action,
    /// When the client sent it.
    pub invoked_ns: u64,
    /// What it was told.
    pub outcome: Outcome,
    /// When it was told; absent if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned_ns: Option<u64>,
}

/// What a client can ask of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A linearizable read.
    Get,
    /// An unconditional write.
    Put {
        /// The new value.
        value: String,
    },
    /// A write on a condition. The client knew `expected` by the modify index it had read with it.
    Cas {
        /// The value that must be there; `None`: the key must be absent.
        expected: Option<String>,
        /// The new value.
        value: String,
    },
    /// An unconditional removal.
    Delete,
    /// Puts this after what is there. An absent key becomes one that holds this; appending nothing changes
    /// nothing. Our own API has no such request; histories from elsewhere do.
    Append {
        /// What is put after the value.
        value: String,
    },
}

impl Action {
    /// The value this would leave, if that does not depend on what is there.
    pub fn writes(&self) -> Option<&str> {
        match self {
            Action::Put { value } | Action::Cas { value, .. } => Some(value),
            Action::Get | Action::Delete | Action::Append { .. } => None,
        }
    }
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened, with this answer.
    Ok(Response),
    /// It definitely did not happen and never will; why.
    Failed(String),
    /// Nobody knows whether it happened or will; why.
    Unknown(String),
}

/// The answer to an operation that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To a get: what the key held.
    Value(Option<Versioned>),
    /// To a put, delete or append: always true. To a compare-and-set: whether the condition held.
    Done(bool),
}

/// A value and the index of the write that put it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versioned {
    /// The value.
    pub value: String,
    /// Its modify index.
    pub modify_index: u64,
}

impl Operation {
    /// What makes this operation impossible, if anything does.
    pub fn problem(&self) -> Option<String> {
        if self.returned_ns.is_some_and(|returned| returned < self.invoked_ns) {
            return Some(format!("operation {} returned before it was invoked", self.id));
        }
        let Outcome::Ok(response) = &self.outcome else { return None };
        if self.returned_ns.is_none() {
            return Some(format!("operation {} has an answer but never returned", self.id));
        }
        match (&self.action, response) {
            (Action::Get, Response::Value(_)) => None,
            (Action::Get, _) | (_, Response::Value(_)) => {
                Some(format!("operation {}: the answer does not fit the action", self.id))
            }
            (_, Response::Done(_)) => None,
        }
    }
}

/// Writes JSON lines, one operation a line, as the testbed reads them.
///
/// # Errors
/// The output's own.
pub fn write(mut output: impl Write, operations: &[Operation]) -> std::io::Result<()> {
    for operation in operations {
        serde_json::to_writer(&mut output, operation)?;
        output.write_all(b"\n")?;
    }
    output.flush()
}

/// The request to our API that asks for this; `index` is the modify index that a compare-and-set expects, 0
/// for an absent key. `None`: the API has no such request. The key must need no escaping.
pub fn request(key: &str, action: &Action, index: u64) -> Option<(Method, String, Bytes)> {
    let path = format!("/v1/kv/{key}");
    let body = |value: &String| Bytes::from(value.clone());
    match action {
        Action::Get => Some((Method::GET, path, Bytes::new())),
        Action::Put { value } => Some((Method::PUT, path, body(value))),
        Action::Cas { value, .. } => Some((Method::PUT, format!("{path}?cas={index}"), body(value))),
        Action::Delete => Some((Method::DELETE, path, Bytes::new())),
        Action::Append { .. } => None,
    }
}

/// One entry as the API shows it.
#[derive(Debug, Deserialize)]
pub struct Entry {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value")]
    value: Option<String>,
    #[serde(rename = "ModifyIndex")]
    modify_index: u64,
    #[serde(rename = "Flags")]
    flags: u64,
}

impl Entry {
    /// The number that was written with the value.
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// Its key and value; `None` if the value is no text, which none of our clients writes.
    pub fn versioned(self) -> Option<(String, Versioned)> {
        let bytes = STANDARD.decode(self.value.unwrap_or_default()).ok()?;
        let value = String::from_utf8(bytes).ok()?;
        Some((self.key, Versioned { value, modify_index: self.modify_index }))
    }
}

/// What the end of a call to our API says about an operation. It is taken at its word and no further: an
/// answer is an outcome, a refusal says that nothing happened, and anything else leaves it unknown.
pub fn outcome(action: &Action, answer: &Result<client::Response, CallError>) -> Outcome {
    match answer {
        Ok(response) => judge(action, response),
        Err(CallError::NotSent(reason)) => Outcome::Failed(reason.clone()),
        Err(CallError::Unknown(reason)) => Outcome::Unknown(reason.clone()),
    }
}

/// What a complete answer says about a request.
fn judge(action: &Action, response: &client::Response) -> Outcome {
    let said = || format!("{} {}", response.status, response.text().trim());
    match (action, response.status) {
        (Action::Get, 404) => Outcome::Ok(Response::Value(None)),
        (Action::Get, 200) => {
            let entries: Result<Vec<Entry>, _> = serde_json::from_slice(&response.body);
            match entries.ok().and_then(|mut entries| entries.pop()).and_then(Entry::versioned) {
                Some((_, versioned)) => Outcome::Ok(Response::Value(Some(versioned))),
                None => Outcome::Unknown(format!("an answer that makes no sense: {}", said())),
            }
        }
        (_, 200) => match response.text().trim() {
            "true" => Outcome::Ok(Response::Done(true)),
            "false" => Outcome::Ok(Response::Done(false)),
            _ => Outcome::Unknown(format!("an answer that makes no sense: {}", said())),
        },
        (_, status) => match response.header("x-driftline-outcome") {
            Some("refused") => Outcome::Failed(said()),
            None if (400..500).contains(&status) => Outcome::Failed(said()),
            _ => Outcome::Unknown(said()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, outcome: Option<&str>, body: &str) -> client::Response {
        let headers = outcome.map(|outcome| ("x-driftline-outcome".to_owned(), outcome.to_owned()));
        let body = Bytes::from(body.to_owned());
        client::Response { status, headers: headers.into_iter().collect(), body }
    }

    #[test]
    fn an_answer_is_taken_at_its_word_and_no_further() {
        let put = Action::Put { value: "v".to_owned() };
        assert_eq!(judge(&put, &response(200, None, "true\n")), Outcome::Ok(Response::Done(true)));
        assert!(matches!(judge(&put, &response(500, Some("refused"), "no")), Outcome::Failed(_)));
        assert!(matches!(judge(&put, &response(500, Some("unknown"), "?")), Outcome::Unknown(_)));
        assert!(matches!(judge(&put, &response(500, None, "?")), Outcome::Unknown(_)));
        assert!(matches!(judge(&put, &response(413, None, "large")), Outcome::Failed(_)));
        assert!(matches!(judge(&put, &response(200, None, "perhaps")), Outcome::Unknown(_)));
    }

    #[test]
    fn a_read_knows_values_absence_and_nonsense() {
        let body = r#"[{"LockIndex":0,"Key":"k","Flags":0,"Value":"djE=","CreateIndex":3,"ModifyIndex":7}]"#;
        let seen = Versioned { value: "v1".to_owned(), modify_index: 7 };
        assert_eq!(judge(&Action::Get, &response(200, None, body)), Outcome::Ok(Response::Value(Some(seen))));
        assert_eq!(judge(&Action::Get, &response(404, None, "")), Outcome::Ok(Response::Value(None)));
        assert!(matches!(judge(&Action::Get, &response(200, None, "[]")), Outcome::Unknown(_)));
    }
}
