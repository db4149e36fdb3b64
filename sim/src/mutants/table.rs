//! What came of hunting the mutants, in Markdown: a table for the terminal, and `docs/mutants.md`.

use std::fmt::Write as _;

use super::score::{EDITS, Score};
use super::{AREAS, Mutant, UNEXPRESSED, all};
use crate::shrink::MOST_SEEDS;

/// The head of [`table`].
const HEAD: &str = "| mutant | bug | must be caught by | failed by | named, of all that failed | seeds to kill: median, p95 | \
                    without its faults | smallest case |\n|---|---|---|---|---|---|---|---|\n";

/// What marks a row of an earlier version.
const EARLIER: &str = " †";

/// The cells that do not depend on any run.
fn fixed(mutant: &Mutant) -> String {
    format!("| {} | {} ({}) | {} |", mutant.id, mutant.what, mutant.origin, mutant.checks.join(", "))
}

fn row(score: &Score) -> String {
    let mutant = score.mutant;
    if score.hunts.is_empty() {
        return format!("{} not hunted yet | | | | |\n", fixed(mutant));
    }
    let mark = if score.is_earlier { EARLIER } else { "" };
    let by_check: Vec<String> =
        score.by_check().into_iter().map(|(check, times)| format!("{check} {times}")).collect();
    let by_check = if by_check.is_empty() { "**nothing**".to_owned() } else { by_check.join(", ") };
    let (named, all) = score.attributed();
    let seeds = |percent| score.percentile(percent).map_or("**none**".to_owned(), |seeds| seeds.to_string());
    let ablated = match score.killed_without() {
        Some((seed, check)) => format!("**{check} (seed {seed})**"),
        None if mutant.needs.is_empty() => "needs none".to_owned(),
        None if score.hunts.iter().any(|hunt| hunt.ablated.is_some()) => "survives".to_owned(),
        None => "-".to_owned(),
    };
    let small = score.small.as_ref().map_or("-".to_owned(), |small| {
        format!(
            "{} faults, {} operations, {} nodes, {:.0} s, {}/{EDITS}",
            small.faults, small.operations, small.nodes, small.seconds, small.after_edits
        )
    });
    format!(
        "{} {by_check}{mark} | {named} of {all} | {}, {} of {} | {ablated} | {small} |\n",
        fixed(mutant),
        seeds(50),
        seeds(95),
        score.hunts.len()
    )
}

/// The scores as a table.
pub fn table(scores: &[Score]) -> String {
    HEAD.to_owned() + &scores.iter().map(row).collect::<String>()
}

/// How many of the scores meet each bar.
fn bars(scores: &[Score]) -> String {
    let hunted: Vec<&Score> = scores.iter().filter(|score| !score.hunts.is_empty()).collect();
    let count = |meets: &dyn Fn(&Score) -> bool| hunted.iter().filter(|score| meets(score)).count();
    let within = |seeds: u64| count(&|score| score.percentile(95).is_some_and(|p95| p95 <= seeds));
    let attributed = count(&|score| {
        let (named, all) = score.attributed();
        all > 0 && named * 10 >= all * 9
    });
    let ablated = count(&|score| score.percentile(50).is_some() && score.killed_without().is_none());
    let shrunk: Vec<_> = scores.iter().filter_map(|score| score.small.as_ref()).collect();
    let small = shrunk.iter().filter(|small| small.faults <= 3 && small.operations <= 10).count();
    let quick = shrunk.iter().filter(|small| small.seconds <= 300.0).count();
    let robust = shrunk.iter().filter(|small| small.after_edits == EDITS).count();
    let (all, of) = (hunted.len(), shrunk.len());
    format!(
        "| bar | met by |\n|---|---|\n\
         | caught by a named check within 1,000 seeds, from every starting seed | {} of {all} |\n\
         | within 200 seeds | {} of {all} |\n\
         | by a named check in at least nine of ten seeds that fail | {attributed} of {all} |\n\
         | survives without the faults it needs | {ablated} of {all} |\n\
         | smallest case has at most 3 faults and 10 operations | {small} of {of} |\n\
         | found in at most five minutes | {quick} of {of} |\n\
         | fails the same way after each of {EDITS} unrelated edits to the program | {robust} of {of} |\n",
        within(1_000),
        within(200),
    )
}

