//! Durable appends of 300 bytes to a real disk: through the log, and the two ways of writing that it chose between.
//!
//! Set `TMPDIR` to a directory on the disk in question.

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use quorate_wal::{Completion, Disk, DiskFile, LogEntry, OsDisk, Wal, WalOptions};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use tokio::runtime::Builder;

const BODY_BYTES: usize = 300;
const PREPARED_BYTES: usize = 64 << 20;
const BATCHES: [usize; 2] = [1, 64];

fn main() {
    divan::main();
}

/// One batch of entries through the log: encoded, queued, written and synced by the writer's thread, answered.
#[divan::bench(args = BATCHES, sample_count = 500, sample_size = 4)]
fn log(bencher: Bencher<'_, '_>, batch: usize) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(OsDisk);
    let options = WalOptions::new(dir.path().join("wal"));
    let (wal, writer, preparer) = Wal::open(disk, options, Arc::new(|error| panic!("{error}"))).unwrap();
    let tasks = [
        thread::spawn(|| Builder::new_current_thread().build().unwrap().block_on(writer.run())),
        thread::spawn(|| Builder::new_current_thread().build().unwrap().block_on(preparer.run())),
    ];
    let group = wal.group(1);
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let runtime = Builder::new_current_thread().build().unwrap();
    let next = Cell::new(0);
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        let first = next.replace(next.get() + batch as u64);
        let entries = (first..first + batch as u64).map(|index| LogEntry { term: 1, index, body: body.clone() });
        let (tx, rx) = sync_channel(1);
        let done = Completion::new(move |outcome| tx.send(outcome).unwrap());
        runtime.block_on(group.append(entries.collect(), done)).unwrap();
        rx.recv().unwrap().unwrap();
    });
    wal.close();
    for task in tasks {
        task.join().unwrap();
    }
}

/// The same bytes with `pwrite` and `fdatasync` alone, into a file that grows.
#[divan::bench(args = BATCHES, sample_count = 500, sample_size = 4)]
fn growing_file(bencher: Bencher<'_, '_>, batch: usize) {
    bare(bencher, batch, 0);
}

/// The same, into a file that was filled with zeros before.
#[divan::bench(args = BATCHES, sample_count = 500, sample_size = 4)]
fn prepared_file(bencher: Bencher<'_, '_>, batch: usize) {
    bare(bencher, batch, PREPARED_BYTES);
}

fn bare(bencher: Bencher<'_, '_>, batch: usize, prepared_bytes: usize) {
    let dir = tempfile::tempdir().unwrap();
    let file: Arc<dyn DiskFile> = OsDisk.create(&dir.path().join("file")).unwrap();
    file.write_at(0, &vec![0; prepared_bytes]).unwrap();
    file.sync_data().unwrap();
    let bytes = vec![7; batch * BODY_BYTES];
    let position = Cell::new(0);
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        file.write_at(position.replace(position.get() + bytes.len() as u64), &bytes).unwrap();
        file.sync_data().unwrap();
    });
}
