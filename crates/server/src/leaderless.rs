//! Watches for a leader that stays away, on behalf of the streams whose clients asked to be told (`hasleader`).

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
            without = if self.node.has_leader() { 0 } else { without + 1 };
            if without > TIMEOUTS_MAX {
                self.lost.send_modify(|times| *times += 1);
            }
        }
    }
}
