//! The index checkpoint: each key's row in the engine, written behind the records, so that a restart reads the rows and
//! only the records that are newer.
//!
//! What it guarantees: the records that are newer than the checkpoint are never more than [`LagMax`] allows, whatever is
//! written. A drain that would let them be more writes rows first, apply waits for the drain, and clients for apply.
//!
//! Keys are taken in the order of their oldest change that has no row, in portions: the checkpoint comes forward with each.
//! Within a portion they are written in key order, because many rows share a page. That is why a portion is large.

use crate::engine::Batch;
use crate::index::Index;
use crate::keys::Keys;
use crate::maintenance::EngineSide;
use crate::rows::{self, GroupState};
use crate::store::Body;
use crate::waiting::Row;
use crate::{Progress, Result, Store, StoreConfig};
use quorate_core::Revision;
use quorate_sabotage::{rarely, sabotage};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// Keys that are taken or looked at under one lock.
const KEYS_PER_LOCK: usize = 512;
/// Keys that a drain writes at once when it has to.
const KEYS_PER_STEP: usize = 4096;
/// One record may be newer than the checkpoint for so many keys, if that is more than the configured bound: a restart reads
/// all keys anyway.
const KEYS_PER_LAG_RECORD: usize = 4;

/// Keys that are being written.
pub(crate) struct Portion {
    /// In descending order: they are taken from the end.
    keys: Vec<Box<[u8]>>,
    /// What the checkpoint stands for once all are written.
    through: Revision,
}

/// What records are newer than the checkpoint.
#[derive(Default)]
pub(crate) struct Lag {
    /// In the order in which they came to the engine.
    drained: VecDeque<Drained>,
    records: usize,
    bytes: usize,
}

struct Drained {
    newest: Revision,
    records: usize,
    bytes: usize,
}

impl Lag {
    /// Records up to `newest` came to the engine.
    pub fn add(&mut self, newest: Revision, records: usize, bytes: usize) {
        self.records += records;
        self.bytes += bytes;
        self.drained.push_back(Drained { newest, records, bytes });
    }

    /// The checkpoint has come to `revision`.
    fn advance(&mut self, revision: Revision) {
        while let Some(drained) = self.drained.pop_front_if(|drained| drained.newest <= revision) {
            self.records -= drained.records;
            self.bytes -= drained.bytes;
        }
    }

    pub fn records(&self) -> usize {
        self.records
    }
}

/// What may be newer than the checkpoint.
#[derive(Clone, Copy)]
struct LagMax {
    records: usize,
    bytes: usize,
}

impl LagMax {
    fn of(config: &StoreConfig, keys: usize) -> Self {
        Self {
            records: config.lag_records_max.max(keys / KEYS_PER_LAG_RECORD).max(2),
            bytes: config.lag_bytes_max.max(2),
        }
    }

    fn half(self) -> Self {
        Self { records: self.records / 2, bytes: self.bytes / 2 }
    }

    fn is_passed_by(self, lag: &Lag) -> bool {
        lag.records > self.records || lag.bytes > self.bytes
    }
}

impl Store {
    /// Writes up to `keys_max` changed keys to the index checkpoint. Blocks on the disk.
    pub fn checkpoint_step(&self, keys_max: usize) -> Result<Progress> {
        let mut side = self.engine_side.lock();
        let body = self.body();
        self.checkpoint_locked(&mut side, &body, keys_max)
    }

    pub(crate) fn checkpoint_locked(&self, side: &mut EngineSide, body: &Body, keys_max: usize) -> Result<Progress> {
        let portion = match side.portion.take() {
            Some(portion) => portion,
            None => self.take_portion(side, body),
        };
        // Kept where it is until its rows are written, so that a failure loses none of it.
        let portion = side.portion.insert(portion);
        let (through, left) = (portion.through, portion.keys.len().saturating_sub(keys_max));
        let mut state = side.state.clone();
        let mut batch = Batch::default();
        let mut written = Vec::new();
        for keys in portion.keys[left..].rchunks(KEYS_PER_LOCK) {
            let index = body.index.read();
            written.extend(keys.iter().rev().map(|key| write_row(&index, body.keys, key, &mut state, &mut batch)));
        }
        if left == 0 || sabotage!(CheckpointAhead) {
            state.checkpoint = through;
        }
        if batch.is_empty() && state == side.state {
            self.settle(side, body, left, &written);
            return Ok(self.progress(side, body));
        }
        self.write(side, batch, state)?;
        self.settle(side, body, left, &written);
        side.lag.advance(side.state.checkpoint);
        self.tell_lag(side);
        Ok(self.progress(side, body))
    }

