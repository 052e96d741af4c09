//! Leases: keys that live only as long as somebody keeps their lease alive.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::endpoints::Endpoint;
use crate::raw::Lease;
use crate::transport::Transport;
use crate::{Client, Error};

/// Shortest time that a renewal gets before the next endpoint is asked.
const PATIENCE_MIN: Duration = Duration::from_millis(300);

/// Pause before a renewal that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

impl Client {
    /// Makes a lease of about `ttl_seconds`, which servers may raise to what they can keep. Attach keys to it with
    /// [`PutOptions::lease`](crate::PutOptions::lease).
    ///
    /// # Errors
    /// As for [`put`](Client::put). A lease of unknown outcome ends by itself.
    pub async fn lease_grant(&self, ttl_seconds: i64) -> Result<GrantedLease, Error> {
        let answer = self.lease().lease_grant(LeaseGrantRequest { ttl: ttl_seconds, id: 0 }).await?;
        Ok(GrantedLease { id: answer.id, ttl_seconds: answer.ttl })
    }

    /// Ends a lease and deletes its keys, all in one revision.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the lease does not exist, see [`Error::is_lease_lost`]; else as for
    /// [`put`](Client::put).
    pub async fn lease_revoke(&self, id: i64) -> Result<(), Error> {
        self.lease().lease_revoke(LeaseRevokeRequest { id }).await.map(drop)
    }

    /// Tells how long a lease still has, and which keys are attached to it. `None` if it does not exist.
    ///
    /// # Errors
    /// As for [`get`](Client::get).
    pub async fn lease_time_to_live(&self, id: i64) -> Result<Option<LeaseInfo>, Error> {
        let answer = self.lease().lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }).await?;
        let keys = answer.keys.into_iter().map(Into::into).collect();
        let info = LeaseInfo { remaining_seconds: answer.ttl, granted_seconds: answer.granted_ttl, keys };
        Ok((answer.ttl >= 0).then_some(info))
    }

    /// Ids of all leases.
    ///
    /// # Errors
    /// As for [`get`](Client::get).
    pub async fn leases(&self) -> Result<Vec<i64>, Error> {
        let answer = self.lease().lease_leases(LeaseLeasesRequest {}).await?;
        Ok(answer.leases.into_iter().map(|lease| lease.id).collect())
    }

    /// Keeps a lease alive in the background, renewing it three times in its time to live, at whatever endpoint
    /// answers. Returns after the first renewal.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::PutOptions;
    ///
    /// let lease = client.lease_grant(10).await?;
    /// let mut alive = client.lease_keep_alive(lease.id).await?;
    /// client.put("workers/me", "here", PutOptions::new().lease(lease.id)).await?;
    /// // Work, and stop if the lease is lost: others no longer see this worker.
    /// let error = alive.lost().await;
    /// eprintln!("stop working: {error}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the lease does not exist, [`Error::Unavailable`] if no endpoint answers in time.
    pub async fn lease_keep_alive(&self, id: i64) -> Result<KeepAlive, Error> {
        let deadline = Instant::now() + self.timeout;
        let (state, watched) = watch::channel(None);
        let (alive, handle) = oneshot::channel();
        let patience = self.timeout / 2;
        let mut renewer = Renewer { id, transport: self.transport.clone(), state, patience, stream: None };
        let (expires, interval) = loop {
            match timeout_at(deadline, renewer.renew()).await {
                Ok(Ok(renewed)) => break renewed,
                Ok(Err(Failure::Lost(error))) => return Err(error),
                Ok(Err(Failure::Retry(status))) if Instant::now() + RETRY_PAUSE >= deadline => {
                    return Err(Error::unavailable(&status));
                }
                Ok(Err(Failure::Retry(_))) => sleep(RETRY_PAUSE).await,
                Err(_) => return Err(Error::unavailable(&Status::deadline_exceeded("no answer in time"))),
            }
        };
        tokio::spawn(renewer.run(expires, interval, handle));
        Ok(KeepAlive { id, state: watched, _alive: alive })
    }
}

/// A new lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedLease {
    /// Its id.
    pub id: i64,
    /// Its time to live in seconds, which may be more than was asked for.
    pub ttl_seconds: i64,
}

/// State of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Seconds that it lives if it is not renewed.
    pub remaining_seconds: i64,
    /// Its time to live in seconds.
    pub granted_seconds: i64,
    /// Keys attached to it.
    pub keys: Vec<Vec<u8>>,
}

/// Keeps a lease alive. Dropping it stops that, and the lease ends in its time; to end it at once, call
/// [`Client::lease_revoke`].
#[derive(Debug)]
pub struct KeepAlive {
    id: i64,
    state: watch::Receiver<Option<Error>>,
    /// Tells the task by its end to stop.
    _alive: oneshot::Sender<()>,
}

