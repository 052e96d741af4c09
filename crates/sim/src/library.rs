//! Calls through the client library and the front of the members, over the simulated network: mode `full`.
//!
//! What the library says of a failure is taken at its word, and judged: what it calls without effect must not happen, and
//! what it calls unknown may happen once.

use crate::client::{Rpc, text};
use crate::clock::MachineClock;
use crate::gateway::JsonCall;
use crate::history::{Condition, Field, Op, Outcome, Seen, Span, Step, StepAnswer, Transaction};
use crate::machine::Doors;
use crate::network::Network;
use hyper_util::rt::TokioIo;
use quorate_client::{
    Client, Compare, ConnectOptions, DeleteOptions, Error, Event, EventKind, GetOptions, GetResponse, Is, KeyValue,
    Op as ClientOp, OpResponse, PutOptions, Txn, TxnResponse, WatchOptions,
};
use quorate_node::env::{BoxFuture, ByteStream};
use quorate_proto::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, RangeRequest, ResponseHeader,
};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Code;

/// Where members listen for clients.
pub const CLIENT_PORT: u16 = 2379;

/// How a worker reaches the members.
#[derive(Clone, Debug)]
pub struct Library {
    /// Balances over all of them.
    all: Client,
    /// Those of each, if the worker chooses for itself.
    each: Vec<Client>,
    dial: Dial,
    habits: Habits,
}

/// The members' URL for clients.
pub fn client_url(member: usize) -> String {
    format!("http://m{member}:{CLIENT_PORT}")
}

/// What differs between clients.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Chooses the member itself.
    pub chooses: bool,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// Interval of pings on connections.
    pub ping_interval: Duration,
    /// Batches that wait in a watch.
    pub watch_buffer: usize,
    /// Sends reads and writes through the JSON gateway. Only where there are no users.
    pub json: bool,
    /// Name and password, where there are users.
    pub user: Option<(&'static str, &'static str)>,
}

impl Library {
    /// A client of its own, with connections of its own. It logs in if it has a user. Within the clients' runtime.
    ///
    /// # Errors
    /// What the library says.
    pub async fn new(rpc: &Rpc, habits: Habits) -> Result<Library, Error> {
        let Rpc { doors, network, clock, me, deadline, .. } = rpc.clone();
        Library::connect(Dial { doors, network, clock, me, deadline }, habits).await
    }

    async fn connect(dial: Dial, habits: Habits) -> Result<Library, Error> {
        let urls: Vec<String> = (0..dial.me).map(client_url).collect();
        let dials = dial.clone();
        let options = habits.user.map_or(ConnectOptions::new(), |(name, word)| ConnectOptions::new().user(name, word));
        let options = options
            .timeout(dial.deadline)
            .connect_timeout(habits.connect_timeout)
            .ping(habits.ping_interval, Duration::from_secs(3))
            .watch_buffer(habits.watch_buffer)
            .connector(move |endpoint| Ok(endpoint.connect_with_connector_lazy(dials.clone())));
        let all = Client::connect(&urls, options).await?;
        let chosen = urls.iter().filter(|_| habits.chooses);
        let each = chosen.map(|url| all.at(url)).collect::<Result<_, _>>()?;
        Ok(Library { all, each, dial, habits })
    }

    /// The same client once more, with connections of its own: the old ones end when nobody uses them any more.
    ///
    /// # Errors
    /// What the library says.
    pub async fn anew(&self) -> Result<Library, Error> {
        Library::connect(self.dial.clone(), self.habits.clone()).await
    }

    /// The same client for somebody else.
    ///
    /// # Errors
    /// What the library says.
    pub async fn of(&self, user: (&'static str, &'static str)) -> Result<Library, Error> {
        Library::connect(self.dial.clone(), Habits { user: Some(user), ..self.habits.clone() }).await
    }

    fn client(&self, member: usize) -> &Client {
        self.each.get(member).unwrap_or(&self.all)
    }

    /// Has the cluster, or `member` of it, carry out a call.
    pub async fn perform(&self, member: usize, op: &Op) -> Outcome {
        if self.habits.json
            && let Some(call) = JsonCall::of(op)
        {
            return self.dial.call_json(member, call, op).await;
        }
        let reads = matches!(op, Op::Get { .. } | Op::Page { .. });
        match perform(self.client(member), op).await {
            Ok(outcome) => outcome,
            Err(Error::UnknownOutcome { .. }) => Outcome::Unknown,
            Err(Error::Unavailable { .. }) if reads => Outcome::Unknown,
            Err(error) => Outcome::Refused(error.to_string()),
        }
    }

