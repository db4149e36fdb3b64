//! The keys that gossip is encrypted with, as a value: which there are, and which of them encrypts.
//!
//! A ring has one primary key, the first, which encrypts what this node sends. What it receives may be encrypted with
//! any of them. That is what makes a change of keys possible while everybody talks: first all get the new key
//! ([`Change::Install`]), then all encrypt with it ([`Change::Use`]), then the old one goes ([`Change::Remove`]); in
//! each step, whoever is ahead and whoever is behind understand each other.
//!
//! The ring outlives a restart in the file [`FILE_NAME`]. It remembers which keys the configuration named when it was
//! written: as long as that is the same, the file knows better, because keys were changed since; a configuration that
//! was changed later than that wins (see [`Ring::at_start`]).
//!
//! [`super::seal`] encrypts and [`super::keys`] changes the rings of a whole cluster. Keys are never logged: no type here that holds one has a
//! [`Debug`](fmt::Debug) form that shows it.

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::consts::U12;
use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::mutant;

/// Name of the file in the node's directory.
pub const FILE_NAME: &str = "keyring";
/// The most keys that a ring holds: every datagram of a stranger is tried with all of them.
pub const MOST_KEYS: usize = 16;
/// Bytes of a nonce.
pub const NONCE: usize = 12;
/// Bytes that show whether something was encrypted with the key, and not changed since.
pub const TAG: usize = 16;
/// A keyring file longer than this is none.
pub const MAX_FILE: u64 = 16 * 1024;

/// What is wrong with a key, or with what is to be done with it. Never shows one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("the key is not base64; `driftline keygen` makes one")]
    Text,
    /// Of a length that AES does not have.
    #[error("the key has {0} bytes and must have 16, 24 or 32; `driftline keygen` makes one of 32")]
    Length(usize),
    /// Serf's words.
    #[error("requested key is not in the keyring")]
    Unknown,
    /// Serf's words.
    #[error("removing the primary key is not allowed")]
    Primary,
    /// There is no room for another.
    #[error("the keyring holds {MOST_KEYS} keys already; remove one first")]
    Full,
    /// The file does not hold what was written to it.
    #[error("the file {FILE_NAME} is damaged")]
    File,
}

/// The cipher of a key: AES-128, AES-192 or AES-256, in Galois/counter mode.
enum Cipher {
    Short(Box<Aes128Gcm>),
    Middle(Box<AesGcm<Aes192, U12>>),
    Long(Box<Aes256Gcm>),
}

/// A key. Clones share it; the cipher forgets its schedule when the last is gone.
#[derive(Clone)]
pub struct Key {
    /// In base64, as people exchange it.
    text: Arc<str>,
    cipher: Arc<Cipher>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl PartialEq for Key {
    /// Two keys of this node's own are compared, never one with what a stranger sent.
    fn eq(&self, other: &Key) -> bool {
        self.text == other.text
    }
}
impl Eq for Key {}

impl Key {
    /// A key in base64.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        let bytes = BASE64.decode(text.trim()).map_err(|_| KeyError::Text)?;
        let wrong = |_| KeyError::Length(bytes.len());
        let cipher = match bytes.len() {
            16 => Cipher::Short(Box::new(Aes128Gcm::new_from_slice(&bytes).map_err(wrong)?)),
            24 => Cipher::Middle(Box::new(AesGcm::new_from_slice(&bytes).map_err(wrong)?)),
            32 => Cipher::Long(Box::new(Aes256Gcm::new_from_slice(&bytes).map_err(wrong)?)),
            other => return Err(KeyError::Length(other)),
        };
        Ok(Key { text: BASE64.encode(&bytes).into(), cipher: Arc::new(cipher) })
    }

