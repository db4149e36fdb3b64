//! What is wrong with the network right now: a table of rules that give a verdict on each message.
//!
//! A fault is a value. The storm adds a rule and later takes it away; the network asks for a verdict
//! with its own random numbers and does what it says. Rules compose: any rule may drop the message,
//! delays add up, and copies are made by the first rule that wants one.
//!
//! Damage is what the checksums of UDP and TCP let pass: they are 16 bits wide, and computed anew by every box
//! that rewrites a packet. Whether the receiver notices is the receiver's business.

pub mod scene;

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, RngExt};

use crate::scenario::{Spread, Traffic};

/// What waits for a narrow link for longer than this is lost: its queue is full.
const QUEUE_NS: u64 = 1_000_000_000;

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
    /// Each takes longer.
    Lag(Spread),
    /// Each link passes so many bytes a second; what comes faster queues, and is lost when it would wait too long.
    Bandwidth(u64),
    /// In waves: what is sent while the links are clogged arrives at the end of the wave.
    Clog {
        /// When the first wave began, in true nanoseconds.
        begin_ns: u64,
        /// How long a wave lasts.
        clogged_ns: u64,
        /// How long it is until the next.
        free_ns: u64,
    },
    /// One kind of traffic vanishes; a stream's sender is not even told that its bytes do not arrive.
    Swallow(Traffic),
    /// Streams are refused and reset.
    Refuse,
    /// Some bytes of a message are changed, with this probability.
    Corrupt(f64),
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

impl Rule {
    /// Whether there is any pair of hosts that it speaks of.
    pub fn is_of_any(&self) -> bool {
        match (&self.from, &self.to) {
            (Hosts::Only(from), Hosts::Only(to)) => from.iter().any(|from| to.iter().any(|to| to != from)),
            (Hosts::Only(hosts), Hosts::All) | (Hosts::All, Hosts::Only(hosts)) => !hosts.is_empty(),
            (Hosts::All, Hosts::All) => true,
        }
    }
}

/// A message that asks for its fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// True time.
    pub now_ns: u64,
    /// The sending host.
    pub from: u32,
    /// The receiving host.
    pub to: u32,
    /// What it is part of.
    pub traffic: Traffic,
    /// How long it is.
    pub bytes: usize,
}

/// The fate of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is lost, for this reason; a stream will send it again.
    Drop(&'static str),
    /// It is lost, and the sender believes that it arrived.
    Swallow,
    /// It is sent back: there is no such connection.
    Refuse,
    /// It arrives, later than it would by `delay_ns`, and perhaps twice.
    Pass {
        /// Additional nanoseconds.
        delay_ns: u64,
        /// Whether a copy follows.
        twice: bool,
        /// Whether it arrives damaged: what decides where.
        damage: Option<u64>,
    },
}

/// Changes one to three bytes, as `damage` decides. No message is left as it was, but for an empty one.
pub fn damaged(bytes: &[u8], damage: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut state = damage;
    for _ in 0..=(damage % 3) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) as usize % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            // Added and not flipped: two changes of one byte cannot undo each other.
            *byte = byte.wrapping_add(1 + (state >> 25) as u8 % 64);
        }
    }
    bytes
}

/// The rules in force, by number.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    active: BTreeMap<u64, Rule>,
    next: u64,
    /// Of a rule, sender and receiver: when the narrow link has passed on all that it was given.
    queues: BTreeMap<(u64, u32, u32), u64>,
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
        self.queues.retain(|(rule, _, _), _| *rule != number);
    }

    /// Takes all rules out of force.
    pub fn clear(&mut self) {
        self.active.clear();
        self.queues.clear();
    }

    /// What happens to a message. A host always reaches itself.
    pub fn verdict(&mut self, rng: &mut impl Rng, parcel: &Parcel) -> Verdict {
        let Parcel { now_ns, from, to, traffic, bytes } = *parcel;
        let (mut delay_ns, mut twice, mut damage) = (0u64, false, None);
        if from != to {
            for (number, rule) in &self.active {
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
                    Effect::Lag(spread) => delay_ns = delay_ns.saturating_add(drawn_ns(rng, spread)),
                    Effect::Bandwidth(bytes_per_s) => {
                        let takes = bytes as u128 * 1_000_000_000 / u128::from(bytes_per_s.max(1));
                        let free = self.queues.entry((*number, from, to)).or_default();
                        let begins = now_ns.max(*free);
                        if begins - now_ns > QUEUE_NS {
                            return Verdict::Drop("queue full");
                        }
                        *free = begins.saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
                        delay_ns = delay_ns.saturating_add(*free - now_ns);
                    }
                    Effect::Clog { begin_ns, clogged_ns, free_ns } => {
                        let period = clogged_ns.saturating_add(free_ns).max(1);
                        let into = now_ns.saturating_sub(begin_ns) % period;
                        delay_ns = delay_ns.saturating_add(clogged_ns.saturating_sub(into));
                    }
                    Effect::Swallow(which) if which == traffic => return Verdict::Swallow,
                    Effect::Swallow(_) => {}
                    Effect::Refuse if traffic == Traffic::Streams => return Verdict::Refuse,
                    Effect::Refuse => {}
                    Effect::Corrupt(probability) => {
                        if rng.random_bool(probability) {
                            damage = Some(rng.next_u64());
                        }
                    }
                }
            }
        }
        Verdict::Pass { delay_ns, twice, damage }
    }
}

