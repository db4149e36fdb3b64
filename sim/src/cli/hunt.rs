//! `cargo sim hunt`: a search that learns from what its runs reached, and how it compares with blind seeds.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use super::shrink::{Effort, make_small};
use super::{Processes, Unusable, code, experiment, mutant_id, print, progress_bar};
use crate::hunt::Hunt;
use crate::hunt::folder::{self, FolderError};
use crate::hunt::measure::{self, Trial, run_round};
use crate::mutants;
use crate::runner::{Case, Runner, Stopwatch};
use crate::saved::{Expects, SavedCase};
use crate::scenario::Limits;
use crate::shard::Shard;
use crate::shrink::{Signature, tries};

/// A hunt without `--for` and `--runs` takes so many seconds.
const USUAL_SECONDS: u64 = 600;
/// Candidates and seconds for making one failure small.
const SHRINKS_BUDGET: (u32, u64) = (300, 90);
/// Where there is no terminal, a line so often.
const LINE_EVERY_SECONDS: f64 = 30.0;

#[derive(Clone, Debug, Args)]
pub struct HuntArgs {
    /// How long: 90s, 10m, 8h [default: 10m]. The round under way is finished, and what it found made small.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    time: Option<u64>,
    /// How many runs, rounded up to whole rounds of 8; with these the result depends on the corpus and the seed only. With
    /// --versus-blind, how many either may take [default: 400].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    runs: Option<u64>,
    /// What a new hunt draws from [default: 1]. One that goes on has its own.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where the hunt is kept, with a case for each way to fail; one that is there goes on. With --mutant, target/hunt-ID
    /// if absent.
    #[arg(long, value_name = "FOLDER", conflicts_with = "versus_blind")]
    corpus: Option<PathBuf>,
    /// Call the version of the code so; a hash of this program if absent. A hunt goes on with the code that it began with.
    #[arg(long, value_name = "NAME", conflicts_with = "versus_blind")]
    code: Option<String>,
    /// Hunt with a bug put back: goes on past what other checks say, and ends when one that is named for it objects.
    #[arg(long, value_name = "ID", value_parser = mutant_id)]
    mutant: Option<String>,
    /// Hunt in the K-th of N folders at once: every shard draws on its own. `merge` puts their folders together.
    #[arg(long, value_name = "K/N", conflicts_with = "versus_blind")]
    shard: Option<Shard>,
    /// Instead of hunting, measure how many runs a hunt and blind seeds take to catch these mutants (again for more).
    #[arg(long, value_name = "ID", value_parser = mutant_id, conflicts_with_all = ["mutant", "seed", "time", "Effort"])]
    versus_blind: Vec<String>,
    /// From how many starts each is measured.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "versus_blind", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    starts: u64,
    /// Add what is measured to FILE; starts that are there with the same --runs are not measured again.
    #[arg(long, value_name = "FILE", requires = "versus_blind")]
    measured: Option<PathBuf>,
    #[command(flatten)]
    processes: Processes,
    #[command(flatten)]
    effort: Effort,
    /// Do not make failures small.
    #[arg(long, conflicts_with_all = ["Effort", "versus_blind"])]
    no_shrink: bool,
}

impl HuntArgs {
    fn folder(&self) -> PathBuf {
        let usual = match &self.mutant {
            Some(id) => format!("target/hunt-{id}"),
            None => "target/hunt".to_owned(),
        };
        self.corpus.clone().unwrap_or_else(|| usual.into())
    }
}

/// A time as people write it.
fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.len() - usize::from(text.ends_with(['s', 'm', 'h'])));
    let number: u64 = number.parse().map_err(|_| "want a number and s, m or h, such as 10m".to_owned())?;
    let times = match unit {
        "m" => 60,
        "h" => 3_600,
        _ => 1,
    };
    let seconds = number.checked_mul(times).filter(|seconds| (1..=30 * 86_400).contains(seconds));
    seconds.ok_or_else(|| "want 1 second to 30 days".to_owned())
}

impl From<FolderError> for Unusable {
    fn from(error: FolderError) -> Unusable {
        Unusable(error.to_string())
    }
}

