//! OPS: what an operator is told that is done, is done.
//!
//! * A server that is said to be taken out of the Raft configuration is in none that was in force at some moment between call and
//!   answer. A configuration is in force from when the first node applies its entry: one that is only in a log may yet go
//!   with it.
//! * A member that the asked node held for failed, and that is ordered out, is not failed there when the order is answered
//!   for. Ordered to be forgotten, it is listed no more.
//!
//! Let pass: a member that fails anew, or is heard of in a later life, between call and answer; what the others list; and
//! what is refused or not answered. That a server comes back after such an order, and votes, LIVE asks after the heal.

use std::collections::{BTreeMap, BTreeSet};

use driftline::env::Observed;
use driftline::env::observe::MemberChange;

use super::view::View;
use super::{At, Check, Event, Findings};

/// An order that was answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// A server is out of the Raft configuration.
    Out {
        /// Its Raft id.
        raft_id: u64,
        /// When it was asked for.
        asked_ns: u64,
    },
    /// A member has left.
    Left {
        /// Its name.
        name: String,
        /// When it was asked for.
        asked_ns: u64,
    },
    /// Asked right after such an order that it be forgotten, the node lists it among those that are gone.
    Listed {
        /// Its name.
        name: String,
    },
}

/// A member as a node sees it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    change: MemberChange,
    incarnation: u64,
    since_ns: u64,
}

/// The check's memory.
#[derive(Debug, Default)]
pub struct Orders {
    /// Who is in the configurations that nodes have taken up, by node and index; until they are applied.
    taken_up: BTreeMap<(u32, u64), BTreeSet<u64>>,
    /// The same of those in force, by index, each with the time since when.
    in_force: BTreeMap<u64, (u64, BTreeSet<u64>)>,
    /// What each node that runs sees, by name and id.
    seen: BTreeMap<u32, BTreeMap<String, BTreeMap<u64, Seen>>>,
    /// The newest life of each member that anybody has seen.
    newest: BTreeMap<u64, u64>,
}

impl Orders {
    fn observed(&mut self, at: At, observed: &Observed) {
        match observed {
            Observed::Membership { index, voters, learners } => {
                let all = voters.iter().flatten().chain(learners).copied().collect();
                self.taken_up.insert((at.node, *index), all);
            }
            Observed::Truncated { index } => {
                self.taken_up.retain(|(node, taken), _| *node != at.node || taken <= index);
            }
            Observed::Applied { index, .. } => {
                if let Some(members) = self.taken_up.remove(&(at.node, *index)) {
                    self.in_force.entry(*index).or_insert((at.ns, members));
                }
            }
            Observed::Member { node_id, name, incarnation, change, .. } => {
                let newest = self.newest.entry(*node_id).or_default();
                *newest = (*newest).max(*incarnation);
                let seen = Seen { change: *change, incarnation: *incarnation, since_ns: at.ns };
                let of_node = self.seen.entry(at.node).or_default();
                of_node.entry(name.clone()).or_default().insert(*node_id, seen);
            }
            _ => {}
        }
    }

    /// What was not done that was answered for.
    fn undone(&self, node: u32, ordered: &Ordered) -> Option<String> {
        let members = |name: &str| self.seen.get(&node).and_then(|all| all.get(name));
        match ordered {
            Ordered::Out { raft_id, asked_ns } => {
                let all = || self.in_force.values();
                let before = all().rev().find(|(since_ns, _)| since_ns <= asked_ns);
                let meanwhile = all().filter(|(since_ns, _)| since_ns > asked_ns);
                let is_in = |(_, members): &(u64, BTreeSet<u64>)| members.contains(raft_id);
                let always = before.is_none_or(is_in) && meanwhile.clone().all(is_in);
                always.then(|| {
                    let changes = meanwhile.count();
                    format!(
                        "said that server {raft_id:016x} is out of the configuration, but it is in all that were in force since \
                         it was asked to take it out ({changes} came into force since)"
                    )
                })
            }
            Ordered::Left { name, asked_ns } => {
                let failed = |seen: &Seen| seen.change == MemberChange::Failed && seen.since_ns < *asked_ns;
                let still = members(name).is_some_and(|lives| lives.values().any(failed));
                still.then(|| format!("said that {name} has left, but holds it for failed as before"))
            }
            Ordered::Listed { name } => {
                let gone = |(id, seen): (&u64, &Seen)| {
                    seen.change == MemberChange::Left && self.newest.get(id) == Some(&seen.incarnation)
                };
                let all_gone = members(name).is_some_and(|lives| lives.iter().all(gone));
                all_gone.then(|| format!("said that {name} is forgotten, but lists it"))
            }
        }
    }
}

