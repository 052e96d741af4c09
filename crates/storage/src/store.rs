//! [`Store`]: the state of one Raft group. What is committed lives in the index, the small tables and the tail at once;
//! the engine follows behind.
//!
//! Locks, in the order in which they may be taken: `engine_side` (one per store: whoever writes the group's rows), `newest`
//! (the one writer), then one of the short ones in [`Body`] (`index`, `tail`, `system`, `published`), never two of them.

use crate::cache::RecordCache;
use crate::engine::{DiskSpace, Engine, EngineUsage, Tell};
use crate::index::Index;
use crate::keys::Keys;
use crate::maintenance::EngineSide;
use crate::system::{Attachments, Tables};
use crate::tail::{Entry, Tail};
use crate::{ReadView, Result, Scrubbed, Scrubber, StorageError};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard, RwLock};
use quorate_core::{
    Alarm, AuthState, Change, ClusterVersions, Delta, GroupId, KeyMeta, KeyRange, Lease, LeaseId, MemberAttributes,
    MemberId, Record, Rejection, Rev, Revision, View,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A position in the group's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Applied {
    /// The entry's term.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
}

/// Bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Bytes of records that may wait for the engine before [`Store::tail_is_full`].
    pub tail_bytes_max: usize,
    /// Bytes of records that are kept for reads.
    pub cache_bytes_max: usize,
    /// Records that may be newer than the index checkpoint, which is what a restart reads beside that; or a quarter of the
    /// number of keys, if that is more.
    pub lag_records_max: usize,
    /// Bytes of records that may be newer than the index checkpoint.
    pub lag_bytes_max: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            tail_bytes_max: 64 << 20,
            cache_bytes_max: 256 << 20,
            lag_records_max: 1 << 19,
            lag_bytes_max: 512 << 20,
        }
    }
}

/// Figures of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Live keys.
    pub keys: u64,
    /// Versions of keys in the index: live ones, and what compaction has not removed.
    pub versions: u64,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest readable revision.
    pub compacted: Revision,
    /// Bytes that wait for the engine.
    pub tail_bytes: u64,
    /// Keys that wait for the index checkpoint.
    pub checkpoint_keys: u64,
    /// Records in the engine that are newer than the index checkpoint: what a restart reads beside the checkpoint.
    pub checkpoint_lag_records: u64,
    /// Bytes in the record cache.
    pub cache_bytes: u64,
    /// Reads of records (beyond the tail) that the cache answered.
    pub cache_hits: u64,
    /// Reads of records that went to the engine.
    pub cache_misses: u64,
}

/// What readers see.
pub(crate) struct Published {
    pub revision: Revision,
    pub compacted: Revision,
    pub applied: Applied,
    pub membership: Bytes,
    /// Oldest readable revision of each live view -> how many views.
    pub pins: BTreeMap<Revision, usize>,
}

/// The small tables, with what is derived.
#[derive(Default)]
pub(crate) struct System {
    pub tables: Tables,
    pub attachments: Attachments,
}

/// One generation of the state. A snapshot install replaces it as a whole; views keep the one that they were taken from.
pub(crate) struct Body {
    pub engine: Arc<dyn Engine>,
    pub keys: Keys,
    pub index: RwLock<Index>,
    pub tail: RwLock<Tail>,
    pub system: RwLock<System>,
    pub published: Mutex<Published>,
    pub cache: RecordCache,
    /// What was found damaged first.
    pub damage: Mutex<Option<String>>,
}

