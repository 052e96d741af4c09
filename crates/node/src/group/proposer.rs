//! The write path up to Raft. Folds everything that is queued into one batch, and, on the leader, batches of all members
//! into one log entry. Self-clocked: what arrives while entries are under way makes the next one; there is no timer.

use super::state::GroupState;
use super::waiters::{Mark, Outcome, Ready};
use crate::peer::{AnswerReceiver, PeerError, Peers};
use crate::raft::{ProposeError, RaftGroup, Role, entry_body};
use bytes::Bytes;
use pb::request::Kind as Ask;
use quorate_core::codec::BatchEncoder;
use quorate_core::{Caller, Command};
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::{rarely, sabotage};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

/// Entries that are proposed and not yet applied, or batches on their way to the leader. More would make the batches smaller.
const INFLIGHT_MAX: usize = 3;

/// Bytes of one entry, as far as it has more than one command.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Commands of one batch.
const BATCH_COMMANDS_MAX: usize = 4096;

/// Pause before a batch is sent again that could not be sent at all.
const RESEND_PAUSE: Duration = Duration::from_millis(20);

/// A command of this member's clients.
pub(super) struct Proposal {
    pub caller: Caller,
    pub command: Command,
    pub reply: oneshot::Sender<Outcome>,
}

/// A batch that another member sent us.
pub(super) struct Forwarded {
    pub body: Bytes,
    /// The term in which its sender believes us to lead.
    pub term: u64,
    /// Learns whether the batch went into the log.
    pub done: oneshot::Sender<Result<(), ProposeError>>,
}

/// The proposer task of one group. Ends when the group drops its queues.
pub(super) struct Proposer {
    pub state: Arc<GroupState>,
    pub raft: RaftGroup<GroupState>,
    pub peers: Arc<Peers>,
    pub local: mpsc::Receiver<Proposal>,
    pub forwarded: mpsc::Receiver<Forwarded>,
    pub again: mpsc::UnboundedReceiver<Ready>,
    pub again_sender: mpsc::UnboundedSender<Ready>,
    pub role: watch::Receiver<Role>,
    /// How long anybody waits for a command.
    pub give_up_after: Duration,
}

/// What goes into the next entry.
#[derive(Default)]
struct Next {
    own: Vec<Ready>,
    forwarded: Vec<Forwarded>,
    bytes: usize,
}

impl Proposer {
    pub(super) async fn run(mut self) {
        let slots = Arc::new(Semaphore::new(INFLIGHT_MAX));
        let mut taken: VecDeque<Proposal> = VecDeque::new();
        loop {
            let mut next = Next::default();
            if taken.is_empty() && !self.wait(&mut taken, &mut next).await {
                return;
            }
            // While all slots are taken, more arrives: that is what makes batches.
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            self.collect(&mut taken, &mut next);
            self.send(next, slot).await;
        }
    }

    /// Waits for the first piece of work. False: the group is gone.
    async fn wait(&mut self, taken: &mut VecDeque<Proposal>, next: &mut Next) -> bool {
        tokio::select! {
            proposal = self.local.recv() => match proposal {
                Some(proposal) => taken.push_back(proposal),
                None => return false,
            },
            Some(forwarded) = self.forwarded.recv() => next.push_forwarded(forwarded),
            Some(ready) = self.again.recv() => next.push_own(ready),
        }
        true
    }

    /// Takes everything that is there, up to the size of an entry.
    fn collect(&mut self, taken: &mut VecDeque<Proposal>, next: &mut Next) {
        while next.bytes < ENTRY_BYTES_MAX
            && let Ok(ready) = self.again.try_recv()
        {
            next.push_own(ready);
        }
        while next.bytes < ENTRY_BYTES_MAX
            && let Ok(forwarded) = self.forwarded.try_recv()
        {
            next.push_forwarded(forwarded);
        }
        while taken.len() < BATCH_COMMANDS_MAX
            && let Ok(proposal) = self.local.try_recv()
        {
            taken.push_back(proposal);
        }
        if let Some(ready) = self.encode(taken, ENTRY_BYTES_MAX.saturating_sub(next.bytes)) {
            next.push_own(ready);
        }
    }

