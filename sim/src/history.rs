//! Histories from anywhere: the input of the linearizability check.
//!
//! What an operation is, and our own format, are the node's ([`driftline::history`]), because `driftline bench`
//! records real clusters in it. Here are the readers: [`read`] for our JSON lines and [`jepsen`] for what
//! Jepsen and Porcupine's tests write down, in [`edn`].
//!
//! Left out: anything but single keys, because that is what the checks judge.

pub mod edn;
pub mod jepsen;

use std::collections::BTreeSet;
use std::io::{BufRead, Read as _};

pub use driftline::history::{Action, NO_NODE, Operation, Outcome, Response, Versioned, write};
pub use jepsen::Model;

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
    #[error("line {line}: not an operation: {}", of_one_line(source))]
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
    /// It is no EDN.
    #[error(transparent)]
    Edn(edn::EdnError),
    /// There is more of it than the memory limit allows, perhaps in one line or value. Nothing else is wrong with it.
    #[error("line {line}: the history does not fit into the memory limit")]
    TooLarge {
        /// How far it was read.
        line: usize,
    },
    /// There is not one operation in it, so that it is probably something else.
    #[error("line 1: there is no operation in it")]
    Empty,
}

/// What a parser says that was given one line out of many: of the place it knows the column only.
fn of_one_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

impl From<edn::EdnError> for HistoryError {
    fn from(error: edn::EdnError) -> HistoryError {
        match error {
            edn::EdnError::TooLarge { line } => HistoryError::TooLarge { line },
            wrong @ edn::EdnError::Wrong { .. } => HistoryError::Edn(wrong),
        }
    }
}

/// How a history is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Our own JSON lines.
    JsonLines,
    /// Jepsen's EDN.
    Edn,
    /// The log lines of Jepsen's `jepsen.util`.
    JepsenLog,
}

impl Format {
    /// What the beginning of a history looks like: the first line that is neither blank nor a comment
    /// decides.
    pub fn guess(beginning: &[u8]) -> Format {
        let lines = beginning.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start);
        let is_comment = |line: &[u8]| {
            line.is_empty() || line.starts_with(b";") || line.starts_with(b"# ") || line == b"#"
        };
        let first = lines.into_iter().find(|line| !is_comment(line)).unwrap_or_default();
        match first.split_first() {
            Some((b'{', rest)) if rest.trim_ascii_start().starts_with(b"\"") => Format::JsonLines,
            Some((b'{' | b'[' | b'(' | b'#', _)) => Format::Edn,
            _ => Format::JepsenLog,
        }
    }
}

/// How a history speaks of times and keys, so that nobody is told of some that its writer did not write down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wording {
    /// No event has a time: those of the operations are the places of the events, [`jepsen::APART_NS`] apart.
    pub by_place: bool,
    /// No event has a key: there is one register.
    pub one_register: bool,
}

impl Wording {
    /// A time of an operation.
    pub fn time(self, ns: u64) -> String {
        if self.by_place {
            return format!("event {}", ns / jepsen::APART_NS);
        }
        format!("{}.{:09}s", ns / 1_000_000_000, ns % 1_000_000_000)
    }

    /// What holds the value.
    pub fn holder(self) -> &'static str {
        if self.one_register { "the register" } else { "the key" }
    }
}

/// Reads a history of any format, as far as its operations take no more than about `limit` bytes, and how it is worded.
///
/// # Errors
/// See [`HistoryError`].
pub fn read_any(
    input: impl BufRead,
    format: Format,
    model: Model,
    limit: usize,
) -> Result<(Vec<Operation>, Wording), HistoryError> {
    let (operations, wording) = match format {
        Format::JsonLines => (read_within(input, model, limit)?, Wording::default()),
        Format::Edn => jepsen::read_edn(input, model, limit)?,
        Format::JepsenLog => jepsen::read_log(input, model, limit)?,
    };
    if operations.is_empty() { Err(HistoryError::Empty) } else { Ok((operations, wording)) }
}

/// Lines of text that are read one at a time.
struct Lines<R> {
    input: R,
    line: usize,
}

impl<R: BufRead> Lines<R> {
    fn new(input: R) -> Lines<R> {
        Lines { input, line: 0 }
    }

