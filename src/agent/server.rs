//! An agent that keeps the state: Raft and gossip under one roof.
//!
//! Raft and gossip know nothing of each other; whatever passes between them passes here, in these duties:
//!
//! * **founding** ([`bootstrap`](super::bootstrap)): a server without a cluster founds one, alone or with others;
//! * **reconciling** ([`reconcile`](super::reconcile)): the leader makes the Raft configuration follow gossip;
//! * **looking after the servers** ([`autopilot`]): the leader lets learners vote, and takes out who is dead and replaced;
//! * **entering** ([`census`]): the leader makes the catalog's nodes follow gossip;
//! * **gathering** ([`coordinates`]): what nodes say of their places is proposed every few seconds, together;
//! * **recovering**: until a restarted server has caught up with what it had applied before, it answers no read
//!   that does not ask a leader.
//!
//! A server answers [`Call`]s of its own API and those that client agents send it in the same way.
//!
//! Reads are linearizable unless the client asks for `stale`: Consul's default mode trusts a lease and
//! so the clocks; here the default costs a read-index round, which all waiting readers share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::config::{Bootstrap, Config, DefaultPolicy, RaftConfig};
use crate::env::{AbortOnDrop, Disk, Env, Instant, Purpose, hazard};
use crate::gossip::{Member, Status};
use crate::mutant;
use crate::raft::client::{Client as RaftClient, NO_LEADER};
use crate::raft::elections::Refusal;
use crate::raft::rpc::{Answer as RpcAnswer, Ask, Lane};
use crate::raft::{RaftNode, Reach, ServerInfo, Store, StoreOptions, Tally, Told, log_index, log_term};
use crate::secret::Secret;
use crate::state::acl::authorizer::Default as ByDefault;
use crate::state::acl::{Authorizer, GLOBAL_MANAGEMENT, Grants, Holder, Link, NewToken};
use crate::state::catalog::{CatalogNodes, Checks, ChecksOf, ServiceInstances};
use crate::state::query::{Asked, Found, Indexed, Query};
use crate::state::{AclCommand, Command, KvCommand, Outcome, Request, RequestId, State};

use super::autopilot::{self, Judged, View};
use super::bootstrap::{found_together, founders};
use super::call::{self, Bearer, Call, CallError, Cluster, Configured, Forwarded, NOT_BOOTSTRAPPED, Reply};
use super::census::{self, Entered, Missing};
use super::coordinates::{self, Gathered};
use super::delegate::{Coordinate, DEFAULT_SEGMENT, Delegate, Stats};
use super::lan::{self, Lan, advertised};
use super::local::Local;
use super::local::book::CONSUL_SERVICE;
use super::meta::{Meta, Role};
use super::metrics::Metrics;
use super::reconcile::{Seen, Step, plan};
use super::rights::{self, No};
use super::stats;
use super::why::{self, Facts, Other, Says};
use super::{Answer, Consistency, Error, Program, QueryOptions, uuid};

/// How often the leader looks whether configuration and gossip agree, when nothing tells it to.
const RECONCILE_EVERY: Duration = Duration::from_secs(5);
/// And after a change that could not be made.
const RECONCILE_AGAIN: Duration = Duration::from_secs(1);
/// How often the leader compares the catalog with the members, when nothing tells it to.
const ENTER_EVERY: Duration = Duration::from_secs(60);
/// How often the leader looks how the servers fare.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And while one of them waits to vote.
const LOOK_EVERY_FOR_LEARNERS: Duration = Duration::from_millis(100);
/// Pause before the leader is asked again how the servers fare.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long another server may take to say who it is.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// How long a leaving server waits to be taken out of the configuration.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// Counts and times what Raft tells of itself, under the names that it has in Consul.
fn tally(metrics: Metrics) -> Tally {
    Box::new(move |told| match told {
        Told::Committed(took) => {
            metrics.count("consul.raft.apply", Vec::new());
            metrics.time("consul.raft.commitTime", Vec::new(), took);
        }
        Told::Stands => metrics.count("consul.raft.state.candidate", Vec::new()),
        Told::Leads => metrics.count("consul.raft.state.leader", Vec::new()),
    })
}

/// Under which name it is timed how long a write takes, if it is.
fn timed(command: &Command) -> Option<&'static str> {
    match command {
        Command::Kv(_) => Some("consul.kvs.apply"),
        Command::Txn(_) => Some("consul.txn.apply"),
        _ => None,
    }
}

/// The file that lets one bootstrap again, with the reset index in it.
const RESET_FILE: &str = "acl-bootstrap-reset";

/// What the file says, if there is one.
fn read_reset(disk: &dyn Disk) -> std::io::Result<Option<u64>> {
    if !disk.exists(RESET_FILE)? {
        return Ok(None);
    }
    let file = disk.open(RESET_FILE)?;
    let mut text = vec![0; usize::try_from(file.len()?.min(64)).unwrap_or_default()];
    file.read_at(0, &mut text)?;
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()))
}

/// A server. Clones are the same one.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    config: Config,
    lan: Lan,
    node: RaftNode,
    client: RaftClient,
    metrics: Metrics,
    /// Where nodes stand, as told and not proposed yet.
    places: Gathered,
    /// Whether the state holds again all that this server had applied before it restarted.
    recovered: AtomicBool,
    /// How the servers fared until now; only a leader's means anything.
    fared: Mutex<autopilot::Memory>,
    /// Wakes whoever looks after them when one was added.
    added: Notify,
    /// Why the last try to found a cluster, or to take a server in, came to nothing: for whoever asks why.
    hindrance: Mutex<Option<String>>,
}

