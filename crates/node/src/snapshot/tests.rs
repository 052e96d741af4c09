use super::etcd::{self, Elements, Imported};
use super::{HashCheck, Opened, SnapshotReader, SnapshotStatus, snapshot_status};
use crate::Error;
use crate::raft::{self, MemberNode};
use bytes::Bytes;
use expect_test::{expect, expect_file};
use quorate_bolt::{BucketPlan, Plan, Writer};
use quorate_core::auth::{Access, PasswordHash, Permission, Role, User};
use quorate_core::{
    Alarm, AlarmKind, Change, Delta, GroupId, KeyRange, Lease, LeaseId, MemberAttributes, MemberId, Record, Rev,
    Revision, SystemChange,
};
use quorate_storage::{
    Applied, EngineConfig, EngineKind, Installer, NewCluster, SnapshotMeta, Store, StoreConfig, open_engine,
};
use quorate_wal::OsDisk;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// A file of two keys and a lease of 60 s, at revision 3, as it was written before: the lines that are not all zeros.
const BLOCKS: &str = "
0000  51 52 54 53 4e 41 50 31 51 00 00 00 87 77 1e ee
0010  a0 86 71 22 01 00 00 00 05 00 00 00 00 00 00 00
0020  02 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
0030  00 00 00 00 00 00 00 00 00 00 00 00 02 00 00 00
0040  00 00 00 00 01 00 00 00 00 00 00 00 09 00 00 00
0050  01 00 00 00 00 00 00 00 07 04 00 00 00 01 07 3c
0060  00 20 00 00 00 4b ec f2 a4 0c 00 00 00 01 02 00
0070  01 61 02 01 07 03 6f 6e 65 0c 00 00 00 01 03 00
0080  01 62 03 01 07 03 74 77 6f 00 00 00 00 00 00 00
0200  56 e7 4b ae 24 70 de 8c 81 8e a6 2a 16 19 07 3b
0210  d9 4e 6d 65 10 9c 3b c6 6f 3e 57 9c 21 c6 de 03
";

