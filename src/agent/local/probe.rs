//! Looking: one probe, and what it found.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::uri::Scheme;
use axum::http::{Method, Request, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::agent::process::{Given, Process};
use crate::env::{BoxStream, Env, Guard};
use crate::state::catalog::Status;

use super::book::{MAX_OUTPUT, Probe, Tls};
use super::h2;

/// What a probe found, and what there is to say about it.
pub type Finding = (Status, String);

fn critical(reason: impl std::fmt::Display) -> Finding {
    (Status::Critical, reason.to_string())
}

/// Looks once. Probes that are told, or look at other checks, are not looked at here: none for them.
pub async fn look(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    probe: &Probe,
    timeout: Duration,
) -> Option<Finding> {
    let looking = async {
        match probe {
            Probe::Http { url, method, headers, body, server_name, unverified } => {
                let guard = Guard { name: server_name.clone(), unverified: *unverified, h2: false };
                Some(http(env, process, url, &guard, method, headers, body).await)
            }
            Probe::Tcp(address) => Some(match tcp(env, process, address).await {
                Ok(()) => (Status::Passing, format!("TCP connect {address}: Success")),
                Err(reason) => critical(format!("TCP connect {address}: {reason}")),
            }),
            Probe::Grpc { address, service, tls } => {
                Some(match grpc(env, process, address, service, tls.as_ref()).await {
                    Ok(()) => (Status::Passing, format!("gRPC check {address}/{service}: success")),
                    Err(reason) => critical(format!("gRPC check {address}/{service}: {reason}")),
                })
            }
            Probe::H2Ping { address, tls } => Some(match h2ping(env, process, address, tls.as_ref()).await {
                Ok(()) => (Status::Passing, "HTTP2 ping was successful".to_owned()),
                Err(reason) => critical(format!("HTTP2 ping to {address} failed: {reason}")),
            }),
            Probe::Script(command) => Some(script(process, command, timeout).await),
            Probe::Ttl(_) | Probe::Alias { .. } => None,
        }
    };
    match env.timeout(timeout, looking).await {
        Ok(found) => found,
        Err(_) => Some(critical(format!("nothing within {timeout:?}"))),
    }
}

/// The addresses of `host:port`.
async fn resolve(process: Option<&Arc<dyn Process>>, host: &str, port: u16) -> Result<SocketAddr, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Ok(SocketAddr::new(ip, port));
    }
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    match process {
        Some(process) => {
            let found = process.resolve(bare, port).await?;
            found.first().copied().ok_or_else(|| format!("{bare:?} has no address"))
        }
        None => Err(format!("cannot look up {bare:?} here: use an IP address")),
    }
}

/// The parts of `HOST:PORT`.
fn parted(address: &str) -> Result<(&str, u16), String> {
    let (host, port) = address.rsplit_once(':').ok_or("want HOST:PORT")?;
    Ok((host, port.parse().map_err(|_| format!("{port:?} is no port"))?))
}

async fn tcp(env: &Env, process: Option<&Arc<dyn Process>>, address: &str) -> Result<(), String> {
    let (host, port) = parted(address)?;
    let addr = resolve(process, host, port).await?;
    env.network().connect(addr).await.map(drop).map_err(|error| error.to_string())
}

/// A stream on which HTTP/2 is to be spoken.
async fn connected(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    address: &str,
    tls: Option<&Tls>,
) -> Result<BoxStream, String> {
    let (host, port) = parted(address)?;
    let addr = resolve(process, host, port).await?;
    let connecting = match tls {
        Some(Tls { server_name, unverified }) => {
            let name = if server_name.is_empty() { host.trim_matches(['[', ']']) } else { server_name };
            let guard = Guard { name: name.to_owned(), unverified: *unverified, h2: true };
            env.network().connect_guarded(addr, &guard)
        }
        None => env.network().connect(addr),
    };
    connecting.await.map_err(|error| error.to_string())
}

async fn grpc(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    address: &str,
    service: &str,
    tls: Option<&Tls>,
) -> Result<(), String> {
    let stream = connected(env, process, address, tls).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    h2::serves(stream, &format!("{scheme}://{address}"), service).await
}

async fn h2ping(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    address: &str,
    tls: Option<&Tls>,
) -> Result<(), String> {
    h2::ping(connected(env, process, address, tls).await?).await
}

async fn http(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    url: &str,
    guard: &Guard,
    method: &str,
    headers: &[(String, String)],
    body: &str,
) -> Finding {
    match exchange(env, process, url, guard, method, headers, body).await {
        Err(reason) => critical(reason),
        Ok((code, text)) => {
            let status = match code {
                200..=299 => Status::Passing,
                429 => Status::Warning,
                _ => Status::Critical,
            };
            (status, format!("HTTP {method} {url}: {code} Output: {text}"))
        }
    }
}

/// One request by HTTP or HTTPS: the status of the answer, and the beginning of its body. The certificate must have the name that
/// is asked for, or the host's.
///
/// # Errors
/// Why there is no answer, in words.
pub async fn exchange(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    url: &str,
    guard: &Guard,
    method: &str,
    headers: &[(String, String)],
    body: &str,
) -> Result<(u16, String), String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
    let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
    let guarded = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if guarded { 443 } else { 80 });
    let addr = resolve(process, host, port).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is no HTTP verb"))?;
    let mut request = Request::builder().method(method).uri(path);
    let named = |name: &str| headers.iter().any(|(found, _)| found.eq_ignore_ascii_case(name));
    if !named("host") {
        request = request.header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()));
    }
    if !named("user-agent") {
        request = request.header(header::USER_AGENT, "driftline health check");
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).map_err(|error| error.to_string())?;
    let connecting = if guarded {
        let name = if guard.name.is_empty() { host.trim_matches(['[', ']']) } else { &guard.name };
        env.network().connect_guarded(addr, &Guard { name: name.to_owned(), ..guard.clone() })
    } else {
        env.network().connect(addr)
    };
    let stream = connecting.await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with this probe, whatever the other side does.
    let _connection = env.spawn(async move { drop(connection.await) }).abort_on_drop();
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let code = response.status().as_u16();
    // A longer body is no reason to fail: its beginning is all that is kept.
    let mut body = Limited::new(response.into_body(), 64 * MAX_OUTPUT);
    let mut text = Vec::new();
    while text.len() < MAX_OUTPUT {
        match body.frame().await {
            Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(_)) | None => break,
        }
    }
    text.truncate(MAX_OUTPUT);
    Ok((code, String::from_utf8_lossy(&text).into_owned()))
}

async fn script(process: Option<&Arc<dyn Process>>, command: &[String], timeout: Duration) -> Finding {
    let Some(process) = process else { return critical("no programs can be run here") };
    match process.run(command, Given::default(), timeout).await {
        Err(reason) => critical(reason),
        Ok((Some(0), output)) => (Status::Passing, output),
        Ok((Some(1), output)) => (Status::Warning, output),
        Ok((_, output)) => (Status::Critical, output),
    }
}
