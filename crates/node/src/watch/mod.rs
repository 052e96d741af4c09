//! Watch fan-out. Knows revisions and key ranges, not sockets. No gap, no duplicate, no split revision.
//!
//! One [`WatchHub`] per group. The apply thread tells it of every change ([`WatchHub::publish`]) once readers can see the
//! change; the hub puts it into the queues of the watchers that want it. A [`WatchStream`] carries many watchers; its
//! owner calls [`WatchStream::next`] and sends what it gets, in that order. All work that waits for a slow client is done
//! in `next`, on the client's time: history is read there, `prev_kv` is looked up there.
//!
//! # The life of a watcher
//!
//! Everything turns around one number, `next_revision`: the first revision that the watcher has not got.
//!
//! ```text
//!                     create
//!                       |
//!         start > published, or 0      start <= published
//!               |                              |
//!               v          overflow            v
//!          +--------+  ------------------>  +------------+
//!          |  Live  |                       | CatchingUp | --- next_revision < compacted ---> Canceled
//!          +--------+  <------------------  +------------+
//!                    next_revision == published + 1
//! ```
//!
//! - `Live`: the watcher is in the hub's index. `next_revision` is the front of its queue, or published + 1 if the queue
//!   is empty. Publishing adds to the queue.
//! - `CatchingUp { next_revision }`: the watcher is not in the index, has no queue, and reads history through [`History`]
//!   in chunks, together with the stream's other watchers of this state.
//! - Overflow: a queue that is full (events, bytes, or bytes of the whole hub) is dropped, and the watcher reads from the
//!   first revision that was in it. The same happens to every live watcher when history moves without events, because
//!   the state was replaced ([`WatchHub::advance`]).
//! - The way back to `Live` is taken under the hub's lock, and only if no revision lies between: publishing takes the
//!   same lock, so a revision is either in the history that was read or comes into the queue, never both, never neither.
//!
//! # What it guarantees
//!
//! - Ordered, unique, reliable: a watcher gets each change of its range from its start revision on exactly once, in order,
//!   until it is canceled. If compaction overtakes it, it is canceled and told so.
//! - Atomic: the changes of one revision come in one message.
//! - Bookmarkable: after [`WatchMessage::Progress`] of revision P, nothing of a revision <= P comes.
//! - Bounded: requests, queues, chunks and watchers; see [`WatchOptions`]. (One revision is never cut, so the largest
//!   transaction is the smallest bound of a message.)
//!
//! Locks: the hub's, then a stream's, never the other way round. `publish` holds the hub's lock; with nobody interested
//! it does a hash look-up and a walk down a tree per record.

mod api;
mod figures;
mod hub;
mod inbox;
mod index;
mod queue;
mod stream;
#[cfg(test)]
mod tests;

pub use api::{WatchCreate, WatchEvent, WatchMessage};
pub use figures::WatchFigures;
pub use hub::WatchHub;
pub use inbox::WatchControl;
pub use stream::WatchStream;

use crate::Error;
use quorate_core::{Record, Rev, Revision};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Where watchers that lag read what they missed. The store implements it. Reads block, and are quick: callers stop a
/// scan after about a thousand revisions.
pub trait History: Send + Sync + 'static {
    /// The oldest revision that may be read (0 if nothing was compacted yet). It moves before anything is deleted, so
    /// that whoever asks after a scan learns whether the scan was complete.
    fn compacted(&self) -> Revision;

    /// Visits all records of the revisions `from..=to`, in order, until `visit` breaks.
    ///
    /// # Errors
    /// [`Rejection::Compacted`](quorate_core::Rejection::Compacted) if `from` was compacted just before: then
    /// [`compacted`](Self::compacted) says so, too. Else disk or corruption: the stream that reads ends.
    fn scan(&self, from: Revision, to: Revision, visit: &mut dyn FnMut(Record) -> ControlFlow<()>)
    -> Result<(), Error>;

    /// The record that `rev` names; `None` if compaction took it.
    ///
    /// # Errors
    /// Disk or corruption. The stream that reads ends.
    fn previous(&self, rev: Rev) -> Result<Option<Record>, Error>;
}

/// Given the progress interval, what to add to it, so that streams do not all speak at once.
pub type ProgressJitter = Arc<dyn Fn(Duration) -> Duration + Send + Sync>;

/// Bounds and intervals of a hub.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// How often a watcher that asked for it hears of progress when nothing happens.
    pub progress_interval: Duration,
    /// Requests of one stream that wait for [`WatchStream::next`]. A caller that waits for [`WatchControl::ready`] never
    /// meets the bound. Beyond it, a progress request is left unanswered, and any other request ends the stream.
    pub stream_requests_max: usize,
    /// Watchers on one stream. Beyond it, a create is refused.
    pub stream_watchers_max: usize,
    /// Watchers on the hub. Beyond it, a create is refused.
    pub hub_watchers_max: usize,
    /// Events that wait for one watcher. Beyond it, the queue is dropped and the watcher reads history.
    pub queue_events_max: usize,
    /// Bytes that wait for one watcher; likewise.
    pub queue_bytes_max: usize,
    /// Bytes that wait for all watchers of the hub; likewise, for whoever comes next. An event that waits for several
    /// watchers counts for each.
    pub hub_queue_bytes_max: usize,
    /// Revisions in one message, and in one chunk of history.
    pub message_revisions_max: usize,
    /// Bytes after which a message, or a chunk of history, takes no further revision.
    pub message_bytes_max: usize,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(600),
            stream_requests_max: 4096,
            stream_watchers_max: 100_000,
            hub_watchers_max: 1_000_000,
            queue_events_max: 1024,
            queue_bytes_max: 4 << 20,
            hub_queue_bytes_max: 256 << 20,
            message_revisions_max: 1000,
            message_bytes_max: 1 << 20,
        }
    }
}
