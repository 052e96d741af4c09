//! [`ReadView`]: a consistent read at a revision. Cheap: it copies nothing, it only keeps compaction from removing what it
//! may read.

use crate::index::History;
use crate::store::Body;
use crate::tail::TailRecord;
use crate::{Result, StorageError, rows};
use bytes::Bytes;
use quorate_core::{Alarm, AuthState, ClusterVersions, KeyMeta, KeyRange, Lease, LeaseId, Record, Rev, Revision, View};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Keys that one look at the index takes with it. The first look takes few, because most reads want few, and each one
/// twice as many as the one before.
const KEYS_PER_LOOK_FIRST: usize = 32;
const KEYS_PER_LOOK_MAX: usize = 512;
/// Keys that are counted under one lock.
const KEYS_PER_COUNT: usize = 4096;
/// Records and bytes that one look at the engine takes with it.
const RECORDS_PER_LOOK: usize = 256;
const BYTES_PER_LOOK: usize = 1 << 20;

/// Reads between [`View::compacted`] and [`View::revision`], for as long as it lives. Leases and alarms have no revisions:
/// they are as of now.
pub struct ReadView {
    body: Arc<Body>,
    revision: Revision,
    /// Pinned: compaction does not go beyond while this view lives.
    oldest: Revision,
}

impl ReadView {
    /// `oldest` is pinned already.
    pub(crate) fn new(body: Arc<Body>, revision: Revision, oldest: Revision) -> Self {
        Self { body, revision, oldest }
    }

    /// Visits the records of revisions `from` to `to` (both included), in order, until `visit` breaks. `from` must be a
    /// revision that this view can read. A record that is missing is found, and is an error.
    pub fn scan_records(
        &self,
        from: Revision,
        to: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<()> {
        if from < self.oldest {
            return Err(StorageError::Rejected(quorate_core::Rejection::Compacted));
        }
        self.body.scan(from, to.min(self.revision), self.oldest, visit)
    }

    pub(crate) fn body(&self) -> &Body {
        &self.body
    }
}

impl Drop for ReadView {
    fn drop(&mut self) {
        self.body.unpin(self.oldest);
    }
}

impl View for ReadView {
    type Error = StorageError;

    fn revision(&self) -> Revision {
        self.revision
    }

    fn compacted(&self) -> Revision {
        self.oldest
    }

    fn key(&self, key: &[u8], at: Revision) -> Option<KeyMeta> {
        self.body.key(key, at)
    }

    fn keys(&self, range: &KeyRange, at: Revision, visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>) {
        self.body.keys(range, at, visit);
    }

    fn count(&self, range: &KeyRange, at: Revision) -> i64 {
        self.body.count(range, at)
    }

    fn record(&self, rev: Rev) -> Result<Record> {
        self.body.record(rev)
    }

    fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.body.system.read().tables.leases.get(&id).copied()
    }

    fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        self.body.system.read().attachments.keys(id)
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.body.system.read().tables.alarms.iter().copied().collect()
    }

    fn versions(&self) -> ClusterVersions {
        self.body.system.read().tables.versions
    }

    fn auth(&self) -> Arc<AuthState> {
        self.body.system.read().tables.auth.clone()
    }
}

/// Checks that a scan meets every record of the revisions above `oldest`, without a hole. Below, compaction has left
/// holes that are right.
pub(crate) struct Density {
    /// The record that must come next, unless a revision has just ended.
    next: Rev,
    after_last: bool,
    oldest: Revision,
}

impl Density {
    pub(crate) fn new(from: Revision, oldest: Revision) -> Self {
        Self { next: Rev::new(from.max(oldest.next()).max(Revision::INITIAL.next()), 0), after_last: true, oldest }
    }

    pub(crate) fn step(&mut self, rev: Rev, last: bool) -> bool {
        if rev.main <= self.oldest {
            return true;
        }
        let expected = rev == self.next;
        self.next = if last { Rev::new(rev.main.next(), 0) } else { Rev::new(rev.main, rev.sub + 1) };
        self.after_last = last;
        expected
    }

    /// Whether nothing is missing up to the end of revision `to`.
    pub(crate) fn ends_at(&self, to: Revision) -> bool {
        self.after_last && self.next.main > to
    }
}

impl Body {
    pub(crate) fn key(&self, key: &[u8], at: Revision) -> Option<KeyMeta> {
        self.index.read().meta(key, at)
    }

    pub(crate) fn keys(
        &self,
        range: &KeyRange,
        at: Revision,
        visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>,
    ) {
        if let KeyRange::Single(key) = range {
            if let Some(meta) = self.key(key, at) {
                let _ = visit(key, meta);
            }
            return;
        }
        self.histories(range, &mut |history| history.at(at).and_then(|version| version.meta()), visit);
    }

