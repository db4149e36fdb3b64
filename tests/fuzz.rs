//! Whatever comes from outside: bytes that nobody would send, to everything that reads bytes.
//!
//! Each target has a corpus, most of it what fixtures keep for other tests, and changes it by a seed: bits, lengths, numbers at the
//! edges, parts twice, parts of one in another, and one part inside itself a thousand times. Checksums are made right
//! afterwards where there are any, or nothing would get past them. Decoders are called; a running agent is talked to.
//!
//! `DRIFTLINE_FUZZ_INPUTS=100000 DRIFTLINE_FUZZ_SEED=7 cargo test --release --test fuzz` goes on for longer, elsewhere. An input that
//! makes a decoder panic is written to `target/fuzz`; moved to `fixtures/fuzz/TARGET`, it is in the corpus from then on.

#![allow(clippy::disallowed_methods)]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use common::{ANY_PORTS, Node, eventually};
use driftline::agent::{archive, call};
use driftline::config::file::{self, Source};
use driftline::config::{Config, Place, duration};
use driftline::gossip::keyring::Ring;
use driftline::gossip::wire;
use driftline::raft::frame;
use driftline::state::acl::rules::Rules;
use driftline::state::snapshot;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

/// How many inputs a target gets.
fn inputs(usual: usize) -> usize {
    std::env::var("DRIFTLINE_FUZZ_INPUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn generator(target: &str) -> StdRng {
    let seed = std::env::var("DRIFTLINE_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    StdRng::seed_from_u64(xxh3_64(target.as_bytes()) ^ seed)
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The messages of a kind that a fixture of the wire keeps.
fn recorded(name: &str, kind: &str) -> Vec<Vec<u8>> {
    let text = String::from_utf8(fixture(name)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_kind = lines.filter(|line| line["kind"] == kind);
    of_kind.map(|line| from_hex(line["bytes"].as_str().unwrap())).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// What is at the edge of something in many a format.
const EDGES: [&[u8]; 16] = [
    b"0",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xf0\x9f\x92\xa5",
    b"\xc3",
    b"%00",
    b"..",
    b"\"",
    b"{",
    b"null",
    b"\n",
];

fn range(rng: &mut StdRng, len: usize) -> std::ops::Range<usize> {
    let from = rng.random_range(0..=len);
    let to = (from + rng.random_range(0..=16)).min(len);
    from..to
}

/// Another input, made of one of a corpus.
fn changed(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus.choose(rng).cloned().unwrap_or_default();
    for _ in 0..rng.random_range(1..=4) {
        let part = range(rng, bytes.len());
        match rng.random_range(0..9) {
            0 if !bytes.is_empty() => {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            1 if !bytes.is_empty() => {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            2 => drop(bytes.drain(part)),
            3 => bytes.truncate(part.start),
            4 => {
                let twice = bytes[part.clone()].to_vec();
                bytes.splice(part.start..part.start, twice);
            }
            5 => drop(bytes.splice(part, EDGES.choose(rng).unwrap_or(&EDGES[0]).iter().copied())),
            6 => {
                let other = corpus.choose(rng).cloned().unwrap_or_default();
                let theirs = range(rng, other.len());
                bytes.splice(part, other[theirs.start..].iter().copied());
            }
            7 if rng.random_range(0..20) == 0 => {
                let deep = bytes[part.clone()].repeat(1_000);
                bytes.splice(part, deep);
            }
            _ => {
                let mut noise = vec![0; rng.random_range(1..=8)];
                rng.fill_bytes(&mut noise);
                bytes.splice(part.start..part.start, noise);
            }
        }
    }
    bytes
}

/// Calls a decoder with everything that the seed makes of the corpus.
fn fuzz(target: &str, mut corpus: Vec<Vec<u8>>, decode: impl Fn(&[u8])) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz").join(target);
    for entry in fs::read_dir(kept).into_iter().flatten() {
        corpus.push(fs::read(entry.unwrap().path()).unwrap());
    }
    let mut rng = generator(target);
    let made = (0..inputs(2_000)).map(|_| changed(&corpus, &mut rng));
    for input in corpus.iter().cloned().chain(made.collect::<Vec<_>>()) {
        if catch_unwind(AssertUnwindSafe(|| decode(&input))).is_err() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            let path = folder.join(format!("{target}-{:016x}", xxh3_64(&input)));
            fs::create_dir_all(&folder).and_then(|()| fs::write(&path, &input)).unwrap();
            panic!("{target} panics: the input is in {}", path.display());
        }
    }
}

fn texts(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A decoder of text never sees what is none.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn datagrams() {
    let corpus = recorded("wire/gossip-v1.jsonl", "datagram");
    let cluster = u32::from_le_bytes(corpus[0][5..9].try_into().unwrap());
    fuzz("datagrams", corpus, |bytes| {
        for version in [wire::OLDEST, wire::NEWEST] {
            let bytes = resealed(bytes, version, cluster);
            if let Ok(datagram) = wire::decode_datagram(&bytes, cluster, wire::NEWEST) {
                for part in &datagram.parts {
                    assert!(!part.encode().is_empty());
                }
            }
        }
        let _ = wire::decode_datagram(bytes, cluster, wire::NEWEST);
    });
}

/// The datagram with a version, a cluster and a checksum that are right.
fn resealed(datagram: &[u8], version: u8, cluster: u32) -> Vec<u8> {
    let mut bytes = datagram.to_vec();
    bytes.resize(bytes.len().max(9), 0);
    bytes[0] = version;
    bytes[5..9].copy_from_slice(&cluster.to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    if version > wire::OLDEST {
        sum.update(&[version]);
    }
    sum.update(&bytes[5..]);
    bytes[1..5].copy_from_slice(&sum.finalize().to_le_bytes());
    bytes
}

#[test]
fn configurations() {
    for ending in ["toml", "json"] {
        let mut corpus = texts(&[
            r#"{"services":[{"name":"web","port":80,"checks":[{"http":"http://a/","interval":"1s"}]}],"acl":{"enabled":true}}"#,
            r#"{"watches":[{"type":"key","key":"a","args":["x"]}],"retry_join":["a:1"],"node_meta":{"a":"b"}}"#,
        ]);
        for name in ["broken", "full", "impossible-timing", "unknown-key", "wildcard", "wrong-type"] {
            corpus.push(fixture(&format!("configs/{name}.toml")));
        }
        corpus.push(fixture("configs/unknown-nested-key.json"));
        fuzz(&format!("configurations-{ending}"), corpus, |bytes| {
            let source = Source { name: format!("a.{ending}"), text: text(bytes) };
            let resolve = |text: &str, _| text.parse::<SocketAddr>().map_err(|error| error.to_string());
            if let Ok(merged) = file::merge(&Config::default(), &[source], &resolve) {
                let _ = merged.config.check();
            }
        });
    }
}

#[test]
fn small_texts() {
    let corpus = texts(&[
        "1h2m3.5s",
        "-1µs",
        "10.0.0.1:1",
        "[::1]:9",
        "consul-0.consul:8301",
        "9223372036854775807ns",
    ]);
    fuzz("small-texts", corpus, |bytes| {
        let text = text(bytes);
        let _ = duration::parse_duration(&text);
        if let Ok(place) = Place::parse(&text, 1) {
            assert_eq!(Place::parse(&place.to_string(), 2), Ok(place));
        }
        let _ = Ring::parse(&text);
    });
}

#[test]
fn rules() {
    let corpus = texts(&[
        r#"key_prefix "a/" { policy = "write" } service "web" { policy = "read" intentions = "deny" }"#,
        r#"{"key":{"a":{"policy":"deny"}},"operator":"read"}"#,
        "node_prefix \"\" {\n policy = \"read\"\n}\n# a word\nsession \"\" { policy = \"write\" } // another\n",
        r#"event_prefix "" { policy = "list" } acl = "write" keyring = "read" mesh = "deny""#,
    ]);
    fuzz("rules", corpus, |bytes| {
        let _ = Rules::parse(&text(bytes));
    });
}

#[test]
fn saved_states() {
    let state = fixture("snapshots/version-1.snapshot");
    let corpus = vec![archive::pack(&state).unwrap()];
    fuzz("archives", corpus, |bytes| drop(archive::unpack(bytes, 1 << 24)));
    fuzz("states", vec![state], |bytes| drop(snapshot::describe(bytes)));
}

#[test]
fn calls() {
    let corpus =
        recorded("wire/peer-v1.jsonl", "ask").into_iter().chain(recorded("wire/peer-v1.jsonl", "answer"));
    fuzz("calls", corpus.map(|bytes| bytes[9..].to_vec()).collect(), |bytes| {
        let _ = call::decode_call(bytes);
        let _ = call::decode_reply(bytes);
    });
}

/// Says something on a connection of its own, and hears the beginning of what comes back, if it comes soon.
fn say(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // It may hang up before all is said.
    let _ = stream.write_all(bytes);
    let mut heard = vec![0; 64];
    match stream.read(&mut heard) {
        Ok(len) => heard.truncate(len),
        Err(error) => {
            let fine = [
                ErrorKind::WouldBlock,
                ErrorKind::TimedOut,
                ErrorKind::ConnectionReset,
                ErrorKind::BrokenPipe,
            ];
            assert!(fine.contains(&error.kind()), "{error}");
            heard.clear();
        }
    }
    heard
}

/// Requests as the script of the HTTP tests has them, but for those that end the agent.
fn requests() -> Vec<Vec<u8>> {
    let script = String::from_utf8(fixture("scripts/http.script")).unwrap();
    let lines = script
        .lines()
        .filter(|line| ["GET ", "PUT ", "POST ", "DELETE "].iter().any(|verb| line.starts_with(verb)));
    lines.filter(|line| !line.contains("leave")).map(|line| line.as_bytes().to_vec()).collect()
}

/// A request from a line of the script, or from what has become of it.
fn request(line: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let line = text(line);
    let (head, body) = line.split_once(" <- ").unwrap_or((&line, ""));
    let (verb, path) = head.split_once(' ').unwrap_or(("GET", head));
    let quoted: String = path
        .bytes()
        .map(|byte| match byte {
            b'!'..=b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    let path = if rng.random_range(0..8) == 0 { path.to_owned() } else { quoted };
    let length = if rng.random_range(0..16) == 0 { rng.random() } else { body.len() as u64 };
    format!(
        "{verb} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[test]
fn a_running_agent() {
    let dns = ["--dns-port", "0"];
    let mut node = Node::start("a", &[&ANY_PORTS[..], &["--dev"], &dns].concat());
    eventually("a leader", || node.http().leader());
    let memory = |node: &Node| node.memory_kib();
    let before = memory(&node);
    let mut rng = generator("agent");

    let lines = requests();
    let mut answers = 0;
    for _ in 0..inputs(600) {
        let line = changed(&lines, &mut rng);
        let heard = say(node.at.http, &request(&line, &mut rng));
        answers += usize::from(heard.starts_with(b"HTTP/1.1 "));
        assert!(heard.is_empty() || heard.starts_with(b"HTTP/"), "{:?}", text(&heard));
    }
    assert!(answers > 0);

    let asks: Vec<Vec<u8>> = recorded("wire/peer-v1.jsonl", "ask");
    let bodies: Vec<Vec<u8>> = asks.iter().map(|bytes| bytes[9..].to_vec()).collect();
    for number in 0..inputs(200) {
        let framed = |version: u8, body: &[u8]| {
            let mut frame = frame::begin(version);
            frame.extend_from_slice(body);
            frame::seal(version, frame).map_or_else(|_| Vec::new(), |frame| frame.to_vec())
        };
        let bytes = match number % 3 {
            0 => changed(&asks, &mut rng),
            1 => framed(frame::OLDEST, &changed(&bodies, &mut rng)),
            _ => framed(frame::NEWEST, &changed(&bodies, &mut rng)),
        };
        say(node.at.rpc(), &bytes);
    }

    let streams = recorded("wire/gossip-v1.jsonl", "frame");
    for _ in 0..inputs(100) {
        say(node.at.gossip, &changed(&streams, &mut rng));
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagrams = recorded("wire/gossip-v1.jsonl", "datagram");
    let cluster = wire::cluster_number("dc1");
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06consul\x07service\x06consul\x00\x00\x01\x00\x01";
    for number in 0..inputs(2_000) {
        let bytes = changed(&datagrams, &mut rng);
        let bytes = if number % 4 == 0 { bytes } else { resealed(&bytes, 1 + (number % 2) as u8, cluster) };
        // Some are too large to be sent.
        let _ = socket.send_to(&bytes, node.at.gossip);
        let dns = changed(&[query.to_vec()], &mut rng);
        let _ = socket.send_to(&dns, node.at.dns.expect("DNS"));
        if number % 16 == 0 {
            say(node.at.dns.expect("DNS"), &[&(dns.len() as u16).to_be_bytes()[..], &dns].concat());
        }
    }

    assert!(!node.has_ended(), "it ended");
    assert!(!node.log().contains("panicked"), "it panicked");
    eventually("it still serves", || {
        (node.http().set("still", "here") && node.http().value("still").as_deref() == Some("here"))
            .then_some(())
    });
    let grown = memory(&node).saturating_sub(before);
    assert!(grown < 256 << 10, "it takes {grown} KiB more than before");
}
