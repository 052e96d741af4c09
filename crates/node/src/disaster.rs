//! `--force-new-cluster`: the last member of a cluster that has lost its quorum becomes a cluster of one, with all that it has.
//!
//! Done before Raft starts: a membership of this member alone is appended to the log, and Raft takes the last membership that it
//! finds there. Nothing of the log is dropped, so an entry that was committed stays. The old members are forgotten as soon as
//! the member leads, so that they are refused if they come back with what they have.
//!
//! A flag like this stays in a unit file. Carried out at each start it would throw out whoever has joined since; so it is
//! carried out once, and not again before the member has been started without it.

use crate::bootstrap::DataIdentity;
use crate::env::Env;
use crate::raft::{self, MemberNode};
use crate::{Config, Error};
use quorate_core::GroupId;
use quorate_storage::Store;
use quorate_wal::{Completion, LogEntry, Wal};
use std::collections::BTreeMap;
use std::path::Path;

/// Says that it was carried out, and that the member has not been started without the flag since.
const MARK: &str = "FORCED-NEW-CLUSTER";

/// Carries the flag out, if it is set and was not before.
///
/// # Errors
/// [`Error::Fatal`] if the disk fails.
pub(crate) async fn apply_flag(
    config: &Config,
    env: &dyn Env,
    identity: &DataIdentity,
    wal: &Wal,
    store: &Store,
) -> Result<(), Error> {
    let disk = env.disk();
    let mark = config.data_dir.join(MARK);
    let fatal = |error: &std::io::Error| Error::Fatal(format!("{}: {error}", mark.display()));
    let marked = match disk.open_read(&mark) {
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(fatal(&error)),
    };
    match (config.force_new_cluster, marked) {
        (false, false) => Ok(()),
        (false, true) => {
            disk.remove(&mark).and_then(|()| disk.sync_dir(&config.data_dir)).map_err(|error| fatal(&error))
        }
        (true, true) => {
            tracing::warn!(
                "--force-new-cluster is set, was carried out at an earlier start, and is IGNORED now: members that have \
                 joined since stay. Take it out of the command line. (To use it again, start the member once without it.)"
            );
            Ok(())
        }
        (true, false) => {
            force(config, identity, wal, store).await?;
            write_mark(env, &config.data_dir, &mark).map_err(|error| fatal(&error))
        }
    }
}

async fn force(config: &Config, identity: &DataIdentity, wal: &Wal, store: &Store) -> Result<(), Error> {
    let log = wal.group(GroupId::DEFAULT.get());
    let state = log.state();
    let Some((term, index)) = state.last.or(state.purged) else {
        tracing::warn!(
            "--force-new-cluster changes nothing: there is no data here, and the cluster is a new one anyway"
        );
        return Ok(());
    };
    let me = identity.member_id;
    let members = raft::members_of(&store.membership()).map_err(|error| Error::Fatal(error.to_string()))?;
    let mine = members.iter().find(|member| member.id == me);
    let peer_urls = mine.map_or_else(|| config.initial_advertise_peer_urls.clone(), |m| m.node.peer_urls.clone());
    let others: Vec<String> = members.iter().filter(|m| m.id != me).map(|m| format!("{:x}", m.id)).collect();
    tracing::warn!(
        member = format!("{me:x}"),
        dropped = others.join(","),
        "--force-new-cluster: this member becomes a cluster of one. What the others had and this member did not is LOST. They \
         must not run any more: delete their data directories and add them as new members. Take the flag out now."
    );
    let nodes = BTreeMap::from([(me, MemberNode { peer_urls, promote: false })]);
    let body = raft::membership_body(nodes).map_err(|error| Error::Fatal(error.to_string()))?;
    let (done, durable) = tokio::sync::oneshot::channel();
    let completion = Completion::new(move |result| {
        // The receiver waits below.
        let _ = done.send(result);
    });
    let fatal = |error: quorate_wal::WalError| Error::Fatal(error.to_string());
    log.append(vec![LogEntry { term, index: index + 1, body }], completion).await.map_err(fatal)?;
    durable.await.map_err(|_| Error::Stopped)?.map_err(fatal)
}

/// Behind the log: whoever ends between the two does it again, and that changes nothing.
fn write_mark(env: &dyn Env, dir: &Path, mark: &Path) -> std::io::Result<()> {
    let disk = env.disk();
    disk.create(mark)?.sync_data()?;
    disk.sync_dir(dir)
}
