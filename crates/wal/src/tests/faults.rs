//! Failing syncs, full disks, freed segments.

use super::{DIR, all, append, completion, entry, open, options, run, segment_path, settle, vote};
use crate::fault::FaultDisk;
use crate::{Completion, Disk, GroupLog, WalError};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

#[test]
fn a_failed_fsync_is_fatal_and_nothing_is_acknowledged_after_it() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(64 << 10)).unwrap();
        let group = log.wal.group(1);
        append(&group, vec![entry(1, 0, "kept")]).await.unwrap();

        disk.fail_sync_at(disk.syncs());
        let (done, lost) = completion();
        group.append(vec![entry(1, 1, "lost")], done).await.unwrap();
        let (done, lost_vote) = completion();
        group.save_vote(Bytes::from_static(b"lost"), done).unwrap();
        assert!(matches!(lost.await.unwrap(), Err(WalError::Stopped(_))));
        assert!(matches!(lost_vote.await.unwrap(), Err(WalError::Stopped(_))));
        let told = log.fatal.lock().clone();
        assert!(matches!(told.as_slice(), [WalError::Io { action: "sync", .. }]), "{told:?}");

        // The next sync would succeed, and must not be tried.
        let syncs = disk.syncs();
        assert!(matches!(append(&group, vec![entry(1, 2, "later")]).await, Err(WalError::Stopped(_))));
        assert!(matches!(vote(&group, "later").await, Err(WalError::Stopped(_))));
        assert!(matches!(group.purge(1, 0), Err(WalError::Stopped(_))));
        settle().await;
        assert_eq!((disk.syncs(), log.fatal.lock().len()), (syncs, 1));
        log.close().await;

        // The process starts again, on a cache that calls the lost pages clean. What is recovered is durable then.
        disk.kill();
        let log = open(&disk, &options(64 << 10)).unwrap();
        let recovered = all(&log.wal.group(1));
        log.abandon().await;
        disk.power_cut(0);
        let log = open(&disk, &options(64 << 10)).unwrap();
        assert_eq!(all(&log.wal.group(1)), recovered);
        assert_eq!(recovered[0], entry(1, 0, "kept"));
        log.close().await;
    });
}

#[test]
fn a_failed_sync_of_the_preparer_is_fatal_too() {
    run(async {
        let disk = FaultDisk::new();
        let options = options(64 << 10);
        let log = open(&disk, &options).unwrap();
        let group = log.wal.group(1);
        // The first append asks for a spare, because it fills half of the segment; the sync after its own is the spare's.
        disk.fail_sync_at(disk.syncs() + 3);
        append(&group, vec![entry(1, 0, [0; 12 << 10])]).await.unwrap();
        append(&group, vec![entry(1, 1, [0; 12 << 10])]).await.unwrap();
        append(&group, vec![entry(1, 2, [0; 12 << 10])]).await.unwrap();
        settle().await;
        assert_eq!(log.fatal.lock().len(), 1);
        assert!(matches!(append(&group, vec![entry(1, 3, "later")]).await, Err(WalError::Stopped(_))));
        log.close().await;
    });
}

#[test]
fn a_full_disk_delays_and_loses_nothing() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(4 << 10)).unwrap();
        let group = log.wal.group(1);
        let mut index = 0;
        disk.set_capacity(Some(16 << 10));
        let waiting = loop {
            let (done, mut outcome) = completion();
            group.append(vec![entry(1, index, [1; 700])], done).await.unwrap();
            index += 1;
            settle().await;
            if outcome.try_recv().is_err() {
                break outcome;
            }
            assert!(index < 100, "the disk never was full");
        };
        assert!(index > 4, "there was room at first");
        assert!(log.wal.metrics().short_of_space);
        // Reads go on, of what waits as well.
        assert_eq!(all(&group).len() as u64, index);
        log.wal.retry_space();
        settle().await;
        assert!(log.wal.metrics().short_of_space);

        disk.set_capacity(None);
        log.wal.retry_space();
        waiting.await.unwrap().unwrap();
        settle().await;
        assert!(!log.wal.metrics().short_of_space);
        append(&group, vec![entry(1, index, "more")]).await.unwrap();
        assert!(log.fatal.lock().is_empty());
        log.close().await;
        disk.power_cut(1);
        let log = open(&disk, &options(4 << 10)).unwrap();
        assert_eq!(all(&log.wal.group(1)).len() as u64, index + 1);
        log.close().await;
    });
}

#[test]
fn closing_on_a_full_disk_answers_without_ending_the_process() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(1 << 10)).unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        let group = log.wal.group(1);
        let (done, outcome) = completion();
        group.append(vec![entry(1, 0, [1; 900]), entry(1, 1, [1; 900])], done).await.unwrap();
        settle().await;
        log.wal.close();
        let error = outcome.await.unwrap().unwrap_err();
        assert!(matches!(&error, WalError::Stopped(why) if matches!(**why, WalError::NoSpace { .. })), "{error}");
        assert!(error.to_string().contains("no space left"), "{error}");
        assert!(log.fatal.lock().is_empty());
        log.close().await;
    });
}

