//! What a request says in its address: percent escapes, query parameters, Go durations, and the
//! options that every read shares.

use std::time::Duration;

use crate::agent::{Consistency, QueryOptions};
use crate::mutant;

use crate::config::duration::parse_duration;

use super::reply::Failure;

/// A blocking query that names no time waits this long.
const DEFAULT_WAIT: Duration = Duration::from_secs(5 * 60);

/// And none waits longer than this, whatever it names.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);

/// The parameters of a request's query string, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Parses a query string; `None` has no parameters.
    ///
    /// # Errors
    /// A 400 when an escape is broken.
    pub fn parse(query: Option<&str>) -> Result<Params, Failure> {
        let mut params = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |escaped: &str| {
                let bytes = unescape(escaped, true).ok_or_else(|| {
                    Failure::bad_request(format!("Invalid escape in query parameter {escaped:?}"))
                })?;
                // Nothing is stored or looked for but what was said.
                String::from_utf8(bytes)
                    .map_err(|_| Failure::bad_request(format!("Query parameter {escaped:?} is not UTF-8")))
            };
            params.push((text(name)?, text(value)?));
        }
        Ok(Params(params))
    }

    /// Whether the parameter is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The first value of the parameter; empty when it stands without one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Every value of the parameter, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Takes a parameter out, and gives its first value.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let value = self.get(name).map(str::to_owned);
        self.0.retain(|(found, _)| found != name);
        value
    }

    /// Gives the parameter another value.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.retain(|(found, _)| found != name);
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// The parameter's value unless it is absent or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Whether a switch is on: present, and not said to be off.
    pub fn switch(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }

    /// What a parameter says that is true or false, in the words that Consul takes; none for anything else.
    pub fn truth(text: &str) -> Option<bool> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        }
    }

    /// Whether the answer is for people to read.
    pub fn pretty(&self) -> bool {
        self.has("pretty")
    }

    /// How old an answer may be that no leader vouches for, if the request says so.
    ///
    /// # Errors
    /// A 400 for what is no duration.
    pub fn max_stale(&self) -> Result<Option<Duration>, Failure> {
        let Some(text) = self.text("max_stale") else { return Ok(None) };
        let nanos = parse_duration(text)
            .ok_or_else(|| Failure::bad_request(format!("Invalid max_stale value {text:?}")))?;
        Ok(u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos))
    }

    /// The parameter as a number, if it is there.
    ///
    /// # Errors
    /// A 400 that names the parameter when it is anything else.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| {
            Failure::bad_request(format!("Invalid {name} {value:?}: must be a number from 0 to {}", u64::MAX))
        })
    }

    /// All parameters as a query string in the order of their names, as Go encodes them.
    pub fn encode(&self) -> String {
        let mut sorted: Vec<&(String, String)> = self.0.iter().collect();
        // Stable, so values of one name keep their order.
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let pairs: Vec<String> =
            sorted.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
        pairs.join("&")
    }

    /// How a read is to be answered. `spread` in `0.0..1.0` lengthens the wait by up to a sixteenth, so
    /// that clients who asked together do not all come back together.
    ///
    /// # Errors
    /// A 400 for a bad index, a bad wait, or two consistency modes at once.
    pub fn query_options(&self, spread: impl FnOnce() -> f64) -> Result<QueryOptions, Failure> {
        let consistency = self.consistency()?;
        let min_index = match self.text("index") {
            None => 0,
            Some(index) => index.parse().map_err(|_| Failure::bad_request("Invalid index"))?,
        };
        let wait = match self.text("wait") {
            None => DEFAULT_WAIT,
            Some(wait) => match parse_duration(wait) {
                None => return Err(Failure::bad_request("Invalid wait time")),
                Some(nanos) if nanos <= 0 => DEFAULT_WAIT,
                Some(nanos) => Duration::from_nanos(nanos.unsigned_abs()).min(MAX_WAIT),
            },
        };
        let wait = if min_index == 0 { Duration::ZERO } else { wait + (wait / 16).mul_f64(spread()) };
        Ok(QueryOptions { consistency, min_index, wait })
    }

    fn consistency(&self) -> Result<Consistency, Failure> {
        // Whoever says how old an answer may be takes an old one.
        let stale = self.has("stale") || self.max_stale()?.is_some();
        if self.has("cached") && self.has("consistent") {
            let text = "Cannot specify ?cached with ?consistent, conflicting semantics.";
            return Err(Failure::bad_request(text));
        }
        match (stale, self.has("consistent")) {
            (true, true) => {
                Err(Failure::bad_request("Cannot specify ?stale with ?consistent, conflicting semantics."))
            }
            (true, false) => Ok(Consistency::Stale),
            // Mutant H21: the two modes are taken for one another.
            (false, true) if mutant::is("H21") => Ok(Consistency::Stale),
            (false, true) => Ok(Consistency::Consistent),
            (false, false) => Ok(Consistency::Default),
        }
    }
}

