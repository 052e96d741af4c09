//! The words of the data model. Newtypes have no setters: a value comes from the log, from storage, or from `next()`.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a number that came from the log, from storage or from the wire.
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// The main revision of a keyspace: a fresh store is at 1, each change adds exactly 1.
    Revision(i64)
);
id!(
    /// A lease. 0 means "no lease".
    LeaseId(i64)
);
id!(
    /// A member (one process) of the cluster. Random, never reused.
    MemberId(u64)
);
id!(
    /// A cluster.
    ClusterId(u64)
);
id!(
    /// A Raft group. Group 0 holds the `default` keyspace and the catalog.
    GroupId(u32)
);
id!(
    /// A Raft term.
    Term(u64)
);
id!(
    /// An index in a group's Raft log.
    LogIndex(u64)
);

impl Revision {
    /// "Not given" in a request; no change has this revision.
    pub const ZERO: Self = Self(0);
    /// The revision of a store that nothing was written to yet.
    pub const INITIAL: Self = Self(1);

    /// The revision of the next change.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LeaseId {
    /// No lease.
    pub const NONE: Self = Self(0);

    /// Whether this names a lease.
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

impl GroupId {
    /// The group of the `default` keyspace and the catalog.
    pub const DEFAULT: Self = Self(0);
}

/// Names one change: the main revision, and the place among the changes of that revision, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rev {
    /// The main revision.
    pub main: Revision,
    /// The place of the change within its revision.
    pub sub: u32,
}

impl Rev {
    /// The change `sub` of revision `main`.
    pub const fn new(main: Revision, sub: u32) -> Self {
        Self { main, sub }
    }
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

/// A key as a client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key; never empty.
    pub key: Bytes,
    /// Revision of the put that created the key.
    pub create_revision: Revision,
    /// Revision of the last put.
    pub mod_revision: Revision,
    /// Puts since creation, from 1.
    pub version: i64,
    /// The lease that the key hangs on, or [`LeaseId::NONE`].
    pub lease: LeaseId,
    /// The value.
    pub value: Bytes,
}

/// What the key index knows of one live key at some revision: everything but the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyMeta {
    /// Revision of the put that created the key.
    pub create_revision: Revision,
    /// The last put; names the [`Record`] that holds the value.
    pub modified: Rev,
    /// Puts since creation, from 1.
    pub version: i64,
    /// The lease that the key hangs on, or [`LeaseId::NONE`].
    pub lease: LeaseId,
}

/// One change of one key, written once, immutable, named by its [`Rev`]. Also the event that watchers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name of this change.
    pub rev: Rev,
    /// The key that changed.
    pub key: Bytes,
    /// Put or delete, and what a put leaves behind.
    pub change: Change,
    /// The put of the same key that this change supersedes; it may be of the same revision. `None` for a put that creates
    /// the key. (A delete always supersedes a put.)
    pub replaces: Option<Rev>,
}

/// What a [`Record`] did to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was written.
    Put {
        /// Revision of the put that created the key (this one, if `version` is 1).
        create_revision: Revision,
        /// Puts since creation, from 1.
        version: i64,
        /// The lease that the key now hangs on, or [`LeaseId::NONE`].
        lease: LeaseId,
        /// The value.
        value: Bytes,
    },
    /// The key was deleted: a tombstone.
    Delete,
}

impl Record {
    /// The key-value that this put left behind; `None` for a delete.
    pub fn key_value(&self) -> Option<KeyValue> {
        self.clone().into_key_value()
    }

    /// The key-value that this put left behind; `None` for a delete.
    pub fn into_key_value(self) -> Option<KeyValue> {
        match self.change {
            Change::Put { create_revision, version, lease, value } => {
                Some(KeyValue { key: self.key, create_revision, mod_revision: self.rev.main, version, lease, value })
            }
            Change::Delete => None,
        }
    }

    /// What the index keeps of this put; `None` for a delete.
    pub fn meta(&self) -> Option<KeyMeta> {
        match &self.change {
            Change::Put { create_revision, version, lease, .. } => Some(KeyMeta {
                create_revision: *create_revision,
                modified: self.rev,
                version: *version,
                lease: *lease,
            }),
            Change::Delete => None,
        }
    }