/// `docs/mutants.md`.
///
/// With the rows of an earlier version, where there are none of this one.
pub fn document(scores: &[Score], code: &str, earlier: Option<&str>) -> String {
    let starts = scores.iter().map(|score| score.hunts.len()).max().unwrap_or(0);
    let earlier = earlier.map_or_else(String::new, |code| format!(", rows with{EARLIER} of code `{code}`"));
    let mut text = format!(
        "# The mutants\n\n\
         Written by `cargo sim mutants --write-docs`, never by hand; of code `{code}`{earlier}.\n\n\
         There are {} bugs, each put back on purpose. A hunt begins at a seed and runs until a check that is named for \
         the bug objects; there were up to {starts} hunts of each, from seeds far apart. \"Failed by\" counts the seeds on which each \
         check objected, named for the bug or not. Then the same seeds run without the faults that the bug needs, where it \
         must survive. The clean node passes the same seeds. Of the smallest case it is told how long one core took to find it, \
         and after how many of {EDITS} unrelated edits to the program it still fails the same way: each draws once more and starts one \
         more task at every boot, and as that changes all luck, a case that is quick to run may take up to {MOST_SEEDS} seeds.\n\n{}\n",
        all().count(),
        bars(scores)
    );
    for (area, of, mutants) in AREAS {
        let of_area: Vec<Score> = scores
            .iter()
            .filter(|score| mutants.iter().any(|mutant| mutant.id == score.mutant.id))
            .cloned()
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "## {area}\n\n{of}.\n\n{}", table(&of_area));
    }
    text += "## Not expressible\n\nBugs of the catalogue that these ids come from, and why they are not planted.\n\n\
             | id | bug | why not |\n|---|---|---|\n";
    for (id, what, why) in UNEXPRESSED {
        let _ = writeln!(text, "| {id} | {what} | {why} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::super::score::{Ablation, Hunt, Small};
    use super::*;

    fn hunt(id: &str, failed: &[(u64, &[&str])], killed_without: Option<&str>) -> Hunt {
        let failed =
            failed.iter().map(|(seed, checks)| (*seed, checks.iter().map(|id| id.to_string()).collect()));
        let killed = killed_without.map(|check| (1, check.to_owned()));
        let ablated = Some(Ablation { seeds: 7, killed });
        Hunt { mutant: id.to_owned(), start: 1, seeds: 9, failed: failed.collect(), ablated }
    }

    #[test]
    fn the_table_shows_who_was_caught_and_who_was_not() {
        let small = Small {
            mutant: "R02".into(),
            seed: 7,
            faults: 1,
            operations: 4,
            nodes: 2,
            seconds: 31.4,
            after_edits: 3,
        };
        let score = |id: &str, hunts: Vec<Hunt>, small| Score {
            mutant: find(id).unwrap(),
            hunts,
            small,
            is_earlier: false,
        };
        let none = Hunt { ablated: None, ..hunt("T02", &[], None) };
        let scores = [
            score("R02", vec![hunt("R02", &[(3, &["LIVE"]), (7, &["MV", "LIVE"])], None)], Some(small)),
            score("R44", vec![hunt("R44", &[(1, &["CQ", "DUR"])], Some("LC"))], None),
            score("T02", vec![none], None),
            score("R27", vec![], None),
        ];
        assert_eq!(scores.each_ref().map(Score::is_good), [false; 4]);
        let text = table(&scores);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let cells =
            |line: &str| line.split('|').skip(4).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            cells(lines[0]),
            [
                "LIVE 2, MV 1",
                "1 of 2",
                "7, 7 of 1",
                "survives",
                "1 faults, 4 operations, 2 nodes, 31 s, 3/4",
                ""
            ]
        );
        assert_eq!(cells(lines[1]), ["CQ 1, DUR 1", "1 of 1", "1, 1 of 1", "**LC (seed 1)**", "-", ""]);
        assert_eq!(
            cells(lines[2]),
            ["**nothing**", "0 of 0", "**none**, **none** of 1", "needs none", "-", ""]
        );
        assert!(lines[3].contains("| not hunted yet |"));
        let bars = bars(&scores);
        assert!(bars.contains("within 200 seeds | 2 of 3 |"), "{bars}");
        assert!(bars.contains("survives without the faults it needs | 1 of 3 |"), "{bars}");
        assert!(bars.contains("at most 3 faults and 10 operations | 1 of 1 |"), "{bars}");
    }

    #[test]
    fn the_document_has_every_mutant_as_the_table_tells_it() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mutants.md");
        let document = std::fs::read_to_string(path).unwrap();
        for mutant in all() {
            assert!(
                document.contains(&fixed(mutant)),
                "run `cargo sim mutants --write-docs`: {}",
                fixed(mutant)
            );
        }
        for (id, what, why) in UNEXPRESSED {
            assert!(document.contains(&format!("| {id} | {what} | {why} |")), "{id}");
        }
    }
}