/// Undoes percent escapes, and in a query string the plus signs too. `None` if an escape is broken.
pub fn unescape(escaped: &str, plus_is_space: bool) -> Option<Vec<u8>> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    let mut bytes = escaped.bytes();
    let mut plain = Vec::with_capacity(escaped.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    Some(plain)
}

/// Escapes as Go's `url.QueryEscape` does: everything but letters, digits and `-_.~`; space is a plus.
fn escape(plain: &str) -> String {
    let mut escaped = String::with_capacity(plain.len());
    for byte in plain.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_says_how_old_an_answer_may_be_takes_an_old_one() {
        let read = |query: &str| {
            let params = Params::parse(Some(query)).map_err(|failure| failure.text)?;
            params.query_options(|| 0.0).map(|options| options.consistency).map_err(|failure| failure.text)
        };
        assert_eq!(read("max_stale=10s"), Ok(Consistency::Stale));
        assert_eq!(read("max_stale=0s"), Ok(Consistency::Default));
        assert_eq!(read("max_stale=soon"), Err("Invalid max_stale value \"soon\"".to_owned()));
        assert!(read("max_stale=1s&consistent").unwrap_err().contains("conflicting semantics"));
        assert!(read("key=%ff").unwrap_err().contains("is not UTF-8"));
    }
    use proptest::prelude::*;

    fn params(query: &str) -> Params {
        Params::parse(Some(query)).unwrap()
    }

    #[test]
    fn escapes_are_undone_and_broken_ones_refused() {
        assert_eq!(unescape("a%2Fb+c%20d", false).unwrap(), b"a/b+c d");
        assert_eq!(unescape("a+b", true).unwrap(), b"a b");
        assert_eq!(unescape("%ff%00", false).unwrap(), [0xff, 0]);
        for broken in ["%", "%1", "%zz", "a%+1"] {
            assert_eq!(unescape(broken, false), None, "{broken:?}");
        }
    }

    #[test]
    fn a_parameter_may_stand_alone_be_empty_or_repeat() {
        let params = params("stale&a=1&a=2&b=&=x&k%26=v%3D");
        assert!(params.has("stale"));
        assert_eq!(params.get("a"), Some("1"));
        assert_eq!(params.text("b"), None);
        assert_eq!(params.get("k&"), Some("v="));
        assert_eq!(params.encode(), "=x&a=1&a=2&b=&k%26=v%3D&stale=");
    }

    #[test]
    fn a_read_blocks_only_with_an_index() {
        let options = params("wait=10s").query_options(|| 0.5).unwrap();
        assert_eq!((options.min_index, options.wait), (0, Duration::ZERO));
        let options = params("index=7&wait=16s").query_options(|| 0.5).unwrap();
        assert_eq!((options.min_index, options.wait), (7, Duration::from_millis(16_500)));
        assert_eq!(params("index=7").query_options(|| 0.0).unwrap().wait, DEFAULT_WAIT);
        assert_eq!(params("index=7&wait=0").query_options(|| 0.0).unwrap().wait, DEFAULT_WAIT);
        assert_eq!(params("index=7&wait=3h").query_options(|| 0.0).unwrap().wait, MAX_WAIT);
    }

    #[test]
    fn bad_options_are_named() {
        let text = |query: &str| params(query).query_options(|| 0.0).unwrap_err().text;
        assert_eq!(text("index=-1"), "Invalid index");
        assert_eq!(text("index=x"), "Invalid index");
        assert_eq!(text("wait=10"), "Invalid wait time");
        assert_eq!(
            text("stale&consistent"),
            "Cannot specify ?stale with ?consistent, conflicting semantics."
        );
        assert_eq!(
            text("cached&consistent"),
            "Cannot specify ?cached with ?consistent, conflicting semantics."
        );
        assert!(params("cas=x").number("cas").unwrap_err().text.starts_with("Invalid cas \"x\""));
    }

    proptest! {
        #[test]
        fn what_is_encoded_parses_to_the_same(pairs in prop::collection::vec((".*", ".*"), 0..5)) {
            let params = Params(pairs);
            let mut sorted = params.0.clone();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            let parsed = Params::parse(Some(&params.encode())).unwrap();
            prop_assert_eq!(parsed.0, sorted);
        }
    }
}
