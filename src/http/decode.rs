//! JSON bodies as clients really send them.
//!
//! Consul's own decoder does not care about the case of keys, and takes `service_id` for `ServiceID`; clients
//! rely on both. So the keys of a body are brought to one form, lower case without underscores, before it
//! is read into a type whose fields are spelled that way. Keys that are the user's own (labels, headers)
//! stay as they are. `null` stands for the value that an absent key has.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::parse_duration;
use super::reply::Failure;

/// Under these, keys are the user's.
const USERS_OWN: [&str; 5] = ["meta", "nodemeta", "header", "taggedaddresses", "config"];

/// Reads a body.
///
/// # Errors
/// A 400 with the decoder's words.
pub fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let failed = |error: serde_json::Error| Failure::bad_request(format!("Request decode failed: {error}"));
    value(serde_json::from_slice(bytes).map_err(failed)?).map_err(failed)
}

/// Reads what is already JSON.
///
/// # Errors
/// The decoder's words.
pub fn value<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    serde_json::from_value(squashed(value))
}

/// A value with its keys in the one form, and without its nulls.
fn squashed(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut squeezed = Map::new();
            for (key, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
                let key = squash(&key);
                let value = match value {
                    Value::Object(own) if USERS_OWN.contains(&key.as_str()) => {
                        // What is under a user's key may again be ours: an address with its port.
                        let own = own.into_iter().filter(|(_, value)| !value.is_null());
                        let own = own.map(|(name, value)| (name, squashed(value)));
                        Value::Object(own.collect())
                    }
                    value => squashed(value),
                };
                squeezed.insert(key, value);
            }
            Value::Object(squeezed)
        }
        Value::Array(values) => Value::Array(values.into_iter().map(squashed).collect()),
        value => value,
    }
}

fn squash(key: &str) -> String {
    key.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

/// A duration: a text in Go's notation, or a number of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// The duration; `None` if it is zero, which is how Go's types say "not given".
    pub fn given(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<GoDuration, D::Error> {
        let nanos = match Value::deserialize(deserializer)? {
            Value::String(text) if text.is_empty() => 0,
            Value::String(text) => {
                parse_duration(&text).ok_or_else(|| D::Error::custom(format!("invalid duration {text:?}")))?
            }
            Value::Number(number) => number.as_i64().ok_or_else(|| {
                D::Error::custom(format!("invalid duration {number}: not a number of nanoseconds"))
            })?,
            other => return Err(D::Error::custom(format!("invalid duration {other}"))),
        };
        let nanos = u64::try_from(nanos).map_err(|_| D::Error::custom("a duration is not negative"))?;
        Ok(GoDuration(Duration::from_nanos(nanos)))
    }
}

/// An address with a port, as it stands under a user's key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct ServiceAddress {
    /// Where.
    pub address: String,
    /// Which port.
    pub port: u16,
}

/// Labels.
pub type Labels = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "lowercase")]
    struct Sample {
        serviceid: String,
        tags: Vec<String>,
        meta: Labels,
        interval: GoDuration,
    }

    fn sample(text: &str) -> Result<Sample, String> {
        body(text.as_bytes()).map_err(|failure| failure.text)
    }

    #[test]
    fn case_and_underscores_do_not_matter_but_in_the_users_own_keys() {
        for key in ["ServiceID", "service_id", "SERVICEID", "serviceId"] {
            let text = format!(r#"{{"{key}":"s","Meta":{{"My_Key":"V"}},"Tags":null,"Interval":"10s"}}"#);
            let meta = BTreeMap::from([("My_Key".to_owned(), "V".to_owned())]);
            let interval = GoDuration(Duration::from_secs(10));
            assert_eq!(sample(&text), Ok(Sample { serviceid: "s".into(), tags: vec![], meta, interval }));
        }
    }

    #[test]
    fn durations_are_texts_or_nanoseconds() {
        let interval =
            |text: &str| sample(&format!(r#"{{"interval":{text}}}"#)).map(|sample| sample.interval.0);
        assert_eq!(interval("\"1m30s\""), Ok(Duration::from_secs(90)));
        assert_eq!(interval("1500"), Ok(Duration::from_nanos(1500)));
        assert_eq!(interval("\"\""), Ok(Duration::ZERO));
        for bad in ["\"soon\"", "-1", "[]", "1.5", "\"-1s\""] {
            assert!(interval(bad).unwrap_err().starts_with("Request decode failed: "), "{bad}");
        }
    }
}
