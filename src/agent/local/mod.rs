//! This agent's own services and checks, and keeping the catalog true to them (anti-entropy).
//!
//! * [`book`]: what there is, as plain data, and what the catalog must be told.
//! * [`define`]: what services and checks mean that somebody wrote down.
//! * [`probe`]: looking once.
//! * [`shelf`]: what was registered, on disk, so that it outlives the process.
//! * [`Local`]: the tasks around both. Each check that looks has a task; one task tells the catalog.
//!
//! A change is told at once. Every minute, longer in large clusters, all of it is compared with what the
//! catalog holds, and what differs is put right: the agent is the source of truth for its own node. If that
//! fails it is tried again after 15 to 30 seconds, and as soon as a server turns up. (Consul, whose pace
//! this is, waits out that time too when it was paused meanwhile; there is no pause here.)
//!
//! The catalog is told by the agent's own right. Where that does not reach, by that of whoever registered what is told:
//! an agent whose token may write its node only runs services whose tokens may write those.
//!
//! Left out: checks by Docker, UDP and the operating system's services.

pub mod book;
pub mod define;
mod h2;
pub mod probe;
pub mod shelf;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::{Notify, watch};

use crate::env::{AbortOnDrop, Env, Instant, Rng};
use crate::mutant;
use crate::secret::Secret;
use crate::state::catalog::{CheckInfo, NodeInfo, OneNode, ServiceInfo, Status};
use crate::state::{CatalogCommand, Command, Outcome};

use super::tokens::Purpose;
use super::{Agent, Bearer, Consistency, QueryOptions, WriteError, uuid_of};
use book::{Book, Definition, Item, OwnCheck, Probe, Unknown, scale};
use define::{Configured, Whole};
use shelf::{Change, Found, Shelf, Stood, Tokens};

/// How often all is compared in a small cluster.
const COMPARE_EVERY: Duration = Duration::from_secs(60);
/// How long after a failure it is tried again; up to twice that.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// And at most so long after a server turned up.
const SERVER_UP_WITHIN: Duration = Duration::from_secs(3);
/// Of a comparison that fails again and again it is told after so many failures, and once more after as many as
/// fill ten minutes or so.
const FAILURES_TOLD: u32 = 3;
const FAILURES_TOLD_EVERY: u32 = 25;
/// How often services are looked for whose checks have been critical for too long.
const REAP_EVERY: Duration = Duration::from_secs(30);

/// The check that says that the node is being worked on.
pub const NODE_MAINTENANCE: &str = "_node_maintenance";

/// What the id of the check begins with that says that a service is being worked on; then comes the service's id.
pub const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// Whether this is the id of a check that says that something is being worked on.
pub fn is_maintenance(id: &str) -> bool {
    id == NODE_MAINTENANCE || id.starts_with(SERVICE_MAINTENANCE)
}

/// The agent's services and checks. Clones are the same ones.
#[derive(Clone)]
pub struct Local {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    book: Mutex<Book>,
    /// By whose right something was registered. It goes when the catalog has heard that the thing has gone.
    bearers: Mutex<BTreeMap<Item, Bearer>>,
    /// The tasks of checks that look, and of those whose time runs.
    looking: Mutex<BTreeMap<String, AbortOnDrop>>,
    /// Wakes whoever tells the catalog.
    changed: Notify,
    /// Wakes whoever waits for another state of things here.
    changes: watch::Sender<u64>,
    /// What is on disk. Whoever holds it writes there.
    shelf: tokio::sync::Mutex<Shelf>,
    rng: Mutex<Rng>,
}

impl Local {
    /// Nothing yet.
    pub fn new(env: &Env) -> Local {
        let rng = Mutex::new(env.rng("local"));
        let (book, looking, changed) = (Mutex::default(), Mutex::default(), Notify::new());
        let (changes, bearers) = (watch::Sender::new(0), Mutex::default());
        let (env, shelf) = (env.clone(), tokio::sync::Mutex::default());
        Local { inner: Arc::new(Inner { env, book, bearers, looking, changed, changes, shelf, rng }) }
    }

