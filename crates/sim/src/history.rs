//! What clients asked, what they were told and when; and what watchers saw.

use crate::oracle::Rule;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Keys from `from` up to and without `until`; without an `until`, the one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First key.
    pub from: String,
    /// First key that is not in it any more.
    pub until: Option<String>,
}

impl Span {
    /// One key.
    pub fn key(key: &str) -> Span {
        Span { from: key.to_owned(), until: None }
    }

    /// All keys that the simulation writes.
    pub fn all() -> Span {
        Span { from: " ".to_owned(), until: Some("~".to_owned()) }
    }

    /// All keys that start with `prefix`.
    pub fn prefix(prefix: &str) -> Span {
        Span { from: prefix.to_owned(), until: Some(format!("{prefix}~")) }
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &str) -> bool {
        match &self.until {
            None => key == self.from,
            Some(until) => key >= self.from.as_str() && key < until.as_str(),
        }
    }
}

/// What a key holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// Revision of the key's first write since it was last absent.
    pub create_revision: i64,
    /// Revision of its last write.
    pub mod_revision: i64,
    /// Writes since the first.
    pub version: i64,
    /// The lease that it hangs on, or 0.
    pub lease: i64,
}

/// A call. A value is written by at most one call of a run, so that it tells which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The lease, or 0.
        lease: i64,
    },
    /// Delete keys.
    Delete {
        /// Which.
        span: Span,
    },
    /// Read keys.
    Get {
        /// Which.
        span: Span,
        /// A member's own state will do.
        serializable: bool,
        /// At which revision; 0 is the newest.
        revision: i64,
    },
    /// If every key was last modified at the revision that stands beside it (0: it is not there), write all; else read
    /// the first.
    Swap {
        /// Key, expected revision, new value.
        parts: Vec<(String, i64, String)>,
    },
    /// Revoke a lease, which deletes its keys.
    Revoke {
        /// The lease.
        lease: i64,
    },
    /// Any transaction.
    Txn(Transaction),
    /// Read a part of a list.
    Page {
        /// Which keys.
        span: Span,
        /// How many at most; 0: all.
        limit: i64,
        /// At which revision; 0 is the newest.
        revision: i64,
        /// Only count.
        count_only: bool,
    },
    /// Forget what is older.
    Compact {
        /// Than this revision.
        revision: i64,
    },
}

/// All conditions are looked at first, also those of nested transactions; then one of the lists runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold for `success` to run.
    pub conditions: Vec<Condition>,
    /// Runs if they do.
    pub success: Vec<Step>,
    /// Runs if not.
    pub failure: Vec<Step>,
}

/// Holds if `field` of `key` is what is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The key.
    pub key: String,
    /// What of it must be equal to what.
    pub field: Field,
}

/// A field of a key, and its value. Of a key that is not there all numbers are 0, and the value is equal to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// The value.
    Value(String),
    /// Writes since the first.
    Version(i64),
    /// Revision of the first write.
    Create(i64),
    /// Revision of the last write.
    Mod(i64),
    /// The lease.
    Lease(i64),
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write a key.
    Put {
        /// The key.
        key: String,
        /// The value; `None` keeps the one that is there.
        value: Option<String>,
        /// The lease, or 0; `None` keeps the one that is there.
        lease: Option<i64>,
    },
    /// Delete keys.
    Delete(Span),
    /// Read keys.
    Get(Span),
    /// A transaction within.
    Nested(Transaction),
}

/// What an operation answered. What was there before a change is always asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepAnswer {
    /// What a put found.
    Put(Option<Seen>),
    /// What a delete deleted.
    Deleted(Vec<Seen>),
    /// What a read found.
    Got(Vec<Seen>),
    /// Of a transaction within: which list ran, and its answers.
    Nested(bool, Vec<StepAnswer>),
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, at this revision of the header. A delete that found nothing, too.
    Done {
        /// The revision.
        revision: i64,
        /// Keys deleted, by a delete.
        deleted: i64,
    },
    /// Read: a get, or a swap whose condition did not hold.
    Read {
        /// Revision of the header.
        revision: i64,
        /// What was there, in order of keys.
        kvs: Vec<Seen>,
    },
    /// A transaction was carried out.
    Txn {
        /// Revision of the header.
        revision: i64,
        /// Which list ran.
        succeeded: bool,
        /// What its operations answered.
        answers: Vec<StepAnswer>,
    },
    /// A part of a list.
    Page {
        /// Revision of the header.
        revision: i64,
        /// What was there, in order of keys.
        kvs: Vec<Seen>,
        /// Whether there is more.
        more: bool,
        /// How many keys there are.
        count: i64,
    },
    /// Refused for good: it has changed nothing and never will.
    Refused(String),
    /// No answer, or one that says that the outcome is not known.
    Unknown,
}

