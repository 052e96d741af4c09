//! Every engine against the naive model: random writes, compactions, drains, checkpoints, restarts, crashes, installs, with
//! views held across all of them.

mod common;

use bytes::Bytes;
use common::{Entry, Model, alarm, all};
use proptest::prelude::*;
use quorate_core::auth::{Access, PasswordHash, Permission, Role, User};
use quorate_core::{
    ClusterVersion, ClusterVersions, GroupId, KeyRange, Lease, LeaseId, MemberAttributes, MemberId, Rejection,
    Revision, SystemChange, View,
};
use quorate_storage::engine::{Engine, EngineConfig, EngineKind, MemoryEngine, open_engine};
use quorate_storage::{Progress, ReadView, SnapshotMeta, StorageError, Store, StoreConfig};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, size: usize, lease: i64 },
    Delete { from: u8, keys: u8 },
    Txn { puts: Vec<u8>, deletes: Vec<u8> },
    Entry { puts: Vec<u8> },
    Rejected,
    Grant { lease: i64, ttl: i64 },
    Revoke { lease: i64 },
    Member { id: u64, remove: bool },
    Alarm { id: u64, active: bool },
    Version { minor: u8 },
    User { id: u8, remove: bool },
    Role { id: u8, remove: bool },
    Auth { enabled: bool },
    Membership { bytes: u8 },
    Compact { share: u8 },
    Drain { bytes: usize },
    Flush,
    Checkpoint { keys: usize },
    CheckpointAll,
    Remove { records: usize },
    RemoveAll,
    TakeView,
    DropView,
    Restart,
    Crash,
    Install { behind: bool, finish: bool },
    Cleanup,
    Check,
}

fn step() -> impl Strategy<Value = Step> {
    let keys = || prop::collection::vec(0_u8..8, 0..4);
    prop_oneof![
        8 => (0_u8..8, prop_oneof![0_usize..40, 2000..6000_usize], 0_i64..4)
            .prop_map(|(key, size, lease)| Step::Put { key, size, lease }),
        3 => (0_u8..8, 1_u8..4).prop_map(|(from, keys)| Step::Delete { from, keys }),
        3 => (keys(), keys()).prop_map(|(puts, deletes)| Step::Txn { puts, deletes }),
        2 => keys().prop_map(|puts| Step::Entry { puts }),
        1 => Just(Step::Rejected),
        1 => (1_i64..4, 2_i64..100).prop_map(|(lease, ttl)| Step::Grant { lease, ttl }),
        1 => (1_i64..4).prop_map(|lease| Step::Revoke { lease }),
        1 => (1_u64..5, any::<bool>()).prop_map(|(id, remove)| Step::Member { id, remove }),
        1 => (1_u64..3, any::<bool>()).prop_map(|(id, active)| Step::Alarm { id, active }),
        1 => (0_u8..4).prop_map(|minor| Step::Version { minor }),
        1 => (0_u8..3, any::<bool>()).prop_map(|(id, remove)| Step::User { id, remove }),
        1 => (0_u8..3, any::<bool>()).prop_map(|(id, remove)| Step::Role { id, remove }),
        1 => any::<bool>().prop_map(|enabled| Step::Auth { enabled }),
        1 => any::<u8>().prop_map(|bytes| Step::Membership { bytes }),
        2 => any::<u8>().prop_map(|share| Step::Compact { share }),
        2 => (1_usize..3000).prop_map(|bytes| Step::Drain { bytes }),
        1 => Just(Step::Flush),
        3 => (1_usize..6).prop_map(|keys| Step::Checkpoint { keys }),
        1 => Just(Step::CheckpointAll),
        3 => (1_usize..6).prop_map(|records| Step::Remove { records }),
        1 => Just(Step::RemoveAll),
        1 => Just(Step::TakeView),
        2 => Just(Step::DropView),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(behind, finish)| Step::Install { behind, finish }),
        1 => Just(Step::Cleanup),
        1 => Just(Step::Check),
    ]
}

/// A place where an engine lives.
enum Place<'a> {
    Memory(MemoryEngine),
    Dir(EngineKind, &'a Path),
}

impl Place<'_> {
    fn engine(&self) -> Arc<dyn Engine> {
        match self {
            Self::Memory(engine) => Arc::new(engine.clone()),
            Self::Dir(kind, dir) => open_engine(*kind, dir, EngineConfig { cache_bytes: 1 << 20 }).unwrap(),
        }
    }

    fn open(&self) -> Arc<Store> {
        // A bound on the checkpoint's lag that is met now and then, so that drains have to write to it, too.
        let config = StoreConfig {
            tail_bytes_max: 1 << 20,
            cache_bytes_max: 2000,
            lag_records_max: 12,
            ..StoreConfig::default()
        };
        Arc::new(Store::open(self.engine(), GroupId::new(3), config).unwrap())
    }
}

