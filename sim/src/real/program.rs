//! The node's program: built from this very source, so that what is replayed is what was simulated.

// This is outside the simulation: processes are allowed here.
#![allow(clippy::disallowed_methods)]

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Cargo could not be started.
    #[error("cannot start {cargo:?} to build the node's program: {error}; --program names one that is built")]
    NoCargo {
        /// What was started.
        cargo: OsString,
        /// Why not.
        error: io::Error,
    },
    /// The build failed.
    #[error("the node's program does not build:\n{0}")]
    Failed(String),
    /// It is another program, or a production build.
    #[error(
        "{program} is no driftline that was built with `--features testbed`, which real processes are driven by: it says \
         {said:?}"
    )]
    Foreign {
        /// The program.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// Cargo did not say where the program is.
    #[error("cargo has built no program of the name driftline")]
    NoProgram,
}

/// Makes sure that a program is the node's, and can be held by strings: no production build can.
///
/// # Errors
/// [`BuildError::Foreign`], with what it said when it was asked for its options.
pub fn probe(program: &Path) -> Result<(), BuildError> {
    let asked = Command::new(program).args(["agent", "--puppet", "--help"]).stdin(Stdio::null()).output();
    let said = match asked {
        Ok(output)
            if output.status.success() && String::from_utf8_lossy(&output.stdout).contains("--config") =>
        {
            return Ok(());
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(BuildError::Foreign { program: program.to_owned(), said })
}

/// One message of `cargo build --message-format=json`, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds `driftline` with the feature `testbed`, for the machine as it is: without the simulator's cfg, into the
/// workspace's ordinary target folder.
///
/// # Errors
/// See [`BuildError`].
pub fn build(release: bool) -> Result<PathBuf, BuildError> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command
        .current_dir(&workspace)
        // Beside the testbed, whose tests have built all of this already: alone it would have other features, and be built anew.
        .args(["build", "-p", "driftline", "-p", "sim", "--bin", "driftline"])
        .args(["--features", "driftline/testbed", "--message-format", "json"])
        .args(release.then_some("--release"))
        .arg("--target-dir")
        .arg(workspace.join("target"))
        // Of the cargo that started this program; they would make this another build.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_RUSTFLAGS")
        .stdin(Stdio::null());
    // A build script that looks at what it is told of its package would be run again, and what depends on it be built again.
    let told = std::env::vars_os().map(|(name, _)| name);
    let of_its_package = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_")
    };
    told.filter(of_its_package).for_each(|name| {
        command.env_remove(name);
    });
    let output = command.output().map_err(|error| BuildError::NoCargo { cargo, error })?;
    if !output.status.success() {
        return Err(BuildError::Failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let messages = output.stdout.split(|byte| *byte == b'\n');
    let messages = messages.filter_map(|line| serde_json::from_slice::<Message>(line).ok());
    let ours =
        messages.filter(|message| message.target.as_ref().is_some_and(|target| target.name == "driftline"));
    ours.filter_map(|message| message.executable).next_back().ok_or(BuildError::NoProgram)
}
