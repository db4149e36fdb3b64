//! One run: the cluster boots, the storm passes over it, everything is healed, and a verdict is asked for.
//!
//! 1. **Boot.** The nodes start and form a cluster.
//! 2. **Storm.** The scenario's faults happen while the clients work.
//! 3. **Heal.** All links pass, all clocks are right, every node runs. In some plans a minority stays away for longer: the
//!    rest must then serve without it, within [`HEALED_WITHIN`].
//! 4. **Verdict.** From here on nothing is an excuse: within [`HEALED_WITHIN`] a write must succeed through
//!    every node, all must have applied the same to the same effect, all must see each other alive, and every server must vote. The leader
//!    then has its time to make the catalog follow, and the agents theirs to tell it of their services.
//!    Then the keys are read once more and the checks judge the whole.
//!
//! What the nodes observe is checked as it happens; the checks `LIVE` and `CAT`, and what `AE`, `NEWS` and `BLOCK`
//! claim of the time after the heal, are judged here, and `CRASH` for
//! panics and for nodes that stop, or find their data damaged, although nothing happened to their disk.
//!
//! A plan beyond repair is judged by less at the end: see [`check::beyond`].
//!
//! A node whose process ended by itself is started again after [`RESTART_AFTER`], as a service manager
//! would do.

mod clocks;
mod disks;
mod faults;
mod orders;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use driftline::config::Config;
use driftline::env::assertion::Assertion;
use driftline::env::{Env, Observed};
use driftline::mutant;
use driftline::node::Node;
use driftline::secret::Secret;
use futures_util::future::BoxFuture;
use rand::Rng;
use tokio::sync::mpsc;

use crate::check::beyond::Losses;
use crate::check::linearizable::Broken;
use crate::check::locks::Circumstances;
use crate::check::{self, Checks, End, Stop, Violation};
use crate::disk::DiskModel;
use crate::executor::{Machine, Universe, Witness};
use crate::experiment::Experiment;
use crate::fault::{Effect, Hosts, Rule};
use crate::history::{Operation, Outcome};
use crate::holders;
use crate::inquiry::{self, Inquirer, Planned};
use crate::operator::{self, Operator, Site};
use crate::record::Happening;
use crate::report::RunReport;
use crate::report::page::{Material, Page};
use crate::report::story::Scribe;
use crate::roster::Roster;
use crate::runner::Stopwatch;
use crate::scenario::keys::Step;
use crate::scenario::nodes::node_name;
use crate::scenario::{
    Away, ClockSetting, DiskSettings, FaultKind, Missing, PlannedOp, Scenario, Target, stream,
};
use crate::standing::Standing;
use crate::trace::{Trace, WORLD};
use crate::workload::{AsClient, Clients, FIRST_CLIENT, HTTP_PORT, client_ip};
use clocks::Rates;

/// How long a cluster may take to form when nothing is wrong.
const FORMED_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take after the heal until everything works, and again until all agree.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// How long a node may take to leave, at most.
const LEFT_WITHIN: Duration = Duration::from_secs(20);

/// So many unexpected ends of processes are told of in a report.
const CRASHES_TOLD: usize = 3;

/// How long after its end a process is started again.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// How long a node may take to be gone after it agreed to leave.
const LEAVES_WITHIN: Duration = Duration::from_secs(15);

/// How often the world looks whether what it waits for has come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A clock between these must not lead gossip to a false verdict.
const MILD_RATES: std::ops::RangeInclusive<u64> = 900_000..=1_100_000;

const RPC_PORT: u16 = 8300;
const GOSSIP_PORT: u16 = 8301;

/// What a run is asked to do besides running.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Write every event of the trace to this file, as text.
    pub trace: Option<PathBuf>,
    /// Put this bug back.
    pub mutant: Option<String>,
    /// As if the node's program had been edited so many times: so many draws and tasks more at each boot.
    pub perturb: u64,
    /// End with the storm, without a heal or anything that is judged after it, and sooner if this check objects.
    pub storm_only: Option<String>,
    /// Report which states of the cluster were reached.
    pub coverage: bool,
    /// Write a page that shows the run to this file.
    pub report: Option<PageFile>,
}

/// Where the page of a run goes, and what it says of how it came about.
#[derive(Clone, Debug)]
pub struct PageFile {
    /// The file. One that exists is left as it is, and the run is not reported.
    pub path: PathBuf,
    /// The command that shows the run again.
    pub again: String,
}

