//! Makes room while the log is applied again at a start. The upkeep, which does that later, needs a group that runs.
//!
//! Without it a log that holds more than the tail may would stop its own replay for good.

use super::GroupState;
use super::upkeep::DRAIN_BYTES;
use crate::Error;
use crate::env::Env;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Drains until it is dropped.
pub(super) struct ReplayDrain {
    _running: oneshot::Sender<Infallible>,
}

impl ReplayDrain {
    pub(super) fn start(env: &dyn Env, state: Arc<GroupState>) -> Self {
        let (running, dropped) = oneshot::channel();
        env.spawn_dedicated("quorate-replay", Box::pin(run(state, dropped)));
        Self { _running: running }
    }
}

async fn run(state: Arc<GroupState>, mut dropped: oneshot::Receiver<Infallible>) {
    loop {
        while state.store.tail_is_full() {
            let drained = state.store.drain(DRAIN_BYTES);
            if let Err(error) = drained {
                state.fail(Error::Fatal(error.to_string()));
                state.room.notify_waiters();
                return;
            }
            state.room.notify_waiters();
        }
        // Whoever waits for room says so first, and the word is kept until it is heard here.
        tokio::select! {
            _ = &mut dropped => break,
            () = state.drain_news.notified() => {}
        }
    }
    // What it was told last is for the upkeep.
    state.drain_news.notify_one();
}
