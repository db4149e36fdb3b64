//! Which cluster a node is of, and whom it therefore does not listen to.
//!
//! Two clusters that were founded apart have two histories and can never be one. Nothing in SWIM keeps them apart: one address given
//! by mistake to join, and every member of each lists those of the other, clients ask servers that have other data, and a leader
//! enters strangers into its catalog. So a node says which cluster it is of in everything that it sends, and
//! believes nothing of whoever names another.
//!
//! The program tells which cluster its node is of, if it has that from its own disk: such a node is *sure*. One that has no such
//! knowledge, a new server or any client, is of the cluster whose sure member it hears first, until no such member lives any more:
//! then the cluster may have been founded anew, and it is free again. Only the sure are followed, or two who follow
//! each other would never be free. Who is of no cluster yet is heard by all and hears all.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::wire::Garbage;

/// What a node says of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belongs {
    /// The number that the cluster got when it was founded.
    pub cluster: u64,
    /// Whether the node knows it from its own disk, and not from another node.
    pub sure: bool,
}

impl Belongs {
    /// What is written behind a sender or a state.
    pub fn encode(it: Option<Belongs>) -> Vec<u8> {
        // Serializing plain data into memory has no way to fail.
        it.map(|it| postcard::to_stdvec(&it).unwrap_or_default()).unwrap_or_default()
    }

    /// What follows a sender or a state; nothing there says nothing. Gives what is behind it, too.
    ///
    /// # Errors
    /// When it is something else.
    pub fn decode(bytes: &[u8]) -> Result<(Option<Belongs>, &[u8]), Garbage> {
        if bytes.is_empty() {
            return Ok((None, bytes));
        }
        let (it, rest) = postcard::take_from_bytes(bytes).map_err(|_| Garbage::Malformed)?;
        Ok((Some(it), rest))
    }
}

/// Two nodes that must not listen to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherCluster {
    /// The cluster of the other node.
    pub theirs: u64,
    /// That of this one.
    pub mine: u64,
}

impl fmt::Display for OtherCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OtherCluster { theirs, mine } = self;
        write!(f, "of cluster {theirs:016x}, and this node is of {mine:016x}: two clusters cannot be merged")
    }
}

/// Which cluster this node is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allegiance(Option<Belongs>);

impl Allegiance {
    /// What the node says of itself.
    pub fn belongs(self) -> Option<Belongs> {
        self.0
    }

    /// The program knows. Says whether that is news.
    pub fn settle(&mut self, cluster: u64) -> bool {
        let now = Some(Belongs { cluster, sure: true });
        std::mem::replace(&mut self.0, now) != now
    }

    /// Another node spoke. Says whether this one follows it from now on.
    ///
    /// # Errors
    /// When nothing of what it said may be believed.
    pub fn hears(&mut self, theirs: Option<Belongs>) -> Result<bool, OtherCluster> {
        match (self.0, theirs) {
            (Some(mine), Some(theirs)) if mine.cluster != theirs.cluster => {
                Err(OtherCluster { theirs: theirs.cluster, mine: mine.cluster })
            }
            (None, Some(theirs)) if theirs.sure => {
                self.0 = Some(Belongs { cluster: theirs.cluster, sure: false });
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether this node only follows others.
    pub fn follows(self) -> bool {
        self.0.is_some_and(|it| !it.sure)
    }

    /// None of those whom it followed lives any more.
    pub fn forget(&mut self) {
        if self.follows() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(cluster: u64, sure: bool) -> Option<Belongs> {
        Some(Belongs { cluster, sure })
    }

    #[test]
    fn who_is_of_no_cluster_follows_the_first_that_is_sure() {
        let mut node = Allegiance::default();
        assert_eq!(node.hears(None), Ok(false));
        assert_eq!((node.hears(says(1, false)), node.belongs()), (Ok(false), None));
        assert_eq!((node.hears(says(1, true)), node.belongs()), (Ok(true), says(1, false)));
        assert_eq!(node.hears(says(1, true)), Ok(false));
        assert_eq!(node.hears(None), Ok(false), "the new are heard");
        assert_eq!(node.hears(says(2, true)), Err(OtherCluster { theirs: 2, mine: 1 }));
        assert_eq!(node.hears(says(2, false)), Err(OtherCluster { theirs: 2, mine: 1 }));
    }

    #[test]
    fn who_follows_is_free_once_all_are_gone_and_who_is_sure_never_is() {
        let mut node = Allegiance::default();
        node.hears(says(1, true)).unwrap();
        node.forget();
        assert_eq!(node.hears(says(2, true)), Ok(true));
        assert!(node.settle(3) && !node.settle(3));
        node.forget();
        assert_eq!((node.belongs(), node.follows()), (says(3, true), false));
    }
}