/// Whether nothing was found; in a hunt for a mutant, whether it was.
pub fn hunt(args: &HuntArgs) -> Result<bool, Unusable> {
    let runner = args.processes.runner()?;
    if !args.versus_blind.is_empty() {
        return versus_blind(args, &runner);
    }
    let folder = &args.folder();
    let code = code(args.code.as_ref())?;
    let mut hunt = match folder::load(folder)? {
        Some((hunt, _)) if args.seed.is_some_and(|seed| seed != hunt.seed) => {
            let (path, seed) = (folder.display(), hunt.seed);
            return Err(Unusable(format!(
                "{path} holds a hunt with seed {seed}: leave --seed out to go on with it"
            )));
        }
        Some((_, Some(there))) if there != code => {
            let path = folder.display();
            return Err(Unusable(format!(
                "{path} holds a hunt of code {there}, and this is {code}: what its plans reached says nothing of what they reach \
                 now. Name another folder with --corpus, or go on all the same with --code {there}"
            )));
        }
        Some((hunt, _)) if hunt.mutant != args.mutant => {
            let with = |mutant: &Option<String>| match mutant {
                Some(id) => format!("with bug {id}"),
                None => "of the node as it is".to_owned(),
            };
            let (there, wanted) = (with(&hunt.mutant), with(&args.mutant));
            let path = folder.display();
            return Err(Unusable(format!(
                "{path} holds a hunt {there}; one {wanted} wants a folder of its own: name it with --corpus"
            )));
        }
        Some((hunt, _)) => {
            eprintln!("going on in {}: {}", folder.display(), hunt.line());
            hunt
        }
        None => Hunt::new(args.seed.unwrap_or(1), args.mutant.clone()),
    };
    let shard = args.shard.unwrap_or(Shard::WHOLE);
    let fresh = |seed| experiment().scenario(seed, &Limits::default());
    // Before the first round, which takes a while, and not after it.
    folder::save(folder, &hunt, Some(&code))?;
    let named = args.mutant.as_deref().and_then(mutants::find);
    let case = Case { mutant: args.mutant.clone(), ..Case::default() };
    let no_round = |error| Unusable(format!("a round cannot be run: {error}"));
    let watch = Stopwatch::start();
    let until_runs = args.runs.map(|runs| hunt.runs().saturating_add(runs));
    let seconds = args.time.unwrap_or(USUAL_SECONDS) as f64;
    let progress = progress_bar(0, false);
    let mut told = 0.0;
    let mut caught = false;
    loop {
        let over = match until_runs {
            Some(runs) => hunt.runs() >= runs,
            None => false,
        };
        // A time bounds a number of runs only if it is asked for.
        let late = (until_runs.is_none() || args.time.is_some()) && watch.seconds() >= seconds;
        if over || late || caught {
            break;
        }
        let round = hunt.next_round(shard, &fresh);
        let reports = run_round(&runner, &round, &case).map_err(no_round)?;
        let by_name = |report: &crate::report::RunReport| {
            named.is_none_or(|mutant| mutant.checks.iter().any(|check| report.violates(check)))
        };
        let found = hunt.learn(&round, &reports, |report| !by_name(report));
        caught = named.is_some() && reports.iter().any(by_name);
        folder::save(folder, &hunt, Some(&code))?;
        for signature in found {
            progress.suspend(|| eprintln!("found: {signature}"));
            keep(args, folder, &runner, &case, &hunt, &signature)?;
        }
        progress.set_message(hunt.line());
        progress.tick();
        if !std::io::stderr().is_terminal() && watch.seconds() - told >= LINE_EVERY_SECONDS {
            told = watch.seconds();
            eprintln!("{told:.0} s: {}", hunt.line());
        }
    }
    progress.finish_and_clear();
    print(&summary(&hunt, folder, watch.seconds()))?;
    Ok(if named.is_some() { caught } else { hunt.failures.is_empty() })
}

