//! The real file system and real threads.

use super::{all, append, entry};
use crate::{GroupLog, OsDisk, Wal, WalOptions};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

const ENTRIES: u64 = 300;
const KEPT: u64 = 40;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().build().unwrap().block_on(future)
}

fn open(dir: &Path, latencies: &Arc<Mutex<Vec<Duration>>>) -> (Wal, [JoinHandle<()>; 2]) {
    let (start, latencies) = (Instant::now(), Arc::clone(latencies));
    let options = WalOptions {
        segment_bytes: 32 << 10,
        cache_bytes: 8 << 10,
        queue_bytes: 16 << 10,
        clock: Some(Arc::new(move || start.elapsed())),
        fsync_observer: Some(Arc::new(move |latency| latencies.lock().push(latency))),
        ..WalOptions::new(dir.join("some/where"))
    };
    let (wal, writer, preparer) = Wal::open(Arc::new(OsDisk), options, Arc::new(|error| panic!("{error}"))).unwrap();
    (wal, [thread::spawn(|| block_on(writer.run())), thread::spawn(|| block_on(preparer.run()))])
}

/// Appends, reads back what may have left memory, and purges, while others do the same.
async fn work(group: GroupLog) {
    let body = |index: u64| vec![group.id() as u8 ^ index as u8; 1 + (index as usize * 37) % 700];
    for index in 0..ENTRIES {
        append(&group, vec![entry(1, index, body(index))]).await.unwrap();
        let from = index.saturating_sub(KEPT / 2);
        let read = group.read(from..index + 1, u64::MAX).unwrap();
        assert_eq!(read, (from..=index).map(|index| entry(1, index, body(index))).collect::<Vec<_>>());
        if index % KEPT == KEPT - 1 {
            group.purge(1, index - KEPT / 2).unwrap();
        }
    }
}

#[test]
fn many_threads_share_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let latencies = Arc::default();
    let (wal, tasks) = open(dir.path(), &latencies);
    let workers: Vec<_> = (0..4).map(|id| wal.group(id)).map(|group| thread::spawn(|| block_on(work(group)))).collect();
    for worker in workers {
        worker.join().unwrap();
    }
    let expected: Vec<_> = (0..4).map(|id| (wal.group(id).state(), all(&wal.group(id)))).collect();
    wal.close();
    for task in tasks {
        task.join().unwrap();
    }
    let fsyncs = wal.metrics().fsyncs;
    assert_eq!(latencies.lock().len() as u64, fsyncs);
    assert!(fsyncs < 4 * ENTRIES + 100, "{fsyncs} fsyncs");

    let (wal, tasks) = open(dir.path(), &latencies);
    let recovered: Vec<_> = (0..4).map(|id| (wal.group(id).state(), all(&wal.group(id)))).collect();
    assert_eq!(recovered, expected);
    wal.close();
    for task in tasks {
        task.join().unwrap();
    }
}
