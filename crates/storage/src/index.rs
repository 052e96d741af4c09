//! The key index: every key that is live or has history, in order, in memory. Read *by revision*: a reader ignores what is
//! newer than its own revision, so that writers copy nothing.
//!
//! Also notes with each key how it stands to the checkpoint, and which keys wait for it.

use crate::waiting::{Row, Waiting};
use quorate_core::{Change, KeyMeta, KeyRange, LeaseId, Record, Rev, Revision};
use quorate_sabotage::sabotage;
use std::collections::BTreeMap;
use std::ops::Bound;

/// What a version did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Delete,
}

/// One change of a key, without key and value. Plain numbers, packed: there is one per key at least, and what is left of 40
/// bytes holds what else is noted of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed)]
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

/// The versions of one key that compaction has left, oldest first; at least one. And how the key stands to the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// The common case, without a second allocation.
    One(Version, Row),
    Many(Vec<Version>, Row),
}

const _: () = assert!(size_of::<History>() == 40);

impl History {
    /// As a clean row has it; `None` if there are no versions.
    pub fn from_versions(mut versions: Vec<Version>) -> Option<Self> {
        match versions.len() {
            0 => None,
            1 => versions.pop().map(|version| Self::One(version, Row::Clean)),
            _ => Some(Self::Many(versions, Row::Clean)),
        }
    }

    pub fn row(&self) -> Row {
        match self {
            Self::One(_, row) | Self::Many(_, row) => *row,
        }
    }

    pub fn set_row(&mut self, to: Row) {
        match self {
            Self::One(_, row) | Self::Many(_, row) => *row = to,
        }
    }

