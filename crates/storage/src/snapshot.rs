//! Snapshots: export of a store as a header and its records in order, and install of one beside the state that serves.
//!
//! An install writes a new generation of rows in bounded batches, and switches to it with one batch. Views that were taken
//! before keep the old generation, whose rows are removed by [`Store::cleanup_step`] when the last of them is gone.

use crate::codec::{Decoder, Encoder};
use crate::engine::Batch;
use crate::index::{History, Index, Kind, Version};
use crate::keys::Keys;
use crate::rows::{self, Census, CompactionState, GroupState};
use crate::store::{Body, Newest};
use crate::system::{SystemKey, Tables};
use crate::{Applied, ReadView, Result, StorageError, Store};
use bytes::Bytes;
use quorate_core::{
    Alarm, AuthState, ClusterVersions, KeyRange, Lease, MemberAttributes, MemberId, Record, Rev, Revision, SystemChange,
};
use quorate_sabotage::sabotage;
use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Version of [`SnapshotMeta`]'s encoding.
const META_VERSION: u32 = 1;
/// Bytes of rows that an install writes at once.
const BATCH_BYTES: usize = 4 << 20;
/// Keys that one look at the index takes while an install writes its checkpoint.
const KEYS_PER_LOOK: usize = 4096;

/// Everything of a snapshot but the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The log entry whose outcome the snapshot is.
    pub applied: Applied,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest readable revision.
    pub compacted: Revision,
    /// The membership, as [`crate::Writer::set_membership`] got it.
    pub membership: Bytes,
    /// How many records belong to it.
    pub records: u64,
    /// Whether there may be records that a compaction to `compacted` removes. Never so in what this crate exports, and not in
    /// the encoding.
    compacting: bool,
    pub(crate) tables: Tables,
}

impl SnapshotMeta {
    /// As bytes, with their version and a checksum in front.
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::default();
        out.u32(META_VERSION);
        out.u64(self.applied.term);
        out.u64(self.applied.index);
        out.i64(self.revision.get());
        out.i64(self.compacted.get());
        out.bytes(&self.membership);
        out.u64(self.records);
        let rows: Vec<_> = self.tables.rows().collect();
        out.u64(rows.len() as u64);
        for (name, content) in rows {
            out.bytes(&name.encode());
            out.bytes(&content);
        }
        rows::seal(b"snapshot", &out.0).into()
    }

    /// From what [`SnapshotMeta::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let content = rows::open(b"snapshot", bytes)?;
        let bad = || rows::corrupt(b"snapshot", "the header cannot be decoded");
        let found = Decoder::new(content).u32().ok_or_else(bad)?;
        if found != META_VERSION {
            return Err(StorageError::NewerFormat { place: "snapshot".to_owned(), found, known: META_VERSION });
        }
        Self::parse(content).ok_or_else(bad)
    }

    /// The state of a store of another kind: a keyspace and small tables, without a log and members. If `compacting`, a
    /// compaction is not through: records may be there that it is going to remove.
    pub fn foreign(
        revision: Revision,
        compacted: Revision,
        compacting: bool,
        records: u64,
        changes: &[SystemChange],
    ) -> Self {
        let mut meta = Self { revision, compacted, compacting, records, ..Self::default() };
        changes.iter().for_each(|change| meta.tables.apply(change));
        meta
    }

    /// The leases, by id.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.tables.leases.values()
    }

    /// What the members told of themselves.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &MemberAttributes)> {
        self.tables.members.iter().map(|(id, member)| (*id, member))
    }

    /// Members that were removed.
    pub fn removed_members(&self) -> impl Iterator<Item = MemberId> {
        self.tables.forgotten.iter().copied()
    }

    /// The alarms.
    pub fn alarms(&self) -> impl Iterator<Item = Alarm> {
        self.tables.alarms.iter().copied()
    }

    /// What is agreed on about versions.
    pub fn versions(&self) -> ClusterVersions {
        self.tables.versions
    }

    /// Users and roles.
    pub fn auth(&self) -> &AuthState {
        &self.tables.auth
    }

    /// How many rows of the small tables belong to it.
    pub fn table_rows(&self) -> u64 {
        self.tables.rows().count() as u64
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let mut row = Decoder::new(content);
        row.u32()?;
        let mut meta = Self {
            applied: Applied { term: row.u64()?, index: row.u64()? },
            revision: Revision::new(row.i64()?),
            compacted: Revision::new(row.i64()?),
            membership: row.bytes()?,
            records: row.u64()?,
            compacting: false,
            tables: Tables::default(),
        };
        for _ in 0..row.u64()? {
            let name = SystemKey::decode(row.slice()?)?;
            meta.tables.load(name, row.slice()?)?;
        }
        row.end()?;
        Some(meta)
    }
}

