//! The other end of the API: one request, one connection, one answer; or a [`Connection`] for many.
//!
//! The command line and every test speak through this. Its point is the error: a caller that retries a
//! write must know whether the server can have seen it, so "never sent" and "no telling" are apart.

use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::http::{HeaderValue, Method, Request, header};
use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::env::{AbortOnDrop, BoxStream, Env, Purpose};
use crate::secret::Secret;

/// An answer longer than this is given up on.
const MAX_BODY: usize = 1 << 30;

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Names (in small letters) and values, in the order of their arrival.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The first value of a header; `name` in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no complete answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No byte of the request left: it has certainly not been acted on, and may be sent elsewhere.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The request, or part of it, was sent: whether it was acted on is unknown.
    #[error("no complete answer: {0}")]
    Unknown(String),
}

/// Sends one request to the API at `addr` over a new connection and waits for the whole answer, at
/// most for `timeout`. `path_and_query` must be escaped already.
///
/// # Errors
/// See [`CallError`]. An HTTP error status is an answer, not an error.
pub async fn call(
    env: &Env,
    addr: SocketAddr,
    method: Method,
    path_and_query: &str,
    body: Bytes,
    timeout: Duration,
) -> Result<Response, CallError> {
    call_as(env, addr, &Secret::default(), method, path_and_query, body, timeout).await
}

/// The same, showing a token; none if it is empty.
///
/// # Errors
/// See [`call`].
pub async fn call_as(
    env: &Env,
    addr: SocketAddr,
    token: &Secret,
    method: Method,
    path_and_query: &str,
    body: Bytes,
    timeout: Duration,
) -> Result<Response, CallError> {
    let deadline = env.now() + timeout;
    let request = request(addr, token, method, path_and_query, body)?;
    let (mut sender, connection) = connect(env, addr, timeout).await?;
    // The connection is driven beside the exchange; how it ends, the exchange learns by itself.
    let connection = async {
        let _ = connection.await;
        pending::<()>().await;
    };
    let exchange = async {
        match select(pin!(exchange(&mut sender, request)), pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => Err(CallError::Unknown("the connection ended".to_owned())),
        }
    };
    let left = deadline.since(env.now());
    env.timeout(left, exchange).await.unwrap_or_else(|_| Err(silence(timeout)))
}

fn silence(timeout: Duration) -> CallError {
    CallError::Unknown(format!("nothing within {} ms", timeout.as_millis()))
}

type Sender = http1::SendRequest<Full<Bytes>>;

