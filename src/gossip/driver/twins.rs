//! Two agents of one id: a data directory was copied, and both copies run.
//!
//! Each of them takes what others say of the other for news of a life of its own and steps above it, so the others see one
//! node that is now here and now there, and send it what they have wherever it spoke last. Gossip cannot know which of the two
//! is the right one. It can know that there are two, and says so until one is stopped.
//!
//! A node that has moved looks the same at first: others still name its old address. So a rumour does not count. What counts
//! is an answer from the other address, for the node itself, and for the others that a node goes back to where it was, twice.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::{debug, warn};

use super::Driver;
use crate::env::Instant;
use crate::gossip::identity::Identity;
use crate::gossip::members::Member;
use crate::gossip::pushpull::{Record, State};

/// So long it counts that there were two, and so long nothing is said of it again.
const PERIOD: Duration = Duration::from_secs(300);
/// The least time between two questions to one address.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// A node that goes back so often is two.
const RETURNS: u32 = 2;
/// Of so many is remembered what there is to remember: addresses can be invented.
const MOST: usize = 64;

/// Two agents of one id: their names, which may be the same, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twins {
    /// One of them. If this node is one of the two, it comes first.
    pub first: (String, SocketAddr),
    /// The other.
    pub second: (String, SocketAddr),
}

impl fmt::Display for Twins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((first, here), (second, there)) = (&self.first, &self.second);
        write!(f, "{first} at {here} and {second} at {there}")
    }
}

/// What speaks for twins.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Which addresses were asked who is there, and when.
    asked: BTreeMap<SocketAddr, Instant>,
    /// The last move of each node.
    moves: BTreeMap<u64, Move>,
    seen: BTreeMap<u64, Seen>,
    /// Where others saw this node before they had heard of this life of it.
    elders: Vec<SocketAddr>,
    /// Whether others were joined in this life.
    joined: bool,
}

#[derive(Debug)]
struct Move {
    from: SocketAddr,
    at: Instant,
    returns: u32,
}

#[derive(Debug)]
struct Seen {
    twins: Twins,
    last: Instant,
    told: Instant,
}

impl Watch {
    fn may_ask(&mut self, addr: SocketAddr, now: Instant) -> bool {
        self.asked.retain(|_, asked| now.since(*asked) < ASK_AGAIN);
        if self.asked.contains_key(&addr) || self.asked.len() >= MOST {
            return false;
        }
        self.asked.insert(addr, now);
        true
    }

    /// A node is elsewhere now. Says whether it is two, in truth.
    fn moved(&mut self, node_id: u64, from: SocketAddr, to: SocketAddr, now: Instant) -> bool {
        self.moves.retain(|_, last| now.since(last.at) < PERIOD);
        let returns = match self.moves.get(&node_id) {
            Some(last) if last.from == to => last.returns + 1,
            None if self.moves.len() >= MOST => return false,
            _ => 0,
        };
        self.moves.insert(node_id, Move { from, at: now, returns });
        returns >= RETURNS
    }

    /// There are two. Says whether it is time to say so.
    fn saw(&mut self, node_id: u64, twins: Twins, now: Instant) -> bool {
        self.seen.retain(|_, seen| now.since(seen.last) < PERIOD);
        if let Some(seen) = self.seen.get_mut(&node_id) {
            let again = now.since(seen.told) >= PERIOD;
            let told = if again { now } else { seen.told };
            *seen = Seen { twins, last: now, told };
            return again;
        }
        if self.seen.len() >= MOST {
            return false;
        }
        self.seen.insert(node_id, Seen { twins, last: now, told: now });
        true
    }

    /// Those that were seen lately.
    pub(super) fn twins(&self, now: Instant) -> Vec<Twins> {
        let lately = self.seen.values().filter(|seen| now.since(seen.last) < PERIOD);
        lately.map(|seen| seen.twins.clone()).collect()
    }
}

impl Driver {
    /// Somebody sees this node elsewhere. If it has moved, nobody is there any more, or another.
    pub(super) fn seen_elsewhere(&mut self, id: Identity, now: Instant) {
        let me = self.id();
        let elsewhere = id.node_id == me.node_id && id.addr != me.addr && !id.leaving;
        if elsewhere && self.is_member() && self.twins.may_ask(id.addr, now) {
            debug!(addr = %id.addr, "this node is said to be elsewhere too; whoever is there is asked");
            self.exchange(id.addr, false, None);
        }
    }

