//! [`Overlay`]: a view, and what the command at work has written so far. Lets an op of a transaction read what came before
//! it. Knows nothing of ops.

use crate::{
    Alarm, AuthState, Change, ClusterVersions, KeyMeta, KeyRange, Lease, LeaseId, Record, Rev, Revision, View,
};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::{Bound, ControlFlow};
use quorate_sabotage::sabotage;

/// The state in the middle of a command.
///
/// What is pushed becomes readable with [`Overlay::settle`]. Ops settle before they read; a command that writes once
/// never does, and so pays nothing for what it cannot need.
pub(crate) struct Overlay<'a, V> {
    view: &'a V,
    before: Revision,
    records: Vec<Record>,
    /// The last settled record of each key, as a place in `records`.
    latest: BTreeMap<Bytes, usize>,
    settled: usize,
}

impl<'a, V: View> Overlay<'a, V> {
    pub(crate) fn new(view: &'a V) -> Self {
        Self { view, before: view.revision(), records: Vec::new(), latest: BTreeMap::new(), settled: 0 }
    }

    /// The revision that the command has if it writes at all.
    pub(crate) fn next_revision(&self) -> Revision {
        self.before.next()
    }

    /// Adds a change. `replaces` is the put that it supersedes, if the key was live.
    pub(crate) fn push(&mut self, key: Bytes, change: Change, replaces: Option<Rev>) {
        // Records of one command live in memory together: there are far fewer than 2^32.
        let rev = Rev::new(self.next_revision(), self.records.len() as u32);
        self.records.push(Record { rev, key, change, replaces });
    }

    /// Makes everything pushed so far readable.
    pub(crate) fn settle(&mut self) {
        for (place, record) in self.records.iter().enumerate().skip(self.settled) {
            self.latest.insert(record.key.clone(), place);
        }
        self.settled = self.records.len();
    }

    pub(crate) fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// Whether a read at `at` must look at the pending records.
    fn sees_pending(&self, at: Revision) -> bool {
        debug_assert!(self.settled == self.records.len() || sabotage!(TxnReadsBefore), "settle before reading");
        at > self.before && self.settled > 0
    }

    /// The pending keys of `range`, in key order, each with what it is now.
    fn pending<'b>(&'b self, range: &KeyRange) -> impl Iterator<Item = (&'b Bytes, Option<KeyMeta>)> + use<'b, 'a, V> {
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = match range {
            KeyRange::Single(key) => (Bound::Included(key), Bound::Included(key)),
            // The map's range panics on bounds the wrong way round; an empty range at the start is empty just as well.
            KeyRange::Interval { start, end } if start >= end => (Bound::Included(start), Bound::Excluded(start)),
            KeyRange::Interval { start, end } => (Bound::Included(start), Bound::Excluded(end)),
            KeyRange::From { start } => (Bound::Included(start), Bound::Unbounded),
        };
        self.latest.range::<[u8], _>(bounds).map(|(key, &place)| (key, self.records[place].meta()))
    }
}

impl<V: View> View for Overlay<'_, V> {
    type Error = V::Error;

    fn revision(&self) -> Revision {
        if self.records.is_empty() { self.before } else { self.next_revision() }
    }

    fn compacted(&self) -> Revision {
        self.view.compacted()
    }

    fn key(&self, key: &[u8], at: Revision) -> Option<KeyMeta> {
        if self.sees_pending(at)
            && let Some(&place) = self.latest.get(key)
        {
            return self.records[place].meta();
        }
        self.view.key(key, at.min(self.before))
    }

    fn keys(&self, range: &KeyRange, at: Revision, visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>) {
        if !self.sees_pending(at) {
            return self.view.keys(range, at.min(self.before), visit);
        }
        let mut pending = self.pending(range).peekable();
        let mut flow = ControlFlow::Continue(());
        self.view.keys(range, self.before, &mut |key, meta| {
            // First the pending keys in front of this one; a pending key hides the view's.
            let mut hidden = false;
            while let Some((pending_key, now)) = pending.next_if(|(pending_key, _)| pending_key.as_ref() <= key) {
                hidden = pending_key.as_ref() == key;
                if let Some(now) = now {
                    flow = visit(pending_key, now);
                    flow?;
                }
            }
            if !hidden {
                flow = visit(key, meta);
            }
            flow
        });
        for (key, now) in pending {
            if flow.is_break() {
                return;
            }
            if let Some(now) = now {
                flow = visit(key, now);
            }
        }
    }

    fn count(&self, range: &KeyRange, at: Revision) -> i64 {
        let before = self.view.count(range, at.min(self.before));
        if !self.sees_pending(at) {
            return before;
        }
        self.pending(range).fold(before, |count, (key, now)| {
            let was_live = self.view.key(key, self.before).is_some();
            count + i64::from(now.is_some()) - i64::from(was_live)
        })
    }

    fn record(&self, rev: Rev) -> Result<Record, Self::Error> {
        if rev.main > self.before
            && let Some(record) = self.records.get(rev.sub as usize)
        {
            return Ok(record.clone());
        }
        self.view.record(rev)
    }

    fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.view.lease(id)
    }

    fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        // As before the command: no op of a transaction asks.
        self.view.lease_keys(id)
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.view.alarms()
    }

    fn versions(&self) -> ClusterVersions {
        self.view.versions()
    }

    fn auth(&self) -> Arc<AuthState> {
        self.view.auth()
    }
}
