//! How a client agent gets a call answered: which server it asks, and whom it asks next.
//!
//! [`Servers`] finds servers by gossip and keeps to one of them, so that what a client sees does not jump back
//! and forth between servers that are not equally far. Which one, chance decides, so that the clients of a large
//! cluster spread over its servers; every few minutes it decides anew, so that a server that was away gets its
//! share again. A server that does not answer goes to the end of the line ([`Line`]).
//!
//! A call is sent again until its answer is known, to the next server each time, at most as long as the
//! configured request timeout:
//!
//! * a **write** goes under one and the same id each time, so that it applies once, whoever of the servers that
//!   were asked got it through. If time is over and any of them may have, the outcome is *unknown*;
//! * a **change of the configuration** goes again only if it certainly was not done;
//! * a **read** changes nothing and goes again as it is. One that waits for a change waits on another server for
//!   the rest of its time, if its server dies: gossip tells, even if the connection does not. It is asked for anew
//!   every now and then in any case ([`SLICE`]).
//!
//! Bounded: reads that wait at once ([`MAX_WATCHES`]; one more is refused). Other calls are bounded by the
//! connections of the API.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use crate::config::Config;
use crate::env::{Env, Instant, Rng};
use crate::gossip::Status;
use crate::mutant;
use crate::raft::client::NO_LEADER;
use crate::raft::requests::Requests;
use crate::raft::rpc::{self, Answer as RpcAnswer, Ask, CallError as NoAnswer, Lane};
use crate::secret::Secret;

use super::call::{self, Call, CallError, Forwarded, Reply};
use super::lan::Lan;
use super::{Consistency, QueryOptions};

/// How long one server may take to find a leader; then another is asked. Four of them fit into the time that a
/// request has by default.
const ATTEMPT: Duration = Duration::from_millis(1_750);
/// How much longer than a server may take, its answer may take.
const GRACE: Duration = Duration::from_millis(500);
/// A read that waits is asked for anew after so long: a server does not hear that a reader has gone away, and holds its
/// place for as long as it was told.
const SLICE: Duration = Duration::from_secs(30);
/// Pauses between two tries are drawn from this, so that the clients of a cluster without a leader do not ask
/// in step.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 20..=120;
/// After so long, more or less, chance decides anew which server is asked.
const REBALANCE_S: std::ops::RangeInclusive<u64> = 120..=180;
/// Reads that wait share connections, this many each: half of what a server takes from one.
const WATCHES_A_LANE: usize = rpc::MAX_IN_FLIGHT / 2;
/// Connections for reads that wait.
const WATCH_LANES: usize = 16;
/// Reads that may wait at once.
pub const MAX_WATCHES: usize = WATCHES_A_LANE * WATCH_LANES;

/// The servers of the cluster, to whoever has none in itself.
pub struct Servers {
    env: Env,
    lan: Lan,
    connections: rpc::Pool,
    requests: Requests,
    timeout: Duration,
    line: Mutex<(Line, Rng)>,
    watches: Mutex<[usize; WATCH_LANES]>,
}

/// In which order servers are asked. A value: gossip and chance come from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line(Vec<u64>);

impl Line {
    /// Lets in who is new, at places that chance draws, and out who is gone.
    fn fit(&mut self, alive: &BTreeSet<u64>, rng: &mut Rng) {
        self.0.retain(|server| alive.contains(server));
        let known: BTreeSet<u64> = self.0.iter().copied().collect();
        for server in alive.difference(&known) {
            let place = rng.random_range(0..=self.0.len());
            self.0.insert(place, *server);
        }
    }

    fn first(&self) -> Option<u64> {
        self.0.first().copied()
    }

    /// Who did not answer is asked after all others.
    fn put_last(&mut self, server: u64) {
        if let Some(at) = self.0.iter().position(|other| *other == server) {
            let server = self.0.remove(at);
            self.0.push(server);
        }
    }

    fn shuffle(&mut self, rng: &mut Rng) {
        self.0.shuffle(rng);
    }
}

