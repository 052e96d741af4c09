//! What a link says of a peer that it cannot reach: it dials twice a second, for as long as the peer is away.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long nothing more is said of the same cause.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// Causes that are remembered. A peer has a few URLs, and each a cause or two.
const CAUSES_MAX: usize = 16;

/// The causes that were said since there was a connection.
#[derive(Default)]
pub(super) struct Reported {
    /// When each was said last, and how often it has been there since. Without digits: some tell the time.
    causes: BTreeMap<String, (Instant, u64)>,
}

impl Reported {
    /// Whether it is to be said now; if so, how often it has not been since it was said last.
    pub(super) fn take(&mut self, words: &str) -> Option<u64> {
        let cause: String = words.chars().filter(|char| !char.is_ascii_digit()).collect();
        let now = Instant::now();
        if let Some((said, unsaid)) = self.causes.get_mut(&cause) {
            if now.duration_since(*said) < REPEAT_AFTER {
                *unsaid += 1;
                return None;
            }
            *said = now;
            return Some(std::mem::take(unsaid));
        }
        if self.causes.len() == CAUSES_MAX {
            self.causes.clear();
        }
        self.causes.insert(cause, (now, 0));
        Some(0)
    }

    /// There is a connection: what comes after it is news.
    pub(super) fn clear(&mut self) {
        self.causes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cause_is_said_once_a_minute() {
        let mut reported = Reported::default();
        let mut lines = Vec::new();
        for attempt in 0..241 {
            let words = format!("the certificate has expired {attempt} seconds ago");
            lines.extend(reported.take(&words).map(|unsaid| (attempt, unsaid)));
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert_eq!(lines, [(0, 0), (120, 119), (240, 119)], "every half second, for two minutes");
        assert_eq!(reported.take("connection refused"), Some(0), "another cause");
        assert_eq!(reported.take("the certificate has expired 1 seconds ago"), None);
        reported.clear();
        assert_eq!(reported.take("connection refused"), Some(0), "there was a connection meanwhile");
    }
}
