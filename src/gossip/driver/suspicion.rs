//! From a failed probe to a death, as in Lifeguard (Dadgar, Phillips and Currey, 2018): a suspicion lasts long when only
//! this node holds it and shorter with every member that confirms it by a probe of its own, and the suspect may object.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use foca::{State, Timer};
use tracing::info;

use super::alarms::Alarm;
use super::{Driver, millis};
use crate::env::observe::MemberChange;
use crate::env::{Instant, Observed};
use crate::gossip::identity::Identity;
use crate::gossip::wire::Part;
use crate::mutant;

/// How many confirmations make a suspicion as short as it gets.
const CONFIRMATIONS: usize = 3;
/// How many members are asked for a confirmation: a few more, because datagrams get lost.
const JURORS: usize = 5;
/// How many cases a juror takes at once. It does not answer to more; the accuser waits longer then.
pub(super) const MAX_CASES: usize = 1_024;
/// How slow a node can believe itself to be, at most; memberlist's awareness, with less of it.
pub(super) const MAX_SLOWNESS: u32 = 4;

/// Who suspects a member.
pub(super) struct Claim {
    pub(super) id: Identity,
    pub(super) incarnation: u16,
    /// The nodes whose own probes failed.
    pub(super) from: BTreeSet<u64>,
    /// This node's own suspicion: since when, and foca's timer that ends it.
    pub(super) own: Option<(Instant, Timer<Identity>)>,
}

/// Another member asked this node to see for itself whether a third is alive.
pub(super) struct Case {
    pub(super) suspect: Identity,
    pub(super) incarnation: u16,
    pub(super) accuser: SocketAddr,
    pub(super) asked: Instant,
}

impl Driver {
    /// Foca's own probe of a member failed, and `timer` is what would declare it dead.
    pub(super) fn suspect(&mut self, id: Identity, incarnation: u16, timer: Timer<Identity>, now: Instant) {
        self.raised = true;
        self.confirm(id, incarnation, self.id().node_id, now);
        let Some(claim) = self.claims.get_mut(&id.node_id) else {
            // The table does not list it: foca's clock is as good as any.
            self.alarms.set(now + self.timing.suspicion(self.live).0, Alarm::Foca(timer));
            return;
        };
        let since = claim.own.as_ref().map(|(since, _)| *since);
        // The same suspicion again changes nothing but foca's timer, whose token may be newer.
        claim.own = Some((since.unwrap_or(now), timer));
        if since.is_some() {
            return;
        }
        self.counters.suspicions += 1;
        let name = self.name_of(id.node_id);
        info!(member = %name, addr = %id.addr, "a member does not answer and is suspected");
        self.env.observe(Observed::Member {
            node_id: id.node_id,
            name,
            addr: id.addr,
            incarnation: id.generation,
            change: MemberChange::Suspected,
        });
        // The suspect itself is the first to be told (Lifeguard's buddy system). Others are asked to see for
        // themselves: their word makes the suspicion shorter, and they tell the suspect too, on their ways.
        self.direct(id.addr, &Part::Suspicion { suspect: id, incarnation, jury: false });
        let jurors = self.random_live(JURORS + 1).into_iter().filter(|addr| *addr != id.addr).take(JURORS);
        for juror in jurors.collect::<Vec<_>>() {
            self.direct(juror, &Part::Suspicion { suspect: id, incarnation, jury: true });
        }
        self.arm_suspicion(id.node_id, now);
    }

    /// Another member's probes of `suspect` failed. Sees for itself.
    pub(super) fn take_case(&mut self, suspect: Identity, incarnation: u16, accuser: Identity, now: Instant) {
        if self.confirm(suspect, incarnation, accuser.node_id, now).is_none() {
            return;
        }
        if self.claims.get(&suspect.node_id).is_some_and(|claim| claim.own.is_some()) {
            self.env.reachable("a juror suspects the same member already");
            self.direct(accuser.addr, &Part::Suspicion { suspect, incarnation, jury: false });
        } else if self.cases < MAX_CASES {
            self.cases += 1;
            self.direct(suspect.addr, &Part::Suspicion { suspect, incarnation, jury: false });
            let case = Case { suspect, incarnation, accuser: accuser.addr, asked: now };
            let at = now + millis(self.timing.probe_timeout_ms);
            self.alarms.set(at, Alarm::Verdict(Box::new(case)));
        }
    }

