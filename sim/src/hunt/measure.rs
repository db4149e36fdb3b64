//! How many runs it takes to catch a mutant: of blind seeds, and of a hunt that starts from nothing.
//!
//! Both stop at the first run in which a check that is named for the mutant objects; other objections count as nothing.
//! Each is done from several starts that have nothing in common, and compared by the median. What was measured is kept
//! as data (`fixtures/hunting.json`), and `docs/hunting.md` shows it.
//!
//! A hunt goes to plans in which much happens, and these take longer to run. So runs are not all that is counted: the events of
//! all traces say how much was simulated, on any machine the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;

use serde::{Deserialize, Serialize};

use super::{Candidate, Fresh, Hunt, ROUND};
use crate::mutants::{self, Mutant};
use crate::report::RunReport;
use crate::runner::{Case, Refused, Runner};
use crate::shard::Shard;

/// The blind seeds of different starts are this far apart.
const APART: u64 = 1_000_000;

/// Runs that either may take, if nobody says how many.
pub const USUAL_LIMIT: u64 = 400;

/// One start, within one limit: what was not caught within a low one says nothing of a higher one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The mutant.
    pub mutant: String,
    /// The number of the start.
    pub start: u64,
    /// Runs that either may take.
    pub limit: u64,
    /// Of blind seeds.
    pub blind: Search,
    /// Of a hunt.
    pub guided: Search,
}

/// What a search for a mutant took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Runs until it was caught, with the one that caught it; none: not within the limit.
    pub runs: Option<u64>,
    /// Events in the traces of all runs that were made.
    pub events: u64,
}

impl Search {
    /// Counts runs in their order, until one catches the mutant.
    fn count<'a>(&mut self, mutant: &Mutant, before: u64, reports: impl IntoIterator<Item = &'a RunReport>) {
        for (report, number) in reports.into_iter().zip(before + 1..) {
            self.events += report.trace_events;
            if caught(mutant, report) {
                self.runs = Some(number);
                return;
            }
        }
    }
}

fn caught(mutant: &Mutant, report: &RunReport) -> bool {
    mutant.checks.iter().any(|check| report.violates(check))
}

/// What the seeds from a start take.
///
/// # Errors
/// If a seed is refused.
pub fn blind(runner: &Runner, mutant: &Mutant, start: u64, limit: u64) -> Result<Search, Refused> {
    let first = start * APART + 1;
    let cases: Vec<Case> = (first..first + limit)
        .map(|seed| Case { seed, mutant: Some(mutant.id.to_owned()), ..Case::default() })
        .collect();
    let (mut before, mut search) = (0, Search::default());
    runner.run_in_order(&cases, &mut |_| {}, &mut |_, report| {
        search.count(mutant, before, [&report]);
        before += 1;
        search.runs.is_none()
    })?;
    Ok(search)
}

/// What a hunt takes that begins with nothing.
///
/// # Errors
/// The system's, when plans cannot be written to the folder for temporary files; that one is refused.
pub fn guided(
    runner: &Runner,
    mutant: &Mutant,
    start: u64,
    limit: u64,
    fresh: &Fresh<'_>,
) -> io::Result<Search> {
    let mut search = Search::default();
    let mut hunt = Hunt::new(start, Some(mutant.id.to_owned()));
    while hunt.runs() < limit {
        let round = hunt.next_round(Shard::WHOLE, fresh);
        let case = Case { mutant: Some(mutant.id.to_owned()), ..Case::default() };
        let reports = run_round(runner, &round, &case)?;
        search.count(mutant, hunt.runs(), &reports);
        if search.runs.is_some() {
            break;
        }
        hunt.learn(&round, &reports, |_| true);
    }
    Ok(search)
}

