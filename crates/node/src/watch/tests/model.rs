//! Random histories against etcd's watch guarantees. The [`Checker`] knows the whole log and judges each message when it
//! comes.

use super::store::{Race, Store};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Judges what one stream says.
pub(super) struct Checker {
    store: Arc<Store>,
    requested: VecDeque<WatchCreate>,
    watchers: BTreeMap<i64, Watched>,
    /// Cancels that were asked for; those of unknown ids are never answered.
    canceling: Vec<i64>,
    /// Cancels of watchers that were there: they must be answered.
    ending: BTreeSet<i64>,
    pub(super) events: usize,
}

struct Watched {
    create: WatchCreate,
    /// The first revision that it wants.
    start: Revision,
    /// Up to here everything was told.
    told: Revision,
}

impl Watched {
    /// What it must be told up to `revision`, beyond what it was told.
    fn owed(&self, store: &Store, revision: Revision) -> Vec<Record> {
        let from = self.start.max(self.told.next());
        let wanted = |record: &Record| {
            let filtered = match record.change {
                Change::Put { .. } => self.create.no_put,
                Change::Delete => self.create.no_delete,
            };
            !filtered && self.create.range.contains(&record.key)
        };
        store.log(from, revision).into_iter().filter(wanted).collect()
    }
}

impl Checker {
    pub(super) fn new(store: &Arc<Store>) -> Self {
        Self {
            store: store.clone(),
            requested: VecDeque::new(),
            watchers: BTreeMap::new(),
            canceling: Vec::new(),
            ending: BTreeSet::new(),
            events: 0,
        }
    }

    pub(super) fn create(&mut self, control: &WatchControl, create: WatchCreate) {
        self.requested.push_back(create.clone());
        control.create(create);
    }

    fn cancel(&mut self, control: &WatchControl, watch_id: i64) {
        self.canceling.push(watch_id);
        if self.watchers.contains_key(&watch_id) {
            self.ending.insert(watch_id);
        }
        control.cancel(watch_id);
    }

    pub(super) fn hear(&mut self, message: WatchMessage) {
        match message {
            WatchMessage::Created { watch_id, revision } => self.created(watch_id, revision),
            WatchMessage::Refused { reason, .. } => self.refused(reason),
            WatchMessage::Events { watch_id, revision, events } => self.told(watch_id, revision, &events),
            WatchMessage::Progress { watch_id: -1, revision } => {
                assert!(!self.watchers.is_empty());
                self.watchers.values_mut().for_each(|watched| progress(&self.store, watched, revision));
            }
            WatchMessage::Progress { watch_id, revision } => {
                let watched = self.watchers.get_mut(&watch_id).expect("progress of a watcher that is there");
                assert!(watched.create.progress_notify);
                progress(&self.store, watched, revision);
            }
            WatchMessage::Canceled { watch_id, revision, compact_revision } => {
                let watched = self.watchers.remove(&watch_id).expect("the end of a watcher that is there");
                self.ending.remove(&watch_id);
                if compact_revision == Revision::ZERO {
                    let place = self.canceling.iter().position(|id| *id == watch_id).expect("somebody asked for it");
                    self.canceling.remove(place);
                    assert!(revision > Revision::ZERO);
                } else {
                    assert_eq!(revision, Revision::ZERO);
                    assert!(compact_revision <= self.store.compacted());
                    assert!(watched.start.max(watched.told.next()) < compact_revision, "canceled without need");
                }
            }
        }
    }

    fn created(&mut self, watch_id: i64, revision: Revision) {
        let create = self.requested.pop_front().expect("an answer to a request");
        assert!(revision <= self.store.revision());
        if create.watch_id == 0 {
            assert!(watch_id >= 0);
        } else {
            assert_eq!(watch_id, create.watch_id);
        }
        let start = if create.start_revision == Revision::ZERO { revision.next() } else { create.start_revision };
        let watched = Watched { create, start, told: Revision::ZERO };
        assert!(self.watchers.insert(watch_id, watched).is_none(), "an id that is in use");
    }

