//! What datagrams bring: foca's packet, news about members, the program's messages, and round trips that tell where this
//! node stands in the network.

use std::net::SocketAddr;

use tracing::{debug, warn};

use super::{Driver, Phase, millis};
use crate::env::Instant;
use crate::env::strangers::Notice;
use crate::gossip::identity::Identity;
use crate::gossip::members::TABLE_LIMIT;
use crate::gossip::wire::{self, DatagramBuilder, Garbage, Part, Sender};
use crate::mutant;

/// How many addresses foca may know. At that many nobody adds any: somebody invents them.
const MAX_ADDRESSES: usize = 2 * TABLE_LIMIT;

/// A probe of foca's that is under way: for the round trip that its answer ends.
pub(super) struct Trip {
    pub(super) to: Identity,
    pub(super) number: foca::ProbeNumber,
    pub(super) began: Instant,
}

impl Driver {
    pub(super) fn on_datagram(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) {
        self.counters.received += 1;
        if matches!(self.phase, Phase::Left) {
            return;
        }
        let opened = self.sealer.open_datagram(self.cluster, bytes);
        let datagram = opened.as_ref().map_err(|garbage| *garbage);
        let datagram =
            match datagram.and_then(|bytes| wire::decode_datagram(bytes, self.cluster, self.newest)) {
                Ok(datagram) => datagram,
                Err(garbage) => {
                    let damaged = matches!(garbage, Garbage::Damaged);
                    self.env.sometimes(damaged, "a damaged datagram is dropped");
                    debug!(%from, %garbage, "dropped a datagram");
                    self.turned_away(garbage, from, now);
                    return;
                }
            };
        self.counters.malformed += datagram.skipped as u64;
        let sender = datagram.sender;
        if sender.id.node_id == self.id().node_id || sender.id.addr == self.id().addr {
            debug!(%from, "a datagram claims to be from this node");
            self.counters.malformed += 1;
            self.seen_elsewhere(sender.id, now);
            return;
        }
        if let Err(other) = self.hears(sender.of) {
            debug!(%from, %other, "dropped a datagram");
            self.turned_away(Garbage::Foreign(other), from, now);
            return;
        }
        if datagram.speaks <= wire::OLDEST {
            self.modern.remove(&sender.id.addr);
        } else if self.modern.len() < MAX_ADDRESSES {
            // Past that, more are spoken to in the oldest version, which everybody understands.
            self.modern.insert(sender.id.addr);
        }
        if self.is_crowded() && self.names_strangers(sender.id, datagram.swim) {
            self.counters.table_full += 1;
            return;
        }
        self.end_trip(&datagram, now);
        let (swim, buried) = match header(datagram.swim) {
            // Mutant G22: foca takes the next generation itself, and at once.
            Some(foca::Header { dst, message: foca::Message::TurnUndead, .. }) if !mutant::is("G22") => {
                (&[][..], Some(dst))
            }
            _ => (datagram.swim, None),
        };
        self.greet(sender.id, swim.is_empty(), now);
        if !swim.is_empty() {
            self.env.sometimes_if(
                || self.asked_others && is_forwarded_ack(swim),
                "a member that missed its probe answers through another",
            );
            let result = self.foca.handle_data(swim, &mut self.runtime);
            self.foca_result(result);
        }
        self.settle(now);
        self.table.heard(sender.id, now);
        self.table.belongs(sender.id.node_id, sender.of);
        self.compare_profiles(&sender, now);
        let mut asked = false;
        for part in datagram.parts {
            // Nobody asks twice at once. Each question costs a datagram, and a datagram has room for hundreds of them.
            if part.asks() && std::mem::replace(&mut asked, true) {
                self.counters.malformed += 1;
                continue;
            }
            self.on_part(part, &sender, now);
        }
        // Foca would take the next generation at once and say so, be told again that it is too low, and so on as fast
        // as datagrams fly. Here it waits its turn, and goes above what a part of this datagram may have named.
        if buried == Some(self.id()) {
            let before = self.id().generation;
            self.jump(before, now);
            self.env.sometimes(
                self.id().generation > before,
                "a node hears of its own death and comes back with a higher incarnation",
            );
        }
    }

    /// Whether foca knows as many addresses as it may.
    pub(super) fn is_crowded(&self) -> bool {
        self.foca.iter_membership_state().len() >= MAX_ADDRESSES
    }

    /// Whether foca would learn of an address from a datagram of this sender.
    fn names_strangers(&self, sender: Identity, swim: &[u8]) -> bool {
        let told = updates(swim).unwrap_or_default();
        let mut named = told.iter().map(|member| *member.id()).chain([sender]);
        named.any(|id| !self.foca.iter_membership_state().any(|known| known.id().addr == id.addr))
    }

