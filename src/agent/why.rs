//! Why there is no leader, or why all is well: what a node sees, in words, and what to do about it.
//!
//! [`explain`] is the decision, a pure function of [`Facts`]; servers and clients gather those in their ways. It
//! speaks of what this node sees. Another node may see something else, and then the two answers together tell more
//! than each.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gossip::Twins;

/// A wall clock this far from ours is worth a word.
const CLOCK_OFF: Duration = Duration::from_secs(2);

/// What a server sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// The cluster it belongs to.
    pub cluster: Option<u64>,
    /// How many servers it waits for before it founds one: `None` if it founds none.
    pub expect: Option<u32>,
    /// The servers that gossip sees alive, itself included.
    pub alive: Vec<String>,
    /// Its term.
    pub term: u64,
    /// The leader's name, as far as it knows.
    pub leader: Option<String>,
    /// How long ago it heard a leader; `None`: never in this life.
    pub heard: Option<Duration>,
    /// Whether a majority confirmed a moment ago that the leader leads.
    pub confirmed: bool,
    /// The other servers of the configuration in force.
    pub others: Vec<Other>,
    /// Whether it votes itself.
    pub votes: bool,
    /// Whether its disk has no space left.
    pub disk_full: bool,
    /// The last refused votes, in words, oldest first.
    pub refused: Vec<String>,
    /// Why the last try to found a cluster, or to take a server in, came to nothing.
    pub hindrance: Option<String>,
    /// Nodes of whose id gossip saw two agents.
    pub twins: Vec<Twins>,
}

/// Another server of the configuration, as it answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Where it should be.
    pub addr: SocketAddr,
    /// Whether it votes.
    pub votes: bool,
    /// What gossip says of it.
    pub gossip: &'static str,
    /// What it says.
    pub says: Result<Says, String>,
}

/// What another server says.
#[derive(Clone, Debug, PartialEq)]
pub struct Says {
    /// The cluster it belongs to.
    pub cluster: Option<u64>,
    /// Whom it follows, by name.
    pub leader: Option<String>,
    /// How far its wall clock is ahead of ours, in milliseconds.
    pub clock_ahead_ms: i64,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Worth a look.
    Warning,
    /// Nothing can be written until this is put right.
    Broken,
}

/// One thing that is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// What to do; empty if there is nothing to do.
    #[serde(rename = "Do")]
    pub advice: String,
}

/// All there is to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Explanation {
    /// Who says it.
    pub node: String,
    /// Whether there is a leader that can have things written.
    pub leader: bool,
    /// The worst first.
    pub findings: Vec<Finding>,
}

impl Finding {
    /// One thing that is so.
    pub fn new(level: Level, what: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { level, what: what.into(), advice: advice.into() }
    }
}

impl Other {
    /// Whether it votes, is alive, and does not answer because of TLS.
    fn is_kept_out_by_tls(&self) -> bool {
        let by_tls = |reason: &String| refused_by_tls(reason, &self.name).is_some();
        self.votes && self.gossip == "alive" && self.says.as_ref().is_err_and(by_tls)
    }
}

impl Facts {
    /// Whether there is a leader, and a majority confirms it.
    fn leads(&self) -> bool {
        self.leader.is_some() && self.confirmed
    }
}

impl Explanation {
    /// With the worst first.
    pub fn new(node: &str, leader: bool, mut findings: Vec<Finding>) -> Explanation {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        Explanation { node: node.to_owned(), leader, findings }
    }
}

