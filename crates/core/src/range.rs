//! Reading: [`range`] at once, [`RangeCursor`] in chunks of bounded memory.

use crate::{
    KeyMeta, KeyRange, KeyValue, RangeReply, RangeRequest, Rejection, Rev, Revision, SortOrder, SortTarget, View,
};
use alloc::vec::Vec;
use bytes::Bytes;
use core::cmp::Ordering;
use core::ops::ControlFlow;
use quorate_sabotage::sabotage;

/// Reads a range. Only the records that are returned are read (all of the range if it is sorted by value).
///
/// Quirk of etcd: with a sort target other than the key, no sort order and no filter, the first `limit` + 1 keys in *key*
/// order are taken, sorted by the target, and cut to the limit.
///
/// # Errors
/// The view's, if a record could not be read. Inside: [`Rejection::FutureRevision`] and [`Rejection::Compacted`].
pub fn range<V: View>(view: &V, request: &RangeRequest) -> Result<Result<RangeReply, Rejection>, V::Error> {
    match resolve(view, request.revision) {
        Ok(at) => read(view, request, at).map(Ok),
        Err(rejection) => Ok(Err(rejection)),
    }
}

/// The revision that a read of `wanted` reads at.
fn resolve<V: View>(view: &V, wanted: Revision) -> Result<Revision, Rejection> {
    if wanted > view.revision() {
        Err(Rejection::FutureRevision)
    } else if wanted <= Revision::ZERO {
        Ok(view.revision())
    } else if wanted < view.compacted() && !sabotage!(CompactionNotRefused) {
        Err(Rejection::Compacted)
    } else {
        Ok(wanted)
    }
}

fn read<V: View>(view: &V, request: &RangeRequest, at: Revision) -> Result<RangeReply, V::Error> {
    if request.count_only {
        return Ok(RangeReply { kvs: Vec::new(), more: false, count: view.count(&request.range, at) });
    }
    let limit = limit(request);
    let sort = Sort::of(request);
    // Whatever reorders or drops keys needs all of them; else one more than the limit tells whether there are more.
    let whole = request.sort_order == SortOrder::Descend
        || (request.sort_order == SortOrder::Ascend && request.sort_target != SortTarget::Key)
        || has_filters(request);
    let hits_max = if whole { usize::MAX } else { limit.saturating_add(1) };
    let Hits { mut hits, seen } = collect(view, request, at, hits_max);
    let count = if seen < hits_max { seen as i64 } else { view.count(&request.range, at) };
    let more = hits.len() > limit;

    let kvs = match sort {
        Some(Sort { target: SortTarget::Value, descend }) => {
            let mut kvs = values(view, hits)?;
            kvs.sort_by(|a, b| directed(a.value.cmp(&b.value), descend));
            kvs.truncate(limit);
            if request.keys_only {
                kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
            }
            kvs
        }
        Some(sort) => {
            sort.apply(&mut hits);
            hits.truncate(limit);
            finish(view, request, hits)?
        }
        None => {
            hits.truncate(limit);
            finish(view, request, hits)?
        }
    };
    Ok(RangeReply { kvs, more, count })
}

/// Most keys to return.
fn limit(request: &RangeRequest) -> usize {
    match usize::try_from(request.limit) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    }
}

fn has_filters(request: &RangeRequest) -> bool {
    [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision]
        .iter()
        .any(|&revision| revision != Revision::ZERO)
}

fn passes_filters(request: &RangeRequest, meta: &KeyMeta) -> bool {
    let within = |revision: Revision, min: Revision, max: Revision| {
        (min == Revision::ZERO || revision >= min) && (max == Revision::ZERO || revision <= max)
    };
    within(meta.modified.main, request.min_mod_revision, request.max_mod_revision)
        && within(meta.create_revision, request.min_create_revision, request.max_create_revision)
}

/// A key that was found. The key itself is kept only if no record will bring it.
struct Hit {
    key: Bytes,
    meta: KeyMeta,
}

