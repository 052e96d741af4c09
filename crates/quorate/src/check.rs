//! `check perf` and `check datascale`: load on the cluster, and whether it bears it. Workloads, limits and words are etcdctl's.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use quorate_client::{Client, Error, GetOptions};
use quorate_proto::etcdserverpb::{CompactionRequest, DefragmentRequest, DeleteRangeRequest};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::failure::{Exit, Failure, describe};
use crate::print::line;

const KEY_BYTES: usize = 256;
const VALUE_BYTES: usize = 1024;
/// At a tenth less than the wanted throughput the check fails.
const THROUGHPUT_SHARE: f64 = 0.9;
const SLOWEST_SECONDS_MAX: f64 = 0.5;
const DEVIATION_SECONDS_MAX: f64 = 0.1;

/// The commands that check a cluster.
#[derive(Debug, Clone, Subcommand)]
pub enum CheckCommand {
    /// Write for a minute at a fixed rate and tell whether the cluster keeps up
    #[command(
        after_help = "Workloads: s 150 writes/s of 50 clients, m 1000 of 200, l 8000 of 500, xl 15000 of 1000. Fails below \
                            nine tenths of that, if a write takes more than 0.5 s, or if the standard deviation is above 0.1 \
                            s.\n\nExample:\n  quorate check perf --load m"
    )]
    Perf(PerfArgs),
    /// Write many keys and tell how much memory the first endpoint takes for them
    #[command(
        after_help = "Workloads, of 1 KiB per key: s 10,000 keys of 50 clients, m 100,000 of 200, l 1,000,000 of 500, xl \
                            3,000,000 of 1000. Asks the endpoint for /metrics, without TLS.\n\nExample:\n  quorate check \
                            datascale --load s --auto-compact"
    )]
    Datascale(DatascaleArgs),
}

/// Arguments of `check perf`.
#[derive(Debug, Clone, Args)]
pub struct PerfArgs {
    /// Prefix of the keys that are written; there must be none
    #[arg(long, default_value = "/etcdctl-check-perf/")]
    prefix: String,
    #[command(flatten)]
    common: CommonArgs,
}

/// Arguments of `check datascale`.
#[derive(Debug, Clone, Args)]
pub struct DatascaleArgs {
    /// Prefix of the keys that are written; there must be none
    #[arg(long, default_value = "/etcdctl-check-datascale/")]
    prefix: String,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
struct CommonArgs {
    /// How much to write
    #[arg(long, default_value = "s")]
    load: Load,
    /// Compact at the last revision when it is done
    #[arg(long)]
    auto_compact: bool,
    /// Defragment the endpoints when it is done
    #[arg(long)]
    auto_defrag: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Load {
    #[value(name = "s", alias = "small")]
    Small,
    #[value(name = "m", alias = "medium")]
    Medium,
    #[value(name = "l", alias = "large")]
    Large,
    #[value(name = "xl", alias = "xLarge")]
    ExtraLarge,
}

/// Writes of so many clients.
#[derive(Clone, Copy)]
struct Work {
    clients: u64,
    /// All writes together.
    writes: u64,
    /// Pace of all clients together; `None`: as fast as it goes.
    per_second: Option<u64>,
}

const PERF_SECONDS: u64 = 60;

impl Load {
    fn perf(self) -> Work {
        let (per_second, clients) = match self {
            Load::Small => (150, 50),
            Load::Medium => (1000, 200),
            Load::Large => (8000, 500),
            Load::ExtraLarge => (15_000, 1000),
        };
        Work { clients, writes: per_second * PERF_SECONDS, per_second: Some(per_second) }
    }

