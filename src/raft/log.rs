//! openraft's log storage, on the [`Store`].

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};

use super::store::Store;
use super::{Entry, LogId, TypeConfig, Vote};
use crate::mutant;

/// Bytes of entries read for one message to a follower.
const MESSAGE_BYTES: usize = 1 << 20;

/// The log, as openraft writes and reads it.
#[derive(Clone)]
pub struct Log(Store);

impl Log {
    /// The log of a store.
    pub fn new(store: Store) -> Log {
        Log(store)
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.0.entries(range, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.0.entries(start..end, MESSAGE_BYTES).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.vote())
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (last_purged_log_id, last_log_id) = self.0.log_bounds();
        // Mutant R44: a restart keeps only what it knows to be committed.
        if mutant::is("R44") && last_log_id > self.0.committed().max(last_purged_log_id) {
            let kept = self.0.committed().max(last_purged_log_id);
            self.0.truncate_after(kept).await?;
            return Ok(LogState { last_purged_log_id, last_log_id: kept });
        }
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.0.save_vote(*vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // Gathered first, so that the iterator is not held across an await.
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        if mutant::is("R40") {
            share_one_buffer(&mut entries);
        }
        self.0.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.0.truncate_after(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.0.purge(log_id).await
    }
}

/// Mutant R40: the entries of one batch share the buffer of the first.
fn share_one_buffer(entries: &mut [Entry]) {
    let Some((first, others)) = entries.split_first_mut() else { return };
    let EntryPayload::Normal(shared) = &first.payload else { return };
    for entry in others {
        if let EntryPayload::Normal(request) = &mut entry.payload {
            *request = shared.clone();
        }
    }
}
