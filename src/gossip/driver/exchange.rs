//! Push/pull: two nodes tell each other all they know, over a stream (`pushpull`), and merge it.
//!
//! An exchange is a task of its own that touches nothing of the loop's: it reports what it heard, and the loop merges.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use foca::State;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::alarms::Alarm;
use super::{Driver, millis};
use crate::env::{BoxStream, Instant};
use crate::gossip::NotJoined;
use crate::gossip::identity::Identity;
use crate::gossip::pushpull::{self, MAX_EXCHANGES, MAX_USER_STATE, Record, Terms};
use crate::gossip::wire::{FrameError, Garbage, Intent, Profile};
use crate::mutant;

/// What a task of an exchange has to say.
pub(super) enum Report {
    /// An exchange that we began is over.
    Exchanged {
        number: u64,
        addr: SocketAddr,
        result: Result<pushpull::State, String>,
        reply: Option<oneshot::Sender<Result<(), NotJoined>>>,
    },
    /// A peer sent its state and waits for ours.
    Incoming { theirs: pushpull::State, reply: oneshot::Sender<Vec<u8>> },
    /// A peer's exchange is over.
    Served { number: u64, peer: SocketAddr, result: Result<(), FrameError> },
}

impl Driver {
    pub(super) fn on_stream(&mut self, stream: BoxStream, peer: SocketAddr) {
        if self.exchanges.len() >= MAX_EXCHANGES || !self.is_member() {
            debug!(%peer, "refused a stream");
            return;
        }
        let place = match self.places.take(peer.ip()) {
            Ok(place) => place,
            Err(full) => {
                debug!(%peer, %full, "refused a stream");
                return;
            }
        };
        self.exchange_number += 1;
        let number = self.exchange_number;
        let (env, reporter) = (self.env.clone(), self.reporter.clone());
        let terms = self.terms(self.newest);
        let task = self.env.spawn(async move {
            let merge = |theirs| {
                let reporter = reporter.clone();
                async move {
                    let (reply, answer) = oneshot::channel();
                    reporter.send(Report::Incoming { theirs, reply }).await.ok()?;
                    answer.await.ok()
                }
            };
            let result = pushpull::serve(&env, stream, &terms, merge).await;
            drop(place);
            let _ = reporter.send(Report::Served { number, peer, result }).await;
        });
        self.exchanges.insert(number, task.abort_on_drop());
    }

    pub(super) fn exchange(
        &mut self,
        addr: SocketAddr,
        join: bool,
        reply: Option<oneshot::Sender<Result<(), NotJoined>>>,
    ) {
        if self.exchanges.len() >= MAX_EXCHANGES {
            if let Some(reply) = reply {
                let _ =
                    reply.send(Err(NotJoined::Failed("too many exchanges at once, try again".to_owned())));
            }
            return;
        }
        self.exchange_number += 1;
        self.counters.exchanges += 1;
        let number = self.exchange_number;
        let ours = self.state(join).encode();
        let (env, reporter) = (self.env.clone(), self.reporter.clone());
        let terms = self.terms(self.version_for(addr));
        let task = self.env.spawn(async move {
            let result = pushpull::initiate(&env, addr, &terms, ours).await;
            let _ = reporter.send(Report::Exchanged { number, addr, result, reply }).await;
        });
        self.exchanges.insert(number, task.abort_on_drop());
    }

    fn terms(&self, version: u8) -> Terms {
        let timeout = millis(self.timing.stream_timeout_ms);
        Terms { version, cluster: self.cluster, timeout, sealer: self.sealer.clone() }
    }

