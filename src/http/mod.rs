//! The HTTP API: Consul's paths, verbs, JSON names, headers and texts, answered by the [`Agent`].
//!
//! How a request flows: [`serve`] accepts a connection and gives it a task; hyper reads the head
//! through a stream that knows when to lose patience; the router finds the route; `route` does what all routes
//! share (verbs, parameters, datacenter); a handler checks the limits, asks the agent, and builds the
//! reply. Handlers hold no state, so a node serves as many as there are connections.
//!
//! * `kv`, `session`, `txn`, `catalog`, `health`, `coordinate`, `event`, `status`, `agent`, `operator`, `keyring`, `telemetry`: one file for each
//!   family of paths.
//! * `acl`: tokens, policies and roles.
//! * `snapshot`: the whole state as one file, and back.
//! * `autopilot`: how the servers fare; `query`: prepared queries.
//! * `own`: this agent's own services and checks.
//! * `wire`, `decode`, `filter`: the catalog's shapes in JSON, bodies as clients send them, and `?filter`.
//! * `ui`: the status page, which is one more client of all this.
//! * `legacy`: the three paths of the older API, `/set`, `/get` and `/join`.
//! * `params`, `reply`: what a request says in its address, and what goes back.
//! * [`client`]: the other end, for the command line, the tests and the testbed.
//!
//! Who may do what: every route is entered with what it [`Needs`]. The handler's agent is asked by the right of whoever
//! sent the request, so what reaches the cluster is judged by the servers; what this agent decides itself, the route or the
//! handler asks for. A new route has to say which ([`routes`]), and a test asks every one of them without any right.
//!
//! JSON shapes live here and nowhere below: renaming a field of the agent changes no client.
//!
//! What is bounded, and what happens at the bound: connections, in all and from one address (one more is told 503 and closed), the
//! time a client may take (the connection is closed, a late body is told 408), a body's size (413),
//! the bytes of large bodies held at once (further ones wait, and are told 503 when their time is up),
//! keys (400). All of it is checked before anything is proposed to the cluster.
//!
//! TLS is the network's business: this serves whatever streams its listener gives.
//!
//! What is deliberately absent: compression, HTTP/2, and the `Date` header, which would be the
//! only reading of the wall clock.

mod acl;
mod agent;
mod autopilot;
mod catalog;
pub mod client;
mod coordinate;
mod decode;
mod event;
mod filter;
mod health;
mod keyring;
mod kv;
mod legacy;
mod operator;
mod own;
mod params;
mod query;
mod reply;
mod rest;
mod session;
mod snapshot;
mod status;
mod stream;
mod telemetry;
mod txn;
mod ui;
mod wire;

use std::future::Future;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header, request};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, any};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rand::RngExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::agent::tokens::Purpose;
use crate::agent::{Agent, Answer, Consistency, QueryOptions, ReadError};
use crate::config::Limits;
use crate::env::places::Places;
use crate::env::{BoxStream, Elapsed, Env, Listener, Rng};

use crate::secret::Secret;
use crate::state::acl::{Access, Authorizer, Kind};
use crate::state::query::Question;

pub use crate::config::duration::parse_duration;

use params::Params;
use reply::{Failure, Reply};
use rest::Rest;
use stream::{PatientStream, Progress};

/// When the server stops, requests in flight have this long to get their answers.
const DRAIN: Duration = Duration::from_secs(1);

/// Rest after a failed accept. The usual cause is too many open files, which passes as others close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Bodies up to this size are not counted; most are far smaller.
const SMALL_BODY: u64 = 16 * 1024;

/// Bytes of larger bodies held at once, in KiB.
const BODY_ROOM_KIB: u32 = 64 * 1024;

/// Answers HTTP on `listener` until dropped.
pub async fn serve(agent: Agent, listener: Box<dyn Listener>) {
    serve_until(agent, Router::new(), listener, std::future::pending()).await;
}