    /// Encodes what was taken as one batch, and registers who waits for it.
    fn encode(&self, taken: &mut VecDeque<Proposal>, bytes_max: usize) -> Option<Ready> {
        // Nobody waits for a command whose client has gone; it was never sent: drop it.
        taken.retain(|proposal| !proposal.reply.is_closed());
        if taken.is_empty() || bytes_max == 0 {
            return None;
        }
        let first_seq = self.state.waiters.reserve(taken.len());
        let mut encoder = BatchEncoder::new(self.state.member, first_seq);
        let mut waiters = Vec::with_capacity(taken.len());
        while let Some(proposal) = taken.pop_front() {
            encoder.push(&proposal.caller, &proposal.command);
            waiters.push(proposal.reply);
            if encoder.len_bytes() >= bytes_max || rarely!(SmallBatch) {
                break;
            }
        }
        let ready = Ready { first_seq, body: encoder.finish() };
        self.state.waiters.register(&ready, waiters, Instant::now() + self.give_up_after);
        Some(ready)
    }

    /// Hands the work to Raft, or to the leader.
    async fn send(&mut self, next: Next, slot: OwnedSemaphorePermit) {
        let role = self.role.borrow_and_update().clone();
        if role.is_leader {
            self.propose(next, role.term, slot).await;
            return;
        }
        for forwarded in next.forwarded {
            let _ = forwarded.done.send(Err(ProposeError::NotLeader));
        }
        if next.own.is_empty() {
            return;
        }
        match role.leader {
            Some(leader) => self.forward(next.own, leader, role.term, slot),
            // Raft has stopped, and the group fails whoever waits. There will be no news to wait for.
            None if role.stopped => {}
            // The commands wait for a leader, as long as their clients do.
            None => self.send_later(next.own, slot),
        }
    }

    /// Takes the batches up again when there is news about who leads, or after a pause.
    fn send_later(&self, batches: Vec<Ready>, slot: OwnedSemaphorePermit) {
        let again = Again { sender: self.again_sender.clone(), batches, slot };
        tokio::spawn(again.send_at_news(self.role.clone()));
    }

    async fn propose(&self, next: Next, term: u64, slot: OwnedSemaphorePermit) {
        let mut bodies = Vec::with_capacity(next.own.len() + next.forwarded.len());
        let mut own = Vec::with_capacity(next.own.len());
        let mut later = Vec::new();
        for ready in next.own {
            match self.state.waiters.mark_sent(ready.first_seq, term) {
                Mark::Send => {
                    bodies.push(ready.body);
                    own.push(ready.first_seq);
                }
                Mark::Later => later.push(ready),
                Mark::Gone => {}
            }
        }
        let mut done = Vec::with_capacity(next.forwarded.len());
        for forwarded in next.forwarded {
            if forwarded.term == term || sabotage!(OnceAnyTerm) {
                bodies.push(forwarded.body);
                done.push(forwarded.done);
            } else {
                let _ = forwarded.done.send(Err(ProposeError::NotLeader));
            }
        }
        if bodies.is_empty() {
            self.send_later(later, slot);
            return;
        }
        for ready in later {
            let _ = self.again_sender.send(ready);
        }
        let entry = quorate_core::codec::encode_entry(self.state.env.wall_clock_ms(), &bodies);
        let again = Again { sender: self.again_sender.clone(), batches: Vec::new(), slot };
        let state = self.state.clone();
        self.raft
            .propose(entry_body(&entry), term, move |result| {
                if result == Err(ProposeError::NotLeader) {
                    // A leader that has lost its quorum refuses until it knows better: do not ask it in a loop.
                    tokio::spawn(take_back(state, own, term, again));
                } else {
                    drop(again);
                }
                for done in done {
                    let _ = done.send(result.clone());
                }
            })
            .await;
    }

