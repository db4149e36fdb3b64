//! Configuration files: TOML or JSON, laid over one another in order.
//!
//! A file says only what differs from the defaults; a later file wins over an earlier one, and tables
//! are merged key by key, and to a list each file adds its part. Every mistake is reported with the file and the full name of the key: a
//! misspelt key that was silently ignored would be a default in force that nobody chose. So would the first of two values
//! of one key: a file says a key once.
//!
//! [`merge`] is a function of texts. Reading the files is the caller's business.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::Config;
use super::consul::{Resolve, canonical, group};

/// A configuration file that was read but not yet understood.
#[derive(Clone, Debug)]
pub struct Source {
    /// How errors name the file. Its ending gives the format: `.toml` or `.json`.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// All files together.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// What the agent is told. Not yet checked: the command line comes on top.
    pub config: Config,
    /// What only the process needs.
    pub process: Process,
    /// Which file says what.
    pub said: Said,
}

/// Which file says what, so that what is wrong with the whole can be told of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Each key with its full name, and the file; in the order of the files.
    keys: Vec<(String, String)>,
    /// How many entries of such a list each file has, in the order in which they are gathered.
    gathered: Vec<(&'static str, String, usize)>,
}

impl Said {
    /// The file that has the last word on a key, or on what is under it. None if no file says it.
    pub fn by(&self, key: &str) -> Option<&str> {
        let under =
            |said: &str| said.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.keys.iter().rev().find(|(said, _)| under(said)).map(|(_, file)| file.as_str())
    }

    /// The file of an entry of a list, and which of that file's it is. Both numbers begin at 1.
    pub fn entry(&self, list: &str, number: usize) -> Option<(&str, usize)> {
        let mut left = number;
        for (_, file, entries) in self.gathered.iter().filter(|(of, ..)| *of == list) {
            if (1..=*entries).contains(&left) {
                return Some((file, left));
            }
            left = left.checked_sub(*entries)?;
        }
        None
    }

    /// Takes note of a file's table.
    fn note(&mut self, file: &str, table: &Map<String, Value>) {
        for list in GATHERED {
            if let Some(Value::Array(entries)) = table.get(list) {
                self.gathered.push((list, file.to_owned(), entries.len()));
            }
        }
        self.note_keys(file, "", table);
    }

    fn note_keys(&mut self, file: &str, path: &str, table: &Map<String, Value>) {
        for (key, value) in table {
            let full = format!("{path}{key}");
            match value {
                Value::Object(table) => self.note_keys(file, &format!("{full}."), table),
                _ => self.keys.push((full, file.to_owned())),
            }
        }
    }
}

/// Keys of a file that concern the process around the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    /// A file with the value of `encrypt`, which then stands in no configuration.
    pub encrypt_file: Option<PathBuf>,
    /// Where the agent keeps its files.
    pub data_dir: Option<PathBuf>,
    /// What is logged: a level, or `tracing` directives.
    pub log_level: Option<String>,
    /// Whether logs are JSON lines.
    pub log_json: Option<bool>,
    /// A file that holds the process id while the agent runs.
    pub pid_file: Option<PathBuf>,
    /// Whether SIGTERM makes the agent leave its cluster. By default a client does and a server does not.
    pub leave_on_terminate: Option<bool>,
    /// Whether SIGINT ends the agent without its leaving the cluster. By default a server does and a client does not.
    pub skip_leave_on_interrupt: Option<bool>,
}

/// The keys of [`Process`].
pub const PROCESS_KEYS: [&str; 7] = [
    "data_dir",
    "encrypt_file",
    "log_level",
    "log_json",
    "pid_file",
    "leave_on_terminate",
    "skip_leave_on_interrupt",
];

/// Why a file cannot be used. Nothing has been started; correct the file and try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The name has neither ending.
    #[error("{file}: the format is not clear; name the file .toml or .json")]
    Format {
        /// The file.
        file: String,
    },
    /// The text is not TOML, or not JSON, or not a table.
    #[error("{file}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says, with the line.
        reason: String,
    },
    /// There is no such key.
    #[error("{file}: unknown key `{key}`; known here: {known}")]
    UnknownKey {
        /// The file.
        file: String,
        /// The key's full name.
        key: String,
        /// What it might have been meant to be.
        known: String,
    },
    /// The key exists but cannot hold this.
    #[error("{file}: {key}: {reason}")]
    Value {
        /// The file.
        file: String,
        /// The key's full name.
        key: String,
        /// What is wrong with the value.
        reason: String,
    },
}

