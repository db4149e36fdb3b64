//! Who a member is to the SWIM protocol.
//!
//! An [`Identity`] is as small as it can be, because every datagram carries two or three of them. Name and
//! metadata travel apart, as a [`Profile`](super::wire::Profile). Three rules hold the cluster together:
//! * the address is where foca looks for a conflict, and there the higher generation wins;
//! * the node id is what lasts: a node that comes back at another address is still that node;
//! * a generation only ever grows. Being declared dead, a restart, or leaving each take the next one, so a
//!   rumour about an older life can always be told from the truth.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::mutant;

/// Generations stay below this, so that one more always exists and a liar cannot exhaust them.
pub const MAX_GENERATION: u64 = 1 << 62;

/// One life of one node, as the SWIM protocol knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Identity {
    /// The node, through all its lives and addresses.
    pub node_id: u64,
    /// Where it receives gossip.
    pub addr: SocketAddr,
    /// Grows with every restart, refutation of its death, and departure.
    pub generation: u64,
    /// Whether it has said that it is leaving: when such an identity goes down, the node has left and not
    /// failed. Part of the identity so that no rumour of the death can overtake the reason for it.
    pub leaving: bool,
}

impl Identity {
    /// The next life of the same node; the same generation again only at the very end of all generations.
    pub fn next(&self) -> Identity {
        Identity { generation: self.generation.saturating_add(1).min(MAX_GENERATION), ..*self }
    }
}

impl foca::Identity for Identity {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Identity> {
        // A node that leaves agrees with being declared down.
        // Mutant G02: a node that hears of its own death believes it.
        (!self.leaving && !mutant::is("G02")).then(|| self.next())
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Identity) -> bool {
        (self.generation, self.leaving, self.node_id)
            > (adversary.generation, adversary.leaving, adversary.node_id)
    }
}

/// What arrives from the network, before it is known to make sense.
#[derive(Serialize, Deserialize)]
struct Unchecked {
    node_id: u64,
    addr: SocketAddr,
    generation: u64,
    leaving: bool,
}

impl From<Identity> for Unchecked {
    fn from(id: Identity) -> Unchecked {
        Unchecked { node_id: id.node_id, addr: id.addr, generation: id.generation, leaving: id.leaving }
    }
}

impl TryFrom<Unchecked> for Identity {
    type Error = &'static str;

    fn try_from(raw: Unchecked) -> Result<Identity, &'static str> {
        if raw.generation > MAX_GENERATION {
            return Err("generation out of range");
        }
        if raw.addr.port() == 0 || raw.addr.ip().is_unspecified() || raw.addr.ip().is_multicast() {
            return Err("an address nobody can be reached at");
        }
        Ok(Identity {
            node_id: raw.node_id,
            addr: raw.addr,
            generation: raw.generation,
            leaving: raw.leaving,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity as _;

    fn id(node_id: u64, generation: u64) -> Identity {
        Identity { node_id, addr: "127.0.0.1:8301".parse().unwrap(), generation, leaving: false }
    }

    #[test]
    fn of_two_at_one_address_exactly_one_wins_and_it_is_the_later() {
        assert!(id(1, 2).win_addr_conflict(&id(1, 1)));
        assert!(!id(1, 1).win_addr_conflict(&id(1, 2)));
        assert!(id(2, 1).win_addr_conflict(&id(1, 1)) != id(1, 1).win_addr_conflict(&id(2, 1)));
    }

    #[test]
    fn a_renewed_identity_wins_and_a_leaving_one_is_not_renewed() {
        let old = id(1, 7);
        assert!(old.renew().unwrap().win_addr_conflict(&old));
        assert_eq!(Identity { leaving: true, ..old }.renew(), None);
    }

    #[test]
    fn an_identity_that_makes_no_sense_is_not_decoded() {
        for bad in [
            Identity { generation: u64::MAX, ..id(1, 1) },
            Identity { addr: "127.0.0.1:0".parse().unwrap(), ..id(1, 1) },
            Identity { addr: "0.0.0.0:8301".parse().unwrap(), ..id(1, 1) },
        ] {
            let bytes = postcard::to_stdvec(&bad).unwrap();
            assert!(postcard::from_bytes::<Identity>(&bytes).is_err(), "{bad:?}");
        }
        let good = postcard::to_stdvec(&id(1, 1)).unwrap();
        assert_eq!(postcard::from_bytes::<Identity>(&good).unwrap(), id(1, 1));
    }
}
