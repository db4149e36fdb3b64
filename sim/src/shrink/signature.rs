//! What makes two failures the same.
//!
//! A check id alone is too coarse: a shrinker that accepts any objection of `LIVE` slips from "nobody can
//! be elected" to "a node that is gone is still listed" and ends with the story of another bug. The whole
//! text is too fine: it holds times, indexes and values. So a [`Signature`] is the check and the first
//! statement of its detail with every number, quoted text and id taken out: what is drawn at random under one seed is another
//! under the next.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::Violation;
use crate::report::RunReport;

/// Text up to here is never cut at a colon: details begin with `key "k":` and the like.
const LEAST: usize = 16;

/// What two failures have in common when they are the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Id of the check.
    pub check: String,
    /// What it says, without numbers and names.
    pub says: String,
}

impl Signature {
    /// The signature of a violation.
    pub fn of(violation: &Violation) -> Signature {
        Signature { check: violation.check.clone(), says: normal(&violation.detail) }
    }

    /// What a failed run is known by: its first violation by one of the `named` checks, else its first.
    pub fn of_report(report: &RunReport, named: &[&str]) -> Option<Signature> {
        let by_name = report.violations.iter().find(|one| named.contains(&one.check.as_str()));
        by_name.or(report.violations.first()).map(Signature::of)
    }

    /// Whether a run failed like this.
    pub fn is_in(&self, report: &RunReport) -> bool {
        report.violations.iter().any(|violation| Signature::of(violation) == *self)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.says)
    }
}

/// The first statement of a detail, with `#` for each number and `_` for each quoted text.
fn normal(detail: &str) -> String {
    let mut text = String::new();
    let mut chars = detail.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => break,
            ':' | ';' if text.len() >= LEAST && chars.peek().is_none_or(|next| next.is_whitespace()) => break,
            '"' => {
                // An escaped quote does not end the text.
                while let Some(inner) = chars.next() {
                    match inner {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                text.push('_');
            }
            '0'..='9' | 'a'..='f' => {
                let mut word = String::from(c);
                while let Some(next) = chars.next_if(|next| next.is_ascii_alphanumeric() || *next == '-') {
                    word.push(next);
                }
                text += &without_numbers(&word);
                // What follows the point of a number.
                if text.ends_with('#') && chars.peek() == Some(&'.') {
                    let mut ahead = chars.clone().skip(1);
                    if ahead.next().is_some_and(|next| next.is_ascii_digit()) {
                        chars.next();
                        while chars.next_if(char::is_ascii_alphanumeric).is_some() {}
                    }
                }
            }
            c => text.push(c),
        }
    }
    // A list of as many numbers as there are nodes says no more than one of them.
    for (several, one) in [("#, #", "#"), ("[#], [#]", "[#]")] {
        while text.contains(several) {
            text = text.replace(several, one);
        }
    }
    text.trim_end().to_owned()
}

/// A word that begins like a number or an id: an id is one number; in anything else each row of digits is.
fn without_numbers(word: &str) -> String {
    let is_id = word.len() >= 8
        && word.contains(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c == '-' || (c.is_ascii_hexdigit() && !c.is_ascii_uppercase()));
    if is_id {
        return "#".to_owned();
    }
    let mut text = String::new();
    for c in word.chars() {
        match c {
            '0'..='9' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_do_not_make_another_failure() {
        let a = normal("key \"k2\": 33 of 39 operations can be put in order, after which ...\n one of these");
        assert_eq!(a, normal("key \"k\\\"9\": 3 of 4 operations can be put in order, after which ..."));
        assert_eq!(a, "key _: # of # operations can be put in order, after which ...");
        assert_eq!(
            normal("node 2 voted twice in term 3: first for Raft id 1"),
            "node # voted twice in term #"
        );
    }

    #[test]
    fn an_id_is_one_number_however_it_is_drawn() {
        let lock =
            |id: &str| normal(&format!("lock \"l\": session {id} holds the lock from 15.603s to 16.770s"));
        let first = lock("5119fa99-6126-4944-8e48-ca6204164ef9");
        assert_eq!(first, lock("fa5ea99e-6126-4944-8e48-ca6204164ef9"));
        assert_eq!(first, "lock _: session # holds the lock from # to #");
        let long = |id: &str| {
            normal(&format!("the lock of session {id} is held by n2, a member, in 0.5 s, at node 12"))
        };
        assert_eq!(
            long("fa5ea99e-6126-4944-8e48-ca6204164ef9"),
            "the lock of session # is held by n#, a member, in # s, at node #"
        );
        assert_eq!(normal("state 9a3764c1adc4016e is not bad of face 7"), "state # is not bad of face #");
    }

    #[test]
    fn how_many_there_are_in_a_list_makes_no_other_failure() {
        let voters =
            |list: &str| normal(&format!("node 0 applied entry 7, which is not durable on voters {list}"));
        assert_eq!(voters("[[1, 2, 3]]"), "node # applied entry #, which is not durable on voters [[#]]");
        assert_eq!(voters("[[1, 2, 3, 4, 5], [7]]"), voters("[[1, 2, 3]]"));
    }

    #[test]
    fn another_stage_of_the_same_check_is_another_failure() {
        let stuck = normal("the cluster does not form a cluster: nobody leads; n1 is down (Kill)");
        let apart = normal("the cluster does not agree on state and members after the heal: n0 leads");
        assert_eq!(stuck, "the cluster does not form a cluster");
        assert_ne!(stuck, apart);
    }

    #[test]
    fn a_run_is_known_by_a_named_check_if_there_is_one() {
        let mut report = RunReport::crashed(1, "it fell over".into());
        report.violate("LIN", "key \"a\": 1 of 2 operations".into());
        assert_eq!(Signature::of_report(&report, &[]).unwrap().check, "CRASH");
        let lin = Signature::of_report(&report, &["DUR", "LIN"]).unwrap();
        assert_eq!(lin.check, "LIN");
        assert!(lin.is_in(&report) && !lin.is_in(&RunReport::default()));
        assert_eq!(Signature::of_report(&RunReport::default(), &[]), None);
    }
}
