//! openraft's own suite for log storage and state machine, over our log and store.

use super::durable::DurableMarks;
use super::log_store::LogStore;
use super::state_machine::{AppliedBatch, ApplyHooks, ApplyTimes, StateMachine};
use super::types::{StoredMembership, Types};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use quorate_core::{GroupId, Record, Revision, SystemChange};
use quorate_storage::engine::MemoryEngine;
use quorate_storage::{Store, StoreConfig};
use quorate_wal::{OsDisk, Wal, WalOptions};
use std::sync::Arc;

/// Hooks that nobody listens to.
struct Deaf;

impl ApplyHooks for Deaf {
    fn on_applied(
        &self,
        _: Revision,
        _: &[Record],
        _: &[SystemChange],
        _: Vec<AppliedBatch>,
        _: (u64, u64),
        _: ApplyTimes,
    ) {
    }

    fn on_membership(&self, _: &StoredMembership, _: (u64, u64)) {}

    fn on_snapshot(&self, _: &StoredMembership, _: (u64, u64)) {}

    fn hold_log(&self, _: u64) -> Box<dyn Send> {
        Box::new(())
    }

    async fn wait_for_room(&self) {}

    fn fatal(&self, reason: &str) {
        panic!("{reason}");
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, StateMachine<Deaf>, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine<Deaf>), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("a directory");
        let options = WalOptions { segment_bytes: 64 << 10, ..WalOptions::new(dir.path().join("wal")) };
        let fatal = Arc::new(|error: &quorate_wal::WalError| panic!("{error}"));
        let (wal, writer, preparer) = Wal::open(Arc::new(OsDisk), options, fatal).expect("an empty log");
        tokio::spawn(writer.run());
        tokio::spawn(preparer.run());
        let engine = Arc::new(MemoryEngine::default());
        let store = Store::open(engine, GroupId::DEFAULT, StoreConfig::default()).expect("an empty store");
        Ok((
            dir,
            LogStore::new(wal.group(0), DurableMarks::default()),
            StateMachine::new(Arc::new(store), Arc::new(Deaf), DurableMarks::default()),
        ))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_state_machine_pass_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}
