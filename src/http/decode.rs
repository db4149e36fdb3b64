//! JSON bodies as clients really send them: see [`crate::config::loose`].

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::config::service::Service;

pub use crate::config::loose::{GoDuration, Labels};
use crate::config::loose::{exact, value};

use super::reply::Failure;

/// A service in a body. Of weights that are there, one that is not named is 0, as in the Go structs that Consul reads
/// a body into; in a file, it is 1.
#[derive(Debug, Default, PartialEq)]
pub struct Told(pub Service);

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Told, D::Error> {
        let mut service = Value::deserialize(deserializer)?;
        if let Some(weights) = service.get_mut("weights").and_then(Value::as_object_mut) {
            for name in ["passing", "warning"] {
                weights.entry(name).or_insert_with(|| 0.into());
            }
        }
        exact(service).map(Told).map_err(D::Error::custom)
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

/// Reads an object. `what` it is.
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
    fn no_list_is_taken_for_an_object_in_an_object() {
        #[derive(Debug, Default, PartialEq, Deserialize)]
        #[serde(default)]
        struct Outer {
            one: Sample,
            maybe: Option<Sample>,
            several: Vec<Sample>,
            named: BTreeMap<String, Sample>,
            told: Option<Told>,
        }
        let read = |text: &str| body::<Outer>(text.as_bytes()).map_err(|failure| failure.text);
        assert_eq!(
            read(r#"{"One":{},"Maybe":null,"Told":null,"Several":[],"Named":{}}"#),
            Ok(Outer::default())
        );
        let one = || Sample { tags: vec!["a".into()], ..Sample::default() };
        let all = r#"{"One":X,"Maybe":X,"Several":[X],"Named":{"a":X},"Told":X}"#;
        let outer = Outer {
            one: one(),
            maybe: Some(one()),
            several: vec![one()],
            named: [("a".to_owned(), one())].into(),
            told: Some(Told(Service { tags: vec!["a".into()], ..Service::default() })),
        };
        assert_eq!(read(&all.replace('X', r#"{"Tags":["a"],"unknown":[[1]]}"#)), Ok(outer));
        for text in [
            r#"{"One":[]}"#,
            r#"{"Maybe":["s"]}"#,
            r#"{"Several":[[]]}"#,
            r#"{"Named":{"a":["s",[]]}}"#,
            r#"{"Told":[]}"#,
            r#"{"Told":{"Weights":[1,2]}}"#,
            r#"{"Told":{"Check":[]}}"#,
            r#"{"Told":{"TaggedAddresses":{"lan":["a",1]}}}"#,
        ] {
            let refused = read(text).unwrap_err();
            assert!(
                refused.starts_with("Request decode failed: invalid type: sequence, expected struct "),
                "{text}: {refused}"
            );
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
