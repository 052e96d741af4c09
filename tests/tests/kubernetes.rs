//! Three clients that do what kube-apiserver does, while the leader dies.
//!
//! Each keeps a watch cache: a list in pages at one revision, then a watch from there with progress requested every
//! 100 ms. Objects are written by optimistic transactions, events end with their leases, and all three race to compact.
//! The oracle: whenever progress is told, the cache equals a list at that revision, and what a watch tells continues it.
//!
//! etcd fails it up to 3.4.24 and 3.5.7, which tell progress ahead of events (etcd-io/etcd issue 15220), so it is not
//! asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::mvccpb::event::EventType;
use quorate_tests::client::{Client, bytes, prefix_end, revision};
use quorate_tests::cluster::{Cluster, ClusterSpec, PATIENCE};
use quorate_tests::server::Server;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

const REGISTRY: &str = "/registry/";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
/// Keys per page of a list: fewer than there are.
const PAGE: i64 = 5;

/// A key as a cache or a list has it.
type Objects = BTreeMap<Bytes, (i64, Bytes)>;

/// What came of the work of all three, to see at the end that it was work.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    conflicts: AtomicU64,
    compared: AtomicU64,
    relisted_after_compaction: AtomicU64,
    compactions: AtomicU64,
    consistent_reads: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One of the three: it asks its member, and the others when that does not answer.
struct ApiServer {
    clients: Vec<Client>,
    first: usize,
    counts: Arc<Counts>,
    /// Ends everything but the caches, for which others may wait.
    stop: Arc<AtomicBool>,
    stop_caches: Arc<AtomicBool>,
    /// The revision up to which the cache is complete.
    complete: watch::Sender<i64>,
    cache: Mutex<Objects>,
}