fn blocks() -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in BLOCKS.trim().lines() {
        let (at, line) = line.split_once("  ").unwrap();
        bytes.resize(usize::from_str_radix(at, 16).unwrap(), 0);
        bytes.extend(line.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

fn store() -> Arc<Store> {
    let engine = open_engine(EngineKind::Memory, Path::new(""), EngineConfig::default()).unwrap();
    Arc::new(Store::open(engine, GroupId::DEFAULT, StoreConfig::default()).unwrap())
}

fn put(main: i64, key: &'static str, value: &'static str) -> Record {
    let rev = Rev::new(Revision::new(main), 0);
    let value = Bytes::from_static(value.as_bytes());
    let change = Change::Put { create_revision: rev.main, version: 1, lease: LeaseId::new(7), value };
    Record { rev, key: Bytes::from_static(key.as_bytes()), change, replaces: None }
}

fn some_changes() -> Vec<SystemChange> {
    let member = MemberAttributes { name: "n\"1".into(), client_urls: vec!["http://a:2379".into()], data_dir_id: 9 };
    let permission = |start: &'static str, range: fn(Bytes) -> KeyRange, access| Permission {
        range: range(Bytes::from_static(start.as_bytes())),
        access,
    };
    vec![
        SystemChange::LeaseSet(Lease { id: LeaseId::new(7), ttl_seconds: 60, remaining_ttl_seconds: 0 }),
        SystemChange::LeaseSet(Lease { id: LeaseId::new(-1), ttl_seconds: 600, remaining_ttl_seconds: 30 }),
        SystemChange::MemberSet(MemberId::new(0x1a), member),
        SystemChange::MemberRemove(MemberId::new(0x2b)),
        SystemChange::AlarmSet(Alarm { member: MemberId::new(0x1a), kind: AlarmKind::NoSpace }),
        SystemChange::AuthSet { enabled: true, revision: 9 },
        SystemChange::UserSet(
            "ann".into(),
            User {
                password: Some(PasswordHash::new("$2a$04$x")),
                roles: ["r".to_owned()].into(),
                credentials_revision: 9,
            },
        ),
        SystemChange::UserSet(
            "bob".into(),
            User { password: None, roles: Default::default(), credentials_revision: 9 },
        ),
        SystemChange::RoleSet(
            "r".into(),
            Role {
                permissions: vec![
                    permission("a", KeyRange::Single, Access::Read),
                    permission("b", |start| KeyRange::From { start }, Access::ReadWrite),
                    permission("c", |start| KeyRange::Interval { start, end: "d".into() }, Access::Write),
                ],
            },
        ),
    ]
}

/// A store with two keys and something in each table.
fn filled() -> Arc<Store> {
    let store = store();
    let mut changes = some_changes();
    for (index, record) in [put(2, "a", "one"), put(3, "b", "two")].into_iter().enumerate() {
        let mut writer = store.writer();
        let applied = Applied { term: 5, index: index as u64 + 1 };
        let delta = Delta { records: vec![record], system: std::mem::take(&mut changes), ..Delta::default() };
        writer.commit(delta, applied);
        let node = MemberNode { peer_urls: vec!["http://a:2380".into()], promote: false };
        writer.set_membership(raft::first_membership([(0x1a, node)].into(), 5, 1).unwrap(), applied);
        writer.publish();
    }
    store
}

#[test]
fn what_nobody_waits_for_any_more_is_not_planned_to_the_end() {
    assert!(matches!(SnapshotReader::new(filled().export(), &|| true), Err(Error::Stopped)));
}

async fn file_of(store: &Store) -> Vec<u8> {
    let mut reader = SnapshotReader::new(store.export(), &|| false).unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(reader.remaining_bytes(), 0);
    with_hash(bytes)
}

fn with_hash(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

/// What an etcd leaves that has worked on the file: later transactions. With a hash that is right.
fn of_etcd(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() / 512 * 512);
    for (page, transaction) in [(0, 8), (4096, 9u64)] {
        let meta = &mut bytes[page + 16..page + 80];
        meta[48..56].copy_from_slice(&transaction.to_le_bytes());
        let hash = meta[..56]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        meta[56..].copy_from_slice(&hash.to_le_bytes());
    }
    with_hash(bytes)
}

/// A file with these buckets, as etcd writes it.
fn etcd_file(buckets: &[(&[u8], Elements)]) -> Vec<u8> {
    let mut plan = Plan::default();
    for (name, elements) in buckets {
        let mut bucket = BucketPlan::default();
        elements.iter().for_each(|(key, value)| bucket.add(key, value.len()));
        plan.add(name, bucket);
    }
    let mut out = Vec::new();
    let mut writer = Writer::new(plan, &mut out);
    for (_, elements) in buckets {
        elements.iter().for_each(|(key, value)| writer.add(key, value, &mut out).unwrap());
        writer.end_bucket(&mut out).unwrap();
    }
    writer.finish(&mut out).unwrap();
    of_etcd(out)
}

fn key_elements(records: &[Record]) -> Elements {
    use prost::Message as _;
    records.iter().map(etcd::element_of).map(|(key, value)| (key, value.encode_to_vec())).collect()
}

fn in_a_file<T>(bytes: &[u8], then: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    std::fs::write(&path, bytes).unwrap();
    then(&path).map_err(|error| error.to_string().rsplit_once("/s: ").unwrap().1.to_owned())
}

fn status_of(bytes: &[u8]) -> Result<SnapshotStatus, String> {
    in_a_file(bytes, |path| snapshot_status(&OsDisk, path, |_, _| ()))
}

/// Restores it without looking at the SHA-256.
fn restored(bytes: &[u8]) -> Result<(Arc<Store>, SnapshotMeta), String> {
    in_a_file(bytes, |path| {
        let mut opened = Opened::open(&OsDisk, path, HashCheck::Skipped)?;
        while opened.scan_some()? {}
        let mut file = opened.checked()?;
        let store = store();
        let mut installer: Installer = store.begin_install().map_err(crate::error::storage_error)?;
        loop {
            let records = file.next_records()?;
            if records.is_empty() {
                break;
            }
            file.install(records, &mut installer)?;
        }
        let meta = file.finish()?;
        let new = NewCluster { applied: Applied { term: 1, index: 2 }, membership: Bytes::new(), revision_bump: 0 };
        installer.finish_as_new(&meta, new).map_err(crate::error::storage_error)?;
        Ok((store, meta))
    })
}

fn numbers(store: &Store) -> (i64, i64, u32) {
    (store.revision().get(), store.compacted().get(), store.hash_kv(Revision::ZERO).unwrap().hash)
}

#[tokio::test]
async fn the_file_has_these_bytes() {
    let bytes = file_of(&filled()).await;
    let mut text = String::new();
    for (at, line) in bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0)) {
        write!(text, "{:04x} ", at * 16).unwrap();
        line.iter().for_each(|byte| write!(text, " {byte:02x}").unwrap());
        let shown = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
        writeln!(text, "  {}", line.iter().map(shown).collect::<String>()).unwrap();
    }
    expect_file!["golden.txt"].assert_eq(&text);
}

