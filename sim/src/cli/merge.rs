//! `cargo sim merge`: what several machines did, put together as if one had done it.
//!
//! It tells by their content what the parts are: reports of runs as JSON lines (`run --out`), coverage reports
//! (`run --coverage-report`), or folders of hunts. All must be of one kind, and none may be there twice, under whatever
//! names: its runs would count twice. Reports of runs name their seeds; of the others only a copy that says the same, byte
//! for byte, is known as one, so that an older copy of a hunt that went on is not.
//!
//! Reports of runs also say what they are of: the program and its code, the bug that was put back, the shape that was asked for.
//! Coverage and hunts name their code. All that say so must agree. Older ones do not say it, or not of which code, and are taken at their caller's word.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Unusable, json_line, print};
use crate::hunt::folder;
use crate::points::Reached;
use crate::report::{Origin, RunReport, Summary};

#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// The parts: files or folders.
    #[arg(value_name = "PART", required = true)]
    parts: Vec<PathBuf>,
    /// Where the whole goes: a file, or for hunts a folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Do not mind that reports of seeds between the first and the last are missing.
    #[arg(long)]
    partial: bool,
    /// Overwrite what exists.
    #[arg(long, requires = "out")]
    force: bool,
}

/// One part, read.
enum Part {
    Reports(Vec<RunReport>),
    Reached(Reached),
    /// With the code that it is of, if it says so.
    Hunt(Box<crate::hunt::Hunt>, Option<String>),
}

impl Part {
    /// Whether there is no run in it.
    fn is_empty(&self) -> bool {
        match self {
            Part::Reports(reports) => reports.is_empty(),
            Part::Reached(reached) => reached.runs == 0,
            Part::Hunt(hunt, _) => hunt.rounds == 0,
        }
    }
}

/// Whether every run of the whole was fine.
pub fn merge(args: &MergeArgs) -> Result<bool, Unusable> {
    if let Some(out) = &args.out
        && out.exists()
        && !args.force
    {
        return Err(Unusable(format!("{} exists; --force overwrites it", out.display())));
    }
    let mut reports: BTreeMap<u64, RunReport> = BTreeMap::new();
    let mut reached: Option<Reached> = None;
    let mut hunt: Option<crate::hunt::Hunt> = None;
    let mut places: BTreeMap<PathBuf, &Path> = BTreeMap::new();
    let mut contents: BTreeMap<(usize, u64), &Path> = BTreeMap::new();
    let mut seeds: BTreeMap<u64, &Path> = BTreeMap::new();
    let mut origin: Option<(Origin, &Path)> = None;
    let mut known: Option<(String, &Path)> = None;
    for path in &args.parts {
        let place = path.canonicalize().unwrap_or_else(|_| path.clone());
        if let Some(first) = places.insert(place, path) {
            let what = if first == path { "itself".to_owned() } else { first.display().to_string() };
            return Err(Unusable(format!("{} is given twice: it is the same as {what}", path.display())));
        }
        let (part, content) = read(path)?;
        // Two that say nothing are no copies of one another.
        if !part.is_empty()
            && let Some(first) = contents.insert(content, path)
        {
            let (path, first) = (path.display(), first.display());
            return Err(Unusable(format!(
                "{path} says the same as {first}, so that its runs would count twice"
            )));
        }
        match part {
            Part::Reports(part) => {
                for report in part {
                    if let Some(first) = seeds.insert(report.seed, path) {
                        let (path, first, seed) = (path.display(), first.display(), report.seed);
                        return Err(Unusable(format!(
                            "{path}: seed {seed} is there, and in {first} before, so that its run would count twice"
                        )));
                    }
                    match (&report.of, &origin) {
                        (Some(of), Some((known, first))) => {
                            if let Some(difference) = of.difference(known) {
                                let (path, first, seed) = (path.display(), first.display(), report.seed);
                                return Err(Unusable(format!(
                                    "{path}: seed {seed} is of another experiment than {first}: {difference}"
                                )));
                            }
                            // Between two that do not name their code others may do, and must agree with one another.
                            if known.code.is_none() && of.code.is_some() {
                                origin = Some((of.clone(), path));
                            }
                        }
                        (Some(of), None) => origin = Some((of.clone(), path)),
                        (None, _) => {}
                    }
                    reports.insert(report.seed, report);
                }
            }
            Part::Reached(part) => {
                is_of_same_code(&mut known, part.code.as_deref(), path)?;
                reached.get_or_insert_default().merge(&part);
            }
            Part::Hunt(part, code) => {
                is_of_same_code(&mut known, code.as_deref(), path)?;
                match &mut hunt {
                    Some(hunt) if hunt.mutant != part.mutant => {
                        return Err(Unusable("these hunts are not with the same bug put back".to_owned()));
                    }
                    Some(hunt) => folder::merge(hunt, &part),
                    None => hunt = Some(*part),
                }
            }
        }
    }
    if args.partial && reports.is_empty() {
        return Err(Unusable(
            "--partial is for reports of runs, and these parts are something else".to_owned(),
        ));
    }
    match (reports.is_empty(), reached, hunt) {
        (false, None, None) => whole_run(args, reports.into_values().collect()),
        (true, Some(reached), None) => whole_coverage(args, &reached),
        (true, None, Some(hunt)) => {
            if let Some(out) = &args.out {
                folder::save(out, &hunt, known.as_ref().map(|(code, _)| code.as_str()))?;
            }
            print(&format!("{}\n", hunt.line()))?;
            Ok(hunt.failures.is_empty())
        }
        (true, None, None) => Err(Unusable("there is nothing in these parts".to_owned())),
        _ => Err(Unusable("these parts are of different kinds".to_owned())),
    }
}