    /// Confirms a suspicion if the suspect has not been heard since. If it has, its own words refute it.
    pub(super) fn judge(&mut self, case: &Case) {
        self.cases = self.cases.saturating_sub(1);
        let Case { suspect, incarnation, accuser, asked } = *case;
        let entry = self.table.get(suspect.node_id);
        let heard = entry.is_some_and(|entry| entry.id == suspect && entry.heard >= asked);
        self.env.sometimes(heard, "a juror has heard from the suspect and does not confirm");
        if self.table.get(suspect.node_id).is_some_and(|entry| entry.id == suspect && entry.heard < asked) {
            self.direct(accuser, &Part::Suspicion { suspect, incarnation, jury: false });
        }
    }

    /// Counts `from` among those who suspect a member. `None` if there is nothing to suspect: the member is
    /// not live, or has had its say since.
    pub(super) fn confirm(
        &mut self,
        suspect: Identity,
        incarnation: u16,
        from: u64,
        now: Instant,
    ) -> Option<()> {
        if !self.table.get(suspect.node_id).is_some_and(|entry| entry.live && entry.id == suspect) {
            return None;
        }
        let fresh = || Claim { id: suspect, incarnation, from: BTreeSet::new(), own: None };
        let claim = self.claims.entry(suspect.node_id).or_insert_with(fresh);
        if (claim.id.generation, claim.incarnation) > (suspect.generation, incarnation) {
            return None;
        }
        if (claim.id, claim.incarnation) != (suspect, incarnation) {
            *claim = fresh();
        }
        // More than enough of them do not make it shorter.
        if claim.from.len() <= CONFIRMATIONS && claim.from.insert(from) {
            let (own, others) = (claim.own.is_some(), claim.from.len() > 1);
            self.env.sometimes(own && others, "a suspicion is confirmed by another member");
            self.arm_suspicion(suspect.node_id, now);
        }
        Some(())
    }

    fn arm_suspicion(&mut self, node_id: u64, now: Instant) {
        if let Some(at) = self.suspicion_ends(node_id) {
            // A confirmation may end it earlier than now; an alarm in the past would look like a stall.
            self.alarms.set(at.max(now), Alarm::Suspicion(node_id));
        }
    }

    /// When this node's own suspicion has lasted long enough: the sooner, the more nodes share it, and the
    /// later, the slower this node believes itself to be.
    fn suspicion_ends(&self, node_id: u64) -> Option<Instant> {
        let claim = self.claims.get(&node_id)?;
        let (since, _) = claim.own.as_ref()?;
        if mutant::is("G08") {
            // Mutant G08: the suspect gets no time to say that it lives.
            return Some(*since);
        }
        let (longest, shortest) = self.timing.suspicion(self.live);
        let others = claim.from.iter().filter(|from| **from != self.id().node_id).count();
        let wanted = CONFIRMATIONS.min(self.live.saturating_sub(2));
        let share = if wanted == 0 {
            0.0
        } else {
            (((others + 1) as f64).ln() / ((wanted + 1) as f64).ln()).min(1.0)
        };
        let lasts = longest.saturating_sub(longest.saturating_sub(shortest).mul_f64(share));
        Some(*since + lasts * (1 + self.slowness))
    }

    pub(super) fn on_suspicion(&mut self, node_id: u64, now: Instant) {
        match self.suspicion_ends(node_id) {
            // Mutant G15: that the suspect has objected meanwhile makes no difference.
            Some(at) if at <= now && mutant::is("G15") => {
                if let Some(claim) = self.claims.remove(&node_id) {
                    self.apply(foca::Member::new(claim.id, u16::MAX - 1, State::Down), true);
                }
            }
            Some(at) if at <= now => {
                if let Some((_, timer)) = self.claims.remove(&node_id).and_then(|claim| claim.own) {
                    self.env.reachable("a suspect does not object and is declared failed");
                    self.run_foca(|foca, runtime| foca.handle_timer(timer, runtime));
                }
            }
            Some(at) => self.alarms.set(at, Alarm::Suspicion(node_id)),
            None => {}
        }
    }

    /// This node is suspected, so it may be slow. Foca says that it lives, and who asked hears it first.
    pub(super) fn refute(&mut self, incarnation: u16, accuser: Identity) {
        if !self.is_member() {
            return;
        }
        let accusation = (self.id().generation, incarnation);
        if self.refuted.is_none_or(|last| last < accusation) {
            self.env.reachable("a member refutes a suspicion of itself");
            self.refuted = Some(accusation);
            self.slowness = (self.slowness + 1).min(MAX_SLOWNESS);
            self.apply(foca::Member::new(self.id(), incarnation, State::Suspect), true);
        }
        self.run_foca(|foca, runtime| foca.announce(accuser, runtime));
    }
}
