//! What a whole cluster is asked, before the storm and after the heal: whether every node serves, what the keys hold, and
//! whether all that is to follow from it has followed. The same questions to a simulated cluster and to a real one.
//!
//! | module | what must follow | judged by |
//! |---|---|---|
//! | [`census`] | the catalog follows gossip | CAT |
//! | [`health`] | autopilot says that all servers are well | LIVE |
//! | [`locks`] | a lock that nobody holds on to can be had | LOCK |
//! | [`services`] | the catalog follows the agents | AE |
//! | [`news`] | an event comes to every node | NEWS |
//! | [`waiters`] | a change of the catalog wakes whoever waits for it | BLOCK |

pub mod census;
pub mod health;
pub mod locks;
pub mod news;
pub mod services;
pub mod waiters;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use driftline::env::Env;
use futures_util::future::BoxFuture;

use crate::check::End;
use crate::check::looks::LookKind;
use crate::history::{Action, Outcome, Response};
use crate::scenario::{PairDeed, PlannedAction, Scenario, ServiceDeed};
use crate::workload::Clients;

/// Makes the host of a node vanish without a goodbye, and completes when it is back.
pub type Vanish<'a> = dyn Fn(u32) -> BoxFuture<'a, ()> + 'a;

/// The number of the client that these questions are asked by, on a host that no fault is meant for.
pub const CLIENT: u32 = 999;

/// How often it looks whether what it waits for has come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often the stores are read at the end until nothing was applied while they were.
const STILL_TRIES: usize = 20;

/// How often a key is asked for at the end until it is read.
const READ_TRIES: usize = 3;

/// How often, and how soon one after the other, a node that has just started again is asked what it has.
const GLANCES: usize = 8;
const GLANCE_EVERY: Duration = Duration::from_millis(40);

/// A key, its value and modify index: what a node's store holds.
pub type Store = BTreeMap<String, (String, u64)>;

/// Whoever asks.
#[derive(Clone)]
pub struct Inquirer<'a> {
    /// All clients.
    pub clients: &'a Clients,
    /// The world of its host.
    pub env: &'a Env,
    /// The plan.
    pub scenario: &'a Scenario,
    /// The nodes that there are.
    pub nodes: BTreeSet<u32>,
    /// How long whatever is to happen may take.
    pub within: Duration,
}

impl Inquirer<'_> {
    /// Writes through every node until each has served one. Whether all did in time.
    pub async fn writes_everywhere(&self, round: &str) -> bool {
        let deadline = self.clients.now() + self.within.as_nanos() as u64;
        let mut served = BTreeSet::new();
        let mut attempt = 0;
        loop {
            for node in &self.nodes {
                if served.contains(node) {
                    continue;
                }
                attempt += 1;
                let value = format!("{round} {node} {attempt}");
                let key = format!("world-{node}");
                let action = Action::Put { value };
                let outcome = self.clients.ask(self.env, CLIENT, *node, &key, action, 0).await;
                if outcome == Outcome::Ok(Response::Done(true)) {
                    served.insert(*node);
                }
            }
            if self.nodes.is_subset(&served) {
                return true;
            }
            if self.clients.now() > deadline {
                return false;
            }
            self.clients.sleep(LOOK_EVERY).await;
        }
    }

    /// Reads through every node what was written through it. Whether each served one in time.
    pub async fn reads_everywhere(&self) -> bool {
        let deadline = self.clients.now() + self.within.as_nanos() as u64;
        for node in &self.nodes {
            let key = format!("world-{node}");
            while !matches!(
                self.clients.ask(self.env, CLIENT, *node, &key, Action::Get, 0).await,
                Outcome::Ok(Response::Value(Some(_)))
            ) {
                if self.clients.now() > deadline {
                    return false;
                }
                self.clients.sleep(LOOK_EVERY).await;
            }
        }
        true
    }

    /// Makes the users who have rights, before anything breaks. Whether all were made in time.
    pub async fn users_are_known(&self, users: &BTreeSet<String>) -> bool {
        let deadline = self.clients.now() + self.within.as_nanos() as u64;
        for user in users {
            while !self.clients.found_user(self.env, 0, user).await {
                if self.clients.now() > deadline {
                    return false;
                }
                self.clients.sleep(LOOK_EVERY).await;
            }
        }
        true
    }

    /// What in a cluster that works does not follow in time: the first that does not, by the check that says so.
    /// `vanish` makes a host vanish and come back, where that can be done.
    pub async fn lags(
        &self,
        planned: &Planned,
        vanish: Option<&Vanish<'_>>,
    ) -> Option<(&'static str, String)> {
        let began = self.clients.now();
        if let Some(detail) = self.locks_lag(&planned.locks).await {
            return Some(("LOCK", detail));
        }
        if let Some(detail) = self.catalog_lags().await {
            return Some(("CAT", detail));
        }
        if let Some(detail) = self.health_lags().await {
            return Some(("LIVE", detail));
        }
        if !planned.services.is_empty()
            && let Some(detail) = self.services_lag().await
        {
            return Some(("AE", detail));
        }
        if let Some(detail) = self.news_lag().await {
            return Some(("NEWS", detail));
        }
        if let Some(detail) = self.outlived(&planned.services, began).await {
            return Some(("AE", detail));
        }
        if let Some(detail) = self.waiters_sleep().await {
            return Some(("BLOCK", detail));
        }
        let vanishes = vanish.and_then(|vanish| Some((vanish, self.dispensable()?)));
        let (vanish, node) = vanishes?;
        self.waiters_are_left_alone(node, vanish(node)).await.map(|detail| ("BLOCK", detail))
    }

    /// A server without which the cluster works, if there are client agents that could have asked it.
    fn dispensable(&self) -> Option<u32> {
        let servers: Vec<u32> =
            self.nodes.iter().copied().filter(|node| !self.scenario.is_agent(*node)).collect();
        let has_agents = servers.len() < self.nodes.len();
        if !has_agents || servers.len() < 3 || self.scenario.beyond {
            return None;
        }
        // Not the first: it is asked to make the change.
        let chosen = 1 + self.scenario.seed % (servers.len() as u64 - 1);
        usize::try_from(chosen).ok().and_then(|chosen| servers.get(chosen)).copied()
    }

    /// Reads once more, through one node, whatever was asked for, so that the history ends with what is there.
    pub async fn read_all(&self, node: u32, pairs: &BTreeSet<String>) {
        for key in &self.clients.asked_for() {
            for _ in 0..READ_TRIES {
                let outcome = self.clients.ask(self.env, CLIENT, node, key, Action::Get, 0).await;
                if matches!(outcome, Outcome::Ok(_)) {
                    break;
                }
            }
        }
        for pair in pairs {
            self.clients.pair(self.env, (CLIENT, node), pair, PairDeed::Read).await;
        }
    }

    /// What these nodes' stores hold, of one moment if there is one: `applied` tells what the nodes have applied, and sessions
    /// expire even now. A store that cannot be read is left out.
    pub async fn stores<T: PartialEq>(
        &self,
        nodes: &BTreeSet<u32>,
        applied: impl Fn() -> T,
    ) -> BTreeMap<u32, Store> {
        let mut stores = BTreeMap::new();
        for _ in 0..STILL_TRIES {
            let before = applied();
            stores.clear();
            for node in nodes.iter().filter(|node| !self.scenario.is_agent(**node)) {
                if let Ok(store) = self.clients.store(self.env, *node).await {
                    stores.insert(*node, store);
                }
            }
            if applied() == before {
                break;
            }
        }
        stores
    }
}

