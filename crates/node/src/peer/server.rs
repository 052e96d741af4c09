//! The accepting side: introduces peers, hands their requests to the node, writes the responses.

use super::Traffic;
use super::frame::{self, FrameReader};
use crate::env::{Accepted, BoxFuture, ByteStream, Listener};
use bytes::BytesMut;
use parking_lot::Mutex;
use pb::request::Kind as Ask;
use pb::response::Kind as Answer;
use quorate_core::GroupId;
use quorate_proto::peer_v1 as pb;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

/// Peer connections that are open at once. A cluster has a handful of members; more is a mistake or an attack.
const CONNECTIONS_MAX: usize = 256;

/// Requests of one connection that are being handled. Beyond it, the connection is not read.
const REQUESTS_MAX: usize = 1024;

/// How long a connection may take until it has introduced itself, its TLS handshake included.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// What the node does for its peers.
pub(crate) trait PeerService: Send + Sync + 'static {
    /// State of a snapshot that is being received on a connection.
    type Incoming: Send + Sync;

    /// State of this member that is being given away on a connection.
    type Outgoing: Send + Sync;

    /// Accepts or refuses whoever dialled.
    fn hello(&self, hello: &pb::Hello) -> pb::HelloReply;

    /// Where to count what goes to and comes from a member.
    fn traffic(&self, member: u64) -> Arc<Traffic>;

    /// Opens the appends of one group: see [`crate::raft::RaftGroup::append_stream`].
    fn appends(
        &self,
        group: GroupId,
        reply: Box<dyn Fn(u64, Result<pb::AppendReply, String>) + Send>,
    ) -> Option<mpsc::Sender<(u64, pb::Append)>>;

    /// Answers everything that is neither an append nor part of a snapshot.
    fn handle(&self, group: GroupId, ask: Ask) -> impl Future<Output = Answer> + Send;

    /// Takes the next part of a snapshot. Called in order.
    fn snapshot(
        &self,
        group: GroupId,
        incoming: Option<Self::Incoming>,
        ask: Ask,
    ) -> impl Future<Output = Result<(Option<Self::Incoming>, pb::SnapshotReply), pb::Failure>> + Send;

    /// Gives the next part of this member's state away. Called in order. Blocks on the disk.
    fn pull(
        &self,
        group: GroupId,
        outgoing: Option<Self::Outgoing>,
        ask: Ask,
    ) -> Result<(Option<Self::Outgoing>, Answer), pb::Failure>;
}

/// Accepts peers until the task is dropped; then all their connections end.
pub(crate) async fn serve<S: PeerService>(mut listener: Box<dyn Listener>, service: Arc<S>) {
    let mut connections = JoinSet::new();
    let mut strangers = Strangers::default();
    let requests = Arc::new(Requests::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Accepted { opening, from } = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Who stalls must not keep members out.
        if connections.len() >= CONNECTIONS_MAX && !strangers.end_oldest() {
            tracing::warn!(from, "too many peer connections: closing the newest");
            continue;
        }
        let introduced = Arc::new(AtomicBool::new(false));
        let caller =
            Caller { from, service: service.clone(), requests: requests.clone(), introduced: introduced.clone() };
        strangers.add(connections.spawn(caller.run(opening)), introduced);
    }
}

/// Requests that are being handled. One that has begun goes on when its connection breaks, since half of it may be done; all
/// of them end with the listener.
#[derive(Default)]
struct Requests(Mutex<JoinSet<()>>);

impl Requests {
    fn spawn(&self, request: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.0.lock();
        // Those that have ended are not kept.
        while running.try_join_next().is_some() {}
        running.spawn(request);
    }
}

/// One request that is being handled. Ends when it is answered, or with [`Requests`].
struct Handling<S> {
    service: Arc<S>,
    responses: mpsc::Sender<pb::Response>,
    id: u64,
    group: GroupId,
    ask: Ask,
    _slot: OwnedSemaphorePermit,
}

