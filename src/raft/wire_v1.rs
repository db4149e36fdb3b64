//! The peer protocol as its first version spoke it: frames that were recorded then, which every later build must read, and must
//! write to a server that speaks no newer one. Each line of the file has the bytes and what they mean.
//!
//! Commands inside of entries have formats of their own; here they are the one that does nothing.

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::codec::Decoder;

use super::frame::{Codec, Frame, NEWEST, OLDEST};
use super::rpc::{Answer, Ask, Envelope, decode, encode};

const RECORDED: &str = include_str!("../../fixtures/wire/peer-v1.jsonl");

fn recorded() -> impl Iterator<Item = (String, Value, Vec<u8>)> {
    RECORDED.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let hex = line["bytes"].as_str().unwrap();
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        (line["kind"].as_str().unwrap().to_owned(), line["means"].clone(), bytes.collect())
    })
}

fn frame(newest: u8, bytes: &[u8]) -> Frame {
    let mut buffer = BytesMut::from(bytes);
    let frame = Codec { newest }.decode(&mut buffer).unwrap().unwrap();
    assert!(buffer.is_empty());
    frame
}

/// What it means is what was meant, and written again it is the same.
fn holds<T: Serialize + DeserializeOwned>(means: &Value, bytes: &[u8]) {
    for newest in [OLDEST, NEWEST] {
        let frame = frame(newest, bytes);
        assert_eq!(frame.version, OLDEST);
        let (envelope, mark) = decode::<T>(&frame).unwrap();
        assert_eq!(mark, None);
        assert_eq!(serde_json::to_value(&envelope).unwrap(), *means);
        assert_eq!(encode(OLDEST, &envelope, None).unwrap(), bytes, "{means}");
    }
}

#[test]
fn what_version_1_wrote_is_read_and_written_as_ever() {
    let mut kinds = std::collections::BTreeMap::new();
    for (kind, means, bytes) in recorded() {
        match kind.as_str() {
            "ask" => holds::<Ask>(&means, &bytes),
            "answer" => holds::<Answer>(&means, &bytes),
            other => panic!("{other}"),
        }
        *kinds.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(json!(kinds), json!({"ask": 12, "answer": 19}));
}

#[test]
fn version_1_reads_past_the_mark_and_version_2_reads_the_mark() {
    for (kind, means, bytes) in recorded().filter(|(kind, _, _)| kind == "answer") {
        let envelope: Envelope<Answer> = serde_json::from_value(means.clone()).unwrap();
        let marked = encode(OLDEST, &envelope, Some(NEWEST)).unwrap();
        assert_eq!(marked.len(), bytes.len() + 1, "{kind}");
        let frame = frame(OLDEST, &marked);
        // As the first version's decoder did it: what is left over is left alone.
        let first: Envelope<Answer> = postcard::from_bytes(&frame.body).unwrap();
        assert_eq!(serde_json::to_value(&first).unwrap(), means);
        assert_eq!(decode::<Answer>(&frame).unwrap().1, Some(NEWEST));
    }
}
