//! Gossip as its first version spoke it: datagrams and frames that were recorded then, which every later build must read,
//! and must write to a node that speaks no newer one. Each line of the file has the bytes and what they mean.

use serde_json::{Value, json};

use super::pushpull::State;
use super::wire::{DatagramBuilder, NEWEST, OLDEST, Part, Sender, decode_datagram, read_frame, write_frame};

const RECORDED: &str = include_str!("../../fixtures/wire/gossip-v1.jsonl");

fn recorded(kind: &str) -> Vec<(Value, Vec<u8>)> {
    let lines = RECORDED.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_kind = lines.filter(|line| line["kind"] == kind).map(|line| {
        let hex = line["bytes"].as_str().unwrap();
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        let bytes = bytes.collect();
        (line, bytes)
    });
    of_kind.collect()
}

#[test]
fn datagrams_of_version_1_are_read_and_written_as_ever() {
    let all = recorded("datagram");
    assert_eq!(all.len(), 2);
    for (means, bytes) in all {
        for newest in [OLDEST, NEWEST] {
            let read = decode_datagram(&bytes, 7, newest).unwrap();
            assert_eq!((read.skipped, read.speaks), (0, OLDEST));
            assert_eq!(json!(read.sender), means["sender"]);
            assert_eq!(json!(read.swim), means["swim"]);
            assert_eq!(json!(read.parts), means["parts"]);
        }
        let sender: Sender = serde_json::from_value(means["sender"].clone()).unwrap();
        let swim: Vec<u8> = serde_json::from_value(means["swim"].clone()).unwrap();
        let parts: Vec<Part> = serde_json::from_value(means["parts"].clone()).unwrap();
        let write = |newest| {
            let mut builder = DatagramBuilder::new(OLDEST, newest, 7, &sender, &swim);
            assert!(parts.iter().all(|part| builder.push(&part.encode())));
            builder.finish()
        };
        assert_eq!(write(OLDEST), bytes);
        // A newer node adds one part, of a kind that version 1 skips.
        let newer = write(NEWEST);
        assert_eq!(newer[9..bytes.len()], bytes[9..]);
        assert_eq!(decode_datagram(&newer, 7, OLDEST).unwrap().parts, parts);
        assert_eq!(newer.len(), bytes.len() + 4);
    }
}

#[tokio::test]
async fn frames_of_version_1_are_read_and_written_as_ever() {
    let all = recorded("frame");
    assert_eq!(all.len(), 1);
    for (means, bytes) in all {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        tokio::io::AsyncWriteExt::write_all(&mut near, &bytes).await.unwrap();
        let (version, body) = read_frame(&mut far, NEWEST, 7).await.unwrap();
        assert_eq!(version, OLDEST);
        assert_eq!(json!(State::decode(&body).unwrap()), means["state"]);
        let state: State = serde_json::from_value(means["state"].clone()).unwrap();
        write_frame(&mut near, OLDEST, 7, &state.encode()).await.unwrap();
        let mut written = vec![0; bytes.len()];
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut written).await.unwrap();
        assert_eq!(written, bytes);
    }
}
