//! Opening a store: the checkpoint's rows first, then the records that are newer.

use crate::cache::RecordCache;
use crate::checkpoint::Lag;
use crate::engine::{Batch, Engine, Visit};
use crate::index::{History, Index, Version};
use crate::keys::{self, Keys};
use crate::maintenance::EngineSide;
use crate::rows::{self, Census, FORMAT_VERSION, GroupState};
use crate::store::{Body, Newest, Published, System};
use crate::system::{SystemKey, Tables};
use crate::tail::Tail;
use crate::waiting::{Row, Waiting};
use crate::{Result, StorageError, Store, StoreConfig};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quorate_core::GroupId;
use quorate_sabotage::sabotage;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

impl Store {
    /// Opens the group's state in `engine`, or starts it empty. Reads the disk: about half a second per million keys.
    pub fn open(engine: Arc<dyn Engine>, group: GroupId, config: StoreConfig) -> Result<Self> {
        check_format(engine.as_ref())?;
        let state_key = keys::state_key(group);
        let state = match engine.get(&state_key)? {
            Some(row) => GroupState::decode(&state_key, &row)?,
            None => {
                // Rows are never written without a state: it was here, and is lost.
                for tag in keys::GENERATION_TAGS {
                    let start = keys::generation_start(tag, group, 0);
                    refuse_rows(engine.as_ref(), &start, &keys::group_end(tag, group), &state_key)?;
                }
                GroupState::new()
            }
        };
        let keys = Keys { group, generation: state.generation };
        let (tables, system_rows) = load_system(engine.as_ref(), keys, state.system)?;
        let (rows, waiting) = load_rows(engine.as_ref(), keys, &state)?;
        let body = Arc::new(Body::new(engine.clone(), keys, Index::default(), tables, &state, config));
        let (changes, bytes) = body.changes_since_checkpoint(&state)?;
        let mut lag = Lag::default();
        let records = changes.len();
        lag.add(state.revision, records, bytes);
        *body.index.write() = Index::build(rows, waiting, changes, state.compacted);
        body.attach_all();
        let newest = Newest {
            revision: state.revision,
            compacted: state.compacted,
            applied: state.applied,
            membership: state.membership.clone(),
        };
        Ok(Self {
            engine,
            group,
            config,
            body: RwLock::new(body),
            newest: Mutex::new(newest),
            lag_records: AtomicU64::new(records as u64),
            engine_side: Mutex::new(EngineSide::new(state, system_rows, lag)),
        })
    }
}

/// Refuses an engine whose rows are of a version that is not known, and marks one that is new.
fn check_format(engine: &dyn Engine) -> Result<()> {
    let Some(row) = engine.get(&keys::FORMAT_KEY)? else {
        refuse_rows(engine, &keys::FORMAT_KEY, &[u8::MAX], &keys::FORMAT_KEY)?;
        let mut batch = Batch::default();
        let row = rows::seal(&keys::FORMAT_KEY, &FORMAT_VERSION.to_le_bytes());
        batch.put(keys::FORMAT_KEY.to_vec(), row);
        return Ok(engine.write(&batch)?);
    };
    let content = rows::open(&keys::FORMAT_KEY, &row)?;
    let found = content.try_into().map(u32::from_le_bytes);
    match found {
        Ok(FORMAT_VERSION) => Ok(()),
        Ok(found) => Err(StorageError::NewerFormat { place: engine.name().to_owned(), found, known: FORMAT_VERSION }),
        Err(_) => Err(rows::corrupt(&keys::FORMAT_KEY, "the format version cannot be decoded")),
    }
}

/// Fails if there is a row between `from` and `until`, because then `missing` must be there, too.
fn refuse_rows(engine: &dyn Engine, from: &[u8], until: &[u8], missing: &[u8]) -> Result<()> {
    for_rows(engine, from, until, &mut |_, _| Err(rows::corrupt(missing, "the row is missing, and others are there")))
}

fn load_system(engine: &dyn Engine, keys: Keys, census: Census) -> Result<(Tables, BTreeSet<SystemKey>)> {
    let mut tables = Tables::default();
    let mut found = BTreeSet::new();
    let mut seen = Census::default();
    for_rows(engine, &keys.system_start(), &keys.system_end(), &mut |key, row| {
        let content = rows::open(key, row)?;
        let bad = || rows::corrupt(key, "the row cannot be decoded");
        let rest = Keys::rest(key).ok_or_else(bad)?;
        let name = SystemKey::decode(rest).ok_or_else(bad)?;
        tables.load(name.clone(), content).ok_or_else(bad)?;
        seen.add(rest);
        found.insert(name);
        Ok(())
    })?;
    if seen != census {
        return Err(rows::corrupt(&keys.system_start(), &incomplete(seen, census)));
    }
    Ok((tables, found))
}

