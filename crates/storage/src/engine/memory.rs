//! An engine without files, for tests and simulation. It keeps apart what was flushed, so that a test can cut the power.

use super::{Batch, Engine, EngineUsage, Tell, Visit};
use crate::EngineError;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Clones share the content: a store that is opened on a clone finds what was written, as after a restart.
#[derive(Clone, Default)]
pub struct MemoryEngine {
    rows: Arc<RwLock<Rows>>,
}

#[derive(Default)]
struct Rows {
    map: BTreeMap<Vec<u8>, Bytes>,
    /// What the rows changed since the last flush held at that flush, oldest first.
    undo: Vec<(Vec<u8>, Option<Bytes>)>,
    bytes: u64,
}

impl Rows {
    fn set(&mut self, key: Vec<u8>, value: Option<Bytes>) -> Option<Bytes> {
        let key_bytes = key.len();
        let size = |value: &Bytes| (key_bytes + value.len()) as u64;
        self.bytes += value.as_ref().map_or(0, size);
        let old = match value {
            Some(value) => self.map.insert(key, value),
            None => self.map.remove(&key),
        };
        self.bytes -= old.as_ref().map_or(0, size);
        old
    }
}

impl MemoryEngine {
    /// Forgets everything that was not flushed: what a power cut does.
    pub fn lose_unflushed(&self) {
        let mut rows = self.rows.write();
        while let Some((key, value)) = rows.undo.pop() {
            rows.set(key, value);
        }
    }
}

impl Engine for MemoryEngine {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.rows.read().map.get(key).cloned())
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_, ControlFlow<()>>) -> Result<(), EngineError> {
        if from >= until {
            return Ok(());
        }
        for (key, value) in self.rows.read().map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(until))) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut rows = self.rows.write();
        for (key, value) in batch.operations() {
            let old = rows.set(key.to_vec(), value.map(Bytes::copy_from_slice));
            rows.undo.push((key.to_vec(), old));
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.rows.write().undo.clear();
        Ok(())
    }

    fn usage(&self) -> Result<EngineUsage, EngineError> {
        let bytes = self.rows.read().bytes;
        Ok(EngineUsage { file_bytes: bytes, used_bytes: bytes })
    }

    fn compact(&self, _: Tell<'_>) -> Result<(), EngineError> {
        Ok(())
    }
}
