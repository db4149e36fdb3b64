//! What goes over the network: datagrams and stream frames, in two versions.
//!
//! ```text
//! datagram  version u8 | crc32 u32 | cluster u32 | length u8 | Sender Belongs? | length u16 | foca's packet | part*
//! part      length u16 | Part
//! frame 1   1 | cluster u32 | length u32 | crc32 u32 | body
//! frame 2   2 | cluster u32 | length u32 | crc32 u32 | crc32 of the thirteen bytes before u32 | body
//! ```
//! Numbers are little endian; `Sender`, `Part` and bodies are postcard. The checksum covers all that follows
//! it in a datagram, and cluster and body of a frame. From version 2 on a datagram's covers its version as well, and a frame's head has a
//! checksum of its own: a damaged length is noticed at once, and not when the bytes that it promises do not come. `cluster` is a hash of the cluster's label: what
//! another cluster says is refused before anything of it is believed. A sender may add
//! which cluster it is of, as founded (see [`allegiance`](super::allegiance)); version 1 did not, and skips it.
//!
//! A part of an unknown kind is skipped, so that a later version may add some. [`Part::Speaks`] is one that version 1 does not
//! know: it says which version the sender would rather speak. Whoever hears it answers that address so, and goes back to version
//! 1 with the first datagram that has neither the part nor the version.
//!
//! Encryption is no version but something wrapped around any of them: see [`super::seal`].

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::allegiance::{Belongs, OtherCluster};
use super::delegate::META_LIMIT;
use super::identity::Identity;
use super::seal::OVERHEAD;
use super::vivaldi::Coordinate;

/// The largest datagram: fits an Ethernet frame through the usual tunnels.
pub const MAX_DATAGRAM: usize = 1_400;
/// The largest body of a stream frame.
pub const MAX_FRAME: usize = 20 << 20;
/// What a message of the program costs in a datagram beyond its own length.
pub const MESSAGE_OVERHEAD: usize = 2 + 1 + 2;
/// The largest message of the program: what fits a datagram of its own, whoever the sender is, encrypted or not.
pub const MAX_MESSAGE: usize = MAX_DATAGRAM - OVERHEAD - MAX_HEAD - MESSAGE_OVERHEAD;
/// Foca's largest packet: leaves room for some messages, and holds more than thirty members.
pub const MAX_SWIM: usize = 1_024;
/// The longest name of a node.
pub const MAX_NAME: usize = 128;

/// The version that every node understands.
pub const OLDEST: u8 = 1;
/// The newest version.
pub const NEWEST: u8 = 2;
/// Bytes of a datagram before its parts, without foca's packet, at most.
const MAX_HEAD: usize = 1 + 4 + 4 + 1 + MAX_SENDER + 2;
/// Two varints of ten bytes, an IPv6 address with port and tag, a flag, and another varint; then what it belongs to: a varint and a flag.
const MAX_SENDER: usize = 10 + 20 + 10 + 1 + 10 + 10 + 1;
const FRAME_HEAD: usize = 1 + 4 + 4 + 4;
/// What [`Part::Speaks`] takes.
const SPEAKS: usize = 2 + 2;

/// Who sent a datagram, and how recent its profile is: a receiver that knows an older one asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// The sender as it sees itself.
    pub id: Identity,
    /// Revision of its profile.
    pub revision: u64,
    /// Which cluster it is of, if it says so.
    #[serde(skip)]
    pub of: Option<Belongs>,
}

impl Sender {
    fn encode(self) -> Vec<u8> {
        // Serializing plain data into memory has no way to fail.
        let mut bytes = postcard::to_stdvec(&self).unwrap_or_default();
        bytes.extend(Belongs::encode(self.of));
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Sender, Garbage> {
        let (sender, rest) = postcard::take_from_bytes::<Sender>(bytes).map_err(|_| Garbage::Malformed)?;
        Ok(Sender { of: Belongs::decode(rest)?.0, ..sender })
    }
}

/// What a node says about itself that the SWIM protocol does not need. Of two, the higher revision holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The node.
    pub id: Identity,
    /// Grows with every change, also over restarts.
    pub revision: u64,
    /// Its name.
    pub name: String,
    /// Its program's bytes, see [`Delegate::node_meta`](super::Delegate::node_meta).
    pub meta: Bytes,
}

impl Profile {
    /// Whether a node could have sent it.
    pub fn is_sane(&self) -> bool {
        name_is_sane(&self.name) && self.meta.len() <= META_LIMIT
    }
}

/// Whether a node may be called so.
pub fn name_is_sane(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.contains(char::is_control)
}