/// What a new cluster that begins with the data of a snapshot has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    /// The log position that its log begins behind.
    pub applied: Applied,
    /// Its membership, as [`crate::Writer::set_membership`] takes it.
    pub membership: Bytes,
    /// How far its first revision is ahead of the snapshot's newest. If it is, everything before counts as compacted: a
    /// watcher or a reader that knew a later state of the old cluster is told so, and never sees a revision twice with
    /// another content.
    pub revision_bump: u64,
}

impl SnapshotMeta {
    /// What the snapshot's state becomes in a new cluster. The old members are not among its members, so what they told of
    /// themselves, and that some of them were removed, is dropped; leases, alarms and everything else stay.
    fn begin_anew(&self, new: NewCluster) -> Result<Self> {
        let mut after = self.clone();
        after.applied = new.applied;
        after.membership = new.membership;
        after.tables.members.clear();
        after.tables.forgotten.clear();
        if new.revision_bump > 0 {
            let bumped = i64::try_from(new.revision_bump).ok().and_then(|bump| self.revision.get().checked_add(bump));
            let revision = bumped.ok_or_else(|| {
                let what = format!("revision {} plus {} is beyond what there is", self.revision, new.revision_bump);
                rows::corrupt(b"snapshot", &what)
            })?;
            after.revision = Revision::new(revision);
            after.compacted = after.revision;
        }
        Ok(after)
    }
}

/// A snapshot in the making: the header, and the records in portions. Keeps compaction from removing what it still needs.
pub struct Exporter {
    view: ReadView,
    meta: SnapshotMeta,
    next: Rev,
    sent: u64,
}

impl Exporter {
    /// The header.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Goes back to the first record.
    pub fn rewind(&mut self) {
        (self.next, self.sent) = (Rev::default(), 0);
    }

    /// The next records, in order, about `bytes_max` of them; none when all were returned. Finds records that are missing.
    /// Blocks on the disk.
    pub fn next(&mut self, bytes_max: usize) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let body = self.view.body();
        while bytes < bytes_max {
            let chunk = body.look(self.next, self.meta.revision)?;
            if chunk.is_empty() {
                break;
            }
            for record in chunk.into_iter().map(|entry| entry.record) {
                if bytes >= bytes_max {
                    break;
                }
                self.next = Rev::new(record.rev.main, record.rev.sub + 1);
                if body.retains(&record, self.meta.compacted) {
                    bytes += record.payload_bytes();
                    records.push(record);
                }
            }
        }
        if sabotage!(SnapshotRecordDropped) && self.sent == 0 && !records.is_empty() {
            records.remove(0);
        }
        self.sent += records.len() as u64;
        if records.is_empty() && self.sent != self.meta.records {
            let key = body.keys.record(Rev::default());
            let what = format!("the history is not complete: {} records of {}", self.sent, self.meta.records);
            return Err(rows::corrupt(&key, &what));
        }
        Ok(records)
    }
}

impl Body {
    /// Whether a compaction to `compacted` leaves the record.
    fn retains(&self, record: &Record, compacted: Revision) -> bool {
        record.rev.main > compacted
            || self.index.read().history(&record.key).is_some_and(|history| {
                history.retained(compacted, compacted).iter().any(|version| version.rev() == record.rev)
            })
    }
}

