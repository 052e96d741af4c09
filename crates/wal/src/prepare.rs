//! The preparer: keeps a zero-filled file ready for the next segment, and recycles or removes the ones that were freed.
//! The log works without it (the writer then makes its own files, and freed ones stay); with it, the writer writes into
//! space that is already allocated.
//!
//! It never touches the segment that is being written: an fsync reports a failed write-back once, and here it would
//! take the report away from the writer.

use crate::error::WalError;
use crate::segment::{Chore, Segment, Spare};
use crate::shared::Shared;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// The task that works ahead of the writer. Made by [`Wal::open`](crate::Wal::open); does blocking IO inline, in steps
/// of 1 MiB, spawns nothing and needs no timer.
pub struct Preparer {
    shared: Arc<Shared>,
}

impl Preparer {
    pub(crate) fn new(shared: Arc<Shared>) -> Preparer {
        Preparer { shared }
    }

    /// Works until the log is closed or stopped.
    pub async fn run(self) {
        loop {
            let done = match self.shared.yard.next_chore(self.shared.options.segment_bytes) {
                Chore::Stop => return,
                Chore::Wait => {
                    self.shared.yard.changed().await;
                    Ok(())
                }
                Chore::Free(segment) => self.free(segment),
                Chore::Spare(spare) => self.make_spare(spare).await,
            };
            match done {
                Ok(()) => {}
                // The writer will say so when it needs the space itself; until then this is a warning for the node.
                Err(WalError::NoSpace { .. }) => self.shared.metrics.set_short_of_space(true),
                Err(error) => {
                    self.shared.stop(error);
                    return;
                }
            }
        }
    }

    /// Recycles the segment's file if there is use for one more, else removes it. Its name goes durably before the next
    /// one's: segments vanish from the oldest on, never with a gap.
    fn free(&self, segment: Arc<Segment>) -> Result<(), WalError> {
        let Shared { options, disk, yard, .. } = &*self.shared;
        let allocated_to =
            segment.file.len().map_err(|error| WalError::io("read the length of", &segment.path, error))?;
        let wanted = yard.spares() < options.recycled_segments_max && allocated_to <= options.segment_bytes;
        // A reader that holds the segment still reads from it, so its file must not get new content.
        match Arc::try_unwrap(segment) {
            Ok(segment) if wanted => {
                let path = yard.next_spare_path(&options.dir);
                disk.rename(&segment.path, &path).map_err(|error| WalError::io("rename", &segment.path, error))?;
                self.shared.sync_dir()?;
                yard.put_spare(Spare { path, file: segment.file, allocated_to });
                Ok(())
            }
            Ok(Segment { path, .. }) => self.remove(&path),
            Err(shared) => self.remove(&shared.path),
        }
    }

    fn remove(&self, path: &std::path::Path) -> Result<(), WalError> {
        self.shared.disk.remove(path).map_err(|error| WalError::io("remove", path, error))?;
        self.shared.sync_dir()
    }

    /// Fills a spare with zeros to the size of a segment, durably, one step at a time.
    async fn make_spare(&self, spare: Option<Spare>) -> Result<(), WalError> {
        let mut spare = match spare {
            Some(spare) => spare,
            None => self.shared.create_spare()?,
        };
        let mut outcome = Ok(());
        let Shared { options, yard, .. } = &*self.shared;
        while outcome.is_ok() && spare.allocated_to < options.segment_bytes && !yard.is_closed() {
            outcome = self.shared.zero_step(&spare.path, &*spare.file, spare.allocated_to).and_then(|to| {
                spare.allocated_to = to;
                let synced = if options.no_fsync { Ok(()) } else { spare.file.sync_data() };
                synced.map_err(|error| WalError::sync(&spare.path, error))
            });
            yield_once().await;
        }
        yard.put_spare(spare);
        if outcome.is_ok() {
            self.shared.metrics.set_short_of_space(false);
        }
        outcome
    }
}

/// Lets the other tasks of the thread run, where there are any.
async fn yield_once() {
    let mut yielded = false;
    let mut once = pin!(std::future::poll_fn(move |context| {
        if std::mem::replace(&mut yielded, true) {
            Poll::Ready(())
        } else {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }));
    once.as_mut().await;
}
