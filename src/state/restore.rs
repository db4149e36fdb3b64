//! Restoring: the whole state becomes what a snapshot holds, on every server at the same log index.
//!
//! A snapshot may be larger than an entry of the log, so it comes in pieces: [`RestoreCommand::Begin`], any number
//! of [`RestoreCommand::Piece`], [`RestoreCommand::Commit`]. What has come is part of the replicated state, so it
//! outlives a leader, and a piece that is sent again applies once like any command. Only the commit changes anything
//! that readers see, and only if the whole is there, undamaged, and understood: every server finds the same.
//!
//! Half a snapshot is not kept for ever: it goes when another begins, and when nothing came for it for
//! [`FORGOTTEN_AFTER`] entries of the log.
//!
//! The restored state is not the old one:
//!
//! * **Indexes** go forward. Every row is as if it had been written at the index of the commit, and everything else as
//!   if it had been deleted there. So whoever blocks on anything wakes, and a compare-and-set with an index from before
//!   the restore fails, although its row may look the same.
//! * **Sessions** end, those of the snapshot as well as those of now. The owner of a session in the snapshot may have
//!   been told long ago that it lost its locks, and the owner of one of now cannot know that its lock is undone. Keys
//!   come back unlocked; ephemeral ones (of sessions with the behaviour `delete`) do not come back. What a session of
//!   now held has its lock-delay, as after any other end of it, and delays in force go on.
//! * A key's **lock index** is never less than it was, so that it stays a fencing token.
//! * **Prepared queries** that went with a session do not come back.
//! * **Tokens, policies and roles** are those of the snapshot; a token's time to live goes on where the leader counts it,
//!   and begins anew for one that was over or gone. A snapshot from
//!   before the first of them leaves those of now as they are.
//! * **Requests** that were applied stay applied: the table that tells them is that of now, because it is about this
//!   log and not about the snapshot's.

use serde::{Deserialize, Serialize};

use super::session::Behavior;
use super::tables::part;
use super::{Command, Outcome, Refusal, Request, Shared, State, snapshot};

/// Bytes of a snapshot that can be restored.
pub const MAX_BYTES: u64 = 1 << 30;
/// After so many entries in which nothing came for it, half a snapshot is dropped.
pub const FORGOTTEN_AFTER: u64 = 65_536;

/// A step of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreCommand {
    /// A snapshot of so many bytes is about to come. Half of another is dropped.
    Begin {
        /// Names this restore; drawn by whoever asks for it.
        id: u64,
        /// How long the snapshot is.
        bytes: u64,
    },
    /// Some of it.
    Piece {
        /// Which restore.
        id: u64,
        /// Where this piece begins.
        offset: u64,
        /// The bytes.
        data: Shared,
    },
    /// That was all: the state becomes what it says.
    Commit {
        /// Which restore.
        id: u64,
    },
    /// It will not be completed.
    Abort {
        /// Which restore.
        id: u64,
    },
}

impl RestoreCommand {
    /// Roughly how many bytes it takes.
    pub fn size(&self) -> usize {
        match self {
            RestoreCommand::Piece { data, .. } => data.len() + 32,
            _ => 32,
        }
    }
}

/// A snapshot that has come in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Upload {
    id: u64,
    bytes: u64,
    came: u64,
    pieces: Vec<Shared>,
    /// The index at which something last came.
    touched: u64,
    /// A hash of all that came.
    digest: u64,
}

impl Upload {
    /// A hash of it, in constant time.
    pub(super) fn digest(&self) -> u64 {
        part(6, &(self.id, self.bytes, self.came, self.touched, self.digest))
    }
}

fn refused(index: u64, text: impl Into<String>) -> Outcome {
    Outcome::Refused { index, refusal: Refusal::Invalid(text.into()) }
}

impl State {
    /// Drops half a snapshot that nobody goes on with.
    pub(super) fn forget_upload(&mut self, index: u64) {
        let idle = |upload: &Upload| index.saturating_sub(upload.touched) > FORGOTTEN_AFTER;
        if self.upload.as_ref().is_some_and(idle) {
            self.upload = None;
        }
    }

    /// Whether a request asks for all of this state to become another, and what for has come. That takes long: the larger the
    /// snapshot, the longer.
    pub fn is_replaced_by(&self, request: &Request) -> bool {
        let Command::Restore(RestoreCommand::Commit { id }) = request.command else { return false };
        self.upload.as_ref().is_some_and(|upload| upload.id == id && upload.came == upload.bytes)
    }

