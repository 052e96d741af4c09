//! Everything that a stopped member has on disk, read and compared: identity, write-ahead log, storage engine. Reports every
//! fault with its place, and changes nothing.

use crate::bootstrap::{self, IDENTITY_FILE};
use crate::env::Env;
use crate::raft::{self, check_entry};
use crate::start::in_use;
use crate::{EngineKind, Error};
use bytes::Bytes;
use quorate_core::{GroupId, Revision};
use quorate_storage::{EngineCheck, EngineError, RowFault, StorageError, check_engine, open_for_check};
use quorate_wal::{CheckVisitor, LogEntry, WalCheck, WalFault};
use std::path::{Path, PathBuf};

/// What to verify.
#[derive(Clone, Debug)]
pub struct Verify {
    /// The member's data directory.
    pub data_dir: PathBuf,
    /// Its write-ahead log, if that is not below the data directory.
    pub wal_dir: Option<PathBuf>,
    /// A directory for a copy of an engine that cannot be read without being changed (sled); it is removed again.
    pub scratch: PathBuf,
}

/// Something on disk that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFault {
    /// The file, or the directory of an engine's files.
    pub file: PathBuf,
    /// Byte offset in the file, if that is known.
    pub offset: Option<u64>,
    /// The engine's row, in words.
    pub row: Option<String>,
    /// The user's key that it is about, if that is known.
    pub key: Option<Bytes>,
    /// The revision that it is about, if that is known.
    pub revision: Option<Revision>,
    /// What is wrong.
    pub problem: String,
}

impl DiskFault {
    fn of_file(file: &Path, problem: String) -> Self {
        Self { file: file.to_owned(), offset: None, row: None, key: None, revision: None, problem }
    }

    fn of_log(fault: WalFault) -> Self {
        let WalFault { path, offset, problem } = fault;
        Self { offset, ..Self::of_file(&path, problem) }
    }

