//! Who is kept out, and how often that is said.
//!
//! A stranger may knock a thousand times a second. Each knock is counted; the log hears of an address once in
//! [`PERIOD`], with how often it has knocked since. The table is bounded: addresses beyond [`MOST`] are one crowd. A source
//! address can be forged, so none of this decides anything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::Instant;

/// How long an address is not spoken of again.
pub const PERIOD: Duration = Duration::from_secs(600);
/// So many addresses are told apart.
pub const MOST: usize = 256;

/// Those who were kept out lately.
#[derive(Debug, Default)]
pub struct Strangers {
    known: BTreeMap<IpAddr, Seen>,
    crowd: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    told: Instant,
    since: u64,
}

/// What the log should hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How often this one was turned away since the last notice, this time included.
    pub times: u64,
    /// Whether it is about many addresses and not about this one.
    pub crowd: bool,
}

impl Strangers {
    /// Another one was turned away. Says whether it is time to speak of it.
    pub fn turned_away(&mut self, now: Instant, from: IpAddr) -> Option<Notice> {
        if !self.known.contains_key(&from) && self.known.len() >= MOST {
            self.known.retain(|_, seen| now.since(seen.told) < PERIOD);
        }
        if !self.known.contains_key(&from) && self.known.len() >= MOST {
            let first = self.crowd.is_none();
            let crowd = self.crowd.get_or_insert(Seen { told: now, since: 0 });
            return crowd.again(now, first).map(|times| Notice { times, crowd: true });
        }
        let first = !self.known.contains_key(&from);
        let seen = self.known.entry(from).or_insert(Seen { told: now, since: 0 });
        seen.again(now, first).map(|times| Notice { times, crowd: false })
    }
}

impl Seen {
    fn again(&mut self, now: Instant, first: bool) -> Option<u64> {
        self.since += 1;
        if !first && now.since(self.told) < PERIOD {
            return None;
        }
        self.told = now;
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(1_000_000_000 * seconds)
    }

    fn addr(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn each_is_spoken_of_once_a_period() {
        let mut strangers = Strangers::default();
        let once = Some(Notice { times: 1, crowd: false });
        assert_eq!(strangers.turned_away(at(1), addr(1)), once);
        assert_eq!(strangers.turned_away(at(1), addr(2)), once);
        for _ in 0..1_000 {
            assert_eq!(strangers.turned_away(at(2), addr(1)), None);
        }
        let later = strangers.turned_away(at(601), addr(1));
        assert_eq!(later, Some(Notice { times: 1_001, crowd: false }));
    }

    #[test]
    fn many_are_one_crowd_until_there_is_room() {
        let mut strangers = Strangers::default();
        let mut notices = Vec::new();
        for number in 0..10_000 {
            notices.extend(strangers.turned_away(at(1), addr(number)));
        }
        assert_eq!(strangers.known.len(), MOST);
        assert_eq!(notices.len(), MOST + 1);
        assert_eq!(notices.last(), Some(&Notice { times: 1, crowd: true }));
        let later = strangers.turned_away(at(700), addr(77_777));
        assert_eq!(later, Some(Notice { times: 1, crowd: false }));
    }
}
