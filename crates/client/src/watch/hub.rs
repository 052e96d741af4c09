//! Carries all watches of a client over one stream, and on to another endpoint when it breaks.
//!
//! Knows streams and confirmations; positions are kept by [`Cursor`]. Guarantees that watches do not hold each other up:
//! one that is not read is taken off the stream, and put on again from where it was when there is room.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::cursor::Cursor;
use super::{Batch, Event};
use crate::Error;
use crate::auth::Refusals;
use crate::endpoints::Endpoint;
use crate::error::{is_about_token, text};
use crate::kv::revision_of;
use crate::raw::Watches;
use crate::transport::Transport;

/// Commands that wait for the hub before callers wait too.
const COMMANDS_MAX: usize = 64;

/// Requests in the hands of the transport. All others wait in the outbox, which has at most a few per watch.
const REQUESTS_MAX: usize = 32;

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Id in answers that are about all watches of a stream.
const ALL_WATCHES: i64 = -1;

pub(crate) enum Command {
    Create(Create),
    Progress,
}

/// A watch to begin.
pub(crate) struct Create {
    pub(crate) request: WatchCreateRequest,
    pub(crate) batches: mpsc::Sender<Batch>,
    /// Ends when the reader does.
    pub(crate) reader: oneshot::Receiver<()>,
    /// Why the watch ended; set before the sender of batches is dropped.
    pub(crate) end: Arc<Mutex<Option<Error>>>,
    /// Gets the revision of the store at the first confirmation.
    pub(crate) confirm: oneshot::Sender<Result<i64, Error>>,
}

/// Starts a hub. It ends when all senders and all watches are gone.
pub(crate) fn start(transport: Arc<Transport>) -> mpsc::Sender<Command> {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    tokio::spawn(Hub::new(transport, commands).run());
    sender
}

/// Name of a watch within the hub; its id on the stream changes.
type Key = u64;

struct Watch {
    create: WatchCreateRequest,
    cursor: Cursor,
    batches: mpsc::Sender<Batch>,
    end: Arc<Mutex<Option<Error>>>,
    confirm: Option<oneshot::Sender<Result<i64, Error>>>,
    place: Place,
    /// Since it was on a stream last, or asked for.
    refusals: Refusals,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Asked for, or to be asked for as soon as there is a stream.
    Wanted,
    /// On the stream, with this id.
    Live(i64),
    /// Its buffer is full. Not on the stream.
    Paused,
}

/// The stream and how far it is.
enum Link {
    /// No watch needs it.
    Idle,
    /// Failed; to be opened again at this time.
    Waiting(Instant),
    Opening(BoxFuture<'static, Opened>, mpsc::Sender<WatchRequest>),
    Open(Arc<Endpoint>, Box<Streaming<WatchResponse>>, mpsc::Sender<WatchRequest>),
}

type Opened = Result<(Arc<Endpoint>, Streaming<WatchResponse>), Status>;

/// Everything that can happen to a hub.
enum Input {
    Command(Command),
    /// All handles that could give commands are gone.
    NoMoreCommands,
    /// The reader of a watch is gone.
    Dropped(Key),
    /// The buffer of a paused watch has room.
    Drained(Key),
    /// The time to open the stream again has come.
    Retry,
    Opened(Opened),
    Response(WatchResponse),
    /// The stream takes a request.
    Writable,
    Lost(Status),
}

struct Hub {
    transport: Arc<Transport>,
    commands: mpsc::Receiver<Command>,
    commands_ended: bool,
    watches: HashMap<Key, Watch>,
    /// Watches on the stream by their id there.
    live: HashMap<i64, Key>,
    /// Sent creates without an answer, in order: the server answers them in order.
    creating: VecDeque<(i64, Key)>,
    outbox: VecDeque<WatchRequest>,
    link: Link,
    backoff: Duration,
    /// Last key and last id on the stream that were given out. Ids are never used twice, so that a late event of a
    /// watch that was taken off is not mistaken for one of its successor.
    last_key: Key,
    last_id: i64,
    dropped: FuturesUnordered<BoxFuture<'static, Key>>,
    drained: FuturesUnordered<BoxFuture<'static, Key>>,
}

impl Hub {
    fn new(transport: Arc<Transport>, commands: mpsc::Receiver<Command>) -> Self {
        Hub {
            transport,
            commands,
            commands_ended: false,
            watches: HashMap::new(),
            live: HashMap::new(),
            creating: VecDeque::new(),
            outbox: VecDeque::new(),
            link: Link::Idle,
            backoff: Duration::ZERO,
            last_key: 0,
            last_id: 0,
            dropped: FuturesUnordered::new(),
            drained: FuturesUnordered::new(),
        }
    }

