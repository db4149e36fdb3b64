//! `driftline lock`: runs a command while holding a lock, so that of several machines one does the work.
//!
//! The lock is Consul's: a session of this command's own, which it renews, holds `PREFIX/.lock`. With `-n` it is a semaphore:
//! every contender has an entry of its own, and `PREFIX/.lock` lists those that may run, changed by compare-and-set.
//! Both can be mixed with Consul's own clients.
//!
//! The command runs in a process group of its own, and is stopped with all that it has started as soon as the lock is lost or
//! may be: when somebody took it away, when the session has ended, or when it could not be renewed for as long as it is sure
//! to last. What is left of the group when the command has ended by itself goes on, without the lock. Signals that would end or
//! stop this command go to the group first, so that it does not run on unwatched; against KILL, and STOP, nothing helps.
//!
//! A command that is given a terminal to read from stays in our own group, because no other may read there; when the lock is
//! lost, it alone is stopped, and not what it has started.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use driftline::env::{Env, Instant};
use driftline::http::client::{CallError, Response, call_as};
use driftline::http::parse_duration;
use driftline::secret::Secret;
use hyper::Method;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::Command;

use super::ask::{items, path, text, unanswered};
use super::programs::{Group, Told, without_shell};
use super::{Api, Problem, complain};

/// The session lasts at least so long after a renewal.
const TTL: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long to wait before trying again what failed, or what a lock-delay holds back.
const RETRY: Duration = Duration::from_secs(1);
/// How long one request may take that does not wait for a change.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a look at the lock waits for a change.
const WAIT: Duration = Duration::from_secs(60);
/// What Consul's clients mark the entries of locks with, and those of semaphores.
const LOCK_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;
const SEMAPHORE_FLAGS: u64 = 0xe0f6_9a2b_aa41_4de0;

/// Why there is no lock.
const LATE: &str = "the lock could not be had in time";
const INTERRUPTED: &str = "interrupted before the lock was had";

#[derive(Args, Debug)]
#[command(
    after_help = "It ends with the exit code of the command; with 1 if the lock could not be had, or was lost."
)]
pub struct Lock {
    /// Give up when the lock cannot be had within this time, as in 30s; with 0 or without it, wait
    #[arg(long = "try", visible_alias = "timeout", value_name = "DURATION")]
    within: Option<String>,
    /// How many may hold it at once; all contenders must say the same
    #[arg(short = 'n', long = "holders", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    holders: u32,
    /// Name of the session, for people
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Give this command's standard input to the one that is run. If it is a terminal, only that command itself is stopped when
    /// the lock is lost, and not what it has started
    #[arg(long)]
    pass_stdin: bool,
    /// End with 2 whenever the command fails, and not with its exit code
    #[arg(long)]
    child_exit_code: bool,
    /// What goes wrong is always said: for scripts that were written for Consul
    #[arg(long = "verbose")]
    _verbose: bool,
    /// It is tried again for as long as the session is sure to last: for scripts that were written for Consul
    #[arg(long = "monitor-retry", value_name = "N")]
    _monitor_retry: Option<u32>,
    // Consul's. It is taken only to say what to do instead.
    #[arg(long, hide = true)]
    shell: bool,
    #[command(flatten)]
    api: Api,
    /// The lock is PREFIX/.lock
    prefix: String,
    /// What to run while the lock is held
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command while the lock is held.
pub async fn lock(env: &Env, args: Lock) -> Result<Vec<u8>, Problem> {
    without_shell(args.shell)?;
    let within = args.within.as_deref().map(patience).transpose()?.flatten();
    let (env, api) = args.api.reach(env)?;
    let token = args.api.token.secret()?;
    let prefix = args.prefix.trim_matches('/').to_owned();
    if prefix.is_empty() {
        return Err(Problem::usage("the lock needs a name"));
    }
    let begun = env.now();
    let session = String::new();
    let sure_until = Cell::new(begun + TTL);
    let mut claim = Claim { env, api, token, prefix, holders: args.holders, session, sure_until };
    let mut told = Told::listen()?;
    let name = args.name.clone();
    let name = name.unwrap_or_else(|| format!("lock for '{}' at '{}'", args.command.join(" "), claim.prefix));
    // A session that was made and not told of ends by itself.
    let session = tokio::select! {
        biased;
        session = claim.open_session(&name) => session?,
        () = claim.late(begun, within) => return Err(Problem::failed(LATE)),
        _ = told.next_end() => return Err(Problem::failed(INTERRUPTED)),
    };
    claim.session = session;
    let done = claim.hold(&args, begun, within, &mut told).await;
    // It is several requests, to an agent that may answer none.
    if claim.env.timeout(REQUEST, claim.give_up()).await.is_err() {
        complain("the session ends by itself, the agent does not answer");
    }
    done
}

/// How long to try; as long as it takes, if that is none.
fn patience(text: &str) -> Result<Option<Duration>, Problem> {
    let nanos = parse_duration(text).and_then(|nanos| u64::try_from(nanos).ok());
    let wrong = || Problem::usage(format!("--try {text:?}: must be a duration such as 30s or 1m30s"));
    let within = Duration::from_nanos(nanos.ok_or_else(wrong)?);
    Ok(Some(within).filter(|within| !within.is_zero()))
}

/// One contender.
struct Claim {
    env: Env,
    api: SocketAddr,
    token: Secret,
    prefix: String,
    holders: u32,
    session: String,
    /// Until when the session lasts for sure.
    sure_until: Cell<Instant>,
}

/// How the command ended.
enum End {
    Itself(ExitStatus),
    Lost(String),
}

impl Claim {
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: String,
        within: Duration,
    ) -> Result<Response, CallError> {
        call_as(&self.env, self.api, &self.token, method, path, body.into(), within).await
    }