/// Runs a round, as many at once as there are jobs; the reports come in the round's order.
///
/// # Errors
/// The system's, when plans cannot be written to the folder for temporary files; that one is refused.
pub fn run_round(runner: &Runner, round: &[Candidate], case: &Case) -> io::Result<Vec<RunReport>> {
    let folder = tempfile::tempdir()?;
    let mut cases = Vec::with_capacity(ROUND);
    for (number, candidate) in round.iter().enumerate() {
        let path = folder.path().join(format!("plan-{number}.json"));
        cases.push(Case { coverage: true, ..case.of_plan(&candidate.scenario, path)? });
    }
    let mut reports = Vec::with_capacity(cases.len());
    runner.run_in_order(&cases, &mut |_| {}, &mut |_, report| {
        reports.push(report);
        true
    })?;
    Ok(reports)
}

/// The middle of the runs; what was not caught counts as more than the limit.
fn median(searches: &[Search]) -> Option<u64> {
    let mut runs: Vec<u64> = searches.iter().map(|search| search.runs.unwrap_or(u64::MAX)).collect();
    runs.sort_unstable();
    runs.get(runs.len().saturating_sub(1) / 2).copied().filter(|runs| *runs != u64::MAX)
}

/// Events of all searches for each that caught the mutant; none, if none did.
fn events_a_catch(searches: &[Search]) -> Option<f64> {
    let caught = searches.iter().filter(|search| search.runs.is_some()).count();
    let events: u64 = searches.iter().map(|search| search.events).sum();
    (caught > 0 && events > 0).then(|| events as f64 / caught as f64)
}