fn key(i: u8) -> Bytes {
    // One key is a prefix of another, and one is long.
    match i {
        0 => Bytes::from_static(b"k"),
        1 => Bytes::from(vec![0xff; 3]),
        2 => Bytes::from(vec![b'l'; 300]),
        i => Bytes::from(format!("k/{i}")),
    }
}

/// A view, and the model as it was.
struct Held {
    view: ReadView,
    model: Model,
}

impl Held {
    fn check(&self) {
        self.model.check_view(&self.view, self.model.compacted);
    }
}

struct Run<'a> {
    place: Place<'a>,
    store: Option<Arc<Store>>,
    model: Model,
    held: Vec<Held>,
}

impl Run<'_> {
    fn store(&self) -> Arc<Store> {
        self.store.clone().expect("the store is open")
    }

    fn step(&mut self, step: Step) {
        let store = self.store();
        let model = &mut self.model;
        match step {
            Step::Put { key: k, size, lease } => {
                let lease = if model.leases.contains_key(&lease) { lease } else { 0 };
                model.run(&store, model.write(&[(key(k), size, lease)], &[]));
            }
            Step::Delete { from, keys } => {
                let keys: Vec<_> = (from..from + keys).map(key).collect();
                model.run(&store, model.write(&[], &keys));
            }
            Step::Txn { puts, deletes } => {
                let puts: Vec<_> = puts.into_iter().map(|k| (key(k), 10, 0)).collect();
                let deletes: Vec<_> = deletes.into_iter().map(key).collect();
                model.run(&store, model.write(&puts, &deletes));
            }
            Step::Entry { puts } => {
                let mut ahead = model.clone();
                let mut deltas = Vec::new();
                for k in puts {
                    let delta = ahead.write(&[(key(k), 5, 0)], &[]);
                    ahead.take_in(&delta);
                    deltas.push(delta);
                }
                deltas.push(quorate_core::Delta::default());
                model.commit(&store, Entry::Commands(deltas));
            }
            Step::Rejected => model.run(&store, quorate_core::Delta::default()),
            Step::Grant { lease, ttl } => {
                let lease = Lease { id: LeaseId::new(lease), ttl_seconds: ttl, remaining_ttl_seconds: 0 };
                model.run(&store, model.system(SystemChange::LeaseSet(lease)));
            }
            Step::Revoke { lease } => model.run(&store, model.revoke(lease)),
            Step::Member { id, remove } => {
                let member =
                    MemberAttributes { name: format!("m{id}"), client_urls: vec!["u".into()], data_dir_id: id };
                let id = MemberId::new(id);
                let change = if remove { SystemChange::MemberRemove(id) } else { SystemChange::MemberSet(id, member) };
                model.run(&store, model.system(change));
            }
            Step::Alarm { id, active } => {
                let alarm = alarm(id);
                let change = if active { SystemChange::AlarmSet(alarm) } else { SystemChange::AlarmRemove(alarm) };
                model.run(&store, model.system(change));
            }
            Step::Version { minor } => {
                let current = Some(ClusterVersion { major: 3, minor: minor.into() });
                let target = current.and_then(ClusterVersion::before);
                model.run(&store, model.system(SystemChange::VersionsSet(ClusterVersions { current, target })));
            }
            Step::User { id, remove } => {
                let name = format!("user{id}");
                let change = if remove {
                    SystemChange::UserRemove(name)
                } else {
                    let revision = model.log.len() as u64;
                    let password = (id > 0).then(|| PasswordHash::new(&format!("$hash${revision}")));
                    SystemChange::UserSet(
                        name,
                        User { password, roles: ["role1".into()].into(), credentials_revision: revision },
                    )
                };
                model.run(&store, model.system(change));
            }
            Step::Role { id, remove } => {
                let name = format!("role{id}");
                let change = if remove {
                    SystemChange::RoleRemove(name)
                } else {
                    let range = KeyRange::Single(key(id));
                    SystemChange::RoleSet(name, Role { permissions: vec![Permission { range, access: Access::Read }] })
                };
                model.run(&store, model.system(change));
            }
            Step::Auth { enabled } => {
                let revision = 2 + model.log.len() as u64;
                model.run(&store, model.system(SystemChange::AuthSet { enabled, revision }));
            }
            Step::Membership { bytes } => model.commit(&store, Entry::Membership(vec![bytes; 5].into())),
            Step::Compact { share } => {
                let span = model.revision() - model.compacted;
                let to = model.compacted + span * i64::from(share) / 255;
                if to > model.compacted {
                    model.run(&store, model.compact(to));
                }
            }
            Step::Drain { bytes } => drop(store.drain(bytes).unwrap()),
            Step::Flush => assert_eq!(store.flush().unwrap().index, model.log.len() as u64),
            Step::Checkpoint { keys } => drop(store.checkpoint_step(keys).unwrap()),
            Step::CheckpointAll => while store.checkpoint_step(5).unwrap() == Progress::Working {},
            Step::Remove { records } => drop(store.compaction_step(records).unwrap()),
            Step::RemoveAll => {
                if compact_all(&store) {
                    assert!(store.compaction_done(Revision::new(model.compacted)));
                }
            }
            Step::TakeView => self.held.push(Held { view: store.view(), model: model.clone() }),
            Step::DropView => {
                if !self.held.is_empty() {
                    self.held.remove(0).check();
                }
            }
            Step::Restart => self.restart(store),
            Step::Crash => {
                self.restart_after(store, |place| {
                    if let Place::Memory(engine) = place {
                        engine.lose_unflushed();
                    }
                });
            }
            Step::Install { behind, finish } => self.install(&store, behind, finish),
            Step::Cleanup => while store.cleanup_step(7).unwrap() == Progress::Working {},
            Step::Check => {
                model.check(&store);
                self.held.iter().for_each(Held::check);
            }
        }
    }

    fn restart(&mut self, store: Arc<Store>) {
        self.restart_after(store, |_| {});
    }

    fn restart_after(&mut self, store: Arc<Store>, then: impl FnOnce(&Place<'_>)) {
        for held in self.held.drain(..) {
            held.check();
        }
        drop(store);
        self.store = None;
        then(&self.place);
        let store = self.place.open();
        self.model.replay(&store);
        self.store = Some(store);
    }

    /// Takes a snapshot of another store in: one that has the same log, or its first part was all there was.
    fn install(&mut self, store: &Arc<Store>, behind: bool, finish: bool) {
        let source = Place::Memory(MemoryEngine::default()).open();
        self.model.replay(&source);
        if behind {
            // The source has compacted more than we have applied yet.
            let mut ahead = self.model.clone();
            ahead.run(&source, ahead.write(&[(key(5), 3, 0)], &[key(6)]));
            ahead.run(&source, ahead.compact(ahead.revision()));
            compact_all(&source);
            self.model = ahead;
        }
        let mut exporter = source.export();
        let meta = SnapshotMeta::decode(&exporter.meta().encode()).unwrap();
        assert_eq!(&meta, exporter.meta());
        let mut installer = store.begin_install().unwrap();
        let mut sent = Vec::new();
        loop {
            let records = exporter.next(100).unwrap();
            if records.is_empty() {
                break;
            }
            for record in records {
                installer.push(record.clone()).unwrap();
                sent.push(record);
            }
            // The old state serves, and is written to, meanwhile.
            store.drain(100).unwrap();
            store.cleanup_step(3).unwrap();
        }
        assert_eq!(sent, self.model.kept(self.model.revision()));
        if finish {
            assert_eq!(installer.finish(&meta).unwrap().index, self.model.log.len() as u64);
        } else {
            drop(installer);
            self.model.replay(store);
        }
        self.model.check(store);
    }
}