    pub(super) fn on_report(&mut self, report: Report, now: Instant) {
        match report {
            Report::Served { number, peer, result } => {
                self.exchanges.remove(&number);
                if let Err(error) = result {
                    self.counters.exchange_errors += 1;
                    debug!(%peer, %error, "a peer's exchange failed");
                    if let FrameError::Garbage(garbage) = error {
                        self.turned_away(garbage, peer, now);
                    }
                }
            }
            Report::Incoming { theirs, reply } => {
                let ours = self.state(false);
                if let Err(other) = self.hears(theirs.of) {
                    self.turned_away(Garbage::Foreign(other), theirs.sender.id.addr, now);
                    // It is told which cluster this node is of, and nothing else.
                    let refusal = pushpull::State { members: Vec::new(), user: Bytes::new(), ..ours };
                    let _ = reply.send(refusal.encode());
                    return;
                }
                // A sender with our own id is ourselves, or a copy of our data directory.
                if theirs.sender.id.node_id == self.id().node_id {
                    self.met_itself(&theirs.sender, now);
                } else if self.is_member() {
                    self.merge(theirs, false, now);
                }
                let _ = reply.send(ours.encode());
            }
            Report::Exchanged { number, addr, result, reply } => {
                self.exchanges.remove(&number);
                let result = result.map_err(NotJoined::Failed).and_then(|theirs| {
                    if theirs.sender.id.node_id == self.id().node_id {
                        if !self.met_itself(&theirs.sender, now) {
                            return Err(NotJoined::Itself);
                        }
                        let joins = reply.is_some();
                        self.must_end =
                            self.must_give_way(addr, joins, &theirs.sender).or(self.must_end.take());
                        let text = "another agent uses this node's id there".to_owned();
                        return Err(NotJoined::Failed(text));
                    }
                    if let Err(other) = self.hears(theirs.of) {
                        self.turned_away(Garbage::Foreign(other), addr, now);
                        return Err(NotJoined::Failed(other.to_string()));
                    }
                    Ok(theirs)
                });
                let outcome = match result {
                    Ok(theirs) => {
                        let peer = theirs.sender.id;
                        if reply.is_some() {
                            self.note_elders(&theirs);
                        }
                        self.merge(theirs, reply.is_some(), now);
                        if reply.is_some() {
                            // Opens the way by datagram as well, and brings a second opinion on who lives.
                            self.run_foca(|foca, runtime| foca.announce(peer, runtime));
                        }
                        Ok(())
                    }
                    Err(error) => {
                        self.env.reachable("an exchange of state fails");
                        self.counters.exchange_errors += 1;
                        debug!(%addr, %error, "an exchange failed");
                        Err(error)
                    }
                };
                if let Some(reply) = reply {
                    // Who joined may look at the members at once.
                    self.settle(now);
                    self.publish();
                    let _ = reply.send(outcome);
                }
            }
        }
    }

    /// All this node knows.
    pub(super) fn state(&self, join: bool) -> pushpull::State {
        let (incarnations, now) = (self.incarnations(), self.env.now());
        let members = self
            .table
            .iter()
            .map(|entry| Record {
                id: entry.id,
                incarnation: incarnations.get(&entry.id).copied().unwrap_or_default(),
                live: entry.live,
                profile: entry.profile.as_ref().map(|p| (p.revision, p.name.clone(), p.meta.clone())),
                intent: entry.intent,
                gone_for_ms: entry.gone_for(now).as_millis().try_into().unwrap_or(u64::MAX),
            })
            .collect();
        let mut user = self.delegate.local_state(join);
        if user.len() > MAX_USER_STATE {
            warn!(bytes = user.len(), limit = MAX_USER_STATE, "the program's state is too large to be sent");
            user = Bytes::new();
        }
        let sender = Record {
            id: self.id(),
            incarnation: 0,
            live: true,
            profile: Some((self.me.revision, self.me.name.clone(), self.me.meta.clone())),
            intent: None,
            gone_for_ms: 0,
        };
        pushpull::State { join, sender, members, user, of: self.belongs() }
    }

    fn incarnations(&self) -> BTreeMap<Identity, u16> {
        self.foca.iter_membership_state().map(|member| (*member.id(), member.incarnation())).collect()
    }

