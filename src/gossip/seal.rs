//! Encryption of what gossip sends: AES-GCM with the primary key of the [`keyring`](super::keyring).
//!
//! ```text
//! datagram  0xd1 | nonce 12 | ciphertext | tag 16            29 bytes more than what is inside, see `wire`
//! message   0xd1 | purpose u8 | record*                      on a stream
//! record    last u8 | length u32 | nonce 12 | ciphertext | tag 16
//! refusal   0xd0 | reason u8                                 on a stream, to people who ask why they are kept out
//! ```
//! What is authenticated beside the text: the first byte, the purpose, the cluster's number, the record's number and
//! whether it is the last, and the *context*: for every record of a message but the first, the nonce of the first; for the first, the nonce of what it
//! answers, or zeros. So nothing that was recorded can be passed off as something else: a datagram as a record, a
//! question as an answer, an answer as one to another question. A datagram or question as a whole can be sent again, which is
//! what a network may do anyway; gossip takes it as it takes any repetition.
//!
//! A message is cut into records of [`RECORD`] bytes, so that who has no key costs one of them and not the 20 MiB of a
//! push/pull.
//!
//! # No nonce comes twice
//! With one key, two texts under one nonce would give both away, so this is the promise that all rests on. A nonce is a *tag* of 64 bits
//! and a count of 32. Within a life the count goes up, and when it has come round there is another tag: nothing repeats.
//! The tag is drawn from a stream of random numbers named by the node's id and the number of its life, under the seed of the
//! node's world. In production that seed comes from the operating system at each start; the node's id was drawn at random when
//! its directory was founded, and the life's number only grows and is on the disk before gossip starts. Two lives, of one node or
//! of two, have the same tag by chance alone, at 2⁻⁶⁴ for each pair: 2⁻³³ for 65,536 lives under one key, however much they
//! send. (Random nonces are there after 2³² datagrams, a week of a thousand nodes.) In simulation the same seed gives the
//! same nonces, and so the same bytes.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rand::RngExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::warn;

use super::Error;
use super::keyring::{Change, FILE_NAME, Key, KeyError, MAX_FILE, NONCE, Ring, TAG};
use super::wire::{FrameError, Garbage, MAX_DATAGRAM, MAX_FRAME};
use crate::env::{Disk, Env, Rng, replace};
use crate::mutant;

/// The first byte of what is encrypted. No version of the plain form is called so.
pub const SEALED: u8 = 0xd1;
/// The first byte of a refusal.
const REFUSED: u8 = 0xd0;
/// What encryption adds to a datagram.
pub const OVERHEAD: usize = 1 + NONCE + TAG;
/// Bytes of text in a record of a stream, at most.
pub const RECORD: usize = 16 * 1024;
/// The longest message: a frame with its head.
const MAX_MESSAGE: usize = MAX_FRAME + 64;
/// How often the file of keys is read before it counts as damaged.
const READS: usize = 3;

/// The nonce of what is answered, and the like.
pub type Context = [u8; NONCE];
/// Of what answers nothing.
pub const NO_CONTEXT: Context = [0; NONCE];

/// What something encrypted is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// A datagram.
    Datagram = b'd',
    /// The first half of a push/pull.
    Question = b'q',
    /// The second half.
    Answer = b'a',
    /// See [`super::keys`].
    Hello = b'h',
    /// See [`super::keys`].
    Ready = b'r',
    /// See [`super::keys`].
    Order = b'o',
    /// See [`super::keys`].
    Done = b'k',
}

impl Purpose {
    /// Those that a stream may begin with.
    const OF_STREAMS: [Purpose; 6] =
        [Purpose::Question, Purpose::Answer, Purpose::Hello, Purpose::Ready, Purpose::Order, Purpose::Done];
}

/// How gossip is to be encrypted.
#[derive(Clone, PartialEq, Eq)]
pub struct Encryption {
    /// The configured keys, see [`Ring::parse`]. Without any, and without a file of them, nothing is encrypted.
    pub keys: String,
    /// Whether what comes unencrypted is refused.
    pub verify_incoming: bool,
    /// Whether what goes out is encrypted.
    pub verify_outgoing: bool,
}

impl Default for Encryption {
    fn default() -> Encryption {
        Encryption { keys: String::new(), verify_incoming: true, verify_outgoing: true }
    }
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encryption").finish_non_exhaustive()
    }
}

