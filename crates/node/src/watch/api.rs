//! The shapes of a watch, as the node offers it. See [`Node::watch_stream`](crate::Node::watch_stream).

use quorate_core::{KeyRange, KeyValue, Record, Revision};

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchCreate {
    /// Id that the client wishes; 0 lets the stream choose.
    pub watch_id: i64,
    /// Which keys. (An interval that is empty is refused.)
    pub range: KeyRange,
    /// First revision to see; 0 is "from now".
    pub start_revision: Revision,
    /// Tell of progress at intervals when nothing happens.
    pub progress_notify: bool,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletes out.
    pub no_delete: bool,
    /// Send what was there before each change.
    pub prev_kv: bool,
}

/// One change that a watcher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The change.
    pub record: Record,
    /// What was there before, if asked for and not compacted.
    pub prev_kv: Option<KeyValue>,
}

/// What a watch stream delivers, in the order in which it must be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    /// Answer to `create`, in request order. Events come after it.
    Created {
        /// The watcher.
        watch_id: i64,
        /// Current revision: a watch "from now" sees everything after it.
        revision: Revision,
    },
    /// Answer to a `create` that cannot be.
    Refused {
        /// Current revision.
        revision: Revision,
        /// etcd's text.
        reason: &'static str,
    },
    /// Changes, in order; a revision is never split over two messages.
    Events {
        /// The watcher.
        watch_id: i64,
        /// For the header: nothing up to here comes later that is not in this message.
        revision: Revision,
        /// The changes; never empty.
        events: Vec<WatchEvent>,
    },
    /// Nothing at or before `revision` comes any more.
    Progress {
        /// The watcher, or -1: all of the stream.
        watch_id: i64,
        /// Up to here.
        revision: Revision,
    },
    /// The watcher is gone.
    Canceled {
        /// The watcher.
        watch_id: i64,
        /// Current revision; 0 with a compaction, as in etcd.
        revision: Revision,
        /// The compacted revision, if what the watcher needs was compacted; else 0.
        compact_revision: Revision,
    },
}
