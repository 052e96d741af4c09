//! Damage on the disk: found, with file and offset, and never taken for data.

use super::{DIR, all, append, entry, open, options, run, segment_path, settle, vote};
use crate::fault::FaultDisk;
use crate::{Disk, FORMAT_VERSION, LogEntry, LogState, WalError, WalOptions};
use std::path::Path;

const SEGMENT_BYTES: u64 = 2 << 10;

/// A log of several segments with two groups, closed in good order, and what is in it.
async fn closed_log() -> (FaultDisk, Contents) {
    let disk = FaultDisk::new();
    let log = open(&disk, &options(SEGMENT_BYTES)).unwrap();
    for index in 0..20 {
        append(&log.wal.group(1), vec![entry(1, index, [b'a'; 130])]).await.unwrap();
        append(&log.wal.group(2), vec![entry(1, index, [b'b'; 61])]).await.unwrap();
    }
    vote(&log.wal.group(1), "for me").await.unwrap();
    let contents = contents(&log.wal);
    log.close().await;
    (disk, contents)
}

type Contents = Vec<(LogState, Vec<LogEntry>)>;

fn contents(wal: &crate::Wal) -> Contents {
    [1, 2].map(|group| (wal.group(group).state(), all(&wal.group(group)))).to_vec()
}

/// What opening the log says.
async fn refusal(disk: &FaultDisk) -> WalError {
    match open(disk, &options(SEGMENT_BYTES)) {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[test]
fn any_flipped_bit_in_a_closed_log_is_found_or_harmless() {
    run(async {
        let (disk, expected) = closed_log().await;
        let (mut found, mut harmless) = (0, 0);
        for name in disk.list(Path::new(DIR)).unwrap() {
            let path = Path::new(DIR).join(name);
            // Every byte, and of each byte one bit, which is a different one for each.
            for byte in 0..disk.content(&path).len() as u64 {
                let copy = disk.copy();
                copy.flip_bit(&path, byte * 8 + byte % 8);
                match open(&copy, &options(SEGMENT_BYTES)) {
                    Ok(log) => {
                        assert_eq!(contents(&log.wal), expected, "byte {byte} of {}", path.display());
                        log.abandon().await;
                        harmless += 1;
                    }
                    Err(WalError::Corrupt { path: named, offset, .. }) => {
                        assert_eq!(named, path);
                        assert!(offset <= byte, "the first bad record begins at or before the flip");
                        found += 1;
                    }
                    Err(error) => panic!("byte {byte} of {}: {error}", path.display()),
                }
            }
        }
        assert!(found > 3000 && harmless > 100, "found {found}, harmless {harmless}");
    });
}

#[test]
fn a_flip_under_a_running_log_is_found_when_it_is_read() {
    run(async {
        let (disk, _) = closed_log().await;
        let log = open(&disk, &options(SEGMENT_BYTES)).unwrap();
        disk.flip_bit(&segment_path(1), 8 * 200);
        let error = log.wal.group(1).read(0..2, u64::MAX).unwrap_err();
        assert!(matches!(error, WalError::Corrupt { path, .. } if path == segment_path(1)));
        log.abandon().await;
    });
}

#[test]
fn a_torn_tail_is_cut_and_a_bad_record_before_a_later_batch_is_not() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(64 << 10)).unwrap();
        let group = log.wal.group(1);
        append(&group, vec![entry(1, 0, "first")]).await.unwrap();
        append(&group, vec![entry(1, 1, "second"), entry(1, 2, "third")]).await.unwrap();
        log.abandon().await;
        let path = segment_path(1);
        let find =
            |needle: &[u8]| disk.content(&path).windows(needle.len()).position(|at| at == needle).unwrap() as u64;

        // The last batch, not followed by another one: it may be torn. What is whole in it stays.
        let torn = disk.copy();
        torn.flip_bit(&path, find(b"third") * 8);
        let log = open(&torn, &options(64 << 10)).unwrap();
        assert_eq!(all(&log.wal.group(1)), [entry(1, 0, "first"), entry(1, 1, "second")]);
        log.abandon().await;
        // In the same batch, a whole record behind the torn one is part of the tail, and does not come back either.
        let torn = disk.copy();
        torn.flip_bit(&path, find(b"second") * 8);
        let log = open(&torn, &options(64 << 10)).unwrap();
        assert_eq!(all(&log.wal.group(1)), [entry(1, 0, "first")]);
        // It ends where "third" began. Not closed: the mark would overwrite that.
        append(&log.wal.group(1), vec![entry(2, 1, "SECOND")]).await.unwrap();
        log.abandon().await;
        let log = open(&torn, &options(64 << 10)).unwrap();
        assert_eq!(all(&log.wal.group(1)), [entry(1, 0, "first"), entry(2, 1, "SECOND")]);
        log.abandon().await;
        // The batch before was durable when this one was written.
        let damaged = disk.copy();
        damaged.flip_bit(&path, find(b"first") * 8);
        let error = open(&damaged, &options(64 << 10)).err().unwrap();
        let WalError::Corrupt { path: named, offset, problem } = error else { panic!("{error}") };
        assert_eq!((named, offset), (path.clone(), find(b"first") - 48));
        assert!(problem.contains("a record of a later batch follows"), "{problem}");
    });
}

