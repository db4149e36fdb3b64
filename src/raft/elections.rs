//! Which votes were refused, and why: what this server saw of elections, for whoever asks why there is no leader.
//!
//! Kept are the last [`KEPT`], those that it refused and those that were refused to it. A refusal is judged from the
//! request and the answer alone (Raft, 5.2 and 5.4.1), so both sides come to the same reason.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::raft::{VoteRequest, VoteResponse};

use super::{TypeConfig, log_index, log_term};
use crate::env::{Env, Instant};

/// Refusals kept.
const KEPT: usize = 32;

/// One refused vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When, on this server's clock.
    pub at: Instant,
    /// Who wanted it.
    pub candidate: u64,
    /// Who refused it.
    pub voter: u64,
    /// For which term.
    pub term: u64,
    /// Why.
    pub why: Why,
}

/// Why a vote is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The voter knows a later term.
    LaterTerm {
        /// Which.
        term: u64,
    },
    /// The candidate's log ends before the voter's: it may lack what is committed.
    LogBehind {
        /// Term and index of the candidate's last entry.
        candidate: (u64, u64),
        /// Term and index of the voter's.
        voter: (u64, u64),
    },
    /// The voter has given its vote of this term to another.
    VotedFor {
        /// To whom.
        candidate: u64,
    },
    /// The voter hears a leader.
    HearsLeader,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::LaterTerm { term } => write!(f, "the voter knows the later term {term}"),
            Why::LogBehind { candidate, voter } => write!(
                f,
                "the candidate's log ends at index {} of term {}, the voter's at index {} of term {}",
                candidate.1, candidate.0, voter.1, voter.0
            ),
            Why::VotedFor { candidate } => write!(f, "the voter voted for {candidate:016x} in this term"),
            Why::HearsLeader => write!(f, "the voter hears a leader"),
        }
    }
}

/// The refusals of one server. Clones are the same list.
#[derive(Clone)]
pub struct Elections {
    env: Env,
    refused: Arc<Mutex<VecDeque<Refusal>>>,
}

impl Elections {
    /// None yet.
    pub fn new(env: &Env) -> Elections {
        Elections { env: env.clone(), refused: Arc::default() }
    }

    /// The last ones, oldest first.
    pub fn refused(&self) -> Vec<Refusal> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Notes the voter's answer to a request.
    pub(super) fn note(
        &self,
        voter: u64,
        request: &VoteRequest<TypeConfig>,
        answer: &VoteResponse<TypeConfig>,
    ) {
        let Some(why) = why(request, answer) else { return };
        let asked = &request.vote.leader_id;
        let refusal =
            Refusal { at: self.env.now(), candidate: asked.voted_for, voter, term: asked.term, why };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        while refused.len() >= KEPT {
            refused.pop_front();
        }
        refused.push_back(refusal);
    }
}

/// Why this answer refuses; nothing if it grants.
fn why(request: &VoteRequest<TypeConfig>, answer: &VoteResponse<TypeConfig>) -> Option<Why> {
    if answer.vote_granted {
        return None;
    }
    let (asked, voted) = (&request.vote.leader_id, &answer.vote.leader_id);
    let end = |log_id| (log_term(log_id).unwrap_or(0), log_index(log_id).unwrap_or(0));
    let (candidate, voter) = (end(&request.last_log_id), end(&answer.last_log_id));
    Some(if voted.term > asked.term {
        Why::LaterTerm { term: voted.term }
    } else if voter > candidate {
        Why::LogBehind { candidate, voter }
    } else if voted.term == asked.term && voted.voted_for != asked.voted_for {
        Why::VotedFor { candidate: voted.voted_for }
    } else {
        Why::HearsLeader
    })
}

#[cfg(test)]
mod tests {
    use super::super::{LogId, Vote};
    use super::*;
    use crate::env::real::env_in_memory;
    use openraft::type_config::alias::CommittedLeaderIdOf;

    fn log(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderIdOf::<TypeConfig>::new(term), index))
    }

    fn ask(term: u64, candidate: u64, last: Option<LogId>) -> VoteRequest<TypeConfig> {
        VoteRequest::new(Vote::new(term, candidate), last)
    }

    fn answer(term: u64, voted_for: u64, last: Option<LogId>, granted: bool) -> VoteResponse<TypeConfig> {
        VoteResponse::new(Vote::new(term, voted_for), last, granted)
    }

    #[test]
    fn a_refusal_has_its_reason() {
        let request = ask(5, 1, log(4, 10));
        assert_eq!(why(&request, &answer(5, 1, log(4, 10), true)), None);
        assert_eq!(why(&request, &answer(6, 2, log(4, 10), false)), Some(Why::LaterTerm { term: 6 }));
        let behind = Why::LogBehind { candidate: (4, 10), voter: (4, 11) };
        assert_eq!(why(&request, &answer(4, 2, log(4, 11), false)), Some(behind));
        assert_eq!(why(&request, &answer(5, 2, log(4, 9), false)), Some(Why::VotedFor { candidate: 2 }));
        assert_eq!(why(&request, &answer(4, 2, log(4, 10), false)), Some(Why::HearsLeader));
    }

    #[tokio::test]
    async fn only_the_last_are_kept() {
        let elections = Elections::new(&env_in_memory(1));
        for term in 1..=50 {
            elections.note(2, &ask(term, 1, None), &answer(term, 3, None, false));
        }
        let refused = elections.refused();
        assert_eq!((refused.len(), refused[0].term, refused[31].term), (32, 19, 50));
    }
}
