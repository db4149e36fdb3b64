//! The file that a snapshot is kept in: a tar in gzip with what it is (`meta.json`), the state (`state.bin`), and the
//! SHA-256 of both (`SHA256SUMS`). Consul's files have the same form, so the same tools open them; the state inside
//! is of course another.
//!
//! [`unpack`] trusts nothing: it checks every sum and every length, looks for what does not belong there, and never
//! unfolds more bytes than it was told to expect.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::state::snapshot::{self, Summary};

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";
/// Bytes of each of the two small files at most.
const SMALL: u64 = 64 * 1024;

/// What `meta.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Meta {
    /// Of this file's form; 1.
    pub version: u32,
    /// A name for the snapshot: made of its index and its content.
    #[serde(rename = "ID")]
    pub id: String,
    /// The log index up to which the state was.
    pub index: u64,
    /// Bytes of the state.
    pub size: u64,
    /// Whose state it is.
    #[serde(default)]
    pub program: String,
}

const PROGRAM: &str = "driftline";

/// What is in a file that was found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What the file says of it.
    pub meta: Meta,
    /// What it is.
    pub summary: Summary,
    /// The state.
    pub state: Vec<u8>,
}

/// Why a file is not restored. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no snapshot that can be restored: {0}")]
pub struct BadArchive(String);

fn bad(reason: impl std::fmt::Display) -> BadArchive {
    BadArchive(reason.to_string())
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the file of a state's bytes, always the same of the same.
///
/// # Errors
/// When the bytes are none of a state.
pub fn pack(state: &[u8]) -> Result<Vec<u8>, BadArchive> {
    let Summary { applied, .. } = snapshot::describe(state).map_err(bad)?;
    let sum_of_state = sum(state);
    let meta = Meta {
        version: 1,
        id: format!("{applied}-{}", &sum_of_state[..16]),
        index: applied,
        size: state.len() as u64,
        program: PROGRAM.to_owned(),
    };
    let meta = serde_json::to_vec(&meta).map_err(bad)?;
    let sums = format!("{}  {META}\n{sum_of_state}  {STATE}\n", sum(&meta));
    // All this is memory: there is no way to fail.
    let packed = || -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in [(META, &meta[..]), (STATE, state), (SUMS, sums.as_bytes())] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(0);
            tar.append_data(&mut header, name, content)?;
        }
        let mut gzip = tar.into_inner()?;
        gzip.flush()?;
        gzip.finish()
    };
    packed().map_err(bad)
}

