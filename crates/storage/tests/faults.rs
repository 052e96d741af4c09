//! Kill, power cut, bit flip, full disk: what was flushed is there, what is there fits together, nothing wrong is served.

mod common;

use bytes::Bytes;
use common::{Model, all};
use quorate_core::{Delta, GroupId, Lease, LeaseId, Revision, SystemChange, View};
use quorate_storage::engine::{Engine, EngineConfig, EngineKind, RedbEngine, open_engine};
use quorate_storage::{Progress, StorageError, Store, StoreConfig, check_engine, open_for_check};
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

const ENTRIES_MAX: usize = 400;

/// A random number generator that fits in a line.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Entry number `i` of a fixed log.
fn entry(model: &Model, i: usize) -> Delta {
    let key = |n: usize| Bytes::from(format!("key/{:02}", n % 23));
    match i % 20 {
        0 => model.system(SystemChange::LeaseSet(Lease {
            id: LeaseId::new((i / 20 % 4 + 1) as i64),
            ttl_seconds: i as i64 + 1,
            remaining_ttl_seconds: 0,
        })),
        7 => model.write(&[], &[key(i), key(i + 3)]),
        11 => model.write(&[(key(i * 5), 30, 1), (key(i * 5 + 1), 3000, 0)], &[key(i * 5 + 2)]),
        13 if model.revision() > model.compacted + 15 => model.compact(model.revision() - 5),
        _ => model.write(&[(key(i * 7), i % 3 * 400, 0)], &[]),
    }
}

fn store_on(engine: Arc<dyn Engine>) -> Result<Store, StorageError> {
    Store::open(
        engine,
        GroupId::DEFAULT,
        StoreConfig { tail_bytes_max: 1 << 20, cache_bytes_max: 4000, ..StoreConfig::default() },
    )
}

fn open(kind: EngineKind, dir: &Path) -> Result<Store, StorageError> {
    store_on(open_engine(kind, dir, EngineConfig { cache_bytes: 1 << 20 })?)
}

/// Some of what the owner does behind the writer.
fn maintain(store: &Store, i: usize) -> Result<(), StorageError> {
    if i.is_multiple_of(3) {
        store.drain(2000)?;
    }
    if i.is_multiple_of(5) {
        store.checkpoint_step(6)?;
    }
    if i.is_multiple_of(4) {
        store.compaction_step(6)?;
    }
    Ok(())
}

/// The model after `entries` entries of the fixed log.
fn model_at(entries: usize) -> Model {
    let mut model = Model::default();
    for i in 0..entries {
        model.push(common::Entry::Commands(vec![entry(&model, i)]));
    }
    model
}

/// Checks that the store is the outcome of a part of the fixed log that has everything up to `flushed`.
fn check_prefix(store: &Store, flushed: usize) -> Model {
    let have = store.applied().index as usize;
    assert!(have >= flushed, "{flushed} entries were flushed, {have} are there");
    let model = model_at(have);
    model.check(store);
    model
}

/// In the child: writes on where the store is, and tells on standard output what is flushed, until it is killed.
fn write_on(kind: EngineKind, dir: &Path) {
    let store = open(kind, dir).expect("the store opens");
    let mut model = model_at(store.applied().index as usize);
    while model.log.len() < ENTRIES_MAX {
        let i = model.log.len();
        model.run(&store, entry(&model, i));
        maintain(&store, i).expect("the engine works");
        if i.is_multiple_of(7) {
            println!("flushed {}", store.flush().expect("the flush works").index);
        }
    }
}

#[test]
#[ignore = "the child of other tests"]
fn child() {
    let Ok(arguments) = std::env::var("QUORATE_STORAGE_CHILD") else { return };
    let (kind, dir) = arguments.split_once(' ').expect("an engine and a directory");
    let kind = if kind == "sled" { EngineKind::Sled } else { EngineKind::Redb };
    write_on(kind, Path::new(dir));
}