/// Answers HTTP on `listener`, with `routes` of the embedding program's beside our own, until `stop` completes; then closes the port, gives requests in flight a
/// second, and returns.
pub async fn serve_until(
    agent: Agent,
    routes: Router,
    listener: Box<dyn Listener>,
    stop: impl Future<Output = ()>,
) {
    let env = agent.env().clone();
    let limits = agent.config().limits.clone();
    let most = limits.http_connections.clamp(1, Semaphore::MAX_PERMITS);
    let slots = Arc::new(Semaphore::new(most));
    let places = Places::new(most, limits.http_connections_per_client);
    // Nothing is ever sent: that the sender is gone is the message.
    let (open, stopped) = watch::channel(());
    let service = TowerToHyperService::new(router(Arc::new(Api::new(agent.clone()))).merge(routes));

    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match (slots.clone().try_acquire_owned(), places.take(peer.ip())) {
                (Ok(slot), Ok(place)) => {
                    let patience = Duration::from_millis(agent.config().limits.http_read_timeout_ms);
                    let serving = connection(env.clone(), stream, service.clone(), patience, stopped.clone());
                    drop(env.spawn(async move {
                        serving.await;
                        drop((slot, place));
                    }));
                }
                _ => turn_away(stream),
            },
            Err(error) => {
                tracing::warn!(%error, "could not accept an HTTP connection");
                env.sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    drop((listener, open));
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    let _ = env.timeout(DRAIN, slots.acquire_many(all)).await;
}

/// One connection, from accept to close.
async fn connection(
    env: Env,
    stream: BoxStream,
    service: TowerToHyperService<Router>,
    patience: Duration,
    mut stopped: watch::Receiver<()>,
) {
    let progress = Progress::default();
    let stream = PatientStream::new(&env, stream, progress.clone(), patience);
    let clock = env.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        progress.step();
        let (head, body) = request.into_parts();
        // Who waits to be told to send its body has not sent it, and need not.
        let is_sent = !head.headers.contains_key(header::EXPECT);
        let rest = Rest::new(body);
        let reply = service.call(hyper::Request::from_parts(head, rest.clone()));
        let (progress, env) = (progress.clone(), clock.clone());
        async move {
            let mut reply = reply.await;
            let goes_on = if is_sent { rest.discard(&env).await } else { rest.is_end_stream() };
            if let (false, Ok(reply)) = (goes_on, &mut reply) {
                reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            progress.step();
            reply
        }
    });
    let serving = http1::Builder::new()
        .auto_date_header(false)
        // The patient stream does this, on the node's clock.
        .header_read_timeout(None)
        // As Go writes them; some scripts look for `X-Consul-Index` by its letters.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        biased;
        ended = &mut serving => Some(ended),
        _ = stopped.changed() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            match env.timeout(DRAIN, serving).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        // The client's doing nearly always: garbage, silence, or a connection cut short.
        tracing::debug!(%error, "HTTP connection ended early");
    }
}

/// Waits at most so long. Most bodies arrive with their heads: what is there at once needs no timer.
async fn soon<F: Future>(env: &Env, within: Duration, wanted: F) -> Result<F::Output, Elapsed> {
    let mut wanted = pin!(wanted);
    match wanted.as_mut().now_or_never() {
        Some(there) => Ok(there),
        None => env.timeout(within, wanted).await,
    }
}

/// Says 503 to a connection there is no room for, if that can be said without waiting.
fn turn_away(mut stream: BoxStream) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Length: 31\r\n\r\n\
        Too many connections, try later";
    let _ = stream.write_all(FULL).now_or_never();
}

/// What handlers share. Its agent is asked by the right of whoever sent the request.
#[derive(Clone)]
struct Api {
    agent: Agent,
    rng: Arc<Mutex<Rng>>,
    body_room: Arc<Semaphore>,
    /// One snapshot at a time is restored.
    restoring: Arc<Semaphore>,
}

impl Api {
    fn new(agent: Agent) -> Api {
        let rng = Arc::new(Mutex::new(agent.env().rng("http")));
        let body_room = Arc::new(Semaphore::new(BODY_ROOM_KIB as usize));
        let restoring = Arc::new(Semaphore::new(1));
        Api { agent, rng, body_room, restoring }
    }

