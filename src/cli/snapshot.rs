//! `driftline snapshot`: the whole state into a file, back from one, and what a file holds.
//!
//! A file is checked before it is called saved, and again before it is sent to be restored.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use driftline::agent::archive::{self, Contents};
use driftline::env::Env;
use driftline::http::client;
use hyper::Method;
use serde_json::json;

use super::ask::{TIMEOUT, ask_within, content, lines, pretty, query, row, table, unanswered};
use super::{Api, Format, Problem, complain, hand_over};

/// How long the agent may take: a state may be large, and disks slow.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// What stands for standard input and output.
const STANDARD: &str = "-";
/// Bytes of a state that is looked into.
const MOST: u64 = 1 << 30;

#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Saves the whole state into a file
    Save(Save),
    /// Makes the state of the whole cluster what a file says; all sessions end
    Restore(Restore),
    /// Checks a file and says what it holds
    Inspect(Inspect),
}

#[derive(Args, Debug)]
pub struct Save {
    /// The file to write; one that is there is replaced. `-` is standard output
    file: PathBuf,
    /// Take it from the agent's own server as it is there, which may be old; works without a leader
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Restore {
    /// The file; `-` reads standard input
    file: PathBuf,
    #[command(flatten)]
    api: Api,
}

#[derive(Args, Debug)]
pub struct Inspect {
    /// The file; `-` reads standard input
    file: PathBuf,
    #[command(flatten)]
    format: Format,
}

/// Does what the command asks.
pub async fn run(env: &Env, command: Snapshot) -> Result<Vec<u8>, Problem> {
    match command {
        Snapshot::Save(args) => save(env, args).await,
        Snapshot::Restore(args) => restore(env, args).await,
        Snapshot::Inspect(args) => inspect(&args),
    }
}

fn check(file: &[u8], name: &Path) -> Result<Contents, Problem> {
    archive::unpack(file, MOST).map_err(|error| Problem::failed(format!("{}: {error}", name.display())))
}

fn read(name: &Path) -> Result<Vec<u8>, Problem> {
    if name == Path::new(STANDARD) {
        return content(STANDARD.to_owned());
    }
    std::fs::read(name).map_err(|error| Problem::failed(format!("cannot read {}: {error}", name.display())))
}

async fn save(env: &Env, args: Save) -> Result<Vec<u8>, Problem> {
    let path = format!("/v1/snapshot{}", query([("stale", args.stale.then(String::new))]));
    must_answer(env, &args.api).await?;
    let response = ask_within(env, &args.api, Method::GET, &path, Bytes::new(), false, PATIENCE).await?;
    let contents = check(&response.body, &args.file)?;
    let saved = format!("Saved and verified snapshot to index {}", contents.meta.index);
    if args.file == Path::new(STANDARD) {
        hand_over(&response.body)?;
        complain(&saved);
        return Ok(Vec::new());
    }
    let failed =
        |error: std::io::Error| Problem::failed(format!("cannot write {}: {error}", args.file.display()));
    // Beside it first: an interrupted save must not cost the file that was there.
    let mut beside = args.file.clone().into_os_string();
    beside.push(".partial");
    let write = || {
        // It holds every secret of the cluster.
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&response.body)?;
        file.sync_all()?;
        std::fs::rename(&beside, &args.file)
    };
    write().map_err(|error| {
        // What is not whole is of no use, and takes the room that there is too little of.
        let _ = std::fs::remove_file(&beside);
        failed(error)
    })?;
    Ok(lines([saved.as_str()]))
}

/// Asks the agent something small. A large state may take its time, and until it is packed nothing comes of it: an agent that
/// hangs would be waited for as long.
async fn must_answer(env: &Env, api: &Api) -> Result<(), Problem> {
    let (env, addr) = api.reach(env)?;
    let (token, path) = (api.token.secret()?, "/v1/status/leader");
    // Whatever it answers: what is wrong is better told by what was asked for.
    let answer = client::call_as(&env, addr, &token, Method::GET, path, Bytes::new(), TIMEOUT).await;
    answer.map(drop).map_err(|error| Problem::failed(unanswered(addr, &error)))
}

async fn restore(env: &Env, args: Restore) -> Result<Vec<u8>, Problem> {
    let file = read(&args.file)?;
    let contents = check(&file, &args.file)?;
    ask_within(env, &args.api, Method::PUT, "/v1/snapshot", file, false, PATIENCE).await?;
    let index = contents.meta.index;
    Ok(lines([format!("Restored the snapshot of index {index}. All sessions have ended.").as_str()]))
}

fn inspect(args: &Inspect) -> Result<Vec<u8>, Problem> {
    let Contents { meta, summary, .. } = check(&read(&args.file)?, &args.file)?;
    if args.format.is_json() {
        let sections = summary.sections.iter().map(|(name, bytes)| json!({ "Name": name, "Size": bytes }));
        return Ok(pretty(&json!({
            "Meta": meta,
            "StateVersion": summary.version,
            "Sections": sections.collect::<Vec<_>>(),
        })));
    }
    let mut rows = vec![
        row(["ID", &meta.id]),
        row(["Size", &meta.size.to_string()]),
        row(["Index", &meta.index.to_string()]),
        row(["Version", &meta.version.to_string()]),
        row(["State version", &summary.version.to_string()]),
    ];
    rows.extend(
        summary.sections.iter().map(|(name, bytes)| row([&format!("Section {name}"), &bytes.to_string()])),
    );
    Ok(table(&rows))
}