    async fn run(mut self) {
        while !(self.commands_ended && self.watches.is_empty()) {
            let input = self.next_input().await;
            self.handle(input);
        }
    }

    async fn next_input(&mut self) -> Input {
        tokio::select! {
            command = self.commands.recv(), if !self.commands_ended => match command {
                Some(command) => Input::Command(command),
                None => Input::NoMoreCommands,
            },
            Some(key) = self.dropped.next() => Input::Dropped(key),
            Some(key) = self.drained.next() => Input::Drained(key),
            input = self.link.next_input(!self.outbox.is_empty()) => input,
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Command(Command::Create(create)) => self.add(create),
            Input::Command(Command::Progress) => self.request_progress(),
            Input::NoMoreCommands => self.commands_ended = true,
            Input::Dropped(key) => self.remove(key),
            Input::Drained(key) => self.resume(key),
            Input::Retry => self.open(),
            Input::Opened(Ok((endpoint, stream))) => {
                if let Link::Opening(_, requests) = std::mem::replace(&mut self.link, Link::Idle) {
                    self.link = Link::Open(endpoint, Box::new(stream), requests);
                }
            }
            Input::Opened(Err(status)) => self.lost(&status),
            Input::Response(response) => {
                self.backoff = Duration::ZERO;
                self.on_response(response);
            }
            Input::Writable => self.write(),
            Input::Lost(status) => {
                if let Link::Open(endpoint, ..) = &self.link {
                    endpoint.failed();
                }
                self.lost(&status);
            }
        }
    }

    fn add(&mut self, create: Create) {
        self.last_key += 1;
        let key = self.last_key;
        self.dropped.push(Box::pin(async move {
            // Nothing is ever sent: it ends when the other half is dropped.
            let _ = create.reader.await;
            key
        }));
        let watch = Watch {
            cursor: Cursor::new(create.request.start_revision),
            create: create.request,
            batches: create.batches,
            end: create.end,
            confirm: Some(create.confirm),
            place: Place::Wanted,
            refusals: Refusals::default(),
        };
        self.watches.insert(key, watch);
        self.want(key);
    }

    /// Puts a watch on the stream, opening it if need be.
    fn want(&mut self, key: Key) {
        match self.link {
            Link::Idle => self.open(),
            // Opening puts all watches on.
            Link::Waiting(_) => {}
            Link::Opening(..) | Link::Open(..) => self.send_create(key),
        }
    }

    fn send_create(&mut self, key: Key) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        self.last_id += 1;
        watch.cursor.restart();
        watch.place = Place::Wanted;
        let start_revision = watch.cursor.start_revision();
        let request = WatchCreateRequest { watch_id: self.last_id, start_revision, ..watch.create.clone() };
        self.creating.push_back((self.last_id, key));
        self.outbox.push_back(request_of(RequestUnion::CreateRequest(request)));
    }

