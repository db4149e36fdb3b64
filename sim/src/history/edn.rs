//! A reader for EDN, the notation that Jepsen writes its histories in: as much of it as data needs.
//!
//! It pulls one value after the other from a stream, so that a history of any length is read with the memory
//! of one operation. Every error names the line and column, both from 1. Depth and size of one value are
//! bounded, so that no input exhausts the stack or the memory.
//!
//! Kept as they are written: numbers, symbols, characters, tags, the order of sets and maps. Which spellings are one value
//! is known to [`Value::canonical`].
//! Left out: namespaces' meaning, and everything that only code has.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead};

/// Values nested deeper are refused.
const MOST_DEEP: usize = 64;
/// A token or string longer than this (bytes) is refused.
const MOST_LONG: usize = 64 << 20;
/// What a value takes beside its text, with a share of the empty places of the vector that it is in.
const VALUE_BYTES: usize = 2 * size_of::<Value>();

/// One value. Two are equal here if they are written alike; [`Value::canonical`] makes that of all that are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// `nil`
    Nil,
    /// `true` and `false`
    Bool(bool),
    /// A whole or broken number, as it is written.
    Number(String),
    /// A string, without its quotes and escapes.
    Text(String),
    /// A keyword, without its colon.
    Keyword(String),
    /// A symbol.
    Symbol(String),
    /// A character, as it is written after the backslash.
    Character(String),
    /// A vector or a list: what is read is the same.
    List(Vec<Value>),
    /// A set, in the order of writing.
    Set(Vec<Value>),
    /// A map, in the order of writing.
    Map(Vec<(Value, Value)>),
    /// A value with a tag.
    Tagged(String, Box<Value>),
}

impl Value {
    /// What a map, tagged or not (records are), holds under a keyword.
    pub fn get(&self, keyword: &str) -> Option<&Value> {
        match self {
            Value::Map(pairs) => pairs
                .iter()
                .find(|(key, _)| matches!(key, Value::Keyword(name) if name == keyword))
                .map(|(_, value)| value),
            Value::Tagged(_, value) => value.get(keyword),
            _ => None,
        }
    }

    /// The one spelling of all values that are equal in EDN: sets and maps have no order, `1N` is `1`, and `2.50` is `2.5`.
    /// A whole number and a broken one are never equal.
    #[must_use]
    pub fn canonical(self) -> Value {
        let all = |values: Vec<Value>| values.into_iter().map(Value::canonical);
        match self {
            Value::Number(text) => Value::Number(number(text)),
            Value::Character(name) => Value::Character(character(name)),
            Value::List(values) => Value::List(all(values).collect()),
            Value::Set(values) => {
                let mut values: Vec<Value> = all(values).collect();
                values.sort();
                values.dedup();
                Value::Set(values)
            }
            Value::Map(pairs) => {
                let mut pairs: Vec<(Value, Value)> =
                    pairs.into_iter().map(|(key, value)| (key.canonical(), value.canonical())).collect();
                pairs.sort();
                Value::Map(pairs)
            }
            Value::Tagged(tag, value) => Value::Tagged(tag, Box::new(value.canonical())),
            other @ (Value::Nil | Value::Bool(_) | Value::Text(_) | Value::Keyword(_) | Value::Symbol(_)) => {
                other
            }
        }
    }
}

/// The one spelling of a number, as far as it is one that is understood: `+1`, `1N` and `1` are `1`, `-0` is `0`; `1.50` and
/// `15e-1` are `1.5`, and exact ones (`1.50M`) `1.5M`; `2/4` is `1/2`.
fn number(text: String) -> String {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let signed = |text: &str| format!("{}{text}", if negative && text != "0" { "-" } else { "" });
    let whole = digits.strip_suffix('N').unwrap_or(digits);
    if all_digits(whole) {
        return signed(whole);
    }
    if let Some((above, below)) = whole.split_once('/')
        && let (Ok(above), Ok(below)) = (above.parse::<u128>(), below.parse::<u128>())
        && below > 0
    {
        let divisor = common(above, below);
        let (above, below) = (above / divisor, below / divisor);
        return signed(&if below == 1 { above.to_string() } else { format!("{above}/{below}") });
    }
    if let Some(exact) = digits.strip_suffix('M') {
        return exactly(exact).map(|exact| signed(&exact) + "M").unwrap_or(text);
    }
    match digits.parse::<f64>() {
        // Zero has one sign, as it is equal with both.
        Ok(0.0) => "0.0".to_owned(),
        Ok(value) if value.is_finite() => format!("{}{value:?}", if negative { "-" } else { "" }),
        _ => text,
    }
}

