//! TXN: a transaction happens at one instant, whole or not at all, and is seen so.
//!
//! Two keys that are only ever written together are one register with two halves. Whoever reads both at one moment, by a
//! transaction or a listing, must see the same value in both, put there by the same log entry; and what the halves agree on
//! must be linearizable ([`super::linearizable`]). A transaction of which one operation failed is no write at all: whoever
//! sees its value has seen what nobody wrote.

use super::{At, Findings, in_one_order};
use crate::history::Operation;

/// A pair whose halves were seen to differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Which.
    pub pair: String,
    /// Who showed it.
    pub node: u32,
    /// When.
    pub at_ns: u64,
    /// What was seen.
    pub said: String,
}

/// What clients did with pairs and saw of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    /// The register's history: the key is the pair's name.
    pub history: Vec<Operation>,
    /// What was no register.
    pub torn: Vec<Torn>,
}

/// Judges what was seen.
///
/// # Errors
/// What could not be decided, in words.
pub fn check(pairs: &Pairs, findings: &mut Findings) -> Result<(), String> {
    for Torn { pair, node, at_ns, said } in &pairs.torn {
        let at = At { ns: *at_ns, node: *node };
        findings.add("TXN", at, format!("{pair} was seen in two halves: {said}"));
    }
    in_one_order("TXN", &pairs.history, findings).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Outcome, Response, Versioned};

    fn operation(at: u64, action: Action, response: Response) -> Operation {
        let (key, outcome) = ("pair-0".to_owned(), Outcome::Ok(response));
        Operation {
            id: at,
            client: 0,
            node: 0,
            key,
            action,
            invoked_ns: 10 * at,
            outcome,
            returned_ns: Some(10 * at + 5),
        }
    }

    fn set(at: u64, value: &str) -> Operation {
        operation(at, Action::Put { value: value.to_owned() }, Response::Done(true))
    }

    fn read(at: u64, value: &str) -> Operation {
        let seen = Versioned { value: value.to_owned(), modify_index: at };
        operation(at, Action::Get, Response::Value(Some(seen)))
    }

    fn found(history: &[Operation], torn: &[Torn]) -> Vec<String> {
        let mut findings = Findings::default();
        let pairs = Pairs { history: history.to_vec(), torn: torn.to_vec() };
        assert_eq!(check(&pairs, &mut findings), Ok(()));
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    #[test]
    fn a_pair_that_is_written_and_seen_whole_is_accepted() {
        assert_eq!(found(&[set(1, "a"), read(2, "a"), set(3, "b"), read(4, "b")], &[]), Vec::<String>::new());
    }

    #[test]
    fn halves_and_what_a_failed_transaction_left_and_old_values_are_rejected() {
        let said = "\"a\" and nothing".to_owned();
        let torn = Torn { pair: "pair-0".to_owned(), node: 0, at_ns: 7, said };
        assert!(found(&[], &[torn])[0].contains("two halves: \"a\" and nothing"));
        assert_eq!(found(&[set(1, "a"), read(2, "spoilt")], &[]).len(), 1);
        assert_eq!(found(&[set(1, "a"), set(2, "b"), read(3, "a")], &[]).len(), 1);
    }
}
