//! A node with its API: the one entry of production and simulation.

use std::future::Future;
use std::net::SocketAddr;

use futures_util::future::{Either, select};
use std::pin::pin;

use crate::agent::{Agent, Error};
use crate::config::Config;
use crate::env::{AbortOnDrop, Env};

/// A running node. Dropping it stops the API but not the agent: end it with [`Node::run`] or
/// [`Node::leave`].
pub struct Node {
    agent: Agent,
    http_addr: SocketAddr,
    _serving: AbortOnDrop,
}

impl Node {
    /// Starts an agent and serves its API.
    ///
    /// # Errors
    /// See [`Error`]. Nothing of the node runs then.
    pub async fn start(env: Env, config: Config) -> Result<Node, Error> {
        let listening = env.scope(env.network().listen(config.http_addr)).await;
        let listener = listening.map_err(|source| Error::Listen {
            addr: config.http_addr,
            purpose: "the HTTP API",
            source,
        })?;
        let http_addr = listener.local_addr();
        let agent = env.scope(Agent::start(env.clone(), config, http_addr.port())).await?;
        let serving = env.spawn(crate::http::serve(agent.clone(), listener)).abort_on_drop();
        Ok(Node { agent, http_addr, _serving: serving })
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Where the API is served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Runs until the node stops by itself, or until `leave` completes and it has left.
    ///
    /// # Errors
    /// [`Error::Stopped`] when it can no longer run.
    pub async fn run(self, leave: impl Future<Output = ()>) -> Result<(), Error> {
        match select(pin!(self.agent.wait()), pin!(leave)).await {
            Either::Left((stopped, _)) => stopped,
            Either::Right(((), _)) => {
                self.leave().await;
                Ok(())
            }
        }
    }

    /// Leaves the cluster gracefully, and stops.
    pub async fn leave(&self) {
        let env = self.agent.env().clone();
        env.scope(self.agent.leave()).await;
    }
}