struct Hits {
    /// What passed the filters, in key order.
    hits: Vec<Hit>,
    /// How many keys were looked at.
    seen: usize,
}

/// Looks at the first `seen_max` keys of the range.
fn collect<V: View>(view: &V, request: &RangeRequest, at: Revision, seen_max: usize) -> Hits {
    let mut hits = Vec::new();
    let mut seen = 0;
    let mut take = |key: &[u8], meta: KeyMeta| {
        seen += 1;
        if passes_filters(request, &meta) {
            let key = if request.keys_only { Bytes::copy_from_slice(key) } else { Bytes::new() };
            hits.push(Hit { key, meta });
        }
        if seen == seen_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    match &request.range {
        KeyRange::Single(key) => {
            if let Some(meta) = view.key(key, at) {
                // One key: there is nothing to break off.
                let _ = take(key, meta);
            }
        }
        range @ (KeyRange::Interval { .. } | KeyRange::From { .. }) => view.keys(range, at, &mut take),
    }
    Hits { hits, seen }
}

/// Turns hits into what the client gets.
fn finish<V: View>(view: &V, request: &RangeRequest, hits: Vec<Hit>) -> Result<Vec<KeyValue>, V::Error> {
    if request.keys_only { Ok(hits.into_iter().map(Hit::without_value).collect()) } else { values(view, hits) }
}

fn values<V: View>(view: &V, hits: Vec<Hit>) -> Result<Vec<KeyValue>, V::Error> {
    hits.into_iter().map(|hit| value(view, hit.meta.modified)).collect()
}

/// The key-value that the put `rev` left behind.
///
/// # Errors
/// The view's.
///
/// # Panics
/// If the record is a delete. INVARIANT(index-names-puts): the index names the last put of each live key.
pub(crate) fn value<V: View>(view: &V, rev: Rev) -> Result<KeyValue, V::Error> {
    match view.record(rev)?.into_key_value() {
        Some(kv) => Ok(kv),
        None => unreachable!("the index names {rev} as a put, but it is a delete"),
    }
}

impl Hit {
    fn without_value(self) -> KeyValue {
        KeyValue {
            key: self.key,
            create_revision: self.meta.create_revision,
            mod_revision: self.meta.modified.main,
            version: self.meta.version,
            lease: self.meta.lease,
            value: Bytes::new(),
        }
    }
}

/// An order other than that of the keys.
struct Sort {
    target: SortTarget,
    descend: bool,
}

impl Sort {
    fn of(request: &RangeRequest) -> Option<Self> {
        let descend = match request.sort_order {
            SortOrder::None | SortOrder::Ascend => false,
            SortOrder::Descend => true,
        };
        if request.sort_target == SortTarget::Key && !descend {
            return None;
        }
        Some(Self { target: request.sort_target, descend })
    }

    /// Sorts what is in key order. The sort is stable: equals stay in key order.
    fn apply(&self, hits: &mut [Hit]) {
        let field: fn(&KeyMeta) -> i64 = match self.target {
            // Values are sorted elsewhere: they are not in the index.
            SortTarget::Key | SortTarget::Value => {
                if self.descend {
                    hits.reverse();
                }
                return;
            }
            SortTarget::Version => |meta| meta.version,
            SortTarget::Create => |meta| meta.create_revision.get(),
            SortTarget::Mod => |meta| meta.modified.main.get(),
        };
        hits.sort_by(|a, b| directed(field(&a.meta).cmp(&field(&b.meta)), self.descend));
    }
}

fn directed(ordering: Ordering, descend: bool) -> Ordering {
    if descend { ordering.reverse() } else { ordering }
}

/// Reads a range piece by piece, in key order, all at one revision. The view may be another one for each chunk, so that
/// none has to be held open between them.
///
/// Looks at range, revision, limit, `keys_only` and `count_only`. Sort order and filters need the whole range at once: ask
/// [`RangeRequest::is_streamable`] first.
#[derive(Clone, Debug)]
pub struct RangeCursor {
    request: RangeRequest,
    at: Revision,
    /// What is still to be read.
    rest: KeyRange,
    /// How many keys the limit still allows.
    left: usize,
}

/// A piece of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeChunk {
    /// The next keys, in key order.
    pub kvs: Vec<KeyValue>,
    /// There with the last chunk only.
    pub totals: Option<RangeTotals>,
}

