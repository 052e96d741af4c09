//! What waits to be written. Many callers put operations in, the writer takes everything that is there: that is the
//! group commit.
//!
//! Bounded in bytes: an append waits for room. The other operations are a few bytes each, come at most once per
//! append or snapshot, and never wait, because a Raft core calls them inline.

use crate::error::WalError;
use crate::format::record_bytes;
use crate::state::{Group, LogEntry};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};

/// Called once with the outcome of an operation: `Ok` when it is durable. An error means that the log has stopped and
/// the outcome is unknown. Runs on the writer's thread, so it hands over and returns.
pub struct Completion(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<(), WalError>) + Send>;

impl Completion {
    /// A completion that calls `f`.
    pub fn new(f: impl FnOnce(Result<(), WalError>) + Send + 'static) -> Completion {
        Completion(Some(Box::new(f)))
    }

    /// For a caller that does not wait.
    pub fn none() -> Completion {
        Completion(None)
    }

    pub(crate) fn complete(self, outcome: Result<(), WalError>) {
        if let Some(f) = self.0 {
            f(outcome);
        }
    }
}

impl std::fmt::Debug for Completion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Completion")
    }
}

#[derive(Debug)]
pub(crate) enum Op {
    Append { group: Arc<Group>, first_ticket: u64, entries: Vec<LogEntry>, room: u32, done: Completion },
    Vote { group: Arc<Group>, vote: Bytes, done: Completion },
    Committed { group: Arc<Group>, committed: Bytes },
    Truncate { group: Arc<Group>, first_removed: u64 },
    Purge { group: Arc<Group>, term: u64, index: u64 },
}

impl Op {
    pub fn into_completion(self) -> Option<Completion> {
        match self {
            Op::Append { done, .. } | Op::Vote { done, .. } => Some(done),
            Op::Committed { .. } | Op::Truncate { .. } | Op::Purge { .. } => None,
        }
    }
}

#[derive(Default)]
struct State {
    ops: Vec<Op>,
    /// The newest committed position of each group: older ones need not be written at all.
    committed: BTreeMap<u32, (Arc<Group>, Bytes)>,
    /// Why nothing more is accepted.
    closed: Option<WalError>,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    room: Semaphore,
    bytes_max: u32,
}

impl Queue {
    pub fn new(bytes_max: u32) -> Queue {
        Queue {
            state: Mutex::new(State::default()),
            wake: Notify::new(),
            room: Semaphore::new(bytes_max as usize),
            bytes_max,
        }
    }

    /// Waits for room for these entries; what is returned goes into the operation. An append larger than the whole
    /// queue waits for all of it.
    pub async fn reserve(&self, entries: &[LogEntry]) -> Result<u32, WalError> {
        let bytes: u64 = entries.iter().map(|entry| record_bytes(entry.body.len()) as u64).sum();
        let room = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        match self.room.acquire_many(room).await {
            Ok(permit) => {
                permit.forget();
                Ok(room)
            }
            Err(_) => Err(self.state.lock().closed.clone().unwrap_or(WalError::Closed)),
        }
    }

    pub fn release(&self, room: u32) {
        self.room.add_permits(room as usize);
    }

    /// Bytes that are queued or being written.
    pub fn bytes(&self) -> u64 {
        (self.bytes_max as usize).saturating_sub(self.room.available_permits()) as u64
    }

    pub fn push(&self, op: Op) -> Result<(), WalError> {
        let mut state = self.state.lock();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        state.ops.push(op);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Remembers the position for the next batch. Does not cause one: losing it is allowed, and it would double the
    /// number of writes.
    pub fn set_committed(&self, group: &Arc<Group>, committed: Bytes) -> Result<(), WalError> {
        let mut state = self.state.lock();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        state.committed.insert(group.id, (Arc::clone(group), committed));
        Ok(())
    }

    /// Everything that waits, in order, once there is something; `None` when the queue is closed and empty.
    pub async fn take(&self) -> Option<Vec<Op>> {
        loop {
            {
                let mut state = self.state.lock();
                let closed = state.closed.is_some();
                if !state.ops.is_empty() || (closed && !state.committed.is_empty()) {
                    let mut ops = std::mem::take(&mut state.ops);
                    // Last, so that a committed position is never on disk without the entries that it speaks of.
                    let committed = std::mem::take(&mut state.committed);
                    ops.extend(committed.into_values().map(|(group, committed)| Op::Committed { group, committed }));
                    return Some(ops);
                }
                if closed {
                    return None;
                }
            }
            self.wake.notified().await;
        }
    }

    /// What waits, at once: for a writer that has stopped.
    pub fn drain(&self) -> Vec<Op> {
        std::mem::take(&mut self.state.lock().ops)
    }

    /// Waits until something changes: an operation, a nudge, or the end.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    pub fn nudge(&self) {
        self.wake.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed.is_some()
    }

    /// The error that stopped the log, if one did.
    pub fn stopped(&self) -> Option<WalError> {
        self.state.lock().closed.clone().filter(|reason| matches!(reason, WalError::Stopped(_)))
    }

    /// Accepts nothing more, with this reason, and says whether it is the reason from now on: the first one stays,
    /// unless it was a mere closing.
    pub fn close(&self, reason: WalError) -> bool {
        let mut state = self.state.lock();
        let news = match (&state.closed, &reason) {
            (None, _) => true,
            (Some(WalError::Stopped(_)), _) => false,
            (Some(_), reason) => matches!(reason, WalError::Stopped(_)),
        };
        if news {
            state.closed = Some(reason);
        }
        drop(state);
        self.room.close();
        self.wake.notify_one();
        news
    }
}