/// Takes a file apart, and checks it.
///
/// # Errors
/// What is wrong with it. A state of more than `limit` bytes is refused before it is unfolded.
pub fn unpack(file: &[u8], limit: u64) -> Result<Contents, BadArchive> {
    let too_large = || bad(format!("it holds more than the {limit} bytes that limits.snapshot_bytes allows"));
    // Three heads, three ends of a block, and the end of the archive come on top of the content.
    let most = limit.saturating_add(2 * SMALL + 64 * 1024);
    let mut unfolded = GzDecoder::new(file).take(most);
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut tar = tar::Archive::new(&mut unfolded);
    for entry in tar.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let most = match name.as_str() {
            META | SUMS => SMALL,
            STATE => limit,
            other => return Err(bad(format!("{other:?} does not belong there"))),
        };
        let length = entry.size();
        if length > most {
            return Err(if name == STATE { too_large() } else { bad(format!("{name} is too long")) });
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(bad)?;
        if content.len() as u64 != length {
            return Err(bad(format!("{name} is cut short")));
        }
        if files.insert(name.clone(), content).is_some() {
            return Err(bad(format!("{name} is there twice")));
        }
    }
    // To the end, where gzip's own checksum is.
    io::copy(&mut unfolded, &mut io::sink()).map_err(bad)?;
    if unfolded.limit() == 0 {
        return Err(too_large());
    }
    if !unfolded.into_inner().into_inner().is_empty() {
        return Err(bad("something follows its end"));
    }
    let mut take = |name: &str| files.remove(name).ok_or_else(|| bad(format!("{name} is missing")));
    let (meta, state, sums) = (take(META)?, take(STATE)?, take(SUMS)?);
    let sums = std::str::from_utf8(&sums).map_err(bad)?;
    for (name, content) in [(META, &meta), (STATE, &state)] {
        let listed =
            sums.lines().filter_map(|line| line.split_once("  ")).find(|(_, listed)| *listed == name);
        match listed {
            None => return Err(bad(format!("{SUMS} does not list {name}"))),
            Some((listed, _)) if !listed.eq_ignore_ascii_case(&sum(content)) => {
                return Err(bad(format!("{name} is damaged: its checksum is another")));
            }
            Some(_) => {}
        }
    }
    let meta: Meta = serde_json::from_slice(&meta).map_err(|error| bad(format!("{META}: {error}")))?;
    if meta.program != PROGRAM {
        return Err(bad("it is of another program, whose state means nothing here"));
    }
    let summary = snapshot::describe(&state).map_err(bad)?;
    if (meta.index, meta.size) != (summary.applied, state.len() as u64) {
        return Err(bad(format!("{META} is about another state")));
    }
    Ok(Contents { meta, summary, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, KvCommand, Request, RequestId, State};
    use proptest::prelude::*;

    fn state() -> Vec<u8> {
        let mut state = State::default();
        for number in 1..20u64 {
            let (key, value) = (format!("key-{number}"), b"some value".as_slice().into());
            let command = Command::Kv(KvCommand::Set { key, value, flags: 0, cas: None });
            let id = RequestId { origin: 1, number };
            assert!(state.apply(number, &Request { id, done_below: 0, command }).is_done());
        }
        state.to_snapshot()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    fn with(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        gzip(&tar.into_inner().unwrap())
    }

    #[test]
    fn what_is_packed_is_what_is_unpacked() {
        let state = state();
        let file = pack(&state).unwrap();
        assert_eq!(file[..2], [0x1f, 0x8b]);
        assert_eq!(file, pack(&state).unwrap());
        let contents = unpack(&file, 1 << 20).unwrap();
        assert_eq!((contents.meta.index, contents.meta.size), (19, state.len() as u64));
        assert_eq!((contents.summary.applied, contents.state), (19, state));
    }

    #[test]
    fn no_damaged_byte_goes_unnoticed() {
        let file = pack(&state()).unwrap();
        let whole = unpack(&file, 1 << 20).unwrap();
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x04;
            // Some bits of gzip say nothing, and zeros may be copied from other zeros: nothing is damaged then.
            let harmless = unpack(&damaged, 1 << 20).is_ok_and(|contents| contents == whole);
            assert!(harmless || unpack(&damaged, 1 << 20).is_err(), "byte {at}");
            assert!(unpack(&file[..at], 1 << 20).is_err(), "cut at {at}");
        }
        assert!(unpack(&[&file[..], b"more"].concat(), 1 << 20).is_err());
    }

    #[test]
    fn what_does_not_belong_is_named() {
        let state = state();
        let Contents { meta, .. } = unpack(&pack(&state).unwrap(), 1 << 20).unwrap();
        let made = |meta: &Meta, extra: &[(&str, &[u8])]| {
            let meta = serde_json::to_vec(meta).unwrap();
            let sums = format!("{}  {META}\n{}  {STATE}\n", sum(&meta), sum(&state));
            let mut files = vec![(META, &meta[..]), (STATE, &state[..]), (SUMS, sums.as_bytes())];
            files.extend(extra);
            unpack(&with(&files), 1 << 20).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(made(&meta, &[]), Ok(()));
        let error = |meta: &Meta, extra: &[(&str, &[u8])]| made(meta, extra).unwrap_err();
        assert!(error(&meta, &[("other", b"")]).contains("\"other\""));
        assert!(error(&meta, &[(STATE, b"")]).contains("twice"));
        assert!(error(&Meta { index: 7, ..meta.clone() }, &[]).contains("another state"));
        assert!(error(&Meta { program: String::new(), ..meta.clone() }, &[]).contains("another program"));
        let lacking = unpack(&with(&[(META, b"{}")]), 1 << 20).unwrap_err().to_string();
        assert!(lacking.contains("state.bin is missing"), "{lacking}");
        assert!(unpack(b"no archive at all", 1 << 20).is_err());
    }

    #[test]
    fn a_small_file_that_unfolds_to_a_large_one_is_refused() {
        let file = pack(&state()).unwrap();
        assert!(unpack(&file, 10).unwrap_err().to_string().contains("limits.snapshot_bytes"));
        // Nothing but zeros, which is the end of an archive that never ends.
        let bomb = gzip(&vec![0; 8 << 20]);
        assert!(bomb.len() < 64 << 10);
        assert!(unpack(&bomb, 1 << 20).unwrap_err().to_string().contains("limits.snapshot_bytes"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_snapshot_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            prop_assert!(unpack(&bytes, 1 << 20).is_err());
            prop_assert!(unpack(&gzip(&bytes), 1 << 20).is_err());
        }
    }
}
