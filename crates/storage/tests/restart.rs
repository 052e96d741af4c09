//! What a restart reads: the index checkpoint, and the records that are newer. They are bounded, whatever was written.

use bytes::Bytes;
use quorate_core::{Change, Delta, GroupId, KeyRange, LeaseId, Record, Rev, Revision, View};
use quorate_storage::engine::{Engine, MemoryEngine};
use quorate_storage::{Applied, Progress, Store, StoreConfig};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

const LAG_RECORDS_MAX: usize = 400;
/// Records are drained in batches of about so many; the last one may come on top of the bound.
const BATCH_RECORDS: usize = 10;
const BATCH_BYTES: usize = 2000;
const RECORDS: u8 = 2;

fn open(engine: &MemoryEngine, lag_bytes_max: usize) -> Store {
    let config =
        StoreConfig { tail_bytes_max: 1 << 20, cache_bytes_max: 0, lag_records_max: LAG_RECORDS_MAX, lag_bytes_max };
    Store::open(Arc::new(engine.clone()), GroupId::DEFAULT, config).unwrap()
}

fn lag(store: &Store) -> usize {
    store.metrics().checkpoint_lag_records as usize
}

fn rows(engine: &MemoryEngine, table: u8) -> usize {
    let mut rows = 0;
    let count = &mut |_: &[u8], _: &[u8]| {
        rows += 1;
        ControlFlow::Continue(())
    };
    engine.scan(&[table], &[table + 1], count).unwrap();
    rows
}

fn key(i: usize) -> Bytes {
    Bytes::from(format!("key/{:08x}", (i as u32).wrapping_mul(0x9e37_79b1)))
}

/// Only drains, as under a load that leaves no time for anything else.
fn drain(store: &Store) {
    while !store.drain(BATCH_BYTES).unwrap().empty {}
}

/// Writes `changes` as one revision; `None` deletes a key that is there.
fn write(store: &Store, changes: &[(Bytes, Option<usize>)]) {
    let mut writer = store.writer();
    let main = writer.revision().next();
    let records = changes.iter().enumerate().map(|(sub, (key, value_bytes))| {
        let old = writer.key(key, writer.revision());
        let change = match value_bytes {
            Some(bytes) => Change::Put {
                create_revision: old.map_or(main, |meta| meta.create_revision),
                version: old.map_or(1, |meta| meta.version + 1),
                lease: LeaseId::NONE,
                value: vec![7; *bytes].into(),
            },
            None => Change::Delete,
        };
        let rev = Rev::new(main, u32::try_from(sub).unwrap());
        Record { rev, key: key.clone(), change, replaces: old.map(|meta| meta.modified) }
    });
    let delta = Delta { records: records.collect(), ..Delta::default() };
    let applied = Applied { term: 1, index: writer.applied().index + 1 };
    writer.commit(delta, applied);
    writer.publish();
}

/// Everything that can be read of the keys, now and at each revision before.
fn content(store: &Store) -> BTreeMap<(Revision, Bytes), quorate_core::KeyMeta> {
    let view = store.view();
    let mut content = BTreeMap::new();
    for revision in (1..=view.revision().get()).step_by(97).chain([view.revision().get()]) {
        let at = Revision::new(revision);
        view.keys(&KeyRange::From { start: Bytes::new() }, at, &mut |key, meta| {
            content.insert((at, Bytes::copy_from_slice(key)), meta);
            ControlFlow::Continue(())
        });
    }
    content
}

/// Opens the engine a second time, which must find the same; returns how many records were read for it.
fn restart(engine: &MemoryEngine, store: &Store) -> usize {
    let again = open(engine, usize::MAX);
    assert_eq!(content(&again), content(store));
    lag(&again)
}

