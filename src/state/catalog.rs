//! Which nodes there are, which services they run, and how both fare.
//!
//! Three tables: nodes by name, services by node and service id, checks by node and check id. A check
//! belongs to a service of its node, or to the node itself. Removing a node removes its services and checks;
//! removing a service removes its checks.
//!
//! Readers block on views that cut across the tables (all instances of a service, all checks in a state),
//! so [`Marks`] keep for each name of a view when it last changed. Registering what is already there
//! changes nothing and wakes nobody: agents repeat themselves.
//!
//! What a change means for others, sessions for example, is told as [`Loss`]es; this module does not know
//! them. Nor does it know who is right about a node: agents and the leader register what they see, and
//! the last one wins.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::mutant;

use super::query::{Asked, Indexed};
use super::tables::{Marks, Sorted, Table, part};
use super::{Outcome, Refusal, State};

/// The check that stands for a node's life: gossip's verdict, written by the leader.
pub const SERF_HEALTH: &str = "serfHealth";

/// How something fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// As it should.
    Passing,
    /// Not as it should, but it serves.
    Warning,
    /// It does not serve.
    Critical,
}

impl Status {
    /// The word for it, which is also how clients name it.
    pub fn word(self) -> &'static str {
        match self {
            Status::Passing => "passing",
            Status::Warning => "warning",
            Status::Critical => "critical",
        }
    }

    /// The status that a word means.
    pub fn of_word(word: &str) -> Option<Status> {
        [Status::Passing, Status::Warning, Status::Critical].into_iter().find(|status| status.word() == word)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name, by which it is known here.
    pub name: String,
    /// Its id, a UUID; empty if whoever registered it gave none.
    pub id: String,
    /// Where it is.
    pub address: String,
    /// Other addresses, by the network they are for.
    pub tagged_addresses: BTreeMap<String, String>,
    /// Its labels.
    pub meta: BTreeMap<String, String>,
}

/// An instance of a service on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// Its id, unique on its node.
    pub id: String,
    /// The service that it is an instance of.
    pub name: String,
    /// What clients filter by.
    pub tags: Vec<String>,
    /// Where it is, if not at its node's address.
    pub address: String,
    /// Its port; 0 if it has none.
    pub port: u16,
    /// Its labels.
    pub meta: BTreeMap<String, String>,
    /// Other addresses and ports, by the network they are for.
    pub tagged_addresses: BTreeMap<String, (String, u16)>,
    /// Its share of the traffic while passing, and while warning.
    pub weights: (u32, u32),
    /// Whether tags that others write into the catalog stay, instead of being put right by the agent.
    pub enable_tag_override: bool,
    /// What kind of proxy it is; empty for an ordinary service.
    pub kind: String,
}

/// A check of a node or of one of its services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckInfo {
    /// Its id, unique on its node.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// What it found.
    pub status: Status,
    /// What it is about, for people.
    pub notes: String,
    /// What it said last.
    pub output: String,
    /// The service it is about; empty: the node.
    pub service_id: String,
    /// How it looks: `ttl`, `http`, …
    pub kind: String,
    /// How often it looks, as a text; empty if it does not look by itself.
    pub interval: String,
    /// How long it waits, as a text.
    pub timeout: String,
}

/// Something that is in the catalog, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row<T> {
    /// What.
    pub info: T,
    /// Log index at which it came.
    pub create_index: u64,
    /// Log index at which it last changed.
    pub modify_index: u64,
}

/// A check with what it inherits from its service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRow {
    /// Its node.
    pub node: String,
    /// The check.
    pub check: Row<CheckInfo>,
    /// The name of its service; empty for a check of the node.
    pub service_name: String,
    /// The tags of its service.
    pub service_tags: Vec<String>,
}

/// An instance with its node and the checks that say whether it serves: its own and its node's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its node.
    pub node: Row<NodeInfo>,
    /// The instance.
    pub service: Row<ServiceInfo>,
    /// Its node's checks, then its own.
    pub checks: Vec<CheckRow>,
}

/// A node with all that is on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeNode {
    /// The node.
    pub node: Row<NodeInfo>,
    /// Its services, by id.
    pub services: Vec<Row<ServiceInfo>>,
    /// Its checks, by id.
    pub checks: Vec<CheckRow>,
}

/// A node, and what is on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The node.
    pub node: NodeInfo,
    /// Leave a node that is known as it is.
    pub skip_node_update: bool,
    /// A service on it.
    pub service: Option<ServiceInfo>,
    /// Checks on it.
    pub checks: Vec<CheckInfo>,
}

impl From<Registration> for CatalogCommand {
    fn from(registration: Registration) -> CatalogCommand {
        CatalogCommand::Register(Box::new(registration))
    }
}

/// A change to the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogCommand {
    /// Registers a node, and with it a service and checks if there are any.
    Register(Box<Registration>),
    /// Removes a node and everything on it.
    DeregisterNode {
        /// Its name.
        node: String,
    },
    /// Removes a service and its checks.
    DeregisterService {
        /// Its node.
        node: String,
        /// Its id.
        id: String,
    },
    /// Removes a check.
    DeregisterCheck {
        /// Its node.
        node: String,
        /// Its id.
        id: String,
    },
}

impl CatalogCommand {
    /// A rough size in memory, in bytes.
    pub fn weight(&self) -> usize {
        let labels = |labels: &BTreeMap<String, String>| {
            labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
        };
        match self {
            CatalogCommand::Register(registration) => {
                let Registration { node, service, checks, .. } = &**registration;
                let service = service.as_ref().map_or(0, |service| {
                    service.tags.iter().map(String::len).sum::<usize>() + labels(&service.meta) + 256
                });
                let checks = checks.iter().map(|check| check.output.len() + check.notes.len() + 256);
                labels(&node.meta) + labels(&node.tagged_addresses) + service + checks.sum::<usize>() + 256
            }
            CatalogCommand::DeregisterNode { .. }
            | CatalogCommand::DeregisterService { .. }
            | CatalogCommand::DeregisterCheck { .. } => 64,
        }
    }
}