/// What a server's facts mean.
pub fn explain(facts: &Facts) -> Explanation {
    let mut findings: Vec<Finding> = facts.twins.iter().map(copied).collect();
    if facts.cluster.is_none() {
        findings.push(without_cluster(facts));
        return Explanation::new(&facts.name, false, findings);
    }
    if let Some(why) = &facts.hindrance {
        findings.push(Finding::new(
            Level::Warning,
            format!("a server that gossip sees is not in the configuration: {why}"),
            refused_by_tls(why, "that server")
                .unwrap_or_else(|| "its own log, or `driftline doctor` there, says more".to_owned()),
        ));
    }
    let voters = facts.others.iter().filter(|other| other.votes).count() + usize::from(facts.votes);
    let majority = voters / 2 + 1;
    let there =
        |other: &&Other| other.votes && other.says.as_ref().is_ok_and(|says| says.cluster == facts.cluster);
    let reached = facts.others.iter().filter(there).count() + usize::from(facts.votes);
    let leads = facts.leads();
    let serious = if leads { Level::Warning } else { Level::Broken };

    if facts.disk_full {
        findings.push(Finding::new(
            Level::Broken,
            format!("the disk of {} is full, so it takes no new entries into its log", facts.name),
            "free some space on it: the server goes on by itself",
        ));
    }
    if leads {
        let leader = facts.leader.as_deref().unwrap_or_default();
        findings.push(Finding::new(
            Level::Fine,
            format!("{leader} leads in term {}, and a majority has just confirmed it", facts.term),
            "",
        ));
    } else {
        let heard = match (&facts.leader, facts.heard) {
            (Some(leader), _) => {
                format!("{leader} was the leader last heard of, and no majority confirms it")
            }
            (None, Some(ago)) => {
                format!("nobody leads; a leader was last heard {:.1} s ago", ago.as_secs_f64())
            }
            (None, None) => "nobody leads, and none was heard since this server started".to_owned(),
        };
        findings.push(Finding::new(Level::Broken, format!("in term {}: {heard}", facts.term), ""));
    }
    if reached < majority {
        let apart = |other: &Other| {
            other.says.as_ref().is_ok_and(|says| says.cluster.is_some() && says.cluster != facts.cluster)
        };
        // They live, and only TLS is between: whoever recovers now makes a second cluster beside the one that works.
        let kept_out = facts.others.iter().filter(|other| other.is_kept_out_by_tls()).count();
        let (what, advice) = if facts.others.iter().any(apart) {
            // A second recovery, of what the first one left behind, would undo it.
            (
                "the quorum is lost",
                "a server of this configuration belongs to another cluster: see to that first",
            )
        } else if reached + kept_out >= majority {
            (
                "the quorum is there, and TLS is between",
                "see to TLS first, as said below of each server. Do not run `driftline recover`: these servers are alive in \
                 gossip, and may well have a leader among them",
            )
        } else {
            (
                "the quorum is lost",
                "start the missing servers, or mend the network between them and this one. If they are gone for \
                 good, stop all servers and run `driftline recover` on the one that is furthest along",
            )
        };
        findings.push(Finding::new(
            serious,
            format!("{what}: {reached} of {voters} voters can be reached from here, {majority} are needed"),
            advice,
        ));
    } else if !leads && !facts.disk_full {
        findings.push(Finding::new(
            Level::Broken,
            format!("{reached} of {voters} voters can be reached from here, which would be enough for an election"),
            "wait a few election timeouts; if nothing changes, look at the refused votes, and ask the others the same",
        ));
    }
    for other in &facts.others {
        about(facts, other, serious, &mut findings);
    }
    if !facts.votes {
        findings.push(Finding::new(
            Level::Warning,
            "this server does not vote: it is a learner, or was taken out of the configuration",
            "if that lasts, see `driftline operator raft list-peers` on the leader",
        ));
    }
    if !leads {
        for refused in facts.refused.iter().rev().take(5) {
            findings.push(Finding::new(Level::Warning, refused.clone(), ""));
        }
    }
    Explanation::new(&facts.name, leads, findings)
}

/// Two agents of one id. Which of them is the copy cannot be seen from here.
pub fn copied(twins: &Twins) -> Finding {
    Finding::new(
        Level::Broken,
        format!("two agents use one id, {twins}: one of them runs on a copy of the other's data directory"),
        "stop the one that runs on the copy; started with an empty data_dir it is a node of its own. Do not empty the other's",
    )
}