    pub fn versions(&self) -> &[Version] {
        match self {
            Self::One(version, _) => std::slice::from_ref(version),
            Self::Many(versions, _) => versions,
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
            Self::One(first, row) => *self = Self::Many(vec![*first, version], *row),
            Self::Many(versions, _) => versions.push(version),
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

    /// Takes away what a compaction to `compacted` takes. Returns whether there is something left; if not, nothing was
    /// changed.
    #[must_use]
    pub fn prune(&mut self, compacted: Revision) -> bool {
        let superseded = self.superseded(compacted);
        match self {
            Self::One(..) => superseded == 0,
            Self::Many(versions, row) => match &versions[superseded..] {
                [] => false,
                [last] => {
                    *self = Self::One(*last, *row);
                    true
                }
                [..] => {
                    versions.drain(..superseded);
                    // A long history is short from now on, most likely.
                    versions.shrink_to_fit();
                    true
                }
            },
        }
    }

    /// The versions that are not newer than `revision` and that a compaction to `compacted` leaves.
    pub fn retained(&self, compacted: Revision, revision: Revision) -> &[Version] {
        let versions = self.versions();
        let end = versions.partition_point(|version| version.main <= revision.get());
        &versions[self.superseded(compacted).min(end)..end]
    }
}

/// Keys, and what is yet to be written to the checkpoint.
/// INVARIANT(checkpoint-rows): a key has a checkpoint row if and only if it is in `map` and its [`Row::exists`], or it is an
/// orphan of `waiting`.
#[derive(Default)]
pub(crate) struct Index {
    map: BTreeMap<Box<[u8]>, History>,
    waiting: Waiting,
    live: u64,
    versions: u64,
}

impl Index {
    /// From the checkpoint's rows in key order, those of them that are to be written anew, and the changes since, in the
    /// order of revisions; the rows may have some of these. Leaves what a compaction to `compacted` leaves.
    ///
    /// One pass over both in key order: to look each change up in a map of millions of keys takes several times as long.
    pub fn build(
        rows: Vec<(Box<[u8]>, History)>,
        mut waiting: Waiting,
        mut changes: Vec<(Box<[u8]>, Version)>,
        compacted: Revision,
    ) -> Self {
        // Stable: the changes of one key stay in their order.
        changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut entries = Vec::with_capacity(rows.len());
        let mut changed = Vec::new();
        let mut rows = rows.into_iter().peekable();
        for changes in changes.chunk_by(|(a, _), (b, _)| a == b) {
            let key = &changes[0].0;
            while let Some(row) = rows.next_if(|(name, _)| name < key) {
                entries.push(row);
            }
            let mut history = rows.next_if(|(name, _)| name == key).map(|(_, history)| history);
            let mut since = None;
            for (_, version) in changes {
                match &mut history {
                    Some(history) if history.newest().rev() >= version.rev() => continue,
                    Some(history) => history.push(*version),
                    None => {
                        let row = if waiting.adopt(key) { Row::Behind } else { Row::Missing };
                        history = Some(History::One(*version, row));
                    }
                }
                since.get_or_insert(version.main);
            }
            let Some(mut history) = history else { continue };
            if since.is_some() && history.row().exists() {
                history.set_row(Row::Behind);
            }
            // Also a key that compaction takes: until its row is gone the checkpoint must not pass the deletion, or the next start
            // would find the row, and no longer the record that ends it.
            let remains = history.prune(compacted);
            changed.extend(
                since.filter(|_| remains || !sabotage!(CheckpointPassesOrphan)).map(|since| (since, key.clone())),
            );
            if remains {
                entries.push((key.clone(), history));
            } else if history.row().exists() {
                waiting.push_orphan(key);
            }
        }
        entries.extend(rows);
        changed.sort_unstable_by_key(|(since, _)| *since);
        for (since, key) in changed {
            waiting.push_changed(Revision::new(since), key);
        }
        let live = entries.iter().filter(|(_, history)| history.newest().kind == Kind::Put).count() as u64;
        let versions = entries.iter().map(|(_, history)| history.versions().len() as u64).sum();
        Self { map: entries.into_iter().collect(), waiting, live, versions }
    }

    /// Keys that are live at the newest revision.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Versions of all keys.
    pub fn versions(&self) -> u64 {
        self.versions
    }

    /// How many keys there are, with those that are deleted and not compacted.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Keys that wait for the checkpoint.
    pub fn waiting(&mut self) -> &mut Waiting {
        &mut self.waiting
    }

    /// How many keys wait for the checkpoint, about.
    pub fn waiting_len(&self) -> usize {
        self.waiting.len()
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
        let (version, key) = (Version::of(record), record.key.as_ref());
        let before = match self.map.get_mut(key) {
            Some(history) => {
                let newest = *history.newest();
                if newest.rev() >= version.rev() {
                    return newest.meta();
                }
                history.push(version);
                match history.row() {
                    Row::Clean | Row::Loose => {
                        history.set_row(Row::Behind);
                        self.waiting.push_changed(record.rev.main, key.into());
                    }
                    Row::Behind | Row::Missing => {}
                }
                newest.meta()
            }
            None => {
                let row = if self.waiting.adopt(key) { Row::Behind } else { Row::Missing };
                self.map.insert(key.into(), History::One(version, row));
                self.waiting.push_changed(record.rev.main, key.into());
                None
            }
        };
        self.count(before.is_some(), version.kind);
        before
    }

    /// Adds a change for which, as for all others, the caller writes the checkpoint itself.
    pub fn load(&mut self, record: &Record) {
        let version = Version::of(record);
        let before = match self.map.get_mut(record.key.as_ref()) {
            Some(history) => {
                let before = history.newest().kind;
                history.push(version);
                before == Kind::Put
            }
            None => {
                self.map.insert(record.key.as_ref().into(), History::One(version, Row::Clean));
                false
            }
        };
        self.count(before, version.kind);
    }

    fn count(&mut self, was_live: bool, kind: Kind) {
        self.versions += 1;
        match (was_live, kind) {
            (false, Kind::Put) => self.live += 1,
            (true, Kind::Delete) => self.live -= 1,
            (true, Kind::Put) | (false, Kind::Delete) => {}
        }
    }

    /// Removes what a compaction to `compacted` takes of one key.
    pub fn prune(&mut self, key: &[u8], compacted: Revision) {
        let Some(history) = self.map.get_mut(key) else { return };
        let before = history.versions().len();
        if !history.prune(compacted) {
            self.versions -= before as u64;
            let exists = history.row().exists();
            self.map.remove(key);
            if exists {
                self.waiting.push_orphan(key);
            }
            return;
        }
        let superseded = before - history.versions().len();
        self.versions -= superseded as u64;
        if superseded > 0 && history.row() == Row::Clean {
            history.set_row(Row::Loose);
            self.waiting.push_loose(key);
        }
    }

    /// Whether the checkpoint has a row for `key`, which is in the index or not.
    pub fn has_row(&self, key: &[u8]) -> bool {
        self.map.get(key).map_or_else(|| self.waiting.is_orphan(key), |history| history.row().exists())
    }

    /// Notes that the checkpoint has `key` as it was at `revision`, and whether that is a row.
    pub fn settle(&mut self, key: &[u8], has_row: bool, revision: Revision) {
        let Some(history) = self.map.get_mut(key) else {
            self.waiting.adopt(key);
            return;
        };
        if history.newest().main <= revision.get() {
            debug_assert!(has_row, "a version that the engine has is in the row");
            history.set_row(Row::Clean);
        } else {
            history.set_row(if has_row { Row::Behind } else { Row::Missing });
            self.waiting.push_again(revision.next(), key);
        }
    }

    /// All keys from `start` on, in order.
    pub fn iter_from(&self, start: Bound<&[u8]>) -> impl Iterator<Item = (&[u8], &History)> {
        self.map.range::<[u8], _>((start, Bound::Unbounded)).map(|(key, history)| (key.as_ref(), history))
    }
}
