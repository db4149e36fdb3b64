//! Snapshots: one file each, complete or not there.
//!
//! A snapshot is written under another name, synced, renamed, and the directory synced; then those
//! before it are removed. A power loss leaves the one before or the new one, or both. The name says what
//! it covers; the newest counts. A file that bears a snapshot's name was whole when it got it, so one
//! whose checksum does not fit has been damaged since, and no older one may take its place: the log
//! before it may be gone.
//!
//! ```text
//! "DRIFTSN1" | length of meta, 4 | length of data, 8 | meta | data | digest of all before, 8
//! ```

use std::io;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::{damaged, log_id_parts, sync, sync_dir};
use crate::env::Disk;
use crate::mutant;
use crate::raft::SnapshotMeta;

const MAGIC: &[u8; 8] = b"DRIFTSN1";
const PREFIX: &str = "snapshot-";
const MAKING: &str = "snapshot.tmp";
/// Bytes written or read at once.
const PIECE: usize = 1 << 20;

/// Whether a file of this name is a snapshot, or the one that is being made.
pub fn is_mine(name: &str) -> bool {
    name.starts_with(PREFIX) || name == MAKING
}

fn name(meta: &SnapshotMeta) -> String {
    let (term, index) = meta.last_log_id.map(log_id_parts).unwrap_or_default();
    format!("{PREFIX}{index:016x}-{term:016x}")
}

/// The names of the snapshots in the directory, the newest last.
pub fn names(disk: &dyn Disk) -> io::Result<Vec<String>> {
    Ok(disk.list()?.into_iter().filter(|name| name.starts_with(PREFIX)).collect())
}

/// Writes a snapshot durably; the older ones are removed.
///
/// # Errors
/// `StorageFull` leaves everything as it was. After any other the disk cannot be trusted.
pub fn save(disk: &dyn Disk, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
    let name = name(meta);
    // Mutant S07: the snapshot that is there is overwritten.
    let in_place = mutant::is("S07").then(|| names(disk)).transpose()?.and_then(|mut all| all.pop());
    let making = in_place.as_deref().unwrap_or(MAKING);
    if in_place.is_none() && disk.exists(MAKING)? {
        disk.remove(MAKING)?;
    }
    let written = write(disk, making, meta, data);
    if let Err(error) = written {
        if error.kind() == io::ErrorKind::StorageFull && in_place.is_none() {
            disk.remove(MAKING)?;
        }
        return Err(error);
    }
    disk.rename(making, &name)?;
    sync_dir(disk)?;
    for older in names(disk)?.into_iter().filter(|other| *other < name) {
        disk.remove(&older)?;
    }
    Ok(())
}

/// Part of mutants R22 and R23: the first half of what [`save`] does at once. R22 has the new data under the old index,
/// R23 the new index with the old data.
pub fn save_half(disk: &dyn Disk, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
    let Some((old_meta, old_data)) = load(disk)? else { return Ok(()) };
    let (meta, data) = if mutant::is("R22") { (&old_meta, data) } else { (meta, &*old_data) };
    write(disk, MAKING, meta, data)?;
    disk.rename(MAKING, &name(meta))?;
    sync_dir(disk)
}

fn write(disk: &dyn Disk, making: &str, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
    let meta = postcard::to_stdvec(meta).map_err(io::Error::other)?;
    let file = disk.open(making)?;
    file.set_len(0)?;
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&(meta.len() as u32).to_le_bytes());
    head.extend_from_slice(&(data.len() as u64).to_le_bytes());
    head.extend_from_slice(&meta);
    let mut digest = Xxh3::new();
    let mut offset = 0;
    for piece in std::iter::once(head.as_slice()).chain(data.chunks(PIECE)) {
        digest.update(piece);
        file.write_at(offset, piece)?;
        offset += piece.len() as u64;
    }
    file.write_at(offset, &digest.digest().to_le_bytes())?;
    sync(&*file)
}

/// The newest snapshot, if there is one. Older ones, which only an interrupted [`save`] leaves, are removed.
///
/// # Errors
/// `InvalidData` when it is damaged.
pub fn load(disk: &dyn Disk) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
    let mut all = names(disk)?;
    let Some(newest) = all.pop() else { return Ok(None) };
    let bad = |what: &str| damaged(format!("{newest}: {what}"));
    let file = disk.open(&newest)?;
    let len = usize::try_from(file.len()?).map_err(|_| bad("too long"))?;
    let mut bytes = vec![0; len];
    for (at, piece) in bytes.chunks_mut(PIECE).enumerate() {
        file.read_at((at * PIECE) as u64, piece)?;
    }
    let (content, digest) = bytes.split_last_chunk::<8>().ok_or_else(|| bad("too short"))?;
    let mut hasher = Xxh3::new();
    hasher.update(content);
    if hasher.digest() != u64::from_le_bytes(*digest) {
        return Err(bad("checksum mismatch"));
    }
    let lengths = content.strip_prefix(MAGIC).ok_or_else(|| bad("not a snapshot"))?;
    let (meta_len, rest) = lengths.split_first_chunk::<4>().ok_or_else(|| bad("too short"))?;
    let (_, rest) = rest.split_first_chunk::<8>().ok_or_else(|| bad("too short"))?;
    let meta_len = u32::from_le_bytes(*meta_len) as usize;
    let (meta, data) = rest.split_at_checked(meta_len).ok_or_else(|| bad("too short"))?;
    let length = data.len();
    let meta: SnapshotMeta = postcard::from_bytes(meta).map_err(|error| bad(&error.to_string()))?;
    if name(&meta) != newest {
        return Err(bad("it belongs under another name"));
    }
    for older in all {
        disk.remove(&older)?;
    }
    // Not a copy: the data is all but the head and the digest.
    let end = len - size_of::<u64>();
    Ok(Some((meta, Bytes::from(bytes).slice(end - length..end))))
}
