//! What a node tells of itself by gossip, beside its name and address: above all whether it is a server.
//!
//! It travels inside the gossip identity, so it must be small: at most [`MAX_BYTES`] encoded.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Invalid};

/// Limit of the encoded form (memberlist's `MetaMaxSize`).
pub const MAX_BYTES: usize = 512;

/// The facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Server or client.
    pub role: Role,
    /// Port of its HTTP API.
    pub http_port: u16,
    /// Label of the datacenter.
    pub datacenter: String,
    /// The program's version.
    pub version: String,
    /// The operator's labels.
    pub tags: BTreeMap<String, String>,
}

/// What a node is to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It keeps the state.
    Server {
        /// Where other nodes reach it.
        rpc_addr: SocketAddr,
        /// How many servers it waits for before it founds a cluster with them; 0: it does not.
        expect: u32,
    },
    /// It keeps nothing, and asks servers. It never votes, and founds nothing.
    Client,
}

impl Meta {
    /// The facts of a node that is configured so.
    pub fn of(config: &Config, role: Role, http_port: u16) -> Meta {
        Meta {
            role,
            http_port,
            datacenter: config.datacenter.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tags: config.tags.clone(),
        }
    }

    /// Where a server is reached; nothing for a client.
    pub fn rpc_addr(&self) -> Option<SocketAddr> {
        match self.role {
            Role::Server { rpc_addr, .. } => Some(rpc_addr),
            Role::Client => None,
        }
    }

    /// How many servers a server waits for.
    pub fn expect(&self) -> u32 {
        match self.role {
            Role::Server { expect, .. } => expect,
            Role::Client => 0,
        }
    }

    /// Checks that it fits.
    ///
    /// # Errors
    /// When it does not, with what the operator can make smaller.
    pub fn check(&self) -> Result<(), Invalid> {
        let too_large = |size| Invalid {
            key: "tags",
            reason: format!("encoded with the node's facts they take {size} bytes of {MAX_BYTES}"),
        };
        self.encode().map(drop).map_err(too_large)
    }

    /// The encoded form.
    ///
    /// # Errors
    /// The encoded size, when it is above [`MAX_BYTES`].
    pub fn encode(&self) -> Result<Bytes, usize> {
        // Plain data into memory has no other way to fail.
        let bytes = postcard::to_stdvec(self).unwrap_or_default();
        if bytes.len() > MAX_BYTES { Err(bytes.len()) } else { Ok(bytes.into()) }
    }

    /// What was encoded; `None` for anything else, which a stranger may well send.
    pub fn decode(bytes: &[u8]) -> Option<Meta> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meta(tags: &[(&str, &str)]) -> Meta {
        Meta {
            role: Role::Server { rpc_addr: SocketAddr::from(([10, 0, 0, 1], 8300)), expect: 3 },
            http_port: 8500,
            datacenter: "dc1".into(),
            version: "1".into(),
            tags: tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        }
    }

    #[test]
    fn too_many_tags_are_refused_with_their_size() {
        assert!(meta(&[("a", "b")]).encode().is_ok());
        let size = meta(&[("a", &"x".repeat(600))]).encode().unwrap_err();
        assert!(size > 600);
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(tags in prop::collection::btree_map("[a-z]{1,5}", ".{0,9}", 0..5)) {
            let meta = Meta { tags, ..meta(&[]) };
            prop_assert_eq!(Meta::decode(&meta.encode().unwrap()), Some(meta));
        }

        #[test]
        fn any_bytes_are_meta_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Meta::decode(&bytes);
        }
    }
}
