//! The process around an agent: signals, the log, the file with its id, the service manager, reading the
//! configuration again.
//!
//! Once the node runs, one line on standard output says where it listens, with the real ports; logs go to standard
//! error. The service manager hears that the agent is ready (`sd_notify`) once others were found or somebody leads, at once if
//! there are none to look for, and in any case soon: the others may be started only after this one, and to be restarted
//! would not bring them.
//!
//! SIGHUP reads the configuration again. The first SIGINT or SIGTERM ends the agent, a second one ends it at once.
//! Whether the agent *leaves* before it ends is configured (`leave_on_terminate`, `skip_leave_on_interrupt`): by
//! default a client leaves and a server does not, because a server that is restarted should still be a voter when it
//! is back.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use driftline::agent::process::{Fresh, Given, LogError, Process};
use driftline::agent::{Agent, Consistency, Program};
use driftline::config::reload::Reloaded;
use driftline::env::real::tls::{Loaded, Tls};
use driftline::env::{Env, real};
use driftline::node::{Ending, Extension, Listening, Node};
use driftline::telemetry::{self, Logs, WatchError};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::agent::{AgentArgs, Plan, reread};
use super::{Problem, complain, host, programs};

/// How long jobs that still block may hold up the end of the process.
const LAST_JOBS: Duration = Duration::from_secs(2);

/// How long an agent looks for others before the service manager hears that it is ready all the same.
const ALONE_FOR: Duration = Duration::from_secs(10);
/// Pause before it looks again whether somebody leads.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Runs an agent to its end.
pub fn run(args: AgentArgs, plan: Plan) -> Result<(), Problem> {
    let certificates = Loaded::read(&plan.tls).map_err(Problem::failed)?;
    let tls = Arc::new(Tls::new(certificates));
    let logs = telemetry::start(&plan.log_level, plan.log_json).map_err(Problem::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("cannot start the runtime: {error}")))?;
    let ended = runtime.block_on(async {
        // The clock and the sockets of the real world need the runtime to be there already.
        let env = match &plan.data_dir {
            #[cfg(feature = "testbed")]
            Some(directory) if args.puppet => {
                let (env, mutant) = real::puppet::env(directory)
                    .map_err(|error| Problem::failed(format!("the testbed's strings: {error}")))?;
                mutant.iter().for_each(|mutant| driftline::mutant::activate(mutant));
                env
            }
            directory => real::agent_env(directory.as_deref(), tls.clone())
                .map_err(|error| Problem::failed(format!("data directory: {error}")))?,
        };
        let config = plan.config.clone();
        let around = Arc::new(Around { env: env.clone(), args, logs, tls, plan: Arc::new(Mutex::new(plan)) });
        let end = signals(&env, around.clone())?;
        let hangup = listen(SignalKind::hangup())?;
        let program = Program { process: Some(around.clone()), ..Program::default() };
        let started = Node::start(env.clone(), config, Extension { program, routes: None }).await;
        let node = started.map_err(|error| Problem::failed(error.to_string()))?;
        // Not before the directory and the ports are ours: the file may be that of the agent which has them.
        let pid_file = around.plan().pid_file.clone();
        let _pid_file = match pid_file.map(PidFile::write).transpose() {
            Ok(file) => file,
            Err(problem) => {
                // It runs already, and is not torn down in the middle of what it does. How it ends is not what went wrong.
                let _ = node.run(std::future::ready(Ending::Stop)).await;
                return Err(problem);
            }
        };
        announce(&around.plan(), &node.listening());
        let _reloading = env.spawn(reload_at(hangup, node.agent().clone())).abort_on_drop();
        let _readiness = env.spawn(tell_when_ready(node.agent().clone())).abort_on_drop();
        let ended = node.run(end).await;
        notify("STOPPING=1");
        ended.map_err(|error| Problem::failed(error.to_string()))
    });
    runtime.shutdown_timeout(LAST_JOBS);
    ended
}

/// One line that says where the node listens.
fn announce(plan: &Plan, listening: &Listening) {
    let node = &plan.config.node_name;
    let place = plan.data_dir.as_deref().map_or("in memory".to_owned(), |dir| dir.display().to_string());
    let Listening { http, https, dns, rpc, gossip } = listening;
    let dns = dns.map_or(String::new(), |dns| format!("DNS {dns}, "));
    let role = rpc.map_or("client".to_owned(), |rpc| format!("RPC {rpc}"));
    let https = https.map_or_else(String::new, |https| format!(", HTTPS {https}"));
    let mut out = io::stdout();
    // Nobody may be reading; the node runs all the same.
    let _ = writeln!(
        out,
        "driftline: {node} is up: HTTP {http}{https}, {role}, gossip {gossip}, {dns}data {place}"
    );
    let _ = out.flush();
}

