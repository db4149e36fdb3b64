//! Where runs have been: every claim that the code makes of itself, and how often it held.
//!
//! The claims are made in the node (`driftline::env::assertion`) and in the testbed ([`sightings`], and any check through
//! its findings). [`table`] lists them all by area, so that what never happened can be told; a test compares the list
//! with the code. A run counts visits ([`Points`]) and puts them into its report; a sweep adds reports up ([`Reached`]),
//! says which points no run came to, and can be held to the points of [`table::CORE`].
//!
//! Left out: how a point was reached. The trace has a line `reached` at the first time of each.

pub mod sightings;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use driftline::env::assertion::{Assertion, AssertionKind};
use serde::{Deserialize, Serialize};

use crate::report::RunReport;
use table::{CORE, TABLE};

/// The version of the coverage report's format.
const VERSION: u32 = 1;

/// The visits of one run.
#[derive(Clone, Debug, Default)]
pub struct Points {
    visits: Vec<Visits>,
    /// Where a claim's text is in memory, and its place in the list: claims are made millions of times, and text is
    /// slow to compare. How often a compiler puts one text into a program, and in which order, is of no consequence.
    by_address: BTreeMap<usize, usize>,
}

#[derive(Clone, Debug)]
struct Visits {
    claim: &'static str,
    held: u64,
}

impl Points {
    /// Counts a visit. Whether it is the first at which the claim held.
    pub fn visit(&mut self, assertion: Assertion) -> bool {
        let address = assertion.claim.as_ptr() as usize;
        let visits = &mut self.visits;
        let at = *self.by_address.entry(address).or_insert_with(|| {
            let known = visits.iter().position(|visits| visits.claim == assertion.claim);
            known.unwrap_or_else(|| {
                visits.push(Visits { claim: assertion.claim, held: 0 });
                visits.len() - 1
            })
        });
        let held = &mut self.visits[at].held;
        *held += u64::from(assertion.holds);
        assertion.holds && *held == 1
    }

    /// Claims that `holds` is true here in some run.
    pub fn sometimes(&mut self, holds: bool, claim: &'static str) {
        self.visit(Assertion { kind: AssertionKind::Sometimes, claim, holds });
    }

    /// Claims that some run comes here.
    pub fn reachable(&mut self, claim: &'static str) {
        self.visit(Assertion { kind: AssertionKind::Reachable, claim, holds: true });
    }

    /// How often each claim held, by claim; without those that never did.
    pub fn held(&self) -> BTreeMap<String, u64> {
        let held = self.visits.iter().filter(|visits| visits.held > 0);
        held.map(|visits| (visits.claim.to_owned(), visits.held)).collect()
    }
}

/// How often one claim held over many runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    /// In how many runs.
    pub runs: u64,
    /// How often in all.
    pub times: u64,
}

/// Where many runs have been. Two of them add up to one: [`Reached::merge`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reached {
    /// Version of the format.
    version: u32,
    /// Which code ran; older ones do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How many runs.
    pub runs: u64,
    /// What they came to, by claim.
    pub points: BTreeMap<String, Times>,
    /// What none of them came to: always as the others say, and there for whoever reads the file.
    never: BTreeSet<String>,
}

impl Default for Reached {
    fn default() -> Reached {
        let mut none = Reached {
            version: VERSION,
            code: None,
            runs: 0,
            points: BTreeMap::new(),
            never: BTreeSet::new(),
        };
        none.never = none.missing().map(str::to_owned).collect();
        none
    }
}

impl Reached {
    /// Adds a run.
    pub fn add(&mut self, report: &RunReport) {
        self.runs += 1;
        for (claim, times) in &report.points {
            let sum = self.points.entry(claim.clone()).or_default();
            sum.runs += 1;
            sum.times += times;
        }
        self.never.retain(|claim| !report.points.contains_key(claim));
    }

    /// Adds the runs of another, of the same code as far as they say.
    pub fn merge(&mut self, other: &Reached) {
        if self.code.is_none() {
            self.code.clone_from(&other.code);
        }
        self.runs += other.runs;
        for (claim, times) in &other.points {
            let sum = self.points.entry(claim.clone()).or_default();
            sum.runs += times.runs;
            sum.times += times.times;
        }
        self.never = self.missing().map(str::to_owned).collect();
    }

