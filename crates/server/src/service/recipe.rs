//! What locks and elections have in common, and what etcd's clients do for themselves: whoever wants a name puts a key of
//! its own below it, on its lease. The oldest key owns the name; each of the others waits for the one before it, so that
//! an owner that goes wakes one, not all.
//!
//! It speaks to the store as the client would, through the same handlers, and waits on this member's own state: what was
//! queued is applied here before its answer is known, so whoever came before is here, too, and a change of the leader
//! holds nobody up.
//!
//! Whoever stops waiting leaves no key behind: see [`Withdrawal`].

use super::{kv, lease};
use crate::client::Client;
use crate::grpc::end;
use crate::limits::{Gauge, Limit, Taken};
use crate::status::status;
use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use pb::response_op::Response;
use quorate_core::{
    Compare, CompareResult as Is, CompareTarget as Target, DeleteRange, KeyRange, LeaseId, Op, Revision, Txn,
};
use quorate_node::{Error, Node, WatchControl, WatchCreate, WatchMessage, WatchStream};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::KeyValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

/// Time to live of a lease that the server makes because the client brought none. As in etcd, nobody keeps it alive.
const LEASE_TTL_SECONDS: i64 = 60;

/// Pause before something that failed for want of a leader is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long a key is tried to be taken back. By then a cluster without a leader is somebody's task.
const WITHDRAWAL_TIMEOUT: Duration = Duration::from_secs(120);

/// What is left of it when the server stops.
const WITHDRAWAL_TIMEOUT_STOPPING: Duration = Duration::from_secs(1);

/// The keys below a name: the prefix and its end.
pub fn range_of(name: &[u8]) -> (Bytes, Bytes) {
    // '0' follows '/'.
    ([name, b"/"].concat().into(), [name, b"0"].concat().into())
}

