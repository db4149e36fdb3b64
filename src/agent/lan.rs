//! This node among the members of its datacenter: gossip, and what agents of both modes do with it.
//!
//! The [`Ear`](self) passes gossip's news on without ever waiting: to the address book in which Raft looks up
//! where servers are, to whoever waits for a change of membership, and to the embedding program.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::env::Env;
use crate::gossip::keys::{self, Order};
use crate::gossip::{self, Coordinate, EventDelegate, Gossip, Member, NotJoined, Twins, UserEvents};
use crate::mutant;
use crate::raft::{AddressBook, ServerInfo};

use super::events::concerns;
use super::local::Local;
use super::meta::{Meta, Role};
use super::reconcile::Seen;
use super::{Error, uuid_of};

/// How long a leaving node takes to tell the others, at most.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Who takes part, and what it says of itself.
pub struct Identity {
    /// The node's id, in gossip and, if it is a server, in Raft.
    pub node_id: u64,
    /// The number of its present life; see [`crate::gossip::identity`].
    pub generation: u64,
    /// The cluster that it belongs to, if its disk says so.
    pub cluster: Option<u64>,
}

/// Gossip, as an agent has it. Clones are the same member.
#[derive(Clone)]
pub struct Lan {
    node_id: u64,
    gossip: Gossip,
    events: UserEvents,
    addresses: AddressBook,
    changes: watch::Receiver<u64>,
    meta: Arc<Mutex<Meta>>,
}

