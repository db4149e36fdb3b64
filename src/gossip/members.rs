//! The table of members: what foca knows about lives, joined with what nodes say about themselves.
//!
//! Foca keeps addresses and whether something lives there. Here is one entry per *node*: the newest life
//! known of it, its profile, and whether somebody forced it to leave. What a program sees, [`Member`], is
//! always computed from the entry, and events are the differences between two such views; so there is no
//! order of messages in which events and list disagree.
//!
//! Everything but foca's verdict on liveness is merged by taking the larger of two values, so the order in
//! which facts arrive does not matter.
//!
//! The table outlives foca's memory on purpose: failed members stay, so that somebody knocks on them again
//! after a partition, until they are reaped. When that is, all agree on: whoever hears of a dead member hears how long it has been gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::allegiance::Belongs;
use super::identity::Identity;
use super::wire::{Intent, Profile};
use crate::env::Instant;
use crate::mutant;

/// How many nodes are remembered. Beyond it new ones are not listed until old ones are reaped, so that
/// invented nodes cannot fill the memory.
pub const TABLE_LIMIT: usize = 16_384;

/// What is the matter with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It answers.
    Alive,
    /// It answers, and has said that it will leave, or was told to.
    Leaving,
    /// It is gone and meant to, or was made to have left.
    Left,
    /// It is gone and nobody said why.
    Failed,
}

impl Status {
    /// Whether the member takes part.
    pub fn is_live(self) -> bool {
        matches!(self, Status::Alive | Status::Leaving)
    }
}

/// A member as programs see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node, through all its lives.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Its gossip address.
    pub addr: SocketAddr,
    /// Its program's bytes.
    pub meta: Bytes,
    /// Its life.
    pub generation: u64,
    /// How it is.
    pub status: Status,
    /// Since when it is so, on the clock of the node that was asked.
    pub since: Instant,
    /// Whether somebody ordered that it be forgotten: it is remembered, as one that left, but not listed.
    pub pruned: bool,
}

/// A difference between two views of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not live before, live now.
    Joined(Member),
    /// Not live now.
    Left(Member),
    /// Live as before, but different.
    Updated(Member),
    /// Listed for the first time, and not live: no event, it was never here.
    Listed(Member),
}

/// One node.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The newest life known.
    pub id: Identity,
    /// Foca's verdict on that life.
    pub live: bool,
    /// The newest profile known.
    pub profile: Option<Profile>,
    /// The last order to leave.
    pub intent: Option<Intent>,
    /// When this life was last heard of from itself.
    pub heard: Instant,
    /// Whether it last said that it is sure of the cluster it is of: see [`super::allegiance`].
    pub sure: bool,
    /// Since when `live` is what it is.
    since: Instant,
    /// How long it had been gone then, as whoever told of it knew. Nothing if this node saw it live.
    gone_before: Duration,
    /// What programs were told last.
    shown: Option<Member>,
}

impl Entry {
    fn is_forced_out(&self) -> bool {
        self.intent.is_some_and(|intent| intent.generation >= self.id.generation)
    }

    fn status(&self) -> Status {
        match (self.live, self.id.leaving || self.is_forced_out()) {
            (true, false) => Status::Alive,
            (true, true) => Status::Leaving,
            (false, true) => Status::Left,
            (false, false) => Status::Failed,
        }
    }

    /// Gone on somebody's order and not to be listed; kept as a tombstone, or a member that missed the order
    /// would bring it back.
    pub fn is_pruned(&self) -> bool {
        !self.live && self.is_forced_out() && self.intent.is_some_and(|intent| intent.prune)
    }

    /// For how long it has been gone, which counts on when one member tells another: were it counted anew by each, whoever has
    /// forgotten it would hear of it again from those who have not yet, without end.
    pub fn gone_for(&self, now: Instant) -> Duration {
        if self.live { Duration::ZERO } else { self.gone_before + now.since(self.since) }
    }

    fn view(&self) -> Option<Member> {
        let profile = self.profile.as_ref()?;
        let status = self.status();
        let since = match &self.shown {
            Some(shown) if shown.status == status => shown.since,
            _ => self.since,
        };
        Some(Member {
            node_id: self.id.node_id,
            name: profile.name.clone(),
            addr: self.id.addr,
            meta: profile.meta.clone(),
            generation: self.id.generation,
            status,
            since,
            pruned: self.is_pruned(),
        })
    }
}