    /// The first answer to this node's wish to join says what was known before it came.
    pub(super) fn note_elders(&mut self, theirs: &State) {
        if std::mem::replace(&mut self.twins.joined, true) {
            return;
        }
        let me = self.id();
        let elder =
            |record: &&Record| record.live && record.id.node_id == me.node_id && record.id.addr != me.addr;
        self.twins.elders = theirs.members.iter().filter(elder).map(|record| record.id.addr).collect();
    }

    /// Somebody of this node's id spoke, in an exchange of state. Says whether it is another agent.
    pub(super) fn met_itself(&mut self, sender: &Record, now: Instant) -> bool {
        let me = self.id();
        let name = sender.profile().map_or_else(|| self.me.name.clone(), |profile| profile.name);
        if sender.id.node_id != me.node_id || (sender.id.addr == me.addr && name == self.me.name) {
            return false;
        }
        let addr = sender.id.addr;
        let twins = Twins { first: (self.me.name.clone(), me.addr), second: (name.clone(), addr) };
        if self.twins.saw(me.node_id, twins, now) {
            warn!(
                %addr,
                name,
                "another agent uses this node's id: one of the two runs on a copied data directory; stop that one"
            );
        }
        true
    }

    /// At `asked` another agent of this node's id has answered. Who comes second must not stay: it would take from the
    /// first what is meant for it. Why this node ends, if it is the second.
    pub(super) fn must_give_way(&self, asked: SocketAddr, joins: bool, sender: &Record) -> Option<String> {
        let is_second = (joins && !self.twins.joined) || self.twins.elders.contains(&asked);
        is_second.then(|| {
            let addr = sender.id.addr;
            let name = sender.profile().map_or_else(String::new, |profile| format!("{}, ", profile.name));
            format!(
                "another agent runs with this node's id ({name}at {addr}): one of the two data directories is a copy of the \
                 other. If this one is the copy, start it with an empty data_dir; if this node has moved, stop that agent first"
            )
        })
    }

    /// A member is elsewhere than it was.
    pub(super) fn member_moved(&mut self, before: &Member, after: &Member, now: Instant) {
        if !self.twins.moved(after.node_id, before.addr, after.addr, now) {
            return;
        }
        let of = |member: &Member| (member.name.clone(), member.addr);
        let twins = Twins { first: of(before), second: of(after) };
        if self.twins.saw(after.node_id, twins.clone(), now) {
            warn!(%twins, "two agents use the id of one node: one of them runs on a copied data directory; stop that one");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(1_000_000_000 * seconds)
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_node_that_moves_is_one_and_one_that_goes_to_and_fro_is_two() {
        let mut watch = Watch::default();
        assert!(!watch.moved(1, addr(1), addr(2), at(1)));
        assert!(!watch.moved(1, addr(2), addr(1), at(2)), "it was put back");
        assert!(!watch.moved(2, addr(2), addr(1), at(2)), "another took its place");
        assert!(watch.moved(1, addr(1), addr(2), at(3)));
        assert!(!watch.moved(1, addr(2), addr(3), at(4)));
        assert!(!watch.moved(1, addr(3), addr(2), at(500)));
    }

    #[test]
    fn twins_are_told_of_at_times_and_forgotten_when_one_is_gone() {
        let mut watch = Watch::default();
        let twins = Twins { first: ("a".into(), addr(1)), second: ("b".into(), addr(2)) };
        assert!(watch.saw(1, twins.clone(), at(1)));
        assert!(!watch.saw(1, twins.clone(), at(200)));
        assert!(watch.saw(1, twins.clone(), at(301)));
        assert_eq!(watch.twins(at(600)), [twins]);
        assert_eq!(watch.twins(at(601)), []);
    }

    #[test]
    fn an_address_is_asked_once_in_a_while_and_not_too_many_at_once() {
        let mut watch = Watch::default();
        assert!(watch.may_ask(addr(1), at(1)) && !watch.may_ask(addr(1), at(60)));
        assert!(watch.may_ask(addr(1), at(61)));
        let asked = (2..200).filter(|port| watch.may_ask(addr(*port), at(62))).count();
        assert_eq!(asked, MOST - 1);
    }
}
