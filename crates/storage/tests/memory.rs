//! Data several times larger than the caches: resident memory stays bounded, and everything can still be read.

mod common;

use bytes::Bytes;
use common::value;
use quorate_core::{Change, Delta, GroupId, LeaseId, Record, Rev, Revision, View};
use quorate_storage::engine::{EngineConfig, EngineKind, open_engine};
use quorate_storage::{Applied, Progress, Store, StoreConfig};
use std::sync::{Mutex, PoisonError};

const VALUE_BYTES: usize = 16 << 10;
/// One after the other: they measure the process.
static ALONE: Mutex<()> = Mutex::new(());

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = status.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

fn write_and_read_back(kind: EngineKind, data_bytes: usize, resident_bytes_max: usize) {
    if resident_bytes() == 0 {
        eprintln!("skipped: needs /proc/self/statm");
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(kind, dir.path(), EngineConfig { cache_bytes: 4 << 20 }).unwrap();
    let config = StoreConfig { tail_bytes_max: 2 << 20, cache_bytes_max: 4 << 20, ..StoreConfig::default() };
    let store = Store::open(engine, GroupId::DEFAULT, config).unwrap();
    let before = resident_bytes();
    let mut peak = before;
    let records = (data_bytes / VALUE_BYTES) as i64;
    let key = |i: i64| Bytes::from(format!("key/{i:08}"));
    for i in 0..records {
        let rev = Rev::new(Revision::new(i + 2), 0);
        let value = value(&key(i), i, VALUE_BYTES);
        let change = Change::Put { create_revision: rev.main, version: 1, lease: LeaseId::NONE, value };
        let record = Record { rev, key: key(i), change, replaces: None };
        let mut writer = store.writer();
        writer.commit(Delta { records: vec![record], ..Delta::default() }, Applied { term: 1, index: i as u64 + 1 });
        writer.publish();
        drop(writer);
        while store.tail_is_full() {
            store.drain(1 << 20).unwrap();
        }
        if i % 512 == 511 {
            store.flush().unwrap();
            while store.checkpoint_step(1000).unwrap() == Progress::Working {}
        }
        peak = peak.max(resident_bytes());
    }
    store.flush().unwrap();
    let written = peak;
    let view = store.view();
    // Far apart, so that neither cache helps.
    for n in 0..records / 12 {
        let i = n * 131 % records;
        let record = view.record(Rev::new(Revision::new(i + 2), 0)).unwrap();
        assert_eq!(record.key_value().unwrap().value, value(&key(i), i, VALUE_BYTES));
        peak = peak.max(resident_bytes());
    }
    let grown = peak - before;
    println!(
        "{kind:?}: {} MiB written, {} MiB more resident at the peak, {} MiB until the reads",
        data_bytes >> 20,
        grown >> 20,
        (written - before) >> 20
    );
    assert!(grown < resident_bytes_max, "{} MiB resident", grown >> 20);
}

#[test]
fn redb_stays_within_its_bound() {
    write_and_read_back(EngineKind::Redb, 96 << 20, 40 << 20);
}

#[test]
fn sled_stays_within_its_bound() {
    // Between two recycles it holds what was written: 32 MiB, and what it costs to have that in leaves.
    write_and_read_back(EngineKind::Sled, 96 << 20, 110 << 20);
}