/// Encrypts and decrypts for one node. Clones are the same one.
#[derive(Clone)]
pub struct Sealer {
    inner: Arc<Inner>,
}

struct Inner {
    /// None: this node does not encrypt. That does not change while it runs.
    ring: RwLock<Option<Arc<Ring>>>,
    nonces: Mutex<Nonces>,
    verify_incoming: AtomicBool,
    verify_outgoing: AtomicBool,
    configured: String,
    /// One change at a time.
    changing: Mutex<()>,
}

/// See the module's head.
struct Nonces {
    rng: Rng,
    tag: u64,
    count: u32,
}

impl Nonces {
    fn new(mut rng: Rng) -> Nonces {
        Nonces { tag: rng.random(), count: 0, rng }
    }

    fn next(&mut self) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        nonce[..8].copy_from_slice(&self.tag.to_le_bytes());
        nonce[8..].copy_from_slice(&self.count.to_le_bytes());
        match self.count.checked_add(1) {
            Some(count) => self.count = count,
            None => (self.tag, self.count) = (self.rng.random(), 0),
        }
        nonce
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is authenticated beside the text.
fn associated(purpose: Purpose, cluster: u32, number: u32, last: bool, context: &Context) -> [u8; 23] {
    let mut bytes = [0; 23];
    bytes[0] = SEALED;
    bytes[1] = purpose as u8;
    bytes[2..6].copy_from_slice(&cluster.to_le_bytes());
    bytes[6..10].copy_from_slice(&number.to_le_bytes());
    bytes[10] = last.into();
    bytes[11..].copy_from_slice(context);
    bytes
}

impl Sealer {
    /// For a node in one of its lives, with the keys that its directory and its configuration have.
    ///
    /// # Errors
    /// When there are keys that cannot be used. Not when they cannot be written down: the node has them, and says so.
    pub async fn start(env: &Env, encryption: &Encryption, node_id: u64, life: u64) -> Result<Sealer, Error> {
        let (disk, configured) = (env.disk(), encryption.keys.clone());
        let loaded = env.blocking(move || load(&*disk, &configured)).await;
        let ring = loaded.map_err(|error| Error::Keyring(error.to_string()))??;
        let nonces = Nonces::new(env.rng(&format!("gossip nonces of {node_id:016x} in life {life}")));
        Ok(Sealer {
            inner: Arc::new(Inner {
                ring: RwLock::new(ring.map(Arc::new)),
                nonces: Mutex::new(nonces),
                verify_incoming: AtomicBool::new(encryption.verify_incoming),
                verify_outgoing: AtomicBool::new(encryption.verify_outgoing),
                configured: encryption.keys.clone(),
                changing: Mutex::default(),
            }),
        })
    }

    /// The keys; none if this node does not encrypt.
    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.inner.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether what this node sends is encrypted.
    pub fn seals(&self) -> bool {
        self.inner.verify_outgoing.load(Ordering::Relaxed) && self.ring().is_some()
    }

    /// Whether what comes unencrypted is believed.
    pub fn takes_plain(&self) -> bool {
        !self.inner.verify_incoming.load(Ordering::Relaxed) || self.ring().is_none()
    }

    /// Changes what is demanded of others, and what is done for them.
    pub fn verify(&self, incoming: bool, outgoing: bool) {
        self.inner.verify_incoming.store(incoming, Ordering::Relaxed);
        self.inner.verify_outgoing.store(outgoing, Ordering::Relaxed);
    }

    /// Bytes that a datagram must leave for encryption.
    pub fn overhead(&self) -> usize {
        if self.ring().is_some() { OVERHEAD } else { 0 }
    }

    fn nonce(&self) -> [u8; NONCE] {
        locked(&self.inner.nonces).next()
    }

    // ---- datagrams ----

