//! A setting that floods the cluster: a gossip delegate of one's own, and an invariant that is checked with every
//! step.
//!
//! Every node holds a version of a setting. `PUT /setting/N` gives a node version N, which it hands to gossip: as a message to a few
//! at once, and as part of the full exchanges, which reach whoever missed the messages. A node takes what is newer and
//! nothing else. So within one life of a node its version never goes back, and when all is well again all have the
//! newest that any of them has.
//!
//! The bug `FLOOD`: a full exchange is taken whatever it holds.
//!
//!     cargo sim-example flood
//!     cargo sim-example flood run --seeds 1..=20 --mutant FLOOD

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, put};
use bytes::Bytes;
use driftline::agent::Program;
use driftline::env::{Env, Observed};
use driftline::gossip::Delegate;
use driftline::mutant;
use driftline::node::Extension;
use futures_util::future::BoxFuture;
use hyper::Method;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use sim::check::view::View;
use sim::check::{At, Check, Event, Findings, Property, Violation};
use sim::experiment::{Caller, Experiment, violated};
use sim::mutants::Mutant;
use sim::scenario::{PlannedAction, PlannedOp, Scenario};
use tokio::sync::Notify;

/// A version is sent in so many datagrams by each node that takes it.
const TRANSMITS: u32 = 8;
/// How long all may take to have the newest version, once nothing is wrong any more.
const SPREAD_WITHIN: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// One node's version, and how often it is still to be sent.
struct Setting {
    env: Env,
    held: Mutex<(u64, u32)>,
    changed: Arc<Notify>,
}

impl Setting {
    fn version(&self) -> u64 {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn take(&self, version: u64, whatever: bool) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if version > held.0 || (whatever && version != held.0) {
            *held = (version, TRANSMITS);
            self.env.observe(Observed::Program { name: "setting".to_owned(), detail: version.to_string() });
            self.changed.notify_one();
        }
    }

    fn told(&self, bytes: &[u8], whatever: bool) {
        // What is no version came from no program of ours.
        if let Ok(bytes) = bytes.try_into() {
            self.take(u64::from_le_bytes(bytes), whatever);
        }
    }
}

impl Delegate for Setting {
    fn node_meta(&self, _limit: usize) -> Bytes {
        Bytes::new()
    }

    fn notify_msg(&self, message: &[u8]) {
        self.told(message, false);
    }

    fn get_broadcasts(&self, overhead: usize, limit: usize) -> Vec<Bytes> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.1 == 0 || overhead + 8 > limit {
            return Vec::new();
        }
        held.1 -= 1;
        vec![Bytes::copy_from_slice(&held.0.to_le_bytes())]
    }

    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::copy_from_slice(&self.version().to_le_bytes())
    }

    fn merge_remote_state(&self, state: &[u8], _join: bool) {
        self.told(state, mutant::is("FLOOD"));
    }

    fn changed(&self) -> Option<Arc<Notify>> {
        Some(self.changed.clone())
    }
}

/// FLOOD: within one life of a node its version never goes back.
#[derive(Default)]
struct NeverBack {
    last: BTreeMap<u32, u64>,
}

impl Check for NeverBack {
    fn on(&mut self, at: At, event: &Event<'_>, _view: &View, findings: &mut Findings) {
        match event {
            // A new life begins without a version.
            Event::Started { .. } => drop(self.last.remove(&at.node)),
            Event::Observed(Observed::Program { name, detail }) if name == "setting" => {
                let version: u64 = detail.parse().unwrap_or_default();
                let last = self.last.insert(at.node, version).unwrap_or_default();
                if version < last {
                    findings.add(
                        "FLOOD",
                        at,
                        format!("the setting went back from version {last} to {version}"),
                    );
                }
            }
            _ => {}
        }
    }
}

struct Flood;

impl Experiment for Flood {
    fn mutants(&self) -> &'static [Mutant] {
        &[Mutant {
            id: "FLOOD",
            what: "a full exchange is taken whatever it holds",
            origin: "this example",
            // A node that was started while another had a version already is enough.
            needs: &[],
            checks: &["FLOOD"],
        }]
    }

    fn extension(&self, _node: u32, env: &Env) -> Extension {
        let (held, changed) = (Mutex::new((0, 0)), Arc::new(Notify::new()));
        let setting = Arc::new(Setting { env: env.clone(), held, changed });
        let delegate: Arc<dyn Delegate> = setting.clone();
        let show = async |State(setting): State<Arc<Setting>>| setting.version().to_string();
        let set = async |State(setting): State<Arc<Setting>>, Path(version): Path<u64>| {
            setting.take(version, false);
        };
        let routes = Router::new()
            .route("/setting", get(show))
            .route("/setting/{version}", put(set))
            .with_state(setting);
        Extension {
            program: Program { delegate: Some(delegate), ..Program::default() },
            routes: Some(Box::new(|_| routes)),
        }
    }

    fn properties(&self) -> &'static [Property] {
        &[Property {
            id: "FLOOD",
            claim: "a setting never goes back, and the newest reaches all",
            source: "this example",
            file: "../examples/flood.rs",
        }]
    }

    fn adapt(&self, scenario: &mut Scenario, rng: &mut StdRng) {
        for version in 1..=20 {
            scenario.operations.push(PlannedOp {
                at_ms: rng.random_range(0..scenario.duration_ms),
                client: rng.random_range(0..3),
                node: rng.random_range(0..scenario.nodes),
                key: "setting".to_owned(),
                action: PlannedAction::Own(json!({ "set": version })),
            });
        }
    }

    fn perform<'a>(&'a self, caller: &'a dyn Caller, node: u32, deed: &'a Value) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(version) = deed["set"].as_u64() else { return };
            let path = format!("/setting/{version}");
            // Whoever has it spreads it; that this client hears of it is of no importance.
            drop(caller.call(node, Method::PUT, &path, Bytes::new()).await);
        })
    }

    fn invariants(&self) -> Vec<Box<dyn Check + Send>> {
        vec![Box::new(NeverBack::default())]
    }

    fn verdict<'a>(&'a self, caller: &'a dyn Caller) -> BoxFuture<'a, Vec<Violation>> {
        Box::pin(async move {
            let deadline = caller.now_ns() + SPREAD_WITHIN.as_nanos() as u64;
            loop {
                let mut versions = BTreeMap::new();
                for node in caller.nodes() {
                    let answer = caller.call(node, Method::GET, "/setting", Bytes::new()).await;
                    let version = answer.ok().and_then(|response| response.text().parse::<u64>().ok());
                    versions.insert(node, version);
                }
                let newest = versions.values().copied().max().flatten();
                if versions.values().all(|version| version.is_some() && *version == newest) {
                    return Vec::new();
                }
                if caller.now_ns() > deadline {
                    let detail = format!("the newest version has not reached all: {versions:?}");
                    return vec![violated("FLOOD", caller.now_ns(), detail)];
                }
                caller.sleep(LOOK_EVERY).await;
            }
        })
    }
}

fn main() -> ExitCode {
    sim::cli::main_with(Arc::new(Flood))
}
