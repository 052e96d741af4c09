//! Something that is made from files, and made anew when they change. Knows neither TLS nor whom to tell.
//!
//! Guarantees: what is handed out was made whole from files that fit together. Files that cannot be used leave the last
//! good one in place, are said once, and are tried again.

use crate::Error;
use parking_lot::Mutex;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How soon files that could not be used are read again though they look the same.
const RETRY_AFTER: Duration = Duration::from_secs(2);

type Load<T> = dyn Fn() -> Result<T, Error> + Send + Sync;

pub(crate) struct Reloading<T> {
    /// Whom it is for, for the log.
    subject: &'static str,
    files: Vec<PathBuf>,
    load: Box<Load<T>>,
    state: Mutex<State<T>>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

struct State<T> {
    current: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    broken: Option<(Error, Instant)>,
}

/// Differs when a file was replaced or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        // Through links: Kubernetes changes where a link points to.
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl<T> Reloading<T> {
    /// Makes it for the first time; `files` are those that `load` reads.
    pub(crate) fn new(
        subject: &'static str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        // The stamps come first: a change while the files are read is then seen next time.
        let stamps = stamps(&files);
        let current = Arc::new(load()?);
        let state = Mutex::new(State { current, stamps, broken: None });
        Ok(Self {
            subject,
            files,
            load: Box::new(load),
            state,
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// The one of now. Looks at the files, so it may wait for the disk.
    pub(crate) fn current(&self) -> Arc<T> {
        let stamps = stamps(&self.files);
        let mut state = self.state.lock();
        let is_due = state.broken.as_ref().is_some_and(|(_, since)| since.elapsed() >= RETRY_AFTER);
        if stamps != state.stamps || is_due {
            self.reload(&mut state, stamps);
        }
        Arc::clone(&state.current)
    }

    /// The last one that was handed out.
    pub(crate) fn last(&self) -> Arc<T> {
        Arc::clone(&self.state.lock().current)
    }

    /// How often new files were taken.
    pub(crate) fn reloads(&self) -> u64 {
        self.reloads.load(Relaxed)
    }

    /// How often changed files could not be used.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    fn reload(&self, state: &mut State<T>, stamps: Vec<Option<Stamp>>) {
        let changed = state.stamps != stamps;
        state.stamps = stamps;
        match (self.load)() {
            Ok(new) => {
                state.current = Arc::new(new);
                state.broken = None;
                self.reloads.fetch_add(1, Relaxed);
                tracing::info!("TLS for {}: the files have changed and are in use from now on", self.subject);
            }
            Err(error) => {
                let is_news = changed || state.broken.as_ref().is_none_or(|(known, _)| *known != error);
                if is_news {
                    self.failures.fetch_add(1, Relaxed);
                    tracing::error!(
                        %error,
                        "TLS for {}: the files have changed and cannot be used; the earlier ones stay in use",
                        self.subject
                    );
                }
                state.broken = Some((error, Instant::now()));
            }
        }
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    files.iter().map(|path| Stamp::of(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn number(path: &Path) -> Result<u32, Error> {
        let text = fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
        text.trim().parse().map_err(|error| Error::file(path, error))
    }

    #[test]
    fn changes_are_taken_and_nonsense_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        let file = path.clone();
        assert!(Reloading::new("tests", vec![path.clone()], move || number(&file)).is_err(), "there is no file");

        fs::write(&path, "1").unwrap();
        let file = path.clone();
        let reloading = Reloading::new("tests", vec![path.clone()], move || number(&file)).unwrap();
        assert_eq!((*reloading.current(), reloading.reloads()), (1, 0));

        fs::write(&path, "22").unwrap();
        assert_eq!((*reloading.current(), reloading.reloads(), reloading.failures()), (22, 1, 0));

        fs::write(&path, "nonsense").unwrap();
        assert_eq!((*reloading.current(), *reloading.current()), (22, 22));
        assert_eq!((reloading.reloads(), reloading.failures()), (1, 1), "said once");

        // Replaced, as `mv` and Kubernetes do: the same size and perhaps the same time.
        let beside = dir.path().join("new");
        fs::write(&beside, "33").unwrap();
        fs::rename(&beside, &path).unwrap();
        assert_eq!((*reloading.current(), *reloading.last(), reloading.reloads()), (33, 33, 2));

        fs::remove_file(&path).unwrap();
        assert_eq!((*reloading.current(), reloading.failures()), (33, 2));
    }
}
