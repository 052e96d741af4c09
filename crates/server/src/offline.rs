//! What is done to files while no member runs on them: a snapshot's status and restore, and defragmentation. Knows
//! directories and flags; what is in the files, `quorate-node` knows.

use crate::{ServerConfig, StartError};
pub use quorate_node::Defragmented;
use quorate_node::Error;
use quorate_node::env::{Env, OsEnv};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use quorate_node::{DiskFault, Restored, SnapshotStatus, Verified};

/// What to restore, and into what.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// The snapshot file.
    pub snapshot: PathBuf,
    /// Whether the SHA-256 at the end of the file must be there and right.
    pub check_hash: bool,
    /// How far the first revision is ahead of the snapshot's newest; if it is, everything before counts as compacted.
    pub revision_bump: u64,
    /// Flags of the server that say who the member is and where its directories are, such as `--name=n1`.
    pub flags: Vec<OsString>,
}

/// Makes the data directory of a member of a new cluster. `progress` is told how many bytes of the file are done, and how many
/// it has. If it fails or is dropped before its end, what it made is removed.
///
/// # Errors
/// [`StartError::Config`] for flags that cannot be, and directories that are not empty; [`StartError::Node`] for a file that
/// is damaged, with the place, and for a disk that fails.
pub async fn restore(
    request: RestoreRequest,
    progress: impl FnMut(u64, u64) + Send,
) -> Result<(Restored, PathBuf), StartError> {
    let config = ServerConfig::parse(request.flags, [])?;
    config.check_bootstrap()?;
    let node = config.node;
    let data_dir = node.data_dir.clone();
    if std::fs::read_dir(&data_dir)
        .map_or_else(|error| error.kind() != std::io::ErrorKind::NotFound, |mut entries| entries.next().is_some())
    {
        return Err(StartError::config(format!("data-dir {:?} not empty or could not be read", data_dir.display())));
    }
    if let Some(dir) = node.wal_dir.as_ref().filter(|dir| dir.exists()) {
        return Err(StartError::config(format!("wal-dir {:?} exists", dir.display())));
    }
    let mut made = Made { dirs: vec![Dir::new(data_dir.clone())] };
    made.dirs.extend(node.wal_dir.clone().map(Dir::new));
    let env: Arc<dyn Env> = Arc::new(OsEnv::new());
    let restore = quorate_node::Restore {
        snapshot: request.snapshot,
        check_hash: request.check_hash,
        revision_bump: request.revision_bump,
        config: node,
    };
    let restored = quorate_node::restore(&restore, &env, progress).await.map_err(StartError::Node)?;
    made.dirs.clear();
    Ok((restored, data_dir))
}

/// Directories that are filled, and emptied again unless all ends well.
struct Made {
    dirs: Vec<Dir>,
}

struct Dir {
    path: PathBuf,
    /// The uppermost directory that was not there, if any.
    new: Option<PathBuf>,
}

impl Dir {
    fn new(path: PathBuf) -> Self {
        let new = path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).last();
        Self { new: new.map(Path::to_owned), path }
    }

    /// Removes what was made; the directory itself only if it was not there before, for it may be a mount point.
    fn clear(&self) -> std::io::Result<()> {
        if let Some(new) = &self.new {
            return std::fs::remove_dir_all(new);
        }
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for dir in &self.dirs {
            if let Err(error) = dir.clear()
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(dir = %dir.path.display(), %error, "cannot remove what the restore left");
            }
        }
    }
}

/// Checks a whole snapshot file, and says what is in it. `progress` is told how many bytes are done, and how many there are.
///
/// # Errors
/// [`Error::Fatal`] with file, offset and what is wrong there.
pub fn snapshot_status(path: &Path, progress: impl FnMut(u64, u64)) -> Result<SnapshotStatus, Error> {
    quorate_node::snapshot_status(OsEnv::new().disk().as_ref(), path, progress)
}

/// Reads all that a stopped member has on disk. `fault` is told what is wrong as it is found, `progress` how many bytes of the
/// storage engine are done, and how many it has.
///
/// # Errors
/// [`Error::Fatal`]: a member runs on the directory, it is none, or the disk fails.
pub fn verify(
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    fault: &mut dyn FnMut(DiskFault),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, Error> {
    let request = quorate_node::Verify { data_dir, wal_dir, scratch: std::env::temp_dir() };
    quorate_node::verify(&request, &OsEnv::new(), fault, progress)
}

/// Gives space of the engine that is not used back to the file system. `progress` is told how many bytes of rows are done, and how
/// many there are.
///
/// # Errors
/// [`Error::Fatal`]: a member runs on the directory, it is none, or the disk fails.
pub fn defragment(data_dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Defragmented, Error> {
    quorate_node::defragment(data_dir, &OsEnv::new(), progress)
}