    fn refused(&mut self, reason: &str) {
        let create = self.requested.pop_front().expect("an answer to a request");
        let expected = if create.start_revision < Revision::ZERO {
            "etcdserver: mvcc: required revision has been compacted"
        } else if create.range.is_empty() {
            "mvcc: watcher range is empty"
        } else {
            assert!(self.watchers.contains_key(&create.watch_id));
            "mvcc: duplicate watch ID provided on the WatchStream"
        };
        assert_eq!(reason, expected);
    }

    fn told(&mut self, watch_id: i64, revision: Revision, events: &[WatchEvent]) {
        let watched = self.watchers.get_mut(&watch_id).expect("events of a watcher that is there");
        let records: Vec<Record> = events.iter().map(|event| event.record.clone()).collect();
        assert!(!records.is_empty());
        assert!(records.last().is_some_and(|record| record.rev.main <= revision));
        // Ordered, unique, reliable and atomic in one: exactly what is owed, and never again anything up to here.
        assert_eq!(records, watched.owed(&self.store, revision));
        watched.told = revision;
        self.events += records.len();
        for event in events {
            check_prev_kv(&self.store, watched.create.prev_kv, event);
        }
    }

    /// Nothing is owed, nothing is unanswered.
    pub(super) fn finish(&self) {
        assert!(self.requested.is_empty());
        for (watch_id, watched) in &self.watchers {
            assert_eq!(watched.owed(&self.store, self.store.revision()), Vec::new(), "watcher {watch_id}");
        }
        assert!(self.ending.is_empty());
    }

    /// Whether a progress request must be answered when everything is delivered.
    pub(super) fn progress_is_due(&self) -> bool {
        let revision = self.store.revision();
        !self.watchers.is_empty() && self.watchers.values().all(|watched| watched.create.start_revision <= revision)
    }
}

fn progress(store: &Store, watched: &mut Watched, revision: Revision) {
    assert!(revision >= watched.create.start_revision, "progress before the start");
    assert!(revision >= watched.told, "progress goes back");
    assert_eq!(watched.owed(store, revision), Vec::new(), "progress runs ahead");
    watched.told = revision;
}

fn check_prev_kv(store: &Store, wanted: bool, event: &WatchEvent) {
    let before = event.record.replaces.filter(|_| wanted).and_then(|rev| store.logged(rev)?.key_value());
    if event.prev_kv.is_some() || event.record.rev.main > store.compacted() {
        assert_eq!(event.prev_kv, before);
    }
}

#[derive(Clone, Debug)]
enum Action {
    Txn(String),
    Publish,
    Jump,
    Compact(i64),
    Race(Race),
    Create(usize, WatchCreate, i64),
    Cancel(usize, i64),
    Progress(usize),
    Read(usize, usize),
    Pass(u64),
    Reopen(usize),
}

fn txn() -> impl Strategy<Value = String> {
    let op = prop_oneof![
        3 => (0..5u8, 0..9u8).prop_map(|(key, value)| format!("{}={value}", char::from(b'a' + key))),
        1 => (0..5u8).prop_map(|key| format!("-{}", char::from(b'a' + key))),
    ];
    proptest::collection::vec(op, 1..5).prop_map(|mut ops| {
        // A key changes once in a revision.
        let mut keys = BTreeSet::new();
        ops.retain(|op| keys.insert(op.trim_start_matches('-').chars().next()));
        ops.join(" ")
    })
}

