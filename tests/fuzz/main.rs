//! What comes from outside never panics, hangs, or takes memory that it does not pay for; and what was written is read back.
//!
//! One test for each reader of outside bytes, and some for a whole node that is sent them (`live`). Each runs its seeds (the
//! fixtures, what encoders write, and all of `fixtures/fuzz/NAME`), then a fixed number of bent ones, the same every time. By
//! hand, for so many minutes each and with seeds of the moment:
//!
//! ```text
//! DRIFTLINE_FUZZ=10 nice cargo test --test fuzz -- --test-threads 1 --nocapture
//! ```
//!
//! A bad input is cut down and kept in `fixtures/fuzz/NAME`, where it is run first ever after.

// A run by hand lasts for minutes on the wall, and keeps what it found.
#![allow(clippy::disallowed_methods)]

mod harness;
mod live;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use driftline::agent::call::{self, Call, Forwarded};
use driftline::agent::local::{define, shelf::Shelf};
use driftline::agent::{archive, meta::Meta};
use driftline::config::duration::parse_duration;
use driftline::config::{Config, OnDamage, Place, file};
use driftline::env::real::tls::{Loaded, Options};
use driftline::env::real::{env_in_memory, env_on};
use driftline::env::{Disk, Env, MemoryDisk};
use driftline::gossip::keyring::Ring;
use driftline::gossip::pushpull::State as Told;
use driftline::gossip::seal::{Begun, Encryption, NO_CONTEXT, Purpose, Sealer, begin};
use driftline::gossip::wire::{self, DatagramBuilder, Part, decode_datagram, read_frame, write_frame};
use driftline::raft::frame::{self, Codec};
use driftline::raft::rpc::{self, Answer, Ask};
use driftline::raft::{OpenError, Store, StoreOptions};
use driftline::secret::Secret;
use driftline::state::acl::rules::Rules;
use driftline::state::{Command, KvCommand, Request, RequestId, State, snapshot};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::codec::Decoder;
use xxhash_rust::xxh3::xxh3_64;

use harness::{ASKED, HELD, Price, Target};

/// The cluster's number in the recorded gossip.
const CLUSTER: u32 = 7;

fn as_it_is(_: &mut Vec<u8>) {}

/// The bytes of a line of `fixtures/wire`.
fn recorded(lines: &str, kind: &str) -> Vec<Vec<u8>> {
    let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let bytes = lines.filter(|line| line["kind"] == kind).map(|line| {
        let hex = line["bytes"].as_str().unwrap();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    });
    bytes.collect()
}

const GOSSIP: &str = include_str!("../../fixtures/wire/gossip-v1.jsonl");
const PEERS: &str = include_str!("../../fixtures/wire/peer-v1.jsonl");

fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

fn sealer(keys: &str) -> Sealer {
    let encryption = Encryption { keys: keys.to_owned(), ..Encryption::default() };
    block_on(Sealer::start(&env_in_memory(7), &encryption, 1, 1)).unwrap()
}

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQ==";

// ---- gossip ----

