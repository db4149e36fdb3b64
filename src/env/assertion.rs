//! What the code claims of itself, in four kinds, and where a run has been.
//!
//! A claim is one sentence, written where it is made:
//! * [`Env::always`]: it holds whenever the program gets there;
//! * [`Env::unreachable`]: the program never gets there;
//! * [`Env::sometimes`]: over many runs it holds at least once, or the runs do not test what they should;
//! * [`Env::reachable`]: over many runs the program gets there at least once.
//!
//! The first two are violations of the check `SAY` when they fail; the last two say what a sweep has covered.
//! `sim/src/points/table.rs` lists all claims by area.
//!
//! Only with the feature `assertions`, which only the testbed turns on, is there any code to it: everywhere else these
//! functions are empty, and arguments without side effects cost nothing. What would be costly to find out
//! goes into [`Env::sometimes_if`], which does not even ask.
//!
//! Left out: claims about more than one node. Those are checks.

use super::Env;

/// What is claimed of a place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AssertionKind {
    /// It holds at every visit.
    Always,
    /// It holds at one visit of some run at least.
    Sometimes,
    /// Some run comes here.
    Reachable,
    /// No run comes here.
    Unreachable,
}

/// One visit to the place of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// What is claimed of the place.
    pub kind: AssertionKind,
    /// The claim, one sentence, the same at every visit.
    pub claim: &'static str,
    /// Whether it held at this visit. A visit to a reachable place is enough to hold; one to an unreachable place
    /// never does.
    pub holds: bool,
}

impl Env {
    /// Claims that `holds` is true whenever the program comes here.
    #[inline]
    pub fn always(&self, holds: bool, claim: &'static str) {
        self.assert(AssertionKind::Always, claim, holds);
    }

    /// Claims that `holds` is true here at least once in many runs.
    #[inline]
    pub fn sometimes(&self, holds: bool, claim: &'static str) {
        self.assert(AssertionKind::Sometimes, claim, holds);
    }

    /// The same for what takes work to find out.
    #[inline]
    pub fn sometimes_if(&self, holds: impl FnOnce() -> bool, claim: &'static str) {
        #[cfg(feature = "assertions")]
        self.assert(AssertionKind::Sometimes, claim, holds());
        #[cfg(not(feature = "assertions"))]
        let _ = (holds, claim);
    }

    /// Claims that the program comes here at least once in many runs.
    #[inline]
    pub fn reachable(&self, claim: &'static str) {
        self.assert(AssertionKind::Reachable, claim, true);
    }

    /// Claims that the program never comes here.
    #[inline]
    pub fn unreachable(&self, claim: &'static str) {
        self.assert(AssertionKind::Unreachable, claim, false);
    }

    #[cfg(feature = "assertions")]
    fn assert(&self, kind: AssertionKind, claim: &'static str, holds: bool) {
        self.inner.observer.asserted(Assertion { kind, claim, holds });
    }

    #[cfg(not(feature = "assertions"))]
    #[inline]
    fn assert(&self, _: AssertionKind, _: &'static str, _: bool) {}
}
