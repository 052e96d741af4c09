//! The key index: every key that is live or has history, in order, in memory. Read *by revision*: a reader ignores what is
//! newer than its own revision, so that writers copy nothing.
//!
//! Also knows which keys changed since they were last written to the checkpoint.

use quorate_core::{Change, KeyMeta, KeyRange, LeaseId, Record, Rev, Revision};
use std::collections::BTreeMap;
use std::ops::Bound;

/// What a version did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Delete,
}

/// One change of a key, without key and value. Plain numbers, laid out to 40 bytes: there is one per key at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub main: i64,
    pub create: i64,
    pub version: i64,
    pub lease: i64,
    pub sub: u32,
    pub kind: Kind,
}

impl Version {
    pub fn of(record: &Record) -> Self {
        let (main, sub) = (record.rev.main.get(), record.rev.sub);
        match &record.change {
            Change::Put { create_revision, version, lease, .. } => Self {
                main,
                create: create_revision.get(),
                version: *version,
                lease: lease.get(),
                sub,
                kind: Kind::Put,
            },
            Change::Delete => Self { main, create: 0, version: 0, lease: 0, sub, kind: Kind::Delete },
        }
    }

    pub fn rev(&self) -> Rev {
        Rev::new(Revision::new(self.main), self.sub)
    }

    pub fn meta(&self) -> Option<KeyMeta> {
        match self.kind {
            Kind::Put => Some(KeyMeta {
                create_revision: Revision::new(self.create),
                modified: self.rev(),
                version: self.version,
                lease: LeaseId::new(self.lease),
            }),
            Kind::Delete => None,
        }
    }
}

/// The versions of one key that compaction has left, oldest first; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// The common case, without a second allocation.
    One(Version),
    Many(Vec<Version>),
}

const _: () = assert!(size_of::<History>() == 40);

impl History {
    /// `None` if there are no versions.
    pub fn from_versions(mut versions: Vec<Version>) -> Option<Self> {
        match versions.len() {
            0 => None,
            1 => versions.pop().map(Self::One),
            _ => Some(Self::Many(versions)),
        }
    }

    pub fn versions(&self) -> &[Version] {
        match self {
            Self::One(version) => std::slice::from_ref(version),
            Self::Many(versions) => versions,
        }
    }

    pub fn newest(&self) -> &Version {
        self.versions().last().expect("a history has at least one version")
    }

    /// The newest version that is not newer than `at`.
    pub fn at(&self, at: Revision) -> Option<&Version> {
        // From the end: nearly all reads are of the newest revision.
        self.versions().iter().rev().find(|version| version.main <= at.get())
    }

    fn push(&mut self, version: Version) {
        match self {
            Self::One(first) => *self = Self::Many(vec![*first, version]),
            Self::Many(versions) => versions.push(version),
        }
    }

    /// How many of the oldest versions a compaction to `compacted` removes. The newest one that is not newer stays, unless
    /// it is a tombstone older than `compacted`.
    fn superseded(&self, compacted: Revision) -> usize {
        let versions = self.versions();
        let old = versions.partition_point(|version| version.main <= compacted.get());
        let Some(base) = old.checked_sub(1) else { return 0 };
        match versions[base].kind {
            Kind::Put => base,
            Kind::Delete if versions[base].main < compacted.get() => old,
            Kind::Delete => base,
        }
    }

    /// The history after a compaction to `compacted`; `None` if nothing of it is left.
    pub fn pruned(self, compacted: Revision) -> Option<Self> {
        match (self.superseded(compacted), self) {
            (0, history) => Some(history),
            (_, Self::One(_)) => None,
            (count, Self::Many(versions)) => Self::from_versions(versions[count..].to_vec()),
        }
    }

    /// The versions that are not newer than `revision` and that a compaction to `compacted` leaves.
    pub fn retained(&self, compacted: Revision, revision: Revision) -> &[Version] {
        let versions = self.versions();
        let end = versions.partition_point(|version| version.main <= revision.get());
        &versions[self.superseded(compacted).min(end)..end]
    }
}

/// A key that differs from its checkpoint row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dirty {
    /// Whether the checkpoint has a row for it.
    pub has_row: bool,
}

/// Keys, and what is yet to be written to the checkpoint.
/// INVARIANT(checkpoint-rows): a key that is not dirty has a checkpoint row if and only if it is in `map`.
#[derive(Default)]
pub(crate) struct Index {
    map: BTreeMap<Box<[u8]>, History>,
    dirty: BTreeMap<Box<[u8]>, Dirty>,
    live: u64,
    versions: u64,
}