/// What became of one attempt.
// Looked at once, where it was made: what the largest answer needs is no matter.
#[allow(clippy::large_enum_variant)]
enum Attempt {
    /// The server's answer.
    Answered(Result<Reply, CallError>),
    /// The server certainly did nothing.
    NotDone(String),
    /// Nobody knows.
    NoAnswer(String),
}

impl Servers {
    /// Those that gossip shows, now and later.
    pub fn new(env: &Env, lan: Lan, config: &Config) -> Servers {
        let caller = Arc::new(Caller { node_id: lan.node_id(), newest: config.protocol });
        Servers {
            env: env.clone(),
            lan,
            connections: rpc::Pool::new(env.clone(), caller),
            requests: Requests::new(env),
            timeout: config.raft.request_timeout(),
            line: Mutex::new((Line::default(), env.rng("server line"))),
            watches: Mutex::new([0; WATCH_LANES]),
        }
    }

    /// How many servers gossip sees alive.
    pub fn known(&self) -> usize {
        self.alive().len()
    }

    fn alive(&self) -> BTreeSet<u64> {
        let servers = self.lan.servers();
        let alive = servers.iter().filter(|(seen, _)| seen.status == Status::Alive);
        alive.map(|(seen, _)| seen.server.node_id).collect()
    }

    fn addr_of(&self, server: u64) -> Option<SocketAddr> {
        let servers = self.lan.servers();
        servers.iter().find(|(seen, _)| seen.server.node_id == server).map(|(seen, _)| seen.server.addr)
    }

    fn with_line<T>(&self, f: impl FnOnce(&mut Line, &mut Rng) -> T) -> T {
        let alive = self.alive();
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let (line, rng) = &mut *line;
        line.fit(&alive, rng);
        f(line, rng)
    }

    /// Lets chance decide anew from time to time, as long as this runs.
    pub async fn rebalance(self: Arc<Servers>) {
        loop {
            let pause = self.with_line(|_, rng| rng.random_range(REBALANCE_S));
            self.env.sleep(Duration::from_secs(pause)).await;
            self.with_line(Line::shuffle);
        }
    }

    /// Gets a call answered.
    ///
    /// # Errors
    /// See [`CallError`]: it tells whether the call may have had an effect.
    pub async fn call(&self, token: &Secret, call: Call) -> Result<Reply, CallError> {
        let (call, ends, lane) = self.prepare(call)?;
        let mut turn = matches!(call, Call::Write(_)).then(|| self.requests.turn());
        let mut deadline = self.env.now() + self.timeout;
        // Whether an attempt got out whose fate we do not know.
        let mut in_doubt: Option<String> = None;
        let mut last = CallError::NoServers;
        loop {
            if let Some(server) = self.with_line(|line, _| line.first()) {
                let begun = self.env.now();
                let left = deadline.since(begun);
                let hold = if takes_its_time(&call) { left } else { left.min(ATTEMPT) };
                let wait = ends.since(begun).min(SLICE);
                let forwarded = Forwarded {
                    hold_ms: hold.as_millis().try_into().unwrap_or(u64::MAX),
                    id: turn.as_ref().map(|turn| turn.id()),
                    call: with_wait(&call, wait),
                };
                let on = lane.as_ref().map_or(Lane::Client, |watching| watching.lane);
                match self.attempt(server, on, (token, &forwarded), hold + wait + GRACE).await {
                    Attempt::Answered(Ok(reply)) => {
                        let now = self.env.now();
                        // The two clocks may differ; an index that the server has not reached comes back at once.
                        if now < ends && now.since(begun) >= wait / 2 && is_no_news(&call, &reply) {
                            deadline = now + self.timeout;
                            continue;
                        }
                        return Ok(reply);
                    }
                    // Not by this server. Another may reach the leader.
                    Attempt::Answered(Err(error @ (CallError::NoLeader(_) | CallError::NoServers))) => {
                        last = error;
                    }
                    Attempt::Answered(Err(CallError::Refused(reason))) if turn.is_some() => {
                        last = CallError::Refused(reason);
                    }
                    Attempt::Answered(Err(CallError::Unknown(reason))) if turn.is_some() => {
                        in_doubt = Some(reason);
                    }
                    // What this server refuses, an earlier one may have let through.
                    Attempt::Answered(Err(error)) => return Err(in_doubt.map_or(error, CallError::Unknown)),
                    Attempt::NotDone(reason) => last = CallError::NoLeader(format!("{NO_LEADER}: {reason}")),
                    Attempt::NoAnswer(reason) if changes_the_configuration(&call) => {
                        return Err(CallError::Unknown(reason));
                    }
                    Attempt::NoAnswer(reason) if turn.is_some() => {
                        in_doubt = Some(format!("{reason}; the outcome of the write is unknown"));
                    }
                    Attempt::NoAnswer(reason) => last = CallError::NoLeader(format!("{NO_LEADER}: {reason}")),
                }
                self.with_line(|line, _| line.put_last(server));
                // It had found its server and waited for news there: to find another it has all its time again.
                if lane.is_some() && self.env.now().since(begun) > hold + GRACE {
                    deadline = self.env.now() + self.timeout;
                }
            }
            // Mutant C01: every attempt gets a new id, so that a retry can apply twice.
            if turn.is_some() && mutant::is("C01") {
                turn = Some(self.requests.turn());
            }
            if !self.pause(deadline).await {
                return Err(in_doubt.map_or(last, CallError::Unknown));
            }
        }
    }

