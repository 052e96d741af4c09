//! Every file that the project reads, mutated: what comes of it is what was in it, or an error with the place; never a panic,
//! never much memory or time, never something else.
//!
//! Real files are changed by a seeded generator. Where a checksum would stop it at the door, it is set right again in half of
//! the rounds, so that what is behind the door is tried as well. `QUORATE_FUZZ_ROUNDS` asks for more rounds, and
//! `QUORATE_FUZZ_SEED` for other ones; a failure tells its seed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_core::{Change, Delta, GroupId, KeyRange, Lease, LeaseId, Record, Rev, Revision, SystemChange};
use quorate_storage::engine::{Batch, Engine, MemoryEngine};
use quorate_storage::{Applied, StorageError, Store, StoreConfig};
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::quorate::Quorate;
use quorate_tests::tools::scratch_dir;
use quorate_wal::{Completion, LogEntry, LogState, OsDisk, Wal, WalError, WalOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// What one round may take, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Numbers where decoders go wrong.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// A number in the environment.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs `round` with a generator of its own each time, and tells which it was that failed.
fn rounds(default: u64, mut round: impl FnMut(&mut StdRng)) {
    let first = asked("QUORATE_FUZZ_SEED").unwrap_or(1);
    for seed in first..first + asked("QUORATE_FUZZ_ROUNDS").unwrap_or(default) {
        let start = Instant::now();
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| round(&mut StdRng::seed_from_u64(seed))));
        if let Err(panic) = outcome {
            println!("again with QUORATE_FUZZ_SEED={seed} QUORATE_FUZZ_ROUNDS=1");
            std::panic::resume_unwind(panic);
        }
        assert!(start.elapsed() < PATIENCE, "seed {seed} took {:?}", start.elapsed());
    }
}

/// Changes some bytes: flips, edges of numbers, zeroes, bytes from elsewhere, a cut, something behind the end.
fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        if bytes.is_empty() {
            bytes.push(random.random());
            continue;
        }
        let at = random.random_range(0..bytes.len());
        let length = random.random_range(1..17).min(bytes.len() - at);
        match random.random_range(0..7) {
            0 | 1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => {
                let edge = EDGES[random.random_range(0..EDGES.len())].to_le_bytes();
                let length = length.min(8);
                bytes[at..at + length].copy_from_slice(&edge[..length]);
            }
            3 => bytes[at..at + length].fill(0),
            4 => {
                let from = random.random_range(0..=bytes.len() - length);
                let elsewhere = bytes[from..from + length].to_vec();
                bytes[at..at + length].copy_from_slice(&elsewhere);
            }
            5 => bytes.truncate(at),
            _ => bytes.extend((0..length).map(|_| random.random::<u8>())),
        }
    }
}

