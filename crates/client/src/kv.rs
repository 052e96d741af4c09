//! Reading and writing keys.

use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RangeResponse, ResponseHeader,
};
use quorate_proto::mvccpb::KeyValue;

use crate::span::{Span, span_methods};
use crate::{Client, Error};

impl Client {
    /// Reads a key or, by the options, a range of keys; the newest state unless the options say otherwise.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::GetOptions;
    ///
    /// if let Some(kv) = client.get("config/mode", None).await?.kvs.first() {
    ///     println!("{:?} since revision {}", kv.value, kv.mod_revision);
    /// }
    /// let all = client.get("config/", GetOptions::new().prefix()).await?;
    /// println!("{} keys at revision {}", all.count, all.revision);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Rejected`], for example if the revision is compacted; [`Error::Unavailable`] at the deadline.
    pub async fn get(
        &self,
        key: impl Into<Vec<u8>>,
        options: impl Into<Option<GetOptions>>,
    ) -> Result<GetResponse, Error> {
        let request = options.into().unwrap_or_default().request(key.into());
        self.kv().range(request).await.map(GetResponse::from)
    }

    /// Writes a key.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::PutOptions;
    ///
    /// let before = client.put("config/mode", "fast", PutOptions::new().prev_kv()).await?.prev_kv;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Rejected`] and [`Error::Unavailable`] if nothing was written; [`Error::UnknownOutcome`] if it may have
    /// been.
    pub async fn put(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        options: impl Into<Option<PutOptions>>,
    ) -> Result<PutResponse, Error> {
        let request = options.into().unwrap_or_default().request(key.into(), value.into());
        self.kv().put(request).await.map(PutResponse::from)
    }

    /// Deletes a key or, by the options, a range of keys.
    ///
    /// # Errors
    /// As for [`put`](Client::put). Deleting what does not exist is no error.
    pub async fn delete(
        &self,
        key: impl Into<Vec<u8>>,
        options: impl Into<Option<DeleteOptions>>,
    ) -> Result<DeleteResponse, Error> {
        let request = options.into().unwrap_or_default().request(key.into());
        self.kv().delete_range(request).await.map(DeleteResponse::from)
    }

    /// Drops the history before `revision`, at which reading stays possible.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the revision is compacted already or does not exist yet; else as for
    /// [`put`](Client::put).
    pub async fn compact(&self, revision: i64) -> Result<(), Error> {
        self.kv().compact(CompactionRequest { revision, physical: false }).await.map(drop)
    }
}

/// By what a range is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortBy {
    /// The key.
    Key,
    /// Number of changes since the creation.
    Version,
    /// Revision of the creation.
    CreateRevision,
    /// Revision of the last change.
    ModRevision,
    /// The value.
    Value,
}

/// What [`Client::get`] reads.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    span: Span,
    request: RangeRequest,
}

impl GetOptions {
    /// One key, newest revision, linearizable.
    pub fn new() -> Self {
        Self::default()
    }

    span_methods!();

    /// At most so many pairs.
    pub fn limit(mut self, limit: i64) -> Self {
        self.request.limit = limit;
        self
    }

    /// The state at an earlier revision.
    pub fn revision(mut self, revision: i64) -> Self {
        self.request.revision = revision;
        self
    }

    /// Lets any member answer from what it has: cheaper, and works without a leader, but may be stale.
    pub fn serializable(mut self) -> Self {
        self.request.serializable = true;
        self
    }

    /// Leaves the values out.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Counts the keys only.
    pub fn count_only(mut self) -> Self {
        self.request.count_only = true;
        self
    }

    /// Sorts in ascending order. Without it, pairs come in the order of their keys.
    pub fn sort_ascending(self, by: SortBy) -> Self {
        self.sort(by, SortOrder::Ascend)
    }

    /// Sorts in descending order.
    pub fn sort_descending(self, by: SortBy) -> Self {
        self.sort(by, SortOrder::Descend)
    }

    fn sort(mut self, by: SortBy, order: SortOrder) -> Self {
        let target = match by {
            SortBy::Key => SortTarget::Key,
            SortBy::Version => SortTarget::Version,
            SortBy::CreateRevision => SortTarget::Create,
            SortBy::ModRevision => SortTarget::Mod,
            SortBy::Value => SortTarget::Value,
        };
        self.request.set_sort_target(target);
        self.request.set_sort_order(order);
        self
    }

    pub(crate) fn request(self, key: Vec<u8>) -> RangeRequest {
        let (key, range_end) = self.span.bounds(key);
        RangeRequest { key, range_end, ..self.request }
    }
}

/// How [`Client::put`] writes.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    request: PutRequest,
}

impl PutOptions {
    /// No lease, and no previous pair in the answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches the key to a lease, with which it ends.
    pub fn lease(mut self, lease: i64) -> Self {
        self.request.lease = lease;
        self
    }

    /// Asks for the pair as it was before.
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Keeps the lease that the key has; the key must exist.
    pub fn keep_lease(mut self) -> Self {
        self.request.ignore_lease = true;
        self
    }

    /// Keeps the value that the key has; the key must exist, and the value that is given must be empty.
    pub fn keep_value(mut self) -> Self {
        self.request.ignore_value = true;
        self
    }

    pub(crate) fn request(self, key: Vec<u8>, value: Vec<u8>) -> PutRequest {
        PutRequest { key: key.into(), value: value.into(), ..self.request }
    }
}

/// What [`Client::delete`] deletes.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    span: Span,
    prev_kv: bool,
}

impl DeleteOptions {
    /// One key, and no previous pairs in the answer.
    pub fn new() -> Self {
        Self::default()
    }

    span_methods!();

    /// Asks for the pairs as they were before.
    pub fn prev_kv(mut self) -> Self {
        self.prev_kv = true;
        self
    }

    pub(crate) fn request(self, key: Vec<u8>) -> DeleteRangeRequest {
        let (key, range_end) = self.span.bounds(key);
        DeleteRangeRequest { key, range_end, prev_kv: self.prev_kv }
    }
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GetResponse {
    /// Revision of the store when it answered; not the revision that was read at, if the options name one. A watch
    /// from the revision after it misses nothing.
    pub revision: i64,
    /// The pairs.
    pub kvs: Vec<KeyValue>,
    /// Number of keys in the range, whatever the limit.
    pub count: i64,
    /// The limit left keys out.
    pub more: bool,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutResponse {
    /// Revision of the write.
    pub revision: i64,
    /// The pair before, if it was asked for and existed.
    pub prev_kv: Option<KeyValue>,
}

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteResponse {
    /// Revision of the store after the call.
    pub revision: i64,
    /// Number of keys deleted.
    pub deleted: i64,
    /// The pairs before, if they were asked for.
    pub prev_kvs: Vec<KeyValue>,
}

pub(crate) fn revision_of(header: Option<ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

impl From<RangeResponse> for GetResponse {
    fn from(answer: RangeResponse) -> Self {
        let RangeResponse { header, kvs, more, count } = answer;
        GetResponse { revision: revision_of(header), kvs, count, more }
    }
}

impl From<quorate_proto::etcdserverpb::PutResponse> for PutResponse {
    fn from(answer: quorate_proto::etcdserverpb::PutResponse) -> Self {
        PutResponse { revision: revision_of(answer.header), prev_kv: answer.prev_kv }
    }
}

impl From<DeleteRangeResponse> for DeleteResponse {
    fn from(answer: DeleteRangeResponse) -> Self {
        let DeleteRangeResponse { header, deleted, prev_kvs } = answer;
        DeleteResponse { revision: revision_of(header), deleted, prev_kvs }
    }
}