#[test]
fn a_burst_of_new_keys_leaves_no_more_to_read_than_the_bound() {
    let engine = MemoryEngine::default();
    let store = open(&engine, usize::MAX);
    let mut worst = 0;
    for i in 0..3000 {
        write(&store, &[(key(i), Some(20))]);
        if i % BATCH_RECORDS == 0 {
            drain(&store);
            worst = worst.max(lag(&store));
        }
    }
    drain(&store);
    assert_eq!(rows(&engine, RECORDS), 3000);
    // A quarter of the keys is more than the configured bound in the end.
    let max = LAG_RECORDS_MAX.max(3000 / 4);
    assert!(worst <= max + BATCH_RECORDS, "{worst} records were newer than the checkpoint");
    assert!(worst > LAG_RECORDS_MAX / 2, "the checkpoint is not written before it has to be");
    let read = restart(&engine, &store);
    assert!(read <= max + BATCH_RECORDS, "{read} records were read");
}

#[test]
fn overwrites_of_few_keys_and_deletes_of_many_at_once_keep_the_bound() {
    let engine = MemoryEngine::default();
    let store = open(&engine, usize::MAX);
    for i in 0..2000 {
        write(&store, &[(key(i % 7), Some(20))]);
        if i % BATCH_RECORDS == 0 {
            drain(&store);
            assert!(lag(&store) <= LAG_RECORDS_MAX + BATCH_RECORDS);
        }
    }
    for round in 0..4 {
        let value = (round % 2 == 0).then_some(5);
        let changes: Vec<_> = (0..300).map(|i| (key(i), value)).collect();
        write(&store, &changes);
        drain(&store);
        assert!(lag(&store) <= LAG_RECORDS_MAX, "{} records are newer", lag(&store));
    }
    assert!(restart(&engine, &store) <= LAG_RECORDS_MAX);
}

#[test]
fn large_values_keep_the_bound_on_bytes() {
    const LAG_BYTES_MAX: usize = 40_000;
    let engine = MemoryEngine::default();
    let store = open(&engine, LAG_BYTES_MAX);
    for i in 0..200 {
        write(&store, &[(key(i), Some(1000))]);
        drain(&store);
        assert!(lag(&store) <= LAG_BYTES_MAX / 1000, "the bytes of {} records are within the bound", lag(&store));
    }
    restart(&engine, &store);
}

#[test]
fn the_checkpoint_comes_forward_while_writes_go_on() {
    let engine = MemoryEngine::default();
    let store = open(&engine, usize::MAX);
    // One key changes all the time, in the engine and in the tail; the others once.
    for i in 1..600 {
        write(&store, &[(key(i), Some(20)), (key(0), Some(20))]);
        drain(&store);
        write(&store, &[(key(0), Some(20))]);
        store.checkpoint_step(3).unwrap();
        assert!(lag(&store) < 20, "{} records are newer in round {i}", lag(&store));
    }
    drain(&store);
    while store.checkpoint_step(100).unwrap() == Progress::Working {}
    assert_eq!((lag(&store), store.metrics().checkpoint_keys), (0, 0));
    assert_eq!(restart(&engine, &store), 0);
}

#[test]
fn a_key_that_compaction_took_stays_away_over_restarts() {
    let engine = MemoryEngine::default();
    let store = open(&engine, usize::MAX);
    let gone = key(1000);
    write(&store, &[(gone.clone(), Some(20))]);
    drain(&store);
    while store.checkpoint_step(100).unwrap() == Progress::Working {}
    write(&store, &[(gone.clone(), None)]);
    (0..150).for_each(|i| write(&store, &[(key(i), Some(20))]));
    let mut writer = store.writer();
    let (compacted, applied) = (Some(writer.revision()), Applied { term: 1, index: writer.applied().index + 1 });
    writer.commit(Delta { compacted, ..Delta::default() }, applied);
    writer.publish();
    drain(&store);
    assert!(lag(&store) > 150, "the checkpoint has the key still");

    // More keys wait than a portion of the checkpoint holds, so that it comes forward before all are written.
    let store = open(&engine, usize::MAX);
    for i in 150..260 {
        write(&store, &[(key(i), Some(20))]);
        drain(&store);
    }
    assert!(lag(&store) < 150, "the checkpoint has come forward");
    for store in [&store, &open(&engine, usize::MAX)] {
        let view = store.view();
        assert_eq!(view.key(&gone, view.revision()), None);
        assert_eq!(store.metrics().keys, 260);
    }
}