/// Makes a failure small and puts it among the cases.
fn keep(
    args: &HuntArgs,
    folder: &Path,
    runner: &Runner,
    case: &Case,
    hunt: &Hunt,
    signature: &Signature,
) -> Result<(), Unusable> {
    let Some(failure) = hunt.failures.get(signature) else { return Ok(()) };
    let path = folder::case_file(folder, signature);
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| Unusable(format!("cannot make {}: {error}", parent.display())))?;
    }
    // As it is first: if shrinking is cut short, the failure is not lost. It says what it shows and with which bug, because
    // without that bug there is nothing to see.
    let whole = folder::whole_file(folder, signature);
    let expects = Expects {
        mutant: case.mutant.clone(),
        signature: signature.clone(),
        within: tries(&failure.scenario),
    };
    let saved = SavedCase {
        story: format!("Found by a hunt with seed {}, and not made small.", hunt.seed),
        expects: Some(expects),
        once: None,
        scenario: failure.scenario.clone(),
    };
    saved.save(&whole, true)?;
    if args.no_shrink || signature.check == "DET" {
        return Ok(());
    }
    let case = Case { seed: failure.scenario.seed, scenario: Some(whole.clone()), ..case.clone() };
    let report = runner.run(&case)?;
    if !signature.is_in(&report) {
        return print(&format!(
            "{signature}: does not happen again with the same plan; see {}\n",
            whole.display()
        ))
        .map(|_| ());
    }
    let budget = args.effort.budget(SHRINKS_BUDGET);
    make_small(runner, &case, &failure.scenario, &report, budget, &path, true)
}

/// How things stand, and for each way to fail the file that it is in: of one that came from elsewhere there may be no case.
fn summary(hunt: &Hunt, folder: &Path, seconds: f64) -> String {
    let mut text = format!("hunted {seconds:.0} s; {}; kept in {}\n", hunt.line(), folder.display());
    for (signature, failure) in &hunt.failures {
        let path = folder::kept_file(folder, signature).unwrap_or_else(|| folder::state_file(folder));
        text += &format!("  {} times {signature}\n      {}\n", failure.times, path.display());
    }
    text
}

fn versus_blind(args: &HuntArgs, runner: &Runner) -> Result<bool, Unusable> {
    let limit = args.runs.unwrap_or(measure::USUAL_LIMIT);
    let mut trials: Vec<Trial> = match &args.measured {
        Some(path) if path.exists() => {
            let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
            let trials = text.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
            trials.map_err(|error| Unusable(format!("{}: {error}", path.display())))?
        }
        _ => Vec::new(),
    };
    // Within this limit: what was measured within another one is another measurement.
    let done: BTreeSet<(String, u64)> = trials
        .iter()
        .filter(|trial| trial.limit == limit)
        .map(|trial| (trial.mutant.clone(), trial.start))
        .collect();
    let fresh = |seed| experiment().scenario(seed, &Limits::default());
    if let Some(path) = &args.measured {
        // Before hours of work, and not after them.
        write_trials(path, &trials)?;
    }
    let progress = progress_bar(args.versus_blind.len() * args.starts as usize, false);
    let mut sound = true;
    for id in &args.versus_blind {
        let Some(mutant) = mutants::find(id) else { continue };
        for start in 1..=args.starts {
            progress.set_message(format!("{id} from start {start}"));
            if !done.contains(&(id.clone(), start)) {
                let blind = measure::blind(runner, mutant, start, limit)?;
                let guided = measure::guided(runner, mutant, start, limit, &fresh)
                    .map_err(|error| Unusable(format!("a round cannot be run: {error}")))?;
                trials.push(Trial { mutant: id.clone(), start, limit, blind, guided });
                trials.sort_by(|a, b| (&a.mutant, a.limit, a.start).cmp(&(&b.mutant, b.limit, b.start)));
                if let Some(path) = &args.measured {
                    write_trials(path, &trials)?;
                }
            }
            progress.inc(1);
        }
        let caught =
            |trial: &Trial| trial.mutant == *id && trial.limit == limit && trial.guided.runs.is_some();
        sound &= trials.iter().any(caught);
    }
    progress.finish_and_clear();
    print(&measure::table(&trials))?;
    Ok(sound)
}

