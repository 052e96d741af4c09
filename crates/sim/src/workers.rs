//! The load: clients that read and write, clients that hold leases, clients that watch, one that compacts.
//!
//! Each is a loop until the world says stop. They keep to a member while it answers, and go to the next when it does not,
//! as real clients do.

use crate::client::{Rpc, event, range_of};
use crate::history::{Event, Op, Outcome, Span, Watched};
use crate::plan::Load;
use crate::random::Random;
use parking_lot::Mutex;
use quorate_core::Revision;
use quorate_node::{Node, WatchControl, WatchCreate, WatchMessage, WatchStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages of a watch that may be under way to its client.
const WATCH_WINDOW: usize = 8;

/// A watcher that hears nothing for so long tries another member.
const WATCH_PATIENCE: Duration = Duration::from_secs(3);

/// Tells the workers to stop.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on no new calls.
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What every worker needs.
pub struct Worker {
    /// Calls.
    pub rpc: Rpc,
    /// Its number, in reports and in values.
    pub number: usize,
    /// Members that it can ask.
    pub members: usize,
    /// The load that it is part of.
    pub load: Load,
    /// Draws what it does.
    pub random: Random,
    /// When to stop.
    pub stop: Stop,
}

impl Worker {
    fn any_member(&mut self) -> usize {
        self.random.below(self.members as u64) as usize
    }

    async fn pause(&mut self) {
        let pause = self.random.millis(0, self.load.pause_ms);
        tokio::time::sleep(pause).await;
    }

    /// Reads and writes.
    pub async fn read_and_write(mut self) {
        let mut member = self.any_member();
        let mut counter = 0;
        let mut seen: Vec<i64> = vec![0; self.load.keys as usize];
        while !self.stop.is_set() {
            self.pause().await;
            let place = self.random.below(self.load.keys) as usize;
            counter += 1;
            let op = self.draw(place, counter, &seen);
            let outcome = self.rpc.run(self.number, member, op.clone()).await;
            match (&op, &outcome) {
                (_, Outcome::Unknown) => member = self.any_member(),
                (Op::Put { .. }, Outcome::Done { revision, .. }) => seen[place] = *revision,
                (Op::Swap { parts }, Outcome::Done { revision, .. }) => {
                    for (key, _, _) in parts {
                        seen[place_of(key)] = *revision;
                    }
                }
                (_, Outcome::Read { kvs, .. }) => {
                    for kv in kvs.iter().filter(|kv| kv.key.starts_with('k')) {
                        seen[place_of(&kv.key)] = kv.mod_revision;
                    }
                }
                (Op::Delete { .. }, Outcome::Done { .. }) => seen[place] = 0,
                (_, Outcome::Done { .. } | Outcome::Refused(_)) => {}
            }
        }
    }

    fn draw(&mut self, place: usize, counter: u64, seen: &[i64]) -> Op {
        let key = key(place);
        let value = self.value(counter, "");
        match self.random.below(100) {
            0..30 => Op::Put { key, value, lease: 0 },
            30..50 => Op::Swap { parts: vec![(key, seen[place], value)] },
            50..58 => {
                let other = self.random.below(self.load.keys) as usize;
                let mut parts = vec![(key, seen[place], value)];
                if other != place {
                    let value = self.value(counter, "'");
                    parts.push((self::key(other), seen[other], value));
                }
                Op::Swap { parts }
            }
            58..62 => Op::Delete { span: Span::key(&key) },
            62..63 => Op::Delete { span: Span::prefix("k") },
            63..85 => Op::Get { span: Span::key(&key), serializable: false, revision: 0 },
            85..91 => Op::Get { span: Span::prefix("k"), serializable: false, revision: 0 },
            91..97 => Op::Get { span: Span::key(&key), serializable: true, revision: 0 },
            _ => Op::Get { span: Span::prefix("k"), serializable: false, revision: seen[place] },
        }
    }

    fn value(&mut self, counter: u64, mark: &str) -> String {
        let mut value = format!("c{}.{counter}{mark}", self.number);
        if self.load.large_value_bytes > 0 && self.random.chance(100) {
            value.push_str(&".".repeat(self.load.large_value_bytes));
        }
        value
    }

    /// Grants leases, hangs keys on them, renews them for a while and then lets them go.
    pub async fn hold_leases(mut self) {
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            let member = self.any_member();
            let ttl = self.random.between(2, 5) as i64;
            let Some(lease) = self.rpc.grant(member, ttl).await else { continue };
            for _ in 0..self.random.between(1, 3) {
                counter += 1;
                let (key, value) = (format!("l{}.{counter}", self.number), self.value(counter, "l"));
                self.rpc.run(self.number, member, Op::Put { key, value, lease }).await;
            }
            for _ in 0..self.random.below(8) {
                let pause = self.random.millis(100, ttl as u64 * 700);
                tokio::time::sleep(pause).await;
                let member = self.any_member();
                if self.stop.is_set() || self.rpc.renew(member, lease).await == Some(false) {
                    break;
                }
            }
            if self.random.chance(300) {
                let member = self.any_member();
                self.rpc.run(self.number, member, Op::Revoke { lease }).await;
            }
        }
    }

    /// Compacts to somewhere that `recorder` has seen, so that the ledger is complete.
    pub async fn compact(mut self, recorder: Arc<Mutex<Watched>>) {
        if self.load.compaction.is_zero() {
            return;
        }
        while !self.stop.is_set() {
            tokio::time::sleep(self.load.compaction).await;
            let newest = recorder.lock().complete_to;
            let revision = newest - self.random.below(20) as i64;
            if revision > 1 {
                let (member, physical) = (self.any_member(), self.random.chance(500));
                let compact =
                    move |node: Node| async move { node.compact(Revision::new(revision), physical).await.is_ok() };
                self.rpc.call(member, compact).await;
            }
        }
    }

    /// Watches `watched`'s span over all disconnections until the end.
    pub async fn watch(mut self, watched: Arc<Mutex<Watched>>, slow: bool) {
        let mut member = self.any_member();
        let mut next = watched.lock().from;
        while !self.stop.is_set() {
            let created = self.open(member, &watched, next).await;
            if let Some((control, mut messages)) = created {
                while !self.stop.is_set() {
                    let message = tokio::time::timeout(WATCH_PATIENCE, messages.recv()).await;
                    let Ok(Some(message)) = message else { break };
                    if !note(&self.rpc, &watched, &mut next, message) {
                        break;
                    }
                    if slow {
                        let pause = self.random.millis(0, 300);
                        tokio::time::sleep(pause).await;
                    }
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
            member = self.any_member();
        }
    }

    async fn open(
        &mut self,
        member: usize,
        watched: &Arc<Mutex<Watched>>,
        next: i64,
    ) -> Option<(WatchControl, mpsc::Receiver<WatchMessage>)> {
        let create = WatchCreate {
            watch_id: 0,
            range: range_of(&watched.lock().span),
            start_revision: Revision::new(next),
            progress_notify: self.random.chance(500),
            no_put: false,
            no_delete: false,
            prev_kv: self.random.chance(300),
        };
        let (network, me) = (self.rpc.network.clone(), self.rpc.me);
        self.rpc
            .call(member, move |node| async move {
                let (control, stream) = node.watch_stream();
                control.create(create);
                let (sender, receiver) = mpsc::channel(WATCH_WINDOW);
                tokio::spawn(forward(stream, sender, move || {
                    (!network.is_blocked(member, me)).then(|| network.delay(member, me))
                }));
                (control, receiver)
            })
            .await
    }
}

/// Carries messages to the client, in order; stands still while nothing arrives there.
async fn forward(
    mut stream: WatchStream,
    sender: mpsc::Sender<WatchMessage>,
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
        tokio::time::sleep(wait.unwrap_or_default() / WATCH_WINDOW as u32).await;
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

/// Notes one message. `false`: the watch has ended.
fn note(rpc: &Rpc, watched: &Mutex<Watched>, next: &mut i64, message: WatchMessage) -> bool {
    let mut watched = watched.lock();
    let now = rpc.clock.world_now();
    match message {
        WatchMessage::Created { revision, .. } => {
            if *next == 0 {
                // From now on: the first event to come is the one after.
                *next = revision.get() + 1;
                watched.from = *next;
                watched.complete_to = revision.get();
            }
            true
        }
        WatchMessage::Refused { reason, .. } => {
            watched.violations.push(format!("a watch was refused: {reason}"));
            false
        }
        WatchMessage::Events { revision, events, .. } => {
            for seen in &events {
                let event = event(&seen.record);
                if event.revision() < *next {
                    watched.violations.push(format!("{event:?} came, but everything before {next} had come already"));
                }
                if event.revision() > revision.get() {
                    watched.violations.push(format!("{event:?} came under the header {revision}"));
                }
                check_prev(&mut watched, &event, seen.prev_kv.as_ref().map(|kv| kv.mod_revision.get()));
                watched.events.push((now, event));
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
            let compacted = compact_revision.get();
            if compacted < *next {
                watched.violations.push(format!("cancelled at compaction {compacted}, but {next} is readable"));
            }
            watched.gaps.push((*next, compacted - 1));
            *next = (*next).max(compacted);
            false
        }
    }
}

fn check_prev(watched: &mut Watched, event: &Event, prev: Option<i64>) {
    let Some(prev) = prev else { return };
    let wrong = match event {
        Event::Put(seen) => seen.version == 1 || prev >= seen.mod_revision,
        Event::Delete { revision, .. } => prev >= *revision,
    };
    if wrong {
        watched.violations.push(format!("{event:?} came with a value of {prev} before it"));
    }
}

fn key(place: usize) -> String {
    format!("k{place}")
}

fn place_of(key: &str) -> usize {
    key[1..].parse().unwrap_or(0)
}
