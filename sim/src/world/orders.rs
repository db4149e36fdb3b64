//! What an operator orders while the storm goes on: see `scenario/orders.rs`.

use std::sync::Arc;
use std::time::Duration;

use driftline::state::State;

use super::{LOOK_EVERY, World};
use crate::check::saved::Saved;
use crate::check::{self, Stop};
use crate::fault::scene::cut_off;
use crate::orders::{Came, Orderer};
use crate::scenario::nodes::node_name;
use crate::scenario::{Away, Fault, agents};
use crate::trace::WORLD;

impl World {
    pub(super) async fn remove_peer(
        self: &Arc<World>,
        fault: &Fault,
        node: u32,
        down: bool,
        duration: Duration,
    ) {
        let until = self.now().saturating_add(duration.as_nanos() as u64);
        let Some(raft_id) = self.order_out(node) else { return };
        let away = if down { ", which is down" } else { "" };
        self.begins(fault, &format!("{}{away}", node_name(node)));
        if down {
            self.hold_down(node, until);
            self.take_down(node, Stop::Kill);
        }
        let Some(orderer) = self.orderer(node) else { return };
        // Whoever leads is asked if it can answer; else somebody who may know a leader.
        let leader = self.leader().filter(|leader| !down || *leader != node);
        let orderer = Orderer { asked: leader.unwrap_or(orderer.asked), ..orderer };
        let (came, ordered) = orderer.remove_peer(node, raft_id).await;
        self.note_order(&orderer, &format!("remove-peer {}: {came:?}", node_name(node)));
        if came == Came::Refused {
            self.watch.roster().refused(raft_id);
        }
        if let Some(ordered) = ordered {
            self.watch.tell(self.now(), orderer.asked, check::Event::Ordered(&ordered));
        }
        self.universe.sleep_until(until).await;
        self.boot_if_due(node);
    }

    pub(super) async fn force_leave(
        self: &Arc<World>,
        fault: &Fault,
        node: u32,
        how: Away,
        prune: bool,
        duration: Duration,
    ) {
        let until = self.now().saturating_add(duration.as_nanos() as u64);
        let runs = self.machine(node).is_some_and(|machine| machine.is_running());
        if !runs || (!self.scenario.is_agent(node) && self.order_out(node).is_none()) {
            return;
        }
        let away = async {
            match how {
                Away::Down => self.crash(fault, &[node], Stop::Kill, duration).await,
                Away::Frozen => self.stall(fault, node, duration).await,
                Away::Cut => {
                    self.begins(fault, &node_name(node));
                    self.links(cut_off(node).into(), true, duration).await;
                }
            }
        };
        futures_util::future::join(away, self.declare_left(node, prune, until)).await;
    }

    /// The operator declares that a node has left, as soon as the one that it asks holds it for failed, or when half of the
    /// time is over.
    async fn declare_left(&self, node: u32, prune: bool, until: u64) {
        let late = self.now() + until.saturating_sub(self.now()) / 2;
        let Some(orderer) = self.orderer(node) else { return };
        while self.now() < late && !self.watch.standing().holds_for_failed(orderer.asked, node) {
            self.universe.sleep(LOOK_EVERY).await;
        }
        // The sessions that were made there end, whenever the leader hears of it.
        self.state().left_ns.extend([(node, self.now()), (node, until)]);
        let ordered = orderer.force_leave(node, prune).await;
        let said = if ordered.is_some() { "agreed" } else { "not agreed" };
        self.note_order(&orderer, &format!("force-leave {}: {said}", node_name(node)));
        let Some(ordered) = ordered else { return };
        self.watch.tell(self.now(), orderer.asked, check::Event::Ordered(&ordered));
        if prune && let Some(listed) = orderer.lists_as_gone(node).await {
            self.watch.tell(self.now(), orderer.asked, check::Event::Ordered(&listed));
        }
    }

    pub(super) async fn save_snapshot(self: &Arc<World>, fault: &Fault, node: u32, stale: bool) {
        let Some(env) = self.own.get() else { return };
        if !self.machine(node).is_some_and(|machine| machine.is_running()) {
            return;
        }
        self.begins(fault, &format!("at {}{}", node_name(node), if stale { ", stale" } else { "" }));
        let least = (!stale).then(|| self.watch.standing().furthest());
        let machine = self.experiment.extension(node, env).program.machine;
        let blank = machine.map_or_else(State::default, State::with_machine);
        let orderer = Orderer { clients: &self.clients, env, asked: node };
        let state = orderer.save(stale, blank).await;
        let said = state.as_ref().map_or("no answer".to_owned(), |state| format!("{state:?}"));
        self.note_order(&orderer, &format!("save-snapshot: {said}"));
        if let Some(state) = state {
            self.watch.tell(self.now(), node, check::Event::Saved(&Saved { state, least }));
        }
    }

    /// Whether a server may be ordered out now. If so, it is as good as done: from here on it may be taken out at any time. Its
    /// Raft id.
    fn order_out(&self, node: u32) -> Option<u64> {
        let servers = self.machines().into_keys().filter(|node| *node < agents::FIRST);
        let nobody_leaves = self.state().leaving.is_empty();
        let raft_id = self.watch.roster().order_out(node, servers, nobody_leaves)?;
        self.watch.tell(self.now(), node, check::Event::Leaves);
        Some(raft_id)
    }

    /// An operator who asks the first node after this one that runs.
    fn orderer(&self, node: u32) -> Option<Orderer<'_>> {
        let live = self.live();
        let after = live.range(node + 1..).next().or(live.iter().find(|other| **other != node));
        Some(Orderer { clients: &self.clients, env: self.own.get()?, asked: *after? })
    }

    fn note_order(&self, orderer: &Orderer<'_>, what: &str) {
        self.universe.pump.note(WORLD, "order", format!("at {}: {what}", node_name(orderer.asked)));
    }
}