/// What was asked for beside the verdict cannot be written. That is no fault of the node's, and so no verdict.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the {what} {path}: {error}")]
pub struct Unwritten {
    what: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// Runs a scenario to its verdict. At most once in a process: some counters of the runtime below are the
/// process's, and a second run would not be what the first was.
///
/// # Errors
/// [`Unwritten`], if the trace or the page cannot be written to its end.
pub fn run(
    scenario: Scenario,
    options: &RunOptions,
    experiment: Arc<dyn Experiment>,
) -> Result<RunReport, Unwritten> {
    if let Some(mutant) = &options.mutant {
        driftline::mutant::activate(mutant);
    }
    let stopwatch = Stopwatch::start();
    let mut report = RunReport { seed: scenario.seed, nodes: scenario.nodes, ok: true, ..Default::default() };
    let untraced =
        |error| Unwritten { what: "trace", path: options.trace.clone().unwrap_or_default(), error };
    let file = options.trace.as_ref().map(File::create).transpose().map_err(untraced)?;
    let trace = Arc::new(Trace::new(file));
    let scribe = options.report.as_ref().map(|_| {
        let ports = [(RPC_PORT, "raft"), (GOSSIP_PORT, "gossip"), (HTTP_PORT, "http")];
        let scribe = Arc::new(Mutex::new(Scribe::new(FIRST_CLIENT, &ports)));
        trace.listen(scribe.clone());
        scribe
    });
    // A long plan is large and the run uses it up, so that only who draws the plan pays for a copy.
    let plan = options.report.is_some().then(|| scenario.clone());
    let schedule = stream(scenario.seed, "schedule").next_u64();
    let runtime = madsim::runtime::Runtime::with_seed_and_config(schedule, madsim::Config::default());
    let (history, broken) =
        runtime.block_on(whole(scenario, options, experiment, trace.clone(), &mut report));
    trace.finish().map_err(untraced)?;
    report.trace_hash = format!("{:016x}", trace.hash());
    report.trace_events = trace.count();
    if let (Some(file), Some(scribe)) = (&options.report, scribe) {
        let material = Material {
            report: &report,
            history: &history,
            broken: broken.as_deref(),
            scenario: plan.as_ref(),
            mutant: options.mutant.as_deref(),
            again: Some(&file.again),
            own_client: Some(inquiry::CLIENT),
        };
        let story = scribe.lock().unwrap_or_else(PoisonError::into_inner).story();
        let saved = Page::of(story, material).save(&file.path, false);
        saved.map_err(|error| Unwritten { what: "page", path: file.path.clone(), error })?;
    }
    report.wall_seconds = stopwatch.seconds();
    Ok(report)
}

async fn whole(
    mut scenario: Scenario,
    options: &RunOptions,
    experiment: Arc<dyn Experiment>,
    trace: Arc<Trace>,
    report: &mut RunReport,
) -> (Vec<Operation>, Option<Box<Broken>>) {
    report.violations.extend(check::teeth::missing());
    let watch = Arc::new(Watch::new(&scenario));
    watch.checks().add(experiment.invariants());
    if options.coverage {
        watch.checks().cover();
    }
    let universe = Universe::new(
        scenario.seed,
        trace,
        scenario.settings.links.clone(),
        watch.clone() as Arc<dyn Witness>,
    );
    let timeout = Duration::from_millis(scenario.settings.client_timeout_ms);
    let padding = usize::try_from(scenario.settings.padding_bytes).unwrap_or(0);
    let clients = Clients::new(universe.clone(), timeout, padding);
    let (exits, exited) = mpsc::unbounded_channel();
    let planned = Planned::of(&scenario);
    let mut plans: BTreeMap<u32, Vec<PlannedOp>> = BTreeMap::new();
    for op in std::mem::take(&mut scenario.operations) {
        plans.entry(op.client).or_default().push(op);
    }
    let world = Arc::new(World {
        universe: universe.clone(),
        perturb: options.perturb,
        clients_hosts: plans.keys().map(|client| FIRST_CLIENT + client).collect(),
        planned,
        plans: Mutex::new(plans),
        scenario,
        experiment: experiment.clone(),
        watch: watch.clone(),
        clients: clients.clone(),
        machines: Mutex::default(),
        state: Mutex::default(),
        exits,
        own: OnceLock::new(),
    });
    let main = world.own_client();
    let _ = world.own.set(main.clone());
    madsim::task::spawn(world.clone().supervise(exited));

    let mut stage = Some("form a cluster");
    if world.form(&main).await {
        stage = None;
        report.storm_seconds = universe.pump.now() as f64 / 1e9;
        world.storm(options.storm_only.as_deref()).await;
        if options.storm_only.is_none() {
            world.heal().await;
            stage = match world.does_not_without_the_missing(&main).await {
                None => world.does_not(&main).await,
                stage => stage,
            };
        }
    }
    if let Some(stage) = stage {
        let detail = format!("the cluster does not {stage}: {}", world.describe());
        report.violations.push(violation("LIVE", detail, universe.pump.now()));
    }
    let end = if options.storm_only.is_some() {
        world.answered().await;
        world.account()
    } else {
        if stage.is_none() {
            let vanish = |node| -> BoxFuture<'_, ()> { Box::pin(world.restart(node, Stop::Vanish)) };
            let inquirer = world.inquirer(&main, HEALED_WITHIN);
            if let Some((check, detail)) = inquirer.lags(&world.planned, Some(&vanish)).await {
                report.violations.push(violation(check, detail, universe.pump.now()));
            } else if !world.agrees().await {
                // What was asked may have cost a host its power.
                let detail = format!("the nodes do not agree after they were asked: {}", world.describe());
                report.violations.push(violation("LIVE", detail, universe.pump.now()));
            }
            let caller = AsClient { clients: clients.clone(), env: main.clone(), client: inquiry::CLIENT };
            report.violations.extend(experiment.verdict(&caller).await);
        }
        world.last_look(&main).await
    };
    // What happens from here on is of no interest.
    let checks = std::mem::replace(&mut *watch.checks(), Checks::new(&check::Settings::default()));
    let verdict = checks.finish(&end);
    report.violations.extend(verdict.violations);
    report.undecided = verdict.undecided;
    if let Some(coverage) = &verdict.coverage {
        report.coverage = coverage.features(&verdict.points);
        report.moments = coverage.moments((report.storm_seconds * 1e9) as u64);
    }
    report.points = verdict.points;
    report.violations.extend(world.crashes());
    report.beyond = world.scenario.beyond;
    if report.beyond {
        report.excused = check::beyond::excuse(&mut report.violations, world.losses());
    }
    report.ok = report.violations.is_empty();
    report.sim_seconds = universe.pump.now() as f64 / 1e9;
    report.faults = world.state().happened.clone();
    for operation in &end.history {
        match operation.outcome {
            Outcome::Ok(_) => report.ops_ok += 1,
            Outcome::Failed(_) => report.ops_failed += 1,
            Outcome::Unknown(_) => report.ops_unknown += 1,
        }
    }
    (end.history, verdict.broken)
}

fn violation(check: &str, detail: String, at_ns: u64) -> Violation {
    Violation { check: check.to_owned(), detail, at_ns, node: None }
}

/// Sees what the nodes observe: passes it to the checks, and keeps what the world itself needs.
struct Watch {
    checks: Mutex<Checks>,
    standing: Mutex<Standing>,
    roster: Mutex<Roster>,
    disks: Mutex<BTreeMap<u32, Damages>>,
    /// Nodes that found damage where there was none.
    unexplained: Mutex<Vec<Violation>>,
}

/// What was done to a node's disk, and what the node said of it.
struct Damages {
    disk: Arc<DiskModel>,
    /// So many of the disk's damages were there when the node last found its data damaged.
    answered_for: u64,
    /// How often it found that.
    admitted: u64,
    /// The Raft id that the node had last, and what excused another by then.
    known: Option<(u64, u64)>,
}

impl Damages {
    /// What may have damaged the data so far. A lie may, too.
    fn so_far(&self) -> u64 {
        let counters = self.disk.counters();
        counters.damages + counters.lies
    }

