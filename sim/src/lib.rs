//! The deterministic simulation testbed of driftline.
//!
//! From a seed to a verdict, in the order in which a run goes through them:
//!
//! | module | what it is |
//! |---|---|
//! | [`runner`] | starts a process for each seed and collects the reports |
//! | [`scenario`] | seed -> nodes, faults and workload, as one value that can be printed and cut down |
//! | [`history`] | what the clients did and were told |
//! | [`check`] | what must hold, one property a file |
//! | [`report`] | what came of it, for machines and people |
//! | [`shrink`] | a failing scenario made small |
//! | [`mutants`] | bugs put back on purpose, to prove that the checks bite |
//!
//! All of these are plain Rust: they build and are tested without `--cfg madsim`. The simulated world
//! itself is there only with it.

pub mod check;
pub mod history;
pub mod mutants;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod shrink;
#[cfg(madsim)]
pub mod world;
