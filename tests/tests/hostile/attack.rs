//! The attackers. Each kind works on every member, until it is told to stop, and counts what it meets.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{
    LeaseGrantRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use quorate_tests::client::{Client, bytes, prefix_end};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::{Code, Status, Streaming};

use crate::{HUGE_VALUES, wire};

const DEADLINE: Duration = Duration::from_secs(5);
const HAMMERERS: usize = 30;
const WRITERS_OF_MUCH: usize = 6;
const LISTERS: usize = 4;
const SLOW_LISTERS: usize = 40;
const SLOW_WATCHERS: usize = 20;
const WATCHERS: usize = 3000;
const SILENT_CONNECTIONS: usize = 200;
const STREAMS: u32 = 10_000;

/// The key of a huge value.
pub fn huge_key(number: usize) -> String {
    format!("huge/{number:03}")
}

/// What came of the attackers' calls, by their kind.
#[derive(Debug, Default)]
pub struct Met(Mutex<BTreeMap<&'static str, BTreeMap<String, usize>>>);

impl Met {
    fn count<T>(&self, who: &'static str, outcome: &Result<T, Status>) {
        let what = match outcome {
            Ok(_) => "done".to_owned(),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        self.count_as(who, what);
    }

    fn count_as(&self, who: &'static str, what: String) {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *met.entry(who).or_default().entry(what).or_default() += 1;
    }

    /// Checks that the attack was one: each bound was reached, and its refusal said so.
    ///
    /// # Panics
    /// When it was not.
    pub fn check(&self) {
        let met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for who in ["values", "lists", "leases", "watches"] {
            let refused = met.get(who).is_some_and(|met| met.keys().any(|what| what.contains("too many requests")));
            assert!(refused, "{who}: nothing was refused");
        }
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (who, met) in &*met {
            for (what, count) in met {
                writeln!(f, "  {who}: {count} × {what:.120}")?;
            }
        }
        Ok(())
    }
}

/// What every attacker has.
#[derive(Clone)]
struct Attacker {
    endpoint: String,
    stop: Arc<AtomicBool>,
    met: Arc<Met>,
}

/// An attack that goes on.
pub struct Attack {
    stop: Arc<AtomicBool>,
    met: Arc<Met>,
    tasks: Vec<JoinHandle<()>>,
}

impl Attack {
    /// Begins.
    pub fn start(endpoints: &[String]) -> Attack {
        let mut attack = Attack { stop: Arc::default(), met: Arc::default(), tasks: Vec::new() };
        for endpoint in endpoints {
            let attacker = Attacker { endpoint: endpoint.clone(), stop: attack.stop.clone(), met: attack.met.clone() };
            attack.begin(HAMMERERS, || attacker.clone().hammer());
            attack.begin(WRITERS_OF_MUCH, || attacker.clone().write_much());
            attack.begin(LISTERS, || attacker.clone().list());
            attack.begin(1, || attacker.clone().list_slowly());
            attack.begin(SLOW_WATCHERS, || attacker.clone().watch_slowly());
            attack.begin(1, || attacker.clone().watch_much());
            attack.begin(1, || attacker.clone().lease_much());
            attack.begin(1, || attacker.clone().say_nothing());
            attack.begin(1, || attacker.clone().say_nonsense());
            attack.begin(1, || attacker.clone().flood());
        }
        attack
    }

    fn begin<F: Future<Output = ()> + Send + 'static>(&mut self, count: usize, attacker: impl Fn() -> F) {
        self.tasks.extend((0..count).map(|_| tokio::spawn(attacker())));
    }

    /// Ends it, with all connections of its own.
    ///
    /// # Panics
    /// When an attacker did.
    pub async fn finish(self) -> Arc<Met> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("an attacker does not panic");
        }
        self.met
    }
}

impl Attacker {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn client(&self) -> Client {
        Client::new(&self.endpoint, DEADLINE)
    }

    fn address(&self) -> &str {
        self.endpoint.trim_start_matches("http://")
    }

