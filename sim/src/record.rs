//! What happens in a run, as data: the same facts that the trace tells in words, for whoever draws, counts or compares them.
//!
//! A [`Recorder`] is told everything in the order in which it happens, beside the trace and not through it: nothing it is told is
//! hashed, it cannot answer, and whether there is one changes nothing in the run. It hangs on the trace
//! ([`Trace::listen`](crate::trace::Trace::listen)), because that is what every part of the world already speaks to.
//!
//! [`Scribe`](crate::report::story::Scribe) makes a picture of it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use driftline::env::Observed;

use crate::fault::Rule;
use crate::scenario::Fault;
use crate::trace::Event;

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub enum Happening<'a> {
    /// An event of the trace, whatever it is.
    Traced(&'a Event),
    /// A node said something about itself.
    Observed(&'a Observed),
    /// A process begins to run on a host.
    Booted {
        /// The host's address from now on.
        ip: IpAddr,
    },
    /// The process of a host is gone; the host too, if it lost power.
    Stopped {
        /// Whether the host lost power.
        power_loss: bool,
    },
    /// The process of a host gets no processor from now on.
    Frozen,
    /// It gets one again.
    Resumed,
    /// The clock of a host goes on differently from here.
    Clock {
        /// What its monotonic clock shows now, in nanoseconds.
        own_ns: u64,
        /// How fast it runs from now on, in millionths of true time.
        rate_ppm: u64,
        /// How far the wall clock is ahead of the monotonic one beyond the epoch, in nanoseconds.
        wall_ahead_ns: i64,
    },
    /// A fault of the plan begins.
    FaultBegan {
        /// It.
        fault: &'a Fault,
        /// What comes of it now: which links, which node.
        what: &'a str,
    },
    /// A fault of the plan is over. One that the storm's end cuts short is not told so.
    FaultEnded {
        /// It.
        fault: &'a Fault,
    },
    /// The network keeps a rule from now on.
    RuleBegan {
        /// Its number.
        number: u64,
        /// It.
        rule: &'a Rule,
    },
    /// The network keeps it no more.
    RuleEnded {
        /// Its number.
        number: u64,
    },
    /// The clients begin and the faults of the plan are due.
    Storm,
    /// Everything is made right again; no fault lasts beyond this.
    Heal,
}

/// Somebody who is told. Must not call back into the world.
pub trait Recorder: Send {
    /// `what` happened at `at_ns` of true time on `host` (or [`WORLD`](crate::trace::WORLD)).
    fn on(&mut self, at_ns: u64, host: u32, what: Happening<'_>);
}

/// A recorder that somebody else reads in the end.
impl<R: Recorder> Recorder for Arc<Mutex<R>> {
    fn on(&mut self, at_ns: u64, host: u32, what: Happening<'_>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).on(at_ns, host, what);
    }
}