/// Asks for the oldest key below a name: its owner.
pub fn oldest(name: &[u8]) -> pb::RangeRequest {
    let (key, range_end) = range_of(name);
    pb::RangeRequest {
        key,
        range_end,
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// The condition that `key` was created at `revision`; 0: that it does not exist.
pub fn created_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// An operation of a transaction.
pub fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn get(key: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest { key: key.clone(), ..Default::default() }
}

/// The pair that a read within a transaction found first.
fn found(response: Option<pb::ResponseOp>) -> Option<KeyValue> {
    match response?.response? {
        Response::ResponseRange(range) => range.kvs.into_iter().next(),
        Response::ResponsePut(_) | Response::ResponseDeleteRange(_) | Response::ResponseTxn(_) => None,
    }
}

/// Writes a key anew, if it is the one that was created at `revision`; `None` if it is not.
///
/// # Errors
/// Those of a transaction.
pub async fn rewrite(
    client: &Client,
    key: &Bytes,
    revision: i64,
    lease: i64,
    value: Bytes,
) -> Result<Option<pb::ResponseHeader>, Status> {
    let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
    let request = pb::TxnRequest {
        compare: vec![created_at(key, revision)],
        success: vec![op(Request::RequestPut(put))],
        failure: Vec::new(),
    };
    let response = kv::txn(client, request).await?;
    Ok(response.header.filter(|_| response.succeeded))
}

/// The lease of a request: its own, or one that is made for it.
pub struct Session {
    /// The lease.
    pub lease: i64,
    made_here: bool,
}

/// The client's lease, or a new one if it brought none.
///
/// # Errors
/// Those of a grant.
pub async fn session(client: &Client, lease: i64) -> Result<Session, Status> {
    if lease != 0 {
        return Ok(Session { lease, made_here: false });
    }
    let granted = lease::grant(client, pb::LeaseGrantRequest { ttl: LEASE_TTL_SECONDS, id: 0 }).await?;
    Ok(Session { lease: granted.id, made_here: true })
}

/// A place in the queue of a name. Dropped before [`Place::keep`], it is given up.
pub struct Place {
    /// The key that stands for it.
    pub key: Bytes,
    /// The revision that created the key: the place in the queue.
    pub revision: i64,
    /// The lease of the key.
    pub lease: i64,
    /// Header of the answer that made it.
    pub header: pb::ResponseHeader,
    name: Bytes,
    owns: bool,
    withdrawal: Withdrawal,
}

impl Place {
    /// Takes a place, or joins the one that the lease has already.
    ///
    /// # Errors
    /// The lease does not exist; those of a transaction; too many requests.
    pub async fn take(client: &Client, name: Bytes, lease: i64, value: Bytes) -> Result<Self, Status> {
        let session = session(client, lease).await?;
        let (prefix, _) = range_of(&name);
        let key = Bytes::from([&prefix[..], format!("{:x}", session.lease).as_bytes()].concat());
        loop {
            let withdrawal = Withdrawal::prepare(client, &session, &key)?;
            let queued = Self::enqueue(client, &name, &key, &session, &value, withdrawal).await?;
            // Of a place that another request made, and that went meanwhile, nothing is left to wait with.
            if let Some(place) = queued {
                return Ok(place);
            }
        }
    }

    async fn enqueue(
        client: &Client,
        name: &Bytes,
        key: &Bytes,
        session: &Session,
        value: &Bytes,
        mut withdrawal: Withdrawal,
    ) -> Result<Option<Self>, Status> {
        let put = pb::PutRequest { key: key.clone(), value: value.clone(), lease: session.lease, ..Default::default() };
        let request = pb::TxnRequest {
            compare: vec![created_at(key, 0)],
            success: vec![op(Request::RequestPut(put)), op(Request::RequestRange(oldest(name)))],
            failure: vec![op(Request::RequestRange(get(key))), op(Request::RequestRange(oldest(name)))],
        };
        let response = match kv::txn(client, request).await {
            Ok(response) => response,
            Err(failure) => {
                if failure.code() != Code::Unavailable {
                    withdrawal.nothing_was_put();
                }
                return Err(failure);
            }
        };
        let mut header = response.header.unwrap_or_default();
        let mut responses = response.responses.into_iter();
        let mine = found(responses.next());
        let owner = found(responses.next());
        let revision = match mine {
            None => {
                withdrawal.was_put_at(header.revision);
                header.revision
            }
            Some(kv) => {
                // Another request made the place, and may still count on it. If its client is gone, as when this one is
                // the same client's second try, it must not take the key away any more: it does not if the key changed.
                withdrawal.nothing_was_put();
                let rewritten = rewrite(client, key, kv.create_revision, session.lease, value.clone()).await?;
                let Some(of_rewrite) = rewritten else { return Ok(None) };
                header = of_rewrite;
                kv.create_revision
            }
        };
        let owns = owner.is_none_or(|owner| owner.create_revision == revision);
        let (name, key, lease) = (name.clone(), key.clone(), session.lease);
        Ok(Some(Self { key, revision, lease, header, name, owns, withdrawal }))
    }

    /// Waits until all keys that are older are gone. The header of the answer that found this one still there; `None` if
    /// its own key went.
    ///
    /// # Errors
    /// The server stops, or does not serve any more.
    pub async fn wait(&self, client: &Client) -> Result<Option<pb::ResponseHeader>, Status> {
        if self.owns {
            return Ok(Some(self.header));
        }
        let mut no_leader = None;
        tokio::select! {
            biased;
            outcome = self.wait_for_turn(client) => outcome,
            failure = end(client, &mut no_leader) => Err(failure),
        }
    }

    async fn wait_for_turn(&self, client: &Client) -> Result<Option<pb::ResponseHeader>, Status> {
        loop {
            let (revision, mine, before) = self.look(client).await?;
            if !mine {
                return Ok(None);
            }
            let Some(before) = before else { break };
            // Whichever goes first; the next look tells which.
            wait_for_delete(client, [before, self.key.clone()], revision).await?;
        }
        // This member may be behind: what counts is that the cluster has the key still.
        let client = &client.proven().await?;
        let answer = retry(|| kv::range(client, get(&self.key))).await?;
        let mine = answer.kvs.first().is_some_and(|kv| kv.create_revision == self.revision);
        Ok(answer.header.filter(|_| mine))
    }

    /// How it stands here and now: the revision, whether the own key is there, and the youngest key that is older.
    async fn look(&self, client: &Client) -> Result<(i64, bool, Option<Bytes>), Status> {
        let client = &client.proven().await?;
        let (key, range_end) = range_of(&self.name);
        let before = pb::RangeRequest {
            key,
            range_end,
            limit: 1,
            sort_order: SortOrder::Descend as i32,
            sort_target: SortTarget::Create as i32,
            max_create_revision: self.revision - 1,
            keys_only: true,
            serializable: true,
            ..Default::default()
        };
        let mine = pb::RangeRequest { keys_only: true, serializable: true, ..get(&self.key) };
        let success = vec![op(Request::RequestRange(mine)), op(Request::RequestRange(before))];
        let answer = kv::txn(client, pb::TxnRequest { success, ..Default::default() }).await?;
        let mut responses = answer.responses.into_iter();
        let mine = found(responses.next()).is_some_and(|kv| kv.create_revision == self.revision);
        let before = found(responses.next()).map(|kv| kv.key);
        Ok((answer.header.unwrap_or_default().revision, mine, before))
    }

    /// The place belongs to the client from now on.
    pub fn keep(mut self) {
        self.withdrawal.what = None;
    }
}

/// Repeats a read while there is no leader to answer it.
async fn retry<T, F: Future<Output = Result<T, Status>>>(mut read: impl FnMut() -> F) -> Result<T, Status> {
    loop {
        match read().await {
            Err(failure) if failure.code() == Code::Unavailable => tokio::time::sleep(RETRY_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Watchers of a stream of their own.
pub struct Watch {
    /// Dropped, it ends the stream.
    _control: WatchControl,
    stream: WatchStream,
}

impl Watch {
    /// Watches ranges of keys from the revision after `seen`.
    pub fn after(client: &Client, seen: i64, ranges: impl IntoIterator<Item = KeyRange>, deletes_only: bool) -> Self {
        let (control, stream) = client.node.watch_stream();
        for range in ranges {
            control.create(WatchCreate {
                watch_id: 0,
                range,
                start_revision: Revision::new(seen + 1),
                progress_notify: false,
                no_put: deletes_only,
                no_delete: false,
                prev_kv: false,
            });
        }
        Self { _control: control, stream }
    }

    /// The next events with the revision for their header; `None` if history that was needed is gone: look again.
    ///
    /// # Errors
    /// Too many watchers, or the server stops.
    pub async fn next(&mut self) -> Result<Option<(i64, Vec<quorate_core::Record>)>, Status> {
        loop {
            match self.stream.next().await {
                Some(WatchMessage::Created { .. } | WatchMessage::Progress { .. }) => {}
                Some(WatchMessage::Events { revision, events, .. }) => {
                    return Ok(Some((revision.get(), events.into_iter().map(|event| event.record).collect())));
                }
                Some(WatchMessage::Canceled { .. }) => return Ok(None),
                // Its range is none that could be refused.
                Some(WatchMessage::Refused { reason, .. }) => {
                    return Err(Limit::of_watcher(reason).unwrap_or(Limit::Watchers).refusal());
                }
                None => return Err(status(&Error::Stopped)),
            }
        }
    }
}

/// Waits until one of the keys is deleted after `seen`, or may have been.
async fn wait_for_delete(client: &Client, keys: [Bytes; 2], seen: i64) -> Result<(), Status> {
    Watch::after(client, seen, keys.map(KeyRange::Single), true).next().await.map(drop)
}

/// Takes back what a request left in the store, if it ends before its client has it: the client went away or its deadline
/// passed, the session ended, or it is not known whether the key was put. Counts as a request until that is done.
struct Withdrawal {
    node: Node,
    what: Option<What>,
    permit: Option<Taken<Arc<Gauge>>>,
    tasks: TaskTracker,
    runtime: Handle,
    stopping: CancellationToken,
}

enum What {
    /// The lease that was made for the request, and with it the key.
    Lease(LeaseId),
    /// The key, if it was created as said and nobody has written it since.
    Key { key: Bytes, created: Is, revision: Revision },
}

impl Withdrawal {
    fn prepare(client: &Client, session: &Session, key: &Bytes) -> Result<Self, Status> {
        let permit = Gauge::take(Arc::clone(&client.requests), 1);
        let what = if session.made_here {
            What::Lease(LeaseId::new(session.lease))
        } else {
            What::Key { key: key.clone(), created: Is::Greater, revision: client.node.header().revision }
        };
        if permit.is_none() {
            // A lease that was made ends by itself.
            return Err(Limit::Requests.refusal());
        }
        Ok(Self {
            // Taking back is the server's business: it put the key, and the client may have lost the right to it since.
            node: client.system.clone(),
            what: Some(what),
            permit,
            tasks: client.detached.clone(),
            runtime: Handle::current(),
            stopping: client.stopping.clone(),
        })
    }

    fn was_put_at(&mut self, at: i64) {
        if let Some(What::Key { created, revision, .. }) = &mut self.what {
            (*created, *revision) = (Is::Equal, Revision::new(at));
        }
    }

    fn nothing_was_put(&mut self) {
        if let Some(What::Key { .. }) = self.what {
            self.what = None;
        }
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if let Some(what) = self.what.take() {
            let task = Withdraw {
                node: self.node.clone(),
                what,
                stopping: self.stopping.clone(),
                _permit: self.permit.take(),
            };
            self.tasks.spawn_on(task.run(), &self.runtime);
        }
    }
}

/// The task. Ends when it is done, after [`WITHDRAWAL_TIMEOUT`], or soon after the server began to stop.
struct Withdraw {
    node: Node,
    what: What,
    stopping: CancellationToken,
    _permit: Option<Taken<Arc<Gauge>>>,
}

impl Withdraw {
    async fn run(self) {
        let stopped = async {
            self.stopping.cancelled().await;
            tokio::time::sleep(WITHDRAWAL_TIMEOUT_STOPPING).await;
        };
        let done = tokio::select! {
            () = self.carry_out() => true,
            () = stopped => false,
            () = tokio::time::sleep(WITHDRAWAL_TIMEOUT) => false,
        };
        if !done {
            tracing::warn!(
                "a key of a lock or an election stays until its lease ends: its client went away, and it could not be deleted"
            );
        }
    }

    async fn carry_out(&self) {
        while let Err(error) = self.attempt().await {
            if status(&error).code() != Code::Unavailable {
                // Lease or key are gone.
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn attempt(&self) -> Result<(), Error> {
        match &self.what {
            What::Lease(id) => self.node.lease_revoke(*id).await.map(drop),
            What::Key { key, created, revision } => {
                // INVARIANT(one-holder): whoever joins writes the key, and from then on it is no longer this request's.
                let range = KeyRange::Single(key.clone());
                let compares = vec![
                    Compare { range: range.clone(), result: *created, target: Target::Create(*revision) },
                    Compare { range: range.clone(), result: Is::Equal, target: Target::Version(1) },
                ];
                let delete = Op::DeleteRange(DeleteRange { range, prev_kv: false });
                self.node.txn(Txn { compares, ..Txn::of(delete) }).await.map(drop)
            }
        }
    }
}