impl ApiServer {
    fn client(&self, attempt: usize) -> &Client {
        &self.clients[(self.first + attempt) % self.clients.len()]
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn caches_stopped(&self) -> bool {
        self.stop_caches.load(Ordering::Relaxed)
    }

    /// A list in pages, all at the revision of the first, or at `at` if that is not 0.
    async fn list(client: &Client, at: i64) -> Result<(i64, Objects), Status> {
        let mut objects = Objects::new();
        let mut request = RangeRequest {
            key: bytes(REGISTRY),
            range_end: prefix_end(REGISTRY),
            limit: PAGE,
            revision: at,
            ..RangeRequest::default()
        };
        loop {
            let page: RangeResponse = client.within(client.kv().range(request.clone())).await?;
            if request.revision == 0 {
                request.revision = revision(page.header)?;
            }
            assert!(page.kvs.len() as i64 <= PAGE && page.count >= page.kvs.len() as i64, "{page:?}");
            // The continue token is the last key, with a zero byte.
            if let Some(last) = page.kvs.last() {
                request.key = [&last.key[..], b"\0"].concat().into();
            }
            objects.extend(page.kvs.into_iter().map(|kv| (kv.key, (kv.mod_revision, kv.value))));
            if !page.more {
                return Ok((request.revision, objects));
            }
        }
    }

    /// Lists and watches, again and again, until the end.
    async fn reflect(&self) {
        let mut attempt = 0;
        while !self.caches_stopped() {
            // Another member each time: this one may be the one that is dead.
            if let Err(status) = self.list_and_watch(self.client(attempt)).await {
                assert!(is_passing(&status), "{status}");
                sleep(Duration::from_millis(50)).await;
            }
            attempt += 1;
        }
    }

    async fn list_and_watch(&self, client: &Client) -> Result<(), Status> {
        let (mut at, objects) = ApiServer::list(client, 0).await?;
        *self.cache.lock().unwrap() = objects;
        self.complete.send_replace(at);
        let (requests, receiver) = mpsc::channel(16);
        let create = WatchCreateRequest {
            key: bytes(REGISTRY),
            range_end: prefix_end(REGISTRY),
            start_revision: at + 1,
            prev_kv: true,
            progress_notify: true,
            fragment: true,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.expect("the stream takes a first request");
        let mut watches = client.watch();
        let opened = timeout(PATIENCE, watches.watch(ReceiverStream::new(receiver))).await;
        let mut answers = opened.map_err(|_| Status::unavailable("no watch"))??.into_inner();
        let mut ticks = interval(Duration::from_millis(100));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bookmarks = 0;
        while !self.caches_stopped() {
            tokio::select! {
                _ = ticks.tick() => {
                    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    // A full queue is as good as a request: there is one on its way.
                    let _ = requests.try_send(WatchRequest { request_union: Some(progress) });
                }
                answer = answers.message() => {
                    let answer = answer?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                    if answer.canceled {
                        return Err(self.cancelled(&answer));
                    }
                    at = self.take(&answer, at)?;
                    if answer.events.is_empty() && !answer.created {
                        bookmarks += 1;
                        if bookmarks % 5 == 1 {
                            self.compare(at, self.client(bookmarks)).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn cancelled(&self, answer: &WatchResponse) -> Status {
        assert!(answer.compact_revision > 0, "a watch was cancelled without a reason: {answer:?}");
        Counts::add(&self.counts.relisted_after_compaction);
        Status::out_of_range(COMPACTED)
    }

    /// Applies an answer of the watch to the cache, which is complete up to `at`; gives how far it is now.
    fn take(&self, answer: &WatchResponse, at: i64) -> Result<i64, Status> {
        let mut cache = self.cache.lock().unwrap();
        let mut now = at;
        for event in &answer.events {
            let kv = event.kv.as_ref().expect("an event has a key");
            assert!(kv.mod_revision > at, "an event at or before {at}, which was told to be complete: {event:?}");
            assert!(kv.mod_revision >= now, "an event behind {now}: {event:?}");
            now = kv.mod_revision;
            let before = match event.r#type() {
                EventType::Put => {
                    let before = cache.insert(kv.key.clone(), (kv.mod_revision, kv.value.clone()));
                    assert_eq!(before.is_none(), kv.create_revision == kv.mod_revision, "{event:?} after {before:?}");
                    before
                }
                EventType::Delete => {
                    let before = cache.remove(&kv.key);
                    assert!(before.is_some(), "a delete of what was not there: {event:?}");
                    before
                }
            };
            // A compaction may have taken it.
            if let Some(previous) = &event.prev_kv {
                assert_eq!(Some((previous.mod_revision, previous.value.clone())), before, "{event:?}");
            }
        }
        if answer.events.is_empty() && !answer.created {
            let told = revision(answer.header)?;
            assert!(told >= now, "progress went back from {now} to {told}");
            now = told;
            self.complete.send_replace(now);
        }
        // An answer in fragments is one: what is complete is what was before it.
        Ok(if answer.fragment { at } else { now })
    }

    /// The oracle.
    async fn compare(&self, at: i64, client: &Client) -> Result<(), Status> {
        let listed = match ApiServer::list(client, at).await {
            Ok((_, listed)) => listed,
            // Somebody has compacted it, or a member is dead: there is nothing to compare with.
            Err(status) if is_passing(&status) => return Ok(()),
            Err(status) => return Err(status),
        };
        assert_eq!(*self.cache.lock().unwrap(), listed, "the cache is not what a list says, at revision {at}");
        Counts::add(&self.counts.compared);
        Ok(())
    }

    /// Creates, updates and deletes a few objects, always on the condition that nobody else has.
    async fn write(&self, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut attempt = 0;
        let mut known: BTreeMap<String, i64> = BTreeMap::new();
        while !self.stopped() {
            let key = format!("{REGISTRY}pods/default/pod-{}", random.random_range(0..12));
            let at = known.get(&key).copied().unwrap_or(0);
            let delete = at != 0 && random.random_range(0..4) == 0;
            let value = format!("{}", random.random::<u32>());
            match self.guarded(self.client(attempt), &key, at, (!delete).then_some(&value)).await {
                Ok(Ok(written)) => {
                    Counts::add(&self.counts.written);
                    known.insert(key, if delete { 0 } else { written });
                }
                Ok(Err(found)) => {
                    Counts::add(&self.counts.conflicts);
                    known.insert(key, found.map_or(0, |kv| kv.mod_revision));
                }
                Err(status) => {
                    assert!(is_passing(&status), "{status}");
                    attempt += 1;
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes a value, or deletes, if the key was last written at `at`; the revision of that, or what is there instead.
    async fn guarded(
        &self,
        client: &Client,
        key: &str,
        at: i64,
        value: Option<&String>,
    ) -> Result<Result<i64, Option<KeyValue>>, Status> {
        let write = match value {
            Some(value) => {
                Request::RequestPut(PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() })
            }
            None => {
                Request::RequestDeleteRange(DeleteRangeRequest { key: bytes(key), ..DeleteRangeRequest::default() })
            }
        };
        let is = (CompareTarget::Mod, TargetUnion::ModRevision(at));
        let answer = client.within(client.kv().txn(if_else_get(key, is, write))).await?;
        let now = revision(answer.header)?;
        if answer.succeeded {
            return Ok(Ok(now));
        }
        match answer.responses.into_iter().next().and_then(|op| op.response) {
            Some(Response::ResponseRange(range)) => Ok(Err(range.kvs.into_iter().next())),
            other => panic!("a get answered {other:?}"),
        }
    }

    /// Writes events that end with their lease, as kube-apiserver does: one lease for many keys.
    async fn report(&self) {
        let mut attempt = 0;
        for number in 0.. {
            if self.stopped() {
                return;
            }
            if let Err(status) = self.report_once(self.client(attempt), number).await {
                assert!(is_passing(&status), "{status}");
                attempt += 1;
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn report_once(&self, client: &Client, number: u64) -> Result<(), Status> {
        let grant = client.within(client.lease().lease_grant(LeaseGrantRequest { ttl: 2, id: 0 })).await?;
        for event in 0..3 {
            let key = format!("{REGISTRY}events/default/{}.{number}.{event}", self.first);
            let put = PutRequest { key: bytes(&key), value: bytes("x"), lease: grant.id, ..PutRequest::default() };
            client.within(client.kv().put(put)).await?;
        }
        Ok(())
    }

    /// kube-apiserver's compactor: whoever moves `compact_rev_key` on compacts to what was the revision the last time.
    async fn compact(&self) {
        let (mut version, mut last, mut attempt) = (0, 0, 0);
        while !self.stopped() {
            sleep(Duration::from_millis(400)).await;
            match self.compact_once(self.client(attempt), &mut version, &mut last).await {
                Ok(()) => {}
                Err(status) => {
                    assert!(is_passing(&status), "{status}");
                    attempt += 1;
                }
            }
        }
    }

    async fn compact_once(&self, client: &Client, version: &mut i64, last: &mut i64) -> Result<(), Status> {
        let put =
            PutRequest { key: bytes("compact_rev_key"), value: bytes(&last.to_string()), ..PutRequest::default() };
        let is = (CompareTarget::Version, TargetUnion::Version(*version));
        let txn = if_else_get("compact_rev_key", is, Request::RequestPut(put));
        let answer = client.within(client.kv().txn(txn)).await?;
        let now = revision(answer.header)?;
        if !answer.succeeded {
            let Some(Response::ResponseRange(range)) = answer.responses.into_iter().next().and_then(|op| op.response)
            else {
                panic!("a get was not answered");
            };
            (*version, *last) = (range.kvs.first().map_or(0, |kv| kv.version), now);
            return Ok(());
        }
        let compacted = std::mem::replace(last, now);
        *version += 1;
        if compacted > 0 {
            let request = CompactionRequest { revision: compacted, physical: false };
            client.within(client.kv().compact(request)).await?;
            Counts::add(&self.counts.compactions);
        }
        Ok(())
    }

    /// A read from the cache that is as good as one from a quorum: asks for the revision, and waits for the cache.
    async fn read_consistently(&self, patience: Duration) -> Result<i64, Status> {
        let mut attempt = 0;
        let deadline = Instant::now() + patience;
        let at = loop {
            let client = self.client(attempt);
            let request = RangeRequest { key: bytes(REGISTRY), limit: 1, ..RangeRequest::default() };
            match client.within(client.kv().range(request)).await {
                Ok(answer) => break revision(answer.header)?,
                Err(status) => assert!(is_passing(&status) && Instant::now() < deadline, "{status}"),
            }
            attempt += 1;
        };
        let mut complete = self.complete.subscribe();
        match tokio::time::timeout_at(deadline, complete.wait_for(|complete| *complete >= at)).await {
            Ok(complete) => Ok(*complete.expect("the sender is `self`'s")),
            Err(_) => Err(Status::deadline_exceeded(format!("the cache did not get to revision {at}"))),
        }
    }

    async fn read(&self) {
        while !self.stopped() {
            // A watch whose member died is opened again, on a client that pings every few seconds.
            self.read_consistently(PATIENCE).await.expect("a consistent read from the cache");
            Counts::add(&self.counts.consistent_reads);
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A transaction of kube-apiserver: one comparison with `key`, one write, else a get.
fn if_else_get(key: &str, (target, value): (CompareTarget, TargetUnion), write: Request) -> TxnRequest {
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: bytes(key),
        target_union: Some(value),
        ..Compare::default()
    };
    let get = Request::RequestRange(RangeRequest { key: bytes(key), ..RangeRequest::default() });
    TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp { request: Some(write) }],
        failure: vec![RequestOp { request: Some(get) }],
    }
}

/// What a client of kube-apiserver gets over by itself: a dead or leaderless member, or a compaction that overtook it.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => true,
        Code::OutOfRange => status.message() == COMPACTED,
        _ => false,
    }
}

/// Writes and compacts, then asks as a reflector that was away too long.
async fn who_was_away_is_told_to_list_again(cluster: &Cluster) {
    let client = cluster.client(cluster.running()[0]);
    let (now, _) = ApiServer::list(&client, 0).await.expect("a list");
    let status = ApiServer::list(&client, 1).await.expect_err("revision 1 was compacted");
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, COMPACTED));
    let (requests, receiver) = mpsc::channel(1);
    let create = WatchCreateRequest {
        key: bytes(REGISTRY),
        range_end: prefix_end(REGISTRY),
        start_revision: 1,
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.send(create).await.expect("the stream takes a first request");
    let mut answers = client.watch().watch(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
    let mut next = async || answers.message().await.expect("an answer").expect("an open stream");
    assert!(next().await.created);
    let told = next().await;
    assert!(told.canceled && told.events.is_empty(), "{told:?}");
    assert!(told.compact_revision > 1 && told.compact_revision <= now, "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_caches_equal_lists_while_the_leader_dies_and_history_is_compacted() {
    let spec = ClusterSpec::new(3).flag("--experimental-watch-progress-notify-interval=1s");
    if !Server::find().expect("a server binary").is_quorate() {
        return println!("the etcd that can be had tells progress ahead of events");
    }
    let Some(mut cluster) = Cluster::start(spec).await else { return };
    let counts = Arc::new(Counts::default());
    let (stop, stop_caches) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let servers: Vec<_> = (0..cluster.len())
        .map(|first| {
            let clients = (0..cluster.len()).map(|member| cluster.client(member)).collect();
            let (counts, stop, stop_caches) = (Arc::clone(&counts), Arc::clone(&stop), Arc::clone(&stop_caches));
            let (complete, cache) = (watch::Sender::new(0), Mutex::default());
            Arc::new(ApiServer { clients, first, counts, stop, stop_caches, complete, cache })
        })
        .collect();
    let (mut caches, mut others) = (JoinSet::new(), JoinSet::new());
    for server in &servers {
        let each = || Arc::clone(server);
        let (reflector, writer, reporter, compactor, reader) = (each(), each(), each(), each(), each());
        caches.spawn(async move { reflector.reflect().await });
        // A seed for each, so that they differ.
        others.spawn(async move { writer.write(writer.first as u64).await });
        others.spawn(async move { reporter.report().await });
        others.spawn(async move { compactor.compact().await });
        others.spawn(async move { reader.read().await });
    }
    sleep(Duration::from_secs(2)).await;
    let leader = cluster.wait_leader().await;
    cluster.kill9(leader);
    sleep(Duration::from_secs(3)).await;
    cluster.restart(leader);
    cluster.wait_member_serving(leader).await;
    sleep(Duration::from_secs(2)).await;

    stop.store(true, Ordering::Relaxed);
    others.join_all().await;
    for server in &servers {
        server.read_consistently(PATIENCE).await.expect("all caches get there");
    }
    stop_caches.store(true, Ordering::Relaxed);
    caches.join_all().await;

    who_was_away_is_told_to_list_again(&cluster).await;
    println!("{counts:?}");
    // Far less than any machine does: a machine may be busy.
    let all = [
        (&counts.written, 20),
        (&counts.conflicts, 1),
        (&counts.compared, 3),
        (&counts.compactions, 1),
        (&counts.consistent_reads, 5),
    ];
    for (counter, least) in all {
        assert!(counter.load(Ordering::Relaxed) >= least, "too little was done: {counts:?}");
    }
    cluster.assert_replicas_equal().await;
}