    /// What there was so far that makes a server begin anew as somebody else.
    fn excuses(&self) -> u64 {
        self.so_far() + self.admitted + self.disk.counters().replacements
    }

    /// Whether there was more of it since.
    fn is_owed(&self) -> bool {
        self.so_far() > self.answered_for
    }
}

impl Watch {
    fn new(scenario: &Scenario) -> Watch {
        let settings = check::Settings::of(&scenario.settings.gossip());
        let checks = Mutex::new(Checks::new(&settings));
        Watch {
            checks,
            standing: Mutex::default(),
            roster: Mutex::default(),
            disks: Mutex::default(),
            unexplained: Mutex::default(),
        }
    }

    fn disks(&self) -> MutexGuard<'_, BTreeMap<u32, Damages>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unexplained(&self) -> MutexGuard<'_, Vec<Violation>> {
        self.unexplained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found_damage(&self, at_ns: u64, host: u32, reason: &str) {
        let mut disks = self.disks();
        let Some(damages) = disks.get_mut(&host) else { return };
        if !damages.is_owed() {
            let detail = format!("the node finds its data damaged, but nothing damaged its disk: {reason}");
            self.unexplained().push(Violation { check: "CRASH".to_owned(), detail, at_ns, node: Some(host) });
        }
        damages.answered_for = damages.so_far();
        damages.admitted += 1;
    }

    /// A server is who it was, whatever it went through, for as long as its disk is. All checks of what a server must still know go
    /// by its Raft id: one that forgot who it is would be free of every promise that it gave.
    fn found_itself(&self, at_ns: u64, host: u32, raft_id: u64) {
        let mut disks = self.disks();
        let Some(damages) = disks.get_mut(&host) else { return };
        let excuses = damages.excuses();
        if let Some((before, excused)) = damages.known
            && before != raft_id
            && excused == excuses
        {
            let detail = format!(
                "node {host} was server {before:016x} and comes back as {raft_id:016x}, though its disk was neither replaced nor \
                 damaged"
            );
            self.unexplained().push(Violation { check: "MV".to_owned(), detail, at_ns, node: Some(host) });
        }
        damages.known = Some((raft_id, excuses));
    }

    fn checks(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, at_ns: u64, node: u32, event: check::Event<'_>) {
        self.checks().on(at_ns, node, event);
    }
}

impl Witness for Watch {
    fn observed(&self, at_ns: u64, host: u32, event: &Observed) {
        self.roster().observed(host, event);
        self.standing().observed(host, event);
        if let Observed::Damaged { reason } = event {
            self.found_damage(at_ns, host, reason);
        }
        if let Observed::Recovered { raft_id, .. } = event {
            self.found_itself(at_ns, host, *raft_id);
        }
        self.tell(at_ns, host, check::Event::Observed(event));
    }

