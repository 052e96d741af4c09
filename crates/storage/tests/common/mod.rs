//! A naive model of a store: a list of deltas, folded anew whenever it is asked.
#![allow(dead_code)] // Each test file uses its part.

use bytes::Bytes;
use quorate_core::{
    Alarm, AlarmKind, AuthState, Change, ClusterVersions, Delta, KeyRange, Lease, LeaseId, MemberAttributes, MemberId,
    Record, Rejection, Rev, Revision, SystemChange, View,
};
use quorate_storage::{Applied, ReadView, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// What one log entry brought.
#[derive(Clone, Debug)]
pub enum Entry {
    /// One delta per command of the entry.
    Commands(Vec<Delta>),
    Membership(Bytes),
}

/// State after some entries, and all history.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The entries; entry `i` has log index `i + 1`.
    pub log: Vec<Entry>,
    pub records: Vec<Record>,
    pub compacted: i64,
    pub leases: BTreeMap<i64, Lease>,
    pub members: BTreeMap<u64, MemberAttributes>,
    pub forgotten: BTreeSet<u64>,
    pub alarms: BTreeSet<Alarm>,
    pub versions: ClusterVersions,
    pub auth: AuthState,
    pub membership: Bytes,
}

pub fn all() -> KeyRange {
    KeyRange::From { start: Bytes::new() }
}

pub fn applied(index: usize) -> Applied {
    Applied { term: 1, index: index as u64 }
}

/// A value that tells where it comes from.
pub fn value(key: &[u8], main: i64, size: usize) -> Bytes {
    let mut value = format!("{}@{main}:", key.escape_ascii()).into_bytes();
    // Not compressible, so that engines that compress meet large rows too.
    let mut x = main.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while value.len() < size {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        value.extend_from_slice(&x.to_le_bytes());
    }
    value.into()
}

impl Model {
    /// The model after the first `entries` entries.
    pub fn at(&self, entries: usize) -> Self {
        let mut model = Self::default();
        for entry in &self.log[..entries] {
            model.push(entry.clone());
        }
        model
    }

    pub fn revision(&self) -> i64 {
        self.records.last().map_or(1, |record| record.rev.main.get())
    }

    pub fn push(&mut self, entry: Entry) {
        match &entry {
            Entry::Membership(membership) => self.membership = membership.clone(),
            Entry::Commands(deltas) => {
                for delta in deltas {
                    self.take_in(delta);
                }
            }
        }
        self.log.push(entry);
    }

    /// What one command does.
    pub fn take_in(&mut self, delta: &Delta) {
        self.records.extend(delta.records.iter().cloned());
        if let Some(compacted) = delta.compacted {
            self.compacted = compacted.get();
        }
        for change in &delta.system {
            match change {
                SystemChange::LeaseSet(lease) => drop(self.leases.insert(lease.id.get(), *lease)),
                SystemChange::LeaseRemove(id) => drop(self.leases.remove(&id.get())),
                SystemChange::MemberSet(id, member) => drop(self.members.insert(id.get(), member.clone())),
                SystemChange::MemberRemove(id) => {
                    self.members.remove(&id.get());
                    self.forgotten.insert(id.get());
                }
                SystemChange::AlarmSet(alarm) => drop(self.alarms.insert(*alarm)),
                SystemChange::AlarmRemove(alarm) => drop(self.alarms.remove(alarm)),
                SystemChange::VersionsSet(versions) => self.versions = *versions,
                SystemChange::AuthSet { .. }
                | SystemChange::UserSet(..)
                | SystemChange::UserRemove(_)
                | SystemChange::RoleSet(..)
                | SystemChange::RoleRemove(_)
                | SystemChange::TokenAssign { .. } => self.auth.follow(change),
            }
        }
    }

    /// The newest record of each key at `at`, live ones only.
    pub fn live(&self, at: i64) -> BTreeMap<Bytes, Record> {
        let mut live = BTreeMap::new();
        for record in self.records.iter().take_while(|record| record.rev.main.get() <= at) {
            match record.change {
                Change::Put { .. } => live.insert(record.key.clone(), record.clone()),
                Change::Delete => live.remove(&record.key),
            };
        }
        live
    }

    /// What a compaction to `compacted` leaves of the records up to `revision`, in order.
    pub fn kept(&self, revision: i64) -> Vec<Record> {
        let base: BTreeMap<Bytes, Rev> = self
            .records
            .iter()
            .filter(|record| record.rev.main.get() <= self.compacted)
            .map(|record| (record.key.clone(), record.rev))
            .collect();
        let keep = |record: &&Record| {
            let main = record.rev.main.get();
            main > self.compacted
                || base[&record.key] == record.rev
                    && (main == self.compacted || matches!(record.change, Change::Put { .. }))
        };
        self.records.iter().filter(|record| record.rev.main.get() <= revision).filter(keep).cloned().collect()
    }

    /// A delta of puts (key, size, lease) and deletes, at most one per key.
    pub fn write(&self, puts: &[(Bytes, usize, i64)], deletes: &[Bytes]) -> Delta {
        let main = self.revision() + 1;
        let live = self.live(main);
        let mut changes: BTreeMap<&Bytes, Option<(usize, i64)>> = BTreeMap::new();
        for key in deletes.iter().filter(|key| live.contains_key(*key)) {
            changes.insert(key, None);
        }
        for (key, size, lease) in puts {
            changes.insert(key, Some((*size, *lease)));
        }
        let records = changes.into_iter().enumerate().map(|(sub, (key, change))| {
            let old = live.get(key);
            let old_meta = old.and_then(Record::meta);
            let change = match change {
                Some((size, lease)) => Change::Put {
                    create_revision: old_meta.map_or(Revision::new(main), |meta| meta.create_revision),
                    version: old_meta.map_or(1, |meta| meta.version + 1),
                    lease: LeaseId::new(lease),
                    value: value(key, main, size),
                },
                None => Change::Delete,
            };
            let rev = Rev::new(Revision::new(main), sub as u32);
            Record { rev, key: key.clone(), change, replaces: old.map(|old| old.rev) }
        });
        Delta { records: records.collect(), ..Delta::default() }
    }