fn without_cluster(facts: &Facts) -> Finding {
    let seen = facts.alive.join(", ");
    match facts.expect {
        Some(expect) if facts.alive.len() < expect as usize => Finding::new(
            Level::Broken,
            format!(
                "there is no cluster yet: {} waits for {expect} servers to found one with, and sees {} ({seen})",
                facts.name,
                facts.alive.len()
            ),
            "start the others with the same bootstrap-expect, and make sure that they find each other: \
             `driftline members` on each, `retry_join`, the key of gossip (`encrypt`; who is refused for it says so in its log), \
             and the gossip port (UDP and TCP) in firewalls",
        ),
        Some(_) => {
            let why = facts.hindrance.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            let servers = facts.alive.len();
            Finding::new(
                Level::Broken,
                format!(
                    "there is no cluster yet: {servers} servers are there ({seen}) and have not yet agreed to found \
                     it{why}"
                ),
                facts.hindrance.as_deref().and_then(|why| refused_by_tls(why, "that server")).unwrap_or_else(|| {
                    "wait some seconds. If it lasts: one of them may belong to another cluster, or expect another \
                     number; its log says so"
                        .to_owned()
                }),
            )
        }
        None => Finding::new(
            Level::Broken,
            format!("{} belongs to no cluster and founds none; it sees {seen}", facts.name),
            "join it to a server of a cluster with `driftline join ADDRESS`, or start it with --bootstrap-expect",
        ),
    }
}

fn about(facts: &Facts, other: &Other, serious: Level, findings: &mut Vec<Finding>) {
    let Other { name, addr, gossip, .. } = other;
    match &other.says {
        Err(reason) => findings.push(Finding::new(
            if other.votes { serious } else { Level::Warning },
            format!("{name} does not answer at {addr} ({reason}); gossip sees it as {gossip}"),
            match (*gossip, refused_by_tls(reason, name)) {
                ("alive", Some(advice)) => advice,
                (gossip, _) => match gossip {
                    "alive" => {
                        "gossip reaches it: see whether its RPC port is open from here, and what it advertises"
                    }
                    "left" | "unknown" => "if it is gone for good: `driftline operator raft remove-peer`",
                    _ => "start it, or mend the network to it",
                }
                .to_owned(),
            },
        )),
        Ok(says) => {
            if says.cluster != facts.cluster {
                findings.push(of_another_cluster(facts, other, says, serious));
            } else if let (Some(ours), Some(theirs)) = (&facts.leader, &says.leader)
                && ours != theirs
            {
                findings.push(Finding::new(
                    Level::Warning,
                    format!("{name} follows {theirs}, this server {ours}"),
                    "one of them is behind; if that lasts, part of the network passes only one way",
                ));
            }
            if says.clock_ahead_ms.unsigned_abs() > CLOCK_OFF.as_millis() as u64 {
                let (by, way) = (says.clock_ahead_ms.unsigned_abs() as f64 / 1e3, says.clock_ahead_ms > 0);
                let way = if way { "ahead of" } else { "behind" };
                findings.push(Finding::new(
                    Level::Warning,
                    format!("the wall clock of {name} is {by:.1} s {way} this one's"),
                    "set the clocks right (NTP). Consistency does not rest on them; logs and certificates do",
                ));
            }
        }
    }
}

/// A server that follows another log, or none. Which of two clusters is the right one cannot be seen: after
/// `driftline recover` the one good disk is in the *new* cluster, and a server of the old one must not have it emptied.
fn of_another_cluster(facts: &Facts, other: &Other, says: &Says, level: Level) -> Finding {
    let Other { name, addr, .. } = other;
    let id = |cluster: Option<u64>| cluster.map_or("none".to_owned(), |id| format!("{id:016x}"));
    let (ours, theirs) = (id(facts.cluster), id(says.cluster));
    let me = &facts.name;
    if says.cluster.is_none() {
        return Finding::new(
            level,
            format!("{name} at {addr} belongs to no cluster, and this server to {ours}: it was emptied"),
            format!(
                "let it join this cluster: `retry_join`, or `driftline join ADDRESS` there. What it once knew as {name} \
                 can be removed with `driftline operator raft remove-peer`"
            ),
        );
    }
    let what = format!("{name} at {addr} belongs to another cluster: {theirs}, and this server to {ours}");
    let advice = if facts.leads() {
        format!(
            "{ours} has a leader. If {theirs} is a leftover or was founded by mistake: stop {name}, copy its data directory, \
             empty it and let it join, or remove it with `driftline operator raft remove-peer`. If {theirs} was recovered or \
             founded on purpose, {ours} is the old cluster: stop its servers instead"
        )
    } else {
        format!(
            "{me} may be of the old cluster: {ours} has no leader. If {theirs} was recovered (`driftline recover`) or founded \
             on purpose: stop {me}, copy the data directory of {me}, empty it and let it join {theirs}. If it was not: bring \
             back a leader of {ours} first, and change nothing at {name} until then"
        )
    };
    Finding::new(level, what, advice)
}

