//! Linearizable reads. One round to the leader (and from it to a quorum) is under way; whoever comes meanwhile joins the
//! next one. So a thousand concurrent reads cost two rounds, and none is answered from a round that began before it.

use super::GroupOptions;
use super::state::GroupState;
use crate::Error;
use crate::peer::Peers;
use crate::raft::{ProposeError, RaftGroup, Role};
use pb::request::Kind as Ask;
use pb::response::Kind as Answer;
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::{rarely, sabotage};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Pause between two attempts of a round that found no leader.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A round that takes longer than this is counted as slow.
const SLOW_ROUND: Duration = Duration::from_secs(1);

type Waiting = oneshot::Sender<Result<u64, Error>>;

/// Where reads ask for an index.
pub(super) struct ReadIndex {
    requests: mpsc::Sender<Waiting>,
}

impl ReadIndex {
    pub(super) fn spawn(
        state: Arc<GroupState>,
        raft: RaftGroup<GroupState>,
        peers: Arc<Peers>,
        role: watch::Receiver<Role>,
        options: &GroupOptions,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(options.waiting_max);
        tokio::spawn(Rounds { state, raft, peers, role, timeout: options.read_timeout }.run(receiver));
        Self { requests }
    }

    /// The index that must be applied here before the read.
    pub(super) async fn request(&self) -> Result<u64, Error> {
        let (sender, receiver) = oneshot::channel();
        match self.requests.try_send(sender) {
            Ok(()) => receiver.await.unwrap_or(Err(Error::Stopped)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::TooManyWaiting),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Error::Stopped),
        }
    }
}

/// The task: one round after the other. Ends when nobody can ask any more.
struct Rounds {
    state: Arc<GroupState>,
    raft: RaftGroup<GroupState>,
    peers: Arc<Peers>,
    role: watch::Receiver<Role>,
    timeout: Duration,
}

impl Rounds {
    async fn run(mut self, mut requests: mpsc::Receiver<Waiting>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        while requests.recv_many(&mut waiting, requests.max_capacity()).await > 0 {
            let began = Instant::now();
            let result = self.round().await;
            if began.elapsed() > SLOW_ROUND {
                self.state.figures.slow_read_indexes.fetch_add(1, Ordering::Relaxed);
            }
            if result.is_err() {
                self.state.figures.read_indexes_failed.fetch_add(waiting.len() as u64, Ordering::Relaxed);
            }
            while sabotage!(ReadJoinsOldRound)
                && let Ok(late) = requests.try_recv()
            {
                waiting.push(late);
            }
            for sender in waiting.drain(..) {
                // Whoever asked may have given up.
                let _ = sender.send(result.clone());
            }
        }
    }

    async fn round(&mut self) -> Result<u64, Error> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(error) = self.state.failure() {
                return Err(error);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout);
            }
            if let Some(index) = tokio::time::timeout(left, self.attempt()).await.map_err(|_| Error::Timeout)? {
                return Ok(index);
            }
            let pause = RETRY_PAUSE.min(left);
            let _ = tokio::time::timeout(pause, self.role.changed()).await;
        }
    }

    /// `None`: whoever was asked does not lead (any more), or could not be reached. A read changes nothing: ask again.
    async fn attempt(&mut self) -> Option<u64> {
        let role = self.role.borrow_and_update().clone();
        if rarely!(ReadRoundFails) {
            return None;
        }
        if (role.is_leader && sabotage!(ReadWithoutQuorum)) || (!role.is_leader && sabotage!(ReadOnFollower)) {
            return Some(self.state.applied().index);
        }
        if role.is_leader {
            return match tokio::time::timeout(self.timeout / 4, self.raft.read_index()).await {
                Ok(Ok((_term, index))) => Some(index),
                Ok(Err(
                    ProposeError::NotLeader
                    | ProposeError::Unknown
                    | ProposeError::Stopped
                    | ProposeError::ChangeInProgress
                    | ProposeError::BadChange(_),
                ))
                | Err(_) => None,
            };
        }
        let leader = role.leader?;
        let ask = Ask::ReadIndex(pb::ReadIndex {});
        match self.peers.call(leader, self.state.group, ask, self.timeout / 4).await {
            Ok(Answer::ReadIndex(pb::ReadIndexReply { log_id: Some(log_id) })) => Some(log_id.index),
            Ok(_) | Err(_) => None,
        }
    }
}
