//! The manifests of docs/fleet.md: read, and their very commands run for every shard; the merged parts are one run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use yaml_rust2::{Yaml, YamlLoader};

fn manifest(name: &str) -> Yaml {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/fleet").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let mut documents = YamlLoader::load_from_str(&text).unwrap();
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}

/// The container of the Kubernetes job, and its environment.
fn container(job: &Yaml) -> (&Yaml, BTreeMap<String, String>) {
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let text = |yaml: &Yaml| yaml.as_str().unwrap().to_owned();
    let pairs = container["env"].as_vec().unwrap().iter();
    (container, pairs.map(|pair| (text(&pair["name"]), text(&pair["value"]))).collect())
}

#[test]
fn the_kubernetes_job_has_one_pod_for_each_shard_and_tries_no_finding_again() {
    let job = manifest("kubernetes-job.yaml");
    assert_eq!((job["apiVersion"].as_str(), job["kind"].as_str()), (Some("batch/v1"), Some("Job")));
    let spec = &job["spec"];
    assert_eq!(spec["completionMode"].as_str(), Some("Indexed"));
    let (container, env) = container(&job);
    assert_eq!(spec["completions"].as_i64(), env["SHARDS"].parse().ok());
    // podFailurePolicy is allowed with this only.
    assert_eq!(spec["template"]["spec"]["restartPolicy"].as_str(), Some("Never"));
    let rule = &spec["podFailurePolicy"]["rules"][0];
    assert_eq!(rule["action"].as_str(), Some("FailIndex"));
    assert_eq!(rule["onExitCodes"]["containerName"], container["name"]);
    let codes: Vec<_> = rule["onExitCodes"]["values"].as_vec().unwrap().iter().map(Yaml::as_i64).collect();
    assert_eq!(codes, [Some(1), Some(2)]);
    let volume = &spec["template"]["spec"]["volumes"][0]["name"];
    assert_eq!(&container["volumeMounts"][0]["name"], volume);
    assert_eq!(container["volumeMounts"][0]["mountPath"].as_str(), Some(env["RESULTS"].as_str()));
}

#[test]
fn the_ci_matrix_numbers_its_shards_from_one() {
    let workflow = manifest("ci-matrix.yaml");
    let sweep = &workflow["jobs"]["sweep"];
    let shards = sweep["strategy"]["matrix"]["shard"].as_vec().unwrap();
    let numbers: Vec<i64> = shards.iter().filter_map(Yaml::as_i64).collect();
    assert_eq!(numbers, (1..=shards.len() as i64).collect::<Vec<_>>());
    assert_eq!(sweep["strategy"]["fail-fast"].as_bool(), Some(false));
    assert!(command(&workflow, "sweep", "sweep").contains("/${{ strategy.job-total }}"));
    assert_eq!(workflow["jobs"]["whole"]["needs"].as_str(), Some("sweep"));
}

/// The command of a named step.
fn command(workflow: &Yaml, job: &str, step: &str) -> String {
    let steps = workflow["jobs"][job]["steps"].as_vec().unwrap();
    let step = steps.iter().find(|one| one["name"].as_str() == Some(step)).unwrap();
    step["run"].as_str().unwrap().to_owned()
}

/// Runs a script in a folder, with the program on its path: as `sim`, and behind `cargo sim`.
fn run(script: &str, folder: &Path, env: &BTreeMap<String, String>) {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let program = env!("CARGO_BIN_EXE_sim");
    for (name, shift) in [("sim", ""), ("cargo", "shift; ")] {
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{shift}exec '{program}' \"$@\"\n")).unwrap();
        Command::new("chmod").arg("+x").arg(&path).status().unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(folder)
        .envs(env)
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if cfg!(madsim) {
        assert!(output.status.success(), "{script}: {said}");
    } else {
        // Without the simulator it gets as far as finding that out, which it does after reading its arguments.
        assert!(said.contains("this build has no simulator"), "{script}: {said}");
    }
}

