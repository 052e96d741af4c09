//! What can be refused without looking at the state: checked once, before a request is proposed.

use crate::{DeleteRange, KeyRange, Op, Put, RangeRequest, Rejection, Txn};
use alloc::collections::{BTreeMap, BTreeSet};
use core::ops::Bound;

/// How deep transactions may be nested. Bounds recursion; the wire format of etcd's clients ends before.
pub const TXN_DEPTH_MAX: usize = 64;

/// Checks a read.
///
/// # Errors
/// [`Rejection::EmptyKey`].
pub fn check_range(request: &RangeRequest) -> Result<(), Rejection> {
    check_key(&request.range)
}

/// Checks a put.
///
/// # Errors
/// [`Rejection::EmptyKey`], [`Rejection::ValueProvided`], [`Rejection::LeaseProvided`].
pub fn check_put(put: &Put) -> Result<(), Rejection> {
    if put.key.is_empty() {
        Err(Rejection::EmptyKey)
    } else if put.ignore_value && !put.value.is_empty() {
        Err(Rejection::ValueProvided)
    } else if put.ignore_lease && put.lease.is_some() {
        Err(Rejection::LeaseProvided)
    } else {
        Ok(())
    }
}

/// Checks a delete.
///
/// # Errors
/// [`Rejection::EmptyKey`].
pub fn check_delete(delete: &DeleteRange) -> Result<(), Rejection> {
    check_key(&delete.range)
}

/// Checks a transaction: sizes, then each compare and op, then that no branch writes a key twice. `ops_max` bounds each
/// list; a nested transaction has what the longest list of the outer one left of it.
///
/// # Errors
/// [`Rejection::TooManyOps`] (also beyond [`TXN_DEPTH_MAX`]), [`Rejection::DuplicateKey`], and those of the ops.
pub fn check_txn(txn: &Txn, ops_max: usize) -> Result<(), Rejection> {
    check_ops(txn, ops_max, TXN_DEPTH_MAX)?;
    Writes::of(&txn.success)?;
    Writes::of(&txn.failure)?;
    Ok(())
}

fn check_key(range: &KeyRange) -> Result<(), Rejection> {
    if range.start().is_empty() { Err(Rejection::EmptyKey) } else { Ok(()) }
}

fn check_ops(txn: &Txn, ops_max: usize, depth_left: usize) -> Result<(), Rejection> {
    let longest = txn.compares.len().max(txn.success.len()).max(txn.failure.len());
    let Some(ops_left) = ops_max.checked_sub(longest) else { return Err(Rejection::TooManyOps) };
    let Some(depth_left) = depth_left.checked_sub(1) else { return Err(Rejection::TooManyOps) };
    for compare in &txn.compares {
        check_key(&compare.range)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(request) => check_range(request)?,
            Op::Put(put) => check_put(put)?,
            Op::DeleteRange(delete) => check_delete(delete)?,
            Op::Txn(nested) => check_ops(nested, ops_left, depth_left)?,
        }
    }
    Ok(())
}

/// The keys that a list of ops may write.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

impl<'a> Writes<'a> {
    /// Collects them, in etcd's order: deletes of this list, then nested transactions, then puts of this list. The order
    /// matters: a put in a nested transaction collides with deletes of nested ones before it, not with those after it.
    fn of(ops: &'a [Op]) -> Result<Self, Rejection> {
        let mut writes = Self::default();
        for op in ops {
            if let Op::DeleteRange(delete) = op {
                writes.deletes.insert(&delete.range);
            }
        }
        for op in ops {
            if let Op::Txn(nested) = op {
                let success = Self::of(&nested.success)?;
                let failure = Self::of(&nested.failure)?;
                for key in &success.puts {
                    writes.put(key)?;
                }
                // Only one of the two branches runs: a key may be in both.
                for key in failure.puts.difference(&success.puts) {
                    writes.put(key)?;
                }
                writes.deletes.append(success.deletes);
                writes.deletes.append(failure.deletes);
            }
        }
        for op in ops {
            if let Op::Put(put) = op {
                writes.put(&put.key)?;
            }
        }
        Ok(writes)
    }

    fn put(&mut self, key: &'a [u8]) -> Result<(), Rejection> {
        if self.deletes.contains(key) || !self.puts.insert(key) { Err(Rejection::DuplicateKey) } else { Ok(()) }
    }
}

/// A set of deleted keys and intervals.
#[derive(Default)]
struct Deletes<'a> {
    keys: BTreeSet<&'a [u8]>,
    /// Disjoint intervals: start to end.
    intervals: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Deletes<'a> {
    fn insert(&mut self, range: &'a KeyRange) {
        match range {
            KeyRange::Single(key) => {
                self.keys.insert(key);
            }
            KeyRange::Interval { start, end } => self.insert_interval(start, end),
            // Quirk of etcd: it takes the wire's "\0" for a plain end here, so the interval is empty and collides with
            // nothing.
            KeyRange::From { .. } => {}
        }
    }

    fn insert_interval(&mut self, mut start: &'a [u8], mut end: &'a [u8]) {
        if start >= end {
            return;
        }
        // Swallow every interval that overlaps or touches: those that begin at or before the end, from the last one back.
        while let Some((&other_start, &other_end)) = self.intervals.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.intervals.remove(other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.intervals.insert(start, end);
    }

    fn append(&mut self, mut other: Self) {
        self.keys.append(&mut other.keys);
        for (start, end) in other.intervals {
            self.insert_interval(start, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        let covered = self.intervals.range::<[u8], _>(up_to_key).next_back().is_some_and(|(_, &end)| key < end);
        covered || self.keys.contains(key)
    }
}
