//! BLOCK: whoever follows a part of the catalog, or the keys under a prefix, by waiting (Consul's blocking queries) sees all that becomes of it. For
//! each query, whoever asked whichever node:
//! * the index of an answer never goes back in real time, and is never 0, with which a waiter would wait for nothing;
//! * two answers of one index say the same: a change that leaves the index as it was would wake nobody;
//! * who waited until the time was over had nothing to hear of, and who came back early with the index that was known had
//!   no reason to;
//! * where keys are listed, an index grows only if somebody may have changed a key of the list;
//! * after the heal a change wakes everybody who waits, with the change (the world makes one, see [`unlike`]).
//!
//! It holds because an index is the log index of the newest change to what is asked for, and the reads are linearizable.
//!
//! Let pass: how long a wait lasts while its node is touched by a fault, or at a client agent, behind which any server
//! may do the waiting.

use std::collections::BTreeMap;

use super::looks::Lives;
use super::touched::Touched;
use super::{At, Findings};

/// An answer to somebody who follows a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which node was asked.
    pub node: u32,
    /// The query.
    pub path: String,
    /// The index that was known, and for how long to wait for another, in milliseconds; none: it did not wait.
    pub waited: Option<(u64, u64)>,
    /// When it was asked.
    pub invoked_ns: u64,
    /// When it was answered.
    pub returned_ns: u64,
    /// The index that came with the answer.
    pub index: u64,
    /// What the answer said.
    pub said: String,
}

/// Judges what was seen.
pub fn check(seen: &[Seen], lives: &Lives, touched: &Touched<'_>, findings: &mut Findings) {
    let mut by_path: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for one in seen {
        by_path.entry(&one.path).or_default().push(one);
    }
    for (path, mut seen) in by_path {
        let mut object = |one: &Seen, detail: String| {
            let detail = format!("{path} at node {}: {detail}", one.node);
            findings.add("BLOCK", At { ns: one.returned_ns, node: one.node }, detail);
        };
        let mut contents: BTreeMap<u64, &Seen> = BTreeMap::new();
        for one in &seen {
            if one.index == 0 {
                object(one, "an answer without an index".to_owned());
            }
            let first = *contents.entry(one.index).or_insert(one);
            if first.said != one.said {
                let (index, before, now) = (one.index, &first.said, &one.said);
                object(one, format!("two answers of index {index}:\n    {before}\n    {now}"));
            }
        }
        seen.sort_by_key(|one| one.invoked_ns);
        // When each index was asked for, last.
        let mut asked: BTreeMap<u64, u64> = BTreeMap::new();
        for (one, newest) in seen.iter().zip(newest_before(&seen)) {
            if one.index < newest {
                object(one, format!("index {} after {newest} had been told", one.index));
            }
            if let Some(problem) = waited(one, lives, &contents) {
                object(one, problem);
            }
            if let Some((since, _)) = one.waited
                && let Some(asked_ns) = asked.get(&since)
                && let Some(prefix) = listed(path)
                && one.index > since
                && !touched.under(prefix, *asked_ns, one.returned_ns)
            {
                let index = one.index;
                object(
                    one,
                    format!("woken at index {index} (from {since}), though nobody had changed a key"),
                );
            }
            asked.insert(one.index, one.invoked_ns);
        }
    }
}

/// The prefix whose keys a query lists, if it does.
fn listed(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/kv/")?.strip_suffix("?keys")
}

/// For each answer, in order of asking, the newest index that had been told before it was asked for.
fn newest_before(seen: &[&Seen]) -> Vec<u64> {
    let mut told: Vec<(u64, u64)> = seen.iter().map(|one| (one.returned_ns, one.index)).collect();
    told.sort_unstable();
    let mut told = told.into_iter().peekable();
    let mut newest = 0;
    let until = |invoked_ns: u64| {
        while let Some((_, index)) = told.next_if(|(returned_ns, _)| *returned_ns < invoked_ns) {
            newest = newest.max(index);
        }
        newest
    };
    seen.iter().map(|one| one.invoked_ns).map(until).collect()
}

/// What is wrong with the time that an answer took. `contents` are the indexes at which there was something to hear.
fn waited(one: &Seen, lives: &Lives, contents: &BTreeMap<u64, &Seen>) -> Option<String> {
    let (since, wait_ms) = one.waited?;
    let life = lives.of(one.node);
    if one.index != since || !life.is_server() || !life.is_calm(one.invoked_ns, one.returned_ns) {
        return None;
    }
    // Half of the wait only is taken for granted: clocks run at different rates.
    let half_ns = wait_ms * 500_000;
    let took_ns = one.returned_ns - one.invoked_ns;
    if took_ns < half_ns {
        let took_ms = took_ns / 1_000_000;
        return Some(format!("back after {took_ms} ms of {wait_ms} with nothing newer than index {since}"));
    }
    let applied = life.applied_at(one.invoked_ns + half_ns);
    let (missed, _) = contents.range(since + 1..).next().filter(|(index, _)| **index <= applied)?;
    Some(format!("waited in vain for more than index {since}, though the node had applied index {missed}"))
}

/// What is wrong with what somebody saw who waited for this change from index `since` on.
pub fn unlike(since: u64, index: u64, said: &str, change: &str, is_there: bool) -> Option<String> {
    if index <= since {
        return Some(format!("nobody was woken: still index {index}"));
    }
    let shows = said.contains(change);
    (shows != is_there).then(|| format!("woken at index {index} (from {since}) without the change: {said}"))
}

