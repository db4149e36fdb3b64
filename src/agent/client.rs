//! An agent that keeps nothing: gossip, and a way to the servers.
//!
//! It is what runs on every machine of a large cluster, where a few servers keep the state. It has no part in
//! Raft and no vote; it answers each [`Call`] by asking a server ([`Servers`]). What is on its disk is only who it
//! is ([`super::identity`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::config::Config;
use crate::env::{AbortOnDrop, Env};
use crate::gossip::Member;
use crate::mutant;
use crate::secret::Secret;
use crate::state::acl::Holder;

use super::call::{Bearer, Call, CallError, Reply};
use super::delegate::{Coordinate, DEFAULT_SEGMENT, Delegate, Stats};
use super::identity::{self, Identity};
use super::lan::{self, Lan};
use super::local::Local;
use super::meta::{Meta, Role};
use super::pool::Servers;
use super::why::{Explanation, Finding, Level};
use super::{Consistency, Error, Program, stats};

/// A client agent. Clones are the same one.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    lan: Lan,
    servers: Arc<Servers>,
    _identity: Identity,
}

impl Client {
    /// Starts gossip. Of what the embedding program adds, its state machine is the servers' business.
    ///
    /// # Errors
    /// See [`Error`]. Nothing of the client runs then.
    pub async fn start(
        env: &Env,
        config: &Config,
        program: Program,
        http_port: u16,
        local: &Local,
    ) -> Result<Client, Error> {
        let identity = identity::open(env).await?;
        // Refutations and changes of metadata count within a life.
        let generation = identity.life << 20;
        let member = lan::Identity { node_id: identity.node_id, generation, cluster: None };
        // Mutant C03: a client agent gives itself out for a server.
        let role = if mutant::is("C03") {
            Role::Server { rpc_addr: config.gossip_addr, expect: 0 }
        } else {
            Role::Client
        };
        let meta = Meta::of(config, role, http_port);
        let lan = Lan::start(env, config, member, meta, local, program.delegate, program.members).await?;
        let servers = Arc::new(Servers::new(env, lan.clone(), config));
        Ok(Client { inner: Arc::new(Inner { env: env.clone(), lan, servers, _identity: identity }) })
    }

    /// What it does unasked. It runs until these are dropped.
    pub fn duties(&self) -> Vec<AbortOnDrop> {
        vec![self.inner.env.spawn(self.inner.servers.clone().rebalance()).abort_on_drop()]
    }

    /// Whether it finds servers, and what one of them sees.
    async fn why(&self) -> Explanation {
        let name = self.inner.lan.local().name;
        let known = self.inner.servers.known();
        let alive = self.inner.lan.live_others().len();
        let here = |level, what: String, advice: &str| Finding::new(level, what, advice);
        if known == 0 {
            let what = format!("{name} is a client and sees no server alive, and {alive} other members");
            let advice = if alive == 0 {
                "start a server, and tell this agent where to find one: retry_join, or `driftline join ADDRESS`"
            } else {
                "start a server, with --server: those that are alive are clients too"
            };
            let mut findings = self.copies();
            findings.push(here(Level::Broken, what, advice));
            return Explanation::new(&name, false, findings);
        }
        let sees = format!("{name} is a client and sees {known} servers alive");
        let fine = here(Level::Fine, sees.clone(), "");
        match self.inner.servers.call(&Secret::default(), Call::Why).await {
            Ok(Reply::Why(mut told)) => {
                told.findings.iter_mut().for_each(|one| one.what = format!("{}: {}", told.node, one.what));
                told.findings.extend(self.copies());
                told.findings.push(fine);
                Explanation::new(&name, told.leader, told.findings)
            }
            Ok(_) => Explanation::new(&name, false, vec![fine]),
            Err(error) => {
                let what = format!("{sees}, and none answers: {error}");
                let advice =
                    super::why::refused_by_tls(&error.to_string(), "that server").unwrap_or_else(|| {
                        "see whether their RPC port is open from here, and what they advertise".to_owned()
                    });
                Explanation::new(&name, false, vec![here(Level::Broken, what, &advice)])
            }
        }
    }

    /// Two agents of one id, if it sees any.
    fn copies(&self) -> Vec<Finding> {
        self.inner.lan.twins().iter().map(super::why::copied).collect()
    }

    /// Its gossip half.
    pub fn lan(&self) -> &Lan {
        &self.inner.lan
    }
}

impl Delegate for Client {
    fn encrypted(&self) -> bool {
        self.inner.lan.encrypted()
    }

    fn lan_coordinate(&self) -> BTreeMap<String, Coordinate> {
        BTreeMap::from([(DEFAULT_SEGMENT.to_owned(), self.inner.lan.coordinate())])
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.lan.leave())
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
        // The servers do not take a node's word for it that it is one: its agent shows the agent's token.
        let token = match bearer {
            Bearer::Node => Secret::default(),
            Bearer::Token(token) => token.clone(),
        };
        Box::pin(async move {
            match call {
                Call::Why => Ok(Reply::Why(self.why().await)),
                // Its place is given up when nobody waits any more.
                call if call.waits() => self.inner.servers.call(&token, call).await,
                // In a task of its own: whoever asked may hang up before the attempt is over, and only its end shows
                // that the connection is dead.
                call => {
                    let servers = self.inner.servers.clone();
                    let asked = self.inner.env.spawn(async move { servers.call(&token, call).await }).await;
                    asked.unwrap_or_else(|error| Err(CallError::Unknown(error.to_string())))
                }
            }
        })
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

    fn holder_here(&self, _: &Secret) -> Option<Holder> {
        None
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.lan.shutdown())
    }

    fn stats(&self) -> Stats {
        let mut all = stats::common(&self.inner.lan);
        all.extend([stats::of_client(self.inner.servers.known())]);
        all
    }
}