    /// Asks the cluster. An answer that is older than the request allows is asked for again where it is current.
    async fn ask<Q: Question>(
        &self,
        params: &Params,
        options: QueryOptions,
        question: &Q,
    ) -> Result<Answer<Q::Found>, ReadError> {
        let answer = self.agent.query(options, question).await?;
        let stale = options.consistency == Consistency::Stale;
        // One that is no duration was refused with the options, or stands beside `?stale` and says nothing.
        match params.max_stale().ok().flatten() {
            Some(oldest) if stale && answer.last_contact > oldest => {
                let options = QueryOptions { consistency: Consistency::Default, ..options };
                self.agent.query(options, question).await
            }
            _ => Ok(answer),
        }
    }

    /// The same, for a handler that answers whoever shows this token, if they have what its route needs.
    async fn for_whom(self: &Arc<Api>, token: Secret, needs: Needs) -> Result<Arc<Api>, Failure> {
        let config = self.agent.config();
        if !config.acl.enabled {
            if matches!(needs, Needs::AclCalls | Needs::AclRefused) {
                return Err(Failure::new(StatusCode::UNAUTHORIZED, "ACL support disabled"));
            }
            return Ok(self.clone());
        }
        let token = if token.is_empty() { self.agent.token(Purpose::Default) } else { token };
        let api = Arc::new(Api { agent: self.agent.on_behalf_of(token), ..Api::clone(self) });
        let who = match needs {
            Needs::Nothing | Needs::Calls | Needs::AclCalls | Needs::AclRefused | Needs::Handler => {
                return Ok(api);
            }
            _ => api.who().await?,
        };
        match needs {
            Needs::Agent(wanted) => who.require(Kind::Agent, &config.node_name, wanted)?,
            Needs::Node(wanted) => who.require(Kind::Node, &config.node_name, wanted)?,
            Needs::Operator(wanted) => who.require_operator(wanted)?,
            Needs::Acl(wanted) => who.require_acl(wanted)?,
            _ => {}
        }
        Ok(api)
    }

    /// What whoever asks may do, for what this agent decides itself.
    async fn who(&self) -> Result<Authorizer, Failure> {
        Ok(self.agent.authorizer().await?)
    }

    /// What a client may ask for, as configured now.
    fn limits(&self) -> Limits {
        self.agent.config().limits.clone()
    }

    /// A number in `0.0..1.0` to spread the ends of blocking queries with.
    fn spread(&self) -> f64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).random()
    }

    /// The whole body, checked against the limit before and while it is read.
    async fn read_body(&self, body: Body) -> Result<Upload, Failure> {
        let limits = self.limits();
        let limit = limits.value_bytes as u64;
        let too_large = |size: &str| {
            Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "Request body({size} bytes) too large, max size: {limit} bytes. \
                     See limits.value_bytes in the agent's configuration."
                ),
            )
        };
        let length = hyper::body::Body::size_hint(&body).exact();
        if let Some(length) = length.filter(|length| *length > limit) {
            return Err(too_large(&length.to_string()));
        }
        if length == Some(0) {
            return Ok(Upload { bytes: Bytes::new(), _room: None });
        }

        let expected = length.unwrap_or(limit);
        let full = AtomicBool::new(false);
        let read = async {
            let mut body = Limited::new(body, limits.value_bytes);
            let (mut bytes, mut room) = (BytesMut::new(), None);
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame?.into_data() else { continue };
                bytes.extend_from_slice(&data);
                // Not before it is large: whoever sends nothing takes no room from others.
                if room.is_none() && bytes.len() as u64 > SMALL_BODY {
                    let kib = u32::try_from(expected.div_ceil(1024)).unwrap_or(u32::MAX).min(BODY_ROOM_KIB);
                    full.store(true, Ordering::Relaxed);
                    // The semaphore is never closed; without room the body would merely go uncounted.
                    room = self.body_room.clone().acquire_many_owned(kib).await.ok();
                    full.store(false, Ordering::Relaxed);
                }
            }
            Ok::<_, axum::BoxError>(Upload { bytes: bytes.freeze(), _room: room })
        };
        let patience = Duration::from_millis(limits.http_read_timeout_ms);
        let read = soon(self.agent.env(), patience, read).await.map_err(|_| {
            if full.load(Ordering::Relaxed) {
                let text = "Too many large bodies at once, try later";
                return Failure::new(StatusCode::SERVICE_UNAVAILABLE, text);
            }
            let text = format!("The request's body did not arrive within {} ms", patience.as_millis());
            Failure::new(StatusCode::REQUEST_TIMEOUT, text)
        })?;
        read.map_err(|error| {
            if error.is::<LengthLimitError>() {
                too_large(&format!("over {limit}"))
            } else {
                Failure::bad_request(format!("Cannot read the request's body: {error}"))
            }
        })
    }
}

