//! `?filter=…`: expressions that choose among the entries of a list, as Consul's (go-bexpr).
//!
//! ```text
//! Meta.env == "prod" and not (ServiceName matches "^db" or Tags is empty)
//! ```
//!
//! An expression is judged on an entry as it goes out: a selector is a path through its JSON. A name that
//! an entry's type does not have is an error, whether or not there are entries. A field that is left out of the JSON has
//! its zero value, as in the Go structs that Consul judges (`Kind == ""` is true of an ordinary service); a label that
//! is missing is empty and equals nothing. Through a list of other entries, as `Checks.Status`, any of them may match.
//!
//! Deliberately bounded: the expression's length, its depth, and how many regular expressions it has, each of which size. Anybody
//! may ask with one, and to build one that is large takes long.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::CharIndices;
use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};
use serde::Serialize;
use serde_json::{Value, json};

use crate::state::catalog::{CheckInfo, CheckRow, Instance, NodeInfo, Row, ServiceInfo, Status};

use super::params::Params;
use super::reply::Failure;
use super::wire::{CatalogService, Check, CheckedService, GatewayService, Node as CatalogNode, Service};

const MAX_BYTES: usize = 8 * 1024;
const MAX_DEPTH: usize = 64;
const MAX_REGEX_BYTES: usize = 256 * 1024;
const MAX_REGEXES: usize = 8;

/// Under these, names are the user's, and one that is missing is no mistake.
/// A member's tags are such; a service's are a list, through which nothing is selected.
const LABELS: [&str; 6] =
    ["Meta", "NodeMeta", "ServiceMeta", "Tags", "TaggedAddresses", "ServiceTaggedAddresses"];

/// What the fields are that an entry's JSON leaves out, by the field that they are in; those under `""` may be anywhere
/// else. There is no mesh and there are no partitions, so nothing here ever has another value.
static ZEROS: LazyLock<Value> = LazyLock::new(|| {
    let proxy = json!({
        "DestinationServiceName": "", "DestinationServiceID": "", "Mode": "", "MutualTLSMode": "",
        "LocalServiceAddress": "", "LocalServicePort": 0, "LocalServiceSocketPath": "",
        "Upstreams": [], "EnvoyExtensions": [], "MeshGateway": { "Mode": "" },
        "TransparentProxy": { "OutboundListenerPort": 0, "DialedDirectly": false },
        "Expose": { "Checks": false, "Paths": [] },
        "AccessLogs": {
            "Enabled": false, "DisableListenerLogs": false, "Type": "", "Path": "", "JSONFormat": "", "TextFormat": "",
        },
    });
    let connect = json!({ "Native": false });
    json!({
        "": {
            "Kind": "", "PeerName": "", "SocketPath": "", "ServiceSocketPath": "",
            "TaggedAddresses": {}, "ServiceTaggedAddresses": {},
            "Namespace": "default", "Partition": "default", "Proxy": proxy, "Connect": connect,
        },
        "Proxy": proxy, "ServiceProxy": proxy, "Connect": connect, "ServiceConnect": connect,
    })
});

/// What a field is that is left out of what `parent` leads to; `None` if there is no such field.
fn zero(parent: &str, name: &str) -> Option<&'static Value> {
    ZEROS.get(parent).or_else(|| ZEROS.get(""))?.get(name)
}

/// A filter.
#[derive(Clone, Debug)]
pub struct Filter(Node);

#[derive(Clone, Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    /// With `not`, of a value that does not pass. Of several, one is enough: `Checks.Status != passing` is true of an entry
    /// with a check that does not pass, and not of one without checks.
    Test {
        path: Vec<String>,
        test: Test,
        not: bool,
    },
}

#[derive(Clone, Debug)]
enum Test {
    Equals(String),
    Contains(String),
    Matches(Regex),
    IsEmpty,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A bare word: a keyword, a selector, or a value.
    Word(String),
    /// A quoted value.
    Text(String),
    /// `==`, `!=`, a bracket, a dot.
    Sign(&'static str),
}

fn bad(reason: impl std::fmt::Display) -> Failure {
    Failure::bad_request(format!("Failed to create boolean expression evaluator: {reason}"))
}

impl Filter {
    /// The filter of a request, if it has one.
    ///
    /// # Errors
    /// A 400 that says what is wrong with it.
    pub fn of(params: &Params) -> Result<Option<Filter>, Failure> {
        params.text("filter").map(Filter::parse).transpose()
    }