/// Bytes of memory that this process has had at most.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// The log's files.
struct LogDir {
    dir: tempfile::TempDir,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

type LogContents = Vec<(LogState, Vec<LogEntry>)>;

fn log_options(dir: &Path) -> WalOptions {
    WalOptions { segment_bytes: 4 << 10, ..WalOptions::new(dir) }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What a group's entry of an index is.
fn logged(group: u32, index: u64) -> LogEntry {
    let body = Bytes::from(vec![b'a' + group as u8; 40 + index as usize * 7 % 90]);
    LogEntry { term: 1, index, body }
}

/// Opens a log and says what is in it; writes to two groups before, if `fill`.
async fn visit_log(dir: &Path, fill: bool) -> Result<LogContents, WalError> {
    let hook = Arc::new(|error: &WalError| panic!("{error}"));
    let (wal, writer, preparer) = Wal::open(Arc::new(OsDisk), log_options(dir), hook)?;
    let (writer, preparer) = (tokio::spawn(writer.run()), tokio::spawn(preparer.run()));
    if fill {
        for index in 0..40 {
            for group in [1, 2] {
                let (done, outcome) = tokio::sync::oneshot::channel();
                let done = Completion::new(move |written| drop(done.send(written)));
                wal.group(group).append(vec![logged(group, index)], done).await?;
                outcome.await.expect("every completion is called")?;
            }
        }
        wal.group(1).purge(1, 5)?;
        wal.group(2).truncate_after(Some(30))?;
        wal.group(1).save_committed(Bytes::from_static(b"1-30"))?;
    }
    let contents = [1, 2].map(|group| Ok((wal.group(group).state(), wal.group(group).read(0..u64::MAX, u64::MAX)?)));
    wal.close();
    writer.await.expect("the writer's end");
    preparer.await.expect("the preparer's end");
    contents.into_iter().collect()
}

impl LogDir {
    fn new() -> LogDir {
        let dir = scratch_dir().expect("a directory");
        runtime().block_on(visit_log(dir.path(), true)).expect("a log");
        let files = std::fs::read_dir(dir.path()).expect("a directory").map(|file| {
            let path = file.expect("a file").path();
            let bytes = std::fs::read(&path).expect("a file");
            (path, bytes)
        });
        let files = files.collect();
        LogDir { dir, files }
    }

    fn restore(&self) {
        for file in std::fs::read_dir(self.dir.path()).expect("a directory") {
            std::fs::remove_file(file.expect("a file").path()).expect("it goes");
        }
        for (path, bytes) in &self.files {
            std::fs::write(path, bytes).expect("a file");
        }
    }
}

/// Sets the checksums of a segment's header and of its records right.
fn reseal_segment(bytes: &mut [u8]) {
    const HEADER: usize = 64;
    const RECORD: usize = 48;
    if bytes.len() < HEADER {
        return;
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..HEADER]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let mut at = HEADER;
    while let Some(length) = bytes.get(at + 4..at + 8) {
        let end = at + RECORD + u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let Some(record) = bytes.get(at + 4..end) else { return };
        if record.iter().all(|byte| *byte == 0) {
            return;
        }
        let crc = crc32c::crc32c(record);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        at = end.next_multiple_of(8);
    }
}

#[test]
fn segments_of_the_log() {
    let log = LogDir::new();
    let segments: Vec<&PathBuf> = log.files.keys().collect();
    let runtime = runtime();
    let (mut same, mut refused) = (0, 0);
    rounds(250, |random| {
        log.restore();
        let path = segments[random.random_range(0..segments.len())];
        let mut bytes = log.files[path].clone();
        mutate(random, &mut bytes);
        let sealed = random.random_bool(0.5);
        if sealed {
            reseal_segment(&mut bytes);
        }
        std::fs::write(path, &bytes).expect("a file");
        match runtime.block_on(visit_log(log.dir.path(), false)) {
            // What a checksum says is whole is what somebody wrote.
            Ok(_) if sealed => same += 1,
            Ok(contents) => {
                for (group, (state, entries)) in contents.iter().enumerate() {
                    // As after a power cut, the last records may be gone, and with them what they took away; nothing is
                    // there that never was.
                    assert!(entries.iter().all(|entry| *entry == logged(group as u32 + 1, entry.index)), "{entries:?}");
                    assert!(state.last <= Some((1, 39)), "{}: {state:?}", path.display());
                }
                same += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(log.dir.path().to_str().expect("a path")), "no place: {text}");
                refused += 1;
            }
        }
    });
    println!("{same} opened, {refused} refused");
    assert!(refused > 0 && same > 0 && peak_memory() < 512 << 20, "{refused} {same} {}", peak_memory());
}

fn put(main: i64, key: &str) -> Record {
    let rev = Rev::new(Revision::new(main), 0);
    let value = Bytes::from(format!("{key} at {main}"));
    let change = Change::Put { create_revision: rev.main, version: 1, lease: LeaseId::new(7), value };
    Record { rev, key: Bytes::copy_from_slice(key.as_bytes()), change, replaces: None }
}

fn open_store(engine: &MemoryEngine) -> Result<Store, StorageError> {
    let config = StoreConfig { cache_bytes_max: 0, ..StoreConfig::default() };
    Store::open(Arc::new(engine.clone()), GroupId::DEFAULT, config)
}

/// Everything that a store has, read.
fn read_store(store: &Store) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
    let view = store.view();
    let everything = KeyRange::From { start: Bytes::from_static(b"\0") };
    let request = quorate_core::RangeRequest::new(everything);
    let reply = quorate_core::range(&view, &request)?.map_err(StorageError::Rejected)?;
    Ok(reply.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect())
}

