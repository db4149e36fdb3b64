//! A whole server, alone in its cluster, that is sent what others bend: through its own sockets, router and loops.
//!
//! After every input it must be there: no task of it has panicked; and at the end it must still write and read.

use std::net::SocketAddr;
use std::time::Duration;

use driftline::config::{Bootstrap, Config};
use driftline::env::real::env_in_memory;
use driftline::gossip::wire::cluster_number;
use driftline::http::client;
use driftline::node::{Ending, Extension, Listening, Node};
use hyper::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::{Builder, Runtime};

use super::harness::{Price, Target, no_task_panicked, node_memory_is_bounded, of_a_node};
use super::{datagrams, frames, mend_datagram, mend_frame, mend_stream, streams};

/// An answer that takes longer is none that an input needs: a watch that nothing ends, say.
const WAIT: Duration = Duration::from_millis(500);
/// How long the server may take for what it must be able to do.
const PATIENCE: Duration = Duration::from_secs(30);
/// What happens on this side of the sockets is small.
const PRICE: Price = Price { always: 64 << 20, each: 1_000 };

struct Live {
    runtime: Runtime,
    at: Listening,
    node: Option<Node>,
}

impl Live {
    fn start() -> Live {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(of_a_node)
            .enable_all()
            .build()
            .unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config {
            server: true,
            http_addr: any,
            rpc_addr: any,
            gossip_addr: any,
            bootstrap: Bootstrap::Alone,
            ..Config::default()
        };
        config.dns.addr = Some(any);
        config.acl.enabled = true;
        config.acl.default_policy = driftline::config::DefaultPolicy::Allow;
        config.acl.tokens.initial_management = serde_json::from_value("root".into()).unwrap();
        config.acl.tokens.default = serde_json::from_value("root".into()).unwrap();
        let env = env_in_memory(11);
        let node = runtime.block_on(async { Node::start(env, config, Extension::default()).await.unwrap() });
        let live = Live { runtime, at: node.listening(), node: Some(node) };
        live.works();
        live
    }

    /// Writes and reads.
    fn works(&self) {
        self.runtime.block_on(async {
            let env = env_in_memory(12);
            let call = |method, path: &'static str, body: &'static [u8]| {
                client::call(&env, self.at.http, method, path, body.into(), PATIENCE)
            };
            let until = tokio::time::Instant::now() + PATIENCE;
            loop {
                let put = call(Method::PUT, "/v1/kv/fuzz?token=root", b"here").await.unwrap();
                if put.status == 200 && put.text() == "true" {
                    break;
                }
                assert!(
                    tokio::time::Instant::now() < until,
                    "it does not write: {} {}",
                    put.status,
                    put.text()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let got = call(Method::GET, "/v1/kv/fuzz?raw&token=root", b"").await.unwrap();
            assert_eq!(got.text(), "here");
        });
        no_task_panicked();
    }

    /// What comes back over a connection of its own.
    fn tell(&self, addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let mut stream = TcpStream::connect(addr).await.expect("it listens");
            let (mut read, mut write) = stream.split();
            let mut answer = Vec::new();
            let exchange = async {
                // Who is sent nonsense may close at any time.
                let _ = write.write_all(bytes).await;
                let _ = write.shutdown().await;
                let _ = (&mut read).take(1 << 20).read_to_end(&mut answer).await;
            };
            let _ = tokio::time::timeout(WAIT, exchange).await;
            answer
        })
    }

    fn send(&self, addr: SocketAddr, bytes: &[u8]) {
        self.runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // One that is longer than a datagram can be is not sent.
            let _ = socket.send_to(bytes, addr).await;
        });
    }

    fn end(mut self) {
        self.works();
        let node = self.node.take().unwrap();
        self.runtime.block_on(node.run(async { Ending::Stop })).unwrap();
        no_task_panicked();
        node_memory_is_bounded();
    }
}