    /// The next line and its number, from 1; nothing at the end. A line of more than `most` bytes is not read to its end,
    /// because it may have none.
    fn next(&mut self, most: usize) -> Result<Option<(usize, String)>, HistoryError> {
        self.line += 1;
        let line = self.line;
        let failed = |source| HistoryError::Io { line, source };
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take((most as u64).saturating_add(1)).read_until(b'\n', &mut bytes);
        if read.map_err(failed)? == 0 {
            return Ok(None);
        }
        if bytes.len() > most {
            return Err(HistoryError::TooLarge { line });
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
        Ok(Some((line, text)))
    }
}

/// Reads JSON lines; empty lines and lines that start with `#` are skipped.
///
/// # Errors
/// The first line that is not a possible operation, or repeats an id; a client that calls again before it was answered.
pub fn read(input: impl BufRead) -> Result<Vec<Operation>, HistoryError> {
    read_within(input, Model::Kv, usize::MAX)
}

fn read_within(input: impl BufRead, model: Model, limit: usize) -> Result<Vec<Operation>, HistoryError> {
    let mut bytes = 0usize;
    let mut operations = Vec::new();
    let mut stands_at = Vec::new();
    let mut ids = BTreeSet::new();
    let mut lines = Lines::new(input);
    while let Some((line, text)) = lines.next(limit.saturating_sub(bytes))? {
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        let operation: Operation =
            serde_json::from_str(text.trim_end()).map_err(|source| HistoryError::Json { line, source })?;
        if let Some(problem) = operation.problem() {
            return Err(HistoryError::Impossible { line, problem });
        }
        let name = match operation.action {
            Action::Get => "get",
            Action::Put { .. } => "put",
            Action::Cas { .. } => "cas",
            Action::Delete => "delete",
            Action::Append { .. } => "append",
        };
        if let Some(problem) = jepsen::off_model(name, model) {
            return Err(HistoryError::Impossible { line, problem });
        }
        if !ids.insert(operation.id) {
            let problem = format!("operation {} is there twice", operation.id);
            return Err(HistoryError::Impossible { line, problem });
        }
        bytes = bytes.saturating_add(size_of::<Operation>() + 64 + jepsen::written(&operation));
        if bytes > limit {
            return Err(HistoryError::TooLarge { line });
        }
        operations.push(operation);
        stands_at.push(line);
    }
    overlap(&operations, &stands_at).map_or(Ok(operations), Err)
}

/// The first call of a client that it makes although it still waits for the answer to another one. Whoever wrote that down
/// confused clients or times, and the verdict would be about something that never was.
///
/// How long a call of unknown outcome was waited for is not written down, so a client may go on at any time after one. And
/// what one request did to several keys (a list, the removal of a tree) is written as one operation for each, all of one
/// beginning.
fn overlap(operations: &[Operation], stands_at: &[usize]) -> Option<HistoryError> {
    let mut order: Vec<usize> = (0..operations.len()).collect();
    order.sort_by_key(|at| (operations[*at].client, operations[*at].invoked_ns, operations[*at].id));
    let mut open: Option<usize> = None;
    for at in order {
        let operation = &operations[at];
        let before = open.filter(|before| operations[*before].client == operation.client);
        if let Some(before) = before {
            let (other, line) = (&operations[before], stands_at[at]);
            let one_request = other.invoked_ns == operation.invoked_ns && other.key != operation.key;
            if !one_request && other.returned_ns.is_some_and(|returned| operation.invoked_ns < returned) {
                let problem = format!(
                    "client {} makes the call of operation {} at {}, and operation {} of line {} still waits for its answer",
                    operation.client, operation.id, operation.invoked_ns, other.id, stands_at[before]
                );
                return Some(HistoryError::Impossible { line, problem });
            }
        }
        if before.is_none_or(|before| operations[before].returned_ns < operation.returned_ns) {
            open = Some(at);
        }
    }
    None
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
        for end in ["", "\n", "\r\n"] {
            let torn = format!("{good}\n{}{end}", &good[..42]);
            let expected = "line 2: not an operation: EOF while parsing a string at column 42";
            assert_eq!(read(torn.as_bytes()).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn what_the_model_does_not_know_is_refused_in_every_format() {
        let append = Action::Append { value: "b".into() };
        let done = Outcome::Ok(Response::Done(true));
        for (story, expected) in [
            (Story::default().put((1, 2), "a").get((3, 4), Some(("a", 0))), None),
            (Story::default().cas((1, 2), None, "a", true), None),
            (Story::default().put((1, 2), "a").add((3, 4), append, done), Some(":append")),
            (Story::default().put((1, 2), "a").delete((3, 4)), Some(":delete")),
        ] {
            let mut bytes = Vec::new();
            write(&mut bytes, &story.0).unwrap();
            let read = |model| read_any(&bytes[..], Format::JsonLines, model, usize::MAX);
            assert_eq!(read(Model::Kv).unwrap(), (story.0.clone(), Wording::default()));
            let refused = read(Model::Register).err().map(|error| error.to_string());
            let expected = expected.map(|name| {
                format!("line 2: {name} is nothing a register does: it knows :read, :write and :cas")
            });
            assert_eq!(refused, expected);
        }
    }

    #[test]
    fn a_client_that_calls_before_it_was_answered_is_named_with_both_lines() {
        // One client makes all calls.
        let by_one = |story: Story| {
            let mut story = story.0;
            story.iter_mut().for_each(|operation| operation.client = 3);
            let mut bytes = b"# a story\n".to_vec();
            write(&mut bytes, &story).unwrap();
            read(&bytes[..]).map(|operations| operations.len()).map_err(|error| error.to_string())
        };
        assert_eq!(
            by_one(Story::default().put((1, 9), "a").put((8, 12), "b")).unwrap_err(),
            "line 3: client 3 makes the call of operation 1 at 8, and operation 0 of line 2 still waits for its answer"
        );
        assert!(
            by_one(Story::default().put((8, 12), "b").put((1, 9), "a")).unwrap_err().starts_with("line 2: ")
        );
        assert!(
            by_one(Story::default().put((1, 9), "a").maybe_put(5, "b")).unwrap_err().starts_with("line 3: ")
        );
        assert!(by_one(Story::default().put((1, 20), "a").put((1, 2), "b").put((5, 6), "c")).is_err());
        // As fast as the clock counts, and after a call that nobody answered.
        assert_eq!(by_one(Story::default().put((1, 9), "a").put((9, 12), "b").delete((12, 12))), Ok(3));
        assert_eq!(by_one(Story::default().maybe_put(1, "a").put((2, 5), "b").maybe_put(5, "c")), Ok(3));
        // One request, several keys.
        let mut list = Story::default().get((1, 9), None).get((1, 9), None);
        list.0[1].key = "another".into();
        assert_eq!(by_one(list), Ok(2));
    }

    #[test]
    fn a_line_without_an_end_is_not_read_to_its_end() {
        // More than there is memory.
        for begins in ["", "{\"id\": \"", "# a comment "] {
            let endless = begins.as_bytes().chain(std::io::repeat(b'7'));
            let error = read_within(std::io::BufReader::new(endless), Model::Kv, 100_000).unwrap_err();
            assert!(matches!(error, HistoryError::TooLarge { line: 1 }), "{error}");
        }
        for begins in ["[", "[[", "{:value \"", ":a", "x"] {
            for format in [Format::Edn, Format::JepsenLog] {
                let endless = begins.as_bytes().chain(std::io::repeat(b'7'));
                let error =
                    read_any(std::io::BufReader::new(endless), format, Model::Kv, 100_000).unwrap_err();
                assert!(matches!(error, HistoryError::TooLarge { line: 1 }), "{begins}: {error}");
            }
        }
    }

    #[test]
    fn the_first_line_that_says_something_tells_the_format() {
        for (text, format) in [
            ("# a story\n\n{\"id\": 1}", Format::JsonLines),
            ("{ \"id\": 1}", Format::JsonLines),
            ("; a story\n{:process 0}", Format::Edn),
            ("\n[{:process 0}", Format::Edn),
            ("#jepsen.history.Op{:process 0}", Format::Edn),
            ("INFO  jepsen.util - 0 :invoke :read nil", Format::JepsenLog),
            ("", Format::JepsenLog),
        ] {
            assert_eq!(Format::guess(text.as_bytes()), format, "{text:?}");
        }
        assert!(matches!(
            read_any(&b"a log of something else"[..], Format::JepsenLog, Model::Kv, 1_000),
            Err(HistoryError::Empty)
        ));
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
