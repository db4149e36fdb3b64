//! What a disk can do, as data; and the atlas: on which disks it may do what cannot be undone.
//!
//! Some faults end and leave nothing behind: a slow disk, an error, a full disk. Others *damage*: what was
//! acknowledged is gone or wrong on that disk for good. A cluster survives those only while a majority has
//! everything. So a plan has an atlas: in the whole run only these nodes' disks are ever damaged, fewer than
//! half of all, and none when nodes leave or lose their disks, because whoever is left then is the majority (TigerBeetle's
//! `ClusterFaultAtlas` is the model). Within it the cluster must stay correct *and* come back to life.
//!
//! A plan that is [`beyond`](super::Scenario::beyond) has no atlas and may have disks that lie. Then only what
//! needs no intact disk is demanded: see `sim::check`.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::generate::log_uniform;
use super::{FaultKind, Scenario, Target, stream};

/// The kinds of disk faults, by name.
pub const DISK_KINDS: [&str; 11] = [
    "disk-slow",
    "disk-stall",
    "disk-full",
    "read-error",
    "write-error",
    "short-read",
    "misdirected-read",
    "misdirected-write",
    "bit-rot",
    "lying-sync",
    "sync-crash",
];

/// What a disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DiskFault {
    /// Every call takes longer.
    Slow {
        /// So many times as long.
        factor: u64,
    },
    /// No call returns until the fault ends.
    Stall,
    /// There is hardly any space left; files can be written over, but not grow.
    Full {
        /// So much is left.
        left_bytes: u64,
        /// On the disk of every node, and not only the one.
        everywhere: bool,
    },
    /// Reads fail. The process is killed when it begins, because it is at its start that a node reads.
    ReadError {
        /// So many.
        reads: u32,
        /// After so many that do not.
        after_reads: u32,
        /// Of these files only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<FileKind>,
    },
    /// Writes fail.
    WriteError {
        /// So many.
        writes: u32,
    },
    /// Reads find their file too short. The process is killed when it begins.
    ShortRead {
        /// So many.
        reads: u32,
        /// Of these files only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<FileKind>,
    },
    /// In reads some sectors come from elsewhere in their file. The process is killed when it begins.
    ///
    /// However many reads it strikes, a place that was read wrongly is right the next two times. A node believes a copy of its vote that
    /// it has read twice in a row: were all three to come old twice, nothing could tell that from the truth, and it would be
    /// unfair to ask. Once each is fair, and a node that believes a copy at first sight is found out.
    MisdirectedRead {
        /// So many, of those in which it makes a difference.
        reads: u32,
        /// After so many that are right.
        #[serde(default, skip_serializing_if = "is_none")]
        after_reads: u32,
        /// From where the sector was before the disk moved it: what comes is whole, belongs there, and is old. Of identity and
        /// vote only, because nothing else is read twice.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        outdated: bool,
        /// Of these files only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<FileKind>,
    },
    /// A write lands elsewhere in its file, and some time later the power fails.
    MisdirectedWrite {
        /// How long after it.
        power_loss_after_ms: u64,
        /// To one of these files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<FileKind>,
    },
    /// The power fails, and sectors rot before it is back.
    BitRot {
        /// So many.
        sectors: u32,
    },
    /// Syncs promise what they do not do; at the end the power fails.
    LyingSync,
    /// The host goes down in the middle of a sync: the moment that a random crash hardly ever meets.
    SyncCrash {
        /// Of a file whose name begins so.
        file: FileKind,
        /// Of its next syncs this one, from 1.
        sync: u32,
        /// Whether the power fails, and not only the process dies.
        power_loss: bool,
    },
}

fn is_none(number: &u32) -> bool {
    *number == 0
}

/// The files of a node, by what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// The log.
    Log,
    /// Identity and vote.
    Meta,
    /// Snapshots.
    Snapshot,
}

impl FileKind {
    /// How the names of such files begin.
    pub fn prefix(self) -> &'static str {
        match self {
            FileKind::Log => "log-",
            FileKind::Meta => "meta",
            FileKind::Snapshot => "snapshot",
        }
    }
}

