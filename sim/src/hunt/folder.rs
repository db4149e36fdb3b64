//! A hunt on disk: one file for the plans and counts of each round's end, and the cases that it found.
//!
//! ```text
//!   FOLDER/hunt.json        seed, the code that was run, rounds, the corpus, the ways to fail
//!   FOLDER/cases/NAME.json  one case for each way to fail, made small
//!   FOLDER/cases/NAME.whole.json  the same as it was found, with the bug that was put back
//! ```
//!
//! `hunt.json` is written anew after a round and put in place by a rename, so a hunt that is killed goes on from the last
//! round that was complete. What a plan reached, and how rare that is, holds for the code that ran it: a folder names it. What is wrong with a folder is said with the file's name; nothing is overwritten then.

// This is outside the simulation: real files are allowed here.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::corpus::{Corpus, Plan};
use super::{Failure, Hunt};
use crate::scenario::Scenario;
use crate::shrink::Signature;

/// The version of the format.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    seed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mutant: Option<String>,
    /// Which code ran; those of an older build do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    rounds: u64,
    news: Vec<usize>,
    failures: Vec<SavedFailure>,
    times: BTreeMap<u32, u64>,
    plans: BTreeMap<u64, Plan>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedFailure {
    signature: Signature,
    times: u64,
    scenario: Scenario,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FolderError {
    path: String,
    problem: String,
}

fn trouble(path: &Path, problem: impl ToString) -> FolderError {
    FolderError { path: path.display().to_string(), problem: problem.to_string() }
}

/// The file that a hunt in this folder is in.
pub fn state_file(folder: &Path) -> PathBuf {
    folder.join("hunt.json")
}

/// Where a case for this way to fail goes.
pub fn case_file(folder: &Path, signature: &Signature) -> PathBuf {
    let mut name = signature.check.to_lowercase();
    for word in
        signature.says.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).take(8)
    {
        name.push('-');
        name += &word.to_lowercase();
    }
    // Two ways to fail may begin with the same words.
    let digest = xxhash_rust::xxh3::xxh3_64(signature.to_string().as_bytes()) & 0xffff;
    folder.join("cases").join(format!("{name}-{digest:04x}.json"))
}

/// Where the same case goes as it was found, before it is made small.
pub fn whole_file(folder: &Path, signature: &Signature) -> PathBuf {
    case_file(folder, signature).with_extension("whole.json")
}

/// The case that there is for this way to fail: the small one, or the whole one if it could not be made small, or not yet.
pub fn kept_file(folder: &Path, signature: &Signature) -> Option<PathBuf> {
    [case_file(folder, signature), whole_file(folder, signature)].into_iter().find(|path| path.exists())
}

/// The hunt that is in a folder, if there is one, and the code that it is of, if it says so.
///
/// # Errors
/// When there is something else, or something that cannot be read.
pub fn load(folder: &Path) -> Result<Option<(Hunt, Option<String>)>, FolderError> {
    let path = state_file(folder);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(trouble(&path, error)),
    };
    // The version first: what else is wrong with a newer file is not its fault.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| trouble(&path, error))?;
    if let Some(version) = value.get("version").and_then(serde_json::Value::as_u64)
        && version != u64::from(VERSION)
    {
        return Err(trouble(&path, format!("a hunt of version {version}; this build reads {VERSION}")));
    }
    let saved: Saved = serde_json::from_str(&text).map_err(|error| trouble(&path, error))?;
    for (number, plan) in &saved.plans {
        plan.scenario.validate().map_err(|problem| trouble(&path, format!("plans.{number}: {problem}")))?;
    }
    let failures = saved
        .failures
        .into_iter()
        .map(|failure| (failure.signature, Failure { scenario: failure.scenario, times: failure.times }));
    let hunt = Hunt {
        seed: saved.seed,
        mutant: saved.mutant,
        rounds: saved.rounds,
        corpus: Corpus::restored(saved.plans, saved.times),
        failures: failures.collect(),
        news: saved.news,
    };
    Ok(Some((hunt, saved.code)))
}

