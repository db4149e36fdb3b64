//! Small clusters over real loopback sockets, with short times.

use super::*;
use crate::env::real::env_in_memory;
use bytes::Bytes;
use futures_util::future::BoxFuture;

fn quick() -> Timing {
    Timing {
        probe_period_ms: 100,
        probe_timeout_ms: 40,
        gossip_interval_ms: 20,
        push_pull_interval_ms: 1_000,
        reconnect_interval_ms: 300,
        stream_timeout_ms: 500,
        leave_propagate_ms: 60,
        refute_delay_ms: 150,
        ..Timing::default()
    }
}

/// Writes down what it is told.
#[derive(Default)]
struct Log(Mutex<Vec<(String, String, Status)>>);

impl Log {
    fn note(&self, what: &str, member: &Member) {
        self.0.lock().unwrap().push((what.to_owned(), member.name.clone(), member.status));
    }
    fn of(&self, name: &str) -> Vec<(String, Status)> {
        let log = self.0.lock().unwrap();
        log.iter().filter(|(_, n, _)| n == name).map(|(what, _, status)| (what.clone(), *status)).collect()
    }
}

impl EventDelegate for Log {
    fn notify_join(&self, member: &Member) {
        self.note("join", member);
    }
    fn notify_leave(&self, member: &Member) {
        self.note("leave", member);
    }
    fn notify_update(&self, member: &Member) {
        self.note("update", member);
    }
    fn notify_conflict(&self, first: &Member, _second: &Member) {
        self.note("conflict", first);
    }
}

struct Node {
    gossip: Gossip,
    events: UserEvents,
    meta: Arc<Mutex<Bytes>>,
    log: Arc<Log>,
}