    async fn until_the_end(&self) {
        while self.goes_on() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// As many small calls as there is an answer for.
    async fn hammer(self) {
        let client = self.client();
        while self.goes_on() {
            self.met.count("calls", &client.put("hammer", "x").await);
            self.met.count("calls", &client.get("hammer", false).await);
        }
    }

    /// Values as large as they may be, several at a time.
    async fn write_much(self) {
        let client = self.client();
        let value = bytes(&"y".repeat(1 << 20));
        let mut number = 0;
        while self.goes_on() {
            let put = |number: usize| {
                let key = bytes(&huge_key(number % HUGE_VALUES));
                let request = PutRequest { key, value: value.clone(), ..PutRequest::default() };
                let client = client.clone();
                async move { client.within(client.kv().put(request)).await }
            };
            number += 4;
            let (a, b, c, d) = tokio::join!(put(number), put(number + 1), put(number + 2), put(number + 3));
            for outcome in [a, b, c, d] {
                self.met.count("values", &outcome);
            }
            // Enough for the bounds, without filling the disk.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Everything that is huge, again and again.
    async fn list(self) {
        let client = self.client();
        let request = RangeRequest { key: bytes("huge/"), range_end: prefix_end("huge/"), ..RangeRequest::default() };
        while self.goes_on() {
            let mut kv = client.kv().max_decoding_message_size(usize::MAX);
            self.met.count("lists", &client.within(kv.range(request.clone())).await);
        }
    }

    /// Everything that is huge, on connections that nobody reads from.
    async fn list_slowly(self) {
        let request = RangeRequest { key: bytes("huge/"), range_end: prefix_end("huge/"), ..RangeRequest::default() };
        let message = wire::message(1, &request.encode_to_vec());
        let asked = [wire::PREFACE, &wire::call(1, "/etcdserverpb.KV/Range"), &message].concat();
        let mut open = Vec::new();
        for _ in 0..SLOW_LISTERS {
            open.extend(wire::send(self.address(), &asked).await.ok());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.until_the_end().await;
    }

    /// Everything that happens to what is huge, which it does not take.
    async fn watch_slowly(self) {
        let client = self.client();
        let (requests, stream) = tokio::sync::mpsc::channel(1);
        // There is room for one.
        let _ = requests.send(create("huge/")).await;
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        let answers = client.within(client.watch().watch(stream)).await;
        self.met.count("slow watches", &answers);
        self.until_the_end().await;
    }

    /// More watchers than a stream may have.
    async fn watch_much(self) {
        let client = self.client();
        let requests = tokio_stream::iter((0..WATCHERS).map(|number| create(&format!("watched/{number}"))));
        let requests = requests.chain(tokio_stream::pending());
        match client.within(client.watch().watch(requests)).await {
            Ok(answers) => self.count_watchers(answers).await,
            Err(status) => self.met.count::<()>("watches", &Err(status)),
        }
        self.until_the_end().await;
    }

    async fn count_watchers(&self, mut answers: Streaming<WatchResponse>) {
        for _ in 0..WATCHERS {
            match tokio::time::timeout(DEADLINE, answers.next()).await {
                Ok(Some(Ok(answer))) if answer.canceled => self.met.count_as("watches", answer.cancel_reason),
                Ok(Some(Ok(_))) => self.met.count_as("watches", "created".to_owned()),
                Ok(Some(Err(status))) => return self.met.count::<()>("watches", &Err(status)),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// More leases than there may be.
    async fn lease_much(self) {
        let client = self.client();
        while self.goes_on() {
            let request = LeaseGrantRequest { ttl: 3600, id: 0 };
            let outcome = client.within(client.lease().lease_grant(request)).await;
            self.met.count("leases", &outcome);
            if outcome.is_err_and(|status| status.code() == Code::ResourceExhausted) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Connections that begin and do not go on.
    async fn say_nothing(self) {
        let mut open = Vec::new();
        for number in 0..SILENT_CONNECTIONS {
            let begun = wire::PREFACE.get(..number % wire::PREFACE.len()).unwrap_or_default();
            open.extend(wire::send(self.address(), begun).await.ok());
        }
        self.met.count_as("silent connections", format!("{}", open.len()));
        self.until_the_end().await;
    }

    /// What is no HTTP, headers that are too large, and messages that are none.
    async fn say_nonsense(self) {
        let nonsense = [
            vec![0xff; 4096],
            format!("GET /version HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000)).into_bytes(),
            [wire::PREFACE, b"\x00\x00\x05\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff\xff"].concat(),
            [wire::PREFACE, &wire::call(1, "/etcdserverpb.KV/Txn"), &wire::message(1, &[0xff; 2000])].concat(),
        ];
        for said in nonsense.iter().cycle() {
            if !self.goes_on() {
                break;
            }
            // It may be closed before all is written.
            self.met
                .count_as("nonsense", wire::send(self.address(), said).await.map_or("closed", |_| "sent").to_owned());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Streams that are opened and given up at once, by the thousand, on one connection after another.
    async fn flood(self) {
        let calls = |first: u32| {
            let streams = (first..first + STREAMS).map(|number| 2 * number + 1);
            streams.flat_map(|stream| [wire::call(stream, "/etcdserverpb.KV/Put"), wire::reset(stream)].concat())
        };
        let flood = [wire::PREFACE, &calls(0).collect::<Vec<u8>>()].concat();
        while self.goes_on() {
            let closed = match wire::send(self.address(), &flood).await {
                Ok(stream) => closes(stream).await,
                Err(_) => true,
            };
            self.met.count_as("floods", if closed { "closed" } else { "borne" }.to_owned());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn create(prefix: &str) -> WatchRequest {
    let create =
        WatchCreateRequest { key: bytes(prefix), range_end: prefix_end(prefix), ..WatchCreateRequest::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// Whether the member closes a connection soon.
async fn closes(mut stream: TcpStream) -> bool {
    let end = async {
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    };
    tokio::time::timeout(Duration::from_secs(2), end).await.is_ok()
}