    /// A request that must succeed.
    async fn must(&self, method: Method, path: &str, body: String) -> Result<Response, Trouble> {
        let asked = self.request(method, path, body, REQUEST).await;
        let response = asked.map_err(|error| Trouble::passing(unanswered(self.api, &error)))?;
        if response.status == 200 { Ok(response) } else { Err(self.trouble(&response)) }
    }

    /// What an answer that is none says. Who is refused will be refused again; too many requests, and what goes wrong at the
    /// agent or behind it, may pass.
    fn trouble(&self, response: &Response) -> Trouble {
        let text =
            format!("the agent at {} answers {}: {}", self.api, response.status, response.text().trim_end());
        Trouble { text, lasting: (400..500).contains(&response.status) && response.status != 429 }
    }

    async fn open_session(&self, name: &str) -> Result<String, Problem> {
        let body = json!({ "Name": name, "TTL": format!("{}s", TTL.as_secs()), "Behavior": "release" });
        let response = self.must(Method::PUT, "/v1/session/create", body.to_string()).await;
        let response =
            response.map_err(|trouble| Problem::failed(format!("no session: {}", trouble.text)))?;
        let value: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        match text(&value, "ID") {
            "" => Err(Problem::failed(format!("no session: the agent says {}", response.text()))),
            id => Ok(id.to_owned()),
        }
    }

    /// Completes when the lock is to be given up on, if it is not had by then.
    async fn late(&self, begun: Instant, within: Option<Duration>) {
        match within {
            Some(within) => self.env.sleep_until(begun + within).await,
            None => std::future::pending().await,
        }
    }