// ---- signals ----

/// Listens for a signal from now on.
pub fn listen(kind: SignalKind) -> Result<Signal, Problem> {
    signal(kind).map_err(|error| Problem::failed(format!("cannot listen for signals: {error}")))
}

/// Completes at the first SIGINT or SIGTERM. The second ends the process.
fn signals(env: &Env, around: Arc<Around>) -> Result<impl Future<Output = Ending> + Send + use<>, Problem> {
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (first, told) = oneshot::channel();
    drop(env.spawn(async move {
        let mut next = async || {
            let interrupted = tokio::select! {
                biased;
                _ = interrupt.recv() => true,
                _ = terminate.recv() => false,
            };
            let leaves = around.plan().leaves;
            let leave = if interrupted { leaves.on_interrupt } else { leaves.on_terminate };
            // A log that ends without this is that of an agent that was killed.
            tracing::info!(signal = if interrupted { "SIGINT" } else { "SIGTERM" }, leave, "stopping");
            if leave { Ending::Leave } else { Ending::Stop }
        };
        let _ = first.send(next().await);
        next().await;
        complain("stopped at once by a second signal");
        std::process::exit(1);
    }));
    Ok(async move {
        // An error says that the task is gone, and the runtime with it.
        told.await.unwrap_or(Ending::Stop)
    })
}

async fn reload_at(mut hangup: Signal, agent: Agent) {
    while hangup.recv().await.is_some() {
        notify("RELOADING=1");
        // The agent has logged what came of it.
        let _ = agent.reload().await;
        notify("READY=1");
    }
}

// ---- the service manager ----

/// Its API answers by now. Whoever starts one after the other waits here, so this ends before the others are there.
async fn tell_when_ready(agent: Agent) {
    if agent.config().retry_join.is_empty() {
        notify("READY=1");
        return;
    }
    let found = company(&agent);
    tokio::pin!(found);
    if agent.env().timeout(ALONE_FOR, found.as_mut()).await.is_err() {
        notify("READY=1\nSTATUS=waiting for the others: none was found yet, and nobody leads");
        found.await;
    }
    notify("READY=1\nSTATUS=running");
}

/// Waits until others were found, or somebody leads and a majority says so: a server that is a cluster of its own has none to find.
async fn company(agent: &Agent) {
    let mut joined = agent.joined();
    let led = async {
        while !agent.cluster(Consistency::Default).await.is_ok_and(|cluster| cluster.leader.is_some()) {
            agent.env().sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        // Not when the agent ends: then it is not ready either.
        Ok(_) = joined.wait_for(|joined| *joined) => {}
        () = led => {}
    }
}

/// Tells the service manager, if there is one that wants to know (sd_notify(3)).
fn notify(state: &str) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        let place = place.to_string_lossy();
        let addr = match place.strip_prefix('@') {
            Some(name) => UnixAddr::from_abstract_name(name)?,
            None => UnixAddr::from_pathname(&*place)?,
        };
        socket.send_to_addr(state.as_bytes(), &addr)
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

// ---- the file with the process's id ----

/// It is removed when this is dropped.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: PathBuf) -> Result<PidFile, Problem> {
        if let Some(other) = alive(&path) {
            let text = format!(
                "pid_file: {} is that of process {other}, which runs: give each agent its own",
                path.display()
            );
            return Err(Problem::failed(text));
        }
        let written = std::fs::write(&path, format!("{}\n", std::process::id()));
        written.map_err(|error| Problem::failed(format!("cannot write {}: {error}", path.display())))?;
        Ok(PidFile(path))
    }
}

/// The process that a file names, if it is another than this and runs. After a restart of the machine any process may have the id
/// that an agent had before: one with another name than ours is none.
fn alive(path: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(path).ok()?;
    let id: u32 = text.trim().parse().ok().filter(|id| *id != std::process::id())?;
    let name = |id: &str| std::fs::read_to_string(format!("/proc/{id}/comm")).ok();
    (name(&id.to_string())? == name("self")?).then_some(id)
}

