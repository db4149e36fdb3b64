//! A share of a larger job, for running it on several machines.
//!
//! The work is a list; shard K of N takes every N-th item of it, beginning with the K-th. Who starts the shards
//! and collects their results is not our business: see `docs/fleet.md`.

use std::fmt;
use std::str::FromStr;

/// One of several equal shares, written `K/N` with K from 1 to N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    number: usize,
    of: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Shard = Shard { number: 1, of: 1 };

    /// Whether the item at this place of the list, counted from 0, is in this share.
    pub fn takes(self, at: usize) -> bool {
        at % self.of == self.number - 1
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let parts = text.split_once('/').map(|(number, of)| (number.parse(), of.parse()));
        match parts {
            Some((Ok(number), Ok(of))) if (1..=of).contains(&number) => Ok(Shard { number, of }),
            Some((Ok(number), Ok(of))) => {
                Err(format!("there is no shard {number} of {of}: they are 1/{of} to {of}/{of}"))
            }
            _ => Err("want K/N, such as 2/8".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_everything_out() {
        for of in 1..=7 {
            for at in 0..50 {
                let takers = (1..=of).filter(|number| Shard { number: *number, of }.takes(at));
                assert_eq!(takers.count(), 1);
            }
        }
        assert!((0..9).all(|at| Shard::WHOLE.takes(at)));
    }

    #[test]
    fn a_shard_that_cannot_be_is_refused() {
        assert_eq!("2/8".parse(), Ok(Shard { number: 2, of: 8 }));
        assert!("0/8".parse::<Shard>().unwrap_err().contains("1/8 to 8/8"));
        assert!("9/8".parse::<Shard>().unwrap_err().contains("no shard 9 of 8"));
        for text in ["", "1", "1/", "a/2", "1/0", "1/2/3"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