/// What [`Table::up`] found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// It is the life listed now.
    Current,
    /// Another life of this node is known that counts more.
    Outdated,
    /// The table is full.
    Full,
}

/// All nodes known but the local one.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<u64, Entry>,
    touched: BTreeSet<u64>,
    /// How many entries are live.
    live: usize,
}

impl Table {
    /// The entry of a node.
    pub fn get(&self, node_id: u64) -> Option<&Entry> {
        self.entries.get(&node_id)
    }

    /// How many members live.
    pub fn live(&self) -> usize {
        self.live
    }

    /// All entries, by node.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Foca says that this life is active.
    pub fn up(&mut self, id: Identity, now: Instant) -> Up {
        let Some(entry) = self.entries.get_mut(&id.node_id) else {
            return if self.insert(id, None, now) { Up::Current } else { Up::Full };
        };
        // Of two lives of one generation the one that is here stays: the other will hear of it and step up.
        let rival = entry.live && id.generation == entry.id.generation && id.addr != entry.id.addr;
        // Part of mutant G04.
        let outdated = id.generation < entry.id.generation && !mutant::is("G04");
        if outdated || rival {
            return Up::Outdated;
        }
        if !entry.live {
            entry.since = now;
            entry.gone_before = Duration::ZERO;
            self.live += 1;
        }
        entry.id = id;
        entry.live = true;
        self.touched.insert(id.node_id);
        Up::Current
    }

