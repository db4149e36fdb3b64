//! Encrypted gossip: which keys the nodes begin with, and whether an operator changes them during the storm.
//!
//! The operator is a careful one, as a runbook would have it: a step is begun when the one before it is done at
//! every node. A node whose disk was replaced, or whose file of the keys was damaged, is started with the keys that are right
//! at that time; any other with those that it was founded with, and has to remember the rest.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

/// The most keys that nodes may begin with.
pub const MOST: u8 = 2;

/// The number of the key that the operator brings.
const NEW: u8 = MOST;

/// The keys that gossip is encrypted with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GossipKeys {
    /// How many keys there are at the beginning. Every node has them all and encrypts with one of them, the next node with the
    /// next key: with two, the cluster is as in the middle of a change. None: gossip is not encrypted.
    pub keys: u8,
    /// When the operator begins to change all nodes over to another key.
    pub changed_at_ms: Option<u64>,
}

/// How far the operator is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Nothing was done yet.
    #[default]
    Founded,
    /// Every node is getting the new key.
    Install,
    /// Every node has it, and is told to encrypt with it.
    Use,
    /// Every node encrypts with it, and is told to forget the others.
    Remove,
    /// Every node has only the new key.
    Done,
}

/// A key in base64; they have all lengths that there are.
fn key(number: u8) -> String {
    let length = [32, 16, 24][usize::from(number) % 3];
    BASE64.encode(vec![number.wrapping_add(7); length])
}

impl GossipKeys {
    /// Whether gossip is encrypted.
    pub fn encrypted(&self) -> bool {
        self.keys > 0
    }

    /// The key that the operator brings.
    pub fn new_key(&self) -> String {
        key(NEW)
    }

    /// The keys that the nodes begin with.
    pub fn old_keys(&self) -> Vec<String> {
        (0..self.keys).map(key).collect()
    }

    /// What a node is configured with that is founded, or begun anew, at this step.
    pub fn configured(&self, node: u32, step: Step) -> String {
        let mut keys = self.old_keys();
        if let Some(first) = (node as usize).checked_rem(keys.len()) {
            keys.rotate_left(first);
            match step {
                Step::Founded => {}
                Step::Install => keys.push(self.new_key()),
                Step::Use => keys.insert(0, self.new_key()),
                Step::Remove | Step::Done => keys = vec![self.new_key()],
            }
        }
        keys.join(" ")
    }
}

/// In two of five seeds gossip is encrypted, in half of those with two keys, and in half of those the key is changed.
pub(super) fn draw(rng: &mut StdRng, duration_ms: u64) -> GossipKeys {
    let keys = [0, 0, 0, 1, 2][rng.random_range(0..5)];
    let at_ms = rng.random_range(0..duration_ms);
    let changed_at_ms = (rng.random_bool(0.5) && keys > 0).then_some(at_ms);
    GossipKeys { keys, changed_at_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftline::gossip::keyring::Ring;

    #[test]
    fn a_node_that_is_begun_anew_understands_the_step_before_and_the_step_after() {
        let keys = GossipKeys { keys: 2, changed_at_ms: Some(1) };
        let steps = [Step::Founded, Step::Install, Step::Use, Step::Remove, Step::Done];
        for node in 0..4 {
            let rings = steps.map(|step| Ring::parse(&keys.configured(node, step)).unwrap().unwrap());
            for pair in rings.windows(2) {
                let (before, after) = (&pair[0], &pair[1]);
                assert!(after.keys().contains(before.primary()));
                assert!(before.keys().contains(after.primary()));
            }
        }
        assert_ne!(keys.configured(0, Step::Founded), keys.configured(1, Step::Founded));
        assert_eq!(GossipKeys::default().configured(3, Step::Use), "");
    }
}
