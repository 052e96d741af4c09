//! The way of the state from a member that serves to one that rebuilds itself: [`Pulls`] gives it, [`pull`] takes it.

use crate::bootstrap::DataIdentity;
use crate::env::Env;
use crate::error::storage_error;
use crate::group::Group;
use crate::peer::{Connection, Identity, Peers};
use crate::rebuild::Record;
use crate::{Config, Error, raft, snapshot};
use pb::request::Kind as Ask;
use pb::response::Kind as Answer;
use quorate_core::{Alarm, AlarmKind, GroupId};
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::sabotage;
use quorate_storage::{Applied, EngineConfig, Exporter, SnapshotMeta, Store, StoreConfig};
use quorate_wal::{Completion, GroupLog, Wal, WalError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of records in one answer.
const CHUNK_BYTES: usize = 512 << 10;

/// How long the giver may take for an answer: it may have to walk over its index first.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a member may take to accept a connection, or to tell who is in the cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before all others are asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Gives this member's state to others that rebuild themselves: to one at a time.
pub(crate) struct Pulls(Arc<Semaphore>);

/// A state on its way to another member.
pub(crate) struct Outgoing {
    export: Exporter,
    _log: Box<dyn Send + Sync>,
    _turn: OwnedSemaphorePermit,
}

impl Pulls {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// The next part of a pull, and what is still to come.
    pub(crate) fn next(
        &self,
        group: &Group,
        going: Option<Outgoing>,
        ask: Ask,
    ) -> Result<(Option<Outgoing>, Answer), Error> {
        match (ask, going) {
            (Ask::PullBegin(begin), _) => {
                let outgoing = self.begin(group, begin)?;
                let meta = outgoing.export.meta().encode();
                Ok((Some(outgoing), Answer::PullBegin(pb::PullBeginReply { meta })))
            }
            (_, Some(mut outgoing)) => {
                let records = outgoing.export.next(CHUNK_BYTES).map_err(storage_error)?;
                let done = records.is_empty();
                let records = records.iter().map(snapshot::encode_record).collect();
                Ok(((!done).then_some(outgoing), Answer::PullChunk(pb::SnapshotChunk { records })))
            }
            (_, None) => Err(Error::Fatal("a part of a pull came without its beginning".into())),
        }
    }

    fn begin(&self, group: &Group, begin: pb::PullBegin) -> Result<Outgoing, Error> {
        let no = |why: &str| Err(Error::Fatal(why.to_owned()));
        let role = group.role();
        if !role.is_leader && role.leader.is_some() {
            return no("the leader is to be asked");
        }
        let corrupt = Alarm { member: group.state.member, kind: AlarmKind::Corrupt };
        let store = &group.state.store;
        if group.state.doubt().is_some() || store.damage().is_some() || store.alarms().contains(&corrupt) {
            return no("its own data are in doubt");
        }
        let Ok(turn) = self.0.clone().try_acquire_owned() else {
            return no("another member rebuilds itself: one at a time");
        };
        let log = group.state.keep_log(group.state.applied().index);
        let export = store.export();
        let index = raft::last_of(export.meta().applied).map_or(0, |(_, index)| index);
        if index < begin.purged_index {
            return no("its state is older than the beginning of the other's log");
        }
        tracing::info!(index, "giving the state to a member that rebuilds itself");
        Ok(Outgoing { export, _log: log, _turn: turn })
    }
}

/// Replaces this member's storage engine by one with the state of another member, and makes the log fit. Tries until it
/// succeeds: as long as nobody can give the state, this member takes no part.
///
/// # Errors
/// The own disk fails.
pub(crate) async fn pull(
    config: &Config,
    env: &Arc<dyn Env>,
    identity: &DataIdentity,
    wal: &Wal,
    record: Record,
) -> Result<(), Error> {
    tracing::warn!(
        why = record.due,
        attempt = record.attempts,
        "this member rebuilds itself before it takes part again"
    );
    let log = wal.group(GroupId::DEFAULT.get());
    let purged = log.state().purged.map_or(0, |(_, index)| index);
    let applied = loop {
        match attempt(config, env, identity, &record, purged).await {
            Ok(applied) => break applied,
            Err(error) => tracing::warn!(%error, "cannot rebuild from the others yet"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    if !sabotage!(RebuildKeepsOld) {
        env.finish_replacement(config.engine, &config.data_dir).map_err(|error| disk_error(config, &error))?;
    }
    // The engine that was just put in its place is durable.
    fit_log(&log, applied, || Ok(())).await?;
    // Only now: until here a start begins all over.
    Record { due: None, peer_urls: Vec::new(), ..record }.write(&config.data_dir, env.as_ref())?;
    tracing::info!(index = applied.index, "this member has rebuilt its state from the others");
    Ok(())
}

fn disk_error(config: &Config, error: &std::io::Error) -> Error {
    Error::Fatal(format!("{}: cannot replace the storage engine: {error}", config.data_dir.display()))
}

/// Asks one other member after the other for its state.
async fn attempt(
    config: &Config,
    env: &Arc<dyn Env>,
    identity: &DataIdentity,
    record: &Record,
    purged: u64,
) -> Result<Applied, Error> {
    let own: BTreeSet<&String> = config.initial_advertise_peer_urls.iter().chain(&config.listen_peer_urls).collect();
    let known = record.peer_urls.iter().chain(identity.initial_members.values().flatten());
    let urls: BTreeSet<&String> = known.chain(config.initial_cluster.iter().map(|(_, url)| url)).collect();
    let me =
        Identity { cluster_id: identity.cluster_id, member_id: identity.member_id, data_dir_id: identity.data_dir_id };
    let mut last = Error::Fatal("no other member is known".into());
    for url in urls.difference(&own).map(|url| (*url).clone()) {
        let url = std::slice::from_ref(&url);
        let connected = Peers::connect_once(env.as_ref(), &me, url, CONNECT_TIMEOUT, CHUNK_TIMEOUT).await;
        let connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                last = Error::Fatal(format!("{}: {error}", url[0]));
                continue;
            }
        };
        match receive(config, env, &connection, purged).await {
            Ok(applied) => return Ok(applied),
            Err(error) => last = Error::Fatal(format!("{}: {error}", url[0])),
        }
    }
    Err(last)
}

/// Takes the state of one member into a new engine beside the old one.
async fn receive(config: &Config, env: &Arc<dyn Env>, from: &Connection, purged: u64) -> Result<Applied, Error> {
    let ask =
        async |ask| from.call(GroupId::DEFAULT, ask, CHUNK_TIMEOUT).await.map_err(|e| Error::Fatal(e.to_string()));
    let other = || Error::Fatal("the member gave another answer".into());
    let begin = Ask::PullBegin(pb::PullBegin { purged_index: purged });
    let Answer::PullBegin(pb::PullBeginReply { meta }) = ask(begin).await? else { return Err(other()) };
    let meta = SnapshotMeta::decode(&meta).map_err(storage_error)?;
    if raft::last_of(meta.applied).is_none_or(|(_, index)| index < purged) {
        return Err(Error::Fatal("the state is older than the beginning of this member's log".into()));
    }
    let dir = env.begin_replacement(&config.data_dir).map_err(|error| disk_error(config, &error))?;
    let engine = EngineConfig { cache_bytes: config.engine_cache_bytes };
    let engine = env.open_engine(config.engine, &dir, engine).map_err(|error| Error::Fatal(error.to_string()))?;
    let store = Store::open(engine, GroupId::DEFAULT, StoreConfig::default()).map_err(storage_error)?;
    let store = Arc::new(store);
    let mut installer = store.begin_install().map_err(storage_error)?;
    loop {
        let Answer::PullChunk(chunk) = ask(Ask::PullNext(pb::PullNext {})).await? else { return Err(other()) };
        if chunk.records.is_empty() {
            break;
        }
        for record in chunk.records {
            installer.push(snapshot::decode_record(record)?).map_err(storage_error)?;
        }
    }
    installer.finish(&meta).map_err(storage_error)
}

/// Makes the log fit the state, as after a snapshot of the leader: of what it holds only that goes which the state has, or
/// which contradicts it, and therefore was never committed. The vote stays. Before anything goes, `make_durable` makes durable what
/// the state has: from then on only the engine has it.
///
/// # Errors
/// Those of `make_durable`, and of the log.
pub(crate) async fn fit_log(
    log: &GroupLog,
    applied: Applied,
    make_durable: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let Some((term, index)) = raft::last_of(applied) else { return Ok(()) };
    let state = log.state();
    let begins_behind = state.purged.is_some_and(|(_, purged)| index <= purged);
    if begins_behind || log.term_at(index) == Some(term) {
        return Ok(());
    }
    make_durable()?;
    begin_behind(log, term, index).await.map_err(|error| Error::Fatal(error.to_string()))
}

/// Gives up what the log has from `index` on, and what it has before it.
async fn begin_behind(log: &GroupLog, term: u64, index: u64) -> Result<(), WalError> {
    let state = log.state();
    let purged = state.purged.map_or(0, |(_, purged)| purged);
    log.truncate_after(Some((index - 1).max(purged)))?;
    log.purge(term, index)?;
    // What is queued before it is on the disk when it is.
    let Some(vote) = state.vote else { return Ok(()) };
    let (done, durable) = tokio::sync::oneshot::channel();
    let completion = Completion::new(move |result| {
        // The receiver waits below.
        let _ = done.send(result);
    });
    log.save_vote(vote, completion)?;
    durable.await.unwrap_or(Err(WalError::Closed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_wal::{LogEntry, OsDisk, WalOptions};
    use std::path::Path;

    struct Log {
        log: GroupLog,
        wal: Wal,
        writer: tokio::task::JoinHandle<()>,
    }

    fn open(dir: &Path) -> Log {
        let hook = Arc::new(|error: &WalError| panic!("{error}"));
        let options = WalOptions { segment_bytes: 64 << 10, ..WalOptions::new(dir) };
        let (wal, writer, _preparer) = Wal::open(Arc::new(OsDisk), options, hook).unwrap();
        Log { log: wal.group(0), wal, writer: tokio::spawn(writer.run()) }
    }

    async fn wait(call: impl FnOnce(Completion)) {
        let (done, durable) = tokio::sync::oneshot::channel();
        call(Completion::new(move |outcome| drop(done.send(outcome))));
        durable.await.unwrap().unwrap();
    }

    /// A log with a vote, and entries 5 to 10: up to 7 of term 1, then of term 2.
    async fn filled(dir: &Path) -> Log {
        let log = open(dir);
        wait(|done| log.log.save_vote(Bytes::from_static(b"a vote"), done).unwrap()).await;
        log.log.purge(1, 4).unwrap();
        let entry = |index| LogEntry { term: if index <= 7 { 1 } else { 2 }, index, body: Bytes::from_static(b"x") };
        let (done, durable) = tokio::sync::oneshot::channel();
        let completion = Completion::new(move |outcome| drop(done.send(outcome)));
        log.log.append((5..=10).map(entry).collect(), completion).await.unwrap();
        durable.await.unwrap().unwrap();
        log
    }

    #[tokio::test]
    async fn a_rebuild_keeps_the_vote_and_every_entry_that_the_state_does_not_have() {
        // State, and what the log is afterwards: purged, last.
        let cases = [
            // In the log: nothing goes.
            ((1, 6), (1, 4), (2, 10)),
            ((2, 10), (1, 4), (2, 10)),
            ((1, 4), (1, 4), (2, 10)),
            // Beyond the log: the state has all of it.
            ((2, 15), (2, 15), (2, 15)),
            // Another entry was committed there: what is here from there on was not.
            ((3, 9), (3, 9), (3, 9)),
        ];
        for ((term, index), purged, last) in cases {
            let dir = tempfile::tempdir().unwrap();
            let Log { log, wal, writer } = filled(dir.path()).await;
            let mut made_durable = false;
            let make_durable = || {
                made_durable = true;
                Ok(())
            };
            fit_log(&log, raft::applied_of(term, index), make_durable).await.unwrap();
            assert_eq!(made_durable, purged != (1, 4), "state {term}.{index}: nothing goes that is not durable");
            drop(log);
            wal.close();
            writer.await.unwrap();
            let state = open(dir.path()).log.state();
            assert_eq!(state.vote, Some(Bytes::from_static(b"a vote")));
            assert_eq!((state.purged, state.last.or(state.purged)), (Some(purged), Some(last)), "state {term}.{index}");
        }
    }
}