pub(crate) fn mend_datagram(bytes: &mut [u8], cluster: u32) {
    if bytes.len() < 9 {
        return;
    }
    bytes[5..9].copy_from_slice(&cluster.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    if bytes[0] > wire::OLDEST {
        crc.update(&bytes[..1]);
    }
    crc.update(&bytes[5..]);
    bytes[1..5].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// What version 1 sent, and the same in version 2.
pub(crate) fn datagrams() -> Vec<Vec<u8>> {
    let mut all = recorded(GOSSIP, "datagram");
    for bytes in all.clone() {
        let read = decode_datagram(&bytes, CLUSTER, wire::NEWEST).unwrap();
        let mut newer = DatagramBuilder::new(wire::NEWEST, wire::NEWEST, CLUSTER, &read.sender, read.swim);
        assert!(read.parts.iter().all(|part| newer.push(&part.encode())));
        all.push(newer.finish());
    }
    all
}

#[test]
fn gossip_datagrams() {
    let (plain, sealed) = (sealer(""), sealer(KEY));
    let run = |input: &[u8]| {
        assert!(sealed.open_datagram(CLUSTER, input).is_err(), "nobody has the key");
        if input.len() + sealed.overhead() <= wire::MAX_DATAGRAM {
            let mut closed = sealed.datagram(CLUSTER, input.to_vec());
            assert_eq!(sealed.open_datagram(CLUSTER, &closed).unwrap(), input);
            let at = input.len() * 7 % closed.len();
            closed[at] ^= 1;
            assert!(sealed.open_datagram(CLUSTER, &closed).is_err(), "byte {at} is another");
        }
        for newest in [wire::OLDEST, wire::NEWEST] {
            let Ok(text) = plain.open_datagram(CLUSTER, input) else { return };
            let Ok(read) = decode_datagram(&text, CLUSTER, newest) else { continue };
            if read.swim.len() > wire::MAX_SWIM {
                continue;
            }
            let mut again = DatagramBuilder::new(input[0], input[0], CLUSTER, &read.sender, read.swim);
            let encoded: Vec<_> = read.parts.iter().map(Part::encode).collect();
            if !encoded.iter().all(|part| again.push(part)) {
                continue;
            }
            let again = again.finish();
            let reread = decode_datagram(&again, CLUSTER, newest).unwrap();
            assert_eq!((&reread.sender, reread.swim), (&read.sender, read.swim));
            assert_eq!(reread.parts.iter().map(Part::encode).collect::<Vec<_>>(), encoded);
        }
    };
    let mend = |bytes: &mut Vec<u8>| mend_datagram(bytes, CLUSTER);
    let (name, seeds) = ("gossip_datagrams", datagrams());
    Target { name, seeds, run: &run, mend, held: HELD, asked: ASKED, inputs: 4_000 }.fuzz();
}

pub(crate) fn mend_stream(bytes: &mut [u8], cluster: u32) {
    let head = if bytes.first().is_some_and(|version| *version > wire::OLDEST) { 17 } else { 13 };
    if bytes.len() < head {
        return;
    }
    let body = bytes.len() - head;
    bytes[1..5].copy_from_slice(&cluster.to_le_bytes());
    bytes[5..9].copy_from_slice(&(body as u32).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&cluster.to_le_bytes());
    crc.update(&bytes[head..]);
    bytes[9..13].copy_from_slice(&crc.finalize().to_le_bytes());
    if head == 17 {
        let crc = crc32fast::hash(&bytes[..13]);
        bytes[13..17].copy_from_slice(&crc.to_le_bytes());
    }
}

pub(crate) fn streams() -> Vec<Vec<u8>> {
    let mut all = recorded(GOSSIP, "frame");
    for bytes in all.clone() {
        let (_, body) = block_on(read_frame(&mut &bytes[..], wire::NEWEST, CLUSTER)).unwrap();
        let mut newer = Vec::new();
        block_on(write_frame(&mut newer, wire::NEWEST, CLUSTER, &body)).unwrap();
        all.push(newer);
    }
    let sealed = sealer(KEY);
    let mut closed = Vec::new();
    block_on(sealed.write(&mut closed, Purpose::Question, CLUSTER, NO_CONTEXT, &all[0])).unwrap();
    all.push(closed);
    all
}

#[test]
fn gossip_streams() {
    let sealed = sealer(KEY);
    let run = |input: &[u8]| {
        block_on(async {
            let mut rest = input;
            if let Ok(Begun::Sealed(purpose)) = begin(&mut rest).await {
                let _ = sealed.read(&mut rest, purpose, CLUSTER, NO_CONTEXT).await;
            }
            let mut closed = Vec::new();
            sealed.write(&mut closed, Purpose::Answer, CLUSTER, [3; 12], input).await.unwrap();
            let (text, _) = sealed.read(&mut &closed[2..], Purpose::Answer, CLUSTER, [3; 12]).await.unwrap();
            assert_eq!(text, input);
            let at = 2 + input.len() * 7 % (closed.len() - 2);
            closed[at] ^= 1;
            let bent = sealed.read(&mut &closed[2..], Purpose::Answer, CLUSTER, [3; 12]).await;
            assert!(bent.is_err(), "byte {at} is another");
            for newest in [wire::OLDEST, wire::NEWEST] {
                let Ok((version, body)) = read_frame(&mut &input[..], newest, CLUSTER).await else {
                    continue;
                };
                let mut again = Vec::new();
                write_frame(&mut again, version, CLUSTER, &body).await.unwrap();
                assert_eq!(again, input[..again.len()]);
                let Ok(told) = Told::decode(&body) else { continue };
                assert_eq!(Told::decode(&told.encode()).unwrap(), told);
            }
        });
    };
    let mend = |bytes: &mut Vec<u8>| mend_stream(bytes, CLUSTER);
    let (name, seeds) = ("gossip_streams", streams());
    Target { name, seeds, run: &run, mend, held: HELD, asked: ASKED, inputs: 2_000 }.fuzz();
}

#[test]
fn keyring() {
    let run = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        if let Ok(Some(ring)) = Ring::at_start("", Some(input)) {
            let again = Ring::at_start("", Some(&ring.write(""))).unwrap().unwrap();
            assert_eq!(again.keys(), ring.keys());
        }
        if let Ok(Some(ring)) = Ring::parse(&text) {
            let again = Ring::at_start(&text, Some(&ring.write(&text))).unwrap().unwrap();
            assert_eq!(again.keys(), ring.keys());
        }
    };
    let ring = Ring::parse("AQEBAQEBAQEBAQEBAQEBAQ== AgICAgICAgICAgICAgICAgICAgICAgIC").unwrap().unwrap();
    let seeds = vec![ring.write(KEY), KEY.into(), format!("{KEY}, {KEY}\n").into()];
    Target { name: "keyring", seeds, run: &run, mend: as_it_is, held: HELD, asked: ASKED, inputs: 4_000 }
        .fuzz();
}

// ---- servers among themselves, and their clients ----

pub(crate) fn mend_frame(bytes: &mut [u8]) {
    let newer = bytes.first() == Some(&0xd2);
    let head = if newer { 13 } else { 9 };
    if bytes.len() < head {
        return;
    }
    let crc = crc32fast::hash(&bytes[head..]).to_le_bytes();
    bytes[5..9].copy_from_slice(&crc);
    if newer {
        let length = (bytes.len() - head) as u32;
        bytes[1..5].copy_from_slice(&length.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..9]);
        bytes[9..13].copy_from_slice(&crc.to_le_bytes());
    } else {
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4] = frame::OLDEST;
    }
}

