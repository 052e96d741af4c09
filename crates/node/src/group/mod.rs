//! One keyspace: one Raft group with its store, proposer, read index, watch hub and leases. Knows nothing of other groups.

mod leases;
mod proposer;
mod read_index;
mod replay;
mod space;
mod state;
mod tokens;
mod upkeep;
mod waiters;

pub(crate) use space::{LEASE_BYTES, txn_cost};
pub(crate) use state::{GroupState, Position};
pub(crate) use tokens::Tokens;
pub(crate) use upkeep::{Upkeep, UpkeepOptions};

use crate::Error;
use crate::env::Env;
use crate::error::storage_error;
use crate::peer::Peers;
use crate::raft::{ProposeError, RaftGroup, RaftOptions, Role, entry_body, last_of};
use crate::stages::{self, Stage};
use crate::watch::{History, ProgressJitter, WatchHub, WatchOptions};
use bytes::Bytes;
use proposer::{Forwarded, Proposal, Proposer};
use quorate_core::auth::Permission;
use quorate_core::{AuthCommand, Caller, Command, GroupId, MemberId, Record, Rejection, Reply, Rev, Revision};
use quorate_sabotage::{rarely, sabotage};
use quorate_storage::Store;
use quorate_wal::{GroupLog, Wal};
use read_index::ReadIndex;
use replay::ReplayDrain;
use space::Space;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use waiters::Resolved;

/// Fixed cost of a command in the admission count, on top of its keys and values.
const COMMAND_BYTES: usize = 256;

/// Batches of other members that wait to be proposed.
const FORWARDED_MAX: usize = 1024;

/// What a group needs to know.
#[derive(Clone)]
pub(crate) struct GroupOptions {
    pub raft: RaftOptions,
    pub write_timeout: Duration,
    pub read_timeout: Duration,
    pub inflight_bytes_max: usize,
    /// Commands that wait to be taken up, and reads that wait for a round.
    pub waiting_max: usize,
    /// How long a token lives that is not used, and how many there may be.
    pub token_ttl: Duration,
    pub tokens_max: usize,
    pub slow_apply: Duration,
    /// Most bytes of rows; `None`: what the disk holds.
    pub quota_bytes: Option<u64>,
    /// Whether a NOSPACE alarm goes by request only.
    pub alarm_sticky: bool,
    pub watch: WatchOptions,
    pub watch_jitter: ProgressJitter,
}

/// A running group.
pub(crate) struct Group {
    pub(crate) state: Arc<GroupState>,
    pub(crate) raft: RaftGroup<GroupState>,
    pub(crate) options: GroupOptions,
    peers: Arc<Peers>,
    role: watch::Receiver<Role>,
    proposals: mpsc::Sender<Proposal>,
    forwarded: mpsc::Sender<Forwarded>,
    reads: ReadIndex,
    admission: Arc<Semaphore>,
    space: Space,
    log: GroupLog,
    /// Held by the change of the membership whose turn it is.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

/// What a write did.
pub(crate) struct Written {
    pub reply: Reply,
    /// The store's revision after it.
    pub revision: Revision,
    /// The log index of its entry.
    pub index: u64,
}

impl Group {
    /// Starts Raft and the tasks of the group.
    pub(crate) async fn start(
        group: GroupId,
        member: MemberId,
        env: Arc<dyn Env>,
        options: GroupOptions,
        store: Arc<Store>,
        wal: &Wal,
        peers: Arc<Peers>,
    ) -> Result<Arc<Self>, String> {
        let (again_sender, again) = mpsc::unbounded_channel();
        let history = Arc::new(StoreHistory(store.clone()));
        let hub = WatchHub::new(store.revision(), history, options.watch.clone(), options.watch_jitter.clone());
        let applied = last_of(store.applied()).map_or_else(Position::default, |(term, index)| Position { term, index });
        let replay = env.clone();
        let tokens = Tokens::new(options.token_ttl, options.tokens_max);
        let slow_apply = options.slow_apply;
        let state =
            GroupState::new(group, member, env, store.clone(), hub, tokens, applied, again_sender.clone(), slow_apply);
        let log = wal.group(group.get());
        let replay = ReplayDrain::start(replay.as_ref(), state.clone());
        let raft =
            RaftGroup::start(member.get(), group, &options.raft, log.clone(), store, state.clone(), peers.clone())
                .await?;
        drop(replay);
        let role = raft.role();
        let (proposals, local) = mpsc::channel(options.waiting_max);
        let (forwarded, forwarded_receiver) = mpsc::channel(FORWARDED_MAX);
        let proposer = Proposer {
            state: state.clone(),
            raft: raft.clone(),
            peers: peers.clone(),
            local,
            forwarded: forwarded_receiver,
            again,
            again_sender,
            role: role.clone(),
            give_up_after: options.write_timeout * 2,
        };
        tokio::spawn(proposer.run());
        let reads = ReadIndex::spawn(state.clone(), raft.clone(), peers.clone(), role.clone(), &options);
        let admission = Arc::new(Semaphore::new(options.inflight_bytes_max));
        let space = Space::new(options.quota_bytes, options.alarm_sticky);
        let group = Arc::new(Self {
            state,
            raft,
            options,
            peers,
            role,
            proposals,
            forwarded,
            reads,
            admission,
            space,
            log,
            changing: tokio::sync::Mutex::default(),
        });
        tokio::spawn(leases::Driver::new(&group).run());
        tokio::spawn(fail_with_raft(group.state.clone(), group.raft.clone()));
        Ok(group)
    }

