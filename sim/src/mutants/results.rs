//! What hunts found, kept in a file: one line of JSON for each, so that a long job can be interrupted, taken up again
//! and shared out.
//!
//! A line holds for one version of the code. Lines of others stay in the file and do not count.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Mutant;
use super::score::{Hunt, Score, Small};

/// Why a file of results cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path}, line {line}: not a result of a hunt: {source}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The parser's word.
        source: serde_json::Error,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    code: String,
    found: Found,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Found {
    Hunt(Hunt),
    Small(Small),
}

/// The results for one version of the code, and where further ones go.
pub struct Results {
    path: PathBuf,
    code: String,
    file: File,
    hunts: BTreeMap<(String, u64), Hunt>,
    smalls: BTreeMap<String, Small>,
}

/// Every line begins so.
const BEGINNING: &str = "{\"code\":\"";

impl Results {
    /// Opens a file, or begins it.
    ///
    /// # Errors
    /// When it cannot be had or holds something else. Nothing of it is changed then.
    pub fn open(path: &Path, code: &str) -> Result<Results, ResultsError> {
        let io_error = |source| ResultsError::Io { path: path.to_owned(), source };
        let (mut hunts, mut smalls) = (BTreeMap::new(), BTreeMap::new());
        let (mut whole_bytes, mut cut_short) = (0, false);
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(error)),
            Ok(file) => {
                let mut reader = BufReader::new(file);
                for line in 1.. {
                    let mut text = String::new();
                    if reader.read_line(&mut text).map_err(io_error)? == 0 {
                        break;
                    }
                    // The last words of a job that was killed.
                    cut_short = !text.ends_with('\n');
                    if cut_short && (text.starts_with(BEGINNING) || BEGINNING.starts_with(&text)) {
                        break;
                    }
                    whole_bytes += text.len() as u64;
                    let parsed = serde_json::from_str::<Line>(&text)
                        .map_err(|source| ResultsError::Line { path: path.to_owned(), line, source })?;
                    match parsed.found {
                        _ if parsed.code != code => {}
                        Found::Hunt(hunt) => drop(hunts.insert((hunt.mutant.clone(), hunt.start), hunt)),
                        Found::Small(small) => drop(smalls.insert(small.mutant.clone(), small)),
                    }
                }
            }
        }
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(io_error)?;
        if cut_short {
            file.set_len(whole_bytes).map_err(io_error)?;
        }
        Ok(Results { path: path.to_owned(), code: code.to_owned(), file, hunts, smalls })
    }

    /// The version of the code that the last line of a file of results was found with; `None` if it has no line.
    ///
    /// # Errors
    /// When it cannot be read or holds something else.
    pub fn newest_code(path: &Path) -> Result<Option<String>, ResultsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ResultsError::Io { path: path.to_owned(), source })?;
        let Some((number, last)) = text.lines().enumerate().last() else { return Ok(None) };
        let parsed = serde_json::from_str::<Line>(last);
        let line = number + 1;
        let parsed = parsed.map_err(|source| ResultsError::Line { path: path.to_owned(), line, source })?;
        Ok(Some(parsed.code))
    }

    /// The version of the code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The hunt of a mutant from a seed, if it was done.
    pub fn hunt(&self, mutant: &str, start: u64) -> Option<&Hunt> {
        self.hunts.get(&(mutant.to_owned(), start))
    }

    /// The smallest plan of a mutant, if one was looked for.
    pub fn small(&self, mutant: &str) -> Option<&Small> {
        self.smalls.get(mutant)
    }

    /// Keeps what a hunt found.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_hunt(&mut self, hunt: Hunt) -> Result<(), ResultsError> {
        self.hunts.insert((hunt.mutant.clone(), hunt.start), hunt.clone());
        self.append(Found::Hunt(hunt))
    }

    /// Keeps a small plan's size.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_small(&mut self, small: Small) -> Result<(), ResultsError> {
        self.smalls.insert(small.mutant.clone(), small.clone());
        self.append(Found::Small(small))
    }

    fn append(&mut self, found: Found) -> Result<(), ResultsError> {
        let line = Line { code: self.code.clone(), found };
        let written = serde_json::to_string(&line)
            .map_err(io::Error::from)
            .and_then(|line| self.file.write_all(format!("{line}\n").as_bytes()));
        written.map_err(|source| ResultsError::Io { path: self.path.clone(), source })
    }

    /// The lines of this code, in the order of the mutants; of those that are `wanted`.
    pub fn lines(&self, wanted: impl Fn(&'static Mutant) -> bool) -> String {
        let found = super::all().filter(|mutant| wanted(mutant)).flat_map(|mutant| {
            let hunts = self.hunts.values().filter(|hunt| hunt.mutant == mutant.id);
            hunts.cloned().map(Found::Hunt).chain(self.small(mutant.id).cloned().map(Found::Small))
        });
        let lines =
            found.filter_map(|found| serde_json::to_string(&Line { code: self.code.clone(), found }).ok());
        lines.map(|line| line + "\n").collect()
    }

    /// All that is known of a mutant.
    pub fn score(&self, mutant: &'static Mutant) -> Score {
        let hunts = self.hunts.values().filter(|hunt| hunt.mutant == mutant.id).cloned().collect();
        Score { mutant, hunts, small: self.small(mutant.id).cloned(), is_earlier: false }
    }
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    fn hunt(start: u64) -> Hunt {
        Hunt { mutant: "R14".to_owned(), start, seeds: 3, failed: vec![], ablated: None }
    }

    #[test]
    fn what_was_found_is_found_again_for_the_same_code_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let mut results = Results::open(&path, "one").unwrap();
        results.add_hunt(hunt(1)).unwrap();
        results.add_hunt(hunt(10_001)).unwrap();
        let again = Results::open(&path, "one").unwrap();
        assert_eq!(again.hunt("R14", 10_001), Some(&hunt(10_001)));
        assert_eq!(again.score(find("R14").unwrap()).hunts.len(), 2);
        assert_eq!(again.lines(|_| true), std::fs::read_to_string(&path).unwrap());
        assert_eq!(Results::open(&path, "two").unwrap().hunt("R14", 1), None);
    }

    #[test]
    fn a_line_cut_short_is_dropped_and_nonsense_is_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        Results::open(&path, "one").unwrap().add_hunt(hunt(1)).unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "{\"code\":\"one\",\"fo";
        std::fs::write(&path, &text).unwrap();
        let mut results = Results::open(&path, "one").unwrap();
        assert_eq!(results.hunt("R14", 1), Some(&hunt(1)));
        results.add_hunt(hunt(2)).unwrap();
        assert_eq!(Results::open(&path, "one").unwrap().hunt("R14", 2), Some(&hunt(2)));
        std::fs::write(&path, "nonsense\n").unwrap();
        let error = Results::open(&path, "one").err().unwrap().to_string();
        assert!(error.contains("line 1"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nonsense\n");
        // Somebody's notes, which end without a line break.
        std::fs::write(&path, "notes").unwrap();
        assert!(Results::open(&path, "one").err().unwrap().to_string().contains("line 1"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "notes");
    }
}