/// What version 1 sent, and the same in version 2.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = ["ask", "answer"].iter().flat_map(|kind| recorded(PEERS, kind)).collect();
    for bytes in all.clone() {
        let mut newer = frame::begin(frame::NEWEST);
        newer.extend_from_slice(&bytes[9..]);
        all.push(frame::seal(frame::NEWEST, newer).unwrap().to_vec());
    }
    all
}

/// What was read, written and read again is the same.
fn comes_back<T: Serialize + DeserializeOwned>(frame: &frame::Frame) {
    let Ok((envelope, _)) = rpc::decode::<T>(frame) else { return };
    let again = rpc::encode(frame.version, &envelope, None).unwrap();
    let again = Codec { newest: frame.version }.decode(&mut BytesMut::from(&again[..])).unwrap().unwrap();
    let (reread, _) = rpc::decode::<T>(&again).unwrap();
    assert_eq!(postcard::to_stdvec(&reread).unwrap(), postcard::to_stdvec(&envelope).unwrap());
}

#[test]
fn peer_frames() {
    let run = |input: &[u8]| {
        for newest in [frame::OLDEST, frame::NEWEST] {
            let mut buffer = BytesMut::from(input);
            while let Ok(Some(frame)) = (Codec { newest }).decode(&mut buffer) {
                comes_back::<Ask>(&frame);
                comes_back::<Answer>(&frame);
            }
        }
    };
    let mend = |bytes: &mut Vec<u8>| mend_frame(bytes);
    let (name, seeds) = ("peer_frames", frames());
    Target { name, seeds, run: &run, mend, held: HELD, asked: ASKED, inputs: 6_000 }.fuzz();
}

