//! One real agent and its surroundings: what it says when it cannot start, how it ends, and the
//! commands that ask it things.

#![allow(clippy::disallowed_methods)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Output, Stdio};
use std::thread;
use std::time::Duration;

use common::{ANY_PORTS, Home, Node, driftline, eventually, run, shown, text_of};

/// Starts an agent that must not come up, and returns its last words.
fn refused(args: &[&str]) -> String {
    let Err((status, log)) = Node::try_start("refused", args) else { panic!("it came up with {args:?}") };
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    log.lines().filter(|line| line.starts_with("driftline: ")).collect::<Vec<_>>().join("\n")
}

/// Every file below a directory with its content.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.push((text_of(&path), fs::read(&path).expect("a file")));
        }
    }
    files.sort();
    files
}

#[test]
fn a_second_agent_on_the_same_directory_is_refused() {
    let home = Home::new();
    let data = text_of(&home.data());
    let args = [&ANY_PORTS[..], &["--server", "--bootstrap", "--data-dir", &data]].concat();
    let first = Node::start("first", &args);
    eventually("a leader", || first.http().leader());
    assert!(first.http().set("k", "v"));
    let said = refused(&args);
    assert!(said.contains(&data), "{said}");
    assert!(said.contains("another process"), "{said}");
    assert_eq!(first.http().value("k").as_deref(), Some("v"), "the first one is none the worse");
}

#[test]
fn an_agent_that_cannot_start_leaves_the_pid_file_of_the_one_that_runs() {
    let home = Home::new();
    let (data, file) = (text_of(&home.data()), text_of(&home.path("pid")));
    let args =
        [&ANY_PORTS[..], &["--server", "--bootstrap", "--data-dir", &data, "--pid-file", &file]].concat();
    // What an agent that was killed has left behind is nobody's.
    home.file("pid", "4194304\n");
    let mut first = Node::start("first", &args);
    let id = fs::read_to_string(&file).expect("the file is there once the agent is up");
    assert_ne!(id, "4194304\n");
    let said = refused(&args);
    assert!(said.contains("another process"), "{said}");
    assert_eq!(fs::read_to_string(&file).expect("it is left alone"), id);
    // By another directory it gets further.
    let said = refused(&[&ANY_PORTS[..], &["--dev", "--pid-file", &file]].concat());
    assert!(said.contains(&format!("process {}, which runs", id.trim())), "{said}");
    assert_eq!(fs::read_to_string(&file).expect("it is left alone"), id);
    first.signal("TERM");
    assert!(first.wait().success());
    assert!(!home.path("pid").exists(), "its own it takes away");
}

#[test]
fn a_busy_port_is_named() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = busy.local_addr().unwrap();
    let port = addr.port().to_string();
    for flag in ["--http-port", "--rpc-port", "--gossip-port"] {
        let home = Home::new();
        let data = text_of(&home.data());
        let mut args: Vec<&str> = ANY_PORTS.to_vec();
        let place = args.iter().position(|arg| *arg == flag).unwrap();
        args[place + 1] = &port;
        let said = refused(&[&args[..], &["--server", "--bootstrap", "--data-dir", &data]].concat());
        assert!(said.contains(&addr.to_string()), "{flag}: {said}");
    }
}

#[test]
fn an_agent_that_can_join_nobody_says_so_and_ends() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let said = refused(&[&ANY_PORTS[..], &["--dev", "--join", &nobody]].concat());
    assert!(said.contains("cannot join") && said.contains(&nobody), "{said}");

    let retry = ["--dev", "--retry-join", &nobody, "--retry-interval", "50ms", "--retry-max", "2"];
    let mut node = Node::start("a", &[&ANY_PORTS[..], &retry].concat());
    assert_eq!(node.wait().code(), Some(1));
    assert!(node.log().contains("gave up joining after 2 tries"), "{}", node.log());
}

#[test]
fn names_to_join_are_looked_up_while_the_agent_runs() {
    let a = Node::start("a", &[&ANY_PORTS[..], &["--dev"]].concat());
    let found = format!("localhost:{}", a.at.gossip.port());
    let names = ["--retry-join", "nobody.invalid", "--retry-join", &found];
    let home = Home::new();
    let data = ["--data-dir", home.data().to_str().unwrap()].map(str::to_owned);
    let b = Node::start("b", &[&ANY_PORTS[..], &names, &data.each_ref().map(String::as_str)].concat());
    eventually("both see each other", || {
        (a.http().status_of("b") == Some(1) && b.http().status_of("a") == Some(1)).then_some(())
    });

    let retry = ["--dev", "--retry-join", "nobody.invalid", "--retry-interval", "50ms", "--retry-max", "2"];
    let mut node = Node::start("c", &[&ANY_PORTS[..], &retry].concat());
    assert_eq!(node.wait().code(), Some(1));
    let log = node.log();
    assert!(log.contains("gave up joining after 2 tries") && log.contains("nobody.invalid"), "{log}");
    let output = run(&["agent", "--dev", "--retry-join", "no body"]);
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
}