    /// Who leads, as this member sees it.
    pub(crate) fn role(&self) -> Role {
        self.role.borrow().clone()
    }

    /// Whether a leader is there that can get things done, as far as this member can tell. One that no quorum has
    /// acknowledged for an election timeout leads nobody, though nobody may have told it yet; and one that was not heard for
    /// as long is gone, though there may be no other.
    pub(crate) fn has_leader(&self) -> bool {
        let role = self.role.borrow();
        let quiet = match (role.leader, role.is_leader) {
            (None, _) => return false,
            (Some(_), true) if self.raft.needs_nobody() => return true,
            (Some(_), true) => self.raft.since_quorum_ack().or_else(|| self.raft.since_contact()),
            (Some(_), false) => self.raft.since_contact(),
        };
        quiet.is_some_and(|quiet| quiet <= self.options.raft.election)
    }

    /// Follows who leads.
    pub(crate) fn watch_role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Carries out a command of the cluster itself, see [`write_as`](Self::write_as).
    pub(crate) async fn write(&self, command: Command) -> Result<Written, Error> {
        self.write_as(&Caller::System, command).await
    }

    /// Carries out a command: waits until it is committed and applied here. A rejection by the state machine is an error.
    pub(crate) async fn write_as(&self, caller: &Caller, command: Command) -> Result<Written, Error> {
        if *caller == Caller::Anonymous || self.state.store.auth().enabled() {
            return self.write_once(caller, command).await;
        }
        match self.write_once(caller, command.clone()).await {
            // Authentication was turned on meanwhile, and this member did not know it: the name was left out. By now it
            // does, and a refusal has changed nothing.
            Err(Error::Rejected(Rejection::UserEmpty)) => self.write_once(caller, command).await,
            outcome => outcome,
        }
    }

