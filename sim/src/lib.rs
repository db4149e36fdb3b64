//! The deterministic simulation testbed of driftline.
//!
//! From a seed to a verdict, in the order in which a run goes through them:
//!
//! | module | what it is |
//! |---|---|
//! | [`runner`] | starts a process for each seed and collects the reports |
//! | [`scenario`] | seed -> nodes, faults and workload, as one value that can be printed and cut down |
//! | `world` | boots the nodes, breaks what the scenario breaks, heals it, and asks for the verdict |
//! | `clock`, `net`, `disk`, `executor` | the simulated side of each seam of the node |
//! | [`fault`] | what is wrong with the network right now |
//! | [`standing`] | how nodes stand by what they say: who leads, and whether they are of one mind |
//! | [`roster`] | who votes, and whom a cluster can spare |
//! | [`bend`] | how clocks are wrong over time |
//! | `pace`, `hazard` | a slow processor; pauses and crashes at named places of the node's code |
//! | [`workload`], [`lockers`], [`registrars`], [`followers`], [`holders`], [`pairs`] | the clients |
//! | [`operator`], [`orders`] | who changes the keys of gossip; who takes servers out and saves snapshots |
//! | [`inquiry`] | what the whole cluster is asked in the end |
//! | [`trace`] | everything that happened, hashed |
//! | [`record`] | the same as data, for whoever draws or counts it |
//! | [`diff`] | where two traces part |
//! | [`history`] | what the clients did and were told |
//! | [`coverage`] | which states a run has been in, for a search to go by |
//! | [`check`] | what must hold, one property a file |
//! | [`points`] | where runs have been: the claims that the code makes of itself |
//! | [`report`] | what came of it, for machines and people |
//! | [`shrink`] | a failing scenario made small |
//! | [`hunt`] | a search for failures that learns from what its runs reached |
//! | [`saved`] | a scenario in a file, with its story and what it must show |
//! | [`real`] | the same case on a cluster of real processes |
//! | [`shard`] | a share of a larger job, for several machines |
//! | [`experiment`] | what a newcomer brings: state machine, workload, invariant, fault, delegate |
//! | [`cli`] | the `sim` program's command line |
//! | [`mutants`] | bugs put back on purpose, to prove that the checks bite |
//!
//! The modules in plain type are there only with `--cfg madsim`; all others build and are tested without.

pub mod bend;
pub mod check;
pub mod cli;
#[cfg(madsim)]
pub mod clock;
pub mod coverage;
pub mod diff;
#[cfg(madsim)]
pub mod disk;
#[cfg(madsim)]
pub mod executor;
pub mod experiment;
pub mod fault;
pub mod followers;
#[cfg(madsim)]
pub mod hazard;
pub mod history;
pub mod holders;
pub mod hunt;
pub mod inquiry;
pub mod lockers;
pub mod mutants;
#[cfg(madsim)]
pub mod net;
pub mod operator;
pub mod orders;
#[cfg(madsim)]
pub mod pace;
pub mod pairs;
pub mod points;
pub mod real;
pub mod record;
pub mod registrars;
pub mod report;
pub mod roster;
pub mod runner;
pub mod saved;
pub mod scenario;
pub mod shard;
pub mod shrink;
pub mod standing;
pub mod trace;
pub mod workload;
#[cfg(madsim)]
pub mod world;
