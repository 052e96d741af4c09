//! What a program that is sabotaged knows: which bug it has, and the random numbers for its rare paths.

use crate::{Bug, Rare};
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A bug's place in [`Bug::ALL`], plus one; 0 is none.
static CHOSEN: AtomicU16 = AtomicU16::new(0);

/// Which rare paths are taken at all; 0: none.
static RARE_SEED: AtomicU64 = AtomicU64::new(0);

/// Paths that are taken whenever they come, and those of them that were: a bit for each.
static ALWAYS: AtomicU32 = AtomicU32::new(0);
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// State of the random numbers.
static RARE_STATE: AtomicU64 = AtomicU64::new(0);

/// From now on the program has this bug, and no other.
pub fn choose(bug: Bug) {
    CHOSEN.store(bug as u16 + 1, Relaxed);
}

/// Whether this bug was chosen.
#[inline]
pub fn on(bug: Bug) -> bool {
    CHOSEN.load(Relaxed) == bug as u16 + 1
}

/// From now on rare paths are taken: a quarter of them about once in 50 times, another once in 4. Which and when, `seed` decides.
pub fn seed_rare_paths(seed: u64) {
    RARE_SEED.store(seed | 1, Relaxed);
    RARE_STATE.store(seed, Relaxed);
}

/// From now on these paths, and no others, are taken whenever they come.
pub fn always(paths: &[Rare]) {
    TAKEN.store(0, Relaxed);
    ALWAYS.store(paths.iter().fold(0, |bits, path| bits | bit(*path)), Relaxed);
}

/// Whether a path of those that [`always`] named last was taken since.
pub fn has_taken(path: Rare) -> bool {
    TAKEN.load(Relaxed) & bit(path) != 0
}

fn bit(path: Rare) -> u32 {
    1 << path as u16
}

/// Whether to take a rare path now.
pub fn rarely(path: Rare) -> bool {
    if ALWAYS.load(Relaxed) & bit(path) != 0 {
        TAKEN.fetch_or(bit(path), Relaxed);
        return true;
    }
    let seed = RARE_SEED.load(Relaxed);
    let one_in = match mix(seed ^ path as u64) % 4 {
        0 if seed != 0 => 50,
        1 if seed != 0 => 4,
        _ => return false,
    };
    let next = mix(RARE_STATE.load(Relaxed));
    RARE_STATE.store(next, Relaxed);
    next.is_multiple_of(one_in)
}

/// SplitMix64's output function.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