/// Lays the files over `base`, the last one on top. Consul's names are taken for ours where they mean the same;
/// `resolve` finds the addresses of those to join.
///
/// # Errors
/// The first mistake in the first file that has one.
pub fn merge(base: &Config, files: &[Source], resolve: Resolve<'_>) -> Result<Merged, FileError> {
    let (config, process, said) = laid_over(base, files, resolve)?;
    Ok(Merged {
        config: Config::deserialize(config).map_err(internal)?,
        process: Process::deserialize(Value::Object(process)).map_err(internal)?,
        said,
    })
}

/// The services that the files define, each as it is written there: what a request to register it says. The files may hold
/// anything that an agent's may, and all of it is checked; nothing but the services is used, so no name to join is looked up.
///
/// # Errors
/// The first mistake in the first file that has one.
pub fn services(files: &[Source]) -> Result<Vec<Value>, FileError> {
    let anywhere = |_: &str, port| Ok((Ipv4Addr::UNSPECIFIED, port).into());
    let (mut config, ..) = laid_over(&Config::default(), files, &anywhere)?;
    match config["services"].take() {
        Value::Array(services) => Ok(services),
        _ => Ok(Vec::new()),
    }
}

fn internal(reason: serde_json::Error) -> FileError {
    FileError::Value {
        file: "defaults".to_owned(),
        key: "configuration".to_owned(),
        reason: reason.to_string(),
    }
}

/// The files over `base`, checked: what the agent is told, what only the process needs, and which file says what.
fn laid_over(
    base: &Config,
    files: &[Source],
    resolve: Resolve<'_>,
) -> Result<(Value, Map<String, Value>, Said), FileError> {
    let base = serde_json::to_value(base).map_err(internal)?;
    let mut config = base.clone();
    let mut process = Map::new();
    let mut said = Said::default();
    for source in files {
        let table = canonical(parse(source)?, &config, resolve);
        let mut table =
            table.map_err(|(key, reason)| FileError::Value { file: source.name.clone(), key, reason })?;
        said.note(&source.name, &table);
        for key in PROCESS_KEYS {
            if let Some(value) = table.remove(key) {
                let alone = Map::from_iter([(key.to_owned(), value.clone())]);
                Process::deserialize(Value::Object(alone)).map_err(|error| FileError::Value {
                    file: source.name.clone(),
                    key: key.to_owned(),
                    reason: error.to_string(),
                })?;
                process.insert(key.to_owned(), value);
            }
        }
        check_keys(source, "", &table, &base)?;
        // A table of Consul's with nothing in it says nothing.
        table.retain(|key, _| group(key).is_none() || base.get(key).is_some());
        check_values(source, &mut Vec::new(), &table, &base)?;
        add(&mut config, table);
    }
    Ok((config, process, said))
}

fn parse(source: &Source) -> Result<Map<String, Value>, FileError> {
    let Source { name: file, text } = source;
    let syntax = |reason: String| FileError::Syntax { file: file.clone(), reason };
    let value: Value = if file.ends_with(".toml") {
        toml::from_str(text).map_err(|error| syntax(error.to_string().trim_end().to_owned()))?
    } else if file.ends_with(".json") {
        let Once(value) = serde_json::from_str(text).map_err(|error| syntax(error.to_string()))?;
        value
    } else {
        return Err(FileError::Format { file: file.clone() });
    };
    match value {
        Value::Object(table) => Ok(table),
        _ => Err(syntax("must hold a table of keys".to_owned())),
    }
}

/// A JSON value of which no table says a key twice. TOML refuses that itself; `serde_json` takes the last.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Once, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Once)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut table = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if table.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key `{key}`")));
            }
            let Once(value) = fields.next_value()?;
            table.insert(key, value);
        }
        Ok(Value::Object(table))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

/// The known keys of a table are those of its default. An empty default (`tags`) is a table of the
/// user's own keys.
fn own_keys(default: &Value) -> Option<&Map<String, Value>> {
    default.as_object().filter(|keys| !keys.is_empty())
}