impl DiskFault {
    /// The kind's name, one of [`DISK_KINDS`].
    pub fn name(&self) -> &'static str {
        match self {
            DiskFault::Slow { .. } => "disk-slow",
            DiskFault::Stall => "disk-stall",
            DiskFault::Full { .. } => "disk-full",
            DiskFault::ReadError { .. } => "read-error",
            DiskFault::WriteError { .. } => "write-error",
            DiskFault::ShortRead { .. } => "short-read",
            DiskFault::MisdirectedRead { .. } => "misdirected-read",
            DiskFault::MisdirectedWrite { .. } => "misdirected-write",
            DiskFault::BitRot { .. } => "bit-rot",
            DiskFault::LyingSync => "lying-sync",
            DiskFault::SyncCrash { .. } => "sync-crash",
        }
    }

    /// Whether what was acknowledged may be gone afterwards, or seem to be: a server that reads damage
    /// begins anew, whether the platter or the way from it is to blame.
    pub fn damages(&self) -> bool {
        matches!(
            self,
            DiskFault::MisdirectedRead { .. }
                | DiskFault::MisdirectedWrite { .. }
                | DiskFault::BitRot { .. }
                | DiskFault::LyingSync
        )
    }

    /// Whether no program could notice, so that a plan must be beyond repair.
    pub fn lies(&self) -> bool {
        matches!(self, DiskFault::LyingSync)
    }
}

/// The process that is to read has yet to start: a fault that ends before never happened.
const SHORTEST_MISREAD_MS: u64 = 1_000;

/// Whether kinds of fault are on is drawn before anything is left out, so that leaving one out moves no other.
pub fn atlas(seed: u64, nodes: u32, beyond: bool, nodes_leave: bool) -> BTreeSet<u32> {
    if beyond {
        return (0..nodes).collect();
    }
    if nodes_leave {
        return BTreeSet::new();
    }
    let rng = &mut stream(seed, "atlas");
    let mut all: Vec<u32> = (0..nodes).collect();
    let mut chosen = BTreeSet::new();
    for _ in 0..nodes.saturating_sub(1) / 2 {
        chosen.insert(all.swap_remove(rng.random_range(0..all.len())));
    }
    chosen
}

impl Scenario {
    /// Leaves out what the atlas has no place for: of a plan that was put together from several.
    pub fn fit_damages(&mut self) {
        if self.beyond {
            return;
        }
        let nodes_leave = self.faults.iter().any(|fault| fault.kind.takes_a_node());
        let most = if nodes_leave { 0 } else { (self.nodes.saturating_sub(1) / 2) as usize };
        let mut hit = BTreeSet::new();
        self.faults.retain(|fault| {
            if !fault.kind.damages() {
                return true;
            }
            let FaultKind::Disk { target: Target::Node(node), fault } = &fault.kind else { return false };
            let fits = !fault.lies() && (hit.contains(node) || hit.len() < most);
            if fits {
                hit.insert(*node);
            }
            fits
        });
    }
}

/// The files that a fault is aimed at, in half of the cases: what is read or written rarely is hardly ever met otherwise.
fn aim(rng: &mut StdRng) -> Option<FileKind> {
    let files = [FileKind::Log, FileKind::Log, FileKind::Meta, FileKind::Snapshot];
    rng.random_bool(0.5).then(|| files[rng.random_range(0..files.len())])
}

/// The files in which reads and writes go astray: of one kind in a run, because what a write left where it does not
/// belong only a read of the same file can find.
pub fn astray(rng: &mut StdRng) -> Option<FileKind> {
    let files = [FileKind::Log, FileKind::Meta, FileKind::Meta, FileKind::Snapshot];
    rng.random_bool(0.75).then(|| files[rng.random_range(0..files.len())])
}

