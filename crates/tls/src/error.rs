//! Why TLS cannot be set up. A failed handshake is in [`crate::handshake`].

use std::fmt;
use std::path::{Path, PathBuf};

/// Why TLS cannot be set up, in one line that names the file and says what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Settings that cannot be, alone or together.
    #[error("{0}")]
    Setting(String),
}

impl Error {
    pub(crate) fn file(path: &Path, reason: impl fmt::Display) -> Self {
        Self::File { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn setting(reason: impl fmt::Display) -> Self {
        Self::Setting(reason.to_string())
    }
}
