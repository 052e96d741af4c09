//! Leases as replicated state: granted, checkpointed, revoked. Deadlines are not known here.

use crate::apply::{Abort, Outcome, system};
use crate::overlay::Overlay;
use crate::{Change, Delta, Lease, LeaseId, Rejection, Reply, SystemChange, View};
use alloc::vec;
use alloc::vec::Vec;
use quorate_sabotage::sabotage;

/// Longest time to live of a lease, in seconds.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

pub(crate) fn grant<V: View>(view: &V, id: LeaseId, ttl_seconds: i64) -> Result<(Reply, Delta), Rejection> {
    if !id.is_some() {
        return Err(Rejection::LeaseNotFound);
    }
    if ttl_seconds > LEASE_TTL_SECONDS_MAX {
        return Err(Rejection::LeaseTtlTooLarge);
    }
    if view.lease(id).is_some() {
        return Err(Rejection::LeaseExists);
    }
    let lease = Lease { id, ttl_seconds, remaining_ttl_seconds: 0 };
    Ok((Reply::LeaseGrant { id, ttl_seconds }, system(SystemChange::LeaseSet(lease))))
}

/// Deletes the lease and its keys, all in one revision, in key order. A lease without keys takes no revision.
pub(crate) fn revoke<V: View>(view: &V, id: LeaseId) -> Outcome<(Reply, Delta), V> {
    if view.lease(id).is_none() {
        return Err(Abort::Rejected(Rejection::LeaseNotFound));
    }
    let mut overlay = Overlay::new(view);
    let mut keys = view.lease_keys(id);
    if sabotage!(LeaseRevokeKeepsKey) && keys.len() > 1 {
        keys.pop();
    }
    for key in keys {
        // The table of attached keys follows from the records, so a key on the lease is live.
        if let Some(meta) = view.key(&key, view.revision()) {
            overlay.push(key, Change::Delete, Some(meta.modified));
        }
    }
    let delta = Delta { records: overlay.into_records(), compacted: None, system: vec![SystemChange::LeaseRemove(id)] };
    Ok((Reply::LeaseRevoke, delta))
}

/// Remembers what leases have left. A lease that is gone by now is skipped: its revoke was under way as well.
pub(crate) fn checkpoint<V: View>(view: &V, remaining: &[(LeaseId, i64)]) -> (Reply, Delta) {
    let system: Vec<SystemChange> = remaining
        .iter()
        .filter_map(|&(id, remaining_ttl_seconds)| {
            let lease = view.lease(id)?;
            Some(SystemChange::LeaseSet(Lease { remaining_ttl_seconds, ..lease }))
        })
        .collect();
    (Reply::LeaseCheckpoint, Delta { system, ..Delta::default() })
}
