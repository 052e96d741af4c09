//! A store with history, compaction, and races on demand.

use super::super::{History, WatchHub};
use crate::Error;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::{Change, KeyMeta, LeaseId, Record, Rejection, Rev, Revision};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::OnceLock;

/// What happens while a scan is under way.
#[derive(Clone, Debug)]
pub(super) enum Race {
    /// A transaction is committed and published.
    Txn(String),
    /// History up to that many revisions below the newest is compacted.
    Compact(i64),
}

pub(super) struct Store {
    state: Mutex<State>,
    hub: OnceLock<WatchHub>,
}

struct State {
    revision: Revision,
    compacted: Revision,
    published: Revision,
    keys: BTreeMap<Bytes, KeyMeta>,
    /// What compaction has left.
    kept: BTreeMap<Rev, Record>,
    /// All that ever was.
    log: Vec<Record>,
    races: VecDeque<Race>,
    broken: bool,
}

impl Store {
    pub(super) fn new() -> Self {
        let state = State {
            revision: Revision::INITIAL,
            compacted: Revision::ZERO,
            published: Revision::INITIAL,
            keys: BTreeMap::new(),
            kept: BTreeMap::new(),
            log: Vec::new(),
            races: VecDeque::new(),
            broken: false,
        };
        Self { state: Mutex::new(state), hub: OnceLock::new() }
    }

    pub(super) fn attach(&self, hub: &WatchHub) {
        assert!(self.hub.set(hub.clone()).is_ok());
    }

    pub(super) fn revision(&self) -> Revision {
        self.state.lock().revision
    }

    /// Commits `a=1 -b`: a put and a delete, in one revision, unless nothing changes.
    pub(super) fn txn(&self, ops: &str) {
        let mut state = self.state.lock();
        let main = state.revision.next();
        let mut sub = 0;
        for op in ops.split_whitespace() {
            let rev = Rev::new(main, sub);
            let record = match op.strip_prefix('-') {
                Some(key) => {
                    let Some(old) = state.keys.remove(key.as_bytes()) else { continue };
                    let key = Bytes::copy_from_slice(key.as_bytes());
                    Record { rev, key, change: Change::Delete, replaces: Some(old.modified) }
                }
                None => {
                    let (key, value) = op.split_once('=').expect("a put has a value");
                    let (key, value) =
                        (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
                    let old = state.keys.get(&key).copied();
                    let create_revision = old.map_or(main, |old| old.create_revision);
                    let version = old.map_or(1, |old| old.version + 1);
                    let change = Change::Put { create_revision, version, lease: LeaseId::NONE, value };
                    Record { rev, key, change, replaces: old.map(|old| old.modified) }
                }
            };
            if let Some(meta) = record.meta() {
                state.keys.insert(record.key.clone(), meta);
            }
            state.kept.insert(rev, record.clone());
            state.log.push(record);
            sub += 1;
        }
        if sub > 0 {
            state.revision = main;
        }
    }

    /// Publishes what was committed since the last call.
    pub(super) fn publish(&self) {
        let mut state = self.state.lock();
        let records = Self::between(&state.log, state.published.next(), state.revision).to_vec();
        state.published = state.revision;
        let revision = state.revision;
        drop(state);
        self.hub.get().expect("attached").publish(revision, &records);
    }

    /// Takes what was committed for published.
    pub(super) fn skip_published(&self) {
        let mut state = self.state.lock();
        state.published = state.revision;
    }

    /// Compacts at `revision`, if that is possible, and deletes at once.
    pub(super) fn compact(&self, revision: i64) {
        self.compact_later(revision);
        let mut state = self.state.lock();
        let compacted = state.compacted;
        let superseded: Vec<Rev> = state
            .kept
            .values()
            .filter(|record| record.rev.main <= compacted)
            .filter_map(|record| record.replaces)
            .collect();
        for rev in superseded {
            state.kept.remove(&rev);
        }
        state.kept.retain(|rev, record| rev.main >= compacted || record.change != Change::Delete);
    }

    /// Compacts at `revision`, if that is possible, without deleting yet.
    pub(super) fn compact_later(&self, revision: i64) {
        let mut state = self.state.lock();
        let revision = Revision::new(revision);
        if revision > state.compacted && revision <= state.revision {
            state.compacted = revision;
        }
    }

    pub(super) fn race(&self, race: Race) {
        self.state.lock().races.push_back(race);
    }

    pub(super) fn break_reads(&self) {
        self.state.lock().broken = true;
    }

    /// All records of `from..=to`, compacted or not.
    pub(super) fn log(&self, from: Revision, to: Revision) -> Vec<Record> {
        Self::between(&self.state.lock().log, from, to).to_vec()
    }

    /// The record that `rev` named, compacted or not.
    pub(super) fn logged(&self, rev: Rev) -> Option<Record> {
        let state = self.state.lock();
        let place = state.log.binary_search_by_key(&rev, |record| record.rev).ok()?;
        Some(state.log[place].clone())
    }

    fn between(log: &[Record], from: Revision, to: Revision) -> &[Record] {
        let start = log.partition_point(|record| record.rev.main < from);
        let end = log.partition_point(|record| record.rev.main <= to);
        &log[start..end.max(start)]
    }

    fn run_race(&self) {
        let race = self.state.lock().races.pop_front();
        match race {
            None => {}
            Some(Race::Txn(ops)) => {
                self.txn(&ops);
                self.publish();
            }
            Some(Race::Compact(below)) => self.compact(self.revision().get() - below),
        }
    }
}

impl History for Store {
    fn compacted(&self) -> Revision {
        self.state.lock().compacted
    }

    fn scan(
        &self,
        from: Revision,
        to: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        // A real store may be compacted between the look at the bound and the scan.
        self.run_race();
        if from < self.compacted() {
            return Err(Error::Rejected(Rejection::Compacted));
        }
        let mut next = Rev::new(from, 0);
        loop {
            // The lock is not held while a record is visited: the store moves on under a scan, as a real one does.
            let record = {
                let state = self.state.lock();
                if state.broken {
                    return Err(Error::Fatal("the disk is gone".into()));
                }
                state.kept.range(next..).next().map(|(_, record)| record.clone())
            };
            let Some(record) = record.filter(|record| record.rev.main <= to) else { break };
            next = Rev::new(record.rev.main, record.rev.sub + 1);
            if visit(record).is_break() {
                break;
            }
            self.run_race();
        }
        self.run_race();
        Ok(())
    }

    fn previous(&self, rev: Rev) -> Result<Option<Record>, Error> {
        Ok(self.state.lock().kept.get(&rev).cloned())
    }
}