/// A store in memory, all of it in the engine, and its rows.
fn engine_rows() -> BTreeMap<Vec<u8>, Vec<u8>> {
    let engine = MemoryEngine::default();
    let store = open_store(&engine).expect("a store");
    for index in 0..12_u64 {
        let main = index as i64 + 2;
        let lease = Lease { id: LeaseId::new(7), ttl_seconds: 60, remaining_ttl_seconds: 0 };
        let system = if index == 0 { vec![SystemChange::LeaseSet(lease)] } else { vec![] };
        let mut writer = store.writer();
        let records = vec![put(main, &format!("key {index}"))];
        writer.commit(Delta { records, system, ..Delta::default() }, Applied { term: 1, index: index + 1 });
        writer.publish();
    }
    while !store.drain(1 << 20).expect("a drain").empty {}
    store.flush().expect("a flush");
    let mut rows = BTreeMap::new();
    let collect = &mut |key: &[u8], value: &[u8]| {
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    };
    engine.scan(&[], &[0xff; 16], collect).expect("a scan");
    rows
}

#[test]
fn rows_of_the_engine() {
    let rows = engine_rows();
    let keys: Vec<&Vec<u8>> = rows.keys().collect();
    let whole = |engine: &MemoryEngine| open_store(engine).and_then(|store| read_store(&store));
    let with = |changed: Option<(&[u8], &[u8])>| {
        let (engine, mut batch) = (MemoryEngine::default(), Batch::default());
        for (key, row) in &rows {
            let row = changed.filter(|(place, _)| *place == &key[..]).map_or(&row[..], |(_, row)| row);
            batch.put(key.clone(), row.to_vec());
        }
        engine.write(&batch).expect("a write");
        engine
    };
    let expected = whole(&with(None)).expect("the store opens");
    let (mut same, mut refused) = (0, 0);
    rounds(2000, |random| {
        let key = keys[random.random_range(0..keys.len())];
        let mut row = rows[key].clone();
        let sealed = random.random_bool(0.5) && row.len() > 4;
        if sealed {
            let mut content = row.split_off(4);
            mutate(random, &mut content);
            let crc = crc32c::crc32c_append(crc32c::crc32c(key), &content);
            row = [&crc.to_le_bytes()[..], &content].concat();
        } else {
            mutate(random, &mut row);
        }
        match whole(&with(Some((key, &row)))) {
            Ok(_) if sealed => same += 1,
            Ok(read) => {
                assert_eq!(read, expected);
                same += 1;
            }
            Err(StorageError::Corrupt { place, .. }) => {
                assert!(!place.is_empty());
                refused += 1;
            }
            // A newer format, which says what to do.
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
    println!("{same} opened, {refused} refused");
    assert!(refused > 0 && peak_memory() < 512 << 20, "{}", peak_memory());
}

/// Makes a mutated snapshot one that an etcd has written to, so that none of Quorate's checksums counts, with the hash at its
/// end and those of its meta pages set right.
fn reseal_snapshot(bytes: &mut Vec<u8>) {
    let body = bytes.len().saturating_sub(32) / 512 * 512;
    bytes.truncate(body);
    for (page, transaction) in [(0, 8u64), (4096, 9)] {
        let Some(meta) = bytes.get_mut(page + 16..page + 80) else { break };
        meta[48..56].copy_from_slice(&transaction.to_le_bytes());
        let fnv = meta[..56]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        meta[56..].copy_from_slice(&fnv.to_le_bytes());
    }
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_files_and_data_directories() {
    let Some(quorate) = Quorate::find() else { return };
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(1)).await else { return };
    let client = cluster.client(0);
    for number in 0..30 {
        client.put(&format!("key/{number}"), &format!("value {number}")).await.expect("a put");
    }
    let file = cluster.dir().join("backup.db");
    let save = ["--endpoints", &cluster.endpoint(0), "snapshot", "save", file.to_str().expect("a path")];
    quorate.run(&save).expect("a save");
    let bytes = std::fs::read(&file).expect("the snapshot");
    tokio::task::block_in_place(|| snapshot_rounds(&bytes));

    cluster.terminate(0).await;
    let files = files_below(&cluster.data_dir(0));
    let first = asked("QUORATE_FUZZ_SEED").unwrap_or(0);
    for seed in first..first + asked("QUORATE_FUZZ_ROUNDS").unwrap_or(6) {
        directory_round(&mut cluster, &files, seed).await;
        let found = files_below(&cluster.data_dir(0));
        for path in found.keys().filter(|path| !files.contains_key(*path)) {
            std::fs::remove_file(path).expect("it goes");
        }
        for (path, bytes) in &files {
            std::fs::write(path, bytes).expect("a file");
        }
    }
}

/// Changes one file of a member that is stopped, and starts it: it serves all that was written, or it ends and says why.
async fn directory_round(cluster: &mut Cluster, files: &BTreeMap<PathBuf, Vec<u8>>, seed: u64) {
    let random = &mut StdRng::seed_from_u64(seed);
    // Each kind in turn: the directory has many segments and one of the rest.
    let (path, whole) = files.iter().nth(seed as usize % files.len()).expect("a file");
    let mut bytes = whole.clone();
    // Most of a segment are zeros that nobody has written to yet.
    let filled = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    if random.random_bool(0.5) {
        let zeros = bytes.split_off(filled);
        mutate(random, &mut bytes);
        bytes.extend(zeros);
    } else {
        mutate(random, &mut bytes);
    }
    std::fs::write(path, &bytes).expect("a file");
    cluster.restart(0);
    let place = format!("again with QUORATE_FUZZ_SEED={seed} QUORATE_FUZZ_ROUNDS=1, {}", path.display());
    let client = cluster.client(0);
    let deadline = Instant::now() + PATIENCE;
    let served = loop {
        if cluster.wait_exit(0, Duration::from_millis(100)).await.is_some() {
            break false;
        }
        if client.get("probe", false).await.is_ok() {
            break true;
        }
        assert!(Instant::now() < deadline, "it neither serves nor ends; {place}: {}", cluster.log(0));
    };
    println!("{}: {}", path.display(), if served { "served" } else { "refused" });
    let log = cluster.log(0);
    assert!(!log.contains("panicked"), "{place}: {log}");
    if served {
        let all = client.get_prefix("key/").await.expect("a read");
        assert_eq!(all.count, 30, "{place}");
        cluster.terminate(0).await;
    }
}

fn snapshot_rounds(whole: &[u8]) {
    let dir = scratch_dir().expect("a directory");
    let path = dir.path().join("mutated.db");
    let status = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("a file");
        quorate_node::snapshot_status(&OsDisk, &path, |_, _| ())
    };
    let expected = status(whole).expect("a snapshot");
    let mut refused = 0;
    rounds(1500, |random| {
        let mut bytes = whole.to_vec();
        mutate(random, &mut bytes);
        let sealed = random.random_bool(0.5);
        if sealed {
            reseal_snapshot(&mut bytes);
        }
        match status(&bytes) {
            Ok(_) if sealed => {}
            Ok(read) => assert_eq!(read, expected, "what was changed was taken"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("mutated.db") && text.contains("offset"), "no place: {text}");
                refused += 1;
            }
        }
    });
    println!("{refused} refused");
    assert!(refused > 0 && peak_memory() < 512 << 20, "{}", peak_memory());
}

/// The files of a data directory that somebody reads at the start, with what is in them.
fn files_below(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if let Ok(bytes) = std::fs::read(&path)
            && !bytes.is_empty()
        {
            files.insert(path, bytes);
        }
    }
    files
}