/// Whether it came to the end.
fn compact_all(store: &Store) -> bool {
    loop {
        match store.compaction_step(4).unwrap() {
            Progress::Working => {}
            Progress::Idle => return true,
            Progress::Blocked => return false,
        }
    }
}

fn run(place: Place<'_>, steps: Vec<Step>) {
    let store = Some(place.open());
    let mut run = Run { place, store, model: Model::default(), held: Vec::new() };
    for step in steps {
        run.step(step);
    }
    run.model.check(&run.store());
    let store = run.store();
    run.restart(store);
    run.model.check(&run.store());

    // The end state has the same hash on a store that came to it another way, and nothing is left behind in the engine.
    let other = Place::Memory(MemoryEngine::default()).open();
    run.model.replay(&other);
    let store = run.store();
    assert!(compact_all(&store));
    assert_eq!(store.hash_kv(Revision::ZERO).unwrap(), other.hash_kv(Revision::ZERO).unwrap());
    assert_eq!(store.export().next(usize::MAX).unwrap(), run.model.kept(run.model.revision()));
    while store.cleanup_step(100).unwrap() == Progress::Working {}
    run.model.check(&store);
    let kept = run.model.kept(run.model.revision()).len();
    assert_eq!(store.metrics().versions, kept as u64, "versions in the index");
    while !store.drain(1000).unwrap().empty {}
    run.store = None;
    drop(store);
    assert_eq!(record_rows(run.place.engine().as_ref()), kept, "records in the engine");
}

