//! openraft's log storage over the node-wide WAL. Thin: the WAL knows segments and fsync, this knows openraft's types.
//!
//! Guarantees what RaftCore relies on: an appended entry is readable at once; only `save_vote` waits for the disk, all
//! else is queued in order.

use super::codec;
use super::durable::DurableMarks;
use super::types::{Entry, LogId, Types, Vote};
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use quorate_sabotage::sabotage;
use quorate_wal::{Completion, GroupLog, LogEntry};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use tokio::sync::oneshot;

/// Most bytes of log that one replication message or one apply batch reads.
const READ_BYTES_MAX: u64 = 2 << 20;

/// The log of one group. Clones share it.
#[derive(Clone)]
pub(super) struct LogStore {
    log: GroupLog,
    durable: DurableMarks,
}

impl LogStore {
    pub(super) fn new(log: GroupLog, durable: DurableMarks) -> Self {
        Self { log, durable }
    }

    fn read(&self, from: u64, to: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let entries = self.log.read(from..to, bytes_max).map_err(io::Error::other)?;
        entries.into_iter().map(|e| codec::entry_from_body(e.term, e.index, e.body)).collect()
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, u64::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.state().vote.as_ref().map(codec::vote_from_bytes).transpose()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.log.state();
        let purged = state.purged.map(|(term, index)| codec::log_id(term, index));
        let last = state.last.map(|(term, index)| codec::log_id(term, index));
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if sabotage!(VoteForgotten) {
            return Ok(());
        }
        let (done, durable) = oneshot::channel();
        let completion = Completion::new(move |result| {
            // The receiver is gone only if RaftCore stops.
            let _ = done.send(result);
        });
        self.log.save_vote(codec::vote_to_bytes(vote), completion).map_err(io::Error::other)?;
        if sabotage!(VoteNotAwaited) {
            return Ok(());
        }
        match durable.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the write-ahead log has stopped")),
        }
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.save_committed(codec::log_id_to_bytes(&committed)).map_err(io::Error::other)?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.log.state().committed.as_ref().map(codec::log_id_from_bytes).transpose()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries
            .into_iter()
            .map(|entry| {
                let id = entry.log_id();
                LogEntry { term: id.committed_leader_id().term, index: id.index(), body: codec::entry_to_body(&entry) }
            })
            .collect();
        let (last, durable) = (entries.last().map(|entry| entry.index), self.durable.clone());
        if sabotage!(AppendAckedEarly) {
            callback.io_completed(Ok(()));
            return self.log.append(entries, Completion::new(|_| {})).await.map_err(io::Error::other);
        }
        let completion = Completion::new(move |result| {
            if let (Ok(()), Some(last)) = (&result, last) {
                durable.mark(last);
            }
            callback.io_completed(result.map_err(io::Error::other));
        });
        self.log.append(entries, completion).await.map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last_log_id.map(|id| id.index())).map_err(io::Error::other)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.log.purge(log_id.committed_leader_id().term, log_id.index()).map_err(io::Error::other)
    }
}
