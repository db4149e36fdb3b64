//! GC: once the cluster has healed, every live member knows every other live one as alive, and none that
//! is gone (SWIM, section 3: strong completeness, and its mirror).
//!
//! Judged at the end, from the last thing each node said about each member in its present life. A member is a
//! name and an id: a server that lost its data is back under its name as somebody else, and must be known so.
//!
//! Let pass: a suspicion, which is a question and not a verdict; and what a node says about itself.

use std::collections::BTreeMap;

use driftline::env::Observed;
use driftline::env::observe::MemberChange;

use super::view::View;
use super::{At, End, Event, Findings};

/// What each node last said about each member.
#[derive(Debug, Default)]
pub struct Completeness {
    known: BTreeMap<u32, BTreeMap<(String, u64), MemberChange>>,
}

impl Completeness {
    /// Follows an event.
    pub fn on(&mut self, at: At, event: &Event<'_>) {
        match event {
            Event::Started { .. } | Event::Stopped(_) => {
                self.known.remove(&at.node);
            }
            Event::Observed(Observed::Member { name, id, change, .. }) => {
                self.known.entry(at.node).or_default().insert((name.clone(), *id), *change);
            }
            _ => {}
        }
    }

    /// Judges the end of a run.
    pub fn check(&self, end: &End, view: &View, findings: &mut Findings) {
        let nothing = BTreeMap::new();
        for observer in &end.live {
            let known = self.known.get(observer).unwrap_or(&nothing);
            let at = At { ns: end.at_ns, node: *observer };
            for (other, named) in view.nodes().filter(|(other, _)| other != observer) {
                if named.name.is_empty() {
                    continue;
                }
                let name = &named.name;
                let last = named.raft_id.and_then(|id| known.get(&(name.clone(), id)));
                let alive =
                    last.is_some_and(|change| !matches!(change, MemberChange::Failed | MemberChange::Left));
                if end.live.contains(&other) && !alive {
                    let instead =
                        last.map_or("never heard of it".to_owned(), |last| format!("last: {last:?}"));
                    findings.add(
                        "GC",
                        at,
                        format!(
                            "at the end node {observer} does not know live {name:?} as alive ({instead})"
                        ),
                    );
                } else if !end.live.contains(&other) && alive {
                    findings.add(
                        "GC",
                        at,
                        format!("at the end node {observer} takes {name:?}, which is gone, for alive"),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(said: &[(u32, &str, MemberChange)], live: &[u32]) -> Vec<String> {
        let (mut check, mut view) = (Completeness::default(), View::default());
        let mut tell = |node, event: Event<'_>| {
            let at = At { ns: 1, node };
            check.on(at, &event);
            view.on(at, &event);
        };
        for (node, name) in [(0, "a"), (1, "b"), (2, "c")] {
            tell(node, Event::Started { name });
            let raft_id = id_of(name);
            let back = Observed::Recovered { raft_id, term: 0, last_index: 0, applied: 0, log: vec![] };
            tell(node, Event::Observed(&back));
        }
        for (node, name, change) in said {
            // A name with a mark is the one that was there before under that name.
            let (name, change, id) = (name.trim_end_matches('\'').to_owned(), *change, id_of(name));
            let addr = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
            tell(*node, Event::Observed(&Observed::Member { name, id, addr, incarnation: 1, change }));
        }
        let mut findings = Findings::default();
        let end = End { live: live.iter().copied().collect(), ..End::default() };
        check.check(&end, &view, &mut findings);
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    fn id_of(name: &str) -> u64 {
        name.bytes().fold(0, |id, byte| id * 256 + u64::from(byte))
    }

    use MemberChange::*;

    #[test]
    fn who_came_back_as_somebody_else_must_be_known_as_that() {
        let both = [(0, "b'", Joined), (0, "b", Joined), (0, "b'", Failed), (1, "a", Joined)];
        assert_eq!(found(&both, &[0, 1]), Vec::<String>::new());
        assert!(found(&[(0, "b'", Joined), (1, "a", Joined)], &[0, 1])[0].contains("never heard of it"));
    }

    #[test]
    fn members_that_know_one_another_are_accepted() {
        let said =
            [(0, "b", Joined), (1, "a", Joined), (0, "c", Joined), (0, "c", Failed), (1, "a", Suspected)];
        assert_eq!(found(&said, &[0, 1]), Vec::<String>::new());
    }

    #[test]
    fn a_live_member_that_another_misses_is_rejected() {
        assert!(found(&[(0, "b", Joined)], &[0, 1])[0].contains("never heard of it"));
        assert!(
            found(&[(0, "b", Joined), (0, "b", Failed), (1, "a", Joined)], &[0, 1])[0].contains("Failed")
        );
    }

    #[test]
    fn a_dead_member_that_another_takes_for_alive_is_rejected() {
        let said = [(0, "b", Joined), (1, "a", Joined), (0, "c", Joined)];
        assert!(found(&said, &[0, 1])[0].contains("\"c\", which is gone"));
    }
}
