//! Autopilot: the leader looks after the servers of the Raft configuration.
//!
//! [`judge`] says how each server fares, [`plan`] what to do about it: pure functions of what the leader sees. The
//! leader's loop ([`super::server`]) looks every now and then, carries out one step, and looks again.
//!
//! * **Promotion.** [`super::reconcile`] adds a server that gossip found as a learner. It becomes a voter once it has been
//!   healthy for `server_stabilization_time`: a machine that comes and goes does not change who votes each time.
//!   A leader that has not led for that long cannot know, and takes a healthy learner at its word; else a new
//!   cluster would be slow to gather.
//! * **Removal.** `reconcile` never removes a server for being silent, and for a reason: behind a partition live the
//!   others, and each server that is taken out lets fewer disks decide what is committed. Here a dead voter goes only if
//!   that cannot happen: gossip has called it failed for `server_stabilization_time`, a majority is
//!   healthy and was so for as long, and the cluster does not get smaller than it is meant to be. What it is meant
//!   to be, `min_quorum` says. Without it, only a dead voter that has been *replaced* is removed: the voters are
//!   even in number then, one more than the odd number that a cluster should have, and the quorum becomes what it was before
//!   the newcomer. So no cluster shrinks by itself from five to three, or from three to two.
//!   A dead learner goes whenever it is dead: it decides nothing.
//!
//! Only what gossip says has failed is dead; a server that it does not know (after a restart of all of the others)
//! is left alone. One that is alive after all comes back the way it came.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::env::Instant;
use crate::gossip::Status;
use crate::mutant;
use crate::state::autopilot::AutopilotConfig;

/// A server of the configuration, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub addr: SocketAddr,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it is the leader itself.
    pub leader: bool,
    /// What gossip says of it, if it knows it.
    pub gossip: Option<Status>,
    /// For how long gossip has said so.
    pub gossip_for: Duration,
    /// The version of its program, as gossip tells.
    pub version: String,
    /// How long ago it answered; zero for the leader, nothing if it never did.
    pub last_contact: Option<Duration>,
    /// The term of its last entry that is known here.
    pub last_term: u64,
    /// How far its log reaches, as far as is known here.
    pub last_index: u64,
}

/// A server, and how it fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The server.
    pub view: View,
    /// Whether it is alive, in touch and up to date.
    pub healthy: bool,
    /// For how long that has been so.
    pub stable_for: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let a learner vote.
    Promote {
        /// Its id.
        node_id: u64,
    },
    /// Take a dead server out.
    Remove {
        /// Its id.
        node_id: u64,
    },
}

/// How the servers fare, for whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether all of them are healthy.
    pub healthy: bool,
    /// How many voters may fail without the cluster losing its quorum.
    pub failure_tolerance: u64,
    /// Each.
    pub servers: Vec<ServerHealth>,
}

/// How one server fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHealth {
    /// Its id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub addr: SocketAddr,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// What gossip says of it: `alive`, `leaving`, `left`, `failed`, or `none`.
    pub gossip: String,
    /// The version of its program.
    pub version: String,
    /// How long ago it answered the leader.
    pub last_contact: Option<Duration>,
    /// The term of its last entry that the leader knows of.
    pub last_term: u64,
    /// The index of that entry.
    pub last_index: u64,
    /// Whether it is healthy.
    pub healthy: bool,
    /// For how long it has been so.
    pub stable_for: Duration,
}

/// What a leader remembers: since when each server has been as it is.
#[derive(Debug, Default)]
pub struct Memory {
    since: BTreeMap<u64, (bool, Instant)>,
}

/// The least number of voters that is a majority.
fn quorum(voters: u64) -> u64 {
    voters / 2 + 1
}

/// Whether a server is healthy, beside a leader whose log reaches to `newest`.
fn is_healthy(view: &View, newest: u64, config: &AutopilotConfig) -> bool {
    let threshold = Duration::from_nanos(config.last_contact_threshold_ns);
    let in_touch = view.last_contact.is_some_and(|contact| contact <= threshold);
    let trails = newest.saturating_sub(view.last_index);
    view.gossip == Some(Status::Alive) && (view.leader || (in_touch && trails <= config.max_trailing_logs))
}

