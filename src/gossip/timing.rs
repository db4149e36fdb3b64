//! Gossip's knobs: how often, how long, how many.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often gossip does things and how long it waits. The defaults are memberlist's for a local network,
/// except where the field says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// One member is probed per period; a probe without answer ends with the period.
    pub probe_period_ms: u64,
    /// How long a direct probe may take before others are asked to probe.
    pub probe_timeout_ms: u64,
    /// How many others are asked.
    pub indirect_probes: u32,
    /// A suspected member has `this x max(1, log10 n)` probe periods to say that it lives, if nobody else
    /// suspects it.
    pub suspicion_mult: u32,
    /// The same when enough others suspect it as well (Lifeguard, section "LHA-Suspicion"). Shorter than
    /// memberlist's, because a suspected member is told directly and not only by rumour.
    pub suspicion_min_mult: u32,
    /// How often queued messages are sent while there are any.
    pub gossip_interval_ms: u64,
    /// To how many members at once.
    pub gossip_fanout: u32,
    /// A message is sent at most `this x ceil(log10(n + 1))` times by each member.
    pub retransmit_mult: u32,
    /// How often full state is exchanged with one random member; stretched above 32 members.
    pub push_pull_interval_ms: u64,
    /// How often failed members are knocked on, so that a healed partition is noticed.
    pub reconnect_interval_ms: u64,
    /// How long failed and departed members are remembered.
    pub reap_after_ms: u64,
    /// How long connecting and talking over one stream may take.
    pub stream_timeout_ms: u64,
    /// How long a departure is spread before the node falls silent.
    pub leave_propagate_ms: u64,
    /// How long a live node waits before it contradicts somebody who forced it to leave, so that the
    /// attempt can be seen.
    pub refute_delay_ms: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            probe_period_ms: 1_000,
            probe_timeout_ms: 500,
            indirect_probes: 3,
            suspicion_mult: 3,
            suspicion_min_mult: 1,
            gossip_interval_ms: 200,
            gossip_fanout: 3,
            retransmit_mult: 4,
            push_pull_interval_ms: 30_000,
            reconnect_interval_ms: 30_000,
            reap_after_ms: 72 * 3_600_000,
            stream_timeout_ms: 10_000,
            leave_propagate_ms: 1_000,
            refute_delay_ms: 1_000,
        }
    }
}

impl Timing {
    /// Checks that a node can run with these.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        const DAY: u64 = 86_400_000;
        let within = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} is {value}, must be within {low}..={high}"))
            }
        };
        within("probe_period_ms", self.probe_period_ms, 10, 600_000)?;
        within("probe_timeout_ms", self.probe_timeout_ms, 1, self.probe_period_ms.saturating_sub(1))?;
        within("indirect_probes", self.indirect_probes.into(), 1, 32)?;
        within("suspicion_mult", self.suspicion_mult.into(), 1, 100)?;
        within("suspicion_min_mult", self.suspicion_min_mult.into(), 1, self.suspicion_mult.into())?;
        within("gossip_interval_ms", self.gossip_interval_ms, 1, 60_000)?;
        within("gossip_fanout", self.gossip_fanout.into(), 1, 32)?;
        within("retransmit_mult", self.retransmit_mult.into(), 1, 32)?;
        within("push_pull_interval_ms", self.push_pull_interval_ms, 10, DAY)?;
        within("reconnect_interval_ms", self.reconnect_interval_ms, 10, DAY)?;
        within("reap_after_ms", self.reap_after_ms, 1_000, 365 * DAY)?;
        within("stream_timeout_ms", self.stream_timeout_ms, 10, 600_000)?;
        within("leave_propagate_ms", self.leave_propagate_ms, 0, 60_000)?;
        within("refute_delay_ms", self.refute_delay_ms, 0, 60_000)
    }

    /// How long an unconfirmed suspicion lasts among `live` members, and how short confirmations make it.
    pub(super) fn suspicion(&self, live: usize) -> (Duration, Duration) {
        let scale = (live.max(1) as f64).log10().max(1.0);
        let periods = |mult: u32| {
            Duration::from_micros((self.probe_period_ms as f64 * 1_000.0 * scale * f64::from(mult)) as u64)
        };
        (periods(self.suspicion_mult), periods(self.suspicion_min_mult))
    }

    /// How often one message is sent at most by one of `live` members.
    pub(super) fn retransmits(&self, live: usize) -> u32 {
        let rounds = ((live + 1) as f64).log10().ceil().max(1.0) as u32;
        self.retransmit_mult.saturating_mul(rounds)
    }

    /// The push/pull interval among `live` members: one step longer for each doubling above 32, so that the
    /// exchanges of a large cluster do not pile up.
    pub(super) fn push_pull(&self, live: usize) -> Duration {
        let base = Duration::from_millis(self.push_pull_interval_ms);
        if live <= 32 {
            return base;
        }
        base * ((live as f64 / 32.0).log2().ceil() as u32 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_accepted_and_nonsense_is_named() {
        Timing::default().check().unwrap();
        let bad = Timing { probe_timeout_ms: 1_000, ..Timing::default() };
        assert!(bad.check().unwrap_err().contains("probe_timeout_ms"));
        let bad = Timing { probe_period_ms: 0, ..Timing::default() };
        assert!(bad.check().unwrap_err().contains("probe_period_ms"));
    }

    #[test]
    fn scales_grow_slowly_with_the_cluster() {
        let timing = Timing::default();
        assert_eq!(timing.suspicion(5), (Duration::from_secs(3), Duration::from_secs(1)));
        assert_eq!(timing.suspicion(100).0, Duration::from_secs(6));
        assert_eq!(timing.retransmits(5), 4);
        assert_eq!(timing.retransmits(30), 8);
        assert_eq!(timing.push_pull(32), Duration::from_secs(30));
        assert_eq!(timing.push_pull(33), Duration::from_secs(60));
        assert_eq!(timing.push_pull(129), Duration::from_secs(120));
    }
}
