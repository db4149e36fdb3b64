//! How any server gets a command applied, or a read made current, whoever leads.
//!
//! A write is sent to the leader again and again, under one and the same id, until its fate is known
//! or the time is over; the state machine applies it once. If the time is over and any attempt may
//! have got through, the answer is *unknown*, never *failed*.
//!
//! Reads that wait at the same time share one read-index round (Raft dissertation, section 6.4).

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{mpsc, oneshot};

use super::requests::Requests;
use super::rpc::{Answer, Ask, CallError, LeaderError};
use super::{RaftNode, ServerInfo};
use crate::env::{AbortOnDrop, Env, Instant, hazard};
use crate::mutant;
use crate::state::{Command, Outcome, Request};

/// Pause between two attempts when nothing else wakes us.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// The least pause between two attempts, even if there is news at once.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
/// One attempt at most; then the leader is asked for anew.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Reads waiting for a round. When it is full, readers wait to be let in.
const READERS: usize = 4096;

/// Why a write has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It was not applied and will not be.
    #[error("{0}")]
    Refused(String),
    /// It may have been applied, or may yet be.
    #[error("{0}; the outcome of the write is unknown")]
    Unknown(String),
}

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(pub String);

/// What is said when nobody leads; Consul's words.
pub const NO_LEADER: &str = "No cluster leader";

/// Gets things done by the leader. Clones are the same client.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    node: RaftNode,
    requests: Requests,
    timeout: Duration,
    readers: mpsc::Sender<oneshot::Sender<Result<u64, ReadError>>>,
    _reading: AbortOnDrop,
}

impl Client {
    /// A client of the server it runs on.
    pub fn new(env: &Env, node: RaftNode, timeout: Duration) -> Client {
        let (readers, queue) = mpsc::channel(READERS);
        let reading = env.spawn(read_in_rounds(env.clone(), node.clone(), timeout, queue)).abort_on_drop();
        Client {
            inner: Arc::new(Inner {
                env: env.clone(),
                // Mutant R54: a server's requests are numbered from the beginning again after a restart.
                requests: if mutant::is("R54") {
                    Requests::of(node.me().node_id)
                } else {
                    Requests::new(env)
                },
                node,
                timeout,
                readers,
                _reading: reading,
            }),
        }
    }

    /// Gets a command applied.
    ///
    /// # Errors
    /// [`WriteError`] tells whether it may have been applied all the same.
    pub async fn write(&self, command: Command) -> Result<Outcome, WriteError> {
        let mut turn = self.inner.requests.turn();
        let mut tries = 0;
        let next = || {
            // Mutant R32: every attempt gets a new id, so that a retry can apply twice.
            if tries > 0 && mutant::is("R32") {
                turn = self.inner.requests.turn();
            }
            tries += 1;
            let (id, done_below) = turn.id();
            Request { id, done_below, command: command.clone() }
        };
        self.deliver(self.inner.timeout, next).await
    }

    /// Gets another origin's request applied, `within` at most. Whoever sent it may send it again, through this
    /// server or another.
    ///
    /// # Errors
    /// [`WriteError`] tells whether it may have been applied all the same.
    pub async fn write_for(&self, request: &Request, within: Duration) -> Result<Outcome, WriteError> {
        self.deliver(within, || request.clone()).await
    }

    async fn deliver(
        &self,
        within: Duration,
        mut next: impl FnMut() -> Request,
    ) -> Result<Outcome, WriteError> {
        let deadline = self.inner.env.now() + within;
        // Whether an attempt got out whose fate we do not know.
        let mut in_doubt: Option<String> = None;
        let mut last_refusal = NO_LEADER.to_owned();
        loop {
            let again = in_doubt.is_some();
            self.inner.env.sometimes(again, "a write is sent again while its first fate is unknown");
            match self.attempt(Ask::Propose(next()), deadline).await {
                Ok(Answer::Propose(Ok(outcome))) => {
                    self.inner.env.sometimes(again, "a write succeeds after its first fate was unknown");
                    return Ok(outcome);
                }
                Ok(Answer::Propose(Err(LeaderError::NotLeader { .. }))) => {}
                Ok(Answer::Propose(Err(LeaderError::Refused(reason)))) => last_refusal = reason,
                Ok(Answer::Propose(Err(LeaderError::Unknown(reason)))) => in_doubt = Some(reason),
                Ok(Answer::WrongCluster { cluster }) => {
                    last_refusal = format!("the leader belongs to cluster {cluster:016x}");
                }
                Ok(Answer::WrongServer { .. }) => {
                    last_refusal = "the leader is gone from its address".to_owned()
                }
                Ok(Answer::Failed(reason)) => in_doubt = Some(reason),
                Ok(_) => in_doubt = Some("the leader's answer does not fit".to_owned()),
                Err(Attempt::NoLeader) => {}
                Err(Attempt::Call(error @ CallError::NotSent { .. })) => {
                    last_refusal = format!("{NO_LEADER}: {error}");
                }
                Err(Attempt::Call(error @ CallError::NoAnswer { .. })) => in_doubt = Some(error.to_string()),
            }
            if !self.pause(deadline).await {
                let env = &self.inner.env;
                env.sometimes(in_doubt.is_some(), "the outcome of a write is reported as unknown");
                env.sometimes(in_doubt.is_none(), "a write is refused and certainly was not done");
                return Err(match in_doubt {
                    // Mutant R34: what is unknown is called failed.
                    Some(reason) if mutant::is("R34") => WriteError::Refused(reason),
                    Some(reason) => WriteError::Unknown(reason),
                    None => WriteError::Refused(last_refusal),
                });
            }
        }
    }