    /// A datagram as it is sent.
    pub fn datagram(&self, cluster: u32, text: Vec<u8>) -> Vec<u8> {
        let Some(ring) = self.ring().filter(|_| self.seals()) else { return text };
        let nonce = self.nonce();
        let mut sealed = Vec::with_capacity(OVERHEAD + text.len());
        sealed.push(SEALED);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&text);
        let associated = associated(Purpose::Datagram, cluster, 0, true, &NO_CONTEXT);
        let tag = ring.primary().encrypt(&nonce, &associated, &mut sealed[1 + NONCE..]);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// What is in a datagram that was received.
    ///
    /// # Errors
    /// Why nothing of it may be used.
    pub fn open_datagram<'a>(&self, cluster: u32, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, Garbage> {
        if bytes.first() != Some(&SEALED) {
            return if self.takes_plain() { Ok(Cow::Borrowed(bytes)) } else { Err(Garbage::Unencrypted) };
        }
        let ring = self.ring().ok_or(Garbage::NoKey)?;
        if bytes.len() > MAX_DATAGRAM {
            return Err(Garbage::Malformed);
        }
        let (nonce, rest) = bytes[1..].split_first_chunk::<NONCE>().ok_or(Garbage::Malformed)?;
        let (text, tag) = rest.split_last_chunk::<TAG>().ok_or(Garbage::Malformed)?;
        let mut text = text.to_vec();
        let associated = associated(Purpose::Datagram, cluster, 0, true, &NO_CONTEXT);
        if ring.decrypt(nonce, &associated, &mut text, tag) {
            Ok(Cow::Owned(text))
        } else {
            Err(Garbage::WrongKey)
        }
    }

    // ---- streams ----

    /// Writes one message, encrypted whatever is demanded otherwise. Gives what its answer refers to.
    ///
    /// # Errors
    /// When the stream breaks, or there is no key.
    pub async fn write(
        &self,
        stream: &mut (impl AsyncWrite + Unpin + ?Sized),
        purpose: Purpose,
        cluster: u32,
        context: Context,
        text: &[u8],
    ) -> Result<Context, FrameError> {
        let ring = self.ring().ok_or(Garbage::NoKey)?;
        if text.len() > MAX_MESSAGE {
            return Err(FrameError::TooLarge(text.len()));
        }
        let mut context = context;
        let mut first = NO_CONTEXT;
        // A message without text has one record too.
        let pieces = if text.is_empty() { vec![text] } else { text.chunks(RECORD).collect() };
        let count = pieces.len();
        stream.write_all(&[SEALED, purpose as u8]).await?;
        for (number, piece) in (0u32..).zip(pieces) {
            let last = number as usize + 1 == count;
            let nonce = self.nonce();
            let mut record = Vec::with_capacity(1 + 4 + NONCE + piece.len() + TAG);
            record.push(last.into());
            record.extend_from_slice(&((piece.len() + TAG) as u32).to_le_bytes());
            record.extend_from_slice(&nonce);
            let begins = record.len();
            record.extend_from_slice(piece);
            let associated = associated(purpose, cluster, number, last, &context);
            let tag = ring.primary().encrypt(&nonce, &associated, &mut record[begins..]);
            record.extend_from_slice(&tag);
            stream.write_all(&record).await?;
            if number == 0 {
                (context, first) = (nonce, nonce);
            }
        }
        stream.flush().await?;
        Ok(first)
    }

    /// Reads the rest of a message whose beginning [`begin`] has read. Gives what an answer to it refers to.
    ///
    /// # Errors
    /// When the stream breaks, or what comes is not that message.
    pub async fn read(
        &self,
        stream: &mut (impl AsyncRead + Unpin + ?Sized),
        purpose: Purpose,
        cluster: u32,
        context: Context,
    ) -> Result<(Vec<u8>, Context), FrameError> {
        let ring = self.ring().ok_or(Garbage::NoKey)?;
        let mut context = context;
        let mut first = NO_CONTEXT;
        let mut text = Vec::new();
        for number in 0u32.. {
            let mut head = [0; 1 + 4 + NONCE];
            stream.read_exact(&mut head).await?;
            let last = match head[0] {
                0 => false,
                1 => true,
                _ => return Err(Garbage::Malformed.into()),
            };
            let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if !(TAG..=RECORD + TAG).contains(&length) {
                return Err(Garbage::Malformed.into());
            }
            let mut nonce = [0; NONCE];
            nonce.copy_from_slice(&head[5..]);
            let mut record = vec![0; length];
            stream.read_exact(&mut record).await?;
            let (piece, tag) = record.split_last_chunk_mut::<TAG>().ok_or(Garbage::Malformed)?;
            let associated = associated(purpose, cluster, number, last, &context);
            if !ring.decrypt(&nonce, &associated, piece, tag) {
                return Err(Garbage::WrongKey.into());
            }
            text.extend_from_slice(piece);
            if text.len() > MAX_MESSAGE {
                return Err(FrameError::TooLarge(text.len()));
            }
            if number == 0 {
                (context, first) = (nonce, nonce);
            }
            if last {
                break;
            }
        }
        Ok((text, first))
    }