impl KeepAlive {
    /// The lease.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The lease has been renewed in time so far.
    pub fn is_alive(&self) -> bool {
        self.state.borrow().is_none()
    }

    /// What the task says: `None` as long as all is well.
    pub(crate) fn state(&self) -> watch::Receiver<Option<Error>> {
        self.state.clone()
    }

    /// Waits until the lease is lost, and tells why: it was revoked, or it could not be renewed within its time to live.
    /// In the latter case it may still exist, but nothing may be built on it.
    pub async fn lost(&mut self) -> Error {
        match self.state.wait_for(Option::is_some).await.map(|error| error.clone()) {
            Ok(Some(error)) => error,
            Ok(None) | Err(_) => lost(self.id, "the runtime is shutting down"),
        }
    }
}

/// The task that renews one lease. Ends when the lease is lost or its handle is dropped.
struct Renewer {
    id: i64,
    transport: Arc<Transport>,
    state: watch::Sender<Option<Error>>,
    /// Time to wait for an answer. Several attempts must fit into what is left when a renewal is due.
    patience: Duration,
    /// Open stream, if any.
    stream: Option<Stream>,
}

struct Stream {
    endpoint: Arc<Endpoint>,
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

enum Failure {
    Lost(Error),
    Retry(Status),
}

impl Renewer {
    async fn run(mut self, expires: Instant, interval: Duration, handle: oneshot::Receiver<()>) {
        tokio::select! {
            // Nothing is ever sent: it ends when the handle is dropped.
            _ = handle => {}
            error = self.keep_alive(expires, interval) => drop(self.state.send(Some(error))),
        }
    }

    /// Renews the lease until it is lost.
    async fn keep_alive(&mut self, mut expires: Instant, mut interval: Duration) -> Error {
        loop {
            sleep(interval).await;
            let renewed = loop {
                match timeout_at(expires, self.renew()).await {
                    Ok(Ok(renewed)) => break renewed,
                    Ok(Err(Failure::Lost(error))) => return error,
                    Ok(Err(Failure::Retry(status))) => {
                        tracing::debug!(lease = self.id, %status, "renewal failed");
                        if Instant::now() + RETRY_PAUSE >= expires {
                            return lost(self.id, "not renewed within its time to live");
                        }
                        sleep(RETRY_PAUSE).await;
                    }
                    Err(_) => return lost(self.id, "not renewed within its time to live"),
                }
            };
            (expires, interval) = renewed;
        }
    }

    /// Renews once. Returns until when the lease is safe, and when to renew again.
    async fn renew(&mut self) -> Result<(Instant, Duration), Failure> {
        // The time to live counts from before the request left: the server's clock starts later.
        let sent = Instant::now();
        let answer = match self.exchange().await {
            Ok(answer) => answer,
            Err(status) => {
                if let Some(stream) = self.stream.take() {
                    stream.endpoint.failed();
                }
                return Err(Failure::Retry(status));
            }
        };
        match u64::try_from(answer.ttl) {
            Ok(0) | Err(_) => Err(Failure::Lost(lost(self.id, "it does not exist"))),
            Ok(seconds) => {
                let ttl = Duration::from_secs(seconds);
                self.patience = PATIENCE_MIN.max(ttl / 6);
                Ok((sent + ttl, ttl / 3))
            }
        }
    }

    /// Sends a request and waits for its answer, opening the stream if there is none.
    async fn exchange(&mut self) -> Result<LeaseKeepAliveResponse, Status> {
        let request = LeaseKeepAliveRequest { id: self.id };
        let until = Instant::now() + self.patience;
        if self.stream.is_none() {
            let (requests, receiver) = mpsc::channel(1);
            // There is room for one.
            let _ = requests.try_send(request);
            let receiver = ReceiverStream::new(receiver);
            let (endpoint, answers) = self.transport.bidirectional(Lease::KEEP_ALIVE, receiver, self.patience).await?;
            self.stream = Some(Stream { endpoint, requests, answers });
        } else if let Some(stream) = &self.stream {
            stream.requests.send(request).await.map_err(|_| Status::unavailable("stream ended"))?;
        }
        let Some(stream) = &mut self.stream else { return Err(Status::unavailable("stream ended")) };
        loop {
            let answer = timeout_at(until, stream.answers.message()).await;
            match answer.map_err(|_| Status::deadline_exceeded("no answer in time"))?? {
                Some(answer) if answer.id == self.id => return Ok(answer),
                Some(_) => {}
                None => return Err(Status::unavailable("stream ended")),
            }
        }
    }
}

pub(crate) fn lost(id: i64, reason: &str) -> Error {
    Error::LeaseLost { id, reason: reason.to_owned() }
}
