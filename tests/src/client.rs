//! A client of one chosen member, with a deadline for every call.
//!
//! Thin on purpose: no retries and no balancing, so that a test knows which member answered and how often it was asked.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, StatusRequest, StatusResponse,
    TxnRequest,
};
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::v3lockpb::lock_client::LockClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// What came of a compare-and-set.
#[derive(Clone, Debug)]
pub struct CasReply {
    /// Revision of the answer; of the write, if it succeeded.
    pub revision: i64,
    /// `None` if it succeeded; else what the key held instead.
    pub found: Option<Option<KeyValue>>,
}

/// A client of one member.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    deadline: Duration,
}

impl Client {
    /// A client of the member at `endpoint` (`http://host:port`). It connects when it is first used.
    ///
    /// # Panics
    /// When the endpoint is no URL.
    pub fn new(endpoint: &str, deadline: Duration) -> Client {
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).expect("an endpoint is a URL");
        // A connection to a member whose link was cut would otherwise hang for as long as TCP tries.
        let channel = endpoint
            .connect_timeout(deadline.min(Duration::from_secs(1)))
            .http2_keep_alive_interval(Duration::from_secs(6))
            .keep_alive_timeout(Duration::from_secs(4))
            .connect_lazy();
        Client { channel, deadline }
    }

    /// Key-value calls, without this client's deadline.
    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    /// Lease calls, without this client's deadline.
    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    /// Watch streams.
    pub fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone())
    }

    /// Membership calls, without this client's deadline.
    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    /// Calls about locks, without this client's deadline.
    pub fn locks(&self) -> LockClient<Channel> {
        LockClient::new(self.channel.clone())
    }

    /// Maintenance calls, without this client's deadline.
    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    /// Runs a call under this client's deadline.
    ///
    /// # Errors
    /// What the server said, or `DeadlineExceeded`.
    pub async fn within<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::new(Code::DeadlineExceeded, "no answer in time")),
        }
    }

    /// Puts, and gives the revision of the write.
    ///
    /// # Errors
    /// As [`within`](Self::within). The write may have happened all the same.
    pub async fn put(&self, key: &str, value: &str) -> Result<i64, Status> {
        let request = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
        let answer = self.within(self.kv().put(request)).await?;
        revision(answer.header)
    }

    /// Reads one key: the revision of the answer, and what the key held.
    ///
    /// # Errors
    /// As [`within`](Self::within).
    pub async fn get(&self, key: &str, serializable: bool) -> Result<(i64, Option<KeyValue>), Status> {
        let request = RangeRequest { key: bytes(key), serializable, ..Default::default() };
        let answer = self.within(self.kv().range(request)).await?;
        Ok((revision(answer.header)?, answer.kvs.into_iter().next()))
    }

    /// Reads every key that starts with `prefix`.
    ///
    /// # Errors
    /// As [`within`](Self::within).
    pub async fn get_prefix(&self, prefix: &str) -> Result<RangeResponse, Status> {
        let request = RangeRequest { key: bytes(prefix), range_end: prefix_end(prefix), ..Default::default() };
        self.within(self.kv().range(request)).await
    }

    /// Puts if the key's last write was at revision `expected` (0: if there is no key), else reads it.
    ///
    /// # Errors
    /// As [`within`](Self::within). The write may have happened all the same.
    pub async fn cas(&self, key: &str, expected: i64, value: &str) -> Result<CasReply, Status> {
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: bytes(key),
            target_union: Some(TargetUnion::ModRevision(expected)),
            ..Default::default()
        };
        let put = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
        let get = RangeRequest { key: bytes(key), ..Default::default() };
        let request = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
        };
        let answer = self.within(self.kv().txn(request)).await?;
        let found = match answer.responses.into_iter().next().and_then(|op| op.response) {
            Some(Response::ResponsePut(_)) if answer.succeeded => None,
            Some(Response::ResponseRange(range)) if !answer.succeeded => Some(range.kvs.into_iter().next()),
            other => return Err(Status::internal(format!("a transaction answered {other:?}"))),
        };
        Ok(CasReply { revision: revision(answer.header)?, found })
    }

    /// The member's own view of itself and its leader.
    ///
    /// # Errors
    /// As [`within`](Self::within).
    pub async fn status(&self) -> Result<StatusResponse, Status> {
        self.within(self.maintenance().status(StatusRequest {})).await
    }
}

/// The revision of an answer's header.
///
/// # Errors
/// When it has no header.
pub fn revision(header: Option<ResponseHeader>) -> Result<i64, Status> {
    header.map(|header| header.revision).ok_or_else(|| Status::internal("an answer without a header"))
}

/// A key or value from text.
pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The end of the range of all keys that start with `prefix`, whose last byte must not be 255.
pub fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end.into()
}