    /// Reads keys of a list as they come, with pauses between their parts.
    ///
    /// # Errors
    /// Why the member broke off a list that it had begun, if that is none of the reasons for which it may.
    pub async fn read_in_parts(&self, member: usize, span: &Span, pause: Duration) -> Result<Outcome, String> {
        let request = RangeRequest {
            key: span.from.clone().into(),
            range_end: span.until.clone().unwrap_or_default().into(),
            ..RangeRequest::default()
        };
        let Ok(mut parts) = self.client(member).kv().range_stream(request).await else { return Ok(Outcome::Unknown) };
        let mut kvs = Vec::new();
        loop {
            match parts.message().await {
                Ok(Some(part)) => {
                    let part = part.range_response.unwrap_or_default();
                    kvs.extend(part.kvs.iter().map(seen));
                    if let Some(header) = part.header {
                        return Ok(Outcome::Read { revision: header.revision, kvs });
                    }
                }
                Ok(None) => return Err(format!("it ended without a header, after {} keys", kvs.len())),
                // What it reads is kept for it.
                Err(status) if status.code() == Code::OutOfRange => return Err(status.to_string()),
                Err(_) => return Ok(Outcome::Unknown),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Grants a lease of this id. Returns its TTL, if it was granted.
    pub async fn grant(&self, member: usize, lease: i64, ttl_seconds: i64) -> Option<i64> {
        let request = LeaseGrantRequest { id: lease, ttl: ttl_seconds };
        let granted = self.client(member).lease().lease_grant(request).await.ok()?;
        Some(granted.ttl)
    }

    /// Renews a lease over a stream of one request. Returns its TTL, 0 if it is gone; `None` without an answer.
    pub async fn renew(&self, member: usize, lease: i64, patience: Duration) -> Option<i64> {
        let requests = tokio_stream::once(LeaseKeepAliveRequest { id: lease });
        let exchange = async {
            let mut answers = self.client(member).lease().lease_keep_alive(requests).await.ok()?;
            answers.message().await.ok().flatten()
        };
        Some(tokio::time::timeout(patience, exchange).await.ok().flatten()?.ttl)
    }

    /// Copies the data of a member, with pauses between the parts.
    ///
    /// # Errors
    /// Why it has not got all of it, in words.
    pub async fn copy(&self, member: usize, pause: Duration) -> Result<Vec<u8>, String> {
        let in_words = |error: Error| error.to_string();
        let mut copy = self.all.snapshot(&client_url(member)).await.map_err(in_words)?;
        let mut bytes = Vec::new();
        while let Some(part) = copy.next().await {
            bytes.extend_from_slice(&part.map_err(in_words)?);
            tokio::time::sleep(pause).await;
        }
        Ok(bytes)
    }

    /// The client that balances.
    pub fn all(&self) -> &Client {
        &self.all
    }
}

async fn perform(client: &Client, op: &Op) -> Result<Outcome, Error> {
    Ok(match op {
        Op::Put { key, value, lease } => {
            let put = client.put(key.as_str(), value.as_str(), PutOptions::new().lease(*lease)).await?;
            done(put.revision, 0)
        }
        Op::Delete { span } => {
            let deleted = client.delete(span.from.as_str(), deletion(span)).await?;
            done(deleted.revision, deleted.deleted)
        }
        Op::Get { span, serializable, revision } => {
            let options = reading(span).revision(*revision);
            let options = if *serializable { options.serializable() } else { options };
            read(client.get(span.from.as_str(), options).await?)
        }
        Op::Swap { parts } => {
            let answer = client.txn(swap(parts)).await?;
            if answer.succeeded { done(answer.revision, 0) } else { first_read(answer) }
        }
        Op::Revoke { lease } => {
            let revoked = client.lease().lease_revoke(LeaseRevokeRequest { id: *lease }).await?;
            done(revision_of(revoked.header), 0)
        }
        Op::Txn(transaction) => {
            let answer = client.txn(txn(transaction)).await?;
            Outcome::Txn {
                revision: answer.revision,
                succeeded: answer.succeeded,
                answers: answer.responses.iter().map(step_answer).collect(),
            }
        }
        Op::Page { span, limit, revision, count_only } => {
            let options = reading(span).limit(*limit).revision(*revision);
            let options = if *count_only { options.count_only() } else { options };
            let page = client.get(span.from.as_str(), options).await?;
            Outcome::Page {
                revision: page.revision,
                kvs: page.kvs.iter().map(seen).collect(),
                more: page.more,
                count: page.count,
            }
        }
        // Some wait until it is gone from the disk, too.
        Op::Compact { revision } => {
            let request = CompactionRequest { revision: *revision, physical: revision % 2 == 0 };
            done(revision_of(client.kv().compact(request).await?.header), 0)
        }
    })
}

fn done(revision: i64, deleted: i64) -> Outcome {
    Outcome::Done { revision, deleted }
}

fn revision_of(header: Option<ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn read(answer: GetResponse) -> Outcome {
    Outcome::Read { revision: answer.revision, kvs: answer.kvs.iter().map(seen).collect() }
}

/// Of a swap whose condition did not hold.
fn first_read(answer: TxnResponse) -> Outcome {
    let read = answer.responses.iter().find_map(|response| match response {
        OpResponse::Get(read) => Some(read.kvs.iter().map(seen).collect()),
        OpResponse::Put(_) | OpResponse::Delete(_) | OpResponse::Txn(_) => None,
    });
    Outcome::Read { revision: answer.revision, kvs: read.unwrap_or_default() }
}

fn reading(span: &Span) -> GetOptions {
    match &span.until {
        Some(until) => GetOptions::new().range_end(until.as_str()),
        None => GetOptions::new(),
    }
}

fn deletion(span: &Span) -> DeleteOptions {
    match &span.until {
        Some(until) => DeleteOptions::new().range_end(until.as_str()),
        None => DeleteOptions::new(),
    }
}

/// A watch of a span.
pub fn watching(span: &Span) -> WatchOptions {
    match &span.until {
        Some(until) => WatchOptions::new().range_end(until.as_str()),
        None => WatchOptions::new(),
    }
}

fn swap(parts: &[(String, i64, String)]) -> Txn {
    let first = parts.first().map_or("", |(key, _, _)| key);
    Txn::new()
        .when(parts.iter().map(|(key, expected, _)| Compare::mod_revision(key.as_str(), Is::Equal, *expected)))
        .then(parts.iter().map(|(key, _, value)| ClientOp::put(key.as_str(), value.as_str(), None)))
        .or_else([ClientOp::get(first, None)])
}

fn txn(transaction: &Transaction) -> Txn {
    Txn::new()
        .when(transaction.conditions.iter().map(compare))
        .then(transaction.success.iter().map(operation))
        .or_else(transaction.failure.iter().map(operation))
}

fn compare(condition: &Condition) -> Compare {
    let key = condition.key.as_str();
    match &condition.field {
        Field::Value(value) => Compare::value(key, Is::Equal, value.as_str()),
        Field::Version(version) => Compare::version(key, Is::Equal, *version),
        Field::Create(revision) => Compare::create_revision(key, Is::Equal, *revision),
        Field::Mod(revision) => Compare::mod_revision(key, Is::Equal, *revision),
        Field::Lease(lease) => Compare::lease(key, Is::Equal, *lease),
    }
}

fn operation(step: &Step) -> ClientOp {
    match step {
        Step::Put { key, value, lease } => {
            let options = PutOptions::new().prev_kv();
            let options = lease.map_or(options.clone().keep_lease(), |lease| options.lease(lease));
            let options = if value.is_none() { options.keep_value() } else { options };
            ClientOp::put(key.as_str(), value.clone().unwrap_or_default(), options)
        }
        Step::Delete(span) => ClientOp::delete(span.from.as_str(), deletion(span).prev_kv()),
        Step::Get(span) => ClientOp::get(span.from.as_str(), reading(span)),
        Step::Nested(transaction) => ClientOp::txn(txn(transaction)),
    }
}

fn step_answer(answer: &OpResponse) -> StepAnswer {
    match answer {
        OpResponse::Put(put) => StepAnswer::Put(put.prev_kv.as_ref().map(seen)),
        OpResponse::Delete(deleted) => StepAnswer::Deleted(deleted.prev_kvs.iter().map(seen).collect()),
        OpResponse::Get(read) => StepAnswer::Got(read.kvs.iter().map(seen).collect()),
        OpResponse::Txn(txn) => StepAnswer::Nested(txn.succeeded, txn.responses.iter().map(step_answer).collect()),
    }
}

/// What a key held.
pub fn seen(kv: &KeyValue) -> Seen {
    Seen {
        key: text(&kv.key),
        value: text(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// A change, as a watcher sees it.
pub fn event(event: &Event) -> crate::history::Event {
    match event.kind {
        EventKind::Put => crate::history::Event::Put(seen(&event.kv)),
        EventKind::Delete => {
            crate::history::Event::Delete { key: text(&event.kv.key), revision: event.kv.mod_revision }
        }
    }
}

/// Dials over the simulated network.
#[derive(Clone)]
struct Dial {
    doors: Doors,
    network: Network,
    clock: Arc<MachineClock>,
    /// The clients' place among the machines.
    me: usize,
    deadline: Duration,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dial")
    }
}

impl Dial {
    async fn dial(self, address: String) -> io::Result<Box<dyn ByteStream>> {
        let Dial { doors, network, clock, me, .. } = self;
        network.connect(me, clock, move |machine: usize| doors[machine].clock(), address).await
    }

    async fn call_json(&self, member: usize, call: JsonCall, op: &Op) -> Outcome {
        let attempt = async {
            match self.clone().dial(format!("m{member}:{CLIENT_PORT}")).await {
                Ok(stream) => call.send(stream, op).await,
                Err(_) => Outcome::Unknown,
            }
        };
        tokio::time::timeout(self.deadline, attempt).await.unwrap_or(Outcome::Unknown)
    }
}

impl tower_service::Service<http::Uri> for Dial {
    type Response = TokioIo<Box<dyn ByteStream>>;
    type Error = io::Error;
    type Future = BoxFuture<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let address = uri.authority().map(ToString::to_string).unwrap_or_default();
        let dialed = self.clone().dial(address);
        Box::pin(async move { dialed.await.map(TokioIo::new) })
    }
}
