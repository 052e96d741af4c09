//! The dialling side: a connection, and the link that keeps one to a member.

use super::frame::{self, FrameReader};
use super::reported::Reported;
use super::{AnswerReceiver, Identity, KnownDirectory, OnRefusal, Outgoing, PeerError, Traffic, await_answer};
use crate::env::{ByteStream, Env};
use bytes::BytesMut;
use parking_lot::Mutex;
use pb::request::Kind as Ask;
use pb::response::Kind as Answer;
use quorate_core::GroupId;
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::sabotage;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

/// Requests on one connection that are written but not answered.
const UNANSWERED_MAX: usize = 8192;

/// Requests that are taken from the queue and written in one go.
const WRITE_BATCH: usize = 256;

/// How long to wait between two attempts to dial.
const REDIAL_PAUSE: Duration = Duration::from_millis(50);

/// How often a member is asked something small, to see whether it is there and how far away.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A connection to a member.
pub(crate) struct Connection {
    queue: mpsc::Sender<Outgoing>,
    closed: Arc<Notify>,
    traffic: Arc<Traffic>,
}

impl Connection {
    /// Sends a request. If the queue is full, or the connection is lost, the answer says so.
    pub(crate) fn send(&self, group: GroupId, ask: Ask) -> AnswerReceiver {
        let (answer, receiver) = oneshot::channel();
        self.enqueue(Outgoing { group, ask, answer });
        receiver
    }

    fn enqueue(&self, outgoing: Outgoing) {
        let (outgoing, error) = match self.queue.try_send(outgoing) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(outgoing)) => (outgoing, PeerError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(outgoing)) => {
                (outgoing, PeerError::NotConnected("connection lost".into()))
            }
        };
        self.traffic.send_failed();
        // Nobody may wait any more.
        let _ = outgoing.answer.send(Err(error));
    }

    /// Sends a request and waits for the answer.
    pub(crate) async fn call(&self, group: GroupId, ask: Ask, timeout: Duration) -> Result<Answer, PeerError> {
        await_answer(self.send(group, ask), timeout).await
    }
}

type Unanswered = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Answer, PeerError>>>>>;

/// Whom to dial, as whom.
pub(super) struct Dial<'a> {
    pub(super) identity: &'a Identity,
    /// The member that is meant; 0 for anybody.
    pub(super) to: u64,
    /// The data directory that the member must have, if the cluster knows it. A member that was wiped would vote as if it
    /// had never voted.
    pub(super) directory: Option<u64>,
    pub(super) timeout: Duration,
    /// Counts what goes over the connection.
    pub(super) traffic: Arc<Traffic>,
}

/// Dials the first of `urls` that answers, and introduces us. With the error comes the refusal, if it is one.
pub(super) async fn connect(
    env: &dyn Env,
    dial: &Dial<'_>,
    urls: &[String],
) -> Result<Connection, (PeerError, pb::Refusal)> {
    let mut last = (PeerError::NotConnected("no URL is known".into()), pb::Refusal::None);
    for url in urls {
        match tokio::time::timeout(dial.timeout, connect_one(env, dial, url)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = (PeerError::NotConnected(format!("{url} does not answer")), pb::Refusal::None),
        }
    }
    Err(last)
}

