//! Sessions: a lease that is kept alive in the background, and what hangs on it. Locks and elections need one.
//!
//! Knows how to queue up below a name: every wish for it is a key of its own, on the session's lease; the oldest key owns
//! the name, each of the others waits for the one before it. etcd's own clients do the same, so both understand each other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb::RangeRequest;
use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::error::text;
use crate::lease::{KeepAlive, lost};
use crate::{Client, Compare, Error, Is, Op, OpResponse, PutOptions, Txn, TxnResponse, WatchOptions};

/// Pause before a step that no endpoint took is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long a put whose client gave up may still be on its way: longer than servers try.
const STRAY_PUT: Duration = Duration::from_secs(10);

impl Client {
    /// Begins a session: a lease of about `ttl_seconds` that is kept alive in the background. Locks and elections that are
    /// entered with it last as long as the session at most.
    ///
    /// A short time to live frees the locks of a process that died soon; a long one survives long outages of the cluster.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let session = client.session(10).await?;
    /// let lock = session.lock("jobs/cleanup").await?;
    /// tokio::select! {
    ///     () = clean_up(lock.token()) => {}
    ///     error = lock.lost() => eprintln!("stop working, others may begin: {error}"),
    /// }
    /// lock.unlock().await?;
    /// # Ok(())
    /// # }
    /// # async fn clean_up(_: i64) {}
    /// ```
    ///
    /// # Errors
    /// As for [`lease_grant`](Client::lease_grant) and [`lease_keep_alive`](Client::lease_keep_alive).
    pub async fn session(&self, ttl_seconds: i64) -> Result<Session, Error> {
        let lease = self.lease_grant(ttl_seconds).await?.id;
        let alive = self.lease_keep_alive(lease).await?;
        let state = alive.state();
        let shared =
            Shared { client: self.clone(), alive, state, keys: AtomicU64::new(0), closed: AtomicBool::new(false) };
        Ok(Session { shared: Arc::new(shared) })
    }
}

/// A session. When the last handle is dropped, which locks and leaderships have as well, the lease is revoked in the
/// background, and with it go all keys of the session; to wait for that, call [`Session::close`].
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) client: Client,
    alive: KeepAlive,
    state: watch::Receiver<Option<Error>>,
    /// Keys that were named so far.
    keys: AtomicU64,
    closed: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("lease", &self.alive.id()).finish_non_exhaustive()
    }
}

impl Session {
    /// The lease.
    pub fn lease(&self) -> i64 {
        self.shared.alive.id()
    }

    /// The lease has been renewed in time so far, and nobody closed the session.
    pub fn is_alive(&self) -> bool {
        self.shared.alive.is_alive() && !self.shared.closed.load(Ordering::Relaxed)
    }

    /// Waits until the session is lost, and tells why. Locks and leaderships are lost with it.
    pub async fn lost(&self) -> Error {
        self.shared.lost().await
    }

    /// Ends the session: its locks and leaderships are free when this returns.
    ///
    /// # Errors
    /// As for [`lease_revoke`](Client::lease_revoke). The lease then ends in its time.
    pub async fn close(self) -> Result<(), Error> {
        self.shared.closed.store(true, Ordering::Relaxed);
        match self.shared.client.lease_revoke(self.lease()).await {
            // An earlier attempt may have done it.
            Err(error) if error.is_lease_lost() => Ok(()),
            outcome => outcome,
        }
    }
}

impl Shared {
    pub(crate) fn lease(&self) -> i64 {
        self.alive.id()
    }

    pub(crate) async fn lost(&self) -> Error {
        let mut state = self.state.clone();
        match state.wait_for(Option::is_some).await.map(|error| error.clone()) {
            Ok(Some(error)) => error,
            Ok(None) | Err(_) => lost(self.lease(), "the runtime is shutting down"),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.closed.load(Ordering::Relaxed) || !self.alive.is_alive() {
            return;
        }
        // Without a runtime the lease ends in its time.
        if let Ok(runtime) = Handle::try_current() {
            let (client, lease) = (self.client.clone(), self.lease());
            runtime.spawn(async move {
                if let Err(error) = client.lease_revoke(lease).await {
                    tracing::debug!(lease, %error, "the lease of a session ends in its time");
                }
            });
        }
    }
}

/// A place in the queue below a name. Dropped, it is given up in the background.
#[derive(Debug)]
pub(crate) struct Place {
    session: Arc<Shared>,
    key: Vec<u8>,
    /// Revision that created the key; `None` until an answer told.
    revision: Option<i64>,
    given_up: bool,
}

impl Place {
    /// Takes a place and waits until it is the first.
    pub(crate) async fn first(session: &Arc<Shared>, name: Vec<u8>, value: Vec<u8>) -> Result<Self, Error> {
        let number = session.keys.fetch_add(1, Ordering::Relaxed);
        let prefix = [&name[..], b"/"].concat();
        let mut key = [&prefix[..], format!("{:x}", session.lease()).as_bytes()].concat();
        // The first key is called as by etcd's clients, which have one per session and name.
        if number > 0 {
            key.extend_from_slice(format!("-{number}").as_bytes());
        }
        let mut place = Place { session: session.clone(), key, revision: None, given_up: false };
        let outcome = tokio::select! {
            biased;
            error = session.lost() => Err(error),
            outcome = place.queue_up(prefix, value) => outcome,
        };
        outcome.map(|()| place)
    }

