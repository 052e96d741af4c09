//! `snapshot save`, `status` and `restore`.
//!
//! `save` speaks to a member; the other two read the file alone, as etcdutl does, and take its arguments.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_proto::etcdserverpb::*;
use quorate_server::offline::{self, RestoreRequest};

use crate::context::Context;
use crate::failure::{Exit, Failure, describe};
use crate::golang;
use crate::print::{Reply, SnapshotStatus, line};
use crate::progress::Progress;

/// A snapshot takes as long as it takes, unless the user says otherwise.
const SAVE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// How far `restore` sets the revision ahead unless it is told otherwise: a week of 1,500 writes a second.
const REVISION_BUMP: u64 = 1_000_000_000;

/// A file from a server with its hash at the end has whole sectors and 32 bytes.
const SECTOR_BYTES: u64 = 512;
const HASH_BYTES: u64 = 32;

/// The commands about copies of the storage.
#[derive(Debug, Clone, Subcommand)]
pub enum SnapshotCommand {
    /// Write a copy of a member's storage to a file
    #[command(
        override_usage = "quorate snapshot save [OPTIONS] <FILE>",
        after_help = "The file is complete or not there: it is written as FILE.part, and renamed.\n\nExample:\n  quorate \
                      --endpoints 10.0.0.1:2379 snapshot save backup.db"
    )]
    Save(FileArgs),

    /// Check a snapshot file and show what is in it
    #[command(
        override_usage = "quorate snapshot status [OPTIONS] <FILE>",
        after_help = "Prints hash, revision, total keys, total size and storage version.\n\nExample:\n  quorate snapshot \
                      status backup.db -w table"
    )]
    Status(FileArgs),

    /// Make the data directory of a member of a new cluster from a snapshot file
    #[command(
        override_usage = "quorate snapshot restore [OPTIONS] <FILE>",
        after_help = "Every member of the new cluster restores the same file, with its own --name and \
                      --initial-advertise-peer-urls and the same --initial-cluster; then it is started with the same \
                      options. Never start a restored member in the old cluster.\n\nUnlike etcdutl, it sets the revision \
                      ahead unless --bump-revision=0: clients that had seen writes which the snapshot does not have are \
                      told that history is gone, instead of missing what is written from now on.\n\nExample:\n  quorate \
                      snapshot restore backup.db --name n1 --data-dir /var/lib/quorate --initial-cluster \
                      n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380 --initial-advertise-peer-urls http://10.0.0.1:2380"
    )]
    Restore(Box<RestoreArgs>),
}

/// A file and nothing else. Says in etcd's words what is wrong.
#[derive(Debug, Clone, Default, Args)]
pub struct FileArgs {
    /// Snapshot file
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,

    #[arg(hide = true)]
    unexpected: Vec<String>,
}

impl FileArgs {
    fn path(self, otherwise: &str) -> Result<PathBuf, Failure> {
        self.path.filter(|_| self.unexpected.is_empty()).ok_or_else(|| Failure::arguments(otherwise))
    }
}

/// Arguments of `snapshot restore`.
#[derive(Debug, Clone, Default, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    file: FileArgs,

    /// Directory to make: empty, or not there yet [default: NAME.etcd]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<OsString>,

    /// Directory of the write-ahead log, if not below --data-dir; must not be there yet
    #[arg(long, value_name = "DIR")]
    wal_dir: Option<OsString>,

    /// Name of this member
    #[arg(long, default_value = "default", value_name = "NAME")]
    name: String,

    /// name=peer-url of every member of the new cluster
    #[arg(long, default_value = "default=http://localhost:2380", value_name = "MEMBERS")]
    initial_cluster: String,

    /// Keeps clusters apart that look the same
    #[arg(long, default_value = "etcd-cluster", value_name = "TEXT")]
    initial_cluster_token: String,

    /// Peer URLs of this member, as in --initial-cluster
    #[arg(long, default_value = "http://localhost:2380", value_name = "URLS")]
    initial_advertise_peer_urls: String,

    /// Storage engine of this member: redb, or sled
    #[arg(long, default_value = "redb", value_name = "ENGINE")]
    storage_engine: String,

    /// Take a file whose hash is missing or wrong; the checksums of its blocks must hold all the same
    #[arg(long)]
    skip_hash_check: bool,

    /// How far the revision is set ahead of the snapshot's [default: 1000000000]
    #[arg(long, value_name = "NUMBER")]
    bump_revision: Option<u64>,

    /// Count everything up to the new revision as compacted; required if --bump-revision > 0, disallowed otherwise
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = golang::parse_bool,
          value_name = "BOOL")]
    mark_compacted: Option<bool>,

    /// Accepted for etcdutl's sake: nothing is mapped into memory here
    #[arg(long, value_name = "BYTES", hide = true)]
    initial_memory_map_size: Option<u64>,
}

