//! Calls of the API with what is shown of them and of their answers, as text that two servers can be compared by.
//!
//! Knows messages, not who sends them. Numbers that two servers do not have in common are masked.

use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use tokio_stream::{Stream, StreamExt};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Numbers that are a server's own: its ids, how often it had an election, how much of a lease has passed, its files' sizes.
const OWN_NUMBERS: &[&str] = &["cluster_id: ", "member_id: ", "raft_term: ", " ttl: ", "hash: "];

/// What is sent with a call.
pub type Metadata = MetadataMap;

type Sending = Pin<Box<dyn Future<Output = String> + Send>>;

/// A call that can be made of several servers.
pub struct Call {
    /// What it is, for people.
    pub shown: String,
    send: Box<dyn Fn(Channel, Metadata) -> Sending + Send + Sync>,
}

impl Call {
    fn new<F>(shown: String, send: impl Fn(Channel, Metadata) -> F + Send + Sync + 'static) -> Call
    where
        F: Future<Output = String> + Send + 'static,
    {
        Call { shown, send: Box::new(move |channel, metadata| Box::pin(send(channel, metadata))) }
    }

    /// Makes the call; gives its answer as text.
    pub async fn send(&self, channel: &Channel, metadata: Metadata) -> String {
        match tokio::time::timeout(PATIENCE, (self.send)(channel.clone(), metadata)).await {
            Ok(answer) => answer,
            Err(_) => format!("nothing in {PATIENCE:?}"),
        }
    }

    /// The same call, of whose answer only matters whether it is an error: the rest is different with each server.
    pub fn outcome_only(self) -> Call {
        let Call { shown, send } = self;
        Call::new(shown, move |channel, metadata| {
            let sending = send(channel, metadata);
            async move {
                let answer = sending.await;
                if answer.starts_with("ok") { "ok".to_owned() } else { answer }
            }
        })
    }
}

/// Code and text of a failure.
pub fn refusal(status: &Status) -> String {
    format!("{} {}", status.code() as i32, status.message())
}

/// An answer or a refusal as text.
pub fn show<A: Debug>(outcome: Result<A, Status>) -> String {
    match outcome {
        Ok(answer) => format!("ok {}", mask(&format!("{answer:?}"))),
        Err(status) => refusal(&status),
    }
}

/// Replaces the numbers that are each server's own.
fn mask(text: &str) -> String {
    OWN_NUMBERS.iter().fold(text.to_owned(), mask_one)
}

fn mask_one(text: String, name: &&str) -> String {
    let mut parts = text.split(name);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| format!("{all}{name}#{}", part.trim_start_matches(|c: char| c.is_ascii_digit())))
}

async fn ready(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(grpc)
}

/// A request with metadata.
pub fn request<Q>(message: Q, metadata: Metadata) -> Request<Q> {
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata;
    request
}

