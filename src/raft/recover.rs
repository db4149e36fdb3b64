//! A cluster of what one surviving disk holds, after its quorum was lost for good.
//!
//! Raft cannot go on without a majority, and must not: nobody can tell what the missing servers have. When they are
//! gone for good, an operator may decide that what a surviving disk holds is the truth from now on. [`survey`] tells
//! what it holds and changes nothing; [`recover`] makes this server the only voter of a cluster of its own.
//!
//! What makes it safe: the server gets a *new cluster id* before anything else. Servers of the old cluster that are
//! still somewhere refuse it and are refused by it, so there are never two quorums of one cluster; they have to be
//! emptied and join anew. What may be lost is what only the missing servers had. What may come back is what the
//! lost cluster never acknowledged: entries at the end of this log that may not have been committed are kept, because
//! they may have been.
//!
//! Power may fail at any step: done again, it ends the same. Between the first step and the last the server belongs to
//! a cluster in which it can have no majority.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use openraft::{EntryPayload, Membership};
use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64;

use super::state::StateMachine;
use super::{OpenError, Peer, SnapshotMeta, Store, StoreOptions, StoredMembership, log_index, log_term};
use crate::env::Env;
use crate::state::State;

/// Bytes of log read at once.
const READ_AT_ONCE: usize = 1 << 20;

/// What a server's disk holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The server's id.
    pub node_id: u64,
    /// Its cluster.
    pub cluster: Option<u64>,
    /// Term and index of the last entry of its log.
    pub last: (u64, u64),
    /// The last index that it knows to have been committed. What follows may have been, or may not.
    pub committed: u64,
    /// The servers of its last configuration: id, name, address, whether it votes.
    pub servers: Vec<(u64, String, std::net::SocketAddr, bool)>,
    /// How many keys its state has.
    pub keys: usize,
}

/// Why a disk cannot be surveyed or recovered. Unless it says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What it holds cannot be read.
    #[error("what this server holds cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It never belonged to a cluster.
    #[error("this server belongs to no cluster: there is nothing to recover")]
    Nothing,
    /// The server does not know itself.
    #[error("this server is not in its own last configuration: recover another, which voted")]
    Outsider,
    /// Writing failed half-way. Try again, with a disk that works: it ends the same.
    #[error("writing failed, and has to be done again: {0}")]
    Write(#[source] io::Error),
}

/// Everything a disk holds, replayed.
struct Replayed {
    store: Store,
    state: State,
    survey: Survey,
    last: Option<super::LogId>,
}

/// Tells what a server's disk holds. Takes the directory meanwhile and counts one more start of the server; nothing else
/// is changed.
///
/// # Errors
/// See [`RecoverError`].
pub async fn survey(env: &Env) -> Result<Survey, RecoverError> {
    Ok(replay(env).await?.survey)
}

/// Makes the server of this directory the only voter of a new cluster that holds what the directory holds. Returns the
/// new cluster's id.
///
/// # Errors
/// See [`RecoverError`].
pub async fn recover(env: &Env) -> Result<u64, RecoverError> {
    let Replayed { store, state, survey, last } = replay(env).await?;
    let me = survey.servers.iter().find(|(id, ..)| *id == survey.node_id);
    let (id, name, addr, _) = me.cloned().ok_or(RecoverError::Outsider)?;
    let mut bytes = b"recovered".to_vec();
    for part in [survey.cluster.unwrap_or(0), id, survey.last.1, env.rng("recover").random()] {
        bytes.extend_from_slice(&part.to_le_bytes());
    }
    let cluster = xxh3_64(&bytes);
    // First, so that from here on nobody of the old cluster is heard.
    store.replace_cluster(cluster).await.map_err(RecoverError::Write)?;

    let peer = Peer { name, addr, generation: store.identity().generation << 20 };
    let nodes = BTreeMap::from([(id, peer)]);
    let alone = Membership::new(vec![BTreeSet::from([id])], nodes)
        .map_err(|error| RecoverError::Read(io::Error::other(error.to_string())))?;
    let meta = SnapshotMeta { last_log_id: last, last_membership: StoredMembership::new(last, alone) };
    let encoded = env.blocking(move || Bytes::from(state.to_snapshot())).await;
    let data = encoded.map_err(|error| RecoverError::Write(io::Error::other(error)))?;
    store.save_snapshot(meta, data).await.map_err(RecoverError::Write)?;
    if let Some(last) = last {
        // What the snapshot covers would be read as the configuration that was before.
        store.purge(last).await.map_err(RecoverError::Write)?;
    }
    store.flush().await.map_err(RecoverError::Write)?;
    Ok(cluster)
}

/// The last snapshot and the whole log behind it.
async fn replay(env: &Env) -> Result<Replayed, RecoverError> {
    let disk = env.disk();
    let there = env.blocking(move || Store::is_in(&*disk)).await;
    let there = there.map_err(|error| RecoverError::Read(io::Error::other(error)))?;
    if !there.map_err(RecoverError::Read)? {
        // To open it would found it.
        return Err(RecoverError::Nothing);
    }
    let store = Store::open(env, StoreOptions::default()).await?;
    let Some(cluster) = store.cluster() else { return Err(RecoverError::Nothing) };
    let (_, shared) = StateMachine::load(env, &store, State::default()).await.map_err(RecoverError::Read)?;
    let mut state = shared.read(State::clone);
    let mut membership = store.snapshot_meta().map(|meta| meta.last_membership).unwrap_or_default();
    let mut last = store.snapshot_meta().and_then(|meta| meta.last_log_id);
    loop {
        let next = log_index(&last).map_or(0, |index| index + 1);
        let entries = store.entries(next.., READ_AT_ONCE).await.map_err(RecoverError::Read)?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            let index = entry.log_id.index();
            match &entry.payload {
                EntryPayload::Normal(request) => drop(state.apply(index, request)),
                EntryPayload::Blank => state.skip(index),
                EntryPayload::Membership(new) => {
                    state.skip(index);
                    membership = StoredMembership::new(Some(entry.log_id), new.clone());
                }
            }
            last = Some(entry.log_id);
        }
    }
    let voters: BTreeSet<u64> = membership.membership().voter_ids().collect();
    let servers = membership.membership().nodes();
    let servers = servers.map(|(id, peer)| (*id, peer.name.clone(), peer.addr, voters.contains(id)));
    let survey = Survey {
        node_id: store.identity().node_id,
        cluster: Some(cluster),
        last: (log_term(&last).unwrap_or(0), log_index(&last).unwrap_or(0)),
        committed: log_index(&store.committed()).unwrap_or(0),
        servers: servers.collect(),
        keys: state.kv().list("").count(),
    };
    Ok(Replayed { store, state, survey, last })
}