    fn asserted(&self, at_ns: u64, host: u32, assertion: Assertion) -> bool {
        self.checks().asserted(at_ns, host, assertion)
    }

    fn datagram(&self, at_ns: u64, host: u32) {
        if host < FIRST_CLIENT {
            self.tell(at_ns, host, check::Event::Datagram);
        }
    }
}

/// What changes while the storm goes on.
#[derive(Default)]
struct State {
    /// Nodes that a fault keeps down, until when (true time).
    down_until: BTreeMap<u32, u64>,
    /// Stalls in force.
    stalls: BTreeMap<u32, u32>,
    /// How many errors the disk of each node had given when its present life began: one more, and it may stop.
    disk_errors: BTreeMap<u32, u64>,
    /// Nodes that were asked to leave and still run.
    leaving: BTreeSet<u32>,
    /// When nodes were told to leave.
    left_ns: Vec<(u32, u64)>,
    /// Faults in force that may make gossip err.
    harsh: u32,
    /// Who stays away after the storm, and the rules that keep away who runs.
    away: (BTreeSet<u32>, Vec<u64>),
    /// How many faults of each kind have struck.
    happened: BTreeMap<String, u64>,
    /// How many faults are under way, by when they were to begin and their kind.
    under_way: BTreeMap<(u64, &'static str), u32>,
    crashes: Vec<Violation>,
    /// The storm is over: what its faults still had to do is done by the heal.
    healed: bool,
    why_down: BTreeMap<u32, String>,
    /// The numbers of the nodes' addresses.
    addresses: BTreeMap<u32, u32>,
    /// Nodes that lost their disks.
    lost: BTreeSet<u32>,
    /// The newest version of the protocols that each node speaks, if not the one of the beginning.
    protocols: BTreeMap<u32, u8>,
    /// How far the operator is who changes gossip's keys.
    keys: Step,
    /// What faults want of the rates of clocks.
    rates: Rates,
}

struct World {
    universe: Arc<Universe>,
    perturb: u64,
    /// Without its operations, which are in `plans`.
    scenario: Scenario,
    /// Nothing once the storm has begun: then they are the clients'.
    plans: Mutex<BTreeMap<u32, Vec<PlannedOp>>>,
    /// The hosts of the clients that have a plan.
    clients_hosts: BTreeSet<u32>,
    planned: Planned,
    experiment: Arc<dyn Experiment>,
    watch: Arc<Watch>,
    clients: Arc<Clients>,
    machines: Mutex<BTreeMap<u32, Arc<Machine>>>,
    state: Mutex<State>,
    exits: mpsc::UnboundedSender<u32>,
    own: OnceLock<Env>,
}

impl Site for World {
    fn nodes(&self) -> Vec<(u32, bool)> {
        self.machines().into_iter().map(|(node, machine)| (node, machine.is_running())).collect()
    }

    fn step(&self) -> Step {
        self.state().keys
    }

    fn begin(&self, step: Step) {
        self.universe.pump.note(WORLD, "keys", format!("{step:?}"));
        self.state().keys = step;
    }
}

fn node_ip(number: u32) -> IpAddr {
    // From .1 on.
    let [_, high, middle, low] = number.saturating_add(1).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, high, middle, low))
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machines(&self) -> BTreeMap<u32, Arc<Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn machine(&self, node: u32) -> Option<Arc<Machine>> {
        self.machines().get(&node).cloned()
    }

    fn now(&self) -> u64 {
        self.universe.pump.now()
    }

    /// A host whose clock is right and that nothing happens to, and its world.
    fn own_client(&self) -> Env {
        let machine =
            Machine::new(self.universe.clone(), FIRST_CLIENT + inquiry::CLIENT, DiskSettings::default());
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        machine.boot(client_ip(inquiry::CLIENT), move |env| {
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(env);
            pending()
        });
        let env = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        match env {
            Some(env) => env,
            None => unreachable!("boot hands the world over before it returns"),
        }
    }

    // Nodes.

    /// Where a node is now, or was when it last ran.
    fn ip(&self, node: u32) -> IpAddr {
        node_ip(self.state().addresses.get(&node).copied().unwrap_or(node))
    }