#[tokio::test]
async fn a_store_comes_back_from_its_file() {
    let store = filled();
    let bytes = file_of(&store).await;
    let status = status_of(&bytes).unwrap();
    assert_eq!(
        (status.revision.get(), status.total_bytes, status.version.as_str()),
        (3, bytes.len() as u64 - 32, "3.6.0")
    );
    let (copy, meta) = restored(&bytes).unwrap();
    assert_eq!(numbers(&copy), numbers(&store));
    assert_eq!(meta, *store.export().meta());
    // Once an etcd has written to it, what its buckets say counts; members are not among that.
    let (copy, meta) = restored(&of_etcd(bytes)).unwrap();
    assert_eq!(numbers(&copy), numbers(&store));
    assert_eq!((meta.auth(), meta.members().count()), (store.export().meta().auth(), 0));
    assert!(meta.leases().eq(store.export().meta().leases()) && meta.alarms().eq(store.export().meta().alarms()));
}

#[test]
fn a_file_of_the_form_before_is_still_read() {
    let status = status_of(&blocks()).unwrap();
    assert_eq!((status.revision.get(), status.total_keys, status.total_bytes), (3, 3, 512));
    let (copy, meta) = restored(&blocks()).unwrap();
    assert_eq!((copy.revision().get(), meta.leases().count()), (3, 1));
}

/// Compaction has left nothing of the newest revisions; afterwards as well the next one is a new one.
#[tokio::test]
async fn revisions_without_records_are_not_given_again() {
    let bytes = file_of(&filled()).await;
    let (store, _) = in_a_file(&bytes, |path| {
        let mut opened = Opened::open(&OsDisk, path, HashCheck::Required)?;
        while opened.scan_some()? {}
        let mut file = opened.checked()?;
        let store = store();
        let mut installer = store.begin_install().map_err(crate::error::storage_error)?;
        while let records = file.next_records()?
            && !records.is_empty()
        {
            file.install(records, &mut installer)?;
        }
        let new = NewCluster { applied: Applied { term: 1, index: 2 }, membership: Bytes::new(), revision_bump: 1000 };
        installer.finish_as_new(&file.finish()?, new).map_err(crate::error::storage_error)?;
        Ok((store, ()))
    })
    .unwrap();
    let bytes = file_of(&store).await;
    let status = status_of(&bytes).unwrap();
    assert_eq!((status.revision.get(), status.compacted.get()), (1003, 1003));
    for bytes in [of_etcd(bytes.clone()), bytes] {
        assert_eq!(numbers(&restored(&bytes).unwrap().0), numbers(&store));
    }
}