fn drawn_ns(rng: &mut impl Rng, spread: Spread) -> u64 {
    const MS: u64 = 1_000_000;
    match spread {
        Spread::Constant { ms } => ms.saturating_mul(MS),
        Spread::HeavyTail { min_ms, max_ms } => {
            // The inverse of the distribution at an even draw. In whole numbers, so that every machine draws the same.
            let least = u128::from(min_ms.saturating_mul(MS).max(MS / 10));
            let drawn = (least << 32) / u128::from(rng.random_range(1..=1u64 << 32));
            u64::try_from(drawn).unwrap_or(u64::MAX).min(max_ms.saturating_mul(MS))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::stream;

    fn parcel(from: u32, to: u32) -> Parcel {
        Parcel { now_ns: 0, from, to, traffic: Traffic::Streams, bytes: 1_000 }
    }

    fn passes(rules: &mut Rules, from: u32, to: u32) -> bool {
        matches!(rules.verdict(&mut stream(1, "test"), &parcel(from, to)), Verdict::Pass { .. })
    }

    fn everywhere(effect: Effect) -> Rules {
        let mut rules = Rules::default();
        rules.add(Rule { from: Hosts::All, to: Hosts::All, effect });
        rules
    }

    fn delay(rules: &mut Rules, now_ns: u64) -> u64 {
        match rules.verdict(&mut stream(now_ns, "test"), &Parcel { now_ns, ..parcel(0, 1) }) {
            Verdict::Pass { delay_ns, .. } => delay_ns,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_block_is_one_way_and_ends_when_it_is_removed() {
        let mut rules = Rules::default();
        let block =
            rules.add(Rule { from: Hosts::only([0]), to: Hosts::only([1, 2]), effect: Effect::Block });
        assert!(!passes(&mut rules, 0, 1) && !passes(&mut rules, 0, 2));
        assert!(passes(&mut rules, 1, 0) && passes(&mut rules, 1, 2));
        rules.remove(block);
        assert!(passes(&mut rules, 0, 1));
    }

    #[test]
    fn a_host_always_reaches_itself() {
        let mut rules = Rules::default();
        rules.add(Rule { from: Hosts::All, to: Hosts::All, effect: Effect::Block });
        assert!(passes(&mut rules, 3, 3));
        assert!(!passes(&mut rules, 3, 4));
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
            match rules.verdict(&mut rng, &parcel(0, 1)) {
                Verdict::Drop(reason) => {
                    assert_eq!(reason, "loss");
                    lost += 1;
                }
                Verdict::Pass { delay_ns, twice, damage } => {
                    assert!((110..=220).contains(&delay_ns));
                    assert!(!twice && damage.is_none());
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((2_800..3_200).contains(&lost), "{lost} of 10,000 lost");
    }

    #[test]
    fn a_narrow_link_passes_what_it_can_and_loses_what_waits_too_long() {
        let mut rules = everywhere(Effect::Bandwidth(10_000));
        let delays: Vec<u64> = (0..11).map(|_| delay(&mut rules, 0) / 1_000_000).collect();
        assert_eq!(delays, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1_000, 1_100]);
        let late = rules.verdict(&mut stream(1, "test"), &parcel(0, 1));
        assert_eq!(late, Verdict::Drop("queue full"));
        // The other direction is a link of its own, and the queue drains.
        assert!(passes(&mut rules, 1, 0));
        assert_eq!(delay(&mut rules, 1_100_000_000), 100_000_000);
    }

    #[test]
    fn a_clogged_link_delivers_at_the_end_of_the_wave() {
        let mut rules = everywhere(Effect::Clog { begin_ns: 1_000, clogged_ns: 100, free_ns: 50 });
        let delays = [1_000, 1_040, 1_099, 1_100, 1_149, 1_150, 1_200].map(|now| delay(&mut rules, now));
        assert_eq!(delays, [100, 60, 1, 0, 0, 100, 50]);
    }

    #[test]
    fn the_tail_is_heavy_and_has_an_end() {
        let spread = Spread::HeavyTail { min_ms: 1, max_ms: 500 };
        let mut rules = everywhere(Effect::Lag(spread));
        let mut delays: Vec<u64> = (0..10_000).map(|now| delay(&mut rules, now) / 1_000).collect();
        delays.sort_unstable();
        assert!(delays[0] >= 1_000 && delays[9_999] <= 500_000);
        assert!((1_900..2_100).contains(&delays[5_000]), "median {}", delays[5_000]);
        assert!((90_000..112_000).contains(&delays[9_900]), "99th percentile {}", delays[9_900]);
    }

    #[test]
    fn one_kind_of_traffic_vanishes_or_is_refused_and_the_other_passes() {
        let verdict = |effect: Effect, traffic: Traffic| {
            everywhere(effect).verdict(&mut stream(1, "test"), &Parcel { traffic, ..parcel(0, 1) })
        };
        let passed = Verdict::Pass { delay_ns: 0, twice: false, damage: None };
        assert_eq!(verdict(Effect::Swallow(Traffic::Streams), Traffic::Streams), Verdict::Swallow);
        assert_eq!(verdict(Effect::Swallow(Traffic::Streams), Traffic::Datagrams), passed);
        assert_eq!(verdict(Effect::Swallow(Traffic::Datagrams), Traffic::Datagrams), Verdict::Swallow);
        assert_eq!(verdict(Effect::Refuse, Traffic::Streams), Verdict::Refuse);
        assert_eq!(verdict(Effect::Refuse, Traffic::Datagrams), passed);
    }

    #[test]
    fn damage_always_changes_something() {
        for damage in 0..10_000 {
            for bytes in [&[7u8][..], b"a longer message"] {
                let changed = damaged(bytes, damage);
                assert!(changed != bytes && changed.len() == bytes.len());
            }
        }
        assert!(damaged(&[], 5).is_empty());
    }
}