/// One call with its outcome.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which client.
    pub client: usize,
    /// Which member it asked.
    pub member: usize,
    /// World time of the request.
    pub start: Duration,
    /// World time of the answer.
    pub end: Duration,
    /// The call.
    pub op: Op,
    /// The outcome.
    pub outcome: Outcome,
}

/// One change of one key, as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Written.
    Put(Seen),
    /// Deleted at this revision.
    Delete {
        /// The key.
        key: String,
        /// When.
        revision: i64,
    },
}

impl Event {
    /// The key.
    pub fn key(&self) -> &str {
        match self {
            Event::Put(seen) => &seen.key,
            Event::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> i64 {
        match self {
            Event::Put(seen) => seen.mod_revision,
            Event::Delete { revision, .. } => *revision,
        }
    }
}

/// What one watcher saw over all its connections.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Its name in reports.
    pub name: String,
    /// What it asked for.
    pub span: Span,
    /// From which revision on.
    pub from: i64,
    /// Whether it asked for no writes.
    pub no_put: bool,
    /// Whether it asked for no deletes.
    pub no_delete: bool,
    /// Events with the world time at which they came, in the order in which they came.
    pub events: Vec<(Duration, Event)>,
    /// Of events for which it asked what was there before: key, revision, and that.
    pub before: Vec<(String, i64, Option<Seen>)>,
    /// Everything up to here was promised to have come: by an event's header or by progress.
    pub complete_to: i64,
    /// What it saw that no watcher may see.
    pub violations: Vec<String>,
    /// It needed a revision that was compacted, and started again after it.
    pub gaps: Vec<(i64, i64)>,
}

impl Watched {
    /// It watches from now on, and was confirmed at `revision`: the first event to come is the one after, whose revision is returned.
    pub fn begin_behind(&mut self, revision: i64) -> i64 {
        (self.from, self.complete_to) = (revision + 1, revision);
        self.from
    }

    /// Notes an event that came at the world time `now`, when all before `next` had come, and what it says was there `before`, which
    /// the watcher may have `asked` for.
    pub fn note_event(&mut self, now: Duration, event: Event, before: Option<Seen>, next: i64, asked: bool) {
        if event.revision() < next {
            self.violations.push(format!("{event:?} came, but everything before {next} had come already"));
        }
        if asked {
            self.before.push((event.key().to_owned(), event.revision(), before));
        } else if before.is_some() {
            self.violations.push(format!("{event:?} came with {before:?}, for which nobody asked"));
        }
        self.events.push((now, event));
    }

    /// Forgets what it has seen of revisions from `next` on, where it begins anew; 0: from now on.
    pub fn forget_from(&mut self, next: i64) {
        if next > 0 {
            self.events.retain(|(_, event)| event.revision() < next);
            self.before.retain(|(_, revision, _)| *revision < next);
        }
    }

    /// Notes that it was ended, because it had come to `next` and `compacted` is the first readable revision. Returns where it goes
    /// on.
    pub fn note_compaction(&mut self, compacted: i64, next: i64) -> i64 {
        if compacted < next {
            self.violations.push(format!("ended at compaction {compacted}, but {next} is readable"));
        }
        self.gaps.push((next, compacted - 1));
        next.max(compacted)
    }
}

/// A grant or a renewal of a lease.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// The lease.
    pub lease: i64,
    /// Seconds that it lives without another.
    pub ttl_seconds: i64,
    /// When the request was sent: if it is acknowledged, the lease lives at least until this plus the TTL.
    pub start: Duration,
    /// When the answer came, or nobody waited for it any more.
    pub end: Duration,
    /// Whether it was acknowledged.
    pub acknowledged: bool,
}

/// A lock or an office that a client of the library held.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Which client.
    pub client: usize,
    /// Of what.
    pub name: String,
    /// When the client had it.
    pub start: Duration,
    /// When it was told that it is lost, or began to give it back.
    pub end: Duration,
    /// The revision that proves it.
    pub token: i64,
}

/// Everything that clients saw.
#[derive(Debug, Default)]
pub struct History {
    /// Calls.
    pub entries: Vec<Entry>,
    /// Grants and renewals.
    pub renewals: Vec<Renewal>,
    /// Locks and offices that were held.
    pub holds: Vec<Hold>,
    /// Watchers that have ended or will.
    pub watched: Vec<Arc<Mutex<Watched>>>,
    /// What clients saw that nobody may see, and that needs no ledger to tell: the rule and the words.
    pub seen_wrong: Vec<(Rule, String)>,
}

/// Shared by all clients.
pub type SharedHistory = Arc<Mutex<History>>;
