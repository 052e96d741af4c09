//! Makes room while the log is applied again at a start. The upkeep, which does that later, needs a group that runs.
//!
//! Without it a log that holds more than the tail may would stop its own replay for good.

use super::GroupState;
use crate::Error;
use crate::env::Env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Bytes of records in one engine batch.
const DRAIN_BYTES: usize = 4 << 20;

/// How often it looks whether the tail is full, beside being told.
const LOOK: Duration = Duration::from_millis(10);

/// Drains until it is dropped.
pub(super) struct ReplayDrain {
    stop: Arc<Stop>,
}

#[derive(Default)]
struct Stop {
    set: AtomicBool,
    news: Notify,
}

impl ReplayDrain {
    pub(super) fn start(env: &dyn Env, state: Arc<GroupState>) -> Self {
        let stop = Arc::new(Stop::default());
        env.spawn_dedicated("quorate-replay", Box::pin(run(state, stop.clone())));
        Self { stop }
    }
}

impl Drop for ReplayDrain {
    fn drop(&mut self) {
        self.stop.set.store(true, Ordering::Release);
        self.stop.news.notify_one();
    }
}

async fn run(state: Arc<GroupState>, stop: Arc<Stop>) {
    while !stop.set.load(Ordering::Acquire) {
        while state.store.tail_is_full() {
            let drained = state.store.drain(DRAIN_BYTES);
            if let Err(error) = drained {
                state.fail(Error::Fatal(error.to_string()));
                state.room.notify_waiters();
                return;
            }
            state.room.notify_waiters();
        }
        tokio::select! {
            () = stop.news.notified() => {}
            () = state.drain_news.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    // What it was told last is for the upkeep.
    state.drain_news.notify_one();
}