impl Drop for PidFile {
    fn drop(&mut self) {
        remove_if_ours(&self.0);
    }
}

/// Another agent may have begun to use the same file since.
fn remove_if_ours(path: &Path) {
    let ours = std::fs::read_to_string(path).is_ok_and(|text| text.trim() == std::process::id().to_string());
    if ours {
        let _ = std::fs::remove_file(path);
    }
}

// ---- what the agent asks for ----

/// What surrounds the agent.
struct Around {
    env: Env,
    args: AgentArgs,
    logs: Logs,
    tls: Arc<Tls>,
    /// What is in force.
    plan: Arc<Mutex<Plan>>,
}

impl Around {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of a new plan is the process's business, and not the agent's.
    fn compare(&self, new: &Plan) -> Reloaded {
        let old = self.plan();
        let mut reloaded = Reloaded::default();
        let mut changed = |key: &str, differs: bool, applies: bool| {
            let list = if applies { &mut reloaded.applied } else { &mut reloaded.needs_restart };
            if differs {
                list.push(key.to_owned());
            }
        };
        changed("data_dir", old.data_dir != new.data_dir, false);
        changed("leave_on_terminate", old.leaves.on_terminate != new.leaves.on_terminate, true);
        changed("log_json", old.log_json != new.log_json, false);
        changed("log_level", old.log_level != new.log_level, true);
        changed("pid_file", old.pid_file != new.pid_file, false);
        changed("skip_leave_on_interrupt", old.leaves.on_interrupt != new.leaves.on_interrupt, true);
        reloaded
    }
}

impl Process for Around {
    fn read_configuration(&self) -> BoxFuture<'_, Result<Fresh, String>> {
        Box::pin(async {
            let args = self.args.clone();
            // Names are resolved while it is read, which can take its time.
            let read = self.env.blocking(move || reread(&args)).await.map_err(|error| error.to_string())?;
            let plan = read.map_err(|problem| problem.text)?;
            telemetry::filter(&plan.log_level)?;
            let options = plan.tls.clone();
            let certificates = self.env.blocking(move || Loaded::read(&options)).await;
            let certificates = certificates.map_err(|error| error.to_string())??;
            let mut reloaded = self.compare(&plan);
            // New files under the old names are a change too.
            if certificates != *self.tls.loaded() {
                reloaded.applied.push("tls".to_owned());
            }
            let (logs, config, current) = (self.logs.clone(), plan.config.clone(), self.plan.clone());
            let tls = self.tls.clone();
            let commit = Box::new(move || {
                tls.set(certificates);
                if let Err(reason) = logs.set_level(&plan.log_level) {
                    tracing::error!(reason, "the log level stays as it was");
                }
                let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
                current.leaves = plan.leaves;
                current.log_level = plan.log_level;
                reloaded
            });
            Ok(Fresh { config, commit })
        })
    }

    fn describe_host(&self) -> serde_json::Value {
        host::describe()
    }

    fn resident_bytes(&self) -> Option<u64> {
        host::resident_bytes()
    }

    fn run(
        &self,
        command: &[String],
        given: Given,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(Option<i32>, String), String>> {
        let (env, command) = (self.env.clone(), command.to_vec());
        Box::pin(async move {
            match env.timeout(timeout, programs::run(&env, &command, &given)).await {
                Ok(ran) => ran,
                Err(_) => {
                    Err(format!("{:?} did not end within {timeout:?} and was killed", command.join(" ")))
                }
            }
        })
    }

    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, Result<Vec<SocketAddr>, String>> {
        let (env, host) = (self.env.clone(), host.to_owned());
        Box::pin(async move {
            let name = host.clone();
            let looked =
                env.blocking(move || std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), port)));
            let found = looked.await.map_err(|error| error.to_string())?;
            let found = found.map_err(|error| format!("cannot look up {name:?}: {error}"))?;
            let all: Vec<SocketAddr> = found.collect();
            if all.is_empty() { Err(format!("{name:?} has no address")) } else { Ok(all) }
        })
    }

    fn watch_log(&self, level: &str, json: bool) -> Result<BoxStream<'static, String>, LogError> {
        let lines = self.logs.watch(level, json).map_err(|error| match error {
            WatchError::Level => LogError::UnknownLevel(level.to_owned()),
            WatchError::Full => LogError::Refused(error.to_string()),
        })?;
        Ok(Box::pin(stream::unfold(lines, |mut lines| async { Some((lines.next().await?, lines)) })))
    }
}
