//! driftline: a Consul-style agent whose every node also runs, unchanged, in a deterministic
//! simulation.
//!
//! ```text
//!            main  cli                 parse, build the real Env, start a node, leave on a signal
//!              ├─ history              what clients asked and were told, for `bench` and the testbed
//!              └─ node                 one node with its API: the entry of production and simulation
//!                  ├─ http             routes and wire types; turns requests into agent calls
//!                  ├─ watch            looks at something through http, and runs a handler when it changes
//!                  ├─ dns              names and messages; the same for who knows only DNS
//!                  └─ agent            a server (raft and gossip under one roof) or a client (gossip, asks servers)
//!                      ├─ raft         replicated log on openraft: store, peer rpc, client
//!                      │   └─ state    the state machine: pure, total, clockless
//!                      └─ gossip       membership and events on foca
//!                          env         the seams under all of it: clock, net, disk, rng, tasks
//! ```
//!
//! A program may embed a node and bring a state machine, a gossip delegate and HTTP routes of its own:
//! [`node::Extension`].
//!
//! An arrow down is a permission to import; `raft` and `gossip` do not know each other, `state` knows
//! neither, nor the clock, nor the disk. `tests/tidy.rs` has the whole table, and holds the code to it.
//!
//! What always holds, whatever fails:
//! * a write that was acknowledged is on the disks of a majority, and is never lost or applied twice;
//! * a read that is not marked `stale` sees every write that was finished before it began;
//! * two servers that applied the same log index hold the same state, bit for bit;
//! * an outcome that is not known is reported as unknown.
//!
//! Deliberately absent: decisions by the wall clock (but one: what a check was told before a restart counts for as long as it
//! would have), ambient randomness, threads outside [`env::real`], and
//! any knowledge of whether the world is real.

pub mod agent;
pub mod config;
pub mod dns;
pub mod env;
pub mod gossip;
pub mod history;
pub mod http;
pub mod mutant;
pub mod node;
pub mod raft;
pub mod secret;
pub mod state;
pub mod telemetry;
pub mod watch;