    async fn hold(
        &self,
        args: &Lock,
        begun: Instant,
        within: Option<Duration>,
        told: &mut Told,
    ) -> Result<Vec<u8>, Problem> {
        let expired = self.session_ends();
        tokio::pin!(expired);
        let acquired = tokio::select! {
            biased;
            acquired = self.acquire() => acquired,
            reason = &mut expired => Err(reason),
            () = self.late(begun, within) => Err(LATE.to_owned()),
            _ = told.next_end() => Err(INTERRUPTED.to_owned()),
        };
        acquired.map_err(Problem::failed)?;
        let mut child = spawn(args)?;
        let lost = self.lost();
        tokio::pin!(lost);
        let end = loop {
            let signal = tokio::select! {
                biased;
                status = child.wait() => {
                    break End::Itself(status.map_err(|error| Problem::failed(error.to_string()))?);
                }
                reason = &mut expired => break End::Lost(reason),
                reason = &mut lost => break End::Lost(reason),
                signal = told.next() => signal,
            };
            // It is the command that was meant; the lock is held until it has ended.
            if signal != Signal::TSTP {
                child.pass_on(signal);
                continue;
            }
            child.pause();
            // Nobody renewed the session meanwhile. The command goes on only if it was not for too long.
            if self.env.now() >= self.sure_until.get() {
                break End::Lost("the session was not renewed while all stood still".to_owned());
            }
            child.tell(Signal::CONT);
        };
        if matches!(end, End::Itself(_)) {
            // A daemon that it was there to start, say.
            child.let_go();
        }
        match end {
            End::Itself(status) if status.success() => Ok(Vec::new()),
            End::Itself(status) => {
                let code = exit_code(status, args.child_exit_code);
                Err(Problem { code, text: format!("the command ended with {status}") })
            }
            End::Lost(reason) => {
                complain(&format!("the lock is lost, the command is stopped: {reason}"));
                let _ = child.stop(&self.env, Signal::TERM).await;
                Err(Problem::failed("the lock was lost"))
            }
        }
    }

    /// Renews the session. Completes when it has ended, or may have.
    async fn session_ends(&self) -> String {
        let path = format!("/v1/session/renew/{}", self.session);
        let mut pause = RENEW_EVERY;
        loop {
            self.env.sleep_until((self.env.now() + pause).min(self.sure_until.get())).await;
            let begun = self.env.now();
            let left = self.sure_until.get().since(begun);
            if left.is_zero() {
                return format!("the session could not be renewed for {} s", TTL.as_secs());
            }
            pause = match self.request(Method::PUT, &path, String::new(), left).await {
                Ok(response) if response.status == 200 => {
                    // It counts from when the agent heard of it, which was not before it was asked.
                    self.sure_until.set(begun + TTL);
                    RENEW_EVERY
                }
                Ok(response) if response.status == 404 => return "the session has ended".to_owned(),
                _ => RETRY,
            };
        }
    }

    fn lock_key(&self) -> String {
        format!("/v1/kv/{}/.lock", path(&self.prefix))
    }

    fn own_key(&self) -> String {
        format!("/v1/kv/{}/{}", path(&self.prefix), self.session)
    }

    /// Writes on a condition. Whether it held.
    async fn write(&self, key: &str, query: &str, body: String) -> Result<bool, Trouble> {
        let response = self.must(Method::PUT, &format!("{key}?{query}"), body).await?;
        Ok(response.text().trim() == "true")
    }

    /// The entries of the lock as they are, with their index; waits for a change of that index if it is not 0.
    async fn entries(&self, index: u64) -> Result<(u64, Vec<Value>), Trouble> {
        let mut at = if self.holders == 1 {
            format!("{}?consistent", self.lock_key())
        } else {
            format!("/v1/kv/{}/?recurse&consistent", path(&self.prefix))
        };
        let mut within = REQUEST;
        if index > 0 {
            at.push_str(&format!("&index={index}&wait={}s", WAIT.as_secs()));
            within += WAIT * 2;
        }
        let asked = self.request(Method::GET, &at, String::new(), within).await;
        let response = asked.map_err(|error| Trouble::passing(unanswered(self.api, &error)))?;
        let index = response.header("x-consul-index").and_then(|index| index.parse().ok()).unwrap_or(0);
        match response.status {
            404 => Ok((index, Vec::new())),
            200 => {
                let entries: Value = serde_json::from_slice(&response.body)
                    .map_err(|error| Trouble::passing(error.to_string()))?;
                Ok((index, items(&entries).to_vec()))
            }
            _ => Err(self.trouble(&response)),
        }
    }

