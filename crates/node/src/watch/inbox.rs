//! What others put down for a stream: requests from its client, events from the hub. The stream takes it at its own pace.

use super::figures::Counted;
use super::queue::Queue;
use super::{WatchCreate, WatchFigures, WatchOptions};
use parking_lot::Mutex;
use quorate_core::{Record, Revision};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;

/// The sending half of a watch stream. Clones speak to the same stream.
#[derive(Clone)]
pub struct WatchControl {
    inbox: Arc<Inbox>,
}

impl WatchControl {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox }
    }

    /// Asks for a watcher; [`WatchMessage::Created`](super::WatchMessage::Created) or
    /// [`WatchMessage::Refused`](super::WatchMessage::Refused) answers, in the order of the requests.
    pub fn create(&self, create: WatchCreate) {
        self.inbox.request(Request::Create(create));
    }

    /// Ends a watcher; [`WatchMessage::Canceled`](super::WatchMessage::Canceled) answers. An unknown id: silence.
    pub fn cancel(&self, watch_id: i64) {
        self.inbox.request(Request::Cancel(watch_id));
    }

    /// Asks for [`WatchMessage::Progress`](super::WatchMessage::Progress) of the whole stream; silence if a watcher is
    /// not synced or starts in the future.
    pub fn request_progress(&self) {
        self.inbox.request(Request::Progress);
    }

    /// Waits until the stream has room for a request. Whoever takes requests from a client waits here before each, so
    /// that a client that does not read its answers is not read from. Returns at once when the stream has ended. The
    /// task that calls [`WatchStream::next`](super::WatchStream::next) must not wait here, but may ask: `next` makes the
    /// room.
    pub async fn ready(&self) {
        loop {
            let room = self.inbox.room.notified();
            if self.inbox.has_room() {
                return;
            }
            room.await;
        }
    }
}

/// A client's request.
pub(super) enum Request {
    Create(WatchCreate),
    Cancel(i64),
    Progress,
}

/// What the hub has for a stream.
#[derive(Debug)]
pub(super) enum Mail {
    Events {
        watch_id: i64,
        records: Vec<Arc<Record>>,
    },
    /// The queue was full and is gone.
    Overflow {
        watch_id: i64,
        next_revision: Revision,
    },
}

/// Shared by a stream, its controls and the hub.
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Wakes the stream, which is one task, when there is a first request or `pending` gets a first entry. The stream
    /// only sleeps when it has found both empty.
    wake: Notify,
    /// Wakes those who wait to put down a request.
    room: Notify,
    options: Arc<WatchOptions>,
    figures: Arc<WatchFigures>,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    mailboxes: BTreeMap<i64, Mailbox>,
    /// The mailboxes that are not empty, each once, in the order in which they are served.
    pending: VecDeque<i64>,
    closed: bool,
}

/// One per live watcher.
enum Mailbox {
    Open(Queue),
    Overflowed { next_revision: Revision, _slow: Counted },
}

impl Inbox {
    pub(super) fn new(options: Arc<WatchOptions>, figures: Arc<WatchFigures>) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), room: Notify::new(), options, figures }
    }

    /// Ends the stream. What waits is dropped.
    pub(super) fn close(&self) {
        *self.state.lock() = State { closed: true, ..State::default() };
        self.wake.notify_one();
        self.room.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Waits until there may be something new. A call that came between the last look and this wait is not lost.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.closed || state.requests.len() < self.options.stream_requests_max
    }

    fn request(&self, request: Request) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if state.requests.len() >= self.options.stream_requests_max {
            let is_progress = matches!(request, Request::Progress);
            drop(state);
            if !is_progress {
                tracing::debug!("a watch stream ends: its client runs too many requests ahead");
                self.close();
            }
            return;
        }
        state.requests.push_back(request);
        self.wake.notify_one();
    }

    pub(super) fn take_request(&self) -> Option<Request> {
        let request = self.state.lock().requests.pop_front();
        if request.is_some() {
            self.room.notify_waiters();
        }
        request
    }

    /// Opens the mailbox of a watcher that goes live.
    pub(super) fn open(&self, watch_id: i64) {
        let queue = Queue::new(&self.figures);
        self.state.lock().mailboxes.insert(watch_id, Mailbox::Open(queue));
    }

    /// Drops the mailbox of a watcher, with what is in it.
    pub(super) fn shut(&self, watch_id: i64) {
        let mut state = self.state.lock();
        if state.mailboxes.remove(&watch_id).is_some() {
            state.pending.retain(|pending| *pending != watch_id);
        }
    }

    /// Puts whole revisions into a live watcher's queue. False if it overflowed: the watcher is live no more.
    pub(super) fn deliver(&self, watch_id: i64, batch: &[Arc<Record>]) -> bool {
        let mut state = self.state.lock();
        let State { mailboxes, pending, .. } = &mut *state;
        let Some(Mailbox::Open(queue)) = mailboxes.get_mut(&watch_id) else { return false };
        let was_empty = queue.is_empty();
        match queue.push(batch, &self.options) {
            Ok(()) => {
                if was_empty {
                    pending.push_back(watch_id);
                    self.wake.notify_one();
                }
                true
            }
            Err(next_revision) => {
                self.overflow(&mut state, watch_id, next_revision);
                false
            }
        }
    }

    /// Ends a watcher's life on events: it has to read history from what it has not got, which is at the latest
    /// `next_revision`.
    pub(super) fn send_to_history(&self, watch_id: i64, next_revision: Revision) {
        let mut state = self.state.lock();
        let Some(Mailbox::Open(queue)) = state.mailboxes.get(&watch_id) else { return };
        let next_revision = queue.front_revision().unwrap_or(next_revision);
        self.overflow(&mut state, watch_id, next_revision);
    }

    fn overflow(&self, state: &mut State, watch_id: i64, next_revision: Revision) {
        let overflowed = Mailbox::Overflowed { next_revision, _slow: Counted::slow_watcher(&self.figures) };
        let was_empty = match state.mailboxes.insert(watch_id, overflowed) {
            Some(Mailbox::Open(queue)) => queue.is_empty(),
            Some(Mailbox::Overflowed { .. }) => false,
            None => true,
        };
        if was_empty {
            state.pending.push_back(watch_id);
            self.wake.notify_one();
        }
        self.figures.overflowed();
    }

    /// What is next, from one watcher after the other.
    pub(super) fn take_mail(&self) -> Option<Mail> {
        let mut state = self.state.lock();
        let State { mailboxes, pending, .. } = &mut *state;
        while let Some(watch_id) = pending.pop_front() {
            match mailboxes.get_mut(&watch_id) {
                Some(Mailbox::Open(queue)) => {
                    let records = queue.take(&self.options);
                    if !queue.is_empty() {
                        pending.push_back(watch_id);
                    }
                    return Some(Mail::Events { watch_id, records });
                }
                Some(Mailbox::Overflowed { next_revision, .. }) => {
                    let next_revision = *next_revision;
                    mailboxes.remove(&watch_id);
                    return Some(Mail::Overflow { watch_id, next_revision });
                }
                None => {}
            }
        }
        None
    }

    pub(super) fn has_mail(&self) -> bool {
        !self.state.lock().pending.is_empty()
    }

    /// The watchers for which something waits.
    pub(super) fn pending(&self) -> Vec<i64> {
        self.state.lock().pending.iter().copied().collect()
    }
}
