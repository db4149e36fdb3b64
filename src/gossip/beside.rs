//! The embedding program's [`Delegate`] beside the user events, over one gossip.
//!
//! Messages carry a byte that says whose they are; in push/pull the two states are a pair. All nodes of a cluster
//! have such a program or none has: without one, messages and state are the events' own, with no byte more.
//!
//! The metadata stay the agent's. What a program wants every member to see of a node goes into its tags.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::select;
use tokio::sync::Notify;

use super::delegate::Delegate;
use super::events::UserEvents;
use crate::env::{AbortOnDrop, Env};

const EVENT: u8 = 0;
const PROGRAM: u8 = 1;

/// Two delegates as one.
pub struct Beside {
    events: UserEvents,
    program: Arc<dyn Delegate>,
    changed: Option<Arc<Notify>>,
    _passing_on: Option<AbortOnDrop>,
}

impl Beside {
    /// The events first: what room they leave in a datagram is the program's.
    pub fn new(env: &Env, events: UserEvents, program: Arc<dyn Delegate>) -> Beside {
        // Gossip waits for one; either one's news must reach it.
        let (changed, passing_on) = match (events.changed(), program.changed()) {
            (Some(first), Some(second)) => {
                let both = Arc::new(Notify::new());
                let told = both.clone();
                let passing_on = env.spawn(async move {
                    loop {
                        select(first.notified().boxed(), second.notified().boxed()).await;
                        told.notify_one();
                    }
                });
                (Some(both), Some(passing_on.abort_on_drop()))
            }
            _ => (None, None),
        };
        Beside { events, program, changed, _passing_on: passing_on }
    }
}

fn marked(whose: u8, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.len());
    bytes.put_u8(whose);
    bytes.put_slice(message);
    bytes.freeze()
}

impl Delegate for Beside {
    fn node_meta(&self, limit: usize) -> Bytes {
        self.events.node_meta(limit)
    }

    fn notify_msg(&self, message: &[u8]) {
        match message.split_first() {
            Some((&EVENT, message)) => self.events.notify_msg(message),
            Some((&PROGRAM, message)) => self.program.notify_msg(message),
            _ => {}
        }
    }

    fn get_broadcasts(&self, overhead: usize, limit: usize) -> Vec<Bytes> {
        let mut left = limit;
        let mut all = Vec::new();
        let both: [(u8, &dyn Delegate); 2] = [(EVENT, &self.events), (PROGRAM, &*self.program)];
        for (whose, delegate) in both {
            for message in delegate.get_broadcasts(overhead + 1, left) {
                left = left.saturating_sub(overhead + 1 + message.len());
                all.push(marked(whose, &message));
            }
        }
        all
    }

    fn local_state(&self, join: bool) -> Bytes {
        let both = (self.events.local_state(join), self.program.local_state(join));
        postcard::to_stdvec(&both).unwrap_or_default().into()
    }

    fn merge_remote_state(&self, state: &[u8], join: bool) {
        if let Ok((events, program)) = postcard::from_bytes::<(Bytes, Bytes)>(state) {
            self.events.merge_remote_state(&events, join);
            self.program.merge_remote_state(&program, join);
        }
    }

    fn changed(&self) -> Option<Arc<Notify>> {
        self.changed.clone()
    }

    fn cluster_size(&self, live: usize) {
        self.events.cluster_size(live);
        self.program.cluster_size(live);
    }

    fn stats(&self) -> BTreeMap<String, String> {
        let mut stats = self.program.stats();
        stats.extend(self.events.stats());
        stats
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::events::NewEvent;
    use super::*;
    use crate::env::real::env_in_memory;

    /// Says one thing and remembers what it hears.
    #[derive(Default)]
    struct Program {
        says: Bytes,
        heard: Mutex<Vec<Bytes>>,
    }

    impl Delegate for Program {
        fn node_meta(&self, _limit: usize) -> Bytes {
            Bytes::new()
        }
        fn notify_msg(&self, message: &[u8]) {
            self.heard.lock().unwrap().push(Bytes::copy_from_slice(message));
        }
        fn get_broadcasts(&self, overhead: usize, limit: usize) -> Vec<Bytes> {
            let fits = overhead + self.says.len() <= limit;
            fits.then(|| self.says.clone()).into_iter().collect()
        }
        fn local_state(&self, _join: bool) -> Bytes {
            self.says.clone()
        }
        fn merge_remote_state(&self, state: &[u8], _join: bool) {
            self.notify_msg(state);
        }
    }

    fn beside(says: &'static str) -> (UserEvents, Arc<Program>, Beside) {
        let env = env_in_memory(1);
        let events = UserEvents::new(&env, Bytes::new);
        let program = Arc::new(Program { says: Bytes::from(says), ..Program::default() });
        let both = Beside::new(&env, events.clone(), program.clone());
        (events, program, both)
    }

    #[tokio::test]
    async fn each_hears_its_own() {
        let (events, _, sender) = beside("from the program");
        events.fire(NewEvent { name: "deploy".to_owned(), ..NewEvent::default() }).unwrap();
        let messages = sender.get_broadcasts(2, 1_400);
        assert_eq!(messages.len(), 2);
        let (heard_events, heard_program, receiver) = beside("");
        for message in &messages {
            receiver.notify_msg(message);
        }
        assert_eq!(heard_events.list(None).1.len(), 1);
        assert_eq!(*heard_program.heard.lock().unwrap(), ["from the program"]);

        let (heard_events, heard_program, receiver) = beside("");
        receiver.merge_remote_state(&sender.local_state(false), false);
        assert_eq!(heard_events.list(None).1.len(), 1);
        assert_eq!(*heard_program.heard.lock().unwrap(), ["from the program"]);
    }

    #[tokio::test]
    async fn both_together_keep_to_the_limit() {
        let (events, _, sender) = beside("0123456789");
        events.fire(NewEvent { name: "deploy".to_owned(), ..NewEvent::default() }).unwrap();
        for limit in 0..200 {
            let messages = sender.get_broadcasts(2, limit);
            assert!(messages.iter().map(|message| message.len() + 2).sum::<usize>() <= limit);
        }
    }

    #[tokio::test]
    async fn nonsense_is_nobodys() {
        let (events, program, both) = beside("");
        for nonsense in [&b""[..], b"\x02x", b"\x00", b"\xff"] {
            both.notify_msg(nonsense);
            both.merge_remote_state(nonsense, true);
        }
        assert!(events.list(None).1.is_empty() && program.heard.lock().unwrap().is_empty());
    }
}