    /// In base64.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Encrypts `buffer` where it stands; gives the tag.
    pub fn encrypt(&self, nonce: &[u8; NONCE], associated: &[u8], buffer: &mut [u8]) -> [u8; TAG] {
        let (nonce, text) = (nonce.into(), buffer.into());
        let tag = match &*self.cipher {
            Cipher::Short(cipher) => cipher.encrypt_inout_detached(nonce, associated, text),
            Cipher::Middle(cipher) => cipher.encrypt_inout_detached(nonce, associated, text),
            Cipher::Long(cipher) => cipher.encrypt_inout_detached(nonce, associated, text),
        };
        // It fails for more than 64 GiB only. A tag of zeros would be refused by whoever receives it.
        tag.map_or([0; TAG], Into::into)
    }

    /// Decrypts `buffer` where it stands, if it was encrypted with this key, this nonce and this associated data.
    pub fn decrypt(
        &self,
        nonce: &[u8; NONCE],
        associated: &[u8],
        buffer: &mut [u8],
        tag: &[u8; TAG],
    ) -> bool {
        let (nonce, text, tag) = (nonce.into(), buffer.into(), tag.into());
        let opened = match &*self.cipher {
            Cipher::Short(cipher) => cipher.decrypt_inout_detached(nonce, associated, text, tag),
            Cipher::Middle(cipher) => cipher.decrypt_inout_detached(nonce, associated, text, tag),
            Cipher::Long(cipher) => cipher.decrypt_inout_detached(nonce, associated, text, tag),
        };
        opened.is_ok()
    }
}

/// What is done to a ring. Each may be done again without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Understand what is encrypted with this key.
    Install,
    /// Encrypt with this key, which must be there.
    Use,
    /// Forget this key, which must not be the one that encrypts.
    Remove,
}

/// One or more keys, of which the first encrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    keys: Vec<Key>,
}

/// What stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    /// The first encrypts.
    keys: Vec<String>,
    /// What the configuration said then.
    configured: Vec<String>,
    /// Of both: a changed letter is another key, and nobody would know.
    checksum: String,
}

fn checksum(keys: &[String], configured: &[String]) -> String {
    format!("{:016x}", xxh3_64(format!("{} / {}", keys.join(" "), configured.join(" ")).as_bytes()))
}

fn distinct(keys: impl IntoIterator<Item = Key>) -> Vec<Key> {
    let mut seen: Vec<Key> = Vec::new();
    for key in keys {
        if !seen.contains(&key) {
            seen.push(key);
        }
    }
    seen
}

impl Ring {
    /// The ring of these keys in base64, apart by white space or commas; the first encrypts. None of no keys.
    ///
    /// # Errors
    /// When one is no key, or they are too many.
    pub fn parse(text: &str) -> Result<Option<Ring>, KeyError> {
        let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
        let keys = words.map(Key::parse).collect::<Result<Vec<Key>, KeyError>>()?;
        if keys.is_empty() { Ok(None) } else { Ring::of(keys).map(Some) }
    }

    fn of(keys: Vec<Key>) -> Result<Ring, KeyError> {
        let keys = distinct(keys);
        if keys.len() > MOST_KEYS { Err(KeyError::Full) } else { Ok(Ring { keys }) }
    }

    /// The key that encrypts.
    pub fn primary(&self) -> &Key {
        // A ring is never empty: it is made of at least one key, and the first is never removed.
        &self.keys[0]
    }

