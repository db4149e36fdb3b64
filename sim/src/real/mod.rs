//! The same case on a real cluster: real processes on this machine's loopback addresses, real files, real time.
//!
//! Simulation is worth what it says about reality. `sim replay CASE --real` drives the node's own program, built
//! with the feature `testbed`, through a case's plan, and the same checks judge what clients were told and what nodes observed.
//!
//! | module | what it is |
//! |---|---|
//! | [`program`] | builds the node's program, or takes one that is there |
//! | [`process`] | one process: started, told things, frozen, killed; never left behind |
//! | [`proxy`] | the links between the processes, with the faults of [`crate::fault`] in them |
//! | [`clock`] | what the clock of a host shows while processes come and go on it |
//! | [`cluster`] | nodes, links and clients of one replay, and the end of all of them; the clients are [`crate::workload`]'s |
//! | [`storm`] | the plan's faults on them |
//! | [`replay`] | from a case to a verdict |
//! | [`parity`] | which bugs that simulation catches fail here too |
//!
//! **Who is who.** Node `k` of a replay listens on 127.R.1.k and is known to all as 127.R.2.k, where the [`proxy`] stands in
//! for it; its own connections leave from 127.R.1.k, so the proxy knows both ends of every link. Client agents are there from
//! 127.R.1.201 on, a node that moves gets another number, and client `c` asks
//! from 127.R.3.c. R is drawn for each replay, so that several can run on one machine. All this needs is Linux's loopback
//! network; no privileges, no namespaces.
//!
//! **Nothing hangs, nothing stays.** Every wait has an end in real time. A process ends when its handle is dropped,
//! and, however this program ends, when its standard input does.
//!
//! **What has no real counterpart** is listed as not replayed: faults of the disk (the page cache survives a
//! process, so a kill loses nothing that was written), the order in which tasks run, and the faults of an experiment's own.

pub mod clock;
pub mod cluster;
pub mod parity;
pub mod process;
pub mod program;
pub mod proxy;
pub mod replay;
pub mod storm;
