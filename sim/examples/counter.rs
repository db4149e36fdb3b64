//! A counter, replicated: a state machine and HTTP routes of one's own, and a fault of one's own.
//!
//! The counter is a [`Machine`] beside the store. Its commands go through the same log, so an addition that was
//! acknowledged is counted once on every server. At the end the counter shows at least what was acknowledged,
//! and at most that and what nobody knows of.
//!
//! The fault `succession`: the leader is killed, and as soon as there is another, that one too.
//!
//! The bug `COUNT`: the route tries again when it has heard nothing for a moment, and so counts twice.
//!
//!     cargo sim-example counter
//!     cargo sim-example counter run --seeds 1..=20 --mutant COUNT

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use driftline::agent::{Agent, Consistency, Program, WriteError};
use driftline::env::Env;
use driftline::mutant;
use driftline::node::Extension;
use driftline::state::Machine;
use futures_util::future::BoxFuture;
use hyper::{Method, StatusCode};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use sim::check::{Property, Stop, Violation};
use sim::experiment::{Caller, Experiment, Hands, violated};
use sim::mutants::Mutant;
use sim::scenario::{Fault, FaultKind, PlannedAction, PlannedOp, Scenario};

/// The replicated state: how much was added, and in how many steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counter {
    total: u64,
    steps: u64,
}

impl Machine for Counter {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        // Total: what is no number adds nothing.
        if let Ok(bytes) = command.try_into() {
            self.total = self.total.wrapping_add(u64::from_le_bytes(bytes));
            self.steps += 1;
        }
        self.total.to_le_bytes().to_vec()
    }

    fn query(&self, _question: &[u8]) -> Vec<u8> {
        self.total.to_le_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        [self.total.to_le_bytes(), self.steps.to_le_bytes()].concat()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let (total, steps) = snapshot.split_first_chunk().ok_or("a counter has sixteen bytes")?;
        let steps = steps.try_into().map_err(|_| "a counter has sixteen bytes")?;
        *self = Counter { total: u64::from_le_bytes(*total), steps: u64::from_le_bytes(steps) };
        Ok(())
    }

    fn digest(&self) -> u64 {
        self.total.rotate_left(32) ^ self.steps
    }

    fn copy(&self) -> Box<dyn Machine> {
        Box::new(self.clone())
    }
}

/// `POST /counter/N` adds N; `GET /counter` shows the total.
fn routes(agent: Agent) -> Router {
    Router::new().route("/counter", get(show)).route("/counter/{n}", post(add)).with_state(agent)
}

async fn add(State(agent): State<Agent>, Path(n): Path<u64>) -> Response {
    let command = n.to_le_bytes();
    let added = if mutant::is("COUNT") {
        let first = agent.env().timeout(Duration::from_millis(2), agent.command(&command)).await;
        match first {
            Ok(added) => added,
            Err(_) => agent.command(&command).await,
        }
    } else {
        agent.command(&command).await
    };
    match added {
        Ok(_) => StatusCode::OK.into_response(),
        Err(WriteError::Unknown(reason)) => (StatusCode::GATEWAY_TIMEOUT, reason).into_response(),
        // Whatever else it says, it was not counted and will not be.
        Err(refused) => (StatusCode::SERVICE_UNAVAILABLE, refused.to_string()).into_response(),
    }
}

async fn show(State(agent): State<Agent>) -> Response {
    match agent.ask_machine(Consistency::Consistent, &[]).await {
        Ok(Some(total)) => total.into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// What the clients know of the counter.
#[derive(Default)]
struct Counting {
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    /// Acknowledged.
    certain: u64,
    /// Perhaps counted, perhaps not.
    unknown: u64,
}

impl Experiment for Counting {
    fn mutants(&self) -> &'static [Mutant] {
        &[Mutant {
            id: "COUNT",
            what: "an addition is asked for again when nothing was heard of it for a moment",
            origin: "this example",
            needs: sim::mutants::LOST_REPLIES,
            checks: &["COUNT"],
        }]
    }

    fn extension(&self, _node: u32, _env: &Env) -> Extension {
        let machine: Box<dyn Machine> = Box::new(Counter::default());
        Extension {
            program: Program { machine: Some(machine), ..Program::default() },
            routes: Some(Box::new(routes)),
        }
    }

    fn properties(&self) -> &'static [Property] {
        &[Property {
            id: "COUNT",
            claim: "the counter shows what was acknowledged, and at most what was asked for",
            source: "this example",
            file: "../examples/counter.rs",
        }]
    }

    fn adapt(&self, scenario: &mut Scenario, rng: &mut StdRng) {
        for _ in 0..80 {
            scenario.operations.push(PlannedOp {
                at_ms: rng.random_range(0..scenario.duration_ms),
                client: rng.random_range(0..3),
                node: rng.random_range(0..scenario.nodes),
                key: "counter".to_owned(),
                action: PlannedAction::Own(json!({ "add": rng.random_range(1..=9) })),
            });
        }
        let for_ms = 3_000.min(scenario.duration_ms);
        scenario.faults.push(Fault {
            at_ms: rng.random_range(0..=scenario.duration_ms - for_ms),
            for_ms,
            kind: FaultKind::Own { detail: json!("succession") },
        });
    }

    fn perform<'a>(&'a self, caller: &'a dyn Caller, node: u32, deed: &'a Value) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(n) = deed["add"].as_u64() else { return };
            let path = format!("/counter/{n}");
            let answer = caller.call(node, Method::POST, &path, Bytes::new()).await;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match answer.map(|response| response.status) {
                Ok(200) => known.certain += n,
                // The route says so only when nothing was done.
                Ok(503) => {}
                _ => known.unknown += n,
            }
        })
    }

    fn strike<'a>(
        &'a self,
        hands: &'a dyn Hands,
        _fault: &'a Value,
        duration: Duration,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut down = Vec::new();
            let moments = 20;
            for _ in 0..moments {
                // The first leader, then its successor.
                if let Some(leader) = hands.leader().filter(|_| down.len() < 2)
                    && hands.stop(leader, Stop::Kill)
                {
                    down.push(leader);
                }
                hands.sleep(duration / moments).await;
            }
            down.into_iter().for_each(|node| hands.boot(node));
        })
    }

    fn verdict<'a>(&'a self, caller: &'a dyn Caller) -> BoxFuture<'a, Vec<Violation>> {
        Box::pin(async move {
            let Known { certain, unknown } = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let mut found = Vec::new();
            for node in caller.nodes() {
                let answer = caller.call(node, Method::GET, "/counter", Bytes::new()).await;
                let Some(response) = answer.ok().filter(|response| response.status == 200) else { continue };
                let Ok(bytes) = response.body[..].try_into() else { continue };
                let total = u64::from_le_bytes(bytes);
                if !(certain..=certain + unknown).contains(&total) {
                    let detail = format!(
                        "node {node} has counted {total}; {certain} was acknowledged and {unknown} may have been counted"
                    );
                    found.push(violated("COUNT", caller.now_ns(), detail));
                }
            }
            found
        })
    }
}

fn main() -> ExitCode {
    sim::cli::main_with(Arc::new(Counting::default()))
}
