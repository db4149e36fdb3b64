//! GC: once the cluster has healed, every live member knows every other live one as alive, and none that
//! is gone (SWIM, section 3: strong completeness, and its mirror).
//!
//! Judged at the end, from the last thing each node said about each name in its present life.
//!
//! Let pass: a suspicion, which is a question and not a verdict; and what a node says about itself.

use std::collections::BTreeMap;

use driftline::env::Observed;
use driftline::env::observe::MemberChange;

use super::view::View;
use super::{At, End, Event, Findings};

/// What each node last said about each name, and under it about each id: a node that lost its disk comes back as somebody
/// else of the same name, and then the one is dead and the other alive.
#[derive(Debug, Default)]
pub struct Completeness {
    known: BTreeMap<u32, BTreeMap<String, BTreeMap<u64, MemberChange>>>,
}

impl Completeness {
    /// Follows an event.
    pub fn on(&mut self, at: At, event: &Event<'_>) {
        match event {
            Event::Started { .. } | Event::Stopped(_) => {
                self.known.remove(&at.node);
            }
            Event::Observed(Observed::Member { node_id, name, change, .. }) => {
                let known = self.known.entry(at.node).or_default();
                known.entry(name.clone()).or_default().insert(*node_id, *change);
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
                let dead =
                    |change: &MemberChange| matches!(change, MemberChange::Failed | MemberChange::Left);
                let ids = known.get(name);
                // A server is known by its id; an agent that is none draws one at every start.
                let of_id = |id: &u64| named.raft_id.is_none_or(|raft_id| raft_id == *id);
                let mut others = ids.into_iter().flatten().filter(|(id, _)| !of_id(id));
                let stray = others.find(|(_, change)| !dead(change));
                let mut own = ids.into_iter().flatten().filter(|(id, _)| of_id(id)).map(|(_, change)| change);
                let last = own.clone().find(|change| !dead(change)).or(own.next_back());
                let alive = last.is_some_and(|change| !dead(change));
                if let (true, Some((id, _))) = (end.live.contains(&other), stray) {
                    let detail = format!(
                        "at the end node {observer} takes for alive who {name:?} was before it lost its disk ({id:x})"
                    );
                    findings.add("GC", at, detail);
                }
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
        }
        for (node, name, change) in said {
            let (name, change) = ((*name).to_owned(), *change);
            let addr = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
            tell(
                *node,
                Event::Observed(&Observed::Member { node_id: 1, name, addr, incarnation: 1, change }),
            );
        }
        let mut findings = Findings::default();
        let end = End { live: live.iter().copied().collect(), ..End::default() };
        check.check(&end, &view, &mut findings);
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    use MemberChange::*;

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
