//! Histories as Jepsen and Porcupine's tests write them: a call and its completion are two events, and the
//! order of the events is the order in which they happened.
//!
//! Three shapes, one meaning:
//! * EDN, a vector of maps or one map after the other:
//!   `{:process 0, :type :invoke, :f :write, :value 4}`, with `:time` in nanoseconds if it is there;
//! * the same with the key apart, as Porcupine's key-value data has it:
//!   `{:process 0, :type :invoke, :f :append, :key "k", :value "v"}`;
//! * log lines: `INFO  jepsen.util - 0 :invoke :write 4`. Lines of other loggers say nothing here, nor does what this one
//!   says that does not begin with the number of a process.
//!
//! `:ok` is an answer, `:fail` says that it did not happen, `:info` that nobody knows, and so does a missing
//! completion. A process that calls again although its last call is open is a mistake of the history; after
//! `:info` it may go on. What the nemesis (any process that is no number) does is left out.
//!
//! Under [`Model::Register`] there is one register for each `:key`, and one if there are none. Under
//! [`Model::Kv`] an event has a `:key`, or its value is a pair of key and value (`jepsen.independent`).
//! An empty text and an absent value are one, as in Porcupine's model.
//!
//! An operation's id is the place of its call among the calls, from 0; its time is `:time`, moved up where
//! that would not be later than the event before, or, without `:time`, the event's place in seconds. If no event has one, that
//! is no time to tell anybody, and [`Wording`] says so.
//!
//! Left out: transactions, lists, sets and queues.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::BufRead;

use super::edn::{Reader, Value};
use super::{Action, HistoryError, Lines, NO_NODE, Operation, Outcome, Response, Versioned, Wording};

/// What a history's operations speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Registers: read, write, compare-and-set.
    Register,
    /// A key-value store: get, put, append, delete, compare-and-set.
    Kv,
}

/// The key of a history that names none.
const ONE_REGISTER: &str = "the register";

/// What a call may come to, and the call itself.
const TYPES: [&str; 4] = ["invoke", "ok", "fail", "info"];

/// Events without a time are so far apart.
pub const APART_NS: u64 = 1_000_000_000;

/// Reads EDN: one vector (or list) of maps, or maps one after the other.
///
/// # Errors
/// The first thing that is no EDN, no event, or an event that cannot be; or [`HistoryError::TooLarge`].
pub fn read_edn(
    input: impl BufRead,
    model: Model,
    limit: usize,
) -> Result<(Vec<Operation>, Wording), HistoryError> {
    let mut reader = Reader::new(input, limit);
    let mut events = Events::new(model, limit);
    let inside = reader.enter()?;
    loop {
        reader.set_limit(events.left());
        let next = match inside {
            Some(close) => reader.next_of(close)?,
            None => reader.read()?,
        };
        // The line of the value's end; for one map a line, its line.
        let line = reader.line();
        let Some(value) = next else { break };
        events.add_map(line, &value)?;
    }
    if inside.is_some() && reader.read()?.is_some() {
        return Err(impossible(reader.line(), "something follows the vector of events"));
    }
    Ok(events.told())
}

/// Reads log lines.
///
/// # Errors
/// As [`read_edn`].
pub fn read_log(
    input: impl BufRead,
    model: Model,
    limit: usize,
) -> Result<(Vec<Operation>, Wording), HistoryError> {
    let mut events = Events::new(model, limit);
    let mut lines = Lines::new(input);
    while let Some((line, text)) = lines.next(events.left())? {
        if let Some(event) = log_event(line, &text, events.left())? {
            events.add(line, event)?;
        }
    }
    Ok(events.told())
}

fn impossible(line: usize, problem: impl Into<String>) -> HistoryError {
    HistoryError::Impossible { line, problem: problem.into() }
}

