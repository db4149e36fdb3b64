//! The checks: what must hold whatever the world does to the nodes.
//!
//! One property a file, named for its theorem. Two kinds:
//! * streaming checks are told every [`Event`] in the order of true time and object at once. They share
//!   one [`view`] of what each node has said about itself, which shows the cluster *just before* the
//!   event under judgement;
//! * verdicts look at the whole run at its end: the clients' history and the final contents.
//!
//! Checks are humble: what cannot be observed is not held against a node. Each file says what it lets
//! pass for that reason. Each has a sequence in its tests that it must accept and one it must reject.
//!
//! A check id is a promise to whoever reads a report; [`TABLE`] lists them all. `LIVE`, `CAT`, `DET` and
//! `CRASH`, and parts of `AE`, `NEWS`, `BLOCK` and `LOCK`, are judged outside this module, by the simulated world and by the runner.

pub mod accuracy;
pub mod anti_entropy;
pub mod beyond;
mod by_index;
pub mod catalog_watch;
pub mod census;
pub mod claims;
pub mod committed_immutable;
pub mod committed_on_quorum;
pub mod completeness;
pub mod durability;
pub mod election_safety;
pub mod event_list;
pub mod event_once;
pub mod gossip_traffic;
pub mod index_order;
pub mod leader_completeness;
pub mod linearizable;
pub mod locks;
pub mod log_growth;
pub mod log_matching;
pub mod looks;
pub mod monotonic;
pub mod no_resurrection;
pub mod orders;
pub mod rights;
pub mod saved;
pub mod servers_only;
pub mod sessions;
pub mod stale_reads;
pub mod state_machine_safety;
pub mod teeth;
pub mod touched;
pub mod transactions;
pub mod view;
pub mod waiting_reads;
pub mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use driftline::env::Observed;
use driftline::env::assertion::Assertion;
use driftline::gossip::timing::Timing;
use serde::{Deserialize, Serialize};

use crate::coverage::Coverage;
use crate::history::Operation;
use crate::points::Points;
use crate::points::sightings::Sightings;
use view::View;

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Id of the check, from [`TABLE`].
    pub check: String,
    /// What happened, in words.
    pub detail: String,
    /// True simulated time.
    #[serde(default)]
    pub at_ns: u64,
    /// The node it happened on, if it is one node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
}

/// One line of the table of checks.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// How reports name it.
    pub id: &'static str,
    /// What must hold.
    pub claim: &'static str,
    /// Where the claim comes from.
    pub source: &'static str,
    /// The file that checks it, under `sim/src`.
    pub file: &'static str,
}

const fn property(
    id: &'static str,
    claim: &'static str,
    source: &'static str,
    file: &'static str,
) -> Property {
    Property { id, claim, source, file }
}

