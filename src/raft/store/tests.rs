//! The store against its promise: what was acknowledged is there when it is opened again, or opening says why
//! not; whatever was cut off, torn or flipped in between.

use openraft::EntryPayload;
use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;
use openraft::vote::leader_id_std::CommittedLeaderId;
use proptest::prelude::*;

use super::block::BLOCK;
use super::*;
use crate::env::MemoryDisk;
use crate::env::real::{env_in_memory, env_on};
use crate::state::{Command, KvCommand, Request, RequestId};

const OPTIONS: StoreOptions =
    StoreOptions { segment_bytes: 4_096, cache_bytes: 16 << 20, on_damage: OnDamage::Stop };

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

fn entry(term: u64, index: u64, value_bytes: usize) -> Entry {
    let value = vec![index as u8; value_bytes].into();
    let command = Command::Kv(KvCommand::Set { key: format!("k{index}"), value, flags: 0, cas: None });
    let request = Request { id: RequestId { origin: 1, number: index }, done_below: 0, command };
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(request) }
}

/// A write and what it does to a log in memory.
#[derive(Clone, Debug)]
enum Step {
    /// Entries of so many bytes each.
    Append(Vec<usize>),
    /// So many entries are cut off.
    Cut(u64),
    /// So many entries are purged.
    Purge(u64),
    Commit,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    /// The records of a step.
    fn step(&mut self, term: u64, step: &Step) -> Vec<Record> {
        let next = self.last.map_or(0, |last| last.index() + 1);
        match step {
            Step::Append(sizes) => {
                let made = sizes.iter().zip(next..).map(|(size, index)| entry(term, index, *size));
                let made: Vec<Entry> = made.collect();
                self.last = made.last().map(|entry| entry.log_id).or(self.last);
                let records = made.iter().map(|entry| Record::Entry(wal::encode_entry(entry).unwrap()));
                let records = records.collect();
                self.entries.extend(made.into_iter().map(|entry| (entry.log_id.index(), entry)));
                records
            }
            Step::Cut(count) => {
                let first =
                    self.purged.map_or(0, |purged| purged.index() + 1).max(next.saturating_sub(*count));
                self.entries.split_off(&first);
                self.last = self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged);
                vec![Record::Cut(self.last)]
            }
            Step::Purge(count) => {
                let all: Vec<LogId> = self.entries.values().map(|entry| entry.log_id).collect();
                let Some(log_id) = all.get(*count as usize).or(all.last()).copied() else { return vec![] };
                self.entries = self.entries.split_off(&(log_id.index() + 1));
                self.purged = Some(log_id);
                vec![Record::Purged(log_id)]
            }
            Step::Commit => vec![Record::Committed(self.last)],
        }
    }
}

fn shown(wal: &Wal) -> Model {
    let bounds = wal.bounds();
    let (entries, _) = wal::read(&wal.places(), 0..u64::MAX, &mut |_| true).unwrap();
    let entries = entries.into_iter().map(|entry| (entry.log_id.index(), entry)).collect();
    Model { purged: bounds.purged, last: bounds.last, entries }
}

fn write(wal: &mut Wal, records: Vec<Record>) {
    let payload = wal::encode(records).unwrap();
    if wal.needs_segment(payload.len()) {
        wal.start_segment(None, payload.len()).unwrap();
    }
    wal.append(&payload).unwrap();
    wal.remove_purged_segments().unwrap();
}

fn disk() -> (MemoryDisk, Arc<dyn Disk>) {
    let disk = MemoryDisk::default();
    (disk.clone(), Arc::new(disk))
}

type Files = BTreeMap<String, Vec<u8>>;

fn contents(disk: &dyn Disk) -> Files {
    let bytes = |name: &String| {
        let file = disk.open(name).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    };
    disk.list().unwrap().into_iter().map(|name| (name.clone(), bytes(&name))).collect()
}

fn with(files: &Files) -> Arc<dyn Disk> {
    let (_, disk) = disk();
    for (name, bytes) in files {
        disk.open(name).unwrap().write_at(0, bytes).unwrap();
    }
    disk
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(0usize..1_500, 1..4).prop_map(Step::Append),
        1 => (1u64..4).prop_map(Step::Cut),
        1 => (0u64..3).prop_map(Step::Purge),
        1 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..25)
}

