//! The parts of the process that no [`Env`](quorate_node::env::Env) reaches: libc's `getrandom`, from which `HashMap`
//! and tokio's scheduler draw their seeds, and the hash over everything that happened.
//!
//! One process runs one seed, so that nothing is left over from another.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// 0 until a seed is set: then the operating system answers.
static STATE: AtomicU64 = AtomicU64::new(0);

/// Makes every random number of this process a function of `seed`.
pub fn seed_process(seed: u64) {
    STATE.store(mix(seed) | 1, Ordering::SeqCst);
    quorate_node::env::seed_thread(Some(mix(seed ^ 0x6e6f_6465)));
}

/// SplitMix64's output function.
pub fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Stands before libc's function of this name in the whole process.
///
/// # Safety
/// `buffer` must be writable for `length` bytes, as for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    let mut state = STATE.load(Ordering::SeqCst);
    if state == 0 {
        // SAFETY: the caller's contract is that of the system call.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    }
    for place in 0..length {
        state = mix(state) | 1;
        // SAFETY: `place` is below `length`.
        unsafe { *buffer.add(place) = (state >> 32) as u8 };
    }
    STATE.store(state, Ordering::SeqCst);
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// FNV-1a, 64 bits, over all that happened. Two runs of one seed must end with the same number.
#[derive(Clone, Debug)]
pub struct TraceHash(u64);

impl Default for TraceHash {
    fn default() -> TraceHash {
        TraceHash(0xcbf2_9ce4_8422_2325)
    }
}

impl TraceHash {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Adds a number.
    pub fn add_u64(&mut self, number: u64) {
        self.add(&number.to_le_bytes());
    }

    /// The hash so far.
    pub fn value(&self) -> u64 {
        self.0
    }
}
