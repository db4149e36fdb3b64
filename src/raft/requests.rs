//! The ids under which one origin's requests travel, so that a retry applies once.
//!
//! An origin draws its id once in a life and counts its requests. With each it says below which number it has all
//! its answers: the state machine need not remember those any longer (Raft dissertation, section 6.3).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rand::RngExt;

use crate::env::Env;
use crate::mutant;
use crate::state::RequestId;

/// The requests of one origin. Clones are the same origin.
#[derive(Clone)]
pub struct Requests {
    origin: u64,
    numbers: Arc<Mutex<Numbers>>,
}

#[derive(Default)]
struct Numbers {
    next: u64,
    outstanding: BTreeSet<u64>,
}

impl Requests {
    /// An origin of its own.
    pub fn new(env: &Env) -> Requests {
        // Mutant T03: an id depends on what other runs of the program there were.
        let other_runs = if mutant::is("T03") { mutant::process_number() } else { 0 };
        Requests::of(env.rng("request origin").random::<u64>() ^ other_runs)
    }

    /// Those of an origin of this number, of which there must not have been any before.
    pub fn of(origin: u64) -> Requests {
        Requests { origin, numbers: Arc::default() }
    }

    /// The next request's turn.
    pub fn turn(&self) -> Turn {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.next += 1;
        let number = numbers.next;
        numbers.outstanding.insert(number);
        Turn { requests: self.clone(), number }
    }
}

/// The number of one request, given back when this is dropped: when its outcome is known, or nobody wants to
/// know it any more.
pub struct Turn {
    requests: Requests,
    number: u64,
}

impl Turn {
    /// The request's id, the same at every try, and the number below which its origin has all its answers.
    pub fn id(&self) -> (RequestId, u64) {
        let numbers = self.requests.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let done_below = numbers.outstanding.first().copied().unwrap_or(self.number);
        (RequestId { origin: self.requests.origin, number: self.number }, done_below)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut numbers = self.requests.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.outstanding.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::env_in_memory;

    #[test]
    fn what_has_its_answer_need_not_be_remembered() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let requests = Requests::new(&env_in_memory(1));
        let (first, second) = (requests.turn(), requests.turn());
        assert_eq!((first.id().0.number, first.id().1), (1, 1));
        assert_eq!((second.id().0.number, second.id().1), (2, 1));
        drop(first);
        assert_eq!(second.id().1, 2);
        assert_eq!(second.id().0.origin, requests.turn().id().0.origin);
    }
}
