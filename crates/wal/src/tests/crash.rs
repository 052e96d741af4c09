//! Power cuts and kills at every single operation on the disk.

use super::model::{Pair, Step};
use super::{options, run};
use crate::fault::FaultDisk;

/// A workload that rolls, frees, recycles, truncates and purges, in a few hundred operations on the disk.
fn script() -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..10 {
        for group in 0..3 {
            steps.push(Step::Append { group, entries: 2, body_bytes: 90 + 50 * group as u16 });
            steps.push(Step::Committed { group });
        }
        steps.push(Step::Settle);
        steps.push(Step::Vote { group: round % 3 });
        steps.push(Step::Append { group: 1, entries: 3, body_bytes: 300 });
        if round % 2 == 0 {
            steps.push(Step::Truncate { group: 1, back: 2 });
            steps.push(Step::Append { group: 1, entries: 1, body_bytes: 10 });
        }
        steps.push(Step::Settle);
        if round % 3 == 1 {
            (0..3).for_each(|group| steps.push(Step::Purge { group, ahead: 4 }));
            steps.push(Step::Settle);
        }
    }
    steps
}

/// What is done after the crash, over what the torn tail left behind.
fn afterwards() -> [Step; 7] {
    [
        Step::Append { group: 0, entries: 1, body_bytes: 90 },
        Step::Settle,
        Step::Kill,
        Step::Append { group: 1, entries: 3, body_bytes: 140 },
        Step::Settle,
        Step::Append { group: 2, entries: 2, body_bytes: 190 },
        Step::Settle,
    ]
}

/// Runs the script until the power fails at operation `cut`; `None` if it came through.
async fn run_until(cut: Option<u64>, segment_bytes: u64) -> Option<Pair> {
    let disk = FaultDisk::new();
    if let Some(cut) = cut {
        disk.cut_power_at(cut);
    }
    let mut pair = Pair::new(disk, options(segment_bytes)).ok()?;
    for step in script() {
        if pair.step(&step).await.is_err() {
            break;
        }
    }
    Some(pair)
}

fn operations(segment_bytes: u64) -> u64 {
    run(async {
        let pair = run_until(None, segment_bytes).await.unwrap();
        assert!(!pair.is_fatal());
        assert!(pair.segments() < 20, "nothing was freed");
        assert!(pair.files() > pair.segments() as usize, "nothing was recycled");
        pair.disk.operations()
    })
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    let segment_bytes = 2 << 10;
    for cut in 0..operations(segment_bytes) {
        // Different fates of what was not synced.
        for seed in 0..3 {
            run(async {
                let Some(mut pair) = run_until(Some(cut), segment_bytes).await else { return };
                let seed = seed + 3 * cut;
                pair.crash(|disk| disk.power_cut(seed)).await.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
                for step in afterwards() {
                    pair.step(&step).await.unwrap();
                }
                pair.check_now();
                pair.crash(|disk| disk.power_cut(!seed)).await.unwrap();
                pair.step(&Step::Reopen).await.unwrap();
            });
        }
    }
}

#[test]
fn a_kill_at_any_operation_and_a_power_cut_later_lose_nothing_acknowledged() {
    let segment_bytes = 2 << 10;
    for (cut, at_once) in (0..operations(segment_bytes)).flat_map(|cut| [(cut, true), (cut, false)]) {
        run(async {
            let Some(mut pair) = run_until(Some(cut), segment_bytes).await else { return };
            pair.crash(FaultDisk::kill).await.unwrap_or_else(|error| panic!("kill at {cut}: {error}"));
            if at_once {
                // What was recovered counts as durable: the power cut may take nothing of it.
                pair.crash(|disk| disk.power_cut(cut)).await.unwrap();
            }
            for step in afterwards() {
                pair.step(&step).await.unwrap();
            }
            pair.crash(|disk| disk.power_cut(!cut)).await.unwrap();
        });
    }
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_acknowledged() {
    let segment_bytes = 2 << 10;
    for cut in (0..operations(segment_bytes)).step_by(3) {
        for during in 0..4 {
            run(async {
                let Some(mut pair) = run_until(Some(cut), segment_bytes).await else { return };
                pair.disk.power_cut(cut);
                pair.disk.cut_power_at(pair.disk.operations() + during);
                if super::open(&pair.disk, &pair.options).is_ok() {
                    super::settle().await;
                }
                pair.crash(|disk| disk.power_cut(cut + during)).await.unwrap();
                for step in afterwards() {
                    pair.step(&step).await.unwrap();
                }
                pair.step(&Step::Reopen).await.unwrap();
            });
        }
    }
}