/// What is known when a range was read to its end. As in [`RangeReply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeTotals {
    /// Whether the limit cut something off.
    pub more: bool,
    /// Keys in the range at the revision.
    pub count: i64,
}

/// Keys that a cursor looks up before it reads their records: a chunk that fills up early has not looked far in vain.
const KEYS_PER_LOOK: usize = 256;

impl RangeCursor {
    /// Pins the revision: that of the request, or the newest one of `view`.
    ///
    /// # Errors
    /// [`Rejection::FutureRevision`] and [`Rejection::Compacted`].
    pub fn new<V: View>(view: &V, request: &RangeRequest) -> Result<Self, Rejection> {
        let at = resolve(view, request.revision)?;
        let left = if request.count_only { 0 } else { limit(request) };
        Ok(Self { request: request.clone(), at, rest: request.range.clone(), left })
    }

    /// The revision that all chunks are read at.
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// The next chunk: at most `keys_max` keys (at least one, if there is one), and none after the payload has reached
    /// `bytes_max`. After the last chunk there is nothing to ask for.
    ///
    /// # Errors
    /// The view's, if a record could not be read. Inside: [`Rejection::Compacted`], if the revision was compacted since.
    pub fn next_chunk<V: View>(
        &mut self,
        view: &V,
        keys_max: usize,
        bytes_max: usize,
    ) -> Result<Result<RangeChunk, Rejection>, V::Error> {
        if self.at < view.compacted() && !sabotage!(CompactionNotRefused) {
            return Ok(Err(Rejection::Compacted));
        }
        let keys_max = keys_max.max(1);
        let mut kvs: Vec<KeyValue> = Vec::new();
        let mut bytes = 0;
        loop {
            let wanted = (keys_max - kvs.len()).min(self.left).min(KEYS_PER_LOOK);
            let (found, more) = self.look_ahead(view, wanted);
            for (key, meta) in found {
                if !kvs.is_empty() && bytes >= bytes_max {
                    return Ok(Ok(RangeChunk { kvs, totals: None }));
                }
                let kv = self.read(view, key, meta)?;
                bytes += kv.key.len() + kv.value.len();
                self.rest = self.rest.clone().after(&kv.key);
                self.left -= 1;
                kvs.push(kv);
            }
            if !more || self.left == 0 {
                let more = more && !self.request.count_only && !sabotage!(RangeLimitIgnoresMore);
                let count = view.count(&self.request.range, self.at);
                return Ok(Ok(RangeChunk { kvs, totals: Some(RangeTotals { more, count }) }));
            }
            if kvs.len() == keys_max {
                return Ok(Ok(RangeChunk { kvs, totals: None }));
            }
        }
    }

    fn read<V: View>(&self, view: &V, key: Bytes, meta: KeyMeta) -> Result<KeyValue, V::Error> {
        if self.request.keys_only { Ok(Hit { key, meta }.without_value()) } else { value(view, meta.modified) }
    }

    /// The next `wanted` keys, and whether there is one more.
    fn look_ahead<V: View>(&self, view: &V, wanted: usize) -> (Vec<(Bytes, KeyMeta)>, bool) {
        let mut found = Vec::new();
        let mut more = false;
        view.keys(&self.rest, self.at, &mut |key, meta| {
            if found.len() == wanted {
                more = true;
                return ControlFlow::Break(());
            }
            found.push((Bytes::copy_from_slice(key), meta));
            ControlFlow::Continue(())
        });
        (found, more)
    }
}

impl RangeRequest {
    /// Whether the answer is in key order and complete key by key, so that a [`RangeCursor`] can read it.
    pub fn is_streamable(&self) -> bool {
        self.sort_order == SortOrder::None && self.sort_target == SortTarget::Key && !has_filters(self)
    }
}
