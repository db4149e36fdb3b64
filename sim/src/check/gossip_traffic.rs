//! GT: a node's gossip traffic is bounded, whatever it hears (SWIM, section 5: constant load a member).
//!
//! Datagrams are counted a node in windows of ten seconds of true time, so a burst passes and a loop of
//! messages that answer one another does not.

use std::collections::BTreeMap;

use super::view::View;
use super::{At, Check, Event, Findings};

const WINDOW_NS: u64 = 10_000_000_000;

/// The check's memory.
#[derive(Debug)]
pub struct GossipTraffic {
    limit: u64,
    /// By node: the window and what was sent in it.
    sent: BTreeMap<u32, (u64, u64)>,
}

impl GossipTraffic {
    /// A check with this limit, in datagrams a node and second.
    pub fn new(datagrams_per_second: u64) -> GossipTraffic {
        let limit = datagrams_per_second.saturating_mul(WINDOW_NS / 1_000_000_000);
        GossipTraffic { limit, sent: BTreeMap::new() }
    }
}

impl Check for GossipTraffic {
    fn on(&mut self, at: At, event: &Event<'_>, _view: &View, findings: &mut Findings) {
        let Event::Datagram = event else { return };
        let window = at.ns / WINDOW_NS;
        let (current, count) = self.sent.entry(at.node).or_default();
        if *current != window {
            (*current, *count) = (window, 0);
        }
        *count += 1;
        if *count == self.limit + 1 {
            let detail =
                format!("node {} sent more than {} datagrams within ten seconds", at.node, self.limit);
            findings.add("GT", at, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(spacing_ns: u64) -> usize {
        let mut check = GossipTraffic::new(2);
        let mut findings = Findings::default();
        for sent in 0..100 {
            let at = At { ns: sent * spacing_ns, node: 0 };
            check.on(at, &Event::Datagram, &View::default(), &mut findings);
        }
        findings.violations.len()
    }

    #[test]
    fn two_a_second_are_accepted_and_more_are_rejected() {
        assert_eq!(found(500_000_000), 0);
        assert!(found(400_000_000) > 0);
    }
}
