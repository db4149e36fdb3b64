//! Nodes, links and clients of one replay, what the nodes say, and the end of all of them.
//!
//! A node whose process ended by itself is started again after [`RESTART_AFTER`], as a service manager would do.
//! Dropping the cluster kills every process and cuts every link.

// This is outside the simulation: files, processes and the real clock are allowed here.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use driftline::config::Config;
use driftline::env::observe::{MemberChange, RaftRole};
use driftline::env::real::puppet::{Pull, Start};
use driftline::env::{Env, Observed};
use driftline::secret::Secret;
use hyper::Method;
use serde_json::Value;
use tokio::sync::mpsc;

use super::clients::Clients;
use super::clock::HostClock;
use super::process::{Process, Said};
use super::proxy::{FIRST_CLIENT, GOSSIP_PORT, Ground, HTTP_PORT, Links, RPC_PORT};
use crate::check::{Stop, Violation};
use crate::fault::scene::Scene;
use crate::scenario::keys::Step;
use crate::scenario::nodes::node_name;
use crate::scenario::{ClockSetting, Scenario, Target};

/// How long after its end a process is started again.
pub const RESTART_AFTER: Duration = Duration::from_millis(500);

/// The client that the replay itself asks through.
pub const OWN_CLIENT: u32 = 999;

/// So many unexpected ends of processes are told of.
const CRASHES_TOLD: usize = 3;

/// Something that happened, at a moment of the time that all processes of this machine share.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Nanoseconds since the replay began.
    pub at_ns: u64,
    /// Which node.
    pub node: u32,
    /// What.
    pub what: What,
}

/// What happened to a node: the owned form of [`crate::check::Event`].
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum What {
    Started,
    Stopped(Stop),
    Observed(Observed),
    Leaves,
    FaultBegan,
    FaultEnded,
}

/// What one node has said in its present life.
#[derive(Clone, Debug, Default)]
struct Seen {
    leads: Option<u64>,
    applied: Option<(u64, u64)>,
    members: BTreeMap<String, MemberChange>,
}

/// One machine: its clock and files stay when its process goes.
struct Host {
    process: Option<Arc<Process>>,
    /// Counts its processes, so that the last words of one are not taken for another's.
    life: u64,
    clock: HostClock,
    /// A fault keeps it down until then.
    down_until: Option<Instant>,
    /// Stalls in force.
    stalls: u32,
    /// It was asked to leave and still runs.
    leaving: bool,
    why_down: String,
}

#[derive(Default)]
struct State {
    healed: bool,
    /// Faults in force that may make gossip err.
    harsh: u32,
    happened: BTreeMap<String, u64>,
    crashes: Vec<Violation>,
}

