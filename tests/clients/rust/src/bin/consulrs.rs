//! Keys, sessions, services, checks and the catalog through the crate `consulrs`. The argument is the agent's port.

use consulrs::api::catalog::requests::{DeregisterEntityRequest, RegisterEntityRequest};
use consulrs::api::check::common::AgentCheckBuilder;
use consulrs::api::check::requests::RegisterCheckRequest;
use consulrs::api::kv::requests::{ReadKeyRequest, SetKeyRequest};
use consulrs::api::service::requests::RegisterServiceRequest;
use consulrs::api::session::requests::CreateSessionRequest;
use consulrs::client::{ConsulClient, ConsulClientSettingsBuilder};
use consulrs::{catalog, check, kv, service, session};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().nth(1).expect("the agent's port");
    let settings = ConsulClientSettingsBuilder::default().address(format!("http://127.0.0.1:{port}")).build();
    let client = ConsulClient::new(settings.expect("settings")).expect("a client");
    keys(&client).await;
    sessions(&client).await;
    services(&client).await;
    checks(&client).await;
    entities(&client).await;
    println!("all done");
}

async fn keys(client: &ConsulClient) {
    assert!(kv::set(client, "crs/a", b"one", None).await.expect("a key is written").response);
    let mut read = kv::read(client, "crs/a", None).await.expect("a key is read");
    let pair = read.response.pop().expect("the key is there");
    let value: String = pair.value.expect("a value").try_into().expect("text");
    assert_eq!(value, "one");
    assert_eq!(kv::raw(client, "crs/a", None).await.expect("a raw value is read").response, b"one");
    let mut stale = SetKeyRequest::builder();
    let stale = stale.cas(0u64);
    assert!(!kv::set(client, "crs/a", b"two", Some(stale)).await.expect("a condition is judged").response);
    let mut tree = ReadKeyRequest::builder();
    kv::set(client, "crs/b", b"two", None).await.expect("a key is written");
    let tree = kv::read(client, "crs/", Some(tree.recurse(true))).await.expect("a tree is read").response;
    assert_eq!(tree.len(), 2);
    let names = kv::keys(client, "crs/", None).await.expect("keys are listed").response;
    assert_eq!(names, ["crs/a", "crs/b"]);
    assert!(kv::delete(client, "crs/a", None).await.expect("a key is deleted").response);
    assert!(kv::read(client, "crs/a", None).await.is_err(), "the key is gone");
}

async fn sessions(client: &ConsulClient) {
    let mut request = CreateSessionRequest::builder();
    let id = session::create(client, Some(request.ttl("10m").name("mine"))).await.expect("a session").response.id;
    let read = session::read(client, &id, None).await.expect("a session is read").response;
    assert_eq!(read.len(), 1);
    assert!(!session::list(client, None).await.expect("sessions are listed").response.is_empty());
    assert_eq!(session::list_by_node(client, "a", None).await.expect("by node").response.len(), 1);
    session::renew(client, &id, None).await.expect("a session is renewed");
    session::delete(client, &id, None).await.expect("a session is destroyed");
    assert!(session::read(client, &id, None).await.map_or(true, |read| read.response.is_empty()));
}

async fn services(client: &ConsulClient) {
    let mut request = RegisterServiceRequest::builder();
    service::register(client, "api", Some(request.address("10.0.0.9").port(80u64))).await.expect("a service");
    let all = service::list(client, None).await.expect("services are listed").response;
    assert_eq!(all.keys().collect::<Vec<_>>(), ["api"]);
    service::read(client, "api", None).await.expect("a service is read");
    let health = service::health(client, "api", None).await.expect("its health is read").response;
    assert_eq!(health.len(), 1);
    service::maintenance(client, "api", true, None).await.expect("maintenance begins");
    let error = service::health(client, "api", None).await.err();
    assert!(format!("{error:?}").contains("503"), "a service in maintenance is critical: {error:?}");
    service::maintenance(client, "api", false, None).await.expect("maintenance ends");
    service::deregister(client, "api", None).await.expect("a service is deregistered");
    assert!(service::list(client, None).await.expect("services are listed").response.is_empty());
}

async fn checks(client: &ConsulClient) {
    let mut request = RegisterCheckRequest::builder();
    check::register(client, "alive", Some(request.ttl("10m"))).await.expect("a check");
    check::pass(client, "alive", None).await.expect("it passes");
    let listed = check::list(client, None).await.expect("checks are listed").response;
    assert_eq!(listed["alive"].status.as_deref(), Some("passing"));
    check::warn(client, "alive", None).await.expect("it warns");
    check::set_status(client, "alive", "critical", None).await.expect("it is set");
    let listed = check::list(client, None).await.expect("checks are listed").response;
    assert_eq!(listed["alive"].status.as_deref(), Some("critical"));
    check::fail(client, "alive", None).await.expect("it fails");
    check::deregister(client, "alive", None).await.expect("it is deregistered");
    assert!(check::list(client, None).await.expect("checks are listed").response.is_empty());
}

async fn entities(client: &ConsulClient) {
    assert_eq!(catalog::datacenters(client, None).await.expect("datacenters").response, ["dc1"]);
    catalog::gateway(client, "none", None).await.expect("gateways are asked for");
    catalog::node(client, "a", None).await.expect("a node is read");
    assert!(!catalog::nodes(client, None).await.expect("nodes").response.is_empty());
    assert_eq!(catalog::nodes_with_service(client, "consul", None).await.expect("servers").response.len(), 1);
    catalog::nodes_with_connect_service(client, "consul", None).await.expect("connect is asked for");
    assert!(catalog::services(client, None).await.expect("services").response.contains_key("consul"));
    let check = AgentCheckBuilder::default().name("there").build().expect("a check");
    let mut register = RegisterEntityRequest::builder();
    assert!(catalog::register(client, "far", "10.9.9.9", Some(register.check(check))).await.expect("a node").response);
    let mut gone = DeregisterEntityRequest::builder();
    assert!(catalog::deregister(client, "far", Some(gone.check_id("there"))).await.expect("a check goes").response);
    assert!(catalog::deregister(client, "far", None).await.expect("a node goes").response);
}