/// Rows of the table of records, of all generations.
fn record_rows(engine: &dyn Engine) -> usize {
    let mut rows = 0;
    let count = &mut |_: &[u8], _: &[u8]| {
        rows += 1;
        ControlFlow::Continue(())
    };
    engine.scan(&[2], &[3], count).unwrap();
    rows
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_as_the_model(steps in steps()) {
        run(Place::Memory(MemoryEngine::default()), steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn redb_is_as_the_model(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        run(Place::Dir(EngineKind::Redb, dir.path()), steps);
    }

    #[test]
    fn sled_is_as_the_model(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        run(Place::Dir(EngineKind::Sled, dir.path()), steps);
    }
}

#[test]
fn a_view_keeps_what_compaction_would_remove() {
    let store = Place::Memory(MemoryEngine::default()).open();
    let mut model = Model::default();
    for i in 0..20 {
        model.run(&store, model.write(&[(key(i % 3), 10, 0)], &[]));
    }
    let held = Held { view: store.view(), model: model.clone() };
    model.run(&store, model.compact(15));
    assert!(!compact_all(&store), "the view is in the way");
    held.check();
    assert_eq!(store.view_at(Revision::new(10)).err(), Some(Rejection::Compacted), "logically it is compacted at once");
    drop(held);
    assert!(compact_all(&store));
    model.check(&store);
}

#[test]
fn an_old_view_outlives_an_install_and_keeps_its_rows() {
    let store = Place::Memory(MemoryEngine::default()).open();
    let mut model = Model::default();
    for i in 0..20 {
        model.run(&store, model.write(&[(key(i % 5), 4000, 0)], &[]));
    }
    store.flush().unwrap();
    let held = Held { view: store.view(), model: model.clone() };
    let exporter_source = Place::Memory(MemoryEngine::default()).open();
    model.replay(&exporter_source);
    let mut exporter = exporter_source.export();
    let mut installer = store.begin_install().unwrap();
    for record in exporter.next(usize::MAX).unwrap() {
        installer.push(record).unwrap();
    }
    installer.finish(exporter.meta()).unwrap();
    while store.cleanup_step(10).unwrap() == Progress::Working {}
    assert_eq!(store.cleanup_step(10).unwrap(), Progress::Blocked);
    held.check();
    let before = store.engine_usage().unwrap().used_bytes;
    drop(held);
    while store.cleanup_step(10).unwrap() == Progress::Working {}
    assert_eq!(store.cleanup_step(10).unwrap(), Progress::Idle);
    let after = store.engine_usage().unwrap().used_bytes;
    assert!(after < before * 6 / 10, "the old generation is gone: {before} -> {after}");
    model.check(&store);
}

#[test]
fn a_snapshot_that_lacks_a_record_is_refused() {
    let store = Place::Memory(MemoryEngine::default()).open();
    let mut model = Model::default();
    for i in 0..6 {
        model.run(&store, model.write(&[(key(i), 10, 0)], &[]));
    }
    let mut exporter = store.export();
    let records = exporter.next(usize::MAX).unwrap();
    let mut installer = store.begin_install().unwrap();
    for record in records.into_iter().skip(1) {
        installer.push(record).unwrap();
    }
    assert!(matches!(installer.finish(exporter.meta()), Err(StorageError::Corrupt { .. })));
    model.check(&store);
}

#[test]
fn keys_are_visited_in_bounded_looks_and_a_break_ends_them() {
    let store = Place::Memory(MemoryEngine::default()).open();
    let mut model = Model::default();
    let puts: Vec<_> = (0..2000).map(|i| (Bytes::from(format!("{i:05}")), 0, 0)).collect();
    model.run(&store, model.write(&puts, &[]));
    let view = store.view();
    let mut seen = Vec::new();
    view.keys(&all(), Revision::new(2), &mut |key, _| {
        seen.push(Bytes::copy_from_slice(key));
        if seen.len() == 1500 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(seen, puts[..1500].iter().map(|(key, ..)| key.clone()).collect::<Vec<_>>());
    assert_eq!(view.count(&all(), Revision::new(2)), 2000);
    assert_eq!(view.count(&all(), Revision::new(1)), 0);
}
