//! The record cache: records that were written or read lately, bounded in bytes. Records are immutable, so that nothing
//! in it is ever stale.

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quorate_core::{Record, Rev};
use std::hash::BuildHasherDefault;
use std::hash::DefaultHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an entry costs beside key and value, about.
const ENTRY_BYTES: u64 = size_of::<Record>() as u64 + 80;
/// A record of usual size, to guess how many entries fit.
const USUAL_BYTES: u64 = 512;
/// Few, so that a record of the greatest allowed size still fits a shard of a cache of usual size.
const SHARDS: usize = 8;

#[derive(Clone)]
struct Bytes;

impl Weighter<Rev, Record> for Bytes {
    fn weight(&self, _: &Rev, record: &Record) -> u64 {
        ENTRY_BYTES + record.payload_bytes() as u64
    }
}

/// Hashes the same way in every process: what stays in the cache must not depend on chance.
type Hasher = BuildHasherDefault<DefaultHasher>;

pub(crate) struct RecordCache {
    records: Cache<Rev, Record, Bytes, Hasher>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl RecordCache {
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max as u64;
        let options = quick_cache::OptionsBuilder::new()
            .estimated_items_capacity(usize::try_from(bytes_max / USUAL_BYTES).unwrap_or(usize::MAX).max(16))
            .weight_capacity(bytes_max)
            .shards(SHARDS)
            .build()
            .expect("the capacities are given");
        Self {
            records: Cache::with_options(options, Bytes, Hasher::default(), DefaultLifecycle::default()),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub fn get(&self, rev: Rev) -> Option<Record> {
        let found = self.records.get(&rev);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    pub fn insert(&self, record: Record) {
        self.records.insert(record.rev, record);
    }

    pub fn bytes(&self) -> u64 {
        self.records.weight()
    }

    /// Hits and misses so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}
