//! What somebody sees who waits for something long: a bar that shows how far it is, or, where nobody knows that, a line that
//! shows that it goes on. On standard error, and only if that is a terminal.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use quorate_client::Client;
use quorate_proto::etcdserverpb::{StatusRequest, StatusResponse};
use quorate_proto::quorate_v1::{MaintenanceProgressRequest, Work};

use crate::golang::human_bytes;

/// How often the bar is drawn at most.
const INTERVAL: Duration = Duration::from_millis(100);

const WIDTH: u64 = 30;

/// A bar. Dropped, it ends its line.
pub struct Progress {
    what: &'static str,
    on_terminal: bool,
    drawn: Option<Instant>,
}

impl Progress {
    /// A bar that says `what` is done. Draws nothing yet.
    pub fn new(what: &'static str) -> Self {
        Self { what, on_terminal: io::stderr().is_terminal(), drawn: None }
    }

    /// Shows that `done` of `total` bytes are done. The total may change: it may be an estimate.
    pub fn show(&mut self, done: u64, total: u64) {
        if !self.on_terminal || (done < total && self.drawn.is_some_and(|drawn| drawn.elapsed() < INTERVAL)) {
            return;
        }
        self.drawn = Some(Instant::now());
        // A terminal that is gone is no reason to stop the work.
        let _ = write!(io::stderr(), "\r{}\x1b[K", bar(self.what, done, total, Unit::Bytes));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = writeln!(io::stderr());
        }
    }
}

/// Long work on a member's storage, which the member tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// `defrag`.
    Defragmentation,
    /// `compaction --physical`.
    Compaction,
}

/// Waits for work that `member` does: after a second, a bar shows how far it is. Of a member that does not tell (etcd's do not), a
/// line tells for how long it has gone on, and what the member says of its storage meanwhile.
pub async fn watched<T>(what: &str, member: &Client, task: Task, work: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return work.await;
    }
    // Dropped, it wipes the line.
    let _line = Line;
    tokio::select! {
        done = work => done,
        never = tell(what, member, task) => match never {},
    }
}

async fn tell(what: &str, member: &Client, task: Task) -> Infallible {
    const EVERY: Duration = Duration::from_secs(1);
    let began = Instant::now();
    let member = member.with_timeout(EVERY);
    loop {
        tokio::time::sleep(EVERY).await;
        let line = match far(&member, task).await {
            Some(work) => bar(what, work.done, work.total, task.unit()),
            None => {
                // One that is too busy to answer is still at work.
                let status = member.maintenance().status(StatusRequest {}).await.ok();
                activity(what, began.elapsed(), status.as_ref())
            }
        };
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
    }
}

async fn far(member: &Client, task: Task) -> Option<Work> {
    let progress = member.quorate().maintenance_progress(MaintenanceProgressRequest {}).await.ok()?;
    match task {
        Task::Defragmentation => progress.defragmentation,
        Task::Compaction => progress.compaction,
    }
}

impl Task {
    fn unit(self) -> Unit {
        match self {
            Self::Defragmentation => Unit::Bytes,
            Self::Compaction => Unit::Revisions,
        }
    }
}

/// What a bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Revisions,
}

struct Line;

impl Drop for Line {
    fn drop(&mut self) {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

fn activity(what: &str, elapsed: Duration, status: Option<&StatusResponse>) -> String {
    let bytes = |bytes: i64| human_bytes(u64::try_from(bytes).unwrap_or_default());
    let storage = status
        .map(|status| format!(": {} on disk, {} of it in use", bytes(status.db_size), bytes(status.db_size_in_use)));
    format!("{what}, {} s{}", elapsed.as_secs(), storage.unwrap_or_default())
}

fn bar(what: &str, done: u64, total: u64, unit: Unit) -> String {
    let share = |of: u64| u64::try_from(u128::from(done.min(total)) * u128::from(of) / u128::from(total.max(1)));
    // A share of a number is at most that number.
    let (filled, percent) = (share(WIDTH).unwrap_or(WIDTH), share(100).unwrap_or(100));
    let bar: String = (0..WIDTH).map(|at| if at < filled { '=' } else { ' ' }).collect();
    let counted = match unit {
        Unit::Bytes => format!("{} of {}", human_bytes(done), human_bytes(total)),
        Unit::Revisions => format!("{done} of {total} revisions"),
    };
    format!("{what} [{bar}] {percent:3} %  {counted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activities() {
        let status = StatusResponse { db_size: 3_000_000, db_size_in_use: 1_000_000, ..StatusResponse::default() };
        let after = Duration::from_millis(2900);
        assert_eq!(
            activity("compacting", after, Some(&status)),
            "compacting, 2 s: 3.0 MB on disk, 1.0 MB of it in use"
        );
        assert_eq!(activity("compacting", after, None), "compacting, 2 s");
    }

    #[test]
    fn bars() {
        assert_eq!(bar("saving", 0, 2000, Unit::Bytes), "saving [                              ]   0 %  0 B of 2.0 kB");
        assert_eq!(
            bar("saving", 1000, 2000, Unit::Bytes),
            "saving [===============               ]  50 %  1.0 kB of 2.0 kB"
        );
        assert_eq!(
            bar("saving", 3000, 2000, Unit::Bytes),
            "saving [==============================] 100 %  3.0 kB of 2.0 kB"
        );
        assert_eq!(bar("saving", 0, 0, Unit::Bytes), "saving [                              ]   0 %  0 B of 0 B");
        assert_eq!(
            bar("compacting", 500, 1000, Unit::Revisions),
            "compacting [===============               ]  50 %  500 of 1000 revisions"
        );
    }
}
