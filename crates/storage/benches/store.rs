//! Micro benches of what a request costs in storage: index, tail, cache, engine.

use bytes::Bytes;
use divan::{Bencher, black_box};
use quorate_core::{Change, Delta, GroupId, KeyRange, LeaseId, Record, Rev, Revision, View};
use quorate_storage::engine::{EngineConfig, EngineKind, open_engine};
use quorate_storage::{Applied, Store, StoreConfig};
use std::ops::ControlFlow;
use tempfile::TempDir;

const KEYS: i64 = 20_000;
const ENGINES: [EngineKind; 3] = [EngineKind::Redb, EngineKind::Sled, EngineKind::Memory];

fn main() {
    divan::main();
}

fn key(i: i64) -> Bytes {
    Bytes::from(format!("/registry/pods/{:09}", i * 7919 % KEYS))
}

fn put(store: &Store, key: Bytes) {
    let mut writer = store.writer();
    let main = writer.revision().next();
    let old = writer.key(&key, writer.revision());
    let change = Change::Put {
        create_revision: old.map_or(main, |meta| meta.create_revision),
        version: old.map_or(1, |meta| meta.version + 1),
        lease: LeaseId::NONE,
        value: Bytes::from_static(&[7; 256]),
    };
    let record = Record { rev: Rev::new(main, 0), key, change, replaces: old.map(|meta| meta.modified) };
    let applied = Applied { term: 1, index: writer.applied().index + 1 };
    writer.commit(Delta { records: vec![record], ..Delta::default() }, applied);
    writer.publish();
}

/// All keys written once and drained, with a record cache of the given size.
fn filled(kind: EngineKind, cache_bytes_max: usize) -> (Store, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = open_engine(kind, dir.path(), EngineConfig { cache_bytes: 64 << 20 }).expect("the engine opens");
    let config = StoreConfig { tail_bytes_max: usize::MAX, cache_bytes_max, ..StoreConfig::default() };
    let store = Store::open(engine, GroupId::DEFAULT, config).expect("the store opens");
    for i in 0..KEYS {
        put(&store, key(i));
    }
    store.flush().expect("the flush works");
    (store, dir)
}

#[divan::bench]
fn index_get(bencher: Bencher<'_, '_>) {
    let (store, _dir) = filled(EngineKind::Memory, 0);
    let view = store.view();
    let mut i = 0;
    bencher.bench_local(|| {
        i += 1;
        view.key(black_box(&key(i)), view.revision())
    });
}

#[divan::bench]
fn index_list_100(bencher: Bencher<'_, '_>) {
    let (store, _dir) = filled(EngineKind::Memory, 0);
    let view = store.view();
    let mut i = 0;
    bencher.bench_local(|| {
        i += 1;
        let mut left = 100;
        view.keys(&KeyRange::From { start: key(i) }, view.revision(), &mut |found, meta| {
            black_box((found, meta));
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
    });
}

#[divan::bench]
fn take_a_view(bencher: Bencher<'_, '_>) {
    let (store, _dir) = filled(EngineKind::Memory, 0);
    bencher.bench_local(|| store.view());
}

#[divan::bench(args = ENGINES)]
fn record_from_engine(bencher: Bencher<'_, '_>, kind: EngineKind) {
    let (store, _dir) = filled(kind, 0);
    let view = store.view();
    let mut i = 0;
    bencher.bench_local(|| {
        i += 1;
        view.record(Rev::new(Revision::new(2 + i * 7919 % KEYS), 0))
    });
}

#[divan::bench]
fn record_from_cache(bencher: Bencher<'_, '_>) {
    let (store, _dir) = filled(EngineKind::Memory, 256 << 20);
    let view = store.view();
    let mut i = 0;
    bencher.bench_local(|| {
        i += 1;
        view.record(Rev::new(Revision::new(2 + i * 7919 % KEYS), 0))
    });
}

#[divan::bench(args = ENGINES)]
fn overwrite_and_drain_1000(bencher: Bencher<'_, '_>, kind: EngineKind) {
    let (store, _dir) = filled(kind, 1 << 20);
    let mut i = 0;
    bencher.bench_local(|| {
        for _ in 0..1000 {
            i += 1;
            put(&store, key(i));
        }
        store.drain(usize::MAX).expect("the drain works")
    });
}
