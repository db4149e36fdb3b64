//! Stand-in until the node lands.
#![allow(missing_docs)]
use std::future::Future;
use std::net::SocketAddr;

use crate::agent::Agent;
use crate::config::Config;
use crate::env::Env;

#[derive(Clone, Copy, Debug)]
pub struct Listening {
    pub http: SocketAddr,
    pub rpc: SocketAddr,
    pub gossip: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

pub async fn run(
    env: Env,
    config: Config,
    shutdown: impl Future<Output = ()>,
    started: impl FnOnce(&Listening),
) -> Result<(), Error> {
    let listener = env
        .network()
        .listen(config.http_addr)
        .await
        .map_err(|error| Error(format!("cannot listen for HTTP on {}: {error}", config.http_addr)))?;
    started(&Listening { http: listener.local_addr(), rpc: config.rpc_addr, gossip: config.gossip_addr });
    let agent = Agent::alone(env, config);
    crate::http::serve_until(agent, listener, shutdown).await;
    Ok(())
}
