//! Transcripts of one stream: `check` drains it and compares what it said.

mod model;
mod store;
mod stress;

use self::store::Store;
use super::*;
use bytes::Bytes;
use expect_test::{Expect, expect};
use quorate_core::{Change, KeyRange, KeyValue};
use std::fmt::Write as _;
use tokio::time::{Instant, advance, timeout};

/// A store, its hub, and one stream.
struct Bed {
    store: Arc<Store>,
    hub: WatchHub,
    control: WatchControl,
    stream: WatchStream,
}

fn store_and_hub(options: WatchOptions) -> (Arc<Store>, WatchHub) {
    let store = Arc::new(Store::new());
    let hub = WatchHub::new(store.revision(), store.clone(), options, Arc::new(|interval| interval / 10));
    store.attach(&hub);
    (store, hub)
}

fn bed(options: WatchOptions) -> Bed {
    let (store, hub) = store_and_hub(options);
    let (control, stream) = hub.stream();
    Bed { store, hub, control, stream }
}

impl Bed {
    /// Commits and publishes one transaction: `a=1` is a put, `-a` a delete.
    fn txn(&self, ops: &str) {
        self.store.txn(ops);
        self.store.publish();
    }

    async fn check(&mut self, expected: Expect) {
        expected.assert_eq(&drain(&mut self.stream).await);
    }
}

/// What to watch: a key, `a..c`, or `a..` without an end; from which revision on.
fn create(range: &str, start_revision: i64) -> WatchCreate {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let range = match range.split_once("..") {
        None => KeyRange::Single(bytes(range)),
        Some((start, "")) => KeyRange::From { start: bytes(start) },
        Some((start, end)) => KeyRange::Interval { start: bytes(start), end: bytes(end) },
    };
    WatchCreate {
        watch_id: 0,
        range,
        start_revision: Revision::new(start_revision),
        progress_notify: false,
        no_put: false,
        no_delete: false,
        prev_kv: false,
    }
}

/// The next message, if one comes without waiting.
async fn try_next(stream: &mut WatchStream) -> Option<WatchMessage> {
    // Time stands still until everyone waits, so this gives up exactly when the stream waits.
    timeout(Duration::from_nanos(1), stream.next()).await.ok().flatten()
}

async fn drain(stream: &mut WatchStream) -> String {
    let mut lines = String::new();
    while let Some(message) = try_next(stream).await {
        writeln!(lines, "{}", line(&message)).expect("a string takes everything");
    }
    lines
}

fn line(message: &WatchMessage) -> String {
    match message {
        WatchMessage::Created { watch_id, revision } => format!("{watch_id} created @{revision}"),
        WatchMessage::Refused { revision, reason } => format!("refused @{revision}: {reason}"),
        WatchMessage::Events { watch_id, revision, events } => {
            let events: Vec<String> = events.iter().map(event).collect();
            format!("{watch_id} events @{revision}: {}", events.join(", "))
        }
        WatchMessage::Progress { watch_id, revision } => format!("{watch_id} progress @{revision}"),
        WatchMessage::Canceled { watch_id, revision, compact_revision } => {
            format!("{watch_id} canceled @{revision} compacted {compact_revision}")
        }
    }
}

fn event(event: &WatchEvent) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let key = text(&event.record.key);
    let change = match &event.record.change {
        Change::Put { value, .. } => format!("{key}={}", text(value)),
        Change::Delete => format!("-{key}"),
    };
    let before = event.prev_kv.as_ref().map_or(String::new(), |prev: &KeyValue| format!(" was {}", text(&prev.value)));
    format!("{change}#{}{before}", event.record.rev)
}

