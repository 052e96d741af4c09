//! The hub: from a published change to the queues of the watchers that want it.

use super::figures::Counted;
use super::inbox::Inbox;
use super::index::Index;
use super::{History, ProgressJitter, WatchControl, WatchCreate, WatchFigures, WatchOptions, WatchStream};
use parking_lot::Mutex;
use quorate_core::{Change, Record, Revision};
use quorate_sabotage::sabotage;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One group's watchers. A cheap handle: clones share the hub.
#[derive(Clone)]
pub struct WatchHub {
    shared: Arc<Shared>,
}

impl WatchHub {
    /// A hub of a store whose newest visible revision is `published`.
    pub fn new(
        published: Revision,
        history: Arc<dyn History>,
        options: WatchOptions,
        progress_jitter: ProgressJitter,
    ) -> Self {
        let state = State {
            published,
            index: Index::new(),
            live: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            next_token: 0,
            closed: false,
            matches: Vec::new(),
        };
        let (options, figures) = (Arc::new(options), Arc::default());
        Self { shared: Arc::new(Shared { state: Mutex::new(state), history, options, progress_jitter, figures }) }
    }

    /// Tells of changes: all records of all revisions after the last published one, up to `revision`, in order. Readers
    /// must see them already. Called by one thread. What is not newer than the last published revision is ignored.
    pub fn publish(&self, revision: Revision, records: &[Record]) {
        let mut state = self.shared.state.lock();
        if revision <= state.published {
            return;
        }
        let continues = records.first().is_some_and(|record| record.rev.main == state.published.next());
        if !continues {
            state.send_to_history(revision);
        }
        state.published = revision;
        if continues && !state.live.is_empty() {
            state.fan_out(records);
        }
    }

    /// Tells that the store is at `revision` now without having gone through the changes one by one (it was replaced by
    /// a snapshot): live watchers read history. Readers must see the new state already.
    pub fn advance(&self, revision: Revision) {
        if sabotage!(WatchSnapshotGap) {
            let mut state = self.shared.state.lock();
            state.published = state.published.max(revision);
            return;
        }
        self.publish(revision, &[]);
    }

    /// The last revision that was published.
    pub fn published(&self) -> Revision {
        self.shared.published()
    }

    /// Opens a stream.
    pub fn stream(&self) -> (WatchControl, WatchStream) {
        let inbox = Arc::new(Inbox::new(self.shared.options.clone(), self.shared.figures.clone()));
        let mut state = self.shared.state.lock();
        let stream_id = state.take_token();
        if state.closed {
            inbox.close();
        } else {
            state.inboxes.insert(stream_id, inbox.clone());
        }
        drop(state);
        (WatchControl::new(inbox.clone()), WatchStream::new(self.shared.clone(), inbox, stream_id))
    }

    /// Ends all streams, also those that are opened later.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.index = Index::new();
        state.live.clear();
        for inbox in std::mem::take(&mut state.inboxes).into_values() {
            inbox.close();
        }
    }

    /// What the hub counts.
    pub fn figures(&self) -> &WatchFigures {
        &self.shared.figures
    }
}

/// Names a stream, or one stay of a watcher in the index. Never used twice, so that a late removal hits nobody else.
pub(super) type Token = u64;

/// How many watchers come or go under one hold of the hub's lock, so that publishing does not wait for thousands.
pub(super) const WATCHERS_PER_LOCK: usize = 256;

/// Room that is kept for the matches of a batch, so that one huge batch does not cost memory for ever.
const MATCHES_KEPT: usize = 4096;

/// The hub, as streams see it.
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) history: Arc<dyn History>,
    pub(super) options: Arc<WatchOptions>,
    pub(super) progress_jitter: ProgressJitter,
    pub(super) figures: Arc<WatchFigures>,
}

struct State {
    published: Revision,
    index: Index<Token>,
    /// Everyone in the index. Ordered, so that one history of calls wakes streams in one order.
    live: BTreeMap<Token, Live>,
    inboxes: BTreeMap<Token, Arc<Inbox>>,
    next_token: Token,
    closed: bool,
    /// Who gets which record of a batch: kept for its memory, empty between batches.
    matches: Vec<(Token, usize)>,
}

/// A live watcher. One that starts in the future is live too: it does not want what comes before its start.
struct Live {
    watch_id: i64,
    create: Arc<WatchCreate>,
    inbox: Arc<Inbox>,
}

impl Shared {
    pub(super) fn published(&self) -> Revision {
        self.state.lock().published
    }

    /// The published revision, and the watchers of the stream for which something of it still waits: both of one moment.
    pub(super) fn published_and_pending(&self, inbox: &Inbox) -> (Revision, Vec<i64>) {
        let state = self.state.lock();
        (state.published, inbox.pending())
    }

