//! Watches, as they are configured: what to look at, and what to do when it changes.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// A look at something that is repeated whenever it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Watch {
    /// What kind of thing.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Of `key`: which.
    pub key: String,
    /// Of `keyprefix`: which.
    pub prefix: String,
    /// Of `service`: which. Of `checks`: only those of this service.
    pub service: String,
    /// Of `service`: only instances with this tag.
    pub tag: String,
    /// Of `service`: only instances whose checks all pass.
    #[serde(rename = "passingonly")]
    pub passing_only: bool,
    /// Of `checks`: only those in this status.
    pub state: String,
    /// Of `event`: only those of this name.
    pub name: String,
    /// Whether any server may answer from what it has.
    pub stale: bool,
    /// The token to look with, if there is to be one.
    pub token: Secret,
    /// Runs this program, with the news as JSON on its standard input and their index in CONSUL_INDEX.
    pub args: Vec<String>,
    /// Sends the news as JSON to this address instead.
    pub http_handler_config: Option<HttpHandler>,
    /// `script` or `http`; what is configured says it too.
    pub handler_type: String,
}

/// What can be watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One key.
    #[default]
    Key,
    /// All keys under a prefix.
    KeyPrefix,
    /// The names of all services.
    Services,
    /// All nodes.
    Nodes,
    /// The instances of a service, with their health.
    Service,
    /// Checks.
    Checks,
    /// User events.
    Event,
}

/// Where news are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpHandler {
    /// The address, `http://…` or `https://…`.
    pub path: String,
    /// The verb; without it POST.
    pub method: String,
    /// Headers. What they say may be a secret.
    pub header: std::collections::BTreeMap<String, Vec<Secret>>,
    /// How long it may take, in Go's notation; without it ten seconds.
    pub timeout: String,
    /// Whether any certificate will do; otherwise one of `tls.ca_file` must be behind it.
    pub tls_skip_verify: bool,
}

