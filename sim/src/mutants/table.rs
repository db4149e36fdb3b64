//! What came of hunting the mutants, in Markdown.

use std::fmt::Write as _;

use super::find;
use super::score::Score;

/// The scores as a Markdown table.
pub fn table(scores: &[Score]) -> String {
    let mut text = String::from(
        "| mutant | bug | must be caught by | caught by | seeds to kill | other checks first | without its faults |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for score in scores {
        let Some(mutant) = find(score.id) else { continue };
        let (caught, seeds) = match &score.killed {
            Some((seed, check, seeds)) => (format!("{check} (seed {seed})"), seeds.to_string()),
            None => ("**nothing**".to_owned(), "-".to_owned()),
        };
        let elsewhere = match score.elsewhere.first() {
            Some((seed, check)) => format!("{check} (seed {seed}); {} in all", score.elsewhere.len()),
            None => "-".to_owned(),
        };
        let ablated = match &score.ablated {
            None => "-".to_owned(),
            Some(None) => format!("survives (no {})", mutant.needs.join(", ")),
            Some(Some((seed, check))) => format!("**{check} (seed {seed})**"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {caught} | {seeds} | {elsewhere} | {ablated} |",
            mutant.id,
            mutant.what,
            mutant.checks.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_who_was_caught_and_who_was_not() {
        let scores = [
            Score {
                id: "R02",
                killed: Some((7, "MV".into(), 7)),
                elsewhere: vec![(3, "LIVE".into())],
                ablated: Some(None),
            },
            Score {
                id: "R14",
                killed: Some((1, "DUR".into(), 1)),
                elsewhere: vec![],
                ablated: Some(Some((1, "LIN".into()))),
            },
            Score { id: "T02", killed: None, elsewhere: vec![], ablated: None },
        ];
        assert_eq!(scores.each_ref().map(Score::is_good), [true, false, false]);
        insta::assert_snapshot!(table(&scores));
    }
}