async fn connect_one(env: &dyn Env, dial: &Dial<'_>, url: &str) -> Result<Connection, (PeerError, pb::Refusal)> {
    let not_connected = |e: std::io::Error| (PeerError::NotConnected(format!("{url}: {e}")), pb::Refusal::None);
    let stream = env.connect(url.to_owned()).await.map_err(not_connected)?;
    let (read, mut write) = tokio::io::split(stream);
    let mut out = BytesMut::from(&frame::PREFACE[..]);
    frame::encode(&dial.identity.hello(dial.to), &mut out);
    write.write_all(&out).await.map_err(not_connected)?;
    let mut reader = FrameReader::new(read);
    reader.preface().await.map_err(not_connected)?;
    let reply: pb::HelloReply = reader.next().await.map_err(not_connected)?;
    if !reply.refusal.is_empty() {
        let reason = reply.reason();
        return Err((PeerError::Refused(reply.refusal), reason));
    }
    let is_other = dial.directory.is_some_and(|directory| directory != reply.data_dir_id);
    if is_other && !sabotage!(DataDirUnchecked) {
        let words =
            format!("{url}: member {:x} was wiped: its data directory is not the one that the cluster knows", dial.to);
        return Err((PeerError::NotConnected(words), pb::Refusal::None));
    }
    let timeout = dial.timeout;
    let (queue, receiver) = mpsc::channel(WRITE_BATCH * 16);
    let unanswered = Unanswered::default();
    let closed = Arc::new(Notify::new());
    let traffic = dial.traffic.clone();
    tokio::spawn(write_requests(write, receiver, unanswered.clone(), closed.clone(), traffic.clone()));
    let from = Dialled { member: dial.to, url: url.to_owned() };
    tokio::spawn(read_responses(reader, unanswered, closed.clone(), timeout, traffic.clone(), from));
    Ok(Connection { queue, closed, traffic })
}

/// Owns the sending half. Ends when the connection is dropped or broken; then everything unanswered is lost.
async fn write_requests(
    mut write: WriteHalf<Box<dyn ByteStream>>,
    mut queue: mpsc::Receiver<Outgoing>,
    unanswered: Unanswered,
    closed: Arc<Notify>,
    traffic: Arc<Traffic>,
) {
    let mut next_id: u64 = 1;
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    let mut out = BytesMut::new();
    loop {
        let received = tokio::select! {
            received = queue.recv_many(&mut batch, WRITE_BATCH) => received,
            () = closed.notified() => 0,
        };
        if received == 0 {
            break;
        }
        for Outgoing { group, ask, answer } in batch.drain(..) {
            if unanswered.lock().len() >= UNANSWERED_MAX {
                let _ = answer.send(Err(PeerError::Overloaded));
                continue;
            }
            let request = pb::Request { id: next_id, group: group.get(), kind: Some(ask) };
            unanswered.lock().insert(next_id, answer);
            next_id += 1;
            frame::encode(&request, &mut out);
        }
        if write.write_all(&out).await.is_err() {
            break;
        }
        traffic.sent(out.len());
        out.clear();
        if out.capacity() > 4 << 20 {
            // One big append must not keep its buffer for ever.
            out = BytesMut::new();
        }
    }
    let _ = write.shutdown().await;
    closed.notify_waiters();
    closed.notify_one();
    queue.close();
    while let Some(outgoing) = queue.recv().await {
        let _ = outgoing.answer.send(Err(PeerError::NotConnected("connection lost".into())));
    }
    lose(&unanswered);
}

/// Who is at the other end, for the log.
struct Dialled {
    /// 0: whoever is there.
    member: u64,
    url: String,
}

/// Owns the receiving half.
async fn read_responses(
    mut reader: FrameReader<ReadHalf<Box<dyn ByteStream>>>,
    unanswered: Unanswered,
    closed: Arc<Notify>,
    idle_timeout: Duration,
    traffic: Arc<Traffic>,
    from: Dialled,
) {
    loop {
        let response = tokio::select! {
            response = tokio::time::timeout(idle_timeout, reader.next::<pb::Response>()) => response,
            () = closed.notified() => break,
        };
        traffic.received(reader.take_received());
        let response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                tracing::debug!(%error, "peer connection ended");
                break;
            }
            // Silence is fine while nothing is owed.
            Err(_elapsed) if unanswered.lock().is_empty() => continue,
            Err(_elapsed) => {
                let Dialled { member, url } = &from;
                let to = format!("{member:x}");
                tracing::info!(to, url, ?idle_timeout, "a peer owes answers and says nothing: dropping the connection");
                break;
            }
        };
        let Some(answer) = unanswered.lock().remove(&response.id) else { continue };
        let result = match response.kind {
            Some(Answer::Failure(failure)) => Err(PeerError::Failed(failure)),
            Some(kind) => Ok(kind),
            None => Err(PeerError::Lost),
        };
        // Whoever asked may have given up.
        let _ = answer.send(result);
    }
    closed.notify_waiters();
    closed.notify_one();
    lose(&unanswered);
}

