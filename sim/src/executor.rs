//! The hosts of the simulated world: each runs one process at a time, in a world of seams of its own.
//!
//! A [`Universe`] holds what the hosts share: the queue of events, the network, the trace. A [`Machine`]
//! is a host: it is booted, stalled, killed and unplugged, and keeps its disk through all of it. Every
//! boot is a new [`Life`], which runs on a node of its own of the runtime below, so that nothing of an
//! old life can run in a new one.
//!
//! Tasks of all hosts run on one thread, in an order drawn from the seed. A blocking job runs at once
//! and in one go; its caller waits until the disk would have been done with it.
//!
//! Work takes no time beyond some nanoseconds a step, unless a fault makes the processor slow (`pace.rs`).

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use driftline::env::assertion::Assertion;
use driftline::env::{Clock, Env, Executor, Instant, Observed, Observer};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use madsim::runtime::{Handle, NodeHandle};

use crate::clock::{Life, Pump, SimClock};
use crate::disk::{Crash, DiskModel, SimDisk};
use crate::hazard::Hazards;
use crate::net::{Net, SimNetwork};
use crate::pace::{Paced, Processor};
use crate::record::Happening;
use crate::scenario::{DiskSettings, LinkSettings, stream};
use crate::trace::{Trace, WORLD};
use crate::workload::TrueTime;

/// A clock that nobody bends: for what waits in true time.
const TRUE_CLOCK: u32 = WORLD;

/// Somebody who is told what hosts do, as they do it. Must not call back into the world.
pub trait Witness: Send + Sync {
    /// A process observed something about itself.
    fn observed(&self, at_ns: u64, host: u32, event: &Observed);
    /// A process came to the place of a claim. Whether it is the first time that the claim held.
    fn asserted(&self, _at_ns: u64, _host: u32, _assertion: Assertion) -> bool {
        false
    }
    /// A host sent a datagram.
    fn datagram(&self, at_ns: u64, host: u32);
}

/// A witness who does not care.
pub struct NoWitness;

impl Witness for NoWitness {
    fn observed(&self, _: u64, _: u32, _: &Observed) {}
    fn datagram(&self, _: u64, _: u32) {}
}

/// A panic of a node, which must never happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    /// True time.
    pub at_ns: u64,
    /// The host.
    pub host: u32,
    /// What the panic said.
    pub message: String,
}

/// What all hosts share.
pub struct Universe {
    /// The queue of events and the clocks.
    pub pump: Arc<Pump>,
    /// The network.
    pub net: Arc<Net>,
    /// The trace.
    pub trace: Arc<Trace>,
    seed: u64,
    handle: Handle,
    witness: Arc<dyn Witness>,
    panics: Mutex<Vec<Panic>>,
    hazards: Mutex<Hazards>,
    true_life: Arc<Life>,
}

impl TrueTime for Universe {
    fn now(&self) -> u64 {
        self.pump.now()
    }

    fn sleep(&self, duration: std::time::Duration) -> BoxFuture<'static, ()> {
        let deadline = Instant(self.pump.now()) + duration;
        self.pump.sleep_until(self.true_life.clone(), deadline).boxed()
    }

    fn note(&self, host: u32, verb: &'static str, text: String) {
        self.pump.note(host, verb, text);
    }
}

impl Universe {
    /// An empty world, with its pump running. Must be called inside the simulation's runtime.
    pub fn new(
        seed: u64,
        trace: Arc<Trace>,
        links: LinkSettings,
        witness: Arc<dyn Witness>,
    ) -> Arc<Universe> {
        let pump = Pump::new(trace.clone());
        let net = Net::new(pump.clone(), seed, links, witness.clone());
        madsim::task::spawn(pump.clone().run(net.clone()));
        Arc::new(Universe {
            pump,
            net,
            trace,
            seed,
            handle: Handle::current(),
            witness,
            panics: Mutex::default(),
            hazards: Mutex::new(Hazards::new(seed)),
            true_life: Life::new(TRUE_CLOCK, 1),
        })
    }

    /// Waits in true time.
    pub async fn sleep_until(&self, at_ns: u64) {
        self.pump.sleep_until(self.true_life.clone(), Instant(at_ns)).await;
    }

    /// Waits in true time.
    pub async fn sleep(&self, duration: std::time::Duration) {
        let now = Instant(self.pump.now());
        self.pump.sleep_until(self.true_life.clone(), now + duration).await;
    }