    fn config(&self, node: u32) -> Config {
        let settings = &self.scenario.settings;
        let ip = self.ip(node);
        let first = self.scenario.nodes;
        let (protocol, lost) = {
            let state = self.state();
            let protocol = state.protocols.get(&node).copied().unwrap_or(settings.protocol);
            (protocol, state.lost.contains(&node))
        };
        let encrypt = settings.gossip_keys.configured(node, self.keys_for(node));
        Config {
            node_name: node_name(node),
            server: !self.scenario.is_agent(node),
            http_addr: SocketAddr::new(ip, HTTP_PORT),
            rpc_addr: SocketAddr::new(ip, RPC_PORT),
            gossip_addr: SocketAddr::new(ip, GOSSIP_PORT),
            bootstrap: self.scenario.bootstrap(node, lost),
            retry_join: (0..first)
                .filter(|other| settings.joins.names(node, *other))
                // As names would be looked up: where the others are when this one starts.
                .map(|other| SocketAddr::new(self.ip(other), GOSSIP_PORT).into())
                .collect(),
            retry_interval_ms: settings.knobs.retry_interval_ms,
            protocol,
            encrypt: Secret::new(encrypt),
            acl: holders::rights(settings.acl),
            raft: settings.raft(),
            gossip: settings.gossip(),
            limits: settings.limits(),
            ..Config::default()
        }
    }

    /// Makes a host for a node, with its clock as it begins.
    fn found_host(&self, node: u32, clock: ClockSetting) -> Arc<Machine> {
        let pump = &self.universe.pump;
        pump.jump(node, Duration::from_millis(clock.start_ms));
        pump.set_rate(node, clock.rate_ppm);
        pump.step_wall(node, clock.wall_offset_ms.saturating_mul(1_000_000));
        let machine = Machine::new(self.universe.clone(), node, self.scenario.settings.disks.clone());
        self.watch
            .disks()
            .insert(node, Damages { disk: machine.disk.clone(), answered_for: 0, admitted: 0, known: None });
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).insert(node, machine.clone());
        self.give_address(node, node);
        machine
    }

    /// Gives a node the first address from `first` on that no node has.
    fn give_address(&self, node: u32, first: u32) {
        let mut state = self.state();
        let taken: BTreeSet<u32> = state.addresses.values().copied().collect();
        if let Some(free) = (first..).find(|number| !taken.contains(number)) {
            state.addresses.insert(node, free);
        }
    }

    fn boot(self: &Arc<World>, node: u32) {
        let Some(machine) = self.machine(node) else { return };
        self.watch.standing().started(node);
        self.state().disk_errors.insert(node, machine.disk.counters().errors);
        let name = node_name(node);
        self.watch.tell(self.now(), node, check::Event::Started { name: &name });
        let ip = self.ip(node);
        self.clients.moved(node, ip);
        let (world, config) = (self.clone(), self.config(node));
        let experiment = self.experiment.clone();
        machine.boot(ip, move |env| async move {
            for _ in 0..world.perturb {
                env.ambient_random();
                drop(env.spawn(env.sleep(Duration::from_millis(1))));
            }
            let result = match Node::start(env.clone(), config, experiment.extension(node, &env)).await {
                Ok(node) => node.run(pending()).await,
                Err(error) => Err(error),
            };
            world.ended(node, result.err().map(|error| error.to_string()))
        });
        madsim::task::spawn(self.clone().glance(node));
    }

    /// Looks what a node shows that has just started again: a moment that the clients seldom meet.
    async fn glance(self: Arc<World>, node: u32) {
        let Some(env) = self.own.get() else { return };
        inquiry::glance(&self.clients, env, node).await;
    }

    /// A node's process has ended by itself.
    fn ended(&self, node: u32, error: Option<String>) -> String {
        let stop = if error.is_none() { Stop::Graceful } else { Stop::Kill };
        self.watch.tell(self.now(), node, check::Event::Stopped(stop));
        let said = error.clone().unwrap_or_else(|| "it left".to_owned());
        let errors = self.machine(node).map(|machine| machine.disk.counters().errors);
        let damaged = self.watch.disks().get(&node).is_some_and(Damages::is_owed);
        let mut state = self.state();
        let disk_failed = errors > state.disk_errors.get(&node).copied() || damaged;
        if let Some(error) = error
            && !disk_failed
        {
            let detail = format!("the node stopped although its disk was well: {error}");
            let at_ns = self.now();
            // One that is started again and again says the same again and again.
            if state.crashes.len() < CRASHES_TOLD {
                let node = Some(node);
                state.crashes.push(Violation { check: "CRASH".to_owned(), detail, at_ns, node });
            }
        }
        state.why_down.insert(node, said.clone());
        state.leaving.remove(&node);
        // The receiver lives as long as the run.
        let _ = self.exits.send(node);
        said
    }

    /// Keeps a node down until then, at least.
    fn hold_down(&self, node: u32, until: u64) {
        let mut state = self.state();
        let held = state.down_until.entry(node).or_default();
        *held = (*held).max(until);
    }

    /// Takes a node down, unless it is down already.
    fn take_down(&self, node: u32, stop: Stop) -> bool {
        let Some(machine) = self.machine(node).filter(|machine| machine.is_running()) else {
            return false;
        };
        self.watch.tell(self.now(), node, check::Event::Stopped(stop));
        self.watch.standing().stopped(node);
        match stop {
            Stop::PowerLoss => machine.power_loss(),
            Stop::Vanish => machine.vanish(),
            Stop::Kill | Stop::Graceful => machine.kill(),
        }
        let mut state = self.state();
        state.why_down.insert(node, format!("{stop:?}"));
        state.leaving.remove(&node);
        true
    }