/// Somebody declared that a node has left, in its life `generation` or any before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Intent {
    /// The last life it speaks of.
    pub generation: u64,
    /// Whether the node is to be forgotten as well.
    pub prune: bool,
}

/// One thing in a datagram beside foca's packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// A message of the program.
    Message(Bytes),
    /// A node describes itself.
    Profile(Profile),
    /// Asks the receiver for its profile.
    WhoIs,
    /// "You, or somebody at your address, are known at this generation and revision, and it is not this life
    /// of yours": the receiver takes a later generation at once instead of one step at a time.
    Stale {
        /// The node that is meant.
        node_id: u64,
        /// The generation that must be exceeded.
        generation: u64,
        /// The revision that must be exceeded.
        revision: u64,
    },
    /// Somebody forces a node to leave.
    Leave {
        /// The node.
        id: Identity,
        /// The declaration.
        intent: Intent,
    },
    /// The sender has asked the suspect and got no answer. The suspect refutes it; to others it confirms
    /// what they suspect themselves.
    Suspicion {
        /// The suspect.
        suspect: Identity,
        /// The suspect's foca incarnation.
        incarnation: u16,
        /// Whether the receiver is to ask the suspect too, and to tell the sender if it gets no answer.
        jury: bool,
    },
    /// The newest version that the sender speaks. Only in datagrams of an older one.
    Speaks(u8),
    /// Where the sender stands, beside its answer to a probe. Not in datagrams of version 1.
    Coordinate(Coordinate),
}

impl Part {
    /// Whether the receiver answers it with a datagram. Such a part has a datagram for itself.
    pub fn asks(&self) -> bool {
        matches!(self, Part::WhoIs | Part::Suspicion { .. })
    }

    /// As it stands in a datagram, without its length.
    pub fn encode(&self) -> Bytes {
        // Serializing plain data into memory has no way to fail; an empty part would be skipped.
        postcard::to_stdvec(self).unwrap_or_default().into()
    }
}

/// Why a datagram was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// Its bytes were changed on the way, or it is not ours at all.
    #[error("damaged, or not gossip")]
    Damaged,
    /// A node of another version.
    #[error("of an unknown version")]
    Version,
    /// A node of another cluster.
    #[error("of another cluster")]
    OtherCluster,
    /// A node of a cluster that was founded apart from this one's.
    #[error("{0}")]
    Foreign(OtherCluster),
    /// Intact but senseless.
    #[error("malformed")]
    Malformed,
    /// Not encrypted, which is demanded here.
    #[error("not encrypted")]
    Unencrypted,
    /// Encrypted with a key that is not in the keyring; damage looks the same.
    #[error("encrypted with a key that this node does not have, or damaged")]
    WrongKey,
    /// Encrypted, and this node has no keys at all.
    #[error("encrypted, and this node has no key")]
    NoKey,
}

impl Garbage {
    /// Whether it shows a node that is not one of the cluster's.
    pub fn is_strange(self) -> bool {
        !matches!(self, Garbage::Damaged | Garbage::Version | Garbage::Malformed)
    }
}

/// A datagram being put together.
#[derive(Debug)]
pub struct DatagramBuilder {
    buffer: Vec<u8>,
    limit: usize,
    parts: usize,
    speaks: Option<Bytes>,
}

impl DatagramBuilder {
    /// Begins with foca's packet, which may be empty and must be at most [`MAX_SWIM`] bytes. The datagram will be of
    /// `version`; the sender speaks `newest`.
    pub fn new(version: u8, newest: u8, cluster: u32, sender: &Sender, swim: &[u8]) -> DatagramBuilder {
        let mut buffer = Vec::with_capacity(MAX_DATAGRAM);
        buffer.push(version);
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(&cluster.to_le_bytes());
        let sender = sender.encode();
        buffer.push(sender.len() as u8);
        buffer.extend_from_slice(&sender);
        buffer.extend_from_slice(&(swim.len() as u16).to_le_bytes());
        buffer.extend_from_slice(swim);
        let speaks = (version < newest).then(|| Part::Speaks(newest).encode());
        DatagramBuilder { buffer, limit: MAX_DATAGRAM, parts: 0, speaks }
    }

    /// Leaves so many bytes for what will be wrapped around it.
    pub fn leaving(self, overhead: usize) -> DatagramBuilder {
        DatagramBuilder { limit: MAX_DATAGRAM - overhead, ..self }
    }