fn check_keys(
    source: &Source,
    path: &str,
    table: &Map<String, Value>,
    default: &Value,
) -> Result<(), FileError> {
    let Some(known) = own_keys(default) else { return Ok(()) };
    for (key, value) in table {
        let full = format!("{path}{key}");
        let Some(default) = known.get(key) else {
            if path.is_empty()
                && let Some(known) = group(key)
            {
                check_group(source, key, value, &known)?;
                continue;
            }
            let process = PROCESS_KEYS.iter().copied().filter(|_| path.is_empty());
            let mut names: Vec<&str> = known.keys().map(String::as_str).chain(process).collect();
            names.sort_unstable();
            return Err(FileError::UnknownKey {
                file: source.name.clone(),
                key: full,
                known: names.join(", "),
            });
        };
        if let Value::Object(table) = value {
            check_keys(source, &format!("{full}."), table, default)?;
        }
    }
    Ok(())
}

/// A table of Consul's of which all that is known here has been taken: what is left is unknown.
fn check_group(source: &Source, name: &str, left: &Value, known: &[&str]) -> Result<(), FileError> {
    let file = source.name.clone();
    let Value::Object(left) = left else {
        return Err(FileError::Value {
            file,
            key: name.to_owned(),
            reason: "must be a table of keys".to_owned(),
        });
    };
    match left.keys().next() {
        None => Ok(()),
        Some(key) => {
            Err(FileError::UnknownKey { file, key: format!("{name}.{key}"), known: known.join(", ") })
        }
    }
}

/// Tries each value alone over the defaults, so that an error has a name.
fn check_values(
    source: &Source,
    path: &mut Vec<String>,
    table: &Map<String, Value>,
    base: &Value,
) -> Result<(), FileError> {
    for (key, value) in table {
        path.push(key.clone());
        let default = path.iter().try_fold(base, |at, key| at.get(key));
        match value {
            // A table of the user's own keys too: which of them is wrong is worth saying.
            Value::Object(table) if default.is_some_and(Value::is_object) => {
                check_values(source, path, table, base)?;
            }
            _ if default.is_some_and(|default| own_keys(default).is_some()) => {
                return Err(FileError::Value {
                    file: source.name.clone(),
                    key: path.join("."),
                    reason: "must be a table of keys".to_owned(),
                });
            }
            _ => {
                let alone = path
                    .iter()
                    .rev()
                    .fold(value.clone(), |value, key| Value::Object(Map::from_iter([(key.clone(), value)])));
                let mut tried = base.clone();
                overlay(&mut tried, alone);
                Config::deserialize(tried).map_err(|error| FileError::Value {
                    file: source.name.clone(),
                    key: path.join("."),
                    reason: wanted(&path.join("."), value, default, &error),
                })?;
            }
        }
        path.pop();
    }
    Ok(())
}

/// What is wrong with a value. Where the parser's words do not say what would be right, these do.
fn wanted(key: &str, value: &Value, default: Option<&Value>, error: &serde_json::Error) -> String {
    // As it stands in the file, or nearly.
    let given = value.to_string();
    match key {
        "bootstrap" => {
            format!("{given}: want \"wait\", \"alone\" or {{ expect = N }} with a number of servers")
        }
        "advertise" => format!("{given}: want an IP address without a port, such as \"10.0.0.1\""),
        "http_addr" | "https_addr" | "rpc_addr" | "gossip_addr" | "dns.addr" => {
            let usual = match (key, default.and_then(Value::as_str)) {
                (_, Some(addr)) => addr,
                ("https_addr", None) => "127.0.0.1:8501",
                (_, None) => "127.0.0.1:8600",
            };
            format!("{given}: want IP:PORT, such as \"{usual}\"; names are not looked up here")
        }
        _ => error.to_string(),
    }
}

/// The lists, of which each file has its part.
const GATHERED: [&str; 5] = ["checks", "join", "retry_join", "services", "watches"];

/// Lays a file's table over what the files before it say.
fn add(below: &mut Value, mut table: Map<String, Value>) {
    for key in GATHERED {
        if let (Some(Value::Array(before)), Some(Value::Array(more))) = (below.get(key), table.get_mut(key)) {
            more.splice(0..0, before.iter().cloned());
        }
    }
    overlay(below, Value::Object(table));
}