    /// Takes a node down for a moment.
    async fn restart(self: &Arc<World>, node: u32, stop: Stop) {
        self.take_down(node, stop);
        self.universe.sleep(RESTART_AFTER).await;
        self.boot_if_due(node);
    }

    /// Starts again what has ended by itself.
    async fn supervise(self: Arc<World>, mut exited: mpsc::UnboundedReceiver<u32>) {
        while let Some(node) = exited.recv().await {
            let world = self.clone();
            madsim::task::spawn(async move {
                world.universe.sleep(RESTART_AFTER).await;
                world.boot_if_due(node);
            });
        }
    }

    /// Starts a node that is down, unless a fault wants it down for longer.
    fn boot_if_due(self: &Arc<World>, node: u32) {
        let now = self.now();
        let due = {
            let state = self.state();
            state.healed || state.down_until.get(&node).is_none_or(|until| *until <= now)
        };
        if due && !self.may_not_run(node) && self.machine(node).is_some_and(|machine| !machine.is_running()) {
            self.boot(node);
        }
    }

    fn leader(&self) -> Option<u32> {
        let machines = self.machines();
        let is_running = |node| machines.get(&node).is_some_and(|machine| machine.is_running());
        self.watch.standing().leader(is_running)
    }

    fn target(&self, target: Target) -> u32 {
        match target {
            Target::Node(node) => node,
            Target::Leader => self.leader().unwrap_or(0),
        }
    }

    // The four parts of a run.

    /// Boots the nodes and waits until each serves a write.
    async fn form(self: &Arc<World>, env: &Env) -> bool {
        for node in 0..self.scenario.nodes {
            let clock = self.scenario.clocks.get(node as usize).copied().unwrap_or_default();
            self.found_host(node, clock);
        }
        for node in self.scenario.agents() {
            self.found_host(node, ClockSetting::default());
        }
        for node in (0..self.scenario.nodes).chain(self.scenario.agents()) {
            self.boot(node);
        }
        let inquirer = self.inquirer(env, FORMED_WITHIN);
        inquirer.writes_everywhere("boot").await && inquirer.users_are_known(&self.planned.users).await
    }

    fn inquirer<'a>(&'a self, env: &'a Env, within: Duration) -> Inquirer<'a> {
        let nodes = self.machines().into_keys().collect();
        Inquirer { clients: &self.clients, env, scenario: &self.scenario, nodes, within }
    }

    /// Lets the faults happen and the clients work, until the storm's time is over or a check that is waited for objects.
    async fn storm(self: &Arc<World>, awaited: Option<&str>) {
        let storm_ns = self.now();
        self.universe.pump.note(WORLD, "storm", "begins");
        self.universe.pump.tell(WORLD, Happening::Storm);
        self.watch.standing().stormy();
        let plans = std::mem::take(&mut *self.plans.lock().unwrap_or_else(PoisonError::into_inner));
        self.clients.know(self.planned.keys.clone());
        for (client, plan) in plans {
            let host = FIRST_CLIENT + client;
            let machine = Machine::new(self.universe.clone(), host, DiskSettings::default());
            let (clients, experiment) = (self.clients.clone(), self.experiment.clone());
            machine.boot(client_ip(client), move |env| async move {
                clients.run(env, client, plan, storm_ns, experiment).await;
                pending().await
            });
        }
        madsim::task::spawn(self.clone().operate(storm_ns));
        let mut faults = Vec::new();
        for fault in self.scenario.faults.clone() {
            let world = self.clone();
            let departure = matches!(fault.kind, FaultKind::Membership { .. });
            let task = madsim::task::spawn(async move {
                world.universe.sleep_until(storm_ns + fault.at_ms * 1_000_000).await;
                world.clone().happen(fault.clone()).await;
                world.universe.pump.tell(WORLD, Happening::FaultEnded { fault: &fault });
            });
            faults.push((departure, task));
        }
        let end_ns = storm_ns + self.scenario.duration_ms * 1_000_000;
        while self.now() < end_ns {
            // Looking at the tasks also forgets those that are over: without it their list only grows.
            madsim::runtime::Handle::current().metrics().num_tasks();
            // As often if nobody waits for anything: a step more or less would be another run.
            let next = (self.now() + LOOK_EVERY.as_nanos() as u64).min(end_ns);
            self.universe.sleep_until(next).await;
            let objects = |check| self.watch.checks().violations().iter().any(|one| one.check == check);
            if awaited.is_some_and(objects) {
                break;
            }
        }
        self.clients.stop();
        for (departure, fault) in faults {
            if departure {
                // Not cut short: a departure that has begun cannot be called off.
                let _ = fault.await;
            } else {
                fault.abort();
            }
        }
    }