/// How the servers fare at `now`, which is remembered.
pub fn judge(views: Vec<View>, memory: &mut Memory, config: &AutopilotConfig, now: Instant) -> Vec<Judged> {
    let newest = views.iter().map(|view| view.last_index).max().unwrap_or(0);
    memory.since.retain(|id, _| views.iter().any(|view| view.node_id == *id));
    let judged = views.into_iter().map(|view| {
        let healthy = is_healthy(&view, newest, config);
        let known = memory.since.entry(view.node_id).or_insert((healthy, now));
        // Mutant C18: who voted and was ill once is never taken for healthy again.
        let healthy = healthy && (known.0 || !view.voter || !mutant::is("C18"));
        if known.0 != healthy {
            *known = (healthy, now);
        }
        Judged { stable_for: now.since(known.1), view, healthy }
    });
    judged.collect()
}

/// What to do next, by a leader that has led for so long.
pub fn plan(servers: &[Judged], config: &AutopilotConfig, leading_for: Duration) -> Option<Step> {
    let stabilization = Duration::from_nanos(config.server_stabilization_time_ns);
    // A tenth more, so that the first look at all does not count as news.
    let knows = leading_for >= stabilization + stabilization / 10;
    let wanted = if knows { stabilization } else { Duration::ZERO };
    let settled = |server: &&Judged| server.healthy && server.stable_for >= wanted;
    let ready = servers.iter().filter(settled).find(|server| !server.view.voter);
    // Mutant C15: a leader that has led for long lets nobody vote.
    let ready = ready.filter(|_| !(knows && mutant::is("C15")));
    // Mutant C16: who would make the voters odd in number learns for ever, unless it is the first beside the leader.
    let voting = servers.iter().filter(|server| server.view.voter).count();
    let ready = ready.filter(|_| voting == 1 || voting % 2 == 1 || !mutant::is("C16"));
    if let Some(ready) = ready {
        return Some(Step::Promote { node_id: ready.view.node_id });
    }
    if !config.cleanup_dead_servers || !knows {
        return None;
    }
    let is_dead = |server: &Judged| {
        let view = &server.view;
        !view.leader && view.gossip == Some(Status::Failed) && view.gossip_for >= stabilization
    };
    let remove = |server: &Judged| Some(Step::Remove { node_id: server.view.node_id });
    if let Some(learner) = servers.iter().find(|server| !server.view.voter && is_dead(server)) {
        return remove(learner);
    }
    let voters = || servers.iter().filter(|server| server.view.voter);
    let count = voters().count() as u64;
    let left = count.saturating_sub(1);
    let large_enough = match config.min_quorum {
        0 => count.is_multiple_of(2),
        least => left >= least,
    };
    let healthy = voters().filter(settled).count() as u64;
    let dead = voters().find(|server| is_dead(server));
    dead.filter(|_| large_enough && healthy >= quorum(count)).and_then(remove)
}