    /// A report as read from a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Reached, String> {
        let reached: Reached = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if reached.version != VERSION {
            return Err(format!(
                "a coverage report of version {}; this build reads {VERSION}",
                reached.version
            ));
        }
        Ok(reached)
    }

    /// The claims that say where runs should get, and that held in none.
    fn missing(&self) -> impl Iterator<Item = &'static str> + '_ {
        let wanted = TABLE.iter().filter(|point| point.is_goal());
        wanted.map(|point| point.claim).filter(|claim| !self.points.contains_key(*claim))
    }

    /// What of the core set no run came to.
    pub fn missing_core(&self) -> Vec<&'static str> {
        CORE.iter().copied().filter(|claim| !self.points.contains_key(*claim)).collect()
    }

    /// How many points were not reached, in one line: for few runs, which come to few of them, so that a list would say nothing
    /// and stand in the way of the rest.
    pub fn line(&self) -> String {
        match self.missing().count() {
            0 => self.text(),
            missing => {
                format!("{missing} of {} points not reached; --coverage-report FILE lists them\n", goals())
            }
        }
    }

    /// One line, and what was never reached, by area.
    pub fn text(&self) -> String {
        let goals = goals();
        let missing: Vec<&str> = self.missing().collect();
        let mut text = format!("points: {} of {goals} reached", goals - missing.len());
        text += if missing.is_empty() { "\n" } else { "; never:\n" };
        for point in TABLE.iter().filter(|point| missing.contains(&point.claim)) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {:10} {}", point.area, point.claim);
        }
        text
    }

    /// How often each point was reached, rarest first.
    pub fn counts(&self) -> String {
        let mut rows: Vec<(u64, u64, &str, &str)> = TABLE
            .iter()
            .map(|point| {
                let times = self.points.get(point.claim).copied().unwrap_or_default();
                (times.runs, times.times, point.area, point.claim)
            })
            .collect();
        rows.sort();
        let mut text = format!("of {} runs; times in all\n", self.runs);
        for (runs, times, area, claim) in rows {
            let _ = writeln!(text, "  {runs:6} {times:10} {area:10} {claim}");
        }
        text
    }
}

/// How many points there are to reach.
fn goals() -> usize {
    TABLE.iter().filter(|point| point.is_goal()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(holds: bool) -> Assertion {
        Assertion { kind: AssertionKind::Sometimes, claim: "a vote is granted", holds }
    }

    fn report(claims: &[(&str, u64)]) -> RunReport {
        let points = claims.iter().map(|(claim, times)| ((*claim).to_owned(), *times)).collect();
        RunReport { points, ..RunReport::default() }
    }

    #[test]
    fn a_claim_counts_when_it_holds() {
        let mut points = Points::default();
        assert!(!points.visit(visit(false)));
        assert_eq!(points.held(), BTreeMap::new());
        assert!(points.visit(visit(true)));
        assert!(!points.visit(visit(true)));
        assert_eq!(points.held(), BTreeMap::from([("a vote is granted".to_owned(), 2)]));
    }

    #[test]
    fn a_claim_whose_text_is_in_the_program_twice_is_one_claim() {
        let copy: &'static str = Box::leak(String::from("a vote is granted").into_boxed_str());
        let mut points = Points::default();
        assert!(points.visit(visit(true)));
        assert!(!points.visit(Assertion { claim: copy, ..visit(true) }));
        assert_eq!(points.held(), BTreeMap::from([("a vote is granted".to_owned(), 2)]));
    }

    #[test]
    fn parts_add_up_to_the_whole_in_any_order_and_survive_a_file() {
        let reports = [
            report(&[("a vote is granted", 3)]),
            report(&[]),
            report(&[("a vote is granted", 1), ("a snapshot is sent in pieces", 2)]),
        ];
        let sum = |reports: &[&RunReport]| {
            let mut reached = Reached::default();
            reports.iter().for_each(|report| reached.add(report));
            reached
        };
        let whole = sum(&[&reports[0], &reports[1], &reports[2]]);
        let (mut first, second) = (sum(&[&reports[2]]), sum(&[&reports[1], &reports[0]]));
        first.merge(&second);
        assert_eq!(first, whole);
        assert_eq!(Reached::parse(&serde_json::to_string(&whole).unwrap()), Ok(whole.clone()));
        assert!(Reached::parse("{").is_err());
        let newer = serde_json::to_string(&whole).unwrap().replacen("\"version\":1", "\"version\":9", 1);
        assert!(Reached::parse(&newer).unwrap_err().contains("version 9"));
    }

    #[test]
    fn what_was_never_reached_is_told_by_area() {
        let mut reached = Reached::default();
        reached.add(&report(&[("a vote is granted", 3)]));
        assert!(!reached.text().contains("a vote is granted\n"));
        assert!(reached.text().contains("snapshot   a snapshot is sent in pieces\n"));
        assert!(reached.never.contains("a snapshot is sent in pieces"));
        let (missing, goals) = (goals() - 1, goals());
        assert_eq!(
            reached.line(),
            format!("{missing} of {goals} points not reached; --coverage-report FILE lists them\n")
        );
        assert_eq!(reached.missing_core().len() + 1, CORE.len());
        let all: Vec<(&str, u64)> = TABLE.iter().map(|point| (point.claim, 1)).collect();
        reached.add(&report(&all));
        assert!(reached.missing_core().is_empty());
        assert_eq!(reached.line(), format!("points: {goals} of {goals} reached\n"));
    }
}
