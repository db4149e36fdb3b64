//! A quorum is lost for good: what one disk holds becomes a cluster again, and the old members stay out of it.

#![allow(clippy::disallowed_methods)]

mod common;

use common::{Home, Listening, Node, QUICK, eventually, run, shown, text_of};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn up(name: &str, home: &Home, at: Option<Listening>, join: &[String]) -> Node {
    let (config, data) = (home.file("config.toml", QUICK), text_of(&home.data()));
    let ports = home.ports(at);
    let mut args = vec!["--server", "--config", &config, "--data-dir", &data, "--bootstrap-expect", "3"];
    args.extend(ports.iter().map(String::as_str));
    for addr in join {
        args.extend(["--retry-join", addr]);
    }
    Node::start(name, &args)
}

#[test]
fn what_one_disk_holds_becomes_a_cluster_that_the_old_members_stay_out_of() {
    let homes = [Home::new(), Home::new(), Home::new()];
    let mut nodes: Vec<Node> = Vec::new();
    for (name, home) in NAMES.iter().zip(&homes) {
        let join: Vec<String> = nodes.iter().map(|node| node.at.gossip.to_string()).collect();
        nodes.push(up(name, home, None, &join));
    }
    for node in &nodes {
        eventually("three voters and a leader", || {
            (node.http().voters() == 3 && node.http().leader().is_some()).then_some(())
        });
    }
    // Who follows says who knows more.
    let asked: Vec<String> = nodes
        .iter()
        .map(|node| {
            shown(&run(&["operator", "raft", "list-peers", "--http-addr", &node.at.http.to_string()]))
        })
        .collect();
    let referred =
        asked.iter().filter(|said| said.contains(") knows the log index of the others: ask it.\n"));
    assert_eq!(referred.count(), 2, "{asked:?}");
    for i in 0..20 {
        assert!(nodes[i % 3].http().set(&format!("k{i}"), "v"));
    }
    eventually("all of it at a", || (nodes[0].http().local_value("k19")? == "v").then_some(()));
    let at: Vec<Listening> = nodes.iter().map(|node| node.at).collect();
    drop(nodes);

    // Servers that never were members hold nothing, and are left alone.
    let empty = Home::new();
    std::fs::create_dir(empty.data()).unwrap();
    let said = shown(&run(&["recover", &text_of(&empty.data())]));
    assert!(said.starts_with("exit 1\n") && said.contains("nothing to recover"), "{said}");
    assert_eq!(std::fs::read_dir(empty.data()).unwrap().count(), 0);

    let dirs = [text_of(&homes[0].data()), text_of(&homes[1].data())];
    let said = shown(&run(&["recover", &dirs[0], &dirs[1], "--dry-run"]));
    assert!(said.starts_with("exit 0\n") && said.contains("Nothing was changed"), "{said}");
    assert!(said.contains("20 keys") && said.contains("Furthest along: "), "{said}");
    // One that cannot be used keeps the others from nothing but being recovered without a word about it.
    let broken = text_of(&empty.data());
    let said = shown(&run(&["recover", &broken, &dirs[0], &dirs[1]]));
    assert!(said.starts_with(&format!("exit 0\n{broken}\n  cannot be used: ")), "{said}");
    assert!(said.contains("20 keys") && said.contains(&format!("with --yes, without {broken}\n")), "{said}");
    let said = shown(&run(&["recover", &broken, &dirs[0], "--yes"]));
    assert!(said.starts_with("exit 1\n") && said.contains(&format!("run it without {broken}\n")), "{said}");
    let said = shown(&run(&["recover", &dirs[0], "--yes"]));
    assert!(said.starts_with("exit 0\n") && said.contains("New cluster: "), "{said}");

    // Alone, and with everything.
    let a = up("a", &homes[0], Some(at[0]), &[]);
    eventually("a leader", || a.http().leader());
    assert_eq!(a.http().voters(), 1);
    for i in 0..20 {
        assert_eq!(a.http().value(&format!("k{i}")).as_deref(), Some("v"), "k{i}");
    }
    assert!(a.http().set("after", "v"));

    // The old members come back with their old disks: they are refused, and found no second quorum with it.
    let b = up("b", &homes[1], Some(at[1]), &[a.at.gossip.to_string()]);
    let why = eventually("b tells why", || {
        let why = b.http().json("/v1/status/why")?;
        why.to_string().contains("another cluster").then_some(why)
    });
    assert_eq!(why["Leader"], false, "{why}");
    assert_eq!(a.http().voters(), 1);
    assert_ne!(a.http().status_of("b"), Some(1), "a does not listen to it");
    assert!(a.http().set("again", "v"));
    drop(b);

    // Emptied, it joins.
    std::fs::remove_dir_all(homes[1].data()).unwrap();
    let b = up("b", &homes[1], Some(at[1]), &[a.at.gossip.to_string()]);
    eventually("two voters", || (a.http().voters() == 2).then_some(()));
    eventually("everything at b", || (b.http().local_value("again")? == "v").then_some(()));
    assert_eq!(b.http().local_value("k0").as_deref(), Some("v"));
}
