//! What the storm does to disks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::{RESTART_AFTER, World};
use crate::check::Stop;
use crate::disk::{DiskModel, Wrong};
use crate::executor::Machine;
use crate::scenario::nodes::node_name;
use crate::scenario::{DiskFault, Fault, FileKind};
use crate::trace::WORLD;

impl World {
    pub(super) async fn wrong_disk(self: &Arc<World>, fault: &Fault, node: u32, what: DiskFault) {
        let Some(machine) = self.machine(node) else { return };
        let until = self.now().saturating_add(fault.for_ms.saturating_mul(1_000_000));
        let text = format!("{what:?} on n{node}");
        let prefix = |of: Option<FileKind>| of.map(FileKind::prefix);
        let calm = Wrong::default();
        match what {
            DiskFault::Slow { factor } => {
                let wrong = Wrong { slowness: factor, ..calm };
                self.while_wrong(fault, &text, vec![(machine, wrong)], until).await;
            }
            DiskFault::Stall => {
                let wrong = Wrong { stalled_until: until, ..calm };
                self.while_wrong(fault, &text, vec![(machine, wrong)], until).await;
            }
            DiskFault::Full { left_bytes, everywhere } => {
                let mut full = vec![machine];
                if everywhere {
                    full = self.machines().into_values().collect();
                }
                let wrongs = full.into_iter().map(|machine| {
                    let capacity = machine.disk.used().saturating_add(left_bytes);
                    (machine, Wrong { capacity: Some(capacity), ..calm })
                });
                self.while_wrong(fault, &text, wrongs.collect(), until).await;
            }
            DiskFault::ReadError { reads, after_reads, of } => {
                let wrong =
                    Wrong { failing_reads: reads, good_reads: after_reads, read_aim: prefix(of), ..calm };
                self.misread(fault, &text, machine, wrong, until).await;
            }
            DiskFault::ShortRead { reads, of } => {
                let wrong = Wrong { short_reads: reads, read_aim: prefix(of), ..calm };
                self.misread(fault, &text, machine, wrong, until).await;
            }
            DiskFault::MisdirectedRead { reads, after_reads, outdated, of } => {
                let wrong = Wrong {
                    misdirected_reads: reads,
                    good_reads: after_reads,
                    outdated,
                    read_aim: prefix(of),
                    ..calm
                };
                self.misread(fault, &text, machine, wrong, until).await;
            }
            DiskFault::WriteError { writes } => {
                let wrong = Wrong { failing_writes: writes, ..calm };
                self.while_wrong(fault, &text, vec![(machine, wrong)], until).await;
            }
            DiskFault::MisdirectedWrite { power_loss_after_ms, of } => {
                let wrong = Wrong { misdirected_writes: 1, misdirected_write_aim: prefix(of), ..calm };
                if self.strikes(fault, &text, &machine, wrong, until).await {
                    self.universe.sleep(Duration::from_millis(power_loss_after_ms)).await;
                    self.power_loss_until(node, self.now() + RESTART_AFTER.as_nanos() as u64, || ()).await;
                }
            }
            DiskFault::SyncCrash { file, sync, power_loss } => {
                let wrong = Wrong { trap: Some((file.prefix(), sync)), ..calm };
                if self.strikes(fault, &text, &machine, wrong, until).await {
                    let stop = if power_loss { Stop::PowerLoss } else { Stop::Kill };
                    self.restart(node, stop).await;
                }
            }
            // What is not there cannot rot.
            DiskFault::BitRot { .. } if machine.disk.used() == 0 => {}
            DiskFault::BitRot { sectors } => {
                self.begins(fault, &text);
                self.power_loss_until(node, until, || machine.disk.rot(sectors, self.scenario.beyond)).await;
            }
            DiskFault::LyingSync => {
                let wrong = Wrong { lies: true, ..calm };
                let (told, mut struck) = mpsc::unbounded_channel();
                let armed = Armed::new(&machine.disk, wrong, &told);
                if self.is_told(&mut struck, until).await {
                    self.begins(fault, &text);
                    self.universe.sleep_until(until).await;
                    let restart = self.now() + RESTART_AFTER.as_nanos() as u64;
                    self.power_loss_until(node, restart, || drop(armed)).await;
                }
            }
        }
    }

    /// Waits until something strikes, or it is too late for it.
    async fn is_told(&self, struck: &mut UnboundedReceiver<()>, until: u64) -> bool {
        tokio::select! {
            biased;
            _ = struck.recv() => true,
            () = self.universe.sleep_until(until) => false,
        }
    }

    /// Something is wrong with disks until then. The fault begins when that shows for the first time, and not before: on a node
    /// that is down, or that does not write, nothing has happened.
    async fn while_wrong(&self, fault: &Fault, text: &str, wrongs: Vec<(Arc<Machine>, Wrong)>, until: u64) {
        let (told, mut struck) = mpsc::unbounded_channel();
        let _armed: Vec<Armed> =
            wrongs.iter().map(|(machine, wrong)| Armed::new(&machine.disk, *wrong, &told)).collect();
        if self.is_told(&mut struck, until).await {
            self.begins(fault, text);
            self.universe.sleep_until(until).await;
        }
    }

    /// Something is wrong with a disk until it strikes; whether it did in time.
    async fn strikes(&self, fault: &Fault, text: &str, machine: &Machine, wrong: Wrong, until: u64) -> bool {
        let (told, mut struck) = mpsc::unbounded_channel();
        let _armed = Armed::new(&machine.disk, wrong, &told);
        let strikes = self.is_told(&mut struck, until).await;
        if strikes {
            self.begins(fault, text);
        }
        strikes
    }

    /// A node reads most when it starts, so it has to.
    async fn misread(
        self: &Arc<World>,
        fault: &Fault,
        text: &str,
        machine: Arc<Machine>,
        wrong: Wrong,
        until: u64,
    ) {
        let node = machine.host();
        self.universe.pump.note(WORLD, "restart", format!("{} for {text}", node_name(node)));
        self.take_down(node, Stop::Kill);
        let world = self.clone();
        madsim::task::spawn(async move {
            world.universe.sleep(RESTART_AFTER).await;
            world.boot_if_due(node);
        });
        self.while_wrong(fault, text, vec![(machine, wrong)], until).await;
    }

    /// The host is without power until then; something happens to it while it is.
    async fn power_loss_until(self: &Arc<World>, node: u32, until: u64, meanwhile: impl FnOnce()) {
        self.hold_down(node, until);
        self.take_down(node, Stop::PowerLoss);
        meanwhile();
        self.universe.sleep_until(until).await;
        self.boot_if_due(node);
    }
}

/// Something is wrong with a disk for as long as this lives.
struct Armed {
    disk: Arc<DiskModel>,
    number: u64,
}

impl Armed {
    fn new(disk: &Arc<DiskModel>, wrong: Wrong, told: &UnboundedSender<()>) -> Armed {
        Armed { disk: disk.clone(), number: disk.add_trouble(wrong, Some(told.clone())) }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.disk.end_trouble(self.number);
    }
}