impl Watch {
    /// Checks what is to be looked at.
    ///
    /// # Errors
    /// What is missing, or says nothing for this type.
    pub fn check(&self) -> Result<(), String> {
        let kind = self.kind;
        let told = [
            ("key", !self.key.is_empty(), kind == Kind::Key),
            ("prefix", !self.prefix.is_empty(), kind == Kind::KeyPrefix),
            ("service", !self.service.is_empty(), matches!(kind, Kind::Service | Kind::Checks)),
            ("tag", !self.tag.is_empty(), kind == Kind::Service),
            ("passingonly", self.passing_only, kind == Kind::Service),
            ("state", !self.state.is_empty(), kind == Kind::Checks),
            ("name", !self.name.is_empty(), kind == Kind::Event),
        ];
        // It would look at more than whoever wrote it has in mind.
        if let Some((key, ..)) = told.into_iter().find(|(_, said, known)| *said && !known) {
            // A kind always has a name, which JSON puts into quotes.
            let kind = serde_json::to_string(&kind).unwrap_or_default();
            return Err(format!("type {kind} knows no {key}"));
        }
        match kind {
            Kind::Key if self.key.is_empty() => Err("type \"key\" needs a key".to_owned()),
            Kind::KeyPrefix if self.prefix.is_empty() => Err("type \"keyprefix\" needs a prefix".to_owned()),
            Kind::Service if self.service.is_empty() => Err("type \"service\" needs a service".to_owned()),
            Kind::Checks if !self.service.is_empty() && !self.state.is_empty() => {
                Err("type \"checks\" takes a service or a state, not both".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Checks what is to be done then.
    ///
    /// # Errors
    /// What is missing, or not allowed.
    pub fn check_handler(&self, scripts: bool) -> Result<(), String> {
        match (self.args.is_empty(), &self.http_handler_config) {
            (true, None) => Err("needs args, a program to run, or http_handler_config".to_owned()),
            (false, Some(_)) => Err("takes args or http_handler_config, not both".to_owned()),
            (false, None) if self.handler_type == "http" => {
                Err("handler_type \"http\" needs http_handler_config".to_owned())
            }
            (false, None) if !scripts => Err("Scripts are disabled on this agent; to enable, configure \
                                              'enable_script_checks' to true"
                .to_owned()),
            (true, Some(_)) if self.handler_type == "script" => {
                Err("handler_type \"script\" needs args".to_owned())
            }
            (true, Some(http)) if !["http://", "https://"].iter().any(|way| http.path.starts_with(way)) => {
                Err(format!(
                    "http_handler_config.path is {:?}; want an address that begins with http:// or https://",
                    http.path
                ))
            }
            (true, Some(http)) if http.timeout().is_none() => Err(format!(
                "http_handler_config.timeout is {:?}; want a duration such as \"10s\"",
                http.timeout
            )),
            _ if !matches!(self.handler_type.as_str(), "" | "script" | "http") => {
                Err(format!("handler_type is {:?}, must be \"script\" or \"http\"", self.handler_type))
            }
            _ => Ok(()),
        }
    }
}

impl HttpHandler {
    /// How long it may take.
    pub fn timeout(&self) -> Option<std::time::Duration> {
        if self.timeout.is_empty() {
            return Some(std::time::Duration::from_secs(10));
        }
        let nanos = super::duration::parse_duration(&self.timeout).filter(|nanos| *nanos > 0)?;
        Some(std::time::Duration::from_nanos(nanos.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn watch(json: serde_json::Value) -> Watch {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_a_watch_proves_itself_with_is_not_shown() {
        let header = json!({ "Authorization": ["open sesame"] });
        let http = json!({ "path": "http://127.0.0.1:1", "header": header });
        let whole = watch(json!({ "type": "nodes", "token": "open sesame", "http_handler_config": http }));
        assert_eq!(whole.token.expose(), "open sesame");
        assert!(!serde_json::to_string(&whole).unwrap().contains("open sesame"));
        assert!(!format!("{whole:?}").contains("open sesame"));
    }

    #[test]
    fn what_is_missing_is_said() {
        let whole = watch(json!({ "type": "key", "key": "a", "args": ["/bin/x"] }));
        assert_eq!((whole.check(), whole.check_handler(true)), (Ok(()), Ok(())));
        assert!(whole.check_handler(false).unwrap_err().starts_with("Scripts are disabled"));
        for (kind, key) in [("key", "key"), ("keyprefix", "prefix"), ("service", "service")] {
            assert!(watch(json!({ "type": kind })).check().unwrap_err().ends_with(&format!("needs a {key}")));
        }
        assert!(watch(json!({ "type": "checks", "service": "a", "state": "any" })).check().is_err());
        for (kind, key) in [
            ("nodes", "key"),
            ("key", "prefix"),
            ("keyprefix", "key"),
            ("checks", "tag"),
            ("services", "name"),
        ] {
            let wrong = watch(json!({ "type": kind, key: "x" })).check().unwrap_err();
            assert_eq!(wrong, format!("type \"{kind}\" knows no {key}"));
        }
        assert!(watch(json!({ "type": "event", "passingonly": true })).check().is_err());
        let http = |path: &str, timeout: &str| {
            watch(json!({ "type": "nodes", "http_handler_config": { "path": path, "timeout": timeout } }))
                .check_handler(false)
        };
        assert_eq!(http("http://127.0.0.1:1/x", ""), Ok(()));
        assert_eq!(http("https://127.0.0.1/x", ""), Ok(()));
        assert!(http("ftp://127.0.0.1/x", "").unwrap_err().contains("http://"));
        assert!(http("http://127.0.0.1/x", "soon").unwrap_err().contains("duration"));
        assert!(watch(json!({ "type": "nodes" })).check_handler(true).is_err());
        assert!(serde_json::from_value::<Watch>(json!({ "type": "weather" })).is_err());
    }
}
