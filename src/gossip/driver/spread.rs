//! What this node sends: each datagram takes along what waits, first news about members, then the program's messages.

use std::net::SocketAddr;

use rand::RngExt;
use tracing::debug;

use super::alarms::Alarm;
use super::{Driver, Phase, millis};
use crate::env::Instant;
use crate::gossip::wire::{self, DatagramBuilder, MESSAGE_OVERHEAD, Part, Sender};
use crate::mutant;

/// How many quick rounds follow when there is something new.
pub(super) const QUICK_ROUNDS: u32 = 2;

impl Driver {
    fn sender(&self) -> Sender {
        Sender { id: self.id(), revision: self.me.revision, of: self.belongs() }
    }

    /// The newest version that both this node and whoever is at `addr` are known to speak.
    pub(super) fn version_for(&self, addr: SocketAddr) -> u8 {
        if self.modern.contains(&addr) { self.newest } else { wire::OLDEST }
    }

    pub(super) fn datagram(&self, to: SocketAddr, swim: &[u8]) -> DatagramBuilder {
        DatagramBuilder::new(self.version_for(to), self.newest, self.cluster, &self.sender(), swim)
            .leaving(self.sealer.overhead())
    }

    /// One part in a datagram of its own, to a node that need not be a member.
    pub(super) fn direct(&mut self, to: SocketAddr, part: &Part) {
        let mut builder = self.datagram(to, &[]);
        if builder.push(&part.encode()) {
            self.outbox.push((to, builder.finish()));
        } else {
            self.counters.unsendable += 1;
        }
    }

    /// Adds what waits to be sent: first about members, then the program's messages.
    pub(super) fn fill(&mut self, builder: &mut DatagramBuilder) {
        for part in self.queue.take(2, builder.room(), self.timing.retransmits(self.live)) {
            if !builder.push(&part) {
                self.counters.unsendable += 1;
            }
        }
        if !self.delegate_pending || builder.room() <= MESSAGE_OVERHEAD {
            return;
        }
        let messages = self.delegate.get_broadcasts(MESSAGE_OVERHEAD, builder.room());
        for message in messages {
            if !builder.push(&Part::Message(message).encode()) {
                self.counters.unsendable += 1;
            }
        }
    }

    /// Passes on what is new at once, and twice more soon after: most of the times that a message is sent at
    /// all come early, so it does not wait for a tick in every hop. Where news never ends that is done once a tick, so that
    /// a node's load has a bound (SWIM, section 5): the rest waits for the tick.
    pub(super) fn hurry(&mut self, now: Instant) {
        if now < self.next_hurry {
            return;
        }
        self.next_hurry = now + millis(self.timing.gossip_interval_ms);
        self.gossip(now);
        self.quick_rounds = QUICK_ROUNDS;
        self.arm_quick(now);
    }

    pub(super) fn arm_quick(&mut self, now: Instant) {
        if self.quick_armed || self.quick_rounds == 0 || self.foca.num_members() == 0 {
            return;
        }
        self.quick_rounds -= 1;
        self.quick_armed = true;
        self.alarms.set(now + millis(self.timing.gossip_interval_ms) / 10, Alarm::Quick);
    }

    /// One round of gossip: foca's news, and then what found no room beside it.
    pub(super) fn gossip(&mut self, now: Instant) {
        if self.foca.updates_backlog() > 0 && !matches!(self.phase, Phase::Left) {
            self.run_foca(|foca, runtime| foca.gossip(runtime));
            self.settle(now);
        }
        self.spread();
    }

    /// Sends what waits to a few random live members.
    fn spread(&mut self) {
        if matches!(self.phase, Phase::Left) {
            return;
        }
        for addr in self.random_live(self.timing.gossip_fanout as usize) {
            let mut builder = self.datagram(addr, &[]);
            self.fill(&mut builder);
            if builder.parts() == 0 {
                // Not even an empty datagram was too full: there is nothing left.
                self.delegate_pending = self.changed.is_none();
                return;
            }
            self.outbox.push((addr, builder.finish()));
        }
    }

    pub(super) fn random_live(&mut self, wanted: usize) -> Vec<SocketAddr> {
        let mut live: Vec<SocketAddr> =
            self.table.iter().filter(|entry| entry.live).map(|entry| entry.id.addr).collect();
        let wanted = wanted.min(live.len());
        for i in 0..wanted {
            let j = self.rng.random_range(i..live.len());
            live.swap(i, j);
        }
        live.truncate(wanted);
        // Mutant T01: the order comes out of a map that the system's randomness orders.
        if mutant::is("T01") {
            mutant::system_order(&mut live);
        }
        live
    }

    /// The tick runs only while there is something to send and somebody to send it to.
    pub(super) fn arm_gossip(&mut self, now: Instant) {
        if self.gossip_armed || self.foca.num_members() == 0 {
            return;
        }
        let waiting = self.foca.updates_backlog() > 0
            || !self.queue.is_empty()
            || self.delegate_pending
            || self.table.iter().any(|entry| entry.live && entry.profile.is_none());
        if waiting {
            self.gossip_armed = true;
            self.alarms.set(now + millis(self.timing.gossip_interval_ms), Alarm::Gossip);
        }
    }

    pub(super) async fn flush(&mut self) {
        for (to, datagram) in std::mem::take(&mut self.outbox) {
            let datagram = self.sealer.datagram(self.cluster, datagram);
            match self.socket.send_to(&datagram, to).await {
                Ok(()) => self.counters.sent += 1,
                Err(error) => {
                    // As good as lost on the way: probes will tell if it goes on.
                    self.counters.send_errors += 1;
                    debug!(%to, %error, "sending a datagram failed");
                }
            }
        }
    }
}
