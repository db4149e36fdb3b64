//! All points, by area. Names are sentences; a test holds this list to the code.

use driftline::env::assertion::AssertionKind::{self, Always, Reachable, Sometimes, Unreachable};

/// One claim of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// What part of the system it is about.
    pub area: &'static str,
    /// What is claimed.
    pub kind: AssertionKind,
    /// The claim.
    pub claim: &'static str,
}

impl Point {
    /// Whether runs should come here; the others say what must hold.
    pub fn is_goal(&self) -> bool {
        matches!(self.kind, Sometimes | Reachable)
    }
}

const fn point(area: &'static str, kind: AssertionKind, claim: &'static str) -> Point {
    Point { area, kind, claim }
}

/// Every claim.
#[rustfmt::skip]
pub const TABLE: &[Point] = &[
    point("election", Sometimes, "a candidate crashes"),
    point("election", Sometimes, "a leader is elected while another still believes that it leads"),
    point("election", Sometimes, "a leader is elected while a server is down"),
    point("election", Sometimes, "a leader is elected during a partition"),
    point("election", Sometimes, "a leader is elected while a clock is wrong"),
    point("election", Sometimes, "a server that was restarted is elected"),
    point("election", Sometimes, "a term passes without a leader"),
    point("election", Sometimes, "two servers stand for election in one term"),
    point("election", Sometimes, "a leader steps down because of a later term"),
    point("election", Reachable, "a candidate gives way to another"),
    point("election", Reachable, "leadership is handed over on request"),
    point("election", Sometimes, "a deposed leader is told of a later term"),
    point("election", Sometimes, "a vote is granted"),
    point("election", Sometimes, "a vote is refused because a later term is known"),
    point("election", Sometimes, "a vote is refused because the candidate's log is behind"),
    point("election", Sometimes, "a vote is refused although nothing but its timing is wrong"),
    point("election", Sometimes, "a pre-vote is granted"),
    point("election", Sometimes, "a pre-vote is refused because a later term is known"),
    point("election", Sometimes, "a pre-vote is refused because the candidate's log is behind"),
    point("election", Sometimes, "a pre-vote is refused because a leader was heard a moment ago"),
    point("log", Reachable, "a suffix of the log that was not committed is truncated"),
    point("log", Sometimes, "several entries are truncated at once"),
    point("log", Sometimes, "a log is truncated while there is a partition"),
    point("log", Sometimes, "a server starts with entries that it has yet to apply"),
    point("log", Sometimes, "two logs hold different entries at one index"),
    point("log", Sometimes, "a leader applies entries of an earlier term than its own"),
    point("log", Sometimes, "entries are committed during a partition"),
    point("log", Sometimes, "a follower misses what comes before the entries it is sent"),
    point("log", Always, "entries are applied one after the other without a gap"),
    point("snapshot", Sometimes, "a snapshot is installed during a partition"),
    point("snapshot", Sometimes, "a snapshot is installed while a server is down"),
    point("snapshot", Sometimes, "a snapshot is installed during a membership change"),
    point("snapshot", Sometimes, "a snapshot is installed after a restart"),
    point("snapshot", Sometimes, "a snapshot is installed over an empty log"),
    point("snapshot", Sometimes, "a snapshot of an earlier term is installed"),
    point("snapshot", Sometimes, "a server starts with a snapshot and no log"),
    point("snapshot", Reachable, "a log is purged behind a snapshot"),
    point("snapshot", Sometimes, "a snapshot is built during a partition"),
    point("snapshot", Reachable, "a snapshot of a third leader displaces one half received"),
    point("snapshot", Reachable, "a piece of a snapshot comes whose beginning never came"),
    point("snapshot", Reachable, "a piece of a snapshot does not follow the last and is refused"),
    point("snapshot", Reachable, "a damaged snapshot is refused"),
    point("snapshot", Unreachable, "a leader sends a snapshot that contradicts what is committed here"),
    point("snapshot", Reachable, "a snapshot is sent to a follower that is too far behind"),
    point("snapshot", Sometimes, "a snapshot is sent in pieces"),
    point("snapshot", Reachable, "the sending of a snapshot is called off"),
    point("snapshot", Reachable, "a server starts from a snapshot on its disk"),
    point("snapshot", Always, "a snapshot never takes the state back"),
    point("snapshot", Sometimes, "a snapshot replaces a state that was not empty"),
    point("membership", Sometimes, "a leader crashes while the configuration is joint"),
    point("membership", Sometimes, "a learner crashes"),
    point("membership", Sometimes, "a leader change interrupts a joint configuration"),
    point("membership", Reachable, "a learner becomes a voter"),
    point("membership", Sometimes, "a configuration is truncated with its entry"),
    point("membership", Sometimes, "the configuration is joint"),
    point("membership", Sometimes, "a joint configuration is left"),
    point("membership", Sometimes, "the configuration changes during a partition"),
    point("membership", Sometimes, "a voter is removed"),
    point("membership", Sometimes, "a voter is added"),
    point("membership", Sometimes, "a server that left comes back"),
    point("membership", Sometimes, "a leader leaves"),
    point("membership", Sometimes, "a leader adds a server that gossip found"),
    point("membership", Sometimes, "a leader removes a server that said it leaves"),
    point("membership", Reachable, "a change of the configuration is tried again"),
    point("membership", Reachable, "a leader ends a change of voters that another began"),
    point("membership", Reachable, "a membership change is not committed in time"),
    point("membership", Sometimes, "a membership change waits for another to end"),
    point("membership", Reachable, "a server that lost its disk takes the place of its former self"),
    point("membership", Reachable, "a learner does not catch up in time and stays a learner"),
    point("reads", Reachable, "a stale read is refused until the server has caught up"),
    point("reads", Sometimes, "a read waits until the state is as new as it must be"),
    point("reads", Always, "a read is answered from a state as new as it must be"),
    point("reads", Sometimes, "several reads share one round of confirmation"),
    point("reads", Reachable, "a read is refused because nobody confirms it in time"),
    point("reads", Sometimes, "a read is confirmed while the term changes"),
    point("reads", Reachable, "a read is refused because this server does not lead any more"),
    point("reads", Reachable, "a read finds no majority to confirm it"),
    point("client", Sometimes, "an operation succeeds across a change of leader"),
    point("client", Sometimes, "a compare-and-set loses against another write"),
    point("client", Sometimes, "a write of unknown outcome is seen to have happened"),
    point("client", Sometimes, "a write is sent again while its first fate is unknown"),
    point("client", Sometimes, "a write succeeds after its first fate was unknown"),
    point("client", Sometimes, "the outcome of a write is reported as unknown"),
    point("client", Sometimes, "a write is refused and certainly was not done"),
    point("client", Reachable, "a request is taken from a deposed leader to its successor"),
    point("client", Sometimes, "several proposals go to Raft as one batch"),
    point("client", Reachable, "a write that a leader took is handed back because it lost leadership"),
    point("client", Sometimes, "a write that comes again gets the answer it got the first time"),
    point("client", Sometimes, "a copy of a write comes after its client was done with it"),
    point("network", Reachable, "a server of another cluster is turned away"),
    point("network", Reachable, "a connection that fell silent is replaced"),
    point("network", Sometimes, "a connection breaks with requests unanswered"),
    point("network", Sometimes, "a damaged frame ends its connection"),
    point("network", Reachable, "a request for the server that had this address before is turned away"),
    point("disk", Sometimes, "a host loses power with entries that are not yet durable"),
    point("disk", Sometimes, "entries that were durable are truncated"),
    point("disk", Sometimes, "a server whose disk failed starts again"),
    point("disk", Reachable, "an error of its disk stops a server"),
    point("disk", Reachable, "a server finds its data damaged"),
    point("process", Sometimes, "a leader crashes"),
    point("process", Sometimes, "a majority is down at once"),
    point("process", Sometimes, "every server is down at once"),
    point("process", Sometimes, "three kinds of fault are in force at once"),
    point("process", Sometimes, "a server remembers its term across a restart"),
    point("gossip", Sometimes, "a dead member rejoins with a higher incarnation"),
    point("gossip", Sometimes, "a member that left joins again"),
    point("gossip", Sometimes, "a suspected member proves to be alive"),
    point("gossip", Sometimes, "a member leaves of its own accord"),
    point("gossip", Sometimes, "a member is declared failed during a partition"),
    point("gossip", Sometimes, "two members differ about whether a third is alive"),
    point("gossip", Always, "what waits to be gossiped stays within its bounds"),
    point("gossip", Reachable, "an exchange of state fails"),
    point("gossip", Reachable, "an exchange of state brings a member that gossip had not"),
    point("gossip", Reachable, "a peer still takes for alive a life that is known to be over"),
    point("gossip", Reachable, "a peer's word that a live member is dead is not taken"),
    point("gossip", Sometimes, "a damaged datagram is dropped"),
    point("gossip", Sometimes, "a member that missed its probe answers through another"),
    point("gossip", Reachable, "a node takes a higher incarnation because others hold its last for dead"),
    point("gossip", Always, "a new incarnation is above every one that others have named"),
    point("gossip", Reachable, "a juror suspects the same member already"),
    point("gossip", Sometimes, "a juror has heard from the suspect and does not confirm"),
    point("gossip", Sometimes, "a suspicion is confirmed by another member"),
    point("gossip", Reachable, "a suspect does not object and is declared failed"),
    point("gossip", Reachable, "a member refutes a suspicion of itself"),
    point("gossip", Reachable, "a node notices that it was stalled and puts off judging others"),
    point("gossip", Sometimes, "a member does not answer its probe and others are asked"),
    point("gossip", Reachable, "a node contradicts an order to leave"),
    point("gossip", Reachable, "a failed member is asked whether it is really gone"),
    point("gossip", Sometimes, "a node hears of its own death and comes back with a higher incarnation"),
    point("gossip", Reachable, "another node appears at the address of one that was known"),
    point("gossip", Reachable, "a rumour of an earlier life of a member is ignored"),
    point("gossip", Reachable, "a member that had failed or left is back"),
    point("events", Reachable, "a user event reaches a node"),
    point("events", Reachable, "an event that is known or too old is dropped"),
    point("events", Sometimes, "an exchange of state brings an event that gossip had not"),
];

