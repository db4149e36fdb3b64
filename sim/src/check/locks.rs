//! LOCK: a lock has one holder at a time, who keeps it for as long as it renews in time, and after whose end
//! the lock-delay is kept.
//!
//! A session that was renewed lives at least its TTL longer, counted from when the renewal was *sent*: that is
//! the promise (a lower bound, whatever clocks and leaders do). So from the answer "true" to its request for
//! the lock until that time, or until it asks to give the lock or the session back, a client *certainly
//! holds* the lock. In that time
//! * nobody else is told that they have it,
//! * no read shows another holder, and
//! * the session is not said to be gone.
//!
//! After a session that held the lock and did not give it back, nobody has the lock before the earliest end of
//! the session and its lock-delay are over. The leader's clock measures both, so both may be shorter in true
//! time by as much as the fastest clock of the run is fast; a session expires after twice its TTL.
//!
//! A holder is told apart from all before it by the key's create index and lock index (Burrows 2006, 2.4: sequencers): both
//! together only grow, from each holder to every later one, and never go back while one holds it. And if a session that deletes what it holds ended with the lock, whoever
//! gets it next has made the key anew.
//!
//! After the heal nobody holds a lock for ever: once every session that could be there has had the time to expire, and the
//! longest lock-delay is over, somebody else gets it (the world asks).
//!
//! Let pass: a session that lives too long (Consul promises no upper bound), and all that happens after a
//! client's node was told to leave, because a session ends with its node. The leader may act on a departure late: a node
//! that is back, and not heard of yet, can lose the sessions it made since, for as long as [`ACTED_ON_NS`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Findings;

/// A departure may be acted on so long after the node was told to leave: leaving takes up to 15 s of it.
const ACTED_ON_NS: u64 = 20_000_000_000;

/// Something that a client with a session knows for certain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its session.
    pub session: String,
    /// The lock.
    pub key: String,
    /// What.
    pub what: What,
    /// When it asked.
    pub invoked_ns: u64,
    /// When it was told.
    pub returned_ns: u64,
}

/// What a client knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The session was made.
    Made {
        /// Its time to live.
        ttl_ms: u64,
        /// Its lock-delay.
        delay_ms: u64,
        /// The node it lives on.
        node: u32,
    },
    /// It has the lock.
    Acquired,
    /// The session was renewed.
    Renewed,
    /// The session is gone.
    Lost,
    /// A read showed this holder of the lock.
    Seen(Option<String>),
    /// A read showed it as the holder, and this beside it.
    Fenced {
        /// The key's create index.
        created: u64,
        /// How often the key was locked since: its lock index.
        taken: u64,
        /// Whether the session, should it end while it holds the lock, takes the key with it.
        deletes: bool,
    },
    /// It asks to give the lock back, whatever comes of it.
    Releases,
    /// It asks to end the session, whatever comes of it.
    Destroys,
}

/// What the check must know about the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The fastest a node's clock ran, in millionths of true time.
    pub fastest_ppm: u64,
    /// When nodes were told to leave.
    pub left_ns: Vec<(u32, u64)>,
}

impl Default for Circumstances {
    fn default() -> Circumstances {
        Circumstances { fastest_ppm: 1_000_000, left_ns: Vec::new() }
    }
}

/// A session as its client knows it.
struct Known<'a> {
    id: &'a str,
    steps: Vec<&'a Step>,
    /// Since when it has the lock, if it ever had it.
    since: Option<u64>,
    /// It lives at least until then, unless it is ended.
    promised: u64,
    /// It does not expire before.
    expires: u64,
    delay: u64,
    destroyed: Option<u64>,
    released: Option<u64>,
    /// When its node was told to leave.
    left: Option<u64>,
}

fn shorter(ns: u64, fastest_ppm: u64) -> u64 {
    let shortest = u128::from(ns) * 1_000_000 / u128::from(fastest_ppm.max(1_000_000));
    u64::try_from(shortest).unwrap_or(u64::MAX)
}