/// The event of a log line, if it is a line of `jepsen.util` that tells one.
///
/// Whatever else the logger has to say need not be EDN, so a line is taken for an event by its first word: the number of a
/// process. From there on nothing is skipped, because a call or an answer that is left out makes another history of it, and
/// perhaps one that is linearizable.
fn log_event(line: usize, text: &str, limit: usize) -> Result<Option<Event>, HistoryError> {
    const LOGGER: &str = "jepsen.util";
    let Some(place) = text.find(LOGGER) else { return Ok(None) };
    let after = text[place + LOGGER.len()..].trim_start();
    let rest = after.strip_prefix(['-', ':']).unwrap_or(after).trim_start();
    let first = rest.split(|letter: char| letter.is_whitespace() || letter == ',').next().unwrap_or_default();
    // What was glued to it is missing a space, and not another kind of line.
    let (process, glued) = first.split_once(':').map_or((first, None), |(number, kind)| (number, Some(kind)));
    let digits = process.strip_prefix(['-', '+']).unwrap_or(process);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    if glued.is_some_and(|kind| !TYPES.contains(&kind)) {
        return Ok(None);
    }
    let process = process.to_owned();
    let rest = &rest[process.len()..];
    let mut reader = Reader::at(rest.as_bytes(), line, text.len() - rest.len() + 1, limit);
    let kind = match reader.read()? {
        Some(Value::Keyword(kind)) => kind,
        Some(other) => {
            let what = brief(&other);
            return Err(impossible(
                line,
                format!("{what} is no type of event, and process {process} is named"),
            ));
        }
        None => {
            let problem = format!("what happened is missing after the process {process}");
            return Err(impossible(line, problem));
        }
    };
    let Some(Value::Keyword(function)) = reader.read()? else {
        return Err(impossible(line, "what the process does is missing after the type of event"));
    };
    let value = reader.read()?;
    // An error follows the value where something went wrong, in words that need not be EDN.
    if ["invoke", "ok"].contains(&kind.as_str())
        && let Some(more) = reader.read()?
    {
        let more = brief(&more);
        return Err(impossible(line, format!("{more} follows the value of the event, which is one value")));
    }
    Ok(Some(Event { process, kind, function, key: None, value, time: None }))
}

/// One event as it is written.
struct Event {
    process: String,
    kind: String,
    function: String,
    key: Option<Value>,
    /// Nothing if it is left out, which is not the same as nil.
    value: Option<Value>,
    time: Option<u64>,
}

/// Events become operations.
struct Events {
    model: Model,
    operations: Vec<Operation>,
    /// Where the open operation of a process is, what it does, and the line of its call.
    open: BTreeMap<u32, (usize, Function, usize)>,
    last_ns: Option<u64>,
    /// Whether an event had a time.
    timed: bool,
    /// Whether the values are texts, and the line that showed it: 4 and "4" would look the same.
    texts: Option<(bool, usize)>,
    /// The same of the keys.
    text_keys: Option<(bool, usize)>,
    bytes: usize,
    limit: usize,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Read,
    Write,
    Cas,
    Append,
    Delete,
}

impl Function {
    fn of(name: &str, model: Model) -> Result<Function, String> {
        match (name, model) {
            ("read" | "get", _) => Ok(Function::Read),
            ("write" | "put", _) => Ok(Function::Write),
            ("cas", _) => Ok(Function::Cas),
            ("append", Model::Kv) => Ok(Function::Append),
            ("delete" | "del", Model::Kv) => Ok(Function::Delete),
            (_, Model::Register) => {
                Err(format!(":{name} is nothing a register does: it knows :read, :write and :cas"))
            }
            (_, Model::Kv) => Err(format!(
                ":{name} is nothing a key-value store does here: it knows :get, :put, :append, :delete and :cas"
            )),
        }
    }
}

impl Events {
    fn new(model: Model, limit: usize) -> Events {
        Events {
            model,
            operations: Vec::new(),
            open: BTreeMap::new(),
            last_ns: None,
            timed: false,
            texts: None,
            text_keys: None,
            bytes: 0,
            limit,
        }
    }

    /// What they became.
    fn told(self) -> (Vec<Operation>, Wording) {
        let one_register = self.model == Model::Register && self.text_keys.is_none();
        (self.operations, Wording { by_place: !self.timed, one_register })
    }

    fn add_map(&mut self, line: usize, map: &Value) -> Result<(), HistoryError> {
        let field = |name: &str| {
            map.get(name).ok_or_else(|| impossible(line, format!("an event without :{name}: {}", brief(map))))
        };
        let keyword = |name: &str| match field(name)? {
            Value::Keyword(word) => Ok(word.clone()),
            other => Err(impossible(line, format!(":{name} must be a keyword, and is {}", brief(other)))),
        };
        let process = match field("process")? {
            Value::Number(number) => number.clone(),
            // The nemesis, or another that is no client.
            _ => return Ok(()),
        };
        let time = match map.get("time") {
            Some(Value::Number(number)) => number.trim_end_matches('N').parse().ok(),
            _ => None,
        };
        let event = Event {
            process,
            kind: keyword("type")?,
            function: keyword("f")?,
            key: map.get("key").cloned(),
            value: map.get("value").cloned(),
            time,
        };
        self.add(line, event)
    }