    /// Bytes left for parts.
    pub fn room(&self) -> usize {
        // A part that needs a datagram of its own gets all of it; this node's version is said in another.
        let kept = if self.speaks.is_some() && self.parts > 0 { SPEAKS } else { 0 };
        self.limit.saturating_sub(self.buffer.len() + kept)
    }

    /// How many parts it has.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Adds an encoded part if it fits, and says whether it did.
    pub fn push(&mut self, part: &[u8]) -> bool {
        if part.is_empty() || part.len() + 2 > self.room() {
            return false;
        }
        self.buffer.extend_from_slice(&(part.len() as u16).to_le_bytes());
        self.buffer.extend_from_slice(part);
        self.parts += 1;
        true
    }

    /// The datagram.
    pub fn finish(mut self) -> Vec<u8> {
        if let Some(speaks) = self.speaks.take() {
            self.push(&speaks);
        }
        let crc = datagram_crc(self.buffer[0], &self.buffer[5..]);
        self.buffer[1..5].copy_from_slice(&crc.to_le_bytes());
        self.buffer
    }
}

fn datagram_crc(version: u8, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    if version > OLDEST {
        hasher.update(&[version]);
    }
    hasher.update(rest);
    hasher.finalize()
}

/// A received datagram.
#[derive(Debug, PartialEq)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub sender: Sender,
    /// Foca's packet, or nothing.
    pub swim: &'a [u8],
    /// The parts of known kinds.
    pub parts: Vec<Part>,
    /// How many parts could not be read.
    pub skipped: usize,
    /// The newest version that the sender is known to speak.
    pub speaks: u8,
}

/// Reads a datagram, if it is of a version up to `newest`.
///
/// # Errors
/// What is wrong with it. Nothing of such a datagram may be used.
pub fn decode_datagram(bytes: &[u8], cluster: u32, newest: u8) -> Result<Datagram<'_>, Garbage> {
    let mut rest = bytes;
    if bytes.len() > MAX_DATAGRAM {
        return Err(Garbage::Malformed);
    }
    let version = take(&mut rest, 1).ok_or(Garbage::Damaged)?[0];
    let crc = take_u32(&mut rest).ok_or(Garbage::Damaged)?;
    if datagram_crc(version, rest) != crc {
        return Err(Garbage::Damaged);
    }
    if !(OLDEST..=newest).contains(&version) {
        return Err(Garbage::Version);
    }
    if take_u32(&mut rest).ok_or(Garbage::Malformed)? != cluster {
        return Err(Garbage::OtherCluster);
    }
    let length = take(&mut rest, 1).ok_or(Garbage::Malformed)?[0];
    let sender = take(&mut rest, length.into()).ok_or(Garbage::Malformed)?;
    let sender = Sender::decode(sender)?;
    let swim = take_sized(&mut rest).ok_or(Garbage::Malformed)?;
    let mut parts = Vec::new();
    let (mut skipped, mut speaks) = (0, version);
    while !rest.is_empty() {
        let part = take_sized(&mut rest).ok_or(Garbage::Malformed)?;
        match postcard::from_bytes::<Part>(part) {
            Ok(Part::Speaks(version)) => speaks = speaks.max(version),
            Ok(part) => parts.push(part),
            Err(_) => skipped += 1,
        }
    }
    Ok(Datagram { sender, swim, parts, skipped, speaks })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let bytes = take(rest, 4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn take_sized<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = take(rest, 2)?;
    take(rest, u16::from_le_bytes([bytes[0], bytes[1]]).into())
}

/// The number that stands for a cluster's label.
pub fn cluster_number(label: &str) -> u32 {
    crc32fast::hash(label.as_bytes())
}