impl<S: PeerService> Handling<S> {
    async fn run(self) {
        let kind = self.service.handle(self.group, self.ask).await;
        // The connection may be gone.
        let _ = self.responses.send(pb::Response { id: self.id, kind: Some(kind) }).await;
    }
}

/// One accepted connection. Ends when either side closes it, or with the listener.
struct Caller<S> {
    from: String,
    service: Arc<S>,
    requests: Arc<Requests>,
    introduced: Arc<AtomicBool>,
}

impl<S: PeerService> Caller<S> {
    async fn run(self, opening: BoxFuture<io::Result<Box<dyn ByteStream>>>) {
        let outcome = serve_connection(opening, self.service, self.requests, &self.introduced).await;
        if let Err(error) = outcome
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            tracing::debug!(from = self.from, %error, "peer connection ended");
        }
    }
}

/// Connections that have not introduced themselves yet, in the order in which they came.
#[derive(Default)]
struct Strangers(VecDeque<(AbortHandle, Arc<AtomicBool>)>);

impl Strangers {
    fn add(&mut self, connection: AbortHandle, introduced: Arc<AtomicBool>) {
        self.0.retain(|(connection, introduced)| !connection.is_finished() && !introduced.load(Relaxed));
        self.0.push_back((connection, introduced));
    }

    /// Ends the one that has taken longest; `false` if there is none.
    fn end_oldest(&mut self) -> bool {
        while let Some((connection, introduced)) = self.0.pop_front() {
            if !connection.is_finished() && !introduced.load(Relaxed) {
                connection.abort();
                return true;
            }
        }
        false
    }
}

async fn serve_connection<S: PeerService>(
    opening: BoxFuture<io::Result<Box<dyn ByteStream>>>,
    service: Arc<S>,
    requests: Arc<Requests>,
    introduced: &AtomicBool,
) -> io::Result<()> {
    let (mut reader, mut write, hello) = tokio::time::timeout(HELLO_TIMEOUT, async {
        let (read, write) = tokio::io::split(opening.await?);
        let mut reader = FrameReader::new(read);
        reader.preface().await?;
        let hello: pb::Hello = reader.next().await?;
        Ok::<_, io::Error>((reader, write, hello))
    })
    .await
    .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    introduced.store(true, Relaxed);
    let reply = service.hello(&hello);
    let refused = !reply.refusal.is_empty();
    let mut out = BytesMut::from(&frame::PREFACE[..]);
    frame::encode(&reply, &mut out);
    write.write_all(&out).await?;
    if refused {
        tracing::warn!(member = format!("{:x}", hello.member_id), reason = reply.refusal, "refused a peer");
        return write.shutdown().await;
    }
    let (responses, receiver) = mpsc::channel(REQUESTS_MAX);
    // Who only asks who is in the cluster is nobody yet.
    let traffic = if hello.member_id == 0 { Arc::default() } else { service.traffic(hello.member_id) };
    let writer = tokio::spawn(write_responses(write, receiver, traffic.clone()));
    let mut session = Session {
        service,
        requests,
        traffic,
        responses,
        appends: HashMap::new(),
        slots: Arc::new(Semaphore::new(REQUESTS_MAX)),
        incoming: None,
        outgoing: None,
        known: hello.cluster_id != 0,
    };
    let result = session.run(&mut reader).await;
    drop(session);
    writer.abort();
    result
}

/// One accepted connection.
struct Session<S: PeerService> {
    service: Arc<S>,
    requests: Arc<Requests>,
    traffic: Arc<Traffic>,
    responses: mpsc::Sender<pb::Response>,
    appends: HashMap<u32, mpsc::Sender<(u64, pb::Append)>>,
    slots: Arc<Semaphore>,
    incoming: Option<S::Incoming>,
    outgoing: Option<S::Outgoing>,
    /// Whether the dialler named our cluster. If not it may only ask who is in it.
    known: bool,
}