/// The trials as a Markdown table, by mutant and limit. The limit is named where a mutant was measured within several.
pub fn table(trials: &[Trial]) -> String {
    let mut text = String::from(
        "| mutant | bug | caught by | starts | blind: median runs (all) | guided: median runs (all) | blind / guided | by events |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let rows: BTreeSet<(&str, u64)> =
        trials.iter().map(|trial| (trial.mutant.as_str(), trial.limit)).collect();
    for (id, limit) in &rows {
        let (id, limit) = (*id, *limit);
        let Some(mutant) = mutants::find(id) else { continue };
        let of = |search: fn(&Trial) -> Search| -> Vec<Search> {
            let in_row = |trial: &&Trial| trial.mutant == id && trial.limit == limit;
            trials.iter().filter(in_row).map(search).collect()
        };
        let alone = rows.iter().filter(|(other, _)| *other == id).count() == 1;
        let name = if alone { id.to_owned() } else { format!("{id}, of {limit}") };
        let (blind, guided) = (of(|trial| trial.blind), of(|trial| trial.guided));
        let ratio = match (median(&blind), median(&guided)) {
            (Some(blind), Some(guided)) => format!("{:.1}", blind as f64 / guided as f64),
            (None, Some(guided)) => format!("more than {:.1}", limit as f64 / guided as f64),
            (Some(blind), None) => format!("less than {:.1}", blind as f64 / limit as f64),
            (None, None) => "-".to_owned(),
        };
        let by_events = match (events_a_catch(&blind), events_a_catch(&guided)) {
            (Some(blind), Some(guided)) => format!("{:.1}", blind / guided),
            _ => "-".to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {ratio} | {by_events} |",
            mutant.what,
            mutant.checks.join(", "),
            blind.len(),
            shown(&blind, limit),
            shown(&guided, limit),
        );
    }
    text
}

fn shown(searches: &[Search], limit: u64) -> String {
    let one = |runs: Option<u64>| runs.map_or(format!("> {limit}"), |runs| runs.to_string());
    let mut sorted: Vec<Option<u64>> = searches.iter().map(|search| search.runs).collect();
    sorted.sort_by_key(|runs| runs.unwrap_or(u64::MAX));
    format!("**{}** ({})", one(median(searches)), sorted.into_iter().map(one).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::tests::plain;
    use super::*;
    use std::path::Path;

    /// A search of runs of a thousand events each.
    fn took(runs: Option<u64>) -> Search {
        Search { runs, events: runs.unwrap_or(200) * 1_000 }
    }

    fn trial(start: u64, blind: Option<u64>, guided: Option<u64>) -> Trial {
        Trial { mutant: "S04".into(), start, limit: 200, blind: took(blind), guided: took(guided) }
    }

    #[test]
    fn what_is_not_caught_counts_as_more_than_the_limit() {
        assert_eq!(median(&[Some(3), None, Some(9)].map(took)), Some(9));
        assert_eq!(median(&[Some(3), None, None].map(took)), None);
        assert_eq!(median(&[Some(3), Some(5)].map(took)), Some(3));
        assert_eq!(median(&[]), None);
        assert_eq!(events_a_catch(&[Some(3), None, Some(9)].map(took)), Some(106_000.0));
        assert_eq!(events_a_catch(&[None].map(took)), None);
    }

    #[test]
    fn the_table_shows_medians_and_all_runs() {
        let table =
            table(&[trial(1, Some(150), Some(30)), trial(2, None, Some(10)), trial(3, Some(90), None)]);
        assert!(table.contains("**150** (90, 150, > 200)"), "{table}");
        assert!(table.contains("**30** (10, 30, > 200) | 5.0 | 1.8 |"), "{table}");
    }

    #[test]
    fn trials_within_different_limits_are_not_one_measurement() {
        let within = |limit: u64, guided| Trial { limit, ..trial(1, None, guided) };
        let table = table(&[within(8, None), within(400, Some(70))]);
        assert!(
            table.contains("| S04, of 8 |") && table.contains("**> 8** (> 8) | **> 8** (> 8)"),
            "{table}"
        );
        assert!(table.contains("| S04, of 400 |") && table.contains("**70** (70)"), "{table}");
    }

    #[test]
    fn the_document_shows_what_was_measured() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let data = std::fs::read_to_string(root.join("fixtures/hunting.json")).unwrap();
        let trials: Vec<Trial> = serde_json::from_str(&data).unwrap();
        let document = std::fs::read_to_string(root.join("docs/hunting.md")).unwrap();
        assert!(document.contains(&table(&trials)), "docs/hunting.md wants:\n{}", table(&trials));
        // It knows nothing yet, so what it caught speaks for no guidance, and the document has to say so.
        let of_first_round = |trial: &&Trial| trial.guided.runs.is_some_and(|runs| runs <= ROUND as u64);
        assert_eq!(
            trials.iter().filter(of_first_round).count(),
            document.matches("in its first round").count()
        );
    }

    /// Processes that answer by a shell script: caught at every plan of an even seed.
    #[test]
    #[cfg(unix)]
    fn both_ways_count_runs_until_a_named_check_objects() {
        let script = r#"case $1 in
            --seed) seed=$2;;
            --scenario) seed=$(sed 's/.*"seed":\([0-9]*\),"nodes.*/\1/' "$2");;
            esac
            if [ $((seed % 8)) = 0 ]; then check=DUR; else check=LIVE; fi
            echo "{\"seed\":$seed,\"trace_events\":10,\"coverage\":[$((seed % 97))],\"violations\":[{\"check\":\"$check\",\"detail\":\"\"}]}""#;
        let runner = Runner {
            program: "/bin/sh".into(),
            prefix: ["-c", script, "sh"].map(Into::into).into(),
            jobs: 2,
            time_limit: std::time::Duration::from_secs(20),
            check_determinism: false,
        };
        let mutant = mutants::find("S04").unwrap();
        assert_eq!(blind(&runner, mutant, 1, 20), Ok(Search { runs: Some(8), events: 80 }));
        assert_eq!(blind(&runner, mutant, 1, 7), Ok(Search { runs: None, events: 70 }));
        let runs = guided(&runner, mutant, 1, 400, &plain).unwrap();
        assert!(runs.runs.is_some_and(|number| runs.events == number * 10), "{runs:?}");
        assert_eq!(guided(&Runner { jobs: 1, ..runner }, mutant, 1, 400, &plain).unwrap(), runs);
    }
}