    fn add(&mut self, line: usize, event: Event) -> Result<(), HistoryError> {
        let wrong = |problem: String| impossible(line, problem);
        let process: u32 = event
            .process
            .parse()
            .map_err(|_| wrong(format!("{} is no number of a process", event.process)))?;
        let function = Function::of(&event.function, self.model).map_err(wrong)?;
        let at_ns = self.place(line, event.time)?;
        let says_something = match event.kind.as_str() {
            "invoke" => matches!(function, Function::Write | Function::Append | Function::Cas),
            "ok" => function == Function::Read,
            _ => false,
        };
        if says_something && event.value.is_none() {
            let (kind, function) = (&event.kind, &event.function);
            return Err(wrong(format!(
                "an event :{kind} :{function} without a :value; what is not there is nil"
            )));
        }
        let (key, value) = self.key_and_value(line, event.key, event.value.unwrap_or(Value::Nil))?;
        // What did not happen, or perhaps did not, may tell an error where the key would be.
        let key = match key {
            Some(key) if ["invoke", "ok"].contains(&event.kind.as_str()) => Some(self.key(line, key)?),
            None if self.model == Model::Register => Some(ONE_REGISTER.to_owned()),
            _ => None,
        };
        if event.kind == "invoke" {
            let key = key.ok_or_else(|| {
                wrong("under the model kv an event has a :key, or a value of the form [key value]".to_owned())
            })?;
            if let Some((_, _, since)) = self.open.get(&process) {
                return Err(wrong(format!(
                    "process {process} calls again, and its call of line {since} is not completed"
                )));
            }
            let action = self.action(line, function, value)?;
            let id = self.operations.len() as u64;
            let outcome = Outcome::Unknown("no completion in the history".to_owned());
            let node = NO_NODE;
            let client = process;
            let operation =
                Operation { id, client, node, key, action, invoked_ns: at_ns, outcome, returned_ns: None };
            self.count(line, size_of::<Operation>() + 64 + written(&operation))?;
            self.open.insert(process, (self.operations.len(), function, line));
            self.operations.push(operation);
            return Ok(());
        }
        if !TYPES.contains(&event.kind.as_str()) {
            return Err(wrong(format!(":{} is no type of event", event.kind)));
        }
        let Some((place, called, since)) = self.open.remove(&process) else {
            return Err(wrong(format!("process {process} completes a call that it never made")));
        };
        if called != function {
            return Err(wrong(format!(
                "process {process} completes :{}, but its call of line {since} was another",
                event.function
            )));
        }
        let outcome = match event.kind.as_str() {
            "ok" if function == Function::Read => {
                let seen = self.scalar(line, value)?;
                self.count(line, seen.as_ref().map_or(0, String::len))?;
                Outcome::Ok(Response::Value(seen.map(|value| Versioned { value, modify_index: 0 })))
            }
            "ok" => {
                self.repeats(line, (place, since), function, value)?;
                Outcome::Ok(Response::Done(true))
            }
            "fail" => Outcome::Failed("the history says that it failed".to_owned()),
            _ => Outcome::Unknown("the history says that nobody knows".to_owned()),
        };
        let operation = &mut self.operations[place];
        if event.kind == "ok" && key.is_some_and(|key| key != operation.key) {
            return Err(wrong(format!(
                "process {process} completes its call of line {since}, but under another key"
            )));
        }
        operation.returned_ns = (!matches!(outcome, Outcome::Unknown(_))).then_some(at_ns);
        operation.outcome = outcome;
        Ok(())
    }

    /// What changes something may say again what it wrote, and nothing else: whoever wrote down another value confused two
    /// calls, and which of the values is there afterwards nobody knows.
    fn repeats(
        &mut self,
        line: usize,
        (place, since): (usize, usize),
        function: Function,
        value: Value,
    ) -> Result<(), HistoryError> {
        // Some clients tell of a compare-and-set that it held, and not what it was.
        let is_left_out = match function {
            Function::Write | Function::Append => value == Value::Nil,
            Function::Cas => !matches!(value, Value::List(_)),
            Function::Read | Function::Delete => true,
        };
        if is_left_out {
            return Ok(());
        }
        let said = brief(&value);
        let action = self.action(line, function, value)?;
        match self.operations.get(place) {
            Some(operation) if operation.action != action => {
                let process = operation.client;
                let problem = format!(
                    "process {process} completes its call of line {since}, but with another value: {said}"
                );
                Err(impossible(line, problem))
            }
            _ => Ok(()),
        }
    }