/// One trial a line.
fn write_trials(path: &Path, trials: &[Trial]) -> Result<(), Unusable> {
    let lines: Vec<String> = trials.iter().filter_map(|trial| serde_json::to_string(trial).ok()).collect();
    std::fs::write(path, format!("[\n{}\n]\n", lines.join(",\n")))
        .map_err(|error| Unusable(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hunt::measure::Search;
    use crate::report::RunReport;
    use clap::Parser;

    fn given(arguments: &[&str]) -> HuntArgs {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            args: HuntArgs,
        }
        Alone::parse_from([&["hunt"], arguments].concat()).args
    }

    /// A runner whose processes all answer this, of whatever seed they are asked for.
    #[cfg(unix)]
    fn answering(report: &RunReport) -> Runner {
        let script = format!(
            r#"case $1 in
            --seed) seed=$2;;
            --scenario) seed=$(grep -o '"seed": *[0-9]*' "$2" | head -n 1 | tr -dc 0-9);;
            esac
            echo '{}' | sed "s/\"seed\":0/\"seed\":$seed/""#,
            serde_json::to_string(report).unwrap()
        );
        Runner {
            program: "/bin/sh".into(),
            prefix: ["-c", &script, "sh"].map(Into::into).into(),
            jobs: 1,
            time_limit: std::time::Duration::from_secs(20),
            check_determinism: false,
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_failure_that_is_not_made_small_is_kept_with_its_bug_and_the_file_is_named() {
        let fine = RunReport { ok: true, ..RunReport::default() };
        for (flags, runner) in [
            (&["--mutant", "R27", "--no-shrink"][..], answering(&fine)),
            // It does not happen again.
            (&["--mutant", "R27"][..], answering(&fine)),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let mut hunt = Hunt::new(3, Some("R27".to_owned()));
            let scenario = crate::scenario::Scenario::generate(5, &Limits::default());
            let signature = Signature { check: "LIN".into(), says: "key _: # of #".into() };
            hunt.failures
                .insert(signature.clone(), crate::hunt::Failure { scenario: scenario.clone(), times: 2 });
            let case = Case { mutant: hunt.mutant.clone(), ..Case::default() };
            keep(&given(flags), folder, &runner, &case, &hunt, &signature).unwrap();
            let told = summary(&hunt, folder, 1.0);
            let path = Path::new(told.lines().last().unwrap().trim());
            let saved = SavedCase::load(path).unwrap();
            let expects = saved.expects.unwrap();
            assert_eq!((expects.mutant.as_deref(), expects.signature), (Some("R27"), signature.clone()));
            assert_eq!(saved.scenario, scenario);
            // Once it is small, that is the case.
            std::fs::write(folder::case_file(folder, &signature), "{}").unwrap();
            let small = folder::case_file(folder, &signature).display().to_string();
            assert!(summary(&hunt, folder, 1.0).contains(&small));
        }
    }

    #[test]
    #[cfg(all(unix, madsim))]
    fn a_hunt_goes_on_with_the_code_that_it_is_of() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("hunt");
        let kept = Hunt::new(3, None);
        folder::save(&path, &kept, Some("aa")).unwrap();
        let name = path.to_str().unwrap();
        let told = hunt(&given(&["--corpus", name, "--runs", "1", "--code", "bb"])).unwrap_err().to_string();
        assert!(told.contains("holds a hunt of code aa, and this is bb"), "{told}");
        let own = hunt(&given(&["--corpus", name, "--runs", "1"])).unwrap_err().to_string();
        assert!(own.contains("of code aa") && !own.contains("this is aa"), "{own}");
        assert_eq!(folder::load(&path).unwrap(), Some((kept, Some("aa".to_owned()))));
    }

    #[test]
    #[cfg(unix)]
    fn what_was_measured_within_another_limit_is_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measured.json");
        let missed = Search::default();
        let older = Trial { mutant: "R27".into(), start: 1, limit: 8, blind: missed, guided: missed };
        write_trials(&path, std::slice::from_ref(&older)).unwrap();
        let mut caught = RunReport { ok: true, ..RunReport::default() };
        for check in mutants::find("R27").unwrap().checks {
            caught.violate(check, "an end".into());
        }
        let name = path.to_str().unwrap();
        let measured = |runs: &str| {
            let flags = ["--versus-blind", "R27", "--starts", "1", "--runs", runs, "--measured", name];
            let sound = versus_blind(&given(&flags), &answering(&caught)).unwrap();
            let trials: Vec<Trial> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            (sound, trials)
        };
        // Within the same limit nothing is run, and nothing was caught.
        assert_eq!(measured("8"), (false, vec![older.clone()]));
        let at_once = Search { runs: Some(1), events: 0 };
        let higher = Trial { limit: 16, blind: at_once, guided: at_once, ..older.clone() };
        assert_eq!(measured("16"), (true, vec![older.clone(), higher.clone()]));
        assert_eq!(measured("16"), (true, vec![older, higher]));
    }

    #[test]
    fn times_are_written_as_people_write_them() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("8h"), Ok(28_800));
        assert_eq!(seconds("45"), Ok(45));
        for bad in ["", "m", "0s", "ten", "5d", "99999999999999999999h", "-1s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