/// What to do if TLS may be why a server that is alive in gossip does not answer; `name` is what to call it. `None` if nothing
/// speaks for it.
///
/// Who comes without TLS to a server that demands it hears nothing of that: its connection breaks.
pub fn refused_by_tls(reason: &str, name: &str) -> Option<String> {
    const RELOAD: &str =
        "put the right ones in place, then `systemctl reload driftline` (SIGHUP), or `driftline reload`";
    if reason.contains("received fatal alert") {
        Some(format!(
            "{name} refuses this agent's certificate: look at tls.cert_file and tls.key_file here (expired, of another \
             authority, missing), and at tls.ca_file there; {RELOAD}"
        ))
    } else if reason.contains("invalid peer certificate") {
        Some(format!(
            "the certificate of {name} has expired, is no server's, or is not vouched for here: look at tls.cert_file and \
             tls.key_file there, and at tls.ca_file here; {RELOAD}"
        ))
    } else if reason.contains("TLS") {
        Some(format!(
            "TLS failed: look at tls.cert_file, tls.key_file and tls.ca_file here, and at the same there; {RELOAD}"
        ))
    } else if reason.contains("the connection broke") {
        Some(
            "if this agent has no TLS (tls.verify_outgoing), the other side may demand it (tls.verify_incoming): give this one \
             a certificate. Otherwise see whether its RPC port is open from here, and what it advertises"
                .to_owned(),
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(leader: Option<&str>) -> Result<Says, String> {
        Ok(Says { cluster: Some(7), leader: leader.map(str::to_owned), clock_ahead_ms: 0 })
    }

    fn other(name: &str, says: Result<Says, String>, gossip: &'static str) -> Other {
        let addr = SocketAddr::from(([10, 0, 0, 2], 8300));
        Other { name: name.to_owned(), addr, votes: true, gossip, says }
    }

    fn healthy() -> Facts {
        Facts {
            name: "a".into(),
            cluster: Some(7),
            alive: vec!["a".into(), "b".into(), "c".into()],
            term: 3,
            leader: Some("a".into()),
            heard: Some(Duration::ZERO),
            confirmed: true,
            others: vec![other("b", says(Some("a")), "alive"), other("c", says(Some("a")), "alive")],
            votes: true,
            ..Facts::default()
        }
    }

    fn told(facts: &Facts) -> String {
        let Explanation { leader, findings, .. } = explain(facts);
        let lines = findings.iter().map(|one| format!("{:?}: {}\n  -> {}", one.level, one.what, one.advice));
        format!("leader: {leader}\n{}\n", lines.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn each_cause_is_told_with_what_to_do() {
        let mut lost = healthy();
        lost.leader = None;
        lost.confirmed = false;
        lost.heard = Some(Duration::from_millis(2_500));
        lost.others = vec![
            other("b", Err("connection refused".into()), "failed"),
            other("c", Err("timed out".into()), "alive"),
        ];
        lost.refused = vec!["a wanted to lead in term 4 and c refused: the voter hears a leader".into()];
        let mut strange = healthy();
        strange.others[0].says = Ok(Says { cluster: Some(8), leader: None, clock_ahead_ms: 0 });
        strange.others[1].says =
            Ok(Says { cluster: Some(7), leader: Some("b".into()), clock_ahead_ms: -90_000 });
        let mut old = healthy();
        (old.leader, old.confirmed, old.heard) = (None, false, None);
        old.others[0].says = Ok(Says { cluster: Some(8), leader: None, clock_ahead_ms: 0 });
        old.others[1].says = Err("connection refused".into());
        let mut emptied = healthy();
        emptied.others[0].says = Ok(Says { cluster: None, leader: None, clock_ahead_ms: 0 });
        let mut tls = healthy();
        tls.others[0].says = Err("10.0.0.2:8300: TLS: invalid peer certificate: UnknownIssuer".into());
        tls.others[1].says = Err("10.0.0.2:8300: the connection broke".into());
        let mut expired = healthy();
        (expired.leader, expired.confirmed, expired.heard) = (None, false, None);
        for other in &mut expired.others {
            other.says = Err("10.0.0.2:8300: TLS: received fatal alert: CertificateExpired".into());
        }
        let waiting = Facts {
            cluster: None,
            expect: Some(3),
            alive: vec!["a".into()],
            ..Facts { name: "a".into(), ..Facts::default() }
        };
        let lone = Facts { expect: None, ..waiting.clone() };
        let reason = "10.0.0.9:8300: TLS: invalid peer certificate: UnknownIssuer";
        let unfounded = Facts {
            alive: vec!["a".into(), "b".into(), "c".into(), "x".into()],
            hindrance: Some(format!("x does not promise to found it: {reason}")),
            ..waiting.clone()
        };
        let mut kept_out = healthy();
        kept_out.hindrance = Some(format!("x cannot be added: {reason}"));
        let mut electing = healthy();
        electing.leader = None;
        electing.confirmed = false;
        electing.heard = None;
        electing.votes = false;
        let mut full = healthy();
        (full.leader, full.confirmed, full.disk_full) = (None, false, true);
        let mut copied = healthy();
        let at = |host| SocketAddr::from(([10, 0, 0, host], 8301));
        copied.twins = vec![Twins { first: ("c".into(), at(3)), second: ("x".into(), at(9)) }];
        let cases = [
            ("healthy", healthy()),
            ("a copied data directory", copied),
            ("disk full", full),
            ("quorum lost", lost),
            ("another cluster and a clock", strange),
            ("of the old cluster, after a recovery", old),
            ("emptied", emptied),
            ("refused by TLS", tls),
            ("its own certificate has expired", expired),
            ("waiting", waiting),
            ("lone", lone),
            ("not founded", unfounded),
            ("a newcomer without the right certificate", kept_out),
            ("electing", electing),
        ];
        let all: Vec<String> =
            cases.iter().map(|(name, facts)| format!("# {name}\n{}", told(facts))).collect();
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn nobody_elses_directory_is_emptied_without_a_leader_of_ones_own() {
        let mut facts = healthy();
        facts.others[0].says = Ok(Says { cluster: Some(8), leader: Some("b".into()), clock_ahead_ms: 0 });
        assert!(told(&facts).contains("stop b, copy its data directory, empty it"));
        // A leader that was only heard of is none.
        facts.confirmed = false;
        let told = told(&facts);
        assert!(
            !told.contains("stop b") && told.contains("copy the data directory of a, empty it"),
            "{told}"
        );
    }

    #[test]
    fn nobody_recovers_a_cluster_that_only_tls_keeps_away() {
        let mut facts = healthy();
        (facts.leader, facts.confirmed) = (None, false);
        let refused = || Err("10.0.0.2:8300: TLS: received fatal alert: UnknownCA".to_owned());
        facts.others[0].says = Err("connection refused".into());
        facts.others[0].gossip = "failed";
        facts.others[1].says = refused();
        assert!(told(&facts).contains("Do not run `driftline recover`"), "one more would be a majority");
        // Gossip has missed it for a while: TLS is not all that is wrong.
        facts.others[1].gossip = "failed";
        assert!(told(&facts).contains("run `driftline recover` on the one"));
    }

    #[test]
    fn the_worst_comes_first() {
        let mut facts = healthy();
        facts.others[0].says = Err("refused".into());
        let Explanation { findings, leader, .. } = explain(&facts);
        assert!(leader);
        assert_eq!(findings.iter().map(|one| one.level).collect::<Vec<_>>(), [Level::Warning, Level::Fine]);
    }
}
