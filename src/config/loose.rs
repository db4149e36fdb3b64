//! JSON as Consul reads it.
//!
//! Consul's own decoder does not care about the case of keys, and takes `service_id` for `ServiceID`; clients and
//! configuration files rely on both. So keys are brought to one form, lower case without underscores, before a value
//! is read into a type whose fields are spelled that way. Keys that are the user's own (labels, headers)
//! stay as they are. `null` stands for the value that an absent key has.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::duration::parse_duration;

/// Under these, keys are the user's.
const USERS_OWN: [&str; 5] = ["meta", "nodemeta", "header", "taggedaddresses", "config"];

/// Reads what is already JSON.
///
/// # Errors
/// The decoder's words.
pub fn value<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    serde_json::from_value(squashed(value))
}

/// A value with its keys in the one form, and without its nulls.
pub(super) fn squashed(value: Value) -> Value {
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

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// An address with a port, as it stands under a user's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct ServiceAddress {
    /// Where.
    pub address: String,
    /// Which port.
    pub port: u16,
}

/// Labels.
pub type Labels = BTreeMap<String, String>;
