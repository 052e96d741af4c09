//! Watchers: what they ask for, and what they note.

use super::Worker;
use crate::client::{Rpc, event, range_of, seen};
use crate::history::Watched;
use crate::library::{self, Library, watching};
use crate::random::Random;
use parking_lot::Mutex;
use quorate_client::{Batch, Error, WatchOptions};
use quorate_core::Revision;
use quorate_node::{WatchControl, WatchCreate, WatchMessage, WatchStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How a watcher looks at what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gaze {
    /// At once.
    Steady,
    /// With short pauses, and a long one now and then.
    Wandering,
    /// With long pauses, while its member can send it hardly anything.
    Absent,
}

impl Gaze {
    /// Messages that may be under way to the client.
    fn window(self) -> usize {
        match self {
            Gaze::Steady | Gaze::Wandering => 8,
            Gaze::Absent => 1,
        }
    }

    /// How long it looks away, at most, in milliseconds.
    fn pause_ms(self, random: &mut Random) -> u64 {
        match self {
            Gaze::Steady => 0,
            // Some look away for so long that everything else happens meanwhile.
            Gaze::Wandering if random.chance(50) => 2800,
            Gaze::Wandering => 300,
            Gaze::Absent => *random.pick(&[0, 1500, 6000]),
        }
    }
}

/// A watcher that hears nothing for so long tries another member.
const WATCH_PATIENCE: Duration = Duration::from_secs(3);

/// A watch that a member has taken up.
struct Open {
    control: WatchControl,
    messages: mpsc::Receiver<WatchMessage>,
    /// Whether it asked for what was there before.
    prev_kv: bool,
}

impl Worker {
    fn any_machine(&mut self) -> usize {
        self.random.below(self.machines as u64) as usize
    }

    async fn look_away(&mut self, gaze: Gaze) {
        if gaze != Gaze::Steady {
            let longest = gaze.pause_ms(&mut self.random);
            let pause = self.random.millis(0, longest);
            tokio::time::sleep(pause).await;
        }
    }

    /// Watches `watched`'s span over all disconnections until the end.
    pub async fn watch(mut self, watched: Arc<Mutex<Watched>>, gaze: Gaze) {
        if let Some(library) = self.rpc.library.clone() {
            return self.follow(&library, &watched, gaze).await;
        }
        let mut member = self.any_machine();
        let mut next = watched.lock().from;
        while !self.stop.is_set() {
            let created = self.open(member, &watched, next, gaze).await;
            if let Some(Open { control, mut messages, prev_kv }) = created {
                while !self.stop.is_set() {
                    let message = tokio::time::timeout(WATCH_PATIENCE, messages.recv()).await;
                    let Ok(Some(message)) = message else { break };
                    if !note(&self.rpc, &watched, &mut next, message, prev_kv) {
                        break;
                    }
                    self.look_away(gaze).await;
                    if self.random.chance(50) {
                        control.request_progress();
                    }
                    // Now and then a client goes away and comes back.
                    if self.random.chance(10) {
                        break;
                    }
                }
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            member = self.any_machine();
        }
    }

    /// The same with the client library, which takes care of disconnections by itself.
    async fn follow(mut self, library: &Library, watched: &Mutex<Watched>, gaze: Gaze) {
        let mut next = watched.lock().from;
        while !self.stop.is_set() {
            let prev_kv = self.random.chance(300);
            let options = {
                let watched = watched.lock();
                let mut options = watching(&watched.span).start_revision(next);
                for (wanted, with) in [
                    (prev_kv, WatchOptions::prev_kv as fn(WatchOptions) -> WatchOptions),
                    (watched.no_put, WatchOptions::no_puts),
                    (watched.no_delete, WatchOptions::no_deletes),
                    (self.random.chance(500), WatchOptions::progress_notify),
                ] {
                    options = if wanted { with(options) } else { options };
                }
                options
            };
            // Of a revision whose parts it has seen without the last, it is sent all again.
            watched.lock().forget_from(next);
            let from = watched.lock().span.from.clone();
            let Ok(mut watch) = library.all().watch(from, options).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            if next == 0 {
                next = watched.lock().begin_behind(watch.created_revision());
            }
            while !self.stop.is_set() {
                // Nothing but the end of the run ends the silence of a watch that the library keeps up.
                match tokio::time::timeout(WATCH_PATIENCE, watch.next()).await {
                    Err(_) => continue,
                    Ok(None) => break,
                    Ok(Some(batch)) => {
                        if !note_batch(&self.rpc, watched, &mut next, batch, prev_kv) {
                            break;
                        }
                    }
                }
                self.look_away(gaze).await;
                if self.random.chance(50) {
                    library.all().request_watch_progress().await;
                }
                if self.random.chance(10) {
                    break;
                }
            }
        }
    }

    async fn open(&mut self, member: usize, watched: &Arc<Mutex<Watched>>, next: i64, gaze: Gaze) -> Option<Open> {
        let prev_kv = self.random.chance(300);
        let create = {
            let watched = watched.lock();
            WatchCreate {
                watch_id: 0,
                range: range_of(&watched.span),
                start_revision: Revision::new(next),
                progress_notify: gaze == Gaze::Absent || self.random.chance(500),
                no_put: watched.no_put,
                no_delete: watched.no_delete,
                prev_kv,
            }
        };
        let (network, me) = (self.rpc.network.clone(), self.rpc.me);
        self.rpc
            .call(member, move |node| async move {
                let (control, stream) = node.watch_stream();
                control.create(create);
                let (sender, messages) = mpsc::channel(gaze.window());
                tokio::spawn(forward(stream, sender, gaze.window() as u32, move || {
                    (!network.is_blocked(member, me)).then(|| network.delay(member, me))
                }));
                Open { control, messages, prev_kv }
            })
            .await
    }
}

/// Carries messages to the client, in order; stands still while nothing arrives there.
async fn forward(
    mut stream: WatchStream,
    sender: mpsc::Sender<WatchMessage>,
    window: u32,
    delay: impl Fn() -> Option<Duration> + Send + 'static,
) {
    loop {
        let message = tokio::select! {
            biased;
            () = sender.closed() => return,
            message = stream.next() => message,
        };
        let Some(message) = message else { return };
        let mut wait = delay();
        while wait.is_none() && !sender.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            wait = delay();
        }
        // One message after the other: the window is what may be under way at once.
        tokio::time::sleep(wait.unwrap_or_default() / window).await;
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

/// Notes what the library hands out. `false`: the watch has ended.
fn note_batch(rpc: &Rpc, watched: &Mutex<Watched>, next: &mut i64, batch: Result<Batch, Error>, prev_kv: bool) -> bool {
    let mut watched = watched.lock();
    let now = rpc.clock.world_now();
    match batch {
        Ok(batch) => {
            for found in &batch.events {
                let before = found.prev_kv.as_ref().map(library::seen);
                watched.note_event(now, library::event(found), before, *next, prev_kv);
            }
            watched.complete_to = watched.complete_to.max(batch.revision);
            *next = (*next).max(batch.revision + 1);
            true
        }
        Err(Error::WatchCompacted { compact_revision }) => {
            *next = watched.note_compaction(compact_revision, *next);
            false
        }
        Err(error) => {
            watched.violations.push(format!("a watch ended: {error}"));
            false
        }
    }
}

/// Notes one message. `false`: the watch has ended.
fn note(rpc: &Rpc, watched: &Mutex<Watched>, next: &mut i64, message: WatchMessage, prev_kv: bool) -> bool {
    let mut watched = watched.lock();
    let now = rpc.clock.world_now();
    match message {
        WatchMessage::Created { revision, .. } => {
            if *next == 0 {
                *next = watched.begin_behind(revision.get());
            }
            true
        }
        WatchMessage::Refused { reason, .. } => {
            watched.violations.push(format!("a watch was refused: {reason}"));
            false
        }
        WatchMessage::Events { revision, events, .. } => {
            for found in &events {
                let event = event(&found.record);
                if event.revision() > revision.get() {
                    watched.violations.push(format!("{event:?} came under the header {revision}"));
                }
                watched.note_event(now, event, found.prev_kv.as_ref().map(seen), *next, prev_kv);
            }
            // A revision is never split, so that the last one is whole.
            let last = watched.events.last().map_or(0, |(_, event)| event.revision());
            watched.complete_to = watched.complete_to.max(last);
            *next = (*next).max(last + 1);
            true
        }
        WatchMessage::Progress { revision, .. } => {
            if revision.get() == 0 {
                watched.violations.push("progress at revision 0".to_owned());
            }
            watched.complete_to = watched.complete_to.max(revision.get());
            *next = (*next).max(revision.get() + 1);
            true
        }
        WatchMessage::Canceled { compact_revision, .. } => {
            *next = watched.note_compaction(compact_revision.get(), *next);
            false
        }
    }
}