/// A request as a file shows it, with lines that end as files' do. Its length is said if it does not say one itself.
fn raw(input: &[u8]) -> Vec<u8> {
    let end = input.windows(2).position(|two| two == b"\n\n");
    let (head, body) = match end {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, &b""[..]),
    };
    let mut bytes = Vec::new();
    for byte in head {
        if *byte == b'\n' {
            bytes.push(b'\r');
        }
        bytes.push(*byte);
    }
    if !head.windows(14).any(|name| name.eq_ignore_ascii_case(b"content-length")) {
        bytes.extend_from_slice(format!("\r\nContent-Length: {}", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// The script of the HTTP contract as requests, but for what would end the server or make it call others.
fn requests() -> Vec<Vec<u8>> {
    let lines = include_str!("../../fixtures/scripts/http.script")
        .lines()
        .chain(include_str!("http.requests").lines());
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines =
        lines.filter(|line| !["leave", "join", "index=", "bytes:"].iter().any(|word| line.contains(word)));
    let requests = lines.map(|line| {
        let (request, body) = line.split_once(" <- ").unwrap_or((line, ""));
        format!("{request} HTTP/1.1\nHost: fuzz\n\n{body}").into_bytes()
    });
    let mut requests: Vec<Vec<u8>> = requests.collect();
    for lie in ["0", "3", "18446744073709551616", "99999999", "-1", "4\nTransfer-Encoding: chunked"] {
        requests.push(
            format!("PUT /v1/kv/a HTTP/1.1\nHost: fuzz\nContent-Length: {lie}\n\n4\r\nbody\r\n").into(),
        );
    }
    let chunked = "PUT /v1/kv/a HTTP/1.1\nHost: fuzz\nContent-Length:\nTransfer-Encoding: chunked\n\n4\r\nbody\r\n0\r\n\r\n";
    requests.push(chunked.into());
    requests
}

#[test]
fn http() {
    let live = Live::start();
    let run = |input: &[u8]| {
        // An operator may end a server, and may make it call others: neither is a finding.
        let ends = [&b"leave"[..], b"join", b"index", b"/raft/"];
        if ends.iter().any(|word| input.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))) {
            return;
        }
        let answer = live.tell(live.at.http, &raw(input));
        no_task_panicked();
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
            assert!(answer.is_empty(), "half a head: {}", String::from_utf8_lossy(&answer));
            return;
        };
        let head = String::from_utf8(answer[..end].to_vec()).expect("a head in ASCII");
        assert!(head.starts_with("HTTP/1."), "{head}");
        // Of several requests in a row, or of a HEAD, the rest is another matter.
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let body = &answer[end + 4..];
        if length == Some(body.len()) && !body.is_empty() && head.contains("content-type: application/json") {
            serde_json::from_slice::<Value>(body).expect("JSON where JSON is promised");
        }
    };
    let mend: fn(&mut Vec<u8>) = |_| {};
    Target { name: "http", seeds: requests(), run: &run, mend, held: PRICE, asked: PRICE, inputs: 1_000 }
        .fuzz();
    live.end();
}

#[test]
fn dns() {
    let live = Live::start();
    let at = live.at.dns.unwrap();
    let question = |name: &str, kind: u8, more: &[u8]| {
        let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!more.is_empty())];
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.extend_from_slice(&[0, 0, kind, 0, 1]);
        bytes.extend_from_slice(more);
        bytes
    };
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let seeds = vec![
        question("node.node.consul", 1, &[]),
        question("consul.service.consul", 33, &opt),
        question("_consul._tcp.service.dc1.consul", 33, &[]),
        question("1.0.0.127.in-addr.arpa", 12, &[]),
        question("abc.query.consul", 1, &opt),
        question("7f000001.addr.consul", 255, &[]),
        question("consul", 6, &opt),
    ];
    let run = |input: &[u8]| {
        let input = &input[..input.len().min(0xffff)];
        live.send(at, input);
        let mut framed = (input.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(input);
        let answer = live.tell(at, &framed);
        no_task_panicked();
        if let Some((length, message)) = answer.split_first_chunk::<2>() {
            assert_eq!(usize::from(u16::from_be_bytes(*length)), message.len(), "one answer");
            assert_eq!(message[..2], input[..2], "to this question");
        }
    };
    let mend: fn(&mut Vec<u8>) = |_| {};
    Target { name: "dns", seeds, run: &run, mend, held: PRICE, asked: PRICE, inputs: 800 }.fuzz();
    live.end();
}

/// Foca's packets and the parts beside them, from whoever knows the cluster's name.
#[test]
fn member() {
    let live = Live::start();
    let mend = |bytes: &mut Vec<u8>| mend_datagram(bytes, cluster_number("dc1"));
    let number = std::cell::Cell::new(0);
    let run = |input: &[u8]| {
        live.send(live.at.gossip, input);
        number.set(number.get() + 1);
        if number.get() % 8 == 0 {
            let mut stream = input.to_vec();
            mend_stream(&mut stream, cluster_number("dc1"));
            live.tell(live.at.gossip, &stream);
        }
        no_task_panicked();
    };
    let mut seeds: Vec<Vec<u8>> = datagrams().into_iter().chain(streams()).collect();
    seeds.iter_mut().for_each(mend);
    Target { name: "member", seeds, run: &run, mend, held: PRICE, asked: PRICE, inputs: 2_000 }.fuzz();
    live.end();
}

#[test]
fn peer() {
    let live = Live::start();
    let at = live.at.rpc.unwrap();
    let run = |input: &[u8]| {
        live.tell(at, input);
        no_task_panicked();
    };
    let mend = |bytes: &mut Vec<u8>| mend_frame(bytes);
    Target { name: "peer", seeds: frames(), run: &run, mend, held: PRICE, asked: PRICE, inputs: 400 }.fuzz();
    live.end();
}
