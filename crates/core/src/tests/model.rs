//! The naive model: a full copy of the keyspace per revision, and etcd's semantics written down step by step, without any
//! of the state machine's shortcuts.

use crate::{
    Alarm, AlarmKind, ClusterVersions, Command, Compare, CompareResult, CompareTarget, KeyRange, KeyValue, Op, OpReply,
    Put, RangeReply, RangeRequest, Rejection, Reply, Revision, SortOrder, SortTarget, Txn, TxnReply,
};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

pub(super) type Keys = BTreeMap<Bytes, KeyValue>;

pub(super) struct Model {
    /// The keyspace at each revision, from 0.
    history: Vec<Keys>,
    compacted: i64,
    /// Lease to TTL and what was left at the checkpoint.
    pub(super) leases: BTreeMap<i64, (i64, i64)>,
    alarms: BTreeSet<Alarm>,
    versions: ClusterVersions,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            history: vec![Keys::new(), Keys::new()],
            compacted: 0,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            versions: ClusterVersions::default(),
        }
    }

    pub(super) fn revision(&self) -> i64 {
        self.history.len() as i64 - 1
    }

    pub(super) fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(super) fn now(&self) -> &Keys {
        self.history.last().expect("there is a first revision")
    }

    pub(super) fn run(&mut self, command: &Command) -> Result<Reply, Rejection> {
        let corrupt = self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
        let nospace = self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace);
        match command {
            Command::Txn(txn) => {
                let write = txn.success.iter().chain(&txn.failure).any(|op| !matches!(op, Op::Range(_)));
                if write && corrupt {
                    return Err(Rejection::Corrupt);
                }
                if nospace && holds_put(txn) {
                    return Err(Rejection::NoSpace);
                }
                self.txn(txn).map(Reply::Txn)
            }
            Command::Compact { .. } | Command::LeaseGrant { .. } | Command::LeaseRevoke { .. } if corrupt => {
                Err(Rejection::Corrupt)
            }
            Command::Compact { revision } => {
                if (revision.get(), self.compacted) == (0, 0) {
                    return Ok(Reply::Compact);
                }
                if revision.get() <= self.compacted {
                    return Err(Rejection::Compacted);
                }
                if revision.get() > self.revision() {
                    return Err(Rejection::FutureRevision);
                }
                self.compacted = revision.get();
                Ok(Reply::Compact)
            }
            Command::LeaseGrant { .. } if nospace => Err(Rejection::NoSpace),
            Command::LeaseGrant { id, ttl_seconds } => {
                if id.get() == 0 {
                    return Err(Rejection::LeaseNotFound);
                }
                if self.leases.contains_key(&id.get()) {
                    return Err(Rejection::LeaseExists);
                }
                self.leases.insert(id.get(), (*ttl_seconds, 0));
                Ok(Reply::LeaseGrant { id: *id, ttl_seconds: *ttl_seconds })
            }
            Command::LeaseRevoke { id } => {
                if self.leases.remove(&id.get()).is_none() {
                    return Err(Rejection::LeaseNotFound);
                }
                let mut keys = self.now().clone();
                keys.retain(|_, kv| kv.lease != *id);
                self.commit(keys);
                Ok(Reply::LeaseRevoke)
            }
            Command::LeaseCheckpoint { remaining } => {
                for (id, seconds) in remaining {
                    if let Some((_, left)) = self.leases.get_mut(&id.get()) {
                        *left = *seconds;
                    }
                }
                Ok(Reply::LeaseCheckpoint)
            }
            Command::MemberPublish { .. } | Command::MemberForget { .. } => Ok(Reply::Member),
            Command::AlarmActivate(alarm) => {
                self.alarms.insert(*alarm);
                Ok(Reply::Alarm(vec![*alarm]))
            }
            Command::AlarmDeactivate(alarm) => {
                Ok(Reply::Alarm(if self.alarms.remove(alarm) { vec![*alarm] } else { vec![] }))
            }
            Command::ClusterVersionSet(version) => {
                self.versions.current = Some(*version);
                Ok(Reply::Versions(self.versions))
            }
            Command::DowngradeEnable(target) => match self.versions.current {
                None => Err(Rejection::VersionUnknown),
                Some(now) if now.major != target.major || now.minor != target.minor + 1 => {
                    Err(Rejection::DowngradeTarget)
                }
                Some(_) if self.versions.target.is_some() => Err(Rejection::DowngradeInProcess),
                Some(_) => {
                    self.versions.target = Some(*target);
                    Ok(Reply::Versions(self.versions))
                }
            },
            Command::DowngradeCancel if self.versions.target.take().is_none() => Err(Rejection::NoDowngrade),
            Command::DowngradeCancel => Ok(Reply::Versions(self.versions)),
            Command::Auth(_) => unreachable!("users and roles have a model of their own"),
        }
    }

    /// Adds a revision if a command changed anything. (No command undoes its own changes without leaving tombstones.)
    fn commit(&mut self, keys: Keys) {
        if keys != *self.now() {
            self.history.push(keys);
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnReply, Rejection> {
        self.check(txn)?;
        let mut keys = self.now().clone();
        let mut wrote = false;
        let reply = self.run_txn(txn, &mut keys, &mut wrote)?;
        if wrote {
            self.history.push(keys);
        }
        Ok(reply)
    }

    fn branch<'a>(&self, txn: &'a Txn) -> (bool, &'a [Op]) {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found: Vec<&KeyValue> = within(self.now(), &compare.range);
        if found.is_empty() {
            return !matches!(compare.target, CompareTarget::Value(_)) && one_holds(compare, &KeyValue::default());
        }
        found.iter().all(|kv| one_holds(compare, kv))
    }

    fn check(&self, txn: &Txn) -> Result<(), Rejection> {
        for op in self.branch(txn).1 {
            match op {
                Op::Range(request) => match request.revision.get() {
                    0 => {}
                    revision if revision > self.revision() => return Err(Rejection::FutureRevision),
                    revision if revision < self.compacted => return Err(Rejection::Compacted),
                    _ => {}
                },
                Op::Put(put) => {
                    if put.lease.get() != 0 && !self.leases.contains_key(&put.lease.get()) {
                        return Err(Rejection::LeaseNotFound);
                    }
                    if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
                        return Err(Rejection::KeyNotFound);
                    }
                }
                Op::DeleteRange(_) => {}
                Op::Txn(nested) => self.check(nested)?,
            }
        }
        Ok(())
    }

    fn run_txn(&self, txn: &Txn, keys: &mut Keys, wrote: &mut bool) -> Result<TxnReply, Rejection> {
        let (succeeded, ops) = self.branch(txn);
        let mut responses = Vec::new();
        for op in ops {
            let current = Revision::new(self.revision() + i64::from(*wrote));
            responses.push(match op {
                Op::Range(request) => {
                    let at = if request.revision.get() > 0 && request.revision.get() <= self.revision() {
                        &self.history[request.revision.get() as usize]
                    } else {
                        &*keys
                    };
                    OpReply::Range { revision: current, reply: read(at, request) }
                }
                Op::Put(put) => {
                    *wrote = true;
                    self.put(put, keys)?
                }
                Op::DeleteRange(delete) => {
                    let old: Vec<KeyValue> = within(keys, &delete.range).into_iter().cloned().collect();
                    keys.retain(|key, _| !delete.range.contains(key));
                    *wrote |= !old.is_empty();
                    OpReply::DeleteRange {
                        revision: Revision::new(self.revision() + i64::from(*wrote)),
                        deleted: old.len() as i64,
                        prev_kvs: if delete.prev_kv { old } else { vec![] },
                    }
                }
                Op::Txn(nested) => OpReply::Txn(self.run_txn(nested, keys, wrote)?),
            });
        }
        Ok(TxnReply { succeeded, responses })
    }

    fn put(&self, put: &Put, keys: &mut Keys) -> Result<OpReply, Rejection> {
        let revision = Revision::new(self.revision() + 1);
        let old = keys.get(&put.key).cloned();
        if old.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Rejection::KeyNotFound);
        }
        let mut kv =
            old.clone().unwrap_or(KeyValue { key: put.key.clone(), create_revision: revision, ..KeyValue::default() });
        kv.mod_revision = revision;
        kv.version += 1;
        if !put.ignore_value {
            kv.value = put.value.clone();
        }
        if !put.ignore_lease {
            kv.lease = put.lease;
        }
        keys.insert(put.key.clone(), kv);
        Ok(OpReply::Put { revision, prev_kv: old.filter(|_| put.prev_kv) })
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeReply, Rejection> {
        let revision = request.revision.get();
        if revision > self.revision() {
            Err(Rejection::FutureRevision)
        } else if revision <= 0 {
            Ok(read(self.now(), request))
        } else if revision < self.compacted {
            Err(Rejection::Compacted)
        } else {
            Ok(read(&self.history[revision as usize], request))
        }
    }
}