fn watch_create() -> impl Strategy<Value = WatchCreate> {
    let range = prop_oneof![
        Just("a"),
        Just("b"),
        Just("e"),
        Just("a..c"),
        Just("b..d"),
        Just("a.."),
        Just("c.."),
        Just("c..b"),
    ];
    let flags = any::<(bool, bool, bool)>();
    (range, prop_oneof![4 => Just(0), 1 => 1..4i64], flags, 0..12u8).prop_map(|(range, id, flags, filter)| {
        let (progress_notify, prev_kv, _) = flags;
        let (no_put, no_delete) = (filter == 0, filter == 1);
        WatchCreate { watch_id: id, progress_notify, prev_kv, no_put, no_delete, ..create(range, 0) }
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => txn().prop_map(Action::Txn),
        6 => Just(Action::Publish),
        1 => Just(Action::Jump),
        1 => (0..8i64).prop_map(Action::Compact),
        3 => txn().prop_map(|ops| Action::Race(Race::Txn(ops))),
        1 => (0..6i64).prop_map(|below| Action::Race(Race::Compact(below))),
        5 => (0..2usize, watch_create(), -3..12i64).prop_map(|(stream, create, age)| Action::Create(stream, create, age)),
        1 => (0..2usize, 0..4i64).prop_map(|(stream, id)| Action::Cancel(stream, id)),
        2 => (0..2usize).prop_map(Action::Progress),
        8 => (0..2usize, 1..6usize).prop_map(|(stream, count)| Action::Read(stream, count)),
        1 => (1..12u64).prop_map(Action::Pass),
        1 => (0..2usize).prop_map(Action::Reopen),
    ]
}

fn options() -> impl Strategy<Value = WatchOptions> {
    (1..6usize, 1..5usize, prop_oneof![Just(1usize), Just(300), Just(1 << 20)], 1..8usize).prop_map(
        |(events, revisions, bytes, hub_events)| WatchOptions {
            progress_interval: Duration::from_secs(5),
            queue_events_max: events,
            hub_queue_bytes_max: hub_events * 2 * size_of::<Record>(),
            message_revisions_max: revisions,
            message_bytes_max: bytes,
            ..WatchOptions::default()
        },
    )
}

struct Stream {
    control: WatchControl,
    stream: WatchStream,
    checker: Checker,
}

impl Stream {
    fn open(hub: &WatchHub, store: &Arc<Store>) -> Self {
        let (control, stream) = hub.stream();
        Self { control, stream, checker: Checker::new(store) }
    }

    async fn read(&mut self, count: usize) -> usize {
        for heard in 0..count {
            let Some(message) = try_next(&mut self.stream).await else { return heard };
            self.checker.hear(message);
        }
        count
    }
}

async fn run(options: WatchOptions, actions: Vec<Action>) {
    let (store, hub) = store_and_hub(options);
    let mut streams = [Stream::open(&hub, &store), Stream::open(&hub, &store)];
    for action in actions {
        match action {
            Action::Txn(ops) => store.txn(&ops),
            Action::Publish => store.publish(),
            Action::Jump => {
                hub.advance(store.revision());
                store.skip_published();
            }
            Action::Compact(below) => store.compact(store.revision().get() - below),
            Action::Race(race) => store.race(race),
            Action::Create(place, create, age) => {
                // Now, in the past, in the future, or (rarely) before the beginning.
                let start_revision = match age {
                    0 | 1 => Revision::ZERO,
                    age => Revision::new(store.revision().get() - age + 1),
                };
                let Stream { control, checker, .. } = &mut streams[place];
                checker.create(control, WatchCreate { start_revision, ..create });
            }
            Action::Cancel(place, id) => {
                let Stream { control, checker, .. } = &mut streams[place];
                checker.cancel(control, id);
            }
            Action::Progress(place) => streams[place].control.request_progress(),
            Action::Read(place, count) => {
                streams[place].read(count).await;
            }
            Action::Pass(seconds) => advance(Duration::from_secs(seconds)).await,
            Action::Reopen(place) => streams[place] = Stream::open(&hub, &store),
        }
    }

    store.publish();
    // Reading runs the races that are left, which publish again: until nobody has anything.
    while streams[0].read(usize::MAX).await + streams[1].read(usize::MAX).await > 0 {}
    for stream in &mut streams {
        stream.checker.finish();
        stream.control.request_progress();
        let answer = try_next(&mut stream.stream).await;
        let expected = stream.checker.progress_is_due();
        let revision = store.revision();
        assert_eq!(answer, expected.then_some(WatchMessage::Progress { watch_id: -1, revision }));
    }
    drop(streams);
    let figures = hub.figures();
    assert_eq!([figures.watchers(), figures.streams(), figures.slow_watchers(), figures.pending_bytes()], [0; 4]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn watches_keep_their_guarantees(
        options in options(),
        actions in proptest::collection::vec(action(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(run(options, actions));
    }
}