fn overlay(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                overlay(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bootstrap;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_out_is_read_back(
            heartbeat_ms in 1u64..1000,
            value_bytes in 0usize..1_000_000,
            node_name in "[a-z]{1,20}",
            tags in prop::collection::btree_map("[a-z]{1,8}", "[^\\p{Cc}]{0,8}", 0..4),
            expect in prop::option::of(1u32..9),
        ) {
            let mut config = Config { node_name, tags, ..Config::default() };
            config.raft.heartbeat_ms = heartbeat_ms;
            config.limits.value_bytes = value_bytes;
            config.bootstrap = expect.map_or(Bootstrap::Alone, Bootstrap::Expect);
            let text = serde_json::to_string(&config).unwrap();
            let merged = merge(&Config::default(), &[source("all.json", &text)]).unwrap();
            prop_assert_eq!(merged.config, config);
        }

        #[test]
        fn any_text_is_a_configuration_or_an_error_that_names_its_file(text in "[a-z_\\[\\]{}=\"0-9.,:\n ]{0,80}") {
            for name in ["x.toml", "x.json"] {
                if let Err(error) = merge(&Config::default(), &[source(name, &text)]) {
                    prop_assert!(error.to_string().contains(name), "{}", error);
                }
            }
        }
    }

    fn merge(base: &Config, files: &[Source]) -> Result<Merged, FileError> {
        super::merge(base, files, &|text, _| text.parse().map_err(|_| format!("{text:?} does not resolve")))
    }

    /// The tables of the document: key and default, or Consul's key and ours.
    fn documented(heading: &str) -> Vec<(String, String)> {
        let text = include_str!("../../docs/configuration.md");
        let part = text.split("\n## ").find_map(|part| part.strip_prefix(heading)).expect("the heading");
        let rows = part.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.map(|row| row.split('|').map(str::trim).skip(1).collect::<Vec<_>>());
        let bare = |cell: &str| cell.split('`').nth(1).unwrap_or_default().to_owned();
        cells.map(|cells| (bare(cells[0]), cells[1].trim_matches('`').to_owned())).collect()
    }

    fn leaves(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
        match own_keys(value) {
            Some(keys) => keys.iter().for_each(|(key, value)| leaves(&format!("{path}{key}."), value, found)),
            None => found.push((path.trim_end_matches('.').to_owned(), value.clone())),
        }
    }

    #[test]
    fn every_key_is_documented_with_its_default() {
        let mut expected = Vec::new();
        leaves("", &serde_json::to_value(Config::default()).unwrap(), &mut expected);
        let documented = documented("Keys");
        for (key, default) in &expected {
            let found = documented.iter().find(|(documented, _)| documented == key);
            let (_, told) = found.unwrap_or_else(|| panic!("{key} is not in docs/configuration.md"));
            // A node is named by its host.
            if key != "node_name" {
                assert_eq!(serde_json::from_str::<Value>(told).ok().as_ref(), Some(default), "{key}");
            }
        }
        for key in PROCESS_KEYS {
            assert!(documented.iter().any(|(documented, _)| documented == key), "{key} is not documented");
        }
        assert_eq!(documented.len(), expected.len() + PROCESS_KEYS.len(), "a documented key does not exist");
        let text = include_str!("../../docs/configuration.md");
        let process = ["log_level"];
        for (key, _) in &documented {
            let row = text.lines().find(|line| line.starts_with(&format!("| `{key}` |"))).unwrap();
            let told = row.split('|').nth(3).map(str::trim) == Some("reload");
            let takes = super::super::reload::is_reloadable(key) || process.contains(&key.as_str());
            assert_eq!(told, takes, "{key}");
        }
    }

    #[test]
    fn every_name_of_consuls_is_documented() {
        let documented = documented("Consul's names");
        let known = super::super::consul::ALIASES;
        assert_eq!(documented.len(), known.len());
        for alias in known {
            let found = documented.iter().find(|(consul, _)| consul == alias.consul);
            assert!(found.is_some_and(|(_, here)| here.contains(alias.ours)), "{}", alias.consul);
        }
    }

    #[test]
    fn consuls_names_do_as_ours_do() {
        let files = [
            source("a.json", r#"{"server":true,"bootstrap_expect":3,"bind_addr":"10.0.0.1"}"#),
            source("b.toml", "retry_interval = '5s'\n[ports]\nhttp = 80"),
        ];
        let Merged { config, .. } = merge(&Config::default(), &files).unwrap();
        assert_eq!(config.bootstrap, Bootstrap::Expect(3));
        assert_eq!(config.rpc_addr.to_string(), "10.0.0.1:8300");
        assert_eq!((config.http_addr.port(), config.retry_interval_ms), (80, 5_000));
        assert!(error("c.toml", "retry_interval = 5").starts_with("c.toml: retry_interval: "));
        assert_eq!(config.dns.addr, None);
        let dns = |port: &str| {
            let files = [
                source("a.toml", "client_addr = '10.0.0.1'"),
                source("b.toml", &format!("[ports]\ndns = {port}")),
            ];
            merge(&Config::default(), &files).unwrap().config.dns.addr.map(|addr| addr.to_string())
        };
        assert_eq!((dns("8600"), dns("-1")), (Some("10.0.0.1:8600".to_owned()), None));
        let ports = error("c.toml", "[ports]\nsidecar_min_port = 53\nhttp = 80");
        assert_eq!(
            ports,
            "c.toml: unknown key `ports.sidecar_min_port`; known here: dns, grpc, grpc_tls, http, https, serf_lan, \
             serf_wan, server"
        );
        let performance = error("c.toml", "performance = { raft_multiplier = 1 }");
        assert_eq!(
            performance,
            "c.toml: unknown key `performance.raft_multiplier`; known here: rpc_hold_timeout"
        );
        assert_eq!(error("c.toml", "ports = 80"), "c.toml: ports: must be a table of keys");
        assert!(merge(&Config::default(), &[source("c.toml", "[ports]")]).is_ok());
        let ttl = error("c.toml", "[dns_config.service_ttl]\ndb = '1s'\nweb = 'soon'");
        assert!(ttl.starts_with("c.toml: dns_config.service_ttl.web: must be a duration"), "{ttl}");
        let ttl = error("c.toml", "[dns.service_ttl_ms]\ndb = 1\nweb = 'soon'");
        assert!(ttl.starts_with("c.toml: dns.service_ttl_ms.web: "), "{ttl}");
    }

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), text: text.to_owned() }
    }

    fn error(name: &str, text: &str) -> String {
        merge(&Config::default(), &[source(name, text)]).unwrap_err().to_string()
    }

    #[test]
    fn later_files_win_and_tables_are_merged() {
        let files = [
            source(
                "a.toml",
                "node_name = 'a'\ndata_dir = '/var/lib/a'\n[raft]\nheartbeat_ms = 40\n[tags]\nrack = '1'",
            ),
            source(
                "b.json",
                r#"{"node_name":"b","bootstrap":{"expect":3},"raft":{"snapshot_entries":9},"tags":{"row":"2"}}"#,
            ),
        ];
        let merged = merge(&Config::default(), &files).unwrap();
        assert_eq!(merged.config.node_name, "b");
        assert_eq!(merged.config.bootstrap, Bootstrap::Expect(3));
        assert_eq!((merged.config.raft.heartbeat_ms, merged.config.raft.snapshot_entries), (40, 9));
        assert_eq!(merged.config.tags.len(), 2);
        assert_eq!(merged.process.data_dir, Some("/var/lib/a".into()));
    }

    #[test]
    fn a_later_file_takes_back_how_a_cluster_begins_and_adds_whom_to_join() {
        let first = |text: &str| source("a.json", text);
        let later = source(
            "b.json",
            r#"{"bootstrap":false,"bootstrap_expect":0,"start_join":["10.0.0.2:1"],"retry_join":["c:1","d:1"]}"#,
        );
        let after = |text: &str| merge(&Config::default(), &[first(text), later.clone()]).unwrap().config;
        for text in [r#"{"bootstrap":true}"#, r#"{"bootstrap_expect":3}"#, r#"{"server":true}"#] {
            assert_eq!(after(text).bootstrap, Bootstrap::Wait, "{text}");
        }
        let config = after(r#"{"start_join":["10.0.0.1:1"],"retry_join":["a:1","b:1"]}"#);
        assert_eq!(
            config.join.iter().map(|addr| addr.to_string()).collect::<Vec<_>>(),
            ["10.0.0.1:1", "10.0.0.2:1"]
        );
        let places: Vec<String> = config.retry_join.iter().map(|place| place.to_string()).collect();
        assert_eq!(places, ["a:1", "b:1", "c:1", "d:1"]);
    }

    #[test]
    fn no_file_leaves_the_base() {
        let base = Config { node_name: "host".to_owned(), ..Config::default() };
        assert_eq!(
            merge(&base, &[]).unwrap(),
            Merged { config: base, process: Process::default(), said: Said::default() }
        );
    }

    #[test]
    fn services_and_checks_of_all_files_are_gathered() {
        let files = [
            source("a.toml", "[[services]]\nname = 'a'\n[check]\nname = 'c'\nttl = '1s'"),
            source("b.json", r#"{"Service":{},"service":{"Name":"b"},"services":[{"name":"c"}]}"#),
        ];
        let error = merge(&Config::default(), &files).unwrap_err().to_string();
        assert!(error.starts_with("b.json: unknown key `Service`"), "{error}");
        let files =
            [files[0].clone(), source("b.json", r#"{"service":{"Name":"b"},"services":[{"name":"c"}]}"#)];
        let Merged { config, said, .. } = merge(&Config::default(), &files).unwrap();
        let entry = |number| said.entry("services", number);
        assert_eq!(
            [0, 1, 2, 3, 4].map(entry),
            [None, Some(("a.toml", 1)), Some(("b.json", 1)), Some(("b.json", 2)), None]
        );
        assert_eq!(
            (said.entry("checks", 1), said.by("services"), said.by("serv")),
            (Some(("a.toml", 1)), Some("b.json"), None)
        );
        let names: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!((names, config.checks.len()), (vec!["a", "c", "b"], 1));
    }

    #[test]
    fn services_alone_are_told_as_they_are_written() {
        let files = [
            source(
                "a.toml",
                "server = true\nretry_join = ['nowhere.invalid']\n[[services]]\nName = 'a'\ntoken = 't'",
            ),
            source("b.json", r#"{"service":{"name":"b","Meta":{"My_Key":"V"}}}"#),
        ];
        let told = services(&files).unwrap();
        let expected =
            serde_json::json!([{ "Name": "a", "token": "t" }, { "name": "b", "Meta": { "My_Key": "V" } }]);
        assert_eq!(Value::Array(told), expected);
        assert_eq!(services(&files[..0]), Ok(Vec::new()));
        let misspelt = services(&[source("a.toml", "sevices = []")]).unwrap_err().to_string();
        assert!(misspelt.starts_with("a.toml: unknown key `sevices`"), "{misspelt}");
    }

    #[test]
    fn a_key_that_is_said_twice_is_refused_at_any_depth() {
        for (text, key) in [
            (r#"{"server":false,"server":true}"#, "server"),
            (r#"{"acl":{"enabled":true},"tags":{},"acl":{}}"#, "acl"),
            (r#"{"acl":{"tokens":{"agent":"a","agent":"b"}}}"#, "agent"),
            (r#"{"services":[{"name":"a"},{"name":"b","port":1,"port":2}]}"#, "port"),
        ] {
            let error = error("a.json", text);
            assert!(error.starts_with(&format!("a.json: duplicate key `{key}` at line 1 ")), "{error}");
        }
        assert!(error("a.toml", "server = true\nserver = false").contains("duplicate key"));
    }

    #[test]
    fn every_mistake_names_its_file_and_key() {
        let mistakes = [
            ("a.toml", "node = 'x'"),
            ("a.toml", "[raft]\nheart_beat_ms = 5"),
            ("a.toml", "[raft]\nheartbeat_ms = 'soon'"),
            ("a.toml", "http_addr = 'localhost:8500'"),
            ("a.toml", "dns.addr = '10.0.0.1'"),
            ("a.toml", "advertise = '10.0.0.1:8301'"),
            ("a.toml", "retry_join = ['http://10.0.0.1']"),
            ("a.toml", "bootstrap = 'together'"),
            ("a.toml", "bootstrap = 'expect'"),
            ("a.toml", "bootstrap = { expect = 'three' }"),
            ("a.toml", "raft = 3"),
            ("a.toml", "node_name = 'unclosed"),
            ("a.json", "{\"tags\":{\"a\":1}}"),
            ("a.json", "{\"log_json\":\"yes\"}"),
            ("a.json", "{"),
            ("a.json", "[]"),
            ("a.yaml", ""),
            ("a.toml", "[[services]]\nnaem = 'web'"),
            ("a.json", r#"{"check":{"name":"a","ttl":"soon"}}"#),
            ("a.json", r#"{"services":{},"service":{}}"#),
        ];
        let told: Vec<String> =
            mistakes.iter().map(|(name, text)| format!("{text}\n=> {}\n", error(name, text))).collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}
