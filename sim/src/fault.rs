//! What is wrong with the network right now: a table of rules that give a verdict on each message.
//!
//! A fault is a value. The storm adds a rule and later takes it away; the network asks for a verdict
//! with its own random numbers and does what it says. Rules compose: any rule may drop the message,
//! delays add up, and copies are made by the first rule that wants one.
//!
//! Left out: corrupted bytes. The checksums of UDP and TCP turn those into loss.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, RngExt};

/// Which hosts a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Every host, the clients' too.
    All,
    /// These.
    Only(BTreeSet<u32>),
}

impl Hosts {
    /// The hosts of this list.
    pub fn only(hosts: impl IntoIterator<Item = u32>) -> Hosts {
        Hosts::Only(hosts.into_iter().collect())
    }

    fn contains(&self, host: u32) -> bool {
        match self {
            Hosts::All => true,
            Hosts::Only(hosts) => hosts.contains(&host),
        }
    }
}

/// What a rule does to the messages it speaks of.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// None passes.
    Block,
    /// Each is lost with this probability.
    Lose(f64),
    /// Each takes this much longer, drawn evenly between the two.
    Delay {
        /// Least, in nanoseconds.
        min_ns: u64,
        /// Most, in nanoseconds.
        max_ns: u64,
    },
    /// With this probability a message is held back, so that later ones overtake it. A stream puts
    /// its segments in order again, so there it is only a delay.
    Reorder {
        /// How many are held back.
        probability: f64,
        /// For how long at most, in nanoseconds.
        max_ns: u64,
    },
    /// With this probability a datagram arrives twice. A stream throws copies away.
    Duplicate(f64),
}

/// One thing that is wrong, for messages in one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The senders.
    pub from: Hosts,
    /// The receivers.
    pub to: Hosts,
    /// What happens to their messages.
    pub effect: Effect,
}

/// The fate of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is lost, for this reason.
    Drop(&'static str),
    /// It arrives, later than it would by `delay_ns`, and perhaps twice.
    Pass {
        /// Additional nanoseconds.
        delay_ns: u64,
        /// Whether a copy follows.
        twice: bool,
    },
}

/// The rules in force, by number.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    active: BTreeMap<u64, Rule>,
    next: u64,
}

impl Rules {
    /// Puts a rule in force; the number takes it out again.
    pub fn add(&mut self, rule: Rule) -> u64 {
        self.next += 1;
        self.active.insert(self.next, rule);
        self.next
    }

    /// Takes a rule out of force.
    pub fn remove(&mut self, number: u64) {
        self.active.remove(&number);
    }

    /// Takes all rules out of force.
    pub fn clear(&mut self) {
        self.active.clear();
    }

    /// What happens to a message from host `from` to host `to`. A host always reaches itself.
    pub fn verdict(&self, rng: &mut impl Rng, from: u32, to: u32) -> Verdict {
        let (mut delay_ns, mut twice) = (0u64, false);
        if from != to {
            for rule in self.active.values() {
                if !rule.from.contains(from) || !rule.to.contains(to) {
                    continue;
                }
                match rule.effect {
                    Effect::Block => return Verdict::Drop("partition"),
                    Effect::Lose(probability) if rng.random_bool(probability) => {
                        return Verdict::Drop("loss");
                    }
                    Effect::Lose(_) => {}
                    Effect::Delay { min_ns, max_ns } => {
                        delay_ns = delay_ns.saturating_add(rng.random_range(min_ns..=max_ns.max(min_ns)));
                    }
                    Effect::Reorder { probability, max_ns } => {
                        if rng.random_bool(probability) {
                            delay_ns = delay_ns.saturating_add(rng.random_range(0..=max_ns));
                        }
                    }
                    Effect::Duplicate(probability) => twice |= rng.random_bool(probability),
                }
            }
        }
        Verdict::Pass { delay_ns, twice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::stream;

    fn passes(rules: &Rules, from: u32, to: u32) -> bool {
        matches!(rules.verdict(&mut stream(1, "test"), from, to), Verdict::Pass { .. })
    }

    #[test]
    fn a_block_is_one_way_and_ends_when_it_is_removed() {
        let mut rules = Rules::default();
        let block =
            rules.add(Rule { from: Hosts::only([0]), to: Hosts::only([1, 2]), effect: Effect::Block });
        assert!(!passes(&rules, 0, 1) && !passes(&rules, 0, 2));
        assert!(passes(&rules, 1, 0) && passes(&rules, 1, 2));
        rules.remove(block);
        assert!(passes(&rules, 0, 1));
    }

    #[test]
    fn a_host_always_reaches_itself() {
        let mut rules = Rules::default();
        rules.add(Rule { from: Hosts::All, to: Hosts::All, effect: Effect::Block });
        assert!(passes(&rules, 3, 3));
        assert!(!passes(&rules, 3, 4));
    }

    #[test]
    fn delays_add_up_and_loss_is_as_frequent_as_asked() {
        let mut rules = Rules::default();
        for (min_ns, max_ns) in [(10, 20), (100, 200)] {
            rules.add(Rule { from: Hosts::All, to: Hosts::All, effect: Effect::Delay { min_ns, max_ns } });
        }
        rules.add(Rule { from: Hosts::All, to: Hosts::All, effect: Effect::Lose(0.3) });
        let mut rng = stream(1, "test");
        let mut lost = 0;
        for _ in 0..10_000 {
            match rules.verdict(&mut rng, 0, 1) {
                Verdict::Drop(reason) => {
                    assert_eq!(reason, "loss");
                    lost += 1;
                }
                Verdict::Pass { delay_ns, twice } => {
                    assert!((110..=220).contains(&delay_ns));
                    assert!(!twice);
                }
            }
        }
        assert!((2_800..3_200).contains(&lost), "{lost} of 10,000 lost");
    }
}
