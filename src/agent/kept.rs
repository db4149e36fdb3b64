//! Small files of text that an agent keeps.
//!
//! Each is a line with its version and a checksum, and then JSON. It is written under another name and renamed, so that power
//! lost meanwhile leaves the one before.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use crate::env::Disk;

/// What every file begins with.
const HEAD: &str = "driftline 1 ";
/// A file that is longer is none of ours.
const MOST: u64 = 4 << 20;

/// The text of a file that keeps this.
pub fn content(value: &impl Serialize) -> String {
    // Plain data always has a text.
    let json = serde_json::to_string(value).unwrap_or_default();
    format!("{HEAD}{:016x}\n{json}\n", xxh3_64(json.as_bytes()))
}

/// What a file with this text keeps.
///
/// # Errors
/// What is wrong with it.
pub fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let (head, json) = text.split_once('\n').ok_or("it has no first line")?;
    let json = json.strip_suffix('\n').ok_or("it is cut short")?;
    let sum = head.strip_prefix(HEAD).ok_or("it is of another version, or none of this program's")?;
    if sum != format!("{:016x}", xxh3_64(json.as_bytes())) {
        return Err("it is damaged: its checksum is another".to_owned());
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// The text of a file.
///
/// # Errors
/// The disk's; `InvalidData` when it is too long for one of ours, or no text.
pub fn read(disk: &dyn Disk, name: &str) -> io::Result<String> {
    let file = disk.open(name)?;
    let len = file.len()?;
    if len > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
