//! The language that policies are written in: Consul's, in its HCL form and in JSON.
//!
//! ```text
//! key_prefix "app/" { policy = "write" }      {"key_prefix": {"app/": {"policy": "write"}},
//! operator = "read"                            "operator": "read"}
//! ```
//!
//! The parser is our own and small: of HCL, a policy uses labelled blocks and plain values only, while the crates that
//! read all of HCL bring an expression language with them, and descend into it as deep as whoever sends the text likes.
//! This one does not recurse.
//!
//! What is about things that are not here (`mesh`, `peering`, `intentions`) is read and has no effect, so that policies
//! written for Consul can be taken as they are. Anything else that is not known is an error: a rule that was misspelt
//! must not be a rule that is not there.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Rules of one policy at most.
pub const MAX_RULES: usize = 1024;

/// What a rule with a name is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Keys of the store.
    Key,
    /// Nodes of the catalog.
    Node,
    /// Services, by name.
    Service,
    /// Sessions, by the node they are on.
    Session,
    /// User events, by name.
    Event,
    /// What an agent does and tells, by its node.
    Agent,
    /// Prepared queries, by name.
    Query,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 7] =
        [Kind::Key, Kind::Node, Kind::Service, Kind::Session, Kind::Event, Kind::Agent, Kind::Query];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Key => "key",
            Kind::Node => "node",
            Kind::Service => "service",
            Kind::Session => "session",
            Kind::Event => "event",
            Kind::Agent => "agent",
            Kind::Query => "query",
        }
    }

    /// The kind of a word, and whether the word is for names or for what names begin with.
    fn of_word(word: &str) -> Option<(Kind, bool)> {
        let (bare, prefix) = match word.strip_suffix("_prefix") {
            Some(bare) => (bare, true),
            None => (word, false),
        };
        Kind::ALL.into_iter().find(|kind| kind.word() == bare).map(|kind| (kind, prefix))
    }
}

/// What a rule allows; each allows what those before it do, but for `Deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// Nothing.
    Deny,
    /// Reading.
    Read,
    /// Reading, and listing keys where listing needs a right of its own.
    List,
    /// Everything.
    Write,
}

impl Access {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Access::Deny => "deny",
            Access::Read => "read",
            Access::List => "list",
            Access::Write => "write",
        }
    }

    fn of_word(word: &str) -> Option<Access> {
        [Access::Deny, Access::Read, Access::List, Access::Write].into_iter().find(|one| one.word() == word)
    }

    /// Whether who has this may do what needs `wanted`.
    pub fn covers(self, wanted: Access) -> bool {
        self != Access::Deny && self >= wanted
    }

    /// Which of two counts that say something about the very same thing: deny, then the one that allows more.
    pub fn with(self, other: Access) -> Access {
        if self == Access::Deny || other == Access::Deny { Access::Deny } else { self.max(other) }
    }
}

/// A rule about things with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What it is about.
    pub kind: Kind,
    /// The name, or what names begin with.
    pub name: String,
    /// Which of the two.
    pub prefix: bool,
    /// What it allows.
    pub access: Access,
}

/// What a policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// About things with a name.
    pub named: Vec<Rule>,
    /// About the servers: the Raft configuration and the like.
    pub operator: Option<Access>,
    /// About gossip's keys.
    pub keyring: Option<Access>,
    /// About tokens, policies and roles, and so about everything.
    pub acl: Option<Access>,
}

/// Why a text is no policy. The author should correct it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Failed to parse ACL rules: {0}")]
pub struct BadRules(String);

fn bad<T>(reason: impl Into<String>) -> Result<T, BadRules> {
    Err(BadRules(reason.into()))
}

impl Rules {
    /// The rules of a text. An empty one has none.
    ///
    /// # Errors
    /// [`BadRules`] says what is wrong and, for the HCL form, in which line.
    pub fn parse(text: &str) -> Result<Rules, BadRules> {
        if text.trim_start().starts_with('{') { from_json(text) } else { from_hcl(text) }
    }

    /// Everything, as the policy `global-management` has it.
    pub fn everything() -> Rules {
        let all = |kind| Rule { kind, name: String::new(), prefix: true, access: Access::Write };
        let write = Some(Access::Write);
        Rules { named: Kind::ALL.map(all).to_vec(), operator: write, keyring: write, acl: write }
    }

