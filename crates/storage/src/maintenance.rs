//! What brings the engine behind the memory, in bounded steps: drain, flush, compaction, cleanup (and the index checkpoint,
//! in `checkpoint.rs`). The owner calls them from a thread that may block; they exclude each other, and never keep readers
//! or the writer from working for longer than a short lock.
//!
//! Each step writes one atomic batch, with the group's state row in it, so that a stop between any two of them is harmless.

use crate::checkpoint::{Lag, Portion};
use crate::engine::Batch;
use crate::keys::{self, Keys};
use crate::rows::{self, GroupState};
use crate::store::Body;
use crate::system::{self, SystemKey};
use crate::tail::Front;
use crate::{Applied, Result, Store};
use quorate_core::{Change, Rev, Revision};
use quorate_sabotage::{rarely, sabotage};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};

/// What a step found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left to do.
    Idle,
    /// The step did its share; there may be more.
    Working,
    /// There is work, and it has to wait until views that may still read the old data are dropped.
    Blocked,
}

/// What a drain wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Log entries.
    pub entries: usize,
    /// Records.
    pub records: usize,
    /// Bytes given to the engine.
    pub bytes: usize,
    /// Whether the tail is empty now.
    pub empty: bool,
}

/// What whoever writes the group's rows knows of them.
pub(crate) struct EngineSide {
    /// As the state row in the engine has it.
    pub state: GroupState,
    /// The rows of the small tables that are in the engine.
    pub system_rows: BTreeSet<SystemKey>,
    /// The keys that the checkpoint is writing.
    pub portion: Option<Portion>,
    /// What the checkpoint does not have yet.
    pub lag: Lag,
    /// The generations that installers are writing.
    pub installing: BTreeSet<u32>,
    /// Generations that were in force, for as long as views may still read them.
    retired: Vec<(u32, Weak<Body>)>,
}

impl EngineSide {
    pub fn new(state: GroupState, system_rows: BTreeSet<SystemKey>, lag: Lag) -> Self {
        Self { state, system_rows, portion: None, lag, installing: BTreeSet::new(), retired: Vec::new() }
    }

    /// After a switch from `old` to the generation that the state says.
    pub fn switched(&mut self, system_rows: BTreeSet<SystemKey>, old: &Arc<Body>) {
        self.system_rows = system_rows;
        self.portion = None;
        self.lag = Lag::default();
        self.retired.push((old.keys.generation, Arc::downgrade(old)));
    }
}

impl Store {
    /// Writes `batch` and the state row with `state` as one, then remembers the state. Nothing changes if it fails.
    pub(crate) fn write(&self, side: &mut EngineSide, mut batch: Batch, state: GroupState) -> Result<usize> {
        let key = keys::state_key(self.group);
        let row = rows::seal(&key, &state.encode());
        batch.put(key, row);
        self.engine.write(&batch)?;
        side.state = state;
        Ok(batch.bytes())
    }

    /// Brings the front of the tail into the engine: whole entries, at least one, about `bytes_max` of them. Durable after
    /// [`Store::flush`]. Writes to the index checkpoint as well if that is too far behind. Blocks on the disk.
    pub fn drain(&self, bytes_max: usize) -> Result<DrainReport> {
        let mut side = self.engine_side.lock();
        let body = self.body();
        self.drain_locked(&mut side, &body, bytes_max)
    }