/// A log written step by step: the files and the model before the last step and after it.
fn history(steps: &[Step]) -> ((Files, Model), (Files, Model)) {
    let (_, disk) = disk();
    let mut wal = Wal::found(disk.clone(), OPTIONS.segment_bytes).unwrap();
    let mut model = Model::default();
    let mut before = (contents(&*disk), model.clone());
    for (at, step) in steps.iter().enumerate() {
        before = (contents(&*disk), model.clone());
        let records = model.step(1 + at as u64 / 5, step);
        write(&mut wal, records);
    }
    (before, (contents(&*disk), model))
}

fn reopened(files: &Files) -> io::Result<Model> {
    let disk = with(files);
    let wal = Wal::open(disk.clone(), OPTIONS.segment_bytes)?.expect("a segment was begun");
    let found = shown(&wal);
    drop(wal);
    // Whatever opening repaired is repaired: the next one finds the same.
    let again = Wal::open(disk, OPTIONS.segment_bytes)?.expect("a segment was begun");
    assert_eq!(shown(&again), found);
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_there_again(steps in steps()) {
        let (_, (files, model)) = history(&steps);
        prop_assert_eq!(reopened(&files).unwrap(), model);
    }

    /// The power fails during the last batch: any of its sectors may be there, and none, and all.
    #[test]
    fn a_torn_batch_is_there_as_a_whole_or_not_at_all(steps in steps(), sectors in any::<u64>()) {
        let ((before, older), (after, newer)) = history(&steps);
        let mut torn = before.clone();
        let mut number = 0;
        for (name, new) in &after {
            let old = torn.entry(name.clone()).or_insert_with(|| vec![0; new.len()]);
            for (old, new) in old.chunks_mut(BLOCK).zip(new.chunks(BLOCK)) {
                if old != new {
                    // A new segment's beginning is synced before anything else is written to it.
                    let begins = number == 0 && !before.contains_key(name);
                    if begins || sectors >> (number % 64) & 1 == 1 {
                        old.copy_from_slice(new);
                    }
                    number += 1;
                }
            }
        }
        let found = reopened(&torn).unwrap();
        prop_assert!(found == older || found == newer, "{:?}", found);
    }

    /// One bit is wrong, or a file ends early, anywhere: all that was acknowledged, or an error.
    #[test]
    fn what_rots_is_an_error_and_never_a_shorter_log(
        steps in steps(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<bool>(),
    ) {
        let (_, (files, model)) = history(&steps);
        let mut rotten = files.clone();
        let names: Vec<String> = files.keys().cloned().collect();
        let bytes: usize = files.values().map(Vec::len).sum();
        let mut at = at.index(bytes);
        for name in names {
            let file = rotten.get_mut(&name).unwrap();
            if at < file.len() {
                if cut {
                    file.truncate(at);
                } else {
                    file[at] ^= 1 << bit;
                }
                break;
            }
            at -= file.len();
        }
        match reopened(&rotten) {
            Ok(found) => prop_assert_eq!(found, model),
            Err(error) => prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData),
        }
    }

    /// A whole batch was written somewhere else in its segment.
    #[test]
    fn a_misdirected_batch_is_an_error(steps in steps(), to in any::<prop::sample::Index>()) {
        let ((before, _), (after, model)) = history(&steps);
        let mut astray = after.clone();
        for (name, new) in &after {
            let Some(old) = before.get(name).filter(|old| *old != new && old.len() == new.len()) else { continue };
            let changed = |at: &usize| old[at * BLOCK..(at + 1) * BLOCK] != new[at * BLOCK..(at + 1) * BLOCK];
            let sectors: Vec<usize> = (0..new.len() / BLOCK).filter(changed).collect();
            let (first, count) = (sectors[0], sectors.len());
            let to = to.index(new.len() / BLOCK - count + 1);
            let mut file = old.clone();
            file[to * BLOCK..(to + count) * BLOCK]
                .copy_from_slice(&new[first * BLOCK..(first + count) * BLOCK]);
            astray.insert(name.clone(), file);
        }
        match reopened(&astray) {
            Ok(found) => prop_assert_eq!(found, model),
            Err(error) => prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData),
        }
    }
}