impl Body {
    /// Remembers that a row is damaged or missing, if that is why `outcome` is an error.
    pub fn suspect<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome
            && error.is_corruption()
        {
            self.damage.lock().get_or_insert_with(|| error.to_string());
        }
        outcome
    }

    pub fn unpin(&self, oldest: Revision) {
        let mut published = self.published.lock();
        if let Some(count) = published.pins.get_mut(&oldest) {
            *count -= 1;
            if *count == 0 {
                published.pins.remove(&oldest);
            }
        }
    }

    /// What one commit does to index and small tables.
    pub fn follow(&self, records: &[Record], changes: &[quorate_core::SystemChange]) {
        let before: Vec<Option<KeyMeta>> = {
            let mut index = self.index.write();
            records.iter().map(|record| index.apply(record)).collect()
        };
        let mut system = self.system.write();
        for (record, before) in records.iter().zip(before) {
            system.attachments.follow(record, before);
        }
        for change in changes {
            system.tables.apply(change);
        }
    }
}

/// The newest state, which the one writer works on.
pub(crate) struct Newest {
    pub revision: Revision,
    pub compacted: Revision,
    pub applied: Applied,
    pub membership: Bytes,
}

/// The state of one group. All methods may be called from any thread; those that say so block on the disk.
pub struct Store {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) group: GroupId,
    pub(crate) config: StoreConfig,
    pub(crate) body: RwLock<Arc<Body>>,
    pub(crate) newest: Mutex<Newest>,
    pub(crate) engine_side: Mutex<EngineSide>,
    /// As of the last step that changed it.
    pub(crate) lag_records: AtomicU64,
}

impl Store {
    pub(crate) fn body(&self) -> Arc<Body> {
        self.body.read().clone()
    }