/// A body in memory, and its place among those held at once.
struct Upload {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Deref for Upload {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

/// A request as handlers see it.
struct Call {
    head: request::Parts,
    params: Params,
    body: Body,
}

impl Call {
    /// What the path says after `prefix`, with escapes undone. Taken from the raw path, because a key
    /// may hold slashes, be empty, or look like a path to something else.
    fn tail(&self, prefix: &str) -> Result<String, Failure> {
        let escaped = self.head.uri.path().strip_prefix(prefix).unwrap_or_default();
        let bytes = params::unescape(escaped, false)
            .ok_or_else(|| Failure::bad_request(format!("Invalid escape in path {escaped:?}")))?;
        let name = String::from_utf8(bytes)
            .map_err(|_| Failure::bad_request(format!("Invalid path {escaped:?}: not UTF-8")))?;
        // They would come out again in logs and on terminals.
        if name.contains(char::is_control) {
            return Err(Failure::bad_request(format!("Invalid path {escaped:?}: not printable")));
        }
        Ok(name)
    }
}

/// Every route there is: path, methods, and what it needs.
fn all() -> Routes {
    const KEY: &[&str] = &["GET", "PUT", "DELETE"];
    use Access::{Read, Write};
    Routes::new()
        .route("/", &["GET", "HEAD"], Needs::Nothing, status::root)
        .route("/v1/kv", KEY, Needs::Calls, kv::key)
        .route("/v1/kv/{*key}", KEY, Needs::Calls, kv::key)
        .route("/v1/txn", &["PUT"], Needs::Calls, txn::txn)
        .route("/v1/session/create", &["PUT"], Needs::Calls, session::create)
        .route("/v1/session/destroy/{*id}", &["PUT"], Needs::Calls, session::destroy)
        .route("/v1/session/renew/{*id}", &["PUT"], Needs::Calls, session::renew)
        .route("/v1/session/info/{*id}", &["GET"], Needs::Calls, session::info)
        .route("/v1/session/node/{*node}", &["GET"], Needs::Calls, session::node)
        .route("/v1/session/list", &["GET"], Needs::Calls, session::list)
        .route("/v1/agent/services", &["GET"], Needs::Handler, own::services)
        .route("/v1/agent/service/register", &["PUT"], Needs::Handler, own::register_service)
        .route("/v1/agent/service/deregister/{*id}", &["PUT"], Needs::Handler, own::deregister_service)
        .route("/v1/agent/service/maintenance/{*id}", &["PUT"], Needs::Handler, own::service_maintenance_mode)
        .route("/v1/agent/service/{*id}", &["GET"], Needs::Handler, own::service)
        .route("/v1/agent/health/service/name/{*name}", &["GET"], Needs::Handler, own::health_by_name)
        .route("/v1/agent/health/service/id/{*id}", &["GET"], Needs::Handler, own::health_by_id)
        .route("/v1/agent/maintenance", &["PUT"], Needs::Node(Write), own::node_maintenance)
        .route("/v1/agent/checks", &["GET"], Needs::Handler, own::checks)
        .route("/v1/agent/check/register", &["PUT"], Needs::Handler, own::register_check)
        .route("/v1/agent/check/deregister/{*id}", &["PUT"], Needs::Handler, own::deregister_check)
        .route("/v1/agent/check/pass/{*id}", &["PUT"], Needs::Handler, own::pass)
        .route("/v1/agent/check/warn/{*id}", &["PUT"], Needs::Handler, own::warn)
        .route("/v1/agent/check/fail/{*id}", &["PUT"], Needs::Handler, own::fail)
        .route("/v1/agent/check/update/{*id}", &["PUT"], Needs::Handler, own::update)
        .route("/v1/catalog/register", &["PUT"], Needs::Calls, catalog::register)
        .route("/v1/catalog/deregister", &["PUT"], Needs::Calls, catalog::deregister)
        .route("/v1/catalog/datacenters", &["GET"], Needs::Nothing, catalog::datacenters)
        .route("/v1/catalog/nodes", &["GET"], Needs::Calls, catalog::nodes)
        .route("/v1/catalog/services", &["GET"], Needs::Calls, catalog::services)
        .route("/v1/catalog/service/{*service}", &["GET"], Needs::Calls, catalog::service)
        .route("/v1/catalog/connect/{*service}", &["GET"], Needs::Calls, catalog::connect)
        .route("/v1/catalog/gateway-services/{*service}", &["GET"], Needs::Calls, catalog::gateway_services)
        .route("/v1/catalog/node/{*node}", &["GET"], Needs::Calls, catalog::node)
        .route("/v1/catalog/node-services/{*node}", &["GET"], Needs::Calls, catalog::node_services)
        .route("/v1/health/node/{*node}", &["GET"], Needs::Calls, health::node)
        .route("/v1/health/checks/{*service}", &["GET"], Needs::Calls, health::of_service)
        .route("/v1/health/state/{*state}", &["GET"], Needs::Calls, health::state)
        .route("/v1/health/service/{*service}", &["GET"], Needs::Calls, health::service)
        .route("/v1/health/connect/{*service}", &["GET"], Needs::Calls, health::none)
        .route("/v1/health/ingress/{*service}", &["GET"], Needs::Calls, health::none)
        .route("/v1/coordinate/datacenters", &["GET"], Needs::Handler, coordinate::datacenters)
        .route("/v1/coordinate/nodes", &["GET"], Needs::Calls, coordinate::nodes)
        .route("/v1/coordinate/node/{*node}", &["GET"], Needs::Calls, coordinate::node)
        .route("/v1/coordinate/update", &["PUT"], Needs::Calls, coordinate::update)
        .route("/v1/event/fire/{*name}", &["PUT"], Needs::Handler, event::fire)
        .route("/v1/event/list", &["GET"], Needs::Handler, event::list)
        .route("/v1/status/leader", &["GET"], Needs::Nothing, status::leader)
        .route("/v1/status/peers", &["GET"], Needs::Nothing, status::peers)
        .route("/v1/status/why", &["GET"], Needs::Nothing, status::why)
        .route("/v1/agent/self", &["GET"], Needs::Agent(Read), agent::this)
        .route("/v1/agent/members", &["GET"], Needs::Handler, agent::members)
        .route("/v1/agent/join/{*addr}", &["PUT"], Needs::Agent(Write), agent::join)
        .route("/v1/agent/leave", &["PUT"], Needs::Agent(Write), agent::leave)
        .route("/v1/agent/force-leave/{*node}", &["PUT"], Needs::Operator(Write), agent::force_leave)
        .route("/v1/agent/reload", &["PUT"], Needs::Agent(Write), agent::reload)
        .route("/v1/agent/host", &["GET"], Needs::Operator(Read), agent::host)
        .route("/v1/agent/version", &["GET"], Needs::Agent(Read), agent::version)
        .route("/v1/agent/metrics", &["GET"], Needs::Agent(Read), telemetry::metrics)
        .route("/v1/agent/monitor", &["GET"], Needs::Agent(Read), telemetry::monitor)
        .route("/v1/operator/keyring", &["GET", "POST", "PUT", "DELETE"], Needs::Handler, keyring::keyring)
        .route("/v1/operator/raft/configuration", &["GET"], Needs::Operator(Read), operator::configuration)
        .route(
            "/v1/operator/raft/transfer-leader",
            &["POST", "PUT"],
            Needs::Operator(Write),
            operator::transfer_leader,
        )
        .route("/v1/operator/raft/peer", &["DELETE"], Needs::Operator(Write), operator::remove_peer)
        .route(
            "/v1/operator/autopilot/configuration",
            &["GET", "PUT"],
            Needs::Calls,
            autopilot::configuration,
        )
        .route("/v1/operator/autopilot/health", &["GET"], Needs::Operator(Read), autopilot::health)
        .route("/v1/operator/autopilot/state", &["GET"], Needs::Operator(Read), autopilot::state)
        .route("/v1/operator/usage", &["GET"], Needs::Operator(Read), autopilot::usage)
        .route("/v1/query", &["GET", "POST"], Needs::Calls, query::all)
        .route("/v1/query/{*query}", &["GET", "PUT", "DELETE"], Needs::Calls, query::one)
        .route("/v1/snapshot", &["GET", "PUT"], Needs::Acl(Write), snapshot::snapshot)
        .route("/ui", &["GET", "HEAD"], Needs::Nothing, ui::redirect)
        .route("/ui/{*file}", &["GET", "HEAD"], Needs::Nothing, ui::file)
        .route("/set", &["GET", "PUT", "POST"], Needs::Calls, legacy::set)
        .route("/get", &["GET"], Needs::Calls, legacy::get)
        .route("/join", &["GET", "PUT", "POST"], Needs::Calls, legacy::join)
        .route("/v1/acl/bootstrap", &["PUT"], Needs::AclCalls, acl::bootstrap)
        .route("/v1/acl/replication", &["GET"], Needs::AclCalls, acl::replication)
        .route("/v1/acl/tokens", &["GET"], Needs::AclCalls, acl::tokens)
        .route("/v1/acl/token", &["PUT"], Needs::AclCalls, acl::create_token)
        .route("/v1/acl/token/self", &["GET"], Needs::AclCalls, acl::own_token)
        .route("/v1/acl/token/{accessor}", &["GET", "PUT", "DELETE"], Needs::AclCalls, acl::token)
        .route("/v1/acl/token/{accessor}/clone", &["PUT"], Needs::AclCalls, acl::clone_token)
        .route("/v1/acl/policies", &["GET"], Needs::AclCalls, acl::policies)
        .route("/v1/acl/policy", &["PUT"], Needs::AclCalls, acl::create_policy)
        .route("/v1/acl/policy/{id}", &["GET", "PUT", "DELETE"], Needs::AclCalls, acl::policy)
        .route("/v1/acl/policy/name/{*name}", &["GET"], Needs::AclCalls, acl::policy_by_name)
        .route("/v1/acl/roles", &["GET"], Needs::AclCalls, acl::roles)
        .route("/v1/acl/role", &["PUT"], Needs::AclCalls, acl::create_role)
        .route("/v1/acl/role/{id}", &["GET", "PUT", "DELETE"], Needs::AclCalls, acl::role)
        .route("/v1/acl/role/name/{*name}", &["GET"], Needs::AclCalls, acl::role_by_name)
        .route("/v1/acl/login", &["POST", "PUT"], Needs::AclRefused, acl::not_here)
        .route("/v1/acl/logout", &["POST", "PUT"], Needs::AclRefused, acl::not_here)
        .route("/v1/acl/auth-methods", &["GET"], Needs::AclRefused, acl::not_here)
        .route("/v1/acl/auth-method", &["PUT"], Needs::AclRefused, acl::not_here)
        .route("/v1/acl/auth-method/{*name}", KEY, Needs::AclRefused, acl::not_here)
        .route("/v1/acl/binding-rules", &["GET"], Needs::AclRefused, acl::not_here)
        .route("/v1/acl/binding-rule", &["PUT"], Needs::AclRefused, acl::not_here)
        .route("/v1/acl/binding-rule/{*id}", KEY, Needs::AclRefused, acl::not_here)
        .route("/v1/acl/templated-policies", &["GET"], Needs::AclRefused, acl::not_here)
        .route("/v1/acl/templated-policy/{*name}", &["GET", "POST"], Needs::AclRefused, acl::not_here)
        .route("/v1/agent/token/{purpose}", &["PUT"], Needs::Agent(Write), acl::set_token)
}

/// What a route asks of whoever calls it, before its handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: what it tells, anybody may know who reaches the port.
    Nothing,
    /// What the servers ask for the calls that it makes: see [`crate::agent::rights`].
    Calls,
    /// The same, and rights must be looked at here at all.
    AclCalls,
    /// Rights must be looked at; then it is refused.
    AclRefused,
    /// What the handler asks for, or leaves out, by what the request names.
    Handler,
    /// The right to this agent.
    Agent(Access),
    /// The right to this agent's node.
    Node(Access),
    /// The right to the servers.
    Operator(Access),
    /// The right to all rights.
    Acl(Access),
}

/// A route, for whoever wants to know which there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its path; `{…}` stands for what the request names.
    pub path: &'static str,
    /// Its methods.
    pub methods: &'static [&'static str],
    /// What it needs.
    pub needs: Needs,
}

