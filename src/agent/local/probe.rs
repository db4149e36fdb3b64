//! Looking: one probe, and what it found.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::uri::Scheme;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;

use crate::agent::process::{Given, Process};
use crate::env::{BoxStream, Env, Guard};
use crate::state::catalog::Status;

use super::book::{MAX_OUTPUT, Probe, Tls, cut, last};
use super::h2;

/// A request by HTTP is led on to another address so many times.
const MAX_REDIRECTS: u32 = 10;
/// So long an address of a host is waited for, if there is another to try.
const ATTEMPT: Duration = Duration::from_secs(2);

/// What a probe found, and what there is to say about it.
pub type Finding = (Status, String);

fn critical(reason: impl std::fmt::Display) -> Finding {
    (Status::Critical, reason.to_string())
}

/// Looks once. Probes that are told, or look at other checks, are not looked at here: none for them. Of a body or of what a
/// program wrote at most so many bytes are told.
pub async fn look(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    probe: &Probe,
    timeout: Duration,
    max_output: usize,
) -> Option<Finding> {
    let looking = async {
        match probe {
            Probe::Http { url, method, headers, body, server_name, unverified, stays } => {
                let guard = Guard { name: server_name.clone(), unverified: *unverified, h2: false };
                let said = match Question::new(url, method, headers, body) {
                    Ok(question) => ask(env, process, question, &guard, *stays).await,
                    Err(reason) => Err(reason),
                };
                Some(match said {
                    Ok((code, text)) => {
                        let status = match code.as_u16() {
                            200..=299 => Status::Passing,
                            429 => Status::Warning,
                            _ => Status::Critical,
                        };
                        // Whoever reads the catalog need not know the password.
                        let (url, text) = (apart(url).0, cut(text, max_output));
                        (status, format!("HTTP {method} {url}: {code} Output: {text}"))
                    }
                    Err(reason) => critical(reason),
                })
            }
            Probe::Tcp(address) => Some(match tcp(env, process, address).await {
                Ok(()) => (Status::Passing, format!("TCP connect {address}: Success")),
                Err(reason) => critical(format!("TCP connect {address}: {reason}")),
            }),
            Probe::Tls { address, tls } => {
                Some(match connected(env, process, address, Some(tls), false).await {
                    Ok(_) => (Status::Passing, format!("TCP+TLS connect {address}: Success")),
                    Err(reason) => critical(format!("TCP+TLS connect {address}: {reason}")),
                })
            }
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
            Probe::Script(command) => {
                let (status, output) = script(process, command, timeout).await;
                Some((status, last(output, max_output)))
            }
            Probe::Ttl(_) | Probe::Alias { .. } => None,
        }
    };
    match env.timeout(timeout, looking).await {
        Ok(found) => found,
        Err(_) => Some(critical(format!("nothing within {timeout:?}"))),
    }
}

/// The addresses of a host, in the order in which they are to be tried.
async fn resolve(
    process: Option<&Arc<dyn Process>>,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    // The same everywhere, whatever a machine's own table of hosts says.
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    match process {
        Some(process) => process.resolve(bare, port).await,
        None => Err(format!("cannot look up {bare:?} here: use an IP address")),
    }
}

/// A stream to a host, at the first of its addresses where there is one; by TLS if that is asked for. If there is none, it is the
/// first address that says why.
async fn dial(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    host: &str,
    port: u16,
    guard: Option<&Guard>,
) -> Result<BoxStream, String> {
    let mut first = None;
    let mut addrs = resolve(process, host, port).await?.into_iter().peekable();
    while let Some(addr) = addrs.next() {
        let connecting = match guard {
            Some(guard) => env.network().connect_guarded(addr, guard),
            None => env.network().connect(addr),
        };
        let connected = match addrs.peek() {
            None => connecting.await.map_err(|error| error.to_string()),
            Some(_) => match env.timeout(ATTEMPT, connecting).await {
                Ok(connected) => connected.map_err(|error| error.to_string()),
                Err(_) => Err(format!("nothing from {addr} within {ATTEMPT:?}")),
            },
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(reason) => first = first.or(Some(reason)),
        }
    }
    Err(first.unwrap_or_else(|| format!("{host:?} has no address")))
}