    /// What is sent, until when it waits for news, and its place among those that do.
    fn prepare(&self, call: Call) -> Result<(Call, Instant, Option<Watching<'_>>), CallError> {
        let now = self.env.now();
        let Call::Read { query, mut options } = call else { return Ok((call, now, None)) };
        // Mutant C02: what a client reads through a client agent is whatever the server has.
        if mutant::is("C02") {
            options.consistency = Consistency::Stale;
        }
        let ends = now + options.wait;
        let waits = options.min_index > 0 && !options.wait.is_zero();
        let lane = if waits { Some(self.watch()?) } else { None };
        Ok((Call::Read { query, options }, ends, lane))
    }

    fn watch(&self) -> Result<Watching<'_>, CallError> {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let free = watches.iter().position(|held| *held < WATCHES_A_LANE);
        let Some(free) = free else {
            let text = format!("{MAX_WATCHES} reads wait for a change already; try again later");
            return Err(CallError::Refused(text));
        };
        watches[free] += 1;
        let lane = Lane::Watch(u8::try_from(free).unwrap_or(u8::MAX));
        Ok(Watching { watches: &self.watches, place: free, lane })
    }

    /// Asks one server once.
    async fn attempt(
        &self,
        server: u64,
        lane: Lane,
        (token, call): (&Secret, &Forwarded),
        within: Duration,
    ) -> Attempt {
        let Some(addr) = self.addr_of(server) else {
            return Attempt::NotDone("the server is gone".to_owned());
        };
        let ask = Ask::Agent(call::encode_call(token, call));
        let answer = tokio::select! {
            biased;
            answer = self.connections.call(addr, Some(server), lane, &ask, within) => answer,
            () = self.gone(server) => {
                Err(NoAnswer::NoAnswer { addr, reason: "gossip sees it no more".to_owned() })
            }
        };
        match answer {
            Ok(RpcAnswer::Agent(bytes)) => match call::decode_reply(&bytes) {
                Ok(reply) => Attempt::Answered(reply),
                Err(reason) => Attempt::NoAnswer(format!("{addr} answers in {reason}")),
            },
            Ok(RpcAnswer::NotNow) => Attempt::NotDone(format!("{addr} is starting or stopping")),
            Ok(RpcAnswer::WrongServer { .. }) => Attempt::NotDone(format!("another server lives at {addr}")),
            Ok(RpcAnswer::Failed(reason)) => Attempt::NotDone(reason),
            Ok(_) => Attempt::NoAnswer(format!("{addr} gave an answer that does not fit")),
            Err(error @ NoAnswer::NotSent { .. }) => Attempt::NotDone(error.to_string()),
            Err(error @ NoAnswer::NoAnswer { .. }) => Attempt::NoAnswer(error.to_string()),
        }
    }

    /// Completes when gossip no longer sees this server as one that serves.
    async fn gone(&self, server: u64) {
        let mut changes = self.lan.changes();
        while self
            .lan
            .servers()
            .iter()
            .any(|(seen, _)| seen.server.node_id == server && seen.status.is_live())
        {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits a moment. False when the time is over.
    async fn pause(&self, deadline: Instant) -> bool {
        let pause = Duration::from_millis(self.with_line(|_, rng| rng.random_range(PAUSE_MS)));
        if self.env.now() + pause >= deadline {
            return false;
        }
        self.env.sleep(pause).await;
        true
    }
}

fn changes_the_configuration(call: &Call) -> bool {
    matches!(call, Call::AddServer(_) | Call::RemoveServer { .. } | Call::TransferLeadership { .. })
}

/// Whether one server may have all the time there is: to ask another would begin it all over again.
fn takes_its_time(call: &Call) -> bool {
    changes_the_configuration(call) || matches!(call, Call::Snapshot(_))
}

/// Whether a read that waits got what its reader has already.
fn is_no_news(call: &Call, reply: &Reply) -> bool {
    match (call, reply) {
        (Call::Read { options, .. }, Reply::Found(found)) => {
            options.min_index > 0 && found.index <= options.min_index
        }
        (Call::Read { options, .. }, Reply::FoundSome(found)) => {
            options.min_index > 0 && found.index <= options.min_index
        }
        _ => false,
    }
}

/// The call with what is left of its time to wait.
fn with_wait(call: &Call, wait: Duration) -> Call {
    match call {
        Call::Read { query, options } => {
            Call::Read { query: query.clone(), options: QueryOptions { wait, ..*options } }
        }
        call => call.clone(),
    }
}

/// A place among the reads that wait.
struct Watching<'a> {
    watches: &'a Mutex<[usize; WATCH_LANES]>,
    place: usize,
    lane: Lane,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches[self.place] = watches[self.place].saturating_sub(1);
    }
}

