//! JSON as Consul reads it.
//!
//! Consul's own decoder does not care about the case of keys, and takes `service_id` for `ServiceID`; clients and
//! configuration files rely on both. So keys are brought to one form, lower case without underscores, before a value
//! is read into a type whose fields are spelled that way. Keys that are the user's own (labels, headers)
//! stay as they are. `null` stands for the value that an absent key has.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, forward_to_deserialize_any};
use serde_json::{Map, Value};

use super::duration::parse_duration;

/// Under these, keys are the user's.
const USERS_OWN: [&str; 5] = ["meta", "nodemeta", "header", "taggedaddresses", "config"];

/// Reads what is already JSON.
///
/// # Errors
/// The decoder's words.
pub fn value<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    exact(squashed(value))
}

/// Reads a value whose keys are in the one form. No list is taken for an object, wherever it stands: serde reads one as
/// fields in their order, and an empty one as an object of defaults.
///
/// # Errors
/// The decoder's words.
pub fn exact<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    T::deserialize(Exact(value))
}

/// See [`exact`].
struct Exact(Value);

impl IntoDeserializer<'_, serde_json::Error> for Exact {
    type Deserializer = Exact;

    fn into_deserializer(self) -> Exact {
        self
    }
}

impl<'de> Deserializer<'de> for Exact {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> serde_json::Result<V::Value> {
        match self.0 {
            Value::Array(values) => visitor.visit_seq(SeqDeserializer::new(values.into_iter().map(Exact))),
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(key, value)| (key, Exact(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            value => value.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> serde_json::Result<V::Value> {
        match self.0 {
            Value::Array(_) => Err(serde_json::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> serde_json::Result<V::Value> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> serde_json::Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> serde_json::Result<V::Value> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
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
