//! Reading a log to find what is wrong with it: finds what opening finds, changes nothing, and goes on.

use super::{DIR, append, entry, open, options, run, segment_path, vote};
use crate::fault::FaultDisk;
use crate::{CheckVisitor, Disk, LogEntry, WalCheck, WalError, WalFault, check};
use std::path::{Path, PathBuf};

const SEGMENT_BYTES: u64 = 2 << 10;

#[derive(Default)]
struct Seen {
    entries: Vec<(u32, u64)>,
    faults: Vec<WalFault>,
}

impl CheckVisitor for Seen {
    fn entry(&mut self, group: u32, entry: LogEntry) -> Result<(), String> {
        self.entries.push((group, entry.index));
        Ok(())
    }

    fn fault(&mut self, fault: WalFault) {
        self.faults.push(fault);
    }
}

fn look(disk: &FaultDisk) -> (WalCheck, Seen) {
    let mut seen = Seen::default();
    let checked = check(disk, Path::new(DIR), &mut seen).unwrap();
    (checked, seen)
}

fn names(disk: &FaultDisk) -> Vec<PathBuf> {
    disk.list(Path::new(DIR)).unwrap().into_iter().map(|name| Path::new(DIR).join(name)).collect()
}

/// Several segments, truncated and purged here and there.
async fn closed_log() -> FaultDisk {
    let disk = FaultDisk::new();
    let log = open(&disk, &options(SEGMENT_BYTES)).unwrap();
    for index in 0..24 {
        append(&log.wal.group(1), vec![entry(1, index, [b'a'; 130])]).await.unwrap();
        append(&log.wal.group(2), vec![entry(1, index, [b'b'; 61])]).await.unwrap();
        if index == 12 {
            log.wal.group(2).truncate_after(Some(8)).unwrap();
            append(&log.wal.group(2), (9..13).map(|index| entry(2, index, [b'c'; 9])).collect()).await.unwrap();
            log.wal.group(1).purge(1, 3).unwrap();
        }
    }
    vote(&log.wal.group(1), "for me").await.unwrap();
    log.close().await;
    disk
}

#[test]
fn a_whole_log_has_no_fault_and_all_is_read() {
    run(async {
        let disk = closed_log().await;
        let before: Vec<_> = names(&disk).iter().map(|path| disk.content(path)).collect();
        let (checked, seen) = look(&disk);
        assert_eq!(seen.faults, []);
        assert_eq!(checked.segments + checked.spares, names(&disk).len() as u64);
        assert_eq!(checked.purged.get(&1), Some(&(1, 3)));
        assert_eq!(seen.entries.iter().filter(|(group, _)| *group == 1).count(), 24);
        assert!(checked.records > 50 && checked.bytes > 4000 && checked.torn_at.is_none(), "{checked:?}");
        let after: Vec<_> = names(&disk).iter().map(|path| disk.content(path)).collect();
        assert_eq!(before, after);
    });
}

#[test]
fn a_flipped_bit_is_reported_exactly_where_opening_refuses_the_log() {
    run(async {
        let disk = closed_log().await;
        let mut found = 0;
        for path in names(&disk) {
            for byte in (0..disk.content(&path).len() as u64).step_by(3) {
                let copy = disk.copy();
                copy.flip_bit(&path, byte * 8 + byte % 8);
                let (_, seen) = look(&copy);
                match open(&copy, &options(SEGMENT_BYTES)) {
                    Ok(log) => {
                        assert_eq!(seen.faults, [], "byte {byte} of {}", path.display());
                        log.abandon().await;
                    }
                    Err(error) => {
                        let WalError::Corrupt { path, offset, .. } = error else { panic!("{error}") };
                        let first = &seen.faults[0];
                        assert_eq!(
                            (&first.path, first.offset),
                            (&path, Some(offset)),
                            "byte {byte}: {seen:?}",
                            seen = seen.faults
                        );
                        found += 1;
                    }
                }
            }
        }
        assert!(found > 1000, "{found}");
    });
}

#[test]
fn every_fault_is_reported_and_not_only_the_first() {
    run(async {
        let disk = closed_log().await;
        disk.flip_bit(&segment_path(1), 8 * 400);
        disk.flip_bit(&segment_path(3), 8 * 900);
        disk.remove(&segment_path(2)).unwrap();
        let (_, seen) = look(&disk);
        let paths: Vec<_> = seen.faults.iter().map(|fault| fault.path.clone()).collect();
        for sequence in 1..=3 {
            assert!(paths.contains(&segment_path(sequence)), "{:?}", seen.faults);
        }
        assert!(seen.entries.contains(&(1, 23)), "what can be read is read");
    });
}

#[test]
fn a_torn_tail_is_no_fault() {
    run(async {
        let disk = FaultDisk::new();
        let log = open(&disk, &options(64 << 10)).unwrap();
        append(&log.wal.group(1), vec![entry(1, 0, "first")]).await.unwrap();
        append(&log.wal.group(1), vec![entry(1, 1, "second"), entry(1, 2, "third")]).await.unwrap();
        log.abandon().await;
        let content = disk.content(&segment_path(1));
        let at = content.windows(6).position(|window| window == b"second").unwrap() as u64;
        disk.flip_bit(&segment_path(1), at * 8);
        let (checked, seen) = look(&disk);
        assert_eq!((seen.faults, checked.torn_at), (Vec::new(), Some(at - 48)));
    });
}

#[test]
fn sealed_segments_of_a_log_in_use_are_read_again_in_steps() {
    run(async {
        let disk = closed_log().await;
        let log = open(&disk, &options(SEGMENT_BYTES)).unwrap();
        let sealed = |after| log.wal.sealed_after(after);
        let (mut after, mut bytes, mut steps) = (0, 0, 0);
        while let Some(mut segment) = sealed(after).unwrap() {
            after = segment.sequence();
            loop {
                let read = segment.step(300).unwrap();
                if read == 0 {
                    break;
                }
                (bytes, steps) = (bytes + read, steps + 1);
            }
        }
        assert!(after >= 2 && bytes > 4000 && steps > 10, "{after} {bytes} {steps}");

        disk.flip_bit(&segment_path(after), 8 * 300);
        let mut segment = sealed(after - 1).unwrap().unwrap();
        let fault = loop {
            match segment.step(300) {
                Ok(read) => assert!(read > 0, "it was not found"),
                Err(error) => break error,
            }
        };
        assert!(matches!(fault, WalError::Corrupt { path, .. } if path == segment_path(after)));
        log.abandon().await;
    });
}
