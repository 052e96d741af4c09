//! When the newest entries of a log became durable here: written by the log, read by apply. Only for measuring.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::time::Instant;

/// Entries are applied soon after they are durable. Whoever lags so far behind is not measured by this.
const MARKS_MAX: usize = 256;

/// When the newest entries became durable. Clones share it.
#[derive(Clone, Default)]
pub(super) struct DurableMarks(Arc<Mutex<VecDeque<(u64, Instant)>>>);

impl DurableMarks {
    /// Everything up to `index` is durable now.
    pub(super) fn mark(&self, index: u64) {
        let mut marks = self.0.lock();
        if marks.len() == MARKS_MAX {
            marks.pop_front();
        }
        marks.push_back((index, Instant::now()));
    }

    /// When `index` became durable, if that is known. Forgets what is below it.
    pub(super) fn take(&self, index: u64) -> Option<Instant> {
        let mut marks = self.0.lock();
        while marks.front().is_some_and(|(upto, _)| *upto < index) {
            marks.pop_front();
        }
        marks.front().map(|(_, when)| *when)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_for_all_entries_up_to_it() {
        let marks = DurableMarks::default();
        assert_eq!(marks.take(1), None);
        marks.mark(5);
        assert!(marks.take(3).is_some() && marks.take(5).is_some());
        assert_eq!(marks.take(6), None);
        for index in 10..10 + 2 * MARKS_MAX as u64 {
            marks.mark(index);
        }
        assert_eq!(marks.0.lock().len(), MARKS_MAX);
    }
}