    /// Bytes of key and value: what the record costs in memory, without its fixed part.
    pub fn payload_bytes(&self) -> usize {
        self.key.len()
            + match &self.change {
                Change::Put { value, .. } => value.len(),
                Change::Delete => 0,
            }
    }
}

/// A set of keys: one, or an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// Exactly this key.
    Single(Bytes),
    /// `start <= key < end`. Empty if `start >= end`.
    Interval {
        /// First key of the range.
        start: Bytes,
        /// First key after the range.
        end: Bytes,
    },
    /// `start <= key`, without an upper bound. An empty `start` is everything.
    From {
        /// First key of the range.
        start: Bytes,
    },
}

impl KeyRange {
    /// The wire form: an empty `range_end` is the single key; `"\0"` is "no upper bound".
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        if range_end.is_empty() {
            Self::Single(key)
        } else if range_end.as_ref() == b"\0" {
            Self::From { start: key }
        } else {
            Self::Interval { start: key, end: range_end }
        }
    }

    /// The `range_end` of the wire form.
    pub fn wire_end(&self) -> Bytes {
        match self {
            Self::Single(_) => Bytes::new(),
            Self::Interval { end, .. } => end.clone(),
            Self::From { .. } => Bytes::from_static(b"\0"),
        }
    }

    /// The first key that can be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Single(key) => key,
            Self::Interval { start, .. } | Self::From { start } => start,
        }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Single(single) => single.as_ref() == key,
            Self::Interval { start, end } => start.as_ref() <= key && key < end.as_ref(),
            Self::From { start } => start.as_ref() <= key,
        }
    }

    /// What of the range comes after `key`.
    #[must_use]
    pub fn after(self, key: &[u8]) -> Self {
        // The key that follows directly has one more zero byte.
        let mut next = Vec::with_capacity(key.len() + 1);
        next.extend_from_slice(key);
        next.push(0);
        let next = Bytes::from(next);
        match self {
            Self::Single(single) if single > key => Self::Single(single),
            Self::Single(_) => Self::Interval { start: next.clone(), end: next },
            Self::Interval { start, end } => Self::Interval { start: start.max(next), end },
            Self::From { start } => Self::From { start: start.max(next) },
        }
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Single(_) | Self::From { .. } => false,
            Self::Interval { start, end } => start >= end,
        }
    }
}

/// A granted lease: replicated state. Deadlines are not here: they live on the leader's lease clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The name.
    pub id: LeaseId,
    /// Time to live as granted, in seconds.
    pub ttl_seconds: i64,
    /// What was left at the last checkpoint, in seconds; 0 if there was none.
    pub remaining_ttl_seconds: i64,
}

/// What the cluster knows of a member beyond the Raft membership (which has id, peer URLs and voter or learner).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberAttributes {
    /// The `--name` that the member started with.
    pub name: String,
    /// The URLs that it advertises to clients.
    pub client_urls: Vec<String>,
    /// Random number of the member's data directory. A member that comes back with another one was wiped.
    pub data_dir_id: u64,
}

/// A version of the API that a cluster speaks, etcd's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterVersion {
    /// 3, as long as etcd is at 3.
    pub major: u32,
    /// What etcd raises with each release.
    pub minor: u32,
}

impl ClusterVersion {
    /// The minor version just below; none below the first of a major version.
    pub fn before(self) -> Option<Self> {
        Some(Self { minor: self.minor.checked_sub(1)?, ..self })
    }
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the members have agreed on about versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterVersions {
    /// The version that all members have. None until a leader has heard from all of them.
    pub current: Option<ClusterVersion>,
    /// Where a downgrade that is under way leads.
    pub target: Option<ClusterVersion>,
}

/// An alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// A member's quota is used up.
    NoSpace,
    /// A member's state differs from the others'.
    Corrupt,
}

/// An alarm, and the member that raised it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// The member that the alarm is about.
    pub member: MemberId,
    /// Which alarm.
    pub kind: AlarmKind,
}
