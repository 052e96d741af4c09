//! Compaction that the server asks for by itself: keep so much time, or so many revisions. Runs on every member; only the
//! leader's acts.

use quorate_core::Revision;
use quorate_node::Node;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Which history to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// What is younger than this.
    Periodic(Duration),
    /// So many revisions.
    Revision(i64),
}

/// How often the revision mode looks, as in etcd.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// A periodic compaction looks ten times per period, as in etcd.
const LOOKS_PER_PERIOD: u32 = 10;

/// An hour: a longer retention is compacted every hour.
const PERIOD_MAX: Duration = Duration::from_secs(3600);

/// The task.
pub struct Compactor {
    node: Node,
    schedule: Schedule,
}

impl Compactor {
    /// A compactor that was not started.
    pub fn new(node: Node, mode: AutoCompaction) -> Self {
        Self { node, schedule: Schedule::new(mode, Instant::now()) }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.schedule.look_interval()) => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        let status = self.node.status();
        let Some(target) = self.schedule.target(Instant::now(), status.revision) else { return };
        if status.leader != Some(self.node.header().member_id) || target <= status.compacted {
            return;
        }
        match self.node.compact(target, false).await {
            Ok(_) => tracing::info!(revision = target.get(), "compacted automatically"),
            Err(error) => tracing::warn!(revision = target.get(), %error, "could not compact automatically"),
        }
    }
}

/// When to compact to which revision. Knows times and revisions only.
struct Schedule {
    mode: AutoCompaction,
    /// When which revision was the newest, oldest first. Periodic only; bounded, because old ones are dropped.
    seen: VecDeque<(Instant, Revision)>,
    next: Instant,
}

impl Schedule {
    fn new(mode: AutoCompaction, now: Instant) -> Self {
        let first = match mode {
            AutoCompaction::Periodic(retention) => retention,
            AutoCompaction::Revision(_) => REVISION_INTERVAL,
        };
        Self { mode, seen: VecDeque::new(), next: now + first }
    }

    fn look_interval(&self) -> Duration {
        match self.mode {
            AutoCompaction::Periodic(retention) => {
                (retention.min(PERIOD_MAX) / LOOKS_PER_PERIOD).max(Duration::from_millis(100))
            }
            AutoCompaction::Revision(_) => REVISION_INTERVAL,
        }
    }

    /// The revision to compact to now, if it is time.
    fn target(&mut self, now: Instant, revision: Revision) -> Option<Revision> {
        match self.mode {
            AutoCompaction::Revision(keep) => {
                Some(Revision::new(revision.get().saturating_sub(keep))).filter(|target| target.get() > 0)
            }
            AutoCompaction::Periodic(retention) => {
                self.seen.push_back((now, revision));
                if now < self.next {
                    return None;
                }
                self.next = now + retention.min(PERIOD_MAX);
                let old = self.seen.iter().take_while(|(at, _)| now.duration_since(*at) >= retention).count();
                self.seen.drain(..old.saturating_sub(1));
                if old == 0 { None } else { self.seen.pop_front().map(|(_, revision)| revision) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_keeps_what_is_younger_than_the_retention() {
        let start = Instant::now();
        let hour = Duration::from_secs(3600);
        let mut schedule = Schedule::new(AutoCompaction::Periodic(2 * hour), start);
        let interval = schedule.look_interval();
        assert_eq!(interval, hour / 10);
        let mut compacted = Vec::new();
        // One revision per look: revision n is from n tenths of an hour after the start.
        for look in 1..=45 {
            if let Some(target) = schedule.target(start + interval * look, Revision::new(look.into())) {
                compacted.push((look, target.get()));
            }
        }
        assert_eq!(compacted, [(30, 10), (40, 20)]);
    }

    #[test]
    fn revision_keeps_so_many() {
        let mut schedule = Schedule::new(AutoCompaction::Revision(100), Instant::now());
        assert_eq!(schedule.target(Instant::now(), Revision::new(100)), None);
        assert_eq!(schedule.target(Instant::now(), Revision::new(130)), Some(Revision::new(30)));
    }
}