    fn datascale(self) -> Work {
        let (writes, clients) = match self {
            Load::Small => (10_000, 50),
            Load::Medium => (100_000, 200),
            Load::Large => (1_000_000, 500),
            Load::ExtraLarge => (3_000_000, 1000),
        };
        Work { clients, writes, per_second: None }
    }
}

/// What became of the writes.
#[derive(Default)]
struct Outcome {
    seconds: Vec<f64>,
    errors: Vec<String>,
    took: Duration,
}

impl Outcome {
    fn per_second(&self) -> f64 {
        self.seconds.len() as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    fn slowest(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    fn deviation(&self) -> f64 {
        let count = self.seconds.len().max(1) as f64;
        let mean = self.seconds.iter().sum::<f64>() / count;
        (self.seconds.iter().map(|seconds| (seconds - mean).powi(2)).sum::<f64>() / count).sqrt()
    }

    /// The lines about errors, each kind once.
    fn error_lines(&self) -> Vec<String> {
        let mut kinds: Vec<&String> = self.errors.iter().collect();
        kinds.sort_unstable();
        kinds.dedup();
        let count = |kind: &String| self.errors.iter().filter(|error| *error == kind).count();
        kinds.into_iter().map(|kind| format!("FAIL: ERROR({kind}) -> {}", count(kind))).collect()
    }
}

impl CheckCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            CheckCommand::Perf(args) => perf(args, context).await,
            CheckCommand::Datascale(args) => datascale(args, context).await,
        }
    }
}

async fn perf(PerfArgs { prefix, common }: PerfArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    refuse_keys(&client, &prefix).await?;
    let work = common.load.perf();
    let outcome = write(&client, &prefix, work).await;
    clean(&client, &prefix, &common, context).await?;
    let mut passed = outcome.errors.is_empty();
    if !passed {
        line("FAIL: too many errors")?;
        for error in outcome.error_lines() {
            line(error)?;
        }
    }
    let (per_second, slowest, deviation) = (outcome.per_second(), outcome.slowest(), outcome.deviation());
    let wanted = work.per_second.unwrap_or_default() as f64;
    let checks = [
        (
            per_second / wanted > THROUGHPUT_SHARE,
            "Throughput is",
            "Throughput too low:",
            format!("{per_second:.0} writes/s"),
        ),
        (
            slowest <= SLOWEST_SECONDS_MAX,
            "Slowest request took",
            "Slowest request took too long:",
            format!("{slowest:.6}s"),
        ),
        (deviation <= DEVIATION_SECONDS_MAX, "Stddev is", "Stddev too high:", format!("{deviation:.6}s")),
    ];
    for (holds, good, bad, figure) in checks {
        passed &= holds;
        line(if holds { format!("PASS: {good} {figure}") } else { format!("FAIL: {bad} {figure}") })?;
    }
    line(if passed { "PASS" } else { "FAIL" })?;
    if passed { Ok(()) } else { Err(Failure::silent(Exit::Error)) }
}

async fn datascale(DatascaleArgs { prefix, common }: DatascaleArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    refuse_keys(&client, &prefix).await?;
    let endpoint = context.options.endpoints.first().cloned().unwrap_or_default();
    let work = common.load.datascale();
    let before = resident_bytes(&endpoint)?;
    line(format_args!(
        "Start data scale check for work load [{} key-value pairs, {VALUE_BYTES} bytes per key-value, {} concurrent clients].",
        work.writes, work.clients
    ))?;
    let outcome = write(&client, &prefix, work).await;
    let after = resident_bytes(&endpoint)?;
    clean(&client, &prefix, &common, context).await?;
    if !outcome.errors.is_empty() {
        line("FAIL: too many errors")?;
        for error in outcome.error_lines() {
            line(error)?;
        }
        return Err(Failure::silent(Exit::Error));
    }
    let used = after.saturating_sub(before) as f64 / f64::from(1 << 20);
    line(format_args!("PASS: Approximate system memory used : {used:.2} MB."))
}

/// Keys of others must not be deleted.
async fn refuse_keys(client: &Client, prefix: &str) -> Result<(), Failure> {
    let found = client.get(prefix, GetOptions::new().prefix().limit(1)).await.map_err(|error| Failure::call(&error))?;
    if found.kvs.is_empty() {
        return Ok(());
    }
    let message = format!("prefix {prefix:?} has keys. Delete with `quorate del --prefix {prefix}` first");
    Err(Failure::new(Exit::InvalidInput, message))
}

/// Keys that differ in all places, as random ones do, without a source of randomness.
fn key(prefix: &str, number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut key = prefix.as_bytes().to_vec();
    while key.len() < prefix.len() + KEY_BYTES {
        state = (state ^ (state >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb).wrapping_add(number);
        key.push(b'a' + u8::try_from(state % 26).unwrap_or_default());
    }
    key
}

async fn write(client: &Client, prefix: &str, work: Work) -> Outcome {
    let (next, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut clients = JoinSet::new();
    for _ in 0..work.clients {
        let (client, prefix, next) = (client.clone(), prefix.to_owned(), Arc::clone(&next));
        clients.spawn(async move {
            let mut outcome = Outcome::default();
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= work.writes {
                    return outcome;
                }
                if let Some(per_second) = work.per_second {
                    let due = start + Duration::from_secs_f64(number as f64 / per_second as f64);
                    tokio::time::sleep_until(due.into()).await;
                }
                let began = Instant::now();
                match client.put(key(&prefix, number), vec![b'v'; VALUE_BYTES], None).await {
                    Ok(_) => outcome.seconds.push(began.elapsed().as_secs_f64()),
                    Err(error) => outcome.errors.push(describe(&error)),
                }
            }
        });
    }
    let shows = io::stderr().is_terminal();
    let mut sum = Outcome::default();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            done = clients.join_next() => match done {
                Some(Ok(outcome)) => {
                    sum.seconds.extend(outcome.seconds);
                    sum.errors.extend(outcome.errors);
                }
                Some(Err(error)) => sum.errors.push(error.to_string()),
                None => break,
            },
            _ = tick.tick(), if shows => {
                let done = next.load(Relaxed).min(work.writes);
                // Nobody needs it if it cannot be shown.
                let _ = write!(io::stderr(), "\r{:3} %  {done}/{} writes", done * 100 / work.writes, work.writes);
            }
        }
    }
    if shows {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    sum.took = start.elapsed();
    sum
}

async fn clean(client: &Client, prefix: &str, common: &CommonArgs, context: &Context) -> Result<(), Failure> {
    let failed = |error: Error| Failure::call(&error);
    let end = GetOptions::new().prefix();
    let found = client.get(prefix, end.limit(1)).await.map_err(failed)?;
    if found.kvs.is_empty() {
        return Ok(());
    }
    let mut range_end = prefix.as_bytes().to_vec();
    // A prefix is text: its last byte can always be raised.
    if let Some(last) = range_end.last_mut() {
        *last += 1;
    }
    let delete = DeleteRangeRequest { key: prefix.to_owned().into(), range_end: range_end.into(), prev_kv: false };
    let deleted = client.kv().delete_range(delete).await.map_err(failed)?;
    if common.auto_compact {
        let revision = deleted.header.map_or(0, |header| header.revision);
        let compact = CompactionRequest { revision, physical: true };
        client.kv().compact(compact).await.map_err(failed)?;
        line(format_args!("Compacted with revision {revision}"))?;
    }
    if common.auto_defrag {
        for endpoint in &context.options.endpoints {
            let pinned = client.at(endpoint).map_err(|error| Failure::arguments(error.to_string()))?;
            pinned.maintenance().defragment(DefragmentRequest {}).await.map_err(failed)?;
            line(format_args!("Defragmented {endpoint:?}"))?;
        }
    }
    Ok(())
}

/// What the endpoint says of its memory.
fn resident_bytes(endpoint: &str) -> Result<u64, Failure> {
    const NAME: &str = "process_resident_memory_bytes ";
    let failed =
        |why: String| Failure::new(Exit::Error, format!("FAIL: Could not read process_resident_memory_bytes ({why})"));
    let address = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let text = (|| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream
            .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    })();
    let text = text.map_err(|error| failed(error.to_string()))?;
    let figure =
        text.lines().find_map(|line| line.strip_prefix(NAME)).and_then(|figure| figure.trim().parse::<f64>().ok());
    figure.map(|bytes| bytes as u64).ok_or_else(|| failed("it is not in /metrics".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_have_their_length() {
        let keys: std::collections::HashSet<_> = (0..1000).map(|number| key("/p/", number)).collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().all(|key| key.len() == 3 + KEY_BYTES && key.starts_with(b"/p/")));
    }

    #[test]
    fn figures_of_an_outcome() {
        let outcome = Outcome {
            seconds: vec![0.1, 0.3],
            errors: vec!["b".into(), "a".into(), "b".into()],
            took: Duration::from_secs(2),
        };
        assert_eq!((outcome.per_second(), outcome.slowest()), (1.0, 0.3));
        assert!((outcome.deviation() - 0.1).abs() < 1e-9);
        assert_eq!(outcome.error_lines(), ["FAIL: ERROR(a) -> 1", "FAIL: ERROR(b) -> 2"]);
    }
}