#[cfg(test)]
mod tests {
    use driftline::env::Observed;

    use super::super::looks::test::{MS, lives};
    use super::super::{Event, Stop};
    use super::*;
    use crate::history::Operation;
    use crate::history::test::Story;

    fn seen(from_ms: u64, to_ms: u64, index: u64, said: &str) -> Seen {
        Seen {
            node: 0,
            path: "/v1/catalog/nodes".to_owned(),
            waited: None,
            invoked_ns: from_ms * MS,
            returned_ns: to_ms * MS,
            index,
            said: said.to_owned(),
        }
    }

    fn waiting(since: u64, from_ms: u64, to_ms: u64, index: u64, said: &str) -> Seen {
        Seen { waited: Some((since, 1_000)), ..seen(from_ms, to_ms, index, said) }
    }

    /// What is said of these, with node 0 a server to which these things happened besides.
    fn found(seen: &[Seen], happened: &[(u64, Event<'_>)]) -> Vec<String> {
        found_with(seen, happened, &[])
    }

    fn found_with(seen: &[Seen], happened: &[(u64, Event<'_>)], history: &[Operation]) -> Vec<String> {
        let begun = Observed::Recovered { raft_id: 1, term: 1, last_index: 0, applied: 0, log: vec![] };
        let mut all = vec![(0, Event::Observed(&begun))];
        all.extend_from_slice(happened);
        let mut findings = Findings::default();
        check(seen, &lives(&all), &Touched::of(history), &mut findings);
        findings.violations.into_iter().map(|violation| violation.detail).collect()
    }

    #[test]
    fn a_watcher_that_is_told_of_each_change_is_content() {
        let story = [
            seen(1, 2, 5, "a"),
            waiting(5, 3, 400, 7, "b"),
            // Two at once may be told in any order.
            waiting(7, 401, 2_000, 9, "c"),
            seen(500, 600, 7, "b"),
            waiting(9, 2_001, 3_001, 9, "c"),
        ];
        assert_eq!(found(&story, &[]), Vec::<String>::new());
        let other = Seen { path: "/v1/health/node/n1".to_owned(), ..seen(4_000, 4_001, 1, "other") };
        assert_eq!(found(&[seen(1, 2, 5, "a"), other], &[]), Vec::<String>::new());
    }

    #[test]
    fn an_index_that_goes_back_or_hides_a_change_or_is_none_is_rejected() {
        let wrong = |story: &[Seen]| found(story, &[]).join("; ");
        assert!(wrong(&[seen(1, 2, 5, "a"), seen(3, 4, 4, "b")]).contains("index 4 after 5"));
        assert!(wrong(&[seen(1, 2, 5, "a"), seen(3, 4, 5, "b")]).contains("two answers of index 5"));
        assert!(wrong(&[seen(1, 2, 0, "a")]).contains("without an index"));
    }

    #[test]
    fn a_wait_for_nothing_and_a_wake_up_that_never_comes_are_rejected_where_nothing_disturbs() {
        let early = [waiting(5, 10, 20, 5, "a")];
        assert!(found(&early, &[])[0].contains("back after 10 ms of 1000"));
        let storm = [(11, Event::FaultBegan), (12, Event::FaultEnded)];
        assert_eq!(found(&early, &storm), Vec::<String>::new());
        assert_eq!(found(&early, &[(11, Event::Stopped(Stop::Kill))]), Vec::<String>::new());
        let applied = Observed::Applied { index: 6, term: 1, entry: 0, state: 0 };
        let news = [(100, Event::Observed(&applied))];
        let asleep = [waiting(5, 10, 1_010, 5, "a"), seen(900, 1_100, 6, "b")];
        assert!(found(&asleep, &news)[0].contains("waited in vain for more than index 5"));
        assert_eq!(found(&asleep, &[]), Vec::<String>::new(), "the node had not heard of it");
    }

    #[test]
    fn after_the_heal_everybody_is_woken_with_the_change() {
        assert_eq!(unlike(5, 6, r#"[{"Port": 7}]"#, r#""Port": 7"#, true), None);
        assert_eq!(unlike(5, 6, "[]", "Port", false), None);
        assert!(unlike(5, 5, "[]", "Port", true).unwrap().contains("nobody was woken"));
        assert!(unlike(5, 6, "[]", "Port", true).unwrap().contains("without the change"));
        assert!(unlike(5, 6, "Port", "Port", false).unwrap().contains("without the change"));
    }

    #[test]
    fn a_list_of_keys_that_nobody_changed_wakes_nobody() {
        let keys = |seen: Seen| Seen { path: "/v1/kv/k?keys".to_owned(), ..seen };
        let story = [keys(seen(1, 2, 5, "a")), keys(waiting(5, 3, 400, 7, "a"))];
        let history = |key: &str| {
            let mut story = Story::default().put((2 * MS, 100 * MS), "v").0;
            story[0].key = key.to_owned();
            story
        };
        assert!(found(&story, &[])[0].contains("nobody had changed a key"));
        assert_eq!(found_with(&story, &[], &history("k1")), Vec::<String>::new());
        assert_eq!(found_with(&story, &[], &history("lock")).len(), 1);
        assert_eq!(found(&[seen(1, 2, 5, "a"), waiting(5, 3, 400, 7, "b")], &[]), Vec::<String>::new());
    }
}
