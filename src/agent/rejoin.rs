//! How an agent finds the others, and finds them again.
//!
//! As long as it sees nobody, it asks at the places it was told (`retry_join`; names are looked up anew at every try), and those of whom it knew when it last ran (see
//! [`super::acquaintances`]). A server also asks the servers
//! that its Raft configuration remembers for gossip's way in, whether or not it sees others: without that, two
//! halves of a cluster that started anew at other gossip ports would stay apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::config::{Config, Place};
use crate::env::Env;

use super::lan::Lan;
use super::process::Process;

/// The first pause between two tries to find the others; it doubles up to the configured interval.
const FIRST: Duration = Duration::from_secs(1);
/// So many of those that were known are asked in one try, the next ones in the next.
const ASKED: usize = 8;

/// How long names are looked up in one try.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(10);

/// What is found.
pub struct Found {
    /// Becomes true when somebody is.
    pub joined: watch::Sender<bool>,
    /// Where others were when this agent last ran.
    pub known: Vec<SocketAddr>,
}

/// Looks for the others as long as this runs. `lost` tells whether somebody is missed, and at which
/// addresses others may be joined then. Ends only when it has tried as often as it may, with the reason.
pub async fn rejoin(
    env: Env,
    config: watch::Receiver<Arc<Config>>,
    lan: Lan,
    process: Option<Arc<dyn Process>>,
    lost: impl Fn() -> BoxFuture<'static, Option<Vec<SocketAddr>>> + Send,
    Found { joined, known }: Found,
) -> String {
    let mut next = 0;
    let mut pause = FIRST;
    let mut tries = 0;
    let mut last_reason = None;
    loop {
        let config = config.borrow().clone();
        let mine = [lan.local().addr, config.gossip_addr];
        let longest = Duration::from_millis(config.retry_interval_ms.max(1));
        pause = pause.min(longest);
        let alone = lan.live_others().is_empty();
        if !alone {
            joined.send_replace(true);
        }
        let told = if alone { config.retry_join.as_slice() } else { &[] };
        let (mut addrs, unknown) = looked_up(&env, process.as_ref(), told).await;
        // One list of addresses may serve all nodes, and then names this one too.
        addrs.retain(|addr| !mine.contains(addr));
        let told = addrs.len() + unknown.len();
        if alone {
            let turn = known.iter().cycle().skip(next).take(known.len().min(ASKED));
            let fresh: Vec<_> = turn.filter(|addr| !mine.contains(addr) && !addrs.contains(addr)).collect();
            addrs.extend(fresh);
            next = (next + ASKED).checked_rem(known.len()).unwrap_or(0);
        }
        let lost = lost().await;
        if addrs.is_empty() && unknown.is_empty() && lost.is_none() {
            tries = 0;
            last_reason = None;
            pause = FIRST;
            env.sleep(longest).await;
            continue;
        }
        addrs.extend(lost.into_iter().flatten());
        let before = lan.live_others();
        let joining = match &unknown[..] {
            _ if !addrs.is_empty() => lan.join(&addrs).await,
            [] => Ok(0),
            unknown => Err(unknown.join("; ")),
        };
        match joining {
            Ok(count) if lan.live_others() != before => tracing::info!(count, "joined"),
            Ok(count) => tracing::debug!(count, "joined, and nobody new is there"),
            Err(reason) => {
                tries += 1;
                if config.retry_max != 0 && tries >= config.retry_max && alone && told > 0 {
                    return format!("gave up joining after {tries} tries: {reason}");
                }
                // The same again at every try would only fill the log.
                if last_reason.as_ref() == Some(&reason) {
                    tracing::debug!(reason, "cannot join yet");
                } else {
                    tracing::warn!(reason, "cannot join yet");
                }
                last_reason = Some(reason);
            }
        }
        env.sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// The addresses of places, and why some have none now.
async fn looked_up(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    places: &[Place],
) -> (Vec<SocketAddr>, Vec<String>) {
    let looking = places.iter().map(|place| async {
        match (place.address(), process) {
            (Some(addr), _) => Ok(vec![addr]),
            (None, Some(process)) => {
                let looking = process.resolve(place.host(), place.port());
                let late = |_| Err(format!("cannot look up {:?}: no answer", place.host()));
                env.timeout(LOOK_UP_WITHIN, looking).await.unwrap_or_else(late)
            }
            (None, None) => Err(format!("cannot look up {:?} here: use an IP address", place.host())),
        }
    });
    let mut found = (Vec::new(), Vec::new());
    for looked in futures_util::future::join_all(looking).await {
        match looked {
            Ok(addrs) => found.0.extend(addrs),
            Err(reason) => found.1.push(reason),
        }
    }
    found
}