/// The parts of `HOST:PORT`.
fn parted(address: &str) -> Result<(&str, u16), String> {
    let (host, port) = address.rsplit_once(':').ok_or("want HOST:PORT")?;
    Ok((host, port.parse().map_err(|_| format!("{port:?} is no port"))?))
}

async fn tcp(env: &Env, process: Option<&Arc<dyn Process>>, address: &str) -> Result<(), String> {
    let (host, port) = parted(address)?;
    dial(env, process, host, port, None).await.map(drop)
}

/// A stream, by TLS if that is asked for; `h2` says that HTTP/2 is to be spoken on it.
async fn connected(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    address: &str,
    tls: Option<&Tls>,
    h2: bool,
) -> Result<BoxStream, String> {
    let (host, port) = parted(address)?;
    let guard = tls.map(|Tls { server_name, unverified }| {
        let name = if server_name.is_empty() { host.trim_matches(['[', ']']) } else { server_name };
        Guard { name: name.to_owned(), unverified: *unverified, h2 }
    });
    dial(env, process, host, port, guard.as_ref()).await
}

async fn grpc(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    address: &str,
    service: &str,
    tls: Option<&Tls>,
) -> Result<(), String> {
    let stream = connected(env, process, address, tls, true).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    h2::serves(stream, &format!("{scheme}://{address}"), service).await
}

async fn h2ping(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    address: &str,
    tls: Option<&Tls>,
) -> Result<(), String> {
    h2::ping(connected(env, process, address, tls, true).await?).await
}

/// What is asked by HTTP, and of whom.
#[derive(Clone)]
pub struct Question {
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

/// One request by HTTP or HTTPS, and those that its answer refers to unless it `stays` with the first: the status of the
/// last answer, and the beginning of its body. The certificate must have the name that is asked for, or the host's.
///
/// # Errors
/// Why there is no answer, in words.
pub async fn ask(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    mut question: Question,
    guard: &Guard,
    stays: bool,
) -> Result<(StatusCode, String), String> {
    for _ in 0..=MAX_REDIRECTS {
        let (code, elsewhere, text) = exchange(env, process, &question, guard).await?;
        match elsewhere.filter(|_| !stays) {
            Some(elsewhere) => question = question.led(code, &elsewhere)?,
            None => return Ok((code, text)),
        }
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

impl Question {
    /// What is to be asked.
    ///
    /// # Errors
    /// What of it cannot be sent, in words.
    pub fn new(
        url: &str,
        method: &str,
        headers: &[(String, String)],
        body: &str,
    ) -> Result<Question, String> {
        let (url, credentials) = apart(url);
        let uri: Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is no HTTP verb"))?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no name of a header"))?;
            // The value may be a secret.
            let value =
                value.parse().map_err(|_| format!("the value of the header {name} cannot be sent"))?;
            map.append(name, value);
        }
        if let Some(credentials) = credentials {
            map.entry(header::AUTHORIZATION).or_insert(credentials);
        }
        Ok(Question { uri, method, headers: map, body: Bytes::from(body.to_owned()) })
    }

    /// The question to ask where an answer refers to (RFC 9110, 15.4). What proves who asks is for the first host only.
    fn led(&self, code: StatusCode, elsewhere: &str) -> Result<Question, String> {
        let (elsewhere, credentials) = apart(elsewhere);
        let uri = resolved(&self.uri, &elsewhere)?;
        let mut led = Question { uri, ..self.clone() };
        let same = matches!(code, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        if !same && led.method != Method::HEAD {
            led.method = Method::GET;
            led.body = Bytes::new();
            led.headers.remove(header::CONTENT_TYPE);
            led.headers.remove(header::CONTENT_LENGTH);
        }
        if led.uri.host() != self.uri.host() {
            for name in [header::AUTHORIZATION, header::COOKIE, header::HOST] {
                led.headers.remove(name);
            }
        }
        if let Some(credentials) = credentials {
            led.headers.entry(header::AUTHORIZATION).or_insert(credentials);
        }
        Ok(led)
    }
}

/// Where the authority of an address begins, if it has one (RFC 3986, 3).
fn authority_of(address: &str) -> Option<usize> {
    let scheme =
        |scheme: &str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    match address.find("//")? {
        0 => Some(2),
        at => address[..at].strip_suffix(':').filter(|before| scheme(before)).map(|_| at + 2),
    }
}

/// An address without the user and the password in it, and these as a request shows them (RFC 7617).
fn apart(address: &str) -> (String, Option<HeaderValue>) {
    let parts = || {
        let (before, rest) = address.split_at(authority_of(address)?);
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (user, _) = rest[..end].rsplit_once('@')?;
        let after = &rest[user.len() + 1..];
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let mut shown = percent_decode_str(name).collect::<Vec<u8>>();
        shown.push(b':');
        shown.extend(percent_decode_str(password));
        let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(shown))).ok()?;
        value.set_sensitive(true);
        Some((format!("{before}{after}"), Some(value)))
    };
    parts().unwrap_or_else(|| (address.to_owned(), None))
}

