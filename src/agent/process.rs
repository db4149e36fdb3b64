//! What only the process around an agent can do for it: read its configuration again, and show its log.
//!
//! The agent does not know files, signals or log subscribers; whoever runs it hands it a [`Process`]. Without one
//! (in the testbed, or embedded in a program that has none) both are refused in words.

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

    /// Log lines from now on, each with its line end, at one of Consul's levels. What is read too slowly loses lines,
    /// and says so in their place.
    ///
    /// # Errors
    /// See [`LogError`].
    fn watch_log(&self, level: &str, json: bool) -> Result<BoxStream<'static, String>, LogError>;
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
