//! What a request says in its address: percent escapes, query parameters, Go durations, and the
//! options that every read shares.

use std::time::Duration;

use crate::agent::{Consistency, QueryOptions};

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
                // No parameter's meaning depends on bytes that are no text.
                Ok::<_, Failure>(String::from_utf8_lossy(&bytes).into_owned())
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

    /// The parameter's value unless it is absent or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Whether a switch is on: present, and not said to be off.
    pub fn switch(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }

    /// Whether the answer is for people to read.
    pub fn pretty(&self) -> bool {
        self.switch("pretty")
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
        match (self.has("stale"), self.has("consistent")) {
            (true, true) => {
                Err(Failure::bad_request("Cannot specify ?stale with ?consistent, conflicting semantics."))
            }
            (true, false) => Ok(Consistency::Stale),
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

/// A duration as Go shows it: "15s", "24h0m0s", "1.5s", "250ms".
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let decimal = |unit: u128, name: &str| {
        let (whole, rest) = (nanos / unit, nanos % unit);
        let digits = format!("{rest:0width$}", width = unit.ilog10() as usize);
        match digits.trim_end_matches('0') {
            "" => format!("{whole}{name}"),
            fraction => format!("{whole}.{fraction}{name}"),
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let minutes = duration.as_secs() / 60;
            let seconds = show_seconds(duration - Duration::from_secs(minutes * 60));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

fn show_seconds(duration: Duration) -> String {
    let fraction = format!("{:09}", duration.subsec_nanos());
    match fraction.trim_end_matches('0') {
        "" => format!("{}s", duration.as_secs()),
        fraction => format!("{}.{fraction}s", duration.as_secs()),
    }
}

/// A duration in Go's notation ("10s", "1m30s", "1.5h", "-2ms", "0") in nanoseconds. `None` if it is no
/// duration or does not fit, as in Go.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = take_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => take_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_len = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            _ => return None,
        };
        // Past 18 digits a part is beyond the range, or below a nanosecond.
        if whole.trim_start_matches('0').len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = &fraction[..fraction.len().min(18)];
        let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
        let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        total += whole * unit + fraction * unit / scale;
        if total > i128::from(i64::MAX) {
            return None;
        }
        rest = after;
    }
    let total = i64::try_from(total).ok()?;
    Some(if negative { -total } else { total })
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILLISECOND: i64 = 1_000_000;
    const SECOND: i64 = 1_000 * MILLISECOND;

    fn params(query: &str) -> Params {
        Params::parse(Some(query)).unwrap()
    }

    #[test]
    fn durations_read_as_in_go() {
        let cases = [
            ("10s", Some(10 * SECOND)),
            ("1m30s", Some(90 * SECOND)),
            ("500ms", Some(500 * MILLISECOND)),
            ("1.5h", Some(5400 * SECOND)),
            (".5s", Some(500 * MILLISECOND)),
            ("1.s", Some(SECOND)),
            ("2us", Some(2_000)),
            ("2\u{b5}s", Some(2_000)),
            ("7ns", Some(7)),
            ("0", Some(0)),
            ("-2s", Some(-2 * SECOND)),
            ("+2s", Some(2 * SECOND)),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("9223372036854775808ns", None),
            ("99999999999999999999999999999999999999999h", None),
            ("10", None),
            ("", None),
            ("-", None),
            (".s", None),
            ("s", None),
            ("1x", None),
            ("1 s", None),
            ("1d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
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
    fn durations_are_shown_as_go_shows_them() {
        let shown = [0, 7, 1_500, 250_000_000, 10_000_000_000, 61_500_000_000, 86_400_000_000_000]
            .map(|nanos| show_duration(Duration::from_nanos(nanos)));
        assert_eq!(shown, ["0s", "7ns", "1.5µs", "250ms", "10s", "1m1.5s", "24h0m0s"]);
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
        assert!(params("cas=x").number("cas").unwrap_err().text.starts_with("Invalid cas \"x\""));
    }

    proptest! {
        #[test]
        fn any_text_is_a_duration_or_is_not(text in any::<String>(), near in "[-+0-9.]{0,30}[nmsuh]{0,2}") {
            parse_duration(&text);
            parse_duration(&near);
        }

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
