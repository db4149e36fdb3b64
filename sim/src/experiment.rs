//! What a newcomer brings: their own state machine, workload, invariant, fault or gossip delegate, run by the
//! same testbed under the same faults.
//!
//! An [`Experiment`] is one value with one method for each of these, all optional. A program of its own hands it to
//! [`cli::main_with`](crate::cli::main_with) and is then a whole testbed: sweeps, replays, shrinking, reports, exit codes. The three programs
//! in `sim/examples` are the manual, and `docs/extending.md` walks through the second:
//!
//! | example | brings |
//! |---|---|
//! | `bank` | a workload over the store, and what must hold of its answers |
//! | `counter` | a state machine and HTTP routes of its own, and a fault of its own |
//! | `flood` | a gossip delegate, and an invariant that is checked with every step |
//!
//! What it plans is data in the [`Scenario`] ([`PlannedAction::Own`], [`FaultKind::Own`]), so it is saved, replayed and
//! cut down like everything else. What happens is subject to the rules of all simulated code: no clock but the one
//! given, no randomness but the stream given, no order of a `HashMap`.
//!
//! A run is a process, and an experiment lives as long as its run: it may keep what it sees in itself.
//!
//! [`PlannedAction::Own`]: crate::scenario::PlannedAction::Own
//! [`FaultKind::Own`]: crate::scenario::FaultKind::Own

use std::time::Duration;

use bytes::Bytes;
use driftline::env::Env;
use driftline::http::client::{CallError, Response};
use driftline::node::Extension;
use futures_util::future::BoxFuture;
use hyper::Method;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::check::{Check, Property, Stop, Violation};
use crate::fault::Rule;
use crate::history::{Action, Outcome};
use crate::mutants::Mutant;
use crate::scenario::{Limits, Scenario, stream};

/// What the testbed runs besides, or in place of, what it always runs.
pub trait Experiment: Send + Sync {
    /// Changes the scenario of a seed: adds operations and faults of its own, takes out what it does not want.
    /// Draws from `rng` only, a stream of its own.
    fn adapt(&self, _scenario: &mut Scenario, _rng: &mut StdRng) {}

    /// Bugs of its own, which prove that its checks bite. Its code asks for one by `driftline::mutant::is(id)`, and
    /// `--mutant ID` and `mutants ID` know it.
    fn mutants(&self) -> &'static [Mutant] {
        &[]
    }

    /// What its checks claim, for reports to say.
    fn properties(&self) -> &'static [Property] {
        &[]
    }

    /// What each node gets besides the agent. Called whenever the node starts.
    fn extension(&self, _node: u32, _env: &Env) -> Extension {
        Extension::default()
    }

    /// Does an operation of its own, as the client it was planned for.
    fn perform<'a>(
        &'a self,
        _caller: &'a dyn Caller,
        _node: u32,
        _operation: &'a Value,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// Lets a fault of its own happen, and undoes it after `duration`. May be cut short by the storm's end, which
    /// heals links and nodes in any case.
    fn strike<'a>(
        &'a self,
        _hands: &'a dyn Hands,
        _fault: &'a Value,
        _duration: Duration,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// Properties to check with every event, beside the testbed's own.
    fn invariants(&self) -> Vec<Box<dyn Check + Send>> {
        Vec::new()
    }

    /// What did not hold, asked once the cluster has healed and agrees.
    fn verdict<'a>(&'a self, _caller: &'a dyn Caller) -> BoxFuture<'a, Vec<Violation>> {
        Box::pin(async { Vec::new() })
    }

    /// The scenario of a seed. Not for overriding.
    fn scenario(&self, seed: u64, limits: &Limits) -> Scenario {
        let mut scenario = Scenario::generate(seed, limits);
        self.adapt(&mut scenario, &mut stream(seed, "experiment"));
        scenario.faults.sort_by_key(|fault| fault.at_ms);
        scenario.operations.sort_by_key(|operation| operation.at_ms);
        scenario
    }
}

/// The testbed as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Experiment for Plain {}

/// A client on a host of its own.
pub trait Caller: Send + Sync {
    /// The nodes there are.
    fn nodes(&self) -> Vec<u32>;

    /// True simulated time.
    fn now_ns(&self) -> u64;

    /// Waits.
    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()>;

    /// Sends a request to a node's API; waits for the answer as long as the scenario's clients do.
    fn call<'a>(
        &'a self,
        node: u32,
        method: Method,
        path: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Response, CallError>>;

    /// Asks a node's store and writes it into the history, which the testbed's own checks judge. `index` is the
    /// modify index that a compare-and-set expects.
    fn ask<'a>(&'a self, node: u32, key: &'a str, action: Action, index: u64) -> BoxFuture<'a, Outcome>;
}

/// What a fault can take hold of.
pub trait Hands: Send + Sync {
    /// The nodes there are.
    fn nodes(&self) -> Vec<u32>;

    /// Who leads, if anybody does.
    fn leader(&self) -> Option<u32>;

    /// Waits in true time.
    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()>;

    /// Puts a rule of the network in force. Gossip may err while a fault of an experiment lasts, and is not
    /// blamed.
    fn rule(&self, rule: Rule) -> u64;

    /// Takes a rule away.
    fn lift(&self, rule: u64);

    /// Takes a node down; it stays down until it is booted, or until the heal. Whether it was up.
    fn stop(&self, node: u32, stop: Stop) -> bool;

    /// Starts a node that is down.
    fn boot(&self, node: u32);
}

/// A violation of an experiment's own property.
pub fn violated(check: &str, at_ns: u64, detail: impl Into<String>) -> Violation {
    Violation { check: check.to_owned(), detail: detail.into(), at_ns, node: None }
}