impl Check for Orders {
    fn on(&mut self, at: At, event: &Event<'_>, _view: &View, findings: &mut Findings) {
        match event {
            Event::Observed(observed) => self.observed(at, observed),
            Event::Started { .. } => drop(self.seen.remove(&at.node)),
            Event::Ordered(ordered) => {
                if let Some(what) = self.undone(at.node, ordered) {
                    findings.add("OPS", at, format!("node {} {what}", at.node));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::*;

    const S: u64 = 1_000_000_000;

    fn configuration(index: u64, voters: &[u64], learners: &[u64]) -> Observed {
        Observed::Membership { index, voters: vec![voters.to_vec()], learners: learners.to_vec() }
    }

    /// Up to 14 s: the configuration at index 1 with three voters is in force.
    fn three() -> Bench<Orders> {
        let bench = Bench::new(Orders::default()).boots(3).says(0, configuration(1, &[1, 2, 3], &[]));
        bench.appends(0, 1, 1).applies(0, 1, 1)
    }

    fn out(bench: Bench<Orders>, asked_s: u64) -> Bench<Orders> {
        bench.on(0, Event::Ordered(&Ordered::Out { raft_id: 3, asked_ns: asked_s * S }))
    }

    #[test]
    fn who_is_out_of_a_configuration_that_came_into_force_is_out() {
        let removed = || three().says(0, configuration(2, &[1, 2], &[])).applies(0, 2, 1);
        out(removed(), 12).accepts();
        // It may be back by the time of the answer, or have been out before.
        out(removed().says(0, configuration(3, &[1, 2], &[3])).applies(0, 3, 1), 12).accepts();
        out(removed(), 14).accepts();
    }

    #[test]
    fn who_stays_in_all_configurations_is_not_out() {
        out(three(), 12).rejects("it is in all that were in force");
        let learns = three().says(0, configuration(2, &[1, 2], &[3])).applies(0, 2, 1);
        out(learns, 12).rejects("it is in all that were in force");
        // One that is only in a log decides nothing, and even less so when it goes with it.
        out(three().says(0, configuration(2, &[1, 2], &[])), 12).rejects("it is in all that were in force");
        let lost = three().says(0, configuration(2, &[1, 2], &[])).says(0, Observed::Truncated { index: 1 });
        out(lost.applies(0, 2, 2), 12).rejects("it is in all that were in force");
    }

    fn member(change: MemberChange, incarnation: u64) -> Observed {
        let addr = std::net::SocketAddr::from(([10, 0, 0, 3], 8301));
        Observed::Member { node_id: 3, name: "n2".to_owned(), addr, incarnation, change }
    }

    fn left(bench: Bench<Orders>, asked_s: u64) -> Bench<Orders> {
        bench.on(0, Event::Ordered(&Ordered::Left { name: "n2".to_owned(), asked_ns: asked_s * S }))
    }

    fn listed(bench: Bench<Orders>) -> Bench<Orders> {
        bench.on(0, Event::Ordered(&Ordered::Listed { name: "n2".to_owned() }))
    }

    #[test]
    fn who_is_ordered_out_has_left_unless_there_is_news_of_it() {
        let sees = |changes: &[(MemberChange, u64)]| {
            let bench = Bench::new(Orders::default());
            changes.iter().fold(bench, |bench, (change, life)| bench.says(0, member(*change, *life)))
        };
        use MemberChange::{Failed, Joined, Left};
        left(sees(&[(Failed, 5)]), 2).rejects("holds it for failed as before");
        left(sees(&[(Failed, 5), (Left, 5)]), 2).accepts();
        left(sees(&[(Failed, 5), (Joined, 6), (Failed, 6)]), 2).accepts();
        left(sees(&[(Joined, 5)]), 2).accepts();
        let again = sees(&[(Failed, 5)]).on(0, Event::Started { name: "n0" });
        left(again, 2).accepts();
        listed(sees(&[(Failed, 5), (Left, 5)])).rejects("lists it");
        listed(sees(&[(Failed, 5), (Left, 5), (Joined, 6)])).accepts();
        // Another knows of a later life, of whose end this one may have heard.
        listed(sees(&[(Failed, 5), (Left, 5)]).says(1, member(Joined, 6))).accepts();
    }
}
