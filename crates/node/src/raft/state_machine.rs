//! openraft's state machine over the store: decode, apply, commit, publish, then tell the hooks. Everything that a client
//! or a watcher sees comes out of here, in log order.

use super::codec;
use super::durable::DurableMarks;
use super::types::{CommittedLeaderId, Entry, LogId, SnapshotMeta, StoredMembership, Types};
use futures::{Stream, TryStreamExt};
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{OptionalSend, Snapshot};
use quorate_core::{Change, Delta, Effects, MemberId, Record, Rejection, Reply, Request, Revision, SystemChange, View};
use quorate_sabotage::sabotage;
use quorate_storage::{Applied, Installer, SnapshotMeta as StoredSnapshotMeta, StorageError, Store};
use std::io;
use std::sync::Arc;
use tokio::time::Instant;

/// Bytes of records that are copied at a time between two stores of one process.
const COPY_BYTES: usize = 1 << 20;

/// One applied command, for whoever waits for it.
pub(crate) struct AppliedCommand {
    /// What to answer.
    pub reply: Result<Reply, Rejection>,
    /// The store's revision after it.
    pub revision: Revision,
    /// The log index of its entry.
    pub index: u64,
}

/// What the group does when entries were applied. Called by the one apply task, in log order.
pub(crate) trait ApplyHooks: Send + Sync + 'static {
    /// After the effects are visible to readers: publish events, then answer. `records` and `system` are all changes of the
    /// entry, in order.
    fn on_applied(
        &self,
        revision: Revision,
        records: &[Record],
        system: &[SystemChange],
        batches: Vec<AppliedBatch>,
        log_id: (u64, u64),
        times: ApplyTimes,
    );

    /// A membership was applied and is visible.
    fn on_membership(&self, membership: &StoredMembership, log_id: (u64, u64));

    /// The whole state was replaced by a snapshot.
    fn on_snapshot(&self, membership: &StoredMembership, log_id: (u64, u64));

    /// Keeps the log after `index` until the guard is dropped: a snapshot transfer ends there.
    fn hold_log(&self, index: u64) -> Box<dyn Send>;

    /// Waits until the tail has room: back pressure of the engine on apply.
    fn wait_for_room(&self) -> impl Future<Output = ()> + Send;

    /// The state cannot be trusted or read any more.
    fn fatal(&self, reason: &str);
}

/// When an entry passed the stages of apply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ApplyTimes {
    /// It was on this member's disk; `None` if that is not known any more.
    pub durable: Option<Instant>,
    /// It was committed, and its turn came.
    pub began: Instant,
    /// The engine had room for what it writes.
    pub had_room: Instant,
}

/// The replies to one batch of one proposer.
pub(crate) struct AppliedBatch {
    /// Who proposed it.
    pub origin: MemberId,
    /// Names the batch at its origin.
    pub first_seq: u64,
    /// One per command.
    pub commands: Vec<AppliedCommand>,
}

/// The state machine of one group.
pub(crate) struct StateMachine<H> {
    store: Arc<Store>,
    hooks: Arc<H>,
    durable: DurableMarks,
}

impl<H> Clone for StateMachine<H> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), hooks: self.hooks.clone(), durable: self.durable.clone() }
    }
}

/// What openraft hands around as "snapshot data": a handle, never the data.
pub(crate) enum SnapshotHandle {
    /// What the leader sends: read from the store when the transfer begins, so that making the handle costs nothing. The log
    /// behind `floor` stays as long as the handle does.
    Export { store: Arc<Store>, floor: Box<dyn Send> },
    /// What a follower has received and written beside the state that serves.
    Received { installer: Box<Installer>, meta: Box<StoredSnapshotMeta> },
}

impl<H: ApplyHooks> StateMachine<H> {
    pub(super) fn new(store: Arc<Store>, hooks: Arc<H>, durable: DurableMarks) -> Self {
        Self { store, hooks, durable }
    }

    fn fail(&self, error: impl std::fmt::Display) -> io::Error {
        let text = error.to_string();
        self.hooks.fatal(&text);
        io::Error::other(text)
    }

