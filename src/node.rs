//! A node with its API: the one entry of production and simulation.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;

use axum::Router;
use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use crate::agent::{Agent, Error, Program};
use crate::config::Config;
use crate::dns;
use crate::env::{AbortOnDrop, Env, JoinHandle, Purpose};
use crate::watch;

/// Where a node listens, with the real ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The HTTP API.
    pub http: SocketAddr,
    /// The same by HTTPS, if configured.
    pub https: Option<SocketAddr>,
    /// The DNS server, if there is one.
    pub dns: Option<SocketAddr>,
    /// Other servers; a client has no such place.
    pub rpc: Option<SocketAddr>,
    /// Gossip, UDP and TCP.
    pub gossip: SocketAddr,
}

/// What an embedding program adds to a node.
#[derive(Default)]
pub struct Extension {
    /// To the agent.
    pub program: Program,
    /// To the HTTP API: paths that it does not have. Rights are theirs to look at: the agent they get asks by the node's own;
    /// [`Agent::on_behalf_of`] makes one that asks by a client's.
    pub routes: Option<Box<dyn FnOnce(Agent) -> Router + Send>>,
}

/// A running node. It runs until [`Node::run`] returns, whether or not this is dropped.
pub struct Node {
    agent: Agent,
    listening: Listening,
    serving: Vec<JoinHandle<()>>,
    /// What else runs for as long as the node does.
    beside: Vec<JoinHandle<()>>,
    close: Vec<oneshot::Sender<()>>,
}

/// How a node that runs well is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It leaves its cluster first.
    Leave,
    /// It stops, and is missed: the others see it fail.
    Stop,
}

/// Starts a node, tells where it listens, and runs it until it stops by itself or until `end` completes.
///
/// # Errors
/// See [`Error`].
pub async fn run(
    env: Env,
    config: Config,
    end: impl Future<Output = Ending>,
    started: impl FnOnce(&Listening),
) -> Result<(), Error> {
    let node = Node::start(env, config, Extension::default()).await?;
    started(&node.listening);
    node.run(end).await
}

impl Node {
    /// Starts an agent and serves its API, with what the embedding program adds to both.
    ///
    /// # Errors
    /// See [`Error`]. Nothing of the node runs then.
    pub async fn start(env: Env, config: Config, extension: Extension) -> Result<Node, Error> {
        let wanted = config.http_addr;
        let listener = env.network().listen(wanted).await;
        let listener =
            listener.map_err(|source| Error::Listen { addr: wanted, purpose: "the HTTP API", source })?;
        let http = listener.local_addr();
        let mut listeners = vec![listener];
        if let Some(wanted) = config.https_addr {
            let listener = env.network().listen_for(Purpose::Api, wanted).await;
            let listener = listener.map_err(|source| Error::Listen {
                addr: wanted,
                purpose: "the API by HTTPS",
                source,
            })?;
            listeners.push(listener);
        }
        let https = listeners.get(1).map(|listener| listener.local_addr());
        let dns = match config.dns.addr {
            None => None,
            Some(addr) => {
                let bound = dns::Sockets::bind(&env, addr).await;
                Some(bound.map_err(|source| Error::Listen { addr, purpose: "DNS", source })?)
            }
        };
        let Extension { program, routes } = extension;
        let agent = env.scope(Agent::start(env.clone(), config, program, http.port())).await?;
        let routes = routes.map_or_else(Router::new, |routes| routes(agent.clone()));
        let listening = Listening {
            http,
            https,
            dns: dns.as_ref().map(dns::Sockets::local_addr),
            rpc: agent.rpc_addr(),
            gossip: agent.local_member().addr,
        };
        let mut beside = Vec::new();
        if let Some(sockets) = dns {
            beside.push(env.spawn(dns::serve(agent.clone(), sockets)));
        }
        // Without a process around it nothing is read again: what is not watched now never is.
        if agent.process().is_some() || !agent.config().watches.is_empty() {
            beside.push(env.spawn(watch::keep(agent.clone(), http)));
        }
        let (mut serving, mut close) = (Vec::new(), Vec::new());
        for listener in listeners {
            let (closing, closed) = oneshot::channel();
            // A dropped sender closes the API too.
            let until = async { drop(closed.await) };
            serving.push(env.spawn(crate::http::serve_until(agent.clone(), routes.clone(), listener, until)));
            close.push(closing);
        }
        Ok(Node { agent, listening, serving, beside, close })
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Where it listens.
    pub fn listening(&self) -> Listening {
        self.listening
    }

    /// Runs until the node stops by itself, or until `end` completes and it has left or stopped. Requests
    /// that are being answered then are finished first.
    ///
    /// # Errors
    /// [`Error::Stopped`] when it can no longer run.
    pub async fn run(self, end: impl Future<Output = Ending>) -> Result<(), Error> {
        let env = self.agent.env().clone();
        let _beside: Vec<AbortOnDrop> = self.beside.into_iter().map(JoinHandle::abort_on_drop).collect();
        let outcome = match select(pin!(self.agent.wait()), pin!(end)).await {
            Either::Left((stopped, _)) => stopped,
            Either::Right((Ending::Leave, _)) => {
                env.scope(self.agent.leave()).await;
                Ok(())
            }
            Either::Right((Ending::Stop, _)) => {
                env.scope(self.agent.shutdown()).await;
                Ok(())
            }
        };
        drop(self.close);
        // They end by themselves, within their own bounds.
        for serving in self.serving {
            let _ = serving.await;
        }
        outcome
    }
}
