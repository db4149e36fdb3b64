//! What the process tells its operator: log lines on standard error, for people by default and as JSON
//! on request. Nothing but the program itself sets this up; a library or a test that logs nowhere is
//! silent.

use std::io;

use tracing_subscriber::EnvFilter;

/// The level when nobody names one.
pub const DEFAULT_LEVEL: &str = "info,openraft=warn";

/// Starts logging. `directives` is a level (`debug`) or a list of targets with levels
/// (`info,driftline::raft=debug`).
///
/// # Errors
/// When the directives make no sense; the text names them.
pub fn start(directives: &str, json: bool) -> Result<(), String> {
    let filter = EnvFilter::builder()
        .parse(directives)
        .map_err(|error| format!("log level {directives:?}: {error}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if json { lines.json().try_init() } else { lines.try_init() };
    started.map_err(|error| format!("cannot start logging: {error}"))
}
