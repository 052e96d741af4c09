//! The receiving half of a watch stream: requests, live events and history become one sequence of messages.

use super::figures::Counted;
use super::hub::{HubFull, Shared, Token, WATCHERS_PER_LOCK, wants};
use super::inbox::{Inbox, Mail, Request};
use super::index::Index;
use super::queue::{MessageSize, event_bytes};
use super::{WatchCreate, WatchEvent, WatchMessage};
use crate::Error;
use quorate_core::{KeyValue, Record, Rejection, Revision};
use quorate_sabotage::sabotage;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::time::Instant;

/// The receiving half of a watch stream. Dropping it ends all its watchers.
pub struct WatchStream {
    hub: Arc<Shared>,
    inbox: Arc<Inbox>,
    id: Token,
    watchers: BTreeMap<i64, Watcher>,
    /// The watchers that are catching up, by what they want and by what they need next.
    catching_up: Index<i64>,
    behind: BTreeSet<(Revision, i64)>,
    /// Messages that come before everything else. Holds the answer to one request or the yield of one chunk of history:
    /// nothing new is begun while something is in it.
    outbox: VecDeque<Outgoing>,
    next_watch_id: i64,
    /// Progress requests that are answered as soon as nothing waits.
    progress_due: usize,
    /// When to tell of progress next; `None` while no watcher asked for it.
    notify_at: Option<Instant>,
    /// Whose turn it is when both live events and history are there.
    history_turn: bool,
    failed: bool,
    _counted: Counted,
}

struct Watcher {
    create: Arc<WatchCreate>,
    state: WatcherState,
    /// No events since the last tick of the progress interval.
    quiet: bool,
    _counted: Counted,
}

enum WatcherState {
    Live { token: Token },
    CatchingUp { next_revision: Revision, _slow: Counted },
}

/// A message before its `prev_kv` are looked up.
enum Outgoing {
    Ready(WatchMessage),
    Events { watch_id: i64, revision: Revision, records: Vec<Arc<Record>> },
}

/// What one step of the stream came to.
enum Step {
    Message(WatchMessage),
    /// There is more to do at once.
    More,
    /// There is more to do, but much was done: let others run.
    Yield,
    /// Nothing to do until something happens.
    Wait,
    End,
}

/// What a chunk of history holds: everything up to `end` for the watchers that needed something of it.
struct Chunk {
    end: Revision,
    found: BTreeMap<i64, Vec<Arc<Record>>>,
}

impl WatchStream {
    pub(super) fn new(hub: Arc<Shared>, inbox: Arc<Inbox>, id: Token) -> Self {
        let _counted = Counted::stream(&hub.figures);
        Self {
            hub,
            inbox,
            id,
            watchers: BTreeMap::new(),
            catching_up: Index::new(),
            behind: BTreeSet::new(),
            outbox: VecDeque::new(),
            next_watch_id: 0,
            progress_due: 0,
            notify_at: None,
            history_turn: false,
            failed: false,
            _counted,
        }
    }

    /// The next message. Waits as long as nothing happens. `None` when the node stops, when history cannot be read (the
    /// node stops then, too), or when the client ran too many requests ahead. A call that is dropped while it waits
    /// loses nothing.
    pub async fn next(&mut self) -> Option<WatchMessage> {
        loop {
            match self.step() {
                Step::Message(message) => return Some(message),
                Step::More => {}
                Step::Yield => tokio::task::yield_now().await,
                Step::Wait => self.changed().await,
                Step::End => return None,
            }
        }
    }

    /// Waits until there may be something to do.
    async fn changed(&self) {
        match self.notify_at {
            // That the time is up is not told apart: the next step looks at the clock itself.
            Some(at) => drop(tokio::time::timeout_at(at, self.inbox.changed()).await),
            None => self.inbox.changed().await,
        }
    }

