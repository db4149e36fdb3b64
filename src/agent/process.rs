//! What only the process around an agent can do for it: read its configuration again, and show its log.
//!
//! The agent does not know files, signals or log subscribers; whoever runs it hands it a [`Process`]. Without one
//! (in the testbed, or embedded in a program that has none) both are refused in words.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::config::Config;
use crate::config::reload::Reloaded;

/// The process around an agent.
pub trait Process: Send + Sync {
    /// Reads the configuration again. Nothing is changed yet.
    ///
    /// # Errors
    /// What is wrong with it, with the file and the key.
    fn read_configuration(&self) -> BoxFuture<'_, Result<Fresh, String>>;

    /// What machine this is, in the form of `/v1/agent/host`. Blocks for a moment.
    fn describe_host(&self) -> serde_json::Value;

    /// How much memory the process has, in bytes, if the system says so. Blocks for no longer than a call of the kernel.
    fn resident_bytes(&self) -> Option<u64>;

    /// Runs a program without a shell, with what it is given; gives its exit code (none if a signal ended it) and what it
    /// wrote. It is killed when `timeout` is over or the future is dropped.
    ///
    /// # Errors
    /// Why it could not be run.
    fn run(
        &self,
        command: &[String],
        given: Given,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(Option<i32>, String), String>>;

    /// The addresses of a host by its name, at least one.
    ///
    /// # Errors
    /// Why there is none.
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, Result<Vec<SocketAddr>, String>>;

    /// Log lines from now on, each with its line end, at one of Consul's levels. What is read too slowly loses lines,
    /// and says so in their place.
    ///
    /// # Errors
    /// See [`LogError`].
    fn watch_log(&self, level: &str, json: bool) -> Result<BoxStream<'static, String>, LogError>;
}

/// What a program gets to see.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// On its standard input.
    pub input: Bytes,
    /// In its environment, besides the agent's own.
    pub variables: BTreeMap<String, String>,
}

/// A configuration that was read and is right, and not yet in force.
pub struct Fresh {
    /// The agent's part.
    pub config: Config,
    /// Puts the process's own part in force, and tells what that was.
    pub commit: Box<dyn FnOnce() -> Reloaded + Send>,
}

/// Why a log is not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// There is no such level; the client should name another.
    #[error("Unknown log level: {0}")]
    UnknownLevel(String),
    /// Not now, or not here.
    #[error("{0}")]
    Refused(String),
}