    /// All keys, the primary first.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The ring after a change.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn changed(&self, change: Change, key: &Key) -> Result<Ring, KeyError> {
        let at = self.keys.iter().position(|known| known == key);
        let mut keys = self.keys.clone();
        match (change, at) {
            (Change::Install, Some(_)) | (Change::Remove, None) => {}
            (Change::Install, None) if keys.len() >= MOST_KEYS => return Err(KeyError::Full),
            (Change::Install, None) => keys.push(key.clone()),
            (Change::Use, None) => return Err(KeyError::Unknown),
            (Change::Use, Some(at)) => keys[..=at].rotate_right(1),
            (Change::Remove, Some(0)) => return Err(KeyError::Primary),
            (Change::Remove, Some(at)) => drop(keys.remove(at)),
        }
        Ok(Ring { keys })
    }

    /// The ring that a node starts with: what its configuration names and what its file has, if there is one. None
    /// of nothing. The configuration is obeyed when it was changed since the file was written: its first key encrypts then, and
    /// what the file had is still understood.
    ///
    /// # Errors
    /// When a configured key is none, or the file is damaged.
    pub fn at_start(configured: &str, file: Option<&[u8]>) -> Result<Option<Ring>, KeyError> {
        let said = Ring::parse(configured)?;
        let Some(file) = file else { return Ok(said) };
        let (kept, founded_on) = Ring::read(file)?;
        let Some(said) = said else { return Ok(Some(kept)) };
        if said.texts() == founded_on {
            return Ok(Some(kept));
        }
        let mut keys = distinct(said.keys.into_iter().chain(kept.keys));
        keys.truncate(MOST_KEYS);
        Ok(Some(Ring { keys }))
    }

    fn texts(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.text().to_owned()).collect()
    }

    /// As it stands in the file.
    pub fn write(&self, configured: &str) -> Vec<u8> {
        let configured = Ring::parse(configured).ok().flatten().map(|ring| ring.texts()).unwrap_or_default();
        let keys = self.texts();
        let checksum = checksum(&keys, &configured);
        // Plain text has no way to fail.
        let mut text = serde_json::to_vec_pretty(&Written { keys, configured, checksum }).unwrap_or_default();
        text.push(b'\n');
        text
    }

    fn read(file: &[u8]) -> Result<(Ring, Vec<String>), KeyError> {
        let written: Written = serde_json::from_slice(file).map_err(|_| KeyError::File)?;
        if written.checksum != checksum(&written.keys, &written.configured) {
            return Err(KeyError::File);
        }
        let ring = Ring::parse(&written.keys.join(" ")).map_err(|_| KeyError::File)?;
        Ok((ring.ok_or(KeyError::File)?, written.configured))
    }

    /// Decrypts `buffer` where it stands with whichever key fits.
    pub fn decrypt(
        &self,
        nonce: &[u8; NONCE],
        associated: &[u8],
        buffer: &mut [u8],
        tag: &[u8; TAG],
    ) -> bool {
        // Mutant K01: only the key that encrypts here is tried.
        let tried = if mutant::is("K01") { 1 } else { self.keys.len() };
        // The cipher looks at the tag before it touches the buffer: a key that does not fit leaves it as it was.
        self.keys[..tried].iter().any(|key| key.decrypt(nonce, associated, buffer, tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn key(byte: u8, length: usize) -> Key {
        Key::parse(&BASE64.encode(vec![byte; length])).unwrap()
    }

    fn ring(bytes: &[u8]) -> Ring {
        Ring::of(bytes.iter().map(|byte| key(*byte, 32)).collect()).unwrap()
    }

    #[test]
    fn keys_have_one_of_three_lengths() {
        for length in 0..40 {
            let parsed = Key::parse(&BASE64.encode(vec![7; length]));
            assert_eq!(parsed.is_ok(), [16, 24, 32].contains(&length), "{length}");
        }
        assert_eq!(Key::parse("not base64!"), Err(KeyError::Text));
        assert_eq!(format!("{:?}", ring(&[1, 2])), "Ring { keys: [Key(…), Key(…)] }");
    }

    #[test]
    fn the_cipher_is_the_one_of_the_standard() {
        // The test vectors of McGrew and Viega's paper: 2, 8 and 14, which are zeros.
        let vectors = [
            (16, "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf"),
            (24, "98e7247c07f0fe411c267e4384b0f600", "2ff58d80033927ab8ef4d4587514f0fb"),
            (32, "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"),
        ];
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (length, cipher, tag) in vectors {
            let mut buffer = [0; 16];
            let made = key(0, length).encrypt(&[0; NONCE], &[], &mut buffer);
            assert_eq!((hex(&buffer).as_str(), hex(&made).as_str()), (cipher, tag));
            assert!(key(0, length).decrypt(&[0; NONCE], &[], &mut buffer, &made));
            assert_eq!(buffer, [0; 16]);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_serfs_words() {
        let ring = ring(&[1, 2]);
        let error = |change, byte| ring.changed(change, &key(byte, 32)).unwrap_err().to_string();
        assert_eq!(error(Change::Use, 3), "requested key is not in the keyring");
        assert_eq!(error(Change::Remove, 1), "removing the primary key is not allowed");
        assert_eq!(ring.changed(Change::Remove, &key(3, 32)), Ok(ring.clone()));
        let mut full = ring.clone();
        for byte in 3..=MOST_KEYS as u8 {
            full = full.changed(Change::Install, &key(byte, 32)).unwrap();
        }
        assert_eq!(full.changed(Change::Install, &key(99, 32)), Err(KeyError::Full));
        assert!(full.changed(Change::Install, &key(2, 32)).is_ok());
    }

    #[test]
    fn the_file_knows_better_than_a_configuration_that_has_not_changed() {
        let texts = |bytes: &[u8]| ring(bytes).texts().join(" ");
        let start = |configured: &str, file: Option<&[u8]>| Ring::at_start(configured, file).unwrap();
        assert_eq!(start("", None), None);
        assert_eq!(start(&texts(&[1]), None), Some(ring(&[1])));
        // Keys were changed since the node was told of key 1.
        let file = ring(&[3, 2]).write(&texts(&[1]));
        assert_eq!(start(&texts(&[1]), Some(&file)), Some(ring(&[3, 2])));
        assert_eq!(start("", Some(&file)), Some(ring(&[3, 2])));
        // Its operator has told it of another since.
        assert_eq!(start(&texts(&[4]), Some(&file)), Some(ring(&[4, 3, 2])));
        assert_eq!(start(&texts(&[2]), Some(&file)), Some(ring(&[2, 3])));
        for damaged in [&b""[..], b"{}", b"[]", &file[..file.len() - 9]] {
            assert_eq!(Ring::at_start("", Some(damaged)), Err(KeyError::File));
        }
        // A letter that changed makes another key of the same form.
        let at = file.windows(4).position(|part| part == b"AwMD").unwrap();
        let mut changed = file.clone();
        changed[at] = b'B';
        assert_eq!(Ring::at_start("", Some(&changed)), Err(KeyError::File));
    }

    proptest! {
        #[test]
        fn any_changes_leave_a_primary_and_no_key_twice(
            changes in prop::collection::vec((0usize..3, 1u8..6), 0..40),
        ) {
            let mut ring = ring(&[1]);
            for (change, byte) in changes {
                let change = [Change::Install, Change::Use, Change::Remove][change];
                let before = ring.clone();
                match ring.changed(change, &key(byte, 32)) {
                    Ok(after) => ring = after,
                    Err(_) => prop_assert_eq!(&before, &ring),
                }
                let mut texts = ring.texts();
                prop_assert!(!texts.is_empty() && texts.len() <= MOST_KEYS);
                match change {
                    Change::Use if before.keys.contains(&key(byte, 32)) => prop_assert_eq!(ring.primary(), &key(byte, 32)),
                    _ => prop_assert_eq!(ring.primary(), before.primary()),
                }
                let read = Ring::at_start(&texts[0], Some(&ring.write(&texts[0]))).unwrap();
                prop_assert_eq!(read, Some(ring.clone()));
                texts.sort();
                texts.dedup();
                prop_assert_eq!(texts.len(), ring.keys.len());
            }
        }

        #[test]
        fn any_key_of_the_ring_opens_and_no_other(
            text in prop::collection::vec(any::<u8>(), 0..200),
            nonce in any::<[u8; NONCE]>(),
            sealed_with in 1u8..6,
        ) {
            let mut buffer = text.clone();
            let tag = key(sealed_with, 32).encrypt(&nonce, b"associated", &mut buffer);
            let sealed = buffer.clone();
            let opened = ring(&[1, 2, 3]).decrypt(&nonce, b"associated", &mut buffer, &tag);
            prop_assert_eq!(opened, sealed_with <= 3);
            prop_assert_eq!(&buffer, if opened { &text } else { &sealed });
            prop_assert!(!ring(&[1, 2, 3]).decrypt(&nonce, b"other", &mut buffer, &tag));
        }

        #[test]
        fn any_bytes_are_a_ring_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Ring::at_start("", Some(&bytes));
        }
    }
}
