//! Space that was in use is given back to the file system, beside reads and writes.

use quorate_storage::engine::{Batch, Engine, EngineConfig, RedbEngine};
use quorate_storage::{EngineKind, open_engine};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(dir: &std::path::Path) -> RedbEngine {
    RedbEngine::open(dir, EngineConfig { cache_bytes: 8 << 20 }).unwrap()
}

fn key(i: u32) -> Vec<u8> {
    i.to_be_bytes().to_vec()
}

fn rows(engine: &RedbEngine) -> Rows {
    let mut rows = Rows::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    };
    engine.scan(&[], &[u8::MAX; 8], visit).unwrap();
    rows
}

/// Writes to the engine and to the model.
fn write(engine: &RedbEngine, model: &mut Rows, changes: impl IntoIterator<Item = (u32, Option<Vec<u8>>)>) {
    let mut batch = Batch::default();
    for (i, value) in changes {
        match value {
            Some(value) => {
                model.insert(key(i), value.clone());
                batch.put(key(i), value);
            }
            None => {
                model.remove(&key(i));
                batch.delete(key(i));
            }
        }
    }
    engine.write(&batch).unwrap();
}

/// 40 MB of rows, of which nine of ten are deleted.
fn sparse(engine: &RedbEngine) -> Rows {
    let mut model = Rows::new();
    for start in (0..10_000).step_by(1000) {
        write(engine, &mut model, (start..start + 1000).map(|i| (i, Some(vec![i as u8; 4000]))));
    }
    for start in (0..10_000).step_by(1000) {
        write(engine, &mut model, (start..start + 1000).filter(|i| i % 10 != 0).map(|i| (i, None)));
    }
    engine.flush().unwrap();
    model
}

#[test]
fn rows_that_come_in_order_fill_the_file_though_others_sort_behind_them() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut model = Rows::new();
    write(&engine, &mut model, (1_000_000..1_001_000).map(|i| (i, Some(vec![1; 100]))));
    for start in (0..60_000).step_by(500) {
        write(&engine, &mut model, (start..start + 500).map(|i| (i, Some(vec![2; 300]))));
        // Rows that are there already, and deletes, between such that are new.
        write(
            &engine,
            &mut model,
            [(start, Some(vec![3; 300])), (start + 1, None), (1_001_000 + start, Some(vec![4]))],
        );
    }
    engine.flush().unwrap();
    let usage = engine.usage().unwrap();
    assert!(usage.used_bytes * 10 > usage.file_bytes * 7, "{usage:?}");
    let bytes: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert_eq!(usage.used_bytes, bytes as u64);
    assert!(rows(&engine) == model, "the rows are as they were written");
}

#[test]
fn reads_and_writes_go_on_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut model = sparse(&engine);
    let before = engine.usage().unwrap();
    let done = AtomicBool::new(false);
    let (mut writes, mut reads) = (0, 0);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            engine.compact(&mut |_, _| ()).unwrap();
            done.store(true, Ordering::Release);
        });
        let mut random = 1_u32;
        while !done.load(Ordering::Acquire) || writes < 50 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Before and behind where the copy is: overwrites, new rows and deletes, in one batch.
            let (a, b, c) = (random % 10_000, (random >> 8) % 20_000, (random >> 16) % 10_000);
            write(&engine, &mut model, [(a, Some(vec![1; 300])), (b, Some(vec![2; 500])), (c, None)]);
            writes += 1;
            let (probe, expected) = model.iter().nth(random as usize % model.len()).unwrap();
            assert_eq!(engine.get(probe).unwrap().as_deref(), Some(expected.as_slice()));
            reads += 1;
        }
    });
    assert!(reads >= 50);
    assert!(rows(&engine) == model, "the rows are as they were written");
    let after = engine.usage().unwrap();
    assert!(after.file_bytes < before.file_bytes / 2, "{before:?} became {after:?}");

    // What was not flushed may be lost; all of this was, with the file that took the other's place.
    engine.flush().unwrap();
    drop(engine);
    assert!(rows(&open(dir.path())) == model, "the rows are still there");
}

#[test]
fn a_copy_that_was_cut_short_is_removed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let model = sparse(&open(dir.path()));
    let copy = dir.path().join("engine.redb.new");
    std::fs::write(&copy, b"half a file").unwrap();
    let engine = open(dir.path());
    assert!(!copy.exists());
    assert!(rows(&engine) == model);
    engine.compact(&mut |_, _| ()).unwrap();
    assert!(!copy.exists());
    assert!(rows(&engine) == model);
}

#[test]
fn a_first_start_that_was_cut_short_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    // The new file under its first name: what redb has of it after a power cut, it could not open.
    std::fs::write(dir.path().join("engine.redb.new"), [0; 4096]).unwrap();
    assert!(rows(&open(dir.path())).is_empty());
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["engine.redb"]);
}

#[test]
fn it_tells_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    sparse(&engine);
    let rows_bytes = engine.usage().unwrap().used_bytes;
    let mut told = Vec::new();
    engine.compact(&mut |done, total| told.push((done, total))).unwrap();
    assert!(told.len() > 2, "{told:?}");
    assert!(told.is_sorted_by(|one, next| one.0 < next.0), "{told:?}");
    assert!(told.iter().all(|(_, total)| *total == rows_bytes), "{told:?} of {rows_bytes}");
    assert_eq!(told.last(), Some(&(rows_bytes, rows_bytes)));
}

#[test]
fn sled_which_does_it_in_one_go_tells_the_beginning_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(EngineKind::Sled, dir.path(), EngineConfig::default()).unwrap();
    let mut batch = Batch::default();
    batch.put(b"key".to_vec(), vec![7; 1000]);
    engine.write(&batch).unwrap();
    let rows_bytes = engine.usage().unwrap().used_bytes;
    let mut told = Vec::new();
    engine.compact(&mut |done, total| told.push((done, total))).unwrap();
    assert_eq!(told, [(0, rows_bytes), (rows_bytes, rows_bytes)]);
    assert!(rows_bytes >= 1000);
}

#[test]
fn what_was_flushed_before_is_durable_in_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let model = sparse(&engine);
    engine.compact(&mut |_, _| ()).unwrap();
    // As after a kill: the file as it is, without the engine's own goodbye.
    let killed = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("engine.redb"), killed.path().join("engine.redb")).unwrap();
    assert!(rows(&open(killed.path())) == model);
}
