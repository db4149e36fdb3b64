//! What came of one seed, for a machine (one JSON line) and for a person.
//!
//! A person who opens a failure wants, in this order: what broke, in one line; when and where; the
//! smallest scenario known to break it; and the one command that shows it again. [`RunReport::text`] is
//! that and little else; [`page`] draws the whole of it.

pub mod explain;
pub mod page;
pub mod story;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::check::{self, Violation};
use crate::coverage::Moment;

/// What came of one seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunReport {
    /// The seed.
    pub seed: u64,
    /// What it is a run of, as far as a sweep says so; reports of older ones do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<Origin>,
    /// Whether nothing was violated.
    pub ok: bool,
    /// How many nodes there were.
    pub nodes: u32,
    /// Hash of the whole trace, in hexadecimal. The same seed and code give the same hash.
    pub trace_hash: String,
    /// How many events the trace has.
    pub trace_events: u64,
    /// Simulated time.
    pub sim_seconds: f64,
    /// When the storm began, in simulated time; 0 if the cluster never formed.
    pub storm_seconds: f64,
    /// Real time. This and the two that follow are all that two runs of a seed may differ in.
    pub wall_seconds: f64,
    /// Time of a processor; 0 where the system does not say.
    pub cpu_seconds: f64,
    /// The most memory that the process had, in KiB; 0 where the system does not say.
    pub memory_kib: u64,
    /// Operations that were answered.
    pub ops_ok: u64,
    /// Operations whose outcome nobody knows.
    pub ops_unknown: u64,
    /// Operations that were refused.
    pub ops_failed: u64,
    /// Faults that took place, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Whether more could break than can be repaired, so that only safety was judged: see `check::beyond`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub beyond: bool,
    /// What was violated and does not count for that reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excused: Vec<String>,
    /// What was violated.
    pub violations: Vec<Violation>,
    /// What the checks could not decide within their bounds.
    pub undecided: Vec<String>,
    /// Where the run has been: see [`crate::points`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub points: BTreeMap<String, u64>,
    /// Which states of the cluster and changes between them were reached, if that was asked for:
    /// see [`crate::coverage`]. In ascending order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub coverage: Vec<u32>,
    /// What of note happened when, if the states were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moments: Vec<Moment>,
}

/// What two runs have in common, beside the code, if they are runs of one experiment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The name of the program, which is an experiment's own, and its version.
    pub program: String,
    /// The code that it was built of: a hash of the program, or what whoever ran it calls it. Older reports do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The bug that was put back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
    /// How many nodes were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// How long a storm was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<u64>,
    /// Kinds of fault that were left out.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub without: BTreeSet<String>,
}

impl Origin {
    /// The first thing that is not as in another one, in words; nothing if they are one. Code that one of them does not name
    /// is not held against them.
    pub fn difference(&self, other: &Origin) -> Option<String> {
        let both_name_code = self.code.is_some() && other.code.is_some();
        let parts = |origin: &Origin| {
            let listed = origin.without.iter().cloned().collect::<Vec<_>>().join(", ");
            [
                ("program", Some(origin.program.clone())),
                ("built of code", origin.code.clone().filter(|_| both_name_code)),
                ("--mutant", origin.mutant.clone()),
                ("--nodes", origin.nodes.map(|nodes| nodes.to_string())),
                ("--duration", origin.duration_s.map(|seconds| seconds.to_string())),
                ("--without", Some(listed).filter(|kinds| !kinds.is_empty())),
            ]
        };
        let said = |part: Option<String>| part.unwrap_or_else(|| "none".to_owned());
        parts(self)
            .into_iter()
            .zip(parts(other))
            .find(|(ours, theirs)| ours != theirs)
            .map(|((name, ours), (_, theirs))| format!("{name} {}, and there {}", said(ours), said(theirs)))
    }
}

impl RunReport {
    /// Without what two runs of a seed may differ in.
    pub fn without_machine(self) -> RunReport {
        RunReport { wall_seconds: 0.0, cpu_seconds: 0.0, memory_kib: 0, ..self }
    }

    /// The report of a seed that could not be run to its end.
    pub fn crashed(seed: u64, detail: String) -> RunReport {
        let mut report = RunReport { seed, ..RunReport::default() };
        report.violate("CRASH", detail);
        report
    }

    /// Adds a violation.
    pub fn violate(&mut self, check: &str, detail: String) {
        self.ok = false;
        self.violations.push(Violation { check: check.to_owned(), detail, at_ns: 0, node: None });
    }

    /// Whether this check was violated.
    pub fn violates(&self, check: &str) -> bool {
        self.violations.iter().any(|violation| violation.check == check)
    }

    /// The report for a person. `scenario` says where the smallest known scenario is, `again` is the
    /// command that shows the same run again.
    pub fn text(&self, scenario: &str, again: &str) -> String {
        self.text_of(&format!("seed {}", self.seed), scenario, again)
    }

