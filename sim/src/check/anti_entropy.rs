//! AE: an agent is the truth about its own services and checks, and the catalog comes to say the same (Consul's
//! anti-entropy). Two claims about both:
//! * what an agent answered for stands, whatever crashed since: a service that it registered is there, at the port that
//!   was named last, and one that it took out is not ([`check`]);
//! * after the heal the catalog has of each live node the services that the node has, and their checks in the status that
//!   the node gives them, and nothing else ([`differs`]; the world asks, and gives the agents the time that they take to
//!   compare and to try again).
//!
//! A third claim is about the agent alone: after the heal a check that nobody tells anything is critical once its time to live
//! is over (the world asks).
//!
//! A request is taken to have done what it asked for when it was answered with 200, and not to have begun when its node is
//! told so by 404. What came of any other is open: it may have taken place, or may yet, until its node's process ends.
//!
//! Let pass: what a node that lost or damaged its disk, or whose disk gave an error, has forgotten; and in which words a
//! check speaks, because output alone is told with the next comparison only.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::looks::Lives;
use super::{At, End, Findings};
use crate::scenario::ServiceDeed;

/// What leaders themselves write about every server and member.
const CONSUL: &str = "consul";
const SERF_HEALTH: &str = "serfHealth";

/// Something that a client asked of an agent about one of its services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// The agent.
    pub node: u32,
    /// The service's id.
    pub service: String,
    /// What it was.
    pub what: ServiceDeed,
    /// When it was asked for.
    pub invoked_ns: u64,
    /// When it was answered, if it was, or given up.
    pub returned_ns: u64,
    /// What came of it.
    pub came: Came,
}

/// What a client knows of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It was done.
    Done,
    /// There was nothing to do it to.
    Absent,
    /// Nobody knows.
    Open,
}

impl Deed {
    /// What the agent has afterwards, if this changes it: the port, or nothing.
    fn leaves(&self) -> Option<Option<u16>> {
        match self.what {
            ServiceDeed::Register { port, .. } => Some(Some(port)),
            ServiceDeed::Deregister => Some(None),
            ServiceDeed::Pass | ServiceDeed::Warn | ServiceDeed::Fail => None,
        }
    }
}

/// What an agent may have of a service at some moment between these two, by these requests about it: a port, or nothing.
fn possible(deeds: &[&Deed], lives: &Lives, from_ns: u64, to_ns: u64) -> BTreeSet<Option<u16>> {
    let done = || deeds.iter().filter(|deed| deed.came == Came::Done && deed.leaves().is_some());
    // Undone by what was surely asked for later and surely done before.
    let undone = |over_ns: u64| done().any(|deed| deed.invoked_ns > over_ns && deed.returned_ns <= from_ns);
    let began = deeds.iter().filter(|deed| deed.invoked_ns < to_ns);
    let mut left: BTreeSet<Option<u16>> = began
        .filter_map(|deed| {
            let over_ns = match deed.came {
                Came::Done => deed.returned_ns,
                Came::Absent => return None,
                Came::Open => lives.of(deed.node).stopped_after(deed.invoked_ns).unwrap_or(u64::MAX),
            };
            deed.leaves().filter(|_| !undone(over_ns))
        })
        .collect();
    if !done().any(|deed| deed.returned_ns <= from_ns) {
        left.insert(None);
    }
    left
}

/// Judges what the agents were asked for against what they have at the end.
pub fn check(end: &End, lives: &Lives, findings: &mut Findings) {
    let mut by_service: BTreeMap<(u32, &str), Vec<&Deed>> = BTreeMap::new();
    for deed in &end.deeds {
        by_service.entry((deed.node, &deed.service)).or_default().push(deed);
    }
    for ((node, service), deeds) in by_service {
        // A node whose disk kept everything: what is not known of it is not held against it.
        let Some(has) = end.services.get(&node) else { continue };
        for deed in deeds.iter().filter(|deed| deed.came == Came::Absent) {
            let possible = possible(&deeds, lives, deed.invoked_ns, deed.returned_ns);
            if !possible.contains(&None) {
                let detail = format!(
                    "node {node} says that it has no service {service:?}, which was registered there"
                );
                findings.add("AE", At { ns: deed.returned_ns, node }, detail);
            }
        }
        let has = has.get(service).copied();
        let possible = possible(&deeds, lives, end.at_ns, end.at_ns);
        if !possible.contains(&has) {
            let told = |port: &Option<u16>| port.map_or("nothing".to_owned(), |port| format!("port {port}"));
            let wanted: Vec<String> = possible.iter().map(told).collect();
            let detail = format!(
                "node {node} has {} of service {service:?} at the end, though it answered for {}",
                told(&has),
                wanted.join(" or ")
            );
            findings.add("AE", At { ns: end.at_ns, node }, detail);
        }
    }
}