#[test]
fn damage_to_the_restated_state_is_never_a_torn_tail() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(1 << 10)).unwrap();
        vote(&log.wal.group(1), "for me").await.unwrap();
        append(&log.wal.group(1), vec![entry(1, 0, [0; 700]), entry(1, 1, [1; 700])]).await.unwrap();
        log.abandon().await;
        // As if the power had failed just after the second segment was made.
        let path = segment_path(2);
        let restated_end = crate::format::u64_at(&disk.content(&path), 40);
        disk.open(&path).unwrap().set_len(restated_end).unwrap();
        let log = open(&disk.copy(), &options(1 << 10)).unwrap();
        assert_eq!(log.wal.group(1).state().vote, Some("for me".into()));
        log.abandon().await;
        // The last two bytes are the padding of the vote, and mean nothing.
        for byte in 64..restated_end - 2 {
            let copy = disk.copy();
            copy.flip_bit(&path, byte * 8);
            let error = open(&copy, &options(1 << 10)).err().expect("it opened");
            let WalError::Corrupt { path: named, offset, .. } = error else { panic!("{error}") };
            assert!(named == path && offset <= byte && offset >= 64, "offset {offset} for byte {byte}");
        }
    });
}

#[test]
fn a_missing_segment_is_missed() {
    run(async {
        let (disk, _) = closed_log().await;
        let dir = Path::new(DIR);
        let segments = disk.list(dir).unwrap().iter().filter(|name| !name.starts_with("spare")).count() as u64;
        assert!(segments >= 3);
        for sequence in 1..segments {
            let copy = disk.copy();
            copy.remove(&segment_path(sequence)).unwrap();
            let error = refusal(&copy).await;
            assert!(matches!(&error, WalError::Missing { path } if *path == segment_path(sequence)), "{error}");
        }
    });
}

#[test]
fn strange_files_are_refused_and_others_left_alone() {
    run(async {
        let (disk, expected) = closed_log().await;
        let dir = Path::new(DIR);
        let with = |name: &str, content: &[u8]| {
            let copy = disk.copy();
            copy.create(&dir.join(name)).unwrap().write_at(0, content).unwrap();
            copy
        };
        let log = open(&with("notes.txt", b"hello"), &options(SEGMENT_BYTES)).unwrap();
        assert_eq!(contents(&log.wal), expected);
        log.abandon().await;
        let error = refusal(&with("backup.wal", b"hello")).await;
        assert!(matches!(&error, WalError::Foreign { path } if path.ends_with("backup.wal")), "{error}");
        let next = open_name(&disk);
        let error = refusal(&with(&next, &[0; 4096])).await;
        assert!(matches!(&error, WalError::Foreign { path } if path.ends_with(&next)), "{error}");
        assert!(error.to_string().contains("move it out"), "{error}");
    });
}

