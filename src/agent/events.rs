//! Whom a user event concerns.
//!
//! An event goes to every node; each decides for itself whether it is meant, by three regular expressions that the
//! event carries: on the node's name, on the names of its services, on a tag of a service that matched. They are
//! checked where an event is fired, so that a mistake is heard of. An expression of another implementation that is
//! none here concerns nobody.

use regex::{Regex, RegexBuilder};

use crate::gossip::UserEvent;
use crate::state::catalog::ServiceInfo;

/// Events with such names were remote execution's own. There is none, and nobody is shown them.
const RESERVED: &str = "_rexec";

/// Memory that one expression may take, in bytes. It arrives with at most 512 bytes of event and is compiled in gossip's
/// loop, which must not be held up.
const EXPRESSION_LIMIT: usize = 64 << 10;

/// Which nodes an event is for: regular expressions, matched where it arrives. An empty one matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilters {
    /// By node name.
    pub node: String,
    /// By service.
    pub service: String,
    /// By tag of the service.
    pub tag: String,
}

/// Why filters cannot be used. In Consul's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// Name a service too.
    #[error("Cannot provide tag filter without service filter")]
    TagWithoutService,
    /// Correct it.
    #[error("Invalid {of} filter: {reason}")]
    Expression {
        /// Which.
        of: &'static str,
        /// What is wrong.
        reason: String,
    },
}

fn compile(expression: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(expression).size_limit(EXPRESSION_LIMIT).dfa_size_limit(EXPRESSION_LIMIT).build()
}

impl EventFilters {
    /// Checks that every node can judge by these.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn check(&self) -> Result<(), BadFilter> {
        if !self.tag.is_empty() && self.service.is_empty() {
            return Err(BadFilter::TagWithoutService);
        }
        for (of, expression) in [("node", &self.node), ("service", &self.service), ("tag", &self.tag)] {
            compile(expression).map_err(|error| BadFilter::Expression { of, reason: error.to_string() })?;
        }
        Ok(())
    }
}

/// Whether an event is to be listed by the node of this name, with these services.
pub fn concerns(event: &UserEvent, node: &str, services: impl FnOnce() -> Vec<ServiceInfo>) -> bool {
    if event.name.starts_with(RESERVED) {
        return false;
    }
    let matches = |expression: &str, text: &str| {
        expression.is_empty() || compile(expression).is_ok_and(|expression| expression.is_match(text))
    };
    if !matches(&event.node_filter, node) {
        return false;
    }
    if event.service_filter.is_empty() {
        return true;
    }
    let (Ok(service), Ok(tag)) = (compile(&event.service_filter), compile(&event.tag_filter)) else {
        return false;
    };
    services().iter().any(|one| {
        service.is_match(&one.name)
            && (event.tag_filter.is_empty() || one.tags.iter().any(|own| tag.is_match(own)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn event(node: &str, service: &str, tag: &str) -> UserEvent {
        UserEvent {
            id: String::new(),
            name: "deploy".into(),
            payload: Bytes::new(),
            node_filter: node.into(),
            service_filter: service.into(),
            tag_filter: tag.into(),
            version: 1,
            ltime: 1,
        }
    }

    fn services() -> Vec<ServiceInfo> {
        let service = |name: &str, tags: &[&str]| ServiceInfo {
            name: name.into(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..ServiceInfo::default()
        };
        vec![service("web", &["v1", "green"]), service("db", &[])]
    }

    #[test]
    fn each_filter_narrows_whom_an_event_concerns() {
        let cases = [
            (event("", "", ""), true),
            (event("^n1$", "", ""), true),
            (event("n", "", ""), true),
            (event("^n$", "", ""), false),
            (event("", "^web$", ""), true),
            (event("", "cache", ""), false),
            (event("^n1$", "db", ""), true),
            (event("other", "db", ""), false),
            (event("", "web", "^v[0-9]$"), true),
            // The tag must be of a service that matches.
            (event("", "db", "v1"), false),
            // What is no expression concerns nobody.
            (event("(", "", ""), false),
            (event("", "(", ""), false),
            (event("", "web", "("), false),
        ];
        for (event, expected) in cases {
            assert_eq!(concerns(&event, "n1", services), expected, "{event:?}");
        }
        let reserved = UserEvent { name: "_rexec/run".into(), ..event("", "", "") };
        assert!(!concerns(&reserved, "n1", services));
    }

    #[test]
    fn mistakes_are_named_in_consuls_words() {
        let check = |node: &str, service: &str, tag: &str| {
            let filters = EventFilters { node: node.into(), service: service.into(), tag: tag.into() };
            filters.check().map_err(|error| error.to_string())
        };
        assert_eq!(check("^a", "b$", "c.*"), Ok(()));
        assert_eq!(check("", "", "v1"), Err("Cannot provide tag filter without service filter".to_owned()));
        for (of, told) in
            [("node", check("(", "", "")), ("service", check("", "(", "")), ("tag", check("", "a", "("))]
        {
            let told = told.unwrap_err();
            assert!(told.starts_with(&format!("Invalid {of} filter: ")), "{told}");
        }
        assert!(check("(a{1000}){1000}", "", "").is_err());
    }

    proptest! {
        #[test]
        fn any_expression_is_judged(node in ".{0,40}", service in ".{0,40}", tag in ".{0,40}") {
            let event = event(&node, &service, &tag);
            let _ = concerns(&event, "n1", services);
        }
    }
}
