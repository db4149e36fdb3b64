//! The state as bytes, and back.
//!
//! A snapshot is a version, sections, and a checksum of all before it. A section is a name, a length and
//! the postcard form of one part of the state. Order is of no importance; a section that is absent means
//! an empty part, so a snapshot from before a part existed is readable. One with a section that this
//! program does not know is refused: its content would be lost without a word.
//!
//! Version 1 was the postcard form of three fields in a row. It is still read.

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use super::dedup::Dedup;
use super::{Acl, KvStore, State};

/// Version of the encoding; the first byte of every snapshot.
const VERSION: u8 = 2;

/// Why bytes are not a snapshot of a [`State`].
#[derive(Debug, thiserror::Error)]
#[error("the snapshot does not decode: {0}; it is damaged or from an incompatible version")]
pub struct BadSnapshot(String);

fn bad(reason: impl std::fmt::Display) -> BadSnapshot {
    BadSnapshot(reason.to_string())
}

/// Appends a section; `write` appends its content.
fn section(bytes: &mut Vec<u8>, name: &str, write: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(name.as_bytes());
    let at = bytes.len();
    bytes.extend_from_slice(&[0; 8]);
    *bytes = write(std::mem::take(bytes));
    let length = (bytes.len() - at - 8) as u64;
    bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
}

fn part(bytes: &mut Vec<u8>, name: &str, part: &impl Serialize) {
    // Serialising plain data into memory has no way to fail.
    section(bytes, name, |bytes| postcard::to_extend(part, bytes).unwrap_or_default());
}

/// The first section, and what follows it.
fn first_section(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (content, rest) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(name).ok()?, content, rest))
}

fn decoded<T: DeserializeOwned>(name: &str, content: &[u8]) -> Result<T, BadSnapshot> {
    match postcard::take_from_bytes(content) {
        Ok((part, [])) => Ok(part),
        Ok((_, rest)) => Err(bad(format!("{} bytes too many in section {name:?}", rest.len()))),
        Err(error) => Err(bad(format!("section {name:?}: {error}"))),
    }
}