async fn append(store: &Store, entries: Vec<Entry>) -> io::Result<()> {
    let (sender, flushed) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(sender)).await?;
    flushed.await.map_err(|_| io::Error::other("no answer"))?
}

async fn open(env: &Env, options: StoreOptions) -> Result<Store, OpenError> {
    // The last handle of the life before may still be going down.
    loop {
        match Store::open(env, options).await {
            Err(OpenError::InUse { .. }) => env.sleep(Duration::from_millis(1)).await,
            other => return other,
        }
    }
}

fn snapshot_of(term: u64, index: u64) -> SnapshotMeta {
    SnapshotMeta { last_log_id: Some(id(term, index)), ..SnapshotMeta::default() }
}

fn vote(term: u64, candidate: u64) -> Vote {
    Vote::new(term, candidate)
}

/// Ten entries, a vote, a snapshot up to the fifth, and the identity it was all written under.
async fn filled(env: &Env) -> Identity {
    let store = open(env, OPTIONS).await.unwrap();
    store.save_vote(vote(3, 7)).await.unwrap();
    append(&store, (0..10).map(|index| entry(3, index, 300)).collect()).await.unwrap();
    store.save_snapshot(snapshot_of(3, 5), vec![9; 3_000].into()).await.unwrap();
    store.purge(id(3, 4)).await.unwrap();
    append(&store, vec![entry(3, 10, 10)]).await.unwrap();
    store.identity()
}

#[tokio::test]
async fn everything_outlives_a_restart() {
    let env = env_in_memory(1);
    env.scope(async {
        let identity = filled(&env).await;
        let store = open(&env, OPTIONS).await.unwrap();
        assert_eq!(store.identity(), Identity { generation: identity.generation + 1, ..identity });
        assert_eq!(store.vote(), Some(vote(3, 7)));
        assert_eq!(store.log_bounds(), (Some(id(3, 4)), Some(id(3, 10))));
        let entries = store.entries(.., usize::MAX).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.log_id.index()).collect::<Vec<_>>(), [5, 6, 7, 8, 9, 10]);
        let (meta, data) = store.load_snapshot().await.unwrap().unwrap();
        assert_eq!((meta, data.len()), (snapshot_of(3, 5), 3_000));
    })
    .await;
}