    /// Counts what was not believed, and says once in a while who is a stranger.
    pub(super) fn turned_away(&mut self, garbage: Garbage, from: SocketAddr, now: Instant) {
        match garbage {
            Garbage::OtherCluster | Garbage::Foreign(_) => self.counters.other_cluster += 1,
            Garbage::Damaged => self.counters.damaged += 1,
            Garbage::Version | Garbage::Malformed => self.counters.malformed += 1,
            Garbage::Unencrypted => self.counters.unencrypted += 1,
            Garbage::WrongKey | Garbage::NoKey => self.counters.undecryptable += 1,
        }
        if !garbage.is_strange() {
            return;
        }
        match self.strangers.turned_away(now, from.ip()) {
            Some(Notice { times, crowd: false }) => {
                warn!(%from, %garbage, times, "a stranger to this cluster's gossip is kept out");
            }
            Some(Notice { times, crowd: true }) => {
                warn!(%from, %garbage, times, "many strangers to this cluster's gossip are kept out");
            }
            None => {}
        }
    }

    /// A node spoke: it lives, unless we know better about this life of it.
    fn greet(&mut self, id: Identity, without_swim: bool, now: Instant) {
        if let Some(entry) = self.table.get(id.node_id) {
            if entry.id == id && entry.live {
                return;
            }
            if entry.id.generation >= id.generation {
                self.tell_stale(id.node_id, id.addr, now);
                return;
            }
        }
        // Foca also remembers who had the address before, and takes the higher generation for the later holder. Whoever
        // gets an address that another node has given up must therefore exceed that node's generation, in one step.
        let beaten_by = self
            .foca
            .iter_membership_state()
            .map(|member| *member.id())
            .filter(|known| known.addr == id.addr && known.node_id != id.node_id)
            .filter(|known| foca::Identity::win_addr_conflict(known, &id))
            .map(|known| known.generation)
            .max();
        if let Some(generation) = beaten_by {
            self.tell_stale_of(id.node_id, id.addr, generation, now);
        } else if without_swim {
            self.apply(foca::Member::alive(id), true);
        }
    }

    fn compare_profiles(&mut self, sender: &Sender, now: Instant) {
        let id = sender.id;
        let Some(entry) = self.table.get(id.node_id) else { return };
        let known = entry.profile.as_ref().map(|profile| profile.revision);
        if entry.id != id || known == Some(sender.revision) {
            return;
        }
        let pause = millis(self.timing.gossip_interval_ms);
        if self.asked.get(&id.node_id).is_some_and(|asked| now.since(*asked) < pause) {
            return;
        }
        let part = match &entry.profile {
            // It does not know what it once said about itself: it lost its memory.
            Some(profile) if profile.revision > sender.revision => Part::Profile(profile.clone()),
            _ => Part::WhoIs,
        };
        self.asked.insert(id.node_id, now);
        self.direct(id.addr, &part);
    }

    fn on_part(&mut self, part: Part, sender: &Sender, now: Instant) {
        let me = self.id();
        match part {
            Part::Message(message) => self.delegate.notify_msg(&message),
            Part::WhoIs => self.direct(sender.id.addr, &Part::Profile(self.me.clone())),
            Part::Profile(profile) if !profile.is_sane() => self.counters.malformed += 1,
            Part::Profile(profile) if profile.id.node_id == me.node_id => {
                self.about_my_profile(&profile, now);
            }
            Part::Profile(profile) => {
                let id = profile.id;
                if self.is_crowded() && self.table.get(id.node_id).is_none() {
                    self.counters.table_full += 1;
                } else if self.table.get(id.node_id).is_none_or(|entry| id.generation > entry.id.generation) {
                    self.apply(foca::Member::alive(id), true);
                    self.settle(now);
                }
                if self.table.describe(&profile) {
                    self.announce_profile(&profile);
                }
            }
            Part::Stale { node_id, generation, revision } if node_id == me.node_id => {
                if generation >= me.generation {
                    self.jump(generation, now);
                }
                if revision > self.me.revision {
                    self.contradict(revision, now);
                }
                // Mutant G03: who is told that it is behind tells the teller the same, and so on.
                if mutant::is("G03") {
                    let Sender { id, revision, .. } = *sender;
                    let generation = id.generation.saturating_sub(1);
                    self.direct(id.addr, &Part::Stale { node_id: id.node_id, generation, revision });
                }
            }
            // A coordinate belongs to the answer that it came with: see `end_trip`.
            Part::Stale { .. } | Part::Speaks(_) | Part::Coordinate(_) => {}
            Part::Leave { id, intent } if id.node_id == me.node_id => self.ordered_out(intent, now),
            Part::Leave { id, intent } => {
                if self.table.order_out(id.node_id, intent) {
                    self.announce_order(id, intent);
                }
            }
            Part::Suspicion { suspect, incarnation, .. } if suspect.node_id == me.node_id => {
                if suspect == me {
                    self.refute(incarnation, sender.id);
                }
            }
            Part::Suspicion { .. } if self.table.get(sender.id.node_id).is_none_or(|entry| !entry.live) => {}
            Part::Suspicion { suspect, incarnation, jury: true } => {
                self.take_case(suspect, incarnation, sender.id, now);
            }
            Part::Suspicion { suspect, incarnation, jury: false } => {
                self.confirm(suspect, incarnation, sender.id.node_id, now);
            }
        }
    }