    /// Makes everything right again.
    async fn heal(self: &Arc<World>) {
        self.universe.pump.note(WORLD, "heal", "all links, clocks and nodes");
        self.universe.pump.tell(WORLD, Happening::Heal);
        self.universe.net.heal();
        // Mutant T04: one of the links stays cut.
        if mutant::is("T04") {
            let (from, to) = (BTreeSet::from([0]), BTreeSet::from([1]));
            let effect = Effect::Block;
            self.universe.net.add_rule(Rule { from: Hosts::Only(from), to: Hosts::Only(to), effect });
        }
        self.universe.hazards().clear();
        self.universe.pump.straighten_walls();
        self.state().healed = true;
        for (node, machine) in self.machines() {
            self.universe.pump.set_rate(node, 1_000_000);
            machine.disk.heal();
            machine.processor.heal();
        }
        // The faults that the storm's end cut short.
        let cut_short = self.state().harsh;
        for _ in 0..cut_short {
            self.disturb(true, false);
        }
        self.take_away();
        for (node, machine) in self.machines() {
            if !self.may_not_run(node) {
                machine.resume();
                self.boot_if_due(node);
            }
        }
        // Whoever was asked to leave does so first, and is started again; the request may have been lost.
        let until = self.now() + LEFT_WITHIN.as_nanos() as u64;
        while !self.state().leaving.is_empty() && self.now() < until {
            self.universe.sleep(LOOK_EVERY).await;
        }
        self.answered().await;
    }

    /// The minority that stays away goes. Nothing of that is demanded of servers that have changed.
    fn take_away(&self) {
        let Some(missing) = &self.scenario.settings.missing else { return };
        if !self.watch.standing().voters_stayed(self.scenario.nodes as usize) {
            return;
        }
        let (nodes, kind) = (BTreeSet::from_iter(missing.nodes.iter().copied()), missing.how.kind());
        self.universe.pump.note(WORLD, "missing", format!("{kind}: {nodes:?}"));
        *self.state().happened.entry(kind.to_owned()).or_default() += 1;
        self.state().away.0.clone_from(&nodes);
        self.disturb(true, true);
        let machines = self.machines().into_iter().filter(|(node, _)| nodes.contains(node));
        match missing.how {
            Away::Down => {
                for (node, _) in machines {
                    self.take_down(node, Stop::Kill);
                }
            }
            Away::Frozen => machines.for_each(|(_, machine)| machine.stall()),
            Away::Cut => {
                for (from, to) in [(Hosts::only(nodes.clone()), Hosts::All), (Hosts::All, Hosts::only(nodes))]
                {
                    let number = self.universe.net.add_rule(Rule { from, to, effect: Effect::Block });
                    self.state().away.1.push(number);
                }
            }
        }
    }

    /// Whether it is away in a way in which it does not run.
    fn may_not_run(&self, node: u32) -> bool {
        let cut = |missing: &Missing| missing.how == Away::Cut;
        self.state().away.0.contains(&node) && !self.scenario.settings.missing.as_ref().is_some_and(cut)
    }

    /// The missing come back.
    fn bring_back(self: &Arc<World>) {
        self.universe.pump.note(WORLD, "missing", "come back");
        let (nodes, rules) = std::mem::take(&mut self.state().away);
        rules.into_iter().for_each(|number| self.universe.net.remove_rule(number));
        for node in nodes {
            if let Some(machine) = self.machine(node) {
                machine.resume();
            }
            self.boot_if_due(node);
        }
        self.disturb(true, false);
    }

