//! What every caller relies on, one property at a time.

use super::{all, append, completion, entry, open, options, run, vote};
use crate::fault::FaultDisk;
use crate::{LogState, WalError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

#[test]
fn what_was_written_is_there_after_reopening() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(4 << 10)).unwrap();
        let (one, two) = (log.wal.group(1), log.wal.group(2));
        append(&one, vec![entry(1, 0, "a"), entry(1, 1, "b")]).await.unwrap();
        append(&two, vec![entry(3, 0, "x")]).await.unwrap();
        vote(&one, "term 2").await.unwrap();
        one.truncate_after(Some(0)).unwrap();
        append(&one, vec![entry(2, 1, "c"), entry(2, 2, "d")]).await.unwrap();
        one.purge(1, 0).unwrap();
        one.save_committed(Bytes::from_static(b"2-2")).unwrap();
        let state = one.state();
        log.close().await;

        let log = open(&disk, &options(4 << 10)).unwrap();
        let (one, two) = (log.wal.group(1), log.wal.group(2));
        let expected = LogState {
            vote: Some("term 2".into()),
            committed: Some("2-2".into()),
            purged: Some((1, 0)),
            last: Some((2, 2)),
        };
        assert_eq!(one.state(), expected);
        assert_eq!(state, expected);
        assert_eq!(all(&one), [entry(2, 1, "c"), entry(2, 2, "d")]);
        assert_eq!(all(&two), [entry(3, 0, "x")]);
        assert_eq!((one.term_at(0), one.term_at(1), one.term_at(3)), (Some(1), Some(2), None));
        assert_eq!(log.wal.groups(), [1, 2]);
        log.close().await;
    });
}

#[test]
fn an_entry_is_readable_before_it_is_durable() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(4 << 10)).unwrap();
        let group = log.wal.group(0);
        let (done, mut outcome) = completion();
        group.append(vec![entry(1, 0, "a")], done).await.unwrap();
        assert_eq!(all(&group), [entry(1, 0, "a")]);
        assert!(outcome.try_recv().is_err(), "the writer has not run yet");
        outcome.await.unwrap().unwrap();
        log.close().await;
    });
}

#[test]
fn a_batch_completes_newest_first_with_one_fsync() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(64 << 10)).unwrap();
        let group = log.wal.group(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let fsyncs = log.wal.metrics().fsyncs;
        for index in 0..4 {
            let order = Arc::clone(&order);
            let done = crate::Completion::new(move |outcome: Result<(), WalError>| {
                outcome.unwrap();
                order.lock().push(index);
            });
            group.append(vec![entry(1, index, "a")], done).await.unwrap();
        }
        vote(&group, "v").await.unwrap();
        assert_eq!(*order.lock(), [3, 2, 1, 0]);
        assert_eq!(log.wal.metrics().fsyncs - fsyncs, 1);
        log.close().await;
    });
}
