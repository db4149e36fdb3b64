//! Room for connections: so many in all, and so many from one address.
//!
//! A bound on all keeps the process alive; a bound for each address keeps one of them from taking everybody's room.
//! The table holds addresses that have a place now, so it is no larger than the room.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The room. Clones are the same.
#[derive(Clone, Debug)]
pub struct Places {
    most: usize,
    most_each: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: BTreeMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// All are taken.
    #[error("too many connections")]
    All,
    /// This address has as many as it may.
    #[error("too many connections from this address")]
    Address,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    addr: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

fn locked(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    /// Room for `most`, of whom `most_each` come from one address.
    pub fn new(most: usize, most_each: usize) -> Places {
        Places { most, most_each, taken: Arc::default() }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// Why there is none.
    pub fn take(&self, addr: IpAddr) -> Result<Place, Full> {
        let mut taken = locked(&self.taken);
        if taken.all >= self.most {
            return Err(Full::All);
        }
        let own = taken.by.entry(addr).or_default();
        if *own >= self.most_each {
            return Err(Full::Address);
        }
        *own += 1;
        taken.all += 1;
        Ok(Place { addr, taken: self.taken.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = locked(&self.taken);
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by.get_mut(&self.addr) {
            *own -= 1;
            if *own == 0 {
                taken.by.remove(&self.addr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_the_room() {
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let places = Places::new(3, 2);
        let held = [places.take(one).unwrap(), places.take(one).unwrap()];
        assert_eq!(places.take(one).err(), Some(Full::Address));
        let other = places.take(two).unwrap();
        assert_eq!(places.take(two).err(), Some(Full::All));
        drop(held);
        assert!(places.take(two).is_ok());
        drop(other);
        assert_eq!(locked(&places.taken).all, 0);
        assert!(locked(&places.taken).by.is_empty());
    }
}
