//! Streams between members. Knows frames, connections and who is who; does not know Raft.
//!
//! One long-lived connection per direction and pair, for all groups; requests are matched with responses by id, and many
//! are on the way at once. Every queue is bounded: a full one answers [`PeerError::Overloaded`] at once.

mod connection;
mod frame;
mod reported;
mod server;
mod traffic;

pub(crate) use connection::Connection;
pub(crate) use server::{PeerService, serve};
pub(crate) use traffic::Traffic;

use crate::env::Env;
use parking_lot::Mutex;
use pb::request::Kind as Ask;
use pb::response::Kind as Answer;
use quorate_core::GroupId;
use quorate_proto::peer_v1 as pb;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Version of the peer protocol.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// Requests to one member that wait to be sent.
const QUEUE_MAX: usize = 4096;

/// Members whose traffic is counted. A cluster has a handful; more have introduced themselves by mistake.
const TRAFFIC_MAX: usize = 64;

/// Why a request to a peer has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// Nothing was sent.
    #[error("cannot reach the member: {0}")]
    NotConnected(String),
    /// The member refuses us. Nothing was done.
    #[error("the member refuses us: {0}")]
    Refused(String),
    /// The connection broke after the request was sent: whether it was done is unknown.
    #[error("the connection to the member was lost")]
    Lost,
    /// No answer in time: whether it was done is unknown.
    #[error("the member did not answer in time")]
    Timeout,
    /// Too much is queued for this member. Nothing was sent.
    #[error("too many requests are queued for the member")]
    Overloaded,
    /// The member answered with a failure.
    #[error("the member answered: {}", .0.text)]
    Failed(pb::Failure),
}

/// The answer to come.
pub(crate) type AnswerReceiver = oneshot::Receiver<Result<Answer, PeerError>>;

/// One request on its way.
pub(crate) struct Outgoing {
    group: GroupId,
    ask: Ask,
    answer: oneshot::Sender<Result<Answer, PeerError>>,
}

/// Who we are, for the first frame.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub data_dir_id: u64,
}

impl Identity {
    fn hello(&self, to: u64) -> pb::Hello {
        pb::Hello {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            data_dir_id: self.data_dir_id,
            protocol_version: PROTOCOL_VERSION,
            to_member_id: to,
        }
    }
}

/// Told when a member says that this one does not belong (any more).
pub(crate) type OnRefusal = Arc<dyn Fn(pb::Refusal, &str) + Send + Sync>;

/// The data directory that the cluster knows a member by, if the member has told.
pub(crate) type KnownDirectory = Arc<dyn Fn(u64) -> Option<u64> + Send + Sync>;

/// The ways to all other members.
pub(crate) struct Peers {
    env: Arc<dyn Env>,
    identity: Identity,
    idle_timeout: Duration,
    on_refusal: OnRefusal,
    known_directory: KnownDirectory,
    members: Mutex<HashMap<u64, Peer>>,
    /// Of members, and of those who have introduced themselves before this member learnt of them.
    traffic: Mutex<BTreeMap<u64, Arc<Traffic>>>,
}

struct Peer {
    urls: Arc<Mutex<Vec<String>>>,
    queue: mpsc::Sender<Outgoing>,
}

impl Peers {
    /// No connection is made yet. `idle_timeout`: a connection that owes an answer and says nothing for this long is dead.
    pub(crate) fn new(
        env: Arc<dyn Env>,
        identity: Identity,
        idle_timeout: Duration,
        on_refusal: OnRefusal,
        known_directory: KnownDirectory,
    ) -> Arc<Self> {
        let (members, traffic) = Default::default();
        Arc::new(Self { env, identity, idle_timeout, on_refusal, known_directory, members, traffic })
    }

    /// Tells where a member is.
    pub(crate) fn set_urls(&self, member: u64, urls: Vec<String>) {
        let mut members = self.members.lock();
        match members.get(&member) {
            Some(peer) => *peer.urls.lock() = urls,
            None => {
                let urls = Arc::new(Mutex::new(urls));
                let (queue, receiver) = mpsc::channel(QUEUE_MAX);
                let link = connection::Link {
                    env: self.env.clone(),
                    identity: self.identity.clone(),
                    to: member,
                    urls: urls.clone(),
                    idle_timeout: self.idle_timeout,
                    on_refusal: self.on_refusal.clone(),
                    known_directory: self.known_directory.clone(),
                    traffic: self.traffic(member),
                };
                tokio::spawn(link.run(receiver));
                members.insert(member, Peer { urls, queue });
            }
        }
    }

    /// Forgets a member: its connection ends when what is queued is answered.
    pub(crate) fn remove(&self, member: u64) {
        self.members.lock().remove(&member);
        self.traffic.lock().remove(&member);
    }

    /// Counters of what goes to and comes from a member.
    pub(crate) fn traffic(&self, member: u64) -> Arc<Traffic> {
        let mut traffic = self.traffic.lock();
        if traffic.len() >= TRAFFIC_MAX && !traffic.contains_key(&member) {
            // Shown nowhere.
            return Arc::default();
        }
        traffic.entry(member).or_default().clone()
    }

    /// The counters of all members, in Prometheus' text format.
    pub(crate) fn metrics_text(&self) -> String {
        traffic::text(self.identity.member_id, &self.traffic.lock())
    }

