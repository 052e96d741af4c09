//! What clients asked and what they were told, with the times of both.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use quorate_checker::history::{Entry, Op, Outcome, Seen};
use quorate_proto::mvccpb::KeyValue;

/// What a key held, as an answer says it.
pub fn seen(kv: KeyValue) -> Seen {
    Seen {
        value: String::from_utf8_lossy(&kv.value).into_owned(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
    }
}

/// Where the clients of one test write down what they see.
#[derive(Debug)]
pub struct History {
    epoch: Instant,
    entries: Mutex<Vec<Entry>>,
    answered: AtomicUsize,
}

impl Default for History {
    fn default() -> History {
        History::since(Instant::now())
    }
}

impl History {
    /// An empty history whose times count from `epoch`.
    pub fn since(epoch: Instant) -> History {
        History { epoch, entries: Mutex::new(Vec::new()), answered: AtomicUsize::new(0) }
    }

    /// The present time of this history.
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Calls recorded so far that were answered, errors not counted.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Adds a call that was sent at `start` and is answered now.
    ///
    /// # Panics
    /// When another recorder panicked.
    pub fn record(&self, start: Duration, op: Op, outcome: Outcome) {
        let end = self.now();
        if outcome != Outcome::Unknown {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        self.entries.lock().expect("no recorder panics").push(Entry { start, end, op, outcome });
    }

    /// Everything recorded so far.
    ///
    /// # Panics
    /// When a recorder panicked.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().expect("no recorder panics").clone()
    }
}
