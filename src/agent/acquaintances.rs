//! Whom an agent knew when it last ran: the gossip addresses of the members that lived, as Serf's snapshot has them.
//!
//! Without that a lone server that comes back at another address finds nobody: its configuration names no others, and the
//! others look for it where it was. They are asked only as long as the agent sees nobody (see [`super::rejoin`]).
//!
//! Who leaves wants nothing more of the others and forgets them, unless `rejoin_after_leave` says otherwise. An agent that
//! sees nobody any more keeps them: the last that were seen are the best guess.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kept;
use super::lan::Lan;
use crate::env::{Disk, Env, replace};
use crate::gossip::Status;
use crate::mutant;

const FILE_NAME: &str = "acquaintances";
/// So many are kept: any one that is still there leads to all.
const MOST: usize = 256;
/// The least time between two writes: members come and go in crowds.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    gossip: BTreeSet<SocketAddr>,
}

/// Those that are kept. What cannot be read is as good as nothing.
pub async fn recall(env: &Env) -> Vec<SocketAddr> {
    let disk = env.disk();
    let read = env.blocking(move || read(&*disk)).await.unwrap_or_else(|error| Err(error.to_string()));
    let kept = read.unwrap_or_else(|reason| {
        tracing::warn!(
            reason,
            "cannot read the file {FILE_NAME}: only the configuration says where others are"
        );
        Kept::default()
    });
    // Mutant G23: nobody is.
    let known = if mutant::is("G23") { BTreeSet::new() } else { kept.gossip };
    known.into_iter().take(MOST).collect()
}

fn read(disk: &dyn Disk) -> Result<Kept, String> {
    let there = disk.exists(FILE_NAME).map_err(|error| error.to_string())?;
    if !there {
        return Ok(Kept::default());
    }
    let text = kept::read(disk, FILE_NAME).map_err(|error| error.to_string())?;
    kept::parsed(&text)
}

/// Keeps them as they change. Never ends before gossip does.
pub async fn remember(env: Env, lan: Lan, known: Vec<SocketAddr>) {
    let mut changes = lan.changes();
    let mut written: BTreeSet<SocketAddr> = known.into_iter().collect();
    loop {
        let live = living(&lan);
        if lan.local().status == Status::Alive && !live.is_empty() && live != written {
            let (disk, text) = (env.disk(), kept::content(&Kept { gossip: live.clone() }));
            let done = env.blocking(move || replace(&*disk, FILE_NAME, text.as_bytes())).await;
            match done.unwrap_or_else(|error| Err(io::Error::other(error.to_string()))) {
                Ok(()) => written = live,
                // The next change is another try.
                Err(error) => tracing::debug!(%error, "cannot write the file {FILE_NAME}"),
            }
            // Who comes meanwhile is seen after it; the first is kept at once, and one is enough.
            env.sleep(PAUSE).await;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn living(lan: &Lan) -> BTreeSet<SocketAddr> {
    let me = lan.local().node_id;
    let members = lan.members().into_iter();
    let live = members.filter(|member| member.node_id != me && member.status.is_live());
    live.map(|member| member.addr).take(MOST).collect()
}

/// Forgets them.
pub async fn forget(env: &Env) {
    let disk = env.disk();
    let forgotten = env.blocking(move || match disk.remove(FILE_NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| disk.sync_dir()),
    });
    if let Err(error) = forgotten.await.unwrap_or_else(|error| Err(io::Error::other(error.to_string()))) {
        tracing::warn!(%error, "cannot remove the file {FILE_NAME}: this agent will look for the others again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::env_in_memory;

    #[tokio::test]
    async fn what_is_kept_is_recalled_until_it_is_forgotten_or_damaged() {
        let env = env_in_memory(1);
        assert!(recall(&env).await.is_empty());
        let known: BTreeSet<SocketAddr> =
            ["10.0.0.1:8301", "10.0.0.2:8301"].map(|a| a.parse().unwrap()).into();
        let keep = |text: &str| replace(&*env.disk(), FILE_NAME, text.as_bytes()).unwrap();
        let text = kept::content(&Kept { gossip: known.clone() });
        keep(&text);
        assert_eq!(recall(&env).await, known.into_iter().collect::<Vec<_>>());
        keep(&text.replace("10.0.0.1", "10.0.0.9"));
        assert!(recall(&env).await.is_empty());
        keep(&text);
        forget(&env).await;
        forget(&env).await;
        assert!(recall(&env).await.is_empty());
    }
}