    /// The same under a name that is not the plan's seed: a plan that was made small may have got another one.
    pub fn text_of(&self, what: &str, scenario: &str, again: &str) -> String {
        let mut text = self.verdict(what);
        let _ = writeln!(
            text,
            "  {} nodes, {:.1} simulated s, {} events, trace {}",
            self.nodes,
            self.sim_seconds,
            self.trace_events,
            if self.trace_hash.is_empty() { "unknown" } else { &self.trace_hash }
        );
        text += &self.counts();
        if !self.ok {
            let _ = writeln!(text, "  smallest known scenario: {scenario}");
        }
        let _ = writeln!(text, "  again: {again}");
        text
    }

    /// The report of a run on a real cluster for a person.
    pub fn real_text(&self, again: &str) -> String {
        let mut text = self.verdict("on a real cluster");
        let _ = writeln!(
            text,
            "  {} nodes, {:.1} s, {} events",
            self.nodes, self.wall_seconds, self.trace_events
        );
        text += &self.counts();
        let _ = writeln!(text, "  again: {again}");
        text
    }

    fn verdict(&self, what: &str) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = match self.violations.first() {
            None => writeln!(text, "{what}: ok"),
            Some(first) => writeln!(text, "{what}: {} violated: {}", first.check, claim(first)),
        };
        for violation in &self.violations {
            let _ =
                writeln!(text, "  {}{}: {}", violation.check, place(violation), indented(&violation.detail));
        }
        for undecided in &self.undecided {
            let _ = writeln!(text, "  undecided: {undecided}");
        }
        if self.beyond {
            let _ = writeln!(text, "  more could break than can be repaired: only safety was judged");
        }
        for excused in &self.excused {
            let _ = writeln!(text, "  excused: {excused}");
        }
        text
    }

    fn counts(&self) -> String {
        format!(
            "  operations: {} ok, {} unknown, {} failed; faults: {}\n",
            self.ops_ok,
            self.ops_unknown,
            self.ops_failed,
            listed(&self.faults)
        )
    }
}

fn claim(violation: &Violation) -> &'static str {
    check::property_of(&violation.check).map_or("unknown check", |property| property.claim)
}

fn place(violation: &Violation) -> String {
    let node = violation.node.map(|node| format!(" on node {node}")).unwrap_or_default();
    if violation.at_ns == 0 {
        return node;
    }
    format!(" at {}.{:09}s{node}", violation.at_ns / 1_000_000_000, violation.at_ns % 1_000_000_000)
}

fn indented(detail: &str) -> String {
    detail.trim_end().replace('\n', "\n    ")
}

fn listed(faults: &BTreeMap<String, u64>) -> String {
    if faults.is_empty() {
        return "none".to_owned();
    }
    faults.iter().map(|(kind, times)| format!("{times} {kind}")).collect::<Vec<_>>().join(", ")
}

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many seeds there were to be, if that is known.
    due: Option<u64>,
    seeds: u64,
    failed: Vec<u64>,
    undecided: u64,
    by_check: BTreeMap<String, u64>,
    sim_seconds: f64,
    operations: u64,
    faults: BTreeMap<String, u64>,
}

impl Summary {
    /// Of a run that is to have so many seeds. A shard of few seeds may have none.
    pub fn of(due: usize) -> Summary {
        Summary { due: Some(due as u64), ..Summary::default() }
    }

    /// Counts a seed in.
    pub fn add(&mut self, report: &RunReport) {
        self.seeds += 1;
        self.sim_seconds += report.sim_seconds;
        self.operations += report.ops_ok + report.ops_unknown + report.ops_failed;
        for (kind, times) in &report.faults {
            *self.faults.entry(kind.clone()).or_default() += times;
        }
        if !report.ok {
            self.failed.push(report.seed);
        }
        self.undecided += u64::from(!report.undecided.is_empty());
        let checks: BTreeSet<&String> = report.violations.iter().map(|violation| &violation.check).collect();
        for check in checks {
            *self.by_check.entry(check.clone()).or_default() += 1;
        }
    }

    /// Whether every seed was fine, and none is missing; if nobody said how many there were to be, there was one.
    pub fn is_ok(&self) -> bool {
        self.failed.is_empty() && self.seeds >= self.due.unwrap_or(1)
    }

