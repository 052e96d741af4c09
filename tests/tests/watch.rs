//! Watches over crashes and compaction: no event missing, none twice, all in order.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{CompactionRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use quorate_proto::mvccpb::Event;
use quorate_tests::client::{Client, bytes, prefix_end};
use quorate_tests::cluster::{Cluster, ClusterSpec, PATIENCE};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

// History is read from the engine, before and after its recovery, so every test runs on every set.
engine_tests! {
    a_watch_goes_on_where_it_was_over_crashes: redb sled mixed;
    a_watch_from_the_past_gets_everything_since: redb sled mixed;
    a_watch_from_before_the_compaction_is_told_so: redb sled mixed;
}

/// One watcher on a stream of its own.
struct Watcher {
    answers: Streaming<WatchResponse>,
    // The server ends the stream when the requests end.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Watcher {
    /// Watches a prefix from `start_revision`; gives the answer that says so, too.
    async fn open(client: &Client, prefix: &str, start_revision: i64) -> Result<(Watcher, WatchResponse), Status> {
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchCreateRequest {
            key: bytes(prefix),
            range_end: prefix_end(prefix),
            start_revision,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(request).await.expect("the stream takes a first request");
        let mut answers = client.watch().watch(ReceiverStream::new(receiver)).await?.into_inner();
        let created = answers.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
        assert!(created.created, "{created:?}");
        assert!(created.events.is_empty(), "{created:?}");
        Ok((Watcher { answers, _requests: requests }, created))
    }

    async fn next(&mut self) -> Result<WatchResponse, Status> {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("nothing on the watch stream"))?;
        answer?.ok_or_else(|| Status::unavailable("the stream ended"))
    }
}

/// Puts `count` values to a few keys, one after another, through whoever answers; gives revision -> (key, value) of those
/// that were acknowledged.
async fn write(cluster: &Cluster, clients: &[Client], count: usize) -> BTreeMap<i64, (String, String)> {
    let mut written = BTreeMap::new();
    let mut at = 0;
    for number in 0..count {
        let (key, value) = (format!("watch/{}", number % 5), format!("{number}"));
        match clients[at].put(&key, &value).await {
            Ok(revision) => {
                written.insert(revision, (key, value));
            }
            Err(_) => {
                at = (at + 1) % cluster.len();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    written
}

/// Adds events to what was seen, and checks that they continue it.
fn add_events(seen: &mut BTreeMap<i64, (String, String)>, events: Vec<Event>) {
    for event in events {
        let kv = event.kv.expect("an event has its key");
        let last = seen.last_key_value().map_or(0, |(revision, _)| *revision);
        assert!(kv.mod_revision > last, "event at revision {} after {last}", kv.mod_revision);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let key = text(&kv.key);
        let before = seen.values().rev().find(|(seen_key, _)| *seen_key == key).map(|(_, value)| value.clone());
        if let Some(before) = before {
            let previous = event.prev_kv.expect("a key that was there has a previous value");
            assert_eq!(text(&previous.value), before, "previous value of {key} at {}", kv.mod_revision);
        }
        seen.insert(kv.mod_revision, (key, text(&kv.value)));
    }
}

async fn a_watch_goes_on_where_it_was_over_crashes(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let clients: Vec<Client> = (0..3).map(|member| cluster.client(member)).collect();
    let watching = tokio::spawn({
        let clients = clients.clone();
        async move {
            let mut seen = BTreeMap::new();
            let mut at = 0;
            // As a client library does: on any failure, on to the next member, from the revision behind the last event.
            loop {
                let next = seen.last_key_value().map_or(1, |(revision, _)| revision + 1);
                let opened = Watcher::open(&clients[at], "watch/", next).await;
                if let Ok((mut watcher, _)) = opened {
                    while let Ok(answer) = watcher.next().await {
                        assert!(!answer.canceled, "{answer:?}");
                        add_events(&mut seen, answer.events);
                        if seen.values().any(|(key, _)| key == "watch/end") {
                            return seen;
                        }
                    }
                }
                at = (at + 1) % clients.len();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let mut written = BTreeMap::new();
    for member in [0, 1, 2] {
        written.append(&mut write(&cluster, &clients, 150).await);
        cluster.kill9(member);
        written.append(&mut write(&cluster, &clients, 50).await);
        cluster.restart(member);
        cluster.wait_member_serving(member).await;
    }
    cluster.client(0).put("watch/end", "").await.expect("the last put");
    let seen = tokio::time::timeout(PATIENCE, watching).await.expect("the watcher sees the end").expect("no panic");
    assert!(written.len() > 300, "only {} writes were acknowledged", written.len());
    for (revision, write) in &written {
        assert_eq!(seen.get(revision), Some(write), "the event of revision {revision}");
    }
}

async fn a_watch_from_the_past_gets_everything_since(engines: Engines) {
    let Some(cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let clients: Vec<Client> = (0..3).map(|member| cluster.client(member)).collect();
    let written = write(&cluster, &clients, 200).await;
    let (&first, _) = written.first_key_value().expect("a write");
    for client in &clients {
        let (mut watcher, created) = Watcher::open(client, "watch/", first).await.expect("a watch");
        assert!(created.header.expect("a header").revision >= first);
        let mut seen = BTreeMap::new();
        while seen.len() < written.len() {
            add_events(&mut seen, watcher.next().await.expect("events").events);
        }
        assert_eq!(seen, written);
    }
}

async fn a_watch_from_before_the_compaction_is_told_so(engines: Engines) {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3).on(engines)).await else { return };
    let clients: Vec<Client> = (0..3).map(|member| cluster.client(member)).collect();
    let written = write(&cluster, &clients, 100).await;
    let (&first, _) = written.first_key_value().expect("a write");
    let compacted = first + 50;
    let compact = CompactionRequest { revision: compacted, physical: true };
    clients[0].within(clients[0].kv().compact(compact)).await.expect("compaction");

    // What every member knows, it still knows after a crash.
    for crashed in [false, true] {
        if crashed {
            cluster.crash_all();
        }
        cluster.wait_serving().await;
        for member in 0..3 {
            let client = cluster.client(member);
            let (mut watcher, _) = Watcher::open(&client, "watch/", first).await.expect("a watch");
            let answer = watcher.next().await.expect("an answer");
            assert!(answer.canceled, "m{member}: {answer:?}");
            assert_eq!(answer.compact_revision, compacted, "m{member}");
            assert!(answer.events.is_empty(), "m{member}: {answer:?}");

            let (mut watcher, _) = Watcher::open(&client, "watch/", compacted + 1).await.expect("a watch");
            let answer = watcher.next().await.expect("an answer");
            let next = answer.events.first().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
            assert_eq!(next, Some(compacted + 1), "m{member}");
        }
    }
}