    /// Waits until the local state holds every write that was finished before this call.
    ///
    /// # Errors
    /// [`ReadError`] when no leader confirmed it in time.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        self.read_barrier_within(self.inner.timeout).await
    }

    /// The same, `within` at most.
    ///
    /// # Errors
    /// [`ReadError`] when no leader confirmed it in time.
    pub async fn read_barrier_within(&self, within: Duration) -> Result<(), ReadError> {
        let deadline = self.inner.env.now() + within;
        let late = || ReadError(format!("{NO_LEADER}: no majority confirmed in time who leads"));
        let (sender, receiver) = oneshot::channel();
        let stopping = || ReadError("this server is stopping".to_owned());
        // A round that others began may take longer than this reader has, and so may its turn to join one.
        let round = async {
            self.inner.readers.send(sender).await.map_err(|_| stopping())?;
            receiver.await.map_err(|_| stopping())?
        };
        let index = self.inner.env.timeout(within, round).await.map_err(|_| late())??;
        let mut applied = self.inner.node.state().applied();
        let left = deadline.since(self.inner.env.now());
        let env = &self.inner.env;
        env.sometimes(*applied.borrow() < index, "a read waits until the state is as new as it must be");
        // Mutant A01: a confirmed read does not wait for the state to be that far.
        let enough = |applied: &u64| *applied >= index || mutant::is("A01");
        let waited = env.timeout(left, applied.wait_for(enough)).await.map(|waited| waited.map(|_| ()));
        match waited {
            Ok(Ok(())) => {
                let now = self.inner.node.state().read(crate::state::State::applied);
                env.always(now >= index, "a read is answered from a state as new as it must be");
                Ok(())
            }
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(late()),
        }
    }

    /// Makes a server a voter, after it has caught up as a learner.
    ///
    /// # Errors
    /// [`WriteError`] as for a write.
    pub async fn add_server(&self, server: ServerInfo) -> Result<(), WriteError> {
        self.change(|| Ask::AddServer(server.clone())).await
    }

    /// Takes a server out of the configuration.
    ///
    /// # Errors
    /// [`WriteError`] as for a write.
    pub async fn remove_server(&self, node_id: u64) -> Result<(), WriteError> {
        let led = self.leader_seen() == Some(node_id);
        match self.change(|| Ask::RemoveServer { node_id }).await {
            // A leader that is to go hands over first, and the heir may be seen to lead before its answer is here. The heir
            // is asked then; if the leader had gone already, there is nothing left to do.
            Err(WriteError::Unknown(_)) if led && self.leader_seen().is_some_and(|now| now != node_id) => {
                self.change(|| Ask::RemoveServer { node_id }).await
            }
            done => done,
        }
    }

    /// Who leads, as openraft here sees it.
    fn leader_seen(&self) -> Option<u64> {
        self.inner.node.inner.core.server_metrics().borrow_watched().current_leader
    }

    /// Hands leadership to another server.
    ///
    /// # Errors
    /// [`WriteError`] as for a write.
    pub async fn transfer_leadership(&self, node_id: Option<u64>) -> Result<(), WriteError> {
        let before = self.leader_seen();
        match self.change(|| Ask::TransferTo { node_id }).await {
            // The heir may be seen to lead before the old leader's answer is here: what was asked is done.
            Err(WriteError::Unknown(_))
                if self
                    .leader_seen()
                    .is_some_and(|now| node_id.map_or(Some(now) != before, |heir| heir == now)) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// A change of membership or leadership: asked once of whoever leads. Only a leader that did
    /// nothing is asked again.
    async fn change(&self, ask: impl Fn() -> Ask) -> Result<(), WriteError> {
        let deadline = self.inner.env.now() + self.inner.timeout;
        let mut last_refusal = NO_LEADER.to_owned();
        loop {
            match self.attempt_for(ask(), deadline, self.inner.timeout).await {
                Ok(Answer::Changed(Ok(()))) => return Ok(()),
                Ok(Answer::Changed(Err(LeaderError::NotLeader { .. }))) | Err(Attempt::NoLeader) => {}
                Ok(Answer::Changed(Err(LeaderError::Refused(reason)))) => {
                    return Err(WriteError::Refused(reason));
                }
                Ok(Answer::Changed(Err(LeaderError::Unknown(reason)))) | Ok(Answer::Failed(reason)) => {
                    return Err(WriteError::Unknown(reason));
                }
                Ok(_) => return Err(WriteError::Unknown("the leader's answer does not fit".to_owned())),
                Err(Attempt::Call(error @ CallError::NotSent { .. })) => {
                    last_refusal = format!("{NO_LEADER}: {error}");
                }
                Err(Attempt::Call(error)) => return Err(WriteError::Unknown(error.to_string())),
            }
            if !self.pause(deadline).await {
                return Err(WriteError::Refused(last_refusal));
            }
        }
    }

    async fn attempt(&self, ask: Ask, deadline: Instant) -> Result<Answer, Attempt> {
        self.attempt_for(ask, deadline, ATTEMPT).await
    }

    async fn attempt_for(&self, ask: Ask, deadline: Instant, at_most: Duration) -> Result<Answer, Attempt> {
        attempt(&self.inner.env, &self.inner.node, ask, deadline, at_most).await
    }

    async fn pause(&self, deadline: Instant) -> bool {
        pause(&self.inner.env, &self.inner.node, deadline).await
    }
}

enum Attempt {
    NoLeader,
    Call(CallError),
}

/// Asks the leader once, if there is one.
async fn attempt(
    env: &Env,
    node: &RaftNode,
    ask: Ask,
    deadline: Instant,
    at_most: Duration,
) -> Result<Answer, Attempt> {
    let leader = node.leader().ok_or(Attempt::NoLeader)?;
    let within = deadline.since(env.now()).min(at_most);
    let addr = node.address_of(leader).unwrap_or(node.me().addr);
    let no_answer = |reason: &str| CallError::NoAnswer { addr, reason: reason.to_owned() };
    let answer = tokio::select! {
        biased;
        // Our own answer can take long too: the call to ourselves is bounded like any other.
        answer = env.timeout(within, node.ask(leader, ask, within)) => match answer {
            Ok(answer) => answer,
            Err(_) => Err(no_answer("not committed in time")),
        },
        // A deposed leader may never answer; its successor is asked at once.
        () = node.another_leads(Some(leader)) => {
            env.reachable("a request is taken from a deposed leader to its successor");
            Err(no_answer("another server leads now"))
        }
    };
    answer.map_err(Attempt::Call)
}

/// Waits a moment, or until another leader is known. False when the time is over.
async fn pause(env: &Env, node: &RaftNode, deadline: Instant) -> bool {
    if env.now() + RETRY_PAUSE >= deadline {
        return false;
    }
    // Never nothing at all: the two views of the leader below may disagree for a while, and then the caller would spin.
    env.sleep(SHORTEST_PAUSE).await;
    // Either way it is time to try again.
    let _ = env.timeout(RETRY_PAUSE, node.another_leads(node.leader())).await;
    true
}

/// Serves waiting readers, all that have gathered with one round.
async fn read_in_rounds(
    env: Env,
    node: RaftNode,
    timeout: Duration,
    mut queue: mpsc::Receiver<oneshot::Sender<Result<u64, ReadError>>>,
) {
    while let Some(first) = queue.recv().await {
        let mut waiting = vec![first];
        while let Ok(reader) = queue.try_recv() {
            waiting.push(reader);
        }
        env.sometimes(waiting.len() > 1, "several reads share one round of confirmation");
        let result = read_index(&env, &node, env.now() + timeout).await;
        // Mutant R29: who comes while a round is under way gets its answer.
        while mutant::is("R29")
            && let Ok(reader) = queue.try_recv()
        {
            waiting.push(reader);
        }
        for reader in waiting {
            // The reader may have given up.
            let _ = reader.send(result.clone());
        }
    }
}

async fn read_index(env: &Env, node: &RaftNode, deadline: Instant) -> Result<u64, ReadError> {
    let mut why = NO_LEADER.to_owned();
    loop {
        match attempt(env, node, Ask::ReadIndex, deadline, ATTEMPT).await {
            Ok(Answer::ReadIndex(Ok(index))) => {
                env.linger(hazard::READ_INDEX_KNOWN).await;
                return Ok(index);
            }
            Ok(Answer::ReadIndex(Err(LeaderError::NotLeader { .. }))) | Err(Attempt::NoLeader) => {}
            Ok(Answer::ReadIndex(Err(error))) => why = format!("{NO_LEADER}: {error}"),
            Ok(_) => why = format!("{NO_LEADER}: the leader's answer does not fit"),
            Err(Attempt::Call(error)) => why = format!("{NO_LEADER}: {error}"),
        }
        if !pause(env, node, deadline).await {
            env.reachable("a read is refused because nobody confirms it in time");
            return Err(ReadError(why));
        }
    }
}
