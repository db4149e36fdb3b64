//! Blocks: the unit in which the log and the vote are written, as large as what a disk writes whole.
//!
//! A block is one sector of 512 bytes and says of itself which file and place it was written for, which
//! batch it belongs to, and which part of it, under a checksum of its own. So a place can hold only three
//! things: zeros, which is what a file is made of before anything is written; a block that belongs
//! there; or damage. A write that a power loss tears leaves any mixture of the first two and nothing
//! else, because sectors are written whole. That is how a torn tail is told from a rotten one.
//!
//! ```text
//! 0        4        8               16       20       24    26    28
//! checksum | chain  | batch         | part   | parts  | len | 0   | payload, 484 bytes
//! ```
//!
//! `chain` is the checksum of the last block of the batch before, so that a batch fits one history only.

/// Bytes of a block.
pub const BLOCK: usize = 512;
/// Bytes of a block before its payload.
const HEADER: usize = 28;
/// Bytes of payload in a block.
pub const PAYLOAD: usize = BLOCK - HEADER;

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its checksum.
    pub checksum: u32,
    /// The checksum of the last block of the batch before its own.
    pub chain: u32,
    /// The number of its batch.
    pub batch: u64,
    /// Which block of its batch it is, from 0.
    pub part: u32,
    /// How many blocks its batch has.
    pub parts: u32,
}

/// What is found at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Zeros: nothing was written here yet.
    Blank,
    /// A block that was written for this place.
    Block(Header, &'a [u8]),
    /// Anything else.
    Damage,
}

/// How many blocks a payload takes; never none.
pub fn blocks_for(payload: usize) -> usize {
    payload.div_ceil(PAYLOAD).max(1)
}

fn checksum(file: u64, place: u64, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file.to_le_bytes());
    hasher.update(&place.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Looks at the block at `place` of `file`; `bytes` are [`BLOCK`] bytes.
pub fn look(file: u64, place: u64, bytes: &[u8]) -> Found<'_> {
    if bytes.len() != BLOCK {
        return Found::Damage;
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Blank;
    }
    let header = Header {
        checksum: u32::from_le_bytes(number(bytes, 0)),
        chain: u32::from_le_bytes(number(bytes, 4)),
        batch: u64::from_le_bytes(number(bytes, 8)),
        part: u32::from_le_bytes(number(bytes, 16)),
        parts: u32::from_le_bytes(number(bytes, 20)),
    };
    let len = usize::from(u16::from_le_bytes(number(bytes, 24)));
    if len > PAYLOAD || header.part >= header.parts || checksum(file, place, &bytes[4..]) != header.checksum {
        return Found::Damage;
    }
    Found::Block(header, &bytes[HEADER..HEADER + len])
}

/// The blocks of a batch, to be written from `place` of `file` on, and the checksum of the last one.
pub fn blocks(file: u64, place: u64, batch: u64, chain: u32, payload: &[u8]) -> (Vec<u8>, u32) {
    let parts = blocks_for(payload.len());
    let mut out = vec![0; parts * BLOCK];
    let mut last = 0;
    for part in 0..parts {
        let content = &payload[part * PAYLOAD..payload.len().min((part + 1) * PAYLOAD)];
        let block = &mut out[part * BLOCK..(part + 1) * BLOCK];
        block[4..8].copy_from_slice(&chain.to_le_bytes());
        block[8..16].copy_from_slice(&batch.to_le_bytes());
        block[16..20].copy_from_slice(&(part as u32).to_le_bytes());
        block[20..24].copy_from_slice(&(parts as u32).to_le_bytes());
        block[24..26].copy_from_slice(&(content.len() as u16).to_le_bytes());
        block[HEADER..HEADER + content.len()].copy_from_slice(content);
        last = checksum(file, place + part as u64, &block[4..]);
        block[..4].copy_from_slice(&last.to_le_bytes());
    }
    (out, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_comes_back_and_only_from_its_own_place() {
        for len in [0, 1, PAYLOAD, PAYLOAD + 1, 5_000] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (bytes, last) = blocks(7, 3, 9, 1, &payload);
            let mut read = Vec::new();
            for (part, block) in bytes.chunks(BLOCK).enumerate() {
                let Found::Block(header, content) = look(7, 3 + part as u64, block) else { panic!("{part}") };
                assert_eq!((header.batch, header.chain, header.part), (9, 1, part as u32));
                assert_eq!(header.parts as usize, blocks_for(len));
                read.extend_from_slice(content);
                assert_eq!(look(7, 4 + part as u64, block), Found::Damage);
                assert_eq!(look(8, 3 + part as u64, block), Found::Damage);
                if part + 1 == blocks_for(len) {
                    assert_eq!(header.checksum, last);
                }
            }
            assert_eq!(read, payload);
        }
    }

    #[test]
    fn every_flipped_bit_is_damage() {
        let (bytes, _) = blocks(7, 3, 9, 1, b"payload");
        assert_eq!(look(7, 3, &[0; BLOCK]), Found::Blank);
        for bit in 0..BLOCK * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(look(7, 3, &flipped), Found::Damage, "bit {bit}");
        }
    }
}
