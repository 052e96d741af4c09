//! A row that is gone is found by whoever needs it: what a bit flip in an engine's inner page does.

mod common;

use bytes::Bytes;
use common::{Model, all};
use quorate_core::{GroupId, Lease, LeaseId, Revision, SystemChange, View};
use quorate_storage::engine::{Batch, Engine, MemoryEngine};
use quorate_storage::{Progress, Scrubber, StorageError, Store, StoreConfig, check_engine};
use std::ops::ControlFlow;
use std::sync::Arc;

const FORMAT: u8 = 0;
const STATE: u8 = 1;
const RECORDS: u8 = 2;
const INDEX: u8 = 3;
const SYSTEM: u8 = 4;

fn open(engine: &MemoryEngine) -> Result<Store, StorageError> {
    // Next to no cache, so that reads go to the engine.
    let config = StoreConfig { tail_bytes_max: 1 << 20, cache_bytes_max: 0, ..StoreConfig::default() };
    Store::open(Arc::new(engine.clone()), GroupId::DEFAULT, config)
}

/// Ten keys, a lease, the first half compacted; in the checkpoint if `checkpointed`.
fn filled(checkpointed: bool) -> (MemoryEngine, Model) {
    let engine = MemoryEngine::default();
    let store = open(&engine).unwrap();
    let mut model = Model::default();
    let lease = Lease { id: LeaseId::new(1), ttl_seconds: 9, remaining_ttl_seconds: 0 };
    model.run(&store, model.system(SystemChange::LeaseSet(lease)));
    for i in 0..10 {
        model.run(&store, model.write(&[(Bytes::from(format!("k{i}")), 10, 0), (Bytes::from("also"), 3, 0)], &[]));
    }
    while !store.drain(1).unwrap().empty {}
    if checkpointed {
        model.run(&store, model.compact(6));
        while store.compaction_step(100).unwrap() == Progress::Working {}
    }
    store.flush().unwrap();
    (engine, model)
}

/// Removes row number `n` of a table.
fn remove(engine: &MemoryEngine, table: u8, n: usize) {
    let mut rows = Vec::new();
    let collect = &mut |key: &[u8], _: &[u8]| {
        rows.push(key.to_vec());
        ControlFlow::Continue(())
    };
    engine.scan(&[table], &[table + 1], collect).unwrap();
    let mut batch = Batch::default();
    batch.delete(rows.swap_remove(n));
    engine.write(&batch).unwrap();
}

fn assert_corrupt<T>(outcome: Result<T, StorageError>) {
    match outcome {
        Err(StorageError::Corrupt { .. }) => {}
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("nothing was found"),
    }
}

#[test]
fn a_record_above_the_checkpoint_is_missed_at_open() {
    for n in 0..20 {
        let (engine, _) = filled(false);
        remove(&engine, RECORDS, n);
        assert_corrupt(open(&engine));
    }
}

#[test]
fn a_record_below_the_checkpoint_is_missed_by_reads_scans_and_snapshots() {
    let (engine, model) = filled(true);
    let kept = model.kept(model.revision());
    for (n, record) in kept.iter().enumerate() {
        let (engine, _) = filled(true);
        remove(&engine, RECORDS, n);
        let store = open(&engine).unwrap();
        let view = store.view();
        assert_corrupt(view.record(record.rev));
        let mut exporter = store.export();
        let outcome = loop {
            match exporter.next(1) {
                Ok(records) if !records.is_empty() => {}
                other => break other,
            }
        };
        assert_corrupt(outcome);
        if record.rev.main.get() > model.compacted {
            let everything = &mut |_| ControlFlow::Continue(());
            assert_corrupt(view.scan_records(Revision::new(model.compacted), view.revision(), everything));
            assert_corrupt(store.hash_kv(Revision::ZERO));
        }
    }
    open(&engine).unwrap();
}

#[test]
fn a_row_of_any_other_table_is_missed_at_open() {
    for (table, n) in [(FORMAT, 0), (STATE, 0), (INDEX, 0), (INDEX, 5), (INDEX, 10), (SYSTEM, 0)] {
        let (engine, _) = filled(true);
        remove(&engine, table, n);
        assert_corrupt(open(&engine));
    }
}

/// What a check finds, in words.
fn check(engine: &MemoryEngine) -> Vec<String> {
    let mut found = Vec::new();
    check_engine(engine, &mut |fault| found.push(format!("{}: {}", fault.row, fault.problem)), &mut |_| {}).unwrap();
    found
}

fn rows(engine: &MemoryEngine, table: u8) -> usize {
    let mut rows = 0;
    engine
        .scan(&[table], &[table + 1], &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

#[test]
fn a_check_misses_every_row_that_is_gone() {
    for checkpointed in [false, true] {
        let (engine, _) = filled(checkpointed);
        assert_eq!(check(&engine), Vec::<String>::new());
        for table in [FORMAT, STATE, RECORDS, INDEX, SYSTEM] {
            for n in 0..rows(&engine, table) {
                let (engine, _) = filled(checkpointed);
                remove(&engine, table, n);
                let found = check(&engine);
                assert!(!found.is_empty(), "row {n} of table {table}");
            }
        }
    }
}

#[test]
fn a_check_and_a_scrub_find_every_row_that_was_changed() {
    let (engine, _) = filled(true);
    let mut all = Vec::new();
    engine
        .scan(&[], &[u8::MAX], &mut |key, row| {
            all.push((key.to_vec(), row.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    let store = open(&engine).unwrap();
    let scrub = |store: &Store| {
        let mut scrubber = Scrubber::default();
        let (mut faults, mut bytes) = (Vec::new(), 0);
        loop {
            let scrubbed = store.scrub(&mut scrubber, 64).unwrap();
            faults.extend(scrubbed.faults);
            bytes += scrubbed.bytes;
            if scrubbed.round_done {
                return (faults, bytes);
            }
        }
    };
    let bytes = all.iter().map(|(key, row)| (key.len() + row.len()) as u64).sum();
    assert_eq!(scrub(&store), (Vec::new(), bytes));
    for (key, row) in &all {
        for byte in 0..row.len() {
            let (engine, _) = filled(true);
            let store = open(&engine).unwrap();
            let mut row = row.clone();
            row[byte] ^= 1 << (byte % 8);
            let mut batch = Batch::default();
            batch.put(key.clone(), row);
            engine.write(&batch).unwrap();
            assert!(!check(&engine).is_empty(), "byte {byte} of {}", key.escape_ascii());
            assert_eq!(scrub(&store).0.len(), 1, "byte {byte} of {}", key.escape_ascii());
        }
    }
}

#[test]
fn a_record_in_the_place_of_another_is_found() {
    let (engine, model) = filled(true);
    let mut rows = Vec::new();
    let collect = &mut |key: &[u8], row: &[u8]| {
        rows.push((key.to_vec(), row.to_vec()));
        ControlFlow::Continue(())
    };
    engine.scan(&[RECORDS], &[RECORDS + 1], collect).unwrap();
    let mut batch = Batch::default();
    batch.put(rows[0].0.clone(), rows[1].1.clone());
    engine.write(&batch).unwrap();
    let store = open(&engine).unwrap();
    assert_corrupt(store.view().record(model.kept(model.revision())[0].rev));
    let mut keys = 0;
    store.view().keys(&all(), store.revision(), &mut |_, _| {
        keys += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(keys, 11, "the index does not need the record");
}