pub(super) fn write(state: &State, capacity: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(capacity);
    bytes.push(VERSION);
    part(&mut bytes, "applied", &state.applied);
    part(&mut bytes, "kv", &state.kv);
    // Mutant R59: sessions are left out.
    if !crate::mutant::is("R59") {
        part(&mut bytes, "sessions", &state.sessions);
    }
    part(&mut bytes, "catalog", &state.catalog);
    part(&mut bytes, "coordinates", &state.places);
    // A program that does not know the section can read a snapshot of a cluster that never used it.
    if state.acl != Acl::default() {
        part(&mut bytes, "acl", &state.acl);
    }
    // Mutant R33: the table of applied requests is left out.
    if !crate::mutant::is("R33") {
        part(&mut bytes, "dedup", &state.dedup);
    }
    section(&mut bytes, "machine", |mut bytes| {
        bytes.extend_from_slice(&state.machine.snapshot());
        bytes
    });
    // Only what there is: a program that does not know of such things can read every other snapshot.
    if state.autopilot.is_set() {
        part(&mut bytes, "autopilot", &state.autopilot);
    }
    if !state.prepared.is_blank() {
        part(&mut bytes, "prepared", &state.prepared);
    }
    if let Some(upload) = &state.upload {
        part(&mut bytes, "upload", upload);
    }
    let checksum = xxh3_64(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// What can be told of a snapshot without reading all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The version of its encoding.
    pub version: u8,
    /// The log index up to which the state was.
    pub applied: u64,
    /// Its sections with their lengths in bytes. Version 1 has none.
    pub sections: Vec<(String, u64)>,
}

/// Tells what a snapshot is, if it is one and whole. Whether a state can be made of it shows when that is done.
///
/// # Errors
/// [`BadSnapshot`] when it is none, or damaged.
pub fn describe(bytes: &[u8]) -> Result<Summary, BadSnapshot> {
    let content = checked(bytes)?;
    let (version, mut rest) = content.split_first().ok_or_else(|| bad("too short"))?;
    let mut summary = Summary { version: *version, applied: 0, sections: Vec::new() };
    match *version {
        1 => summary.applied = postcard::take_from_bytes(rest).map_err(bad)?.0,
        VERSION => {
            while !rest.is_empty() {
                let (name, content, after) =
                    first_section(rest).ok_or_else(|| bad("a section is cut short"))?;
                if name == "applied" {
                    summary.applied = decoded(name, content)?;
                }
                summary.sections.push((name.to_owned(), content.len() as u64));
                rest = after;
            }
        }
        version => return Err(bad(format!("version {version}, this program reads up to {VERSION}"))),
    }
    Ok(summary)
}

/// All but the checksum, which fits.
fn checked(bytes: &[u8]) -> Result<&[u8], BadSnapshot> {
    let (content, checksum) = bytes.split_last_chunk::<8>().ok_or_else(|| bad("too short"))?;
    if xxh3_64(content) != u64::from_le_bytes(*checksum) {
        return Err(bad("checksum mismatch"));
    }
    Ok(content)
}

/// What [`write()`] wrote, with a machine of the kind that `blank` has.
pub(super) fn read(blank: &State, bytes: &[u8]) -> Result<State, BadSnapshot> {
    let content = checked(bytes)?;
    let mut state = match content.split_first() {
        Some((1, body)) => read_version_1(blank, body)?,
        Some((&VERSION, body)) => read_sections(blank, body)?,
        Some((version, _)) => {
            return Err(bad(format!("version {version}, this program reads up to {VERSION}")));
        }
        None => return Err(bad("too short")),
    };
    state.rebuild();
    Ok(state)
}

fn read_sections(blank: &State, mut rest: &[u8]) -> Result<State, BadSnapshot> {
    let mut state = State { machine: blank.machine.clone(), ..State::default() };
    while !rest.is_empty() {
        let (name, content, after) = first_section(rest).ok_or_else(|| bad("a section is cut short"))?;
        match name {
            "applied" => state.applied = decoded(name, content)?,
            "kv" => state.kv = decoded(name, content)?,
            "sessions" => state.sessions = decoded(name, content)?,
            "catalog" => state.catalog = decoded(name, content)?,
            "coordinates" => state.places = decoded(name, content)?,
            "acl" => state.acl = decoded(name, content)?,
            "dedup" => state.dedup = decoded(name, content)?,
            "machine" => state.machine.restore(content).map_err(bad)?,
            "autopilot" => state.autopilot = decoded(name, content)?,
            "prepared" => state.prepared = decoded(name, content)?,
            "upload" => state.upload = Some(decoded(name, content)?),
            unknown => return Err(bad(format!("section {unknown:?} is of a newer program"))),
        }
        rest = after;
    }
    Ok(state)
}

fn read_version_1(blank: &State, body: &[u8]) -> Result<State, BadSnapshot> {
    type Body = (u64, KvStore, Dedup);
    let ((applied, kv, dedup), rest): (Body, &[u8]) = postcard::take_from_bytes(body).map_err(bad)?;
    let machine = blank.machine.clone();
    let mut state = State { applied, kv, dedup, machine, ..State::default() };
    state.machine.restore(rest).map_err(bad)?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::super::{Outcome, RequestId};
    use super::*;

    #[test]
    fn a_snapshot_of_version_1_is_still_read() {
        let bytes = include_bytes!("../../fixtures/snapshots/version-1.snapshot");
        let state = State::default().restored(bytes).unwrap();
        assert_eq!(state.applied(), 5);
        let entry = state.kv().get("a/b").unwrap();
        assert_eq!((&*entry.value, entry.flags, entry.modify_index), (&b"2"[..], 7, 2));
        assert_eq!((state.kv().len(), state.kv().key_index("a"), state.kv().table_index()), (2, 3, 4));
        let failed = state.dedup.outcome_of(RequestId { origin: 8, number: 3 });
        assert_eq!(failed, Some(Outcome::ConditionFailed { index: 5 }));
        assert_eq!(State::default().restored(&state.to_snapshot()).unwrap(), state);
    }

    #[test]
    fn a_snapshot_can_be_described_without_being_read() {
        let bytes = State::default().to_snapshot();
        let summary = describe(&bytes).unwrap();
        assert_eq!((summary.version, summary.applied), (VERSION, 0));
        assert!(summary.sections.iter().any(|(name, length)| name == "kv" && *length > 0), "{summary:?}");
        let oldest = include_bytes!("../../fixtures/snapshots/version-1.snapshot");
        assert_eq!(describe(oldest).unwrap(), Summary { version: 1, applied: 5, sections: Vec::new() });
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(describe(&damaged).is_err() && describe(&bytes[..at]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_section_that_is_not_known_is_refused_by_name() {
        let mut bytes = vec![VERSION];
        part(&mut bytes, "applied", &7u64);
        part(&mut bytes, "tomorrow", &1u8);
        let checksum = xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        let error = State::default().restored(&bytes).unwrap_err();
        assert!(error.to_string().contains("tomorrow"), "{error}");
    }
}
