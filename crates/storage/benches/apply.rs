//! Micro benches of the state machine: what a log entry costs from its bytes to its effects, over a store of many keys.

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use quorate_core::codec::{BatchEncoder, decode_entry, encode_entry};
use quorate_core::{
    Caller, Command, Compare, CompareResult, CompareTarget, DeleteRange, GroupId, KeyRange, MemberId, Op, Put, Request,
    Revision, Txn, apply,
};
use quorate_storage::engine::{EngineConfig, EngineKind, open_engine};
use quorate_storage::{Applied, Store, StoreConfig};

const KEYS: u64 = 20_000;

/// Commands in one entry.
const BATCHES: [u64; 3] = [1, 16, 256];

fn main() {
    divan::main();
}

fn key(i: u64) -> Bytes {
    Bytes::from(format!("/registry/pods/{:09}", i * 7919 % KEYS))
}

fn put(i: u64) -> Op {
    Op::Put(Put { key: key(i), value: Bytes::from_static(&[7; 256]), ..Put::default() })
}

/// What most clients of etcd write: a put if nobody else has written meanwhile, else a read.
fn guarded_put(i: u64) -> Command {
    let compare = Compare {
        range: KeyRange::Single(key(i)),
        result: CompareResult::Greater,
        target: CompareTarget::Mod(Revision::ZERO),
    };
    Command::Txn(Txn { compares: vec![compare], success: vec![put(i)], failure: Vec::new() })
}

/// An encoded entry of `count` commands that touch different keys.
fn entry(count: u64, command: fn(u64) -> Command) -> Bytes {
    let mut encoder = BatchEncoder::new(MemberId::new(1), 1);
    (0..count).for_each(|i| encoder.push(&Caller::Anonymous, &command(i)));
    encode_entry(1, &[encoder.finish()])
}

/// All keys written once. Nothing is drained, so that no engine is measured.
fn filled() -> Store {
    let directory = std::env::temp_dir();
    let engine = open_engine(EngineKind::Memory, &directory, EngineConfig::default()).expect("memory opens");
    let config = StoreConfig { tail_bytes_max: usize::MAX, cache_bytes_max: 0, ..StoreConfig::default() };
    let store = Store::open(engine, GroupId::DEFAULT, config).expect("an empty store opens");
    (0..KEYS).for_each(|i| run(&store, entry_of(put(i))));
    store
}

fn entry_of(op: Op) -> Bytes {
    let mut encoder = BatchEncoder::new(MemberId::new(1), 1);
    encoder.push(&Caller::Anonymous, &Command::Txn(Txn::of(op)));
    encode_entry(1, &[encoder.finish()])
}

/// As the node applies an entry, without the hooks.
fn run(store: &Store, entry: Bytes) {
    let mut writer = store.writer();
    let applied = Applied { term: 1, index: writer.applied().index + 1 };
    for batch in decode_entry(entry).expect("an entry decodes").batches {
        for Request { caller, command } in &batch.requests {
            let effects = apply(&writer, caller, command).expect("memory can be read");
            writer.commit(effects.delta, applied);
            let _ = black_box(effects.reply);
        }
    }
    writer.publish();
}

#[divan::bench(args = BATCHES)]
fn puts(bencher: Bencher<'_, '_>, count: u64) {
    let store = filled();
    let entry = entry(count, |i| Command::Txn(Txn::of(put(i))));
    bencher.counter(ItemsCount::new(count)).bench_local(|| run(&store, entry.clone()));
}

#[divan::bench(args = BATCHES)]
fn guarded_puts(bencher: Bencher<'_, '_>, count: u64) {
    let store = filled();
    let entry = entry(count, guarded_put);
    bencher.counter(ItemsCount::new(count)).bench_local(|| run(&store, entry.clone()));
}

/// A hundred keys at one revision, which are put back outside of the measurement.
#[divan::bench]
fn delete_of_a_hundred(bencher: Bencher<'_, '_>) {
    let store = filled();
    let range = KeyRange::Interval { start: "/registry/pods/000000100".into(), end: "/registry/pods/000000200".into() };
    let delete = entry_of(Op::DeleteRange(DeleteRange { range, prev_kv: false }));
    bencher
        .counter(ItemsCount::new(100_u64))
        .with_inputs(|| {
            for i in 100..200 {
                let key = Bytes::from(format!("/registry/pods/{i:09}"));
                run(&store, entry_of(Op::Put(Put { key, value: Bytes::from_static(b"x"), ..Put::default() })));
            }
        })
        .bench_local_values(|()| run(&store, delete.clone()));
}

/// The part of it that is the same for every member and every state.
#[divan::bench(args = BATCHES)]
fn decode(bencher: Bencher<'_, '_>, count: u64) {
    let entry = entry(count, guarded_put);
    bencher.counter(ItemsCount::new(count)).bench_local(|| decode_entry(entry.clone()));
}
