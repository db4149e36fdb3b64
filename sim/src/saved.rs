//! Scenarios in files: the plan, its story, and what it must show whenever it is run again.
//!
//! A file holds either a bare scenario or a [`SavedCase`] around one; both are read wherever a scenario is wanted.
//! Reading refuses, with the name of the file and the place in it, what is not JSON, what is of another version, what has fields
//! that mean nothing here, and what cannot be run ([`Scenario::validate`]). Writing goes to a new file
//! unless it is told to overwrite.
//!
//! A case survives changes of the code because it is a plan and not a seed. What is drawn while it runs does
//! change, so a case that waits for a violation says how many seeds, its own first, it may take
//! ([`Expects::within`]).

// This is outside the simulation: real files are allowed here.
#![allow(clippy::disallowed_methods)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::scenario::{OLDEST, Scenario, VERSION};
use crate::shrink::Signature;
use crate::{check, mutants};

/// A scenario with what one should know of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedCase {
    /// What it is about, for a person.
    #[serde(default)]
    pub story: String,
    /// What it must show; if absent, that nothing is violated (any more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expects: Option<Expects>,
    /// What it violated once, before the cause was repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once: Option<Signature>,
    /// The plan.
    pub scenario: Scenario,
}

/// A violation that a case must show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expects {
    /// The bug that is put back for it; without one the violation is of the node as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
    /// What must be violated.
    pub signature: Signature,
    /// Under how many seeds at most, counted from the scenario's own.
    #[serde(default = "one")]
    pub within: u64,
}

fn one() -> u64 {
    1
}