    /// When an event happened: later than the one before, whatever its time says. Two at one time would have happened at once,
    /// so where there is no later time the history cannot be judged.
    fn place(&mut self, line: usize, time: Option<u64>) -> Result<u64, HistoryError> {
        self.timed |= time.is_some();
        let at = match (time, self.last_ns) {
            (Some(time), None) => Some(time),
            (Some(time), Some(last)) => last.checked_add(1).map(|next| next.max(time)),
            (None, None) => Some(0),
            (None, Some(last)) => last.checked_add(APART_NS),
        };
        let problem = "the time of the event before leaves none for this one";
        let at = at.ok_or_else(|| impossible(line, problem))?;
        self.last_ns = Some(at);
        Ok(at)
    }

    /// The key that an event names, if it names one, and what it says of it.
    fn key_and_value(
        &self,
        line: usize,
        key: Option<Value>,
        value: Value,
    ) -> Result<(Option<Value>, Value), HistoryError> {
        match (key, self.model, value) {
            (Some(key), _, value) => Ok((Some(key), value)),
            (None, Model::Kv, Value::List(pair)) => match <[Value; 2]>::try_from(pair) {
                Ok([key, value]) => Ok((Some(key), value)),
                Err(other) => Err(impossible(
                    line,
                    format!("{} is no pair of key and value", brief(&Value::List(other))),
                )),
            },
            // There is but one register, or it is a completion, which may leave them out, or hold an error instead.
            (None, _, value) => Ok((None, value)),
        }
    }

    /// A key as text. Equal keys have one text, and as 1 and "1" would have it too, all are of one type.
    fn key(&mut self, line: usize, key: Value) -> Result<String, HistoryError> {
        let (is_text, text) = match key {
            Value::Text(text) => (true, text),
            other => (false, other.canonical().to_string()),
        };
        match self.text_keys {
            Some((texts, since)) if texts != is_text => Err(impossible(
                line,
                format!("{text} and the key of line {since} are not of one type: text or something else"),
            )),
            Some(_) => Ok(text),
            None => {
                self.text_keys = Some((is_text, line));
                Ok(text)
            }
        }
    }

    fn action(&mut self, line: usize, function: Function, value: Value) -> Result<Action, HistoryError> {
        Ok(match function {
            Function::Read => Action::Get,
            Function::Delete => Action::Delete,
            Function::Write => match self.scalar(line, value)? {
                Some(value) => Action::Put { value },
                None => Action::Delete,
            },
            Function::Append => match self.scalar(line, value)? {
                Some(value) => Action::Append { value },
                None => Action::Append { value: String::new() },
            },
            Function::Cas => {
                let pair = match value {
                    Value::List(pair) => <[Value; 2]>::try_from(pair).ok(),
                    _ => None,
                };
                let Some([expected, value]) = pair else {
                    return Err(impossible(line, "the value of :cas must be a pair, [old new]"));
                };
                let expected = self.scalar(line, expected)?;
                match self.scalar(line, value)? {
                    Some(value) => Action::Cas { expected, value },
                    None => return Err(impossible(line, ":cas to nil is not understood here")),
                }
            }
        })
    }

    /// A value as text; `None` is nil or empty.
    fn scalar(&mut self, line: usize, value: Value) -> Result<Option<String>, HistoryError> {
        let (is_text, text) = match value {
            Value::Nil => return Ok(None),
            Value::Text(text) if text.is_empty() => return Ok(None),
            Value::Text(text) => (true, text),
            other @ (Value::List(_) | Value::Set(_) | Value::Map(_) | Value::Tagged(..))
                if self.model == Model::Register =>
            {
                let what = brief(&other);
                let hint = "a register holds one value; for pairs of key and value use --model kv";
                return Err(impossible(line, format!("{what} is no value of a register: {hint}")));
            }
            other => (false, other.canonical().to_string()),
        };
        match self.texts {
            Some((texts, since)) if texts != is_text => Err(impossible(
                line,
                format!("{text} and the value of line {since} are not of one type: text or something else"),
            )),
            Some(_) => Ok(Some(text)),
            None => {
                self.texts = Some((is_text, line));
                Ok(Some(text))
            }
        }
    }