fn lose(unanswered: &Unanswered) {
    let lost: Vec<_> = unanswered.lock().drain().collect();
    for (_, answer) in lost {
        let _ = answer.send(Err(PeerError::Lost));
    }
}

/// Waits for the answer to a probe. It ends with the connection at the latest, which drops what is unanswered.
async fn time_answer(answer: AnswerReceiver, traffic: Arc<Traffic>) {
    let asked = Instant::now();
    if matches!(answer.await, Ok(Ok(_))) {
        traffic.round_trip(asked.elapsed());
    }
}

/// Keeps a connection to one member as long as somebody wants to send.
pub(super) struct Link {
    pub(super) env: Arc<dyn Env>,
    pub(super) identity: Identity,
    pub(super) to: u64,
    pub(super) urls: Arc<Mutex<Vec<String>>>,
    pub(super) idle_timeout: Duration,
    pub(super) on_refusal: OnRefusal,
    pub(super) known_directory: KnownDirectory,
    pub(super) traffic: Arc<Traffic>,
}

impl Link {
    /// Runs until the queue is closed.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Outgoing>) {
        let mut connection: Option<Connection> = None;
        let mut reported = Reported::default();
        let mut probes = tokio::time::interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let outgoing = tokio::select! {
                outgoing = queue.recv() => match outgoing {
                    Some(outgoing) => outgoing,
                    None => break,
                },
                _ = probes.tick() => self.probe(),
            };
            if connection.as_ref().is_some_and(|c| c.queue.is_closed()) {
                connection = None;
                self.traffic.set_connected(false);
            }
            if connection.is_none() {
                match self.dial().await {
                    Ok(new) => {
                        reported.clear();
                        tracing::info!(to = format!("{:x}", self.to), "connected to a peer");
                        connection = Some(new);
                        self.traffic.set_connected(true);
                    }
                    Err((error, refusal)) => {
                        self.report(&error, refusal, &mut reported);
                        self.refuse(outgoing, &error);
                        // What has piled up meanwhile waits for the same dead member: answer it too.
                        tokio::time::sleep(REDIAL_PAUSE).await;
                        while let Ok(outgoing) = queue.try_recv() {
                            self.refuse(outgoing, &error);
                        }
                        continue;
                    }
                }
            }
            if let Some(connection) = &connection {
                connection.enqueue(outgoing);
            }
        }
        self.traffic.set_connected(false);
        if let Some(connection) = connection {
            connection.closed.notify_waiters();
        }
    }

    async fn dial(&self) -> Result<Connection, (PeerError, pb::Refusal)> {
        let urls = self.urls.lock().clone();
        let dial = Dial {
            identity: &self.identity,
            to: self.to,
            directory: (self.known_directory)(self.to),
            timeout: self.idle_timeout,
            traffic: self.traffic.clone(),
        };
        connect(self.env.as_ref(), &dial, &urls).await
    }

    /// A question that any member answers at once, and whose answer tells how long that took.
    fn probe(&self) -> Outgoing {
        let (answer, receiver) = oneshot::channel();
        tokio::spawn(time_answer(receiver, self.traffic.clone()));
        Outgoing { group: GroupId::DEFAULT, ask: Ask::ClusterInfo(pb::ClusterInfo { confirm: false }), answer }
    }

    fn refuse(&self, outgoing: Outgoing, error: &PeerError) {
        self.traffic.send_failed();
        // Nobody may wait any more.
        let _ = outgoing.answer.send(Err(error.clone()));
    }

    fn report(&self, error: &PeerError, refusal: pb::Refusal, reported: &mut Reported) {
        let text = error.to_string();
        if let Some(unsaid) = reported.take(&text) {
            tracing::warn!(to = format!("{:x}", self.to), error = text, unsaid, "cannot connect to a peer");
        }
        if let PeerError::Refused(words) = error {
            (self.on_refusal)(refusal, words);
        }
    }
}