/// A real cluster.
pub struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    mutant: Option<String>,
    /// The plan.
    pub scenario: Scenario,
    ground: Arc<Ground>,
    /// The links.
    pub links: Links,
    /// The clients.
    pub clients: Arc<Clients>,
    own: Env,
    begun: Instant,
    begun_wall: Duration,
    hosts: Mutex<BTreeMap<u32, Host>>,
    seen: Mutex<BTreeMap<u32, Seen>>,
    heard: Mutex<Vec<Heard>>,
    state: Mutex<State>,
    exits: mpsc::UnboundedSender<(u32, u64)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// A cluster with no node yet, in an empty `folder`. Must be called inside tokio's runtime.
    ///
    /// # Errors
    /// The system's, when there is no room on the loopback network.
    pub fn new(
        program: &Path,
        folder: &Path,
        scenario: &Scenario,
        mutant: Option<&str>,
    ) -> io::Result<Arc<Cluster>> {
        let ground = Arc::new(Ground::claim(crate::runner::fresh_seed() as u8)?);
        let begun = Instant::now();
        let timeout = Duration::from_millis(scenario.settings.client_timeout_ms);
        let clients = Clients::new(ground.clone(), begun, timeout);
        let (exits, exited) = mpsc::unbounded_channel();
        let cluster = Arc::new(Cluster {
            program: program.to_owned(),
            folder: folder.to_owned(),
            mutant: mutant.map(str::to_owned),
            links: Links::new(ground.clone(), scenario.settings.links.clone(), scenario.seed),
            own: clients.env(OWN_CLIENT),
            clients,
            ground,
            scenario: scenario.clone(),
            begun,
            begun_wall: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            hosts: Mutex::default(),
            seen: Mutex::default(),
            heard: Mutex::default(),
            state: Mutex::default(),
            exits,
        });
        tokio::spawn(supervise(Arc::downgrade(&cluster), exited));
        Ok(cluster)
    }

    /// Nanoseconds since the replay began, by the time that all processes of this machine share.
    pub fn now_ns(&self) -> u64 {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(wall.saturating_sub(self.begun_wall).as_nanos()).unwrap_or(u64::MAX)
    }

    /// When the replay began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// The world of the client that the replay itself asks through.
    pub fn own(&self) -> &Env {
        &self.own
    }

    /// Everything that happened, in order.
    pub fn heard(&self) -> Vec<Heard> {
        let mut heard = locked(&self.heard).clone();
        heard.sort_by_key(|one| one.at_ns);
        heard
    }

    /// How many faults of each kind took place.
    pub fn happened(&self) -> BTreeMap<String, u64> {
        locked(&self.state).happened.clone()
    }

    /// Processes that ended for no reason of the plan's, and panics.
    pub fn crashes(&self) -> Vec<Violation> {
        let mut crashes = locked(&self.state).crashes.clone();
        for node in self.nodes() {
            // A panic of a task does not end the process, but its log tells of it.
            let log = std::fs::read_to_string(self.log(node)).unwrap_or_default();
            let mut lines = log.lines();
            if let Some(line) = lines.find(|line| line.contains("panicked at")) {
                let detail = format!("panic: {line}: {}", lines.next().unwrap_or_default());
                let (check, at_ns) = ("CRASH".to_owned(), self.now_ns());
                crashes.push(Violation { check, detail, at_ns, node: Some(node) });
            }
        }
        crashes
    }

    /// Counts a fault.
    pub fn count(&self, kind: &str) {
        *locked(&self.state).happened.entry(kind.to_owned()).or_default() += 1;
    }

    /// A fault that may make gossip err begins or ends, for everybody.
    pub fn disturb(&self, harsh: bool, begins: bool) {
        if !harsh {
            return;
        }
        {
            let harsh = &mut locked(&self.state).harsh;
            *harsh = if begins { *harsh + 1 } else { harsh.saturating_sub(1) };
        }
        for node in self.nodes() {
            self.tell(node, if begins { What::FaultBegan } else { What::FaultEnded });
        }
    }

    /// Faults in force that may make gossip err.
    pub fn harsh(&self) -> u32 {
        locked(&self.state).harsh
    }

    /// Adds to what happened.
    pub fn tell(&self, node: u32, what: What) {
        let at_ns = self.now_ns();
        locked(&self.heard).push(Heard { at_ns, node, what });
    }

    // Nodes.

    /// All nodes there are, up or not.
    pub fn nodes(&self) -> BTreeSet<u32> {
        locked(&self.hosts).keys().copied().collect()
    }

    /// Whether its process runs, frozen or not.
    pub fn is_up(&self, node: u32) -> bool {
        locked(&self.hosts).get(&node).is_some_and(|host| host.process.is_some())
    }

    fn process(&self, node: u32) -> Option<Arc<Process>> {
        locked(&self.hosts).get(&node)?.process.clone()
    }

    fn log(&self, node: u32) -> PathBuf {
        self.folder.join(format!("{}.log", node_name(node)))
    }

    fn config(&self, node: u32) -> Config {
        let settings = &self.scenario.settings;
        let at = |port| SocketAddr::new(self.ground.node(node), port);
        Config {
            node_name: node_name(node),
            http_addr: at(HTTP_PORT),
            rpc_addr: at(RPC_PORT),
            gossip_addr: at(GOSSIP_PORT),
            advertise: Some(self.ground.known(node)),
            server: !self.scenario.is_agent(node),
            bootstrap: self.scenario.bootstrap(node, false),
            protocol: settings.protocol,
            encrypt: Secret::new(settings.gossip_keys.configured(node, Step::Founded)),
            limits: settings.limits(),
            retry_join: (0..self.scenario.nodes)
                .filter(|other| *other != node)
                .map(|other| SocketAddr::new(self.ground.known(other), GOSSIP_PORT).into())
                .collect(),
            retry_interval_ms: settings.knobs.retry_interval_ms,
            raft: settings.raft(),
            gossip: settings.gossip(),
            ..Config::default()
        }
    }

    /// Makes a host for a node, with its clock as it begins, and its links.
    ///
    /// # Errors
    /// The system's.
    pub async fn found(&self, node: u32, clock: ClockSetting) -> io::Result<()> {
        self.links.stand_in(node).await?;
        let config = self.config(node);
        // A configuration does not show its secrets.
        let encrypt = config.encrypt.expose().to_owned();
        let mut config = serde_json::to_value(config)?;
        if let Some(table) = config.as_object_mut() {
            table.retain(|_, value| *value != Value::Null);
            table.insert("encrypt".to_owned(), encrypt.into());
        }
        std::fs::write(self.config_file(node), serde_json::to_vec_pretty(&config)?)?;
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let host = Host {
            process: None,
            life: 0,
            clock: HostClock::new(Instant::now(), wall, &clock),
            down_until: None,
            stalls: 0,
            leaving: false,
            why_down: "never started".to_owned(),
        };
        locked(&self.hosts).insert(node, host);
        Ok(())
    }

    fn config_file(&self, node: u32) -> PathBuf {
        self.folder.join(format!("{}.json", node_name(node)))
    }

    /// Starts a node's process.
    ///
    /// # Errors
    /// The system's.
    pub fn boot(self: &Arc<Cluster>, node: u32) -> io::Result<()> {
        let mut hosts = locked(&self.hosts);
        let Some(host) = hosts.get_mut(&node).filter(|host| host.process.is_none()) else { return Ok(()) };
        host.life += 1;
        let life = host.life;
        locked(&self.seen).insert(node, Seen::default());
        self.tell(node, What::Started);
        let text = |path: PathBuf| path.display().to_string();
        let args = [
            "agent".to_owned(),
            "--puppet".to_owned(),
            "--config".to_owned(),
            text(self.config_file(node)),
            "--data-dir".to_owned(),
            text(self.folder.join(node_name(node))),
        ];
        let cluster = Arc::downgrade(self);
        let process = Process::start(&self.program, &args, &self.log(node), move |said| {
            if let Some(cluster) = cluster.upgrade() {
                cluster.hear(node, life, said);
            }
        })?;
        let start = Start {
            source: self.ground.node(node),
            mutant: self.mutant.clone(),
            clock: host.clock.shown(Instant::now()),
        };
        // If it is gone already, that is heard by itself.
        let _ = process.tell(&serde_json::to_string(&start)?);
        host.process = Some(Arc::new(process));
        Ok(())
    }

    fn hear(&self, node: u32, life: u64, said: Said) {
        let told = match said {
            Said::Told(told) => told,
            Said::Up(_) => return,
            Said::Over => {
                // The receiver lives as long as the cluster.
                let _ = self.exits.send((node, life));
                return;
            }
        };
        {
            let mut seen = locked(&self.seen);
            let seen = seen.entry(node).or_default();
            match &told.event {
                Observed::Role { term, role, .. } => {
                    seen.leads = (*role == RaftRole::Leader).then_some(*term);
                }
                Observed::Applied { index, state, .. } | Observed::SnapshotInstalled { index, state, .. } => {
                    seen.applied = Some((*index, *state));
                }
                Observed::Member { name, change, .. } => {
                    seen.members.insert(name.clone(), *change);
                }
                _ => {}
            }
        }
        let begun_ns = u64::try_from(self.begun_wall.as_nanos()).unwrap_or(u64::MAX);
        let at_ns = told.at_ns.saturating_sub(begun_ns);
        locked(&self.heard).push(Heard { at_ns, node, what: What::Observed(told.event) });
    }

    /// A node's process has ended by itself; how, if it was not taken down meanwhile. Blocks for a moment.
    fn ended(&self, node: u32, life: u64) -> bool {
        let process = {
            let mut hosts = locked(&self.hosts);
            let Some(host) = hosts.get_mut(&node).filter(|host| host.life == life) else { return false };
            let Some(process) = host.process.take() else { return false };
            host.leaving = false;
            process
        };
        // Its output is over, so it is about to end, if it has not.
        let patience = Instant::now() + RESTART_AFTER;
        let mut status = process.ended();
        while status.is_none() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
            status = process.ended();
        }
        let graceful = status.is_some_and(|status| status.success());
        process.kill();
        let why = match status {
            _ if graceful => "it left".to_owned(),
            Some(status) => format!("{status}: {}", last_line(&process.log_tail())),
            None => "it closed its output and went on".to_owned(),
        };
        self.tell(node, What::Stopped(if graceful { Stop::Graceful } else { Stop::Kill }));
        if !graceful {
            let mut state = locked(&self.state);
            // One that is started again and again says the same again and again.
            if state.crashes.len() < CRASHES_TOLD {
                let detail = format!("the node stopped although nothing happened to it: {why}");
                let (check, at_ns) = ("CRASH".to_owned(), self.now_ns());
                state.crashes.push(Violation { check, detail, at_ns, node: Some(node) });
            }
        }
        if let Some(host) = locked(&self.hosts).get_mut(&node) {
            host.why_down = why;
        }
        true
    }

    /// Kills a node's process, unless it is down already.
    pub fn take_down(&self, node: u32, stop: Stop) -> bool {
        let process = {
            let mut hosts = locked(&self.hosts);
            let Some(host) = hosts.get_mut(&node) else { return false };
            host.leaving = false;
            let Some(process) = host.process.take() else { return false };
            host.why_down = format!("{stop:?}");
            process
        };
        process.kill();
        self.tell(node, What::Stopped(stop));
        locked(&self.seen).remove(&node);
        true
    }

    /// Keeps a node down until then, at least.
    pub fn hold_down(&self, node: u32, until: Instant) {
        if let Some(host) = locked(&self.hosts).get_mut(&node) {
            host.down_until = Some(host.down_until.map_or(until, |held| held.max(until)));
        }
    }

    /// Starts a node that is down, unless a fault wants it down for longer.
    pub fn boot_if_due(self: &Arc<Cluster>, node: u32) {
        let healed = locked(&self.state).healed;
        let due = locked(&self.hosts).get(&node).is_some_and(|host| {
            host.process.is_none() && (healed || host.down_until.is_none_or(|until| until <= Instant::now()))
        });
        if due && let Err(error) = self.boot(node) {
            let detail = format!("the process cannot be started: {error}");
            let (check, at_ns) = ("CRASH".to_owned(), self.now_ns());
            locked(&self.state).crashes.push(Violation { check, detail, at_ns, node: Some(node) });
        }
    }

    /// One more stall of a node begins (or ends); it is frozen while there is one. Whether it runs at all.
    pub fn stall(&self, node: u32, begins: bool) -> bool {
        let mut hosts = locked(&self.hosts);
        let Some(host) = hosts.get_mut(&node) else { return false };
        let Some(process) = host.process.clone() else {
            host.stalls = 0;
            return false;
        };
        host.stalls = if begins { host.stalls + 1 } else { host.stalls.saturating_sub(1) };
        match (begins, host.stalls) {
            (true, _) => process.freeze(),
            (false, 0) => process.thaw(),
            (false, _) => {}
        }
        true
    }

    /// Does something to a host's clock, and tells its process.
    pub fn bend(&self, node: u32, bend: impl FnOnce(&mut HostClock) -> Option<Pull>) {
        let mut hosts = locked(&self.hosts);
        let Some(host) = hosts.get_mut(&node) else { return };
        let Some(pull) = bend(&mut host.clock) else { return };
        if let (Some(process), Ok(line)) = (&host.process, serde_json::to_string(&pull)) {
            // One that is gone finds the clock as it is when it comes back.
            let _ = process.tell(&line);
        }
    }

    /// The node was asked to leave.
    pub fn leaves(&self, node: u32) {
        self.tell(node, What::Leaves);
        if let Some(host) = locked(&self.hosts).get_mut(&node) {
            host.leaving = true;
        }
    }

    /// Nodes that were asked to leave and still run.
    pub fn leaving(&self) -> bool {
        locked(&self.hosts).values().any(|host| host.leaving)
    }

    /// Has a node do something, from a client that no fault is meant for. Whether it agreed to.
    pub async fn command(&self, node: u32, method: Method, path: &str) -> bool {
        self.clients.call(&self.own, node, method, path, Bytes::new()).await.is_ok()
    }

    /// Makes everything right again: links, clocks, frozen nodes, nodes that are down.
    pub fn heal(self: &Arc<Cluster>) {
        self.links.heal();
        locked(&self.state).healed = true;
        for node in self.nodes() {
            self.bend(node, |clock| Some(clock.calm(Instant::now(), true)));
            if let Some(host) = locked(&self.hosts).get_mut(&node) {
                host.stalls = 0;
            }
            if let Some(process) = self.process(node) {
                process.thaw();
            }
            self.boot_if_due(node);
        }
        for _ in 0..self.harsh() {
            self.disturb(true, false);
        }
    }

    // What is known of them.

    /// Who leads, of those that run.
    pub fn leader(&self) -> Option<u32> {
        let seen = locked(&self.seen).clone();
        let leaders = seen.iter().filter(|(node, _)| self.is_up(**node));
        leaders.filter_map(|(node, seen)| Some((seen.leads?, *node))).max().map(|(_, node)| node)
    }

    /// What a fault of the network finds now.
    pub fn scene(&self) -> Scene {
        Scene {
            nodes: self.nodes(),
            clients: self.scenario.operations.iter().map(|op| FIRST_CLIENT + op.client).collect(),
            leader: self.leader().unwrap_or(0),
            now_ns: self.links.now_ns(),
            probe_period_ms: self.scenario.settings.probe_period_ms,
        }
    }

    /// The node that a target means now.
    pub fn target(&self, target: Target) -> u32 {
        match target {
            Target::Node(node) => node,
            Target::Leader => self.leader().unwrap_or(0),
        }
    }

    /// What keeps the nodes from being of one mind.
    pub fn disagreement(&self) -> Option<String> {
        let nodes = self.nodes();
        let seen = locked(&self.seen).clone();
        let nobody = Seen::default();
        let of = |node: &u32| seen.get(node).unwrap_or(&nobody);
        let applied: BTreeSet<_> = nodes.iter().map(|node| of(node).applied).collect();
        if applied.len() > 1 {
            let each = nodes.iter().map(|node| format!("n{node} {:?}", of(node).applied));
            return Some(format!("applied index and digest: {}", each.collect::<Vec<_>>().join(", ")));
        }
        for node in &nodes {
            for other in nodes.iter().filter(|other| *other != node) {
                match of(node).members.get(&node_name(*other)) {
                    // A suspicion is a question, not a verdict.
                    Some(MemberChange::Joined | MemberChange::Updated | MemberChange::Suspected) => {}
                    other_state => return Some(format!("n{node} sees n{other} as {other_state:?}")),
                }
            }
        }
        None
    }

    /// How things stand, for whoever reads that they do not stand well.
    pub fn describe(&self) -> String {
        let mut parts = vec![match self.leader() {
            Some(leader) => format!("n{leader} leads"),
            None => "nobody leads".to_owned(),
        }];
        for (node, host) in locked(&self.hosts).iter() {
            if host.process.is_none() {
                parts.push(format!("n{node} is down ({})", host.why_down));
            }
        }
        parts.extend(self.disagreement());
        parts.join("; ")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // One that still has a handle elsewhere must not outlive the cluster either.
        for host in locked(&self.hosts).values() {
            host.process.iter().for_each(|process| process.kill());
        }
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

/// Starts again what has ended by itself.
async fn supervise(cluster: Weak<Cluster>, mut exited: mpsc::UnboundedReceiver<(u32, u64)>) {
    while let Some((node, life)) = exited.recv().await {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            let looking = cluster.clone();
            let ended = tokio::task::spawn_blocking(move || {
                looking.upgrade().is_some_and(|cluster| cluster.ended(node, life))
            });
            if ended.await.unwrap_or(false) {
                tokio::time::sleep(RESTART_AFTER).await;
                if let Some(cluster) = cluster.upgrade() {
                    cluster.boot_if_due(node);
                }
            }
        });
    }
}