/// A call with one answer.
pub fn unary<Q, A>(shown: impl Into<String>, path: &'static str, message: Q) -> Call
where
    Q: Message + Clone + 'static,
    A: Message + Default + Debug + 'static,
{
    let path = PathAndQuery::from_static(path);
    Call::new(shown.into(), move |channel, metadata| {
        let (message, path) = (message.clone(), path.clone());
        async move {
            let answer = async {
                let codec = ProstCodec::<Q, A>::default();
                ready(channel).await?.unary(request(message, metadata), path, codec).await
            };
            show(answer.await.map(tonic::Response::into_inner))
        }
    })
}

/// A call with one request and a stream of answers, of which one is taken.
pub fn first_of_stream<Q, A>(shown: impl Into<String>, path: &'static str, message: Q) -> Call
where
    Q: Message + Clone + 'static,
    A: Message + Default + Debug + 'static,
{
    let path = PathAndQuery::from_static(path);
    Call::new(shown.into(), move |channel, metadata| {
        let (message, path) = (message.clone(), path.clone());
        async move {
            let answer = async {
                let codec = ProstCodec::<Q, A>::default();
                let answers = ready(channel).await?.server_streaming(request(message, metadata), path, codec).await?;
                next(answers.into_inner()).await
            };
            show(answer.await)
        }
    })
}

async fn next<A>(mut answers: impl Stream<Item = Result<A, Status>> + Unpin) -> Result<A, Status> {
    answers.next().await.unwrap_or_else(|| Err(Status::unknown("the stream ended")))
}

/// Keys in one of the forms that a range has.
#[derive(Clone, Debug)]
pub struct Keys {
    pub shown: String,
    pub key: Bytes,
    pub end: Bytes,
}

fn keys(shown: String, key: &str, end: &str) -> Keys {
    Keys { shown, key: Bytes::copy_from_slice(key.as_bytes()), end: Bytes::copy_from_slice(end.as_bytes()) }
}

pub fn single(key: &str) -> Keys {
    keys(key.to_owned(), key, "")
}

/// From `key` to before `end`.
pub fn span(key: &str, end: &str) -> Keys {
    keys(format!("[{key},{end})"), key, end)
}

/// All that begin with `prefix`, whose last letter must not be the last of all.
pub fn prefix(prefix: &str) -> Keys {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix has a letter") += 1;
    Keys { end: end.into(), ..keys(format!("{prefix}*"), prefix, "") }
}

/// `key` and all after it.
pub fn from(key: &str) -> Keys {
    keys(format!("[{key},)"), key, "\0")
}

pub fn everything() -> Keys {
    Keys { shown: "everything".to_owned(), ..from("\0") }
}

fn range_request(keys: &Keys) -> RangeRequest {
    RangeRequest { key: keys.key.clone(), range_end: keys.end.clone(), ..Default::default() }
}

pub fn get(keys: &Keys) -> Call {
    range(format!("get {}", keys.shown), range_request(keys))
}

pub fn range(shown: impl Into<String>, request: RangeRequest) -> Call {
    unary::<_, RangeResponse>(shown, "/etcdserverpb.KV/Range", request)
}

pub fn count(keys: &Keys) -> Call {
    range(format!("count {}", keys.shown), RangeRequest { count_only: true, ..range_request(keys) })
}

/// Reads keys without what depends on how often they were written.
pub fn keys_only(keys: &Keys) -> Call {
    let request = RangeRequest { keys_only: true, ..range_request(keys) };
    let Call { shown, send } = range(format!("get {} --keys-only", keys.shown), request);
    Call::new(shown, move |channel, metadata| {
        let sending = send(channel, metadata);
        async move { ["create_revision: ", "mod_revision: ", "version: "].iter().fold(sending.await, mask_one) }
    })
}

/// Reads a member's own state.
pub fn get_here(keys: &Keys) -> Call {
    range(format!("get {} (serializable)", keys.shown), RangeRequest { serializable: true, ..range_request(keys) })
}

/// A request to put, whose value is the key.
pub fn put_request(key: &str) -> PutRequest {
    let key = Bytes::copy_from_slice(key.as_bytes());
    PutRequest { value: key.clone(), key, ..Default::default() }
}

pub fn put(key: &str) -> Call {
    put_as(format!("put {key}"), put_request(key))
}

pub fn put_as(shown: impl Into<String>, request: PutRequest) -> Call {
    unary::<_, PutResponse>(shown, "/etcdserverpb.KV/Put", request)
}

pub fn put_prev(key: &str) -> Call {
    put_as(format!("put {key} --prev-kv"), PutRequest { prev_kv: true, ..put_request(key) })
}

fn delete_request(keys: &Keys, prev_kv: bool) -> DeleteRangeRequest {
    DeleteRangeRequest { key: keys.key.clone(), range_end: keys.end.clone(), prev_kv }
}

pub fn delete(keys: &Keys) -> Call {
    let request = delete_request(keys, false);
    unary::<_, DeleteRangeResponse>(format!("del {}", keys.shown), "/etcdserverpb.KV/DeleteRange", request)
}

pub fn delete_prev(keys: &Keys) -> Call {
    let request = delete_request(keys, true);
    unary::<_, DeleteRangeResponse>(format!("del {} --prev-kv", keys.shown), "/etcdserverpb.KV/DeleteRange", request)
}

/// An operation of a transaction.
#[derive(Clone, Debug)]
pub struct Step {
    shown: String,
    op: Op,
}

impl Step {
    pub fn get(keys: &Keys) -> Step {
        Step { shown: format!("get {}", keys.shown), op: Op::RequestRange(range_request(keys)) }
    }

    pub fn put(key: &str) -> Step {
        Step { shown: format!("put {key}"), op: Op::RequestPut(put_request(key)) }
    }

    pub fn put_prev(key: &str) -> Step {
        let request = PutRequest { prev_kv: true, ..put_request(key) };
        Step { shown: format!("put {key} --prev-kv"), op: Op::RequestPut(request) }
    }

    pub fn put_on(key: &str, lease: i64) -> Step {
        let request = PutRequest { lease, ..put_request(key) };
        Step { shown: format!("put {key} --lease {lease:x}"), op: Op::RequestPut(request) }
    }

    pub fn delete(keys: &Keys) -> Step {
        Step { shown: format!("del {}", keys.shown), op: Op::RequestDeleteRange(delete_request(keys, false)) }
    }

    pub fn delete_prev(keys: &Keys) -> Step {
        Step { shown: format!("del {} --prev-kv", keys.shown), op: Op::RequestDeleteRange(delete_request(keys, true)) }
    }

    fn nested(txn: Branches) -> Step {
        let (shown, request) = txn.request();
        Step { shown, op: Op::RequestTxn(request) }
    }
}

/// A transaction: a compare of versions that holds for keys that are there or not (`version >= 0`), and two branches.
#[derive(Clone, Debug, Default)]
pub struct Branches {
    pub compares: Vec<Keys>,
    pub then: Vec<Step>,
    pub or_else: Vec<Step>,
}

impl Branches {
    pub fn then(steps: impl IntoIterator<Item = Step>) -> Branches {
        Branches { then: steps.into_iter().collect(), ..Branches::default() }
    }

    /// The branch that is not taken.
    pub fn or_else(steps: impl IntoIterator<Item = Step>) -> Branches {
        Branches { or_else: steps.into_iter().collect(), ..Branches::default() }
    }

    pub fn compare(mut self, keys: &Keys) -> Branches {
        self.compares.push(keys.clone());
        self
    }

    /// The same inside of another transaction, `depth` times.
    pub fn nested(self, depth: usize) -> Branches {
        (0..depth).fold(self, |inner, _| Branches::then([Step::nested(inner)]))
    }

    fn request(self) -> (String, TxnRequest) {
        let list = |steps: &[Step]| steps.iter().map(|step| step.shown.clone()).collect::<Vec<_>>().join("; ");
        let compared = self.compares.iter().map(|keys| keys.shown.clone()).collect::<Vec<_>>().join(", ");
        let shown = format!("txn(if {compared} then {} else {})", list(&self.then), list(&self.or_else));
        let ops = |steps: Vec<Step>| steps.into_iter().map(|step| RequestOp { request: Some(step.op) }).collect();
        let compare = self.compares.iter().map(|keys| Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Version.into(),
            key: keys.key.clone(),
            range_end: keys.end.clone(),
            target_union: Some(TargetUnion::Version(-1)),
        });
        (shown, TxnRequest { compare: compare.collect(), success: ops(self.then), failure: ops(self.or_else) })
    }
}

pub fn txn(branches: Branches) -> Call {
    let (shown, request) = branches.request();
    unary::<_, TxnResponse>(shown, "/etcdserverpb.KV/Txn", request)
}

/// A request to watch keys.
pub fn watch_request(keys: &Keys) -> WatchRequest {
    let create = WatchCreateRequest { key: keys.key.clone(), range_end: keys.end.clone(), ..Default::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// Begins to watch; the answer to that is taken, and the watch given up.
pub fn watch(keys: &Keys) -> Call {
    let message = watch_request(keys);
    Call::new(format!("watch {}", keys.shown), move |channel, metadata| {
        let message = message.clone();
        async move { show(async { next(open_watch(channel, metadata, [message]).await?).await }.await) }
    })
}

/// A stream of watches that lasts.
pub async fn open_watch(
    channel: Channel,
    metadata: Metadata,
    requests: impl IntoIterator<Item = WatchRequest>,
) -> Result<tonic::Streaming<WatchResponse>, Status> {
    let requests: Vec<_> = requests.into_iter().collect();
    let requests = request(tokio_stream::iter(requests).chain(tokio_stream::pending()), metadata);
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    Ok(ready(channel).await?.streaming(requests, path, ProstCodec::default()).await?.into_inner())
}

/// The next answers of a stream of watches, until nothing comes for a while. Which watcher of several hears of a change
/// first is up to the server: those answers are sorted.
pub async fn drain(answers: &mut tonic::Streaming<WatchResponse>, silence: Duration) -> Vec<String> {
    let mut seen = Vec::new();
    while let Ok(Some(answer)) = tokio::time::timeout(silence, answers.next()).await {
        let failed = answer.is_err();
        seen.push(show(answer));
        if failed {
            break;
        }
    }
    if !seen.iter().any(|answer| answer.contains("created: true")) {
        seen.sort();
    }
    seen
}

pub fn keep_alive(id: i64) -> Call {
    Call::new(format!("lease keep-alive {id:x}"), move |channel, metadata| async move {
        let answer = async {
            let requests = tokio_stream::once(LeaseKeepAliveRequest { id }).chain(tokio_stream::pending());
            let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
            let codec = ProstCodec::<_, LeaseKeepAliveResponse>::default();
            let answers = ready(channel).await?.streaming(request(requests, metadata), path, codec).await?;
            next(answers.into_inner()).await
        };
        show(answer.await)
    })
}

/// Metadata that carries a token.
///
/// # Panics
/// When no header can carry it.
pub fn token(token: &str) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("token", token.parse::<MetadataValue<Ascii>>().expect("a token is a header's value"));
    metadata
}
