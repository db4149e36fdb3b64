//! Whether what is fired after the heal comes to every node, and what the nodes list of events in the end, as
//! [`crate::check::event_list`] judges it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{CLIENT, Inquirer, LOOK_EVERY};
use crate::check::event_list::{Listed, not_listed};
use crate::scenario::news;

/// An event that every datagram missed comes with an exchange of state; with one of so many at the latest, since each
/// picks its peer by chance.
const EXCHANGES: u32 = 4;

/// How long a node that sees everybody may still be about to join somebody.
const JOINED_WITHIN: Duration = Duration::from_secs(10);

/// How much the events of the world carry.
const BYTES: u64 = 100;

impl Inquirer<'_> {
    /// Fires an event at every node, lets all of them exchange what they know, fires again at every node, and waits until every
    /// node lists all of those. Says what is missing when the time is over.
    pub async fn news_lag(&self) -> Option<String> {
        // Who still asks to join takes these for past.
        if let Err(problem) = self.fire_everywhere("first").await {
            return Some(problem);
        }
        self.clients.sleep(JOINED_WITHIN + self.exchanges()).await;
        match self.fire_everywhere("second").await {
            Ok(names) => self.not_everywhere(&names).await,
            Err(problem) => Some(problem),
        }
    }

    /// How long it takes until an exchange has brought to every node what every other knows.
    fn exchanges(&self) -> Duration {
        Duration::from_millis(self.scenario.settings.gossip().push_pull_interval_ms) * EXCHANGES
    }

    async fn fire_everywhere(&self, round: &str) -> Result<BTreeSet<String>, String> {
        let mut names = BTreeSet::new();
        for node in self.nodes.iter().copied() {
            let name = format!("{round}-{node}");
            let content = news::content(&name, BYTES);
            if !self.clients.fire(self.env, (CLIENT, node), &name, content).await {
                return Err(format!("n{node} does not take an event"));
            }
            names.insert(name);
        }
        Ok(names)
    }

    /// Waits until every node lists these; says what is missing when the time is over.
    async fn not_everywhere(&self, names: &BTreeSet<String>) -> Option<String> {
        let deadline = self.clients.now() + (self.within + self.exchanges()).as_nanos() as u64;
        loop {
            let mut missing = None;
            for node in self.nodes.iter().copied() {
                missing = missing.or(match self.events_of(node).await {
                    Ok(list) => {
                        not_listed(names, &list).map(|name| format!("n{node} does not list {name:?}"))
                    }
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
        self.told(node, "/v1/event/list").await
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