/// The address that a reference means which was found at another (RFC 3986, 5.2).
fn resolved(base: &Uri, reference: &str) -> Result<Uri, String> {
    let (scheme, authority) = (base.scheme_str().unwrap_or("http"), base.authority());
    let origin = format!("{scheme}://{}", authority.map_or("", |authority| authority.as_str()));
    let reference = reference.split('#').next().unwrap_or_default();
    let whole = if reference.starts_with("//") {
        format!("{scheme}:{reference}")
    } else if authority_of(reference).is_some() {
        reference.to_owned()
    } else if reference.starts_with('/') {
        format!("{origin}{reference}")
    } else if reference.is_empty() || reference.starts_with('?') {
        format!("{origin}{}{reference}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{origin}{folder}/{reference}")
    };
    let uri: Uri = whole.parse().map_err(|error| format!("led to {whole:?}: {error}"))?;
    let (path, query) = (without_dots(uri.path()), uri.query());
    let path = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    let mut parts = uri.into_parts();
    if !matches!(parts.scheme.as_ref().map(Scheme::as_str), Some("http" | "https")) {
        return Err(format!("led to {whole:?}, which is not to be asked by HTTP"));
    }
    parts.path_and_query = Some(path.parse().map_err(|error| format!("led to {path:?}: {error}"))?);
    Uri::from_parts(parts).map_err(|error| format!("led to {whole:?}: {error}"))
}