fn spawn_child(kind: EngineKind, dir: &Path) -> Child {
    let name = if kind == EngineKind::Sled { "sled" } else { "redb" };
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env("QUORATE_STORAGE_CHILD", format!("{name} {}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The number behind `flushed ` in a line of the child.
fn flushed_in(line: &str) -> Option<usize> {
    line.split_once("flushed ").and_then(|(_, number)| number.parse().ok())
}

fn kill_and_reopen(kind: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    let mut flushed = 0;
    for _ in 0..5 {
        let mut child = spawn_child(kind, dir.path());
        let mut wait = 1 + random.below(8);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(index) = flushed_in(&line.unwrap()) {
                flushed = index;
                wait -= 1;
            }
            if wait == 0 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        check_prefix(&open(kind, dir.path()).unwrap(), flushed);
    }
    assert!(flushed > 50, "the child got somewhere: {flushed}");
}

#[test]
fn redb_survives_kills() {
    kill_and_reopen(EngineKind::Redb);
}

#[test]
fn sled_survives_kills() {
    kill_and_reopen(EngineKind::Sled);
}

/// What a look at everything found.
#[derive(Debug, PartialEq)]
enum Verdict {
    Harmless,
    Detected(String),
    Wrong(String),
}

/// Reads everything, and compares it with the model, telling an error from a wrong answer.
fn look(kind: EngineKind, dir: &Path, model: &Model) -> Verdict {
    let look = || -> Result<Option<String>, StorageError> {
        let store = open(kind, dir)?;
        let view = store.view();
        if store.applied().index != model.log.len() as u64 || store.compacted().get() != model.compacted {
            return Ok(Some("another position".to_owned()));
        }
        if store.leases() != model.leases.values().copied().collect::<Vec<_>>() {
            return Ok(Some("other leases".to_owned()));
        }
        for at in [model.compacted, model.revision()] {
            let mut found = BTreeMap::new();
            let mut failure = None;
            view.keys(&all(), Revision::new(at), &mut |key, meta| {
                match view.record(meta.modified) {
                    Ok(record) => drop(found.insert(Bytes::copy_from_slice(key), record)),
                    Err(error) => failure = Some(error),
                }
                ControlFlow::Continue(())
            });
            if let Some(error) = failure {
                return Err(error);
            }
            if found != model.live(at) {
                return Ok(Some(format!("other keys at {at}")));
            }
        }
        let mut scanned = Vec::new();
        view.scan_records(Revision::new(model.compacted + 1), view.revision(), &mut |record| {
            scanned.push(record);
            ControlFlow::Continue(())
        })?;
        let above = |record: &&quorate_core::Record| record.rev.main.get() > model.compacted;
        if scanned != model.records.iter().filter(above).cloned().collect::<Vec<_>>() {
            return Ok(Some("another history".to_owned()));
        }
        let mut exporter = store.export();
        let mut exported = Vec::new();
        loop {
            let records = exporter.next(1 << 20)?;
            if records.is_empty() {
                break;
            }
            exported.extend(records);
        }
        Ok((exported != model.kept(model.revision())).then(|| "another snapshot".to_owned()))
    };
    match catch_unwind(AssertUnwindSafe(look)) {
        Ok(Ok(None)) => Verdict::Harmless,
        Ok(Ok(Some(what))) => Verdict::Wrong(what),
        Ok(Err(error)) => Verdict::Detected(error.to_string()),
        // The engine's own checks; in production the process ends.
        Err(_) => Verdict::Detected("panic".to_owned()),
    }
}

fn files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let content = std::fs::read(&path).unwrap();
            found.push((path, content));
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// How many faults a check finds; `None` if the engine gave up.
fn check(kind: EngineKind, dir: &Path) -> Option<usize> {
    let scratch = tempfile::tempdir().unwrap();
    let check = || {
        let Ok((engine, damage)) = open_for_check(kind, dir, scratch.path()) else { return None };
        let mut found = usize::from(damage.is_some());
        check_engine(engine.as_ref(), &mut |_| found += 1, &mut |_| {}).ok().map(|_| found)
    };
    catch_unwind(AssertUnwindSafe(check)).ok().flatten()
}

fn flip_bits(kind: EngineKind, flips: usize) {
    let origin = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    {
        let store = open(kind, origin.path()).unwrap();
        for i in 0..150 {
            model.run(&store, entry(&model, i));
            maintain(&store, i).unwrap();
        }
        while store.compaction_step(50).unwrap() == Progress::Working {}
        store.flush().unwrap();
    }
    assert_eq!(check(kind, origin.path()), Some(0));
    assert_eq!(look(kind, origin.path(), &model), Verdict::Harmless);
    assert_eq!(check(kind, origin.path()), Some(0));
    let mut random = Random(3);
    let mut detected = 0;
    for _ in 0..flips {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        let mut files = files(dir.path());
        files.retain(|(_, content)| !content.is_empty());
        let file = random.below(files.len());
        let (path, content) = &mut files[file];
        // Free space is of no interest.
        let used: Vec<usize> = content.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        if used.is_empty() {
            continue;
        }
        let at = used[random.below(used.len())];
        content[at] ^= 1 << random.below(8);
        std::fs::write(&*path, &*content).unwrap();
        let found = check(kind, dir.path());
        assert_eq!(std::fs::read(&*path).unwrap(), *content, "a check changes nothing");
        match look(kind, dir.path(), &model) {
            Verdict::Detected(what) if found == Some(0) => {
                panic!("a flip in byte {at} of {} gave {what}, and a check finds nothing", path.display())
            }
            Verdict::Wrong(what) => panic!("a flip in byte {at} of {} gave {what}", path.display()),
            Verdict::Detected(_) => detected += 1,
            Verdict::Harmless => {}
        }
    }
    println!("{kind:?}: {detected} of {flips} flips detected, the others harmless");
    assert!(detected > flips / 20, "only {detected} of {flips} flips were detected: did they meet the data at all?");
}

#[test]
fn redb_never_serves_flipped_bits() {
    flip_bits(EngineKind::Redb, 150);
}

#[test]
fn sled_never_serves_flipped_bits() {
    flip_bits(EngineKind::Sled, 60);
}

/// A disk that keeps what was synced, and of the rest whatever it likes, by sectors.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<DiskState>>);

#[derive(Debug, Default)]
struct DiskState {
    /// As the running process sees it.
    seen: Vec<u8>,
    /// As it is after a power cut, but for what is pending.
    synced: Vec<u8>,
    pending: Vec<Write>,
    /// So many syncs from now one fails: what it should have written is not on the disk, and counts as clean.
    fails_in: Option<usize>,
}

#[derive(Debug)]
enum Write {
    Length(usize),
    Data(usize, Vec<u8>),
}

const SECTOR_BYTES: usize = 512;

impl Write {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Write::Length(len) => content.resize(*len, 0),
            Write::Data(offset, data) => content[*offset..*offset + data.len()].copy_from_slice(data),
        }
    }
}

impl Disk {
    /// The disk after a power cut.
    fn cut(&self, random: &mut Random) -> Self {
        let state = self.0.lock().unwrap();
        let mut left = state.synced.clone();
        let keep_in_16 = random.below(17);
        for write in &state.pending {
            match write {
                Write::Length(len) => left.resize(*len, 0),
                Write::Data(offset, data) => {
                    for (i, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        let at = offset + i * SECTOR_BYTES;
                        if random.below(16) < keep_in_16 && at + sector.len() <= left.len() {
                            left[at..at + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        Self(Arc::new(Mutex::new(DiskState { seen: left.clone(), synced: left, ..DiskState::default() })))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let found = state.seen.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.seen.resize(len as usize, 0);
        state.pending.push(Write::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let pending = std::mem::take(&mut state.pending);
        let fails = state.fails_in == Some(0);
        state.fails_in = state.fails_in.and_then(|syncs| syncs.checked_sub(1));
        if fails {
            // A length is no page: the file system's own journal has it.
            state.pending.extend(pending.into_iter().filter(|write| matches!(write, Write::Length(_))));
            return Err(io::Error::other("an fsync that fails"));
        }
        for write in pending {
            write.apply(&mut state.synced);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let offset = offset as usize;
        state.seen[offset..offset + data.len()].copy_from_slice(data);
        state.pending.push(Write::Data(offset, data.to_vec()));
        Ok(())
    }
}

#[test]
fn redb_survives_power_cuts() {
    let mut random = Random(11);
    let mut disk = Disk::default();
    let mut flushed = 0;
    for cut in 0..40 {
        let engine = RedbEngine::with_backend("disk", disk.clone(), EngineConfig { cache_bytes: 1 << 20 }).unwrap();
        let store = store_on(Arc::new(engine)).unwrap();
        let mut model = check_prefix(&store, flushed);
        let entries = random.below(25);
        let mut after = None;
        for step in 0..entries {
            let i = model.log.len();
            model.run(&store, entry(&model, i));
            maintain(&store, i).unwrap();
            if random.below(6) == 0 {
                flushed = store.flush().unwrap().index as usize;
            }
            if step == entries / 2 && cut % 2 == 0 {
                // Half of the cuts come while the process runs on, so that its orderly end is not what is tested.
                after = Some((disk.cut(&mut random), flushed));
            }
        }
        (disk, flushed) = after.unwrap_or_else(|| (disk.cut(&mut random), flushed));
        drop(store);
    }
    assert!(flushed > 100, "the log got somewhere: {flushed}");
}

fn open_disk(disk: &Disk) -> Result<Store, StorageError> {
    store_on(Arc::new(RedbEngine::with_backend("disk", disk.clone(), EngineConfig { cache_bytes: 1 << 20 })?))
}

/// The process ends at an fsync that fails, as it must, and is started again on a page cache that has more than the disk and
/// calls it clean. After that a power cut. A flush makes pages durable before what points to them, so that nothing is lost
/// that a later flush has promised.
#[test]
fn redb_survives_a_failed_fsync_and_a_power_cut_after_it() {
    let mut random = Random(5);
    let mut failed = 0;
    for round in 0..60 {
        let disk = Disk::default();
        let (mut entries, mut flushed) = (0, 0);
        for fails_in in [Some(round % 2), None] {
            let store = open_disk(&disk).unwrap();
            let mut model = check_prefix(&store, flushed);
            for _ in 0..20 + random.below(60) {
                let i = model.log.len();
                model.run(&store, entry(&model, i));
                maintain(&store, i).unwrap();
                if random.below(12) == 0 {
                    flushed = store.flush().unwrap().index as usize;
                }
            }
            disk.0.lock().unwrap().fails_in = fails_in;
            match store.flush() {
                Ok(position) => flushed = position.index as usize,
                Err(_) => {
                    failed += 1;
                    // Its process has no orderly end.
                    std::mem::forget(store);
                }
            }
            entries = model.log.len();
        }
        let store = open_disk(&disk.cut(&mut random)).unwrap();
        check_prefix(&store, flushed);
        assert!(flushed > entries / 2);
    }
    assert_eq!(failed, 60);
}

/// A small file system, unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(dir: &'a Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }

    fn enlarge(&self) {
        let status = Command::new("mount").args(["-o", "remount,size=200m"]).arg(self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

fn fill_disk(kind: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), "size=40m") else {
        eprintln!("skipped: needs the right to mount a tmpfs");
        return;
    };
    let store = open(kind, dir.path()).unwrap();
    let mut model = Model::default();
    let failure = loop {
        let i = model.log.len();
        assert!(i < 400, "the disk is never full");
        model.run(&store, model.write(&[(Bytes::from(format!("big/{i}")), 200_000, 0)], &[]));
        let step = if i.is_multiple_of(7) { store.flush().map(drop) } else { store.drain(usize::MAX).map(drop) };
        if let Err(error) = step {
            break error;
        }
    };
    assert!(matches!(&failure, StorageError::Engine(error) if error.is_disk_full()), "{failure}");
    model.check_view(&store.view(), 0);
    assert!(store.drain(usize::MAX).is_err(), "it is still full");

    disk.enlarge();
    model.run(&store, model.write(&[(Bytes::from_static(b"more"), 10, 0)], &[]));
    assert_eq!(store.flush().unwrap().index as usize, model.log.len());
    drop(store);
    let store = open(kind, dir.path()).unwrap();
    model.check_view(&store.view(), 0);
}

#[test]
fn redb_comes_back_from_a_full_disk() {
    fill_disk(EngineKind::Redb);
}

#[test]
fn sled_comes_back_from_a_full_disk() {
    fill_disk(EngineKind::Sled);
}

#[test]
fn a_database_that_is_open_is_said_to_be_in_use() {
    for kind in [EngineKind::Redb, EngineKind::Sled] {
        let dir = tempfile::tempdir().unwrap();
        let first = open(kind, dir.path()).unwrap();
        let error = open(kind, dir.path()).err().expect("it is locked").to_string();
        assert!(error.contains("in use by another process"), "{error}");
        drop(first);
        open(kind, dir.path()).unwrap();
    }
}

#[test]
fn a_file_that_is_no_database_is_said_to_be_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("engine.redb"), vec![0x5a; 100_000]).unwrap();
    let error = open(EngineKind::Redb, dir.path()).err().expect("it does not open").to_string();
    assert!(error.contains("engine.redb is corrupt"), "{error}");
}
