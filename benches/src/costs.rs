//! What one watcher, one lease, one renewal and one audited request cost a member: differences of resident memory and of CPU time
//! between a cluster with many of them and the same without.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::cluster::{Cluster, MEMBERS, System};
use crate::connection::{Connection, wait_until_serving};

/// Watchers on one stream, as a client with many has them.
const WATCHERS_PER_STREAM: usize = 100;
/// Streams on one connection.
const STREAMS_PER_CONNECTION: usize = 20;
/// Calls under way at a time.
const CLIENTS: usize = 64;
/// How long a cluster is left alone before it is measured: its last flush and its timers are over then.
const SETTLE: Duration = Duration::from_secs(4);

/// How much of each.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    /// Idle watchers, all on one member.
    pub watchers: usize,
    /// Leases.
    pub leases: usize,
    /// Puts with and without the audit log, in each of three rounds.
    pub puts: usize,
    /// How long idle clusters are looked at.
    pub idle: Duration,
}

/// Measures everything, and tells each figure as soon as it is there.
///
/// # Errors
/// When a cluster does not start or refuses something.
pub async fn measure(system: &System, amounts: Amounts, dir: &Path, mut tell: impl FnMut(String)) -> Result<()> {
    watchers(system, amounts, &dir.join("watchers"), &mut tell).await?;
    leases(system, amounts, &dir.join("leases"), &mut tell).await?;
    audit(system, amounts, dir, &mut tell).await
}

/// A running cluster and what it took before anything was asked of it.
struct Measured {
    cluster: Cluster,
    bytes: [u64; MEMBERS],
}

impl Measured {
    async fn start(system: &System, dir: &Path) -> Result<Measured> {
        let cluster = Cluster::start(system, dir)?;
        wait_until_serving(cluster.client_ports(), Duration::from_secs(60)).await?;
        let mut measured = Measured { cluster, bytes: [0; MEMBERS] };
        tokio::time::sleep(SETTLE).await;
        measured.bytes = measured.resident()?;
        Ok(measured)
    }

    fn resident(&self) -> Result<[u64; MEMBERS]> {
        let mut bytes = [0; MEMBERS];
        for (member, bytes) in bytes.iter_mut().enumerate() {
            *bytes = self.cluster.rss_bytes(member)?;
        }
        Ok(bytes)
    }

    /// How many bytes a member has more than at the start, for each of `count`.
    fn bytes_each(&self, member: usize, count: usize) -> Result<f64> {
        Ok((self.cluster.rss_bytes(member)? as f64 - self.bytes[member] as f64) / count as f64)
    }

    /// The part of one core that all members together use while nothing is asked of them.
    async fn idle_cpu(&self, time: Duration) -> Result<f64> {
        let before = self.cluster.cpu_time()?;
        tokio::time::sleep(time).await;
        Ok(self.cluster.cpu_time()?.since(before).as_secs_f64() / time.as_secs_f64())
    }

    fn port(&self) -> u16 {
        self.cluster.client_ports()[0]
    }
}

async fn watchers(system: &System, amounts: Amounts, dir: &Path, tell: &mut impl FnMut(String)) -> Result<()> {
    let measured = Measured::start(system, dir).await?;
    let idle = measured.idle_cpu(amounts.idle).await?;
    tell(format!("nothing: {:.2} % of a core for {MEMBERS} members", idle * 100.0));
    let mut streams = Vec::new();
    let mut connection = Connection::open(measured.port()).await?;
    for number in 0..amounts.watchers.div_ceil(WATCHERS_PER_STREAM) {
        if number % STREAMS_PER_CONNECTION == 0 {
            connection = Connection::open(measured.port()).await?;
        }
        let first = number * WATCHERS_PER_STREAM;
        let count = WATCHERS_PER_STREAM.min(amounts.watchers - first);
        streams.push(idle_watchers(&connection, first, count).await?);
    }
    tokio::time::sleep(SETTLE).await;
    let bytes = measured.bytes_each(0, amounts.watchers)?;
    let busy = measured.idle_cpu(amounts.idle).await?;
    tell(format!(
        "{} idle watchers: {bytes:.0} bytes each; {:.2} % of a core for {MEMBERS} members",
        amounts.watchers,
        busy * 100.0
    ));
    Ok(())
}

/// A stream with so many watchers, each of a key of its own that nobody writes.
async fn idle_watchers(
    connection: &Connection,
    first: usize,
    count: usize,
) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)> {
    let (requests, receiver) = mpsc::channel(count);
    for number in first..first + count {
        let key = format!("idle/{number:08}").into();
        let create = WatchCreateRequest { key, ..WatchCreateRequest::default() };
        requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
    }
    let mut client = WatchClient::with_origin(connection.clone(), connection.origin());
    let mut answers = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
    for _ in 0..count {
        let answer = answers.message().await?.context("the watch stream ended")?;
        if answer.canceled {
            bail!("a watcher was refused: {}", answer.cancel_reason);
        }
    }
    Ok((requests, answers))
}