    async fn queue_up(&mut self, prefix: Vec<u8>, value: Vec<u8>) -> Result<(), Error> {
        let client = &self.session.client.clone();
        let put = PutOptions::new().lease(self.session.lease());
        // May be repeated: the second one finds the key.
        let txn = Txn::new()
            .when([Compare::missing(&self.key[..])])
            .then([Op::put(&self.key[..], value, put)])
            .or_else([Op::get(&self.key[..], None)]);
        let answer = persist(|| client.txn(txn.clone())).await.map_err(|error| self.explain(error))?;
        let revision = created(&answer);
        self.revision = Some(revision);
        while let Some((before, seen)) = self.before(&prefix, revision).await? {
            wait_for_delete(client, before, seen).await?;
        }
        let kvs = persist(|| client.get(&self.key[..], None)).await?.kvs;
        match kvs.first() {
            Some(kv) if kv.create_revision == revision => Ok(()),
            Some(_) | None => Err(self.gone()),
        }
    }

    /// The youngest key that is older, and the revision at which it was there.
    async fn before(&self, prefix: &[u8], revision: i64) -> Result<Option<(Bytes, i64)>, Error> {
        let (key, range_end) = crate::span::Span::Prefix.bounds(prefix.to_vec());
        let request = RangeRequest {
            key,
            range_end,
            limit: 1,
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Create.into(),
            max_create_revision: revision - 1,
            keys_only: true,
            ..RangeRequest::default()
        };
        let kv = self.session.client.kv();
        let answer = persist(|| kv.range(request.clone())).await?;
        let seen = answer.header.map_or(0, |header| header.revision);
        Ok(answer.kvs.into_iter().next().map(|kv| (kv.key, seen)))
    }

    fn explain(&self, error: Error) -> Error {
        if error.is_lease_lost() { lost(self.session.lease(), text::LEASE_NOT_FOUND) } else { error }
    }

    pub(crate) fn gone(&self) -> Error {
        lost(self.session.lease(), "its key was deleted")
    }

    pub(crate) fn session(&self) -> &Arc<Shared> {
        &self.session
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision.unwrap_or_default()
    }

    /// The condition that this place is still there, and with it the first.
    pub(crate) fn is_held(&self) -> Compare {
        Compare::create_revision(&self.key[..], Is::Equal, self.revision())
    }

    /// Gives the place up. Returns when that is done, or when the session is over.
    pub(crate) async fn give_up(mut self) -> Result<(), Error> {
        let (client, key) = (self.session.client.clone(), self.key.clone());
        let outcome = tokio::select! {
            outcome = persist(|| client.delete(&key[..], None)) => outcome.map(drop),
            // The key is gone with its lease, or will be.
            _ = self.session.lost() => Ok(()),
        };
        self.given_up = outcome.is_ok();
        outcome
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Without a runtime the key goes with the session.
        if self.given_up || !self.session.alive.is_alive() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let withdrawal =
                Withdrawal { session: self.session.clone(), key: self.key.clone(), known: self.revision.is_some() };
            runtime.spawn(withdrawal.run());
        }
    }
}

/// Deletes the key of a place that was dropped. Ends when that is done, or with the session.
struct Withdrawal {
    session: Arc<Shared>,
    key: Vec<u8>,
    /// The key is known to have been there. If it is not, its put may be on its way still.
    known: bool,
}

impl Withdrawal {
    async fn run(self) {
        let client = &self.session.client;
        let since = Instant::now();
        let delete = async {
            loop {
                let deleted = persist(|| client.delete(&self.key[..], None)).await.map(|answer| answer.deleted);
                match deleted {
                    Ok(0) if !self.known && since.elapsed() < STRAY_PUT => sleep(RETRY_PAUSE).await,
                    Ok(_) => return,
                    Err(error) => {
                        tracing::debug!(%error, "a key stays until its session ends");
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = delete => {}
            _ = self.session.lost() => {}
        }
    }
}

/// Repeats a call that may be repeated for as long as no endpoint answers it: whoever waits for a lock waits for the
/// cluster, too.
async fn persist<T, F: Future<Output = Result<T, Error>>>(mut call: impl FnMut() -> F) -> Result<T, Error> {
    loop {
        match call().await {
            Err(Error::Unavailable { .. } | Error::UnknownOutcome { .. }) => sleep(RETRY_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// The revision that created the key of a place.
fn created(answer: &TxnResponse) -> i64 {
    match answer.responses.first() {
        Some(OpResponse::Get(get)) => get.kvs.first().map_or(0, |kv| kv.create_revision),
        Some(OpResponse::Put(_) | OpResponse::Delete(_) | OpResponse::Txn(_)) | None => answer.revision,
    }
}

/// Waits until `key` is deleted after the revision `seen`, or may have been.
async fn wait_for_delete(client: &Client, key: Bytes, seen: i64) -> Result<(), Error> {
    let options = WatchOptions::new().no_puts().start_revision(seen + 1);
    let mut watch = match persist(|| client.watch(&key[..], options.clone())).await {
        Err(error) if error.is_compacted() => return Ok(()),
        outcome => outcome?,
    };
    loop {
        match watch.next().await {
            Some(Ok(batch)) if batch.events.is_empty() => {}
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) if error.is_compacted() => return Ok(()),
            Some(Err(error)) => return Err(error),
            None => return Err(crate::watch::unavailable("the runtime is shutting down")),
        }
    }
}
