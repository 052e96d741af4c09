//! Locks: at most one session at a time holds a name.

use crate::session::{Place, Session};
use crate::{Compare, Error};

impl Session {
    /// Waits until this call holds the lock `name`, for as long as the session lives. Every call queues up for itself, in
    /// the order of arrival; another one of the same session waits, too.
    ///
    /// Dropping the future gives the place in the queue up.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when the session is lost; [`Error::Rejected`] if the server refuses.
    pub async fn lock(&self, name: impl Into<Vec<u8>>) -> Result<LockGuard, Error> {
        Ok(LockGuard { place: Place::first(&self.shared, name.into(), Vec::new()).await? })
    }
}

/// A lock that is held. It ends with [`unlock`](LockGuard::unlock), when it is dropped (in the background), or with its
/// session.
///
/// A process that was stopped for longer than the time to live does not know that it has lost the lock, and nor does a
/// disk or a printer that it uses. So give [`token`](LockGuard::token) along with what you do, and have the other side
/// refuse what comes with a smaller one than it has seen; for keys of the same cluster, add
/// [`is_held`](LockGuard::is_held) to the transaction that writes them.
#[derive(Debug)]
pub struct LockGuard {
    place: Place,
}

impl LockGuard {
    /// The key that stands for the lock while it is held.
    pub fn key(&self) -> &[u8] {
        self.place.key()
    }

    /// The fencing token: greater than that of everybody who held this lock before.
    pub fn token(&self) -> i64 {
        self.place.revision()
    }

    /// The condition that this lock is still held, for a [`Txn`](crate::Txn).
    pub fn is_held(&self) -> Compare {
        self.place.is_held()
    }

    /// Waits until the session is lost, and with it the lock; tells why.
    pub async fn lost(&self) -> Error {
        self.place.session().lost().await
    }

    /// Gives the lock up.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the server refuses. While no endpoint answers it waits, until the session is lost.
    pub async fn unlock(self) -> Result<(), Error> {
        self.place.give_up().await
    }
}