/// Every route there is. A test asks each of them without any right.
pub fn routes() -> Vec<Described> {
    all().described
}

/// Routes with what they need: none can be without.
struct Routes {
    router: Router<Arc<Api>>,
    described: Vec<Described>,
}

impl Routes {
    fn new() -> Routes {
        Routes { router: Router::new(), described: Vec::new() }
    }

    fn route<H, F>(
        mut self,
        path: &'static str,
        methods: &'static [&'static str],
        needs: Needs,
        handler: H,
    ) -> Routes
    where
        H: Fn(Arc<Api>, Call) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        // Who names nothing is told so by the handler, not that there is no such call.
        for path in [Some(path), nameless(path)].into_iter().flatten() {
            self.described.push(Described { path, methods, needs });
            self.router = self.router.route(path, route(path, methods, needs, handler.clone()));
        }
        self
    }
}

/// A path that ends with a name, with an empty one.
fn nameless(path: &'static str) -> Option<&'static str> {
    let place = path.rfind('/')? + 1;
    (path[place..].starts_with('{') && path.ends_with('}')).then_some(&path[..place])
}

fn router(api: Arc<Api>) -> Router {
    let nowhere = any(|request: Request| async move {
        let text = if request.uri().path().starts_with("/v1/") {
            "Invalid URL path: not a recognized HTTP API endpoint\n"
        } else {
            "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n"
        };
        Failure::new(StatusCode::NOT_FOUND, text)
    });
    all().router.fallback(nowhere).with_state(api)
}

/// A route: what all of them do first, then the handler.
fn route<H, F>(
    pattern: &'static str,
    methods: &'static [&'static str],
    needs: Needs,
    handler: H,
) -> MethodRouter<Arc<Api>>
where
    H: Fn(Arc<Api>, Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    any(move |State(api): State<Arc<Api>>, request: Request| async move {
        if request.method() == Method::OPTIONS {
            let allow = [(header::ALLOW, format!("OPTIONS,{}", methods.join(",")))];
            return (StatusCode::OK, allow).into_response();
        }
        let begun = api.agent.env().now();
        // A client may call its method what it likes; labels must be few.
        let known = ["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH"];
        let method = known.into_iter().find(|known| *known == request.method().as_str()).unwrap_or("other");
        let reply = match admit(&api, methods, request) {
            Ok((token, call)) => match api.for_whom(token, needs).await {
                Ok(api) => {
                    let somebody = api.agent.bearer().is_somebody();
                    let reply = handler(api, call).await;
                    if somebody { reply } else { reply.map(reply::unsifted) }
                }
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        let response = reply::under_policy(reply.into_response(), api.agent.config().acl.default_policy);
        let took = api.agent.env().now().since(begun);
        let labels = vec![
            ("method", method.to_owned()),
            ("path", family(pattern).to_owned()),
            ("status", response.status().as_u16().to_string()),
        ];
        api.agent.metrics().time("consul.api.http", labels, took);
        response
    })
}

/// The part of a route's pattern that does not depend on what is asked for: at most three words. Of the request's own path
/// nothing is taken: anybody can ask for anything, and what is counted is kept.
fn family(pattern: &str) -> &str {
    let fixed = pattern.split("/{").next().unwrap_or(pattern);
    let end = fixed.match_indices('/').nth(3).map_or(fixed.len(), |(at, _)| at);
    match fixed[..end].trim_end_matches('/') {
        "" => "/",
        family => family,
    }
}

/// Checks what every route checks, and takes out the token: from here on no text can repeat it.
fn admit(api: &Api, methods: &[&str], request: Request) -> Result<(Secret, Call), Failure> {
    let (head, body) = request.into_parts();
    if !methods.contains(&head.method.as_str()) {
        let text = format!("method {} not allowed", head.method);
        let allow = Some(format!("OPTIONS,{}", methods.join(",")));
        return Err(Failure { allow, ..Failure::new(StatusCode::METHOD_NOT_ALLOWED, text) });
    }
    let mut params = Params::parse(head.uri.query())?;
    let token = token(&head, &mut params);
    let elsewhere = |dc: &str| dc != api.agent.config().datacenter;
    if ["datacenter", "dc"].iter().any(|name| params.text(name).is_some_and(elsewhere)) {
        return Err(Failure::refused("No path to datacenter"));
    }
    only_default(&head, &params)?;
    Ok((token, Call { head, params, body }))
}

/// Refuses a namespace or a partition that is not the default one: what is kept here is not what was meant.
fn only_default(head: &request::Parts, params: &Params) -> Result<(), Failure> {
    let divisions = [
        ("ns", "X-Consul-Namespace", "Namespaces are"),
        ("partition", "X-Consul-Partition", "Partitions are"),
    ];
    for (param, header, what) in divisions {
        let other = |value: &str| !matches!(value, "" | "default");
        let by = if params.all(param).any(other) {
            format!("query parameter: {param:?}")
        } else if head.headers.get_all(header).iter().any(|value| value.to_str().map_or(true, other)) {
            format!("header: {header:?}")
        } else {
            continue;
        };
        return Err(Failure::bad_request(format!("Invalid {by} - {what} a Consul Enterprise feature")));
    }
    Ok(())
}

/// The token that a request shows: `?token`, else `X-Consul-Token`, else `Authorization: Bearer`.
fn token(head: &request::Parts, params: &mut Params) -> Secret {
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = || {
        let (scheme, token) = header("authorization")?.split_once(' ')?;
        // A token has no space in it: RFC 6750, 2.1.
        scheme.eq_ignore_ascii_case("bearer").then(|| token.split_whitespace().next())?
    };
    let asked = params.take("token").filter(|token| !token.is_empty());
    let headed = || header("x-consul-token").filter(|token| !token.is_empty()).or_else(bearer);
    Secret::new(asked.or_else(|| headed().map(str::to_owned)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_that_ends_with_a_name_is_a_route_without_it_too() {
        let cases = [
            ("/v1/kv/{*key}", Some("/v1/kv/")),
            ("/v1/acl/role/{id}", Some("/v1/acl/role/")),
            ("/v1/acl/token/{accessor}/clone", None),
            ("/v1/kv", None),
            ("/", None),
        ];
        for (path, expected) in cases {
            assert_eq!(nameless(path), expected, "{path}");
        }
    }

    #[test]
    fn a_token_is_shown_in_one_of_three_ways() {
        let shown = |path: &str, headers: &[(&str, &str)]| {
            let mut request = axum::http::Request::get(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            token(&head, &mut Params::parse(head.uri.query()).unwrap()).expose().to_owned()
        };
        let bearer = |value| shown("/v1/kv/a", &[("Authorization", value)]);
        assert_eq!(bearer("Bearer one"), "one");
        assert_eq!(bearer("bearer     one  the rest is nobody's  "), "one");
        for none in ["Beer one", "Bearer", "Bearer  ", "Bearerone"] {
            assert_eq!(bearer(none), "", "{none}");
        }
        let both = [("Authorization", "Bearer one"), ("X-Consul-Token", "two")];
        assert_eq!((shown("/?token=", &both), shown("/?token=three", &both)), ("two".into(), "three".into()));
    }

    #[test]
    fn only_the_default_namespace_and_partition_are_here() {
        let said = |path: &str, header: &str, value: &str| {
            let request = axum::http::Request::get(path).header(header, value).body(()).unwrap();
            let (head, ()) = request.into_parts();
            let params = Params::parse(head.uri.query()).unwrap_or_default();
            only_default(&head, &params).err().map(|failure| failure.text)
        };
        for value in ["", "default"] {
            assert_eq!(said("/v1/kv/a", "X-Consul-Namespace", value), None);
            assert_eq!(
                said(&format!("/v1/kv/a?ns={value}&partition={value}"), "X-Consul-Partition", value),
                None
            );
        }
        let refused = |by: &str| Some(format!("Invalid {by} a Consul Enterprise feature"));
        assert_eq!(
            said("/v1/kv/a", "x-consul-namespace", "team"),
            refused("header: \"X-Consul-Namespace\" - Namespaces are")
        );
        assert_eq!(
            said("/v1/kv/a?ns=default&partition=team", "X-Consul-Namespace", ""),
            refused("query parameter: \"partition\" - Partitions are")
        );
    }
}