    /// What those that are left do not do in time while a minority is away.
    async fn does_not_without_the_missing(self: &Arc<World>, env: &Env) -> Option<&'static str> {
        let away = self.state().away.0.clone();
        let mut inquirer = self.inquirer(env, HEALED_WITHIN);
        inquirer.nodes.retain(|node| !away.contains(node));
        if away.is_empty() {
            return None;
        }
        let served = inquirer.writes_everywhere("core").await && inquirer.reads_everywhere().await;
        if !served {
            return Some("serve writes and reads while a minority is away");
        }
        self.bring_back();
        None
    }

    /// Whoever still waits for an answer gets it, or has waited long enough.
    async fn answered(&self) {
        while self.clients.busy() > 0 {
            self.universe.sleep(LOOK_EVERY).await;
        }
    }

    fn operator<'a>(&'a self, env: &'a Env) -> Operator<'a> {
        let keys = &self.scenario.settings.gossip_keys;
        Operator { site: self, clients: &self.clients, env, keys }
    }

    /// The operator's work, if there is any, from `storm_ns` on.
    async fn operate(self: Arc<World>, storm_ns: u64) {
        let begins_at = Operator::begins_at(&self.scenario.settings.gossip_keys);
        let (Some(at_ms), Some(env)) = (begins_at, self.own.get()) else { return };
        self.universe.sleep_until(storm_ns + at_ms * 1_000_000).await;
        self.operator(env).change_keys().await;
    }

    /// The step whose keys a node is configured with when it is started. Who has a disk of its own, on which nothing
    /// happened to the file of the keys, remembers what became of the keys that it was founded with.
    fn keys_for(&self, node: u32) -> Step {
        let damaged = self.machine(node).is_some_and(|machine| machine.disk.was_hit(operator::FILE));
        let state = self.state();
        let founder = node < self.scenario.nodes || self.scenario.is_agent(node);
        if founder && !damaged && !state.lost.contains(&node) { Step::Founded } else { state.keys }
    }

    /// What of all that a healed cluster does this one does not do in time.
    async fn does_not(self: &Arc<World>, env: &Env) -> Option<&'static str> {
        if !self.operator(env).is_done(HEALED_WITHIN).await {
            Some("get the new key of gossip everywhere after the heal")
        } else if !self.inquirer(env, HEALED_WITHIN).writes_everywhere("heal").await {
            Some("serve a write through every node after the heal")
        } else if !self.agrees().await {
            Some("agree on state and members after the heal")
        } else if !self.all_vote().await {
            Some("let every server vote again after the heal")
        } else {
            None
        }
    }

    /// Waits until all nodes have applied the same to the same effect, and see each other alive.
    async fn agrees(self: &Arc<World>) -> bool {
        let deadline = self.now() + HEALED_WITHIN.as_nanos() as u64;
        loop {
            if self.disagreement().is_none() {
                return true;
            }
            if self.now() > deadline {
                return false;
            }
            self.universe.sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every server votes: whoever was replaced or taken out is back.
    async fn all_vote(&self) -> bool {
        let deadline = self.now() + HEALED_WITHIN.as_nanos() as u64;
        let servers = || self.machines().into_keys().filter(|node| !self.scenario.is_agent(*node));
        while !self.watch.roster().all_vote(servers()) {
            if self.now() > deadline {
                return false;
            }
            self.universe.sleep(LOOK_EVERY).await;
        }
        true
    }

    /// What keeps the nodes from being of one mind.
    fn disagreement(&self) -> Option<String> {
        let nodes = self.machines().into_keys().collect();
        self.watch.standing().disagreement(&nodes, |node| self.scenario.is_agent(node))
    }

    /// How things stand, for whoever reads that they do not stand well.
    fn describe(&self) -> String {
        let mut parts = Vec::new();
        match self.leader() {
            Some(leader) => parts.push(format!("n{leader} leads")),
            None => parts.push("nobody leads".to_owned()),
        }
        let state = self.state();
        for (node, machine) in self.machines() {
            if !machine.is_running() {
                let why = state.why_down.get(&node).map_or("never started", String::as_str);
                parts.push(format!("n{node} is down ({why})"));
            }
        }
        drop(state);
        parts.extend(self.disagreement());
        parts.join("; ")
    }

    /// The nodes that are up.
    fn live(&self) -> BTreeSet<u32> {
        let machines = self.machines();
        machines.iter().filter(|(_, machine)| machine.is_running()).map(|(node, _)| *node).collect()
    }

    /// What the clients have to tell, and nothing that would have to be asked for now.
    fn account(&self) -> End {
        let circumstances =
            Circumstances { fastest_ppm: self.scenario.fastest_ppm(), left_ns: self.state().left_ns.clone() };
        End { at_ns: self.now(), live: self.live(), circumstances, ..self.clients.account() }
    }

    /// Reads every key once more, and every store.
    async fn last_look(self: &Arc<World>, env: &Env) -> End {
        let live = self.live();
        let inquirer = self.inquirer(env, HEALED_WITHIN);
        let mut stores = BTreeMap::new();
        if let Some(leader) = self.leader().or(live.first().copied()) {
            inquirer.read_all(leader, &self.planned.pairs).await;
            // A store that cannot be read is LIVE's business.
            stores = inquirer.stores(&live, || self.watch.standing().applied()).await;
        }
        let account = self.account();
        let services = inquirer.registered(|node| self.kept(node)).await;
        let events = inquirer.events().await;
        End { at_ns: self.now(), live, stores, services, events, ..account }
    }

    /// Whether a node's disk kept all that it promised to keep. An error of the disk's is none of what excuses the loss of something
    /// that was answered for.
    fn kept(&self, node: u32) -> bool {
        self.machine(node).is_some_and(|machine| machine.disk.counters().kept_all())
    }

    fn losses(&self) -> Losses {
        let disks = self.watch.disks();
        Losses {
            admitted: disks.values().any(|damages| damages.admitted > 0)
                || self.state().happened.contains_key("lose-disk"),
            lied: disks.values().any(|damages| damages.disk.counters().lies > 0),
        }
    }

    fn crashes(&self) -> Vec<Violation> {
        let mut crashes = std::mem::take(&mut self.state().crashes);
        crashes.append(&mut self.watch.unexplained());
        crashes.extend(self.universe.panics().into_iter().map(|panic| Violation {
            check: "CRASH".to_owned(),
            detail: format!("panic: {}", panic.message),
            at_ns: panic.at_ns,
            node: Some(panic.host),
        }));
        crashes
    }
}
