//! `driftline recover`: a cluster of what the furthest of the surviving disks holds, after a quorum was lost for good.
//!
//! Without `--yes` it tells what it would do, and does nothing. A directory that cannot be used does not keep it from telling of
//! the others; to go on without that one is for the operator to say, by not naming it.

use std::path::{Path, PathBuf};

use clap::Args;
use driftline::env::{Env, real};
use driftline::raft::recover::{Survey, recover, survey};

use super::Problem;

#[derive(Args, Debug)]
pub struct Recover {
    /// The data directories of the surviving servers, all stopped
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Tell what would be done, and do nothing: this is so without --yes
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub fn run(args: &Recover) -> Result<Vec<u8>, Problem> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let (mut found, mut unusable): (Vec<(&Path, Survey)>, Vec<String>) = Default::default();
        let mut text = String::new();
        for dir in &args.dirs {
            match look(dir).await {
                Ok(survey) => {
                    text += &told(dir, &survey);
                    found.push((dir, survey));
                }
                Err(reason) => {
                    text += &format!("{}\n  cannot be used: {reason}\n", dir.display());
                    unusable.push(dir.display().to_string());
                }
            }
        }
        if found.is_empty() {
            return Err(Problem::failed(format!("{text}None of it can be recovered")));
        }
        let without = format!("without {}", unusable.join(" "));
        if args.yes && !unusable.is_empty() {
            return Err(Problem::failed(format!(
                "{text}Nothing was changed. What only an unusable directory holds would be lost: to go on all the same, run it {without}"
            )));
        }
        let clusters: Vec<_> = found.iter().map(|(_, survey)| survey.cluster).collect();
        if clusters.iter().any(|cluster| *cluster != clusters[0]) {
            return Err(Problem::failed(format!("{text}These directories are of different clusters")));
        }
        // Of equal ones the first.
        let best = found.iter().rev().max_by_key(|(_, survey)| survey.last);
        let Some((dir, best)) = best else { return Err(Problem::usage("recover needs a directory")) };
        text += &format!("\nFurthest along: {}\n", dir.display());
        if best.last.1 > best.committed {
            text += &format!(
                "Entries {} to {} may never have been committed. They are kept, because they may have been.\n",
                best.committed + 1,
                best.last.1
            );
        }
        let others = best.servers.iter().filter(|(id, ..)| *id != best.node_id);
        let others: Vec<String> =
            others.map(|(_, name, addr, _)| format!("{name} ({addr})")).collect();
        let after = format!(
            "a cluster of its own, of one voter, under a new id. What only the others had is lost.\n\
             They are refused from then on and have to be emptied before they join: {}\n",
            if others.is_empty() { "none".to_owned() } else { others.join(", ") }
        );
        if !args.yes {
            let without = if unusable.is_empty() { String::new() } else { format!(", {without}") };
            text += &format!(
                "It would become {after}Nothing was changed. To do it: the same again with --yes{without}\n"
            );
            return Ok(text.into_bytes());
        }
        let failed = |reason: String| Problem::failed(format!("{}: {reason}", dir.display()));
        let env = open(dir).map_err(failed)?;
        let cluster = env.scope(recover(&env)).await.map_err(|error| failed(error.to_string()))?;
        text += &format!(
            "It is now {after}New cluster: {cluster:016x}. Start this server as always, with its configuration (for example \
             `systemctl start driftline`); then empty the data directories of the others, and start them\n"
        );
        Ok(text.into_bytes())
    })
}

fn open(dir: &Path) -> Result<Env, String> {
    if !dir.is_dir() {
        return Err("it is not a directory".to_owned());
    }
    real::env(dir).map_err(|error| error.to_string())
}

async fn look(dir: &Path) -> Result<Survey, String> {
    let env = open(dir)?;
    env.scope(survey(&env)).await.map_err(|error| error.to_string())
}

fn told(dir: &Path, survey: &Survey) -> String {
    let Survey { node_id, cluster, last: (term, index), committed, servers, keys } = survey;
    let mut text = format!("{}\n  server {node_id:016x}", dir.display());
    if let Some(cluster) = cluster {
        text += &format!(" of cluster {cluster:016x}");
    }
    text += &format!(
        "\n  log up to index {index} of term {term}, known to be committed up to {committed}; {keys} keys\n"
    );
    for (id, name, addr, votes) in servers {
        let this = if id == node_id { ", this server" } else { "" };
        let votes = if *votes { "voter" } else { "learner" };
        text += &format!("  {votes} {name} at {addr}{this}\n");
    }
    text
}
