//! Tests of the log as a whole, on a disk that fails.

mod basic;
mod check;
mod crash;
mod damage;
mod faults;
mod golden;
mod model;
mod random;
mod threads;

use crate::fault::FaultDisk;
use crate::{Completion, GroupLog, LogEntry, Wal, WalError, WalOptions};
use bytes::Bytes;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const DIR: &str = "/wal";

/// Runs on one thread: tasks take turns at awaits only, so that every run is the same.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn options(segment_bytes: u64) -> WalOptions {
    let base = WalOptions::new(DIR);
    WalOptions { segment_bytes, cache_bytes: 2 << 10, queue_bytes: 16 << 10, recycled_segments_max: 2, ..base }
}

fn segment_path(sequence: u64) -> PathBuf {
    Path::new(DIR).join(format!("{sequence:016x}.wal"))
}

/// A log with its tasks.
struct Running {
    wal: Wal,
    writer: JoinHandle<()>,
    preparer: JoinHandle<()>,
    /// What the fatal hook was told.
    fatal: Arc<Mutex<Vec<WalError>>>,
}

fn open(disk: &FaultDisk, options: &WalOptions) -> Result<Running, WalError> {
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&fatal);
    let hook = Arc::new(move |error: &WalError| told.lock().push(error.clone()));
    let (wal, writer, preparer) = Wal::open(Arc::new(disk.clone()), options.clone(), hook)?;
    Ok(Running { wal, writer: tokio::spawn(writer.run()), preparer: tokio::spawn(preparer.run()), fatal })
}

impl Running {
    /// Closes in good order.
    async fn close(self) {
        self.wal.close();
        self.writer.await.unwrap();
        self.preparer.await.unwrap();
    }

    /// Ends the tasks where they are, as the end of the process does.
    async fn abandon(self) {
        self.writer.abort();
        self.preparer.abort();
        let (writer, preparer) = (self.writer.await, self.preparer.await);
        assert!(writer.is_ok() || writer.unwrap_err().is_cancelled());
        assert!(preparer.is_ok() || preparer.unwrap_err().is_cancelled());
    }
}

/// Lets the writer and the preparer do what they can.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

fn entry(term: u64, index: u64, body: impl Into<Vec<u8>>) -> LogEntry {
    LogEntry { term, index, body: Bytes::from(body.into()) }
}

/// A completion, and the outcome to wait for.
fn completion() -> (Completion, oneshot::Receiver<Result<(), WalError>>) {
    let (tx, rx) = oneshot::channel();
    (Completion::new(move |outcome| drop(tx.send(outcome))), rx)
}

/// Appends and waits until it is durable.
async fn append(group: &GroupLog, entries: Vec<LogEntry>) -> Result<(), WalError> {
    let (done, outcome) = completion();
    group.append(entries, done).await?;
    outcome.await.expect("every completion is called")
}

/// Saves a vote and waits until it is durable.
async fn vote(group: &GroupLog, vote: &'static str) -> Result<(), WalError> {
    let (done, outcome) = completion();
    group.save_vote(Bytes::from_static(vote.as_bytes()), done)?;
    outcome.await.expect("every completion is called")
}

fn all(group: &GroupLog) -> Vec<LogEntry> {
    group.read(0..u64::MAX, u64::MAX).unwrap()
}
