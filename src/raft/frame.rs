//! Frames: how messages are cut out of a stream, and how damage shows, in each version of the peer protocol.
//!
//! ```text
//! version 1   length u32 (big endian) | 1 | crc32 of the body u32 | body | mark u8, perhaps
//! version 2   0xd2 | length u32 | crc32 of the body u32 | crc32 of the nine bytes before u32 | body
//! ```
//! Numbers are little endian but for the first length, which counts all that follows it; the second counts the body.
//! The first byte tells the versions apart, because no frame of version 1 is so long that its length begins so.
//!
//! In version 1 a damaged length is noticed only when its checksum is, after as many bytes as it promises, which may
//! never come. In version 2 the head has a checksum of its own, so damage costs the connection at once.
//!
//! # Which version is spoken
//! Every request of a new connection goes out in version 1. An answer has the version of its request; to one of version 1
//! a server that speaks more adds the mark, which is the newest version that it speaks. A server of version 1 ignores it: it stops
//! reading where the message ends. The asker then goes on in the newest version that both speak. A
//! connection has one process at each end, so what was learned on it stays true, and a server that comes back older is
//! asked in version 1 again. So servers can be upgraded, and taken back, one by one.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// The oldest version that is spoken.
pub const OLDEST: u8 = 1;
/// The newest version that is spoken.
pub const NEWEST: u8 = 2;
/// Largest frame: a full batch of the largest entries fits.
pub const MAX_FRAME: usize = 64 << 20;

/// What a frame of version 2 begins with.
const MAGIC: u8 = 0xd2;
/// Most frames fit into this, so that they are not moved about while they grow.
const USUAL_FRAME: usize = 256;
/// Bytes before the body, by version.
const HEADS: [usize; 2] = [9, 13];

/// A message as it came, its checksum found right.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// The version that it came in.
    pub version: u8,
    /// The message, and what is behind it.
    pub body: Bytes,
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// An empty frame of a version; the body goes behind it.
pub fn begin(version: u8) -> Vec<u8> {
    let mut frame = Vec::with_capacity(USUAL_FRAME);
    frame.resize(HEADS[usize::from(version == NEWEST)], 0);
    frame
}

/// Completes a frame of a version that was begun by [`begin`].
///
/// # Errors
/// When it is too large for the other side.
pub fn seal(version: u8, mut frame: Vec<u8>) -> io::Result<Bytes> {
    let head = HEADS[usize::from(version == NEWEST)];
    if frame.len() > MAX_FRAME {
        return Err(invalid(format!("a message of {} bytes is too large", frame.len())));
    }
    let check = crc32fast::hash(&frame[head..]).to_le_bytes();
    if version == NEWEST {
        frame[0] = MAGIC;
        let length = (frame.len() - head) as u32;
        frame[1..5].copy_from_slice(&length.to_le_bytes());
        frame[5..9].copy_from_slice(&check);
        let of_head = crc32fast::hash(&frame[..9]);
        frame[9..13].copy_from_slice(&of_head.to_le_bytes());
    } else {
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        frame[4] = OLDEST;
        frame[5..9].copy_from_slice(&check);
    }
    Ok(frame.into())
}

/// Cuts frames out of a stream, and writes finished ones.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// The newest version that this server speaks.
    pub newest: u8,
}

struct Head {
    version: u8,
    size: usize,
    body: usize,
    check: u32,
}

impl Codec {
    /// The head of the next frame, once it is there.
    fn head(&self, bytes: &[u8]) -> io::Result<Option<Head>> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let head = match bytes {
            [] => return Ok(None),
            [MAGIC, ..] if self.newest >= 2 => {
                if bytes.len() < HEADS[1] {
                    return Ok(None);
                }
                if crc32fast::hash(&bytes[..9]) != word(9) {
                    return Err(invalid("frame damaged"));
                }
                Head { version: 2, size: HEADS[1], body: word(1) as usize, check: word(5) }
            }
            _ => {
                // What can be told wrong early is: a length that is not one may promise bytes that never come.
                if bytes.len() > 4 && bytes[4] != OLDEST {
                    let spoken = bytes[4];
                    return Err(invalid(format!("frame damaged, or of version {spoken}")));
                }
                if bytes.len() < HEADS[0] {
                    return Ok(None);
                }
                let length = word(0).swap_bytes() as usize;
                let body = length.checked_sub(HEADS[0] - 4).ok_or_else(|| invalid("frame too short"))?;
                Head { version: 1, size: HEADS[0], body, check: word(5) }
            }
        };
        if head.body > MAX_FRAME {
            return Err(invalid(format!("a frame of {} bytes is too large", head.body)));
        }
        Ok(Some(head))
    }
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<Frame>> {
        let Some(head) = self.head(source)? else { return Ok(None) };
        if source.len() - head.size < head.body {
            // No room is made for what a head merely promises: the buffer grows with what comes.
            return Ok(None);
        }
        source.advance(head.size);
        let body = source.split_to(head.body).freeze();
        if crc32fast::hash(&body) != head.check {
            return Err(invalid("frame damaged"));
        }
        Ok(Some(Frame { version: head.version, body }))
    }
}

impl Encoder<Bytes> for Codec {
    type Error = io::Error;

    fn encode(&mut self, frame: Bytes, target: &mut BytesMut) -> io::Result<()> {
        target.extend_from_slice(&frame);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(version: u8, body: &[u8]) -> Bytes {
        let mut frame = begin(version);
        frame.extend_from_slice(body);
        seal(version, frame).unwrap()
    }

    /// All frames in some bytes, read as they might arrive, `at_once` at a time.
    fn read(newest: u8, bytes: &[u8], at_once: usize) -> io::Result<Vec<Frame>> {
        let (mut codec, mut buffer, mut frames) = (Codec { newest }, BytesMut::new(), Vec::new());
        for piece in bytes.chunks(at_once) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = codec.decode(&mut buffer)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_of_both_versions_are_read_as_they_were_written(
            bodies in prop::collection::vec((1u8..=2, prop::collection::vec(any::<u8>(), 0..300)), 0..5),
            at_once in 1usize..50,
        ) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|(version, body)| framed(*version, body)).collect();
            let frames: Vec<Frame> =
                bodies.iter().map(|(version, body)| Frame { version: *version, body: body.clone().into() }).collect();
            prop_assert_eq!(read(NEWEST, &bytes, at_once).unwrap(), frames);
        }

        #[test]
        fn a_damaged_frame_is_never_read_and_in_version_2_always_refused(
            version in 1u8..=2,
            body in prop::collection::vec(any::<u8>(), 1..100),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let mut bytes = framed(version, &body).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            match read(NEWEST, &bytes, 1_000) {
                Err(_) => {}
                // Only what may be a longer frame of version 1 is waited for.
                Ok(frames) => prop_assert!(frames.is_empty() && (version == 1 || at == 0)),
            }
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(NEWEST, &bytes, 7);
        }
    }

    #[test]
    fn a_server_of_version_1_refuses_version_2() {
        assert_eq!(read(1, &framed(1, b"hello"), 3).unwrap().len(), 1);
        assert!(read(1, &framed(2, b"hello"), 3).is_err());
    }
}