    fn drain_locked(&self, side: &mut EngineSide, body: &Body, bytes_max: usize) -> Result<DrainReport> {
        let front = body.tail.read().front(if rarely!(SmallDrain) { 1 } else { bytes_max });
        let Some(newest) = front.entries.last() else {
            return Ok(DrainReport { empty: true, ..DrainReport::default() });
        };
        let mut batch = Batch::default();
        for entry in &front.records {
            let key = body.keys.record(entry.record.rev);
            let row = rows::seal(&key, &rows::encode_record(&entry.record, entry.last));
            batch.put(key, row);
        }
        let mut state = side.state.clone();
        let system_rows = if sabotage!(DrainLosesTables) {
            BTreeMap::new()
        } else {
            drain_system(&front, body.keys, &side.system_rows, &mut state, &mut batch)
        };
        state.applied = newest.applied;
        state.revision = newest.revision;
        state.compacted = newest.compacted;
        if let Some(membership) = front.entries.iter().rev().find_map(|entry| entry.membership.clone())
            && (state.membership.is_empty() || !sabotage!(MembershipNotStored))
        {
            state.membership = membership;
        }
        let bytes = self.write(side, batch, state)?;
        for (name, present) in system_rows {
            if present {
                side.system_rows.insert(name)
            } else {
                side.system_rows.remove(&name)
            };
        }
        let empty = {
            let mut tail = body.tail.write();
            tail.pop(&front);
            tail.is_empty()
        };
        let (entries, records) = (front.entries.len(), front.records.len());
        drop(front);
        if records > 0 {
            side.lag.add(side.state.revision, records, bytes);
            self.follow_drain(side, body, records)?;
        }
        Ok(DrainReport { entries, records, bytes, empty })
    }

    /// Drains what was committed before the call, and makes it durable. Returns the log position up to which the log may
    /// be purged. Blocks on the disk.
    pub fn flush(&self) -> Result<Applied> {
        const BATCH_BYTES: usize = 8 << 20;
        let wanted = self.newest.lock().applied;
        loop {
            let mut side = self.engine_side.lock();
            let body = self.body();
            if sabotage!(AppliedAhead) {
                let state = GroupState { applied: wanted, ..side.state.clone() };
                self.write(&mut side, Batch::default(), state)?;
                self.engine.flush()?;
                return Ok(wanted);
            }
            if side.state.applied >= wanted || self.drain_locked(&mut side, &body, BATCH_BYTES)?.empty {
                if !sabotage!(FlushSkipped) {
                    self.engine.flush()?;
                }
                return Ok(side.state.applied);
            }
        }
    }

    /// Removes what the compacted revision has made unreadable: looks at up to `records_max` records. Brings drain and
    /// checkpoint to the compacted revision first, for which it takes steps of the same size. Blocks on the disk.
    pub fn compaction_step(&self, records_max: usize) -> Result<Progress> {
        let mut side = self.engine_side.lock();
        let body = self.body();
        let compaction = side.state.compaction;
        let target = if compaction.target > compaction.done {
            compaction.target
        } else {
            let published = body.published.lock();
            if published.compacted <= compaction.done {
                return Ok(Progress::Idle);
            }
            // A view that is taken from now on reads `compacted` or newer.
            let pinned = published.pins.keys().next().is_some_and(|oldest| *oldest < published.compacted);
            if pinned && !sabotage!(CompactionUnderView) {
                return Ok(Progress::Blocked);
            }
            published.compacted
        };
        if side.state.compacted < target {
            self.drain_locked(&mut side, &body, 8 << 20)?;
            return Ok(Progress::Working);
        }
        // INVARIANT(compaction-behind-checkpoint): records above the checkpoint are all there. A tombstone that is not in
        // the checkpoint yet would, once removed, bring its key back to life at the next start.
        if side.state.checkpoint < target && !sabotage!(CompactionBeforeCheckpoint) {
            if rarely!(FlushBeforeCheckpoint) {
                self.engine.flush()?;
            }
            self.checkpoint_locked(&mut side, &body, records_max)?;
            return Ok(Progress::Working);
        }
        self.compact_records(&mut side, &body, target, records_max)
    }

    /// Each record removes the one that it replaced, and a tombstone older than the target itself.
    fn compact_records(
        &self,
        side: &mut EngineSide,
        body: &Body,
        target: Revision,
        records_max: usize,
    ) -> Result<Progress> {
        let mut state = side.state.clone();
        if state.compaction.target != target {
            // From `done`, not behind it: the tombstones that were exactly there are due now.
            state.compaction.target = target;
            state.compaction.next = Rev::new(state.compaction.done, 0);
        }
        let mut batch = Batch::default();
        let mut keys = BTreeSet::new();
        let mut seen = 0;
        let mut through = false;
        while seen < records_max && !through {
            let chunk = body.look_in_engine(state.compaction.next, target)?;
            through = chunk.is_empty();
            for entry in chunk.into_iter().take(records_max - seen) {
                let record = entry.record;
                if let Some(replaced) = record.replaces {
                    batch.delete(body.keys.record(replaced));
                }
                let is_due = record.rev.main < target || sabotage!(CompactionTakesTombstone);
                if (record.change == Change::Delete && is_due) || sabotage!(CompactionTakesBase) {
                    batch.delete(body.keys.record(record.rev));
                }
                state.compaction.next = Rev::new(record.rev.main, record.rev.sub + 1);
                keys.insert(record.key);
                seen += 1;
            }
        }
        if through {
            state.compaction.done = target;
        }
        // First the index: a key must never name a record that is gone.
        for key in keys {
            body.index.write().prune(&key, target);
        }
        self.write(side, batch, state)?;
        if through && rarely!(FlushAfterCompaction) {
            self.engine.flush()?;
        }
        Ok(if through && body.published.lock().compacted <= target { Progress::Idle } else { Progress::Working })
    }