#[test]
fn what_an_etcd_was_about_to_compact_is_compacted_here() {
    let second = |main, version, key| {
        let mut record = put(main, key, "again");
        record.change = Change::Put {
            create_revision: Revision::new(2),
            version,
            lease: LeaseId::NONE,
            value: Bytes::from_static(b"again"),
        };
        record
    };
    let delete = |main| Record { change: Change::Delete, ..put(main, "b", "") };
    let records = [put(2, "a", "one"), put(3, "b", "two"), second(4, 2, "a"), delete(5), second(6, 3, "a")];
    let compaction = |scheduled: i64, finished: i64| -> Elements {
        let value = |main| etcd::rev_key(Rev::new(Revision::new(main), 0), false);
        [(b"finishedCompactRev".to_vec(), value(finished)), (b"scheduledCompactRev".to_vec(), value(scheduled))].into()
    };
    let file = etcd_file(&[(b"key", key_elements(&records)), (b"meta", compaction(6, 2))]);
    let (store, _) = restored(&file).unwrap();
    assert_eq!(status_of(&file).unwrap().total_keys, 7);
    while !store.compaction_done(Revision::new(6)) {
        store.compaction_step(100).unwrap();
    }
    let mut exporter = store.export();
    assert_eq!((store.revision().get(), store.compacted().get(), exporter.meta().records), (6, 6, 1));
    assert_eq!(exporter.next(usize::MAX).unwrap()[0].rev.main.get(), 6);

    // All that was compacted is gone: what is left begins in the middle.
    let file = etcd_file(&[(b"key", key_elements(&records[3..])), (b"meta", compaction(4, 4))]);
    assert_eq!(restored(&file).unwrap().0.revision().get(), 6);
    let refused = |buckets: &[(&[u8], Elements)]| restored(&etcd_file(buckets)).err().unwrap();
    expect!["at offset 12288: a change before revision 6.0 is missing"]
        .assert_eq(&refused(&[(b"key", key_elements(&[records[0].clone(), records[4].clone()]))]));
    expect!["at offset 12288: a change before revision 5.0 is missing"]
        .assert_eq(&refused(&[(b"key", key_elements(&records[3..]))]));
    let mark: Elements = [etcd::revision_mark(Revision::new(9))].into();
    expect!["at offset 12288: revision 9 has no key"].assert_eq(&refused(&[(b"key", mark)]));
    let bad: Elements = [(b"x".to_vec(), vec![])].into();
    expect!["at offset 12288: a key of the bucket of all keys is not a revision"].assert_eq(&refused(&[(b"key", bad)]));
    expect!["at offset 0: this bbolt file is not one of etcd: it has no bucket `key`"].assert_eq(&refused(&[]));
}

#[test]
fn what_etcds_buckets_say_of_users_leases_and_alarms_comes_back() {
    let meta = SnapshotMeta::foreign(Revision::new(3), Revision::ZERO, false, 0, &some_changes());
    let mut imported = Imported::default();
    for (name, elements) in etcd::small_buckets(&meta).unwrap() {
        for (key, value) in elements {
            imported.take(name, &key, &value.into()).unwrap();
        }
    }
    imported.finish();
    let back = SnapshotMeta::foreign(Revision::new(3), Revision::ZERO, false, 0, &imported.changes);
    assert_eq!(back.auth(), meta.auth());
    assert!(back.leases().eq(meta.leases()) && back.alarms().eq(meta.alarms()));
}

#[tokio::test]
async fn a_change_anywhere_is_refused_with_its_place() {
    let database = file_of(&filled()).await;
    for bytes in [blocks(), of_etcd(database.clone()), database] {
        let mut random = 1u32;
        let mut at = 0;
        while at < bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let error = status_of(&changed).unwrap_err();
            assert!(error.starts_with("at offset "), "byte {at}: {error}");
            // All of the small file; of the large one all that is not padding, and of that a sample.
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let padding = bytes[at..bytes.len().min(at + 64)].iter().all(|byte| *byte == 0);
            at += if padding && bytes.len() > 4096 { (random >> 22) as usize + 1 } else { 1 };
        }
    }
}

