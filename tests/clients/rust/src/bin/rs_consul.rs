//! Keys, locks, catalog and health through the crate `rs-consul`. The argument is the agent's port.

use std::collections::HashMap;
use std::time::Duration;

use rs_consul::Consul;
use rs_consul::types::{
    CreateOrUpdateKeyRequest, DeleteKeyRequest, DeregisterEntityPayload, GetNodesRequest, GetServiceNodesRequest,
    LockExpirationBehavior, LockRequest, LockWatchRequest, ReadKeyRequest, RegisterEntityCheck, RegisterEntityPayload,
    RegisterEntityService,
};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().nth(1).expect("the agent's port");
    let config = rs_consul::Config { address: format!("http://127.0.0.1:{port}"), ..Default::default() };
    let consul = Consul::new(config);
    keys(&consul).await;
    locks(&consul).await;
    catalog(&consul).await;
    println!("all done");
}

async fn put(consul: &Consul, key: &str, value: &str, cas: Option<i64>) -> bool {
    let request = CreateOrUpdateKeyRequest { key, check_and_set: cas, ..Default::default() };
    consul.create_or_update_key(request, value.as_bytes().to_vec()).await.expect("a key is written").0
}

async fn keys(consul: &Consul) {
    assert!(put(consul, "rs/a", "1", None).await);
    assert!(put(consul, "rs/b", "2", None).await);
    let read = |key| ReadKeyRequest { key, recurse: true, ..Default::default() };
    let tree = consul.read_key(read("rs/")).await.expect("a tree is read");
    let found: Vec<_> = tree.response.iter().map(|pair| (pair.key.as_str(), pair.value.as_deref())).collect();
    assert_eq!(found, [("rs/a", Some("1")), ("rs/b", Some("2"))]);
    let index = tree.response[0].modify_index;
    assert!(!put(consul, "rs/a", "3", Some(0)).await, "the key is there");
    assert!(put(consul, "rs/a", "3", Some(index)).await, "the index is the key's");

    // A read that waits is woken by the write.
    let waiting = ReadKeyRequest {
        key: "rs/b",
        index: Some(tree.index),
        wait: Duration::from_secs(60),
        ..Default::default()
    };
    let (seen, written) = tokio::join!(consul.read_key(waiting), put(consul, "rs/b", "4", None));
    assert!(written);
    let seen = seen.expect("a read that waits ends");
    assert!(seen.index > tree.index);

    let gone = DeleteKeyRequest { key: "rs/", recurse: true, ..Default::default() };
    assert!(consul.delete_key(gone).await.expect("a tree is deleted"));
    assert!(consul.read_key(read("rs/")).await.is_err(), "nothing is left");
}

async fn locks(consul: &Consul) {
    let request = LockRequest {
        key: "rs/lock",
        timeout: Duration::from_secs(10),
        behavior: LockExpirationBehavior::Release,
        lock_delay: Duration::from_secs(0),
        ..Default::default()
    };
    let held = consul.get_lock(request, b"first").await.expect("a free lock is had");
    assert!(consul.get_lock(request, b"second").await.is_err(), "a lock has one holder");
    let watch = LockWatchRequest { key: "rs/lock", ..Default::default() };
    let seen = consul.watch_lock(watch).await.expect("the lock is seen");
    assert!(seen.response[0].session.is_some());
    drop(held);
}

async fn catalog(consul: &Consul) {
    let service = RegisterEntityService {
        ID: Some("web-1".to_owned()),
        Service: "web".to_owned(),
        Tags: vec!["v1".to_owned()],
        TaggedAddresses: HashMap::new(),
        Meta: HashMap::new(),
        Port: Some(8080),
        Namespace: None,
    };
    let check = RegisterEntityCheck {
        Node: None,
        CheckID: Some("service:web-1".to_owned()),
        Name: "answers".to_owned(),
        Notes: None,
        Status: Some("passing".to_owned()),
        ServiceID: Some("web-1".to_owned()),
        Definition: HashMap::new(),
    };
    let outside = RegisterEntityPayload {
        ID: None,
        Node: "outside".to_owned(),
        Address: "10.1.2.3".to_owned(),
        Datacenter: None,
        TaggedAddresses: HashMap::new(),
        NodeMeta: HashMap::new(),
        Service: Some(service),
        Checks: vec![check],
        SkipNodeUpdate: None,
    };
    consul.register_entity(&outside).await.expect("a node is registered");
    let names = consul.get_all_registered_service_names(None).await.expect("services are listed").response;
    assert!(names.contains(&"web".to_owned()) && names.contains(&"consul".to_owned()), "{names:?}");
    let of = GetServiceNodesRequest { service: "web", passing: true, ..Default::default() };
    let nodes = consul.get_service_nodes(of, None).await.expect("a service's nodes are listed").response;
    assert_eq!(nodes.len(), 1);
    assert_eq!((nodes[0].service.id.as_str(), nodes[0].service.tags.len()), ("web-1", 1));
    let places = consul.get_service_addresses_and_ports("web", None).await.expect("its places are listed");
    assert_eq!(places, [("10.1.2.3".to_owned(), 8080)]);
    let all = consul.get_nodes(GetNodesRequest::default(), None).await.expect("nodes are listed").response;
    assert!(all.iter().any(|node| node.node == "outside" && node.address == "10.1.2.3"));
    let gone = DeregisterEntityPayload {
        Node: Some("outside".to_owned()),
        Datacenter: None,
        CheckID: None,
        ServiceID: None,
        Namespace: None,
    };
    consul.deregister_entity(&gone).await.expect("a node is deregistered");
    let names = consul.get_all_registered_service_names(None).await.expect("services are listed").response;
    assert!(!names.contains(&"web".to_owned()), "{names:?}");
}
