//! What [`apply`](crate::apply) and [`range`](crate::range) read. Storage implements it; tests have a naive one.

use crate::{Alarm, AuthState, ClusterVersions, KeyMeta, KeyRange, Lease, LeaseId, Record, Rev, Revision};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

/// A consistent read of one keyspace. Revisions between `compacted()` and `revision()` can be asked for.
pub trait View {
    /// Why a record could not be read: the disk, or corruption. Never a client's fault.
    type Error;

    /// The newest revision.
    fn revision(&self) -> Revision;

    /// The oldest revision that may be read (0 if nothing was compacted yet).
    fn compacted(&self) -> Revision;

    /// The key as of `at`, if it was live.
    fn key(&self, key: &[u8], at: Revision) -> Option<KeyMeta>;

    /// Visits the keys of `range` that were live at `at`, in key order, until `visit` breaks.
    fn keys(&self, range: &KeyRange, at: Revision, visit: &mut dyn FnMut(&[u8], KeyMeta) -> ControlFlow<()>);

    /// Counts the keys of `range` that were live at `at`.
    fn count(&self, range: &KeyRange, at: Revision) -> i64 {
        let mut count = 0;
        self.keys(range, at, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        count
    }

    /// The record that `rev` names. Only asked for records that the index says exist: that it is missing is an error.
    fn record(&self, rev: Rev) -> Result<Record, Self::Error>;

    /// The lease, if granted.
    fn lease(&self, id: LeaseId) -> Option<Lease>;

    /// The keys on a lease, sorted.
    fn lease_keys(&self, id: LeaseId) -> Vec<Bytes>;

    /// The alarms that are raised, sorted.
    fn alarms(&self) -> Vec<Alarm>;

    /// What the members have agreed on about versions.
    fn versions(&self) -> ClusterVersions;

    /// Users, roles, and whether permissions are asked for.
    fn auth(&self) -> Arc<AuthState>;
}