    fn send_cancel(&mut self, id: i64) {
        self.outbox.push_back(request_of(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id })));
    }

    fn request_progress(&mut self) {
        let request = request_of(RequestUnion::ProgressRequest(WatchProgressRequest {}));
        // A second one in the queue would tell nothing new.
        if matches!(self.link, Link::Open(..)) && !self.outbox.contains(&request) {
            self.outbox.push_back(request);
        }
    }

    fn open(&mut self) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let transport = self.transport.clone();
        let requests = ReceiverStream::new(requests);
        let timeout = transport.options.timeout;
        let opened = async move { transport.bidirectional(Watches::WATCH, requests, timeout).await };
        self.link = Link::Opening(Box::pin(opened), sender);
        let mut wanted: Vec<Key> =
            self.watches.iter().filter(|(_, watch)| watch.place != Place::Paused).map(|(key, _)| *key).collect();
        // The oldest first, so that the order of confirmations does not depend on chance.
        wanted.sort_unstable();
        wanted.into_iter().for_each(|key| self.send_create(key));
    }

    fn write(&mut self) {
        let (Link::Opening(_, requests) | Link::Open(_, _, requests)) = &self.link else { return };
        while let Some(request) = self.outbox.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(request)) = requests.try_send(request) {
                self.outbox.push_front(request);
                return;
            }
        }
    }

    /// The stream is gone: begin another, unless the reason would meet us there too.
    fn lost(&mut self, status: &Status) {
        tracing::debug!(%status, watches = self.watches.len(), "watch stream lost");
        if is_final(status, self.transport.has_user()) {
            let error = Error::rejected(status);
            let keys: Vec<Key> = self.watches.keys().copied().collect();
            keys.into_iter().for_each(|key| self.end(key, error.clone()));
        }
        self.restart();
    }

    /// Gives up the stream and begins another soon, if any watch needs it.
    fn restart(&mut self) {
        self.live.clear();
        self.creating.clear();
        self.outbox.clear();
        for watch in self.watches.values_mut().filter(|watch| watch.place != Place::Paused) {
            watch.place = Place::Wanted;
        }
        self.link = match self.watches.is_empty() {
            true => Link::Idle,
            false => Link::Waiting(Instant::now() + self.backoff.mul_f64(rand::random_range(0.5..1.0))),
        };
        self.backoff = (self.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
    }

    fn on_response(&mut self, response: WatchResponse) {
        if response.created {
            self.on_created(response);
        } else if response.canceled {
            // Without a watch it is the answer to a cancel request of ours.
            if let Some(key) = self.live.remove(&response.watch_id) {
                self.end(key, end_of(response));
            }
        } else if response.watch_id == ALL_WATCHES {
            let revision = revision_of(response.header);
            let keys: Vec<Key> = self.live.values().copied().collect();
            keys.into_iter().for_each(|key| self.on_progress(key, revision, true));
        } else if let Some(key) = self.live.get(&response.watch_id).copied() {
            match response.events.is_empty() {
                true => self.on_progress(key, revision_of(response.header), false),
                false => self.on_events(key, response),
            }
        }
    }

    fn on_created(&mut self, response: WatchResponse) {
        // A server may choose its own id. Refusals carry no id of use.
        let named = self.creating.iter().position(|(id, _)| *id == response.watch_id);
        let Some((_, key)) = self.creating.remove(named.unwrap_or(0)) else {
            return self.lost(&Status::internal("confirmation of a watch that was not asked for"));
        };
        if response.canceled {
            if !self.try_with_new_token(key, &response) {
                self.end(key, end_of(response));
            }
            return;
        }
        let Some(watch) = self.watches.get_mut(&key) else {
            // Dropped while the request was on its way.
            return self.send_cancel(response.watch_id);
        };
        let revision = revision_of(response.header);
        watch.cursor.created(revision);
        watch.place = Place::Live(response.watch_id);
        watch.refusals = Refusals::default();
        self.live.insert(response.watch_id, key);
        if let Some(confirm) = watch.confirm.take() {
            // If the caller has given up waiting, the reader is gone too and the watch will be removed.
            let _ = confirm.send(Ok(revision));
        }
    }

    /// A refusal may be due to an old token, and some servers do not say so. The token belongs to the stream, so a new
    /// one needs a new stream.
    fn try_with_new_token(&mut self, key: Key, response: &WatchResponse) -> bool {
        let reason = &response.cancel_reason;
        let Some(watch) = self.watches.get_mut(&key).filter(|_| self.transport.has_user()) else { return false };
        let may_be_old = is_about_token(reason) || (reason.ends_with(text::PERMISSION_DENIED) && !watch.refusals.any());
        let Some(pause) = may_be_old.then(|| watch.refusals.next()).flatten() else { return false };
        self.transport.forget_token();
        self.backoff = pause;
        self.restart();
        true
    }

    fn on_progress(&mut self, key: Key, revision: i64, asked_for: bool) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        watch.cursor.progress(revision);
        if asked_for || watch.create.progress_notify {
            // With a full buffer the reader has better things to do than to learn that nothing happened.
            let _ = watch.batches.try_send(Batch { revision: watch.cursor.complete_revision(), events: Vec::new() });
        }
    }

    fn on_events(&mut self, key: Key, response: WatchResponse) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        if watch.batches.capacity() == 0 {
            // The cursor stays, so these events will be sent again.
            return self.pause(key);
        }
        let events = watch.cursor.advance(response.events, response.fragment);
        let events: Vec<Event> = events.into_iter().filter_map(Event::from_wire).collect();
        if !events.is_empty() {
            // There is room, and if the reader is gone the watch is about to be removed.
            let _ = watch.batches.try_send(Batch { revision: watch.cursor.complete_revision(), events });
        }
    }

    fn pause(&mut self, key: Key) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        let place = std::mem::replace(&mut watch.place, Place::Paused);
        let batches = watch.batches.clone();
        self.drained.push(Box::pin(async move {
            // Half of the buffer, so that the watch does not go on and off for every batch. An error means that the
            // reader is gone, which is noticed elsewhere.
            let _ = batches.reserve_many(batches.max_capacity().div_ceil(2)).await;
            key
        }));
        self.take_off(place);
    }

    fn resume(&mut self, key: Key) {
        if let Some(watch) = self.watches.get_mut(&key) {
            watch.place = Place::Wanted;
            self.want(key);
        }
    }

    /// Ends a watch for a reason that its reader will learn.
    fn end(&mut self, key: Key, error: Error) {
        let Some(watch) = self.watches.remove(&key) else { return };
        match watch.confirm {
            Some(confirm) => drop(confirm.send(Err(error))),
            None => *watch.end.lock() = Some(error),
        }
        self.close_if_unused();
    }

    /// Forgets a watch that nobody reads.
    fn remove(&mut self, key: Key) {
        if let Some(watch) = self.watches.remove(&key) {
            self.take_off(watch.place);
            self.close_if_unused();
        }
    }

    fn take_off(&mut self, place: Place) {
        match place {
            Place::Live(id) => {
                self.live.remove(&id);
                self.send_cancel(id);
            }
            // Not on the stream yet or no longer. If it is asked for, its confirmation will find no watch.
            Place::Wanted | Place::Paused => {}
        }
    }

    fn close_if_unused(&mut self) {
        if self.watches.is_empty() {
            self.live.clear();
            self.creating.clear();
            self.outbox.clear();
            self.link = Link::Idle;
        }
    }
}