fn request(number: u64, command: Command) -> Request {
    Request { id: RequestId { origin: 5, number }, done_below: 0, command }
}

fn set(key: &str, value: &[u8]) -> Command {
    Command::Kv(KvCommand::Set { key: key.to_owned(), value: Arc::from(value), flags: 1, cas: None })
}

#[test]
fn agent_calls() {
    let run = |input: &[u8]| {
        if let Ok((token, call)) = call::decode_call(input) {
            let sent = call::encode_call(&token, &call);
            let (token_again, again) = call::decode_call(&sent).unwrap();
            assert_eq!(call::encode_call(&token_again, &again), sent);
        }
        if let Ok(reply) = call::decode_reply(input) {
            let sent = call::encode_reply(&reply);
            assert_eq!(call::encode_reply(&call::decode_reply(&sent).unwrap()), sent);
        }
        if let Some(meta) = Meta::decode(input)
            && let Ok(sent) = meta.encode()
        {
            assert_eq!(Meta::decode(&sent), Some(meta));
        }
    };
    let write = |command| Forwarded {
        hold_ms: 7,
        id: Some((RequestId { origin: 1, number: 2 }, 1)),
        call: Call::Write(command),
    };
    let mut seeds = vec![
        call::encode_call(&Secret::default(), &write(Command::Noop)).to_vec(),
        call::encode_call(&serde_json::from_value("t".into()).unwrap(), &write(set("a/b", b"value")))
            .to_vec(),
    ];
    // Every kind of call, and of reply.
    let version = seeds[0][0];
    seeds.extend((0..32).map(|kind| vec![version, 7, 0, kind, 0, 0, 0, 0, 0, 0]));
    seeds.extend((0..32).map(|kind| vec![version, 0, kind, 0, 0, 0, 0, 0, 0, 0]));
    Target { name: "agent_calls", seeds, run: &run, mend: as_it_is, held: HELD, asked: ASKED, inputs: 8_000 }
        .fuzz();
}

// ---- the state ----

/// Whatever commands are in the log, applying them has an outcome, and the state can be written and read.
#[test]
fn commands() {
    let run = |input: &[u8]| {
        let (mut state, mut rest) = (State::default(), input);
        for index in 1..50 {
            let Ok((request, after)) = postcard::take_from_bytes::<Request>(rest) else { break };
            state.apply(index, &request);
            rest = after;
        }
        let read = State::default().restored(&state.to_snapshot()).unwrap();
        assert_eq!(read, state);
        assert_eq!(read.digest(), state.digest());
    };
    let encoded = |commands: &[Command]| -> Vec<u8> {
        let requests = (1..).zip(commands).map(|(number, command)| request(number, command.clone()));
        requests.flat_map(|request| postcard::to_stdvec(&request).unwrap()).collect()
    };
    let mut seeds = vec![encoded(&[set("a", b"1"), set("a/b", b"2"), Command::Noop, set("a", b"")])];
    // Every kind of command with every kind below it, of small values.
    for kind in 0..11 {
        for below in 0..8 {
            let mut bytes = vec![5, 1, 0, kind, below, 1, b'a', 1, b'b', 1, b'c', 1, b'd'];
            bytes.extend([0; 40]);
            seeds.push(bytes);
        }
    }
    let held = Price { always: 4 << 20, each: 2_000 };
    let asked = Price { always: 64 << 20, each: 100_000 };
    Target { name: "commands", seeds, run: &run, mend: as_it_is, held, asked, inputs: 6_000 }.fuzz();
}

fn states() -> Vec<Vec<u8>> {
    let version_1 = include_bytes!("../../fixtures/snapshots/version-1.snapshot");
    let mut state = State::default().restored(version_1).unwrap();
    let older = state.to_snapshot();
    state.apply(9, &request(1, set("k", b"value")));
    vec![version_1.to_vec(), older, state.to_snapshot(), State::default().to_snapshot()]
}