/// Every check there is. Which mutants prove one that it bites: [`crate::mutants::proofs_of`].
pub const TABLE: &[Property] = &[
    property(
        "LIN",
        "every read and write seems to happen at one instant between call and answer",
        "Herlihy and Wing 1990; Raft section 8",
        "check/linearizable.rs",
    ),
    property(
        "TXN",
        "a transaction happens whole or not at all, and is seen whole",
        "Consul's transactions; Herlihy and Wing 1990",
        "check/transactions.rs",
    ),
    property(
        "IDX",
        "a key's modify index never goes back in real time",
        "Raft section 8",
        "check/index_order.rs",
    ),
    property(
        "ES",
        "at most one leader a term, at most one vote a node and term",
        "Raft 5.2",
        "check/election_safety.rs",
    ),
    property(
        "LM",
        "same index and term: same entry, and same entries before it",
        "Raft 5.3",
        "check/log_matching.rs",
    ),
    property(
        "LC",
        "a leader has every entry committed in earlier terms",
        "Raft 5.4",
        "check/leader_completeness.rs",
    ),
    property(
        "SMS",
        "all nodes apply the same entry at an index, to the same effect",
        "Raft 5.4.3",
        "check/state_machine_safety.rs",
    ),
    property(
        "CQ",
        "what is applied is durable on a majority of the voters",
        "Raft 5.3, 5.4.2, section 6",
        "check/committed_on_quorum.rs",
    ),
    property(
        "CI",
        "what is applied is never removed or replaced",
        "Raft 5.4",
        "check/committed_immutable.rs",
    ),
    property(
        "MV",
        "term, vote, durable log and snapshot outlive a restart",
        "Raft figure 2, persistent state",
        "check/monotonic.rs",
    ),
    property("DUR", "an acknowledged write is there at the end", "Raft section 8", "check/durability.rs"),
    property(
        "VAL",
        "a read shows only what somebody wrote to that key",
        "none: what no broken disk excuses",
        "check/written.rs",
    ),
    property(
        "LOCK",
        "a lock has one holder, who keeps it while it renews in time, and the lock-delay is kept",
        "Consul's sessions; Burrows 2006, 2.4",
        "check/locks.rs",
    ),
    property("SESS", "a write is applied at most once", "Raft thesis 6.3", "check/sessions.rs"),
    property(
        "GC",
        "after heal every live member knows every other as alive",
        "SWIM 3, strong completeness",
        "check/completeness.rs",
    ),
    property(
        "GA",
        "an undisturbed member is not declared failed",
        "SWIM 4.2; Lifeguard",
        "check/accuracy.rs",
    ),
    property(
        "GR",
        "a member's incarnation never goes back and the dead stay dead at theirs",
        "SWIM 4.2",
        "check/no_resurrection.rs",
    ),
    property("GT", "gossip traffic a node is bounded", "SWIM 5, constant load", "check/gossip_traffic.rs"),
    property(
        "EV",
        "a user event reaches a node's ring at most once",
        "Serf user events",
        "check/event_once.rs",
    ),
    property(
        "NEWS",
        "a node lists each event once, in order and as it was fired, and after heal every event comes everywhere",
        "Serf user events",
        "check/event_list.rs",
    ),
    property(
        "STALE",
        "what a node shows to those who take old answers never goes back",
        "Terry and others 1994, monotonic reads",
        "check/stale_reads.rs",
    ),
    property(
        "WATCH",
        "a reader that waits is woken by news and by nothing else",
        "Consul's blocking queries",
        "check/waiting_reads.rs",
    ),
    property(
        "BLOCK",
        "who follows a query of the catalog misses no change, and its index never goes back",
        "Consul's blocking queries",
        "check/catalog_watch.rs",
    ),
    property(
        "ACL",
        "a right that is given or taken away counts for every request that begins afterwards",
        "Consul's ACLs, without their caches",
        "check/rights.rs",
    ),
    property(
        "SRV",
        "only servers are members of the Raft configuration",
        "Raft section 6",
        "check/servers_only.rs",
    ),
    property(
        "OPS",
        "what an operator is told that is done, is done: a peer is out, a failed member has left",
        "Consul's operator and agent calls",
        "check/orders.rs",
    ),
    property(
        "SNAP",
        "a snapshot that is saved is the state of one index, and has all that was applied before",
        "Consul's snapshots; Raft section 8",
        "check/saved.rs",
    ),
    property(
        "LOAD",
        "the log grows no faster than clients can make it",
        "none: a cluster that writes to itself without end is not at rest",
        "check/log_growth.rs",
    ),
    property(
        "LIVE",
        "after heal there is a leader, every server votes, and writes succeed everywhere",
        "Raft 5.6",
        "world/mod.rs",
    ),
    property(
        "CAT",
        "after heal the catalog says of the members what gossip says",
        "Consul's serfHealth",
        "check/census.rs",
    ),
    property(
        "AE",
        "an agent has what was registered with it, and after heal the catalog has the same",
        "Consul's anti-entropy",
        "check/anti_entropy.rs",
    ),
    property(
        "SAY",
        "what the code claims of itself holds",
        "none: the practice of FoundationDB and Antithesis",
        "check/claims.rs",
    ),
    property("DET", "the same seed gives the same trace", "none: the testbed's own", "runner.rs"),
    property(
        "TEETH",
        "every check objects to a run that it must reject",
        "none: the testbed's own",
        "check/teeth.rs",
    ),
    property("CRASH", "no seed panics, hangs or dies", "none: the testbed's own", "runner.rs"),
];