async fn leases(system: &System, amounts: Amounts, dir: &Path, tell: &mut impl FnMut(String)) -> Result<()> {
    let measured = Measured::start(system, dir).await?;
    let connection = Connection::open(measured.port()).await?;
    let before = measured.cluster.cpu_time()?;
    each(amounts.leases, |number| {
        let mut client = LeaseClient::with_origin(connection.clone(), connection.origin());
        async move {
            client.lease_grant(LeaseGrantRequest { ttl: 3600, id: number as i64 + 1 }).await?;
            Ok(())
        }
    })
    .await?;
    let granting = measured.cluster.cpu_time()?.since(before);
    tokio::time::sleep(SETTLE).await;
    let mut bytes = [0.0; MEMBERS];
    for (member, bytes) in bytes.iter_mut().enumerate() {
        *bytes = measured.bytes_each(member, amounts.leases)?;
    }
    let idle = measured.idle_cpu(amounts.idle).await?;
    tell(format!(
        "{} leases: {:.0} to {:.0} bytes each on a member; {:.0} us of CPU to grant one; {:.2} % of a core for {MEMBERS} members",
        amounts.leases,
        bytes.iter().copied().fold(f64::INFINITY, f64::min),
        bytes.iter().copied().fold(0.0, f64::max),
        granting.as_secs_f64() * 1e6 / amounts.leases as f64,
        idle * 100.0
    ));
    let before = measured.cluster.cpu_time()?;
    renew_all(&connection, amounts.leases).await?;
    let renewing = measured.cluster.cpu_time()?.since(before);
    tell(format!("renewing each once: {:.0} us of CPU each", renewing.as_secs_f64() * 1e6 / amounts.leases as f64));
    Ok(())
}

/// Renews every lease once, over some streams, each with one request under way.
async fn renew_all(connection: &Connection, leases: usize) -> Result<()> {
    let streams = (0..CLIENTS).map(|stream| async move {
        let (requests, receiver) = mpsc::channel(1);
        let mut client = LeaseClient::with_origin(connection.clone(), connection.origin());
        requests.send(LeaseKeepAliveRequest { id: stream as i64 + 1 }).await?;
        let mut answers = client.lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
        for id in (stream..leases).step_by(CLIENTS).skip(1) {
            renewed(&mut answers).await?;
            requests.send(LeaseKeepAliveRequest { id: id as i64 + 1 }).await?;
        }
        renewed(&mut answers).await
    });
    futures::future::try_join_all(streams).await.map(drop)
}

async fn renewed(answers: &mut Streaming<quorate_proto::etcdserverpb::LeaseKeepAliveResponse>) -> Result<()> {
    let answer = answers.message().await?.context("the stream of renewals ended")?;
    if answer.ttl <= 0 { bail!("lease {} is gone", answer.id) } else { Ok(()) }
}

/// CPU of puts on two clusters that take turns, one with the audit log.
async fn audit(system: &System, amounts: Amounts, dir: &Path, tell: &mut impl FnMut(String)) -> Result<()> {
    const ROUNDS: usize = 3;
    let path = dir.join("audit.log");
    let mut with = system.clone();
    with.args.push(format!("--audit-log-path={}", path.display()));
    let clusters = [
        Measured::start(system, &dir.join("without")).await?,
        // All members have the same file open, and only the one that is asked writes to it.
        Measured::start(&with, &dir.join("with")).await?,
    ];
    let mut micros = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (measured, micros) in clusters.iter().zip(&mut micros) {
            let connection = Connection::open(measured.port()).await?;
            let before = measured.cluster.cpu_time()?;
            each(amounts.puts, |number| {
                let mut kv = connection.kv();
                let key = format!("key/{:06}", number % 10_000).into();
                async move {
                    kv.put(PutRequest { key, value: vec![b'v'; 256].into(), ..PutRequest::default() }).await?;
                    Ok(())
                }
            })
            .await?;
            micros.push(measured.cluster.cpu_time()?.since(before).as_secs_f64() * 1e6 / amounts.puts as f64);
        }
    }
    let [without, with] = micros.map(median);
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
    tell(format!(
        "a put of 256 bytes: {without:.0} us of CPU on {MEMBERS} members; {with:.0} us with the audit log, {:.0} bytes of it each",
        bytes as f64 / (amounts.puts * ROUNDS) as f64
    ));
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// Makes `count` calls, [`CLIENTS`] at a time.
async fn each<F: Future<Output = Result<()>>>(count: usize, call: impl Fn(usize) -> F) -> Result<()> {
    use futures::{StreamExt as _, TryStreamExt as _};
    let calls = futures::stream::iter((0..count).map(call));
    calls.buffer_unordered(CLIENTS).try_collect::<Vec<()>>().await.map(drop)
}