    /// Takes up what the configuration defines, and what an earlier life of this agent left on disk.
    pub async fn load(&self, agent: &Agent, configured: Configured) {
        let (env, mut shelf) = (&self.inner.env, self.inner.shelf.lock().await);
        let disk = env.disk();
        let read = env.blocking(move || {
            let mut shelf = Shelf::default();
            shelf.read(&*disk).map(|found| (shelf, found))
        });
        let found = match read.await {
            Ok(Ok((there, found))) => {
                *shelf = there;
                found
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "services and checks cannot be read from disk");
                Found::default()
            }
            Err(error) => {
                tracing::error!(%error, "services and checks cannot be read from disk");
                Found::default()
            }
        };
        for (file, reason) in found.bad {
            tracing::error!(file, reason, "not loaded; what it held has to be registered again");
        }
        if !found.services.is_empty() || !found.checks.is_empty() {
            let (services, checks) = (found.services.len(), found.checks.len());
            tracing::info!(services, checks, "loaded what was registered before");
        }
        for (service, token) in found.services {
            let bearer = teller(agent, &token).bearer().clone();
            self.bearers().insert(Item::Service(service.id.clone()), bearer);
            self.locked().set_service(service);
        }
        self.configure(agent, configured);
        for (definition, token) in found.checks {
            let id = definition.id.clone();
            if self.locked().is_configured(&Item::Check(id.clone())) {
                continue;
            }
            match self.register_check(&teller(agent, &token), definition) {
                Ok(()) => self.locked().doubt(&id, env.now()),
                Err(error) => tracing::error!(check = id, %error, "not loaded"),
            }
        }
        for stood in found.stood {
            self.take_up(stood);
        }
    }

    /// Brings in force what the configuration defines. What it defined before and does not now goes; what requests registered
    /// stays, unless the configuration has it too.
    pub fn configure(&self, agent: &Agent, configured: Configured) {
        let of_files = agent.token(Purpose::Files);
        let teller = |token: &Secret| teller(agent, if token.is_empty() { &of_files } else { token });
        let mut items = BTreeSet::new();
        let mut checks = Vec::new();
        for Whole { service, checks: own, token } in configured.services {
            let teller = teller(&token);
            let item = Item::Service(service.id.clone());
            self.bearers().insert(item.clone(), teller.bearer().clone());
            items.insert(item);
            if self.locked().services().get(&service.id) != Some(&service) {
                self.locked().set_service(service);
            }
            checks.extend(own.into_iter().map(|check| (check, teller.clone())));
        }
        checks.extend(configured.checks.into_iter().map(|(check, token)| (check, teller(&token))));
        for (check, teller) in checks {
            let item = Item::Check(check.id.clone());
            self.bearers().insert(item.clone(), teller.bearer().clone());
            items.insert(item);
            let same = self.locked().checks().get(&check.id).is_some_and(|known| known.definition == check);
            if !same && let Err(error) = self.register_check(&teller, check) {
                tracing::error!(%error, "a configured check");
            }
        }
        let gone = self.locked().configure(items);
        for gone in gone {
            // A check may have gone with its service.
            let _ = match gone {
                Item::Service(id) => self.deregister(&id),
                Item::Check(id) => self.deregister_check(&id),
            };
        }
        self.note_change();
    }

    /// What a check was told in an earlier life still counts, if its time is not over.
    fn take_up(&self, stood: Stood) {
        let (env, mut book) = (&self.inner.env, self.locked());
        let Some(Probe::Ttl(ttl)) =
            book.checks().get(&stood.id).and_then(|check| check.definition.probe.clone())
        else {
            return;
        };
        let Some(left) = shelf::counts_for(stood.until_ms, env.wall(), ttl) else { return };
        if book.tell(&stood.id, stood.status, stood.output, env.now()).is_ok() {
            book.counts_until(&stood.id, Some(Duration::from_millis(stood.until_ms)));
            book.counts_for(&stood.id, left, env.now());
            drop(book);
            let task = env.spawn(self.clone().expire(stood.id.clone(), left));
            self.looking().insert(stood.id, task.abort_on_drop());
        }
    }

    /// Brings what is on disk up to date. What cannot be written now is with the next change.
    ///
    /// # Errors
    /// Why it is not, in words.
    pub async fn save(&self) -> Result<(), String> {
        // In a task of its own: who gives up waiting must not let another write beside this.
        let saved = self.inner.env.spawn(self.clone().save_now()).await;
        saved.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn save_now(self) -> Result<(), String> {
        let mut shelf = self.inner.shelf.lock().await;
        let (unsaved, changes) = {
            let mut book = self.locked();
            let unsaved = book.take_unsaved();
            let changes = if shelf.is_compared() {
                shelf.changes_of(&book, &self.tokens(Some(&unsaved)), &unsaved)
            } else {
                shelf.changes(&book, &self.tokens(None))
            };
            (unsaved, changes)
        };
        match self.carry_out(changes).await {
            Ok(changes) => {
                shelf.done(&changes);
                Ok(())
            }
            Err(reason) => {
                self.locked().not_saved(unsaved);
                Err(reason)
            }
        }
    }

    /// Writes to the disk. Gives back what was done.
    async fn carry_out(&self, changes: Vec<Change>) -> Result<Vec<Change>, String> {
        if changes.is_empty() {
            return Ok(changes);
        }
        let disk = self.inner.env.disk();
        let written = self.inner.env.blocking(move || {
            let written = shelf::carry_out(&*disk, &changes);
            written.map(|()| changes)
        });
        let written = written.await.map_err(|error| error.to_string())?;
        written.map_err(|error| {
            format!("it is in force, but could not be kept on disk for the next start: {error}")
        })
    }

    /// The tokens by whose right these things were registered; all of them, if none are named.
    fn tokens(&self, of: Option<&BTreeSet<Item>>) -> Tokens {
        let told = |(item, bearer): (&Item, &Bearer)| match bearer {
            Bearer::Token(token) if !token.is_empty() => Some((item.clone(), token.clone())),
            _ => None,
        };
        let bearers = self.bearers();
        match of {
            None => bearers.iter().filter_map(told).collect(),
            Some(items) => items.iter().filter_map(|item| told((item, bearers.get(item)?))).collect(),
        }
    }

    /// As [`Local::save`], where nobody waits to be told.
    pub(super) async fn try_to_save(&self) {
        if let Err(reason) = self.save().await {
            tracing::warn!(reason, "a change of the agent's services or checks");
        }
    }

    fn locked(&self) -> MutexGuard<'_, Book> {
        self.inner.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is now.
    pub fn book(&self) -> Book {
        self.locked().clone()
    }

    /// Looks at what there is now, without a copy. `look` runs under a lock: it must be short and must not call back.
    pub fn with_book<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.locked())
    }

    /// The services there are now.
    pub fn services(&self) -> Vec<ServiceInfo> {
        self.locked().services().values().cloned().collect()
    }

    /// Completes when something has changed after this was called.
    pub fn changed(&self) -> impl Future<Output = ()> + use<> {
        let mut changes = self.inner.changes.subscribe();
        changes.mark_unchanged();
        // The sender lives as long as whoever asks.
        async move { drop(changes.changed().await) }
    }

    fn note_change(&self) {
        self.inner.changed.notify_one();
        self.inner.changes.send_modify(|count| *count += 1);
    }

    /// A time between nothing and `most`, so that agents do not all come at once.
    fn spread(&self, most: Duration) -> Duration {
        most.mul_f64(self.inner.rng.lock().unwrap_or_else(PoisonError::into_inner).random())
    }

    /// Registers a service with its checks. With `replace`, its other checks go.
    ///
    /// # Errors
    /// When a check is of another service that is not there.
    pub fn register(
        &self,
        agent: &Agent,
        service: ServiceInfo,
        checks: Vec<Definition>,
        replace: bool,
    ) -> Result<(), Unknown> {
        let mut gone = Vec::new();
        {
            let mut book = self.locked();
            if replace {
                let kept = |id: &str| checks.iter().any(|check| check.id == id);
                let own = book.checks().values().filter(|check| check.definition.service_id == service.id);
                gone = own.map(|check| check.definition.id.clone()).filter(|id| !kept(id)).collect();
                for id in &gone {
                    book.remove_check(id)?;
                }
            }
            self.bearers().insert(Item::Service(service.id.clone()), agent.bearer().clone());
            book.set_service(service);
        }
        for id in gone {
            self.stop_looking(&id);
        }
        for check in checks {
            self.register_check(agent, check)?;
        }
        self.note_change();
        Ok(())
    }

    /// Removes a service with its checks.
    ///
    /// # Errors
    /// When there is none.
    pub fn deregister(&self, id: &str) -> Result<(), Unknown> {
        let checks = self.locked().remove_service(id)?;
        for check in checks {
            self.stop_looking(&check);
        }
        self.note_change();
        Ok(())
    }

    /// Registers a check, and begins to look. Until something is found, it stands as the one did that had its id.
    ///
    /// # Errors
    /// When its service is not there.
    pub fn register_check(&self, agent: &Agent, definition: Definition) -> Result<(), Unknown> {
        let env = &self.inner.env;
        let id = definition.id.clone();
        {
            // Whoever saves it meanwhile must not miss by whose right it is.
            let mut book = self.locked();
            book.set_check(definition.clone(), env.now())?;
            self.bearers().insert(Item::Check(id.clone()), agent.bearer().clone());
        }
        self.stop_looking(&id);
        let task = match definition.probe.clone() {
            None => None,
            // Mutant C14: the time to live of a check begins when it is first told something.
            Some(Probe::Ttl(_)) if mutant::is("C14") => None,
            Some(Probe::Ttl(ttl)) => Some(env.spawn(self.clone().expire(id.clone(), ttl))),
            Some(Probe::Alias { node: None, service }) => {
                Some(env.spawn(self.clone().follow_own(agent.clone(), id.clone(), service)))
            }
            Some(Probe::Alias { node: Some(node), service }) => {
                Some(env.spawn(self.clone().follow(agent.clone(), id.clone(), node, service)))
            }
            Some(probe) => Some(env.spawn(self.clone().look(agent.clone(), definition, probe))),
        };
        if let Some(task) = task {
            self.looking().insert(id, task.abort_on_drop());
        }
        self.note_change();
        Ok(())
    }

    /// Removes a check.
    ///
    /// # Errors
    /// When there is none.
    pub fn deregister_check(&self, id: &str) -> Result<(), Unknown> {
        self.locked().remove_check(id)?;
        self.stop_looking(id);
        self.note_change();
        Ok(())
    }

    /// Tells a check how things are; its time starts again.
    ///
    /// # Errors
    /// When there is none that is told.
    pub fn tell(&self, id: &str, status: Status, output: String) -> Result<(), Unknown> {
        let ttl = {
            let mut book = self.locked();
            book.tell(id, status, output, self.inner.env.now())?;
            let ttl = match book.checks().get(id).and_then(|check| check.definition.probe.as_ref()) {
                Some(Probe::Ttl(ttl)) => Some(*ttl),
                _ => None,
            };
            book.counts_until(id, ttl.map(|ttl| self.inner.env.wall().saturating_add(ttl)));
            ttl
        };
        if let Some(ttl) = ttl {
            let task = self.inner.env.spawn(self.clone().expire(id.to_owned(), ttl));
            self.looking().insert(id.to_owned(), task.abort_on_drop());
        }
        self.note_change();
        Ok(())
    }

    fn looking(&self) -> MutexGuard<'_, BTreeMap<String, AbortOnDrop>> {
        self.inner.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bearers(&self) -> MutexGuard<'_, BTreeMap<Item, Bearer>> {
        self.inner.bearers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop_looking(&self, id: &str) {
        self.looking().remove(id);
    }

    fn found(&self, id: &str, status: Status, output: String) {
        let now = self.inner.env.now();
        self.change(|book| book.found(id, status, output, now));
    }

    /// `change` says whether it is news to anybody.
    fn change(&self, change: impl FnOnce(&mut Book) -> bool) {
        let news = change(&mut self.locked());
        if news {
            self.note_change();
        }
    }

    /// Says critical once the time is over. Whoever tells the check anything replaces this task.
    async fn expire(self, id: String, ttl: Duration) {
        self.inner.env.sleep(ttl).await;
        let now = self.inner.env.now();
        self.change(|book| book.expire(&id, now));
        self.try_to_save().await;
    }

    /// Looks again and again.
    async fn look(self, agent: Agent, definition: Definition, probe: Probe) {
        let env = self.inner.env.clone();
        env.sleep(self.spread(definition.interval)).await;
        let mut ticks = env.interval(definition.interval);
        loop {
            let Definition { timeout, max_output, .. } = definition;
            let found = probe::look(&env, agent.process(), &probe, timeout, max_output).await;
            if let Some((status, output)) = found {
                self.found(&definition.id, status, output);
            }
            ticks.tick().await;
        }
    }

    /// Says what the checks of another service here say. No server has to be asked for that, and so none has to be there.
    async fn follow_own(self, agent: Agent, id: String, service: String) {
        loop {
            let changed = self.changed();
            let checks: Option<Vec<CheckInfo>> = self.with_book(|book| {
                let there = book.services().contains_key(&service);
                there.then(|| book.checks_for(&service).map(OwnCheck::info).collect())
            });
            let (status, text) = match checks {
                Some(checks) => aliased(checks.iter().filter(|check| check.id != id)),
                None => not_found(&service, &agent.config().node_name),
            };
            self.found(&id, status, text);
            // What a check says wakes nobody while it stands as it stood.
            let _ = self.inner.env.timeout(COMPARE_EVERY, changed).await;
        }
    }

    /// Says what the checks of a service of another node say, or of the node.
    async fn follow(self, agent: Agent, id: String, node: String, service: String) {
        let env = self.inner.env.clone();
        let mut index = 0;
        loop {
            let options =
                QueryOptions { consistency: Consistency::Default, min_index: index, wait: COMPARE_EVERY };
            match agent.query(options, &OneNode { node: node.clone(), checks: true }).await {
                Ok(answer) => {
                    index = answer.index;
                    let whole = answer.value.filter(|whole| {
                        service.is_empty() || whole.services.iter().any(|row| row.info.id == service)
                    });
                    let (status, text) = match whole {
                        Some(whole) => {
                            let of = whole.checks.iter().map(|row| &row.check.info);
                            aliased(of.filter(|check| {
                                (check.service_id.is_empty() || check.service_id == service) && check.id != id
                            }))
                        }
                        None => not_found(&service, &node),
                    };
                    self.found(&id, status, text);
                }
                Err(error) => {
                    let text = format!("Failure checking aliased node or service: {error}");
                    self.found(&id, Status::Critical, text);
                    env.sleep(RETRY_AFTER).await;
                }
            }
            if index == 0 {
                env.sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Removes services whose checks have been critical for longer than they allow.
    pub async fn reap(self) {
        let mut ticks = self.inner.env.interval(REAP_EVERY);
        loop {
            ticks.tick().await;
            let overdue = self.locked().overdue(self.inner.env.now());
            let none = overdue.is_empty();
            for id in overdue {
                tracing::info!(service = id, "critical for too long: deregistered");
                // Gone by itself meanwhile is as well.
                let _ = self.deregister(&id);
            }
            if !none {
                self.try_to_save().await;
            }
        }
    }

    // ---- telling the catalog ----

    /// Keeps the catalog true.
    pub async fn keep_true(self, agent: Agent) {
        let env = self.inner.env.clone();
        let mut failures = 0;
        loop {
            let compared = self.compare(&agent).await;
            let mut due: Instant = match &compared {
                Ok(()) => {
                    failures = 0;
                    let every = COMPARE_EVERY * scale(agent.members().len());
                    env.now() + every + self.spread(every / 16)
                }
                Err(reason) => {
                    if failures % FAILURES_TOLD_EVERY == FAILURES_TOLD - 1 {
                        tracing::warn!(
                            reason,
                            "the catalog cannot be told what runs here; see `driftline doctor`"
                        );
                    } else {
                        tracing::debug!(reason, "the catalog could not be compared");
                    }
                    failures += 1;
                    env.now() + RETRY_AFTER + self.spread(RETRY_AFTER)
                }
            };
            // Mutant C07: what could not be told is not tried again.
            let gives_up = mutant::is("C07");
            let mut failed = compared.is_err() && !gives_up;
            loop {
                tokio::select! {
                    biased;
                    () = self.inner.changed.notified(), if !failed => {
                        match self.tell_changes(&agent).await {
                            Err(Untold::Refused(reason)) if !gives_up => {
                                tracing::debug!(reason, "the catalog is not what it was taken for");
                                break;
                            }
                            Err(Untold::Failed(reason)) if !gives_up => {
                                tracing::debug!(reason, "the catalog could not be told");
                                failed = true;
                                due = due.min(env.now() + RETRY_AFTER + self.spread(RETRY_AFTER));
                            }
                            _ => {}
                        }
                    }
                    () = agent.server_came(), if failed => {
                        env.sleep(self.spread(SERVER_UP_WITHIN)).await;
                        break;
                    }
                    () = env.sleep_until(due), if !gives_up => break,
                }
            }
        }
    }

    /// Compares everything, and puts right what differs.
    async fn compare(&self, agent: &Agent) -> Result<(), String> {
        let node = node_info(agent);
        let options = QueryOptions::now(Consistency::Default);
        let whole = agent.query(options, &OneNode { node: node.name.clone(), checks: true }).await;
        let whole = whole.map_err(|error| error.to_string())?.value;
        let told = self.tell_catalog(agent, |book| book.full_plan(&node, whole.as_ref())).await;
        told.map_err(|error| error.to_string())
    }

    /// Tells what changed.
    async fn tell_changes(&self, agent: &Agent) -> Result<(), Untold> {
        let node = node_info(agent);
        self.tell_catalog(agent, |book| book.partial_plan(&node)).await
    }

    /// Writes what `plan` makes of the book. What could not be told stays to be told.
    async fn tell_catalog(
        &self,
        agent: &Agent,
        plan: impl FnOnce(&mut Book) -> Vec<CatalogCommand>,
    ) -> Result<(), Untold> {
        let (plan, dirty) = {
            let mut book = self.locked();
            (plan(&mut book), book.take_dirty())
        };
        let told = self.write_all(agent, plan).await;
        if told.is_err() {
            self.locked().not_told(dirty);
        }
        told
    }

    async fn write_all(&self, agent: &Agent, plan: Vec<CatalogCommand>) -> Result<(), Untold> {
        // What may not be told, or does not fit, must not keep the rest from being told.
        let mut untold = Ok(());
        for command in plan {
            let (told, item) = (command.to_string(), item(&command));
            let goes = !matches!(command, CatalogCommand::Register(_));
            let mut written = agent.write(Command::Catalog(command.clone())).await;
            let bearer = item.as_ref().and_then(|item| self.bearers().get(item).cloned());
            if let (Err(WriteError::Denied(_)), Some(Bearer::Token(token))) = (&written, bearer) {
                written = agent.on_behalf_of(token).write(Command::Catalog(command)).await;
            }
            match written {
                // The name is another node's, and so is all that the catalog has under it: the rest of the plan would take that
                // out.
                Ok(Outcome::Refused { refusal, .. }) if item.is_none() => {
                    tracing::warn!(told, %refusal, "the catalog does not take this node in; is its node_name another's?");
                    return Err(Untold::Refused(format!("{told}: {refusal}")));
                }
                Ok(Outcome::Refused { refusal, .. }) => {
                    untold = Err(Untold::Refused(format!("{told}: {refusal}")));
                }
                Ok(_) => {
                    if let Some(item) = item.filter(|_| goes) {
                        self.bearers().remove(&item);
                    }
                }
                Err(WriteError::Denied(reason)) => {
                    tracing::warn!(told, reason, "the catalog may not be told: see acl.tokens.agent");
                    untold = untold.and(Err(Untold::Failed(format!("{told}: {reason}"))));
                }
                Err(error) => return Err(Untold::Failed(format!("{told}: {error}"))),
            }
        }
        untold
    }
}

/// What a check says that looks at a service that is not there.
fn not_found(service: &str, node: &str) -> (Status, String) {
    (Status::Critical, format!("Service {service} could not be found on node {node}"))
}

/// What a check says that looks at these: how the worst of them stands, in Consul's words.
fn aliased<'a>(checks: impl Iterator<Item = &'a CheckInfo>) -> (Status, String) {
    let mut worst: Option<&CheckInfo> = None;
    for check in checks {
        if worst.is_none_or(|worst| check.status > worst.status) {
            worst = Some(check);
        }
    }
    match worst {
        None => (Status::Passing, "No checks found.".to_owned()),
        Some(CheckInfo { status: Status::Passing, .. }) => {
            (Status::Passing, "All checks passing.".to_owned())
        }
        Some(CheckInfo { status, name, output, .. }) => {
            (*status, format!("Aliased check {name:?} failing: {output}"))
        }
    }
}

/// Why the catalog does not know something yet.
#[derive(Debug, thiserror::Error)]
enum Untold {
    /// It was told, and something there is not as it was believed to be: a comparison will find out what.
    #[error("{0}")]
    Refused(String),
    /// It was not reached, or may not be told.
    #[error("{0}")]
    Failed(String),
}

/// The agent, asked by whoever this token is of; by itself without one.
fn teller(agent: &Agent, token: &Secret) -> Agent {
    if token.is_empty() { agent.itself() } else { agent.on_behalf_of(token.clone()) }
}

/// What of the agent's own a command is about, if not the node.
fn item(command: &CatalogCommand) -> Option<Item> {
    match command {
        CatalogCommand::Register(registration) => match (&registration.service, &registration.checks[..]) {
            (Some(service), _) => Some(Item::Service(service.id.clone())),
            (None, [check, ..]) => Some(Item::Check(check.id.clone())),
            (None, []) => None,
        },
        CatalogCommand::DeregisterNode { .. } => None,
        CatalogCommand::DeregisterService { id, .. } => Some(Item::Service(id.clone())),
        CatalogCommand::DeregisterCheck { id, .. } => Some(Item::Check(id.clone())),
    }
}

/// How the catalog has this agent's node.
pub fn node_info(agent: &Agent) -> NodeInfo {
    let member = agent.local_member();
    let address = member.addr.ip().to_string();
    let names: &[&str] = if member.addr.is_ipv4() {
        &["lan", "lan_ipv4", "wan", "wan_ipv4"]
    } else {
        &["lan", "lan_ipv6", "wan", "wan_ipv6"]
    };
    let mut meta = agent.config().tags.clone();
    meta.insert("consul-network-segment".to_owned(), String::new());
    NodeInfo {
        name: member.name,
        id: uuid_of(member.node_id),
        tagged_addresses: names.iter().map(|name| ((*name).to_owned(), address.clone())).collect(),
        address,
        meta,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_says_what_the_worst_check_says() {
        let check = |name: &str, status| CheckInfo {
            id: name.to_lowercase(),
            name: name.into(),
            status,
            notes: String::new(),
            output: format!("{name} is so"),
            service_id: String::new(),
            kind: String::new(),
            interval: String::new(),
            timeout: String::new(),
        };
        use Status::{Critical, Passing, Warning};
        let all = [check("A", Passing), check("B", Warning), check("C", Critical), check("D", Critical)];
        let said = |count: usize| aliased(all.iter().take(count));
        assert_eq!(said(0), (Passing, "No checks found.".to_owned()));
        assert_eq!(said(1), (Passing, "All checks passing.".to_owned()));
        assert_eq!(said(2), (Warning, "Aliased check \"B\" failing: B is so".to_owned()));
        assert_eq!(said(4), (Critical, "Aliased check \"C\" failing: C is so".to_owned()));
    }
}
