//! From a case to a verdict on a real cluster: boot, storm, heal, verdict, as `world` does it in simulation.
//!
//! Judged by the same checks. What clients were told is judged as everywhere ([`crate::check`]: LIN, IDX, DUR, SESS). What
//! nodes observe reaches the checks in the order of the one clock that all processes of a machine share; a node
//! observes before it tells anybody, so no effect comes before its cause. Not judged is what speaks of speed ([`UNJUDGED`]): on a
//! machine that has other things to do, a live node may look dead.
//!
//! Every wait has an end, so a replay has one: see [`Replay::time_limit`].

// This is outside the simulation: files and the real clock are allowed here.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, OWN_CLIENT, What};
use super::storm;
use crate::check::{self, Checks, End, Violation};
use crate::history::{Action, Outcome, Response};
use crate::report::RunReport;
use crate::runner::Stopwatch;
use crate::scenario::nodes::node_name;
use crate::scenario::{FaultKind, Scenario};

/// How long a cluster may take to form.
const FORMED_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take after the heal until everything works, and again until all agree. Generous: real machines
/// have other things to do.
const HEALED_WITHIN: Duration = Duration::from_secs(90);

/// How long a node may take to leave, at most.
const LEFT_WITHIN: Duration = Duration::from_secs(20);

/// How often something that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Checks that say nothing here: they speak of how soon something happens.
pub const UNJUDGED: &[&str] = &["GA", "GC", "GT"];

/// One replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The node's program, with the feature `testbed`.
    pub program: PathBuf,
    /// The bug to put back.
    pub mutant: Option<String>,
    /// Where files go: an empty directory.
    pub folder: PathBuf,
}

impl Replay {
    /// How long a replay of this plan takes at most, with all its waits to their ends.
    pub fn time_limit(scenario: &Scenario) -> Duration {
        let asks = Duration::from_millis(scenario.settings.client_timeout_ms) * 20;
        let storm = Duration::from_millis(scenario.duration_ms);
        FORMED_WITHIN + storm + LEFT_WITHIN * 2 + HEALED_WITHIN * 2 + asks
    }

    /// Drives a real cluster through the plan.
    ///
    /// # Errors
    /// The system's, when there can be no cluster: no program, no room, no processes.
    pub fn run(&self, scenario: &Scenario) -> io::Result<RunReport> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let limit = Replay::time_limit(scenario);
        let report = runtime.block_on(async {
            tokio::select! {
                biased;
                report = self.whole(scenario) => report,
                // Ends in good order: every process is stopped and every file of the replay removed.
                _ = tokio::signal::ctrl_c() => Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")),
                () = tokio::time::sleep(limit) => {
                    Ok(RunReport::crashed(scenario.seed, format!("the replay took longer than {} s", limit.as_secs())))
                }
            }
        });
        // Whatever still waits is of no interest.
        runtime.shutdown_background();
        report
    }

    async fn whole(&self, scenario: &Scenario) -> io::Result<RunReport> {
        let watch = Stopwatch::start();
        let cluster = Cluster::new(&self.program, &self.folder, scenario, self.mutant.as_deref())?;
        let mut report =
            RunReport { seed: scenario.seed, nodes: scenario.nodes, ok: true, ..Default::default() };
        for node in 0..scenario.nodes {
            let clock = scenario.clocks.get(node as usize).copied().unwrap_or_default();
            cluster.found(node, clock).await?;
        }
        for node in 0..scenario.nodes {
            cluster.boot(node)?;
        }
        let mut stage = Some("form a cluster");
        if works_everywhere(&cluster, "boot", FORMED_WITHIN).await {
            stage = None;
            report.storm_seconds = watch.seconds();
            storm(&cluster).await;
            heal(&cluster).await;
            if !works_everywhere(&cluster, "heal", HEALED_WITHIN).await {
                stage = Some("serve a write through every node after the heal");
            } else if !agrees(&cluster).await {
                stage = Some("agree on state and members after the heal");
            }
        }
        if let Some(stage) = stage {
            let detail = format!("the cluster does not {stage}: {}", cluster.describe());
            let (check, at_ns) = ("LIVE".to_owned(), cluster.now_ns());
            report.violations.push(Violation { check, detail, at_ns, node: None });
        }
        let end = last_look(&cluster).await;
        judge(&cluster, &end, &mut report);
        report.ok = report.violations.is_empty();
        report.faults = cluster.happened();
        report.wall_seconds = watch.seconds();
        report.sim_seconds = report.wall_seconds;
        for operation in &end.history {
            match operation.outcome {
                Outcome::Ok(_) => report.ops_ok += 1,
                Outcome::Failed(_) => report.ops_failed += 1,
                Outcome::Unknown(_) => report.ops_unknown += 1,
            }
        }
        let mut lines = Vec::new();
        crate::history::write(&mut lines, &end.history)?;
        std::fs::write(self.folder.join("history.jsonl"), lines)?;
        Ok(report)
    }

    /// Where a replay's history is, once it is over.
    pub fn history(folder: &Path) -> PathBuf {
        folder.join("history.jsonl")
    }
}

