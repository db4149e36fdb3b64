//! A secret, which shows itself to nobody by accident.
//!
//! Its `Debug` form, and its form in JSON, say only whether there is one: logs, error texts and
//! `/v1/agent/self` cannot give it away. In the encodings that nodes use among themselves and on disk it is what it is.
//! Whoever has to show it says so, by [`Secret::expose`].
//!
//! Two secrets are compared by their SHA-256 hashes, and looked up by them. How long that takes tells something about
//! the hashes at most, which nobody can choose a byte at a time; so no comparison in constant time is needed, and a map
//! can find one among many.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// What stands in its place.
pub const HIDDEN: &str = "<hidden>";

/// A secret text; empty: none.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// A secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it is. Only for whoever may know it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its SHA-256 hash.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { HIDDEN })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hides = serializer.is_human_readable() && !self.is_empty();
        serializer.serialize_str(if hides { HIDDEN } else { &self.0 })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_it_sees_it() {
        let secret = Secret::new("hunter2");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"<hidden>\"");
        assert_eq!(format!("{secret:?}"), HIDDEN);
        let bytes = postcard::to_stdvec(&secret).unwrap();
        assert_eq!(postcard::from_bytes::<Secret>(&bytes).unwrap().expose(), "hunter2");
        let none = Secret::default();
        assert_eq!(
            (serde_json::to_string(&none).unwrap(), format!("{none:?}")),
            ("\"\"".into(), "none".into())
        );
        assert!(secret == Secret::new("hunter2") && secret != none);
    }
}