/// The name that the next segment would have.
fn open_name(disk: &FaultDisk) -> String {
    let names = disk.list(Path::new(DIR)).unwrap();
    let segments = names.iter().filter(|name| !name.starts_with("spare")).count();
    format!("{:016x}.wal", segments + 1)
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    run(async {
        let (disk, _) = closed_log().await;
        let name = open_name(&disk);
        let mut header = *b"QRTEWAL\n\x02\0\0\0........and so on, in a way that only the future knows";
        header[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        disk.create(&Path::new(DIR).join(name)).unwrap().write_at(0, &header).unwrap();
        let error = refusal(&disk).await;
        assert!(matches!(error, WalError::NewerFormat { version: 2, supported: 1, .. }), "{error}");
        assert!(error.to_string().contains("format version 2"), "{error}");
    });
}

#[test]
fn a_renamed_segment_is_refused() {
    run(async {
        let (disk, _) = closed_log().await;
        disk.remove(&segment_path(1)).unwrap();
        disk.rename(&segment_path(2), &segment_path(1)).unwrap();
        disk.rename(&segment_path(3), &segment_path(2)).unwrap();
        let error = refusal(&disk).await;
        assert!(matches!(error, WalError::Missing { .. } | WalError::Corrupt { .. }), "{error}");
    });
}

/// As [`closed_log`], purged here and there, and longer in the group whose entries are small.
async fn purged_log() -> FaultDisk {
    let (disk, _) = closed_log().await;
    let log = open(&disk, &options(SEGMENT_BYTES)).unwrap();
    log.wal.group(1).purge(1, 1).unwrap();
    for index in 20..26 {
        append(&log.wal.group(2), vec![entry(2, index, [b'b'; 61])]).await.unwrap();
    }
    vote(&log.wal.group(2), "for her").await.unwrap();
    log.close().await;
    disk
}

#[test]
fn a_damaged_sealed_segment_is_given_up_if_the_states_have_what_was_in_it() {
    run(async {
        let disk = purged_log().await;
        let log = open(&disk, &options(SEGMENT_BYTES)).unwrap();
        let expected = contents(&log.wal);
        let segments = log.wal.metrics().segments;
        assert!(segments >= 3, "{segments}");
        log.abandon().await;
        let with_states = |has: [u64; 2]| WalOptions {
            state_has: [(1, (1, has[0])), (2, (1, has[1]))].into(),
            ..options(SEGMENT_BYTES)
        };
        let (mut healed, mut refused) = (0, 0);
        for sequence in 1..segments {
            for byte in (0..disk.content(&segment_path(sequence)).len() as u64).step_by(7) {
                for has in [0, 5, 12, 18] {
                    let copy = disk.copy();
                    copy.flip_bit(&segment_path(sequence), byte * 8 + byte % 8);
                    if open(&copy, &options(SEGMENT_BYTES)).is_ok() {
                        continue;
                    }
                    let Ok(log) = open(&copy, &with_states([has, has])) else {
                        refused += 1;
                        continue;
                    };
                    // Everything that the states do not have is there, and the vote.
                    for (now, before) in contents(&log.wal).iter().zip(&expected) {
                        assert_eq!((&now.0.vote, now.0.last), (&before.0.vote, before.0.last));
                        assert_eq!(now.0.purged, Some((1, has)));
                        let kept: Vec<_> = before.1.iter().filter(|entry| entry.index > has).cloned().collect();
                        assert_eq!(now.1, kept);
                    }
                    settle().await;
                    log.close().await;
                    // It is a log as any other again.
                    let log = open(&copy, &options(SEGMENT_BYTES)).unwrap();
                    assert_eq!(contents(&log.wal)[0].0.purged, Some((1, has)));
                    log.abandon().await;
                    healed += 1;
                }
            }
        }
        assert!(healed > 100 && refused > 100, "healed {healed}, refused {refused}");
    });
}

#[test]
fn what_may_have_been_acknowledged_is_not_given_up() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(SEGMENT_BYTES)).unwrap();
        for index in 0..8 {
            append(&log.wal.group(1), vec![entry(1, index, [b'a'; 130])]).await.unwrap();
        }
        vote(&log.wal.group(2), "for her").await.unwrap();
        append(&log.wal.group(2), vec![entry(1, 0, "only here")]).await.unwrap();
        for index in 8..20 {
            append(&log.wal.group(1), vec![entry(1, index, [b'a'; 130])]).await.unwrap();
        }
        log.close().await;
        disk.flip_bit(&segment_path(1), 8 * 400);
        let open = |state_has: &[(u32, (u64, u64))]| {
            let state_has = state_has.iter().copied().collect();
            open(&disk.copy(), &WalOptions { state_has, ..options(SEGMENT_BYTES) }).err()
        };
        // Of the second group no entry is left: it may have had more than its state has. Of the third nothing is known.
        for states in [&[(1, (1, 19))][..], &[(1, (1, 19)), (2, (1, 0))], &[(1, (1, 19)), (2, (1, 0)), (3, (1, 5))]] {
            assert!(
                matches!(open(states), Some(WalError::Corrupt { path, .. }) if path == segment_path(1)),
                "{states:?}"
            );
        }
    });
}

#[test]
fn an_entry_of_another_term_than_the_state_says_is_a_contradiction() {
    run(async {
        let disk = purged_log().await;
        disk.flip_bit(&segment_path(1), 8 * 400);
        let open = |term| {
            let state_has = [(1, (term, 18)), (2, (1, 18))].into();
            open(&disk.copy(), &WalOptions { state_has, ..options(SEGMENT_BYTES) })
        };
        assert!(open(2).is_err());
        open(1).unwrap().abandon().await;
    });
}