/// What others may have relied on and is no longer so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A node is gone.
    Node(String),
    /// A check is critical or gone.
    Check {
        /// Its node.
        node: String,
        /// Its id.
        id: String,
    },
}

type OnNode = (String, String);

/// The catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    nodes: Table<String, Row<NodeInfo>>,
    services: Table<OnNode, Row<ServiceInfo>>,
    checks: Table<OnNode, Row<CheckInfo>>,
    /// By node: the node and its services.
    nodes_changed: Marks<String>,
    /// By service name: its instances and their nodes.
    services_changed: Marks<String>,
    /// By service name: its instances, their nodes, and the checks of both.
    health_changed: Marks<String>,
    /// By node: its checks.
    node_checks_changed: Marks<String>,
    /// By service name: its own checks.
    service_checks_changed: Marks<String>,
    /// By status: the checks in it.
    states_changed: Marks<Status>,
    #[serde(skip)]
    places: Places,
}

/// Where what is looked for is, other than by its key: derived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Places {
    /// Nodes by their names in small letters.
    nodes_named: Sorted<String, String>,
    /// Nodes by their ids in small letters, if they have one.
    nodes_of_id: Sorted<String, String>,
    /// Nodes by their addresses, if those are numbers.
    nodes_at: Sorted<IpAddr, String>,
    /// Instances by the names of their services in small letters.
    services_named: Sorted<String, OnNode>,
    /// Instances by addresses of their own.
    services_at: Sorted<IpAddr, OnNode>,
}

impl Places {
    /// A node is there, or is no more.
    fn node(&mut self, node: &NodeInfo, there: bool) {
        self.nodes_named.set(node.name.to_ascii_lowercase(), &node.name, there);
        if !node.id.is_empty() {
            self.nodes_of_id.set(node.id.to_ascii_lowercase(), &node.name, there);
        }
        if let Ok(address) = node.address.parse() {
            self.nodes_at.set(address, &node.name, there);
        }
    }

    /// An instance on this node is there, or is no more.
    fn service(&mut self, node: &str, service: &ServiceInfo, there: bool) {
        let key = (node.to_owned(), service.id.clone());
        self.services_named.set(service.name.to_ascii_lowercase(), &key, there);
        if let Ok(address) = service.address.parse() {
            self.services_at.set(address, &key, there);
        }
    }
}

impl fmt::Display for CatalogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CatalogCommand::Register(registration) => {
                let Registration { node, service, checks, .. } = &**registration;
                write!(f, "register node {:?}", node.name)?;
                if let Some(service) = service {
                    write!(f, " with service {:?}", service.id)?;
                }
                checks.iter().try_for_each(|check| write!(f, " with check {:?} {}", check.id, check.status))
            }
            CatalogCommand::DeregisterNode { node } => write!(f, "deregister node {node:?}"),
            CatalogCommand::DeregisterService { node, id } => {
                write!(f, "deregister service {id:?} of node {node:?}")
            }
            CatalogCommand::DeregisterCheck { node, id } => {
                write!(f, "deregister check {id:?} of node {node:?}")
            }
        }
    }
}

/// All keys of one node. Ids are not empty, so none sorts before the empty one.
fn on_node(node: &str) -> impl std::ops::RangeBounds<OnNode> + use<> {
    // The least string that is greater than the name.
    (node.to_owned(), String::new())..(format!("{node}\0"), String::new())
}

impl Catalog {
    /// Applies a command at log index `index`; tells what was lost by it.
    pub(super) fn apply(&mut self, index: u64, command: &CatalogCommand) -> (Outcome, Vec<Loss>) {
        let mut losses = Vec::new();
        match command {
            CatalogCommand::Register(registration) => {
                let Registration { node, skip_node_update, service, checks } = &**registration;
                if let Err(refusal) = self.acceptable(node, *skip_node_update, service.as_ref(), checks) {
                    return (Outcome::Refused { index, refusal }, losses);
                }
                self.set_node(index, node, *skip_node_update, &mut losses);
                if let Some(service) = service {
                    self.set_service(index, &node.name, service);
                }
                for check in checks {
                    self.set_check(index, &node.name, check, &mut losses);
                }
            }
            CatalogCommand::DeregisterNode { node } => self.remove_node(index, node, &mut losses),
            CatalogCommand::DeregisterService { node, id } => {
                self.remove_service(index, node, id, &mut losses);
            }
            CatalogCommand::DeregisterCheck { node, id } => self.remove_check(index, node, id, &mut losses),
        }
        (Outcome::Done { index }, losses)
    }

    /// Judges the whole registration before anything of it is done.
    fn acceptable(
        &self,
        node: &NodeInfo,
        skip_node_update: bool,
        service: Option<&ServiceInfo>,
        checks: &[CheckInfo],
    ) -> Result<(), Refusal> {
        if node.name.is_empty() || node.address.is_empty() {
            return Err(Refusal::Invalid("Must provide node and address".to_owned()));
        }
        // The name of a node that lives is its own. Only the leader, who sees the members, knows that it is another's now.
        let by_leader = checks.iter().any(|check| check.id == SERF_HEALTH);
        let lives = self.check(&node.name, SERF_HEALTH).is_some_and(|check| check.status != Status::Critical);
        if !skip_node_update
            && !by_leader
            && lives
            && let Some(Row { info: known, .. }) = self.nodes.get(&node.name)
            && ![&known.id, &node.id].iter().any(|id| id.is_empty())
            && !known.id.eq_ignore_ascii_case(&node.id)
        {
            let NodeInfo { name, id, address, .. } = known;
            return Err(Refusal::Invalid(format!(
                "failed inserting node: Error while renaming Node ID: {:?}: Node name {name} is reserved by node {id} with name \
                 {name} ({address})",
                node.id
            )));
        }
        // Whoever looks a node up may say its name or its id.
        if !by_leader
            && self.nodes.get(&node.name).is_none()
            && let Some(other) = self.node_by_id(&node.name)
        {
            let text = format!("Node name {:?} is the ID of node {:?}", node.name, other.info.name);
            return Err(Refusal::Invalid(text));
        }
        if service.is_some_and(|service| service.id.is_empty() || service.name.is_empty()) {
            return Err(Refusal::Invalid("Must provide service name with ID".to_owned()));
        }
        for check in checks {
            if check.id.is_empty() {
                return Err(Refusal::Invalid("Must provide check ID or name".to_owned()));
            }
            let own = service.is_some_and(|service| service.id == check.service_id);
            let known = self.services.get(&(node.name.clone(), check.service_id.clone())).is_some();
            if !(check.service_id.is_empty() || own || known) {
                return Err(Refusal::NotFound(format!(
                    "Missing service registration: node {:?} has no service {:?}",
                    node.name, check.service_id
                )));
            }
        }
        Ok(())
    }

