//! openraft's way to its peers: its calls become [`Ask`]s on the right [`Lane`].

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

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

/// Makes connections for openraft.
#[derive(Clone)]
pub struct Network {
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
    async fn call(
        &self,
        lane: Lane,
        ask: &Ask,
        rpc: RPCTypes,
        within: Duration,
    ) -> Result<Answer, RPCError<TypeConfig>> {
        let addr = self.network.addresses.get(self.target).unwrap_or(self.peer.addr);
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
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = Arc<[u8]>;

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
            Answer::Append(answer) => Ok(answer),
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
            let data = bytes::Bytes::from_owner(snapshot.snapshot);
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
                    Answer::Snapshot(Some(done)) => return Ok(done),
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
