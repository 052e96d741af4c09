//! Which changes a watcher wants to see. Knows nothing of queues and streams.

use crate::{Change, KeyRange, Record};

/// What a watcher asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchFilter {
    /// Which keys.
    pub range: KeyRange,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletes out.
    pub no_delete: bool,
}

impl WatchFilter {
    /// Whether the watcher wants to see `record`.
    pub fn matches(&self, record: &Record) -> bool {
        let wanted = match record.change {
            Change::Put { .. } => !self.no_put,
            Change::Delete => !self.no_delete,
        };
        wanted && self.range.contains(&record.key)
    }
}