impl<S: PeerService> Session<S> {
    async fn run<R: tokio::io::AsyncRead + Unpin>(&mut self, reader: &mut FrameReader<R>) -> io::Result<()> {
        loop {
            let request: io::Result<pb::Request> = reader.next().await;
            self.traffic.received(reader.take_received());
            let request = request.inspect_err(|error| {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    self.traffic.receive_failed();
                }
            })?;
            let group = GroupId::new(request.group);
            let Some(ask) = request.kind else {
                self.respond(request.id, failure("this version does not know the request")).await?;
                continue;
            };
            if !self.known && !matches!(ask, Ask::ClusterInfo(_)) {
                self.respond(request.id, failure("introduce yourself with the cluster id first")).await?;
                continue;
            }
            match ask {
                Ask::Append(append) => self.append(request.id, group, append).await?,
                Ask::SnapshotBegin(_) | Ask::SnapshotChunk(_) | Ask::SnapshotEnd(_) => {
                    let answer = match self.service.snapshot(group, self.incoming.take(), ask).await {
                        Ok((incoming, reply)) => {
                            self.incoming = incoming;
                            Answer::Snapshot(reply)
                        }
                        Err(failure) => Answer::Failure(failure),
                    };
                    self.respond(request.id, answer).await?;
                }
                Ask::PullBegin(_) | Ask::PullNext(_) => {
                    let answer = match self.service.pull(group, self.outgoing.take(), ask) {
                        Ok((outgoing, answer)) => {
                            self.outgoing = outgoing;
                            answer
                        }
                        Err(failure) => Answer::Failure(failure),
                    };
                    self.respond(request.id, answer).await?;
                }
                ask => self.spawn(request.id, group, ask).await?,
            }
        }
    }

    async fn append(&mut self, id: u64, group: GroupId, append: pb::Append) -> io::Result<()> {
        if self.appends.get(&group.get()).is_none_or(mpsc::Sender::is_closed) {
            let responses = self.responses.clone();
            let reply = Box::new(move |id, result: Result<pb::AppendReply, String>| {
                let kind = match result {
                    Ok(reply) => Answer::Append(reply),
                    Err(text) => failure(&text),
                };
                // As many replies as requests can be under way fit; a full queue means that the connection is stuck, and
                // losing the reply ends it.
                let _ = responses.try_send(pb::Response { id, kind: Some(kind) });
            });
            match self.service.appends(group, reply) {
                Some(sender) => self.appends.insert(group.get(), sender),
                None => return self.respond(id, failure("no such group")).await,
            };
        }
        if let Some(sender) = self.appends.get(&group.get())
            && sender.send((id, append)).await.is_err()
        {
            return self.respond(id, failure("raft has stopped")).await;
        }
        Ok(())
    }

    async fn spawn(&mut self, id: u64, group: GroupId, ask: Ask) -> io::Result<()> {
        let slot = self.slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (service, responses) = (self.service.clone(), self.responses.clone());
        self.requests.spawn(Handling { service, responses, id, group, ask, _slot: slot }.run());
        Ok(())
    }

    async fn respond(&self, id: u64, kind: Answer) -> io::Result<()> {
        self.responses.send(pb::Response { id, kind: Some(kind) }).await.map_err(io::Error::other)
    }
}

fn failure(text: &str) -> Answer {
    Answer::Failure(pb::Failure { code: 0, text: text.into() })
}

async fn write_responses(
    mut write: WriteHalf<Box<dyn ByteStream>>,
    mut responses: mpsc::Receiver<pb::Response>,
    traffic: Arc<Traffic>,
) {
    let mut batch = Vec::with_capacity(64);
    let mut out = BytesMut::new();
    while responses.recv_many(&mut batch, 64).await > 0 {
        for response in batch.drain(..) {
            frame::encode(&response, &mut out);
        }
        if write.write_all(&out).await.is_err() {
            return;
        }
        traffic.sent(out.len());
        out.clear();
    }
}
