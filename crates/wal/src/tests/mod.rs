//! Tests of the log as a whole, on a disk that fails.

mod basic;

use crate::fault::FaultDisk;
use crate::{Completion, GroupLog, LogEntry, Wal, WalError, WalOptions};
use bytes::Bytes;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const DIR: &str = "/wal";

/// Runs on one thread: tasks take turns at awaits only, so that every run is the same.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn options(segment_bytes: u64) -> WalOptions {
    WalOptions { segment_bytes, cache_bytes: 2 << 10, queue_bytes: 16 << 10, node_nonce: 7, ..WalOptions::new(DIR) }
}

pub(crate) fn segment_path(sequence: u64) -> PathBuf {
    Path::new(DIR).join(format!("{sequence:016x}.wal"))
}

/// A log with its tasks.
pub(crate) struct Running {
    pub wal: Wal,
    writer: JoinHandle<()>,
    preparer: JoinHandle<()>,
    pub fatal: Arc<Mutex<Vec<WalError>>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

pub(crate) fn open(disk: &FaultDisk, options: &WalOptions) -> Result<Running, WalError> {
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&fatal);
    let hook = Arc::new(move |error: &WalError| hook.lock().push(error.clone()));
    let (wal, writer, preparer) = Wal::open(Arc::new(disk.clone()), options.clone(), hook)?;
    Ok(Running { wal, writer: tokio::spawn(writer.run()), preparer: tokio::spawn(preparer.run()), fatal })
}

impl Running {
    /// Closes in good order.
    pub async fn close(self) {
        self.wal.close();
        self.writer.await.unwrap();
        self.preparer.await.unwrap();
    }

    /// Ends the tasks where they are, like a killed process.
    pub async fn kill(self) {
        self.writer.abort();
        self.preparer.abort();
        assert!(self.writer.await.is_err() && self.preparer.await.is_err());
    }
}

pub(crate) fn entry(term: u64, index: u64, body: impl Into<Vec<u8>>) -> LogEntry {
    LogEntry { term, index, body: Bytes::from(body.into()) }
}

/// A completion, and the outcome to wait for.
pub(crate) fn completion() -> (Completion, oneshot::Receiver<Result<(), WalError>>) {
    let (tx, rx) = oneshot::channel();
    (Completion::new(move |outcome| drop(tx.send(outcome))), rx)
}

/// Appends and waits until it is durable.
pub(crate) async fn append(group: &GroupLog, entries: Vec<LogEntry>) -> Result<(), WalError> {
    let (done, outcome) = completion();
    group.append(entries, done).await?;
    outcome.await.expect("every completion is called")
}

/// Saves a vote and waits until it is durable.
pub(crate) async fn vote(group: &GroupLog, vote: &'static str) -> Result<(), WalError> {
    let (done, outcome) = completion();
    group.save_vote(Bytes::from_static(vote.as_bytes()), done)?;
    outcome.await.expect("every completion is called")
}

pub(crate) fn all(group: &GroupLog) -> Vec<LogEntry> {
    group.read(0..u64::MAX, u64::MAX).unwrap()
}
