//! Who a client agent is: the little that it keeps on disk.
//!
//! A client has no state of the cluster's, but the others know it by an id, and its lives by a number that must
//! grow with each (gossip takes an older number for news of an earlier life). A server keeps both in its store.
//!
//! The file has two records, written in turn, each with its checksum: power lost while one is written leaves the
//! other. The first life's is the second in the file, so a blank first record says that no life was durable before.

use std::io;

use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64;

use crate::env::{Disk, Env, File};
use crate::raft::OpenError;

/// Name of the file in the node's directory.
pub const FILE_NAME: &str = "client.id";

const MAGIC: [u8; 8] = *b"dl-node1";
const RECORD: usize = 32;

/// A client's identity, and its hold on the directory.
pub struct Identity {
    /// The node's id, drawn at the first start.
    pub node_id: u64,
    /// The number of this life.
    pub life: u64,
    _lock: Box<dyn Send + Sync>,
}

/// Takes the directory, and counts one more life.
///
/// # Errors
/// When the directory is in use, cannot be written, is damaged, or is a server's.
pub async fn open(env: &Env) -> Result<Identity, OpenError> {
    let disk = env.disk();
    let directory = disk.describe();
    let fresh: u64 = env.rng("node id").random();
    let opened = env.blocking(move || open_now(&*disk, fresh)).await;
    opened
        .unwrap_or_else(|error| Err(OpenError::Io { directory, source: io::Error::other(error.to_string()) }))
}

fn open_now(disk: &dyn Disk, fresh: u64) -> Result<Identity, OpenError> {
    let directory = disk.describe();
    let failed = |source| OpenError::Io { directory: directory.clone(), source };
    let damaged =
        |reason: &str| OpenError::Damaged { directory: directory.clone(), reason: reason.to_owned() };
    let lock = disk.lock().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::InUse { directory: directory.clone(), source },
        _ => failed(source),
    })?;
    if crate::raft::Store::is_in(disk).map_err(failed)? {
        return Err(OpenError::Server { directory });
    }
    let is_new = !disk.exists(FILE_NAME).map_err(failed)?;
    let file = disk.open(FILE_NAME).map_err(failed)?;
    let (node_id, last) = match newest(&*file).map_err(failed)? {
        Some(record) => record,
        // The first life ended before it was durable.
        None if is_blank(&*file).map_err(failed)? => (fresh, 0),
        None => return Err(damaged("neither record of client.id is whole")),
    };
    let life = last + 1;
    file.write_at((life % 2) * RECORD as u64, &encode(node_id, life)).map_err(failed)?;
    file.sync().map_err(failed)?;
    if is_new {
        disk.sync_dir().map_err(failed)?;
    }
    Ok(Identity { node_id, life, _lock: lock })
}

fn encode(node_id: u64, life: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&MAGIC);
    record[8..16].copy_from_slice(&node_id.to_le_bytes());
    record[16..24].copy_from_slice(&life.to_le_bytes());
    let checksum = xxh3_64(&record[..24]);
    record[24..].copy_from_slice(&checksum.to_le_bytes());
    record
}

fn decode(record: &[u8; RECORD]) -> Option<(u64, u64)> {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&record[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    (record[..8] == MAGIC && number(24) == xxh3_64(&record[..24])).then(|| (number(8), number(16)))
}

/// Whether the first record was never written.
fn is_blank(file: &dyn File) -> io::Result<bool> {
    let mut record = [0; RECORD];
    let len = file.len()?.min(RECORD as u64) as usize;
    file.read_at(0, &mut record[..len])?;
    Ok(record == [0; RECORD])
}

/// The record of the latest life.
fn newest(file: &dyn File) -> io::Result<Option<(u64, u64)>> {
    let len = file.len()?;
    let mut found: Option<(u64, u64)> = None;
    for place in 0..2 {
        let at = place * RECORD as u64;
        if len < at + RECORD as u64 {
            continue;
        }
        let mut record = [0; RECORD];
        file.read_at(at, &mut record)?;
        if let Some(record) = decode(&record)
            && found.is_none_or(|(_, life)| life < record.1)
        {
            found = Some(record);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::MemoryDisk;

    #[test]
    fn the_id_stays_and_the_lives_are_counted() {
        let disk = MemoryDisk::default();
        for life in 1..5 {
            let identity = open_now(&disk, 70 + life).unwrap();
            assert_eq!((identity.node_id, identity.life), (71, life));
        }
    }

    #[test]
    fn a_torn_record_costs_a_life_at_most_and_two_are_refused() {
        let disk = MemoryDisk::default();
        for _ in 0..4 {
            open_now(&disk, 7).unwrap();
        }
        let file = disk.open(FILE_NAME).unwrap();
        // Lives 3 and 4 are there; the fourth was being written.
        file.write_at(20, &[0xff; 4]).unwrap();
        assert_eq!(open_now(&disk, 8).unwrap().life, 4);
        file.write_at(20, &[0xff; 4]).unwrap();
        file.write_at(RECORD as u64 + 20, &[0xff; 4]).unwrap();
        let refused = open_now(&disk, 8).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("client.id"), "{refused}");
    }

    #[test]
    fn a_first_life_that_was_never_durable_did_not_happen() {
        let disk = MemoryDisk::default();
        open_now(&disk, 7).unwrap();
        disk.open(FILE_NAME).unwrap().set_len(RECORD as u64 + 5).unwrap();
        assert_eq!(open_now(&disk, 8).map(|identity| (identity.node_id, identity.life)).ok(), Some((8, 1)));
    }

    #[test]
    fn two_clients_cannot_have_one_directory() {
        let disk = MemoryDisk::default();
        let first = open_now(&disk, 7).unwrap();
        assert!(matches!(open_now(&disk, 7), Err(OpenError::InUse { .. })));
        drop(first);
        assert!(open_now(&disk, 7).is_ok());
    }
}
