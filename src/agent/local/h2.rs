//! Probes that speak HTTP/2: a ping (RFC 9113, 6.7), and the health protocol of gRPC
//! (`grpc.health.v1.Health/Check` of github.com/grpc/grpc, doc/health-checking.md).
//!
//! The two messages of that protocol have one field each, so they are written and read here by hand.

use std::future::Future;
use std::pin::pin;

use axum::http::{HeaderMap, Method, Request, header};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{Either, select};
use h2::{Ping, client};
use tokio::io::{AsyncRead, AsyncWrite};

/// A longer answer is none that the protocol has.
const MOST: usize = 4096;
/// The status that means that it serves.
const SERVING: u64 = 1;

/// Whether the other side answers a ping.
///
/// # Errors
/// Why not, in words.
pub async fn ping(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
    let (_requests, mut connection) = client::handshake(stream).await.map_err(|error| error.to_string())?;
    let mut pings = connection.ping_pong().ok_or("the connection has been pinged before")?;
    let pinged = async { pings.ping(Ping::opaque()).await.map(drop).map_err(|error| error.to_string()) };
    beside(connection, pinged).await
}

/// Whether a service, or with an empty name the server as a whole, says that it serves. `origin` is the address as the
/// server knows it, with the scheme.
///
/// # Errors
/// Why not, in words.
pub async fn serves(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    origin: &str,
    service: &str,
) -> Result<(), String> {
    let (requests, connection) = client::handshake(stream).await.map_err(|error| error.to_string())?;
    beside(connection, asked(requests, origin, service)).await
}

/// The connection must be driven while something is done with it.
async fn beside<T>(
    connection: impl Future<Output = Result<(), h2::Error>>,
    doing: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match select(pin!(doing), pin!(connection)).await {
        Either::Left((done, _)) => done,
        Either::Right((Ok(()), doing)) => {
            // What came before the end may still be there to be read.
            doing.await
        }
        Either::Right((Err(error), _)) => Err(error.to_string()),
    }
}

async fn asked(requests: client::SendRequest<Bytes>, origin: &str, service: &str) -> Result<(), String> {
    let text = |error: h2::Error| error.to_string();
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{origin}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "driftline health check")
        .body(())
        .map_err(|error| error.to_string())?;
    let mut requests = requests.ready().await.map_err(text)?;
    let (response, mut body) = requests.send_request(request, false).map_err(text)?;
    body.send_data(question(service), true).map_err(text)?;
    let response = response.await.map_err(text)?;
    if response.status() != 200 {
        return Err(format!("the server answers {}, and not as gRPC does", response.status()));
    }
    let (head, mut body) = response.into_parts();
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(text)?;
        // The window must open again; what is larger than an answer can be is not read on.
        let _ = body.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
        if message.len() > MOST {
            return Err("the answer is too long".to_owned());
        }
    }
    let trailers = body.trailers().await.map_err(text)?.unwrap_or_default();
    // A call that fails at once says so in its first headers.
    succeeded(if trailers.contains_key(STATUS) { &trailers } else { &head.headers })?;
    match status(&message)? {
        SERVING => Ok(()),
        _ => Err("gRPC application didn't report service healthy".to_owned()),
    }
}

const STATUS: &str = "grpc-status";

fn succeeded(headers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text(STATUS) {
        "0" => Ok(()),
        "5" => Err("the server does not know this service".to_owned()),
        "12" => Err("the server does not have the health protocol".to_owned()),
        "" => Err("the call ended without a status".to_owned()),
        code => Err(format!("the call failed with status {code}: {}", text("grpc-message"))),
    }
}

