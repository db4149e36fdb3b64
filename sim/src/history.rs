//! What the clients did and what they were told: the input of the linearizability check.
//!
//! A history is a list of [`Operation`]s in any order. Times are true simulated time, which no node and
//! no client can see, so "before" means before. On disk it is JSON lines, one operation a line, so that
//! a person can read it, cut it down and put it into `fixtures/histories`.
//!
//! The most important word here is [`Outcome::Unknown`]: a write that timed out may have happened, may
//! happen later, or never. It is not a failure, and a checker that takes it for one raises false alarms
//! (or, worse, is fed a node that reports failure for what later turns out to be done).
//!
//! Left out: anything but single-key registers, because that is what the workload uses.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

/// One request of one client, from the moment it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Unique in the history.
    pub id: u64,
    /// Which client asked.
    pub client: u32,
    /// Which node it asked.
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

/// What a client can ask of a key. Every value is written by at most one operation of a run, so a value
/// names the write it came from.
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
}

impl Action {
    /// The value this would write, if it writes one.
    pub fn writes(&self) -> Option<&str> {
        match self {
            Action::Put { value } | Action::Cas { value, .. } => Some(value),
            Action::Get | Action::Delete => None,
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
    /// To a put or delete: always true. To a compare-and-set: whether the condition held.
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

/// Why a history cannot be read. `line` counts from 1.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file or pipe failed.
    #[error("line {line}: cannot read: {source}")]
    Io {
        /// Where.
        line: usize,
        /// The system's error.
        source: std::io::Error,
    },
    /// The line is not an operation.
    #[error("line {line}: not an operation: {source}")]
    Json {
        /// Where.
        line: usize,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The line is an operation that cannot be.
    #[error("line {line}: {problem}")]
    Impossible {
        /// Where.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

impl Operation {
    /// What makes this operation impossible, if anything does.
    fn problem(&self) -> Option<String> {
        if self.returned_ns.is_some_and(|returned| returned < self.invoked_ns) {
            return Some(format!("operation {} returned before it was invoked", self.id));
        }
        let Outcome::Ok(response) = &self.outcome else { return None };
        if self.returned_ns.is_none() {
            return Some(format!("operation {} has an answer but never returned", self.id));
        }
        match (&self.action, response) {
            (Action::Get, Response::Value(_)) => None,
            (Action::Put { .. } | Action::Cas { .. } | Action::Delete, Response::Done(_)) => None,
            _ => Some(format!("operation {}: the answer does not fit the action", self.id)),
        }
    }
}

/// Reads JSON lines; empty lines and lines that start with `#` are skipped.
///
/// # Errors
/// The first line that is not a possible operation, or repeats an id.
pub fn read(input: impl BufRead) -> Result<Vec<Operation>, HistoryError> {
    let mut operations = Vec::new();
    let mut ids = BTreeSet::new();
    for (at, text) in input.lines().enumerate() {
        let line = at + 1;
        let text = text.map_err(|source| HistoryError::Io { line, source })?;
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        let operation: Operation =
            serde_json::from_str(&text).map_err(|source| HistoryError::Json { line, source })?;
        if let Some(problem) = operation.problem() {
            return Err(HistoryError::Impossible { line, problem });
        }
        if !ids.insert(operation.id) {
            let problem = format!("operation {} is there twice", operation.id);
            return Err(HistoryError::Impossible { line, problem });
        }
        operations.push(operation);
    }
    Ok(operations)
}

/// Writes JSON lines that [`read`] reads.
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

#[cfg(test)]
pub(crate) mod test {
    //! Short ways to write histories down in tests.
    use super::*;

    /// Builds a history of one key, with ids in order.
    #[derive(Default)]
    pub(crate) struct Story(pub(crate) Vec<Operation>);

    impl Story {
        /// Adds an operation on key `k`.
        pub(crate) fn add(mut self, span: (u64, u64), action: Action, outcome: Outcome) -> Story {
            let id = self.0.len() as u64;
            let returned_ns = (span.1 != u64::MAX).then_some(span.1);
            let (client, node) = (id as u32, 0);
            self.0.push(Operation {
                id,
                client,
                node,
                key: "k".into(),
                action,
                invoked_ns: span.0,
                outcome,
                returned_ns,
            });
            self
        }
        pub(crate) fn put(self, span: (u64, u64), value: &str) -> Story {
            self.add(span, Action::Put { value: value.into() }, Outcome::Ok(Response::Done(true)))
        }
        pub(crate) fn maybe_put(self, from: u64, value: &str) -> Story {
            self.add(
                (from, u64::MAX),
                Action::Put { value: value.into() },
                Outcome::Unknown("timed out".into()),
            )
        }
        pub(crate) fn delete(self, span: (u64, u64)) -> Story {
            self.add(span, Action::Delete, Outcome::Ok(Response::Done(true)))
        }
        pub(crate) fn cas(self, span: (u64, u64), expected: Option<&str>, value: &str, held: bool) -> Story {
            let action = Action::Cas { expected: expected.map(str::to_owned), value: value.into() };
            self.add(span, action, Outcome::Ok(Response::Done(held)))
        }
        pub(crate) fn get(self, span: (u64, u64), seen: Option<(&str, u64)>) -> Story {
            let seen = seen.map(|(value, modify_index)| Versioned { value: value.into(), modify_index });
            self.add(span, Action::Get, Outcome::Ok(Response::Value(seen)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::test::Story;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn errors_name_the_line() {
        let good = r#"{"id":1,"client":0,"node":0,"key":"k","action":"get","invoked_ns":1,"outcome":{"failed":"refused"}}"#;
        let twice = format!("# a comment\n{good}\n\n{good}\n");
        assert_eq!(read(twice.as_bytes()).unwrap_err().to_string(), "line 4: operation 1 is there twice");
        let torn = format!("{good}\n{}", &good[..40]);
        assert!(read(torn.as_bytes()).unwrap_err().to_string().starts_with("line 2: not an operation"));
    }

    #[test]
    fn an_answer_must_fit_the_question_and_come_after_it() {
        let mut story = Story::default().put((5, 9), "a").0;
        story[0].returned_ns = Some(4);
        assert!(story[0].problem().unwrap().contains("before it was invoked"));
        story[0].returned_ns = None;
        assert!(story[0].problem().unwrap().contains("never returned"));
        story[0].returned_ns = Some(9);
        assert_eq!(story[0].problem(), None);
        story[0].action = Action::Get;
        assert!(story[0].problem().unwrap().contains("does not fit"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let story = Story::default()
            .put((1, 2), "a")
            .maybe_put(3, "b")
            .cas((4, 5), None, "c", false)
            .get((6, 7), Some(("a", 3)))
            .delete((8, 9))
            .0;
        let mut bytes = Vec::new();
        write(&mut bytes, &story).unwrap();
        assert_eq!(read(&bytes[..]).unwrap(), story);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes[..]);
        }
    }
}