impl<'a> Known<'a> {
    fn new(id: &'a str, steps: Vec<&'a Step>, circumstances: &Circumstances) -> Option<Known<'a>> {
        let made = steps.iter().find_map(|step| match step.what {
            What::Made { ttl_ms, delay_ms, node } => Some((ttl_ms, delay_ms, node, step.invoked_ns)),
            _ => None,
        });
        let (ttl_ms, delay_ms, node, made_ns) = made?;
        let renewed = steps.iter().filter(|step| matches!(step.what, What::Made { .. } | What::Renewed));
        let renewed = renewed.map(|step| step.invoked_ns).max()?;
        let first = |wanted: &dyn Fn(&What) -> bool| {
            steps.iter().filter(|step| wanted(&step.what)).min_by_key(|step| step.returned_ns)
        };
        let twice = shorter(2 * ttl_ms * 1_000_000, circumstances.fastest_ppm);
        Some(Known {
            id,
            since: first(&|what| *what == What::Acquired).map(|step| step.returned_ns),
            promised: renewed + twice.min(ttl_ms * 1_000_000),
            expires: renewed + twice,
            delay: shorter(delay_ms * 1_000_000, circumstances.fastest_ppm),
            destroyed: first(&|what| *what == What::Destroys).map(|step| step.invoked_ns),
            released: first(&|what| *what == What::Releases).map(|step| step.invoked_ns),
            left: circumstances
                .left_ns
                .iter()
                .filter(|(left, at)| *left == node && at + ACTED_ON_NS >= made_ns)
                .map(|(_, at)| (*at).max(made_ns))
                .min(),
            steps,
        })
    }

    /// The session certainly lives until then.
    fn lives_until(&self) -> u64 {
        [self.destroyed, self.left].into_iter().flatten().fold(self.promised, u64::min)
    }

    /// It certainly holds the lock from here to there.
    fn holds(&self) -> Option<(u64, u64)> {
        let until = self.released.map_or(self.lives_until(), |released| released.min(self.lives_until()));
        self.since.filter(|since| *since < until).map(|since| (since, until))
    }

    /// Nobody else can have the lock before, if it was not given back.
    fn free_after(&self) -> u64 {
        [self.destroyed, self.left].into_iter().flatten().fold(self.expires, u64::min) + self.delay
    }
}

/// Judges what the clients know.
pub fn check(steps: &[Step], circumstances: &Circumstances, findings: &mut Findings) {
    let mut by_session: BTreeMap<(&str, &str), Vec<&Step>> = BTreeMap::new();
    for step in steps {
        by_session.entry((&step.key, &step.session)).or_default().push(step);
    }
    let mut by_key: BTreeMap<&str, Vec<Known<'_>>> = BTreeMap::new();
    for ((key, id), steps) in by_session {
        by_key.entry(key).or_default().extend(Known::new(id, steps, circumstances));
    }
    for (key, sessions) in &by_key {
        fenced(key, sessions, findings);
        for session in sessions {
            lost_in_time(key, session, findings);
            let Some(since) = session.since else { continue };
            for other in sessions.iter().filter(|other| other.id != session.id) {
                if !both_hold(key, session, other, findings) {
                    taken(key, session, since, other, findings);
                }
            }
        }
    }
}

fn seconds(ns: u64) -> String {
    format!("{:.3}s", ns as f64 / 1e9)
}

fn object(findings: &mut Findings, step: &Step, detail: String) {
    findings.add_global("LOCK", step.returned_ns, detail);
}

/// What its own client was told in a time in which it certainly held the lock.
fn lost_in_time(key: &str, session: &Known<'_>, findings: &mut Findings) {
    let within = |step: &Step, (from, until): (u64, u64)| step.invoked_ns >= from && step.returned_ns < until;
    for step in &session.steps {
        let told = match &step.what {
            What::Lost if within(step, (0, session.lives_until())) => {
                format!("is said to be gone, and it lives at least until {}", seconds(session.lives_until()))
            }
            What::Seen(holder) if holder.as_deref() != Some(session.id) => {
                let Some(holds) = session.holds().filter(|holds| within(step, *holds)) else { continue };
                let holder = holder.as_deref().map_or("nobody", |holder| holder);
                format!(
                    "holds the lock from {} to {}, and a read shows {holder}",
                    seconds(holds.0),
                    seconds(holds.1)
                )
            }
            _ => continue,
        };
        let at = seconds(step.returned_ns);
        object(findings, step, format!("lock {key:?}: session {} {told} (at {at})", session.id));
        return;
    }
}

/// Whether two certainly hold the lock at one time, whoever got it first: of two requests at once, both may have been granted.
/// It is told of the pair once.
fn both_hold(key: &str, session: &Known<'_>, other: &Known<'_>, findings: &mut Findings) -> bool {
    let (Some(mine), Some(theirs)) = (session.holds(), other.holds()) else { return false };
    let (from, until) = (mine.0.max(theirs.0), mine.1.min(theirs.1));
    let later = other.steps.iter().find(|step| step.what == What::Acquired && step.returned_ns == from);
    if from < until
        && let Some(step) = later
    {
        let (from, until) = (seconds(from), seconds(until));
        let both = format!("both session {} and session {} hold it", session.id, other.id);
        object(findings, step, format!("lock {key:?} has two holders: {both} from {from} to {until}"));
    }
    from < until
}

