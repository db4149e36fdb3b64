//! The leader's duty: the Raft configuration follows what gossip knows.
//!
//! [`plan`] is the decision, a pure function; the agent's loop carries out one step at a time and
//! looks again.
//!
//! Gossip may add a server and may confirm a *graceful* departure. It never removes a server for
//! being silent: a partition makes half of the servers silent, and removing those would let the other
//! half shrink the quorum under the data. Silent servers stay voters until they return, leave, or an
//! operator removes them, or until another server is there under their name: then their data is gone, and
//! with it their vote. (Or until [`super::autopilot`] sees that another has taken their place, under whatever name.)
//!
//! Who is added learns at first; [`super::autopilot`] says when it votes.

use crate::gossip::Status;
use crate::mutant;
use crate::raft::{Member as RaftMember, ServerInfo};

/// A server as gossip sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who it is.
    pub server: ServerInfo,
    /// How it is.
    pub status: Status,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add it as a learner.
    Add(ServerInfo),
    /// Take it out.
    Remove {
        /// Its Raft id.
        node_id: u64,
    },
}

/// What to do next so that `configuration` fits `seen`, from the viewpoint of the leader `me`.
pub fn plan(seen: &[Seen], configuration: &[RaftMember], me: u64) -> Option<Step> {
    let configured = |id: u64| configuration.iter().find(|member| member.server.node_id == id);
    let gone = |status: Status| {
        // Mutant G14: a verdict of "failed" is enough to remove a voter.
        status == Status::Left || (mutant::is("G14") && status == Status::Failed)
    };
    let leaver = seen.iter().find(|seen| {
        seen.server.node_id != me
            && gone(seen.status)
            // News of an earlier life's departure may be late: it does not concern who is back since.
            && configured(seen.server.node_id)
                .is_some_and(|member| member.server.generation <= seen.server.generation)
    });
    if let Some(leaver) = leaver {
        return Some(Step::Remove { node_id: leaver.server.node_id });
    }
    // A server that lost its data is back under a new id, and perhaps at a new address.
    let alive = |id: u64| seen.iter().any(|seen| seen.server.node_id == id && seen.status == Status::Alive);
    let replaced = configuration.iter().find(|member| {
        let server = &member.server;
        let successor = |seen: &Seen| {
            seen.status == Status::Alive
                && seen.server.name == server.name
                && seen.server.node_id != server.node_id
        };
        server.node_id != me && !alive(server.node_id) && seen.iter().any(successor)
    });
    if let Some(replaced) = replaced {
        return Some(Step::Remove { node_id: replaced.server.node_id });
    }
    // Who leads is in the configuration, or was taken out of it a moment ago: either way it is not for it to add itself. A
    // founder that leads already may not have seen yet that it is in.
    let newcomer = seen.iter().find(|seen| {
        let node_id = seen.server.node_id;
        node_id != me && seen.status == Status::Alive && configured(node_id).is_none()
    });
    newcomer.map(|newcomer| Step::Add(newcomer.server.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn server(node_id: u64) -> ServerInfo {
        let addr = SocketAddr::from(([10, 0, 0, node_id as u8], 8300));
        ServerInfo { node_id, name: format!("n{node_id}"), addr, generation: 5 }
    }

    fn seen(node_id: u64, status: Status) -> Seen {
        Seen { server: server(node_id), status }
    }

    fn member(node_id: u64, voter: bool) -> RaftMember {
        RaftMember { server: server(node_id), voter }
    }

    #[test]
    fn newcomers_are_added_and_learners_left_to_autopilot() {
        let seen = [seen(1, Status::Alive), seen(2, Status::Alive)];
        assert_eq!(plan(&seen, &[member(1, true)], 1), Some(Step::Add(server(2))));
        assert_eq!(plan(&seen, &[member(1, true), member(2, false)], 1), None);
        assert_eq!(plan(&seen, &[member(1, true), member(2, true)], 1), None);
    }

    #[test]
    fn who_left_is_removed_and_who_fell_silent_is_not() {
        let configuration = [member(1, true), member(2, true), member(3, true)];
        let seen = [seen(1, Status::Alive), seen(2, Status::Failed), seen(3, Status::Left)];
        assert_eq!(plan(&seen, &configuration, 1), Some(Step::Remove { node_id: 3 }));
        assert_eq!(plan(&seen[..2], &configuration, 1), None);
    }

    #[test]
    fn the_departure_of_an_earlier_life_is_old_news() {
        let mut old = seen(3, Status::Left);
        old.server.generation = 4;
        assert_eq!(plan(&[old], &[member(1, true), member(3, true)], 1), None);
    }

    #[test]
    fn who_is_back_under_its_name_as_somebody_new_replaces_who_it_was() {
        let configuration = [member(1, true), member(2, true), member(3, true)];
        let mut back = seen(9, Status::Alive);
        back.server.name = "n3".to_owned();
        let seen = |old: Status| [seen(1, Status::Alive), seen(2, Status::Alive), seen(3, old), back.clone()];
        let removed = Some(Step::Remove { node_id: 3 });
        assert_eq!(plan(&seen(Status::Failed), &configuration, 1), removed);
        // Two that live under one name are an operator's mistake, and neither expels the other.
        assert_eq!(plan(&seen(Status::Alive), &configuration, 1), Some(Step::Add(back.server.clone())));
        assert_eq!(plan(&seen(Status::Failed), &configuration, 3), Some(Step::Add(back.server.clone())));
    }

    #[test]
    fn a_leader_neither_removes_nor_adds_itself() {
        assert_eq!(plan(&[seen(1, Status::Left)], &[member(1, true)], 1), None);
        assert_eq!(plan(&[seen(1, Status::Alive)], &[], 1), None);
        assert_eq!(plan(&[seen(1, Status::Alive)], &[], 2), Some(Step::Add(server(1))));
    }
}
