//! SAY: what the code claims of itself holds.
//!
//! The node's code, and the checks themselves, say at many places what must be true there, or that a run never comes
//! there (`driftline::env::assertion`). A claim that fails is a violation in its own words. Claims that some
//! run gets somewhere are counted and judged over a whole sweep: [`crate::points`].
//!
//! Lets pass: a claim at a place that no run visits. [`crate::points::Points`] counts visits, so a sweep shows that.

use driftline::env::assertion::{Assertion, AssertionKind};

use super::{At, Findings};

/// Takes note of a visit to a claim's place. Whether it is the first of the run at which the claim held.
pub fn on(at: At, assertion: Assertion, findings: &mut Findings) -> bool {
    match assertion.kind {
        AssertionKind::Always if !assertion.holds => {
            findings.add("SAY", at, format!("it does not always hold that {}", assertion.claim));
        }
        AssertionKind::Unreachable => {
            findings.add("SAY", at, format!("what must never happen did: {}", assertion.claim));
        }
        _ => {}
    }
    findings.points.visit(assertion)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(kind: AssertionKind, holds: bool) -> (bool, Findings) {
        let mut findings = Findings::default();
        let assertion = Assertion { kind, claim: "pigs fly", holds };
        let first = on(At { ns: 5, node: 1 }, assertion, &mut findings);
        (first, findings)
    }

    #[test]
    fn accepts_what_holds_and_what_need_not_hold_here() {
        use AssertionKind::{Always, Reachable, Sometimes};
        for (kind, holds) in [(Always, true), (Sometimes, true), (Sometimes, false), (Reachable, true)] {
            let (first, findings) = judged(kind, holds);
            assert_eq!(first, holds, "{kind:?}");
            assert_eq!(findings.violations, []);
        }
    }

    #[test]
    fn rejects_what_does_not_hold_and_what_should_not_be() {
        for (kind, says) in [
            (AssertionKind::Always, "it does not always hold that pigs fly"),
            (AssertionKind::Unreachable, "what must never happen did: pigs fly"),
        ] {
            let (_, findings) = judged(kind, false);
            assert_eq!(findings.violations[0].check, "SAY");
            assert_eq!(findings.violations[0].detail, says);
            assert_eq!(findings.violations[0].node, Some(1));
        }
    }
}