    /// Applies one entry and makes it visible.
    fn apply_entry(&self, entry: &Entry, began: Instant) -> io::Result<()> {
        let log_id = (entry.log_id.committed_leader_id().term, entry.log_id.index());
        let applied = codec::applied_of(log_id.0, log_id.1);
        let times = ApplyTimes { durable: self.durable.take(log_id.1), began, had_room: Instant::now() };
        match &entry.payload {
            EntryPayload::Blank => {
                let mut writer = self.store.writer();
                writer.commit(Delta::default(), applied);
                writer.publish();
                let revision = writer.revision();
                drop(writer);
                self.hooks.on_applied(revision, &[], &[], Vec::new(), log_id, times);
                Ok(())
            }
            EntryPayload::Normal(data) => self.apply_commands(&data.0.slice(1..), applied, log_id, times),
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                let mut writer = self.store.writer();
                writer.set_membership(codec::encode_membership(&stored), applied);
                writer.publish();
                drop(writer);
                self.hooks.on_membership(&stored, log_id);
                Ok(())
            }
        }
    }

    fn apply_commands(
        &self,
        body: &bytes::Bytes,
        applied: Applied,
        log_id: (u64, u64),
        times: ApplyTimes,
    ) -> io::Result<()> {
        let entry = quorate_core::codec::decode_entry(body.clone())
            .map_err(|e| self.fail(format!("log entry {} cannot be decoded: {e}", log_id.1)))?;
        let mut records: Vec<Record> = Vec::new();
        let mut system: Vec<SystemChange> = Vec::new();
        let mut batches = Vec::with_capacity(entry.batches.len());
        let mut writer = self.store.writer();
        for batch in entry.batches {
            let mut commands = Vec::with_capacity(batch.requests.len());
            for Request { caller, command } in &batch.requests {
                let Effects { reply, mut delta } =
                    quorate_core::apply(&writer, caller, command).map_err(|e| self.fail(e))?;
                // What is in memory differs from member to member, and so must not matter.
                if sabotage!(ReplicaDiffers) && self.store.tail_bytes() > 4096 {
                    delta.records.iter_mut().for_each(spoil);
                }
                records.extend(delta.records.iter().cloned());
                system.extend(delta.system.iter().cloned());
                writer.commit(delta, applied);
                commands.push(AppliedCommand { reply, revision: writer.revision(), index: log_id.1 });
            }
            if sabotage!(RepliesSwapped) {
                commands.reverse();
            }
            batches.push(AppliedBatch { origin: batch.origin, first_seq: batch.first_seq, commands });
        }
        writer.publish();
        let revision = writer.revision();
        drop(writer);
        self.hooks.on_applied(revision, &records, &system, batches, log_id, times);
        Ok(())
    }

    fn applied_now(&self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = codec::last_of(self.store.applied());
        let again = u64::from(sabotage!(OnceAppliedAgain));
        let last = applied.map(|(term, index)| codec::log_id(term, index.saturating_sub(again)));
        Ok((last, codec::decode_membership(&self.store.membership())?))
    }

    fn copy_from(&self, other: &Store) -> Result<Applied, StorageError> {
        let mut export = other.export();
        let mut installer = self.store.begin_install()?;
        loop {
            let records = export.next(COPY_BYTES)?;
            if records.is_empty() {
                return installer.finish(export.meta());
            }
            for record in records {
                installer.push(record)?;
            }
        }
    }

    fn export(&self) -> io::Result<SmSnapshot> {
        let (last_log_id, last_membership) = self.applied_now()?;
        let floor = self.hooks.hold_log(last_log_id.map_or(0, |id| id.index()));
        Ok(Snapshot {
            meta: SnapshotMeta { last_log_id, last_membership },
            snapshot: SnapshotHandle::Export { store: self.store.clone(), floor },
        })
    }
}

/// Only for a bug that is put in on purpose.
fn spoil(record: &mut Record) {
    if let Change::Put { value, .. } = &mut record.change {
        *value = bytes::Bytes::new();
    }
}

type SmSnapshot = Snapshot<CommittedLeaderId, u64, super::MemberNode, SnapshotHandle>;
impl<H: ApplyHooks> RaftSnapshotBuilder<Types> for StateMachine<H> {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> Result<SmSnapshot, io::Error> {
        self.export()
    }
}

impl<H: ApplyHooks> RaftStateMachine<Types> for StateMachine<H> {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.applied_now()
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let began = Instant::now();
            self.hooks.wait_for_room().await;
            self.apply_entry(&entry, began)?;
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotHandle) -> Result<(), io::Error> {
        // An error here leaves the old generation in place; openraft stops, which is right: never `Ok` after a failure.
        match snapshot {
            SnapshotHandle::Received { installer, meta } => installer.finish(&meta).map_err(|e| self.fail(e))?,
            // From a store of this process, as a network without sockets hands it over.
            SnapshotHandle::Export { store, .. } => self.copy_from(&store).map_err(|e| self.fail(e))?,
        };
        let last = meta.last_log_id.map_or((0, 0), |id| (id.committed_leader_id().term, id.index()));
        self.hooks.on_snapshot(&meta.last_membership, last);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SmSnapshot>, io::Error> {
        // Whatever was applied can be exported at any time: there is always a current snapshot.
        self.export().map(|snapshot| snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}