    /// Sends batches to the leader. The answer only says whether they went into the log; what they did, this member sees when
    /// it applies them itself. So a client that then reads here finds its write.
    fn forward(&self, own: Vec<Ready>, leader: u64, term: u64, slot: OwnedSemaphorePermit) {
        let mut answers = Vec::with_capacity(own.len());
        let mut later = Vec::new();
        for ready in own {
            match self.state.waiters.mark_sent(ready.first_seq, term) {
                Mark::Send => {
                    let ask = Ask::Forward(pb::Forward { batch: ready.body, term });
                    answers.push((ready.first_seq, self.peers.send(leader, self.state.group, ask)));
                }
                Mark::Later => later.push(ready),
                Mark::Gone => {}
            }
        }
        let again = Again { sender: self.again_sender.clone(), batches: later, slot };
        tokio::spawn(take_answers(self.state.clone(), term, answers, again));
    }
}

/// Batches that are to be taken up again, and the slot that they hold until then.
struct Again {
    sender: mpsc::UnboundedSender<Ready>,
    batches: Vec<Ready>,
    slot: OwnedSemaphorePermit,
}

impl Again {
    fn send(self) {
        for ready in self.batches {
            // The group may have gone meanwhile.
            let _ = self.sender.send(ready);
        }
        drop(self.slot);
    }

    /// When there is news about who leads, or after a pause.
    async fn send_at_news(self, mut role: watch::Receiver<Role>) {
        let _ = tokio::time::timeout(RESEND_PAUSE, role.changed()).await;
        self.send();
    }
}

/// Takes back batches that were not proposed, after a pause.
async fn take_back(state: Arc<GroupState>, own: Vec<u64>, term: u64, mut again: Again) {
    tokio::time::sleep(RESEND_PAUSE).await;
    again.batches.extend(own.into_iter().filter_map(|seq| state.waiters.unsent(seq, term)));
    again.send();
}

/// Waits for the leader's answers to batches, by their first number, and takes back those that it did not propose. Who wants to
/// write what the leader has no room for is told so.
async fn take_answers(state: Arc<GroupState>, term: u64, answers: Vec<(u64, AnswerReceiver)>, mut again: Again) {
    let mut unsent = !again.batches.is_empty();
    for (first_seq, answer) in answers {
        let not_proposed = match answer.await {
            Ok(Ok(pb::response::Kind::Forward(reply))) if reply.no_space => {
                state.leader_room.note_none(term);
                if let Some(rest) = state.waiters.refuse_for_space(state.member, first_seq, term) {
                    unsent = true;
                    again.batches.push(rest);
                }
                continue;
            }
            Ok(Ok(pb::response::Kind::Forward(reply))) => reply.not_leader,
            Ok(Err(PeerError::NotConnected(_) | PeerError::Refused(_) | PeerError::Overloaded)) => true,
            // Lost on the way: the batch may be in the log. It is sent again only once that is settled, see
            // `Waiters::term_applied`.
            Ok(Ok(_) | Err(PeerError::Lost | PeerError::Timeout | PeerError::Failed(_))) | Err(_) => {
                sabotage!(OnceResent)
            }
        };
        if not_proposed && let Some(ready) = state.waiters.unsent(first_seq, term) {
            unsent = true;
            again.batches.push(ready);
        }
    }
    if unsent {
        tokio::time::sleep(RESEND_PAUSE).await;
    }
    again.send();
}

impl Next {
    fn push_own(&mut self, ready: Ready) {
        self.bytes += ready.body.len();
        self.own.push(ready);
    }

    fn push_forwarded(&mut self, forwarded: Forwarded) {
        self.bytes += forwarded.body.len();
        self.forwarded.push(forwarded);
    }
}