#[tokio::test]
async fn what_the_log_holds_is_known_in_bytes() {
    let env = env_in_memory(2);
    env.scope(async {
        let store = open(&env, OPTIONS).await.unwrap();
        let mut grown = store.grown();
        append(&store, (0..10).map(|index| entry(1, index, 1_000)).collect()).await.unwrap();
        let one = store.logged(4, 5);
        assert!((1_000..1_100).contains(&one), "{one}");
        assert_eq!(
            [(0, 9), (3, 9), (9, 99), (9, 3)].map(|(after, last)| store.logged(after, last) / one),
            [9, 6, 0, 0]
        );
        assert_eq!(
            [9 * one, 2 * one, 2 * one + 1, 0].map(|most| store.beyond(most)),
            [Some(0), Some(7), Some(6), Some(9)]
        );
        assert_eq!(store.beyond(10 * one), None);
        store.save_snapshot(snapshot_of(1, 5), vec![9; 10].into()).await.unwrap();
        store.purge(id(1, 4)).await.unwrap();
        store.flush().await.unwrap();
        assert_eq!((store.logged(0, 9), store.beyond(5 * one)), (5 * one, None));
        // What is cut off stays on disk until what is before it goes, and counts.
        store.truncate_after(Some(id(1, 8))).await.unwrap();
        append(&store, vec![entry(2, 9, 1_000)]).await.unwrap();
        assert_eq!((store.logged(8, 9), store.logged(4, 8)), (2 * one, 4 * one));
        assert!(!grown.has_changed().unwrap());
        append(&store, vec![entry(2, 10, GROWN as usize)]).await.unwrap();
        assert!(grown.has_changed().unwrap());
        grown.mark_unchanged();
        drop(store);
        let store = open(&env, OPTIONS).await.unwrap();
        assert_eq!(store.logged(5, 6), one);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_memory_while_it_is_read_is_read_from_the_disk() {
    let env = env_in_memory(4);
    env.scope(async {
        let store = open(&env, StoreOptions { cache_bytes: 2_000, ..OPTIONS }).await.unwrap();
        append(&store, (0..20).map(|index| entry(1, index, 100)).collect()).await.unwrap();
        let writing = async {
            for index in 20..400 {
                append(&store, vec![entry(1, index, 100)]).await.unwrap();
            }
        };
        let reading = async {
            loop {
                let last = store.log_bounds().1.unwrap().index();
                let entries = store.entries(0..=last, usize::MAX).await.unwrap();
                assert!(entries.iter().map(|entry| entry.log_id.index()).eq(0..=last));
            }
        };
        tokio::select! {
            () = writing => {}
            () = reading => {}
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_under_way_says_nothing_of_what_has_taken_its_place() {
    let env = env_in_memory(5);
    env.scope(async {
        let store = open(&env, StoreOptions { cache_bytes: 0, ..OPTIONS }).await.unwrap();
        append(&store, (0..3).map(|index| entry(1, index, 10)).collect()).await.unwrap();
        let (sender, flushed) = TypeConfig::oneshot();
        // Asked for and not written yet, when a new leader has it cut off and sends its own.
        store.append((3..6).map(|index| entry(1, index, 10)), IOFlushed::signal(sender)).await.unwrap();
        let (cut, appended) = futures_util::join!(
            store.truncate_after(Some(id(1, 2))),
            append(&store, (3..5).map(|index| entry(2, index, 10)).collect()),
        );
        cut.unwrap();
        appended.unwrap();
        flushed.await.unwrap().unwrap();
        let entries = store.entries(.., usize::MAX).await.unwrap();
        let ids: Vec<LogId> = entries.iter().map(|entry| entry.log_id).collect();
        assert_eq!(ids, [id(1, 0), id(1, 1), id(1, 2), id(2, 3), id(2, 4)]);
    })
    .await;
}

/// Damages the file whose name begins so, behind the store's back.
fn damage(disk: &dyn Disk, prefix: &str) {
    let name = disk.list().unwrap().into_iter().find(|name| name.starts_with(prefix)).unwrap();
    let file = disk.open(&name).unwrap();
    for at in [100, 4_196, 8_292] {
        if at < file.len().unwrap() {
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[byte[0] ^ 1]).unwrap();
        }
    }
}

#[tokio::test]
async fn damage_anywhere_stops_the_server_or_makes_it_begin_anew_as_somebody_else() {
    for prefix in ["log-", "snapshot-", "meta"] {
        let env = env_in_memory(2);
        env.scope(async {
            let identity = filled(&env).await;
            let env = env_on(env.disk(), 3);
            // Waits until the first life is gone.
            drop(open(&env, OPTIONS).await.unwrap());
            let lock = loop {
                match env.disk().lock() {
                    Ok(lock) => break lock,
                    Err(_) => env.sleep(Duration::from_millis(1)).await,
                }
            };
            damage(&*env.disk(), prefix);
            let of_raft = env.disk().list().unwrap();
            // What somebody else keeps in the directory is none of Raft's business.
            drop(env.disk().open("keyring").unwrap());
            let files = env.disk().list().unwrap();
            drop(lock);

            let error = open(&env, OPTIONS).await.err().unwrap();
            assert!(matches!(error, OpenError::Damaged { .. }), "{prefix}: {error}");
            assert!(error.to_string().contains("rejoin"), "{error}");
            assert_eq!(env.disk().list().unwrap(), files, "left as it was");

            let rejoin = StoreOptions { on_damage: OnDamage::Rejoin, ..OPTIONS };
            let store = open(&env, rejoin).await.unwrap();
            assert_ne!(store.identity().node_id, identity.node_id);
            assert!(store.identity().replaces);
            assert_eq!((store.vote(), store.log_bounds()), (None, (None, None)));
            for name in of_raft {
                assert!(env.disk().exists(&format!("damaged-1.{name}")).unwrap(), "{name} is kept");
            }
            assert!(env.disk().exists("keyring").unwrap());
            drop(store);
            assert!(open(&env, OPTIONS).await.unwrap().identity().replaces, "and it is remembered");
        })
        .await;
    }
}

#[tokio::test]
async fn a_disk_that_damages_again_and_again_is_given_up() {
    let env = env_in_memory(3);
    env.scope(async {
        let rejoin = StoreOptions { on_damage: OnDamage::Rejoin, ..OPTIONS };
        for _ in 0..aside::MOST {
            drop(open(&env, rejoin).await.unwrap());
            let disk = env.disk();
            while disk.lock().is_err() {
                env.sleep(Duration::from_millis(1)).await;
            }
            damage(&*disk, "log-");
        }
        let error = open(&env, rejoin).await.err();
        drop(error);
        damage(&*env.disk(), "log-");
        let error = open(&env, rejoin).await.err().unwrap();
        assert!(matches!(error, OpenError::DamagedTooOften { sets: aside::MOST, .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn data_of_the_old_format_is_refused_and_left_alone() {
    let env = env_in_memory(4);
    env.scope(async {
        env.disk().open(OLD_FILE).unwrap().write_at(0, b"redb").unwrap();
        let error = open(&env, OPTIONS).await.err().unwrap();
        assert!(matches!(error, OpenError::OldFormat { .. }), "{error}");
        assert_eq!(env.disk().list().unwrap(), [OLD_FILE]);
    })
    .await;
}

/// A disk in memory that is full, or does not sync, while it is told so.
#[derive(Clone, Default)]
struct Small {
    disk: MemoryDisk,
    full: Arc<std::sync::atomic::AtomicBool>,
    failing: Arc<std::sync::atomic::AtomicBool>,
}

#[derive(Debug)]
struct SmallFile(Box<dyn File>, Arc<std::sync::atomic::AtomicBool>, Arc<std::sync::atomic::AtomicBool>);

impl SmallFile {
    fn room(&self, end: u64) -> io::Result<()> {
        let full = self.1.load(std::sync::atomic::Ordering::Relaxed) && end > self.0.len()?;
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl File for SmallFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room(offset + data.len() as u64)?;
        self.0.write_at(offset, data)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room(len)?;
        self.0.set_len(len)
    }
    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.room(len)?;
        self.0.preallocate(len)
    }
    fn sync(&self) -> io::Result<()> {
        let failing = self.2.load(std::sync::atomic::Ordering::Relaxed);
        if failing { Err(io::Error::other("no")) } else { self.0.sync() }
    }
}

impl Disk for Small {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(SmallFile(self.disk.open(name)?, self.full.clone(), self.failing.clone())))
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.disk.exists(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn list_in(&self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list_in(folder)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
    fn describe(&self) -> String {
        self.disk.describe()
    }
}

#[tokio::test]
async fn a_full_disk_makes_writes_wait_and_votes_behind_them_and_all_goes_on_when_there_is_space() {
    let small = Small::default();
    let env = env_on(Arc::new(small.clone()), 5);
    env.scope(async {
        let store = open(&env, OPTIONS).await.unwrap();
        append(&store, vec![entry(1, 0, 10)]).await.unwrap();
        small.full.store(true, std::sync::atomic::Ordering::Relaxed);
        let writing = env.spawn({
            let store = store.clone();
            async move { append(&store, (1..20).map(|index| entry(1, index, 1_000)).collect()).await }
        });
        store.full().wait_for(|full| *full).await.unwrap();
        assert!(store.is_full());
        // An acknowledged vote says to openraft that the entries before it are durable.
        let voting = env.spawn({
            let store = store.clone();
            async move { store.save_vote(vote(2, 7)).await }
        });
        let mut voting = std::pin::pin!(voting);
        assert!(env.timeout(Duration::from_millis(50), &mut voting).await.is_err(), "it waits for them");
        small.full.store(false, std::sync::atomic::Ordering::Relaxed);
        writing.await.unwrap().unwrap();
        voting.await.unwrap().unwrap();
        assert!(!store.is_full());
        drop(store);
        let store = open(&env, OPTIONS).await.unwrap();
        assert_eq!((store.vote(), store.log_bounds().1), (Some(vote(2, 7)), Some(id(1, 19))));
    })
    .await;
}

#[tokio::test]
async fn what_could_not_be_saved_is_not_so_for_whoever_asks_for_the_same() {
    let small = Small::default();
    let env = env_on(Arc::new(small.clone()), 6);
    env.scope(async {
        let store = open(&env, OPTIONS).await.unwrap();
        let promise = |facts: &mut Facts| facts.promise = Some(Promise { cluster: 7 });
        // Two asked at once: the second job has begun when the first one's failure is not known yet.
        let meta = &mut *locked(&store.shared.meta);
        small.failing.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(remember(meta, promise).is_err());
        small.failing.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(remember(meta, promise).is_err(), "a promise that may be on no disk");
    })
    .await;
}

// ---- fixtures/logs: directories as a disk may leave them, each with what opening has to make of it ----

fn fixtures() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/logs")
}

/// The whole directory that the fixtures are variations of, step by step.
fn a_small_log() -> ((Files, Model), (Files, Model)) {
    let appended = [60, 700, 10].map(|size| Step::Append(vec![size]));
    history(&[&appended[..], &[Step::Append(vec![900, 400])]].concat())
}

/// What each fixture is: its name, its file, and what opening makes of it.
fn expected_of_fixtures() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let ((before, _), (after, _)) = a_small_log();
    let (name, whole) = after.first_key_value().unwrap();
    let old = &before[name];
    let changed = |at: &usize| old[at * BLOCK..(at + 1) * BLOCK] != whole[at * BLOCK..(at + 1) * BLOCK];
    let last: Vec<usize> = (0..whole.len() / BLOCK).filter(changed).collect();
    assert_eq!(last.len(), 3, "the last batch has three blocks");
    let block = |at: usize| at * BLOCK..(at + 1) * BLOCK;
    let mut torn = old.clone();
    for at in [last[0], last[2]] {
        torn[block(at)].copy_from_slice(&whole[block(at)]);
    }
    let mut flipped = whole.clone();
    flipped[2 * BLOCK + 77] ^= 4;
    let mut flipped_tail = whole.clone();
    flipped_tail[last[2] * BLOCK + 77] ^= 4;
    let mut lost = whole.clone();
    lost[block(2)].fill(0);
    let mut misdirected = old.clone();
    for (to, from) in (1..).zip(&last) {
        misdirected[block(to)].copy_from_slice(&whole[block(*from)]);
    }
    vec![
        ("whole", whole.clone(), "entries 0 to 4"),
        ("torn", torn, "entries 0 to 2"),
        ("flipped", flipped, "damaged: log-0000000000000001 at byte 1024: a block that cannot be read"),
        ("flipped-in-the-last-batch", flipped_tail, "damaged: a block that cannot be read"),
        ("lost-in-the-middle", lost, "damaged: a block that does not belong here"),
        ("misdirected", misdirected, "damaged: a block that cannot be read"),
        ("short", whole[..3 * BLOCK].to_vec(), "damaged: the file ends here, but had 4096 bytes"),
    ]
}

fn what_opening_makes_of(bytes: &[u8]) -> String {
    match reopened(&Files::from([("log-0000000000000001".to_owned(), bytes.to_vec())])) {
        Ok(found) => {
            let (first, last) = (found.entries.first_key_value(), found.entries.last_key_value());
            format!("entries {} to {}", first.unwrap().0, last.unwrap().0)
        }
        Err(error) => format!("damaged: {error}"),
    }
}

#[test]
fn the_fixtures_are_opened_as_they_should_be() {
    for (name, _, expected) in expected_of_fixtures() {
        let bytes = std::fs::read(fixtures().join(format!("{name}.segment"))).unwrap();
        let made = what_opening_makes_of(&bytes);
        match expected.strip_prefix("damaged: ") {
            Some(reason) => {
                assert!(made.starts_with("damaged: ") && made.ends_with(reason), "{name}: {made}")
            }
            None => assert_eq!(made, expected, "{name}"),
        }
    }
}

#[test]
#[ignore = "writes the fixtures anew"]
fn write_the_fixtures() {
    for (name, bytes, _) in expected_of_fixtures() {
        std::fs::write(fixtures().join(format!("{name}.segment")), bytes).unwrap();
    }
}