/// Has the checks judge what happened.
fn judge(cluster: &Cluster, end: &End, report: &mut RunReport) {
    let settings = check::Settings::of(&cluster.scenario.settings.gossip());
    let mut checks = Checks::new(&settings);
    for heard in cluster.heard() {
        let name = node_name(heard.node);
        let event = match &heard.what {
            What::Started => check::Event::Started { name: &name },
            What::Stopped(stop) => check::Event::Stopped(*stop),
            What::Observed(observed) => check::Event::Observed(observed),
            What::Leaves => check::Event::Leaves,
            What::FaultBegan => check::Event::FaultBegan,
            What::FaultEnded => check::Event::FaultEnded,
        };
        checks.on(heard.at_ns, heard.node, event);
        report.trace_events += 1;
    }
    let verdict = checks.finish(end);
    let judged = verdict.violations.into_iter().filter(|one| !UNJUDGED.contains(&one.check.as_str()));
    report.violations.extend(judged);
    report.violations.extend(cluster.crashes());
    report.undecided = verdict.undecided;
}

/// Lets the faults happen and the clients work, until the storm's time is over.
async fn storm(cluster: &Arc<Cluster>) {
    let begun = Instant::now();
    let mut plans: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for op in &cluster.scenario.operations {
        plans.entry(op.client).or_default().push(op.clone());
    }
    let mut clients = tokio::task::JoinSet::new();
    for (client, plan) in plans {
        clients.spawn(cluster.clients.clone().run(client, plan, begun));
    }
    let mut faults = Vec::new();
    for fault in cluster.scenario.faults.clone() {
        let cluster = cluster.clone();
        let departure = matches!(fault.kind, FaultKind::Membership { .. });
        let task = tokio::spawn(async move {
            tokio::time::sleep_until((begun + Duration::from_millis(fault.at_ms)).into()).await;
            storm::happen(cluster, fault).await;
        });
        faults.push((departure, task));
    }
    tokio::time::sleep_until((begun + Duration::from_millis(cluster.scenario.duration_ms)).into()).await;
    cluster.clients.stop();
    for (departure, fault) in faults {
        if departure {
            // Not cut short: a departure that has begun cannot be called off. It has an end of its own.
            let _ = fault.await;
        } else {
            fault.abort();
            let _ = fault.await;
        }
    }
    cluster.heal();
    // Whoever still waits for an answer gets it, or has waited long enough.
    while clients.join_next().await.is_some() {}
}

/// Waits for what the healing takes.
async fn heal(cluster: &Arc<Cluster>) {
    // Whoever was asked to leave does so first, and is started again; the request may have been lost.
    let until = Instant::now() + LEFT_WITHIN;
    while cluster.leaving() && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    for node in cluster.nodes() {
        cluster.boot_if_due(node);
    }
}

/// Writes through every node until each has served one.
async fn works_everywhere(cluster: &Arc<Cluster>, round: &str, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    let mut served = BTreeSet::new();
    let mut attempt = 0;
    loop {
        for node in cluster.nodes() {
            if served.contains(&node) || Instant::now() > deadline {
                continue;
            }
            attempt += 1;
            let action = Action::Put { value: format!("{round} {node} {attempt}") };
            let key = format!("world-{node}");
            let outcome = cluster.clients.ask(cluster.own(), OWN_CLIENT, node, &key, action, 0).await;
            if outcome == Outcome::Ok(Response::Done(true)) {
                served.insert(node);
            }
        }
        if cluster.nodes().is_subset(&served) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until all nodes have applied the same to the same effect, and see each other alive.
async fn agrees(cluster: &Cluster) -> bool {
    let deadline = Instant::now() + HEALED_WITHIN;
    while cluster.disagreement().is_some() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

/// Reads every key once more, and every store.
async fn last_look(cluster: &Arc<Cluster>) -> End {
    let live: BTreeSet<u32> = cluster.nodes().into_iter().filter(|node| cluster.is_up(*node)).collect();
    let keys: BTreeSet<String> =
        cluster.clients.history().into_iter().map(|operation| operation.key).collect();
    let mut stores = BTreeMap::new();
    let patience = Instant::now() + HEALED_WITHIN;
    if let Some(leader) = cluster.leader().or(live.first().copied()) {
        for key in &keys {
            for _ in 0..3 {
                if Instant::now() > patience {
                    break;
                }
                let ask = cluster.clients.ask(cluster.own(), OWN_CLIENT, leader, key, Action::Get, 0);
                if matches!(ask.await, Outcome::Ok(_)) {
                    break;
                }
            }
        }
        // A store that cannot be read is LIVE's business.
        for node in &live {
            if let Ok(store) = cluster.clients.store(cluster.own(), *node).await {
                stores.insert(*node, store);
            }
        }
    }
    End { at_ns: cluster.now_ns(), live, history: cluster.clients.history(), stores, ..End::default() }
}