    /// Merges what a peer knows. Its word on who lives is taken; its word that somebody we see alive is dead
    /// is not: that node is told instead, and takes a new generation that everybody believes.
    fn merge(&mut self, theirs: pushpull::State, join: bool, now: Instant) {
        let peer = theirs.sender.id.node_id;
        let incarnations = self.incarnations();
        for record in std::iter::once(theirs.sender).chain(theirs.members) {
            let id = record.id;
            if id.node_id == self.id().node_id {
                self.about_me(&record, now);
                continue;
            }
            // Foca looks for whom it is told of among all whom it knows, and almost all of what members tell each other is no news.
            let is_news = !record.live
                || self.table.get(id.node_id).is_none_or(|entry| entry.id != id || !entry.live)
                || incarnations.get(&id).is_none_or(|known| record.incarnation > *known);
            if is_news {
                self.merge_record(&record, now);
                self.settle(now);
            }
            if let Some(profile) = record.profile()
                && self.table.describe(&profile)
                && id.node_id == peer
            {
                self.announce_profile(&profile);
            }
            if let Some(intent) = record.intent {
                self.table.order_out(id.node_id, intent);
            }
        }
        self.settle(now);
        self.table.belongs(peer, theirs.of);
        self.delegate.merge_remote_state(&theirs.user, join);
    }

    fn merge_record(&mut self, record: &Record, now: Instant) {
        let id = record.id;
        let known = self.table.get(id.node_id).map(|entry| (entry.id, entry.live));
        let claim = |state| foca::Member::new(id, record.incarnation, state);
        let gone_for = millis(record.gone_for_ms);
        match (record.live, known) {
            (_, None) if self.is_crowded() => self.counters.table_full += 1,
            // Forgotten here, or it would be by now.
            (false, None) if gone_for >= millis(self.timing.reap_after_ms) => {}
            (true, None) => {
                self.env.reachable("an exchange of state brings a member that gossip had not");
                self.apply(claim(State::Alive), true);
            }
            (true, Some((known, live)))
                if id.generation > known.generation
                    // Mutant G01: somebody who missed the death of this life resurrects it.
                    || (id == known && (live || mutant::is("G01"))) =>
            {
                self.apply(claim(State::Alive), true);
            }
            (true, Some((known, false))) if id == known => {
                self.env.reachable("a peer still takes for alive a life that is known to be over");
                self.tell_stale(id.node_id, id.addr, now);
            }
            // Mutant G04: somebody who has not heard of a later life brings the earlier one back.
            (true, Some((known, _))) if mutant::is("G04") && id.generation < known.generation => {
                self.table.up(id, now);
            }
            (true, Some(_)) => {}
            (false, None) => {
                self.table.remember_down(id, gone_for, now);
                // So that no rumour of its life makes it appear.
                self.apply(claim(State::Down), false);
            }
            (false, Some((known, true))) if id == known => {
                if id.leaving {
                    self.apply(claim(State::Down), true);
                } else {
                    self.env.reachable("a peer's word that a live member is dead is not taken");
                    self.tell_stale(id.node_id, id.addr, now);
                }
            }
            (false, Some((known, _))) if id.generation > known.generation => {
                self.apply(claim(State::Down), true);
                self.settle(now);
                self.table.remember_down(id, gone_for, now);
            }
            (false, Some(_)) => {}
        }
    }

    /// Somebody has a record of this node.
    fn about_me(&mut self, record: &Record, now: Instant) {
        let me = self.id();
        let id = record.id;
        if id.generation > me.generation || (id.generation == me.generation && (id != me || !record.live)) {
            self.jump(id.generation, now);
        }
        if record.live {
            self.seen_elsewhere(id, now);
        }
        if let Some(profile) = record.profile() {
            self.about_my_profile(&profile, now);
        }
        if let Some(intent) = record.intent {
            self.ordered_out(intent, now);
        }
    }

    pub(super) fn about_my_profile(&mut self, profile: &Profile, now: Instant) {
        let me = &self.me;
        let same = (&profile.name, &profile.meta) == (&me.name, &me.meta);
        if profile.revision > me.revision || (profile.revision == me.revision && !same) {
            self.contradict(profile.revision, now);
        }
    }

    pub(super) fn ordered_out(&mut self, intent: Intent, now: Instant) {
        if !self.is_member() || intent.generation < self.id().generation {
            return;
        }
        if self.ordered_out.is_none() {
            self.alarms.set(now + millis(self.timing.refute_delay_ms), Alarm::Refute);
        }
        self.ordered_out = self.ordered_out.max(Some(intent.generation));
    }
}