async fn fill(group: &GroupLog, entries: u64) {
    let next = group.state().last.map_or(0, |(_, index)| index + 1);
    for index in next..next + entries {
        append(group, vec![entry(1, index, [index as u8; 200])]).await.unwrap();
    }
}

#[test]
fn segments_go_when_every_group_has_purged_past_them_and_not_before() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(2 << 10)).unwrap();
        let (busy, idle) = (log.wal.group(1), log.wal.group(2));
        append(&idle, vec![entry(1, 0, "holds the first segment")]).await.unwrap();
        vote(&idle, "restated").await.unwrap();
        fill(&busy, 60).await;
        let grown = log.wal.metrics().segments;
        assert!(grown > 6);
        busy.purge(1, 55).unwrap();
        fill(&busy, 1).await;
        settle().await;
        assert_eq!(log.wal.metrics().segments, grown, "one group still needs the first");
        assert!(busy.bytes_after_purge() < 2000);

        idle.purge(1, 0).unwrap();
        settle().await;
        let metrics = log.wal.metrics();
        assert!(metrics.segments <= 2, "{metrics:?}");
        assert_eq!(metrics.spares, 2, "no more than the maximum is kept");
        assert_eq!(disk.list(Path::new(DIR)).unwrap().len() as u64, metrics.segments + metrics.spares);
        log.close().await;

        // The oldest segment is not the first one now, and all state is there.
        let log = open(&disk, &options(2 << 10)).unwrap();
        assert_eq!(log.wal.group(2).state().vote, Some("restated".into()));
        assert_eq!(log.wal.group(2).state().last, Some((1, 0)));
        assert_eq!(all(&log.wal.group(1)).len(), 5);
        fill(&log.wal.group(1), 10).await;
        log.close().await;
        let oldest = disk.list(Path::new(DIR)).unwrap().remove(0);
        disk.remove(&Path::new(DIR).join(oldest)).unwrap();
        assert!(matches!(open(&disk, &options(2 << 10)).err(), Some(WalError::Missing { .. })));
    });
}

#[test]
fn stale_records_of_a_recycled_segment_stay_dead() {
    run(async {
        let disk = FaultDisk::new();
        let options = options(2 << 10);
        let log = open(&disk, &options).unwrap();
        let group = log.wal.group(1);
        fill(&group, 40).await;
        let last = group.state().last.unwrap();
        group.purge(last.0, last.1).unwrap();
        settle().await;
        let spares = log.wal.metrics().spares;
        assert!(spares > 0);
        // Into the recycled file, with records of the same size at the same places; then a crash at every length.
        for _ in 0..20 {
            fill(&group, 1).await;
            let expected = all(&group);
            let copy = disk.copy();
            let again = open(&copy, &options).unwrap();
            assert_eq!(all(&again.wal.group(1)), expected);
            again.abandon().await;
        }
        log.close().await;
        let newest = disk.list(Path::new(DIR)).unwrap().into_iter().rfind(|name| !name.starts_with("spare")).unwrap();
        assert!(newest > segment_path(8).file_name().unwrap().to_string_lossy().into_owned());
    });
}

#[test]
fn a_reader_keeps_a_freed_segment_readable() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(2 << 10)).unwrap();
        let group = log.wal.group(1);
        fill(&group, 30).await;
        let held = log.wal.hold_segment(1);
        let mut before = [0; 64];
        held.file.read_at(0, &mut before).unwrap();
        group.purge(1, 29).unwrap();
        settle().await;
        fill(&group, 30).await;
        settle().await;
        let mut after = [0; 64];
        held.file.read_at(0, &mut after).unwrap();
        assert_eq!(before, after, "the file got new content under a reader");
        log.close().await;
    });
}

#[test]
fn an_append_waits_for_room_and_a_huge_one_passes() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(4 << 10)).unwrap();
        let group = log.wal.group(1);
        // Three times the queue, and twelve times a segment.
        append(&group, vec![entry(1, 0, vec![5; 48 << 10])]).await.unwrap();
        let mut outcomes = Vec::new();
        for index in 1..40 {
            let (done, outcome) = completion();
            group.append(vec![entry(1, index, [index as u8; 1000])], done).await.unwrap();
            assert!(log.wal.metrics().queued_bytes <= 16 << 10);
            outcomes.push(outcome);
        }
        for outcome in outcomes {
            outcome.await.unwrap().unwrap();
        }
        let cached = log.wal.metrics().cached_bytes;
        assert!(cached <= 2 << 10, "the cache holds {cached} bytes");
        assert_eq!(all(&group).len(), 40);
        log.close().await;
    });
}