    /// What happens at the named places of the nodes' code.
    pub fn hazards(&self) -> MutexGuard<'_, Hazards> {
        self.hazards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The panics so far.
    pub fn panics(&self) -> Vec<Panic> {
        self.panics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn panicked(&self, host: u32, payload: &(dyn std::any::Any + Send)) -> String {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        self.pump.note(host, "panic", &message);
        let panic = Panic { at_ns: self.pump.now(), host, message: message.clone() };
        self.panics.lock().unwrap_or_else(PoisonError::into_inner).push(panic);
        message
    }
}

/// Where a host's process is.
enum Process {
    /// There is none; the host itself may be up or down.
    None,
    Running {
        life: Arc<Life>,
        node: NodeHandle,
        stalled: bool,
    },
}

/// A host.
pub struct Machine {
    universe: Arc<Universe>,
    host: u32,
    /// The disk, which outlives every process.
    pub disk: Arc<DiskModel>,
    /// The processor.
    pub processor: Arc<Processor>,
    process: Mutex<Process>,
    lives: Mutex<u32>,
    exit: Mutex<BTreeMap<u32, String>>,
}

impl Machine {
    /// A new host, not yet booted, with an empty disk.
    pub fn new(universe: Arc<Universe>, host: u32, disk: DiskSettings) -> Arc<Machine> {
        let disk = DiskModel::new(universe.pump.clone(), host, universe.seed, disk);
        Arc::new(Machine {
            universe,
            host,
            disk,
            processor: Arc::default(),
            process: Mutex::new(Process::None),
            lives: Mutex::new(0),
            exit: Mutex::default(),
        })
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's number.
    pub fn host(&self) -> u32 {
        self.host
    }

    /// Whether a process runs (stalled or not).
    pub fn is_running(&self) -> bool {
        matches!(&*self.process(), Process::Running { .. })
    }

    /// Whether a process runs but gets no processor.
    pub fn is_stalled(&self) -> bool {
        matches!(&*self.process(), Process::Running { stalled: true, .. })
    }

    /// What the last process said when it ended by itself, if that is how it ended.
    pub fn last_exit(&self) -> Option<String> {
        let exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        exit.last_key_value().map(|(_, text)| text.clone())
    }

    /// Starts a process at `ip`: `main` gets its world, and its end is the process's end. What runs
    /// now is killed first.
    pub fn boot<F>(self: &Arc<Machine>, ip: IpAddr, main: impl FnOnce(Env) -> F)
    where
        F: Future<Output = String> + Send + 'static,
    {
        self.kill();
        let number = {
            let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
            *lives += 1;
            *lives
        };
        let universe = &self.universe;
        let life = Life::new(self.host, number);
        let node = universe.handle.create_node().name(format!("n{}.{number}", self.host)).build();
        universe.net.host_up(self.host, ip);
        universe.pump.note(self.host, "boot", format!("life {number} at {ip}"));
        universe.pump.tell(self.host, Happening::Booted { ip });
        let env = Env::new(
            Arc::new(SimClock::new(universe.pump.clone(), life.clone())) as Arc<dyn Clock>,
            Arc::new(SimNetwork::new(universe.net.clone(), life.clone())),
            Arc::new(SimDisk::new(self.disk.clone(), life.clone())),
            Arc::new(SimExecutor {
                universe: universe.clone(),
                life: life.clone(),
                node: node.clone(),
                disk: self.disk.clone(),
                processor: self.processor.clone(),
            }),
            Arc::new(SimObserver { universe: universe.clone(), life: life.clone() }),
            rand::Rng::next_u64(&mut stream(universe.seed, &format!("node {} life {number}", self.host))),
        );
        *self.process() = Process::Running { life: life.clone(), node, stalled: false };
        let machine = self.clone();
        let run = env.scope(main(env.clone()));
        env.spawn(async move {
            let text = match AssertUnwindSafe(run).catch_unwind().await {
                Ok(text) => text,
                Err(payload) => machine.universe.panicked(machine.host, &*payload),
            };
            if life.is_alive() {
                machine.universe.pump.note(machine.host, "exit", &text);
                machine.exit.lock().unwrap_or_else(PoisonError::into_inner).insert(life.number, text);
                machine.end(Crash::Kill);
            }
        });
    }

    /// The process gets no processor until [`Machine::resume`]; its kernel goes on receiving for it.
    pub fn stall(&self) {
        if let Process::Running { node, stalled, .. } = &mut *self.process() {
            *stalled = true;
            self.universe.handle.pause(node.id());
            self.universe.pump.tell(self.host, Happening::Frozen);
        }
    }

    /// Ends a stall.
    pub fn resume(&self) {
        if let Process::Running { node, stalled, .. } = &mut *self.process() {
            *stalled = false;
            self.universe.handle.resume(node.id());
            self.universe.pump.tell(self.host, Happening::Resumed);
        }
    }

    /// The process dies at once; its host's kernel closes what it held.
    pub fn kill(&self) {
        self.end(Crash::Kill);
    }

    /// The host loses power: nothing more is sent, and what was not synced may be gone.
    pub fn power_loss(&self) {
        self.end(Crash::PowerLoss);
    }

    /// The host loses power, and nobody will ever hear that its streams are gone.
    pub fn vanish(&self) {
        self.universe.net.vanished(self.host);
        self.end(Crash::PowerLoss);
    }

    fn end(&self, crash: Crash) {
        let process = std::mem::replace(&mut *self.process(), Process::None);
        if let Process::Running { life, node, .. } = &process {
            life.end();
            let power_loss = crash == Crash::PowerLoss;
            self.universe.pump.tell(self.host, Happening::Stopped { power_loss });
            // A stalled node is resumed first: killing it would drop its tasks under the runtime's lock.
            self.universe.handle.resume(node.id());
            self.universe.handle.kill(node.id());
            self.universe.pump.forget(life);
            if crash == Crash::Kill {
                self.universe.net.process_died(life);
                self.disk.crash(crash);
            }
        }
        if crash == Crash::PowerLoss {
            self.universe.net.power_lost(self.host);
            self.disk.crash(crash);
        }
    }
}

/// The [`Executor`] of one life of a host.
struct SimExecutor {
    universe: Arc<Universe>,
    life: Arc<Life>,
    node: NodeHandle,
    disk: Arc<DiskModel>,
    processor: Arc<Processor>,
}

impl Executor for SimExecutor {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        if !self.life.is_alive() {
            return;
        }
        let (universe, host) = (self.universe.clone(), self.life.host);
        let task = Paced {
            task,
            processor: self.processor.clone(),
            pump: universe.pump.clone(),
            true_life: universe.true_life.clone(),
            slot: None,
        };
        self.node.spawn(AssertUnwindSafe(task).catch_unwind().map(move |result| {
            if let Err(payload) = result {
                universe.panicked(host, &*payload);
            }
        }));
    }

    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        if !self.life.is_alive() {
            return std::future::pending().boxed();
        }
        self.disk.begin_job();
        let result = std::panic::catch_unwind(AssertUnwindSafe(job));
        let done = self.disk.end_job();
        if let Err(payload) = result {
            self.universe.panicked(self.life.host, &*payload);
        }
        let universe = self.universe.clone();
        let life = self.life.clone();
        async move {
            universe.sleep_until(done).await;
            if !life.is_alive() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }
}

/// An observation in words: what `{:?}` would say. What happens at every write is put together here by hand, which takes a
/// third of the time; a test holds the two together.
fn told(event: &Observed) -> String {
    match event {
        Observed::Appended { index, term, digest } => {
            format!("Appended {{ index: {index}, term: {term}, digest: {digest} }}")
        }
        Observed::Durable { index } => format!("Durable {{ index: {index} }}"),
        Observed::Applied { index, term, entry, state } => {
            format!("Applied {{ index: {index}, term: {term}, entry: {entry}, state: {state} }}")
        }
        rare => format!("{rare:?}"),
    }
}

/// Passes on what a life observes, as long as it lasts.
struct SimObserver {
    universe: Arc<Universe>,
    life: Arc<Life>,
}

impl Observer for SimObserver {
    fn observe(&self, event: Observed) {
        if self.life.is_alive() {
            self.universe.pump.note(self.life.host, "observed", told(&event));
            self.universe.pump.tell(self.life.host, Happening::Observed(&event));
            self.universe.witness.observed(self.universe.pump.now(), self.life.host, &event);
        }
    }

    fn passes(&self, point: &'static str) -> Option<std::time::Duration> {
        if !self.life.is_alive() {
            return None;
        }
        let now_ns = self.universe.pump.now();
        let pause = self.universe.hazards().passes(now_ns, self.life.host, point)?;
        let text = format!("{point}, for {} us", pause.as_micros());
        self.universe.pump.note(self.life.host, "lingers", text);
        Some(pause)
    }

    fn asserted(&self, assertion: Assertion) {
        if self.life.is_alive()
            && self.universe.witness.asserted(self.universe.pump.now(), self.life.host, assertion)
        {
            self.universe.pump.note(self.life.host, "reached", assertion.claim);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_by_hand_is_what_debug_says() {
        let events = [
            Observed::Appended { index: 7, term: 2, digest: u64::MAX },
            Observed::Durable { index: 0 },
            Observed::Applied { index: 1, term: 2, entry: 3, state: 4 },
            Observed::Truncated { index: 5 },
        ];
        for event in events {
            assert_eq!(told(&event), format!("{event:?}"));
        }
    }
}