/// Whether each holder can be told apart from those before it.
fn fenced(key: &str, sessions: &[Known<'_>], findings: &mut Findings) {
    let shown = |session: &'_ Known<'_>, step: &Step| match step.what {
        What::Fenced { created, taken, deletes } => {
            Some(((created, taken), deletes && session.released.is_none()))
        }
        _ => None,
    };
    let mut looks: Vec<_> = sessions
        .iter()
        .flat_map(|session| session.steps.iter().map(move |step| (session.id, *step, shown(session, step))))
        .filter_map(|(id, step, shown)| shown.map(|shown| (id, step, shown)))
        .collect();
    looks.sort_by_key(|(_, step, _)| step.invoked_ns);
    for (at, (later, step, (new, _))) in looks.iter().enumerate() {
        let wrong = looks[..at].iter().find(|(earlier, before, (old, deletes))| {
            let another = earlier != later;
            before.returned_ns < step.invoked_ns
                && (new < old || (another && (new == old || (*deletes && new.0 <= old.0))))
        });
        if let Some((earlier, _, (old, deletes))) = wrong {
            let kept = earlier != later && *deletes && new.0 <= old.0;
            let why =
                if kept { "which deletes it, and it was not made anew" } else { "and a fence must grow" };
            let detail = format!(
                "lock {key:?}: session {later} holds it as (created, taken) {new:?}, and {earlier} had it as {old:?}, {why}"
            );
            return object(findings, step, detail);
        }
    }
}

/// Whether another got the lock while this one held it, or before its delay was over.
fn taken(key: &str, session: &Known<'_>, since: u64, other: &Known<'_>, findings: &mut Findings) {
    for step in other.steps.iter().filter(|step| step.what == What::Acquired && step.invoked_ns >= since) {
        let got = format!("session {} got it at {}", other.id, seconds(step.returned_ns));
        if let Some((from, until)) = session.holds()
            && step.returned_ns < until
        {
            let (from, until) = (seconds(from), seconds(until));
            let mine = format!("session {} holds it from {from} to {until}", session.id);
            return object(findings, step, format!("lock {key:?} has two holders: {mine}, and {got}"));
        }
        let given_back = session.released.is_some_and(|released| released <= step.returned_ns);
        if !given_back && step.returned_ns < session.free_after() {
            let free = seconds(session.free_after());
            let mine = format!("session {} held it and its delay is not over before {free}", session.id);
            return object(findings, step, format!("lock {key:?} is taken too early: {mine}, and {got}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps at whole seconds.
    #[derive(Default)]
    struct Story(Vec<Step>, Circumstances);

    impl Story {
        fn step(mut self, session: &str, (invoked, returned): (u64, u64), what: What) -> Story {
            let (invoked_ns, returned_ns) = (invoked * 1_000_000_000, returned * 1_000_000_000);
            let (session, key) = (session.to_owned(), "k".to_owned());
            self.0.push(Step { session, key, what, invoked_ns, returned_ns });
            self
        }

        /// A session of ten seconds, with a delay of ten, that has the lock.
        fn holder(self, session: &str, made: u64, acquired: u64) -> Story {
            let what = What::Made { ttl_ms: 10_000, delay_ms: 10_000, node: 3 };
            self.step(session, (made, made), what).step(session, (acquired, acquired), What::Acquired)
        }

        fn found(&self) -> Vec<String> {
            let mut findings = Findings::default();
            check(&self.0, &self.1, &mut findings);
            findings.violations.into_iter().map(|violation| violation.detail).collect()
        }

        fn accepts(self) {
            assert_eq!(self.found(), Vec::<String>::new());
        }

        fn rejects(self, because: &str) {
            assert!(self.found().iter().any(|detail| detail.contains(because)), "{:?}", self.found());
        }
    }

    #[test]
    fn one_after_the_other_is_accepted() {
        // Given back, then expired and delayed, then destroyed and delayed.
        Story::default()
            .holder("a", 0, 1)
            .step("a", (4, 4), What::Releases)
            .holder("b", 2, 5)
            .holder("c", 20, 33)
            .step("c", (40, 41), What::Destroys)
            .holder("d", 45, 51)
            .accepts();
    }

    #[test]
    fn two_holders_are_rejected() {
        Story::default().holder("a", 0, 1).holder("b", 2, 5).rejects("two holders");
        let renewed = Story::default().holder("a", 0, 1).step("a", (8, 9), What::Renewed);
        renewed.holder("b", 2, 17).rejects("two holders");
    }

    #[test]
    fn two_that_asked_at_once_and_both_got_it_are_rejected() {
        let made = |ttl_ms| What::Made { ttl_ms, delay_ms: 0, node: 3 };
        let story = Story::default()
            .step("a", (0, 0), made(60_000))
            .step("b", (0, 0), made(60_000))
            .step("a", (10, 20), What::Acquired)
            .step("b", (15, 25), What::Acquired);
        assert_eq!(story.found().len(), 1, "{:?}", story.found());
        story.rejects("two holders");
    }

    #[test]
    fn a_lock_before_the_delay_is_over_is_rejected() {
        Story::default().holder("a", 0, 1).holder("b", 2, 29).rejects("too early");
        let destroyed = Story::default().holder("a", 0, 1).step("a", (4, 5), What::Destroys);
        destroyed.holder("b", 2, 13).rejects("too early");
        // On a fast clock both times are shorter.
        let mut fast = Story::default().holder("a", 0, 1).holder("b", 2, 22);
        fast.1.fastest_ppm = 1_429_000;
        fast.accepts();
    }

    #[test]
    fn a_session_that_is_gone_in_time_is_rejected() {
        Story::default().holder("a", 0, 1).step("a", (5, 6), What::Lost).rejects("is said to be gone");
        Story::default().holder("a", 0, 1).step("a", (9, 10), What::Lost).accepts();
        let seen = |holder: Option<&str>| What::Seen(holder.map(str::to_owned));
        Story::default().holder("a", 0, 1).step("a", (5, 6), seen(Some("b"))).rejects("shows b");
        Story::default().holder("a", 0, 1).step("a", (5, 6), seen(None)).rejects("shows nobody");
        Story::default().holder("a", 0, 1).step("a", (5, 6), seen(Some("a"))).accepts();
    }

    #[test]
    fn a_holder_that_cannot_be_told_apart_from_one_before_it_is_rejected() {
        let fenced = |created, taken, deletes| What::Fenced { created, taken, deletes };
        let story = |first: What, second: What| {
            let first = Story::default().holder("a", 0, 1).step("a", (2, 3), first);
            first.holder("b", 2, 35).step("b", (36, 37), second)
        };
        story(fenced(5, 1, false), fenced(5, 2, false)).accepts();
        story(fenced(5, 1, true), fenced(9, 1, false)).accepts();
        story(fenced(5, 1, true), fenced(9, 1, false)).step("a", (4, 4), What::Releases).accepts();
        story(fenced(5, 1, false), fenced(5, 1, false)).rejects("a fence must grow");
        story(fenced(5, 3, false), fenced(5, 2, false)).rejects("a fence must grow");
        story(fenced(5, 1, true), fenced(5, 2, false)).rejects("not made anew");
        let given_back = story(fenced(5, 1, true), fenced(5, 2, false));
        given_back.step("a", (4, 4), What::Releases).accepts();
    }

    #[test]
    fn a_fence_that_goes_back_behind_one_of_long_ago_or_its_own_is_rejected() {
        let fenced = |created, taken| What::Fenced { created, taken, deletes: false };
        let own = Story::default().holder("a", 0, 1).step("a", (2, 3), fenced(5, 2));
        own.step("a", (4, 5), fenced(5, 1)).rejects("a fence must grow");
        // The look between is so slow that it says nothing of either.
        Story::default()
            .holder("a", 0, 1)
            .step("a", (2, 3), fenced(5, 3))
            .holder("b", 2, 35)
            .step("b", (3, 80), fenced(5, 9))
            .holder("c", 70, 71)
            .step("c", (75, 76), fenced(5, 2))
            .rejects("session c holds it as (created, taken) (5, 2), and a had it as (5, 3)");
    }

    #[test]
    fn a_session_may_end_with_its_node() {
        let mut story = Story::default().holder("a", 0, 1).step("a", (5, 6), What::Lost);
        story.1.left_ns.push((3, 4_000_000_000));
        story.accepts();
    }

    #[test]
    fn a_departure_is_no_excuse_for_ever() {
        let lost = || Story::default().holder("a", 40, 41).step("a", (45, 46), What::Lost);
        let mut early = lost();
        early.1.left_ns.push((3, 10_000_000_000));
        early.rejects("is said to be gone");
        let mut late = lost();
        late.1.left_ns.push((3, 39_000_000_000));
        late.accepts();
    }
}
