//! What one client does, call by call: puts, gets and lease keep-alives over the generated clients.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, RangeRequest,
};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::connection::Connection;
use crate::streams::stamp;

/// Long enough that no lease runs out during a measurement.
const LEASE_TTL_SECONDS: i64 = 600;

/// What is asked of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Puts of random keys.
    Put,
    /// Reads of random keys that see every write acknowledged before.
    GetLinearizable,
    /// Reads of random keys from what the asked member has.
    GetSerializable,
    /// Puts of random keys, all of which `watchers` watchers see; it is their events that are counted.
    Watch {
        /// Watchers of the whole prefix, spread over the connections.
        watchers: usize,
    },
    /// Renewals, one lease and one stream for each client.
    KeepAlive,
}

impl Workload {
    /// What the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::GetLinearizable => "get linearizable",
            Workload::GetSerializable => "get serializable",
            Workload::Watch { .. } => "watch",
            Workload::KeepAlive => "lease keep-alive",
        }
    }
}

/// The keys and values of a run.
#[derive(Clone, Debug)]
pub struct Data {
    /// How many different keys there are.
    pub keys: u64,
    /// Bytes of every value; at least [`STAMP_BYTES`](crate::streams::STAMP_BYTES).
    pub value_bytes: usize,
}

/// Every key starts with this.
pub const KEY_PREFIX: &str = "k";

impl Data {
    /// The key of a number: 24 bytes.
    pub fn key(&self, number: u64) -> Bytes {
        format!("{KEY_PREFIX}{number:023}").into()
    }

    /// A value that does not compress, its start the present time.
    fn value(&self, random: &[u8]) -> Bytes {
        let mut value = Vec::with_capacity(self.value_bytes);
        value.extend_from_slice(&stamp());
        value.extend_from_slice(&random[value.len()..]);
        value.into()
    }
}

/// One client. It has one call in flight at a time.
pub enum Client {
    /// Puts and gets, each on the next of the connections, as etcd's own balancer does.
    Kv {
        /// A client on each connection.
        connections: Vec<KvClient<Connection>>,
        /// The one to use next.
        next: usize,
        /// What to ask.
        workload: Workload,
        /// Keys and values.
        data: Data,
        /// Draws the keys.
        random: SmallRng,
        /// What the values are made of.
        filling: Vec<u8>,
    },
    /// Renews its own lease on its own stream.
    KeepAlive {
        /// The lease.
        id: i64,
        /// To the server.
        requests: mpsc::Sender<LeaseKeepAliveRequest>,
        /// From the server.
        answers: Streaming<LeaseKeepAliveResponse>,
    },
}

impl Client {
    /// Client `index` of the run, on `connections`.
    ///
    /// # Errors
    /// When a lease cannot be granted.
    pub async fn open(workload: Workload, data: &Data, connections: &[Connection], index: usize) -> Result<Client> {
        if workload == Workload::KeepAlive {
            let connection = &connections[index % connections.len()];
            return Client::open_keep_alive(connection).await;
        }
        // A fixed seed per client: both systems are asked for the same keys.
        let mut random = SmallRng::seed_from_u64(index as u64);
        let mut filling = vec![0; data.value_bytes];
        random.fill_bytes(&mut filling);
        Ok(Client::Kv {
            connections: connections.iter().map(Connection::kv).collect(),
            next: index,
            workload,
            data: data.clone(),
            random,
            filling,
        })
    }

    async fn open_keep_alive(connection: &Connection) -> Result<Client> {
        let mut lease = LeaseClient::with_origin(connection.clone(), connection.origin());
        let grant = LeaseGrantRequest { ttl: LEASE_TTL_SECONDS, id: 0 };
        let id = lease.lease_grant(grant).await.context("lease grant")?.into_inner().id;
        let (requests, receiver) = mpsc::channel(1);
        // The stream's answer may only come with the first renewal, so that has to be under way.
        requests.send(LeaseKeepAliveRequest { id }).await?;
        let mut answers =
            lease.lease_keep_alive(ReceiverStream::new(receiver)).await.context("keep-alive stream")?.into_inner();
        if answers.message().await?.is_none_or(|answer| answer.ttl <= 0) {
            bail!("a lease that was just granted could not be renewed");
        }
        Ok(Client::KeepAlive { id, requests, answers })
    }

    /// One call, from the request to the whole answer.
    ///
    /// # Errors
    /// What the server said, or that the connection broke.
    pub async fn call(&mut self) -> Result<(), Status> {
        match self {
            Client::Kv { connections, next, workload, data, random, filling } => {
                *next = (*next + 1) % connections.len();
                let kv = &mut connections[*next];
                let key = data.key(random.random_range(0..data.keys));
                match workload {
                    Workload::Put | Workload::Watch { .. } => {
                        let value = data.value(filling);
                        kv.put(PutRequest { key, value, ..Default::default() }).await?;
                    }
                    Workload::GetLinearizable | Workload::GetSerializable | Workload::KeepAlive => {
                        let serializable = *workload == Workload::GetSerializable;
                        kv.range(RangeRequest { key, serializable, ..Default::default() }).await?;
                    }
                }
                Ok(())
            }
            Client::KeepAlive { id, requests, answers } => {
                let closed = || Status::unavailable("the keep-alive stream ended");
                requests.send(LeaseKeepAliveRequest { id: *id }).await.map_err(|_| closed())?;
                let answer = answers.message().await?.ok_or_else(closed)?;
                if answer.ttl <= 0 {
                    return Err(Status::not_found("the lease ran out"));
                }
                Ok(())
            }
        }
    }
}

/// Puts every key once, so that reads find something.
///
/// # Errors
/// What the server said first.
pub async fn fill(data: &Data, port: u16) -> Result<()> {
    const IN_FLIGHT: usize = 64;
    let connection = Connection::open(port).await?;
    let filling = vec![b'v'; data.value_bytes];
    let puts = (0..data.keys).map(|number| {
        let mut kv = connection.kv();
        let put = PutRequest { key: data.key(number), value: data.value(&filling), ..Default::default() };
        async move { kv.put(put).await }
    });
    use futures::stream::{StreamExt, TryStreamExt};
    futures::stream::iter(puts).buffer_unordered(IN_FLIGHT).try_for_each(|_| async { Ok(()) }).await.context("fill")
}