/// The greatest number that divides both.
fn common(one: u128, other: u128) -> u128 {
    if other == 0 { one.max(1) } else { common(other, one % other) }
}

/// The one spelling of an exact decimal number: its digits without zeros at either end, and the power of ten to take them by.
fn exactly(text: &str) -> Option<String> {
    let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (above, below) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if above.is_empty()
        || ![above, below].into_iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return None;
    }
    let power = power.parse::<i64>().ok()?.checked_sub(i64::try_from(below.len()).ok()?)?;
    let digits = format!("{above}{below}");
    let digits = digits.trim_start_matches('0');
    let short = digits.trim_end_matches('0');
    if short.is_empty() {
        return Some("0".to_owned());
    }
    let power = power.checked_add(i64::try_from(digits.len() - short.len()).ok()?)?;
    Some(if power == 0 { short.to_owned() } else { format!("{short}e{power}") })
}

/// The one spelling of a character: a name, if it has one, and itself otherwise; not its code.
fn character(name: String) -> String {
    let code = name.strip_prefix('u').filter(|code| code.len() == 4);
    let letter = code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
    match letter {
        Some('\n') => "newline".to_owned(),
        Some('\r') => "return".to_owned(),
        Some('\t') => "tab".to_owned(),
        Some(' ') => "space".to_owned(),
        Some(letter) => letter.to_string(),
        None => name,
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |f: &mut fmt::Formatter<'_>, values: &[Value]| {
            values.iter().enumerate().try_for_each(|(at, value)| {
                if at > 0 {
                    f.write_str(" ")?;
                }
                value.fmt(f)
            })
        };
        match self {
            Value::Nil => f.write_str("nil"),
            Value::Bool(on) => on.fmt(f),
            Value::Number(text) | Value::Symbol(text) => f.write_str(text),
            Value::Text(text) => {
                f.write_str("\"")?;
                for letter in text.chars() {
                    match letter {
                        '"' => f.write_str("\\\"")?,
                        '\\' => f.write_str("\\\\")?,
                        '\n' => f.write_str("\\n")?,
                        '\t' => f.write_str("\\t")?,
                        '\r' => f.write_str("\\r")?,
                        other => write!(f, "{other}")?,
                    }
                }
                f.write_str("\"")
            }
            Value::Keyword(name) => write!(f, ":{name}"),
            Value::Character(name) => write!(f, "\\{name}"),
            Value::List(values) => {
                f.write_str("[")?;
                all(f, values)?;
                f.write_str("]")
            }
            Value::Set(values) => {
                f.write_str("#{")?;
                all(f, values)?;
                f.write_str("}")
            }
            Value::Map(pairs) => {
                f.write_str("{")?;
                for (at, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key} {value}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
            Value::Tagged(tag, value) => write!(f, "#{tag} {value}"),
        }
    }
}

/// Why a value cannot be read, and where.
#[derive(Debug, thiserror::Error)]
pub enum EdnError {
    /// It is no EDN, or the input failed.
    #[error("line {line}, column {column}: {problem}")]
    Wrong {
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// One value takes more memory than the reader may use. Nothing else is wrong with it so far.
    #[error("line {line}: one value alone does not fit into the memory limit")]
    TooLarge {
        /// How far it was read.
        line: usize,
    },
}

/// What stands at the reader's place.
enum Token {
    End,
    Close(u8),
    Value(Value),
}

/// Reads values one after the other.
pub struct Reader<R> {
    input: R,
    line: usize,
    column: usize,
    /// Bytes that one value may take.
    limit: usize,
    /// Bytes that the value being read may still take.
    left: usize,
}

impl<R: BufRead> Reader<R> {
    /// A reader at the beginning of `input`, each of whose values may take about `limit` bytes.
    pub fn new(input: R, limit: usize) -> Reader<R> {
        Reader::at(input, 1, 1, limit)
    }

