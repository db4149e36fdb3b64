//! openraft's way to its peers: its calls become [`Ask`]s on the right [`Lane`].

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout as OpenraftTimeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use super::elections::Elections;
use super::rpc::{Answer, Ask, CallError, Lane, Pool, SnapshotChunk};
use super::{Peer, Snapshot, TypeConfig, Vote};
use crate::mutant;

/// Where servers are now, as gossip knows it. It goes before the address in the Raft configuration:
/// a server that came back elsewhere is found at once, not after a membership change.
#[derive(Clone, Debug, Default)]
pub struct AddressBook(Arc<RwLock<BTreeMap<u64, SocketAddr>>>);

impl AddressBook {
    /// Notes where a server is.
    pub fn set(&self, node_id: u64, addr: SocketAddr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(node_id, addr);
    }

    /// Where a server is, if anyone said.
    pub fn get(&self, node_id: u64) -> Option<SocketAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&node_id).copied()
    }
}

/// What each peer has acknowledged to this server as a leader: of which vote, and up to which log index.
///
/// A peer that later misses what it has acknowledged to the same leader has lost what it promised to keep: its data directory was put
/// back from an older copy, or taken from another server. openraft, for which that cannot be, would stop the leader.
#[derive(Clone, Default)]
pub(super) struct Acknowledged(Arc<Mutex<BTreeMap<u64, Known>>>);

#[derive(Clone, Copy)]
struct Known {
    vote: Vote,
    index: u64,
    has_lost: bool,
}

impl Acknowledged {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<u64, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to where a peer has the log of the leader of this vote.
    fn index(&self, peer: u64, vote: Vote) -> Option<u64> {
        self.locked().get(&peer).filter(|known| known.vote == vote).map(|known| known.index)
    }

    /// Notes that it has it up to there.
    fn note(&self, peer: u64, vote: Vote, index: u64) {
        let mut peers = self.locked();
        let known = peers.entry(peer).or_insert(Known { vote, index, has_lost: false });
        if known.vote != vote {
            *known = Known { vote, index, has_lost: false };
        }
        known.index = known.index.max(index);
    }

    /// Notes that it misses what it had. Whether that is new.
    fn has_lost(&self, peer: u64) -> bool {
        let mut peers = self.locked();
        peers.get_mut(&peer).is_some_and(|known| !std::mem::replace(&mut known.has_lost, true))
    }
}

/// Makes connections for openraft.
#[derive(Clone)]
pub struct Network {
    pub(super) acknowledged: Acknowledged,
    pub(super) elections: Elections,
    pub(super) pool: Pool,
    pub(super) addresses: AddressBook,
    pub(super) me: u64,
    pub(super) chunk_bytes: usize,
    pub(super) append_timeout: Duration,
}

/// One peer on one lane.
pub struct PeerNetwork {
    network: Network,
    target: u64,
    peer: Peer,
    lane: Lane,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> PeerNetwork {
        self.peer(target, peer, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, peer: &Peer) -> PeerNetwork {
        self.peer(target, peer, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, peer: &Peer) -> PeerNetwork {
        self.peer(target, peer, Lane::Snapshot)
    }
}

impl Network {
    fn peer(&self, target: u64, peer: &Peer, lane: Lane) -> PeerNetwork {
        PeerNetwork { network: self.clone(), target, peer: peer.clone(), lane }
    }
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn refused(what: &str) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&AnyError::error(what)))
}

impl PeerNetwork {
    /// Where the peer is, as far as is known.
    fn addr(&self) -> SocketAddr {
        self.network.addresses.get(self.target).unwrap_or(self.peer.addr)
    }

    async fn call(
        &self,
        lane: Lane,
        ask: &Ask,
        rpc: RPCTypes,
        within: Duration,
    ) -> Result<Answer, RPCError<TypeConfig>> {
        let addr = self.addr();
        match self.network.pool.call(addr, Some(self.target), lane, ask, within).await {
            Ok(Answer::WrongCluster { cluster }) => {
                let text = format!("server at {addr} belongs to cluster {cluster:016x}");
                Err(unreachable(&AnyError::error(text)))
            }
            Ok(Answer::WrongServer { node_id }) => {
                let text = format!("server {node_id:016x} is at {addr} now");
                Err(unreachable(&AnyError::error(text)))
            }
            Ok(Answer::Failed(reason)) => Err(refused(&reason)),
            Ok(answer) => Ok(answer),
            // Only a peer that cannot be reached is left alone for a while; one that is slow is not.
            Err(error @ CallError::NotSent { .. }) => Err(unreachable(&error)),
            Err(CallError::NoAnswer { .. }) => Err(RPCError::Timeout(OpenraftTimeout {
                action: rpc,
                id: self.network.me,
                target: self.target,
                timeout: within,
            })),
        }
    }

