//! The parts of the process that no [`Env`](quorate_node::env::Env) reaches: libc's `getrandom`, from which `HashMap`
//! and tokio's scheduler draw their seeds, libc's `clock_gettime`, which crates ask that know of no other clock, libc's
//! `sched_getaffinity`, by which programs count the cores, and the hash over everything that happened.
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

/// The world's time in nanoseconds.
static CLOCK: AtomicU64 = AtomicU64::new(0);

/// From now on it is `now` for everybody who asks libc.
pub fn set_clock(now: std::time::Duration) {
    CLOCK.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
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

/// Seconds on the wall clock, and on all others, when the world begins.
const WALL_BEGIN: i64 = 1_700_000_000;
const UPTIME_BEGIN: i64 = 1_000_000;

/// Stands before libc's function of this name in the whole process.
///
/// # Safety
/// `out` must be writable, as for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> libc::c_int {
    if STATE.load(Ordering::SeqCst) == 0 {
        // SAFETY: the caller's contract is that of the system call.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) as libc::c_int };
    }
    let now = CLOCK.load(Ordering::SeqCst);
    let is_wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let begin = if is_wall { WALL_BEGIN } else { UPTIME_BEGIN };
    let now = libc::timespec { tv_sec: begin + (now / 1_000_000_000) as i64, tv_nsec: (now % 1_000_000_000) as i64 };
    // SAFETY: `out` is writable.
    unsafe { out.write(now) };
    0
}

/// Stands before libc's function of this name in the whole process: there is one core. What does as many things at once as there
/// are cores, such as verifying passwords on threads, does them one after the other, in the same order each time.
///
/// # Safety
/// `mask` must be writable for `size` bytes, as for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sched_getaffinity(
    process: libc::pid_t,
    size: usize,
    mask: *mut libc::cpu_set_t,
) -> libc::c_int {
    if STATE.load(Ordering::SeqCst) == 0 {
        // SAFETY: the caller's contract is that of the system call, which returns how much it has written.
        return unsafe { libc::syscall(libc::SYS_sched_getaffinity, process, size, mask).min(0) as libc::c_int };
    }
    // SAFETY: `mask` is writable for `size` bytes.
    unsafe {
        mask.cast::<u8>().write_bytes(0, size);
        mask.cast::<u8>().write(1);
    }
    0
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