    /// Whether everything that a compaction to `revision` removes is gone from the engine.
    pub fn compaction_done(&self, revision: Revision) -> bool {
        self.engine_side.lock().state.compaction.done >= revision
    }

    /// How far the compaction that is due is: revisions that have been gone through, and how many there are. `None` if none is due.
    pub fn compaction_progress(&self) -> Option<(u64, u64)> {
        let compaction = self.engine_side.lock().state.compaction;
        let due = self.body().published.lock().compacted;
        let target = if compaction.target > compaction.done { compaction.target } else { due };
        let revisions = |until: Revision| u64::try_from(until.get() - compaction.done.get()).unwrap_or_default();
        let done = if compaction.target == target { revisions(compaction.next.main) } else { 0 };
        (target > compaction.done).then(|| (done, revisions(target)))
    }

    /// Removes up to `rows_max` rows of generations that nobody reads or writes any more. Blocks on the disk.
    pub fn cleanup_step(&self, rows_max: usize) -> Result<Progress> {
        let mut side = self.engine_side.lock();
        side.retired.retain(|(_, body)| body.strong_count() > 0);
        let retired = side.retired.iter().map(|(generation, _)| *generation);
        let kept: BTreeSet<u32> =
            retired.chain(side.installing.iter().copied()).chain([side.state.generation]).collect();
        let mut batch = Batch::default();
        for tag in keys::GENERATION_TAGS {
            let mut from = 0;
            for generation in &kept {
                let end = keys::generation_start(tag, self.group, *generation);
                self.collect(&keys::generation_start(tag, self.group, from), &end, rows_max, &mut batch)?;
                from = generation + 1;
            }
            let end = keys::group_end(tag, self.group);
            self.collect(&keys::generation_start(tag, self.group, from), &end, rows_max, &mut batch)?;
        }
        if !batch.is_empty() {
            self.engine.write(&batch)?;
            return Ok(Progress::Working);
        }
        Ok(if side.retired.is_empty() { Progress::Idle } else { Progress::Blocked })
    }

    fn collect(&self, from: &[u8], until: &[u8], rows_max: usize, batch: &mut Batch) -> Result<()> {
        if batch.len() >= rows_max {
            return Ok(());
        }
        self.engine.scan(from, until, &mut |key, _| {
            batch.delete(key.to_vec());
            if batch.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(())
    }
}

/// Writes the changes of the small tables. Returns which of the named rows there are afterwards; `present` is before.
fn drain_system(
    front: &Front,
    keys: Keys,
    present: &BTreeSet<SystemKey>,
    state: &mut GroupState,
    batch: &mut Batch,
) -> BTreeMap<SystemKey, bool> {
    let mut after = BTreeMap::new();
    for (name, content) in front.entries.iter().flat_map(|entry| &entry.system).flat_map(system::row_changes) {
        let rest = name.encode();
        let key = keys.system(&rest);
        let was = after.get(&name).copied().unwrap_or_else(|| present.contains(&name));
        after.insert(name, content.is_some());
        match (was, content.is_some()) {
            (false, true) => state.system.add(&rest),
            (true, false) => state.system.remove(&rest),
            (true, true) | (false, false) => {}
        }
        match content {
            Some(content) => {
                let row = rows::seal(&key, &content);
                batch.put(key, row);
            }
            None => batch.delete(key),
        }
    }
    after
}