impl Index {
    /// From the checkpoint's rows, in key order.
    pub fn from_sorted(entries: Vec<(Box<[u8]>, History)>) -> Self {
        let live = entries.iter().filter(|(_, history)| history.newest().kind == Kind::Put).count() as u64;
        let versions = entries.iter().map(|(_, history)| history.versions().len() as u64).sum();
        Self { map: entries.into_iter().collect(), dirty: BTreeMap::new(), live, versions }
    }

    /// Keys that are live at the newest revision.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Versions of all keys.
    pub fn versions(&self) -> u64 {
        self.versions
    }

    /// Keys that wait for the checkpoint.
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    pub fn history(&self, key: &[u8]) -> Option<&History> {
        self.map.get(key)
    }

    pub fn meta(&self, key: &[u8], at: Revision) -> Option<KeyMeta> {
        self.map.get(key)?.at(at)?.meta()
    }

    /// Histories of the keys in `range` that come after `after`, if that is given.
    pub fn range<'a>(
        &'a self,
        range: &'a KeyRange,
        after: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a History)> {
        let start = match after {
            Some(key) => Bound::Excluded(key),
            None => Bound::Included(range.start().as_ref()),
        };
        let end = match range {
            KeyRange::Single(key) => Bound::Included(key.as_ref()),
            KeyRange::Interval { end, .. } => Bound::Excluded(end.as_ref()),
            KeyRange::From { .. } => Bound::Unbounded,
        };
        // An interval that is turned round, or that ends before `after`, would panic.
        let empty = match (&start, &end) {
            (Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start >= end,
            (Bound::Included(start), Bound::Excluded(end)) => start >= end,
            (Bound::Included(_) | Bound::Unbounded, Bound::Included(_))
            | (Bound::Unbounded, Bound::Excluded(_))
            | (_, Bound::Unbounded) => false,
        };
        (!empty)
            .then(|| self.map.range::<[u8], _>((start, end)))
            .into_iter()
            .flatten()
            .map(|(key, history)| (key.as_ref(), history))
    }

    /// Adds a change, and returns what the key was before. A change that is there already changes nothing.
    pub fn apply(&mut self, record: &Record) -> Option<KeyMeta> {
        let version = Version::of(record);
        let (before, existed) = match self.map.get_mut(record.key.as_ref()) {
            Some(history) => {
                let newest = *history.newest();
                if newest.rev() >= version.rev() {
                    return newest.meta();
                }
                history.push(version);
                (newest.meta(), true)
            }
            None => {
                self.map.insert(record.key.as_ref().into(), History::One(version));
                (None, false)
            }
        };
        self.versions += 1;
        self.mark_dirty(&record.key, existed);
        match (before.is_some(), version.kind) {
            (false, Kind::Put) => self.live += 1,
            (true, Kind::Delete) => self.live -= 1,
            (true, Kind::Put) | (false, Kind::Delete) => {}
        }
        before
    }

    /// Removes what a compaction to `compacted` takes of one key.
    pub fn prune(&mut self, key: &[u8], compacted: Revision) {
        let Some(history) = self.map.get_mut(key) else { return };
        let superseded = history.superseded(compacted);
        if superseded == 0 {
            return;
        }
        self.versions -= superseded as u64;
        match history.clone().pruned(compacted) {
            Some(pruned) => *history = pruned,
            None => drop(self.map.remove(key)),
        }
        self.mark_dirty(key, true);
    }

    /// Notes that `key` differs from its row. `has_row` is what holds if it was clean until now.
    pub fn mark_dirty(&mut self, key: &[u8], has_row: bool) {
        if !self.dirty.contains_key(key) {
            self.dirty.insert(key.into(), Dirty { has_row });
        }
    }

    /// Says anew whether the checkpoint has a row for `key`, which is dirty from now on.
    pub fn set_dirty(&mut self, key: &[u8], dirty: Dirty) {
        self.dirty.insert(key.into(), dirty);
    }

    /// Takes up to `count` dirty keys after `after` out of the dirty set, in order.
    pub fn take_dirty(&mut self, after: Option<&[u8]>, count: usize) -> Vec<(Box<[u8]>, Dirty)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let keys: Vec<_> =
            self.dirty.range::<[u8], _>((start, Bound::Unbounded)).take(count).map(|(key, _)| key.clone()).collect();
        keys.into_iter().filter_map(|key| self.dirty.remove_entry(&key)).collect()
    }

    /// Forgets what is dirty: the caller has written, or will write, all rows itself.
    pub fn clear_dirty(&mut self) {
        self.dirty.clear();
    }

    /// All keys from `start` on, in order.
    pub fn iter_from(&self, start: Bound<&[u8]>) -> impl Iterator<Item = (&[u8], &History)> {
        self.map.range::<[u8], _>((start, Bound::Unbounded)).map(|(key, history)| (key.as_ref(), history))
    }
}