    /// For [`Store::metrics`], which must not wait for a step.
    pub(crate) fn tell_lag(&self, side: &EngineSide) {
        self.lag_records.store(side.lag.records() as u64, Ordering::Relaxed);
    }

    /// The keys that are next: about as many as half of the bound on records, so that two portions keep below it.
    fn take_portion(&self, side: &EngineSide, body: &Body) -> Portion {
        let upto = side.state.revision;
        let max = LagMax::of(&self.config, body.index.read().len()).half().records;
        let max = if rarely!(SmallPortion) { 1 } else { max };
        let with_loose = !rarely!(LooseKeysLater);
        let mut keys = Vec::new();
        loop {
            let before = keys.len();
            let mut index = body.index.write();
            index.waiting().take(upto, KEYS_PER_LOCK.min(max - before), with_loose, &mut keys);
            if keys.len() == before || keys.len() == max {
                let through = index.waiting().through(upto);
                drop(index);
                keys.sort_unstable_by(|a, b| b.cmp(a));
                // A key may have waited in two queues, and each row is counted once.
                keys.dedup();
                return Portion { keys, through };
            }
        }
    }

    /// All but the first `left` keys of the portion are in the engine, as they were at its revision; `written` says which
    /// of them have a row.
    fn settle(&self, side: &mut EngineSide, body: &Body, left: usize, written: &[bool]) {
        let Some(portion) = &mut side.portion else { return };
        let done = portion.keys.split_off(left);
        if left == 0 {
            side.portion = None;
        }
        let done: Vec<_> = done.iter().rev().zip(written).collect();
        for chunk in done.chunks(KEYS_PER_LOCK) {
            let mut index = body.index.write();
            for (key, has_row) in chunk {
                index.settle(key, **has_row, side.state.revision);
            }
        }
        body.index.write().waiting().taken = left;
    }

    fn progress(&self, side: &EngineSide, body: &Body) -> Progress {
        let more = side.portion.is_some() || body.index.write().waiting().has_work(side.state.revision);
        if more { Progress::Working } else { Progress::Idle }
    }

    /// INVARIANT(checkpoint-lag): what is newer than the checkpoint is bounded.
    ///
    /// After a drain of `records`: from half of the bound on, as many keys are written as records came, so that the next
    /// portion is through before the bound is met; beyond the bound, as many as it takes.
    pub(crate) fn follow_drain(&self, side: &mut EngineSide, body: &Body, records: usize) -> Result<()> {
        let max = LagMax::of(&self.config, body.index.read().len());
        let mut left = if max.half().is_passed_by(&side.lag) { records } else { 0 };
        while left > 0 || max.is_passed_by(&side.lag) {
            if self.checkpoint_locked(side, body, KEYS_PER_STEP)? == Progress::Idle {
                break;
            }
            left = left.saturating_sub(KEYS_PER_STEP);
        }
        self.tell_lag(side);
        Ok(())
    }
}

/// Writes one key's row as it is in the engine's state: changes that are still in the tail stay out of it. Returns whether
/// there is a row then.
fn write_row(index: &Index, keys: Keys, key: &[u8], state: &mut GroupState, batch: &mut Batch) -> bool {
    let had_row = index.has_row(key);
    let row_key = keys.index(key);
    let drained = match index.history(key) {
        Some(history) if history.row() == Row::Clean => return true,
        Some(history) => {
            let versions = history.versions();
            &versions[..versions.partition_point(|version| version.main <= state.revision.get())]
        }
        None => &[],
    };
    let has_row = !drained.is_empty();
    if has_row {
        let row = rows::seal(&row_key, &rows::encode_history(drained));
        batch.put(row_key, row);
    } else if had_row {
        batch.delete(row_key);
    }
    match (had_row, has_row) {
        (false, true) => state.index.add(key),
        (true, false) => state.index.remove(key),
        (true, true) | (false, false) => {}
    }
    has_row
}
