//! ACL: a right that was given or taken away, and acknowledged, counts for every request that begins afterwards,
//! whichever node is asked; and requests see the changes in one order.
//!
//! Whether a user may write is a register: the administrator writes it, and whoever tries reads it, by being let through or
//! refused. So the claim is linearizability ([`super::linearizable`]) of a history that [`history`] makes of what happened:
//! one register for what a user may read, one for what it may write. (A linearizable whole has linearizable parts, so
//! judging the two apart only gives something away if a change were to come into force by halves.)
//!
//! A change whose answer was lost may have come into force or not, and may still do so. An attempt that was neither let
//! through nor refused says nothing.

use super::{Findings, in_one_order};
use crate::history::{Action, Operation, Outcome, Response, Versioned};
use crate::scenario::rights::Level;

/// What was done about the rights of a user, or with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Who did it.
    pub client: u32,
    /// Which node was asked.
    pub node: u32,
    /// Whose rights they are.
    pub user: String,
    /// What came of it.
    pub what: What,
    /// When it was asked for.
    pub invoked_ns: u64,
    /// When it was over.
    pub returned_ns: u64,
}

/// What came of a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The user may do so much; whether that was acknowledged.
    Granted(Level, bool),
    /// The user tried to read or (`write`) to write; whether it was let.
    Tried {
        /// Whether to write.
        write: bool,
        /// Whether it was let.
        let_through: bool,
    },
}

/// What a register holds whose right is given; what is not given is absent.
const GIVEN: &str = "given";

/// The registers' history.
fn history(attempts: &[Attempt]) -> Vec<Operation> {
    let mut history = Vec::new();
    for attempt in attempts {
        let Attempt { client, node, invoked_ns, returned_ns, .. } = *attempt;
        let mut record = |write: bool, action: Action, outcome: Outcome| {
            let key = format!("{} may {}", attempt.user, if write { "write" } else { "read" });
            let id = history.len() as u64;
            let returned_ns = matches!(outcome, Outcome::Ok(_)).then_some(returned_ns);
            history.push(Operation { id, client, node, key, action, invoked_ns, outcome, returned_ns });
        };
        match attempt.what {
            What::Granted(level, acknowledged) => {
                let outcome = if acknowledged {
                    Outcome::Ok(Response::Done(true))
                } else {
                    Outcome::Unknown("no answer".to_owned())
                };
                for (write, least) in [(false, Level::Read), (true, Level::Write)] {
                    let action =
                        if level >= least { Action::Put { value: GIVEN.to_owned() } } else { Action::Delete };
                    record(write, action, outcome.clone());
                }
            }
            What::Tried { write, let_through } => {
                let given = Versioned { value: GIVEN.to_owned(), modify_index: 0 };
                let seen = let_through.then_some(given);
                record(write, Action::Get, Outcome::Ok(Response::Value(seen)));
            }
        }
    }
    history
}

/// Judges what was tried.
///
/// # Errors
/// What could not be decided, in words.
pub fn check(attempts: &[Attempt], findings: &mut Findings) -> Result<(), String> {
    in_one_order("ACL", &history(attempts), findings).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(from: u64, to: u64, what: What) -> Attempt {
        let user = "linked-0".to_owned();
        Attempt { client: 0, node: 0, user, what, invoked_ns: from, returned_ns: to }
    }

    fn granted(from: u64, to: u64, level: Level) -> Attempt {
        at(from, to, What::Granted(level, true))
    }

    fn tried(from: u64, to: u64, write: bool, let_through: bool) -> Attempt {
        at(from, to, What::Tried { write, let_through })
    }

    fn found(attempts: &[Attempt]) -> Vec<String> {
        let mut findings = Findings::default();
        assert_eq!(check(attempts, &mut findings), Ok(()));
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    #[test]
    fn rights_that_count_from_when_they_are_given_until_they_are_taken_are_in_order() {
        let story = [
            tried(1, 2, true, false),
            granted(3, 4, Level::Write),
            tried(5, 6, true, true),
            tried(5, 6, false, true),
            // While a right is taken away, either is right.
            granted(7, 12, Level::Read),
            tried(8, 9, true, true),
            tried(10, 11, true, false),
            tried(13, 14, false, true),
            granted(15, 16, Level::Gone),
            tried(17, 18, false, false),
        ];
        assert_eq!(found(&story), Vec::<String>::new());
    }

    #[test]
    fn a_change_without_an_answer_may_come_into_force_at_any_time_or_never() {
        let open = at(3, 4, What::Granted(Level::Write, false));
        let never = [open.clone(), tried(5, 6, true, false), tried(50, 60, true, false)];
        let late = [open, tried(5, 6, true, false), tried(7, 8, true, true)];
        assert_eq!(found(&never), Vec::<String>::new());
        assert_eq!(found(&late), Vec::<String>::new());
    }

    #[test]
    fn a_right_that_outlives_its_end_or_is_late_or_flickers_is_rejected() {
        let outlives = [granted(1, 2, Level::Write), granted(3, 4, Level::Nothing), tried(5, 6, true, true)];
        let late = [granted(1, 2, Level::Read), tried(3, 4, false, false)];
        let too_much = [granted(1, 2, Level::Read), tried(3, 4, true, true)];
        let flickers = [granted(1, 9, Level::Read), tried(2, 3, false, true), tried(4, 5, false, false)];
        for (story, register) in
            [(&outlives[..], "write"), (&late, "read"), (&too_much, "write"), (&flickers, "read")]
        {
            let found = found(story);
            assert!(found.len() == 1 && found[0].contains(&format!("linked-0 may {register}")), "{found:?}");
        }
    }
}
