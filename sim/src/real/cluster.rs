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
use driftline::env::assertion::Assertion;
use driftline::env::real::puppet::{self, Happens, Pull, Start, Told, Word};
use driftline::env::{Env, Observed};
use driftline::secret::Secret;
use futures_util::future::BoxFuture;
use hyper::Method;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::clock::HostClock;
use super::process::{Process, Said};
use super::proxy::{GOSSIP_PORT, Ground, Links, RPC_PORT};
use crate::check::orders::Ordered;
use crate::check::saved::Saved;
use crate::check::{Stop, Violation};
use crate::fault::scene::Scene;
use crate::holders;
use crate::inquiry::{self, Inquirer, Planned, glance};
use crate::operator::{Operator, Site};
use crate::orders::Orderer;
use crate::points::table;
use crate::roster::Roster;
use crate::scenario::keys::Step;
use crate::scenario::nodes::node_name;
use crate::scenario::{ClockSetting, PlannedOp, Scenario, Target, agents};
use crate::standing::Standing;
use crate::workload::{Clients, FIRST_CLIENT, HTTP_PORT, TrueTime};

/// How long after its end a process is started again.
pub const RESTART_AFTER: Duration = Duration::from_millis(500);

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
    Claimed(Assertion),
    Datagram,
    Ordered(Ordered),
    Saved(Saved),
    Leaves,
    FaultBegan,
    FaultEnded,
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

/// The time that all processes of this machine share, since the replay began.
struct MachineTime {
    begun: Instant,
}

impl TrueTime for MachineTime {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    /// A replay keeps no trace.
    fn note(&self, _: u32, _: &'static str, _: String) {}
}

#[derive(Default)]
struct State {
    healed: bool,
    /// When nodes were told to leave.
    left_ns: Vec<(u32, u64)>,
    /// Nodes that lost their disks.
    lost: BTreeSet<u32>,
    /// The newest version of the protocols that each node speaks, if not the one of the beginning.
    protocols: BTreeMap<u32, u8>,
    /// How far the operator is who changes gossip's keys.
    keys: Step,
    /// What happens at places of the code now.
    places: BTreeMap<u64, (String, Happens)>,
    next_place: u64,
    /// Who wants to hear of a node that ended at a place.
    struck: BTreeMap<&'static str, mpsc::UnboundedSender<u32>>,
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
    /// The plan, without its operations: see [`Cluster::take_plans`].
    pub scenario: Scenario,
    /// What is to be known of its operations.
    pub planned: Planned,
    plans: Mutex<BTreeMap<u32, Vec<PlannedOp>>>,
    clients_hosts: BTreeSet<u32>,
    ground: Arc<Ground>,
    /// The links.
    pub links: Links,
    /// The clients.
    pub clients: Arc<Clients>,
    own: Env,
    begun_wall: Duration,
    hosts: Mutex<BTreeMap<u32, Host>>,
    standing: Mutex<Standing>,
    roster: Mutex<Roster>,
    heard: Mutex<Vec<Heard>>,
    state: Mutex<State>,
    runtime: Handle,
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
        let padding = usize::try_from(scenario.settings.padding_bytes).unwrap_or(0);
        let clients = Clients::new(Arc::new(MachineTime { begun }), timeout, padding);
        let (exits, exited) = mpsc::unbounded_channel();
        let (datagrams, mut sent) = mpsc::unbounded_channel();
        let planned = Planned::of(scenario);
        let mut scenario = scenario.clone();
        let mut plans: BTreeMap<u32, Vec<PlannedOp>> = BTreeMap::new();
        for op in std::mem::take(&mut scenario.operations) {
            plans.entry(op.client).or_default().push(op);
        }
        let cluster = Arc::new(Cluster {
            program: program.to_owned(),
            folder: folder.to_owned(),
            mutant: mutant.map(str::to_owned),
            links: Links::new(ground.clone(), scenario.settings.links.clone(), scenario.seed, datagrams),
            own: puppet::caller(ground.client(inquiry::CLIENT), u64::from(inquiry::CLIENT)),
            clients,
            ground,
            planned,
            clients_hosts: plans.keys().map(|client| FIRST_CLIENT + client).collect(),
            plans: Mutex::new(plans),
            scenario,
            begun_wall: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            hosts: Mutex::default(),
            standing: Mutex::default(),
            roster: Mutex::default(),
            heard: Mutex::default(),
            state: Mutex::default(),
            runtime: Handle::current(),
            exits,
        });
        tokio::spawn(supervise(Arc::downgrade(&cluster), exited));
        let listening = Arc::downgrade(&cluster);
        tokio::spawn(async move {
            while let Some(node) = sent.recv().await {
                let Some(cluster) = listening.upgrade() else { return };
                cluster.tell(node, What::Datagram);
            }
        });
        Ok(cluster)
    }