    pub fn system(&self, change: SystemChange) -> Delta {
        Delta { system: vec![change], ..Delta::default() }
    }

    pub fn compact(&self, revision: i64) -> Delta {
        Delta { compacted: Some(Revision::new(revision)), ..Delta::default() }
    }

    pub fn revoke(&self, lease: i64) -> Delta {
        let keys: Vec<Bytes> = self.lease_keys(lease);
        Delta { system: vec![SystemChange::LeaseRemove(LeaseId::new(lease))], ..self.write(&[], &keys) }
    }

    pub fn lease_keys(&self, lease: i64) -> Vec<Bytes> {
        let live = self.live(self.revision());
        live.values().filter(|r| r.meta().is_some_and(|m| m.lease.get() == lease)).map(|r| r.key.clone()).collect()
    }

    /// Commits one command to both.
    pub fn run(&mut self, store: &Store, delta: Delta) {
        self.commit(store, Entry::Commands(vec![delta]));
    }

    /// Commits the entry to both.
    pub fn commit(&mut self, store: &Store, entry: Entry) {
        let index = applied(self.log.len() + 1);
        let mut writer = store.writer();
        match entry.clone() {
            Entry::Commands(deltas) => {
                let several = deltas.len() > 1;
                for delta in deltas {
                    writer.commit(delta, index);
                    if several {
                        // Whenever the drain comes: it must not take half of an entry.
                        store.drain(usize::MAX).expect("the drain works");
                    }
                }
            }
            Entry::Membership(membership) => writer.set_membership(membership, index),
        }
        writer.publish();
        self.push(entry);
    }

    /// Gives the store what it does not have: what the log does after a restart.
    pub fn replay(&self, store: &Store) {
        let have = store.applied().index as usize;
        self.at(have).check(store);
        let mut model = self.at(have);
        for entry in &self.log[have..] {
            model.commit(store, entry.clone());
        }
    }

    /// Everything that the store can be asked must be as the model has it.
    pub fn check(&self, store: &Store) {
        assert_eq!(store.applied().index, self.log.len() as u64);
        assert_eq!(store.revision().get(), self.revision());
        assert_eq!(store.compacted().get(), self.compacted);
        assert_eq!(store.membership(), self.membership);
        assert_eq!(store.leases(), self.leases.values().copied().collect::<Vec<_>>());
        let members: Vec<_> = self.members.iter().map(|(id, member)| (MemberId::new(*id), member.clone())).collect();
        assert_eq!(store.members(), members);
        for id in 0..8 {
            assert_eq!(store.is_forgotten(MemberId::new(id)), self.forgotten.contains(&id));
        }
        assert_eq!(store.alarms(), self.alarms.iter().copied().collect::<Vec<_>>());
        assert_eq!(store.versions(), self.versions);
        assert_eq!(*store.auth(), self.auth);
        let live = self.live(self.revision());
        assert_eq!(store.metrics().keys, live.len() as u64);
        let view = store.view();
        for lease in 0..8 {
            assert_eq!(
                view.lease_keys(LeaseId::new(lease)),
                self.lease_keys(lease).iter().filter(|_| lease != 0).cloned().collect::<Vec<_>>()
            );
            assert_eq!(view.lease(LeaseId::new(lease)), self.leases.get(&lease).copied());
        }
        self.check_view(&view, self.compacted);
        if self.compacted > 1 {
            let old = store.view_at(Revision::new(self.compacted - 1));
            assert_eq!(old.err(), Some(Rejection::Compacted));
        }
        assert_eq!(store.view_at(Revision::new(self.revision() + 1)).err(), Some(Rejection::FutureRevision));
    }

    /// A view that was taken when the model was like this, and reads back to `oldest`.
    pub fn check_view(&self, view: &ReadView, oldest: i64) {
        assert_eq!(view.revision().get(), self.revision());
        assert_eq!(view.compacted().get(), oldest);
        for at in oldest.max(1)..=self.revision() {
            let live = self.live(at);
            let at = Revision::new(at);
            let mut found = BTreeMap::new();
            view.keys(&all(), at, &mut |key, meta| {
                assert_eq!(view.key(key, at), Some(meta));
                let record = view.record(meta.modified).expect("the record is there");
                assert_eq!(record.meta(), Some(meta));
                found.insert(Bytes::copy_from_slice(key), record);
                ControlFlow::Continue(())
            });
            assert_eq!(found, live, "keys at {at}");
            assert_eq!(view.count(&all(), at), live.len() as i64);
        }
        let from = oldest.max(1);
        let mut scanned = Vec::new();
        view.scan_records(Revision::new(from), view.revision(), &mut |record| {
            scanned.push(record);
            ControlFlow::Continue(())
        })
        .expect("the scan works");
        // At `oldest` itself, what was replaced there may be gone; above it nothing is.
        let above = |record: &Record| record.rev.main.get() > oldest;
        scanned.retain(above);
        assert_eq!(scanned, self.records.iter().filter(|record| above(record)).cloned().collect::<Vec<_>>());
    }
}

pub fn alarm(member: u64) -> Alarm {
    Alarm { member: MemberId::new(member), kind: AlarmKind::NoSpace }
}
