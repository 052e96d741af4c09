//! Following changes.
//!
//! All watches of a client share one stream. When it breaks, they go on at another endpoint where they were: a reader
//! sees every event once, in order, and notices nothing but a pause.

mod cursor;
mod hub;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use parking_lot::Mutex;
use quorate_proto::etcdserverpb::WatchCreateRequest;
use quorate_proto::etcdserverpb::watch_create_request::FilterType;
use quorate_proto::mvccpb::event::EventType;
use quorate_proto::mvccpb::{self, KeyValue};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::Code;

use crate::span::{Span, span_methods};
use crate::{Client, Error};

pub(crate) type HubSender = mpsc::Sender<hub::Command>;

impl Client {
    /// Watches a key or, by the options, a range of keys. Returns when the server has confirmed the watch.
    ///
    /// A watch that is not read does not hold up others: its buffer has room for
    /// [`watch_buffer`](crate::ConnectOptions::watch_buffer) batches; when it is full, the watch is taken off the
    /// stream until half of it has been read, and goes on where it was. If the history has been compacted meanwhile, it
    /// ends with [`Error::WatchCompacted`].
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::{GetOptions, WatchOptions};
    ///
    /// // Read the state, then follow it without a gap.
    /// let state = client.get("config/", GetOptions::new().prefix()).await?;
    /// let options = WatchOptions::new().prefix().start_revision(state.revision + 1);
    /// let mut watch = client.watch("config/", options).await?;
    /// while let Some(batch) = watch.next().await {
    ///     for event in batch?.events {
    ///         println!("{:?} {:?}", event.kind, event.kv.key);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::WatchCanceled`] or [`Error::Rejected`] if the server refuses, [`Error::Unavailable`] if no endpoint
    /// confirms in time. Compaction shows at the first read.
    pub async fn watch(
        &self,
        key: impl Into<Vec<u8>>,
        options: impl Into<Option<WatchOptions>>,
    ) -> Result<Watch, Error> {
        let request = options.into().unwrap_or_default().request(key.into());
        let (batches, receiver) = mpsc::channel(self.transport.options.watch_buffer_batches);
        let end = Arc::new(Mutex::new(None));
        let (confirm, confirmed) = oneshot::channel();
        let (alive, reader) = oneshot::channel();
        let create = hub::Create { request, batches, reader, end: end.clone(), confirm };
        let answer = async {
            self.watch_hub().send(hub::Command::Create(create)).await.ok()?;
            confirmed.await.ok()
        };
        match timeout(self.timeout, answer).await {
            Ok(Some(Ok(created_revision))) => Ok(Watch { batches: receiver, end, created_revision, _alive: alive }),
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => Err(unavailable("the runtime is shutting down")),
            Err(_) => Err(unavailable("no endpoint confirmed the watch in time")),
        }
    }

    /// Asks the server how far the watches of this client are. If all of them are up to date it answers, and every
    /// watch gets a batch without events; else it keeps silent.
    pub async fn request_watch_progress(&self) {
        // Fails only while the runtime shuts down, when there is nobody left to tell.
        let _ = self.watch_hub().send(hub::Command::Progress).await;
    }

    fn watch_hub(&self) -> &HubSender {
        self.watch_hub.get_or_init(|| hub::start(self.transport.clone()))
    }
}

pub(crate) fn unavailable(message: &str) -> Error {
    Error::Unavailable { code: Code::Unavailable, message: message.to_owned() }
}

/// What [`Client::watch`] reports.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    span: Span,
    request: WatchCreateRequest,
}

impl WatchOptions {
    /// One key, from now on, puts and deletes.
    pub fn new() -> Self {
        Self::default()
    }

    span_methods!();

    /// Begins with the events of this revision.
    pub fn start_revision(mut self, revision: i64) -> Self {
        self.request.start_revision = revision;
        self
    }

    /// Asks for the pair before each change.
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Asks for a batch without events now and then while nothing happens.
    pub fn progress_notify(mut self) -> Self {
        self.request.progress_notify = true;
        self
    }

    /// Leaves out puts.
    pub fn no_puts(mut self) -> Self {
        self.request.filters.push(FilterType::Noput.into());
        self
    }

    /// Leaves out deletes.
    pub fn no_deletes(mut self) -> Self {
        self.request.filters.push(FilterType::Nodelete.into());
        self
    }

    fn request(self, key: Vec<u8>) -> WatchCreateRequest {
        let (key, range_end) = self.span.bounds(key);
        // Pieces keep the memory of a batch bounded, and the cursor copes with them.
        WatchCreateRequest { key, range_end, fragment: true, ..self.request }
    }
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted, by a call or by the end of its lease.
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The pair after the change. For a delete it has only the key and the revision of the delete.
    pub kv: KeyValue,
    /// The pair before the change, if it was asked for, existed, and is not compacted.
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    /// The key did not exist before.
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }

    fn from_wire(event: mvccpb::Event) -> Option<Self> {
        let kind = match event.r#type() {
            EventType::Put => EventKind::Put,
            EventType::Delete => EventKind::Delete,
        };
        Some(Event { kind, kv: event.kv?, prev_kv: event.prev_kv })
    }
}

/// Some events of a watch, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// All events of the watch up to this revision have come, with this batch included. If a large revision comes in
    /// several batches, only the last one counts it.
    pub revision: i64,
    /// The events. Empty in an answer about progress.
    pub events: Vec<Event>,
}

/// A watch. Dropping it ends it. Also a [`Stream`].
#[derive(Debug)]
pub struct Watch {
    batches: mpsc::Receiver<Batch>,
    end: Arc<Mutex<Option<Error>>>,
    created_revision: i64,
    /// Tells the hub by its end that nobody reads any more.
    _alive: oneshot::Sender<()>,
}

impl Watch {
    /// Revision of the store when the server confirmed the watch. A watch "from now on" reports all later changes.
    pub fn created_revision(&self) -> i64 {
        self.created_revision
    }

    /// The next events. After an error, and when the runtime shuts down, there are none.
    ///
    /// # Errors
    /// [`Error::WatchCompacted`] and [`Error::WatchCanceled`]; [`Error::Rejected`] if the server no longer accepts
    /// watches of this client.
    pub async fn next(&mut self) -> Option<Result<Batch, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Watch {
    type Item = Result<Batch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match ready!(self.batches.poll_recv(context)) {
            Some(batch) => Poll::Ready(Some(Ok(batch))),
            None => Poll::Ready(self.end.lock().take().map(Err)),
        }
    }
}
