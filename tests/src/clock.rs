//! The clock of the day of one process, which can be set, by libfaketime. The monotonic clock stays as it is, as it does when
//! somebody sets the clock of a machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A clock. The process looks at it each second.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// The library of Debian's package `faketime`, if it is here.
    pub fn library() -> Option<PathBuf> {
        let platforms = std::fs::read_dir("/usr/lib").ok()?;
        platforms
            .filter_map(|platform| Some(platform.ok()?.path().join("faketime/libfaketimeMT.so.1")))
            .find(|path| path.is_file())
    }

    /// A clock that is right, controlled by a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(file: &Path) -> Result<Clock> {
        let clock = Clock { file: file.to_owned() };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Sets it: `+3600` is an hour fast, `+0 x1.2` runs fast by a fifth.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, to: &str) -> Result<()> {
        // A rename, so that nobody reads half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{to}\n")).with_context(|| new.display().to_string())?;
        Ok(std::fs::rename(&new, &self.file)?)
    }

    /// Lets a process that is not started yet have this clock.
    pub fn apply(&self, command: &mut Command) {
        let Some(library) = Clock::library() else { return };
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}