    /// What may still be kept.
    fn left(&self) -> usize {
        self.limit.saturating_sub(self.bytes)
    }

    fn count(&mut self, line: usize, bytes: usize) -> Result<(), HistoryError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limit {
            return Err(HistoryError::TooLarge { line });
        }
        Ok(())
    }
}

/// What is wrong with an operation of this name, if the model does not know it.
pub(super) fn off_model(name: &str, model: Model) -> Option<String> {
    Function::of(name, model).err()
}

/// How many bytes an operation has beside itself.
pub(super) fn written(operation: &Operation) -> usize {
    let action = match &operation.action {
        Action::Get | Action::Delete => 0,
        Action::Put { value } | Action::Append { value } => value.len(),
        Action::Cas { expected, value } => value.len() + expected.as_ref().map_or(0, String::len),
    };
    let outcome = match &operation.outcome {
        Outcome::Ok(Response::Value(Some(seen))) => seen.value.len(),
        Outcome::Ok(_) => 0,
        Outcome::Failed(why) | Outcome::Unknown(why) => why.len(),
    };
    operation.key.len() + action + outcome
}

/// A value for an error: not all of it, if it is long. The rest is not even made, because it may be very long.
fn brief(value: &Value) -> String {
    struct Brief(String);
    impl fmt::Write for Brief {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            match text.char_indices().nth(SHOWN.saturating_sub(self.0.chars().count())) {
                Some((end, _)) => {
                    self.0 += &text[..end];
                    Err(fmt::Error)
                }
                None => {
                    self.0 += text;
                    Ok(())
                }
            }
        }
    }
    const SHOWN: usize = 80;
    let mut text = Brief(String::new());
    let whole = write!(text, "{value}").is_ok();
    if whole { text.0 } else { format!("{} …", text.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::linearizable::{Verdict, check};
    use proptest::prelude::*;

    fn edn(text: &str, model: Model) -> Result<Vec<Operation>, String> {
        let read = read_edn(text.as_bytes(), model, usize::MAX);
        read.map(|(operations, _)| operations).map_err(|error| error.to_string())
    }

    fn log(text: &str, model: Model) -> Result<Vec<Operation>, String> {
        let read = read_log(text.as_bytes(), model, usize::MAX);
        read.map(|(operations, _)| operations).map_err(|error| error.to_string())
    }

    const REGISTER: &str = "[{:process 0, :type :invoke, :f :write, :value 1, :time 5}\n \
        {:process :nemesis, :type :info, :f :start, :value nil}\n \
        {:process 1, :type :invoke, :f :read, :value nil, :time 5}\n \
        {:process 0, :type :ok, :f :write, :value 1, :time 9}\n \
        {:process 1, :type :ok, :f :read, :value 1, :time 12}\n \
        {:process 1, :type :invoke, :f :cas, :value [1 2], :time 13}\n \
        {:process 1, :type :info, :f :cas, :value [1 2], :error :timed-out}\n \
        {:process 1, :type :invoke, :f :write, :value 7}\n \
        {:process 1, :type :fail, :f :write, :value 7}]";

    #[test]
    fn events_become_operations() {
        let operations = edn(REGISTER, Model::Register).unwrap();
        assert_eq!(operations.len(), 4);
        let times: Vec<_> = operations.iter().map(|one| (one.invoked_ns, one.returned_ns)).collect();
        assert_eq!(times[..3], [(5, Some(9)), (6, Some(12)), (13, None)]);
        let cas = Action::Cas { expected: Some("1".into()), value: "2".into() };
        assert_eq!(operations[2].action, cas);
        assert!(matches!(operations[2].outcome, Outcome::Unknown(_)));
        assert!(matches!(operations[3].outcome, Outcome::Failed(_)));
        // Without the brackets it is one map after the other, and means the same.
        let lines = REGISTER.trim_start_matches('[').trim_end_matches(']');
        assert_eq!(edn(lines, Model::Register).unwrap(), operations);
    }

    #[test]
    fn log_lines_mean_the_same() {
        let text = "INFO  jepsen.core - Everything is ready\n\
            INFO  jepsen.util - 0\t:invoke\t:write\t1\n\
            INFO  jepsen.util - :nemesis\t:info\t:start\tnil\n\
            INFO  jepsen.util - Waiting for \"nodes\n\
            2024-01-01 10:00:00,000{GMT}\tINFO\t[jepsen worker 1] jepsen.util: 1\t:invoke\t:read\tnil\n\
            INFO  jepsen.util - 0\t:ok\t:write\t1\n\
            INFO  jepsen.util - 1\t:ok\t:read\t1\n\
            INFO  jepsen.util - 1 :invoke :cas [1 2]\n\
            INFO  jepsen.util - 1 :info :cas :timed-out\n";
        let operations = log(text, Model::Register).unwrap();
        let expected = edn(REGISTER, Model::Register).unwrap();
        assert_eq!(operations.len(), 3);
        for (one, other) in operations.iter().zip(&expected) {
            assert_eq!((&one.action, &one.outcome), (&other.action, &other.outcome));
        }
    }

    #[test]
    fn keys_come_apart_or_in_a_pair() {
        let apart = r#"{:process 0, :type :invoke, :f :append, :key "k", :value "v"}
            {:process 0, :type :ok, :f :append, :key "k", :value "v"}
            {:process 0, :type :invoke, :f :get, :key "k", :value nil}
            {:process 0, :type :ok, :f :get, :key "k", :value "v"}"#;
        let pair = r#"{:process 0, :type :invoke, :f :append, :value ["k" "v"]}
            {:process 0, :type :ok, :f :append, :value ["k" "v"]}
            {:process 0, :type :invoke, :f :read, :value ["k" nil]}
            {:process 0, :type :ok, :f :read, :value ["k" "v"]}"#;
        let operations = edn(apart, Model::Kv).unwrap();
        assert_eq!(edn(pair, Model::Kv).unwrap(), operations);
        assert_eq!(operations[0].action, Action::Append { value: "v".into() });
        assert_eq!(check(&operations), Verdict::Linearizable);
    }

    #[test]
    fn times_and_keys_that_nobody_wrote_are_known_as_such() {
        let worded = |fields: &str, model| {
            let text = format!("{{:process 0, :type :invoke, :f :read, :value nil}}
                {{:process 0, :type :info, :f :read}} {{:process 1, :type :invoke, :f :read, :value nil{fields}}}");
            read_edn(text.as_bytes(), model, usize::MAX).unwrap().1
        };
        let (neither, both) = (Wording::default(), Wording { by_place: true, one_register: true });
        assert_eq!(worded("", Model::Register), both);
        assert_eq!(worded(", :time 5", Model::Register), Wording { one_register: true, ..neither });
        assert_eq!(worded(", :key 7", Model::Register), Wording { by_place: true, ..neither });
        assert_eq!(worded(", :time 5, :key 7", Model::Register), neither);
        let log = "INFO  jepsen.util - 0 :invoke :read [7 nil]\n";
        let told = read_log(log.as_bytes(), Model::Kv, usize::MAX).unwrap().1;
        assert_eq!(told, Wording { by_place: true, ..neither });
    }

    #[test]
    fn what_cannot_be_is_named_with_its_line() {
        let call = "{:process 0, :type :invoke, :f :read, :value nil}\n";
        for (text, expected) in [
            (format!("{call}{call}"), "line 2: process 0 calls again, and its call of line 1 is not completed"),
            (
                "{:process 3, :type :ok, :f :read, :value 1}".to_owned(),
                "line 1: process 3 completes a call that it never made",
            ),
            (
                format!("{call}{{:process 0, :type :ok, :f :write, :value 1}}"),
                "line 2: process 0 completes :write, but its call of line 1 was another",
            ),
            ("{:process 0, :type :invoke}".to_owned(), "line 1: an event without :f: {:process 0, :type :invoke}"),
            (
                "{:process 0, :type :invoke, :f :append, :value 1}".to_owned(),
                "line 1: :append is nothing a register does: it knows :read, :write and :cas",
            ),
            (
                "{:process 0, :type :invoke, :f :cas, :value 1}".to_owned(),
                "line 1: the value of :cas must be a pair, [old new]",
            ),
            ("{:process 0, :type :done, :f :read}".to_owned(), "line 1: :done is no type of event"),
            (format!("[{call}] 5"), "line 2: something follows the vector of events"),
            (format!("[{call}"), "line 2, column 1: the end is here, and ']' is not"),
            (
                "{:process 0, :type :invoke, :f :write, :value 4}\n{:process 1, :type :invoke, :f :write, :value \"4\"}"
                    .to_owned(),
                "line 2: 4 and the value of line 1 are not of one type: text or something else",
            ),
            (
                format!("{call}{{:process 0, :type :ok, :f :read}}"),
                "line 2: an event :ok :read without a :value; what is not there is nil",
            ),
            (
                "{:process 0, :type :invoke, :f :write, :value [0 3]}".to_owned(),
                "line 1: [0 3] is no value of a register: a register holds one value; for pairs of key and value use \
                 --model kv",
            ),
            ("7".to_owned(), "line 1: an event without :process: 7"),
            (
                "{:process 0, :type :invoke, :f :read, :value nil, :time 18446744073709551615}\n\
                 {:process 1, :type :invoke, :f :read, :value nil, :time 7}"
                    .to_owned(),
                "line 2: the time of the event before leaves none for this one",
            ),
            (
                "{:process 0, :type :invoke, :f :write, :value 1, :value 2}".to_owned(),
                "line 1, column 59: a map with :value in it twice",
            ),
        ] {
            assert_eq!(edn(&text, Model::Register), Err(expected.to_owned()), "{text}");
        }
        let unkeyed = "{:process 0, :type :invoke, :f :get, :value nil}";
        assert!(edn(unkeyed, Model::Kv).unwrap_err().contains("has a :key"));
        assert_eq!(
            log("x\nINFO  jepsen.util - 0 :invoke :write {:a}", Model::Register),
            Err("line 2, column 42: a map with a key that has no value".to_owned())
        );
    }

    #[test]
    fn a_log_line_of_a_process_is_an_event_or_a_mistake() {
        let call = "INFO  jepsen.util - 1 :invoke :read nil\n";
        for (text, expected) in [
            ("1 ok :read 7", "line 2: ok is no type of event, and process 1 is named"),
            ("1", "line 2: what happened is missing after the process 1"),
            ("1 :ok", "line 2: what the process does is missing after the type of event"),
            ("1:ok :read", "line 2: an event :ok :read without a :value; what is not there is nil"),
            ("0 :invoke :write 4 5 6", "line 2: 5 follows the value of the event, which is one value"),
            ("1 :ok :read 4 5", "line 2: 5 follows the value of the event, which is one value"),
            ("1 :OK :read 4", "line 2: :OK is no type of event"),
            ("-1 :ok :read 4", "line 2: -1 is no number of a process"),
        ] {
            let text = format!("{call}INFO  jepsen.util - {text}");
            assert_eq!(log(&text, Model::Register), Err(expected.to_owned()), "{text}");
        }
        // The message of an error is told after the value, and is nobody's EDN.
        let failed = format!("{call}INFO  jepsen.util - 1 :fail :read nil java.net.Exception: [no {{route\n");
        assert_eq!(log(&failed, Model::Register).map(|operations| operations.len()), Ok(1));
        for text in [
            "INFO  jepsen.util - :nemesis :info :start nil",
            "INFO  jepsen.util - Waiting for 5 nodes",
            "INFO  jepsen.util - 10:00:00 it begins",
            "INFO  jepsen.util - 3rd try",
            "INFO  jepsen.util - ",
            "at jepsen.util$real_pmap.invoke(util.clj:51)",
        ] {
            let text = format!("{call}{text}\n");
            assert_eq!(log(&text, Model::Register).map(|operations| operations.len()), Ok(1), "{text}");
        }
    }

    #[test]
    fn values_and_keys_are_equal_whatever_their_spelling() {
        let story = |wrote: &str, read: &str, keys: [&str; 2]| {
            let [first, second] = keys;
            let text = format!(
                "{{:process 0, :type :invoke, :f :write, :key {first}, :value {wrote}}}
                {{:process 0, :type :ok, :f :write, :key {second}, :value {wrote}}}
                {{:process 0, :type :invoke, :f :read, :key {second}, :value nil}}
                {{:process 0, :type :ok, :f :read, :key {first}, :value {read}}}"
            );
            edn(&text, Model::Kv).map(|operations| check(&operations))
        };
        for (wrote, read) in [("#{1 2}", "#{2 1}"), ("{:a 1, :b 2}", "{:b 2, :a 1N}"), ("1N", "1")] {
            assert_eq!(story(wrote, read, ["1", "1N"]), Ok(Verdict::Linearizable), "{wrote} and {read}");
        }
        assert!(matches!(story("#{1 2}", "#{2 3}", ["1", "1"]), Ok(Verdict::Violation(_))));
        assert_eq!(
            story("1", "1", ["1", "\"1\""]),
            Err("line 2: 1 and the key of line 1 are not of one type: text or something else".to_owned())
        );
        // An error in a key's place says nothing of keys.
        let failed = "{:process 0, :type :invoke, :f :read, :value [\"k\" nil]}
            {:process 0, :type :fail, :f :read, :value [:timeout 5]}";
        assert_eq!(edn(failed, Model::Kv).map(|operations| operations.len()), Ok(1));
    }

    #[test]
    fn an_answer_repeats_what_its_call_wrote() {
        let story = |call: &str, answer: &str| {
            let text = format!("{{:process 0, :type :invoke, {call}}}\n{{:process 0, :type :ok, {answer}}}");
            edn(&text, Model::Register).map(|operations| operations.len())
        };
        let other = |value: &str| {
            Err(format!("line 2: process 0 completes its call of line 1, but with another value: {value}"))
        };
        assert_eq!(story(":f :write, :value 3", ":f :write, :value 4"), other("4"));
        assert_eq!(story(":f :write, :value nil", ":f :write, :value 4"), other("4"));
        assert_eq!(story(":f :cas, :value [1 2]", ":f :cas, :value [1 3]"), other("[1 3]"));
        assert_eq!(story(":f :write, :value 3", ":f :write, :value 3N"), Ok(1));
        assert_eq!(story(":f :write, :value 3", ":f :write, :value nil"), Ok(1));
        assert_eq!(story(":f :write, :value 3", ":f :write"), Ok(1));
        assert_eq!(story(":f :cas, :value [1 2]", ":f :cas, :value [1 2]"), Ok(1));
        assert_eq!(story(":f :cas, :value [1 2]", ":f :cas, :value true"), Ok(1));
        let pair = "{:process 0, :type :invoke, :f :append, :value [:k 3]}
            {:process 0, :type :ok, :f :append, :value [:k 4]}";
        assert_eq!(edn(pair, Model::Kv).map(|operations| operations.len()), other("4"));
    }

    #[test]
    fn a_process_may_go_on_after_info() {
        let text = "INFO  jepsen.util - 0 :invoke :write 1\nINFO  jepsen.util - 0 :info :write 1\n\
            INFO  jepsen.util - 0 :invoke :read nil\nINFO  jepsen.util - 0 :ok :read 1\n";
        assert_eq!(check(&log(text, Model::Register).unwrap()), Verdict::Linearizable);
    }

    #[test]
    fn the_memory_is_bounded() {
        let call = "{:process 0, :type :invoke, :f :read, :value nil} {:process 0, :type :info, :f :read}\n";
        let error = read_edn(call.repeat(50).as_bytes(), Model::Register, 4_000).unwrap_err();
        assert!(matches!(error, HistoryError::TooLarge { line: 2..50 }), "{error}");
        let vector =
            format!("{call}{{:process 0, :type :invoke, :f :write, :value [{}]}}", "1 ".repeat(5_000));
        let error = read_edn(vector.as_bytes(), Model::Register, 8_000).unwrap_err();
        assert!(matches!(error, HistoryError::TooLarge { line: 2 }), "{error}");
        let words = format!("INFO  something else\n{}", "x".repeat(10_000));
        let error = read_log(words.as_bytes(), Model::Register, 8_000).unwrap_err();
        assert!(matches!(error, HistoryError::TooLarge { line: 2 }), "{error}");
        // What is not kept takes nothing.
        assert!(read_log("INFO  something else\n".repeat(5_000).as_bytes(), Model::Register, 8_000).is_ok());
    }

    #[test]
    fn an_error_shows_the_beginning_of_a_long_value() {
        let text = format!("{{:type :ok, :f :read, :value [{}]}}", "1 ".repeat(5_000));
        let error = edn(&text, Model::Register).unwrap_err();
        assert!(error.ends_with(" …") && error.chars().count() < 140, "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_edn(&bytes[..], Model::Kv, usize::MAX);
            let text = [b"jepsen.util - ", &bytes[..]].concat();
            let _ = read_log(&text[..], Model::Register, usize::MAX);
        }
    }
}