    fn set_plain(&mut self, word: &str, access: &str) -> Result<(), BadRules> {
        let mut nothing = None;
        let slot = match word {
            "operator" => &mut self.operator,
            "keyring" => &mut self.keyring,
            "acl" => &mut self.acl,
            // There is no mesh and there are no peers: nothing to allow.
            "mesh" | "peering" => &mut nothing,
            _ if Kind::of_word(word).is_some() => {
                return bad(format!("{word:?} needs a name: {word} \"name\" {{ policy = {access:?} }}"));
            }
            _ => return bad(unknown(word)),
        };
        // As in Consul, who leaves the quotes empty says nothing.
        if access.is_empty() {
            return Ok(());
        }
        let access = access_of(word, access)?;
        if access == Access::List {
            return bad(format!("{word}: \"list\" is for keys only"));
        }
        *slot = Some(slot.map_or(access, |before| before.with(access)));
        Ok(())
    }

    /// What stands under a name: an empty `field` says that the block is over.
    fn set_named(&mut self, word: &str, name: &str, field: &str, access: &str) -> Result<(), BadRules> {
        let Some((kind, prefix)) = Kind::of_word(word) else { return bad(unknown(word)) };
        match field {
            "policy" => {}
            // There is no mesh.
            "intentions" if kind == Kind::Service => return access_of(word, access).map(drop),
            other => {
                return bad(format!("{word} {name:?} has a field {other:?}; only \"policy\" is known there"));
            }
        }
        let access = match access_of(word, access)? {
            Access::List if kind != Kind::Key => {
                return bad(format!("{word} {name:?}: \"list\" is for keys only"));
            }
            access => access,
        };
        if self.named.len() >= MAX_RULES {
            return bad(format!("more than {MAX_RULES} rules in one policy"));
        }
        self.named.push(Rule { kind, name: name.to_owned(), prefix, access });
        Ok(())
    }
}

fn access_of(word: &str, access: &str) -> Result<Access, BadRules> {
    Access::of_word(access)
        .ok_or_else(|| BadRules(format!("{word}: {access:?} is none of read, write, list, deny")))
}

fn unknown(word: &str) -> String {
    let names = Kind::ALL.map(Kind::word).join(", ");
    format!(
        "unknown kind of rule {word:?}; known: {names}, each also with _prefix, and operator, keyring, acl"
    )
}

// ---- JSON ----

/// The objects of a value that is an object, or a list of objects as HCL's own JSON has them.
fn objects<'a>(value: &'a Value, what: &str) -> Result<Vec<&'a serde_json::Map<String, Value>>, BadRules> {
    let items = match value {
        Value::Array(items) => items.iter().collect(),
        other => vec![other],
    };
    let objects = items
        .into_iter()
        .map(|item| item.as_object().ok_or_else(|| BadRules(format!("{what} must be an object"))));
    objects.collect()
}

fn from_json(text: &str) -> Result<Rules, BadRules> {
    let value: Value = serde_json::from_str(text).map_err(|error| BadRules(error.to_string()))?;
    let mut rules = Rules::default();
    for (word, value) in objects(&value, "a policy")?.into_iter().flatten() {
        if let Value::String(access) = value {
            rules.set_plain(word, access)?;
            continue;
        }
        for (name, value) in objects(value, word)?.into_iter().flatten() {
            let mut fields = objects(value, &format!("{word} {name:?}"))?.into_iter().flatten().peekable();
            if fields.peek().is_none() {
                return bad(format!("{word} {name:?} says nothing: it needs a \"policy\""));
            }
            for (field, access) in fields {
                let Value::String(access) = access else {
                    return bad(format!("{word} {name:?}: {field} must be a text"));
                };
                rules.set_named(word, name, field, access)?;
            }
        }
    }
    Ok(rules)
}

// ---- HCL ----

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

/// A text's tokens, each with its line.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, BadRules> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            // HCL lets fields of one block be separated by these too.
            ',' | ';' => {}
            '#' => while rest.next_if(|c| *c != '\n').is_some() {},
            '/' if rest.next_if_eq(&'/').is_some() => while rest.next_if(|c| *c != '\n').is_some() {},
            '/' if rest.next_if_eq(&'*').is_some() => {
                let (began, mut before) = (line, ' ');
                loop {
                    match rest.next() {
                        Some('/') if before == '*' => break,
                        Some(c) => {
                            line += usize::from(c == '\n');
                            before = c;
                        }
                        None => return bad(format!("line {began}: the comment has no end")),
                    }
                }
            }
            '{' | '}' | '=' => found.push((line, Token::Sign(c))),
            '"' => found.push((line, Token::Text(quoted(line, &mut rest)?))),
            c if c.is_ascii_alphabetic() || c == '_' => {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
                    word.push(c);
                }
                found.push((line, Token::Word(word)));
            }
            other => return bad(format!("line {line}: {other:?} has no meaning here")),
        }
    }
    Ok(found)
}