/// The same for whoever asks.
pub fn health(servers: &[Judged]) -> Health {
    let voters = || servers.iter().filter(|server| server.view.voter);
    let healthy = voters().filter(|server| server.healthy).count() as u64;
    let shown = servers.iter().map(|server| {
        let View {
            node_id,
            name,
            addr,
            voter,
            leader,
            gossip,
            version,
            last_contact,
            last_term,
            last_index,
            ..
        } = server.view.clone();
        let gossip = match gossip {
            None => "none",
            Some(Status::Alive) => "alive",
            Some(Status::Leaving) => "leaving",
            Some(Status::Left) => "left",
            Some(Status::Failed) => "failed",
        };
        ServerHealth {
            node_id,
            name,
            addr,
            voter,
            leader,
            gossip: gossip.to_owned(),
            version,
            last_contact,
            last_term,
            last_index,
            healthy: server.healthy,
            stable_for: server.stable_for,
        }
    });
    Health {
        healthy: servers.iter().all(|server| server.healthy),
        // Mutant C17: all that are healthy but one may fail.
        failure_tolerance: if mutant::is("C17") {
            healthy.saturating_sub(1)
        } else {
            healthy.saturating_sub(quorum(voters().count() as u64))
        },
        servers: shown.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG: Duration = Duration::from_secs(60);
    const CONFIG: AutopilotConfig = AutopilotConfig::DEFAULT;

    fn view(node_id: u64, voter: bool, gossip: Status) -> View {
        View {
            node_id,
            name: format!("n{node_id}"),
            addr: SocketAddr::from(([10, 0, 0, 1], 8300)),
            voter,
            leader: node_id == 1,
            gossip: Some(gossip),
            gossip_for: LONG,
            version: String::new(),
            last_contact: Some(Duration::ZERO),
            last_term: 1,
            last_index: 100,
        }
    }

    fn judged(view: View) -> Judged {
        let healthy = is_healthy(&view, 100, &CONFIG);
        Judged { view, healthy, stable_for: LONG }
    }

    /// `v` and `l`: a voter and a learner that live; `V` and `L`: dead ones. The first leads.
    fn servers(picture: &str) -> Vec<Judged> {
        let one = |(id, letter): (u64, char)| {
            let status = if letter.is_lowercase() { Status::Alive } else { Status::Failed };
            judged(view(id, letter.eq_ignore_ascii_case(&'v'), status))
        };
        (1..).zip(picture.chars()).map(one).collect()
    }

    fn planned(picture: &str, min_quorum: u64) -> Option<Step> {
        plan(&servers(picture), &AutopilotConfig { min_quorum, ..CONFIG }, LONG)
    }

    #[test]
    fn the_dead_go_when_they_are_replaced_and_not_before() {
        let removed = |node_id| Some(Step::Remove { node_id });
        let cases = [
            ("v", None),
            ("vv", None),
            ("vvV", None),
            ("vvVv", removed(3)),
            ("vvvVV", None),
            ("vvvVVv", removed(4)),
            ("vvvVvv", removed(4)),
            ("vvvv", None),
            ("vvVl", Some(Step::Promote { node_id: 4 })),
            ("vvL", removed(3)),
            ("vVVv", None),
        ];
        for (picture, step) in cases {
            assert_eq!(planned(picture, 0), step, "{picture}");
        }
        // Whoever says how small the cluster may be gets it so small, and no smaller.
        let cases = [("vvvVV", removed(4)), ("vvvV", removed(4)), ("vvV", None), ("vvVv", removed(3))];
        for (picture, step) in cases {
            assert_eq!(planned(picture, 3), step, "{picture}");
        }
        let off = AutopilotConfig { cleanup_dead_servers: false, ..CONFIG };
        assert_eq!(plan(&servers("vvVv"), &off, LONG), None);
    }

    #[test]
    fn a_learner_votes_once_it_was_healthy_for_long_enough() {
        let mut servers = servers("vvl");
        servers[2].stable_for = Duration::from_secs(9);
        assert_eq!(plan(&servers, &CONFIG, LONG), None);
        // A leader that is new itself cannot know.
        let promoted = Some(Step::Promote { node_id: 3 });
        assert_eq!(plan(&servers, &CONFIG, Duration::from_secs(10)), promoted);
        servers[2].stable_for = Duration::from_secs(10);
        assert_eq!(plan(&servers, &CONFIG, LONG), promoted);
        servers[2].healthy = false;
        assert_eq!(plan(&servers, &CONFIG, LONG), None);
    }

    #[test]
    fn who_died_a_moment_ago_may_come_back() {
        let mut servers = servers("vvVv");
        servers[2].view.gossip_for = Duration::from_secs(9);
        assert_eq!(plan(&servers, &CONFIG, LONG), None);
        servers[2].view.gossip = None;
        servers[2].view.gossip_for = LONG;
        assert_eq!(plan(&servers, &CONFIG, LONG), None);
    }

    #[test]
    fn health_is_life_contact_and_progress() {
        let healthy = |change: fn(&mut View)| {
            let mut view = view(2, true, Status::Alive);
            change(&mut view);
            is_healthy(&view, 100, &AutopilotConfig { max_trailing_logs: 10, ..CONFIG })
        };
        assert!(healthy(|_| {}));
        assert!(healthy(|view| view.last_index = 90));
        assert!(!healthy(|view| view.last_index = 89));
        assert!(healthy(|view| view.last_contact = Some(Duration::from_millis(200))));
        assert!(!healthy(|view| view.last_contact = Some(Duration::from_millis(201))));
        assert!(!healthy(|view| view.last_contact = None));
        assert!(!healthy(|view| view.gossip = Some(Status::Failed)));
        assert!(!healthy(|view| view.gossip = None));
        let all = servers("vvvVl");
        let told = health(&all);
        assert_eq!((told.healthy, told.failure_tolerance), (false, 0));
        assert_eq!(health(&servers("vvvvv")).failure_tolerance, 2);
    }

    #[test]
    fn how_long_is_counted_from_the_last_change() {
        let mut memory = Memory::default();
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        let mut look = |status: Status, seconds: u64| {
            let views = vec![view(1, true, Status::Alive), view(2, true, status)];
            let judged = judge(views, &mut memory, &CONFIG, at(seconds));
            (judged[1].healthy, judged[1].stable_for.as_secs())
        };
        assert_eq!(look(Status::Alive, 5), (true, 0));
        assert_eq!(look(Status::Alive, 8), (true, 3));
        assert_eq!(look(Status::Failed, 9), (false, 0));
        assert_eq!(look(Status::Alive, 20), (true, 0));
        assert_eq!(look(Status::Alive, 21), (true, 1));
    }

    fn any_server() -> impl Strategy<Value = (bool, Option<Status>, u64, u64, bool)> {
        let status = prop::sample::select(vec![Status::Alive, Status::Failed, Status::Left, Status::Leaving]);
        (any::<bool>(), prop::option::of(status), 0u64..40, 0u64..40, any::<bool>())
    }

    proptest! {
        #[test]
        fn no_removal_endangers_the_quorum(
            others in prop::collection::vec(any_server(), 0..8),
            min_quorum in 0u64..8,
            leading in 0u64..40,
        ) {
            let config = AutopilotConfig { min_quorum, ..CONFIG };
            let mut servers = vec![judged(view(1, true, Status::Alive))];
            for (id, (voter, gossip, gossip_for, stable, in_touch)) in (2..).zip(others) {
                let mut view = view(id, voter, Status::Alive);
                view.gossip = gossip;
                view.gossip_for = Duration::from_secs(gossip_for);
                view.last_contact = in_touch.then_some(Duration::ZERO);
                let stable_for = Duration::from_secs(stable);
                servers.push(Judged { stable_for, ..judged(view) });
            }
            // Carried out to the end, as the loop would if nothing else happened.
            let voters_before = servers.iter().filter(|server| server.view.voter).count() as u64;
            let live_before = servers.iter().filter(|s| s.view.voter && s.healthy).count() as u64;
            for _ in 0..20 {
                let Some(step) = plan(&servers, &config, Duration::from_secs(leading)) else { break };
                match step {
                    Step::Promote { node_id } => {
                        let server = servers.iter_mut().find(|server| server.view.node_id == node_id).unwrap();
                        prop_assert!(server.healthy && !server.view.voter);
                        server.view.voter = true;
                    }
                    Step::Remove { node_id } => {
                        let at = servers.iter().position(|server| server.view.node_id == node_id).unwrap();
                        let gone = servers.remove(at);
                        prop_assert!(!gone.healthy && !gone.view.leader);
                        prop_assert_eq!(gone.view.gossip, Some(Status::Failed));
                        let voters = servers.iter().filter(|server| server.view.voter).count() as u64;
                        let live = servers.iter().filter(|s| s.view.voter && s.healthy).count() as u64;
                        if gone.view.voter {
                            prop_assert!(live >= quorum(voters), "{live} of {voters} live");
                            prop_assert!(min_quorum == 0 || voters >= min_quorum);
                            prop_assert!(min_quorum > 0 || voters % 2 == 1);
                        }
                    }
                }
            }
            let voters = servers.iter().filter(|server| server.view.voter).count() as u64;
            let live = servers.iter().filter(|s| s.view.voter && s.healthy).count() as u64;
            // No healthy voter is ever lost, and without a word of the operator one dead voter goes at most.
            prop_assert!(live >= live_before);
            prop_assert!(min_quorum > 0 || voters + 1 >= voters_before);
            prop_assert!(plan(&servers, &config, Duration::from_secs(leading)).is_none(), "it comes to an end");
        }
    }
}