/// A path whose `.` and `..` are taken at their word (RFC 3986, 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut folder = false;
    for part in path.split('/').skip(1) {
        folder = matches!(part, "." | "..");
        match part {
            "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    format!("/{}{}", kept.join("/"), if folder && !kept.is_empty() { "/" } else { "" })
}

/// One request: the status of the answer, where it refers to, and the beginning of its body.
async fn exchange(
    env: &Env,
    process: Option<&Arc<dyn Process>>,
    question: &Question,
    guard: &Guard,
) -> Result<(StatusCode, Option<String>, String), String> {
    let uri = &question.uri;
    let host = uri.host().ok_or_else(|| format!("{uri} names no host"))?;
    let guarded = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if guarded { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(Full::new(question.body.clone()));
    *request.method_mut() = question.method.clone();
    *request.uri_mut() = path.parse().map_err(|error| format!("{path:?}: {error}"))?;
    *request.headers_mut() = question.headers.clone();
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let authority = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
    request.headers_mut().entry(header::HOST).or_insert(authority);
    let asker = HeaderValue::from_static("driftline health check");
    request.headers_mut().entry(header::USER_AGENT).or_insert(asker);
    let accepted = HeaderValue::from_static("text/plain, text/*, */*");
    request.headers_mut().entry(header::ACCEPT).or_insert(accepted);
    let guard = guarded.then(|| {
        let name = if guard.name.is_empty() { host.trim_matches(['[', ']']) } else { &guard.name };
        Guard { name: name.to_owned(), ..guard.clone() }
    });
    let stream = dial(env, process, host, port, guard.as_ref()).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with this probe, whatever the other side does.
    let _connection = env.spawn(async move { drop(connection.await) }).abort_on_drop();
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let code = response.status();
    let refers = matches!(code.as_u16(), 301 | 302 | 303 | 307 | 308);
    let elsewhere = response.headers().get(header::LOCATION).filter(|_| refers);
    let elsewhere = elsewhere.map(|elsewhere| String::from_utf8_lossy(elsewhere.as_bytes()).into_owned());
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
    Ok((code, elsewhere, String::from_utf8_lossy(&text).into_owned()))
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

#[cfg(test)]
mod tests {
    use futures_util::stream::BoxStream as Lines;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::agent::process::{Fresh, LogError};
    use crate::env::real::ephemeral_env;

    /// Knows where all hosts are, and nothing else.
    struct Hosts(Vec<SocketAddr>);

    impl Process for Hosts {
        fn read_configuration(&self) -> futures_util::future::BoxFuture<'_, Result<Fresh, String>> {
            Box::pin(async { Err("not here".to_owned()) })
        }

        fn describe_host(&self) -> serde_json::Value {
            serde_json::Value::Null
        }

        fn resident_bytes(&self) -> Option<u64> {
            None
        }

        fn run(
            &self,
            _: &[String],
            _: Given,
            _: Duration,
        ) -> futures_util::future::BoxFuture<'static, Result<(Option<i32>, String), String>> {
            Box::pin(async { Ok((Some(0), "0123456789".to_owned())) })
        }

        fn resolve(
            &self,
            _: &str,
            _: u16,
        ) -> futures_util::future::BoxFuture<'static, Result<Vec<SocketAddr>, String>> {
            let all = self.0.clone();
            Box::pin(async { Ok(all) })
        }

        fn watch_log(&self, _: &str, _: bool) -> Result<Lines<'static, String>, LogError> {
            Err(LogError::Refused("not here".to_owned()))
        }
    }

    /// Answers one request with this, at a port of its own; gives the request's head.
    async fn served(env: &Env, answer: &'static str) -> (SocketAddr, impl Future<Output = String> + use<>) {
        let listener = env.network().listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let addr = listener.local_addr();
        let head = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap().to_lowercase()
        };
        (addr, head)
    }

    fn http(url: String, headers: &[(&str, &str)]) -> Probe {
        Probe::Http {
            url,
            method: "GET".into(),
            headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            body: String::new(),
            server_name: String::new(),
            unverified: false,
            stays: false,
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn who_asks_by_http_shows_the_urls_password_where_it_belongs() {
        let env = ephemeral_env().unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789";
        for (own, shown, accepted) in [
            (&[][..], "authorization: basic dxnlcjpwqhc=\r\n", "accept: text/plain, text/*, */*\r\n"),
            (
                &[("Authorization", "Bearer x"), ("Accept", "a/b")][..],
                "authorization: bearer x\r\n",
                "accept: a/b\r\n",
            ),
        ] {
            let (addr, head) = served(&env, answer).await;
            let probe = http(format!("http://user:p%40w@{addr}/x"), own);
            let (found, head) = tokio::join!(look(&env, None, &probe, PATIENCE, 4), head);
            assert!(head.contains(&format!("host: {addr}\r\n")), "{head}");
            assert!(head.contains(shown) && head.contains(accepted), "{head}");
            // Of the body at most so much; who asked what stays.
            let said = format!("HTTP GET http://{addr}/x: 200 OK Output: 0123");
            assert_eq!(found, Some((Status::Passing, said)));
        }
    }

    #[test]
    fn a_password_is_found_only_where_an_address_has_one() {
        let basic =
            |shown: &str| Some(HeaderValue::from_str(&format!("Basic {}", BASE64.encode(shown))).unwrap());
        for (address, expected, shown) in [
            ("http://a/b@c", "http://a/b@c", None),
            ("http://a?to=http://b:c@d/", "http://a?to=http://b:c@d/", None),
            ("/x?to=http://b:c@d/", "/x?to=http://b:c@d/", None),
            ("http://u@a", "http://a", basic("u:")),
            ("https://u:p:q@[::1]:1/x", "https://[::1]:1/x", basic("u:p:q")),
            ("//u:p@a/x", "//a/x", basic("u:p")),
        ] {
            assert_eq!(apart(address), (expected.to_owned(), shown), "{address}");
        }
        let asked = Question::new("http://u:p@a/one", "GET", &[], "").unwrap();
        let shown = |elsewhere: &str| {
            let led = asked.led(StatusCode::FOUND, elsewhere).unwrap();
            led.headers.get(header::AUTHORIZATION).cloned()
        };
        assert_eq!(shown("/two"), basic("u:p"));
        assert_eq!(shown("http://b/two"), None);
        assert_eq!(shown("http://v:q@b/two"), basic("v:q"));
        let wrong = Question::new("http://u:secret@a b/", "GET", &[], "").err().unwrap();
        assert!(!wrong.contains("secret"), "{wrong}");
    }

    #[tokio::test]
    async fn all_addresses_of_a_host_are_tried() {
        let env = ephemeral_env().unwrap();
        let gone = env.network().listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let dead = gone.local_addr();
        drop(gone);
        let (alive, _head) = served(&env, "").await;
        let found = async |all: &[SocketAddr]| {
            let hosts: Arc<dyn Process> = Arc::new(Hosts(all.to_vec()));
            look(&env, Some(&hosts), &Probe::Tcp("host:1".into()), PATIENCE, 4).await
        };
        let said = Some((Status::Passing, "TCP connect host:1: Success".to_owned()));
        assert_eq!(found(&[dead, alive]).await, said);
        assert_eq!(found(&[alive, dead]).await, said);
        assert_eq!(found(&[dead, dead]).await.unwrap().0, Status::Critical);
        assert_eq!(found(&[]).await.unwrap().0, Status::Critical);
        let both: Vec<SocketAddr> = vec!["127.0.0.1:80".parse().unwrap(), "[::1]:80".parse().unwrap()];
        assert_eq!(resolve(None, "LocalHost", 80).await, Ok(both));
        assert!(resolve(None, "elsewhere", 80).await.is_err());
    }

    #[tokio::test]
    async fn of_a_script_the_end_is_told() {
        let (env, hosts): (_, Arc<dyn Process>) = (ephemeral_env().unwrap(), Arc::new(Hosts(Vec::new())));
        let probe = Probe::Script(vec!["count".into()]);
        let found = look(&env, Some(&hosts), &probe, PATIENCE, 4).await;
        assert_eq!(found, Some((Status::Passing, "Captured 4 of 10 bytes\n...\n6789".to_owned())));
    }

    #[test]
    fn a_reference_is_resolved_where_it_was_found() {
        // RFC 3986, 5.4, as far as it is about HTTP.
        let base: Uri = "http://a/b/c/d;p?q".parse().unwrap();
        for (reference, expected) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y#s", "http://a/b/c/g?y"),
            (";x", "http://a/b/c/;x"),
            ("", "http://a/b/c/d;p"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../../../g", "http://a/g"),
            ("g/./h/../i", "http://a/b/c/g/i"),
            ("https://b:8443/x", "https://b:8443/x"),
            ("/g?to=http://h/", "http://a/g?to=http://h/"),
        ] {
            assert_eq!(
                resolved(&base, reference).map(|uri| uri.to_string()),
                Ok(expected.to_owned()),
                "{reference}"
            );
        }
        assert!(resolved(&base, "ftp://a/").unwrap_err().contains("not to be asked by HTTP"));
        assert!(resolved(&base, "http://a b/").is_err());
    }

    #[test]
    fn a_question_that_is_led_elsewhere_leaves_its_secrets_behind() {
        let headers = [("Authorization", "secret"), ("X-Own", "1"), ("Content-Type", "text/plain")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let asked = Question::new("http://a/one", "POST", &headers, "body").unwrap();
        let led = asked.led(StatusCode::FOUND, "/two").unwrap();
        assert_eq!((led.method, &led.body[..]), (Method::GET, &b""[..]));
        assert!(led.headers.contains_key("authorization") && !led.headers.contains_key("content-type"));
        let led = asked.led(StatusCode::TEMPORARY_REDIRECT, "http://b/two").unwrap();
        assert_eq!((led.method, &led.body[..]), (Method::POST, &b"body"[..]));
        assert!(!led.headers.contains_key("authorization") && led.headers.contains_key("x-own"));
        let secret = [("X-Own".to_owned(), "se\ncret".to_owned())];
        assert!(!Question::new("http://a/", "GET", &secret, "").err().unwrap().contains("cret"));
    }
}