/// Looks what a node shows that has just started again: a moment that the clients seldom meet.
pub async fn glance(clients: &Clients, env: &Env, node: u32) {
    for key in clients.keys_under("").into_iter().cycle().take(GLANCES) {
        clients.sleep(GLANCE_EVERY).await;
        clients.look(env, (CLIENT, node), &key, LookKind::Stale).await;
    }
}

/// What of a plan's operations must be known when the clients have taken them over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// The keys of single entries.
    pub keys: BTreeSet<String>,
    /// The pairs of keys that are changed together.
    pub pairs: BTreeSet<String>,
    /// Who has rights.
    pub users: BTreeSet<String>,
    /// The services that clients register, each with the longest time to live that its check is given.
    pub services: BTreeMap<String, u64>,
    /// The locks, each with how long it may be until somebody else can have it.
    pub locks: BTreeMap<String, u64>,
}

impl Planned {
    /// What is to be known of this plan.
    pub fn of(scenario: &Scenario) -> Planned {
        let longest = |all: &mut BTreeMap<String, u64>, key: &str, ms: u64| {
            let known = all.entry(key.to_owned()).or_default();
            *known = ms.max(*known);
        };
        let mut planned = Planned::default();
        for op in &scenario.operations {
            planned.keys.extend(op.single_key());
            match op.action {
                PlannedAction::Service(ServiceDeed::Register { ttl_ms, .. }) => {
                    longest(&mut planned.services, &op.key, ttl_ms);
                }
                PlannedAction::Service(_) => longest(&mut planned.services, &op.key, 0),
                PlannedAction::Lock(plan) => {
                    longest(&mut planned.locks, &op.key, 2 * plan.ttl_ms + plan.delay_ms);
                }
                PlannedAction::Pair(_) => drop(planned.pairs.insert(op.key.clone())),
                PlannedAction::Right(_) => drop(planned.users.insert(op.key.clone())),
                _ => {}
            }
        }
        planned
    }
}

impl Clients {
    /// Gives up all that clients have to tell of a run. It is the largest thing that a run holds, so nobody copies it.
    pub fn account(&self) -> End {
        End {
            history: self.take_history(),
            looks: self.take_looks(),
            locks: self.take_locks(),
            deeds: self.take_deeds(),
            fired: self.take_fired(),
            seen: self.take_seen(),
            attempts: self.take_attempts(),
            pairs: self.take_pairs(),
            ..End::default()
        }
    }
}
