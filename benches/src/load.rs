//! Runs one workload for a while and measures it, with many clients on few connections and few threads.
//!
//! Closed loop: every client has one call in flight, always. Open loop: calls arrive at a fixed rate, and a call's latency
//! counts from the moment it was due, so that a system which stalls pays for every call it kept from starting.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tonic::Status;

use crate::cluster::{Cluster, CpuTime};
use crate::connection::Connection;
use crate::streams::Watchers;
use crate::workload::{Client, Data, Workload};

/// The resolution of the runtime's timers: being this late is the generator's fault and not the server's.
const TIMER_TICK: Duration = Duration::from_millis(1);

/// After the window, calls that hang are given up.
const HANG_LIMIT: Duration = Duration::from_secs(10);

/// How hard and how long to ask.
#[derive(Clone, Debug)]
pub struct Load {
    /// What to ask.
    pub workload: Workload,
    /// Keys and values.
    pub data: Data,
    /// Clients: calls in flight at most.
    pub clients: usize,
    /// HTTP/2 connections that they share, spread over the members; at least one for each thread is opened.
    pub connections: usize,
    /// Threads of the generator, each with its own runtime, connections and clients.
    pub threads: usize,
    /// Calls due per second, all clients together; `None` is a closed loop.
    pub rate: Option<f64>,
    /// Before the measurement.
    pub warm_up: Duration,
    /// The measurement.
    pub measure: Duration,
}

/// The part of a run that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    /// Whether something that happened then counts.
    pub fn holds(self, at: Instant) -> bool {
        self.start <= at && at < self.end
    }
}

/// What one thread, or all together, saw within the window.
pub struct Tally {
    calls: Histogram<u64>,
    events: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    fn new() -> Result<Tally> {
        // 1 µs to 1 min; three digits are 0.1 %.
        let histogram = || Histogram::new_with_bounds(1, 60_000_000, 3);
        Ok(Tally { calls: histogram()?, events: histogram()?, errors: 0, first_error: None })
    }

    fn call(&mut self, latency: Duration) {
        self.calls.saturating_record(latency.as_micros() as u64);
    }

    /// Counts a watch event that took so long from its put.
    pub fn event(&mut self, latency_us: u64) {
        self.events.saturating_record(latency_us);
    }

    /// Counts a call or a stream that failed.
    pub fn fail(&mut self, status: &Status) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(format!("{:?}: {}", status.code(), status.message()));
        }
    }

    fn add(&mut self, other: Tally) -> Result<()> {
        self.calls.add(other.calls)?;
        self.events.add(other.events)?;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        Ok(())
    }
}

/// One workload on one system.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Calls, or watch events, per second.
    pub per_second: f64,
    /// Latency of a call, or of an event from its put, in microseconds: median.
    pub p50_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1000.
    pub p999_us: u64,
    /// CPU time of all members together for each call or event, in microseconds.
    pub cpu_us_per_op: f64,
    /// CPU time of the load generator itself for each call or event, in microseconds: it shares the machine.
    pub generator_cpu_us_per_op: f64,
    /// Peak resident memory of the largest member since it started, in bytes.
    pub peak_rss_bytes: u64,
    /// Calls that failed; they are in none of the figures above.
    pub errors: u64,
    /// What the first of them said.
    pub first_error: Option<String>,
}

/// Runs `load` on `cluster`.
///
/// # Errors
/// When a member ended, or the clients could not be opened. Calls that fail are counted, not returned.
pub fn run(load: &Load, cluster: &mut Cluster) -> Result<Measurement> {
    cluster.check_alive()?;
    let mut threads = Vec::new();
    for share in shares(load, cluster.client_ports()) {
        let (ready_sender, ready) = oneshot::channel();
        let (start, start_receiver) = oneshot::channel();
        let load = load.clone();
        let handle = std::thread::spawn(move || thread(&load, &share, ready_sender, start_receiver));
        threads.push((handle, ready, start));
    }

    // No thread starts before all are ready. One that fails drops its sender; that drops the `start` of the others.
    let mut started = Vec::new();
    let mut failed = false;
    for (handle, ready, start) in threads {
        failed |= ready.blocking_recv().is_err();
        started.push((handle, start));
    }
    let start = Instant::now() + load.warm_up;
    let window = Window { start, end: start + load.measure };
    let mut handles = Vec::new();
    for (handle, start) in started {
        if !failed {
            // A thread that ended in the meantime says why when it is joined.
            let _ = start.send(window);
        }
        handles.push(handle);
    }

    let mut cpu = Cpu::default();
    if !failed {
        sleep_until(window.start);
        let before = (cluster.cpu_time()?, CpuTime::of_this_process()?);
        sleep_until(window.end);
        cpu.servers = cluster.cpu_time()?.since(before.0);
        cpu.generator = CpuTime::of_this_process()?.since(before.1);
    }
    let mut tally = Tally::new()?;
    for handle in handles {
        tally.add(handle.join().map_err(|_| anyhow!("a thread of the load generator panicked"))??)?;
    }
    cluster.check_alive()?;
    Ok(measurement(load, &tally, cpu, cluster.peak_rss_bytes()?))
}

fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// CPU time used within the window.
#[derive(Default)]
struct Cpu {
    servers: Duration,
    generator: Duration,
}

fn measurement(load: &Load, tally: &Tally, cpu: Cpu, peak_rss_bytes: u64) -> Measurement {
    let histogram = match load.workload {
        Workload::Watch { .. } => &tally.events,
        Workload::Put | Workload::GetLinearizable | Workload::GetSerializable | Workload::KeepAlive => &tally.calls,
    };
    let count = histogram.len();
    let per_op = |time: Duration| time.as_secs_f64() * 1e6 / (count.max(1) as f64);
    Measurement {
        per_second: count as f64 / load.measure.as_secs_f64(),
        p50_us: histogram.value_at_quantile(0.5),
        p99_us: histogram.value_at_quantile(0.99),
        p999_us: histogram.value_at_quantile(0.999),
        cpu_us_per_op: per_op(cpu.servers),
        generator_cpu_us_per_op: per_op(cpu.generator),
        peak_rss_bytes,
        errors: tally.errors,
        first_error: tally.first_error.clone(),
    }
}

/// What one thread carries of the whole load.
#[derive(Debug, PartialEq)]
struct Share {
    /// Where its connections go, in order.
    ports: Vec<u16>,
    /// The numbers of its clients.
    clients: std::ops::Range<usize>,
    watchers: usize,
    /// Between two calls that are due, in an open loop.
    interval: Option<Duration>,
}

fn shares(load: &Load, ports: &[u16]) -> Vec<Share> {
    let threads = load.threads.clamp(1, load.clients.max(1));
    let watchers = match load.workload {
        Workload::Watch { watchers } => watchers,
        Workload::Put | Workload::GetLinearizable | Workload::GetSerializable | Workload::KeepAlive => 0,
    };
    let part = |all: usize, thread: usize| all * thread / threads..all * (thread + 1) / threads;
    let connections = load.connections.max(threads);
    (0..threads)
        .map(|thread| Share {
            ports: part(connections, thread).map(|connection| ports[connection % ports.len()]).collect(),
            clients: part(load.clients, thread),
            watchers: part(watchers, thread).len(),
            interval: load.rate.map(|rate| Duration::from_secs_f64(threads as f64 / rate)),
        })
        .collect()
}

fn thread(load: &Load, share: &Share, ready: oneshot::Sender<()>, start: oneshot::Receiver<Window>) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let tally = Rc::new(RefCell::new(Tally::new()?));
    local.block_on(&runtime, thread_main(load, share, ready, start, tally.clone()))?;
    // Tasks that were given up still hold the tally; with them gone it is ours alone.
    drop(local);
    drop(runtime);
    let tally = Rc::try_unwrap(tally).map_err(|_| anyhow!("a task of the load generator outlived its runtime"))?;
    Ok(tally.into_inner())
}

async fn thread_main(
    load: &Load,
    share: &Share,
    ready: oneshot::Sender<()>,
    start: oneshot::Receiver<Window>,
    tally: Rc<RefCell<Tally>>,
) -> Result<()> {
    let mut connections = Vec::new();
    for port in &share.ports {
        connections.push(Connection::open(*port).await.with_context(|| format!("connect to port {port}"))?);
    }
    let opened = share.clients.clone().map(|index| Client::open(load.workload, &load.data, &connections, index));
    let clients = futures::future::try_join_all(opened).await?;
    let mut watchers = Vec::new();
    for (i, connection) in connections.iter().enumerate() {
        let count = share.watchers * (i + 1) / connections.len() - share.watchers * i / connections.len();
        if count > 0 {
            watchers.push(Watchers::open(connection, count).await?);
        }
    }
    if ready.send(()).is_err() {
        bail!("the measurement was given up");
    }
    let Ok(window) = start.await else { bail!("another thread could not open its clients") };

    for stream in watchers {
        tokio::task::spawn_local(stream.count(tally.clone(), window));
    }
    let schedule = Rc::new(Schedule { begin: Instant::now(), interval: share.interval, next: Cell::new(0) });
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::task::spawn_local(call_until_end(client, schedule.clone(), window, tally.clone())))
        .collect();
    // A call that hangs is left behind: it would only have been an outlier after the window.
    let _ = tokio::time::timeout_at(window.end + HANG_LIMIT, futures::future::join_all(tasks)).await;
    Ok(())
}