    /// The right to change state. One at a time: a second caller waits until the first guard is dropped.
    pub fn writer(&self) -> Writer<'_> {
        let newest = self.newest.lock();
        Writer { body: self.body(), newest }
    }

    /// A view of what is published now.
    pub fn view(&self) -> ReadView {
        let body = self.body();
        let (revision, oldest) = {
            let mut published = body.published.lock();
            let oldest = published.compacted;
            *published.pins.entry(oldest).or_default() += 1;
            (published.revision, oldest)
        };
        ReadView::new(body, revision, oldest)
    }

    /// A view that reads `revision` and newer.
    pub fn view_at(&self, revision: Revision) -> std::result::Result<ReadView, Rejection> {
        let body = self.body();
        let newest = {
            let mut published = body.published.lock();
            if revision < published.compacted {
                return Err(Rejection::Compacted);
            }
            if revision > published.revision {
                return Err(Rejection::FutureRevision);
            }
            *published.pins.entry(revision).or_default() += 1;
            published.revision
        };
        Ok(ReadView::new(body, newest, revision))
    }

    /// The record that `rev` names; `None` if compaction took it. Reads the disk.
    pub fn find_record(&self, rev: Rev) -> Result<Option<Record>> {
        let body = self.body();
        match body.find(rev)? {
            Some(record) => Ok(Some(record)),
            // Only what was superseded at or below the compacted revision may be gone.
            None if rev.main < self.compacted() => Ok(None),
            None => body.record(rev).map(Some),
        }
    }

    /// Visits the published records of revisions `from` to `to` (both included), in order, until `visit` breaks. Reads
    /// the disk.
    pub fn scan_records(
        &self,
        from: Revision,
        to: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<()> {
        if from > to {
            return Ok(());
        }
        self.view_at(from)?.scan_records(from, to, visit)
    }

    /// The first row that was found damaged or missing since the store was opened, and what is wrong with it.
    pub fn damage(&self) -> Option<String> {
        self.body().damage.lock().clone()
    }

    /// Takes note of damage that was found on another way.
    pub fn note_damage(&self, what: String) {
        self.body().damage.lock().get_or_insert(what);
    }

    /// Reads about `bytes_max` bytes of rows where `scrubber` is, as they are in the engine now, and looks at their checksums.
    /// At the end it begins again. Blocks on the disk.
    ///
    /// # Errors
    /// The engine cannot be read; that may be damage as well ([`StorageError::is_corruption`]).
    pub fn scrub(&self, scrubber: &mut Scrubber, bytes_max: usize) -> Result<Scrubbed> {
        scrubber.step(self.engine.as_ref(), bytes_max)
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The newest published revision.
    pub fn revision(&self) -> Revision {
        self.body().published.lock().revision
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.body().published.lock().compacted
    }

    /// The log entry whose outcome is published.
    pub fn applied(&self) -> Applied {
        self.body().published.lock().applied
    }

    /// The membership as last set and published; empty if it never was.
    pub fn membership(&self) -> Bytes {
        self.body().published.lock().membership.clone()
    }

    /// How many leases there are.
    pub fn lease_count(&self) -> usize {
        self.body().system.read().tables.leases.len()
    }

    /// All leases, sorted by id.
    pub fn leases(&self) -> Vec<Lease> {
        self.body().system.read().tables.leases.values().copied().collect()
    }

    /// What members told of themselves, sorted by id.
    pub fn members(&self) -> Vec<(MemberId, MemberAttributes)> {
        let body = self.body();
        let system = body.system.read();
        system.tables.members.iter().map(|(id, attributes)| (*id, attributes.clone())).collect()
    }

    /// Whether the member was removed for good.
    pub fn is_forgotten(&self, member: MemberId) -> bool {
        self.body().system.read().tables.forgotten.contains(&member)
    }

    /// Users, roles, and whether permissions are asked for.
    pub fn auth(&self) -> Arc<AuthState> {
        self.body().system.read().tables.auth.clone()
    }

    /// The alarms that are raised, sorted.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.body().system.read().tables.alarms.iter().copied().collect()
    }

    /// What the members have agreed on about versions.
    pub fn versions(&self) -> ClusterVersions {
        self.body().system.read().tables.versions
    }

    /// Bytes that wait for the engine.
    pub fn tail_bytes(&self) -> usize {
        self.body().tail.read().bytes()
    }

    /// Whether the writer should wait for a drain.
    pub fn tail_is_full(&self) -> bool {
        self.tail_bytes() >= self.config.tail_bytes_max
    }

    /// Figures.
    pub fn metrics(&self) -> Metrics {
        let body = self.body();
        let (revision, compacted) = {
            let published = body.published.lock();
            (published.revision, published.compacted)
        };
        let (keys, versions, checkpoint_keys) = {
            let index = body.index.read();
            (index.live(), index.versions(), index.waiting_len() as u64)
        };
        let (cache_hits, cache_misses) = body.cache.counts();
        let tail_bytes = body.tail.read().bytes() as u64;
        let cache_bytes = body.cache.bytes();
        Metrics {
            keys,
            versions,
            revision,
            compacted,
            tail_bytes,
            checkpoint_keys,
            checkpoint_lag_records: self.lag_records.load(Ordering::Relaxed),
            cache_bytes,
            cache_hits,
            cache_misses,
        }
    }

    /// Gives space that the engine does not use back to the file system, for all groups together. Reads and writes go on
    /// meanwhile. Needs disk space for a second copy of the rows while it runs. `progress` is told how many bytes of rows are
    /// done, and how many there are, if the engine knows that. Blocks on the disk.
    pub fn defragment(&self, progress: Tell<'_>) -> Result<()> {
        Ok(self.engine.compact(progress)?)
    }

    /// The file system that the engine is on; `None` if it has no files.
    pub fn engine_disk(&self) -> Result<Option<DiskSpace>> {
        Ok(self.engine.disk()?)
    }

    /// What the engine takes on disk, for all groups together.
    pub fn engine_usage(&self) -> Result<EngineUsage> {
        Ok(self.engine.usage()?)
    }
}

/// The right to change state, and a [`View`] of the newest, also unpublished, state for [`quorate_core::apply`].
pub struct Writer<'a> {
    body: Arc<Body>,
    newest: MutexGuard<'a, Newest>,
}