/// Reports without what two runs may differ in.
#[cfg(madsim)]
fn reports(path: &Path) -> Vec<sim::report::RunReport> {
    let text = std::fs::read_to_string(path).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str::<sim::report::RunReport>(line).unwrap());
    parsed.map(sim::report::RunReport::without_machine).collect()
}

#[cfg(not(madsim))]
fn same_as_one_run(_: &Path, _: [&str; 2], _: &[PathBuf], _: &[PathBuf]) {}

/// Merges parts and compares them with one run of all seeds, whose code is called by that name; by none if it is empty.
#[cfg(madsim)]
fn same_as_one_run(folder: &Path, [seeds, code]: [&str; 2], parts: &[PathBuf], coverage: &[PathBuf]) {
    let merged = |parts: &[PathBuf], out: &Path| {
        let mut merge = Command::new(env!("CARGO_BIN_EXE_sim"));
        assert!(merge.arg("merge").args(parts).arg("--out").arg(out).output().unwrap().status.success());
    };
    let path = |name: &str| folder.join(name);
    merged(parts, &path("whole"));
    merged(coverage, &path("whole.coverage"));
    let mut one = Command::new(env!("CARGO_BIN_EXE_sim"));
    one.args(["run", "--seeds", seeds, "--out"]).arg(path("one"));
    if !code.is_empty() {
        one.args(["--code", code]);
    }
    let output = one.arg("--coverage-report").arg(path("one.coverage")).output().unwrap();
    assert!(output.status.success());
    assert_eq!(reports(&path("whole")), reports(&path("one")));
    let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    assert_eq!(text("whole.coverage"), text("one.coverage"));
}

#[test]
fn the_pods_of_the_job_are_together_one_run() {
    let job = manifest("kubernetes-job.yaml");
    let (container, mut env) = container(&job);
    let shell: Vec<_> = container["command"].as_vec().unwrap().iter().filter_map(Yaml::as_str).collect();
    assert_eq!(shell, ["sh", "-ec"]);
    let script = container["args"][0].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| folder.path().join(name);
    // The manifest's command as it is; fewer seeds and shards, and a folder of our own.
    env.insert("SEEDS".into(), "1..=3".into());
    env.insert("SHARDS".into(), "2".into());
    env.insert("RESULTS".into(), folder.path().display().to_string());
    for index in 0..2 {
        env.insert("JOB_COMPLETION_INDEX".into(), index.to_string());
        run(script, folder.path(), &env);
    }
    same_as_one_run(
        folder.path(),
        ["1..=3", ""],
        &[of("000.jsonl"), of("001.jsonl")],
        &[of("000.coverage.json"), of("001.coverage.json")],
    );
}

#[test]
fn the_jobs_of_the_matrix_are_together_one_run() {
    let workflow = manifest("ci-matrix.yaml");
    let folder = tempfile::tempdir().unwrap();
    let parts = folder.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    let env = [("SEEDS", "4..=6"), ("GITHUB_SHA", "c0ffee")];
    let env = BTreeMap::from(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for shard in ["1", "2"] {
        let script = command(&workflow, "sweep", "sweep")
            .replace("${{ matrix.shard }}", shard)
            .replace("${{ strategy.job-total }}", "2");
        assert!(!script.contains("${{"), "{script}");
        run(&script, &parts, &env);
    }
    let of = |name: &str| parts.join(name);
    same_as_one_run(
        folder.path(),
        ["4..=6", "c0ffee"],
        &[of("part-1.jsonl"), of("part-2.jsonl")],
        &[of("coverage-1.json"), of("coverage-2.json")],
    );
    if cfg!(madsim) {
        run(&command(&workflow, "whole", "merge"), folder.path(), &env);
        assert!(folder.path().join("whole.jsonl").exists() && folder.path().join("coverage.json").exists());
    }
}
