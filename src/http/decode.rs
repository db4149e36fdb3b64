//! JSON bodies as clients really send them: see [`crate::config::loose`].

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::config::service::Service;

use crate::config::loose::value;
pub use crate::config::loose::{GoDuration, Labels};

use super::reply::Failure;

/// A service in a body. Of weights that are there, one that is not named is 0, as in the Go structs that Consul reads
/// a body into; in a file, it is 1.
#[derive(Debug, Default)]
pub struct Told(pub Service);

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Told, D::Error> {
        let mut service = Value::deserialize(deserializer)?;
        if let Some(weights) = service.get_mut("weights").and_then(Value::as_object_mut) {
            for name in ["passing", "warning"] {
                weights.entry(name).or_insert_with(|| 0.into());
            }
        }
        serde_json::from_value(service).map(Told).map_err(D::Error::custom)
    }
}

/// Reads a body that is an object.
///
/// # Errors
/// A 400 with the decoder's words.
pub fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let failed = |error: serde_json::Error| Failure::bad_request(format!("Request decode failed: {error}"));
    object(serde_json::from_slice(bytes).map_err(failed)?, "the body").map_err(failed)
}

/// Reads an object. `what` it is. A list is refused here, because serde takes one for an object whose fields come in
/// order, and an empty one for an object of defaults: by `[]` a token would be made.
///
/// # Errors
/// The decoder's words.
pub fn object<T: DeserializeOwned>(told: Value, what: &str) -> serde_json::Result<T> {
    if !told.is_object() {
        return Err(serde_json::Error::custom(format!("{what} is not an object")));
    }
    value(told)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use serde::Deserialize;

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
    fn only_an_object_is_taken_for_one() {
        assert_eq!(sample("{}"), Ok(Sample::default()));
        for text in ["[]", r#"["s",[],{},"10s"]"#, "[{}]", "null", "7", "\"s\"", "true"] {
            let refused = sample(text).unwrap_err();
            assert_eq!(refused, "Request decode failed: the body is not an object", "{text}");
        }
    }

    #[test]
    fn a_weight_that_is_not_named_beside_another_is_zero() {
        let weights = |text: &str| {
            let Told(service) = body(text.as_bytes()).unwrap();
            (service.weights.passing, service.weights.warning)
        };
        assert_eq!(weights(r#"{"Name":"a"}"#), (1, 1));
        assert_eq!(weights(r#"{"Name":"a","Weights":null}"#), (1, 1));
        assert_eq!(weights(r#"{"Name":"a","Weights":{"Passing":10}}"#), (10, 0));
        assert_eq!(weights(r#"{"Name":"a","Weights":{"Passing":10,"Warning":3}}"#), (10, 3));
        assert_eq!(weights(r#"{"Name":"a","Weights":{"Warning":3}}"#), (0, 3));
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