impl Server {
    /// Opens the store, starts gossip and Raft, and answers other nodes.
    ///
    /// # Errors
    /// See [`Error`]. Nothing of the server runs then.
    pub async fn start(
        env: &Env,
        config: &Config,
        program: Program,
        http_port: u16,
        local: &Local,
        metrics: &Metrics,
    ) -> Result<Server, Error> {
        let Program { machine, delegate, members, process: _ } = program;
        let RaftConfig { segment_bytes, cache_bytes, on_damage, .. } = config.raft;
        let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        let store = Store::open(env, StoreOptions { segment_bytes, cache_bytes, on_damage }).await?;
        env.linger(hazard::STORE_OPEN).await;
        let identity = store.identity();
        let mut config = config.clone();
        if identity.replaces && config.bootstrap != Bootstrap::Wait {
            // The cluster of the server in whose place it is has the data; another must not be founded.
            tracing::warn!(
                "this server replaces one whose data was damaged: it founds no cluster, but waits"
            );
            config.bootstrap = Bootstrap::Wait;
        }
        let config = &config;
        let listening = env.network().listen_for(Purpose::Peers, config.rpc_addr).await;
        let listener = listening.map_err(|source| Error::Listen {
            addr: config.rpc_addr,
            purpose: "other servers",
            source,
        })?;
        let rpc_addr = advertised(listener.local_addr(), config.advertise);
        // Refutations and changes of metadata count within a life.
        let generation = identity.generation << 20;
        let me = ServerInfo {
            node_id: identity.node_id,
            name: config.node_name.clone(),
            addr: rpc_addr,
            generation,
        };
        let expect = match config.bootstrap {
            Bootstrap::Expect(expect) => expect,
            Bootstrap::Wait | Bootstrap::Alone => 0,
        };
        let meta = Meta::of(config, Role::Server { rpc_addr, expect }, http_port);
        let member = lan::Identity { node_id: identity.node_id, generation, cluster: store.cluster() };
        let lan = Lan::start(env, config, member, meta, local, delegate, members).await?;
        let blank = machine.map_or_else(State::default, State::with_machine);
        env.linger(hazard::GOSSIP_UP).await;
        let reach = Reach {
            listener,
            gossip_addr: lan.local().addr,
            addresses: lan.addresses().clone(),
            newest: config.protocol,
            tally: tally(metrics.clone()),
        };
        let started = RaftNode::start(env, &config.raft, me, store, blank, reach).await;
        let node = match started {
            Ok(node) => node,
            Err(error) => {
                lan.shutdown().await;
                return Err(error.into());
            }
        };
        let client = RaftClient::new(env, node.clone(), config.raft.request_timeout());
        let (env, config) = (env.clone(), config.clone());
        let recovered = AtomicBool::new(false);
        let places = Gathered::default();
        let (fared, added, hindrance) = (Mutex::default(), Notify::new(), Mutex::default());
        let metrics = metrics.clone();
        let inner =
            Inner { env, config, lan, node, client, metrics, places, recovered, fared, added, hindrance };
        let server = Server { inner: Arc::new(inner) };
        server.serve_agents();
        Ok(server)
    }

    /// What it does unasked. It runs until these are dropped.
    pub fn duties(&self) -> Vec<AbortOnDrop> {
        let env = &self.inner.env;
        let mut duties = vec![
            env.spawn(self.clone().found()).abort_on_drop(),
            env.spawn(self.clone().reconcile()).abort_on_drop(),
            env.spawn(self.clone().look_after_servers()).abort_on_drop(),
            env.spawn(self.clone().count_sessions()).abort_on_drop(),
            env.spawn(self.clone().enter_members()).abort_on_drop(),
            env.spawn(self.clone().propose_places()).abort_on_drop(),
            env.spawn(self.clone().watch_recovery()).abort_on_drop(),
            env.spawn(self.clone().settle()).abort_on_drop(),
        ];
        let acl = &self.inner.config.acl;
        if acl.enabled && !acl.tokens.initial_management.is_empty() {
            duties.push(env.spawn(self.clone().introduce()).abort_on_drop());
        }
        duties
    }

    /// Its Raft half.
    pub fn raft(&self) -> &RaftNode {
        &self.inner.node
    }

    pub(super) fn env(&self) -> &Env {
        &self.inner.env
    }

    /// Applies a command of the server's own.
    pub(super) async fn write(&self, command: Command) -> Result<Outcome, CallError> {
        Ok(self.inner.client.write(command).await?)
    }

    /// Its gossip half.
    pub fn lan(&self) -> &Lan {
        &self.inner.lan
    }

    fn node_id(&self) -> u64 {
        self.inner.node.me().node_id
    }

    // ---- calls ----

    /// Answers the calls of client agents.
    fn serve_agents(&self) {
        // The node must not keep alive who keeps it.
        let inner = Arc::downgrade(&self.inner);
        self.inner.node.serve_agents(Box::new(move |bytes| {
            let server = inner.upgrade().map(|inner| Server { inner });
            Box::pin(async move {
                let mut writes = false;
                let reply = match (server, call::decode_call(&bytes)) {
                    (Some(server), Ok((token, forwarded))) => {
                        writes = matches!(forwarded.call, Call::Write(_));
                        let hold = forwarded.hold().min(server.inner.config.raft.request_timeout());
                        server.answer(&Bearer::Token(token), forwarded.call, forwarded.id, hold).await
                    }
                    (None, _) => Err(CallError::NoLeader("this server is stopping".to_owned())),
                    (_, Err(reason)) => Err(CallError::Refused(format!("not understood: {reason}"))),
                };
                let bytes = call::encode_reply(&reply);
                if bytes.len() <= call::MAX_REPLY {
                    return bytes;
                }
                let text = format!(
                    "the answer has {} bytes, and {} can be carried to a client agent: ask a server's own API",
                    bytes.len(),
                    call::MAX_REPLY
                );
                // A write is carried out by now, or was refused at length.
                let kind = if writes { CallError::Unknown } else { CallError::Refused };
                call::encode_reply(&Err(kind(text)))
            })
        }));
    }

