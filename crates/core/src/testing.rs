//! A naive state in memory, for tests: here, and of the crates above. Right before fast.

use crate::codec::{decode_record, encode_record};
use crate::{
    Alarm, AuthState, Caller, Change, ClusterVersions, Command, Delta, Effects, KeyMeta, KeyRange, Lease, LeaseId,
    MemberAttributes, MemberId, Record, Rev, Revision, SystemChange, View, apply,
};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::ops::ControlFlow;

/// A [`View`] that can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryView {
    revision: Revision,
    compacted: Revision,
    records: BTreeMap<Rev, Record>,
    /// Each key's history: what each kept record of it left behind.
    index: BTreeMap<Bytes, BTreeMap<Rev, Option<KeyMeta>>>,
    leases: BTreeMap<LeaseId, Lease>,
    alarms: BTreeSet<Alarm>,
    members: BTreeMap<MemberId, MemberAttributes>,
    versions: ClusterVersions,
    auth: AuthState,
}

/// A record that the index names is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingRecord(pub Rev);

impl fmt::Display for MissingRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} is missing", self.0)
    }
}

impl core::error::Error for MissingRecord {}

impl Default for MemoryView {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryView {
    /// A fresh state, at revision 1.
    pub fn new() -> Self {
        Self {
            revision: Revision::INITIAL,
            compacted: Revision::ZERO,
            records: BTreeMap::new(),
            index: BTreeMap::new(),
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            members: BTreeMap::new(),
            versions: ClusterVersions::default(),
            auth: AuthState::default(),
        }
    }

    /// Applies a command of the cluster's own and writes what it changes.
    ///
    /// # Errors
    /// The state contradicts itself.
    pub fn run(&mut self, command: &Command) -> Result<Effects, MissingRecord> {
        self.run_as(&Caller::System, command)
    }

    /// Applies a command and writes what it changes.
    ///
    /// # Errors
    /// The state contradicts itself.
    pub fn run_as(&mut self, caller: &Caller, command: &Command) -> Result<Effects, MissingRecord> {
        let effects = apply(self, caller, command)?;
        self.commit(&effects.delta);
        Ok(effects)
    }

    /// Writes what a command changes.
    pub fn commit(&mut self, delta: &Delta) {
        for record in &delta.records {
            self.insert(record.clone());
        }
        for change in &delta.system {
            self.change(change);
        }
        if let Some(revision) = delta.compacted {
            self.compact(revision);
        }
    }

    /// All records that are kept, in order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// What members have told.
    pub fn members(&self) -> &BTreeMap<MemberId, MemberAttributes> {
        &self.members
    }

    /// The same state, with everything that follows from the records built anew from their encoded form.
    #[must_use]
    pub fn restart(&self) -> Self {
        let mut fresh = Self { records: BTreeMap::new(), index: BTreeMap::new(), ..self.clone() };
        for record in self.records.values() {
            let mut bytes = Vec::new();
            encode_record(record, &mut bytes);
            fresh.insert(decode_record(bytes.into()).expect("what was encoded decodes"));
        }
        fresh.revision = self.revision;
        fresh
    }

    fn insert(&mut self, record: Record) {
        self.revision = self.revision.max(record.rev.main);
        self.index.entry(record.key.clone()).or_default().insert(record.rev, record.meta());
        self.records.insert(record.rev, record);
    }

    fn change(&mut self, change: &SystemChange) {
        match change {
            SystemChange::LeaseSet(lease) => {
                self.leases.insert(lease.id, *lease);
            }
            SystemChange::LeaseRemove(id) => {
                self.leases.remove(id);
            }
            SystemChange::MemberSet(member, attributes) => {
                self.members.insert(*member, attributes.clone());
            }
            SystemChange::MemberRemove(member) => {
                self.members.remove(member);
            }
            SystemChange::AlarmSet(alarm) => {
                self.alarms.insert(*alarm);
            }
            SystemChange::AlarmRemove(alarm) => {
                self.alarms.remove(alarm);
            }
            SystemChange::VersionsSet(versions) => self.versions = *versions,
            SystemChange::AuthSet { .. }
            | SystemChange::UserSet(..)
            | SystemChange::UserRemove(_)
            | SystemChange::RoleSet(..)
            | SystemChange::RoleRemove(_)
            | SystemChange::TokenAssign { .. } => self.auth.follow(change),
        }
    }

    /// Drops what cannot be read any more: puts that were superseded, and tombstones before `revision`.
    fn compact(&mut self, revision: Revision) {
        self.compacted = revision;
        let mut doomed = Vec::new();
        for record in self.records.values().take_while(|record| record.rev.main <= revision) {
            doomed.extend(record.replaces);
            if record.change == Change::Delete && record.rev.main < revision {
                doomed.push(record.rev);
            }
        }
        for rev in doomed {
            if let Some(record) = self.records.remove(&rev)
                && let Some(history) = self.index.get_mut(&record.key)
            {
                history.remove(&rev);
                if history.is_empty() {
                    self.index.remove(&record.key);
                }
            }
        }
    }

    fn meta(history: &BTreeMap<Rev, Option<KeyMeta>>, at: Revision) -> Option<KeyMeta> {
        let (_, meta) = history.iter().rev().find(|(rev, _)| rev.main <= at)?;
        *meta
    }
}

impl View for MemoryView {
    type Error = MissingRecord;

    fn revision(&self) -> Revision {
        self.revision
    }

    fn compacted(&self) -> Revision {
        self.compacted
    }

    fn key(&self, key: &[u8], at: Revision) -> Option<KeyMeta> {
        Self::meta(self.index.get(key)?, at)
    }

    fn keys(&self, range: &KeyRange, at: Revision, visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>) {
        for (key, history) in self.index.iter().filter(|(key, _)| range.contains(key)) {
            if let Some(meta) = Self::meta(history, at)
                && visit(key, meta).is_break()
            {
                return;
            }
        }
    }

    fn record(&self, rev: Rev) -> Result<Record, MissingRecord> {
        self.records.get(&rev).cloned().ok_or(MissingRecord(rev))
    }

    fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.leases.get(&id).copied()
    }

    fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        let on_lease = |history| Self::meta(history, self.revision).is_some_and(|meta| meta.lease == id);
        self.index.iter().filter(|(_, history)| on_lease(history)).map(|(key, _)| key.clone()).collect()
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.alarms.iter().copied().collect()
    }

    fn versions(&self) -> ClusterVersions {
        self.versions
    }

    fn auth(&self) -> Arc<AuthState> {
        Arc::new(self.auth.clone())
    }
}
