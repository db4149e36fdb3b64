//! The HTTP API: Consul's paths, verbs, JSON names, headers and texts, answered by the [`Agent`].
//!
//! How a request flows: [`serve`] accepts a connection and gives it a task; hyper reads the head
//! through a stream that knows when to lose patience; the router finds the route; `route` does what all routes
//! share (verbs, parameters, datacenter); a handler checks the limits, asks the agent, and builds the
//! reply. Handlers hold no state, so a node serves as many as there are connections.
//!
//! * `kv`, `session`, `txn`, `catalog`, `health`, `event`, `status`, `agent`, `operator`, `keyring`, `telemetry`: one file for each family of paths.
//! * `snapshot`: the whole state as one file, and back.
//! * `autopilot`: how the servers fare; `query`: prepared queries.
//! * `own`: this agent's own services and checks.
//! * `wire`, `decode`, `filter`: the catalog's shapes in JSON, bodies as clients send them, and `?filter`.
//! * `ui`: the status page, which is one more client of all this.
//! * `legacy`: the three paths of the older API, `/set`, `/get` and `/join`.
//! * `params`, `reply`: what a request says in its address, and what goes back.
//! * [`client`]: the other end, for the command line, the tests and the testbed.
//!
//! JSON shapes live here and nowhere below: renaming a field of the agent changes no client.
//!
//! What is bounded, and what happens at the bound: connections (one more is told 503 and closed), the
//! time a client may take (the connection is closed, a late body is told 408), a body's size (413),
//! the bytes of large bodies held at once (further ones wait, and are told 503 when their time is up),
//! keys (400). All of it is checked before anything is proposed to the cluster.
//!
//! What is deliberately absent: TLS, compression, HTTP/2, and the `Date` header, which would be the
//! only reading of the wall clock.

mod agent;
mod autopilot;
mod catalog;
pub mod client;
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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header, request};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, any};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rand::RngExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::agent::Agent;
use crate::config::Limits;
use crate::env::{BoxStream, Env, Listener, Rng};

pub use crate::config::duration::parse_duration;

