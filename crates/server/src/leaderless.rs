//! Watches for a leader that stays away, on behalf of the streams whose clients asked to be told (`hasleader`), and of whoever reads
//! the log.

use quorate_node::Node;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Election timeouts without a leader that a stream survives, as in etcd.
const TIMEOUTS_MAX: u32 = 3;

/// The task. Owns the sending side; streams hold the receiving side.
pub struct LeaderWatch {
    node: Node,
    election_timeout: Duration,
    lost: watch::Sender<u64>,
}

impl LeaderWatch {
    /// A task that was not started, and what changes when a leader stays away.
    pub fn new(node: Node, election_timeout: Duration) -> (Self, watch::Receiver<u64>) {
        let (lost, receiver) = watch::channel(0);
        (Self { node, election_timeout, lost }, receiver)
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut without = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.election_timeout) => {}
            }
            let has_leader = self.node.has_leader();
            if has_leader && without > TIMEOUTS_MAX {
                tracing::info!("there is a leader again: serving all requests");
            }
            without = if has_leader { 0 } else { without + 1 };
            if without == TIMEOUTS_MAX + 1 {
                tracing::error!(
                    "there is no leader that a majority follows: no write and no linearizable read is served here until a \
                     majority of the members is up and reached"
                );
            }
            if without > TIMEOUTS_MAX {
                self.lost.send_modify(|times| *times += 1);
            }
        }
    }
}