    /// Carries out a step of a restore at log index `index`.
    pub(super) fn apply_restore(&mut self, index: u64, command: &RestoreCommand) -> Outcome {
        const OTHER: &str = "this restore is no longer under way: another was begun, or it took too long. \
                             Nothing was restored by it";
        match command {
            RestoreCommand::Begin { bytes, .. } if *bytes > MAX_BYTES => {
                return refused(
                    index,
                    format!("a snapshot of {bytes} bytes is too large; {MAX_BYTES} are not"),
                );
            }
            RestoreCommand::Begin { id, bytes } => {
                let (id, bytes) = (*id, *bytes);
                self.upload =
                    Some(Upload { id, bytes, came: 0, pieces: Vec::new(), touched: index, digest: 0 });
            }
            RestoreCommand::Piece { id, offset, data } => {
                let Some(upload) = self.upload.as_mut().filter(|upload| upload.id == *id) else {
                    return refused(index, OTHER);
                };
                let end = upload.came.saturating_add(data.len() as u64);
                if *offset != upload.came || end > upload.bytes {
                    return refused(index, "this piece of the snapshot does not follow the last");
                }
                upload.came = end;
                upload.touched = index;
                upload.digest = part(upload.digest, data);
                upload.pieces.push(data.clone());
            }
            RestoreCommand::Commit { id } => {
                let Some(upload) = self.upload.take_if(|upload| upload.id == *id) else {
                    return refused(index, OTHER);
                };
                if upload.came != upload.bytes {
                    let text = format!("only {} of {} bytes of the snapshot came", upload.came, upload.bytes);
                    return refused(index, text);
                }
                match snapshot::read(self, &upload.pieces.concat()) {
                    Ok(restored) => *self = restored.in_place_of(self, index),
                    Err(error) => return refused(index, error.to_string()),
                }
            }
            RestoreCommand::Abort { id } => {
                self.upload.take_if(|upload| upload.id == *id);
            }
        }
        Outcome::Done { index }
    }