    fn set_node(&mut self, index: u64, node: &NodeInfo, skip: bool, losses: &mut Vec<Loss>) {
        let known = self.nodes.get(&node.name);
        if known.is_some_and(|known| skip || known.info == *node) {
            return;
        }
        let former = self.node_by_id(&node.id).cloned();
        let create_index = former.as_ref().or(known).map_or(index, |row| row.create_index);
        // An id means one node: under a new name, it is the old one no more.
        if let Some(former) = former.filter(|former| former.info.name != node.name) {
            self.remove_node(index, &former.info.name, losses);
        }
        if let Some(known) = self.nodes.get(&node.name) {
            self.places.node(&known.info, false);
        }
        self.places.node(node, true);
        let row = Row { info: node.clone(), create_index, modify_index: index };
        self.nodes.set(index, node.name.clone(), row);
        self.nodes_changed.touch(index, &node.name, true);
        for name in self.services_of(&node.name) {
            self.services_changed.touch(index, &name, true);
            self.health_changed.touch(index, &name, true);
        }
    }

    fn set_service(&mut self, index: u64, node: &str, service: &ServiceInfo) {
        let key = (node.to_owned(), service.id.clone());
        let known = self.services.get(&key);
        if known.is_some_and(|known| known.info == *service) {
            return;
        }
        let create_index = known.map_or(index, |known| known.create_index);
        let former = known.map(|known| known.info.name.clone()).filter(|former| *former != service.name);
        if let Some(known) = known {
            self.places.service(node, &known.info, false);
        }
        self.places.service(node, service, true);
        let row = Row { info: service.clone(), create_index, modify_index: index };
        self.services.set(index, key, row);
        self.nodes_changed.touch(index, &node.to_owned(), true);
        for name in former.into_iter().chain([service.name.clone()]) {
            self.touch_service(index, &name);
            // Its checks show its name and tags.
            let own = self.checks_on(node).any(|(_, check)| check.info.service_id == service.id);
            if own {
                self.touch_checks(index, node, &name);
            }
        }
    }

    fn set_check(&mut self, index: u64, node: &str, check: &CheckInfo, losses: &mut Vec<Loss>) {
        let key = (node.to_owned(), check.id.clone());
        let known = self.checks.get(&key);
        if known.is_some_and(|known| known.info == *check) {
            return;
        }
        let create_index = known.map_or(index, |known| known.create_index);
        let before = known.map(|known| known.info.clone());
        let row = Row { info: check.clone(), create_index, modify_index: index };
        self.checks.set(index, key, row);
        if check.status == Status::Critical {
            losses.push(Loss::Check { node: node.to_owned(), id: check.id.clone() });
        }
        self.check_changed(index, node, before.iter().chain([check]));
    }

    fn remove_node(&mut self, index: u64, node: &str, losses: &mut Vec<Loss>) {
        let services: Vec<String> =
            self.services.range(on_node(node)).map(|((_, id), _)| id.clone()).collect();
        for id in services {
            self.remove_service(index, node, &id, losses);
        }
        let checks: Vec<String> = self.checks_on(node).map(|(id, _)| id.clone()).collect();
        for id in checks {
            self.remove_check(index, node, &id, losses);
        }
        if let Some(row) = self.nodes.remove(index, &node.to_owned()) {
            self.places.node(&row.info, false);
            self.nodes_changed.touch(index, &node.to_owned(), false);
            losses.push(Loss::Node(node.to_owned()));
        }
    }

    fn remove_service(&mut self, index: u64, node: &str, id: &str, losses: &mut Vec<Loss>) {
        let own = self.checks_on(node).filter(|(_, check)| check.info.service_id == id);
        let own: Vec<String> = own.map(|(id, _)| id.clone()).collect();
        for check in own {
            self.remove_check(index, node, &check, losses);
        }
        if let Some(row) = self.services.remove(index, &(node.to_owned(), id.to_owned())) {
            self.places.service(node, &row.info, false);
            self.nodes_changed.touch(index, &node.to_owned(), true);
            self.touch_service(index, &row.info.name);
        }
    }

    fn remove_check(&mut self, index: u64, node: &str, id: &str, losses: &mut Vec<Loss>) {
        if let Some(row) = self.checks.remove(index, &(node.to_owned(), id.to_owned())) {
            losses.push(Loss::Check { node: node.to_owned(), id: id.to_owned() });
            self.check_changed(index, node, [&row.info]);
        }
    }