impl Store {
    /// Starts a snapshot of what is committed now. Waits for the writer, if there is one; then walks over the index.
    pub fn export(&self) -> Exporter {
        let (view, mut meta) = {
            let newest = self.newest.lock();
            let body = self.body();
            *body.published.lock().pins.entry(newest.compacted).or_default() += 1;
            let meta = SnapshotMeta {
                applied: newest.applied,
                revision: newest.revision,
                compacted: newest.compacted,
                membership: newest.membership.clone(),
                records: 0,
                compacting: false,
                tables: body.system.read().tables.clone(),
            };
            (ReadView::new(body, newest.revision, newest.compacted), meta)
        };
        let everything = KeyRange::From { start: Bytes::new() };
        view.body().histories::<()>(
            &everything,
            &mut |history| {
                meta.records += history.retained(meta.compacted, meta.revision).len() as u64;
                None
            },
            &mut |_, ()| ControlFlow::Continue(()),
        );
        if sabotage!(SnapshotLeasesDropped) {
            meta.tables.leases.clear();
        }
        if sabotage!(SnapshotRecordDropped) {
            meta.records = meta.records.saturating_sub(1);
        }
        Exporter { view, meta, next: Rev::default(), sent: 0 }
    }

    /// Starts to take in a snapshot, beside the state that serves.
    pub fn begin_install(self: &Arc<Self>) -> Result<Installer> {
        let mut side = self.engine_side.lock();
        let generation = side.state.generation_next;
        let state = GroupState { generation_next: generation + 1, ..side.state.clone() };
        // Without this an install after a restart could meet rows of this one.
        self.write(&mut side, Batch::default(), state)?;
        side.installing.insert(generation);
        drop(side);
        Ok(Installer {
            store: self.clone(),
            keys: Keys { group: self.group, generation },
            index: Index::default(),
            pending: None,
            records: 0,
            batch: Batch::default(),
        })
    }
}

/// A snapshot that is being taken in. Dropped without [`Installer::finish`], it leaves rows for [`Store::cleanup_step`].
pub struct Installer {
    store: Arc<Store>,
    keys: Keys,
    index: Index,
    /// The record that came last: whether it is the last of its revision, the next one tells.
    pending: Option<Record>,
    records: u64,
    batch: Batch,
}