/// The table in Markdown, as `sim/README.md` and `ARCHITECTURE.md` show it.
pub fn table() -> String {
    let row = |property: &Property| {
        let proofs: Vec<_> = crate::mutants::proofs_of(property.id).collect();
        let proofs = if proofs.is_empty() { "none yet".to_owned() } else { proofs.join(", ") };
        format!(
            "| {} | {} | {} | `{}` | {proofs} |\n",
            property.id, property.claim, property.source, property.file
        )
    };
    let head = "| id | what must hold | after | file | named for mutants |\n|---|---|---|---|---|\n";
    head.to_owned() + &TABLE.iter().map(row).collect::<String>()
}

/// The properties of this program's own: see [`add_own`].
static OWN: OnceLock<&'static [Property]> = OnceLock::new();

/// These properties too, for the rest of this process: those of an experiment. The first call wins.
pub fn add_own(properties: &'static [Property]) {
    let _ = OWN.set(properties);
}

/// The line of the table for an id, or of what [`add_own`] has added to it.
pub fn property_of(id: &str) -> Option<&'static Property> {
    let own = OWN.get().copied().unwrap_or_default();
    TABLE.iter().chain(own).find(|property| property.id == id)
}

/// How a node went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It ended by itself, in good order.
    Graceful,
    /// The process died; the operating system kept what was written.
    Kill,
    /// The machine died; only what was synced is left.
    PowerLoss,
    /// As when the power fails, and its peers never hear that their connections are gone.
    Vanish,
}

/// What the streaming checks are told about a node.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The node is about to start, or start again, under this gossip name.
    Started {
        /// Its gossip name.
        name: &'a str,
    },
    /// The node is gone.
    Stopped(Stop),
    /// The node said something about itself.
    Observed(&'a Observed),
    /// The node was told to leave gracefully: from now on it may be taken out of the configuration.
    Leaves,
    /// A fault that may make gossip about this node, or by it, wrong begins: a partition begins for
    /// every node that cannot reach every other, loss for both ends, a stall for the stalled node.
    FaultBegan,
    /// One such fault ends.
    FaultEnded,
    /// The node sent a datagram.
    Datagram,
    /// The node told an operator that what was ordered is done.
    Ordered(&'a orders::Ordered),
    /// The node gave an operator a snapshot.
    Saved(&'a saved::Saved),
    /// A fault begins or ends. It belongs to no node: whose it is does not matter to a check.
    Fault {
        /// Its kind, one of [`crate::scenario::KINDS`].
        kind: &'static str,
        /// Whether it begins.
        begins: bool,
    },
}

/// When and where an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// True simulated time. Never decreases from one event to the next.
    pub ns: u64,
    /// The testbed's number of the node; not its Raft id.
    pub node: u32,
}

/// What a check has to say.
#[derive(Debug, Default)]
pub struct Findings {
    violations: Vec<Violation>,
    repeated: BTreeMap<&'static str, u64>,
    /// Where the run has been.
    pub points: Points,
}

/// One broken invariant often breaks again with every event; the first few tell the story.
const FINDINGS_PER_CHECK: usize = 3;

impl Findings {
    /// Records a violation on a node.
    pub fn add(&mut self, check: &'static str, at: At, detail: String) {
        self.push(check, at.ns, Some(at.node), detail);
    }

    /// Records a violation that belongs to no single node.
    pub fn add_global(&mut self, check: &'static str, at_ns: u64, detail: String) {
        self.push(check, at_ns, None, detail);
    }

    fn push(&mut self, check: &'static str, at_ns: u64, node: Option<u32>, detail: String) {
        if self.violations.iter().filter(|violation| violation.check == check).count() < FINDINGS_PER_CHECK {
            self.violations.push(Violation { check: check.to_owned(), detail, at_ns, node });
        } else {
            *self.repeated.entry(check).or_default() += 1;
        }
    }
}

/// A property that is checked event by event.
pub trait Check {
    /// Judges one event. `view` is the cluster just before it.
    fn on(&mut self, at: At, event: &Event<'_>, view: &View, findings: &mut Findings);
}

/// What the checks must know about the run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long after the last fault that touched it a node may still be taken for dead.
    pub accuracy_grace_ns: u64,
    /// Datagrams a node may send a second, averaged over ten seconds.
    pub datagrams_per_second: u64,
}

impl Settings {
    /// What they are for nodes with this timing. The traffic that is usual in rounds every tenth of a second to three others each
    /// may be as much more as rounds are more frequent and go to more.
    pub fn of(timing: &Timing) -> Settings {
        let usual = Settings::default();
        let often = u64::from(timing.gossip_fanout.max(3)) * 100;
        let rare = 3 * timing.gossip_interval_ms.clamp(1, 100);
        Settings {
            accuracy_grace_ns: 10 * timing.probe_period_ms * 1_000_000,
            datagrams_per_second: usual.datagrams_per_second * often / rare,
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { accuracy_grace_ns: 15_000_000_000, datagrams_per_second: 200 }
    }
}

/// What the verdicts are given once the cluster has healed and come to rest.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// True simulated time.
    pub at_ns: u64,
    /// Nodes that are up and have not left.
    pub live: BTreeSet<u32>,
    /// All operations of all clients, final reads included.
    pub history: Vec<Operation>,
    /// What clients saw besides.
    pub looks: Vec<looks::Look>,
    /// For each live node its whole store: key to value and modify index.
    pub stores: BTreeMap<u32, BTreeMap<String, (String, u64)>>,
    /// What clients that lock know.
    pub locks: Vec<locks::Step>,
    /// What bears on locks.
    pub circumstances: locks::Circumstances,
    /// What clients asked agents to register.
    pub deeds: Vec<anti_entropy::Deed>,
    /// The services of each live node whose disk kept what it was given, as the node itself lists them: id and port.
    pub services: BTreeMap<u32, BTreeMap<String, u16>>,
    /// The events that clients fired.
    pub fired: Vec<event_list::Fired>,
    /// What each live node lists of them.
    pub events: BTreeMap<u32, Vec<event_list::Listed>>,
    /// What clients saw that follow the catalog.
    pub seen: Vec<catalog_watch::Seen>,
    /// What clients tried that needs a right.
    pub attempts: Vec<rights::Attempt>,
    /// What clients did with two keys at once.
    pub pairs: transactions::Pairs,
}

/// All that the checks have to say about a run.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What did not hold, in order of time.
    pub violations: Vec<Violation>,
    /// What could not be decided, and why. Not a violation, and not a proof either.
    pub undecided: Vec<String>,
    /// What `LIN` found, in full, if it objected.
    pub broken: Option<Box<linearizable::Broken>>,
    /// Where the run has been, see [`Points::held`].
    pub points: BTreeMap<String, u64>,
    /// Which states were reached, if [`Checks::cover`] asked for it.
    pub coverage: Option<Coverage>,
}

