//! openraft's state machine: the replicated [`State`] in memory, its snapshots in the [`Store`].
//!
//! The state lives in memory; a restart loads the last snapshot and openraft applies the log from
//! there. Readers look at the state under a lock that an apply holds for one entry at a time. What would hold it long is done
//! to a copy, which then takes the state's place.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::store::{Store, entry_digest};
use super::waiters::{News, Waiters};
use super::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, log_index};
use crate::env::{Env, Observed, hazard};
use crate::mutant;
use crate::state::{BadSnapshot, Outcome, Request, State};

/// The state and how far it is, shared by openraft's worker and the readers.
#[derive(Clone)]
pub struct SharedState {
    blank: Arc<State>,
    inner: Arc<RwLock<Applied>>,
    applied: watch::Sender<u64>,
    waiters: Arc<Waiters>,
}

#[derive(Clone, Default)]
struct Applied {
    state: State,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    /// The configuration before that one: part of mutant R19.
    before_last: StoredMembership,
}

impl SharedState {
    /// Looks at the state. `look` runs under a lock: it must be short and must not call back.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner).state)
    }

    /// The log index up to which the state is, and a way to wait for it to move.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Where to wait for something in the state to change.
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// The state that a snapshot holds.
    ///
    /// # Errors
    /// [`BadSnapshot`] when it is damaged or not one of this program's.
    pub fn decode(&self, snapshot: &[u8]) -> Result<State, BadSnapshot> {
        self.blank.restored(snapshot)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Applied) -> T) -> T {
        change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn restore(&self, meta: &SnapshotMeta, data: &[u8]) -> io::Result<Applied> {
        let state = self.decode(data).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let membership = meta.last_membership.clone();
        Ok(Applied { state, last_applied: meta.last_log_id, before_last: membership.clone(), membership })
    }

    /// A copy of this moment, which later changes do not touch.
    fn copy(&self) -> Applied {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What openraft drives.
pub struct StateMachine {
    env: Env,
    store: Store,
    shared: SharedState,
    /// Part of mutant R47: a snapshot was installed and nothing applied since.
    installed: bool,
}

impl StateMachine {
    /// The state as of the last snapshot on disk; `blank`, if there is none.
    ///
    /// # Errors
    /// `InvalidData` when the snapshot on disk is damaged.
    pub async fn load(env: &Env, store: &Store, blank: State) -> io::Result<(StateMachine, SharedState)> {
        let applied = Applied { state: blank.clone(), ..Applied::default() };
        let shared = SharedState {
            blank: Arc::new(blank),
            inner: Arc::new(RwLock::new(applied)),
            applied: watch::Sender::new(0),
            waiters: Arc::default(),
        };
        if let Some((meta, data)) = store.load_snapshot().await? {
            env.reachable("a server starts from a snapshot on its disk");
            let restored = shared.restore(&meta, &data)?;
            shared.applied.send_replace(restored.state.applied());
            shared.change(|applied| *applied = restored);
            // Mutant R24: a restart takes what was committed for what its snapshot holds.
            if mutant::is("R24") {
                shared.change(|applied| applied.last_applied = applied.last_applied.max(store.committed()));
            }
        }
        Ok((
            StateMachine { env: env.clone(), store: store.clone(), shared: shared.clone(), installed: false },
            shared,
        ))
    }
}

impl StateMachine {
    /// What becomes of the state, and the outcome, where that takes too long for readers to wait. Nobody but whoever calls this
    /// changes the state, so that it is the same as if it had been done in place.
    async fn applied_aside(&self, index: u64, request: &Request) -> io::Result<Option<(State, Outcome)>> {
        if !self.shared.read(|state| state.is_replaced_by(request)) {
            return Ok(None);
        }
        let (shared, request) = (self.shared.clone(), request.clone());
        let job = move || {
            let mut state = shared.read(State::clone);
            let outcome = state.apply(index, &request);
            (state, outcome)
        };
        self.env.blocking(job).await.map(Some).map_err(io::Error::other)
    }

    /// Frees a whole state, which takes long: not under the lock, and not where tasks run.
    async fn free(&self, state: State) {
        // It is gone also where the job has no end.
        let _ = self.env.blocking(move || drop(state)).await;
    }
}

/// A state of so few bytes may be written down as often as anybody likes.
const SMALL_STATE: u64 = 1 << 20;
/// A log of more entries than this is not made longer only because the state is large: a start has to apply all of them, and
/// memory knows where each is.
const LONG_LOG: u64 = 1 << 20;

/// Whether a state of that many bytes is worth to be written down, after that many bytes and entries of the log. One that is
/// large is not before the log is as long: so all snapshots together write no more than the log itself.
fn is_worth_writing(state: u64, logged: u64, entries: u64) -> bool {
    state <= SMALL_STATE || logged >= state || entries >= LONG_LOG
}

fn term_of(log_id: Option<LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.committed_leader_id().term)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.shared.inner.read().unwrap_or_else(PoisonError::into_inner);
        Ok((applied.last_applied, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.env.linger(hazard::BEFORE_APPLY).await;
            let index = entry.log_id.index();
            let before = self.shared.read(State::applied);
            // Index 0 is the entry that founds the cluster.
            self.env.always(
                index == before + 1 || (index == 0 && before == 0),
                "entries are applied one after the other without a gap",
            );
            // Mutant R47: the first request after a snapshot is taken for one that the snapshot covers.
            let skipped =
                mutant::is("R47") && self.installed && matches!(entry.payload, EntryPayload::Normal(_));
            self.installed &= !skipped;
            let mut aside = match &entry.payload {
                EntryPayload::Normal(request) if !skipped => self.applied_aside(index, request).await?,
                _ => None,
            };
            let (outcome, news) = self.shared.change(|applied| {
                applied.last_applied = Some(entry.log_id);
                let outcome = match &entry.payload {
                    EntryPayload::Normal(_) if skipped => {
                        applied.state.skip(index);
                        Outcome::Done { index }
                    }
                    EntryPayload::Normal(request) => match &mut aside {
                        None => applied.state.apply(index, request),
                        Some((state, outcome)) => {
                            std::mem::swap(state, &mut applied.state);
                            outcome.clone()
                        }
                    },
                    EntryPayload::Blank => {
                        applied.state.skip(index);
                        Outcome::Done { index }
                    }
                    EntryPayload::Membership(membership) => {
                        applied.state.skip(index);
                        // Mutant R19: snapshots name the configuration before the last.
                        applied.before_last = std::mem::take(&mut applied.membership);
                        applied.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                        Outcome::Done { index }
                    }
                };
                (outcome, News::of(index, &applied.state))
            });
            let earlier = matches!(outcome, Outcome::Done { index: at } | Outcome::Answered { index: at, .. } | Outcome::ConditionFailed { index: at } if at < index);
            self.env.sometimes(earlier, "a write that comes again gets the answer it got the first time");
            let stale = matches!(outcome, Outcome::Stale);
            self.env.sometimes(stale, "a copy of a write comes after its client was done with it");
            self.env.observe_with(|| Observed::Applied {
                index,
                term: term_of(Some(entry.log_id)),
                entry: entry_digest(&entry),
                state: self.shared.read(State::digest),
            });
            self.shared.applied.send_replace(index);
            let command = match &entry.payload {
                EntryPayload::Normal(request) => Some(&request.command),
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            };
            self.shared.waiters.wake(&news, command);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
            if let Some((replaced, _)) = aside {
                self.free(replaced).await;
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        let applied = self.shared.read(State::applied);
        let last = self.store.snapshot_meta().and_then(|meta| log_index(&meta.last_log_id)).unwrap_or(0);
        let (state, logged) = (self.store.snapshot_bytes() as u64, self.store.logged(last, applied));
        if !force && !is_worth_writing(state, logged, applied.saturating_sub(last)) {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    /// Costs next to nothing, however large the state: see [`crate::state::map`].
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            env: self.env.clone(),
            store: self.store.clone(),
            applied: Some(self.shared.copy()),
            moving: self.shared.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Bytes) -> io::Result<()> {
        let (shared, job_meta, job_data) = (self.shared.clone(), meta.clone(), data.clone());
        let restored = self.env.blocking(move || shared.restore(&job_meta, &job_data)).await;
        let mut restored = restored.map_err(io::Error::other)??;
        // openraft gives back our own snapshot when it starts: that one is on disk already.
        // Mutant R46: what a leader sent is kept in memory only.
        if self.store.snapshot_meta().as_ref() != Some(meta) && !mutant::is("R46") {
            self.store.save_snapshot(meta.clone(), data).await?;
            self.env.linger(hazard::SNAPSHOT_SAVED).await;
        }
        let index = restored.state.applied();
        let before = self.shared.read(State::applied);
        self.env.always(before <= index, "a snapshot never takes the state back");
        self.env.sometimes(before > 0 && index > before, "a snapshot replaces a state that was not empty");
        self.env.observe(Observed::SnapshotInstalled {
            index,
            term: term_of(meta.last_log_id),
            state: restored.state.digest(),
        });
        self.shared.change(|applied| std::mem::swap(applied, &mut restored));
        self.shared.applied.send_replace(index);
        self.shared.waiters.wake(&News::ALL, None);
        self.installed = true;
        self.free(restored.state).await;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let found = self.store.load_snapshot().await?;
        Ok(found.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// One moment of the state, to be written down.
pub struct SnapshotBuilder {
    env: Env,
    store: Store,
    /// Until it is asked for: whoever writes it down lets go of it as soon as that is done. A copy of all the state is held
    /// no longer than need be, and freed where nobody waits for it.
    applied: Option<Applied>,
    /// The state as it goes on: what a second snapshot would be of, and part of mutant R18.
    moving: SharedState,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let mut applied = self.applied.take().unwrap_or_else(|| self.moving.copy());
        let last_applied = applied.last_applied;
        let mut last_membership = applied.membership.clone();
        if mutant::is("R19") && applied.before_last.log_id().is_some() {
            last_membership = applied.before_last.clone();
        }
        let meta = SnapshotMeta { last_log_id: last_applied, last_membership };
        // Mutant R18: the content is that of a later moment than the label.
        if mutant::is("R18") {
            self.env.sleep(std::time::Duration::from_millis(20)).await;
            applied = self.moving.copy();
        }
        // One that is a little larger than the last does not move while it is written.
        let usual = self.store.snapshot_bytes();
        let capacity = usual + usual / 16;
        let encoded = self.env.blocking(move || applied.state.to_snapshot_with_capacity(capacity));
        let encoded = encoded.await.map(Bytes::from);
        let snapshot = encoded.map_err(io::Error::other)?;
        self.env.linger(hazard::SNAPSHOT_TAKEN).await;
        self.store.save_snapshot(meta.clone(), snapshot.clone()).await?;
        self.env.observe(Observed::SnapshotBuilt {
            index: last_applied.map_or(0, |log_id| log_id.index()),
            term: term_of(last_applied),
        });
        Ok(Snapshot { meta, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::leader_id_std::CommittedLeaderId;

    use super::super::{Entry, StoreOptions};
    use super::*;
    use crate::env::real::env_in_memory;
    use crate::state::restore::RestoreCommand;
    use crate::state::{Command, KvCommand, RequestId};

    fn entry(index: u64, command: Command) -> Entry {
        let request = Request { id: RequestId { origin: 1, number: index }, done_below: 0, command };
        let log_id = LogId::new(CommittedLeaderId::new(1), index);
        Entry { log_id, payload: EntryPayload::Normal(request) }
    }

    fn set(key: &str) -> Command {
        Command::Kv(KvCommand::Set { key: key.into(), value: b"v".as_slice().into(), flags: 0, cas: None })
    }

    #[tokio::test]
    async fn what_is_restored_aside_is_what_it_would_be_in_place() {
        let env = env_in_memory(1);
        env.scope(async {
            let mut other = State::default();
            for index in 1..=50 {
                let EntryPayload::Normal(request) = entry(index, set(&format!("other/{index}"))).payload
                else {
                    unreachable!()
                };
                other.apply(index, &request);
            }
            let snapshot = other.to_snapshot();
            let mut damaged = snapshot.clone();
            damaged[20] ^= 1;
            let bytes = snapshot.len() as u64;
            let restore = |id: u64, data: &[u8]| {
                let data = data.into();
                [
                    RestoreCommand::Begin { id, bytes },
                    RestoreCommand::Piece { id, offset: 0, data },
                    RestoreCommand::Commit { id: id + 1 },
                    RestoreCommand::Commit { id },
                    RestoreCommand::Commit { id },
                ]
                .map(Command::Restore)
            };
            let half = [RestoreCommand::Begin { id: 5, bytes }, RestoreCommand::Commit { id: 5 }];
            let commands = [set("a")].into_iter().chain(restore(1, &damaged));
            let commands = commands.chain(half.map(Command::Restore)).chain(restore(3, &snapshot));
            let commands = commands.chain([set("b")]);

            let store = Store::open(&env, StoreOptions::default()).await.unwrap();
            let (mut machine, shared) = StateMachine::load(&env, &store, State::default()).await.unwrap();
            let mut in_place = State::default();
            let mut replaced = 0;
            for (index, command) in (1..).zip(commands) {
                let entry = entry(index, command);
                if let EntryPayload::Normal(request) = &entry.payload {
                    replaced += u32::from(in_place.is_replaced_by(request));
                    in_place.apply(index, request);
                }
                machine.apply(futures_util::stream::iter([Ok((entry, None))])).await.unwrap();
                assert_eq!(shared.read(State::clone), in_place, "after entry {index}");
                assert_eq!(*shared.applied().borrow(), index);
            }
            assert_eq!(replaced, 2, "one that is damaged, and one that is whole");
            assert!(in_place.kv().get("a").is_none() && in_place.kv().get("other/50").is_some());
        })
        .await;
    }

    #[test]
    fn a_large_state_is_written_down_no_more_than_the_log() {
        // What is small, or has never been written down, is as often as openraft asks.
        assert!(is_worth_writing(0, 0, 1) && is_worth_writing(SMALL_STATE, 0, 1));
        let large = 100 * SMALL_STATE;
        assert!(!is_worth_writing(large, large - 1, LONG_LOG - 1));
        assert!(is_worth_writing(large, large, 1) && is_worth_writing(large, 0, LONG_LOG));
    }

    #[tokio::test]
    async fn a_snapshot_of_a_large_state_waits_until_the_log_is_as_long_unless_it_must_be() {
        let env = env_in_memory(3);
        env.scope(async {
            let store = Store::open(&env, StoreOptions::default()).await.unwrap();
            let (mut machine, _) = StateMachine::load(&env, &store, State::default()).await.unwrap();
            let large = |bytes: u64| {
                let (key, value) = ("k".into(), vec![7; bytes as usize].into());
                Command::Kv(KvCommand::Set { key, value, flags: 0, cas: None })
            };
            let append = |index: u64, command: Command| {
                let (store, entry) = (store.clone(), entry(index, command));
                async move {
                    store.append([entry.clone()], openraft::storage::IOFlushed::noop()).await.unwrap();
                    store.flush().await.unwrap();
                    futures_util::stream::iter([Ok((entry, None))])
                }
            };
            machine.apply(append(1, large(2 * SMALL_STATE)).await).await.unwrap();
            let mut builder = machine.try_create_snapshot_builder(false).await.expect("the first");
            builder.build_snapshot().await.unwrap();
            machine.apply(append(2, set("a")).await).await.unwrap();
            assert!(machine.try_create_snapshot_builder(false).await.is_none());
            assert!(machine.try_create_snapshot_builder(true).await.is_some());
            machine.apply(append(3, large(3 * SMALL_STATE)).await).await.unwrap();
            assert!(machine.try_create_snapshot_builder(false).await.is_some());
        })
        .await;
    }

    #[tokio::test]
    async fn a_builder_lets_go_of_the_state_and_writes_it_down() {
        let env = env_in_memory(2);
        env.scope(async {
            let store = Store::open(&env, StoreOptions::default()).await.unwrap();
            let (mut machine, shared) = StateMachine::load(&env, &store, State::default()).await.unwrap();
            machine.apply(futures_util::stream::iter([Ok((entry(1, set("a")), None))])).await.unwrap();
            let mut builder = machine.get_snapshot_builder().await;
            machine.apply(futures_util::stream::iter([Ok((entry(2, set("b")), None))])).await.unwrap();
            let built = builder.build_snapshot().await.unwrap();
            assert!(builder.applied.is_none());
            assert_eq!(store.snapshot_bytes(), built.snapshot.len());
            let (meta, data) = store.load_snapshot().await.unwrap().unwrap();
            assert_eq!((&meta, &data), (&built.meta, &built.snapshot));
            let state = shared.decode(&data).unwrap();
            assert_eq!((state.applied(), meta.last_log_id.map(|id| id.index())), (1, Some(1)));
        })
        .await;
    }
}
