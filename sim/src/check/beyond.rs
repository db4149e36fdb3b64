//! What is still demanded of a run in which more broke than can be repaired.
//!
//! While damage stays within the atlas (`scenario::disk`), every check counts: the cluster must be correct and
//! come back to life. Beyond it there may be nobody left who has the data, and nothing can bring it back. Then:
//!
//! * nobody demands that it lives: LIVE, GC, CAT and AE are not judged;
//! * acknowledged data may be gone if a node *said* that it found its own damaged, or was given an empty disk by
//!   whoever runs it: DUR counts only where nobody said so;
//! * everything else counts, as long as the disks did not lie. A disk that says "synced" and forgets lets a
//!   correct server break its word without a way to know; then what counts is what needs no server's memory:
//!   no value is read that nobody wrote (VAL), nothing panics, gossip is right.
//!
//! What is excused is listed in the report all the same.

use super::Violation;

/// How a run of a plan beyond repair lost data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// A node found its data damaged and said so, or its disk was replaced.
    pub admitted: bool,
    /// A disk lied about a sync.
    pub lied: bool,
}

/// Whether this check counts.
pub fn counts(check: &str, losses: Losses) -> bool {
    match check {
        "LIVE" | "GC" | "CAT" | "AE" => false,
        "DUR" => !losses.admitted && !losses.lied,
        "LIN" | "TXN" | "IDX" | "ES" | "LM" | "LC" | "SMS" | "CQ" | "CI" | "MV" | "SESS" | "LOCK" | "SRV"
        | "STALE" | "WATCH" | "BLOCK" | "ACL" | "OPS" | "SNAP" | "SAY" => !losses.lied,
        _ => true,
    }
}

/// Takes out what does not count, and says it in words.
pub fn excuse(violations: &mut Vec<Violation>, losses: Losses) -> Vec<String> {
    let (count, excused) =
        std::mem::take(violations).into_iter().partition(|violation| counts(&violation.check, losses));
    *violations = count;
    let told = |violation: Violation| {
        format!("{}: {}", violation.check, violation.detail.lines().next().unwrap_or_default())
    };
    Vec::into_iter(excused).map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::TABLE;

    fn counted(losses: Losses) -> Vec<&'static str> {
        TABLE.iter().map(|property| property.id).filter(|id| counts(id, losses)).collect()
    }

    #[test]
    fn without_a_loss_only_liveness_is_not_judged() {
        let all = TABLE.iter().map(|property| property.id);
        let safety: Vec<_> = all.filter(|id| !["LIVE", "GC", "CAT", "AE"].contains(id)).collect();
        assert_eq!(counted(Losses::default()), safety);
    }

    #[test]
    fn a_loss_must_be_admitted_and_excuses_nothing_else() {
        let without = counted(Losses { admitted: true, lied: false });
        assert!(!without.contains(&"DUR") && without.contains(&"LIN") && without.contains(&"MV"));
    }

    #[test]
    fn a_lie_leaves_what_needs_no_memory() {
        let left = counted(Losses { admitted: false, lied: true });
        assert_eq!(left, ["VAL", "GA", "GR", "GT", "EV", "NEWS", "LOAD", "DET", "TEETH", "CRASH"]);
    }

    #[test]
    fn what_is_excused_is_told() {
        let violation = |check: &str| Violation {
            check: check.to_owned(),
            detail: "one line\nand another".to_owned(),
            at_ns: 0,
            node: None,
        };
        let mut violations = vec![violation("DUR"), violation("ES")];
        let excused = excuse(&mut violations, Losses { admitted: true, lied: false });
        assert_eq!(excused, ["DUR: one line"]);
        assert_eq!(violations, [violation("ES")]);
    }
}