fn request(
    addr: SocketAddr,
    token: &Secret,
    method: Method,
    path_and_query: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, CallError> {
    let mut builder =
        Request::builder().method(method).uri(path_and_query).header(header::HOST, addr.to_string());
    if !token.is_empty() {
        let value = HeaderValue::try_from(token.expose());
        let mut value = value.map_err(|_| {
            CallError::NotSent("the token holds characters that no header can hold".to_owned())
        })?;
        value.set_sensitive(true);
        builder = builder.header("X-Consul-Token", value);
    }
    builder.body(Full::new(body)).map_err(|error| CallError::NotSent(error.to_string()))
}

async fn connect(
    env: &Env,
    addr: SocketAddr,
    timeout: Duration,
) -> Result<(Sender, http1::Connection<TokioIo<BoxStream>, Full<Bytes>>), CallError> {
    let stream = env
        .timeout(timeout, env.network().connect_for(Purpose::Api, addr))
        .await
        .map_err(|_| CallError::NotSent("the connection timed out".to_owned()))?
        .map_err(|error| not_connected(&error))?;
    let opened = http1::handshake(TokioIo::new(stream)).await;
    opened.map_err(|error| CallError::NotSent(error.to_string()))
}

/// One request and its whole answer, on a connection that somebody drives.
async fn exchange(sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<Response, CallError> {
    let response = sender.try_send_request(request).await.map_err(|mut error| {
        // hyper hands the request back only if it had not begun to write it.
        match error.take_message() {
            Some(_) => CallError::NotSent(describe(error.error())),
            None => CallError::Unknown(broken_off(error.error())),
        }
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|error| CallError::Unknown(describe(&*error)))?.to_bytes();
    let headers = head.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    Ok(Response { status: head.status.as_u16(), headers: headers.collect(), body })
}

/// A connection to the API at one address, made when it is first needed and again after it broke, on which one
/// request follows the other's answer.
pub struct Connection {
    env: Env,
    addr: SocketAddr,
    token: Secret,
    /// The task that moves the bytes ends with the sender.
    open: Option<(Sender, AbortOnDrop)>,
}

impl Connection {
    /// A connection to `addr`, not made yet.
    pub fn new(env: Env, addr: SocketAddr) -> Connection {
        Connection { env, addr, token: Secret::default(), open: None }
    }

    /// The same, showing a token with every request.
    pub fn showing(self, token: Secret) -> Connection {
        Connection { token, ..self }
    }

    /// Sends one request and waits for the whole answer, at most for `timeout`; `path_and_query` must be
    /// escaped already. A connection that the server had closed while it stood idle is made anew, as nothing was
    /// sent on it.
    ///
    /// # Errors
    /// See [`CallError`]; the connection is given up then. An HTTP error status is an answer, not an error.
    pub async fn call(
        &mut self,
        method: Method,
        path_and_query: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        let env = self.env.clone();
        let deadline = env.now() + timeout;
        if let Some((mut sender, driver)) = self.open.take() {
            let request = request(self.addr, &self.token, method.clone(), path_and_query, body.clone())?;
            let answer = env.timeout(timeout, exchange(&mut sender, request)).await;
            match answer.unwrap_or_else(|_| Err(silence(timeout))) {
                Err(CallError::NotSent(_)) => {}
                Ok(response) => {
                    self.open = Some((sender, driver));
                    return Ok(response);
                }
                unknown => return unknown,
            }
        }
        let request = request(self.addr, &self.token, method, path_and_query, body)?;
        let (mut sender, connection) = connect(&env, self.addr, deadline.since(env.now())).await?;
        // How it ends, the exchange learns by itself.
        let driver = env.spawn(async move { drop(connection.await) }).abort_on_drop();
        let answer = env.timeout(deadline.since(env.now()), exchange(&mut sender, request)).await;
        let answer = answer.unwrap_or_else(|_| Err(silence(timeout)));
        self.open = answer.is_ok().then_some((sender, driver));
        answer
    }
}

/// An answer whose body comes bit by bit.
pub struct Streaming {
    /// The HTTP status.
    pub status: u16,
    body: hyper::body::Incoming,
    _connection: AbortOnDrop,
}

impl Streaming {
    /// The next bytes of the body; nothing when it has ended, or broken off.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let frame = self.body.frame().await?.ok()?;
            if let Ok(bytes) = frame.into_data() {
                return Some(bytes);
            }
        }
    }
}

/// Begins to read an answer that may never end, showing a token if there is one. Its head must come within `timeout`.
///
/// # Errors
/// See [`CallError`].
pub async fn open(
    env: &Env,
    addr: SocketAddr,
    token: &Secret,
    path_and_query: &str,
    timeout: Duration,
) -> Result<Streaming, CallError> {
    let request = request(addr, token, Method::GET, path_and_query, Bytes::new())?;
    let begin = async {
        let connecting = env.network().connect_for(Purpose::Api, addr);
        let stream = connecting.await.map_err(|error| not_connected(&error))?;
        let opened = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(|error| CallError::NotSent(error.to_string()))?;
        let connection = env.spawn(async move { drop(connection.await) }).abort_on_drop();
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| CallError::Unknown(broken_off(&error)))?;
        let status = response.status().as_u16();
        Ok(Streaming { status, body: response.into_body(), _connection: connection })
    };
    env.timeout(timeout, begin)
        .await
        .unwrap_or_else(|_| Err(CallError::Unknown(format!("nothing within {} ms", timeout.as_millis()))))
}

