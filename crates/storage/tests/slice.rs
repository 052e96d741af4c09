//! The straight line: commit, publish, view, drain, flush, reopen.

mod common;

use common::{Entry, Model};
use quorate_core::{GroupId, View};
use quorate_storage::engine::{EngineConfig, EngineKind, open_engine};
use quorate_storage::{Progress, Store, StoreConfig};

#[test]
fn what_was_flushed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let engine = open_engine(EngineKind::Redb, dir.path(), EngineConfig { cache_bytes: 1 << 20 }).unwrap();
        Store::open(engine, GroupId::DEFAULT, StoreConfig::default()).unwrap()
    };
    let mut model = Model::default();
    {
        let store = open();
        model.check(&store);
        for i in 0..40_u8 {
            let key = vec![b'a' + i % 7].into();
            model.commit(&store, Entry::Delta(model.write(&[(key, 20, 0)], &[])));
        }
        let view = store.view();
        assert_eq!(view.revision().get(), 41);
        model.check(&store);
        store.drain(1).unwrap();
        model.check(&store);
        while store.checkpoint_step(3).unwrap() != Progress::Idle {}
        assert_eq!(store.flush().unwrap().index, 40);
        model.commit(&store, Entry::Delta(model.compact(30)));
        model.check(&store);
        drop(view);
        while store.compaction_step(5).unwrap() != Progress::Idle {}
        model.check(&store);
        store.flush().unwrap();
    }
    let store = open();
    model.check(&store);
}