impl SnapshotCommand {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Save(args) => save(args.path("snapshot save expects one argument")?, context).await,
            Self::Status(args) => status(&args.path("snapshot status requires exactly one argument")?, context),
            Self::Restore(args) => args.run().await,
        }
    }
}

async fn save(path: PathBuf, context: &Context) -> Result<(), Failure> {
    let endpoints = context.endpoints().await?;
    let [endpoint] = endpoints.as_slice() else {
        let message = "snapshot must be requested to one selected node, not multiple";
        return Err(Failure::new(Exit::Interrupted, message));
    };
    let client = context.client_of(std::slice::from_ref(endpoint)).await?;
    let timeout = match context.command_timeout_is_chosen {
        true => context.options.command_timeout,
        false => SAVE_TIMEOUT,
    };
    let part = part_of(&path);
    let client = client.with_timeout(timeout);
    let saved = tokio::select! {
        saved = tokio::time::timeout(timeout, download(&client, &part)) => {
            saved.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
        }
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    match saved.and_then(|version| publish(&part, &path).map(|()| version)) {
        Ok(version) => {
            line(format_args!("Snapshot saved at {}", path.display()))?;
            if version.is_empty() { Ok(()) } else { line(format_args!("Server version {version}")) }
        }
        Err(message) => {
            // Nothing to clean up if the file could not even be made.
            let _ = fs::remove_file(&part);
            Err(Failure::new(Exit::Interrupted, message))
        }
    }
}

fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// Writes the stream to a file and makes it durable. Returns the version of the storage that it is of.
async fn download(client: &quorate_client::Client, path: &Path) -> Result<String, String> {
    let shown = path.display();
    let mut file = private_file(path)
        .map_err(|error| format!("could not open {shown} (open {shown}: {})", golang::os_error(&error)))?;
    let failed = |error: std::io::Error| format!("could not write {shown} ({error})");
    let stream = client.maintenance().snapshot(SnapshotRequest {}).await;
    let mut stream = stream.map_err(|error| describe(&error))?;
    let (mut written, mut remaining, mut version) = (0, 0, String::new());
    let mut progress = Progress::new("saving");
    while let Some(chunk) = stream.message().await.map_err(|status| status.message().to_owned())? {
        file.write_all(&chunk.blob).map_err(failed)?;
        written += chunk.blob.len() as u64;
        remaining = chunk.remaining_bytes;
        version = chunk.version;
        progress.show(written, written + remaining);
    }
    drop(progress);
    if remaining > 0 {
        return Err(format!("the snapshot ended {remaining} bytes too early"));
    }
    if written % SECTOR_BYTES != HASH_BYTES {
        return Err(format!("sha256 checksum not found [bytes: {written}]"));
    }
    file.sync_all().map_err(failed)?;
    Ok(version)
}

/// A file for its owner alone, as etcdctl makes it: it has everybody's keys and hashes of passwords.
fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)
}

/// Gives the file its name, durably. As with etcdctl, an older file of that name is replaced.
fn publish(part: &Path, path: &Path) -> Result<(), String> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::rename(part, path)
        .and_then(|()| File::open(parent)?.sync_all())
        .map_err(|error| format!("could not rename {} to {} ({error})", part.display(), path.display()))
}