    /// Whose rights count, if any do: the token that was shown.
    fn judged<'a>(&self, bearer: &'a Bearer) -> Option<&'a Secret> {
        match bearer {
            Bearer::Token(token) if self.inner.config.acl.enabled => Some(token),
            _ => None,
        }
    }

    /// What a token allows in this state.
    fn authorizer(&self, token: &Secret, state: &State) -> Result<Authorizer, CallError> {
        let config = &self.inner.config;
        let default = match config.acl.default_policy {
            DefaultPolicy::Allow => ByDefault::Allow,
            DefaultPolicy::Deny => ByDefault::Deny,
        };
        let acl = state.acl();
        let holder = acl.holder(token, &config.datacenter).ok_or_else(|| match acl.bootstrapped() {
            0 => CallError::Denied(NOT_BOOTSTRAPPED.to_owned()),
            _ => CallError::NoToken,
        })?;
        Ok(Authorizer::of(&holder, default))
    }

    /// Judges a call that is no read, by a state that is current now; whoever saves an old state is judged by that one. Whoever was
    /// judged is given back, for what the answer may show.
    async fn judge(
        &self,
        bearer: &Bearer,
        call: &Call,
        hold: Duration,
    ) -> Result<Option<Authorizer>, CallError> {
        // Reads are judged by the state that answers them; what is open to all is, whoever leads.
        let open = matches!(call, Call::Read { .. } | Call::Cluster(_) | Call::Why);
        let Some(token) = self.judged(bearer).filter(|_| !open) else { return Ok(None) };
        // Nobody may be there to confirm a newer state to who asks for this server's.
        let consistency = match call {
            Call::Snapshot(consistency) => *consistency,
            _ => Consistency::Default,
        };
        // Mutant P01: a write is judged by whatever state the server has.
        if !mutant::is("P01") {
            self.current(consistency, hold).await?;
        }
        self.inner.node.state().read(|state| {
            let who = self.authorizer(token, state)?;
            match rights::permit(&who, call, state) {
                Ok(()) => Ok(Some(who)),
                Err(No::Denied(denied)) => Err(CallError::Denied(denied.0)),
                Err(No::Txn(errors)) => Err(CallError::DeniedOps(errors)),
            }
        })
    }

    /// Bootstrapping again is for whoever can write into a server's directory: what a file there says counts, and never
    /// what came with the call. It opens the door once, as the state sees to it; then it is removed.
    async fn with_reset(&self, call: Call) -> Call {
        let Call::Write(Command::Acl(AclCommand::Bootstrap { token, .. })) = call else { return call };
        let disk = self.inner.env.disk();
        let read = self.inner.env.blocking(move || read_reset(&*disk)).await;
        let reset = read.map_err(std::io::Error::other).flatten().unwrap_or_else(|error| {
            tracing::warn!(%error, "{RESET_FILE} cannot be read");
            None
        });
        Call::Write(Command::Acl(AclCommand::Bootstrap { token, reset }))
    }

    async fn remove_reset(&self) {
        let disk = self.inner.env.disk();
        let removed = self.inner.env.blocking(move || {
            disk.remove(RESET_FILE)?;
            disk.sync_dir()
        });
        if let Err(error) = removed.await.map_err(std::io::Error::other).flatten() {
            tracing::warn!(%error, "{RESET_FILE} has served and cannot be removed: remove it");
        }
    }

    /// What a query finds that may be seen, and whether something else was left out.
    fn look(
        &self,
        token: Option<&Secret>,
        query: &Query,
        state: &State,
    ) -> Result<(Indexed<Found>, bool), CallError> {
        let Some(token) = token else { return Ok((state.answer(query), false)) };
        let who = self.authorizer(token, state)?;
        let lists_need_list = self.inner.config.acl.enable_key_list_policy;
        rights::look(&who, query, lists_need_list, state).map_err(|denied| CallError::Denied(denied.0))
    }

    /// Answers a call, if `bearer` may have it answered. Finding a leader may take as long as `hold`.
    async fn answer(
        &self,
        bearer: &Bearer,
        call: Call,
        id: Option<(RequestId, u64)>,
        hold: Duration,
    ) -> Result<Reply, CallError> {
        let call = self.with_reset(call).await;
        let client = &self.inner.client;
        let who = self.judge(bearer, &call, hold).await?;
        // What is rare is boxed: it would make the future of every read and write as large as its own.
        match call {
            Call::Read { query, options } => {
                let answer = self.read(self.judged(bearer), options, hold, &query).await?;
                Ok(if answer.filtered { Reply::FoundSome(Box::new(answer)) } else { Reply::Found(answer) })
            }
            Call::Write(Command::Machine(_))
                if self.inner.node.state().read(|state| state.machine().is_none()) =>
            {
                // It would get into the log, and nobody could do anything with it there.
                Err(CallError::Refused("this program has no state machine of its own".to_owned()))
            }
            // Mutant H01: the client hears that it is done before it is.
            Call::Write(
                command @ Command::Kv(
                    KvCommand::Set { .. } | KvCommand::Delete { .. } | KvCommand::DeleteTree { .. },
                ),
            ) if mutant::is("H01") => {
                let client = client.clone();
                drop(self.inner.env.spawn(async move { client.write(command).await }));
                Ok(Reply::Written(Outcome::Done { index: 0 }))
            }
            Call::Write(command) => {
                let (begun, timed) = (self.inner.env.now(), timed(&command));
                let opens = matches!(command, Command::Acl(AclCommand::Bootstrap { reset: Some(_), .. }));
                let written = match id {
                    Some((id, done_below)) => {
                        client.write_for(&Request { id, done_below, command }, hold).await
                    }
                    None => client.write(command).await,
                };
                let mut outcome = written?;
                if let Some(name) = timed {
                    self.inner.metrics.time(name, Vec::new(), self.inner.env.now().since(begun));
                }
                if opens && matches!(outcome, Outcome::Returned { .. }) {
                    self.remove_reset().await;
                }
                if let Some(who) = who {
                    rights::sift(&who, &mut outcome);
                }
                Ok(Reply::Written(outcome))
            }
            Call::Cluster(consistency) => {
                self.current(consistency, hold).await?;
                Ok(Reply::Cluster(self.cluster()))
            }
            Call::AddServer(addr) => {
                Box::pin(self.add_server(addr)).await?;
                Ok(Reply::Done)
            }
            Call::RemoveServer { node_id } => {
                Box::pin(client.remove_server(node_id)).await?;
                Ok(Reply::Done)
            }
            Call::TransferLeadership { node_id } => {
                Box::pin(client.transfer_leadership(node_id)).await?;
                Ok(Reply::Done)
            }
            Call::Snapshot(consistency) => {
                self.current(consistency, hold).await?;
                let state = self.inner.node.state().clone();
                let bytes = self.inner.env.blocking(move || state.read(State::clone).to_snapshot()).await;
                let bytes = bytes.map_err(|error| CallError::Refused(error.to_string()))?;
                Ok(Reply::Snapshot(bytes.into()))
            }
            Call::Why => Ok(Reply::Why(why::explain(&Box::pin(self.facts()).await))),
            Call::Coordinate(update) => {
                if !self.inner.places.add(update) {
                    tracing::debug!("too many places at once: one is dropped");
                }
                Ok(Reply::Done)
            }
            Call::Health { sent_on } => self.health(bearer, sent_on, hold).await,
        }
    }

    // ---- how the servers fare ----

    /// Asks the leader, or answers as the one that it is.
    async fn health(&self, bearer: &Bearer, sent_on: bool, hold: Duration) -> Result<Reply, CallError> {
        let Inner { env, node, .. } = &*self.inner;
        let deadline = env.now() + hold;
        // The leader judges for itself.
        let token = match bearer {
            Bearer::Token(token) => token.clone(),
            Bearer::Node => Secret::default(),
        };
        loop {
            if node.is_leader() {
                // A leader that was deposed and has not heard must not speak for the cluster.
                self.current(Consistency::Default, deadline.since(env.now())).await?;
                return Ok(Reply::Health(autopilot::health(&self.how_they_fare())));
            }
            let left = deadline.since(env.now());
            let none = || CallError::NoLeader(NO_LEADER.to_owned());
            if sent_on || left.is_zero() {
                return Err(none());
            }
            let leader = node.leader().and_then(|leader| Some((leader, node.address_of(leader)?)));
            if let Some((leader, addr)) = leader {
                let hold_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                let call = Forwarded { hold_ms, id: None, call: Call::Health { sent_on: true } };
                let ask = Ask::Agent(call::encode_call(&token, &call));
                let asked =
                    node.pool().call(addr, Some(leader), Lane::Client, &ask, left.min(STATUS_WITHIN)).await;
                let reply = match asked {
                    Ok(RpcAnswer::Agent(bytes)) => call::decode_reply(&bytes).ok(),
                    _ => None,
                };
                match reply {
                    // It does not lead any more, or does not know yet that it does.
                    Some(Err(CallError::NoLeader(_))) | None => {}
                    Some(answered) => return answered,
                }
            }
            env.sleep(ASK_AGAIN.min(left)).await;
        }
    }

    /// How the servers of the configuration fare, as this leader sees them now.
    fn how_they_fare(&self) -> Vec<Judged> {
        let Inner { env, lan, node, fared, .. } = &*self.inner;
        let (now, metrics) = (env.now(), node.metrics());
        let seen: BTreeMap<u64, (Member, String)> = lan
            .members()
            .into_iter()
            .map(|member| {
                let version = Meta::decode(&member.meta).map(|meta| meta.version).unwrap_or_default();
                (member.node_id, (member, version))
            })
            .collect();
        let views = node.members().into_iter().map(|member| {
            let id = member.server.node_id;
            let leader = id == self.node_id();
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).cloned().flatten();
            let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(&id)).cloned().flatten();
            let (last_term, last_index) = if leader {
                (node.last_log_term(), metrics.last_log_index)
            } else {
                (log_term(&matched), log_index(&matched))
            };
            let (gossip, version) = seen.get(&id).map(|(seen, version)| (seen, version.clone())).unzip();
            View {
                node_id: id,
                name: member.server.name,
                addr: member.server.addr,
                voter: member.voter,
                leader,
                gossip: gossip.map(|seen| seen.status),
                gossip_for: gossip.map_or(Duration::ZERO, |seen| now.since(seen.since)),
                version: version.unwrap_or_default(),
                last_contact: if leader { Some(Duration::ZERO) } else { heard.map(|at| now.since(*at)) },
                last_term: last_term.unwrap_or(0),
                last_index: last_index.unwrap_or(0),
            }
        });
        let config = node.state().read(|state| state.autopilot().config.clone());
        let mut fared = fared.lock().unwrap_or_else(PoisonError::into_inner);
        autopilot::judge(views.collect(), &mut fared, &config, now)
    }

    /// On the leader: lets learners vote, and takes out who is dead and not missed.
    async fn look_after_servers(self) {
        let Inner { env, node, client, metrics, fared, added, .. } = &*self.inner;
        let mut leading_since: Option<Instant> = None;
        let mut learners = false;
        loop {
            tokio::select! {
                biased;
                () = node.leadership_changed(leading_since.is_some()) => {}
                () = added.notified() => {}
                () = env.sleep(if learners { LOOK_EVERY_FOR_LEARNERS } else { LOOK_EVERY }) => {}
            }
            if !node.is_leader() {
                (leading_since, learners) = (None, false);
                continue;
            }
            if leading_since.is_none() {
                *fared.lock().unwrap_or_else(PoisonError::into_inner) = autopilot::Memory::default();
            }
            let since = *leading_since.get_or_insert(env.now());
            let judged = self.how_they_fare();
            let others = judged.iter().filter(|server| server.view.voter && !server.view.leader);
            for contact in others.filter_map(|server| server.view.last_contact) {
                metrics.time("consul.raft.leader.lastContact", Vec::new(), contact);
            }
            learners = judged.iter().any(|server| !server.view.voter);
            let config = node.state().read(|state| state.autopilot().config.clone());
            let Some(step) = autopilot::plan(&judged, &config, env.now().since(since)) else { continue };
            tracing::info!(?step, "autopilot");
            env.linger(hazard::PLANNED).await;
            let done = match step {
                autopilot::Step::Promote { node_id } => {
                    node.promote(node_id).await.map_err(|error| error.to_string())
                }
                autopilot::Step::Remove { node_id } => {
                    client.remove_server(node_id).await.map_err(|error| error.to_string())
                }
            };
            if let Err(error) = done {
                tracing::warn!(error, "autopilot has to try again");
            }
        }
    }

    /// Waits until the state is as current as asked.
    async fn current(&self, consistency: Consistency, hold: Duration) -> Result<(), CallError> {
        match consistency {
            Consistency::Stale if self.inner.recovered.load(Ordering::Relaxed) => Ok(()),
            // Mutant R17: a server that has just restarted answers from what its snapshot held.
            Consistency::Stale if mutant::is("R17") => Ok(()),
            Consistency::Stale => {
                self.inner.env.reachable("a stale read is refused until the server has caught up");
                let text = format!("{NO_LEADER}: this server has not caught up since its restart");
                Err(CallError::NoLeader(text))
            }
            Consistency::Default | Consistency::Consistent => {
                let current = self.inner.client.read_barrier_within(hold).await;
                current.map_err(|error| CallError::NoLeader(error.to_string()))
            }
        }
    }

    /// Looks at the state, as currently as asked; waits for a change if asked to.
    async fn read(
        &self,
        token: Option<&Secret>,
        options: QueryOptions,
        hold: Duration,
        query: &Query,
    ) -> Result<Answer<Found>, CallError> {
        let mut token = token;
        // Mutant P02: a read is judged before the state is as current as it must be.
        if mutant::is("P02") {
            self.inner.node.state().read(|state| self.look(token.take(), query, state))?;
        }
        self.current(options.consistency, hold).await?;
        let deadline = self.inner.env.now() + options.wait;
        let changes = self.inner.node.state().waiters().of(query);
        let mut judged_at = None;
        loop {
            // Before the look, so that nothing is missed that is applied after it.
            let changed = changes.notified();
            let left = deadline.since(self.inner.env.now());
            let (newer, looked) = self.inner.node.state().read(|state| {
                let (newest, rights) = (state.applied(), state.acl().newest());
                let newer = options.min_index == 0
                    || state.index_of(query) > options.min_index
                    // The client knows more than we do: it saw another history, so it must start over.
                    || options.min_index > newest
                    // Mutant H09: any change wakes every reader.
                    || (mutant::is("H09") && options.min_index < newest);
                // Who waits is woken for others too, and by what changes neither what was asked for nor who may see it. To find
                // that out must cost little: there may be thousands who wait.
                let judged = judged_at.replace(rights) == Some(rights);
                let look = newer || left.is_zero() || !judged || mutant::is("R35");
                (newer, look.then(|| self.look(token, query, state)))
            });
            let mut over = newer || left.is_zero();
            // Mutant R35: a reader that waits is not woken, and told what it would have been told at once.
            if mutant::is("R35") && !over {
                self.inner.env.sleep(left).await;
                over = true;
            }
            // What is not given away is not kept through the wait either.
            if let Some((found, filtered)) = looked.transpose()?.filter(|_| over) {
                return Ok(Answer {
                    index: found.index,
                    value: found.value,
                    known_leader: self.inner.node.live_leader().is_some(),
                    // Whatever is confirmed by the leader is as the leader has it.
                    last_contact: match options.consistency {
                        Consistency::Stale => self.inner.node.last_contact(),
                        Consistency::Default | Consistency::Consistent => Duration::ZERO,
                    },
                    filtered,
                });
            }
            let _ = self.inner.env.timeout(left, changed).await;
        }
    }

    /// The servers of the Raft configuration in force, and who leads.
    fn cluster(&self) -> Cluster {
        let node = &self.inner.node;
        let metrics = node.metrics();
        let leader = node.live_leader();
        let last_index = |id: u64| {
            if id == self.node_id() {
                return metrics.last_log_index;
            }
            metrics.replication.as_ref()?.get(&id)?.as_ref().map(|matched| matched.index())
        };
        let servers = node.members().into_iter().map(|member| Configured {
            node_id: member.server.node_id,
            addr: member.server.addr,
            voter: member.voter,
            leader: leader == Some(member.server.node_id),
            last_index: last_index(member.server.node_id),
            name: member.server.name,
        });
        Cluster {
            id: node.cluster(),
            leader: leader.and_then(|leader| node.address_of(leader)),
            servers: servers.collect(),
            index: metrics.membership_config.log_id().as_ref().map_or(0, |log_id| log_id.index()),
        }
    }

    /// Makes the server at this address a voter of the cluster.
    async fn add_server(&self, addr: SocketAddr) -> Result<(), CallError> {
        let asked = self.inner.node.pool().call(addr, None, Lane::Client, &Ask::Status, STATUS_WITHIN).await;
        let status = match asked {
            Ok(RpcAnswer::Status(status)) => status,
            Ok(_) => {
                let text = format!("the server at {addr} gave an answer that does not fit");
                return Err(CallError::Refused(text));
            }
            Err(error) => return Err(CallError::Refused(error.to_string())),
        };
        let Some(mine) = self.inner.node.cluster() else {
            return Err(CallError::Refused("this server belongs to no cluster yet".to_owned()));
        };
        if let Some(theirs) = status.cluster
            && theirs != mine
        {
            return Err(CallError::OtherCluster { addr, theirs, mine });
        }
        Ok(self.inner.client.add_server(status.server).await?)
    }

    // ---- why there is no leader ----

    /// What this server sees, and what the others say.
    async fn facts(&self) -> Facts {
        let Inner { env, config, lan, node, client, .. } = &*self.inner;
        let members = node.members();
        let name_of = |id: u64| {
            let known = members.iter().find(|member| member.server.node_id == id);
            known.map_or_else(|| format!("{id:016x}"), |member| member.server.name.clone())
        };
        let seen = lan.servers();
        let others = members.iter().filter(|member| member.server.node_id != self.node_id());
        let asked = others.map(|member| async {
            let (addr, to) = (member.server.addr, Some(member.server.node_id));
            let says = match node.pool().call(addr, to, Lane::Client, &Ask::Status, STATUS_WITHIN).await {
                Ok(RpcAnswer::Status(status)) => Ok(Says {
                    cluster: status.cluster,
                    leader: status.leader.map(name_of),
                    clock_ahead_ms: self.clock_ahead(addr, to).await.unwrap_or(0),
                }),
                Ok(RpcAnswer::WrongServer { node_id }) => {
                    Err(format!("server {node_id:016x} lives there now"))
                }
                Ok(_) => Err("its answer does not fit".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let status = seen.iter().find(|(seen, _)| seen.server.node_id == member.server.node_id);
            let gossip = status.map_or("unknown", |(seen, _)| match seen.status {
                Status::Alive => "alive",
                Status::Leaving => "leaving",
                Status::Left => "left",
                Status::Failed => "failed",
            });
            Other { name: member.server.name.clone(), addr, votes: member.voter, gossip, says }
        });
        let (others, confirmed) = futures_util::future::join(
            futures_util::future::join_all(asked),
            client.read_barrier_within(STATUS_WITHIN),
        )
        .await;
        let refused = node.elections().refused().into_iter().map(|refusal| {
            let (candidate, voter) = (name_of(refusal.candidate), name_of(refusal.voter));
            let ago = env.now().since(refusal.at).as_secs_f64();
            let Refusal { term, why, .. } = refusal;
            format!("{ago:.1} s ago {candidate} wanted to lead in term {term} and {voter} refused: {why}")
        });
        let alive = seen.iter().filter(|(seen, _)| seen.status == Status::Alive);
        Facts {
            name: node.me().name.clone(),
            cluster: node.cluster(),
            expect: match config.bootstrap {
                Bootstrap::Expect(expect) => Some(expect),
                Bootstrap::Alone => Some(1),
                Bootstrap::Wait => None,
            },
            alive: alive.map(|(seen, _)| seen.server.name.clone()).collect(),
            term: node.metrics().current_term,
            leader: node.leader().map(name_of),
            heard: if node.is_leader() { Some(Duration::ZERO) } else { node.heard_leader() },
            confirmed: confirmed.is_ok(),
            others,
            votes: members.iter().any(|member| member.voter && member.server.node_id == self.node_id()),
            refused: refused.collect(),
            hindrance: self.inner.hindrance.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            disk_full: node.disk_is_full(),
            twins: lan.twins(),
        }
    }

    /// How far the wall clock of another server is ahead of ours, in milliseconds. Nothing if it does not say.
    async fn clock_ahead(&self, addr: SocketAddr, to: Option<u64>) -> Option<i64> {
        let Inner { env, node, .. } = &*self.inner;
        let begun = env.now();
        let answer = node.pool().call(addr, to, Lane::Client, &Ask::Clock, STATUS_WITHIN).await;
        // It looked half-way between.
        let ours = env.wall().saturating_sub(env.now().since(begun) / 2);
        match answer {
            Ok(RpcAnswer::Clock(theirs)) => {
                Some(i64::try_from(theirs).ok()? - i64::try_from(ours.as_millis()).ok()?)
            }
            _ => None,
        }
    }

    // ---- leaving ----

    /// Waits until another server says that this one no longer votes. It must not ask to be taken out: such
    /// a request could reach the leader long after this server is back, and expel it.
    async fn taken_out(&self) {
        let node = &self.inner.node;
        let mut again = self.inner.env.interval(Duration::from_millis(50));
        loop {
            for other in node.members().iter().filter(|member| member.server.node_id != self.node_id()) {
                let (addr, to) = (other.server.addr, Some(other.server.node_id));
                let asked = node.pool().call(addr, to, Lane::Client, &Ask::Status, STATUS_WITHIN);
                if let Ok(RpcAnswer::Status(status)) = asked.await
                    && !status.voters.is_empty()
                    && !status.voters.contains(&self.node_id())
                {
                    return;
                }
            }
            again.tick().await;
        }
    }

    // ---- duties ----

    async fn found(self) {
        let env = &self.inner.env;
        let node = &self.inner.node;
        // A server that has been through this once belongs where it belongs.
        while node.cluster().is_none() || !node.has_state() {
            let founded = match self.inner.config.bootstrap {
                Bootstrap::Wait => return,
                Bootstrap::Alone => node.found(&[node.me().clone()]).await.map_err(|error| error.to_string()),
                Bootstrap::Expect(expect) => match founders(&self.inner.lan.servers(), expect) {
                    Some(founders) => found_together(node, &founders, STATUS_WITHIN).await,
                    None => Err("too few servers are there yet".to_owned()),
                },
            };
            let reason = founded.err();
            self.is_hindered_by(reason.clone());
            if let Some(reason) = reason {
                tracing::debug!(reason, "no cluster founded yet");
                env.sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// Remembers why something is not as it should be, if so. Whether that is news.
    fn is_hindered_by(&self, reason: Option<String>) -> bool {
        let mut known = self.inner.hindrance.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *known != reason;
        *known = reason;
        is_news
    }

    /// Where configured servers that gossip does not see can be joined, as those servers say; nothing when
    /// none is missed.
    pub async fn lost(self) -> Option<Vec<SocketAddr>> {
        let live = self.inner.lan.live_others();
        let me = self.inner.node.me();
        // A server that was here before this one may still be configured at this very address.
        let configured = self.inner.node.members().into_iter().map(|member| member.server);
        let others = configured.filter(|server| server.node_id != me.node_id && server.addr != me.addr);
        let missed: Vec<ServerInfo> = others.filter(|server| !live.contains(&server.node_id)).collect();
        if missed.is_empty() {
            return None;
        }
        let mut found = Vec::new();
        for server in missed {
            let pool = self.inner.node.pool();
            let asked = pool.call(server.addr, None, Lane::Client, &Ask::Status, STATUS_WITHIN).await;
            if let Ok(RpcAnswer::Status(status)) = asked
                && self.inner.node.cluster().is_some_and(|mine| status.cluster == Some(mine))
                && status.server.node_id != self.node_id()
            {
                found.push(status.gossip);
            }
        }
        Some(found)
    }

    async fn reconcile(self) {
        let env = &self.inner.env;
        let mut members = self.inner.lan.changes();
        let mut led = false;
        let mut pause = RECONCILE_EVERY;
        loop {
            // Mutant T02: the system's randomness gets into a timer.
            let jitter = if mutant::is("T02") { mutant::system_jitter() } else { Duration::ZERO };
            tokio::select! {
                biased;
                // Without gossip nothing changes any more, and the node is about to stop.
                changed = members.changed() => if changed.is_err() { return },
                () = self.inner.node.leadership_changed(led) => {}
                () = env.sleep(pause + jitter) => {}
            }
            led = self.inner.node.is_leader();
            pause = RECONCILE_EVERY;
            if !led && self.inner.node.cluster().is_some() {
                self.is_hindered_by(None);
            }
            // Mutant R60: what another leader began stays as it is.
            if led
                && !mutant::is("R60")
                && let Err(error) = self.inner.node.end_change().await
            {
                tracing::debug!(%error, "a change of voters that another leader began has to wait");
                pause = RECONCILE_AGAIN;
            }
            // Newcomers that were asked in this round and could not be added: nobody else waits for them.
            let mut passed_over = BTreeSet::new();
            while self.inner.node.is_leader() {
                let servers = self.inner.lan.servers().into_iter().map(|(seen, _)| seen);
                let seen: Vec<Seen> =
                    servers.filter(|seen| !passed_over.contains(&seen.server.node_id)).collect();
                let Some(step) = plan(&seen, &self.inner.node.members(), self.node_id()) else {
                    if passed_over.is_empty() {
                        self.is_hindered_by(None);
                    }
                    break;
                };
                let adds = matches!(step, Step::Add(_));
                env.sometimes(adds, "a leader adds a server that gossip found");
                env.sometimes(!adds, "a leader removes a server that said it leaves");
                tracing::info!(?step, "the configuration follows gossip");
                env.linger(hazard::PLANNED).await;
                let done = match step {
                    Step::Add(server) => {
                        let added = self.take_in(&server).await;
                        if added.is_err() {
                            passed_over.insert(server.node_id);
                        }
                        self.inner.added.notify_one();
                        added.map_err(|error| format!("{} cannot be added: {error}", server.name))
                    }
                    Step::Remove { node_id } => {
                        let removed = self.inner.client.remove_server(node_id).await;
                        removed.map_err(|error| error.to_string())
                    }
                };
                let error = done.err();
                // Said once, however often it is tried.
                let is_news = self.is_hindered_by(error.clone());
                if let Some(error) = error {
                    env.reachable("a change of the configuration is tried again");
                    if is_news {
                        tracing::warn!(error, "the configuration does not follow gossip yet");
                    }
                    pause = RECONCILE_AGAIN;
                    if !adds {
                        break;
                    }
                }
            }
        }
    }

    /// Adds a server that gossip found as a learner, if it answers as that server: whoever has the key of gossip can say
    /// that he is one, and who has no certificate for it must not get into the configuration, not even as a learner.
    async fn take_in(&self, server: &ServerInfo) -> Result<(), String> {
        let node = &self.inner.node;
        // Mutant C04: and nobody asks what it is.
        if mutant::is("C04") {
            return node.add_learner(server).await.map_err(|error| error.to_string());
        }
        let asked =
            node.pool().call(server.addr, Some(server.node_id), Lane::Client, &Ask::Status, STATUS_WITHIN);
        match asked.await {
            Ok(RpcAnswer::Status(status)) => {
                if let (Some(theirs), Some(mine)) = (status.cluster, node.cluster())
                    && theirs != mine
                {
                    return Err(CallError::OtherCluster { addr: server.addr, theirs, mine }.to_string());
                }
            }
            Ok(RpcAnswer::WrongServer { node_id }) => {
                return Err(format!("server {node_id:016x} lives at its address"));
            }
            Ok(_) => return Err("its answer does not fit".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        node.add_learner(server).await.map_err(|error| error.to_string())
    }

    /// On the leader: keeps the catalog's nodes as gossip sees them.
    async fn enter_members(self) {
        let env = &self.inner.env;
        let mut members = self.inner.lan.changes();
        let mut missing = Missing::default();
        let mut led = false;
        loop {
            tokio::select! {
                biased;
                changed = members.changed() => if changed.is_err() { return },
                // Mutant C06: only a change of the members makes a leader look.
                () = self.inner.node.leadership_changed(led), if !mutant::is("C06") => missing.begin_anew(),
                () = env.sleep(ENTER_EVERY), if !mutant::is("C06") => {}
            }
            led = self.inner.node.is_leader();
            while self.inner.node.is_leader() {
                let entered = match self.entered().await {
                    Ok(plan) => plan,
                    Err(error) => {
                        tracing::debug!(%error, "cannot compare the catalog with the members yet");
                        env.sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                };
                let known = self.inner.lan.remembered();
                let missed_for = missing.look(&known, &entered, env.now());
                let plan = census::plan(&known, &entered, &missed_for);
                if plan.is_empty() {
                    break;
                }
                for command in plan {
                    tracing::debug!(%command, "the catalog follows gossip");
                    let written = self.inner.client.write(Command::Catalog(command)).await;
                    match written.map_err(|error| error.to_string()) {
                        Ok(Outcome::Refused { refusal, .. }) => {
                            tracing::warn!(%refusal, "the catalog does not take what gossip says");
                            env.sleep(Duration::from_secs(1)).await;
                        }
                        Ok(_) => {}
                        Err(error) => {
                            tracing::debug!(error, "the catalog does not follow gossip yet");
                            env.sleep(Duration::from_secs(1)).await;
                        }
                    }
                }
            }
        }
    }

    /// What the catalog says of the members, as of now.
    async fn entered(&self) -> Result<Entered, CallError> {
        self.current(Consistency::Default, self.inner.config.raft.request_timeout()).await?;
        Ok(self.inner.node.state().read(|state| Entered {
            nodes: CatalogNodes.ask(state).value,
            checks: Checks { of: ChecksOf::Any, node_meta: BTreeMap::new() }.ask(state).value,
            servers: ServiceInstances { service: CONSUL_SERVICE.to_owned(), health: false }.ask(state).value,
        }))
    }

    /// Proposes what nodes said of their places. What cannot be proposed now they will say again.
    async fn propose_places(self) {
        let mut ticks = self.inner.env.interval(coordinates::PROPOSE_EVERY);
        loop {
            ticks.tick().await;
            for batch in self.inner.places.take() {
                if let Err(error) = self.inner.client.write(Command::Coordinates(batch)).await {
                    tracing::debug!(%error, "places are not in the catalog yet");
                    break;
                }
            }
        }
    }

    /// On the leader: makes the token that the configuration names, if there is none of its secret.
    async fn introduce(self) {
        let Inner { env, config, node, client, .. } = &*self.inner;
        let secret = &config.acl.tokens.initial_management;
        let accessor = uuid::random(&mut env.rng("initial token"));
        let grants = Grants { policies: vec![Link::Id(GLOBAL_MANAGEMENT.to_owned())], ..Grants::default() };
        let token = NewToken {
            accessor,
            secret: secret.clone(),
            description: "Initial Management Token".to_owned(),
            grants,
            created_ms: env.wall().as_millis().try_into().unwrap_or_default(),
            ..NewToken::default()
        };
        loop {
            let led = node.is_leader();
            if led {
                match client.write(Command::Acl(AclCommand::Introduce(token.clone()))).await {
                    Ok(Outcome::Refused { refusal, .. }) => {
                        tracing::error!(%refusal, "acl.tokens.initial_management is not taken");
                        return;
                    }
                    // Mutant P07: that it is done ends nothing.
                    Ok(_) if mutant::is("P07") => continue,
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, "the initial token could not be made yet"),
                }
            }
            // Whichever comes first; both are followed by another look.
            let _ = env.timeout(Duration::from_secs(1), node.leadership_changed(led)).await;
        }
    }

    /// Gossip listens to no other cluster from the moment that this server belongs to one.
    async fn settle(self) {
        let cluster = self.inner.node.joined_cluster().await;
        // Gossip that has stopped listens to nobody.
        let _ = self.inner.lan.settle(cluster).await;
    }

    async fn watch_recovery(self) {
        if self.inner.node.recovered().await {
            self.inner.recovered.store(true, Ordering::Relaxed);
        }
    }
}

impl Delegate for Server {
    fn encrypted(&self) -> bool {
        self.inner.lan.encrypted()
    }

    fn lan_coordinate(&self) -> BTreeMap<String, Coordinate> {
        BTreeMap::from([(DEFAULT_SEGMENT.to_owned(), self.inner.lan.coordinate())])
    }

    /// Hands over leadership, says goodbye, and waits to be taken out of the Raft configuration.
    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let node = &self.inner.node;
            let others = node.members().iter().any(|m| m.voter && m.server.node_id != self.node_id());
            self.inner.env.sometimes(others && node.is_leader(), "a leader leaves");
            if others
                && node.is_leader()
                && let Err(error) = self.inner.client.transfer_leadership(None).await
            {
                tracing::warn!(%error, "leaving without having handed over leadership");
            }
            self.inner.lan.leave().await;
            if others && self.inner.env.timeout(LEAVE_WITHIN, self.taken_out()).await.is_err() {
                tracing::warn!("leaving before this server was seen to be out of the configuration");
            }
        })
    }

    fn lan_members(&self) -> Vec<Member> {
        self.inner.lan.members()
    }

    fn local_member(&self) -> Member {
        self.inner.lan.local()
    }

    fn join_lan<'a>(&'a self, addrs: &'a [SocketAddr]) -> BoxFuture<'a, Result<usize, String>> {
        Box::pin(self.inner.lan.join_by_hand(addrs))
    }

    fn remove_failed_node<'a>(&'a self, name: &'a str, prune: bool) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.inner.lan.force_leave(name, prune))
    }

    fn rpc(&self, bearer: &Bearer, call: Call) -> BoxFuture<'_, Result<Reply, CallError>> {
        let bearer = bearer.clone();
        Box::pin(
            async move { self.answer(&bearer, call, None, self.inner.config.raft.request_timeout()).await },
        )
    }

    fn snapshot_rpc(&self, bearer: &Bearer, stale: bool) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let bearer = bearer.clone();
        Box::pin(async move {
            let consistency = if stale { Consistency::Stale } else { Consistency::Default };
            match self.rpc(&bearer, Call::Snapshot(consistency)).await? {
                Reply::Snapshot(bytes) => Ok(bytes),
                _ => Err(CallError::misfit()),
            }
        })
    }

    fn holder_here(&self, token: &Secret) -> Option<Holder> {
        let Inner { config, node, .. } = &*self.inner;
        if node.live_leader().is_some() {
            return None;
        }
        node.state().read(|state| {
            let acl = state.acl();
            // One from before the first token would take everybody for nobody in particular, whom the default may allow much.
            if acl.knows_tokens() { acl.holder(token, &config.datacenter) } else { None }
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.inner.lan.shutdown().await;
            self.inner.node.shutdown().await;
        })
    }

    fn stats(&self) -> Stats {
        let mut all = stats::common(&self.inner.lan);
        let node = &self.inner.node;
        // Only who leads knows how the others fare.
        let fare = node.is_leader().then(|| autopilot::health(&self.how_they_fare()));
        all.extend(stats::of_server(&self.inner.config, node, &self.cluster(), fare.as_ref()));
        all
    }
}