    fn of_row(engine: &Path, fault: RowFault) -> Self {
        let RowFault { row, key, revision, problem } = fault;
        Self { row: Some(row), key, revision, ..Self::of_file(engine, problem) }
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The member; `None` if its identity cannot be read.
    pub member_id: Option<u64>,
    /// Its cluster.
    pub cluster_id: Option<u64>,
    /// Its storage engine; `None` if it has none.
    pub engine: Option<EngineKind>,
    /// Of the write-ahead log.
    pub log: WalCheck,
    /// Of the engine.
    pub rows: EngineCheck,
    /// Faults that were found.
    pub faults: u64,
}

/// Reads all that the member on `request.data_dir` has on disk. `fault` is told what is wrong, as it is found; `progress` how
/// many bytes of the engine are done, and how many it has. Blocks on the disk.
///
/// # Errors
/// [`Error::Fatal`]: a member runs on the directory, it is not one of Quorate's, or the disk fails.
pub fn verify(
    request: &Verify,
    env: &dyn Env,
    fault: &mut dyn FnMut(DiskFault),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, Error> {
    let dir = &request.data_dir;
    let disk = env.disk();
    if disk.open_read(&dir.join(IDENTITY_FILE)).is_err() {
        return Err(Error::Fatal(format!(
            "{}: this is not the data directory of a member: there is no {IDENTITY_FILE}",
            dir.display()
        )));
    }
    // Where no member ever ran there is nothing to lock, and nothing is to be made.
    let _lock = match disk.open_read(&dir.join("LOCK")) {
        Ok(_) => Some(env.lock_dir(dir).map_err(|error| in_use(dir, &error))?),
        Err(_) => None,
    };
    let mut seen = Verified::default();
    let mut faults = 0;
    let mut report = |found: DiskFault| {
        faults += 1;
        fault(found);
    };
    match bootstrap::stored_identity(dir, env) {
        Ok(Some(identity)) => {
            seen.member_id = Some(identity.member_id);
            seen.cluster_id = Some(identity.cluster_id);
            seen.engine = Some(identity.engine);
        }
        Ok(None) => {}
        Err(error) => report(DiskFault::of_file(&dir.join(IDENTITY_FILE), error.to_string())),
    }
    let wal_dir = request.wal_dir.clone().unwrap_or_else(|| dir.join("wal"));
    let mut log = LogVisitor { report: &mut report };
    match quorate_wal::check(disk.as_ref(), &wal_dir, &mut log) {
        Ok(checked) => seen.log = checked,
        Err(error) => report(DiskFault::of_log(error.into())),
    }
    let there = |kind: &EngineKind| kind.path(dir).is_some_and(|path| disk.open_read(&path).is_ok());
    let kinds = EngineKind::ALL.into_iter().filter(|kind| seen.engine.is_none_or(|engine| engine == *kind));
    if let Some((kind, path)) = kinds.filter(there).find_map(|kind| Some((kind, kind.path(dir)?))) {
        seen.engine = Some(kind);
        if let Some(rows) = verify_engine(request, kind, &path, &mut report, progress)? {
            seen.rows = rows;
            compare(&seen, &path, &mut report);
        }
    } else if seen.log.purged.contains_key(&GroupId::DEFAULT.get()) {
        report(DiskFault::of_file(
            dir,
            "the storage engine's files are missing, and the log does not reach back".into(),
        ));
    }
    seen.faults = faults;
    Ok(seen)
}

/// `None` if the engine does not open.
fn verify_engine(
    request: &Verify,
    kind: EngineKind,
    path: &Path,
    report: &mut dyn FnMut(DiskFault),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<EngineCheck>, Error> {
    let (engine, damage) = match open_for_check(kind, &request.data_dir, &request.scratch) {
        Ok(opened) => opened,
        Err(error @ EngineError::InUse { .. }) => return Err(Error::Fatal(error.to_string())),
        Err(error) => {
            report(DiskFault::of_file(path, engine_problem(error)));
            return Ok(None);
        }
    };
    if let Some(damage) = damage {
        report(DiskFault::of_file(path, engine_problem(damage)));
    }
    let total = engine.usage().map_or(0, |usage| usage.used_bytes);
    let mut told = |row| report(DiskFault::of_row(path, row));
    match check_engine(engine.as_ref(), &mut told, &mut |done| progress(done, total)) {
        Ok(rows) => Ok(Some(rows)),
        Err(StorageError::Engine(error)) => {
            report(DiskFault::of_file(path, engine_problem(error)));
            Ok(None)
        }
        Err(error) => Err(Error::Fatal(error.to_string())),
    }
}

/// What is wrong, without the advice to a member that runs.
fn engine_problem(error: EngineError) -> String {
    match error {
        EngineError::Corrupt { what, .. } => format!("the engine finds its file damaged: {what}"),
        error @ (EngineError::InUse { .. }
        | EngineError::Format { .. }
        | EngineError::NoSpace { .. }
        | EngineError::Io { .. }) => error.to_string(),
    }
}

/// What the log says of the engine.
fn compare(seen: &Verified, engine: &Path, report: &mut dyn FnMut(DiskFault)) {
    for (group, (_, purged)) in &seen.log.purged {
        let applied = seen.rows.applied.get(group).and_then(|applied| raft::last_of(*applied));
        let applied = applied.map_or(0, |(_, index)| index);
        if *purged > applied {
            let problem =
                format!("the log begins after entry {purged}, and the engine has nothing after entry {applied}");
            report(DiskFault::of_file(engine, problem));
        }
    }
}

struct LogVisitor<'a> {
    report: &'a mut dyn FnMut(DiskFault),
}

impl CheckVisitor for LogVisitor<'_> {
    fn entry(&mut self, group: u32, entry: LogEntry) -> Result<(), String> {
        let index = entry.index;
        check_entry(entry.term, index, entry.body).map_err(|error| format!("group {group}: entry {index}: {error}"))
    }

    fn fault(&mut self, fault: WalFault) {
        (self.report)(DiskFault::of_log(fault));
    }
}