    /// The error of a peer that misses what it has acknowledged up to `index`.
    fn has_lost(&self, index: u64) -> RPCError<TypeConfig> {
        let name = &self.peer.name;
        if self.network.acknowledged.has_lost(self.target) {
            let addr = self.addr();
            tracing::error!(
                peer = name,
                %addr,
                index,
                "a server misses entries of the log that it has acknowledged: its data directory is an older copy, or another \
                 server's; it gets nothing from this leader. If {name} does not run at {addr}, a copy of its directory does: \
                 stop that copy, and leave {name} alone. If it does, stop it, empty its data_dir and let it join anew"
            );
        }
        unreachable(&AnyError::error(format!(
            "server {name} has lost what it acknowledged up to log index {index}"
        )))
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // Mutant R11: an entry of an earlier term counts as committed once this follower has it.
        if mutant::is("R11")
            && rpc.prev_log_id.map_or(0, |id| id.committed_leader_id().term) < rpc.vote.leader_id.term
        {
            rpc.leader_commit = rpc.leader_commit.max(rpc.prev_log_id);
        }
        let carries = !rpc.entries.is_empty();
        let vote = rpc.vote;
        let before = rpc.prev_log_id.map(|id| id.index);
        let last = rpc.entries.last().map(|entry| entry.log_id.index).or(before);
        // As it is now: an answer that comes late must not be held against what was acknowledged since.
        let acknowledged = self.network.acknowledged.index(self.target, vote);
        // openraft's limit is one heartbeat interval, meant for the pause between answers of a stream;
        // a disk that needs longer than that to sync is slow, not dead.
        let within = match self.lane {
            Lane::Append => self.network.append_timeout.max(option.soft_ttl()),
            _ => option.soft_ttl(),
        };
        let answer = self.call(self.lane, &Ask::Append(rpc), RPCTypes::AppendEntries, within).await;
        // Mutant R09: whoever does not answer is counted among those who have the entries.
        if mutant::is("R09")
            && carries
            && matches!(answer, Err(RPCError::Timeout(_) | RPCError::Unreachable(_)))
        {
            return Ok(AppendEntriesResponse::Success);
        }
        match answer? {
            // Mutant R10: in place of the conflict comes, late, the answer to an earlier request.
            Answer::Append(AppendEntriesResponse::Conflict) if mutant::is("R10") => {
                Ok(AppendEntriesResponse::Success)
            }
            Answer::Append(AppendEntriesResponse::Conflict) if before.is_some() && before <= acknowledged => {
                Err(self.has_lost(acknowledged.unwrap_or_default()))
            }
            Answer::Append(answer) => {
                let index = match &answer {
                    AppendEntriesResponse::Success => last,
                    AppendEntriesResponse::PartialSuccess(matching) => matching.map(|id| id.index),
                    _ => None,
                };
                if let Some(index) = index {
                    self.network.acknowledged.note(self.target, vote, index);
                }
                Ok(answer)
            }
            _ => Err(refused("the answer does not fit the request")),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let asked = rpc.clone();
        match self.call(Lane::Control, &Ask::Vote(rpc), RPCTypes::Vote, option.soft_ttl()).await? {
            Answer::Vote(answer) => {
                self.network.elections.note(self.target, &asked, &answer);
                Ok(answer)
            }
            _ => Err(refused("the answer does not fit the request")),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let asked = rpc.clone();
        match self.call(Lane::Control, &Ask::PreVote(rpc), RPCTypes::Vote, option.soft_ttl()).await? {
            Answer::Vote(answer) => {
                self.network.elections.note(self.target, &asked, &answer);
                Ok(answer)
            }
            _ => Err(refused("the answer does not fit the request")),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let env = self.network.pool.env().clone();
        env.reachable("a snapshot is sent to a follower that is too far behind");
        let sending = async {
            let data = snapshot.snapshot;
            let mut offset = 0;
            loop {
                let end = data.len().min(offset + self.network.chunk_bytes);
                let last = end == data.len();
                env.sometimes(!last, "a snapshot is sent in pieces");
                let chunk = SnapshotChunk {
                    vote,
                    meta: snapshot.meta.clone(),
                    offset: offset as u64,
                    last,
                    data: data.slice(offset..end),
                };
                let ask = Ask::Snapshot(chunk);
                let answer = self.call(Lane::Snapshot, &ask, RPCTypes::InstallSnapshot, option.soft_ttl());
                match answer.await? {
                    Answer::Snapshot(Some(done)) => {
                        // One that knows of a newer leader does not take it.
                        if let Some(last) = snapshot.meta.last_log_id.filter(|_| done.vote == vote) {
                            self.network.acknowledged.note(self.target, vote, last.index);
                        }
                        return Ok(done);
                    }
                    Answer::Snapshot(None) if !last => offset = end,
                    _ => return Err(refused("the answer does not fit the request").into()),
                }
            }
        };
        match select(pin!(sending), pin!(cancel)).await {
            Either::Left((result, _)) => result,
            Either::Right((closed, _)) => {
                env.reachable("the sending of a snapshot is called off");
                Err(StreamingError::Closed(closed))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let ask = Ask::TransferLeader(request);
        match self.call(Lane::Control, &ask, RPCTypes::TransferLeader, option.soft_ttl()).await? {
            Answer::TransferLeader(answer) => Ok(answer),
            _ => Err(refused("the answer does not fit the request")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_counts_for_the_leader_that_it_was_told() {
        let (first, second) = (Vote::new(1, 7), Vote::new(2, 7));
        let peers = Acknowledged::default();
        assert_eq!(peers.index(5, first), None);
        peers.note(5, first, 9);
        peers.note(5, first, 4);
        assert_eq!((peers.index(5, first), peers.index(6, first)), (Some(9), None));
        assert!(peers.has_lost(5) && !peers.has_lost(5), "it is said once");
        // The next leader's log may be shorter.
        assert_eq!(peers.index(5, second), None);
        peers.note(5, second, 3);
        assert_eq!((peers.index(5, first), peers.index(5, second)), (None, Some(3)));
        assert!(peers.has_lost(5));
    }
}