/// All checks of one run.
pub struct Checks {
    view: View,
    checks: Vec<Box<dyn Check + Send>>,
    completeness: completeness::Completeness,
    brought: event_list::Brought,
    lives: looks::Lives,
    sightings: Sightings,
    coverage: Option<Coverage>,
    findings: Findings,
}

impl Checks {
    /// These too.
    pub fn add(&mut self, checks: Vec<Box<dyn Check + Send>>) {
        self.checks.extend(checks);
    }

    /// Checks for a run about to begin.
    pub fn new(settings: &Settings) -> Checks {
        Checks {
            view: View::default(),
            checks: vec![
                Box::new(election_safety::ElectionSafety::default()),
                Box::new(log_matching::LogMatching::default()),
                Box::new(leader_completeness::LeaderCompleteness::default()),
                Box::new(state_machine_safety::StateMachineSafety::default()),
                Box::new(committed_on_quorum::CommittedOnQuorum::default()),
                Box::new(committed_immutable::CommittedImmutable::default()),
                Box::new(monotonic::Monotonic::default()),
                Box::new(accuracy::Accuracy::new(settings.accuracy_grace_ns)),
                Box::new(no_resurrection::NoResurrection::default()),
                Box::new(gossip_traffic::GossipTraffic::new(settings.datagrams_per_second)),
                Box::new(event_once::EventOnce::default()),
                Box::new(servers_only::ServersOnly::default()),
                Box::new(orders::Orders::default()),
                Box::new(saved::SavedSnapshots::default()),
                Box::new(log_growth::LogGrowth::default()),
            ],
            completeness: completeness::Completeness::default(),
            brought: event_list::Brought::default(),
            lives: looks::Lives::default(),
            sightings: Sightings::default(),
            coverage: None,
            findings: Findings::default(),
        }
    }