/// Why a stream frame was not read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came over it is not for us.
    #[error("the answer is {0}")]
    Garbage(#[from] Garbage),
    /// More than anybody should send.
    #[error("a frame of {0} bytes is more than the {MAX_FRAME} allowed")]
    TooLarge(usize),
    /// The other side will have nothing to do with this node.
    #[error("this node is refused: {0}")]
    Refused(&'static str),
}

fn frame_crc(cluster: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&cluster.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Writes one frame of a version.
///
/// # Errors
/// When the stream breaks, or the body is larger than [`MAX_FRAME`].
pub async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin + ?Sized),
    version: u8,
    cluster: u32,
    body: &[u8],
) -> Result<(), FrameError> {
    if body.len() > MAX_FRAME {
        return Err(FrameError::TooLarge(body.len()));
    }
    let mut head = Vec::with_capacity(FRAME_HEAD);
    head.push(version);
    head.extend_from_slice(&cluster.to_le_bytes());
    head.extend_from_slice(&(body.len() as u32).to_le_bytes());
    head.extend_from_slice(&frame_crc(cluster, body).to_le_bytes());
    if version > OLDEST {
        let crc = crc32fast::hash(&head);
        head.extend_from_slice(&crc.to_le_bytes());
    }
    stream.write_all(&head).await?;
    stream.write_all(body).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one frame of a version up to `newest`; gives that version and the body. Memory grows with what really arrives, not
/// with what the head promises.
///
/// # Errors
/// When the stream breaks or ends early, or what it holds is not a frame of this cluster.
pub async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    newest: u8,
    cluster: u32,
) -> Result<(u8, Vec<u8>), FrameError> {
    let mut head = [0u8; FRAME_HEAD];
    stream.read_exact(&mut head).await?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let version = head[0];
    if !(OLDEST..=newest).contains(&version) {
        return Err(Garbage::Version.into());
    }
    if version > OLDEST {
        let mut crc = [0u8; 4];
        stream.read_exact(&mut crc).await?;
        if crc32fast::hash(&head) != u32::from_le_bytes(crc) {
            return Err(Garbage::Damaged.into());
        }
    }
    if word(1) != cluster {
        return Err(Garbage::OtherCluster.into());
    }
    let length = word(5) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLarge(length));
    }
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if frame_crc(cluster, &body) != word(9) {
        return Err(Garbage::Damaged.into());
    }
    Ok((version, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> impl Strategy<Value = Identity> {
        (any::<u64>(), any::<bool>(), 1u16.., 0..=super::super::identity::MAX_GENERATION, any::<bool>())
            .prop_map(|(node_id, v6, port, generation, leaving)| {
                let ip = if v6 { "fe80::1:2:3:4" } else { "10.1.2.3" };
                let addr = std::net::SocketAddr::new(ip.parse().unwrap(), port);
                Identity { node_id, addr, generation, leaving }
            })
    }

    fn belongs() -> impl Strategy<Value = Belongs> {
        (any::<u64>(), any::<bool>()).prop_map(|(cluster, sure)| Belongs { cluster, sure })
    }

    fn part() -> impl Strategy<Value = Part> {
        let bytes = |max| prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from);
        prop_oneof![
            bytes(200).prop_map(Part::Message),
            (identity(), any::<u64>(), "[a-z]{1,20}", bytes(100))
                .prop_map(|(id, revision, name, meta)| Part::Profile(Profile { id, revision, name, meta })),
            Just(Part::WhoIs),
            (prop::array::uniform8(-1.0..1.0), 0.0..1.5, -0.1..0.1, 0.0..1.0).prop_map(
                |(vec, error, adjustment, height)| {
                    Part::Coordinate(Coordinate { vec, error, adjustment, height })
                }
            ),
            (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(node_id, generation, revision)| {
                Part::Stale { node_id, generation, revision }
            }),
            (identity(), any::<u64>(), any::<bool>())
                .prop_map(|(id, generation, prune)| Part::Leave { id, intent: Intent { generation, prune } }),
            (identity(), any::<u16>(), any::<bool>())
                .prop_map(|(suspect, incarnation, jury)| Part::Suspicion { suspect, incarnation, jury }),
        ]
    }

    fn encode(version: u8, sender: &Sender, swim: &[u8], parts: &[Part]) -> (Vec<u8>, Vec<Part>) {
        let mut builder = DatagramBuilder::new(version, NEWEST, 7, sender, swim);
        let fitting = parts.iter().filter(|part| builder.push(&part.encode())).cloned().collect();
        (builder.finish(), fitting)
    }

    proptest! {
        #[test]
        fn a_datagram_is_read_as_it_was_written_and_never_too_large(
            id in identity(),
            revision in any::<u64>(),
            of in prop::option::of(belongs()),
            swim in prop::collection::vec(any::<u8>(), 0..MAX_SWIM),
            parts in prop::collection::vec(part(), 0..12),
            version in OLDEST..=NEWEST,
            overhead in prop::sample::select(vec![0, OVERHEAD]),
        ) {
            let sender = Sender { id, revision, of };
            let mut builder = DatagramBuilder::new(version, NEWEST, 7, &sender, &swim).leaving(overhead);
            let parts: Vec<Part> = parts.into_iter().filter(|part| builder.push(&part.encode())).collect();
            let bytes = builder.finish();
            prop_assert!(bytes.len() + overhead <= MAX_DATAGRAM);
            let read = decode_datagram(&bytes, 7, NEWEST).unwrap();
            prop_assert_eq!(read, Datagram { sender, swim: &swim, parts, skipped: 0, speaks: NEWEST });
            prop_assert_eq!(decode_datagram(&bytes, 8, NEWEST), Err(Garbage::OtherCluster));
            let old = decode_datagram(&bytes, 7, OLDEST);
            let understood = if version == OLDEST { old.is_ok() } else { old == Err(Garbage::Version) };
            prop_assert!(understood);
        }

        #[test]
        fn a_changed_bit_is_noticed(id in identity(), swim in prop::collection::vec(any::<u8>(), 0..99),
                                    bit in any::<prop::sample::Index>(), version in OLDEST..=NEWEST) {
            let (mut bytes, _) = encode(version, &Sender { id, revision: 1, of: None }, &swim, &[Part::WhoIs]);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_datagram(&bytes, 7, NEWEST).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(
            mut bytes in prop::collection::vec(any::<u8>(), 0..1_500),
            seal in any::<bool>(),
        ) {
            if seal && bytes.len() > 9 {
                bytes[0] = NEWEST;
                bytes[5..9].copy_from_slice(&7u32.to_le_bytes());
                let crc = datagram_crc(NEWEST, &bytes[5..]);
                bytes[1..5].copy_from_slice(&crc.to_le_bytes());
            }
            let _ = decode_datagram(&bytes, 7, NEWEST);
        }
    }

    #[test]
    fn the_largest_message_fits_beside_the_longest_sender() {
        let id = Identity {
            node_id: u64::MAX,
            addr: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535".parse().unwrap(),
            generation: super::super::identity::MAX_GENERATION,
            leaving: true,
        };
        let of = Some(Belongs { cluster: u64::MAX, sure: true });
        let sender = Sender { id, revision: u64::MAX, of };
        let mut builder = DatagramBuilder::new(NEWEST, NEWEST, 7, &sender, &[]).leaving(OVERHEAD);
        assert!(builder.push(&Part::Message(vec![1; MAX_MESSAGE].into()).encode()));
        let profile =
            Profile { id, revision: u64::MAX, name: "n".repeat(MAX_NAME), meta: vec![1; META_LIMIT].into() };
        let mut builder = DatagramBuilder::new(NEWEST, NEWEST, 7, &sender, &[]).leaving(OVERHEAD);
        assert!(builder.push(&Part::Profile(profile).encode()));
    }

    #[tokio::test]
    async fn a_frame_arrives_or_an_error_says_why_not() {
        for version in [OLDEST, NEWEST] {
            let (mut near, mut far) = tokio::io::duplex(1 << 16);
            write_frame(&mut near, version, 7, b"body").await.unwrap();
            assert_eq!(read_frame(&mut far, NEWEST, 7).await.unwrap(), (version, b"body".to_vec()));
            write_frame(&mut near, version, 8, b"body").await.unwrap();
            let other = read_frame(&mut far, NEWEST, 7).await;
            assert!(matches!(other, Err(FrameError::Garbage(Garbage::OtherCluster))));
        }
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        write_frame(&mut near, NEWEST, 7, b"body").await.unwrap();
        let older = read_frame(&mut far, OLDEST, 7).await;
        assert!(matches!(older, Err(FrameError::Garbage(Garbage::Version))));

        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let mut head = vec![OLDEST];
        head.extend_from_slice(&7u32.to_le_bytes());
        head.extend_from_slice(&u32::MAX.to_le_bytes());
        head.extend_from_slice(&0u32.to_le_bytes());
        near.write_all(&head).await.unwrap();
        assert!(matches!(read_frame(&mut far, NEWEST, 7).await, Err(FrameError::TooLarge(_))));

        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        head[5..9].copy_from_slice(&100u32.to_le_bytes());
        near.write_all(&head).await.unwrap();
        drop(near);
        assert!(matches!(read_frame(&mut far, NEWEST, 7).await, Err(FrameError::Io(_))));
    }

    #[tokio::test]
    async fn in_version_2_a_damaged_head_is_noticed_without_waiting_for_the_body() {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        write_frame(&mut near, NEWEST, 7, b"body").await.unwrap();
        let mut bytes = [0; FRAME_HEAD + 4];
        far.read_exact(&mut bytes).await.unwrap();
        for at in 0..bytes.len() {
            let (mut near, mut far) = tokio::io::duplex(1 << 16);
            let mut damaged = bytes;
            damaged[at] ^= 0x20;
            // The other end stays open: what waited for the body would wait for ever.
            near.write_all(&damaged).await.unwrap();
            assert!(read_frame(&mut far, NEWEST, 7).await.is_err(), "byte {at}");
        }
    }
}