    /// Foca sends a packet: a probe begins a trip, and the answer to one takes this node's coordinate along.
    pub(super) fn note_probe(
        &mut self,
        packet: &[u8],
        to: SocketAddr,
        builder: &mut DatagramBuilder,
        now: Instant,
    ) {
        match header(packet) {
            Some(foca::Header { dst, message: foca::Message::Ping(number), .. }) => {
                self.trip = Some(Trip { to: dst, number, began: now });
            }
            Some(foca::Header { message: foca::Message::Ack(_), .. })
                if self.version_for(to) > wire::OLDEST =>
            {
                // Should it not fit, the other learns nothing from this trip.
                builder.push(&Part::Coordinate(self.place.coordinate()).encode());
            }
            _ => {}
        }
    }

    /// The answer to this node's own probe ends a trip, if it says where it comes from.
    fn end_trip(&mut self, datagram: &wire::Datagram<'_>, now: Instant) {
        let Some(Trip { to, number, began }) = self.trip else { return };
        let coordinate = datagram.parts.iter().find_map(|part| match part {
            Part::Coordinate(coordinate) => Some(*coordinate),
            _ => None,
        });
        let Some(coordinate) = coordinate.filter(|_| datagram.sender.id == to) else { return };
        let answers = header(datagram.swim)
            .is_some_and(|header| header.src == to && header.message == foca::Message::Ack(number));
        if !answers {
            return;
        }
        self.trip = None;
        let took = now.since(began);
        if let Err(ignored) = self.place.observe(to.node_id, &coordinate, took, &mut self.place_rng) {
            debug!(addr = %to.addr, %ignored, "a round trip does not count");
        }
    }
}

/// Whether a packet of foca's says that a member was reached through another.
pub(super) fn is_forwarded_ack(packet: &[u8]) -> bool {
    header(packet).is_some_and(|header| matches!(header.message, foca::Message::ForwardedAck { .. }))
}

/// What a packet of foca's tells of members, if it can be read.
fn updates(packet: &[u8]) -> Option<Vec<foca::Member<Identity>>> {
    let (_, rest) = postcard::take_from_bytes::<foca::Header<Identity>>(packet).ok()?;
    let (count, mut rest) = rest.split_first_chunk::<2>()?;
    let mut told = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (member, after) = postcard::take_from_bytes(rest).ok()?;
        told.push(member);
        rest = after;
    }
    Some(told)
}

/// What a packet of foca's says first.
pub(super) fn header(packet: &[u8]) -> Option<foca::Header<Identity>> {
    postcard::take_from_bytes::<foca::Header<Identity>>(packet).ok().map(|(header, _)| header)
}

#[cfg(test)]
mod tests {
    use foca::{AccumulatingRuntime, Foca, Member, PostcardCodec};

    use super::*;
    use crate::env::real::env_in_memory;

    #[test]
    fn what_a_packet_tells_of_members_is_read_as_foca_writes_it() {
        let id = |node_id: u64| {
            let addr = SocketAddr::from(([127, 0, 0, 1], node_id as u16));
            Identity { node_id, addr, generation: 300, leaving: false }
        };
        let env = env_in_memory(1);
        let mut foca = Foca::new(id(1), foca::Config::simple(), env.rng("foca"), PostcardCodec);
        let mut runtime = AccumulatingRuntime::new();
        let told = [Member::alive(id(2)), Member::new(id(3), 7, foca::State::Down)];
        foca.apply_many(told.iter().cloned(), true, &mut runtime).unwrap();
        foca.gossip(&mut runtime).unwrap();
        let (_, packet) = runtime.to_send().unwrap();
        let mut read = updates(&packet).unwrap();
        read.sort_by_key(|member| *member.id());
        assert_eq!(read, told);
        assert_eq!(updates(&packet[..packet.len() - 1]), None);
    }
}