#[test]
fn an_agent_that_is_told_its_own_address_only_has_nobody_to_join() {
    let ip = Home::new().ip.to_string();
    let (own, http) = (format!("{ip}:8301"), format!("{ip}:0"));
    let ports = ["--bind", &ip, "--http-addr", &http, "--rpc-port", "0", "--gossip-port", "8301"];
    let retry = ["--dev", "--retry-join", &own, "--retry-interval", "50ms", "--retry-max", "1"];
    let mut node = Node::start("a", &[&ports[..], &retry].concat());
    // That it does not try cannot be waited for, only watched a while.
    thread::sleep(Duration::from_millis(500));
    assert!(!node.has_ended(), "{}", node.log());
    assert!(!node.log().contains("join"), "{}", node.log());
}

/// Its open files live on, so that all would look well until the next start.
#[test]
fn a_server_whose_directory_is_deleted_acknowledges_nothing_more_and_ends() {
    for emptied_only in [false, true] {
        let home = Home::new();
        let data = home.data();
        let args =
            [&ANY_PORTS[..], &["--server", "--bootstrap", "--data-dir", data.to_str().unwrap()]].concat();
        let mut node = Node::start("a", &args);
        eventually("a leader", || node.http().leader());
        assert!(node.http().set("k", "v"));
        fs::remove_dir_all(&data).unwrap();
        if emptied_only {
            fs::create_dir(&data).unwrap();
        }
        assert!(!node.http().set("k", "w"));
        assert!(!node.wait().success());
        let log = node.log();
        assert!(log.contains("were removed or replaced while the node was at work there"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[test]
fn a_damaged_directory_is_refused_and_left_alone() {
    let home = Home::new();
    let data = home.data();
    let args = [&ANY_PORTS[..], &["--server", "--bootstrap", "--data-dir", data.to_str().unwrap()]].concat();
    let mut node = Node::start("a", &args);
    eventually("a leader", || node.http().leader());
    assert!(node.http().set("k", "v"));
    node.kill();

    let largest = contents(&data).into_iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let (path, mut bytes) = largest;
    // The header of the store, which every opening reads.
    bytes[..64].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let before = contents(&data);
    let said = refused(&args);
    assert!(said.contains(data.to_str().unwrap()), "{said}");
    assert_eq!(contents(&data), before);
}

#[test]
fn a_directory_that_is_no_directory_is_named() {
    let home = Home::new();
    let file = home.file("data", "not a directory");
    let said = refused(&[&ANY_PORTS[..], &["--server", "--bootstrap", "--data-dir", &file]].concat());
    assert!(said.contains(&file), "{said}");
}

#[test]
fn what_was_written_survives_kill_and_restart() {
    let home = Home::new();
    let data = text_of(&home.data());
    let args = [&ANY_PORTS[..], &["--server", "--bootstrap", "--data-dir", &data]].concat();
    for round in 0..3 {
        let mut node = Node::start("a", &args);
        eventually("a leader", || node.http().leader());
        for earlier in 0..round {
            assert_eq!(node.http().value(&format!("k{earlier}")).as_deref(), Some("v"));
        }
        assert!(node.http().set(&format!("k{round}"), "v"));
        node.kill();
    }
}

#[test]
fn a_signal_ends_an_agent_gracefully() {
    for signal in ["TERM", "INT"] {
        let mut node = Node::start("a", &[&ANY_PORTS[..], &["--dev"]].concat());
        eventually("a leader", || node.http().leader());
        node.signal(signal);
        let status = node.wait();
        assert_eq!(status.code(), Some(0), "{signal}: {}", node.log());
    }
}

#[test]
fn the_service_manager_hears_that_an_agent_is_ready_although_it_is_alone() {
    let home = Home::new();
    let place = home.path("manager");
    let manager = UnixDatagram::bind(&place).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let heard = |flags: &[&str], name: &str| {
        let mut child = driftline()
            .args([
                "agent",
                "--server",
                "--retry-join",
                "127.0.0.1:1",
                "--data-dir",
                &text_of(&home.path(name)),
            ])
            .args(flags)
            .args(ANY_PORTS)
            .env("NOTIFY_SOCKET", &place)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut bytes = [0; 200];
        let told = manager.recv(&mut bytes);
        child.kill().unwrap();
        child.wait().unwrap();
        String::from_utf8_lossy(&bytes[..told.unwrap()]).into_owned()
    };
    // A cluster of its own, as after `driftline recover`.
    assert_eq!(heard(&["--bootstrap"], "leads"), "READY=1\nSTATUS=running");
    // The first of three that are started one after the other.
    let told = heard(&["--bootstrap-expect", "3"], "waits");
    assert!(told.starts_with("READY=1\nSTATUS=waiting for the others"), "{told}");
}

#[test]
fn leaving_over_http_ends_the_agent() {
    let mut node = Node::start("a", &[&ANY_PORTS[..], &["--dev"]].concat());
    eventually("a leader", || node.http().leader());
    assert_eq!(node.http().put("/v1/agent/leave", "").status, 200);
    assert_eq!(node.wait().code(), Some(0));
}

/// The command lines below are split at spaces; none of their words has one.
fn ask(node: &Node, line: &str) -> Output {
    let http = node.at.http.to_string();
    let mut args: Vec<&str> = line.split(' ').collect();
    args.extend(["--http-addr", &http]);
    run(&args)
}

#[test]
fn commands_print_what_people_need() {
    let home = Home::new();
    let node = Node::start("a", &[&ANY_PORTS[..], &["--dev"]].concat());
    eventually("a leader", || node.http().leader());
    let file = home.file("value", "from a file");
    let put_file = format!("kv put dir/file @{file}");
    let lines = [
        "kv put dir/a hello",
        "kv put dir/b%c with-flags --flags 7",
        "kv put bin aGVsbG8= --base64",
        &put_file,
        "kv get dir/a",
        "kv get dir/b%c",
        "kv get bin --base64",
        "kv get dir/file --stale",
        "kv put below -2",
        "kv get /below",
        "kv put /dir/a never",
        "kv get --recurse dir/",
        "kv get nothing",
        "kv get",
        "kv put dir/a other --cas 0",
        "kv put new value --cas 0",
        "kv list",
        "kv list dir/",
        "kv list --separator /",
        "kv get --keys --separator /",
        "kv get -keys -recurse -detailed /dir",
        "kv get --separator / dir/a",
        "kv list --json",
        "kv list none/",
        "kv delete dir/a",
        "kv delete dir/a",
        "kv delete new --cas 1",
        "kv delete",
        "kv delete --recurse /dir/",
        "kv list",
        "kv put bin !!! --base64",
        "kv put missing @/no/such/file",
        "kv put locked by-me --acquire --session 00000000-0000-4000-8000-000000000000",
        "kv put locked by-me --acquire",
        "kv put locked by-me --session x",
        "join 127.0.0.1:1",
        "force-leave nobody",
    ];
    let mut transcript = String::new();
    for line in lines {
        let shown = shown(&ask(&node, line));
        let line = line.replace(&file, "<file>");
        transcript +=
            &format!("$ driftline {line}\n{}\n", shown.replace(&node.at.http.to_string(), "<http>"));
    }
    insta::assert_snapshot!(transcript);
}

#[test]
fn a_key_is_locked_and_unlocked_from_the_command_line() {
    let node = Node::start("a", &[&ANY_PORTS[..], &["--dev"]].concat());
    eventually("a leader", || node.http().leader());
    let session = || {
        let made = eventually("a session", || {
            Some(node.http().put("/v1/session/create", "")).filter(|made| made.status == 200)
        });
        let made: serde_json::Value = serde_json::from_slice(&made.body).expect("JSON");
        made["ID"].as_str().expect("an id").to_owned()
    };
    let (mine, other) = (session(), session());
    let put = |how: &str| shown(&ask(&node, &format!("kv put door x {how}")));
    assert_eq!(put(&format!("--acquire --session {mine}")), "exit 0\nSuccess! Lock acquired on: door\n");
    let refused = put(&format!("--acquire --session {other}"));
    assert!(refused.starts_with("exit 1\n") && refused.contains("another session holds it"), "{refused}");
    let detailed = shown(&ask(&node, "kv get door --detailed"));
    assert!(detailed.contains(&format!("Session      {mine}\nValue        x\n")), "{detailed}");
    assert!(detailed.contains("LockIndex    1\n"), "{detailed}");
    let refused = put(&format!("--release --session {other}"));
    assert!(refused.contains("this session does not hold it"), "{refused}");
    assert_eq!(put(&format!("--release --session {mine}")), "exit 0\nSuccess! Lock released on: door\n");
    let detailed = shown(&ask(&node, "kv get door --detailed"));
    assert!(detailed.contains("Session      -\n"), "{detailed}");
}

#[test]
fn keys_go_from_one_cluster_to_another_as_a_file() {
    let home = Home::new();
    let [from, to] = ["a", "b"].map(|name| Node::start(name, &[&ANY_PORTS[..], &["--dev"]].concat()));
    for node in [&from, &to] {
        eventually("a leader", || node.http().leader());
    }
    for line in
        ["kv put dir/a hello", "kv put dir/b%c aGk= --base64 --flags 7", "kv put dir/none", "kv put else x"]
    {
        assert_eq!(ask(&from, line).status.code(), Some(0), "{line}");
    }
    let exported = ask(&from, "kv export dir/");
    let file = home.file("keys.json", &String::from_utf8(exported.stdout).expect("a text"));
    assert_eq!(
        shown(&ask(&to, &format!("kv import @{file} --prefix old/"))),
        "exit 0\nImported: old/dir/a\nImported: old/dir/b%c\nImported: old/dir/none\n"
    );
    let there = to.http().json("/v1/kv/?recurse").expect("keys");
    let told = |field: &str| {
        there.as_array().unwrap().iter().map(|entry| entry[field].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told("Key"), ["\"old/dir/a\"", "\"old/dir/b%c\"", "\"old/dir/none\""]);
    assert_eq!(told("Value"), ["\"aGVsbG8=\"", "\"aGk=\"", "null"]);
    assert_eq!(told("Flags"), ["0", "7", "0"]);
    let none = shown(&ask(&to, "kv export none/"));
    assert_eq!(none, "exit 0\n[]\n");

    let odd = home.file("odd.json", r#"[{"key":"first","value":""},{"key":"second","value":"?"}]"#);
    let said = shown(&ask(&to, &format!("kv import @{odd}")));
    assert!(said.starts_with("exit 1\n") && said.contains("\"second\" is not base64"), "{said}");
    assert_eq!(to.http().value("first"), None, "nothing is written of a text that cannot be read");
    // An entry without a key cannot be written; what came before it is there, and told.
    let odd = home.file("odd.json", r#"[{"key":"first","value":""},{"key":"","value":""}]"#);
    let said = shown(&ask(&to, &format!("kv import @{odd}")));
    assert!(said.contains("answers 400: Missing key name\nImported: first"), "{said}");
}

/// Standard output is a pipe that nobody reads any more.
fn unread(args: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    driftline().args(args).stdout(writer).output().expect("the program runs")
}

#[test]
fn a_backup_that_nobody_took_is_a_failure() {
    let home = Home::new();
    let node = Node::start("a", &[&ANY_PORTS[..], &["--dev"]].concat());
    eventually("a leader", || node.http().leader());
    assert_eq!(node.http().put("/v1/kv/k", "v").status, 200);
    let http = node.at.http.to_string();
    for backup in
        [&["snapshot", "save", "-", "--http-addr", &http][..], &["kv", "export", "--http-addr", &http]]
    {
        let said = shown(&unread(backup));
        assert!(said.starts_with("exit 1\ndriftline: cannot write the output: "), "{said}");
        assert!(!said.contains("Saved"), "{said}");
    }
    let listed = unread(&["members", "--http-addr", &http]);
    assert_eq!(shown(&listed), "exit 0\n", "who has read enough of a list");

    // As on a disk that is full.
    let file = text_of(&home.path("state.snap"));
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$@\"";
    let full = std::process::Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_driftline")])
        .args(["snapshot", "save", &file, "--http-addr", &http])
        .output()
        .expect("sh runs");
    let said = shown(&full);
    assert!(said.starts_with(&format!("exit 1\ndriftline: cannot write {file}: ")), "{said}");
    let left = fs::read_dir(home.path("")).expect("a directory").count();
    assert_eq!(left, 0, "nothing is left of it");
}

#[test]
fn members_info_and_events_show_on_the_command_line() {
    let node = Node::start("a", &[&ANY_PORTS[..], &["--dev"]].concat());
    eventually("a leader", || node.http().leader());
    let members = shown(&ask(&node, "members"));
    let row = members.lines().nth(2).unwrap_or_default().to_owned();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[..3], ["a", &node.at.gossip.to_string(), "alive"], "{members}");
    assert!(shown(&ask(&node, "members --json")).contains("\"Name\": \"a\""));
    assert!(shown(&ask(&node, "info")).contains("raft:\n"));
    assert!(shown(&ask(&node, "event fire deploy now")).starts_with("exit 0\nEvent ID: "));
    eventually("the event", || {
        let list = shown(&ask(&node, "event list --name deploy"));
        (list.contains("deploy") && list.contains("now")).then_some(())
    });
}

#[test]
fn wrong_command_lines_exit_with_2_and_absent_agents_with_1() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut transcript = String::new();
    for line in [
        "",
        "nonsense",
        "agent",
        "agent --dev --data-dir /tmp/x",
        "agent --dev --bootstrap-expect 0",
        "agent --dev --bind 0.0.0.0",
        "agent --dev --config /no/such/file.toml",
        "agent --dev --log-level driftline=loud",
        "agent --dev --log-level infoo",
        "kv put",
        "kv get k --http-addr nobody",
    ] {
        let line = line.replace("nobody", &nobody);
        let args: Vec<&str> = line.split_whitespace().collect();
        transcript += &format!("$ driftline {line}\n{}\n", shown(&run(&args))).replace(&nobody, "<nobody>");
    }
    insta::assert_snapshot!(transcript);
}

#[test]
fn mistakes_in_configuration_files_are_named() {
    let mut transcript = String::new();
    for name in [
        "unknown-key.toml",
        "unknown-nested-key.json",
        "wrong-type.toml",
        "broken.toml",
        "wildcard.toml",
        "impossible-timing.toml",
    ] {
        let path = format!("{}/fixtures/configs/{name}", env!("CARGO_MANIFEST_DIR"));
        let output = shown(&run(&["agent", "--dev", "--config", &path]));
        transcript += &format!("{name}\n{}\n", output.replace(&path, name));
    }
    insta::assert_snapshot!(transcript);
}

#[test]
fn a_full_configuration_file_is_understood() {
    let path = format!("{}/fixtures/configs/full.toml", env!("CARGO_MANIFEST_DIR"));
    // Flags win: the ports of the file are likely to be taken.
    let node = Node::start("a", &[&ANY_PORTS[..], &["--dev", "--config", &path]].concat());
    let this = eventually("the agent", || node.http().json("/v1/agent/self"));
    assert_eq!(this["DebugConfig"]["limits"]["value_bytes"], 1024);
    assert_eq!(this["DebugConfig"]["tags"]["rack"], "r1");
    assert_eq!(this["Config"]["NodeName"], "a");
}

#[test]
fn whoever_answers_and_is_no_agent_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for line in ["kv get k", "kv get --recurse", "kv list", "kv export", "watch --type key --key k"] {
        let args: Vec<&str> = line.split(' ').chain(["--http-addr", &at]).collect();
        let said = shown(&run(&args));
        assert!(
            said.starts_with("exit 1\ndriftline: whoever answers at ") && said.contains(&at),
            "{line}: {said}"
        );
    }
    for odd in ["ftp://x", "unix:///run/consul"] {
        let said = shown(&run(&["kv", "get", "k", "--http-addr", odd]));
        assert!(
            said.starts_with("exit 2\n") && said.contains("only http:// and https:// are known"),
            "{said}"
        );
    }
}

#[test]
fn an_agent_that_hangs_is_waited_for_no_longer_than_was_said() {
    // It takes connections, as the kernel does for a process that stands still, and answers nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let begun = std::time::Instant::now();
    let said = shown(&run(&["lock", "--try", "300ms", "--http-addr", &at, "a", "true"]));
    assert!(said.starts_with("exit 1\n") && said.contains("could not be had in time"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn every_command_says_what_to_do_about_an_agent_that_is_not_there() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for line in ["status", "monitor", "watch --type nodes", "watch --type nodes true", "lock a true"] {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let args: Vec<&str> =
            [command, "--http-addr", &nobody].into_iter().chain(rest.split_whitespace()).collect();
        let said = shown(&run(&args));
        assert!(said.starts_with("exit 1\n") && said.contains("is --http-addr right?"), "{line}: {said}");
    }
}