    /// One step, without waiting: this is where messages get their order.
    fn step(&mut self) -> Step {
        if self.failed || self.inbox.is_closed() {
            return Step::End;
        }
        if let Some(outgoing) = self.outbox.pop_front() {
            return self.finish(outgoing).map_or_else(|error| self.fail(&error), Step::Message);
        }
        if let Some(request) = self.inbox.take_request() {
            self.serve(request);
            return Step::More;
        }
        if self.notify_at.is_some_and(|at| at <= Instant::now()) {
            self.notify_progress();
            return Step::More;
        }
        if !self.behind.is_empty() && (self.history_turn || !self.inbox.has_mail()) {
            self.history_turn = false;
            return match self.catch_up() {
                Ok(()) if self.outbox.is_empty() => Step::Yield,
                Ok(()) => Step::More,
                Err(error) => self.fail(&error),
            };
        }
        self.history_turn = true;
        if sabotage!(WatchProgressAhead) && self.progress_due > 0 {
            self.answer_progress();
            return Step::More;
        }
        match self.inbox.take_mail() {
            Some(Mail::Events { watch_id, records }) => {
                if let Some(revision) = records.last().map(|record| record.rev.main) {
                    self.outbox.push_back(Outgoing::Events { watch_id, revision, records });
                }
                Step::More
            }
            Some(Mail::Overflow { watch_id, next_revision }) => {
                self.fall_behind(watch_id, next_revision);
                Step::More
            }
            None if self.progress_due > 0 => {
                self.answer_progress();
                Step::More
            }
            None => Step::Wait,
        }
    }

