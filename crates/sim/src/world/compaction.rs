//! Processes that end at steps of a compaction. Between two flushes of the engine lie many steps, and most ends leave nothing of
//! them: here the engine becomes durable at the step, and the process ends with it.

use super::World;
use quorate_sabotage::{Rare, always, has_taken};
use std::time::Duration;

/// A step of a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompactionStep {
    /// It has to wait for the index checkpoint.
    BeforeCheckpoint,
    /// It has removed the last record, and keys that it took have their rows in the index checkpoint still.
    AfterRecords,
}

impl CompactionStep {
    /// The path on which the engine becomes durable, and others that lead there.
    fn paths(self) -> &'static [Rare] {
        match self {
            CompactionStep::BeforeCheckpoint => &[Rare::FlushBeforeCheckpoint],
            CompactionStep::AfterRecords => &[Rare::FlushAfterCompaction, Rare::LooseKeysLater],
        }
    }

    fn next(self) -> Option<CompactionStep> {
        match self {
            CompactionStep::BeforeCheckpoint => Some(CompactionStep::AfterRecords),
            CompactionStep::AfterRecords => None,
        }
    }
}

impl World {
    /// Runs a machine for one tick, at whose end its process ends if it has come to the step that it is to end at.
    pub(super) fn tick_machine(&mut self, index: usize) {
        let Some(step) = self.known[index].ends_at else {
            return self.machines[index].tick(self.now, self.plan.tick);
        };
        always(step.paths());
        self.machines[index].tick(self.now, self.plan.tick);
        let reached = step.paths().first().is_some_and(|path| has_taken(*path));
        always(&[]);
        if reached {
            self.log(format!("m{index} ends in a compaction: {step:?}"));
            self.known[index].ends_at = step.next();
            self.kill(index, Duration::from_millis(20));
        }
    }
}