/// A client agent among servers: it has an id, and no cluster of its own.
struct Caller {
    node_id: u64,
    newest: u8,
}

impl rpc::Caller for Caller {
    fn node_id(&self) -> u64 {
        self.node_id
    }
    fn cluster(&self) -> Option<u64> {
        None
    }
    fn newest(&self) -> u8 {
        self.newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Rng;
    use proptest::prelude::*;
    use rand::SeedableRng;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn a_line_keeps_to_its_first_until_it_fails() {
        let rng = &mut Rng::seed_from_u64(1);
        let mut line = Line::default();
        line.fit(&set(&[1, 2, 3]), rng);
        let first = line.first().unwrap();
        line.fit(&set(&[1, 2, 3]), rng);
        assert_eq!(line.first(), Some(first));
        line.put_last(first);
        assert_ne!(line.first(), Some(first));
        assert_eq!(line.0.last(), Some(&first));
        let second = line.first().unwrap();
        line.fit(&set(&[first]), rng);
        assert_eq!(line.0, [first]);
        line.put_last(second);
        assert_eq!(line.0, [first]);
    }

    #[test]
    fn chance_spreads_clients_over_servers() {
        let mut firsts = [0; 3];
        for seed in 0..300 {
            let rng = &mut Rng::seed_from_u64(seed);
            let mut line = Line::default();
            line.fit(&set(&[0, 1, 2]), rng);
            firsts[line.first().unwrap() as usize] += 1;
        }
        assert!(firsts.iter().all(|count| (60..=140).contains(count)), "{firsts:?}");
    }

    proptest! {
        #[test]
        fn a_line_holds_exactly_the_living(steps in prop::collection::vec((prop::collection::btree_set(0u64..6, 0..6), 0u64..6), 1..20)) {
            let rng = &mut Rng::seed_from_u64(7);
            let mut line = Line::default();
            for (alive, failing) in steps {
                line.fit(&alive, rng);
                line.put_last(failing);
                line.shuffle(rng);
                prop_assert_eq!(line.0.iter().copied().collect::<BTreeSet<_>>(), alive.clone());
                prop_assert_eq!(line.0.len(), alive.len());
            }
        }
    }
}
