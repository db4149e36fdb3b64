//! From a case to a verdict on a real cluster: boot, storm, heal, verdict, as `world` does it in simulation.
//!
//! Judged by the same checks. The clients are those of simulation, and so is what the healed cluster is asked. What
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

use super::cluster::{Cluster, What};
use super::storm;
use crate::check::locks::Circumstances;
use crate::check::{self, Checks, End, Violation};
use crate::experiment::Plain;
use crate::history::Outcome;
use crate::operator::Operator;
use crate::report::RunReport;
use crate::runner::Stopwatch;
use crate::scenario::nodes::node_name;
use crate::scenario::{ClockSetting, FaultKind, Scenario};

/// How long a cluster may take to form.
const FORMED_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take after the heal until everything works, and again until all agree. Generous: real machines
/// have other things to do.
const HEALED_WITHIN: Duration = Duration::from_secs(90);

/// How long a node may take to leave, at most.
const LEFT_WITHIN: Duration = Duration::from_secs(20);

/// How long all may take in the end that has to follow from what was done.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(900);

/// How often something that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Checks that say nothing here: they speak of how soon something happens.
pub const UNJUDGED: &[&str] = &["GA", "GC"];

/// One replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The node's program, with the feature `testbed`.
    pub program: PathBuf,
    /// The bug to put back.
    pub mutant: Option<String>,
    /// Where files go: an empty directory.
    pub folder: PathBuf,
    /// Whether it is waited for what only follows after the heal, which takes minutes.
    pub follows: bool,
}

impl Replay {
    /// How long a replay of this plan takes at most, with all its waits to their ends.
    pub fn time_limit(scenario: &Scenario) -> Duration {
        let asks = Duration::from_millis(scenario.settings.client_timeout_ms) * 20;
        let storm = Duration::from_millis(scenario.duration_ms);
        FORMED_WITHIN * 2 + storm + LEFT_WITHIN * 2 + HEALED_WITHIN * 4 + FOLLOWED_WITHIN + asks
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
        for node in scenario.agents() {
            cluster.found(node, ClockSetting::default()).await?;
        }
        for node in (0..scenario.nodes).chain(scenario.agents()) {
            cluster.boot(node)?;
        }
        let mut stage = Some("form a cluster");
        let forming = cluster.inquirer(FORMED_WITHIN);
        if forming.writes_everywhere("boot").await && forming.users_are_known(&cluster.planned.users).await {
            report.storm_seconds = watch.seconds();
            storm(&cluster).await;
            heal(&cluster).await;
            stage = does_not(&cluster).await;
        }
        if let Some(stage) = stage {
            let detail = format!("the cluster does not {stage}: {}", cluster.describe());
            report.violations.push(violation("LIVE", detail, &cluster));
        } else if self.follows
            && let Some((check, detail)) = cluster.inquirer(HEALED_WITHIN).lags(&cluster.planned, None).await
        {
            report.violations.push(violation(check, detail, &cluster));
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

fn violation(check: &str, detail: String, cluster: &Cluster) -> Violation {
    Violation { check: check.to_owned(), detail, at_ns: cluster.now_ns(), node: None }
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
            What::Ordered(ordered) => check::Event::Ordered(ordered),
            What::Saved(saved) => check::Event::Saved(saved),
            What::FaultBegan => check::Event::FaultBegan,
            What::FaultEnded => check::Event::FaultEnded,
            What::Datagram => check::Event::Datagram,
            What::Claimed(assertion) => {
                checks.asserted(heard.at_ns, heard.node, *assertion);
                continue;
            }
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
    let (begun, begun_ns) = (Instant::now(), cluster.clients.now());
    cluster.clients.know(cluster.planned.keys.clone());
    let mut clients = tokio::task::JoinSet::new();
    for (client, plan) in cluster.take_plans() {
        let env = cluster.client_env(client);
        clients.spawn(cluster.clients.clone().run(env, client, plan, begun_ns, Arc::new(Plain)));
    }
    if let Some(at_ms) = Operator::begins_at(&cluster.scenario.settings.gossip_keys) {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until((begun + Duration::from_millis(at_ms)).into()).await;
            cluster.operator().change_keys().await;
        });
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

/// What of all that a healed cluster does this one does not do in time.
async fn does_not(cluster: &Arc<Cluster>) -> Option<&'static str> {
    if !cluster.operator().is_done(HEALED_WITHIN).await {
        Some("get the new key of gossip everywhere after the heal")
    } else if !cluster.inquirer(HEALED_WITHIN).writes_everywhere("heal").await {
        Some("serve a write through every node after the heal")
    } else if !comes(|| cluster.disagreement().is_none()).await {
        Some("agree on state and members after the heal")
    } else if !comes(|| cluster.all_vote()).await {
        Some("let every server vote again after the heal")
    } else {
        None
    }
}

/// Waits for something that is to follow from the heal: whether it did in time.
async fn comes(follows: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + HEALED_WITHIN;
    while !follows() {
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
    let inquirer = cluster.inquirer(HEALED_WITHIN);
    let mut stores = BTreeMap::new();
    if let Some(leader) = cluster.leader().or(live.first().copied()) {
        inquirer.read_all(leader, &cluster.planned.pairs).await;
        // A store that cannot be read is LIVE's business.
        stores = inquirer.stores(&live, || cluster.applied()).await;
    }
    let fastest_ppm = cluster.scenario.fastest_ppm();
    let circumstances = Circumstances { fastest_ppm, left_ns: cluster.left_ns() };
    let services = inquirer.registered(|node| cluster.has_its_disk(node)).await;
    let events = inquirer.events().await;
    let account = cluster.clients.account();
    End { at_ns: cluster.now_ns(), live, stores, circumstances, services, events, ..account }
}