impl Link {
    async fn next_input(&mut self, wants_to_write: bool) -> Input {
        match self {
            Link::Idle => pending().await,
            Link::Waiting(until) => {
                sleep_until(*until).await;
                Input::Retry
            }
            Link::Opening(opened, requests) => tokio::select! {
                opened = opened => Input::Opened(opened),
                // A closed channel shows in the other branch.
                Ok(_) = requests.reserve(), if wants_to_write => Input::Writable,
            },
            Link::Open(_, stream, requests) => tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(response)) => Input::Response(response),
                    Ok(None) => Input::Lost(Status::unavailable("stream ended")),
                    Err(status) => Input::Lost(status),
                },
                Ok(_) = requests.reserve(), if wants_to_write => Input::Writable,
            },
        }
    }
}

fn request_of(union: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(union) }
}

fn end_of(response: WatchResponse) -> Error {
    match response.compact_revision {
        0 => Error::WatchCanceled { reason: response.cancel_reason },
        compact_revision => Error::WatchCompacted { compact_revision },
    }
}

/// The server refuses watches for a reason that another endpoint would have too.
fn is_final(status: &Status, has_user: bool) -> bool {
    let sent_by_server = std::error::Error::source(status).is_none();
    let renewable = has_user && is_about_token(status.message());
    let refusal = matches!(
        status.code(),
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
    );
    sent_by_server && refusal && !renewable
}

#[cfg(test)]
mod tests;