/// A file longer than this is no plan: a million operations take less.
const MOST_BYTES: u64 = 512 << 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read scenario {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// It is no text.
    #[error("{path} is not a scenario: byte {at} is not UTF-8, so it is no text at all")]
    Binary {
        /// The file.
        path: String,
        /// How many bytes were text.
        at: usize,
    },
    /// It is far longer than any plan.
    #[error("{path} is not a scenario: it is longer than {MOST_BYTES} bytes")]
    Large {
        /// The file.
        path: String,
    },
    /// It waits for what cannot be.
    #[error("{path}: there is no {what} {name:?}")]
    Unknown {
        /// The file.
        path: String,
        /// A bug or a check.
        what: &'static str,
        /// As the file calls it.
        name: String,
    },
    /// It would be shown by no run at all, so whoever waits for it waits for nothing.
    #[error("{path}: expects.within: 0, want at least 1 seed")]
    NoSeed {
        /// The file.
        path: String,
    },
    /// There is no scenario in it.
    #[error("{path} is not a scenario: {error}")]
    Malformed {
        /// The file.
        path: String,
        /// Where, and why not.
        error: serde_json::Error,
    },
    /// It was written by another version.
    #[error("{path} is a scenario of version {found}; this build reads {OLDEST} to {VERSION}")]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
    },
    /// The plan cannot be run.
    #[error("{path} cannot be run: {problem}")]
    Impossible {
        /// The file.
        path: String,
        /// What is wrong, and where.
        problem: crate::scenario::validate::Invalid,
    },
    /// The file cannot be written.
    #[error("cannot save {path}: {error}")]
    Unwritable {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

impl SavedCase {
    /// A scenario that nobody told anything about.
    pub fn bare(scenario: Scenario) -> SavedCase {
        SavedCase { story: String::new(), expects: None, once: None, scenario }
    }

    /// Reads a case, or a bare scenario, and makes sure that it can be run.
    ///
    /// # Errors
    /// What is wrong with the file, and where.
    pub fn load(path: &Path) -> Result<SavedCase, FileError> {
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| FileError::Unreadable { path: name.clone(), error })?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(FileError::Large { path: name });
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            FileError::Binary { path: name.clone(), at }
        })?;
        let malformed = |error| FileError::Malformed { path: name.clone(), error };
        let value: Value = serde_json::from_str(&text).map_err(malformed)?;
        let inner = value.get("scenario");
        // The version first: what else is wrong with a newer file is not its fault.
        if let Some(found) = inner.unwrap_or(&value).get("version").and_then(Value::as_u64)
            && !(u64::from(OLDEST)..=u64::from(VERSION)).contains(&found)
        {
            return Err(FileError::Version { path: name, found });
        }
        // From the text again, because only then does an error have a line.
        let mut case = match inner {
            Some(_) => serde_json::from_str(&text).map_err(malformed)?,
            None => SavedCase::bare(serde_json::from_str(&text).map_err(malformed)?),
        };
        let unknown =
            |what, word: &str| FileError::Unknown { path: name.clone(), what, name: word.to_owned() };
        if let Some(mutant) = case.expects.as_ref().and_then(|expects| expects.mutant.as_deref())
            && mutants::find(mutant).is_none()
        {
            return Err(unknown("bug", mutant));
        }
        for signature in case.expects.iter().map(|expects| &expects.signature).chain(&case.once) {
            if check::property_of(&signature.check).is_none() {
                return Err(unknown("check", &signature.check));
            }
        }
        if case.expects.as_ref().is_some_and(|expects| expects.within == 0) {
            return Err(FileError::NoSeed { path: name });
        }
        case.scenario.validate().map_err(|problem| FileError::Impossible { path: name, problem })?;
        // What an older version could say means the same in this one.
        case.scenario.version = VERSION;
        Ok(case)
    }

    /// Writes the case: a bare scenario, if there is nothing more to say than that.
    ///
    /// # Errors
    /// The system's; that the file exists, unless it is to be overwritten.
    pub fn save(&self, path: &Path, overwrite: bool) -> Result<(), FileError> {
        let bare = self.story.is_empty() && self.expects.is_none() && self.once.is_none();
        let mut options = OpenOptions::new();
        options.write(true);
        match overwrite {
            true => options.create(true).truncate(true),
            false => options.create_new(true),
        };
        // Made before the file is opened: nothing is left half written for want of memory or JSON.
        let text =
            if bare { serde_json::to_vec_pretty(&self.scenario) } else { serde_json::to_vec_pretty(self) };
        text.map_err(std::io::Error::from)
            .and_then(|mut text| {
                text.push(b'\n');
                options.open(path)?.write_all(&text)
            })
            .map_err(|error| FileError::Unwritable { path: path.display().to_string(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Limits;

    fn case() -> SavedCase {
        SavedCase {
            story: "the leader is cut off".into(),
            expects: Some(Expects {
                mutant: Some("R27".into()),
                signature: Signature { check: "LIN".into(), says: "key _".into() },
                within: 4,
            }),
            once: None,
            scenario: Scenario::generate(4, &Limits { duration_s: Some(2), ..Limits::default() }),
        }
    }

    #[test]
    fn cases_and_bare_scenarios_survive_a_file() {
        let folder = tempfile::tempdir().unwrap();
        for (name, case) in [("case", case()), ("bare", SavedCase::bare(case().scenario))] {
            let path = folder.path().join(name);
            case.save(&path, false).unwrap();
            assert_eq!(SavedCase::load(&path).unwrap(), case);
            let bare = serde_json::from_str::<Scenario>(&std::fs::read_to_string(&path).unwrap()).is_ok();
            assert_eq!(bare, name == "bare");
        }
    }

    #[test]
    fn nothing_is_overwritten_without_being_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        std::fs::write(&path, "mine").unwrap();
        assert!(case().save(&path, false).unwrap_err().to_string().contains("s.json"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        case().save(&path, true).unwrap();
        assert_eq!(SavedCase::load(&path).unwrap(), case());
    }

    #[test]
    fn a_case_that_may_take_no_seed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case.json");
        let saved = |within: u64| {
            let signature = Signature { check: "LIN".into(), says: "key _".into() };
            let expects = Some(Expects { mutant: None, signature, within });
            let scenario = Scenario::generate(4, &Limits::default());
            SavedCase { expects, ..SavedCase::bare(scenario) }.save(&path, true).unwrap();
            SavedCase::load(&path).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(saved(1), Ok(()));
        let refused = saved(0).unwrap_err();
        assert!(refused.ends_with("case.json: expects.within: 0, want at least 1 seed"), "{refused}");
    }

    #[test]
    fn a_bad_file_is_refused_with_its_name_and_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.json");
        let refused = |text: &str, because: &str| {
            std::fs::write(&path, text).unwrap();
            let error = SavedCase::load(&path).unwrap_err().to_string();
            assert!(error.contains("bad.json") && error.contains(because), "{error}");
        };
        let whole = serde_json::to_string_pretty(&case()).unwrap();
        refused("{\n \"seed\": 4,\n oops", "line 3");
        refused(&whole[..whole.len() / 2], "EOF while parsing");
        let newer = whole.replacen("\"version\": 2", "\"version\": 3", 1);
        refused(&newer, "of version 3; this build reads 1 to 2");
        std::fs::write(&path, whole.replacen("\"version\": 2", "\"version\": 1", 1)).unwrap();
        assert_eq!(SavedCase::load(&path).unwrap(), case(), "an older version is read");
        refused(&whole.replacen("\"story\"", "\"tale\"", 1), "unknown field `tale`");
        refused(&whole.replacen("\"duration_ms\": 2000", "\"duration_ms\": 0", 1), "duration_ms: 0, want 1");
        refused(&whole.replacen("\"duration_ms\": 2000", "\"duration_ms\": -4", 1), "line");
        refused(&whole.replacen("\"R27\"", "\"R2\"", 1), "there is no bug \"R2\"");
        refused(&whole.replacen("\"LIN\"", "\"LIM\"", 1), "there is no check \"LIM\"");
        let missing = SavedCase::load(Path::new("/no/such/file")).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read scenario /no/such/file"), "{missing}");
    }
}