    fn parse(text: &str) -> Result<Filter, Failure> {
        if text.len() > MAX_BYTES {
            return Err(bad(format!("it is longer than {MAX_BYTES} bytes")));
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0, regexes: BTreeMap::new() };
        let node = parser.any(0)?;
        match parser.next() {
            None => Ok(Filter(node)),
            Some(token) => Err(bad(format!("{} is not expected there", shown(&token)))),
        }
    }

    /// The entries that pass.
    ///
    /// # Errors
    /// A 400 when the filter names what the entries do not have.
    pub fn choose<T: Serialize + 'static>(
        filter: &Option<Filter>,
        entries: Vec<T>,
    ) -> Result<Vec<T>, Failure> {
        let Some(Filter(node)) = filter else { return Ok(entries) };
        // The types of an agent's own services and of its members are known to their modules only: the first entry stands
        // for all of them, and where there is none, either.
        match (SAMPLES.of_type.get(&TypeId::of::<T>()), entries.first()) {
            (Some(sample), _) => node.check(&[sample])?,
            (None, Some(first)) => node.check(&[&encoded(first)?])?,
            (None, None) => node.check(&[&SAMPLES.member, &SAMPLES.service])?,
        }
        let mut chosen = Vec::new();
        for entry in entries {
            if node.judge(&encoded(&entry)?)? {
                chosen.push(entry);
            }
        }
        Ok(chosen)
    }
}

fn encoded(entry: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(entry).map_err(|error| Failure::internal(format!("cannot encode an entry: {error}")))
}

/// Entries that have every field of their type, by which names are judged before there is anything to choose from.
struct Samples {
    of_type: BTreeMap<TypeId, Value>,
    service: Value,
    member: Value,
}

/// Made at the first filter: they are the same for each.
static SAMPLES: LazyLock<Samples> = LazyLock::new(|| {
    fn row<I>(info: I) -> Row<I> {
        Row { info, create_index: 0, modify_index: 0 }
    }
    // Plain data always has a form.
    fn shown(entry: impl Serialize) -> Value {
        serde_json::to_value(entry).unwrap_or_default()
    }
    // A list that is not empty shows that nothing is selected through it.
    let tags = vec![String::new()];
    let text = String::new;
    let check = CheckInfo {
        id: text(),
        name: text(),
        status: Status::Passing,
        notes: text(),
        output: text(),
        service_id: text(),
        kind: text(),
        interval: text(),
        timeout: text(),
    };
    let check = CheckRow {
        node: String::new(),
        check: row(check),
        service_name: String::new(),
        service_tags: tags.clone(),
    };
    let instance = Instance {
        node: row(NodeInfo::default()),
        service: row(ServiceInfo { tags, ..ServiceInfo::default() }),
        checks: vec![check.clone()],
    };
    let service = shown(Service::new(&instance.service));
    let behind_gateway = json!({
        "Gateway": { "Name": "" }, "Service": { "Name": "" }, "GatewayKind": "", "Port": 0, "Protocol": "", "Hosts": [""],
        "CAFile": "", "CertFile": "", "KeyFile": "", "SNI": "", "FromWildcard": false, "ServiceKind": "",
        "AutoHostRewrite": false,
    });
    let member = json!({
        "Name": "", "Addr": "", "Port": 0, "Tags": {}, "Status": 0, "ProtocolMin": 0, "ProtocolMax": 0,
        "ProtocolCur": 0, "DelegateMin": 0, "DelegateMax": 0, "DelegateCur": 0,
    });
    let of_type = BTreeMap::from([
        (TypeId::of::<CatalogNode>(), shown(CatalogNode::new(&instance.node, ""))),
        (TypeId::of::<Service>(), service.clone()),
        (TypeId::of::<CatalogService>(), shown(CatalogService::new(&instance, ""))),
        (TypeId::of::<Check>(), shown(Check::new(&check))),
        (TypeId::of::<CheckedService>(), shown(CheckedService::new(&instance, ""))),
        (TypeId::of::<GatewayService>(), behind_gateway),
    ]);
    Samples { of_type, service, member }
});