    /// A check looked so before, or looks so now.
    fn check_changed<'a>(&mut self, index: u64, node: &str, looks: impl IntoIterator<Item = &'a CheckInfo>) {
        let on_node = self.checks_on(node).next().is_some();
        self.node_checks_changed.touch(index, &node.to_owned(), on_node);
        let mut services = BTreeSet::new();
        let mut states = BTreeSet::new();
        for check in looks {
            states.insert(check.status);
            if check.service_id.is_empty() {
                // A check of the node speaks for every service on it.
                services.extend(self.services_of(node));
            } else if let Some(name) = self.service_name(node, &check.service_id) {
                self.service_checks_changed.touch(index, &name, true);
                services.insert(name);
            }
        }
        // Mutant H15: that is no change of the service.
        for name in services.into_iter().filter(|_| !mutant::is("H15")) {
            self.health_changed.touch(index, &name, true);
        }
        for status in states {
            self.states_changed.touch(index, &status, true);
        }
    }

    /// The checks of a service show its new name or tags.
    fn touch_checks(&mut self, index: u64, node: &str, service: &str) {
        self.node_checks_changed.touch(index, &node.to_owned(), true);
        self.service_checks_changed.touch(index, &service.to_owned(), true);
        let states: BTreeSet<Status> = self.checks_on(node).map(|(_, check)| check.info.status).collect();
        for status in states {
            self.states_changed.touch(index, &status, true);
        }
    }

    fn touch_service(&mut self, index: u64, name: &str) {
        let in_use = self.instances_named(name).any(|(_, row)| row.info.name == name);
        for marks in [&mut self.services_changed, &mut self.health_changed] {
            // Mutant H14: a service that is gone has not changed.
            if in_use || !mutant::is("H14") {
                marks.touch(index, &name.to_owned(), in_use);
            }
        }
    }

    /// The instances of a service, whatever the case of its name, in the order of their keys.
    fn instances_named(&self, service: &str) -> impl Iterator<Item = (&OnNode, &Row<ServiceInfo>)> {
        self.instances_of(self.places.services_named.of(service.to_ascii_lowercase()))
    }

    /// The instances of these keys.
    fn instances_of<'a>(
        &'a self,
        keys: impl Iterator<Item = &'a OnNode>,
    ) -> impl Iterator<Item = (&'a OnNode, &'a Row<ServiceInfo>)> {
        keys.filter_map(|key| Some((key, self.services.get(key)?)))
    }

    /// An instance with its node, and with its checks if they are wanted.
    fn instance(
        &self,
        (node_name, id): &OnNode,
        service: &Row<ServiceInfo>,
        health: bool,
    ) -> Option<Instance> {
        let node = self.nodes.get(node_name)?.clone();
        let mut checks = Vec::new();
        for of_node in [true, false].into_iter().filter(|_| health) {
            let wanted = if of_node { "" } else { id.as_str() };
            let own = self.checks_on(node_name).filter(|(_, check)| check.info.service_id == wanted);
            checks.extend(own.map(|(_, check)| self.check_row(node_name, check)));
        }
        Some(Instance { node, service: service.clone(), checks })
    }

    fn checks_on(&self, node: &str) -> impl Iterator<Item = (&String, &Row<CheckInfo>)> {
        self.checks.range(on_node(node)).map(|((_, id), row)| (id, row))
    }

    /// The names of the services on a node.
    fn services_of(&self, node: &str) -> BTreeSet<String> {
        self.services.range(on_node(node)).map(|(_, row)| row.info.name.clone()).collect()
    }

    fn service_name(&self, node: &str, id: &str) -> Option<String> {
        self.services.get(&(node.to_owned(), id.to_owned())).map(|row| row.info.name.clone())
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Row<NodeInfo>> {
        self.nodes.get(&name.to_owned())
    }

    /// A node by its id.
    pub fn node_by_id(&self, id: &str) -> Option<&Row<NodeInfo>> {
        self.rows_of(self.places.nodes_of_id.of(id.to_ascii_lowercase())).next()
    }

    /// The nodes of these names.
    fn rows_of<'a>(
        &'a self,
        names: impl Iterator<Item = &'a String>,
    ) -> impl Iterator<Item = &'a Row<NodeInfo>> {
        names.filter_map(|name| self.nodes.get(name))
    }

    /// A service of a node.
    pub fn service(&self, node: &str, id: &str) -> Option<&ServiceInfo> {
        self.services.get(&(node.to_owned(), id.to_owned())).map(|row| &row.info)
    }

    /// A check of a node.
    pub fn check(&self, node: &str, id: &str) -> Option<&CheckInfo> {
        self.checks.get(&(node.to_owned(), id.to_owned())).map(|row| &row.info)
    }

    /// A service by its node and its id.
    pub(super) fn row_of_service(&self, node: &str, id: &str) -> Option<&Row<ServiceInfo>> {
        self.services.get(&(node.to_owned(), id.to_owned()))
    }

    /// A check by its node and its id.
    pub(super) fn row_of_check(&self, node: &str, id: &str) -> Option<CheckRow> {
        let row = self.checks.get(&(node.to_owned(), id.to_owned()))?;
        Some(self.check_row(node, row))
    }

    fn check_row(&self, node: &str, check: &Row<CheckInfo>) -> CheckRow {
        let service = self.services.get(&(node.to_owned(), check.info.service_id.clone()));
        CheckRow {
            node: node.to_owned(),
            check: check.clone(),
            service_name: service.map(|row| row.info.name.clone()).unwrap_or_default(),
            service_tags: service.map(|row| row.info.tags.clone()).unwrap_or_default(),
        }
    }

    /// How many nodes, services by name, and instances there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        let names: BTreeSet<&String> = self.services.iter().map(|(_, row)| &row.info.name).collect();
        (self.nodes.len(), names.len(), self.services.len())
    }

    /// The index of the newest change to anything in it, or to how anything in it looks.
    pub(super) fn newest(&self) -> u64 {
        let rows = self.nodes.newest().max(self.services.newest()).max(self.checks.newest());
        let marks = [
            self.nodes_changed.newest(),
            self.services_changed.newest(),
            self.health_changed.newest(),
            self.node_checks_changed.newest(),
            self.service_checks_changed.newest(),
            self.states_changed.newest(),
        ];
        marks.into_iter().fold(rows, u64::max)
    }

    /// A hash of the catalog.
    pub(super) fn digest(&self) -> u64 {
        let tables = [self.nodes.digest(), self.services.digest(), self.checks.digest()];
        let marks = [
            self.nodes_changed.digest(),
            self.services_changed.digest(),
            self.health_changed.digest(),
            self.node_checks_changed.digest(),
            self.service_checks_changed.digest(),
            self.states_changed.digest(),
        ];
        part(3, &(tables, marks))
    }

    /// The same rows as if written at log index `index`.
    pub(super) fn written_at(self, index: u64) -> Catalog {
        fn anew<K: Ord + Clone + Serialize, T: Clone + Serialize>(
            index: u64,
            table: Table<K, Row<T>>,
        ) -> Table<K, Row<T>> {
            let row = |row: Row<T>| Row { info: row.info, create_index: index, modify_index: index };
            Table::of_rows(index, table.into_rows().map(|(key, at)| (key, row(at))))
        }
        let mut catalog = Catalog {
            nodes: anew(index, self.nodes),
            services: anew(index, self.services),
            checks: anew(index, self.checks),
            nodes_changed: Marks::all_at(index),
            services_changed: Marks::all_at(index),
            health_changed: Marks::all_at(index),
            node_checks_changed: Marks::all_at(index),
            service_checks_changed: Marks::all_at(index),
            states_changed: Marks::all_at(index),
            places: Places::default(),
        };
        catalog.find_places();
        catalog
    }

    /// Computes anew what is derived, after loading.
    pub(super) fn rebuild(&mut self) {
        self.nodes.rebuild_digest();
        self.services.rebuild_digest();
        self.checks.rebuild_digest();
        for marks in [
            &mut self.nodes_changed,
            &mut self.services_changed,
            &mut self.health_changed,
            &mut self.node_checks_changed,
            &mut self.service_checks_changed,
        ] {
            marks.rebuild_digest();
        }
        self.states_changed.rebuild_digest();
        self.find_places();
    }

    fn find_places(&mut self) {
        self.places = Places::default();
        self.nodes.iter().for_each(|(_, row)| self.places.node(&row.info, true));
        self.services.iter().for_each(|((node, _), row)| self.places.service(node, &row.info, true));
    }
}

