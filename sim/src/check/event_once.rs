//! EV: a user event reaches a node's ring at most once, however often gossip repeats it.
//!
//! Judged by the event's id, a node and life.
//!
//! Let pass: repetition after the node's restart, because the ring is not kept on disk. That an event
//! arrives at all is not claimed: gossip promises it only with high probability.

use std::collections::{BTreeMap, BTreeSet};

use driftline::env::Observed;

use super::view::View;
use super::{At, Check, Event, Findings};

/// The check's memory.
#[derive(Debug, Default)]
pub struct EventOnce {
    delivered: BTreeMap<u32, BTreeSet<String>>,
}

impl Check for EventOnce {
    fn on(&mut self, at: At, event: &Event<'_>, _view: &View, findings: &mut Findings) {
        match event {
            Event::Started { .. } | Event::Stopped(_) => {
                self.delivered.remove(&at.node);
            }
            Event::Observed(Observed::UserEvent { name, id, ltime }) => {
                let is_new = self.delivered.entry(at.node).or_default().insert(id.clone());
                if is_new {
                    return;
                }
                let detail =
                    format!("node {} was given event {name:?} (id {id}, time {ltime}) twice", at.node);
                findings.add("EV", at, detail);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::*;

    fn event() -> Observed {
        Observed::UserEvent { name: "deploy".into(), id: "e1".into(), ltime: 4 }
    }

    #[test]
    fn one_delivery_a_node_and_life_is_accepted() {
        let bench = Bench::new(EventOnce::default()).boots(2);
        bench
            .says(0, event())
            .says(1, event())
            .on(0, Event::Started { name: "n0" })
            .says(0, event())
            .accepts();
    }

    #[test]
    fn a_second_delivery_is_rejected() {
        Bench::new(EventOnce::default()).says(0, event()).says(0, event()).rejects("event \"deploy\"");
    }
}