    fn fail(&mut self, error: &Error) -> Step {
        tracing::error!(%error, "a watch stream ends: history cannot be read");
        self.failed = true;
        Step::End
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Create(create) => {
                if let Err(reason) = self.create(create) {
                    let revision = self.hub.published();
                    self.say(WatchMessage::Refused { revision, reason });
                }
            }
            Request::Cancel(watch_id) => {
                if self.remove(watch_id) {
                    let revision = self.hub.published();
                    self.say(WatchMessage::Canceled { watch_id, revision, compact_revision: Revision::ZERO });
                }
            }
            Request::Progress => self.progress_due += 1,
        }
    }

    fn say(&mut self, message: WatchMessage) {
        self.outbox.push_back(Outgoing::Ready(message));
    }

    /// Admits a watcher; the error is the text of the refusal.
    fn create(&mut self, create: WatchCreate) -> Result<(), &'static str> {
        if create.start_revision < Revision::ZERO {
            return Err("etcdserver: mvcc: required revision has been compacted");
        }
        if create.range.is_empty() {
            return Err("mvcc: watcher range is empty");
        }
        if self.watchers.contains_key(&create.watch_id) && create.watch_id != 0 {
            return Err("mvcc: duplicate watch ID provided on the WatchStream");
        }
        // etcd has no such bounds, and so no text for them: this is its text for "come back later", and whose bound it is.
        if self.watchers.len() >= self.hub.options.stream_watchers_max {
            return Err("etcdserver: too many requests: too many watchers on this stream (--max-watchers-per-stream)");
        }
        let watch_id = if create.watch_id == 0 { self.free_watch_id() } else { create.watch_id };
        let create = Arc::new(create);
        let admission = self
            .hub
            .admit(&self.inbox, watch_id, &create)
            .map_err(|HubFull| "etcdserver: too many requests: too many watchers on this member (--max-watchers)")?;
        let state = match admission.live {
            Some(token) => WatcherState::Live { token },
            None => self.behind_state(watch_id, &create, create.start_revision),
        };
        if create.progress_notify && self.notify_at.is_none() {
            self.notify_at = Some(self.next_notify());
        }
        self.watchers.insert(watch_id, Watcher { create, state, quiet: true, _counted: admission.counted });
        self.say(WatchMessage::Created { watch_id, revision: admission.published });
        Ok(())
    }

    /// The next id that the client has not taken.
    fn free_watch_id(&mut self) -> i64 {
        loop {
            let id = self.next_watch_id;
            self.next_watch_id = id.wrapping_add(1);
            if !self.watchers.contains_key(&id) {
                return id;
            }
        }
    }

    /// Ends a watcher. False if there is none of this id.
    fn remove(&mut self, watch_id: i64) -> bool {
        let Some(watcher) = self.watchers.remove(&watch_id) else { return false };
        match watcher.state {
            WatcherState::Live { token } => self.hub.leave(&self.inbox, watch_id, token),
            WatcherState::CatchingUp { next_revision, .. } => {
                self.behind.remove(&(next_revision, watch_id));
                self.catching_up.remove(&watcher.create.range, watch_id);
            }
        }
        true
    }

    /// Enters a watcher among those that are catching up.
    fn behind_state(&mut self, watch_id: i64, create: &WatchCreate, next_revision: Revision) -> WatcherState {
        self.behind.insert((next_revision, watch_id));
        self.catching_up.insert(&create.range, watch_id);
        WatcherState::CatchingUp { next_revision, _slow: Counted::slow_watcher(&self.hub.figures) }
    }

    /// A live watcher's queue overflowed, and the hub has forgotten the watcher.
    fn fall_behind(&mut self, watch_id: i64, next_revision: Revision) {
        let Some(create) = self.watchers.get(&watch_id).map(|watcher| watcher.create.clone()) else { return };
        let state = self.behind_state(watch_id, &create, next_revision);
        if let Some(watcher) = self.watchers.get_mut(&watch_id) {
            watcher.state = state;
        }
    }

    /// Reads one chunk of history for all watchers that need something of it, and makes those live that have got all.
    fn catch_up(&mut self) -> Result<(), Error> {
        // A stream with a watcher that is not synced leaves progress requests unanswered.
        self.progress_due = 0;
        self.cancel_compacted();
        let Some((from, _)) = self.behind.first().copied() else { return Ok(()) };
        let from = if sabotage!(WatchCompactedSilently) { from.max(self.hub.history.compacted()) } else { from };
        let from = if sabotage!(WatchHistorySkips) { from.next().min(self.hub.published()) } else { from };
        let chunk = match self.read_chunk(from, self.hub.published()) {
            // Compaction came in between: the next step cancels whom it has overtaken.
            Err(Error::Rejected(Rejection::Compacted)) if self.hub.history.compacted() > from => return Ok(()),
            chunk => chunk?,
        };
        // Compaction may have run through the chunk while it was read. It moves the bound before it deletes, so whoever
        // needs nothing below the bound now has missed nothing.
        self.cancel_compacted();
        for (watch_id, records) in chunk.found {
            if self.watchers.contains_key(&watch_id) {
                self.outbox.push_back(Outgoing::Events { watch_id, revision: chunk.end, records });
            }
        }
        let next_revision = chunk.end.next();
        while let Some((lowest, watch_id)) = self.behind.first().copied().filter(|(lowest, _)| *lowest < next_revision)
        {
            self.behind.remove(&(lowest, watch_id));
            self.behind.insert((next_revision, watch_id));
            if let Some(Watcher { state: WatcherState::CatchingUp { next_revision: next, .. }, .. }) =
                self.watchers.get_mut(&watch_id)
            {
                *next = next_revision;
            }
        }
        self.go_live(next_revision);
        Ok(())
    }

    /// Cancels the watchers whose next revision was compacted.
    fn cancel_compacted(&mut self) {
        let compact_revision = self.hub.history.compacted();
        if sabotage!(WatchCompactedSilently) {
            return;
        }
        while let Some((_, watch_id)) = self.behind.first().copied().filter(|(next, _)| *next < compact_revision) {
            self.remove(watch_id);
            self.say(WatchMessage::Canceled { watch_id, revision: Revision::ZERO, compact_revision });
        }
    }

    /// Reads history from `from` on, at most to `to`, until enough was read for one step.
    fn read_chunk(&self, from: Revision, to: Revision) -> Result<Chunk, Error> {
        // Whoever is behind needs something that was published: the others went live when that was found out.
        debug_assert!(from <= to, "{from} is not published");
        let mut size = MessageSize::new(&self.hub.options);
        let mut chunk = Chunk { end: to, found: BTreeMap::new() };
        let mut wanted_by = Vec::new();
        self.hub.history.scan(from, to, &mut |record| {
            if !size.add(&record) {
                chunk.end = size.revision();
                return ControlFlow::Break(());
            }
            self.catching_up.matches(&record.key, &mut |watch_id| {
                if self.needs(watch_id, &record) {
                    wanted_by.push(watch_id);
                }
            });
            if !wanted_by.is_empty() {
                size.add_bytes((wanted_by.len() - 1) * event_bytes(&record));
                let record = Arc::new(record);
                for watch_id in wanted_by.drain(..) {
                    chunk.found.entry(watch_id).or_default().push(record.clone());
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(chunk)
    }

    /// Whether a watcher whose range holds the record's key wants the record and has not got it.
    fn needs(&self, watch_id: i64, record: &Record) -> bool {
        self.watchers.get(&watch_id).is_some_and(|watcher| match watcher.state {
            WatcherState::Live { .. } => false,
            WatcherState::CatchingUp { next_revision, .. } => {
                next_revision <= record.rev.main
                    && (wants(&watcher.create, record) || sabotage!(WatchHistoryUnfiltered))
            }
        })
    }

    /// Makes the watchers live that have got everything before `next_revision`, unless more was published meanwhile.
    fn go_live(&mut self, next_revision: Revision) {
        loop {
            let ready = self.behind.range((next_revision, i64::MIN)..=(next_revision, i64::MAX));
            let watchers: Vec<(i64, Arc<WatchCreate>)> = ready
                .take(WATCHERS_PER_LOCK)
                .filter_map(|(_, watch_id)| Some((*watch_id, self.watchers.get(watch_id)?.create.clone())))
                .collect();
            if watchers.is_empty() {
                return;
            }
            let Some(tokens) = self.hub.go_live(&self.inbox, next_revision, &watchers) else { return };
            for ((watch_id, create), token) in watchers.into_iter().zip(tokens) {
                self.behind.remove(&(next_revision, watch_id));
                self.catching_up.remove(&create.range, watch_id);
                if let Some(watcher) = self.watchers.get_mut(&watch_id) {
                    watcher.state = WatcherState::Live { token };
                }
            }
        }
    }

    /// Answers the progress requests that are due, if it is true that nothing of the published revision waits.
    ///
    /// INVARIANT(watch-bookmark): progress is said only of a revision of which nothing waits, in the queues or before them.
    fn answer_progress(&mut self) {
        debug_assert!(self.behind.is_empty(), "history comes before answers");
        let (revision, pending) = self.hub.published_and_pending(&self.inbox);
        if !pending.is_empty() && !sabotage!(WatchProgressAhead) {
            return;
        }
        let due = std::mem::take(&mut self.progress_due);
        let starts_later = |watcher: &Watcher| watcher.create.start_revision > revision;
        if self.watchers.is_empty() || self.watchers.values().any(starts_later) {
            return;
        }
        for _ in 0..due {
            self.say(WatchMessage::Progress { watch_id: -1, revision });
        }
    }

    fn next_notify(&self) -> Instant {
        let interval = self.hub.options.progress_interval;
        Instant::now() + interval + (self.hub.progress_jitter)(interval)
    }

    /// Tells each watcher that asked for it and had no events since the last time that it has missed nothing.
    fn notify_progress(&mut self) {
        let (revision, pending) = self.hub.published_and_pending(&self.inbox);
        let pending: BTreeSet<i64> = pending.into_iter().collect();
        let mut listeners = 0;
        for (watch_id, watcher) in self.watchers.iter_mut().filter(|(_, watcher)| watcher.create.progress_notify) {
            listeners += 1;
            let was_quiet = std::mem::replace(&mut watcher.quiet, true);
            let synced = sabotage!(WatchNotifyAhead)
                || match watcher.state {
                    WatcherState::Live { .. } => {
                        !pending.contains(watch_id) && watcher.create.start_revision <= revision
                    }
                    WatcherState::CatchingUp { .. } => false,
                };
            if was_quiet && synced {
                self.outbox.push_back(Outgoing::Ready(WatchMessage::Progress { watch_id: *watch_id, revision }));
            }
        }
        self.notify_at = (listeners > 0).then(|| self.next_notify());
    }

    /// Looks up what a message still lacks.
    fn finish(&mut self, outgoing: Outgoing) -> Result<WatchMessage, Error> {
        let (watch_id, revision, records) = match outgoing {
            Outgoing::Ready(message) => return Ok(message),
            Outgoing::Events { watch_id, revision, records } => (watch_id, revision, records),
        };
        let mut prev_kv = false;
        if let Some(watcher) = self.watchers.get_mut(&watch_id) {
            watcher.quiet = false;
            prev_kv = watcher.create.prev_kv;
        }
        let mut events = Vec::with_capacity(records.len());
        for record in records {
            let prev_kv = if prev_kv { self.previous(&record)? } else { None };
            events.push(WatchEvent { record: Arc::unwrap_or_clone(record), prev_kv });
        }
        self.hub.figures.delivered(events.len());
        Ok(WatchMessage::Events { watch_id, revision, events })
    }

    /// What was there at the revision before the record's; nothing if that revision was compacted.
    fn previous(&self, record: &Record) -> Result<Option<KeyValue>, Error> {
        if sabotage!(WatchPrevKvIsNew) && record.replaces.is_some() {
            return Ok(record.key_value());
        }
        match record.replaces {
            Some(replaced) if record.rev.main > self.hub.history.compacted() && !sabotage!(WatchPrevKvMissing) => {
                Ok(self.hub.history.previous(replaced)?.and_then(|record| record.key_value()))
            }
            Some(_) | None => Ok(None),
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let live = self.watchers.values().filter_map(|watcher| match watcher.state {
            WatcherState::Live { token } => Some(token),
            WatcherState::CatchingUp { .. } => None,
        });
        self.hub.end_stream(self.id, &live.collect::<Vec<_>>());
        self.inbox.close();
    }
}
