//! One writer, one thread behind it, and readers, all at once: every view is whole, for as long as it lives.

mod common;

use bytes::Bytes;
use common::{all, value};
use quorate_core::{Change, Delta, GroupId, LeaseId, Record, Rejection, Rev, Revision, View};
use quorate_storage::engine::{EngineConfig, EngineKind, open_engine};
use quorate_storage::{Applied, Progress, Store, StoreConfig};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

const ENTRIES: i64 = 3000;
const KEYS: i64 = 37;

fn key(i: i64) -> Bytes {
    Bytes::from(format!("key/{:02}", i * 7 % KEYS))
}

/// Puts, now and then a delete or a compaction.
fn write(store: &Store) {
    for i in 1..=ENTRIES {
        while store.tail_is_full() {
            std::thread::yield_now();
        }
        let mut writer = store.writer();
        let newest = writer.revision();
        let rev = Rev::new(newest.next(), 0);
        let key = key(i);
        let old = writer.key(&key, newest);
        let change = match old {
            Some(_) if i % 5 == 0 => Change::Delete,
            _ => Change::Put {
                create_revision: old.map_or(rev.main, |meta| meta.create_revision),
                version: old.map_or(1, |meta| meta.version + 1),
                lease: LeaseId::NONE,
                value: value(&key, rev.main.get(), 200),
            },
        };
        let record = Record { rev, key, change, replaces: old.map(|meta| meta.modified) };
        let compacted = (i % 50 == 0).then(|| Revision::new(rev.main.get() - 20));
        let delta = Delta { records: vec![record], compacted, ..Delta::default() };
        writer.commit(delta, Applied { term: 1, index: i as u64 });
        writer.publish();
    }
}

fn maintain(store: &Store, done: &AtomicBool) {
    let mut step = 0;
    while !done.load(Ordering::Relaxed) {
        step += 1;
        store.drain(5000).unwrap();
        store.checkpoint_step(10).unwrap();
        store.compaction_step(20).unwrap();
        if step % 40 == 0 {
            store.flush().unwrap();
        }
    }
}

/// Reads through views until the writer is done; returns how many.
fn read(store: &Store, done: &AtomicBool) -> usize {
    let mut views = 0;
    while !done.load(Ordering::Relaxed) {
        views += 1;
        let view = store.view();
        for at in [view.compacted(), view.revision()] {
            view.keys(&all(), at, &mut |key, meta| {
                let record = view.record(meta.modified).expect("a view's records are there");
                let wanted = value(key, meta.modified.main.get(), 200);
                assert_eq!(record.key_value().expect("it is a put").value, wanted);
                ControlFlow::Continue(())
            });
        }
        let mut scanned = 0;
        let from = view.compacted().max(Revision::INITIAL);
        view.scan_records(from, view.revision(), &mut |record| {
            scanned += i64::from(record.rev.main > from);
            ControlFlow::Continue(())
        })
        .expect("a view's history is there");
        assert_eq!(scanned, view.revision().get() - from.get());
        match store.scan_records(from, view.revision(), &mut |_| ControlFlow::Continue(())) {
            Ok(()) | Err(quorate_storage::StorageError::Rejected(Rejection::Compacted)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    views
}

/// Ends the other threads also if the writer panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn run(kind: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(kind, dir.path(), EngineConfig { cache_bytes: 1 << 20 }).unwrap();
    let config = StoreConfig { tail_bytes_max: 20_000, cache_bytes_max: 10_000, ..StoreConfig::default() };
    let store = Store::open(engine, GroupId::DEFAULT, config).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| maintain(&store, &done));
        let readers = [scope.spawn(|| read(&store, &done)), scope.spawn(|| read(&store, &done))];
        let ended = Done(&done);
        write(&store);
        drop(ended);
        for reader in readers {
            assert!(reader.join().unwrap() > 0, "the reader came to read");
        }
    });
    while store.compaction_step(1000).unwrap() == Progress::Working {}
    assert!(store.compaction_done(store.compacted()));
    let hash = store.hash_kv(Revision::ZERO).unwrap();
    store.flush().unwrap();
    drop(store);
    let engine = open_engine(kind, dir.path(), EngineConfig { cache_bytes: 1 << 20 });
    if kind != EngineKind::Memory {
        let store = Store::open(engine.unwrap(), GroupId::DEFAULT, config).unwrap();
        assert_eq!(store.hash_kv(Revision::ZERO).unwrap(), hash);
    }
}

#[test]
fn views_are_whole_on_memory() {
    run(EngineKind::Memory);
}

#[test]
fn views_are_whole_on_redb() {
    run(EngineKind::Redb);
}

#[test]
fn views_are_whole_on_sled() {
    run(EngineKind::Sled);
}