// ---- reads ----

/// All nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogNodes;

impl Asked for CatalogNodes {
    type Found = Vec<Row<NodeInfo>>;

    fn ask(&self, state: &State) -> Indexed<Self::Found> {
        let nodes = state.catalog().nodes.iter();
        Indexed { index: self.index(state), value: nodes.map(|(_, row)| row.clone()).collect() }
    }

    fn index(&self, state: &State) -> u64 {
        state.catalog().nodes.newest()
    }
}

/// The names of all services, with the tags that any instance has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogServices {
    /// Only instances on nodes with these labels.
    pub node_meta: BTreeMap<String, String>,
}

impl Asked for CatalogServices {
    type Found = BTreeMap<String, BTreeSet<String>>;

    fn ask(&self, state: &State) -> Indexed<Self::Found> {
        let catalog = state.catalog();
        let mut found: Self::Found = BTreeMap::new();
        let wanted = |node: &String| {
            let node = catalog.nodes.get(node);
            node.is_some_and(|node| has_meta(&node.info.meta, &self.node_meta))
        };
        for ((node, _), row) in catalog.services.iter() {
            if self.node_meta.is_empty() || wanted(node) {
                found.entry(row.info.name.clone()).or_default().extend(row.info.tags.iter().cloned());
            }
        }
        Indexed { index: self.index(state), value: found }
    }

    fn index(&self, state: &State) -> u64 {
        let catalog = state.catalog();
        let nodes = if self.node_meta.is_empty() { 0 } else { catalog.nodes.newest() };
        catalog.services.newest().max(nodes)
    }
}

/// The instances of all services, for whoever chooses among them by more than a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllInstances;

impl Asked for AllInstances {
    type Found = Vec<Instance>;

    fn ask(&self, state: &State) -> Indexed<Vec<Instance>> {
        let catalog = state.catalog();
        let all = catalog.services.iter();
        let instances = all.filter_map(|(key, service)| catalog.instance(key, service, false));
        Indexed { index: self.index(state), value: instances.collect() }
    }

    fn index(&self, state: &State) -> u64 {
        state.catalog().services.newest().max(state.catalog().nodes.newest())
    }
}

/// Whether labels include the wanted ones.
pub fn has_meta(meta: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| meta.get(key) == Some(value))
}

/// The instances of a service with their nodes; with `health`, with their checks too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInstances {
    /// The service's name.
    pub service: String,
    /// Whether checks are wanted, and their changes a reason to wake.
    pub health: bool,
}

impl Asked for ServiceInstances {
    type Found = Vec<Instance>;

    fn ask(&self, state: &State) -> Indexed<Vec<Instance>> {
        let catalog = state.catalog();
        let named = catalog.instances_named(&self.service);
        let named = named.filter(|(_, service)| service.info.name == self.service);
        let found = named.filter_map(|(key, service)| catalog.instance(key, service, self.health));
        Indexed { index: self.index(state), value: found.collect() }
    }

    fn index(&self, state: &State) -> u64 {
        let catalog = state.catalog();
        let marks = if self.health { &catalog.health_changed } else { &catalog.services_changed };
        let index = marks.index_of(&self.service);
        // Mutant H16: what is gone has no index.
        if mutant::is("H16") {
            let own = catalog.instances_named(&self.service);
            return own.map(|(_, service)| service.modify_index).max().unwrap_or(index);
        }
        index
    }
}

/// A node, by name or id, with its services and checks; without `checks`, their changes wake nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneNode {
    /// Its name or id.
    pub node: String,
    /// Whether checks are wanted.
    pub checks: bool,
}