    // ---- changes ----

    /// Changes this node's keys, on its disk first. What was sent before and what comes after is understood by whoever has
    /// either ring.
    ///
    /// # Errors
    /// A text for people; then nothing was changed.
    pub async fn change(&self, env: &Env, change: Change, key: &Key) -> Result<(), String> {
        let (disk, sealer, key) = (env.disk(), self.clone(), key.clone());
        // All of it in the job, which runs to its end even if nobody waits any more.
        let changed = env.blocking(move || sealer.change_now(&*disk, change, &key)).await;
        changed.map_err(|error| error.to_string())?
    }

    fn change_now(&self, disk: &dyn Disk, change: Change, key: &Key) -> Result<(), String> {
        let _turn = locked(&self.inner.changing);
        let ring = self.ring().ok_or("this node does not encrypt its gossip")?;
        let after = ring.changed(change, key).map_err(|error| error.to_string())?;
        if after == *ring {
            return Ok(());
        }
        // Mutant K02: a change of keys is forgotten with the process.
        if !mutant::is("K02") {
            replace(disk, FILE_NAME, &after.write(&self.inner.configured))
                .map_err(|error| format!("cannot write the file {FILE_NAME}: {error}"))?;
        }
        *self.inner.ring.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(after));
        Ok(())
    }
}

/// The ring that a node starts with. Written down if that is new.
fn load(disk: &dyn Disk, configured: &str) -> Result<Option<Ring>, Error> {
    let failed = |error: io::Error| {
        Error::Keyring(format!("cannot read the file {FILE_NAME} in {}: {error}", disk.describe()))
    };
    let mut file = read(disk).map_err(failed)?;
    let mut ring = Ring::at_start(configured, file.as_deref());
    // A disk may read the wrong place once, and what a node takes for damaged it does not come back to.
    for _ in 1..READS {
        if ring != Err(KeyError::File) {
            break;
        }
        file = read(disk).map_err(failed)?;
        ring = Ring::at_start(configured, file.as_deref());
    }
    let ring = match ring {
        Err(KeyError::File) if !configured.trim().is_empty() => {
            warn!(
                "the file {FILE_NAME} is damaged and was moved to {FILE_NAME}.damaged; the configured keys are used"
            );
            disk.rename(FILE_NAME, &format!("{FILE_NAME}.damaged")).map_err(failed)?;
            Ring::at_start(configured, None)
        }
        ring => ring,
    };
    let ring = ring.map_err(|error| match error {
        KeyError::File => Error::Keyring(format!(
            "the file {FILE_NAME} in {} is damaged; put the cluster's key into the configuration (`encrypt_file`)",
            disk.describe()
        )),
        error => Error::Keyring(error.to_string()),
    })?;
    if let Some(ring) = &ring {
        let text = ring.write(configured);
        if file.as_deref() != Some(&text)
            && let Err(error) = replace(disk, FILE_NAME, &text)
        {
            warn!(%error, "cannot write the file {FILE_NAME}: changes of keys will be refused until that is possible");
        }
    }
    Ok(ring)
}

fn read(disk: &dyn Disk) -> io::Result<Option<Vec<u8>>> {
    if !disk.exists(FILE_NAME)? {
        return Ok(None);
    }
    let file = disk.open(FILE_NAME)?;
    // A longer one is none of ours, and is found damaged.
    let mut bytes = vec![0; file.len()?.min(MAX_FILE) as usize];
    file.read_at(0, &mut bytes)?;
    Ok(Some(bytes))
}

/// How something on a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// With the mark of an encrypted message.
    Sealed(Purpose),
    /// With this byte of something that is not encrypted.
    Plain(u8),
}

