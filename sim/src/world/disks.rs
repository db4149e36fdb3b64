//! What the storm does to disks.

use std::sync::Arc;
use std::time::Duration;

use super::{LOOK_EVERY, RESTART_AFTER, World};
use crate::check::Stop;
use crate::disk::Wrong;
use crate::executor::Machine;
use crate::scenario::{DiskFault, Fault, FileKind};

impl World {
    pub(super) async fn wrong_disk(self: &Arc<World>, fault: &Fault, node: u32, what: DiskFault) {
        let Some(machine) = self.machine(node) else { return };
        let until = self.now().saturating_add(fault.for_ms.saturating_mul(1_000_000));
        let duration = Duration::from_millis(fault.for_ms);
        self.begins(fault, &format!("{what:?} on n{node}"));
        match what {
            DiskFault::Slow { factor } => {
                machine.disk.set_wrong(|wrong| wrong.slowness = factor);
                self.universe.sleep(duration).await;
                machine.disk.set_wrong(|wrong| wrong.slowness = 0);
            }
            DiskFault::Stall => {
                machine.disk.set_wrong(|wrong| wrong.stalled_until = until);
                self.universe.sleep(duration).await;
            }
            DiskFault::Full { left_bytes, everywhere } => {
                let mut full = vec![machine];
                if everywhere {
                    full = self.machines().into_values().collect();
                }
                for machine in &full {
                    let capacity = machine.disk.used().saturating_add(left_bytes);
                    machine.disk.set_wrong(|wrong| wrong.capacity = Some(capacity));
                }
                self.universe.sleep(duration).await;
                for machine in &full {
                    machine.disk.set_wrong(|wrong| wrong.capacity = None);
                }
            }
            DiskFault::ReadError { reads, after_reads, of } => {
                machine.disk.set_wrong(|wrong| wrong.good_reads = after_reads);
                self.misread(node, &machine, until, |wrong| &mut wrong.failing_reads, reads, of).await;
            }
            DiskFault::ShortRead { reads, of } => {
                self.misread(node, &machine, until, |wrong| &mut wrong.short_reads, reads, of).await;
            }
            DiskFault::MisdirectedRead { reads, of } => {
                self.misread(node, &machine, until, |wrong| &mut wrong.misdirected_reads, reads, of).await;
            }
            DiskFault::WriteError { writes } => {
                machine.disk.set_wrong(|wrong| wrong.failing_writes = writes);
                self.universe.sleep(duration).await;
                machine.disk.set_wrong(|wrong| wrong.failing_writes = 0);
            }
            DiskFault::MisdirectedWrite { power_loss_after_ms, of } => {
                let before = machine.disk.counters().damages;
                machine.disk.set_wrong(|wrong| {
                    wrong.misdirected_writes = 1;
                    wrong.misdirected_write_aim = of.map(FileKind::prefix);
                });
                while machine.disk.counters().damages == before {
                    if self.now() >= until {
                        machine.disk.set_wrong(|wrong| wrong.misdirected_writes = 0);
                        return;
                    }
                    self.universe.sleep(Duration::from_millis(1)).await;
                }
                self.universe.sleep(Duration::from_millis(power_loss_after_ms)).await;
                self.power_loss_until(node, self.now() + RESTART_AFTER.as_nanos() as u64, || ()).await;
            }
            DiskFault::SyncCrash { file, sync, power_loss } => {
                let before = machine.disk.counters().trapped;
                machine.disk.set_wrong(|wrong| wrong.trap = Some((file.prefix(), sync)));
                while machine.disk.counters().trapped == before {
                    if self.now() >= until {
                        machine.disk.set_wrong(|wrong| wrong.trap = None);
                        return;
                    }
                    self.universe.sleep(Duration::from_millis(1)).await;
                }
                let stop = if power_loss { Stop::PowerLoss } else { Stop::Kill };
                self.restart(node, stop).await;
            }
            DiskFault::BitRot { sectors } => {
                self.power_loss_until(node, until, || machine.disk.rot(sectors, self.scenario.beyond)).await;
            }
            DiskFault::LyingSync => {
                machine.disk.set_wrong(|wrong| wrong.lies = true);
                self.universe.sleep(duration).await;
                let restart = self.now() + RESTART_AFTER.as_nanos() as u64;
                self.power_loss_until(node, restart, || machine.disk.set_wrong(|wrong| wrong.lies = false))
                    .await;
            }
        }
    }

    /// A node reads when it starts, so it has to.
    async fn misread(
        self: &Arc<World>,
        node: u32,
        machine: &Machine,
        until: u64,
        which: fn(&mut Wrong) -> &mut u32,
        reads: u32,
        of: Option<FileKind>,
    ) {
        self.take_down(node, Stop::Kill);
        machine.disk.set_wrong(|wrong| {
            *which(wrong) = reads;
            wrong.read_aim = of.map(FileKind::prefix);
        });
        self.universe.sleep(RESTART_AFTER).await;
        self.boot_if_due(node);
        while self.now() < until {
            self.universe.sleep(LOOK_EVERY).await;
        }
        machine.disk.set_wrong(|wrong| {
            wrong.good_reads = 0;
            *which(wrong) = 0;
        });
    }

    /// The host is without power until then; something happens to it while it is.
    async fn power_loss_until(self: &Arc<World>, node: u32, until: u64, meanwhile: impl FnOnce()) {
        {
            let mut state = self.state();
            let held = state.down_until.entry(node).or_default();
            *held = (*held).max(until);
        }
        self.take_down(node, Stop::PowerLoss);
        meanwhile();
        self.universe.sleep_until(until).await;
        self.boot_if_due(node);
    }
}
