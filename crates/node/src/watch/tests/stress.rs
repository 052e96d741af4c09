//! Real threads: one that commits and publishes, many streams that come and go.

use super::model::Checker;
use super::store::Store;
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

const REVISIONS: i64 = 6_000;

/// One client after the other: watch from somewhere, read for a while, leave.
async fn client(hub: WatchHub, store: Arc<Store>, seed: usize, done: Arc<AtomicBool>) -> usize {
    let mut events = 0;
    for round in 0.. {
        let last_round = done.load(Ordering::Acquire);
        let (control, mut stream) = hub.stream();
        let mut checker = Checker::new(&store);
        let now = store.revision().get();
        for (place, range) in ["a", "b..d", ".."].into_iter().enumerate() {
            let start = [0, (now - 40).max(1), (now - 700).max(1), now + 3][(seed + round + place) % 4];
            // At the end nothing comes any more that a watcher could wait for.
            let start = if last_round { start.min(now) } else { start };
            checker.create(&control, WatchCreate { prev_kv: place == 1, ..create(range, start) });
        }
        control.request_progress();
        let messages = 50 + 37 * (seed % 5);
        for count in 0..messages {
            let Ok(message) = timeout(Duration::from_millis(100), stream.next()).await else { break };
            checker.hear(message.expect("the hub is open"));
            if count % 16 == 0 {
                control.request_progress();
            }
            if seed.is_multiple_of(3) && count % 8 == 0 {
                // A slow one: its queues overflow.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        if last_round {
            while let Ok(message) = timeout(Duration::from_millis(100), stream.next()).await {
                checker.hear(message.expect("the hub is open"));
            }
            checker.finish();
            assert!(checker.progress_is_due());
            control.request_progress();
            let message = timeout(Duration::from_secs(10), stream.next()).await.expect("an answer");
            let revision = store.revision();
            assert_eq!(message, Some(WatchMessage::Progress { watch_id: -1, revision }));
            return events + checker.events;
        }
        events += checker.events;
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guarantees_hold_among_threads() {
    let options = WatchOptions { queue_events_max: 24, message_revisions_max: 16, ..WatchOptions::default() };
    let (store, hub) = store_and_hub(options);
    let done = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (store, done) = (store.clone(), done.clone());
        move || {
            for round in 0..REVISIONS {
                store.txn(["a=1 c=1", "b=1 -a", "c=2", "d=1 e=1"][round as usize % 4]);
                if round % 3 == 0 {
                    store.publish();
                }
                if round % 500 == 499 {
                    store.compact(store.revision().get() - 300);
                }
                if round % 64 == 0 {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            store.publish();
            done.store(true, Ordering::Release);
        }
    });
    let clients: Vec<_> =
        (0..12).map(|seed| tokio::spawn(client(hub.clone(), store.clone(), seed, done.clone()))).collect();
    for client in clients {
        assert!(client.await.expect("a client that found no fault") > 0);
    }
    writer.join().expect("a writer that ends");
    assert!(hub.figures().overflows_total() > 0, "nobody was ever too slow");
    assert_eq!([hub.figures().watchers(), hub.figures().streams(), hub.figures().pending_events()], [0; 3]);
}