/// A service as an agent and the catalog show it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// Its name.
    pub service: String,
    /// Where it listens.
    pub port: u16,
}

/// A check as both show it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stands {
    /// Its id.
    #[serde(rename = "CheckID")]
    pub check_id: String,
    /// The service that it is about.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// How it stands.
    pub status: String,
}

/// What somebody says of one node: services by id, and checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Services by id.
    pub services: BTreeMap<String, Service>,
    /// Its checks, and those of its services.
    pub checks: Vec<Stands>,
}

impl Account {
    /// What is the agent's own of it, in a form to be compared.
    fn own(&self) -> (BTreeMap<&str, (&str, u16)>, BTreeMap<&str, (&str, &str)>) {
        let services = self.services.iter().filter(|(id, _)| *id != CONSUL);
        let checks = self.checks.iter().filter(|check| check.check_id != SERF_HEALTH);
        (
            services.map(|(id, of)| (id.as_str(), (of.service.as_str(), of.port))).collect(),
            checks.map(|of| (of.check_id.as_str(), (of.service_id.as_str(), of.status.as_str()))).collect(),
        )
    }
}

/// Where the catalog's account of a node is not the node's own.
pub fn differs(agent: &Account, catalog: &Account) -> Option<String> {
    let ((services, checks), (entered, shown)) = (agent.own(), catalog.own());
    first_difference("service", &services, &entered).or_else(|| first_difference("check", &checks, &shown))
}

fn first_difference<T: PartialEq + std::fmt::Debug>(
    what: &str,
    agent: &BTreeMap<&str, T>,
    catalog: &BTreeMap<&str, T>,
) -> Option<String> {
    let ids: BTreeSet<&&str> = agent.keys().chain(catalog.keys()).collect();
    let id = ids.into_iter().find(|id| agent.get(*id) != catalog.get(*id))?;
    let told = |of: Option<&T>| of.map_or("none".to_owned(), |of| format!("{of:?}"));
    Some(format!(
        "of {what} {id:?} the agent has {}, the catalog {}",
        told(agent.get(id)),
        told(catalog.get(id))
    ))
}

#[cfg(test)]
mod tests {
    use super::super::looks::test::{MS, lives};
    use super::super::{Event, Stop};
    use super::*;

    const NEW: ServiceDeed = ServiceDeed::Register { port: 2, ttl_ms: 1 };
    const OLD: ServiceDeed = ServiceDeed::Register { port: 1, ttl_ms: 1 };
    const OUT: ServiceDeed = ServiceDeed::Deregister;

    fn deed(what: ServiceDeed, from_ms: u64, to_ms: u64, came: Came) -> Deed {
        let (invoked_ns, returned_ns) = (from_ms * MS, to_ms * MS);
        Deed { node: 0, service: "web".to_owned(), what, invoked_ns, returned_ns, came }
    }

