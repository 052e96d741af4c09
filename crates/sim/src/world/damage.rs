//! What is stored changes.
//!
//! In the log only where it is sealed: at its end, damage cannot be told from a write that the power cut off. In the engine's
//! file only within what clients have written: redb ends the process when its own pages are wrong.

use super::World;
use crate::plan::Damage;
use quorate_wal::fault::{FaultDisk, SECTOR_BYTES};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECTOR: usize = SECTOR_BYTES as usize;

impl World {
    /// Changes something in a file of a machine, and holds its process down for it, unless it is to happen while that runs.
    /// Such as rebuild themselves are damaged in the engine alone: a log that is damaged is put right by nobody but an operator.
    pub(super) fn damage(&mut self, machine: usize, kind: Damage, place: u64, live: bool) {
        let rebuilds = self.plan.self_rebuild;
        let live = live && rebuilds && !self.known.iter().any(|known| known.rebuilds);
        let may = if rebuilds { self.is_whole_without(machine) } else { self.can_spare(machine) };
        if !may || self.known[machine].member.is_none() || !self.machines[machine].is_up() {
            return;
        }
        if !live {
            self.kill(machine, Duration::from_millis(200));
        }
        let disk = &self.machines[machine].disk;
        let mut files: Vec<PathBuf> = disk.files().into_iter().filter(|file| file.ends_with("engine.redb")).collect();
        if !rebuilds {
            files.extend(sealed_segments(disk));
        }
        let Some(file) = files.get(place as usize % files.len().max(1)) else { return };
        let Some(what) = change(disk, file, kind, place >> 8) else { return };
        let known = &mut self.known[machine];
        known.is_damaged = !rebuilds;
        known.rebuilds = rebuilds;
        known.damaged_live = live;
        self.log(format!("m{machine}: {what} of {}", file.display()));
    }

    /// Whether there is a member beside `machine` whose data are whole, and as new as those of all that are damaged: from
    /// it the others can be rebuilt.
    fn is_whole_without(&self, machine: usize) -> bool {
        let members = 0..self.plan.members;
        let damaged = |index: usize| index == machine || self.known[index].rebuilds;
        let newest = members.clone().filter(|index| damaged(*index)).map(|index| self.known[index].revision).max();
        let has_all = |index: usize| Some(self.known[index].revision) >= newest;
        self.replacement.is_none()
            && !self.known.iter().any(|known| known.is_damaged || known.damaged_live)
            && members.clone().all(|index| damaged(index) || self.votes(index))
            && members.clone().any(|index| !damaged(index) && has_all(index))
    }

    /// Members whose data were changed while they ran may not have met it yet: an operator starts them anew, and they read all
    /// that they have.
    pub(super) fn restart_damaged(&mut self) {
        for index in 0..self.machines.len() {
            if std::mem::take(&mut self.known[index].damaged_live) && self.machines[index].is_up() {
                self.machines[index].kill();
                self.machines[index].start(self.now);
            }
        }
    }
}

/// The segments of the log but the newest.
fn sealed_segments(disk: &FaultDisk) -> Vec<PathBuf> {
    let is_segment = |file: &PathBuf| {
        file.extension().is_some_and(|extension| extension == "wal")
            && file.file_name().is_some_and(|name| !name.to_string_lossy().starts_with("spare"))
    };
    let mut segments: Vec<PathBuf> = disk.files().into_iter().filter(is_segment).collect();
    segments.sort();
    segments.pop();
    segments
}

/// Changes one place, and says what. `None`: there is no such place.
fn change(disk: &FaultDisk, file: &Path, kind: Damage, place: u64) -> Option<String> {
    let content = disk.content(file);
    let is_engine = file.ends_with("engine.redb");
    let sectors: Vec<usize> = (0..content.len() / SECTOR).map(|sector| sector * SECTOR).collect();
    let places =
        if is_engine { sectors.iter().copied().filter(|at| is_filling(&content, *at)).collect() } else { sectors };
    match (kind, pick(&places, place)) {
        (Damage::Bit, _) | (_, None) => {
            let bit = if is_engine {
                let is_value =
                    |w: &[u8]| w[0] == b'c' && w[1].is_ascii_digit() && (w[2] == b'.' || w[2].is_ascii_digit());
                let values: Vec<usize> =
                    (0..content.len().saturating_sub(2)).filter(|at| is_value(&content[*at..at + 3])).collect();
                pick(&values, place)? as u64 * 8
            } else {
                place % (content.len() as u64 * 8).max(1)
            };
            disk.flip_bit(file, bit);
            Some(format!("bit {bit} turns"))
        }
        (Damage::LostSector, Some(at)) => {
            disk.overwrite(file, at, &[0; SECTOR]);
            Some(format!("the sector at {at} is lost"))
        }
        (Damage::StraySector, Some(at)) => {
            let from = (place >> 20) as usize % (content.len() / SECTOR).max(1) * SECTOR;
            disk.overwrite(file, at, &content[from..from + SECTOR]);
            Some(format!("the sector at {from} was written at {at}"))
        }
    }
}

/// Whether the sector at `at`, and those around it, hold nothing but the filling of a large value.
fn is_filling(content: &[u8], at: usize) -> bool {
    at >= SECTOR
        && content.get(at - SECTOR..at + 2 * SECTOR).is_some_and(|around| around.iter().all(|byte| *byte == b'.'))
}

fn pick(places: &[usize], place: u64) -> Option<usize> {
    places.get(place as usize % places.len().max(1)).copied()
}
