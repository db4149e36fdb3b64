//! Whether what is fired after the heal comes to every node, and what the nodes list of events in the end, as
//! [`crate::check::event_list`] judges it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use hyper::Method;

use super::{CLIENT, Inquirer, LOOK_EVERY};
use crate::check::event_list::{Listed, not_listed};
use crate::scenario::news;

/// An event that every datagram missed comes with an exchange of state; with one of so many at the latest, since each
/// picks its peer by chance.
const EXCHANGES: u32 = 4;

/// How long a node that sees everybody may still be about to join somebody.
const JOINED_WITHIN: Duration = Duration::from_secs(10);

/// How long whoever waits for an event has to begin to.
const BEGINS_WITHIN: Duration = Duration::from_secs(2);

/// What a node lists.
const LIST: &str = "/v1/event/list";

/// How much the events of the world carry.
const BYTES: u64 = 100;

impl Inquirer<'_> {
    /// Fires an event at every node, lets all of them exchange what they know, fires again at every node, and waits until every
    /// node lists all of those, and has told so whoever waited for news there. Says what is missing when the time is over.
    pub async fn news_lag(&self) -> Option<String> {
        // Who still asks to join takes these for past.
        if let Err(problem) = self.fire_everywhere("first").await {
            return Some(problem);
        }
        self.clients.sleep(JOINED_WITHIN + self.exchanges()).await;
        let waiters = join_all(self.nodes.iter().map(|node| self.wait_for_news(*node)));
        let fired = async {
            self.clients.sleep(BEGINS_WITHIN).await;
            self.fire_everywhere("second").await
        };
        let (asleep, fired) = join(waiters, fired).await;
        match fired {
            Ok(ids) => match self.not_everywhere(&ids).await {
                None => asleep.into_iter().flatten().next(),
                missing => missing,
            },
            Err(problem) => Some(problem),
        }
    }

    /// Waits at a node for an event that it does not list yet; says what was wrong with the answer.
    async fn wait_for_news(&self, node: u32) -> Option<String> {
        let within = self.within + self.exchanges() + BEGINS_WITHIN;
        let asked = self.clients.call(self.env, node, Method::GET, LIST, Bytes::new()).await;
        let known = asked.ok().and_then(|answer| answer.header("x-consul-index").map(str::to_owned));
        let Some(known) = known else { return Some(format!("n{node} does not list events")) };
        let began = self.clients.now();
        let path = format!("{LIST}?index={known}&wait={}ms", 2 * within.as_millis());
        let patience = Some(3 * within);
        let answer =
            self.clients.call_within(self.env, node, Method::GET, &path, Bytes::new(), patience).await;
        let took = Duration::from_nanos(self.clients.now() - began);
        match answer {
            Err(error) => Some(format!("n{node} does not answer who waits for events: {error}")),
            Ok(_) if took > within => {
                Some(format!("n{node} woke who waited for an event after {} s", took.as_secs()))
            }
            Ok(_) => None,
        }
    }

    /// How long it takes until an exchange has brought to every node what every other knows.
    fn exchanges(&self) -> Duration {
        Duration::from_millis(self.scenario.settings.gossip().push_pull_interval_ms) * EXCHANGES
    }

    /// Fires at all nodes at once, and by one name, which are as many events.
    async fn fire_everywhere(&self, round: &str) -> Result<BTreeSet<String>, String> {
        let fired = self.nodes.iter().map(|node| async move {
            let content = news::content(&format!("{round}-{node}"), BYTES);
            let id = self.clients.fire(self.env, (CLIENT, *node), round, content).await;
            id.ok_or_else(|| format!("n{node} does not take an event"))
        });
        join_all(fired).await.into_iter().collect()
    }

    /// Waits until every node lists these; says what is missing when the time is over.
    async fn not_everywhere(&self, ids: &BTreeSet<String>) -> Option<String> {
        let deadline = self.clients.now() + (self.within + self.exchanges()).as_nanos() as u64;
        loop {
            let mut missing = None;
            for node in self.nodes.iter().copied() {
                missing = missing.or(match self.events_of(node).await {
                    Ok(list) => not_listed(ids, &list).map(|id| format!("n{node} does not list event {id}")),
                    Err(error) => Some(error),
                });
            }
            if missing.is_none() || self.clients.now() > deadline {
                return missing;
            }
            self.clients.sleep(LOOK_EVERY).await;
        }
    }

    async fn events_of(&self, node: u32) -> Result<Vec<Listed>, String> {
        self.told(node, LIST).await
    }

    /// What each node lists.
    pub async fn events(&self) -> BTreeMap<u32, Vec<Listed>> {
        let mut events = BTreeMap::new();
        for node in self.nodes.iter().copied() {
            if let Ok(list) = self.events_of(node).await {
                events.insert(node, list);
            }
        }
        events
    }
}
