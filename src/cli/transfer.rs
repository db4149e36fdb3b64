//! `driftline kv export` and `kv import`: entries as one JSON text, in the form of Consul's commands of these names.
//!
//! What an entry is goes along, its value and its flags; what it went through stays behind: indexes and locks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::Args;
use driftline::env::Env;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ask::{
    LEFT_OUT, TIMEOUT, ask, ask_within, content, is_filtered, items, lines, parse, path, query, rooted, text,
};
use super::{Api, Problem, hand_over};

#[derive(Args, Debug)]
pub struct Export {
    /// The prefix; without it all keys
    #[arg(default_value = "")]
    prefix: String,
    /// Let any server answer from what it has, which may be old
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Import {
    /// What `kv export` printed; `-` reads standard input, `@FILE` a file
    #[arg(value_name = "JSON|-|@FILE")]
    entries: String,
    /// Put this before every key
    #[arg(long, default_value = "")]
    prefix: String,
    #[command(flatten)]
    api: Api,
}

/// An entry in the text.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    key: String,
    #[serde(default)]
    flags: u64,
    /// In base64. An entry without one is refused: it would empty a key that has a value.
    value: String,
}

/// Prints the entries under a prefix.
pub async fn export(env: &Env, args: Export) -> Result<Vec<u8>, Problem> {
    let stale = args.stale.then(String::new);
    let query = query([("recurse", Some(String::new())), ("stale", stale)]);
    let path = format!("/v1/kv/{}{query}", path(rooted(&args.prefix)));
    let response = ask_within(env, &args.api, Method::GET, &path, Bytes::new(), true, TIMEOUT).await?;
    if is_filtered(&response) {
        // Whoever restores it would take what is missing for deleted.
        return Err(Problem::failed(format!("{LEFT_OUT}; nothing is exported, as a backup must be whole")));
    }
    // No keys are an empty list, not a failure.
    let found = if response.status == 404 { Value::Array(Vec::new()) } else { parse(&response)? };
    let entries = items(&found).iter().map(|entry| Entry {
        key: text(entry, "Key").to_owned(),
        flags: entry["Flags"].as_u64().unwrap_or_default(),
        value: text(entry, "Value").to_owned(),
    });
    let mut out = serde_json::to_vec_pretty(&entries.collect::<Vec<_>>())
        .map_err(|error| Problem::failed(format!("the entries have no text: {error}")))?;
    out.push(b'\n');
    hand_over(&out)?;
    Ok(Vec::new())
}

/// The entries of a text, each with its value as it is.
fn read(text: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Problem> {
    let entries: Vec<Entry> = serde_json::from_slice(text)
        .map_err(|error| Problem::failed(format!("this is not what kv export prints: {error}")))?;
    let decoded = entries.into_iter().map(|entry| {
        let value = BASE64.decode(&entry.value).map_err(|error| {
            Problem::failed(format!("the value of key {:?} is not base64: {error}", entry.key))
        })?;
        Ok((entry, value))
    });
    decoded.collect()
}

/// Writes entries. All are read before the first is written; which were written before one failed is told.
pub async fn import(env: &Env, args: Import) -> Result<Vec<u8>, Problem> {
    let mut done = Vec::new();
    for (Entry { key, flags, .. }, value) in read(&content(args.entries)?)? {
        let key = format!("{}{key}", args.prefix);
        let flags = query([("flags", Some(flags.to_string()))]);
        let path = format!("/v1/kv/{}{flags}", path(&key));
        if let Err(problem) = ask(env, &args.api, Method::PUT, &path, value, false).await {
            let before: String = done.iter().map(|line| format!("\n{line}")).collect();
            return Err(Problem { text: format!("key {key:?}: {}{before}", problem.text), ..problem });
        }
        done.push(format!("Imported: {key}"));
    }
    Ok(lines(done.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_consul_exports_is_read() {
        let text = br#"[{"key":"a","flags":7,"value":"aGk="},{"key":"b","flags":0,"value":"","namespace":"default"}]"#;
        let read = read(text).unwrap();
        let values: Vec<(&str, u64, &[u8])> =
            read.iter().map(|(entry, value)| (entry.key.as_str(), entry.flags, &value[..])).collect();
        assert_eq!(values, [("a", 7, &b"hi"[..]), ("b", 0, &b""[..])]);
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said() {
        let said = |text: &str| read(text.as_bytes()).unwrap_err().text;
        for none in [r#"[{"key":"a"}]"#, r#"[{"key":"a","value":null}]"#] {
            assert!(said(none).starts_with("this is not what kv export prints: "), "{none}");
        }
        assert!(said("{}").starts_with("this is not what kv export prints: "));
        assert!(said(r#"[{"key":"a","value":"?"}]"#).starts_with("the value of key \"a\" is not base64: "));
    }
}