impl Installer {
    /// Takes the next record, in the order in which [`Exporter::next`] returned them. Blocks on the disk.
    pub fn push(&mut self, record: Record) -> Result<()> {
        if let Some(before) = self.pending.take() {
            if before.rev >= record.rev {
                return Err(rows::corrupt(&self.keys.record(record.rev), "the snapshot's records are out of order"));
            }
            self.put(&before, before.rev.main != record.rev.main);
        }
        self.index.load(&record);
        self.records += 1;
        self.pending = Some(record);
        if self.batch.bytes() >= BATCH_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// As [`Installer::push`], for a record of a store that does not tell what a change replaced.
    pub fn push_foreign(&mut self, mut record: Record) -> Result<()> {
        let newest = self.index.history(&record.key).map(History::newest);
        record.replaces = newest.filter(|version| version.kind == Kind::Put).map(Version::rev);
        self.push(record)
    }

    fn put(&mut self, record: &Record, last: bool) {
        let key = self.keys.record(record.rev);
        let row = rows::seal(&key, &rows::encode_record(record, last));
        self.batch.put(key, row);
    }

    fn write(&mut self) -> Result<()> {
        Ok(self.store.engine.write(&std::mem::take(&mut self.batch))?)
    }

    /// Checks that all is there, switches to the snapshot, and makes it durable. What was committed and is not in the
    /// snapshot is gone. Waits for the writer, if there is one. Blocks on the disk.
    pub fn finish(self, meta: &SnapshotMeta) -> Result<Applied> {
        self.finish_as(meta, meta)
    }

    /// As [`Installer::finish`], and makes it the beginning of a new cluster.
    pub fn finish_as_new(self, meta: &SnapshotMeta, new: NewCluster) -> Result<Applied> {
        let after = meta.begin_anew(new)?;
        self.finish_as(meta, &after)
    }

    /// `meta` is what the records must fit, `after` the state that they become.
    fn finish_as(mut self, meta: &SnapshotMeta, after: &SnapshotMeta) -> Result<Applied> {
        let newest = self.pending.take();
        let newest_revision = newest.as_ref().map_or(Revision::INITIAL, |record| record.rev.main);
        let dense = meta.revision > meta.compacted;
        let fits = newest_revision == meta.revision || newest_revision < meta.revision && !dense;
        if self.records != meta.records || !fits || meta.compacted > meta.revision {
            let what = format!(
                "the snapshot has {} records up to revision {newest_revision}, its header says {} up to {}",
                self.records, meta.records, meta.revision
            );
            return Err(rows::corrupt(b"snapshot", &what));
        }
        if let Some(record) = newest {
            self.put(&record, true);
        }
        let through = if meta.compacting { Revision::ZERO } else { meta.compacted };
        let mut state = GroupState {
            generation: self.keys.generation,
            generation_next: 0,
            applied: after.applied,
            revision: after.revision,
            compacted: after.compacted,
            // If more is compacted afterwards than the records say, the owner's compaction removes it.
            compaction: CompactionState { done: through, target: through, next: Rev::default() },
            checkpoint: after.revision,
            index: Census::default(),
            system: Census::default(),
            membership: after.membership.clone(),
        };
        state.index = self.write_index()?;
        let mut system_rows = BTreeSet::new();
        for (name, content) in after.tables.rows() {
            let rest = name.encode();
            let key = self.keys.system(&rest);
            let row = rows::seal(&key, &content);
            self.batch.put(key, row);
            state.system.add(&rest);
            system_rows.insert(name);
        }
        self.write()?;
        self.switch(state, system_rows, after)
    }

    /// Writes the checkpoint's rows.
    fn write_index(&mut self) -> Result<Census> {
        let index = std::mem::take(&mut self.index);
        let mut census = Census::default();
        let mut after: Option<Box<[u8]>> = None;
        loop {
            let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut seen = 0;
            let mut last = None;
            let short = usize::from(sabotage!(SnapshotIndexShort) && after.is_none());
            for (key, history) in index.iter_from(start).take(KEYS_PER_LOOK).skip(short) {
                let row_key = self.keys.index(key);
                let row = rows::seal(&row_key, &rows::encode_history(history.versions()));
                self.batch.put(row_key, row);
                census.add(key);
                seen += 1;
                last = Some(key);
            }
            after = last.map(Box::from);
            if self.batch.bytes() >= BATCH_BYTES {
                self.write()?;
            }
            if seen < KEYS_PER_LOOK {
                self.index = index;
                return Ok(census);
            }
        }
    }

    fn switch(
        &mut self,
        mut state: GroupState,
        system_rows: BTreeSet<SystemKey>,
        meta: &SnapshotMeta,
    ) -> Result<Applied> {
        let store = self.store.clone();
        let index = std::mem::take(&mut self.index);
        let body = Body::new(store.engine.clone(), self.keys, index, meta.tables.clone(), &state, store.config);
        body.attach_all();
        let mut side = store.engine_side.lock();
        let mut newest = store.newest.lock();
        state.generation_next = side.state.generation_next;
        store.write(&mut side, Batch::default(), state)?;
        if !sabotage!(SnapshotNotFlushed) {
            store.engine.flush()?;
        }
        let old = std::mem::replace(&mut *store.body.write(), Arc::new(body));
        side.switched(system_rows, &old);
        store.tell_lag(&side);
        *newest = Newest {
            revision: meta.revision,
            compacted: meta.compacted,
            applied: meta.applied,
            membership: meta.membership.clone(),
        };
        Ok(meta.applied)
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        self.store.engine_side.lock().installing.remove(&self.keys.generation);
    }
}