    /// Also keep account of the states that are reached, from now on.
    pub fn cover(&mut self) {
        self.coverage = Some(Coverage::default());
    }

    /// Tells all checks of an event. Call in order of true time.
    pub fn on(&mut self, at_ns: u64, node: u32, event: Event<'_>) {
        let at = At { ns: at_ns, node };
        for check in &mut self.checks {
            check.on(at, &event, &self.view, &mut self.findings);
        }
        self.completeness.on(at, &event);
        self.brought.on(at, &event);
        self.lives.on(at, &event);
        self.sightings.on(at, &event, &self.view, &mut self.findings);
        if let Some(coverage) = &mut self.coverage {
            coverage.on(at, &event, &self.view);
        }
        self.view.on(at, &event);
    }

    /// Tells of a claim that a node came to. Whether it is the first of the run at which the claim held.
    pub fn asserted(&mut self, at_ns: u64, node: u32, assertion: Assertion) -> bool {
        claims::on(At { ns: at_ns, node }, assertion, &mut self.findings)
    }

    /// What was found so far.
    pub fn violations(&self) -> &[Violation] {
        &self.findings.violations
    }

    /// Judges the run as a whole and returns everything found.
    pub fn finish(mut self, end: &End) -> Verdict {
        let findings = &mut self.findings;
        let (mut undecided, mut found) = (Vec::new(), None);
        match in_one_order("LIN", &end.history, findings) {
            Ok(broken) => found = broken,
            Err(reason) => undecided.push(reason),
        }
        index_order::check(&end.history, findings);
        sessions::check(&end.history, findings);
        locks::check(&end.locks, &end.circumstances, findings);
        anti_entropy::check(end, &self.lives, findings);
        event_list::check(end, &self.brought, findings);
        let touched = touched::Touched::of(&end.history);
        catalog_watch::check(&end.seen, &self.lives, &touched, findings);
        undecided.extend(rights::check(&end.attempts, findings).err());
        undecided.extend(transactions::check(&end.pairs, findings).err());
        durability::check(end, &self.view, findings);
        written::check(end, findings);
        self.completeness.check(end, &self.view, findings);
        stale_reads::check(&end.looks, &self.lives, &end.history, findings);
        waiting_reads::check(&end.looks, &self.lives, &end.history, &touched, findings);
        self.sightings.finish(&end.history, findings);
        for (check, times) in std::mem::take(&mut findings.repeated) {
            if let Some(last) = findings.violations.iter_mut().rev().find(|one| one.check == check) {
                last.detail += &format!(" (and {times} more like it)");
            }
        }
        let points = self.findings.points.held();
        let mut violations = self.findings.violations;
        violations.sort_by_key(|violation| violation.at_ns);
        Verdict { violations, undecided, broken: found, points, coverage: self.coverage }
    }
}

/// Judges for a check whether a history is linearizable, and gives what is broken.
///
/// # Errors
/// What could not be decided, in words.
fn in_one_order(
    check: &'static str,
    history: &[Operation],
    findings: &mut Findings,
) -> Result<Option<Box<linearizable::Broken>>, String> {
    match linearizable::check(history) {
        linearizable::Verdict::Linearizable => Ok(None),
        // Mutant T06: the checker is happy with everything.
        linearizable::Verdict::Violation(_) if driftline::mutant::is("T06") => Ok(None),
        linearizable::Verdict::Violation(broken) => {
            findings.add(check, At { ns: broken.at_ns, node: broken.node }, broken.words.clone());
            Ok(Some(broken))
        }
        linearizable::Verdict::Unknown { key, steps, .. } => {
            Err(format!("{check} of {key:?} after {steps} steps"))
        }
    }
}

#[cfg(test)]
pub(crate) mod test {
    //! Feeds events to one check and collects what it says.
    use super::*;

    /// A check with its view.
    pub(crate) struct Bench<C> {
        pub(crate) check: C,
        view: View,
        findings: Findings,
        now_ns: u64,
    }

    impl<C: Check> Bench<C> {
        pub(crate) fn new(check: C) -> Bench<C> {
            Bench { check, view: View::default(), findings: Findings::default(), now_ns: 0 }
        }

