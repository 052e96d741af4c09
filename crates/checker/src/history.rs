//! What clients asked and what they were told, with the times of both.

use std::time::Duration;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Every value of a history is written by at most one call.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A put on the condition that the key's last write was at `expected` (0: no such key).
    Cas {
        /// The key.
        key: String,
        /// The revision that the caller had seen.
        expected: i64,
        /// The value.
        value: String,
    },
    /// A read of one key.
    Get {
        /// The key.
        key: String,
        /// Answered from what the member had, which may be old.
        serializable: bool,
    },
}

/// What a key held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The value.
    pub value: String,
    /// Revision of the key's first write.
    pub create_revision: i64,
    /// Revision of the write that this is.
    pub mod_revision: i64,
    /// Writes since the first, itself included.
    pub version: i64,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It wrote, at this revision.
    Wrote {
        /// The revision.
        revision: i64,
    },
    /// It read: a get, or a compare-and-set whose condition did not hold.
    Read {
        /// Revision of the answer's header.
        revision: i64,
        /// What the key held then.
        seen: Option<Seen>,
    },
    /// No answer, or an error: a write may have happened or not, or may still happen.
    Unknown,
}

impl Outcome {
    /// The revision at which the key was last written, as far as this says; 0 if it is not there.
    pub fn modified(&self) -> Option<i64> {
        match self {
            Outcome::Wrote { revision } => Some(*revision),
            Outcome::Read { seen, .. } => Some(seen.as_ref().map_or(0, |seen| seen.mod_revision)),
            Outcome::Unknown => None,
        }
    }
}

/// One call with its outcome.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it was sent, since the history began.
    pub start: Duration,
    /// When the answer came, since the history began.
    pub end: Duration,
    /// The call.
    pub op: Op,
    /// The outcome.
    pub outcome: Outcome,
}