impl Lan {
    /// Starts to gossip, alone at first.
    ///
    /// # Errors
    /// When a port cannot be had, or the node's facts are too many.
    pub async fn start(
        env: &Env,
        config: &Config,
        identity: Identity,
        meta: Meta,
        local: &Local,
        delegate: Option<Arc<dyn gossip::Delegate>>,
        members: Option<Arc<dyn EventDelegate>>,
    ) -> Result<Lan, Error> {
        meta.check()?;
        let meta = Arc::new(Mutex::new(meta));
        let addresses = AddressBook::default();
        let (sender, changes) = watch::channel(0);
        let ear = Ear { addresses: addresses.clone(), changes: sender, members };
        let told = meta.clone();
        let meta_bytes = move || {
            // Checked whenever it changes: it always fits.
            told.lock().unwrap_or_else(PoisonError::into_inner).encode().unwrap_or_default()
        };
        let (node, local) = (config.node_name.clone(), local.clone());
        let events = UserEvents::with_filter(env, config.gossip.retransmit_mult, meta_bytes, move |event| {
            concerns(event, &node, || local.services())
        });
        let speaks: Arc<dyn gossip::Delegate> = match delegate {
            Some(delegate) => Arc::new(gossip::Beside::new(env, events.clone(), delegate)),
            None => Arc::new(events.clone()),
        };
        let options = gossip::Options {
            node_id: identity.node_id,
            name: config.node_name.clone(),
            bind: config.gossip_addr,
            advertise: config.advertise.map(|ip| SocketAddr::new(ip, 0)),
            generation: identity.generation,
            timing: config.gossip.clone(),
            cluster: config.datacenter.clone(),
            founded: identity.cluster,
            newest: config.protocol,
            encryption: config.encryption(),
        };
        let started = Gossip::start(env, options, speaks, Arc::new(ear)).await;
        let gossip = started.map_err(Error::Gossip)?;
        Ok(Lan { node_id: identity.node_id, gossip, events, addresses, changes, meta })
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// Where gossip sees each server.
    pub fn addresses(&self) -> &AddressBook {
        &self.addresses
    }

    /// Changes whenever something about a member does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// User events.
    pub fn events(&self) -> &UserEvents {
        &self.events
    }

    /// The members, by name.
    pub fn members(&self) -> Vec<Member> {
        self.gossip.members()
    }

    /// All that gossip remembers, by name: also who is not listed any more, because somebody ordered so or because another has
    /// its name now.
    pub fn remembered(&self) -> Vec<Member> {
        self.gossip.remembered()
    }

    /// From now on nothing is believed of nodes of other clusters.
    ///
    /// # Errors
    /// When gossip has stopped.
    pub async fn settle(&self, cluster: u64) -> Result<(), gossip::Error> {
        self.gossip.settle(cluster).await
    }

    /// This node as a member.
    pub fn local(&self) -> Member {
        self.gossip.local()
    }

    /// Where this node stands in the network.
    pub fn coordinate(&self) -> Coordinate {
        self.gossip.coordinate()
    }

    /// Nodes of whose id there were two agents lately.
    pub fn twins(&self) -> Vec<Twins> {
        self.gossip.twins()
    }

    /// The servers that gossip remembers, with their facts. Clients are not among them.
    pub fn servers(&self) -> Vec<(Seen, Meta)> {
        let servers = self.remembered().into_iter().filter_map(|member| {
            let meta = Meta::decode(&member.meta)?;
            let server = ServerInfo {
                node_id: member.node_id,
                name: member.name,
                // Mutant C04: whoever gossip finds is taken for a server.
                addr: meta.rpc_addr().or(mutant::is("C04").then_some(member.addr))?,
                generation: member.generation,
            };
            Some((Seen { server, status: member.status }, meta))
        });
        servers.collect()
    }

    /// The ids of the other members that gossip sees alive.
    pub fn live_others(&self) -> BTreeSet<u64> {
        let others = self.members().into_iter().filter(|member| member.node_id != self.node_id);
        others.filter(|member| member.status.is_live()).map(|member| member.node_id).collect()
    }

    /// Joins gossip through any of these members. Returns how many answered.
    ///
    /// # Errors
    /// Why each failed, when all did.
    pub async fn join(&self, addrs: &[SocketAddr]) -> Result<usize, String> {
        self.gossip.join(addrs).await.map_err(|error| error.to_string())
    }

    /// The same for whoever joins by hand: this node itself among the addresses is no failure, as little as it is in Consul,
    /// whose scripts give all nodes one list. Returns how many others answered.
    ///
    /// # Errors
    /// Why each failed, when all did.
    pub async fn join_by_hand(&self, addrs: &[SocketAddr]) -> Result<usize, String> {
        match self.gossip.join(addrs).await {
            Ok(joined) => Ok(joined),
            Err(gossip::Error::Join(why)) if why.iter().any(|(_, why)| *why == NotJoined::Itself) => Ok(0),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Makes a failed member one that left.
    ///
    /// # Errors
    /// When there is no such member.
    pub async fn force_leave(&self, name: &str, prune: bool) -> Result<(), String> {
        self.gossip.force_leave(name, prune).await.map_err(|error| match error {
            gossip::Error::UnknownMember { .. } => format!("agent: No node found with name '{name}'"),
            error => error.to_string(),
        })
    }

    /// Says goodbye.
    pub async fn leave(&self) {
        if let Err(error) = self.gossip.leave(LEAVE_WITHIN).await {
            tracing::warn!(%error, "leaving without knowing that others heard");
        }
    }

    /// Tells everybody other labels.
    ///
    /// # Errors
    /// When they are too many; nothing is changed then.
    pub async fn set_tags(&self, tags: BTreeMap<String, String>) -> Result<(), String> {
        let before = {
            let mut meta = self.meta.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = Meta { tags, ..meta.clone() };
            changed.check().map_err(|error| error.to_string())?;
            std::mem::replace(&mut *meta, changed)
        };
        let told = self.gossip.update_meta().await;
        told.map_err(|error| {
            *self.meta.lock().unwrap_or_else(PoisonError::into_inner) = before;
            error.to_string()
        })
    }

    /// Whether what is said among members is encrypted.
    pub fn encrypted(&self) -> bool {
        self.gossip.encrypted()
    }

    /// Whether this node has keys for that, though it may not use them yet.
    pub fn has_keys(&self) -> bool {
        self.gossip.has_keys()
    }

    /// Changes what is demanded of the others' encryption, and what is done for them.
    pub fn verify(&self, incoming: bool, outgoing: bool) {
        self.gossip.verify(incoming, outgoing);
    }

    /// Has a member look at its keys, or change them.
    ///
    /// # Errors
    /// Why it did not, or did not answer.
    pub async fn order(&self, member: &Member, order: &Order) -> keys::Answer {
        self.gossip.order(member, order).await
    }

    /// Numbers for people, by Serf's names.
    pub fn stats(&self) -> BTreeMap<String, String> {
        self.gossip.stats()
    }

    /// Completes when gossip has ended without having been stopped, with the reason.
    pub fn fatal(&self) -> impl Future<Output = String> + Send + use<> {
        self.gossip.fatal()
    }

    /// Falls silent at once: others will see this node as failed.
    pub async fn shutdown(&self) {
        self.gossip.shutdown().await;
    }
}

/// Hears gossip's news and passes them on, without ever waiting.
struct Ear {
    addresses: AddressBook,
    changes: watch::Sender<u64>,
    /// The embedding program, if it wants to hear too.
    members: Option<Arc<dyn EventDelegate>>,
}

impl Ear {
    fn note(&self, member: &Member) {
        if let Some(addr) = Meta::decode(&member.meta).and_then(|meta| meta.rpc_addr())
            && member.status.is_live()
        {
            self.addresses.set(member.node_id, addr);
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn pass_on(&self, news: impl FnOnce(&dyn EventDelegate)) {
        if let Some(members) = &self.members {
            news(&**members);
        }
    }
}

impl EventDelegate for Ear {
    fn notify_join(&self, member: &Member) {
        tracing::info!(name = member.name, addr = %member.addr, "a member joined");
        self.note(member);
        self.pass_on(|members| members.notify_join(member));
    }
    fn notify_leave(&self, member: &Member) {
        tracing::info!(name = member.name, status = ?member.status, "a member is gone");
        self.note(member);
        self.pass_on(|members| members.notify_leave(member));
    }
    fn notify_update(&self, member: &Member) {
        self.note(member);
        self.pass_on(|members| members.notify_update(member));
    }
    fn notify_conflict(&self, first: &Member, second: &Member) {
        tracing::warn!(name = first.name, first = %first.addr, second = %second.addr, "two nodes have one name");
        self.pass_on(|members| members.notify_conflict(first, second));
    }
}

/// Where others reach what listens at `listening`.
pub fn advertised(listening: SocketAddr, advertise: Option<IpAddr>) -> SocketAddr {
    SocketAddr::new(advertise.unwrap_or(listening.ip()), listening.port())
}

/// A member's labels, as Consul shows them. Empty for a member whose facts do not decode.
pub fn member_tags(member: &Member) -> BTreeMap<String, String> {
    let Some(meta) = Meta::decode(&member.meta) else { return BTreeMap::new() };
    let mut tags = meta.tags;
    let mut fact = |key: &str, value: String| drop(tags.insert(key.to_owned(), value));
    fact("dc", meta.datacenter);
    fact("id", uuid_of(member.node_id));
    fact("http_port", meta.http_port.to_string());
    fact("vsn", "2".to_owned());
    fact("build", meta.version);
    match meta.role {
        Role::Server { rpc_addr, expect } => {
            fact("role", "consul".to_owned());
            fact("port", rpc_addr.port().to_string());
            fact("raft_vsn", "3".to_owned());
            if expect > 0 {
                fact("expect", expect.to_string());
            }
        }
        Role::Client => fact("role", "node".to_owned()),
    }
    tags
}