/// Reads how something begins.
///
/// # Errors
/// When the stream breaks, or the other side says why it will have nothing to do with this one.
pub async fn begin(stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<Begun, FrameError> {
    match stream.read_u8().await? {
        SEALED => {
            let purpose = stream.read_u8().await?;
            let known = Purpose::OF_STREAMS.into_iter().find(|known| *known as u8 == purpose);
            Ok(Begun::Sealed(known.ok_or(Garbage::Malformed)?))
        }
        REFUSED => Err(match stream.read_u8().await? {
            1 => FrameError::Refused("it takes nothing that is not encrypted, and this node has no key"),
            2 => FrameError::Refused("it does not have the key that this node encrypts with"),
            _ => FrameError::Refused("it has no key: it does not encrypt its gossip"),
        }),
        first => Ok(Begun::Plain(first)),
    }
}

/// Tells the other side why nothing that it says is believed, if it is for its keys. Hears it out then, a little: a
/// stream that is closed with bytes unread is reset, and the reason lost.
pub async fn refuse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin + ?Sized), error: &FrameError) {
    let reason = match error {
        FrameError::Garbage(Garbage::Unencrypted) => 1,
        FrameError::Garbage(Garbage::WrongKey) => 2,
        FrameError::Garbage(Garbage::NoKey) => 3,
        _ => return,
    };
    // It is a courtesy: if it cannot be said, it is not.
    if stream.write_all(&[REFUSED, reason]).await.is_ok() && stream.flush().await.is_ok() {
        let _ = tokio::io::copy(&mut stream.take(4 * RECORD as u64), &mut tokio::io::sink()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::env_in_memory;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ONE: &str = "AQEBAQEBAQEBAQEBAQEBAQ==";
    const TWO: &str = "AgICAgICAgICAgICAgICAgICAgICAgIC";

    fn encryption(keys: &str) -> Encryption {
        Encryption { keys: keys.to_owned(), ..Encryption::default() }
    }

    async fn sealer(keys: &str) -> Sealer {
        Sealer::start(&env_in_memory(7), &encryption(keys), 1, 1).await.unwrap()
    }

    #[tokio::test]
    async fn a_datagram_is_read_by_whoever_has_the_key_and_by_nobody_else() {
        let (both, one, two, none) =
            (sealer(&format!("{ONE} {TWO}")).await, sealer(ONE).await, sealer(TWO).await, sealer("").await);
        let sealed = both.datagram(7, b"text".to_vec());
        assert_eq!(sealed.len(), 4 + OVERHEAD);
        assert_eq!(one.open_datagram(7, &sealed).unwrap(), &b"text"[..]);
        assert_eq!(two.open_datagram(7, &sealed), Err(Garbage::WrongKey));
        assert_eq!(none.open_datagram(7, &sealed), Err(Garbage::NoKey));
        assert_eq!(one.open_datagram(8, &sealed), Err(Garbage::WrongKey), "another cluster's");
        assert_eq!(both.open_datagram(7, &two.datagram(7, b"text".to_vec())).unwrap(), &b"text"[..]);
        // What is plain is believed only where nothing else is demanded.
        let plain = none.datagram(7, b"\x01text".to_vec());
        assert_eq!(plain, b"\x01text");
        assert_eq!(none.open_datagram(7, &plain).unwrap(), &plain[..]);
        assert_eq!(one.open_datagram(7, &plain), Err(Garbage::Unencrypted));
        one.verify(false, false);
        assert_eq!(one.open_datagram(7, &plain).unwrap(), &plain[..]);
        assert_eq!(one.datagram(7, plain.clone()), plain);
        assert!(!one.seals() && one.takes_plain());
    }

    #[tokio::test]
    async fn a_message_arrives_whole_or_not_at_all() {
        let sealer = sealer(ONE).await;
        for length in [0, 1, RECORD - 1, RECORD, RECORD + 1, 5 * RECORD] {
            let text: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut bytes = Vec::new();
            let sent = sealer.write(&mut bytes, Purpose::Question, 7, NO_CONTEXT, &text).await.unwrap();
            let mut rest = &bytes[..];
            assert_eq!(begin(&mut rest).await.unwrap(), Begun::Sealed(Purpose::Question));
            let (read, first) = sealer.read(&mut rest, Purpose::Question, 7, NO_CONTEXT).await.unwrap();
            assert!(read == text && first == sent && rest.is_empty(), "{length}");
            // As something else, to something else, of another cluster, cut short at a record.
            for (purpose, cluster, context) in [
                (Purpose::Answer, 7, NO_CONTEXT),
                (Purpose::Question, 8, NO_CONTEXT),
                (Purpose::Question, 7, [1; NONCE]),
            ] {
                let read = sealer.read(&mut &bytes[2..], purpose, cluster, context).await;
                assert!(matches!(read, Err(FrameError::Garbage(Garbage::WrongKey))));
            }
            let mut swapped = bytes.clone();
            swapped[2] ^= 1;
            let read = sealer.read(&mut &swapped[2..], Purpose::Question, 7, NO_CONTEXT).await;
            assert!(matches!(read, Err(FrameError::Garbage(Garbage::WrongKey))));
        }
    }

    #[tokio::test]
    async fn who_is_kept_out_learns_why() {
        for (garbage, words) in [
            (Garbage::Unencrypted, "no key"),
            (Garbage::WrongKey, "the key"),
            (Garbage::NoKey, "not encrypt"),
        ] {
            let (mut near, mut far) = tokio::io::duplex(64);
            let told = async {
                let told = begin(&mut far).await.unwrap_err().to_string();
                drop(far);
                told
            };
            let refusal = garbage.into();
            let ((), told) = tokio::join!(refuse(&mut near, &refusal), told);
            assert!(told.contains(words), "{told}");
        }
    }

    #[tokio::test]
    async fn changes_are_there_after_a_restart() {
        let env = env_in_memory(7);
        let start = |life, keys: &'static str| {
            let env = env.clone();
            async move { Sealer::start(&env, &encryption(keys), 1, life).await }
        };
        let texts = |sealer: &Sealer| {
            let ring = sealer.ring().unwrap();
            ring.keys().iter().map(|key| key.text().to_owned()).collect::<Vec<_>>()
        };
        let first = start(1, ONE).await.unwrap();
        let two = Key::parse(TWO).unwrap();
        assert!(first.change(&env, Change::Use, &two).await.is_err());
        first.change(&env, Change::Install, &two).await.unwrap();
        first.change(&env, Change::Use, &two).await.unwrap();
        assert_eq!(texts(&first), [TWO, ONE]);
        assert_eq!(texts(&start(2, ONE).await.unwrap()), [TWO, ONE]);
        assert_eq!(texts(&start(3, "").await.unwrap()), [TWO, ONE]);
        // A damaged file is not guessed at.
        env.disk().open(FILE_NAME).unwrap().write_at(20, b"??").unwrap();
        let refused = start(4, "").await.err().unwrap().to_string();
        assert!(refused.contains("encrypt_file"), "{refused}");
        assert_eq!(texts(&start(5, ONE).await.unwrap()), [ONE]);
        assert!(env.disk().exists("keyring.damaged").unwrap());
    }

    #[tokio::test]
    async fn no_two_lives_and_no_two_nodes_share_a_nonce_even_under_one_seed() {
        let mut seen = BTreeSet::new();
        for (node, life) in [(1, 1), (1, 2), (2, 1), (1, 11), (11, 1)] {
            let sealer = Sealer::start(&env_in_memory(7), &encryption(ONE), node, life).await.unwrap();
            for _ in 0..1_000 {
                assert!(seen.insert(sealer.nonce()));
            }
        }
        assert_eq!(seen.len(), 5_000);
    }

    #[test]
    fn a_count_that_has_come_round_gets_another_tag() {
        let mut nonces = Nonces::new(env_in_memory(1).rng("n"));
        nonces.count = u32::MAX - 1;
        let drawn: Vec<_> = (0..4).map(|_| nonces.next()).collect();
        assert_eq!(drawn[0][..8], drawn[1][..8]);
        assert_ne!(drawn[1][..8], drawn[2][..8]);
        assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), 4);
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_noticed(text in prop::collection::vec(any::<u8>(), 0..99), bit in any::<prop::sample::Index>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let sealer = runtime.block_on(sealer(ONE));
            let mut sealed = sealer.datagram(7, text);
            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(sealer.open_datagram(7, &sealed).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 1..400)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let sealer = sealer(ONE).await;
                bytes[0] = SEALED;
                let _ = sealer.open_datagram(7, &bytes);
                let _ = begin(&mut &bytes[..]).await;
                let _ = sealer.read(&mut &bytes[1..], Purpose::Question, 7, NO_CONTEXT).await;
            });
        }
    }
}