    /// Visits what `look` returns of the keys in `range`. Takes keys along in bounded numbers and visits them without the
    /// lock, so that writers wait for a short copy only, and `visit` may read through this view.
    pub(crate) fn histories<T>(
        &self,
        range: &KeyRange,
        look: &mut dyn FnMut(&History) -> Option<T>,
        visit: &mut dyn FnMut(&[u8], T) -> ControlFlow<()>,
    ) {
        let mut keys = Vec::new();
        let mut found = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        let mut count = KEYS_PER_LOOK_FIRST;
        loop {
            keys.clear();
            let mut seen = 0;
            let mut last = None;
            {
                let index = self.index.read();
                for (key, history) in index.range(range, after.as_deref()).take(count) {
                    seen += 1;
                    last = Some(key);
                    if let Some(value) = look(history) {
                        keys.extend_from_slice(key);
                        found.push((keys.len(), value));
                    }
                }
                let last = last.map(<[u8]>::to_vec);
                after = last.or(after);
            }
            let mut start = 0;
            for (end, value) in found.drain(..) {
                if visit(&keys[start..end], value).is_break() {
                    return;
                }
                start = end;
            }
            if seen < count {
                return;
            }
            count = (count * 2).min(KEYS_PER_LOOK_MAX);
        }
    }

    pub(crate) fn count(&self, range: &KeyRange, at: Revision) -> i64 {
        let mut after: Option<Vec<u8>> = None;
        let mut live = 0;
        loop {
            let index = self.index.read();
            let mut seen = 0;
            let mut last = None;
            for (key, history) in index.range(range, after.as_deref()).take(KEYS_PER_COUNT) {
                seen += 1;
                last = Some(key);
                live += i64::from(history.at(at).is_some_and(|version| version.meta().is_some()));
            }
            let last = last.map(<[u8]>::to_vec);
            if seen < KEYS_PER_COUNT {
                return live;
            }
            after = last;
        }
    }

    /// The record that the index says is there.
    pub(crate) fn record(&self, rev: Rev) -> Result<Record> {
        let missing = || rows::corrupt(&self.keys.record(rev), "the record must exist and is missing");
        let found = self.find(rev)?;
        self.suspect(found.ok_or_else(missing))
    }

    /// The record, if it is there.
    pub(crate) fn find(&self, rev: Rev) -> Result<Option<Record>> {
        // In this order: the drain writes to the engine before it takes off the tail.
        if let Some(record) = self.tail.read().get(rev) {
            return Ok(Some(record));
        }
        if let Some(record) = self.cache.get(rev) {
            return Ok(Some(record));
        }
        let key = self.keys.record(rev);
        let Some(row) = self.suspect(self.engine.get(&key).map_err(Into::into))? else { return Ok(None) };
        let (record, _) = self.suspect(rows::decode_record(&key, rev, &row))?;
        self.cache.insert(record.clone());
        Ok(Some(record))
    }

    /// The records of `from..=to`, each revision above `oldest` complete.
    pub(crate) fn scan(
        &self,
        from: Revision,
        to: Revision,
        oldest: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut density = Density::new(from, oldest);
        let mut cursor = Rev::new(from, 0);
        while cursor.main <= to {
            let chunk = self.look(cursor, to)?;
            let Some(end) = chunk.last().map(|entry| entry.record.rev) else { break };
            for TailRecord { record, last } in chunk {
                if !density.step(record.rev, last) {
                    return self.suspect(Err(self.hole(record.rev)));
                }
                if visit(record).is_break() {
                    return Ok(());
                }
            }
            cursor = Rev::new(end.main, end.sub + 1);
        }
        if to > oldest && to >= from && to > Revision::INITIAL && !density.ends_at(to) {
            return self.suspect(Err(self.hole(density.next)));
        }
        Ok(())
    }

    fn hole(&self, rev: Rev) -> StorageError {
        rows::corrupt(&self.keys.record(rev), "a record at or before this one is missing")
    }

    /// The next records from `cursor` on, from engine or tail; none if there are no more up to `to`.
    pub(crate) fn look(&self, cursor: Rev, to: Revision) -> Result<Vec<TailRecord>> {
        loop {
            let tail_first = {
                let tail = self.tail.read();
                match tail.first_rev() {
                    Some(first) if first <= cursor => return Ok(tail.range(cursor, to, RECORDS_PER_LOOK)),
                    first => first,
                }
            };
            let chunk = self.suspect(self.look_in_engine(cursor, to))?;
            if !chunk.is_empty() {
                return Ok(chunk);
            }
            let tail = self.tail.read();
            if tail.first_rev() == tail_first {
                return Ok(tail.range(cursor, to, RECORDS_PER_LOOK));
            }
            // A drain has moved records to the engine meanwhile: look there again.
        }
    }

    pub(crate) fn look_in_engine(&self, cursor: Rev, to: Revision) -> Result<Vec<TailRecord>> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        let mut failure = None;
        let (start, end) = (self.keys.record(cursor), self.keys.record(Rev::new(to.next(), 0)));
        self.engine.scan(&start, &end, &mut |key, row| {
            let Some(rev) = crate::keys::Keys::rev_of(key) else {
                failure = Some(rows::corrupt(key, "the row's key is not one of a record"));
                return ControlFlow::Break(());
            };
            match rows::decode_record(key, rev, &Bytes::copy_from_slice(row)) {
                Ok((record, last)) => chunk.push(TailRecord { record, last }),
                Err(error) => {
                    failure = Some(error);
                    return ControlFlow::Break(());
                }
            }
            bytes += row.len();
            if chunk.len() == RECORDS_PER_LOOK || bytes >= BYTES_PER_LOOK {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        match failure {
            Some(error) => Err(error),
            None => Ok(chunk),
        }
    }
}