    /// Waits until the lock is held. Only what no waiting can help with is an error; the rest is said once.
    async fn acquire(&self) -> Result<(), String> {
        let mut said = false;
        loop {
            match if self.holders == 1 { self.take_lock().await } else { self.take_slot().await } {
                Ok(Taken::Yes) => return Ok(()),
                Ok(Taken::No) => {}
                Ok(Taken::Never(reason)) => return Err(reason),
                Err(Trouble { text, lasting: true }) => return Err(text),
                Err(Trouble { text, .. }) => {
                    if !std::mem::replace(&mut said, true) {
                        complain(&format!("the lock cannot be had yet: {text}"));
                    }
                    self.env.sleep(RETRY).await;
                }
            }
        }
    }

    /// Tries once, and waits until it is worth trying again.
    ///
    /// What is there is looked at first, and taken only as it was seen then. The API's own acquire asks nothing of an entry but
    /// that no session holds it: it would take a semaphore's list of holders, or anybody's key, for a lock that is free.
    async fn take_lock(&self) -> Result<Taken, Trouble> {
        let mut seen = 0;
        let free = loop {
            let (index, entries) = self.entries(seen).await?;
            let Some(entry) = entries.into_iter().next() else { break None };
            if !is_locks(&entry) {
                return Ok(Taken::Never(format!("{}/.lock is not a lock's", self.prefix)));
            }
            match text(&entry, "Session") {
                "" => break Some(entry),
                // A try of which there was no answer.
                session if session == self.session => return Ok(Taken::Yes),
                _ => seen = if index < seen { 0 } else { index },
            }
        };
        if self.lock_as_seen(free.as_ref()).await? {
            return Ok(Taken::Yes);
        }
        // A lock-delay holds it back, or somebody else was as quick.
        self.env.sleep(RETRY).await;
        Ok(Taken::No)
    }

    /// Takes the lock if its entry is still the one that was seen, or still not there. Whether it was.
    async fn lock_as_seen(&self, entry: Option<&Value>) -> Result<bool, Trouble> {
        let key = format!("{}/.lock", self.prefix);
        let unchanged = match entry {
            Some(entry) => json!({ "Verb": "check-index", "Key": key, "Index": entry["ModifyIndex"] }),
            None => json!({ "Verb": "check-not-exists", "Key": key }),
        };
        let lock = json!({ "Verb": "lock", "Key": key, "Flags": LOCK_FLAGS, "Session": self.session });
        let body = json!([{ "KV": unchanged }, { "KV": lock }]).to_string();
        let asked = self.request(Method::PUT, "/v1/txn", body, REQUEST).await;
        let response = asked.map_err(|error| Trouble::passing(unanswered(self.api, &error)))?;
        match response.status {
            200 => Ok(true),
            // Consul tells of a right that is missing in the same way as of a condition that did not hold.
            409 if !response.text().to_lowercase().contains("permission denied") => Ok(false),
            _ => Err(self.trouble(&response)),
        }
    }

    /// The same of a semaphore.
    async fn take_slot(&self) -> Result<Taken, Trouble> {
        let query = format!("acquire={}&flags={SEMAPHORE_FLAGS}", self.session);
        if !self.write(&self.own_key(), &query, String::new()).await? {
            return Err(Trouble::passing("the contender's entry could not be made".to_owned()));
        }
        let mut seen = 0;
        loop {
            let (index, entries) = self.entries(seen).await?;
            match decide(&entries, &self.prefix, &self.session, self.holders) {
                Slot::Held => return Ok(Taken::Yes),
                Slot::Conflict(reason) => return Ok(Taken::Never(reason)),
                Slot::Take { cas, list } => {
                    let query = format!("cas={cas}&flags={SEMAPHORE_FLAGS}");
                    let taken = self.write(&self.lock_key(), &query, list).await?;
                    return Ok(if taken { Taken::Yes } else { Taken::No });
                }
                Slot::Wait => seen = if index < seen { 0 } else { index },
            }
        }
    }