#[test]
fn snapshots() {
    let run = |input: &[u8]| {
        let _ = snapshot::describe(input);
        let Ok(state) = State::default().restored(input) else { return };
        let read = State::default().restored(&state.to_snapshot()).unwrap();
        assert_eq!(read, state);
        assert_eq!(read.digest(), state.digest());
    };
    let mend = |bytes: &mut Vec<u8>| {
        if let Some(end) = bytes.len().checked_sub(8) {
            let sum = xxh3_64(&bytes[..end]).to_le_bytes();
            bytes[end..].copy_from_slice(&sum);
        }
    };
    let (name, seeds, held) = ("snapshots", states(), Price { always: 8 << 20, each: 500 });
    Target { name, seeds, run: &run, mend, held, asked: ASKED, inputs: 4_000 }.fuzz();
}

#[test]
fn archives() {
    const LIMIT: u64 = 1 << 20;
    let zipped = |tar: &[u8]| {
        let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
        zip.write_all(tar).unwrap();
        zip.finish().unwrap()
    };
    let run = |input: &[u8]| {
        // As it came, and as what was in it: few bends of a compressed file reach the tar.
        for file in [input.to_vec(), zipped(input)] {
            let Ok(contents) = archive::unpack(&file, LIMIT) else { continue };
            let again = archive::unpack(&archive::pack(&contents.state).unwrap(), LIMIT).unwrap();
            assert_eq!(again.state, contents.state);
        }
    };
    let mut seeds: Vec<Vec<u8>> = states().iter().map(|state| archive::pack(state).unwrap()).collect();
    for file in seeds.clone() {
        let mut tar = Vec::new();
        GzDecoder::new(&file[..]).read_to_end(&mut tar).unwrap();
        seeds.push(tar);
    }
    // A thousandfold is what gzip can hide: the limit is on what is unfolded.
    seeds.push(zipped(&vec![0; 8 << 20]));
    let price = Price { always: 16 << 20, each: 200 };
    Target { name: "archives", seeds, run: &run, mend: as_it_is, held: price, asked: price, inputs: 800 }
        .fuzz();
}

// ---- the disk ----

/// An input is damage: each five bytes are a file, a place in it (two bytes), what is done, and with what.
#[test]
fn stores() {
    const OPTIONS: StoreOptions =
        StoreOptions { segment_bytes: 4_096, cache_bytes: 4_096, on_damage: OnDamage::Stop };
    let copy = |from: &dyn Disk| {
        let disk = MemoryDisk::default();
        for name in from.list().unwrap() {
            let file = from.open(&name).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(0, &mut bytes).unwrap();
            disk.open(&name).unwrap().write_at(0, &bytes).unwrap();
        }
        disk
    };
    /// Opens it, and gives what it is: who, in which cluster, and all there is besides.
    fn opened(disk: &MemoryDisk, entropy: u64) -> Result<(u64, Option<u64>, Option<u64>), OpenError> {
        let env: Env = env_on(Arc::new(disk.clone()), entropy);
        block_on(env.scope(async {
            let store = Store::open(&env, OPTIONS).await?;
            Ok((store.identity().node_id, store.cluster(), store.promise().map(|promise| promise.cluster)))
        }))
    }
    let whole = MemoryDisk::default();
    let env: Env = env_on(Arc::new(whole.clone()), 1);
    block_on(env.scope(async {
        let store = Store::open(&env, OPTIONS).await.unwrap();
        store.adopt_cluster(77).await.unwrap();
    }));
    let segment = whole.list().unwrap().into_iter().find(|name| name.starts_with("log-")).unwrap();
    let log = include_bytes!("../../fixtures/logs/whole.segment");
    whole.open(&segment).unwrap().write_at(0, log).unwrap();
    let what = opened(&copy(&whole), 2).unwrap();
    assert_eq!(what.1, Some(77));
    let run = |input: &[u8]| {
        let disk = copy(&whole);
        let names = disk.list().unwrap();
        for damage in input.chunks_exact(5) {
            let file = disk.open(&names[usize::from(damage[0]) % names.len()]).unwrap();
            let length = file.len().unwrap();
            let at = u64::from(u16::from_le_bytes([damage[1], damage[2]])) % length.max(1);
            let mut byte = [0];
            match damage[3] % 4 {
                0 => file.set_len(at).unwrap(),
                _ if length == 0 => {}
                1 => file.write_at(at, &[damage[4]]).unwrap(),
                2 => file.write_at(length, &[damage[4]; 16]).unwrap(),
                _ => {
                    file.read_at(at, &mut byte).unwrap();
                    file.write_at(at, &[byte[0] ^ 1 << (damage[4] % 8)]).unwrap();
                }
            }
        }
        // Refused in words, or exactly what was there.
        match opened(&disk, 3) {
            Ok(found) => assert_eq!(found, what),
            Err(OpenError::Damaged { reason, .. }) => assert!(!reason.is_empty()),
            Err(other) => panic!("{other}"),
        }
    };
    let mut seeds: Vec<Vec<u8>> = vec![Vec::new(), vec![0, 9, 0, 0, 0], vec![0, 0, 0, 2, 1]];
    seeds.extend((0..40u8).map(|n| vec![n, n.wrapping_mul(37), n / 4, 1 + n % 3, n]));
    let price = Price { always: 32 << 20, each: 200 };
    Target { name: "stores", seeds, run: &run, mend: as_it_is, held: price, asked: price, inputs: 1_000 }
        .fuzz();
}

