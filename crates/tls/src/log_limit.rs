//! Keeps those who are rejected from filling the log: a member whose certificate has expired dials twice a second, for days.

use crate::handshake::HandshakeError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Lines about all who are rejected.
const LINES_PER_SECOND_MAX: u32 = 10;

/// How long nothing more is said of somebody who is rejected for the same cause.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// Who is remembered. Of more at a time, each is said, as far as the lines of a second go.
const REMEMBERED_MAX: usize = 1024;

#[derive(Default)]
pub(crate) struct LogLimit(Mutex<LogState>);

#[derive(Default)]
struct LogState {
    second: Option<Instant>,
    lines: u32,
    unsaid: u64,
    /// When who, with which cause, was said last, by hash.
    said: HashMap<u64, Instant>,
}

impl LogLimit {
    /// Whether there may be another line now; if so, how many there might have been since the last one.
    pub(crate) fn take(&self, from: Option<IpAddr>, error: &HandshakeError, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            (state.second, state.lines) = (Some(now), 0);
        }
        let cause = cause(from, error);
        let is_new = |said: &Instant| now.duration_since(*said) < REPEAT_AFTER;
        if state.lines == LINES_PER_SECOND_MAX || state.said.get(&cause).is_some_and(is_new) {
            state.unsaid += 1;
            return None;
        }
        if state.said.len() == REMEMBERED_MAX {
            state.said.retain(|_, said| is_new(said));
        }
        if state.said.len() < REMEMBERED_MAX || state.said.contains_key(&cause) {
            state.said.insert(cause, now);
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.unsaid))
    }
}

/// Who, and why, but for numbers: some causes tell the time.
fn cause(from: Option<IpAddr>, error: &HandshakeError) -> u64 {
    let mut hasher = DefaultHasher::new();
    let words: String = error.to_string().chars().filter(|char| !char.is_ascii_digit()).collect();
    (from, error.reason as u8, words).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::Reason;

    fn expired(after: u64) -> HandshakeError {
        HandshakeError::new(Reason::Expired, format!("the certificate has expired {after} seconds ago"))
    }

    fn address(number: u32) -> Option<IpAddr> {
        Some(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn those_who_are_rejected_do_not_fill_the_log() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let said = (0..100).filter(|from| limit.take(address(*from), &expired(1), start).is_some()).count();
        assert_eq!(said, LINES_PER_SECOND_MAX as usize);
        assert_eq!(limit.take(address(100), &expired(1), start + Duration::from_secs(1)), Some(90));
        assert_eq!(limit.take(address(101), &expired(1), start + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn who_is_rejected_again_and_again_is_said_once_a_minute() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let at = |half_seconds: u64| start + Duration::from_millis(500 * half_seconds);
        let lines: Vec<_> = (0..241).filter_map(|i| Some((i, limit.take(address(1), &expired(i), at(i))?))).collect();
        assert_eq!(lines, [(0, 0), (120, 119), (240, 119)], "every half second, for two minutes");
        // Another cause, and somebody else with the same cause, are said at once.
        let unknown = HandshakeError::new(Reason::UnknownIssuer, "nobody who is trusted has signed it");
        assert_eq!(limit.take(address(1), &unknown, at(241)), Some(0));
        assert_eq!(limit.take(address(2), &expired(241), at(241)), Some(0));
        assert_eq!(limit.take(None, &expired(241), at(241)), Some(0));
    }

    #[test]
    fn more_than_can_be_remembered_are_said_still() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let (many, mut said) = (2 * REMEMBERED_MAX as u32, 0);
        for from in 0..many {
            // Ten a second, so that it takes longer than a minute.
            let now = start + Duration::from_millis(100 * u64::from(from));
            said += u32::from(limit.take(address(from), &expired(1), now).is_some());
        }
        assert_eq!(said, many);
        assert!(limit.0.lock().said.len() <= REMEMBERED_MAX);
    }
}