/// Keys and histories of the checkpoint's rows, in key order.
type Rows = Vec<(Box<[u8]>, History)>;

/// Keys and what happened to them, in the order of revisions.
type Changes = Vec<(Box<[u8]>, Version)>;

/// The checkpoint's rows, and those of them that are to be written anew.
fn load_rows(engine: &dyn Engine, keys: Keys, state: &GroupState) -> Result<(Rows, Waiting)> {
    let mut entries = Vec::with_capacity(usize::try_from(state.index.rows).unwrap_or(0).min(1 << 24));
    let mut waiting = Waiting::default();
    let mut seen = Census::default();
    for_rows(engine, &keys.index_start(), &keys.index_end(), &mut |key, row| {
        let mut history = rows::decode_history(key, row)?;
        let name = Keys::rest(key).ok_or_else(|| rows::corrupt(key, "the row's key is not one of the index"))?;
        seen.add(name);
        if history.newest().main > state.revision.get() {
            return Err(rows::corrupt(key, "the history is newer than the state"));
        }
        // The row may be older than the last compaction.
        let versions = history.versions().len();
        if !history.prune(state.compacted) {
            waiting.push_orphan(name);
            return Ok(());
        }
        if history.versions().len() < versions {
            history.set_row(Row::Loose);
            waiting.push_loose(name);
        }
        entries.push((Box::from(name), history));
        Ok(())
    })?;
    if seen != state.index {
        return Err(rows::corrupt(&keys.index_start(), &incomplete(seen, state.index)));
    }
    Ok((entries, waiting))
}

/// What is wrong with a table of which rows are missing, or too many.
pub(crate) fn incomplete(seen: Census, expected: Census) -> String {
    format!("the table is not complete: {} rows of {}", seen.rows, expected.rows)
}

/// Like [`Engine::scan`], with a visitor that can fail.
fn for_rows(engine: &dyn Engine, from: &[u8], until: &[u8], visit: Visit<'_, Result<()>>) -> Result<()> {
    let mut outcome = Ok(());
    engine.scan(from, until, &mut |key, row| {
        outcome = visit(key, row);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome
}

impl Body {
    /// A body whose engine rows are those of `state`. Attachments are still to be derived.
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        keys: Keys,
        index: Index,
        tables: Tables,
        state: &GroupState,
        config: StoreConfig,
    ) -> Self {
        Self {
            engine,
            keys,
            index: RwLock::new(index),
            tail: RwLock::new(Tail::default()),
            system: RwLock::new(System { tables, ..System::default() }),
            published: Mutex::new(Published {
                revision: state.revision,
                compacted: state.compacted,
                applied: state.applied,
                membership: state.membership.clone(),
                pins: BTreeMap::new(),
            }),
            cache: RecordCache::new(config.cache_bytes_max),
            damage: Mutex::new(None),
        }
    }

    /// What happened since the checkpoint, in order, and how many bytes of records it was. Compaction never goes beyond the
    /// checkpoint, so that a record that is missing above it is found.
    fn changes_since_checkpoint(&self, state: &GroupState) -> Result<(Changes, usize)> {
        let mut changes = Vec::new();
        let mut bytes = 0;
        self.scan(state.checkpoint.next(), state.revision, state.checkpoint, &mut |record| {
            bytes += record.payload_bytes();
            let version = Version::of(&record);
            changes.push((Box::from(record.key.as_ref()), version));
            ControlFlow::Continue(())
        })?;
        Ok((changes, bytes))
    }

    /// Derives which keys hang on which lease.
    pub(crate) fn attach_all(&self) {
        if sabotage!(LeaseKeysForgotten) {
            return;
        }
        let index = self.index.read();
        let mut attached = Vec::new();
        for (key, history) in index.iter_from(Bound::Unbounded) {
            if let Some(meta) = history.newest().meta()
                && meta.lease.is_some()
            {
                attached.push((meta.lease, Bytes::copy_from_slice(key)));
            }
        }
        drop(index);
        let mut system = self.system.write();
        for (lease, key) in attached {
            system.attachments.attach(lease, key);
        }
    }
}