/// Whether a part names the code that those before it name. One that names none is taken at its caller's word.
fn is_of_same_code<'a>(
    known: &mut Option<(String, &'a Path)>,
    code: Option<&str>,
    path: &'a Path,
) -> Result<(), Unusable> {
    let Some(code) = code else { return Ok(()) };
    let (known, first) = known.get_or_insert_with(|| (code.to_owned(), path));
    if known == code {
        return Ok(());
    }
    let (path, first) = (path.display(), first.display());
    Err(Unusable(format!("{path} is of other code than {first}: built of code {code}, and there {known}")))
}

/// A part, and the length and hash of the file that it is in.
fn read(path: &Path) -> Result<(Part, (usize, u64)), Unusable> {
    let wrong = |problem: String| Unusable(format!("{}: {problem}", path.display()));
    let content = |bytes: &[u8]| (bytes.len(), xxhash_rust::xxh3::xxh3_64(bytes));
    if path.is_dir() {
        let Some((hunt, code)) = folder::load(path)? else {
            return Err(wrong("there is no hunt in this folder".to_owned()));
        };
        let bytes = std::fs::read(folder::state_file(path)).map_err(|error| wrong(error.to_string()))?;
        return Ok((Part::Hunt(Box::new(hunt), code), content(&bytes)));
    }
    // Once only: it may be a pipe.
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let content = content(text.as_bytes());
    if text.contains("\"never\"") {
        return Reached::parse(&text).map(|reached| (Part::Reached(reached), content)).map_err(wrong);
    }
    let mut reports = Vec::new();
    for (line, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let report: RunReport = serde_json::from_str(text)
            .map_err(|error| wrong(format!("line {}: not the report of a run: {error}", line + 1)))?;
        if report.ok != report.violations.is_empty() {
            return Err(wrong(format!("line {}: the report contradicts itself", line + 1)));
        }
        reports.push(report);
    }
    Ok((Part::Reports(reports), content))
}

/// The first seeds that are missing of a range, for a person; nothing if none is.
fn missing(reports: &[RunReport]) -> Option<String> {
    let gaps = reports.windows(2).filter_map(|pair| {
        let (from, to) = (pair[0].seed + 1, pair[1].seed);
        (from < to).then(|| if from + 1 == to { from.to_string() } else { format!("{from} to {}", to - 1) })
    });
    let gaps: Vec<String> = gaps.collect();
    let more = if gaps.len() > 5 { format!(" and {} more such gaps", gaps.len() - 5) } else { String::new() };
    (!gaps.is_empty()).then(|| format!("{}{more}", gaps[..gaps.len().min(5)].join(", ")))
}

fn whole_run(args: &MergeArgs, reports: Vec<RunReport>) -> Result<bool, Unusable> {
    if let (Some(seeds), false) = (missing(&reports), args.partial) {
        return Err(Unusable(format!(
            "there are no reports of seeds {seeds}: a part is missing or was cut short; --partial does without"
        )));
    }
    let mut summary = Summary::default();
    reports.iter().for_each(|report| summary.add(report));
    if let Some(out) = &args.out {
        let lines: String = reports.iter().map(json_line).collect();
        write(out, lines.as_bytes())?;
    }
    let wall: f64 = reports.iter().map(|report| report.wall_seconds).sum();
    print(&summary.text(wall))?;
    Ok(summary.is_ok())
}