use params::Params;
use reply::{Failure, Reply};
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
    let most = agent.config().limits.http_connections.clamp(1, Semaphore::MAX_PERMITS);
    let slots = Arc::new(Semaphore::new(most));
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
            Ok((stream, _)) => match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    let patience = Duration::from_millis(agent.config().limits.http_read_timeout_ms);
                    let serving = connection(env.clone(), stream, service.clone(), patience, stopped.clone());
                    drop(env.spawn(async move {
                        serving.await;
                        drop(slot);
                    }));
                }
                Err(_) => turn_away(stream),
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
    let service = hyper::service::service_fn(move |request| {
        progress.step();
        let (progress, reply) = (progress.clone(), service.call(request));
        async move {
            let reply = reply.await;
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

/// Says 503 to a connection there is no room for, if that can be said without waiting.
fn turn_away(mut stream: BoxStream) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Length: 31\r\n\r\n\
        Too many connections, try later";
    let _ = stream.write_all(FULL).now_or_never();
}

/// What handlers share.
struct Api {
    agent: Agent,
    rng: Mutex<Rng>,
    session_ids: Mutex<Rng>,
    body_room: Arc<Semaphore>,
    /// One snapshot at a time is restored.
    restoring: Arc<Semaphore>,
}

impl Api {
    fn new(agent: Agent) -> Api {
        let rng = Mutex::new(agent.env().rng("http"));
        let session_ids = Mutex::new(agent.env().rng("session ids"));
        let body_room = Arc::new(Semaphore::new(BODY_ROOM_KIB as usize));
        let restoring = Arc::new(Semaphore::new(1));
        Api { agent, rng, session_ids, body_room, restoring }
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
        let read = async {
            let room = match expected {
                0..=SMALL_BODY => None,
                _ => {
                    let kib = u32::try_from(expected.div_ceil(1024)).unwrap_or(u32::MAX).min(BODY_ROOM_KIB);
                    // The semaphore is never closed; without room the body would merely go uncounted.
                    self.body_room.clone().acquire_many_owned(kib).await.ok()
                }
            };
            let bytes = Limited::new(body, limits.value_bytes).collect().await;
            (bytes, room)
        };
        let mut read = pin!(read);
        // Most bodies arrive with their heads: no timer for those.
        let read = match read.as_mut().now_or_never() {
            Some(read) => read,
            None => {
                let patience = Duration::from_millis(limits.http_read_timeout_ms);
                self.agent.env().timeout(patience, read).await.map_err(|_| {
                    let text =
                        format!("The request's body did not arrive within {} ms", patience.as_millis());
                    Failure::new(StatusCode::REQUEST_TIMEOUT, text)
                })?
            }
        };
        match read {
            (Ok(bytes), room) => Ok(Upload { bytes: bytes.to_bytes(), _room: room }),
            (Err(error), _) if error.is::<LengthLimitError>() => Err(too_large(&format!("over {limit}"))),
            (Err(error), _) => Err(Failure::bad_request(format!("Cannot read the request's body: {error}"))),
        }
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
        String::from_utf8(bytes)
            .map_err(|_| Failure::bad_request(format!("Invalid path {escaped:?}: not UTF-8")))
    }
}

fn router(api: Arc<Api>) -> Router {
    let key = || route(&["GET", "PUT", "DELETE"], kv::key);
    Router::new()
        .route("/", route(&["GET"], status::root))
        .route("/v1/kv", key())
        .route("/v1/kv/", key())
        .route("/v1/kv/{*key}", key())
        .route("/v1/txn", route(&["PUT"], txn::txn))
        .route("/v1/snapshot", route(&["GET", "PUT"], snapshot::snapshot))
        .route("/v1/session/create", route(&["PUT"], session::create))
        .route("/v1/session/destroy/", route(&["PUT"], session::destroy))
        .route("/v1/session/destroy/{*id}", route(&["PUT"], session::destroy))
        .route("/v1/session/renew/", route(&["PUT"], session::renew))
        .route("/v1/session/renew/{*id}", route(&["PUT"], session::renew))
        .route("/v1/session/info/", route(&["GET"], session::info))
        .route("/v1/session/info/{*id}", route(&["GET"], session::info))
        .route("/v1/session/node/", route(&["GET"], session::node))
        .route("/v1/session/node/{*node}", route(&["GET"], session::node))
        .route("/v1/session/list", route(&["GET"], session::list))
        .route("/v1/agent/services", route(&["GET"], own::services))
        .route("/v1/agent/service/register", route(&["PUT"], own::register_service))
        .route("/v1/agent/service/deregister/{*id}", route(&["PUT"], own::deregister_service))
        .route("/v1/agent/service/maintenance/{*id}", route(&["PUT"], own::service_maintenance_mode))
        .route("/v1/agent/service/{*id}", route(&["GET"], own::service))
        .route("/v1/agent/health/service/name/{*name}", route(&["GET"], own::health_by_name))
        .route("/v1/agent/health/service/id/{*id}", route(&["GET"], own::health_by_id))
        .route("/v1/agent/maintenance", route(&["PUT"], own::node_maintenance))
        .route("/v1/agent/checks", route(&["GET"], own::checks))
        .route("/v1/agent/check/register", route(&["PUT"], own::register_check))
        .route("/v1/agent/check/deregister/{*id}", route(&["PUT"], own::deregister_check))
        .route("/v1/agent/check/pass/{*id}", route(&["PUT"], own::pass))
        .route("/v1/agent/check/warn/{*id}", route(&["PUT"], own::warn))
        .route("/v1/agent/check/fail/{*id}", route(&["PUT"], own::fail))
        .route("/v1/agent/check/update/{*id}", route(&["PUT"], own::update))
        .route("/v1/catalog/register", route(&["PUT"], catalog::register))
        .route("/v1/catalog/deregister", route(&["PUT"], catalog::deregister))
        .route("/v1/catalog/datacenters", route(&["GET"], catalog::datacenters))
        .route("/v1/catalog/nodes", route(&["GET"], catalog::nodes))
        .route("/v1/catalog/services", route(&["GET"], catalog::services))
        .route("/v1/catalog/service/{*service}", route(&["GET"], catalog::service))
        .route("/v1/catalog/connect/{*service}", route(&["GET"], catalog::connect))
        .route("/v1/catalog/gateway-services/{*service}", route(&["GET"], catalog::gateway_services))
        .route("/v1/catalog/node/{*node}", route(&["GET"], catalog::node))
        .route("/v1/catalog/node-services/{*node}", route(&["GET"], catalog::node_services))
        .route("/v1/health/node/{*node}", route(&["GET"], health::node))
        .route("/v1/health/checks/{*service}", route(&["GET"], health::of_service))
        .route("/v1/health/state/{*state}", route(&["GET"], health::state))
        .route("/v1/health/service/{*service}", route(&["GET"], health::service))
        .route("/v1/health/connect/{*service}", route(&["GET"], health::none))
        .route("/v1/health/ingress/{*service}", route(&["GET"], health::none))
        .route("/v1/event/fire/", route(&["PUT"], event::fire))
        .route("/v1/event/fire/{*name}", route(&["PUT"], event::fire))
        .route("/v1/event/list", route(&["GET"], event::list))
        .route("/v1/status/leader", route(&["GET"], status::leader))
        .route("/v1/status/peers", route(&["GET"], status::peers))
        .route("/v1/status/why", route(&["GET"], status::why))
        .route("/v1/agent/self", route(&["GET"], agent::this))
        .route("/v1/agent/members", route(&["GET"], agent::members))
        .route("/v1/agent/join/{*addr}", route(&["PUT"], agent::join))
        .route("/v1/agent/leave", route(&["PUT"], agent::leave))
        .route("/v1/agent/force-leave/{*node}", route(&["PUT"], agent::force_leave))
        .route("/v1/agent/reload", route(&["PUT"], agent::reload))
        .route("/v1/agent/host", route(&["GET"], agent::host))
        .route("/v1/agent/version", route(&["GET"], agent::version))
        .route("/v1/agent/metrics", route(&["GET"], telemetry::metrics))
        .route("/v1/agent/monitor", route(&["GET"], telemetry::monitor))
        .route("/v1/operator/keyring", route(&["GET", "POST", "PUT", "DELETE"], keyring::keyring))
        .route("/v1/operator/raft/configuration", route(&["GET"], operator::configuration))
        .route("/v1/operator/raft/transfer-leader", route(&["POST", "PUT"], operator::transfer_leader))
        .route("/v1/operator/raft/peer", route(&["DELETE"], operator::remove_peer))
        .route("/v1/operator/autopilot/configuration", route(&["GET", "PUT"], autopilot::configuration))
        .route("/v1/operator/autopilot/health", route(&["GET"], autopilot::health))
        .route("/v1/operator/autopilot/state", route(&["GET"], autopilot::state))
        .route("/v1/operator/usage", route(&["GET"], autopilot::usage))
        .route("/v1/query", route(&["GET", "POST"], query::all))
        .route("/v1/query/{*query}", route(&["GET", "PUT", "DELETE"], query::one))
        .route("/ui", route(&["GET"], ui::redirect))
        .route("/ui/", route(&["GET"], ui::file))
        .route("/ui/{*file}", route(&["GET"], ui::file))
        .route("/set", route(&["GET", "PUT", "POST"], legacy::set))
        .route("/get", route(&["GET"], legacy::get))
        .route("/join", route(&["GET", "PUT", "POST"], legacy::join))
        .fallback(any(|| async {
            let text = "Invalid URL path: not a recognized HTTP API endpoint";
            Failure::new(StatusCode::NOT_FOUND, text)
        }))
        .with_state(api)
}

/// A route: what all of them do first, then the handler.
fn route<H, F>(methods: &'static [&'static str], handler: H) -> MethodRouter<Arc<Api>>
where
    H: Fn(Arc<Api>, Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    any(move |State(api): State<Arc<Api>>, request: Request| async move {
        if request.method() == Method::OPTIONS {
            let allow = [(header::ALLOW, format!("OPTIONS,{}", methods.join(",")))];
            return Ok((StatusCode::OK, allow).into_response());
        }
        let (begun, path) = (api.agent.env().now(), family(request.uri().path()).to_owned());
        // A client may call its method what it likes; labels must be few.
        let known = ["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH"];
        let method = known.into_iter().find(|known| *known == request.method().as_str()).unwrap_or("other");
        let reply = match admit(&api, methods, request) {
            Ok(call) => handler(api.clone(), call).await,
            Err(failure) => Err(failure),
        };
        let status = reply.as_ref().map_or_else(|failure| failure.status, |response| response.status());
        let took = api.agent.env().now().since(begun);
        let labels =
            vec![("method", method.to_owned()), ("path", path), ("status", status.as_u16().to_string())];
        api.agent.metrics().time("consul.api.http", labels, took);
        reply
    })
}

/// The part of a route's path that does not depend on what is asked for: at most three words, two where the third
/// is a key.
fn family(path: &str) -> &str {
    let words = if path.starts_with("/v1/kv") { 2 } else { 3 };
    let end = path.match_indices('/').nth(words).map_or(path.len(), |(at, _)| at);
    &path[..end]
}

/// Checks what every route checks.
fn admit(api: &Api, methods: &[&str], request: Request) -> Result<Call, Failure> {
    let (head, body) = request.into_parts();
    if !methods.contains(&head.method.as_str()) {
        let text = format!("method {} not allowed", head.method);
        let allow = Some(methods.join(","));
        return Err(Failure { allow, ..Failure::new(StatusCode::METHOD_NOT_ALLOWED, text) });
    }
    let params = Params::parse(head.uri.query())?;
    if params.text("dc").is_some_and(|dc| dc != api.agent.config().datacenter) {
        return Err(Failure::refused("No path to datacenter"));
    }
    Ok(Call { head, params, body })
}