/// A text after its opening quote.
fn quoted(line: usize, rest: &mut impl Iterator<Item = char>) -> Result<String, BadRules> {
    let mut text = String::new();
    loop {
        match rest.next() {
            Some('"') => return Ok(text),
            Some('\\') => match rest.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(c @ ('"' | '\\')) => text.push(c),
                _ => {
                    return bad(format!("line {line}: an escape in a text must be one of \\\" \\\\ \\n \\t"));
                }
            },
            Some('\n') | None => return bad(format!("line {line}: a text is not closed")),
            Some(c) => text.push(c),
        }
    }
}

fn from_hcl(text: &str) -> Result<Rules, BadRules> {
    let tokens = tokens(text)?;
    let mut rules = Rules::default();
    let mut rest = tokens.into_iter();
    let end = || (0, Token::Sign(' '));
    // A kind, then `= "access"`, or `"name" { field = "access" … }`.
    while let Some((line, first)) = rest.next() {
        let at = |error: BadRules| BadRules(format!("line {line}: {}", error.0));
        let (Token::Word(word) | Token::Text(word)) = first else {
            return bad(format!("line {line}: expected a kind of rule, such as key_prefix"));
        };
        match rest.next().unwrap_or_else(end).1 {
            Token::Sign('=') => {
                let Token::Text(access) = rest.next().unwrap_or_else(end).1 else {
                    return bad(format!("line {line}: {word} = must be followed by a text in quotes"));
                };
                rules.set_plain(&word, &access).map_err(at)?;
            }
            Token::Text(name) => {
                if rest.next().unwrap_or_else(end).1 != Token::Sign('{') {
                    return bad(format!("line {line}: {word} {name:?} must be followed by {{"));
                }
                let mut fields = 0;
                loop {
                    let field = match rest.next().unwrap_or_else(end) {
                        (_, Token::Sign('}')) => break,
                        (_, Token::Word(field) | Token::Text(field)) => field,
                        _ => return bad(format!("line {line}: the block of {word} {name:?} is not closed")),
                    };
                    let (sign, access) =
                        (rest.next().unwrap_or_else(end).1, rest.next().unwrap_or_else(end).1);
                    let (Token::Sign('='), Token::Text(access)) = (sign, access) else {
                        return bad(format!(
                            "line {line}: in {word} {name:?}, {field} must be followed by = and a text"
                        ));
                    };
                    rules.set_named(&word, &name, &field, &access).map_err(at)?;
                    fields += 1;
                }
                if fields == 0 {
                    return bad(format!("line {line}: {word} {name:?} says nothing: it needs a policy"));
                }
            }
            _ => return bad(format!("line {line}: {word} must be followed by = or by a name in quotes")),
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(kind: Kind, name: &str, prefix: bool, access: Access) -> Rule {
        Rule { kind, name: name.to_owned(), prefix, access }
    }

    #[test]
    fn both_forms_say_the_same() {
        let hcl = r#"
            # Who deploys the app.
            key_prefix "app/" { policy = "write" }
            key "app/secret" {
                policy = "deny" // not this one
            }
            service "web" { policy = "write" intentions = "read" }
            /* and
               its node */
            node_prefix "" { policy = "read" }
            "session_prefix" "" { policy = "list" }
            operator = "read"
            mesh = "write"
        "#;
        let error = Rules::parse(hcl).unwrap_err().to_string();
        assert_eq!(
            error,
            "Failed to parse ACL rules: line 11: session_prefix \"\": \"list\" is for keys only"
        );
        let hcl = hcl.replace("\"list\"", "\"write\"");
        let expected = Rules {
            named: vec![
                rule(Kind::Key, "app/", true, Access::Write),
                rule(Kind::Key, "app/secret", false, Access::Deny),
                rule(Kind::Service, "web", false, Access::Write),
                rule(Kind::Node, "", true, Access::Read),
                rule(Kind::Session, "", true, Access::Write),
            ],
            operator: Some(Access::Read),
            ..Rules::default()
        };
        assert_eq!(Rules::parse(&hcl).unwrap(), expected);
        let json = r#"{
            "key_prefix": {"app/": {"policy": "write"}},
            "key": [{"app/secret": [{"policy": "deny"}]}],
            "service": {"web": {"policy": "write", "intentions": "read"}},
            "node_prefix": {"": {"policy": "read"}},
            "session_prefix": {"": {"policy": "write"}},
            "operator": "read"
        }"#;
        let mut read = Rules::parse(json).unwrap();
        // A JSON object has its own order.
        let order = |rule: &Rule| (expected.named.iter().position(|known| known == rule), rule.name.clone());
        read.named.sort_by_key(order);
        assert_eq!(read, expected);
        assert_eq!(Rules::parse("  \n# nothing\n").unwrap(), Rules::default());
        assert_eq!(Rules::parse("{}").unwrap(), Rules::default());
        assert_eq!(Rules::parse("operator = \"\" mesh = \"\"").unwrap(), Rules::default());
    }

    #[test]
    fn every_mistake_is_named() {
        let mistakes = [
            ("keys \"a\" { policy = \"read\" }", "line 1: unknown kind of rule \"keys\""),
            ("\nkey \"a\" { policy = \"reed\" }", "line 2: key: \"reed\" is none of"),
            ("key \"a\" { rights = \"read\" }", "has a field \"rights\""),
            ("key \"a\" { }", "says nothing"),
            ("key \"a\" { policy = \"read\"", "is not closed"),
            ("key \"a\" policy", "must be followed by {"),
            ("key \"a", "a text is not closed"),
            ("key \"a\\x\" {", "an escape"),
            ("key = \"read\"", "needs a name"),
            ("operator \"a\" { policy = \"read\" }", "unknown kind of rule \"operator\""),
            ("operator = read", "a text in quotes"),
            ("operator", "must be followed by"),
            ("= \"read\"", "expected a kind"),
            ("/* for ever", "has no end"),
            ("key \"a\" { policy = \"read\" } $", "'$' has no meaning"),
            ("{\"key\": 3}", "key must be an object"),
            ("{\"key\": {\"a\": {}}}", "says nothing"),
            ("{\"key\": {\"a\": {\"policy\": 1}}}", "must be a text"),
            ("{\"operator\": \"maybe\"}", "is none of"),
            ("acl = \"list\"", "line 1: acl: \"list\" is for keys only"),
            ("{", "EOF"),
        ];
        for (text, expected) in mistakes {
            let error = Rules::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("Failed to parse ACL rules: ") && error.contains(expected),
                "{text}: {error}"
            );
        }
        let many = "key \"a\" { policy = \"read\" }\n".repeat(MAX_RULES + 1);
        assert!(Rules::parse(&many).unwrap_err().to_string().contains("more than"));
    }

    #[test]
    fn what_is_said_twice_in_one_policy_denies_if_either_does() {
        assert_eq!(Rules::parse("acl = \"write\" acl = \"deny\"").unwrap().acl, Some(Access::Deny));
        assert_eq!(Rules::parse("acl = \"read\" acl = \"write\"").unwrap().acl, Some(Access::Write));
    }

    fn any_name() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), "[a-z/\"\\\\\n\t é]{1,6}"]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            written in prop::collection::vec((0usize..7, any_name(), any::<bool>(), 0usize..3), 0..12),
        ) {
            let accesses = [Access::Deny, Access::Read, Access::Write];
            let named: Vec<Rule> = written
                .into_iter()
                .map(|(kind, name, prefix, access)| rule(Kind::ALL[kind], &name, prefix, accesses[access]))
                .collect();
            let quoted = |text: &str| {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"");
                format!("\"{}\"", text.replace('\n', "\\n").replace('\t', "\\t"))
            };
            let text: String = named
                .iter()
                .map(|rule| {
                    let prefix = if rule.prefix { "_prefix" } else { "" };
                    let (word, name) = (rule.kind.word(), quoted(&rule.name));
                    format!("{word}{prefix} {name} {{ policy = \"{}\" }}\n", rule.access.word())
                })
                .collect();
            prop_assert_eq!(Rules::parse(&text).unwrap(), Rules { named, ..Rules::default() });
        }

        #[test]
        fn any_text_is_a_policy_or_an_error(text in "[a-z_{}\\[\\]\"=:,/*#\\\\ \n]{0,120}") {
            let _ = Rules::parse(&text);
            let _ = Rules::parse(&format!("{{{text}"));
        }
    }
}