    /// A reader of one line out of many, so that its errors name the right one.
    pub fn at(input: R, line: usize, column: usize, limit: usize) -> Reader<R> {
        Reader { input, line, column, limit, left: limit }
    }

    /// From now on a value may take about so many bytes.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The line that is being read.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The next value, or `None` at the end.
    ///
    /// # Errors
    /// Where the input is no EDN, or cannot be read.
    pub fn read(&mut self) -> Result<Option<Value>, EdnError> {
        self.left = self.limit;
        match self.token(0)? {
            Token::End => Ok(None),
            Token::Value(value) => Ok(Some(value)),
            Token::Close(close) => Err(self.wrong(format!("{:?} closes nothing", char::from(close)))),
        }
    }

    /// Goes into the vector or list that begins here, so that [`Reader::next_of`] gives its values one by one.
    /// `None` if something else begins here; nothing of it is read then.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn enter(&mut self) -> Result<Option<u8>, EdnError> {
        self.skip_blank()?;
        let close = match self.peek()? {
            Some(b'[') => b']',
            Some(b'(') => b')',
            _ => return Ok(None),
        };
        self.bump()?;
        Ok(Some(close))
    }

    /// The next value of what was entered, or `None` at its end.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn next_of(&mut self, close: u8) -> Result<Option<Value>, EdnError> {
        self.left = self.limit;
        match self.token(0)? {
            Token::End => Err(self.wrong(format!("the end is here, and {:?} is not", char::from(close)))),
            Token::Value(value) => Ok(Some(value)),
            Token::Close(found) if found == close => Ok(None),
            Token::Close(found) => {
                Err(self.wrong(format!("{:?} where {:?} belongs", char::from(found), char::from(close))))
            }
        }
    }

    fn wrong(&self, problem: impl Into<String>) -> EdnError {
        EdnError::Wrong { line: self.line, column: self.column, problem: problem.into() }
    }

    /// Counts what is about to be kept of the value that is being read.
    fn spend(&mut self, bytes: usize) -> Result<(), EdnError> {
        let left = self.left.checked_sub(bytes).ok_or(EdnError::TooLarge { line: self.line })?;
        self.left = left;
        Ok(())
    }

    fn peek(&mut self) -> Result<Option<u8>, EdnError> {
        loop {
            match self.input.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.wrong(format!("cannot read on: {error}"))),
            }
        }
    }

    fn bump(&mut self) -> Result<Option<u8>, EdnError> {
        let next = self.peek()?;
        if let Some(byte) = next {
            self.input.consume(1);
            if byte == b'\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        Ok(next)
    }

    /// Spaces, commas and comments mean nothing.
    fn skip_blank(&mut self) -> Result<(), EdnError> {
        while let Some(byte) = self.peek()? {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b'\x0c' | b',' => {
                    self.bump()?;
                }
                b';' => while !matches!(self.bump()?, None | Some(b'\n')) {},
                _ => break,
            }
        }
        Ok(())
    }

    fn token(&mut self, depth: usize) -> Result<Token, EdnError> {
        if depth > MOST_DEEP {
            return Err(self.wrong(format!("more than {MOST_DEEP} values inside each other")));
        }
        loop {
            self.skip_blank()?;
            let Some(byte) = self.peek()? else { return Ok(Token::End) };
            let value = match byte {
                b')' | b']' | b'}' => {
                    self.bump()?;
                    return Ok(Token::Close(byte));
                }
                b'(' | b'[' | b'{' => {
                    self.bump()?;
                    let close = if byte == b'(' { b')' } else { byte + 2 };
                    let values = self.all_until(close, depth)?;
                    if byte == b'{' { self.pairs(values)? } else { Value::List(values) }
                }
                b'"' => self.text()?,
                b'#' => {
                    self.bump()?;
                    match self.peek()? {
                        Some(b'{') => {
                            self.bump()?;
                            Value::Set(self.all_until(b'}', depth)?)
                        }
                        Some(b'_') => {
                            self.bump()?;
                            // What follows is there to be skipped, and takes nothing once it is.
                            let left = self.left;
                            self.expect(depth, "a value to leave out after #_")?;
                            self.left = left;
                            continue;
                        }
                        _ => {
                            let tag = self.word()?;
                            if tag.is_empty() {
                                return Err(self.wrong("a # without a tag"));
                            }
                            let value = self.expect(depth, "a value after its tag")?;
                            Value::Tagged(tag, Box::new(value))
                        }
                    }
                }
                b'\\' => {
                    self.bump()?;
                    // The first byte may be one that ends a word elsewhere.
                    let first = self.bump()?.ok_or_else(|| self.wrong("a backslash at the end"))?;
                    let mut bytes = vec![first];
                    self.word_into(&mut bytes)?;
                    Value::Character(self.utf8(bytes)?)
                }
                _ => self.atom()?,
            };
            self.spend(VALUE_BYTES)?;
            return Ok(Token::Value(value));
        }
    }

    fn expect(&mut self, depth: usize, what: &str) -> Result<Value, EdnError> {
        match self.token(depth + 1)? {
            Token::Value(value) => Ok(value),
            Token::End | Token::Close(_) => Err(self.wrong(format!("{what} is missing"))),
        }
    }

    fn all_until(&mut self, close: u8, depth: usize) -> Result<Vec<Value>, EdnError> {
        let opened = (self.line, self.column.saturating_sub(1));
        let mut values = Vec::new();
        loop {
            match self.token(depth + 1)? {
                Token::Value(value) => values.push(value),
                Token::Close(found) if found == close => return Ok(values),
                Token::Close(found) => {
                    let (found, close) = (char::from(found), char::from(close));
                    return Err(self.wrong(format!(
                        "{found:?} where {close:?} belongs (opened at line {}, column {})",
                        opened.0, opened.1
                    )));
                }
                Token::End => {
                    return Err(self.wrong(format!(
                        "the end is here, and what was opened at line {}, column {} is not closed",
                        opened.0, opened.1
                    )));
                }
            }
        }
    }

    fn pairs(&self, values: Vec<Value>) -> Result<Value, EdnError> {
        if values.len() % 2 == 1 {
            return Err(self.wrong("a map with a key that has no value"));
        }
        // Which of two values a field has nobody knows.
        let mut names = BTreeSet::new();
        for key in values.iter().step_by(2) {
            if let Value::Keyword(name) = key
                && !names.insert(name)
            {
                return Err(self.wrong(format!("a map with :{name} in it twice")));
            }
        }
        let mut values = values.into_iter();
        let mut pairs = Vec::new();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            pairs.push((key, value));
        }
        Ok(Value::Map(pairs))
    }

    fn text(&mut self) -> Result<Value, EdnError> {
        let opened = (self.line, self.column);
        self.bump()?;
        let mut bytes = Vec::new();
        loop {
            match self.bump()? {
                None => {
                    return Err(EdnError::Wrong {
                        line: opened.0,
                        column: opened.1,
                        problem: "a string that does not end".to_owned(),
                    });
                }
                Some(b'"') => return Ok(Value::Text(self.utf8(bytes)?)),
                Some(b'\\') => {
                    let escaped = match self.bump()? {
                        Some(b'n') => '\n',
                        Some(b't') => '\t',
                        Some(b'r') => '\r',
                        Some(b'b') => '\u{8}',
                        Some(b'f') => '\u{c}',
                        Some(b'"') => '"',
                        Some(b'\\') => '\\',
                        Some(b'u') => self.unicode()?,
                        _ => return Err(self.wrong("an escape that EDN does not know")),
                    };
                    bytes.extend(escaped.encode_utf8(&mut [0; 4]).bytes());
                }
                Some(byte) => bytes.push(byte),
            }
            self.spend(1)?;
            if bytes.len() > MOST_LONG {
                return Err(self.wrong(format!("a string of more than {MOST_LONG} bytes")));
            }
        }
    }

    fn unicode(&mut self) -> Result<char, EdnError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.bump()?.and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.wrong("\\u wants four hexadecimal digits"))?;
        }
        char::from_u32(code).ok_or_else(|| self.wrong("\\u names no character"))
    }

    fn word(&mut self) -> Result<String, EdnError> {
        let mut bytes = Vec::new();
        self.word_into(&mut bytes)?;
        self.utf8(bytes)
    }

    fn word_into(&mut self, bytes: &mut Vec<u8>) -> Result<(), EdnError> {
        while let Some(byte) = self.peek()? {
            if byte.is_ascii_whitespace() || b",()[]{}\";".contains(&byte) {
                break;
            }
            if bytes.len() >= MOST_LONG {
                return Err(self.wrong(format!("a word of more than {MOST_LONG} bytes")));
            }
            self.spend(1)?;
            bytes.push(byte);
            self.bump()?;
        }
        Ok(())
    }

    fn utf8(&self, bytes: Vec<u8>) -> Result<String, EdnError> {
        String::from_utf8(bytes).map_err(|_| self.wrong("bytes that are no UTF-8"))
    }

    fn atom(&mut self) -> Result<Value, EdnError> {
        let (line, column) = (self.line, self.column);
        let word = self.word()?;
        let wrong = |problem: String| Err(EdnError::Wrong { line, column, problem });
        Ok(match word.as_str() {
            "nil" => Value::Nil,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => {
                let digits = word.strip_prefix(['-', '+']).unwrap_or(&word);
                if let Some(name) = word.strip_prefix(':') {
                    if name.is_empty() {
                        return wrong("a colon without a keyword".to_owned());
                    }
                    Value::Keyword(name.to_owned())
                } else if digits.starts_with(|letter: char| letter.is_ascii_digit()) {
                    let is_part = |letter: char| letter.is_ascii_digit() || ".eE+-NM/".contains(letter);
                    if !digits.chars().all(is_part) {
                        let shown: String = word.chars().take(80).collect();
                        return wrong(format!("{shown:?} begins like a number and is none"));
                    }
                    Value::Number(word)
                } else {
                    Value::Symbol(word)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Result<Value, String> {
        let mut reader = Reader::new(text.as_bytes(), usize::MAX);
        let value = reader.read().map_err(|error| error.to_string())?.ok_or("nothing")?;
        match reader.read() {
            Ok(None) => Ok(value),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn what_jepsen_writes_is_read() {
        let text = "#jepsen.history.Op{:index 3, :time 17, :type :ok, :process 0 :f :cas, :value [1 -2] ; a word\n \
                    #_ (left out) :error {:a #{nil true \\space}, \"b\\n\\u0041\" 1.5e3} :at #inst \"2024\"}";
        let value = one(text).unwrap();
        assert_eq!(value.get("f"), Some(&Value::Keyword("cas".into())));
        assert_eq!(value.get("value").unwrap().to_string(), "[1 -2]");
        assert_eq!(value.get("error").unwrap().to_string(), "{:a #{nil true \\space}, \"b\\nA\" 1.5e3}");
        assert_eq!(value.get("at").unwrap().to_string(), "#inst \"2024\"");
        assert_eq!(value.get("absent"), None);
    }

    #[test]
    fn what_is_equal_has_one_spelling() {
        let canonical = |text: &str| one(text).unwrap().canonical().to_string();
        for [left, right] in [
            ["#{1 2}", "#{2 1}"],
            ["#{#{:b :a} 2N}", "#{2 #{:a :b}}"],
            ["{:a 1, :b #{2 1}}", "{:b #{1 2} :a 1}"],
            ["#tag {:a 1, :b 2}", "#tag {:b 2, :a 1}"],
            ["[1 2]", "(1 2)"],
            ["1", "1N"],
            ["1", "+1"],
            ["0", "-0"],
            ["-7N", "-7"],
            ["1.50", "15e-1"],
            ["0.0", "-0.0"],
            ["1.50M", "1.5M"],
            ["100M", "1e2M"],
            ["2/4", "1/2"],
            ["4/2", "2"],
            ["\\u0041", "\\A"],
            ["\\u000a", "\\newline"],
        ] {
            assert_eq!(canonical(left), canonical(right), "{left} and {right}");
        }
        for [left, right] in [
            ["1", "1.0"],
            ["1", "-1"],
            ["1.5", "1.5M"],
            ["1M", "10M"],
            ["1", "\"1\""],
            ["[1 2]", "[2 1]"],
            ["#{1 2}", "[1 2]"],
            ["{:a 1}", "{:a 2}"],
            [":a", "a"],
            ["9007199254740993", "9007199254740992"],
            ["\\u", "\\A"],
        ] {
            assert_ne!(canonical(left), canonical(right), "{left} and {right}");
        }
    }

    #[test]
    fn errors_name_line_and_column() {
        for (text, expected) in [
            ("{:a 1\n :b}", "line 2, column 5: a map with a key that has no value"),
            ("[1\n  2)", "line 2, column 5: ')' where ']' belongs (opened at line 1, column 1)"),
            (
                "[1 2",
                "line 1, column 5: the end is here, and what was opened at line 1, column 1 is not closed",
            ),
            ("\n \"abc", "line 2, column 2: a string that does not end"),
            ("\"\\q\"", "line 1, column 4: an escape that EDN does not know"),
            ("12ab", "line 1, column 1: \"12ab\" begins like a number and is none"),
            ("]", "line 1, column 2: ']' closes nothing"),
            ("#", "line 1, column 2: a # without a tag"),
            ("#tag", "line 1, column 5: a value after its tag is missing"),
            (":", "line 1, column 1: a colon without a keyword"),
        ] {
            assert_eq!(one(text), Err(expected.to_owned()), "{text:?}");
        }
        assert!(one(&"[".repeat(100_000)).unwrap_err().contains("inside each other"));
        assert!(one(&"#a ".repeat(100_000)).unwrap_err().contains("inside each other"));
    }

    #[test]
    fn a_vector_is_read_one_value_at_a_time() {
        let mut reader = Reader::new("; all\n[{:a 1}\n {:a 2}]".as_bytes(), usize::MAX);
        let close = reader.enter().unwrap().unwrap();
        assert_eq!(reader.next_of(close).unwrap().unwrap().to_string(), "{:a 1}");
        assert_eq!(reader.next_of(close).unwrap().unwrap().to_string(), "{:a 2}");
        assert_eq!(reader.line(), 2 + 1);
        assert!(reader.next_of(close).unwrap().is_none());
        assert!(Reader::new("{:a 1}".as_bytes(), usize::MAX).enter().unwrap().is_none());
    }

    #[test]
    fn one_value_takes_no_more_than_it_may_and_what_is_left_out_takes_nothing() {
        let read = |text: &str| {
            let mut reader = Reader::new(text.as_bytes(), 10_000);
            let values = std::iter::from_fn(|| reader.read().transpose());
            values.collect::<Result<Vec<Value>, EdnError>>().map(|values| values.len())
        };
        for endless in ["[ 1", "{:a 1 ", "\"abc", ":abc", "[[] "] {
            let endless = format!("{}{}", endless, endless[1..].repeat(5_000));
            let refused = read(&endless);
            assert!(matches!(refused, Err(EdnError::TooLarge { .. })), "{refused:?} of {endless:.20}");
        }
        assert_eq!(read(&"[1 2 3] ".repeat(5_000)).unwrap(), 5_000);
        assert_eq!(read(&format!("[1 {}]", "#_[1 2] ".repeat(5_000))).unwrap(), 1);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|number| Value::Number(number.to_string())),
            ".*".prop_map(Value::Text),
            "[a-z][a-z0-9/-]{0,6}".prop_map(Value::Keyword),
            "[A-Z][a-z]{0,6}".prop_map(Value::Symbol),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::List),
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Set),
                proptest::collection::btree_map(inner.clone(), inner.clone(), 0..4)
                    .prop_map(|pairs| Value::Map(pairs.into_iter().collect())),
                ("[a-z]{1,5}", inner).prop_map(|(tag, value)| Value::Tagged(tag, Box::new(value))),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in any_value()) {
            prop_assert_eq!(one(&value.to_string()), Ok(value));
        }

        #[test]
        fn a_canonical_value_stays_as_it_is(value in any_value()) {
            let canonical = value.canonical();
            prop_assert_eq!(one(&canonical.to_string()).map(Value::canonical), Ok(canonical));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes[..], usize::MAX);
            while let Ok(Some(_)) = reader.read() {}
        }
    }
}