impl Node {
    /// Refuses names that none of these entries has, also where judging would stop before it comes to them.
    fn check(&self, samples: &[&Value]) -> Result<(), Failure> {
        match self {
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().try_for_each(|node| node.check(samples)),
            Node::Not(node) => node.check(samples),
            Node::Test { path, .. } => {
                if samples.iter().any(|sample| select(sample, path).is_ok()) {
                    Ok(())
                } else {
                    Err(unknown(path))
                }
            }
        }
    }

    fn judge(&self, entry: &Value) -> Result<bool, Failure> {
        Ok(match self {
            Node::All(nodes) => {
                for node in nodes {
                    if !node.judge(entry)? {
                        return Ok(false);
                    }
                }
                true
            }
            Node::Any(nodes) => {
                for node in nodes {
                    if node.judge(entry)? {
                        return Ok(true);
                    }
                }
                false
            }
            Node::Not(node) => !node.judge(entry)?,
            // A label that is not there is empty, and equals nothing.
            Node::Test { path, test, not } => select(entry, path)?
                .into_iter()
                .any(|value| value.map_or(matches!(test, Test::IsEmpty), |value| test.judge(value)) != *not),
        })
    }
}

fn unknown(path: &[String]) -> Failure {
    bad(format!("Selector {:?} is not valid", path.join(".")))
}

/// What a path leads to: one value mostly, nothing in its place where a label is missing, and as many as there are through a
/// list.
fn select<'a>(entry: &'a Value, path: &[String]) -> Result<Vec<Option<&'a Value>>, Failure> {
    let mut values = vec![Some(entry)];
    let mut parent = "";
    for name in path {
        let mut inner = Vec::new();
        for value in values {
            let several = match value {
                Some(Value::Array(entries)) if entries.iter().all(Value::is_object) => {
                    entries.iter().map(Some).collect()
                }
                one => vec![one],
            };
            for value in several {
                inner.push(match value {
                    Some(Value::Object(fields)) => match fields.get(name) {
                        Some(value) => Some(value),
                        None if LABELS.contains(&parent) => None,
                        None => Some(zero(parent, name).ok_or_else(|| unknown(path))?),
                    },
                    Some(Value::Null) | None => None,
                    Some(_) => return Err(unknown(path)),
                });
            }
        }
        values = inner;
        parent = name;
    }
    Ok(values)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

impl Test {
    fn judge(&self, value: &Value) -> bool {
        match self {
            Test::Equals(wanted) => match value {
                // As Go reads it.
                Value::Bool(flag) => Params::truth(wanted) == Some(*flag),
                value => text_of(value).as_ref() == Some(wanted),
            },
            Test::Contains(wanted) => match value {
                Value::Array(values) => values.iter().any(|value| text_of(value).as_ref() == Some(wanted)),
                Value::Object(fields) => fields.contains_key(wanted),
                value => text_of(value).is_some_and(|text| text.contains(wanted)),
            },
            Test::Matches(pattern) => match value {
                Value::Array(values) => values.iter().filter_map(text_of).any(|text| pattern.is_match(&text)),
                Value::Object(fields) => fields.keys().any(|name| pattern.is_match(name)),
                value => text_of(value).is_some_and(|text| pattern.is_match(&text)),
            },
            Test::IsEmpty => match value {
                Value::Array(values) => values.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                value => text_of(value).is_none_or(|text| text.is_empty()),
            },
        }
    }
}

// ---- reading ----

fn tokens(text: &str) -> Result<Vec<Token>, Failure> {
    let mut found = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' => found.push(Token::Sign("(")),
            ')' => found.push(Token::Sign(")")),
            '[' => found.push(Token::Sign("[")),
            ']' => found.push(Token::Sign("]")),
            '.' => found.push(Token::Sign(".")),
            '=' | '!' => match (c, rest.next()) {
                ('=', Some((_, '='))) => found.push(Token::Sign("==")),
                ('!', Some((_, '='))) => found.push(Token::Sign("!=")),
                _ => return Err(bad(format!("{c:?} at byte {at} begins no operator"))),
            },
            '"' | '`' => found.push(Token::Text(quoted(&mut rest, c, at)?)),
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some((_, c)) = rest.next_if(|(_, c)| is_word(*c)) {
                    word.push(c);
                }
                found.push(Token::Word(word));
            }
            c => return Err(bad(format!("{c:?} at byte {at} is not expected"))),
        }
    }
    Ok(found)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | ':' | '~' | '@' | '*' | '+' | '^' | '$')
}