    /// A member said, on an open connection, that this one does not belong.
    pub(crate) fn refused(&self, reason: pb::Refusal, words: &str) {
        (self.on_refusal)(reason, words);
    }

    /// Sends a request; requests to one member keep their order.
    pub(crate) fn send(&self, member: u64, group: GroupId, ask: Ask) -> AnswerReceiver {
        let (answer, receiver) = oneshot::channel();
        let outgoing = Outgoing { group, ask, answer };
        let rejected = match self.members.lock().get(&member) {
            Some(peer) => match peer.queue.try_send(outgoing) {
                Ok(()) => return receiver,
                Err(mpsc::error::TrySendError::Full(outgoing)) => {
                    self.traffic(member).send_failed();
                    (outgoing, PeerError::Overloaded)
                }
                Err(mpsc::error::TrySendError::Closed(outgoing)) => {
                    (outgoing, PeerError::NotConnected("the member was removed".into()))
                }
            },
            None => (outgoing, PeerError::NotConnected("no such member".into())),
        };
        // The receiver is in our hands: it is there.
        let _ = rejected.0.answer.send(Err(rejected.1));
        receiver
    }

    /// Sends a request and waits for the answer.
    pub(crate) async fn call(
        &self,
        member: u64,
        group: GroupId,
        ask: Ask,
        timeout: Duration,
    ) -> Result<Answer, PeerError> {
        await_answer(self.send(member, group, ask), timeout).await
    }

    /// Dials whoever is there, and hangs up: a member that refuses this one says so.
    pub(crate) async fn introduce(&self, url: &str) {
        let (directory, timeout, traffic) = (None, self.idle_timeout, Arc::default());
        let dial = connection::Dial { identity: &self.identity, to: 0, directory, timeout, traffic };
        if let Err((PeerError::Refused(words), reason)) =
            connection::connect(self.env.as_ref(), &dial, &[url.to_owned()]).await
        {
            (self.on_refusal)(reason, &words);
        }
    }

    /// Opens a connection of its own, so that what is sent on it holds nothing up.
    pub(crate) async fn connect_for_snapshot(&self, member: u64) -> Result<Connection, PeerError> {
        let urls = self.members.lock().get(&member).map(|p| p.urls.lock().clone()).unwrap_or_default();
        let dial = connection::Dial {
            identity: &self.identity,
            to: member,
            directory: (self.known_directory)(member),
            timeout: self.idle_timeout * 10,
            traffic: self.traffic(member),
        };
        connection::connect(self.env.as_ref(), &dial, &urls).await.map_err(|e| e.0)
    }

    /// Asks a member on a connection of its own: before the links are up.
    pub(crate) async fn ask_once(
        &self,
        member: u64,
        urls: &[String],
        ask: Ask,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Result<Answer, PeerError> {
        let dial = connection::Dial {
            identity: &self.identity,
            to: member,
            directory: (self.known_directory)(member),
            timeout,
            traffic: self.traffic(member),
        };
        let connected =
            tokio::time::timeout(connect_timeout, connection::connect(self.env.as_ref(), &dial, urls)).await;
        let connection = connected.map_err(|_elapsed| PeerError::Timeout)?.map_err(|error| error.0)?;
        connection.call(GroupId::DEFAULT, ask, timeout).await
    }

    /// Dials the first of `urls` that answers, whoever it is, as this member. For one that does not take part yet.
    pub(crate) async fn connect_once(
        env: &dyn Env,
        identity: &Identity,
        urls: &[String],
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Result<Connection, PeerError> {
        let dial = connection::Dial { identity, to: 0, directory: None, timeout, traffic: Arc::default() };
        let connected = tokio::time::timeout(connect_timeout, connection::connect(env, &dial, urls)).await;
        connected.map_err(|_elapsed| PeerError::Timeout)?.map_err(|error| error.0)
    }

    /// Asks any of `urls` who is in the cluster, as far as it knows; with `confirm`, after it has tried to make sure that it
    /// knows the newest. For a member that does not know its own id yet.
    pub(crate) async fn cluster_info(
        env: &dyn Env,
        urls: &[String],
        confirm: bool,
        timeout: Duration,
    ) -> Result<pb::ClusterInfoReply, PeerError> {
        let nobody = Identity { cluster_id: 0, member_id: 0, data_dir_id: 0 };
        let traffic = Arc::default();
        let dial = connection::Dial { identity: &nobody, to: 0, directory: None, timeout, traffic };
        let connection = connection::connect(env, &dial, urls).await.map_err(|e| e.0)?;
        let ask = Ask::ClusterInfo(pb::ClusterInfo { confirm });
        let Answer::ClusterInfo(reply) = connection.call(GroupId::DEFAULT, ask, timeout).await? else {
            return Err(PeerError::Lost);
        };
        Ok(reply)
    }
}

async fn await_answer(receiver: AnswerReceiver, timeout: Duration) -> Result<Answer, PeerError> {
    match tokio::time::timeout(timeout, receiver).await {
        Err(_elapsed) => Err(PeerError::Timeout),
        Ok(Err(_dropped)) => Err(PeerError::Lost),
        Ok(Ok(answer)) => answer,
    }
}
