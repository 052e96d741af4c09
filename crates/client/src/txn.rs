//! Transactions: several operations in one revision, under conditions.

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::{request_op, response_op};

use crate::kv::revision_of;
use crate::span::{Span, span_methods};
use crate::{Client, DeleteOptions, DeleteResponse, Error, GetOptions, GetResponse, PutOptions, PutResponse};

impl Client {
    /// Runs a transaction.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::{Compare, Op, Txn};
    ///
    /// // Take the job unless somebody has it.
    /// let txn = Txn::new()
    ///     .when([Compare::missing("job/7/owner")])
    ///     .then([Op::put("job/7/owner", "me", None)])
    ///     .or_else([Op::get("job/7/owner", None)]);
    /// let taken = client.txn(txn).await?.succeeded;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`put`](Client::put); a transaction that only reads is retried like [`get`](Client::get) and is never of
    /// unknown outcome.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        self.kv().txn(txn.request).await.map(TxnResponse::from)
    }
}

/// A transaction: if all conditions hold, one list of operations is done, else the other.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    request: pb::TxnRequest,
}

impl Txn {
    /// A transaction without conditions, which thus hold, and without operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds conditions.
    pub fn when(mut self, conditions: impl IntoIterator<Item = Compare>) -> Self {
        self.request.compare.extend(conditions.into_iter().map(Compare::request));
        self
    }

    /// Adds operations to do if the conditions hold.
    pub fn then(mut self, operations: impl IntoIterator<Item = Op>) -> Self {
        self.request.success.extend(operations.into_iter().map(|op| op.request));
        self
    }

    /// Adds operations to do if they do not.
    pub fn or_else(mut self, operations: impl IntoIterator<Item = Op>) -> Self {
        self.request.failure.extend(operations.into_iter().map(|op| op.request));
        self
    }
}

/// A relation that a condition asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// The same.
    Equal,
    /// Another.
    NotEqual,
    /// Greater than the given one.
    Greater,
    /// Less than the given one.
    Less,
}

/// A condition on a key or a range of keys. A missing key has version, revisions and lease 0, and no value: comparing
/// its value never holds.
#[derive(Debug, Clone)]
pub struct Compare {
    span: Span,
    key: Vec<u8>,
    is: Is,
    target: CompareTarget,
    union: TargetUnion,
}

impl Compare {
    /// The key does not exist.
    pub fn missing(key: impl Into<Vec<u8>>) -> Self {
        Self::version(key, Is::Equal, 0)
    }

    /// The key exists.
    pub fn exists(key: impl Into<Vec<u8>>) -> Self {
        Self::version(key, Is::Greater, 0)
    }

    /// Compares the number of changes since the creation.
    pub fn version(key: impl Into<Vec<u8>>, is: Is, version: i64) -> Self {
        Self::new(key, is, CompareTarget::Version, TargetUnion::Version(version))
    }

    /// Compares the revision of the creation.
    pub fn create_revision(key: impl Into<Vec<u8>>, is: Is, revision: i64) -> Self {
        Self::new(key, is, CompareTarget::Create, TargetUnion::CreateRevision(revision))
    }

    /// Compares the revision of the last change.
    pub fn mod_revision(key: impl Into<Vec<u8>>, is: Is, revision: i64) -> Self {
        Self::new(key, is, CompareTarget::Mod, TargetUnion::ModRevision(revision))
    }

    /// Compares the value.
    pub fn value(key: impl Into<Vec<u8>>, is: Is, value: impl Into<Vec<u8>>) -> Self {
        Self::new(key, is, CompareTarget::Value, TargetUnion::Value(Bytes::from(value.into())))
    }

    /// Compares the lease.
    pub fn lease(key: impl Into<Vec<u8>>, is: Is, lease: i64) -> Self {
        Self::new(key, is, CompareTarget::Lease, TargetUnion::Lease(lease))
    }

    span_methods!();

    fn new(key: impl Into<Vec<u8>>, is: Is, target: CompareTarget, union: TargetUnion) -> Self {
        Compare { span: Span::Single, key: key.into(), is, target, union }
    }

    fn request(self) -> pb::Compare {
        let result = match self.is {
            Is::Equal => CompareResult::Equal,
            Is::NotEqual => CompareResult::NotEqual,
            Is::Greater => CompareResult::Greater,
            Is::Less => CompareResult::Less,
        };
        let (key, range_end) = self.span.bounds(self.key);
        let (result, target) = (result.into(), self.target.into());
        pb::Compare { result, target, key, range_end, target_union: Some(self.union) }
    }
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub struct Op {
    request: pb::RequestOp,
}

impl Op {
    /// Reads, like [`Client::get`].
    pub fn get(key: impl Into<Vec<u8>>, options: impl Into<Option<GetOptions>>) -> Self {
        request_op::Request::RequestRange(options.into().unwrap_or_default().request(key.into())).into()
    }

    /// Writes, like [`Client::put`].
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, options: impl Into<Option<PutOptions>>) -> Self {
        request_op::Request::RequestPut(options.into().unwrap_or_default().request(key.into(), value.into())).into()
    }

    /// Deletes, like [`Client::delete`].
    pub fn delete(key: impl Into<Vec<u8>>, options: impl Into<Option<DeleteOptions>>) -> Self {
        request_op::Request::RequestDeleteRange(options.into().unwrap_or_default().request(key.into())).into()
    }

    /// Runs a transaction within the transaction. Its conditions are about the state before the outermost one.
    pub fn txn(txn: Txn) -> Self {
        request_op::Request::RequestTxn(txn.request).into()
    }
}

impl From<request_op::Request> for Op {
    fn from(request: request_op::Request) -> Self {
        Op { request: pb::RequestOp { request: Some(request) } }
    }
}

/// What a transaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// Revision of the store after the transaction: its own, if it changed anything.
    pub revision: i64,
    /// The conditions held.
    pub succeeded: bool,
    /// One answer for each operation that was done, in order.
    pub responses: Vec<OpResponse>,
}

/// Answer to an operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResponse {
    /// To [`Op::get`].
    Get(GetResponse),
    /// To [`Op::put`].
    Put(PutResponse),
    /// To [`Op::delete`].
    Delete(DeleteResponse),
    /// To [`Op::txn`].
    Txn(TxnResponse),
}

impl From<pb::TxnResponse> for TxnResponse {
    fn from(answer: pb::TxnResponse) -> Self {
        let responses = answer.responses.into_iter().filter_map(|op| op.response).map(OpResponse::from);
        TxnResponse {
            revision: revision_of(answer.header),
            succeeded: answer.succeeded,
            responses: responses.collect(),
        }
    }
}

impl From<response_op::Response> for OpResponse {
    fn from(answer: response_op::Response) -> Self {
        match answer {
            response_op::Response::ResponseRange(answer) => OpResponse::Get(answer.into()),
            response_op::Response::ResponsePut(answer) => OpResponse::Put(answer.into()),
            response_op::Response::ResponseDeleteRange(answer) => OpResponse::Delete(answer.into()),
            response_op::Response::ResponseTxn(answer) => OpResponse::Txn(answer.into()),
        }
    }
}