impl Asked for OneNode {
    type Found = Option<WholeNode>;

    fn ask(&self, state: &State) -> Indexed<Option<WholeNode>> {
        let catalog = state.catalog();
        let node = self.row(catalog).cloned();
        let name = node.as_ref().map_or(&self.node, |node| &node.info.name).clone();
        let value = node.map(|node| WholeNode {
            services: catalog.services.range(on_node(&name)).map(|(_, row)| row.clone()).collect(),
            checks: catalog
                .checks_on(&name)
                .filter(|_| self.checks)
                .map(|(_, row)| catalog.check_row(&name, row))
                .collect(),
            node,
        });
        Indexed { index: self.index(state), value }
    }

    fn index(&self, state: &State) -> u64 {
        let catalog = state.catalog();
        let name = self.row(catalog).map_or(&self.node, |node| &node.info.name);
        let checks = if self.checks { catalog.node_checks_changed.index_of(name) } else { 0 };
        // Whose an id is changes with the nodes that there are, and there is no mark by ids.
        let nodes = if catalog.node(&self.node).is_some() { 0 } else { catalog.nodes.newest() };
        catalog.nodes_changed.index_of(name).max(checks).max(nodes)
    }
}

impl OneNode {
    fn row<'a>(&self, catalog: &'a Catalog) -> Option<&'a Row<NodeInfo>> {
        catalog.node(&self.node).or_else(|| catalog.node_by_id(&self.node))
    }
}

/// The nodes at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesAt {
    /// The address.
    pub address: IpAddr,
}

impl Asked for NodesAt {
    type Found = Vec<Row<NodeInfo>>;

    fn ask(&self, state: &State) -> Indexed<Self::Found> {
        let catalog = state.catalog();
        let found = catalog.rows_of(catalog.places.nodes_at.of(self.address));
        Indexed { index: catalog.nodes.newest(), value: found.cloned().collect() }
    }
}

/// The instances that have an address of their own, and it is this one, without their checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancesAt {
    /// The address.
    pub address: IpAddr,
}

impl Asked for InstancesAt {
    type Found = Vec<Instance>;

    fn ask(&self, state: &State) -> Indexed<Vec<Instance>> {
        let catalog = state.catalog();
        let at = catalog.instances_of(catalog.places.services_at.of(self.address));
        let found = at.filter_map(|(key, service)| catalog.instance(key, service, false));
        let index = catalog.services.newest().max(catalog.nodes.newest());
        Indexed { index, value: found.collect() }
    }
}

/// The nodes of a name, whatever its case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesLike {
    /// The name.
    pub name: String,
}

impl Asked for NodesLike {
    type Found = Vec<Row<NodeInfo>>;

    fn ask(&self, state: &State) -> Indexed<Self::Found> {
        let catalog = state.catalog();
        let found = catalog.rows_of(catalog.places.nodes_named.of(self.name.to_ascii_lowercase()));
        Indexed { index: catalog.nodes.newest(), value: found.cloned().collect() }
    }
}

/// The instances of the services of a name, whatever its case, with their checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancesLike {
    /// The service's name.
    pub service: String,
}

impl Asked for InstancesLike {
    type Found = Vec<Instance>;

    fn ask(&self, state: &State) -> Indexed<Vec<Instance>> {
        let catalog = state.catalog();
        let named = catalog.instances_named(&self.service);
        let found = named.filter_map(|(key, service)| catalog.instance(key, service, true)).collect();
        let tables = [catalog.nodes.newest(), catalog.services.newest(), catalog.checks.newest()];
        Indexed { index: tables.into_iter().fold(0, u64::max), value: found }
    }
}

/// Which checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChecksOf {
    /// All of a node, and of the services on it.
    Node(String),
    /// Those of a service's instances.
    Service(String),
    /// Those in a status.
    Status(Status),
    /// All.
    Any,
}

/// Checks, with the labels of their nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Which.
    pub of: ChecksOf,
    /// Only those on nodes with these labels.
    pub node_meta: BTreeMap<String, String>,
}

impl Asked for Checks {
    type Found = Vec<CheckRow>;

    fn ask(&self, state: &State) -> Indexed<Vec<CheckRow>> {
        let catalog = state.catalog();
        let of_service = |node: &String, check: &CheckInfo, name: &str| {
            let service = catalog.services.get(&(node.clone(), check.service_id.clone()));
            !check.service_id.is_empty() && service.is_some_and(|service| service.info.name == name)
        };
        let wanted = |node: &String, check: &CheckInfo| match &self.of {
            ChecksOf::Node(wanted) => node == wanted,
            ChecksOf::Service(name) => of_service(node, check, name),
            ChecksOf::Status(status) => check.status == *status,
            ChecksOf::Any => true,
        };
        let labelled = |node: &String| {
            let node = catalog.nodes.get(node);
            self.node_meta.is_empty() || node.is_some_and(|node| has_meta(&node.info.meta, &self.node_meta))
        };
        let rows = catalog.checks.iter().map(|((node, _), check)| (node, check));
        let chosen = rows.filter(|(node, check)| wanted(node, &check.info) && labelled(node));
        let value = chosen.map(|(node, check)| catalog.check_row(node, check)).collect();
        Indexed { index: self.index(state), value }
    }

