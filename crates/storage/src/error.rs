//! The two kinds of failure of this crate. Both are fatal for the group that meets them, unless said otherwise; each text
//! says what to do.

use quorate_core::Rejection;
use std::io;
use std::path::PathBuf;

/// The engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Another process has the database open.
    #[error("{} is in use by another process: stop it, or give this member a data directory of its own", path.display())]
    InUse {
        /// The file or directory.
        path: PathBuf,
    },
    /// The files were written by a version that this one does not know.
    #[error(
        "{} has a format that this version cannot read ({found}): start the version that wrote it, or replace the \
         member (`quorate member replace`)", path.display()
    )]
    Format {
        /// The file or directory.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// The files do not hold what was written to them.
    #[error(
        "{place} is corrupt ({what}): the member must not serve it. With others it rebuilds itself (--self-rebuild), or is \
         replaced (`quorate member replace`); alone, restore a snapshot. `quorate debug verify` tells what else is damaged"
    )]
    Corrupt {
        /// File, and what is known of the place in it.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// There is too little space to begin a write, which was not begun: nothing is lost, and it can be tried again.
    #[error("too little free space at {}: what was written waits for room", path.display())]
    NoSpace {
        /// The directory of the files.
        path: PathBuf,
    },
    /// The operating system failed a call. If it was for want of space, the engine was caught in the middle: unlike after
    /// [`EngineError::NoSpace`] it has to be opened again.
    #[error("storage engine at {}: {source}: check the disk and its free space, then restart the member", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl EngineError {
    /// Whether a write was refused for want of space before it began, so that the engine can go on.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { .. } | Self::InUse { .. } | Self::Format { .. } | Self::Corrupt { .. } => false,
        }
    }
}

/// A store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A row is missing, or is not what was written.
    #[error(
        "{place} is corrupt ({what}): the member must not serve it. With others it rebuilds itself (--self-rebuild), or is \
         replaced (`quorate member replace`); alone, restore a snapshot. `quorate debug verify` tells what else is damaged"
    )]
    Corrupt {
        /// Engine, group, table and row.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The rows were written by a newer version of this program.
    #[error("{place} has format {found}, this version knows up to {known}: start the version that wrote it")]
    NewerFormat {
        /// Engine and group.
        place: String,
        /// Version found.
        found: u32,
        /// Newest version known.
        known: u32,
    },
    /// The revision asked for is not there: compacted, or not yet written. The only variant that is the caller's fault.
    #[error(transparent)]
    Rejected(Rejection),
}

impl StorageError {
    /// Whether something on disk is not what was written.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Engine(EngineError::Corrupt { .. }) => true,
            Self::Engine(
                EngineError::InUse { .. }
                | EngineError::Format { .. }
                | EngineError::NoSpace { .. }
                | EngineError::Io { .. },
            )
            | Self::NewerFormat { .. }
            | Self::Rejected(_) => false,
        }
    }
}

impl From<Rejection> for StorageError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}
