//! What the process tells its operator: log lines on standard error, for people by default and as JSON
//! on request. Nothing but the program itself sets this up; a library or a test that logs nowhere is
//! silent.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// The level when nobody names one.
pub const DEFAULT_LEVEL: &str = "info,openraft=warn";

/// Starts logging. `wanted` is a level (`debug`) or a list of targets with levels
/// (`info,openraft=debug`).
///
/// # Errors
/// When `wanted` makes no sense; the text names it.
pub fn start(wanted: &str, json: bool) -> Result<(), String> {
    let filter = EnvFilter::builder()
        .parse(directives(wanted))
        .map_err(|error| format!("log level {wanted:?}: {error}"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = if json { lines.json().try_init() } else { lines.try_init() };
    started.map_err(|error| format!("cannot start logging: {error}"))
}

/// A level alone is for this program. openraft warns of an absent peer at every heartbeat, twenty times
/// a second; what an operator needs to know of that, the node says itself.
fn directives(wanted: &str) -> String {
    if wanted.contains(['=', ',']) { wanted.to_owned() } else { format!("{wanted},openraft=error") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_keeps_the_raft_library_quiet() {
        assert_eq!(directives("debug"), "debug,openraft=error");
        assert_eq!(directives("info,openraft=debug"), "info,openraft=debug");
    }
}