/// Why there is no connection. TLS to a port that speaks plain HTTP is a mistake that only rustls' words tell of.
fn not_connected(error: &std::io::Error) -> CallError {
    let mut reason = error.to_string();
    if reason.contains("InvalidContentType") {
        reason.push_str("; that port speaks no TLS: use http://");
    }
    CallError::NotSent(reason)
}

/// Why an answer is none. An alert of TLS is what a port says that is not spoken to by TLS.
fn broken_off(error: &hyper::Error) -> String {
    let mut reason = describe(error);
    if error.is_parse() {
        reason.push_str("; is that a port that speaks TLS? Then use https://");
    }
    reason
}

/// An error with its causes: hyper's own texts say only at which step it failed.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::env_in_memory;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SOON: Duration = Duration::from_millis(200);

    /// One call to a server that reads a request, says `answer`, and closes or goes silent.
    async fn call_to(answer: &'static [u8], closes: bool) -> Result<Response, CallError> {
        let env = env_in_memory(1);
        let listener = env.network().listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr();
        let _serving = env
            .spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(answer).await.unwrap();
                if !closes {
                    pending::<()>().await;
                }
            })
            .abort_on_drop();
        call(&env, addr, Method::PUT, "/v1/kv/k", Bytes::from_static(b"v"), SOON).await
    }

    #[tokio::test]
    async fn a_complete_answer_is_an_answer_whatever_its_status() {
        let answer =
            call_to(b"HTTP/1.1 500 No\r\nX-Some: Thing\r\nContent-Length: 3\r\n\r\nsad", false).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (500, "sad"));
        assert_eq!(answer.header("x-some"), Some("Thing"));
    }

    #[tokio::test]
    async fn without_a_complete_answer_the_outcome_is_unknown() {
        let cases: [(&[u8], bool); 5] = [
            (b"", true),
            (b"", false),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntrue", true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntrue", false),
            (b"garbage\r\n\r\n", true),
        ];
        for (answer, closes) in cases {
            let called = call_to(answer, closes).await;
            assert!(matches!(called, Err(CallError::Unknown(_))), "{answer:?}, {closes}: {called:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_made_anew_when_the_server_has_closed_it() {
        let env = env_in_memory(1);
        let listener = env.network().listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr();
        // Two requests a connection; each answer says which of which.
        let _serving = env
            .spawn(async move {
                for connection in 0.. {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    for number in 0..2 {
                        let _ = stream.read(&mut [0; 1024]).await.unwrap();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{connection}/{number}");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            })
            .abort_on_drop();
        let mut connection = Connection::new(env.clone(), addr);
        let mut answers = Vec::new();
        for _ in 0..4 {
            let answer = connection.call(Method::GET, "/", Bytes::new(), Duration::from_secs(20)).await;
            answers.push(answer.unwrap().text());
            if answers.len() == 2 {
                // The close is there before the next request is: nothing may be lost to it.
                let (sender, _) = connection.open.as_mut().unwrap();
                while sender.ready().await.is_ok() {
                    tokio::task::yield_now().await;
                }
            }
        }
        assert_eq!(answers, ["0/0", "0/1", "1/0", "1/1"]);
    }

    #[tokio::test]
    async fn what_never_left_is_not_sent() {
        let env = env_in_memory(1);
        let listener = env.network().listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr();
        let bad_path = call(&env, addr, Method::GET, "no path", Bytes::new(), SOON).await;
        assert!(matches!(bad_path, Err(CallError::NotSent(_))), "{bad_path:?}");
        drop(listener);
        let nobody = call(&env, addr, Method::GET, "/", Bytes::new(), SOON).await;
        assert!(matches!(nobody, Err(CallError::NotSent(_))), "{nobody:?}");
    }
}