    /// Completes when the lock is held no longer, with the reason. That it cannot be looked at says nothing: the session tells.
    async fn lost(&self) -> String {
        let mut seen = 0;
        loop {
            match self.entries(seen).await {
                Ok((index, entries)) => {
                    let held = if self.holders == 1 {
                        entries.first().is_some_and(|entry| text(entry, "Session") == self.session)
                    } else {
                        decide(&entries, &self.prefix, &self.session, self.holders) == Slot::Held
                    };
                    if !held {
                        return "it was taken away".to_owned();
                    }
                    seen = if index < seen { 0 } else { index };
                }
                Err(_) => {
                    seen = 0;
                    self.env.sleep(RETRY).await;
                }
            }
        }
    }

    /// Lets go of whatever is held, and of the session. What fails here ends by itself with the session.
    async fn give_up(&self) {
        if self.holders == 1 {
            // Who wrote something of their own over it while it was held is to find that as it was written.
            if let Ok((_, entries)) = self.entries(0).await
                && entries
                    .first()
                    .is_some_and(|entry| is_locks(entry) && text(entry, "Session") == self.session)
            {
                let query = format!("release={}&flags={LOCK_FLAGS}", self.session);
                let _ = self.write(&self.lock_key(), &query, String::new()).await;
            }
        } else {
            while let Ok((_, entries)) = self.entries(0).await {
                let Some((cas, list)) = without(&entries, &self.prefix, &self.session) else { break };
                let query = format!("cas={cas}&flags={SEMAPHORE_FLAGS}");
                if !matches!(self.write(&self.lock_key(), &query, list).await, Ok(false)) {
                    break;
                }
            }
            let _ = self.must(Method::DELETE, &self.own_key(), String::new()).await;
        }
        let destroy = format!("/v1/session/destroy/{}", self.session);
        if let Err(Trouble { text, .. }) = self.must(Method::PUT, &destroy, String::new()).await {
            complain(&format!("the session ends by itself, it could not be ended now: {text}"));
        }
        // Nobody holds the lock, or waits for it: nothing is left of it.
        if let Ok((_, entries)) = self.entries(0).await
            && let Some(index) = unused(&entries, &self.prefix, self.holders)
        {
            let at = format!("{}?cas={index}", self.lock_key());
            let _ = self.must(Method::DELETE, &at, String::new()).await;
        }
    }
}

/// What to end with after a command that has failed: Consul's one code for all if that is wanted, or its own.
fn exit_code(status: ExitStatus, one_for_all: bool) -> u8 {
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        _ if one_for_all => 2,
        code => code.unwrap_or(1),
    }
}

/// Why something was not done.
struct Trouble {
    text: String,
    /// Whether it would be so again, however long one waits.
    lasting: bool,
}

impl Trouble {
    fn passing(text: String) -> Trouble {
        Trouble { text, lasting: false }
    }
}

/// What a try came to.
enum Taken {
    Yes,
    No,
    Never(String),
}

/// Who may run, as `PREFIX/.lock` of a semaphore says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Holders {
    limit: u32,
    #[serde(default)]
    holders: BTreeMap<String, bool>,
}

/// What a contender for a semaphore is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    Held,
    Wait,
    Take { cas: u64, list: String },
    Conflict(String),
}

/// Whether an entry is that of a lock, free or held, and not a semaphore's or anybody's key.
fn is_locks(entry: &Value) -> bool {
    entry["Flags"].as_u64() == Some(LOCK_FLAGS)
}