/// Services and checks as an agent keeps them. The input is a file; it is read as one of each kind.
#[test]
fn kept_services() {
    let run = |input: &[u8]| {
        let disk = MemoryDisk::default();
        for name in ["services/a", "checks/a", "checks/a.state"] {
            disk.open(name).unwrap().write_at(0, input).unwrap();
        }
        let found = Shelf::default().read(&disk).unwrap();
        let read = found.services.len() + found.checks.len() + found.stood.len();
        assert_eq!(read + found.bad.len(), 3, "what is not read is named");
    };
    fn mend(bytes: &mut Vec<u8>) {
        let Some(at) = bytes.iter().position(|byte| *byte == b'\n') else { return };
        let json = bytes[at + 1..].strip_suffix(b"\n").unwrap_or(&bytes[at + 1..]).to_vec();
        *bytes = format!("driftline 1 {:016x}\n", xxh3_64(&json)).into();
        bytes.extend(json);
        bytes.push(b'\n');
    }
    let texts = [
        r#"{"id":"web","name":"web","tags":["a"],"address":"10.0.0.1","port":80,"meta":{"k":"v"},"token":"t"}"#,
        r#"{"id":"c","status":"Passing","output":"well","until_ms":1234567890123}"#,
        r#"{"id":"c","name":"c","notes":"","service_id":"web","probe":{"Ttl":{"secs":10,"nanos":0}},"token":""}"#,
    ];
    let seeds = texts.map(|text| {
        let mut bytes = format!("driftline 1 0\n{text}\n").into_bytes();
        mend(&mut bytes);
        bytes
    });
    let (name, seeds) = ("kept_services", seeds.to_vec());
    Target { name, seeds, run: &run, mend, held: HELD, asked: ASKED, inputs: 3_000 }.fuzz();
}

// ---- files that people write ----