/// Puts a hunt of this code into a folder, in place of what it was.
///
/// # Errors
/// The system's.
pub fn save(folder: &Path, hunt: &Hunt, code: Option<&str>) -> Result<(), FolderError> {
    let failures = hunt.failures.iter().map(|(signature, failure)| SavedFailure {
        signature: signature.clone(),
        times: failure.times,
        scenario: failure.scenario.clone(),
    });
    let saved = Saved {
        version: VERSION,
        seed: hunt.seed,
        mutant: hunt.mutant.clone(),
        code: code.map(str::to_owned),
        rounds: hunt.rounds,
        news: hunt.news.clone(),
        failures: failures.collect(),
        times: hunt.corpus.times().clone(),
        plans: hunt.corpus.plans().clone(),
    };
    let path = state_file(folder);
    let fresh = folder.join("hunt.json.new");
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&fresh, serde_json::to_vec(&saved).map_err(io::Error::from)?))
        .and_then(|()| fs::rename(&fresh, &path));
    written.map_err(|error| trouble(&path, error))
}

/// Two hunts as one: all plans and counts, and of each way to fail the plan with fewer faults.
pub fn merge(into: &mut Hunt, other: &Hunt) {
    into.rounds = into.rounds.saturating_add(other.rounds);
    into.seed = into.seed.min(other.seed);
    into.news = Vec::new();
    into.corpus.merge(&other.corpus);
    for (signature, failure) in &other.failures {
        let size = |failure: &Failure| {
            (failure.scenario.faults.len(), failure.scenario.operations.len(), failure.scenario.seed)
        };
        let known =
            into.failures.entry(signature.clone()).or_insert_with(|| Failure { times: 0, ..failure.clone() });
        known.times = known.times.saturating_add(failure.times);
        if size(failure) < size(known) {
            known.scenario = failure.scenario.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::plain;
    use super::*;
    use crate::report::RunReport;
    use crate::shard::Shard;

    fn some_hunt(seed: u64) -> Hunt {
        let mut hunt = Hunt::new(seed, None);
        let round = hunt.next_round(Shard::WHOLE, &plain);
        let reports: Vec<RunReport> = round
            .iter()
            .enumerate()
            .map(|(number, candidate)| {
                let mut report =
                    RunReport { seed: candidate.scenario.seed, ok: true, ..RunReport::default() };
                report.coverage = vec![number as u32, (candidate.scenario.seed % 100) as u32 + 10];
                if number == 3 {
                    report.violate("ES", "two leaders in term 7".into());
                }
                report
            })
            .collect();
        hunt.learn(&round, &reports, |_| false);
        hunt
    }

    #[test]
    fn a_hunt_goes_on_from_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), None);
        let mut hunt = some_hunt(5);
        save(folder.path(), &hunt, Some("aa")).unwrap();
        let (mut again, code) = load(folder.path()).unwrap().unwrap();
        assert_eq!((&again, code.as_deref()), (&hunt, Some("aa")));
        assert_eq!(again.next_round(Shard::WHOLE, &plain), hunt.next_round(Shard::WHOLE, &plain));
        let [first, second] = ["1/2", "2/2"].map(|shard| hunt.next_round(shard.parse().unwrap(), &plain));
        assert_ne!(first, second, "shards that go on from one folder draw on their own");
    }

    #[test]
    fn what_is_no_hunt_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &some_hunt(5), None).unwrap();
        let path = state_file(folder.path());
        let good = fs::read_to_string(&path).unwrap();
        for (bad, because) in [
            (good.replacen("\"version\":1", "\"version\":9", 1), "version 9"),
            (good[..good.len() / 2].to_owned(), "EOF"),
            (good.replacen("\"nodes\":", "\"knots\":", 1), "knots"),
        ] {
            fs::write(&path, &bad).unwrap();
            let error = load(folder.path()).unwrap_err().to_string();
            assert!(error.contains("hunt.json") && error.contains(because), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
    }

    #[test]
    fn hunts_merge_in_any_order() {
        let (a, b) = (some_hunt(1), some_hunt(2));
        let (mut ab, mut ba) = (a.clone(), b.clone());
        merge(&mut ab, &b);
        merge(&mut ba, &a);
        assert_eq!(ab, ba);
        assert_eq!(ab.failures.values().map(|failure| failure.times).collect::<Vec<_>>(), [2]);
        assert_eq!(ab.runs(), a.runs() + b.runs());
    }

    #[test]
    fn a_way_to_fail_has_a_file_name_of_its_own() {
        let folder = Path::new("hunt");
        let signature = |says: &str| Signature { check: "LIN".into(), says: says.into() };
        let (one, two) =
            (case_file(folder, &signature("key _: # of #")), case_file(folder, &signature("key _: #")));
        assert_ne!(one, two);
        assert!(one.display().to_string().starts_with("hunt/cases/lin-key-of-"));
    }
}