    /// What is said of node 0, which has this of the service when the run ends.
    fn found(deeds: &[Deed], happened: &[(u64, Event<'_>)], has: Option<u16>) -> Vec<String> {
        let services = has.map(|port| ("web".to_owned(), port)).into_iter().collect();
        let services = BTreeMap::from([(0, services)]);
        let end = End { at_ns: 1_000 * MS, deeds: deeds.to_vec(), services, ..End::default() };
        let mut findings = Findings::default();
        check(&end, &lives(happened), &mut findings);
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    fn fine(deeds: &[Deed], happened: &[(u64, Event<'_>)], has: Option<u16>) -> bool {
        found(deeds, happened, has).is_empty()
    }

    #[test]
    fn what_was_answered_for_stands() {
        use Came::Done;
        let both = [deed(OLD, 1, 2, Done), deed(NEW, 3, 4, Done)];
        assert!(fine(&both, &[], Some(2)) && fine(&[], &[], None));
        assert!(!fine(&both, &[], Some(1)), "an older registration is back");
        assert!(!fine(&both, &[], None), "it is forgotten");
        let crashed = [(10, Event::Stopped(Stop::PowerLoss))];
        assert!(!fine(&both, &crashed, None), "a crash is no excuse");
        let out = [deed(OLD, 1, 2, Done), deed(OUT, 3, 4, Done)];
        assert!(fine(&out, &[], None) && !fine(&out, &[], Some(1)), "what was taken out stays out");
    }

    #[test]
    fn what_was_not_answered_may_take_place_until_the_process_ends() {
        use Came::{Done, Open};
        let late = [deed(NEW, 1, 2, Open), deed(OUT, 3, 4, Done)];
        assert!(fine(&late, &[], None) && fine(&late, &[], Some(2)));
        let killed = [(3, Event::Stopped(Stop::Kill))];
        let after = [deed(NEW, 1, 2, Open), deed(OUT, 5, 6, Done)];
        assert!(fine(&after, &killed, None) && !fine(&after, &killed, Some(2)));
        assert!(fine(&after[..1], &killed, None) && fine(&after[..1], &killed, Some(2)));
        // Two at once, in either order.
        let at_once = [deed(OLD, 1, 5, Done), deed(OUT, 2, 4, Done)];
        assert!(fine(&at_once, &[], None) && fine(&at_once, &[], Some(1)));
    }

    #[test]
    fn a_service_that_is_there_is_not_denied() {
        use Came::{Absent, Done, Open};
        let denied = [deed(NEW, 1, 2, Done), deed(ServiceDeed::Pass, 3, 4, Absent)];
        assert!(found(&denied, &[], Some(2))[0].contains("has no service \"web\""));
        let begun = [deed(NEW, 1, 5, Done), deed(ServiceDeed::Pass, 3, 4, Absent)];
        assert!(fine(&begun, &[], Some(2)));
        let open = [deed(NEW, 1, 2, Done), deed(OUT, 2, 3, Open), deed(ServiceDeed::Pass, 3, 4, Absent)];
        assert!(fine(&open, &[], None) && fine(&open, &[], Some(2)));
    }

    fn account(services: &str, checks: &str) -> Account {
        Account {
            services: serde_json::from_str(services).unwrap(),
            checks: serde_json::from_str(checks).unwrap(),
        }
    }

    #[test]
    fn a_catalog_that_says_what_the_agent_says_is_accepted() {
        let agent = account(
            r#"{"web": {"ID": "web", "Service": "web", "Port": 2}}"#,
            r#"[{"CheckID": "service:web", "ServiceID": "web", "Status": "passing", "Output": "new"}]"#,
        );
        let catalog = account(
            r#"{"web": {"ID": "web", "Service": "web", "Port": 2}, "consul": {"Service": "consul", "Port": 8300}}"#,
            r#"[{"CheckID": "service:web", "ServiceID": "web", "Status": "passing", "Output": "old"},
                {"CheckID": "serfHealth", "ServiceID": "", "Status": "passing"}]"#,
        );
        assert_eq!(differs(&agent, &catalog), None);
    }

    #[test]
    fn whatever_is_missing_left_over_or_different_is_rejected() {
        let web = r#"{"web": {"ID": "web", "Service": "web", "Port": 2}}"#;
        let stands =
            |status: &str| format!(r#"[{{"CheckID": "c", "ServiceID": "web", "Status": "{status}"}}]"#);
        let (passing, critical) = (stands("passing"), stands("critical"));
        let agent = account(web, &passing);
        let says = |catalog: &Account| differs(&agent, catalog).unwrap_or_default();
        assert!(
            says(&account("{}", "[]"))
                .contains(r#"service "web" the agent has ("web", 2), the catalog none"#)
        );
        assert!(says(&account(web, &critical)).contains("critical"));
        assert!(says(&account(&web.replace('2', "1"), &passing)).contains("the catalog (\"web\", 1)"));
        assert!(differs(&account("{}", "[]"), &agent).unwrap().contains("the agent has none"));
        assert!(says(&account(web, "[]")).contains("check"));
    }
}