#[test]
fn configurations() {
    let resolve = |text: &str, port: u16| {
        let addr = text.parse::<SocketAddr>().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, port)));
        addr.map_err(|_| format!("{text:?} does not resolve"))
    };
    let base = Config::default();
    let run = |input: &[u8]| {
        let text = String::from_utf8_lossy(input).into_owned();
        for name in ["x.toml", "x.json"] {
            let source = file::Source { name: name.to_owned(), text: text.clone() };
            let config = match file::merge(&base, &[source], &resolve) {
                Ok(merged) => merged.config,
                Err(error) => {
                    assert!(error.to_string().contains(name), "{error}");
                    continue;
                }
            };
            let _ = config.check();
            let _ = define::configured(&config);
            let (_, reloaded) = driftline::config::reload::plan(&base, &config);
            drop(reloaded);
        }
    };
    let mut seeds: Vec<Vec<u8>> =
        ["full.toml", "unknown-nested-key.json", "impossible-timing.toml", "wildcard.toml"]
            .iter()
            .map(|name| {
                let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/configs");
                std::fs::read(folder.join(name)).unwrap()
            })
            .collect();
    seeds.push(serde_json::to_vec_pretty(&serde_json::json!({
        "node_name": "n", "server": true, "bootstrap_expect": 3, "retry_join": ["127.0.0.1", "h:1"],
        "tags": {"a": "b"}, "raft": {"heartbeat_ms": 50}, "limits": {"value_bytes": 1},
        "services": [{"name": "web", "port": 80, "checks": [{"ttl": "10s"}]}],
        "watches": [{"type": "key", "key": "a", "handler_type": "http"}],
        "ports": {"http": 8500, "dns": -1}, "addresses": {"http": "127.0.0.1"}, "performance": {"raft_multiplier": 1}
    })).unwrap());
    let held = Price { always: 4 << 20, each: 1_000 };
    let asked = Price { always: 64 << 20, each: 20_000 };
    Target { name: "configurations", seeds, run: &run, mend: as_it_is, held, asked, inputs: 1_500 }.fuzz();
}

#[test]
fn rules() {
    let run = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        if let Ok(rules) = Rules::parse(&text) {
            assert_eq!(Rules::parse(&text), Ok(rules));
        }
    };
    let seeds = [
        "key_prefix \"a/\" { policy = \"write\" } # all\nservice \"web\" { policy = \"read\" intentions = \"deny\" }",
        "operator = \"read\"\n/* nobody */ acl = \"deny\"; keyring = \"write\", node_prefix \"\" { policy = \"list\" }",
        r#"{"key_prefix":{"a/":{"policy":"list"}},"operator":"write","session":[{"n":[{"policy":"read"}]}]}"#,
        "event \"a\\\"b\\\\\\n\" {\n policy = \"read\"\n}",
    ];
    let (name, seeds) = ("rules", seeds.map(|text| text.as_bytes().to_vec()).to_vec());
    Target { name, seeds, run: &run, mend: as_it_is, held: HELD, asked: ASKED, inputs: 6_000 }.fuzz();
}

#[test]
fn words() {
    let run = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        if let Some(nanos) = parse_duration(&text) {
            assert_eq!(parse_duration(&format!("{nanos}ns")), Some(nanos));
        }
        if let Ok(place) = Place::parse(&text, 8301) {
            assert_eq!(Place::parse(&place.to_string(), 1), Ok(place));
        }
    };
    let seeds = [
        "1h2m3.5s",
        "-2ms",
        "0.000000001s",
        "9223372036854775807ns",
        "1\u{b5}s",
        "10.0.0.1:8301",
        "[fe80::1]:1",
        "::1",
        "node-1.example.",
        "host:65535",
    ];
    let (name, seeds) = ("words", seeds.map(|text| text.as_bytes().to_vec()).to_vec());
    Target { name, seeds, run: &run, mend: as_it_is, held: HELD, asked: ASKED, inputs: 8_000 }.fuzz();
}

/// Certificates and keys. `pair.pem` is a key that opens nothing, and its certificate.
#[test]
fn certificates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pem");
    let run = |input: &[u8]| {
        std::fs::write(&path, input).unwrap();
        let whole = Options {
            ca_file: Some(path.clone()),
            cert_file: Some(path.clone()),
            key_file: Some(path.clone()),
            datacenter: ["dc1", "a.b", "é", "", " "][input.len() % 5].repeat(input.len() % 80),
            verify_server_hostname: true,
            verify_incoming: true,
            ..Options::default()
        };
        for options in [Options { datacenter: "dc1".to_owned(), ..whole.clone() }, whole] {
            if let Err(reason) = Loaded::read(&options) {
                assert!(!reason.contains("PRIVATE"), "an error shows a key");
            }
        }
    };
    let seeds = vec![b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec()];
    Target {
        name: "certificates",
        seeds,
        run: &run,
        mend: as_it_is,
        held: HELD,
        asked: ASKED,
        inputs: 1_000,
    }
    .fuzz();
}
