//! The keys of gossip, all over the cluster: asked of every member, and changed at every member.
//!
//! There is no vote on keys and no log of them. Each member has its own ring on its own disk, so what an operator
//! needs to know is who has which: [`Keyring`] counts. Changing a key is safe in three steps, each of which has to be
//! everywhere before the next begins (see [`crate::gossip::keyring`]); each may be repeated until it is.
//!
//! A member that has failed cannot be asked. It is named, because it comes back with the keys that it had: it will be kept out, if meanwhile
//! the one that it encrypts with was removed, and any other that was removed it understands still.

use std::collections::BTreeMap;

use futures_util::StreamExt;

use crate::gossip::keyring::{Change, Key};
use crate::gossip::keys::{Answer, Held, Order};
use crate::gossip::{Member, Status};

use super::Agent;

/// So many members are asked at once.
const AT_ONCE: usize = 32;

/// What is said when gossip is not encrypted; Serf's words.
pub const NO_KEYS: &str = "keyring is empty (encryption not enabled)";

/// Who has which keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    /// How many members were asked.
    pub nodes: usize,
    /// How many of them failed to do it, or to answer.
    pub failed: usize,
    /// Why, by name; and the members that were not asked because they have failed.
    pub messages: BTreeMap<String, String>,
    /// How many members have each key, in base64.
    pub keys: BTreeMap<String, usize>,
    /// How many encrypt with it.
    pub primary: BTreeMap<String, usize>,
}

impl Keyring {
    /// Counts the members' answers.
    fn count(answers: Vec<(String, Answer)>, not_asked: Vec<String>) -> Keyring {
        let mut ring = Keyring { nodes: answers.len(), ..Keyring::default() };
        for (name, answer) in answers {
            match answer {
                Ok(Held { keys, primary }) => {
                    keys.into_iter().for_each(|key| *ring.keys.entry(key).or_default() += 1);
                    *ring.primary.entry(primary).or_default() += 1;
                }
                Err(reason) => {
                    ring.failed += 1;
                    ring.messages.insert(name, reason);
                }
            }
        }
        for name in not_asked {
            ring.messages.entry(name).or_insert_with(|| {
                "has failed and was not asked; when it is back it has the keys that it had, and is kept out if the one that it \
                 encrypts with was removed"
                    .to_owned()
            });
        }
        ring
    }

    /// Says who did not do it, if anybody.
    ///
    /// # Errors
    /// In Serf's words, with the reasons.
    pub fn complete(&self) -> Result<(), String> {
        if self.failed == 0 {
            return Ok(());
        }
        let reasons: Vec<String> =
            self.messages.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        Err(format!("{}/{} nodes reported failure: {}", self.failed, self.nodes, reasons.join("; ")))
    }
}

impl Agent {
    /// Asks every member for its keys, or this node alone; changes them first, if there is something to change.
    ///
    /// # Errors
    /// When gossip is not encrypted, or the key is none. What single members say against it is in [`Keyring::messages`].
    pub async fn keyring(&self, change: Option<(Change, &str)>, local_only: bool) -> Result<Keyring, String> {
        let lan = &self.inner.lan;
        if !lan.has_keys() {
            return Err(NO_KEYS.to_owned());
        }
        let change = match change {
            Some((change, key)) => {
                let key = Key::parse(key).map_err(|error| error.to_string())?;
                Some((change, key.text().to_owned()))
            }
            None => None,
        };
        let order = Order { change };
        let everyone = if local_only { vec![lan.local()] } else { lan.members() };
        let (alive, others): (Vec<Member>, Vec<Member>) =
            everyone.into_iter().partition(|member| member.status.is_live());
        let failed = others.into_iter().filter(|member| member.status == Status::Failed);
        let not_asked = failed.map(|member| member.name).collect();
        // In a task of its own: whoever asked may hang up, and half of a change is worse than none or all.
        let lan = lan.clone();
        let asking = self.inner.env.spawn(async move {
            let asked = alive.into_iter().map(|member| {
                let (lan, order) = (lan.clone(), order.clone());
                async move {
                    let answer = lan.order(&member, &order).await;
                    (member.name, answer)
                }
            });
            let answers = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
            answers.collect::<Vec<_>>().await
        });
        let answers = asking.await.map_err(|error| error.to_string())?;
        Ok(Keyring::count(answers, not_asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_key_and_failures_named() {
        let held = |keys: &[&str], primary: &str| {
            Ok(Held { keys: keys.iter().map(|key| key.to_string()).collect(), primary: primary.to_owned() })
        };
        let answers = vec![
            ("a".to_owned(), held(&["k1", "k2"], "k1")),
            ("b".to_owned(), held(&["k1"], "k1")),
            ("c".to_owned(), Err("no answer".to_owned())),
        ];
        let ring = Keyring::count(answers, vec!["d".to_owned()]);
        assert_eq!((ring.nodes, ring.failed, ring.messages.len()), (3, 1, 2));
        assert_eq!(ring.keys, BTreeMap::from([("k1".to_owned(), 2), ("k2".to_owned(), 1)]));
        assert_eq!(ring.primary, BTreeMap::from([("k1".to_owned(), 2)]));
        assert!(ring.complete().unwrap_err().starts_with("1/3 nodes reported failure: c: no answer"));
        assert_eq!(Keyring::count(vec![("a".to_owned(), held(&["k"], "k"))], vec![]).complete(), Ok(()));
    }
}