fn quoted(rest: &mut Peekable<CharIndices<'_>>, quote: char, at: usize) -> Result<String, Failure> {
    let mut text = String::new();
    while let Some((_, c)) = rest.next() {
        match c {
            c if c == quote => return Ok(text),
            '\\' if quote == '"' => match rest.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, c @ ('"' | '\\'))) => text.push(c),
                // Most often a regular expression's own.
                Some((_, c)) => text.extend(['\\', c]),
                None => break,
            },
            c => text.push(c),
        }
    }
    Err(bad(format!("the quote at byte {at} is not closed")))
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("{word:?}"),
        Token::Text(text) => format!("the text {text:?}"),
        Token::Sign(sign) => format!("{sign:?}"),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Those built so far, by what they were built from.
    regexes: BTreeMap<String, Regex>,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    /// Takes a word if it is the next.
    fn word(&mut self, word: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word));
        self.at += usize::from(is);
        is
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.at += usize::from(is);
        is
    }

    fn any(&mut self, depth: usize) -> Result<Node, Failure> {
        let mut nodes = vec![self.all(depth)?];
        while self.word("or") {
            nodes.push(self.all(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self, depth: usize) -> Result<Node, Failure> {
        let mut nodes = vec![self.one(depth)?];
        while self.word("and") {
            nodes.push(self.one(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn one(&mut self, depth: usize) -> Result<Node, Failure> {
        if depth == MAX_DEPTH {
            return Err(bad(format!("it is nested deeper than {MAX_DEPTH}")));
        }
        if self.word("not") {
            return Ok(Node::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.sign("(") {
            let node = self.any(depth + 1)?;
            return if self.sign(")") { Ok(node) } else { Err(bad("a bracket is not closed")) };
        }
        self.test()
    }

    /// `SELECTOR OPERATOR VALUE`, or `VALUE in SELECTOR`.
    fn test(&mut self) -> Result<Node, Failure> {
        // Only what follows tells whether a word is a value or a selector.
        let start = self.at;
        let first = self.value();
        if let Some(value) = first {
            let not = self.word("not");
            if self.word("in") {
                let path = self.selector()?;
                return Ok(Node::Test { path, test: Test::Contains(value), not });
            }
        }
        self.at = start;
        let path = self.selector()?;
        if self.word("is") {
            let not = self.word("not");
            return if self.word("empty") {
                Ok(Node::Test { path, test: Test::IsEmpty, not })
            } else {
                Err(bad("after \"is\" comes \"empty\" or \"not empty\""))
            };
        }
        if self.sign("==") {
            return Ok(Node::Test { path, test: Test::Equals(self.wanted()?), not: false });
        }
        if self.sign("!=") {
            return Ok(Node::Test { path, test: Test::Equals(self.wanted()?), not: true });
        }
        let not = self.word("not");
        if self.word("contains") {
            return Ok(Node::Test { path, test: Test::Contains(self.wanted()?), not });
        }
        if self.word("matches") {
            let pattern = self.wanted()?;
            return Ok(Node::Test { path, test: Test::Matches(self.regex(pattern)?), not });
        }
        match self.next() {
            Some(token) => Err(bad(format!("{} is no operator", shown(&token)))),
            None => Err(bad(format!("after {:?} there is no operator", path.join(".")))),
        }
    }

    fn regex(&mut self, pattern: String) -> Result<Regex, Failure> {
        if let Some(built) = self.regexes.get(&pattern) {
            return Ok(built.clone());
        }
        if self.regexes.len() == MAX_REGEXES {
            return Err(bad(format!("it has more than {MAX_REGEXES} regular expressions")));
        }
        let built =
            RegexBuilder::new(&pattern).size_limit(MAX_REGEX_BYTES).dfa_size_limit(MAX_REGEX_BYTES).build();
        let regex = built.map_err(|error| bad(format!("bad regular expression {pattern:?}: {error}")))?;
        self.regexes.insert(pattern, regex.clone());
        Ok(regex)
    }

    fn value(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => Some(word),
            Token::Text(text) => Some(text),
            Token::Sign(_) => None,
        }
    }

    fn wanted(&mut self) -> Result<String, Failure> {
        let mut value = self.value().ok_or_else(|| bad("a value is missing"))?;
        // A number with a fraction, or an address, without quotes.
        while self.sign(".") {
            value.push('.');
            value.push_str(&self.value().ok_or_else(|| bad("a value ends in a dot"))?);
        }
        Ok(value)
    }

    fn selector(&mut self) -> Result<Vec<String>, Failure> {
        let Some(Token::Word(first)) = self.next() else { return Err(bad("a selector is missing")) };
        let mut path = vec![first];
        loop {
            if self.sign(".") {
                path.push(self.value().ok_or_else(|| bad("a selector ends in a dot"))?);
            } else if self.sign("[") {
                path.push(self.value().ok_or_else(|| bad("nothing stands between \"[\" and \"]\""))?);
                if !self.sign("]") {
                    return Err(bad("\"[\" is not closed"));
                }
            } else {
                return Ok(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `T`s are chosen when there are none.
    fn of_none<T: Serialize + 'static>(text: &str) -> Result<usize, String> {
        let filter = Filter::parse(text).map_err(|failure| failure.text)?;
        let chosen = Filter::choose(&Some(filter), Vec::<T>::new());
        chosen.map(|chosen| chosen.len()).map_err(|failure| failure.text)
    }

    fn judged(text: &str) -> Result<bool, String> {
        let entry = json!({
            "ServiceName": "web", "ServicePort": 8080, "ServiceTags": ["v1", "blue"], "Empty": [],
            "ServiceMeta": {"env": "prod", "a key": "x"}, "Node": "n-1.example", "Flag": true,
            "Nested": {"Inner": {"Name": "deep"}}, "Nothing": null, "Tags": {"role": "consul"},
            "Checks": [{"Status": "passing"}, {"Status": "critical"}],
            "ServiceProxy": {}, "ServiceConnect": {}, "Service": {"Proxy": {}, "Connect": {}},
        });
        let filter = Filter::parse(text).map_err(|failure| failure.text)?;
        Filter::choose(&Some(filter), vec![entry])
            .map(|chosen| chosen.len() == 1)
            .map_err(|failure| failure.text)
    }

    #[test]
    fn expressions_mean_what_they_say() {
        for (text, expected) in [
            ("ServiceName == web", true),
            ("ServiceName == \"web\"", true),
            ("ServiceName != `web`", false),
            ("ServicePort == 8080", true),
            ("Flag == true", true),
            ("\"v1\" in ServiceTags", true),
            ("v2 in ServiceTags", false),
            ("v2 not in ServiceTags", true),
            ("ServiceTags contains blue", true),
            ("ServiceTags not contains blue", false),
            ("Empty is empty and ServiceTags is not empty", true),
            ("Nothing is empty", true),
            ("ServiceMeta.env == prod", true),
            ("ServiceMeta[\"a key\"] == x", true),
            ("ServiceMeta.missing == x", false),
            ("ServiceMeta.missing is empty", true),
            ("env in ServiceMeta", true),
            ("Tags.role == consul", true),
            ("Tags.missing == x", false),
            ("Tags.missing != x", true),
            ("Node matches \"^n-\\d\\.\"", true),
            ("Node not matches `^m`", true),
            ("Node == n-1.example", true),
            ("Nested.Inner.Name == deep", true),
            ("Checks.Status == critical", true),
            ("Checks.Status == warning", false),
            ("Checks.Status matches `^crit`", true),
            ("Kind == connect-proxy", false),
            ("Kind is empty", true),
            ("Kind == \"\"", true),
            ("Kind != connect-proxy", true),
            ("Service.Kind == \"\"", true),
            ("Service.SocketPath == \"\"", true),
            ("Service.PeerName == \"\"", true),
            ("Service.PeerName != \"\"", false),
            ("Checks.PeerName == \"\"", true),
            ("Service.Proxy.DestinationServiceName == \"\"", true),
            ("Service.Proxy.Mode == \"\"", true),
            ("Service.Proxy.Mode is empty", true),
            ("Service.Proxy.MeshGateway.Mode == \"\"", true),
            ("Service.Proxy.LocalServicePort == 0", true),
            ("Service.Proxy.Upstreams is empty", true),
            ("ServiceProxy.DestinationServiceName == web", false),
            ("ServiceProxy.DestinationServiceName == \"\"", true),
            ("Service.Connect.Native != true", true),
            ("ServiceConnect.Native == false", true),
            ("Namespace == default", true),
            ("Service.Partition == default", true),
            ("Partition == other", false),
            // A label may have any name.
            ("ServiceMeta.Kind == \"\"", false),
            ("ServiceMeta.Partition == default", false),
            ("TaggedAddresses is empty", true),
            ("lan in TaggedAddresses", false),
            ("Nested.TaggedAddresses.lan.Address == a", false),
            ("not ServiceName == web or Flag == true", true),
            ("not (ServiceName == web or Flag == true)", false),
            ("ServiceName == db and Flag == true or Flag == true", true),
        ] {
            assert_eq!(judged(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("ServiceName", "no operator"),
            ("ServiceName = web", "begins no operator"),
            ("ServiceName == ", "a value is missing"),
            ("(ServiceName == web", "not closed"),
            ("ServiceName == \"web", "not closed"),
            ("ServiceName == web Flag", "not expected"),
            ("Nonsense == web", "Selector \"Nonsense\" is not valid"),
            ("ServiceName.Inner == web", "is not valid"),
            ("ServiceTags.v1 == web", "is not valid"),
            ("Checks.Bogus == web", "is not valid"),
            ("Service.Proxy.Bogus == web", "Selector \"Service.Proxy.Bogus\" is not valid"),
            ("Service.Kind.Bogus == web", "is not valid"),
            ("Service.Connect.Kind is empty", "is not valid"),
            ("ServiceName == web or Nonsense == 1", "Selector \"Nonsense\" is not valid"),
            ("ServiceName == db and not Nonsense == 1", "Selector \"Nonsense\" is not valid"),
            ("Node matches \"(\"", "bad regular expression"),
            ("== web", "a selector is missing"),
            ("ServiceTags is full", "\"empty\""),
            ("{}", "not expected"),
        ] {
            let error = judged(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(judged(&"not ".repeat(100)).unwrap_err().contains("nested deeper"));
        let any_of = |patterns: &[String]| {
            let tests: Vec<String> = patterns.iter().map(|one| format!("Node matches `{one}`")).collect();
            judged(&tests.join(" or "))
        };
        let distinct: Vec<String> = (0..=MAX_REGEXES).map(|number| format!("^x{number}")).collect();
        assert!(any_of(&distinct).unwrap_err().contains("more than 8 regular expressions"));
        assert_eq!(any_of(&distinct[1..]), Ok(false));
        assert_eq!(any_of(&vec!["^x".to_owned(); 50]), Ok(false));
    }

    #[test]
    fn names_are_judged_where_there_are_no_entries() {
        fn known<T: Serialize + 'static>(texts: &[&str]) {
            for text in texts {
                assert_eq!(of_none::<T>(text), Ok(0), "{text}");
            }
            for text in ["Bogus == 1", "not Bogus == 1", "Meta.a == 1 or Bogus == 1", "Bogus.Inner is empty"]
            {
                let error = of_none::<T>(text).unwrap_err();
                assert!(error.contains("Selector \"") && error.contains("is not valid"), "{text}: {error}");
            }
        }
        known::<CatalogNode>(&["Node == a and ID == b", "Meta.env == prod", "TaggedAddresses.lan == x"]);
        known::<Service>(&[
            "Service == a",
            "v1 in Tags",
            "Kind == \"\"",
            "Proxy.Mode == direct",
            "Weights.Passing == 1",
        ]);
        known::<CatalogService>(&["ServiceName == a", "NodeMeta.env == prod", "ServiceProxy.Mode == \"\""]);
        known::<Check>(&["Status == passing", "CheckID == a", "v1 in ServiceTags"]);
        known::<GatewayService>(&["Gateway.Name == a", "Service.Name == b", "Port == 1", "web in Hosts"]);
        known::<CheckedService>(&["Service.Meta.env == a", "Checks.Status == passing", "Node.Node == a"]);
        // An own service or a member.
        known::<Value>(&[
            "Tags.role == consul",
            "Name == a",
            "Service == a",
            "TaggedAddresses.lan.Port == 1",
        ]);
        for text in ["Checks.Bogus == 1", "Service.Tags.v1 == a", "Service.Name == a", "Status == passing"] {
            assert!(of_none::<CheckedService>(text).unwrap_err().contains("is not valid"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_filter_or_a_mistake(text in "[ a-zA-Z\"`=!().\\[\\]0-9]{0,60}") {
            let _ = judged(&text);
        }
    }
}
