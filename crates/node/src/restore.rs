//! Work on a data directory that no member runs on. Above all a new one from a snapshot file: how a member of a new cluster begins with the data of an old one.
//!
//! All members restore the same file with the same `--initial-cluster`, so that all begin with the same state at the same log
//! position. `IDENTITY` is written last: a directory without it is refused at start, so what an interrupted restore left is
//! never taken for a member.

use crate::bootstrap::{self, configured_members, local_member, new_identity};
use crate::env::Env;
use crate::error::storage_error;
use crate::raft::{self, MemberNode};
use crate::snapshot::{HashCheck, Opened};
use crate::start::{open_store, take_directory, wal_dir, wal_options};
use crate::{Config, Error};
use quorate_core::{ClusterId, GroupId, MemberId, Revision};
use quorate_storage::NewCluster;
use quorate_wal::{Completion, Wal, WalError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Term and index that the log of a restored cluster begins behind: the same on all its members.
const RESTORED: (u64, u64) = (1, 1);

/// What to restore, and into what.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The snapshot file.
    pub snapshot: PathBuf,
    /// Whether the SHA-256 at the end of the file must be there and right. The checksums inside a file that Quorate wrote are
    /// always checked.
    pub check_hash: bool,
    /// How far the first revision is ahead of the snapshot's newest; if it is, everything before counts as compacted.
    pub revision_bump: u64,
    /// The member: its name, directories, engine, and the cluster that it is going to be a member of.
    pub config: Config,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: ClusterId,
    /// The new member.
    pub member_id: MemberId,
    /// The first revision, that of the data.
    pub revision: Revision,
    /// The oldest readable revision.
    pub compacted: Revision,
    /// Alarms that the old cluster had, and the new one has.
    pub alarms: usize,
}

/// Makes the data directory. `progress` is told how many bytes of the file are done, and how many it has. Yields between
/// blocks; dropped before its end, or failed, it leaves files without an identity behind, which the caller should remove.
///
/// # Errors
/// [`Error::Fatal`]: the file is damaged (with the place), the configuration makes no sense, or the disk fails.
pub async fn restore(
    restore: &Restore,
    env: &Arc<dyn Env>,
    mut progress: impl FnMut(u64, u64) + Send,
) -> Result<Restored, Error> {
    let config = &restore.config;
    let members = configured_members(config)?;
    let me = local_member(config, &members)?;
    let cluster_id = bootstrap::cluster_id(members.keys().copied());
    let nodes: BTreeMap<u64, MemberNode> =
        members.into_iter().map(|(id, (_, peer_urls))| (id, MemberNode { peer_urls, promote: false })).collect();
    // Looked at before anything is made.
    let hash = if restore.check_hash { HashCheck::Required } else { HashCheck::Skipped };
    let mut opened = Opened::open(env.disk().as_ref(), &restore.snapshot, hash)?;
    while opened.scan_some()? {
        let (done, total) = opened.progress();
        progress(done, total);
        tokio::task::yield_now().await;
    }
    let mut file = opened.checked()?;
    let _lock = take_directory(config, env.as_ref())?;
    let identity = new_identity(config, env.as_ref(), cluster_id, me, BTreeMap::new());

    let store = open_store(config, env.as_ref())?;
    let mut installer = store.begin_install().map_err(storage_error)?;
    loop {
        let block = file.next_records()?;
        if block.is_empty() {
            break;
        }
        file.install(block, &mut installer)?;
        let (done, total) = file.progress();
        progress(done, total);
        tokio::task::yield_now().await;
    }
    let (_, total) = file.progress();
    let meta = file.finish()?;
    let (term, index) = RESTORED;
    let new = NewCluster {
        applied: raft::applied_of(term, index),
        membership: raft::first_membership(nodes, term, index).map_err(|error| Error::Fatal(error.to_string()))?,
        revision_bump: restore.revision_bump,
    };
    installer.finish_as_new(&meta, new).map_err(storage_error)?;
    begin_log(config, &identity, env).await.map_err(|error| Error::Fatal(error.to_string()))?;
    // INVARIANT(identity-last): until here the directory is refused at start.
    bootstrap::keep(config, env.as_ref(), &identity)?;
    progress(total, total);
    Ok(Restored {
        cluster_id: ClusterId::new(cluster_id),
        member_id: MemberId::new(me),
        revision: store.revision(),
        compacted: store.compacted(),
        alarms: store.alarms().len(),
    })
}

/// A log that is empty and begins behind [`RESTORED`], and a vote of that term, so that the next leader's term is a new one.
async fn begin_log(config: &Config, identity: &bootstrap::DataIdentity, env: &Arc<dyn Env>) -> Result<(), WalError> {
    let fatal = env.clone();
    let on_fatal = Arc::new(move |error: &WalError| fatal.fatal(&error.to_string()));
    let (wal, writer, _) = Wal::open(env.disk(), wal_options(config, wal_dir(config), identity, env), on_fatal)?;
    let (term, index) = RESTORED;
    let log = wal.group(GroupId::DEFAULT.get());
    let (done, durable) = tokio::sync::oneshot::channel();
    let completion = Completion::new(move |result| {
        // The receiver waits below.
        let _ = done.send(result);
    });
    log.purge(term, index)?;
    log.save_vote(raft::vote_of(term, identity.member_id), completion)?;
    wal.close();
    // Writes what is queued, and returns because the log is closed.
    writer.run().await;
    durable.await.unwrap_or(Err(WalError::Closed))
}

/// What a defragmentation has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defragmented {
    /// What the engine's files took.
    pub bytes_before: u64,
    /// What they take now.
    pub bytes_after: u64,
}

/// Gives space of a stopped member's engine that is not used back to the file system. `progress` is told how many bytes of rows are
/// done, and how many there are. Blocks on the disk.
///
/// # Errors
/// [`Error::Fatal`]: a member runs on the directory, it is not one of Quorate's, or the disk fails.
pub fn defragment(data_dir: &Path, env: &dyn Env, progress: &mut dyn FnMut(u64, u64)) -> Result<Defragmented, Error> {
    let identity = bootstrap::stored_identity(data_dir, env)?.ok_or_else(|| {
        Error::Fatal(format!(
            "{}: this is not the data directory of a member: there is no IDENTITY",
            data_dir.display()
        ))
    })?;
    let config = Config { data_dir: data_dir.to_owned(), engine: identity.engine, ..Config::default() };
    let _lock = take_directory(&config, env)?;
    let store = open_store(&config, env)?;
    let file_bytes = || store.engine_usage().map(|usage| usage.file_bytes).map_err(storage_error);
    let bytes_before = file_bytes()?;
    store.defragment(progress).map_err(storage_error)?;
    Ok(Defragmented { bytes_before, bytes_after: file_bytes()? })
}