        /// Feeds an event, one second after the last.
        pub(crate) fn on(mut self, node: u32, event: Event<'_>) -> Bench<C> {
            self.now_ns += 1_000_000_000;
            let at = At { ns: self.now_ns, node };
            self.check.on(at, &event, &self.view, &mut self.findings);
            self.view.on(at, &event);
            self
        }

        /// Feeds something a node said.
        pub(crate) fn says(self, node: u32, observed: Observed) -> Bench<C> {
            self.on(node, Event::Observed(&observed))
        }

        /// Starts nodes 0 to `count` - 1 as Raft ids 1 to `count`, all voters.
        pub(crate) fn boots(mut self, count: u32) -> Bench<C> {
            for node in 0..count {
                self = self.recovers(node, 0, 0, &[]);
            }
            let voters = vec![(1..=u64::from(count)).collect()];
            for node in 0..count {
                self = self
                    .says(node, Observed::Membership { index: 0, voters: voters.clone(), learners: vec![] });
            }
            self
        }

        /// A node opens its store.
        pub(crate) fn recovers(self, node: u32, term: u64, applied: u64, log: &[(u64, u64)]) -> Bench<C> {
            let log: Vec<_> =
                log.iter().map(|(index, term)| (*index, *term, digest(*index, *term))).collect();
            let name = format!("n{node}");
            let last_index = log.last().map_or(applied, |(index, ..)| *index);
            let raft_id = u64::from(node) + 1;
            self.on(node, Event::Started { name: &name })
                .says(node, Observed::Recovered { raft_id, term, last_index, applied, log })
        }

        pub(crate) fn leads(self, node: u32, term: u64) -> Bench<C> {
            let leader = Some(u64::from(node) + 1);
            self.says(node, Observed::Role { term, role: driftline::env::observe::RaftRole::Leader, leader })
        }

        pub(crate) fn votes(self, node: u32, term: u64, candidate: u64) -> Bench<C> {
            self.says(node, Observed::Vote { term, candidate, committed: false })
        }

        pub(crate) fn appends(self, node: u32, index: u64, term: u64) -> Bench<C> {
            self.says(node, Observed::Appended { index, term, digest: digest(index, term) })
        }

        pub(crate) fn syncs(self, node: u32, index: u64) -> Bench<C> {
            self.says(node, Observed::Durable { index })
        }

        pub(crate) fn applies(self, node: u32, index: u64, term: u64) -> Bench<C> {
            let entry = digest(index, term);
            self.says(node, Observed::Applied { index, term, entry, state: index * 1000 })
        }

        /// Where it has been.
        pub(crate) fn points(&self) -> &Points {
            &self.findings.points
        }

        /// Details of all that was found.
        pub(crate) fn found(&self) -> Vec<&str> {
            self.findings.violations.iter().map(|violation| violation.detail.as_str()).collect()
        }

        pub(crate) fn accepts(&self) {
            assert_eq!(self.found(), Vec::<&str>::new());
        }

        pub(crate) fn rejects(&self, because: &str) {
            assert!(self.found().iter().any(|detail| detail.contains(because)), "{:?}", self.found());
        }
    }

    pub(crate) fn digest(index: u64, term: u64) -> u64 {
        index * 31 + term
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_files_exist() {
        let ids: BTreeSet<_> = TABLE.iter().map(|property| property.id).collect();
        assert_eq!(ids.len(), TABLE.len());
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for property in TABLE {
            assert!(source.join(property.file).exists(), "{}", property.file);
        }
    }

    #[test]
    fn the_documents_show_this_table() {
        for document in ["README.md", "../ARCHITECTURE.md"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.contains(&table()), "{document} wants:\n{}", table());
        }
    }

    #[test]
    fn a_check_that_objects_to_everything_is_quoted_three_times_and_counted() {
        let mut checks = Checks::new(&Settings::default());
        for term in [5, 6, 7, 8, 9] {
            for node in [0, 1] {
                let event =
                    Observed::Role { term, role: driftline::env::observe::RaftRole::Leader, leader: None };
                checks.on(term, node, Event::Observed(&event));
            }
        }
        let found = checks.finish(&End::default()).violations;
        assert_eq!(found.len(), 3);
        assert!(found[2].detail.ends_with("(and 2 more like it)"), "{}", found[2].detail);
    }
}