/// When the next call is due. Shared by the clients of one thread: whichever is free takes it.
struct Schedule {
    begin: Instant,
    interval: Option<Duration>,
    next: Cell<u32>,
}

impl Schedule {
    /// Waits for the next call, and says from when its latency counts.
    async fn due(&self) -> Instant {
        let Some(interval) = self.interval else { return Instant::now() };
        let number = self.next.get();
        self.next.set(number + 1);
        let due = self.begin + interval * number;
        let early = Instant::now() < due;
        if early {
            tokio::time::sleep_until(due).await;
        }
        counts_from(due, early, Instant::now())
    }
}

/// Only a client that was free in time is forgiven the timer's coarseness; one that was still busy is late by the
/// server's fault.
fn counts_from(due: Instant, early: bool, now: Instant) -> Instant {
    if early { now.min(due + TIMER_TICK) } else { due }
}

async fn call_until_end(mut client: Client, schedule: Rc<Schedule>, window: Window, tally: Rc<RefCell<Tally>>) {
    loop {
        let from = schedule.due().await;
        if Instant::now() >= window.end {
            return;
        }
        let outcome = client.call().await;
        let done = Instant::now();
        match outcome {
            Ok(()) if window.holds(done) => tally.borrow_mut().call(done - from),
            Ok(()) => {}
            Err(status) => {
                tally.borrow_mut().fail(&status);
                // A server that refuses at once would otherwise be asked as fast as this thread can.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(clients: usize, connections: usize, threads: usize) -> Load {
        Load {
            workload: Workload::Watch { watchers: 7 },
            data: Data { keys: 1, value_bytes: 8 },
            clients,
            connections,
            threads,
            rate: Some(100.0),
            warm_up: Duration::ZERO,
            measure: Duration::from_secs(2),
        }
    }

    #[test]
    fn the_shares_make_up_the_whole() {
        let shares = shares(&load(10, 5, 3), &[1, 2, 3]);
        assert_eq!(shares.iter().map(|share| share.clients.len()).sum::<usize>(), 10);
        assert_eq!(shares.iter().map(|share| share.watchers).sum::<usize>(), 7);
        assert_eq!(shares.iter().flat_map(|share| share.ports.clone()).collect::<Vec<_>>(), [1, 2, 3, 1, 2]);
        assert_eq!(shares[0].interval, Some(Duration::from_millis(30)));
    }

    #[test]
    fn one_client_uses_one_thread_and_every_member() {
        let shares = shares(&load(1, 3, 8), &[1, 2, 3]);
        assert_eq!(shares.len(), 1);
        assert_eq!(shares[0].ports, [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_busy_client_pays_from_the_due_time() {
        let due = Instant::now();
        let late = due + Duration::from_millis(500);
        assert_eq!(counts_from(due, false, late), due);
        assert_eq!(counts_from(due, true, due + Duration::from_micros(300)), due + Duration::from_micros(300));
        assert_eq!(counts_from(due, true, late), due + TIMER_TICK);
    }

    #[test]
    fn rates_and_cost_come_from_what_the_workload_counts() {
        let mut tally = Tally::new().expect("a tally");
        for _ in 0..100 {
            tally.event(1000);
        }
        tally.call(Duration::from_millis(9));
        let cpu = Cpu { servers: Duration::from_millis(10), generator: Duration::from_millis(1) };
        let measured = measurement(&load(1, 1, 1), &tally, cpu, 5);
        assert_eq!(measured.per_second, 50.0);
        assert_eq!((measured.cpu_us_per_op, measured.generator_cpu_us_per_op), (100.0, 10.0));
        assert_eq!(measured.p50_us, 1000);
    }
}
