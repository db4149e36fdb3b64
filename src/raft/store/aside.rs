//! What is damaged is moved out of the way, never removed: `damaged-1.meta`, `damaged-1.log-…`.
//!
//! The server that begins anew in its place has another id, so nobody mistakes it for the one that
//! forgot its vote and its log; it joins as one who has nothing yet. It is moved file by file: wherever that
//! is interrupted, what is left is still recognised as damaged, and the next start goes on.
//!
//! Only what Raft keeps is moved. What else is in the directory, the keys of gossip above all, is checked by whoever keeps it:
//! a server without the keys that it was given later could not come back.

use std::collections::BTreeSet;
use std::io;

use super::{meta, snapshot, sync_dir, wal};
use crate::env::Disk;
use crate::mutant;

const PREFIX: &str = "damaged-";
/// So many sets of damaged files are kept. A disk that damages more is not worth another try.
pub const MOST: usize = 16;

fn number(name: &str) -> Option<usize> {
    name.strip_prefix(PREFIX)?.split_once('.')?.0.parse().ok()
}

fn numbers(disk: &dyn Disk) -> io::Result<BTreeSet<usize>> {
    Ok(disk.list()?.iter().filter_map(|name| number(name)).collect())
}

/// How many sets there are.
pub fn sets(disk: &dyn Disk) -> io::Result<usize> {
    Ok(numbers(disk)?.len())
}

/// Moves all that Raft keeps out of the way, durably; returns how the new names begin.
pub fn move_away(disk: &dyn Disk) -> io::Result<String> {
    let next = numbers(disk)?.last().map_or(1, |last| last + 1);
    let prefix = format!("{PREFIX}{next}.");
    let of_raft = |name: &String| {
        let all = mutant::is("K03") && number(name).is_none();
        // Mutant K03: what others keep there goes along.
        all || meta::is_mine(name) || wal::is_mine(name) || snapshot::is_mine(name)
    };
    for name in disk.list()?.into_iter().filter(of_raft) {
        disk.rename(&name, &format!("{prefix}{name}"))?;
    }
    sync_dir(disk)?;
    Ok(prefix)
}