    async fn write_once(&self, caller: &Caller, command: Command) -> Result<Written, Error> {
        if let Some(error) = self.state.failure() {
            return Err(error);
        }
        if command.needs_cluster_version() {
            self.cluster_version().await?;
        }
        let cost = COMMAND_BYTES + command_bytes(&command);
        let cost = u32::try_from(cost).map_err(|_| Error::Rejected(Rejection::RequestTooLarge))?;
        let Ok(_permit) = self.admission.try_acquire_many(cost) else { return Err(Error::TooManyProposalBytes) };
        let began = Instant::now();
        let (reply, outcome) = oneshot::channel();
        let caller = self.caller_in_log(caller);
        if self.proposals.try_send(Proposal { caller, command, reply }).is_err() {
            return Err(Error::TooManyWaiting);
        }
        let result = match tokio::time::timeout(self.options.write_timeout, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(self.state.failure().unwrap_or(Error::Stopped)),
            Err(_elapsed) => Err(self.timeout_error()),
        };
        match result {
            Ok(Resolved { command, sent, stages }) => {
                stages::note(Stage::Queue, sent.saturating_duration_since(began));
                stages::note_all(&stages);
                Ok(Written { reply: command.reply?, revision: command.revision, index: command.index })
            }
            Err(error) => {
                self.state.figures.proposals_failed.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// While authentication is off nobody has to be named, which keeps entries short, and readable for members of a version
    /// before there were callers. If it is turned on before the entry is applied, the command is refused, and asked for again
    /// (`write_as`).
    fn caller_in_log(&self, caller: &Caller) -> Caller {
        if self.state.store.auth().enabled() { caller.clone() } else { Caller::Anonymous }
    }

    fn timeout_error(&self) -> Error {
        if self.role.borrow().leader.is_none() { Error::TimeoutLeaderFailure } else { Error::Timeout }
    }

    /// Waits until a read here is linearizable: everything that was acknowledged anywhere before is visible here after.
    pub(crate) async fn linearize(&self) -> Result<(), Error> {
        let began = Instant::now();
        let index = self.reads.request().await?;
        let confirmed = Instant::now();
        stages::note(Stage::ReadIndex, confirmed - began);
        let index = if sabotage!(ReadNotWaited) { 0 } else { index };
        let applied = tokio::time::timeout(self.options.read_timeout, self.state.wait_applied(index)).await;
        stages::note(Stage::Apply, confirmed.elapsed());
        applied.unwrap_or(Err(Error::TimeoutWaitAppliedIndex))
    }

    /// Takes a batch of another member, if this one leads in `term`.
    pub(crate) async fn take_forwarded(&self, body: Bytes, term: u64) -> Result<(), ProposeError> {
        let (done, result) = oneshot::channel();
        self.forwarded.send(Forwarded { body, term, done }).await.map_err(|_| ProposeError::Stopped)?;
        result.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Proposes commands of this member as leader of `term`, and in no other term. Nobody waits for the replies. Returns
    /// whether they were applied here.
    pub(crate) async fn propose_as_leader(&self, term: u64, commands: &[Command]) -> bool {
        let first_seq = self.state.waiters.reserve(commands.len());
        let mut encoder = quorate_core::codec::BatchEncoder::new(self.state.member, first_seq);
        let caller = self.caller_in_log(&Caller::System);
        for command in commands {
            encoder.push(&caller, command);
        }
        let entry = quorate_core::codec::encode_entry(self.state.env.wall_clock_ms(), &[encoder.finish()]);
        let (done, result) = oneshot::channel();
        let report = move |outcome| {
            // The receiver may be gone: nobody has to know.
            let _ = done.send(outcome);
        };
        self.raft.propose(entry_body(&entry), term, report).await;
        matches!(tokio::time::timeout(self.options.write_timeout, result).await, Ok(Ok(Ok(()))))
    }

    /// Hands leadership to `target`, and waits until it has it. Whether it has.
    pub(crate) async fn hand_over(&self, target: u64, timeout: Duration) -> bool {
        let mut role = self.watch_role();
        self.raft.transfer_leader(target).await;
        let moved = role.wait_for(|role| role.leader == Some(target));
        matches!(tokio::time::timeout(timeout, moved).await, Ok(Ok(_)))
    }

    /// Up to where the log may go, given what is durable in the engine: about half of `keep_bytes` stays for members that lag,
    /// and everything that a snapshot transfer still needs.
    pub(crate) fn purgeable(&self, durable_index: u64, keep_bytes: u64) -> Option<u64> {
        let bytes = self.log.bytes_after_purge();
        let state = self.log.state();
        let last = state.last.map(|(_, index)| index)?;
        let purged = state.purged.map_or(0, |(_, index)| index);
        let keep_bytes = if rarely!(LogPurge) { 0 } else { keep_bytes };
        if bytes <= keep_bytes || last <= purged {
            return None;
        }
        let excess = bytes - keep_bytes / 2;
        let share = u128::from(last - purged) * u128::from(excess) / u128::from(bytes);
        let wanted = purged + u64::try_from(share).unwrap_or(0);
        let durable_index = if sabotage!(LogPurgedTooFar) { last } else { durable_index };
        let upto = wanted.min(durable_index).min(self.state.log_floor());
        (upto > purged).then_some(upto)
    }

    /// The ways to the other members.
    pub(crate) fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Commands under way.
    pub(crate) fn pending(&self) -> usize {
        self.state.waiters.pending()
    }
}

/// Raft stops by itself when the log or the state fails it. The group then serves nobody any more.
async fn fail_with_raft(state: Arc<GroupState>, raft: RaftGroup<GroupState>) {
    let mut role = raft.role();
    // An error means that the watcher of the role is gone, and that is so when Raft is.
    let _ = role.wait_for(|role| role.stopped).await;
    let reason = raft.stop_reason().unwrap_or_else(|| "no reason given".into());
    state.fail(Error::Fatal(format!("Raft has stopped: {reason}; restart the member")));
}

/// Bytes of keys and values in a command.
fn command_bytes(command: &Command) -> usize {
    match command {
        Command::Txn(txn) => txn_bytes(txn),
        Command::LeaseCheckpoint { remaining } => remaining.len() * 16,
        Command::MemberPublish { attributes, .. } => {
            attributes.name.len() + attributes.client_urls.iter().map(String::len).sum::<usize>()
        }
        Command::Auth(command) => auth_bytes(command),
        Command::Compact { .. }
        | Command::LeaseGrant { .. }
        | Command::LeaseRevoke { .. }
        | Command::MemberForget { .. }
        | Command::AlarmActivate(_)
        | Command::AlarmDeactivate(_)
        | Command::ClusterVersionSet(_)
        | Command::DowngradeEnable(_)
        | Command::DowngradeCancel => 0,
    }
}

fn auth_bytes(command: &AuthCommand) -> usize {
    match command {
        AuthCommand::Enable | AuthCommand::Disable => 0,
        AuthCommand::UserAdd { user, .. }
        | AuthCommand::UserDelete { user }
        | AuthCommand::UserChangePassword { user, .. }
        | AuthCommand::TokenAssign { user, .. } => user.len(),
        AuthCommand::UserGrantRole { user, role } | AuthCommand::UserRevokeRole { user, role } => {
            user.len() + role.len()
        }
        AuthCommand::RoleAdd { role } | AuthCommand::RoleDelete { role } => role.len(),
        AuthCommand::RoleGrantPermission { role, permission: Permission { range, .. } }
        | AuthCommand::RoleRevokePermission { role, range } => {
            role.len() + range.start().len() + range.wire_end().len()
        }
    }
}

fn txn_bytes(txn: &quorate_core::Txn) -> usize {
    use quorate_core::Op;
    let op_bytes = |op: &Op| match op {
        Op::Put(put) => put.key.len() + put.value.len(),
        Op::Range(range) => range.range.start().len(),
        Op::DeleteRange(delete) => delete.range.start().len(),
        Op::Txn(txn) => txn_bytes(txn),
    };
    let compares: usize = txn.compares.iter().map(|c| 32 + c.range.start().len()).sum();
    compares + txn.success.iter().chain(&txn.failure).map(|op| 32 + op_bytes(op)).sum::<usize>()
}

/// Where watchers read what they missed.
struct StoreHistory(Arc<Store>);

impl History for StoreHistory {
    fn compacted(&self) -> Revision {
        self.0.compacted()
    }

    fn scan(
        &self,
        from: Revision,
        to: Revision,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.0.scan_records(from, to, visit).map_err(storage_error)
    }

    fn previous(&self, rev: Rev) -> Result<Option<Record>, Error> {
        self.0.find_record(rev).map_err(storage_error)
    }
}