/// Without the SHA-256 the checksums in the file hold all the same.
#[tokio::test]
async fn a_change_is_refused_without_the_hash_at_the_end() {
    let bytes = file_of(&filled()).await;
    let (_, whole) = restored(&bytes).unwrap();
    for at in (0..bytes.len() - 32).step_by(211) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        match restored(&changed) {
            Ok((_, meta)) => assert_eq!(meta, whole, "byte {at}: padding behind the last checksum, or it was taken"),
            Err(error) => assert!(error.starts_with("at offset "), "byte {at}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_file_that_was_cut_off_or_has_more_is_refused() {
    let database = file_of(&filled()).await;
    for bytes in [blocks(), database] {
        for length in (0..bytes.len()).step_by(bytes.len() / 300 + 1).chain([bytes.len() - 32, bytes.len() - 1]) {
            assert!(status_of(&bytes[..length]).is_err(), "{length} bytes");
        }
        for more in [1, 480, 512] {
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + more, 0);
            assert!(status_of(&longer).is_err(), "{more} bytes more");
        }
    }
}

#[tokio::test]
async fn what_is_refused_is_said_in_words() {
    let refused = |bytes: &[u8]| status_of(bytes).unwrap_err();
    let database = file_of(&filled()).await;
    let changed = |bytes: &[u8], at: usize| {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        changed
    };
    let missing =
        "snapshot missing hash but --skip-hash-check=false: the file was cut off, or is not from `snapshot save`";
    assert_eq!(refused(&blocks()[..512]), format!("at offset 512: {missing}"));
    let end = database.len() - 32;
    assert_eq!(refused(&database[..end]), format!("at offset {end}: {missing}"));
    expect!["at offset 0: this is not a snapshot that `quorate snapshot save` or `etcdctl snapshot save` made"]
        .assert_eq(&refused(b"something else"));
    let headless = refused(&changed(&blocks(), 0));
    assert!(headless.starts_with("at offset 512: expected sha256 ["), "{headless}");
    expect!["at offset 8: the checksum of the block does not match"].assert_eq(&refused(&changed(&blocks(), 20)));
    expect!["at offset 500: there is something behind the end"].assert_eq(&refused(&changed(&blocks(), 500)));
    expect!["at offset 0: the checksum of the bytes up to 53248 does not match"]
        .assert_eq(&refused(&changed(&database, 16384)));
    expect!["at offset 8192: the file should have 15 pages of 4096 bytes: it was cut off"]
        .assert_eq(&refused(&database[..8192]));
    let damaged = changed(&of_etcd(database.clone()), 20000);
    assert!(refused(&damaged).starts_with(&format!("at offset {end}: expected sha256 [")), "{}", refused(&damaged));
    let headless = [&[0; 512], &database[512..]].concat();
    assert!(refused(&headless).starts_with(&format!("at offset {end}: expected sha256 [")), "{}", refused(&headless));
    // A copy of the file that an etcd works on has no hash: its status can be told, but it is not restored as if it were whole.
    assert!(status_of(&of_etcd(database.clone())[..end]).is_ok());
    let opened =
        in_a_file(&of_etcd(database)[..end], |path| Opened::open(&OsDisk, path, HashCheck::Required).map(drop));
    assert_eq!(opened.unwrap_err(), format!("at offset {end}: {missing}"));
}

/// Whatever is in the file: an answer, and no panic. With all checksums set right, as somebody with bad intentions does.
#[tokio::test]
async fn a_file_with_anything_in_it_is_an_answer() {
    let database = file_of(&filled()).await;
    let interesting: Vec<usize> = (0..database.len() - 32).filter(|at| database[*at] != 0).collect();
    let mut random = 7u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    let mut outcomes: BTreeMap<bool, u32> = BTreeMap::new();
    for _ in 0..400 {
        let mut bytes = database.clone();
        for _ in 0..next() % 3 + 1 {
            let at = (interesting[next() % interesting.len()] + next() % 3).min(database.len() - 33);
            bytes[at] = [next() as u8, 0, 0xff, 1][next() % 4];
        }
        *outcomes.entry(restored(&of_etcd(bytes)).is_ok()).or_default() += 1;
    }
    assert!(outcomes.values().all(|count| *count > 20) && outcomes.len() == 2, "{outcomes:?}");
}