    /// The summary for a person; `wall_seconds` is how long it all took.
    pub fn text(&self, wall_seconds: f64) -> String {
        let verdict = match self.failed.len() {
            0 if self.seeds == 0 => "nothing was run".to_owned(),
            0 => "all ok".to_owned(),
            failed => format!("{failed} FAILED"),
        };
        let mut text = format!(
            "{} seeds: {verdict}; {:.0} simulated s in {wall_seconds:.1} s ({:.0} times real time); \
             {} operations; faults: {}\n",
            self.seeds,
            self.sim_seconds,
            self.sim_seconds / wall_seconds.max(0.001),
            self.operations,
            listed(&self.faults)
        );
        if self.undecided > 0 {
            let _ = writeln!(text, "undecided: something in {} seeds", self.undecided);
        }
        if !self.failed.is_empty() {
            let seeds: Vec<String> = self.failed.iter().take(20).map(u64::to_string).collect();
            let more = if self.failed.len() > 20 { ", ..." } else { "" };
            let _ = writeln!(text, "violated (seeds): {}", listed(&self.by_check));
            let _ = writeln!(text, "failing seeds: {}{more}", seeds.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing() -> RunReport {
        RunReport {
            seed: 17,
            of: None,
            ok: true,
            nodes: 5,
            trace_hash: "00c0ffee00c0ffee".into(),
            trace_events: 123_456,
            sim_seconds: 41.5,
            storm_seconds: 1.5,
            wall_seconds: 0.2,
            cpu_seconds: 0.1,
            memory_kib: 90_000,
            ops_ok: 700,
            ops_unknown: 12,
            ops_failed: 30,
            faults: [("kill".to_owned(), 2), ("partition".to_owned(), 5)].into(),
            beyond: false,
            excused: vec![],
            violations: Vec::new(),
            undecided: Vec::new(),
            points: BTreeMap::new(),
            coverage: Vec::new(),
            moments: Vec::new(),
        }
    }

    fn failing() -> RunReport {
        let mut report = passing();
        report.ok = false;
        report.undecided.push("LIN of key \"k1\" after 20000000 steps".into());
        report.violations.push(Violation {
            check: "ES".into(),
            detail: "node 2 voted twice in term 3: first for Raft id 1, then for Raft id 2".into(),
            at_ns: 12_345_678_901,
            node: Some(2),
        });
        report
            .violate("LIVE", "no leader within 30 s of the heal\nnode 1: candidate\nnode 2: follower".into());
        report
    }

    #[test]
    fn a_passing_seed_is_told_briefly() {
        insta::assert_snapshot!(passing().text("as generated", "cargo sim run --seed 17"));
    }

    #[test]
    fn a_failing_seed_says_what_broke_and_how_to_see_it_again() {
        let scenario = "shrunk.json (3 faults, 8 operations)";
        insta::assert_snapshot!(failing().text(scenario, "cargo sim run --scenario shrunk.json"));
    }

    #[test]
    fn a_small_plan_is_told_under_the_name_it_is_given() {
        let text =
            failing().text_of("seed 8, made small (a.json)", "a.json", "cargo sim run --scenario a.json");
        assert!(text.starts_with("seed 8, made small (a.json): ES violated: at most one leader"), "{text}");
        assert!(!text.contains("seed 17"), "{text}");
    }

    #[test]
    fn a_sweep_is_summed_up() {
        let mut summary = Summary::default();
        assert!(!summary.is_ok(), "no seed at all proves nothing");
        summary.add(&passing());
        assert!(summary.is_ok());
        summary.add(&failing());
        assert!(!summary.is_ok());
        insta::assert_snapshot!(summary.text(2.0));
    }

    #[test]
    fn a_share_of_no_seeds_is_fine_and_seeds_that_are_missing_are_not() {
        assert!(Summary::of(0).is_ok());
        assert!(Summary::of(0).text(1.0).starts_with("0 seeds: nothing was run;"));
        let mut summary = Summary::of(2);
        assert!(!summary.is_ok());
        summary.add(&passing());
        assert!(!summary.is_ok());
        summary.add(&passing());
        assert!(summary.is_ok());
    }

    #[test]
    fn the_manual_names_all_that_two_runs_of_a_seed_may_differ_in() {
        let fields = |report: RunReport| serde_json::to_value(report).unwrap().as_object().unwrap().clone();
        let (whole, without) = (fields(passing()), fields(passing().without_machine()));
        let differ: Vec<&String> = whole.keys().filter(|name| whole[*name] != without[*name]).collect();
        assert_eq!(differ.len(), 3);
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fleet.md");
        let manual = std::fs::read_to_string(path).unwrap();
        for name in differ {
            assert!(manual.contains(&format!("`{name}`")), "docs/fleet.md does not name {name}");
        }
    }

    #[test]
    fn reports_survive_a_pipe_and_unknown_fields() {
        let json = serde_json::to_string(&failing()).unwrap();
        assert!(!json.contains('\n'));
        assert_eq!(serde_json::from_str::<RunReport>(&json).unwrap(), failing());
        let newer = json.replacen('{', r#"{"of_tomorrow":1,"#, 1);
        assert_eq!(serde_json::from_str::<RunReport>(&newer).unwrap(), failing());
    }
}
