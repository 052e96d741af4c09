//! Watches against real servers: no gap and no duplicate, whatever happens to the stream.

mod common;

use std::time::Duration;

use common::Cluster;
use quorate_client::{Client, ConnectOptions, DeleteOptions, Error, EventKind, Op, Txn, Watch, WatchOptions};
use quorate_proto::etcdserverpb::CompactionRequest;
use tokio::time::timeout;

/// Reads until there are `count` events and gives them as `mod_revision key kind`.
async fn read(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = timeout(Duration::from_secs(20), watch.next()).await;
        let batch = batch.unwrap_or_else(|_| panic!("{count} events expected, stuck after {events:?}"));
        events.extend(batch.unwrap().unwrap().events.into_iter().map(|event| {
            let kind = if event.kind == EventKind::Put { "put" } else { "delete" };
            format!("{} {} {kind}", event.kv.mod_revision, String::from_utf8_lossy(&event.kv.key))
        }));
    }
    events
}

async fn silence(watch: &mut Watch) {
    let more = timeout(Duration::from_millis(300), watch.next()).await;
    assert!(more.is_err(), "unexpected: {more:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_in_order_from_the_chosen_revision() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    client.put("a/1", "x", None).await.unwrap();
    let mut now = client.watch("a/", WatchOptions::new().prefix()).await.unwrap();
    assert_eq!(now.created_revision(), 2);
    let mut past = client.watch("a/", WatchOptions::new().prefix().start_revision(1)).await.unwrap();
    let mut single = client.watch("a/2", None).await.unwrap();
    let mut deletes = client.watch("", WatchOptions::new().prefix().no_puts().prev_kv()).await.unwrap();
    client.put("a/2", "y", None).await.unwrap();
    client.delete("a/", DeleteOptions::new().prefix()).await.unwrap();

    assert_eq!(read(&mut now, 3).await, ["3 a/2 put", "4 a/1 delete", "4 a/2 delete"]);
    assert_eq!(read(&mut past, 4).await, ["2 a/1 put", "3 a/2 put", "4 a/1 delete", "4 a/2 delete"]);
    assert_eq!(read(&mut single, 2).await, ["3 a/2 put", "4 a/2 delete"]);
    let batch = deletes.next().await.unwrap().unwrap();
    let before: Vec<_> = batch.events.iter().map(|event| event.prev_kv.clone().unwrap().value).collect();
    assert_eq!((batch.revision, before), (4, vec!["x".into(), "y".into()]));
    silence(&mut now).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watches_share_a_stream_and_get_their_own_events() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let start = |i: usize| {
        let client = client.clone();
        tokio::spawn(async move { client.watch(format!("key{i:03}"), None).await.unwrap() })
    };
    let mut watches = Vec::new();
    // At the same time, so that their confirmations have to be told apart.
    for task in (0..100).map(start).collect::<Vec<_>>() {
        watches.push(task.await.unwrap());
    }
    watches.truncate(90);
    for i in 0..100 {
        client.put(format!("key{i:03}"), "", None).await.unwrap();
    }
    for (i, watch) in watches.iter_mut().enumerate() {
        assert_eq!(read(watch, 1).await, [format!("{} key{i:03} put", i + 2)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_ends_a_watch_with_the_revision_to_go_on_from() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    for _ in 0..10 {
        client.put("a", "", None).await.unwrap();
    }
    client.kv().compact(CompactionRequest { revision: 8, physical: true }).await.unwrap();
    let mut watch = client.watch("a", WatchOptions::new().start_revision(2)).await.unwrap();
    let end = watch.next().await.unwrap().unwrap_err();
    assert_eq!(end, Error::WatchCompacted { compact_revision: 8 });
    assert!(end.is_compacted());
    assert!(watch.next().await.is_none());
    let mut watch = client.watch("a", WatchOptions::new().start_revision(8)).await.unwrap();
    assert_eq!(read(&mut watch, 4).await[0], "8 a put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impossible_watch_is_refused_and_does_no_harm_to_others() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let mut before = client.watch("a", None).await.unwrap();
    let error = client.watch("b", WatchOptions::new().range_end("a")).await.unwrap_err();
    assert!(matches!(error, Error::WatchCanceled { .. }), "{error:?}");
    let mut after = client.watch("a", None).await.unwrap();
    client.put("a", "", None).await.unwrap();
    assert_eq!(read(&mut before, 1).await, ["2 a put"]);
    assert_eq!(read(&mut after, 1).await, ["2 a put"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_not_read_holds_up_nobody_and_loses_nothing() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client_with(ConnectOptions::new().watch_buffer(2)).await;
    let mut slow = client.watch("a", None).await.unwrap();
    let mut quick = client.watch("a", None).await.unwrap();
    for i in 0..50 {
        client.put("a", "", None).await.unwrap();
        assert_eq!(read(&mut quick, 1).await, [format!("{} a put", i + 2)]);
    }
    // A new watch begins while the slow one is off the stream.
    drop(client.watch("b", None).await.unwrap());
    let expected: Vec<String> = (2..52).map(|revision| format!("{revision} a put")).collect();
    assert_eq!(read(&mut slow, 50).await, expected);
    client.put("a", "", None).await.unwrap();
    assert_eq!(read(&mut slow, 1).await, ["52 a put"]);
    silence(&mut slow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_on_request_reaches_every_watch() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let mut watches = [client.watch("a", None).await.unwrap(), client.watch("b", None).await.unwrap()];
    client.put("c", "", None).await.unwrap();
    // The server keeps silent until all watches are up to date.
    let mut seen = 0;
    while seen < 2 {
        client.request_watch_progress().await;
        if let Ok(batch) = timeout(Duration::from_millis(100), watches[0].next()).await {
            let batch = batch.unwrap().unwrap();
            assert!(batch.events.is_empty());
            seen = batch.revision;
        }
    }
    assert_eq!(timeout(Duration::from_secs(5), watches[1].next()).await.unwrap().unwrap().unwrap().events, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_too_large_for_one_message_comes_whole() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let value = vec![b'x'; 100_000];
    for i in 0..60 {
        client.put(format!("big{i:02}"), value.clone(), None).await.unwrap();
    }
    // The event of each delete carries 100 kB, all of them in one revision.
    client.delete("big", DeleteOptions::new().prefix()).await.unwrap();
    let options = WatchOptions::new().prefix().prev_kv().start_revision(62);
    let mut watch = client.watch("big", options).await.unwrap();
    let (mut keys, mut batches, mut complete) = (Vec::new(), 0, 0);
    while complete < 62 {
        let batch = timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap();
        batches += 1;
        complete = batch.revision;
        keys.extend(batch.events.into_iter().map(|event| String::from_utf8(event.kv.key.to_vec()).unwrap()));
    }
    assert_eq!(keys, (0..60).map(|i| format!("big{i:02}")).collect::<Vec<_>>());
    assert!(batches > 1, "the server sent 6 MB in one piece");
}

/// Writes transactions of two keys until the time is up; returns how many were done.
async fn write_for(client: Client, time: Duration) -> usize {
    let client = client.with_timeout(Duration::from_secs(2));
    let started = std::time::Instant::now();
    let mut written = 0;
    while started.elapsed() < time {
        let txn = Txn::new().then([Op::put("w/1", "x", None), Op::put("w/2", "x", None)]);
        match client.txn(txn).await {
            Ok(_) => written += 1,
            Err(Error::UnknownOutcome { .. } | Error::Unavailable { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    written
}

/// Many writers write while members are killed, one after the other, and watches on all of them read: each must see
/// every revision once, in order, with both events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_see_every_event_once_while_servers_are_killed() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let mut readers = Vec::new();
    for i in 0..6 {
        // A client has one stream, so several are needed to be at all members.
        let client = cluster.client_with(ConnectOptions::new().watch_buffer(4)).await;
        let watch = client.watch("w/", WatchOptions::new().prefix()).await.unwrap();
        // Different speeds, so that some watches are taken off the stream now and then.
        readers.push(tokio::spawn(read_until_end(watch, Duration::from_millis(i))));
    }
    let client = cluster.client().await;
    let writers: Vec<_> = (0..8).map(|_| tokio::spawn(write_for(client.clone(), Duration::from_secs(8)))).collect();
    for i in [0, 1, 2] {
        tokio::time::sleep(Duration::from_millis(800)).await;
        cluster.kill(i);
        tokio::time::sleep(Duration::from_millis(800)).await;
        cluster.restart(i).await;
    }
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    assert!(written > 500, "only {written} transactions went through");
    client.put("w/end", "", None).await.unwrap();
    let history = client.get("w/1", None).await.unwrap();
    for reader in readers {
        let events = timeout(Duration::from_secs(30), reader).await.expect("the end is seen").unwrap();
        assert_eq!(events as i64, history.kvs[0].version);
    }
}

/// Checks order and completeness up to the key `w/end`; returns the number of revisions.
async fn read_until_end(mut watch: Watch, pause: Duration) -> usize {
    let mut revisions: Vec<i64> = Vec::new();
    loop {
        let batch = watch.next().await.expect("watch goes on").expect("no error");
        let mut events = batch.events.into_iter();
        while let Some(first) = events.next() {
            if first.kv.key == "w/end" {
                return revisions.len();
            }
            let second = events.next().expect("a revision is not split");
            assert_eq!((&first.kv.key[..], &second.kv.key[..]), (&b"w/1"[..], &b"w/2"[..]));
            assert_eq!(first.kv.mod_revision, second.kv.mod_revision);
            assert!(revisions.last().is_none_or(|last| *last < first.kv.mod_revision), "{revisions:?} {first:?}");
            // The version goes up by one with each event: nothing is missing.
            assert_eq!(first.kv.version, revisions.len() as i64 + 1);
            revisions.push(first.kv.mod_revision);
        }
        tokio::time::sleep(pause).await;
    }
}

/// A member that hangs with open connections is the hard case: nothing fails until pings go unanswered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_leaves_a_server_that_hangs() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let follower = (cluster.leader().await + 1) % 3;
    let other = Client::connect([cluster.url((follower + 1) % 3)], ConnectOptions::new()).await.unwrap();
    let options = ConnectOptions::new().ping(Duration::from_secs(5), Duration::from_secs(1));
    // Each begins at a random endpoint, so some are at the one that hangs.
    let mut watches = Vec::new();
    for _ in 0..20 {
        let client = cluster.client_with(options.clone()).await;
        watches.push(client.watch("a", None).await.unwrap());
    }
    cluster.freeze(follower, true);
    other.put("a", "", None).await.unwrap();
    for watch in &mut watches {
        assert_eq!(read(watch, 1).await, ["2 a put"]);
    }
    cluster.freeze(follower, false);
}
