//! `driftline keyring` and `driftline keygen`: the keys that gossip is encrypted with.
//!
//! A key is not taken on the command line, where every user of the machine could read it: `-` reads it from standard input,
//! `@FILE` from a file that is its owner's only.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::{Args, Subcommand};
use driftline::env::Env;
use driftline::secret::Secret;
use hyper::Method;
use rand::TryRng;
use serde_json::{Value, json};

use super::ask::{ask, content, items, lines, parse, pretty, query, row, table};
use super::{Api, Format, Problem, secrets};

#[derive(Debug, Subcommand)]
pub enum Keyring {
    /// Shows how many members have which key, and how many encrypt with it
    List(List),
    /// Gives all members a key, to understand what is encrypted with it
    Install(Change),
    /// Makes all members encrypt with a key that they have
    Use(Change),
    /// Takes a key, with which nobody encrypts any more, from all members
    Remove(Change),
}

#[derive(Args, Debug)]
pub struct List {
    /// Only this agent's own keys
    #[arg(long)]
    local_only: bool,
    /// Accepted for Consul's sake: members are asked directly
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=5))]
    relay_factor: Option<u8>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Change {
    /// Where the key is, in base64: `-` reads standard input, `@FILE` a file that only its owner may read
    #[arg(value_name = "-|@FILE")]
    key: String,
    /// Accepted for Consul's sake: members are asked directly
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=5))]
    relay_factor: Option<u8>,
    #[command(flatten)]
    api: Api,
}

/// Looks at keys and changes them.
pub async fn keyring(env: &Env, command: Keyring) -> Result<Vec<u8>, Problem> {
    let (method, done, args) = match command {
        Keyring::List(args) => return list(env, args).await,
        Keyring::Install(args) => (Method::POST, "All members have the key.", args),
        Keyring::Use(args) => (Method::PUT, "All members encrypt with the key.", args),
        Keyring::Remove(args) => (Method::DELETE, "No member has the key any more.", args),
    };
    let key = read_key(args.key)?;
    let query = query([("relay-factor", args.relay_factor.map(|relays| relays.to_string()))]);
    let body = json!({ "Key": key.expose() }).to_string();
    ask(env, &args.api, method, &format!("/v1/operator/keyring{query}"), body, false).await?;
    Ok(lines([done]))
}

fn read_key(argument: String) -> Result<Secret, Problem> {
    match argument.strip_prefix('@') {
        Some(file) => secrets::read(Path::new(file), "key"),
        None if argument == "-" => {
            let key = String::from_utf8(content(argument)?);
            let key = key.map_err(|_| Problem::usage("the key is not text"))?;
            secrets::sound(Secret::new(key.trim()), "standard input", "key")
        }
        None => Err(Problem::usage(
            "on the command line every user of this machine can read a key: give it as - (standard input) or @FILE",
        )),
    }
}

async fn list(env: &Env, args: List) -> Result<Vec<u8>, Problem> {
    let query = query([
        ("local-only", args.local_only.then(|| "true".to_owned())),
        ("relay-factor", args.relay_factor.map(|relays| relays.to_string())),
    ]);
    let path = format!("/v1/operator/keyring{query}");
    let response = ask(env, &args.api, Method::GET, &path, Bytes::new(), false).await?;
    let rings = parse(&response)?;
    if args.format.is_json() {
        return Ok(pretty(&rings));
    }
    let mut rows = vec![row(["Key", "Has it", "Encrypts with it", "Members"])];
    let mut messages = Vec::new();
    for ring in items(&rings) {
        let members = ring["NumNodes"].to_string();
        for (key, count) in ring["Keys"].as_object().into_iter().flatten() {
            let primary = ring["PrimaryKeys"].get(key).unwrap_or(&Value::from(0)).to_string();
            rows.push(row([key, &count.to_string(), &primary, &members]));
        }
        for (name, message) in ring["Messages"].as_object().into_iter().flatten() {
            messages.push(format!("{name}: {}", message.as_str().unwrap_or_default()));
        }
    }
    let mut output = table(&rows);
    output.extend(lines(messages.iter().map(String::as_str)));
    Ok(output)
}

/// A new key, from the operating system's randomness.
pub fn keygen() -> Result<Vec<u8>, Problem> {
    let mut key = [0; 32];
    rand::rngs::SysRng
        .try_fill_bytes(&mut key)
        .map_err(|error| Problem::failed(format!("the system gives no randomness: {error}")))?;
    Ok(lines([BASE64.encode(key).as_str()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftline::gossip::keyring::Key;

    #[test]
    fn a_key_on_the_command_line_is_refused_without_repeating_it() {
        let refused = read_key("c2VjcmV0".to_owned()).unwrap_err();
        assert!(refused.code == 2 && !refused.text.contains("c2VjcmV0"), "{}", refused.text);
    }

    #[test]
    fn a_new_key_is_one_that_is_taken() {
        let text = String::from_utf8(keygen().unwrap()).unwrap();
        assert_eq!(Key::parse(&text).unwrap().text(), text.trim());
        assert_ne!(text.into_bytes(), keygen().unwrap());
    }
}