/// What the sweep of every change must come to: what a hundred seeds came to in at least a fifth of them. A change that makes one of
/// these unreachable has made the testbed blind there.
#[rustfmt::skip]
pub const CORE: &[&str] = &[
    "a leader is elected while another still believes that it leads",
    "a leader is elected while a server is down",
    "a server that was restarted is elected",
    "a leader steps down because of a later term",
    "leadership is handed over on request",
    "a deposed leader is told of a later term",
    "a vote is granted",
    "a vote is refused although nothing but its timing is wrong",
    "a pre-vote is granted",
    "a pre-vote is refused because the candidate's log is behind",
    "a pre-vote is refused because a leader was heard a moment ago",
    "a server starts with entries that it has yet to apply",
    "a leader applies entries of an earlier term than its own",
    "a follower misses what comes before the entries it is sent",
    "a log is purged behind a snapshot",
    "a snapshot is sent to a follower that is too far behind",
    "a server starts from a snapshot on its disk",
    "a learner becomes a voter",
    "the configuration is joint",
    "a joint configuration is left",
    "a voter is removed",
    "a voter is added",
    "a server that left comes back",
    "a leader adds a server that gossip found",
    "a leader removes a server that said it leaves",
    "a change of the configuration is tried again",
    "a read waits until the state is as new as it must be",
    "several reads share one round of confirmation",
    "a read is refused because nobody confirms it in time",
    "a read is refused because this server does not lead any more",
    "a read finds no majority to confirm it",
    "an operation succeeds across a change of leader",
    "a compare-and-set loses against another write",
    "a write of unknown outcome is seen to have happened",
    "a write is sent again while its first fate is unknown",
    "a write succeeds after its first fate was unknown",
    "the outcome of a write is reported as unknown",
    "a request is taken from a deposed leader to its successor",
    "several proposals go to Raft as one batch",
    "a write that a leader took is handed back because it lost leadership",
    "a write that comes again gets the answer it got the first time",
    "a connection that fell silent is replaced",
    "a connection breaks with requests unanswered",
    "a server whose disk failed starts again",
    "an error of its disk stops a server",
    "a leader crashes",
    "a majority is down at once",
    "three kinds of fault are in force at once",
    "a server remembers its term across a restart",
    "a dead member rejoins with a higher incarnation",
    "a member that left joins again",
    "a suspected member proves to be alive",
    "a member leaves of its own accord",
    "two members differ about whether a third is alive",
    "an exchange of state fails",
    "an exchange of state brings a member that gossip had not",
    "a member that missed its probe answers through another",
    "a node takes a higher incarnation because others hold its last for dead",
    "a juror suspects the same member already",
    "a juror has heard from the suspect and does not confirm",
    "a suspicion is confirmed by another member",
    "a suspect does not object and is declared failed",
    "a member refutes a suspicion of itself",
    "a node notices that it was stalled and puts off judging others",
    "a member does not answer its probe and others are asked",
    "a failed member is asked whether it is really gone",
    "a node hears of its own death and comes back with a higher incarnation",
    "a member that had failed or left is back",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    /// The claims of a source text: each call of one of the five functions, and the last text in it.
    fn claims(code: &str) -> Vec<(AssertionKind, String)> {
        let calls = [
            (".always(", Always),
            (".sometimes(", Sometimes),
            (".sometimes_if(", Sometimes),
            (".reachable(", Reachable),
            (".unreachable(", Unreachable),
        ];
        let mut found = Vec::new();
        for (call, kind) in calls {
            for (at, _) in code.match_indices(call) {
                let (mut depth, mut inside, mut text, mut last) = (1, false, String::new(), None);
                for c in code[at + call.len()..].chars() {
                    match c {
                        '"' if inside => last = Some(std::mem::take(&mut text)),
                        _ if inside => text.push(c),
                        '(' | '[' | '{' => depth += 1,
                        ')' | ']' | '}' => depth -= 1,
                        _ => {}
                    }
                    inside ^= c == '"';
                    if depth == 0 {
                        break;
                    }
                }
                found.extend(last.map(|text| (kind, text)));
            }
        }
        found
    }

    fn collect(folder: &Path, found: &mut BTreeMap<String, AssertionKind>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            found.extend(claims(code).into_iter().map(|(kind, claim)| (claim, kind)));
        }
    }

    #[test]
    fn the_table_lists_what_the_code_claims() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeMap::new();
        collect(&root.join("../src"), &mut found);
        collect(&root.join("src"), &mut found);
        let listed: BTreeMap<String, AssertionKind> =
            TABLE.iter().map(|point| (point.claim.to_owned(), point.kind)).collect();
        assert_eq!(listed.len(), TABLE.len(), "a claim is listed twice");
        let unlisted: Vec<_> =
            found.iter().filter(|(claim, kind)| listed.get(*claim) != Some(kind)).collect();
        assert!(unlisted.is_empty(), "not in the table, or of another kind: {unlisted:#?}");
        let unclaimed: Vec<_> = listed.keys().filter(|claim| !found.contains_key(*claim)).collect();
        assert!(unclaimed.is_empty(), "nobody claims: {unclaimed:#?}");
    }

    #[test]
    fn there_are_many_points_and_the_core_is_of_them() {
        assert!(TABLE.iter().filter(|point| point.is_goal()).count() >= 60);
        for claim in CORE {
            assert!(TABLE.iter().any(|point| point.claim == *claim && point.is_goal()), "{claim}");
        }
    }
}