/// The request, as a message of gRPC: not compressed, its length, and field 1, a string.
fn question(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(0x0a);
        let mut left = service.len();
        while left >= 0x80 {
            field.put_u8((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        field.put_u8(left as u8);
        field.put_slice(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(field.len() as u32);
    message.put_slice(&field);
    message.freeze()
}

/// The status in an answer: field 1, a number; 0, which stands for "unknown", if it is not there.
fn status(message: &[u8]) -> Result<u64, String> {
    let bad = || "the answer is no answer of the health protocol".to_owned();
    let (head, mut fields) = message.split_at_checked(5).ok_or_else(bad)?;
    if head[0] != 0 || u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize != fields.len() {
        return Err(bad());
    }
    let mut status = 0;
    while !fields.is_empty() {
        let (key, rest) = number(fields).ok_or_else(bad)?;
        fields = rest;
        let skipped = match key & 7 {
            0 => {
                let (value, rest) = number(fields).ok_or_else(bad)?;
                if key >> 3 == 1 {
                    status = value;
                }
                fields = rest;
                0
            }
            1 => 8,
            2 => {
                let (length, rest) = number(fields).ok_or_else(bad)?;
                fields = rest;
                usize::try_from(length).map_err(|_| bad())?
            }
            5 => 4,
            _ => return Err(bad()),
        };
        fields = fields.get(skipped..).ok_or_else(bad)?;
    }
    Ok(status)
}

/// A number at the beginning, seven bits a byte, and what follows it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use axum::http::Response;
    use futures_util::future::join;
    use proptest::prelude::*;

    use super::*;

    fn answer(fields: &[u8]) -> Bytes {
        let mut message = BytesMut::new();
        message.put_u8(0);
        message.put_u32(fields.len() as u32);
        message.put_slice(fields);
        message.freeze()
    }

    /// Asks a server that answers with this message and this status; what it said, and what it was asked.
    async fn exchange(service: &str, message: Bytes, code: &str) -> (Result<(), String>, Bytes) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let server = async {
            let mut connection = h2::server::handshake(far).await.expect("a handshake");
            let mut heard = Bytes::new();
            while let Some(request) = connection.accept().await {
                let Ok((request, mut respond)) = request else { break };
                assert_eq!(request.uri(), "http://a:1/grpc.health.v1.Health/Check");
                assert_eq!(request.headers()[header::TE], "trailers");
                let (message, code) = (message.clone(), code.to_owned());
                heard = request.into_body().data().await.expect("a message").expect("whole");
                let mut body = respond.send_response(Response::new(()), false).expect("a head");
                body.send_data(message, false).expect("a body");
                let mut trailers = HeaderMap::new();
                trailers.insert(STATUS, code.parse().expect("a value"));
                body.send_trailers(trailers).expect("trailers");
            }
            heard
        };
        join(serves(near, "http://a:1", service), server).await
    }

    #[tokio::test]
    async fn a_server_says_how_its_services_are() {
        let (said, heard) = exchange("web", answer(&[0x08, 1]), "0").await;
        assert_eq!((said, &heard[..]), (Ok(()), &[0, 0, 0, 0, 5, 0x0a, 3, b'w', b'e', b'b'][..]));
        assert_eq!(&exchange("", answer(&[0x08, 1]), "0").await.1[..], [0; 5]);
        let said = async |message, code| exchange("web", message, code).await.0.unwrap_err();
        assert!(said(answer(&[0x08, 2]), "0").await.contains("didn't report service healthy"));
        assert!(said(answer(&[]), "0").await.contains("didn't report service healthy"));
        assert!(said(answer(&[0x08]), "0").await.contains("no answer of the health protocol"));
        assert!(said(answer(&[0x08, 1]), "5").await.contains("does not know this service"));
        assert!(said(answer(&[0x08, 1]), "12").await.contains("does not have the health protocol"));
        assert!(said(answer(&[0x08, 1]), "14").await.contains("status 14"));
        assert!(said(Bytes::from(vec![0; MOST + 1]), "0").await.contains("too long"));
    }

    #[tokio::test]
    async fn a_ping_is_answered_by_who_speaks_http_2_and_by_nobody_else() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let server = async {
            let mut connection = h2::server::handshake(far).await.expect("a handshake");
            while connection.accept().await.is_some() {}
        };
        assert_eq!(join(ping(near), server).await.0, Ok(()));
        let (near, far) = tokio::io::duplex(1 << 16);
        drop(far);
        assert!(ping(near).await.is_err());
    }

    #[test]
    fn fields_that_nobody_knows_are_passed_over() {
        let unknown = [0x12, 2, 7, 7, 0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x25, 1, 2, 3, 4, 0x08, 1];
        assert_eq!(status(&answer(&unknown)), Ok(1));
        assert!(status(&answer(&[0x13])).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = status(&bytes);
            let _ = status(&answer(&bytes));
        }

        #[test]
        fn a_name_of_any_length_is_written_so_that_it_can_be_read(name in "[a-z]{0,400}") {
            let message = question(&name);
            // To `status` the name is a field that it passes over, whole, or it would not understand the message.
            prop_assert_eq!(status(&message), Ok(0));
            prop_assert!(message.ends_with(name.as_bytes()));
        }
    }
}