/// The list of holders with its index, if `PREFIX/.lock` is there; no list if it is something else.
fn listed(entries: &[Value], prefix: &str) -> Option<(u64, Option<Holders>)> {
    use base64::Engine;
    let key = format!("{prefix}/.lock");
    let entry = entries.iter().find(|entry| text(entry, "Key") == key)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text(entry, "Value")).unwrap_or_default();
    let list = serde_json::from_slice(&bytes).ok();
    let list = list.filter(|_| entry["Flags"].as_u64() == Some(SEMAPHORE_FLAGS));
    Some((entry["ModifyIndex"].as_u64().unwrap_or(0), list))
}

/// Looks at a semaphore's entries. Holders whose sessions have ended hold nothing.
fn decide(entries: &[Value], prefix: &str, session: &str, limit: u32) -> Slot {
    let alive: BTreeSet<&str> = entries.iter().map(|entry| text(entry, "Session")).collect();
    let (cas, mut list) = match listed(entries, prefix) {
        None => (0, Holders { limit, holders: BTreeMap::new() }),
        Some((cas, Some(list))) => (cas, list),
        Some((_, None)) => return Slot::Conflict(format!("{prefix}/.lock is not a semaphore's")),
    };
    if list.limit != limit {
        return Slot::Conflict(format!("others say that {} may hold it, not {limit}", list.limit));
    }
    list.holders.retain(|holder, _| alive.contains(holder.as_str()));
    if list.holders.contains_key(session) {
        return Slot::Held;
    }
    if list.holders.len() >= limit as usize {
        return Slot::Wait;
    }
    list.holders.insert(session.to_owned(), true);
    // Plain data always has a text.
    Slot::Take { cas, list: serde_json::to_string(&list).unwrap_or_default() }
}

/// The modify index of `PREFIX/.lock`, if it is such a lock's or semaphore's and holds nobody who is alive.
fn unused(entries: &[Value], prefix: &str, limit: u32) -> Option<u64> {
    if limit == 1 {
        let entry = entries.first()?;
        let free = is_locks(entry) && text(entry, "Session").is_empty();
        return entry["ModifyIndex"].as_u64().filter(|_| free);
    }
    let (index, list) = listed(entries, prefix)?;
    let alive = |holder: &String| entries.iter().any(|entry| text(entry, "Session") == holder);
    (!list?.holders.keys().any(alive)).then_some(index)
}

/// The list of holders without one of them. Nothing if it is not on it.
fn without(entries: &[Value], prefix: &str, session: &str) -> Option<(u64, String)> {
    let (cas, list) = listed(entries, prefix)?;
    let mut list = list?;
    list.holders.remove(session)?;
    Some((cas, serde_json::to_string(&list).unwrap_or_default()))
}