    fn index(&self, state: &State) -> u64 {
        let catalog = state.catalog();
        match &self.of {
            ChecksOf::Node(node) => catalog.node_checks_changed.index_of(node),
            ChecksOf::Service(name) => catalog.service_checks_changed.index_of(name),
            ChecksOf::Status(status) => catalog.states_changed.index_of(status),
            // A service that changes its name changes how its checks look.
            ChecksOf::Any => catalog.checks.newest().max(catalog.states_changed.newest()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn node(name: &str) -> NodeInfo {
        NodeInfo { name: name.into(), address: "10.0.0.1".into(), ..NodeInfo::default() }
    }

    fn service(id: &str, name: &str) -> ServiceInfo {
        ServiceInfo { id: id.into(), name: name.into(), weights: (1, 1), ..ServiceInfo::default() }
    }

    pub fn check(id: &str, service_id: &str, status: Status) -> CheckInfo {
        CheckInfo {
            id: id.into(),
            name: id.into(),
            status,
            notes: String::new(),
            output: String::new(),
            service_id: service_id.into(),
            kind: String::new(),
            interval: String::new(),
            timeout: String::new(),
        }
    }

    fn register(
        name: &str,
        service: Option<ServiceInfo>,
        checks: impl IntoIterator<Item = CheckInfo>,
    ) -> CatalogCommand {
        let checks = checks.into_iter().collect();
        Registration { node: node(name), skip_node_update: false, service, checks }.into()
    }

    /// Where nodes and services are; the last one is a host's name.
    const ADDRESSES: [&str; 3] = ["10.0.0.1", "fd00::1", "host.example"];

    fn any_catalog_command() -> impl Strategy<Value = CatalogCommand> {
        let name = || prop::sample::select(vec!["a", "A", "b"]).prop_map(str::to_owned);
        let address = || prop::sample::select(ADDRESSES.to_vec()).prop_map(str::to_owned);
        let status = prop::sample::select(vec![Status::Passing, Status::Warning, Status::Critical]);
        let own = prop_oneof![Just(String::new()), address()];
        let a_service = (name(), name(), own)
            .prop_map(|(id, name, address)| ServiceInfo { address, ..service(&id, &name) });
        let id = prop::sample::select(vec!["", "ID-1", "id-2"]).prop_map(str::to_owned);
        let a_node =
            (name(), address(), id).prop_map(|(name, address, id)| NodeInfo { address, id, ..node(&name) });
        let a_check = (name(), prop::sample::select(vec!["", "a", "b"]), status)
            .prop_map(|(id, service, status)| check(&id, service, status));
        prop_oneof![
            (a_node, prop::option::of(a_service), prop::collection::vec(a_check, 0..2)).prop_map(
                |(node, service, checks)| {
                    Registration { node, skip_node_update: false, service, checks }.into()
                }
            ),
            name().prop_map(|node| CatalogCommand::DeregisterNode { node }),
            (name(), name()).prop_map(|(node, id)| CatalogCommand::DeregisterService { node, id }),
            (name(), name()).prop_map(|(node, id)| CatalogCommand::DeregisterCheck { node, id }),
        ]
    }

    fn state_of(catalog: &Catalog) -> State {
        State { catalog: catalog.clone(), ..State::default() }
    }

    /// Every read there is, on the names that commands use.
    fn all_reads(catalog: &Catalog) -> Vec<(u64, String)> {
        let state = state_of(catalog);
        let mut all = Vec::new();
        let mut add = |index: u64, value: String| all.push((index, value));
        macro_rules! read {
            ($question:expr) => {
                let found = $question.ask(&state);
                add(found.index, format!("{:?}", found.value));
            };
        }
        read!(CatalogNodes);
        read!(CatalogServices { node_meta: BTreeMap::new() });
        for name in ["a", "b"] {
            for flag in [true, false] {
                read!(ServiceInstances { service: name.into(), health: flag });
                read!(OneNode { node: name.into(), checks: flag });
            }
            read!(Checks { of: ChecksOf::Node(name.into()), node_meta: BTreeMap::new() });
            read!(Checks { of: ChecksOf::Service(name.into()), node_meta: BTreeMap::new() });
        }
        for id in ["id-1", "ID-2"] {
            for flag in [true, false] {
                read!(OneNode { node: id.into(), checks: flag });
            }
        }
        for name in ["A", "b"] {
            read!(NodesLike { name: name.into() });
            read!(InstancesLike { service: name.into() });
        }
        for address in ADDRESSES.into_iter().filter_map(|address| address.parse().ok()) {
            read!(NodesAt { address });
            read!(InstancesAt { address });
        }
        for status in [Status::Passing, Status::Warning, Status::Critical] {
            read!(Checks { of: ChecksOf::Status(status), node_meta: BTreeMap::new() });
        }
        read!(Checks { of: ChecksOf::Any, node_meta: BTreeMap::new() });
        all
    }

    #[test]
    fn what_is_lost_is_told() {
        let mut catalog = Catalog::default();
        let web = || Some(service("web1", "web"));
        let all = [check("up", "", Status::Passing), check("web", "web1", Status::Critical)];
        let (_, losses) = catalog.apply(1, &register("n", web(), all.clone()));
        assert_eq!(losses, [Loss::Check { node: "n".into(), id: "web".into() }]);
        assert_eq!(catalog.apply(2, &register("n", web(), all)).1, []);
        let (_, losses) = catalog.apply(3, &CatalogCommand::DeregisterNode { node: "n".into() });
        assert_eq!(losses.len(), 3);
        assert_eq!(losses.last(), Some(&Loss::Node("n".into())));
        assert_eq!(catalog.counts(), (0, 0, 0));
    }

    #[test]
    fn a_check_of_a_service_that_is_not_there_is_refused_whole() {
        let mut catalog = Catalog::default();
        let command = register("n", None, [check("c", "web1", Status::Passing)]);
        let (outcome, _) = catalog.apply(1, &command);
        assert!(matches!(outcome, Outcome::Refused { refusal: Refusal::NotFound(_), .. }), "{outcome:?}");
        assert!(catalog.node("n").is_none());
    }

    #[test]
    fn what_is_asked_for_by_address_or_in_any_case_is_found() {
        let mut catalog = Catalog::default();
        let at = |name: &str, address: &str, own: &str| {
            let node = NodeInfo { address: address.into(), ..node(name) };
            let service = Some(ServiceInfo { address: own.into(), ..service("db1", "DB") });
            Registration { node, skip_node_update: false, service, checks: Vec::new() }.into()
        };
        catalog.apply(1, &at("One", "10.0.0.1", "10.1.0.1"));
        catalog.apply(2, &at("two", "fd00:0::2", ""));
        let found = |catalog: &Catalog| {
            let state = state_of(catalog);
            let nodes = |rows: Vec<Row<NodeInfo>>| {
                rows.into_iter().map(|row| row.info.name).collect::<Vec<_>>().join(",")
            };
            let instances = |all: Vec<Instance>| {
                all.into_iter().map(|one| one.node.info.name).collect::<Vec<_>>().join(",")
            };
            let address = |text: &str| text.parse::<IpAddr>().unwrap();
            [
                nodes(NodesAt { address: address("10.0.0.1") }.ask(&state).value),
                nodes(NodesAt { address: address("fd00::2") }.ask(&state).value),
                instances(InstancesAt { address: address("10.1.0.1") }.ask(&state).value),
                nodes(NodesLike { name: "oNE".into() }.ask(&state).value),
                instances(InstancesLike { service: "db".into() }.ask(&state).value),
            ]
        };
        assert_eq!(found(&catalog), ["One", "two", "One", "One", "One,two"]);
        let mut loaded: Catalog = postcard::from_bytes(&postcard::to_stdvec(&catalog).unwrap()).unwrap();
        loaded.rebuild();
        assert_eq!(loaded, catalog);
        assert_eq!(found(&catalog.clone().written_at(9)), found(&catalog));
        // Moved, and gone.
        catalog.apply(3, &at("One", "10.0.0.3", ""));
        assert_eq!(found(&catalog), ["", "two", "", "One", "One,two"]);
        catalog.apply(4, &CatalogCommand::DeregisterNode { node: "One".into() });
        assert_eq!(found(&catalog), ["", "two", "", "", "two"]);
    }

    #[test]
    fn an_id_means_one_node() {
        let mut catalog = Catalog::default();
        let named = |name: &str| {
            let node = NodeInfo { id: "ID-1".into(), ..node(name) };
            Registration { node, skip_node_update: false, service: None, checks: Vec::new() }.into()
        };
        catalog.apply(1, &named("old"));
        let (_, losses) = catalog.apply(2, &named("new"));
        assert_eq!(losses, [Loss::Node("old".into())]);
        let renamed = catalog.node_by_id("id-1").unwrap();
        assert_eq!((renamed.info.name.as_str(), renamed.create_index, renamed.modify_index), ("new", 1, 2));
        let refused = catalog.apply(3, &named("id-1")).0;
        let Outcome::Refused { refusal, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(refusal.to_string(), "Node name \"id-1\" is the ID of node \"new\"");
        assert!(catalog.node("id-1").is_none(), "a name is no id");
    }

    #[test]
    fn the_name_of_a_node_that_lives_is_its_own() {
        let mut catalog = Catalog::default();
        let entered = |id: &str, skip_node_update: bool, life: Option<Status>| {
            let node = NodeInfo { id: id.into(), ..node("n") };
            let checks = life.map(|status| check(SERF_HEALTH, "", status)).into_iter().collect();
            Registration { node, skip_node_update, service: None, checks }.into()
        };
        let mut index = 0;
        let mut told = |command: CatalogCommand| {
            index += 1;
            match catalog.apply(index, &command).0 {
                Outcome::Refused { refusal, .. } => refusal.to_string(),
                _ => catalog.node("n").unwrap().info.id.clone(),
            }
        };
        assert_eq!(told(entered("a", false, Some(Status::Passing))), "a");
        let refused = told(entered("b", false, None));
        assert!(refused.contains("Node name n is reserved by node a with name n ("), "{refused}");
        // Who says nothing of ids, or does not touch the node, is no other node.
        assert_eq!(told(entered("", false, None)), "");
        assert_eq!(told(entered("a", false, None)), "a");
        assert_eq!(told(entered("b", true, None)), "a");
        // The leader knows whose it is now; and nobody's is the name of who is dead.
        assert_eq!(told(entered("c", false, Some(Status::Passing))), "c");
        assert_eq!(told(entered("c", false, Some(Status::Critical))), "c");
        assert_eq!(told(entered("d", false, None)), "d");
    }

    #[test]
    fn the_neighbours_names_are_not_mixed_up() {
        let mut catalog = Catalog::default();
        for (index, name) in (1..).zip(["n", "n1", "n\u{1}"]) {
            catalog.apply(index, &register(name, Some(service(name, "web")), []));
        }
        let whole = OneNode { node: "n".into(), checks: true }.ask(&state_of(&catalog)).value.unwrap();
        assert_eq!(whole.services.len(), 1);
    }

    proptest! {
        #[test]
        fn whoever_blocks_is_woken_for_cause_and_only_for_cause(
            commands in prop::collection::vec(any_catalog_command(), 0..40),
        ) {
            let mut catalog = Catalog::default();
            let mut before = all_reads(&catalog);
            for (index, command) in (1..).zip(commands) {
                catalog.apply(index, &command);
                let now = all_reads(&catalog);
                for ((old_index, old), (new_index, new)) in before.iter().zip(&now) {
                    prop_assert!(new_index >= old_index);
                    prop_assert!(old == new || new_index > old_index, "missed: {} -> {}", old, new);
                }
                let mut rebuilt = catalog.clone();
                rebuilt.rebuild();
                prop_assert_eq!(rebuilt.digest(), catalog.digest());
                prop_assert_eq!(&rebuilt, &catalog);
                // Saying it again changes nothing.
                let again = catalog.clone();
                if matches!(command, CatalogCommand::Register(_)) {
                    catalog.apply(index + 1000, &command);
                    prop_assert_eq!(&again, &catalog);
                }
                before = now;
            }
        }
    }
}