    /// This life sent something itself.
    pub fn heard(&mut self, id: Identity, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id.node_id)
            && entry.id == id
        {
            entry.heard = now;
        }
    }

    /// A node said which cluster it is of.
    pub fn belongs(&mut self, node_id: u64, of: Option<Belongs>) {
        if let Some(entry) = self.entries.get_mut(&node_id) {
            entry.sure = of.is_some_and(|of| of.sure);
        }
    }

    /// Foca says that this life is over.
    pub fn down(&mut self, id: Identity, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id.node_id)
            && entry.id == id
            && entry.live
        {
            entry.live = false;
            entry.since = now;
            self.live -= 1;
            self.touched.insert(id.node_id);
        }
    }

    /// Foca replaced one life by another of the same node at the same address; whether it is active has not
    /// changed by that. Says whether it is the address listed here.
    pub fn renamed(&mut self, to: Identity) -> bool {
        match self.entries.get_mut(&to.node_id) {
            Some(entry) if entry.id.addr == to.addr && to.generation >= entry.id.generation => {
                entry.id = to;
                self.touched.insert(to.node_id);
                true
            }
            _ => false,
        }
    }

    /// Somebody remembers this life, which has been over for `gone_for`. Only news if the node is unknown here, or known by an
    /// earlier life that is over as well.
    pub fn remember_down(&mut self, id: Identity, gone_for: Duration, now: Instant) {
        match self.entries.get_mut(&id.node_id) {
            None => {
                self.insert(id, Some(gone_for), now);
            }
            Some(entry) if !entry.live && id.generation > entry.id.generation => {
                (entry.id, entry.since, entry.gone_before) = (id, now, gone_for);
                self.touched.insert(id.node_id);
            }
            Some(_) => {}
        }
    }

    /// A profile arrived. Says whether it is news.
    pub fn describe(&mut self, profile: &Profile) -> bool {
        let Some(entry) = self.entries.get_mut(&profile.id.node_id) else { return false };
        if entry.profile.as_ref().is_some_and(|known| known.revision >= profile.revision) {
            return false;
        }
        entry.profile = Some(profile.clone());
        self.touched.insert(profile.id.node_id);
        true
    }

    /// An order to leave arrived. Says whether it is news.
    pub fn order_out(&mut self, node_id: u64, intent: Intent) -> bool {
        let Some(entry) = self.entries.get_mut(&node_id) else { return false };
        if entry.intent.is_some_and(|known| known >= intent) {
            return false;
        }
        entry.intent = Some(intent);
        self.touched.insert(node_id);
        true
    }

    /// Forgets nodes that have been gone for `after`. Returns their last lives.
    pub fn reap(&mut self, now: Instant, after: Duration) -> Vec<Identity> {
        let old: Vec<Identity> = self
            .entries
            .values()
            .filter(|entry| !entry.live && entry.gone_for(now) >= after)
            .map(|entry| entry.id)
            .collect();
        for id in &old {
            self.entries.remove(&id.node_id);
        }
        old
    }

    /// What has changed for programs since the last call, by node.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for node_id in std::mem::take(&mut self.touched) {
            let Some(entry) = self.entries.get_mut(&node_id) else { continue };
            let view = entry.view();
            // Mutant G17: the list keeps the dead as they were, whatever generation they come back with.
            if mutant::is("G17") && entry.shown.as_ref().is_some_and(|old| !old.status.is_live()) {
                continue;
            }
            let change = match (&entry.shown, &view) {
                (_, None) => None,
                (None, Some(new)) if new.status.is_live() => Some(Change::Joined(new.clone())),
                (None, Some(new)) => Some(Change::Listed(new.clone())),
                (Some(old), Some(new)) if old == new => None,
                (Some(old), Some(new)) => match (old.status.is_live(), new.status.is_live()) {
                    (false, true) => Some(Change::Joined(new.clone())),
                    (true, false) => Some(Change::Left(new.clone())),
                    (false, false) if old.status != new.status => Some(Change::Left(new.clone())),
                    (true, true) => Some(Change::Updated(new.clone())),
                    (false, false) => Some(Change::Listed(new.clone())),
                },
            };
            entry.shown = view;
            changes.extend(change);
        }
        changes
    }

    /// One that lives, or has been gone for so long.
    fn insert(&mut self, id: Identity, gone_for: Option<Duration>, now: Instant) -> bool {
        if self.entries.len() >= TABLE_LIMIT {
            return false;
        }
        self.live += usize::from(gone_for.is_none());
        self.entries.insert(
            id.node_id,
            Entry {
                id,
                live: gone_for.is_none(),
                profile: None,
                intent: None,
                heard: Instant(0),
                sure: false,
                since: now,
                gone_before: gone_for.unwrap_or_default(),
                shown: None,
            },
        );
        self.touched.insert(id.node_id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(node_id: u64, port: u16, generation: u64) -> Identity {
        Identity { node_id, addr: SocketAddr::from(([127, 0, 0, 1], port)), generation, leaving: false }
    }

    fn profile(id: Identity, revision: u64) -> Profile {
        Profile { id, revision, name: format!("n{}", id.node_id), meta: Bytes::from(vec![revision as u8]) }
    }

    fn table_with(id: Identity) -> Table {
        let mut table = Table::default();
        table.up(id, Instant(1));
        table.describe(&profile(id, 1));
        assert!(matches!(table.changes()[..], [Change::Joined(_)]));
        table
    }

    #[test]
    fn a_member_appears_once_it_is_described() {
        let mut table = Table::default();
        table.up(id(1, 1, 1), Instant(1));
        assert_eq!(table.changes(), []);
        table.describe(&profile(id(1, 1, 1), 1));
        assert!(matches!(&table.changes()[..], [Change::Joined(m)] if m.status == Status::Alive));
    }

    #[test]
    fn one_that_said_so_has_left_and_one_that_did_not_has_failed() {
        let mut table = table_with(id(1, 1, 1));
        table.down(id(1, 1, 1), Instant(5));
        assert!(matches!(&table.changes()[..], [Change::Left(m)] if m.status == Status::Failed));

        let mut table = table_with(id(1, 1, 1));
        let leaving = Identity { leaving: true, ..id(1, 1, 2) };
        table.renamed(leaving);
        assert!(matches!(&table.changes()[..], [Change::Updated(m)] if m.status == Status::Leaving));
        table.down(leaving, Instant(5));
        assert!(matches!(&table.changes()[..], [Change::Left(m)] if m.status == Status::Left));
    }

    #[test]
    fn a_node_at_a_new_address_is_not_failed_by_the_death_of_the_old_one() {
        let mut table = table_with(id(1, 1, 1));
        assert_eq!(table.up(id(1, 2, 2), Instant(3)), Up::Current);
        assert!(matches!(&table.changes()[..], [Change::Updated(m)] if m.addr.port() == 2));
        table.down(id(1, 1, 1), Instant(4));
        assert_eq!(table.changes(), []);
        assert_eq!(table.up(id(1, 1, 1), Instant(5)), Up::Outdated);
        assert!(!table.renamed(id(1, 1, 3)), "whether it is back there only foca knows");
        assert_eq!(table.get(1).unwrap().id, id(1, 2, 2));
    }

    #[test]
    fn an_order_holds_for_the_lives_it_names_and_no_later_one() {
        let mut table = table_with(id(1, 1, 1));
        assert!(table.order_out(1, Intent { generation: 1, prune: false }));
        assert!(!table.order_out(1, Intent { generation: 1, prune: false }));
        assert!(matches!(&table.changes()[..], [Change::Updated(m)] if m.status == Status::Leaving));
        table.renamed(id(1, 1, 2));
        assert!(matches!(&table.changes()[..], [Change::Updated(m)] if m.status == Status::Alive));
        table.down(id(1, 1, 2), Instant(5));
        table.changes();
        table.order_out(1, Intent { generation: 2, prune: false });
        assert!(matches!(&table.changes()[..], [Change::Left(m)] if m.status == Status::Left));
        table.order_out(1, Intent { generation: 2, prune: true });
        assert!(matches!(&table.changes()[..], [Change::Listed(m)] if m.pruned && m.status == Status::Left));
        assert!(table.get(1).unwrap().is_pruned());
        table.remember_down(id(1, 1, 2), Duration::ZERO, Instant(9));
        assert_eq!(table.changes(), [], "a laggard does not bring it back");
        table.up(id(1, 1, 3), Instant(9));
        assert!(matches!(&table.changes()[..], [Change::Joined(_)]));
    }

    #[test]
    fn the_gone_are_reaped_and_the_live_are_not() {
        let mut table = table_with(id(1, 1, 1));
        table.up(id(2, 2, 1), Instant(1));
        table.down(id(1, 1, 1), Instant(10));
        assert_eq!(table.reap(Instant(19), Duration::from_nanos(10)), []);
        assert_eq!((table.live(), table.iter().count()), (1, 2));
        assert_eq!(table.reap(Instant(20), Duration::from_nanos(10)), [id(1, 1, 1)]);
        assert!(table.get(1).is_none() && table.get(2).is_some());
        // Of what others tell, their time counts too.
        table.remember_down(id(1, 1, 1), Duration::from_nanos(7), Instant(30));
        assert_eq!(table.get(1).unwrap().gone_for(Instant(31)), Duration::from_nanos(8));
        assert_eq!(table.reap(Instant(32), Duration::from_nanos(10)), []);
        table.up(id(2, 2, 2), Instant(32));
        assert_eq!(table.live(), 1);
        assert_eq!(table.reap(Instant(33), Duration::from_nanos(10)), [id(1, 1, 1)]);
    }

    #[derive(Clone, Debug)]
    enum Fact {
        Profile(u64, u64),
        Intent(u64, Intent),
        Down(Identity),
    }

    fn fact() -> impl Strategy<Value = Fact> {
        prop_oneof![
            (0u64..3, 0u64..5).prop_map(|(node, revision)| Fact::Profile(node, revision)),
            (0u64..3, 0u64..4, any::<bool>())
                .prop_map(|(node, generation, prune)| Fact::Intent(node, Intent { generation, prune })),
            // One address per life, as in the world.
            (0u64..3, 0u64..4).prop_map(|(node, generation)| Fact::Down(id(
                node,
                9 + generation as u16,
                generation
            ))),
        ]
    }

    fn learn(facts: &[Fact]) -> Vec<(Identity, Option<Profile>, Option<Intent>)> {
        let mut table = Table::default();
        for node in 0..3 {
            table.remember_down(id(node, 1, 0), Duration::ZERO, Instant(0));
        }
        for fact in facts {
            match fact {
                Fact::Profile(node, revision) => {
                    table.describe(&profile(id(*node, 1, 0), *revision));
                }
                Fact::Intent(node, intent) => {
                    table.order_out(*node, *intent);
                }
                Fact::Down(id) => table.remember_down(*id, Duration::ZERO, Instant(0)),
            }
        }
        table.iter().map(|e| (e.id, e.profile.clone(), e.intent)).collect()
    }

    proptest! {
        #[test]
        fn facts_may_come_in_any_order_and_repeatedly(
            (facts, shuffled) in prop::collection::vec(fact(), 0..20)
                .prop_flat_map(|facts| (Just(facts.clone()), Just(facts).prop_shuffle())),
        ) {
            // Generation 0 exists already at another address: the first life known is kept.
            let later = |facts: Vec<Fact>| -> Vec<Fact> {
                facts.into_iter().filter(|f| !matches!(f, Fact::Down(id) if id.generation == 0)).collect()
            };
            let (facts, shuffled) = (later(facts), later(shuffled));
            let once = learn(&facts);
            prop_assert_eq!(&once, &learn(&shuffled));
            let twice: Vec<_> = facts.iter().chain(&facts).cloned().collect();
            prop_assert_eq!(&once, &learn(&twice));
        }
    }
}
