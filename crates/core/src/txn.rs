//! Transactions: compare, check, run. A put or a delete on its own is one as well.
//!
//! Three steps, as in etcd. All compares, also those of nested transactions, are evaluated against the state before; this
//! settles which branches run. Then everything that could fail in these branches is checked, also against the state
//! before. Then the ops run in order, each on what the ones before it left.

use crate::apply::{Abort, Outcome};
use crate::overlay::Overlay;
use crate::range::value;
use crate::{
    Change, Compare, CompareResult, CompareTarget, DeleteRange, Delta, KeyMeta, LeaseId, Op, OpReply, Put,
    RangeRequest, Rejection, Reply, Rev, Revision, Txn, TxnReply, View, range,
};
use alloc::vec::Vec;
use bytes::Bytes;
use core::cmp::Ordering;
use core::ops::ControlFlow;
use core::slice;
use quorate_sabotage::sabotage;

pub(crate) fn apply<V: View>(view: &V, txn: &Txn) -> Outcome<(Reply, Delta), V> {
    let plan = Plan::new(view, txn)?;
    check(view, &plan)?;
    let mut overlay = Overlay::new(view);
    let reply = run(&mut overlay, &plan)?;
    Ok((Reply::Txn(reply), Delta { records: overlay.into_records(), ..Delta::default() }))
}

/// Which branch of a transaction runs, and of those nested in that branch, in order.
struct Plan<'a> {
    succeeded: bool,
    branch: &'a [Op],
    nested: Vec<Plan<'a>>,
}

impl<'a> Plan<'a> {
    fn new<V: View>(view: &V, txn: &'a Txn) -> Outcome<Self, V> {
        let succeeded = all_hold(view, &txn.compares)?;
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let mut nested = Vec::new();
        for op in branch {
            match op {
                Op::Txn(txn) => nested.push(Plan::new(view, txn)?),
                Op::Range(_) | Op::Put(_) | Op::DeleteRange(_) => {}
            }
        }
        Ok(Self { succeeded, branch, nested })
    }
}

fn all_hold<V: View>(view: &V, compares: &[Compare]) -> Outcome<bool, V> {
    for compare in compares {
        if !holds(view, compare)? {
            return Ok(false);
        }
        if sabotage!(TxnFirstCompareOnly) {
            break;
        }
    }
    Ok(true)
}

