//! Hashing this member's history, in steps, on a thread of its own.

use crate::Error;
use crate::env::Env;
use crate::error::storage_error;
use quorate_core::Revision;
use quorate_storage::{HashKv, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Records between two looks at the clock.
const STEP_RECORDS: usize = 2000;

/// A gentle hash rests this many times as long as it works: it takes a quarter of one core.
const REST: u32 = 3;

/// How long a hash is gentle. It holds up the removal of what was compacted, and so must come to an end.
const GENTLE_MAX: Duration = Duration::from_secs(120);

/// Hashes what one store holds. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hashing {
    env: Arc<dyn Env>,
    store: Arc<Store>,
    /// Requests that read everything: a few at a time.
    heavy: Arc<Semaphore>,
}

impl Hashing {
    /// `heavy` bounds how many hashes, and what else reads everything, run at once.
    pub(crate) fn new(env: Arc<dyn Env>, store: Arc<Store>, heavy: Arc<Semaphore>) -> Self {
        Self { env, store, heavy }
    }

    /// The store that is hashed.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Hashes the history up to `revision` (0: the newest) as fast as it goes.
    ///
    /// # Errors
    /// The revision is compacted or not there yet; too many hashes are under way; the disk fails.
    pub(crate) async fn at_once(&self, revision: Revision) -> Result<HashKv, Error> {
        let permit = self.heavy.clone().try_acquire_owned().map_err(|_| Error::TooManyHeavy)?;
        self.run(revision, permit, Duration::ZERO).await
    }

    /// The same with pauses, so that others have the processor and the disk. Waits for its turn.
    pub(crate) async fn gently(&self, revision: Revision) -> Result<HashKv, Error> {
        let permit = self.heavy.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        self.run(revision, permit, GENTLE_MAX).await
    }

    async fn run(&self, revision: Revision, permit: OwnedSemaphorePermit, gentle: Duration) -> Result<HashKv, Error> {
        let mut hasher = self.store.hasher(revision).map_err(storage_error)?;
        let (sender, receiver) = oneshot::channel();
        let env = self.env.clone();
        let task = async move {
            let _permit = permit;
            let start = env.monotonic();
            let outcome = loop {
                let began = env.monotonic();
                match hasher.step(STEP_RECORDS) {
                    Ok(Some(hash)) => break Ok(hash),
                    Err(error) => break Err(storage_error(error)),
                    Ok(None) if sender.is_closed() => return,
                    Ok(None) => {}
                }
                let now = env.monotonic();
                if now - start < gentle {
                    tokio::time::sleep((now - began) * REST).await;
                }
            };
            // Whoever asked may have given up.
            let _ = sender.send(outcome);
        };
        self.env.spawn_dedicated("quorate-hash", Box::pin(task));
        receiver.await.map_err(|_| Error::Stopped)?
    }
}