    /// Admits a watcher, and makes it live unless it starts in the past. Returns the revision that is current at this
    /// moment: a watcher that is live gets everything after it.
    pub(super) fn admit(
        &self,
        inbox: &Arc<Inbox>,
        watch_id: i64,
        create: &Arc<WatchCreate>,
    ) -> Result<Admission, HubFull> {
        let mut state = self.state.lock();
        if self.figures.watchers() >= self.options.hub_watchers_max as u64 {
            return Err(HubFull);
        }
        let published = state.published;
        let from_now = create.start_revision == Revision::ZERO || create.start_revision > published;
        let live = from_now.then(|| state.go_live(inbox, watch_id, create));
        Ok(Admission { published, live, counted: Counted::watcher(&self.figures) })
    }

    /// Makes watchers live that have got everything before `next_revision`, if nothing was published since. Returns
    /// their places in the index, in order.
    pub(super) fn go_live(
        &self,
        inbox: &Arc<Inbox>,
        next_revision: Revision,
        watchers: &[(i64, Arc<WatchCreate>)],
    ) -> Option<Vec<Token>> {
        let mut state = self.state.lock();
        // INVARIANT(watch-no-gap): a watcher goes live exactly at the next revision to be published.
        if state.published.next() != next_revision && !sabotage!(WatchGapAtLive) {
            return None;
        }
        Some(watchers.iter().map(|(watch_id, create)| state.go_live(inbox, *watch_id, create)).collect())
    }

    /// Takes a live watcher out, with what waits for it.
    pub(super) fn leave(&self, inbox: &Inbox, watch_id: i64, token: Token) {
        let mut state = self.state.lock();
        state.forget(token);
        inbox.shut(watch_id);
    }

    /// Takes a stream out that is dropped, with its live watchers.
    pub(super) fn end_stream(&self, stream_id: Token, live: &[Token]) {
        self.state.lock().inboxes.remove(&stream_id);
        for tokens in live.chunks(WATCHERS_PER_LOCK) {
            let mut state = self.state.lock();
            tokens.iter().for_each(|token| state.forget(*token));
        }
    }
}

/// A watcher that was let in.
pub(super) struct Admission {
    pub(super) published: Revision,
    /// Its place in the index; `None` if it starts in the past.
    pub(super) live: Option<Token>,
    pub(super) counted: Counted,
}

/// There are as many watchers as there may be.
pub(super) struct HubFull;

impl State {
    fn take_token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    fn go_live(&mut self, inbox: &Arc<Inbox>, watch_id: i64, create: &Arc<WatchCreate>) -> Token {
        let token = self.take_token();
        // A stream that was closed meanwhile stays out, so that nobody has to look for it later.
        if !self.closed {
            inbox.open(watch_id);
            self.index.insert(&create.range, token);
            self.live.insert(token, Live { watch_id, create: create.clone(), inbox: inbox.clone() });
        }
        token
    }

    fn forget(&mut self, token: Token) {
        if let Some(live) = self.live.remove(&token) {
            self.index.remove(&live.create.range, token);
        }
    }

    /// Puts each record into the queues of those who want it.
    ///
    /// INVARIANT(watch-atomic): a watcher gets all of the batch at once, because its stream must never see half a
    /// revision.
    fn fan_out(&mut self, records: &[Record]) {
        let Self { index, live, matches, .. } = self;
        for (place, record) in records.iter().enumerate() {
            index.matches(&record.key, &mut |token| {
                if live.get(&token).is_some_and(|live| wants(&live.create, record)) {
                    matches.push((token, place));
                }
            });
        }
        if matches.is_empty() {
            return;
        }
        matches.sort_unstable();

        let mut shared: Vec<Option<Arc<Record>>> = vec![None; records.len()];
        let mut batch = Vec::new();
        let mut overflowed = Vec::new();
        for group in matches.chunk_by(|a, b| a.0 == b.0) {
            let token = group[0].0;
            batch.clear();
            batch.extend(
                group
                    .iter()
                    .map(|(_, place)| shared[*place].get_or_insert_with(|| Arc::new(records[*place].clone())).clone()),
            );
            if let Some(live) = live.get(&token)
                && !live.inbox.deliver(live.watch_id, &batch)
            {
                overflowed.push(token);
            }
        }
        matches.clear();
        matches.shrink_to(MATCHES_KEPT);
        overflowed.into_iter().for_each(|token| self.forget(token));
    }

    /// Makes every live watcher read history that starts at or before `to`.
    fn send_to_history(&mut self, to: Revision) {
        let next = self.published.next();
        let behind: Vec<Token> =
            self.live.iter().filter(|(_, live)| live.create.start_revision <= to).map(|(token, _)| *token).collect();
        for token in behind {
            if let Some(live) = self.live.get(&token) {
                live.inbox.send_to_history(live.watch_id, next.max(live.create.start_revision));
            }
            self.forget(token);
        }
    }
}

/// Whether a watcher whose range holds the record's key wants the record.
pub(super) fn wants(create: &WatchCreate, record: &Record) -> bool {
    let filtered = match record.change {
        Change::Put { .. } => create.no_put,
        Change::Delete => create.no_delete,
    };
    !filtered && record.rev.main >= create.start_revision
}
