//! The rules that no type can hold: which layer may know which, and who may touch the real world.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file under `directory`, with its text up to its unit tests.
fn files(directory: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join(directory), &mut paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        // A file of tests that is only named here goes on.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
        (path.strip_prefix(root).unwrap().to_owned(), code)
    };
    paths.into_iter().map(read).collect()
}

fn layer(path: &Path) -> String {
    let mut parts = path.components().skip(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
    parts.next().unwrap_or_default().trim_end_matches(".rs").to_owned()
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(i, line)| (i + 1, line))
}

#[test]
fn layers_import_only_what_is_below_them() {
    let allowed = BTreeMap::from([
        ("env", ""),
        ("mutant", ""),
        ("secret", ""),
        ("state", "mutant secret"),
        ("config", "gossip secret"),
        ("raft", "config env mutant state"),
        ("gossip", "env mutant"),
        ("agent", "config env gossip mutant raft secret state"),
        ("http", "agent config env gossip mutant secret state"),
        ("dns", "agent config env state"),
        ("history", "http"),
        ("node", "agent config dns env http watch"),
        ("telemetry", ""),
        ("watch", "agent config env http secret"),
        ("cli", "agent config env gossip history http mutant node raft secret telemetry watch"),
        ("main", ""),
        ("lib", ""),
    ]);
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        let layer = layer(&path);
        let below = allowed.get(layer.as_str()).unwrap_or_else(|| panic!("{layer} is not in the table"));
        for (number, line) in code_lines(&text) {
            // The program knows its library by name.
            for rest in line.split("crate::").skip(1).chain(line.split("driftline::").skip(1)) {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = allowed.contains_key(name.as_str());
                if known && name != layer && !below.split(' ').any(|allowed| allowed == name) {
                    wrong.push(format!("{}:{number}: {layer} must not know {name}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_real_environment_touches_the_world() {
    let words = [
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "tokio::net",
        "tokio::fs",
        "tokio::time",
        "std::process::Command",
    ];
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        if ["src/env/real.rs", "src/env/real", "src/cli.rs", "src/cli", "src/mutant.rs"]
            .iter()
            .any(|known| path.starts_with(known))
            || path.ends_with("tests.rs")
        {
            continue;
        }
        for (number, line) in code_lines(&text) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_source_asks_which_world_it_runs_in() {
    let wrong: Vec<String> = files("src")
        .into_iter()
        .filter(|(_, text)| text.contains("cfg(madsim)"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "cfg(madsim) belongs in sim: {}", wrong.join(", "));
}

#[test]
fn observable_order_never_comes_from_a_hash() {
    // It only asks its map for what is in it, millions of times; nothing walks through it.
    let unwalked = [Path::new("sim/src/check/linearizable/seen.rs")];
    let mut wrong = Vec::new();
    for (path, text) in files("src").into_iter().chain(files("sim/src")) {
        if unwalked.contains(&path.as_path()) {
            continue;
        }
        for (number, line) in code_lines(&text) {
            if line.contains("HashMap") || line.contains("HashSet") {
                wrong.push(format!("{}:{number}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "use BTreeMap or BTreeSet: {}", wrong.join(", "));
}

/// Whoever adds a dependency says what for.
#[test]
fn every_dependency_has_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let architecture = text("ARCHITECTURE.md");
    let reasons: Vec<&str> = architecture
        .lines()
        .skip_while(|line| *line != "## Dependencies and their reasons")
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|names| names.split([',', ' ', '`', '(', ')', '\'']))
        .collect();
    for manifest in ["Cargo.toml", "sim/Cargo.toml"] {
        let text = text(manifest);
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            } else if section.ends_with("dependencies]")
                && !line.starts_with('#')
                && let Some((name, _)) = line.split_once([' ', '.', '='])
            {
                assert!(name == "driftline" || reasons.contains(&name), "{manifest}: {name}: say why");
            }
        }
    }
}