/// One disk fault of a kind and its duration; none, if the atlas has no place for it.
pub fn draw(
    rng: &mut StdRng,
    kind: &str,
    target: Target,
    astray: Option<FileKind>,
    atlas: &BTreeSet<u32>,
    beyond: bool,
) -> Option<(u64, FaultKind)> {
    let some = rng.random_range(1..=3);
    // A program that takes one error for something else is stopped by the next.
    let few = if rng.random_bool(0.5) { 1 } else { some };
    let (for_ms, fault) = match kind {
        "disk-slow" => (log_uniform(rng, 500, 10_000), DiskFault::Slow { factor: log_uniform(rng, 5, 500) }),
        "disk-stall" => (log_uniform(rng, 50, 5_000), DiskFault::Stall),
        "disk-full" => {
            let left_bytes = log_uniform(rng, 1, 65_536);
            (log_uniform(rng, 500, 10_000), DiskFault::Full { left_bytes, everywhere: rng.random_bool(0.3) })
        }
        "read-error" => {
            let of = aim(rng);
            let most = if of.is_some() { 8 } else { 64 };
            let after_reads = if rng.random_bool(0.75) { log_uniform(rng, 1, most) as u32 } else { 0 };
            (
                log_uniform(rng, SHORTEST_MISREAD_MS, 4_000),
                DiskFault::ReadError { reads: few, after_reads, of },
            )
        }
        "write-error" => (log_uniform(rng, 200, 4_000), DiskFault::WriteError { writes: some }),
        "short-read" => {
            (log_uniform(rng, SHORTEST_MISREAD_MS, 4_000), DiskFault::ShortRead { reads: few, of: aim(rng) })
        }
        "misdirected-read" => {
            // A start first looks whether the last file of the log is blank, and only then reads what matters; more is read later.
            let most = if astray.is_some() { 8 } else { 64 };
            let after_reads = if rng.random_bool(0.6) { log_uniform(rng, 1, most) as u32 } else { 0 };
            let fault = if astray == Some(FileKind::Meta) && rng.random_bool(0.5) {
                // The newest copy counts, so an old vote is believed only if all three are old when a start reads them.
                DiskFault::MisdirectedRead { reads: 2 + some, after_reads: 0, outdated: true, of: astray }
            } else {
                DiskFault::MisdirectedRead { reads: some, after_reads, outdated: false, of: astray }
            };
            (log_uniform(rng, SHORTEST_MISREAD_MS, 8_000), fault)
        }
        "misdirected-write" => {
            let power_loss_after_ms = log_uniform(rng, 1, 2_000);
            (log_uniform(rng, 500, 8_000), DiskFault::MisdirectedWrite { power_loss_after_ms, of: astray })
        }
        "bit-rot" => {
            (log_uniform(rng, 100, 8_000), DiskFault::BitRot { sectors: log_uniform(rng, 1, 16) as u32 })
        }
        "sync-crash" => {
            let files = [FileKind::Log, FileKind::Meta, FileKind::Snapshot, FileKind::Snapshot];
            let file = files[rng.random_range(0..files.len())];
            let power_loss = rng.random_bool(0.6);
            let fault = DiskFault::SyncCrash { file, sync: rng.random_range(1..=3), power_loss };
            (log_uniform(rng, 2_000, 15_000), fault)
        }
        "lying-sync" => (log_uniform(rng, 100, 8_000), DiskFault::LyingSync),
        _ => return None,
    };
    let victims: Vec<u32> = atlas.iter().copied().collect();
    let at = rng.random_range(0..victims.len().max(1));
    if fault.lies() && !beyond {
        return None;
    }
    let target = if fault.damages() { Target::Node(*victims.get(at)?) } else { target };
    Some((for_ms, FaultKind::Disk { target, fault }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misread_of_an_older_plan_is_one_of_the_first_reads_and_some_are_of_an_old_vote() {
        let older = r#"{"misdirected-read":{"reads":2,"of":"meta"}}"#;
        let fault: DiskFault = serde_json::from_str(older).unwrap();
        let of = Some(FileKind::Meta);
        assert_eq!(fault, DiskFault::MisdirectedRead { reads: 2, after_reads: 0, outdated: false, of });
        assert_eq!(serde_json::to_string(&fault).unwrap(), older);
        let drawn: Vec<DiskFault> = (0..100)
            .filter_map(|seed| {
                let (rng, target) = (&mut stream(seed, "test"), Target::Leader);
                let (_, kind) = draw(rng, "misdirected-read", target, of, &BTreeSet::from([1]), false)?;
                match kind {
                    FaultKind::Disk { fault, target: Target::Node(1) } => Some(fault),
                    _ => None,
                }
            })
            .collect();
        let old = |fault: &&DiskFault| {
            // Three copies, each read once by whoever believes it at first sight.
            matches!(fault, DiskFault::MisdirectedRead { outdated: true, after_reads: 0, reads: 3.., .. })
        };
        let later = |fault: &&DiskFault| matches!(fault, DiskFault::MisdirectedRead { after_reads: 1.., .. });
        assert!(drawn.iter().filter(old).count() > 20 && drawn.iter().filter(later).count() > 20);
    }
}
