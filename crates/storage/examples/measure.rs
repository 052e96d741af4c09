//! Measures a store at scale, for the decision records: `cargo run --release -p quorate-storage --example measure -- redb
//! 1000000 DIR`. Keys of 23 bytes, values of 256; loads all keys in shuffled order, overwrites half of them at random,
//! compacts. A second run on the same directory opens and reads.

use bytes::Bytes;
use quorate_core::{Change, Delta, GroupId, KeyRange, LeaseId, Record, Rev, Revision, View};
use quorate_storage::engine::{EngineConfig, EngineKind, open_engine};
use quorate_storage::{Applied, Progress, Store, StoreConfig, Writer};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

const CACHE_BYTES: usize = 32 << 20;
const DRAIN_BYTES: usize = 4 << 20;
const FLUSH_RECORDS: u64 = 100_000;
const READS: u64 = 200_000;

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = status.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    (pages * 4096) >> 20
}

/// Seconds of processor time so far, of all threads.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

fn key(i: u64) -> Bytes {
    // Spreads neighbours, and stays one to one.
    let spread = (i as u32).wrapping_mul(0x9e37_79b1);
    Bytes::from(format!("/registry/pods/{spread:09}"))
}

fn open(kind: EngineKind, dir: &Path) -> Store {
    let engine = open_engine(kind, dir, EngineConfig { cache_bytes: CACHE_BYTES }).expect("the engine opens");
    let config = StoreConfig { tail_bytes_max: 16 << 20, cache_bytes_max: CACHE_BYTES, ..StoreConfig::default() };
    Store::open(engine, GroupId::DEFAULT, config).expect("the store opens")
}

fn put(writer: &mut Writer<'_>, key: Bytes) {
    let rev = Rev::new(writer.revision().next(), 0);
    let old = writer.key(&key, writer.revision());
    let mut value = vec![0_u8; 256];
    let mut x = rev.main.get().cast_unsigned() | 1;
    for chunk in value.chunks_mut(8) {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        chunk.copy_from_slice(&x.to_be_bytes());
    }
    let change = Change::Put {
        create_revision: old.map_or(rev.main, |meta| meta.create_revision),
        version: old.map_or(1, |meta| meta.version + 1),
        lease: LeaseId::NONE,
        value: value.into(),
    };
    let record = Record { rev, key, change, replaces: old.map(|meta| meta.modified) };
    let applied = Applied { term: 1, index: writer.applied().index + 1 };
    writer.commit(Delta { records: vec![record], ..Delta::default() }, applied);
    writer.publish();
}

/// Runs `work`, and prints how long it took per each of `count`.
fn time<T>(what: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let (start, cpu_start) = (Instant::now(), cpu_seconds());
    let outcome = work();
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu_start);
    let each = |seconds: f64| seconds * 1e6 / count.max(1) as f64;
    println!(
        "{what}: {seconds:.2} s; each {:.2} us, {:.2} us of processor; {} MB resident",
        each(seconds),
        each(cpu),
        resident_mb()
    );
    outcome
}

fn write(store: &Store, keys: impl Iterator<Item = u64>) {
    let mut worst = 0.0_f64;
    for (n, i) in (1_u64..).zip(keys) {
        put(&mut store.writer(), key(i));
        if store.tail_is_full() {
            let start = Instant::now();
            store.drain(DRAIN_BYTES).expect("the drain works");
            worst = worst.max(start.elapsed().as_secs_f64());
        }
        if n.is_multiple_of(FLUSH_RECORDS) {
            store.flush().expect("the flush works");
        }
    }
    store.flush().expect("the flush works");
    println!("  worst drain of {} MiB: {:.0} ms", DRAIN_BYTES >> 20, worst * 1e3);
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let kind = match arguments.next().as_deref() {
        Some("sled") => EngineKind::Sled,
        Some("memory") => EngineKind::Memory,
        _ => EngineKind::Redb,
    };
    let keys: u64 = arguments.next().and_then(|keys| keys.parse().ok()).unwrap_or(20_000);
    let temporary = tempfile::tempdir().expect("a directory");
    let dir = arguments.next().map_or_else(|| temporary.path().to_owned(), Into::into);
    let dir = dir.as_path();
    println!("{kind:?}, {keys} keys, {} MB resident", resident_mb());
    let store = time("open", keys, || open(kind, dir));
    if store.revision() == Revision::INITIAL {
        fill(&store, keys)
    } else {
        read(&store, keys)
    }
    println!("engine: {:?}", store.engine_usage().expect("it works"));
}

fn fill(store: &Store, keys: u64) {
    time("load, drain and flush", keys, || write(store, 0..keys));
    let random = (0..keys / 2).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys);
    time("overwrite half", keys / 2, || write(store, random));
    let dirty = store.metrics().checkpoint_keys;
    time("checkpoint", dirty, || while store.checkpoint_step(10_000).expect("it works") == Progress::Working {});
    store.flush().expect("the flush works");
    let mut writer = store.writer();
    let compacted = writer.revision();
    let applied = Applied { term: 1, index: writer.applied().index + 1 };
    writer.commit(Delta { compacted: Some(compacted), ..Delta::default() }, applied);
    writer.publish();
    drop(writer);
    time("compaction", keys + keys / 2, || {
        while store.compaction_step(10_000).expect("it works") == Progress::Working {}
        store.flush().expect("the flush works");
    });
}

fn read(store: &Store, keys: u64) {
    let view = store.view();
    let at = view.revision();
    time("random get, engine", READS, || {
        for n in 0..READS {
            let name = key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys);
            let meta = view.key(&name, at).expect("the key is there");
            view.record(meta.modified).expect("the record is there");
        }
    });
    time("the same few, cache", READS, || {
        for n in 0..READS {
            let meta = view.key(&key(n % 1000), at).expect("the key is there");
            view.record(meta.modified).expect("the record is there");
        }
    });
    time("list 100 keys", 10_000, || {
        for n in 0..10_000 {
            let mut left = 100;
            view.keys(&KeyRange::From { start: key(n % keys) }, at, &mut |_, _| {
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
    });
    time("count all", keys, || view.count(&KeyRange::From { start: Bytes::new() }, at));
    time("hash of everything", keys, || store.hash_kv(Revision::ZERO).expect("it works"));
}