#[test]
fn bodies_leave_memory_even_if_they_were_queued_when_their_turn_came() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(4 << 10)).unwrap();
        let group = log.wal.group(1);
        // One append over several segments: some of it is durable while the rest is queued.
        append(&group, (0..10).map(|index| entry(1, index, [index as u8; 1000])).collect()).await.unwrap();
        // Memory would not notice what happens to the disk.
        for sequence in 1..=log.wal.metrics().segments {
            (0..disk.content(&segment_path(sequence)).len() as u64)
                .for_each(|byte| disk.flip_bit(&segment_path(sequence), byte * 8));
        }
        let in_memory = (0..10).filter(|&index| group.read(index..index + 1, u64::MAX).is_ok()).count();
        assert_eq!(in_memory, 1, "the cache holds 2 KiB");
        log.abandon().await;
    });
}

#[test]
fn entries_out_of_order_are_refused() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(4 << 10)).unwrap();
        let group = log.wal.group(1);
        append(&group, vec![entry(1, 5, "any may be the first")]).await.unwrap();
        for (first, second) in [(5, 6), (7, 8), (6, 8)] {
            let entries = vec![entry(1, first, "a"), entry(1, second, "b")];
            let error = append(&group, entries).await.unwrap_err();
            assert!(matches!(error, WalError::OutOfOrder { group: 1, .. }), "{error}");
        }
        assert_eq!((group.state().last, log.wal.metrics().queued_bytes), (Some((1, 5)), 0));
        log.close().await;
    });
}

#[test]
fn the_last_handle_closes_the_log() {
    run(async {
        let disk = FaultDisk::new();
        let (wal, writer, preparer) =
            crate::Wal::open(Arc::new(disk), options(4 << 10), Arc::new(|error| panic!("{error}"))).unwrap();
        let tasks = [tokio::spawn(writer.run()), tokio::spawn(preparer.run())];
        let group = wal.group(1);
        drop(wal);
        append(&group, vec![entry(1, 0, "still open")]).await.unwrap();
        drop(group);
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_writer_that_waits_says_so_though_there_is_room_for_the_next_segment() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(4 << 10)).unwrap();
        let group = log.wal.group(1);
        settle().await;
        disk.set_capacity(Some(disk.used_bytes() + (16 << 10)));
        let (done, mut outcome) = completion();
        group.append(vec![entry(1, 0, [1; 64 << 10])], done).await.unwrap();
        settle().await;
        log.wal.retry_space();
        settle().await;
        assert!(log.wal.metrics().spares > 0, "the next segment is there");
        assert!(outcome.try_recv().is_err() && log.wal.metrics().short_of_space, "nobody else would nudge the writer");
        disk.set_capacity(None);
        log.wal.retry_space();
        outcome.await.unwrap().unwrap();
        assert!(!log.wal.metrics().short_of_space);
        log.close().await;
    });
}

#[test]
fn an_entry_that_replaced_a_queued_one_stays_readable() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(1 << 10)).unwrap();
        let group = log.wal.group(1);
        // The full disk keeps the first entry in the writer's hands until the second one has taken its place.
        disk.set_capacity(Some(disk.used_bytes()));
        let (reader, (seen, read)) = (group.clone(), tokio::sync::oneshot::channel());
        let done = Completion::new(move |_| drop(seen.send(reader.read(0..1, u64::MAX))));
        group.append(vec![entry(1, 0, [1; 3000])], done).await.unwrap();
        settle().await;
        group.truncate_after(None).unwrap();
        let (done, outcome) = completion();
        group.append(vec![entry(2, 0, [2; 3000])], done).await.unwrap();
        disk.set_capacity(None);
        log.wal.retry_space();
        assert_eq!(read.await.unwrap().unwrap(), [entry(2, 0, [2; 3000])]);
        outcome.await.unwrap().unwrap();
        assert_eq!(all(&group), [entry(2, 0, [2; 3000])]);
        log.close().await;
    });
}

#[test]
fn a_length_that_was_set_is_the_old_or_the_new_one_after_a_power_cut() {
    let mut found = std::collections::BTreeSet::new();
    for (seed, fails) in (0..64).flat_map(|seed| [(seed, false), (seed, true)]) {
        let disk = FaultDisk::new();
        let file = disk.create(Path::new("/file")).unwrap();
        file.set_len(4096).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.set_len(12288).unwrap();
        if fails {
            disk.fail_sync_at(disk.syncs());
            file.sync_data().unwrap_err();
        }
        file.write_at(8192, &[7; 2048]).unwrap();
        disk.power_cut(seed);
        found.insert(disk.content(Path::new("/file")).len());
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [4096, 12288]);
}