    /// What was read from a snapshot, as what follows `present` at log index `index`: see the module's head.
    fn in_place_of(self, present: &State, index: u64) -> State {
        // Each part by its name: a new one has to say what becomes of it.
        let State {
            applied: _,
            kv,
            sessions,
            catalog,
            places,
            acl,
            dedup: _,
            machine,
            upload: _,
            autopilot,
            prepared,
        } = self;
        let ephemeral = |session: &str| {
            sessions.get(session).is_some_and(|session| session.made.behavior == Behavior::Delete)
        };
        let mut ended = present.sessions.all_ended_at(index);
        for session in present.sessions.iter().filter(|session| session.made.lock_delay_ns > 0) {
            for key in present.kv.held_by(&session.made.id) {
                ended.delay(index, key, session.made.lock_delay_ns);
            }
        }
        State {
            applied: index,
            kv: kv.written_at(index, &present.kv, ephemeral),
            sessions: ended,
            catalog: catalog.written_at(index),
            places: places.written_at(index),
            acl: acl.written_at(index, &present.acl),
            dedup: present.dedup.clone(),
            machine,
            upload: None,
            autopilot: autopilot.written_at(index),
            prepared: prepared.written_at(index),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::acl::{AclCommand, NewToken};
    use super::super::catalog::{NodeInfo, Registration};
    use super::super::session::NewSession;
    use super::super::{Command, KvCommand, Request, RequestId, SessionCommand};
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    pub fn any_command() -> impl Strategy<Value = RestoreCommand> {
        prop_oneof![
            (0u64..2, 0u64..4).prop_map(|(id, bytes)| RestoreCommand::Begin { id, bytes }),
            (0u64..2, 0u64..3, prop::collection::vec(any::<u8>(), 0..3))
                .prop_map(|(id, offset, data)| RestoreCommand::Piece { id, offset, data: data.into() }),
            (0u64..2).prop_map(|id| RestoreCommand::Commit { id }),
            (0u64..2).prop_map(|id| RestoreCommand::Abort { id }),
        ]
    }

    fn apply(state: &mut State, command: Command) -> Outcome {
        let index = state.applied() + 1;
        let id = RequestId { origin: 1, number: index };
        state.apply(index, &Request { id, done_below: 0, command })
    }

    fn set(state: &mut State, key: &str, value: &str) {
        let (key, value) = (key.to_owned(), value.as_bytes().into());
        assert!(apply(state, Command::Kv(KvCommand::Set { key, value, flags: 0, cas: None })).is_done());
    }

    fn create(state: &mut State, id: &str, behavior: Behavior) {
        let made = NewSession {
            id: id.into(),
            node: "n".into(),
            lock_delay_ns: 9,
            ttl_ns: 5,
            behavior,
            ..NewSession::default()
        };
        assert!(apply(state, Command::Session(SessionCommand::Create(made))).is_done());
    }

    fn lock(state: &mut State, key: &str, session: &str) -> bool {
        let (key, session) = (key.to_owned(), session.to_owned());
        let value = b"locked".as_slice().into();
        apply(state, Command::Kv(KvCommand::Acquire { key, value, flags: 0, session })).is_done()
    }

    fn register(state: &mut State, node: &str) {
        let node = NodeInfo { name: node.into(), address: "10.0.0.1".into(), ..NodeInfo::default() };
        let registration = Registration { node, skip_node_update: false, service: None, checks: Vec::new() };
        assert!(apply(state, Command::Catalog(registration.into())).is_done());
    }

    /// Sends a snapshot in pieces of 7 bytes.
    fn restore(state: &mut State, snapshot: &[u8]) -> Outcome {
        let mut step = |command| apply(state, Command::Restore(command));
        assert!(step(RestoreCommand::Begin { id: 4, bytes: snapshot.len() as u64 }).is_done());
        for (number, data) in (0..).zip(snapshot.chunks(7)) {
            let piece = RestoreCommand::Piece { id: 4, offset: 7 * number, data: data.into() };
            assert!(step(piece).is_done());
        }
        step(RestoreCommand::Commit { id: 4 })
    }

    #[test]
    fn the_content_is_that_of_the_snapshot_and_every_index_is_new() {
        let mut old = State::default();
        set(&mut old, "kept", "1");
        set(&mut old, "changed", "1");
        register(&mut old, "was");
        let snapshot = old.to_snapshot();
        let mut state = old.clone();
        set(&mut state, "changed", "2");
        set(&mut state, "new", "1");
        register(&mut state, "is");
        let Outcome::Done { index } = restore(&mut state, &snapshot) else { panic!("not restored") };

        let keys: Vec<_> = state.kv().list("").map(|(key, entry)| (key.as_str(), &*entry.value)).collect();
        assert_eq!(keys, [("changed", &b"1"[..]), ("kept", b"1")]);
        for key in ["kept", "changed", "new", "never there"] {
            assert_eq!(state.kv().key_index(key), index, "{key}");
        }
        assert!(state.catalog().node("is").is_none());
        let node = state.catalog().node("was").unwrap();
        assert_eq!((node.create_index, node.modify_index), (index, index));
        assert_eq!((state.applied(), state.sessions().table_index()), (index, index));
        // Kept, loaded and applied are the same.
        assert_eq!(State::default().restored(&state.to_snapshot()).unwrap(), state);
        assert_eq!(State::default().restored(&state.to_snapshot()).unwrap().digest(), state.digest());
    }

    #[test]
    fn no_lock_survives_and_none_can_be_taken_at_once_that_somebody_held() {
        let mut state = State::default();
        create(&mut state, "s1", Behavior::Release);
        create(&mut state, "s2", Behavior::Delete);
        assert!(lock(&mut state, "a", "s1") && lock(&mut state, "ephemeral", "s2"));
        let snapshot = state.to_snapshot();
        // Since then the lock has changed hands, and another is held.
        apply(&mut state, Command::Session(SessionCommand::Destroy { id: "s1".into() }));
        let delays =
            state.sessions().delayed_after(0).map(|(key, delay)| (key.clone(), delay.since)).collect();
        apply(&mut state, Command::Session(SessionCommand::LiftDelays { delays }));
        create(&mut state, "s3", Behavior::Release);
        assert!(lock(&mut state, "a", "s3"));
        let fencing = state.kv().get("a").unwrap().lock_index;
        let Outcome::Done { index } = restore(&mut state, &snapshot) else { panic!("not restored") };

        assert!(state.sessions().is_empty());
        assert!(state.kv().get("ephemeral").is_none());
        let entry = state.kv().get("a").unwrap();
        assert_eq!((&entry.session, entry.lock_index), (&None, fencing));
        assert_eq!(state.sessions().delay_of("a").map(|delay| delay.since), Some(index));
        create(&mut state, "s4", Behavior::Release);
        assert!(!lock(&mut state, "a", "s4"));
        assert!(lock(&mut state, "b", "s4"));
    }

    #[test]
    fn a_snapshot_from_before_there_were_rights_takes_none_away() {
        let token = |accessor: &str| NewToken {
            accessor: accessor.into(),
            secret: Secret::new(accessor),
            ..NewToken::default()
        };
        let bootstrap = |state: &mut State, accessor: &str| {
            let reset = Some(state.acl().bootstrapped()).filter(|index| *index > 0);
            apply(state, Command::Acl(AclCommand::Bootstrap { token: token(accessor), reset }))
        };
        let knows = |state: &State, secret: &str| state.acl().holder(&Secret::new(secret), "dc1").is_some();
        let before = State::default().to_snapshot();
        let mut state = State::default();
        assert!(bootstrap(&mut state, "a").is_done());
        let with_a = state.to_snapshot();
        assert!(restore(&mut state, &before).is_done());
        assert!(knows(&state, "a") && state.acl().bootstrapped() > 0);
        // One that has some brings its own.
        assert!(bootstrap(&mut state, "b").is_done());
        let Outcome::Done { index } = restore(&mut state, &with_a) else { panic!("not restored") };
        assert!(knows(&state, "a") && !knows(&state, "b"));
        assert_eq!(state.acl().bootstrapped(), index);
    }

    #[test]
    fn what_was_applied_before_is_not_applied_again() {
        let snapshot = State::default().to_snapshot();
        let mut state = State::default();
        let id = RequestId { origin: 9, number: 1 };
        let command = Command::Kv(KvCommand::Set {
            key: "k".into(),
            value: b"v".as_slice().into(),
            flags: 0,
            cas: None,
        });
        let request = Request { id, done_below: 0, command };
        let first = state.apply(1, &request);
        assert!(restore(&mut state, &snapshot).is_done());
        assert_eq!(state.apply(state.applied() + 1, &request), first);
        assert!(state.kv().is_empty());
    }

    #[test]
    fn damage_anywhere_changes_nothing_that_readers_see() {
        let mut state = State::default();
        set(&mut state, "k", "v");
        let snapshot = state.to_snapshot();
        let before = state.kv().clone();
        for at in 0..snapshot.len() {
            let mut damaged = snapshot.clone();
            damaged[at] ^= 0x10;
            let outcome = restore(&mut state, &damaged);
            assert!(matches!(outcome, Outcome::Refused { .. }), "byte {at}: {outcome:?}");
            assert_eq!(state.kv(), &before);
        }
        assert!(state.upload.is_none());
        let cut = restore(&mut state, &snapshot[..snapshot.len() - 1]);
        assert!(matches!(cut, Outcome::Refused { .. }));
    }

    #[test]
    fn half_a_snapshot_is_dropped_by_another_and_by_time() {
        let mut state = State::default();
        let begin = |id| Command::Restore(RestoreCommand::Begin { id, bytes: 2 });
        let piece = |id| {
            let data = b"x".as_slice().into();
            Command::Restore(RestoreCommand::Piece { id, offset: 0, data })
        };
        assert!(apply(&mut state, begin(1)).is_done());
        assert!(apply(&mut state, begin(2)).is_done());
        assert!(!apply(&mut state, piece(1)).is_done());
        assert!(apply(&mut state, piece(2)).is_done());
        assert!(!apply(&mut state, piece(2)).is_done(), "it does not follow the last");
        let commit = Command::Restore(RestoreCommand::Commit { id: 2 });
        assert!(!apply(&mut state.clone(), commit).is_done());
        // It is in snapshots, and counts in the digest.
        let loaded = State::default().restored(&state.to_snapshot()).unwrap();
        assert_eq!((&loaded, loaded.digest()), (&state, state.digest()));
        let touched = state.upload.as_ref().unwrap().touched;
        let noop = Request { id: RequestId { origin: 2, number: 1 }, done_below: 0, command: Command::Noop };
        let later = touched + FORGOTTEN_AFTER;
        state.apply(later, &noop);
        assert!(state.upload.is_some());
        state.apply(later + 1, &noop);
        assert!(state.upload.is_none());
        let huge = RestoreCommand::Begin { id: 3, bytes: MAX_BYTES + 1 };
        assert!(!apply(&mut state, Command::Restore(huge)).is_done());
    }
}