#[tokio::test(start_paused = true)]
async fn from_now_sees_what_comes_after_the_answer() {
    let mut bed = bed(WatchOptions::default());
    bed.txn("a=1");
    bed.control.create(create("a", 0));
    bed.control.create(create("b..d", 0));
    bed.check(expect![[r#"
        0 created @2
        1 created @2
    "#]])
        .await;
    bed.txn("a=2 b=1 d=1");
    bed.txn("c=1 -b");
    bed.txn("e=1");
    bed.check(expect![[r#"
        0 events @3: a=2#3.0
        1 events @4: b=1#3.1, c=1#4.0, -b#4.1
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn from_the_past_goes_on_without_seam() {
    let mut bed = bed(WatchOptions { message_revisions_max: 2, ..WatchOptions::default() });
    for value in 1..=5 {
        bed.txn(&format!("a={value} b={value}"));
    }
    bed.control.create(create("a", 3));
    bed.control.create(create("..", 5));
    bed.check(expect![[r#"
        0 created @6
        1 created @6
        0 events @4: a=2#3.0, a=3#4.0
        0 events @6: a=4#5.0, a=5#6.0
        1 events @6: a=4#5.0, b=4#5.1, a=5#6.0, b=5#6.1
    "#]])
        .await;
    bed.txn("a=6 b=6");
    bed.check(expect![[r#"
        0 events @7: a=6#7.0
        1 events @7: a=6#7.0, b=6#7.1
    "#]])
        .await;
    assert_eq!(bed.hub.figures().slow_watchers(), 0);
}

#[tokio::test(start_paused = true)]
async fn from_the_future_sees_nothing_earlier() {
    let mut bed = bed(WatchOptions::default());
    bed.control.create(create("a", 4));
    bed.txn("a=1");
    bed.control.request_progress();
    bed.check(expect![[r#"
        0 created @2
    "#]])
        .await;
    bed.txn("a=2");
    bed.control.request_progress();
    bed.check(expect![""]).await;
    bed.txn("a=3");
    bed.control.request_progress();
    bed.check(expect![[r#"
        0 events @4: a=3#4.0
        -1 progress @4
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused() {
    let mut bed = bed(WatchOptions::default());
    bed.control.create(create("a", -1));
    bed.control.create(create("b..b", 0));
    bed.control.create(WatchCreate { watch_id: 1, ..create("a", 0) });
    bed.control.create(WatchCreate { watch_id: 1, ..create("b", 0) });
    bed.control.create(create("c", 0));
    bed.control.create(create("d", 0));
    bed.check(expect![[r#"
        refused @1: etcdserver: mvcc: required revision has been compacted
        refused @1: mvcc: watcher range is empty
        1 created @1
        refused @1: mvcc: duplicate watch ID provided on the WatchStream
        0 created @1
        2 created @1
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn canceled_is_silent_and_its_id_is_free() {
    let mut bed = bed(WatchOptions::default());
    bed.control.create(create("a", 0));
    bed.control.create(create("a", 0));
    bed.check(expect![[r#"
        0 created @1
        1 created @1
    "#]])
        .await;
    bed.txn("a=1");
    bed.control.cancel(1);
    bed.control.cancel(7);
    bed.control.create(WatchCreate { watch_id: 1, ..create("b", 0) });
    bed.txn("a=2 b=2");
    bed.check(expect![[r#"
        1 canceled @3 compacted 0
        1 created @3
        0 events @3: a=1#2.0, a=2#3.0
    "#]])
        .await;
    bed.txn("a=3 b=3");
    bed.check(expect![[r#"
        0 events @4: a=3#4.0
        1 events @4: b=3#4.1
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn filters_leave_no_empty_messages() {
    let mut bed = bed(WatchOptions::default());
    bed.txn("a=1");
    bed.txn("-a");
    bed.control.create(WatchCreate { no_put: true, ..create("a", 0) });
    bed.control.create(WatchCreate { no_delete: true, ..create("a", 1) });
    bed.control.create(WatchCreate { no_put: true, no_delete: true, ..create("a", 1) });
    bed.check(expect![[r#"
        0 created @3
        1 created @3
        2 created @3
        1 events @3: a=1#2.0
    "#]])
        .await;
    bed.txn("a=2");
    bed.check(expect![[r#"
        1 events @4: a=2#4.0
    "#]])
        .await;
    bed.txn("-a");
    bed.check(expect![[r#"
        0 events @5: -a#5.0
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn prev_kv_is_what_was_there_unless_compacted() {
    let mut bed = bed(WatchOptions::default());
    bed.txn("a=1");
    bed.control.create(WatchCreate { prev_kv: true, ..create("a", 1) });
    bed.txn("a=2");
    bed.txn("-a");
    bed.txn("a=3");
    bed.check(expect![[r#"
        0 created @5
        0 events @5: a=1#2.0, a=2#3.0 was 1, -a#4.0 was 2, a=3#5.0
    "#]])
        .await;
    bed.txn("a=4");
    bed.txn("a=5");
    bed.store.compact(6);
    bed.check(expect![[r#"
        0 events @7: a=4#6.0, a=5#7.0 was 4
    "#]])
        .await;
    // The same if what was there is not deleted yet.
    bed.txn("a=6");
    bed.txn("a=7");
    bed.store.compact_later(8);
    bed.check(expect![[r#"
        0 events @9: a=6#8.0, a=7#9.0 was 6
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn start_before_compaction_is_created_then_canceled() {
    let mut bed = bed(WatchOptions::default());
    for value in 1..=4 {
        bed.txn(&format!("a={value}"));
    }
    bed.store.compact(4);
    bed.control.create(create("a", 3));
    bed.control.create(create("a", 4));
    bed.check(expect![[r#"
        0 created @5
        1 created @5
        0 canceled @0 compacted 4
        1 events @5: a=3#4.0, a=4#5.0
    "#]])
        .await;
    assert_eq!(bed.hub.figures().watchers(), 1);
}

#[tokio::test(start_paused = true)]
async fn overflow_reads_history_and_compaction_overtakes() {
    let mut bed = bed(WatchOptions { queue_events_max: 2, ..WatchOptions::default() });
    bed.control.create(create("a", 0));
    bed.check(expect![[r#"
        0 created @1
    "#]])
        .await;
    bed.txn("a=1");
    bed.txn("a=2");
    assert_eq!(bed.hub.figures().pending_events(), 2);
    bed.txn("a=3");
    let figures = bed.hub.figures();
    assert_eq!((figures.slow_watchers(), figures.overflows_total(), figures.pending_events()), (1, 1, 0));
    bed.check(expect![[r#"
        0 events @4: a=1#2.0, a=2#3.0, a=3#4.0
    "#]])
        .await;
    assert_eq!(bed.hub.figures().slow_watchers(), 0);

    // One revision that is larger than the queue goes through history, whole.
    bed.txn("a=4");
    bed.control.create(create("..", 0));
    bed.txn("a=5 b=5 c=5");
    bed.check(expect![[r#"
        1 created @6
        0 events @6: a=4#5.0, a=5#6.0
    "#]])
        .await;
    bed.txn("a=6 b=6 c=6");
    bed.check(expect![[r#"
        0 events @7: a=6#7.0
        1 events @7: a=6#7.0, b=6#7.1, c=6#7.2
    "#]])
        .await;

    // Too slow for the history that is kept.
    for value in 7..=9 {
        bed.txn(&format!("a={value}"));
    }
    bed.store.compact(9);
    bed.check(expect![[r#"
        0 canceled @0 compacted 9
        1 canceled @0 compacted 9
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_bound_the_queue_and_the_hub() {
    let event_bytes = size_of::<Record>() + 2;
    for options in [
        WatchOptions { queue_bytes_max: 2 * event_bytes, ..WatchOptions::default() },
        WatchOptions { hub_queue_bytes_max: 2 * event_bytes, ..WatchOptions::default() },
    ] {
        let mut bed = bed(options);
        bed.control.create(create("a", 0));
        assert_eq!(drain(&mut bed.stream).await, "0 created @1\n");
        bed.txn("a=1");
        bed.txn("a=2");
        assert_eq!(bed.hub.figures().overflows_total(), 0);
        assert_eq!(bed.hub.figures().pending_bytes(), 2 * event_bytes as u64);
        bed.txn("a=3");
        assert_eq!(bed.hub.figures().overflows_total(), 1);
        assert_eq!(bed.hub.figures().pending_bytes(), 0);
        assert_eq!(drain(&mut bed.stream).await, "0 events @4: a=1#2.0, a=2#3.0, a=3#4.0\n");
    }
}

#[tokio::test(start_paused = true)]
async fn progress_is_answered_behind_the_events() {
    let mut bed = bed(WatchOptions::default());
    bed.control.request_progress();
    bed.check(expect![""]).await;
    bed.control.create(create("a", 0));
    bed.control.request_progress();
    bed.control.request_progress();
    bed.check(expect![[r#"
        0 created @1
        -1 progress @1
        -1 progress @1
    "#]])
        .await;
    bed.txn("a=1");
    bed.control.request_progress();
    bed.txn("b=1");
    bed.check(expect![[r#"
        0 events @2: a=1#2.0
        -1 progress @3
    "#]])
        .await;
    // A watcher that is not synced silences the stream.
    bed.control.create(create("a", 2));
    bed.control.request_progress();
    bed.check(expect![[r#"
        1 created @3
        1 events @3: a=1#2.0
    "#]])
        .await;
    bed.control.request_progress();
    bed.check(expect![[r#"
        -1 progress @3
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn progress_comes_at_intervals_and_skips_one_after_events() {
    let interval = Duration::from_secs(10);
    let options = WatchOptions { progress_interval: interval, ..WatchOptions::default() };
    let mut bed = bed(options);
    bed.control.create(WatchCreate { progress_notify: true, ..create("a", 0) });
    bed.control.create(create("b", 0));
    bed.control.create(WatchCreate { progress_notify: true, ..create("b", 0) });
    bed.control.create(WatchCreate { progress_notify: true, ..create("b", 9) });
    bed.check(expect![[r#"
        0 created @1
        1 created @1
        2 created @1
        3 created @1
    "#]])
        .await;
    // It wakes by itself, at the interval and its jitter.
    let before = Instant::now();
    assert_eq!(bed.stream.next().await.as_ref().map(line).as_deref(), Some("0 progress @1"));
    let waited = before.elapsed();
    assert!(waited > interval && waited <= interval + interval / 10 + Duration::from_millis(2), "{waited:?}");
    bed.check(expect![[r#"
        2 progress @1
    "#]])
        .await;
    bed.txn("a=1");
    bed.check(expect![[r#"
        0 events @2: a=1#2.0
    "#]])
        .await;
    advance(Duration::from_secs(11)).await;
    bed.check(expect![[r#"
        2 progress @2
    "#]])
        .await;
    advance(Duration::from_secs(11)).await;
    bed.check(expect![[r#"
        0 progress @2
        2 progress @2
    "#]])
        .await;
    // Events that wait count as not synced.
    bed.txn("b=1");
    advance(Duration::from_secs(11)).await;
    bed.check(expect![[r#"
        0 progress @3
        1 events @3: b=1#3.0
        2 events @3: b=1#3.0
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn watchers_of_a_stream_take_turns() {
    let mut bed = bed(WatchOptions { message_revisions_max: 1, ..WatchOptions::default() });
    bed.control.create(create("a", 0));
    bed.control.create(create("a..c", 0));
    assert_eq!(drain(&mut bed.stream).await.lines().count(), 2);
    bed.txn("a=1");
    bed.txn("a=2");
    bed.txn("b=3");
    bed.check(expect![[r#"
        0 events @2: a=1#2.0
        1 events @2: a=1#2.0
        0 events @3: a=2#3.0
        1 events @3: a=2#3.0
        1 events @4: b=3#4.0
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn history_and_live_events_take_turns() {
    let mut bed = bed(WatchOptions { message_revisions_max: 1, ..WatchOptions::default() });
    for _ in 0..3 {
        bed.txn("a=1");
    }
    bed.control.create(create("b", 0));
    bed.control.create(create("a", 2));
    for _ in 0..2 {
        assert!(try_next(&mut bed.stream).await.is_some());
    }
    for _ in 0..3 {
        bed.txn("b=1");
    }
    bed.check(expect![[r#"
        0 events @5: b=1#5.0
        1 events @2: a=1#2.0
        0 events @6: b=1#6.0
        1 events @3: a=1#3.0
        0 events @7: b=1#7.0
        1 events @4: a=1#4.0
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_store_is_read_from_history() {
    let mut bed = bed(WatchOptions::default());
    bed.txn("a=1");
    bed.control.create(create("a", 0));
    bed.control.create(create("a", 5));
    bed.control.create(create("a", 9));
    assert_eq!(drain(&mut bed.stream).await.lines().count(), 3);
    bed.txn("a=2");
    for _ in 3..=5 {
        bed.store.txn("a=3");
    }
    bed.hub.advance(bed.store.revision());
    bed.check(expect![[r#"
        0 events @6: a=2#3.0, a=3#4.0, a=3#5.0, a=3#6.0
        1 events @6: a=3#5.0, a=3#6.0
    "#]])
        .await;
    bed.store.skip_published();
    for _ in 7..=9 {
        bed.txn("a=4");
    }
    bed.check(expect![[r#"
        0 events @9: a=4#7.0, a=4#8.0, a=4#9.0
        1 events @9: a=4#7.0, a=4#8.0, a=4#9.0
        2 events @9: a=4#9.0
    "#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn watchers_are_bounded() {
    let options = WatchOptions { stream_watchers_max: 2, hub_watchers_max: 3, ..WatchOptions::default() };
    let mut bed = bed(options);
    for _ in 0..3 {
        bed.control.create(create("a", 0));
    }
    bed.check(expect![[r#"
        0 created @1
        1 created @1
        refused @1: etcdserver: too many requests: too many watchers on this stream (--max-watchers-per-stream)
    "#]])
        .await;
    let (control, mut stream) = bed.hub.stream();
    control.create(create("a", 0));
    control.create(create("a", 0));
    let refused = "refused @1: etcdserver: too many requests: too many watchers on this member (--max-watchers)";
    assert_eq!(drain(&mut stream).await, format!("0 created @1\n{refused}\n"));
    drop(stream);
    assert_eq!((bed.hub.figures().watchers(), bed.hub.figures().streams()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn requests_are_bounded() {
    let mut bed = bed(WatchOptions { stream_requests_max: 2, ..WatchOptions::default() });
    bed.control.create(create("a", 0));
    bed.control.create(create("a", 0));
    assert!(timeout(Duration::from_secs(1), bed.control.ready()).await.is_err());
    // Progress is left unanswered at the bound.
    bed.control.request_progress();
    bed.check(expect![[r#"
        0 created @1
        1 created @1
    "#]])
        .await;
    // Room makes `ready` return.
    bed.control.create(create("a", 0));
    bed.control.create(create("a", 0));
    let control = bed.control.clone();
    let waiter = tokio::spawn(async move { control.ready().await });
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    assert!(bed.stream.next().await.is_some());
    waiter.await.expect("no panic");
    // Anything else that does not fit ends the stream.
    for _ in 0..3 {
        bed.control.create(create("a", 0));
    }
    assert_eq!(bed.stream.next().await, None);
    assert_eq!(bed.stream.next().await, None);
    bed.control.ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_is_woken() {
    let mut bed = bed(WatchOptions { queue_events_max: 1, ..WatchOptions::default() });
    let (store, hub, control) = (bed.store.clone(), bed.hub.clone(), bed.control.clone());
    let actions: [(&dyn Fn(), &str); 6] = [
        (&|| control.create(create("..", 0)), "0 created @1"),
        (
            &|| {
                store.txn("a=1");
                store.publish();
            },
            "0 events @2: a=1#2.0",
        ),
        (
            &|| {
                store.txn("a=2 b=2");
                store.publish();
            },
            "0 events @3: a=2#3.0, b=2#3.1",
        ),
        (
            &|| {
                store.txn("a=3");
                hub.advance(store.revision());
            },
            "0 events @4: a=3#4.0",
        ),
        (&|| control.request_progress(), "-1 progress @4"),
        (&|| control.cancel(0), "0 canceled @4 compacted 0"),
    ];
    for (act, expected) in actions {
        let (message, ()) = tokio::join!(timeout(Duration::from_secs(1), bed.stream.next()), async {
            tokio::task::yield_now().await;
            act();
        });
        let message = message.expect("it wakes before the time is up").expect("the hub is open");
        assert_eq!(line(&message), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_the_hub_ends_the_streams() {
    let mut bed = bed(WatchOptions::default());
    bed.control.create(create("a", 0));
    assert!(bed.stream.next().await.is_some());
    let hub = bed.hub.clone();
    let (message, ()) = tokio::join!(bed.stream.next(), async move {
        tokio::task::yield_now().await;
        hub.close();
    });
    assert_eq!(message, None);
    let (control, mut late) = bed.hub.stream();
    control.create(create("a", 0));
    assert_eq!(late.next().await, None);
    bed.txn("a=1");
    assert_eq!(bed.hub.figures().pending_events(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_read_history_ends() {
    let mut bed = bed(WatchOptions::default());
    bed.txn("a=1");
    bed.store.break_reads();
    bed.control.create(create("a", 2));
    bed.check(expect![[r#"
        0 created @2
    "#]])
        .await;
    assert_eq!(bed.stream.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_leaves_nothing_behind() {
    let mut bed = bed(WatchOptions { queue_events_max: 2, ..WatchOptions::default() });
    bed.txn("a=1");
    for start in [0, 2, 9] {
        bed.control.create(create("a", start));
        bed.control.create(create("..", start));
    }
    assert!(bed.stream.next().await.is_some());
    bed.txn("a=2");
    assert!(bed.stream.next().await.is_some());
    for _ in 0..4 {
        bed.txn("b=1");
    }
    let Bed { store, hub, control, stream } = bed;
    drop(stream);
    control.create(create("a", 0));
    store.txn("a=3");
    store.publish();
    let figures = hub.figures();
    let gauges = [
        figures.watchers(),
        figures.streams(),
        figures.slow_watchers(),
        figures.pending_events(),
        figures.pending_bytes(),
    ];
    assert_eq!(gauges, [0; 5]);
}