fn holds<V: View>(view: &V, compare: &Compare) -> Outcome<bool, V> {
    let field: fn(&KeyMeta) -> i64;
    let wanted = match &compare.target {
        CompareTarget::Value(wanted) => return value_holds(view, compare, wanted),
        CompareTarget::Version(version) => {
            field = |meta| meta.version;
            *version
        }
        CompareTarget::Create(revision) => {
            field = |meta| meta.create_revision.get();
            revision.get()
        }
        CompareTarget::Mod(revision) => {
            field = |meta| meta.modified.main.get();
            revision.get()
        }
        CompareTarget::Lease(lease) => {
            field = |meta| meta.lease.get();
            lease.get()
        }
    };
    let (mut found, mut holds) = (false, true);
    view.keys(&compare.range, view.revision(), &mut |_, meta| {
        found = true;
        holds = compare.result.admits(field(&meta).cmp(&wanted));
        if holds { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    // A missing key has 0 in all number fields.
    Ok(if found { holds } else { compare.result.admits(0.cmp(&wanted)) })
}

/// A value compare never holds on a missing key, not even `NotEqual`.
fn value_holds<V: View>(view: &V, compare: &Compare, wanted: &Bytes) -> Outcome<bool, V> {
    let mut revs: Vec<Rev> = Vec::new();
    view.keys(&compare.range, view.revision(), &mut |_, meta| {
        revs.push(meta.modified);
        ControlFlow::Continue(())
    });
    for rev in &revs {
        let present = value(view, *rev).map_err(Abort::View)?.value;
        if !compare.result.admits(present.cmp(wanted)) {
            return Ok(false);
        }
    }
    Ok(!revs.is_empty() || sabotage!(TxnValueCompareOnMissing))
}

impl CompareResult {
    /// Whether left and right, ordered so, are what was asked for.
    fn admits(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Greater => ordering.is_gt(),
            Self::Less => ordering.is_lt(),
            Self::NotEqual => ordering.is_ne(),
        }
    }
}

/// Everything that can be refused, before anything is written.
fn check<V: View>(view: &V, plan: &Plan<'_>) -> Result<(), Rejection> {
    let mut nested = plan.nested.iter();
    for op in plan.branch {
        match op {
            Op::Range(request) => check_revision(view, request)?,
            Op::Put(put) => check_put_state(view, put)?,
            Op::DeleteRange(_) => {}
            Op::Txn(_) => {
                if let Some(plan) = nested.next() {
                    check(view, plan)?;
                }
            }
        }
    }
    Ok(())
}

fn check_revision<V: View>(view: &V, request: &RangeRequest) -> Result<(), Rejection> {
    if request.revision == Revision::ZERO {
        Ok(())
    } else if request.revision > view.revision() {
        Err(Rejection::FutureRevision)
    } else if request.revision < view.compacted() || request.revision < Revision::ZERO {
        Err(Rejection::Compacted)
    } else {
        Ok(())
    }
}

fn check_put_state<V: View>(view: &V, put: &Put) -> Result<(), Rejection> {
    if put.lease.is_some() && view.lease(put.lease).is_none() {
        return Err(Rejection::LeaseNotFound);
    }
    if (put.ignore_value || put.ignore_lease) && view.key(&put.key, view.revision()).is_none() {
        return Err(Rejection::KeyNotFound);
    }
    Ok(())
}

fn run<V: View>(overlay: &mut Overlay<'_, V>, plan: &Plan<'_>) -> Outcome<TxnReply, V> {
    let mut nested = plan.nested.iter();
    let mut responses = Vec::with_capacity(plan.branch.len());
    for (place, op) in plan.branch.iter().enumerate() {
        if sabotage!(TxnLastOpDropped) && place > 0 && place + 1 == plan.branch.len() {
            break;
        }
        responses.push(run_op(overlay, op, &mut nested)?);
    }
    Ok(TxnReply { succeeded: plan.succeeded, responses })
}

fn run_op<V: View>(
    overlay: &mut Overlay<'_, V>,
    op: &Op,
    nested: &mut slice::Iter<'_, Plan<'_>>,
) -> Outcome<OpReply, V> {
    if !sabotage!(TxnReadsBefore) {
        overlay.settle();
    }
    match op {
        Op::Range(request) => {
            let revision = overlay.revision();
            let reply = range(&*overlay, request).map_err(Abort::View)??;
            Ok(OpReply::Range { revision, reply })
        }
        Op::Put(put) => run_put(overlay, put),
        Op::DeleteRange(delete) => run_delete(overlay, delete),
        Op::Txn(_) => match nested.next() {
            Some(plan) => Ok(OpReply::Txn(run(overlay, plan)?)),
            None => unreachable!("a plan has one nested plan for each nested transaction of its branch"),
        },
    }
}

fn run_put<V: View>(overlay: &mut Overlay<'_, V>, put: &Put) -> Outcome<OpReply, V> {
    let present = overlay.key(&put.key, overlay.revision());
    if present.is_none() && (put.ignore_value || put.ignore_lease) {
        // It was there before the transaction, but an op of the transaction has deleted it.
        return Err(Rejection::KeyNotFound.into());
    }
    let old = match present {
        Some(meta) if put.prev_kv || put.ignore_value => Some(value(overlay, meta.modified).map_err(Abort::View)?),
        Some(_) | None => None,
    };
    let new_value = match &old {
        Some(old) if put.ignore_value && !sabotage!(TxnIgnoreValueClears) => old.value.clone(),
        Some(_) | None => put.value.clone(),
    };
    let revision = overlay.next_revision();
    let change = Change::Put {
        create_revision: present.filter(|_| !sabotage!(TxnCreateMoves)).map_or(revision, |meta| meta.create_revision),
        version: present.map_or(1, |meta| meta.version + i64::from(!sabotage!(TxnVersionStays))),
        lease: if put.ignore_lease { present.map_or(LeaseId::NONE, |meta| meta.lease) } else { put.lease },
        value: new_value,
    };
    overlay.push(put.key.clone(), change, present.map(|meta| meta.modified));
    Ok(OpReply::Put { revision, prev_kv: old.filter(|_| put.prev_kv && !sabotage!(TxnPrevKvMissing)) })
}

fn run_delete<V: View>(overlay: &mut Overlay<'_, V>, delete: &DeleteRange) -> Outcome<OpReply, V> {
    let mut doomed: Vec<(Bytes, Rev)> = Vec::new();
    overlay.keys(&delete.range, overlay.revision(), &mut |key, meta| {
        doomed.push((Bytes::copy_from_slice(key), meta.modified));
        ControlFlow::Continue(())
    });
    if sabotage!(DeleteRangeStops) && doomed.len() > 1 {
        doomed.pop();
    }
    let mut prev_kvs = Vec::new();
    if delete.prev_kv {
        for (_, rev) in &doomed {
            prev_kvs.push(value(overlay, *rev).map_err(Abort::View)?);
        }
    }
    let deleted = doomed.len() as i64;
    for (key, rev) in doomed {
        overlay.push(key, Change::Delete, Some(rev));
    }
    // A delete of nothing takes no revision by itself, but shares that of the transaction if it has one already.
    Ok(OpReply::DeleteRange { revision: overlay.revision(), deleted, prev_kvs })
}