fn holds_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(txn) => holds_put(txn),
        Op::Range(_) | Op::DeleteRange(_) => false,
    })
}

fn one_holds(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
        CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    }
}

fn within<'a>(keys: &'a Keys, range: &KeyRange) -> Vec<&'a KeyValue> {
    keys.values()
        .filter(|kv| match range {
            KeyRange::Single(key) => kv.key == key,
            KeyRange::Interval { start, end } => kv.key >= start && kv.key < end,
            KeyRange::From { start } => kv.key >= start,
        })
        .collect()
}

/// As etcd does it: read (one more than the limit, if nothing else has to be done), filter, sort, cut.
fn read(keys: &Keys, request: &RangeRequest) -> RangeReply {
    let mut kvs: Vec<KeyValue> = within(keys, &request.range).into_iter().cloned().collect();
    let count = kvs.len() as i64;
    if request.count_only {
        return RangeReply { kvs: vec![], more: false, count };
    }
    let [min_mod, max_mod] = [request.min_mod_revision, request.max_mod_revision];
    let [min_create, max_create] = [request.min_create_revision, request.max_create_revision];
    let filtered = [min_mod, max_mod, min_create, max_create].iter().any(|revision| revision.get() != 0);
    if request.limit > 0 && request.sort_order == SortOrder::None && !filtered {
        kvs.truncate(request.limit as usize + 1);
    }
    kvs.retain(|kv| max_mod.get() == 0 || kv.mod_revision <= max_mod);
    kvs.retain(|kv| min_mod.get() == 0 || kv.mod_revision >= min_mod);
    kvs.retain(|kv| max_create.get() == 0 || kv.create_revision <= max_create);
    kvs.retain(|kv| min_create.get() == 0 || kv.create_revision >= min_create);
    kvs.sort_by(|a, b| {
        let ordering = match request.sort_target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if request.sort_order == SortOrder::Descend { ordering.reverse() } else { ordering }
    });
    let more = request.limit > 0 && kvs.len() > request.limit as usize;
    if more {
        kvs.truncate(request.limit as usize);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    RangeReply { kvs, more, count }
}