fn whole_coverage(args: &MergeArgs, reached: &Reached) -> Result<bool, Unusable> {
    if let Some(out) = &args.out {
        write_reached(out, reached)?;
    }
    print(&reached.text())
}

/// Writes a coverage report.
pub fn write_reached(path: &Path, reached: &Reached) -> Result<(), Unusable> {
    let mut text = serde_json::to_vec_pretty(reached).unwrap_or_default();
    text.push(b'\n');
    write(path, &text)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Unusable> {
    std::fs::File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| Unusable(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seed: u64) -> RunReport {
        let points = BTreeMap::from([("a vote is granted".to_owned(), seed)]);
        RunReport { seed, ok: true, wall_seconds: 0.5, points, ..RunReport::default() }
    }

    fn merged(parts: &[PathBuf], out: &Path) -> Result<bool, Unusable> {
        merge(&MergeArgs { parts: parts.to_vec(), out: Some(out.to_owned()), partial: false, force: false })
    }

    #[test]
    fn two_shards_of_a_run_are_one_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let whole: String = (1..=5).map(|seed| json_line(&report(seed))).collect();
        let odd: String = [1, 3, 5].map(|seed| json_line(&report(seed))).concat();
        let even: String = [2, 4].map(|seed| json_line(&report(seed))).concat();
        std::fs::write(path("odd"), odd).unwrap();
        std::fs::write(path("even"), even).unwrap();
        assert!(merged(&[path("even"), path("odd")], &path("out")).unwrap());
        assert_eq!(std::fs::read_to_string(path("out")).unwrap(), whole);
        std::fs::copy(path("odd"), path("same")).unwrap();
        let twice = merged(&[path("odd"), path("same")], &path("out2")).unwrap_err().to_string();
        assert!(twice.contains("same says the same as ") && twice.contains("odd, so"), "{twice}");
        let twice = merged(&[path("odd"), path("odd")], &path("out2")).unwrap_err().to_string();
        assert!(twice.contains("odd is given twice"), "{twice}");
        std::fs::write(path("three"), json_line(&report(3))).unwrap();
        let twice = merged(&[path("odd"), path("three")], &path("out2")).unwrap_err().to_string();
        assert!(twice.contains("three: seed 3 is there, and in ") && twice.contains("odd before"), "{twice}");
        // A shard may have had nothing to do.
        std::fs::write(path("none"), "").unwrap();
        std::fs::write(path("nothing"), "").unwrap();
        assert!(merged(&["none", "odd", "nothing", "even"].map(path), &path("out3")).unwrap());
        let gaps = merged(&[path("odd")], &path("out2")).unwrap_err().to_string();
        assert!(gaps.contains("no reports of seeds 2, 4: "), "{gaps}");
        let partial = MergeArgs { parts: vec![path("odd")], out: None, partial: true, force: false };
        assert!(merge(&partial).unwrap());
        assert!(merged(&[path("odd")], &path("out")).unwrap_err().to_string().contains("--force"));
    }

    #[test]
    fn runs_of_different_experiments_are_not_one_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let built =
            |code: &str| Origin { program: "sim 1".into(), code: Some(code.to_owned()), ..Origin::default() };
        let plain = built("aa");
        let put = |name: &str, seed: u64, of: Option<Origin>| {
            std::fs::write(path(name), json_line(&RunReport { of, ..report(seed) })).unwrap();
        };
        put("one", 1, Some(plain.clone()));
        for (of, difference) in [
            (Origin { mutant: Some("R27".into()), ..plain.clone() }, "--mutant R27, and there none"),
            (Origin { nodes: Some(5), ..plain.clone() }, "--nodes 5, and there none"),
            (Origin { duration_s: Some(5), ..plain.clone() }, "--duration 5, and there none"),
            (
                Origin { without: ["loss".to_owned()].into(), ..plain.clone() },
                "--without loss, and there none",
            ),
            (Origin { program: "bank 1".into(), ..plain.clone() }, "program bank 1, and there sim 1"),
            (built("bb"), "built of code bb, and there aa"),
        ] {
            put("two", 2, Some(of));
            let error = merged(&[path("one"), path("two")], &path("out")).unwrap_err().to_string();
            assert!(error.contains("two: seed 2 is of another experiment than "), "{error}");
            assert!(error.ends_with(&format!("one: {difference}")), "{error}");
        }
        assert!(!path("out").exists());
        put("two", 2, Some(plain));
        put("older", 3, None);
        assert!(merged(&["older", "one", "two"].map(path), &path("out")).unwrap());
        // One that does not say of which code it is makes no bridge between two that do.
        put("older", 3, Some(Origin { code: None, ..built("") }));
        assert!(merged(&["older", "one", "two"].map(path), &path("out2")).unwrap());
        put("two", 2, Some(built("bb")));
        for parts in [["older", "one", "two"], ["one", "older", "two"], ["one", "two", "older"]] {
            let error = merged(&parts.map(path), &path("out3")).unwrap_err().to_string();
            assert!(error.ends_with("one: built of code bb, and there aa"), "{error}");
        }
    }

    #[test]
    fn two_coverage_reports_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let of = |seeds: &[u64]| {
            let mut reached = Reached::default();
            seeds.iter().for_each(|seed| reached.add(&report(*seed)));
            reached
        };
        let built = |code: &str| {
            let mut reached = of(&[9]);
            reached.code = Some(code.to_owned());
            reached
        };
        write_reached(&path("one"), &built("aa")).unwrap();
        write_reached(&path("two"), &built("bb")).unwrap();
        let other = merged(&[path("one"), path("two")], &path("out0")).unwrap_err().to_string();
        assert!(other.contains("one: built of code bb, and there aa"), "{other}");
        write_reached(&path("a"), &of(&[1, 4])).unwrap();
        write_reached(&path("b"), &of(&[2])).unwrap();
        assert!(merged(&[path("a"), path("b")], &path("out")).unwrap());
        assert_eq!(Reached::parse(&std::fs::read_to_string(path("out")).unwrap()), Ok(of(&[1, 2, 4])));
        std::fs::copy(path("b"), path("c")).unwrap();
        let twice = merged(&[path("b"), path("a"), path("c")], &path("out2")).unwrap_err().to_string();
        assert!(twice.contains("c says the same as ") && twice.contains("/b, so"), "{twice}");
        let partial = MergeArgs { parts: vec![path("a")], out: None, partial: true, force: false };
        assert!(merge(&partial).unwrap_err().to_string().contains("--partial is for reports"));
        std::fs::write(path("run"), json_line(&report(7))).unwrap();
        let mixed = merged(&[path("a"), path("run")], &path("out2")).unwrap_err().to_string();
        assert!(mixed.contains("different kinds"), "{mixed}");
    }

    #[test]
    fn a_hunt_and_its_copy_are_not_two_hunts() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        let mut hunt = crate::hunt::Hunt::new(1, None);
        for name in ["fresh", "untouched"] {
            folder::save(&path(name), &hunt, None).unwrap();
        }
        hunt.rounds = 3;
        for name in ["a", "copy"] {
            folder::save(&path(name), &hunt, Some("aa")).unwrap();
        }
        hunt.rounds = 4;
        folder::save(&path("b"), &hunt, Some("aa")).unwrap();
        let twice = merged(&[path("b"), path("a"), path("copy")], &path("out")).unwrap_err().to_string();
        assert!(twice.contains("copy says the same as ") && twice.contains("/a, so"), "{twice}");
        assert!(!path("out").exists());
        assert!(merged(&["a", "fresh", "b", "untouched"].map(path), &path("out")).unwrap());
        let (whole, code) = folder::load(&path("out")).unwrap().unwrap();
        assert_eq!((whole.rounds, code.as_deref()), (7, Some("aa")));
        hunt.rounds = 9;
        folder::save(&path("other"), &hunt, Some("bb")).unwrap();
        let other = merged(&[path("a"), path("other")], &path("out2")).unwrap_err().to_string();
        assert!(other.contains("a: built of code bb, and there aa"), "{other}");
    }

    #[test]
    fn what_is_no_part_is_refused_by_name_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        std::fs::write(&path, format!("{}oops\n", json_line(&report(1)))).unwrap();
        let error = merged(std::slice::from_ref(&path), &folder.path().join("out")).unwrap_err().to_string();
        assert!(error.contains("part: line 2: not the report of a run"), "{error}");
        let error = merged(&[folder.path().to_owned()], &folder.path().join("out")).unwrap_err().to_string();
        assert!(error.contains("no hunt in this folder"), "{error}");
    }
}