fn options(node_id: u64, generation: u64, bind: SocketAddr) -> Options {
    Options {
        node_id,
        name: format!("n{node_id}"),
        bind,
        advertise: None,
        generation,
        timing: quick(),
        cluster: "test".to_owned(),
        founded: None,
        newest: wire::NEWEST,
        encryption: Encryption::default(),
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn start(options: Options) -> Node {
    start_in(&env_in_memory(options.node_id * 1_000 + options.generation), options).await
}

async fn start_in(env: &Env, options: Options) -> Node {
    let meta = Arc::new(Mutex::new(Bytes::from_static(b"v1")));
    let source = meta.clone();
    let events = UserEvents::new(env, move || source.lock().unwrap().clone());
    let log = Arc::new(Log::default());
    let gossip = Gossip::start(env, options, Arc::new(events.clone()), log.clone()).await.unwrap();
    Node { gossip, events, meta, log }
}

impl Node {
    fn addr(&self) -> SocketAddr {
        self.gossip.local().addr
    }

    fn sees(&self, name: &str) -> Option<Status> {
        self.gossip.members().into_iter().find(|member| member.name == name).map(|member| member.status)
    }
}

async fn cluster(n: u64) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for i in 0..n {
        let node = start(options(i + 1, 1, any_port())).await;
        if let Some(first) = nodes.first() {
            assert_eq!(node.gossip.join(&[first.addr()]).await.unwrap(), 1);
        }
        nodes.push(node);
    }
    let count = n as usize;
    until("everybody knows everybody", || {
        nodes.iter().all(|node| {
            let members = node.gossip.members();
            members.len() == count && members.iter().all(|member| member.status == Status::Alive)
        })
    })
    .await;
    nodes
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let env = env_in_memory(0);
    let deadline = env.now() + Duration::from_secs(8);
    while !done() {
        assert!(env.now() < deadline, "not within 8 s: {what}");
        env.sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn five_nodes_join_and_see_each_other() {
    let nodes = cluster(5).await;
    let members = nodes[4].gossip.members();
    assert_eq!(members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["n1", "n2", "n3", "n4", "n5"]);
    assert!(members.iter().all(|member| member.meta == "v1"));
    assert_eq!(nodes[0].gossip.stats()["members"], "5");
    assert_eq!(nodes[0].log.of("n3"), [("join".to_owned(), Status::Alive)]);
}

#[tokio::test]
async fn new_metadata_is_an_update_and_nothing_else() {
    let nodes = cluster(3).await;
    *nodes[1].meta.lock().unwrap() = Bytes::from_static(b"v2");
    nodes[1].gossip.update_meta().await.unwrap();
    assert_eq!(nodes[1].gossip.local().meta, "v2");
    until("the others see it", || [0, 2].iter().all(|i| nodes[*i].gossip.members()[1].meta == "v2")).await;
    assert_eq!(
        nodes[0].log.of("n2"),
        [("join".to_owned(), Status::Alive), ("update".to_owned(), Status::Alive)]
    );
    *nodes[1].meta.lock().unwrap() = vec![0; META_LIMIT + 1].into();
    assert!(matches!(nodes[1].gossip.update_meta().await, Err(Error::MetaTooLarge { size: 513 })));
    assert_eq!(nodes[1].gossip.local().meta, "v2");
}

#[tokio::test]
async fn the_largest_metadata_and_name_reach_everybody() {
    let first = start(options(1, 1, any_port())).await;
    let name = "x".repeat(wire::MAX_NAME);
    let big = start(Options { name: name.clone(), ..options(2, 1, any_port()) }).await;
    *big.meta.lock().unwrap() = vec![7; META_LIMIT].into();
    big.gossip.update_meta().await.unwrap();
    big.gossip.join(&[first.addr()]).await.unwrap();
    let third = start(options(3, 1, any_port())).await;
    third.gossip.join(&[first.addr()]).await.unwrap();
    until("all have it", || {
        [&first, &third]
            .iter()
            .all(|node| node.gossip.members().iter().any(|m| m.name == name && m.meta.len() == META_LIMIT))
    })
    .await;
}

#[tokio::test]
async fn an_event_reaches_everybody_once() {
    let nodes = cluster(5).await;
    for i in 0..20 {
        let name = format!("e{i}");
        nodes[i % 5].events.fire(NewEvent { name, ..NewEvent::default() }).unwrap();
    }
    until("all events are everywhere", || nodes.iter().all(|n| n.events.list(None).1.len() >= 20)).await;
    env_in_memory(0).sleep(Duration::from_millis(100)).await;
    for node in &nodes {
        let events = node.events.list(None).1;
        let ids: std::collections::BTreeSet<_> = events.iter().map(|event| &event.id).collect();
        assert_eq!((events.len(), ids.len()), (20, 20));
    }
    until("the queues drain", || nodes.iter().all(|n| n.gossip.stats()["event_queue"] == "0")).await;
}

#[tokio::test]
async fn who_leaves_has_left_and_has_not_failed() {
    let nodes = cluster(4).await;
    nodes[3].gossip.leave(Duration::from_secs(5)).await.unwrap();
    assert_eq!(nodes[3].gossip.local().status, Status::Left);
    nodes[3].gossip.shutdown().await;
    until("the others see that it left", || {
        nodes[..3].iter().all(|node| node.sees("n4") == Some(Status::Left))
    })
    .await;
    for node in &nodes[..3] {
        let log = node.log.of("n4");
        assert_eq!(log.last().unwrap(), &("leave".to_owned(), Status::Left));
        assert!(log.iter().all(|(_, status)| *status != Status::Failed), "{log:?}");
    }
}

#[tokio::test]
async fn who_is_killed_has_failed_and_comes_back_with_its_next_life() {
    let mut nodes = cluster(3).await;
    let dead = nodes.pop().unwrap();
    let addr = dead.addr();
    dead.gossip.shutdown().await;
    until("it is seen as failed", || nodes.iter().all(|n| n.sees("n3") == Some(Status::Failed))).await;

    let reborn = start(options(3, 2, addr)).await;
    reborn.gossip.join(&[nodes[0].addr()]).await.unwrap();
    until("it is back", || nodes.iter().all(|n| n.sees("n3") == Some(Status::Alive))).await;
    let log = nodes[1].log.of("n3");
    assert_eq!(
        log.iter()
            .filter(|(what, _)| what != "update")
            .map(|(what, s)| (what.as_str(), *s))
            .collect::<Vec<_>>(),
        [("join", Status::Alive), ("leave", Status::Failed), ("join", Status::Alive)]
    );
}

#[tokio::test]
async fn who_is_back_among_many_is_not_told_everything_by_each_of_them() {
    let seldom = |node_id, generation, addr| Options {
        timing: Timing { push_pull_interval_ms: 600_000, ..quick() },
        ..options(node_id, generation, addr)
    };
    let mut nodes = Vec::new();
    for node_id in 1..=25 {
        let node = start(seldom(node_id, 1, any_port())).await;
        if let Some(first) = nodes.first().map(Node::addr) {
            node.gossip.join(&[first]).await.unwrap();
        }
        nodes.push(node);
    }
    until("all see all", || nodes.iter().all(|node| node.gossip.members().len() == 25)).await;
    let addr = nodes.pop().unwrap().addr();
    until("it has failed", || nodes.iter().all(|node| node.sees("n25") == Some(Status::Failed))).await;
    let begun = || nodes.iter().map(|node| stat(node, "push_pulls")).sum::<u64>();
    let before = begun();
    let back = start(seldom(25, 2, addr)).await;
    back.gossip.join(&[nodes[0].addr()]).await.unwrap();
    until("it is back", || nodes.iter().all(|node| node.sees("n25") == Some(Status::Alive))).await;
    let begun = begun() - before;
    assert!(begun < 20, "{begun} of 24 exchanged state with it");
}

#[tokio::test]
async fn a_node_that_forgot_its_generation_is_told_and_comes_back_without_joining_by_hand() {
    let mut nodes = cluster(3).await;
    let dead = nodes.pop().unwrap();
    let addr = dead.addr();
    dead.gossip.shutdown().await;
    until("it is seen as failed", || nodes.iter().all(|n| n.sees("n3") == Some(Status::Failed))).await;
    // The same generation again, and nobody tells it whom to join: the others knock.
    let reborn = start(options(3, 1, addr)).await;
    until("it is back", || {
        nodes.iter().all(|n| n.sees("n3") == Some(Status::Alive))
            && reborn.gossip.members().iter().filter(|m| m.status == Status::Alive).count() == 3
    })
    .await;
    assert!(reborn.gossip.local().generation > 1);
}

#[tokio::test]
async fn a_node_at_a_new_address_is_the_same_node_and_does_not_fail_later() {
    let mut nodes = cluster(3).await;
    let old = nodes.pop().unwrap();
    old.gossip.shutdown().await;
    let moved = start(options(3, 2, any_port())).await;
    moved.gossip.join(&[nodes[0].addr()]).await.unwrap();
    let addr = moved.addr();
    until("the new address is known", || {
        nodes.iter().all(|n| n.gossip.members().iter().any(|m| m.name == "n3" && m.addr == addr))
    })
    .await;
    // Longer than it takes to find the old address dead.
    env_in_memory(0).sleep(Duration::from_millis(900)).await;
    for node in &nodes {
        assert_eq!(node.sees("n3"), Some(Status::Alive));
        assert_eq!(node.gossip.members().len(), 3);
    }
}

#[tokio::test]
async fn another_node_may_take_the_address_of_a_dead_one() {
    let mut nodes = cluster(3).await;
    let dead = nodes.pop().unwrap();
    let addr = dead.addr();
    dead.gossip.shutdown().await;
    let heir = start(Options { generation: 0, ..options(9, 1, addr) }).await;
    heir.gossip.join(&[nodes[0].addr()]).await.unwrap();
    until("the heir lives and the dead one has failed", || {
        nodes.iter().all(|n| n.sees("n9") == Some(Status::Alive) && n.sees("n3") == Some(Status::Failed))
    })
    .await;
}

#[tokio::test]
async fn a_node_may_take_the_address_that_a_living_one_has_given_up() {
    let nodes = cluster(2).await;
    let first = start(options(3, 5_000_000, any_port())).await;
    first.gossip.join(&[nodes[0].addr()]).await.unwrap();
    until("it is known", || nodes.iter().all(|n| n.sees("n3") == Some(Status::Alive))).await;
    let (addr, elsewhere) = (first.addr(), any_port());
    first.gossip.shutdown().await;
    let moved = start(options(3, 6_000_000, elsewhere)).await;
    moved.gossip.join(&[nodes[0].addr()]).await.unwrap();
    let seen_at = |n: &Node, name: &str| {
        n.gossip.members().into_iter().find(|member| member.name == name).map(|member| member.addr)
    };
    until("it has moved", || nodes.iter().all(|n| seen_at(n, "n3") == Some(moved.addr()))).await;
    // To foca the address is that of a life of a much higher generation.
    let heir = start(options(9, 1, addr)).await;
    heir.gossip.join(&[nodes[0].addr()]).await.unwrap();
    until("both live", || {
        let all = nodes.iter().chain([&moved]);
        all.clone().all(|n| n.sees("n9") == Some(Status::Alive))
            && nodes.iter().all(|n| n.sees("n3") == Some(Status::Alive))
            && heir.sees("n3") == Some(Status::Alive)
    })
    .await;
    assert!(heir.gossip.local().generation > 5_000_000, "it was told, and did not count up");
}

#[tokio::test]
async fn nodes_of_two_versions_understand_each_other_while_they_are_upgraded_one_by_one() {
    let old = |id, generation, addr| Options { newest: wire::OLDEST, ..options(id, generation, addr) };
    let first = start(old(1, 1, any_port())).await;
    let second = start(options(2, 1, any_port())).await;
    let third = start(old(3, 1, any_port())).await;
    for node in [&second, &third] {
        node.gossip.join(&[first.addr()]).await.unwrap();
    }
    let all_see = |nodes: &[&Node]| {
        let names = ["n1", "n2", "n3"];
        nodes.iter().all(|n| names.iter().filter(|name| n.sees(name) == Some(Status::Alive)).count() >= 2)
    };
    until("all see each other", || all_see(&[&first, &second, &third])).await;
    let (addr, seeds) = (third.addr(), [first.addr(), second.addr()]);
    third.gossip.shutdown().await;
    let third = start(options(3, 2, addr)).await;
    third.gossip.join(&seeds).await.unwrap();
    until("the upgraded one is back", || all_see(&[&first, &second, &third])).await;
    until("the two speak the newer version", || {
        second.gossip.stats().get("modern_peers").is_some_and(|n| n == "1")
    })
    .await;
    // And back again: what was learned of its address is unlearned.
    third.gossip.shutdown().await;
    let third = start(old(3, 3, addr)).await;
    third.gossip.join(&seeds).await.unwrap();
    until("the downgraded one is back", || {
        all_see(&[&first, &second, &third])
            && second.gossip.stats().get("modern_peers").is_some_and(|n| n == "0")
    })
    .await;
}

#[tokio::test]
async fn who_is_gone_for_long_is_forgotten_and_may_come_back() {
    let forgetful = |node_id, addr| Options {
        timing: Timing { reap_after_ms: 1_000, ..quick() },
        ..options(node_id, 1, addr)
    };
    let first = start(forgetful(1, any_port())).await;
    let second = start(forgetful(2, any_port())).await;
    second.gossip.join(&[first.addr()]).await.unwrap();
    until("they know each other", || first.sees("n2") == Some(Status::Alive)).await;
    let addr = second.addr();
    second.gossip.shutdown().await;
    until("it has failed", || first.sees("n2") == Some(Status::Failed)).await;
    until("it is forgotten", || first.sees("n2").is_none()).await;
    // Forgotten for good: the very same life is welcome.
    let second = start(forgetful(2, addr)).await;
    second.gossip.join(&[first.addr()]).await.unwrap();
    until("it is back", || first.sees("n2") == Some(Status::Alive)).await;
    assert_eq!(second.gossip.local().generation, 1);
}

#[tokio::test]
async fn who_is_forgotten_is_not_remembered_again_by_those_who_tell_each_other_all_they_know() {
    let forgetful = |node_id| Options {
        // They see it fail, and forget it, at different times, and talk more often than they forget.
        timing: Timing { reap_after_ms: 2_000, push_pull_interval_ms: 50, ..quick() },
        founded: Some(7),
        ..options(node_id, 1, any_port())
    };
    let mut nodes = Vec::new();
    for node_id in 1..=4 {
        let node = start(forgetful(node_id)).await;
        if let Some(first) = nodes.first().map(Node::addr) {
            node.gossip.join(&[first]).await.unwrap();
        }
        nodes.push(node);
    }
    until("all see all", || nodes.iter().all(|node| node.gossip.members().len() == 4)).await;
    nodes.pop().unwrap().gossip.shutdown().await;
    until("it has failed", || nodes.iter().all(|node| node.sees("n4") == Some(Status::Failed))).await;
    // Who comes after that hears of it, and how long ago it was.
    let env = env_in_memory(0);
    env.sleep(Duration::from_millis(1_000)).await;
    let late = start(forgetful(5)).await;
    late.gossip.join(&[nodes[0].addr()]).await.unwrap();
    assert_eq!(late.sees("n4"), Some(Status::Failed));
    nodes.push(late);
    let came = env.now();
    until("it is forgotten", || nodes.iter().all(|node| node.sees("n4").is_none())).await;
    assert!(env.now().since(came) < Duration::from_millis(1_900), "{:?}", env.now().since(came));
    for _ in 0..100 {
        env.sleep(Duration::from_millis(10)).await;
        assert!(nodes.iter().all(|node| node.sees("n4").is_none()));
    }
}

#[tokio::test]
async fn force_leave_makes_a_failed_member_left_everywhere_and_prune_removes_it() {
    let mut nodes = cluster(4).await;
    nodes.pop().unwrap().gossip.shutdown().await;
    until("it is seen as failed", || nodes.iter().all(|n| n.sees("n4") == Some(Status::Failed))).await;
    nodes[0].gossip.force_leave("n4", false).await.unwrap();
    until("it has left", || nodes.iter().all(|n| n.sees("n4") == Some(Status::Left))).await;
    nodes[1].gossip.force_leave("n4", true).await.unwrap();
    until("it is gone", || nodes.iter().all(|n| n.sees("n4").is_none())).await;
    assert!(matches!(nodes[2].gossip.force_leave("n4", false).await, Err(Error::UnknownMember { .. })));
    // It is remembered, so that whoever follows the members can follow this too.
    let remembered = nodes[0].gossip.remembered();
    assert!(remembered.iter().any(|m| m.name == "n4" && m.pruned && m.status == Status::Left));
    // A newcomer does not hear of it either.
    let new = start(options(7, 1, any_port())).await;
    new.gossip.join(&[nodes[0].addr()]).await.unwrap();
    assert_eq!(new.sees("n4"), None);
}

#[tokio::test]
async fn a_live_member_contradicts_who_forces_it_to_leave() {
    let nodes = cluster(3).await;
    nodes[0].gossip.force_leave("n2", false).await.unwrap();
    until("it is leaving", || nodes[0].sees("n2") == Some(Status::Leaving)).await;
    until("it is alive", || nodes.iter().all(|n| n.sees("n2") == Some(Status::Alive))).await;
    assert_eq!(nodes[1].gossip.local().generation, 2);
    nodes[1].gossip.force_leave("n2", true).await.unwrap();
    assert_eq!(nodes[1].gossip.local().status, Status::Alive);
}

#[tokio::test]
async fn joining_counts_who_was_reached_and_explains_who_was_not() {
    let nodes = cluster(2).await;
    let lonely = start(options(5, 1, any_port())).await;
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    match lonely.gossip.join(&[nobody, lonely.addr()]).await {
        Err(Error::Join(reasons)) => {
            assert_eq!(reasons.len(), 2);
            assert_eq!(reasons[1].1, NotJoined::Itself);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(lonely.gossip.join(&[nobody, nodes[0].addr(), nodes[1].addr()]).await.unwrap(), 2);
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let nodes = cluster(1).await;
    let stranger = start(Options { cluster: "other".into(), ..options(5, 1, any_port()) }).await;
    match stranger.gossip.join(&[nodes[0].addr()]).await {
        Err(Error::Join(reasons)) => {
            assert!(reasons[0].1.to_string().contains("another cluster"), "{reasons:?}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((nodes[0].gossip.members().len(), stranger.gossip.members().len()), (1, 1));
}

/// Starts a node whose program knows which cluster it is of.
async fn founded(node_id: u64, cluster: u64) -> Node {
    start(Options { founded: Some(cluster), ..options(node_id, 1, any_port()) }).await
}

#[tokio::test]
async fn two_clusters_that_were_founded_apart_do_not_mix() {
    let first = founded(1, 0xa).await;
    let second = founded(2, 0xb).await;
    let follower = start(options(3, 1, any_port())).await;
    follower.gossip.join(&[second.addr()]).await.unwrap();
    let refused =
        "of cluster 000000000000000a, and this node is of 000000000000000b: two clusters cannot be merged";
    for stranger in [&second, &follower] {
        match stranger.gossip.join(&[first.addr()]).await {
            Err(Error::Join(reasons)) => assert_eq!(reasons[0].1.to_string(), refused),
            other => panic!("{other:?}"),
        }
    }
    // The founded refuse on their side as well, and nobody has heard of anybody.
    assert_eq!(first.gossip.stats()["dropped_other_cluster"], "2");
    assert_eq!(first.gossip.members().len(), 1);
    assert!([&second, &follower].iter().all(|node| node.gossip.members().len() == 2));
    // Nor does a datagram bring one there that somebody else passed on.
    let before = first.gossip.stats()["dropped_other_cluster"].clone();
    let env = env_in_memory(0);
    let socket = env.network().bind(any_port()).await.unwrap();
    let id = Identity { node_id: 9, addr: socket.local_addr(), generation: 1, leaving: false };
    let of = Some(allegiance::Belongs { cluster: 0xb, sure: false });
    let sender = wire::Sender { id, revision: 1, of };
    let number = wire::cluster_number("test");
    let datagram = wire::DatagramBuilder::new(wire::NEWEST, wire::NEWEST, number, &sender, &[]).finish();
    socket.send_to(&datagram, first.addr()).await.unwrap();
    until("it is counted", || first.gossip.stats()["dropped_other_cluster"] != before).await;
    assert_eq!(first.gossip.members().len(), 1);
}

#[tokio::test]
async fn who_is_of_no_cluster_joins_any_and_is_free_again_when_the_cluster_is_gone() {
    let old = founded(1, 0xa).await;
    let client = start(options(3, 1, any_port())).await;
    client.gossip.join(&[old.addr()]).await.unwrap();
    let second_client = start(options(4, 1, any_port())).await;
    second_client.gossip.join(&[client.addr()]).await.unwrap();
    until("all see all", || [&client, &second_client].iter().all(|node| node.gossip.members().len() == 3))
        .await;
    let new = founded(2, 0xb).await;
    assert!(client.gossip.join(&[new.addr()]).await.is_err());
    old.gossip.shutdown().await;
    until("it is seen as failed", || client.sees("n1") == Some(Status::Failed)).await;
    // What is left of the old cluster keeps nobody: the two clients only follow.
    let mut joined = false;
    for _ in 0..200 {
        joined = client.gossip.join(&[new.addr()]).await.is_ok();
        if joined {
            break;
        }
        env_in_memory(0).sleep(Duration::from_millis(50)).await;
    }
    assert!(joined, "the client is free");
    until("both are there", || {
        new.sees("n3") == Some(Status::Alive) && new.sees("n4") == Some(Status::Alive)
    })
    .await;
}

#[tokio::test]
async fn who_lost_its_id_is_listed_once() {
    let mut nodes = cluster(3).await;
    let old = nodes.pop().unwrap();
    let addr = old.addr();
    old.gossip.shutdown().await;
    let new = start(Options { name: "n3".into(), ..options(33, 1, addr) }).await;
    new.gossip.join(&[nodes[0].addr()]).await.unwrap();
    let listed = |node: &Node| {
        let members = node.gossip.members();
        members.iter().filter(|m| m.name == "n3").map(|m| (m.node_id, m.status)).collect::<Vec<_>>()
    };
    until("the heir is there alone", || nodes.iter().all(|n| listed(n) == [(33, Status::Alive)])).await;
    until("who it was is remembered", || {
        nodes.iter().all(|n| n.gossip.remembered().iter().filter(|m| m.name == "n3").count() == 2)
    })
    .await;
}

#[tokio::test]
async fn two_members_of_one_name_are_both_listed_and_reported() {
    let nodes = cluster(2).await;
    let twin = start(Options { name: "n2".into(), ..options(8, 1, any_port()) }).await;
    twin.gossip.join(&[nodes[0].addr()]).await.unwrap();
    until("the conflict is noticed", || nodes[0].gossip.stats()["name_conflicts"] == "1").await;
    assert_eq!(nodes[0].gossip.members().iter().filter(|m| m.name == "n2").count(), 2);
}

#[tokio::test]
async fn who_comes_with_the_id_of_one_that_is_there_ends_and_the_first_stays() {
    let nodes = cluster(3).await;
    let copy = start(Options { name: "copy".into(), ..options(3, 1 << 20, any_port()) }).await;
    let ended = copy.gossip.fatal();
    copy.gossip.join(&[nodes[0].addr()]).await.unwrap();
    let reason = env_in_memory(0).timeout(Duration::from_secs(8), ended).await.unwrap();
    let where_it_is = format!("another agent runs with this node's id (n3, at {})", nodes[2].addr());
    assert!(reason.starts_with(&where_it_is), "{reason}");
    let told = || nodes[2].gossip.twins().iter().map(Twins::to_string).collect::<Vec<_>>();
    until("the first says so too", || !told().is_empty()).await;
    assert_eq!(told(), [format!("n3 at {} and copy at {}", nodes[2].addr(), copy.addr())]);
    until("it is the first again that others see", || {
        nodes[..2].iter().all(|node| {
            node.sees("n3") == Some(Status::Alive)
                && node.gossip.members().iter().any(|m| m.addr == nodes[2].addr())
        })
    })
    .await;
}

#[tokio::test]
async fn a_node_that_moved_starts_whoever_has_its_old_address() {
    let mut nodes = cluster(3).await;
    let moved = nodes.pop().unwrap();
    let old = moved.addr();
    moved.gossip.shutdown().await;
    // Others still take it for alive, there where it was.
    let heir = start(options(4, 1, old)).await;
    let back = start(options(3, 2, any_port())).await;
    back.gossip.join(&[nodes[0].addr()]).await.unwrap();
    heir.gossip.join(&[nodes[0].addr()]).await.unwrap();
    until("both are there", || {
        ["n3", "n4"].iter().all(|name| nodes.iter().all(|node| node.sees(name) == Some(Status::Alive)))
    })
    .await;
    // It may have been asked who is there: that takes no longer than a stream may.
    env_in_memory(0).sleep(Duration::from_millis(700)).await;
    assert!(nodes.iter().chain([&heir, &back]).all(|node| node.gossip.twins().is_empty()));
    assert_eq!(back.gossip.join(&[nodes[1].addr()]).await.unwrap(), 1, "it runs");
}

#[tokio::test]
async fn two_of_one_id_that_have_both_joined_are_named_everywhere_and_change_ever_more_seldom() {
    let nodes = cluster(3).await;
    // It has joined another before the first is seen by that one.
    let other = start(options(9, 1, any_port())).await;
    let copy = start(Options { name: "copy".into(), ..options(3, 1 << 20, any_port()) }).await;
    copy.gossip.join(&[other.addr()]).await.unwrap();
    other.gossip.join(&[nodes[0].addr()]).await.unwrap();
    let witnesses = [&nodes[0], &nodes[1], &nodes[2], &copy];
    until("all see that there are two", || witnesses.iter().all(|node| !node.gossip.twins().is_empty()))
        .await;
    let changes = || nodes[0].log.of("n3").len() + nodes[0].log.of("copy").len();
    let before = changes();
    env_in_memory(0).sleep(Duration::from_secs(3)).await;
    assert!(changes() - before <= 12, "{} changes in 3 s", changes() - before);
}

#[tokio::test]
async fn garbage_is_counted_and_does_no_harm() {
    let nodes = cluster(2).await;
    let env = env_in_memory(0);
    let socket = env.network().bind(any_port()).await.unwrap();
    for garbage in [&b""[..], b"x", &[0; 1_400], &[1; 3_000]] {
        let _ = socket.send_to(garbage, nodes[0].addr()).await;
    }
    // A stream that says nothing, and one that says nonsense.
    let _silent = env.network().connect(nodes[0].addr()).await.unwrap();
    let mut loud = env.network().connect(nodes[0].addr()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut loud, &[0xff; 64]).await.unwrap();
    until("it is counted", || {
        let stats = nodes[0].gossip.stats();
        stats["dropped_damaged"] != "0" && stats["push_pull_errors"] != "0"
    })
    .await;
    assert_eq!(nodes[1].gossip.join(&[nodes[0].addr()]).await.unwrap(), 1);
    assert_eq!(nodes[0].sees("n2"), Some(Status::Alive));
}

#[tokio::test]
async fn a_datagram_full_of_questions_gets_one_answer() {
    let node = start(options(1, 1, any_port())).await;
    let socket = std::net::UdpSocket::bind(any_port()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let id = Identity { node_id: 2, addr: socket.local_addr().unwrap(), generation: 1, leaving: false };
    let sender = wire::Sender { id, revision: 1, of: None };
    let cluster = wire::cluster_number("test");
    let mut builder = wire::DatagramBuilder::new(wire::NEWEST, wire::NEWEST, cluster, &sender, &[]);
    while builder.push(&wire::Part::WhoIs.encode()) {}
    let asked = builder.parts() as u64;
    assert!(asked > 400);
    socket.send_to(&builder.finish(), node.addr()).unwrap();
    until("the rest is counted", || stat(&node, "dropped_malformed") == asked - 1).await;
    let (mut profiles, mut buffer) = (0, [0; wire::MAX_DATAGRAM]);
    until("it is answered", || {
        while let Ok(length) = socket.recv(&mut buffer) {
            let datagram = wire::decode_datagram(&buffer[..length], cluster, wire::NEWEST).unwrap();
            let of_itself = |part: &wire::Part| matches!(part, wire::Part::Profile(it) if it.id.node_id == 1);
            profiles += datagram.parts.iter().filter(|part| of_itself(part)).count();
        }
        profiles > 0
    })
    .await;
    assert_eq!(profiles, 1);
}

#[tokio::test]
async fn after_shutdown_the_ports_are_free_and_calls_say_stopped() {
    let node = start(options(1, 1, any_port())).await;
    let addr = node.addr();
    let mut fatal = Box::pin(node.gossip.fatal());
    node.gossip.shutdown().await;
    node.gossip.shutdown().await;
    assert!(matches!(node.gossip.update_meta().await, Err(Error::Stopped)));
    assert!(futures_util::poll!(&mut fatal).is_pending());
    start(options(1, 2, addr)).await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_start() {
    let env = env_in_memory(1);
    let silent = Arc::new(Silent);
    let wrong = |options| Gossip::start(&env, options, silent.clone(), silent.clone());
    let good = options(1, 1, any_port());
    assert!(matches!(wrong(Options { name: String::new(), ..good.clone() }).await, Err(Error::Options(_))));
    let everywhere = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(wrong(Options { bind: everywhere, ..good.clone() }).await, Err(Error::Options(_))));
    let events = UserEvents::new(&env, || vec![0; 513].into());
    let refused = Gossip::start(&env, good, Arc::new(events), silent.clone()).await;
    assert!(matches!(refused, Err(Error::MetaTooLarge { size: 513 })));
}

/// The real world, except that some nodes do not hear some others. Nodes are known by their gossip address.
#[derive(Clone)]
struct CutWorld {
    env: Env,
    cuts: Arc<Mutex<std::collections::BTreeSet<(SocketAddr, SocketAddr)>>>,
    me: Arc<Mutex<Option<SocketAddr>>>,
    seen: Arc<Mutex<Vec<crate::env::Observed>>>,
    largest: Arc<Mutex<usize>>,
}

impl CutWorld {
    /// A world in which everybody hears everybody.
    fn whole() -> CutWorld {
        CutWorld {
            env: env_in_memory(0),
            cuts: Arc::default(),
            me: Arc::default(),
            seen: Arc::default(),
            largest: Arc::default(),
        }
    }

    fn new(cuts: &CutWorld, seed: u64) -> (CutWorld, Env) {
        let env = env_in_memory(seed);
        let world = CutWorld { env: env.clone(), me: Arc::default(), seen: Arc::default(), ..cuts.clone() };
        let [clock, net, run, watch] = [(); 4].map(|()| Arc::new(world.clone()));
        (world, Env::new(clock, net, env.disk(), run, watch, seed))
    }

    fn hears(&self, to: SocketAddr) -> bool {
        let me = self.me.lock().unwrap();
        me.is_none_or(|me| !self.cuts.lock().unwrap().contains(&(me, to)))
    }
}

impl crate::env::Clock for CutWorld {
    fn now(&self) -> crate::env::Instant {
        self.env.now()
    }
    fn wall(&self) -> Duration {
        self.env.wall()
    }
    fn sleep_until(&self, deadline: crate::env::Instant) -> BoxFuture<'static, ()> {
        self.env.sleep_until(deadline)
    }
}

impl crate::env::Executor for CutWorld {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.env.spawn(task);
    }
    fn blocking(&self, job: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let env = self.env.clone();
        Box::pin(async move { env.blocking(job).await.unwrap() })
    }
}

impl crate::env::Observer for CutWorld {
    fn observe(&self, event: crate::env::Observed) {
        self.seen.lock().unwrap().push(event);
    }
}

impl crate::env::Network for CutWorld {
    fn listen(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        self.env.network().listen(addr)
    }
    fn connect(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<crate::env::BoxStream>> {
        if self.hears(addr) { self.env.network().connect(addr) } else { Box::pin(std::future::pending()) }
    }
    fn bind(&self, addr: SocketAddr) -> BoxFuture<'static, io::Result<Arc<dyn Datagrams>>> {
        let world = self.clone();
        Box::pin(async move {
            let socket = world.env.network().bind(addr).await?;
            *world.me.lock().unwrap() = Some(socket.local_addr());
            Ok(Arc::new(CutSocket { world, socket }) as Arc<dyn Datagrams>)
        })
    }
}

struct CutSocket {
    world: CutWorld,
    socket: Arc<dyn Datagrams>,
}

impl Datagrams for CutSocket {
    fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }
    fn send_to<'a>(&'a self, payload: &'a [u8], to: SocketAddr) -> BoxFuture<'a, io::Result<()>> {
        let mut largest = self.world.largest.lock().unwrap();
        *largest = payload.len().max(*largest);
        if self.world.hears(to) { self.socket.send_to(payload, to) } else { Box::pin(async { Ok(()) }) }
    }
    fn recv_from(&self) -> BoxFuture<'_, io::Result<(Vec<u8>, SocketAddr)>> {
        self.socket.recv_from()
    }
}

struct CutCluster {
    world: CutWorld,
    nodes: Vec<Node>,
    worlds: Vec<CutWorld>,
}

impl CutCluster {
    async fn start(n: u64) -> CutCluster {
        let world = CutWorld::whole();
        let (mut nodes, mut worlds) = (Vec::<Node>::new(), Vec::new());
        for i in 0..n {
            let (own, env) = CutWorld::new(&world, i + 1);
            let node = start_in(&env, options(i + 1, 1, any_port())).await;
            if let Some(first) = nodes.first() {
                node.gossip.join(&[first.addr()]).await.unwrap();
            }
            nodes.push(node);
            worlds.push(own);
        }
        let cluster = CutCluster { world, nodes, worlds };
        cluster.until_all_alive().await;
        cluster
    }

    fn cut(&self, side: impl Fn(usize) -> usize) {
        let mut cuts = self.world.cuts.lock().unwrap();
        for (i, a) in self.nodes.iter().enumerate() {
            for (j, b) in self.nodes.iter().enumerate() {
                if side(i) != side(j) {
                    cuts.insert((a.addr(), b.addr()));
                }
            }
        }
    }

    fn heal(&self) {
        self.world.cuts.lock().unwrap().clear();
    }

    async fn until_all_alive(&self) {
        until("all are alive to all", || {
            self.nodes.iter().all(|node| {
                let members = node.gossip.members();
                members.len() == self.nodes.len() && members.iter().all(|m| m.status == Status::Alive)
            })
        })
        .await;
    }
}

#[tokio::test]
async fn a_partition_that_both_sides_took_for_death_heals_by_itself() {
    let cluster = CutCluster::start(5).await;
    cluster.cut(|i| usize::from(i >= 2));
    until("each side has given the other up", || {
        cluster.nodes.iter().enumerate().all(|(i, node)| {
            let failed = node.gossip.members().iter().filter(|m| m.status == Status::Failed).count();
            failed == if i < 2 { 3 } else { 2 }
        })
    })
    .await;
    let env = env_in_memory(0);
    // An event of each side reaches the other after all.
    cluster.nodes[0].events.fire(NewEvent { name: "left".into(), ..NewEvent::default() }).unwrap();
    cluster.nodes[4].events.fire(NewEvent { name: "right".into(), ..NewEvent::default() }).unwrap();
    env.sleep(Duration::from_millis(200)).await;
    let healed = env.now();
    cluster.heal();
    cluster.until_all_alive().await;
    let took = env.now().since(healed);
    assert!(took < Duration::from_millis(1_500), "healing took {took:?}");
    until("both events are everywhere", || {
        cluster.nodes.iter().all(|node| node.events.list(None).1.len() == 2)
    })
    .await;
    // Nobody who was alive all the time is given up again.
    env.sleep(Duration::from_millis(500)).await;
    cluster.until_all_alive().await;
    assert!(*cluster.world.largest.lock().unwrap() <= wire::MAX_DATAGRAM);
}

#[tokio::test]
async fn nodes_that_were_each_alone_find_each_other_again() {
    let cluster = CutCluster::start(4).await;
    cluster.cut(|i| i);
    until("everybody is alone", || {
        cluster
            .nodes
            .iter()
            .all(|node| node.gossip.members().iter().filter(|m| m.status == Status::Failed).count() == 3)
    })
    .await;
    cluster.heal();
    cluster.until_all_alive().await;
}

#[tokio::test]
async fn one_way_silence_does_not_part_members_for_good() {
    let cluster = CutCluster::start(3).await;
    // The first is heard by nobody but hears everybody.
    {
        let mut cuts = cluster.world.cuts.lock().unwrap();
        for node in &cluster.nodes[1..] {
            cuts.insert((cluster.nodes[0].addr(), node.addr()));
        }
    }
    until("it is given up", || cluster.nodes[1..].iter().all(|n| n.sees("n1") == Some(Status::Failed))).await;
    cluster.heal();
    cluster.until_all_alive().await;
}

#[tokio::test]
async fn a_crash_is_observed_as_suspicion_and_then_failure() {
    use crate::env::observe::MemberChange;
    let cluster = CutCluster::start(5).await;
    let dead = cluster.nodes[4].addr();
    cluster.nodes[4].gossip.shutdown().await;
    until("all know", || cluster.nodes[..4].iter().all(|n| n.sees("n5") == Some(Status::Failed))).await;
    let changes = |world: &CutWorld| -> Vec<MemberChange> {
        let seen = world.seen.lock().unwrap();
        seen.iter()
            .filter_map(|event| match event {
                crate::env::Observed::Member { addr, change, .. } if *addr == dead => Some(*change),
                _ => None,
            })
            .collect()
    };
    assert!(cluster.worlds[..4].iter().any(|world| changes(world).contains(&MemberChange::Suspected)));
    assert!(cluster.worlds[..4].iter().all(|world| changes(world).last() == Some(&MemberChange::Failed)));
}

/// Blocks the loop for as long as it is told to.
struct Blocker(Arc<Mutex<Duration>>);

impl Delegate for Blocker {
    fn node_meta(&self, _limit: usize) -> Bytes {
        Bytes::new()
    }
    fn notify_msg(&self, _message: &[u8]) {}
    #[allow(clippy::disallowed_methods)]
    fn get_broadcasts(&self, _overhead: usize, _limit: usize) -> Vec<Bytes> {
        let stall = std::mem::take(&mut *self.0.lock().unwrap());
        if !stall.is_zero() {
            std::thread::sleep(stall);
        }
        Vec::new()
    }
    fn local_state(&self, _join: bool) -> Bytes {
        Bytes::new()
    }
    fn merge_remote_state(&self, _state: &[u8], _join: bool) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_stalled_takes_nobody_for_dead() {
    let nodes = cluster(3).await;
    let stall = Arc::new(Mutex::new(Duration::ZERO));
    let log = Arc::new(Log::default());
    let env = env_in_memory(99);
    let blocker = Arc::new(Blocker(stall.clone()));
    let slow = Gossip::start(&env, options(9, 1, any_port()), blocker, log.clone()).await.unwrap();
    slow.join(&[nodes[0].addr()]).await.unwrap();
    until("it is in", || nodes.iter().all(|n| n.sees("n9") == Some(Status::Alive))).await;
    for _ in 0..2 {
        // Longer than a probe and a suspicion together.
        *stall.lock().unwrap() = Duration::from_millis(700);
        env.sleep(Duration::from_millis(1_200)).await;
    }
    until("it is back", || nodes.iter().all(|n| n.sees("n9") == Some(Status::Alive))).await;
    assert_ne!(slow.stats()["stalls"], "0");
    for name in ["n1", "n2", "n3"] {
        assert!(log.of(name).iter().all(|(what, _)| what != "leave"), "{:?}", log.of(name));
    }
}

#[tokio::test]
async fn after_leaving_a_restart_makes_it_a_member_again() {
    let mut nodes = cluster(3).await;
    let leaver = nodes.pop().unwrap();
    let addr = leaver.addr();
    leaver.gossip.leave(Duration::from_secs(5)).await.unwrap();
    leaver.gossip.shutdown().await;
    until("it has left", || nodes.iter().all(|n| n.sees("n3") == Some(Status::Left))).await;
    let back = start(options(3, 2, addr)).await;
    back.gossip.join(&[nodes[0].addr()]).await.unwrap();
    until("it is back", || nodes.iter().all(|n| n.sees("n3") == Some(Status::Alive))).await;
    assert_eq!(back.gossip.local().status, Status::Alive);
}

#[tokio::test]
async fn all_may_restart_at_once() {
    let nodes = cluster(4).await;
    let addrs: Vec<SocketAddr> = nodes.iter().map(Node::addr).collect();
    for node in &nodes {
        node.gossip.shutdown().await;
    }
    let mut reborn = Vec::new();
    for (i, addr) in addrs.iter().enumerate() {
        reborn.push(start(options(i as u64 + 1, 2, *addr)).await);
    }
    for node in &reborn {
        let _ = node.gossip.join(&addrs).await;
    }
    until("all are alive to all", || {
        reborn.iter().all(|node| {
            let members = node.gossip.members();
            members.len() == 4 && members.iter().all(|m| m.status == Status::Alive)
        })
    })
    .await;
}

#[tokio::test]
async fn two_nodes_with_one_id_do_not_flood_the_cluster() {
    let nodes = cluster(3).await;
    let twin = start(Options { name: "twin".into(), ..options(3, 1, any_port()) }).await;
    let _ = twin.gossip.join(&[nodes[0].addr()]).await;
    let env = env_in_memory(0);
    env.sleep(Duration::from_millis(1_500)).await;
    let highest = nodes.iter().chain([&twin]).map(|n| n.gossip.local().generation).max();
    assert!(highest.unwrap() < 10, "{highest:?}");
    let sent: u64 = nodes.iter().map(|n| n.gossip.stats()["datagrams_sent"].parse::<u64>().unwrap()).sum();
    assert!(sent < 3_000, "{sent}");
    assert_eq!(nodes[0].sees("n2"), Some(Status::Alive));
}

#[tokio::test]
async fn who_is_told_of_ever_higher_generations_waits_its_turn_in_silence() {
    // Two nodes that do not know each other, and each has seen another node die at one address.
    let [low, high] = [start(options(1, 1, any_port())).await, start(options(2, 1, any_port())).await];
    let mut addr = any_port();
    for (witness, node_id, generation) in [(&low, 8, 1_000_000), (&high, 9, 6_000_000)] {
        let gone = start(options(node_id, generation, addr)).await;
        gone.gossip.join(&[witness.addr()]).await.unwrap();
        let name = format!("n{node_id}");
        until("it is known", || witness.sees(&name) == Some(Status::Alive)).await;
        addr = gone.addr();
        gone.gossip.shutdown().await;
        until("it is dead", || witness.sees(&name) == Some(Status::Failed)).await;
    }
    // The third there goes above the lower generation at once. Then it hears of the higher one.
    let heir = start(options(3, 1, addr)).await;
    heir.gossip.join(&[low.addr()]).await.unwrap();
    until("the lower one is exceeded", || low.sees("n3") == Some(Status::Alive)).await;
    assert_eq!(heir.gossip.local().generation, 1_000_001);
    let sent = || [&low, &high, &heir].iter().map(|node| stat(node, "datagrams_sent")).sum::<u64>();
    let before = sent();
    high.gossip.join(&[low.addr(), heir.addr()]).await.unwrap();
    until("it is alive to both", || {
        [&low, &high].iter().all(|node| node.sees("n3") == Some(Status::Alive)) && low.sees("n2").is_some()
    })
    .await;
    assert_eq!(heir.gossip.local().generation, 6_000_001);
    assert!(sent() - before < 3_000, "{}", sent() - before);
}

// Encryption.

const KEY_1: &str = "AQEBAQEBAQEBAQEBAQEBAQ==";
const KEY_2: &str = "AgICAgICAgICAgICAgICAgICAgICAgIC";
const KEY_3: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";

fn with_keys(node_id: u64, keys: &str) -> Options {
    let encryption = Encryption { keys: keys.to_owned(), ..Encryption::default() };
    Options { encryption, ..options(node_id, 1, any_port()) }
}

fn order(change: keyring::Change, key: &str) -> Order {
    Order { change: Some((change, key.to_owned())) }
}

fn stat(node: &Node, name: &str) -> u64 {
    node.gossip.stats()[name].parse().unwrap()
}

#[tokio::test]
async fn only_who_has_a_key_gets_in_and_others_hear_why_they_do_not() {
    let first = start(with_keys(1, KEY_1)).await;
    let friend = start(with_keys(2, &format!("{KEY_2} {KEY_1}"))).await;
    first.gossip.order(&first.gossip.local(), &order(keyring::Change::Install, KEY_2)).await.unwrap();
    friend.gossip.join(&[first.addr()]).await.unwrap();
    let strangers = [
        (start(with_keys(3, KEY_3)).await, "does not have the key"),
        (start(options(4, 1, any_port())).await, "takes nothing that is not encrypted"),
    ];
    for (stranger, why) in &strangers {
        let refused = stranger.gossip.join(&[first.addr()]).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        let refused = first.gossip.join(&[stranger.addr()]).await.unwrap_err().to_string();
        assert!(refused.contains("does not have the key") || refused.contains("has no key"), "{refused}");
    }
    until("the two see each other", || {
        first.sees("n2") == Some(Status::Alive) && friend.sees("n1") == Some(Status::Alive)
    })
    .await;
    assert_eq!((first.gossip.members().len(), strangers[1].0.gossip.members().len()), (2, 1));
    assert_eq!(
        (
            stat(&first, "dropped_unencrypted"),
            stat(&first, "dropped_undecryptable"),
            first.gossip.encrypted()
        ),
        (1, 1, true)
    );
    assert!(!strangers[1].0.gossip.encrypted() && !strangers[1].0.gossip.has_keys());
}

#[tokio::test]
async fn keys_are_changed_without_anybody_being_missed() {
    let mut nodes: Vec<Node> = Vec::new();
    for i in 1..=3 {
        // As in the middle of a change: not all encrypt with the same key.
        let keys = if i == 2 { format!("{KEY_2} {KEY_1}") } else { format!("{KEY_1} {KEY_2}") };
        let node = start(with_keys(i, &keys)).await;
        if let Some(first) = nodes.first() {
            node.gossip.join(&[first.addr()]).await.unwrap();
        }
        nodes.push(node);
    }
    until("all see all", || nodes.iter().all(|node| node.gossip.members().len() == 3)).await;
    let asker = &nodes[0].gossip;
    let everywhere = async |change, key: &'static str| {
        let mut held = Vec::new();
        for member in asker.members() {
            held.push(asker.order(&member, &order(change, key)).await);
        }
        held
    };
    let refused = everywhere(keyring::Change::Use, KEY_3).await;
    assert!(
        refused.iter().all(|answer| answer.as_ref().is_err_and(|why| why.contains("not in the keyring")))
    );
    for (change, keys) in [
        (keyring::Change::Install, vec![KEY_3]),
        (keyring::Change::Use, vec![KEY_3]),
        (keyring::Change::Remove, vec![KEY_1, KEY_2]),
    ] {
        for key in keys {
            assert!(everywhere(change, key).await.iter().all(Result::is_ok));
        }
        env_in_memory(0).sleep(Duration::from_millis(150)).await;
    }
    for node in &nodes {
        let held = node.gossip.order(&node.gossip.local(), &Order { change: None }).await.unwrap();
        assert_eq!((held.keys, held.primary), (vec![KEY_3.to_owned()], KEY_3.to_owned()));
        assert!(node.log.0.lock().unwrap().iter().all(|(what, ..)| what != "leave"));
        assert_eq!(stat(node, "dropped_undecryptable") + stat(node, "dropped_unencrypted"), 0);
    }
    // Whoever has been away with the old key has no say any more.
    let late = start(with_keys(4, KEY_1)).await;
    let refused = late.gossip.order(&nodes[0].gossip.local(), &order(keyring::Change::Install, KEY_1)).await;
    assert!(refused.err().unwrap().contains("does not have the key"));
}

#[tokio::test]
async fn a_running_cluster_is_changed_over_to_encryption_step_by_step() {
    let open = |node_id, keys: &str| {
        let encryption = Encryption { keys: keys.to_owned(), verify_incoming: false, verify_outgoing: false };
        Options { encryption, ..options(node_id, 1, any_port()) }
    };
    let nodes =
        [start(options(1, 1, any_port())).await, start(open(2, KEY_1)).await, start(open(3, KEY_1)).await];
    for node in &nodes[1..] {
        node.gossip.join(&[nodes[0].addr()]).await.unwrap();
    }
    until("all see all", || nodes.iter().all(|node| node.gossip.members().len() == 3)).await;
    // The first has no key yet: it is started anew with one.
    let again = nodes[0].addr();
    nodes[0].gossip.shutdown().await;
    let first = start(Options { bind: again, generation: 2, ..open(1, KEY_1) }).await;
    first.gossip.join(&[nodes[1].addr()]).await.unwrap();
    let nodes = [first, start(open(4, KEY_1)).await, start(open(5, KEY_1)).await];
    for node in &nodes[1..] {
        node.gossip.join(&[nodes[0].addr()]).await.unwrap();
    }
    let [a, b, c] = &nodes;
    a.gossip.verify(false, true);
    b.gossip.verify(false, false);
    c.gossip.verify(false, true);
    let event = |name: &str| NewEvent { name: name.to_owned(), ..NewEvent::default() };
    let heard = |name: &'static str| nodes.iter().all(|node| !node.events.list(Some(name)).1.is_empty());
    b.events.fire(event("half")).unwrap();
    until("it is heard whether it was encrypted or not", || heard("half")).await;
    b.gossip.verify(false, true);
    nodes.iter().for_each(|node| node.gossip.verify(true, true));
    c.events.fire(event("whole")).unwrap();
    until("it is heard by all", || heard("whole")).await;
    assert!(nodes.iter().all(|node| node.gossip.encrypted()));
}

#[tokio::test]
async fn an_encrypted_datagram_keeps_to_the_limit_too() {
    let world = CutWorld::whole();
    let mut nodes: Vec<Node> = Vec::new();
    for i in 1..=3 {
        let (_, env) = CutWorld::new(&world, i);
        let node = start_in(&env, with_keys(i, KEY_3)).await;
        if let Some(first) = nodes.first() {
            node.gossip.join(&[first.addr()]).await.unwrap();
        }
        nodes.push(node);
    }
    let payload = Bytes::from(vec![7; 100]);
    for i in 0..40 {
        let event = NewEvent { name: format!("e{i}"), payload: payload.clone(), ..NewEvent::default() };
        nodes[i % 3].events.fire(event).unwrap();
    }
    until("all events are everywhere", || nodes.iter().all(|n| n.events.list(None).1.len() >= 40)).await;
    let largest = *world.largest.lock().unwrap();
    assert!((1_200..=wire::MAX_DATAGRAM).contains(&largest), "{largest}");
    assert!(nodes.iter().all(|node| stat(node, "dropped_unsendable") == 0));
}