fn spawn(args: &Lock) -> Result<Group, Problem> {
    let (program, arguments) =
        args.command.split_first().ok_or_else(|| Problem::usage("no command is named"))?;
    let input = if args.pass_stdin { Stdio::inherit() } else { Stdio::null() };
    let mut command = Command::new(program);
    command.args(arguments).env("CONSUL_LOCK_HELD", "true").stdin(input);
    // In a group of its own it would be stopped as soon as it reads.
    let reads_terminal = args.pass_stdin && io::stdin().is_terminal();
    if reads_terminal { Group::spawn_in_ours(&mut command) } else { Group::spawn(&mut command) }
        .map_err(|error| Problem::failed(format!("cannot run {program:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn contender(id: &str, session: bool) -> Value {
        let holder = if session { id } else { "" };
        json!({ "Key": format!("p/{id}"), "Session": holder, "ModifyIndex": 3 })
    }

    fn list(limit: u32, holders: &[&str]) -> Value {
        let holders = holders.iter().map(|holder| ((*holder).to_owned(), true)).collect();
        let text = serde_json::to_string(&Holders { limit, holders }).unwrap();
        let value = base64::engine::general_purpose::STANDARD.encode(text);
        json!({ "Key": "p/.lock", "Value": value, "Flags": SEMAPHORE_FLAGS, "ModifyIndex": 7 })
    }

    fn take(cas: u64, text: &str) -> Slot {
        Slot::Take { cas, list: text.to_owned() }
    }

    #[test]
    fn a_slot_is_taken_when_one_is_free_and_those_of_the_dead_are() {
        let decide = |entries: &[Value]| decide(entries, "p", "me", 2);
        let me = contender("me", true);
        assert_eq!(decide(std::slice::from_ref(&me)), take(0, r#"{"Limit":2,"Holders":{"me":true}}"#));
        let (a, b) = (contender("a", true), contender("b", true));
        let full = [list(2, &["a", "b"]), me.clone(), a.clone(), b];
        assert_eq!(decide(&full), Slot::Wait);
        let gone = contender("b", false);
        let free = [list(2, &["a", "b"]), me.clone(), a.clone(), gone];
        assert_eq!(decide(&free), take(7, r#"{"Limit":2,"Holders":{"a":true,"me":true}}"#));
        assert_eq!(decide(&[list(2, &["a", "me"]), me.clone(), a.clone()]), Slot::Held);
        // Whose own session has ended holds nothing.
        assert!(matches!(decide(&[list(2, &["a", "me"]), contender("me", false), a]), Slot::Take { .. }));
        assert!(matches!(decide(&[list(3, &[]), me.clone()]), Slot::Conflict(_)));
        let other = json!({ "Key": "p/.lock", "Value": "aGk=", "ModifyIndex": 7 });
        assert!(matches!(decide(&[other, me.clone()]), Slot::Conflict(_)));
        let mut unmarked = list(2, &[]);
        unmarked["Flags"] = json!(0);
        assert!(matches!(decide(&[unmarked, me]), Slot::Conflict(_)));
    }

    #[test]
    fn no_time_to_try_is_all_the_time_that_it_takes() {
        let tried = |text: &str| patience(text).map_err(|problem| problem.code);
        assert_eq!(tried("1m30s"), Ok(Some(Duration::from_secs(90))));
        assert_eq!((tried("0"), tried("0s")), (Ok(None), Ok(None)));
        assert_eq!((tried("-10s"), tried("blah")), (Err(2), Err(2)));
    }

    #[test]
    fn a_command_that_fails_is_told_of_by_its_own_code_or_consuls() {
        use std::os::unix::process::ExitStatusExt;
        let (failed, killed) = (ExitStatus::from_raw(7 << 8), ExitStatus::from_raw(9));
        assert_eq!((exit_code(failed, false), exit_code(killed, false)), (7, 1));
        assert_eq!((exit_code(failed, true), exit_code(killed, true)), (2, 2));
    }

    #[test]
    fn what_nobody_uses_can_go() {
        let unused = |entries: &[Value]| unused(entries, "p", 2);
        assert_eq!(unused(&[list(2, &[])]), Some(7));
        assert_eq!(unused(&[list(2, &["a"]), contender("a", true)]), None);
        // Of a dead one's entry, the session is gone.
        assert_eq!(unused(&[list(2, &["a"]), contender("a", false)]), Some(7));
        let lock = |flags: u64, session: &str| json!({ "Key": "p/.lock", "Flags": flags, "Session": session, "ModifyIndex": 5 });
        assert_eq!((unused(&[]), unused(&[lock(LOCK_FLAGS, "")])), (None, None));
        let unused = |entry: Value| super::unused(&[entry], "p", 1);
        assert_eq!(unused(lock(LOCK_FLAGS, "")), Some(5));
        assert_eq!((unused(lock(LOCK_FLAGS, "a")), unused(list(1, &[]))), (None, None));
    }

    #[test]
    fn who_gives_up_leaves_the_others_on_the_list() {
        let all = [list(2, &["a", "me"])];
        assert_eq!(without(&all, "p", "me"), Some((7, r#"{"Limit":2,"Holders":{"a":true}}"#.to_owned())));
        assert_eq!(without(&all, "p", "nobody"), None);
        assert_eq!(without(&[], "p", "me"), None);
    }
}
