//! Stand-in until the agent lands: one server, alone, with its state in memory.
#![allow(missing_docs)]
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::config::Config;
use crate::env::Env;
use crate::gossip::{Member, Status, UserEvent};
use crate::state::{Command, Outcome, Request, RequestId, State};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilters {
    pub node: String,
    pub service: String,
    pub tag: String,
}

#[derive(Clone)]
pub struct Agent {
    env: Env,
    config: Arc<Config>,
    state: Arc<watch::Sender<State>>,
    events: Arc<Mutex<Vec<UserEvent>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    Default,
    Consistent,
    Stale,
}

#[derive(Clone, Copy, Debug)]
pub struct QueryOptions {
    pub consistency: Consistency,
    pub min_index: u64,
    pub wait: Duration,
}

#[derive(Clone, Debug)]
pub struct Indexed<T> {
    pub index: u64,
    pub value: T,
}

#[derive(Clone, Debug)]
pub struct Answer<T> {
    pub index: u64,
    pub value: T,
    pub known_leader: bool,
    pub last_contact: Duration,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    NoLeader(String),
    #[error("{0}")]
    Timeout(String),
    #[error("{0}")]
    Stopped(String),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unknown(String),
}

impl Agent {
    pub fn alone(env: Env, config: Config) -> Agent {
        Agent {
            env,
            config: Arc::new(config),
            state: Arc::new(watch::Sender::new(State::default())),
            events: Arc::default(),
        }
    }
    pub fn config(&self) -> &Config {
        &self.config
    }
    pub fn env(&self) -> &Env {
        &self.env
    }
    pub fn node_id(&self) -> u64 {
        1
    }
    pub async fn query<T, F: Fn(&State) -> Indexed<T>>(
        &self,
        options: QueryOptions,
        query: F,
    ) -> Result<Answer<T>, ReadError> {
        let mut watch = self.state.subscribe();
        let deadline = self.env.now() + options.wait;
        loop {
            let Indexed { index, value } = query(&watch.borrow_and_update());
            let left = deadline.since(self.env.now());
            if options.min_index == 0
                || index > options.min_index
                || self.env.timeout(left, watch.changed()).await.is_err()
            {
                return Ok(Answer { index, value, known_leader: true, last_contact: Duration::ZERO });
            }
        }
    }
    pub async fn write(&self, command: Command) -> Result<Outcome, WriteError> {
        let mut outcome = Outcome::Stale;
        self.state.send_modify(|state| {
            let index = state.applied() + 1;
            let id = RequestId { origin: 1, number: index };
            outcome = state.apply(index, &Request { id, done_below: index, command });
        });
        Ok(outcome)
    }
    pub fn leader(&self) -> Option<SocketAddr> {
        Some(self.config.rpc_addr)
    }
    pub fn peers(&self) -> Vec<SocketAddr> {
        vec![self.config.rpc_addr]
    }
    pub async fn add_server(&self, rpc_addr: SocketAddr) -> Result<(), WriteError> {
        Err(WriteError::Refused(format!("{rpc_addr} does not answer")))
    }
    pub fn members(&self) -> Vec<Member> {
        vec![self.local_member()]
    }
    pub fn local_member(&self) -> Member {
        Member {
            node_id: 1,
            name: self.config.node_name.clone(),
            addr: self.config.gossip_addr,
            meta: Bytes::new(),
            generation: 1,
            status: Status::Alive,
        }
    }
    pub fn member_tags(_member: &Member) -> BTreeMap<String, String> {
        BTreeMap::from([("role".to_owned(), "consul".to_owned()), ("dc".to_owned(), "dc1".to_owned())])
    }
    pub async fn join(&self, addrs: &[SocketAddr]) -> Result<usize, String> {
        Err(format!("no answer from {addrs:?}"))
    }
    pub async fn leave(&self) {}
    pub async fn force_leave(&self, name: &str, _prune: bool) -> Result<(), String> {
        Err(format!("agent: No node found with name '{name}'"))
    }
    pub async fn fire_event(
        &self,
        name: &str,
        payload: Bytes,
        filters: EventFilters,
    ) -> Result<UserEvent, String> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let ltime = events.len() as u64 + 1;
        let event = UserEvent {
            id: format!("00000000-0000-0000-0000-{ltime:012}"),
            name: name.to_owned(),
            payload,
            node_filter: filters.node,
            service_filter: filters.service,
            tag_filter: filters.tag,
            version: 1,
            ltime,
        };
        events.push(event.clone());
        Ok(event)
    }
    pub async fn events(&self, name: Option<&str>, _index: u64, _wait: Duration) -> (u64, Vec<UserEvent>) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let listed: Vec<_> =
            events.iter().filter(|event| name.is_none_or(|name| name == event.name)).cloned().collect();
        (listed.len() as u64, listed)
    }
    pub fn stats(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        BTreeMap::from([("raft".to_owned(), BTreeMap::from([("state".to_owned(), "Leader".to_owned())]))])
    }
}