fn status(path: &Path, context: &Context) -> Result<(), Failure> {
    check_file(path)?;
    let mut progress = Progress::new("checking");
    let status = offline::snapshot_status(path, |done, total| progress.show(done, total));
    drop(progress);
    let status = status.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
    context.show(Reply::SnapshotStatus(&SnapshotStatus {
        hash: status.hash,
        revision: status.revision.get(),
        total_keys: status.total_keys,
        total_bytes: status.total_bytes,
        version: status.version,
    }))
}

/// Says of a file that is not there what etcdutl says.
fn check_file(path: &Path) -> Result<(), Failure> {
    fs::metadata(path)
        .map(drop)
        .map_err(|error| Failure::new(Exit::Error, format!("stat {}: {}", path.display(), golang::os_error(&error))))
}

impl RestoreArgs {
    async fn run(self) -> Result<(), Failure> {
        let revision_bump = self.revision_bump()?;
        let flags = self.flags();
        let snapshot = self.file.path("snapshot restore requires exactly one argument")?;
        check_file(&snapshot)?;
        let request = RestoreRequest { check_hash: !self.skip_hash_check, revision_bump, flags, snapshot };
        let mut progress = Progress::new("restoring");
        let restored = tokio::select! {
            restored = offline::restore(request, |done, total| progress.show(done, total)) => {
                restored.map_err(|error| Failure::new(Exit::Error, error.to_string()))
            }
            // What was made is removed when the restore is dropped.
            _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Interrupted, "interrupted: nothing was restored")),
        };
        drop(progress);
        let (restored, data_dir) = restored?;
        line(format_args!(
            "Restored member {:x} of cluster {:x} in {}",
            restored.member_id.get(),
            restored.cluster_id.get(),
            data_dir.display()
        ))?;
        line(format_args!("Revision {}, compacted {}", restored.revision, restored.compacted))?;
        if restored.alarms > 0 {
            line(format_args!(
                "The snapshot has {} alarm(s), and the new cluster keeps them: see `quorate alarm list`, `quorate alarm disarm`",
                restored.alarms
            ))?;
        }
        Ok(())
    }

    /// The two options belong together, as with etcdutl; without any of them the revision is set ahead.
    fn revision_bump(&self) -> Result<u64, Failure> {
        match (self.bump_revision, self.mark_compacted) {
            (None, None | Some(true)) => Ok(REVISION_BUMP),
            (Some(0), None | Some(false)) => Ok(0),
            (Some(bump), Some(true)) if bump > 0 => Ok(bump),
            (None | Some(_), None | Some(_)) => Err(Failure::arguments(
                "--mark-compacted required if --bump-revision > 0, disallowed otherwise (neither of them: the revision is set \
                 ahead by 1000000000; --bump-revision=0: it is not)",
            )),
        }
    }

    fn flags(&self) -> Vec<OsString> {
        let flag = |name: &str, value: &std::ffi::OsStr| {
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(value);
            flag
        };
        let texts = [
            ("name", &self.name),
            ("initial-cluster", &self.initial_cluster),
            ("initial-cluster-token", &self.initial_cluster_token),
            ("initial-advertise-peer-urls", &self.initial_advertise_peer_urls),
            ("storage-engine", &self.storage_engine),
        ];
        let texts = texts.into_iter().map(|(name, value)| flag(name, value.as_ref()));
        let dirs = [("data-dir", &self.data_dir), ("wal-dir", &self.wal_dir)];
        let dirs = dirs.into_iter().filter_map(|(name, value)| value.as_ref().map(|value| flag(name, value)));
        texts.chain(dirs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_set_ahead_unless_it_is_not_wanted() {
        for (bump_revision, mark_compacted, expected) in [
            (None, None, Some(REVISION_BUMP)),
            (None, Some(true), Some(REVISION_BUMP)),
            (None, Some(false), None),
            (Some(0), None, Some(0)),
            (Some(0), Some(false), Some(0)),
            (Some(0), Some(true), None),
            (Some(7), None, None),
            (Some(7), Some(false), None),
            (Some(7), Some(true), Some(7)),
        ] {
            let args = RestoreArgs { bump_revision, mark_compacted, ..RestoreArgs::default() };
            assert_eq!(args.revision_bump().ok(), expected, "{bump_revision:?} {mark_compacted:?}");
        }
    }
}