impl Writer<'_> {
    /// The log entry that was committed last.
    pub fn applied(&self) -> Applied {
        self.newest.applied
    }

    /// Takes in the outcome of the entry `applied`. Seen by this writer at once, by views after [`Writer::publish`].
    ///
    /// # Panics
    /// If the records are not of the next revision: the caller is broken, and must not go on.
    pub fn commit(&mut self, delta: Delta, applied: Applied) {
        let Delta { records, compacted, system } = delta;
        if !records.is_empty() {
            let next = self.newest.revision.next();
            // INVARIANT(revision-step): a command adds 0 or 1.
            assert!(
                records.iter().enumerate().all(|(sub, record)| record.rev == Rev::new(next, sub as u32)),
                "the records of one command are those of revision {next}, in order"
            );
            self.newest.revision = next;
        }
        if let Some(compacted) = compacted {
            assert!(
                self.newest.compacted < compacted && compacted <= self.newest.revision,
                "a compaction goes forward, and not beyond the newest revision"
            );
            self.newest.compacted = compacted;
        }
        let records: Vec<Record> = records.into_iter().map(detached).collect();
        for record in &records {
            self.body.cache.insert(record.clone());
        }
        self.body.follow(&records, &system);
        self.push(applied, records, system, None);
    }

    /// Takes in a membership entry.
    pub fn set_membership(&mut self, membership: Bytes, applied: Applied) {
        self.newest.membership = membership.clone();
        self.push(applied, Vec::new(), Vec::new(), Some(membership));
    }

    fn push(
        &mut self,
        applied: Applied,
        records: Vec<Record>,
        system: Vec<quorate_core::SystemChange>,
        membership: Option<Bytes>,
    ) {
        self.newest.applied = applied;
        let entry = Entry {
            applied,
            records: records.len(),
            revision: self.newest.revision,
            compacted: self.newest.compacted,
            system,
            membership,
        };
        self.body.tail.write().push(entry, records);
    }

    /// Makes everything that was committed visible to new views.
    pub fn publish(&mut self) {
        self.body.tail.write().seal();
        let mut published = self.body.published.lock();
        published.revision = self.newest.revision;
        published.compacted = self.newest.compacted;
        published.applied = self.newest.applied;
        published.membership = self.newest.membership.clone();
    }
}

/// The record in a buffer of its own, so that keeping it does not keep the whole log entry that it came in.
fn detached(record: Record) -> Record {
    let mut buffer = BytesMut::with_capacity(record.payload_bytes());
    buffer.put_slice(&record.key);
    let change = match record.change {
        Change::Put { create_revision, version, lease, value } => {
            buffer.put_slice(&value);
            let buffer = buffer.freeze();
            let (key, value) = (buffer.slice(..record.key.len()), buffer.slice(record.key.len()..));
            return Record { key, change: Change::Put { create_revision, version, lease, value }, ..record };
        }
        Change::Delete => Change::Delete,
    };
    Record { key: buffer.freeze(), change, ..record }
}

impl View for Writer<'_> {
    type Error = StorageError;

    fn revision(&self) -> Revision {
        self.newest.revision
    }

    fn compacted(&self) -> Revision {
        self.newest.compacted
    }

    fn key(&self, key: &[u8], at: Revision) -> Option<KeyMeta> {
        self.body.key(key, at)
    }

    fn keys(&self, range: &KeyRange, at: Revision, visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>) {
        self.body.keys(range, at, visit);
    }

    fn count(&self, range: &KeyRange, at: Revision) -> i64 {
        self.body.count(range, at)
    }

    fn record(&self, rev: Rev) -> Result<Record> {
        self.body.record(rev)
    }

    fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.body.system.read().tables.leases.get(&id).copied()
    }

    fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        self.body.system.read().attachments.keys(id)
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.body.system.read().tables.alarms.iter().copied().collect()
    }

    fn versions(&self) -> ClusterVersions {
        self.body.system.read().tables.versions
    }

    fn auth(&self) -> Arc<AuthState> {
        self.body.system.read().tables.auth.clone()
    }
}