    /// Nanoseconds since the replay began, by the time that all processes of this machine share.
    pub fn now_ns(&self) -> u64 {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(wall.saturating_sub(self.begun_wall).as_nanos()).unwrap_or(u64::MAX)
    }

    /// What each client is to do; the first who asks gets it.
    pub fn take_plans(&self) -> BTreeMap<u32, Vec<PlannedOp>> {
        std::mem::take(&mut *locked(&self.plans))
    }

    /// The world of a client.
    pub fn client_env(&self, client: u32) -> Env {
        puppet::caller(self.ground.client(client), u64::from(client))
    }

    /// Whoever asks all nodes.
    pub fn inquirer(&self, within: Duration) -> Inquirer<'_> {
        let (clients, env, nodes) = (&self.clients, &self.own, self.nodes());
        Inquirer { clients, env, scenario: &self.scenario, nodes, within }
    }

    /// The operator who changes gossip's keys.
    pub fn operator(&self) -> Operator<'_> {
        let keys = &self.scenario.settings.gossip_keys;
        Operator { site: self, clients: &self.clients, env: &self.own, keys }
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

    /// The step whose keys a node is configured with when it is started, as in simulation.
    fn keys_for(&self, node: u32) -> Step {
        let state = locked(&self.state);
        let founder = node < self.scenario.nodes || self.scenario.is_agent(node);
        if founder && !state.lost.contains(&node) { Step::Founded } else { state.keys }
    }

    fn config(&self, node: u32) -> Config {
        let settings = &self.scenario.settings;
        let at = |port| SocketAddr::new(self.ground.node(node), port);
        let (protocol, lost) = {
            let state = locked(&self.state);
            (state.protocols.get(&node).copied().unwrap_or(settings.protocol), state.lost.contains(&node))
        };
        Config {
            node_name: node_name(node),
            http_addr: at(HTTP_PORT),
            rpc_addr: at(RPC_PORT),
            gossip_addr: at(GOSSIP_PORT),
            advertise: Some(self.ground.known(node)),
            server: !self.scenario.is_agent(node),
            bootstrap: self.scenario.bootstrap(node, lost),
            protocol,
            encrypt: Secret::new(settings.gossip_keys.configured(node, self.keys_for(node))),
            acl: holders::rights(settings.acl),
            limits: settings.limits(),
            retry_join: (0..self.scenario.nodes)
                .filter(|other| settings.joins.names(node, *other))
                // As names would be looked up: where the others are when this one starts.
                .map(|other| SocketAddr::new(self.ground.known(other), GOSSIP_PORT).into())
                .collect(),
            retry_interval_ms: settings.knobs.retry_interval_ms,
            raft: settings.raft(),
            gossip: settings.gossip(),
            ..Config::default()
        }
    }

    /// Writes down how a node is configured now.
    fn configure(&self, node: u32) -> io::Result<()> {
        let config = self.config(node);
        // A configuration does not show its secrets.
        let encrypt = config.encrypt.expose().to_owned();
        let mut config = serde_json::to_value(config)?;
        if let Some(table) = config.as_object_mut() {
            table.retain(|_, value| *value != Value::Null);
            table.insert("encrypt".to_owned(), encrypt.into());
        }
        if self.scenario.settings.acl {
            config["acl"]["tokens"] =
                json!({ "initial_management": holders::ROOT, "default": holders::ROOT });
        }
        std::fs::write(self.config_file(node), serde_json::to_vec_pretty(&config)?)
    }

    /// Makes a host for a node, with its clock as it begins, and its links.
    ///
    /// # Errors
    /// The system's.
    pub async fn found(&self, node: u32, clock: ClockSetting) -> io::Result<()> {
        self.give_address(node, self.ground.place(node)).await?;
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

    /// A node moves to another address: near the first ones, so that it is likely to get what another has given up. It must not be
    /// running.
    ///
    /// # Errors
    /// The system's.
    pub async fn moves(&self, node: u32) -> io::Result<()> {
        let before = self.ground.place(node);
        self.give_address(node, if before < self.scenario.nodes { before + 1 } else { 0 }).await
    }

    /// Gives a node the first place from `first` on that no other has.
    async fn give_address(&self, node: u32, first: u32) -> io::Result<()> {
        let taken: BTreeSet<u32> = self.nodes().into_iter().map(|node| self.ground.place(node)).collect();
        let Some(free) = (first..).find(|place| !taken.contains(place)) else { return Ok(()) };
        self.ground.give(node, free);
        self.links.stand_in(free).await
    }

    /// A node's next start is with this version of the protocols.
    pub fn speaks(&self, node: u32, protocol: u8) {
        locked(&self.state).protocols.insert(node, protocol);
    }

    /// Whether every voter is a node that still has its disk.
    pub fn is_whole(&self) -> bool {
        locked(&self.roster).is_whole()
    }

    /// Whether the cluster can get over the loss of this node's disk, and nobody is about to leave.
    pub fn can_spare(&self, node: u32) -> bool {
        locked(&self.roster).can_spare(node) && !self.leaving()
    }

    /// Whether a server may be ordered out now: if so, it is as good as done. Its Raft id.
    pub fn order_out(&self, node: u32) -> Option<u64> {
        let servers = self.nodes().into_iter().filter(|node| *node < agents::FIRST);
        let raft_id = locked(&self.roster).order_out(node, servers, !self.leaving())?;
        self.tell(node, What::Leaves);
        Some(raft_id)
    }

    /// An order was refused.
    pub fn refused(&self, raft_id: u64) {
        locked(&self.roster).refused(raft_id);
    }

    /// An operator who asks this node.
    pub fn orderer(&self, asked: u32) -> Orderer<'_> {
        Orderer { clients: &self.clients, env: &self.own, asked }
    }

    /// The first node after this one that runs.
    pub fn up_after(&self, node: u32) -> Option<u32> {
        let up: BTreeSet<u32> = self.nodes().into_iter().filter(|node| self.is_up(*node)).collect();
        up.range(node + 1..).next().or(up.iter().find(|other| **other != node)).copied()
    }

    /// Whether a node holds another for failed.
    pub fn holds_for_failed(&self, node: u32, other: u32) -> bool {
        locked(&self.standing).holds_for_failed(node, other)
    }

    /// Whether every server votes.
    pub fn all_vote(&self) -> bool {
        locked(&self.roster).all_vote(self.nodes().into_iter().filter(|node| *node < agents::FIRST))
    }

    /// How far the furthest has applied the log.
    pub fn furthest(&self) -> u64 {
        locked(&self.standing).furthest()
    }

    /// A node's disk is replaced by an empty one. It must not be running.
    ///
    /// # Errors
    /// The system's.
    pub fn replace_disk(&self, node: u32) -> io::Result<()> {
        locked(&self.roster).lost(node);
        locked(&self.state).lost.insert(node);
        match std::fs::remove_dir_all(self.data_dir(node)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a node still has the disk that it began with.
    pub fn has_its_disk(&self, node: u32) -> bool {
        !locked(&self.state).lost.contains(&node)
    }

    fn data_dir(&self, node: u32) -> PathBuf {
        self.folder.join(node_name(node))
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
        self.configure(node)?;
        self.clients.moved(node, self.ground.known(node));
        host.life += 1;
        let life = host.life;
        locked(&self.standing).started(node);
        self.tell(node, What::Started);
        let text = |path: PathBuf| path.display().to_string();
        let args = [
            "agent".to_owned(),
            "--puppet".to_owned(),
            "--config".to_owned(),
            text(self.config_file(node)),
            "--data-dir".to_owned(),
            text(self.data_dir(node)),
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
        for place in self.places() {
            let _ = process.tell(&serde_json::to_string(&place)?);
        }
        host.process = Some(Arc::new(process));
        Ok(())
    }

    fn hear(self: &Arc<Cluster>, node: u32, life: u64, said: Said) {
        let Told { at_ns, what } = match said {
            Said::Told(told) => told,
            Said::Up(_) => {
                let cluster = self.clone();
                self.runtime.spawn(async move { glance(&cluster.clients, &cluster.own, node).await });
                return;
            }
            Said::Over => {
                // The receiver lives as long as the cluster.
                let _ = self.exits.send((node, life));
                return;
            }
        };
        let begun_ns = u64::try_from(self.begun_wall.as_nanos()).unwrap_or(u64::MAX);
        let at_ns = at_ns.saturating_sub(begun_ns);
        let what = match what {
            Word::Observed(event) => {
                self.observed(node, &event);
                What::Observed(event)
            }
            Word::Claimed(claim, holds) => {
                // Of this very source, so the table has it.
                let Some(point) = table::TABLE.iter().find(|point| point.claim == claim) else { return };
                What::Claimed(Assertion { kind: point.kind, claim: point.claim, holds })
            }
        };
        locked(&self.heard).push(Heard { at_ns, node, what });
    }

    fn observed(&self, node: u32, event: &Observed) {
        locked(&self.roster).observed(node, event);
        locked(&self.standing).observed(node, event);
    }

    /// From now on this happens at a place of every node's code; the number ends it.
    pub fn arm(&self, place: &str, happens: Happens) -> u64 {
        let number = {
            let mut state = locked(&self.state);
            state.next_place += 1;
            let number = state.next_place;
            state.places.insert(number, (place.to_owned(), happens));
            number
        };
        self.tell_places();
        number
    }

    /// Ends what happens at a place.
    pub fn disarm(&self, number: u64) {
        let Some((place, _)) = locked(&self.state).places.remove(&number) else { return };
        self.pull_all(&Pull::Place(place, Happens::Nothing));
        self.tell_places();
    }

    /// Tells of each node that ends at a place because it was told to.
    pub fn on_strike(&self, place: &'static str) -> mpsc::UnboundedReceiver<u32> {
        let (told, heard) = mpsc::unbounded_channel();
        locked(&self.state).struck.insert(place, told);
        heard
    }

    /// What happens at places now. Who ends there does not pause first.
    fn places(&self) -> Vec<Pull> {
        let state = locked(&self.state);
        let mut places: BTreeMap<&str, Happens> = BTreeMap::new();
        for (place, happens) in state.places.values() {
            let at = places.entry(place).or_insert(*happens);
            if *happens == Happens::Ends {
                *at = *happens;
            }
        }
        places.into_iter().map(|(place, happens)| Pull::Place(place.to_owned(), happens)).collect()
    }

    fn tell_places(&self) {
        for place in self.places() {
            self.pull_all(&place);
        }
    }

    fn pull_all(&self, pull: &Pull) {
        let Ok(line) = serde_json::to_string(pull) else { return };
        for host in locked(&self.hosts).values() {
            // One that is gone is told when it comes back.
            host.process.iter().for_each(|process| drop(process.tell(&line)));
        }
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
        let struck = status.and_then(|status| puppet::struck_at(status.code()?));
        process.kill();
        let why = match status {
            _ if graceful => "it left".to_owned(),
            _ if struck.is_some() => "it was to end there".to_owned(),
            Some(status) => format!("{status}: {}", last_line(&process.log_tail())),
            None => "it closed its output and went on".to_owned(),
        };
        self.tell(node, What::Stopped(if graceful { Stop::Graceful } else { Stop::Kill }));
        let mut state = locked(&self.state);
        if let Some(place) = struck {
            // Whoever asked for it may be gone with the storm.
            if let Some(told) = state.struck.get(place) {
                let _ = told.send(node);
            }
        } else if !graceful {
            // One that is started again and again says the same again and again.
            if state.crashes.len() < CRASHES_TOLD {
                let detail = format!("the node stopped although nothing happened to it: {why}");
                let (check, at_ns) = ("CRASH".to_owned(), self.now_ns());
                state.crashes.push(Violation { check, detail, at_ns, node: Some(node) });
            }
        }
        drop(state);
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
        locked(&self.standing).stopped(node);
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
        if due {
            let booted = self.boot(node);
            self.note_error(node, "the process cannot be started", booted);
        }
    }

    /// Something that the replay itself could not do to a node.
    pub fn note_error(&self, node: u32, what: &str, result: io::Result<()>) {
        if let Err(error) = result {
            let detail = format!("{what}: {error}");
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
        let now_ns = self.now_ns();
        locked(&self.state).left_ns.push((node, now_ns));
        if let Some(host) = locked(&self.hosts).get_mut(&node) {
            host.leaving = true;
        }
    }

    /// The node is declared to have left, which may be acted on for so long.
    pub fn declared_left(&self, node: u32, for_ns: u64) {
        let now_ns = self.now_ns();
        locked(&self.state).left_ns.extend([(node, now_ns), (node, now_ns.saturating_add(for_ns))]);
    }

    /// When nodes were told to leave.
    pub fn left_ns(&self) -> Vec<(u32, u64)> {
        locked(&self.state).left_ns.clone()
    }

    /// Whether a node that was asked to leave still runs.
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
        let armed: Vec<u64> = {
            let mut state = locked(&self.state);
            state.healed = true;
            state.places.keys().copied().collect()
        };
        armed.into_iter().for_each(|number| self.disarm(number));
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
        let standing = locked(&self.standing).clone();
        standing.leader(|node| self.is_up(node))
    }

    /// What a fault of the network finds now.
    pub fn scene(&self) -> Scene {
        Scene {
            nodes: self.nodes(),
            clients: self.clients_hosts.clone(),
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
        locked(&self.standing).disagreement(&nodes, |node| self.scenario.is_agent(node))
    }

    /// What each node has applied, and to what effect.
    pub fn applied(&self) -> Vec<(u32, Option<(u64, u64)>)> {
        locked(&self.standing).applied()
    }

    /// The number of the next server to join.
    pub fn next_server(&self) -> u32 {
        self.nodes().range(..agents::FIRST).next_back().map_or(0, |last| last + 1)
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

impl Site for Cluster {
    fn nodes(&self) -> Vec<(u32, bool)> {
        locked(&self.hosts).iter().map(|(node, host)| (*node, host.process.is_some())).collect()
    }

    fn step(&self) -> Step {
        locked(&self.state).keys
    }

    fn begin(&self, step: Step) {
        locked(&self.state).keys = step;
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
