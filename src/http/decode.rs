//! JSON bodies as clients really send them: see [`crate::config::loose`].

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::config::service::Service;

pub use crate::config::loose::{GoDuration, Labels, value};

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

/// Reads a body.
///
/// # Errors
/// A 400 with the decoder's words.
pub fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let failed = |error: serde_json::Error| Failure::bad_request(format!("Request decode failed: {error}"));
    value(serde_json::from_slice(bytes).map_err(failed)?).map_err(failed)
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
